//! Weights on disk: a small header (magic, version, CRC32C) and a bincode body, as the history has. Weights
//! that cannot be read are dropped: a host learns its own anew.

use super::network::{HIDDEN, INPUTS, WEIGHTS};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"flgLSTM\0";
const VERSION: u32 = 1;
/// Magic 8, version 4, CRC32C 4; little-endian.
const HEADER_BYTES: usize = 16;
/// Far above what the weights take.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Body {
    inputs: u32,
    hidden: u32,
    weights: Vec<f32>,
}

/// The bytes to keep.
pub fn save(weights: &[f32]) -> Vec<u8> {
    let body = Body { inputs: INPUTS as u32, hidden: HIDDEN as u32, weights: weights.to_vec() };
    // Encoding to memory fails only for types this body does not have.
    let body = bincode::serde::encode_to_vec(&body, bincode::config::standard()).unwrap_or_default();
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// What `save` kept. `None`, and a line in the log, for anything else.
pub fn load(bytes: &[u8]) -> Option<Vec<f32>> {
    read(bytes).inspect_err(|why| log::warn!("weights of the lstm dropped: {why}")).ok()
}

fn read(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let header = bytes.get(..HEADER_BYTES).ok_or("shorter than their header")?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != MAGIC {
        return Err("not weights".into());
    }
    if word(8) != VERSION {
        return Err(format!("version {} (this program reads {VERSION})", word(8)));
    }
    let body = &bytes[HEADER_BYTES..];
    if crc32c::crc32c(body) != word(12) {
        return Err("checksum does not match".into());
    }
    let config = bincode::config::standard().with_limit::<BODY_BYTES_MAX>();
    let (body, used) = bincode::serde::decode_from_slice::<Body, _>(body, config)
        .map(|(parsed, used)| (parsed, used == body.len()))
        .map_err(|e| e.to_string())?;
    let fits = (body.inputs, body.hidden, body.weights.len()) == (INPUTS as u32, HIDDEN as u32, WEIGHTS);
    if !used || !fits {
        return Err("of another shape".into());
    }
    if body.weights.iter().any(|w| !w.is_finite()) {
        return Err("not all are numbers".into());
    }
    Ok(body.weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_nothing_else() {
        let weights: Vec<f32> = (0..WEIGHTS).map(|n| n as f32 / 7.0 - 9.0).collect();
        let saved = save(&weights);
        assert_eq!(load(&saved).as_ref(), Some(&weights));
        for n in (0..saved.len()).step_by(41) {
            assert_eq!(load(&saved[..n]), None);
            let mut bad = saved.clone();
            bad[n] ^= 4;
            assert_eq!(load(&bad), None, "byte {n}");
        }
        assert_eq!(load(&save(&weights[1..])), None);
        assert_eq!(load(&save(&[f32::NAN; WEIGHTS])), None);
    }
}

//! The history on disk: a small header (magic, version, length, CRC32C) and a bincode body. Programs
//! go by name; clients end with the gateway. What cannot be read is dropped: a history is never worth
//! refusing a mount.

use super::pattern::{PROGRAM_LIMITS, PROGRAM_SERIES_MAX, TOTAL_LIMITS};
use super::{Birth, Pattern, Programs, Series};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"flgHIST\0";
const VERSION: u32 = 1;
/// Magic 8, version 4, CRC32C 4, body length 8; little-endian.
const HEADER_BYTES: usize = 24;
/// Far above what the bounds on series allow.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Rebasing keeps 10 s buckets aligned.
const ALIGN_NS: i64 = 10_000_000_000;

#[derive(Serialize, Deserialize)]
struct Body {
    monotonic_ns: u64,
    wall_ns: i64,
    total: Series,
    programs: Vec<(String, Series)>,
    births: Vec<(String, u64)>,
}

impl Pattern {
    /// The bytes to keep. The two times are of now, by the same clock as the samples.
    pub fn save(&self, programs: &Programs, monotonic_ns: u64, wall_ns: i64) -> Vec<u8> {
        let name = |id: u32| programs.name(crate::types::ProgramId(id)).to_string();
        let body = Body {
            monotonic_ns,
            wall_ns,
            total: self.total.clone(),
            programs: self.programs().iter().map(|p| (name(p.0), self.programs[p].clone())).collect(),
            births: self.births.completed().map(|b| (name(b.program), b.bytes)).collect(),
        };
        // Encoding to memory fails only for types this body does not have.
        let body = bincode::serde::encode_to_vec(&body, bincode::config::standard()).unwrap_or_default();
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// What `save` kept, moved to this run's clock so that ages stay true across a restart. On damage or
    /// an unknown version: an empty history and the reason, for the log.
    pub fn load(
        bytes: &[u8],
        programs: &Programs,
        monotonic_ns: u64,
        wall_ns: i64,
    ) -> (Pattern, Option<String>) {
        match read(bytes).and_then(|body| rebased(body, programs, monotonic_ns, wall_ns)) {
            Ok(pattern) => (pattern, None),
            Err(why) => (Pattern::default(), Some(format!("write pattern history dropped: {why}"))),
        }
    }
}

fn read(bytes: &[u8]) -> Result<Body, String> {
    let header = bytes.get(..HEADER_BYTES).ok_or("shorter than its header")?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != MAGIC {
        return Err("not a history".into());
    }
    if word(8) != VERSION {
        return Err(format!("version {} (this program reads {VERSION})", word(8)));
    }
    let len = word(16) as u64 | (word(20) as u64) << 32;
    let body = &bytes[HEADER_BYTES..];
    if body.len() as u64 != len || body.len() > BODY_BYTES_MAX {
        return Err(format!("body is {} bytes, header says {len}", body.len()));
    }
    if crc32c::crc32c(body) != word(12) {
        return Err("checksum does not match".into());
    }
    let config = bincode::config::standard().with_limit::<BODY_BYTES_MAX>();
    let (parsed, used) =
        bincode::serde::decode_from_slice::<Body, _>(body, config).map_err(|e| e.to_string())?;
    if used == body.len() { Ok(parsed) } else { Err("trailing bytes".into()) }
}

fn rebased(mut body: Body, programs: &Programs, monotonic_ns: u64, wall_ns: i64) -> Result<Pattern, String> {
    // Time away by the wall clock; a clock set back counts as none.
    let away = wall_ns.saturating_sub(body.wall_ns).max(0);
    let shift = (monotonic_ns as i64).saturating_sub(body.monotonic_ns as i64).saturating_sub(away);
    // Downwards, so that nothing lands in the future.
    let shift = shift.div_euclid(ALIGN_NS).saturating_mul(ALIGN_NS);
    let mut sound = body.total.rebase(shift, &TOTAL_LIMITS);
    let mut pattern = Pattern::default();
    pattern.total = body.total;
    for (name, mut series) in body.programs.into_iter().take(PROGRAM_SERIES_MAX) {
        sound &= series.rebase(shift, &PROGRAM_LIMITS);
        pattern.programs.insert(programs.intern(&name), series);
    }
    let births = body.births.iter().map(|(n, bytes)| Birth { program: programs.intern(n).0, bytes: *bytes });
    pattern.births.restore(births);
    if sound { Ok(pattern) } else { Err("series out of order".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Resolution, Sample, Scope};
    use crate::types::{ClientId, How, InodeId};

    const SECOND: u64 = 1_000_000_000;

    fn sample(programs: &Programs) -> Pattern {
        let mut p = Pattern::default();
        for n in 0..60u32 {
            let program = programs.intern(["git", "tar"][n as usize % 2]);
            let (client, inode) = (ClientId(n), InodeId(2));
            let at_ns = 100 * SECOND + n as u64 * SECOND;
            p.absorb(&[Sample { at_ns, client, program, bytes: n + 1, inode, how: How::Write }], |_| ());
            p.births.complete(at_ns, |_, _| ());
        }
        p
    }

    #[test]
    fn comes_back_by_name_and_by_age() {
        let before = Programs::new();
        let saved = sample(&before).save(&before, 160 * SECOND, 1_000 * SECOND as i64);
        let after = Programs::new();
        after.intern("something else first");
        // 40 s later on the wall, on a clock that starts again: 20 s up.
        let (p, why) = Pattern::load(&saved, &after, 300 * SECOND, 1_040 * SECOND as i64);
        assert_eq!(why, None);
        let rows = p.window(Scope::Program(after.intern("git")), Resolution::S1, 0, i64::MAX);
        assert_eq!(rows.iter().map(|b| b.bytes).sum::<u64>(), (0..30).map(|n| 2 * n + 1).sum::<u64>());
        // Written last at 158, 42 s before the second start, which is 300 on the new clock.
        assert_eq!(rows.last().map(|b| b.at_ns / SECOND as i64), Some(258));
        assert_eq!(p.births.count(), 59);
        let (p, _) = Pattern::load(&saved, &after, 5 * SECOND, 1_000 * SECOND as i64);
        let rows = p.window(Scope::Total, Resolution::S1, i64::MIN, i64::MAX);
        assert_eq!((rows.len(), rows[59].at_ns / SECOND as i64), (60, 4 - 5));
    }

    #[test]
    fn truncations_and_flips_are_dropped_with_a_reason() {
        let programs = Programs::new();
        let saved = sample(&programs).save(&programs, 160 * SECOND, 0);
        for n in 0..saved.len() {
            let (p, why) = Pattern::load(&saved[..n], &programs, 0, 0);
            assert!(why.is_some() && p.births.count() == 0, "cut at {n}");
        }
        let mut bytes = saved.clone();
        for bit in 0..8 * saved.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Pattern::load(&bytes, &programs, 0, 0).1.is_some(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_forged_body_never_panics() {
        let programs = Programs::new();
        let saved = sample(&programs).save(&programs, 160 * SECOND, 0);
        for n in HEADER_BYTES..saved.len() {
            let mut bytes = saved.clone();
            bytes[n] = bytes[n].wrapping_add(101);
            let crc = crc32c::crc32c(&bytes[HEADER_BYTES..]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            let _ = Pattern::load(&bytes, &programs, u64::MAX, i64::MIN);
        }
        let mut old = saved;
        old[8] = 0;
        let (_, why) = Pattern::load(&old, &programs, 0, 0);
        assert!(why.is_some_and(|w| w.contains("version 0")));
    }
}

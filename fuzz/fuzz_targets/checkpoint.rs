//! Any bytes as the body of a checkpoint of each version, with the right length: no panic, no allocation beyond
//! what is there.
#![no_main]
use forelog::format::checkpoint::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode(bytes);
    let Some((&version, body)) = bytes.split_first() else { return };
    let mut whole = b"FORELOGC".to_vec();
    whole.extend_from_slice(&u32::from(version % 6).to_le_bytes());
    whole.extend_from_slice(&forelog::format::checksum::crc(body).to_le_bytes());
    whole.extend_from_slice(&(body.len() as u64).to_le_bytes());
    whole.extend_from_slice(body);
    if let Ok(c) = decode(&whole) {
        let again = encode(&c).expect("what was read can be written");
        assert_eq!(decode(&again), Ok(c));
    }
});

//! Any bytes as a record's header; and one that was written is read as it was.
#![no_main]
use forelog::format::frame::{Header, Place, predecessors};
use forelog::format::segment::VERSION;
use forelog::types::SegmentId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let generation = u32::from_le_bytes(std::array::from_fn(|i| bytes.get(16 + i).copied().unwrap_or(0)));
    let place = Place { version: VERSION, log: 7, segment: SegmentId(7), at: 4096 };
    let Ok(h) = Header::decode(&place, generation, bytes) else { return };
    let meta = &bytes[64..64 + h.meta_bytes as usize];
    let _ = predecessors(h.predecessors, meta).count();
    let again = h.encode(&place, meta);
    let whole = [&again[..], &bytes[64..]].concat();
    assert_eq!(Header::decode(&place, generation, &whole).ok(), Some(h));
});

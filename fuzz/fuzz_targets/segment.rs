//! Any bytes as a segment file: no panic, and what is found lies within it.
#![no_main]
use forelog::types::SegmentId;
use forelog::wal::scan::scan_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for known in [None, Some((1, u32::MAX)), Some((2, 4096))] {
        let s = scan_bytes(bytes, SegmentId(1), known, 7, &|_| true);
        for r in &s.records {
            assert!(r.record_at as usize + r.header.frame_bytes() <= bytes.len().next_multiple_of(64));
            assert_eq!(r.data.len(), r.header.data_bytes as usize);
        }
        assert!(s.records.windows(2).all(|w| w[0].record_at < w[1].record_at));
    }
});

//! CRC-32C (Castagnoli, RFC 3720 appendix B.4), by the CPU's instruction where it has one.

use crate::types::SegmentId;

/// CRC-32C of `bytes`.
pub fn crc(bytes: &[u8]) -> u32 {
    // A fuzzer would spend its life on guessing checksums.
    if cfg!(fuzzing) { 0 } else { crc32c::crc32c(bytes) }
}

/// Continues a CRC over more bytes.
pub fn crc_more(crc: u32, bytes: &[u8]) -> u32 {
    if cfg!(fuzzing) { 0 } else { crc32c::crc32c_append(crc, bytes) }
}

/// The start value for every CRC in a segment: seeded by its number and generation, so that a stale
/// record of a recycled file can never come back to life.
pub fn seed(segment: SegmentId, generation: u32) -> u32 {
    let mut b = [0u8; 8];
    b[..4].copy_from_slice(&segment.0.to_le_bytes());
    b[4..].copy_from_slice(&generation.to_le_bytes());
    crc32c::crc32c(&b)
}

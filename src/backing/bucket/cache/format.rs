//! Bytes of a cache file: records one after another, each behind a header with checksums, and behind the last one,
//! once the file is full, a table of them by which it is read at the next mount with one look. Nothing is ever
//! synced: what a power cut left is told by the checksums.

use crate::format::checksum::{crc, crc_more};
use crate::format::codec::{Reader, Writer};

const RECORD: u32 = u32::from_le_bytes(*b"FLC1");
const TABLE: u32 = u32::from_le_bytes(*b"FLT1");

/// Bytes of a record's header: magic, checksum of the rest, the file's number, name, length, checksum of the content.
pub const HEADER: usize = 40;
/// Bytes of what ends a file that is full: magic, entries, checksum of the table, the file's number, its own checksum.
pub const TAIL: usize = 24;
/// Bytes of one line of the table: name, offset, length, checksum.
pub const LINE: usize = 28;

/// Largest content of a record.
pub const CONTENT_MAX: u32 = 4 << 20;

/// Where a record's content is in its file, and how it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub name: u128,
    pub at: u32,
    pub len: u32,
    pub crc: u32,
}

/// Checksum of a content under its name: another's content does not pass for it.
pub fn content_crc(name: u128, content: &[u8]) -> u32 {
    crc_more(crc(&name.to_le_bytes()), content)
}

/// Header of a record in the file with this number.
pub fn header(file: u64, name: u128, content: &[u8]) -> [u8; HEADER] {
    let mut rest = Vec::with_capacity(HEADER);
    let mut w = Writer(&mut rest);
    w.u64(file);
    w.0.extend_from_slice(&name.to_le_bytes());
    w.u32(content.len() as u32);
    w.u32(content_crc(name, content));
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&RECORD.to_le_bytes());
    out[4..8].copy_from_slice(&crc(&rest).to_le_bytes());
    out[8..].copy_from_slice(&rest);
    out
}

/// The record whose header is at `at`; `None`: none is there.
pub fn read_header(file: u64, at: u32, bytes: &[u8; HEADER]) -> Option<Spot> {
    let mut r = Reader::new(bytes, "record");
    if r.u32().ok()? != RECORD || r.u32().ok()? != crc(&bytes[8..]) || r.u64().ok()? != file {
        return None;
    }
    let name = name_of(&mut r)?;
    let (len, crc) = (r.u32().ok()?, r.u32().ok()?);
    (len <= CONTENT_MAX).then_some(Spot { name, at: at.checked_add(HEADER as u32)?, len, crc })
}

fn name_of(r: &mut Reader<'_>) -> Option<u128> {
    let (low, high) = (r.u64().ok()?, r.u64().ok()?);
    Some(u128::from(low) | u128::from(high) << 64)
}

/// The table of a full file, with its end.
pub fn table(file: u64, spots: &[Spot]) -> Vec<u8> {
    let mut out = Vec::with_capacity(spots.len() * LINE + TAIL);
    for s in spots {
        let mut w = Writer(&mut out);
        w.0.extend_from_slice(&s.name.to_le_bytes());
        w.u32(s.at);
        w.u32(s.len);
        w.u32(s.crc);
    }
    let sum = crc(&out);
    let start = out.len();
    let mut w = Writer(&mut out);
    w.u32(TABLE);
    w.u32(spots.len() as u32);
    w.u32(sum);
    w.u64(file);
    let own = crc(&out[start..]);
    Writer(&mut out).u32(own);
    out
}

/// Lines of the table that ends like this, and its checksum; `None`: the file ends otherwise.
pub fn read_tail(file: u64, bytes: &[u8; TAIL]) -> Option<(usize, u32)> {
    let mut r = Reader::new(bytes, "tail");
    let (magic, lines, sum) = (r.u32().ok()?, r.u32().ok()?, r.u32().ok()?);
    let fits = magic == TABLE && r.u64().ok()? == file && r.u32().ok()? == crc(&bytes[..TAIL - 4]);
    fits.then_some((lines as usize, sum))
}

/// The table itself; `None`: it is damaged, or a line lies beyond `end`.
pub fn read_table(bytes: &[u8], sum: u32, end: u64) -> Option<Vec<Spot>> {
    if crc(bytes) != sum || !bytes.len().is_multiple_of(LINE) {
        return None;
    }
    let mut r = Reader::new(bytes, "table");
    (0..bytes.len() / LINE)
        .map(|_| {
            let name = name_of(&mut r)?;
            let s = Spot { name, at: r.u32().ok()?, len: r.u32().ok()?, crc: r.u32().ok()? };
            (s.len <= CONTENT_MAX && u64::from(s.at) + u64::from(s.len) <= end).then_some(s)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let h = header(7, 1 << 100 | 5, b"content");
        let s = read_header(7, 100, &h).unwrap();
        assert_eq!((s.name, s.at, s.len), (1 << 100 | 5, 140, 7));
        assert_eq!(s.crc, content_crc(s.name, b"content"));
        assert_ne!(s.crc, content_crc(s.name + 1, b"content"), "another's content does not pass");
        assert!(read_header(8, 100, &h).is_none(), "nor does another file's record");
        let t = table(9, &[s, s]);
        let tail: [u8; TAIL] = t[t.len() - TAIL..].try_into().unwrap();
        let (n, sum) = read_tail(9, &tail).unwrap();
        assert_eq!(n, 2);
        assert_eq!(read_table(&t[..n * LINE], sum, 147).unwrap(), [s, s]);
        assert!(read_table(&t[..n * LINE], sum, 146).is_none(), "beyond the end");
        assert!(read_tail(8, &tail).is_none());
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let h = header(7, 3, b"content");
        let t = table(9, &[read_header(7, 0, &h).unwrap()]);
        let tail: [u8; TAIL] = t[LINE..].try_into().unwrap();
        for bit in 0..HEADER * 8 {
            let mut bad = h;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_header(7, 0, &bad).is_none(), "bit {bit} of a header");
        }
        for bit in 0..TAIL * 8 {
            let mut bad = tail;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_tail(9, &bad).is_none(), "bit {bit} of a tail");
        }
        let (_, sum) = read_tail(9, &tail).unwrap();
        for bit in 0..LINE * 8 {
            let mut bad = t[..LINE].to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_table(&bad, sum, 1 << 20).is_none(), "bit {bit} of a table");
        }
    }
}

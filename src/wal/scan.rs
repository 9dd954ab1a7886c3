//! Reading segments back: every valid record, and what stands between them.

use crate::format::frame::{self, ALIGN, Header};
use crate::format::segment::{RECORDS_AT, SegmentHeader};
use crate::sys::disk::DiskFile;
use crate::types::{Lsn, SegmentId};
use std::io;

/// One record found in a segment. Its header and meta are sound.
pub struct Found {
    pub header: Header,
    pub record_at: u32,
    pub predecessors: Vec<Lsn>,
    /// The mutation's fields.
    pub body: Vec<u8>,
    /// The data part, if asked for.
    pub data: Vec<u8>,
    /// The data part has the right checksum.
    pub data_sound: bool,
}

/// A range of a segment that holds neither a record nor free space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: SegmentId,
    pub start: u32,
    pub end: u32,
    pub what: String,
}

/// What `Damage` says of a stretch in which no record begins, though it was durable.
pub const HEADER_LOST: &str = "record header";

/// All that a segment holds.
pub struct Scan {
    pub header: Option<SegmentHeader>,
    pub records: Vec<Found>,
    /// Certain damage: below a position that was durable.
    pub damage: Vec<Damage>,
    /// Invalid stretches that were never durable: a torn tail, which is normal after a power cut.
    pub torn: u32,
    /// End of the last record.
    pub end: u32,
    /// Generations and LSNs of valid records of other generations: left over from before, or from a time that a
    /// power cut undid. Their numbers must not be given out again.
    pub strays: Vec<(u32, Lsn)>,
}

/// Scans a segment. `known` is what the checkpoint says of it: generation and durable position.
/// `keep_data` tells of which kinds of record the data part is wanted.
pub fn scan(
    file: &dyn DiskFile,
    id: SegmentId,
    known: Option<(u32, u32)>,
    keep_data: &dyn Fn(u8) -> bool,
) -> io::Result<Scan> {
    let size = file.len()?;
    let mut bytes = vec![0u8; size.min(1 << 30) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(scan_bytes(&bytes, id, known, keep_data))
}

/// As `scan`, over bytes in memory.
pub fn scan_bytes(
    bytes: &[u8],
    id: SegmentId,
    known: Option<(u32, u32)>,
    keep_data: &dyn Fn(u8) -> bool,
) -> Scan {
    let header = SegmentHeader::decode(bytes).ok().filter(|h| h.id == id);
    let mut out = Scan {
        header,
        records: Vec::new(),
        damage: Vec::new(),
        torn: 0,
        end: RECORDS_AT as u32,
        strays: Vec::new(),
    };
    // A damaged header does not take the records with it: each carries its generation.
    let generation = match (header, known) {
        (Some(h), _) => h.generation,
        (None, Some((g, _))) => g,
        (None, None) => match newest_generation(bytes, id) {
            Some(g) => g,
            None => {
                let mut at = RECORDS_AT;
                while at + frame::HEADER_BYTES <= bytes.len() {
                    stray(bytes, at, id, &mut out.strays);
                    at += ALIGN;
                }
                return out;
            }
        },
    };
    let mut durable = known.filter(|k| k.0 == generation).map_or(0, |k| k.1);
    if header.is_none() && durable > RECORDS_AT as u32 {
        out.damage.push(damage(id, 0, RECORDS_AT, "segment header"));
    }
    let mut gaps: Vec<(usize, usize)> = Vec::new();
    let mut at = RECORDS_AT;
    let mut gap_from = at;
    while at + frame::HEADER_BYTES <= bytes.len() {
        match Header::decode(id, generation, &bytes[at..]) {
            Ok(h) => {
                if gap_from < at {
                    gaps.push((gap_from, at));
                }
                durable = durable.max(h.durable);
                out.records.push(found(&h, bytes, at, id, keep_data));
                at += h.frame_bytes();
                gap_from = at;
                out.end = at.min(bytes.len()) as u32;
            }
            Err(_) => {
                // Not past all of it: where it lay, newer records may lie whose first header is torn.
                stray(bytes, at, id, &mut out.strays);
                at += ALIGN;
            }
        }
    }
    // The stretch behind the last record is damage only as far as it was durable.
    if (durable as usize) > gap_from {
        gaps.push((gap_from, durable as usize));
        out.end = out.end.max(durable);
    }
    for (start, end) in gaps {
        if start < durable as usize {
            out.damage.push(damage(id, start, end.min(durable as usize), HEADER_LOST));
        } else {
            out.torn += (end - start) as u32;
        }
    }
    for r in &out.records {
        let end = r.record_at as usize + r.header.frame_bytes();
        if !r.data_sound {
            if end <= durable as usize {
                out.damage.push(damage(
                    id,
                    r.record_at as usize,
                    end,
                    &format!("data of record {}", r.header.lsn),
                ));
            } else {
                out.torn += r.header.frame_bytes() as u32;
            }
        }
    }
    out
}

fn damage(segment: SegmentId, start: usize, end: usize, what: &str) -> Damage {
    Damage { segment, start: start as u32, end: end as u32, what: what.to_owned() }
}

fn found(h: &Header, bytes: &[u8], at: usize, id: SegmentId, keep_data: &dyn Fn(u8) -> bool) -> Found {
    let meta = &bytes[at + frame::HEADER_BYTES..at + h.data_at()];
    let data = &bytes[at + h.data_at()..at + h.data_at() + h.data_bytes as usize];
    let split = h.predecessors as usize * 8;
    Found {
        header: *h,
        record_at: at as u32,
        predecessors: frame::predecessors(h.predecessors, meta).collect(),
        body: meta[split..].to_vec(),
        data: if keep_data(h.kind) { data.to_vec() } else { Vec::new() },
        data_sound: frame::data_crc(id, h.generation, data) == h.data_crc,
    }
}

/// Notes a record of whatever generation at `at`, if there is one.
fn stray(bytes: &[u8], at: usize, id: SegmentId, out: &mut Vec<(u32, Lsn)>) {
    let g = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + 16 + i]));
    let Ok(h) = Header::decode(id, g, &bytes[at..]) else { return };
    match out.iter_mut().find(|s| s.0 == g) {
        Some(s) => s.1 = s.1.max(h.lsn),
        None => out.push((g, h.lsn)),
    }
}

/// The newest generation of which a valid record is found; for a segment whose header is lost.
fn newest_generation(bytes: &[u8], id: SegmentId) -> Option<u32> {
    let mut best = None;
    let mut at = RECORDS_AT;
    while at + frame::HEADER_BYTES <= bytes.len() {
        let g = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + 16 + i]));
        if Some(g) > best && Header::decode(id, g, &bytes[at..]).is_ok() {
            best = Some(g);
        }
        at += ALIGN;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::data_crc;

    const ID: SegmentId = SegmentId(3);

    fn put(bytes: &mut [u8], at: usize, generation: u32, lsn: u64, data: &[u8]) -> usize {
        let head = Header {
            lsn: Lsn(lsn),
            generation,
            pid: 1,
            start: 1,
            kind: 3,
            predecessors: 0,
            meta_bytes: 8,
            data_bytes: data.len() as u32,
            data_crc: data_crc(ID, generation, data),
            durable: 0,
            wall_ns: 0,
        };
        let meta = [7; 8];
        bytes[at..at + 64].copy_from_slice(&head.encode(ID, &meta));
        bytes[at + 64..at + 72].copy_from_slice(&meta);
        bytes[at + 72..at + 72 + data.len()].copy_from_slice(data);
        at + head.frame_bytes()
    }

    /// A power cut kept the old sector where a record begins: an old record's header stands there still, and
    /// newer records lie in what it covers. They were overlooked, and their numbers given out again.
    #[test]
    fn what_an_old_record_covers_is_looked_at() {
        let mut bytes = vec![0u8; 64 << 10];
        put(&mut bytes, RECORDS_AT, 1, 10, &[1; 20 << 10]);
        let old: Vec<u8> = bytes[RECORDS_AT..RECORDS_AT + 512].to_vec();
        let head = SegmentHeader { id: ID, generation: 2, size: bytes.len() as u64, log: 7 };
        bytes[..head.encode().len()].copy_from_slice(&head.encode());
        let second = put(&mut bytes, RECORDS_AT, 2, 20, &[2; 8 << 10]);
        put(&mut bytes, second, 2, 21, &[3; 100]);
        bytes[RECORDS_AT..RECORDS_AT + 512].copy_from_slice(&old);
        let s = scan_bytes(&bytes, ID, None, &|_| true);
        assert_eq!(s.records.iter().map(|r| r.header.lsn.0).collect::<Vec<_>>(), [21]);
        assert_eq!(s.strays, [(1, Lsn(10))]);
        assert!(s.damage.is_empty(), "it never was durable");
    }
}

//! Reading segments back: every valid record, and what stands between them.

use crate::format::frame::{self, ALIGN, Header, Place};
use crate::format::segment::{RECORDS_AT, SegmentHeader, UNTAGGED, VERSION};
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
    /// One bit, which is put right whenever it is read: nothing is lost.
    pub mended: bool,
}

/// Most places in a segment at which a flipped bit is looked for: a failing disk flips a few, but a program can write
/// what begins like records all over its file.
const MENDS_MAX: usize = 64;

/// What `Damage` says of a stretch in which no record begins, though it was durable.
pub const HEADER_LOST: &str = "record header";

/// All that a segment holds.
pub struct Scan {
    pub header: Option<SegmentHeader>,
    /// Format version of the records.
    pub version: u32,
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

/// Scans a segment. `known` is what the checkpoint says of it: generation and durable position; `log` the log
/// that it is taken to belong to when its header is lost.
/// `keep_data` tells of which kinds of record the data part is wanted.
pub fn scan(
    file: &dyn DiskFile,
    id: SegmentId,
    known: Option<(u32, u32)>,
    log: u128,
    keep_data: &dyn Fn(u8) -> bool,
) -> io::Result<Scan> {
    let size = file.len()?;
    let mut bytes = vec![0u8; size.min(1 << 30) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(scan_bytes(&bytes, id, known, log, keep_data))
}

/// As `scan`, over bytes in memory.
pub fn scan_bytes(
    bytes: &[u8],
    id: SegmentId,
    known: Option<(u32, u32)>,
    log: u128,
    keep_data: &dyn Fn(u8) -> bool,
) -> Scan {
    let header = SegmentHeader::decode(bytes).ok().filter(|h| h.id == id);
    let log = header.map_or(log, |h| h.log);
    let place = |version: u32, at: usize| Place { version, log, segment: id, at: at as u32 };
    let mut out = Scan {
        header,
        version: header.map_or(VERSION, |h| h.version),
        records: Vec::new(),
        damage: Vec::new(),
        torn: 0,
        end: RECORDS_AT as u32,
        strays: Vec::new(),
    };
    // A damaged header does not take the records with it: each carries its generation.
    let newest = if header.is_none() { newest_generation(bytes, &place) } else { None };
    out.version = newest.map_or(out.version, |n| n.1);
    let generation = match (header, known) {
        (Some(h), _) => h.generation,
        (None, Some((g, _))) => g,
        (None, None) => match newest {
            Some((g, _)) => g,
            None => {
                let mut at = RECORDS_AT;
                while at + frame::HEADER_BYTES <= bytes.len() {
                    stray(bytes, at, &place, &mut out.strays);
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
    let mut mends = MENDS_MAX;
    while at + frame::HEADER_BYTES <= bytes.len() {
        match Header::decode(&place(out.version, at), generation, &bytes[at..]) {
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
            Err(_)
                if !is_intact(bytes, at, &place)
                    && mend(
                        bytes,
                        at,
                        &place(out.version, at),
                        generation,
                        &mut out,
                        keep_data,
                        &mut mends,
                    ) =>
            {
                if gap_from < at {
                    gaps.push((gap_from, at));
                }
                if let Some(r) = out.records.last() {
                    durable = durable.max(r.header.durable);
                    at += r.header.frame_bytes();
                }
                gap_from = at;
                out.end = at.min(bytes.len()) as u32;
            }
            Err(_) => {
                // Not past all of it: where it lay, newer records may lie whose first header is torn.
                stray(bytes, at, &place, &mut out.strays);
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
    Damage { segment, start: start as u32, end: end as u32, what: what.to_owned(), mended: false }
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

/// Whether a whole record of another generation stands there.
fn is_intact(bytes: &[u8], at: usize, place: &dyn Fn(u32, usize) -> Place) -> bool {
    Header::decode(&place(VERSION, at), generation_at(bytes, at), &bytes[at..]).is_ok()
}

/// Takes in a record of which one bit has flipped. False: there is none.
fn mend(
    bytes: &[u8],
    at: usize,
    place: &Place,
    generation: u32,
    out: &mut Scan,
    keep_data: &dyn Fn(u8) -> bool,
    mends: &mut usize,
) -> bool {
    if *mends == 0 || !frame::begins_like_one(&bytes[at..]) {
        return false;
    }
    *mends -= 1;
    let mut own = bytes[at..].to_vec();
    let Some(h) = Header::decode_mended(place, generation, &mut own) else { return false };
    let mut r = found(&h, &own, 0, place.segment, keep_data);
    r.record_at = at as u32;
    let end = at + h.frame_bytes();
    out.damage.push(Damage {
        mended: true,
        ..damage(place.segment, at, end, &format!("one bit of record {}, put right when it is read", h.lsn))
    });
    out.records.push(r);
    true
}

/// Notes a record of whatever generation at `at`, if there is one.
fn stray(bytes: &[u8], at: usize, place: &dyn Fn(u32, usize) -> Place, out: &mut Vec<(u32, Lsn)>) {
    let g = generation_at(bytes, at);
    let decode = |version| Header::decode(&place(version, at), g, &bytes[at..]).ok();
    let Some(h) = decode(VERSION).or_else(|| decode(UNTAGGED)) else { return };
    match out.iter_mut().find(|s| s.0 == g) {
        Some(s) => s.1 = s.1.max(h.lsn),
        None => out.push((g, h.lsn)),
    }
}

/// What the place of a record's generation holds.
fn generation_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + frame::GENERATION_AT + i]))
}

/// The newest generation of which a valid record is found, and its version; for a segment whose header is lost. A
/// record without a tag counts only where none with one is: anyone can write such bytes into a file.
fn newest_generation(bytes: &[u8], place: &dyn Fn(u32, usize) -> Place) -> Option<(u32, u32)> {
    let newest = |version| {
        let places = (RECORDS_AT..).step_by(ALIGN).take_while(|at| at + frame::HEADER_BYTES <= bytes.len());
        let valid = places.filter_map(|at| {
            let g = generation_at(bytes, at);
            Header::decode(&place(version, at), g, &bytes[at..]).is_ok().then_some(g)
        });
        valid.max().map(|g| (g, version))
    };
    newest(VERSION).or_else(|| newest(UNTAGGED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::data_crc;

    const ID: SegmentId = SegmentId(3);
    const LOG: u128 = 7;

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
        let place = Place { version: VERSION, log: LOG, segment: ID, at: at as u32 };
        bytes[at..at + 64].copy_from_slice(&head.encode(&place, &meta));
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
        let head =
            SegmentHeader { id: ID, generation: 2, size: bytes.len() as u64, log: LOG, version: VERSION };
        bytes[..head.encode().len()].copy_from_slice(&head.encode());
        let second = put(&mut bytes, RECORDS_AT, 2, 20, &[2; 8 << 10]);
        put(&mut bytes, second, 2, 21, &[3; 100]);
        bytes[RECORDS_AT..RECORDS_AT + 512].copy_from_slice(&old);
        let s = scan_bytes(&bytes, ID, None, LOG, &|_| true);
        assert_eq!(s.records.iter().map(|r| r.header.lsn.0).collect::<Vec<_>>(), [21]);
        assert_eq!(s.strays, [(1, Lsn(10))]);
        assert!(s.damage.is_empty(), "it never was durable");
    }

    /// A program can write anything into its file: also what would pass for a record where the scan looks for one.
    #[test]
    fn no_data_of_a_program_passes_for_a_record() {
        let whole = {
            let mut b = vec![0u8; 64 << 10];
            let head =
                SegmentHeader { id: ID, generation: 2, size: b.len() as u64, log: LOG, version: VERSION };
            b[..head.encode().len()].copy_from_slice(&head.encode());
            b
        };
        let mut other = whole.clone();
        let end = put(&mut other, RECORDS_AT, 2, 20, &[2; 200]);
        // The data: records as this log writes them, of another place; of another log; of the version without tags.
        let mut data = vec![0u8; 120];
        data.extend_from_slice(&other[RECORDS_AT..end]);
        for (log, version) in [(LOG + 1, VERSION), (LOG, UNTAGGED), (0, VERSION)] {
            let at = RECORDS_AT + 64 + 8 + data.len();
            let forged = Header {
                lsn: Lsn(99),
                ..Header::decode(
                    &Place { version: VERSION, log: LOG, segment: ID, at: RECORDS_AT as u32 },
                    2,
                    &other[RECORDS_AT..],
                )
                .expect("just put")
            };
            data.extend_from_slice(
                &forged.encode(&Place { version, log, segment: ID, at: at as u32 }, &[7; 8]),
            );
            data.resize(data.len().next_multiple_of(64) + 56 + 256, 0);
        }
        for header_lost in [false, true] {
            let mut bytes = whole.clone();
            let end = put(&mut bytes, RECORDS_AT, 2, 20, &data);
            put(&mut bytes, end, 2, 21, &[1; 10]);
            bytes[RECORDS_AT + 9] ^= 0xff;
            if header_lost {
                bytes[..SegmentHeader { id: ID, generation: 2, size: 0, log: 0, version: 0 }.encode().len()]
                    .fill(0);
            }
            let s = scan_bytes(&bytes, ID, Some((2, end as u32)), LOG, &|_| true);
            assert_eq!(s.records.iter().map(|r| r.header.lsn.0).collect::<Vec<_>>(), [21], "{header_lost}");
            assert_eq!(s.damage.len(), 1 + header_lost as usize);
            assert_eq!(s.strays, []);
        }
    }
}

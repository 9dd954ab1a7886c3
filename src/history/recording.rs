//! A trace on disk: `magic 8 | version u32`, then blocks of `length u32 | crc32c u32 | bincode of events`, all
//! little-endian. No payload, no names: programs and clients are numbers in order of appearance, a file is 32 bits of a
//! hash with a key that is thrown away. A block is whole or not there: what a killed recorder left can be read.

use super::Sample;
use crate::types::{ClientId, How, InodeId, ProgramId};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use std::collections::HashMap;
use std::hash::Hasher;
use std::io::{self, Write};

/// How a recording begins.
pub const MAGIC: [u8; 8] = *b"flgTRACE";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;
/// Events of a block: it is written when it has so many, or at `flush`.
const EVENTS_MAX: usize = 4096;
/// Largest block: an event takes at most 35 bytes.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Stands for samples that came too fast to be recorded; `bytes` counts them.
const LOST: u8 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Event {
    /// Since the event before, microseconds.
    after_us: u64,
    how: u8,
    client: u32,
    program: u32,
    bytes: u32,
    /// Hash of the inode.
    file: u32,
}

/// Writes a recording.
pub struct Recorder<W: Write> {
    out: W,
    key: (u64, u64),
    last_us: Option<u64>,
    clients: HashMap<ClientId, u32>,
    programs: HashMap<ProgramId, u32>,
    block: Vec<Event>,
}

/// What a recording holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub samples: Vec<Sample>,
    /// Samples that were made but not recorded.
    pub lost: u64,
    /// Bytes at the end that are not a whole block: the recorder was killed.
    pub torn_bytes: usize,
}

fn number<K: Eq + std::hash::Hash>(of: &mut HashMap<K, u32>, key: K) -> u32 {
    let next = of.len() as u32;
    *of.entry(key).or_insert(next)
}

impl<W: Write> Recorder<W> {
    /// Begins a recording. `key` hides which file is which; it is not kept.
    pub fn new(mut out: W, key: u128) -> io::Result<Recorder<W>> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        Ok(Recorder {
            out,
            key: (key as u64, (key >> 64) as u64),
            last_us: None,
            clients: HashMap::new(),
            programs: HashMap::new(),
            block: Vec::new(),
        })
    }

    fn since(&mut self, at_ns: u64) -> u64 {
        let at_us = at_ns / 1000;
        let last = self.last_us.unwrap_or(at_us);
        // A sample that arrives late is placed at the one before.
        self.last_us = Some(at_us.max(last));
        at_us.saturating_sub(last)
    }

    fn push(&mut self, e: Event) -> io::Result<()> {
        self.block.push(e);
        if self.block.len() >= EVENTS_MAX { self.end_block() } else { Ok(()) }
    }

    /// Appends a sample.
    pub fn add(&mut self, s: &Sample) -> io::Result<()> {
        let mut hash = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hash.write_u64(s.inode.0);
        let event = Event {
            after_us: self.since(s.at_ns),
            how: s.how as u8,
            client: number(&mut self.clients, s.client),
            program: number(&mut self.programs, s.program),
            bytes: s.bytes,
            file: hash.finish() as u32,
        };
        self.push(event)
    }

    /// Notes that so many samples are missing here.
    pub fn add_lost(&mut self, count: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let bytes = count.min(u32::MAX as u64) as u32;
        self.push(Event { after_us: 0, how: LOST, client: 0, program: 0, bytes, file: 0 })
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let body = bincode::serde::encode_to_vec(&self.block, bincode::config::standard())
            .map_err(io::Error::other)?;
        self.block.clear();
        self.out.write_all(&(body.len() as u32).to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        self.out.write_all(&body)
    }

    /// Writes what is still held, and flushes.
    pub fn flush(&mut self) -> io::Result<()> {
        self.end_block()?;
        self.out.flush()
    }

    /// Ends the recording: gives the writer back, with all written.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_block()?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads a recording. Errors: one line, what is wrong where.
pub fn read(bytes: &[u8]) -> Result<Recording, String> {
    let header = bytes.get(..HEADER_BYTES).ok_or("shorter than its header")?;
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    if header[..8] != MAGIC {
        return Err("not a recording".into());
    }
    if word(&header[8..]) != VERSION {
        return Err(format!("version {} (this program reads {VERSION})", word(&header[8..])));
    }
    let mut out = Recording::default();
    let (mut at, mut now_us) = (HEADER_BYTES, 0u64);
    while at < bytes.len() {
        let Some(head) = bytes.get(at..at + 8) else { break };
        let len = word(head) as usize;
        if len > BLOCK_BYTES_MAX {
            return Err(format!("damaged at byte {at}: a block of {len} bytes"));
        }
        let Some(body) = bytes.get(at + 8..at + 8 + len) else { break };
        if crc32c::crc32c(body) != word(&head[4..]) {
            return Err(format!("damaged at byte {at}: the checksum does not match"));
        }
        let config = bincode::config::standard().with_limit::<{ 16 * BLOCK_BYTES_MAX }>();
        let (events, used) = bincode::serde::decode_from_slice::<Vec<Event>, _>(body, config)
            .map_err(|e| format!("damaged at byte {at}: {e}"))?;
        if used != len {
            return Err(format!("damaged at byte {at}: bytes left over"));
        }
        for e in events {
            now_us = now_us.checked_add(e.after_us).ok_or("times beyond all bounds")?;
            let at_ns = now_us.checked_mul(1000).ok_or("times beyond all bounds")?;
            if e.how == LOST {
                out.lost += e.bytes as u64;
                continue;
            }
            out.samples.push(Sample {
                at_ns,
                client: ClientId(e.client),
                program: ProgramId(e.program.saturating_add(1)),
                bytes: e.bytes,
                inode: InodeId(e.file as u64),
                how: How::from_number(e.how as u32).ok_or_else(|| format!("an unknown event {}", e.how))?,
            });
        }
        at += 8 + len;
    }
    out.torn_bytes = bytes.len() - at;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(n: u64) -> Sample {
        let how = [How::Write, How::Open, How::Fsync][n as usize % 3];
        let bytes = if how == How::Write { 4096 } else { 0 };
        let (client, program) = (ClientId(70 + n as u32 % 5), ProgramId(9 - n as u32 % 2));
        Sample {
            at_ns: 5_000_000 + n * 70_000,
            client,
            program,
            bytes,
            inode: InodeId((1 << 40) + n % 7),
            how,
        }
    }

    fn recorded(n: u64) -> Vec<u8> {
        let mut r = Recorder::new(Vec::new(), 5).expect("to memory");
        (0..n).for_each(|i| r.add(&sample(i)).expect("to memory"));
        r.add_lost(3).expect("to memory");
        r.finish().expect("to memory")
    }

    #[test]
    fn keeps_times_sizes_and_who_is_who_but_no_inode_numbers() {
        let bytes = recorded(10_000);
        let r = read(&bytes).expect("sound");
        assert_eq!((r.samples.len(), r.lost, r.torn_bytes), (10_000, 3, 0));
        for (i, s) in r.samples.iter().enumerate() {
            let was = sample(i as u64);
            assert_eq!((s.at_ns, s.bytes, s.how), (was.at_ns - 5_000_000, was.bytes, was.how));
            assert_eq!(s.client.0, i as u32 % 5);
            assert_eq!(s.program.0, 1 + i as u32 % 2);
            assert_eq!(s.inode, r.samples[i % 7].inode);
            assert!(s.inode.0 < 1 << 32);
        }
        assert!(bytes.len() < 10_000 * 14, "{} bytes", bytes.len());
    }

    #[test]
    fn a_cut_end_is_left_out_and_damage_is_told() {
        let bytes = recorded(9000);
        let cut = read(&bytes[..bytes.len() - 1]).expect("all but the last block");
        assert_eq!(cut.samples.len(), 2 * EVENTS_MAX);
        assert!(cut.torn_bytes > 0);
        let mut bad = bytes.clone();
        bad[100] ^= 1;
        assert!(read(&bad).expect_err("damaged").contains("checksum"));
        bad = bytes;
        bad[8] = 2;
        assert!(read(&bad).expect_err("newer").contains("version 2"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), mend in any::<bool>()) {
            if mend && bytes.len() > 20 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
                let len = bytes.len() as u32 - 20;
                bytes[12..16].copy_from_slice(&len.to_le_bytes());
                let crc = crc32c::crc32c(&bytes[20..]);
                bytes[16..20].copy_from_slice(&crc.to_le_bytes());
            }
            drop(read(&bytes));
        }
    }
}

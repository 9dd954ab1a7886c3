//! Recorded writes: what `trace record` made, or a CSV of `t_us,pid,comm,bytes` or `t_us,client,bytes`; plain or gzipped.

use crate::history::{Programs, Sample, recording};
use crate::types::{ClientId, How, InodeId, ProgramId};
use std::collections::{HashMap, HashSet};
use std::io::Read;

/// Unpacked size at which a file is refused.
const BYTES_MAX: u64 = 2 << 30;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Writes in order of time, the first at 0.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub samples: Vec<Sample>,
    /// Distinct programs (clients, where the trace has no programs).
    pub programs: usize,
    /// Rows left out: a negative size is the return value of a call that failed and wrote nothing.
    pub failed_writes: u64,
    /// Events that the recorder missed.
    pub lost: u64,
}

/// Where the columns are.
struct Columns {
    time: usize,
    client: usize,
    program: Option<usize>,
    bytes: usize,
}

impl Trace {
    /// From samples of any source; times may start anywhere.
    pub fn from_samples(mut samples: Vec<Sample>) -> Trace {
        samples.sort_by_key(|s| s.at_ns);
        let start_ns = samples.first().map_or(0, |s| s.at_ns);
        samples.iter_mut().for_each(|s| s.at_ns -= start_ns);
        let programs = samples.iter().map(|s| s.program).collect::<HashSet<_>>().len();
        Trace { samples, programs, failed_writes: 0, lost: 0 }
    }

    /// From a file's bytes. Errors say what is wrong in which line.
    pub fn parse(bytes: &[u8]) -> Result<Trace, String> {
        if !bytes.starts_with(&GZIP) {
            return Self::parse_plain(bytes);
        }
        let mut plain = Vec::new();
        let mut gzip = flate2::read::MultiGzDecoder::new(bytes).take(BYTES_MAX + 1);
        gzip.read_to_end(&mut plain).map_err(|e| format!("damaged gzip: {e}"))?;
        if plain.len() as u64 > BYTES_MAX {
            return Err("the trace unpacks to more than 2 GiB".into());
        }
        Self::parse_plain(&plain)
    }

    fn parse_plain(bytes: &[u8]) -> Result<Trace, String> {
        if !bytes.starts_with(&recording::MAGIC) {
            return Self::parse_csv(bytes);
        }
        let recording::Recording { samples, lost, torn_bytes } = recording::read(bytes)?;
        if torn_bytes > 0 {
            log::warn!(
                "the recording ends in the middle of a block; its last {torn_bytes} bytes are left out"
            );
        }
        if !samples.iter().any(Sample::is_write) {
            return Err("no writes in the trace".into());
        }
        Ok(Trace { lost, ..Self::from_samples(samples) })
    }

    fn parse_csv(bytes: &[u8]) -> Result<Trace, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not a CSV text".to_string())?;
        let mut lines = text.lines().enumerate();
        let header = lines.next().map_or("", |(_, line)| line);
        let columns = Columns::find(header)?;
        let programs = Programs::new();
        let mut clients = HashMap::new();
        let mut samples = Vec::new();
        let mut failed_writes = 0;
        for (i, line) in lines.filter(|(_, l)| !l.trim().is_empty()) {
            let row = columns.read(line).map_err(|why| format!("line {}: {why}", i + 1))?;
            let Some(row) = row else {
                failed_writes += 1;
                continue;
            };
            let next = ClientId(clients.len() as u32);
            let client = *clients.entry((row.client, row.program)).or_insert(next);
            samples.push(Sample { client, program: programs.intern(row.program), ..row.sample });
        }
        if samples.is_empty() {
            return Err("no writes in the trace".into());
        }
        Ok(Trace { failed_writes, ..Self::from_samples(samples) })
    }

    /// From the first to the last write, seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.last().map_or(0.0, |s| s.at_ns as f64 / 1e9)
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.samples.iter().map(|s| s.bytes as u64).sum()
    }

    /// Writes.
    pub fn writes(&self) -> u64 {
        self.samples.iter().filter(|s| s.is_write()).count() as u64
    }
}

struct Row<'a> {
    client: &'a str,
    program: &'a str,
    sample: Sample,
}

impl Columns {
    fn find(header: &str) -> Result<Columns, String> {
        let names: Vec<&str> = header.trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
        let find = |wanted: &[&str]| names.iter().position(|n| wanted.contains(n));
        match (find(&["t_us"]), find(&["pid", "client"]), find(&["bytes"])) {
            (Some(time), Some(client), Some(bytes)) => {
                Ok(Columns { time, client, program: find(&["comm", "program"]), bytes })
            }
            _ => Err("line 1: expected a header t_us,pid,comm,bytes or t_us,client,bytes".into()),
        }
    }

    /// `None` for a call that failed.
    fn read<'a>(&self, line: &'a str) -> Result<Option<Row<'a>>, String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let field = |i: usize| fields.get(i).copied().ok_or(format!("only {} columns", fields.len()));
        let number = |i: usize, what: &str| {
            field(i)?.parse::<i64>().map_err(|_| format!("{what} '{}' is not a number", fields[i]))
        };
        let at_us = u64::try_from(number(self.time, "t_us")?).map_err(|_| "t_us is negative")?;
        let at_ns = at_us.checked_mul(1000).ok_or("t_us is too large")?;
        let bytes = number(self.bytes, "bytes")?;
        if bytes < 0 {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes).map_err(|_| format!("a write of {bytes} bytes"))?;
        let client = field(self.client)?;
        let program = self.program.map_or(Ok(client), field)?;
        let (id, none) = (ClientId(0), ProgramId(0));
        let sample = Sample { at_ns, client: id, program: none, bytes, inode: InodeId(0), how: How::Write };
        Ok(Some(Row { client, program, sample }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const CSV: &str = "t_us,pid,comm,bytes\n1000,7,git,10\n500,8,tar,5\n\n2500,7,git,1\n";

    #[test]
    fn both_forms_plain_and_packed() {
        let t = Trace::parse(CSV.as_bytes()).expect("a sound trace");
        assert_eq!((t.writes(), t.bytes(), t.programs), (3, 16, 2));
        assert_eq!((t.samples[0].bytes, t.samples[1].at_ns, t.seconds()), (5, 500_000, 0.002));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(CSV.as_bytes()).expect("to memory");
        let packed = gz.finish().expect("to memory");
        assert_eq!(Trace::parse(&packed).expect("a sound trace").samples, t.samples);
        (1..packed.len()).for_each(|n| assert!(Trace::parse(&packed[..n]).is_err()));
        let t = Trace::parse(b"t_us,client,bytes\r\n0,3,1\r\n5,4,1\r\n").expect("a sound trace");
        assert_eq!((t.programs, t.samples[1].client), (2, ClientId(1)));
    }

    #[test]
    fn what_was_recorded() {
        let of_csv = Trace::parse(CSV.as_bytes()).expect("a sound trace");
        let mut r = recording::Recorder::new(Vec::new(), 1).expect("to memory");
        of_csv.samples.iter().for_each(|s| r.add(s).expect("to memory"));
        let t = Trace::parse(&r.finish().expect("to memory")).expect("a sound trace");
        assert_eq!((t.writes(), t.bytes(), t.programs, t.lost), (3, 16, 2, 0));
        assert_eq!(t.seconds(), of_csv.seconds());
        let empty = recording::Recorder::new(Vec::new(), 1).expect("to memory").finish().expect("to memory");
        assert_eq!(Trace::parse(&empty).expect_err("nothing in it"), "no writes in the trace");
    }

    #[test]
    fn failed_calls_are_left_out_and_counted() {
        let t = Trace::parse(b"t_us,client,bytes\n0,3,1\n5,4,-1\n9,4,7\n").expect("a sound trace");
        assert_eq!((t.writes(), t.bytes(), t.failed_writes), (2, 8, 1));
    }

    #[test]
    fn errors_name_the_line() {
        let why = |text: &str| Trace::parse(text.as_bytes()).expect_err("not sound");
        assert!(why("").contains("line 1"));
        assert!(why("a,b\n").contains("header"));
        assert!(why("t_us,client,bytes\n").contains("no writes"));
        assert_eq!(why("t_us,client,bytes\n1,2,3\n1,2,x\n"), "line 3: bytes 'x' is not a number");
        assert!(why("t_us,client,bytes\n1,2\n").contains("only 2 columns"));
        assert!(why("t_us,client,bytes\n99999999999999999999,2,3\n").contains("line 2"));
        assert!(Trace::parse(&[0xff, 0xfe]).is_err());
    }
}

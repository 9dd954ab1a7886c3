//! Writing to stdout: a reader that went away (`| head`) is no error.

use crate::control::Verdict;
use std::io::{self, ErrorKind, Write};

/// Writes text.
pub fn print(text: &str) -> Verdict {
    let mut out = io::stdout().lock();
    ended(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// How writing to stdout ended.
pub fn ended(result: io::Result<()>) -> Verdict {
    match result {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Verdict::refused(format!("cannot write to stdout: {e}"))
        }
        _ => Verdict::done(""),
    }
}

/// stdout that remembers whether its reader went away.
pub struct Pipe {
    out: io::BufWriter<io::Stdout>,
    pub broken: bool,
}

impl Pipe {
    /// Buffered.
    pub fn new() -> Pipe {
        Pipe { out: io::BufWriter::new(io::stdout()), broken: false }
    }

    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.broken |= matches!(&result, Err(e) if e.kind() == ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.note(result)
    }
    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.note(result)
    }
}

/// Text that ends in a newline.
pub fn line(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

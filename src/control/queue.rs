//! What waits for the writeback. The names here are the names of `forelog queue --json` version 1.

use serde::{Deserialize, Serialize};

/// Version of the JSON.
pub const QUEUE_VERSION: u32 = 1;

/// Bytes of paths and reasons in one answer: keeps it below a frame.
pub const QUEUE_TEXT_BYTES_MAX: usize = 700 << 10;

/// Why an entry has not gone to the backing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Waits {
    /// Younger than the writeback age.
    #[default]
    Young,
    /// Next in line.
    Due,
    /// On its way.
    Uploading,
    /// The last try failed.
    Failed,
    /// A directory above it failed.
    Blocked,
    /// Outside of the upload hours.
    Hours,
    /// Truncated and not whole again yet.
    Rewriting,
}

impl Waits {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Waits::Young => "young",
            Waits::Due => "due",
            Waits::Uploading => "uploading",
            Waits::Failed => "failed",
            Waits::Blocked => "blocked",
            Waits::Hours => "hours",
            Waits::Rewriting => "rewriting",
        }
    }
}

/// One object that waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Below the mount's root, as `escaped` shows it; the root itself is `.`.
    pub path: String,
    /// Bytes of content that only the log has.
    pub bytes: u64,
    pub age_seconds: f64,
    pub state: Waits,
    /// Why a try failed, or which directory it waits for.
    pub reason: Option<String>,
    /// Until it is due or tried again.
    pub wait_seconds: Option<f64>,
    /// It was asked to go first.
    pub first: bool,
}

/// The queue, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    pub version: u32,
    /// All that wait, shown here or not.
    pub files: u64,
    pub bytes: u64,
    pub uploading: u64,
    pub failed: u64,
    pub oldest_seconds: f64,
    /// What holds all of it back or drives it.
    pub note: Option<String>,
    pub entries: Vec<QueueEntry>,
}

/// A path on one line of text that no terminal acts upon: control characters, backslashes and what is not UTF-8 as `\n`, `\\`
/// or `\xHH`.
pub fn escaped(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if c.is_control() || is_hidden(c) => {
                    let mut bytes = [0; 4];
                    c.encode_utf8(&mut bytes).bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out
}

/// Characters that change the order or the place of others on a terminal.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_on_one_line() {
        for (path, shown) in [
            (&b"a b/\xc3\xa4"[..], "a b/ä"),
            (b"a\nb\\c\t", "a\\nb\\\\c\\t"),
            (b"\xff\xfe/x\x1b[2J", "\\xff\\xfe/x\\x1b[2J"),
            ("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb"),
            (b"", ""),
        ] {
            assert_eq!(escaped(path), shown);
        }
    }
}

//! Lines that fit: what matters least is left out, and what is still too long ends in `…`.

use ratatui::text::{Line, Span};

/// A piece of a line, and how easily it can be missed: 0 never, the highest goes first.
pub type Piece<'a> = (u8, Span<'a>);

/// Columns that `text` takes on the screen.
pub fn columns_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// The line of all pieces that have room in `width` columns. Pieces of a rank go together.
pub fn fitted<'a>(width: u16, mut pieces: Vec<Piece<'a>>) -> Line<'a> {
    let width = width as usize;
    let sum = |pieces: &[Piece<'_>]| pieces.iter().map(|p| p.1.width()).sum::<usize>();
    while sum(&pieces) > width {
        let last = pieces.iter().map(|p| p.0).max().unwrap_or(0);
        if last == 0 {
            break;
        }
        pieces.retain(|p| p.0 != last);
    }
    let mut left = width;
    let cut = pieces.into_iter().map(|(_, span)| {
        let text = if span.width() > left { head(&span.content, left).into() } else { span.content };
        left -= columns_of(&text).min(left);
        Span::styled(text, span.style)
    });
    Line::from(cut.collect::<Vec<_>>())
}

/// The start of `text` in at most `width` columns; `…` stands for the rest.
pub fn head(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    if width == 0 { String::new() } else { taken(text.chars(), width - 1) + "…" }
}

/// Start and end of a path in at most `width` columns; `…` stands for what is between.
pub fn middle(path: &str, width: usize) -> String {
    if columns_of(path) <= width || width < 3 {
        return head(path, width);
    }
    let start = taken(path.chars(), width / 2);
    let end = taken(path.chars().rev(), width - 1 - columns_of(&start));
    start + "…" + &end.chars().rev().collect::<String>()
}

/// `text` in at most `lines` lines, broken between words where there are any.
pub fn wrapped(text: &str, width: u16, lines: usize) -> Vec<String> {
    let width = width.max(1) as usize;
    let mut out: Vec<String> = Vec::new();
    let mut rest = text.trim();
    while columns_of(rest) > width && out.len() + 1 < lines {
        let part = taken(rest.chars(), width);
        let at = match part.rfind(' ') {
            Some(at) if at > 0 && !rest[part.len()..].starts_with(' ') => at,
            _ if part.is_empty() => break,
            _ => part.len(),
        };
        out.push(rest[..at].trim_end().to_owned());
        rest = rest[at..].trim_start();
    }
    out.push(head(rest, width));
    out
}

/// As many characters as have room in `width` columns.
fn taken(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut text = String::new();
    for c in chars {
        text.push(c);
        if columns_of(&text) > width {
            text.pop();
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_goes_first_and_the_rest_is_cut() {
        let pieces = || vec![(0, Span::raw("one ")), (2, Span::raw("two ")), (1, Span::raw("three"))];
        for (width, want) in [
            (99, "one two three"),
            (13, "one two three"),
            (12, "one three"),
            (8, "one "),
            (3, "on…"),
            (1, "…"),
            (0, ""),
        ] {
            assert_eq!(fitted(width, pieces()).to_string(), want, "{width}");
        }
    }

    #[test]
    fn a_path_keeps_both_ends() {
        assert_eq!(middle("/mnt/data", 9), "/mnt/data");
        assert_eq!(middle("/mnt/some/where/data", 11), "/mnt/…/data");
        assert_eq!((middle("/mnt/data", 2), middle("/mnt/data", 0)), ("/…".into(), String::new()));
        for width in 0..30 {
            assert!(columns_of(&middle("/日本語/長い名前/プログラム", width)) <= width, "{width}");
        }
    }

    #[test]
    fn words_stay_whole() {
        assert_eq!(wrapped("a bc def ghij", 7, 3), ["a bc", "def", "ghij"]);
        assert_eq!(wrapped("a bc def", 4, 2), ["a bc", "def"]);
        assert_eq!(wrapped("abcdefghij klm", 4, 2), ["abcd", "efg…"]);
        assert_eq!(wrapped("日本", 1, 5), ["…"]);
        assert_eq!(wrapped("", 9, 2), [""]);
    }
}

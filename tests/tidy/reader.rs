//! Reading Rust as text, as far as the rules of `tidy.rs` need it.

/// The text with comments and literals replaced by spaces; line breaks stay.
pub fn blanked(text: &str) -> String {
    let b = text.as_bytes();
    let mut out = b.to_vec();
    let mut i = 0;
    while i < b.len() {
        let end = match b[i] {
            b'/' if b[i..].starts_with(b"//") => find(b, i, b"\n").unwrap_or(b.len()),
            b'/' if b[i..].starts_with(b"/*") => end_of_block_comment(b, i),
            b'r' if !ident_before(b, i) && raw_hashes(b, i + 1).is_some() => end_of_raw(b, i + 1),
            b'b' if !ident_before(b, i) && b.get(i + 1) == Some(&b'r') && raw_hashes(b, i + 2).is_some() => {
                end_of_raw(b, i + 2)
            }
            b'"' => end_of_string(b, i),
            b'\'' => end_of_char(b, i),
            _ => {
                i += 1;
                continue;
            }
        };
        for c in &mut out[i..end] {
            if *c != b'\n' {
                *c = b' ';
            }
        }
        i = end.max(i + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(b: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    b[from..].windows(needle.len()).position(|w| w == needle).map(|p| from + p)
}

fn is_ident(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

fn ident_before(b: &[u8], i: usize) -> bool {
    i > 0 && is_ident(b[i - 1])
}

fn end_of_block_comment(b: &[u8], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < b.len() {
        if b[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if b[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    b.len()
}

/// The number of `#` of a raw string whose `r` stands just before `i`, if one does.
fn raw_hashes(b: &[u8], i: usize) -> Option<usize> {
    let n = b[i.min(b.len())..].iter().take_while(|c| **c == b'#').count();
    (b.get(i + n) == Some(&b'"')).then_some(n)
}

fn end_of_raw(b: &[u8], i: usize) -> usize {
    let n = raw_hashes(b, i).unwrap_or(0);
    let close = [&b"\""[..], &b"#".repeat(n)].concat();
    find(b, i + n + 1, &close).map_or(b.len(), |p| p + close.len())
}

fn end_of_string(b: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < b.len() {
        match b[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    b.len()
}

/// The end of a character literal; a lifetime is only its quote.
fn end_of_char(b: &[u8], start: usize) -> usize {
    if b.get(start + 1) == Some(&b'\\') {
        return find(b, (start + 3).min(b.len()), b"'").map_or(b.len(), |p| p + 1);
    }
    let literal = (start + 2..b.len().min(start + 6)).find(|i| b[*i] == b'\'');
    match literal {
        Some(end) if !(is_ident(b[start + 1]) && end > start + 2) => end + 1,
        _ => start + 1,
    }
}

/// Cuts out every item under `#[cfg(test)]` (also `all(test, ..)`), whether it ends in a block or a semicolon.
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(at) = out[from..].find("#[cfg(").map(|p| from + p) {
        let close = out[at..].find(']').map_or(out.len(), |p| at + p + 1);
        let condition: String = out[at..close].split_whitespace().collect();
        if !(condition.contains("(test)") || condition.contains("(test,") || condition.contains(",test")) {
            from = close;
            continue;
        }
        let end = end_of_item(out.as_bytes(), close);
        let blank: String = out[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(at..end, &blank);
        from = at;
    }
    out
}

fn end_of_item(b: &[u8], from: usize) -> usize {
    let (mut i, mut depth) = (from, 0usize);
    while i < b.len() {
        match b[i] {
            b';' if depth == 0 => return i + 1,
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    b.len()
}

/// Positions of `needle` as a whole word: no identifier character touches its ends.
pub fn words<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let b = text.as_bytes();
    text.match_indices(needle).map(|(i, _)| i).filter(move |&i| {
        let end = i + needle.len();
        let open = is_ident(needle.as_bytes()[needle.len() - 1]);
        !ident_before(b, i) && !(open && b.get(end).copied().is_some_and(is_ident))
    })
}

pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The first names of a path or of a group: `a::b` is `[a]`, `{a::{b, c}, d}` is `[a, d]`.
pub fn heads(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    let name =
        |s: &str| s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                out.push(name(&group[start..i]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                out.push(name(&group[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    out.retain(|m| !m.is_empty());
    out
}

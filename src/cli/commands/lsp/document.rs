//! A text as an editor keeps it, and places in it as the Language Server Protocol counts them.

use serde::{Deserialize, Serialize};

/// A place in a text: both from 0, `character` in units of an [`Encoding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub line: usize,
    pub character: usize,
}

/// From one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

/// A change of a text: a part of it, or all.
#[derive(Debug, Deserialize)]
pub struct Change {
    range: Option<Range>,
    text: String,
}

/// What the characters of a line are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[default]
    #[serde(rename = "utf-16")]
    Utf16,
    #[serde(rename = "utf-32")]
    Utf32,
}

impl Encoding {
    /// Units of a text.
    pub fn count(self, text: &str) -> usize {
        text.chars().map(|c| self.units(c)).sum()
    }

    fn units(self, c: char) -> usize {
        match self {
            Self::Utf8 => c.len_utf8(),
            Self::Utf16 => c.len_utf16(),
            Self::Utf32 => 1,
        }
    }
}

/// The byte at a place. One behind the end of a line is that end, one inside a character its
/// beginning.
pub fn offset(text: &str, place: Position, encoding: Encoding) -> usize {
    match line_start(text, (0, 0), place.line) {
        None => text.len(),
        Some(start) => offset_in_line(text, start, place.character, encoding),
    }
}

/// The first byte of a line, if there is such a line. It is looked for from one that is known, of
/// which this is the number and the first byte.
fn line_start(text: &str, (known, mut start): (usize, usize), line: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    for _ in known..line {
        let end = start + memchr::memchr2(b'\n', b'\r', &bytes[start..])?;
        start = end + 1 + usize::from(bytes[end..].starts_with(b"\r\n"));
    }
    for _ in line..known {
        let end = start - 1 - usize::from(bytes[..start].ends_with(b"\r\n"));
        start = memchr::memrchr2(b'\n', b'\r', &bytes[..end]).map_or(0, |at| at + 1);
    }
    Some(start)
}

/// The byte at so many units of the line that begins at `start`.
fn offset_in_line(text: &str, start: usize, units: usize, encoding: Encoding) -> usize {
    let (mut at, mut left) = (start, units);
    for c in text[start..]
        .chars()
        .take_while(|c| !matches!(c, '\n' | '\r'))
    {
        match left.checked_sub(encoding.units(c)) {
            Some(rest) => (at, left) = (at + c.len_utf8(), rest),
            None => break,
        }
    }
    at
}

/// The place behind a text.
pub fn end(text: &str, encoding: Encoding) -> Position {
    let (mut line, mut start) = (0, 0);
    while let Some(at) = memchr::memchr2(b'\n', b'\r', &text.as_bytes()[start..]) {
        start += at + 1 + usize::from(text[start + at..].starts_with("\r\n"));
        line += 1;
    }
    let character = encoding.count(&text[start..]);
    Position { line, character }
}

/// Changes a text, one change after the other.
pub fn change(text: &mut String, changes: Vec<Change>, encoding: Encoding) {
    // Lines are counted from the one that was changed last: an editor that replaces a word
    // everywhere sends thousands of changes, each near the one before.
    let mut known = (0, 0);
    for Change { range, text: new } in changes {
        let Some(Range { start, end }) = range else {
            (*text, known) = (new, (0, 0));
            continue;
        };
        let mut offset = |place: Position| match line_start(text, known, place.line) {
            None => text.len(),
            Some(start) => {
                known = (place.line, start);
                offset_in_line(text, start, place.character, encoding)
            }
        };
        // The first of them last: what stands before it stays, and its line is known.
        let last = offset(start.max(end));
        let first = offset(start.min(end));
        text.replace_range(first..last, &new);
        let (before, behind) = text.split_at(known.1);
        if before.ends_with('\r') && behind.starts_with('\n') {
            known = (0, 0); // its line begins behind both now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODINGS: [Encoding; 3] = [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32];

    fn at(line: usize, character: usize) -> Position {
        Position { line, character }
    }

    #[test]
    fn places_are_counted_in_the_agreed_units() {
        let text = "a\r\né😀b\rc\n\nd";
        for (encoding, behind) in [
            (Encoding::Utf8, 6),
            (Encoding::Utf16, 3),
            (Encoding::Utf32, 2),
        ] {
            assert_eq!(offset(text, at(1, behind), encoding), 9, "{encoding:?}");
            assert_eq!(offset(text, at(1, 0), encoding), 3);
            assert_eq!(encoding.count("é😀"), behind);
        }
        let utf16 = |line, character| offset(text, at(line, character), Encoding::Utf16);
        assert_eq!(utf16(1, 2), 5, "inside a character is its beginning");
        assert_eq!(utf16(0, 9), 1, "behind a line is its end");
        assert_eq!([utf16(2, 0), utf16(2, 9)], [11, 12], "CR ends a line too");
        assert_eq!([utf16(3, 1), utf16(4, 1), utf16(9, 0)], [13, 15, 15]);
    }

    proptest::proptest! {
        /// What an editor sends of its changes makes the same text of the old one.
        #[test]
        fn changes_make_the_editor_s_text(
            text in "([a-c]|é|😀|\r?\n|\r){0,12}",
            cuts in proptest::collection::vec((0..40usize, 0..40usize, "([x-z]|é|\r?\n|\r){0,4}"), 1..5),
            encoding in proptest::sample::select(&ENCODINGS[..]),
        ) {
            let (mut changed, mut wanted, mut changes) = (text.clone(), text, Vec::new());
            for (a, b, new) in cuts {
                // A line ends behind the line feed of a CRLF: no editor names a place inside one.
                let is_end = |&at: &usize| {
                    wanted.is_char_boundary(at)
                        && !(wanted[..at].ends_with('\r') && wanted[at..].starts_with('\n'))
                };
                let ends: Vec<usize> = (0..=wanted.len()).filter(is_end).collect();
                let [a, b] = [a, b].map(|cut| ends[cut % ends.len()]);
                let place = |byte: usize| {
                    let before = wanted[..byte].replace("\r\n", "\n").replace('\r', "\n");
                    let line = before.rsplit('\n').next().unwrap_or_default().to_string();
                    at(before.matches('\n').count(), encoding.count(&line))
                };
                let range = Range { start: place(a), end: place(b) };
                proptest::prop_assert_eq!(end(&wanted[..a], encoding), range.start);
                wanted = [&wanted[..a.min(b)], &new, &wanted[a.max(b)..]].concat();
                changes.push(Change { range: Some(range), text: new });
            }
            change(&mut changed, changes, encoding);
            proptest::prop_assert_eq!(changed, wanted);
        }
    }
}

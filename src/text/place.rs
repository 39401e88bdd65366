//! Places in a file as editors show them, to bytes and back. Columns count characters, and a byte
//! that is not UTF-8 as one. A byte order mark is no character of the first line.

/// A place in a text as people count: both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A place that a text does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchPlace {
    /// The text is shorter.
    #[error("there is no line {line}: the last is {last}")]
    Line {
        /// The line asked for.
        line: usize,
        /// The last one.
        last: usize,
    },
    /// The line is shorter.
    #[error("there is no column {column} in line {line}: it ends at column {last}")]
    Column {
        /// The line.
        line: usize,
        /// The column asked for.
        column: usize,
        /// The column behind the line's last character.
        last: usize,
    },
}

/// Bytes of the byte order mark that a file begins with.
fn mark_bytes(bytes: &[u8]) -> usize {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if bytes.starts_with(MARK) {
        MARK.len()
    } else {
        0
    }
}

/// The place of a byte.
pub fn place(bytes: &[u8], offset: usize) -> Place {
    let before = &bytes[..offset.min(bytes.len())];
    let line_start = before
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(mark_bytes(bytes), |at| at + 1);
    Place {
        line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
        column: String::from_utf8_lossy(before.get(line_start..).unwrap_or_default())
            .chars()
            .count()
            + 1,
    }
}

/// The byte at a place, both counted from 1; without a column the end of the line, before its
/// line end.
///
/// # Errors
/// [`NoSuchPlace`].
pub fn offset(bytes: &[u8], line: usize, column: Option<usize>) -> Result<usize, NoSuchPlace> {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let ended = bytes.is_empty() || bytes.ends_with(b"\n"); // the cursor can stand behind the end
    let last = lines.clone().count() + usize::from(ended);
    if line == 0 || line > last {
        return Err(NoSuchPlace::Line { line, last });
    }
    let mark = if line == 1 { mark_bytes(bytes) } else { 0 };
    let start = mark
        + lines
            .by_ref()
            .take(line - 1)
            .map(<[u8]>::len)
            .sum::<usize>();
    let content = &lines.next().unwrap_or_default()[mark..];
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let Some(column) = column else {
        return Ok(start + content.len());
    };
    // Where each character begins, a byte that is not UTF-8 being one, and where the last ends.
    let mut starts = vec![0];
    for chunk in content.utf8_chunks() {
        let lens = chunk.valid().chars().map(char::len_utf8);
        let invalid = (!chunk.invalid().is_empty()).then_some(chunk.invalid().len());
        for len in lens.chain(invalid) {
            starts.push(starts[starts.len() - 1] + len);
        }
    }
    match column.checked_sub(1).and_then(|index| starts.get(index)) {
        Some(within) => Ok(start + within),
        None => Err(NoSuchPlace::Column {
            line,
            column,
            last: starts.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_column() {
        let text = "\u{feff}ab\nc".as_bytes();
        for (column, at) in [(1, 3), (2, 4), (3, 5)] {
            assert_eq!(offset(text, 1, Some(column)), Ok(at));
            assert_eq!(place(text, at), Place { line: 1, column });
        }
        assert_eq!(offset(text, 1, None), Ok(5));
        assert_eq!(place(text, 0), Place { line: 1, column: 1 });
        assert_eq!(offset(text, 2, Some(1)), Ok(6));
        assert_eq!(offset("\u{feff}".as_bytes(), 1, None), Ok(3));
    }

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "one\r\né\u{1f600}x\n\nlast".as_bytes();
        let at = |line, column| offset(text, line, column);
        assert_eq!(at(1, None), Ok(3), "before the CRLF");
        assert_eq!(at(2, Some(1)), Ok(5));
        assert_eq!(at(2, Some(3)), Ok(11));
        assert_eq!(at(2, None), Ok(12));
        assert_eq!(at(3, None), Ok(13));
        assert_eq!(at(4, Some(5)), Ok(18));
        assert_eq!(at(5, None), Err(NoSuchPlace::Line { line: 5, last: 4 }));
        assert_eq!(at(0, None), Err(NoSuchPlace::Line { line: 0, last: 4 }));
        let column = |column| NoSuchPlace::Column {
            line: 3,
            column,
            last: 1,
        };
        assert_eq!(at(3, Some(2)), Err(column(2)));
        assert_eq!(at(3, Some(0)), Err(column(0)));
        assert_eq!(offset(b"a\n", 2, None), Ok(2));
        assert_eq!(offset(b"", 1, None), Ok(0));
        assert_eq!(offset(b"\xff\xfex", 1, Some(3)), Ok(2));
    }
}

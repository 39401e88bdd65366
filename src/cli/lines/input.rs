//! A batch's input: lines, from a file or stdin, gzipped or not, whatever editor or shell wrote it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::Context;
use diffucoder::text::BYTE_ORDER_MARK;
use flate2::bufread::MultiGzDecoder;

use crate::cli::usage::UsageError;

/// Bytes that a line can have, many times what the longest context holds. A file that lost its line
/// ends is refused by this instead of filling the memory.
pub const LONGEST_LINE: usize = 8 << 20;

const GZIP: &[u8] = &[0x1f, 0x8b];
/// What other compressed files begin with, and what unpacks them to stdout.
const PACKED: [(&[u8], &str); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd -dc"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz -dc"),
    (b"BZh", "bzip2 -dc"),
    (b"PK\x03\x04", "unzip -p"),
];

/// A file or stdin, of which nothing has been read.
pub struct Source {
    reader: Box<dyn BufRead + Send>,
    name: String,
}

/// The lines of a batch that are not blank, with their numbers.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    name: String,
    line: Vec<u8>,
    number: usize,
    /// Whether `line` has been read, but not been taken.
    is_waiting: bool,
}

/// A line with its number, or why it cannot be taken.
pub type Numbered = (usize, Result<Vec<u8>, UsageError>);

impl Source {
    /// `path` or, for `-`, stdin.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (reader, name): (Box<dyn BufRead + Send>, _) = match path == Path::new("-") {
            true => (Box::new(BufReader::new(io::stdin())), "stdin".into()),
            false => {
                let name = path.display().to_string();
                let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
                (Box::new(BufReader::new(file)), name)
            }
        };
        Ok(Self { reader, name })
    }

    /// Lines of our own.
    pub fn built_in(text: &'static str, name: &str) -> Self {
        Self {
            reader: Box::new(Cursor::new(text)),
            name: name.into(),
        }
    }

    /// Its lines, unpacked.
    ///
    /// # Errors
    /// When it cannot be read, or is no text in UTF-8 and not in gzip.
    pub fn lines(self) -> anyhow::Result<Lines> {
        let Self { mut reader, name } = self;
        let cannot = || format!("cannot read {name}");
        let mut head = head(&mut reader).with_context(cannot)?;
        reader = Box::new(Cursor::new(head.clone()).chain(reader));
        if head.starts_with(GZIP) {
            reader = Box::new(BufReader::new(MultiGzDecoder::new(reader)));
            head = self::head(&mut reader).with_context(cannot)?;
            reader = Box::new(Cursor::new(head.clone()).chain(reader));
        }
        if let Some((_, unpack)) = PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
            let hint = format!("unpack it first: {unpack} FILE > NAME.jsonl");
            let message = format!("{name} is compressed, and not with gzip");
            return Err(UsageError::with_hint(message, hint).into());
        }
        // A mark, or a NUL beside the first character, which is ASCII in JSON.
        let is_wide = matches!(head[..], [0xff, 0xfe, ..] | [0xfe, 0xff, ..])
            || head.iter().take(2).any(|&byte| byte == 0);
        if is_wide {
            let hint = "convert it first: iconv -f UTF-16 -t UTF-8 FILE > NAME.jsonl";
            let message = format!("{name} is UTF-16, and JSON lines are UTF-8");
            return Err(UsageError::with_hint(message, hint).into());
        }
        Ok(Lines {
            reader,
            name,
            line: Vec::new(),
            number: 0,
            is_waiting: false,
        })
    }
}

/// The first bytes, which are taken out of the reader.
fn head(reader: &mut dyn BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(8).read_to_end(&mut head)?;
    Ok(head)
}

impl Lines {
    /// What the input is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next line without its end; `None` behind the last.
    ///
    /// # Errors
    /// When the input cannot be read on.
    pub fn next(&mut self) -> anyhow::Result<Option<Numbered>> {
        if self.peek()?.is_none() {
            return Ok(None);
        }
        self.is_waiting = false;
        let line = match self.line.len() > LONGEST_LINE {
            true => Err(UsageError::new(format!(
                "the line is longer than {} MiB",
                LONGEST_LINE >> 20
            ))),
            false => Ok(trimmed(&self.line).to_vec()),
        };
        Ok(Some((self.number, line)))
    }

    /// The line that comes next, or the beginning of one that is too long.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn peek(&mut self) -> anyhow::Result<Option<&[u8]>> {
        while !self.is_waiting {
            self.line.clear();
            let cannot = || format!("cannot read {} behind line {}", self.name, self.number);
            let mut some = (&mut self.reader).take(LONGEST_LINE as u64 + 1);
            let read = some.read_until(b'\n', &mut self.line);
            if read.with_context(cannot)? == 0 {
                return Ok(None);
            }
            if self.line.ends_with(b"\n") {
                self.line.pop();
            } else if self.line.len() > LONGEST_LINE {
                self.reader.skip_until(b'\n').with_context(cannot)?;
            }
            self.number += 1;
            self.is_waiting = !trimmed(&self.line).is_empty();
        }
        Ok(Some(trimmed(&self.line)))
    }
}

/// Without the mark, which files that are put behind one another have in the midst, and blanks.
fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    line.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(bytes: &[u8]) -> anyhow::Result<Vec<(usize, Result<String, String>)>> {
        let source = Source {
            reader: Box::new(Cursor::new(bytes.to_vec())),
            name: "in".into(),
        };
        let (mut lines, mut all) = (source.lines()?, Vec::new());
        while let Some((number, line)) = lines.next()? {
            let line = line.map(|line| String::from_utf8_lossy(&line).into_owned());
            all.push((number, line.map_err(|error| error.to_string())));
        }
        Ok(all)
    }

    fn ok(expected: &[(usize, &str)]) -> Vec<(usize, Result<String, String>)> {
        let pairs = expected.iter();
        pairs.map(|&(n, text)| (n, Ok(text.to_string()))).collect()
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn lines_end_as_they_like_and_blank_ones_count() {
        let expected = ok(&[(1, "a"), (4, "b"), (5, "c")]);
        assert_eq!(lines(b"a\n\n \t\nb\nc\n").unwrap(), expected);
        assert_eq!(lines(b"a\r\n\r\n\r\nb\r\nc").unwrap(), expected);
        let marked = "\u{feff}a\n\u{feff}\n\n\u{feff}b\nc";
        assert_eq!(lines(marked.as_bytes()).unwrap(), expected);
        assert_eq!(lines(&gzip(marked)).unwrap(), expected);
        let members = [gzip("\u{feff}a\n"), gzip("\n\n\u{feff}b"), gzip("\nc\n")];
        assert_eq!(lines(&members.concat()).unwrap(), expected);
        for nothing in [&b""[..], b"\n", b"\xef\xbb\xbf", &gzip("")] {
            assert_eq!(lines(nothing).unwrap(), ok(&[]));
        }
    }

    #[test]
    fn what_is_no_text_is_named() {
        let said = |bytes: &[u8]| lines(bytes).unwrap_err();
        let wide: Vec<u8> = "{}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [&wide, &[&[0xff, 0xfe], &wide[..]].concat()] {
            assert_eq!(
                said(bytes).to_string(),
                "in is UTF-16, and JSON lines are UTF-8"
            );
        }
        assert!(said(b"BZh91AY").to_string().contains("is compressed"));
        let mut cut = gzip(&"a\n".repeat(99));
        cut.truncate(cut.len() - 4);
        assert!(format!("{:#}", said(&cut)).starts_with("cannot read in behind line "));
    }

    #[test]
    fn a_line_without_end_is_refused_and_the_next_one_taken() {
        let text = format!("a\n{}\nb\n", "x".repeat(LONGEST_LINE + 9));
        let long = (2, Err("the line is longer than 8 MiB".to_string()));
        let expected = [ok(&[(1, "a")]), vec![long], ok(&[(3, "b")])].concat();
        assert_eq!(lines(text.as_bytes()).unwrap(), expected);
        let longest = "x".repeat(LONGEST_LINE);
        let expected = ok(&[(1, &longest), (2, "b")]);
        assert!(lines(format!("{longest}\nb\n").as_bytes()).unwrap() == expected);
    }
}

//! What transformers adds to Jinja for chat templates: `raise_exception`, `tojson`,
//! `strftime_now`.
//!
//! Source: `transformers`, `utils/chat_template_utils.py`. A departure: `strftime_now` is UTC, so
//! that a prompt does not depend on where it is written.

use std::fmt;
use std::io::{self, Write};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use jiff::tz::Offset;
use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Wider than any template indents; the JSON is written before its size is charged.
const MAX_JSON_INDENT: usize = 16;

/// What a template gave to `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

/// Python's `json.dumps`, with the arguments that transformers gives it; MiniJinja's own filter
/// escapes HTML.
pub(super) fn tojson(value: &Value, given: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let mut given = given.0.into_iter();
    let mut argument = |name| match given.next() {
        Some(value) => Ok(Some(value)),
        None => named.get::<Option<Value>>(name),
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ascii = is_true(argument("ensure_ascii")?);
    let indent = argument("indent")?.filter(|indent| !indent.is_none());
    let separators = argument("separators")?.filter(|pair| !pair.is_none());
    let sorted = is_true(argument("sort_keys")?);
    named.assert_all_used()?;
    let indent = match indent {
        Some(text) if text.as_str().is_some() => Some(text.to_string()),
        Some(width) => Some(" ".repeat(usize::try_from(width)?.min(MAX_JSON_INDENT + 1))),
        None => None,
    };
    if indent
        .as_ref()
        .is_some_and(|indent| indent.len() > MAX_JSON_INDENT)
    {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson: indent is too large",
        ));
    }
    let (between, after_key) = match separators {
        Some(pair) => (
            pair.get_item_by_index(0)?.to_string(),
            pair.get_item_by_index(1)?.to_string(),
        ),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = Style {
        indent,
        between,
        after_key,
        ascii,
        depth: 0,
        is_empty: true,
    };
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, style);
    let written = match sorted {
        false => value.serialize(&mut serializer),
        true => serde_json::to_value(value).and_then(|mut value| {
            value.sort_all_objects();
            value.serialize(&mut serializer)
        }),
    };
    let failed = |error| Error::new(ErrorKind::InvalidOperation, "tojson").with_source(error);
    written.map_err(failed)?;
    Ok(String::from_utf8_lossy(&json).into_owned()) // serde_json writes UTF-8
}

/// JSON as Python writes it.
struct Style {
    /// What a level of nesting adds to the beginning of a line; `None` for a single line.
    indent: Option<String>,
    between: String,
    after_key: String,
    ascii: bool,
    depth: usize,
    /// Whether nothing stands in the innermost list or mapping yet.
    is_empty: bool,
}

impl Style {
    fn begin<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        out.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.begin_line(out)?;
        }
        self.is_empty = false;
        out.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, out: &mut W, is_first: bool) -> io::Result<()> {
        self.is_empty = false;
        if !is_first {
            out.write_all(self.between.as_bytes())?;
        }
        self.begin_line(out)
    }

    fn begin_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        match &self.indent {
            Some(indent) => write!(out, "\n{}", indent.repeat(self.depth)),
            None => Ok(()),
        }
    }
}

impl Formatter for Style {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.after_key.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(text.as_bytes());
        }
        for c in text.chars() {
            match c.is_ascii() {
                true => out.write_all(&[c as u8])?,
                false => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, Offset::UTC.to_datetime(Timestamp::now()))
}

/// Python's `datetime.strftime` of a time without a zone, in English: what glibc does with every
/// letter, and with one that it does not know.
fn strftime(format: &str, time: DateTime) -> Result<String, Error> {
    const LETTERS: &str = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY";
    let config = Config::new().custom(PosixCustom::new());
    let failed = |error| Error::new(ErrorKind::InvalidOperation, "strftime_now").with_source(error);
    let seconds = Offset::UTC.to_timestamp(time).map_err(failed)?.as_second();
    let time = BrokenDownTime::from(time);
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        text.push_str(before);
        // Flags, a width, and the modifiers that mean nothing in English come before the letter.
        let is_flag = |c: char| "-_^#EO".contains(c) || c.is_ascii_digit();
        let tail = behind.trim_start_matches(is_flag);
        let (flags, _) = behind.split_at(behind.len() - tail.len());
        let mut chars = tail.chars();
        let letter = chars.next();
        rest = chars.as_str();
        let directive = match letter {
            Some('%') => "%%".to_owned(),
            Some('f') => "%6f".to_owned(), // six digits in Python
            Some('s') => seconds.to_string(),
            Some('z' | 'Z') => continue,
            Some(letter) if LETTERS.contains(letter) => {
                format!("%{}{letter}", flags.replace(['E', 'O'], ""))
            }
            unknown => {
                text.extend(['%'].into_iter().chain(flags.chars()).chain(unknown));
                continue;
            }
        };
        let written = time.to_string_with_config(&config, directive);
        text.push_str(&written.map_err(failed)?);
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right values are Python's, in the C locale.
    #[test]
    fn dates_are_written_as_python_writes_them() {
        let at = |format: &str, time: DateTime| strftime(format, time).unwrap();
        let full = "%a %A %d %b %B %m %y %Y %H:%M:%S %%";
        let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        assert_eq!(
            at(full, epoch),
            "Thu Thursday 01 Jan January 01 70 1970 00:00:00 %"
        );
        let leap = DateTime::constant(2000, 2, 29, 12, 34, 56, 7_000_000);
        assert_eq!(
            at(full, leap),
            "Tue Tuesday 29 Feb February 02 00 2000 12:34:56 %"
        );
        assert_eq!(
            at("%c|%x|%X", leap),
            "Tue Feb 29 12:34:56 2000|02/29/00|12:34:56"
        );
        assert_eq!(at("%w %u %I %p %f %j", leap), "2 2 12 PM 007000 060");
        assert_eq!(at("%U %W %G %V", leap), "09 09 2000 09");
        assert_eq!(at("[%z%Z] %%f %%%f %-d %", leap), "[] %f %007000 29 %");
        assert_eq!(
            at(
                "%C %D %e %F %g %h %k %l %n%P %r %R %s %t%T %05d %_m %^a %Ey %Od",
                leap
            ),
            "20 02/29/00 29 2000-02-29 00 Feb 12 12 \npm 12:34:56 PM 12:34 951827696 \t12:34:56 00029  2 TUE 00 29"
        );
        assert_eq!(at("%q %! %N\u{e9}%E", leap), "%q %! %N\u{e9}%E");
    }
}

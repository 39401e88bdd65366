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
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// More than any template indents; the JSON is written before its size is charged.
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

/// Python's `json.dumps(value, ensure_ascii=False)`; MiniJinja's own filter escapes HTML.
pub(super) fn tojson(value: &Value, args: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let refuse = |what| {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: {what}"),
        ))
    };
    let (ascii, sorted): (Option<bool>, Option<bool>) =
        (options.get("ensure_ascii")?, options.get("sort_keys")?);
    let separators: Option<Value> = options.get("separators")?;
    if ascii == Some(true) || sorted == Some(true) || separators.is_some_and(|s| !s.is_none()) {
        return refuse("only indent is supported");
    }
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    if !args.is_empty() {
        return refuse("options need their names");
    }
    if indent.is_some_and(|indent| indent > MAX_JSON_INDENT) {
        return refuse("indent is too large");
    }
    let mut json = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut json, Spaced)),
        Some(indent) => {
            let indent = " ".repeat(indent);
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, pretty))
        }
    };
    let failed = |error| Error::new(ErrorKind::InvalidOperation, "tojson").with_source(error);
    written.map_err(failed)?;
    Ok(String::from_utf8_lossy(&json).into_owned()) // serde_json writes UTF-8
}

/// JSON on one line with Python's separators, `", "` and `": "`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, Offset::UTC.to_datetime(Timestamp::now()))
}

/// Python's `datetime.strftime`, in English. What Python does not have is an error.
fn strftime(format: &str, time: DateTime) -> Result<String, Error> {
    // In Python %f has six digits, and a time without a zone writes nothing for the zone.
    let python = |text: &str| {
        let text = text.replace("%f", "%6f");
        text.replace("%z", "").replace("%Z", "")
    };
    let format: Vec<String> = format.split("%%").map(python).collect();
    let config = Config::new().custom(PosixCustom::new());
    let text = BrokenDownTime::from(time).to_string_with_config(&config, format.join("%%"));
    let failed = |error| Error::new(ErrorKind::InvalidOperation, "strftime_now").with_source(error);
    text.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right values are Python's, in the C locale.
    #[test]
    fn dates_are_written_as_python_writes_them() {
        let at = |format, time: DateTime| strftime(format, time).unwrap();
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
        assert_eq!(at("[%z%Z] %%f %%%f %-d", leap), "[] %f %007000 29");
        assert!(strftime("%!", epoch).is_err());
        assert!(strftime("%", epoch).is_err());
    }
}

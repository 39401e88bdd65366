//! What transformers adds to Jinja for chat templates: `raise_exception`, `tojson`,
//! `strftime_now`.
//!
//! Source: `transformers`, `utils/chat_template_utils.py`. `strftime_now` is UTC: there is no
//! local time in the standard library; templates ask for the date.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Error, ErrorKind};

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

/// Python's `json.dumps(value, ensure_ascii=False)`: Jinja's own filter escapes HTML.
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
    let json = minijinja::filters::tojson(
        value,
        indent.map(Value::from),
        Kwargs::from_iter([] as [(&str, Value); 0]),
    )?;
    Ok(unescape_html(json.as_str().unwrap_or_default()))
}

/// Undoes the four escapes that MiniJinja adds to JSON for HTML.
fn unescape_html(json: &str) -> String {
    const ESCAPES: [(&str, char); 4] = [
        ("u003c", '<'),
        ("u003e", '>'),
        ("u0026", '&'),
        ("u0027", '\''),
    ];
    let mut plain = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        match ESCAPES
            .iter()
            .find(|(code, _)| escape[1..].starts_with(code))
        {
            Some((code, c)) => {
                plain.push(*c);
                rest = &escape[1 + code.len()..];
            }
            None => {
                // `\\` is one escape: its second half must not begin another.
                let end = escape
                    .char_indices()
                    .nth(2)
                    .map_or(escape.len(), |(end, _)| end);
                plain.push_str(&escape[..end]);
                rest = &escape[end..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    strftime(format, now.map_or(0, |now| now.as_secs()))
}

/// The conversions of `strftime` that templates use, in English.
fn strftime(format: &str, unix_secs: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let (days, secs) = (unix_secs / 86_400, unix_secs % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);

    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => text += &year.to_string(),
            Some('y') => text += &format!("{:02}", year % 100),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('B') => text += month_name,
            Some('b') => text += &month_name[..3],
            Some('A') => text += day_name,
            Some('a') => text += &day_name[..3],
            Some('H') => text += &format!("{hour:02}"),
            Some('M') => text += &format!("{minute:02}"),
            Some('S') => text += &format!("{second:02}"),
            Some('%') => text.push('%'),
            other => {
                let code = other.map_or(String::new(), String::from);
                let reason = format!("strftime_now: %{code} is not supported");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
    }
    Ok(text)
}

/// Year, month and day of a day counted from 1970-01-01. Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms": years begin in March, so that the leap day is the last one.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, after_new_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (400 * era + year_of_era + after_new_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let full = "%a %A %d %b %B %m %y %Y %H:%M:%S %%";
        let at = |secs| strftime(full, secs).unwrap();
        assert_eq!(at(0), "Thu Thursday 01 Jan January 01 70 1970 00:00:00 %");
        assert_eq!(
            at(951_827_696),
            "Tue Tuesday 29 Feb February 02 00 2000 12:34:56 %"
        );
        assert_eq!(
            at(4_107_542_400),
            "Mon Monday 01 Mar March 03 00 2100 00:00:00 %"
        );
        assert!(strftime("%Q", 0).is_err());
        assert!(strftime("%", 0).is_err());
    }

    #[test]
    fn html_escapes_are_undone_once() {
        assert_eq!(
            unescape_html(r#""\u003c\\u003c\\\u003e\n\u0001é""#),
            r#""<\\u003c\\>\n\u0001é""#
        );
        assert_eq!(unescape_html(r"\"), r"\");
    }
}

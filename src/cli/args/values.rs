//! Values of flags that several commands share, and what they accept.

use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// Takes one of `all` by its name; each has a line for the help.
pub fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
    about: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let values = all
        .iter()
        .map(move |&value| PossibleValue::new(name(value)).help(about(value)));
    PossibleValuesParser::new(values).try_map(move |text| {
        let found = all.iter().copied().find(|&value| name(value) == text);
        found.ok_or("is none of these")
    })
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match whole(text, "must be a whole number, at least 1")? {
        0 => Err("must be at least 1".into()),
        n => Ok(n),
    }
}

/// A number of steps: no canvas has more tokens.
pub fn steps(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 20;
    match at_least_one(text)? {
        n if n > MOST => Err(format!("must be at most {MOST}")),
        n => Ok(n),
    }
}

pub fn zero_or_above<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, String> {
    whole(text, "must be a whole number, at least 0")
}

fn whole<N: FromStr<Err = ParseIntError>>(text: &str, expected: &str) -> Result<N, String> {
    text.parse()
        .map_err(|error: ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow => "is too large".into(),
            _ => expected.into(),
        })
}

pub fn zero_or_more(text: &str) -> Result<f32, String> {
    number(text, "must be a number, at least 0", |x| x >= 0.0)
}

pub fn share(text: &str) -> Result<f32, String> {
    number(text, "must be a number above 0 and at most 1", |x| {
        x > 0.0 && x <= 1.0
    })
}

pub fn inside_unit(text: &str) -> Result<f32, String> {
    number(text, "must be a number above 0 and below 1", |x| {
        x > 0.0 && x < 1.0
    })
}

fn number(text: &str, expected: &str, ok: impl Fn(f32) -> bool) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() && ok(x) => Ok(x),
        _ => Err(expected.into()),
    }
}

//! Python where MiniJinja is not: methods of strings and lists that `minijinja_contrib::pycompat`
//! does not have, `%` with a text on its left, and which values a test of Jinja2 takes.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};
use minijinja_contrib::pycompat;

use super::dialect::REMAINDER;

/// Adds all of it to an environment.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter(REMAINDER, remainder);
    // In Python strings and mappings have a length and items too, and so has what is undefined.
    let is_sequence = |value: &Value| {
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | String | Map | Undefined)
    };
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", move |value: &Value| {
        is_sequence(value) || value.kind() == ValueKind::Iterable
    });
}

/// A method that MiniJinja does not know itself.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(text), "format") => charge_format(state, text, args)?,
        (Some(text), "split" | "rsplit") => return split(text, name == "rsplit", args),
        (Some(text), "partition" | "rpartition") => {
            let (at,): (&str,) = from_args(args)?;
            let parts = match name {
                "partition" => text
                    .split_once(at)
                    .map_or([text, "", ""], |(a, b)| [a, at, b]),
                _ => text
                    .rsplit_once(at)
                    .map_or(["", "", text], |(a, b)| [a, at, b]),
            };
            return Ok(Value::from(Tuple::from(parts.map(Value::from))));
        }
        (Some(text), "title") => {
            let () = from_args(args)?;
            let mut in_word = false; // an apostrophe ends one, unlike in the filter of this name
            let mut title = String::with_capacity(text.len());
            for c in text.chars() {
                match in_word {
                    true => title.extend(c.to_lowercase()),
                    false => title.extend(c.to_uppercase()),
                }
                in_word = c.is_alphabetic();
            }
            return Ok(title.into());
        }
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            return Ok(text.strip_prefix(prefix).unwrap_or(text).into());
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            return Ok(text.strip_suffix(suffix).unwrap_or(text).into());
        }
        (None, "copy") if matches!(value.kind(), ValueKind::Seq | ValueKind::Map) => {
            let () = from_args(args)?;
            return Ok(value.clone());
        }
        (None, "index") if value.kind() == ValueKind::Seq => {
            let (wanted,): (&Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == *wanted);
            let missing = || Error::new(ErrorKind::InvalidOperation, "index: not in the list");
            return place.map(Value::from).ok_or_else(missing);
        }
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Pays for what `format` may write before it is written: each field can hold all of the values,
/// and be as wide as the numbers say.
fn charge_format(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<(), Error> {
    let given: usize = args.iter().map(|value| value.to_string().len()).sum();
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let widths = numbers.filter(|digits| !digits.is_empty());
    let widths = widths.map(|digits| digits.parse().unwrap_or(usize::MAX));
    let bytes = text.matches('{').count().saturating_mul(given);
    state.consume_fuel((widths.fold(bytes, usize::saturating_add) / 64) as u64)
}

/// `split` and `rsplit`, whose arguments have names in Python.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| named.get("sep"), |given| Ok(Some(given)))?;
    let most = most.map_or_else(|| named.get("maxsplit"), |given| Ok(Some(given)))?;
    named.assert_all_used()?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(_) => Some(text),
        None if from_right => Some(text.trim_end()),
        None => Some(text.trim_start()),
    };
    let is_left = |text: &&str| separator.is_some() || !text.is_empty();
    rest = rest.filter(is_left);
    while let Some(text) = rest {
        let cut = match (separator, from_right) {
            _ if parts.len() == most => None,
            (Some(at), false) => text.split_once(at),
            (Some(at), true) => text.rsplit_once(at).map(|(a, b)| (b, a)),
            (None, false) => text
                .split_once(char::is_whitespace)
                .map(|(a, b)| (a, b.trim_start())),
            (None, true) => text
                .rsplit_once(char::is_whitespace)
                .map(|(a, b)| (b, a.trim_end())),
        };
        parts.push(cut.map_or(text, |(part, _)| part));
        rest = cut.map(|(_, rest)| rest).filter(is_left);
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// `%`: printf with a text on the left, the remainder otherwise.
fn remainder(state: &mut State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    if left.as_str().is_none() {
        let native = state.env().compile_expression("left % right")?;
        return native.eval(context! { left, right });
    }
    let mut args = vec![left.clone()];
    match right.downcast_object_ref::<Tuple>() {
        Some(_) => args.extend(right.try_iter()?),
        None => args.push(right.clone()),
    }
    state.apply_filter("format", &args) // which pays for widths
}

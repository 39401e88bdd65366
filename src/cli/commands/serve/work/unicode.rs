//! Characters that JavaScript cuts in two.

use std::borrow::Cow;

/// JSON in which halves of characters are U+FFFD: where a text was cut between two UTF-16 units,
/// `JSON.stringify` writes a lone surrogate's escape, which is no text. Go reads it so too.
pub fn whole_characters(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &json[at..]) {
        at += found;
        let length = match (unit(&json[at..]), unit(&json[(at + 6).min(json.len())..])) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                let mended = mended.get_or_insert_with(|| json.to_vec());
                mended[at..at + 6].copy_from_slice(b"\\ufffd");
                6
            }
            _ => 2, // `\\\\` is no beginning
        };
        at = (at + length).min(json.len());
    }
    mended.map_or(Cow::Borrowed(json), Cow::Owned)
}

/// The unit that an escape at the beginning stands for.
fn unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_halves_are_replaced_and_pairs_stay() {
        for (json, whole) in [
            (r#""a""#, r#""a""#),
            (r#""\ud83c""#, r#""\ufffd""#),
            (r#""\uDE00x""#, r#""\ufffdx""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud83c \u00e9\n""#, r#""\\ud83c \u00e9\n""#),
            (r#""\ud83""#, r#""\ud83""#),
            (r"\", r"\"),
        ] {
            assert_eq!(&*whole_characters(json.as_bytes()), whole.as_bytes());
        }
    }
}

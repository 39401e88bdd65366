//! Line ends. A model writes LF; files from Windows have CRLF, which is not theirs to lose.

use std::borrow::Cow;

/// Whether lines end in CRLF, most of them.
pub fn is_crlf(bytes: &[u8]) -> bool {
    let count = |ending: &[u8]| {
        let windows = bytes.windows(ending.len());
        windows.filter(|window| *window == ending).count()
    };
    2 * count(b"\r\n") > count(b"\n")
}

/// The text with LF for every CRLF, as a model reads it.
pub fn to_lf(text: &str) -> Cow<'_, str> {
    match text.contains("\r\n") {
        true => text.replace("\r\n", "\n").into(),
        false => text.into(),
    }
}

/// The text with CRLF for every LF; those that have it keep it.
pub fn to_crlf(text: &str) -> Cow<'_, str> {
    match text.contains('\n') {
        true => to_lf(text).replace('\n', "\r\n").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_come_and_go() {
        assert!(is_crlf(b"a\r\nb\r\nc\n"));
        assert!(!is_crlf(b"a\r\nb\n"), "as many of each");
        assert!(!is_crlf(b"a"));
        assert_eq!(to_lf("a\r\nb\rc\n"), "a\nb\rc\n");
        assert_eq!(to_crlf("a\nb\r\nc"), "a\r\nb\r\nc");
    }
}

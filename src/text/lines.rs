//! Line ends. A model writes LF; files from Windows have CRLF, which is not theirs to lose.

use std::borrow::Cow;

/// Whether lines end in CRLF, most of them.
pub fn is_crlf(bytes: &[u8]) -> bool {
    let (mut lines, mut crlf) = (0, 0);
    for end in memchr::memchr_iter(b'\n', bytes) {
        lines += 1;
        crlf += usize::from(bytes[..end].ends_with(b"\r"));
    }
    2 * crlf > lines
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

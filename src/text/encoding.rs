//! Files that are no UTF-8, and not like it either.

/// The name of an encoding whose characters take two or four bytes each, if a text begins as one
/// of these does. In any other the bytes of ASCII are what they are in UTF-8.
pub fn wide(text: &[u8]) -> Option<&'static str> {
    match text {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [1..=0x7f, 0, 0, 0, ..] | [0, 0, 0, 1..=0x7f, ..] => Some("UTF-32"),
        [1..=0x7f, 0, 1..=0x7f, 0, ..] | [0, 1..=0x7f, 0, 1..=0x7f, ..] => Some("UTF-16"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_show_at_the_beginning() {
        let utf16 = |text: &str, swap: bool| -> Vec<u8> {
            let units = text.encode_utf16();
            let bytes = units.map(|unit| {
                if swap {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            });
            bytes.flatten().collect()
        };
        for swap in [false, true] {
            assert_eq!(wide(&utf16("\u{feff}é", swap)), Some("UTF-16"));
            assert_eq!(wide(&utf16("def f(x):", swap)), Some("UTF-16"));
        }
        let utf32 = |text: &str| -> Vec<u8> {
            text.chars()
                .flat_map(|c| u32::from(c).to_le_bytes())
                .collect()
        };
        assert_eq!(wide(&utf32("\u{feff}x")), Some("UTF-32"));
        assert_eq!(wide(&utf32("def")), Some("UTF-32"));
        for text in ["", "d", "def", "\u{feff}def", "é", "\0", "a\0b", "\0\0\0\0"] {
            assert_eq!(wide(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(wide(b"caf\xe9"), None);
    }
}

//! A canvas as the smallest pieces that can be shown: whole characters.
//!
//! A token of a byte-level vocabulary can be part of a character. Neighbours that make up whole
//! characters together are one cell; what can never become one is shown as U+FFFD.

use std::ops::Range;

/// Some positions and what they show.
#[derive(Debug, PartialEq, Eq)]
pub struct Cell {
    pub positions: Range<usize>,
    /// `None` for a mask.
    pub text: Option<String>,
}

/// Cuts a canvas, the bytes of each position or `None` for a mask, into cells.
pub fn cells<B: AsRef<[u8]>>(canvas: &[Option<B>]) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut start = 0;
    while start < canvas.len() {
        let mut end = start + 1;
        let text = canvas[start].as_ref().map(|first| {
            let mut bytes = first.as_ref().to_vec();
            while is_unfinished(&bytes) {
                let Some(Some(next)) = canvas.get(end) else {
                    break;
                };
                bytes.extend_from_slice(next.as_ref());
                end += 1;
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        cells.push(Cell {
            positions: start..end,
            text,
        });
        start = end;
    }
    cells
}

/// Whether more bytes could make whole characters of these.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(canvas: &[Option<&[u8]>]) -> Vec<(usize, Option<String>)> {
        cells(canvas)
            .into_iter()
            .map(|cell| (cell.positions.len(), cell.text))
            .collect()
    }

    #[test]
    fn parts_of_a_character_join() {
        let text = |text: &str| Some(text.to_string());
        let euro = "€".as_bytes();
        assert_eq!(
            shown(&[
                Some(b"a"),
                None,
                Some(&euro[..1]),
                Some(&euro[1..]),
                Some(b"b")
            ]),
            [(1, text("a")), (1, None), (2, text("€")), (1, text("b"))]
        );
        assert_eq!(
            shown(&[Some(&euro[..2]), None, Some(&euro[2..])]),
            [(1, text("\u{fffd}")), (1, None), (1, text("\u{fffd}"))]
        );
        assert_eq!(
            shown(&[Some(&euro[..1]), Some(b"b")]),
            [(2, text("\u{fffd}b"))]
        );
        assert!(shown(&[]).is_empty());
    }
}

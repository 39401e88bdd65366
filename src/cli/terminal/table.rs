//! Columns of text, as wide as what is in them and two spaces apart.

use std::fmt::Write;

/// Which side of its column a text stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// One line of text for each of `lines`; a header is one of them.
pub fn table<const N: usize>(
    columns: [Align; N],
    lines: impl IntoIterator<Item = [String; N]>,
) -> String {
    let lines: Vec<[String; N]> = lines.into_iter().collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut table = String::new();
    for line in &lines {
        let mut text = String::new();
        for ((cell, width), align) in line.iter().zip(widths).zip(columns) {
            // A String takes everything.
            let _ = match align {
                Align::Left => write!(text, "{cell:<width$}  "),
                Align::Right => write!(text, "{cell:>width$}  "),
            };
        }
        table.push_str(text.trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = [["A", "SIZE", "B"], ["long", "1", "x"], ["b", "22222", ""]];
        let lines = lines.map(|line| line.map(str::to_string));
        assert_eq!(
            table([Align::Left, Align::Right, Align::Left], lines),
            "A      SIZE  B\nlong      1  x\nb     22222\n"
        );
        assert_eq!(table::<2>([Align::Left; 2], []), "");
    }
}

//! Columns of text, as wide as what is in them.

use std::fmt::Write;

/// One line for each of `lines`, the first of which is the header.
pub fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut table = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  "); // a String takes everything
        }
        table.push_str(text.trim_end());
        table.push('\n');
    }
    table
}

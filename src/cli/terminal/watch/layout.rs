//! Text of a model laid out in the columns of a terminal, harmless whatever it contains.
//!
//! What could move the cursor, change colours or turn the text round is replaced; characters two
//! columns wide are never cut; tabs become spaces.

use unicode_width::UnicodeWidthChar;

const TAB: usize = 4;

/// How a piece of the canvas looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Not revealed yet.
    Mask,
    /// Revealed just now.
    New,
    /// Revealed before.
    Text,
    /// Behind the end of the text.
    Behind,
}

/// Characters in a row that look the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub look: Look,
    pub text: String,
}

/// One line of the terminal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub runs: Vec<Run>,
    pub columns: usize,
}

impl Row {
    /// Whether something in it was revealed just now.
    pub fn is_new(&self) -> bool {
        self.runs.iter().any(|run| run.look == Look::New)
    }

    fn push(&mut self, look: Look, shown: char, columns: usize) {
        match self.runs.last_mut() {
            Some(last) if last.look == look => last.text.push(shown),
            _ => self.runs.push(Run {
                look,
                text: shown.to_string(),
            }),
        }
        self.columns += columns;
    }
}

/// Breaks the pieces into rows of at most `columns`.
pub fn rows<'a>(pieces: impl IntoIterator<Item = (Look, &'a str)>, columns: usize) -> Vec<Row> {
    let mut rows = vec![Row::default()];
    for (look, text) in pieces {
        for character in text.chars() {
            if character == '\n' {
                if look == Look::New {
                    put(&mut rows, look, '↵', columns);
                }
                rows.push(Row::default());
            } else if character == '\t' {
                let at = rows.last().map_or(0, |row| row.columns);
                for _ in 0..TAB - at % TAB {
                    put(&mut rows, look, ' ', columns);
                }
            } else {
                put(&mut rows, look, harmless(character), columns);
            }
        }
    }
    rows
}

/// Adds a character, in a new row if it does not fit.
fn put(rows: &mut Vec<Row>, look: Look, shown: char, columns: usize) {
    let width = shown.width().unwrap_or(1);
    let (shown, width) = match width > columns {
        true => (char::REPLACEMENT_CHARACTER, 1),
        false => (shown, width),
    };
    if rows.last().is_none_or(|row| row.columns + width > columns) {
        rows.push(Row::default());
    }
    if let Some(row) = rows.last_mut() {
        row.push(look, shown, width);
    }
}

/// The character, or what stands for it if it would do something rather than show something.
fn harmless(character: char) -> char {
    match character {
        '\0'..='\x1f' => char::from_u32(0x2400 + character as u32).unwrap_or(' '),
        '\x7f' => '␡',
        '\u{80}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e0fff}' => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str, columns: usize) -> Vec<String> {
        let rows = rows([(Look::Text, text)], columns);
        for row in &rows {
            assert!(row.columns <= columns);
        }
        let text = |row: Row| row.runs.into_iter().map(|run| run.text).collect();
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn lines_break_at_the_width_and_never_inside_a_character() {
        assert_eq!(plain("abcde\nf", 2), ["ab", "cd", "e", "f"]);
        assert_eq!(plain("a漢字", 2), ["a", "漢", "字"]);
        assert_eq!(plain("漢", 1), ["\u{fffd}"]);
        assert_eq!(plain("e\u{301}e", 1), ["e\u{301}", "e"]);
        assert_eq!(plain("", 5), [""]);
        assert_eq!(plain("a\n\nb", 5), ["a", "", "b"]);
    }

    #[test]
    fn tabs_are_spaces_up_to_the_next_stop() {
        assert_eq!(plain("\tx\ty", 80), ["    x   y"]);
        assert_eq!(plain("\t", 2), ["  ", "  "]);
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        let all: String = (0..0x11_0000).filter_map(char::from_u32).collect();
        let shown = plain(&all, 80).concat();
        assert!(!shown.contains(|c: char| c.is_control()));
        assert!(!shown.contains(['\u{202e}', '\u{200f}', '\u{feff}', '\u{2066}']));
        assert_eq!(plain("\x1b[2Jx\r\x07", 80), ["␛[2Jx␍␇"]);
    }

    #[test]
    fn looks_stay_with_their_characters() {
        let rows = rows(
            [(Look::Text, "ab"), (Look::New, "c\n"), (Look::Mask, "·")],
            2,
        );
        let run = |look, text: &str| Run {
            look,
            text: text.into(),
        };
        assert_eq!(rows[0].runs, [run(Look::Text, "ab")]);
        assert_eq!(rows[1].runs, [run(Look::New, "c↵")]);
        assert_eq!(rows[2].runs, [run(Look::Mask, "·")]);
        assert_eq!([false, true, false], [0, 1, 2].map(|at| rows[at].is_new()));
    }
}

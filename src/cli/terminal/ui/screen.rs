//! A block of lines at the bottom of the terminal that is drawn again and again in place.
//!
//! It neither clears the screen nor takes it over: what stood above stays, and scrolls as usual.
//! The cursor is hidden and line wrapping is off while it is drawn; both come back when it ends,
//! however it ends.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, StderrLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the cursor is hidden now.
static DRAWING: AtomicBool = AtomicBool::new(false);

const BEGIN: &str = "\x1b[?25l\x1b[?7l";
const END: &str = "\x1b[?7h\x1b[?25h";

/// The block.
pub struct Screen {
    /// Columns that each line on the screen takes.
    drawn: Vec<usize>,
    colours: bool,
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: usize,
    pub columns: usize,
}

/// Text with its escape sequences, and the columns that it takes.
pub struct StyledLine {
    pub text: String,
    pub columns: usize,
}

impl Screen {
    /// `None` if stderr is no terminal that can be drawn on.
    pub fn open() -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        (io::stderr().is_terminal() && !dumb).then(|| Self {
            drawn: Vec::new(),
            colours: anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never,
        })
    }

    /// Whether lines may have colours.
    pub fn colours(&self) -> bool {
        self.colours
    }

    /// The terminal's size now; it can change at any time.
    pub fn size(&self) -> Size {
        let (rows, columns) = console::Term::stderr().size_checked().unwrap_or((24, 80));
        Size {
            rows: usize::from(rows.max(1)),
            columns: usize::from(columns.max(1)),
        }
    }

    /// Replaces the block. Lines must fit the columns.
    pub fn draw(&mut self, lines: Vec<StyledLine>, columns: usize) {
        let mut out = String::new();
        if !DRAWING.swap(true, Ordering::SeqCst) {
            // The first frame, or the first since somebody gave the cursor back.
            self.drawn.clear();
            out.push_str(BEGIN);
        }
        self.to_top(&mut out, columns);
        for (at, line) in lines.iter().enumerate() {
            out.push_str(if at > 0 { "\r\n" } else { "" });
            out.push_str("\x1b[K"); // before the text, which may fill the row
            out.push_str(&line.text);
        }
        out.push_str("\x1b[J");
        self.drawn = lines.iter().map(|line| line.columns).collect();
        // Nowhere to report a stderr that cannot be written to. One write: no half frames.
        let _ = io::stderr().lock().write_all(out.as_bytes());
    }
    pub fn wipe(&mut self) {
        let mut out = String::new();
        self.to_top(&mut out, self.size().columns);
        out.push_str("\x1b[J");
        self.drawn.clear();
        end(&mut io::stderr().lock(), &out);
    }

    /// Leaves the block where it is and goes on below.
    pub fn keep(&mut self) {
        self.drawn.clear();
        end(&mut io::stderr().lock(), "\r\n");
    }

    /// Moves the cursor to the block's first line. A terminal that became narrower has broken
    /// its lines.
    fn to_top(&self, out: &mut String, columns: usize) {
        let rows: usize = self
            .drawn
            .iter()
            .map(|width| width.div_ceil(columns).max(1))
            .sum();
        out.push('\r');
        if rows > 1 {
            let _ = write!(out, "\x1b[{}A", rows - 1); // a String takes everything
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(restore());
    }
}

/// Gives the cursor back if a block is being drawn, and returns the lock that keeps anyone from
/// drawing again.
pub fn restore() -> StderrLock<'static> {
    let mut stderr = io::stderr().lock();
    end(&mut stderr, "\r\n");
    stderr
}

fn end(stderr: &mut StderrLock<'_>, last: &str) {
    if DRAWING.swap(false, Ordering::SeqCst) {
        let _ = stderr.write_all(format!("{last}{END}").as_bytes());
    }
}

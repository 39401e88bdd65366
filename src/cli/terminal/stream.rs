//! A text that is printed as it is decided.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diffucoder::session::Observer;
use diffucoder::session::asking::Asking;

use crate::cli::terminal::ui::{Ui, Written};

/// Prints the text of the only hole.
pub struct Stream<'a> {
    ui: &'a Ui,
    asking: &'a Asking,
    text: String,
    written_bytes: usize,
    /// That of the last write.
    written: io::Result<Written>,
    is_over: Arc<AtomicBool>,
}

impl<'a> Stream<'a> {
    /// Of what `asking` asks for.
    pub fn new(ui: &'a Ui, asking: &'a Asking) -> Self {
        Self {
            ui,
            asking,
            text: String::new(),
            written_bytes: 0,
            written: Ok(Written::Whole),
            is_over: Arc::default(),
        }
    }

    /// Set once there is nowhere to write to: more of the text is then of no use.
    pub fn is_over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_over)
    }

    /// Prints what is left of the whole result.
    pub fn finish(self, result: &str) -> io::Result<Written> {
        let rest = result.get(self.written_bytes..).unwrap_or_default();
        match self.written? {
            Written::Whole => self.ui.one_of_many(rest),
            Written::Closed => Ok(Written::Closed),
        }
    }
}

impl Observer for Stream<'_> {
    fn on_text(&mut self, _: usize, text: &str) {
        self.text.push_str(text);
        let settled = self.asking.result(&self.text);
        if settled.len() > self.written_bytes && matches!(self.written, Ok(Written::Whole)) {
            self.written = self.ui.piece(&settled[self.written_bytes..]);
            self.written_bytes = settled.len();
            let goes_on = matches!(self.written, Ok(Written::Whole));
            self.is_over.store(!goes_on, Ordering::Relaxed);
        }
    }
}

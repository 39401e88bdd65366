//! The log on stderr. Nobody has to read it: where a pipe is full, lines are left out, and no
//! request waits for it.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cli::terminal::ui::Ui;

/// Lines that can wait to be written.
const MOST_WAITING: usize = 1024;
/// For those that are left when the server ends.
const LAST_WAIT: Duration = Duration::from_secs(1);

pub struct Log {
    lines: Option<SyncSender<String>>,
    writer: JoinHandle<()>,
}

impl Log {
    /// On the stderr of `ui`.
    pub fn new(ui: Ui) -> Self {
        let (lines, waiting) = sync_channel::<String>(MOST_WAITING);
        Self {
            lines: Some(lines),
            writer: thread::spawn(move || waiting.iter().for_each(|line| ui.log(&line))),
        }
    }

    /// Writes a line, unless too many are waiting.
    pub fn line(&self, line: String) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines = None;
        let end = Instant::now() + LAST_WAIT;
        while !self.writer.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

//! How far a run is: a bar, or the canvas itself.

use std::ops::Range;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cli::terminal::ui::{Screen, Ui};
use crate::cli::terminal::watch::Watch;
use crate::cli::usage::UsageError;
use diffucoder::diffusion::{Observer, Step};
use diffucoder::package::Package;

/// What is drawn of a run while it goes on.
pub enum Progress<'a> {
    Bar { bar: ProgressBar, started: Instant },
    Watch(Box<Watch<'a>>),
}

impl<'a> Progress<'a> {
    /// A bar, drawn only on a terminal.
    pub fn bar(ui: &Ui, what: &str) -> Self {
        Self::Bar {
            bar: ui.count_bar(what, "tokens", 0),
            started: Instant::now(),
        }
    }

    /// The canvas.
    pub fn watch(screen: Screen, package: &'a Package) -> Self {
        Self::Watch(Box::new(Watch::new(screen, package)))
    }

    /// Takes the bar away; and the canvas too, unless the text goes elsewhere than to the terminal.
    pub fn finish(self, ui: &Ui) {
        match self {
            Self::Bar { bar, .. } => bar.finish_and_clear(),
            Self::Watch(watch) => watch.finish(!ui.stdout_is_terminal()),
        }
    }
}

impl Observer for Progress<'_> {
    fn on_step(&mut self, step: &Step<'_>) {
        match self {
            Self::Watch(watch) => watch.on_step(step),
            Self::Bar { bar, started } => {
                let revealed = step.canvas.reveal_step().iter().flatten().count();
                let time = started.elapsed().max(Duration::from_millis(1));
                let rate = revealed as f64 / time.as_secs_f64();
                let masks: usize = step.canvas.holes().iter().map(Range::len).sum();
                bar.set_length(masks as u64);
                bar.set_position(revealed as u64);
                bar.set_message(format!("· step {} · {rate:.1} tokens/s", step.index + 1));
            }
        }
    }
}

/// Two observers as one, of which the second may be absent.
pub struct Observers<'a, A, B>(pub &'a mut A, pub &'a mut Option<B>);

impl<A: Observer, B: Observer> Observer for Observers<'_, A, B> {
    fn on_step(&mut self, step: &Step<'_>) {
        self.0.on_step(step);
        if let Some(second) = self.1 {
            second.on_step(step);
        }
    }
}

/// The terminal for `--watch`.
///
/// # Errors
/// Wrong usage where there is none.
pub fn screen(ui: &Ui) -> Result<Screen, UsageError> {
    if ui.is_quiet() {
        let message = "--watch draws on the terminal, which --quiet forbids";
        return Err(UsageError::new(message).about(&["watch", "quiet"]));
    }
    Screen::open().ok_or_else(|| {
        UsageError::with_hint(
            "--watch draws on stderr, which is not a terminal here",
            "leave stderr at the terminal, or record the run with --trace FILE.jsonl",
        )
        .about(&["watch"])
    })
}

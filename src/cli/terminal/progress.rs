//! How far a run is: a bar, or the canvas itself.

use std::ops::Range;
use std::time::{Duration, Instant};

use diffucoder::diffusion::{Canvas, Settings, Step};
use diffucoder::package::Package;
use diffucoder::session::Observer;
use indicatif::ProgressBar;

use crate::cli::terminal::ui::{Screen, Ui};
use crate::cli::terminal::watch::Watch;
use crate::cli::usage::UsageError;

/// What is drawn of a run while it goes on.
pub struct Progress<'a> {
    ui: &'a Ui,
    /// Of the choice of lengths.
    trials: Option<ProgressBar>,
    run: Drawn<'a>,
}

enum Drawn<'a> {
    Bar { bar: ProgressBar, started: Instant },
    Watch(Box<Watch<'a>>),
}

impl<'a> Progress<'a> {
    /// A bar, drawn only on a terminal.
    pub fn bar(ui: &'a Ui, what: &str) -> Self {
        let (bar, started) = (ui.count_bar(what, "tokens", 0), Instant::now());
        Self {
            ui,
            trials: None,
            run: Drawn::Bar { bar, started },
        }
    }
    pub fn watch(ui: &'a Ui, screen: Screen, package: &'a Package) -> Self {
        Self {
            ui,
            trials: None,
            run: Drawn::Watch(Box::new(Watch::new(screen, package))),
        }
    }

    /// Takes the bar away; and the canvas too, unless the text goes elsewhere than to the terminal.
    pub fn finish(self) {
        match self.run {
            Drawn::Bar { bar, .. } => bar.finish_and_clear(),
            Drawn::Watch(watch) => watch.finish(!self.ui.stdout_is_terminal()),
        }
    }
}

impl Observer for Progress<'_> {
    fn on_trial(&mut self, done: usize) {
        let bar = || self.ui.tally("choosing lengths", "tried");
        self.trials
            .get_or_insert_with(bar)
            .set_position(done as u64);
    }

    fn on_start(&mut self, canvas: &Canvas, _: &Settings) {
        if let Some(bar) = self.trials.take() {
            bar.finish_and_clear();
        }
        if let Drawn::Bar { bar, started } = &mut self.run {
            *started = Instant::now();
            bar.set_length(masks(canvas));
            bar.reset_eta();
        }
    }

    fn on_step(&mut self, step: &Step<'_>) {
        match &mut self.run {
            Drawn::Watch(watch) => watch.on_step(step),
            Drawn::Bar { bar, started } => {
                let revealed = step.canvas.reveal_step().iter().flatten().count();
                let time = started.elapsed().max(Duration::from_millis(1));
                let rate = revealed as f64 / time.as_secs_f64();
                bar.set_length(masks(step.canvas));
                bar.set_position(revealed as u64);
                bar.set_message(format!("· step {} · {rate:.1} tokens/s", step.index + 1));
            }
        }
    }
}

/// Positions that are or were masks, of a canvas that can grow.
fn masks(canvas: &Canvas) -> u64 {
    canvas.holes().iter().map(Range::len).sum::<usize>() as u64
}

/// Several observers as one.
pub struct Observers<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Observers<'_> {
    fn on_trial(&mut self, done: usize) {
        self.0.iter_mut().for_each(|each| each.on_trial(done));
    }

    fn on_start(&mut self, canvas: &Canvas, settings: &Settings) {
        let each = self.0.iter_mut();
        each.for_each(|each| each.on_start(canvas, settings));
    }

    fn on_step(&mut self, step: &Step<'_>) {
        self.0.iter_mut().for_each(|each| each.on_step(step));
    }

    fn on_text(&mut self, hole: usize, text: &str) {
        self.0.iter_mut().for_each(|each| each.on_text(hole, text));
    }
}

/// The terminal for `--watch`.
pub fn screen(ui: &Ui) -> Result<Screen, UsageError> {
    if ui.is_quiet() {
        let message = "--watch draws on the terminal, which --quiet forbids";
        return Err(UsageError::new(message).about(&["watch", "quiet"]));
    }
    Screen::open().ok_or_else(|| {
        UsageError::with_hint(
            "--watch draws on stderr, which is no terminal that can be drawn on here",
            "leave stderr at the terminal, with its kind in TERM, or record the run with --trace \
             FILE.jsonl",
        )
        .about(&["watch"])
    })
}

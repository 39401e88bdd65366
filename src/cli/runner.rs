//! A job run for a person: under a bar or as the drawn canvas, and recorded if that is asked for.

use std::sync::Arc;

use diffucoder::session::{Conditions, Job, Outcome, Session};

use crate::cli::args::compute::Engine;
use crate::cli::args::shown::ShownArgs;
use crate::cli::json::{Asked, RunReport};
use crate::cli::terminal::progress::{self, Observers, Progress};
use crate::cli::terminal::stream::Stream;
use crate::cli::terminal::ui::{self, Ui};
use crate::cli::trace::{End, Recorder, TraceFile};

/// A loaded model, and what it is to do.
pub struct Runner<'a> {
    ui: &'a Ui,
    watch: bool,
    session: Session,
    job: Job,
    asked: Asked,
    recorder: Option<Recorder>,
}

impl<'a> Runner<'a> {
    /// Loads the model, once it is known that the trace can be written. `system` is the message of
    /// the chat template, where that is used.
    pub fn load(
        mut engine: Engine,
        (job, system): (Job, Option<&str>),
        shown: &ShownArgs,
        ui: &'a Ui,
    ) -> anyhow::Result<Self> {
        let trace = shown.trace.as_deref().map(TraceFile::create).transpose()?;
        engine.load(ui)?;
        let session = engine.session;
        let asked = Asked::new(&session, &job, system);
        let recorder = trace.map(|file| Recorder::new(file, session.package(), &asked));
        Ok(Self {
            ui,
            watch: shown.watch,
            session,
            job,
            asked,
            recorder,
        })
    }

    /// Runs with this seed. A stream prints the text while it is decided, and ends the run once
    /// nobody reads it.
    pub fn draw(&mut self, seed: u64, stream: Option<&mut Stream<'_>>) -> anyhow::Result<Outcome> {
        self.job.settings.seed = seed;
        let package = Arc::clone(self.session.package());
        let mut progress = match self.watch {
            true => Progress::watch(self.ui, progress::screen(self.ui)?, &package),
            false => Progress::bar(self.ui, "denoising"),
        };
        let is_over = stream.as_ref().map(|stream| stream.is_over());
        let mut observers = Observers(vec![&mut progress]);
        if let Some(recorder) = &mut self.recorder {
            observers.0.push(recorder);
        }
        if let Some(stream) = stream {
            observers.0.push(stream);
        }
        let mut conditions = Conditions {
            cancel: is_over.as_deref(),
            ..Conditions::watched(&mut observers)
        };
        let outcome = self.session.run_job(&mut self.job, &mut conditions)?;
        progress.finish();
        Ok(outcome)
    }

    /// Ends the record of a run that made `text`, if there is one.
    pub fn end(&mut self, text: &str, outcome: &Outcome) -> anyhow::Result<()> {
        match self.recorder.take() {
            Some(recorder) => recorder.finish(End::new(text.into(), &self.job, outcome)),
            None => Ok(()),
        }
    }

    /// Says what a run did: `what` came out.
    pub fn status(&self, what: &str, outcome: &Outcome) {
        self.ui.status(&format!(
            "{what} in {} ({:.1} tokens/s) · {} over {} · seed {}",
            ui::human_time(outcome.work.time),
            outcome.rate(),
            ui::count(outcome.work.forwards, "forward"),
            self.session.package().name(),
            self.job.settings.seed,
        ));
    }

    pub fn report(&self, outcome: &Outcome) -> RunReport {
        RunReport::new(&self.asked, &self.session, &self.job, outcome)
    }
}

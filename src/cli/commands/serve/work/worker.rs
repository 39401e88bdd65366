//! The threads that denoise: each has a session, takes a request at a time, and tells what comes
//! out as it comes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use diffucoder::chat::Message;
use diffucoder::diffusion::{Attention, Canvas, Settings, Step};
use diffucoder::infill::Template;
use diffucoder::package::{Package, Prompt};
use diffucoder::session::{Conditions, Finish, Hole, Job, Observer, Outcome, Session, Task};
use diffucoder::tokenizer::Specials;
use tokio::sync::mpsc::UnboundedSender;

use super::ask::{Ask, Form};
use super::event::{Event, Stop, Written};
use super::metrics::Metrics;
use super::queue::{Queue, Ticket};
use super::refusal::Refusal;
use super::shown::{MOST_SHOWN, Shown};
use crate::cli::args::sampling::{NewTokens, SamplingArgs};

/// What all sessions share.
#[derive(Clone)]
pub struct Worker<'a> {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    sampling: &'a SamplingArgs,
    /// Whether a canvas can grow with its text ([`diffucoder::diffusion::Decoding::reach`]).
    grows: bool,
    reuses_context: bool,
}

impl<'a> Worker<'a> {
    /// For sessions beside this one, which need not be loaded.
    ///
    /// # Errors
    /// Wrong usage that only the model can tell: it is found here, before there is a request.
    pub fn new(
        queue: &Arc<Queue>,
        metrics: &Arc<Metrics>,
        sampling: &'a SamplingArgs,
        session: &Session,
        reuses_context: bool,
    ) -> anyhow::Result<Self> {
        let task = Task::complete("\n").within(sampling.context());
        let settings = sampling.settings(session, &session.prepare(&task)?)?;
        Ok(Self {
            queue: Arc::clone(queue),
            metrics: Arc::clone(metrics),
            sampling,
            grows: settings.decoding.reach() < usize::MAX,
            reuses_context,
        })
    }
}

impl Worker<'_> {
    /// Answers requests until the queue is closed and empty.
    pub fn run(&self, mut session: Session) {
        while let Some(ticket) = self.queue.next() {
            let answered = catch_unwind(AssertUnwindSafe(|| self.answer(&ticket, &mut session)));
            let failed = match answered {
                Ok(answered) => answered.err(),
                Err(_) => {
                    session = session.beside(); // its state may be half-way through something
                    Some(Refusal::failed())
                }
            };
            self.queue.done(&ticket.call);
            if let Some(refusal) = failed {
                let _ = ticket.events.send(Event::Failed(refusal)); // the client may be gone
            }
        }
    }

    fn answer(&self, ticket: &Ticket, session: &mut Session) -> Result<(), Refusal> {
        let ask = &ticket.ask;
        let (given, mut job) = self.prepare(ask, session)?;
        if ask.is_shown && job.most_new_tokens() > MOST_SHOWN {
            let what = format!("its holes have more than {MOST_SHOWN} tokens");
            return Err(Refusal::field("text", &what));
        }
        let _ = ticket.events.send(Event::Begun); // as all events: the client may be gone
        let package = Arc::clone(session.package());
        for index in 0..ask.count as usize {
            let mut watcher = Watcher::new(index, ask, &given, &ticket.events);
            if ask.is_shown {
                watcher.canvas = Some((&package, job.given_bytes()));
            }
            let outcome = session.run_job(
                &mut job,
                &mut Conditions {
                    observer: Some(&mut watcher),
                    deadline: None,
                    cancel: Some(ticket.call.cancelled()),
                },
            )?;
            self.metrics
                .add(job.given_tokens(), outcome.tokens(), outcome.work);
            if outcome.finish() == Finish::Cancelled && !watcher.is_late {
                return Err(Refusal::replaced());
            }
            let written = watcher.written(&job, &outcome, session);
            let _ = ticket.events.send(Event::Written(Box::new(written)));
            job.settings.seed = job.settings.seed.wrapping_add(1);
        }
        Ok(())
    }

    /// The job of a request, with its settings over those of the command line.
    fn prepare<'t>(&self, ask: &'t Ask, session: &Session) -> Result<(Given<'t>, Job), Refusal> {
        let mut given = match &ask.form {
            Form::Chat(messages) if session.package().is_chat() => Given::Chat(messages),
            // A model that answers nothing continues what was said.
            Form::Chat(messages) => {
                let said = messages.iter().filter(|message| message.role != "system");
                let said: Vec<_> = said.map(|message| &*message.content).collect();
                Given::code(&said.join("\n"), "")
            }
            Form::Holes(template) => Given::Code {
                template: template.clone(),
                is_last: false,
            },
            Form::Code { prefix, suffix, .. } => Given::code(prefix, suffix),
        };
        let mut job = self.job(&given, ask, session)?;
        if let Form::Code {
            prefix,
            suffix,
            extra,
        } = &ask.form
            && job.left_out().is_nothing()
        {
            let shown = context(self.sampling, session);
            let new = job.most_new_tokens().min(shown / 2);
            let room = shown.saturating_sub(job.given_tokens() + new);
            let others = context_of(extra, room, session);
            if !others.is_empty() {
                given = Given::code(&(others + prefix), suffix);
                job = self.job(&given, ask, session)?;
            }
        }
        let settings = self.sampling.settings(session, &job);
        let mut settings = settings.map_err(|error| Refusal::bad(error.to_string()))?;
        let shaping = &mut settings.shaping;
        shaping.temperature = ask.temperature.unwrap_or(shaping.temperature);
        shaping.top_p = ask.top_p.or(shaping.top_p).filter(|&p| p < 1.0);
        shaping.top_k = ask.top_k.or(shaping.top_k).filter(|&k| k > 0);
        settings.seed = ask.seed.unwrap_or(settings.seed);
        // In a block-causal model what is kept does not depend on what follows.
        let is_exact = session.package().config.attention != Attention::Full;
        settings.decoding.reuse_context = self.reuses_context || is_exact;
        job.settings = settings;
        job.ends = ask.ends.clone();
        Ok((given, job))
    }

    /// What follows a prompt takes no more than the prompt leaves, and of one that leaves nothing
    /// half of the context.
    fn job(&self, given: &Given<'_>, ask: &Ask, session: &Session) -> Result<Job, Refusal> {
        let (wanted, context) = (self.sampling.context(), context(self.sampling, session));
        let usual = match self.sampling.max_new_tokens {
            NewTokens::Auto => usize::MAX,
            NewTokens::Most(tokens) => tokens,
        };
        let up_to = ask.most.unwrap_or(usual).max(1);
        let task = |hole| match given {
            // The hole's first token reaches into the text before it: editors indent the line that
            // is to be written, and a model has hardly ever seen those blanks end there.
            Given::Code { template, .. } => Task::fill(template, hole),
            Given::Chat(messages) => {
                let (messages, answer) = match messages.split_last() {
                    Some((last, before)) if last.role == "assistant" => (before, &*last.content),
                    _ => (*messages, ""),
                };
                Task::answer(Prompt::Conversation { messages, answer }, hole)
            }
        };
        if let Given::Code {
            template,
            is_last: false,
        } = given
        {
            let up_to = up_to.min(session.usual_hole()).min(context / 2);
            let task = session.fill(template, session.open_hole(up_to));
            return Ok(session.prepare(&task.within(wanted))?);
        }
        let prepare = |hole| session.prepare(&task(hole).within(wanted));
        if self.grows {
            return Ok(prepare(Hole::Growing { up_to })?);
        }
        let alone = prepare(Hole::Exactly(1))?;
        let room = match alone.left_out().is_nothing() {
            true => context.saturating_sub(alone.given_tokens()),
            false => context / 2,
        };
        Ok(prepare(Hole::Exactly(up_to.min(room).max(1)))?)
    }
}

/// Tokens that the model is shown, given and new.
pub fn context(sampling: &SamplingArgs, session: &Session) -> usize {
    let longest = session.longest_context();
    let wanted = sampling.context();
    wanted.map_or_else(|| session.usual_context(), |tokens| tokens.min(longest))
}

/// Those of some texts that fit into so many tokens; the last are the first to be taken.
fn context_of(extra: &[String], mut room: usize, session: &Session) -> String {
    const MOST_BYTES_OF_TOKEN: usize = 16; // of a text that is worth tokenizing
    let mut kept = Vec::new();
    for text in extra.iter().rev() {
        let text = format!("{}\n\n", text.trim_end());
        if text.len() > room.saturating_mul(MOST_BYTES_OF_TOKEN) {
            continue;
        }
        let ids = session.package().tokenizer.encode_plain(&text);
        let tokens = ids.map_or(usize::MAX, |ids| ids.len());
        if tokens <= room {
            room -= tokens;
            kept.push(text);
        }
    }
    kept.reverse();
    kept.concat()
}

/// What the model is given, and how what it writes becomes text of the same file.
enum Given<'a> {
    Code {
        template: Template,
        /// Whether nothing follows its only hole.
        is_last: bool,
    },
    Chat(&'a [Message]),
}

impl Given<'_> {
    fn code(prefix: &str, suffix: &str) -> Self {
        Self::Code {
            template: Template::between(prefix.as_bytes(), suffix.as_bytes()),
            is_last: suffix.is_empty(),
        }
    }

    /// The same of all holes.
    fn fillings(&self, outcome: &Outcome) -> Vec<String> {
        let written: Vec<_> = outcome.holes.iter().map(|hole| &*hole.text).collect();
        let Self::Code { template, .. } = self else {
            return written.into_iter().map(str::to_string).collect();
        };
        let (bytes, places) = template.fill(&written);
        let text = |place| String::from_utf8_lossy(&bytes[place]).into_owned();
        places.into_iter().map(text).collect()
    }

    /// What the model wrote with the line ends of the text round it.
    fn result(&self, written: &str) -> String {
        match self {
            Self::Code { template, .. } => template.fill_one(written),
            Self::Chat(_) => written.to_string(),
        }
    }
}

/// Passes text on as it is decided, and ends the run when its time is over and it has a line.
struct Watcher<'a> {
    index: usize,
    ask: &'a Ask,
    given: &'a Given<'a>,
    events: &'a UnboundedSender<Event>,
    /// What its canvas is shown with: bytes that stand before each hole already.
    canvas: Option<(&'a Package, Vec<usize>)>,
    started: Instant,
    first_step: Option<Instant>,
    has_line: bool,
    is_late: bool,
}

impl Observer for Watcher<'_> {
    fn on_start(&mut self, canvas: &Canvas, _settings: &Settings) {
        self.show(canvas, None);
    }

    fn on_step(&mut self, step: &Step<'_>) {
        self.show(step.canvas, Some(step));
        let now = Instant::now();
        let first = *self.first_step.get_or_insert(now);
        self.is_late = self.ask.limit.is_some_and(|limit| now - first >= limit);
    }

    fn on_text(&mut self, _hole: usize, text: &str) {
        self.has_line |= text.contains('\n');
        if self.ask.is_streamed {
            let text = self.given.result(text);
            let _ = self.events.send(Event::Text(self.index, text)); // the client may be gone
        }
    }

    fn has_enough(&self) -> bool {
        self.is_late && self.has_line
    }
}

impl<'a> Watcher<'a> {
    fn new(
        index: usize,
        ask: &'a Ask,
        given: &'a Given<'a>,
        events: &'a UnboundedSender<Event>,
    ) -> Self {
        Self {
            index,
            ask,
            given,
            events,
            canvas: None,
            started: Instant::now(),
            first_step: None,
            has_line: false,
            is_late: false,
        }
    }

    fn show(&self, canvas: &Canvas, step: Option<&Step<'_>>) {
        if let Some((package, given)) = &self.canvas {
            let shown = Shown::of(canvas, step, package, given);
            let _ = self.events.send(Event::Shown(Box::new(shown))); // the client may be gone
        }
    }

    fn written(&self, job: &Job, outcome: &Outcome, session: &Session) -> Written {
        let mut text = outcome.text();
        let stop = match outcome.finish() {
            Finish::Stop => self.stopping_word(&text, outcome, session),
            Finish::Length | Finish::Deadline => Stop::Limit,
            Finish::Cancelled => {
                // No half of a line where there is a whole one.
                let lines = text.rfind('\n').unwrap_or(text.len());
                text.truncate(lines);
                Stop::Limit
            }
        };
        let ended = Instant::now();
        let first = self.first_step.unwrap_or(ended);
        Written {
            index: self.index,
            text: self.given.result(&text),
            fillings: self.given.fillings(outcome),
            stop,
            given: job.given_tokens(),
            tokens: outcome.tokens(),
            is_cut: !job.left_out().is_nothing(),
            times: [first - self.started, ended - first],
            settings: Some(job.settings.clone()),
            work: outcome.work,
        }
    }

    /// What ended a text: one of the given texts, if that follows in what the model wrote.
    fn stopping_word(&self, text: &str, outcome: &Outcome, session: &Session) -> Stop {
        let Some(hole) = outcome.holes.first() else {
            return Stop::End;
        };
        let written = session
            .package()
            .tokenizer
            .decode(&hole.ids, Specials::Keep);
        let rest = written.find(text).map(|at| &written[at + text.len()..]);
        let stops = self.ask.ends.texts.iter().filter(|stop| !stop.is_empty());
        let word = stops
            .clone()
            .find(|stop| rest.is_some_and(|rest| rest.starts_with(&***stop)));
        word.map_or(Stop::End, |word| Stop::Word(word.clone()))
    }
}

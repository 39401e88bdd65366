//! The threads that denoise: each has a session, takes a request at a time, and tells what comes
//! out as it comes.

use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use diffucoder::chat::{Message, said};
use diffucoder::diffusion::{Attention, Canvas, Settings, Step};
use diffucoder::infill::Template;
use diffucoder::package::{Package, Prompt};
use diffucoder::session::{Conditions, Finish, Hole, Job, Observer, Outcome, Session, Task};
use diffucoder::text::lines;
use diffucoder::tokenizer::Specials;
use tokio::sync::mpsc::UnboundedSender;

use super::ask::{Ask, Form};
use super::event::{Event, Stop, Written};
use super::metrics::Metrics;
use super::queue::{Queue, Ticket};
use super::refusal::Refusal;
use super::shown::{MOST_SHOWN, Shown};
use crate::cli::args::sampling::{NewTokens, SamplingArgs, as_usage};

/// What all sessions share.
pub struct Worker<'a> {
    queue: Arc<Queue>,
    /// What they have done.
    pub metrics: Arc<Metrics>,
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
        sampling: &'a SamplingArgs,
        session: &Session,
        reuses_context: bool,
    ) -> anyhow::Result<Self> {
        let new = match (sampling.max_new_tokens, sampling.context()) {
            (NewTokens::Most(most), Some(context)) => most.min(context.saturating_sub(2)).max(1),
            (NewTokens::Most(most), None) => most,
            (NewTokens::Auto, _) => 1,
        };
        let task = Task::answer(Prompt::Raw("\n"), Hole::Exactly(new));
        let task = task.within(sampling.context());
        let job = session.prepare(&task).map_err(as_usage)?;
        let settings = sampling.settings_of_any_length(session, &job)?;
        Ok(Self {
            queue: Arc::clone(queue),
            metrics: Arc::default(),
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
        for number in 0..ticket.ask.forms.len() {
            self.write(ticket, number, session)?;
        }
        Ok(())
    }

    /// The texts of the form with this number.
    fn write(&self, ticket: &Ticket, number: usize, session: &mut Session) -> Result<(), Refusal> {
        let ask = &ticket.ask;
        let (given, mut job) = self.prepare(&ask.forms[number], ask, session)?;
        if ask.is_shown && job.most_new_tokens() - written_again(&job) > MOST_SHOWN {
            let what = format!("its holes have more than {MOST_SHOWN} tokens");
            return Err(Refusal::field("text", &what));
        }
        if number == 0 {
            let _ = ticket.events.send(Event::Begun); // as all events: the client may be gone
        }
        let package = Arc::clone(session.package());
        let count = ask.count as usize;
        for index in number * count..(number + 1) * count {
            let mut watcher = Watcher {
                index,
                ask,
                given: &given,
                events: &ticket.events,
                package: &package,
                given_bytes: job.given_bytes(),
                held: String::new(),
                started: Instant::now(),
                first_step: None,
                has_enough: false,
            };
            let outcome = session.run_job(
                &mut job,
                &mut Conditions {
                    observer: Some(&mut watcher),
                    deadline: None,
                    cancel: Some(ticket.call.cancelled()),
                },
            )?;
            let written = watcher.written(&job, &outcome, session);
            self.metrics
                .add(written.given, written.tokens, outcome.work);
            if outcome.finish() == Finish::Cancelled && !watcher.has_enough {
                return Err(Refusal::replaced());
            }
            let _ = ticket.events.send(Event::Written(Box::new(written)));
            job.settings.seed = job.settings.seed.wrapping_add(1);
        }
        Ok(())
    }

    /// The job of a form, with the settings of its request over those of the command line.
    fn prepare<'t>(
        &self,
        form: &'t Form,
        ask: &'t Ask,
        session: &Session,
    ) -> Result<(Given<'t>, Job), Refusal> {
        let mut given = match form {
            Form::Chat(messages) if session.package().is_chat() => Given::Chat(messages),
            // A model that answers nothing continues what was said.
            Form::Chat(messages) => {
                let said = said(messages);
                Given::between(&said, "", lines::is_crlf(said.as_bytes()))
            }
            Form::Holes(template) => Given::Code {
                is_crlf: lines::is_crlf(template.bytes()),
                template: template.clone(),
                is_last: false,
            },
            Form::Code {
                prefix,
                suffix,
                is_crlf,
                ..
            } => Given::between(prefix, suffix, *is_crlf),
        };
        let mut job = self.job(&given, ask, session)?;
        if let Form::Code {
            prefix,
            suffix,
            extra,
            is_crlf,
        } = form
            && job.left_out().is_nothing()
        {
            let shown = session.context(self.sampling.context());
            let new = job.most_new_tokens().min(shown / 2);
            let room = shown.saturating_sub(job.given_tokens() + new);
            let others = context_of(extra, room, session);
            if !others.is_empty() {
                let others = given.result(&lines::to_lf(&others)); // the file's line ends win
                given = Given::between(&(others + prefix), suffix, *is_crlf);
                job = self.job(&given, ask, session)?;
            }
        }
        let settings = self.sampling.settings_of_any_length(session, &job);
        let mut settings = settings.map_err(|error| Refusal::bad(error.to_string()))?;
        settings.shaping = settings
            .shaping
            .asked(ask.temperature, ask.top_p, ask.top_k);
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
        let wanted = self.sampling.context();
        let context = session.context(wanted);
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
            ..
        } = given
        {
            let up_to = up_to.min(session.usual_hole()).min(context / 2);
            let prepare = |up_to| {
                let task = session.fill(template, session.open_hole(up_to));
                session.prepare(&task.within(wanted))
            };
            let job = prepare(up_to)?;
            return Ok(match written_again(&job) {
                0 => job,
                again => prepare(up_to + again)?,
            });
        }
        let prepare = |hole| session.prepare(&task(hole).within(wanted));
        let alone = prepare(Hole::Exactly(1))?;
        let up_to = up_to.saturating_add(written_again(&alone));
        if self.grows {
            return Ok(prepare(Hole::Growing { up_to })?);
        }
        let room = match alone.left_out().is_nothing() {
            true => context.saturating_sub(alone.given_tokens()),
            false => context / 2,
        };
        Ok(prepare(Hole::Exactly(up_to.min(room).max(1)))?)
    }
}

/// Tokens of the given text that the model writes again, as the first of their holes.
fn written_again(job: &Job) -> usize {
    job.given_bytes().iter().filter(|&&bytes| bytes > 0).count()
}

/// Bytes of the whole lines of an unfinished text, without the end of the last. None where they are
/// blank: there is nothing in them to wait for.
fn whole_lines(text: &[u8]) -> Option<usize> {
    let end = text.iter().rposition(|&byte| byte == b'\n')?;
    (!text[..end].trim_ascii().is_empty()).then_some(end)
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
        is_crlf: bool,
    },
    Chat(&'a [Message]),
}

impl Given<'_> {
    fn between(prefix: &str, suffix: &str, is_crlf: bool) -> Self {
        Self::Code {
            template: Template::between(prefix.as_bytes(), suffix.as_bytes()),
            is_last: suffix.is_empty(),
            is_crlf,
        }
    }

    /// What the model wrote with the line ends of the text round it.
    fn result(&self, written: &str) -> String {
        match self {
            Self::Code { is_crlf: true, .. } => lines::to_crlf(written).into_owned(),
            Self::Code { .. } | Self::Chat(_) => written.to_string(),
        }
    }
}

/// Passes text on as it is decided, and ends the run when its time is over and it has a line.
struct Watcher<'a> {
    index: usize,
    ask: &'a Ask,
    given: &'a Given<'a>,
    events: &'a UnboundedSender<Event>,
    package: &'a Package,
    /// Bytes that stand before each hole already.
    given_bytes: Vec<usize>,
    /// Decided text that the end of the time can still cut off.
    held: String,
    started: Instant,
    first_step: Option<Instant>,
    has_enough: bool,
}

impl Observer for Watcher<'_> {
    fn on_start(&mut self, canvas: &Canvas, _settings: &Settings) {
        self.show(canvas, None);
    }

    fn on_step(&mut self, step: &Step<'_>) {
        self.show(step.canvas, Some(step));
        let now = Instant::now();
        let first = *self.first_step.get_or_insert(now);
        let is_late = self.ask.limit.is_some_and(|limit| now - first >= limit);
        self.has_enough = is_late && self.is_usable(step.canvas);
    }

    fn on_text(&mut self, _hole: usize, text: &str) {
        if self.ask.is_streamed {
            self.held.push_str(text);
            let sure = match self.ask.limit {
                Some(_) => self.held.rfind('\n').unwrap_or(0),
                None => self.held.len(),
            };
            self.send_held(sure);
        }
    }

    fn has_enough(&self) -> bool {
        self.has_enough
    }
}

impl Watcher<'_> {
    /// Whether a canvas can be left as it is: there is a line, or nothing is missing. Tokens that
    /// would be looked at again count, as they would not be better than none.
    fn is_usable(&self, canvas: &Canvas) -> bool {
        let stop_ids = &self.package.stop_ids;
        let given = self.given_bytes.iter().copied().chain(iter::repeat(0));
        let holes = canvas.holes().iter().zip(given).map(|(hole, given)| {
            let decided = canvas.decided_in(hole, stop_ids);
            let ids = &canvas.ids()[hole.start..hole.start + decided];
            let bytes = ids
                .iter()
                .flat_map(|&id| self.package.tokenizer.token_bytes(id));
            let has_line = whole_lines(&bytes.skip(given).collect::<Vec<_>>()).is_some();
            let is_whole = decided == hole.len() || canvas.stop_in(hole, stop_ids).is_some();
            (has_line, is_whole)
        });
        let all: Vec<_> = holes.collect();
        all.iter().any(|&(has_line, _)| has_line) || all.iter().all(|&(_, is_whole)| is_whole)
    }

    /// Sends the first `bytes` of what was held back.
    fn send_held(&mut self, bytes: usize) {
        if bytes > 0 {
            let text: String = self.held.drain(..bytes).collect();
            let text = self.given.result(&text);
            let _ = self.events.send(Event::Text(self.index, text)); // the client may be gone
        }
    }

    fn show(&self, canvas: &Canvas, step: Option<&Step<'_>>) {
        if self.ask.is_shown {
            let shown = Shown::of(canvas, step, self.package, &self.given_bytes);
            let _ = self.events.send(Event::Shown(Box::new(shown))); // the client may be gone
        }
    }

    fn written(&mut self, job: &Job, outcome: &Outcome, session: &Session) -> Written {
        let mut text = outcome.text();
        let again = written_again(job);
        let tokens = outcome.tokens().saturating_sub(again);
        // A hole is as long as it is because of what follows.
        let is_hole = matches!(self.given, Given::Code { is_last: false, .. });
        let has_room = is_hole && self.ask.most.is_none_or(|most| tokens < most);
        let stop = match outcome.finish() {
            Finish::Stop => self.stopping_word(&text, outcome, session),
            Finish::Length if has_room => Stop::End,
            Finish::Length | Finish::Deadline => Stop::Limit,
            Finish::Cancelled => {
                // No half of a line where there is a whole one.
                if let Some(lines) = whole_lines(text.as_bytes()) {
                    text.truncate(lines);
                    self.held.clear();
                }
                Stop::Limit
            }
        };
        self.send_held(self.held.len());
        let ended = Instant::now();
        let first = self.first_step.unwrap_or(ended);
        Written {
            index: self.index,
            text: self.given.result(&text),
            fillings: outcome
                .holes
                .iter()
                .map(|hole| self.given.result(&hole.text))
                .collect(),
            stop,
            given: job.given_tokens() + again,
            tokens,
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

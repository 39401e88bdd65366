//! Several lines at work at a time, each on a thread with a session of its own; what comes of them
//! is given out in the order of the lines.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope};

use anyhow::Context;

use diffucoder::session::Session;

use super::input::{Lines, Numbered};
use crate::cli::threads;

/// Lines that may wait, for each that is worked on, until an earlier one is done.
const AHEAD: usize = 4;

/// What comes of a line, in this order.
#[derive(Debug)]
pub enum Event<T> {
    Result(T),
    /// There are no more results of it.
    Ended(anyhow::Result<()>),
}

/// Where the work on a line puts its results.
pub type Emit<'a, T> = &'a mut dyn FnMut(T);

enum Message<T> {
    Line(anyhow::Result<Option<Numbered>>),
    Of(u64, Event<T>),
    Idle(Box<Session>),
    Panicked(Box<dyn Any + Send>),
}

/// Lines at work.
pub struct Workers<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    /// Once it is set, no work goes on.
    cancelled: &'scope AtomicBool,
    idle: Vec<Session>,
    running: usize,
    most: usize,
    /// The line and what has come of it, oldest first.
    begun: VecDeque<(usize, VecDeque<Event<T>>)>,
    /// The number of the oldest among all that were begun.
    oldest: u64,
    sender: Sender<Message<T>>,
    receiver: Receiver<Message<T>>,
    /// Asks for a line. Only then is one read: whoever writes them may wait for a result first.
    want: Sender<()>,
    is_wanted: bool,
    /// Whether the last line has been read.
    is_read: bool,
}

/// What is to be done next.
pub enum Next<T> {
    /// This has come of the line with this number.
    Event(usize, Event<T>),
    /// This line is to be begun, or said to be over.
    Line(Numbered),
    Nothing,
}

impl<'scope, 'env, T: Send + 'scope> Workers<'scope, 'env, T> {
    /// `most` lines at a time, read from `lines`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(
        scope: &'scope Scope<'scope, 'env>,
        (mut lines, most): (Lines, usize),
        cancelled: &'scope AtomicBool,
    ) -> anyhow::Result<Self>
    where
        T: 'static,
    {
        let (sender, receiver) = channel();
        let (want, wanted) = channel();
        let read = sender.clone();
        // Not in the scope: a read from a terminal or a pipe cannot be ended.
        threads::start(move || {
            while let Ok(()) = wanted.recv() {
                if read.send(Message::Line(lines.next())).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            scope,
            cancelled,
            idle: Vec::new(),
            running: 0,
            most,
            begun: VecDeque::new(),
            oldest: 0,
            sender,
            receiver,
            want,
            is_wanted: false,
            is_read: false,
        })
    }

    /// What ends the work.
    pub fn cancelled(&self) -> &'scope AtomicBool {
        self.cancelled
    }

    /// Whether none is working.
    pub fn is_idle(&self) -> bool {
        self.running == 0
    }

    /// Waits for what is to be done next.
    ///
    /// # Errors
    /// When the input cannot be read on.
    pub fn next(&mut self) -> anyhow::Result<Next<T>> {
        loop {
            if let Some((number, events)) = self.begun.front_mut()
                && let Some(event) = events.pop_front()
            {
                let number = *number;
                if matches!(event, Event::Ended(_)) {
                    self.begun.pop_front();
                    self.oldest += 1;
                }
                return Ok(Next::Event(number, event));
            }
            let has_room =
                self.running < self.most && self.begun.len() < self.most.saturating_mul(AHEAD);
            if has_room && !self.is_wanted && !self.is_read {
                self.is_wanted = self.want.send(()).is_ok();
                self.is_read = !self.is_wanted; // whoever reads is gone
            }
            if self.is_read && self.begun.is_empty() {
                return Ok(Next::Nothing);
            }
            match self.receiver.recv()? {
                Message::Line(line) => {
                    self.is_wanted = false;
                    match line? {
                        Some(line) => return Ok(Next::Line(line)),
                        None => self.is_read = true,
                    }
                }
                Message::Of(number, event) => self.put(number, event),
                Message::Idle(session) => {
                    self.running -= 1;
                    self.idle.push(*session);
                }
                Message::Panicked(panic) => resume_unwind(panic),
            }
        }
    }

    fn put(&mut self, number: u64, event: Event<T>) {
        let at = (number - self.oldest) as usize;
        if let Some((_, events)) = self.begun.get_mut(at) {
            events.push_back(event);
        }
    }

    /// A line of which nothing comes but this.
    pub fn end(&mut self, line: usize, ended: anyhow::Result<()>) {
        self.begun.push_back((line, [Event::Ended(ended)].into()));
    }

    /// Begins to work on a line, with a session that is idle or, if none is, with a new one.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(
        &mut self,
        line: usize,
        session: impl FnOnce() -> Session,
        work: impl FnOnce(&mut Session, Emit<'_, T>) -> anyhow::Result<()> + Send + 'scope,
    ) -> anyhow::Result<()> {
        let number = self.oldest + self.begun.len() as u64;
        self.begun.push_back((line, VecDeque::new()));
        self.running += 1;
        let mut session = Box::new(self.idle.pop().unwrap_or_else(session));
        let sender = self.sender.clone();
        // As for all that is sent: if nobody receives, nobody needs it.
        let send = move |message| drop(sender.send(message));
        let worker = thread::Builder::new().spawn_scoped(self.scope, move || {
            let emit = &mut |result| send(Message::Of(number, Event::Result(result)));
            match catch_unwind(AssertUnwindSafe(|| work(&mut session, emit))) {
                Ok(ended) => {
                    send(Message::Of(number, Event::Ended(ended)));
                    send(Message::Idle(session));
                }
                Err(panic) => send(Message::Panicked(panic)),
            }
        });
        worker.context(threads::NONE).map(|_| ())
    }
}

impl<T> Drop for Workers<'_, '_, T> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

//! Who watches a run and what can end it: progress, the text as it is decided, deadline and
//! cancelling.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::ends::{Ends, Known};
use crate::diffusion::{self, Canvas, Generation, Settings, Step};
use crate::tokenizer::Tokenizer;

/// Is told how a run goes on, by its thread and between its passes: they wait for it, and so do
/// those of sessions beside it.
pub trait Observer {
    /// After each forward pass that helps to choose lengths: how many are done.
    fn on_trial(&mut self, _done: usize) {}

    /// Before the first step.
    fn on_start(&mut self, _canvas: &Canvas, _settings: &Settings) {}

    /// After each step.
    fn on_step(&mut self, _step: &Step<'_>) {}

    /// Tokens of a hole that will not change any more, in their order: nothing before them is
    /// masked.
    fn on_decided(&mut self, _hole: usize, _ids: &[u32]) {}

    /// The same as text, in whole characters, without what stands before the hole already, and up
    /// to where the job's [`super::Ends`] cut it.
    fn on_text(&mut self, _hole: usize, _text: &str) {}

    /// Whether all that is wanted is decided: no forward pass begins after that.
    fn has_enough(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observer for () {}

/// Under what conditions a run goes on. By default it goes on to its end, unwatched.
#[derive(Default)]
pub struct Conditions<'a> {
    /// Watches.
    pub observer: Option<&'a mut dyn Observer>,
    /// No forward pass begins after it.
    pub deadline: Option<Instant>,
    /// No forward pass begins once it is set.
    pub cancel: Option<&'a AtomicBool>,
}

impl<'a> Conditions<'a> {
    /// To the end, watched.
    pub fn watched(observer: &'a mut dyn Observer) -> Self {
        Self {
            observer: Some(observer),
            ..Self::default()
        }
    }

    /// Tells the observer, if there is one.
    pub(super) fn tell(&mut self, what: impl FnOnce(&mut dyn Observer)) {
        if let Some(observer) = &mut self.observer {
            what(*observer);
        }
    }

    /// Why the run is to end before its end.
    pub(super) fn is_over(&self) -> Option<Ended> {
        let observer = self.observer.as_ref();
        if observer.is_some_and(|observer| observer.has_enough()) {
            return Some(Ended::Enough);
        }
        if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Some(Ended::Cancelled);
        }
        let is_late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        is_late.then_some(Ended::Late)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Whole,
    /// All that is wanted was decided.
    Enough,
    Late,
    Cancelled,
}

/// Passes steps on, with what each of them decides, and looks at the conditions.
pub(super) struct Watch<'c, 'o> {
    conditions: &'c mut Conditions<'o>,
    stop_ids: &'c [u32],
    /// Tokens of each hole that are wanted.
    most: Vec<usize>,
    /// Whether tokens are looked at again, so that nothing is decided before the end.
    is_remasked: bool,
    decided: Vec<usize>, // tokens of each hole that were passed on
    ended: Ended,
}

impl<'c, 'o> Watch<'c, 'o> {
    pub fn new(
        conditions: &'c mut Conditions<'o>,
        stop_ids: &'c [u32],
        most: Vec<usize>,
        is_remasked: bool,
    ) -> Self {
        Self {
            conditions,
            stop_ids,
            most,
            is_remasked,
            decided: Vec::new(),
            ended: Ended::Whole,
        }
    }

    /// Passes the rest on.
    pub fn finish(mut self, done: &Generation) -> Ended {
        self.decide(&done.canvas);
        self.ended
    }

    fn decide(&mut self, canvas: &Canvas) {
        self.decided.resize(canvas.holes().len(), 0);
        for (number, hole) in canvas.holes().iter().enumerate() {
            let before = self.decided[number];
            let now = canvas.decided_in(hole, self.stop_ids);
            let now = now.min(self.most[number]);
            if now > before {
                let ids = &canvas.ids()[hole.start + before..hole.start + now];
                self.conditions
                    .tell(|observer| observer.on_decided(number, ids));
                self.decided[number] = now;
            }
        }
    }
}

impl diffusion::Observer for Watch<'_, '_> {
    fn on_step(&mut self, step: &Step<'_>) {
        self.conditions.tell(|observer| observer.on_step(step));
        if !self.is_remasked {
            self.decide(step.canvas);
        }
    }

    fn goes_on(&mut self) -> bool {
        match self.conditions.is_over() {
            Some(ended) => {
                self.ended = ended;
                false
            }
            None => true,
        }
    }
}

/// Makes text of decided tokens for another observer.
pub(super) struct Texts<'a> {
    observer: &'a mut dyn Observer,
    tokenizer: &'a Tokenizer,
    ends: &'a Ends,
    given: Vec<usize>,
    holes: Vec<HoleText>,
}

#[derive(Default, Clone)]
struct HoleText {
    given: usize,  // bytes that stand before it already
    half: Vec<u8>, // of a character
    text: String,
    /// Bytes of it that were passed on.
    passed: usize,
    is_over: bool,
}

impl<'a> Texts<'a> {
    /// `given` bytes of each hole's first token stand in the text before it.
    pub fn new(
        observer: &'a mut dyn Observer,
        tokenizer: &'a Tokenizer,
        ends: &'a Ends,
        given: Vec<usize>,
    ) -> Self {
        Self {
            observer,
            tokenizer,
            ends,
            given,
            holes: Vec::new(),
        }
    }

    /// What is left when no more tokens come; half a character is nothing, as in the whole text.
    pub fn finish(mut self) {
        for number in 0..self.holes.len() {
            let hole = &self.holes[number];
            let end = self.ends.cut(&hole.text).unwrap_or(hole.text.len());
            self.pass(number, end);
        }
    }

    /// Passes the text of a hole on, up to `end`.
    fn pass(&mut self, number: usize, end: usize) {
        let hole = &mut self.holes[number];
        if end > hole.passed {
            self.observer.on_text(number, &hole.text[hole.passed..end]);
            hole.passed = end;
        }
    }
}

impl Observer for Texts<'_> {
    fn on_trial(&mut self, done: usize) {
        self.observer.on_trial(done);
    }

    fn on_start(&mut self, canvas: &Canvas, settings: &Settings) {
        let holes = self.given.iter().map(|&given| HoleText {
            given,
            ..HoleText::default()
        });
        self.holes = holes.collect();
        self.observer.on_start(canvas, settings);
    }

    fn on_step(&mut self, step: &Step<'_>) {
        self.observer.on_step(step);
    }

    fn on_decided(&mut self, number: usize, ids: &[u32]) {
        self.observer.on_decided(number, ids);
        let Some(hole) = self.holes.get_mut(number) else {
            return;
        };
        let bytes = &mut hole.half;
        bytes.extend(ids.iter().flat_map(|&id| self.tokenizer.token_bytes(id)));
        let given = std::mem::take(&mut hole.given);
        bytes.drain(..given.min(bytes.len()));
        let whole = whole_characters(bytes);
        hole.text
            .push_str(&String::from_utf8_lossy(&bytes[..whole]));
        bytes.drain(..whole);
        match self.ends.look(&hole.text) {
            Known::Sure(end) => self.pass(number, end),
            Known::End(end) => {
                self.pass(number, end);
                self.holes[number].is_over = true;
            }
        }
    }

    fn has_enough(&self) -> bool {
        let all = !self.holes.is_empty() && self.holes.iter().all(|hole| hole.is_over);
        all || self.observer.has_enough()
    }
}

/// Length of the bytes without the beginning of a character at their end.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    let is_half = |len: &usize| {
        let tail = std::str::from_utf8(&bytes[bytes.len() - len..]);
        tail.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    bytes.len() - (1..=bytes.len().min(3)).find(is_half).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Cut anywhere, the pieces are the text, but for half a character at its end.
        #[test]
        fn text_comes_in_whole_characters(
            text in "[aé€𝄞]{0,12}",
            broken in proptest::collection::vec(proptest::num::u8::ANY, 0..6),
            cuts in proptest::collection::vec(1..5usize, 0..40),
        ) {
            let bytes = [text.as_bytes(), &broken, text.as_bytes()].concat();
            let (mut rest, mut held, mut said) = (&bytes[..], Vec::new(), String::new());
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let (piece, next) = rest.split_at(cut.min(rest.len()));
                rest = next;
                held.extend_from_slice(piece);
                let whole = whole_characters(&held);
                said.push_str(&String::from_utf8_lossy(&held[..whole]));
                held.drain(..whole);
            }
            let whole = whole_characters(&bytes);
            proptest::prop_assert_eq!(said, String::from_utf8_lossy(&bytes[..whole]));
        }
    }

    #[test]
    fn half_a_character_at_the_end_is_none() {
        for (bytes, whole) in [
            (&b"a\xf0\x9f\x98"[..], 1),
            (b"a\xc3", 1),
            (b"a\xc3\xa9", 3),
            (b"a\xff", 2),
            (b"\xf0\x9fa", 3),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }
}

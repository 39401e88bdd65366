//! A run over a canvas, step by step: what the next pass is, and how much of it is revealed.

use super::blocks::Attention;
use super::canvas::{Canvas, Edit};
use super::confidence::Candidate;
use super::decoding::Cache;
use super::denoiser::Pass;
use super::kept::Kept;
use super::random::Draws;
use super::remasking::Remasking;
use super::reveal::{Amount, Reveal};
use super::schedule::{Schedule, Steps};
use super::settings::{Ending, Settings};
use super::window::Window;

/// What is left to do on a canvas.
#[derive(Debug)]
pub(super) struct Run<'a> {
    settings: &'a Settings,
    pace: Pace,
    remasking: Remasking,
    frame: Frame,
    attention: Attention,
    steps: usize,
}

/// One step.
#[derive(Debug)]
pub(super) struct Frame {
    window: Window,
    reveal: Reveal,
    amount: Amount,
    /// Number of the step, 0-based.
    pub step: usize,
    /// Its randomness.
    pub draws: Draws,
}

impl<'a> Run<'a> {
    /// `kept` are the tokens whose keys and values an earlier run left.
    pub fn new(canvas: &Canvas, settings: &'a Settings, attention: Attention, kept: &Kept) -> Self {
        let growth = canvas.limit() - canvas.ids().len();
        Self {
            settings,
            pace: Pace::new(settings, canvas.masked().len() + growth),
            // A token that is predicted again could change the length of what was decided, P2 has a
            // plan of its own, and finished blocks do not change.
            remasking: Remasking::new(match attention {
                _ if canvas.is_resizing() || settings.is_planned(canvas) => 0,
                Attention::BlockCausal(_) => 0,
                Attention::Full => settings.remask,
            }),
            frame: Frame {
                window: Window::new(canvas, settings, attention, kept),
                reveal: Reveal::of(settings),
                amount: Amount::default(),
                step: 0,
                draws: Draws::new(settings.seed, 0),
            },
            attention,
            steps: 0,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The canvas was edited.
    pub fn moved(&mut self, edits: &[Edit]) {
        self.frame.window.moved(edits);
    }

    /// The next step; `None` if every mask that matters is revealed. The canvas grows here, and is
    /// masked again here where second thoughts are wanted.
    pub fn next(&mut self, canvas: &mut Canvas) -> Option<&Frame> {
        let (settings, step) = (self.settings, self.steps);
        if canvas.is_resizing() && matches!(settings.steps, Steps::Count(most) if step >= most) {
            return None;
        }
        let window = &mut self.frame.window;
        match self.attention {
            Attention::Full => {
                canvas.grow(settings.decoding.reach());
                if settings.decoding.opens_at.is_some() {
                    canvas.repeat_stop(settings.ending.stop_ids());
                }
            }
            Attention::BlockCausal(size) => settings.next_block(canvas, size),
        }
        if settings.ending.is_reached(canvas) || !window.plan(canvas, settings) {
            let is_remasked = self.remasking.next(canvas, settings.ending.stop_ids());
            if !(is_remasked && window.plan(canvas, settings)) {
                return None;
            }
            self.pace.take(step, 1);
        } else if let Some(masks) = window.begins_with {
            match settings.decoding.blocks {
                Some(blocks) => {
                    let size = match self.attention {
                        Attention::BlockCausal(size) => size,
                        Attention::Full => settings.decoding.window.unwrap_or(self.pace.masks),
                    };
                    let sizes = (size, self.pace.masks, masks);
                    let counts = blocks.counts(settings.steps, settings.decoding.threshold, sizes);
                    self.pace.take_counts(step, counts);
                }
                None => self.pace.take_share(step, masks),
            }
        }
        let (masked, first_end) = (window.masked.len(), window.first_end);
        let mut amount = if settings.is_planned(canvas) {
            Amount::planned(step, settings.steps.count(masked), masked)
        } else if canvas.is_resizing() {
            Amount::each(settings.steps, masked)
        } else {
            self.pace.amount(step, masked)
        };
        if settings.ending != Ending::FullCanvas || window.commits_first {
            // The reference has steps that reveal nothing, but commits what it commits; elsewhere a
            // pass is not wasted.
            amount.count = amount.count.max(1);
        }
        if settings.decoding.is_capped && settings.decoding.cache == Cache::None {
            let to_come = canvas.limit() - canvas.ids().len();
            amount.most = self.pace.most(step, canvas.masked().len() + to_come);
        }
        self.frame.amount = Amount {
            first_end,
            ..amount
        };
        self.frame.step = step;
        self.frame.draws = Draws::new(settings.seed, step);
        self.steps += 1;
        Some(&self.frame)
    }
}

impl Frame {
    /// Positions to predict, left to right.
    pub fn masked(&self) -> &[usize] {
        &self.window.masked
    }

    /// What the network is to compute.
    pub fn pass(&self) -> Pass<'_> {
        Pass {
            ids: &self.window.ids,
            positions: &self.window.positions,
            refresh: &self.window.refresh,
            predict: &self.window.masked,
            attention: self.window.attention,
        }
    }

    /// The candidates that are revealed, surest first.
    pub fn reveals(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        self.reveal.choose(candidates, self.amount, self.draws)
    }
}

/// Shares the steps of a canvas out among its windows.
#[derive(Debug)]
struct Pace {
    steps: usize,      // of the whole canvas
    masks: usize,      // of the whole canvas
    in_windows: usize, // masks of the windows so far
    eps: f32,
    schedule: Schedule, // of the window
    start: usize,       // first step of the window
    counts: Vec<usize>, // of a block's steps, instead of the schedule's
}

impl Pace {
    fn new(settings: &Settings, masks: usize) -> Self {
        let steps = settings.steps.count(masks);
        Self {
            steps,
            masks,
            in_windows: 0,
            eps: settings.eps,
            schedule: Schedule::new(steps, settings.eps),
            start: 0,
            counts: Vec::new(),
        }
    }

    /// A window of `masks` begins: it has the steps up to its share of the canvas, so that those of
    /// all windows add up.
    fn take_share(&mut self, step: usize, masks: usize) {
        self.in_windows += masks;
        let until = self.steps * self.in_windows / self.masks;
        self.take(step, until.saturating_sub(step).max(1));
    }

    /// So many steps from this one on.
    fn take(&mut self, step: usize, steps: usize) {
        (self.schedule, self.start) = (Schedule::new(steps, self.eps), step);
    }

    /// So many tokens in each of the steps from this one on, and one in those behind them.
    fn take_counts(&mut self, step: usize, counts: Vec<usize>) {
        (self.counts, self.start) = (counts, step);
    }

    fn amount(&self, step: usize, masked: usize) -> Amount {
        if !self.counts.is_empty() {
            let counted = self.counts.get(step - self.start).copied();
            let count = counted.unwrap_or(1);
            return Amount {
                count: count.max(1),
                // Behind the counted steps all that is left.
                share: counted.map_or(1.0, |count| count.max(1) as f32 / masked.max(1) as f32),
                least: count,
                most: usize::MAX,
                ..Amount::default()
            };
        }
        Amount {
            count: self.schedule.reveal_count(step - self.start, masked),
            share: self.schedule.reveal_share(step - self.start),
            most: usize::MAX,
            ..Amount::default()
        }
    }

    /// Tokens that are behind their time, of a canvas with so many masks left: in every step as
    /// many were to be revealed, and at least one is.
    fn most(&self, step: usize, left: usize) -> usize {
        let due = self.masks * (step + 1) / self.steps;
        due.saturating_sub(self.masks - left).max(1)
    }
}

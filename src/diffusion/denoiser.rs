//! The network as the sampler sees it: token ids in, logits of some positions out.

use super::blocks::Attention;
use super::summary::{Asked, Predicted};

/// A network that predicts positions of a canvas, and keeps what it computed of the others.
pub trait Denoiser {
    /// What can go wrong in a forward pass.
    type Error: std::error::Error + 'static;

    /// Runs a pass, makes `logits` those of `pass.predict`, in their order and unshaped
    /// (`[positions, V]`, row-major), and gives the number of positions that went through the
    /// transformer: the measure of work. `logits` comes with what the pass before left in it.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Self::Error>;

    /// As [`Self::forward`], for a sampler that may need to know no more than `asked`: then a
    /// network whose logits are far away can give what is likely in their place.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn forward_likely(
        &mut self,
        pass: &Pass<'_>,
        _asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> Result<usize, Self::Error> {
        predicted.likely.clear();
        self.forward(pass, &mut predicted.logits)
    }

    /// The token with which the keys and values that it keeps of each position were computed, in
    /// passes with this attention; `None`, or nothing at the end, where it keeps none. A network
    /// that keeps none between runs says so by giving nothing.
    fn cached_ids(&self, _attention: Attention) -> &[Option<u32>] {
        &[]
    }

    /// Moves the keys and values that it keeps from index `first` on by so many indices and
    /// positions, as when a hole before them becomes longer or shorter: their keys are rotated on,
    /// and what they were computed from is as old as it was. Those in between are gone. `false` for
    /// a network that cannot: then everything is to be computed anew.
    fn move_cached(&mut self, _first: usize, _by: isize) -> bool {
        false
    }

    /// Which positions attend to which, on the grid that it was trained on.
    fn attention(&self) -> Attention {
        Attention::Full
    }

    /// Predicts the tokens at `positions` of the canvas `ids`, computing all of it.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn predict(&mut self, ids: &[u32], positions: &[usize]) -> Result<Predictions, Self::Error> {
        let all: Vec<usize> = (0..ids.len()).collect();
        let mut logits = Vec::new();
        let pass = Pass {
            ids,
            positions: &all,
            refresh: &all,
            predict: positions,
            attention: self.attention(),
        };
        let rows = self.forward(&pass, &mut logits)?;
        Ok(Predictions { logits, rows })
    }
}

/// One forward pass over a canvas of which keys and values may be known.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Token ids, masks included, of the part of the canvas that is to be seen.
    pub ids: &'a [u32],
    /// Where each of them stands on the canvas, ascending: at its own index, but for masks at the
    /// end of which some are left out. A network keeps keys and values by index.
    pub positions: &'a [usize],
    /// Indices of those whose keys and values are computed; those of all others are from earlier
    /// passes.
    pub refresh: &'a [usize],
    /// Indices of those to predict.
    pub predict: &'a [usize],
    /// Which of the positions attend to which.
    pub attention: Attention,
}

impl Pass<'_> {
    /// Indices of all that go through the transformer, ascending: those to be computed, and those
    /// whose output predicts something. The prediction for an index is the output `shift` before
    /// it.
    pub fn computed(&self, shift: usize) -> Vec<usize> {
        let sources = self.predict.iter().map(|at| at.saturating_sub(shift));
        let mut computed: Vec<usize> = self.refresh.iter().copied().chain(sources).collect();
        computed.sort_unstable();
        computed.dedup();
        computed
    }
}

/// What a pass over a whole canvas yields.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// Logits of the asked positions, in their order, unshaped. `[positions, V]`, row-major.
    pub logits: Vec<f32>,
    /// Positions pushed through the transformer.
    pub rows: usize,
}

//! A canvas while it fills, as the page shows it.

use diffucoder::diffusion::{Canvas, Step};
use diffucoder::package::Package;
use serde::Serialize;

use crate::cli::terminal::cells::cells;

/// Most masks of a canvas that is shown: all of it is sent after each step.
pub const MOST_SHOWN: usize = 256;

/// The holes after a step.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Steps that are done.
    step: usize,
    holes: Vec<Vec<ShownCell>>,
}

/// Neighbours that share a character, or one position.
#[derive(Debug, Serialize)]
struct ShownCell {
    tokens: usize,
    /// `None` for a mask.
    text: Option<String>,
    /// The step in which it came, from 1.
    came: Option<usize>,
    /// Whether it is no part of the text, which ends before it.
    behind: bool,
}

impl Shown {
    /// `given` bytes of each hole's first token stand in the text before it.
    pub fn of(
        canvas: &Canvas,
        step: Option<&Step<'_>>,
        package: &Package,
        given: &[usize],
    ) -> Self {
        let (stop_ids, reveals) = (&package.stop_ids, canvas.reveal_step());
        let shown = |(number, hole): (usize, &std::ops::Range<usize>)| {
            let stop = canvas.stop_in(hole, stop_ids).unwrap_or(hole.len());
            let mut bytes: Vec<Option<Vec<u8>>> = canvas.ids()[hole.clone()]
                .iter()
                .map(|&id| match id {
                    _ if id == canvas.mask_id() => None,
                    _ if stop_ids.contains(&id) => Some(Vec::new()),
                    _ => Some(package.tokenizer.token_bytes(id)),
                })
                .collect();
            if let Some(Some(first)) = bytes.first_mut() {
                let given = given.get(number).copied().unwrap_or_default();
                first.drain(..given.min(first.len()));
            }
            let cell = |cell: crate::cli::terminal::cells::Cell| {
                let at = hole.start - canvas.prompt_len();
                let came = cell.positions.clone().filter_map(|i| reveals[at + i]).max();
                ShownCell {
                    tokens: cell.positions.len(),
                    came: came.map(|step| step + 1),
                    behind: cell.text.is_some() && cell.positions.start >= stop,
                    text: cell.text,
                }
            };
            cells(&bytes).into_iter().map(cell).collect()
        };
        Self {
            step: step.map_or(0, |step| step.index + 1),
            holes: canvas.holes().iter().enumerate().map(shown).collect(),
        }
    }
}

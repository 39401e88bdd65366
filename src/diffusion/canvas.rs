//! The canvas: the prompt, then positions that start as masks and are revealed one by one.

use super::confidence::Candidate;

/// Token ids of prompt and generated part, and when each generated position was revealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    ids: Vec<u32>, // [prompt_len + generated]
    prompt_len: usize,
    mask_id: u32,
    reveal_step: Vec<Option<usize>>, // [generated]
}

impl Canvas {
    /// `prompt` followed by `max_new_tokens` masks.
    pub fn new(prompt: &[u32], max_new_tokens: usize, mask_id: u32) -> Self {
        let mut ids = prompt.to_vec();
        ids.resize(prompt.len() + max_new_tokens, mask_id);
        Self {
            ids,
            prompt_len: prompt.len(),
            mask_id,
            reveal_step: vec![None; max_new_tokens],
        }
    }

    /// Token ids of the whole canvas, prompt included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The id that marks a position as not yet revealed.
    pub fn mask_id(&self) -> u32 {
        self.mask_id
    }

    /// Number of prompt tokens: the first generated position.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Token ids of the generated part; the mask's where nothing was revealed.
    pub fn generated(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }

    /// Step (0-based) at which each generated position was revealed.
    pub fn reveal_step(&self) -> &[Option<usize>] {
        &self.reveal_step
    }

    /// Positions still masked, left to right. Masks inside the prompt are not ours to fill.
    pub fn masked(&self) -> Vec<usize> {
        let masks =
            |(i, step): (usize, &Option<usize>)| step.is_none().then_some(self.prompt_len + i);
        self.reveal_step
            .iter()
            .enumerate()
            .filter_map(masks)
            .collect()
    }

    /// Writes a candidate's token into its masked position.
    pub fn reveal(&mut self, candidate: &Candidate, step: usize) {
        let revealed = &mut self.reveal_step[candidate.position - self.prompt_len];
        debug_assert!(revealed.is_none() && candidate.token != self.mask_id);
        *revealed = Some(step);
        self.ids[candidate.position] = candidate.token;
    }

    /// Length of the text that is decided: generated tokens before the first of `stop_ids`, if
    /// every position up to it is revealed.
    pub fn stop_at(&self, stop_ids: &[u32]) -> Option<usize> {
        self.generated()
            .iter()
            .zip(&self.reveal_step)
            .take_while(|(_, step)| step.is_some())
            .position(|(id, _)| stop_ids.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reveal(canvas: &mut Canvas, position: usize, token: u32, step: usize) {
        canvas.reveal(
            &Candidate {
                position,
                token,
                confidence: 0.0,
            },
            step,
        );
    }

    #[test]
    fn reveals_are_recorded() {
        let mut canvas = Canvas::new(&[1, 2], 3, 9);
        assert_eq!(canvas.masked(), [2, 3, 4]);
        reveal(&mut canvas, 3, 7, 5);
        assert_eq!(canvas.masked(), [2, 4]);
        assert_eq!(canvas.ids(), [1, 2, 9, 7, 9]);
        assert_eq!(canvas.reveal_step(), [None, Some(5), None]);
    }

    #[test]
    fn a_mask_in_the_prompt_is_not_ours() {
        assert_eq!(Canvas::new(&[9], 1, 9).masked(), [1]);
    }

    #[test]
    fn text_ends_at_a_stop_token_once_all_before_it_is_there() {
        let mut canvas = Canvas::new(&[0], 3, 9);
        reveal(&mut canvas, 2, 0, 0);
        assert_eq!(canvas.stop_at(&[0]), None);
        reveal(&mut canvas, 1, 5, 1);
        assert_eq!(canvas.stop_at(&[0]), Some(1));
        assert_eq!(canvas.stop_at(&[4]), None);
        assert_eq!(canvas.stop_at(&[4, 5]), Some(0));
    }
}

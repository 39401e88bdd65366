//! The seam between a text and the hole behind it, where a token reaches across.
//!
//! A text that ends in `    ` or in `self.na` ends in tokens that the model has hardly ever seen
//! before what belongs there: in whole texts a token begins with the space before a word, and
//! `.name` is one. So the last piece of the text is taken away, and the hole begins with it: its
//! first token can only be one that begins with that piece ("token healing").

use crate::diffusion::{Asked, Attention, Canvas, Denoiser, Pass, Predicted};
use crate::tokenizer::{Added, Tokenizer, TokenizerError};

/// What a hole begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seam {
    /// The end of the text before the hole; empty where no token reaches across.
    pub piece: String,
    /// The tokens that begin with it, ascending; nothing where any token will do.
    allowed: Vec<u32>,
}

/// Bytes of a text's end in which its last word is looked for.
const REACH: usize = 256;
/// Tokens that a piece has at most.
const MOST_TOKENS: usize = 4;

impl Seam {
    /// The seam behind a text.
    ///
    /// # Errors
    /// When the end of the text cannot be tokenized.
    pub fn behind(tokenizer: &Tokenizer, text: &str) -> Result<Self, TokenizerError> {
        let last = text.chars().last();
        // A line end begins no other word; of a run of blanks, the last does.
        if last == Some('\n') {
            return Ok(Self::default());
        }
        if let Some(blank) = last.filter(|last| last.is_whitespace()) {
            return Ok(Self::of(tokenizer, blank.into()).unwrap_or_default());
        }
        let start = (text.len().saturating_sub(REACH)..text.len())
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or_default();
        let end = &text[start..];
        let tokens = tokenizer.encode_placed(end, Added::Plain)?;
        let word = tokens.last().and_then(|last| last.word);
        let first = tokens.iter().rposition(|token| token.word != word);
        let word = &tokens[first.map_or(0, |before| before + 1)..];
        let word = &word[word.len().saturating_sub(MOST_TOKENS)..];
        let mut seams = word
            .iter()
            .filter_map(|token| Self::of(tokenizer, end[token.start..].into()));
        Ok(seams.next().unwrap_or_default())
    }

    /// The seam with this piece, if more than one token begins with it.
    fn of(tokenizer: &Tokenizer, piece: String) -> Option<Self> {
        let allowed = tokenizer.tokens_from(&piece);
        (allowed.len() > 1).then_some(Self { piece, allowed })
    }
}

/// A network that predicts at the beginning of a hole only what the seam allows.
pub(super) struct Seamed<'m, D> {
    model: &'m mut D,
    starts: Vec<(usize, &'m [u32])>, // positions of the canvas, and tokens
}

/// The logit of what is not allowed: no probability is left of it, and temperatures leave it
/// finite.
const IMPOSSIBLE: f32 = -1e9;

impl<'m, D> Seamed<'m, D> {
    /// `seams` are those of the holes of `canvas`.
    pub fn new(model: &'m mut D, canvas: &Canvas, seams: &'m [Seam]) -> Self {
        let starts = canvas.holes().iter().zip(seams);
        let starts = starts.map(|(hole, seam)| (hole.start, &*seam.allowed));
        Self {
            starts: starts.filter(|(_, allowed)| !allowed.is_empty()).collect(),
            model,
        }
    }
}

impl<D: Denoiser> Denoiser for Seamed<'_, D> {
    type Error = D::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, D::Error> {
        let rows = self.model.forward(pass, logits)?;
        let vocab_size = logits.len() / pass.predict.len().max(1);
        for &(start, allowed) in &self.starts {
            if let Some(row) = pass.predict.iter().position(|&position| position == start) {
                let row = &mut logits[row * vocab_size..][..vocab_size];
                let kept: Vec<f32> = allowed.iter().map(|&id| row[id as usize]).collect();
                row.fill(IMPOSSIBLE);
                for (&id, logit) in allowed.iter().zip(kept) {
                    row[id as usize] = logit;
                }
            }
        }
        Ok(rows)
    }

    fn forward_likely(
        &mut self,
        pass: &Pass<'_>,
        asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> Result<usize, D::Error> {
        let is_seam = |position| self.starts.iter().any(|&(start, _)| start == position);
        if pass.predict.iter().copied().any(is_seam) {
            predicted.likely.clear();
            return self.forward(pass, &mut predicted.logits);
        }
        self.model.forward_likely(pass, asked, predicted)
    }

    fn cached_ids(&self, attention: Attention) -> &[Option<u32>] {
        self.model.cached_ids(attention)
    }

    fn move_cached(&mut self, first: usize, by: isize) -> bool {
        self.model.move_cached(first, by)
    }

    fn attention(&self) -> Attention {
        self.model.attention()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    #[test]
    fn a_hole_begins_with_what_a_token_would_hold_together() {
        let package = Session::open("tiny").unwrap();
        let tokenizer = &package.package().tokenizer;
        let piece = |text: &str| Seam::behind(tokenizer, text).unwrap().piece;
        assert_eq!(piece("x ="), " =");
        assert_eq!(piece("x = "), " ");
        assert_eq!(piece("if x:\n        "), " ");
        assert_eq!(piece("    self.n"), ".n");
        assert_eq!(piece("    self.na"), "a", "one token alone begins with .na");
        assert_eq!(piece("    ret"), " ret");
        for none in ["", "x = 1\n", "if x:\n\t\t"] {
            assert_eq!(Seam::behind(tokenizer, none).unwrap().piece, "", "{none:?}");
        }
        assert_eq!(piece("ret"), "ret", "the first word of a text");
        let seam = Seam::behind(tokenizer, "    ret").unwrap();
        let allowed = |text: &str| {
            let ids = tokenizer.encode_plain(text).unwrap();
            ids.len() == 1 && seam.allowed.contains(&ids[0])
        };
        assert!(allowed(" return") && !allowed(" self") && !allowed("return"));
        assert!(seam.allowed.is_sorted());
    }

    /// Yields the position and the id as logits of each position, and has something to keep.
    struct Counting;

    const CACHED: [Option<u32>; 2] = [Some(7), None];

    impl Denoiser for Counting {
        type Error = std::convert::Infallible;

        fn forward(
            &mut self,
            pass: &Pass<'_>,
            logits: &mut Vec<f32>,
        ) -> Result<usize, Self::Error> {
            let row = |at: &usize| [0, 1, 2].map(|id| (10 * at + id) as f32);
            *logits = pass.predict.iter().flat_map(row).collect();
            Ok(pass.refresh.len())
        }

        fn cached_ids(&self, _attention: Attention) -> &[Option<u32>] {
            &CACHED
        }

        fn move_cached(&mut self, first: usize, by: isize) -> bool {
            (first, by) == (1, -2)
        }
    }

    #[test]
    fn only_what_the_seam_allows_can_begin_a_hole() {
        let canvas = super::super::hole::canvas(&[vec![0], vec![0], vec![]], &[2, 1], 3);
        let seam = |allowed: &[u32]| Seam {
            piece: " ".into(),
            allowed: allowed.to_vec(),
        };
        let predicted = |seams: &[Seam], predict: &[usize]| {
            let (mut counting, mut logits) = (Counting, Vec::new());
            let mut model = Seamed::new(&mut counting, &canvas, seams);
            let pass = Pass {
                ids: canvas.ids(),
                positions: &[0, 1, 2, 3, 4],
                refresh: &[0, 1, 2, 3],
                predict,
                attention: model.attention(),
            };
            assert_eq!(model.forward(&pass, &mut logits), Ok(4));
            logits
        };
        let none = IMPOSSIBLE;
        let both = [seam(&[0, 2]), seam(&[1])];
        assert_eq!(
            predicted(&both, &[1, 2, 4]),
            [10.0, none, 12.0, 20.0, 21.0, 22.0, none, 41.0, none]
        );
        assert_eq!(predicted(&both, &[2]), [20.0, 21.0, 22.0]);
        assert_eq!(predicted(&both, &[4]), [none, 41.0, none]);
        assert!(predicted(&both, &[]).is_empty());
        let second = [Seam::default(), seam(&[1])];
        assert_eq!(
            predicted(&second, &[1, 4]),
            [10.0, 11.0, 12.0, none, 41.0, none]
        );

        let mut counting = Counting;
        let mut model = Seamed::new(&mut counting, &canvas, &[]);
        assert_eq!(model.cached_ids(Attention::Full), CACHED);
        assert!(model.move_cached(1, -2) && !model.move_cached(1, 2));
    }
}

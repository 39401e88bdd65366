//! What an earlier run left: text that is there again is computed once.

use super::*;

/// Keeps keys and values between runs, as a network does, and counts the rows of each pass.
#[derive(Default)]
struct Keeping {
    known: Vec<Option<u32>>,
    rows: Vec<usize>,
    can_move: bool,
}

impl Denoiser for Keeping {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        self.known.resize(pass.ids.len(), None);
        for &position in pass.refresh {
            self.known[position] = Some(pass.ids[position]);
        }
        let all = pass.ids.iter().zip(&self.known);
        assert!(
            all.clone().all(|(_, known)| known.is_some()),
            "a hole in what is known"
        );
        *logits = [0.0, 3.0, 0.0, 0.0, 0.0, 0.0].repeat(pass.predict.len());
        self.rows.push(pass.refresh.len());
        Ok(pass.refresh.len())
    }

    fn cached_ids(&self, _attention: Attention) -> &[Option<u32>] {
        &self.known
    }

    fn move_cached(&mut self, first: usize, by: isize) -> bool {
        let behind = self.known.split_off(first);
        self.known.resize(first.saturating_add_signed(by), None);
        self.known.extend(behind);
        self.can_move
    }
}

/// Rows of the first pass over a canvas.
fn first_rows(model: &mut Keeping, decoding: Decoding, pieces: &[Piece<'_>]) -> usize {
    let settings = Settings {
        decoding,
        ..settings(4)
    };
    model.rows.clear();
    generate(model, Canvas::of(pieces, MASK), &settings, &mut ()).unwrap();
    model.rows[0]
}

fn reusing(decoding: Decoding) -> Decoding {
    Decoding {
        reuse_context: true,
        ..decoding
    }
}

#[test]
fn an_unchanged_prefix_is_computed_once() {
    let prompt = [1, 2, 3, 4, 1, 2, 3, 4];
    let mut changed = prompt;
    changed[5] = 4;
    for (decoding, expected) in [
        (Decoding::fast(2), [10, 2, 2 + 3]),
        (Decoding::quality(), [12, 4, 4 + 3]),
        (Decoding::default(), [12, 12, 12]),
    ] {
        let mut model = Keeping::default();
        let mut run = |text, decoding| {
            let pieces = [Piece::Text(text), Piece::Hole(4)];
            first_rows(&mut model, decoding, &pieces)
        };
        // The text, the same again, and one with another token in it.
        let rows = [&prompt, &prompt, &changed].map(|text| run(text, reusing(decoding)));
        assert_eq!(rows, expected, "{decoding:?}");
        let rows = run(&changed, decoding);
        assert_eq!(rows, expected[0], "a run that reuses nothing");
    }
}

#[test]
fn both_ends_of_a_text_are_computed_once_and_the_second_moves() {
    let run = |model: &mut Keeping, before: &[u32], hole: usize, behind: &[u32]| {
        let pieces = [Piece::Text(before), Piece::Hole(hole), Piece::Text(behind)];
        first_rows(model, reusing(Decoding::fast(2)), &pieces)
    };
    let typed: Vec<u32> = [1, 2, 3, 4, 2].repeat(2);
    let behind = [4, 3, 2, 1];
    for can_move in [true, false] {
        let mut model = Keeping {
            can_move,
            ..Keeping::default()
        };
        assert_eq!(run(&mut model, &typed[..4], 3, &behind), 4 + 3 + 4);
        let moved = if can_move { 0 } else { 4 };
        assert_eq!(run(&mut model, &typed[..4], 3, &behind), 3, "as it stood");
        assert_eq!(
            run(&mut model, &typed[..5], 3, &behind),
            1 + 3 + moved,
            "typed"
        );
        assert_eq!(
            run(&mut model, &typed[..2], 1, &behind),
            1 + moved,
            "taken back"
        );
        assert_eq!(
            run(&mut model, &[], 2, &[1, 3, 2, 1]),
            2 + if can_move { 1 } else { 4 }
        );
        assert_eq!(run(&mut model, &[4, 4, 2, 4], 1, &[]), 4 + 1);
        assert_eq!(
            run(&mut model, &[4, 4], 1, &[2, 4]),
            1 + 2,
            "it ended with the hole"
        );
    }
}

/// Of a long file as much is shown as fits: a line more at its end is one fewer at its beginning.
#[test]
fn text_that_moves_past_the_hole_is_computed_once() {
    let file: Vec<u32> = (100..220).collect();
    let mut model = Keeping {
        can_move: true,
        ..Keeping::default()
    };
    let mut run = |before: std::ops::Range<usize>, behind: std::ops::Range<usize>| {
        let pieces = [
            Piece::Text(&file[before]),
            Piece::Hole(2),
            Piece::Text(&file[behind]),
        ];
        first_rows(&mut model, reusing(Decoding::fast(2)), &pieces)
    };
    assert_eq!(run(0..40, 50..90), 40 + 2 + 40);
    assert_eq!(run(5..43, 53..92), 3 + 2 + 2);
    assert_eq!(run(0..43, 53..87), 5 + 2);
    assert_eq!(
        run(60..90, 5..40),
        30 + 2,
        "what was before the hole follows it now"
    );
}

/// Of a text in the middle so much has to be the same that it is no accident.
#[test]
fn sixteen_tokens_are_the_same_text() {
    let run = |model: &mut Keeping, text: &[u32]| {
        let pieces = [Piece::Text(text), Piece::Hole(2)];
        first_rows(model, reusing(Decoding::fast(2)), &pieces)
    };
    for (same, rows) in [(15, 1 + 15 + 1 + 2), (16, 1 + 1 + 2)] {
        let same: Vec<u32> = (100..100 + same).collect();
        let mut model = Keeping {
            can_move: true,
            ..Keeping::default()
        };
        run(&mut model, &[&[50, 51], &same[..], &[52, 53]].concat());
        let found = run(&mut model, &[&[60], &same[..], &[61]].concat());
        assert_eq!(found, rows, "{}", same.len());
    }
}

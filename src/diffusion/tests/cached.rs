//! What is computed, seen and reused: a network that is asked for nothing that it does not have.

use super::*;

/// Refuses to be asked about what was never computed, and wants every token it sees to be computed
/// with its final value. Its logits depend on the position alone.
struct Strict {
    known: Vec<Option<(usize, u32)>>, // position and token by index
    rows: usize,
}

impl Denoiser for Strict {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        self.known
            .resize(pass.ids.len().max(self.known.len()), None);
        for &position in pass.refresh {
            self.known[position] = Some((pass.positions[position], pass.ids[position]));
        }
        let seen = pass.positions.iter().zip(pass.ids);
        for (known, (&position, &id)) in self.known.iter().zip(seen) {
            assert!(known.is_some(), "position {position} was never computed");
            assert!(
                *known == Some((position, id)),
                "position {position} is stale"
            );
        }
        assert!(pass.positions.is_sorted_by(|a, b| a < b));
        assert!(
            pass.predict
                .iter()
                .all(|&at| pass.ids[at] == MASK && pass.positions[at] == at)
        );
        assert!(pass.refresh.is_sorted() && pass.predict.is_sorted());
        logits.clear();
        for &at in pass.predict {
            let logit = |token: usize| ((at * 31 + token * 17) % 13) as f32 / 3.0;
            logits.extend((0..VOCAB).map(logit));
        }
        self.rows += pass.refresh.len();
        Ok(pass.refresh.len())
    }
}

/// A canvas whose last hole starts with one mask and grows becomes the whole one, pass for pass.
fn check_growth(canvas: &Canvas, settings: &Settings) {
    let mut short: Vec<Piece<'_>> = Vec::new();
    let mut at = 0;
    for hole in canvas.holes() {
        short.push(Piece::Text(&canvas.ids()[at..hole.start]));
        let is_last = hole.end == canvas.ids().len();
        short.push(Piece::Hole(if is_last { 1 } else { hole.len() }));
        at = hole.end;
    }
    let settings = &Settings {
        ending: Ending::AtStop(vec![STOP]),
        decoding: Decoding {
            far: Far::Hidden, // of a canvas that grows nobody knows the end
            ..settings.decoding
        },
        ..settings.clone()
    };
    let run = |canvas: Canvas, settings: &Settings| {
        let mut record = Record::default();
        let mut model = Strict {
            known: Vec::new(),
            rows: 0,
        };
        let done = generate(&mut model, canvas, settings, &mut record).unwrap();
        let reveals: Vec<Vec<usize>> = record.0.into_iter().map(|step| step.2).collect();
        (done, reveals)
    };
    let (whole, reveals) = run(canvas.clone(), settings);
    let growing = Canvas::of(&short, MASK).growing_to(canvas.ids().len());
    let (grown, grown_reveals) = run(growing, settings);
    assert_eq!(grown_reveals, reveals);
    assert_eq!((grown.forwards, grown.rows), (whole.forwards, whole.rows));
    let (grown, whole) = (grown.canvas.ids(), whole.canvas.ids());
    assert_eq!(grown, &whole[..grown.len()]);
    assert!(whole[grown.len()..].iter().all(|&id| id == MASK));
}

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

#[test]
fn an_unchanged_prefix_is_computed_once() {
    let prompt = [1, 2, 3, 4, 1, 2, 3, 4];
    let mut changed = prompt;
    changed[5] = 4;
    for (mut decoding, first_rows) in [
        (Decoding::fast(2), [10, 2, 2 + 3]),
        (Decoding::quality(), [12, 4, 4 + 3]),
        (Decoding::default(), [12, 12, 12]),
    ] {
        decoding.reuse_context = true;
        let settings = Settings {
            decoding,
            ..settings(4)
        };
        let mut model = Keeping::default();
        // The text, the same again, and one with another token in it.
        for (text, expected) in [prompt, prompt, changed].iter().zip(first_rows) {
            model.rows.clear();
            generate(&mut model, Canvas::new(text, 4, MASK), &settings, &mut ()).unwrap();
            assert_eq!(model.rows[0], expected, "{decoding:?}");
        }
        let settings = Settings {
            decoding: Decoding {
                reuse_context: false,
                ..decoding
            },
            ..settings
        };
        model.rows.clear();
        generate(
            &mut model,
            Canvas::new(&changed, 4, MASK),
            &settings,
            &mut (),
        )
        .unwrap();
        assert_eq!(model.rows[0], first_rows[0], "a run that reuses nothing");
    }
}

#[test]
fn both_ends_of_a_text_are_computed_once_and_the_second_moves() {
    let run = |model: &mut Keeping, before: &[u32], hole: usize, behind: &[u32]| {
        let settings = Settings {
            decoding: Decoding {
                reuse_context: true,
                ..Decoding::fast(2)
            },
            ..settings(4)
        };
        let pieces = [Piece::Text(before), Piece::Hole(hole), Piece::Text(behind)];
        model.rows.clear();
        generate(model, Canvas::of(&pieces, MASK), &settings, &mut ()).unwrap();
        model.rows[0]
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
        let settings = Settings {
            decoding: Decoding {
                reuse_context: true,
                ..Decoding::fast(2)
            },
            ..settings(4)
        };
        let pieces = [
            Piece::Text(&file[before]),
            Piece::Hole(2),
            Piece::Text(&file[behind]),
        ];
        let canvas = Canvas::of(&pieces, MASK);
        model.rows.clear();
        generate(&mut model, canvas, &settings, &mut ()).unwrap();
        model.rows[0]
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
        let settings = Settings {
            decoding: Decoding {
                reuse_context: true,
                ..Decoding::fast(2)
            },
            ..settings(4)
        };
        model.rows.clear();
        generate(model, Canvas::new(text, 2, MASK), &settings, &mut ()).unwrap();
        model.rows[0]
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

/// What each pass saw, computed and predicted.
#[derive(Default)]
struct Recording(Vec<(Vec<usize>, Vec<usize>, Vec<usize>)>);

impl Denoiser for Recording {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        let refreshed = pass.refresh.iter().map(|&at| pass.positions[at]).collect();
        let (seen, predicted) = (pass.positions.to_vec(), pass.predict.to_vec());
        self.0.push((seen, refreshed, predicted));
        *logits = [0.0, 3.0, 0.0, 0.0, 0.0, 0.0].repeat(pass.predict.len());
        Ok(pass.refresh.len())
    }
}

fn recorded(decoding: Decoding, masks: usize, steps: usize) -> Recording {
    let settings = Settings {
        decoding,
        ..settings(steps)
    };
    let mut model = Recording::default();
    generate(
        &mut model,
        Canvas::new(&[1, 2], masks, MASK),
        &settings,
        &mut (),
    )
    .unwrap();
    model
}

#[test]
fn masks_far_behind_are_seen_the_fewer_the_further() {
    let decoding = Decoding {
        window: Some(4),
        lookahead: Some(4),
        far: Far::Thinned,
        cache: Cache::Dual,
        refresh: Refresh::Never,
        ..Decoding::default()
    };
    let passes = recorded(decoding, 38, 38).0;
    // The window ends at 6: all up to 9, then one in two from a distance of 8 on, one in three
    // from 16, and the last.
    let far = [10, 11, 12, 13, 14, 16, 18, 20, 22, 25, 28, 31, 35, 39];
    let seen: Vec<usize> = (0..10).chain(far).collect();
    assert_eq!(passes[0].0, seen);
    assert_eq!(passes[0].1, seen, "nothing is known at first");
    assert_eq!(passes[3].0, seen, "the window has not moved");
    assert!(passes[1].1.len() <= 1, "{:?}", passes[1].1);
    let (seen, refreshed, _) = &passes[4];
    assert!(seen.iter().copied().take(14).eq(0..14) && seen.ends_with(&[39]));
    let new = seen.iter().filter(|&&at| at >= 10).count();
    assert!(refreshed.len() <= new + 1, "{refreshed:?}");
    let shorter = &recorded(decoding, 35, 35).0[0].0;
    assert!(
        shorter.ends_with(&[31, 35, 36]),
        "beside the last: {shorter:?}"
    );
}

#[test]
fn what_is_due_is_computed_anew() {
    let rows = |decoding, masks| -> Vec<usize> {
        let passes = recorded(decoding, masks, masks).0;
        passes.iter().map(|pass| pass.1.len()).collect()
    };
    let prefix = Decoding {
        cache: Cache::Prefix,
        refresh: Refresh::Every(6),
        ..Decoding::default()
    };
    assert_eq!(rows(prefix, 8), [10, 8, 8, 8, 8, 8, 10, 8]);
    let windows = Decoding {
        window: Some(1),
        refresh: Refresh::Window,
        ..prefix
    };
    assert_eq!(rows(windows, 3), [5, 5, 5]);
}

/// What lies outside the window is kept, and computed once with the token that it got.
#[test]
fn a_window_is_computed_in_each_of_its_passes() {
    let decoding = Decoding {
        window: Some(3),
        cache: Cache::Window,
        refresh: Refresh::Never,
        threshold: Some(0.99), // one token in each pass
        ..Decoding::default()
    };
    let passes = recorded(decoding, 6, 6).0;
    let refreshed: Vec<_> = passes.iter().map(|pass| &pass.1[..]).collect();
    let all: Vec<usize> = (0..8).collect();
    let (first, second) = ([2, 3, 4], [5, 6, 7]);
    assert_eq!(refreshed[..3], [&all[..], &first, &first]);
    assert_eq!(refreshed[3].len(), 1 + 3, "{refreshed:?}");
    assert_eq!(refreshed[3][1..], second);
    assert_eq!(refreshed[4..], [&second; 2]);
}

/// As in Fast-dLLM: a pass over everything for each block, which gives its first token, and then
/// the block alone.
#[test]
fn a_committed_first_token_comes_from_the_pass_over_everything() {
    let all: Vec<usize> = (0..8).collect();
    let committed = |cache| Decoding {
        window: Some(3),
        cache,
        threshold: Some(0.99),
        ..Decoding::fast_dllm()
    };
    let dual: Vec<_> = recorded(committed(Cache::Dual), 6, 6).0;
    let refreshed: Vec<_> = dual.into_iter().map(|pass| pass.1).collect();
    assert_eq!(
        refreshed,
        [
            &all[..],
            &[2, 3, 4],
            &[2, 3, 4],
            &all,
            &[5, 6, 7],
            &[5, 6, 7]
        ]
    );
    let predicted = |decoding| -> Vec<usize> {
        let passes = recorded(decoding, 6, 6).0;
        passes.iter().map(|pass| pass.2.len()).collect()
    };
    assert_eq!(predicted(committed(Cache::Dual)), [1, 2, 1, 1, 2, 1]);
    assert_eq!(predicted(committed(Cache::None)), [3, 2, 1, 3, 2, 1]);
    assert_eq!(predicted(Decoding::fast(3)), [3, 2, 1, 3, 2, 1]);
    let prefix: Vec<_> = recorded(committed(Cache::Prefix), 6, 6).0;
    let refreshed: Vec<_> = prefix.into_iter().map(|pass| pass.1).collect();
    assert_eq!(
        refreshed,
        [&all[..], &all[2..], &all[2..], &all, &all[5..], &all[5..]]
    );
}

proptest::proptest! {
    #[test]
    fn any_way_of_decoding_reveals_each_position_once(
        (texts, holes) in (proptest::collection::vec(0..5usize, 1..4), proptest::collection::vec(1..30usize, 1..4)),
        (window, lookahead) in (proptest::option::of(1..20usize), proptest::option::of(0..20usize)),
        (cache, refresh, far, first_token) in (0..3usize, 0..4usize, 0..2usize, 0..2usize),
        (rule, is_capped) in (0..3usize, proptest::bool::ANY),
        (threshold, order) in (proptest::option::of(0.1..1f32), proptest::option::of(0.3..2f32)),
        (steps, seed, algorithm, ends) in (1..40usize, 0..9u64, 0..4usize, proptest::bool::ANY),
    ) {
        let mut pieces = Vec::new();
        for (i, &hole) in holes.iter().enumerate() {
            pieces.push(Piece::Text(&[1, 2, 3, 4, 1][..texts.get(i).copied().unwrap_or(0)]));
            pieces.push(Piece::Hole(hole));
        }
        let canvas = Canvas::of(&pieces, MASK);
        let masked = canvas.masked();
        let settings = Settings {
            algorithm: Algorithm::ALL[algorithm],
            seed,
            shaping: Shaping::temperature(0.8),
            ending: if ends { Ending::AtStop(vec![STOP]) } else { Ending::FullCanvas },
            decoding: Decoding {
                window,
                lookahead,
                cache: [Cache::None, Cache::Prefix, Cache::Dual][cache],
                refresh: [Refresh::Window, Refresh::Every(1), Refresh::Every(3), Refresh::Never][refresh],
                threshold,
                order_temperature: order,
                far: Far::ALL[far],
                first_token: FirstToken::ALL[first_token],
                rule: Rule::ALL[rule],
                is_capped,
                ..Decoding::default()
            },
            ..settings(steps.min(masked.len()))
        };
        if let Some(hole) = canvas.holes().last() && hole.end == canvas.ids().len() {
            check_growth(&canvas, &settings);
        }
        let mut model = Strict { known: Vec::new(), rows: 0 };
        let mut record = Record::default();
        let done = generate(&mut model, canvas.clone(), &settings, &mut record).unwrap();
        proptest::prop_assert_eq!(done.rows, model.rows);
        let mut revealed: Vec<usize> = record.0.iter().flat_map(|step| step.2.clone()).collect();
        revealed.sort_unstable();
        let count = revealed.len();
        revealed.dedup();
        proptest::prop_assert_eq!(count, revealed.len(), "a position was revealed twice");
        if ends {
            proptest::prop_assert!(done.canvas.open(&[STOP]).is_empty() || done.canvas.stop_at(&[STOP]).is_some());
        } else {
            proptest::prop_assert_eq!(&revealed, &masked);
        }
        for (position, (before, after)) in canvas.ids().iter().zip(done.canvas.ids()).enumerate() {
            let ours = revealed.binary_search(&position).is_ok();
            let is_right = if ours { *after != MASK } else { before == after };
            proptest::prop_assert!(is_right, "position {}", position);
        }
    }
}

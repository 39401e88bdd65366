//! What each pass sees, computes and predicts.

use super::*;

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

//! The loop against a scripted network.

use std::convert::Infallible;

use super::*;

const MASK: u32 = 5;
const STOP: u32 = 0;
const VOCAB: usize = 6;

/// Gives fixed logits to each position, whatever the canvas, and counts its calls.
struct Scripted {
    logits: Vec<[f32; VOCAB]>, // [canvas, V]
    calls: Vec<usize>,         // positions asked for, by call
}

impl Scripted {
    /// Position i favours `tokens[i]` by `margins[i]` logits.
    fn new(tokens: &[u32], margins: &[f32]) -> Self {
        let row = |(&token, &margin): (&u32, &f32)| {
            let mut row = [0.0; VOCAB];
            row[token as usize] = margin;
            row
        };
        Self {
            logits: tokens.iter().zip(margins).map(row).collect(),
            calls: Vec::new(),
        }
    }
}

impl Denoiser for Scripted {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        self.calls.push(pass.predict.len());
        *logits = pass
            .predict
            .iter()
            .flat_map(|&at| self.logits[at])
            .collect();
        Ok(pass.refresh.len())
    }
}

fn settings(steps: usize) -> Settings {
    Settings {
        seed: 7,
        ..Settings::reference(steps)
    }
}

/// Records the canvas and the reveals of each step.
#[derive(Default)]
struct Record(Vec<(usize, Vec<u32>, Vec<usize>)>);

impl Observer for Record {
    fn on_step(&mut self, step: &Step<'_>) {
        let positions = step
            .revealed
            .iter()
            .map(|candidate| candidate.position)
            .collect();
        self.0
            .push((step.index, step.canvas.ids().to_vec(), positions));
    }
}

#[test]
fn surest_positions_are_revealed_first() {
    let mut model = Scripted::new(&[1, 1, 2, 3, 4], &[0.0, 2.0, 9.0, 1.0, 5.0]);
    let mut record = Record::default();
    let canvas = Canvas::new(&[1], 4, MASK);
    let done = generate(&mut model, canvas, &settings(2), &mut record).unwrap();
    assert_eq!(done.canvas.generated(), [1, 2, 3, 4]);
    // int(4 * (1 - 0.5005)) = 1 at first, the rest at the last step.
    assert_eq!(
        record.0,
        [
            (0, vec![1, MASK, 2, MASK, MASK], vec![2]),
            (1, vec![1, 1, 2, 3, 4], vec![4, 1, 3]),
        ]
    );
    assert_eq!((done.forwards, done.rows), (2, 10));
    assert_eq!(model.calls, [4, 3]);
    assert_eq!(
        done.canvas.reveal_step(),
        [Some(1), Some(0), Some(1), Some(1)]
    );
}

#[test]
fn the_steps_of_all_windows_add_up() {
    for (masks, window, steps) in [
        (256, 12, 86),
        (256, 12, 128),
        (50, 7, 8),
        (50, 7, 50),
        (9, 4, 1),
    ] {
        let tokens: Vec<u32> = (0..=masks).map(|i| 1 + i % 3).collect();
        let mut model = Scripted::new(&tokens, &vec![1.0; tokens.len()]);
        let settings = Settings {
            decoding: Decoding {
                window: Some(window),
                ..Decoding::default()
            },
            ..settings(steps)
        };
        let canvas = Canvas::new(&[1], masks as usize, MASK);
        let done = generate(&mut model, canvas, &settings, &mut ()).unwrap();
        let windows = (masks as usize).div_ceil(window);
        assert_eq!(done.forwards, steps.max(windows));
        assert!(done.canvas.masked().is_empty());
    }
}

#[test]
fn a_certain_mask_is_still_not_committed() {
    for algorithm in Algorithm::ALL {
        for (temperature, top_p) in [(0.0, None), (1.0, None), (1.0, Some(0.5))] {
            let mut model = Scripted::new(&[MASK; 4], &[30.0; 4]);
            let settings = Settings {
                algorithm,
                shaping: Shaping {
                    temperature,
                    top_p,
                    top_k: None,
                },
                ..settings(3)
            };
            let done =
                generate(&mut model, Canvas::new(&[1], 3, MASK), &settings, &mut ()).unwrap();
            assert!(done.canvas.masked().is_empty(), "{algorithm}");
            assert!(!done.canvas.generated().contains(&MASK), "{algorithm}");
        }
    }
}

#[test]
fn stops_once_the_text_is_decided() {
    let tokens = [1, 3, STOP, 4, 4, 4];
    let margins = [0.0, 8.0, 9.0, 1.0, 1.0, 1.0];
    let ending = Ending::AtStop(vec![STOP]);
    let mut model = Scripted::new(&tokens, &margins);
    let settings = Settings {
        ending,
        ..settings(5)
    };
    let done = generate(&mut model, Canvas::new(&[1], 5, MASK), &settings, &mut ()).unwrap();
    assert_eq!(done.canvas.generated(), [3, STOP, MASK, MASK, MASK]);
    assert!(done.forwards < 5);
}

#[test]
fn every_algorithm_fills_the_canvas_and_repeats_itself() {
    for algorithm in Algorithm::ALL {
        for alg_temp in [None, Some(0.0), Some(0.7)] {
            let run = |seed| {
                let mut model = Scripted::new(&[1; 13], &[0.5; 13]);
                let settings = Settings {
                    algorithm,
                    alg_temp,
                    seed,
                    shaping: Shaping {
                        temperature: 1.0,
                        top_p: Some(0.95),
                        top_k: None,
                    },
                    ..settings(5)
                };
                generate(&mut model, Canvas::new(&[1], 12, MASK), &settings, &mut ()).unwrap()
            };
            assert!(run(1).canvas.masked().is_empty());
            assert_eq!(run(1), run(1));
            assert_ne!(run(1).canvas, run(2).canvas);
        }
    }
}

#[test]
fn the_same_at_any_thread_count() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut model = Scripted::new(&[1; 65], &[0.2; 65]);
            let settings = Settings {
                shaping: Shaping {
                    temperature: 1.0,
                    top_p: Some(0.95),
                    top_k: None,
                },
                ..settings(20)
            };
            generate(&mut model, Canvas::new(&[1], 64, MASK), &settings, &mut ()).unwrap()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn infinities_are_an_error_that_names_the_place() {
    let mut model = Scripted::new(&[1; 3], &[0.0, 1.0, f32::NAN]);
    let error = generate(
        &mut model,
        Canvas::new(&[1], 2, MASK),
        &settings(1),
        &mut (),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            GenerateError::NotFinite {
                position: 2,
                step: 0
            }
        ),
        "{error}"
    );
}

/// Refuses to be asked about what was never computed, and wants every token it sees to be computed
/// with its final value. Its logits depend on the position alone.
struct Strict {
    known: Vec<Option<u32>>,
    rows: usize,
}

impl Denoiser for Strict {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        self.known
            .resize(pass.ids.len().max(self.known.len()), None);
        for &position in pass.refresh {
            self.known[position] = Some(pass.ids[position]);
        }
        for (position, (known, id)) in self.known.iter().zip(pass.ids).enumerate() {
            assert!(known.is_some(), "position {position} was never computed");
            assert!(*known == Some(*id), "position {position} is stale");
        }
        assert!(pass.predict.iter().all(|&at| pass.ids[at] == MASK));
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
struct Keeping {
    known: Vec<Option<u32>>,
    rows: Vec<usize>,
}

impl Denoiser for Keeping {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        self.known
            .resize(self.known.len().max(pass.ids.len()), None);
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

    fn cached_ids(&self) -> &[Option<u32>] {
        &self.known
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
        decoding.reuse_prefix = true;
        let settings = Settings {
            decoding,
            ..settings(4)
        };
        let mut model = Keeping {
            known: Vec::new(),
            rows: Vec::new(),
        };
        // The text, the same again, and one with another token in it.
        for (text, expected) in [prompt, prompt, changed].iter().zip(first_rows) {
            model.rows.clear();
            generate(&mut model, Canvas::new(text, 4, MASK), &settings, &mut ()).unwrap();
            assert_eq!(model.rows[0], expected, "{decoding:?}");
        }
        let settings = Settings {
            decoding: Decoding {
                reuse_prefix: false,
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
fn an_observer_ends_the_run_before_the_next_pass() {
    struct Until(usize);
    impl Observer for Until {
        fn on_step(&mut self, _: &Step<'_>) {
            self.0 -= 1;
        }

        fn goes_on(&mut self) -> bool {
            self.0 > 0
        }
    }
    for (steps, forwards) in [(0, 0), (2, 2), (9, 4)] {
        let mut model = Scripted::new(&[1, 2, 3, 4, 1], &[1.0; 5]);
        let canvas = Canvas::new(&[1], 4, MASK);
        let settings = Settings {
            ending: Ending::AtStop(Vec::new()), // each step reveals something
            ..settings(4)
        };
        let done = generate(&mut model, canvas, &settings, &mut Until(steps)).unwrap();
        assert_eq!((done.forwards, done.is_whole), (forwards, forwards == 4));
        assert_eq!(done.canvas.masked().len(), 4 - forwards);
    }
}

#[test]
fn steps_follow_the_masks_or_the_tokens() {
    assert_eq!(Steps::Count(7).count(100), 7);
    assert_eq!(Steps::OfTokens(1).count(100), 100);
    assert_eq!(Steps::OfTokens(3).count(100), 34);
    assert_eq!(
        (Steps::Count(0).count(0), Steps::OfTokens(0).count(0)),
        (1, 1)
    );
}

proptest::proptest! {
    #[test]
    fn any_way_of_decoding_reveals_each_position_once(
        (texts, holes) in (proptest::collection::vec(0..5usize, 1..4), proptest::collection::vec(1..30usize, 1..4)),
        (window, lookahead) in (proptest::option::of(1..20usize), proptest::option::of(0..20usize)),
        (cache, refresh) in (0..3usize, 0..4usize),
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
                reuse_prefix: false,
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

/// Wants token 1 everywhere beside a mask, and elsewhere one more than the token before it.
struct Neighbours;

impl Denoiser for Neighbours {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        let row = |&at: &usize| {
            let mut row = [0.0; VOCAB];
            let near = [pass.ids[at - 1], *pass.ids.get(at + 1).unwrap_or(&0)];
            let wanted = match near.contains(&MASK) {
                true => 1,
                false => (near[0] + 1) % MASK,
            };
            row[wanted as usize] = 9.0 + at as f32;
            row
        };
        *logits = pass.predict.iter().flat_map(row).collect();
        Ok(pass.refresh.len())
    }
}

fn remasked(remask: usize, ending: Ending, decoding: Decoding) -> (Generation, Record) {
    let settings = Settings {
        remask,
        ending,
        decoding,
        ..settings(4)
    };
    let mut record = Record::default();
    let canvas = Canvas::new(&[1], 4, MASK);
    let done = generate(&mut Neighbours, canvas, &settings, &mut record).unwrap();
    (done, record)
}

#[test]
fn remasking_looks_again_in_the_order_of_the_reveals() {
    let (plain, record) = remasked(0, Ending::FullCanvas, Decoding::default());
    assert_eq!(plain.canvas.generated(), [1, 1, 1, 1]);
    let reveals: Vec<_> = record.0.iter().map(|step| &step.2[..]).collect();
    assert_eq!(reveals, [&[][..], &[4], &[3], &[2, 1]]);
    let (once, record) = remasked(1, Ending::FullCanvas, Decoding::default());
    let looks: Vec<_> = record.0[4..].iter().map(|step| &step.2[..]).collect();
    assert_eq!(looks, [[4], [3], [1], [2]]);
    assert_eq!(once.canvas.generated(), [2, 3, 2, 2]);
    assert_eq!(once.canvas.reveal_step(), [6, 7, 5, 4].map(Some));
    assert_eq!((once.forwards, once.rows), (8, 8 * 5));
}

#[test]
fn remasking_ends_when_nothing_changes() {
    let (done, _) = remasked(9, Ending::FullCanvas, Decoding::default());
    assert_eq!(done.canvas.generated(), [2, 3, 4, 0]);
    let rounds = done.forwards / 4 - 1;
    assert_eq!(
        rounds, 4,
        "three that change something, and one that does not"
    );
    for decoding in [Decoding::quality(), Decoding::fast(Decoding::CPU_WINDOW)] {
        let (same, _) = remasked(9, Ending::AtStop(vec![9]), decoding);
        assert_eq!(same.canvas.ids(), done.canvas.ids());
    }
}

#[test]
fn what_a_stop_token_ends_is_not_remasked() {
    let (done, record) = remasked(9, Ending::AtStop(vec![4]), Decoding::default());
    let stop = done.canvas.stop_at(&[4]);
    assert_eq!(stop, Some(2));
    assert_eq!(done.canvas.generated()[..3], [2, 3, 4]);
    let looks = record.0.iter().skip_while(|step| step.1[3] != 4).skip(1);
    let looks: Vec<_> = looks.flat_map(|step| &step.2).collect();
    assert!(
        !looks.is_empty() && looks.iter().all(|&&at| at < 3),
        "{looks:?}"
    );
    assert!(!done.canvas.ids().contains(&MASK), "nothing is left masked");
}

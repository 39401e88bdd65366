//! The loop against a scripted network.

mod beside;
mod remasking;
mod reuse;
mod strict;
mod summarized;
mod windows;

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

/// The canvas and the reveals of each step.
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

impl Record {
    fn reveals(&self) -> Vec<&[usize]> {
        self.0.iter().map(|step| &*step.2).collect()
    }
}

/// Fills so many masks behind a token.
fn fill(
    model: &mut impl Denoiser<Error = Infallible>,
    masks: usize,
    settings: &Settings,
) -> (Generation, Record) {
    let mut record = Record::default();
    let canvas = Canvas::new(&[1], masks, MASK);
    let done = generate(model, canvas, settings, &mut record).unwrap();
    (done, record)
}

#[test]
fn surest_positions_are_revealed_first() {
    let mut model = Scripted::new(&[1, 1, 2, 3, 4], &[0.0, 2.0, 9.0, 1.0, 5.0]);
    let (done, record) = fill(&mut model, 4, &settings(2));
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

/// Doubts of 5 e^-25, 5 e^-30 and 5 e^-28 are nothing in float32, where the left-most is first, as
/// in Dream's sampler. LLaDA's has float64.
#[test]
fn what_is_nearly_certain_is_told_apart_where_the_reference_does() {
    for (order_temperature, order) in [(None, [1, 2, 3]), (Some(1.0), [2, 3, 1])] {
        for algorithm in [Algorithm::MaskgitPlus, Algorithm::TopkMargin] {
            let mut model = Scripted::new(&[1; 4], &[0.0, 25.0, 30.0, 28.0]);
            let mut settings = settings(1);
            settings.algorithm = algorithm;
            settings.decoding.order_temperature = order_temperature;
            let (_, record) = fill(&mut model, 3, &settings);
            assert_eq!(record.0[0].2, order, "{algorithm} {order_temperature:?}");
        }
    }
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
        let (done, _) = fill(&mut model, masks as usize, &settings);
        let windows = (masks as usize).div_ceil(window);
        assert_eq!(done.forwards, steps.max(windows));
        assert!(done.canvas.masked().is_empty());
    }
}

/// Ends a run that goes round in a circle.
struct AtMost(usize);

impl Observer for AtMost {
    fn on_step(&mut self, _: &Step<'_>) {}

    fn goes_on(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

#[test]
fn a_threshold_that_nothing_reaches_still_reveals() {
    for (mode, rule) in Mode::ALL
        .map(|mode| Rule::ALL.map(|rule| (mode, rule)))
        .concat()
    {
        for ending in [Ending::FullCanvas, Ending::AtStop(vec![STOP])] {
            let mut model = Scripted::new(&[1; 40], &[0.5; 40]);
            let settings = Settings {
                decoding: Decoding {
                    rule,
                    threshold: Some(if rule == Rule::Entropy { 0.0 } else { 1.0 }),
                    ..mode.decoding(false)
                },
                algorithm: Algorithm::Entropy,
                ending,
                ..settings(39)
            };
            let canvas = Canvas::new(&[1], 39, MASK);
            let done = generate(&mut model, canvas, &settings, &mut AtMost(200)).unwrap();
            assert!(done.canvas.masked().is_empty(), "{mode:?} {rule:?}");
        }
    }
}

/// A nucleus of the mask alone leaves no token: then it is the most probable one of all others, not
/// the first one, and it is the last to be revealed.
#[test]
fn behind_a_filtered_mask_is_the_most_probable_token() {
    for algorithm in [
        Algorithm::Entropy,
        Algorithm::MaskgitPlus,
        Algorithm::TopkMargin,
    ] {
        for temperature in [0.0, 0.5] {
            let mut model = Scripted::new(&[1, MASK, 2, 1], &[9.0, 30.0, 3.0, 4.0]);
            model.logits[1][3] = 5.0;
            let settings = Settings {
                algorithm,
                shaping: Shaping::nucleus(temperature, 0.5),
                ..settings(3)
            };
            let (done, record) = fill(&mut model, 3, &settings);
            assert_eq!(done.canvas.generated(), [3, 2, 1], "{algorithm}");
            let last = &record.0[record.0.len() - 1];
            assert_eq!(last.2.last(), Some(&1), "{algorithm}");
        }
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
                    filtering: Filtering::MassFirst,
                },
                ..settings(3)
            };
            let (done, _) = fill(&mut model, 3, &settings);
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
    let (done, _) = fill(&mut model, 5, &settings);
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
                        filtering: Filtering::MassFirst,
                    },
                    ..settings(5)
                };
                fill(&mut model, 12, &settings).0
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
                    filtering: Filtering::MassFirst,
                },
                ..settings(20)
            };
            fill(&mut model, 64, &settings).0
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

/// With fewer rows than positions nothing would ever be revealed at some of them.
#[test]
fn rows_of_no_one_length_are_an_error() {
    struct Short(usize);
    impl Denoiser for Short {
        type Error = Infallible;

        fn forward(&mut self, _: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
            *logits = vec![0.0; self.0];
            Ok(1)
        }
    }
    for given in [0, 2, 3 * VOCAB - 1] {
        let canvas = Canvas::new(&[1], 3, MASK);
        let error = generate(&mut Short(given), canvas, &settings(1), &mut ()).unwrap_err();
        let is_misshapen = matches!(
            error,
            GenerateError::Misshapen { logits, positions: 3 } if logits == given
        );
        assert!(is_misshapen, "{error}");
    }
}

/// The same logits at every pass: nothing is known of them in the first, they have stayed once in
/// the second, and twice in the third.
#[test]
fn what_is_sure_waits_until_it_has_settled() {
    for (rule, counts) in [(Rule::Threshold, vec![6]), (Rule::Klass, vec![1, 1, 4])] {
        let mut model = Scripted::new(&[1, 1, 2, 3, 4, 1, 2], &[9.0; 7]);
        let settings = Settings {
            decoding: Decoding {
                threshold: Some(0.9),
                rule,
                ..Decoding::default()
            },
            ..settings(6)
        };
        let (_, record) = fill(&mut model, 6, &settings);
        let revealed: Vec<usize> = record.0.iter().map(|step| step.2.len()).collect();
        assert_eq!(revealed, counts);
    }
}

/// What it masks again can stand anywhere.
#[test]
fn a_plan_sees_all_of_the_canvas() {
    for (ending, lookahead) in [
        (Ending::AtStop(vec![STOP]), None),
        (Ending::FullCanvas, Some(0)),
        (Ending::AtStop(vec![STOP]), Some(1)),
    ] {
        let mut model = Scripted::new(&[1, STOP, 2, 3, 1, 2], &[0.0, 9.0, 1.0, 2.0, 3.0, 1.0]);
        let mut settings = settings(5);
        settings.algorithm = Algorithm::P2;
        settings.ending = ending;
        settings.decoding.lookahead = lookahead;
        settings.decoding.window = lookahead.map(|_| 2);
        let (done, _) = fill(&mut model, 5, &settings);
        assert_eq!(done.canvas.generated()[0], STOP, "{settings:?}");
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
        assert_eq!(done.forwards, forwards);
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

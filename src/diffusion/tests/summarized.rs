//! Networks that give what is likely in the place of logits: everything is revealed as if the
//! logits were here.

use super::*;

const VOCABULARY: usize = 3000;

/// Logits of a hash of position and step. In some rows few tokens stand out, in others none.
struct Hashed {
    steps: usize,
    /// Whether what is likely is given where it is enough.
    summarizes: bool,
    /// Rows in short, and in full.
    given: [usize; 2],
}

impl Hashed {
    fn new(summarizes: bool) -> Self {
        Self {
            steps: 0,
            summarizes,
            given: [0, 0],
        }
    }

    fn row(&self, at: usize) -> Vec<f32> {
        let draws = random::Draws::new(at as u64, self.steps);
        let peak = [0.5, 3.0, 8.0, 12.0][(at * 5 + self.steps) % 4];
        let logit = |token| {
            let draw = draws.uniform(Purpose::Token, token) as f32;
            // As in bf16, in which many are alike.
            f32::from_bits((peak * draw.powi(9) - 3.0).to_bits() & 0xffff_0000)
        };
        (0..VOCABULARY).map(logit).collect()
    }
}

impl Denoiser for Hashed {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        *logits = pass.predict.iter().flat_map(|&at| self.row(at)).collect();
        self.steps += 1;
        Ok(pass.refresh.len())
    }

    fn forward_likely(
        &mut self,
        pass: &Pass<'_>,
        asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> Result<usize, Infallible> {
        predicted.likely.clear();
        let rows = self.forward(pass, &mut predicted.logits)?;
        if let Some(asked) = asked.filter(|_| self.summarizes) {
            let mut whole = Vec::new();
            for (row, &barred) in predicted.logits.chunks(VOCABULARY).zip(&asked.barred) {
                let summary = Summary::of(row, barred, asked.divisors()).unwrap();
                assert!(summary.tokens.len() <= MOST_LISTED);
                let likely = summary.likely(asked);
                self.given[usize::from(likely.is_none())] += 1;
                if likely.is_none() {
                    whole.extend_from_slice(row);
                }
                predicted.likely.push(likely);
            }
            predicted.logits = whole;
        }
        Ok(rows)
    }
}

/// The last tokens of the vocabulary mean something else, and those before them nothing.
fn canvas(resizes: bool) -> Canvas {
    let [mask_id, expand_id, delete_id] = [1, 2, 3].map(|from_end| (VOCABULARY - from_end) as u32);
    let pieces = [
        Piece::Text(&[1, 2]),
        Piece::Hole(9),
        Piece::Text(&[3]),
        Piece::Hole(6),
    ];
    let canvas = Canvas::of(&pieces, mask_id);
    if resizes {
        let resizing = Resizing {
            expand_id,
            delete_id,
        };
        return canvas.resizing(resizing, &[Some(10), None]);
    }
    canvas.of_tokens(VOCABULARY - 40)
}

#[test]
fn what_is_likely_is_as_good_as_all_logits() {
    let shapings = [
        (0.0, None, None),
        (0.3, Some(0.95), None),
        (1.0, Some(0.9), Some(40)),
        (0.7, None, Some(20)),
        (0.0, Some(0.5), None),
        (1.0, None, None),
        (1e6, Some(0.1), Some(7)),
    ];
    let mut given = [0, 0];
    for algorithm in Algorithm::ALL {
        for (number, (temperature, top_p, top_k)) in shapings.into_iter().enumerate() {
            for (beside, threshold) in [(None, None), (Some(1.0), Some(0.4)), (Some(0.6), None)] {
                let settings = Settings {
                    algorithm,
                    seed: number as u64,
                    shaping: Shaping {
                        temperature,
                        top_p,
                        top_k,
                        filtering: Filtering::MassFirst,
                    },
                    decoding: Decoding {
                        order_temperature: beside.filter(|_| number % 2 == 0),
                        threshold_temperature: beside,
                        threshold,
                        ..Decoding::default()
                    },
                    ..settings(5)
                };
                let run = |summarizes| {
                    let mut model = Hashed::new(summarizes);
                    let mut record = Surenesses::default();
                    let done = generate(&mut model, canvas(number == 3), &settings, &mut record);
                    (done.unwrap(), record.0, model.given)
                };
                let (expected, surenesses, _) = run(false);
                let (found, found_surenesses, rows) = run(true);
                assert_eq!(found, expected, "{settings:?}");
                assert_eq!(found_surenesses.len(), surenesses.len());
                for (found, expected) in found_surenesses.iter().zip(surenesses) {
                    assert!(
                        (found - expected).abs() < 2e-5,
                        "{found} {expected} {settings:?}"
                    );
                }
                given = [0, 1].map(|i| given[i] + rows[i]);
            }
        }
    }
    assert!(given.iter().all(|&rows| rows > 500), "{given:?} rows");
}

/// Confidences and probabilities of what is revealed.
#[derive(Default)]
struct Surenesses(Vec<f32>);

impl Observer for Surenesses {
    fn on_step(&mut self, step: &Step<'_>) {
        let both = step
            .revealed
            .iter()
            .map(|c| [c.confidence as f32, c.probability]);
        self.0.extend(both.flatten());
    }
}

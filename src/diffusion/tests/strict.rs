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
        (done, record)
    };
    let (whole, record) = run(canvas.clone(), settings);
    let growing = Canvas::of(&short, MASK).growing_to(canvas.ids().len());
    let (grown, grown_record) = run(growing, settings);
    assert_eq!(grown_record.reveals(), record.reveals());
    assert_eq!((grown.forwards, grown.rows), (whole.forwards, whole.rows));
    let (grown, whole) = (grown.canvas.ids(), whole.canvas.ids());
    assert_eq!(grown, &whole[..grown.len()]);
    assert!(whole[grown.len()..].iter().all(|&id| id == MASK));
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

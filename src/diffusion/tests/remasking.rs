//! Tokens that are looked at again.

use super::*;

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
    fill(&mut Neighbours, 4, &settings)
}

#[test]
fn remasking_looks_again_in_the_order_of_the_reveals() {
    let (plain, record) = remasked(0, Ending::FullCanvas, Decoding::default());
    assert_eq!(plain.canvas.generated(), [1, 1, 1, 1]);
    assert_eq!(record.reveals(), [&[][..], &[4], &[3], &[2, 1]]);
    let (once, record) = remasked(1, Ending::FullCanvas, Decoding::default());
    assert_eq!(record.reveals()[4..], [[4], [3], [1], [2]]);
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

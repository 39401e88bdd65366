//! d3LLM's policy on a network, against a slow replay of the published loop; by hand it is worked
//! out in the sampler's own tests.

use diffucoder::diffusion::{Denoiser, Rule};
use diffucoder::model::Model;
use diffucoder::session::{Conditions, Hole, Job, Mode};
use serde_json::Value;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::session;

const SET: &str = "golden-opendcoder";

/// `_sample_multi_block` without its bookkeeping: what is open follows from the canvas.
fn slowly(
    model: &mut Model,
    prompt: &[u32],
    new: usize,
    bound: f32,
    (mask, stops): (u32, &[u32]),
) -> (Vec<u32>, usize) {
    let (given, block) = (prompt.len(), 8);
    let mut ids = prompt.to_vec();
    ids.resize(given + new, mask);
    let masks = |ids: &[u32], from: usize, to: usize| -> Vec<usize> {
        (from..to).filter(|&at| ids[at] == mask).collect()
    };
    for forwards in 0.. {
        if let Some(stop) = (given..ids.len()).find(|&at| stops.contains(&ids[at])) {
            let id = ids[stop];
            ids[stop..].fill(id);
        }
        if masks(&ids, given, ids.len()).is_empty() {
            return (ids.split_off(given), forwards);
        }
        let starts = (given..ids.len()).step_by(block);
        let mut open = Vec::new();
        for start in starts {
            let end = ids.len().min(start + block);
            open.push((start, end));
            let left = masks(&ids, start, end).len();
            if 1.0 - left as f32 / ((end - start) as f32) < 0.1 {
                break;
            }
        }
        let candidates = masks(&ids, given, open[open.len() - 1].1);
        let logits = model.predict(&ids, &candidates).unwrap().logits;
        let rows = logits.chunks(logits.len() / candidates.len());
        let entropy_and_best = |row: &[f32]| {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
            let p = row.iter().map(|x| f64::from(x - most).exp() / sum);
            let entropy: f64 = p.map(|p| -p * (p + 1e-12).ln()).sum();
            let others = (0..row.len()).filter(|&id| id != mask as usize);
            let best = others.max_by(|&a, &b| row[a].total_cmp(&row[b]));
            (entropy as f32, best.unwrap() as u32)
        };
        let found: Vec<_> = candidates
            .iter()
            .copied()
            .zip(rows.map(entropy_and_best))
            .collect();
        let first = open
            .iter()
            .find(|(start, end)| !masks(&ids, *start, *end).is_empty());
        let first_end = first.unwrap().1;
        let in_first = found.iter().filter(|(at, _)| *at < first_end);
        let surest = in_first
            .min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0))
            .unwrap()
            .0;
        for (at, (entropy, best)) in found {
            if entropy < bound || at == surest {
                ids[at] = best;
            }
        }
    }
    unreachable!()
}

#[test]
fn the_policy_is_the_published_one() {
    let mut session = session(SET);
    let package = std::sync::Arc::clone(session.package());
    let (mut stopped, mut at_once) = (0, 0);
    for (number, text) in ["def f(x):\n", "x = [1, 2", "class Abc:\n    y"]
        .iter()
        .enumerate()
    {
        for new in [20, 32] {
            for bound in [0.5, 1.5, 3.0] {
                let prompt: Vec<u32> = text.bytes().map(u32::from).collect();
                let mut settings = session.settings(Mode::D3llm, false);
                assert_eq!(settings.decoding.rule, Rule::Entropy);
                settings.decoding.window = Some(8);
                settings.decoding.threshold = Some(bound);
                let special = (package.mask_id, &*package.stop_ids);
                let model = session.load(&mut (), &mut |_, _| ()).unwrap();
                let (expected, forwards) = slowly(model, &prompt, new, bound, special);
                let texts = vec![prompt, Vec::new()];
                let mut job = Job::new(texts, vec![Hole::Exactly(new)], special, settings);
                let outcome = session.run_job(&mut job, &mut Conditions::default());
                let outcome = outcome.unwrap();
                assert_eq!(
                    outcome.canvas.generated(),
                    expected,
                    "{number} {new} {bound}"
                );
                assert_eq!(outcome.work.forwards, forwards, "{number} {new} {bound}");
                stopped += usize::from(expected.iter().any(|id| special.1.contains(id)));
                at_once += usize::from(forwards < new / 2);
            }
        }
    }
    assert!(
        (1..18).contains(&stopped) && at_once > 0,
        "{stopped} {at_once}"
    );
}

/// A folder's name says for which sampler weights were distilled; a flag says it of any.
#[test]
fn it_is_the_mode_of_weights_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("d3LLM_Dream_Coder");
    std::fs::create_dir(&named).unwrap();
    for file in std::fs::read_dir(fixture(&format!("{SET}/model"))).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), named.join(file.file_name())).unwrap();
    }
    let mode_of = |model: &std::path::Path, flags: &[&str]| {
        let mut command = diffucoder(&[]);
        command.args(["generate", "--raw", "--output=json", "-n16", "--model"]);
        command.arg(model).args(flags).arg("x = 1\n");
        let output = command.assert().success().get_output().stdout.clone();
        let said: Value = serde_json::from_slice(&output).unwrap();
        said["settings"]["mode"].clone()
    };
    let model = fixture(&format!("{SET}/model"));
    assert_eq!(mode_of(&named, &[]), "d3llm");
    assert_eq!(mode_of(&model, &["--mode=d3llm"]), "d3llm");
    assert_eq!(mode_of(&model, &[]), "balanced");
    let by_chance = mode_of(&model, &["--mode=d3llm", "--algorithm=origin"]);
    assert_eq!(by_chance, Value::Null, "chance has no bound of entropy");
}

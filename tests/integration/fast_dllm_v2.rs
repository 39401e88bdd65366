//! Fast-dLLM v2: logits, and every generation token for token, against vectors that its published
//! loop made on a small random checkpoint (`tests/fixtures/golden-fast-dllm-v2`).

use diffucoder::diffusion::{
    Attention, Cache, Decoding, Denoiser, Ending, Pass, Settings, Step, Steps,
};
use diffucoder::infill::Template;
use diffucoder::model::Model;
use diffucoder::package::Prompt;
use diffucoder::session::{Conditions, Hole, Job, Observer, Session, Task};
use serde_json::Value;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{assert_logits, generations, ids, number, on_tensors, session};

const SET: &str = "golden-fast-dllm-v2";

/// What was written, which is all behind the prompt.
fn expected(case: &Value) -> Vec<u32> {
    ids(&case["sequence"]).split_off(ids(&case["prompt_ids"]).len())
}

/// A way to decode, as the published loop has it.
#[derive(Debug, Clone)]
struct Way {
    new: usize,
    block: usize,
    sub_block: usize,
    threshold: f32,
    cache: Cache,
}

impl Way {
    fn of(case: &Value) -> Self {
        Self {
            new: number(case, "max_new_tokens"),
            block: number(case, "block_length"),
            sub_block: number(case, "small_block_size"),
            threshold: case["threshold"].as_f64().unwrap() as f32,
            cache: match case["use_block_cache"].as_bool().unwrap() {
                true => Cache::Dual,
                false => Cache::Prefix,
            },
        }
    }

    fn job(&self, prompt: &[u32], session: &Session) -> Job {
        let usual = session.settings(session.package().mode(), false);
        let mut blocks = usual.decoding.blocks.unwrap();
        blocks.sub_block = Some(self.sub_block);
        let settings = Settings {
            decoding: Decoding {
                window: Some(self.block),
                threshold: Some(self.threshold),
                cache: self.cache,
                blocks: Some(blocks),
                ..usual.decoding
            },
            ..usual
        };
        let package = session.package();
        let special = (package.mask_id, &*package.stop_ids);
        let texts = vec![prompt.to_vec(), Vec::new()];
        Job::new(texts, vec![Hole::Exactly(self.new)], special, settings)
    }
}

#[test]
fn logits_equal_the_reference() {
    assert_logits(SET);
}

/// Probabilities of what is revealed.
struct Seen(Vec<f32>);

impl Observer for Seen {
    fn on_step(&mut self, step: &Step<'_>) {
        self.0.extend(step.revealed.iter().map(|c| c.probability));
    }
}

/// Its `sample_with_top_p` removes nothing at temperature 0.
#[test]
fn a_nucleus_is_of_draws() {
    let mut session = session(SET);
    let mut probabilities = |temperature, top_p| {
        let usual = session.settings(session.package().mode(), false);
        assert_eq!(usual.shaping.top_p, Some(0.95));
        let settings = Settings {
            shaping: usual.shaping.asked(Some(temperature), Some(top_p), None),
            ..usual
        };
        let task = Task::answer(Prompt::Raw("x"), Hole::Exactly(8)).with(settings);
        let mut seen = Seen(Vec::new());
        let mut conditions = Conditions::watched(&mut seen);
        let mut job = session.prepare(&task).unwrap();
        session.run_job(&mut job, &mut conditions).unwrap();
        seen.0
    };
    assert_eq!(probabilities(0.0, 1.0), probabilities(0.0, 0.1));
    assert_ne!(probabilities(1.0, 1.0), probabilities(1.0, 0.1));
}

#[test]
fn every_generation_equals_the_reference() {
    let mut session = session(SET);
    let mut tensors = on_tensors(&session);
    for (number, case) in generations(SET).iter().enumerate() {
        let prompt = ids(&case["prompt_ids"]);
        let mut job = Way::of(case).job(&prompt, &session);
        let outcome = session.run_job(&mut job, &mut Conditions::default());
        let outcome = outcome.unwrap();
        assert_eq!(outcome.canvas.generated(), expected(case), "{number}");
        // A pass that only stores goes with one that predicts, but for the one behind a block,
        // which predicts the next block's first token.
        let history = case["history"].as_array().unwrap();
        let is_prefill = |forward: &Value| forward["position"] == 0 && forward["stores"] == true;
        let merged = usize::from(is_prefill(&history[0]) && !prompt.len().is_multiple_of(32));
        let rows = |forward: &Value| forward["ids"].as_array().unwrap().len();
        let published = (
            history.len() - merged,
            history.iter().map(rows).sum::<usize>(),
        );
        let work = (outcome.work.forwards, outcome.work.rows);
        assert_eq!(work, published, "{number}");
        let done = job.run(&mut tensors, &mut Conditions::default()).unwrap();
        assert_eq!(done.canvas.generated(), expected(case), "{number}");
    }
}

/// All generations through the program.
#[test]
fn the_program_prints_the_ids_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt");
    for case in generations(SET) {
        let way = Way::of(&case);
        std::fs::write(&prompt, case["prompt"].as_str().unwrap()).unwrap();
        let mut command = diffucoder(&[]);
        command.args(["generate", "--exact", "--raw", "--special", "-t0"]);
        command.args(["--dtype=f32", "--device=cpu", "--output=json"]);
        command.arg("--model").arg(fixture(&format!("{SET}/model")));
        command.arg("--prompt-file").arg(&prompt);
        command.arg(format!("-n{}", way.new));
        command.arg(format!("--window={}", way.block));
        command.arg(format!("--threshold={}", way.threshold));
        if way.cache == Cache::Dual {
            command.args(["--cache=dual", "--sub-block=8"]);
        }
        let output = command.assert().success().get_output().stdout.clone();
        let said: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(ids(&said["token_ids"]), expected(&case), "{case}");
        if case["stopped"] == true {
            assert_eq!(said["finish_reason"], "stop", "{case}");
        }
    }
}

/// Probabilities of the tokens at each position. `[positions][V]`
fn probabilities(model: &mut Model, ids: &[u32], block: usize) -> Vec<Vec<f32>> {
    let all: Vec<usize> = (0..ids.len()).collect();
    let pass = Pass {
        ids,
        positions: &all,
        refresh: &all,
        predict: &all,
        attention: Attention::BlockCausal(block),
    };
    let mut logits = Vec::new();
    model.forward(&pass, &mut logits).unwrap();
    let softmax = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let terms: Vec<f32> = row.iter().map(|x| (x - most).exp()).collect();
        let sum: f32 = terms.iter().sum();
        terms.iter().map(|term| term / sum).collect()
    };
    let rows = logits.chunks(logits.len() / ids.len());
    rows.map(softmax).collect()
}

/// The published loop over a whole canvas, nothing kept, with a prompt of one block like any other.
fn slowly(model: &mut Model, prompt: &[u32], way: &Way, (mask, stops): (u32, &[u32])) -> Vec<u32> {
    let (given, mut ids) = (prompt.len(), prompt.to_vec());
    let best = |row: &[f32]| {
        let others = (0..row.len()).filter(|&id| id != mask as usize);
        let best = others.max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        (best as u32, row[best])
    };
    let end_of = |ids: &[u32]| {
        let stop = ids[given..].iter().position(|id| stops.contains(id))?;
        (!ids[given..given + stop].contains(&mask)).then_some(given + stop + 1)
    };
    for number in 0..=way.new / way.block {
        if ids.len().is_multiple_of(way.block) && !ids.is_empty() {
            ids.push(mask);
            let of = probabilities(model, &ids, way.block);
            *ids.last_mut().unwrap() = best(&of[ids.len() - 1]).0;
        }
        if number == way.new / way.block || end_of(&ids).is_some() {
            break;
        }
        let start = ids.len() / way.block * way.block;
        ids.resize(start + way.block, mask);
        for part in (start..ids.len()).step_by(way.sub_block) {
            let end = ids.len().min(part + way.sub_block);
            while end_of(&ids).is_none() && ids[part..end].contains(&mask) {
                let of = probabilities(model, &ids, way.block);
                let masked = (part..end).filter(|&at| ids[at] == mask);
                let drawn: Vec<_> = masked.map(|at| (at, best(&of[at]))).collect();
                let surest = drawn.iter().map(|(_, (_, p))| *p).fold(0.0, f32::max);
                for (at, (id, p)) in drawn {
                    if p > way.threshold || p == surest {
                        ids[at] = id;
                    }
                }
            }
        }
        if end_of(&ids).is_some() {
            break;
        }
    }
    ids.truncate(end_of(&ids).unwrap_or(ids.len()));
    ids.split_off(given)
}

/// Beside what the published vectors hold: other sizes, prompts shorter than a block and of whole
/// ones (of exactly one too, which the published loop does not show the model), several stop ids.
#[test]
fn the_loop_is_the_published_one_for_all_sizes() {
    let mut session = session(SET);
    let package = std::sync::Arc::clone(session.package());
    for (number, &(given, new, block, sub_block)) in [
        (32, 64, 32, 8),
        (16, 48, 16, 4),
        (5, 40, 16, 16),
        (1, 24, 8, 3),
        (48, 32, 16, 8),
        (40, 70, 32, 32),
        (3, 12, 4, 1),
    ]
    .iter()
    .enumerate()
    {
        let prompt: Vec<u32> = (0..given).map(|at| 32 + (at * 37 + 11) % 90).collect();
        for threshold in [1.0, 0.4] {
            for stops in [&[258][..], &[258, 7, 130]] {
                let way = Way {
                    new,
                    block,
                    sub_block,
                    threshold,
                    cache: Cache::Prefix,
                };
                let mut job = way.job(&prompt, &session);
                job.settings.ending = Ending::InBlock(stops.to_vec());
                let model = session.load(&mut (), &mut |_, _| ()).unwrap();
                let expected = slowly(model, &prompt, &way, (package.mask_id, stops));
                for cache in [Cache::Prefix, Cache::None] {
                    job.settings.decoding.cache = cache;
                    let done = session.run_job(&mut job, &mut Conditions::default());
                    let done = done.unwrap();
                    let what = format!("{number} {way:?} {stops:?} {cache:?}");
                    assert_eq!(done.canvas.generated(), expected, "{what}");
                }
                job.settings.decoding.reuse_context = true;
                let done = session.run_job(&mut job, &mut Conditions::default());
                assert_eq!(done.unwrap().canvas.generated(), expected);
            }
        }
    }
}

/// Fewer tokens than a block are as many as they are; a number of steps is shared out.
#[test]
fn short_canvases_and_numbers_of_steps() {
    let mut session = session(SET);
    let way = Way {
        new: 20,
        block: 32,
        sub_block: 8,
        threshold: 1.0,
        cache: Cache::Prefix,
    };
    let mut job = way.job(b"xyz".map(u32::from).as_slice(), &session);
    job.settings.ending = Ending::InBlock(Vec::new());
    let done = session.run_job(&mut job, &mut Conditions::default());
    let done = done.unwrap();
    assert_eq!(
        (done.canvas.generated().len(), done.work.forwards),
        (20, 20)
    );
    job.settings.decoding.threshold = None;
    job.settings.steps = Steps::Count(10);
    let done = session.run_job(&mut job, &mut Conditions::default());
    let done = done.unwrap();
    assert_eq!(done.canvas.generated().len(), 20);
    assert!(
        (10..=12).contains(&done.work.forwards),
        "{}",
        done.work.forwards
    );
}

#[test]
fn holes_that_text_follows_are_refused_with_models_that_fill_them() {
    let session = session(SET);
    let template = Template::with_markers(b"a <FILL> b".to_vec()).unwrap();
    let task = session.fill(&template, Hole::Chosen { up_to: 9 });
    let error = session.prepare(&task).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("dreamon") && !hint.contains("fast-dllm"),
        "{hint}"
    );
}

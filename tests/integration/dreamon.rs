//! DreamOn, whose holes get longer and shorter: logits, and every generation step for step, against
//! vectors that its own evaluation made on a small random checkpoint
//! (`tests/fixtures/golden-dreamon`).

use diffucoder::diffusion::{Cache, Decoding, Ending, Settings, Shaping, Step, Steps};
use diffucoder::infill::Template;
use diffucoder::session::{self, Conditions, Finish, Hole, Job, Session};
use serde_json::Value;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{algorithm, assert_logits, generations, ids, number, session};

const SET: &str = "golden-dreamon";

fn settings(case: &Value) -> Settings {
    Settings {
        algorithm: algorithm(&case["algorithm"]),
        shaping: Shaping {
            top_p: case["top_p"].as_f64().map(|p| p as f32),
            ..Shaping::temperature(0.0)
        },
        deletes_rest: case["broadcast_delete"].as_bool().unwrap(),
        ..Settings::reference(number(case, "steps"))
    }
}

fn job(case: &Value, session: &Session, settings: Settings) -> Job {
    let package = session.package();
    let hole = Hole::Resizing {
        from: number(case, "n0"),
        up_to: number(case, "max_gen_len"),
    };
    let texts = vec![ids(&case["prefix_ids"]), ids(&case["suffix_ids"])];
    let special = (package.mask_id, &*package.stop_ids);
    let resizing = package.infilling.map(|infilling| infilling.resizing);
    Job::new(texts, vec![hole], special, settings).resizing(resizing)
}

/// The first hole after each step, and what a reader of the steps makes of it.
#[derive(Default)]
struct History {
    holes: Vec<Vec<u32>>,
    decided: Vec<u32>,
}

impl session::Observer for History {
    fn on_step(&mut self, step: &Step<'_>) {
        let canvas = step.canvas;
        assert_eq!(canvas.generated().len(), canvas.reveal_step().len());
        self.holes
            .push(canvas.ids()[canvas.holes()[0].clone()].to_vec());
    }

    fn on_decided(&mut self, _: usize, ids: &[u32]) {
        self.decided.extend(ids);
    }
}

#[test]
fn logits_equal_the_reference() {
    assert_logits(SET);
}

#[test]
fn every_generation_equals_the_reference_step_for_step() {
    let mut session = session(SET);
    for case in generations(SET) {
        let mut history = History::default();
        let mut job = job(&case, &session, settings(&case));
        let conditions = &mut Conditions::watched(&mut history);
        let outcome = session.run_job(&mut job, conditions).unwrap();
        let expected: Vec<_> = case["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(ids)
            .collect();
        assert_eq!(history.holes, expected[1..]);
        assert_eq!(outcome.holes[0].ids, ids(&case["final_ids"]));
        assert_eq!(outcome.work.forwards, number(&case, "forwards"));
        assert_eq!(
            history.decided,
            outcome.holes[0].ids[..outcome.holes[0].tokens]
        );
    }
}

/// Of keys that are kept of what stands before the hole, none is computed again; of those behind
/// it, each where it moves.
#[test]
fn kept_keys_save_rows() {
    let mut session = session(SET);
    let rows = |cache| -> usize {
        let run = |case: &Value| {
            let settings = Settings {
                decoding: Decoding {
                    cache,
                    ..Decoding::resizing()
                },
                ending: Ending::AtStop(Vec::new()),
                ..settings(case)
            };
            let mut job = job(case, &session, settings);
            let done = session.run_job(&mut job, &mut Conditions::default());
            done.unwrap().work
        };
        let works = generations(SET).iter().map(run).collect::<Vec<_>>();
        works.iter().map(|work| work.rows / work.forwards).sum()
    };
    let [none, prefix, dual] = [Cache::None, Cache::Prefix, Cache::Dual].map(rows);
    assert!(dual < prefix && prefix < none, "{dual} {prefix} {none}");
}

#[test]
fn text_round_holes_gets_what_the_family_adds() {
    let mut session = session(SET);
    let infilling = session.package().infilling.unwrap();
    assert_eq!(infilling.first_id, Some(259));
    assert_eq!(
        (infilling.resizing.expand_id, infilling.resizing.delete_id),
        (261, 256)
    );
    assert_eq!(session.usual_hole(), 64);
    let template = Template::with_markers(b"ab <FILL>c<FILL:3>".to_vec()).unwrap();
    let task = session.fill(&template, Hole::Chosen { up_to: 9 });
    let task = task.with(Settings::reference(1));
    let outcome = session.run(&task).unwrap();
    assert_eq!(outcome.canvas.ids()[..4], [259, 97, 98, 32]);
    assert_eq!(outcome.canvas.ids().last(), Some(&256));
    // One step was taken: what was masked before it and still is shows where the holes began.
    assert_eq!(outcome.canvas.holes().len(), 2);
    assert_eq!(outcome.work.rows, 4 + 9 + 1 + 3 + 1);
    assert_eq!(outcome.finish(), Finish::Length, "the steps were over");
    // There is room for it where the text does not fit.
    let long = "x".repeat(100);
    let template = Template::between(long.as_bytes(), long.as_bytes());
    let task = session.fill(&template, Hole::Exactly(9)).within(Some(90));
    let job = session.prepare(&task).unwrap();
    assert_eq!(job.given_tokens() + job.most_new_tokens(), 90);
}

#[test]
fn several_holes_grow_by_themselves() {
    let mut session = session(SET);
    let template = Template::with_markers(b"let y = <FILL>;\nlet z = <FILL>;\n".to_vec()).unwrap();
    for tokens in [1, 3] {
        let task = session.fill(&template, Hole::Chosen { up_to: 12 });
        let task = task.with(Settings {
            steps: Steps::OfTokens(tokens),
            ..Settings::reference(1)
        });
        let outcome = session.run(&task).unwrap();
        let text = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        let expected = [
            vec![259],
            text("let y = "),
            outcome.holes[0].ids.clone(),
            text(";\nlet z = "),
            outcome.holes[1].ids.clone(),
            text(";\n"),
            vec![256],
        ];
        assert_eq!(
            outcome.canvas.ids(),
            expected.concat(),
            "text never changes"
        );
        for hole in &outcome.holes {
            assert!(
                hole.ids.len() <= 12 && !hole.ids.iter().any(|id| [256, 260, 261].contains(id))
            );
        }
    }
}

/// All generations through the program, from the files' text to the printed ids.
#[test]
fn the_program_prints_the_ids_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let (prefix, suffix) = (folder.path().join("prefix"), folder.path().join("suffix"));
    for case in generations(SET) {
        std::fs::write(&prefix, case["prefix"].as_str().unwrap()).unwrap();
        std::fs::write(&suffix, case["suffix"].as_str().unwrap()).unwrap();
        let mut command = diffucoder(&[]);
        command.args([
            "infill", "--exact", "--raw", "-t", "0", "--dtype", "f32", "--output", "json",
        ]);
        command.arg("--model").arg(fixture("golden-dreamon/model"));
        command
            .arg("--prefix-file")
            .arg(&prefix)
            .arg("--suffix-file")
            .arg(&suffix);
        for (flag, key) in [
            ("length", "n0"),
            ("max-length", "max_gen_len"),
            ("steps", "steps"),
        ] {
            command.arg(format!("--{flag}={}", case[key]));
        }
        command.arg(format!(
            "--algorithm={}",
            case["algorithm"].as_str().unwrap()
        ));
        command.arg(format!("--top-p={}", case["top_p"].as_f64().unwrap_or(1.0)));
        if !case["broadcast_delete"].as_bool().unwrap() {
            command.arg("--delete-one");
        }
        let output = command.assert().success().get_output().stdout.clone();
        let said: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(said["holes"][0]["token_ids"], case["final_ids"]);
        assert_eq!(said["usage"]["forwards"], case["forwards"]);
    }
}

fn run(args: &[&str], stdin: &str) -> Vec<u8> {
    let mut command = diffucoder(&[]);
    command
        .args(args)
        .arg("--model")
        .arg(fixture("golden-dreamon/model"));
    let assert = command.write_stdin(stdin).assert().success();
    assert.get_output().stdout.clone()
}

/// In a batch, with a hole's length as what it begins with.
#[test]
fn a_batch_fills_as_infill_does() {
    let flags = ["--seed=1", "--exact", "--steps=200", "--raw"];
    let single = [
        &["infill", "--output=json", "--length=4", "-n64"],
        &flags[..],
    ]
    .concat();
    let single: Value = serde_json::from_slice(&run(&single, "let y = <FILL>;\n")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let line = r#"{"prefix": "let y = ", "suffix": ";\n", "length": 4}"#;
    let batch = ["batch", "-", "-o", output.to_str().unwrap()];
    run(&[&batch, &flags[..]].concat(), line);
    let said: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    assert_eq!(said["text"], single["holes"][0]["text"]);
    assert_eq!(
        said["usage"]["canvas_tokens"],
        single["usage"]["canvas_tokens"]
    );
}

/// What runs in its holes has a name, as a mode has, unless flags change it.
#[test]
fn json_names_what_runs() {
    for (args, name) in [
        (&[][..], Value::from("resizing")),
        (&["--mode=quality"], "resizing".into()),
        (&["--exact"], "exact".into()),
        (&["--tokens-per-step=2", "--cache=dual"], Value::Null),
    ] {
        let base = ["infill", "--output=json", "--seed=1", "--length=2", "-n4"];
        let said = run(&[&base, args].concat(), "let y = <FILL>;\n");
        let said: Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["settings"]["mode"], name, "{args:?}");
    }
}

/// A page of a trace shows the canvas as it is in the end, with what came when.
#[test]
fn a_trace_tells_where_tokens_went() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("run.jsonl");
    let file = trace.to_str().unwrap();
    let args = [
        "infill",
        "--output=json",
        "--exact",
        "--seed=1",
        "--length=9",
        "-t0.3",
        "--trace",
        file,
    ];
    let said: Value =
        serde_json::from_slice(&run(&args, "let y = <FILL>;\nimport os\n<FILL>os.path")).unwrap();
    let text = std::fs::read_to_string(&trace).unwrap();
    assert!(
        text.contains("\"edits\":[["),
        "something got longer or shorter"
    );
    let mut command = diffucoder(&[]);
    let assert = command.arg("report").arg(&trace).assert().success();
    let page = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let data = page
        .lines()
        .find(|line| line.contains("\"cells\""))
        .unwrap();
    let data = &data[data.find('{').unwrap()..=data.rfind('}').unwrap()];
    let data: Value = serde_json::from_str(data).unwrap();
    let ids = |hole: usize| said["holes"][hole]["token_ids"].as_array().unwrap();
    let given = data["cells"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|cell| cell["given"] == true);
    let firsts: Vec<_> = given
        .map(|cell| cell["first"].as_u64().unwrap() as usize)
        .collect();
    let (first, second) = (ids(0).len(), ids(1).len());
    let between = ";\nimport os\n".len();
    assert_eq!(firsts, [first, first + between + second]);
    let mut canvas = vec![Value::Null; first + between + second];
    for step in data["steps"].as_array().unwrap() {
        let positions = step["positions"].as_array().unwrap().iter();
        for (position, token) in positions.zip(step["tokens"].as_array().unwrap()) {
            canvas[position.as_u64().unwrap() as usize] = token.clone();
        }
    }
    assert_eq!(&canvas[..first], &ids(0)[..]);
    assert_eq!(&canvas[first + between..], &ids(1)[..]);
}

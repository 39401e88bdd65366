//! Files that are longer than a model sees: what it is shown of them, and what comes back.

use diffucoder::chat::ChatTemplate;
use diffucoder::diffusion::Settings;
use diffucoder::hub::registry::PromptStyle;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::infill::Template;
use diffucoder::model::Target;
use diffucoder::package::{Package, Prompt};
use diffucoder::session::asking::{Asking, Wish};
use diffucoder::session::{Hole, Job, LeftOut, Mode, Segment, Session, Task};
use diffucoder::tokenizer::{Specials, TokenizerFiles};
use diffucoder::{Error, RequestError};
use serde_json::Value;

use crate::binary::diffucoder;

/// A file of `functions` functions, four lines each.
fn long_file(functions: usize) -> String {
    let function = |i| format!("def add_{i}(a, b):\n    return a + b + {i}\n\n\n");
    (0..functions).map(function).collect()
}

/// Runs on a file and gives stdout and stderr.
fn run(command: &str, args: &[&str], text: &str) -> (String, String) {
    let base = [command, "--model", "tiny", "--seed", "1"];
    let output = diffucoder(&[&base, args].concat())
        .write_stdin(text)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

fn prompt_tokens(report: &str) -> u64 {
    let report: Value = serde_json::from_str(report).unwrap();
    report["usage"]["prompt_tokens"].as_u64().unwrap()
}

#[test]
fn a_long_file_comes_back_whole() {
    let text = long_file(2000);
    let lines: Vec<&str> = text.lines().collect();
    for line in [1, 4000, 7998] {
        let (filled, said) = run(
            "infill",
            &["--at", &line.to_string(), "--length", "3"],
            &text,
        );
        let end: usize = lines[..line].iter().map(|line| line.len() + 1).sum();
        let (before, after) = (&text[..end - 1], &text[end - 1..]);
        assert!(
            filled.starts_with(before) && filled.ends_with(after),
            "{line}"
        );
        assert!(
            said.starts_with("note: the model is shown ") && !said.contains("--context"), // holds no more
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn context_bounds_what_is_shown() {
    let text = long_file(100);
    let infill = ["--at", "200", "--length", "8", "-o", "json", "--context"];
    let (all, said) = run("infill", &[&infill[..], &["600"]].concat(), &text);
    assert!(
        said.contains("note: --context is 600, but tiny (built in) holds 512\n"),
        "{said}"
    );
    assert!((400..=504).contains(&prompt_tokens(&all)));
    let (some, _) = run("infill", &[&infill[..], &["100"]].concat(), &text);
    assert!(
        (60..=92).contains(&prompt_tokens(&some)),
        "{}",
        prompt_tokens(&some)
    );
    let (end, said) = run(
        "generate",
        &["-n", "40", "--context", "100", "-o", "json"],
        &text,
    );
    assert!(
        (40..=60).contains(&prompt_tokens(&end)),
        "{}",
        prompt_tokens(&end)
    );
    assert!(said.starts_with("note: the model is shown "), "{said}");
    assert!(
        said.ends_with(": --context sets how much it sees\n"),
        "{said}"
    );
    // A hole that grows takes what a text leaves, and from a long one half of the context.
    let auto = ["-n", "auto", "--context", "100", "-o", "json"];
    let (long, _) = run("generate", &auto, &text);
    assert!((30..=50).contains(&prompt_tokens(&long)));
    let (short, said) = run("generate", &auto, "x = 1\n");
    let report: Value = serde_json::from_str(&short).unwrap();
    let most = report["settings"]["max_new_tokens"].as_u64().unwrap();
    assert_eq!((most + prompt_tokens(&short), &*said), (100, ""));
}

#[test]
fn what_is_shown_stands_beside_the_hole() {
    let mut session = Session::open("tiny").unwrap();
    let text = long_file(50);
    let template = Template::between(text.as_bytes(), text.as_bytes());
    let task = Task::fill(&template, Hole::Exactly(1)).within(Some(200));
    let outcome = session.run(&task).unwrap();
    let (canvas, tokenizer) = (&outcome.canvas, &session.package().tokenizer);
    let hole = canvas.holes()[0].clone();
    let sides = [&canvas.ids()[..hole.start], &canvas.ids()[hole.end..]];
    let [before, after] = sides.map(|ids| tokenizer.decode(ids, Specials::Keep));
    assert!(text.ends_with(&before) && text.starts_with(&after));
    assert!(before.lines().count() > 4 && after.lines().count() > 4);
}

#[test]
fn far_holes_are_filled_together() {
    let text = long_file(500);
    let holes = ["--at", "2", "--at", "1000", "--length", "2", "-o", "json"];
    let (report, _) = run("infill", &holes, &text);
    let report: Value = serde_json::from_str(&report).unwrap();
    let filled = report["text"].as_str().unwrap();
    let changed = filled.lines().zip(text.lines()).enumerate();
    let changed = changed.filter(|(_, (filled, line))| filled != line);
    assert_eq!(changed.map(|(at, _)| at + 1).collect::<Vec<_>>(), [2, 1000]);
    let of_holes = report["holes"].as_array().unwrap().iter();
    let tokens: Vec<_> = of_holes
        .map(|hole| hole["token_ids"].as_array().unwrap().len())
        .collect();
    assert_eq!(tokens, [2, 2]);
}

#[test]
fn a_batch_cuts_what_is_long() {
    let line = |prompt: &str| serde_json::json!({ "id": 1, "prompt": prompt }).to_string();
    let (results, said) = run("batch", &["-", "-n", "8"], &line(&long_file(50_000)));
    assert!(prompt_tokens(&results) <= 504);
    assert!(said.contains("stdin:1: the model is shown "), "{said}");
}

fn tiny() -> (Package, Target) {
    let spec = ModelSpec::parse("tiny").unwrap();
    let package = Package::open(&spec, &HubOptions::from_env(), &mut ()).unwrap();
    (package, Session::open("tiny").unwrap().target().clone())
}

#[test]
fn a_model_sees_what_it_was_trained_on_and_what_pays_off() {
    let (package, target) = tiny();
    let session = Session::new(package, target);
    assert_eq!(
        (session.usual_context(), session.longest_context()),
        (512, 512)
    );
    let (mut package, target) = tiny();
    package.config.max_position_embeddings = 131_072;
    let session = Session::new(package, target);
    assert_eq!(
        (session.usual_context(), session.longest_context()),
        (2048, 131_072)
    );
    let (mut package, target) = tiny();
    package.config.max_position_embeddings = 131_072;
    package.config.intermediate_size = 1 << 20;
    assert_eq!(
        Session::new(package, target).usual_context(),
        1024,
        "large, on a CPU"
    );
}

/// A job made of a text in words that must not be cut, which it stands in twice.
fn question(session: &Session, text: &str) -> Result<Job, Error> {
    let question = format!("Continue this file:\n{text}\nIt is\n{text}");
    let segments = vec![
        Segment::Text(question.into()),
        Segment::Text(String::new().into()),
        Segment::Hole(Hole::Exactly(100)),
    ];
    session.prepare(&Task {
        segments,
        settings: None,
        context: Some(300),
        token_healing: true,
    })
}

#[test]
fn of_a_text_inside_of_a_question_the_end_is_taken() {
    let session = Session::open("tiny").unwrap();
    let text = long_file(100);
    let (job, kept) = session
        .fit(&text, Some(300), |text| question(&session, text))
        .unwrap();
    assert!(
        (120..=200).contains(&job.given_tokens()),
        "{}",
        job.given_tokens()
    );
    assert!(text.ends_with(kept));
    let rest = &text[..text.len() - kept.len()];
    let lines = rest.matches('\n').count();
    assert_eq!(
        job.left_out(),
        LeftOut {
            lines,
            bytes: rest.len()
        }
    );
    let (job, kept) = session
        .fit("x = 1\n", Some(300), |text| question(&session, text))
        .unwrap();
    assert_eq!((kept, job.left_out()), ("x = 1\n", LeftOut::default()));
    let long = "a question ".repeat(300);
    // Nor is the question asked without the text.
    let fits_alone = |text: &str| question(&session, if text.is_empty() { "" } else { &long });
    let refused = session.fit(&text, Some(300), fits_alone);
    assert!(matches!(
        refused,
        Err(Error::Request(RequestError::TooLong { .. }))
    ));
}

#[test]
fn a_hole_is_sewn_to_the_text_before_it() {
    let mut session = Session::open("tiny").unwrap();
    for (file, piece) in [
        (
            "class A:\n    def f(self):\n        return self.n<FILL:4>\n",
            ".n",
        ),
        ("def f(x):\n    <FILL:4>\n", " "),
        ("def f(x):\n    if <FILL:4>:\n", " "),
    ] {
        let template = Template::with_markers(file.into()).unwrap();
        for seed in 0..8 {
            let settings = Settings {
                seed,
                ..session.settings(Mode::Fast, true)
            };
            let task = Task::fill(&template, Hole::Exactly(1)).with(settings);
            let outcome = session.run(&task).unwrap();
            let tokenizer = &session.package().tokenizer;
            let first = tokenizer.token_bytes(outcome.holes[0].ids[0]);
            assert!(first.starts_with(piece.as_bytes()), "{file}: {first:?}");
            let whole = [piece, &outcome.holes[0].text].concat();
            let tokens = &outcome.holes[0].ids[..outcome.holes[0].tokens];
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id))
                .collect();
            assert_eq!(whole, String::from_utf8_lossy(&bytes));
        }
    }
    let prompt = Task::answer(Prompt::Raw("def f(x):\n    "), Hole::Exactly(4));
    let job = session.prepare(&prompt).unwrap();
    let ids = session
        .package()
        .tokenizer
        .encode("def f(x):\n    ")
        .unwrap();
    assert_eq!(job.given_tokens(), ids.len(), "a prompt is as it is");
    let template = Template::with_markers(b"def f(x):\n    <FILL:4>\n".to_vec()).unwrap();
    let mut task = Task::fill(&template, Hole::Exactly(1));
    for (token_healing, given) in [(true, 1), (false, 0)] {
        task.token_healing = token_healing;
        assert_eq!(session.prepare(&task).unwrap().given_bytes(), [given]);
    }
}

#[test]
fn a_template_and_a_question_are_never_cut() {
    let (mut package, target) = tiny();
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>";
    package.chat_template = ChatTemplate::from_files(&TokenizerFiles {
        chat_template_jinja: Some(template.as_bytes()),
        ..TokenizerFiles::default()
    })
    .unwrap();
    package.recipe.prompt = PromptStyle::Chat;
    let session = Session::new(package, target);
    let text = long_file(300);
    let asking =
        |text: &str| Asking::new(session.package(), text.into(), Wish::Continuation, "python");
    let prepare = |text| {
        let asking = asking(text);
        session.prepare(&Task::answer(
            asking.prompt(Some("Be brief.")),
            Hole::Exactly(64),
        ))
    };
    let (job, kept) = session.fit(&text, None, prepare).unwrap();
    assert!(
        (340..=448).contains(&job.given_tokens()),
        "{}",
        job.given_tokens()
    );
    assert!(text.ends_with(&format!("\n{kept}")));
    let ids = session
        .package()
        .encode(&asking(kept).prompt(Some("Be brief.")))
        .unwrap();
    assert_eq!(job.given_tokens(), ids.len());

    let long = text.repeat(2000);
    let question = Prompt::Chat {
        system: Some(""),
        user: &long,
        answer: "",
    };
    match session.prepare(&Task::answer(question, Hole::Exactly(64))) {
        Err(Error::Request(RequestError::TooLong {
            given,
            new,
            context,
        })) => {
            assert!(given > 512 && (new, context) == (64, 512), "{given}");
        }
        _ => panic!("it was accepted"),
    }
}

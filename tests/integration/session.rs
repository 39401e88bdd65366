//! A model at work through the library: text and holes in, filled texts out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diffucoder::diffusion::{Canvas, Settings, Step};
use diffucoder::infill::Template;
use diffucoder::package::Prompt;
use diffucoder::session::{
    Conditions, Finish, Hole, Mode, Observer, Outcome, Segment, Session, Task, Work,
};
use diffucoder::tokenizer::Specials;
use diffucoder::{Error, RequestError};

fn session() -> Session {
    let mut session = Session::open("tiny").unwrap();
    let mut told = (0, 1);
    let on_load = &mut |done, of| told = (done, of);
    session.load(&mut (), on_load).unwrap();
    assert_eq!(told.0, told.1);
    session
}

fn complete<'a>(session: &Session, text: &'a str, n: usize, mode: Mode) -> Task<'a> {
    let settings = Settings {
        seed: 5,
        ..session.settings(mode, false)
    };
    Task::answer(Prompt::Raw(text), Hole::Exactly(n)).with(settings)
}

#[test]
fn a_text_is_continued_without_a_word_about_how() {
    let mut session = Session::open("tiny").unwrap();
    assert_eq!(session.load_time(), Duration::ZERO);
    let task = Task::complete("def is_empty(items):\n    return ");
    let outcome = session.run(&task).unwrap();
    assert!(session.load_time() > Duration::ZERO);
    assert!(outcome.tokens() > 0 && !outcome.text().is_empty());
    assert!(outcome.work.forwards > 0 && outcome.work.rows > outcome.work.forwards);
    assert_eq!(outcome.canvas_tokens(), 256);
    assert_eq!(session.run(&task).unwrap().text(), outcome.text());
}

/// Two canvases over one copy of the weights: what each writes does not depend on the other.
#[test]
fn sessions_run_side_by_side_over_one_model() {
    let first = session();
    let tasks = [
        "def add(a, b):\n",
        "class Stack:\n    def push(self, item):\n",
    ];
    let modes = [Mode::Fast, Mode::Exact];
    let write = |mut session: Session, text: &str| -> Vec<Vec<u32>> {
        let outcomes = modes.map(|mode| {
            let task = complete(&session, text, 24, mode);
            session.run(&task).unwrap()
        });
        outcomes
            .iter()
            .map(|done| done.canvas.ids().to_vec())
            .collect()
    };
    let alone = tasks.map(|text| write(session(), text));
    assert_ne!(alone[0], alone[1]);
    let together = std::thread::scope(|scope| {
        let threads = tasks.map(|text| {
            let beside = first.beside();
            scope.spawn(move || write(beside, text))
        });
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(together, alone);
}

/// Collects what is decided, and the state of the canvas.
#[derive(Default)]
struct Listener {
    texts: Vec<String>,
    ids: Vec<u32>,
    steps: usize,
    trials: usize,
    canvas_tokens: usize,
    cancel_at: Option<(usize, &'static AtomicBool)>,
}

impl Observer for Listener {
    fn on_trial(&mut self, done: usize) {
        self.trials += 1;
        assert_eq!(done, self.trials);
    }

    fn on_start(&mut self, canvas: &Canvas, _: &Settings) {
        self.canvas_tokens = canvas.generated().len();
    }

    fn on_step(&mut self, _: &Step<'_>) {
        self.steps += 1;
        if let Some((step, flag)) = self.cancel_at
            && step == self.steps
        {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn on_decided(&mut self, _: usize, ids: &[u32]) {
        self.ids.extend(ids);
    }

    fn on_text(&mut self, hole: usize, text: &str) {
        self.texts
            .resize(self.texts.len().max(hole + 1), String::new());
        self.texts[hole].push_str(text);
    }
}

fn listen(session: &mut Session, task: &Task<'_>) -> (Outcome, Listener) {
    let mut listener = Listener::default();
    let mut job = session.prepare(task).unwrap();
    let mut conditions = Conditions::watched(&mut listener);
    let outcome = session.run_job(&mut job, &mut conditions).unwrap();
    (outcome, listener)
}

#[test]
fn the_decided_prefix_is_heard_as_it_grows() {
    let mut session = session();
    for mode in Mode::ALL {
        let task = complete(&session, "def largest(values):\n", 40, mode);
        let (outcome, heard) = listen(&mut session, &task);
        assert_eq!(heard.texts.concat(), outcome.text(), "{}", mode.name());
        assert_eq!(heard.ids, outcome.holes[0].ids[..outcome.tokens()]);
        assert_eq!(heard.steps, outcome.work.forwards);
    }
}

#[test]
fn holes_get_lengths_texts_and_reasons() {
    let mut session = session();
    let file = b"def add(a, b):\n    return <FILL:3>\n\ndef sub(a, b):\n    return <FILL>\n";
    let template = Template::with_markers(file.to_vec()).unwrap();
    let task = Task::fill(&template, Hole::Chosen { up_to: 9 });
    assert!(session.prepare(&task).unwrap().is_between());
    let (outcome, heard) = listen(&mut session, &task);
    assert!((4..=10).contains(&heard.trials), "from 8 up to 9, and down");
    assert_eq!(outcome.holes.len(), 2);
    assert_eq!(outcome.holes[0].ids.len(), 3);
    assert!((1..=9).contains(&outcome.holes[1].ids.len()));
    for (filled, text) in outcome.holes.iter().zip(&heard.texts) {
        assert_eq!(&filled.text, text);
        assert!([Finish::Stop, Finish::Length].contains(&filled.finish));
    }
    assert_eq!(outcome.work.forwards, heard.steps + heard.trials);
    // The lengths are kept for other seeds.
    let mut job = session.prepare(&task).unwrap();
    let mut conditions = Conditions::default();
    let first = session.run_job(&mut job, &mut conditions).unwrap();
    job.settings.seed += 1;
    let mut listener = Listener::default();
    let mut conditions = Conditions::watched(&mut listener);
    let second = session.run_job(&mut job, &mut conditions).unwrap();
    assert_eq!(listener.trials, 0);
    assert_eq!(second.canvas_tokens(), first.canvas_tokens());
}

#[test]
fn a_hole_at_the_end_grows_up_to_its_limit() {
    let mut session = session();
    let grown = |session: &mut Session, up_to| {
        let settings = Settings {
            seed: 3,
            ..session.settings(Mode::Fast, false)
        };
        let prompt = Prompt::Raw("import os\n");
        let task = Task::answer(prompt, Hole::Growing { up_to }).with(settings);
        session.run(&task).unwrap()
    };
    let short = grown(&mut session, 5);
    assert_eq!(short.canvas_tokens(), 5);
    let all = grown(&mut session, usize::MAX);
    let context = session.package().config.max_position_embeddings;
    assert!(all.canvas.ids().len() <= context);
    assert!(all.finish() == Finish::Stop || all.canvas.ids().len() == context);
}

#[test]
fn a_run_ends_at_its_deadline_and_when_it_is_cancelled() {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    let mut session = session();
    let task = complete(&session, "def f(x):\n", 32, Mode::Exact);
    let whole = session.run(&task).unwrap();
    assert_eq!(whole.work.forwards, 32);

    let mut job = session.prepare(&task).unwrap();
    let mut conditions = Conditions {
        deadline: Some(Instant::now()),
        ..Conditions::default()
    };
    let late = session.run_job(&mut job, &mut conditions).unwrap();
    assert_eq!((late.finish(), late.work.forwards), (Finish::Deadline, 0));
    assert_eq!((late.text().as_str(), late.tokens()), ("", 0));

    let mut listener = Listener {
        cancel_at: Some((7, &CANCEL)),
        ..Listener::default()
    };
    let mut conditions = Conditions {
        cancel: Some(&CANCEL),
        ..Conditions::watched(&mut listener)
    };
    let cancelled = session.run_job(&mut job, &mut conditions).unwrap();
    assert_eq!(
        (cancelled.finish(), cancelled.work.forwards),
        (Finish::Cancelled, 7)
    );
    assert_eq!(listener.texts.concat(), cancelled.text());
    // What is decided is what a whole run decides, and no mask is passed off as text.
    assert!(whole.text().starts_with(&cancelled.text()));
}

/// Nothing is computed once the texts have ended, and no token is counted that stands behind.
#[test]
fn a_run_is_over_with_its_text() {
    let mut session = session();
    let file = "class A:\n    def f(self):\n        return self.n<FILL:24>\n";
    let template = Template::with_markers(file.into()).unwrap();
    let task = Task::fill(&template, Hole::Exactly(1)).with(Settings {
        seed: 3,
        ..session.settings(Mode::Fast, true)
    });
    let mut job = session.prepare(&task).unwrap();
    let piece = ".n";
    assert_eq!(job.given_bytes(), [piece.len()]);
    for remask in [0, 1] {
        job.settings.remask = remask;
        let mut run_to = |texts: &[&str]| {
            job.ends.texts = texts.iter().map(|&text| text.into()).collect();
            let mut listener = Listener::default();
            let mut conditions = Conditions::watched(&mut listener);
            session.run_job(&mut job, &mut conditions).unwrap()
        };
        let whole = run_to(&[]);
        let end = whole.text().chars().nth(8).unwrap().to_string();
        let ended = run_to(&[&end]);
        // Of what is masked again nothing is known before the end.
        let is_less = ended.work.forwards < whole.work.forwards;
        assert_eq!(is_less, remask == 0);
        let (text, of_whole, tokens) = (ended.text(), whole.text(), ended.tokens());
        assert_eq!(of_whole.split_once(&end).unwrap().0, text);
        let tokenizer = &session.package().tokenizer;
        let has_text = |tokens: usize| {
            let said = tokenizer.decode(&ended.holes[0].ids[..tokens], Specials::Keep);
            said.starts_with(&format!("{piece}{text}"))
        };
        assert!(has_text(tokens) && !has_text(tokens - 1), "{tokens}");
    }
}

#[test]
fn a_prefix_is_reused_only_where_that_is_asked_for_and_allowed() {
    let text =
        "import os\nimport sys\n\n\ndef read_lines(path):\n    with open(path) as file:\n        ";
    let rows = |mode, reuse_context| {
        let mut session = session();
        let mut run = |reuse_context| {
            let mut job = session.prepare(&complete(&session, text, 8, mode)).unwrap();
            job.settings.decoding.reuse_context = reuse_context;
            let outcome = session
                .run_job(&mut job, &mut Conditions::default())
                .unwrap();
            (outcome.canvas.ids().to_vec(), outcome.work.rows)
        };
        (run(false), run(reuse_context))
    };
    let (first, again) = rows(Mode::Fast, false);
    assert_eq!(first, again);
    // Nothing has changed, so that what is reused is what would be computed.
    let (first, reused) = rows(Mode::Fast, true);
    assert_eq!(first.0, reused.0);
    let prompt = first.0.len() - 8;
    assert!(
        reused.1 <= first.1 - prompt + 1,
        "{} rows, then {}",
        first.1,
        reused.1
    );
    let (first, exact) = rows(Mode::Exact, true);
    assert_eq!(first, exact, "the published sampler computes everything");
}

/// An editor asks again after a letter; of a file that is longer than the context other lines are
/// shown then.
#[test]
fn what_is_typed_in_a_file_is_all_that_is_computed() {
    let lines: Vec<String> = (0..120).map(|i| format!("    y{i} = x + {i}\n")).collect();
    let work = |mode, reuse_context| {
        let mut session = session();
        let asked = [(60, ""), (60, "    t"), (61, "")];
        asked.map(|(at, typed)| {
            let before = lines[..at].concat() + typed;
            let behind = format!("\n{}", lines[at..].concat());
            let template = Template::between(before.as_bytes(), behind.as_bytes());
            let task = session.fill(&template, Hole::Chosen { up_to: 8 });
            let mut job = session.prepare(&task).unwrap();
            job.settings = session.settings(mode, true);
            job.settings.decoding.reuse_context = reuse_context;
            let outcome = session.run_job(&mut job, &mut Conditions::default());
            let Work { rows, forwards, .. } = outcome.unwrap().work;
            (rows, forwards)
        })
    };
    let [first, letter, line] = work(Mode::Fast, true);
    for (rows, forwards) in [letter, line] {
        assert!(rows < 12 * forwards + 40, "{rows} rows, {first:?} at first");
    }
    assert!(first.0 > 400, "{first:?}");
    assert_eq!(work(Mode::Exact, true), work(Mode::Exact, false));
}

#[test]
fn what_cannot_be_done_is_known_before_the_weights_are() {
    let session = Session::open("tiny").unwrap();
    let refused = |segments| {
        let task = Task {
            segments,
            settings: None,
            context: None,
            token_healing: true,
        };
        match session.prepare(&task) {
            Err(Error::Request(error)) => error,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was accepted"),
        }
    };
    let text = || Segment::Text("x\n".into());
    assert_eq!(refused(vec![text()]), RequestError::NothingToFill);
    let empty = Segment::Hole(Hole::Exactly(0));
    assert_eq!(refused(vec![text(), empty]), RequestError::NothingToFill);
    let growing = Segment::Hole(Hole::Growing { up_to: 9 });
    assert_eq!(
        refused(vec![text(), growing, text()]),
        RequestError::GrowsBetween
    );
    let long = Segment::Hole(Hole::Exactly(512));
    let error = refused(vec![text(), long]);
    assert_eq!(
        error,
        RequestError::TooLong {
            given: 1,
            new: 512,
            context: 512
        }
    );
    assert_eq!(session.load_time(), Duration::ZERO);
}

#[test]
fn a_hole_that_grows_takes_what_the_others_leave() {
    let session = Session::open("tiny").unwrap();
    let text = || Segment::Text("x\n".into());
    let growing = Hole::Growing { up_to: usize::MAX };
    let mut task = Task::complete("");
    task.segments = [Hole::Exactly(4), growing]
        .into_iter()
        .flat_map(|hole| [text(), Segment::Hole(hole)])
        .collect();
    let job = session.prepare(&task).unwrap();
    let context = session.longest_context();
    assert_eq!(job.given_tokens() + job.most_new_tokens(), context);
}

#[test]
fn what_choosing_a_length_took_is_of_the_first_run() {
    let mut session = session();
    let template = Template::between(b"def f(x):\n    return ", b"\n\nprint(f(1))\n");
    let task = session.fill(&template, Hole::Chosen { up_to: 12 });
    let mut job = session.prepare(&task).unwrap();
    let mut forwards = || {
        let outcome = session.run_job(&mut job, &mut Conditions::default());
        outcome.unwrap().work.forwards
    };
    let (first, second, third) = (forwards(), forwards(), forwards());
    assert_eq!(second, third);
    assert!(second < first, "{second} {first}");
}

//! What each way of decoding costs and what it loses, on held-out prompts (signature and docstring
//! of functions from projects that the built-in model was not trained on) and on lines cut out of
//! Python files. Each row differs from one above it in one thing.
//!
//! For each: tokens a forward, rows a token, seconds; how long the texts are, for a short one
//! parses easily; the share that Python parses together with their prompt, of all and of those
//! longer than 8 tokens; and the negative log-likelihood of the text when its tokens are revealed
//! one by one, surest position first, with everything computed anew (nats a token: how likely the
//! exact sampler finds what the mode wrote). A text that did not end counts up to its last whole
//! line. With `--holes FOLDER`, also how many of the lines cut out of its files come back, in holes
//! of the true length at temperature 0 and without remasking, and how similar the others are.
//!
//! `cargo bench --bench decoding -- [--model NAME] [--prompts N] [--new-tokens N] [--only NAME]…
//! [--holes FOLDER [--count N]] [--temperature T] [--no-nll] [--remask N]`

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::Options;
use diffucoder::diffusion::{
    Cache, Decoding, Ending, Far, Mode, Refresh, Rule, Settings, Shaping, Steps,
};
use diffucoder::infill::Template;
use diffucoder::package::Package;
use diffucoder::session::{Hole, Session, Task};

/// Texts of at most so many tokens are short.
const SHORT: usize = 8;

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    let prompts = common::held_out_prompts(options.number("--prompts", 200)?)?;
    let mut session = common::session(options.value("--model").unwrap_or("tiny"))?;
    let lines = match options.value("--holes") {
        Some(folder) => common::lines(folder.as_ref(), options.number("--count", 100)?)?,
        None => Vec::new(),
    };
    let only = options.values("--only");

    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<40} {:>6} {:>9} {:>9} {:>7} {:>6} {:>6} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6}",
        "mode",
        "tokens",
        "tokens/fw",
        "rows/tok",
        "s",
        "median",
        "short",
        "NLL",
        "ended",
        "parse",
        "longer",
        "exact",
        "edit"
    )?;
    for way in ways(session.package()) {
        if !only.is_empty() && !only.contains(&way.name) {
            continue;
        }
        let texts = Texts::write(&mut session, &prompts, &way, &options)?;
        let holes = Holes::fill(&mut session, &lines, &way, &options)?;
        writeln!(out, "{:<40} {texts} {holes}", way.name)?;
    }
    Ok(())
}

/// A way of decoding by its name.
struct Way {
    name: &'static str,
    ending: Ending,
    decoding: Decoding,
    tokens_per_step: usize,
}

impl Way {
    fn settings(&self, temperature: f32, remask: usize, seed: u64) -> Settings {
        Settings {
            algorithm: self.decoding.usual_algorithm(),
            shaping: Shaping::nucleus(temperature, 0.95),
            seed,
            ending: self.ending.clone(),
            decoding: self.decoding,
            steps: Steps::OfTokens(self.tokens_per_step),
            remask,
            ..Settings::reference(1)
        }
    }
}

/// The modes, and what lies between them: from `exact`, one thing at a time.
fn ways(package: &Package) -> Vec<Way> {
    let way = |name, decoding| Way {
        name,
        ending: Ending::AtStop(package.stop_ids.clone()),
        decoding,
        tokens_per_step: 1,
    };
    let whole = |name, decoding, tokens_per_step| Way {
        name,
        ending: Ending::FullCanvas,
        decoding,
        tokens_per_step,
    };
    let exact = Decoding::default();
    let [balanced, quality, fast] =
        [Mode::Balanced, Mode::Quality, Mode::Fast].map(|mode| mode.decoding(false));
    // Ordered by untempered probabilities, or by those that tokens are drawn from.
    let order = |decoding| Decoding {
        order_temperature: Some(1.0),
        ..decoding
    };
    let drawn = |decoding| Decoding {
        order_temperature: None,
        ..decoding
    };
    let size = |masks, decoding| Decoding {
        window: Some(masks),
        ..decoding
    };
    let ruled = |rule: Rule, threshold, decoding| Decoding {
        rule,
        threshold: Some(threshold),
        threshold_temperature: Some(1.0),
        ..decoding
    };
    let sure = |decoding| ruled(Rule::Threshold, 0.9, decoding);
    let seen = |masks, far, decoding| Decoding {
        lookahead: Some(masks),
        far,
        ..decoding
    };
    let cached = |cache, refresh, decoding| Decoding {
        cache,
        refresh,
        ..decoding
    };
    // Windows with all masks seen and nothing reused, one token a forward.
    let windows = size(32, exact);
    let thinned = seen(16, Far::Thinned, sure(windows));
    let window_64 = |cache| cached(cache, Refresh::Every(64), thinned);
    vec![
        whole("exact", exact, 1),
        whole("exact, 2 tokens a step", exact, 2),
        way("exact to the end of the text", exact),
        way("order", order(exact)),
        way("order, threshold", sure(order(exact))),
        way("window", windows),
        way("window 12", size(12, windows)),
        way("window, order", order(windows)),
        way("window, order, threshold", sure(order(windows))),
        way("window, threshold", sure(windows)),
        way("window, threshold .8", ruled(Rule::Threshold, 0.8, windows)),
        way("window, klass .9", ruled(Rule::Klass, 0.9, windows)),
        way("window, klass .8", ruled(Rule::Klass, 0.8, windows)),
        way("window, frechet", ruled(Rule::Frechet, 0.25, windows)),
        way(
            "window, threshold, 16 seen",
            seen(16, Far::Hidden, sure(windows)),
        ),
        way(
            "window, threshold, 0 seen",
            seen(0, Far::Hidden, sure(windows)),
        ),
        way("window, threshold, thinned", thinned),
        way(
            "thinned, prefix",
            cached(Cache::Prefix, Refresh::Window, thinned),
        ),
        way(
            "thinned, window",
            cached(Cache::Window, Refresh::Window, thinned),
        ),
        way("thinned, window, every 64", window_64(Cache::Window)),
        way("thinned, dual, every 64", window_64(Cache::Dual)),
        way(
            "thinned, dual, every 8",
            cached(Cache::Dual, Refresh::Every(8), thinned),
        ),
        way("balanced", balanced),
        way("balanced, window 16", size(16, balanced)),
        way("balanced, window 12", size(12, balanced)),
        way("balanced, threshold", sure(balanced)),
        way("balanced, klass .8", ruled(Rule::Klass, 0.8, balanced)),
        way("balanced, frechet", ruled(Rule::Frechet, 0.25, balanced)),
        way("balanced, order", order(balanced)),
        way(
            "balanced, dual",
            cached(Cache::Dual, Refresh::Every(64), balanced),
        ),
        way("quality", quality),
        way("quality, order", order(quality)),
        way("fast", fast),
        way("fast, drawn", drawn(sure(fast))),
        way("fast, 16 seen and thinned", seen(16, Far::Thinned, fast)),
        whole("fast-dllm", Mode::FastDllm.decoding(false), 1),
    ]
}

/// What came of the prompts.
struct Texts {
    tokens: Vec<usize>, // of each
    forwards: usize,
    rows: usize,
    seconds: f64,
    nll: Option<f64>, // a token
    ended: usize,
    parsed: Vec<bool>, // none where there is no Python
}

impl Texts {
    fn write(
        session: &mut Session,
        prompts: &[String],
        way: &Way,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let new_tokens = options.number("--new-tokens", 64)?;
        let temperature = options.value("--temperature").unwrap_or("0.2").parse()?;
        let remask = options.number("--remask", 0)?;
        let mut found = Self {
            tokens: Vec::new(),
            forwards: 0,
            rows: 0,
            seconds: 0.0,
            nll: None,
            ended: 0,
            parsed: Vec::new(),
        };
        let (mut nll, mut scored, mut texts) = (0.0, 0, Vec::new());
        for (seed, text) in prompts.iter().enumerate() {
            let settings = way.settings(temperature, remask, seed as u64);
            let done = common::complete(session, text, new_tokens, &settings, &mut ())?;
            found.forwards += done.work.forwards;
            found.rows += done.work.rows;
            found.seconds += done.work.time.as_secs_f64();
            let end = done.tokens();
            found.tokens.push(end);
            if !options.has("--no-nll") {
                let text = session.exact_nll(&done)?;
                nll += text.nll;
                scored += text.tokens;
            }
            let mut whole = format!("{text}{}", done.text());
            // A text that the canvas cut off rightly stops in the middle of a line.
            if end == new_tokens {
                whole.truncate(whole.rfind('\n').map_or(whole.len(), |at| at + 1));
            } else {
                found.ended += 1;
            }
            texts.push(whole);
        }
        found.nll = (scored > 0).then(|| nll / scored as f64);
        found.parsed = parsed(&texts)?;
        Ok(found)
    }
}

impl std::fmt::Display for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total: usize = self.tokens.iter().sum();
        let mut sorted = self.tokens.clone();
        sorted.sort_unstable();
        let count = self.tokens.len();
        let short = sorted.partition_point(|&tokens| tokens <= SHORT);
        let all = self.parsed.iter().filter(|&&parses| parses).count();
        let both = self.parsed.iter().zip(&self.tokens);
        let longer = both.filter(|(parses, tokens)| **parses && **tokens > SHORT);
        let longer = longer.count();
        let parsed = |count, of| match self.parsed.is_empty() {
            true => "-".into(),
            false => percent(count, of),
        };
        write!(
            f,
            "{total:>6} {:>9.2} {:>9.1} {:>7.1} {:>6} {:>6} {:>7} {:>6} {:>6} {:>6}",
            total as f64 / self.forwards as f64,
            self.rows as f64 / total as f64,
            self.seconds,
            sorted.get(count / 2).copied().unwrap_or(0),
            percent(short, count),
            self.nll.map_or("-".into(), |nll| format!("{nll:.3}")),
            percent(self.ended, count),
            parsed(all, count),
            parsed(longer, count - short),
        )
    }
}

/// What came of the lines.
struct Holes {
    exact: usize,
    similarity: f64, // sum: 1 for the same text, 0 where every character has to be changed
    count: usize,
}

impl Holes {
    fn fill(
        session: &mut Session,
        lines: &[(Vec<u8>, String)],
        way: &Way,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let remask = options.number("--remask", 0)?;
        let (mut exact, mut similarity) = (0, 0.0);
        for (marked, line) in lines {
            let template = Template::with_markers(marked.clone())?;
            let length = session.package().tokenizer.encode_plain(line)?.len();
            let task = Task::fill(&template, Hole::Exactly(length));
            let done = session.run(&task.with(way.settings(0.0, remask, 0)))?;
            let (text, line) = (done.text(), line.trim()); // the space before it may be given
            exact += usize::from(text.trim() == line);
            similarity += strsim::normalized_levenshtein(text.trim(), line);
        }
        Ok(Self {
            exact,
            similarity,
            count: lines.len(),
        })
    }
}

impl std::fmt::Display for Holes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.count == 0 {
            return write!(f, "{:>6} {:>6}", "-", "-");
        }
        let similarity = self.similarity / self.count as f64;
        write!(
            f,
            "{:>6} {similarity:>6.3}",
            percent(self.exact, self.count)
        )
    }
}

fn percent(part: usize, of: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

/// Whether Python parses each of the texts, where there is a Python.
fn parsed(texts: &[String]) -> anyhow::Result<Vec<bool>> {
    const PARSE: &str = "import ast, json, sys, warnings
warnings.simplefilter('ignore')
def parses(text):
    try:
        ast.parse(text)
        return True
    except (SyntaxError, ValueError):
        return False
json.dump([parses(text) for text in json.load(sys.stdin)], sys.stdout)";
    let python = Command::new("python3")
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        return Ok(Vec::new());
    };
    if let Some(stdin) = python.stdin.take() {
        serde_json::to_writer(stdin, texts)?;
    }
    Ok(serde_json::from_slice(&python.wait_with_output()?.stdout)?)
}

//! What each way of decoding costs and what it loses, on the built-in model and held-out prompts
//! (signature and docstring of functions from projects that it was not trained on).
//!
//! For each mode: tokens a forward, rows a token, seconds, the share of texts that Python parses
//! together with their prompt, and the negative log-likelihood of the text when its tokens are
//! revealed one by one, surest position first, with everything computed anew (nats a token: how
//! likely the exact sampler finds what the mode wrote). A text that did not end counts up to its
//! last whole line.
//!
//! With `--remask N`, each token of the finished text is masked by itself and predicted again, N
//! times.
//!
//! `cargo bench --bench decoding -- [--prompts N] [--new-tokens N] [--all] [--only NAME]
//! [--no-nll] [--remask N]`

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::Options;
use diffucoder::diffusion::{
    Algorithm, Decoding, Denoiser, Ending, Refresh, Settings, Shaping, Steps,
};
use diffucoder::kernels::Isa;
use diffucoder::package::Package;
use diffucoder::session::Session;

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    let new_tokens = options.number("--new-tokens", 64)?;
    let prompts = common::held_out_prompts(options.number("--prompts", 200)?)?;
    let mut session = common::tiny()?;
    let remask = options.number("--remask", 0)?;
    let with_nll = !options.has("--no-nll");

    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<34} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8} {:>6} {:>6}",
        "mode", "tokens", "tokens/fw", "rows/tok", "s", "tok/s", "NLL", "ended", "parse"
    )?;
    for mode in modes(session.package(), options.has("--all")) {
        let Mode {
            name,
            ending,
            decoding,
            tokens_per_step,
        } = mode;
        if options
            .value("--only")
            .is_some_and(|only| !name.contains(only))
        {
            continue;
        }
        let (mut tokens, mut forwards, mut rows, mut seconds) = (0, 0, 0, 0.0);
        let (mut nll, mut scored, mut texts, mut stopped) = (0.0, 0, Vec::new(), 0);
        for (seed, text) in prompts.iter().enumerate() {
            let settings = Settings {
                algorithm: decoding.usual_algorithm(),
                shaping: Shaping::nucleus(0.2, 0.95),
                seed: seed as u64,
                ending: ending.clone(),
                decoding,
                steps: Steps::OfTokens(tokens_per_step),
                remask,
                ..Settings::reference(1)
            };
            let done = common::complete(&mut session, text, new_tokens, &settings, &mut ())?;
            (forwards, rows) = (forwards + done.work.forwards, rows + done.work.rows);
            seconds += done.work.time.as_secs_f64();
            let prompt = &done.canvas.ids()[..done.canvas.prompt_len()];
            let (generated, end) = (done.canvas.generated(), done.tokens());
            tokens += end;
            // With its end, which is a choice of the mode's as well.
            let scored_tokens = &generated[..new_tokens.min(end + 1)];
            if with_nll {
                nll += exact_nll(&mut session, prompt, scored_tokens)?;
                scored += scored_tokens.len();
            }
            let mut whole = format!("{text}{}", done.text());
            // A text that the canvas cut off rightly stops in the middle of a line.
            if end == new_tokens {
                whole.truncate(whole.rfind('\n').map_or(whole.len(), |at| at + 1));
            } else {
                stopped += 1;
            }
            texts.push(whole);
        }
        writeln!(
            out,
            "{name:<34} {tokens:>7} {:>9.2} {:>9.1} {seconds:>8.2} {:>8.0} {:>8} {:>6} {:>6}",
            tokens as f64 / forwards as f64,
            rows as f64 / tokens as f64,
            tokens as f64 / seconds,
            match with_nll {
                true => format!("{:.3}", nll / scored as f64),
                false => "-".into(),
            },
            format!("{:.0} %", 100.0 * f64::from(stopped) / texts.len() as f64),
            parse_rate(&texts)?,
        )?;
    }
    Ok(())
}

/// A way of decoding by its name.
struct Mode {
    name: &'static str,
    ending: Ending,
    decoding: Decoding,
    tokens_per_step: usize,
}

/// The modes of the README's table, and with `all` what they were chosen from.
fn modes(package: &Package, all: bool) -> Vec<Mode> {
    let stop = || Ending::AtStop(package.stop_ids.clone());
    let exact = Decoding::default();
    let (quality, fast) = (Decoding::quality(), Decoding::fast(Decoding::CPU_WINDOW));
    let mode = |name, ending, decoding, tokens_per_step| Mode {
        name,
        ending,
        decoding,
        tokens_per_step,
    };
    let window = |masks, seen, from| Decoding {
        window: Some(masks),
        lookahead: Some(seen),
        ..from
    };
    let with_threshold = |p, from| Decoding {
        threshold: p,
        ..from
    };
    let untempered = Decoding {
        order_temperature: Some(1.0),
        ..exact
    };
    let refreshed = |refresh| Decoding { refresh, ..fast };
    let by_sampling = Decoding {
        order_temperature: None,
        ..fast
    };
    let fixed = with_threshold(None, fast);
    let threshold = with_threshold(Some(0.9), untempered);
    let mut modes = vec![
        mode("exact", Ending::FullCanvas, exact, 1),
        mode("exact, 2 tokens a step", Ending::FullCanvas, exact, 2),
        mode("exact, order temperature 1", stop(), untempered, 1),
        mode("exact, threshold 0.9", stop(), threshold, 1),
        mode("quality", stop(), quality, 1),
        mode("fast", stop(), fast, 1),
        mode("fast, order by sampling", stop(), by_sampling, 1),
        mode("fast, 2 tokens a step", stop(), fixed, 2),
    ];
    if all {
        modes.extend([
            mode("quality, window 16", stop(), window(16, 32, quality), 1),
            mode(
                "fast, refresh window",
                stop(),
                refreshed(Refresh::Window),
                1,
            ),
            mode(
                "fast, refresh every 4",
                stop(),
                refreshed(Refresh::Every(4)),
                1,
            ),
            mode("fast, window 8", stop(), window(8, 0, fast), 1),
            mode("fast, window 16", stop(), window(16, 0, fast), 1),
            mode("fast, window 32", stop(), window(32, 0, fast), 1),
            mode("fast, lookahead 16", stop(), window(12, 16, fast), 1),
            mode("fast, lookahead 4", stop(), window(12, 4, fast), 1),
            mode("fast, lookahead 48", stop(), window(12, 48, fast), 1),
            mode(
                "fast, lookahead 48, every 4",
                stop(),
                window(12, 48, refreshed(Refresh::Every(4))),
                1,
            ),
            mode(
                "fast, lookahead 48, every 8",
                stop(),
                window(12, 48, refreshed(Refresh::Every(8))),
                1,
            ),
            mode(
                "fast, lookahead 48, window",
                stop(),
                window(12, 48, refreshed(Refresh::Window)),
                1,
            ),
            mode("quality, lookahead 64", stop(), window(32, 64, quality), 1),
            mode(
                "fast, threshold 0.8",
                stop(),
                with_threshold(Some(0.8), fast),
                1,
            ),
            mode(
                "fast, threshold 0.7",
                stop(),
                with_threshold(Some(0.7), fast),
                1,
            ),
            mode("fast, 1 token a step", stop(), fixed, 1),
        ]);
    }
    modes
}

/// `-ln p` of `tokens` behind `prompt`, revealed one by one, least entropy first.
fn exact_nll(session: &mut Session, prompt: &[u32], tokens: &[u32]) -> anyhow::Result<f64> {
    let package = Arc::clone(session.package());
    let model = session.load(&mut (), &mut |_, _| ())?;
    let isa = Isa::detect();
    let mut ids = prompt.to_vec();
    ids.resize(prompt.len() + tokens.len(), package.mask_id);
    let mut masked: Vec<usize> = (prompt.len()..ids.len()).collect();
    let mut nll = 0.0;
    while !masked.is_empty() {
        let mut logits = model.predict(&ids, &masked)?.logits;
        let rows = logits.chunks_exact_mut(package.config.vocab_size);
        let best = rows
            .zip(&masked)
            .enumerate()
            .map(|(i, (row, &position))| {
                Shaping::temperature(1.0).apply(isa, row);
                let token = tokens[position - prompt.len()];
                (
                    Algorithm::Entropy.confidence(isa, row, token),
                    i,
                    row[token as usize],
                )
            })
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let Some((_, i, p)) = best {
            nll -= f64::from(p.max(1e-9)).ln();
            let position = masked.remove(i);
            ids[position] = tokens[position - prompt.len()];
        }
    }
    Ok(nll)
}

/// Share of the texts that Python parses, where there is a Python.
fn parse_rate(texts: &[String]) -> anyhow::Result<String> {
    const COUNT: &str = "import ast, json, sys, warnings
warnings.simplefilter('ignore')
def parses(text):
    try:
        ast.parse(text)
        return True
    except (SyntaxError, ValueError):
        return False
print(sum(map(parses, json.load(sys.stdin))))";
    let python = Command::new("python3")
        .args(["-c", COUNT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        return Ok("-".into());
    };
    if let Some(stdin) = python.stdin.take() {
        serde_json::to_writer(stdin, texts)?;
    }
    let output = python.wait_with_output()?;
    let parsed: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
    Ok(format!("{:.0} %", 100.0 * parsed / texts.len() as f64))
}

//! A run on record, and the page made of it, in a real browser where there is one.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::batch::results as lines;
use crate::command::{refusal, run, run_json, stdout, tiny};

/// Flags of a Chromium that has neither a window nor anything to do but what it is asked to.
pub const QUIET_BROWSER: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// The token of each position, and the step that revealed it.
fn reveals(steps: &[Value], len: usize) -> (Vec<Value>, Vec<Value>) {
    let mut canvas = vec![Value::Null; len];
    let mut reveal_step = canvas.clone();
    for step in steps {
        for (at, position) in step["positions"].as_array().unwrap().iter().enumerate() {
            let position = position.as_u64().unwrap() as usize;
            canvas[position] = step["tokens"][at].clone();
            reveal_step[position] = step["step"].clone();
        }
    }
    (canvas, reveal_step)
}

#[test]
fn a_trace_has_every_reveal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let flags = format!("-n 24 --seed 1 --exact --trace {}", path.display());
    let report = run_json(&tiny("def f(x):", &flags));
    let lines = lines(&path);
    assert_eq!(lines[0]["type"], "header");
    assert_eq!(lines[0]["settings"], report["settings"]);
    assert_eq!(lines[0]["prompt"], "def f(x):");
    let end = lines.last().unwrap();
    assert_eq!(end["type"], "end");
    assert_eq!(end["text"], report["text"]);
    assert_eq!(end["usage"], report["usage"]);
    let steps = &lines[1..lines.len() - 1];
    assert_eq!(json!(steps.len()), report["usage"]["forwards"]);
    for step in steps {
        let confidences = step["confidences"].as_array().unwrap();
        assert!(
            confidences.iter().all(|c| c.as_f64().unwrap() <= 0.0),
            "entropy, negated"
        );
        let texts = step["texts"].as_array().unwrap();
        assert!(texts.iter().all(Value::is_string) && texts.len() == confidences.len());
    }
    let (canvas, reveal_step) = reveals(steps, 24);
    assert_eq!(json!(canvas), report["token_ids"]);
    assert_eq!(json!(reveal_step), report["reveal_step"]);
}

/// A file's holes filled under trace: the report, the trace, and the page as a browser shows it,
/// where there is one.
fn infill_traced(text: &str, flags: &[&str]) -> (Value, Vec<Value>, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let [file, trace, page] = ["a.py", "a.jsonl", "a.html"].map(|name| folder.path().join(name));
    fs::write(&file, text).unwrap();
    let [file, trace_name, page_name] = [&file, &trace, &page].map(|path| path.to_str().unwrap());
    let args = [
        "infill", file, "--model", "tiny", "--seed", "1", "--trace", trace_name,
    ];
    let report = run_json(&[&args[..], flags].concat());
    assert_eq!(stdout(&run(&["report", trace_name, "-o", page_name])), "");
    let dom = browse(&page, &folder.path().join("profile"));
    (report, lines(&trace), dom)
}

/// Holes between texts: the page shows the texts as given, and replays the holes.
#[test]
fn a_file_with_holes_is_traced_too() {
    let text = "a = <FILL:5>\nb = 12345\nc = <FILL:4> # end\n";
    let (report, lines, dom) = infill_traced(text, &["--exact"]);
    let header = &lines[0];
    assert_eq!(header["prompt"], "a =");
    let given = header["given"].as_array().unwrap();
    assert_eq!(given[0]["first"], 5);
    assert!(given[0]["text"].as_str().unwrap().contains("b = 12345"));
    assert_eq!(given[1]["text"], " # end\n");
    let len = |at: usize| given[at]["len"].as_u64().unwrap();
    assert_eq!(given[1]["first"], 5 + len(0) + 4);
    assert_eq!(header["canvas_tokens"], 9 + len(0) + len(1));
    // What was revealed at a hole's positions is what the hole holds.
    let steps = &lines[1..lines.len() - 1];
    let (ids, _) = reveals(steps, 9 + (len(0) + len(1)) as usize);
    assert_eq!(report["holes"][0]["token_ids"], json!(ids[..5]));
    let second = given[1]["first"].as_u64().unwrap() as usize;
    assert_eq!(
        report["holes"][1]["token_ids"],
        json!(ids[second - 4..second])
    );
    assert_eq!(lines.last().unwrap()["text"], report["text"]);
    assert_eq!(lines.last().unwrap()["usage"], report["usage"]);
    if let Some(dom) = dom {
        assert!(dom.contains("9 of 9 tokens"));
        assert_eq!(dom.matches("class=\"cell given shown\"").count(), 2);
    }
}

/// A token that was masked again is shown from its last reveal on, and counts once.
#[test]
fn remasking_is_traced_too() {
    let (report, lines, dom) = infill_traced("a = <FILL:5>\nb = 12345\n", &[]);
    let steps = &lines[1..lines.len() - 1];
    assert_eq!(json!(steps.len()), report["usage"]["forwards"]);
    let revealed: usize = steps
        .iter()
        .map(|step| step["positions"].as_array().unwrap().len())
        .sum();
    assert_eq!(revealed, 10, "each of five tokens twice");
    let (ids, _) = reveals(steps, lines[0]["canvas_tokens"].as_u64().unwrap() as usize);
    assert_eq!(report["holes"][0]["token_ids"], json!(ids[..5]));
    if let Some(dom) = dom {
        assert!(dom.contains("5 of 5 tokens") && dom.contains("Tokens were looked at again"));
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_leaves_whole_lines_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let flags = format!("-n 450 --exact --trace {}", path.display());
    let mut child = crate::binary::program(&tiny("x = 1\n", &flags))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // As soon as there are a few steps.
    while fs::read(&path).map_or(0, |bytes| bytes.iter().filter(|b| **b == b'\n').count()) < 4 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lines(&path).len() >= 4);
    // Even half a line does no harm, nor one whose end an editor took.
    let whole = fs::read(&path).unwrap();
    let steps = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let output = run(&["report", path.to_str().unwrap()]);
        stdout(&output).matches("\"confidence\"").count()
    };
    assert_eq!(steps(whole.trim_ascii_end()), steps(&whole));
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(b"{\"type\":\"st");
    fs::write(&path, torn).unwrap();
    let output = run(&["report", path.to_str().unwrap()]);
    assert!(stdout(&output).starts_with("<!doctype html>"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the run was cut off"));
}

#[test]
fn what_is_no_trace_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let header = "{\"type\":\"header\",\"version\":1,\"model\":\"m\",\"settings\":{},\"prompt\":\"\",\
                  \"prompt_tokens\":1,\"canvas_tokens\":2,\"stop_ids\":[]}\n";
    let step = |position: usize, text: &str| {
        format!(
            "{{\"type\":\"step\",\"step\":0,\"elapsed_s\":0,\"positions\":[{position}],\"tokens\":[1],\
             \"texts\":[{text}],\"confidences\":[0]}}\n"
        )
    };
    for (text, says) in [
        (String::new(), "it has no header line"),
        ("hello\n".into(), "line 1"),
        (
            header.replace("\"version\":1", "\"version\":9"),
            "has version 9",
        ),
        (format!("{header}{header}"), "line 2 is out of place"),
        (
            format!("{header}{}", step(2, "\"a\"")),
            "a position is outside the canvas",
        ),
        (
            header.replace(
                "\"stop_ids\"",
                "\"given\":[{\"first\":1,\"len\":9,\"text\":\"\"}],\"stop_ids\"",
            ),
            "a given text is out of place",
        ),
        (
            header.replace("\"canvas_tokens\":2", "\"canvas_tokens\":99999999999"),
            "a canvas of 99999999999 tokens",
        ),
        (
            format!("{header}{}", step(0, "\"a\",\"b\"")),
            "its lists differ in length",
        ),
    ] {
        fs::write(&path, &text).unwrap();
        let (code, stderr) = refusal(&["report", path.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{text}");
        assert!(stderr.contains(says), "{text}: {stderr}");
    }
    let (code, _) = refusal(&["report", "no-such-file"]);
    assert_eq!(code, Some(1));
    let (code, stderr) = refusal(&tiny("x", "-n 2 --trace no/such/folder/x"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot write the trace"), "{stderr}");
}

/// A trace of tokens that try to break out of the page, and of characters in parts.
fn hostile() -> String {
    let texts = [
        "</script><script>document.title='owned'</script>",
        "<!--",
        "\u{2028}&lt;<b>",
        "\u{1b}[31m",
    ];
    let mut trace = json!({
        "type": "header", "version": 1, "model": "<img src=x onerror=\"document.title='owned'\">",
        "settings": {"algorithm": "entropy", "seed": 1}, "prompt": "</pre><script>document.title='owned'</script>",
        "prompt_tokens": 3, "canvas_tokens": 8, "stop_ids": [9],
    })
    .to_string();
    for (at, text) in texts.iter().enumerate() {
        let step = json!({"type": "step", "step": at, "elapsed_s": 0.1, "positions": [at], "tokens": [at],
            "texts": [text], "confidences": [-0.5]});
        trace += &format!("\n{step}");
    }
    let euro = json!({"type": "step", "step": 4, "elapsed_s": 0.2, "positions": [5, 4], "tokens": [7, 6],
        "texts": ["\u{fffd}", "\u{fffd}"], "confidences": [null, -1.0], "bytes": ["82ac", "e2"]});
    let stop = json!({"type": "step", "step": 5, "elapsed_s": 0.3, "positions": [6], "tokens": [9],
        "texts": ["<end>"], "confidences": [0]});
    trace + &format!("\n{euro}\n{stop}\n")
}

/// What `report` makes of it, in this file.
fn hostile_report(output: &Path) -> String {
    let trace = output.with_file_name("t.jsonl");
    fs::write(&trace, hostile()).unwrap();
    let [trace, name] = [&trace, output].map(|path| path.to_str().unwrap());
    assert_eq!(stdout(&run(&["report", trace, "-o", name])), "");
    fs::read_to_string(output).unwrap()
}

#[test]
fn a_page_shows_hostile_text_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let html = hostile_report(&page);
    assert_eq!(
        html.matches("<script").count(),
        2,
        "the data and the program"
    );
    for remote in ["http://", "https://", "src=\"", "@import"] {
        let page_alone = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!page_alone.contains(remote), "{remote}");
    }
    let Some(dom) = browse(&page, &folder.path().join("profile")) else {
        return;
    };
    assert!(
        dom.contains("<title>diffucoder"),
        "the title was not changed"
    );
    assert!(
        dom.contains("class=\"cell shown\""),
        "the script ran to its end"
    );
    assert!(dom.contains(">€<"), "parts of a character are together");
    assert!(dom.contains("&lt;/script&gt;&lt;script&gt;document.title"));
    assert!(dom.contains("6 of 6 steps · 7 of 8 tokens"));
    assert!(dom.contains("1 mask at the end of the canvas was never revealed"));
    assert_eq!(
        dom.matches("<circle").count(),
        6,
        "a dot for each confidence that is a number"
    );
    assert!(dom.contains("Global, whole canvas"));
}

/// A picture is XML without a script, whatever the model wrote, and covers each token until it
/// comes.
#[test]
fn a_picture_shows_hostile_text_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("t.svg");
    let picture = hostile_report(&svg);
    assert!(picture.starts_with("<svg xmlns="));
    assert!(!picture.contains("<script") && !picture.contains("<img"));
    assert!(!picture.contains('\u{1b}'), "XML forbids it");
    assert!(picture.contains("&lt;/script&gt;&lt;script&gt;document.title"));
    assert!(picture.contains(">€<"), "parts of a character are together");
    // Four tokens and the two halves of a character; the stop and what is behind it are not shown.
    assert_eq!(picture.matches("<g class=\"m").count(), 5);
    assert_eq!(
        picture.matches("@keyframes b").count(),
        6,
        "one for each step"
    );
    if let Some(dom) = browse(&svg, &folder.path().join("profile")) {
        assert!(dom.contains("€") && !dom.contains("parsererror"), "{dom}");
    }
}

/// The page after its script has run; `None` where there is no browser.
fn browse(page: &Path, profile: &Path) -> Option<String> {
    let output = Command::new("chromium")
        .args(QUIET_BROWSER)
        .arg("--dump-dom")
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => panic!("chromium failed: {}", output.status),
        Err(_) => {
            use std::io::Write;
            let _ = writeln!(
                std::io::stderr(),
                "skipped: no chromium here to look at the page with"
            );
            None
        }
    }
}

#[test]
fn several_samples_are_several_seeds() {
    let args = tiny("def f(", "-n 12 -t 1 --seed 5");
    let several = [&args[..], &["--num-samples", "3"]].concat();
    let text = stdout(&run(&several));
    let json = stdout(&run(&[&several[..], &["--output", "json"]].concat()));
    let reports: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(reports.len(), 3);
    for (at, report) in reports.iter().enumerate() {
        assert_eq!(report["settings"]["seed"], json!(5 + at));
        assert!(text.contains(&format!("==> {} of 3, seed {} <==\n", at + 1, 5 + at)));
        assert!(text.contains(report["text"].as_str().unwrap()));
    }
    let last = run_json(&[&args[..], &["--seed", "7"]].concat());
    assert_eq!(last["token_ids"], reports[2]["token_ids"]);
    let trace = [&several[..], &["--trace", "x.jsonl"]].concat();
    let (code, stderr) = refusal(&trace);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--trace records one run"), "{stderr}");
    assert!(!Path::new("x.jsonl").exists());
    assert_eq!(refusal(&tiny("x", "--num-samples 0")).0, Some(2));
}

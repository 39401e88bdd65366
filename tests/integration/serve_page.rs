//! The server's page in a real browser, driven by its keys; where there is none, what it gets.
#![cfg(feature = "serve")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::serve::Server;
use crate::trace::QUIET_BROWSER;

/// A browser, and a page in it; spoken with in the DevTools protocol over two pipes.
struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    last_id: u64,
}

impl Browser {
    /// `None` where there is none.
    fn open(folder: &Path, url: &str) -> Option<Self> {
        let pipe = |name| {
            let pipe = folder.join(name);
            let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
            assert!(made.success());
            pipe
        };
        let (input, output) = (pipe("in"), pipe("out"));
        let child = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<\"$0/in\" 4>\"$0/out\""])
            .arg(folder)
            .args(QUIET_BROWSER)
            .arg("--remote-debugging-pipe")
            .arg(format!(
                "--user-data-dir={}",
                folder.join("profile").display()
            ))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut browser = Self {
            child,
            to: File::options().write(true).open(input).unwrap(),
            from: BufReader::new(File::open(output).unwrap()),
            session: None,
            last_id: 0,
        };
        let target = browser.ask("Target.createTarget", json!({"url": url}));
        let Some(target) = target else {
            let _ = writeln!(std::io::stderr(), "skipped: no chromium here");
            return None;
        };
        let params = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.ask("Target.attachToTarget", params)?;
        browser.session = attached["sessionId"].as_str().map(str::to_string);
        Some(browser)
    }

    /// The result; `None` when the browser is gone.
    fn ask(&mut self, method: &str, params: Value) -> Option<Value> {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        write!(self.to, "{message}\0").ok()?;
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer).unwrap();
            answer.pop()?;
            let mut answer: Value = serde_json::from_slice(&answer).unwrap();
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return Some(answer["result"].take());
            }
        }
    }

    fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let result = self.ask("Runtime.evaluate", params).unwrap();
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    fn wait_for(&mut self, condition: &str) {
        let started = Instant::now();
        while self.eval(condition) != true {
            let waited = started.elapsed();
            let state = json!([self.eval("document.body?.innerText"), condition]);
            assert!(waited < Duration::from_secs(300), "{state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, key: &str, code: u32, modifiers: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "code": key, "modifiers": modifiers,
                "windowsVirtualKeyCode": code});
            self.ask("Input.dispatchKeyEvent", params);
        }
    }

    fn enter(&mut self) {
        self.press("Enter", 13, 0);
    }

    fn ctrl_enter(&mut self) {
        self.press("Enter", 13, 2);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const IS_THERE: &str =
    "document.readyState === 'complete' && document.getElementById('canvas') !== null";
const IS_DONE: &str = "!$('accept').hidden";
const IS_EDITING: &str = "canvas.hidden && !text.hidden";

/// Masks that the page shows, each time that it draws.
const WATCH: &str = "
    globalThis.masks = [];
    new MutationObserver(() => masks.push(document.querySelectorAll('.cell.mask').length))
        .observe(canvas, {childList: true});
    true";

/// What the page asks for from now on.
const LISTEN: &str = "
    globalThis.asked = [];
    globalThis.fetched = fetch;
    globalThis.fetch = (to, options) => {
        asked.push(JSON.parse(options.body));
        return fetched(to, options);
    };
    true";

#[test]
fn code_is_typed_filled_and_taken_back() {
    let (server, folder) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let url = format!("http://127.0.0.1:{}/", server.port);
    let Some(mut page) = Browser::open(folder.path(), &url) else {
        return;
    };
    page.wait_for(IS_THERE);
    page.eval(WATCH);
    page.wait_for("$('model').textContent.startsWith('tiny')");
    assert_eq!(
        page.eval("getComputedStyle(document.body).maxWidth"),
        "992px",
        "its style is let through"
    );
    page.eval("text.focus(); $('pace').value = 5");
    let before = page.eval("text.value");
    page.ctrl_enter();
    page.wait_for(IS_DONE);
    let masks = page.eval("masks");
    let masks: Vec<_> = masks.as_array().unwrap().iter().collect();
    let most = masks.iter().filter_map(|masks| masks.as_u64()).max();
    assert!(
        masks.len() > 2 && most > Some(1),
        "it filled in steps: {masks:?}"
    );
    assert_eq!(masks.last().unwrap().as_u64(), Some(0));
    let shown = page.eval("canvas.textContent.replaceAll('↵\\n', '\\n')");
    page.enter();
    page.wait_for(IS_EDITING);
    let after = page.eval("text.value");
    assert_eq!(shown, after, "what is seen at the end is what is accepted");
    let after = after.as_str().unwrap();
    let wanted = "def load(path):\n    with open(path) as f:\n        return f.read()\n\n\ndef to_";
    assert!(
        after.starts_with(wanted) && !after.contains("<FILL"),
        "{after}"
    );
    page.eval("$('undo').click()");
    assert_eq!(page.eval("text.value"), before);

    // At the cursor, where no hole is marked; discarded.
    page.eval("text.value = 'def is_valid(value):\\n    '; text.setSelectionRange(25, 25)");
    page.ctrl_enter();
    page.wait_for("canvas.textContent.includes('is_valid')");
    page.press("Escape", 27, 0);
    page.wait_for(IS_EDITING);
    assert_eq!(page.eval("text.value"), "def is_valid(value):\n    ");

    // What is typed is never markup, and what is wrong is said.
    page.eval("text.value = '<img src=x onerror=\"globalThis.bad = 1\"> = <FILL:2>\\n'");
    page.ctrl_enter();
    page.wait_for(IS_DONE);
    assert_eq!(page.eval("document.querySelectorAll('img').length"), 0);
    assert_eq!(page.eval("typeof bad"), "undefined");
    // Again is with other random numbers, although the server was given a seed.
    page.eval(LISTEN);
    page.ctrl_enter();
    page.wait_for("asked.length === 1 && !$('accept').hidden");
    assert_eq!(page.eval("typeof asked[0].seed"), "number");
    page.press("Escape", 27, 0);
    page.ctrl_enter();
    page.wait_for("asked.length === 2 && !$('accept').hidden");
    assert_eq!(page.eval("typeof asked[1].seed"), "undefined");
    page.press("Escape", 27, 0);
    page.eval("text.value = 'x = <FILL:0>'");
    page.ctrl_enter();
    page.wait_for("$('error').textContent.includes('no length in tokens')");
    assert_eq!(page.eval(IS_EDITING), true);
}

#[test]
fn a_key_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "sesame\n").unwrap();
    let server = Server::start(&["--api-key-file", keys.to_str().unwrap()]);
    let url = format!("http://127.0.0.1:{}/", server.port);
    let Some(mut page) = Browser::open(folder.path(), &url) else {
        return;
    };
    page.wait_for(IS_THERE);
    page.eval(WATCH);
    page.wait_for("!$('login').hidden && $('error').textContent.includes('needs one of its keys')");
    let mut use_key = |key: &str, then: &str| {
        page.eval("$('error').textContent = ''");
        page.eval(&format!(
            "$('key').value = '{key}'; $('login').requestSubmit()"
        ));
        page.wait_for(then);
    };
    use_key(
        "open",
        "$('error').textContent.includes('needs one of its keys')",
    );
    use_key(
        "sesame",
        "$('login').hidden && $('model').textContent.startsWith('tiny')",
    );
    page.ctrl_enter();
    page.wait_for(IS_DONE);
}

#[test]
fn the_page_needs_nothing_but_its_server() {
    let server = Server::start(&[]);
    let [first, second] = [(); 2].map(|()| server.get("/"));
    assert!(
        first.head.contains("content-type: text/html"),
        "{}",
        first.head
    );
    let policy = |head: &str| {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix("content-security-policy: "));
        line.unwrap_or_else(|| panic!("{head}")).to_string()
    };
    for wanted in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy(&first.head).contains(wanted), "{}", first.head);
    }
    assert!(!policy(&first.head).contains("unsafe"));
    assert_ne!(
        policy(&first.head),
        policy(&second.head),
        "a word of its own"
    );
    for remote in ["http://", "https://", "src=\"", "@import", "NONCE", "LOOK"] {
        assert!(!first.body.contains(remote), "{remote}");
    }
}

/// Holes of any number, step by step, and what they are at the end.
#[test]
fn every_step_of_a_canvas_is_told() {
    let server = Server::start(&[]);
    let text =
        "def load(path):\r\n    with <FILL:3>(path) as <FILL:1>:\r\n        return f.read()\r\n";
    let response = server.post("/canvas", &json!({"text": text, "seed": 1}));
    assert_eq!(response.status, 200, "{}", response.body);
    let events = response.body.split_terminator("\n\n");
    let events: Vec<Value> = events
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let (done, steps) = events.split_last().unwrap();
    let masks = |event: &Value| {
        let holes = event["canvas"]["holes"].as_array().unwrap();
        let cells = holes.iter().flat_map(|hole| hole.as_array().unwrap());
        cells.filter(|cell| cell["text"].is_null()).count()
    };
    let masks: Vec<_> = steps.iter().map(masks).collect();
    assert_eq!([masks[0], *masks.last().unwrap()], [4, 0]);
    assert!(masks.is_sorted_by(|a, b| a >= b), "{masks:?}");
    let last = &steps.last().unwrap()["canvas"]["holes"];
    let fillings = done["done"]["fillings"].as_array().unwrap();
    for (number, filling) in fillings.iter().enumerate() {
        let cells = last[number].as_array().unwrap().iter();
        let text: String = cells.map(|cell| cell["text"].as_str().unwrap()).collect();
        assert_eq!(*filling, text.replace('\n', "\r\n"), "hole {number}");
    }
    assert_eq!(fillings[1], "f");
    // A hole that also writes the blanks before it again.
    let behind_blanks = json!({"text": "def f(x):\n    <FILL>", "seed": 1});
    assert_eq!(server.post("/canvas", &behind_blanks).status, 200);
    let refused = |text: &str| server.post("/canvas", &json!({"text": text}));
    for (text, why) in [
        ("x = 1\n", "it has no hole"),
        ("x = <FILL:x>\n", "no length in tokens"),
        ("x = <FILL:200> + <FILL:200>\n", "more than 256 tokens"),
    ] {
        let response = refused(text);
        assert_eq!(response.status, 400, "{text}");
        let error = &response.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
        assert_eq!(error["param"], "text");
    }
}

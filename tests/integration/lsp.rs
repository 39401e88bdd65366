//! `diffucoder lsp` as editors use it: over stdin and stdout, message by message.
#![cfg(feature = "serve")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::binary::{diffucoder, program};
use crate::fixture;

/// An editor, as far as a language server can tell.
struct Editor {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    last_id: u64,
}

const URI: &str = "file:///load.py";

impl Editor {
    fn start(model: &str, flags: &[&str]) -> Self {
        let mut child = program(&["lsp", "--seed", "1", "--model", model])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            last_id: 0,
        }
    }

    /// One that shows suggestions in the text, and counts in UTF-16.
    fn inline(model: &str) -> Self {
        let mut editor = Self::start(model, &[]);
        let result = editor.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
        assert_eq!(
            result["capabilities"],
            json!({"positionEncoding": "utf-16", "inlineCompletionProvider": true,
                "textDocumentSync": {"openClose": true, "change": 2}})
        );
        assert_eq!(result["serverInfo"]["name"], "diffucoder");
        editor
    }

    fn initialize(&mut self, capabilities: Value) -> Value {
        let params = json!({"processId": null, "rootUri": null, "capabilities": capabilities});
        let result = self.ask("initialize", params)["result"].take();
        self.notify("initialized", json!({}));
        result
    }

    fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    fn send_text(&mut self, body: &str) {
        write!(self.stdin, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        self.stdin.flush().unwrap();
    }

    fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// Sends a request and does not wait; gives its id.
    fn request(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        let response = self.receive();
        assert_eq!(response["id"], id, "{response}");
        response
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let length = line
            .strip_prefix("Content-Length: ")
            .unwrap_or_else(|| panic!("{line:?}: {}", self.stderr()));
        let mut body = vec![0; 2 + length.trim().parse::<usize>().unwrap()];
        self.stdout.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body[2..]).unwrap()
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.child.stderr.take();
        stderr.unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn open(&mut self, uri: &str, text: &str) {
        let document = json!({"uri": uri, "languageId": "python", "version": 1, "text": text});
        self.notify("textDocument/didOpen", json!({"textDocument": document}));
    }

    fn change(&mut self, changes: Value) {
        let document = json!({"uri": URI, "version": 2});
        let params = json!({"textDocument": document, "contentChanges": changes});
        self.notify("textDocument/didChange", params);
    }

    /// The text that is suggested at a place.
    fn suggested(&mut self, line: u64, character: u64) -> String {
        let response = self.ask("textDocument/inlineCompletion", at(URI, line, character));
        let item = &response["result"]["items"][0];
        let cursor = json!({"line": line, "character": character});
        assert_eq!(
            item["range"],
            json!({"start": cursor, "end": cursor}),
            "{response}"
        );
        item["insertText"].as_str().unwrap().to_string()
    }

    fn end(mut self) -> (Option<i32>, String) {
        drop(self.stdin);
        let code = self.child.wait().unwrap().code();
        let mut stderr = String::new();
        let said = self.child.stderr.take();
        said.unwrap().read_to_string(&mut stderr).unwrap();
        (code, stderr)
    }
}

fn at(uri: &str, line: u64, character: u64) -> Value {
    json!({"textDocument": {"uri": uri}, "position": {"line": line, "character": character},
        "context": {"triggerKind": 1}})
}

/// What the built-in model writes between two texts.
fn filled(text: &str) -> String {
    let mut command = diffucoder(&[]);
    let args = ["infill", "--model", "tiny", "--seed", "1", "-"];
    let output = command.args(args).write_stdin(text).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let whole = String::from_utf8(output.stdout).unwrap();
    let (before, after) = text.split_once("<FILL>").unwrap();
    let hole = whole.strip_prefix(before).unwrap();
    hole.strip_suffix(after).unwrap().to_string()
}

/// Behind the end of a line is its end.
#[test]
fn a_suggestion_stands_where_the_cursor_can_be() {
    let mut editor = Editor::inline("tiny");
    editor.open(URI, "def load(path):\r\n    return open(");
    for (line, character) in [(1, 99), (7, 0)] {
        let asked = at(URI, line, character);
        let response = editor.ask("textDocument/inlineCompletion", asked);
        let item = &response["result"]["items"][0];
        let end = json!({"line": 1, "character": 16});
        assert_eq!(
            item["range"],
            json!({"start": end, "end": end}),
            "{response}"
        );
        assert!(!item["insertText"].as_str().unwrap().contains('\r'));
    }
}

#[test]
fn an_editor_gets_what_the_model_writes_at_its_cursor() {
    let mut editor = Editor::inline("tiny");
    let (before, after) = (
        "# é😀\ndef load(path):\n    with open(path) as ",
        ":\n        return f.read()\n",
    );
    let wanted = filled(&format!("{before}<FILL>{after}"));
    assert!(wanted.starts_with('f'), "{wanted}");
    editor.open(URI, &format!("{before}{after}"));
    assert_eq!(editor.suggested(2, 23), wanted);

    // The same text, made of another by changes that count in UTF-16.
    editor.open(URI, "# é😀 and\ndef load(path):\n");
    editor.change(json!([
        {"range": {"start": {"line": 0, "character": 5}, "end": {"line": 0, "character": 9}}, "text": ""},
        {"range": {"start": {"line": 2, "character": 0}, "end": {"line": 9, "character": 0}},
            "text": format!("    with open(path) as {after}")},
    ]));
    assert_eq!(editor.suggested(2, 23), wanted);
    editor.change(json!([{"text": format!("{before}{after}")}]));
    assert_eq!(editor.suggested(2, 23), wanted);
    assert_eq!(
        editor.ask("shutdown", Value::Null)["result"],
        Value::Null,
        "it is there and null"
    );
    editor.notify("exit", Value::Null);
    assert_eq!(editor.end(), (Some(0), String::new()));
}

#[test]
fn places_are_counted_as_agreed() {
    for (known, agreed, character) in [
        (json!(["utf-7", "utf-8", "utf-16"]), "utf-8", 10),
        (json!(["utf-32"]), "utf-32", 6),
        (Value::Null, "utf-16", 7),
    ] {
        let mut editor = Editor::start("tiny", &[]);
        let result = editor.initialize(json!({
            "general": {"positionEncodings": known}, "textDocument": {"inlineCompletion": {}},
        }));
        assert_eq!(result["capabilities"]["positionEncoding"], agreed);
        let text = "\u{1f600}é = [x\n";
        editor.open(URI, text);
        let (before, after) = text.split_at("\u{1f600}é = [".len());
        let wanted = filled(&format!("{before}<FILL>{after}"));
        assert_eq!(editor.suggested(0, character), wanted, "{agreed}");
    }
}

/// lsp-mode in Emacs says `null` where others have an object.
#[test]
fn what_an_editor_can_do_is_known_by_its_name() {
    let mut editor = Editor::start("tiny", &["--context", "48"]);
    let result = editor.initialize(json!({"textDocument": {"inlineCompletion": null}}));
    assert_eq!(result["capabilities"]["inlineCompletionProvider"], true);
    assert_eq!(result["capabilities"]["completionProvider"], Value::Null);
}

/// A difference of two texts in UTF-16 can begin in the middle of a character.
#[test]
fn half_a_character_is_a_change_like_others() {
    let mut editor = Editor::inline("tiny");
    let (before, after) = (
        "'\ndef load(path):\n    with open(path) as ",
        ":\n        return f.read()\n",
    );
    editor.open(URI, &format!("s = '\u{1f600}{before}{after}"));
    let change = r#"{"jsonrpc": "2.0", "method": "textDocument/didChange", "params": {
        "textDocument": {"uri": "file:///load.py", "version": 2}, "contentChanges": [{
            "range": {"start": {"line": 0, "character": 6}, "end": {"line": 0, "character": 7}},
            "text": "\ude01"}]}}"#;
    editor.send_text(change);
    let text = format!("s = '\u{fffd}{before}<FILL>{after}");
    assert_eq!(editor.suggested(2, 23), filled(&text));
}

#[test]
fn an_editor_without_inline_completion_gets_a_list() {
    let mut editor = Editor::start("tiny", &[]);
    let result = editor.initialize(json!({}));
    let capabilities = &result["capabilities"];
    assert!(capabilities["completionProvider"].is_object());
    assert_eq!(capabilities["inlineCompletionProvider"], Value::Null);
    editor.open(URI, "def is_valid(value):\n    ret\n");
    let response = editor.ask("textDocument/completion", at(URI, 1, 7));
    let item = &response["result"]["items"][0];
    let text = item["textEdit"]["newText"].as_str().unwrap();
    assert!(text.starts_with("ret"), "{response}");
    assert_eq!(item["filterText"], text, "what is typed finds it");
    assert_eq!(
        item["textEdit"]["range"],
        json!({"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 7}})
    );
    assert_eq!(item["label"], text.lines().next().unwrap());
}

/// What takes long enough to be caught at it.
const SLOW: [&str; 4] = ["-n", "450", "-t", "1"];

#[test]
fn what_is_not_wanted_any_more_is_not_waited_for() {
    let mut editor = Editor::start("tiny", &SLOW);
    editor.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    editor.open(URI, "def f(x):\n    ");
    editor.open("file:///b.py", "x = ");
    let inline = "textDocument/inlineCompletion";
    let old = editor.request(inline, at(URI, 1, 4));
    let other = editor.request(inline, at("file:///b.py", 0, 4));
    let new = editor.request(inline, at(URI, 1, 4));
    let response = editor.receive();
    assert_eq!(
        [response.get("id"), response.get("result")],
        [Some(&json!(old)), Some(&Value::Null)],
        "the newest of a document, and no error that an editor would log with every letter"
    );
    editor.notify("$/cancelRequest", json!({"id": new}));
    let response = editor.receive();
    let code = &response["error"]["code"];
    assert_eq!([&response["id"], code], [&json!(new), &json!(-32800)]);
    editor.notify("$/cancelRequest", json!({"id": other}));
    assert_eq!(editor.receive()["error"]["code"], -32800);
    // It is ready for the next one, and nothing comes of the others.
    editor.open(URI, "import os\nprint(os.");
    editor.change(json!([{"text": "x = [1, \n]\n"}]));
    assert!(!editor.suggested(0, 8).is_empty());
}

/// A suggestion for a text that is another one by now would stand at a place of the old one.
#[test]
fn a_suggestion_ends_with_the_text_that_it_was_for() {
    let mut editor = Editor::start("tiny", &SLOW);
    editor.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    for closes in [false, true] {
        editor.open(URI, "def f(x):\n    ");
        editor.request("textDocument/inlineCompletion", at(URI, 1, 4));
        match closes {
            true => {
                let document = json!({"textDocument": {"uri": URI}});
                editor.notify("textDocument/didClose", document);
            }
            false => editor.change(json!([{"text": "x = 1\n"}])),
        }
        let response = editor.receive();
        assert_eq!(response.get("result"), Some(&Value::Null), "{response}");
    }
}

#[test]
fn what_it_does_not_have_is_an_error_and_no_end() {
    let mut editor = Editor::start("tiny", &[]);
    let code = |response: Value| response["error"]["code"].clone();
    assert_eq!(code(editor.ask("shutdown", Value::Null)), -32002);
    editor.notify("textDocument/didOpen", json!({"wrong": true}));
    editor.initialize(json!({}));
    assert_eq!(
        code(editor.ask("initialize", json!({"capabilities": {}}))),
        -32600
    );
    assert_eq!(code(editor.ask("textDocument/hover", json!({}))), -32601);
    editor.notify("$/setTrace", json!({"value": "off"}));
    editor.notify("workspace/didChangeConfiguration", json!({"settings": 1}));
    let inline = "textDocument/inlineCompletion";
    let closed = editor.ask(inline, at(URI, 0, 0));
    assert!(closed["error"]["message"].as_str().unwrap().contains(URI));
    let wrong = json!({"textDocument": {"uri": URI}, "position": {"line": -1, "character": 0}});
    let response = editor.ask(inline, wrong);
    assert!(
        response["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("position.line"),
        "{response}"
    );
    assert_eq!(code(response), -32602);
    for (body, expected) in [("{", -32700), ("[]", -32600), ("{\"id\": {}}", -32600)] {
        write!(editor.stdin, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let response = editor.receive();
        assert_eq!(response["id"], Value::Null);
        assert_eq!(code(response), expected, "{body}");
    }
    editor.ask("shutdown", Value::Null);
    assert_eq!(code(editor.ask(inline, at(URI, 0, 0))), -32600);
}

#[test]
fn the_end_is_said_by_the_exit_code() {
    let mut editor = Editor::start("tiny", &[]);
    editor.initialize(json!({}));
    editor.notify("exit", Value::Null);
    let (code, stderr) = editor.end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("without `shutdown`"), "{stderr}");
    let (code, stderr) = Editor::start("tiny", &[]).end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("stdin was closed"), "{stderr}");
    let mut editor = Editor::start("tiny", &[]);
    editor.stdin.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let (code, stderr) = editor.end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("error: this is no head"), "{stderr}");
}

/// Bad weights are found once the editor is answered already.
#[test]
fn a_model_that_cannot_be_loaded_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture("golden/model")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let weights = folder.path().join("model-00001-of-00002.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let mut editor = Editor::start(folder.path().to_str().unwrap(), &[]);
    // A client takes no message before this is answered.
    let answer = editor.ask("initialize", json!({"capabilities": {}}));
    assert_eq!(answer["result"]["serverInfo"]["name"], "diffucoder");
    let shown = editor.receive();
    assert_eq!(shown["method"], "window/showMessage", "{shown}");
    assert_eq!(shown["params"]["type"], 1);
    assert_eq!(editor.end().0, Some(1));
}

/// A model that sees nothing behind a hole goes on with what stands before it.
#[test]
fn a_block_causal_model_goes_on() {
    let model: PathBuf = fixture("golden-sdar/model");
    let mut editor = Editor::inline(model.to_str().unwrap());
    editor.open(URI, "ab\ncd\n");
    let response = editor.ask("textDocument/inlineCompletion", at(URI, 0, 1));
    let written = response["result"]["items"][0]["insertText"].as_str();
    assert!(written.is_some_and(|text| !text.is_empty()), "{response}");
}

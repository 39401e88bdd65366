//! The server as its clients use it: their requests as they send them, what they read of the
//! answers, and what nobody should be able to do to it.
#![cfg(feature = "serve")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::binary::program;
use crate::command::refusal;

/// A server of the built-in model, ended when it is dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    #[cfg_attr(not(unix), allow(dead_code, reason = "its other end is in use"))]
    log: BufReader<std::process::ChildStderr>,
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_str(&self.body);
        parsed.unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The data of server-sent events; the last is `[DONE]`.
    pub fn events(&self) -> Vec<Value> {
        let events = self.body.split_terminator("\n\n");
        let mut data: Vec<_> = events
            .map(|event| event.strip_prefix("data: ").unwrap())
            .collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.body);
        data.into_iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        Self::of("tiny", flags)
    }

    pub fn of(model: &str, flags: &[&str]) -> Self {
        let mut child = program(&["serve", "--model", model, "--port", "0", "--seed", "1"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("listening") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it does not listen");
        }
        let port = line.trim().rsplit_once(':').unwrap().1.parse().unwrap();
        Self { child, port, log }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(600)))
            .unwrap();
        stream
    }

    /// Sends a request and leaves the connection open.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = self.connect();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        read_response(self.send(method, path, headers, body))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.ask(
            "POST",
            path,
            "Content-Type: application/json\r\n",
            &body.to_string(),
        )
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "", "")
    }

    /// The value of one of the metrics.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }

    pub fn wait_for(&self, name: &str, value: f64) {
        let started = Instant::now();
        while self.metric(name) != value {
            assert!(
                started.elapsed() < Duration::from_secs(600),
                "{name} never was {value}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn read_response(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{text:?}"));
    let head = head.to_ascii_lowercase();
    let body = match head.contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_string(),
    };
    Response {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head,
        body,
    }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, tail)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body += &tail[..length];
        rest = &tail[length + 2..];
    }
    body
}

/// What takes the built-in model long enough to be caught at it.
fn long() -> Value {
    json!({"prompt": "def f(x):\n", "max_tokens": 450, "n": 2, "temperature": 1.0})
}

/// llama.vim's request for a suggestion.
fn suggestion() -> Value {
    json!({
        "id_slot": 0, "input_prefix": "import json\n\n\ndef load(path):\n",
        "input_suffix": "\n        return json.load(f)\n", "input_extra": [
            {"text": "def save(path):\n    pass\n", "time": [12, 34], "filename": "save.py"},
        ],
        "prompt": "    with open(path) as ", "n_predict": 128, "stop": [], "n_indent": 4,
        "top_k": 40, "top_p": 0.9, "samplers": ["top_k", "top_p", "infill"], "stream": false,
        "cache_prompt": true, "t_max_prompt_ms": 500, "t_max_predict_ms": 250, "model": "",
        "response_fields": ["content", "timings/prompt_n", "timings/predicted_ms",
            "timings/predicted_per_second", "truncated", "tokens_cached", "no/such"],
    })
}

#[test]
fn llama_vim_gets_one_line_of_flat_json() {
    let server = Server::start(&[]);
    let bearer = "Content-Type: application/json\r\nAuthorization: Bearer \r\n";
    let response = server.ask("POST", "/infill", bearer, &suggestion().to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.starts_with("{\"content\":\"") && !response.body.contains('\n'));
    let reply = response.json();
    let keys: Vec<_> = reply.as_object().unwrap().keys().collect();
    let asked = suggestion()["response_fields"].as_array().unwrap().clone();
    assert_eq!(
        keys,
        asked[..6]
            .iter()
            .map(|key| key.as_str().unwrap())
            .collect::<Vec<_>>()
    );
    let content = reply["content"].as_str().unwrap();
    assert!(content.starts_with('f'), "{content}");
    assert_eq!(reply["truncated"], false);
    let mut alone = suggestion();
    alone["input_extra"] = json!([]);
    let alone = server.post("/infill", &alone).json();
    let given = |reply: &Value| reply["timings/prompt_n"].as_u64().unwrap();
    assert!(given(&reply) > given(&alone), "the other file is shown");
    assert!(reply["tokens_cached"].is_u64());

    // What it sends while nobody types.
    let warm_up = json!({"input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0,
        "input_extra": [{"text": "x", "time": 1.5, "filename": "x"}], "temperature": 0.0,
        "samplers": [], "t_max_predict_ms": 1, "response_fields": [""]});
    let response = server.post("/infill", &warm_up);
    assert_eq!((response.status, &*response.body), (200, "{}"));
}

#[test]
fn llama_vscode_gets_nested_json_and_several_texts() {
    let server = Server::start(&[]);
    let request = json!({
        "input_prefix": "def area(r):\n    return ", "input_suffix": "\n\nprint(area(2))\n",
        "input_extra": [], "prompt": "", "n_predict": 8, "top_k": 40, "top_p": 0.99,
        "stream": false, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": true,
        "t_max_prompt_ms": 500, "t_max_predict_ms": 2500, "n_cmpl": 3,
    });
    let replies = server.post("/infill", &request).json();
    for (number, reply) in replies.as_array().unwrap().iter().enumerate() {
        assert_eq!(reply["index"], number);
        assert_eq!(reply["generation_settings"]["n_ctx"], 512);
        for time in ["prompt_n", "prompt_ms", "predicted_n", "predicted_ms"] {
            assert!(reply["timings"][time].is_number(), "{time}");
        }
        assert!(reply["tokens_predicted"].as_u64().unwrap() <= 8);
        assert_eq!(reply["stop"], true);
        assert_eq!(reply["prompt"], "def area(r):\n    return ");
    }
    assert_eq!(replies.as_array().unwrap().len(), 3);
    let mut one = request;
    one["n_cmpl"] = 1.into();
    assert!(server.post("/infill", &one).json()["content"].is_string());
    one["stop"] = json!(["\n"]);
    one["input_suffix"] = "".into();
    one["n_predict"] = 64.into();
    let reply = server.post("/infill", &one).json();
    assert!(!reply["content"].as_str().unwrap().contains('\n'));
    assert_eq!(
        [&reply["stop_type"], &reply["stopping_word"]],
        ["word", "\n"]
    );
}

/// A plugin may start it with a pipe that it does not read.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let server = Server::start(&[]);
    for _ in 0..4000 {
        assert_eq!(server.get("/health").status, 200);
    }
}

/// Of an empty line there is nothing to wait for, and nothing to answer with.
#[test]
fn a_time_limit_at_a_line_s_end_leaves_more_than_an_empty_line() {
    let server = Server::start(&[]);
    for stream in [false, true] {
        let request = json!({"input_prefix": "def is_valid(value):", "input_suffix": "",
            "n_predict": 64, "t_max_predict_ms": 1, "seed": 1, "stream": stream});
        let body = server.post("/infill", &request).body;
        let content = body.split_terminator("\n\n").map(|piece| {
            let piece = piece.strip_prefix("data: ").unwrap_or(piece);
            let piece: Value = serde_json::from_str(piece).unwrap();
            piece["content"].as_str().unwrap().to_string()
        });
        let content: String = content.collect();
        assert!(!content.trim().is_empty(), "{content:?}");
    }
}

#[test]
fn a_time_limit_leaves_whole_lines() {
    let server = Server::start(&[]);
    let request = json!({"input_prefix": "def f(x):\n", "prompt": "    ", "input_suffix": "",
        "n_predict": 400, "t_max_predict_ms": 1, "temperature": 1.0, "seed": 5});
    let reply = server.post("/infill", &request).json();
    let content = reply["content"].as_str().unwrap();
    assert!(
        !content.is_empty() && !content.ends_with('\n'),
        "{content:?}"
    );
    assert_eq!(reply["stop_type"], "limit");
    assert!(
        reply["tokens_predicted"].as_u64().unwrap() < 200,
        "it went on"
    );
    let mut whole = request.clone();
    whole["t_max_predict_ms"] = 0.into();
    let whole = server.post("/infill", &whole).json();
    let whole = whole["content"].as_str().unwrap();
    let rest = whole
        .strip_prefix(content)
        .unwrap_or_else(|| panic!("{whole:?} {content:?}"));
    assert!(rest.starts_with('\n'), "{rest:?}");
    let mut streamed = request;
    streamed["stream"] = true.into();
    let pieces = server.post("/infill", &streamed).body;
    let pieces = pieces.split_terminator("\n\n").map(|piece| {
        let data = piece.strip_prefix("data: ").unwrap();
        let piece: Value = serde_json::from_str(data).unwrap();
        piece["content"].as_str().unwrap().to_string()
    });
    let streamed: String = pieces.collect();
    let rest = whole.strip_prefix(&streamed).unwrap();
    assert!(!streamed.is_empty() && rest.starts_with('\n'), "{rest:?}");
}

#[test]
fn openai_s_completions_are_whole_and_streamed() {
    let server = Server::start(&[]);
    let mut request = json!({"model": "tiny", "prompt": "def is_valid(value):", "max_tokens": 24,
        "stop": ["\n\n"], "temperature": 0, "seed": 3});
    let whole = server.post("/v1/completions", &request).json();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["model"], "tiny");
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));
    assert!(whole["created"].is_u64());
    let choice = &whole["choices"][0];
    assert_eq!(
        [&choice["index"], &choice["logprobs"]],
        [&json!(0), &Value::Null]
    );
    let usage = &whole["usage"];
    let tokens = ["prompt_tokens", "completion_tokens", "total_tokens"];
    let [given, written, all] = tokens.map(|name| usage[name].as_u64().unwrap());
    assert_eq!(given + written, all);

    request["stream"] = true.into();
    request["stream_options"] = json!({"include_usage": true});
    let response = server.post("/v1/completions", &request);
    assert!(
        response.head.contains("content-type: text/event-stream"),
        "{}",
        response.head
    );
    let mut events = response.events();
    let last = events.pop().unwrap();
    assert_eq!([&last["choices"], &last["usage"]], [&json!([]), usage]);
    let last = events.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], choice["finish_reason"]);
    let texts = events
        .iter()
        .map(|event| event["choices"][0]["text"].as_str().unwrap());
    assert_eq!(choice["text"], texts.collect::<String>());

    let several = json!({"prompt": ["x = "], "max_tokens": 4, "n": 2});
    let several = server.post("/v1/completions", &several).json();
    assert_eq!(several["choices"][1]["index"], 1);
}

#[test]
fn a_suffix_and_markers_are_the_same_hole() {
    let server = Server::start(&[]);
    let (prefix, suffix) = (
        "def load(path):\n    with open(path) as ",
        ":\n        return f.read()\n",
    );
    let request = |body: Value| {
        let mut body = body;
        body["max_tokens"] = 4.into();
        body["seed"] = 1.into();
        let reply = server.post("/v1/completions", &body).json();
        reply["choices"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{reply}"))
            .to_string()
    };
    let text = request(json!({"prompt": prefix, "suffix": suffix}));
    assert!(text.starts_with('f'), "{text}");
    for prompt in [
        format!("<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"),
        format!("[SUFFIX]{suffix}[PREFIX]{prefix}"),
    ] {
        assert_eq!(request(json!({"prompt": prompt})), text);
    }
    let blank = request(json!({"prompt": "x = ", "suffix": "<|endoftext|>"}));
    assert_eq!(blank, request(json!({"prompt": "x = "})));
    // The file keeps its line ends.
    let crlf = json!({"prompt": "def f(x):\r\n", "suffix": "", "max_tokens": 32, "seed": 1});
    let text = server.post("/v1/completions", &crlf).json()["choices"][0]["text"].to_string();
    assert_eq!(
        text.matches("\\n").count(),
        text.matches("\\r\\n").count(),
        "{text}"
    );

    // Mistral's form, which Continue streams.
    let body =
        json!({"prompt": prefix, "suffix": suffix, "max_tokens": 4, "seed": 1, "stream": true});
    let events = server.post("/v1/fim/completions", &body).events();
    let deltas = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert!(deltas.collect::<String>().starts_with('f'));
}

#[test]
fn a_conversation_is_answered_in_chunks() {
    let server = Server::start(&[]);
    let mut request = json!({"model": "tiny", "max_tokens": 12, "seed": 2, "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "def is_valid(value):"}]},
    ]});
    let whole = server.post("/v1/chat/completions", &request).json();
    assert_eq!(whole["object"], "chat.completion");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    request["stream"] = true.into();
    let events = server.post("/v1/chat/completions", &request).events();
    assert!(
        events
            .iter()
            .all(|event| event["object"] == "chat.completion.chunk")
    );
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let last = &events.last().unwrap()["choices"][0];
    assert_eq!(
        [&last["delta"], &last["finish_reason"]],
        [&json!({}), &json!("length")]
    );
    let deltas = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(message["content"], deltas.collect::<String>());
    // The warm-up of llama.vim and llama.vscode.
    let warm_up = json!({"messages": [{"role": "user", "content": "x"}], "n_predict": 0});
    assert_eq!(server.post("/v1/chat/completions", &warm_up).status, 200);
}

#[test]
fn ollama_s_answers_are_lines_of_json() {
    let server = Server::start(&[]);
    let mut request = json!({"model": "tiny", "raw": true, "stream": false,
        "prompt": "<fim_prefix>def f(x):\n    return <fim_suffix>\n<fim_middle>",
        "options": {"num_predict": 4, "temperature": 0.1, "stop": ["<fim_prefix>"]}});
    let whole = server.post("/api/generate", &request).json();
    assert!(whole["response"].is_string() && whole["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(whole["done"], true);
    assert!(whole["eval_count"].as_u64().unwrap() <= 4);
    request.as_object_mut().unwrap().remove("stream");
    let response = server.post("/api/generate", &request);
    let lines: Vec<Value> = response
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.last().unwrap()["done"], true);
    assert_eq!(server.get("/api/tags").json()["models"][0]["name"], "tiny");

    let said = json!([{"role": "user", "content": "def is_valid(value):"}]);
    let options = json!({"num_predict": 12, "seed": 2});
    let mut request = json!({"model": "tiny", "messages": said, "options": options});
    let pieces = server.post("/api/chat", &request);
    let pieces = pieces.body.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["message"]["role"], "assistant", "{line}");
        line["message"]["content"].as_str().unwrap().to_string()
    });
    let streamed: String = pieces.collect();
    request["stream"] = false.into();
    let whole = server.post("/api/chat", &request).json();
    assert_eq!(
        [&whole["message"]["content"], &whole["done"]],
        [&json!(streamed), &json!(true)]
    );
    assert!(
        server.get("/api/nothing").json()["error"].is_string(),
        "in its own form"
    );
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let server = Server::start(&[]);
    for (path, body, param) in [
        ("/v1/completions", json!({"prompt": 3}), "prompt"),
        ("/v1/completions", json!({"prompt": []}), "prompt"),
        ("/v1/completions", json!({}), "prompt"),
        (
            "/v1/completions",
            json!({"prompt": "x", "max_tokens": "many"}),
            "max_tokens",
        ),
        ("/v1/completions", json!({"prompt": "x", "n": 99}), "n"),
        (
            "/v1/completions",
            json!({"prompt": "x", "temperature": -1}),
            "temperature",
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "top_p": 2}),
            "top_p",
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "stop": [1]}),
            "stop",
        ),
        ("/v1/chat/completions", json!({"messages": []}), "messages"),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "x"}]}),
            "messages[0].role",
        ),
    ] {
        let response = server.post(path, &body);
        let error = &response.json()["error"];
        assert_eq!(response.status, 400, "{body}");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], param, "{body}: {error}");
        assert!(
            error["message"].as_str().unwrap().starts_with(param),
            "{error}"
        );
    }
    let error = server.post("/infill", &json!({"n_predict": "x"})).json();
    assert_eq!(error["error"]["code"], 400);
    assert!(server.post("/api/generate", &json!({"prompt": 1})).json()["error"].is_string());
    assert_eq!(server.ask("POST", "/infill", "", "{").status, 400);
    let marked = "\u{feff}{\"prompt\": \"x = \", \"n_predict\": 1}"; // as PowerShell writes files
    assert_eq!(server.ask("POST", "/infill", "", marked).status, 200);
    assert_eq!(
        server.get("/v1/nothing").json()["error"]["type"],
        "not_found_error"
    );
    let wrong_method = server.get("/infill");
    assert_eq!(wrong_method.status, 405);
    assert!(
        wrong_method.head.contains("allow: post"),
        "{}",
        wrong_method.head
    );
    // Unknown fields are nobody's mistake, and too many tokens are as many as there are.
    let body =
        json!({"prompt": "x = 1\n", "max_tokens": 1_u64 << 40, "logit_bias": {}, "user": "me"});
    assert_eq!(server.post("/v1/completions", &body).status, 200);
}

/// Continue's requests as it sends them: fill-in-the-middle of its provider `openai` with a legacy
/// endpoint and of `mistral`, and a question of its `ollama`.
#[test]
fn continue_s_requests_are_answered() {
    let server = Server::start(&[]);
    let text_of = |path: &str, body: &str| {
        let headers = "Content-Type: application/json\r\nAuthorization: Bearer none\r\n\
                       x-api-key: none\r\n";
        let response = server.ask("POST", path, headers, body);
        assert_eq!(response.status, 200, "{}", response.body);
        let pieces = response.events();
        let last = &pieces.last().unwrap()["choices"][0];
        assert!(last["finish_reason"].is_string(), "{last}");
        let pieces = pieces.iter().map(|piece| {
            let choice = &piece["choices"][0];
            let text = choice.get("text").unwrap_or(&choice["delta"]["content"]);
            text.as_str().unwrap_or_default().to_string()
        });
        pieces.collect::<String>()
    };
    let legacy = r##"{"model":"diffucoder","max_tokens":4,"temperature":0.01,"stream":true,"stop":["<|endoftext|>","<|fim_prefix|>","<|fim_middle|>","<|fim_suffix|>","<|fim_pad|>","<|repo_name|>","<|file_sep|>","<|im_start|>","<|im_end|>","/src/","#- coding: utf-8","```"],"prompt":"<|fim_prefix|>def load(path):\n    with open(path) as <|fim_suffix|>:\n        return f.read()\n<|fim_middle|>","seed":1}"##;
    assert!(text_of("/v1/completions", legacy).starts_with('f'));
    let fim = r#"{"model":"diffucoder","prompt":"def load(path):\n    with open(path) as ","suffix":":\n        return f.read()\n","max_tokens":4,"temperature":0.01,"stop":["\n\n"],"stream":true,"seed":1}"#;
    assert!(text_of("/v1/fim/completions", fim).starts_with('f'));
    let generate = r#"{"model":"diffucoder","prompt":"def load(path):\n    with open(path) as ","suffix":":\n        return f.read()\n","raw":true,"options":{"num_predict":4,"temperature":0.01,"seed":1,"num_ctx":8192,"mirostat":0,"num_thread":2},"keep_alive":1800}"#;
    let lines = server.ask("POST", "/api/generate", "", generate).body;
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(
        first["response"].as_str().unwrap().starts_with('f'),
        "{lines}"
    );
}

#[test]
fn keys_are_asked_for_and_health_is_public() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "first\n\nsecond\n").unwrap();
    let server = Server::start(&["--api-key-file", keys.to_str().unwrap()]);
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    for (headers, status) in [
        ("", 401),
        ("Authorization: Bearer \r\n", 401),
        ("Authorization: Bearer firs\r\n", 401),
        ("Authorization: Basic first\r\n", 401),
        ("Authorization: Bearer first\r\n", 200),
        ("Authorization: bearer second\r\n", 200),
    ] {
        let response = server.ask("GET", "/v1/models", headers, "");
        assert_eq!(response.status, status, "{headers}");
        if status == 401 {
            assert_eq!(response.json()["error"]["code"], "invalid_api_key");
        }
    }
}

/// A page that gives its own name this machine's address gets nothing, nor one of another site.
#[test]
fn other_names_than_this_machine_s_are_refused() {
    let ask = |server: &Server, host: &str, target: &str| {
        let mut stream = server.connect();
        let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{host}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        read_response(stream)
    };
    let server = Server::start(&[]);
    for (host, status) in [
        ("", 200),
        ("Host: localhost\r\n", 200),
        ("Host: LOCALHOST:1234\r\n", 200),
        ("Host: 127.0.0.1:8012\r\n", 200),
        ("Host: [::1]:8012\r\n", 200),
        ("Host: evil.example\r\n", 403),
        ("Host: localhost.evil.example:8012\r\n", 403),
        ("Host: 192.0.2.1\r\n", 403),
        ("Host: localhost@evil.example\r\n", 403),
        ("Host: a b\r\n", 403),
        ("Origin: http://localhost:3000\r\n", 200),
        ("Origin: http://[::1]\r\n", 200),
        ("Origin: vscode-file://vscode-app\r\n", 200),
        ("Origin: http://tauri.localhost\r\n", 200),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: https://localhost.evil.example:8012\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Host: localhost\r\nOrigin: https://evil.example\r\n", 403),
    ] {
        let response = ask(&server, host, "/v1/models");
        assert_eq!(response.status, status, "{host}: {}", response.body);
        if status == 403 {
            assert_eq!(response.json()["error"]["code"], "invalid_host");
        }
    }
    let elsewhere = "http://evil.example/health";
    assert_eq!(ask(&server, "Host: localhost\r\n", elsewhere).status, 403);
    // A key is what no such page has, and who lets everyone in lets all names in.
    let open = Server::start(&["--no-key", "--host", "0.0.0.0"]);
    assert_eq!(ask(&open, "Host: box.example\r\n", "/health").status, 200);
    let evil = "Origin: https://evil.example\r\n";
    assert_eq!(ask(&open, evil, "/health").status, 200);
    let friend = Server::start(&["--cors", "https://good.example"]);
    let good = "Origin: https://good.example\r\n";
    assert_eq!(ask(&friend, good, "/health").status, 200);
    assert_eq!(ask(&friend, evil, "/health").status, 403);
    let named = Server::start(&["--host", "localhost"]);
    assert_eq!(ask(&named, "Host: localhost\r\n", "/health").status, 200);
}

/// What clients ask before the first request for a text.
#[test]
fn clients_learn_what_they_look_for_at_the_start() {
    let server = Server::start(&[]);
    let show = server.post("/api/show", &json!({"model": "tiny"})).json();
    assert_eq!(show["capabilities"], json!(["completion", "insert"]));
    assert!(show["template"].as_str().unwrap().contains(".Suffix"));
    assert_eq!(show["model_info"]["diffucoder.context_length"], 512);
    let version = server.get("/api/version").json();
    assert_eq!(version["version"], "0.6.4", "of ollama's API");
    let props = server.get("/props").json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 512);
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "tiny");
    for path in ["/", "/health", "/v1/models", "/props", "/api/tags"] {
        let head = server.ask("HEAD", path, "", "");
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
    }
}

#[test]
fn pages_of_one_origin_are_let_in() {
    let closed = Server::start(&[]);
    let origin = "Origin: https://example.org\r\n";
    assert!(
        !closed
            .ask("GET", "/health", origin, "")
            .head
            .contains("access-control")
    );
    let open = Server::start(&["--cors", "https://example.org"]);
    let allowed = "access-control-allow-origin: https://example.org";
    assert!(
        open.ask("GET", "/health", origin, "")
            .head
            .contains(allowed)
    );
    let preflight = format!(
        "{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    );
    let response = open.ask("OPTIONS", "/infill", &preflight, "");
    assert_eq!(response.status, 200);
    assert!(
        response
            .head
            .contains("access-control-allow-headers: authorization")
    );
}

#[test]
fn a_closed_connection_ends_its_run() {
    let server = Server::start(&[]);
    server.post("/v1/completions", &long());
    let of_one = server.metric("diffucoder_forwards_total");
    for mut body in [long(), long()] {
        body["stream"] = (server.metric("diffucoder_requests_running") == 0.0).into();
        let stream = server.send("POST", "/v1/completions", "", &body.to_string());
        server.wait_for("diffucoder_requests_running", 1.0);
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
        server.wait_for("diffucoder_requests_running", 0.0);
    }
    let of_both = server.metric("diffucoder_forwards_total") - of_one;
    assert!(of_both < of_one, "they ran to their ends");
}

#[test]
fn the_newest_infilling_of_a_client_wins() {
    let server = Server::start(&[]);
    // Its time is over at once, but it writes one line without an end, of which no half is wanted.
    let slow = json!({"input_prefix": "x = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ", "n_predict": 450,
        "n_cmpl": 2, "temperature": 0, "t_max_predict_ms": 1});
    let old = server.send("POST", "/infill", "", &slow.to_string());
    server.wait_for("diffucoder_requests_running", 1.0);
    let waiting = server.send("POST", "/infill", "", &slow.to_string());
    let newest = server.post("/infill", &suggestion());
    assert_eq!(newest.status, 200);
    for replaced in [old, waiting] {
        let replaced = read_response(replaced);
        assert_eq!(replaced.status, 409, "{}", replaced.body);
        assert_eq!(replaced.json()["error"]["code"], 409);
    }
    // Other requests wait for their turn.
    let first = server.send("POST", "/v1/completions", "", &long().to_string());
    let small = json!({"prompt": "x = ", "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", &small).status, 200);
    assert_eq!(read_response(first).status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::start(&["--queue", "1", "--parallel", "2"]);
    let held: Vec<_> = (0..3)
        .map(|_| server.send("POST", "/v1/completions", "", &long().to_string()))
        .collect();
    server.wait_for("diffucoder_requests_running", 2.0);
    server.wait_for("diffucoder_requests_waiting", 1.0);
    let refused = server.post("/v1/completions", &long());
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    drop(held);
    server.wait_for("diffucoder_requests_waiting", 0.0);
    server.wait_for("diffucoder_requests_running", 0.0);
    let small = json!({"prompt": "x = ", "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", &small).status, 200);
}

#[test]
fn large_bodies_and_slow_heads_are_refused() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let head = "POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || while stream.write_all(&[b' '; 1 << 16]).is_ok() {});
    let mut status = [0; 12];
    reader.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    let mut slow = server.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nX: ").unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap(); // the server ends it
    let mut wide = server.connect();
    let head = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 17));
    let _ = wide.write_all(head.as_bytes()); // it may close before it has read it
    let mut status = Vec::new();
    let _ = wide.read_to_end(&mut status);
    assert!(!status.starts_with(b"HTTP/1.1 200"));
    assert_eq!(server.get("/health").status, 200);
}

/// Most clients look for an answer once they have sent all of a body: it is read for nothing. One
/// that asks first is told before it sends.
#[test]
fn bodies_that_are_not_wanted_are_read_out() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "key\n").unwrap();
    let server = Server::start(&["--api-key-file", keys.to_str().unwrap()]);
    let post = |key: &str| {
        let head = format!("POST /infill HTTP/1.1\r\nAuthorization: Bearer {key}\r\n");
        format!("{head}Content-Length: 3\r\n\r\n[1]")
    };
    let refused = server.ask("POST", "/infill", "", &"x".repeat(3 << 20));
    assert_eq!(refused.status, 401);
    let head = "POST /infill HTTP/1.1\r\nAuthorization: Bearer key\r\nExpect: 100-continue\r\n";
    let mut stream = server.connect();
    let asks = format!("{head}Content-Length: 99999999\r\n\r\n");
    stream.write_all(asks.as_bytes()).unwrap();
    let refused = read_response(stream);
    assert_eq!(refused.status, 413);
    assert!(
        refused.head.contains("connection: close"),
        "{}",
        refused.head
    );

    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    for _ in 0..3 {
        let head = "POST /api/show HTTP/1.1\r\nAuthorization: Bearer key\r\n";
        let head = format!("{head}Content-Length: 2\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20)); // as clients that write the body by itself
        stream.write_all(b"{}").unwrap();
        let mut answer = vec![0; 1 << 14];
        let read = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }

    let mut stream = server.connect();
    let last = "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n";
    stream.write_all((post("key") + last).as_bytes()).unwrap();
    let both = read_response(stream);
    assert_eq!(both.status, 400, "for what it says");
    assert!(!both.head.contains("connection: close"), "{}", both.head);
    assert!(both.body.contains("200 OK"), "{}", both.body);
}

#[cfg(unix)]
#[test]
fn sigterm_lets_requests_end() {
    let mut server = Server::start(&[]);
    let running = server.send("POST", "/v1/completions", "", &long().to_string());
    server.wait_for("diffucoder_requests_running", 1.0);
    let pid = server.child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let answer = read_response(running);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 2);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    assert!(
        log.contains("POST /v1/completions 200") && !log.contains("def f"),
        "{log}"
    );
    let mut stdout = String::new();
    server
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut stdout)
        .unwrap();
    assert_eq!(stdout, "");
}

#[test]
fn what_cannot_be_served_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "\n \n").unwrap();
    let keys = keys.to_str().unwrap();
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let serve = |flags: &[&str]| {
        let (code, said) = refusal(&[&["serve", "--model", "tiny"], flags].concat());
        assert!(matches!(code, Some(1 | 2)), "{code:?}");
        said
    };
    assert!(serve(&["--port", &port]).contains("cannot listen at 127.0.0.1"));
    assert!(serve(&["--host", "0.0.0.0"]).contains("--api-key-file"));
    assert!(serve(&["--api-key-file", keys]).contains("has no key"));
    assert!(serve(&["--api-key-file", "/no/such"]).contains("/no/such"));
    assert!(serve(&["--cors", "example.org"]).contains("is no origin"));
}

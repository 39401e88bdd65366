//! The server beside its usual requests: what clients send first, what a model cannot do, what
//! answers say of themselves, and the requests of Tabby, minuet and ollama's own client.
#![cfg(feature = "serve")]

use serde_json::{Value, json};

use crate::fixture;
use crate::serve::{Server, read_response};

/// A model that sees nothing behind a hole says so, and of which field.
#[test]
fn text_behind_a_hole_is_refused_where_nobody_would_see_it() {
    let model = fixture("golden-fast-dllm-v2/model");
    let server = Server::of(model.to_str().unwrap(), &[]);
    let marked = "<|fim_prefix|>a = <|fim_suffix|>\nb = 2\n<|fim_middle|>";
    for (path, body, field) in [
        (
            "/infill",
            json!({"input_prefix": "a = ", "input_suffix": "\nb = 2\n"}),
            "input_suffix",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a = ", "suffix": "\nb = 2\n"}),
            "suffix",
        ),
        ("/v1/fim/completions", json!({"prompt": marked}), "prompt"),
    ] {
        let refused = server.post(path, &body);
        assert_eq!(refused.status, 400, "{path}: {}", refused.body);
        let error = &refused.json()["error"];
        let message = error["message"].as_str().unwrap();
        let wanted = format!("{field}: this model is block-causal");
        assert!(message.starts_with(&wanted), "{message}");
        assert!(message.contains("models that fill holes: "), "{message}");
        assert_eq!(error["type"], "invalid_request_error");
        match path {
            "/infill" => assert_eq!(error["code"], 400),
            _ => assert_eq!(error["param"], field),
        }
    }
    for body in [
        json!({"input_prefix": "a = ", "n_predict": 4}),
        json!({"input_prefix": "a = ", "input_suffix": " \n", "n_predict": 4}),
    ] {
        let reply = server.post("/infill", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

/// Clients read the first choice without looking how many there are.
#[test]
fn a_request_for_no_tokens_has_all_that_an_answer_has() {
    let server = Server::start(&[]);
    let mut request = json!({"prompt": "x = ", "max_tokens": 0, "n": 2});
    let whole = server.post("/v1/completions", &request).json();
    for index in [0, 1] {
        let choice = &whole["choices"][index];
        assert_eq!(
            [&choice["index"], &choice["text"], &choice["finish_reason"]],
            [&json!(index), &json!(""), &json!("length")]
        );
    }
    assert_eq!(whole["usage"]["completion_tokens"], 0);
    request["stream"] = true.into();
    let response = server.post("/v1/completions", &request);
    assert!(
        response.head.contains("text/event-stream"),
        "{}",
        response.head
    );
    let last = response.events().pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    let lines = json!({"prompt": "x = ", "options": {"num_predict": 0}});
    let lines = server.post("/api/generate", &lines);
    assert!(lines.head.contains("application/x-ndjson"));
    assert_eq!(lines.json()["done_reason"], "length");
}

#[test]
fn a_count_is_named_as_it_was_sent() {
    let server = Server::start(&[]);
    for (path, name) in [("/infill", "n_cmpl"), ("/v1/completions", "n")] {
        let error = server
            .post(path, &json!({"prompt": "x = ", name: 9}))
            .json();
        let message = error["error"]["message"].as_str().unwrap();
        let wanted = format!("{name}: expected a number from 1 to 8");
        assert_eq!(message, wanted);
    }
    let options = json!({"prompt": "x = ", "options": {"temperature": "hot"}});
    let error = server.post("/api/generate", &options).json();
    let error = error["error"].as_str().unwrap().to_string();
    assert!(error.starts_with("options.temperature: "), "{error}");
}

/// Tabby's kinds `llama.cpp/completion` and `openai/completion`: it reads events until the one that
/// says that it is the last, and panics at one that is not of their form.
#[test]
fn tabby_s_streams_end_as_it_looks_for() {
    let server = Server::start(&[]);
    let prompt =
        "<PRE> def load(path):\n    with open(path) as  <SUF>:\n        return f.read()\n <MID>";
    let llama = json!({"seed": 1, "prompt": prompt, "n_predict": 4, "temperature": 0.1,
        "stream": true, "penalty_last_n": 0, "presence_penalty": 0.0});
    let body = server.post("/completion", &llama).body;
    let events = body.split_terminator("\n\n").map(|event| {
        let data = event.strip_prefix("data: ").unwrap();
        serde_json::from_str::<Value>(data).unwrap()
    });
    let events: Vec<_> = events.collect();
    let text = |event: &Value| event["content"].as_str().unwrap().to_string();
    let (last, pieces) = events.split_last().unwrap();
    assert!(pieces.iter().all(|piece| piece["stop"] == false), "{body}");
    assert_eq!(last["stop"], true);
    let written: String = pieces.iter().map(text).collect();
    assert!(written.starts_with('f'), "{body}");
    let error = server.post("/completion", &json!({"n_predict": 4})).json();
    assert_eq!(error["error"]["message"], "prompt: is missing");
    assert_eq!(error["error"]["code"], 400);

    let openai = json!({"model": "diffucoder", "prompt": "def load(path):\n    with open(path) as ",
        "suffix": ":\n        return f.read()\n", "max_tokens": 4, "temperature": 0.1,
        "stream": true, "presence_penalty": 0.0});
    let events = server.post("/v1/completions", &openai).events();
    let choices = events.iter().map(|event| &event["choices"][0]);
    let ends: Vec<_> = choices
        .inspect(|choice| assert!(choice["text"].is_string()))
        .map(|choice| choice["finish_reason"].is_string())
        .collect();
    assert_eq!(ends.iter().position(|&ends| ends), Some(ends.len() - 1));
}

/// Editors indent the line that is to be written: what belongs there begins with the last of these
/// blanks in the model's tokens, and not with one more.
#[test]
fn what_goes_on_behind_blanks_has_none_too_many() {
    let server = Server::start(&[]);
    let prefix = "def is_valid(value):\n    ";
    for seed in 1..5 {
        let request = json!({"input_prefix": prefix, "n_predict": 8, "seed": seed});
        let reply = server.post("/infill", &request).json();
        let content = reply["content"].as_str().unwrap();
        assert!(!content.starts_with(' '), "{content:?}");
        let request = json!({"prompt": "def is_valid(value):\n    ret", "max_tokens": 8,
            "seed": seed, "stream": true});
        let events = server.post("/v1/completions", &request).events();
        let texts = events
            .iter()
            .map(|event| event["choices"][0]["text"].as_str().unwrap());
        let text: String = texts.collect();
        assert!(text.starts_with("urn"), "{text:?}");
    }
}

#[test]
fn a_time_limit_does_not_wait_for_second_thoughts() {
    let server = Server::start(&["--remask", "9"]);
    let forwards = |limit: u32| {
        let before = server.metric("diffucoder_forwards_total");
        let request = json!({"input_prefix": "def f(x):\n", "prompt": "    ", "input_suffix": "\n",
            "n_predict": 64, "t_max_predict_ms": limit, "temperature": 1.0, "seed": 5});
        let reply = server.post("/infill", &request).json();
        assert_ne!(reply["content"], "");
        server.metric("diffucoder_forwards_total") - before
    };
    let (short, whole) = (forwards(1), forwards(0));
    assert!(short < whole, "{short} of {whole} forwards");
}

#[test]
fn a_number_of_steps_is_for_the_longest_text() {
    for (flags, given) in [
        (["--steps", "100", "--max-new-tokens", "256"], ["", "\n"]),
        (["--steps", "400", "--max-new-tokens", "400"], ["", "\n"]),
        (
            ["--tokens-per-step", "8", "--max-new-tokens", "256"],
            ["", "\n"],
        ),
    ] {
        let server = Server::start(&flags);
        for suffix in given {
            let request = json!({"prompt": "def f(x):", "suffix": suffix, "max_tokens": 4});
            let reply = server.post("/v1/completions", &request);
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    }
}

#[test]
fn an_answer_that_is_not_read_keeps_its_place() {
    use std::io::Read;
    let server = Server::start(&["--queue", "0"]);
    let long = json!({"prompt": "x = 1\n".repeat(1 << 20), "n_predict": 0, "n_cmpl": 8});
    let mut unread = server.send("POST", "/completion", "", &long.to_string());
    unread.read_exact(&mut [0; 15]).unwrap(); // it is written and on its way
    let small = json!({"prompt": "x = ", "max_tokens": 0});
    assert_eq!(server.post("/v1/completions", &small).status, 429);
    drop(unread);
    while server.post("/v1/completions", &small).status == 429 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(server.post("/v1/completions", &small).status, 200);
}

#[test]
fn line_ends_are_the_file_s_and_not_those_of_other_files() {
    let server = Server::start(&[]);
    for (end, other) in [("\n", "\r\n"), ("\r\n", "\n")] {
        let extra = format!("a = 1{other}").repeat(50);
        let request = json!({"input_prefix": format!("def f(x):{end}"), "n_predict": 64,
            "input_extra": [{"text": extra}], "temperature": 1, "seed": 5});
        let reply = server.post("/infill", &request).json();
        assert!(reply["tokens_evaluated"].as_u64().unwrap() > 100, "seen");
        let content = reply["content"].as_str().unwrap();
        assert!(content.contains('\n'), "{content:?}");
        assert_eq!(content.replace("\r\n", "\n").replace('\n', end), content);
        // The only line ends stand behind the cursor, in a suffix that says nothing else.
        let request = json!({"input_prefix": "def f(x):", "input_suffix": end.repeat(2),
            "n_predict": 16, "temperature": 1, "seed": 3});
        let reply = server.post("/infill", &request).json();
        let content = reply["content"].as_str().unwrap();
        assert!(content.contains('\n'), "{content:?}");
        assert_eq!(content.replace("\r\n", "\n").replace('\n', end), content);
    }
}

#[test]
fn a_token_that_is_written_again_is_not_counted() {
    let server = Server::start(&[]);
    for most in [1, 3] {
        let request = json!({"prompt": "return", "max_tokens": most, "temperature": 0});
        let reply = server.post("/v1/completions", &request).json();
        assert_ne!(reply["choices"][0]["text"], "");
        let usage =
            json!({"prompt_tokens": 1, "completion_tokens": most, "total_tokens": 1 + most});
        assert_eq!(reply["usage"], usage);
    }
    let hole = json!({"prompt": "def f(x):\n    ", "suffix": "\nprint(f(1))\n", "max_tokens": 1,
        "temperature": 0});
    let reply = server.post("/v1/completions", &hole).json();
    assert_eq!(reply["usage"]["completion_tokens"], 1);
}

/// The clients of OpenAI, Mistral and ollama, in Python and JavaScript.
#[test]
fn what_other_clients_send_is_understood() {
    let server = Server::start(&[]);
    let name = &server.get("/v1/models").json()["data"][0];
    assert_eq!(server.get("/v1/models/tiny").json(), *name);
    assert_eq!(server.get("/v1/models/a%2Fb").json()["id"], "tiny");
    assert_eq!(server.get("/api/ps").json()["models"][0]["name"], "tiny");

    let warm = json!({"prompt": "def f(x):", "max_tokens": 12.0, "temperature": 1.5,
        "random_seed": 7});
    let [first, second] = [0, 1].map(|_| server.post("/v1/fim/completions", &warm).json());
    assert_eq!(first["choices"], second["choices"]);
    let mut other = warm.clone();
    other["random_seed"] = 8.into();
    let other = server.post("/v1/fim/completions", &other).json();
    assert_ne!(first["choices"], other["choices"]);

    let options = json!({"num_predict": 3.0, "seed": 1.0});
    let body = json!({"prompt": "x = ", "stream": false, "options": options});
    let reply = server.post("/api/generate", &body).json();
    assert_eq!(
        (&reply["eval_count"], &reply["context"]),
        (&json!(3), &json!([]))
    );
    let refused = server.post(
        "/v1/completions",
        &json!({"prompt": "x", "max_tokens": 1.5}),
    );
    assert_eq!(refused.json()["error"]["param"], "max_tokens");
    let unload = server.post("/api/generate", &json!({"keep_alive": 0, "stream": false}));
    assert_eq!(unload.json()["done_reason"], "unload");

    let messages = json!([
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "function", "name": "f", "content": "3"},
        {"role": "user", "content": "y"},
    ]);
    let chat = json!({"messages": messages, "max_tokens": 2});
    assert_eq!(server.post("/v1/chat/completions", &chat).status, 200);
    for (field, value) in [
        ("echo", json!(true)),
        ("logprobs", json!(1)),
        ("logprobs", json!(true)),
        ("logprobs", json!(0)),
        ("response_format", json!({"type": "json_object"})),
        ("tool_choice", json!("required")),
        (
            "tool_choice",
            json!({"type": "function", "function": {"name": "f"}}),
        ),
        ("grammar", json!("root ::= \"a\"")),
        ("json_schema", json!({"type": "object"})),
    ] {
        let mut request = json!({"prompt": "x = ", "max_tokens": 2});
        assert_eq!(server.post("/v1/completions", &request).status, 200);
        request[field] = value;
        let refused = server.post("/v1/completions", &request).json();
        assert_eq!(refused["error"]["param"], field);
    }

    // What clients send who ask for none of it.
    let plain = json!({
        "prompt": "x = ", "max_tokens": 2, "logprobs": null, "response_format": {"type": "text"},
        "tool_choice": "auto", "tools": [], "grammar": "", "json_schema": null, "format": null,
    });
    assert_eq!(server.post("/v1/completions", &plain).status, 200);
    let format = json!({"prompt": "x = ", "stream": false, "format": "json"});
    assert_eq!(server.post("/api/generate", &format).status, 400);
    let load = server.post("/api/generate", &json!({"prompt": null, "stream": false}));
    assert_eq!(load.json()["done_reason"], "load");
    let floats = json!({"input_prefix": "x = ", "n_predict": 2.0, "t_max_predict_ms": 2500.0,
        "n_indent": -1, "seed": 1});
    assert_eq!(server.post("/infill", &floats).status, 200);

    // JavaScript cuts a text in the middle of a character.
    let cut = r#"{"prompt": "x = \"\ud83c", "max_tokens": 2}"#;
    let reply = read_response(server.send("POST", "/v1/completions", "", cut));
    assert_eq!(reply.status, 200);
}

/// As LangChain batches them.
#[test]
fn several_prompts_have_their_texts_behind_each_other() {
    let server = Server::start(&[]);
    let prompts = ["def f(x):\n    return", "import "];
    let ask = |prompt: Value, stream: bool| {
        let request = json!({"prompt": prompt, "max_tokens": 4, "n": 2, "seed": 3,
            "temperature": 1, "stream": stream});
        server.post("/v1/completions", &request)
    };
    let all = ask(json!(prompts), false).json();
    let choices = all["choices"].as_array().unwrap();
    let indices: Vec<_> = choices
        .iter()
        .map(|choice| choice["index"].clone())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    let mut given = 0;
    for (prompt, texts) in prompts.iter().zip(choices.chunks(2)) {
        let alone = ask(json!([prompt]), false).json();
        for (found, expected) in texts.iter().zip(alone["choices"].as_array().unwrap()) {
            assert_eq!(found["text"], expected["text"]);
        }
        given += alone["usage"]["prompt_tokens"].as_u64().unwrap();
    }
    assert_eq!(all["usage"]["prompt_tokens"], given);

    let mut texts = vec![String::new(); 4];
    for event in ask(json!(prompts), true).events() {
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    let whole = choices
        .iter()
        .map(|choice| choice["text"].as_str().unwrap());
    assert!(texts.iter().eq(whole), "{texts:?}");
    let none = ask(json!([]), false).json();
    assert_eq!(none["error"]["param"], "prompt");
    assert_eq!(ask(json!(vec!["x"; 33]), false).status, 400);
}

/// A hole is not cut off where it is full.
#[test]
fn a_filled_hole_is_at_its_end() {
    let server = Server::start(&[]);
    let finish = |most| {
        let request = json!({"prompt": "def area(r):\n    return ", "suffix": "\n\nprint(area(2))\n",
            "max_tokens": most, "temperature": 0});
        server.post("/v1/completions", &request).json()["choices"][0]["finish_reason"].clone()
    };
    assert_eq!([100, 2].map(finish), ["stop", "length"]);
}

/// Half of the text is the same: its keys are there.
#[test]
fn context_is_reused_where_that_is_asked_for() {
    let rows = |flags: &[&str]| {
        let server = Server::start(flags);
        let request = |end: &str| {
            let prefix = "def area(r):\n    return 3.14 * r * r\n\n\n".repeat(4) + end;
            let before = server.metric("diffucoder_rows_total");
            let request = json!({"input_prefix": prefix, "input_suffix": "\n", "n_predict": 4});
            assert_eq!(server.post("/infill", &request).status, 200);
            server.metric("diffucoder_rows_total") - before
        };
        [request("x = "), request("x = a")]
    };
    let [first, second] = rows(&["--reuse-context"]);
    assert!(second < first / 2.0, "{first} {second}");
    let [first, second] = rows(&[]);
    assert!(second > first / 2.0, "{first} {second}");
}

/// Go's client sends every field, those that nobody set as empty.
#[test]
fn ollama_s_own_client_is_understood() {
    let server = Server::start(&[]);
    let load = |path, body: Value| {
        let reply = server.post(path, &body).json();
        assert_eq!(
            [&reply["done"], &reply["done_reason"]],
            [&json!(true), &json!("load")]
        );
        reply
    };
    let body = json!({"model": "tiny", "prompt": "", "suffix": "", "system": "", "options": null});
    assert_eq!(load("/api/generate", body)["response"], "");
    let body = json!({"model": "tiny", "messages": [], "options": null});
    assert_eq!(load("/api/chat", body)["message"]["content"], "");
    let mut body = json!({"prompt": "x = ", "suffix": "", "system": "", "stream": false,
        "options": {"seed": 1, "num_predict": 8}});
    let forward = server.post("/api/generate", &body).json();
    assert_ne!(forward["response"], "");
    body.as_object_mut().unwrap().remove("suffix");
    body.as_object_mut().unwrap().remove("system");
    let alone = server.post("/api/generate", &body).json();
    assert_eq!(forward["response"], alone["response"]);
    let model = &server.get("/api/tags").json()["models"][0];
    assert_eq!(model["digest"].as_str().unwrap().len(), 64);
    assert_eq!(model["details"]["parameter_size"], "6.3M");
}

#[test]
fn each_chunk_of_a_stream_has_the_usage_that_was_asked_for() {
    let server = Server::start(&[]);
    let request = json!({"prompt": "x = ", "max_tokens": 4, "stream": true,
        "stream_options": {"include_usage": true}});
    let mut events = server.post("/v1/completions", &request).events();
    assert_eq!(events.pop().unwrap()["usage"]["completion_tokens"], 4);
    assert!(events.iter().all(|event| event["usage"] == Value::Null));
    assert!(events[0].as_object().unwrap().contains_key("usage"));
}

#[test]
fn as_many_slots_are_named_as_there_are() {
    let server = Server::start(&["--parallel", "3"]);
    assert_eq!(server.get("/props").json()["total_slots"], 3);
}

#[test]
fn what_is_no_json_is_no_field_s_fault() {
    let server = Server::start(&[]);
    let broken = server.send("POST", "/v1/completions", "", "{\"prompt\": \"x\"");
    let error = read_response(broken).json()["error"].clone();
    assert_eq!(error["param"], Value::Null);
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("EOF while parsing"), "{message}");
}

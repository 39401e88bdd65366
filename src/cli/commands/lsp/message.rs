//! Messages of JSON-RPC as the Language Server Protocol frames them: a head that says how many
//! bytes follow, and these.

use std::io::{BufRead, Read};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cli::commands::serve::work::whole_characters;

/// Most bytes of a head.
const MOST_HEAD_BYTES: u64 = 4 << 10;
/// Most bytes of a message: nobody edits a longer file.
const MOST_BYTES: u64 = 64 << 20;

/// The next message; `None` where the input ends between two.
///
/// # Errors
/// When it is no message, is too long, or breaks off: where the next one begins is not known then.
pub fn read(input: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut length = None;
    let mut head = input.take(MOST_HEAD_BYTES);
    loop {
        let mut line = Vec::new();
        head.read_until(b'\n', &mut line)
            .context("cannot read stdin")?;
        if line.is_empty() && head.limit() == MOST_HEAD_BYTES {
            return Ok(None);
        }
        ensure!(line.ends_with(b"\n"), "the head of a message has no end");
        match line.trim_ascii() {
            b"" => break,
            line => {
                let line = String::from_utf8_lossy(line);
                let Some((name, value)) = line.split_once(':') else {
                    bail!("this is no head of a message: {line}");
                };
                if name.trim().eq_ignore_ascii_case("content-length") {
                    let value = value.trim().parse::<u64>();
                    length = Some(value.context("Content-Length is no number")?);
                }
            }
        }
    }
    let length = length.context("the head of a message has no Content-Length")?;
    ensure!(
        length <= MOST_BYTES,
        "a message of {length} bytes is longer than {MOST_BYTES}"
    );
    let mut body = Vec::new(); // grows with what comes, not with what is announced
    let input = input.take(length).read_to_end(&mut body);
    input.context("cannot read stdin")?;
    ensure!(body.len() as u64 == length, "a message broke off");
    Ok(Some(body))
}

/// A message with its head.
pub fn framed(message: &Value) -> String {
    let body = message.to_string();
    format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

/// What a client sends: a request, a notification, which has no id, or a response, which has no
/// method.
#[derive(Debug, Deserialize)]
pub struct Incoming {
    pub id: Option<Id>,
    pub method: Option<String>,
    #[serde(default)]
    pub params: Value,
}

/// Names a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, serde::Serialize)]
#[serde(untagged)]
pub enum Id {
    Number(i64),
    Text(String),
}

impl Incoming {
    /// # Errors
    /// [`Failure`] when it is no message.
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        let value: Value = serde_json::from_slice(&whole_characters(body))
            .map_err(|error| Failure::new(Code::Parse, error.to_string()))?;
        let value = Some(value).filter(Value::is_object).unwrap_or_default();
        let wrong = "this is no request, notification or response";
        serde_json::from_value(value).map_err(|_| Failure::new(Code::InvalidRequest, wrong))
    }
}

/// Codes of errors, of JSON-RPC and of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Parse = -32700,
    InvalidRequest = -32600,
    MethodNotFound = -32601,
    InvalidParams = -32602,
    NotInitialized = -32002,
    RequestFailed = -32803,
    RequestCancelled = -32800,
}

/// Why a request has no result.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// The response to a request; without an id to one that could not be read.
pub fn response(id: Option<&Id>, answer: Result<Value, Failure>) -> Value {
    match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(Failure { code, message }) => json!({
            "jsonrpc": "2.0", "id": id, "error": {"code": code as i32, "message": message},
        }),
    }
}

/// What a method is called with.
pub fn params<T: DeserializeOwned>(params: Value) -> Result<T, Failure> {
    serde_path_to_error::deserialize(params).map_err(|error| {
        let message = format!("{}: {}", error.path(), error.inner());
        Failure::new(Code::InvalidParams, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut input: &[u8]) -> Vec<Result<Option<Vec<u8>>, String>> {
        let mut all = Vec::new();
        loop {
            let next = read(&mut input).map_err(|error| error.to_string());
            let is_last = !matches!(next, Ok(Some(_)));
            all.push(next);
            if is_last {
                return all;
            }
        }
    }

    #[test]
    fn messages_follow_each_other() {
        let input =
            "Content-Length: 2\r\n\r\n{}content-length:4\nContent-Type: x; charset=utf-8\n\n\"é\"";
        let messages = [Ok(Some(b"{}".to_vec())), Ok(Some("\"é\"".into())), Ok(None)];
        assert_eq!(all(input.as_bytes()), messages);
        let message = json!({"text": "é"});
        let framed = framed(&message);
        assert_eq!(
            all(framed.as_bytes())[0],
            Ok(Some(message.to_string().into_bytes()))
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = format!("X: {}\r\n\r\n", "x".repeat(1 << 13));
        for (input, why) in [
            ("Content-Length: 5\r\n\r\n{}", "a message broke off"),
            ("Content-Length: 5\r\n", "has no end"),
            ("X: 1\r\n\r\n", "has no Content-Length"),
            ("Content-Length: -1\r\n\r\n", "is no number"),
            ("Content-Length: 99999999999\r\n\r\n", "is longer than"),
            ("{\"jsonrpc\": 1}\n", "has no end"),
            ("hello\n", "no head of a message: hello"),
            (&long, "has no end"),
        ] {
            let said = all(input.as_bytes()).remove(0).unwrap_err();
            assert!(said.contains(why), "{input:.40}: {said}");
        }
    }
}

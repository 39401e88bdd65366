//! Why a request gets no text, in words and in JSON of each protocol.

use diffucoder::{Error, RequestError};
use hyper::StatusCode;
use serde_json::{Value, json};

/// Why a request gets no text.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
    /// The field that is wrong.
    param: Option<String>,
    /// OpenAI's word for it, for programs.
    code: Option<&'static str>,
    /// The method that the path takes.
    pub allowed: Option<&'static str>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
            allowed: None,
        }
    }

    /// A request that cannot be meant.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that cannot be meant.
    pub fn field(name: &str, what: &str) -> Self {
        Self::bad(what).about(name)
    }

    /// The same of a field.
    pub fn about(self, name: &str) -> Self {
        Self {
            message: format!("{name}: {}", self.message),
            param: Some(name.to_string()),
            ..self
        }
    }

    fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    pub fn unauthorized() -> Self {
        let message = "this server needs one of its keys: Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
    }

    /// A request that was sent to another name, or by a page of another site.
    pub fn elsewhere() -> Self {
        let message = "without keys this server answers requests to localhost, 127.0.0.1, [::1] and \
                       its --host, and no page of another site: start it with --cors ORIGIN for \
                       such a page, or with --api-key-file to be asked by any name";
        Self::new(StatusCode::FORBIDDEN, message).with_code("invalid_host")
    }

    pub fn method(allowed: &'static str) -> Self {
        let message = format!("this path takes {allowed}");
        Self {
            allowed: Some(allowed),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
        }
    }

    pub fn busy() -> Self {
        let message = "too many requests are waiting";
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("rate_limit_exceeded")
    }

    pub fn replaced() -> Self {
        let message = "a newer request of this client took its place";
        Self::new(StatusCode::CONFLICT, message)
    }

    pub fn failed() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "denoising failed")
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// What a client of this path looks for.
    pub fn json(&self, path: &str) -> Value {
        if path.starts_with("/api/") {
            return json!({"error": self.message});
        }
        let mut error = json!({"message": self.message, "type": self.kind()});
        if matches!(path, "/infill" | "/completion") {
            error["code"] = self.status.as_u16().into();
        } else {
            error["param"] = self.param.clone().into();
            error["code"] = self.code.into();
        }
        json!({"error": error})
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(|hint| format!(" ({hint})"));
        let message = format!("{error}{}", hint.unwrap_or_default());
        match error {
            Error::Request(RequestError::TooLong { .. }) => {
                Self::bad(message).with_code("context_length_exceeded")
            }
            Error::Request(_) | Error::Chat(_) | Error::Tokenizer(_) => Self::bad(message),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

//! Where and how to fetch: the environment variables of huggingface_hub, read once and passed on as values.
//!
//! Source: huggingface_hub, "Environment variables". Tests build `HubOptions` without any environment.

use super::spec::expand_home;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A Hub token; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` if nothing but space is left, or if it could not stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| Self(text.to_owned()))
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To look up the host's address, and again to connect.
    pub connect: Duration,
    /// Without a single byte arriving.
    pub stall: Duration,
    /// Further attempts after a transfer breaks off.
    pub retries: u32,
    /// Before the first retry; doubles with each one.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            retries: 5,
            backoff: Duration::from_secs(1),
        }
    }
}

/// Everything that opening a model depends on besides its name.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The folder that holds `models--owner--name`.
    pub cache_dir: PathBuf,
    /// Without a slash at its end.
    pub endpoint: String,
    /// Sent only to the endpoint, and for files only where they need it.
    pub token: Option<Token>,
    /// Use the cache only.
    pub offline: bool,
    /// A branch, a tag or a commit; `main` if `None`.
    pub revision: Option<String>,
    /// Time limits and retries.
    pub patience: Patience,
}

impl HubOptions {
    /// The public Hub, anonymously, into this cache.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            offline: false,
            revision: None,
            patience: Patience::default(),
        }
    }

    /// What the environment says.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name), std::env::home_dir())
    }

    /// The same from any source of variables; an empty variable counts as unset, as it does in Python.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let text = |name: &str| {
            var(name)
                .and_then(|value| value.into_string().ok())
                .filter(|value| !value.trim().is_empty())
        };
        let path = |name: &str| {
            let value = var(name).filter(|value| !value.is_empty())?;
            Some(
                value
                    .to_str()
                    .map(|value| expand_home(value, home.clone()))
                    .unwrap_or_else(|| value.into()),
            )
        };
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| {
                home.clone()
                    .unwrap_or_default()
                    .join(".cache")
                    .join("huggingface")
            });
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let offline = text("HF_HUB_OFFLINE").is_some_and(|value| {
            matches!(
                value.trim().to_lowercase().as_str(),
                "1" | "on" | "yes" | "true"
            )
        });
        let mut options = Self::new(path("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")));
        if let Some(endpoint) = text("HF_ENDPOINT") {
            options.endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        }
        options.token = text("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(token_file).ok())
            .as_deref()
            .and_then(Token::new);
        options.offline = offline;
        options
    }

    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn options(vars: &[(&str, &str)], home: &Path) -> HubOptions {
        let find = |name: &str| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        HubOptions::from_vars(find, Some(home.to_owned()))
    }

    #[test]
    fn defaults_are_pythons() {
        let options = options(
            &[("HF_HOME", ""), ("HF_TOKEN", " ")],
            Path::new("/nowhere/me"),
        );
        assert_eq!(
            options.cache_dir,
            Path::new("/nowhere/me/.cache/huggingface/hub")
        );
        assert_eq!(options.endpoint, "https://huggingface.co");
        assert!(options.token.is_none() && !options.offline);
        assert_eq!(options.revision(), "main");
    }

    #[test]
    fn variables_win_in_pythons_order() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("token"), "hf_from_file\n").expect("written");
        let home_text = home.path().to_str().expect("utf-8");
        let from_file = options(
            &[
                ("HF_HOME", home_text),
                ("HF_HUB_OFFLINE", "True"),
                ("HF_ENDPOINT", "http://mirror/"),
            ],
            home.path(),
        );
        assert_eq!(from_file.token, Token::new("hf_from_file"));
        assert_eq!(from_file.cache_dir, home.path().join("hub"));
        assert!(from_file.offline);
        assert_eq!(from_file.endpoint, "http://mirror");
        let explicit = options(
            &[
                ("HF_HOME", home_text),
                ("HF_TOKEN", "hf_env"),
                ("HF_HUB_CACHE", "~/c"),
            ],
            home.path(),
        );
        assert_eq!(explicit.token, Token::new("hf_env"));
        assert_eq!(explicit.cache_dir, home.path().join("c"));
    }

    #[test]
    fn tokens_are_never_shown() {
        let mut options = HubOptions::new("/nowhere");
        options.token = Token::new("hf_secret");
        assert!(!format!("{options:?}").contains("secret"));
        assert!(Token::new("hf\nInjected: header").is_none());
    }
}

//! Where and how to fetch: the environment variables of huggingface_hub, read once and passed on as
//! values.
//!
//! Source: huggingface_hub, "Environment variables". Tests build `HubOptions` without any
//! environment.

use super::address::shown;
use super::spec::expand_home;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
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

/// Certificates of authorities to trust beside the built-in ones and the system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSource {
    /// The environment variable that names them.
    pub variable: &'static str,
    /// Files in PEM form, or folders of such files.
    pub paths: Vec<PathBuf>,
}

/// Everything that opening a model depends on besides its name.
#[derive(Clone)]
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
    /// Ask the Hub what the revision is now, where an earlier run knew it too. That is taken where
    /// the Hub cannot be reached.
    pub newest: bool,
    /// Time limits and retries.
    pub patience: Patience,
    /// For networks whose proxy opens TLS, and for hubs with a certificate of their own.
    pub ca_sources: Vec<CaSource>,
}

/// Without what an endpoint may hold beside the host: a mirror's password.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &shown(&self.endpoint))
            .field("offline", &self.offline)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
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
            newest: false,
            patience: Patience::default(),
            ca_sources: Vec::new(),
        }
    }

    /// What the environment says.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name), std::env::home_dir())
    }

    /// The same from any source of variables; an empty variable counts as unset, as it does in
    /// Python.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let value = |name: &str| var(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            let text = value(name)?.into_string().ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let is_on = |text: String| matches!(&*text.to_lowercase(), "1" | "on" | "yes" | "true");
        let path = |name: &str| {
            let value = value(name)?;
            Some(match value.to_str() {
                Some(text) => expand_variables(&expand_home(text, home.clone()), &var),
                None => value.into(),
            })
        };
        let hf_home = path("HF_HOME").unwrap_or_else(|| {
            let cache = path("XDG_CACHE_HOME");
            cache
                .unwrap_or_else(|| home.clone().unwrap_or_default().join(".cache"))
                .join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let mut options = Self::new(cache.unwrap_or_else(|| hf_home.join("hub")));
        if let Some(endpoint) = text("HF_ENDPOINT") {
            endpoint
                .trim_end_matches('/')
                .clone_into(&mut options.endpoint);
        }
        if !text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(is_on) {
            let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
            options.token = text("HF_TOKEN")
                .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| std::fs::read_to_string(token_file).ok())
                .as_deref()
                .and_then(Token::new);
        }
        options.offline = text("HF_HUB_OFFLINE")
            .or_else(|| text("TRANSFORMERS_OFFLINE"))
            .is_some_and(is_on);
        let ca_file = |variable| {
            let paths = vec![path(variable)?];
            Some(CaSource { variable, paths })
        };
        let ca_files = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
        options.ca_sources = ca_files.into_iter().filter_map(ca_file).collect();
        options
            .ca_sources
            .extend(value("SSL_CERT_DIR").map(|paths| CaSource {
                variable: "SSL_CERT_DIR",
                paths: std::env::split_paths(&paths).collect(),
            }));
        options
    }

    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

/// `$NAME` and `${NAME}` are replaced by what they stand for, and stay if they are unset:
/// `os.path.expandvars`.
fn expand_variables(path: &Path, var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(text) = path.to_str() else {
        return path.to_owned();
    };
    let (mut expanded, mut rest) = (OsString::new(), text);
    while let Some(at) = rest.find('$') {
        expanded.push(&rest[..at]);
        rest = &rest[at..];
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, end) = match rest[1..]
            .strip_prefix('{')
            .and_then(|name| name.split_once('}'))
        {
            Some((name, _)) => (name, name.len() + 3),
            None => {
                let name = rest[1..].split(|c| !is_word(c)).next().unwrap_or_default();
                (name, name.len() + 1)
            }
        };
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => expanded.push(value),
            None => expanded.push(&rest[..end]),
        }
        rest = &rest[end..];
    }
    expanded.push(rest);
    expanded.into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn older_names_count_where_the_newer_are_unset() {
        let home = Path::new("/home/me");
        let older = [
            ("HUGGING_FACE_HUB_TOKEN", "hf_old"),
            ("HUGGINGFACE_HUB_CACHE", "/big"),
            ("TRANSFORMERS_OFFLINE", "YES"),
        ];
        let newer = [
            ("HF_TOKEN", "hf_new"),
            ("HF_HUB_CACHE", "/new"),
            ("HF_HUB_OFFLINE", "0"),
        ];
        let only_older = options(&older, home);
        assert_eq!(only_older.token, Token::new("hf_old"));
        assert_eq!(only_older.cache_dir, Path::new("/big"));
        assert!(only_older.offline);
        let both = options(&[older, newer].concat(), home);
        assert_eq!(both.token, Token::new("hf_new"));
        assert_eq!(both.cache_dir, Path::new("/new"));
        assert!(!both.offline);
        let refused = [
            ("HF_TOKEN", "hf_new"),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ];
        assert_eq!(options(&refused, home).token, None);
    }

    #[test]
    fn variables_and_tildes_in_paths_are_expanded() {
        for (value, expected) in [
            ("$HOME/hub", "/home/me/hub"),
            ("${HOME}/hub", "/home/me/hub"),
            ("~/hub", "/home/me/hub"),
            ("/a/$USER-$X_1/${USER}s", "/a/me-1/mes"),
            (
                "$MISSING/${MISSING}/$/${USER",
                "$MISSING/${MISSING}/$/${USER",
            ),
            ("/é$USERé", "/émeé"),
        ] {
            let vars = [
                ("HOME", "/home/me"),
                ("USER", "me"),
                ("X_1", "1"),
                ("HF_HUB_CACHE", value),
            ];
            let found = options(&vars, Path::new("/home/me"));
            assert_eq!(found.cache_dir, Path::new(expected), "{value}");
        }
        let vars = [
            ("HOME", "/home/me"),
            ("XDG_CACHE_HOME", "$HOME/.c"),
            ("SSL_CERT_FILE", "~/ca.pem"),
        ];
        let found = options(&vars, Path::new("/home/me"));
        assert_eq!(found.cache_dir, Path::new("/home/me/.c/huggingface/hub"));
        let [ca] = &found.ca_sources[..] else {
            panic!("{:?}", found.ca_sources)
        };
        assert_eq!(
            (ca.variable, &ca.paths[..]),
            ("SSL_CERT_FILE", &[PathBuf::from("/home/me/ca.pem")][..])
        );
    }

    #[test]
    fn tokens_and_passwords_are_never_shown() {
        let mut options = HubOptions::new("/nowhere");
        options.token = Token::new("hf_secret");
        options.endpoint = "https://me:secret@mirror.local".into();
        assert!(!format!("{options:?}").contains("secret"));
        assert!(Token::new("hf\nInjected: header").is_none());
    }
}

//! What follows `--model`: an alias, a folder or a Hub id. Also the check that file names must
//! pass.
//!
//! The rules for ids are those of huggingface_hub's `validate_repo_id`, with an owner always
//! required.

use super::error::HubError;
use super::registry::{self, KnownModel, Recipe};
use crate::diffusion::Mode;
use std::fmt;
use std::path::{Path, PathBuf};

/// A model, named but not yet opened.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSpec {
    /// The model inside the binary.
    BuiltIn(&'static KnownModel),
    /// A repository on the Hub, or a GGUF file in one.
    Hub(HubModel),
    /// A place on this machine; `Snapshot::open` insists that it is a folder.
    Local(PathBuf),
}

/// A repository, and which of its files is the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// The repository.
    pub id: RepoId,
    /// A GGUF file, by its name or by its quantization; the safetensors if `None`.
    pub gguf: Option<String>,
}

/// As [`ModelSpec::parse`] reads it.
impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.gguf {
            Some(gguf) => write!(f, "{}:{gguf}", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

impl ModelSpec {
    /// Reads an alias, a path or `owner/name`, in that order; an alias or a Hub id may end in the
    /// quantization of a GGUF file, as in `diffucoder:q4_k_m`. What exists on disk is a path
    /// however it looks.
    ///
    /// # Errors
    /// `UnknownModel` for a bare word that is none of these, `BadModelId` for a malformed Hub id,
    /// `NoConversion` for a quantization of a model whose GGUF files are not known.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        if let Some(model) = registry::by_alias(text) {
            return match model.hub_id {
                Some(id) => Self::hub(id, None),
                None => Ok(Self::BuiltIn(model)),
            };
        }
        let (name, gguf) = match text.rsplit_once(':') {
            Some((name, end)) if !end.is_empty() && !end.contains('/') => (name, Some(end)),
            // A file in a folder of a repository.
            Some((name, end))
                if end.ends_with(".gguf")
                    && RepoId::parse(name).is_ok()
                    && !Path::new(text).exists() =>
            {
                return Self::hub(name, Some(end));
            }
            _ => (text, None),
        };
        if let (Some(model), Some(_)) = (registry::by_alias(name), gguf) {
            let Some(conversion) = &model.conversion else {
                return Err(HubError::NoConversion { alias: model.alias });
            };
            return Self::hub(conversion.hub_id, gguf);
        }
        if looks_like_path(text) || (!text.is_empty() && Path::new(text).exists()) {
            let path = expand_home(text, std::env::home_dir());
            // What `.` and `..` are called tells something, as it does of other folders.
            let is_nameless = path.file_name().is_none();
            let named = is_nameless.then(|| path.canonicalize().ok()).flatten();
            return Ok(Self::Local(named.unwrap_or(path)));
        }
        if name.contains('/') {
            return Self::hub(name, gguf);
        }
        Err(HubError::UnknownModel {
            name: text.to_owned(),
            suggestion: registry::suggest(name),
        })
    }

    /// The recipe: from the table, or by what the model calls itself, where its files say that, and
    /// by the name that it has here: that of a known model of which one is part, or else what most
    /// models with such names want.
    pub(crate) fn recipe(&self, own_name: Option<&str>) -> Recipe {
        let typed = match self {
            Self::BuiltIn(model) => return model.recipe,
            Self::Hub(model) => match registry::in_repo(model.id.as_str()) {
                Some(known) => return known.recipe,
                None => model.id.name().into(),
            },
            Self::Local(path) => path.to_string_lossy(),
        };
        let names = [own_name.unwrap_or_default(), called(&typed)];
        if let Some(known) = names.into_iter().find_map(registry::in_name) {
            return known.recipe;
        }
        let is_base = |name: &str| {
            let mut words = name.split(|c: char| !c.is_alphanumeric());
            words.any(|word| word.eq_ignore_ascii_case("base"))
        };
        let recipe = match names.into_iter().any(is_base) {
            true => registry::raw(0.2),
            false => registry::chat(0.3),
        };
        // Weights distilled for d3LLM's sampler are otherwise like those that they came from.
        let is_d3llm = |name: &str| name.to_ascii_lowercase().contains("d3llm");
        Recipe {
            mode: names.into_iter().any(is_d3llm).then_some(Mode::D3llm),
            ..recipe
        }
    }

    /// An id has the form of a path too: the error that a repository cannot be had says that there
    /// is no such folder either, unless the program itself named the repository.
    pub(crate) fn or_a_folder(&self, error: HubError) -> HubError {
        let is_nowhere = matches!(
            error,
            HubError::RepoNotFound { .. }
                | HubError::Unreachable { .. }
                | HubError::NotCached { .. }
        );
        match self {
            Self::Hub(HubModel { id, .. })
                if is_nowhere && registry::in_repo(id.as_str()).is_none() =>
            {
                HubError::NotHereEither {
                    id: id.to_string(),
                    source: Box::new(error),
                }
            }
            _ => error,
        }
    }

    fn hub(id: &str, gguf: Option<&str>) -> Result<Self, HubError> {
        Ok(Self::Hub(HubModel {
            id: RepoId::parse(id)?,
            gguf: gguf.map(str::to_owned),
        }))
    }
}

/// What a model is called, without where it lies. In the Hub's cache its folder is called by a
/// version, and two above that by the model.
pub(crate) fn called(name: &str) -> &str {
    let mut parts = name.rsplit(['/', '\\']).filter(|part| !part.is_empty());
    let last = parts.next().unwrap_or_default();
    match parts.next() {
        Some("snapshots") => parts.next().unwrap_or(last),
        _ => last,
    }
}

fn looks_like_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    let has_drive = bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
    // An id has one slash, and an address is a mistake of another kind.
    let has_folders =
        text.ends_with('/') || (text.matches('/').count() > 1 && !text.contains("://"));
    let has_prefix = ["./", "../", "/", "~"]
        .iter()
        .any(|prefix| text.starts_with(prefix));
    // Behind a colon it is a file of a repository.
    let is_gguf = !text.contains(':') && text.to_ascii_lowercase().ends_with(".gguf");
    matches!(text, "." | "..")
        || has_prefix
        || has_drive
        || is_gguf
        || has_folders
        || text.contains('\\')
}

/// `~` and `~/x` under `home`: a quoted argument reaches us with its tilde.
pub(super) fn expand_home(text: &str, home: Option<PathBuf>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with(['/', '\\']) => home.join(&rest[1..]),
        _ => PathBuf::from(text),
    }
}

/// `owner/name`, validated: safe as part of an address and of a folder's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// Checks an id.
    ///
    /// # Errors
    /// `BadModelId` with the rule that was broken.
    pub fn parse(id: &str) -> Result<Self, HubError> {
        let mut parts = id.split('/');
        let broken = match (parts.next(), parts.next(), parts.next()) {
            (Some(owner), Some(name), None) => [owner, name].into_iter().find_map(broken_rule),
            _ => Some("it needs exactly two parts, `owner/name`"),
        };
        let broken = broken.or((id.len() > 96).then_some("it is longer than 96 characters"));
        match broken {
            Some(reason) => Err(HubError::BadModelId {
                id: id.to_owned(),
                reason,
            }),
            None => Ok(Self(id.to_owned())),
        }
    }

    /// `owner/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.0.split('/').next_back().unwrap_or_default()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn broken_rule(part: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if part.is_empty() {
        Some("a part is empty")
    } else if !part.chars().all(allowed) {
        Some("only letters, digits and `.`, `_`, `-` are allowed")
    } else if part.starts_with(['.', '-']) {
        Some("a part starts with `.` or `-`")
    } else if part.contains("..") || part.contains("--") {
        Some("`..` and `--` are not allowed")
    } else {
        None
    }
}

/// Passes a file name (from an index, say) only if it stays inside the folder it is joined to, on
/// every system.
///
/// # Errors
/// `UnsafeName`.
pub(super) fn check_name(name: &str) -> Result<(), HubError> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    let bad_char = |c: char| c.is_control() || matches!(c, '\\' | ':');
    if name.split('/').any(bad_part) || name.contains(bad_char) {
        return Err(HubError::UnsafeName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// A git commit, or the longer kind that git is moving to.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::registry::{chat, raw};
    use super::*;
    use crate::diffusion::Mode;

    #[test]
    fn commits_drives_and_long_ids_are_known_by_their_letters() {
        assert!(is_commit(&"0a".repeat(20)) && is_commit(&"f9".repeat(32)));
        for no in [
            "0A".repeat(20),
            "main".into(),
            "0a".repeat(19),
            "g0".repeat(32),
        ] {
            assert!(!is_commit(&no), "{no}");
        }
        assert!(looks_like_path("c:") && !looks_like_path("c") && !looks_like_path("1:"));
        let id = |letters| RepoId::parse(&format!("a/{}", "b".repeat(letters)));
        assert!(id(94).is_ok() && id(95).is_err());
    }

    #[test]
    fn what_the_user_types_is_told_apart() {
        let gguf = |id: &str, gguf: Option<&str>| {
            ModelSpec::Hub(HubModel {
                id: RepoId(id.to_owned()),
                gguf: gguf.map(str::to_owned),
            })
        };
        let hub = |id: &str| gguf(id, None);
        let local = |path: &str| ModelSpec::Local(PathBuf::from(path));
        for (typed, expected) in [
            ("diffucoder", hub("apple/DiffuCoder-7B-cpGRPO")),
            ("dream-coder", hub("Dream-org/Dream-Coder-v0-Instruct-7B")),
            ("some-one/model_1.5", hub("some-one/model_1.5")),
            ("some-one/m:Q8_0", gguf("some-one/m", Some("Q8_0"))),
            (
                "diffucoder:q4_k_m",
                gguf("Mungert/DiffuCoder-7B-cpGRPO-GGUF", Some("q4_k_m")),
            ),
            ("./missing", local("./missing")),
            ("../missing/deep", local("../missing/deep")),
            ("/missing", local("/missing")),
            (r"models\mine", local(r"models\mine")),
            ("D:models", local("D:models")),
            ("models/missing.gguf", local("models/missing.gguf")),
            ("missing.GGUF", local("missing.GGUF")),
            ("a/b:c.gguf", gguf("a/b", Some("c.gguf"))),
            ("a/b:Q4/c.gguf", gguf("a/b", Some("Q4/c.gguf"))),
            ("a/b/c:d/e.gguf", local("a/b/c:d/e.gguf")),
            ("src/hub", local("src/hub")),
            ("a/b/c", local("a/b/c")),
            ("models/", local("models/")),
        ] {
            assert_eq!(ModelSpec::parse(typed).expect(typed), expected, "{typed}");
        }
        assert!(
            matches!(ModelSpec::parse("tiny"), Ok(ModelSpec::BuiltIn(model)) if model.alias == "tiny")
        );
    }

    #[test]
    fn unknown_models_get_a_recipe_from_their_name() {
        for (typed, expected) in [
            ("./models/My-BASE-7B", raw(0.2)),
            ("./base/finetune", chat(0.3)),
            ("./database", chat(0.3)),
            ("someone/Dream_base", raw(0.2)),
            ("someone/Coder", chat(0.3)),
            ("./DiffuCoder-7B-cpGRPO.i1-Q4_K_M.gguf", chat(0.4)),
            (
                "./models--apple--DiffuCoder-7B-Base/snapshots/0a1b/",
                raw(0.2),
            ),
            ("someone/my-Dream-Coder-v0-Instruct-7B-tuned", chat(0.1)),
            ("Apple/DiffuCoder-7B-cpGRPO", chat(0.4)),
            ("mungert/diffucoder-7b-cpgrpo-gguf:q8_0", chat(0.4)),
            ("someone/Dream-Base-GGUF:q8_0", raw(0.2)),
            (
                "tiny",
                Recipe {
                    mode: Some(Mode::Fast),
                    remask: 1,
                    lengths: registry::by_alias("tiny").unwrap().recipe.lengths,
                    ..raw(0.2)
                },
            ),
        ] {
            assert_eq!(
                ModelSpec::parse(typed).expect(typed).recipe(None),
                expected,
                "{typed}"
            );
        }
    }

    #[test]
    fn a_file_is_what_it_calls_itself() {
        for (own_name, typed, expected) in [
            ("DiffuCoder-7B-cpGRPO@0a1b2c3d", "./q.gguf", chat(0.4)),
            ("DiffuCoder 7B Base", "./diffucoder.gguf", raw(0.2)),
            ("Dream v0 Base 7B", "./q.gguf", raw(0.2)),
            ("Model", "./Dream-base.gguf", raw(0.2)),
            (
                "LLaDA 1.5",
                "./q.gguf",
                registry::by_alias("llada-1.5").unwrap().recipe,
            ),
            (
                "tiny (built in)",
                "./q.gguf",
                registry::by_alias("tiny").unwrap().recipe,
            ),
            ("tiny", "./q.gguf", chat(0.3)),
        ] {
            let spec = ModelSpec::parse(typed).expect(typed);
            assert_eq!(spec.recipe(Some(own_name)), expected, "{own_name}");
        }
    }

    #[test]
    fn the_folder_that_one_is_in_has_a_name() {
        for typed in [".", ".."] {
            let folder = Path::new(typed).canonicalize().unwrap();
            assert_eq!(ModelSpec::parse(typed).unwrap(), ModelSpec::Local(folder));
        }
    }

    #[test]
    fn bare_words_and_bad_ids_are_refused() {
        assert!(matches!(
            ModelSpec::parse("tinny"),
            Err(HubError::UnknownModel {
                suggestion: Some("tiny"),
                ..
            })
        ));
        assert!(matches!(
            ModelSpec::parse("diffucoder-base:q4_k_m"),
            Err(HubError::NoConversion {
                alias: "diffucoder-base"
            })
        ));
        assert!(matches!(
            ModelSpec::parse(""),
            Err(HubError::UnknownModel { .. })
        ));
        for id in [
            "-a/b",
            "a/.b",
            "a/b..c",
            "a/b--c",
            "a/b c",
            "a/b?x",
            "https://huggingface.co/a/b",
        ] {
            assert!(
                matches!(ModelSpec::parse(id), Err(HubError::BadModelId { .. })),
                "{id}"
            );
        }
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = Some(PathBuf::from("/home/me"));
        assert_eq!(
            expand_home("~/m", home.clone()),
            PathBuf::from("/home/me/m")
        );
        assert_eq!(expand_home("~", home.clone()), PathBuf::from("/home/me"));
        assert_eq!(expand_home("~you/m", home), PathBuf::from("~you/m"));
        assert_eq!(expand_home("~/m", None), PathBuf::from("~/m"));
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            r"..\x",
            "C:x",
            "a\0b",
            "a\n",
            "a/",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in [
            "config.json",
            "sub/model 1.safetensors",
            "..x",
            ".gitattributes",
        ] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}

//! Whether code parses, and where it does not.
//!
//! The parsers are tree-sitter's. They are lenient: what they refuse is not code, but what they
//! accept need not compile. They are C, so they come with the cargo feature `check`; the languages
//! and their file endings are known without it.

use std::fmt;
use std::path::Path;

#[cfg(feature = "check")]
use crate::text::place::{Place, place};

/// A language that can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Language {
    Python,
    Rust,
    JavaScript,
    TypeScript,
    Tsx,
    Go,
    Java,
    C,
    Cpp,
}

impl Language {
    /// Every language.
    pub const ALL: [Self; 9] = [
        Self::Python,
        Self::Rust,
        Self::JavaScript,
        Self::TypeScript,
        Self::Tsx,
        Self::Go,
        Self::Java,
        Self::C,
        Self::Cpp,
    ];

    /// The language with this name, as a fence of Markdown spells it.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let known = Self::ALL
            .into_iter()
            .find(|language| language.name() == name);
        known.or_else(|| Self::by_ending(&name)).or(match &*name {
            "python3" => Some(Self::Python),
            "golang" => Some(Self::Go),
            "c++" => Some(Self::Cpp),
            _ => None,
        })
    }

    /// The language of a file, by its name's ending.
    pub fn of_file(path: &Path) -> Option<Self> {
        Self::by_ending(&path.extension()?.to_str()?.to_ascii_lowercase())
    }

    fn by_ending(ending: &str) -> Option<Self> {
        Some(match ending {
            "py" | "pyi" => Self::Python,
            "rs" => Self::Rust,
            "js" | "mjs" | "cjs" | "jsx" => Self::JavaScript,
            "ts" | "mts" | "cts" => Self::TypeScript,
            "tsx" => Self::Tsx,
            "go" => Self::Go,
            "java" => Self::Java,
            "c" | "h" => Self::C,
            "cc" | "cpp" | "cxx" | "hh" | "hpp" | "hxx" => Self::Cpp,
            _ => return None,
        })
    }

    /// Its name, as a fence of Markdown spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Rust => "rust",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::Tsx => "tsx",
            Self::Go => "go",
            Self::Java => "java",
            Self::C => "c",
            Self::Cpp => "cpp",
        }
    }

    /// Where `code` first goes wrong, if it does.
    ///
    /// # Errors
    /// When the parser does not take the grammar, which is a fault of this build.
    #[cfg(feature = "check")]
    pub fn first_error(self, code: &[u8]) -> Result<Option<Place>, tree_sitter::LanguageError> {
        let mut parser = tree_sitter::Parser::new();
        parser.set_language(&self.grammar())?;
        // Without a time limit and a cancellation there is always a tree.
        let Some(tree) = parser.parse(code, None) else {
            return Ok(None);
        };
        let offset = first_error(tree.root_node());
        Ok(offset.map(|offset| place(code, offset)))
    }

    #[cfg(feature = "check")]
    fn grammar(self) -> tree_sitter::Language {
        match self {
            Self::Python => tree_sitter_python::LANGUAGE.into(),
            Self::Rust => tree_sitter_rust::LANGUAGE.into(),
            Self::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
            Self::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
            Self::Tsx => tree_sitter_typescript::LANGUAGE_TSX.into(),
            Self::Go => tree_sitter_go::LANGUAGE.into(),
            Self::Java => tree_sitter_java::LANGUAGE.into(),
            Self::C => tree_sitter_c::LANGUAGE.into(),
            Self::Cpp => tree_sitter_cpp::LANGUAGE.into(),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The byte of the first error below `root`: of the innermost one, since an error that starts a
/// file can contain all of it.
#[cfg(feature = "check")]
fn first_error(root: tree_sitter::Node<'_>) -> Option<usize> {
    let (mut node, mut found) = (root, None);
    loop {
        if node.is_error() || node.is_missing() {
            found = Some(node.start_byte());
        }
        let inside = node
            .children(&mut node.walk())
            .find(tree_sitter::Node::has_error);
        match inside {
            Some(child) => node = child,
            None => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_known_by_name_and_by_ending() {
        for language in Language::ALL {
            assert_eq!(Language::named(language.name()), Some(language));
        }
        assert_eq!(Language::named("C++"), Some(Language::Cpp));
        assert_eq!(Language::named("Py"), Some(Language::Python));
        assert_eq!(Language::named("cobol"), None);
        assert_eq!(Language::of_file(Path::new("a/b.tsx")), Some(Language::Tsx));
        assert_eq!(Language::of_file(Path::new("A.PY")), Some(Language::Python));
        assert_eq!(Language::of_file(Path::new("Makefile")), None);
    }
}

//! In which language a text is, where nobody says so.

use std::borrow::Cow;
use std::path::Path;

use crate::text::syntax::Language;

/// The word that names a text's language behind a fence of Markdown: by the name of its file, or
/// else by how it begins and how its lines do. `None` where neither tells.
pub fn fence_word(file: Option<&Path>, text: &str) -> Option<Cow<'static, str>> {
    let of_name = file.and_then(|file| {
        let known = Language::of_file(file).map(|language| language.name().into());
        // Highlighters, and the texts that models learned from, take endings too: rb, sh, html.
        let ending = || {
            let ending = file.extension()?.to_str()?.to_ascii_lowercase();
            let is_word = (1..=10).contains(&ending.len())
                && ending.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && ending != "txt";
            is_word.then_some(Cow::Owned(ending))
        };
        known.or_else(ending)
    });
    of_name.or_else(|| of_text(text).map(Cow::Borrowed))
}

/// The language that the first line names, or the one whose habits most lines have.
fn of_text(text: &str) -> Option<&'static str> {
    let first = text.lines().next().unwrap_or_default();
    let named = first.strip_prefix("#!").and_then(|program| {
        let name = |word: &'_ str| word.rsplit('/').next().unwrap_or_default().to_string();
        let mut words = program.split_whitespace().map(name);
        // Behind `env`, its own flags and variables come first.
        let program = match words.next()?.as_str() {
            "env" => words.find(|word| !word.starts_with('-') && !word.contains('='))?,
            program => program.to_string(),
        };
        match program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') {
            "python" => Some("python"),
            "sh" | "bash" | "dash" | "zsh" => Some("bash"),
            "node" => Some("javascript"),
            "ruby" => Some("ruby"),
            "perl" => Some("perl"),
            _ => None,
        }
    });
    if named.is_some() {
        return named;
    }
    let start = text.trim_start();
    if start.starts_with(['{', '[']) && serde_json::from_str::<serde_json::Value>(text).is_ok() {
        return Some("json");
    }
    let begins = |with: &[&str]| {
        let head = start.get(..15).unwrap_or(start).to_ascii_lowercase();
        with.iter().any(|with| head.starts_with(with))
    };
    if begins(&["<!doctype html", "<html"]) {
        return Some("html");
    }
    if begins(&["diff -", "--- a/"]) {
        return Some("diff");
    }
    by_lines(text)
}

/// What lines begin with that few other languages have, with `|` between.
const HABITS: [(&str, &str); 8] = [
    (
        "python",
        "def |async def |from |import |elif |@|if __name__|class |self.",
    ),
    (
        "rust",
        "fn |pub |impl |impl<|use |let mut |#[|mod |struct |//!",
    ),
    ("go", "package |func |import (|import \"|type |defer "),
    (
        "java",
        "package |import java|public |private |protected |@Override",
    ),
    (
        "typescript",
        "interface |export interface |export type |import type |type |enum ",
    ),
    (
        "javascript",
        "function |const |let |var |async function |export default |module.",
    ),
    (
        "cpp",
        "#include |namespace |template|using |class |std::|public:",
    ),
    (
        "c",
        "#include |#define |typedef |static |struct |int |void |char ",
    ),
];

/// Python's statements end in a colon or in nothing, most others' in a semicolon or a brace: lines
/// that end otherwise than their language's do not count.
fn by_lines(text: &str) -> Option<&'static str> {
    let mut scores = [0usize; HABITS.len()];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let ends_as_c = line.ends_with([';', '{', '}', ',', '(', ')', '>', ']', '"', ':']);
        for ((language, starts), score) in HABITS.iter().zip(&mut scores) {
            let fits = match *language {
                "python" => !line.ends_with([';', '{', '}']),
                "go" => !line.ends_with([';', ':']),
                "javascript" => !line.ends_with(':'),
                _ => ends_as_c,
            };
            if fits && starts.split('|').any(|start| line.starts_with(start)) {
                *score += 1;
            }
        }
    }
    let best = *scores.iter().max()?;
    let mut winners = HABITS
        .iter()
        .zip(scores)
        .filter(|&(_, score)| score == best); // all of them where no line counts
    let winner = winners.next().map(|((language, _), _)| *language)?;
    winners.next().is_none().then_some(winner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_name_says_it_before_its_contents() {
        let word = |name: &str, text: &str| fence_word(Some(Path::new(name)), text);
        assert_eq!(word("a/b.rs", "def f():\n").as_deref(), Some("rust"));
        assert_eq!(word("a.RB", "").as_deref(), Some("rb"));
        assert_eq!(word("a.properties", "").as_deref(), Some("properties"));
        assert_eq!(word("notes.txt", "hello\n"), None);
        assert_eq!(
            word("run", "#!/usr/bin/env python3\n").as_deref(),
            Some("python")
        );
        assert_eq!(word("run.x-y", "").as_deref(), None, "no word of a fence");
    }

    #[test]
    fn a_program_is_named_before_its_flags() {
        for (first, word) in [
            ("#!/usr/bin/perl -w", Some("perl")),
            ("#!/bin/bash -e", Some("bash")),
            (
                "#! /usr/bin/env -S X=1 node --no-warnings",
                Some("javascript"),
            ),
            ("#!/usr/bin/env", None),
            ("#!/usr/bin/awk -f", None),
            ("#![no_std]\nuse core::fmt;\npub fn f() {}", Some("rust")),
        ] {
            let text = format!("{first}\n");
            assert_eq!(fence_word(None, &text).as_deref(), word, "{first}");
        }
    }

    #[test]
    fn contents_tell_where_they_can() {
        let cases = [
            (
                "python",
                "import os\n\ndef area(r):\n    return 3.14 * r * r\n",
            ),
            (
                "python",
                "class Stack:\n    def __init__(self):\n        self.items = []\n",
            ),
            (
                "rust",
                "use std::io;\n\npub fn main() {\n    let mut x = 1;\n}\n",
            ),
            (
                "go",
                "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.Println(1)\n}\n",
            ),
            (
                "java",
                "package a.b;\nimport java.util.List;\npublic class A {\n}\n",
            ),
            (
                "c",
                "#include <stdio.h>\n\nint main(void) {\n    char c;\n    return 0;\n}\n",
            ),
            (
                "cpp",
                "#include <vector>\nusing namespace std;\nnamespace a {\n}\n",
            ),
            (
                "javascript",
                "const f = require('f');\nfunction g(x) {\n  let y = x;\n}\n",
            ),
            (
                "typescript",
                "export interface A {\n  x: number;\n}\nexport type B = A;\n",
            ),
            ("bash", "#!/bin/bash\nset -e\n"),
            ("json", "{\"a\": [1, 2]}\n"),
            ("html", "<!DOCTYPE html>\n<p>\n"),
            ("diff", "diff --git a/x b/x\n"),
        ];
        for (language, text) in cases {
            assert_eq!(of_text(text), Some(language), "{text}");
        }
        for text in ["", "Dear reader,\nthis is no code.\n", "{ not json", "é"] {
            assert_eq!(of_text(text), None, "{text}");
        }
    }
}

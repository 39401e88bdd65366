//! What `infill` prints: the holes, a diff, or one JSON object.

use std::io::{self, Write};
use std::path::{Component, Path};

use diffucoder::infill::Template;
use diffucoder::session::Outcome;
use diffucoder::text::place::{self, Place};
use serde::Serialize;
use similar::TextDiff;

use crate::cli::json::RunReport;

/// What of the result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    File,
    /// What was filled in.
    Holes,
    Diff,
    /// Nothing: the file itself is written.
    InPlace,
}

/// The outcome of a run, and the file that it makes.
pub struct Filled {
    pub bytes: Vec<u8>,
    pub holes: Vec<HoleReport>,
    pub outcome: Outcome,
}

/// One hole, filled.
#[derive(Debug, Serialize)]
pub struct HoleReport {
    /// Where its text begins in the filled file.
    #[serde(flatten)]
    pub place: Place,
    /// As it is in the file.
    pub text: String,
    /// Tokens of the text.
    pub tokens: usize,
    /// All of the hole; the mask's id where a position was not revealed.
    pub token_ids: Vec<u32>,
    pub finish_reason: &'static str,
}

impl Filled {
    /// The file that the texts of an outcome make.
    pub fn new(template: &Template, outcome: Outcome) -> Self {
        let fillings: Vec<&str> = outcome.holes.iter().map(|hole| &*hole.text).collect();
        let (bytes, places) = template.fill(&fillings);
        let holes = outcome
            .holes
            .iter()
            .zip(places)
            .map(|(hole, at)| HoleReport {
                place: place::place(&bytes, at.start),
                text: String::from_utf8_lossy(&bytes[at]).into_owned(),
                tokens: hole.tokens,
                token_ids: hole.ids.clone(),
                finish_reason: hole.finish.name(),
            });
        Self {
            holes: holes.collect(),
            bytes,
            outcome,
        }
    }
}

/// The object that `--output json` prints.
#[derive(Serialize)]
pub struct InfillReport<'a> {
    /// The whole file. Bytes that are not UTF-8 are U+FFFD.
    pub text: &'a str,
    pub holes: &'a [HoleReport],
    #[serde(flatten)]
    pub run: RunReport,
}

/// The texts of the holes, each ending its line.
pub fn only_holes(holes: &[HoleReport]) -> String {
    let mut all = String::new();
    for hole in holes {
        all.push_str(&hole.text);
        if !hole.text.ends_with('\n') {
            all.push('\n');
        }
    }
    all
}

/// The change from `old` to `new` as `git apply` and `patch -p1` take it; empty if there is none.
pub fn diff(file: &Path, old: &[u8], new: &[u8]) -> io::Result<Vec<u8>> {
    // The library's own notion of a line ends at a carriage return too, in what it writes as well.
    let lines = |bytes| <[u8]>::split_inclusive(bytes, |&byte| byte == b'\n').collect::<Vec<_>>();
    let (old, new) = (lines(old), lines(new));
    let diff = TextDiff::configure()
        .newline_terminated(true)
        .diff_slices(&old, &new);
    let mut written = Vec::new();
    for hunk in diff.unified_diff().iter_hunks() {
        if written.is_empty() {
            let [before, after] = ["a", "b"].map(|side| header_name(side, file));
            write!(written, "--- {before}\n+++ {after}\n")?;
        }
        writeln!(written, "{}", hunk.header())?;
        for change in hunk.iter_changes() {
            let line = change.value();
            write!(written, "{}", change.tag())?;
            written.extend(line);
            if !line.ends_with(b"\n") {
                written.extend(b"\n\\ No newline at end of file\n");
            }
        }
    }
    Ok(written)
}

/// What a header calls a file: its name from the folder on that is above all of it, since neither
/// program takes one that leads out of where it is run.
fn header_name(side: &str, file: &Path) -> String {
    let mut parts = Vec::new();
    for part in file.components() {
        match part {
            Component::Normal(name) => parts.push(name.as_encoded_bytes()),
            Component::ParentDir => _ = parts.pop(),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    parts.insert(0, side.as_bytes());
    let name = parts.join(&b'/');
    let is_plain = |c: char| !c.is_control() && c != '"' && c != '\\';
    match std::str::from_utf8(&name) {
        // As GNU's diff writes it, so that `patch` knows where a name with blanks ends.
        Ok(text) if text.contains(' ') && text.chars().all(is_plain) => format!("{text}\t"),
        Ok(text) if text.chars().all(is_plain) => text.to_string(),
        _ => quoted(&name),
    }
}

/// As git quotes the names that do not fit a line of text.
fn quoted(name: &[u8]) -> String {
    let spelt = name.iter().map(|&byte| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    });
    format!("\"{}\"", spelt.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_says_what_changed() {
        let diff = |name: &str, old: &[u8], new: &[u8]| diff(Path::new(name), old, new);
        let said = diff("/a.py", b"x\r= 1\ny = <FILL>\n\xff", b"x\r= 1\ny = 2\n\xff").unwrap();
        let expected = b"--- a/a.py\n+++ b/a.py\n@@ -1,3 +1,3 @@\n x\r= 1\n-y = <FILL>\n+y = 2\n \xff\n\\ No newline at end of file\n";
        assert_eq!(
            String::from_utf8_lossy(&said),
            String::from_utf8_lossy(expected)
        );
        assert_eq!(said, expected);
        assert!(diff("/a.py", b"x\n", b"x\n").unwrap().is_empty());
        let said = diff("a.py", b"x = \ry\r", b"x = 1\ry\r").unwrap();
        let none = "\\ No newline at end of file";
        let expected = format!("@@ -1 +1 @@\n-x = \ry\r\n{none}\n+x = 1\ry\r\n{none}\n");
        assert!(
            said.ends_with(expected.as_bytes()),
            "{}",
            String::from_utf8_lossy(&said)
        );
        for (name, header) in [
            ("./sub/./a.py", "--- a/sub/a.py\n+++ b/sub/a.py\n"),
            ("a b.py", "--- a/a b.py\t\n+++ b/a b.py\t\n"),
            ("../x/y/../a.py", "--- a/x/a.py\n+++ b/x/a.py\n"),
            ("\u{e4}.py", "--- a/\u{e4}.py\n+++ b/\u{e4}.py\n"),
            (
                "a\n\"\u{e4}",
                "--- \"a/a\\012\\\"\\303\\244\"\n+++ \"b/a\\012\\\"\\303\\244\"\n",
            ),
        ] {
            let said = diff(name, b"x\n", b"y\n").unwrap();
            assert!(said.starts_with(header.as_bytes()), "{name}");
        }
    }
}

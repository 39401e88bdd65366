//! Code and nothing else from a chat model: its answer begins inside a Markdown fence, and ends
//! where that fence does.
//!
//! The words are those of the paper's evaluation (arXiv 2506.20639, HumanEval), where the answer is
//! prefilled with "Here is the code to solve this problem:" and a fence.

use crate::cli::args::prompt::Given;
use diffucoder::package::{Package, Prompt};

/// What the model gets, and how its answer becomes the result.
pub struct Request {
    text: String,
    /// The beginning of the model's answer.
    answer: String,
    chat: bool,
    fence: Option<Fence>,
    /// What stands before the result in the file that it is a part of.
    pub before: String,
}

/// A row of backticks that the text inside does not contain.
struct Fence {
    ticks: String,
    /// Whether the result begins a line.
    at_line_start: bool,
}

impl Request {
    /// A request as the model takes it: raw, or in its chat template.
    pub fn new(package: &Package, given: Given, raw: bool, code: bool, language: &str) -> Self {
        let Given { text, complete, .. } = given;
        if raw || !package.is_chat() {
            return Self {
                before: text.clone(),
                text,
                answer: String::new(),
                chat: false,
                fence: None,
            };
        }
        if !complete && !code {
            return Self {
                text,
                answer: String::new(),
                chat: true,
                fence: None,
                before: String::new(),
            };
        }
        let before = if complete {
            text.clone()
        } else {
            String::new()
        };
        let fence = Fence::around(&before);
        let ticks = &fence.ticks;
        let answer =
            format!("Here is the code to solve this problem:\n{ticks}{language}\n{before}");
        let text = match complete {
            true => {
                let end = if text.ends_with('\n') { "" } else { "\n" };
                format!(
                    "Complete the following {language} code.\n{ticks}{language}\n{text}{end}{ticks}"
                )
            }
            false => text,
        };
        Self {
            text,
            answer,
            chat: true,
            fence: Some(fence),
            before,
        }
    }

    /// Whether a chat model, which could answer it as well, is to continue the text.
    pub fn is_continued_in_chat(&self) -> bool {
        self.chat && !self.before.is_empty()
    }

    /// The prompt, with this system message where the model takes one.
    pub fn prompt<'a>(&'a self, system: &'a str) -> Prompt<'a> {
        match self.chat {
            false => Prompt::Raw(&self.text),
            true => Prompt::Chat {
                system,
                user: &self.text,
                answer: &self.answer,
            },
        }
    }

    /// The result, out of what the model wrote.
    pub fn result<'a>(&self, written: &'a str) -> &'a str {
        self.fence
            .as_ref()
            .map_or(written, |fence| fence.cut(written))
    }
}

impl Fence {
    /// Three backticks, or more if the text has three in a row itself.
    fn around(text: &str) -> Self {
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        Self {
            ticks: "`".repeat(3.max(longest + 1)),
            at_line_start: text.is_empty() || text.ends_with('\n'),
        }
    }

    /// What stands before the line that closes the fence.
    fn cut<'a>(&self, written: &'a str) -> &'a str {
        let mut at = 0;
        for (i, line) in written.split_inclusive('\n').enumerate() {
            let begins = i > 0 || self.at_line_start;
            if begins && line.trim_start().starts_with(&self.ticks) {
                return &written[..at];
            }
            at += line.len();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_fence() {
        let fence = Fence::around("");
        assert_eq!(fence.cut("x = 1\n```\nThis sets x."), "x = 1\n");
        assert_eq!(fence.cut("x = 1\n  ```"), "x = 1\n");
        assert_eq!(fence.cut("```"), "");
        assert_eq!(
            fence.cut("x = '```'\n"),
            "x = '```'\n",
            "not the line's start"
        );
        assert_eq!(fence.cut("x = 1"), "x = 1", "it was cut short");
        assert_eq!(Fence::around("def f(").cut("```\n```"), "```\n");
        assert_eq!(Fence::around("def f():\n").cut("```\n```"), "");
    }

    #[test]
    fn a_text_with_fences_gets_a_longer_one() {
        let fence = Fence::around("\"\"\"\n````python\n````\n\"\"\"\n");
        assert_eq!(fence.ticks, "`````");
        assert_eq!(fence.cut("```\nx\n`````\n"), "```\nx\n");
    }
}

//! A text as the model takes it: continued raw, asked in the chat template, or, of a chat model
//! too, continued as code and nothing else.
//!
//! For the last, the model's answer begins inside a Markdown fence, and ends where that fence does.
//! The words are those of the paper's evaluation (arXiv 2506.20639, HumanEval), where the answer is
//! prefilled with "Here is the code to solve this problem:" and a fence.

use std::borrow::Cow;

use super::ends::Fence;
use crate::package::{Package, Prompt};
use crate::text::lines;

/// What the model gets, and how its answer becomes the result.
#[derive(Debug)]
pub struct Asking {
    text: String, // its lines end in LF
    /// The beginning of the model's answer.
    answer: String,
    is_chat: bool,
    /// The system message where nobody gives another.
    system: Option<&'static str>,
    /// Whether special tokens count by their names.
    has_tokens: bool,
    fence: Option<Fence>,
    /// What stands before the result in the file that it is a part of.
    pub before: String,
    /// Whether the lines of that file end in CRLF.
    is_crlf: bool,
}

/// What is wanted of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it goes on, without the chat template.
    Raw,
    /// That a chat model answers it.
    Answer,
    /// That a chat model answers it with code alone.
    Code,
    /// That a chat model too continues it.
    Continuation,
}

impl Asking {
    /// `text`, with what is wanted of it; `language` stands behind the fence. A model that is no
    /// chat model continues whatever it gets.
    pub fn new(package: &Package, before: String, wish: Wish, language: &str) -> Self {
        let is_chat = package.is_chat() && wish != Wish::Raw;
        let is_continued = !is_chat || wish == Wish::Continuation;
        let is_crlf = is_continued && lines::is_crlf(before.as_bytes());
        let text = lines::to_lf(&before).into_owned();
        let plain = Self {
            text: String::new(),
            answer: String::new(),
            is_chat,
            system: package.config.family.system,
            has_tokens: false,
            fence: None,
            before: if is_continued { before } else { String::new() },
            is_crlf,
        };
        match wish {
            Wish::Code if is_chat => plain.fenced(language, text, ""),
            Wish::Continuation if is_chat => {
                let shown = Fence::show(language, &text);
                let question = format!("Complete the following {language} code.\n{shown}");
                plain.fenced(language, question, &text)
            }
            _ => Self { text, ..plain },
        }
    }

    /// With special tokens in the text, by their names. In a chat template they stay text.
    #[must_use]
    pub fn with_special_tokens(self) -> Self {
        Self {
            has_tokens: true,
            ..self
        }
    }

    /// With an answer that begins inside a fence, with `before`.
    fn fenced(self, language: &str, text: String, before: &str) -> Self {
        let fence = Fence::around(before);
        let ticks = &fence.ticks;
        Self {
            answer: format!("Here is the code to solve this problem:\n{ticks}{language}\n{before}"),
            text,
            fence: Some(fence),
            ..self
        }
    }

    /// Takes this for the text that the result continues, of which the model may be shown a part.
    pub fn stands_behind(&mut self, whole: &str) {
        self.before = whole.to_string();
        self.is_crlf = lines::is_crlf(whole.as_bytes());
    }

    /// The fence that the model writes in, which ends its text.
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// Whether the model gets it in its chat template.
    pub fn is_chat(&self) -> bool {
        self.is_chat
    }

    /// Whether a chat model, which could answer it as well, is to continue the text.
    pub fn is_continued_in_chat(&self) -> bool {
        self.is_chat && !self.before.is_empty()
    }

    /// The prompt, with this system message, or that of the model's authors, where it takes one.
    pub fn prompt<'a>(&'a self, system: Option<&'a str>) -> Prompt<'a> {
        match self.is_chat {
            false if self.has_tokens => Prompt::Raw(&self.text),
            false => Prompt::Text(&self.text),
            true => Prompt::Chat {
                system: system.or(self.system),
                user: &self.text,
                answer: &self.answer,
            },
        }
    }

    /// The result, out of what the model wrote, with the line ends of what it continues.
    pub fn result<'a>(&self, written: &'a str) -> Cow<'a, str> {
        let fence = self.fence.as_ref();
        let text = fence.map_or(written, |fence| fence.cut(written));
        match self.is_crlf {
            true => lines::to_crlf(text),
            false => text.into(),
        }
    }
}

/// A text that a question is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name, where that tells it from others.
    pub name: Option<&'a str>,
    /// The word behind its fence; may be empty.
    pub language: &'a str,
    /// The text.
    pub text: &'a str,
}

/// A question about texts as chat models are used to it: each text in a fence, then the question.
pub fn question_about(subjects: &[Subject<'_>], question: &str) -> String {
    let mut message = String::new();
    for subject in subjects {
        if let Some(name) = subject.name {
            message += &format!("{name}:\n");
        }
        message += &Fence::show(subject.language, subject.text);
        message += "\n\n";
    }
    message + question
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_comes_behind_the_texts_that_it_is_about() {
        let code = Subject {
            name: None,
            language: "python",
            text: "x = 1",
        };
        assert_eq!(
            question_about(&[code], "Why?"),
            "```python\nx = 1\n```\n\nWhy?"
        );
        let notes = Subject {
            name: Some("notes.md"),
            language: "",
            text: "```\n```\n",
        };
        assert_eq!(
            question_about(&[notes, code], "Why?"),
            "notes.md:\n````\n```\n```\n````\n\n```python\nx = 1\n```\n\nWhy?"
        );
    }
}

//! The fence of Markdown that a chat model writes code in.

use super::Known;

/// A row of backticks that the text inside does not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub(in crate::session) ticks: String,
    /// Whether the result begins a line.
    at_line_start: bool,
}

impl Fence {
    /// Three backticks, or more if the text has three in a row itself.
    pub(in crate::session) fn around(text: &str) -> Self {
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        Self {
            ticks: "`".repeat(3.max(longest + 1)),
            at_line_start: text.is_empty() || text.ends_with('\n'),
        }
    }

    /// A text inside a fence.
    pub(in crate::session) fn show(language: &str, text: &str) -> String {
        let ticks = Self::around(text).ticks;
        let end = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        format!("{ticks}{language}\n{text}{end}{ticks}")
    }

    /// What stands before the line that closes the fence.
    pub(in crate::session) fn cut<'a>(&self, written: &'a str) -> &'a str {
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

    /// What is known of the end of a text that begins with this one.
    pub(super) fn look(&self, written: &str) -> Known {
        match self.cut(written).len() {
            end if end < written.len() => Known::End(end),
            _ => Known::Sure(self.settled(written)),
        }
    }

    /// Bytes of the beginning that stands, whatever comes: what could yet become the end of the
    /// fence is held back.
    fn settled(&self, written: &str) -> usize {
        let cut = self.cut(written);
        let last = cut.rfind('\n').map_or(0, |end| end + 1);
        let begins = last > 0 || self.at_line_start;
        let is_open = cut.len() == written.len();
        match is_open && begins && self.ticks.starts_with(cut[last..].trim_start()) {
            true => last,
            false => cut.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_fence() {
        let fence = Fence::around("");
        assert_eq!(fence.cut("x = 1\n```\nThis sets x."), "x = 1\n");
        assert_eq!(fence.look("x = 1\n```\nThis"), Known::End(6));
        assert_eq!(fence.look("x = 1\n``"), Known::Sure(6));
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

    proptest::proptest! {
        /// Cut anywhere, what was printed is the beginning of the result.
        #[test]
        fn what_is_settled_stays(
            text in "([x \n]|```){0,10}",
            at in 0..40usize,
            before in "\n?",
        ) {
            let fence = Fence::around(&before);
            let so_far = &text[..at.min(text.len())];
            let settled = fence.settled(so_far);
            proptest::prop_assert!(fence.cut(&text).starts_with(&so_far[..settled]));
            let held = &so_far[settled..fence.cut(so_far).len()];
            proptest::prop_assert!(held.trim_matches(|c| c == ' ' || c == '`').is_empty());
        }
    }

    #[test]
    fn a_text_with_fences_gets_a_longer_one() {
        let fence = Fence::around("\"\"\"\n````python\n````\n\"\"\"\n");
        assert_eq!(fence.ticks, "`````");
        assert_eq!(fence.cut("```\nx\n`````\n"), "```\nx\n");
    }
}

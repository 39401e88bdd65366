//! Where a text ends beside the places at which the model ends it: before a given text, behind one
//! function, with its block or its fence.
//!
//! All are looked for in the text and not in its tokens, which need not begin or end with them.

mod fence;
mod function;

pub use fence::Fence;
pub use function::Function;

/// What ends a text; by default nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// Texts before the first of which it ends. Lines in them end in LF.
    pub texts: Vec<String>,
    /// Whether it ends behind the function that it is in.
    pub function: Option<Function>,
    /// It ends before a line, behind its first, that is indented by fewer blanks than these and is
    /// not blank; 0 ends nothing.
    pub least_indent: usize,
    /// The fence of Markdown that it stands in, which ends it.
    pub fence: Option<Fence>,
}

/// What is known of a text that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Where it ends, in bytes.
    End(usize),
    /// Bytes that stand before its end, wherever that will be.
    Sure(usize),
}

impl Ends {
    /// Where `text` ends, in bytes, if it does and nothing more comes.
    pub fn cut(&self, text: &str) -> Option<usize> {
        let ends = self.each(text).filter_map(|known| match known {
            Known::End(end) => Some(end),
            Known::Sure(_) => None,
        });
        ends.min()
    }

    /// What is known of a text that begins with this one.
    pub(super) fn look(&self, text: &str) -> Known {
        self.each(text).fold(Known::Sure(text.len()), Known::first)
    }

    /// What each of them knows.
    fn each(&self, text: &str) -> impl Iterator<Item = Known> {
        let given = self.texts.iter().filter(|given| !given.is_empty());
        let by_text = given.map(move |given| match text.find(&**given) {
            Some(at) => Known::End(at),
            // Its beginning may stand at the end already.
            None => Known::Sure(
                text.char_indices()
                    .map(|(at, _)| at)
                    .find(|&at| given.starts_with(&text[at..]))
                    .unwrap_or(text.len()),
            ),
        });
        let by_function = self
            .function
            .iter()
            .map(move |function| function.look(text));
        let by_indent = (self.least_indent > 0).then(|| look_at_indent(self.least_indent, text));
        let by_fence = self.fence.iter().map(move |fence| fence.look(text));
        by_text.chain(by_function).chain(by_indent).chain(by_fence)
    }
}

/// Where a text ends whose lines behind the first are indented by `least` blanks.
fn look_at_indent(least: usize, text: &str) -> Known {
    let (mut at, mut end) = (0, 0); // `end` of the last line that is not blank
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let code = line.trim_start_matches([' ', '\t']);
        let is_blank = code.trim().is_empty();
        if number > 0 && !is_blank && line.len() - code.len() < least {
            return Known::End(end);
        }
        if number == 0 || !is_blank {
            end = at + line.trim_end_matches(['\r', '\n']).len();
        }
        at += line.len();
    }
    Known::Sure(end)
}

impl Known {
    /// The end that comes first, or else what both are sure of. One behind what the other still
    /// doubts is none until that doubt is gone: where a text ends must not depend on how much of it
    /// comes at once.
    fn first(self, other: Self) -> Self {
        match (self, other) {
            (Self::End(a), Self::End(b)) => Self::End(a.min(b)),
            (Self::Sure(a), Self::Sure(b)) => Self::Sure(a.min(b)),
            (Self::End(end), Self::Sure(sure)) | (Self::Sure(sure), Self::End(end)) => {
                if end <= sure {
                    Self::End(end)
                } else {
                    Self::Sure(sure)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Ends {
        Ends {
            texts: texts.iter().map(ToString::to_string).collect(),
            ..Ends::default()
        }
    }

    #[test]
    fn a_text_ends_before_a_line_that_is_indented_less() {
        let ends = Ends {
            least_indent: 4,
            ..Ends::default()
        };
        assert_eq!(ends.cut("x = 1\n\n    return x\n\ndef g"), Some(19));
        assert_eq!(ends.cut("x = 1\n  y"), Some(5));
        assert_eq!(ends.cut("x = 1\n\ty\n"), Some(5));
        assert_eq!(ends.cut("x = 1\n    y\n\n"), None);
        assert_eq!(ends.look("x = 1\n   "), Known::Sure(5), "a letter may come");
        assert_eq!(ends.look(""), Known::Sure(0));
        let least = Ends {
            least_indent: 1,
            ..Ends::default()
        };
        assert_eq!(least.cut("x\ny"), Some(1));
        assert_eq!(
            Ends::default().look("x\n"),
            Known::Sure(2),
            "0 ends nothing"
        );
    }

    #[test]
    fn a_text_ends_before_the_first_of_the_given() {
        let ends = texts(&["\n\n", "é!"]);
        assert_eq!(ends.look("a\nb"), Known::Sure(3));
        assert_eq!(ends.look("a\n"), Known::Sure(1), "the other half may come");
        assert_eq!(ends.look("aé"), Known::Sure(1));
        assert_eq!(texts(&["\n\n\n"]).look("a\n\n"), Known::Sure(1));
        assert_eq!(ends.cut("ab\n\nc é!"), Some(2));
        assert_eq!(ends.cut("a\n\nb\n\n"), Some(1));
        assert_eq!(ends.cut("é!\n\n"), Some(0));
        assert_eq!(texts(&[""]).cut("a"), None);
        assert_eq!(Ends::default().cut("a"), None);
    }

    #[test]
    fn an_end_behind_what_may_be_one_waits() {
        for ends in [texts(&["b", "abc"]), texts(&["abc", "b"])] {
            assert_eq!(ends.look("ab"), Known::Sure(0), "c may come");
            assert_eq!(ends.cut("ab"), Some(1), "nothing came");
            assert_eq!(ends.look("abd"), Known::End(1));
            assert_eq!(ends.look("abc"), Known::End(0));
        }
    }

    proptest::proptest! {
        /// However much of a text comes at once, it ends where the whole of it does.
        #[test]
        fn where_a_text_ends_does_not_depend_on_how_it_comes(
            given in proptest::collection::vec("[ab\n ]{1,3}", 0..3),
            least_indent in 0..3usize,
            text in "[ab\n ]{0,12}",
        ) {
            let ends = Ends { texts: given, least_indent, ..Ends::default() };
            let end = ends.cut(&text);
            for at in 0..text.len() {
                match ends.look(&text[..at]) {
                    Known::End(found) => proptest::prop_assert_eq!(Some(found), end),
                    Known::Sure(sure) => proptest::prop_assert!(sure <= end.unwrap_or(text.len())),
                }
            }
        }
    }
}

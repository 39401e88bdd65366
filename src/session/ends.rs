//! Where a text ends beside the places at which the model ends it: before a given text, or behind
//! one function.
//!
//! Both are looked for in the text and not in its tokens, which need not begin or end with them.

use super::asking::Fence;

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

/// The function that a text is in or, where it is in none, the first that it has.
///
/// It ends before the first line that stands no further right than the line that began it and
/// begins something new: none that closes a block, none inside a literal or, in Python, brackets.
/// This holds for code that is indented, in a language that has a word for a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The line that the text goes on with.
    before: String,
    /// Where that line begins.
    place: Place,
    /// Comments begin with it.
    comment: &'static str,
    /// Literals between two of these can go over several lines.
    long_quotes: &'static [&'static str],
    /// Whether a line goes on until its brackets are closed. Elsewhere they are not counted: `'a`
    /// of Rust looks like a literal that has no end.
    counts_brackets: bool,
    /// Words that begin a function.
    words: &'static [&'static str],
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
    /// Whether nothing ends a text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
            && self.function.is_none()
            && self.least_indent == 0
            && self.fence.is_none()
    }

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

/// Words that can stand before the one that begins a function.
const MODIFIERS: [&str; 17] = [
    "pub",
    "crate",
    "super",
    "async",
    "unsafe",
    "const",
    "export",
    "default",
    "static",
    "private",
    "public",
    "protected",
    "internal",
    "override",
    "suspend",
    "inline",
    "local",
];

impl Function {
    /// For a text in this language that begins behind `before`, in which lines end in LF. `None`
    /// for a language in which no word such as `def`, `fn` or `function` begins a function.
    pub fn of_language(language: &str, before: &str) -> Option<Self> {
        type Texts = &'static [&'static str];
        let (comment, long_quotes, words): (_, Texts, Texts) =
            match &*language.to_ascii_lowercase() {
                "python" | "py" | "pyi" | "python3" => ("#", &["\"\"\"", "'''"], &["def"]),
                "ruby" | "rb" => ("#", &[], &["def"]),
                "lua" => ("--", &[], &["function"]),
                "rust" | "rs" => ("//", &["`"], &["fn"]),
                "go" | "golang" | "swift" => ("//", &["`"], &["func"]),
                "kotlin" | "kt" => ("//", &["`"], &["fun"]),
                "php" | "javascript" | "js" | "mjs" | "cjs" | "jsx" | "typescript" | "ts"
                | "tsx" => ("//", &["`"], &["function"]),
                _ => return None,
            };
        let mut function = Self {
            before: String::new(),
            place: Place::default(),
            comment,
            counts_brackets: long_quotes.len() == 2,
            long_quotes,
            words,
        };
        let (lines, rest) = before.split_at(before.rfind('\n').map_or(0, |at| at + 1));
        let mut place = Place::default();
        for line in lines.split_inclusive('\n') {
            function.read(line, false, &mut place);
        }
        (function.before, function.place) = (rest.to_string(), place);
        Some(function)
    }

    fn look(&self, text: &str) -> Known {
        let whole = format!("{}{text}", self.before);
        let start = self.before.len();
        let mut place = self.place.clone();
        let (mut at, mut end) = (0, start); // `end` of the last line that is not blank
        for line in whole.split_inclusive('\n') {
            let is_written = at >= start;
            at += line.len();
            match self.read(line, is_written, &mut place) {
                Line::Blank => {}
                Line::Inside => end = at.max(start),
                Line::MayEnd => break,
                Line::Ends => return Known::End(end - start),
            }
        }
        Known::Sure(end - start)
    }

    fn read(&self, line: &str, is_written: bool, place: &mut Place) -> Line {
        let (code, around) = (line.trim_start(), &mut place.around);
        if code.is_empty() {
            return Line::Blank;
        }
        if place.inside == Inside::default() {
            let indentation = line.len() - code.len();
            let is_left = around.last().is_some_and(|&other| indentation <= other);
            if is_left && is_written && "end".starts_with(code) {
                return Line::MayEnd; // it may become that, or another word
            }
            if is_left && !closes_block(code) {
                if is_written {
                    return Line::Ends;
                }
                around.retain(|&other| other < indentation);
            }
            if self.begins_function(code) && (!is_written || around.is_empty()) {
                around.push(indentation);
            }
        }
        self.pass(line, &mut place.inside);
        Line::Inside
    }

    fn begins_function(&self, code: &str) -> bool {
        let mut rest = code;
        loop {
            let (word, behind) = rest.split_at(rest.find(is_no_letter).unwrap_or(rest.len()));
            if self.words.contains(&word) {
                // Without a blank only a function that has no name.
                return behind.starts_with([' ', '\t'])
                    || word == "function" && behind.starts_with(['(', '*']);
            }
            if !MODIFIERS.contains(&word) {
                return false;
            }
            rest = behind.trim_start_matches(is_no_letter);
        }
    }

    /// What the next line is inside of.
    fn pass(&self, line: &str, inside: &mut Inside) {
        let (mut rest, mut short_quote) = (line, None);
        inside.is_continued = false;
        while let Some(c) = rest.chars().next() {
            let mut step = c.len_utf8();
            let escaped = || 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
            match (inside.quote, short_quote) {
                (Some(_), _) | (_, Some(_)) if c == '\\' => step = escaped(),
                (Some(quote), _) if rest.starts_with(quote) => {
                    (inside.quote, step) = (None, quote.len());
                }
                (_, Some(quote)) if c == quote => short_quote = None,
                (Some(_), _) | (_, Some(_)) => {}
                (None, None) if rest.starts_with(self.comment) => break,
                (None, None) => {
                    let mut long = self.long_quotes.iter().copied();
                    match (long.find(|&quote| rest.starts_with(quote)), c) {
                        (Some(quote), _) => (inside.quote, step) = (Some(quote), quote.len()),
                        (None, '"' | '\'') => short_quote = Some(c),
                        (None, '\\') => inside.is_continued = rest[1..].trim().is_empty(),
                        (None, '(' | '[' | '{') if self.counts_brackets => inside.brackets += 1,
                        (None, ')' | ']' | '}') => {
                            inside.brackets = inside.brackets.saturating_sub(1);
                        }
                        _ => {}
                    }
                }
            }
            rest = &rest[step..];
        }
    }
}

/// Where a line begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    inside: Inside,
    /// Indentations of the functions that it is in.
    around: Vec<usize>,
}

/// What a line begins inside of; by default between two statements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Inside {
    quote: Option<&'static str>,
    brackets: usize,
    is_continued: bool,
}

/// What a line is to a function.
enum Line {
    Blank,
    Inside,
    /// Once more of it is there.
    MayEnd,
    Ends,
}

fn closes_block(code: &str) -> bool {
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with(is_no_letter);
    // An opening brace on a line of its own belongs to what stands above it.
    code.starts_with([')', ']', '}', '{']) || code.strip_prefix("end").is_some_and(is_end)
}

fn is_no_letter(c: char) -> bool {
    !c.is_alphanumeric() && c != '_'
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
        assert!(Ends::default().is_empty() && Ends::default().cut("a").is_none());
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

    #[test]
    fn whatever_can_end_a_text_counts() {
        let by_function = Ends {
            function: Function::of_language("rust", ""),
            ..Ends::default()
        };
        let by_indent = Ends {
            least_indent: 1,
            ..Ends::default()
        };
        for ends in [texts(&["a"]), by_function, by_indent] {
            assert!(!ends.is_empty(), "{ends:?}");
        }
    }

    #[track_caller]
    fn function(language: &str, before: &str, text: &str, left: &str) {
        let ends = Ends {
            function: Function::of_language(language, before),
            ..Ends::default()
        };
        let cut = ends.cut(text);
        assert_eq!(&text[..cut.unwrap_or(text.len())], left, "{before}|{text}");
        // As it grows nothing is passed on that does not belong to it.
        for (at, _) in text.char_indices() {
            match ends.look(&text[..at]) {
                Known::Sure(sure) => assert!(sure <= left.len(), "{:?}", &text[..at]),
                Known::End(end) => assert_eq!(end, left.len(), "{:?}", &text[..at]),
            }
        }
    }

    #[test]
    fn a_function_of_python_ends_at_what_stands_left_of_its_body() {
        let body = "\n    return 1\n";
        for next in [
            "def g():\n",
            "class A:\n",
            "@cached\n",
            "# g\n",
            "print(f())\n",
            "x = 1",
        ] {
            function("python", "def f():", &format!("{body}\n\n{next}"), body);
        }
        function("python", "def f():", body, body);
        let docs = "    \"\"\"Says\n\nx\n    \"\"\"\n    x = '('\n    return (\nx)\n";
        function("python", "def f():\n", &format!("{docs}y = 1\n"), docs);
        for line in [
            "x = g('a(')",
            "pass # :-(",
            "return ((1),\nx)",
            "\"\"\" \\\"\"\"\nx\"\"\"",
            "\"\"\"\\n\"\"\"",
        ] {
            let body = format!("    {line}\n");
            function("python", "def f():\n", &format!("{body}y = 1\n"), &body);
        }
        let signature = "def f(\n    a,\n) -> int:\n    return \\\na\n";
        function(
            "python",
            "import a\n",
            &format!("{signature}def g"),
            signature,
        );
        let signature = "\n    a,\n) -> int:\n    def inner():\n        pass\n    return a\n";
        function("python", "def f(", &format!("{signature}if f:"), signature);
    }

    #[test]
    fn whole_lines_of_a_function_are_passed_on_at_once() {
        let ends = Ends {
            function: Function::of_language("python", "def f():"),
            ..Ends::default()
        };
        assert_eq!(ends.look("\n    x = 1\n"), Known::Sure(11));
        assert_eq!(ends.look("\n    x = 1\n\n"), Known::Sure(11));
    }

    #[test]
    fn a_method_ends_at_the_next_one_and_an_inner_function_at_its_outer() {
        let body = "        return 1\n";
        let method = "class A:\n    def f(self):\n";
        function(
            "python",
            method,
            &format!("{body}\n    def g(self):\n"),
            body,
        );
        function(
            "python",
            "def f():\n    def g():\n",
            &format!("{body}    return g\n"),
            body,
        );
        let outer = "def f():\n    def g():\n        pass\n    return g\n";
        function("python", outer, "    x = 1\nf()\n", "    x = 1\n");
        // What stood before is over: the next one counts.
        let next = "def g():\n    pass\n";
        function(
            "python",
            "def f():\n    pass\nx = 1\n",
            &format!("{next}def h"),
            next,
        );
    }

    #[test]
    fn other_languages_close_their_blocks() {
        let body = " {\n    match c {\n        '{' => 1,\n    }\n}\n";
        let before = "pub(crate) async fn f<'a>(c: &'a str) -> u8";
        function(
            "rust",
            before,
            &format!("{body}\n#[test]\nfn g() {{}}\n"),
            body,
        );
        // What looks like a literal without an end has brackets of a line, which are not counted.
        let body = "\n{\n    let g: fn(&'static str) = h;\n}\n";
        function("rust", "fn f()", &format!("{body}fn g() {{}}\n"), body);
        let body = "\n{\n\treturn `\na`\n}\n";
        function(
            "go",
            "func f() string",
            &format!("{body}\nfunc g() {{\n"),
            body,
        );
        let body = "  1\nend\n";
        function("ruby", "def f\n", &format!("{body}\nx = 1\n"), body);
        function("ruby", "def f\n", "  1\nender = 1\n", "  1\n");
        let body = "  return 1\nend\n";
        function(
            "lua",
            "local function f()\n",
            &format!("{body}print(f())\n"),
            body,
        );
        assert_eq!(Function::of_language("java", ""), None);
    }

    #[test]
    fn only_the_word_of_the_language_begins_a_function() {
        let body = "    return 1\n";
        for line in [
            "func(*args)",
            "func = 3",
            "# def of it",
            "\"\"\"function to add two numbers\"\"\"",
            "define(a)",
            "[def_ for def_ in a]",
        ] {
            let before = format!("def f(a):\n    {line}\n");
            function("python", &before, &format!("{body}x = 1\n"), body);
        }
        let before = "function f(a, b) {\n  // function to add\n";
        function(
            "javascript",
            before,
            "  return a\n}\nf()\n",
            "  return a\n}\n",
        );
        for (language, line) in [
            ("go", "func (a *A) f() {"),
            ("javascript", "export default function(a) {"),
            ("javascript", "function* f() {"),
            ("rust", "pub(crate) fn f() {"),
            ("php", "public static function f() {"),
        ] {
            let text = "\n  x\n}\n";
            function(language, line, &format!("{text}y\n"), text);
        }
    }
}

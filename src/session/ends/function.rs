//! Where a function ends, by the indentation of its lines.

use super::Known;

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

    pub(super) fn look(&self, text: &str) -> Known {
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
    use super::super::Ends;
    use super::*;

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

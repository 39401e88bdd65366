//! What Jinja2 reads and MiniJinja does not, rewritten before parsing: `{% generation %}`, and `%`
//! behind a string.
//!
//! `{% generation %}` marks what the assistant wrote, for training; transformers renders its body
//! in a scope of its own, which is what an empty `{% with %}` does. `text % values` is Python's
//! printf, and MiniJinja's operators cannot be overloaded; the filter that it becomes binds as `%`
//! does, from the operand on its left to the end of the one on its right, with the filters of both.
//! Lines stay where they are, so that messages name the right ones.

use std::ops::Range;

/// The filter that `%` becomes.
pub(super) const REMAINDER: &str = "__remainder__";

/// The template in MiniJinja's dialect.
pub(super) fn adapt(source: &str) -> String {
    let mut adapted = String::with_capacity(source.len());
    let mut rest = source;
    let is_tag = |text: &str| ["{{", "{%", "{#"].iter().any(|open| text.starts_with(open));
    while let Some((open, _)) = rest.match_indices('{').find(|(at, _)| is_tag(&rest[*at..])) {
        let (text, tag) = rest.split_at(open);
        adapted.push_str(text);
        let end = match &tag[..2] {
            "{#" => {
                let end = tag.find("#}").map_or(tag.len(), |at| at + 2);
                adapted.push_str(&tag[..end]);
                end
            }
            "{{" => Code::read(tag, "}}").write(&mut adapted),
            _ => {
                let code = Code::read(tag, "%}");
                match code.token(0) {
                    "raw" => {
                        let end = end_of_raw(tag, code.end);
                        adapted.push_str(&tag[..end]);
                        end
                    }
                    "generation" | "endgeneration" => {
                        let with = tag[..code.end].replacen("generation", "with", 1);
                        adapted.push_str(&with);
                        code.end
                    }
                    _ => code.write(&mut adapted),
                }
            }
        };
        rest = &tag[end..];
    }
    adapted.push_str(rest);
    adapted
}

/// Where what follows `{% endraw` begins; before `at` is the tag that opens it.
fn end_of_raw(tag: &str, at: usize) -> usize {
    let mut tags = tag[at..].match_indices("{%");
    let end = tags.find(|(open, _)| {
        let inside = tag[at + open + 2..].trim_start_matches(['-', '+']);
        inside.trim_start().starts_with("endraw")
    });
    end.map_or(tag.len(), |(open, _)| at + open + 2)
}

/// A word, number, string or sign of an expression.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    place: Range<usize>,
    /// For a bracket, the token that it closes or is closed by.
    partner: Option<usize>,
}

/// `{{ … }}` or `{% … %}`, in tokens.
struct Code<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    /// Behind the closing mark.
    end: usize,
}

impl<'a> Code<'a> {
    /// Reads up to the `close` that is not inside brackets or a string.
    fn read(text: &'a str, close: &str) -> Self {
        let (mut tokens, mut open) = (Vec::<Token>::new(), Vec::new());
        // The sign that trims blanks is none of arithmetic.
        let mut at = if text[2..].starts_with(['-', '+']) {
            3
        } else {
            2
        };
        while at < text.len() && !(open.is_empty() && text[at..].starts_with(close)) {
            let length = token_length(&text[at..]);
            let token = &text[at..at + length];
            let mut partner = None;
            match token {
                "(" | "[" | "{" => open.push(tokens.len()),
                ")" | "]" | "}" => partner = open.pop(),
                _ => {}
            }
            if let Some(first) = partner {
                tokens[first].partner = Some(tokens.len());
            }
            if !token.trim().is_empty() {
                tokens.push(Token {
                    place: at..at + length,
                    partner,
                });
            }
            at += length;
        }
        let end = (at + close.len()).min(text.len());
        Self { text, tokens, end }
    }

    fn token(&self, index: usize) -> &'a str {
        let token = self.tokens.get(index);
        token.map_or("", |token| &self.text[token.place.clone()])
    }

    /// Writes it, with each `%` that may stand behind a string as a filter, and says where it ends.
    fn write(&self, out: &mut String) -> usize {
        // What to put at which place, instead of how many bytes.
        let mut edits: Vec<(usize, usize, String)> = Vec::new();
        for (index, token) in self.tokens.iter().enumerate() {
            if let Some(end) = self.formatted(index) {
                edits.push((token.place.start, 1, format!("|{REMAINDER}(")));
                edits.push((self.tokens[end - 1].place.end, 0, ")".to_owned()));
            }
        }
        edits.sort_by_key(|(at, ..)| *at); // stable: those of one place in their order
        let mut from = 0;
        for (at, length, text) in edits {
            out.push_str(&self.text[from..at]);
            out.push_str(&text);
            from = at + length;
        }
        out.push_str(&self.text[from..self.end]);
        self.end
    }

    /// If this is a `%` whose left operand may be a string, the end of its right operand.
    fn formatted(&self, index: usize) -> Option<usize> {
        if self.token(index) != "%" || index == 0 || !self.is_operand(index - 1) {
            return None;
        }
        let left = self.operand_before(index);
        let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let is_string = self.token(left).starts_with(['"', '\'']);
        let end = self.operand_after(index + 1)?;
        let by_number = end == index + 2 && is_number(self.token(index + 1));
        // Products, powers and signs bind from the left, and belong to numbers.
        let in_product = left > 0
            && match self.token(left - 1) {
                "*" | "/" | "//" | "%" | "**" => true,
                "-" | "+" => left < 2 || !self.is_operand(left - 2),
                _ => false,
            };
        let is_arithmetic = is_number(self.token(left)) || in_product || (by_number && !is_string);
        (!is_arithmetic).then_some(end)
    }

    /// Whether an operand can end with this token.
    fn is_operand(&self, index: usize) -> bool {
        let token = self.token(index);
        let is_word = token.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let keyword =
            ["and", "or", "not", "in", "is", "if", "else", "elif", "set"].contains(&token);
        (is_word && !keyword) || token.starts_with(['"', '\'', ')', ']', '}'])
    }

    /// The first token of the operand that ends before `index`.
    fn operand_before(&self, index: usize) -> usize {
        let mut at = index.saturating_sub(1);
        loop {
            let bracket = self.tokens[at].partner.filter(|&first| first < at);
            let first = bracket.unwrap_or(at);
            at = match first.checked_sub(1) {
                Some(before) if bracket.is_some() && self.is_operand(before) => before, // a call
                Some(sign) if sign > 0 && [".", "|"].contains(&self.token(sign)) => sign - 1,
                _ => return first,
            };
        }
    }

    /// Behind the operand that begins at `index`, if there is one.
    fn operand_after(&self, index: usize) -> Option<usize> {
        let mut at = index;
        while ["-", "+"].contains(&self.token(at)) {
            at += 1;
        }
        loop {
            let begins = |c: char| c.is_alphanumeric() || "_'\"([{".contains(c);
            at = match self.tokens.get(at) {
                Some(token) if self.token(at).starts_with(begins) => {
                    token.partner.unwrap_or(at) + 1
                }
                _ => return None,
            };
            while ["(", "["].contains(&self.token(at)) {
                at = self.tokens[at].partner? + 1;
            }
            match self.token(at) {
                "." | "|" => at += 1,
                _ => return Some(at),
            }
        }
    }
}

/// Bytes of the token, or the blanks, that a text begins with.
fn token_length(text: &str) -> usize {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let while_all = |is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    match first {
        '"' | '\'' => {
            let mut escaped = false;
            let end = text[1..].find(|c| {
                let ends = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(text.len(), |end| end + 2)
        }
        c if c.is_whitespace() => while_all(char::is_whitespace),
        c if c.is_ascii_digit() => while_all(|c| c.is_alphanumeric() || c == '_' || c == '.'),
        c if c.is_alphanumeric() || c == '_' => while_all(|c| c.is_alphanumeric() || c == '_'),
        _ if text.starts_with("//") || text.starts_with("**") => 2,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_minijinja_does_not_read_is_rewritten() {
        for same in [
            "a {{ b }} {# {% generation %} #} {{ '{% generation %}' }} %",
            "{% raw %}{% generation %}{{ x % y }}{%- endraw %}",
            "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ -n % k }}{{ 2 * n % k }}",
            "{{ 7 % n }}{{ {'a': {}} }}{{ '%' }}{%- generations -%}{{",
            "{#",
            "{{ 'a",
            "{{ % }}",
            "{{ a % }}",
            "{{ (a % ) }}",
            "{{ [a % | ] }}",
            "{{-",
            "{%+ endraw",
        ] {
            assert_eq!(adapt(same), same);
        }
        let filter = |text: &str| text.replace("|F(", &format!("|{REMAINDER}("));
        for (given, wanted) in [
            (
                "{%- generation -%}x{%endgeneration%}",
                "{%- with -%}x{%endwith%}",
            ),
            ("{{ '%s' % x }}", "{{ '%s' |F( x) }}"),
            ("{{- '%s' % x -}}", "{{- '%s' |F( x) -}}"),
            ("{{ '%d' % 3 ~ a }}", "{{ '%d' |F( 3) ~ a }}"),
            ("{{ f % (a, b) == c }}", "{{ f |F( (a, b)) == c }}"),
            (
                "{{ m['f'].g(1)|h % x.y[0].z('%}')|up(1) + 1 }}",
                "{{ m['f'].g(1)|h |F( x.y[0].z('%}')|up(1)) + 1 }}",
            ),
            ("{{ a - f % -b }}", "{{ a - f |F( -b) }}"),
            (
                "{% set x = f % {'a': '%s' % b} %}",
                "{% set x = f |F( {'a': '%s' |F( b)}) %}",
            ),
        ] {
            assert_eq!(adapt(given), filter(wanted));
        }
    }
}

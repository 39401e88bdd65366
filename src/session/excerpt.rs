//! What a model is shown of texts that are longer than it can see: what lies nearest to the holes.
//!
//! Each hole's two sides get the same share of the room. What one does not need goes to the others.
//! Text is cut at line ends, and inside of a line only where not even the part of it beside the
//! hole fits. No more of a text is tokenized than can be shown, whatever its size: a window beside
//! the hole is, which grows until it has enough tokens. It ends between lines where the split
//! expressions of these tokenizers have a boundary, so that the ids are those of the whole text.

use std::ops::Range;

use crate::tokenizer::{Added, Placed, Tokenizer, TokenizerError};

/// What is not shown of the texts of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Lines, or parts of them.
    pub lines: usize,
    /// Bytes of text.
    pub bytes: usize,
}

impl LeftOut {
    /// This text.
    pub(super) fn of(text: &str) -> Self {
        let whole = text.bytes().filter(|&byte| byte == b'\n').count();
        let has_rest = !text.is_empty() && !text.ends_with('\n');
        Self {
            lines: whole + usize::from(has_rest),
            bytes: text.len(),
        }
    }

    /// Whether everything is shown.
    pub fn is_nothing(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
    }
}

/// A text of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'t> {
    pub text: &'t str,
    pub added: Added,
    /// Whether a hole precedes it, so that its beginning is near to one.
    pub follows: bool,
    /// Whether a hole follows it.
    pub precedes: bool,
}

impl<'t> Source<'t> {
    fn plain(text: &'t str) -> Self {
        Self {
            text,
            added: Added::Plain,
            follows: false,
            precedes: true,
        }
    }
}

/// Takes of each text what is nearest to the holes, `room` tokens in all, and says what is left
/// out.
///
/// # Errors
/// When a text cannot be tokenized.
pub(super) fn cut(
    tokenizer: &Tokenizer,
    sources: &[Source<'_>],
    mut room: usize,
) -> Result<(Vec<Vec<u32>>, LeftOut), TokenizerError> {
    let encoded = sources
        .iter()
        .map(|&source| Encoded::new(tokenizer, source, room));
    let encoded = encoded.collect::<Result<Vec<_>, _>>()?;
    // The shortest first: what it leaves is shared out among the longer ones.
    let mut order: Vec<usize> = (0..encoded.len()).collect();
    order.sort_by_key(|&i| encoded[i].tokens() / encoded[i].sides());
    let mut sides: usize = encoded.iter().map(Encoded::sides).sum();
    let (mut kept, mut left_out) = (vec![Vec::new(); encoded.len()], LeftOut::default());
    for i in order {
        let share = room * encoded[i].sides() / sides;
        let (ids, rest) = encoded[i].keep(share);
        room -= ids.len();
        sides -= encoded[i].sides();
        left_out.add(LeftOut::of(&sources[i].text[rest]));
        kept[i] = ids;
    }
    Ok((kept, left_out))
}

/// How many tokens a text has, or a number above `most`.
///
/// # Errors
/// When it cannot be tokenized.
pub(super) fn tokens_up_to(
    tokenizer: &Tokenizer,
    text: &str,
    most: usize,
) -> Result<usize, TokenizerError> {
    let source = Source::plain(text);
    Ok(Stretch::new(tokenizer, source, End::First, most)?
        .tokens
        .len())
}

/// The end of a text in at most `most` tokens, beginning with a line if one begins there, and how
/// many it has.
///
/// # Errors
/// When it cannot be tokenized.
pub(super) fn end_of<'t>(
    tokenizer: &Tokenizer,
    text: &'t str,
    most: usize,
) -> Result<(&'t str, usize), TokenizerError> {
    let stretch = Stretch::new(tokenizer, Source::plain(text), End::Last, most)?;
    if stretch.is_whole() && stretch.tokens.len() <= most {
        return Ok((text, stretch.tokens.len()));
    }
    let (tokens, at) = stretch.end(most);
    Ok((&text[at..], tokens.len()))
}

/// As much of a text in tokens as can be shown.
struct Encoded<'t> {
    source: Source<'t>,
    /// Its end, or where no hole follows its beginning; all of it where that is not too much.
    near: Stretch<'t>,
    /// Its beginning, where a hole is beside that too and `near` is not all.
    beginning: Option<Stretch<'t>>,
}

impl<'t> Encoded<'t> {
    fn new(tokenizer: &Tokenizer, source: Source<'t>, room: usize) -> Result<Self, TokenizerError> {
        let stretch = |end| Stretch::new(tokenizer, source, end, room);
        let near = stretch(match source.precedes {
            true => End::Last,
            false => End::First,
        })?;
        let has_two = source.follows && source.precedes && !near.is_whole();
        Ok(Self {
            source,
            near,
            beginning: has_two.then(|| stretch(End::First)).transpose()?,
        })
    }

    /// How many of its ends a hole is beside.
    fn sides(&self) -> usize {
        (usize::from(self.source.follows) + usize::from(self.source.precedes)).max(1)
    }

    /// Tokens that are wanted at most.
    fn tokens(&self) -> usize {
        let beginning = self.beginning.as_ref();
        self.near.tokens.len() + beginning.map_or(0, |stretch| stretch.tokens.len())
    }

    /// The ids of what is kept in so many tokens, and the bytes of the text that are not.
    fn keep(&self, most: usize) -> (Vec<u32>, Range<usize>) {
        let Self { source, near, .. } = self;
        let ids = |tokens: &[Placed]| tokens.iter().map(|token| token.id).collect::<Vec<_>>();
        let text_len = source.text.len();
        if near.is_whole() && near.tokens.len() <= most {
            return (ids(&near.tokens), text_len..text_len);
        }
        let (mut kept, mut begin, mut end) = (Vec::new(), 0, text_len);
        if source.follows || !source.precedes {
            let half = if source.precedes { most / 2 } else { most };
            let (tokens, at) = self.beginning.as_ref().unwrap_or(near).beginning(half);
            (kept, begin) = (ids(tokens), at);
        }
        if source.precedes {
            let (tokens, at) = near.end(most - kept.len());
            kept.extend(ids(tokens));
            end = at;
        }
        // A text in the middle may fit but for a line that both halves end before.
        (kept, begin..end.max(begin))
    }
}

/// An end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    First,
    Last,
}

/// The tokens at an end of a text.
struct Stretch<'t> {
    text: &'t str,
    bytes: Range<usize>, // that are tokenized
    tokens: Vec<Placed>, // `start` counts from the beginning of the text
}

/// Bytes of a window for each token that is wanted; code has 3 to 4.
const BYTES_A_TOKEN: usize = 6;

impl<'t> Stretch<'t> {
    /// More than `most` tokens, or all that the text has.
    fn new(
        tokenizer: &Tokenizer,
        source: Source<'t>,
        end: End,
        most: usize,
    ) -> Result<Self, TokenizerError> {
        let text = source.text;
        let (mut size, mut before) = ((most + 1).saturating_mul(BYTES_A_TOKEN), None);
        loop {
            let window = |boundary: fn(&str, usize, End) -> usize| match end {
                _ if size >= text.len() => 0..text.len(),
                End::First => 0..boundary(text, size, end),
                End::Last => boundary(text, text.len() - size, end)..text.len(),
            };
            let lines = window(boundary);
            // A line that is longer than the window keeps it from growing line by line.
            let bytes = match before.replace(lines.len()) == Some(lines.len()) {
                true => window(character),
                false => lines,
            };
            let mut tokens = tokenizer.encode_placed(&text[bytes.clone()], source.added)?;
            if tokens.len() > most || bytes.len() == text.len() {
                for token in &mut tokens {
                    token.start += bytes.start;
                }
                return Ok(Self {
                    text,
                    bytes,
                    tokens,
                });
            }
            size = size.saturating_mul(2);
        }
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() == self.text.len()
    }

    /// The first tokens, at most so many, and the byte behind them.
    fn beginning(&self, most: usize) -> (&[Placed], usize) {
        let cuts = 1..=most.min(self.tokens.len());
        let at = self.cut_at(cuts.rev());
        at.map_or((&[], self.bytes.start), |at| {
            (&self.tokens[..at], self.byte(at))
        })
    }

    /// The last tokens, at most so many, and the byte where they begin.
    fn end(&self, most: usize) -> (&[Placed], usize) {
        let len = self.tokens.len();
        let at = self.cut_at(len.saturating_sub(most)..len);
        at.map_or((&[], self.bytes.end), |at| {
            (&self.tokens[at..], self.byte(at))
        })
    }

    /// The first of these tokens that begins a line, or else before which the text can be cut.
    fn cut_at(&self, mut cuts: impl Iterator<Item = usize> + Clone) -> Option<usize> {
        let is_line_start = |at: &usize| self.is_cut(*at) && self.is_line_start(self.byte(*at));
        let at = cuts.clone().find(is_line_start);
        at.or_else(|| cuts.find(|&at| self.is_cut(at)))
    }

    /// Where this token begins, or the last one ends.
    fn byte(&self, at: usize) -> usize {
        let token = self.tokens.get(at);
        token.map_or(self.bytes.end, |token| token.start)
    }

    fn is_line_start(&self, byte: usize) -> bool {
        byte == 0 || self.text.as_bytes()[byte - 1] == b'\n'
    }

    /// Whether the text can be cut before this token: it does not begin inside of a character.
    fn is_cut(&self, at: usize) -> bool {
        let token = self.tokens.get(at);
        at == 0 || token.is_none_or(|token| self.tokens[at - 1].start < token.start)
    }
}

/// The place nearest to `byte`, towards this end of the text, where it can be cut without another
/// token than in the whole: a line's beginning where the line is not blank. Where there is none
/// between `byte` and the end, `byte` itself, or the next character.
fn boundary(text: &str, byte: usize, end: End) -> usize {
    let is_boundary = |&at: &usize| {
        let is_shown = |c: &char| !c.is_whitespace() || matches!(c, '\n' | '\r');
        let next = || text[at..].chars().find(is_shown);
        text.as_bytes()[at - 1] == b'\n' && next().is_some_and(|c| !c.is_whitespace())
    };
    let found = match end {
        End::First => (1..=byte).rev().find(is_boundary),
        End::Last => (byte.max(1)..text.len()).find(is_boundary),
    };
    found.unwrap_or_else(|| character(text, byte, end))
}

/// `byte` itself, or the next place towards this end that is in no character.
fn character(text: &str, byte: usize, end: End) -> usize {
    let is_between = |at: &usize| text.is_char_boundary(*at);
    let found = match end {
        End::First => (0..=byte).rev().find(is_between),
        End::Last => (byte..text.len()).find(is_between),
    };
    found.unwrap_or(byte)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;

    use super::*;
    use crate::package::Package;
    use crate::session::Session;
    use crate::tokenizer::Specials;

    static TINY: LazyLock<Arc<Package>> =
        LazyLock::new(|| Arc::clone(Session::open("tiny").unwrap().package()));

    /// Nor where a line is longer than all that is shown.
    #[test]
    fn no_more_is_tokenized_than_can_be_shown() {
        let line = format!("x = 1\n{}\ny = 2\n", "ab".repeat(500_000));
        for end in [End::First, End::Last] {
            let source = Source {
                text: &line,
                added: Added::Plain,
                follows: false,
                precedes: false,
            };
            let stretch = Stretch::new(&TINY.tokenizer, source, end, 20).unwrap();
            assert!(stretch.bytes.len() < 2000, "{:?}", stretch.bytes);
            assert!(stretch.tokens.len() > 20);
        }
    }

    /// What is shown of two texts round a hole, as text, and what is left out.
    fn shown(before: &str, after: &str, room: usize) -> ([String; 2], [Vec<u32>; 2], LeftOut) {
        let tokenizer = &TINY.tokenizer;
        let source = |text, follows| Source {
            text,
            added: Added::Plain,
            follows,
            precedes: !follows,
        };
        let sources = [source(before, false), source(after, true)];
        let (ids, left_out) = cut(tokenizer, &sources, room).unwrap();
        let text = |i: usize| tokenizer.decode(&ids[i], Specials::Keep);
        ([text(0), text(1)], ids.try_into().unwrap(), left_out)
    }

    fn tokens(text: &str) -> usize {
        TINY.tokenizer.encode_plain(text).unwrap().len()
    }

    /// Lines of code, blank ones among them, and none longer than the smallest room.
    fn code() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            Just("def f(x, y):\n"),
            Just("    return x + 12\n"),
            Just("\n"),
            Just("   \n"),
            Just("\t# h\u{e9}llo \u{1f600}\n"),
            Just("x=['a']\n"),
        ];
        prop::collection::vec(line, 0..400).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn the_nearest_lines_are_shown(before in code(), after in code(), room in 64usize..700) {
            let ([first, last], ids, left_out) = shown(&before, &after, room);
            prop_assert!(ids.concat().len() <= room);
            prop_assert!(before.ends_with(&first) && after.starts_with(&last));
            let rest = [&before[..before.len() - first.len()], &after[last.len()..]];
            let bytes = rest[0].len() + rest[1].len();
            let lines = rest.concat().matches('\n').count();
            prop_assert_eq!(left_out, LeftOut { lines, bytes });
            prop_assert!(rest[0].is_empty() || rest[0].ends_with('\n'));
            prop_assert!(rest[1].is_empty() || last.ends_with('\n'));
            // The ids are those that the texts have as a whole.
            let whole = [&before, &after].map(|text| TINY.tokenizer.encode_plain(text).unwrap());
            prop_assert!(whole[0].ends_with(&ids[0]) && whole[1].starts_with(&ids[1]));
            let count = ids.each_ref().map(Vec::len);
            if tokens(&before) + tokens(&after) <= room {
                prop_assert!(left_out.is_nothing());
            } else {
                // No side is cut where it has room, and no more is cut than a line or two of the
                // longest here: blank lines go with the line before.
                let spare = room - count[0] - count[1];
                prop_assert!(spare < 3 * 40, "{} of {} unused", spare, room);
                for (mine, other) in [(0, 1), (1, 0)] {
                    let is_cut = !rest[mine].is_empty();
                    prop_assert!(!is_cut || count[mine] + 80 > room / 2 || count[other] <= room / 2);
                }
            }
        }

        #[test]
        fn a_text_between_holes_is_cut_in_its_middle(text in code(), room in 64usize..400) {
            let source = Source { text: &text, added: Added::Plain, follows: true, precedes: true };
            let (ids, left_out) = cut(&TINY.tokenizer, &[source], room).unwrap();
            prop_assert!(ids[0].len() <= room);
            let kept = TINY.tokenizer.decode(&ids[0], Specials::Keep);
            prop_assert_eq!(kept.len() + left_out.bytes, text.len());
            let fits = |at: &usize| {
                kept.is_char_boundary(*at)
                    && text.starts_with(&kept[..*at])
                    && text.ends_with(&kept[*at..])
            };
            prop_assert!((0..=kept.len()).any(|at| fits(&at)));
            prop_assert_eq!(left_out.is_nothing(), tokens(&text) <= room);
        }
    }

    #[test]
    fn what_one_side_does_not_need_goes_to_the_other() {
        let long = "x = 1\n".repeat(1000);
        let line = tokens("x = 1\n");
        let ([before, after], ids, _) = shown(&long, "y\n", 50 * line + tokens("y\n"));
        assert_eq!((before.len(), &*after), (50 * 6, "y\n"));
        assert_eq!(ids.map(|ids| ids.len()), [50 * line, tokens("y\n")]);
        let ([before, after], ..) = shown(&long, &long, 50 * line);
        assert_eq!((before.len(), after.len()), (25 * 6, 25 * 6));
    }

    /// The shorter side first, whose rest the others share: here the two of a text between holes.
    #[test]
    fn a_text_between_holes_has_two_sides() {
        let (line, text) = (tokens("x = 1\n"), |lines| "x = 1\n".repeat(lines));
        let (between, last) = (text(50), text(30));
        fn source(text: &str, precedes: bool) -> Source<'_> {
            Source {
                text,
                added: Added::Plain,
                follows: true,
                precedes,
            }
        }
        let lines = |between: &str, last: &str| {
            let sources = [source(between, true), source(last, false)];
            let (ids, _) = cut(&TINY.tokenizer, &sources, 78 * line).unwrap();
            [ids[0].len() / line, ids[1].len() / line]
        };
        assert_eq!(lines(&between, &last), [50, 28]);
        assert_eq!(lines(&text(1000), &text(10)), [68, 10]);
        let halves = format!("{between}{}", "y = 2\n".repeat(50));
        let (ids, _) = cut(&TINY.tokenizer, &[source(&halves, true)], 20 * line).unwrap();
        let kept = TINY.tokenizer.decode(&ids[0], Specials::Keep);
        assert_eq!(kept, format!("{}{}", text(10), "y = 2\n".repeat(10)));
    }

    #[test]
    fn the_end_of_a_text_begins_with_a_line() {
        let (tokenizer, text) = (&TINY.tokenizer, "x = 1\n".repeat(100));
        let line = tokens("x = 1\n");
        let end = |most| end_of(tokenizer, &text, most).unwrap();
        assert_eq!(end(3 * line + 1), (&text[..3 * 6], 3 * line));
        assert_eq!(end(100 * line), (&*text, 100 * line));
        assert_eq!(end(100 * line - 1), (&text[6..], 99 * line));
        let up_to = |most| tokens_up_to(tokenizer, &text, most).unwrap();
        assert_eq!(up_to(100 * line), 100 * line);
        assert!(up_to(5) > 5);
    }

    #[test]
    fn a_line_that_does_not_fit_is_cut_inside() {
        let long = "abc, ".repeat(10_000);
        let ([before, after], ids, left_out) = shown(&long, &long, 40);
        assert_eq!(ids.map(|ids| ids.len()), [20, 20]);
        assert!(long.ends_with(&before) && long.starts_with(&after));
        assert_eq!(left_out.lines, 2);
        let wide = "\u{1f600}".repeat(1000);
        let ([before, _], ..) = shown(&wide, "", 30);
        assert!(!before.is_empty() && before.chars().all(|c| c == '\u{1f600}'));
        assert_eq!(shown("x\n", "y\n", 0).0, ["", ""]);
    }

    #[test]
    fn no_character_is_cut() {
        for text in [
            "\u{1f600}x\n",
            "x\u{1f600}\n",
            "\u{1f600}",
            "\u{6f22}\u{e9}\n",
        ] {
            let text = text.repeat(3);
            for room in 0..=tokens(&text) {
                let ([before, _], ..) = shown(&text, "", room);
                assert!(text.ends_with(&before), "{room}: {before:?}");
                let ([_, after], ..) = shown("", &text, room);
                assert!(text.starts_with(&after), "{room}: {after:?}");
            }
        }
    }

    #[test]
    fn a_window_ends_between_lines_where_a_word_does() {
        let text = "a\n\n  \n\x0c\nbc\n";
        for byte in 1..=8 {
            assert_eq!(boundary(text, byte, End::Last), 8, "{byte}");
        }
        assert_eq!(boundary(text, 9, End::Last), 9, "none behind it");
        assert_eq!(boundary(text, 10, End::First), 8);
        assert_eq!(boundary("a\nb\nc\n", 4, End::First), 4);
        assert_eq!(boundary("a\nbc\n  ", 5, End::First), 2, "blanks may go on");
        assert_eq!(boundary("a\nb\nc\n", 5, End::First), 4, "the nearest");
        assert_eq!(boundary("a\nb\nc\n", 1, End::Last), 2);
        assert_eq!(boundary("\nb\nc\n", 1, End::Last), 1);
        assert_eq!(boundary(text, 3, End::First), 3, "none before it");
        assert_eq!(boundary("\u{1f600}", 2, End::First), 0);
        assert_eq!(boundary("\u{1f600}x", 2, End::Last), 4);
    }
}

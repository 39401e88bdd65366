//! A trace as an animated picture: an SVG without a script, so that it moves wherever images show.
//!
//! Every token has the place that it has in the end. A bar covers it until its step, and it is
//! lit for a moment when it comes. Where animations are off, the finished text is shown.

use unicode_width::UnicodeWidthStr;

use super::{Final, PageCell};
use crate::cli::trace::Trace;

const COLUMN_PX: f64 = 8.4;
const ROW_PX: f64 = 20.0;
const MARGIN_PX: f64 = 16.0;
/// Before the first step, and after the last.
const LEAD_S: f64 = 0.8;
const HOLD_S: f64 = 4.0;
/// Steps beyond these share a moment: each moment is a rule of its own in the file.
const MOST_MOMENTS: usize = 100;
/// Of a long prompt the end is shown.
const PROMPT_ROWS: usize = 8;
const TAB: &str = "    ";

/// The picture's colours.
const STYLE: &str = include_str!("picture.css");
/// What one moment adds to them.
const MOMENT_STYLE: &str = include_str!("moment.css");

/// Some text of one row, or the bar that covers it.
struct Piece<'a> {
    row: usize,
    column: usize,
    columns: usize,
    text: &'a str,
}

/// Where the next text goes.
#[derive(Default)]
struct Pen {
    row: usize,
    column: usize,
    /// The widest row so far.
    columns: usize,
}

impl Pen {
    /// Places a text; a line break takes a column, so that its bar shows.
    fn place<'a>(&mut self, text: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        for line in text.split_inclusive('\n') {
            let visible = line.trim_end_matches('\n');
            let columns = visible.width().max(1);
            pieces.push(Piece {
                row: self.row,
                column: self.column,
                columns,
                text: visible,
            });
            self.columns = self.columns.max(self.column + columns);
            self.column += visible.width();
            if visible.len() < line.len() {
                (self.row, self.column) = (self.row + 1, 0);
            }
        }
        pieces
    }
}

/// What the picture says of a text: tabs as spaces, and no character that XML forbids.
fn shown(text: &str) -> String {
    let plain = text.replace('\t', TAB).replace("\r\n", "\n");
    let is_odd = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{fffe}' | '\u{ffff}');
    plain.replace(is_odd, "\u{fffd}")
}

/// A text as XML has it.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

/// The picture of a run.
pub fn picture(trace: &Trace) -> String {
    let mut canvas = Final::of(trace);
    let cells = canvas.cells(trace);
    let prompt = shown(&trace.header.prompt);
    let from = prompt.rmatch_indices('\n').nth(PROMPT_ROWS);
    let prompt = &prompt[from.map_or(0, |(at, _)| at + 1)..];

    let (mut pen, mut body) = (Pen::default(), String::new());
    for piece in pen.place(prompt) {
        body += &text(&piece, "class=\"soft\" ");
    }
    let (came, steps) = came(trace, &canvas);
    for cell in cells.iter().filter(|cell| !cell.behind) {
        body += &drawn(cell, &came, steps, &mut pen);
    }
    let caption = caption(trace);
    let width = COLUMN_PX * pen.columns.max(caption.width()) as f64 + 2.0 * MARGIN_PX;
    // An empty row between the text, which may end with a line break, and what it is.
    let below = pen.row + 1 + usize::from(pen.column > 0);
    let height = ROW_PX * (below + 1) as f64 + 2.0 * MARGIN_PX;
    let end = Piece {
        row: below,
        column: 0,
        columns: caption.width(),
        text: &caption,
    };
    body += &text(&end, "class=\"soft\" ");
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}{}</style>\n<rect class=\"back\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n{body}</svg>\n",
        escaped(&caption),
        rules(steps.min(MOST_MOMENTS))
    )
}

/// The step at which each position first had the token that it has in the end, and how many steps
/// it took until all had. Second thoughts that change nothing do not show.
fn came(trace: &Trace, canvas: &Final) -> (Vec<Option<usize>>, usize) {
    let mut came = vec![None; canvas.ids.len()];
    for (at, step) in trace.steps.iter().enumerate() {
        for (&position, &token) in step.positions.iter().zip(&step.tokens) {
            match canvas.ids[position] == Some(token) {
                true => _ = came[position].get_or_insert(at),
                false => came[position] = None,
            }
        }
    }
    let steps = came.iter().flatten().max().map_or(0, |last| last + 1);
    (came, steps)
}

/// One cell of the canvas, which its step turns from a bar into text.
fn drawn(cell: &PageCell, came: &[Option<usize>], steps: usize, pen: &mut Pen) -> String {
    let label = shown(cell.text.as_deref().unwrap_or(" "));
    let pieces = pen.place(&label);
    let bars: String = pieces.iter().map(bar).collect();
    if cell.text.is_none() {
        return bars;
    }
    let given = if cell.given { "class=\"soft\" " } else { "" };
    let texts: String = pieces.iter().map(|piece| text(piece, given)).collect();
    // Parts of a character came at different steps: it is there with the last.
    let last = came[cell.first..][..cell.len].iter().flatten().max();
    match last {
        Some(at) if !cell.given => {
            let moment = at * steps.min(MOST_MOMENTS) / steps;
            format!("<g class=\"m{moment}\">{texts}{bars}</g>\n")
        }
        _ => texts,
    }
}

fn text(piece: &Piece<'_>, attributes: &str) -> String {
    if piece.text.trim().is_empty() {
        return String::new();
    }
    let x = MARGIN_PX + COLUMN_PX * piece.column as f64;
    let y = MARGIN_PX + ROW_PX * piece.row as f64 + 15.0;
    let length = COLUMN_PX * piece.columns as f64;
    format!(
        "<text {attributes}x=\"{x:.1}\" y=\"{y}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>",
        escaped(piece.text)
    )
}

fn bar(piece: &Piece<'_>) -> String {
    let x = MARGIN_PX + COLUMN_PX * piece.column as f64 + 0.7;
    let y = MARGIN_PX + ROW_PX * piece.row as f64 + 3.0;
    let width = COLUMN_PX * piece.columns as f64 - 1.4;
    format!(
        "<rect class=\"mask\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" rx=\"3\"/>"
    )
}

/// When each moment's bars go and its texts come, as shares of the whole loop.
fn rules(moments: usize) -> String {
    let tick = (8.0 / moments.max(1) as f64).clamp(0.05, 0.5);
    let whole = LEAD_S + tick * moments as f64 + HOLD_S;
    let mut rules =
        format!("g *{{animation-iteration-count:infinite;animation-duration:{whole:.2}s}}\n");
    for moment in 0..moments {
        let share = |seconds: f64| 100.0 * seconds / whole;
        let at = share(LEAD_S + tick * moment as f64);
        let (then, settled) = (at + 0.01, at + share(0.9));
        let mut style = MOMENT_STYLE.replace("MOMENT", &moment.to_string());
        for (name, share) in [("AT", at), ("THEN", then), ("SETTLED", settled)] {
            style = style.replace(name, &format!("{share:.2}%"));
        }
        rules += &style;
    }
    rules + "@media(prefers-reduced-motion:reduce){g *{animation-name:none!important}}\n"
}

fn caption(trace: &Trace) -> String {
    let model = shown(&trace.header.model).replace('\n', " ");
    match &trace.end {
        Some(end) => format!(
            "{model}: {} tokens in {} forward passes",
            end.usage.completion_tokens, end.usage.forwards
        ),
        None => format!("{model}: a run that was cut off"),
    }
}

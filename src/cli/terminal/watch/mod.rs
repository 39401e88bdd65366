//! `--watch`: the canvas drawn on the terminal while it fills.

mod layout;

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::cli::terminal::cells::cells;
use crate::cli::terminal::ui::{Screen, Size, StyledLine, style_of};
use diffucoder::diffusion::{Canvas, Step};
use diffucoder::package::Package;
use layout::{Look, Row, Run, rows};

/// Time between frames: faster than this the eye sees nothing.
const FRAME: Duration = Duration::from_millis(40);

/// The canvas of a run that goes on.
pub struct Watch<'a> {
    package: &'a Package,
    screen: Screen,
    /// Steps that are done.
    done: usize,
    started: Instant,
    drawn: Option<Instant>,
    /// First step that no frame has shown yet.
    unseen: usize,
    /// First row shown of a canvas that is higher than the terminal.
    top: usize,
    last: Option<Canvas>,
}

impl<'a> Watch<'a> {
    /// For a run that is about to start.
    pub fn new(screen: Screen, package: &'a Package) -> Self {
        Self {
            package,
            screen,
            done: 0,
            started: Instant::now(),
            drawn: None,
            unseen: 0,
            top: 0,
            last: None,
        }
    }

    /// Ends it: the last frame stays, or makes room for the text itself.
    pub fn finish(mut self, keep: bool) {
        if let Some(canvas) = self.last.take() {
            self.unseen = self.done; // nothing is new any more
            self.draw(&canvas);
        }
        if !keep {
            return self.screen.wipe();
        }
        self.screen.keep();
    }

    fn draw(&mut self, canvas: &Canvas) {
        let size = self.screen.size();
        let rows = self.rows(canvas, size.columns);
        let room = size.rows - 1; // the last line says how far it is
        self.scroll(&rows, room);
        let shown = rows.iter().skip(self.top).take(room);
        let mut lines: Vec<StyledLine> = shown.map(|row| self.line(row)).collect();
        lines.push(self.status(canvas, size, rows.len() > room));
        self.screen.draw(lines, size.columns);
        self.drawn = Some(Instant::now());
        self.unseen = self.done;
    }

    fn rows(&self, canvas: &Canvas, columns: usize) -> Vec<Row> {
        let tokenizer = &self.package.tokenizer;
        let reveals = canvas.reveal_step();
        let ids = canvas.generated();
        let bytes: Vec<Option<Vec<u8>>> = ids
            .iter()
            .map(|&id| (id != canvas.mask_id()).then(|| tokenizer.token_bytes(id)))
            .collect();
        let stop_ids = &self.package.stop_ids;
        let start = canvas.prompt_len();
        let is_behind = |position: usize| {
            let hole = canvas
                .holes()
                .iter()
                .find(|hole| hole.contains(&(start + position)));
            let stop = hole.and_then(|hole| Some(hole.start + canvas.stop_in(hole, stop_ids)?));
            stop.is_some_and(|stop| start + position >= stop)
        };
        let cells = cells(&bytes);
        let pieces = cells.iter().map(|cell| {
            let newest = reveals[cell.positions.clone()].iter().flatten().max();
            let look = match (&cell.text, newest) {
                (None, _) => Look::Mask,
                _ if is_behind(cell.positions.start) => Look::Behind,
                (_, Some(&step)) if step >= self.unseen => Look::New,
                _ => Look::Text,
            };
            (look, cell.text.as_deref().unwrap_or("·"))
        });
        rows(pieces, columns)
    }

    /// Shows the newest tokens, and moves only when they would be out of sight.
    fn scroll(&mut self, rows: &[Row], room: usize) {
        if let Some(newest) = rows.iter().position(Row::is_new)
            && !(self.top..self.top + room).contains(&newest)
        {
            self.top = newest.saturating_sub(room / 2);
        }
        self.top = self.top.min(rows.len().saturating_sub(room));
    }

    fn line(&self, row: &Row) -> StyledLine {
        let paint = |run: &Run| {
            let style = match run.look {
                _ if !self.screen.colours() => anstyle::Style::new(),
                Look::Text => anstyle::Style::new(),
                Look::New => style_of(anstyle::AnsiColor::Green).invert(),
                Look::Mask | Look::Behind => anstyle::Style::new().dimmed(),
            };
            format!("{style}{}{style:#}", run.text)
        };
        StyledLine {
            text: row.runs.iter().map(paint).collect(),
            columns: row.columns,
        }
    }

    fn status(&self, canvas: &Canvas, size: Size, is_higher: bool) -> StyledLine {
        let revealed = canvas.reveal_step().iter().flatten().count();
        let secs = self.started.elapsed().as_secs_f64().max(1e-3);
        let part = if is_higher {
            " · part of the canvas"
        } else {
            ""
        };
        let text = format!(
            "step {} · {revealed}/{} tokens · {:.1} tokens/s{part}",
            self.done,
            canvas.holes().iter().map(Range::len).sum::<usize>(),
            revealed as f64 / secs,
        );
        // All of these characters are one column wide.
        let text: String = text.chars().take(size.columns).collect();
        StyledLine {
            columns: text.chars().count(),
            text,
        }
    }

    /// Draws the canvas after a step, unless that would be sooner than the eye sees.
    pub fn on_step(&mut self, step: &Step<'_>) {
        self.done = step.index + 1;
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME) {
            self.draw(step.canvas);
        }
        self.last = Some(step.canvas.clone());
    }
}

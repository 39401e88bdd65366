//! The only writer to the terminal: results to stdout, everything else to stderr.
//!
//! Progress and notes are for people, so they are drawn only when stderr is a terminal and
//! `--quiet` is off; errors always are. A closed pipe on stdout is the reader's way to say
//! "enough".

mod screen;

use std::fmt;
use std::io::{self, IsTerminal, StderrLock, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{
    HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

use crate::cli::exit::Exit;
use crate::cli::terminal::closed;
pub use screen::{Screen, Size, StyledLine};

/// All progress bars, within reach of whatever ends the program.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Whether the last line of a result stands on the terminal without its end.
static LINE_IS_OPEN: AtomicBool = AtomicBool::new(false);

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Whole,
    /// The reader has gone: there is no use in more.
    Closed,
}

/// Where a command writes to.
pub struct Ui {
    bars: MultiProgress,
    quiet: bool,
}

impl Ui {
    /// `quiet` keeps all but results and errors back.
    pub fn new(quiet: bool) -> Self {
        let bars = BARS.get_or_init(|| {
            MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10))
        });
        Self {
            bars: bars.clone(),
            quiet,
        }
    }

    /// Whether all but results and errors is kept back.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a person reads the results.
    pub fn stdout_is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Writes the result to stdout as it is; on a terminal, a final newline is added if it lacks
    /// one.
    pub fn result(&self, result: impl AsRef<[u8]>) -> io::Result<()> {
        write_stdout(result.as_ref(), true).map(|_| ())
    }

    /// [`Self::result`], for those who have more of them.
    pub fn one_of_many(&self, text: &str) -> io::Result<Written> {
        write_stdout(text.as_bytes(), true)
    }

    /// Writes a piece of a result; the last one goes to [`Self::one_of_many`]. On a terminal it
    /// takes the place of the bars, which could not be told from the line that it leaves open.
    pub fn piece(&self, text: &str) -> io::Result<Written> {
        if self.stdout_is_terminal() {
            let _ = self.bars.clear();
            self.bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        write_stdout(text.as_bytes(), false)
    }

    /// Fails if stdout was closed from the beginning: for those who work long before they write.
    pub fn check_stdout(&self) -> io::Result<()> {
        closed::check().map_err(of_stdout)
    }

    /// Tells the user something worth knowing even in a log.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(&format!("note: {text}"));
        }
    }

    /// A line of a log.
    #[cfg(feature = "serve")]
    pub fn log(&self, line: &str) {
        if !self.quiet {
            self.stderr(line);
        }
    }

    /// Tells a person at a terminal something that a log does not need.
    pub fn status(&self, text: &str) {
        if !self.quiet && io::stderr().is_terminal() {
            self.stderr(text);
        }
    }

    /// A bar that counts bytes.
    pub fn byte_bar(&self, what: &str, total_bytes: u64) -> ProgressBar {
        const TEMPLATE: &str = "{prefix} {bar:30} {decimal_bytes} of {decimal_total_bytes} \
                                · {decimal_bytes_per_sec} {left}{msg}";
        self.bar(what, total_bytes, TEMPLATE)
    }

    /// A bar that counts things.
    pub fn count_bar(&self, what: &str, things: &str, count: u64) -> ProgressBar {
        let template = format!("{{prefix}} {{bar:30}} {{pos}} of {{len}} {things} {{left}}{{msg}}");
        self.bar(what, count, &template)
    }

    /// A count of things of which nobody knows how many will come.
    pub fn tally(&self, what: &str, things: &str) -> ProgressBar {
        self.bar(what, 0, &format!("{{prefix}} {{pos}} {things}{{msg}}"))
    }

    fn bar(&self, what: &str, len: u64, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new(len));
        if let Ok(style) = ProgressStyle::with_template(template) {
            let style = style.with_key("left", left);
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(what.to_string());
        bar
    }

    /// A line on stderr, above any bars.
    fn stderr(&self, line: &str) {
        let _stderr = give_back();
        // Nowhere to report a stderr that cannot be written to.
        let _ = writeln!(io::stderr().lock(), "{}", harmless(line));
    }
}

/// Names of files, messages of templates and the like come from strangers: no escape sequence of
/// theirs reaches the terminal.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn of_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write to stdout: {error}"))
}

/// Prints what clap has to say: the help or the version to stdout, wrong usage to stderr.
///
/// # Errors
/// When the help cannot be written.
pub fn print_clap(said: &clap::Error) -> io::Result<Exit> {
    let text = said.render();
    if said.use_stderr() {
        let _ = write!(anstream::stderr(), "{}", text.ansi()); // nowhere to report it
        return Ok(Exit::Usage);
    }
    let mut stdout = anstream::stdout();
    let mut write = || {
        closed::check()?;
        write!(stdout, "{}", text.ansi())?;
        stdout.flush()
    };
    match write() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(of_stdout(error)),
        _ => Ok(Exit::Done),
    }
}

/// The time left, once something is known of it.
fn left(state: &ProgressState, out: &mut dyn fmt::Write) {
    let eta = state.eta();
    if state.pos() > 0 && !eta.is_zero() {
        let _ = write!(out, "· {:#} left ", HumanDuration(eta)); // a String takes everything
    }
}

/// `is_whole` is when nothing follows.
fn write_stdout(bytes: &[u8], is_whole: bool) -> io::Result<Written> {
    let mut stdout = io::stdout().lock();
    let mut write = || {
        closed::check()?;
        stdout.write_all(bytes)?;
        if let Some(last) = bytes.last()
            && stdout.is_terminal()
        {
            LINE_IS_OPEN.store(*last != b'\n', Ordering::SeqCst);
        }
        if is_whole && LINE_IS_OPEN.swap(false, Ordering::SeqCst) {
            stdout.write_all(b"\n")?;
        }
        stdout.flush()
    };
    match write() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
        Err(error) => Err(of_stdout(error)),
        Ok(()) => Ok(Written::Whole),
    }
}

/// Takes away what is drawn, gives the cursor back and ends an open line. What it returns keeps
/// anyone else from writing to stderr.
pub fn give_back() -> StderrLock<'static> {
    if let Some(bars) = BARS.get() {
        let _ = bars.clear();
    }
    let mut stderr = screen::restore();
    if LINE_IS_OPEN.swap(false, Ordering::SeqCst) && stderr.is_terminal() {
        let _ = stderr.write_all(b"\n");
    }
    stderr
}

/// Prints `error: …` with its causes, and `hint: …` if there is one.
pub fn print_error(error: &anyhow::Error, hint: Option<&str>) {
    drop(give_back());
    let mut stderr = anstream::stderr().lock();
    let (red, cyan) = (
        style_of(anstyle::AnsiColor::Red),
        style_of(anstyle::AnsiColor::Cyan),
    );
    // `{:#}` joins the chain of causes with colons.
    let text = harmless(&format!("{error:#}"));
    let _ = writeln!(stderr, "{red}error:{red:#} {text}");
    if let Some(hint) = hint.map(harmless) {
        let _ = writeln!(stderr, "{cyan}hint:{cyan:#} {hint}");
    }
}

/// The colour, bold.
pub fn style_of(color: anstyle::AnsiColor) -> anstyle::Style {
    color.on_default().bold()
}

/// `12.3 s`, `2 min 05 s`
pub fn human_time(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 60.0 {
        format!("{secs:.1} s")
    } else {
        format!(
            "{} min {:02.0} s",
            (secs / 60.0).floor(),
            (secs % 60.0).floor()
        )
    }
}

/// `1 hole`, `2 holes`
pub fn count(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// `1.5 GB`, `16 MB`, in powers of ten as disks and the Hub count.
pub fn human_bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_as_people_say_them() {
        assert_eq!(count(1, "hole"), "1 hole");
        assert_eq!(count(0, "hole"), "0 holes");
        assert_eq!(human_time(Duration::from_millis(12_345)), "12.3 s");
        assert_eq!(human_time(Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(human_bytes(15_200_000_000), "15.20 GB");
    }
}

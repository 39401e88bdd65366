//! `--watch`, seen through a terminal emulator.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::binary::{diffucoder, isolation};
use crate::command::{refusal, tiny};

/// The binary at a terminal, and everything that it wrote there.
pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    written: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
    size: (u16, u16),
}

impl Terminal {
    pub fn start(rows: u16, columns: u16, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = CommandBuilder::new(assert_cmd::cargo::cargo_bin!("diffucoder"));
        command.args(args);
        Self::start_command(rows, columns, command, variables)
    }

    fn start_command(
        rows: u16,
        columns: u16,
        mut command: CommandBuilder,
        variables: &[(&str, &str)],
    ) -> Self {
        let size = PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size).unwrap();
        command.env("TERM", "xterm-256color");
        for (name, value) in isolation() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            }
        }
        for (name, value) in variables {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        let mut from = pair.master.try_clone_reader().unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose last user has gone reads as an error on Linux.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            child,
            master: pair.master,
            written,
            reader,
            size: (rows, columns),
        }
    }

    pub fn wait_for(&self, what: &str) {
        let started = Instant::now();
        while !String::from_utf8_lossy(&self.written.lock().unwrap()).contains(what) {
            assert!(started.elapsed() < Duration::from_secs(60), "no {what:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The exit code, all that was written, and the screen that it makes.
    pub fn finish(mut self) -> (u32, Vec<u8>, vt100::Parser) {
        let status = self.child.wait().unwrap();
        drop(self.master);
        self.reader.join().unwrap();
        let written = std::mem::take(&mut *self.written.lock().unwrap());
        let mut screen = vt100::Parser::new(self.size.0, self.size.1, 1000);
        screen.process(&written);
        let code = match status.signal() {
            Some("Interrupt") => 130, // as shells count
            _ => status.exit_code(),
        };
        (code, written, screen)
    }
}

fn args() -> Vec<&'static str> {
    tiny("class Stack:\n", "-n 40 --seed 5 --exact -t 1 --watch")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_canvas_fills_and_makes_room_for_the_text() {
    let args = args();
    let without = &args[..args.len() - 1];
    let plain = diffucoder(without).output().unwrap().stdout;
    let (code, written, screen) = Terminal::start(24, 80, &args, &[]).finish();
    assert_eq!(code, 0);
    let screen = screen.screen();
    assert!(!screen.hide_cursor());
    let written = text(&written);
    assert!(
        !written.contains("\x1b[2J") && !written.contains("\x1b[?1049h"),
        "the screen is the user's"
    );
    assert!(
        written.contains("step 40 · 40/40 tokens"),
        "the last frame was drawn"
    );
    assert!(written.contains("\x1b[7m"), "the newest stand out");
    // What is left is the text and the last line.
    let shown = screen.contents();
    assert!(!shown.contains("step 40 ·"), "{shown}");
    let first = text(&plain)
        .lines()
        .map(str::trim_end)
        .find(|line| !line.is_empty())
        .unwrap()
        .to_string();
    assert!(shown.contains(first.trim_start()), "{shown}");
}

#[test]
fn holes_fill_between_the_texts_around_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part.py");
    std::fs::write(&file, "a = <FILL:6>\nb = 12345\nc = <FILL:6>\n").unwrap();
    let file = file.to_str().unwrap();
    let args = [
        "infill", file, "--model", "tiny", "--seed", "1", "--exact", "--watch",
    ];
    let (code, written, screen) = Terminal::start(24, 80, &args, &[]).finish();
    assert_eq!(code, 0);
    let written = text(&written);
    assert!(written.contains("step 12 · 12/12 tokens"), "{written}");
    assert!(
        written.contains("12345"),
        "the text between the holes is drawn"
    );
    assert!(screen.screen().contents().contains("b = 12345"));
}

/// A bar for each would be drawn over the others, and none looks like a program that hangs.
#[test]
fn a_batch_of_several_at_a_time_shows_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    std::fs::write(&input, "{\"prompt\": \"def f(x):\"}\n".repeat(6)).unwrap();
    let files = [&input, &output].map(|path| path.to_str().unwrap());
    let flags = "--model tiny -n 32 --mode exact --seed 1 --parallel 3 -o";
    let args: Vec<&str> = ["batch", files[0]]
        .into_iter()
        .chain(flags.split(' '))
        .collect();
    let (code, written, screen) =
        Terminal::start(24, 80, &[&args[..], &files[1..]].concat(), &[]).finish();
    assert_eq!(code, 0);
    assert!(
        text(&written).contains("batch 0 lines"),
        "{}",
        text(&written)
    );
    let left = screen.screen().contents();
    assert!(!left.contains("batch") && left.contains("6 done"), "{left}");
}

#[test]
fn no_colours_when_they_are_not_wanted() {
    let (code, written, _) = Terminal::start(24, 80, &args(), &[("NO_COLOR", "1")]).finish();
    assert_eq!(code, 0);
    let written = text(&written);
    assert!(written.contains("step 40 ·"));
    let is_style = |part: &str| {
        part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
            .starts_with('m')
    };
    assert!(!written.split("\x1b[").skip(1).any(is_style), "{written:?}");
}

#[test]
fn an_interrupt_gives_the_cursor_back() {
    let args = tiny("class Stack:\n", "-n 450 --seed 5 --exact --watch");
    let terminal = Terminal::start(24, 80, &args, &[]);
    terminal.wait_for("step 2 ·");
    // Dropped, it types a new line, which the terminal echoes whenever it comes to it.
    let mut keys = terminal.master.take_writer().unwrap();
    keys.write_all(b"\x03").unwrap();
    let (code, written, screen) = terminal.finish();
    assert_eq!(code, 130);
    assert!(!screen.screen().hide_cursor());
    assert!(
        text(&written).ends_with("\x1b[?7h\x1b[?25h"),
        "nothing is drawn afterwards"
    );
    assert_eq!(
        screen.screen().cursor_position().1,
        0,
        "the shell begins on a line of its own"
    );
}

#[test]
fn any_size_will_do() {
    for (rows, columns) in [(24, 7), (3, 20), (2, 30), (2, 200)] {
        let (code, written, screen) = Terminal::start(rows, columns, &args(), &[]).finish();
        assert_eq!(code, 0, "{rows}x{columns}");
        assert!(!screen.screen().hide_cursor());
        // No frame is wider or higher than the terminal.
        let written = text(&written);
        for frame in written
            .split("\x1b[J")
            .filter(|frame| frame.contains("\x1b[K"))
        {
            assert!(
                frame.matches("\r\n").count() < usize::from(rows),
                "{rows}x{columns}: {frame:?}"
            );
        }
    }
}

#[test]
fn what_was_on_the_screen_stays() {
    // As a shell would have left it: the frame is drawn below, and removed again.
    let script = "echo first line; \"$0\" \"$@\" > /dev/null; echo last line";
    let mut command = CommandBuilder::new("sh");
    command.args(["-c", script]);
    command.arg(assert_cmd::cargo::cargo_bin!("diffucoder"));
    command.args(args());
    let (code, _, mut parser) = Terminal::start_command(12, 60, command, &[]).finish();
    assert_eq!(code, 0);
    let all = parser.screen().contents();
    parser.screen_mut().set_scrollback(1000);
    let everything = parser.screen().contents() + &all;
    assert!(everything.contains("first line"), "{everything}");
    assert!(all.contains("last line"), "{all}");
    assert!(
        everything.contains("step 40 ·"),
        "the text went elsewhere, so the last frame stays"
    );
}

#[test]
fn off_a_terminal_it_is_wrong_usage() {
    let (code, stderr) = refusal(&args());
    assert_eq!(code, Some(2));
    assert!(
        stderr.starts_with(
            "error: --watch draws on stderr, which is no terminal that can be drawn on here\nhint: "
        ),
        "{stderr}"
    );
    let (code, stderr) = refusal(&[&args()[..], &["--quiet"]].concat());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("which --quiet forbids"), "{stderr}");
    let (code, written, _) = Terminal::start(24, 80, &args(), &[("TERM", "dumb")]).finish();
    assert_eq!(code, 2, "{}", text(&written));
}

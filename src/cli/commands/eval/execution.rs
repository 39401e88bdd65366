//! Programs that a model wrote: whether Python parses them, and whether they pass their tests.
//!
//! Each has a Python process of its own, with limits (`guard.py`), in a process group of its own
//! and a folder that is removed behind it. That keeps off accidents; for code that means harm there
//! are containers.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use diffucoder::atomic::Folder;
use serde_json::json;

use crate::cli::usage::UsageError;

const GUARD: &str = include_str!("guard.py");
/// Prints what [`Python::find`] wants to know.
const WHICH: &str =
    "import sys; print(sys.executable, sys.version.split()[0], *sys.version_info[:2], sep='\\n')";
/// Time to parse a text.
const PARSE_TIME: Duration = Duration::from_secs(10);
/// Variables that Python, or libraries that it loads, may need to start.
const KEPT: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG"];
/// The first that has the hook which `guard.py` sets.
const OLDEST: (u32, u32) = (3, 8);

/// A Python that programs can be given to.
#[derive(Debug, Clone)]
pub struct Python {
    executable: PathBuf,
    pub version: String,
}

/// What is to become of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Parse,
    Run,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ran to its end, or parses.
    Passed {
        /// Whether it had no network.
        alone: bool,
    },
    Failed,
    /// It was ended.
    Late,
}

impl Verdict {
    pub fn is_passed(self) -> bool {
        matches!(self, Self::Passed { .. })
    }
}

impl Python {
    /// The Python of this machine.
    ///
    /// # Errors
    /// Wrong usage when there is none, or one that is too old.
    pub fn find() -> Result<Self, UsageError> {
        let mut old = None;
        for name in ["python3", "python"] {
            let asked = Command::new(name)
                .args(["-I", "-c", WHICH])
                .stdin(Stdio::null())
                .output();
            let Some(said) = asked
                .ok()
                .and_then(|out| String::from_utf8(out.stdout).ok())
            else {
                continue;
            };
            let lines: Vec<&str> = said.lines().collect();
            if let [executable, version, major, minor] = lines[..] {
                let number = |text: &str| text.parse().unwrap_or(0);
                if (number(major), number(minor)) >= OLDEST {
                    return Ok(Self {
                        executable: executable.into(),
                        version: version.into(),
                    });
                }
                old = Some(version.to_string());
            }
        }
        Err(UsageError::with_hint(
            match old {
                Some(version) => format!("Python {version} is too old"),
                None => "there is no python3 here".into(),
            },
            format!("install Python {}.{} or newer", OLDEST.0, OLDEST.1),
        ))
    }

    /// That of this machine; where there is none, tests say so and end.
    #[cfg(all(test, unix))]
    pub fn of_tests() -> Option<Self> {
        use std::io::Write;
        let found = Self::find().ok();
        if found.is_none() {
            let _ = writeln!(io::stderr(), "skipped: no Python here");
        }
        found
    }

    /// Whether it parses this.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn parses(&self, program: &str) -> anyhow::Result<bool> {
        let verdict = self.give(program, Purpose::Parse, PARSE_TIME)?;
        Ok(verdict.is_passed())
    }

    /// Whether this system lets a program run without network.
    ///
    /// # Errors
    /// When it does not run at all.
    pub fn is_alone(&self) -> anyhow::Result<bool> {
        match self.run("", PARSE_TIME)? {
            Verdict::Passed { alone } => Ok(alone),
            Verdict::Failed | Verdict::Late => {
                anyhow::bail!(
                    "{} does not run a program within limits",
                    self.executable.display()
                )
            }
        }
    }

    /// Runs a program that has so much time.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn run(&self, program: &str, time: Duration) -> anyhow::Result<Verdict> {
        self.give(program, Purpose::Run, time)
    }

    fn give(&self, program: &str, purpose: Purpose, time: Duration) -> anyhow::Result<Verdict> {
        let folder = Folder::new().context("cannot make a folder for the program")?;
        // Which exit code means success is not known to a program that ends itself.
        let passed = 64 + (RandomState::new().hash_one(0) % 128) as u8;
        let task = json!({
            "program": program,
            "runs": purpose == Purpose::Run,
            "seconds": time.as_secs(),
            "passed": passed,
        });
        let started = Instant::now();
        let child = self.start(&folder, &task.to_string());
        let mut child =
            child.with_context(|| format!("cannot run {}", self.executable.display()))?;
        let status = wait(&mut child, started + time);
        end(&mut child);
        Ok(match status?.map(|status| status.code()) {
            None => Verdict::Late,
            Some(code) if code == Some(passed.into()) => Verdict::Passed { alone: true },
            Some(code) if code == Some(i32::from(passed) + 1) => Verdict::Passed { alone: false },
            Some(_) => Verdict::Failed,
        })
    }

    fn start(&self, folder: &Folder, task: &str) -> io::Result<Child> {
        // A file and no pipe: nobody waits for anybody.
        let mut stdin: File = tempfile::tempfile()?;
        stdin.write_all(task.as_bytes())?;
        stdin.rewind()?;
        let mut command = Command::new(&self.executable);
        command
            .args(["-I", "-B", "-c", GUARD])
            .current_dir(folder.path())
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear()
            .envs(
                KEPT.iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            );
        for name in ["HOME", "TMPDIR", "TEMP", "TMP"] {
            command.env(name, folder.path());
        }
        for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"] {
            command.env(name, "1");
        }
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn()
    }
}

/// Waits for the end, which is `None` if it does not come in time.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (2 * pause).min(Duration::from_millis(20));
    }
}

/// Ends a process, if it has not ended, and its group.
fn end(child: &mut Child) {
    // Those that have gone already need no signal.
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn run(python: &Python, program: &str) -> Verdict {
        python.run(program, Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn programs_pass_that_end_well() {
        let Some(python) = Python::of_tests() else {
            return;
        };
        for program in [
            "assert 1 + 1 == 2",
            "import math, collections, re, typing, random, hashlib, statistics, datetime",
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 0\nassert A().x == 0",
            "open('mine', 'w').write('x')\nimport os\nos.rename('mine', 'yours')\nos.remove('yours')",
            "print('x' * 100_000)",
        ] {
            assert!(run(&python, program).is_passed(), "{program}");
        }
    }

    #[test]
    fn programs_fail_that_end_otherwise() {
        let Some(python) = Python::of_tests() else {
            return;
        };
        for program in [
            "assert 1 + 1 == 3",
            "def f(:",
            "input()",
            "exit(0)",
            "import os\nos._exit(0)",
            "def f(): f()\nf()",
            "raise KeyboardInterrupt",
        ] {
            assert_eq!(run(&python, program), Verdict::Failed, "{program}");
        }
    }

    #[test]
    fn a_program_has_so_much_memory_and_no_processes_or_files_but_its_own() {
        let Some(python) = Python::of_tests() else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("precious");
        std::fs::write(&file, "x").unwrap();
        let file = file.display();
        for program in [
            "x = bytearray(3 << 30)",
            "import os\nos.fork()",
            "import subprocess\nsubprocess.run(['true'])",
            "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()",
            "x = open('big', 'wb')\nx.write(bytes(17 << 20))\nx.close()",
            "x = [open('a', 'w') for _ in range(99)]",
            &format!("open('{file}', 'w')"),
            &format!("import os\nos.remove('{file}')"),
            &format!(
                "import shutil\nshutil.rmtree('{}')",
                folder.path().display()
            ),
            "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        ] {
            assert_eq!(run(&python, program), Verdict::Failed, "{program}");
        }
        assert_eq!(std::fs::read(folder.path().join("precious")).unwrap(), b"x");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let Some(python) = Python::of_tests() else {
            return;
        };
        for program in [
            "while True: pass",
            "import time\ntry:\n    time.sleep(99)\nexcept BaseException:\n    time.sleep(99)",
            "import os, signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\nwhile True: pass",
        ] {
            let verdict = python.run(program, Duration::from_secs(1)).unwrap();
            assert_eq!(verdict, Verdict::Late, "{program}");
        }
    }

    #[test]
    fn what_is_no_python_does_not_parse() {
        let Some(python) = Python::of_tests() else {
            return;
        };
        assert!(python.parses("def f():\n    return 1\n").unwrap());
        assert!(python.parses("while True: pass").unwrap(), "it is not run");
        for program in ["def f(:", "x = '", &"(".repeat(100_000), "\0"] {
            assert!(!python.parses(program).unwrap());
        }
    }
}

//! Where a batch's results go: a file that another run can continue, a pipe, or stdout.
//!
//! Each result is one line in one write. A run that is killed can leave half a line at the end; the
//! next one cuts it off. The file is locked while it is written. Nothing else of it changes before
//! there is a first result.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diffucoder::atomic;
use serde_json::Value;

use super::format::LineFormat;
use super::kept::{self, Kept};
use crate::cli::terminal::ui::{Ui, Written};
use crate::cli::usage::UsageError;

/// Takes results, and knows which were there before.
pub struct Sink<'a> {
    ui: &'a Ui,
    path: PathBuf,
    /// `None` is stdout.
    file: Option<File>,
    /// What is to be done before the first result, if it is no stream.
    first: Option<First>,
    /// Results that the file had already, by their ids' JSON.
    done: HashMap<String, usize>,
}

/// What the first result of a run does to a file.
struct First {
    /// Whether it takes the place of all others.
    restarts: bool,
    /// What is to be kept beside it, unless that is there.
    settings: Option<Kept>,
}

/// What to do with the results that are there: the flags of commands that go on where they were.
#[derive(clap::Args)]
pub struct ResumeArgs {
    /// Add to results that were made with other settings
    #[arg(long)]
    resume_anyway: bool,
    /// Drop the results that are there, as soon as there is a new one
    #[arg(long, conflicts_with = "resume_anyway")]
    pub restart: bool,
}

impl<'a> Sink<'a> {
    /// `path` or, for `-`, stdout.
    ///
    /// # Errors
    /// When the file cannot be written, is in use, holds something else than results, or results of
    /// other `settings` that may not be added to.
    pub fn open(
        path: &Path,
        format: LineFormat,
        (settings, resume): (Kept, &ResumeArgs),
        ui: &'a Ui,
    ) -> anyhow::Result<Self> {
        let sink = |file, first, done| Self {
            ui,
            path: path.to_path_buf(),
            file,
            first,
            done,
        };
        if path == Path::new("-") {
            return Ok(sink(None, None, HashMap::new()));
        }
        let cannot = || format!("cannot write {}", path.display());
        if let Some(stream) = atomic::open_stream(path).with_context(cannot)? {
            return Ok(sink(Some(stream), None, HashMap::new()));
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).with_context(cannot)?;
        lock(&file, path)?;
        let (results, bytes, is_ended) = results(&mut file, path, format)?;
        let restarts = resume.restart;
        let before = match restarts || results.is_empty() {
            true => None,
            false => check_settings(path, &settings, resume, ui)?,
        };
        cut(&mut file, path, bytes, ui)?;
        if !is_ended {
            file.write_all(b"\n").with_context(cannot)?; // an editor took it
        }
        let done = if restarts { HashMap::new() } else { results };
        let first = First {
            restarts,
            settings: Some(settings).filter(|settings| before.as_ref() != Some(settings)),
        };
        Ok(sink(Some(file), Some(first), done))
    }

    /// The results that were there before, one a line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn before(&mut self) -> anyhow::Result<String> {
        let mut text = String::new();
        if let (Some(file), Some(_)) = (&mut self.file, &self.first) {
            let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
            read.with_context(|| format!("cannot read {}", self.path.display()))?;
        }
        Ok(text)
    }

    /// How many results of this id were there before.
    pub fn done(&self, id: &Value) -> usize {
        self.done.get(&id.to_string()).copied().unwrap_or(0)
    }

    /// Adds a result.
    ///
    /// # Errors
    /// When it cannot be written. A reader that has gone is none.
    pub fn write(&mut self, result: &Value) -> anyhow::Result<Written> {
        let line = format!("{result}\n");
        let Some(file) = &mut self.file else {
            return Ok(self.ui.one_of_many(&line)?);
        };
        let cannot = || format!("cannot write {}", self.path.display());
        if let Some(First { restarts, settings }) = self.first.take() {
            if restarts {
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .with_context(cannot)?;
            }
            // A folder that may not be written to is no reason not to work.
            if let Some(Err(error)) = settings.map(|settings| settings.write(&self.path)) {
                self.ui
                    .note(&format!("the settings are not kept: {error:#}"));
            }
        }
        match file.write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
            written => written.map(|()| Written::Whole).with_context(cannot),
        }
    }
}

/// Keeps others from writing it.
fn lock(file: &File, path: &Path) -> anyhow::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(UsageError::with_hint(
            format!("another process is writing {}", path.display()),
            "wait for it, or give each process its own file and --shard",
        )
        .into()),
        // A file system without locks is no reason not to work.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot write {}", path.display()))
        }
        Ok(()) => Ok(()),
    }
}

/// Counts the results by their ids, and the bytes that they take; says whether the last line has
/// its end.
///
/// # Errors
/// When the file holds something else.
fn results(
    file: &mut File,
    path: &Path,
    format: LineFormat,
) -> anyhow::Result<(HashMap<String, usize>, u64, bool)> {
    let name = path.display();
    let mut done = HashMap::new();
    let (mut whole_bytes, mut line) = (0, Vec::new());
    let mut reader = BufReader::new(file);
    for number in 1.. {
        line.clear();
        reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {name}"))?;
        let result: Value = serde_json::from_slice(&line).unwrap_or_default();
        if line.last() != Some(&b'\n') && result.is_null() {
            break; // the end, or half a line
        }
        match (result.get(format.id_key()), result.get(format.text_key())) {
            (Some(id), Some(_)) => *done.entry(id.to_string()).or_default() += 1,
            _ => bail!("{name} holds something else than results (line {number})"),
        }
        whole_bytes += line.len() as u64;
        if line.last() != Some(&b'\n') {
            return Ok((done, whole_bytes, false));
        }
    }
    let start = format!("{{\"{}\":", format.id_key());
    let common = line.len().min(start.len());
    if line[..common] != start.as_bytes()[..common] {
        bail!("{name} holds something else than results (at its end)");
    }
    Ok((done, whole_bytes, true))
}

/// Leaves this many bytes, and goes to their end.
fn cut(file: &mut File, path: &Path, bytes: u64, ui: &Ui) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if file.metadata().with_context(cannot)?.len() > bytes {
        file.set_len(bytes).with_context(cannot)?;
        let name = path.display();
        ui.note(&format!("{name} ends in half a line: cutting it off"));
    }
    file.seek(SeekFrom::End(0)).map(drop).with_context(cannot)
}

/// Compares the settings with those of the results that are there, and gives these.
fn check_settings(
    path: &Path,
    settings: &Kept,
    resume: &ResumeArgs,
    ui: &Ui,
) -> anyhow::Result<Option<Kept>> {
    let (name, before) = (path.display(), Kept::read(path)?);
    let Some(before) = before else {
        ui.note(&format!(
            "{} is not there: taking the results in {name} to be made with these settings",
            kept::beside(path).display()
        ));
        return Ok(None);
    };
    let differences = settings.differences(&before);
    if !differences.is_empty() {
        let differences = differences.join(", ");
        let message = format!("{name} holds results of other settings: {differences}");
        if !resume.resume_anyway {
            let hint = "--resume-anyway adds to them, --restart drops them; or give another output";
            return Err(UsageError::with_hint(message, hint).into());
        }
        ui.note(&message);
    }
    Ok(Some(before))
}

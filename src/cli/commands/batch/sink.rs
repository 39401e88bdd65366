//! Where a batch's results go: a file that another run can continue, or stdout.
//!
//! Each result is one line in one write. A run that is killed can leave half a line at the end; the
//! next one cuts it off. The file is locked while it is written.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use super::format::LineFormat;
use crate::cli::terminal::ui::{Ui, Written};
use crate::cli::usage::UsageError;

/// Takes results, and knows which were there before.
pub struct Sink<'a> {
    out: Out<'a>,
    /// Results that the file had already, by id.
    done: HashMap<Value, usize>,
}

enum Out<'a> {
    Stdout(&'a Ui),
    File { file: File, path: PathBuf },
}

impl<'a> Sink<'a> {
    /// `path` or, for `-`, stdout.
    ///
    /// # Errors
    /// When the file cannot be written, is in use, or holds something else than results.
    pub fn open(path: &Path, format: LineFormat, ui: &'a Ui) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self {
                out: Out::Stdout(ui),
                done: HashMap::new(),
            });
        }
        let cannot = || format!("cannot write {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).with_context(cannot)?;
        let mut done = HashMap::new();
        if file.metadata().with_context(cannot)?.is_file() {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(UsageError::with_hint(
                        format!("another process is writing {}", path.display()),
                        "wait for it, or give each process its own file and --shard",
                    )
                    .into());
                }
                // A file system without locks is no reason not to work.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
                Ok(()) => {}
            }
            done = resume(&mut file, path, format, ui)?;
        }
        let path = path.to_path_buf();
        let out = Out::File { file, path };
        Ok(Self { out, done })
    }

    /// How many results of this id were there before.
    pub fn done(&self, id: &Value) -> usize {
        self.done.get(id).copied().unwrap_or(0)
    }
    pub fn write(&mut self, result: &Value) -> anyhow::Result<Written> {
        let line = format!("{result}\n");
        match &mut self.out {
            Out::Stdout(ui) => Ok(ui.one_of_many(&line)?),
            Out::File { file, path } => {
                file.write_all(line.as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Written::Whole)
            }
        }
    }
}

/// Counts the results, cuts off half a line at the end and goes there.
fn resume(
    file: &mut File,
    path: &Path,
    format: LineFormat,
    ui: &Ui,
) -> anyhow::Result<HashMap<Value, usize>> {
    let name = path.display();
    let mut done = HashMap::new();
    let (mut whole_bytes, mut line) = (0, Vec::new());
    let mut reader = BufReader::new(&mut *file);
    for number in 1.. {
        line.clear();
        reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {name}"))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let result: Value = serde_json::from_slice(&line).unwrap_or_default();
        match (result.get(format.id_key()), result.get(format.text_key())) {
            (Some(id), Some(_)) => *done.entry(id.clone()).or_default() += 1,
            _ => bail!("{name} holds something else than results (line {number})"),
        }
        whole_bytes += line.len() as u64;
    }
    if !line.is_empty() {
        let start = format!("{{\"{}\":", format.id_key());
        let common = line.len().min(start.len());
        if line[..common] != start.as_bytes()[..common] {
            bail!("{name} holds something else than results (at its end)");
        }
        ui.note(&format!("{name} ends in half a line: cutting it off"));
    }
    file.set_len(whole_bytes)
        .and_then(|()| file.seek(SeekFrom::End(0)))
        .with_context(|| format!("cannot write {name}"))?;
    Ok(done)
}

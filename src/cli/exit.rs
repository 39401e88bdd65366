//! The exit codes, and which failure has which; those of signals are 128 and their number.

use std::io;
use std::process::ExitCode;

use crate::cli::args::check::DoesNotParse;
use crate::cli::hints;
use crate::cli::usage::UsageError;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// What clap exits with too.
    Usage = 2,
    /// The result was written, but `--check` found that it does not parse.
    DoesNotParse = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Whether it is that nobody reads what is written into a pipe any more: the reader has enough.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_written = matches!(
        error.downcast_ref(),
        Some(diffucoder::Error::Write(_) | diffucoder::Error::Quantize(_))
    );
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    is_written && causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The exit code of a failure, and what the user can do about it.
pub fn of(error: &anyhow::Error) -> (Exit, Option<String>) {
    if let Some(usage) = error.downcast_ref::<UsageError>() {
        (Exit::Usage, usage.hint.clone())
    } else if let Some(problem) = error.downcast_ref::<DoesNotParse>() {
        (Exit::DoesNotParse, problem.hint.map(str::to_string))
    } else {
        let error = error.downcast_ref::<diffucoder::Error>();
        (Exit::Failed, error.and_then(hints::hint))
    }
}

//! The exit codes, and which failure has which; those of signals are 128 and their number.

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

/// The exit code of a failure, and what the user can do about it.
pub fn of(error: &anyhow::Error) -> (Exit, Option<String>) {
    if let Some(usage) = error.downcast_ref::<UsageError>() {
        (Exit::Usage, usage.hint.clone())
    } else if let Some(problem) = error.downcast_ref::<DoesNotParse>() {
        (Exit::DoesNotParse, problem.hint())
    } else {
        let error = error.downcast_ref::<diffucoder::Error>();
        (Exit::Failed, error.and_then(hints::hint))
    }
}

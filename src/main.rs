//! The `diffucoder` command: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    diffucoder::cli::main()
}

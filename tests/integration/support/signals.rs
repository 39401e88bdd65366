//! Children that signals end, whatever was ignored where the tests were started: a shell that runs
//! them in the background, or `nohup`, hands SIGINT and SIGHUP down as ignored.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

/// Starts the command with the signals of a terminal and of `kill` as they are by default.
#[allow(unsafe_code)]
pub fn with_default_signals(command: &mut Command) -> &mut Command {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: `signal` may be called between fork and exec, and the default is no code of
            // ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure calls `signal` alone, and allocates nothing.
    unsafe { command.pre_exec(reset) }
}

/// A shell that ignores SIGINT starts this test again, as one that runs it in the background would.
#[test]
fn what_is_ignored_here_is_not_ignored_by_children() {
    const INNER: &str = "DIFFUCODER_TEST_IGNORES_SIGINT";
    if std::env::var_os(INNER).is_none() {
        let name = "signals::what_is_ignored_here_is_not_ignored_by_children";
        let script = "trap '' INT; exec \"$0\" --exact \"$1\"";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap());
        let output = shell.arg(name).env(INNER, "1").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let mut plain = Command::new("sh");
    plain.args(["-c", "kill -INT $$"]);
    assert_eq!(plain.status().unwrap().code(), Some(0), "it is ignored");
    let ended = with_default_signals(&mut plain).status().unwrap();
    assert_eq!(ended.signal(), Some(libc::SIGINT));
}

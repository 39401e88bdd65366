//! What a signal does: the terminal is given back, nothing half-written stays, and the program ends
//! of the signal, which shells count as 128 and its number.
//!
//! A signal that was ignored when the program started stays ignored: `nohup` and shells that start
//! something in the background mean it.

use std::sync::Mutex;

use crate::cli::terminal::ui;
#[cfg(unix)]
use crate::cli::threads;

/// What the next SIGINT or SIGTERM does, where that is not to end the program.
static INSTEAD: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// The next SIGINT or SIGTERM does this; those that follow end the program as ever.
#[cfg(feature = "serve")]
pub fn on_next_end(instead: impl FnOnce() + Send + 'static) {
    if let Ok(mut slot) = INSTEAD.lock() {
        *slot = Some(Box::new(instead));
    }
}

/// SIGINT or SIGTERM.
fn end_or_instead(signal: i32) {
    let instead = INSTEAD.lock().ok().and_then(|mut slot| slot.take());
    match instead {
        Some(instead) => instead(),
        None => end(signal),
    }
}

/// Ends the program, whatever is being computed.
fn end(signal: i32) -> ! {
    let _stderr = ui::give_back(); // held to the end, as is the next: nothing comes after them
    let _files = diffucoder::atomic::abandon();
    #[cfg(unix)]
    end_of(signal);
    std::process::exit(128 + signal)
}

/// Ends as if nobody had listened: a shell ends its loop when a program of it dies of Ctrl-C, and
/// goes on when it exits.
#[cfg(unix)]
fn end_of(signal: i32) {
    use signal_hook::consts::SIGQUIT;

    // What SIGQUIT leaves would be as large as the weights; the first process of a container dies
    // of no signal.
    if signal != SIGQUIT && std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal); // else by the exit code
    }
}

/// Begins to listen.
#[cfg(not(unix))]
pub fn listen() -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(|| end_or_instead(2))?) // as if it were SIGINT
}

/// Begins to listen.
#[cfg(unix)]
pub fn listen() -> anyhow::Result<()> {
    use anyhow::Context;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    use signal_hook::iterator::Signals;

    // A file that grows beyond what the user is allowed is then an error of the write.
    const SIGXFSZ: i32 = libc::SIGXFSZ;
    let wanted = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGXFSZ];
    let wanted = wanted.into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals = Signals::new(wanted).context("cannot listen to signals")?;
    threads::start(move || {
        for signal in signals.forever() {
            match signal {
                SIGXFSZ => {}
                SIGTSTP => {
                    let _stderr = ui::give_back();
                    stop();
                }
                SIGINT | SIGTERM => end_or_instead(signal),
                signal => end(signal),
            }
        }
    })
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros are a `sigaction`, and one is only read into it: no handler is changed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Does what SIGTSTP does where nobody listens, and comes back when the program goes on. That is to
/// stop, but not where no shell could let it go on.
#[cfg(unix)]
#[allow(unsafe_code)]
fn stop() {
    // SAFETY: the handler that is put back is the one that was there, and the signal is raised
    // in this thread while the system's own is in place.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut ours);
        libc::raise(libc::SIGTSTP);
        libc::sigaction(libc::SIGTSTP, &raw const ours, std::ptr::null_mut());
    }
}

//! Whether stdout was closed when the program began (`>&-`).
//!
//! Before `main`, Rust's standard library opens the null device in the place of a closed stdout,
//! and what is written there is lost without an error. So it is looked at before that, as the
//! coreutils in Rust do. On systems without such a place for code it counts as open.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`: takes nothing from the standard library but an atomic.
#[cfg(unix)]
extern "C" fn look() {
    // SAFETY: F_GETFD takes no third argument and has no effect; a bad descriptor is its answer.
    #[allow(unsafe_code)]
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    IS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions that the system calls once, before `main`.
#[cfg(unix)]
#[allow(unsafe_code)]
#[used]
#[cfg_attr(
    target_vendor = "apple",
    unsafe(link_section = "__DATA,__mod_init_func")
)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static LOOK: extern "C" fn() = look;

/// The error of a write to a stdout that is not there.
pub fn check() -> io::Result<()> {
    match IS_CLOSED.load(Ordering::Relaxed) {
        true => Err(io::Error::other("it is closed")),
        false => Ok(()),
    }
}

//! What happens before the first test: how the tests were started is nothing that they are about.
#![allow(unsafe_code, reason = "before main, and by system calls that have no safe form")]

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

/// The C library calls this before `main`.
#[used]
// SAFETY: the section holds pointers to functions of this type.
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    // A process in a role has what it was started with.
    if super::role().is_some() {
        return;
    }
    // What tests write is for workers of another user to read.
    umask(Mode::from_bits_truncate(0o022));
    default_ignored_signals();
}

/// What tests start is ended by signals. SIGPIPE alone stays as it is: Rust's runtime ignores it.
fn default_ignored_signals() {
    for signal in Signal::iterator().filter(|signal| *signal != Signal::SIGPIPE) {
        // SAFETY: the kernel is given nothing to read, and writes one struct.
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            // SAFETY: the default action is no function of this process.
            unsafe { libc::signal(signal as libc::c_int, libc::SIG_DFL) };
        }
    }
}

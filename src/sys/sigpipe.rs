//! `[broker]` Writing to what has no reader, without the signal for it.

use std::io;
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Runs `write`. If it fails, a SIGPIPE that came of it is taken back: it would end the process, unless that ignores
/// it, as Rust's runtime does for programs with a Rust `main`. Two system calls where all goes well.
pub(crate) fn without_sigpipe<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut held = Held::back();
    let written = write();
    held.may_be_pending = written.is_err();
    written
}

/// SIGPIPE of this thread waits while this lives.
struct Held {
    before: Option<SigSet>,
    /// Also after a panic of the writer.
    may_be_pending: bool,
}

impl Held {
    fn back() -> Self {
        let mut pipe = SigSet::empty();
        pipe.add(Signal::SIGPIPE);
        // Cannot fail with these arguments; if it does, the signal is not held back.
        Self { before: pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok(), may_be_pending: true }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        if self.may_be_pending {
            take_pending();
        }
        let _ = before.thread_set_mask();
    }
}

/// The kernel raises SIGPIPE for the thread that writes, so it is pending before the write returns.
fn take_pending() {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time live across the call, which only reads them (sigtimedwait(2)); no information about
    // the signal is asked for, which is what the null pointer says.
    unsafe { libc::sigtimedwait(pipe.as_ref(), ptr::null_mut(), &at_once) };
}

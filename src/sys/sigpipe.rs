//! `[broker]` Writing to what has no reader, without the signal for it.

use std::io;
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Runs `write`. If it fails, a SIGPIPE that came of it is taken back: it would end the process, unless that ignores
/// it, as Rust's runtime does for programs with a Rust `main`. Who holds SIGPIPE back itself finds it pending: one that
/// was there before is not to be lost. Two system calls where all goes well.
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
        if self.may_be_pending && !before.contains(Signal::SIGPIPE) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    /// As the kernel does for a write that has no reader.
    fn raise() {
        // SAFETY: this thread lives while it calls.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE) }, 0);
    }

    fn is_pending() -> bool {
        // SAFETY: sigpending(2) fills the whole set, which is exclusively borrowed.
        let set = unsafe {
            let mut set = std::mem::zeroed();
            assert_eq!(libc::sigpending(&raw mut set), 0);
            SigSet::from_sigset_t_unchecked(set)
        };
        set.contains(Signal::SIGPIPE)
    }

    /// U-02: a SIGPIPE that came of the write is taken back; what the thread held back itself stays as it was.
    #[test]
    fn u_02_a_signal_that_was_pending_before_stays() {
        let mut pipe = SigSet::empty();
        pipe.add(Signal::SIGPIPE);
        // Whoever started the tests may have held it back.
        pipe.thread_unblock().unwrap();
        let fails = || {
            without_sigpipe(|| -> io::Result<()> {
                raise();
                assert!(is_pending());
                Err(io::ErrorKind::BrokenPipe.into())
            })
        };
        fails().unwrap_err();
        assert!(!is_pending());
        pipe.thread_block().unwrap();
        raise();
        fails().unwrap_err();
        assert!(is_pending(), "it was there before");
        take_pending();
        pipe.thread_unblock().unwrap();
    }
}

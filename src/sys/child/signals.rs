//! `[broker -> worker]` Signals: nothing of the parent's is left in the new process.

use super::calls;
use crate::sys::call::Errno;
use crate::sys::clone::Handlers;

/// Rust's runtime ignores SIGPIPE, and Python's SIGXFSZ, by which a limit ends who writes beyond it; what is ignored stays
/// so across exec. Handlers, exec takes away; but a signal may come before that, when they are no longer blocked.
pub(super) fn reset(handlers: Handlers) -> Result<(), Errno> {
    calls::default_action(libc::SIGPIPE)?;
    calls::default_action(libc::SIGXFSZ)?;
    if handlers == Handlers::Cleared {
        return Ok(());
    }
    for signal in 1..=64 {
        if calls::has_handler(signal)? {
            calls::default_action(signal)?;
        }
    }
    Ok(())
}

/// Blocks all signals in this thread, and answers which were.
pub(super) fn block() -> Result<u64, Errno> {
    calls::change_mask(u64::MAX)
}

/// Blocks these, and no others.
pub(super) fn set_mask(mask: u64) -> Result<(), Errno> {
    calls::change_mask(mask).map(drop)
}

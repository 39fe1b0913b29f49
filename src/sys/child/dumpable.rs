//! `[broker]` A flag of the broker's memory that its children change.

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::process;

/// The process's PR_SET_DUMPABLE, which a child that shares its memory clears by changing its ids, until the last such
/// child has left this memory. Not set any earlier: for whoever may trace the child's new user, that child would be a
/// door to this memory.
pub(super) struct Dumpable;

static BORROWED: Mutex<(usize, c_int)> = Mutex::new((0, 0));

impl Dumpable {
    pub(super) fn keep() -> Self {
        let mut borrowed = borrowed();
        if borrowed.0 == 0 {
            borrowed.1 = process::dumpable();
        }
        borrowed.0 += 1;
        Self
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut borrowed = borrowed();
        borrowed.0 -= 1;
        if borrowed.0 == 0 && process::dumpable() != borrowed.1 {
            process::set_dumpable(borrowed.1);
        }
    }
}

fn borrowed() -> MutexGuard<'static, (usize, c_int)> {
    BORROWED.lock().unwrap_or_else(PoisonError::into_inner)
}

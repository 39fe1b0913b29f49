//! `[broker -> worker]` The system-call filter, put on the new process by itself.

use std::os::fd::RawFd;

use super::calls;
use crate::sys::call::Errno;

/// A program for seccomp(2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    pub(crate) code: &'a [seccompiler::sock_filter],
    /// Whether it has a listener (SECCOMP_FILTER_FLAG_NEW_LISTENER).
    pub(crate) listener: bool,
}

const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

impl Filter<'_> {
    /// Answers its listener.
    pub(super) fn install(&self) -> Result<Option<RawFd>, Errno> {
        if !self.listener {
            return calls::set_filter(self.code, 0).map(|_| None);
        }
        let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        // Linux 5.19 has the flag by which no signal interrupts a call that is judged.
        match calls::set_filter(self.code, listener | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            Err(Errno(libc::EINVAL)) => calls::set_filter(self.code, listener),
            installed => installed,
        }
        .map(Some)
    }
}

/// Sends the listener. The kernel counts what is in flight for the whole user (K9), of which others that start at the
/// same time are a part for a moment: then it is tried anew, for a second. By the clock: on a machine that others keep
/// busy, a pause is longer than it should be.
pub(super) fn hand_over(listener: RawFd, socket: RawFd) -> Result<(), Errno> {
    let mut late = None;
    loop {
        match calls::send_descriptor(socket, listener) {
            Err(refused @ Errno(libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM)) => {
                let now = calls::milliseconds()?;
                if now >= *late.get_or_insert(now.wrapping_add(1000)) {
                    return Err(refused);
                }
                calls::pause_for_a_millisecond();
            }
            done => return done,
        }
    }
}

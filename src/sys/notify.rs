//! `[broker]` What a system-call filter asks its listener: seccomp_unotify(2).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The number of the system call that waits for an answer. None if the process that made it is gone. It waits until
/// there is one: poll(2) says when.
pub(crate) fn next(listener: &OwnedFd) -> io::Result<Option<i64>> {
    // SAFETY: numbers, which the kernel wants to be zero.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct. (A kernel whose struct is larger writes no more for this request's number,
    // in which the size stands.)
    let status = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut asked) };
    if status == 0 {
        return Ok(Some(asked.data.nr.into()));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

//! `[broker]` What a system-call filter asks its listener: seccomp_unotify(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::process;

/// A system call that waits for an answer, which it never gets.
pub(crate) struct Asked {
    pub(crate) number: i64,
    id: u64,
    process: u32,
}

/// The next one. None if the process that made it is gone. It waits until there is one: poll(2) says when.
pub(crate) fn next(listener: &OwnedFd) -> io::Result<Option<Asked>> {
    // SAFETY: numbers, which the kernel wants to be zero.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct. (A kernel whose struct is larger writes no more for this request's number,
    // in which the size stands.)
    let status = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut asked) };
    if status == 0 {
        return Ok(Some(Asked { number: asked.data.nr.into(), id: asked.id, process: asked.pid }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

impl Asked {
    /// Kills the process that made the call, which may be one that the worker has made.
    pub(crate) fn kill(&self, listener: &OwnedFd) {
        let Ok(pidfd) = process::pidfd(self.process) else { return };
        // While the call waits, nobody else has its process's number: then the pidfd is of that process.
        // SAFETY: the kernel reads one number.
        let waits =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const self.id) };
        if waits == 0 {
            let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

//! `[both]` Advisory locks of whole files.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks the file for this open file description, if nobody else has: flock(2). The lock goes when the last descriptor
/// of the description is closed. Not nix's `Flock`, whose drop unlocks: in a forked process that would take its
/// parent's lock.
pub(crate) fn try_exclusive(file: &File) -> io::Result<bool> {
    loop {
        // SAFETY: takes two numbers, which the kernel checks, and touches no memory of this process.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(false),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

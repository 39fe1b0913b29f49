//! `[broker -> worker]` Descriptors 0, 1 and 2, of the broker and of the worker.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::landlock::open_path;

/// Occupies those of 0, 1 and 2 that the broker has closed, for as long as the answer lives. std puts the worker's own
/// over these numbers in the child, and would put them over what was opened for the worker; and the broker's end of the
/// channel would stay there, for the next `println!` to write into.
pub(super) fn occupy() -> io::Result<Vec<File>> {
    let mut occupied = Vec::new();
    loop {
        let file = open_path(Path::new("/"))?;
        if file.as_raw_fd() > 2 {
            return Ok(occupied);
        }
        occupied.push(file);
    }
}

/// The broker's own standard output or error for a worker: the same terminal or pipe, but opened once more, for writing
/// only, so that what the worker does to its flags (O_NONBLOCK) is not done to the broker's, and a terminal is not
/// there to be read. `None` where that cannot be, and for files, where the two must share one offset: the worker then
/// gets a duplicate.
pub(super) fn reopened(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let metadata = File::from(fd.try_clone_to_owned().ok()?).metadata().ok()?;
    if !metadata.file_type().is_fifo() && !metadata.file_type().is_char_device() {
        return None;
    }
    // Without O_NONBLOCK, a pipe that nobody reads any more would hold this up.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = File::options().write(true).custom_flags(flags).open(path).ok()?;
    let status = fcntl(file.as_fd(), FcntlArg::F_GETFL).ok()?;
    let blocking = OFlag::from_bits_retain(status) & !OFlag::O_NONBLOCK;
    fcntl(file.as_fd(), FcntlArg::F_SETFL(blocking)).ok()?;
    Some(file.into())
}

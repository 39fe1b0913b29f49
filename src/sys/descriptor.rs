//! `[both]` What the kernel says of a descriptor, where nix asks in a way that can wait or that can fail.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// What statx(2) says of the file behind a descriptor.
pub(crate) struct Status {
    /// Of `st_mode`, the bits of S_IFMT.
    pub(crate) file_type: u32,
    /// Of the file system: major, minor.
    pub(crate) device: (u32, u32),
    pub(crate) block_size: u32,
}

/// Asks what is known here, not a server: fstat(2) on a file of FUSE waits for an answer that whoever sent the
/// descriptor may never give. The three fields are known without one. Works on O_PATH descriptors.
pub(crate) fn status(fd: BorrowedFd<'_>) -> io::Result<Status> {
    let statx = statx(fd, libc::STATX_TYPE)?;
    Ok(Status {
        file_type: u32::from(statx.stx_mode) & libc::S_IFMT,
        device: (statx.stx_dev_major, statx.stx_dev_minor),
        block_size: statx.stx_blksize,
    })
}

/// What tells a file from every other that there is, and, where the file system keeps the time of birth, from those
/// that had its number before or will have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Of the file system: major, minor.
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds since 1970.
    birth: Option<(i64, u32)>,
}

/// Asks what is known here, as [`status`] does. Works on O_PATH descriptors.
pub(crate) fn identity(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    let statx = statx(fd, libc::STATX_INO | libc::STATX_BTIME)?;
    Ok(Identity {
        device: (statx.stx_dev_major, statx.stx_dev_minor),
        inode: statx.stx_ino,
        birth: (statx.stx_mask & libc::STATX_BTIME != 0).then_some((statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec)),
    })
}

fn statx(fd: BorrowedFd<'_>, fields: libc::c_uint) -> io::Result<libc::statx> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a C string, and the kernel writes one struct statx, which is exclusively borrowed.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, fields, statx.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and numbers only: every pattern of bits is a struct statx.
    Ok(unsafe { statx.assume_init() })
}

/// The id of the mount on which `name` in `directory` is (statx(2)), or, for an empty name, `directory` itself. No link
/// and no automount is followed. None where the kernel does not say: Linux before 5.8. Two mounts that are there at
/// the same time never have the same id; one that is gone may have left its id to another.
pub(crate) fn mount_id(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<u64>> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a C string, and the kernel writes one struct statx, which is exclusively borrowed.
    let done =
        unsafe { libc::statx(directory.as_raw_fd(), name.as_ptr(), flags, libc::STATX_MNT_ID, statx.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and numbers only: every pattern of bits is a struct statx.
    let statx = unsafe { statx.assume_init() };
    Ok((statx.stx_mask & libc::STATX_MNT_ID != 0).then_some(statx.stx_mnt_id))
}

/// Whether the mount option `nosymfollow` (Linux 5.10) is set where this is. nix leaves out what it has no name for.
pub(crate) fn is_nosymfollow(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut statvfs = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the kernel writes one struct statvfs, which is exclusively borrowed.
    if unsafe { libc::fstatvfs(fd.as_raw_fd(), statvfs.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and numbers only: every pattern of bits is a struct statvfs.
    let statvfs = unsafe { statvfs.assume_init() };
    // ST_NOSYMFOLLOW of include/linux/statfs.h.
    Ok(statvfs.f_flag & 0x2000 != 0)
}

/// Whether the descriptor is a pidfd, of a process that runs, has ended, or has been reaped. waitid(2) takes nothing
/// else for P_PIDFD (EBADF); for a process that is no child of this one, or no longer there, it says ECHILD. With these
/// flags it neither waits nor reaps. Not by nix, which fails on a child that a real-time signal has ended, and not by
/// pidfd_send_signal(2), which takes a directory of /proc as well.
pub(crate) fn is_pidfd(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let Ok(id) = libc::id_t::try_from(fd.as_raw_fd()) else { return Ok(false) };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: the kernel writes one siginfo_t, which is exclusively borrowed and never read.
    let status = unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), flags) };
    if status == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ECHILD) => Ok(true),
        Some(libc::EBADF) => Ok(false),
        _ => Err(error),
    }
}

/// Closes all of them: where the first and the last are as far apart as they are many, with one call. The kernel's
/// close_range(2) is not to be had everywhere (Linux 5.9); then one after the other.
pub(crate) fn close_all(fds: &mut Vec<OwnedFd>) {
    if let [first, .., last] = &fds[..] {
        let (low, high) = (first.as_raw_fd(), last.as_raw_fd());
        let consecutive = fds.windows(2).all(|two| two[0].as_raw_fd().checked_add(1) == Some(two[1].as_raw_fd()));
        let (low, high) = (libc::c_uint::try_from(low), libc::c_uint::try_from(high));
        if let (true, Ok(low), Ok(high)) = (consecutive, low, high) {
            // SAFETY: every number from the first to the last is one of `fds`, which owns them and is emptied without
            // closing them again when the kernel has done so. It closes none of them when it fails.
            let done = unsafe { libc::syscall(libc::SYS_close_range, low, high, 0 as libc::c_uint) };
            if done == 0 {
                for fd in fds.drain(..) {
                    let _ = fd.into_raw_fd();
                }
                return;
            }
        }
    }
    fds.clear();
}

/// A duplicate, close-on-exec, with the lowest free number that is at least `lowest`.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

//! `[both]` Who is at the other end, and who sent a message.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A process, by the numbers that the kernel vouches for. They cannot be forged, but they are as the kernel translates them
/// for this process: an id that its user namespace does not map is 65534.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// `None` when the process cannot be named here: it is outside of this process's PID namespace, or the message was
    /// queued before its receiver asked for credentials (K23). A process that has ended leaves its number to others: to act
    /// on a process take a [`PidFd`].
    pub pid: Option<u32>,
    /// The effective user, unless the sender of a message chose its real or saved one.
    pub uid: u32,
    /// The effective group, with the same exception.
    pub gid: u32,
}

/// A descriptor that stands for a process, and goes on to stand for it when its number has gone to another (pidfd_open(2)).
/// It is readable, as poll(2) and epoll(7) say it, when the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    pub(crate) fn from_kernel(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

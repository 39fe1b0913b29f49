//! `[both]` Who is at the other end, and who sent a message.

#[cfg(target_os = "linux")]
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[cfg(target_os = "linux")]
use nix::sys::socket::{getsockopt, sockopt};

use super::{Channel, os};
use crate::error::ChannelError;
use crate::sys::platform;
use crate::sys::scm::Arrived;
#[cfg(target_os = "linux")]
use crate::sys::socket;

/// A process, by the numbers that the kernel vouches for. They cannot be forged, but they are as the kernel translates
/// them for this process: an id that its user namespace does not map is 65534.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// `None` when the process cannot be named here: it is outside of this process's PID namespace, or the message was
    /// queued before its receiver asked for credentials (K23). A process that has ended leaves its number to others: to
    /// act on a process take a [`PidFd`].
    pub pid: Option<u32>,
    /// The effective user, unless the sender of a message chose its real or saved one.
    pub uid: u32,
    /// The effective group, with the same exception.
    pub gid: u32,
}

/// Whose end the other end **was made** by. The kernel notes it once, and never again (K16):
///
/// | channel | who is named |
/// |---|---|
/// | of a [pair](Channel::pair) | who made the pair, at **both** ends: not the child that was given one |
/// | that a [`Listener`](super::Listener) accepted | who called connect(2), with the ids of that moment |
/// | that [connected](Channel::connect) | who called listen(2), with the ids of that moment: perhaps systemd |
///
/// Whoever holds the end *now* may be another process, which inherited it or received it. Only the messages themselves
/// say who sent them.
#[cfg(target_os = "linux")]
impl Channel {
    /// Process, user and group of the peer (SO_PEERCRED), as the table above says. Does not wait, and receives nothing.
    ///
    /// # Errors
    /// * [`ChannelError::Unsupported`]: the socket never was connected by connect(2), accept(2) or socketpair(2).
    /// * [`ChannelError::Os`]: getsockopt(2) failed.
    pub fn peer_credentials(&self) -> Result<Credentials, ChannelError> {
        credentials_of(self.as_fd())
    }

    /// A descriptor of the process that [`peer_credentials`](Self::peer_credentials) names (SO_PEERPIDFD, Linux 6.5),
    /// which cannot come to mean another process as its number can. Close-on-exec. Does not wait.
    ///
    /// # Errors
    /// * [`ChannelError::Unsupported`]: an older kernel, or the socket never was connected.
    /// * [`ChannelError::DescriptorTableFull`]: this process has no free descriptor.
    /// * [`ChannelError::Os`]: anything else. ESRCH or EINVAL: the process has ended, on kernels before 6.16.
    pub fn peer_pidfd(&self) -> Result<PidFd, ChannelError> {
        match socket::peer_pidfd(self.as_fd()) {
            Ok(fd) => Ok(PidFd::from_kernel(fd)),
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) => {
                    ChannelError::Unsupported { what: "SO_PEERPIDFD, which Linux has since 6.5" }
                }
                Some(libc::ENODATA) => ChannelError::Unsupported { what: NEVER_CONNECTED },
                Some(libc::EMFILE) => ChannelError::DescriptorTableFull,
                _ => os("getsockopt(SO_PEERPIDFD)", error),
            }),
        }
    }
}

/// Who made the other end of a socket.
#[cfg(target_os = "linux")]
pub(super) fn credentials_of(socket: BorrowedFd<'_>) -> Result<Credentials, ChannelError> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)
        .map_err(|errno| os("getsockopt(SO_PEERCRED)", io::Error::from(errno)))?;
    // No user: what the kernel writes for a socket that has no peer. An id that cannot be translated is 65534 instead.
    if peer.uid() == u32::MAX {
        return Err(ChannelError::Unsupported { what: NEVER_CONNECTED });
    }
    let pid = u32::try_from(peer.pid()).ok().filter(|&pid| pid != 0);
    Ok(Credentials { pid, uid: peer.uid(), gid: peer.gid() })
}

#[cfg(target_os = "linux")]
const NEVER_CONNECTED: &str = "a peer's credentials, on a socket that was never connected";

/// A descriptor that stands for a process, and goes on to stand for it when its number has gone to another
/// (pidfd_open(2)). It is readable, as poll(2) and epoll(7) say it, when the process has ended.
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

/// Who sent a message.
pub(super) fn sender(arrived: &Arrived) -> Option<Credentials> {
    // Process 0 is the kernel's word for "unknown". The user that then stands there (65534, mostly) is nobody's either.
    let [pid, uid, gid] = arrived.credentials.filter(|&[pid, ..]| pid != 0)?;
    Some(Credentials { pid: Some(pid), uid, gid })
}

/// The process that sent a message, unless its credentials are asked for and say that nobody knows.
pub(super) fn take_pidfd(arrived: &mut Arrived) -> Option<PidFd> {
    let pidfd = arrived.pidfd.take();
    pidfd.filter(|_| !matches!(arrived.credentials, Some([0, ..]))).map(PidFd::from_kernel)
}

/// What the kernel adds to each message that is received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SenderOptions {
    pub(super) credentials: bool,
    pub(super) pidfd: bool,
}

impl SenderOptions {
    /// Those that are set on a socket.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Self {
        Self { credentials: platform::passes_credentials(socket), pidfd: platform::passes_pidfd(socket) }
    }

    /// Whether more than these are set on a socket.
    pub(super) fn is_exceeded_by(self, socket: BorrowedFd<'_>) -> bool {
        let set = Self::of(socket);
        (set.credentials && !self.credentials) || (set.pidfd && !self.pidfd) || platform::passes_security(socket)
    }
}

impl Channel {
    /// Asks the kernel to say with each message who sent it: see [`Packet::sender`](super::Packet::sender)
    /// (SO_PASSCRED). The sender need not do anything, and cannot lie: naming another process or user takes
    /// CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID.
    ///
    /// Set it before the other end is given away: a message that is queued already has no sender (K23). The option
    /// belongs to the socket, as O_NONBLOCK does; setting it on a duplicate behind the channel's back leads to
    /// [`ChannelError::UnexpectedControlData`] instead of descriptors.
    ///
    /// # Errors
    /// [`ChannelError::Unsupported`]: this is not Linux. [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn set_sender_credentials(&mut self, on: bool) -> Result<(), ChannelError> {
        if !platform::pass_credentials(self.as_fd(), on).map_err(|error| os("setsockopt(SO_PASSCRED)", error))? && on {
            return Err(ChannelError::Unsupported { what: "credentials with each message (SO_PASSCRED, Linux)" });
        }
        self.sender.credentials = on;
        Ok(())
    }

    /// Asks the kernel to give with each message a descriptor of the process that sent it: see
    /// [`Packet::take_sender_pidfd`](super::Packet::take_sender_pidfd) (SO_PASSPIDFD, Linux 6.5). It takes one number
    /// of this process's descriptor table beside those of the budget; where there is none, the message is
    /// [`ChannelError::DescriptorTableFull`].
    ///
    /// # Errors
    /// [`ChannelError::Unsupported`]: the kernel is older. [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn set_sender_pidfd(&mut self, on: bool) -> Result<(), ChannelError> {
        if !platform::pass_pidfd(self.as_fd(), on).map_err(|error| os("setsockopt(SO_PASSPIDFD)", error))? && on {
            return Err(ChannelError::Unsupported { what: "a pidfd with each message (SO_PASSPIDFD, Linux 6.5)" });
        }
        self.sender.pidfd = on;
        Ok(())
    }
}

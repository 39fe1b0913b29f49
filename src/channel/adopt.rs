//! `[both]` Channels over sockets that somebody else made, perhaps without close-on-exec and with options set.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::peer::SenderOptions;
use super::{Channel, Kind, os};
use crate::error::ChannelError;
use crate::sys::socket;

impl Channel {
    fn adopt(socket: OwnedFd, kind: Kind) -> Self {
        let sender = SenderOptions::of(socket.as_fd());
        Self { sender, ..Self::over(socket, kind) }
    }
}

/// Takes any UNIX socket that is SOCK_SEQPACKET, SOCK_STREAM or SOCK_DGRAM (asked of the kernel: SO_DOMAIN, SO_TYPE) and
/// sets close-on-exec. It is for the caller to know that it is connected to one peer.
impl TryFrom<OwnedFd> for Channel {
    type Error = ChannelError;

    /// # Errors
    /// [`ChannelError::NotASocket`], or [`ChannelError::Os`]: the kernel, or who filters system calls, does not let it be asked or set.
    /// The descriptor is closed.
    fn try_from(fd: OwnedFd) -> Result<Self, ChannelError> {
        let domain = socket::domain(fd.as_fd()).map_err(|error| no_answer("getsockopt(SO_DOMAIN)", error))?;
        let kind = socket::kind(fd.as_fd()).map_err(|error| no_answer("getsockopt(SO_TYPE)", error))?;
        let kind = match (domain, kind) {
            (libc::AF_UNIX, libc::SOCK_SEQPACKET) => Kind::SeqPacket,
            (libc::AF_UNIX, libc::SOCK_STREAM) => Kind::Stream,
            (libc::AF_UNIX, libc::SOCK_DGRAM) => Kind::Datagram,
            _ => return Err(ChannelError::NotASocket),
        };
        close_on_exec(&fd).map_err(|errno| os("fcntl(F_SETFD)", errno.into()))?;
        Ok(Self::adopt(fd, kind))
    }
}

/// A channel of [`Kind::Stream`]: the peer must be a `Channel` too, for the framing.
impl From<UnixStream> for Channel {
    fn from(socket: UnixStream) -> Self {
        let socket = socket.into();
        // Std has made most of these, and made them close-on-exec. Cannot fail on an open descriptor.
        let _ = close_on_exec(&socket);
        Self::adopt(socket, Kind::Stream)
    }
}

/// A channel of [`Kind::Datagram`].
impl From<UnixDatagram> for Channel {
    fn from(socket: UnixDatagram) -> Self {
        let socket = socket.into();
        // As for a stream.
        let _ = close_on_exec(&socket);
        Self::adopt(socket, Kind::Datagram)
    }
}

fn close_on_exec(socket: &OwnedFd) -> nix::Result<i32> {
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
}

/// What is no socket says ENOTSOCK; what is open as a path only, EBADF.
fn no_answer(call: &'static str, error: io::Error) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::ENOTSOCK | libc::EBADF) => ChannelError::NotASocket,
        _ => os(call, error),
    }
}

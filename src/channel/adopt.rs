//! `[both]` Channels over sockets that somebody else made, perhaps without close-on-exec and with options set.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::peer::SenderOptions;
use super::{Channel, Kind, os};
use crate::error::ChannelError;
use crate::sys::{platform, socket};

impl Channel {
    pub(super) fn adopt(socket: OwnedFd, kind: Kind) -> Self {
        // Most are close-on-exec already, by std or by the system call that made them.
        let _ = platform::close_on_exec(&socket);
        Self::prepared(socket, kind)
    }

    fn prepared(socket: OwnedFd, kind: Kind) -> Self {
        platform::prepare(&socket);
        let sender = SenderOptions::of(socket.as_fd());
        Self { sender, ..Self::over(socket, kind) }
    }
}

/// Takes any UNIX socket that is SOCK_SEQPACKET, SOCK_STREAM or SOCK_DGRAM (asked of the kernel: SO_DOMAIN, SO_TYPE)
/// and sets close-on-exec. It is for the caller to know that it is connected to one peer.
impl TryFrom<OwnedFd> for Channel {
    type Error = ChannelError;

    /// # Errors
    /// [`ChannelError::NotASocket`], or [`ChannelError::Os`]: the kernel, or who filters system calls, does not let it
    /// be asked or set. The descriptor is closed.
    fn try_from(fd: OwnedFd) -> Result<Self, ChannelError> {
        let domain = platform::domain(fd.as_fd()).map_err(|error| no_answer("getsockopt(SO_DOMAIN)", error))?;
        let kind = socket::kind(fd.as_fd()).map_err(|error| no_answer("getsockopt(SO_TYPE)", error))?;
        let kind = match (domain, kind) {
            (libc::AF_UNIX, libc::SOCK_SEQPACKET) => Kind::SeqPacket,
            (libc::AF_UNIX, libc::SOCK_STREAM) => Kind::Stream,
            (libc::AF_UNIX, libc::SOCK_DGRAM) => Kind::Datagram,
            _ => return Err(ChannelError::NotASocket),
        };
        if socket::is_listening(fd.as_fd()).map_err(|error| os("getsockopt(SO_ACCEPTCONN)", error))? {
            return Err(ChannelError::NotASocket);
        }
        platform::close_on_exec(&fd).map_err(|error| os("fcntl(F_SETFD)", error))?;
        Ok(Self::prepared(fd, kind))
    }
}

/// A channel of [`Kind::Stream`]: the peer must be a `Channel` too, for the framing.
impl From<UnixStream> for Channel {
    fn from(socket: UnixStream) -> Self {
        Self::adopt(socket.into(), Kind::Stream)
    }
}

/// A channel of [`Kind::Datagram`].
impl From<UnixDatagram> for Channel {
    fn from(socket: UnixDatagram) -> Self {
        Self::adopt(socket.into(), Kind::Datagram)
    }
}

/// What is no socket says ENOTSOCK; what is open as a path only, EBADF.
fn no_answer(call: &'static str, error: io::Error) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::ENOTSOCK | libc::EBADF) => ChannelError::NotASocket,
        _ => os(call, error),
    }
}

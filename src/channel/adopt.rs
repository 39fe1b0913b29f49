//! `[both]` Channels over sockets that somebody else made, perhaps without close-on-exec and with options set.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::peer::SenderOptions;
use super::{Channel, Kind};
use crate::error::ChannelError;
use crate::sys::{platform, socket};

impl Channel {
    pub(super) fn adopt(socket: OwnedFd, kind: Kind) -> Self {
        platform::close_on_exec(&socket);
        platform::prepare(&socket);
        let sender = SenderOptions::of(socket.as_fd());
        Self { sender, ..Self::over(socket, kind) }
    }
}

/// Takes any UNIX socket that is SOCK_SEQPACKET, SOCK_STREAM or SOCK_DGRAM (asked of the kernel: SO_DOMAIN, SO_TYPE) and
/// sets close-on-exec. It is for the caller to know that it is connected to one peer.
impl TryFrom<OwnedFd> for Channel {
    type Error = ChannelError;

    /// # Errors
    /// [`ChannelError::NotASocket`]; the descriptor is closed.
    fn try_from(fd: OwnedFd) -> Result<Self, ChannelError> {
        let domain = platform::domain(fd.as_fd()).map_err(|_| ChannelError::NotASocket)?;
        let kind = match socket::kind(fd.as_fd()) {
            Ok(libc::SOCK_SEQPACKET) => Kind::SeqPacket,
            Ok(libc::SOCK_STREAM) => Kind::Stream,
            Ok(libc::SOCK_DGRAM) => Kind::Datagram,
            _ => return Err(ChannelError::NotASocket),
        };
        if domain != libc::AF_UNIX {
            return Err(ChannelError::NotASocket);
        }
        Ok(Self::adopt(fd, kind))
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

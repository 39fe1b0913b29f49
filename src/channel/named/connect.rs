//! `[both]` Channels to a listener that an unrelated process has.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, setsockopt, socket, sockopt};

use super::{Channel, Kind, address, time_value};
use crate::error::EndpointError;

impl Channel {
    /// A channel of [`Kind::SeqPacket`] to the listener at `path`, which is a [`Listener`](super::Listener) or any
    /// program's listening socket of that type. Symbolic links are followed. Waits while the listener's queue is full.
    ///
    /// The path says where the socket is, not who listens at it: whoever can write to its directory may have put
    /// another there. Ask [`peer_credentials`](Self::peer_credentials) before sending anything that matters.
    ///
    /// # Errors
    /// * [`EndpointError::NotFound`]: no such path.
    /// * [`EndpointError::NobodyListens`]: the path is stale, or is no socket.
    /// * [`EndpointError::PermissionDenied`]: the modes of the path or of a directory before it do not let this
    ///   process.
    /// * [`EndpointError::WrongKind`]: a socket of another kind is there.
    /// * [`EndpointError::Unfit`]: the path cannot be an address: more than 107 bytes, or a NUL inside.
    /// * [`EndpointError::DescriptorTableFull`]: this process has no free descriptor for the socket.
    /// * [`EndpointError::Os`]: anything else.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, EndpointError> {
        Self::connect_to(&address::of_path(path.as_ref(), VERB)?, Kind::SeqPacket)
    }

    /// As [`connect`](Self::connect), to any address and of another kind. An abstract name has no permissions:
    /// **anybody** can listen at it who came first, so ask [`peer_credentials`](Self::peer_credentials).
    ///
    /// # Errors
    /// As for [`connect`](Self::connect); an abstract name that nobody has is [`EndpointError::NobodyListens`].
    /// [`EndpointError::Unfit`] also for [`Kind::Datagram`] and the unnamed address.
    pub fn connect_to(address: &SocketAddr, kind: Kind) -> Result<Self, EndpointError> {
        connect(address, kind, None)
    }

    /// As [`connect_to`](Self::connect_to), for no longer than until `deadline`.
    ///
    /// # Errors
    /// As for [`connect_to`](Self::connect_to), and [`EndpointError::QueueFull`] when the deadline has passed.
    pub fn connect_deadline(address: &SocketAddr, kind: Kind, deadline: Instant) -> Result<Self, EndpointError> {
        connect(address, kind, Some(deadline))
    }
}

fn connect(to: &SocketAddr, kind: Kind, deadline: Option<Instant>) -> Result<Channel, EndpointError> {
    let asked = address::asked(VERB, to);
    let socket_type = address::socket_type(kind, &asked)?;
    let to = address::of(to, &asked)?;
    let failed = |call| move |errno| (call, errno);
    let connected = || -> Result<OwnedFd, (&'static str, Errno)> {
        let end = socket(AddressFamily::Unix, socket_type, SockFlag::SOCK_CLOEXEC, None).map_err(failed("socket"))?;
        // The time that connect(2) waits for room in the queue is that of sends.
        let limit = |time| setsockopt(&end, sockopt::SendTimeout, &time_value(time)).map_err(failed("setsockopt"));
        loop {
            if let Some(deadline) = deadline {
                limit(Some(deadline.saturating_duration_since(Instant::now())))?;
            }
            match nix::sys::socket::connect(end.as_raw_fd(), &to) {
                // A local socket that was interrupted is as it was before.
                Err(Errno::EINTR) => {}
                result => break result.map_err(failed("connect"))?,
            }
        }
        if deadline.is_some() {
            limit(None)?;
        }
        Ok(end)
    };
    let end = connected().map_err(|(call, errno)| address::error(&asked, call, errno, kind))?;
    Ok(Channel::over(end, kind))
}

const VERB: &str = "connecting to";

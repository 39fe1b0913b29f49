//! `[both]` The types that descriptors can be taken as: std's, and of this crate [`Channel`] and [`PidFd`]. Each says
//! what it expects, how the kernel is asked, and nothing more.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::descriptor::{Access, Descriptor, Domain, FileType, Protocol, Socket, SocketType};
use super::{Checked, FromDescriptor};
#[cfg(target_os = "linux")]
use crate::channel::PidFd;
use crate::channel::{Channel, Kind};
use crate::sys::socket;

/// Any descriptor.
impl FromDescriptor for OwnedFd {
    const EXPECTED: &'static str = "any descriptor";

    fn accepts(_: &Descriptor<'_>) -> io::Result<bool> {
        Ok(true)
    }

    fn from_checked(fd: Checked<Self>) -> Self {
        fd.into_fd()
    }
}

/// A regular file, a memfd among them, that is open for reading, writing or both.
impl FromDescriptor for File {
    const EXPECTED: &'static str = "a regular file, open for reading or writing";

    fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
        Ok(descriptor.file_type()? == FileType::Regular
            && matches!(descriptor.access()?, Access::Read | Access::Write | Access::ReadWrite))
    }

    fn from_checked(fd: Checked<Self>) -> Self {
        fd.into_fd().into()
    }
}

/// Declares a socket type of std, by what its socket must be.
macro_rules! socket {
    ($(#[$doc:meta])* $type:ty, $expected:literal, $accepts:expr) => {
        $(#[$doc])*
        impl FromDescriptor for $type {
            const EXPECTED: &'static str = $expected;

            fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
                let accepts: fn(Socket) -> bool = $accepts;
                Ok(descriptor.socket()?.is_some_and(accepts))
            }

            fn from_checked(fd: Checked<Self>) -> Self {
                fd.into_fd().into()
            }
        }
    };
}

socket!(
    /// TCP or MPTCP, over IPv4 or IPv6, and listening.
    TcpListener,
    "a listening TCP socket",
    |socket| is_tcp(socket) && socket.listening
);
socket!(
    /// TCP or MPTCP, over IPv4 or IPv6, and not listening. Whether it is connected is not asked: that can change at any
    /// time, and the first use tells (ENOTCONN).
    TcpStream,
    "a TCP socket that does not listen",
    |socket| is_tcp(socket) && !socket.listening
);
socket!(
    /// UDP, over IPv4 or IPv6. Not UDP-Lite, whose checksums cover less, and not an ICMP ("ping") socket.
    UdpSocket,
    "a UDP socket",
    |socket| is_ip(socket) && socket.socket_type == SocketType::Datagram && socket.protocol == Protocol::Udp
);
socket!(
    /// A UNIX stream socket that listens.
    UnixListener,
    "a listening UNIX stream socket",
    |socket| is_unix(socket, SocketType::Stream) && socket.listening
);
socket!(
    /// A UNIX stream socket that does not listen. Whether it is connected is not asked.
    UnixStream,
    "a UNIX stream socket that does not listen",
    |socket| is_unix(socket, SocketType::Stream) && !socket.listening
);
socket!(
    /// A UNIX datagram socket.
    UnixDatagram,
    "a UNIX datagram socket",
    |socket| is_unix(socket, SocketType::Datagram)
);

/// A UNIX socket of any of the [kinds](Kind) that does not listen. The channel's budget is that of a new one. The
/// options of the socket (O_NONBLOCK, SO_RCVTIMEO, SO_SNDTIMEO, SO_PASSCRED and its like) are as the sender left them
/// and stay shared with it: whoever keeps a duplicate can change them at any time, so wait with deadlines. The peer of
/// a channel of [`Kind::Stream`] must be a `Channel` too.
impl FromDescriptor for Channel {
    const EXPECTED: &'static str = "a UNIX socket that does not listen";

    fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
        let known = [SocketType::SeqPacket, SocketType::Stream, SocketType::Datagram];
        let accepts = |socket| known.iter().any(|&kind| is_unix(socket, kind)) && !socket.listening;
        Ok(descriptor.socket()?.is_some_and(accepts))
    }

    fn from_checked(fd: Checked<Self>) -> Self {
        let fd = fd.into_fd();
        // The type of a socket never changes, and was one of the three.
        let kind = match socket::kind(fd.as_fd()) {
            Ok(libc::SOCK_STREAM) => Kind::Stream,
            Ok(libc::SOCK_DGRAM) => Kind::Datagram,
            _ => Kind::SeqPacket,
        };
        Self::adopt(fd, kind)
    }
}

/// A pidfd: of a process or a thread, alive or not, a child of this process or not. That it stands for the process that
/// its sender says is not thereby known.
#[cfg(target_os = "linux")]
impl FromDescriptor for PidFd {
    const EXPECTED: &'static str = "a pidfd";

    fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
        descriptor.is_pidfd()
    }

    fn from_checked(fd: Checked<Self>) -> Self {
        Self::from_kernel(fd.into_fd())
    }
}

fn is_ip(socket: Socket) -> bool {
    matches!(socket.domain, Domain::Inet | Domain::Inet6)
}

fn is_tcp(socket: Socket) -> bool {
    is_ip(socket)
        && socket.socket_type == SocketType::Stream
        && matches!(socket.protocol, Protocol::Tcp | Protocol::Mptcp)
}

fn is_unix(socket: Socket, socket_type: SocketType) -> bool {
    socket.domain == Domain::Unix && socket.socket_type == socket_type
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H-05: a stream socket of another protocol than TCP, of which many kernels have none to show (SCTP, SMC).
    #[test]
    fn h_05_a_stream_over_ip_is_not_always_tcp() {
        let of = |protocol| Socket { domain: Domain::Inet, socket_type: SocketType::Stream, protocol, listening: true };
        assert!(is_tcp(of(Protocol::Tcp)) && is_tcp(of(Protocol::Mptcp)));
        assert!(!is_tcp(of(Protocol::Other(libc::IPPROTO_SCTP))) && !is_tcp(of(Protocol::Udp)));
    }
}

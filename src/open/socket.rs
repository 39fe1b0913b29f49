//! `[broker]` Sockets: made, set, bound and connected as a permit says. Nothing here asks whether that is allowed.
//!
//! Every descriptor is close-on-exec from its first instant, and closed again when a later step fails. Waits are
//! bounded by a deadline. Nothing allocates.

mod unix;

pub(super) use unix::ProcPath;
pub(crate) use unix::{Inode, connect_abstract, connect_unix, has_unix, listen_abstract, listen_unix, remove_unix};

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, getsockopt, setsockopt, socket, sockopt,
};

use crate::channel::milliseconds;
use crate::policy::SocketOptions;
use crate::sys::socket as sys;
use crate::wire::SocketType;

/// A TCP socket that listens at `address`; for port 0 the kernel chooses a port. Does not wait.
///
/// EINVAL for IPv4 in IPv6 form, which is another address than it was judged as.
pub(crate) fn listen(address: SocketAddr, options: &SocketOptions) -> Result<OwnedFd, Errno> {
    let socket = bound(SocketType::Stream, address, options)?;
    start_listening(&socket, options)?;
    Ok(socket)
}

/// A UDP socket bound to `address`; for port 0 the kernel chooses a port. Does not wait. EINVAL as for [`listen`].
pub(crate) fn bind(address: SocketAddr, options: &SocketOptions) -> Result<OwnedFd, Errno> {
    bound(SocketType::Datagram, address, options)
}

/// A TCP or UDP socket connected to `address`. ETIMEDOUT when TCP is not by the deadline; UDP does not wait.
///
/// EINVAL for IPv4 in IPv6 form, and for the unspecified address, which Linux takes for the loopback address: both are
/// other addresses than they were judged as.
pub(crate) fn connect(
    kind: SocketType,
    address: SocketAddr,
    deadline: Instant,
    nonblocking: bool,
) -> Result<OwnedFd, Errno> {
    let address = literal(address)?;
    if address.ip().is_unspecified() {
        return Err(Errno::EINVAL);
    }
    let socket = internet(kind, address, SockFlag::SOCK_NONBLOCK)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        // One that a signal interrupts goes on as well.
        Err(Errno::EINPROGRESS | Errno::EINTR) => await_connection(&socket, deadline)?,
        done => done?,
    }
    set_nonblocking(&socket, nonblocking)?;
    Ok(socket)
}

fn bound(kind: SocketType, address: SocketAddr, options: &SocketOptions) -> Result<OwnedFd, Errno> {
    let address = literal(address)?;
    let socket = internet(kind, address, nonblocking_flag(options.nonblocking))?;
    if options.reuse_address {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if options.reuse_port {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        // Said either way: otherwise net.ipv6.bindv6only decides.
        setsockopt(&socket, sockopt::Ipv6V6Only, &!options.dual_stack)?;
    }
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// The address as it was judged: not IPv4 in IPv6 form, and without a flow label, which no rule speaks of.
fn literal(mut address: SocketAddr) -> Result<SocketAddr, Errno> {
    if let SocketAddr::V6(v6) = &mut address {
        if v6.ip().to_ipv4_mapped().is_some() {
            return Err(Errno::EINVAL);
        }
        v6.set_flowinfo(0);
    }
    Ok(address)
}

fn internet(kind: SocketType, address: SocketAddr, flags: SockFlag) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match kind {
        SocketType::Stream => (SockType::Stream, SockProtocol::Tcp),
        SocketType::Datagram => (SockType::Datagram, SockProtocol::Udp),
        // It would be SCTP, of which no rule speaks.
        SocketType::SeqPacket => return Err(Errno::ESOCKTNOSUPPORT),
    };
    socket(family, kind, flags | SockFlag::SOCK_CLOEXEC, protocol)
}

/// Waits for a connect(2) that is under way, and says how it ended.
fn await_connection(socket: &OwnedFd, deadline: Instant) -> Result<(), Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], milliseconds(left)) {
            Ok(0) if left.is_zero() => return Err(Errno::ETIMEDOUT),
            Ok(0) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    match getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(()),
        number => Err(Errno::from_raw(number)),
    }
}

fn start_listening(socket: &OwnedFd, options: &SocketOptions) -> Result<(), Errno> {
    sys::listen(socket.as_fd(), options.backlog).map_err(errno)
}

fn nonblocking_flag(nonblocking: bool) -> SockFlag {
    if nonblocking { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() }
}

/// The open file description is new, and has no other flag that this could take off.
fn set_nonblocking(socket: &OwnedFd, nonblocking: bool) -> Result<(), Errno> {
    let flags = if nonblocking { OFlag::O_NONBLOCK } else { OFlag::empty() };
    fcntl(socket, FcntlArg::F_SETFL(flags)).map(drop)
}

/// Of a system call made in [`crate::sys`]; those always have one.
fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

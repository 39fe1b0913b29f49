//! `[both]` Socket options and events that nix does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
#[cfg(target_os = "linux")]
use std::{
    os::fd::{FromRawFd, OwnedFd},
    ptr,
};

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::platform;

/// Bytes of a C int, on every platform that Rust has a Linux target for.
const INT: libc::socklen_t = 4;

/// The socket's type (SO_TYPE).
pub(crate) fn kind(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get(socket, libc::SO_TYPE)
}

/// Whether listen(2) was called on the socket (SO_ACCEPTCONN).
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    get(socket, libc::SO_ACCEPTCONN).map(|value| value != 0)
}

/// Whether the peer has closed its end, or shut down its sending side. Does not wait.
pub(crate) fn is_hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(events(socket)? & (platform::HANG_UP | libc::POLLHUP) != 0)
}

/// Whether nothing more can be sent and received: the peer is gone, or it was shut down here. A peer that only sends no
/// more may wait for a reply.
pub(crate) fn is_shut(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(events(socket)? & libc::POLLHUP != 0)
}

/// What poll(2) says of it at this moment.
fn events(socket: BorrowedFd<'_>) -> io::Result<libc::c_short> {
    let mut event = libc::pollfd { fd: socket.as_raw_fd(), events: platform::HANG_UP, revents: 0 };
    loop {
        // SAFETY: points to one pollfd, exclusively borrowed, and says that it is one.
        let status = unsafe { libc::poll(&raw mut event, 1, 0) };
        if status >= 0 {
            return Ok(event.revents);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Whether there are bytes to receive, in the first message or in one behind it (FIONREAD; the kernel counts the whole
/// queue, but for a datagram socket).
pub(crate) fn has_bytes(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one c_int, which is exclusively borrowed.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if status == 0 { Ok(bytes > 0) } else { Err(io::Error::last_os_error()) }
}

/// Whether something that was sent through this socket has not been received (SIOCOUTQ, which has TIOCOUTQ's number).
#[cfg(target_os = "linux")]
pub(crate) fn has_unread(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one c_int, which is exclusively borrowed.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if status == 0 { Ok(bytes > 0) } else { Err(io::Error::last_os_error()) }
}

/// listen(2), with any backlog: nix refuses one over libc's SOMAXCONN, where the kernel cuts it to
/// `net.core.somaxconn`.
#[cfg(target_os = "linux")]
pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: takes two numbers, which the kernel checks, and touches no memory of this process.
    let status = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// accept4(2) with close-on-exec, once: EINTR is the caller's. The peer's address is not asked for.
#[cfg(target_os = "linux")]
pub(crate) fn accept(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: null pointers say that no address is wanted; the rest are numbers.
    let number = unsafe { libc::accept4(socket.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel installed it a moment ago for this call, and nobody else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A pidfd of the process that SO_PEERCRED names (SO_PEERPIDFD, include/uapi/asm-generic/socket.h). The kernel makes it
/// close-on-exec. ENOPROTOOPT before Linux 6.5.
#[cfg(target_os = "linux")]
pub(crate) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    if !platform::GENERIC_NUMBERS {
        return Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT));
    }
    let number = get(socket, SO_PEERPIDFD)?;
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the kernel wrote it, all of it, and installed it a moment ago for this call: nobody else in this process
    // knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The path to which a UNIX socket is bound, open as O_PATH: what bind(2) made, wherever it is by now (SIOCUNIXFILE,
/// include/uapi/linux/un.h). The kernel makes the descriptor close-on-exec. EPERM for who has no CAP_NET_ADMIN.
#[cfg(target_os = "linux")]
pub(crate) fn bound_path(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCUNIXFILE: u32 = 0x89e0;
    // SAFETY: this request takes no argument, and touches no memory of this process. (The C libraries do not agree on
    // the type of its number.)
    let number = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE as _) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel installed it a moment ago for this call, and nobody else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// How long a send waits (SO_SNDTIMEO); `None` is for ever.
pub(crate) fn send_timeout(socket: BorrowedFd<'_>) -> io::Result<Option<Duration>> {
    Ok(duration(getsockopt(&socket, sockopt::SendTimeout)?))
}

/// How long a receive waits (SO_RCVTIMEO); `None` is for ever.
pub(crate) fn receive_timeout(socket: BorrowedFd<'_>) -> io::Result<Option<Duration>> {
    Ok(duration(getsockopt(&socket, sockopt::ReceiveTimeout)?))
}

/// Whoever shares the socket can have set any number of seconds. Zero is the kernel's "for ever".
fn duration(timeout: TimeVal) -> Option<Duration> {
    let seconds = u64::try_from(timeout.tv_sec()).ok()?;
    let microseconds = u32::try_from(timeout.tv_usec()).ok()?;
    Some(Duration::new(seconds, microseconds.checked_mul(1000)?)).filter(|timeout| !timeout.is_zero())
}

pub(super) fn get(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = INT;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`, and any bytes are a c_int.
    let status =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut len) };
    match status {
        // Less than the whole number is none: 0, which `value` began with, could be taken for a descriptor.
        0 if len != INT => Err(io::ErrorKind::InvalidData.into()),
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn set_if_known(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<bool> {
    match set(socket, option, value) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `value` has.
    let status =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), INT) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

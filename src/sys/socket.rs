//! `[both]` Socket options and events that nix does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// SO_PASSRIGHTS, since Linux 6.16 (include/uapi/asm-generic/socket.h). The architectures with numbers of their own
/// (alpha, mips, parisc, sparc) are left to the check at receipt.
const SO_PASSRIGHTS: libc::c_int = 83;

/// SO_PASSPIDFD, since Linux 6.5 (include/uapi/asm-generic/socket.h); libc does not name it for every target. Parisc and sparc have
/// numbers of their own.
const SO_PASSPIDFD: libc::c_int = 76;

/// Bytes of a C int, on every platform that Rust has a Linux target for.
const INT: libc::socklen_t = 4;

/// The socket's address family (SO_DOMAIN). ENOTSOCK when it is no socket.
pub(crate) fn domain(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get(socket, libc::SO_DOMAIN)
}

/// The socket's type (SO_TYPE).
pub(crate) fn kind(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get(socket, libc::SO_TYPE)
}

/// Asks the kernel to refuse every message to this socket that carries descriptors: its sender gets EPERM (K18, K29).
/// Answers whether the kernel can (Linux 6.16).
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<bool> {
    if cfg!(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc", target_arch = "sparc64")) {
        return Ok(false);
    }
    set_if_known(socket, SO_PASSRIGHTS, 0)
}

/// SO_PASSCRED: whether each message that is received comes with SCM_CREDENTIALS.
pub(crate) fn pass_credentials(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set(socket, libc::SO_PASSCRED, on.into())
}

/// See [`pass_credentials`].
pub(crate) fn passes_credentials(socket: BorrowedFd<'_>) -> bool {
    get(socket, libc::SO_PASSCRED).is_ok_and(|value| value != 0)
}

/// SO_PASSPIDFD: whether each message that is received comes with SCM_PIDFD. Answers whether the kernel can (Linux 6.5).
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>, on: bool) -> io::Result<bool> {
    set_if_known(socket, SO_PASSPIDFD, on.into())
}

/// See [`pass_pidfd`].
pub(crate) fn passes_pidfd(socket: BorrowedFd<'_>) -> bool {
    get(socket, SO_PASSPIDFD).is_ok_and(|value| value != 0)
}

/// SO_PASSSEC: whether each message that is received comes with SCM_SECURITY, where the kernel has a label for its sender.
pub(crate) fn passes_security(socket: BorrowedFd<'_>) -> bool {
    get(socket, libc::SO_PASSSEC).is_ok_and(|value| value != 0)
}

/// Whether the peer has closed its end, or shut down its sending side. Does not wait.
pub(crate) fn is_hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut event = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    loop {
        // SAFETY: points to one pollfd, exclusively borrowed, and says that it is one.
        let status = unsafe { libc::poll(&raw mut event, 1, 0) };
        if status >= 0 {
            return Ok(event.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Whether something that was sent through this socket has not been received (SIOCOUTQ, which has TIOCOUTQ's number).
pub(crate) fn has_unread(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one c_int, which is exclusively borrowed.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if status == 0 { Ok(bytes > 0) } else { Err(io::Error::last_os_error()) }
}

/// listen(2), with any backlog: nix refuses one over libc's SOMAXCONN, where the kernel cuts it to `net.core.somaxconn`.
pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: takes numbers.
    let status = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = INT;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`, and any bytes are a c_int.
    let status =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut len) };
    if status == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_if_known(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<bool> {
    match set(socket, option, value) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `value` has.
    let status =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), INT) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

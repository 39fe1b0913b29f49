//! `[both]` What differs between the Unix systems that a channel runs on.
//!
//! Linux is the one that is tested. What is said of the others is from their manual pages and sources, named at each
//! entry; that it compiles is all that has been tried.

use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;

use libc::c_int;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::SockFlag;

use super::scm::Room;

/// Whether UNIX sockets can be SOCK_SEQPACKET. XNU's uipc_proto.c has STREAM and DGRAM only.
pub(crate) const HAS_SEQPACKET: bool = cfg!(not(target_vendor = "apple"));

/// Bytes of the header of a block of control data, with the padding before its data (CMSG_LEN(0)).
pub(super) const HEADER: usize = {
    // SAFETY: adds numbers up.
    let bytes = unsafe { libc::CMSG_LEN(0) };
    bytes as usize
};

/// The offsets of level and type in `struct cmsghdr`. The length is what stands before them: a `size_t` on Linux, a
/// `socklen_t` elsewhere. (musl declares a `socklen_t` and padding, where the kernel writes a `size_t`.)
pub(super) const LEVEL_AT: usize = offset_of!(libc::cmsghdr, cmsg_level);
pub(super) const TYPE_AT: usize = offset_of!(libc::cmsghdr, cmsg_type);

/// Bytes that a block with so much data takes, with the padding before the next one (CMSG_SPACE).
#[allow(clippy::cast_possible_truncation, reason = "callers have a kilobyte at most")]
pub(super) const fn space(data: usize) -> usize {
    // SAFETY: adds numbers up.
    let bytes = unsafe { libc::CMSG_SPACE(data as _) };
    bytes as usize
}

/// Room for all control data that a message can have. XNU and FreeBSD bound it by the size of an mbuf cluster, 2048 bytes
/// (`MCLBYTES`), Linux by SCM_MAX_FD.
pub(super) const CONTROL: usize =
    if cfg!(target_os = "linux") { space(UCRED) + space(super::scm::MAX_FDS * FD) + space(FD) } else { 2560 };

pub(super) const FD: usize = size_of::<c_int>();
/// The kernel's `struct ucred` on Linux: three 32-bit numbers.
const UCRED: usize = 12;

/// Bytes of control data to offer the kernel.
///
/// * Linux writes credentials, then descriptors, then the pidfd, and installs what fits (put_cmsg in net/core/scm.c): exactly
///   the room that is due. When there is a pidfd, a surplus descriptor can take its room (K22).
/// * XNU installs all descriptors and then cuts the list (unp_externalize and recvit): with less than everything, what is not
///   shown would stay open. FreeBSD and OpenBSD install none if not all of them fit (unp_externalize), and OpenBSD has one
///   errno for that and for a full table. So everything is taken there, and a surplus closed.
pub(super) fn room(room: Room) -> usize {
    if cfg!(not(target_os = "linux")) {
        return CONTROL;
    }
    let credentials = if room.credentials { space(UCRED) } else { 0 };
    let fds = match (room.fds.min(super::scm::MAX_FDS) * FD, room.pidfd) {
        (0, _) => 0,
        (data, true) => space(data),
        (data, false) => HEADER + data,
    };
    let pidfd = if room.pidfd { HEADER + FD } else { 0 };
    credentials + fds + pidfd
}

/// For recvmsg: close-on-exec from the first instant. XNU has no such flag: see [`close_on_exec`].
#[cfg(not(target_vendor = "apple"))]
pub(super) const RECV_FLAGS: c_int = libc::MSG_CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
pub(super) const RECV_FLAGS: c_int = 0;

/// For sendmsg: no SIGPIPE. XNU has an option of the socket instead: see [`prepare`].
#[cfg(not(target_vendor = "apple"))]
pub(super) const SEND_FLAGS: c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(super) const SEND_FLAGS: c_int = 0;

/// For socketpair and socket.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SOCKET_FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC;
#[cfg(target_vendor = "apple")]
pub(crate) const SOCKET_FLAGS: SockFlag = SockFlag::empty();

/// Flags for sendmsg on SOCK_SEQPACKET. FreeBSD ends a packet where it is told to since 15.0 (unix(4)).
#[cfg(target_os = "freebsd")]
pub(crate) const SEQPACKET_FLAGS: c_int = libc::MSG_EOR;
#[cfg(not(target_os = "freebsd"))]
pub(crate) const SEQPACKET_FLAGS: c_int = 0;

/// What a new socket needs before it can be a channel, beside [`SOCKET_FLAGS`]. It cannot fail on an open socket.
pub(crate) fn prepare(socket: &OwnedFd) {
    #[cfg(target_vendor = "apple")]
    {
        // setsockopt(2) of macOS.
        let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::NoSigPipe, &true);
        close_on_exec(socket);
    }
    let _ = socket;
}

/// Sets close-on-exec where [`RECV_FLAGS`] cannot: a program that another thread starts between the receipt and this call
/// inherits the descriptor. It cannot fail on an open descriptor.
pub(crate) fn close_on_exec(fd: &OwnedFd) {
    let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
}

/// Whether a recvmsg that failed is to be made again, for the bytes alone: OpenBSD answers EMSGSIZE when the descriptors do not
/// fit the process's table, and then leaves the message without them (unp_externalize, soreceive).
pub(super) fn lost_descriptors(error: &io::Error) -> bool {
    cfg!(target_os = "openbsd") && error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// Whether a sendmsg failed for what will pass: too many descriptors in flight, or no memory. OpenBSD answers EMFILE for the
/// former (unp_internalize).
pub(crate) fn is_congestion(errno: c_int) -> bool {
    matches!(errno, libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM)
        || (cfg!(target_os = "openbsd") && errno == libc::EMFILE)
}

/// The event that says "the peer sends no more". POLLRDHUP is Linux's (poll(2)), and FreeBSD's since 13; elsewhere POLLHUP, which
/// need not be asked for, says so when the peer has closed.
#[cfg(target_os = "linux")]
pub(super) const HANG_UP: libc::c_short = libc::POLLRDHUP;
#[cfg(not(target_os = "linux"))]
pub(super) const HANG_UP: libc::c_short = 0;

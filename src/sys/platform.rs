//! `[both]` What differs between the Unix systems that a channel runs on.
//!
//! Linux is the one that is tested. What is said of the others is from their manual pages and sources, named at each
//! entry; that it compiles is all that has been tried.

use std::io;
use std::mem::offset_of;
#[cfg(target_vendor = "apple")]
use std::os::fd::AsFd;
use std::os::fd::{BorrowedFd, OwnedFd};

use libc::c_int;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::SockFlag;

use super::scm::Room;
use super::socket;

/// Whether UNIX sockets can be SOCK_SEQPACKET. XNU's uipc_proto.c has STREAM and DGRAM only.
pub(crate) const HAS_SEQPACKET: bool = cfg!(not(target_vendor = "apple"));

/// Bytes of the header of a block of control data, with the padding before its data (CMSG_LEN(0)).
pub(super) const HEADER: usize = {
    // SAFETY: arithmetic on its argument; libc reads no memory.
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
    // SAFETY: arithmetic on its argument; libc reads no memory.
    let bytes = unsafe { libc::CMSG_SPACE(data as _) };
    bytes as usize
}

/// Room for all control data that a message can have. XNU and FreeBSD bound it by the size of an mbuf cluster, 2048
/// bytes (`MCLBYTES`), Linux by SCM_MAX_FD.
pub(super) const CONTROL: usize =
    if cfg!(target_os = "linux") { space(UCRED) + space(super::scm::MAX_FDS * FD) + space(FD) } else { 2560 };

pub(super) const FD: usize = size_of::<c_int>();
/// The kernel's `struct ucred` on Linux: three 32-bit numbers.
const UCRED: usize = 12;

/// Bytes of control data to offer the kernel.
///
/// * Linux writes credentials, then descriptors, then the pidfd, and installs what fits (put_cmsg in net/core/scm.c):
///   exactly the room that is due. When there is a pidfd, a surplus descriptor can take its room (K22).
/// * XNU installs all descriptors and then cuts the list (unp_externalize and recvit): with less than everything, what
///   is not shown would stay open. FreeBSD and OpenBSD install none if not all of them fit (unp_externalize), and
///   OpenBSD has one errno for that and for a full table. So everything is taken there, and a surplus closed.
#[inline]
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
    // Nothing can be installed behind a bare header, but control data that nobody asked for is seen.
    (credentials + fds + pidfd).max(HEADER)
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
        let _ = socket::set(socket.as_fd(), libc::SO_NOSIGPIPE, 1);
        let _ = close_on_exec(socket);
    }
    let _ = socket;
}

/// Sets close-on-exec where [`RECV_FLAGS`] cannot: a program that another thread starts between the receipt and this
/// call inherits the descriptor. It cannot fail on an open descriptor, unless who filters system calls forbids it.
pub(crate) fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop).map_err(io::Error::from)
}

/// Whether a recvmsg that failed is to be made again, for the bytes alone: OpenBSD answers EMSGSIZE when the
/// descriptors do not fit the process's table, and then leaves the message without them (unp_externalize, soreceive).
#[inline]
pub(super) fn lost_descriptors(error: &io::Error) -> bool {
    cfg!(target_os = "openbsd") && error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// A descriptor that becomes readable after this time: timerfd_create(2), which is Linux's.
#[cfg(all(feature = "tokio", target_os = "linux"))]
pub(crate) fn timer(time: std::time::Duration) -> io::Result<OwnedFd> {
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::OneShot(TimeSpec::from_duration(time)), TimerSetTimeFlags::empty())?;
    Ok(timer.into())
}
#[cfg(all(feature = "tokio", not(target_os = "linux")))]
pub(crate) fn timer(_: std::time::Duration) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a sendmsg failed for what will pass: too many descriptors in flight, or no memory. OpenBSD answers EMFILE
/// for the former (unp_internalize).
pub(crate) fn is_congestion(errno: c_int) -> bool {
    matches!(errno, libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM)
        || (cfg!(target_os = "openbsd") && errno == libc::EMFILE)
}

/// The event that says "the peer sends no more". POLLRDHUP is Linux's (poll(2)), and FreeBSD's since 13; elsewhere
/// POLLHUP, which need not be asked for, says so when the peer has closed.
#[cfg(target_os = "linux")]
pub(super) const HANG_UP: libc::c_short = libc::POLLRDHUP;
#[cfg(not(target_os = "linux"))]
pub(super) const HANG_UP: libc::c_short = 0;

/// O_PATH of open(2): Linux, and FreeBSD since 13. Elsewhere no flag.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
pub(crate) const O_PATH: c_int = libc::O_PATH;
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
pub(crate) const O_PATH: c_int = 0;

/// IPPROTO_MPTCP, which is Linux's (include/uapi/linux/in.h).
pub(crate) const MPTCP: c_int = 262;

/// The socket's address family (SO_DOMAIN; getsockname(2) where there is no such option). ENOTSOCK when it is no
/// socket.
#[cfg(target_os = "linux")]
pub(crate) fn domain(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    socket::get(socket, libc::SO_DOMAIN)
}
#[cfg(not(target_os = "linux"))]
pub(crate) fn domain(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    use nix::sys::socket::{SockaddrLike, SockaddrStorage, getsockname};
    use std::os::fd::AsRawFd;
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    Ok(address.family().map_or(libc::AF_UNSPEC, |family| family as c_int))
}

/// The socket's protocol (SO_PROTOCOL): 0 where the family has only one. macOS and NetBSD have no such option
/// (getsockopt(2)): the answer is the usual protocol of the socket's type.
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd"))]
pub(crate) fn protocol(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    socket::get(socket, libc::SO_PROTOCOL)
}
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd")))]
pub(crate) fn protocol(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    Ok(match (domain(socket)?, socket::kind(socket)?) {
        (libc::AF_UNIX, _) => 0,
        (_, libc::SOCK_STREAM) => libc::IPPROTO_TCP,
        (_, libc::SOCK_DGRAM) => libc::IPPROTO_UDP,
        _ => 0,
    })
}

/// Asks the kernel to refuse every message to this socket that carries descriptors: its sender gets EPERM (K18, K29).
/// Answers whether the kernel can: Linux 6.16 (SO_PASSRIGHTS, include/uapi/asm-generic/socket.h). The architectures
/// with numbers of their own (mips, sparc) are left to the check at receipt.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<bool> {
    const SO_PASSRIGHTS: c_int = 83;
    if !GENERIC_NUMBERS {
        return Ok(false);
    }
    socket::set_if_known(socket, SO_PASSRIGHTS, 0)
}

/// Whether socket options have the numbers of include/uapi/asm-generic/socket.h.
pub(super) const GENERIC_NUMBERS: bool = cfg!(target_os = "linux")
    && cfg!(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc", target_arch = "sparc64")));

/// SO_PASSCRED of Linux. The BSDs have other things of the kind, which are not used here.
#[cfg(target_os = "linux")]
const SO_PASSCRED: Option<c_int> = Some(libc::SO_PASSCRED);
#[cfg(not(target_os = "linux"))]
const SO_PASSCRED: Option<c_int> = None;

/// Whether each message that is received comes with SCM_CREDENTIALS. Answers whether the kernel can.
pub(crate) fn pass_credentials(socket: BorrowedFd<'_>, on: bool) -> io::Result<bool> {
    SO_PASSCRED.map_or(Ok(false), |option| socket::set_if_known(socket, option, on.into()))
}

/// See [`pass_credentials`].
pub(crate) fn passes_credentials(socket: BorrowedFd<'_>) -> bool {
    SO_PASSCRED.is_some_and(|option| socket::get(socket, option).is_ok_and(|value| value != 0))
}

/// SO_PASSPIDFD (include/uapi/asm-generic/socket.h); libc does not name it for every target.
const SO_PASSPIDFD: c_int = 76;

/// Whether each message that is received comes with SCM_PIDFD. Answers whether the kernel can: Linux 6.5
/// (SO_PASSPIDFD).
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>, on: bool) -> io::Result<bool> {
    if !GENERIC_NUMBERS {
        return Ok(false);
    }
    socket::set_if_known(socket, SO_PASSPIDFD, on.into())
}

/// See [`pass_pidfd`].
pub(crate) fn passes_pidfd(socket: BorrowedFd<'_>) -> bool {
    GENERIC_NUMBERS && socket::get(socket, SO_PASSPIDFD).is_ok_and(|value| value != 0)
}

/// SO_PASSSEC (include/uapi/asm-generic/socket.h).
const SO_PASSSEC: c_int = 34;

/// Whether each message that is received comes with SCM_SECURITY, where the kernel has a label for its sender.
pub(crate) fn passes_security(socket: BorrowedFd<'_>) -> bool {
    GENERIC_NUMBERS && socket::get(socket, SO_PASSSEC).is_ok_and(|value| value != 0)
}

/// The file type of what a descriptor is open on (the bits of S_IFMT). Does not wait on Linux; elsewhere a file server
/// may be asked.
pub(crate) fn file_type(fd: BorrowedFd<'_>) -> io::Result<libc::mode_t> {
    #[cfg(target_os = "linux")]
    return Ok(super::descriptor::status(fd)?.file_type);
    #[cfg(not(target_os = "linux"))]
    return Ok(nix::sys::stat::fstat(fd)?.st_mode & libc::S_IFMT);
}

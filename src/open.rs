//! `[broker]` Permit to descriptor: the only place that opens, binds or connects anything for a worker.
//!
//! A name is resolved beneath the rule's pinned root by a [`Resolver`]: no symbolic link is followed unless the rule says
//! so, no magic link, and nothing leads out. What was opened is then asked what it is; anything but a regular file is closed again.
//! O_NONBLOCK is set on opening, so that a FIFO in the place of a file cannot hold the broker up, and stays set:
//! on a regular file it does nothing. O_NOCTTY is always set, so a terminal there never becomes the broker's.

mod resolve;
mod walk;

pub use resolve::Resolver;
pub(crate) use resolve::Way;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libc::{S_IFMT, S_IFREG};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket as new_socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::policy::{ConnectRule, Grant, ListenRule, Permit, Root};
use crate::sys::socket;
use crate::wire::{Reason, Refusal, Right};

/// Does what the permit says. The descriptor is close-on-exec.
///
/// # Errors
/// A refusal: [`Reason::Failed`] with the errno of the system call that failed, [`Reason::Kind`] with EACCES when
/// something else than a regular file is there. Whatever was opened is closed again. A file that
/// was created stays if the last step after its creation, setting its mode, fails.
pub fn open(permit: Permit<'_>) -> Result<OwnedFd, Refusal> {
    match permit.into_grant() {
        Grant::File { root, name, right: Right::Create, mode } => create(root, name, mode),
        Grant::File { root, name, right, .. } => open_existing(root, name, right),
        Grant::Scratch { root } => scratch(root),
        Grant::Listen { address, rule } => listen_on(address, rule).map_err(failed),
        Grant::Connect { address, rule } => connect_to(address, rule).map_err(failed),
    }
}

fn open_existing(root: &Root, name: &[u8], right: Right) -> Result<OwnedFd, Refusal> {
    let fd = open_beneath(root, name, right, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let stat = fstat(&fd).map_err(|errno| failed(errno.into()))?;
    if stat.st_mode & S_IFMT != S_IFREG {
        return Err(Refusal { reason: Reason::Kind, errno: libc::EACCES });
    }
    // A proc file system that is mounted somewhere beneath a root holds the broker's own memory. Only a file that lies
    // on another file system than its root can be in one: the policy takes no root on one.
    if stat.st_dev != root.device() {
        let kind = fstatfs(&fd).map_err(|errno| failed(errno.into()))?;
        if kind.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(Refusal { reason: Reason::Kind, errno: libc::EACCES });
        }
    }
    Ok(fd)
}

/// O_EXCL makes it a regular file that was not there before. The mode is set again because the broker's umask took
/// bits off it.
fn create(root: &Root, name: &[u8], mode: u32) -> Result<OwnedFd, Refusal> {
    let mode = Mode::from_bits_truncate(mode);
    let fd = open_beneath(root, name, Right::Create, mode).map_err(|errno| failed(errno.into()))?;
    fchmod(&fd, mode).map_err(|errno| failed(errno.into()))?;
    Ok(fd)
}

fn open_beneath(root: &Root, name: &[u8], right: Right, mode: Mode) -> Result<OwnedFd, Errno> {
    let access = match right {
        Right::Read => OFlag::O_RDONLY,
        Right::Write => OFlag::O_WRONLY,
        Right::Append => OFlag::O_WRONLY | OFlag::O_APPEND,
        Right::Create => OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL,
    };
    let flags = access | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    root.resolver().open(root.as_fd(), name, flags, mode, root.way())
}

/// tempfile wants a name for the directory: this one is of the directory that was pinned. The mode is set because
/// tempfile leaves it to the broker's umask, and a file without a name can still be opened again through /proc by who
/// may look into a holder of it.
fn scratch(root: &Root) -> Result<OwnedFd, Refusal> {
    let directory = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
    let fd = OwnedFd::from(tempfile::tempfile_in(directory).map_err(failed)?);
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| failed(errno.into()))?;
    Ok(fd)
}

fn listen_on(address: SocketAddr, rule: &ListenRule) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut flags = SockFlag::SOCK_CLOEXEC;
    flags.set(SockFlag::SOCK_NONBLOCK, rule.nonblocking);
    let fd = new_socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if rule.reuse_port {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    match address {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
    }
    socket::listen(fd.as_fd(), rule.backlog)?;
    Ok(fd)
}

fn connect_to(address: SocketAddr, rule: &ConnectRule) -> io::Result<OwnedFd> {
    let stream = TcpStream::connect_timeout(&address, rule.timeout)?;
    stream.set_nonblocking(rule.nonblocking)?;
    Ok(stream.into())
}

/// An error without an errno can only be std's word for a connect that took too long.
fn failed(error: io::Error) -> Refusal {
    Refusal { reason: Reason::Failed, errno: error.raw_os_error().unwrap_or(libc::ETIMEDOUT) }
}

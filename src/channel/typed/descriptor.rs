//! `[both]` What the kernel says of a descriptor, and the words for it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

#[cfg(target_os = "linux")]
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

#[cfg(target_os = "linux")]
use super::memfd::{self, Seals};
#[cfg(target_os = "linux")]
use crate::sys::descriptor;
use crate::sys::{platform, socket};

/// A descriptor to ask questions about. Each method asks the kernel, each time, and none of them waits, reads or
/// changes anything. For questions that are not here, [`as_fd`](AsFd::as_fd) gives the descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor<'a> {
    fd: BorrowedFd<'a>,
}

/// What a descriptor is open on (S_IFMT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file; a memfd too.
    Regular,
    /// A directory.
    Directory,
    /// A pipe, with a name (a FIFO) or without.
    Fifo,
    /// A character device: a terminal, `/dev/null`.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A socket, or with [`Access::Path`] the name of one in the file system.
    Socket,
    /// A symbolic link, which only O_PATH opens.
    Symlink,
    /// What has no file type: pidfd, epoll, eventfd, timerfd, signalfd, inotify and others.
    Anonymous,
}

/// What a descriptor is open for (O_ACCMODE, O_PATH).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// O_RDONLY.
    Read,
    /// O_WRONLY.
    Write,
    /// O_RDWR. Sockets say this.
    ReadWrite,
    /// O_PATH: the descriptor stands for a place in the file system and can neither be read nor written.
    Path,
    /// The fourth value of O_ACCMODE, which Linux takes for ioctl(2) only: neither reading nor writing.
    Neither,
}

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Socket {
    /// Its address family (SO_DOMAIN).
    pub domain: Domain,
    /// Its type (SO_TYPE).
    pub socket_type: SocketType,
    /// Its protocol (SO_PROTOCOL).
    pub protocol: Protocol,
    /// Whether it listens (SO_ACCEPTCONN), now.
    pub listening: bool,
}

/// A socket's address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Domain {
    /// AF_UNIX.
    Unix,
    /// AF_INET: IPv4.
    Inet,
    /// AF_INET6: IPv6, and IPv4 through it.
    Inet6,
    /// Another AF_ number.
    Other(i32),
}

/// A socket's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketType {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
    /// SOCK_SEQPACKET.
    SeqPacket,
    /// Another SOCK_ number.
    Other(i32),
}

/// A socket's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// IPPROTO_TCP.
    Tcp,
    /// IPPROTO_MPTCP: used as TCP is, and what listeners of Go programs are by default.
    Mptcp,
    /// IPPROTO_UDP.
    Udp,
    /// Another number. 0 for a UNIX socket.
    Other(i32),
}

/// What a descriptor was found to be. Its `Display` is in words: "a listening TCP socket", "a pipe, open for reading".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Found {
    /// What it is open on.
    pub file_type: FileType,
    /// What it is open for.
    pub access: Access,
    /// What socket it is, if it is one.
    pub socket: Option<Socket>,
    /// Its [seals](super::seal), if it is a memfd and the kernel says so.
    pub memfd: Option<i32>,
    /// Whether it is a pidfd, and the kernel says so.
    pub pidfd: bool,
}

impl<'a> Descriptor<'a> {
    /// Asks about this descriptor.
    #[must_use]
    pub fn of(fd: BorrowedFd<'a>) -> Self {
        Self { fd }
    }

    /// What it is open on.
    ///
    /// # Errors
    /// Of statx(2).
    pub fn file_type(&self) -> io::Result<FileType> {
        Ok(match platform::file_type(self.fd)? {
            libc::S_IFREG => FileType::Regular,
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFCHR => FileType::CharacterDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFLNK => FileType::Symlink,
            _ => FileType::Anonymous,
        })
    }

    /// What it is open for.
    ///
    /// # Errors
    /// Of fcntl(2) (F_GETFL).
    pub fn access(&self) -> io::Result<Access> {
        let flags = fcntl(self.fd, FcntlArg::F_GETFL)?;
        if flags & platform::O_PATH != 0 {
            return Ok(Access::Path);
        }
        Ok(match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Access::Read,
            libc::O_WRONLY => Access::Write,
            libc::O_RDWR => Access::ReadWrite,
            _ => Access::Neither,
        })
    }

    /// What socket it is; `None` when it is none, or only the name of one (O_PATH).
    ///
    /// # Errors
    /// Of getsockopt(2).
    pub fn socket(&self) -> io::Result<Option<Socket>> {
        let domain = match platform::domain(self.fd) {
            // EBADF: an O_PATH descriptor.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSOCK | libc::EBADF)) => return Ok(None),
            domain => domain?,
        };
        Ok(Some(Socket {
            domain: match domain {
                libc::AF_UNIX => Domain::Unix,
                libc::AF_INET => Domain::Inet,
                libc::AF_INET6 => Domain::Inet6,
                other => Domain::Other(other),
            },
            socket_type: match socket::kind(self.fd)? {
                libc::SOCK_STREAM => SocketType::Stream,
                libc::SOCK_DGRAM => SocketType::Datagram,
                libc::SOCK_SEQPACKET => SocketType::SeqPacket,
                other => SocketType::Other(other),
            },
            protocol: match platform::protocol(self.fd)? {
                libc::IPPROTO_TCP => Protocol::Tcp,
                platform::MPTCP => Protocol::Mptcp,
                libc::IPPROTO_UDP => Protocol::Udp,
                other => Protocol::Other(other),
            },
            listening: socket::is_listening(self.fd)?,
        }))
    }

    /// Its seals, as a set of the [constants](super::seal); `None` where the file cannot have any. A file on tmpfs or
    /// hugetlbfs has an answer too, and it is always [`seal::SEAL`](super::seal::SEAL) alone: see
    /// [`is_memfd`](Self::is_memfd).
    ///
    /// # Errors
    /// Of fcntl(2) (F_GET_SEALS).
    #[cfg(target_os = "linux")]
    pub fn seals(&self) -> io::Result<Option<i32>> {
        match fcntl(self.fd, FcntlArg::F_GET_SEALS) {
            // EBADF: an O_PATH descriptor.
            Err(Errno::EINVAL | Errno::EBADF) => Ok(None),
            seals => Ok(Some(seals?)),
        }
    }

    /// Whether it is what memfd_create(2) makes, in ordinary or huge pages. memfd_secret(2)'s are not: nothing can seal
    /// them.
    ///
    /// # Errors
    /// Of fcntl(2); where the seals do not settle it, of statx(2) and memfd_create(2), which needs a free descriptor.
    #[cfg(target_os = "linux")]
    pub fn is_memfd(&self) -> io::Result<bool> {
        match self.seals()? {
            Some(seals) => memfd::is_memfd(self.fd, seals),
            None => Ok(false),
        }
    }

    /// Whether it is a pidfd, of a process or a thread that runs, has ended or was reaped. A child that has ended is
    /// not reaped by the question.
    ///
    /// # Errors
    /// Of waitid(2): ENOSYS or EPERM by a system-call filter, EINVAL before Linux 5.4.
    #[cfg(target_os = "linux")]
    pub fn is_pidfd(&self) -> io::Result<bool> {
        descriptor::is_pidfd(self.fd)
    }

    /// All of it, for a message to people.
    ///
    /// # Errors
    /// Of statx(2), fcntl(2) or getsockopt(2). What only a filter or a full descriptor table keeps from being known
    /// (memfd, pidfd) is left out instead.
    pub fn describe(&self) -> io::Result<Found> {
        #[cfg(target_os = "linux")]
        let (memfd, pidfd) = {
            let seals = self.seals().ok().flatten();
            (seals.filter(|_| self.is_memfd().unwrap_or(false)), self.is_pidfd().unwrap_or(false))
        };
        #[cfg(not(target_os = "linux"))]
        let (memfd, pidfd) = (None, false);
        Ok(Found { file_type: self.file_type()?, access: self.access()?, socket: self.socket()?, memfd, pidfd })
    }
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { access: Access::Path, file_type, .. } => write!(f, "an O_PATH descriptor of {file_type}"),
            Self { socket: Some(socket), .. } => socket.fmt(f),
            #[cfg(target_os = "linux")]
            Self { memfd: Some(seals), access, .. } => write!(f, "a memfd with {}, open for {access}", Seals(*seals)),
            Self { pidfd: true, .. } => f.write_str("a pidfd"),
            Self { file_type: FileType::Anonymous, .. } => FileType::Anonymous.fmt(f),
            Self { file_type, access, .. } => write!(f, "{file_type}, open for {access}"),
        }
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Fifo => "a pipe",
            Self::CharacterDevice => "a character device",
            Self::BlockDevice => "a block device",
            Self::Socket => "a socket",
            Self::Symlink => "a symbolic link",
            Self::Anonymous => "an object without a file type (epoll, eventfd and the like)",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::ReadWrite => "reading and writing",
            Self::Path => "its place only (O_PATH)",
            Self::Neither => "neither reading nor writing",
        })
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, socket_type, protocol, listening } = *self;
        let listening = if listening { "listening " } else { "" };
        match (domain, socket_type, protocol) {
            (Domain::Unix, SocketType::Stream, _) => write!(f, "a {listening}UNIX stream socket"),
            (Domain::Unix, SocketType::Datagram, _) => write!(f, "a {listening}UNIX datagram socket"),
            (Domain::Unix, SocketType::SeqPacket, _) => write!(f, "a {listening}UNIX seqpacket socket"),
            (Domain::Inet | Domain::Inet6, SocketType::Stream, Protocol::Tcp) => write!(f, "a {listening}TCP socket"),
            (Domain::Inet | Domain::Inet6, SocketType::Stream, Protocol::Mptcp) => {
                write!(f, "a {listening}MPTCP socket")
            }
            (Domain::Inet | Domain::Inet6, SocketType::Datagram, Protocol::Udp) => f.write_str("a UDP socket"),
            _ => write!(
                f,
                "a {listening}socket of domain {}, type {}, protocol {}",
                domain.number(),
                socket_type.number(),
                protocol.number()
            ),
        }
    }
}

impl Domain {
    fn number(self) -> i32 {
        match self {
            Self::Unix => libc::AF_UNIX,
            Self::Inet => libc::AF_INET,
            Self::Inet6 => libc::AF_INET6,
            Self::Other(number) => number,
        }
    }
}

impl SocketType {
    fn number(self) -> i32 {
        match self {
            Self::Stream => libc::SOCK_STREAM,
            Self::Datagram => libc::SOCK_DGRAM,
            Self::SeqPacket => libc::SOCK_SEQPACKET,
            Self::Other(number) => number,
        }
    }
}

impl Protocol {
    fn number(self) -> i32 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Mptcp => platform::MPTCP,
            Self::Udp => libc::IPPROTO_UDP,
            Self::Other(number) => number,
        }
    }
}

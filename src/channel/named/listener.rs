//! `[both]` Named endpoints, for processes that are not related: who connects is known before anything is received.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, UnixAddr, bind, getsockname, socket};
use nix::sys::stat::{Mode, fchmod};

use super::place::{Claim, Place};
use super::{Channel, Credentials, Kind, address, milliseconds, os, peer, status_flags};
use crate::error::{ChannelError, EndpointError};
use crate::sys::{platform, socket as sys};

/// A UNIX socket that listens at an address, and makes a [`Channel`] of each connection whose maker is wanted.
///
/// ```
/// use std::{io, thread};
/// use fdbroker::{Channel, Listener, Packet};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("service.sock");
/// let listener = Listener::options().mode(0o660).bind(&path)?;
/// let client = thread::spawn(move || Channel::connect(path)?.send(b"hello", &[]).map_err(io::Error::from));
///
/// let us = nix::unistd::geteuid().as_raw();
/// let channel = listener.accept(|peer| peer.uid == us || peer.uid == 0)?;
/// let mut packet = Packet::new();
/// channel.recv(&mut packet)?;
/// assert_eq!(packet.bytes(), b"hello");
/// # client.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Addresses
/// * **A path** has a mode and an owner, and to connect needs write permission on it. It is for its directory to keep
///   others from putting another socket there: use one that only its owner can write to, not /tmp.
/// * **An abstract name** ([`SocketAddrExt::from_abstract_name`]) has neither, and is gone with its socket. Whoever
///   comes first has it, and everybody in the network namespace can connect: both ends must look at the other's uid.
///
/// # A path that exists
/// A path is left behind by a process that was killed. It is replaced if nobody has it, and never otherwise:
///
/// 1. The file `<path>.lock` is made and locked (flock(2)) for as long as the listener lives. Of several that start at
///    once, one gets it, and the others are told [`EndpointError::InUse`].
/// 2. If the path is a socket and connect(2) says ECONNREFUSED, it is removed. Anything else is untouched: a file, a
///    directory or a symbolic link is [`EndpointError::Occupied`], a socket that a program without lock file has bound
///    is `InUse`. (Such a program may be woken by an empty connection on kernels other than Linux's own.)
///
/// A file of no bytes at `<path>.lock` is taken for a lock file, whoever made it, and is removed in the end; one with
/// content is `Occupied`. What remains is a program that knows nothing of the lock file and replaces the path in the
/// moment between looking and removing: use this crate for every program that listens at the path, or give each its
/// own.
///
/// Dropping the listener removes the path, if it is still the socket that this listener made, and the lock file, and
/// closes both. In a process that was forked from the one that bound it, dropping only closes, and the lock is held
/// until every process that has the listener has closed it. A process that gives up its privileges in between, or ends
/// without dropping, leaves path and lock file; the next listener replaces them.
///
/// # Waiting
/// `Send + Sync`; several threads and processes may accept from one listener, and each connection comes to one of them.
///
/// # Full tables
/// When this process has no free descriptor, `accept` answers [`ChannelError::DescriptorTableFull`], and
/// [`ChannelError::Os`] with ENFILE when the system has none. The connection **stays in the queue and the listener
/// stays readable**: a loop that simply goes on uses up a processor. Close something, or wait (a second, say) before
/// the next try.
pub struct Listener {
    /// Dropped first: the path goes before the socket is closed, so that nobody else can have made a socket of its
    /// number.
    place: Option<Place>,
    socket: OwnedFd,
    kind: Kind,
    /// What the caller wants. The open file description may be non-blocking all the same: deadlines need it.
    nonblocking: AtomicBool,
}

/// How to listen, in the manner of [`std::fs::OpenOptions`].
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    kind: Kind,
    mode: u32,
    backlog: u32,
}

impl Listener {
    /// Listens at a path, with the defaults of [`ListenerOptions`]: only its owner (and root) can connect.
    ///
    /// # Errors
    /// As for [`ListenerOptions::bind_addr`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, EndpointError> {
        Self::options().bind(path)
    }

    /// The defaults, to be changed.
    #[must_use]
    pub fn options() -> ListenerOptions {
        ListenerOptions::new()
    }

    /// Waits for a connection, and asks `allowed` about the process that made it (SO_PEERCRED: as it was when it
    /// called connect(2)). Only what is allowed becomes a channel, of the listener's kind and close-on-exec. What is
    /// not is closed at once: no byte and no descriptor that it sent comes into this process, and the kernel releases
    /// them.
    ///
    /// # Errors
    /// The listener goes on after each of them.
    /// * [`ChannelError::PeerRefused`]: `allowed` said no.
    /// * [`ChannelError::WouldBlock`]: [non-blocking](Self::set_nonblocking), and nobody waits.
    /// * [`ChannelError::DescriptorTableFull`]: see [above](Self#full-tables).
    /// * [`ChannelError::Os`]: anything else.
    pub fn accept(&self, allowed: impl FnOnce(&Credentials) -> bool) -> Result<Channel, ChannelError> {
        self.accept_until(None, allowed)
    }

    /// As [`accept`](Self::accept), waiting no longer than until `deadline`; a connection that is there by then is
    /// taken even if the deadline has passed. Makes the open file description non-blocking, and leaves it so.
    ///
    /// # Errors
    /// As for [`accept`](Self::accept), and [`ChannelError::TimedOut`].
    pub fn accept_deadline(
        &self,
        allowed: impl FnOnce(&Credentials) -> bool,
        deadline: Instant,
    ) -> Result<Channel, ChannelError> {
        // Somebody else may take the connection between poll(2) and accept4(2), which must not wait then.
        self.set_flag()?;
        self.accept_until(Some(deadline), allowed)
    }

    fn accept_until(
        &self,
        deadline: Option<Instant>,
        allowed: impl FnOnce(&Credentials) -> bool,
    ) -> Result<Channel, ChannelError> {
        let end = self.next_connection(deadline)?;
        let credentials = peer::credentials_of(end.as_fd())?;
        if !allowed(&credentials) {
            return Err(ChannelError::PeerRefused { credentials });
        }
        // It has inherited the listener's options.
        Ok(Channel::adopt(end, self.kind))
    }

    fn next_connection(&self, deadline: Option<Instant>) -> Result<OwnedFd, ChannelError> {
        loop {
            let error = match sys::accept(self.as_fd()) {
                Ok(end) => return Ok(end),
                Err(error) => error,
            };
            match error.raw_os_error() {
                // ECONNABORTED: who connected has gone, and its place in the queue with it.
                Some(libc::EINTR | libc::ECONNABORTED) => {}
                Some(libc::EAGAIN) if deadline.is_none() && self.nonblocking.load(Ordering::Relaxed) => {
                    return Err(ChannelError::WouldBlock);
                }
                Some(libc::EAGAIN) => self.wait(deadline)?,
                Some(libc::EMFILE) => return Err(ChannelError::DescriptorTableFull),
                _ => return Err(os("accept4", error)),
            }
        }
    }

    /// Waits until somebody connects, or something interrupts, or is wrong with the socket: accept4(2) says what.
    fn wait(&self, deadline: Option<Instant>) -> Result<(), ChannelError> {
        let timeout = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(ChannelError::TimedOut),
            Some(left) => milliseconds(left),
            None => PollTimeout::NONE,
        };
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(os("poll", errno.into())),
        }
    }

    /// Makes [`accept`](Self::accept) answer [`ChannelError::WouldBlock`] instead of waiting. Belongs to this
    /// `Listener`; a duplicate of its descriptor is made non-blocking with it, and stays so when this one is told to
    /// wait again.
    ///
    /// # Errors
    /// [`ChannelError::Os`]: fcntl(2) failed.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), ChannelError> {
        if nonblocking {
            self.set_flag()?;
        }
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    fn set_flag(&self) -> Result<(), ChannelError> {
        let flags = status_flags(self.as_fd()).map_err(|error| os("fcntl(F_GETFL)", error))?;
        if !flags.contains(OFlag::O_NONBLOCK) {
            fcntl(&self.socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
                .map_err(|errno| os("fcntl(F_SETFL)", errno.into()))?;
        }
        Ok(())
    }

    /// What the channels will be made of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it listens: for a path, what was given to bind(2), which may have been replaced since.
    ///
    /// # Errors
    /// [`ChannelError::Os`]: getsockname(2) failed, or std cannot say such an address (a path of 108 bytes).
    pub fn local_addr(&self) -> Result<SocketAddr, ChannelError> {
        let failed = |error| os("getsockname", error);
        let name: UnixAddr = getsockname(self.socket.as_raw_fd()).map_err(|errno| failed(errno.into()))?;
        match (name.path(), name.as_abstract()) {
            (Some(path), _) => SocketAddr::from_pathname(path).map_err(failed),
            (_, Some(name)) => SocketAddr::from_abstract_name(name).map_err(failed),
            _ => SocketAddr::from_pathname("").map_err(failed),
        }
    }
}

impl ListenerOptions {
    /// [`Kind::SeqPacket`], mode 0600, a backlog of 128.
    #[must_use]
    pub fn new() -> Self {
        Self { kind: Kind::SeqPacket, mode: 0o600, backlog: 128 }
    }

    /// What the channels are made of: [`Kind::SeqPacket`] or [`Kind::Stream`].
    pub fn kind(&mut self, kind: Kind) -> &mut Self {
        self.kind = kind;
        self
    }

    /// The permissions of the path, 0 to 0o777, exactly: whatever the umask is, the path never has more, and when the
    /// listener is made it has no fewer. To connect needs the write bit. No meaning for an abstract name.
    ///
    /// Bits that the umask takes away are put back through /proc.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// How many connections may wait to be accepted, before a further one has to wait. Linux allows one more, and
    /// no more than `net.core.somaxconn`.
    pub fn backlog(&mut self, backlog: u32) -> &mut Self {
        self.backlog = backlog;
        self
    }

    /// Listens at a path.
    ///
    /// # Errors
    /// As for [`bind_addr`](Self::bind_addr).
    pub fn bind(&self, path: impl AsRef<Path>) -> Result<Listener, EndpointError> {
        self.bind_addr(&address::of_path(path.as_ref(), VERB)?)
    }

    /// Listens at any address. Does not wait. What is done about a path that exists: [see
    /// there](Listener#a-path-that-exists).
    ///
    /// # Errors
    /// Nothing of the attempt is left, unless another process removes or replaces the path meanwhile, or forbids to
    /// look at it (lstat(2)).
    /// * [`EndpointError::InUse`]: somebody has the address.
    /// * [`EndpointError::Occupied`]: the path, or that of its lock file, is something else.
    /// * [`EndpointError::NotFound`]: no directory for the path.
    /// * [`EndpointError::PermissionDenied`]: this process cannot make files in it, or cannot see whether the path is
    ///   stale.
    /// * [`EndpointError::Unfit`]: [`Kind::Datagram`], a mode that is none, an unnamed address, a path of more than 107
    ///   bytes, a mode that the file system or the missing /proc does not let the path have.
    /// * [`EndpointError::DescriptorTableFull`]: this process has no free descriptors for the socket and its lock file.
    /// * [`EndpointError::Os`]: anything else.
    pub fn bind_addr(&self, address: &SocketAddr) -> Result<Listener, EndpointError> {
        let asked = address::asked(VERB, address);
        let name = address::of(address, &asked)?;
        let socket_type = address::socket_type(self.kind, &asked)?;
        if self.mode > 0o777 {
            let why = "the mode has more bits than permissions: use 0 to 0o777";
            return Err(EndpointError::Unfit { asked, why });
        }
        let socket = socket(AddressFamily::Unix, socket_type, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|errno| address::os(&asked, "socket", errno.into()))?;
        let (place, socket) = match address.as_pathname() {
            Some(path) => self.bind_path(socket, path, &name, &asked).map(|(place, socket)| (Some(place), socket))?,
            None => {
                self.bind_name(&socket, &name, &asked)?;
                (None, socket)
            }
        };
        let backlog = self.backlog.try_into().unwrap_or(i32::MAX);
        sys::listen(socket.as_fd(), backlog).map_err(|error| address::os(&asked, "listen", error))?;
        Ok(Listener { place, socket, kind: self.kind, nonblocking: AtomicBool::new(false) })
    }

    /// Until listen(2), whoever connects is refused. The order is the point: lock, look, mode, bind, mode again.
    fn bind_path(
        &self,
        socket: OwnedFd,
        path: &Path,
        name: &UnixAddr,
        asked: &str,
    ) -> Result<(Place, OwnedFd), EndpointError> {
        let claim = Claim::of(path, name, self.kind, asked)?;
        // Linux makes the path with the mode of the socket, less the umask.
        fchmod(&socket, Mode::from_bits_truncate(self.mode))
            .map_err(|errno| address::os(asked, "fchmod", errno.into()))?;
        self.bind_name(&socket, name, asked)?;
        claim.bound(socket, self.mode, asked)
    }

    fn bind_name(&self, socket: &OwnedFd, name: &UnixAddr, asked: &str) -> Result<(), EndpointError> {
        bind(socket.as_raw_fd(), name).map_err(|errno| address::error(asked, "bind", errno, self.kind))
    }
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl AsFd for Listener {
    /// For polling (readable: somebody waits), and for giving a duplicate to another process.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes a listener from outside, such as one that systemd opened and this process inherited. The kernel is asked
/// whether it is one: SO_DOMAIN, SO_TYPE, SO_ACCEPTCONN. Close-on-exec is set. Non-blocking it is if it was. Its path,
/// if it has one, belongs to who bound it, and stays when this is dropped.
impl TryFrom<OwnedFd> for Listener {
    type Error = EndpointError;

    /// # Errors
    /// [`EndpointError::NotAListener`], or [`EndpointError::Os`]: the kernel, or who filters system calls, does not let
    /// it be asked or set. The descriptor is closed.
    fn try_from(socket: OwnedFd) -> Result<Self, EndpointError> {
        let is_none = |what| EndpointError::NotAListener { what };
        let failed = |call| move |error| no_answer(call, error);
        if platform::domain(socket.as_fd()).map_err(failed("getsockopt(SO_DOMAIN)"))? != libc::AF_UNIX {
            return Err(is_none("not a UNIX socket"));
        }
        let kind = match sys::kind(socket.as_fd()).map_err(failed("getsockopt(SO_TYPE)"))? {
            libc::SOCK_SEQPACKET => Kind::SeqPacket,
            libc::SOCK_STREAM => Kind::Stream,
            _ => return Err(is_none("a datagram socket")),
        };
        if !sys::is_listening(socket.as_fd()).map_err(failed("getsockopt(SO_ACCEPTCONN)"))? {
            return Err(is_none("a socket that does not listen"));
        }
        let flags = status_flags(socket.as_fd()).map_err(failed("fcntl(F_GETFL)"))?;
        platform::close_on_exec(&socket).map_err(failed("fcntl(F_SETFD)"))?;
        let nonblocking = AtomicBool::new(flags.contains(OFlag::O_NONBLOCK));
        Ok(Self { place: None, socket, kind, nonblocking })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("fd", &self.socket.as_raw_fd())
            .field("kind", &self.kind)
            .field("address", &self.local_addr().ok())
            .field("removes_its_path", &self.place.is_some())
            .finish()
    }
}

/// What is no socket says ENOTSOCK; what is open as a path only, EBADF.
fn no_answer(call: &'static str, error: io::Error) -> EndpointError {
    match error.raw_os_error() {
        Some(libc::ENOTSOCK | libc::EBADF) => EndpointError::NotAListener { what: "not a socket" },
        _ => address::os("taking a descriptor as a listener", call, error),
    }
}

const VERB: &str = "listening at";

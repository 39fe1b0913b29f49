//! `[both]` One message with its descriptors, whole or not at all.

mod address;
mod connect;
mod listener;
mod packet;
mod peer;
mod place;
mod sendfd;
mod stream;

pub use listener::{Listener, ListenerOptions};
pub use packet::Packet;
pub use peer::{Credentials, PidFd};

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::ChannelError;
use crate::sys::{scm, socket};
use stream::Stream;

/// Descriptors that one message can carry at most: SCM_MAX_FD of the Linux kernel.
pub const MAX_FDS: usize = scm::MAX_FDS;
/// Descriptors that a new channel accepts in one message. See [`Channel::set_max_fds`].
pub const DEFAULT_MAX_FDS: usize = 16;

/// The kinds of UNIX socket a channel can be made of. Each keeps the promise of [`Channel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// SOCK_SEQPACKET: the kernel keeps messages apart and reports a hang-up. What [`Channel::pair`] makes.
    SeqPacket,
    /// SOCK_STREAM: the channel puts a header of 8 bytes before each message (its length and its number of
    /// descriptors, both u32, little-endian), so both ends must be a `Channel`. A hang-up is reported.
    Stream,
    /// SOCK_DGRAM: the kernel keeps messages apart but **never reports a hang-up**: a receive from a peer that is gone
    /// waits for ever (or until the [timeout](Channel::set_recv_timeout)); only a send says so.
    Datagram,
}

/// One end of a connected pair of UNIX sockets that carries messages of bytes and descriptors.
///
/// The promise: a message arrives whole with its descriptors, close-on-exec set, or a typed error says why and every
/// descriptor of that message is closed. Nothing is ever delivered in part, no signal (SIGPIPE) is ever raised, and an
/// interrupted system call (EINTR) is made again.
///
/// * **Ownership.** Sending borrows descriptors: the sender keeps its own. Receiving gives owned ones. Both ends then
///   refer to one open file description, with one offset and one O_NONBLOCK flag.
/// * **Blocking.** Calls wait for the peer, unless [`set_nonblocking`](Self::set_nonblocking) or a timeout says
///   otherwise.
/// * **Threads.** `Send + Sync`. Messages from several threads do not mix; each is received by one thread.
/// * **Platform.** Linux.
///
/// ```
/// use std::{fs::File, io::Read, os::fd::AsFd};
/// use fdbroker::{Channel, Packet};
///
/// let (here, there) = Channel::pair()?;
/// here.send(b"the licence", &[File::open("LICENSE-MIT")?.as_fd()])?;
///
/// let mut packet = Packet::new();
/// there.recv(&mut packet)?;
/// assert_eq!(packet.bytes(), b"the licence");
/// let mut text = String::new();
/// File::from(packet.take_fds().next().unwrap()).read_to_string(&mut text)?;
/// assert!(text.contains("Permission is hereby granted"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Channel {
    socket: OwnedFd,
    max_fds: usize,
    framing: Framing,
}

enum Framing {
    /// The kernel keeps messages apart. `hangs_up`: whether an empty read can mean that the peer is gone.
    Kernel { hangs_up: bool },
    /// The channel does.
    Stream(Box<Stream>),
}

impl Channel {
    /// Two connected ends, of [`Kind::SeqPacket`]. Both are close-on-exec.
    ///
    /// # Errors
    /// [`ChannelError::Os`]: socketpair(2) failed, for want of descriptors or memory.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        Self::pair_of(Kind::SeqPacket)
    }

    /// Two connected ends of another kind.
    ///
    /// # Errors
    /// As for [`pair`](Self::pair).
    pub fn pair_of(kind: Kind) -> Result<(Self, Self), ChannelError> {
        let socket_type = match kind {
            Kind::SeqPacket => SockType::SeqPacket,
            Kind::Stream => SockType::Stream,
            Kind::Datagram => SockType::Datagram,
        };
        let (one, other) = socketpair(AddressFamily::Unix, socket_type, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| os("socketpair", errno.into()))?;
        Ok((Self::over(one, kind), Self::over(other, kind)))
    }

    /// Over a socket that somebody else made, perhaps without close-on-exec. Setting it cannot fail on an open descriptor.
    fn adopt(socket: OwnedFd, kind: Kind) -> Self {
        let _ = fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        Self::over(socket, kind)
    }

    fn over(socket: OwnedFd, kind: Kind) -> Self {
        let framing = match kind {
            Kind::SeqPacket => Framing::Kernel { hangs_up: true },
            Kind::Datagram => Framing::Kernel { hangs_up: false },
            Kind::Stream => Framing::Stream(Box::default()),
        };
        Self { socket, max_fds: DEFAULT_MAX_FDS, framing }
    }

    /// What the channel is made of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.framing {
            Framing::Kernel { hangs_up: true } => Kind::SeqPacket,
            Framing::Kernel { hangs_up: false } => Kind::Datagram,
            Framing::Stream(_) => Kind::Stream,
        }
    }

    /// How many descriptors a message to this end may carry: 16 in a new channel, at most [`MAX_FDS`]. The kernel is
    /// offered room for no more, so a hostile peer cannot fill this process's descriptor table with one message.
    pub fn set_max_fds(&mut self, max_fds: usize) {
        self.max_fds = max_fds.min(MAX_FDS);
    }

    /// See [`set_max_fds`](Self::set_max_fds).
    #[must_use]
    pub fn max_fds(&self) -> usize {
        self.max_fds
    }

    /// Makes send and receive answer [`ChannelError::WouldBlock`] instead of waiting. The flag belongs to the open file
    /// description: it holds for every duplicate of this end, in every process, and not for the other end.
    ///
    /// A message on a [`Kind::Stream`] channel that has begun to move is waited for all the same.
    ///
    /// # Errors
    /// [`ChannelError::Os`]: fcntl(2) failed.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), ChannelError> {
        let mut flags = self.status_flags()?;
        flags.set(OFlag::O_NONBLOCK, nonblocking);
        fcntl(&self.socket, FcntlArg::F_SETFL(flags)).map_err(|errno| os("fcntl(F_SETFL)", errno.into()))?;
        Ok(())
    }

    /// How long a receive waits for a message before it answers [`ChannelError::TimedOut`]; `None` is for ever.
    /// Rounded up to a microsecond. Holds for the socket, as O_NONBLOCK does (SO_RCVTIMEO).
    ///
    /// # Errors
    /// [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn set_recv_timeout(&self, timeout: Option<Duration>) -> Result<(), ChannelError> {
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time_value(timeout))
            .map_err(|errno| os("setsockopt(SO_RCVTIMEO)", errno.into()))
    }

    /// How long a send waits for room in the peer's queue before it answers [`ChannelError::TimedOut`]; `None` is for
    /// ever. Rounded up to a microsecond. Holds for the socket, as O_NONBLOCK does (SO_SNDTIMEO).
    ///
    /// # Errors
    /// [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn set_send_timeout(&self, timeout: Option<Duration>) -> Result<(), ChannelError> {
        setsockopt(&self.socket, sockopt::SendTimeout, &time_value(timeout))
            .map_err(|errno| os("setsockopt(SO_SNDTIMEO)", errno.into()))
    }

    /// Asks the kernel to refuse every message to this end that carries descriptors, so that its sender gets EPERM and
    /// nothing is installed here. Answers whether the kernel can: Linux 6.16 (SO_PASSRIGHTS). Where it cannot, this
    /// end's budget of 0 does the same at receipt.
    pub(crate) fn refuse_descriptors(&mut self) -> Result<bool, ChannelError> {
        self.max_fds = 0;
        socket::refuse_descriptors(self.as_fd()).map_err(|error| os("setsockopt(SO_PASSRIGHTS)", error))
    }

    /// Bounds what can wait in the peer's queue, and with it the descriptors in flight that the kernel counts against
    /// this user (K9).
    pub(crate) fn set_send_buffer(&self, bytes: usize) -> Result<(), ChannelError> {
        setsockopt(&self.socket, sockopt::SndBuf, &bytes).map_err(|errno| os("setsockopt(SO_SNDBUF)", errno.into()))
    }

    /// Whether the peer has not received everything that was sent to it.
    pub(crate) fn has_unread(&self) -> Result<bool, ChannelError> {
        socket::has_unread(self.as_fd()).map_err(|error| os("ioctl(SIOCOUTQ)", error))
    }

    /// Ends the traffic in both directions: whoever waits on either end is told of a hang-up.
    pub(crate) fn shut_down(&self) {
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Sends one message: `bytes`, and duplicates of `fds`.
    ///
    /// # Errors
    /// Nothing was sent, unless it says otherwise.
    /// * [`ChannelError::Empty`]: no bytes and no descriptors. Such a message looks like a hang-up to its receiver.
    /// * [`ChannelError::TooManyDescriptors`]: more than [`MAX_FDS`].
    /// * [`ChannelError::TooLarge`]: the kernel takes no message of this size.
    /// * [`ChannelError::Disconnected`]: the peer is gone.
    /// * [`ChannelError::WouldBlock`], [`ChannelError::TimedOut`]: the peer's queue is full.
    /// * [`ChannelError::Broken`]: an earlier message on a [`Kind::Stream`] was cut short.
    /// * [`ChannelError::Os`]: anything else, EPERM among them: the peer refuses descriptors.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_raw(bytes, fds.iter().map(AsRawFd::as_raw_fd))
    }

    fn send_raw(&self, bytes: &[u8], fds: impl ExactSizeIterator<Item = RawFd>) -> Result<(), ChannelError> {
        if fds.len() > MAX_FDS {
            return Err(ChannelError::TooManyDescriptors { budget: MAX_FDS });
        }
        if bytes.is_empty() && fds.len() == 0 {
            return Err(ChannelError::Empty);
        }
        match &self.framing {
            Framing::Kernel { .. } => {
                scm::send(self.as_fd(), &[IoSlice::new(bytes)], fds).map_err(|error| self.error("sendmsg", error))?;
                Ok(())
            }
            Framing::Stream(stream) => stream.send(self, bytes, fds),
        }
    }

    /// Receives one message into `packet`, whose earlier bytes are forgotten and whose earlier descriptors, if nobody
    /// took them, are closed. Allocates nothing.
    ///
    /// # Errors
    /// `packet` is then empty, and every descriptor of the message is closed.
    /// * [`ChannelError::Disconnected`]: the peer is gone and everything it sent has been received.
    /// * [`ChannelError::TooLarge`]: the message had more bytes than the packet holds. The channel is usable, but
    ///   for a [`Kind::Stream`].
    /// * [`ChannelError::TooManyDescriptors`]: more than this end's [budget](Self::set_max_fds). The channel is usable.
    /// * [`ChannelError::DescriptorTableFull`]: this process has no free descriptors (RLIMIT_NOFILE). The channel is usable.
    /// * [`ChannelError::WouldBlock`], [`ChannelError::TimedOut`]: no message is there.
    /// * [`ChannelError::Broken`]: the peer does not keep to the framing of a [`Kind::Stream`], now or earlier.
    /// * [`ChannelError::Os`]: anything else.
    pub fn recv(&self, packet: &mut Packet) -> Result<(), ChannelError> {
        self.recv_within(self.max_fds, packet)
    }

    fn recv_within(&self, budget: usize, packet: &mut Packet) -> Result<(), ChannelError> {
        packet.clear();
        let result = match &self.framing {
            Framing::Kernel { hangs_up } => self.recv_whole(budget, *hangs_up, packet),
            Framing::Stream(stream) => stream.recv(self, budget, packet),
        };
        if result.is_err() {
            packet.clear();
        }
        result
    }

    fn recv_whole(&self, budget: usize, hangs_up: bool, packet: &mut Packet) -> Result<(), ChannelError> {
        let mut receive = || scm::recv(self.as_fd(), &mut packet.buffer, &mut packet.control, budget, &mut packet.fds);
        let received = receive()
            // A peer that closed its end with our messages unread: told once, ahead of what it has sent (K27).
            .or_else(|error| if error.raw_os_error() == Some(libc::ECONNRESET) { receive() } else { Err(error) })
            .map_err(|error| self.error("recvmsg", error))?;
        packet.len = received.len;
        if received.control_cut {
            return Err(lost_descriptors(budget, packet));
        }
        if received.bytes_cut {
            return Err(ChannelError::TooLarge);
        }
        if hangs_up && received.len == 0 && !received.control && self.peer_is_gone()? {
            return Err(ChannelError::Disconnected);
        }
        Ok(())
    }

    /// Tells a hang-up from a message of no bytes and no descriptors, which another sender than `Channel` can make
    /// (K1): a peer that is there, or bytes behind it, say that it was a message. Only an empty message from a peer
    /// that has closed its end, with nothing or with another message of no bytes behind it, is taken for the hang-up.
    fn peer_is_gone(&self) -> Result<bool, ChannelError> {
        if !socket::is_hung_up(self.as_fd()).map_err(|error| os("poll", error))? {
            return Ok(false);
        }
        // No control buffer: peeking with one would install descriptors (K26).
        let flags = nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        let peek = || nix::sys::socket::recv(self.socket.as_raw_fd(), &mut [0; 1], flags);
        // The first peek can meet the ECONNRESET of a hang-up that came just now (K27).
        Ok(peek().or_else(|_| peek()).unwrap_or(0) == 0)
    }

    fn status_flags(&self) -> Result<OFlag, ChannelError> {
        let flags = fcntl(&self.socket, FcntlArg::F_GETFL).map_err(|errno| os("fcntl(F_GETFL)", errno.into()))?;
        Ok(OFlag::from_bits_retain(flags))
    }

    /// Waits until the socket is ready, whatever O_NONBLOCK says: for the rest of a frame.
    fn wait(&self, events: PollFlags) -> Result<(), ChannelError> {
        match poll(&mut [PollFd::new(self.as_fd(), events)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(os("poll", errno.into())),
        }
    }

    /// An error of the socket, by what the caller can do next. The errno of a dead peer differs by kind (K27).
    fn error(&self, call: &'static str, source: io::Error) -> ChannelError {
        match source.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN) => ChannelError::Disconnected,
            Some(libc::EAGAIN) => match self.status_flags() {
                Ok(flags) if !flags.contains(OFlag::O_NONBLOCK) => ChannelError::TimedOut,
                _ => ChannelError::WouldBlock,
            },
            Some(libc::EMSGSIZE) => ChannelError::TooLarge,
            _ => os(call, source),
        }
    }
}

impl AsFd for Channel {
    /// For polling. Reading or writing through it breaks the promise of the channel.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("fd", &self.socket.as_raw_fd())
            .field("kind", &self.kind())
            .field("max_fds", &self.max_fds)
            .finish()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

/// Takes any UNIX socket that is SOCK_SEQPACKET, SOCK_STREAM or SOCK_DGRAM (asked of the kernel: SO_DOMAIN, SO_TYPE) and
/// sets close-on-exec. It is for the caller to know that it is connected to one peer.
impl TryFrom<OwnedFd> for Channel {
    type Error = ChannelError;

    /// # Errors
    /// [`ChannelError::NotASocket`]; the descriptor is closed.
    fn try_from(fd: OwnedFd) -> Result<Self, ChannelError> {
        let domain = socket::domain(fd.as_fd()).map_err(|_| ChannelError::NotASocket)?;
        let kind = match socket::kind(fd.as_fd()) {
            Ok(libc::SOCK_SEQPACKET) => Kind::SeqPacket,
            Ok(libc::SOCK_STREAM) => Kind::Stream,
            Ok(libc::SOCK_DGRAM) => Kind::Datagram,
            _ => return Err(ChannelError::NotASocket),
        };
        if domain != libc::AF_UNIX {
            return Err(ChannelError::NotASocket);
        }
        Ok(Self::adopt(fd, kind))
    }
}

/// A channel of [`Kind::Stream`]: the peer must be a `Channel` too, for the framing.
impl From<UnixStream> for Channel {
    fn from(socket: UnixStream) -> Self {
        Self::adopt(socket.into(), Kind::Stream)
    }
}

/// A channel of [`Kind::Datagram`].
impl From<UnixDatagram> for Channel {
    fn from(socket: UnixDatagram) -> Self {
        Self::adopt(socket.into(), Kind::Datagram)
    }
}

/// Which of the two reasons for MSG_CTRUNC it was: the kernel installs descriptors until the room or the table is full.
fn lost_descriptors(budget: usize, packet: &Packet) -> ChannelError {
    if packet.fds.len() >= budget {
        ChannelError::TooManyDescriptors { budget }
    } else {
        ChannelError::DescriptorTableFull
    }
}

fn os(call: &'static str, source: io::Error) -> ChannelError {
    ChannelError::Os { call, source }
}

/// Zero means "for ever" to the kernel, so a timeout of zero becomes the shortest there is.
fn time_value(timeout: Option<Duration>) -> TimeVal {
    let Some(timeout) = timeout else { return TimeVal::zero() };
    let microseconds = i64::try_from(timeout.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX);
    TimeVal::microseconds(microseconds.clamp(1, i64::from(i32::MAX) * 1_000_000))
}

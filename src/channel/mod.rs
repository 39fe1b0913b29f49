//! `[both]` One message with its descriptors, whole or not at all.

mod adopt;
#[cfg(feature = "tokio")]
mod asynchronous;
mod lane;
mod many;
#[cfg(target_os = "linux")]
mod named;
mod packet;
mod peer;
pub mod raw;
mod sendfd;
#[cfg(target_os = "linux")]
mod served;
mod settings;
mod stream;
pub mod typed;
mod wait;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncChannel;
#[cfg(target_os = "linux")]
pub use named::{Listener, ListenerOptions};
pub use packet::Packet;
pub use peer::{Credentials, PidFd};

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, Shutdown, SockType, shutdown, socketpair};

use crate::error::ChannelError;
use crate::sys::scm::{self, Arrived, Received, Room};
use crate::sys::{platform, socket};
use peer::SenderOptions;
use stream::Stream;
pub(crate) use wait::Wait;
#[cfg(target_os = "linux")]
pub(crate) use {settings::time_value, wait::milliseconds};

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
    /// SOCK_STREAM, for a `UnixStream`, and where there is no SOCK_SEQPACKET. A hang-up is reported. The kernel keeps
    /// no boundaries, so the channel puts a header before each message, and both ends must do so:
    ///
    /// | offset | size | field |
    /// |-------:|-----:|-------|
    /// | 0 | 4 | bytes of the message behind the header, u32, little-endian |
    /// | 4 | 4 | descriptors of the message, u32, little-endian, at most 253 |
    ///
    /// The descriptors ride on the first byte of the header. A peer that knows nothing of this is for [`raw`].
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
/// * **Threads.** `Send + Sync`. Messages from several threads do not mix; each is received by one thread. That holds
///   for one `Channel`: two of them over duplicates of one socket, or in two processes after a fork, mix the frames of
///   a [`Kind::Stream`]. Share an end of another kind.
/// * **Closing.** To close a descriptor can take time: as long as its sender's SO_LINGER says, for a socket with unsent
///   data (K42). So can an error, which closes what came. Only [`refuse_descriptors`](Self::refuse_descriptors) keeps
///   such a one out.
/// * **Platform.** Linux. For macOS and the BSDs it compiles, and follows their manual pages, but has not been run.
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
    sender: SenderOptions,
    kind: Kind,
    /// Of [`Kind::Stream`] the frames; of the others the kernel keeps messages apart.
    stream: Option<Box<Stream>>,
    /// The turns of [`send_many`](Self::send_many) and [`recv_many`](Self::recv_many).
    many: many::Turns,
}

impl Channel {
    /// Two connected ends, of [`Kind::SeqPacket`], or of [`Kind::Stream`] where there is no such thing (macOS). Both
    /// are close-on-exec.
    ///
    /// # Errors
    /// [`ChannelError::DescriptorTableFull`]; [`ChannelError::Os`]: socketpair(2) failed otherwise.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        Self::pair_of(if platform::HAS_SEQPACKET { Kind::SeqPacket } else { Kind::Stream })
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
        let (one, other) = socketpair(AddressFamily::Unix, socket_type, None, platform::SOCKET_FLAGS)
            .map_err(|errno| os("socketpair", errno.into()))?;
        platform::prepare(&one);
        platform::prepare(&other);
        Ok((Self::over(one, kind), Self::over(other, kind)))
    }

    fn over(socket: OwnedFd, kind: Kind) -> Self {
        let stream = (kind == Kind::Stream).then(Box::default);
        let (sender, many) = Default::default();
        Self { socket, max_fds: DEFAULT_MAX_FDS, sender, kind, stream, many }
    }

    /// What the channel is made of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Sends one message: `bytes`, and duplicates of `fds`.
    ///
    /// # Errors
    /// Nothing was sent, unless it says otherwise.
    /// * [`ChannelError::Empty`]: no bytes and no descriptors. Such a message looks like a hang-up to its receiver.
    /// * [`ChannelError::TooManyDescriptors`]: more than [`MAX_FDS`]. [`send_many`](Self::send_many) takes more.
    /// * [`ChannelError::TooLarge`]: the kernel takes no message of this size.
    /// * [`ChannelError::Disconnected`]: the peer is gone.
    /// * [`ChannelError::WouldBlock`], [`ChannelError::TimedOut`]: the peer's queue is full.
    /// * [`ChannelError::Congested`]: the kernel has no room for more descriptors in flight, or no memory. A blocking
    ///   channel waits for that as it does for the queue.
    /// * [`ChannelError::Unfinished`]: part of the message was sent, and the channel holds the rest. [`Kind::Stream`]
    ///   only.
    /// * [`ChannelError::Os`]: anything else, EPERM among them: the peer refuses descriptors.
    #[inline]
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_within(Wait::Socket, bytes, fds.iter().map(AsRawFd::as_raw_fd))
    }

    /// As [`send`](Self::send), but waits until `deadline`, whatever the channel's own timeout, and O_NONBLOCK, say.
    ///
    /// # Errors
    /// As for [`send`](Self::send); [`ChannelError::TimedOut`] when the deadline has passed.
    pub fn send_deadline(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), ChannelError> {
        self.send_within(Wait::Until(deadline), bytes, fds.iter().map(AsRawFd::as_raw_fd))
    }

    /// As [`send`](Self::send), but does not wait: neither for the peer nor for another thread that waits for it.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_within(Wait::Not, bytes, fds.iter().map(AsRawFd::as_raw_fd))
    }

    /// As [`send`](Self::send), but gives the descriptors away: once they are sent, `fds` is empty and they are closed
    /// here.
    ///
    /// # Errors
    /// As for [`send`](Self::send). `fds` is then as it was, so that nothing is lost, but for
    /// [`ChannelError::Unfinished`]: then they have been sent, and closed here. (Of a peer that dies in the middle of a
    /// message they are kept.)
    pub fn give(&self, bytes: &[u8], fds: &mut Vec<OwnedFd>) -> Result<(), ChannelError> {
        let result = self.send_within(Wait::Socket, bytes, fds.iter().map(AsRawFd::as_raw_fd));
        if matches!(result, Ok(()) | Err(ChannelError::Unfinished)) {
            fds.clear();
        }
        result
    }

    /// Sends the rest of a message that was [`ChannelError::Unfinished`]; the next send would do so first. Nothing to
    /// do for other kinds than [`Kind::Stream`].
    ///
    /// # Errors
    /// As for [`send`](Self::send). After [`ChannelError::WouldBlock`] and [`ChannelError::TimedOut`] there is still
    /// something to flush.
    pub fn flush(&self) -> Result<(), ChannelError> {
        self.flush_within(Wait::Socket)
    }

    pub(crate) fn flush_within(&self, wait: Wait) -> Result<(), ChannelError> {
        self.stream.as_ref().map_or(Ok(()), |stream| stream.flush(self, wait))
    }

    #[inline(always)]
    pub(crate) fn send_within(
        &self,
        wait: Wait,
        bytes: &[u8],
        fds: impl ExactSizeIterator<Item = RawFd> + Clone,
    ) -> Result<(), ChannelError> {
        if fds.len() > MAX_FDS {
            return Err(ChannelError::TooManyDescriptors { budget: MAX_FDS });
        }
        if bytes.is_empty() && fds.len() == 0 {
            return Err(ChannelError::Empty);
        }
        if let Some(stream) = &self.stream {
            return stream.send(self, wait, bytes, fds);
        }
        let message = [IoSlice::new(bytes)];
        let end = if self.kind == Kind::SeqPacket { platform::SEQPACKET_FLAGS } else { 0 };
        let send = |flags| {
            scm::send(self.as_fd(), &message, fds.clone(), flags | end).map_err(|error| hopeless(error, bytes.len()))
        };
        self.sending(wait, send).map(drop)
    }

    /// Receives one message into `packet`, whose earlier bytes are forgotten and whose earlier descriptors, if nobody
    /// took them, are closed. Allocates nothing, unless it gives up in the middle of a stream's message.
    ///
    /// # Errors
    /// `packet` is then empty. The message and its descriptors are gone, unless it says otherwise, and the channel is
    /// usable.
    /// * [`ChannelError::Disconnected`]: the peer is gone and everything it sent has been received. (A `Channel` sends
    ///   nothing empty; behind an empty message of another program, from a peer that is gone, there can be another.)
    /// * [`ChannelError::TooLarge`]: the message had more bytes than the packet holds. On a [`Kind::Stream`] one that
    ///   has over a megabyte more breaks the channel.
    /// * [`ChannelError::TooManyDescriptors`]: more than this end's [budget](Self::set_max_fds).
    /// * [`ChannelError::DescriptorTableFull`]: this process has no free descriptors (RLIMIT_NOFILE).
    /// * [`ChannelError::WouldBlock`], [`ChannelError::TimedOut`]: no message is there, or not all of one. What is
    ///   there is kept in the channel, and the next receive goes on with it.
    /// * [`ChannelError::UnexpectedControlData`]: an option that somebody else set on the socket took the descriptors'
    ///   room.
    /// * [`ChannelError::Broken`]: the peer does not keep to the framing of a [`Kind::Stream`], now or earlier. Every
    ///   later receive says so too.
    /// * [`ChannelError::Os`]: anything else.
    #[inline]
    pub fn recv(&self, packet: &mut Packet) -> Result<(), ChannelError> {
        self.recv_within(Wait::Socket, self.max_fds, packet)
    }

    /// As [`recv`](Self::recv), but waits until `deadline`, whatever the channel's own timeout, and O_NONBLOCK, say.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv); [`ChannelError::TimedOut`] when the deadline has passed.
    pub fn recv_deadline(&self, packet: &mut Packet, deadline: Instant) -> Result<(), ChannelError> {
        self.recv_within(Wait::Until(deadline), self.max_fds, packet)
    }

    /// As [`recv`](Self::recv), but does not wait: neither for the peer nor for another thread that waits for it.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&self, packet: &mut Packet) -> Result<(), ChannelError> {
        self.recv_within(Wait::Not, self.max_fds, packet)
    }

    #[inline(always)]
    pub(crate) fn recv_within(&self, wait: Wait, budget: usize, packet: &mut Packet) -> Result<(), ChannelError> {
        packet.clear();
        let result = self.recv_or_part(wait, budget, packet);
        if result.is_err() {
            packet.clear();
        }
        result
    }

    /// On an error, what there is of the message stays in the packet.
    #[inline(always)]
    fn recv_or_part(&self, wait: Wait, budget: usize, packet: &mut Packet) -> Result<(), ChannelError> {
        match &self.stream {
            None => self.recv_whole(wait, budget, packet),
            Some(stream) => stream.recv(self, wait, budget, packet),
        }
    }

    #[inline(always)]
    fn recv_whole(&self, wait: Wait, budget: usize, packet: &mut Packet) -> Result<(), ChannelError> {
        let received = self.receive_part(wait, &mut packet.buffer, &mut packet.arrived, budget)?;
        packet.len = received.len;
        if let Some(loss) = Loss::of(&received, packet.arrived.fds.len(), budget) {
            return Err(loss.error(budget));
        }
        if received.bytes_cut {
            return Err(ChannelError::TooLarge);
        }
        if received.len == 0 && !received.control && self.peer_is_gone()? {
            return Err(ChannelError::Disconnected);
        }
        Ok(())
    }

    /// One recvmsg, with room for `budget` descriptors.
    #[inline(always)]
    fn receive_part(
        &self,
        wait: Wait,
        bytes: &mut [u8],
        arrived: &mut Arrived,
        budget: usize,
    ) -> Result<Received, ChannelError> {
        let room = Room { fds: budget, credentials: self.sender.credentials, pidfd: self.sender.pidfd };
        let mut received = self.receiving(wait, |flags| {
            let mut reset = false;
            loop {
                match scm::recv(self.as_fd(), bytes, arrived, room, flags) {
                    // A peer that closed its end with our messages unread: told once, ahead of what it has sent (K27).
                    Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) && !reset => reset = true,
                    result => return result,
                }
            }
        })?;
        // What was not asked for is not had, whoever set the option.
        if !self.sender.pidfd {
            arrived.pidfd = None;
        }
        if !self.sender.credentials {
            arrived.credentials = None;
        }
        // It can also have been cut away to nothing, or have been the only thing that was cut.
        received.unexpected |= received.control_cut && self.sender.is_exceeded_by(self.as_fd());
        Ok(received)
    }

    /// Tells a hang-up from a message of no bytes and no descriptors, which another sender than `Channel` can make
    /// (K1): a peer that is there, or bytes behind it, say that it was a message. One case stays ambiguous: the peer
    /// has closed its end, and behind the empty message is nothing, or only further empty ones. That is taken for the
    /// hang-up.
    fn peer_is_gone(&self) -> Result<bool, ChannelError> {
        let more = || socket::has_bytes(self.as_fd()).map_err(|error| os("ioctl(FIONREAD)", error));
        Ok(self.is_hung_up()? && !more()?)
    }

    fn is_hung_up(&self) -> Result<bool, ChannelError> {
        socket::is_hung_up(self.as_fd()).map_err(|error| os("poll", error))
    }

    fn is_nonblocking(&self) -> Result<bool, ChannelError> {
        Ok(self.status_flags()?.contains(OFlag::O_NONBLOCK))
    }

    fn status_flags(&self) -> Result<OFlag, ChannelError> {
        status_flags(self.as_fd()).map_err(|error| os("fcntl(F_GETFL)", error))
    }

    /// An error of the socket, by what the caller can do next. The errno of a dead peer differs by kind (K27).
    #[cold]
    fn error(&self, call: &'static str, wait: Wait, source: io::Error) -> ChannelError {
        match source.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN) => ChannelError::Disconnected,
            Some(libc::EAGAIN) => match (wait, self.status_flags()) {
                (Wait::Socket | Wait::Queue, Ok(flags)) if !flags.contains(OFlag::O_NONBLOCK) => ChannelError::TimedOut,
                _ => ChannelError::WouldBlock,
            },
            Some(libc::EMSGSIZE) => ChannelError::TooLarge,
            _ => os(call, source),
        }
    }
}

/// No memory for a message that takes more of it in one piece than the kernel ever gives is not waited for: it is too
/// large.
fn hopeless(error: io::Error, length: usize) -> io::Error {
    const LARGEST_PIECE: usize = 4 << 20;
    let hopeless = error.raw_os_error() == Some(libc::ENOBUFS) && length > LARGEST_PIECE;
    if hopeless { io::Error::from_raw_os_error(libc::EMSGSIZE) } else { error }
}

/// Why descriptors of a message were lost.
#[derive(Clone, Copy)]
enum Loss {
    Budget,
    Table,
    Unexpected,
}

impl Loss {
    /// The kernel installs descriptors until the room or the table is full. `fds` of the message came.
    fn of(received: &Received, fds: usize, budget: usize) -> Option<Self> {
        match received {
            // A surplus one took the room of a pidfd (K22).
            _ if fds > budget => Some(Self::Budget),
            Received { no_pidfd: true, .. } => Some(Self::Table),
            Received { control_cut: false, .. } => None,
            Received { unexpected: true, .. } => Some(Self::Unexpected),
            _ if fds == budget => Some(Self::Budget),
            _ => Some(Self::Table),
        }
    }

    fn error(self, budget: usize) -> ChannelError {
        match self {
            Self::Budget => ChannelError::TooManyDescriptors { budget },
            Self::Table => ChannelError::DescriptorTableFull,
            Self::Unexpected => ChannelError::UnexpectedControlData,
        }
    }
}

impl AsFd for Channel {
    /// For polling. Reading or writing through it breaks the promise of the channel.
    #[inline]
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
            .finish_non_exhaustive()
    }
}

/// The socket. A channel of [`Kind::Stream`] that holds a part of a message, in either direction, is shut down first,
/// in both: whatever used the socket behind it would take the middle of that message for the beginning of the next.
impl From<Channel> for OwnedFd {
    fn from(mut channel: Channel) -> Self {
        if channel.stream.as_mut().is_some_and(|stream| stream.is_amid_a_message()) {
            let _ = shutdown(channel.socket.as_raw_fd(), Shutdown::Both);
        }
        channel.socket
    }
}

fn status_flags(socket: BorrowedFd<'_>) -> io::Result<OFlag> {
    Ok(OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?))
}

/// An error of a system call. That there is no free descriptor is one to every call.
fn os(call: &'static str, source: io::Error) -> ChannelError {
    match source.raw_os_error() {
        Some(libc::EMFILE) => ChannelError::DescriptorTableFull,
        _ => ChannelError::Os { call, source },
    }
}

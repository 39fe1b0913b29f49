//! `[both]` A channel whose calls wait in a tokio runtime instead of in the kernel.
//!
//! No call has a state of its own: it waits until the socket is ready, then does in one step what the channel can do
//! without waiting, and begins anew. What a dropped future leaves behind is in the channel, where the next call finds
//! it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task;

use super::wait::{LONGEST_PAUSE, PAUSE};
use super::{Channel, Packet, Wait, os};
use crate::error::ChannelError;
use crate::sys::platform;

/// A [`Channel`] whose calls wait in a tokio runtime. Feature `tokio`.
///
/// The promise of [`Channel`] holds, and whoever drops a future (`select!`, `timeout`, an aborted task) loses nothing:
///
/// * **A dropped receive** has taken no message. What it may have taken is a part of one, which happens on a
///   [`Kind::Stream`](super::Kind::Stream): that is kept in the channel, and the next receive goes on with it.
/// * **A dropped send** has sent nothing, or, on a [`Kind::Stream`](super::Kind::Stream) only, has begun its message:
///   then the descriptors are on their way, and the channel holds the rest of the bytes until the next send or
///   [`flush`](Self::flush) by anybody, which sends them first. [`begin`](Self::begin) tells the two apart: dropped, it
///   has sent nothing; once ready, the message has begun and must not be sent again. [`give`](Self::give) tells them
///   apart by its descriptors.
/// * **Waiting.** As long as it takes: deadlines are `tokio::time::timeout`. The timeouts of the channel are not
///   heeded, and O_NONBLOCK is neither needed nor touched, since it would hold for every holder of the socket. Where
///   the kernel has no room for descriptors in flight, or no memory, of which polling does not tell, a send tries again
///   every 1 to 64 ms. [`ChannelError::Congested`], [`ChannelError::WouldBlock`] and [`ChannelError::TimedOut`] are not
///   among the errors of these calls.
/// * **Runtime.** It needs an I/O driver, and no time driver: what is tried again is timed by a timer descriptor. Where
///   none is free, and elsewhere than on Linux, it is tried again in each round of the runtime.
/// * **Tasks.** Calls take `&self`, and any number of tasks can be in each. Messages do not mix; each is received by
///   one task. Which task comes first is not said: on a full channel, one that sends without pause can keep the others
///   waiting.
/// * **Blocking.** No call waits for the peer in the thread, unless somebody does so in the channel itself, through
///   [`get_ref`](Self::get_ref). What takes its time there: to copy a message of many megabytes, and to close what an
///   error leaves, as long as its sender's SO_LINGER says (see [`Channel`]).
///
/// ```
/// use std::{fs::File, os::fd::AsFd};
/// use fdbroker::{AsyncChannel, Channel, Packet};
///
/// # tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
/// let (here, there) = Channel::pair()?;
/// let (here, there) = (AsyncChannel::new(here)?, AsyncChannel::new(there)?);
/// here.send(b"the licence", &[File::open("LICENSE-MIT")?.as_fd()]).await?;
///
/// let mut packet = Packet::new();
/// there.recv(&mut packet).await?;
/// assert_eq!((packet.bytes(), packet.fds().len()), (&b"the licence"[..], 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AsyncChannel {
    registered: AsyncFd<Registered>,
    /// The one that it is registered with, for the timers.
    runtime: Handle,
}

impl AsyncChannel {
    /// Registers the channel with the runtime that this is called in. Its options are set before, through
    /// `&mut Channel`.
    ///
    /// # Errors
    /// The channel is closed.
    /// * There is no runtime here ([`io::ErrorKind::Other`]).
    /// * The runtime is being shut down, or the kernel refused (epoll_ctl(2): ENOMEM, ENOSPC).
    ///
    /// # Panics
    /// When the runtime was built without I/O driver (`enable_io`, `enable_all`), which tokio does not let one ask.
    pub fn new(channel: Channel) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        Ok(Self { registered: register(Registered(channel), Interest::READABLE | Interest::WRITABLE)?, runtime })
    }

    /// Sends one message: `bytes`, and duplicates of `fds`. As [`Channel::send`].
    ///
    /// Dropped before it is ready, it has sent nothing, or the next send or [`flush`](Self::flush) finishes the
    /// message; [`begin`](Self::begin) lets one know which.
    ///
    /// # Errors
    /// Nothing was sent, unless it says otherwise: [`ChannelError::Empty`], [`ChannelError::TooManyDescriptors`],
    /// [`ChannelError::TooLarge`], [`ChannelError::Disconnected`], [`ChannelError::Os`] as for [`Channel::send`].
    /// * [`ChannelError::Os`] also when the runtime has been shut down.
    /// * [`ChannelError::Unfinished`]: an error came after part of the message was sent; the channel holds the rest.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        match self.start(bytes, fds.iter().map(AsRawFd::as_raw_fd)).await? {
            Sent::Whole => Ok(()),
            Sent::Begun => self.finish().await,
        }
    }

    /// As [`send`](Self::send), but gives the descriptors away: once they are sent, `fds` is empty and they are closed
    /// here.
    ///
    /// Dropped before it is ready, it has sent nothing and `fds` is as it was, or the descriptors are sent, `fds` is
    /// empty, and the next send or [`flush`](Self::flush) finishes the message.
    ///
    /// # Errors
    /// As for [`send`](Self::send). `fds` is then as it was, but for an error in the middle of a message:
    /// [`ChannelError::Unfinished`], and [`ChannelError::Disconnected`] from a peer that died then.
    pub async fn give(&self, bytes: &[u8], fds: &mut Vec<OwnedFd>) -> Result<(), ChannelError> {
        let sent = self.start(bytes, fds.iter().map(AsRawFd::as_raw_fd)).await?;
        fds.clear();
        match sent {
            Sent::Whole => Ok(()),
            Sent::Begun => self.finish().await,
        }
    }

    /// As [`send`](Self::send), but is ready as soon as the message has begun, with its descriptors:
    /// [`flush`](Self::flush) sends what the channel holds of it then, and so does the next send. Dropped before it is
    /// ready, it has sent nothing at all.
    ///
    /// # Errors
    /// As for [`send`](Self::send), without [`ChannelError::Unfinished`]. Nothing was sent.
    pub async fn begin(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.start(bytes, fds.iter().map(AsRawFd::as_raw_fd)).await.map(drop)
    }

    /// Sends the rest of a message that has begun: one whose send was dropped, or that [`begin`](Self::begin) began.
    /// Ready at once when there is none.
    ///
    /// # Errors
    /// As for [`Channel::flush`]. After [`ChannelError::Os`] there is still something to flush.
    pub async fn flush(&self) -> Result<(), ChannelError> {
        match self.get_ref().flush_within(Wait::Not) {
            Err(ChannelError::WouldBlock | ChannelError::Congested { .. }) => {}
            result => return result,
        }
        self.when_ready(Interest::WRITABLE, |channel| channel.flush_within(Wait::Not)).await
    }

    /// Receives one message into `packet`, whose earlier bytes are forgotten and whose earlier descriptors, if nobody
    /// took them, are closed. As [`Channel::recv`].
    ///
    /// Dropped before it is ready, it has taken no message, and `packet` is empty, or as it was if the future was never
    /// polled.
    ///
    /// # Errors
    /// As for [`Channel::recv`], without [`ChannelError::WouldBlock`] and [`ChannelError::TimedOut`];
    /// [`ChannelError::Os`] also when the runtime has been shut down: then no message is lost.
    pub async fn recv(&self, packet: &mut Packet) -> Result<(), ChannelError> {
        packet.clear();
        self.when_ready(Interest::READABLE, |channel| channel.try_recv(packet)).await
    }

    /// The channel, for its questions (who the peer is) and for what does not wait (`try_send`, `try_recv`). A call
    /// that waits would block the thread, and the other tasks' calls on this channel with it.
    #[must_use]
    pub fn get_ref(&self) -> &Channel {
        &self.registered.get_ref().0
    }

    /// The channel, no longer registered, with what it holds of messages that have begun.
    #[must_use]
    pub fn into_inner(self) -> Channel {
        self.registered.into_inner().0
    }

    /// Waits until the message has begun. Nothing was sent before.
    async fn start(
        &self,
        bytes: &[u8],
        fds: impl ExactSizeIterator<Item = RawFd> + Clone,
    ) -> Result<Sent, ChannelError> {
        let attempt = |channel: &Channel| match channel.send_within(Wait::Not, bytes, fds.clone()) {
            Ok(()) => Ok(Sent::Whole),
            Err(ChannelError::Unfinished) => Ok(Sent::Begun),
            Err(error) => Err(error),
        };
        self.when_ready(Interest::WRITABLE, attempt).await
    }

    /// Waits until what has begun is sent. An error is none that would invite to send it again.
    async fn finish(&self) -> Result<(), ChannelError> {
        self.flush().await.map_err(|error| match error {
            ChannelError::Disconnected => error,
            _ => ChannelError::Unfinished,
        })
    }

    /// Attempts it whenever the socket is ready, until there is a result. Between two awaits is a whole attempt, or
    /// none.
    async fn when_ready<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut(&Channel) -> Result<T, ChannelError>,
    ) -> Result<T, ChannelError> {
        let mut pause = PAUSE;
        loop {
            // A socket that is always ready leaves the other tasks their turn.
            task::coop::consume_budget().await;
            let mut guard = self.registered.ready(interest).await.map_err(|error| os("tokio", error))?;
            match attempt(self.get_ref()) {
                Err(ChannelError::WouldBlock) => {
                    let ready = guard.ready();
                    // Not if an event has come since: then there is something to attempt again.
                    guard.clear_ready();
                    // "Closed" is for ever to tokio, though a datagram socket can be reconnected, and its other holders
                    // can shut it down: nothing tells of readiness any more.
                    if !(ready.is_read_closed() || ready.is_write_closed()) {
                        continue;
                    }
                }
                Err(ChannelError::Congested { .. }) => {}
                result => return result,
            }
            self.pause(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Lets time pass. tokio's own timers need a time driver, and panic without. Where no timer descriptor is to be had
    /// it is less: one round of the runtime.
    async fn pause(&self, time: Duration) {
        let timer = {
            let _here = self.runtime.enter();
            platform::timer(time).and_then(|timer| register(timer, Interest::READABLE))
        };
        match timer {
            Ok(timer) => drop(timer.readable().await),
            Err(_) => task::yield_now().await,
        }
    }
}

impl AsFd for AsyncChannel {
    /// As [`Channel::as_fd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

impl fmt::Debug for AsyncChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncChannel").field(self.get_ref()).finish()
    }
}

/// How far a message got that has been sent at all.
enum Sent {
    Whole,
    Begun,
}

/// What AsyncFd wants: the number of the descriptor, which stays the same as long as it is registered.
struct Registered(Channel);

impl AsRawFd for Registered {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// With the runtime that this is called in.
#[allow(
    deprecated,
    reason = "its successor (1.54) is the same, but unsafe, and asks for what holds here: that the number belongs to one \
              descriptor, owned by what is registered, until it is no longer registered"
)]
fn register<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

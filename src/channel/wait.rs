//! `[both]` How long a call waits: for its peer, and for the kernel.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::lane::{Lane, Patience, Stay, Turn};
use super::{Channel, Kind, os};
use crate::error::ChannelError;
use crate::sys::{platform, socket};

/// How long a call waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// As the socket says: O_NONBLOCK, SO_RCVTIMEO, SO_SNDTIMEO.
    Socket,
    /// The same, but congestion is answered at once.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "the broker's"))]
    Queue,
    /// Whatever the socket says.
    Until(Instant),
    /// Not at all, whatever the socket says.
    Not,
}

impl Wait {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Until(deadline) => Some(deadline),
            _ => None,
        }
    }

    /// Whether a deadline has passed. It is looked at when the kernel makes the call wait; who always has something to
    /// do has to look at it too.
    pub(super) fn is_over(self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// For the flags of sendmsg and recvmsg: whether the kernel waits.
    fn flags(self) -> libc::c_int {
        match self {
            Self::Socket | Self::Queue => 0,
            Self::Until(_) | Self::Not => libc::MSG_DONTWAIT,
        }
    }
}

/// The first and the longest time to wait for congestion to pass: the kernel does not tell when it has.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(64);

impl Channel {
    /// Receives, as often as it takes. `receive` is given flags for recvmsg.
    #[inline(always)]
    pub(super) fn receiving<T>(
        &self,
        wait: Wait,
        mut receive: impl FnMut(libc::c_int) -> io::Result<T>,
    ) -> Result<T, ChannelError> {
        let mut ended = false;
        loop {
            let source = match receive(wait.flags()) {
                Ok(received) => return Ok(received),
                Err(source) => source,
            };
            match self.error("recvmsg", wait, source) {
                // A datagram socket that another holder has shut down is always ready, and never has anything.
                ChannelError::WouldBlock if ended => return Err(ChannelError::Disconnected),
                ChannelError::WouldBlock if wait.deadline().is_some() => {
                    self.poll(wait, PollFlags::POLLIN)?;
                    ended = self.kind() == Kind::Datagram && self.is_hung_up()?;
                }
                error => return Err(error),
            }
        }
    }

    /// Sends, as often as it takes. `send` is given flags for sendmsg.
    #[inline(always)]
    pub(super) fn sending<T>(
        &self,
        wait: Wait,
        mut send: impl FnMut(libc::c_int) -> io::Result<T>,
    ) -> Result<T, ChannelError> {
        let mut congestion = None;
        loop {
            let source = match send(wait.flags()) {
                Ok(sent) => return Ok(sent),
                Err(source) => source,
            };
            if source.raw_os_error().is_some_and(platform::is_congestion) {
                let congestion = match &mut congestion {
                    Some(congestion) => congestion,
                    none => none.insert(Congestion { until: self.patience(wait)?, pause: PAUSE }),
                };
                if !self.waiting(PollFlags::POLLOUT, || congestion.pause()) {
                    return Err(ChannelError::Congested { call: "sendmsg", source });
                }
                continue;
            }
            match self.error("sendmsg", wait, source) {
                ChannelError::WouldBlock if wait.deadline().is_some() => self.poll(wait, PollFlags::POLLOUT)?,
                error => return Err(error),
            }
        }
    }

    /// Until when congestion is waited for; `None` is for ever.
    #[cold]
    fn patience(&self, wait: Wait) -> Result<Option<Instant>, ChannelError> {
        match wait {
            Wait::Until(deadline) => Ok(Some(deadline)),
            Wait::Not | Wait::Queue => Ok(Some(Instant::now())),
            Wait::Socket if self.status_flags()?.contains(OFlag::O_NONBLOCK) => Ok(Some(Instant::now())),
            Wait::Socket => {
                let timeout =
                    socket::send_timeout(self.as_fd()).map_err(|error| os("getsockopt(SO_SNDTIMEO)", error))?;
                // A time that there is not is never reached.
                Ok(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
            }
        }
    }

    /// Waits for the other threads that send over a stream.
    #[inline(always)]
    pub(super) fn turn_to_send<'l, T>(&self, lane: &'l Lane<T>, wait: Wait) -> Result<Turn<'l, T>, ChannelError> {
        self.turn(lane, wait, || socket::send_timeout(self.as_fd()))
    }

    /// As [`turn_to_send`](Self::turn_to_send), for those that receive.
    #[inline(always)]
    pub(super) fn turn_to_receive<'l, T>(&self, lane: &'l Lane<T>, wait: Wait) -> Result<Turn<'l, T>, ChannelError> {
        self.turn(lane, wait, || socket::receive_timeout(self.as_fd()))
    }

    #[inline(always)]
    fn turn<'l, T>(
        &self,
        lane: &'l Lane<T>,
        wait: Wait,
        timeout: impl Fn() -> io::Result<Option<Duration>>,
    ) -> Result<Turn<'l, T>, ChannelError> {
        let nonblocking = || self.status_flags().is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK));
        let patience = || match (wait, nonblocking()) {
            (Wait::Until(deadline), _) => Patience::Until(deadline),
            (_, true) => Patience::Less(Stay::Always),
            (Wait::Not, false) => Patience::Less(Stay::IfSocketBlocks),
            (Wait::Socket | Wait::Queue, false) => {
                let until = timeout().ok().flatten().and_then(|timeout| Instant::now().checked_add(timeout));
                until.map_or(Patience::Forever, Patience::Until)
            }
        };
        let stay = match wait {
            // It says so when it begins to wait: see `poll`.
            Wait::Not | Wait::Until(_) => Stay::Never,
            Wait::Socket | Wait::Queue => Stay::IfSocketBlocks,
        };
        lane.enter(stay, patience).ok_or_else(|| match wait {
            Wait::Until(_) => ChannelError::TimedOut,
            _ => self.error("futex", wait, io::Error::from_raw_os_error(libc::EAGAIN)),
        })
    }

    /// Waits until the socket is ready, or the deadline has passed.
    #[cold]
    fn poll(&self, wait: Wait, events: PollFlags) -> Result<(), ChannelError> {
        let remaining = wait.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if remaining == Some(Duration::ZERO) {
            return Err(ChannelError::TimedOut);
        }
        let timeout = remaining.map_or(PollTimeout::NONE, milliseconds);
        match self.waiting(events, || poll(&mut [PollFd::new(self.as_fd(), events)], timeout)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(os("poll", errno.into())),
        }
    }

    /// Waits, and lets those know meanwhile who wait for their turn in that direction of a stream.
    fn waiting<T>(&self, events: PollFlags, wait: impl FnOnce() -> T) -> T {
        match &self.stream {
            Some(stream) => stream.waiting(events, wait),
            None => wait(),
        }
    }
}

/// Rounded up, so that the deadline has passed when poll(2) says so; one that does not fit is asked for again.
pub(crate) fn milliseconds(left: Duration) -> PollTimeout {
    let whole = left.as_nanos().div_ceil(1_000_000);
    i32::try_from(whole).ok().and_then(|whole| PollTimeout::try_from(whole).ok()).unwrap_or(PollTimeout::MAX)
}

/// The kernel has no room for descriptors in flight, or no memory (K9).
struct Congestion {
    until: Option<Instant>,
    pause: Duration,
}

impl Congestion {
    /// Waits a while, each time longer. Answers whether there was time left.
    fn pause(&mut self) -> bool {
        let left = self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        thread::sleep(left.min(self.pause));
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        !left.is_zero()
    }
}

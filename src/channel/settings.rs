//! `[both]` What a channel is told to be like.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Channel, MAX_FDS, os};
use crate::error::ChannelError;
use crate::sys::platform;

impl Channel {
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
    /// [`try_send`](Self::try_send) and [`try_recv`](Self::try_recv) do without it.
    ///
    /// # Errors
    /// [`ChannelError::Os`]: fcntl(2) failed.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), ChannelError> {
        let mut flags = self.status_flags()?;
        if flags.contains(OFlag::O_NONBLOCK) == nonblocking {
            return Ok(()); // Setting flags can be forbidden, as it is to a worker in this crate's sandbox.
        }
        flags.set(OFlag::O_NONBLOCK, nonblocking);
        fcntl(&self.socket, FcntlArg::F_SETFL(flags)).map_err(|errno| os("fcntl(F_SETFL)", errno.into()))?;
        Ok(())
    }

    /// How long a receive waits for a message before it answers [`ChannelError::TimedOut`]; `None` is for ever.
    /// Rounded up to a microsecond. Holds for the socket, as O_NONBLOCK does (SO_RCVTIMEO). It is counted anew for each
    /// piece of a message that arrives in pieces, which happens on a [`Kind::Stream`](super::Kind::Stream):
    /// [`recv_deadline`](Self::recv_deadline) is for the whole message.
    ///
    /// # Errors
    /// [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn set_recv_timeout(&self, timeout: Option<Duration>) -> Result<(), ChannelError> {
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time_value(timeout))
            .map_err(|errno| os("setsockopt(SO_RCVTIMEO)", errno.into()))
    }

    /// How long a send waits for room in the peer's queue before it answers [`ChannelError::TimedOut`]; `None` is for
    /// ever. Rounded up to a microsecond. Holds for the socket, as O_NONBLOCK does (SO_SNDTIMEO), and is counted anew
    /// as for [`set_recv_timeout`](Self::set_recv_timeout).
    ///
    /// # Errors
    /// [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn set_send_timeout(&self, timeout: Option<Duration>) -> Result<(), ChannelError> {
        setsockopt(&self.socket, sockopt::SendTimeout, &time_value(timeout))
            .map_err(|errno| os("setsockopt(SO_SNDTIMEO)", errno.into()))
    }

    /// Asks the kernel to refuse every message to this end that carries descriptors, so that its sender gets EPERM and
    /// nothing is installed here. Answers whether the kernel can: Linux 6.16 (SO_PASSRIGHTS). Where it cannot, there is
    /// this end's budget of 0: the message is then an error here instead of at its sender, and the kernel closes its
    /// descriptors in this process's time, which takes as long as their sender wants (K42).
    ///
    /// Set it before the other end is given away: what is queued already still arrives, and meets the budget (K29).
    ///
    /// # Errors
    /// [`ChannelError::Os`]: setsockopt(2) failed.
    pub fn refuse_descriptors(&mut self) -> Result<bool, ChannelError> {
        self.max_fds = 0;
        platform::refuse_descriptors(self.as_fd()).map_err(|error| os("setsockopt(SO_PASSRIGHTS)", error))
    }
}

/// Zero means "for ever" to the kernel, so a timeout of zero becomes the shortest there is.
pub(crate) fn time_value(timeout: Option<Duration>) -> TimeVal {
    let Some(timeout) = timeout else { return TimeVal::zero() };
    let microseconds = i64::try_from(timeout.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX);
    TimeVal::microseconds(microseconds.clamp(1, i64::from(i32::MAX) * 1_000_000))
}

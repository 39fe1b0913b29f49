//! `[broker]` What a broker does to its ends of channels.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::{Channel, os};
use crate::error::ChannelError;
use crate::sys::socket;

impl Channel {
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
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

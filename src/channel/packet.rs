//! `[both]` The buffers of a receive, used again and again.

use std::fmt;
use std::os::fd::OwnedFd;

use super::peer::{self, Credentials, PidFd};
use crate::sys::scm::Arrived;

/// One received message: its bytes and its descriptors. Make one, and give it to every
/// [`Channel::recv`](super::Channel::recv): it allocates when it is made and never again.
///
/// Descriptors that nobody took are closed by the next receive, and when the packet is dropped.
pub struct Packet {
    pub(super) buffer: Box<[u8]>,
    pub(super) len: usize,
    pub(super) arrived: Arrived,
}

impl Packet {
    /// Room for messages of 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(64 * 1024)
    }

    /// Room for messages of `bytes` bytes, and of as many descriptors as a message can have.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes].into_boxed_slice(), len: 0, arrived: Arrived::new() }
    }

    /// The bytes of the message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The descriptors of the message that have not been taken, in the order in which they were sent.
    #[must_use]
    pub fn fds(&self) -> &[OwnedFd] {
        &self.arrived.fds
    }

    /// Takes the descriptors, in order. Those that the iterator has not given when it is dropped are closed.
    pub fn take_fds(&mut self) -> impl ExactSizeIterator<Item = OwnedFd> + '_ {
        self.arrived.fds.drain(..)
    }

    /// The bytes, and the descriptors to take, at the same time.
    #[cfg(target_os = "linux")]
    pub(crate) fn parts(&mut self) -> (&[u8], impl ExactSizeIterator<Item = OwnedFd> + '_) {
        (&self.buffer[..self.len], self.arrived.fds.drain(..))
    }

    /// Who sent the message: `None` if the channel does not [ask](super::Channel::set_sender_credentials), or the
    /// kernel does not know, because the message was queued before the channel asked (K23) or its sender is outside of
    /// this process's PID namespace, or over a stream several that hold the peer's end have written it between them.
    /// Take `None` for a refusal.
    #[must_use]
    pub fn sender(&self) -> Option<Credentials> {
        peer::sender(&self.arrived)
    }

    /// Takes the descriptor of the process that sent the message: `None` if the channel does not
    /// [ask](super::Channel::set_sender_pidfd), if it has been taken, or if the kernel has none to give, because the
    /// sender has ended (before Linux 6.16) or cannot be named here. Take `None` for a refusal.
    ///
    /// Over a stream it is the process that sent the first bytes of the message. That the others are its own as well is
    /// known only where the channel asks for [credentials](super::Channel::set_sender_credentials) too.
    pub fn take_sender_pidfd(&mut self) -> Option<PidFd> {
        peer::take_pidfd(&mut self.arrived)
    }

    /// Forgets the bytes and the sender, and closes the descriptors.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.arrived.clear();
    }
}

impl Default for Packet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("len", &self.len).field("fds", &self.fds()).finish_non_exhaustive()
    }
}

//! `[both]` The traits of the crate sendfd, so that code written against them takes a [`Channel`] and gains its safety.
//!
//! What changes for such code: received descriptors are close-on-exec; a message with more bytes or more descriptors
//! than the buffers hold is an error with everything closed, not a silent cut; a full descriptor table is EMFILE, not
//! `Ok` with fewer descriptors; the channel's own budget is not asked, the length of the caller's slice is.

use std::io;
use std::os::fd::{IntoRawFd, RawFd};

use sendfd::{RecvWithFd, SendWithFd};

use super::{Channel, Packet, Wait};

impl SendWithFd for Channel {
    /// One message, whole: the answer is always `bytes.len()`.
    fn send_with_fd(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
        self.send_within(Wait::Socket, bytes, fds.iter().copied())?;
        Ok(bytes.len())
    }
}

impl RecvWithFd for Channel {
    /// One message, whole. The caller owns the descriptors that were written to `fds`: the trait gives raw numbers.
    /// A hang-up is `Ok((0, 0))`, as it is for a `UnixStream`. Allocates; [`Channel::recv`] does not.
    fn recv_with_fd(&self, bytes: &mut [u8], fds: &mut [RawFd]) -> io::Result<(usize, usize)> {
        let mut packet = Packet::with_capacity(bytes.len());
        match self.recv_within(Wait::Socket, fds.len(), &mut packet) {
            Ok(()) => {}
            Err(crate::ChannelError::Disconnected) => return Ok((0, 0)),
            Err(error) => return Err(error.into()),
        }
        bytes[..packet.bytes().len()].copy_from_slice(packet.bytes());
        let received = (packet.bytes().len(), packet.fds().len());
        for (slot, fd) in fds.iter_mut().zip(packet.take_fds()) {
            *slot = fd.into_raw_fd();
        }
        Ok(received)
    }
}

//! `[both]` Messages over SOCK_STREAM, where the kernel keeps no boundaries.
//!
//! A frame is a header of 8 bytes and the message's bytes; the descriptors ride on the first of them.
//!
//! | offset | size | field |
//! |-------:|-----:|-------|
//! | 0 | 4 | bytes of the message, u32, little-endian |
//! | 4 | 4 | descriptors of the message, u32, little-endian |
//!
//! The receiver never asks for a byte beyond the frame, so it cannot take a descriptor of the next one (K10, K24).

use std::io::IoSlice;
use std::os::fd::{AsFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::poll::PollFlags;

use super::{Channel, Packet, lost_descriptors};
use crate::error::ChannelError;
use crate::sys::scm;

const HEADER: usize = 8;

/// Each direction's lock keeps the frames of several threads apart, and holds whether the direction is broken: after a
/// frame that was cut short, nobody can tell where the next one starts.
#[derive(Default)]
pub(super) struct Stream {
    sending: Mutex<Broken>,
    receiving: Mutex<Broken>,
}

type Broken = bool;

impl Stream {
    pub(super) fn send(
        &self,
        channel: &Channel,
        bytes: &[u8],
        fds: impl ExactSizeIterator<Item = RawFd>,
    ) -> Result<(), ChannelError> {
        let mut broken = usable(&self.sending)?;
        let length = u32::try_from(bytes.len()).map_err(|_| ChannelError::TooLarge)?;
        let count = u32::try_from(fds.len()).map_err(|_| ChannelError::TooLarge)?;
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&count.to_le_bytes());

        let mut sent = scm::send(channel.as_fd(), &[IoSlice::new(&header), IoSlice::new(bytes)], fds)
            .map_err(|error| channel.error("sendmsg", error))?;
        // The descriptors went with the first byte: a short write is finished without them (K25).
        while sent < HEADER + bytes.len() {
            let rest = [&header[sent.min(HEADER)..], &bytes[sent.saturating_sub(HEADER)..]].map(IoSlice::new);
            sent += match scm::send(channel.as_fd(), &rest, std::iter::empty()) {
                Ok(more) => more,
                Err(error) => match channel.error("sendmsg", error) {
                    ChannelError::WouldBlock => channel.wait(PollFlags::POLLOUT).map(|()| 0),
                    error => Err(error),
                }
                .inspect_err(|_| *broken = true)?,
            };
        }
        Ok(())
    }

    pub(super) fn recv(&self, channel: &Channel, budget: usize, packet: &mut Packet) -> Result<(), ChannelError> {
        let mut broken = usable(&self.receiving)?;
        let mut frame = Frame { channel, budget, cut: false, begun: false };

        let [mut length, mut count] = [[0; 4]; 2];
        let header = frame.fill(&mut length, packet).and_then(|()| frame.fill(&mut count, packet));
        *broken = frame.begun;
        header?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| ChannelError::TooLarge)?;
        if length > packet.buffer.len() {
            return Err(ChannelError::TooLarge);
        }
        let mut buffer = std::mem::take(&mut packet.buffer);
        let body = frame.fill(&mut buffer[..length], packet);
        packet.buffer = buffer;
        body?;
        packet.len = length;

        if frame.cut {
            // The frame has been read to its end: the next one can be.
            *broken = false;
            return Err(lost_descriptors(budget, packet));
        }
        if usize::try_from(u32::from_le_bytes(count)) != Ok(packet.fds.len()) {
            return Err(ChannelError::Broken);
        }
        *broken = false;
        Ok(())
    }
}

/// A frame that is being received.
struct Frame<'c> {
    channel: &'c Channel,
    budget: usize,
    /// Descriptors of it were lost.
    cut: bool,
    /// Some of it has been read: from here on only its end will do.
    begun: bool,
}

impl Frame<'_> {
    fn fill(&mut self, bytes: &mut [u8], packet: &mut Packet) -> Result<(), ChannelError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let budget = self.budget.saturating_sub(packet.fds.len());
            let unread = &mut bytes[filled..];
            let received = match scm::recv(self.channel.as_fd(), unread, &mut packet.control, budget, &mut packet.fds) {
                Ok(received) => received,
                Err(error) => match self.channel.error("recvmsg", error) {
                    ChannelError::WouldBlock if self.begun => {
                        self.channel.wait(PollFlags::POLLIN)?;
                        continue;
                    }
                    error => return Err(error),
                },
            };
            if received.len == 0 {
                return Err(ChannelError::Disconnected);
            }
            self.begun = true;
            self.cut |= received.control_cut;
            filled += received.len;
        }
        Ok(())
    }
}

fn usable(direction: &Mutex<Broken>) -> Result<MutexGuard<'_, Broken>, ChannelError> {
    let broken = direction.lock().unwrap_or_else(PoisonError::into_inner);
    if *broken { Err(ChannelError::Broken) } else { Ok(broken) }
}

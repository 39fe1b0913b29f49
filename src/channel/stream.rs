//! `[both]` Messages over SOCK_STREAM, where the kernel keeps no boundaries.
//!
//! A frame is a header of 8 bytes, as documented at [`Kind::Stream`](super::Kind::Stream), and the message's bytes; the
//! descriptors ride on the first of them.
//!
//! The receiver never asks for a byte beyond the frame, so it cannot take a descriptor of the next one (K10, K24), and
//! a poll of the socket tells the truth. A call that gives up in the middle of a frame leaves in the channel what the
//! next call needs to go on with it.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::poll::PollFlags;

use super::lane::Lane;
use super::{Channel, Loss, MAX_FDS, Packet, Wait};
use crate::error::ChannelError;
use crate::sys::scm::{self, Arrived};

const HEADER: usize = 8;
/// How much more than the packet a frame may have to be passed over. A sender who gives a little all the time could
/// keep a call that does not wait busy with it.
const SKIP_MOST: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Stream {
    sending: Lane<Outgoing>,
    receiving: Lane<Incoming>,
}

impl Stream {
    #[inline(always)]
    pub(super) fn send(
        &self,
        channel: &Channel,
        wait: Wait,
        bytes: &[u8],
        fds: impl ExactSizeIterator<Item = RawFd> + Clone,
    ) -> Result<(), ChannelError> {
        let length = u32::try_from(bytes.len()).map_err(|_| ChannelError::TooLarge)?;
        let count = u32::try_from(fds.len()).map_err(|_| ChannelError::TooLarge)?;
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&count.to_le_bytes());

        let mut outgoing = channel.turn_to_send(&self.sending, wait)?;
        if outgoing.ended || !outgoing.rest.is_empty() {
            outgoing.flush(channel, wait)?;
        }
        let frame = [IoSlice::new(&header), IoSlice::new(bytes)];
        let sent = channel.sending(wait, |flags| scm::send(channel.as_fd(), &frame, fds.clone(), flags))?;
        if sent == HEADER + bytes.len() {
            return Ok(());
        }
        outgoing.finish(channel, wait, &header[sent.min(HEADER)..], &bytes[sent.saturating_sub(HEADER)..])
    }

    /// Who is inside, in the direction of the events, waits for the peer.
    pub(super) fn waiting<R>(&self, events: PollFlags, wait: impl FnOnce() -> R) -> R {
        match events.contains(PollFlags::POLLOUT) {
            true => self.sending.waiting(wait),
            false => self.receiving.waiting(wait),
        }
    }

    /// Whether a frame has begun, in either direction, that has not ended.
    pub(super) fn is_amid_a_message(&mut self) -> bool {
        let (outgoing, incoming) = (self.sending.get_mut(), self.receiving.get_mut());
        outgoing.ended || !outgoing.rest.is_empty() || incoming.known > 0 || incoming.skip > 0 || incoming.broken
    }

    /// Sends what is left of a frame that has begun.
    pub(super) fn flush(&self, channel: &Channel, wait: Wait) -> Result<(), ChannelError> {
        channel.turn_to_send(&self.sending, wait)?.flush(channel, wait)
    }

    #[inline(always)]
    pub(super) fn recv(
        &self,
        channel: &Channel,
        wait: Wait,
        budget: usize,
        packet: &mut Packet,
    ) -> Result<(), ChannelError> {
        let mut incoming = channel.turn_to_receive(&self.receiving, wait)?;
        if incoming.skip > 0 {
            incoming.skip(channel, wait, packet)?;
        }
        incoming.recv(channel, wait, budget, packet)
    }
}

/// The rest of a frame whose sender gave up after it had begun.
#[derive(Default)]
struct Outgoing {
    rest: Vec<u8>,
    /// Bytes of it that have been sent.
    sent: usize,
    /// A frame was begun and given up: whatever came behind it would be taken for its rest.
    ended: bool,
}

impl Outgoing {
    #[cold]
    fn flush(&mut self, channel: &Channel, wait: Wait) -> Result<(), ChannelError> {
        if self.ended {
            return Err(ChannelError::Disconnected);
        }
        while self.sent < self.rest.len() {
            self.sent += rest_of(channel, wait, &[], &self.rest[self.sent..])?;
            if self.sent < self.rest.len() && wait.is_over() {
                return Err(ChannelError::TimedOut);
            }
        }
        self.rest.clear();
        self.sent = 0;
        Ok(())
    }

    /// Finishes a short write. The descriptors went with the first byte: the rest goes without them (K25).
    #[cold]
    fn finish(
        &mut self,
        channel: &Channel,
        wait: Wait,
        mut header: &[u8],
        mut bytes: &[u8],
    ) -> Result<(), ChannelError> {
        while !(header.is_empty() && bytes.is_empty()) {
            // A peer that makes room all the time does not make the kernel look at the deadline.
            let sent = if wait.is_over() { Err(ChannelError::TimedOut) } else { rest_of(channel, wait, header, bytes) };
            match sent {
                Ok(sent) => {
                    bytes = &bytes[sent.saturating_sub(header.len())..];
                    header = &header[sent.min(header.len())..];
                }
                Err(ChannelError::Disconnected) => {
                    self.ended = true;
                    return Err(ChannelError::Disconnected);
                }
                Err(_) => {
                    self.rest.extend_from_slice(header);
                    self.rest.extend_from_slice(bytes);
                    return Err(ChannelError::Unfinished);
                }
            }
        }
        Ok(())
    }
}

fn rest_of(channel: &Channel, wait: Wait, header: &[u8], bytes: &[u8]) -> Result<usize, ChannelError> {
    let rest = [IoSlice::new(header), IoSlice::new(bytes)];
    channel.sending(wait, |flags| scm::send(channel.as_fd(), &rest, std::iter::empty(), flags))
}

/// The frame that is being received, and what of it a call that gave up has received.
#[derive(Default)]
struct Incoming {
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    known: usize,
    /// Bytes of the message that are there.
    filled: usize,
    /// What a call that gave up leaves of the message, with room for the rest.
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
    credentials: Option<[u32; 3]>,
    pidfd: Option<OwnedFd>,
    /// Descriptors of it were lost.
    loss: Option<Loss>,
    /// Bytes of an earlier frame, one that did not fit, which are still to come.
    skip: usize,
    /// The peer does not keep to the framing.
    broken: bool,
}

impl Incoming {
    /// Receives what is left of a frame that did not fit, to no use.
    #[cold]
    fn skip(&mut self, channel: &Channel, wait: Wait, packet: &mut Packet) -> Result<(), ChannelError> {
        let mut bytes = [0; 4096];
        let mut pieces = Pieces::default();
        while self.skip > 0 {
            let most = self.skip.min(bytes.len());
            match fill_rest(channel, wait, &mut bytes[..most], &mut packet.arrived)? {
                Some((_, Some(Loss::Budget))) => return Err(self.lie()),
                Some((len, _)) => self.skip -= len,
                None => return Err(self.end()),
            }
            packet.arrived.clear();
            pieces.another(wait)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn recv(&mut self, channel: &Channel, wait: Wait, budget: usize, packet: &mut Packet) -> Result<(), ChannelError> {
        if self.broken {
            return Err(ChannelError::Broken);
        }
        if self.known > 0 {
            self.resume(packet);
        }
        while self.known < HEADER {
            match fill(channel, wait, budget, &mut self.header[self.known..], &mut packet.arrived) {
                Ok(Some((len, loss))) => {
                    self.known += len;
                    self.loss = self.loss.or(loss);
                }
                Ok(None) => return Err(self.end()),
                Err(error) => return Err(self.suspend(0, packet, error)),
            }
        }
        let [length, count] = self.numbers();
        if count > MAX_FDS {
            return Err(self.lie());
        }
        if length > packet.buffer.len() {
            let passed_over = length - packet.buffer.len() <= SKIP_MOST;
            let skip = if passed_over { length - self.filled } else { 0 };
            *self = Self { skip, broken: !passed_over, ..Self::default() };
            return Err(ChannelError::TooLarge);
        }
        let mut pieces = Pieces::default();
        while self.filled < length {
            // What a call that gave up has begun in `body` is finished there, so that each byte is copied once at most.
            let buffer = if self.body.is_empty() { &mut packet.buffer[..length] } else { &mut self.body[..] };
            match fill_rest(channel, wait, &mut buffer[self.filled..], &mut packet.arrived) {
                Ok(Some((_, Some(Loss::Budget)))) => return Err(self.lie()),
                Ok(Some((len, loss))) => {
                    self.filled += len;
                    self.loss = self.loss.or(loss);
                    if let Err(error) = pieces.another(wait) {
                        return Err(self.suspend(length, packet, error));
                    }
                }
                Ok(None) => return Err(self.end()),
                Err(error) => return Err(self.suspend(length, packet, error)),
            }
        }
        packet.buffer[..self.body.len()].copy_from_slice(&self.body);
        packet.len = length;
        (self.known, self.filled) = (0, 0);
        self.body.clear();
        if let Some(loss) = self.loss.take() {
            return Err(loss.error(budget));
        }
        if count != packet.arrived.fds.len() {
            return Err(self.lie());
        }
        Ok(())
    }

    #[inline]
    fn numbers(&self) -> [usize; 2] {
        let [a, b, c, d, e, f, g, h] = self.header;
        // A number that does not fit a usize fits no packet either.
        [[a, b, c, d], [e, f, g, h]].map(|bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX))
    }

    /// Takes up what an earlier call left.
    fn resume(&mut self, packet: &mut Packet) {
        packet.arrived.fds.append(&mut self.fds);
        packet.arrived.credentials = self.credentials.take();
        packet.arrived.pidfd = self.pidfd.take();
    }

    /// Leaves for a later call what is there of a message of `length` bytes.
    #[cold]
    fn suspend(&mut self, length: usize, packet: &mut Packet, error: ChannelError) -> ChannelError {
        if self.body.is_empty() && self.filled > 0 {
            self.body.extend_from_slice(&packet.buffer[..self.filled]);
            self.body.resize(length, 0);
        }
        self.fds.append(&mut packet.arrived.fds);
        self.credentials = packet.arrived.credentials.take();
        self.pidfd = packet.arrived.pidfd.take();
        error
    }

    /// The header does not agree with what came: nobody can tell any more where a frame starts.
    fn lie(&mut self) -> ChannelError {
        *self = Self { broken: true, ..Self::default() };
        ChannelError::Broken
    }

    /// The stream has ended: no later call goes on with a frame whose sender is gone. An errno alone does not say so.
    fn end(&mut self) -> ChannelError {
        *self = Self::default();
        ChannelError::Disconnected
    }
}

/// Counts what arrives in one call. The kernel looks at a deadline when it has nothing to give; of a peer that gives a
/// little all the time, so that there always is something, it is looked at now and then.
#[derive(Default)]
struct Pieces(u8);

impl Pieces {
    fn another(&mut self, wait: Wait) -> Result<(), ChannelError> {
        self.0 = self.0.wrapping_add(1);
        if self.0 == 0 && wait.is_over() { Err(ChannelError::TimedOut) } else { Ok(()) }
    }
}

/// One receive, of not more than `bytes`, with not more descriptors in all than the budget. Answers the number of
/// bytes, or `None` at the end of the stream.
#[inline(always)]
fn fill(
    channel: &Channel,
    wait: Wait,
    budget: usize,
    bytes: &mut [u8],
    arrived: &mut Arrived,
) -> Result<Option<(usize, Option<Loss>)>, ChannelError> {
    let room = budget.saturating_sub(arrived.fds.len());
    let received = channel.receive_part(wait, bytes, arrived, room)?;
    Ok((received.len > 0).then(|| (received.len, Loss::of(&received, arrived.fds.len(), budget))))
}

/// As [`fill`], behind the header: the descriptors came with that, and a further one is a [`Loss::Budget`]. What was
/// not asked for takes no descriptor's room here.
#[inline(always)]
fn fill_rest(
    channel: &Channel,
    wait: Wait,
    bytes: &mut [u8],
    arrived: &mut Arrived,
) -> Result<Option<(usize, Option<Loss>)>, ChannelError> {
    let came = arrived.fds.len();
    let filled = fill(channel, wait, came, bytes, arrived)?;
    Ok(filled.map(|(len, loss)| (len, loss.filter(|loss| !matches!(loss, Loss::Unexpected)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// H-06: a call to which there always comes something looks at its deadline all the same.
    #[test]
    fn h_06_many_pieces_do_not_outlast_a_deadline() {
        let count = |wait| {
            let mut pieces = Pieces::default();
            (0..1000).filter(|_| pieces.another(wait).is_err()).count()
        };
        assert!(count(Wait::Until(Instant::now())) > 0);
        assert_eq!(count(Wait::Until(Instant::now() + Duration::from_secs(1000))), 0);
        assert_eq!(count(Wait::Not) + count(Wait::Socket), 0);
    }
}

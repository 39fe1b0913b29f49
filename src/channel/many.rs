//! `[both]` More descriptors than one message can carry.
//!
//! The parts are described at [`Channel::send_many`].

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Channel, MAX_FDS, Packet, Wait};
use crate::error::ChannelError;

const HEADER: usize = 12;

/// One whole after the other, in each direction.
#[derive(Default)]
pub(super) struct Turns {
    sending: Mutex<()>,
    receiving: Mutex<()>,
    sent: AtomicU32,
}

impl Channel {
    /// Sends `bytes` with any number of descriptors, in as many messages as it takes, for
    /// [`recv_many`](Self::recv_many) at the other end. Allocates. Do not send otherwise through this end meanwhile.
    ///
    /// Each of the messages has as many descriptors as it can, 253 but for the last, and begins with 12 bytes. The first message
    /// has `bytes` behind them, the others nothing.
    ///
    /// | offset | size | field |
    /// |-------:|-----:|-------|
    /// | 0 | 4 | descriptors in all, u32, little-endian |
    /// | 4 | 4 | descriptors in the messages before this one, u32, little-endian |
    /// | 8 | 4 | a number that all messages of one whole share and the next whole does not, u32, little-endian |
    ///
    /// # Errors
    /// As for [`send`](Self::send). After [`ChannelError::Unfinished`] the whole arrives when the channel is flushed; after any other
    /// the receiver gets nothing of it: what was sent is closed there.
    pub fn send_many(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let total = u32::try_from(fds.len()).map_err(|_| ChannelError::TooManyDescriptors { budget: MAX_FDS })?;
        let _turn = turn(&self.many.sending);
        let whole = self.many.sent.fetch_add(1, Ordering::Relaxed);
        let mut before = 0;
        let mut message = Vec::with_capacity(HEADER + bytes.len());
        loop {
            let part = &fds[before..fds.len().min(before + MAX_FDS)];
            message.clear();
            // Cannot be cut: it is not more than the total.
            for number in [total, u32::try_from(before).unwrap_or(total), whole] {
                message.extend_from_slice(&number.to_le_bytes());
            }
            message.extend_from_slice(if before == 0 { bytes } else { &[] });
            let sent = self.send_within(Wait::Socket, &message, part.iter().map(AsRawFd::as_raw_fd));
            before += part.len();
            match sent {
                // The next part finishes this one first, or is not sent.
                Err(ChannelError::Unfinished) if before < fds.len() => {}
                sent => sent?,
            }
            if before == fds.len() {
                return Ok(());
            }
        }
    }

    /// Receives what [`send_many`](Self::send_many) sent: its bytes into `packet`, and its descriptors, `max_fds` at most,
    /// whatever the channel's own [budget](Self::set_max_fds). A whole whose sender gave up in the middle is passed over.
    /// Allocates.
    ///
    /// The packet needs room for the bytes and 12 more. The channel's timeout counts for each message anew.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv), [`ChannelError::Broken`] also when the message was not sent by `send_many`. The whole is then
    /// lost: its descriptors are closed, and the next call passes over its parts that are still to come.
    pub fn recv_many(&self, packet: &mut Packet, max_fds: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        let _turn = turn(&self.many.receiving);
        let result = self.recv_whole_of_many(packet, max_fds);
        if result.is_err() {
            packet.clear();
        }
        result
    }

    fn recv_whole_of_many(&self, packet: &mut Packet, max_fds: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        let mut begun: Option<(Part, Vec<u8>, Vec<OwnedFd>)> = None;
        loop {
            self.recv_within(Wait::Socket, MAX_FDS, packet)?;
            let part = Part::of(packet).ok_or(ChannelError::Broken)?;
            let (bytes, mut fds) = match begun.take() {
                Some((first, bytes, fds)) if part.continues(first, fds.len()) => (bytes, fds),
                _ if part.before != 0 => continue, // The rest of a whole that is lost.
                _ if part.total > max_fds => return Err(ChannelError::TooManyDescriptors { budget: max_fds }),
                _ => (packet.bytes()[HEADER..].to_vec(), Vec::new()),
            };
            fds.extend(packet.take_fds());
            if fds.len() == part.total {
                packet.buffer[..bytes.len()].copy_from_slice(&bytes);
                packet.len = bytes.len();
                return Ok(fds);
            }
            begun = Some((part, bytes, fds));
        }
    }
}

/// What the header of a part says.
#[derive(Clone, Copy)]
struct Part {
    total: usize,
    before: usize,
    whole: u32,
}

impl Part {
    /// `None` if it does not agree with the message.
    fn of(packet: &Packet) -> Option<Self> {
        let number = |at| Some(u32::from_le_bytes(*packet.bytes().get(at..)?.first_chunk()?));
        let (total, before) = (usize::try_from(number(0)?).ok()?, usize::try_from(number(4)?).ok()?);
        let part = Self { total, before, whole: number(8)? };
        // Each part is as full as it can be, so that a lie cannot make a whole of very many messages.
        let due = total.checked_sub(before)?.min(MAX_FDS);
        let alone = before == 0 || (due > 0 && packet.bytes().len() == HEADER);
        (packet.fds().len() == due && alone).then_some(part)
    }

    /// Whether it is the next part of what `first` has begun, after `before` descriptors. The total was weighed then.
    fn continues(self, first: Self, before: usize) -> bool {
        (self.whole, self.total, self.before) == (first.whole, first.total, before)
    }
}

fn turn(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

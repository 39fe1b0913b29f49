//! `[both]` More descriptors than one message can carry.
//!
//! The parts are described at [`Channel::send_many`].

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Channel, MAX_FDS, Packet, Wait, os};
use crate::error::ChannelError;
use crate::sys::socket;

const HEADER: usize = 12;

/// One whole after the other, in each direction.
#[derive(Default)]
pub(super) struct Turns {
    sending: Mutex<()>,
    /// What a call that gave up has received.
    receiving: Mutex<Option<Begun>>,
}

/// A whole of which parts are there.
struct Begun {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// Where the part stands that comes next.
    next: Place,
}

/// Messages of lost wholes that one call passes over: more is no accident.
const LOST_MOST: usize = 1000;

impl Channel {
    /// Sends `bytes` with any number of descriptors, in as many messages as it takes, for
    /// [`recv_many`](Self::recv_many) at the other end. Allocates. Do not send otherwise through this end meanwhile.
    ///
    /// Each of the messages has as many descriptors as it can, 253 but for the last, and begins with 12 bytes. The
    /// first also carries `bytes` behind them.
    ///
    /// | offset | size | field |
    /// |-------:|-----:|-------|
    /// | 0 | 4 | descriptors in all, u32, little-endian |
    /// | 4 | 4 | descriptors in the messages before this one, u32, little-endian |
    /// | 8 | 4 | a number that all messages of one whole share and the next whole does not, u32, little-endian |
    ///
    /// # Errors
    /// As for [`send`](Self::send). After [`ChannelError::Unfinished`] the whole arrives when the channel is flushed;
    /// after any other the receiver gets nothing of it: what was sent is closed there. So a non-blocking channel is for
    /// wholes that fit the peer's queue.
    pub fn send_many(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_many_within(Wait::Socket, bytes, fds)
    }

    /// As [`send_many`](Self::send_many), but waits until `deadline`, as [`send_deadline`](Self::send_deadline) does.
    ///
    /// # Errors
    /// As for [`send_many`](Self::send_many).
    pub fn send_many_deadline(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(), ChannelError> {
        self.send_many_within(Wait::Until(deadline), bytes, fds)
    }

    fn send_many_within(&self, wait: Wait, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let total = u32::try_from(fds.len()).map_err(|_| ChannelError::TooManyDescriptors { budget: MAX_FDS })?;
        let _turn = turn(&self.many.sending);
        let whole = random();
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
            let sent = self.send_within(wait, &message, part.iter().map(AsRawFd::as_raw_fd));
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

    /// Receives what [`send_many`](Self::send_many) sent: its bytes into `packet`, and its descriptors, `max_fds` at
    /// most, whatever the channel's own [budget](Self::set_max_fds). A whole whose sender gave up in the middle is
    /// passed over. Allocates.
    ///
    /// The packet needs room for the bytes and 12 more. The channel's timeout is for the whole.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv), [`ChannelError::Broken`] also when the message was not sent by `send_many`. The
    /// whole is then lost: its descriptors are closed, and the next call passes over its messages that are still to
    /// come. But after [`ChannelError::WouldBlock`] and [`ChannelError::TimedOut`] what is there is kept, and the next
    /// call goes on
    /// with it.
    pub fn recv_many(&self, packet: &mut Packet, max_fds: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        let timeout = socket::receive_timeout(self.as_fd()).map_err(|error| os("getsockopt(SO_RCVTIMEO)", error))?;
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match until {
            Some(deadline) if !self.is_nonblocking()? => self.recv_many_deadline(packet, max_fds, deadline),
            _ => self.recv_many_within(Wait::Socket, packet, max_fds),
        }
    }

    /// As [`recv_many`](Self::recv_many), but waits until `deadline`, as [`recv_deadline`](Self::recv_deadline) does.
    ///
    /// # Errors
    /// As for [`recv_many`](Self::recv_many).
    pub fn recv_many_deadline(
        &self,
        packet: &mut Packet,
        max_fds: usize,
        deadline: Instant,
    ) -> Result<Vec<OwnedFd>, ChannelError> {
        self.recv_many_within(Wait::Until(deadline), packet, max_fds)
    }

    fn recv_many_within(&self, wait: Wait, packet: &mut Packet, max_fds: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        let mut begun = turn(&self.many.receiving);
        let result = self.recv_whole_of_many(wait, packet, max_fds, &mut begun);
        if result.is_err() {
            packet.clear();
        }
        result
    }

    fn recv_whole_of_many(
        &self,
        wait: Wait,
        packet: &mut Packet,
        max_fds: usize,
        begun: &mut Option<Begun>,
    ) -> Result<Vec<OwnedFd>, ChannelError> {
        if begun.take_if(|begun| begun.next.total > max_fds).is_some() {
            return Err(ChannelError::TooManyDescriptors { budget: max_fds });
        }
        for _ in 0..LOST_MOST + max_fds / MAX_FDS {
            packet.clear();
            let received = self.recv_or_part(wait, max_fds.min(MAX_FDS), packet);
            if let Err(ChannelError::WouldBlock | ChannelError::TimedOut) = received {
                return received.map(|()| Vec::new());
            }
            // Also of a message whose descriptors were too many, and are closed, the header is there.
            let place = Place::of(packet);
            // If it does not go on with what has begun, its sender gave that up.
            let continued = begun.take().filter(|begun| place == Some(begun.next));
            if received.is_ok() && !place.is_some_and(|place| place.agrees_with(packet)) {
                return Err(ChannelError::Broken);
            }
            if continued.is_none() && place.is_some_and(|place| place.before != 0) {
                continue;
            }
            received?;
            let place = place.ok_or(ChannelError::Broken)?;
            if place.total > max_fds {
                return Err(ChannelError::TooManyDescriptors { budget: max_fds });
            }
            let (bytes, mut fds) = match continued {
                Some(begun) => (begun.bytes, begun.fds),
                None => (packet.bytes()[HEADER..].to_vec(), Vec::new()),
            };
            fds.extend(packet.take_fds());
            match place.next() {
                Some(next) => *begun = Some(Begun { bytes, fds, next }),
                None => {
                    // The packet of an earlier call can have been larger.
                    let room = packet.buffer.get_mut(..bytes.len()).ok_or(ChannelError::TooLarge)?;
                    room.copy_from_slice(&bytes);
                    packet.len = bytes.len();
                    return Ok(fds);
                }
            }
        }
        Err(ChannelError::Broken)
    }
}

/// Where a part stands in its whole: what its header says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    total: usize,
    before: usize,
    whole: u32,
}

impl Place {
    fn of(packet: &Packet) -> Option<Self> {
        let number = |at| Some(u32::from_le_bytes(*packet.bytes().get(at..)?.first_chunk()?));
        let (total, before) = (usize::try_from(number(0)?).ok()?, usize::try_from(number(4)?).ok()?);
        (before <= total).then_some(Self { total, before, whole: number(8)? })
    }

    fn left(self) -> usize {
        self.total - self.before
    }

    /// Where the next part stands, if there is one. Each part is as full as it can be, so that a lie cannot make a
    /// whole of very many messages.
    fn next(self) -> Option<Self> {
        (self.left() > MAX_FDS).then(|| Self { before: self.before + MAX_FDS, ..self })
    }

    /// Whether the message is such a part.
    fn agrees_with(self, packet: &Packet) -> bool {
        let first = self.before == 0;
        packet.fds().len() == self.left().min(MAX_FDS) && (first || (self.left() > 0 && packet.bytes().len() == HEADER))
    }
}

/// A number that two holders of an end do not share by counting alike.
fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

fn turn<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

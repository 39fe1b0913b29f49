//! `[broker]` What one worker may ask at a time, so that its greed is its own trouble.

use std::num::NonZeroU32;
use std::time::Instant;

use crate::channel::Channel;
use crate::wire::{MAX_BATCH, MAX_REPLY};

/// What one worker may ask of the broker at a time. A request over a limit is refused
/// ([`Reason::Limit`](crate::wire::Reason::Limit), EAGAIN), and may be made again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub(super) requests_in_flight: Option<NonZeroU32>,
    pub(super) bytes_queued: usize,
    pub(super) per_second: Option<NonZeroU32>,
    pub(super) descriptors_outstanding: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_in_flight: None, bytes_queued: MAX_REPLY, per_second: None, descriptors_outstanding: MAX_BATCH }
    }
}

impl Limits {
    /// The default: 253 descriptors outstanding, room for one reply of the largest size in the queue, and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests whose replies the worker has not read. Further ones are refused until it has read all of them. No limit
    /// unless said otherwise, but for that of the queue.
    #[must_use]
    pub fn requests_in_flight(mut self, requests: NonZeroU32) -> Self {
        self.requests_in_flight = Some(requests);
        self
    }

    /// Bytes of replies that may wait for the worker (SO_SNDBUF; the kernel counts its own overhead and doubles it): at
    /// least the 16 KiB of the largest reply, which is the default. When the queue is full the broker waits for the
    /// worker to read ([`Broker::reply_timeout`](crate::Broker::reply_timeout)).
    #[must_use]
    pub fn bytes_queued(mut self, bytes: usize) -> Self {
        self.bytes_queued = bytes.max(MAX_REPLY);
        self
    }

    /// Requests a second that are served; a second's worth may come at once. Each request of a batch counts. No limit
    /// unless said otherwise.
    #[must_use]
    pub fn requests_per_second(mut self, requests: NonZeroU32) -> Self {
        self.per_second = Some(requests);
        self
    }

    /// Descriptors that have been sent and not been received: 253 unless said otherwise. Further ones are refused until
    /// the worker has read all its replies. The kernel counts them for the broker's whole user, together with those of
    /// other workers (`ETOOMANYREFS` over RLIMIT_NOFILE, unless the broker is privileged).
    #[must_use]
    pub fn descriptors_outstanding(mut self, descriptors: NonZeroU32) -> Self {
        self.descriptors_outstanding = descriptors.get() as usize;
        self
    }
}

/// One worker's use of its limits.
pub(super) struct Meter {
    limits: Limits,
    /// Since the queue was last seen empty.
    replies: u32,
    descriptors: usize,
    rate: Option<Rate>,
}

/// Over a limit.
pub(super) struct Over;

impl Meter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, replies: 0, descriptors: 0, rate: limits.per_second.map(Rate::new) }
    }

    /// Counts one request; `pending` descriptors are to go with the same reply, and `next` more if it is granted.
    pub(super) fn admit(&mut self, channel: &Channel, pending: usize, next: usize) -> Result<(), Over> {
        if self.rate.as_mut().is_some_and(|rate| !rate.take()) {
            return Err(Over);
        }
        let too_many = |meter: &Self| {
            meter.limits.requests_in_flight.is_some_and(|most| meter.replies >= most.get())
                || (next > 0 && meter.descriptors + pending + next > meter.limits.descriptors_outstanding)
        };
        let half_way = |meter: &Self| {
            meter.limits.requests_in_flight.is_some_and(|most| meter.replies.saturating_mul(2) >= most.get())
                || 2 * (meter.descriptors + pending + next) > meter.limits.descriptors_outstanding
        };
        // Asked only when it matters, but not at the limit alone: the queue of who reads its replies is empty now and
        // then, if perhaps not at that moment.
        if half_way(self) && !channel.has_unread().unwrap_or(true) {
            (self.replies, self.descriptors) = (0, 0);
        }
        if too_many(self) { Err(Over) } else { Ok(()) }
    }

    /// How many more descriptors may go with this reply, at most.
    pub(super) fn room(&mut self, channel: &Channel) -> usize {
        if self.descriptors > 0 && !channel.has_unread().unwrap_or(true) {
            (self.replies, self.descriptors) = (0, 0);
        }
        self.limits.descriptors_outstanding.saturating_sub(self.descriptors)
    }

    pub(super) fn sent(&mut self, descriptors: usize) {
        self.replies = self.replies.saturating_add(1);
        self.descriptors = self.descriptors.saturating_add(descriptors);
    }
}

/// So many a second, and as many at once.
pub(super) struct Rate {
    per_second: NonZeroU32,
    left: f64,
    since: Instant,
}

impl Rate {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { per_second, left: f64::from(per_second.get()), since: Instant::now() }
    }

    /// Whether there is one more to be had now.
    pub(super) fn take(&mut self) -> bool {
        let (now, most) = (Instant::now(), f64::from(self.per_second.get()));
        let come = now.duration_since(self.since).as_secs_f64() * most;
        self.since = now;
        self.left = (self.left + come).min(most);
        let any = self.left >= 1.0;
        if any {
            self.left -= 1.0;
        }
        any
    }
}

//! `[broker]` One worker's use of its limits.

use std::num::NonZeroU32;
use std::time::Instant;

use crate::channel::Channel;
use crate::policy::Limits;

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

//! `[broker]` What one worker may ask at a time, so that its greed is its own trouble.

use std::num::NonZeroU32;

use crate::wire::{MAX_BATCH, MAX_REPLY};

/// What one worker may ask of the broker at a time. A request over a limit is refused
/// ([`Reason::Limit`](crate::wire::Reason::Limit), EAGAIN), and may be made again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub(crate) requests_in_flight: Option<NonZeroU32>,
    pub(crate) bytes_queued: usize,
    pub(crate) per_second: Option<NonZeroU32>,
    pub(crate) descriptors_outstanding: usize,
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

    /// Requests a second that are served; a second's worth may come at once. Each request of a batch counts, and so do
    /// a greeting ([`Client::from_stdin`](crate::Client::from_stdin) sends one) and what the broker does not know. No
    /// limit unless said otherwise.
    #[must_use]
    pub fn requests_per_second(mut self, requests: NonZeroU32) -> Self {
        self.per_second = Some(requests);
        self
    }

    /// Descriptors that have been sent since the worker's queue was last seen empty: 253 unless said otherwise. Further
    /// ones are refused until the worker has read all its replies, also those that it has received by then.
    ///
    /// While a batch is served, as many of each worker are in the broker's own descriptor table: RLIMIT_NOFILE has to
    /// exceed this limit times the number of workers, besides what the daemon has open itself. The kernel counts them
    /// for the broker's whole user, together with those of other workers (`ETOOMANYREFS` over RLIMIT_NOFILE, unless the
    /// broker is privileged).
    #[must_use]
    pub fn descriptors_outstanding(mut self, descriptors: NonZeroU32) -> Self {
        self.descriptors_outstanding = descriptors.get() as usize;
        self
    }
}

//! `[broker]` What was asked, what was answered, and why.

mod json;
mod object;
#[cfg(feature = "tracing")]
mod tracing;
mod utc;

pub(crate) use json::Escaped;
pub use json::JsonLines;
#[cfg(feature = "tracing")]
pub use tracing::Tracing;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Fault;
use crate::policy::{Info, NotHeld, Why};
use crate::resolve::Resolver;
use crate::wire::{Ask, Refusal};
pub(crate) use object::{Because, Printable, Shown};

/// Takes the records of a broker. Closures of `Fn(&Record)` do, and so does what is shared by an `Arc`. To write them,
/// there is [`JsonLines`]; to pass them on to the daemon's other events, `Tracing` (feature `tracing`).
pub trait Audit: Send + Sync {
    /// Takes one record, on the thread of the worker that it is about, which waits meanwhile.
    fn record(&self, record: &Record<'_>);

    /// How many records of requests one worker may cause a second; a second's worth may come at once. Those over it are
    /// counted, and the count is told by one more record, before the next request that is recorded, or before the end
    /// ([`Event::Suppressed`]). `None`: every one is taken. Asked once for each worker, at its start.
    fn records_per_second(&self) -> Option<NonZeroU32> {
        None
    }
}

impl<F: Fn(&Record<'_>) + Send + Sync> Audit for F {
    fn record(&self, record: &Record<'_>) {
        self(record);
    }
}

/// Shared, so that it can be asked as well.
impl<A: Audit + ?Sized> Audit for Arc<A> {
    fn record(&self, record: &Record<'_>) {
        (**self).record(record);
    }

    fn records_per_second(&self) -> Option<NonZeroU32> {
        (**self).records_per_second()
    }
}

/// One line of the audit.
#[derive(Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// The worker's name, as given to [`Broker::serve`](crate::Broker::serve).
    pub worker: &'a str,
    /// What happened.
    pub event: Event<'a>,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The service begins. Names are resolved in this way, if the policy has rules about names.
    Start(Option<Resolver>),
    /// A request, and its answer. Each request of a batch is one. What the broker's side does of its own accord
    /// ([`Service::narrow`](crate::Service::narrow), [`Service::enter_phase`](crate::Service::enter_phase), and the
    /// same of a [`Call`](crate::Call)) is no request and has no record: who does it can write one.
    #[non_exhaustive]
    Request {
        /// What was asked.
        ask: Ask<'a>,
        /// The rule that decided, if one did.
        rule: Option<&'a Info>,
        /// What was answered.
        answer: Result<(), Refusal>,
        /// Why the policy refused it, if it did.
        why: Option<Why>,
        /// What a [narrowing](crate::Client::narrow) asked to keep that was not held, if it was refused for that.
        not_held: Option<&'a NotHeld>,
        /// How long it took to decide and to do it.
        took: Duration,
    },
    /// A request with a verb that is not in the table.
    #[non_exhaustive]
    UnknownVerb {
        /// The verb's byte.
        verb: u8,
        /// What was answered.
        refusal: Refusal,
    },
    /// So many records were not made, because they were more than the audit takes
    /// ([`Audit::records_per_second`]).
    Suppressed(u64),
    /// The service has ended: the worker hung up, or committed a fault.
    End(&'a Result<(), Fault>),
}

/// One line of text, without control bytes from the worker, and with at most 16 KiB of what it wrote.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", Printable(self.worker))?;
        match &self.event {
            Event::Start(None) => write!(f, "start"),
            Event::Start(Some(resolver)) => write!(f, "start: names are resolved by {resolver}"),
            Event::Request { ask, answer: Ok(()), .. } => write!(f, "{}: granted", Shown(ask)),
            Event::Request { ask, answer: Err(refusal), rule, why, not_held, .. } => {
                write!(f, "{}: not granted: {refusal}", Shown(ask))?;
                let Some(because) = Because::new(*why, *not_held) else { return Ok(()) };
                write!(f, ": {because}")?;
                rule.map_or(Ok(()), |rule| write!(f, ": {}", Printable(rule)))
            }
            Event::UnknownVerb { verb, refusal } => write!(f, "verb 0x{verb:02x}: not granted: {refusal}"),
            Event::Suppressed(records) => write!(f, "{records} more records were suppressed"),
            Event::End(Ok(())) => write!(f, "end: hung up"),
            Event::End(Err(fault)) => write!(f, "end: {}", Printable(fault)),
        }
    }
}

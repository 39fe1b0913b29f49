//! `[broker]` What happens to a supervised worker.

use std::fmt;
use std::time::Duration;

use crate::error::{Fault, StartError};
use crate::sandbox::{Death, Enforced};

/// What has happened. [`Display`](fmt::Display) says it on one line, for a log.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A worker runs, and is served from now on.
    #[non_exhaustive]
    Started {
        /// Its process id.
        pid: u32,
        /// What holds around it.
        enforced: &'a Enforced,
    },
    /// None could be started, or one was lost sight of and killed: a failure.
    NotStarted(&'a StartError),
    /// It has said that it is ready ([`Client::ready`](crate::Client::ready)), so long after its start. Told once of
    /// each worker.
    #[non_exhaustive]
    Ready {
        /// Since its start.
        after: Duration,
    },
    /// It was to be [ready](super::Supervisor::ready_within) by now, and is not: it is killed.
    NotReady,
    /// It broke the rules of its channel: it is killed, if it has not ended by itself.
    Faulted(&'a Fault),
    /// It has ended.
    #[non_exhaustive]
    Died {
        /// Why.
        death: Death,
        /// So long after its start.
        after: Duration,
    },
    /// Another one will be started.
    Restarting {
        /// After this pause; none at all when somebody [asked](super::Supervision::restart) for it.
        delay: Duration,
    },
    /// No other one will be started: there were as many starts as there may be
    /// ([`Supervisor::start_limit`](super::Supervisor::start_limit)). The last event.
    GaveUp,
    /// No other one will be started: so says the [policy](super::Restart). The last event.
    Finished,
    /// No other one will be started: [`Supervision::stop`](super::Supervision::stop). The last event.
    Stopped,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { pid, .. } => write!(f, "started: process {pid}"),
            Self::NotStarted(error) => write!(f, "not started: {error}"),
            Self::Ready { after } => write!(f, "ready after {after:.1?}"),
            Self::NotReady => f.write_str("killed: it has not said in time that it is ready"),
            Self::Faulted(fault) => write!(f, "broke the rules of its channel: {}", fault.to_string().escape_debug()),
            Self::Died { death, after } => write!(f, "ended after {after:.1?}: {death}"),
            Self::Restarting { delay } => write!(f, "to be started again in {delay:.1?}"),
            Self::GaveUp => f.write_str("given up: too many starts in too short a time"),
            Self::Finished => f.write_str("finished: not to be started again"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// How a supervision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// By [`Supervision::stop`](super::Supervision::stop), or because that was dropped. How the worker ended that was
    /// told to; `None` if there was none at that moment.
    Stopped(Option<Death>),
    /// The last worker ended in this way, and its [policy](super::Restart) has no other one started. `None`: it could
    /// not be started.
    Finished(Option<Death>),
    /// There were too many starts in too short a time. How the last worker ended; `None`: it could not be started.
    GaveUp(Option<Death>),
    /// The closure that takes the events panicked. The worker has been killed.
    Panicked,
}

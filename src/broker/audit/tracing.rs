//! `[broker]` The audit as events of `tracing`.

use std::num::NonZeroU32;

use tracing::field::display;
use tracing::{debug, info, warn};

use super::json::errno_name;
use super::object::{About, Because, Printable};
use super::{Audit, Event, Record};
use crate::wire::{Reason, Refusal};

const TARGET: &str = "fdbroker::audit";

/// An audit that makes an event of each record, with the target `fdbroker::audit`. Feature `tracing`.
///
/// | level | events |
/// |-------|--------|
/// | DEBUG | requests that were granted |
/// | INFO | requests that the policy allows and that failed; starts; ends, without a fault |
/// | WARN | requests that were refused for another reason; unknown verbs; suppressed records; ends with a fault |
///
/// Fields have the names and values of [`JsonLines`](super::JsonLines), but for the time, which is the subscriber's,
/// and for what would be null, which is missing; `event` is the message. What came from the worker is escaped as there,
/// and so is its name, so that a subscriber which writes text cannot be made to write control bytes.
///
/// What it costs, and whether it waits, is the subscriber's affair: it runs on the thread of the worker that the record
/// is about. At most 1,000 records of requests a second are taken of each worker, unless said
/// [otherwise](Self::max_per_second).
#[derive(Debug, Clone)]
pub struct Tracing {
    per_second: Option<NonZeroU32>,
}

impl Tracing {
    /// At most 1,000 records of requests a second of each worker.
    #[must_use]
    pub fn new() -> Self {
        Self { per_second: NonZeroU32::new(1_000) }
    }

    /// How many records of requests are taken of each worker a second; `None`: all of them.
    #[must_use]
    pub fn max_per_second(mut self, records: impl Into<Option<NonZeroU32>>) -> Self {
        self.per_second = records.into();
        self
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Self::new()
    }
}

impl Audit for Tracing {
    fn record(&self, record: &Record<'_>) {
        let worker = display(Printable(record.worker));
        match &record.event {
            Event::Start(resolver) => {
                info!(target: TARGET, worker, resolver = resolver.map(display), "start");
            }
            Event::Request { .. } => request(record),
            Event::UnknownVerb { verb, refusal } => {
                warn!(
                    target: TARGET,
                    worker,
                    verb,
                    outcome = "refused",
                    reason = refusal.reason.name(),
                    errno = refusal.errno,
                    errno_name = errno_name(*refusal).map(display),
                    "unknown-verb"
                );
            }
            Event::Suppressed(records) => warn!(target: TARGET, worker, records, "suppressed"),
            Event::End(Ok(())) => info!(target: TARGET, worker, outcome = "hung-up", "end"),
            Event::End(Err(fault)) => {
                let why = display(Printable(fault));
                warn!(target: TARGET, worker, outcome = "fault", why, "end");
            }
        }
    }

    fn records_per_second(&self) -> Option<NonZeroU32> {
        self.per_second
    }
}

fn request(record: &Record<'_>) {
    let Event::Request { ask, rule, answer, why, not_held, took } = &record.event else { return };
    let about = About::new(ask);
    let refusal = answer.err();
    // The level of an event is part of what is known of it before the program runs, so there are three.
    macro_rules! event {
        ($level:ident) => {
            $level!(
                target: TARGET,
                worker = display(Printable(record.worker)),
                verb = ask.verb(),
                object = about.object.map(display),
                object_bytes = about.object.and_then(|object| object.cut()),
                to = about.to.map(display),
                to_bytes = about.to.and_then(|to| to.cut()),
                access = about.access.map(display),
                socket = about.socket.map(display),
                family = about.family,
                from = about.from,
                rights = about.rights.map(display),
                bytes = about.bytes,
                rule = rule.map(|rule| rule.number()),
                rule_text = rule.map(|rule| display(Printable(rule.text()))),
                rule_place = rule.map(|rule| display(Printable(rule.place()))),
                outcome = if refusal.is_none() { "granted" } else { "refused" },
                reason = refusal.map(|refusal| refusal.reason.name()),
                errno = refusal.map(|refusal| refusal.errno),
                errno_name = refusal.and_then(errno_name).map(display),
                why = Because::new(*why, *not_held).map(display),
                took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                "request"
            )
        };
    }
    match refusal {
        None => event!(debug),
        Some(Refusal { reason: Reason::Failed, .. }) => event!(info),
        Some(_) => event!(warn),
    }
}

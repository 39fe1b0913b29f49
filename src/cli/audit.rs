//! `[broker]` The audit on standard error: lines for people, or JSON.

use std::io::{self, Write};
use std::num::NonZeroU32;

use nix::errno::Errno;

use super::paint::Paint;
use crate::broker::{Audit, Because, Broker, Event, JsonLines, Printable, Record, Shown};
use crate::wire::Reason;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// A line for each request: outcome, request, rule or reason; with colours on a terminal, unless NO_COLOR is set
    Human,
    /// A JSON object for each line: see fdbroker::JsonLines
    Json,
    /// Nothing
    None,
}

impl Form {
    pub(super) fn of(self, broker: Broker) -> Broker {
        match self {
            Self::Human => broker.audit_to(Lines::new()),
            Self::Json => broker.audit_to(JsonLines::new(io::stderr())),
            Self::None => broker,
        }
    }
}

/// Lines for people.
pub(super) struct Lines {
    paint: Paint,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { paint: Paint::of(&io::stderr()) }
    }

    fn line(&self, record: &Record<'_>) -> String {
        let paint = self.paint;
        let filled = |word: &str| format!("{word:8}");
        match &record.event {
            Event::Start(None) => format!("{} no rule is about names", paint.faint(filled("start"))),
            Event::Start(Some(resolver)) => {
                format!("{} names are resolved by {resolver}", paint.faint(filled("start")))
            }
            Event::Request { ask, rule, answer, why, not_held, took } => {
                let outcome = match answer {
                    Ok(()) => paint.good(filled("granted")),
                    Err(refusal) if refusal.reason == Reason::Failed => paint.doubtful(filled("failed")),
                    Err(_) => paint.wrong(filled("refused")),
                };
                let mut about = Vec::new();
                if let Err(refusal) = answer {
                    let errno = format!("{:?}", Errno::from_raw(refusal.errno));
                    about.push(match Because::new(*why, *not_held) {
                        Some(because) => format!("{errno}: {because}"),
                        None => format!("{errno}: {refusal}"),
                    });
                }
                match rule {
                    Some(rule) => about.push(format!("rule {} ({})", rule.number(), Printable(rule.place()))),
                    None if answer.is_ok() => about.push("no rule".to_owned()),
                    None => {}
                }
                about.push(format!("{} us", took.as_micros()));
                format!("{outcome} {:40} {}", Shown(ask).to_string(), paint.faint(about.join(", ")))
            }
            Event::UnknownVerb { verb, refusal, .. } => {
                let errno = Errno::from_raw(refusal.errno);
                format!("{} {:40} {errno:?}", paint.wrong(filled("refused")), format!("verb 0x{verb:02x}"))
            }
            Event::Suppressed(records) => {
                format!("{} {records} more requests are not shown", paint.doubtful(filled("flood")))
            }
            Event::End(Ok(())) => format!("{} the worker has hung up", paint.faint(filled("end"))),
            Event::End(Err(fault)) => format!("{} {}", paint.wrong(filled("fault")), Printable(fault)),
        }
    }
}

impl Audit for Lines {
    fn record(&self, record: &Record<'_>) {
        // In one piece: the worker may write there too. Nobody need read it.
        let line = self.line(record) + "\n";
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// As JSON lines do.
    fn records_per_second(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(1_000)
    }
}

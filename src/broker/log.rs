//! `[broker]` The records of one worker, bounded as the audit wants them.

use std::cell::RefCell;
use std::time::Instant;

use super::audit::{Audit, Event, Record};
use super::meter::Rate;
use crate::error::Fault;

/// The audit of one worker, if there is any.
pub(super) struct Log<'d> {
    audit: Option<&'d dyn Audit>,
    worker: &'d str,
    suppression: Option<RefCell<Suppression>>,
}

struct Suppression {
    rate: Rate,
    records: u64,
}

impl<'d> Log<'d> {
    pub(super) fn new(audit: Option<&'d dyn Audit>, worker: &'d str) -> Self {
        let rate = audit.and_then(Audit::records_per_second).map(Rate::new);
        let suppression = rate.map(|rate| RefCell::new(Suppression { rate, records: 0 }));
        Self { audit, worker, suppression }
    }

    pub(super) fn write(&self, event: Event<'_>) {
        if let Some(audit) = self.audit {
            audit.record(&Record { worker: self.worker, event });
        }
    }

    /// As [`write`](Self::write), if the audit takes one more at this moment.
    pub(super) fn write_request(&self, event: Event<'_>) {
        let Some(suppression) = &self.suppression else { return self.write(event) };
        // Given back before the audit is called.
        let suppressed = {
            let mut suppression = suppression.borrow_mut();
            if !suppression.rate.take() {
                suppression.records += 1;
                return;
            }
            std::mem::take(&mut suppression.records)
        };
        if suppressed > 0 {
            self.write(Event::Suppressed(suppressed));
        }
        self.write(event);
    }

    pub(super) fn end(&self, end: &Result<(), Fault>) {
        let suppressed = self.suppression.as_ref().map_or(0, |suppression| suppression.borrow().records);
        if suppressed > 0 {
            self.write(Event::Suppressed(suppressed));
        }
        self.write(Event::End(end));
    }

    /// The clock is not asked for nobody.
    pub(super) fn now(&self) -> Option<Instant> {
        self.audit.map(|_| Instant::now())
    }
}

//! `[broker]` What others want of a supervisor's thread, and what came of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Outcome;
use super::bell::{Bell, moment_after};

/// Shared by the supervisor's thread and those who give orders.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) bell: Arc<Bell>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    orders: Orders,
    ready: bool,
    outcome: Option<Outcome>,
}

/// What is wanted now.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The end, by this moment.
    pub(super) stop_by: Option<Instant>,
    /// Another worker in the place of this one.
    pub(super) restart: bool,
    /// Signals for the worker, in order.
    pub(super) signals: Vec<i32>,
}

impl Desk {
    pub(super) fn new(bell: Bell) -> Self {
        Self { bell: Arc::new(bell), state: Mutex::default(), ended: Condvar::new() }
    }

    /// Of several, the earliest moment counts.
    pub(super) fn order_stop(&self, timeout: Duration) {
        let by = moment_after(Instant::now(), timeout);
        self.order(|orders| orders.stop_by = Some(orders.stop_by.map_or(by, |earlier| earlier.min(by))));
    }

    pub(super) fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.state().orders);
        self.bell.ring();
    }

    /// What is wanted. A restart and signals are handed out once; a stop is wanted for good.
    pub(super) fn take(&self) -> Orders {
        let mut state = self.state();
        let Orders { stop_by, restart, signals } = &mut state.orders;
        Orders { stop_by: *stop_by, restart: std::mem::take(restart), signals: std::mem::take(signals) }
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.state().ready = ready;
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state().ready
    }

    /// The first counts.
    pub(super) fn end(&self, outcome: Outcome) {
        let mut state = self.state();
        state.ready = false;
        state.outcome.get_or_insert(outcome);
        drop(state);
        self.ended.notify_all();
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.state().outcome
    }

    pub(super) fn wait(&self) -> Outcome {
        let mut state = self.state();
        loop {
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

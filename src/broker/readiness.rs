//! `[broker]` Whether a worker has said that it has started up.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::NotReady;

/// Shared by the thread of a worker's service and those that wait for the worker.
pub(super) struct Readiness {
    state: Mutex<State>,
    changed: Condvar,
    tell: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    declared: bool,
    ended: bool,
}

impl Readiness {
    /// `tell` is called after each change, and nothing is locked meanwhile.
    pub(super) fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), tell: Box::new(tell) }
    }

    /// The worker has said so, for the first time or again.
    pub(super) fn declare(&self) {
        self.change(|state| !std::mem::replace(&mut state.declared, true));
    }

    /// Its service has ended.
    pub(super) fn end(&self) {
        self.change(|state| !std::mem::replace(&mut state.ended, true));
    }

    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let changed = change(&mut self.state());
        if changed {
            self.changed.notify_all();
            (self.tell)();
        }
    }

    pub(super) fn is_declared(&self) -> bool {
        self.state().declared
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().ended
    }

    pub(super) fn wait(&self, timeout: Duration) -> Result<(), NotReady> {
        let undecided = |state: &mut State| !state.declared && !state.ended;
        let waited = self.changed.wait_timeout_while(self.state(), timeout, undecided);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match *state {
            State { declared: true, .. } => Ok(()),
            State { ended: true, .. } => Err(NotReady::Ended),
            State { .. } => Err(NotReady::TimedOut),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("state", &*self.state()).finish_non_exhaustive()
    }
}

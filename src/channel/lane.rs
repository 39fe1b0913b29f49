//! `[both]` One direction of a stream, in which one thread at a time can be.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// Holds what a direction has to remember between calls. Who is inside may wait for the peer as long as it likes, so
/// others may have to give up before their turn comes.
#[derive(Default)]
pub(super) struct Lane<T> {
    state: Mutex<T>,
    /// A [`Stay`]: whether who is inside may wait for the peer.
    stay: AtomicU8,
}

/// Whether a call waits for the peer when it is inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stay {
    Never,
    IfSocketBlocks,
    Always,
}

/// How long a call waits for its turn.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    Forever,
    Until(Instant),
    /// For those who stay less than this, and so are gone in a moment. To say "not ready" because of them would lie to
    /// an event loop, which does not hear again of what is there.
    Less(Stay),
}

impl<T> Lane<T> {
    /// Takes its turn. `patience` is asked if somebody is inside. `None`: the turn did not come in time.
    #[inline(always)]
    pub(super) fn enter(&self, stay: Stay, patience: impl FnOnce() -> Patience) -> Option<Turn<'_, T>> {
        let state = match self.try_lock() {
            Some(state) => state,
            None => self.wait(patience())?,
        };
        self.stay.store(stay as u8, Ordering::Relaxed);
        Some(Turn { state, stay: &self.stay })
    }

    /// Who is inside waits, and lets that be known meanwhile.
    pub(super) fn waiting<R>(&self, wait: impl FnOnce() -> R) -> R {
        let before = self.stay.swap(Stay::Always as u8, Ordering::Relaxed);
        let result = wait();
        self.stay.store(before, Ordering::Relaxed);
        result
    }

    /// Without waiting: there is nobody else.
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline(always)]
    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A mutex of std cannot be waited for until a deadline, so it is tried again and again.
    #[cold]
    fn wait(&self, patience: Patience) -> Option<MutexGuard<'_, T>> {
        loop {
            let in_time = match patience {
                Patience::Forever => return Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
                Patience::Until(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    thread::sleep(left.min(Duration::from_millis(1)));
                    !left.is_zero()
                }
                Patience::Less(most) => {
                    thread::yield_now();
                    self.stay.load(Ordering::Relaxed) < most as u8
                }
            };
            match self.try_lock() {
                None if in_time => {}
                state => return state,
            }
        }
    }
}

/// Who is inside, and what the direction remembers.
pub(super) struct Turn<'l, T> {
    state: MutexGuard<'l, T>,
    stay: &'l AtomicU8,
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Turn<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T> Drop for Turn<'_, T> {
    /// Before the mutex is released: nobody takes the next one inside for this one.
    #[inline(always)]
    fn drop(&mut self) {
        self.stay.store(Stay::Never as u8, Ordering::Relaxed);
    }
}

//! `[both]` One direction of a stream, in which one thread at a time can be.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Wait;

/// Holds what a direction has to remember between calls. A mutex that can be waited for until a deadline, which std's cannot,
/// since whoever is inside may wait for the peer as long as it likes.
#[derive(Default)]
pub(super) struct Lane<T> {
    place: Mutex<Place<T>>,
    left: Condvar,
}

#[derive(Default)]
struct Place<T> {
    /// How long who is inside waits for the peer.
    inside: Option<Wait>,
    waiting: usize,
    state: T,
}

impl<T: Default> Lane<T> {
    pub(super) fn new(state: T) -> Self {
        Self { place: Mutex::new(Place { state, ..Place::default() }), left: Condvar::new() }
    }

    /// Waits for its turn, until when `patience` says: it is given how long who is inside waits, and since when the turn is waited
    /// for, and answers `None` for "for ever". Answers `None` if that has passed.
    #[inline(always)]
    pub(super) fn enter(&self, wait: Wait, patience: impl Fn(Wait, Instant) -> Option<Instant>) -> Option<Turn<'_, T>> {
        let mut place = self.lock();
        let mut since = None;
        while let Some(inside) = place.inside {
            let since = *since.get_or_insert_with(Instant::now);
            let left = patience(inside, since).map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            place.waiting += 1;
            place = match left {
                None => self.left.wait(place).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.left.wait_timeout(place, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            place.waiting -= 1;
        }
        place.inside = Some(wait);
        let state = mem::take(&mut place.state);
        Some(Turn { lane: self, state })
    }

    fn lock(&self) -> MutexGuard<'_, Place<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is remembered, while it is this thread's turn.
pub(super) struct Turn<'l, T: Default> {
    lane: &'l Lane<T>,
    state: T,
}

impl<T: Default> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T: Default> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T: Default> Drop for Turn<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        let mut place = self.lane.lock();
        place.state = mem::take(&mut self.state);
        place.inside = None;
        // Waking somebody is a system call, also when nobody waits.
        if place.waiting > 0 {
            // All, since who waits may ask who is inside now.
            self.lane.left.notify_all();
        }
    }
}

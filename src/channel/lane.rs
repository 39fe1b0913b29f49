//! `[both]` One direction of a stream, in which one thread at a time can be.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Holds what a direction has to remember between calls. A mutex that can be waited for until a deadline, which std's cannot,
/// since whoever is inside may wait for the peer as long as it likes.
#[derive(Default)]
pub(super) struct Lane<T> {
    place: Mutex<Place<T>>,
    left: Condvar,
}

#[derive(Default)]
struct Place<T> {
    taken: bool,
    /// Whoever is inside may wait for the peer.
    stays: bool,
    waiting: usize,
    state: T,
}

impl<T: Default> Lane<T> {
    /// Waits for its turn; `None` if the deadline, which is asked for when there is somebody to wait for, passed before. One that
    /// does not stay, because it never waits for the peer, waits for others of its kind, who are gone at once (so that
    /// "would block" always means the socket), and for nobody else.
    pub(super) fn enter<E>(
        &self,
        stays: bool,
        until: impl FnOnce() -> Result<Option<Instant>, E>,
    ) -> Result<Option<Turn<'_, T>>, E> {
        let mut place = self.lock();
        let deadline = if place.taken && stays { until()? } else { None };
        while place.taken {
            if place.stays && !stays {
                return Ok(None);
            }
            place.waiting += 1;
            place = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.left.wait(place).unwrap_or_else(PoisonError::into_inner),
                Some(time) => self.left.wait_timeout(place, time).unwrap_or_else(PoisonError::into_inner).0,
            };
            place.waiting -= 1;
            if place.taken && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
        }
        (place.taken, place.stays) = (true, stays);
        let state = mem::take(&mut place.state);
        Ok(Some(Turn { lane: self, state }))
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
    fn drop(&mut self) {
        let mut place = self.lane.lock();
        place.state = mem::take(&mut self.state);
        place.taken = false;
        // Waking somebody is a system call, also when nobody waits.
        if place.waiting > 0 {
            self.lane.left.notify_one();
        }
    }
}

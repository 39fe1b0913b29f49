//! `[broker]` Whether a worker is started once more, and when. No clock: the moments are given.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bell::moment_after;

/// When a worker that has ended is started once more (as `Restart=` of systemd.service(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Not at all.
    Never,
    /// When it failed: it ended in any other way than by itself with exit code 0, could not be started, or was to be
    /// ready in time and was not, however it ended. A worker is no daemon that an administrator tells to end: who kills
    /// it by SIGTERM has it restarted.
    #[default]
    OnFailure,
    /// However it ended.
    Always,
}

/// What is decided by, and what has been so far.
#[derive(Debug, Clone)]
pub(super) struct Restarts {
    pub(super) restart: Restart,
    /// The first pause, and the longest: each is twice the one before.
    pub(super) backoff: (Duration, Duration),
    /// The first pause is due again after a life that was so long.
    pub(super) reset_after: Duration,
    /// So many starts within so long, at most.
    pub(super) start_limit: (u32, Duration),
    pauses: u32,
    starts: VecDeque<Instant>,
}

/// What to do about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    StartAfter(Duration),
    LeaveIt,
    GiveUp,
}

impl Restarts {
    pub(super) fn new() -> Self {
        Self {
            restart: Restart::default(),
            backoff: (Duration::from_millis(100), Duration::from_secs(30)),
            reset_after: Duration::from_secs(60),
            start_limit: (10, Duration::from_secs(600)),
            pauses: 0,
            starts: VecDeque::new(),
        }
    }

    /// A start is tried at this moment.
    pub(super) fn started(&mut self, now: Instant) {
        self.starts.push_back(now);
    }

    /// A life has ended at this moment, or not begun.
    pub(super) fn after(&mut self, failed: bool, lived: Duration, now: Instant) -> Next {
        match self.restart {
            Restart::Never => return Next::LeaveIt,
            Restart::OnFailure if !failed => return Next::LeaveIt,
            Restart::OnFailure | Restart::Always => {}
        }
        if lived >= self.reset_after {
            self.pauses = 0;
        }
        let pause = self.pause();
        self.pauses = self.pauses.saturating_add(1);
        if self.is_one_too_many(moment_after(now, pause)) { Next::GiveUp } else { Next::StartAfter(pause) }
    }

    /// As if it had never failed: somebody has looked after it.
    pub(super) fn forget(&mut self) {
        self.pauses = 0;
        self.starts.clear();
    }

    fn pause(&self) -> Duration {
        let (initial, maximum) = self.backoff;
        let factor = 1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX);
        initial.checked_mul(factor).unwrap_or(maximum).min(maximum)
    }

    fn is_one_too_many(&mut self, then: Instant) -> bool {
        let (starts, interval) = self.start_limit;
        while self.starts.front().is_some_and(|start| then.saturating_duration_since(*start) >= interval) {
            self.starts.pop_front();
        }
        self.starts.len() >= starts.max(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts(restart: Restart) -> Restarts {
        Restarts { restart, start_limit: (u32::MAX, SECOND), ..Restarts::new() }
    }

    #[test]
    fn the_policy_decides() {
        let now = Instant::now();
        let first = Next::StartAfter(Duration::from_millis(100));
        for (restart, after_success, after_failure) in [
            (Restart::Never, Next::LeaveIt, Next::LeaveIt),
            (Restart::OnFailure, Next::LeaveIt, first),
            (Restart::Always, first, first),
        ] {
            for (failed, next) in [(false, after_success), (true, after_failure)] {
                assert_eq!(restarts(restart).after(failed, SECOND, now), next, "{restart:?}, failed: {failed}");
            }
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut restarts = restarts(Restart::OnFailure);
        restarts.backoff = (Duration::from_millis(100), SECOND);
        let mut pauses = || match restarts.after(true, Duration::ZERO, Instant::now()) {
            Next::StartAfter(pause) => pause.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!([(); 6].map(|()| pauses()), [100, 200, 400, 800, 1000, 1000]);
        // Beyond what a number can hold, too.
        for _ in 0..100 {
            assert_eq!(pauses(), 1000);
        }
    }

    /// "For ever" is a pause as others are.
    #[test]
    fn a_pause_beyond_all_clocks() {
        let mut restarts = Restarts::new();
        restarts.backoff = (Duration::MAX, Duration::MAX);
        restarts.started(Instant::now());
        assert_eq!(restarts.after(true, Duration::ZERO, Instant::now()), Next::StartAfter(Duration::MAX));
    }

    #[test]
    fn a_long_life_is_a_new_beginning() {
        let mut restarts = restarts(Restart::OnFailure);
        let lives = [(0, 100), (59_999, 200), (60_000, 100), (0, 200), (0, 400), (99_000, 100)];
        for (lived, pause) in lives {
            let next = restarts.after(true, Duration::from_millis(lived), Instant::now());
            assert_eq!(next, Next::StartAfter(Duration::from_millis(pause)), "after {lived} ms");
        }
        restarts.forget();
        let next = restarts.after(true, Duration::ZERO, Instant::now());
        assert_eq!(next, Next::StartAfter(Duration::from_millis(100)));
    }

    /// The ceiling counts the start that the pause leads to at its own time.
    #[test]
    fn the_ceiling_counts_starts_in_an_interval() {
        let mut restarts = restarts(Restart::OnFailure);
        (restarts.backoff, restarts.start_limit) = ((SECOND, SECOND), (3, 10 * SECOND));
        let start = Instant::now();
        let mut life = |begin: u32, end: u32| {
            restarts.started(start + begin * SECOND);
            restarts.after(true, Duration::ZERO, start + end * SECOND)
        };
        let again = Next::StartAfter(SECOND);
        assert_eq!([life(0, 0), life(1, 1), life(2, 9)], [again; 3]);
        // Of the one that is to be at 13, those at 10, 11 and 12 are within 10 seconds: it would be the fourth.
        assert_eq!([life(10, 10), life(11, 11), life(12, 12)], [again, again, Next::GiveUp]);
        // A number of 0 is as 1; an interval of 0 is no ceiling.
        restarts.forget();
        restarts.start_limit = (0, SECOND * 10);
        restarts.started(start);
        assert_eq!(restarts.after(true, Duration::ZERO, start), Next::GiveUp);
        restarts.start_limit = (0, Duration::ZERO);
        assert_eq!(restarts.after(true, Duration::ZERO, start), again);
    }
}

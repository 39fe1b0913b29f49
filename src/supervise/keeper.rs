//! `[broker]` The supervisor's thread: start, attend to, decide, pause, start again.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::{moment_after, wait_for};
use super::life::Life;
use super::orders::Desk;
use super::restarts::{Next, Restarts};
use super::{Event, MakePolicy, Outcome};
use crate::broker::Broker;
use crate::error::StartError;
use crate::sandbox::{Death, Prepared, Sandbox};

pub(super) struct Keeper {
    pub(super) prepared: Prepared,
    /// What each worker but the first is prepared from.
    pub(super) anew: Option<Sandbox>,
    pub(super) make_policy: Box<MakePolicy>,
    pub(super) broker: Broker,
    pub(super) name: String,
    pub(super) restarts: Restarts,
    pub(super) ready_within: Option<Duration>,
    pub(super) stop_timeout: Duration,
    pub(super) on_event: Box<dyn Fn(&Event<'_>) + Send>,
    pub(super) desk: Arc<Desk>,
}

/// How a life ended, or that none began.
struct End {
    death: Option<Death>,
    lived: Duration,
    failed: bool,
    why: Why,
}

/// Whose doing an end or an interruption was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    ItsOwn,
    Restart,
    Stop,
}

impl Keeper {
    pub(super) fn run(mut self) -> Outcome {
        let mut is_first = true;
        loop {
            self.restarts.started(Instant::now());
            let renewed = if is_first { Ok(()) } else { self.prepare_anew() };
            is_first = false;
            let end = renewed.and_then(|()| self.live()).unwrap_or_else(|error| {
                self.tell(&Event::NotStarted(&error));
                End { death: None, lived: Duration::ZERO, failed: true, why: Why::ItsOwn }
            });
            let wanted = match self.wanted() {
                Why::ItsOwn => end.why,
                wanted => wanted,
            };
            let next = match wanted {
                Why::ItsOwn => match self.restarts.after(end.failed, end.lived, Instant::now()) {
                    Next::StartAfter(delay) => self.pause(delay),
                    Next::GiveUp => return self.end(&Event::GaveUp, Outcome::GaveUp(end.death)),
                    Next::LeaveIt => return self.end(&Event::Finished, Outcome::Finished(end.death)),
                },
                wanted => wanted,
            };
            match next {
                Why::ItsOwn => {}
                Why::Restart => {
                    self.restarts.forget();
                    self.tell(&Event::Restarting { delay: Duration::ZERO });
                }
                Why::Stop => {
                    let stopped = end.death.filter(|_| end.why == Why::Stop);
                    return self.end(&Event::Stopped, Outcome::Stopped(stopped));
                }
            }
        }
    }

    fn prepare_anew(&mut self) -> Result<(), StartError> {
        if let Some(sandbox) = &self.anew {
            self.prepared = sandbox.prepare()?;
        }
        Ok(())
    }

    /// One life. What it returns by an error has been killed, and reaped.
    fn live(&self) -> Result<End, StartError> {
        let policy = (self.make_policy)().map_err(StartError::Policy)?;
        let (worker, channel) = self.prepared.spawn()?;
        let (pid, enforced) = (worker.id(), worker.enforced().clone());
        let life = Life::begin(worker, channel, &self.broker, &self.name, policy, &self.desk.bell);
        let life = life.map_err(os("starting the broker's thread"))?;
        self.tell(&Event::Started { pid, enforced: &enforced });
        let end = self.attend(life);
        self.desk.set_ready(false);
        end
    }

    /// From its start to its end.
    fn attend(&self, mut life: Life) -> Result<End, StartError> {
        let mut ready_by = self.ready_within.and_then(|within| life.since().checked_add(within));
        let (mut stop_by, mut why) = (None, Why::ItsOwn);
        loop {
            let until = [ready_by, stop_by].into_iter().flatten().min();
            wait_for([life.as_fd(), self.desk.bell.as_fd()], until).map_err(os("poll"))?;
            self.desk.bell.hush();

            let news = life.news().map_err(os("waiting for the worker"))?;
            if news.ready {
                ready_by = None;
                self.desk.set_ready(true);
                self.tell(&Event::Ready { after: life.age() });
            }
            if let Some(fault) = &news.fault {
                self.tell(&Event::Faulted(fault));
            }
            if news.ended {
                break;
            }

            let orders = self.desk.take();
            orders.signals.into_iter().for_each(|signal| pass_on(&life, signal));
            let wanted = match (orders.stop_by, orders.restart) {
                (Some(by), _) => Some((Why::Stop, by)),
                (None, true) => Some((Why::Restart, moment_after(Instant::now(), self.stop_timeout))),
                (None, false) => None,
            };
            if let Some((wanted, by)) = wanted {
                let asked = why != Why::ItsOwn || life.ask_to_end().map_err(os("pidfd_send_signal"))?;
                // It may have been asked before, with more time. If it was killed, there is nothing to do but wait.
                stop_by = asked.then_some(stop_by.map_or(by, |earlier: Instant| earlier.min(by)));
                (why, ready_by) = (wanted, None);
            }
            let now = Instant::now();
            if stop_by.is_some_and(|by| by <= now) {
                life.worker().kill().map_err(os("pidfd_send_signal"))?;
                stop_by = None;
            }
            if ready_by.is_some_and(|by| by <= now) {
                self.tell(&Event::NotReady);
                life.worker().kill().map_err(os("pidfd_send_signal"))?;
                ready_by = None;
            }
        }
        let (lived, was_ready) = (life.age(), life.is_ready());
        let (death, fault) = life.close(&self.desk.bell).map_err(os("poll"))?;
        if let Some(fault) = &fault {
            self.tell(&Event::Faulted(fault));
        }
        self.tell(&Event::Died { death, after: lived });
        let failed = !death.is_success() || (self.ready_within.is_some() && !was_ready);
        Ok(End { death: Some(death), lived, failed, why })
    }

    /// Between two lives.
    fn pause(&self, delay: Duration) -> Why {
        self.tell(&Event::Restarting { delay });
        let over = moment_after(Instant::now(), delay);
        loop {
            let wanted = self.wanted();
            if wanted != Why::ItsOwn || Instant::now() >= over {
                return wanted;
            }
            if wait_for([self.desk.bell.as_fd()], Some(over)).is_err() {
                std::thread::sleep(over.saturating_duration_since(Instant::now()));
            }
            self.desk.bell.hush();
        }
    }

    /// Where there is no worker. Signals that come now are for nobody.
    fn wanted(&self) -> Why {
        let orders = self.desk.take();
        match (orders.stop_by, orders.restart) {
            (Some(_), _) => Why::Stop,
            (None, true) => Why::Restart,
            (None, false) => Why::ItsOwn,
        }
    }

    fn end(&self, event: &Event<'_>, outcome: Outcome) -> Outcome {
        self.tell(event);
        outcome
    }

    fn tell(&self, event: &Event<'_>) {
        (self.on_event)(event);
    }
}

fn pass_on(life: &Life, signal: i32) {
    // It may have ended meanwhile. A kill is a kill, whoever wants it.
    let _ = if signal == libc::SIGKILL { life.worker().kill() } else { life.worker().signal(signal) };
}

fn os(call: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |source| StartError::Os { call, source }
}

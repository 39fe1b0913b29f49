//! `[broker]` Keeping a worker running: it is started, served, watched, started again when it has ended, and stopped.

mod bell;
mod event;
mod keeper;
mod life;
mod one;
mod orders;
mod restarts;

pub use event::{Event, Outcome};
#[cfg(feature = "cli")]
pub(crate) use one::last_words;
pub(crate) use one::{exit_code, passed_on, supervise};
pub use restarts::Restart;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::broker::Broker;
use crate::policy::Policy;
use crate::sandbox::{Prepared, Sandbox};
use crate::sys::process;
use bell::Bell;
use keeper::Keeper;
use orders::Desk;
use restarts::Restarts;

type MakePolicy = dyn Fn() -> Result<Arc<Policy>, Box<dyn Error + Send + Sync>> + Send;

/// How to keep a worker running.
///
/// ```no_run
/// use std::time::Duration;
/// use fdbroker::supervise::Restart;
/// use fdbroker::{Policy, Rule, Sandbox, Supervisor};
///
/// let policy = Policy::builder().allow(Rule::beneath("/srv/www").read()).build()?;
/// let supervision = Supervisor::new(Sandbox::new("/usr/lib/daemon/worker").prepare()?, policy)
///     .restart(Restart::OnFailure)
///     .ready_within(Duration::from_secs(10))
///     .on_event(|event| eprintln!("worker: {event}"))
///     .start()?;
/// // Until the daemon is to end:
/// supervision.stop(Duration::from_secs(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is not said: a worker that failed is started again ([`Restart::OnFailure`]), after 100 ms, 200 ms, and so on up
/// to 30 s, from the beginning after a life of a minute; but not more than 10 times in 10 minutes. It need not say that
/// it is ready. The names are those of systemd.service(5) where that has the thing.
///
/// Every worker that is started has a policy, and a channel, of its own: what an earlier one had narrowed or used up is
/// there again.
#[must_use = "no worker is started before `start` is called"]
pub struct Supervisor {
    prepared: Prepared,
    anew: Option<Sandbox>,
    make_policy: Box<MakePolicy>,
    broker: Broker,
    name: String,
    restarts: Restarts,
    ready_within: Option<Duration>,
    stop_timeout: Duration,
    on_event: Box<dyn Fn(&Event<'_>) + Send>,
}

impl Supervisor {
    /// Of workers that are started in this way, each by the same policy.
    pub fn new(prepared: Prepared, policy: impl Into<Arc<Policy>>) -> Self {
        let policy = policy.into();
        Self::with_policy(prepared, move || Ok::<_, std::convert::Infallible>(policy.clone()))
    }

    /// Of workers that are started in this way, each by a policy that is made for it: rules are about directories that
    /// are opened when a policy is made, and a configuration may have changed. A closure that fails is a failed start.
    pub fn with_policy<P, E>(prepared: Prepared, make: impl Fn() -> Result<P, E> + Send + 'static) -> Self
    where
        P: Into<Arc<Policy>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self {
            prepared,
            anew: None,
            make_policy: Box::new(move || make().map(Into::into).map_err(Into::into)),
            broker: Broker::new(),
            name: "worker".to_owned(),
            restarts: Restarts::new(),
            ready_within: None,
            stop_timeout: Duration::from_secs(10),
            on_event: Box::new(|_| {}),
        }
    }

    /// Each worker but the first is started by what is prepared then, from this. Otherwise all are started by what was
    /// prepared once, which knows the files of that moment: after a package's upgrade has replaced the program, the old
    /// one is started, and after the upgrade of a library none that needs it. It takes, each time, what
    /// [`Sandbox::prepare`] takes: a process that has given up its privileges since may not be able to. What fails is a
    /// failed start.
    pub fn prepare_anew(mut self, sandbox: Sandbox) -> Self {
        self.anew = Some(sandbox);
        self
    }

    /// Who serves them, with its audit, its services and its limits. Otherwise one without any of that.
    pub fn broker(mut self, broker: &Broker) -> Self {
        self.broker = broker.clone();
        self
    }

    /// What the workers are called in the audit: `worker`, unless said otherwise.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// When one that has ended is started again (`Restart=`).
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restarts.restart = restart;
        self
    }

    /// The pause before a start, which doubles from one to the next, up to `maximum` (`RestartSec=`,
    /// `RestartMaxDelaySec=`).
    pub fn backoff(mut self, initial: Duration, maximum: Duration) -> Self {
        self.restarts.backoff = (initial, maximum);
        self
    }

    /// A life so long is no failure to come up: the pause after it is the first one again.
    pub fn backoff_reset(mut self, after: Duration) -> Self {
        self.restarts.reset_after = after;
        self
    }

    /// The ceiling: one that would be started more often than so within `interval` is given up (`StartLimitBurst=`,
    /// `StartLimitIntervalSec=`). The first start counts. An interval of 0: there is no ceiling.
    pub fn start_limit(mut self, starts: u32, interval: Duration) -> Self {
        self.restarts.start_limit = (starts, interval);
        self
    }

    /// A worker has to say so soon that it is ready ([`Client::ready`](crate::Client::ready)), or it is killed
    /// (`TimeoutStartSec=`). One that ends before it has said so has failed, whatever its exit code.
    pub fn ready_within(mut self, timeout: Duration) -> Self {
        self.ready_within = Some(timeout);
        self
    }

    /// How long a worker has to end in a [`Supervision::restart`] before it is killed: 10 seconds, unless said
    /// otherwise (`TimeoutStopSec=`).
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Called with each event, on the supervisor's thread, which attends to nothing else meanwhile. A panic in it ends
    /// the supervision ([`Outcome::Panicked`]).
    pub fn on_event(mut self, on_event: impl Fn(&Event<'_>) + Send + 'static) -> Self {
        self.on_event = Box::new(on_event);
        self
    }

    /// Starts a thread that starts the worker. What becomes of that, the events tell.
    ///
    /// # Errors
    /// Of eventfd(2), or the thread could not be started. [`io::ErrorKind::Unsupported`]: this process ignores SIGCHLD
    /// (SIG_IGN or SA_NOCLDWAIT), so that nobody can know how a worker ended.
    pub fn start(self) -> io::Result<Supervision> {
        if process::ignores_children() {
            let ignored =
                "SIGCHLD is ignored here, so the kernel tells nobody how a child ended: set it to its default";
            return Err(io::Error::new(io::ErrorKind::Unsupported, ignored));
        }
        let desk = Arc::new(Desk::new(Bell::new()?));
        let Self { prepared, anew, make_policy, broker, name, restarts, ready_within, stop_timeout, on_event } = self;
        let desk_there = desk.clone();
        let thread = thread::Builder::new().name(format!("{name} keeper").replace('\0', "\u{fffd}"));
        let thread = thread.spawn(move || {
            // Whatever happens there, nobody is left waiting.
            let end = EndOnDrop(desk_there.clone());
            let desk = desk_there;
            let keeper = Keeper {
                prepared,
                anew,
                make_policy,
                broker,
                name,
                restarts,
                ready_within,
                stop_timeout,
                on_event,
                desk: desk.clone(),
            };
            let outcome = keeper.run();
            desk.end(outcome);
            drop(end);
        })?;
        Ok(Supervision { desk, thread: Some(thread) })
    }
}

struct EndOnDrop(Arc<Desk>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(Outcome::Panicked);
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("name", &self.name)
            .field("restarts", &self.restarts)
            .field("ready_within", &self.ready_within)
            .finish_non_exhaustive()
    }
}

/// A worker that is kept running. Dropped, it is killed, and nothing is left of it; to have it end by itself,
/// [`stop`](Self::stop) it.
///
/// `Send + Sync`: one thread may wait while another stops it.
#[derive(Debug)]
#[must_use = "dropping it kills the worker"]
pub struct Supervision {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Supervision {
    /// Has the worker end: SIGTERM, and after `timeout` SIGKILL. Waits until it has, and no descriptor and no zombie is
    /// left of it. A worker that is the first process of its PID namespace and does not handle SIGTERM would not get
    /// it, and is killed at once. Of several calls the earliest deadline counts. From the closure that takes the events
    /// it does not wait: its answer is `None` then.
    pub fn stop(&self, timeout: Duration) -> Option<Outcome> {
        self.desk.order_stop(timeout);
        self.wait()
    }

    /// Waits for the end, which comes when the worker is stopped, given up, or not to be started again. `None`: this is
    /// the closure that takes the events, for which that would never come.
    pub fn wait(&self) -> Option<Outcome> {
        (!self.is_this_thread()).then(|| self.desk.wait())
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.desk.outcome()
    }

    /// Whether a worker is running that has said that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.desk.is_ready()
    }

    /// Has another worker started in the place of this one, once that has ended (as in [`stop`](Self::stop), within
    /// [`Supervisor::stop_timeout`]); in a pause, at once. Pauses and the ceiling begin anew. Does not wait; where the
    /// end has come, it does nothing.
    pub fn restart(&self) {
        self.desk.order(|orders| orders.restart = true);
    }

    /// Sends the worker a signal, SIGHUP for one, for a daemon that reads its configuration again then. Does not wait;
    /// where there is no worker at the moment, it does nothing.
    ///
    /// # Errors
    /// EINVAL: there is no such signal.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        Signal::try_from(number)?;
        self.desk.order(|orders| orders.signals.push(number));
        Ok(())
    }

    fn is_this_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }
}

impl Drop for Supervision {
    fn drop(&mut self) {
        self.desk.order_stop(Duration::ZERO);
        if self.is_this_thread() {
            return;
        }
        // It does not panic, but for the closure that takes the events, and that has been told by then.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

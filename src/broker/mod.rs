//! `[broker]` Receive, decode, decide, open, reply: one thread a worker.

mod audit;
mod call;
mod desk;
mod log;
mod meter;
mod readiness;

pub(crate) use audit::Escaped;
#[cfg(feature = "tracing")]
pub use audit::Tracing;
pub use audit::{Audit, Event, JsonLines, Record};
#[cfg(feature = "cli")]
pub(crate) use audit::{Because, Printable, Shown};
pub use call::{Call, Gift};

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::channel::Channel;
use crate::error::{Fault, NotReady};
use crate::policy::{Limits, Narrowing, NoSuchPhase, NotHeld, Policy, Standing};
use call::Handler;
use desk::Desk;
use readiness::Readiness;

/// Serves workers, each on a thread of its own, each by its own policy. A worker that is slow, floods, sends garbage or
/// dies is the trouble of its own thread alone.
///
/// `Clone` is cheap, and gives the same broker.
#[derive(Clone)]
pub struct Broker {
    audit: Option<Arc<dyn Audit>>,
    services: Services,
    limits: Limits,
    reply_timeout: Duration,
}

type Services = Arc<HashMap<Box<str>, Arc<Handler>>>;

impl Broker {
    /// A broker without an audit and without services of its own, with the default limits, that waits 10 seconds for a
    /// worker to read its replies.
    #[must_use]
    pub fn new() -> Self {
        let reply_timeout = Duration::from_secs(10);
        Self { audit: None, services: Arc::default(), limits: Limits::default(), reply_timeout }
    }

    /// Calls `audit` with one record for every request that is served, one for the start and one for the end of every
    /// worker's service. It is called on the worker's thread, after the reply has been sent, or could not be: so a
    /// record says what the worker was answered, and may come a little later than the answer; of a worker that is gone,
    /// or is no longer served, what it would have been. It comes before the worker's next request is looked at. A panic
    /// in it ends that worker's service. `println!` and `eprintln!` panic when they cannot write.
    #[must_use]
    pub fn audit(self, audit: impl Fn(&Record<'_>) + Send + Sync + 'static) -> Self {
        self.audit_to(audit)
    }

    /// As [`audit`](Self::audit), for what is more than a closure.
    #[must_use]
    pub fn audit_to(mut self, audit: impl Audit + 'static) -> Self {
        self.audit = Some(Arc::new(audit));
        self
    }

    /// Registers a service of the daemon's own: what a privilege-separated worker needs beside descriptors of files, as
    /// "sign this", "authenticate this user" or "give me a terminal". Workers whose policy has a
    /// [`Rule::service`](crate::Rule::service) of this name call it with [`Client::call`](crate::Client::call). It
    /// takes the place of an earlier one of the same name.
    ///
    /// It runs on the thread of the worker that calls, which waits meanwhile; other workers do not. A panic in it ends
    /// that worker's service without a reply, and is recorded as a call that failed (EIO). An error is told to the
    /// worker by its errno, EIO if it has none, and what the service has
    /// [given](Gift) until then is not sent. A name of more than 255 bytes can be registered, but never called: none
    /// finds room in a request.
    ///
    /// ```
    /// use std::io;
    /// use fdbroker::{Broker, Policy, Rule};
    ///
    /// let broker = Broker::new().service("length", |call, gift| gift.write(&call.bytes().len().to_le_bytes()));
    /// let policy = Policy::builder().allow(Rule::service("length")).build()?;
    /// # let (here, there) = fdbroker::Channel::pair()?;
    /// let service = broker.serve("worker", here, policy)?;
    /// # let client = fdbroker::Client::new(there);
    /// let answer = client.call("length", fdbroker::wire::Rights::NONE, b"four")?;
    /// assert_eq!(answer.bytes, 4usize.to_le_bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn service(
        mut self,
        name: impl Into<String>,
        handler: impl Fn(&Call<'_>, &mut Gift<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.services).insert(name.into().into(), Arc::new(handler));
        self
    }

    /// What one worker may ask of the broker at a time.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long a reply may wait for room in a worker's queue before its service is ended: 10 seconds unless said
    /// otherwise. Rounded up to a microsecond.
    #[must_use]
    pub fn reply_timeout(mut self, timeout: Duration) -> Self {
        self.reply_timeout = timeout;
        self
    }

    /// Starts a thread that serves the worker at the other end of `channel` by `policy`, until the worker hangs up or
    /// commits a [`Fault`]. `name` stands in the audit and is the thread's name.
    /// A datagram channel never tells of a hang-up: its service ends by [`Service::stop`] or a fault only.
    ///
    /// # Errors
    /// The channel could not be prepared or the thread not started; the channel is closed.
    pub fn serve(
        &self,
        name: impl Into<String>,
        channel: Channel,
        policy: impl Into<Arc<Policy>>,
    ) -> io::Result<Service> {
        self.serve_and_tell(name, channel, policy, || {})
    }

    /// As [`serve`](Self::serve). `tell` is called on the service's thread when the worker has said that it is ready,
    /// and as the last thing before the service has ended; it must not wait for anything.
    pub(crate) fn serve_and_tell(
        &self,
        name: impl Into<String>,
        mut channel: Channel,
        policy: impl Into<Arc<Policy>>,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Service> {
        channel.refuse_descriptors()?;
        channel.set_send_timeout(Some(self.reply_timeout))?;
        channel.set_recv_timeout(None)?;
        channel.set_nonblocking(false)?;
        channel.set_send_buffer(self.limits.bytes_queued)?;
        let (channel, standing) = (Arc::new(channel), Arc::new(Standing::new(policy)));
        let readiness = Arc::new(Readiness::new(tell));
        let desk = Desk::new(self, name.into(), channel.clone(), standing.clone(), readiness.clone());
        let thread_name = desk.name().replace('\0', "\u{fffd}");
        let thread = Builder::new().name(thread_name).spawn(move || desk.attend())?;
        Ok(Service { channel, standing, readiness, thread })
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("services", &self.services.keys())
            .field("limits", &self.limits)
            .field("reply_timeout", &self.reply_timeout)
            .finish_non_exhaustive()
    }
}

/// The service of one worker. Dropping it changes nothing: the worker is served until it hangs up.
#[derive(Debug)]
pub struct Service {
    channel: Arc<Channel>,
    standing: Arc<Standing>,
    readiness: Arc<Readiness>,
    thread: JoinHandle<Result<(), Fault>>,
}

impl Service {
    /// Waits for the end of the service: `Ok` when the worker hung up or [`stop`](Self::stop) was called.
    ///
    /// # Errors
    /// The [`Fault`] for which the broker ended it.
    pub fn wait(self) -> Result<(), Fault> {
        self.thread.join().unwrap_or_else(|panic| Err(Fault::Panicked(panic_text(&*panic))))
    }

    /// Whether the service has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the worker says that it is ready ([`Client::ready`](crate::Client::ready)), but no longer than so.
    /// The worker is served meanwhile; when it is not ready in time, it still is.
    ///
    /// # Errors
    /// [`NotReady`]: it has not said so in time, or its service has ended without that.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.readiness.wait(timeout)
    }

    /// Whether the worker has said that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.is_declared()
    }

    /// Whether the service has come to its end: to wait for it takes no time then.
    pub(crate) fn is_over(&self) -> bool {
        self.readiness.is_over()
    }

    /// What the worker may have at this moment.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Begins a later [phase](crate::policy::PolicyBuilder::phase). What only earlier ones grant is granted no more,
    /// from the next request that is decided on; to ask for it is a fault ([`Fault::PhaseOver`]). A worker that may
    /// have such a request under way should be told to stop first, or ask for the new phase itself, through a service
    /// that calls [`Call::enter_phase`].
    ///
    /// # Errors
    /// There is no later phase of this name; nothing changes.
    pub fn enter_phase(&self, phase: &str) -> Result<(), NoSuchPhase> {
        self.standing.enter(phase)
    }

    /// Leaves the worker less from now on. A request that is decided after this has returned is decided by what is
    /// left; one that is under way meanwhile, by what was there before or by what is left. Descriptors that the worker
    /// has got stay its own.
    ///
    /// # Errors
    /// It asks for more than the worker holds; nothing changes.
    pub fn narrow(&self, narrowing: &Narrowing) -> Result<(), NotHeld> {
        self.standing.narrow(narrowing)
    }

    /// Ends the service: the worker sees a hang-up, after the replies that it was given. A request that is being
    /// opened at that moment is finished first, and its descriptor closed. Of a batch, no further connection is begun,
    /// and what was not begun is not recorded; so it is when the worker dies.
    pub fn stop(&self) {
        self.channel.shut_down();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}

//! `[broker]` Receive, decode, decide, open, reply: one thread a worker.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::channel::{Channel, Packet, Wait};
use crate::error::{ChannelError, Fault};
use crate::open;
use crate::policy::Policy;
use crate::wire::{Answer, Ask, MAX_MESSAGE, MAX_REPLY, Malformed, Reason, Refusal, Reply, Request};

/// Serves workers, each on a thread of its own, each by its own policy. A worker that is slow, floods, sends garbage or
/// dies is the trouble of its own thread alone.
///
/// `Clone` is cheap, and gives the same broker.
#[derive(Clone)]
pub struct Broker {
    audit: Arc<Audit>,
    reply_timeout: Duration,
}

type Audit = dyn Fn(&Record<'_>) + Send + Sync;

/// Bytes of replies that may wait for a worker (SO_SNDBUF; the kernel counts its own overhead and doubles it). It
/// bounds the descriptors that one worker can have in flight to about a dozen: the kernel counts them for the broker's
/// whole user.
const REPLY_BUFFER: usize = 4 * 1024;

/// How long to wait before asking again whether there is room for a descriptor in flight: the kernel does not tell.
const ROOM_AGAIN: Duration = Duration::from_millis(1);

impl Broker {
    /// A broker without an audit, that waits 10 seconds for a worker to read its replies.
    #[must_use]
    pub fn new() -> Self {
        Self { audit: Arc::new(|_| {}), reply_timeout: Duration::from_secs(10) }
    }

    /// Calls `audit` with one record for every request, and one for the end of every worker's service. It is called on
    /// the worker's thread, after the decision and before the reply; a panic in it ends that worker's service.
    /// `println!` and `eprintln!` panic when they cannot write.
    #[must_use]
    pub fn audit(mut self, audit: impl Fn(&Record<'_>) + Send + Sync + 'static) -> Self {
        self.audit = Arc::new(audit);
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
        mut channel: Channel,
        policy: impl Into<Arc<Policy>>,
    ) -> io::Result<Service> {
        channel.refuse_descriptors()?;
        channel.set_send_timeout(Some(self.reply_timeout))?;
        channel.set_recv_timeout(None)?;
        channel.set_nonblocking(false)?;
        channel.set_send_buffer(REPLY_BUFFER)?;
        let channel = Arc::new(channel);
        let desk = Desk {
            name: name.into(),
            channel: channel.clone(),
            policy: policy.into(),
            audit: self.audit.clone(),
            reply_timeout: self.reply_timeout,
        };
        let thread_name = desk.name.replace('\0', "\u{fffd}");
        let thread = Builder::new().name(thread_name).spawn(move || desk.attend())?;
        Ok(Service { channel, thread })
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("reply_timeout", &self.reply_timeout).finish_non_exhaustive()
    }
}

/// The service of one worker. Dropping it changes nothing: the worker is served until it hangs up.
#[derive(Debug)]
pub struct Service {
    channel: Arc<Channel>,
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

    /// For ending the service from elsewhere while this value waits.
    pub(crate) fn channel(&self) -> Arc<Channel> {
        self.channel.clone()
    }

    /// Ends the service: the worker sees a hang-up, after the replies that it was given. A request that is being
    /// opened at that moment is finished first, and its descriptor closed.
    pub fn stop(&self) {
        self.channel.shut_down();
    }
}

/// One line of the audit.
#[derive(Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// The worker's name, as given to [`Broker::serve`].
    pub worker: &'a str,
    /// What happened.
    pub event: Event<'a>,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request, and its answer.
    Request {
        /// What was asked.
        ask: Ask<'a>,
        /// What is about to be answered.
        answer: Result<(), Refusal>,
    },
    /// A request with a verb that is not in the table; it is refused.
    UnknownVerb(u8),
    /// The service has ended: the worker hung up, or committed a fault.
    End(&'a Result<(), Fault>),
}

/// One line of text, without control bytes from the worker.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.worker)?;
        match &self.event {
            Event::Request { ask, answer: Ok(()) } => write!(f, "{ask}: granted"),
            Event::Request { ask, answer: Err(refusal) } => write!(f, "{ask}: not granted: {refusal}"),
            Event::UnknownVerb(verb) => write!(f, "verb 0x{verb:02x}: refused"),
            Event::End(Ok(())) => write!(f, "end: hung up"),
            Event::End(Err(fault)) => write!(f, "end: {}", fault.to_string().escape_debug()),
        }
    }
}

/// Everything that the thread of one worker needs.
struct Desk {
    name: String,
    channel: Arc<Channel>,
    policy: Arc<Policy>,
    audit: Arc<Audit>,
    reply_timeout: Duration,
}

impl Desk {
    /// Serves, and sees to it that the worker learns of the end however it came.
    fn attend(self) -> Result<(), Fault> {
        let mut end = catch_unwind(AssertUnwindSafe(|| self.serve()))
            .unwrap_or_else(|panic| Err(Fault::Panicked(panic_text(&*panic))));
        self.channel.shut_down();
        let told = catch_unwind(AssertUnwindSafe(|| self.record(Event::End(&end))));
        if let (Err(panic), Ok(())) = (told, &end) {
            end = Err(Fault::Panicked(panic_text(&*panic)));
        }
        end
    }

    fn serve(&self) -> Result<(), Fault> {
        let mut packet = Packet::with_capacity(MAX_MESSAGE);
        loop {
            match self.channel.recv(&mut packet) {
                Ok(()) => {}
                Err(ChannelError::Disconnected) => return Ok(()),
                Err(ChannelError::TooManyDescriptors { .. }) => return Err(Fault::Descriptors),
                Err(ChannelError::TooLarge) => return Err(Malformed::Oversize.into()),
                Err(error) => return Err(Fault::Channel(error)),
            }
            let (id, answer) = match Request::decode(packet.bytes(), packet.fds().len()) {
                Ok(Request { id, ask }) => {
                    let answer = self.answer(&ask);
                    let outcome = answer.as_ref().map(drop).map_err(|refusal| *refusal);
                    self.record(Event::Request { ask, answer: outcome });
                    (id, answer)
                }
                Err(Malformed::UnknownVerb { id, verb }) => {
                    self.record(Event::UnknownVerb(verb));
                    (id, Err(Refusal { reason: Reason::Verb, errno: libc::ENOSYS }))
                }
                Err(malformed) => return Err(malformed.into()),
            };
            match self.reply(id, &answer) {
                Ok(()) => {}
                Err(ChannelError::Disconnected) => return Ok(()),
                Err(ChannelError::TimedOut | ChannelError::Unfinished) => return Err(Fault::Stalled),
                Err(error) => return Err(Fault::Channel(error)),
            }
        }
    }

    fn answer(&self, ask: &Ask<'_>) -> Result<Option<OwnedFd>, Refusal> {
        if *ask == Ask::Hello {
            return Ok(None);
        }
        let permit = self.policy.decide(ask)?;
        open::open(permit).map(Some)
    }

    fn reply(&self, id: u64, answer: &Result<Option<OwnedFd>, Refusal>) -> Result<(), ChannelError> {
        match answer {
            Ok(Some(fd)) => self.grant(id, fd.as_fd()),
            Ok(None) => self.send(Wait::Socket, id, Answer::Granted { descriptors: 0 }, &[]),
            Err(refusal) => self.send(Wait::Socket, id, Answer::Refused(*refusal), &[]),
        }
    }

    /// The kernel counts the descriptors that wait in all queues together for the broker's whole user (K9), so workers
    /// that do not read can leave no room for another's. Who has unread replies is given up after the reply timeout, as
    /// if the queue were full. Who has none waits for that to happen: twice as long, and asks more often than they do,
    /// so as to come first when there is room. If there still is none, that is no fault, and the worker is told.
    fn grant(&self, id: u64, fd: BorrowedFd<'_>) -> Result<(), ChannelError> {
        let mut since = None;
        loop {
            let errno = match self.send(Wait::Queue, id, Answer::Granted { descriptors: 1 }, &[fd]) {
                Err(ChannelError::Congested { source, .. }) => source.raw_os_error().unwrap_or(libc::ETOOMANYREFS),
                done => return done,
            };
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            match self.channel.has_unread()? {
                true if waited < self.reply_timeout => thread::sleep(20 * ROOM_AGAIN),
                true => return Err(ChannelError::TimedOut),
                false if waited < self.reply_timeout.saturating_mul(2) => thread::sleep(ROOM_AGAIN),
                false => {
                    let refusal = Refusal { reason: Reason::Failed, errno };
                    return self.send(Wait::Socket, id, Answer::Refused(refusal), &[]);
                }
            }
        }
    }

    fn send(&self, wait: Wait, id: u64, answer: Answer, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut buffer = [0; MAX_REPLY];
        // Cannot be too long: the buffer holds any reply.
        let len = Reply { id, answer }.encode(&mut buffer).map_err(|_| ChannelError::TooLarge)?;
        self.channel.send_within(wait, &buffer[..len], fds.iter().map(AsRawFd::as_raw_fd))
    }

    fn record(&self, event: Event<'_>) {
        (self.audit)(&Record { worker: &self.name, event });
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}

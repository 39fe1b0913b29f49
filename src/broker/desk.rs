//! `[broker]` One worker's thread: receive, decode, decide, open, reply.

use std::any::Any;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::audit::{Audit, Event};
use super::log::Log;
use super::meter::{Meter, Over};
use super::readiness::Readiness;
use super::{Broker, Call, Gift, Services, panic_text};
use crate::channel::{Channel, Packet, Wait};
use crate::error::{ChannelError, Fault};
use crate::open::{Opened, Opener};
use crate::policy::{Grant, Info, Limits, NotHeld, Permit, Standing, Why};
use crate::sys::{descriptor, socket};
use crate::wire::{
    Answer, AnswersWriter, Ask, Batch, HEADER_LEN, MAX_BATCH, MAX_MESSAGE, MAX_REPLY, Malformed, Reason, Refusal,
    Reply, Request, Rights,
};

/// How long to wait before asking again whether there is room for a descriptor in flight: the kernel does not tell.
const ROOM_AGAIN: Duration = Duration::from_millis(1);

/// Everything that the thread of one worker needs.
pub(super) struct Desk {
    name: String,
    channel: Arc<Channel>,
    standing: Arc<Standing>,
    readiness: Arc<Readiness>,
    audit: Option<Arc<dyn Audit>>,
    services: Services,
    limits: Limits,
    reply_timeout: Duration,
}

impl Desk {
    pub(super) fn new(
        broker: &Broker,
        name: String,
        channel: Arc<Channel>,
        standing: Arc<Standing>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let Broker { audit, services, limits, reply_timeout } = broker.clone();
        Self { name, channel, standing, readiness, audit, services, limits, reply_timeout }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Serves, and sees to it that the worker learns of the end however it came.
    pub(super) fn attend(self) -> Result<(), Fault> {
        let log = Log::new(self.audit.as_deref(), &self.name);
        let mut end = catch_unwind(AssertUnwindSafe(|| self.serve(&log)))
            .unwrap_or_else(|panic| Err(Fault::Panicked(panic_text(&*panic))));
        self.channel.shut_down();
        let told = catch_unwind(AssertUnwindSafe(|| log.end(&end)));
        if let (Err(panic), Ok(())) = (told, &end) {
            end = Err(Fault::Panicked(panic_text(&*panic)));
        }
        self.readiness.end();
        end
    }

    fn serve(&self, log: &Log<'_>) -> Result<(), Fault> {
        if self.standing.policy().is_learning() {
            let name = self.name.escape_debug();
            // Whether or not there is anybody to read it.
            let _ = writeln!(io::stderr(), "fdbroker: LEARNING: EVERYTHING THAT NO RULE DENIES IS GRANTED TO {name}");
        }
        log.write(Event::Start(self.standing.policy().resolver()));
        let mut packet = Packet::with_capacity(MAX_MESSAGE);
        let (mut counter, mut buffers) = (Counter::new(self, log), Buffers::new());
        loop {
            match self.channel.recv(&mut packet) {
                Ok(()) => {}
                Err(ChannelError::Disconnected) => return Ok(()),
                Err(ChannelError::TooManyDescriptors { .. }) => return Err(Fault::Descriptors),
                Err(ChannelError::TooLarge) => return Err(Malformed::Oversize.into()),
                Err(error) => return Err(Fault::Channel(error)),
            }
            let served = match Request::decode(packet.bytes(), packet.fds().len()) {
                Ok(Request { id, ask: Ask::Batch(batch) }) => counter.serve_batch(id, batch, &mut buffers),
                Ok(Request { id, ask }) => counter.serve_one(id, Ok(ask), &mut buffers),
                Err(Malformed::UnknownVerb { id, verb }) => counter.serve_one(id, Err(verb), &mut buffers),
                Err(malformed) => return Err(malformed.into()),
            };
            match served {
                Ok(()) => {}
                Err(End::Reply(ChannelError::Disconnected)) => return Ok(()),
                Err(End::Reply(ChannelError::TimedOut | ChannelError::Unfinished)) => return Err(Fault::Stalled),
                Err(End::Reply(error)) => return Err(Fault::Channel(error)),
                Err(End::Fault(fault)) => return Err(fault),
            }
        }
    }
}

/// Why a worker is served no longer.
enum End {
    /// The reply could not be sent.
    Reply(ChannelError),
    /// There was none to send.
    Fault(Fault),
}

impl From<ChannelError> for End {
    fn from(error: ChannelError) -> Self {
        Self::Reply(error)
    }
}

const UNKNOWN_VERB: Refusal = Refusal { reason: Reason::Verb, errno: libc::ENOSYS };
const NOT_HELD: Refusal = Refusal { reason: Reason::NotHeld, errno: libc::EPERM };
const LIMIT: Refusal = Refusal { reason: Reason::Limit, errno: libc::EAGAIN };

/// Made once, and used for every request.
struct Buffers {
    /// What one request is told.
    data: Box<[u8]>,
    /// The answers to a batch.
    answers: Box<[u8]>,
    /// The reply.
    message: Box<[u8]>,
}

impl Buffers {
    fn new() -> Self {
        let buffer = |len| vec![0; len].into_boxed_slice();
        let body = MAX_REPLY - HEADER_LEN;
        Self { data: buffer(body), answers: buffer(body), message: buffer(MAX_REPLY) }
    }
}

/// Where one worker's requests are served.
struct Counter<'d> {
    desk: &'d Desk,
    log: &'d Log<'d>,
    opener: Opener,
    meter: Meter,
    /// What is granted by the reply that is being made.
    fds: Vec<OwnedFd>,
    /// What came of each of its requests. They are recorded when it has been sent: only then it is known what the
    /// worker was answered.
    served: Vec<Served>,
    /// That of the service that has just been called.
    panic: Option<Box<dyn Any + Send>>,
}

impl<'d> Counter<'d> {
    fn new(desk: &'d Desk, log: &'d Log<'d>) -> Self {
        let (fds, served) = (Vec::with_capacity(MAX_BATCH), Vec::with_capacity(MAX_BATCH));
        Self { desk, log, opener: Opener::new(), meter: Meter::new(desk.limits), fds, served, panic: None }
    }

    /// Of a request with a verb that is not known, there is the verb.
    fn serve_one(&mut self, id: u64, ask: Result<Ask<'_>, u8>, buffers: &mut Buffers) -> Result<(), End> {
        let answered = self.answer_one(id, ask, buffers);
        self.record([ask].into_iter());
        answered
    }

    fn serve_batch(&mut self, id: u64, batch: Batch<'_>, buffers: &mut Buffers) -> Result<(), End> {
        let answered = self.answer_batch(id, batch, buffers);
        self.record(batch.iter());
        answered
    }

    fn answer_one(&mut self, id: u64, ask: Result<Ask<'_>, u8>, buffers: &mut Buffers) -> Result<(), End> {
        let outcome = self.serve(ask, &mut buffers.data)?;
        let descriptors = count(&self.fds);
        let answer = match outcome {
            Ok(len) => Answer::Granted { descriptors, data: &buffers.data[..len] },
            Err(refusal) => Answer::Refused(refusal),
        };
        Ok(self.reply(id, answer, descriptors, &mut buffers.message)?)
    }

    fn answer_batch(&mut self, id: u64, batch: Batch<'_>, buffers: &mut Buffers) -> Result<(), End> {
        let mut answers = AnswersWriter::new(&mut buffers.answers);
        let mut further = batch.len();
        for ask in batch.iter() {
            let waits = matches!(ask, Ok(Ask::Connect(..) | Ask::ConnectName { .. }));
            if waits && socket::is_shut(self.desk.channel.as_fd()).unwrap_or(false) {
                // Stopped, or nobody waits for it any more.
                return Err(ChannelError::Disconnected.into());
            }
            further -= 1;
            let (before, room) = (self.fds.len(), answers.room(further).min(buffers.data.len()));
            let outcome = self.serve(ask, &mut buffers.data[..room])?;
            let descriptors = count(&self.fds[before..]);
            let answer = match outcome {
                Ok(len) => Answer::Granted { descriptors, data: &buffers.data[..len] },
                Err(refusal) => Answer::Refused(refusal),
            };
            // There is room: 253 refusals find it, and data has no more than was left beside them.
            answers.put(answer).map_err(|_| ChannelError::TooLarge)?;
        }
        let (answers, descriptors) = answers.finish();
        Ok(self.reply(id, Answer::Batch(answers), descriptors, &mut buffers.message)?)
    }

    /// One record for each request that was served, in order. `asks` are those of the message.
    fn record<'a>(&mut self, asks: impl Iterator<Item = Result<Ask<'a>, u8>>) {
        for (ask, served) in asks.zip(self.served.drain(..)) {
            let Served { rule, why, not_held, answer, took, .. } = served;
            self.log.write_request(match ask {
                Ok(ask) => {
                    let rule = rule.and_then(|number| self.desk.standing.rule(number));
                    Event::Request { ask, rule, answer, why, not_held: not_held.as_ref(), took }
                }
                Err(verb) => Event::UnknownVerb { verb, refusal: answer.err().unwrap_or(UNKNOWN_VERB) },
            });
        }
    }

    /// Serves one request. What it grants is put behind the descriptors there are; what it tells, into `data`.
    fn serve(&mut self, ask: Result<Ask<'_>, u8>, data: &mut [u8]) -> Result<Result<usize, Refusal>, End> {
        let since = self.log.now();
        let held = self.fds.len();
        let Judged { rule, why, not_held, answer } = match ask {
            Ok(ask) => self.judge_and_open(&ask, data),
            Err(_) => {
                let admitted = self.admit(false);
                Judged::of_no_rule(Err(admitted.err().unwrap_or(UNKNOWN_VERB)))
            }
        };
        if answer.is_err() {
            self.fds.truncate(held);
        }
        self.served.push(Served {
            rule: rule.map(Info::number),
            why,
            not_held,
            answer: answer.map(drop),
            brings: self.fds.len() > held,
            took: since.map(|since| since.elapsed()).unwrap_or_default(),
        });
        if why == Some(Why::PhaseOver) {
            return Err(End::Fault(Fault::PhaseOver));
        }
        if let Some(panic) = self.panic.take() {
            return Err(End::Fault(Fault::Panicked(panic_text(&*panic))));
        }
        Ok(answer)
    }

    fn judge_and_open<'a>(&mut self, ask: &Ask<'a>, data: &mut [u8]) -> Judged<'a>
    where
        'd: 'a,
    {
        let standing: &'d Standing = &self.desk.standing;
        if let Err(over) = self.admit(ask.brings_descriptor()) {
            return Judged::of_no_rule(Err(over));
        }
        if let Ask::Hello = ask {
            return Judged::of_no_rule(Ok(0));
        }
        if let Ask::Ready = ask {
            self.desk.readiness.declare();
            return Judged::of_no_rule(Ok(0));
        }
        if let Ask::Narrow(narrow) = ask {
            let not_held = standing.narrow(&(*narrow).into()).err();
            let answer = if not_held.is_none() { Ok(0) } else { Err(NOT_HELD) };
            return Judged { not_held, ..Judged::of_no_rule(answer) };
        }
        match standing.decide(ask) {
            Err(denial) => {
                Judged { rule: denial.rule(), why: Some(denial.why()), ..Judged::of_no_rule(Err(denial.refusal())) }
            }
            Ok(permit) => {
                let (rule, rules) = (permit.rule(), permit.rules());
                let answer = self.open(permit, data);
                if answer.is_ok() {
                    rules.for_each(|rule| standing.use_up(rule));
                }
                Judged { rule, ..Judged::of_no_rule(answer) }
            }
        }
    }

    /// Counts one request, whatever it is.
    fn admit(&mut self, brings_descriptor: bool) -> Result<(), Refusal> {
        let admitted = self.meter.admit(&self.desk.channel, self.fds.len(), brings_descriptor.into());
        admitted.map_err(|Over| LIMIT)
    }

    fn open(&mut self, permit: Permit<'_>, data: &mut [u8]) -> Result<usize, Refusal> {
        if let Grant::Call { service, rights, bytes } = *permit.grant() {
            return self.call(service, rights, bytes, data);
        }
        match self.opener.open(permit, data)? {
            Opened::Descriptor(fd) => {
                self.fds.push(fd);
                Ok(0)
            }
            Opened::Data(len) => Ok(len),
        }
    }

    fn call(&mut self, service: &[u8], rights: Rights, bytes: &[u8], data: &mut [u8]) -> Result<usize, Refusal> {
        let failed = |errno| Refusal { reason: Reason::Failed, errno };
        let handler = std::str::from_utf8(service).ok().and_then(|name| self.desk.services.get(name));
        // The policy names a service that nobody has registered.
        let handler = handler.ok_or_else(|| failed(libc::ENOSYS))?;
        let call = Call { worker: &self.desk.name, rights, bytes, standing: &self.desk.standing };
        let room = self.meter.room(&self.desk.channel);
        let mut gift = Gift { data, len: 0, fds: &mut self.fds, room };
        // The call is recorded as well as one that fails. What the service may have left half done, it alone can know.
        let error = match catch_unwind(AssertUnwindSafe(|| handler(&call, &mut gift))) {
            Ok(Ok(())) => return Ok(gift.len),
            Ok(Err(error)) => error.raw_os_error(),
            Err(panic) => {
                self.panic = Some(panic);
                None
            }
        };
        Err(failed(error.filter(|errno| (1..=4095).contains(errno)).unwrap_or(libc::EIO)))
    }

    /// Sends the reply with the descriptors there are, which are closed whether it succeeds or not.
    fn reply(&mut self, id: u64, answer: Answer<'_>, descriptors: u16, message: &mut [u8]) -> Result<(), ChannelError> {
        let sent = self.send(id, answer, descriptors, message);
        self.meter.sent(self.fds.len());
        descriptor::close_all(&mut self.fds);
        sent
    }

    /// The kernel counts the descriptors that wait in all queues together for the broker's whole user (K9), so workers
    /// that do not read can leave no room for another's. Who has unread replies is given up after the reply timeout, as
    /// if the queue were full. Who has none waits for that to happen: twice as long, and asks more often than they do,
    /// so as to come first when there is room. If there still is none, that is no fault, and the worker is told.
    fn send(&mut self, id: u64, answer: Answer<'_>, descriptors: u16, message: &mut [u8]) -> Result<(), ChannelError> {
        let Desk { channel, reply_timeout, .. } = self.desk;
        // Cannot be too long: the buffer holds any reply.
        let len = Reply { id, answer }.encode(descriptors, message).map_err(|_| ChannelError::TooLarge)?;
        let fds = self.fds.iter().map(AsRawFd::as_raw_fd);
        if fds.len() == 0 {
            return channel.send_within(Wait::Socket, &message[..len], fds);
        }
        let mut since = None;
        loop {
            let errno = match channel.send_within(Wait::Queue, &message[..len], fds.clone()) {
                Err(ChannelError::Congested { source, .. }) => source.raw_os_error().unwrap_or(libc::ETOOMANYREFS),
                done => return done,
            };
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            match channel.has_unread()? {
                true if waited < *reply_timeout => thread::sleep(20 * ROOM_AGAIN),
                true => return Err(ChannelError::TimedOut),
                false if waited < reply_timeout.saturating_mul(2) => thread::sleep(ROOM_AGAIN),
                false => return self.send_without_room(id, answer, errno, message),
            }
        }
    }

    /// Refuses what would have brought a descriptor, and answers the rest as it was. What grants one time has not been
    /// had by who is refused.
    fn send_without_room(
        &mut self,
        id: u64,
        answer: Answer<'_>,
        errno: i32,
        message: &mut [u8],
    ) -> Result<(), ChannelError> {
        let refusal = Refusal { reason: Reason::Failed, errno };
        for served in self.served.iter_mut().filter(|served| served.brings) {
            served.answer = Err(refusal);
            // A request that brings a descriptor is granted by one rule.
            if let Some(rule) = served.rule.and_then(|number| self.desk.standing.rule(number)) {
                self.desk.standing.give_back(rule);
            }
        }
        let refused = Answer::Refused(refusal);
        let mut buffer;
        let answer = match answer {
            Answer::Batch(answers) => {
                buffer = vec![0; MAX_REPLY - HEADER_LEN];
                let mut writer = AnswersWriter::new(&mut buffer);
                for answer in answers.iter() {
                    let brought = matches!(answer, Answer::Granted { descriptors: 1.., .. });
                    writer.put(if brought { refused } else { answer }).map_err(|_| ChannelError::TooLarge)?;
                }
                Answer::Batch(writer.finish().0)
            }
            _ => refused,
        };
        let len = Reply { id, answer }.encode(0, message).map_err(|_| ChannelError::TooLarge)?;
        self.desk.channel.send_within(Wait::Socket, &message[..len], [].into_iter())
    }
}

/// How one request was judged, and what came of it.
struct Judged<'p> {
    rule: Option<&'p Info>,
    why: Option<Why>,
    not_held: Option<NotHeld>,
    answer: Result<usize, Refusal>,
}

impl Judged<'_> {
    fn of_no_rule(answer: Result<usize, Refusal>) -> Self {
        Self { rule: None, why: None, not_held: None, answer }
    }
}

/// What came of one request. A rule is remembered by its number: the request, which it is found by, does not live as
/// long.
struct Served {
    rule: Option<u32>,
    why: Option<Why>,
    not_held: Option<NotHeld>,
    answer: Result<(), Refusal>,
    /// Whether descriptors go with the answer.
    brings: bool,
    took: Duration,
}

/// There are no more than 253.
fn count(fds: &[OwnedFd]) -> u16 {
    u16::try_from(fds.len()).unwrap_or(u16::MAX)
}

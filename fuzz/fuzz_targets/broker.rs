//! Bytes are a policy of a few rules and what a worker says to its broker: requests, batches, frames that are
//! malformed; and when the broker's side begins a new phase. What the naive model of tests/model denies is refused for
//! its reason; what it grants is done, or fails in the kernel; what is opened is what was named. After each step the
//! descriptors of this process are counted.
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use fdbroker::policy::Why;
use fdbroker::wire::{
    Answer, Ask, Batch, Entries, MAX_MESSAGE, Malformed, Reason, Refusal, Reply, Request, SocketType,
};
use fdbroker::{Broker, Channel, ChannelError, Fault, Packet, Service};
use model::generate::{Choices, OwnedAsk, World};
use model::less::Less;
use model::real::phase_name;
use model::{Life, Model, No};

/// A directory of this process, in memory if there is such a place: it is made anew for each input.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        // SAFETY: the function may be called when the process ends.
        assert_eq!(unsafe { libc::atexit(remove) }, 0);
        World::small(&place.canonicalize().unwrap().join(format!("fdbroker-fuzz-{}", std::process::id())))
    })
}

extern "C" fn remove() {
    let _ = fs::remove_dir_all(&world().root);
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::Bytes(input);
    let _ = fs::remove_dir_all(&world().root);
    world().fill();
    let mut model = world().model(&mut choices, 6);
    while !model.objections().is_empty() {
        model.rules.pop();
    }
    if model.rules.is_empty() {
        return;
    }
    let before = open_descriptors();
    let policy = model.build().unwrap_or_else(|error| panic!("{error}\n{}", model.words()));
    let (theirs, ours) = Channel::pair().unwrap();
    ours.set_recv_timeout(Some(Duration::from_secs(20))).unwrap();
    let broker = Broker::new().service("sign", |call, gift| {
        gift.write(&call.rights().bits().to_le_bytes())?;
        gift.push(fs::File::open("/dev/null")?)
    });
    let service = broker.serve("fuzz", theirs, policy).unwrap();
    let life = Life::new(&model);
    let worker = Worker { model, life, channel: ours, packet: Packet::new(), buffer: vec![0; MAX_MESSAGE], id: 0 };
    worker.live(&mut choices, service);
    assert_eq!(open_descriptors(), before, "after the worker's life");
});

struct Worker {
    model: Model,
    life: Life,
    channel: Channel,
    packet: Packet,
    buffer: Vec<u8>,
    id: u64,
}

impl Worker {
    fn live(mut self, choices: &mut Choices<'_>, service: Service) {
        self.say(Request { id: 0, ask: Ask::Hello }).unwrap();
        let held = open_descriptors();
        let mut end = None;
        while choices.any_left() && end.is_none() {
            end = match choices.below(12) {
                0 if self.life.phase + 1 < self.model.phases => {
                    self.life.phase += 1;
                    service.enter_phase(&phase_name(self.life.phase)).unwrap();
                    None
                }
                1 if choices.percent(60) => {
                    self.narrow(choices, &service);
                    None
                }
                0..=2 => self.batch(choices),
                3 => self.mangled(choices),
                _ => self.one(choices),
            };
            if end.is_none() {
                // The broker has closed what it sent when it answers the next request.
                self.say(Request { id: 0, ask: Ask::Hello }).unwrap();
                assert_eq!(open_descriptors(), held);
            }
        }
        drop(self);
        let ended = service.wait();
        match end {
            None => assert!(matches!(ended, Ok(())), "{ended:?}"),
            Some(End::PhaseOver) => assert!(matches!(ended, Err(Fault::PhaseOver)), "{ended:?}"),
            Some(End::Malformed) => assert!(matches!(ended, Err(Fault::Malformed(_))), "{ended:?}"),
        }
    }

    fn one(&mut self, choices: &mut Choices<'_>) -> Option<End> {
        let owned = world().request(choices, &self.model);
        self.id += 1;
        self.ask(self.id, &owned.ask())
    }

    fn ask(&mut self, id: u64, ask: &Ask<'_>) -> Option<End> {
        let over = self.is_over(ask);
        if !self.is_tame(ask) {
            return None;
        }
        match self.say(Request { id, ask: *ask }) {
            Err(ChannelError::Disconnected) if over => Some(End::PhaseOver),
            Err(error) => panic!("{ask}: {error}\n{}", self.model.words()),
            Ok(()) => {
                assert!(!over, "{ask} was answered\n{}", self.model.words());
                let (bytes, mut fds) = self.take();
                let Reply { id: answered, answer } = Reply::decode(&bytes, fds.len()).unwrap();
                assert_eq!(answered, id);
                self.judge(ask, answer, &mut fds);
                assert!(fds.is_empty(), "{ask}: descriptors that belong to no answer");
                None
            }
        }
    }

    /// By the worker's word, or by the broker's.
    fn narrow(&mut self, choices: &mut Choices<'_>, service: &Service) {
        let less = Less::random(choices, &self.model);
        let succeeded = if choices.percent(50) {
            service.narrow(&less.real()).is_ok()
        } else {
            let mut body = vec![0; MAX_MESSAGE / 2];
            let real = less.real();
            let ask = Ask::Narrow(real.encode(&mut body).unwrap());
            self.say(Request { id: 1, ask }).unwrap();
            match Reply::decode(self.packet.bytes(), 0).unwrap().answer {
                Answer::Granted { descriptors: 0, data: b"" } => true,
                Answer::Refused(Refusal { reason: Reason::NotHeld, .. }) => false,
                other => panic!("{other:?}"),
            }
        };
        self.model.narrow(&mut self.life, &less, succeeded);
    }

    fn batch(&mut self, choices: &mut Choices<'_>) -> Option<End> {
        let owned: Vec<OwnedAsk> = (0..1 + choices.below(6)).map(|_| world().request(choices, &self.model)).collect();
        let fits = |ask: &Ask<'_>| self.is_tame(ask) && !matches!(ask, Ask::Call { .. });
        let asks: Vec<Ask<'_>> = owned.iter().map(OwnedAsk::ask).filter(fits).collect();
        if asks.is_empty() {
            return None;
        }
        let over = asks.iter().any(|ask| self.is_over(ask));
        let mut body = vec![0; MAX_MESSAGE - 1000];
        let Ok(batch) = Batch::encode(asks.iter().copied(), &mut body) else { return None };
        self.id += 1;
        match self.say(Request { id: self.id, ask: Ask::Batch(batch) }) {
            Err(ChannelError::Disconnected) if over => return Some(End::PhaseOver),
            Err(error) => panic!("{error}\n{}", self.model.words()),
            Ok(()) => assert!(!over, "a batch was answered\n{}", self.model.words()),
        }
        let (bytes, mut fds) = self.take();
        let Ok(Reply { id, answer: Answer::Batch(answers) }) = Reply::decode(&bytes, fds.len()) else {
            panic!("no answers to a batch: {bytes:?}");
        };
        assert_eq!((id, answers.iter().count()), (self.id, asks.len()));
        for (ask, answer) in asks.iter().zip(answers.iter()) {
            self.judge(ask, answer, &mut fds);
        }
        assert!(fds.is_empty(), "descriptors that belong to no answer");
        None
    }

    /// A request with some of its bytes changed: one that is malformed, or another request.
    fn mangled(&mut self, choices: &mut Choices<'_>) -> Option<End> {
        let owned = world().request(choices, &self.model);
        self.id += 1;
        let len = Request { id: self.id, ask: owned.ask() }.encode(&mut self.buffer).unwrap_or(0);
        let mut bytes = self.buffer[..len].to_vec();
        for _ in 0..1 + choices.below(3) {
            match choices.below(4) {
                0 => bytes.truncate(choices.below(bytes.len() + 1)),
                1 => bytes.push(u8::try_from(choices.below(256)).unwrap()),
                _ if bytes.is_empty() => {}
                _ => {
                    let place = choices.below(bytes.len().min(40));
                    bytes[place] ^= u8::try_from(choices.below(256)).unwrap();
                }
            }
        }
        match Request::decode(&bytes, 0) {
            _ if bytes.is_empty() => None,
            Ok(Request { ask: Ask::Batch(_) | Ask::Narrow(_) | Ask::Hello | Ask::Ready, .. }) => None,
            Ok(Request { id, ask }) => self.ask(id, &ask),
            Err(malformed) => {
                self.channel.send(&bytes, &[]).unwrap();
                let received = self.channel.recv(&mut self.packet);
                if let Malformed::UnknownVerb { id, .. } = malformed {
                    received.unwrap();
                    let verb = Answer::Refused(Refusal { reason: Reason::Verb, errno: libc::ENOSYS });
                    assert_eq!(Reply::decode(self.packet.bytes(), 0), Ok(Reply { id, answer: verb }));
                    return None;
                }
                assert!(matches!(received, Err(ChannelError::Disconnected)), "{malformed}: {received:?}");
                Some(End::Malformed)
            }
        }
    }

    /// Compares one answer with the model, and takes its descriptors.
    fn judge(&mut self, ask: &Ask<'_>, answer: Answer<'_>, fds: &mut Vec<OwnedFd>) {
        match (self.model.decide(&self.life, ask), answer) {
            (Err(No { reason, errno, .. }), Answer::Refused(refusal)) => {
                assert_eq!(refusal, Refusal { reason, errno }, "{ask}\n{}", self.model.words());
            }
            (Ok(_), Answer::Refused(Refusal { reason: Reason::Failed | Reason::Kind | Reason::Limit, .. })) => {}
            (Ok(rules), Answer::Granted { descriptors, data }) => {
                self.model.use_up(&mut self.life, &rules);
                let call = matches!(ask, Ask::Call { .. });
                assert_eq!(usize::from(descriptors), usize::from(call || ask.brings_descriptor()), "{ask}");
                let fds: Vec<OwnedFd> = fds.drain(..usize::from(descriptors)).collect();
                self.look(ask, &rules, data, &fds);
            }
            (verdict, answer) => panic!("{ask}: {answer:?}, the model: {verdict:?}\n{}", self.model.words()),
        }
    }

    /// What was opened is what was named; what is denied is not listed.
    fn look(&self, ask: &Ask<'_>, rules: &[u32], data: &[u8], fds: &[OwnedFd]) {
        match *ask {
            Ask::Open { path, .. } => {
                let there = fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd())).unwrap();
                let follows = rules.iter().any(|rule| self.model.rules[*rule as usize - 1].follows_links);
                let same = there.as_os_str().as_bytes() == path || (follows && there.starts_with(&world().root));
                assert!(same, "{ask} opened {there:?}\n{}", self.model.words());
            }
            Ask::List { path, .. } => {
                for entry in Entries::decode(data).unwrap().iter() {
                    let inside = [path, b"/", entry.name].concat();
                    let denied = self.model.most_specific(self.life.phase, true, &inside, true);
                    assert_eq!(denied, None, "{ask} tells {}", inside.escape_ascii());
                }
            }
            Ask::Call { rights, .. } => assert_eq!(data, rights.bits().to_le_bytes()),
            _ => {}
        }
    }

    fn is_over(&self, ask: &Ask<'_>) -> bool {
        matches!(self.model.decide(&self.life, ask), Err(No { why: Why::PhaseOver, .. }))
    }

    /// Whether it is answered at once, and by this machine: names are looked up and other hosts are called only in
    /// vain.
    fn is_tame(&self, ask: &Ask<'_>) -> bool {
        use fdbroker::wire::Address::Ip;
        let calls = match ask {
            Ask::ConnectName { .. } => true,
            Ask::Connect(SocketType::Stream, Ip(address)) => !address.ip().is_loopback(),
            _ => false,
        };
        !calls || self.model.decide(&self.life, ask).is_err()
    }

    /// Sends, and receives a reply into the packet.
    fn say(&mut self, request: Request<'_>) -> Result<(), ChannelError> {
        let len = request.encode(&mut self.buffer).expect("it is short enough");
        self.channel.send(&self.buffer[..len], &[])?;
        self.channel.recv(&mut self.packet)
    }

    fn take(&mut self) -> (Vec<u8>, Vec<OwnedFd>) {
        (self.packet.bytes().to_vec(), self.packet.take_fds().collect())
    }
}

/// Why the broker ended the service.
enum End {
    PhaseOver,
    Malformed,
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

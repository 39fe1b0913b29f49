//! Proves that one worker's doings are its own trouble: whatever it sends, or does not read, and however it ends,
//! others are served; and that a worker learns of its broker's end.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::served::{
    Raw, alone, client_of, default_sigpipe, ended, inherited, limit_descriptors, pair_of, raw_of, start,
};
use common::{directory, identity};
use fdbroker::wire::{Access, Ask, Rights};
use fdbroker::{Broker, ChannelError, Client, ClientError, Event, Fault, Kind, Policy, Rule};
use nix::sys::signal::{Signal, raise};

/// What a waiting worker and a patient test have in common: neither takes long.
const PROMPTLY: Duration = Duration::from_secs(20);

fn read(path: &Path) -> Ask<'_> {
    Ask::Open { access: Access::READ, path: path.as_os_str().as_encoded_bytes() }
}

/// A directory of files that hold their own names, and the policy to read them.
fn library() -> (tempfile::TempDir, PathBuf, Arc<Policy>) {
    let (keep, root) = directory();
    for number in 0..10 {
        fs::write(root.join(number.to_string()), number.to_string()).unwrap();
    }
    let policy = Policy::builder().allow(Rule::beneath(&root).read()).build().unwrap();
    (keep, root, Arc::new(policy))
}

/// So many requests, of which each is answered with the right file, or with the right no.
fn use_well(client: &Client, root: &Path, requests: usize) {
    for number in 0..requests {
        match number % 12 {
            10 => assert_eq!(client.read(root.join("absent")).unwrap_err().refusal().unwrap().errno, libc::ENOENT),
            11 => assert_eq!(client.read("/etc/passwd").unwrap_err().refusal().unwrap().errno, libc::EACCES),
            number => {
                let file = client.read(root.join(number.to_string())).unwrap();
                assert_eq!(identity(&file), identity(fs::File::open(root.join(number.to_string())).unwrap()));
                assert_eq!(io::read_to_string(file).unwrap(), number.to_string());
            }
        }
    }
}

/// Sends requests and reads nothing, until it is hung up on.
fn flood(raw: &Raw, path: &Path) {
    let mut bytes = vec![0; 4096];
    let len = fdbroker::wire::Request { id: 1, ask: read(path) }.encode(&mut bytes).unwrap();
    loop {
        match raw.channel.send(&bytes[..len], &[]) {
            Ok(()) => {}
            Err(ChannelError::Disconnected) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// P-20: a worker that never reads its replies is given up after the reply timeout, and meanwhile holds nobody else up.
#[test]
fn p_20_a_worker_that_never_reads() {
    let (_keep, root, policy) = library();
    let broker = Broker::new().reply_timeout(Duration::from_millis(200));
    let (stalled, silent) = raw_of(&broker, policy.clone());
    let (service, client) = client_of(&broker, policy);
    thread::scope(|scope| {
        scope.spawn(|| flood(&silent, &root.join("0")));
        use_well(&client, &root, 1000);
    });
    let fault = ended(stalled);
    assert!(matches!(fault, Err(Fault::Stalled)), "{fault:?}");
    use_well(&client, &root, 10);
    drop(client);
    ended(service).unwrap();
}

/// L-02: the broker dies while a worker waits for its answer: the call returns an error at once, no signal comes, and
/// so do later calls.
#[test]
fn l_02_the_broker_dies_while_the_worker_waits() {
    const NAME: &str = "l_02_the_broker_dies_while_the_worker_waits";
    if common::role().as_deref() == Some("broker") {
        return mortal_broker();
    }
    if !alone(NAME) {
        return;
    }
    default_sigpipe();
    let (mut broker, channel) = start(NAME, "broker");
    let client = Client::new(channel);
    client.read("/etc/passwd").unwrap();
    let started = Instant::now();
    is_disconnected(client.call(DEADLY, Rights::NONE, b""));
    assert!(started.elapsed() < PROMPTLY);
    assert_eq!(broker.wait().signal(), Some(libc::SIGKILL));
    is_disconnected(client.read("/etc/passwd"));
    is_disconnected(client.hello());
}

/// L-02: the broker is dead before the worker asks: the same, for a client and for a bare channel.
#[test]
fn l_02_the_broker_is_dead_before_the_worker_asks() {
    const NAME: &str = "l_02_the_broker_is_dead_before_the_worker_asks";
    if common::role().as_deref() == Some("broker") {
        return mortal_broker();
    }
    if !alone(NAME) {
        return;
    }
    default_sigpipe();
    for bare in [false, true] {
        let (mut broker, channel) = start(NAME, "broker");
        let mut raw = Raw::new(channel);
        assert!(raw.ask(read(Path::new("/etc/passwd"))).unwrap().is_some());
        broker.0.kill().unwrap();
        assert_eq!(broker.wait().signal(), Some(libc::SIGKILL));
        if bare {
            assert!(matches!(raw.channel.send(b"anybody?", &[]), Err(ChannelError::Disconnected)));
            assert!(matches!(raw.reply(), Err(ChannelError::Disconnected)));
        } else {
            let client = Client::new(raw.channel);
            is_disconnected(client.read("/etc/passwd"));
            is_disconnected(client.scratch());
        }
    }
    // Of the two kinds, the kernel raises SIGPIPE for a stream.
    let (theirs, ours) = pair_of(Kind::Stream);
    drop(theirs);
    is_disconnected(Client::new(ours).read("/etc/passwd"));
}

/// A call of this service is the broker's death.
const DEADLY: &str = "deadly";

fn mortal_broker() {
    let rules = Policy::builder().allow(Rule::file("/etc/passwd").read()).allow(Rule::service(DEADLY));
    let policy = rules.build().unwrap();
    let broker = Broker::new().service(DEADLY, |_, _| Ok(raise(Signal::SIGKILL)?));
    broker.serve("worker", inherited(), policy).unwrap().wait().unwrap();
}

#[track_caller]
fn is_disconnected<T>(result: Result<T, ClientError>) {
    let Err(error) = result else { panic!("granted by nobody") };
    let text = error.to_string();
    assert!(matches!(error, ClientError::Channel { source: ChannelError::Disconnected, .. }), "{text}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::BrokenPipe);
}

/// L-04: garbage from one worker, at any time, changes nothing for the requests of another that are under way.
#[test]
fn l_04_garbage_from_one_is_nothing_to_another() {
    let (_keep, root, policy) = library();
    let broker = Broker::new();
    let (other_service, mut other) = raw_of(&broker, policy.clone());
    for round in 0..100 {
        let (service, raw) = raw_of(&broker, policy.clone());
        let path = root.join((round % 10).to_string());
        let asked: Vec<u64> = (0..10).map(|_| other.send(read(&path))).collect();
        raw.send_bytes(&[0xff; 40][..=round % 40]).unwrap();
        assert!(matches!(ended(service), Err(Fault::Malformed(_))));
        for id in asked {
            let reply = other.reply().unwrap();
            assert_eq!(reply.id, id);
            assert_eq!(identity(reply.fd.unwrap()), identity(fs::File::open(&path).unwrap()));
        }
    }
    drop(other);
    ended(other_service).unwrap();
}

/// L-09: a panic in the service of one worker ends that service, and tells why; that worker sees a hang-up, and others
/// are served.
#[test]
fn l_09_a_panic_is_one_workers_end() {
    let (_keep, root, policy) = library();
    let ends = Arc::new(AtomicUsize::new(0));
    let told = ends.clone();
    let broker = Broker::new().audit(move |record| match &record.event {
        Event::Request { ask: Ask::Scratch, .. } => panic!("as this test wants it, for {}", record.worker),
        Event::End(Err(Fault::Panicked(_))) => drop(told.fetch_add(1, Ordering::Relaxed)),
        _ => {}
    });
    let (other_service, other) = client_of(&broker, policy.clone());
    for round in 1..=5 {
        let (service, client) = client_of(&broker, policy.clone());
        use_well(&client, &root, 20);
        // A record says what has been answered.
        assert!(client.scratch().unwrap_err().refusal().is_some());
        is_disconnected(client.hello());
        match ended(service) {
            Err(Fault::Panicked(text)) => assert_eq!(text, "as this test wants it, for client"),
            other => panic!("{other:?}"),
        }
        assert_eq!(ends.load(Ordering::Relaxed), round, "the end was recorded");
        use_well(&other, &root, 20);
    }
    drop(other);
    ended(other_service).unwrap();
}

/// L-09: a panic when the end is recorded is told too, and the worker has its hang-up before it.
#[test]
fn l_09_a_panic_at_the_end() {
    let (_keep, root, policy) = library();
    let broker = Broker::new().audit(|record| assert!(!matches!(record.event, Event::End(_)), "at the end"));
    let (service, client) = client_of(&broker, policy.clone());
    use_well(&client, &root, 20);
    drop(client);
    assert!(matches!(ended(service), Err(Fault::Panicked(text)) if text == "at the end"));
    let (service, raw) = raw_of(&broker, policy);
    raw.send_bytes(b"garbage").unwrap();
    assert!(matches!(ended(service), Err(Fault::Malformed(_))), "the first fault is the one told");
}

/// L-03: a service ends when its worker's channel is closed, and when it is stopped: with the replies given before.
#[test]
fn l_03_a_service_ends_with_its_worker_or_when_it_is_stopped() {
    let (_keep, root, policy) = library();
    let (service, client) = client_of(&Broker::new(), policy.clone());
    use_well(&client, &root, 5);
    assert!(!service.is_finished());
    drop(client);
    ended(service).unwrap();

    let (service, client) = client_of(&Broker::new(), policy);
    use_well(&client, &root, 5);
    service.stop();
    is_disconnected(client.read(root.join("0")));
    ended(service).unwrap();
}

/// P-20, L-04, P-21: beside workers that send garbage, flood, never read and die in the middle of a request, all of
/// them again and again, a well-behaved one has each of 2,000 requests answered as if it were alone.
#[test]
fn p_20_l_04_p_21_hostile_workers_harm_no_other() {
    const NAME: &str = "p_20_l_04_p_21_hostile_workers_harm_no_other";
    if common::role().as_deref() == Some("dies") {
        return die_in_the_middle();
    }
    let (_keep, root, policy) = library();
    let broker = Broker::new().reply_timeout(Duration::from_millis(100));
    let done = AtomicBool::new(false);
    let (service, client) = client_of(&broker, policy.clone());
    let again = |hostile: &dyn Fn(u64)| {
        let mut times = 0;
        while !done.load(Ordering::Relaxed) || times == 0 {
            hostile(times);
            times += 1;
        }
        times
    };
    let garbage = |seed| {
        let (service, raw) = raw_of(&broker, policy.clone());
        let bytes: Vec<u8> = noise(seed).take(1 + (seed % 300) as usize).collect();
        raw.send_bytes(&bytes).unwrap();
        assert!(matches!(ended(service), Err(Fault::Malformed(_))));
    };
    let floods = |_| {
        let (service, mut raw) = raw_of(&broker, policy.clone());
        let path = root.join("3");
        for _ in 0..200 {
            for _ in 0..8 {
                raw.send(read(&path));
            }
            for _ in 0..8 {
                raw.reply().unwrap();
            }
        }
        drop(raw);
        ended(service).unwrap();
    };
    let never_reads = |_| {
        let (service, raw) = raw_of(&broker, policy.clone());
        flood(&raw, &root.join("5"));
        assert!(matches!(ended(service), Err(Fault::Stalled)));
    };
    let dies = |_| {
        let (mut process, channel) = start(NAME, "dies");
        let service = broker.serve("dies", channel, policy.clone()).unwrap();
        assert_eq!(process.wait().signal(), Some(libc::SIGKILL));
        ended(service).unwrap();
    };
    let times = thread::scope(|scope| {
        let hostile: [&(dyn Fn(u64) + Sync); 4] = [&garbage, &floods, &never_reads, &dies];
        let again = &again;
        let threads = hostile.map(|hostile| scope.spawn(move || again(&hostile)));
        // Whatever happens to it, the hostile ones are told to stop.
        let well = scope.spawn(|| use_well(&client, &root, 2000)).join();
        done.store(true, Ordering::Relaxed);
        let times = threads.map(|thread| thread.join().unwrap());
        well.unwrap();
        times
    });
    eprintln!("P-20: 2000 requests were right beside [garbage, floods, never reads, dies] x {times:?}");
    drop(client);
    ended(service).unwrap();
}

/// Bytes without meaning: xorshift.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
}

fn die_in_the_middle() {
    let mut raw = Raw::new(inherited());
    for _ in 0..5 {
        raw.send(read(Path::new("/etc/passwd")));
    }
    raw.reply().unwrap();
    raise(Signal::SIGKILL).unwrap();
}

/// F-09: descriptors in flight count for the broker's whole user (K9): while a crowd of workers that never read
/// exhausts what an ordinary user may have in flight, another worker's requests wait, or are told ETOOMANYREFS, and its
/// service goes on; once the crowd is given up and killed, each is granted.
#[test]
fn f_09_workers_that_never_read_do_not_exhaust_the_brokers_user() {
    if !alone("f_09_workers_that_never_read_do_not_exhaust_the_brokers_user") {
        return;
    }
    let (_keep, root, policy) = library();
    if nix::unistd::geteuid().is_root() {
        // A user that nobody else is, so that what is in flight is this test's.
        let own = 200_000 + std::process::id();
        nix::unistd::setresuid(own.into(), own.into(), own.into()).unwrap();
    }
    limit_descriptors(256);
    let broker = Broker::new().reply_timeout(Duration::from_millis(500));
    let (service, client) = client_of(&broker, policy.clone());
    thread::scope(|scope| {
        for _ in 0..16 {
            let (stalled, raw) = raw_of(&broker, policy.clone());
            scope.spawn(|| {
                flood(&raw, &root.join("7"));
                assert!(matches!(ended(stalled), Err(Fault::Stalled)));
                // A program kills a worker at fault. Until then what it has not read stays in flight (K28).
                drop(raw);
            });
        }
        for _ in 0..2000 {
            match client.read(root.join("1")) {
                Ok(file) => assert_eq!(io::read_to_string(file).unwrap(), "1"),
                Err(error) => assert_eq!(error.refusal().expect("an answer").errno, libc::ETOOMANYREFS),
            }
        }
    });
    use_well(&client, &root, 100);
    drop(client);
    ended(service).unwrap();
}

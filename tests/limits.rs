//! What one worker may ask at a time: over it, it is told so, and nobody else feels it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use common::directory;
use common::served::{PATIENCE, Raw, client_of, ended, raw_of};
use fdbroker::wire::{Access, Answer, Ask, Batch, MAX_MESSAGE, MAX_REPLY, Reason, Refusal, Reply, Request};
use fdbroker::{Broker, Event, Fault, Limits, Packet, Policy, Record, Rule};

const LIMIT: Refusal = Refusal { reason: Reason::Limit, errno: libc::EAGAIN };

fn number(number: u32) -> NonZeroU32 {
    number.try_into().unwrap()
}

/// A directory with one file, and what the tests ask of it.
struct Place {
    _keep: tempfile::TempDir,
    root: PathBuf,
    file: PathBuf,
}

impl Place {
    fn make() -> Self {
        let (keep, root) = directory();
        let file = root.join("file");
        fs::write(&file, b"file").unwrap();
        Self { _keep: keep, root, file }
    }

    fn policy(&self) -> Policy {
        Policy::builder().allow(Rule::beneath(&self.root).read().stat().list().readlink()).build().unwrap()
    }

    fn read(&self) -> Ask<'_> {
        Ask::Open { access: Access::READ, path: bytes(&self.file) }
    }

    fn stat(&self) -> Ask<'_> {
        Ask::Stat(bytes(&self.file))
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A broker that says each request's answer, whether or not the worker reads it.
fn telling(limits: Limits) -> (Broker, Receiver<Result<(), Refusal>>) {
    let (tell, told) = mpsc::channel();
    let broker = Broker::new().limits(limits).audit(move |record: &Record<'_>| {
        if let Event::Request { answer, .. } = record.event {
            let _ = tell.send(answer);
        }
    });
    (broker, told)
}

fn answered(told: &Receiver<Result<(), Refusal>>, count: usize) -> Vec<Result<(), Refusal>> {
    (0..count).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect()
}

/// Another worker of the same broker, which is served.
fn another_is_served(broker: &Broker, place: &Place) {
    let (service, client) = client_of(broker, place.policy());
    assert_eq!(io::read_to_string(client.read(&place.file).unwrap()).unwrap(), "file");
    drop(client);
    ended(service).unwrap();
}

/// P-20: requests whose replies are not read are served up to the limit, and refused beyond it until all are read.
#[test]
fn p_20_requests_in_flight() {
    let place = Place::make();
    let (broker, told) = telling(Limits::new().requests_in_flight(number(3)));
    let (_service, mut raw) = raw_of(&broker, place.policy());
    for _ in 0..3 {
        (0..6).for_each(|_| _ = raw.send(place.stat()));
        let answers = answered(&told, 6);
        assert_eq!(answers, [vec![Ok(()); 3], vec![Err(LIMIT); 3]].concat());
        another_is_served(&broker, &place);
        answered(&told, 1);
        // One that is read is not all of them.
        assert!(raw.reply().unwrap().answer.is_ok());
        raw.send(place.stat());
        assert_eq!(answered(&told, 1), [Err(LIMIT)]);
        let rest: Vec<_> = (0..6).map(|_| raw.reply().unwrap().answer.map(drop)).collect();
        assert_eq!(rest, [vec![Ok(()); 2], vec![Err(LIMIT); 4]].concat());
    }
    for _ in 0..20 {
        assert_eq!(raw.told(place.stat()).unwrap().len(), 56, "who reads each reply is never over it");
    }
}

/// P-20, F-09: descriptors that are not received are granted up to the limit; what needs none is served still.
#[test]
fn p_20_f_09_descriptors_outstanding() {
    let place = Place::make();
    let (broker, told) = telling(Limits::new().descriptors_outstanding(number(4)));
    let (_service, mut raw) = raw_of(&broker, place.policy());
    for _ in 0..3 {
        (0..6).for_each(|_| _ = raw.send(place.read()));
        raw.send(place.stat());
        let answers = answered(&told, 7);
        assert_eq!(answers, [vec![Ok(()); 4], vec![Err(LIMIT); 2], vec![Ok(())]].concat());
        another_is_served(&broker, &place);
        answered(&told, 1);
        let replies: Vec<_> = (0..7).map(|_| raw.reply().unwrap()).collect();
        let brought = replies.iter().map(|reply| reply.fd.is_some());
        assert_eq!(brought.collect::<Vec<_>>(), [true, true, true, true, false, false, false]);
    }
    (0..20).for_each(|_| drop(raw.ask(place.read()).unwrap().unwrap()));
}

/// P-20: with the default limits as many descriptors are outstanding as one message can carry.
#[test]
fn p_20_descriptors_outstanding_by_default() {
    common::alone("p_20_descriptors_outstanding_by_default", || {
        let place = Place::make();
        let (broker, told) = telling(Limits::default());
        let (_service, mut raw) = raw_of(&broker, place.policy());
        for turn in 0..300 {
            raw.send(place.read());
            assert_eq!(answered(&told, 1), [Ok(())], "{turn}");
            drop(raw.reply().unwrap().fd.unwrap());
        }
        let mut buffer = vec![0; MAX_MESSAGE];
        raw.channel.set_max_fds(253);
        let all = Batch::encode(vec![place.read(); 253], &mut buffer).unwrap();
        raw.send(Ask::Batch(all));
        assert_eq!(answered(&told, 253), vec![Ok(()); 253]);
        raw.send(place.read());
        assert_eq!(answered(&told, 1), [Err(LIMIT)]);
        let mut packet = Packet::new();
        raw.channel.recv(&mut packet).unwrap();
        assert_eq!(packet.take_fds().count(), 253);
        assert_eq!(raw.reply().unwrap().answer, Err(LIMIT));
        drop(raw.ask(place.read()).unwrap().unwrap());
    });
}

/// P-20: more requests than a second's worth are refused, as an error that says "later", and later they are served; a
/// second's worth may come at once, and no more in the long run.
#[test]
fn p_20_requests_per_second() {
    let place = Place::make();
    let broker = Broker::new().limits(Limits::new().requests_per_second(number(2)));
    let (_service, client) = client_of(&broker, place.policy());
    let since = Instant::now();
    let (mut granted, mut refused) = (0, 0);
    while granted < 5 {
        match client.stat(&place.file) {
            Ok(_) => granted += 1,
            Err(error) => {
                assert_eq!(error.refusal(), Some(LIMIT));
                assert_eq!(io::Error::from(error).kind(), io::ErrorKind::WouldBlock);
                refused += 1;
            }
        }
        if granted == 2 {
            // Another has its own seconds.
            another_is_served(&broker, &place);
        }
        assert!(since.elapsed() < PATIENCE);
    }
    // Two at once, and three more at two a second.
    assert!(since.elapsed() >= Duration::from_millis(1400), "{:?}", since.elapsed());
    assert!(refused > 0);
}

/// Puts another verb in the place of a message's.
fn unknown(raw: &Raw) {
    let mut message = [0; 20];
    let len = Request { id: 1, ask: Ask::Hello }.encode(&mut message).unwrap();
    message[3] = 0x7f;
    assert_eq!(raw.send_bytes(&message[..len]), Ok(20));
}

/// P-20: greetings and verbs that nobody knows are requests as others are, alone and in a batch: over a limit they are
/// refused as over it, and recorded so. One a second is enough to be greeted.
#[test]
fn p_20_greetings_and_unknown_verbs_count() {
    let place = Place::make();
    let (tell, told) = mpsc::channel();
    let broker = move |limits| {
        let tell = tell.clone();
        Broker::new().limits(limits).audit(move |record: &Record<'_>| {
            if let Event::UnknownVerb { refusal, .. } = record.event {
                let _ = tell.send(refusal.reason);
            }
        })
    };
    let told = |count: usize| (0..count).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect::<Vec<_>>();

    // Two in flight: those behind them are over the limit.
    let (_service, mut raw) = raw_of(&broker(Limits::new().requests_in_flight(number(2))), place.policy());
    for _ in 0..2 {
        raw.send(Ask::Hello);
        unknown(&raw);
    }
    // Before any reply is read.
    assert_eq!(told(2), [Reason::Verb, Reason::Limit]);
    let answers = [(); 4].map(|()| raw.reply().unwrap().answer.map_err(|refusal| refusal.reason));
    assert_eq!(answers, [Ok(vec![]), Err(Reason::Verb), Err(Reason::Limit), Err(Reason::Limit)]);

    // One a second, and one at once: so many may not be over it.
    let most = |since: Instant| 2 + usize::try_from(since.elapsed().as_secs()).unwrap();
    let once = Limits::new().requests_per_second(number(1));
    let since = Instant::now();
    let (_service, mut raw) = raw_of(&broker(once), place.policy());
    raw.ask(Ask::Hello).unwrap();
    for _ in 0..20 {
        raw.send(Ask::Hello);
        unknown(&raw);
    }
    let answers = [(); 40].map(|()| raw.reply().unwrap().answer);
    let served = answers.iter().filter(|answer| **answer != Err(LIMIT)).count();
    assert!(served < most(since), "{served}");
    let verbs = told(20).into_iter().filter(|reason| *reason == Reason::Verb).count();
    assert_eq!(verbs, answers.iter().filter(|answer| matches!(answer, Err(refusal) if *refusal != LIMIT)).count());

    // Within a batch.
    let since = Instant::now();
    let (_service, raw) = raw_of(&broker(once), place.policy());
    let header = [&b"fb\x01\x40\x07\0\0\0\0\0\0\0"[..], &[200, 0, 0, 0], &[0; 4]].concat();
    let item = [0x7f, 0, 0, 0];
    raw.send_bytes(&[header, item.repeat(50)].concat()).unwrap();
    let mut packet = Packet::new();
    raw.channel.recv(&mut packet).unwrap();
    let Answer::Batch(answers) = Reply::decode(packet.bytes(), 0).unwrap().answer else { panic!() };
    let served = answers.iter().filter(|answer| *answer != Answer::Refused(LIMIT)).count();
    assert!((1..most(since)).contains(&served), "{served} of 50");
}

/// P-20: each request of a batch counts.
#[test]
fn p_20_requests_per_second_within_a_batch() {
    let place = Place::make();
    let broker = Broker::new().limits(Limits::new().requests_per_second(number(3)));
    let (_service, mut raw) = raw_of(&broker, place.policy());
    let mut buffer = vec![0; MAX_MESSAGE];
    // What is not used is not saved up.
    std::thread::sleep(Duration::from_secs(2));
    let since = Instant::now();
    raw.send(Ask::Batch(Batch::encode(vec![place.stat(); 200], &mut buffer).unwrap()));
    let mut packet = Packet::new();
    raw.channel.recv(&mut packet).unwrap();
    let most = 4 + usize::try_from(3 * since.elapsed().as_millis() / 1000).unwrap();
    let Answer::Batch(answers) = Reply::decode(packet.bytes(), 0).unwrap().answer else { panic!() };
    let answers: Vec<_> = answers.iter().collect();
    let granted = |answer: &Answer<'_>| matches!(answer, Answer::Granted { descriptors: 0, data } if data.len() == 56);
    assert!(answers[..3].iter().all(granted));
    let granted = answers.iter().filter(|answer| granted(answer)).count();
    assert!(granted <= most, "{granted} in {:?}", since.elapsed());
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Refused(LIMIT)).count(), 200 - granted);
}

/// P-20: a worker that does not read is waited for as long as the broker waits, and is given up then, while others are
/// served. The more of its queue is allowed, the more it is answered before.
#[test]
fn p_20_bytes_queued() {
    let place = Place::make();
    let link = place.root.join("link");
    std::os::unix::fs::symlink("t".repeat(1000), &link).unwrap();
    let mut answers = [0, 0];
    for (limit, answers) in [0, 96 * 1024].into_iter().zip(&mut answers) {
        let (broker, told) = telling(Limits::new().bytes_queued(limit));
        let broker = broker.reply_timeout(Duration::from_millis(300));
        let (service, raw) = raw_of(&broker, place.policy());
        let path = [&b"fb\x01\x14\x01\0\0\0\0\0\0\0"[..], &[u8::try_from(bytes(&link).len()).unwrap(), 0, 0, 0]];
        let request = [&path.concat()[..], &[0; 4], bytes(&link)].concat();
        // Until the broker has hung up, or its own queue is full and it is about to.
        raw.channel.set_send_timeout(Some(Duration::from_secs(5))).unwrap();
        while raw.send_bytes(&request).is_ok() {}
        another_is_served(&broker, &place);
        let fault = ended(service).unwrap_err();
        assert!(matches!(fault, Fault::Stalled), "{fault}");
        *answers = told.try_iter().count();
        drop(raw);
    }
    let [few, many] = answers;
    assert!(few >= 10, "16 KiB at least: {few}");
    assert!(many > 2 * few, "{few} in 16 KiB, {many} in 96 KiB");
}

/// P-20: the smallest queue holds the largest reply.
#[test]
fn p_20_the_largest_reply_in_the_smallest_queue() {
    let place = Place::make();
    for number in 0..200 {
        fs::write(place.root.join(format!("{number:0>200}")), b"").unwrap();
    }
    let (broker, _told) = telling(Limits::new().bytes_queued(1));
    let (_service, client) = client_of(&broker, place.policy());
    assert_eq!(client.list(&place.root).unwrap().len(), 201);
    let policy = Policy::builder().allow(Rule::service("all")).build().unwrap();
    let broker = broker.service("all", |_, gift| gift.write(&[7; MAX_REPLY - 20]));
    let (_service, client) = client_of(&broker, policy);
    assert_eq!(client.call("all", fdbroker::wire::Rights::NONE, b"").unwrap().bytes.len(), MAX_REPLY - 20);
}

/// P-20: twenty requests of one worker over every limit, and each other worker of the broker is served as ever.
#[test]
fn p_20_greed_is_its_own_trouble() {
    let place = Place::make();
    let limits = Limits::new().requests_in_flight(number(1)).descriptors_outstanding(number(1));
    let (broker, told) = telling(limits.requests_per_second(number(50)));
    let (service, mut greedy): (_, Raw) = raw_of(&broker, place.policy());
    (0..20).for_each(|_| _ = greedy.send(place.read()));
    let answers = answered(&told, 20);
    assert_eq!(answers[0], Ok(()));
    assert_eq!(answers[1..], vec![Err(LIMIT); 19]);
    for _ in 0..5 {
        another_is_served(&broker, &place);
    }
    let replies: Vec<_> = (0..20).map(|_| greedy.reply().unwrap()).collect();
    assert!(replies[0].fd.is_some() && replies[1..].iter().all(|reply| reply.answer == Err(LIMIT)));
    drop(greedy);
    ended(service).unwrap();
}

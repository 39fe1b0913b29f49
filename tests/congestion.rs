//! Descriptors in flight: when the kernel has no room for more of them that is waited for, not a failure; and a socket
//! that travels through itself does not stay for ever.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::served::{client_of, ended};
use fdbroker::wire::Reason;
use fdbroker::{Broker, Channel, ChannelError, ClientError, Event, Kind, Packet, Policy, Record, Rule};
use nix::unistd::{Gid, Uid, setgid, setuid};

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
/// Long enough for any machine; a test that waits for it fails.
const LONG: Duration = Duration::from_secs(60);
/// Passes in every run of the tests that wait for it.
const SHORT: Duration = Duration::from_millis(50);
/// Descriptors that a process of these tests can have, and its user in flight.
const LIMIT: usize = 64;
const EACH: usize = 16;

fn pair(kind: Kind) -> (Channel, Channel) {
    let (sender, receiver) = Channel::pair_of(kind).unwrap();
    sender.set_send_timeout(Some(LONG)).unwrap();
    receiver.set_recv_timeout(Some(LONG)).unwrap();
    (sender, receiver)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// One test of this file after the other: without root they are of one user, and would wait for each other's
/// descriptors.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As a user for whom the kernel counts: root is exempt. One of its own, where there is a choice, so that the
/// descriptors of others do not count.
fn as_ordinary_user(offset: u32) {
    if common::is_root() {
        setgid(Gid::from_raw(65534)).unwrap();
        setuid(Uid::from_raw(61_000 + offset)).unwrap();
    }
}

/// Numbered messages with 16 descriptors each, as many as the kernel takes, and its answer to the next. It is this
/// process's own congestion: that of others of this user is waited for.
fn congest(sender: &Channel, null: &File) -> (u32, ChannelError) {
    let mut taken = 0;
    let late = Instant::now() + LONG;
    loop {
        match sender.try_send(&taken_bytes(taken), &[null.as_fd(); EACH]) {
            Ok(()) => taken += 1,
            Err(error) if taken as usize * EACH > LIMIT => return (taken, error),
            Err(error) => assert!(is_congested(&Err(error)) && Instant::now() < late),
        }
        assert!(taken < 1000, "the kernel takes any number of descriptors in flight");
    }
}

fn taken_bytes(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

fn is_congested(result: &Result<(), ChannelError>) -> bool {
    matches!(result, Err(ChannelError::Congested { source, .. }) if source.raw_os_error() == Some(libc::ETOOMANYREFS))
}

/// Receives the numbered messages `from..to`, each whole.
fn receive(receiver: &Channel, from: u32, to: u32) {
    let mut packet = Packet::new();
    for number in from..to {
        receiver.recv(&mut packet).unwrap();
        assert_eq!((packet.bytes(), packet.fds().len()), (&taken_bytes(number)[..], EACH));
    }
}

/// H-17, K9: too many descriptors in flight are "congested" for a call that does not wait, at once; for one with a
/// deadline or a timeout when that has passed; on every channel of this user; and not for messages without descriptors.
/// Nothing is lost.
#[test]
fn h_17_k9_congested() {
    let _turn = turn();
    common::alone_with(LIMIT, "h_17_k9_congested", || {
        as_ordinary_user(1);
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let (other_sender, other_receiver) = pair(kind);
            let (taken, error) = congest(&sender, &null);
            assert!(is_congested(&Err(error)), "{kind:?}");
            assert!(taken as usize * EACH <= LIMIT + EACH, "{kind:?}: {taken}");

            for channel in [&sender, &other_sender] {
                let fds = [null.as_fd()];
                for (wait, turn) in [Duration::ZERO, SHORT].into_iter().zip(0..) {
                    let start = Instant::now();
                    let result = channel.send_deadline(b"late", &fds, start + wait);
                    assert!(is_congested(&result) && start.elapsed() >= wait, "{kind:?}, {turn}: {result:?}");
                }
                channel.set_send_timeout(Some(SHORT)).unwrap();
                let start = Instant::now();
                let result = channel.send(b"late", &fds);
                assert!(is_congested(&result) && start.elapsed() >= SHORT - common::TICK, "{kind:?}: {result:?}");
                channel.set_send_timeout(Some(LONG)).unwrap();
                channel.set_nonblocking(true).unwrap();
                let result = channel.send(b"late", &fds);
                assert!(is_congested(&result), "{kind:?}: {result:?}");
                channel.set_nonblocking(false).unwrap();
                let mut given = vec![OwnedFd::from(null.try_clone().unwrap())];
                assert!(is_congested(&channel.send_deadline(b"late", &fds, Instant::now())));
                channel.set_send_timeout(Some(Duration::from_micros(1))).unwrap();
                assert!(is_congested(&channel.give(b"late", &mut given)) && given.len() == 1, "{kind:?}");
                channel.set_send_timeout(Some(LONG)).unwrap();
            }
            other_sender.send(b"plain", &[]).unwrap();
            let mut packet = Packet::new();
            other_receiver.recv(&mut packet).unwrap();
            assert_eq!(packet.bytes(), b"plain");
            assert!(matches!(other_receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)));

            receive(&receiver, 0, taken);
            assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "{kind:?}");
            sender.send(b"goes on", &[null.as_fd(); EACH]).unwrap();
            receiver.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"goes on"[..], EACH), "{kind:?}");
        }
    });
}

/// H-17, K9: a send that blocks, one with a deadline and one of many descriptors wait while there are too many in
/// flight, and go through when somebody receives; everything arrives once and in order.
#[test]
fn h_17_k9_waits_for_room() {
    let _turn = turn();
    common::alone_with(LIMIT, "h_17_k9_waits_for_room", || {
        as_ordinary_user(2);
        let null = null();
        for kind in KINDS {
            for deadline in [false, true] {
                let (sender, receiver) = pair(kind);
                let (taken, error) = congest(&sender, &null);
                assert!(is_congested(&Err(error)), "{kind:?}");
                thread::scope(|scope| {
                    let (sender, null) = (&sender, &null);
                    let sending = scope.spawn(move || {
                        for number in taken..taken + 20 {
                            let (bytes, fds) = (taken_bytes(number), [null.as_fd(); EACH]);
                            let sent = match deadline {
                                true => sender.send_deadline(&bytes, &fds, Instant::now() + LONG),
                                false => sender.send(&bytes, &fds),
                            };
                            sent.unwrap_or_else(|error| panic!("{kind:?}, deadline {deadline}, {number}: {error}"));
                        }
                    });
                    // Nothing can go on before this thread receives.
                    let late = Instant::now() + SHORT;
                    while Instant::now() < late {
                        assert!(!sending.is_finished(), "{kind:?}");
                        thread::sleep(SHORT / 10);
                    }
                    receive(&receiver, 0, taken + 20);
                });
                assert!(matches!(receiver.try_recv(&mut Packet::new()), Err(ChannelError::WouldBlock)), "{kind:?}");
            }
        }
    });
}

/// H-17, H-03: a whole of many descriptors waits for room in its middle, and arrives.
#[test]
fn h_17_many_wait_for_room() {
    let _turn = turn();
    common::alone_with(512, "h_17_many_wait_for_room", || {
        as_ordinary_user(3);
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            // The second and third part find too many in flight.
            thread::scope(|scope| {
                scope.spawn(|| {
                    sender.send_many(b"one", &[null.as_fd(); 400]).unwrap();
                    sender.send_many(b"two", &[null.as_fd(); 400]).unwrap();
                });
                let mut packet = Packet::new();
                for bytes in [b"one", b"two"] {
                    assert_eq!(receiver.recv_many(&mut packet, 400).unwrap().len(), 400, "{kind:?}");
                    assert_eq!(packet.bytes(), bytes);
                }
            });
        }
    });
}

/// H-17, K9, U-01: a grant that finds no room for its descriptor is refused to a worker that has nothing else to read;
/// the record says so, alone and in a batch, and a rule that grants one time is not used up by it.
#[test]
fn h_17_k9_u_01_what_found_no_room_is_recorded_as_refused() {
    let _turn = turn();
    common::alone_with(LIMIT, "h_17_k9_u_01_what_found_no_room_is_recorded_as_refused", || {
        as_ordinary_user(4);
        let place = std::env::temp_dir().join(format!("fdbroker-no-room-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let files = ["one", "two"].map(|name| place.join(name));
        files.iter().for_each(|file| fs::write(file, b"file").unwrap());
        let records = Arc::new(Mutex::new(Vec::new()));
        let kept = records.clone();
        let broker = Broker::new().reply_timeout(SHORT).audit(move |record: &Record<'_>| {
            if let Event::Request { ask, answer, rule, .. } = &record.event {
                let said = (ask.verb(), answer.err().map(|refusal| refusal.errno), rule.map(|rule| rule.number()));
                kept.lock().unwrap().push(said);
            }
        });
        let once = |file| Rule::file(file).read().stat().once();
        let policy =
            Policy::builder().allow(once(&files[0])).allow(once(&files[1])).allow(Rule::beneath(&place).stat());
        let (service, client) = client_of(&broker, policy.build().unwrap());
        let null = null();
        let (sender, receiver) = pair(Kind::SeqPacket);
        let (taken, _) = congest(&sender, &null);

        let no_room = |error: &ClientError| {
            let refusal = error.refusal().unwrap();
            assert_eq!((refusal.reason, refusal.errno), (Reason::Failed, libc::ETOOMANYREFS));
        };
        no_room(&client.read(&files[0]).unwrap_err());
        let answers = client.batch().read(&files[0]).read(place.join("three")).read(&files[1]).send().unwrap();
        assert_eq!(answers.len(), 3);
        no_room(answers[0].as_ref().unwrap_err());
        assert_eq!(answers[1].as_ref().unwrap_err().refusal().unwrap().errno, libc::EACCES);
        no_room(answers[2].as_ref().unwrap_err());
        assert_eq!(client.stat(&place).unwrap().mode & 0o700, 0o700);

        receive(&receiver, 0, taken);
        let answers = client.batch().read(&files[0]).read(&files[0]).read(&files[1]).send().unwrap();
        let granted: Vec<_> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(granted, [true, false, true], "each one time, and no more");
        client.read(&files[1]).unwrap_err();
        drop(client);
        ended(service).unwrap();
        let (congested, denied) = (Some(libc::ETOOMANYREFS), Some(libc::EACCES));
        let expected = [
            ("open", congested, Some(1)),
            ("open", congested, Some(1)),
            ("open", denied, Some(3)),
            ("open", congested, Some(2)),
            ("stat", None, Some(3)),
            ("open", None, Some(1)),
            ("open", denied, Some(1)),
            ("open", None, Some(2)),
            ("open", denied, Some(2)),
        ];
        assert_eq!(*records.lock().unwrap(), expected);
        fs::remove_dir_all(&place).unwrap();
    });
}

/// Files that are open in the whole system.
fn open_files() -> i64 {
    let numbers = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    numbers.split_whitespace().next().unwrap().parse().unwrap()
}

/// Few enough that what is in flight at once stays below an ordinary user's limit, of 4096 here: a send that waits for
/// the kernel to find the cycles would wait in vain, since it looks for them when a UNIX socket is closed.
const ROUNDS: i64 = 400;
/// What others open and close meanwhile.
const NOISE: i64 = 300;

/// Waits until the system has not many more files open than before.
fn come_back(before: i64, case: &str) {
    let late = Instant::now() + LONG;
    while open_files() > before + NOISE {
        assert!(Instant::now() < late, "{case}: {before} files were open before, and {} are", open_files());
        // The kernel looks for cycles when some UNIX socket is closed.
        drop(Channel::pair().unwrap());
        thread::sleep(Duration::from_millis(10));
    }
}

/// H-11, K28: an end sent through itself, two ends sent through each other, and a ring of ten, all dropped unread: the
/// kernel finds that nobody can reach them, and the system's open-file count comes back. So do ends that were received
/// and dropped.
#[test]
fn h_11_k28_sent_through_itself() {
    let _turn = turn();
    common::alone_with(4096, "h_11_k28_sent_through_itself", || {
        type Knot = fn(Kind);
        let knots: [(&str, i64, Knot); 4] = [
            ("itself", ROUNDS, through_itself),
            ("each other", ROUNDS, through_each_other),
            ("a ring", ROUNDS / 10, ring),
            ("received", ROUNDS, received),
        ];
        for kind in KINDS {
            for (name, rounds, knot) in knots {
                let before = open_files();
                for _ in 0..rounds {
                    knot(kind);
                }
                come_back(before, &format!("{kind:?}, {name}"));
            }
        }
        // So that the test can fail: what is not dropped is seen.
        let before = open_files();
        let held: Vec<_> = (0..1900).map(|_| Channel::pair().unwrap()).collect();
        assert!(open_files() > before + NOISE);
        drop(held);
    });
}

/// In `other`'s queue is `other`, and nowhere else.
fn through_itself(kind: Kind) {
    let (one, other) = pair(kind);
    one.send(b"x", &[other.as_fd()]).unwrap();
    one.send(b"x", &[one.as_fd(), other.as_fd()]).unwrap();
}

fn through_each_other(kind: Kind) {
    let ((a, b), (c, d)) = (pair(kind), pair(kind));
    a.send(b"x", &[d.as_fd()]).unwrap();
    c.send(b"x", &[b.as_fd()]).unwrap();
}

fn ring(kind: Kind) {
    let pairs: Vec<_> = (0..10).map(|_| pair(kind)).collect();
    for (number, (sender, _)) in pairs.iter().enumerate() {
        sender.send(b"x", &[pairs[(number + 1) % pairs.len()].1.as_fd()]).unwrap();
    }
}

/// Taken out of the queue, and one more time through itself.
fn received(kind: Kind) {
    let (one, other) = pair(kind);
    one.send(b"x", &[other.as_fd()]).unwrap();
    let mut packet = Packet::new();
    other.recv(&mut packet).unwrap();
    let again = Channel::try_from(packet.take_fds().next().unwrap()).unwrap();
    drop(other);
    one.send(b"x", &[again.as_fd()]).unwrap();
}

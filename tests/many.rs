//! More descriptors than one message carries: the whole arrives, in order, or nothing of it; whatever the sender does.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::{Channel, ChannelError, Kind, Packet};

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
/// Long enough for any machine; a test that waits for it fails.
const LONG: Duration = Duration::from_secs(60);
/// Passes in every run of the tests that wait for it.
const SHORT: Duration = Duration::from_millis(50);

fn pair(kind: Kind) -> (Channel, Channel) {
    let (one, other) = Channel::pair_of(kind).unwrap();
    for end in [&one, &other] {
        end.set_recv_timeout(Some(LONG)).unwrap();
        end.set_send_timeout(Some(LONG)).unwrap();
    }
    (one, other)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn files(count: usize) -> Vec<File> {
    (0..count).map(|_| tempfile::tempfile().unwrap()).collect()
}

fn lent(files: &[File]) -> Vec<BorrowedFd<'_>> {
    files.iter().map(AsFd::as_fd).collect()
}

fn same(sent: &[File], received: &[OwnedFd]) -> bool {
    sent.iter().map(common::identity).eq(received.iter().map(common::identity))
}

/// A part as its documentation has it: descriptors in all, those before it, the whole's number, all u32, little-endian.
fn part(total: u32, before: u32, whole: u32, bytes: &[u8]) -> Vec<u8> {
    [&total.to_le_bytes(), &before.to_le_bytes(), &whole.to_le_bytes(), bytes].concat()
}

/// A whole is received as it should be: what went before has left nothing behind.
fn goes_on(sender: &Channel, receiver: &Channel) {
    let files = files(300);
    thread::scope(|scope| {
        scope.spawn(|| sender.send_many(b"goes on", &lent(&files)).unwrap());
        let mut packet = Packet::new();
        let received = receiver.recv_many(&mut packet, 1000).unwrap();
        assert_eq!(packet.bytes(), b"goes on");
        assert!(same(&files, &received));
    });
}

/// H-03: 0, 1, 252, 253, 254, 506, 507 and 1000 descriptors arrive over each kind, in order, each the same open file,
/// close-on-exec, with the bytes of the whole, whatever the channel's own budget.
#[test]
fn h_03_any_number() {
    common::alone_with(4096, "h_03_any_number", || {
        let all = files(1000);
        for kind in KINDS {
            let (sender, mut receiver) = pair(kind);
            receiver.set_max_fds(0);
            let mut packet = Packet::new();
            for count in [0, 1, 252, 253, 254, 505, 506, 507, 759, 760, 1000] {
                let before = common::open_fds();
                for bytes in [&b""[..], b"the whole's", &[7; 60_000]] {
                    thread::scope(|scope| {
                        scope.spawn(|| sender.send_many(bytes, &lent(&all[..count])).unwrap());
                        let received = receiver.recv_many(&mut packet, count).unwrap();
                        assert!(packet.bytes() == bytes && packet.fds().is_empty(), "{kind:?}, {count}");
                        assert!(same(&all[..count], &received), "{kind:?}, {count}");
                        let cloexec = |fd| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap() == 1;
                        assert!(received.iter().all(cloexec), "{kind:?}, {count}");
                    });
                }
                assert_eq!(common::open_fds(), before, "{kind:?}, {count}");
            }
        }
    });
}

/// H-03, H-13: one descriptor more than asked for is "too many", told after the first part; the rest is passed over by
/// the next call, which gets the next whole.
#[test]
fn h_13_more_than_was_asked_for() {
    common::alone_with(4096, "h_13_more_than_was_asked_for", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let mut packet = Packet::new();
            for max in [0, 1, 252, 253, 254, 506, 900] {
                let before = common::open_fds();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        sender.send_many(b"many", &vec![null.as_fd(); max + 1]).unwrap();
                        sender.send_many(b"next", &vec![null.as_fd(); max]).unwrap();
                    });
                    let result = receiver.recv_many(&mut packet, max);
                    let Err(ChannelError::TooManyDescriptors { budget }) = result else { panic!("{max}: {result:?}") };
                    assert_eq!(budget, max);
                    assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                    assert_eq!(common::open_fds(), before, "{kind:?}, {max}");
                    let next = receiver.recv_many(&mut packet, max).unwrap();
                    assert_eq!((packet.bytes(), next.len()), (&b"next"[..], max), "{kind:?}");
                });
                assert_eq!(common::open_fds(), before, "{kind:?}, {max}");
            }
            goes_on(&sender, &receiver);
        }
    });
}

/// P-10: a packet with room for the bytes and the header gets the whole; one byte less is "too large", nothing leaks,
/// and the next whole arrives.
#[test]
fn p_10_more_bytes_than_the_packet_holds() {
    common::alone_with(4096, "p_10_more_bytes_than_the_packet_holds", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let before = common::open_fds();
            for length in [0, 1, 100, 5000] {
                let fits = || Packet::with_capacity(length + 12);
                for (mut packet, fits) in [(fits(), true), (Packet::with_capacity(length + 11), false)] {
                    thread::scope(|scope| {
                        scope.spawn(|| {
                            sender.send_many(&vec![7; length], &[null.as_fd(); 400]).unwrap();
                            sender.send_many(b"", &[null.as_fd(); 3]).unwrap();
                        });
                        match receiver.recv_many(&mut packet, 400) {
                            Ok(fds) => assert!(fits && fds.len() == 400 && packet.bytes() == vec![7; length]),
                            Err(error) => {
                                assert!(!fits && matches!(error, ChannelError::TooLarge), "{kind:?}: {error}")
                            }
                        }
                        let next = receiver.recv_many(&mut Packet::new(), 400).unwrap();
                        assert_eq!(next.len(), 3, "{kind:?}, {length}");
                    });
                    assert_eq!(common::open_fds(), before, "{kind:?}, {length}");
                }
            }
        }
    });
}

/// K2, K21: a table that is full in the middle of a whole is "descriptor table full"; what had come is closed, and the
/// next whole arrives when there is room. The sender is not told.
#[test]
fn k2_k21_a_full_table_in_the_middle() {
    common::alone_with(1024, "k2_k21_a_full_table_in_the_middle", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let mut packet = Packet::new();
            for free in [0, 1, 252, 253, 254, 505, 506, 599] {
                let mut filling = fill(&null);
                filling.truncate(filling.len() - free);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        sender.send_many(b"many", &[null.as_fd(); 600]).unwrap();
                        sender.send_many(b"none", &[]).unwrap();
                    });
                    let result = receiver.recv_many(&mut packet, 600);
                    assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{kind:?}, {free}: {result:?}");
                    // Those of the parts that are passed over may be lost as well: that is told, and nothing else.
                    let next = loop {
                        match receiver.recv_many(&mut packet, 600) {
                            Err(ChannelError::DescriptorTableFull) => {}
                            next => break next.unwrap(),
                        }
                    };
                    assert_eq!((packet.bytes(), next.len()), (&b"none"[..], 0), "{kind:?}, {free}");
                });
                assert_eq!(fill(&null).len(), free, "{kind:?}");
                drop(filling);
                goes_on(&sender, &receiver);
            }
        }
    });
}

/// Duplicates of `file` in every free slot of the descriptor table.
fn fill(file: &File) -> Vec<File> {
    std::iter::from_fn(|| file.try_clone().ok()).collect()
}

/// H-06, H-15: a sender that dies in the middle of a whole: "disconnected", and nothing is left open; one that gives up
/// in the middle and sends a new whole: that one arrives, and nothing of the first.
#[test]
fn h_15_a_sender_that_dies_or_gives_up() {
    common::alone_with(4096, "h_15_a_sender_that_dies_or_gives_up", || {
        let null = null();
        for kind in [Kind::SeqPacket, Kind::Stream] {
            for parts in 1..3 {
                let (sender, receiver) = pair(kind);
                let before = common::open_fds();
                send_parts(&sender, &null, parts);
                drop(sender);
                let mut packet = Packet::new();
                let result = receiver.recv_many(&mut packet, 1000);
                assert!(matches!(result, Err(ChannelError::Disconnected)), "{kind:?}: {result:?}");
                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                assert_eq!(common::open_fds() + 1, before, "{kind:?}");
            }
        }
        for kind in KINDS {
            for parts in 1..3 {
                let (sender, receiver) = pair(kind);
                let before = common::open_fds();
                send_parts(&sender, &null, parts);
                goes_on(&sender, &receiver);
                assert_eq!(common::open_fds(), before, "{kind:?}");
            }
        }
    });
}

/// The first parts of a whole of 600.
fn send_parts(sender: &Channel, null: &File, parts: u32) {
    for before in (0..parts).map(|number| number * 253) {
        let bytes: &[u8] = if before == 0 { b"given up" } else { b"" };
        sender.send(&part(600, before, 77, bytes), &[null.as_fd(); 253]).unwrap();
    }
}

/// H-06: a receiver whose timeout passes in the middle of a whole, or that does not wait, loses nothing: its next call
/// goes on with it. One that then takes fewer gets nothing of it, and the next whole.
#[test]
fn h_06_a_receiver_that_gives_up() {
    common::alone_with(4096, "h_06_a_receiver_that_gives_up", || {
        let null = null();
        for (kind, waits) in KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
            let (sender, receiver) = pair(kind);
            receiver.set_recv_timeout(Some(SHORT)).unwrap();
            receiver.set_nonblocking(!waits).unwrap();
            let before = common::open_fds();
            let mut packet = Packet::new();
            for max_fds in [600, 599] {
                send_parts(&sender, &null, 2);
                for _ in 0..2 {
                    let result = receiver.recv_many(&mut packet, 600);
                    assert!(
                        matches!(result, Err(ChannelError::TimedOut | ChannelError::WouldBlock)),
                        "{kind:?}: {result:?}"
                    );
                    assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                }
                sender.send(&part(600, 506, 77, b""), &[null.as_fd(); 94]).unwrap();
                let result = receiver.recv_many(&mut packet, max_fds);
                match result {
                    Ok(fds) => assert_eq!((max_fds, fds.len(), packet.bytes()), (600, 600, &b"given up"[..])),
                    Err(ChannelError::TooManyDescriptors { budget: 599 }) => assert_eq!(max_fds, 599),
                    Err(error) => panic!("{kind:?}: {error}"),
                }
                receiver.set_nonblocking(false).unwrap();
                receiver.set_recv_timeout(Some(LONG)).unwrap();
                goes_on(&sender, &receiver);
                assert_eq!(common::open_fds(), before, "{kind:?}");
                receiver.set_recv_timeout(Some(SHORT)).unwrap();
                receiver.set_nonblocking(!waits).unwrap();
            }
        }
    });
}

/// H-06, P-08: messages of lost wholes without end, which are passed over, outlast neither a deadline nor a channel's
/// timeout, and without either are an error in the end.
#[test]
fn h_06_p_08_lost_parts_without_end() {
    for kind in KINDS {
        let (sender, receiver) = pair(kind);
        let null = null();
        thread::scope(|scope| {
            scope.spawn(move || while sender.send(&part(254, 253, 7, b""), &[null.as_fd()]).is_ok() {});
            let mut packet = Packet::new();
            let soon = Instant::now() + SHORT;
            for result in [
                receiver.recv_many(&mut packet, 600),
                receiver.recv_many_deadline(&mut packet, 600, soon),
                receiver.recv_many(&mut packet, 0),
            ] {
                let ended = matches!(result, Err(ChannelError::Broken | ChannelError::TimedOut));
                assert!(ended, "{kind:?}: {result:?}");
            }
            drop(receiver);
        });
    }
}

/// H-13, K20: no more descriptors are taken from the kernel than were asked for, whatever the message has.
#[test]
fn h_13_k20_no_more_room_than_asked_for() {
    common::alone_with(64, "h_13_k20_no_more_room_than_asked_for", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            sender.send_many(b"flood", &[null.as_fd(); 253]).unwrap();
            let result = receiver.recv_many(&mut Packet::new(), 1);
            assert!(matches!(result, Err(ChannelError::TooManyDescriptors { budget: 1 })), "{kind:?}: {result:?}");
            sender.send_many(b"one", &[null.as_fd()]).unwrap();
            assert_eq!(receiver.recv_many(&mut Packet::new(), 1).unwrap().len(), 1);
        }
    });
}

/// H-06, K25: a sender whose timeout passes: an error says that nothing arrives, and nothing does; "unfinished" says
/// that the channel holds the rest, and then the whole arrives when that is flushed. Whichever part it happened in.
#[test]
fn h_06_a_sender_that_times_out() {
    common::alone_with(4096, "h_06_a_sender_that_times_out", || {
        let null = null();
        let (mut whole, mut unfinished, mut timed_out) = (0, 0, 0);
        for kind in KINDS {
            for (length, queued) in
                [0, 50_000, 150_000].into_iter().flat_map(|length| (0..130).map(move |q| (length, q)))
            {
                let (sender, receiver) = pair(kind);
                // The more there are, the earlier the queue is full.
                let queued = (0..queued).take_while(|_| sender.try_send(&[0; 1000], &[]).is_ok()).count();
                sender.set_send_timeout(Some(Duration::from_micros(1))).unwrap();
                let bytes = vec![7; length];
                let sent = sender.send_many(&bytes, &[null.as_fd(); 600]);
                sender.set_send_timeout(Some(LONG)).unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        sender.flush().unwrap();
                        sender.send_many(b"end", &[]).unwrap();
                    });
                    let mut packet = Packet::with_capacity(length + 1000);
                    for _ in 0..queued {
                        receiver.recv(&mut packet).unwrap();
                    }
                    let received = receiver.recv_many(&mut packet, 600).unwrap();
                    let arrived = packet.bytes() != b"end";
                    let case = format!("{kind:?}, {length} bytes, {queued} queued: {sent:?}, arrived: {arrived}");
                    let count = match &sent {
                        Ok(()) => &mut whole,
                        Err(ChannelError::Unfinished) => &mut unfinished,
                        // An ordinary user's descriptors in flight are counted for all of his processes, other tests
                        // too.
                        Err(ChannelError::TimedOut | ChannelError::Congested { .. }) => &mut timed_out,
                        Err(_) => panic!("{case}"),
                    };
                    *count += 1;
                    assert_eq!(arrived, matches!(sent, Ok(()) | Err(ChannelError::Unfinished)), "{case}");
                    assert_eq!(received.len(), if arrived { 600 } else { 0 }, "{case}");
                    if arrived {
                        assert!(packet.bytes() == bytes, "{case}");
                        receiver.recv_many(&mut packet, 0).unwrap();
                        assert_eq!(packet.bytes(), b"end", "{case}");
                    }
                });
            }
        }
        assert!(whole > 0 && timed_out > 0);
    });
}

/// P-08, P-03, H-15: parts that lie: totals that grow, gaps, doubled parts, bytes where none belong, headers that are
/// cut, numbers near the largest. The error is typed or the part is passed over; no more descriptors are kept than were
/// asked for, nothing leaks, no memory is taken on a promise, and an honest whole arrives afterwards.
#[test]
fn p_08_h_15_parts_that_lie() {
    common::alone_with(8192, "p_08_h_15_parts_that_lie", || {
        for kind in KINDS {
            for (name, parts) in lies() {
                let (sender, receiver) = pair(kind);
                lie(&format!("{kind:?}, {name}"), &parts, &sender, &receiver);
            }
        }
    });
}

type Parts = Vec<(Vec<u8>, usize)>;

fn lies() -> Vec<(&'static str, Parts)> {
    let max = u32::MAX;
    let p = |total, before, bytes: &[u8], fds| (part(total, before, 5, bytes), fds);
    let growing = (0..8).map(|number| (part(if number == 0 { 600 } else { 5000 }, number * 253, 5, b""), 253));
    let endless = (0..8).map(|number| (part(if number == 0 { 600 } else { max }, number * 253, 5, b""), 253));
    vec![
        ("a total that grows", growing.collect()),
        ("a total that grows without end", endless.collect()),
        ("a total that shrinks", vec![p(600, 0, b"", 253), p(300, 253, b"", 47)]),
        ("a total over what is asked for", vec![p(601, 0, b"", 253)]),
        ("the largest total", vec![p(max, 0, b"x", 253), p(max, 253, b"", 253), p(max, max - 1, b"", 1)]),
        ("the largest everything", vec![p(max, max, b"", 0), p(max, max, b"", 1), (part(max, max, max, b""), 253)]),
        ("more before than in all", vec![p(3, 4, b"", 0), p(0, 1, b"", 1), p(0, max, b"", 1)]),
        ("a gap", vec![p(600, 0, b"", 253), p(600, 506, b"", 94)]),
        ("a part twice", vec![p(600, 0, b"", 253), p(600, 253, b"", 253), p(600, 253, b"", 253), p(600, 506, b"", 94)]),
        ("the first part again and again", vec![p(600, 0, b"again", 253); 50]),
        ("bytes in a later part", vec![p(600, 0, b"one", 253), p(600, 253, b"two", 253)]),
        ("a part that is not full", vec![p(600, 0, b"", 252), p(600, 0, b"", 1), p(600, 0, b"", 0)]),
        ("a part that is over-full", vec![p(100, 0, b"", 101), p(0, 0, b"", 1), p(0, 0, b"", 253)]),
        ("a later part without descriptors", vec![p(253, 0, b"", 253), p(253, 253, b"", 0), p(506, 253, b"", 0)]),
        ("no first part", vec![p(600, 253, b"", 253), p(600, 506, b"", 94)]),
        ("another whole's part", vec![p(600, 0, b"", 253), (part(600, 253, 6, b""), 253), p(600, 253, b"", 253)]),
        (
            "the rest of another whole",
            vec![p(600, 0, b"", 253), (part(600, 253, 6, b""), 253), (part(600, 506, 6, b""), 94)],
        ),
        ("parts that are not full", vec![p(3, 0, b"", 1), p(3, 1, b"", 1), p(3, 2, b"", 1)]),
        ("headers that are cut", (0..12).map(|length| (vec![0; length], 1)).collect()),
        ("no header", vec![(b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0), (b"x".to_vec(), 253), (vec![], 3)]),
    ]
}

/// Lets `receiver` have the parts, and an honest whole at last.
fn lie(case: &str, parts: &Parts, sender: &Channel, receiver: &Channel) {
    const ASKED_FOR: usize = 600;
    let null = null();
    let (before, memory) = (common::open_fds(), common::resident_kib());
    let most = Mutex::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (bytes, fds) in parts {
                sender.send(bytes, &vec![null.as_fd(); *fds]).unwrap();
                let mut most = most.lock().unwrap();
                *most = common::open_fds().max(*most);
            }
            sender.send_many(b"honest", &[null.as_fd(); 260]).unwrap();
        });
        let mut packet = Packet::new();
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 100, "{case}: no end");
            match receiver.recv_many(&mut packet, ASKED_FOR) {
                Ok(fds) if packet.bytes() == b"honest" => break assert_eq!(fds.len(), 260, "{case}"),
                Ok(fds) => {
                    // The parts that do not lie make a whole.
                    assert!(fds.len() <= ASKED_FOR, "{case}: {} descriptors", fds.len());
                    let whole = case.contains("twice") || case.contains("a later part without descriptors");
                    assert!(whole, "{case}: a whole of {} and {:?}", fds.len(), packet.bytes());
                }
                Err(ChannelError::Broken | ChannelError::TooManyDescriptors { .. }) => {
                    assert!(packet.bytes().is_empty() && packet.fds().is_empty(), "{case}");
                }
                Err(error) => panic!("{case}: {error}"),
            }
        }
    });
    assert_eq!(common::open_fds(), before, "{case}");
    let most = most.into_inner().unwrap();
    // Those of the whole, one part beside, and the test's own.
    assert!(most <= before + ASKED_FOR + 253 + 8, "{case}: {} descriptors at once", most - before);
    assert!(common::resident_kib() < memory + 16_384, "{case}");
}

/// H-02: two threads send wholes through one end, two receive them at the other: each is of one sender.
#[test]
fn h_02_wholes_of_two_threads() {
    common::alone_with(8192, "h_02_wholes_of_two_threads", || {
        let files = files(4);
        let before = common::open_fds();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let names = thread::scope(|scope| {
                for thread in 0..2u8 {
                    let (sender, files) = (&sender, &files);
                    scope.spawn(move || {
                        for number in 0..15u8 {
                            let file = &files[usize::from(thread * 2 + number % 2)];
                            sender
                                .send_many(&[thread, number], &vec![file.as_fd(); 200 * usize::from(number % 4)])
                                .unwrap();
                        }
                    });
                }
                let receive = || {
                    let mut packet = Packet::new();
                    (0..15)
                        .map(|_| {
                            let fds = receiver.recv_many(&mut packet, 1000).unwrap();
                            let &[thread, number] = packet.bytes() else { panic!("{kind:?}: {:?}", packet.bytes()) };
                            assert_eq!(fds.len(), 200 * usize::from(number % 4), "{kind:?}");
                            let file = common::identity(&files[usize::from(thread * 2 + number % 2)]);
                            assert!(fds.iter().all(|fd| common::identity(fd) == file), "{kind:?}");
                            (thread, number)
                        })
                        .collect::<Vec<_>>()
                };
                let receivers = [scope.spawn(receive), scope.spawn(receive)];
                let mut names: Vec<_> = receivers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
                names.sort_unstable();
                names
            });
            let all: Vec<_> = (0..2).flat_map(|thread| (0..15).map(move |number| (thread, number))).collect();
            assert_eq!(names, all, "{kind:?}");
        }
        assert_eq!(common::open_fds(), before);
    });
}

/// `give` closes what it has sent, and keeps what it could not send, for each error.
#[test]
fn h_03_given_descriptors_are_closed_once_sent() {
    common::alone_with(1024, "h_03_given_descriptors_are_closed_once_sent", || {
        let own = |count| (0..count).map(|_| OwnedFd::from(null())).collect::<Vec<_>>();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let before = common::open_fds();
            let mut packet = Packet::new();
            for count in [0, 1, 16] {
                let mut fds = own(count);
                sender.give(b"given", &mut fds).unwrap();
                assert!(fds.is_empty());
                assert_eq!(common::open_fds(), before, "{kind:?}, {count}");
                receiver.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"given"[..], count), "{kind:?}");
                packet.clear();
            }
            let kept = |sender: &Channel, bytes: &[u8], count: usize| {
                let mut fds = own(count);
                let numbers: Vec<_> = fds.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
                let error = sender.give(bytes, &mut fds).unwrap_err();
                let are: Vec<_> = fds.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
                assert_eq!(are, numbers, "{kind:?}: {error}");
                assert!(fds.iter().all(|fd| common::identity(fd) == common::identity(null())));
                error
            };
            assert!(matches!(kept(&sender, b"x", 254), ChannelError::TooManyDescriptors { .. }));
            assert!(matches!(kept(&sender, b"", 0), ChannelError::Empty));
            if kind != Kind::Stream {
                assert!(matches!(kept(&sender, &[7; 16 << 20], 3), ChannelError::TooLarge));
            }
            while sender.try_send(&[7; 1000], &[]).is_ok() {}
            sender.set_send_timeout(Some(SHORT)).unwrap();
            assert!(matches!(kept(&sender, &[7; 1000], 3), ChannelError::TimedOut), "{kind:?}");
            sender.set_nonblocking(true).unwrap();
            assert!(matches!(kept(&sender, &[7; 1000], 3), ChannelError::WouldBlock), "{kind:?}");
            assert_eq!(common::open_fds(), before, "{kind:?}");
            drop(receiver);
            assert!(matches!(kept(&sender, b"x", 3), ChannelError::Disconnected), "{kind:?}");
            assert_eq!(common::open_fds() + 1, before, "{kind:?}");
        }
        // Half of it is on its way, with all of its descriptors.
        let (sender, receiver) = pair(Kind::Stream);
        sender.set_nonblocking(true).unwrap();
        let before = common::open_fds();
        let mut fds = own(5);
        let long = vec![7; 4 << 20];
        assert!(matches!(sender.give(&long, &mut fds), Err(ChannelError::Unfinished)));
        assert_eq!((fds.len(), common::open_fds()), (0, before));
        let mut packet = Packet::with_capacity(long.len());
        let late = Instant::now() + LONG;
        while let Err(error) = receiver.recv_deadline(&mut packet, Instant::now() + Duration::from_millis(1)) {
            assert!(matches!(error, ChannelError::TimedOut) && Instant::now() < late, "{error}");
            let _ = sender.flush();
        }
        assert!(packet.bytes() == long && packet.fds().len() == 5);
    });
}

/// H-06, P-02: what a call that gave up has received, and the next call's packet has no room for.
#[test]
fn h_06_p_02_a_smaller_packet_for_the_rest() {
    let null = null();
    let (sender, receiver) = pair(Kind::SeqPacket);
    sender.send(&part(254, 0, 7, &[b'x'; 1000]), &[null.as_fd(); 253]).unwrap();
    receiver.set_nonblocking(true).unwrap();
    assert!(matches!(receiver.recv_many(&mut Packet::new(), 254), Err(ChannelError::WouldBlock)));
    sender.send(&part(254, 253, 7, b""), &[null.as_fd()]).unwrap();
    let result = receiver.recv_many(&mut Packet::with_capacity(100), 254);
    assert!(matches!(result, Err(ChannelError::TooLarge)), "{result:?}");
}

/// H-06: a timeout of more seconds than a clock has, which whoever shared the socket can have set, is "for ever" and no
/// overflow.
#[test]
fn h_06_a_timeout_of_ages() {
    let (sender, receiver) = pair(Kind::Stream);
    let ages = nix::sys::time::TimeVal::new(9_000_000_000_000_000, 0);
    nix::sys::socket::setsockopt(&receiver, nix::sys::socket::sockopt::ReceiveTimeout, &ages).unwrap();
    sender.send_many(b"now", &[]).unwrap();
    let mut packet = Packet::new();
    receiver.recv_many(&mut packet, 0).unwrap();
    assert_eq!(packet.bytes(), b"now");
}

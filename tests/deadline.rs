//! A deadline on one call, and no wait at all: whatever the socket's own timeout and O_NONBLOCK say, and whoever else
//! uses the channel, the call comes back in time; and nothing is lost by it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::{Channel, ChannelError, Kind, Packet};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sendfd::SendWithFd;

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
/// Long enough for any machine; a test that waits for it fails.
const LONG: Duration = Duration::from_secs(60);
/// Passes in every run of the tests that wait for it.
const SHORT: Duration = Duration::from_millis(50);

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn flags(channel: &Channel) -> OFlag {
    OFlag::from_bits_retain(fcntl(channel, FcntlArg::F_GETFL).unwrap())
}

/// A deadline that has passed, and two that have not.
fn deadlines() -> [(Instant, Duration); 3] {
    let now = Instant::now();
    let past = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
    [(past, Duration::ZERO), (now, Duration::ZERO), (now + SHORT, SHORT)]
}

/// What `busy` does in a thread that has come to wait, for as long as `then` runs.
fn beside<T: Send>(busy: impl FnOnce() -> T + Send, then: impl FnOnce()) -> T {
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let busy = scope.spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            busy()
        });
        let thread = told.recv().unwrap();
        let late = Instant::now() + LONG;
        // In a system call that waits, and not in one that is about to return.
        let mut asleep = 0;
        while asleep < 5 {
            assert!(Instant::now() < late, "the other thread does not come to wait");
            let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
            let sleeps = stat.rsplit(')').next().unwrap().trim_start().starts_with('S');
            asleep = if sleeps { asleep + 1 } else { 0 };
            thread::sleep(Duration::from_millis(1));
        }
        then();
        busy.join().unwrap()
    })
}

/// H-06: a receive's deadline passes on each kind, blocking or not, whatever the socket's timeout; O_NONBLOCK stays as
/// it was; and what comes later arrives whole. A deadline that has passed still receives what is there.
#[test]
fn h_06_a_receive_with_a_deadline() {
    let null = null();
    for kind in KINDS {
        for (nonblocking, timeout) in [(false, None), (false, Some(LONG)), (true, None)] {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            receiver.set_nonblocking(nonblocking).unwrap();
            receiver.set_recv_timeout(timeout).unwrap();
            let before = flags(&receiver);
            let mut packet = Packet::new();
            for turn in 0..3 {
                let (deadline, wait) = deadlines()[turn];
                let start = Instant::now();
                let result = receiver.recv_deadline(&mut packet, deadline);
                assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}: {result:?}");
                assert!(start.elapsed() + Duration::from_millis(5) >= wait && packet.bytes().is_empty());
                assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "{kind:?}");
                assert_eq!(flags(&receiver), before);

                sender.send(b"later", &[null.as_fd(); 2]).unwrap();
                let (deadline, _) = deadlines()[turn];
                receiver.recv_deadline(&mut packet, deadline).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"later"[..], 2), "{kind:?}");
                sender.send(b"", &[null.as_fd()]).unwrap();
                receiver.try_recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b""[..], 1), "{kind:?}");
            }
        }
    }
}

/// H-06: a deadline later than the socket's timeout is waited for, also by an end that is non-blocking; a far one is no
/// error.
#[test]
fn h_06_a_deadline_over_the_sockets_timeout() {
    for kind in KINDS {
        for nonblocking in [false, true] {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            receiver.set_nonblocking(nonblocking).unwrap();
            receiver.set_recv_timeout(Some(Duration::from_millis(1))).unwrap();
            sender.set_send_timeout(Some(Duration::from_millis(1))).unwrap();
            for far in [LONG, Duration::from_secs(400 * 24 * 3600)] {
                let deadline = Instant::now() + far;
                thread::scope(|scope| {
                    let receiving = scope.spawn(|| {
                        let mut packet = Packet::new();
                        receiver.recv_deadline(&mut packet, deadline).map(|()| packet.bytes().to_vec())
                    });
                    thread::sleep(SHORT);
                    sender.send_deadline(b"in time", &[], deadline).unwrap();
                    assert_eq!(receiving.join().unwrap().unwrap(), b"in time", "{kind:?}");
                });
            }
        }
    }
}

/// H-06: a send's deadline passes on each kind when the peer does not read; each message that was taken arrives whole
/// and in order, none that was not does, and the channel goes on. O_NONBLOCK stays as it was.
#[test]
fn h_06_a_send_with_a_deadline() {
    let null = null();
    let message = |number: u32| number.to_le_bytes().repeat(250);
    for kind in KINDS {
        for nonblocking in [false, true] {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            sender.set_nonblocking(nonblocking).unwrap();
            let before = flags(&sender);
            let mut taken = 0;
            let full = loop {
                match sender.try_send(&message(taken), &[null.as_fd()]) {
                    Ok(()) => taken += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, ChannelError::WouldBlock), "{kind:?}: {full}");
            for (deadline, wait) in deadlines() {
                let start = Instant::now();
                let result = sender.send_deadline(b"refused", &[null.as_fd()], deadline);
                // What has taken the place that was left is finished later.
                assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}: {result:?}");
                assert!(start.elapsed() + Duration::from_millis(5) >= wait);
                assert_eq!(flags(&sender), before);
            }
            let mut packet = Packet::new();
            for number in 0..taken {
                receiver.try_recv(&mut packet).unwrap();
                assert!(packet.bytes() == message(number) && packet.fds().len() == 1, "{kind:?}, {number} of {taken}");
            }
            assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "{kind:?}");
            for (number, (deadline, _)) in (0..).zip(deadlines()) {
                sender.send_deadline(&message(number), &[null.as_fd()], deadline).unwrap();
                receiver.try_recv(&mut packet).unwrap();
                assert!(packet.bytes() == message(number) && packet.fds().len() == 1, "{kind:?}");
            }
        }
    }
}

/// H-06: a send that waits for room with a deadline goes through when a message is received, long before its deadline.
#[test]
fn h_06_a_send_goes_through_when_there_is_room() {
    for kind in KINDS {
        let (sender, receiver) = Channel::pair_of(kind).unwrap();
        while sender.try_send(&[7; 1000], &[]).is_ok() {}
        let start = Instant::now();
        thread::scope(|scope| {
            let sending = scope.spawn(|| sender.send_deadline(b"last", &[], Instant::now() + LONG));
            let mut packet = Packet::new();
            while packet.bytes() != b"last" {
                receiver.recv_deadline(&mut packet, Instant::now() + LONG).unwrap();
            }
            sending.join().unwrap().unwrap();
        });
        assert!(start.elapsed() < LONG / 2, "{kind:?}");
    }
}

/// H-06: a stream's frame that stays half behind: the deadline is one for the whole frame, though each of its bytes
/// comes in time; each later call goes on with it, and nothing of it is lost or read twice.
#[test]
fn h_06_a_deadline_is_for_the_whole_frame() {
    let (raw, socket) = UnixStream::pair().unwrap();
    let channel = Channel::from(socket);
    let null = null();
    let frame = b"\x04\0\0\0\x01\0\0\0slow";
    let mut packet = Packet::new();
    for (place, byte) in frame.iter().enumerate() {
        let fds: &[_] = if place == 0 { &[std::os::fd::AsRawFd::as_raw_fd(&null)] } else { &[] };
        raw.send_with_fd(&[*byte], fds).unwrap();
        let result = match place % 3 {
            0 => channel.recv_deadline(&mut packet, Instant::now() + Duration::from_millis(2)),
            1 => channel.recv_deadline(&mut packet, Instant::now()),
            _ => channel.try_recv(&mut packet),
        };
        match (place, place % 3, result) {
            (11, _, Ok(())) => {}
            (0..11, 0 | 1, Err(ChannelError::TimedOut)) | (0..11, 2, Err(ChannelError::WouldBlock)) => {
                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
            }
            (_, _, result) => panic!("byte {place}: {result:?}"),
        }
    }
    assert_eq!((packet.bytes(), packet.fds().len()), (&b"slow"[..], 1));

    // A peer that lets a byte go every millisecond does not keep the deadline from passing.
    thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        scope.spawn(move || {
            raw.send_with_fd(b"\0\0\x01\0\0\0\0\0", &[]).unwrap();
            while stopped.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
                raw.send_with_fd(b"x", &[]).unwrap();
            }
        });
        let start = Instant::now();
        let mut packet = Packet::with_capacity(1 << 16);
        let result = channel.recv_deadline(&mut packet, start + 4 * SHORT);
        assert!(matches!(result, Err(ChannelError::TimedOut)), "{result:?}");
        assert!(start.elapsed() < LONG / 2);
        drop(stop);
    });
}

/// H-06: while another thread waits for ever in a receive on the same end, a receive with a deadline, one of a
/// non-blocking end, one with the socket's timeout and one that does not wait all come back; and then the other
/// thread's message arrives.
#[test]
fn h_06_beside_a_thread_that_receives() {
    common::alone("h_06_beside_a_thread_that_receives", || {
        for kind in KINDS {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            let busy = || {
                let mut packet = Packet::new();
                // Not by the socket's timeout, which would then be this one's as well.
                receiver.recv_deadline(&mut packet, Instant::now() + LONG).map(|()| packet.bytes().to_vec())
            };
            let received = beside(busy, || {
                let mut packet = Packet::new();
                for (deadline, _) in deadlines() {
                    let result = receiver.recv_deadline(&mut packet, deadline);
                    assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}: {result:?}");
                }
                let start = Instant::now();
                let result = receiver.try_recv(&mut packet);
                assert!(matches!(result, Err(ChannelError::WouldBlock)), "{kind:?}: {result:?}");
                receiver.set_recv_timeout(Some(SHORT)).unwrap();
                let result = receiver.recv(&mut packet);
                assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}: {result:?}");
                receiver.set_nonblocking(true).unwrap();
                let result = receiver.recv(&mut packet);
                assert!(matches!(result, Err(ChannelError::WouldBlock)), "{kind:?}: {result:?}");
                assert!(start.elapsed() < LONG / 2, "{kind:?}");
                sender.send(b"for the other", &[]).unwrap();
            });
            assert_eq!(received.unwrap(), b"for the other", "{kind:?}");
        }
    });
}

/// H-06: while another thread's send waits for room in its middle, a send with a deadline, one of a non-blocking end,
/// one with the socket's timeout and one that does not wait all come back, and so does a flush. None of them cuts into
/// the other's message.
#[test]
fn h_06_beside_a_thread_that_sends() {
    common::alone("h_06_beside_a_thread_that_sends", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            let long = vec![7; if kind == Kind::Stream { 4 << 20 } else { 150_000 }];
            let mut queued = 0;
            while kind != Kind::Stream && sender.try_send(&long, &[]).is_ok() {
                queued += 1;
            }
            let busy = || sender.send_deadline(&long, &[null.as_fd()], Instant::now() + LONG);
            thread::scope(|scope| {
                let (ready, go) = mpsc::channel::<()>();
                let (receiver, long) = (&receiver, &long);
                let reading = scope.spawn(move || {
                    go.recv().unwrap();
                    let mut packet = Packet::with_capacity(long.len());
                    for number in 0..=queued {
                        receiver.recv_deadline(&mut packet, Instant::now() + LONG).unwrap();
                        let own = usize::from(number == queued);
                        assert!(packet.bytes() == long && packet.fds().len() == own, "{kind:?}");
                    }
                });
                let sent = beside(busy, || {
                    for (deadline, _) in deadlines() {
                        let result = sender.send_deadline(&[1; 150_000], &[], deadline);
                        assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}: {result:?}");
                    }
                    let start = Instant::now();
                    let result = sender.try_send(&[1; 150_000], &[]);
                    assert!(matches!(result, Err(ChannelError::WouldBlock)), "{kind:?}: {result:?}");
                    sender.set_send_timeout(Some(SHORT)).unwrap();
                    let result = sender.send(&[1; 150_000], &[]);
                    assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}: {result:?}");
                    if kind == Kind::Stream {
                        assert!(matches!(sender.flush(), Err(ChannelError::TimedOut)));
                    }
                    sender.set_nonblocking(true).unwrap();
                    let result = sender.send(&[1; 150_000], &[]);
                    assert!(matches!(result, Err(ChannelError::WouldBlock)), "{kind:?}: {result:?}");
                    assert!(start.elapsed() < LONG / 2, "{kind:?}");
                    ready.send(()).unwrap();
                });
                sent.unwrap();
                reading.join().unwrap();
            });
            let mut packet = Packet::new();
            assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "{kind:?}");
            sender.try_send(b"goes on", &[null.as_fd()]).unwrap();
            receiver.try_recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"goes on"[..], 1), "{kind:?}");
        }
    });
}

/// H-06: several threads that do not wait are not told "would block" because of each other: while there are messages
/// each gets one, and while there is room each sends one. (Whoever waits for an edge of readiness would miss it.)
#[test]
fn h_06_beside_threads_that_do_not_wait() {
    for kind in KINDS {
        for _ in 0..100 {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            thread::scope(|scope| {
                let send = || (0..20).for_each(|_| sender.try_send(b"x", &[]).unwrap());
                let senders = [(); 4].map(|()| scope.spawn(send));
                senders.into_iter().for_each(|sender| sender.join().unwrap());
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut packet = Packet::with_capacity(64);
                        (0..20).for_each(|_| receiver.try_recv(&mut packet).unwrap());
                    });
                }
            });
            assert!(matches!(receiver.try_recv(&mut Packet::new()), Err(ChannelError::WouldBlock)));
        }
    }
}

/// H-06: four threads send with short deadlines over and over to a peer that reads slowly: what was sent, or was left
/// unfinished, arrives once and whole; what timed out does not arrive; no thread's message is in another's.
#[test]
fn h_06_many_senders_with_deadlines() {
    common::alone("h_06_many_senders_with_deadlines", || KINDS.into_iter().for_each(many_senders));
}

fn many_senders(kind: Kind) {
    let null = null();
    let content = |name: u32| name.to_le_bytes().repeat(if name % 3 == 0 { 30_000 } else { 100 });
    let (sender, receiver) = Channel::pair_of(kind).unwrap();
    let send = |thread: u32| {
        let mut sent = Vec::new();
        for name in (1..=60).map(|number| thread * 1000 + number) {
            let fds = vec![null.as_fd(); (name % 4) as usize];
            match sender.send_deadline(
                &content(name),
                &fds,
                Instant::now() + Duration::from_millis(u64::from(name % 5)),
            ) {
                Ok(()) | Err(ChannelError::Unfinished) => sent.push(name),
                Err(ChannelError::TimedOut) => {}
                Err(error) => panic!("{kind:?}: {error}"),
            }
        }
        sent
    };
    let (mut sent, mut received) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut packet = Packet::with_capacity(150_000);
            let mut names = Vec::new();
            loop {
                match receiver.recv_deadline(&mut packet, Instant::now() + Duration::from_millis(3)) {
                    Ok(()) if packet.bytes() == b"end" => return names,
                    Ok(()) => {
                        let name = u32::from_le_bytes(*packet.bytes().first_chunk().unwrap());
                        assert!(packet.bytes() == content(name), "{kind:?}, {name}");
                        assert_eq!(packet.fds().len(), (name % 4) as usize, "{kind:?}, {name}");
                        names.push(name);
                    }
                    Err(ChannelError::TimedOut) => {}
                    Err(error) => panic!("{kind:?}: {error}"),
                }
                thread::yield_now();
            }
        });
        let senders = [1, 2, 3, 4].map(|thread| scope.spawn(move || send(thread)));
        let sent: Vec<u32> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
        sender.send_deadline(b"end", &[], Instant::now() + LONG).unwrap();
        (sent, reading.join().unwrap())
    });
    sent.sort_unstable();
    received.sort_unstable();
    assert_eq!(sent, received, "{kind:?}");
    assert!(!sent.is_empty());
}

/// H-06, H-15: a message that its deadline cut short is finished by whoever sends next, in order; and a channel that is
/// given up then tells its peer of the end.
#[test]
fn h_06_unfinished_is_finished_by_the_next_call() {
    let null = null();
    let long = vec![7; 2 << 20];
    for next in 0..4 {
        let (sender, receiver) = Channel::pair_of(Kind::Stream).unwrap();
        let result = sender.send_deadline(&long, &[null.as_fd(); 3], Instant::now() + SHORT);
        assert!(matches!(result, Err(ChannelError::Unfinished)), "{result:?}");
        let mut packet = Packet::with_capacity(long.len());
        thread::scope(|scope| {
            scope.spawn(|| match next {
                0 => sender.flush().unwrap(),
                1 => sender.send_deadline(b"next", &[], Instant::now() + LONG).unwrap(),
                2 => sender.give(b"next", &mut vec![OwnedFd::from(null.try_clone().unwrap())]).unwrap(),
                _ => while sender.try_send(b"next", &[]).is_err() {},
            });
            receiver.recv_deadline(&mut packet, Instant::now() + LONG).unwrap();
            assert!(packet.bytes() == long && packet.fds().len() == 3);
            if next > 0 {
                receiver.recv_deadline(&mut packet, Instant::now() + LONG).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"next"[..], usize::from(next == 2)));
            }
        });
    }
}

/// H-06: a call that does not wait is told "not ready" because of the socket only, not because another thread passes
/// through the channel at that moment, which has a deadline but need not wait for it: an event loop would not hear
/// again of what is there.
#[test]
fn h_06_not_ready_means_the_socket() {
    const EACH: usize = 100;
    for (kind, _) in KINDS.into_iter().flat_map(|kind| [(kind, 0); 20]) {
        let (one, other) = Channel::pair_of(kind).unwrap();
        for _ in 0..2 * EACH {
            one.send(b"queued", &[]).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut packet = Packet::new();
                (0..EACH).for_each(|_| other.recv_deadline(&mut packet, Instant::now() + LONG).unwrap());
            });
            let mut packet = Packet::new();
            (0..EACH).for_each(|_| other.try_recv(&mut packet).unwrap());
        });
    }
}

//! `AsyncChannel`: the promises of `Channel` in a tokio runtime, and futures that are dropped at every place where they
//! can be.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::io::{Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fdbroker::{AsyncChannel, Channel, ChannelError, Kind, MAX_FDS, Packet};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use sendfd::SendWithFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
/// Nothing here takes as long.
const LONG: Duration = Duration::from_secs(60);

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// In a runtime of each sort.
fn in_each_runtime(body: impl AsyncFn()) {
    for runtime in [one_thread(), two_threads()] {
        runtime.block_on(async { timeout(LONG, body()).await.expect("not to hang") });
    }
}

fn pair(kind: Kind) -> (AsyncChannel, AsyncChannel) {
    let (one, other) = Channel::pair_of(kind).unwrap();
    (AsyncChannel::new(one).unwrap(), AsyncChannel::new(other).unwrap())
}

/// A plain socket and the channel that it is connected to.
fn raw() -> (UnixStream, AsyncChannel) {
    let (raw, socket) = UnixStream::pair().unwrap();
    (raw, AsyncChannel::new(Channel::from(socket)).unwrap())
}

/// A frame, by the documentation of `Kind::Stream`.
fn frame(count: u32, bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), &count.to_le_bytes(), bytes].concat()
}

fn files() -> [File; 4] {
    [(); 4].map(|()| tempfile::tempfile().unwrap())
}

/// Message `number`: its number, then filler that follows from it.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), number.to_le_bytes()[0]);
    bytes
}

/// Its descriptors: none, one or two.
fn fds(number: u64, files: &[File; 4]) -> Vec<BorrowedFd<'_>> {
    let first = usize::try_from(number % 4).unwrap();
    let count = usize::try_from(number % 3).unwrap();
    files.iter().cycle().skip(first).take(count).map(AsFd::as_fd).collect()
}

/// The number of a message that is whole, with the descriptors that are its own.
fn number(packet: &Packet, files: &[File; 4]) -> u64 {
    let number = u64::from_le_bytes(*packet.bytes().first_chunk().unwrap());
    assert_eq!(packet.bytes(), bytes(number, packet.bytes().len()));
    let expected: Vec<_> = fds(number, files).into_iter().map(common::identity).collect();
    assert_eq!(packet.fds().iter().map(common::identity).collect::<Vec<_>>(), expected, "message {number}");
    number
}

/// Polls so often, with all that the kernel has to tell in between, then drops the future if it is not ready.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
        // Two rounds of the driver: one may have begun before what the test did just now.
        yield_now().await;
        yield_now().await;
    }
    None
}

/// Counts how often it is polled.
struct Counted<'c, F> {
    polls: &'c mut usize,
    future: F,
}

impl<F: Future + Unpin> Future for Counted<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        *self.polls += 1;
        Pin::new(&mut self.future).poll(context)
    }
}

/// Fills the peer's queue with messages from number 0 on, and answers the next number. On a stream the last may be
/// unfinished.
fn fill(channel: &AsyncChannel, files: &[File; 4], len: usize) -> u64 {
    for number in 0.. {
        match channel.get_ref().try_send(&bytes(number, len), &fds(number, files)) {
            Ok(()) => {}
            Err(ChannelError::Unfinished) => return number + 1,
            Err(ChannelError::WouldBlock) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// H-12, H-01, H-03: both directions of each kind, as many descriptors as a message can carry, in order and
/// close-on-exec; what is too much is an error, after which the channel goes on.
#[test]
fn h_12_the_promises_of_channel() {
    let many: Vec<_> = (0..=MAX_FDS).map(|_| tempfile::tempfile().unwrap()).collect();
    in_each_runtime(async || {
        for kind in KINDS {
            let (mut one, mut other) = Channel::pair_of(kind).unwrap();
            one.set_max_fds(MAX_FDS);
            other.set_max_fds(MAX_FDS);
            let (one, other) = (AsyncChannel::new(one).unwrap(), AsyncChannel::new(other).unwrap());
            let mut packet = Packet::with_capacity(100);
            for (from, to) in [(&one, &other), (&other, &one)] {
                for count in [0, 1, 2, 252, 253] {
                    let lent: Vec<_> = many[..count].iter().map(AsFd::as_fd).collect();
                    from.send(b"some", &lent).await.unwrap();
                    to.recv(&mut packet).await.unwrap();
                    assert_eq!(packet.bytes(), b"some");
                    let received: Vec<_> = packet.fds().iter().map(common::identity).collect();
                    assert_eq!(received, many[..count].iter().map(common::identity).collect::<Vec<_>>());
                    for fd in packet.fds() {
                        let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
                        assert!(flags.contains(FdFlag::FD_CLOEXEC));
                    }
                }
                let lent: Vec<_> = many.iter().map(AsFd::as_fd).collect();
                let error = from.send(b"more", &lent).await.unwrap_err();
                assert!(matches!(error, ChannelError::TooManyDescriptors { budget: MAX_FDS }), "{error}");
                assert!(matches!(from.send(b"", &[]).await.unwrap_err(), ChannelError::Empty));
                // Too large for the packet, and longer than the channel reads at once.
                from.send(&[7; 50_000], &lent[..3]).await.unwrap();
                from.send(b"next", &[]).await.unwrap();
                assert!(matches!(to.recv(&mut packet).await.unwrap_err(), ChannelError::TooLarge));
                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                to.recv(&mut packet).await.unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"next"[..], 0));
            }
            // Longer than the queue of a stream: ready means sent to the end.
            if kind == Kind::Stream {
                let mut packet = Packet::with_capacity(1 << 20);
                let (long, null) = (bytes(9, 600_000), many[0].as_fd());
                let lent = [null];
                let (sent, received) = tokio::join!(one.send(&long, &lent), other.recv(&mut packet));
                sent.unwrap();
                received.unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&long[..], 1));
            }
            // The same file, with one offset.
            let mut shared = tempfile::tempfile().unwrap();
            let mut given = vec![OwnedFd::from(shared.try_clone().unwrap())];
            one.give(b"give", &mut given).await.unwrap();
            assert!(given.is_empty());
            other.recv(&mut packet).await.unwrap();
            shared.write_all(b"written here").unwrap();
            let mut taken = File::from(packet.take_fds().next().unwrap());
            assert_eq!(taken.stream_position().unwrap(), 12);

            if kind != Kind::Datagram {
                one.send(b"last", &[]).await.unwrap();
                drop(one);
                other.recv(&mut packet).await.unwrap();
                assert_eq!(packet.bytes(), b"last");
                assert!(matches!(other.recv(&mut packet).await.unwrap_err(), ChannelError::Disconnected));
            } else {
                drop(one);
            }
            assert!(matches!(other.send(b"dead", &[]).await.unwrap_err(), ChannelError::Disconnected));
        }
    });
}

/// H-12, H-13: a message with more descriptors than the budget is an error, all are closed, and the next one arrives.
#[test]
fn h_12_h_13_a_budget_of_descriptors() {
    common::alone("h_12_h_13_a_budget_of_descriptors", || {
        let null = File::open("/dev/null").unwrap();
        let null = vec![null.as_fd(); MAX_FDS];
        in_each_runtime(async || {
            for kind in KINDS {
                let (one, mut other) = Channel::pair_of(kind).unwrap();
                other.set_max_fds(3);
                let (one, other) = (AsyncChannel::new(one).unwrap(), AsyncChannel::new(other).unwrap());
                let mut packet = Packet::new();
                let before = common::open_fds();
                for count in [4, 5, 20, 253] {
                    one.send(b"surplus", &null[..count]).await.unwrap();
                    one.send(b"in order", &null[..3]).await.unwrap();
                    let error = other.recv(&mut packet).await.unwrap_err();
                    assert!(matches!(error, ChannelError::TooManyDescriptors { budget: 3 }), "{error}");
                    assert_eq!(common::open_fds(), before);
                    other.recv(&mut packet).await.unwrap();
                    assert_eq!((packet.bytes(), packet.fds().len()), (&b"in order"[..], 3));
                    packet.clear();
                }
            }
        });
    });
}

/// H-12: O_NONBLOCK, which every holder of a socket shares, stays as it was; outside of a runtime there is an error and
/// no panic; what goes back to a plain channel goes on where it was, in the middle of a frame; after the end of the
/// runtime a call is an error that loses nothing.
#[test]
fn h_12_into_a_runtime_and_out_of_it() {
    let (one, other) = Channel::pair().unwrap();
    assert!(AsyncChannel::new(one).unwrap_err().to_string().contains("runtime"));
    assert!(matches!(other.send(b"to nobody", &[]).unwrap_err(), ChannelError::Disconnected), "the channel is closed");

    let runtime = one_thread();
    let (mut raw, receiver, sender, other) = runtime.block_on(async {
        let (raw, receiver) = raw();
        let flags = OFlag::from_bits_retain(fcntl(receiver.as_fd(), FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        let (sender, other) = Channel::pair_of(Kind::Stream).unwrap();
        (raw, receiver, AsyncChannel::new(sender).unwrap(), other)
    });
    let (mut packet, long) = (Packet::with_capacity(1 << 20), bytes(9, 600_000));
    let mut sending = Box::pin(sender.send(&long, &[]));
    raw.write_all(&frame(0, b"in two")[..11]).unwrap();
    runtime.block_on(async {
        assert!(polled(3, sending.as_mut()).await.is_none());
        assert!(polled(3, receiver.recv(&mut packet)).await.is_none());
    });
    drop(runtime);
    raw.write_all(&frame(0, b"in two")[11..]).unwrap();
    one_thread().block_on(async {
        let error = receiver.recv(&mut packet).await.unwrap_err();
        assert!(matches!(error, ChannelError::Os { call: "tokio", .. }), "{error}");
        assert!(matches!(sending.await.unwrap_err(), ChannelError::Unfinished));
        let error = sender.begin(b"not begun", &[]).await.unwrap_err();
        assert!(matches!(error, ChannelError::Os { call: "tokio", .. }), "{error}");
    });
    receiver.into_inner().recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"in two");
    std::thread::scope(|scope| {
        let sender = sender.into_inner();
        scope.spawn(move || sender.flush().unwrap());
        other.recv(&mut packet).unwrap();
        assert_eq!(packet.bytes(), long);
        assert!(matches!(other.recv(&mut packet).unwrap_err(), ChannelError::Disconnected));
    });
}

/// H-12: the futures can go to other threads.
#[test]
fn h_12_futures_are_send() {
    fn is_send<T: Send>(future: T) -> T {
        future
    }
    one_thread().block_on(async {
        let (one, other) = pair(Kind::Stream);
        let (mut packet, mut given) = (Packet::new(), vec![]);
        is_send(one.send(b"send", &[])).await.unwrap();
        is_send(one.give(b"give", &mut given)).await.unwrap();
        is_send(one.begin(b"begin", &[])).await.unwrap();
        is_send(one.flush()).await.unwrap();
        for text in ["send", "give", "begin"] {
            is_send(other.recv(&mut packet)).await.unwrap();
            assert_eq!(packet.bytes(), text.as_bytes());
        }
    });
}

/// H-12, H-04: a receive that is dropped after any number of polls, before the message, or with part of it there, cut
/// at each byte, takes nothing with it: the message and the one behind it arrive whole, and no descriptor is lost or
/// left.
#[test]
fn h_12_a_receive_dropped_at_every_poll() {
    common::alone("h_12_a_receive_dropped_at_every_poll", || {
        let files = files();
        let numbers = files.each_ref().map(AsRawFd::as_raw_fd);
        // Number 1 has one descriptor, number 2 two.
        let (first, second) = (frame(1, &bytes(1, 11)), frame(2, &bytes(2, 9)));
        in_each_runtime(async || {
            let before = common::open_fds();
            let mut packet = Packet::new();
            let (mut raw, channel) = raw();
            for cut in 1..first.len() {
                for polls in 0..4 {
                    raw.send_with_fd(&first[..cut], &numbers[1..2]).unwrap();
                    assert!(polled(polls, channel.recv(&mut packet)).await.is_none());
                    assert!(polls == 0 || packet.bytes().is_empty() && packet.fds().is_empty());
                    assert!(polled(polls, channel.recv(&mut packet)).await.is_none());
                    raw.write_all(&first[cut..]).unwrap();
                    raw.send_with_fd(&second, &numbers[2..]).unwrap();
                    for expected in [1, 2] {
                        assert!(polled(0, channel.recv(&mut packet)).await.is_none());
                        channel.recv(&mut packet).await.unwrap();
                        assert_eq!(number(&packet, &files), expected, "cut at {cut}, {polls} polls");
                    }
                }
            }
            packet.clear();
            drop((raw, channel));
            // The packet forgets its message as soon as another is waited for.
            let ((one, other), (silent, quiet)) = (pair(Kind::SeqPacket), pair(Kind::SeqPacket));
            assert!(polled(3, quiet.recv(&mut packet)).await.is_none());
            one.send(&bytes(1, 10), &fds(1, &files)).await.unwrap();
            other.recv(&mut packet).await.unwrap();
            assert!(polled(1, quiet.recv(&mut packet)).await.is_none());
            assert!(packet.bytes().is_empty() && packet.fds().is_empty());
            drop((one, other, silent, quiet));
            for kind in KINDS {
                let (one, other) = pair(kind);
                for polls in 0..4 {
                    assert!(polled(polls, other.recv(&mut packet)).await.is_none());
                    for sent in 0..12 {
                        one.send(&bytes(sent, 100), &fds(sent, &files)).await.unwrap();
                    }
                    for expected in 0..12 {
                        assert!(polled(0, other.recv(&mut packet)).await.is_none());
                        if polled(polls, other.recv(&mut packet)).await.is_none() {
                            other.recv(&mut packet).await.unwrap();
                        }
                        assert_eq!(number(&packet, &files), expected);
                    }
                }
                packet.clear();
            }
            assert_eq!(common::open_fds(), before);
        });
    });
}

/// H-12: a channel on which there is always something to do leaves the other tasks of its thread their turn.
#[test]
fn h_12_a_busy_channel_yields() {
    common::alone("h_12_a_busy_channel_yields", || {
        one_thread().block_on(async {
            for kind in KINDS {
                let ((one, other), mut packet) = (pair(kind), Packet::new());
                let busy = async {
                    loop {
                        one.send(b"busy", &[]).await.unwrap();
                        other.recv(&mut packet).await.unwrap();
                    }
                };
                let never: Result<(), _> = timeout(Duration::from_millis(100), busy).await;
                assert!(never.is_err());
            }
        });
    });
}

/// How a message is sent that is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    Send,
    Give,
    Begin,
}

/// What is known of a message whose future was dropped, or not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Sent,
    NotSent,
    Either,
}

/// Sends message `next`, dropped after so many polls, of which each but the first comes after a message was received.
async fn send_dropped(
    verb: Verb,
    polls: usize,
    (one, other): (&AsyncChannel, &AsyncChannel),
    (next, len): (u64, usize),
    files: &[File; 4],
    received: &mut Vec<u64>,
) -> Fate {
    let bytes = bytes(next, len);
    let lent = fds(next, files);
    let mut given: Vec<_> = lent.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    assert!(!given.is_empty());
    let ready = {
        let future: Pin<Box<dyn Future<Output = _>>> = match verb {
            Verb::Send => Box::pin(one.send(&bytes, &lent)),
            Verb::Give => Box::pin(one.give(&bytes, &mut given)),
            Verb::Begin => Box::pin(one.begin(&bytes, &lent)),
        };
        let mut future = pin!(future);
        let mut ready = None;
        let mut packet = Packet::with_capacity(1 << 20);
        for _ in 0..polls {
            ready = polled_once(future.as_mut()).await;
            if ready.is_some() {
                break;
            }
            if other.get_ref().try_recv(&mut packet).is_ok() {
                received.push(number(&packet, files));
            }
            yield_now().await;
            yield_now().await;
        }
        ready.map(Result::unwrap)
    };
    match (verb, ready) {
        (Verb::Give, _) if given.is_empty() => Fate::Sent,
        (_, Some(())) => Fate::Sent,
        (Verb::Send, None) if polls > 0 && one.get_ref().kind() == Kind::Stream => Fate::Either,
        _ => Fate::NotSent,
    }
}

async fn polled_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// H-12, K31, K25: a send on a full channel that is dropped after any number of polls has sent nothing, or what it
/// began is finished by the next one, which `begin` and `give` let one know: all messages arrive once, whole and in
/// order, and no descriptor is left.
#[test]
fn h_12_a_send_dropped_at_every_poll() {
    common::alone("h_12_a_send_dropped_at_every_poll", || {
        let files = files();
        in_each_runtime(async || {
            let before = common::open_fds();
            let mut in_the_middle = 0;
            for (kind, len) in [
                (Kind::SeqPacket, 20_000),
                (Kind::Datagram, 20_000),
                (Kind::Stream, 8),
                (Kind::Stream, 20_000),
                (Kind::Stream, 600_000),
            ] {
                for verb in [Verb::Send, Verb::Give, Verb::Begin] {
                    for polls in [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 24] {
                        let (one, other) = pair(kind);
                        let mut next = fill(&one, &files, len);
                        let mut expected: Vec<_> = (0..next).collect();
                        let mut received = vec![];
                        // One with descriptors, by which `give` tells.
                        next += u64::from(next % 3 == 0);
                        let ends = (&one, &other);
                        let fate = send_dropped(verb, polls, ends, (next, len), &files, &mut received).await;
                        in_the_middle += usize::from(fate == Fate::Sent && verb == Verb::Give && polls > 0);

                        let after = next + 1;
                        let rest = async {
                            let mut packet = Packet::with_capacity(1 << 20);
                            while received.last() != Some(&after) {
                                other.recv(&mut packet).await.unwrap();
                                received.push(number(&packet, &files));
                            }
                        };
                        let finish = async {
                            one.flush().await.unwrap();
                            one.send(&bytes(after, len), &fds(after, &files)).await.unwrap();
                        };
                        tokio::join!(rest, finish);
                        if fate == Fate::Sent || (fate == Fate::Either && received.contains(&next)) {
                            expected.push(next);
                        }
                        expected.push(after);
                        assert_eq!(received, expected, "{kind:?}, {verb:?}, {polls} polls, {len} bytes");
                    }
                }
            }
            assert!(in_the_middle > 0);
            assert_eq!(common::open_fds(), before);
        });
    });
}

/// H-12: 10,000 rounds on each kind, in which sends and receives are dropped at random by `select!` and `timeout`: each
/// message arrives once, whole and in order, and the process has the descriptors that it had.
#[test]
fn h_12_a_storm_of_dropped_futures() {
    const ROUNDS: u64 = 10_000;
    common::alone("h_12_a_storm_of_dropped_futures", || {
        for (runtime, rounds) in [(one_thread(), ROUNDS), (two_threads(), ROUNDS / 4)] {
            for kind in KINDS {
                let before = common::open_fds();
                let files = Arc::new(files());
                let (dropped_sends, dropped_receives) = runtime.block_on(async {
                    let (one, other) = pair(kind);
                    let sender = tokio::spawn(storm_of_sends(one, kind, Arc::clone(&files), rounds));
                    let receiver = tokio::spawn(storm_of_receives(other, Arc::clone(&files), rounds));
                    (sender.await.unwrap(), receiver.await.unwrap())
                });
                eprintln!("{kind:?}: {dropped_sends} sends and {dropped_receives} receives were dropped");
                assert!(dropped_sends > rounds / 10 && dropped_receives > rounds / 10);
                drop(files);
                assert_eq!(common::open_fds(), before);
            }
        }
    });
}

async fn storm_of_sends(channel: AsyncChannel, kind: Kind, files: Arc<[File; 4]>, rounds: u64) -> u64 {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut dropped = 0;
    for number in 0..rounds {
        let most = if kind == Kind::Stream && random.below(50) == 0 { 500_000 } else { 3000 };
        let bytes = bytes(number, usize::try_from(random.below(most)).unwrap());
        let lent = fds(number, &files);
        let mut given: Vec<_> = lent.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        // Sent once, by one of the verbs of which one knows.
        let give = random.below(2) == 0 && !given.is_empty();
        loop {
            let patience = random.below(4);
            let sent = if give {
                let result = impatient(patience, channel.give(&bytes, &mut given)).await;
                result.or(given.is_empty().then_some(Ok(())))
            } else {
                impatient(patience, channel.begin(&bytes, &lent)).await
            };
            match sent {
                Some(result) => break result.unwrap(),
                None => dropped += 1,
            }
        }
        if random.below(3) == 0 && impatient(random.below(4), channel.flush()).await.is_none() {
            dropped += 1;
        }
    }
    channel.flush().await.unwrap();
    dropped
}

async fn storm_of_receives(channel: AsyncChannel, files: Arc<[File; 4]>, rounds: u64) -> u64 {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut packet = Packet::with_capacity(1 << 20);
    let mut dropped = 0;
    for expected in 0..rounds {
        loop {
            match impatient(random.below(4), channel.recv(&mut packet)).await {
                Some(result) => break result.unwrap(),
                None => dropped += 1,
            }
        }
        assert_eq!(number(&packet, &files), expected);
        // Now and then the queue fills.
        if random.below(100) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    dropped
}

/// What `future` answers, unless it is dropped before: unpolled, after so many rounds, or after no time.
async fn impatient<F: Future>(patience: u64, future: F) -> Option<F::Output> {
    let rounds = async {
        for _ in 1..patience {
            yield_now().await;
        }
    };
    match patience {
        0 => timeout(Duration::ZERO, future).await.ok(),
        // Which is polled first is at random.
        _ => tokio::select! {
            output = future => Some(output),
            () = rounds => None,
        },
    }
}

/// H-12: two tasks send on one end, and two receive on the other: each message arrives once, whole, and those of one
/// task in its order.
#[test]
fn h_12_two_tasks_at_each_end() {
    const EACH: u64 = 1000;
    let files = Arc::new(files());
    for runtime in [one_thread(), two_threads()] {
        for (kind, len) in
            [(Kind::SeqPacket, 2000), (Kind::Datagram, 2000), (Kind::Stream, 2000), (Kind::Stream, 300_000)]
        {
            let each = if len > 2000 { EACH / 10 } else { EACH };
            let (one, other) = runtime.block_on(async { pair(kind) });
            let (one, other) = (Arc::new(one), Arc::new(other));
            let senders = [0, 1].map(|which| {
                let (one, files) = (Arc::clone(&one), Arc::clone(&files));
                runtime.spawn(async move {
                    for number in (which..2 * each).step_by(2) {
                        one.send(&bytes(number, len), &fds(number, &files)).await.unwrap();
                    }
                })
            });
            let receivers = [(); 2].map(|()| {
                let (other, files) = (Arc::clone(&other), Arc::clone(&files));
                runtime.spawn(async move {
                    let (mut packet, mut received) = (Packet::with_capacity(1 << 20), vec![]);
                    loop {
                        other.recv(&mut packet).await.unwrap();
                        match number(&packet, &files) {
                            number if number >= 2 * each => break received,
                            number => received.push(number),
                        }
                    }
                })
            });
            let received = runtime.block_on(async {
                let all = async {
                    for sender in senders {
                        sender.await.unwrap();
                    }
                    for _ in 0..2 {
                        // A multiple of three: without descriptors.
                        one.send(&bytes(6 * each, 8), &[]).await.unwrap();
                    }
                    let mut received = vec![];
                    for receiver in receivers {
                        received.push(receiver.await.unwrap());
                    }
                    received
                };
                timeout(LONG, all).await.expect("not to hang")
            });
            for received in &received {
                for which in [0, 1] {
                    assert!(received.iter().filter(|number| *number % 2 == which).is_sorted(), "{kind:?}");
                }
            }
            let all: Vec<_> = received.concat();
            assert_eq!(all.len(), usize::try_from(2 * each).unwrap());
            assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (0..2 * each).collect());
        }
    }
}

/// H-12, K31, H-17: a send on a full queue is woken once a slow reader has taken enough, on each kind, and on a
/// datagram socket whose peer is not connected back, where another limit holds; and then again.
#[test]
fn h_12_k31_a_full_queue_and_a_slow_reader() {
    let files = files();
    in_each_runtime(async || {
        for (name, one, other) in full_queues() {
            let (one, other) = (AsyncChannel::new(one).unwrap(), other);
            let mut packet = Packet::new();
            let (mut next, mut expected) = (fill(&one, &files, 3000), 0);
            assert!(next > 5, "{name}");
            for _ in 0..50 {
                let bytes = bytes(next, 3000);
                let lent = fds(next, &files);
                let mut sending = pin!(one.send(&bytes, &lent));
                // Nothing wakes it but the runtime. The reader waits for a while each time.
                let sent = loop {
                    if let Ok(result) = timeout(Duration::from_millis(1), sending.as_mut()).await {
                        break result;
                    }
                    if expected < next {
                        match other.try_recv(&mut packet) {
                            Ok(()) => {
                                assert_eq!(number(&packet, &files), expected, "{name}");
                                expected += 1;
                            }
                            Err(ChannelError::WouldBlock) => {}
                            Err(error) => panic!("{name}: {error}"),
                        }
                    }
                };
                sent.unwrap();
                next += 1;
            }
            while expected < next {
                other.try_recv(&mut packet).unwrap();
                assert_eq!(number(&packet, &files), expected, "{name}");
                expected += 1;
            }
        }
    });
}

/// H-12: the directions wait apart: while a send waits on a full queue, a receive on the same end is woken by its
/// message; while a receive waits, a send is woken by room.
#[test]
fn h_12_each_direction_is_woken_by_its_own() {
    let files = files();
    in_each_runtime(async || {
        for kind in KINDS {
            let (one, other) = pair(kind);
            let next = fill(&one, &files, 3000);
            let (bytes, lent) = (bytes(next, 3000), fds(next, &files));
            let (mut packet, mut drained) = (Packet::new(), Packet::new());
            let mut sending = pin!(one.send(&bytes, &lent));
            for _ in 0..3 {
                {
                    let mut receiving = pin!(one.recv(&mut packet));
                    assert!(polled(2, receiving.as_mut()).await.is_none());
                    assert!(polled(2, sending.as_mut()).await.is_none());
                    other.send(b"back", &[files[0].as_fd()]).await.unwrap();
                    timeout(LONG / 6, receiving).await.expect("to be woken").unwrap();
                }
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"back"[..], 1));
            }
            let mut receiving = pin!(one.recv(&mut packet));
            assert!(polled(2, receiving.as_mut()).await.is_none());
            let draining = async {
                for expected in 0..=next {
                    other.recv(&mut drained).await.unwrap();
                    assert_eq!(number(&drained, &files), expected);
                }
            };
            let both = async { tokio::join!(sending, draining).0 };
            timeout(LONG / 6, both).await.expect("to be woken").unwrap();
            assert!(polled(2, receiving.as_mut()).await.is_none());
        }
    });
}

fn full_queues() -> Vec<(&'static str, Channel, Channel)> {
    let mut queues: Vec<_> = KINDS
        .map(|kind| {
            let (one, other) = Channel::pair_of(kind).unwrap();
            (["SEQPACKET", "STREAM", "DGRAM"][KINDS.iter().position(|&k| k == kind).unwrap()], one, other)
        })
        .into();
    let directory = common::directory();
    let path = directory.1.join("socket");
    let (receiver, sender) = (UnixDatagram::bind(&path).unwrap(), UnixDatagram::unbound().unwrap());
    sender.connect(&path).unwrap();
    queues.push(("DGRAM, one way", sender.into(), receiver.into()));
    queues
}

/// H-12: to tokio a socket that had an error, or that was shut down, is closed for ever; on a datagram socket its peer,
/// and who else holds it, can bring that about while it is in use. A send on a full queue, or a receive, then neither
/// fails nor spins: it tries again after a while, each time longer.
#[test]
fn h_12_closed_is_not_for_ever() {
    common::alone("h_12_closed_is_not_for_ever", || {
        one_thread().block_on(async {
            let (_keep, root) = common::directory();
            let [ours, theirs, third] = ["ours", "theirs", "third"].map(|name| root.join(name));
            let socket = UnixDatagram::bind(&ours).unwrap();
            let (peer, _third) = (UnixDatagram::bind(&theirs).unwrap(), UnixDatagram::bind(&third).unwrap());
            socket.connect(&theirs).unwrap();
            peer.connect(&ours).unwrap();
            let same = socket.try_clone().unwrap();
            let channel = AsyncChannel::new(socket.into()).unwrap();
            // Away and back with a message unread: an error here, that the first send is told of.
            channel.send(b"lost", &[]).await.unwrap();
            peer.connect(&third).unwrap();
            peer.connect(&ours).unwrap();
            assert!(matches!(channel.send(b"reset", &[]).await.unwrap_err(), ChannelError::Disconnected));

            peer.set_nonblocking(true).unwrap();
            for _ in 0..3 {
                while channel.get_ref().try_send(b"filler", &[]).is_ok() {}
                let mut sending = pin!(channel.send(b"at last", &[]));
                waits_without_spinning(sending.as_mut()).await;
                let draining = async {
                    while peer.recv(&mut [0; 64]).ok() != Some(7) {
                        yield_now().await;
                    }
                };
                tokio::join!(sending, draining).0.unwrap();
            }
            peer.send(b"before").unwrap();
            same.shutdown(Shutdown::Read).unwrap();
            let mut packet = Packet::new();
            channel.recv(&mut packet).await.unwrap();
            assert_eq!(packet.bytes(), b"before");
            waits_without_spinning(pin!(channel.recv(&mut packet))).await;
        });
    });
}

async fn waits_without_spinning<F: Future>(future: Pin<&mut F>) {
    let (mut polls, start) = (0, Instant::now());
    let waiting = Counted { polls: &mut polls, future };
    assert!(timeout(Duration::from_millis(500), waiting).await.is_err());
    let most = 50 + 2 * start.elapsed().as_millis() / 64;
    assert!(u128::try_from(polls).unwrap() < most, "{polls} polls");
}

/// H-12, H-16: a peer, a process, that is killed while a receive waits, or a send on a full queue, is "disconnected" on
/// each kind that says so; so is one that dies in the middle of a frame, and the descriptors that it had sent are
/// closed.
#[test]
fn h_12_h_16_a_peer_that_dies_meanwhile() {
    common::alone("h_12_h_16_a_peer_that_dies_meanwhile", || {
        let files = files();
        in_each_runtime(async || {
            let before = common::open_fds();
            for kind in KINDS {
                let (here, there) = Channel::pair_of(kind).unwrap();
                // Holds its end and never reads.
                let mut peer =
                    Command::new("sleep").arg("600").stdin(Stdio::from(OwnedFd::from(there))).spawn().unwrap();
                let here = AsyncChannel::new(here).unwrap();
                let len = if kind == Kind::Stream { 100_000 } else { 3000 };
                let next = fill(&here, &files, len);
                let (bytes, lent) = (bytes(next, len), fds(next, &files));
                let mut packet = Packet::new();
                let mut receiving = pin!(here.recv(&mut packet));
                let mut sending = pin!(here.send(&bytes, &lent));
                for _ in 0..3 {
                    assert!(polled(1, receiving.as_mut()).await.is_none());
                    assert!(polled(1, sending.as_mut()).await.is_none());
                }
                peer.kill().unwrap();
                peer.wait().unwrap();
                let error = timeout(LONG, sending).await.expect("to be told").unwrap_err();
                assert!(matches!(error, ChannelError::Disconnected), "{kind:?}: {error}");
                if kind != Kind::Datagram {
                    let error = timeout(LONG, receiving).await.expect("to be told").unwrap_err();
                    assert!(matches!(error, ChannelError::Disconnected), "{kind:?}: {error}");
                }
            }
            let whole = frame(1, &bytes(1, 11));
            for cut in 1..whole.len() {
                let (raw, channel) = raw();
                let mut packet = Packet::new();
                let mut receiving = pin!(channel.recv(&mut packet));
                raw.send_with_fd(&whole[..cut], &[files[1].as_raw_fd()]).unwrap();
                assert!(polled(3, receiving.as_mut()).await.is_none());
                drop(raw);
                assert!(matches!(receiving.await.unwrap_err(), ChannelError::Disconnected), "cut at {cut}");
                assert_eq!(common::open_fds(), before + 1, "the channel");
            }
            assert_eq!(common::open_fds(), before);
        });
    });
}

/// H-12, H-17, K9: while the kernel has no room for descriptors in flight a send waits, in a runtime without time
/// driver, also when there is no descriptor left for a timer; dropped, it has sent nothing; and it goes on once there
/// is room.
#[test]
fn h_12_h_17_congestion_passes() {
    common::alone("h_12_h_17_congestion_passes", || {
        if common::is_root() {
            // A user that nobody else is, so that what is in flight is this test's.
            let own = 300_000 + std::process::id();
            nix::unistd::setresuid(own.into(), own.into(), own.into()).unwrap();
        }
        common::served::limit_descriptors(64);
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let null = File::open("/dev/null").unwrap();
            let lent = [null.as_fd(); 10];
            let (crowd, mut packet) = (Channel::pair().unwrap(), Packet::new());
            let (one, other) = pair(Kind::Stream);
            for full in [false, true] {
                // More than as many descriptors as the limit are in flight: then none more.
                while crowd.0.try_send(b"crowd", &lent).is_ok() {}
                let error = crowd.0.try_send(b"crowd", &lent).unwrap_err();
                assert!(matches!(error, ChannelError::Congested { .. }), "{error}");
                let mut held = vec![];
                while full && let_me(&mut held, &null) {}
                assert!(polled(20, one.send(b"dropped", &lent[..1])).await.is_none());
                let mut sending = pin!(one.send(b"waits", &lent[..1]));
                assert!(polled(20, sending.as_mut()).await.is_none());
                held.clear();
                let room = async {
                    yield_now().await;
                    while crowd.1.try_recv(&mut packet).is_ok() {
                        packet.clear();
                    }
                };
                let (sent, ()) = tokio::join!(sending, room);
                sent.unwrap();
                other.recv(&mut packet).await.unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"waits"[..], 1));
                packet.clear();
            }
        });
    });
}

fn let_me(held: &mut Vec<File>, file: &File) -> bool {
    file.try_clone().map(|file| held.push(file)).is_ok()
}

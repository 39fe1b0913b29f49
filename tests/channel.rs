//! A channel of each kind carries messages both ways, and says how its peer is.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::{Channel, ChannelError, Kind, MAX_FDS, Packet};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

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

fn receive(channel: &Channel) -> Result<(Vec<u8>, Vec<OwnedFd>), ChannelError> {
    let mut packet = Packet::new();
    channel.recv(&mut packet)?;
    Ok((packet.bytes().to_vec(), packet.take_fds().collect()))
}

fn is_close_on_exec(fd: impl AsFd) -> bool {
    FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
}

/// H-01: messages of each kind go both ways, with and without descriptors; ends and descriptors are close-on-exec.
#[test]
fn h_01_both_directions() {
    let null = File::open("/dev/null").unwrap();
    for kind in KINDS {
        let (one, other) = pair(kind);
        for (from, to) in [(&one, &other), (&other, &one)] {
            assert_eq!((from.kind(), to.kind()), (kind, kind));
            assert!(is_close_on_exec(from) && !is_nonblocking(from));
            from.send(b"plain", &[]).unwrap();
            from.send(b"bearing", &[null.as_fd()]).unwrap();
            from.send(b"", &[null.as_fd(), null.as_fd()]).unwrap();
            for (bytes, count) in [(&b"plain"[..], 0), (b"bearing", 1), (b"", 2)] {
                let (received, fds) = receive(to).unwrap();
                assert_eq!((&received[..], fds.len()), (bytes, count), "{kind:?}");
                assert!(fds.iter().all(is_close_on_exec), "{kind:?}");
                assert!(fds.iter().all(|fd| common::identity(fd) == common::identity(&null)), "{kind:?}");
            }
        }
    }
    assert_eq!(Channel::pair().unwrap().0.kind(), Kind::SeqPacket);
}

/// H-01: a channel that is made of a socket from elsewhere has its kind, and is close-on-exec though the socket was
/// not.
#[test]
fn h_01_of_any_socket() {
    for kind in KINDS {
        let (one, other) = pair(kind);
        let socket = OwnedFd::from(one);
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let one = Channel::try_from(socket).unwrap();
        assert_eq!(one.kind(), kind);
        assert!(is_close_on_exec(&one), "{kind:?}");
        other.send(b"still there", &[]).unwrap();
        assert_eq!(receive(&one).unwrap().0, b"still there");
    }
    for kind in [Kind::Stream, Kind::Datagram] {
        let socket = OwnedFd::from(pair(kind).0);
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let channel: Channel = match kind {
            Kind::Stream => UnixStream::from(socket).into(),
            _ => UnixDatagram::from(socket).into(),
        };
        assert_eq!(channel.kind(), kind);
        assert!(is_close_on_exec(&channel), "{kind:?}");
    }
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let strangers = [File::open("/dev/null").unwrap().into(), OwnedFd::from(tcp)];
    for stranger in strangers {
        assert!(matches!(Channel::try_from(stranger), Err(ChannelError::NotASocket)));
    }
}

/// H-01: non-blocking is for the end that asked, and can be taken back.
#[test]
fn h_01_non_blocking_on_request() {
    for kind in KINDS {
        let (one, other) = pair(kind);
        one.set_nonblocking(true).unwrap();
        assert!(is_nonblocking(&one) && !is_nonblocking(&other));
        assert!(matches!(receive(&one), Err(ChannelError::WouldBlock)), "{kind:?}");
        other.send(b"now", &[]).unwrap();
        assert_eq!(receive(&one).unwrap().0, b"now");

        one.set_nonblocking(false).unwrap();
        assert!(!is_nonblocking(&one));
        one.set_recv_timeout(Some(SHORT)).unwrap();
        assert!(matches!(receive(&one), Err(ChannelError::TimedOut)), "{kind:?}");
    }
}

/// H-01: a hang-up is seen on SEQPACKET and STREAM, again and again, by receive and by send.
#[test]
fn h_01_hang_up_is_seen() {
    for kind in [Kind::SeqPacket, Kind::Stream] {
        let (one, other) = pair(kind);
        drop(other);
        for _ in 0..3 {
            assert!(matches!(receive(&one), Err(ChannelError::Disconnected)), "{kind:?}");
            assert!(matches!(one.send(b"x", &[]), Err(ChannelError::Disconnected)), "{kind:?}");
        }
    }
}

/// H-01, K17: DGRAM never sees a hang-up when it receives, as the documentation says; only a send does.
#[test]
fn h_01_datagram_sees_no_hang_up() {
    let (one, other) = pair(Kind::Datagram);
    drop(other);
    one.set_recv_timeout(Some(SHORT)).unwrap();
    assert!(matches!(receive(&one), Err(ChannelError::TimedOut)));
    for _ in 0..3 {
        assert!(matches!(one.send(b"x", &[]), Err(ChannelError::Disconnected)));
    }
    one.set_nonblocking(true).unwrap();
    assert!(matches!(receive(&one), Err(ChannelError::WouldBlock)));
}

/// H-16, K27: what a peer sent before it died comes first, also when it died with our messages unread (ECONNRESET).
#[test]
fn h_16_the_last_words_are_heard() {
    let null = File::open("/dev/null").unwrap();
    for kind in KINDS {
        for unread in [0, 1, 5] {
            let (one, other) = pair(kind);
            for _ in 0..unread {
                one.send(b"never read", &[null.as_fd()]).unwrap();
            }
            other.send(b"the will", &[null.as_fd()]).unwrap();
            other.send(b"farewell", &[]).unwrap();
            drop(other);

            let (bytes, fds) = receive(&one).unwrap_or_else(|error| panic!("{kind:?}, {unread} unread: {error}"));
            assert_eq!((&bytes[..], fds.len()), (&b"the will"[..], 1));
            assert_eq!(receive(&one).unwrap().0, b"farewell");
            if kind != Kind::Datagram {
                assert!(matches!(receive(&one), Err(ChannelError::Disconnected)), "{kind:?}");
            }
        }
    }
}

/// H-16, K27: a peer that died with our messages unread is "disconnected" to each of receive and send, in either order.
#[test]
fn h_16_one_disconnected() {
    for kind in [Kind::SeqPacket, Kind::Stream] {
        for send_first in [true, false] {
            let (one, other) = pair(kind);
            one.send(b"never read", &[]).unwrap();
            drop(other);
            for turn in 0..4 {
                let result = if (turn % 2 == 0) == send_first { one.send(b"x", &[]) } else { receive(&one).map(drop) };
                assert!(matches!(result, Err(ChannelError::Disconnected)), "{kind:?}, turn {turn}: {result:?}");
            }
        }
    }
}

/// H-03, K3: any number of descriptors up to 253 arrives, in order, each the same open file with one offset; 254 are
/// refused, and nothing is sent.
#[test]
fn h_03_the_same_open_files() {
    // 253 files at either end.
    common::alone_with(1024, "h_03_the_same_open_files", || {
        for kind in KINDS {
            let (one, mut other) = pair(kind);
            other.set_max_fds(MAX_FDS);
            for count in [0, 1, 2, 252, 253] {
                same_open_files(&one, &other, count);
            }
            let null = File::open("/dev/null").unwrap();
            for count in [254, 255, 1000] {
                let result = one.send(b"x", &vec![null.as_fd(); count]);
                assert!(matches!(result, Err(ChannelError::TooManyDescriptors { budget: 253 })), "{kind:?}");
            }
            other.set_nonblocking(true).unwrap();
            assert!(matches!(receive(&other), Err(ChannelError::WouldBlock)), "{kind:?}");
        }
    });
}

fn same_open_files(from: &Channel, to: &Channel, count: u32) {
    let files: Vec<File> = (0..count).map(|number| file_at(u64::from(number))).collect();
    let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    from.send(&count.to_le_bytes(), &fds).unwrap();

    let (bytes, received) = receive(to).unwrap();
    assert_eq!(bytes, count.to_le_bytes());
    assert_eq!(received.len(), files.len());
    for ((number, sent), received) in (0..).zip(&files).zip(received) {
        assert!(is_close_on_exec(&received));
        assert_eq!(common::identity(&received), common::identity(sent));
        let (mut sent, mut received) = (sent, File::from(received));
        assert_eq!(received.stream_position().unwrap(), number);
        received.seek(SeekFrom::Start(1000 + number)).unwrap();
        assert_eq!(sent.stream_position().unwrap(), 1000 + number);
    }
}

fn file_at(offset: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file
}

/// H-02: between two threads each message is received once and whole, though each end is used by two of them.
#[test]
fn h_02_threads() {
    const EACH: u32 = 500;
    let null = File::open("/dev/null").unwrap();
    for kind in KINDS {
        // On a stream some are more than its queue holds, so that their senders wait in their middle.
        let long = if kind == Kind::Stream { 100_000 } else { 15_000 };
        let content = |name: u32| name.to_le_bytes().repeat(if name % 7 == 0 { long } else { 50 });
        let (one, other) = pair(kind);
        let send = |sender: u32| {
            for number in 0..EACH {
                // The descriptors' number is told by the bytes: it must still be right at the other end.
                let name = sender * EACH + number;
                one.send(&content(name), &vec![null.as_fd(); (number % 3) as usize]).unwrap();
            }
        };
        let collect = || {
            let mut names = Vec::new();
            let mut packet = Packet::with_capacity(400_000);
            for _ in 0..EACH {
                other.recv(&mut packet).unwrap();
                let name = u32::from_le_bytes(*packet.bytes().first_chunk().unwrap());
                assert!(packet.bytes() == content(name), "{kind:?}, {name}");
                assert_eq!(packet.fds().len(), (name % EACH % 3) as usize, "{kind:?}");
                names.push(name);
            }
            names
        };
        let mut names = thread::scope(|scope| {
            let senders = [0, 1].map(|sender| scope.spawn(move || send(sender)));
            let receivers = [(); 2].map(|()| scope.spawn(collect));
            senders.into_iter().for_each(|sender| sender.join().unwrap());
            receivers.into_iter().flat_map(|receiver| receiver.join().unwrap()).collect::<Vec<_>>()
        });
        names.sort_unstable();
        assert_eq!(names, (0..2 * EACH).collect::<Vec<_>>(), "{kind:?}");
    }
}

/// H-02: a thread that waits in a receive is woken when the other end is dropped.
#[test]
fn h_02_a_waiting_thread_is_woken() {
    for kind in [Kind::SeqPacket, Kind::Stream] {
        let (one, other) = pair(kind);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| receive(&one));
            other.send(b"so it runs", &[]).unwrap();
            assert_eq!(waiting.join().unwrap().unwrap().0, b"so it runs");
            let waiting = scope.spawn(|| receive(&one));
            drop(other);
            assert!(matches!(waiting.join().unwrap(), Err(ChannelError::Disconnected)), "{kind:?}");
        });
    }
}

/// K31: a full queue is "would block" when non-blocking, "timed out" with a send timeout; then each message that was
/// taken arrives, and there is room again.
#[test]
fn k31_a_full_queue() {
    for kind in KINDS {
        let (one, other) = pair(kind);
        one.set_nonblocking(true).unwrap();
        let message = [7; 1000];
        let mut taken = 0;
        let error = loop {
            match one.send(&message, &[]) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        // A stream's message that has begun is sent to its end, so the error means that none of it was.
        assert!(matches!(error, ChannelError::WouldBlock), "{kind:?}: {error}");
        assert!(taken > 0);

        one.set_nonblocking(false).unwrap();
        one.set_send_timeout(Some(SHORT)).unwrap();
        let start = Instant::now();
        assert!(matches!(one.send(&message, &[]), Err(ChannelError::TimedOut)), "{kind:?}");
        assert!(start.elapsed() >= SHORT - common::TICK);

        for _ in 0..taken {
            assert_eq!(receive(&other).unwrap().0, message, "{kind:?}");
        }
        one.send(b"room again", &[]).unwrap();
        assert_eq!(receive(&other).unwrap().0, b"room again", "{kind:?}");
    }
}

/// K31: a message over the kernel's maximum is "too large", nothing is sent, and the channel goes on. A stream has
/// none.
#[test]
fn k31_over_the_kernels_maximum() {
    let null = File::open("/dev/null").unwrap();
    let huge = vec![7; 16 << 20];
    for kind in [Kind::SeqPacket, Kind::Datagram] {
        let (one, other) = pair(kind);
        assert!(matches!(one.send(&huge, &[null.as_fd()]), Err(ChannelError::TooLarge)), "{kind:?}");
        one.send(b"small", &[]).unwrap();
        assert_eq!(receive(&other).unwrap().0, b"small");
    }
    let (one, other) = pair(Kind::Stream);
    thread::scope(|scope| {
        scope.spawn(|| one.send(&huge, &[null.as_fd()]).unwrap());
        let mut packet = Packet::with_capacity(huge.len());
        other.recv(&mut packet).unwrap();
        assert!(packet.bytes() == huge);
        assert_eq!(packet.fds().len(), 1);
    });
}

/// K31: where root has made the queue larger than any message can be, the kernel's answer is ENOBUFS; it is "too large"
/// too, and is not waited for.
#[test]
fn k31_over_the_kernels_maximum_in_a_large_queue() {
    common::alone("k31_over_the_kernels_maximum_in_a_large_queue", || {
        let huge = vec![7; 16 << 20];
        for kind in [Kind::SeqPacket, Kind::Datagram] {
            let (one, other) = pair(kind);
            if let Err(errno) = setsockopt(&one, sockopt::SndBufForce, &(256 << 20)) {
                eprintln!("SKIPPED: the queue cannot be made so large: {errno}");
                return;
            }
            assert!(matches!(one.send(&huge, &[]), Err(ChannelError::TooLarge)), "{kind:?}");
            one.send(&huge[..1 << 20], &[]).unwrap();
            let mut packet = Packet::with_capacity(1 << 20);
            other.recv(&mut packet).unwrap();
            assert!(packet.bytes() == &huge[..1 << 20], "{kind:?}");
        }
    });
}

/// K25: a stream's message that does not fit the queue at once arrives whole, its descriptors once, also through a
/// non-blocking end.
#[test]
fn k25_a_short_write_is_finished() {
    let null = File::open("/dev/null").unwrap();
    let (one, mut other) = pair(Kind::Stream);
    other.set_max_fds(MAX_FDS);
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    let long: Vec<u8> = (0..2u32 << 20).flat_map(u32::to_le_bytes).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(one.send(&long, &[null.as_fd(); 253]), Err(ChannelError::Unfinished)));
            // What follows waits for the rest of it.
            while let Err(error) = one.send(b"next", &[]) {
                assert!(matches!(error, ChannelError::WouldBlock));
                thread::yield_now();
            }
        });
        let mut packet = Packet::with_capacity(long.len());
        for (bytes, count) in [(&long[..], 253), (b"next", 0)] {
            while let Err(error) = other.recv(&mut packet) {
                assert!(matches!(error, ChannelError::WouldBlock), "{error}");
                thread::yield_now();
            }
            assert!(packet.bytes() == bytes);
            assert_eq!(packet.fds().len(), count);
        }
    });
}

/// K1: a message of nothing is not sent, since its receiver could not tell it from a hang-up.
#[test]
fn k1_a_message_of_nothing_is_not_sent() {
    for kind in KINDS {
        let (one, other) = pair(kind);
        assert!(matches!(one.send(b"", &[]), Err(ChannelError::Empty)));
        other.set_nonblocking(true).unwrap();
        assert!(matches!(receive(&other), Err(ChannelError::WouldBlock)), "{kind:?}");
    }
}

/// H-06: a receive that times out loses nothing of what comes later.
#[test]
fn h_06_a_timeout_loses_nothing() {
    let null = File::open("/dev/null").unwrap();
    for kind in KINDS {
        let (one, other) = pair(kind);
        // Zero is "for ever" to the kernel; here it is the shortest wait.
        for timeout in [Duration::ZERO, Duration::from_nanos(1), SHORT] {
            one.set_recv_timeout(Some(timeout)).unwrap();
            assert!(matches!(receive(&one), Err(ChannelError::TimedOut)), "{kind:?}");
            other.send(b"late", &[null.as_fd()]).unwrap();
            let (bytes, fds) = receive(&one).unwrap();
            assert_eq!((&bytes[..], fds.len()), (&b"late"[..], 1));
        }
        for timeout in [Duration::MAX, Duration::from_secs(u64::from(u32::MAX))] {
            one.set_recv_timeout(Some(timeout)).unwrap();
            one.set_send_timeout(Some(timeout)).unwrap();
        }
    }
}

/// H-06: a stream's timeout in the middle of a message keeps what has come; the next receive goes on with it.
#[test]
fn h_06_a_stream_cut_short_by_a_timeout() {
    let (mut raw, socket) = UnixStream::pair().unwrap();
    let channel = Channel::from(socket);
    channel.set_recv_timeout(Some(SHORT)).unwrap();
    for piece in [&[5, 0, 0, 0, 0, 0][..], &[0, 0, 1, 2], &[3, 4]] {
        raw.write_all(piece).unwrap();
        assert!(matches!(receive(&channel), Err(ChannelError::TimedOut)));
    }
    raw.write_all(&[5]).unwrap();
    assert_eq!(receive(&channel).unwrap().0, [1, 2, 3, 4, 5]);
}

/// H-16, K1: empty messages of a peer that is no `Channel`, and has gone, do not hide what is queued behind them.
#[test]
fn h_16_k1_behind_empty_messages() {
    let null = File::open("/dev/null").unwrap();
    let (one, other) = pair(Kind::SeqPacket);
    for message in [&b""[..], b"", b"the grant"] {
        let fds: &[BorrowedFd<'_>] = if message.is_empty() { &[] } else { &[null.as_fd()] };
        fdbroker::raw::send(&one, message, fds).unwrap();
    }
    drop(one);
    let received: Vec<_> = std::iter::from_fn(|| receive(&other).ok()).collect();
    let received: Vec<_> = received.iter().map(|(bytes, fds)| (&bytes[..], fds.len())).collect();
    assert_eq!(received, [(&b""[..], 0), (b"", 0), (b"the grant", 1)]);
    assert!(matches!(receive(&other), Err(ChannelError::Disconnected)));
}

/// H-16, K17: a datagram end that another holder of it has shut down is at its end: no empty messages without end, and
/// no deadline that is waited for in a loop.
#[test]
fn h_16_k17_a_datagram_end_that_was_shut_down() {
    let (one, other) = pair(Kind::Datagram);
    let elsewhere = UnixDatagram::from(one.as_fd().try_clone_to_owned().unwrap());
    other.send(b"before", &[]).unwrap();
    elsewhere.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(receive(&one).unwrap().0, b"before");
    let late = Instant::now() + LONG;
    for _ in 0..2 {
        assert!(matches!(receive(&one), Err(ChannelError::Disconnected)));
        assert!(matches!(one.recv_deadline(&mut Packet::new(), late), Err(ChannelError::Disconnected)));
    }
}

/// H-01: a socket that listens is no channel, nor is one of another family.
#[test]
fn h_01_of_no_other_socket() {
    let (directory, _) = common::directory();
    let listener = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for fd in [OwnedFd::from(listener), tcp.into(), File::open("/dev/null").unwrap().into()] {
        assert!(matches!(Channel::try_from(fd), Err(ChannelError::NotASocket)));
    }
}

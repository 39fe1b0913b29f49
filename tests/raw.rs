//! `fdbroker::raw`: one sendmsg, one recvmsg on any UNIX socket; what it reports is true, and nothing leaks.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::raw::{self, Ancillary, Received};
use fdbroker::{Channel, ChannelError, MAX_FDS, PidFd};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

/// Long enough for any machine; a test that waits for it fails.
const LONG: i64 = 60;

/// A socket of each type, as different crates hold them.
#[derive(Debug)]
enum Socket {
    Stream(UnixStream),
    Datagram(UnixDatagram),
    SeqPacket(OwnedFd),
}

use Socket::{Datagram, SeqPacket, Stream};

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream(socket) => socket.as_fd(),
            Datagram(socket) => socket.as_fd(),
            SeqPacket(socket) => socket.as_fd(),
        }
    }
}

/// A pair of each, with timeouts.
fn pairs() -> [(Socket, Socket); 3] {
    let (a, b) = UnixStream::pair().unwrap();
    let (c, d) = UnixDatagram::pair().unwrap();
    let (e, f) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let pairs = [(Stream(a), Stream(b)), (Datagram(c), Datagram(d)), (SeqPacket(e), SeqPacket(f))];
    for end in pairs.iter().flat_map(|(one, other)| [one, other]) {
        let long = nix::sys::time::TimeVal::new(LONG, 0);
        setsockopt(end, sockopt::ReceiveTimeout, &long).unwrap();
        setsockopt(end, sockopt::SendTimeout, &long).unwrap();
    }
    pairs
}

/// With room for 64 bytes.
fn receive(socket: &Socket, ancillary: &mut Ancillary) -> Received {
    raw::recv(socket, &mut [0; 64], ancillary).unwrap()
}

/// Length, bytes cut, ancillary cut, hung up.
fn said(received: Received) -> (usize, bool, bool, bool) {
    (received.len, received.bytes_cut, received.ancillary_cut, received.hung_up)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_raw(result.unwrap_err().raw_os_error().unwrap())
}

fn nonblocking(socket: &Socket) {
    fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
}

/// H-03, K3: every number of descriptors that a message can have arrives, in order and close-on-exec, on every type of
/// socket; one more is EINVAL, and nothing is sent.
#[test]
fn h_03_k3_every_number_of_descriptors() {
    common::alone("h_03_k3_every_number_of_descriptors", || {
        let files: Vec<_> = (0..=MAX_FDS).map(|_| tempfile::tempfile().unwrap()).collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let identities: Vec<_> = files.iter().map(common::identity).collect();
        let mut ancillary = Ancillary::new(MAX_FDS);
        for (one, other) in pairs() {
            let before = common::open_fds();
            for count in 0..=MAX_FDS {
                assert_eq!(raw::send(&one, b"some", &fds[..count]).unwrap(), 4);
                assert_eq!(said(receive(&other, &mut ancillary)), (4, false, false, false), "{count} of {one:?}");
                assert!(ancillary.fds().iter().map(common::identity).eq(identities[..count].iter().copied()));
                assert!(ancillary.fds().iter().all(is_close_on_exec));
            }
            assert_eq!(errno(raw::send(&one, b"more", &fds)), Errno::EINVAL);
            nonblocking(&other);
            assert_eq!(errno(raw::recv(&other, &mut [0; 64], &mut ancillary)), Errno::EAGAIN);
            assert!(ancillary.fds().is_empty());
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// K19: of more descriptors than there is room for, none stays open but those that there was room for, and that
/// something was cut is said; with exactly enough room nothing is. No room is room for none.
#[test]
fn k19_a_surplus_is_closed() {
    common::alone("k19_a_surplus_is_closed", || {
        let null = null();
        for (one, other) in pairs() {
            let before = common::open_fds();
            for room in [0, 1, 2, 3, 4, 16, 252, MAX_FDS] {
                for sent in [0, 1, 2, 3, 4, 5, 17, MAX_FDS] {
                    let mut ancillary = Ancillary::new(room);
                    raw::send(&one, b"some", &vec![null.as_fd(); sent]).unwrap();
                    let received = receive(&other, &mut ancillary);
                    assert_eq!(said(received), (4, false, sent > room, false), "{sent} into {room} of {one:?}");
                    assert_eq!(ancillary.fds().len(), sent.min(room));
                    assert_eq!(common::open_fds(), before + sent.min(room));
                }
                assert_eq!(common::open_fds(), before);
            }
        }
        // More room than a message needs is as much as it needs.
        let mut ancillary = Ancillary::new(usize::MAX);
        let [(one, other), ..] = pairs();
        raw::send(&one, b"x", &[null.as_fd(); MAX_FDS]).unwrap();
        assert_eq!(said(receive(&other, &mut ancillary)), (1, false, false, false));
    });
}

/// K2: with every number of free descriptors that is too low, a full table is said, and what came is a part.
#[test]
fn k2_a_full_table_is_said() {
    common::alone_with(64, "k2_a_full_table_is_said", || {
        let null = null();
        for (one, other) in pairs() {
            for free in 0..=3 {
                let before = common::open_fds();
                send_when_possible(&one, b"some", &[null.as_fd(); 3]);
                let mut filled: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
                filled.truncate(filled.len() - free);
                let mut ancillary = Ancillary::new(16);
                let received = receive(&other, &mut ancillary);
                drop(filled);
                assert_eq!(said(received), (4, false, free < 3, false), "{free} free, {one:?}");
                assert!(ancillary.fds().len() <= free);
                drop(ancillary);
                assert_eq!(common::open_fds(), before);
            }
        }
    });
}

/// K24: a message that is longer than the buffer is cut, which is said, and its descriptors are there; a stream gives
/// the rest to the next receive, without descriptors.
#[test]
fn k24_cut_bytes_are_said() {
    let null = null();
    for (one, other) in pairs() {
        let (mut bytes, mut ancillary) = ([0; 4], Ancillary::new(4));
        raw::send(&one, b"0123456789", &[null.as_fd(); 2]).unwrap();
        raw::send(&one, b"abc", &[null.as_fd()]).unwrap();
        let received = raw::recv(&other, &mut bytes, &mut ancillary).unwrap();
        let on_stream = matches!(one, Stream(_));
        assert_eq!(said(received), (4, !on_stream, false, false), "{one:?}");
        assert_eq!((&bytes, ancillary.fds().len()), (b"0123", 2));
        // Not a byte more: the kernel would go on with the next message, and its descriptor (K24).
        for rest in [&b"4567"[..], b"89"].into_iter().filter(|_| on_stream) {
            let received = raw::recv(&other, &mut bytes[..rest.len()], &mut ancillary).unwrap();
            assert_eq!(said(received), (rest.len(), false, false, false));
            assert_eq!((&bytes[..rest.len()], ancillary.fds().len()), (rest, 0));
        }
        let received = raw::recv(&other, &mut bytes, &mut ancillary).unwrap();
        assert_eq!((said(received), ancillary.fds().len()), ((3, false, false, false), 1));
    }
}

/// K24, K1: descriptors without a byte are EINVAL on a stream, where the kernel would drop them; on the others they are
/// a message, which is no hang-up, also where there is no room for them.
#[test]
fn k24_k1_descriptors_without_bytes() {
    common::alone("k24_k1_descriptors_without_bytes", || {
        let null = null();
        for (one, other) in pairs() {
            let before = common::open_fds();
            if matches!(one, Stream(_)) {
                assert_eq!(errno(raw::send(&one, b"", &[null.as_fd()])), Errno::EINVAL);
                raw::send(&one, b"x", &[]).unwrap();
                let mut ancillary = Ancillary::new(4);
                assert_eq!(said(receive(&other, &mut ancillary)), (1, false, false, false));
                assert!(ancillary.fds().is_empty());
                continue;
            }
            for room in 0..4 {
                raw::send(&one, b"", &[null.as_fd(); 2]).unwrap();
                let mut ancillary = Ancillary::new(room);
                assert_eq!(said(receive(&other, &mut ancillary)), (0, false, room < 2, false), "room {room}, {one:?}");
                assert_eq!(ancillary.fds().len(), room.min(2));
            }
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// H-01, K17: a peer that is gone is a hang-up, again and again, after what it sent, with whatever room and options;
/// not to a datagram socket, and not to a receive of no bytes.
#[test]
fn h_01_a_hang_up_is_said() {
    for (credentials, pidfd) in [(false, false), (true, false), (false, true), (true, true)] {
        for make in [|| Ancillary::new(0), || Ancillary::new(3), || Ancillary::new(3).with_sender()] {
            for (one, other) in pairs() {
                let mut ancillary = make();
                pass_sender(&other, credentials, pidfd);
                raw::send(&one, b"last words", &[]).unwrap();
                drop(one);
                assert_eq!(receive(&other, &mut ancillary).len, 10);
                if matches!(other, Datagram(_)) {
                    nonblocking(&other);
                    assert_eq!(errno(raw::recv(&other, &mut [0; 64], &mut ancillary)), Errno::EAGAIN);
                    continue;
                }
                for _ in 0..3 {
                    let received = receive(&other, &mut ancillary);
                    assert_eq!(
                        said(received),
                        (0, false, false, true),
                        "{other:?} {credentials} {pidfd} {ancillary:?}"
                    );
                    assert!(ancillary.sender().is_none() && ancillary.take_sender_pidfd().is_none());
                }
                assert!(!raw::recv(&other, &mut [], &mut ancillary).unwrap().hung_up);
            }
        }
    }
}

/// H-07, H-14: with room for the sender, its credentials and its pidfd come beside the descriptors, which lose no room
/// by it.
#[test]
fn h_07_h_14_with_sender() {
    common::alone("h_07_h_14_with_sender", || {
        let null = null();
        for (one, other) in pairs() {
            let pidfd = pass_sender(&other, true, true);
            let before = common::open_fds();
            for room in 0..5 {
                let mut ancillary = Ancillary::new(room).with_sender();
                raw::send(&one, b"who?", &vec![null.as_fd(); room]).unwrap();
                assert_eq!(said(receive(&other, &mut ancillary)), (4, false, false, false), "room {room} of {one:?}");
                assert_eq!(ancillary.fds().len(), room);
                let sender = ancillary.sender().unwrap();
                assert_eq!(sender.pid, Some(std::process::id()));
                assert_eq!(sender.uid, nix::unistd::getuid().as_raw());
                assert_eq!(sender.gid, nix::unistd::getgid().as_raw());
                if let Some(taken) = ancillary.take_sender_pidfd() {
                    assert_eq!(process_of(&taken), std::process::id());
                    assert!(is_close_on_exec(&taken));
                } else {
                    assert!(!pidfd, "the kernel gives pidfds, and none came");
                }
                assert!(ancillary.take_sender_pidfd().is_none());
                drop(ancillary);
                assert_eq!(common::open_fds(), before);
            }
        }
    });
}

/// H-14, K22: each number of descriptors with each room, whether the socket adds credentials and a pidfd, and whether
/// there is room for those: unless something is said to be cut, everything is there, never more than the room, and
/// nothing leaks.
#[test]
fn h_14_k22_every_mixture() {
    common::alone("h_14_k22_every_mixture", || {
        let null = null();
        for (one, other) in pairs() {
            let before = common::open_fds();
            for mixture in 0..8 {
                let [credentials, pidfd, with_sender] = [1, 2, 4].map(|bit| mixture & bit != 0);
                let pidfd = pass_sender(&other, credentials, pidfd);
                for (room, sent) in (0..8).flat_map(|room| (0..8).map(move |sent| (room, sent))) {
                    let mut ancillary = Ancillary::new(room);
                    if with_sender {
                        ancillary = ancillary.with_sender();
                    }
                    raw::send(&one, b"some", &vec![null.as_fd(); sent]).unwrap();
                    let received = receive(&other, &mut ancillary);
                    let case =
                        format!("{sent} into {room} of {one:?}, {credentials} {pidfd} {with_sender}: {received:?}");
                    assert_eq!((received.len, received.bytes_cut, received.hung_up), (4, false, false), "{case}");
                    assert!(ancillary.fds().len() <= room.min(sent), "{case}");
                    assert!(ancillary.fds().iter().all(|fd| common::identity(fd) == common::identity(&null)), "{case}");
                    if !received.ancillary_cut {
                        assert_eq!(ancillary.fds().len(), sent, "{case}");
                        assert_eq!(ancillary.sender().is_some(), credentials, "{case}");
                        assert_eq!(ancillary.take_sender_pidfd().is_some(), pidfd, "{case}");
                    }
                    // Where nothing is missing there is nothing to say.
                    let due = sent <= room && (with_sender || !(credentials || pidfd));
                    assert!(!(due && received.ancillary_cut), "{case}");
                    drop(ancillary);
                    assert_eq!(common::open_fds(), before, "{case}");
                }
            }
        }
    });
}

/// What nobody took is closed by the next receive, also by one that fails, and with its `Ancillary`.
#[test]
fn what_nobody_took_is_closed() {
    common::alone("what_nobody_took_is_closed", || {
        let null = null();
        for (one, other) in pairs() {
            nonblocking(&other);
            let before = common::open_fds();
            let mut ancillary = Ancillary::new(4);
            for count in [3, 2] {
                raw::send(&one, b"x", &[null.as_fd(); 4][..count]).unwrap();
                receive(&other, &mut ancillary);
                assert_eq!((ancillary.fds().len(), common::open_fds()), (count, before + count));
            }
            let one_of_two = ancillary.take_fds().next().unwrap();
            assert_eq!((ancillary.fds().len(), common::open_fds()), (0, before + 1));
            drop(one_of_two);
            raw::send(&one, b"x", &[null.as_fd(); 4]).unwrap();
            receive(&other, &mut ancillary);
            assert_eq!(errno(raw::recv(&other, &mut [0; 64], &mut ancillary)), Errno::EAGAIN);
            assert_eq!((ancillary.fds().len(), common::open_fds()), (0, before));
            raw::send(&one, b"x", &[null.as_fd(); 4]).unwrap();
            receive(&other, &mut ancillary);
            drop(ancillary);
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// K31: a full queue and an empty one are EAGAIN to a non-blocking socket; everything that was taken arrives.
#[test]
fn k31_non_blocking() {
    let null = null();
    for (one, other) in pairs() {
        nonblocking(&one);
        nonblocking(&other);
        let mut ancillary = Ancillary::new(1);
        assert_eq!(errno(raw::recv(&other, &mut [0; 64], &mut ancillary)), Errno::EAGAIN);
        let mut sent = 0;
        let full = loop {
            // 100 at most in flight, which are counted for the whole user (K9).
            let fds = &[null.as_fd()][..usize::from(sent < 100)];
            match raw::send(&one, b"y", fds) {
                Ok(length) => sent += length,
                Err(error) => break error,
            }
        };
        assert_eq!(full.raw_os_error(), Some(libc::EAGAIN), "{one:?} after {sent}");
        let (mut bytes, mut fds) = (0, 0);
        while bytes < sent {
            let received = receive(&other, &mut ancillary);
            assert!(!received.ancillary_cut && received.len > 0, "{received:?}");
            bytes += received.len;
            fds += ancillary.fds().len();
        }
        assert_eq!((bytes, fds), (sent, sent.min(100)));
        assert_eq!(errno(raw::recv(&other, &mut [0; 64], &mut ancillary)), Errno::EAGAIN);
        raw::send(&one, b"again", &[]).unwrap();
    }
}

/// K25: of a long message a stream that is full takes the first bytes, with all the descriptors; the caller sends the
/// rest without.
#[test]
fn k25_a_short_write() {
    let null = null();
    let [(one, other), ..] = pairs();
    nonblocking(&one);
    let long = vec![b'z'; 4 << 20];
    let mut sent = raw::send(&one, &long, &[null.as_fd(); 2]).unwrap();
    assert!(sent > 0 && sent < long.len());
    let (mut bytes, mut ancillary, mut received, mut fds) = (vec![0; 100_000], Ancillary::new(4), 0, Vec::new());
    while received < long.len() {
        received += raw::recv(&other, &mut bytes, &mut ancillary).unwrap().len;
        fds.push(ancillary.fds().len());
        match raw::send(&one, &long[sent..], &[]) {
            Ok(more) => sent += more,
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAGAIN)),
        }
    }
    assert_eq!((fds[0], fds.iter().sum::<usize>()), (2, 2));
}

/// A timeout of the socket is EAGAIN, and loses nothing of what comes later.
#[test]
fn a_timeout_of_the_socket() {
    for (one, other) in pairs() {
        setsockopt(&other, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 50_000)).unwrap();
        let mut ancillary = Ancillary::new(1);
        assert_eq!(errno(raw::recv(&other, &mut [0; 64], &mut ancillary)), Errno::EAGAIN);
        raw::send(&one, b"late", &[null().as_fd()]).unwrap();
        assert_eq!(said(receive(&other, &mut ancillary)), (4, false, false, false));
        assert_eq!(ancillary.fds().len(), 1);
    }
}

/// P-16: a receive and a send that wait go on waiting when signals interrupt them.
#[test]
fn p_16_signals() {
    static SIGNALS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    common::alone("p_16_signals", || {
        // Without SA_RESTART.
        let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler adds to an atomic number, which is allowed in a handler.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let null = null();
        for (one, other) in pairs() {
            // Until a hundred signals have been handled, by a thread that waits for nearly all of its time.
            let signalled = |work: &(dyn Fn() + Sync), finish: &dyn Fn()| {
                let start = SIGNALS.load(Ordering::Relaxed);
                let done = AtomicBool::new(false);
                thread::scope(|scope| {
                    let (tell, told) = std::sync::mpsc::channel();
                    let done = &done;
                    scope.spawn(move || {
                        tell.send(nix::unistd::gettid()).unwrap();
                        work();
                        done.store(true, Ordering::Relaxed);
                    });
                    let thread = told.recv().unwrap();
                    while SIGNALS.load(Ordering::Relaxed) < start + 100 {
                        assert!(!done.load(Ordering::Relaxed), "it did not wait");
                        interrupt(thread);
                        thread::sleep(Duration::from_micros(100));
                    }
                    finish();
                });
            };
            signalled(
                &|| {
                    let mut ancillary = Ancillary::new(2);
                    assert_eq!(said(receive(&other, &mut ancillary)), (4, false, false, false));
                    assert_eq!(ancillary.fds().len(), 2);
                },
                &|| assert_eq!(raw::send(&one, b"some", &[null.as_fd(); 2]).unwrap(), 4),
            );
            let filled = fill(&one);
            signalled(&|| assert_eq!(raw::send(&one, b"last", &[null.as_fd()]).unwrap(), 4), &|| {
                let (mut ancillary, mut received, mut fds) = (Ancillary::new(1), 0, 0);
                while received < filled + 4 {
                    received += receive(&other, &mut ancillary).len;
                    fds += ancillary.fds().len();
                }
                assert_eq!((received, fds), (filled + 4, 1));
            });
        }
    });
}

/// K27: the errors of a dead peer are the kernel's own, by the type of the socket and by whether it died with our
/// message unread; no descriptor is lost to them.
#[test]
fn k27_a_dead_peer() {
    common::alone("k27_a_dead_peer", || {
        let null = null();
        for unread in [false, true] {
            for (one, other) in pairs() {
                if unread {
                    raw::send(&one, b"unread", &[null.as_fd()]).unwrap();
                }
                drop(other);
                let before = common::open_fds();
                let expected = match one {
                    Datagram(_) => Errno::ECONNREFUSED,
                    SeqPacket(_) if unread => Errno::ECONNRESET,
                    _ => Errno::EPIPE,
                };
                let result = raw::send(&one, b"x", &[null.as_fd(); 3]);
                assert_eq!(errno(result), expected, "{one:?}, unread: {unread}");
                assert_eq!(common::open_fds(), before);
            }
        }
    });
}

/// H-03: both ends have one open file description, with one offset; the sender's descriptor is the sender's still.
#[test]
fn h_03_one_offset() {
    for (one, other) in pairs() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        raw::send(&one, b"x", &[file.as_fd()]).unwrap();
        let mut ancillary = Ancillary::new(1);
        receive(&other, &mut ancillary);
        let mut received = File::from(ancillary.take_fds().next().unwrap());
        file.seek(SeekFrom::Start(4)).unwrap();
        assert_eq!(received.stream_position().unwrap(), 4);
        drop(received);
        assert_eq!(file.stream_position().unwrap(), 4);
    }
}

/// What is no socket, and one that is not connected, is an error of the kernel's.
#[test]
fn what_is_no_socket() {
    let (null, mut ancillary) = (null(), Ancillary::new(1));
    for fds in [&[][..], &[null.as_fd()]] {
        assert_eq!(errno(raw::send(&null, b"x", fds)), Errno::ENOTSOCK);
    }
    assert_eq!(errno(raw::recv(&null, &mut [0; 1], &mut ancillary)), Errno::ENOTSOCK);
    let unconnected = UnixDatagram::unbound().unwrap();
    assert_eq!(errno(raw::send(&unconnected, b"x", &[null.as_fd()])), Errno::ENOTCONN);
}

/// Asks the kernel to add the sender to each message. The options are the socket's, so a channel over a duplicate sets
/// them. Answers whether the kernel will give a pidfd.
fn pass_sender(socket: &Socket, credentials: bool, pidfd: bool) -> bool {
    let mut channel = Channel::try_from(socket.as_fd().try_clone_to_owned().unwrap()).unwrap();
    channel.set_sender_credentials(credentials).unwrap();
    match channel.set_sender_pidfd(pidfd) {
        Err(ChannelError::Unsupported { what }) => {
            eprintln!("SKIPPED: {what}");
            false
        }
        result => {
            result.unwrap();
            pidfd
        }
    }
}

/// The process that a pidfd stands for.
fn process_of(pidfd: &PidFd) -> u32 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd())).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

/// In a process with a low limit: those of other tests are in flight too, and are counted for the whole user (K9).
fn send_when_possible(socket: &Socket, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = raw::send(socket, bytes, fds) {
        assert!(error.raw_os_error() == Some(libc::ETOOMANYREFS) && Instant::now() < deadline, "{error}");
        thread::yield_now();
    }
}

/// Fills the queue of a socket's peer; answers how many bytes that took.
fn fill(socket: &Socket) -> usize {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL).unwrap());
    nonblocking(socket);
    let mut filled = 0;
    while let Ok(length) = raw::send(socket, b"y", &[]) {
        filled += length;
    }
    fcntl(socket, FcntlArg::F_SETFL(flags)).unwrap();
    filled
}

/// A signal to one thread of this process.
fn interrupt(thread: nix::unistd::Pid) {
    let process = nix::unistd::Pid::this();
    // SAFETY: tgkill(2) takes three numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), libc::SIGUSR1) };
}

fn is_close_on_exec(fd: impl AsFd) -> bool {
    FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
}

//! Proves what a worker's client does when the peer is no proper broker, or is gone, and what it takes from standard
//! input.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use common::served::{PATIENCE, client, ended, pair, pair_of};
use common::{directory, identity, open_fds, passes, rerun, role};
use fdbroker::wire::{MAX_REPLY, Reason, Request};
use fdbroker::{Broker, Channel, ChannelError, Client, ClientError, Kind, Packet, Policy, Rule};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, getsockopt, sockopt};
use nix::sys::time::TimeValLike;

const GRANTED: u8 = 0x80;
const REFUSED: u8 = 0x81;

/// A reply, written out here by the documentation of the wire.
fn reply(id: u64, verb: u8, descriptors: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [b"fb", &[1, verb][..], &id.to_le_bytes(), &length, &descriptors.to_le_bytes(), &[0; 2], body].concat()
}

fn refusal(reason: u16, reserved: u16, errno: u32) -> Vec<u8> {
    [&reason.to_le_bytes()[..], &reserved.to_le_bytes(), &errno.to_le_bytes()].concat()
}

/// The reply that a broker would give to a read, but for one byte.
fn spoilt(id: u64, place: usize, byte: u8) -> Vec<u8> {
    let mut bytes = reply(id, GRANTED, 1, b"");
    assert_ne!(bytes[place], byte);
    bytes[place] = byte;
    bytes
}

/// The peer's side of one request. Answers its id.
fn request(peer: &Channel) -> Result<u64, ChannelError> {
    let mut packet = Packet::new();
    peer.recv(&mut packet)?;
    Ok(Request::decode(packet.bytes(), packet.fds().len()).unwrap().id)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

/// Every copy of the pipe's other end has been closed, or is about to be.
fn is_closed(pipe: &OwnedFd) {
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut polled, patience).unwrap(), 1, "a descriptor was kept");
    assert!(polled[0].revents().unwrap().contains(PollFlags::POLLHUP));
}

fn is_disconnected<T: std::fmt::Debug>(result: Result<T, ClientError>) {
    match result {
        Err(ClientError::Channel { source: ChannelError::Disconnected, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// What the client says of a reply.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    NotABroker,
    TooLarge,
}

fn says(error: &ClientError) -> Says {
    match error {
        ClientError::NotABroker { .. } => Says::NotABroker,
        ClientError::Channel { source: ChannelError::TooLarge, .. } => Says::TooLarge,
        other => panic!("{other:?}"),
    }
}

/// A reply that no broker gives to this request.
struct Wrong {
    what: &'static str,
    to_hello: bool,
    descriptors: usize,
    bytes: fn(u64) -> Vec<u8>,
    says: Says,
}

const fn wrong(what: &'static str, descriptors: usize, bytes: fn(u64) -> Vec<u8>) -> Wrong {
    Wrong { what, to_hello: false, descriptors, bytes, says: Says::NotABroker }
}

const WRONG: &[Wrong] = &[
    wrong("the id before", 1, |id| reply(id - 1, GRANTED, 1, b"")),
    wrong("the id to come", 1, |id| reply(id + 1, GRANTED, 1, b"")),
    wrong("id 0", 1, |_| reply(0, GRANTED, 1, b"")),
    wrong("the id in its upper half", 1, |id| reply(id << 32, GRANTED, 1, b"")),
    wrong("a refusal with another id", 0, |id| reply(id + 1, REFUSED, 0, &refusal(1, 0, 13))),
    Wrong { to_hello: true, ..wrong("hello: another id", 0, |id| reply(id - 1, GRANTED, 0, b"")) },
    wrong("a grant without a descriptor", 0, |id| reply(id, GRANTED, 0, b"")),
    wrong("a descriptor that is declared and not there", 0, |id| reply(id, GRANTED, 1, b"")),
    wrong("a descriptor that is there and not declared", 1, |id| reply(id, GRANTED, 0, b"")),
    wrong("two that are declared, one there", 1, |id| reply(id, GRANTED, 2, b"")),
    Wrong { to_hello: true, ..wrong("hello: a grant with a descriptor", 1, |id| reply(id, GRANTED, 1, b"")) },
    wrong("two descriptors", 2, |id| reply(id, GRANTED, 2, b"")),
    wrong("two, one declared", 2, |id| reply(id, GRANTED, 1, b"")),
    wrong("as many as a message carries", 253, |id| reply(id, GRANTED, 253, b"")),
    Wrong { to_hello: true, ..wrong("hello: two descriptors", 2, |id| reply(id, GRANTED, 2, b"")) },
    wrong("a descriptor and no bytes", 1, |_| vec![]),
    wrong("one byte", 1, |_| b"f".to_vec()),
    wrong("a header that is one byte short", 1, |id| reply(id, GRANTED, 1, b"")[..19].to_vec()),
    wrong("magic", 1, |id| spoilt(id, 0, b'F')),
    wrong("magic, its second byte", 1, |id| spoilt(id, 1, b'd')),
    wrong("version 0", 1, |id| spoilt(id, 2, 0)),
    wrong("version 2", 1, |id| spoilt(id, 2, 2)),
    wrong("an unknown verb", 1, |id| spoilt(id, 3, 0x82)),
    wrong("verb 0", 1, |id| spoilt(id, 3, 0)),
    wrong("a request", 0, |id| reply(id, 0x01, 0, b"")),
    wrong("a length that is too long", 1, |id| spoilt(id, 12, 1)),
    wrong("a length near u32::MAX", 1, |id| spoilt(id, 15, 0xff)),
    wrong("a reserved flag", 1, |id| spoilt(id, 18, 1)),
    wrong("a trailing byte", 1, |id| [reply(id, GRANTED, 1, b""), vec![0]].concat()),
    wrong("a grant with a body", 1, |id| reply(id, GRANTED, 1, b"\0")),
    wrong("a refusal with a descriptor", 1, |id| reply(id, REFUSED, 1, &refusal(1, 0, 13))),
    wrong("a refusal with a descriptor it does not declare", 1, |id| reply(id, REFUSED, 0, &refusal(1, 0, 13))),
    wrong("a refusal without a body", 0, |id| reply(id, REFUSED, 0, b"")),
    wrong("a refusal that is one byte short", 0, |id| reply(id, REFUSED, 0, &refusal(1, 0, 13)[..7])),
    wrong("a refusal with a trailing byte", 0, |id| reply(id, REFUSED, 0, &[refusal(1, 0, 13), vec![0]].concat())),
    wrong("reason 0", 0, |id| reply(id, REFUSED, 0, &refusal(0, 0, 13))),
    wrong("reason 9", 0, |id| reply(id, REFUSED, 0, &refusal(9, 0, 13))),
    wrong("a reserved field", 0, |id| reply(id, REFUSED, 0, &refusal(1, 1, 13))),
    wrong("errno 0", 0, |id| reply(id, REFUSED, 0, &refusal(1, 0, 0))),
    wrong("errno 4096", 0, |id| reply(id, REFUSED, 0, &refusal(1, 0, 4096))),
    wrong("errno -13", 0, |id| reply(id, REFUSED, 0, &refusal(1, 0, 13u32.wrapping_neg()))),
    Wrong { says: Says::TooLarge, ..wrong("an oversized reply", 1, |id| reply(id, GRANTED, 1, &[0; MAX_REPLY])) },
    Wrong { says: Says::TooLarge, ..wrong("one byte too many", 0, |_| vec![b'f'; MAX_REPLY + 1]) },
    Wrong { says: Says::TooLarge, ..wrong("many bytes too many", 1, |_| vec![b'f'; 60_000]) },
];

/// Answers one hello as a broker does, the next request wrongly, and whatever comes then as a broker does, which
/// nothing should. Answers how much that was.
fn hostile(peer: &Channel, wrong: &Wrong, descriptor: OwnedFd) -> usize {
    let id = request(peer).unwrap();
    peer.send(&reply(id, GRANTED, 0, b""), &[]).unwrap();
    let id = request(peer).unwrap();
    peer.send(&(wrong.bytes)(id), &vec![descriptor.as_fd(); wrong.descriptors]).unwrap();
    drop(descriptor);
    let mut answered = 0;
    while let Ok(id) = request(peer) {
        answered += 1;
        let _ = peer.send(&reply(id, GRANTED, 1, b""), &[null().as_fd()]);
    }
    answered
}

/// P-06, P-07, P-08, C-05: a reply that is malformed, or another request's, or that carries other descriptors than were
/// due, is an error; its descriptors are closed there and then; and the client asks nothing more, though the peer would
/// now answer well.
#[test]
fn p_06_p_07_p_08_c_05_a_wrong_reply_ends_the_client() {
    common::alone("p_06_p_07_p_08_c_05_a_wrong_reply_ends_the_client", || {
        let before = open_fds();
        for kind in [Kind::SeqPacket, Kind::Stream] {
            for wrong in WRONG {
                is_found_out(kind, wrong);
            }
        }
        assert_eq!(open_fds(), before);
    });
}

fn is_found_out(kind: Kind, wrong: &Wrong) {
    eprintln!("{kind:?}: {}", wrong.what);
    let (theirs, ours) = pair_of(kind);
    theirs.set_recv_timeout(Some(PATIENCE)).unwrap();
    let client = Client::new(ours);
    let (pipe, descriptor) = pipe();
    thread::scope(|scope| {
        let peer = scope.spawn(move || hostile(&theirs, wrong, descriptor));
        client.hello().unwrap();
        let before = open_fds();
        let answer = if wrong.to_hello { client.hello() } else { client.read("/etc/passwd").map(drop) };
        assert_eq!(says(&answer.unwrap_err()), wrong.says);
        is_closed(&pipe);
        // The pipe's other end was the peer's, and is no more.
        assert_eq!(open_fds(), before - 1);
        is_disconnected(client.read("/etc/passwd"));
        is_disconnected(client.hello());
        is_disconnected(client.scratch());
        drop(client);
        assert_eq!(peer.join().unwrap(), 0, "the client went on");
    });
}

/// P-05: an empty packet in place of a reply is no reply, and no hang-up either: the peer is still there.
#[test]
fn p_05_an_empty_packet_is_no_reply() {
    let (theirs, ours) = pair();
    let client = Client::new(ours);
    thread::scope(|scope| {
        let peer = scope.spawn(move || {
            request(&theirs).unwrap();
            let empty = nix::sys::socket::send(theirs.as_fd().as_raw_fd(), b"", MsgFlags::MSG_NOSIGNAL);
            assert_eq!(empty, Ok(0));
            theirs
        });
        assert_eq!(says(&client.read("/etc/passwd").unwrap_err()), Says::NotABroker);
        is_disconnected(client.read("/etc/passwd"));
        drop(peer.join().unwrap());
    });
}

/// C-05: a reply that comes after the client gave up waiting is nobody's: not the next request's, and its descriptor
/// goes with the client.
#[test]
fn c_05_a_late_reply_is_nobodys() {
    for kind in [Kind::SeqPacket, Kind::Stream] {
        let (theirs, ours) = pair_of(kind);
        ours.set_recv_timeout(Some(Duration::from_millis(1))).unwrap();
        let client = Client::new(ours);
        match client.read("/etc/passwd") {
            Err(ClientError::Channel { source: ChannelError::TimedOut, .. }) => {}
            other => panic!("{other:?}"),
        }
        let (pipe, descriptor) = pipe();
        let id = request(&theirs).unwrap();
        // One for the request, and one for that which would come next.
        for id in [id, id + 1] {
            theirs.send(&reply(id, GRANTED, 1, b""), &[descriptor.as_fd()]).unwrap();
        }
        drop(descriptor);
        is_disconnected(client.read("/etc/group"));
        is_disconnected(client.hello());
        drop(client);
        is_closed(&pipe);
        drop(theirs);
    }
}

/// L-02: a peer that is gone before the request, that goes with the request unread, or with it unanswered: the call
/// says so at once, and so do all later ones.
#[test]
fn l_02_a_hang_up_is_told_at_once() {
    let before: fn(&Channel) = |_| {};
    let unread: fn(&Channel) = |peer| {
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut [PollFd::new(peer.as_fd(), PollFlags::POLLIN)], patience), Ok(1));
    };
    let unanswered: fn(&Channel) = |peer| assert!(request(peer).is_ok());
    for kind in [Kind::SeqPacket, Kind::Stream] {
        for (during, until) in [(false, before), (true, unread), (true, unanswered)] {
            let (theirs, ours) = pair_of(kind);
            let client = Client::new(ours);
            let peer = thread::spawn(move || {
                until(&theirs);
                drop(theirs);
                Instant::now()
            });
            if !during {
                while !peer.is_finished() {
                    thread::yield_now();
                }
            }
            is_disconnected(client.read("/etc/passwd"));
            assert!(peer.join().unwrap().elapsed() < PATIENCE / 3);
            is_disconnected(client.scratch());
            let error = client.hello().unwrap_err();
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::BrokenPipe);
        }
    }
}

/// L-02: what the peer answered before it went is still received.
#[test]
fn l_02_an_answer_ahead_of_the_hang_up_is_received() {
    for kind in [Kind::SeqPacket, Kind::Stream] {
        let (theirs, ours) = pair_of(kind);
        let client = Client::new(ours);
        let file = null();
        let expected = identity(&file);
        thread::spawn(move || {
            let id = request(&theirs).unwrap();
            theirs.send(&reply(id, GRANTED, 1, b""), &[file.as_fd()]).unwrap();
        });
        assert_eq!(identity(client.read("/dev/null").unwrap()), expected);
        is_disconnected(client.read("/dev/null"));
    }
}

/// A refusal, whatever its reason and errno, is told as it is and becomes the error of open(2); the client goes
/// on.
#[test]
fn a_refusal_leaves_the_client_usable() {
    let reasons = [Reason::Denied, Reason::Path, Reason::Failed, Reason::Kind, Reason::Verb];
    let (theirs, ours) = pair();
    theirs.set_recv_timeout(Some(PATIENCE)).unwrap();
    let client = Client::new(ours);
    thread::scope(|scope| {
        scope.spawn(move || {
            for reason in 1..=5 {
                for errno in [1, 2, 13, 38, 4095] {
                    let id = request(&theirs).unwrap();
                    theirs.send(&reply(id, REFUSED, 0, &refusal(reason, 0, errno)), &[]).unwrap();
                    let id = request(&theirs).unwrap();
                    theirs.send(&reply(id, GRANTED, 1, b""), &[null().as_fd()]).unwrap();
                }
            }
            let id = request(&theirs).unwrap();
            theirs.send(&reply(id, REFUSED, 0, &refusal(5, 0, 38)), &[]).unwrap();
            let id = request(&theirs).unwrap();
            theirs.send(&reply(id, GRANTED, 0, b""), &[]).unwrap();
        });
        for reason in reasons {
            for errno in [1, 2, 13, 38, 4095] {
                let error = client.read("/etc/passwd").unwrap_err();
                let refusal = error.refusal().unwrap();
                assert_eq!((refusal.reason, refusal.errno), (reason, errno));
                assert_eq!(io::Error::from(error).raw_os_error(), Some(errno));
                client.read("/etc/passwd").unwrap();
            }
        }
        assert_eq!(client.hello().unwrap_err().refusal().unwrap().reason, Reason::Verb);
        client.hello().unwrap();
    });
}

/// Two threads that share one client each get the file that they asked for.
#[test]
fn two_threads_share_a_client() {
    let (_keep, root) = directory();
    let names = ["one", "another"];
    names.iter().for_each(|name| fs::write(root.join(name), name).unwrap());
    let (service, client) = client(Policy::builder().allow(Rule::beneath(&root).read()).build().unwrap());
    thread::scope(|scope| {
        for name in names {
            let (client, path) = (&client, root.join(name));
            scope.spawn(move || {
                for _ in 0..1_000 {
                    let content = io::read_to_string(client.read(&path).unwrap()).unwrap();
                    assert_eq!(content, name);
                }
            });
        }
    });
    drop(client);
    ended(service).unwrap();
}

/// Runs the test again in a process that has this on standard input.
fn with_stdin(name: &str, role: &str, stdin: impl Into<OwnedFd>) {
    let mut command = rerun(name, role);
    command.stdin(stdin.into());
    passes(command);
}

/// The role of this process, if it is one of [`with_stdin`], which SIGALRM then ends some day.
fn child() -> Option<String> {
    let role = role()?;
    nix::unistd::alarm::set(120);
    Some(role)
}

/// What standard input is, and how long a receive from it waits, in microseconds, if it is a socket.
fn stdin_now() -> ((u64, u64), Option<i64>) {
    let stdin = io::stdin();
    (identity(&stdin), getsockopt(&stdin, sockopt::ReceiveTimeout).ok().map(|timeout| timeout.num_microseconds()))
}

/// A failed `from_stdin`, which leaves the process's descriptors and standard input as they were.
fn fails_without_a_trace() -> ClientError {
    let before = (open_fds(), stdin_now());
    let error = Client::from_stdin().unwrap_err();
    assert_eq!((open_fds(), stdin_now()), before);
    error
}

/// P-06: standard input that is no channel is not taken for one, and whoever reads it then finds it untouched.
#[test]
fn p_06_stdin_that_is_no_channel() {
    const NAME: &str = "p_06_stdin_that_is_no_channel";
    const TEXT: &str = "for somebody else";
    if let Some(role) = child() {
        for _ in 0..2 {
            let error = fails_without_a_trace();
            assert!(matches!(error, ClientError::NoChannel(ChannelError::NotASocket)), "{error:?}");
        }
        let mut text = [0; 100];
        let length = io::stdin().read(&mut text).unwrap();
        assert_eq!(&text[..length], if role == "empty" { b"" } else { TEXT.as_bytes() });
        return;
    }
    with_stdin(NAME, "empty", null());

    let (reader, writer) = pipe();
    File::from(writer).write_all(TEXT.as_bytes()).unwrap();
    with_stdin(NAME, "pipe", reader);

    let (_keep, root) = directory();
    fs::write(root.join("text"), TEXT).unwrap();
    with_stdin(NAME, "file", File::open(root.join("text")).unwrap());

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    tcp.write_all(TEXT.as_bytes()).unwrap();
    with_stdin(NAME, "TCP", listener.accept().unwrap().0);

    let (mut unix, stdin) = UnixStream::pair().unwrap();
    unix.write_all(TEXT.as_bytes()).unwrap();
    with_stdin(NAME, "stream", stdin);
    // Nothing was said to whom it belongs to.
    unix.shutdown(Shutdown::Write).unwrap();
    assert_eq!(io::read_to_string(unix).unwrap(), "");

    let (datagram, stdin) = UnixDatagram::pair().unwrap();
    datagram.send(TEXT.as_bytes()).unwrap();
    with_stdin(NAME, "datagram", stdin);
}

/// L-02: a channel on standard input whose other end is closed.
#[test]
fn l_02_stdin_whose_peer_is_gone() {
    if child().is_some() {
        return is_disconnected(Err::<(), _>(fails_without_a_trace()));
    }
    let (theirs, ours) = Channel::pair().unwrap();
    drop(theirs);
    with_stdin("l_02_stdin_whose_peer_is_gone", "child", ours);
}

/// P-06: somebody on standard input who greets with anything but a broker's greeting. Nothing of it is kept, and what
/// he says next is there to be read.
#[test]
fn p_06_stdin_whose_peer_is_no_broker() {
    const NAME: &str = "p_06_stdin_whose_peer_is_no_broker";
    if child().is_some() {
        assert_eq!(says(&fails_without_a_trace()), Says::NotABroker);
        let mut text = [0; 100];
        let length = io::stdin().read(&mut text).unwrap();
        assert_eq!(&text[..length], b"the next");
        return;
    }
    let file = null();
    let first = 1;
    let greetings: [(Vec<u8>, &[BorrowedFd<'_>]); 4] = [
        (b"garbage".to_vec(), &[]),
        (b"garbage".to_vec(), &[file.as_fd()]),
        (reply(first, GRANTED, 1, b""), &[file.as_fd()]),
        (reply(first + 1, GRANTED, 0, b""), &[]),
    ];
    for (greeting, descriptors) in greetings {
        let (theirs, ours) = Channel::pair().unwrap();
        theirs.send(&greeting, descriptors).unwrap();
        theirs.send(b"the next", &[]).unwrap();
        with_stdin(NAME, "child", ours);
        assert_eq!(request(&theirs).unwrap(), first);
    }
}

/// L-02: somebody on standard input who says nothing is not waited for for ever.
#[test]
fn l_02_stdin_whose_peer_is_silent() {
    if child().is_some() {
        let error = fails_without_a_trace();
        assert!(matches!(error, ClientError::Channel { source: ChannelError::TimedOut, .. }), "{error:?}");
        return;
    }
    let (theirs, ours) = Channel::pair().unwrap();
    with_stdin("l_02_stdin_whose_peer_is_silent", "child", ours);
    drop(theirs);
}

/// L-03: a broker on standard input is taken, and standard input is at its end from then on, for whoever reads it and
/// for a second client.
#[test]
fn l_03_stdin_is_a_broker() {
    const PATH: &str = "FDBROKER_TEST_PATH";
    if child().is_some() {
        let path = std::env::var(PATH).unwrap();
        let before = open_fds();
        let client = Client::from_stdin().unwrap();
        // The channel has moved away from standard input, where a pipe is now.
        assert_eq!(open_fds(), before + 1);
        let patience = getsockopt(&client, sockopt::ReceiveTimeout).unwrap();
        assert_eq!(patience.num_microseconds(), 0, "the greeting's timeout is not the client's");
        assert_eq!(io::read_to_string(client.read(&path).unwrap()).unwrap(), "granted");
        assert_eq!(io::stdin().read(&mut [0; 1]).unwrap(), 0);
        let error = fails_without_a_trace();
        assert!(matches!(error, ClientError::NoChannel(ChannelError::NotASocket)), "{error:?}");
        client.read(&path).unwrap();
        drop(client);
        assert_eq!(open_fds(), before);
        return;
    }
    let (_keep, root) = directory();
    let path = root.join("file");
    fs::write(&path, "granted").unwrap();
    let policy = Policy::builder().allow(Rule::file(&path).read()).build().unwrap();
    let policy = std::sync::Arc::new(policy);
    // Also when somebody has left it non-blocking.
    for nonblocking in [false, true] {
        let (theirs, ours) = Channel::pair().unwrap();
        ours.set_nonblocking(nonblocking).unwrap();
        let service = Broker::new().serve("stdin", theirs, policy.clone()).unwrap();
        let mut command = rerun("l_03_stdin_is_a_broker", "child");
        command.env(PATH, &path).stdin(OwnedFd::from(ours));
        passes(command);
        ended(service).unwrap();
    }
}

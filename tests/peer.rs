//! The two ends of a channel in two processes, each held by one side alone: either side's death is seen by the other,
//! and no signal is raised.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fdbroker::{Channel, ChannelError, Kind, Packet};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Long enough for any machine; a test that waits for it fails.
const LONG: Duration = Duration::from_secs(60);

/// The re-run child that holds `end`, alone, as its standard input.
fn spawn(mut child: Command, end: Channel) -> Child {
    // `child`, which holds a copy of the end, is dropped here.
    child.stdin(OwnedFd::from(end)).spawn().unwrap()
}

/// What was this process's standard input.
fn inherited() -> Channel {
    let channel = Channel::try_from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    channel.set_recv_timeout(Some(LONG)).unwrap();
    // So that this end is held once: `dup2` over it.
    nix::unistd::dup2_stdin(File::open("/dev/null").unwrap()).unwrap();
    channel
}

fn pair(kind: Kind) -> (Channel, Channel) {
    let (ours, theirs) = Channel::pair_of(kind).unwrap();
    ours.set_recv_timeout(Some(LONG)).unwrap();
    ours.set_send_timeout(Some(LONG)).unwrap();
    (ours, theirs)
}

/// Sends back what comes, until there is no one to send it to; answers how that was told.
fn echo(channel: &Channel) -> ChannelError {
    let mut packet = Packet::new();
    loop {
        if let Err(error) = channel.recv(&mut packet) {
            return error;
        }
        let fds: Vec<_> = packet.fds().iter().map(AsFd::as_fd).collect();
        if let Err(error) = channel.send(packet.bytes(), &fds) {
            return error;
        }
    }
}

fn is_echoed(channel: &Channel) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"the same file").unwrap();
    file.seek(SeekFrom::Start(4)).unwrap();
    channel.send(b"there and back", &[file.as_fd()]).unwrap();
    let mut packet = Packet::new();
    channel.recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"there and back");
    let back = packet.take_fds().next().unwrap();
    assert_eq!(common::identity(&back), common::identity(&file));
    let mut text = String::new();
    File::from(back).read_to_string(&mut text).unwrap();
    assert_eq!(text, "same file");
}

/// H-02: a child that was started by fork and exec gets its end, uses it, is killed; the parent sees it.
#[test]
fn h_02_the_childs_death_is_seen() {
    if common::role().is_some() {
        let error = echo(&inherited());
        unreachable!("the parent lives, and was said to be gone: {error}");
    }
    for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
        let (ours, theirs) = pair(kind);
        let mut child = {
            let mut echo = common::rerun("h_02_the_childs_death_is_seen", "echo");
            echo.stdout(Stdio::null());
            spawn(echo, theirs)
        };
        is_echoed(&ours);
        child.kill().unwrap();
        if kind != Kind::Datagram {
            let result = ours.recv(&mut Packet::new());
            assert!(matches!(result, Err(ChannelError::Disconnected)), "{kind:?}: {result:?}");
        }
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
        assert!(matches!(ours.send(b"x", &[]), Err(ChannelError::Disconnected)), "{kind:?}");
    }
}

/// H-02: the parent is killed; the child, which nobody else can tell, sees it.
#[test]
fn h_02_the_parents_death_is_seen() {
    const NAME: &str = "h_02_the_parents_death_is_seen";
    let kind = |role: &str| if role.ends_with("stream") { Kind::Stream } else { Kind::SeqPacket };
    match common::role() {
        Some(role) if role.starts_with("child") => println!("the child was told: {:?}", echo(&inherited())),
        Some(role) => {
            let (ours, theirs) = pair(kind(&role));
            let mut child = spawn(common::rerun(NAME, &role.replace("parent", "child")), theirs);
            is_echoed(&ours);
            println!("the parent has child {}", child.id());
            nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
        }
        None => {
            for role in ["parent seqpacket", "parent stream"] {
                // Its output ends when the child has ended too, which has it for its own.
                let output = common::rerun(NAME, role).output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(output.status.signal(), Some(Signal::SIGKILL as i32), "{said}");
                assert!(said.contains("the parent has child"), "{said}");
                assert!(said.contains("the child was told: Disconnected"), "{role}: {said}");
            }
        }
    }
}

/// P-21, no SIGPIPE: with that signal's default action, which ends a process, a send to a dead peer is an error and the
/// process lives. So that the test can fail: a plain write by the same process, at last, does end it.
#[test]
fn p_21_no_sigpipe() {
    const NAME: &str = "p_21_no_sigpipe";
    if common::role().is_none() {
        let output = common::rerun(NAME, "sender").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("every send was an error"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.signal(), Some(Signal::SIGPIPE as i32), "{said}");
        return;
    }
    // SAFETY: no handler is installed, only the default action.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
    let null = File::open("/dev/null").unwrap();
    for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
        let (ours, theirs) = pair(kind);
        drop(theirs);
        for _ in 0..3 {
            assert!(matches!(ours.send(b"x", &[]), Err(ChannelError::Disconnected)), "{kind:?}");
            assert!(matches!(ours.send(b"x", &[null.as_fd()]), Err(ChannelError::Disconnected)), "{kind:?}");
        }
    }
    // The rest of a long message, when the peer goes away in its middle.
    let (ours, theirs) = pair(Kind::Stream);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut raw = UnixStream::from(OwnedFd::from(theirs));
            raw.read_exact(&mut [0; 100_000]).unwrap();
        });
        assert!(matches!(ours.send(&vec![0; 64 << 20], &[null.as_fd()]), Err(ChannelError::Disconnected)));
    });
    println!("every send was an error");
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    nix::unistd::write(&ours, b"x").unwrap();
    unreachable!("a write to a dead peer has ended this process");
}

/// H-02: an end that a child inherits is its standard input; that it was given one there is no reason to trust.
#[test]
fn h_02_a_standard_input_that_is_no_channel() {
    if common::role().is_some() {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        assert!(matches!(Channel::try_from(stdin), Err(ChannelError::NotASocket)));
        return;
    }
    for stdin in [Stdio::null(), Stdio::piped()] {
        let mut child = common::rerun("h_02_a_standard_input_that_is_no_channel", "child");
        child.stdin(stdin);
        common::passes(child);
    }
}

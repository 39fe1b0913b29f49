//! Peers that know nothing of this crate: Python's socket.send_fds and recv_fds, Perl's IO::FDPass, a C program. Their
//! sources are in tests/peers.
//!
//! Each holds one end of a socket, alone, as its standard input, and ends by itself after a minute at most. A tool that
//! is missing is said aloud; where CI is set in the environment it is a failure.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fdbroker::raw::{self, Ancillary};
use fdbroker::{Channel, ChannelError, Kind, MAX_FDS, Packet};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Long enough for any machine; a test that waits for it fails.
const LONG: Duration = Duration::from_secs(60);

/// H-09: a channel of SEQPACKET and of DGRAM and Python's send_fds and recv_fds, which the kernel keeps messages apart
/// for.
#[test]
fn h_09_python_over_packets() {
    let Some(program) = Program::python() else { return };
    packets(&program);
}

/// H-09: `raw` over SOCK_STREAM and Python's send_fds and recv_fds.
#[test]
fn h_09_python_over_a_stream() {
    let Some(program) = Program::python() else { return };
    lengths(&program);
}

/// H-09: a channel of STREAM and a Python program that makes and reads its frames by their documentation, also in
/// pieces.
#[test]
fn h_09_python_by_frames() {
    let Some(program) = Program::python() else { return };
    frames(&program);
}

/// H-09: `send_many` and `recv_many` and a Python program that makes and reads their parts by the documentation.
#[test]
fn h_09_python_by_parts() {
    let Some(program) = Program::python() else { return };
    one_at_a_time(|| {
        let (link, peer) = channel_to(&program, Kind::SeqPacket, &["parts"]);
        // One part, two, three; parts that are exactly full; none at all.
        for count in [1, 252, 253, 254, 506, 520, 0] {
            let files = files(count.min(3));
            let fds: Vec<_> = files.iter().map(AsFd::as_fd).cycle().take(count).collect();
            let Link::Channel(channel) = &link else { unreachable!() };
            channel.send_many(b"any number", &fds).unwrap();
            let mut packet = Packet::new();
            let received = channel.recv_many(&mut packet, 600).unwrap();
            is_answer(b"any number", &fds, packet.bytes(), received);
        }
        drop(link);
        peer.says("hung up");
    });
}

/// H-09: a channel of SEQPACKET and of DGRAM and a C program with the CMSG macros.
#[test]
fn h_09_c_over_packets() {
    let Some(program) = Program::c() else { return };
    packets(&program);
}

/// H-09: `raw` over SOCK_STREAM and a C program with the CMSG macros.
#[test]
fn h_09_c_over_a_stream() {
    let Some(program) = Program::c() else { return };
    lengths(&program);
}

/// H-09: a channel of STREAM and a C program that makes and reads its frames by their documentation, also in pieces.
#[test]
fn h_09_c_by_frames() {
    let Some(program) = Program::c() else { return };
    frames(&program);
}

/// H-09: `raw` over SOCK_STREAM and Perl's IO::FDPass, one descriptor with one byte, with text between; and a channel
/// of SEQPACKET and of DGRAM, for which a byte with a descriptor is a message like any other.
#[test]
fn h_09_perl() {
    let Some(program) = Program::perl() else { return };
    one_at_a_time(|| {
        for kind in [Kind::Stream, Kind::SeqPacket, Kind::Datagram] {
            let (link, peer) = match kind {
                Kind::Stream => plain_stream_to(&program, &["stream"]),
                _ => channel_to(&program, kind, &["packets"]),
            };
            let files = files(8);
            // All are on their way before the first answer is read.
            for (place, file) in files.iter().enumerate() {
                pass(&link, place, file);
            }
            for (place, file) in files.iter().enumerate() {
                is_passed_back(&link, place, file);
            }
            if kind == Kind::Datagram {
                peer.dies();
            } else {
                drop(link);
                peer.says("hung up");
            }
        }
    });
}

/// H-02, H-09: a real peer that is killed is "disconnected" to its channel; over DGRAM, where a receive cannot tell
/// (K17), a send says so.
#[test]
fn h_02_h_09_the_death_of_the_peer() {
    for (name, kind, mode) in PEERS {
        let Some(program) = Program::named(name) else { continue };
        let (link, peer) = channel_to(&program, kind, mode);
        is_alive(&program, &link);
        peer.dies();
        let Link::Channel(channel) = &link else { unreachable!() };
        if kind != Kind::Datagram {
            let result = channel.recv(&mut Packet::new());
            assert!(matches!(result, Err(ChannelError::Disconnected)), "{name} {kind:?}: {result:?}");
        }
        let result = channel.send(b"x", &[]);
        assert!(matches!(result, Err(ChannelError::Disconnected)), "{name} {kind:?}: {result:?}");
    }
}

/// H-02, H-09: a real peer gets what was sent before its channel was dropped, and is then told that nobody is there, by
/// the send of its answer.
#[test]
fn h_02_h_09_the_end_of_the_channel() {
    for (name, kind, mode) in PEERS {
        let Some(program) = Program::named(name) else { continue };
        let (ours, theirs) = Channel::pair_of(kind).unwrap();
        ours.send(FD_BYTE, &[file("last words").as_fd()]).unwrap();
        if !program.speaks_messages() {
            ours.send(b"last words\n", &[]).unwrap();
        }
        drop(ours);
        program.start(Stdio::piped(), theirs.into(), mode).says("hung up");
    }
}

/// H-02, H-09: the process that holds the channel is killed; a real peer, its child, is told.
#[test]
fn h_02_h_09_the_death_of_the_parent() {
    const NAME: &str = "h_02_h_09_the_death_of_the_parent";
    if let Some(role) = common::role() {
        let (name, kind, mode) = PEERS[role.parse::<usize>().unwrap()];
        let program = Program::named(name).unwrap();
        let (link, _peer) = channel_printing_to(Stdio::inherit(), &program, kind, mode);
        is_alive(&program, &link);
        println!("the parent is about to die");
        kill(Pid::this(), Signal::SIGKILL).unwrap();
    }
    // K17: over DGRAM nobody is told.
    for (place, (name, kind, _)) in PEERS.into_iter().enumerate().filter(|(_, (_, kind, _))| *kind != Kind::Datagram) {
        if Program::named(name).is_none() {
            continue;
        }
        // A killed process leaves its temporary files.
        let (directory, _) = common::directory();
        let mut parent = common::rerun(NAME, &place.to_string());
        parent.env("TMPDIR", directory.path());
        // Its output ends when the peer, which has it for its own, has ended.
        let output = parent.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(Signal::SIGKILL as i32), "{said}");
        let told = said.split_once("the parent is about to die").expect(&said).1;
        assert!(told.contains("hung up"), "{name} {kind:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The byte with which IO::FDPass sends a descriptor, and without which it takes none (EDOM).
const FD_BYTE: &[u8] = b"\0";

const PACKETS: &[&str] = &["packets"];
const FRAMES: &[&str] = &["frames", "4096"];

/// Each program with each kind of channel that it can speak with.
const PEERS: [(&str, Kind, &[&str]); 8] = [
    ("python", Kind::SeqPacket, PACKETS),
    ("python", Kind::Stream, FRAMES),
    ("python", Kind::Datagram, PACKETS),
    ("c", Kind::SeqPacket, PACKETS),
    ("c", Kind::Stream, FRAMES),
    ("c", Kind::Datagram, PACKETS),
    ("perl", Kind::SeqPacket, PACKETS),
    ("perl", Kind::Datagram, PACKETS),
];

/// Messages between a channel and a peer for which the kernel keeps them apart.
fn packets(program: &Program) {
    one_at_a_time(|| {
        for kind in [Kind::SeqPacket, Kind::Datagram] {
            let (link, peer) = channel_to(program, kind, &["packets"]);
            in_order(&link, &[b"one", b"two", b"", b"four", b"five", b"six"]);
            exchange(&link, b"as many as there can be", &files(MAX_FDS));
            exchange(&link, &vec![b'x'; 60_000], &files(3));
            ends(kind, link, peer);
        }
    });
}

/// Messages between `raw` and a peer that have agreed upon putting the length before each.
fn lengths(program: &Program) {
    one_at_a_time(|| {
        let (link, peer) = plain_stream_to(program, &["lengths"]);
        in_order(&link, &[b"one", b"two", b"", b"four", b"five", b"six"]);
        exchange(&link, b"as many as there can be", &files(MAX_FDS));
        // More than the queue holds.
        exchange(&link, &vec![b'x'; 1 << 20], &files(3));
        drop(link);
        peer.says("hung up");
    });
}

/// Messages between a channel of STREAM and a peer that makes and reads frames of its own.
fn frames(program: &Program) {
    one_at_a_time(|| {
        for step in ["1", "3", "8", "9", "1000000"] {
            let (link, peer) = channel_to(program, Kind::Stream, &["frames", step]);
            in_order(&link, &[b"one", b"two", b"", b"four", b"five", b"six"]);
            exchange(&link, b"as many as there can be", &files(MAX_FDS));
            if step == "1000000" {
                exchange(&link, &vec![b'x'; 1 << 20], &files(3));
            }
            drop(link);
            peer.says("hung up");
        }
    });
}

/// A descriptor, as IO::FDPass sends one, and a line.
fn pass(link: &Link, place: usize, file: &File) {
    link.send(FD_BYTE, &[file.as_fd()]);
    link.send(format!("message {place}\n").as_bytes(), &[]);
}

fn is_passed_back(link: &Link, place: usize, file: &File) {
    let (line, none) = link.receive_line();
    assert!(none.is_empty());
    let mut fds = Vec::new();
    for _ in 0..2 {
        let (byte, one) = link.receive(1);
        assert_eq!((&byte[..], one.len()), (FD_BYTE, 1));
        fds.extend(one);
    }
    is_answer_to(&format!("message {place}"), ":", &[file.as_fd()], &line, fds);
}

fn is_alive(program: &Program, link: &Link) {
    let files = files(1);
    if program.speaks_messages() {
        return exchange(link, b"alive", &files);
    }
    pass(link, 0, &files[0]);
    is_passed_back(link, 0, &files[0]);
}

/// Several messages are on their way before the first answer is read; each has one descriptor more than the one before.
fn in_order(link: &Link, messages: &[&[u8]]) {
    let files: Vec<_> = (0..messages.len()).map(files).collect();
    for (message, files) in messages.iter().zip(&files) {
        link.send(message, &borrowed(files));
    }
    for (message, files) in messages.iter().zip(&files) {
        let (bytes, fds) = link.receive(0);
        is_answer(message, &borrowed(files), &bytes, fds);
    }
}

fn exchange(link: &Link, message: &[u8], files: &[File]) {
    link.send(message, &borrowed(files));
    let (bytes, fds) = link.receive(0);
    is_answer(message, &borrowed(files), &bytes, fds);
}

/// Asserts that an answer is what tests/peers/peer.py says.
fn is_answer(message: &[u8], sent: &[BorrowedFd<'_>], bytes: &[u8], fds: Vec<OwnedFd>) {
    is_answer_to(std::str::from_utf8(message).unwrap(), "", sent, bytes, fds);
}

/// The peer saw our bytes and, in order, our descriptors; the same open files came back, close-on-exec, and one of the
/// peer's.
fn is_answer_to(message: &str, separator: &str, sent: &[BorrowedFd<'_>], bytes: &[u8], mut fds: Vec<OwnedFd>) {
    let mut expected: String = message.chars().rev().collect();
    for &fd in sent {
        let (device, inode) = common::identity(fd);
        expected += &format!("{separator}{device}:{inode}:{}\n", content(fd));
    }
    assert_eq!(std::str::from_utf8(bytes).unwrap(), expected);
    assert!(fds.iter().all(is_close_on_exec));
    if !sent.is_empty() && sent.len() < MAX_FDS {
        let mut text = String::new();
        File::from(fds.pop().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "made by the peer");
    }
    assert_eq!(fds.len(), sent.len());
    for (place, (&sent, back)) in sent.iter().rev().zip(fds).enumerate() {
        assert_eq!(common::identity(&back), common::identity(sent));
        // The same open file description, not only the same file: one offset.
        let offset = u64::try_from(place).unwrap() + 7;
        File::from(sent.try_clone_to_owned().unwrap()).seek(SeekFrom::Start(offset)).unwrap();
        assert_eq!(File::from(back).stream_position().unwrap(), offset);
    }
}

/// What leads to a peer.
enum Link {
    Channel(Channel),
    Plain(UnixStream),
}

impl Link {
    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        match self {
            Self::Channel(channel) => channel.send(message, fds).unwrap(),
            Self::Plain(socket) if message == FD_BYTE || message.ends_with(b"\n") => {
                assert_eq!(raw::send(socket, message, fds).unwrap(), message.len());
            }
            Self::Plain(socket) => {
                let length = u32::try_from(message.len()).unwrap().to_le_bytes();
                let bytes = [&length, message].concat();
                let mut sent = raw::send(socket, &bytes, fds).unwrap();
                while sent < bytes.len() {
                    sent += raw::send(socket, &bytes[sent..], &[]).unwrap();
                }
            }
        }
    }

    /// One message; of a plain stream `length` bytes or, if that is 0, a message with its length before it.
    fn receive(&self, length: usize) -> (Vec<u8>, Vec<OwnedFd>) {
        match self {
            Self::Channel(channel) => {
                let mut packet = Packet::with_capacity(2 << 20);
                channel.recv(&mut packet).unwrap();
                (packet.bytes().to_vec(), packet.take_fds().collect())
            }
            Self::Plain(socket) if length > 0 => exactly(socket, length),
            Self::Plain(socket) => {
                let (header, fds) = exactly(socket, 4);
                let length = u32::from_le_bytes(header.try_into().unwrap());
                let (bytes, later) = exactly(socket, length.try_into().unwrap());
                assert!(later.is_empty());
                (bytes, fds)
            }
        }
    }

    fn receive_line(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        let (mut line, mut fds) = (Vec::new(), Vec::new());
        while line.last() != Some(&b'\n') {
            let (more, more_fds) = self.receive(1);
            line.extend(more);
            fds.extend(more_fds);
        }
        (line, fds)
    }
}

/// So many bytes of a stream, and the descriptors that came with them.
fn exactly(socket: &UnixStream, length: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let (mut bytes, mut fds, mut filled) = (vec![0; length], Vec::new(), 0);
    let mut ancillary = Ancillary::new(MAX_FDS);
    while filled < length {
        let received = raw::recv(socket, &mut bytes[filled..], &mut ancillary).unwrap();
        assert!(!received.bytes_cut && !received.ancillary_cut && !received.hung_up, "{received:?}");
        filled += received.len;
        fds.extend(ancillary.take_fds());
    }
    (bytes, fds)
}

/// A program that is to be a peer.
struct Program {
    name: &'static str,
    /// The interpreter, if there is one, and the file.
    command: Vec<String>,
    /// Holds the file.
    _directory: TempDir,
}

impl Program {
    fn named(name: &str) -> Option<Self> {
        match name {
            "python" => Self::python(),
            "perl" => Self::perl(),
            _ => Self::c(),
        }
    }

    fn python() -> Option<Self> {
        let probe = ["python3", "-c", "import socket; socket.send_fds"];
        is_there("Python 3.9 (Debian: python3)", &probe)
            .then(|| Self::written("python", include_str!("peers/peer.py"), |file| vec!["python3".to_owned(), file]))
    }

    fn perl() -> Option<Self> {
        is_there("Perl's IO::FDPass (Debian: libio-fdpass-perl)", &["perl", "-MIO::FDPass", "-e1"])
            .then(|| Self::written("perl", include_str!("peers/peer.pl"), |file| vec!["perl".to_owned(), file]))
    }

    /// Compiles without a warning.
    fn c() -> Option<Self> {
        let probe = ["cc", "-xc", "-fsyntax-only", "-include", "sys/socket.h", "/dev/null"];
        is_there("a C compiler and library (Debian: gcc, libc6-dev)", &probe).then(|| {
            Self::written("c", include_str!("peers/peer.c"), |file| {
                let program = format!("{file}.out");
                let arguments = ["-xc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-o", &program, &file];
                let output = Command::new("cc").args(arguments).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                vec![program]
            })
        })
    }

    fn written(name: &'static str, source: &str, command: impl FnOnce(String) -> Vec<String>) -> Self {
        let (directory, _) = common::directory();
        let file = directory.path().join("peer");
        fs::write(&file, source).unwrap();
        Self { name, command: command(file.to_str().unwrap().to_owned()), _directory: directory }
    }

    /// IO::FDPass knows a byte with a descriptor, and no message.
    fn speaks_messages(&self) -> bool {
        self.name != "perl"
    }

    /// The peer holds `end`, alone: `command`, which has a copy, is dropped here.
    fn start(&self, output: Stdio, end: OwnedFd, mode: &[&str]) -> Peer {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(mode).stdin(end).stdout(output);
        Peer(command.spawn().unwrap())
    }
}

/// Whether a tool that a test needs is there. Said aloud if not; in CI it is a failure.
fn is_there(what: &str, probe: &[&str]) -> bool {
    let tried = Command::new(probe[0]).args(&probe[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = tried.is_ok_and(|status| status.success());
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{what} is missing, and in CI no peer may be");
        eprintln!("SKIPPED a real peer: {what} is missing");
    }
    there
}

/// A started peer. It ends itself after a minute, so that waiting for it has an end.
struct Peer(Child);

impl Peer {
    /// It ended by itself, after it had said so.
    fn says(self, what: &str) {
        let output = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with(what), "{}: {said}", output.status);
        assert!(!said.contains("middle"), "{said}");
    }

    fn dies(mut self) {
        self.0.kill().unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(Signal::SIGKILL as i32), "it was alive until now");
    }
}

fn channel_to(program: &Program, kind: Kind, mode: &[&str]) -> (Link, Peer) {
    channel_printing_to(Stdio::piped(), program, kind, mode)
}

fn channel_printing_to(output: Stdio, program: &Program, kind: Kind, mode: &[&str]) -> (Link, Peer) {
    let (mut ours, theirs) = Channel::pair_of(kind).unwrap();
    ours.set_max_fds(MAX_FDS);
    ours.set_recv_timeout(Some(LONG)).unwrap();
    ours.set_send_timeout(Some(LONG)).unwrap();
    (Link::Channel(ours), program.start(output, theirs.into(), mode))
}

fn plain_stream_to(program: &Program, mode: &[&str]) -> (Link, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(LONG)).unwrap();
    ours.set_write_timeout(Some(LONG)).unwrap();
    (Link::Plain(ours), program.start(Stdio::piped(), theirs.into(), mode))
}

/// A peer that can be told of a hang-up is; a datagram socket cannot (K17).
fn ends(kind: Kind, link: Link, peer: Peer) {
    if kind == Kind::Datagram {
        link.send(b"end", &[]);
        return peer.says("asked to end");
    }
    drop(link);
    peer.says("hung up");
}

/// Tests with many descriptors take turns: those in flight are counted for the whole user (K9), and those that are open
/// for the process.
fn one_at_a_time(test: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test();
}

fn files(count: usize) -> Vec<File> {
    (0..count).map(|place| file(&format!("file {place} of {count}"))).collect()
}

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn borrowed(files: &[File]) -> Vec<BorrowedFd<'_>> {
    files.iter().map(AsFd::as_fd).collect()
}

/// All of a file, wherever its offset is.
fn content(fd: BorrowedFd<'_>) -> String {
    use std::os::unix::fs::FileExt;
    let mut text = [0; 100];
    let length = File::from(fd.try_clone_to_owned().unwrap()).read_at(&mut text, 0).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

fn is_close_on_exec(fd: impl AsFd) -> bool {
    FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
}

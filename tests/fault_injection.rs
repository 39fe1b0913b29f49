//! Each system call of a channel fails, in turn and at each of its occurrences, with each errno that a loaded system
//! can give: messages still arrive once and whole, or their sender is told that they do not.
//!
//! strace makes the calls fail (`-e inject`): the kernel does not see a call that fails so. The process under strace
//! holds one end; its peer, in this process, is left in peace. Not made to fail: close(2), since the descriptor would
//! then really stay open.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::{Channel, ChannelError, Kind, Packet};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
const MODES: [&str; 3] = ["blocking", "nonblocking", "deadline"];
const ERRORS: [&str; 7] = ["EINTR", "EAGAIN", "ENOBUFS", "ENOMEM", "EMFILE", "ECONNRESET", "EPIPE"];
const LONG: Duration = Duration::from_secs(30);
/// A peer that is slow for so long makes the other end wait, so that there is waiting to be disturbed. No assertion
/// depends on it.
const PACE: Duration = Duration::from_millis(2);
/// The number under which the process under strace finds its end. Not one of those that std looks after.
const END: i32 = 9;

/// The other end: the numbers of the messages that it sent or received.
type Peer = fn(Kind, &Channel) -> Result<Vec<u32>, ChannelError>;

/// Message `number` says its number again and again, and has a known number of descriptors.
const MESSAGES: u32 = 6;
/// A large one.
const SLOW: u32 = 2;
const THE_END: &[u8] = b"the end";

fn message(kind: Kind, number: u32) -> Vec<u8> {
    // On a stream longer than the queue takes at once.
    let large = if kind == Kind::Stream { 120_000 } else { 20_000 };
    number.to_le_bytes().repeat(if number % 2 == 0 { large } else { 8 })
}

fn count(number: u32) -> usize {
    (number % 3) as usize
}

/// The number of a message that came whole.
fn number_of(kind: Kind, packet: &Packet) -> u32 {
    let number = u32::from_le_bytes(*packet.bytes().first_chunk().unwrap());
    assert!(number < MESSAGES && packet.bytes() == message(kind, number), "a message in part");
    assert_eq!(packet.fds().len(), count(number), "message {number}");
    number
}

/// P-16, P-17: a call of the sender that fails is made again or is a typed error; what is reported as sent arrives
/// once, whole and in order, and nothing else does.
#[test]
fn p_16_p_17_faults_of_the_sender() {
    faults("p_16_p_17_faults_of_the_sender", "sendmsg", sender, |kind, end| {
        let mut packet = Packet::with_capacity(1 << 20);
        let mut numbers = Vec::new();
        // Its queue is full soon.
        await_event(end, PollFlags::POLLIN);
        thread::sleep(PACE);
        loop {
            match end.recv_deadline(&mut packet, Instant::now() + LONG) {
                Ok(()) if packet.bytes() == THE_END => return Ok(numbers),
                Ok(()) => numbers.push(number_of(kind, &packet)),
                Err(ChannelError::Disconnected) => return Ok(numbers),
                Err(error) => return Err(error),
            }
        }
    });
}

/// P-16, P-17: a call of the receiver that fails is made again or is a typed error; each message arrives once, whole
/// and in order all the same.
#[test]
fn p_16_p_17_faults_of_the_receiver() {
    faults("p_16_p_17_faults_of_the_receiver", "recvmsg", receiver, |kind, end| {
        let null = File::open("/dev/null").unwrap();
        for number in 0..MESSAGES {
            let fds = vec![null.as_fd(); count(number)];
            if number == SLOW {
                send_slowly(kind, end, &message(kind, number), &fds)?;
            } else {
                end.send_deadline(&message(kind, number), &fds, Instant::now() + LONG)?;
            }
        }
        Ok((0..MESSAGES).collect())
    });
}

/// Sends a message so that its receiver has to wait for it, over a stream also within it.
fn send_slowly(kind: Kind, end: &Channel, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    wait_until_read(end);
    if kind != Kind::Stream {
        return end.send(bytes, fds);
    }
    let numbers = [bytes.len(), fds.len()].map(|number| u32::try_from(number).unwrap().to_le_bytes());
    let frame = [&numbers.concat(), bytes].concat();
    let (first, rest) = frame.split_at(5);
    let (second, third) = rest.split_at(50_000);
    for (piece, fds) in [(first, fds), (second, &[]), (third, &[])] {
        let mut sent = 0;
        while sent < piece.len() {
            sent += fdbroker::raw::send(end, &piece[sent..], if sent == 0 { fds } else { &[] })
                .map_err(|source| ChannelError::Os { call: "sendmsg", source })?;
        }
        wait_until_read(end);
    }
    Ok(())
}

/// Waits until the other end has taken everything and, mostly, has found nothing more.
fn wait_until_read(end: &Channel) {
    let late = Instant::now() + LONG;
    let mut unread: libc::c_int = 1;
    while unread > 0 && Instant::now() < late {
        // SAFETY: SIOCOUTQ, which has this number, writes one c_int.
        unsafe { libc::ioctl(end.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
        thread::yield_now();
    }
    thread::sleep(PACE);
}

/// Runs `role` under strace again and again, each time with another fault, and `peer` at the other end. Both answer the
/// numbers of messages, and agree.
fn faults(name: &str, main: &'static str, role: fn(Kind, &str, &Channel) -> Vec<u32>, peer: Peer) {
    if let Some(told) = common::role() {
        return under_strace(&told, role);
    }
    if !can_inject() {
        eprintln!("SKIPPED {name}: there is no strace here, or it may not trace");
        return;
    }
    let jobs: Mutex<Vec<_>> = Mutex::default();
    for kind in KINDS {
        // How a channel is made does not depend on what is done with it.
        let all = ["poll", "recvfrom", "fcntl", "getsockopt", "setsockopt"];
        for (mode, calls) in [("blocking", &all[..]), ("nonblocking", &["fcntl"]), ("deadline", &["poll"])] {
            for &call in [main].iter().chain(calls) {
                ERRORS.iter().for_each(|&errno| jobs.lock().unwrap().push((kind, mode, call, errno)));
            }
        }
    }
    let hits: Mutex<BTreeSet<(String, &str)>> = Mutex::default();
    let runs = AtomicU32::new(0);
    let next = || jobs.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((kind, mode, call, errno)) = next() {
                    for when in 1..=20 {
                        runs.fetch_add(1, Ordering::Relaxed);
                        if !one(name, kind, mode, &format!("{call}:error={errno}:when={when}"), peer) {
                            break;
                        }
                        hits.lock().unwrap().insert((format!("{kind:?} {mode} {call}"), errno));
                    }
                }
            });
        }
    });
    let hits = hits.into_inner().unwrap();
    eprintln!("{name}: {} runs; errnos that each call was hit with:", runs.into_inner());
    let calls: BTreeSet<_> = hits.iter().map(|(call, _)| call).collect();
    for call in calls {
        let errnos: Vec<_> = hits.iter().filter(|(hit, _)| hit == call).map(|(_, errno)| *errno).collect();
        eprintln!("  {call}: {}", errnos.join(" "));
    }
    for kind in KINDS {
        for mode in MODES {
            for errno in ERRORS {
                assert!(hits.contains(&(format!("{kind:?} {mode} {main}"), errno)), "{kind:?} {mode} {errno}");
            }
        }
    }
}

fn can_inject() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "inject=getppid:error=EPERM", "-o", "/dev/null", "true"]);
    strace.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// One run with one fault. Answers whether it came to the fault.
fn one(name: &str, kind: Kind, mode: &str, fault: &str, peer: Peer) -> bool {
    let (_keep, directory) = common::directory();
    let log = directory.join("log");
    let (near, far) = Channel::pair_of(kind).unwrap();
    let far = OwnedFd::from(far);
    // Room for one large message and a bit.
    nix::sys::socket::setsockopt(&far, nix::sys::socket::sockopt::SndBuf, &65536).unwrap();
    let child = strace(name, &format!("{kind:?} {mode}"), fault, &log, far).spawn().unwrap();
    let result = peer(kind, &near);
    drop(near);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let context = || {
        let (strace, failure) = (fs::read_to_string(&log).unwrap_or_default(), String::from_utf8_lossy(&output.stderr));
        format!("{kind:?} {mode} {fault}: {}, the peer: {result:?}\n{said}\n{failure}\n{strace}", output.status)
    };
    // Without the word, what is there to be read is what the harness of the tests prints.
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{}", context());
    let told = said.lines().find_map(|line| line.strip_prefix("numbers: ")).unwrap_or_else(|| panic!("{}", context()));
    assert!(result.as_ref().is_ok_and(|numbers| told == format!("{numbers:?}")), "{}", context());
    fs::read_to_string(&log).unwrap().contains("(INJECTED)")
}

/// The role of the test `name`, with `end` as its number 9; the fault is for calls on that socket only.
fn strace(name: &str, role: &str, fault: &str, log: &Path, end: OwnedFd) -> Command {
    let plain = common::rerun(name, role);
    let (_, inode) = common::identity(&end);
    let call = fault.split(':').next().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec 9<&0 </dev/null; exec strace \"$@\"", "sh", "-f", "--seccomp-bpf", "-o"]).arg(log);
    command.args([
        "-P",
        &format!("socket:[{inode}]"),
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={fault}"),
    ]);
    command.arg("--").arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.stdin(end).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The process under strace: makes a channel of its end, does what it has to, and has the descriptors that it had.
fn under_strace(told: &str, role: fn(Kind, &str, &Channel) -> Vec<u32>) {
    nix::unistd::alarm::set(20);
    let (kind, mode) = told.split_once(' ').unwrap();
    let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind).unwrap();
    // SAFETY: whoever started this process has put it there for it, and nothing else here knows of it.
    let end = unsafe { OwnedFd::from_raw_fd(END) };
    let before = common::open_fds();
    // dup(2) leaves close-on-exec to the channel.
    let channel = insist(|| Channel::try_from(nix::unistd::dup(&end).unwrap()));
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", channel.as_fd().as_raw_fd())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    assert!(i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC != 0, "not close-on-exec");
    assert_eq!(common::open_fds(), before + 1);
    insist(|| channel.set_nonblocking(mode == "nonblocking"));
    insist(|| channel.set_recv_timeout(Some(LONG)));
    insist(|| channel.set_send_timeout(Some(LONG)));
    let numbers = role(kind, mode, &channel);
    assert_eq!(common::open_fds(), before + 1, "before the channel is dropped");
    drop(channel);
    assert_eq!(common::open_fds(), before);
    println!("\nnumbers: {numbers:?}");
}

/// Does what cannot but succeed, without a fault.
fn insist<T>(mut attempt: impl FnMut() -> Result<T, ChannelError>) -> T {
    attempt()
        .or_else(|error| {
            println!("{error:?}");
            attempt()
        })
        .unwrap()
}

/// Waits, whatever becomes of the waiting.
fn await_event(channel: &Channel, events: PollFlags) {
    let _ = poll(&mut [PollFd::new(channel.as_fd(), events)], PollTimeout::from(1000u16));
}

/// Sends each message once; again only if it was told that nothing of it was sent.
fn sender(_: Kind, mode: &str, channel: &Channel) -> Vec<u32> {
    let null = File::open("/dev/null").unwrap();
    let before = common::open_fds();
    let send = |bytes: &[u8], fds: &[BorrowedFd<'_>]| match mode {
        "deadline" => channel.send_deadline(bytes, fds, Instant::now() + LONG),
        _ => channel.send(bytes, fds),
    };
    let mut sent = Vec::new();
    for number in 0..=MESSAGES {
        let kind = channel.kind();
        let (bytes, fds) = match number {
            MESSAGES => (THE_END.to_vec(), vec![]),
            _ => (message(kind, number), vec![null.as_fd(); count(number)]),
        };
        let mut attempts = 0;
        loop {
            let result = send(&bytes, &fds);
            assert_eq!(common::open_fds(), before, "{result:?}");
            if let Err(error) = &result {
                println!("message {number}: {error:?}");
                not_interrupted(error);
            }
            match result {
                Ok(()) => break sent.push(number),
                Err(ChannelError::Unfinished) => {
                    if flush(channel) {
                        sent.push(number);
                    }
                    break;
                }
                Err(ChannelError::WouldBlock) => await_event(channel, PollFlags::POLLOUT),
                Err(
                    ChannelError::Congested { .. }
                    | ChannelError::DescriptorTableFull
                    | ChannelError::TimedOut
                    | ChannelError::Os { .. },
                ) => {
                    attempts += 1;
                    assert!(attempts < 3, "one fault, one error");
                }
                // Not sent; the end is told in any case, since a datagram socket does not tell it.
                Err(ChannelError::Disconnected) if number < MESSAGES || attempts > 0 => break,
                Err(ChannelError::Disconnected) => attempts += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    sent.retain(|&number| number < MESSAGES);
    sent
}

/// EINTR is no error: the call is made again.
fn not_interrupted(error: &ChannelError) {
    let interrupted = matches!(error, ChannelError::Os { source, .. } if source.raw_os_error() == Some(libc::EINTR));
    assert!(!interrupted, "{error:?}");
}

/// Sends the rest of a message, and answers whether that was possible.
fn flush(channel: &Channel) -> bool {
    let mut attempts = 0;
    while let Err(error) = channel.flush() {
        println!("flush: {error:?}");
        match error {
            ChannelError::WouldBlock => await_event(channel, PollFlags::POLLOUT),
            _ => attempts += 1,
        }
        assert!(attempts < 3, "one fault, one error");
    }
    true
}

/// Receives until the end is told twice, or the last message is there.
fn receiver(kind: Kind, mode: &str, channel: &Channel) -> Vec<u32> {
    let mut packet = Packet::with_capacity(1 << 20);
    let mut numbers = Vec::new();
    let (mut ends, mut attempts) = (0, 0);
    let last = |numbers: &[u32]| kind == Kind::Datagram && numbers.last() == Some(&(MESSAGES - 1));
    while ends < 2 && !last(&numbers) {
        let result = match mode {
            "deadline" => channel.recv_deadline(&mut packet, Instant::now() + LONG),
            _ => channel.recv(&mut packet),
        };
        if let Err(error) = &result {
            println!("after {numbers:?}: {error:?}");
            not_interrupted(error);
            assert!(packet.bytes().is_empty() && packet.fds().is_empty());
        }
        match result {
            Ok(()) => numbers.push(number_of(kind, &packet)),
            Err(ChannelError::Disconnected) => ends += 1,
            Err(ChannelError::WouldBlock) => await_event(channel, PollFlags::POLLIN),
            // ENOMEM and ENOBUFS are no congestion here: nothing is sent.
            Err(ChannelError::DescriptorTableFull | ChannelError::TimedOut | ChannelError::Os { .. }) => {
                attempts += 1;
                assert!(attempts < 3, "one fault, one error");
            }
            Err(error) => panic!("{error}"),
        }
    }
    numbers
}

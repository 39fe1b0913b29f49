//! `[both]` One hostile message, received in a fresh process: what leaked, what was said about it, and whether the next
//! message still arrives.
//!
//! A message is made with raw calls, so that anything the kernel takes can be made. The receiver has room for what the
//! case says that it expects. What a crate gives its caller is closed before descriptors are counted again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

use crate::peers::{ALL, Kind, Peer, Receiver, Room, pair};

/// A hostile message, or an unusual one.
pub struct Case {
    pub name: &'static str,
    /// What is sent to whom, in one line.
    pub what: &'static str,
    kind: Kind,
    room: Room,
    /// The bytes of the message, and the numbers of descriptors of its blocks of rights.
    sends: (usize, &'static [usize]),
    twist: Twist,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Twist {
    None,
    /// So many descriptors are free in the receiver's table.
    Free(u64),
    /// SO_PASSCRED is on.
    Credentials,
    /// SO_PASSPIDFD is on.
    PidFd,
    /// A message without descriptors goes ahead, on a stream.
    Glued,
}

pub const CASES: &[Case] = &[
    Case::new("nothing hostile", "1 descriptor, room for 1", 1, 16, &[1], Twist::None),
    Case::new("one descriptor too many", "2 descriptors, room for 1 (K4)", 1, 16, &[2], Twist::None),
    Case::new("many too many", "5 descriptors, room for 1 (K19)", 1, 16, &[5], Twist::None),
    Case::new("full table", "3 descriptors, room for 3, none free in the table (K2)", 3, 16, &[3], Twist::Free(0)),
    Case::new(
        "nearly full table",
        "3 descriptors, room for 3, one free in the table (K2)",
        3,
        16,
        &[3],
        Twist::Free(1),
    ),
    Case::new("too many bytes", "100 bytes, room for 16, 1 descriptor (MSG_TRUNC)", 1, 100, &[1], Twist::None),
    Case::new("no bytes", "a packet of 0 bytes with 1 descriptor (K1)", 1, 0, &[1], Twist::None),
    Case::new("two blocks", "two blocks of rights, 1 descriptor each, room for 2 (K7)", 2, 16, &[1, 1], Twist::None),
    Case::new("a pidfd", "1 descriptor, room for 1, SO_PASSPIDFD is on (K22)", 1, 16, &[1], Twist::PidFd),
    Case::new("a pidfd alone", "no descriptor, room for 1, SO_PASSPIDFD is on (K22)", 1, 16, &[], Twist::PidFd),
    Case::new("credentials", "1 descriptor, room for 1, SO_PASSCRED is on", 1, 16, &[1], Twist::Credentials),
    Case::new(
        "253 descriptors",
        "253 descriptors, room for 4, 120 free in the table (K20)",
        4,
        16,
        &[253],
        Twist::Free(120),
    ),
    Case {
        kind: Kind::Stream,
        ..Case::new(
            "glued",
            "on a stream, a message without descriptors, then one with 1 (K10)",
            1,
            4,
            &[1],
            Twist::Glued,
        )
    },
];

impl Case {
    const fn new(
        name: &'static str,
        what: &'static str,
        room: usize,
        bytes: usize,
        blocks: &'static [usize],
        twist: Twist,
    ) -> Self {
        let room = Room { bytes: 16, fds: room };
        Self { name, what, kind: Kind::SeqPacket, room, sends: (bytes, blocks), twist }
    }

    pub fn is_about_pidfds(&self) -> bool {
        self.twist == Twist::PidFd
    }

    pub fn is_about_credentials(&self) -> bool {
        self.twist == Twist::Credentials
    }
}

/// What came of one case with one contestant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Descriptors in the table that nobody can close any more.
    pub leaked: usize,
    /// Descriptors that a program started by the receiver would inherit, leaked ones among them.
    pub inherited: usize,
    /// Ok, with fewer bytes or descriptors than were sent, and nothing says so.
    pub lied: bool,
    /// Ok, with the bytes of two messages as one.
    pub glued: bool,
    /// The receive never came back.
    pub blocked: bool,
    pub panicked: bool,
    /// An honest message behind the hostile one was received.
    pub next: Option<bool>,
    /// The receiver's table grew for what the message carried: its size then.
    pub table: Option<usize>,
    /// The answer in words, or why there is none.
    pub answer: String,
}

impl Outcome {
    /// Nothing leaked, nothing was inherited, nobody was deceived, and the next message came. Who does not frame
    /// messages cannot be blamed for two that the kernel made one.
    pub fn is_sound(&self, peer: &Peer) -> bool {
        let lost = self.next == Some(false) && !self.glued;
        let wrong = self.lied || (self.glued && peer.frames) || self.blocked || self.panicked || lost;
        self.leaked == 0 && self.inherited == 0 && !wrong
    }
}

/// Runs a case with a contestant in a process of its own, or says why it cannot be run.
pub fn run(case: &Case, peer: &Peer) -> io::Result<Result<Outcome, &'static str>> {
    let sent: usize = case.sends.1.iter().sum();
    if sent <= case.room.fds && sent > peer.most {
        return Ok(Err("it expects one descriptor"));
    }
    let mut child = Command::new(std::env::current_exe()?);
    child.args([CHILD, case.name, peer.name]).stdin(Stdio::null());
    let Output { status, stdout, stderr } = child.output()?;
    if status.signal() == Some(nix::sys::signal::Signal::SIGALRM as i32) {
        return Ok(Ok(Outcome { blocked: true, answer: "never came".into(), ..Outcome::default() }));
    }
    let said = String::from_utf8_lossy(&stdout);
    match said.trim_end() {
        "unsupported" => Ok(Err("not on this kernel")),
        line => Outcome::parse(line).map(Ok).ok_or_else(|| {
            let error =
                format!("{} with {}: {status}\n{line}\n{}", case.name, peer.name, String::from_utf8_lossy(&stderr));
            io::Error::other(error)
        }),
    }
}

const CHILD: &str = "--receive";
/// Descriptors that a receiver has anyway.
const CROWD: usize = 200;
/// After which a receive that does not come back is ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// To be called first thing by a program that calls [`run`]: answers whether this process is one of those that it
/// starts, and has done its work.
pub fn was_child() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, flag, case, peer] = &arguments[..] else { return false };
    if flag != CHILD {
        return false;
    }
    let case = CASES.iter().find(|known| known.name == case).expect("a case");
    let peer = ALL.iter().find(|known| known.name == peer).expect("a contestant");
    match receive(case, peer) {
        Some(outcome) => println!("{}", outcome.line()),
        None => println!("unsupported"),
    }
    true
}

fn receive(case: &Case, peer: &Peer) -> Option<Outcome> {
    let (sender, socket) = pair(case.kind);
    // A duplicate to watch the socket with, whatever the contestant does with its own.
    let watched = socket.try_clone().expect("a duplicate");
    let twisted = match case.twist {
        Twist::Credentials => setsockopt(&socket, sockopt::PassCred, &true).map_err(io::Error::from),
        Twist::PidFd => pass_pidfd(socket.as_fd()),
        _ => Ok(()),
    };
    match twisted {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return None,
        result => result.expect("setsockopt"),
    }
    let mut receive = (peer.receiver)(socket, case.kind, case.room);
    let (bytes, blocks) = case.sends;
    let framed = case.kind == Kind::Stream && peer.frames;
    if case.twist == Twist::Glued {
        send(&sender, bytes, &[], framed);
    }
    send(&sender, bytes, blocks, framed);

    let limit = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    // So many that the table has to grow for a hundred more, and tells so.
    let _crowd: Vec<_> = (0..CROWD).map(|_| sender.try_clone().expect("a duplicate")).collect();
    let (_, size) = open_fds();
    if let Twist::Free(free) = case.twist {
        set_limit(first_free() + free, limit.1);
    }
    let (before, _) = with_limit_of(limit.1, open_fds);
    alarm(PATIENCE);
    let mut outcome = judge(case, &mut receive);
    let (after, grown) = with_limit_of(limit.1, open_fds);
    let leaked: Vec<_> = after.difference(&before).collect();
    outcome.leaked = leaked.len();
    outcome.inherited += leaked.iter().filter(|&&&number| !closes_on_exec(number)).count();
    outcome.table = (grown > size).then_some(grown);
    set_limit(limit.0, limit.1);
    outcome.next = next_arrives(case, &sender, &watched, framed, peer.most, &mut receive);
    Some(outcome)
}

/// Receives, and says what is wrong with the answer. Its descriptors are closed on return.
fn judge(case: &Case, receive: &mut Receiver) -> Outcome {
    let mut outcome = Outcome::default();
    panic::set_hook(Box::new(|_| {}));
    let answer = panic::catch_unwind(AssertUnwindSafe(receive));
    let _ = panic::take_hook();
    match answer {
        Err(_) => {
            outcome.panicked = true;
            outcome.answer = "panicked".into();
        }
        Ok(Err(error)) => outcome.answer = error,
        Ok(Ok(got)) => {
            // What was sent first is what one receive should give.
            let bytes = case.sends.0;
            let fds = if case.twist == Twist::Glued { 0 } else { case.sends.1.iter().sum() };
            let short = got.bytes.is_some_and(|len| len < bytes) || got.fds.len() < fds;
            outcome.lied = short && !got.cut;
            outcome.glued = got.bytes.is_some_and(|len| len > bytes);
            outcome.inherited = got.fds.iter().filter(|fd| !closes_on_exec(fd.as_raw_fd())).count();
            let said = if got.cut { ", told that it was cut" } else { "" };
            let len = got.bytes.map_or_else(|| "?".into(), |len| len.to_string());
            outcome.answer = format!("Ok: {len} of {bytes} bytes, {} of {fds} descriptors{said}", got.fds.len());
        }
    }
    outcome
}

/// Whether one more message, with nothing wrong with it, is received whole.
fn next_arrives(
    case: &Case,
    sender: &OwnedFd,
    watched: &OwnedFd,
    framed: bool,
    most: usize,
    receive: &mut Receiver,
) -> Option<bool> {
    // As many as are expected: some of the contestants accept no other number.
    let fds = case.room.fds.min(most);
    let mut bytes = case.room.bytes;
    match case.twist {
        // It is there already, if it was kept apart from the first one.
        Twist::Glued => bytes = case.sends.0,
        // The kernel would add to it what was judged before.
        Twist::Credentials | Twist::PidFd => return None,
        _ => send(sender, bytes, &[fds], framed),
    }
    let mut events = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
    if poll(&mut events, PollTimeout::ZERO) != Ok(1) {
        return Some(false);
    }
    alarm(PATIENCE);
    let got = panic::catch_unwind(AssertUnwindSafe(receive));
    Some(matches!(got, Ok(Ok(got)) if got.bytes.is_none_or(|len| len == bytes) && got.fds.len() == fds))
}

fn send(socket: &OwnedFd, len: usize, blocks: &[usize], framed: bool) {
    let count: usize = blocks.iter().sum();
    let header = [len, count].map(|number| (number as u32).to_le_bytes()).concat();
    let bytes = vec![b'x'; len];
    let parts = [IoSlice::new(if framed { &header } else { &[] }), IoSlice::new(&bytes)];
    // The same one over and over, so that the sender needs few.
    let numbers = vec![io::stdin().as_raw_fd(); count];
    let rights: Vec<_> = blocks.iter().map(|&count| ControlMessage::ScmRights(&numbers[..count])).collect();
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).expect("sendmsg");
}

/// Those of this process, and the size of its table, which the kernel doubles when it needs more and never shrinks.
fn open_fds() -> (BTreeSet<RawFd>, usize) {
    let looking = fs::read_dir("/proc/self/fd").expect("/proc/self/fd");
    let number = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name().to_str()?.parse().ok();
    let mut numbers: BTreeSet<RawFd> = looking.filter_map(number).collect();
    // The one that looked, which is closed by now.
    numbers.retain(|&number| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok());
    (numbers, size.expect("FDSize"))
}

/// Lifts the limit, which may leave nothing free, while the table is looked at.
fn with_limit_of<T>(hard: u64, look: impl FnOnce() -> T) -> T {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    set_limit(hard, hard);
    let seen = look();
    set_limit(soft, hard);
    seen
}

fn set_limit(soft: u64, hard: u64) {
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("setrlimit");
}

/// The number that the next descriptor gets.
fn first_free() -> u64 {
    let next = io::stdin().as_fd().try_clone_to_owned().expect("a duplicate");
    u64::try_from(next.as_raw_fd()).expect("a number")
}

fn closes_on_exec(number: RawFd) -> bool {
    // SAFETY: asks for the flags of a number; the caller knows that it is open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC))
}

fn pass_pidfd(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).expect("4");
    // SAFETY: the kernel reads one int.
    let status = unsafe {
        let socket = socket.as_raw_fd();
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_PASSPIDFD, (&raw const on).cast(), size)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn alarm(after: Duration) {
    // SAFETY: takes a number.
    unsafe { libc::alarm(u32::try_from(after.as_secs()).expect("seconds")) };
}

/// Between the process and its parent: one line, fields apart by tabs.
impl Outcome {
    fn line(&self) -> String {
        let next = self.next.map_or("-", |next| if next { "1" } else { "0" });
        let table = self.table.map_or_else(|| "-".into(), |table| table.to_string());
        let flags = [self.lied, self.glued, self.blocked, self.panicked].map(u8::from);
        let flags = flags.map(|flag| flag.to_string()).join("\t");
        let answer = self.answer.replace(['\n', '\t'], " ");
        format!("{}\t{}\t{flags}\t{next}\t{table}\t{answer}", self.leaked, self.inherited)
    }

    fn parse(line: &str) -> Option<Self> {
        let [leaked, inherited, lied, glued, blocked, panicked, next, table, answer] =
            line.splitn(9, '\t').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            leaked: leaked.parse().ok()?,
            inherited: inherited.parse().ok()?,
            lied: lied == "1",
            glued: glued == "1",
            blocked: blocked == "1",
            panicked: panicked == "1",
            next: (next != "-").then_some(next == "1"),
            table: table.parse().ok(),
            answer: answer.into(),
        })
    }
}

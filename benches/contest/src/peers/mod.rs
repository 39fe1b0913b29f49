//! `[both]` The contestants: one file each, which uses its crate as the crate's documentation says.

mod channel;
mod libc;
mod nix;
mod passfd;
mod raw;
mod rustix;
mod sendfd;
mod uds;
mod unix_ancillary;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use ::nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

/// In the order in which tables list them.
pub const ALL: &[Peer] = &[
    libc::PEER,
    channel::PEER,
    raw::PEER,
    sendfd::PEER,
    passfd::PEER,
    uds::PEER,
    unix_ancillary::PEER,
    unix_ancillary::EXTENSIONS,
    nix::PEER,
    rustix::PEER,
];

/// Raw calls, to which the others are compared.
pub const BASE: &Peer = &libc::PEER;

/// A way of passing descriptors.
pub struct Peer {
    pub name: &'static str,
    /// As Cargo.lock calls it.
    package: &'static str,
    /// Part of this project: it may not leak or lie.
    pub ours: bool,
    /// Keeps messages apart on a stream, by a framing that its peer has to speak.
    pub frames: bool,
    /// Descriptors that its messages can carry.
    pub most: usize,
    /// Makes what repeats a round trip (send, receive, close what came) so many times, or says why it cannot.
    pub trips: fn(Job) -> Result<Trips, &'static str>,
    /// Makes what receives one message from a socket.
    pub receiver: fn(OwnedFd, Kind, Room) -> Receiver,
}

pub type Trips = Box<dyn FnMut(usize)>;
pub type Receiver = Box<dyn FnMut() -> Result<Got, String>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    SeqPacket,
    Stream,
}

/// What a round trip is to carry.
#[derive(Clone, Copy)]
pub struct Job {
    pub kind: Kind,
    /// Over a stream: so that the receiver can tell one message from the next.
    pub framed: bool,
    pub fds: usize,
}

/// What the receiver expects: at most so much.
#[derive(Clone, Copy)]
pub struct Room {
    pub bytes: usize,
    pub fds: usize,
}

/// One message as a crate gave it to its caller.
pub struct Got {
    /// None where the crate does not give them.
    pub bytes: Option<usize>,
    /// The caller's to close, by what the crate says.
    pub fds: Vec<OwnedFd>,
    /// The crate said that something of the message is missing.
    pub cut: bool,
}

impl Peer {
    /// Of the lock file that this was built with.
    pub fn version(&self) -> &'static str {
        let lock = include_str!("../../Cargo.lock");
        let entry = lock.split_once(&format!("name = \"{}\"\nversion = \"", self.package));
        entry.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("?")
    }
}

/// The bytes of a measured message.
const PAYLOAD: [u8; 16] = *b"sixteen bytes...";
/// The most that a message can carry (SCM_MAX_FD).
pub const MAX_FDS: usize = 253;

/// Descriptors to send, the same for every contestant.
pub fn files(count: usize) -> &'static [OwnedFd] {
    static FILES: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    let open = || File::open("/dev/null").expect("/dev/null").into();
    &FILES.get_or_init(|| (0..MAX_FDS).map(|_| open()).collect())[..count]
}

fn borrowed(count: usize) -> Vec<BorrowedFd<'static>> {
    files(count).iter().map(AsFd::as_fd).collect()
}

fn numbers(count: usize) -> Vec<RawFd> {
    files(count).iter().map(AsRawFd::as_raw_fd).collect()
}

/// A connected pair, close-on-exec, waiting.
pub fn pair(kind: Kind) -> (OwnedFd, OwnedFd) {
    let kind = match kind {
        Kind::SeqPacket => SockType::SeqPacket,
        Kind::Stream => SockType::Stream,
    };
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("socketpair")
}

/// The loop around a round trip, compiled together with it.
fn repeat(mut trip: impl FnMut() + 'static) -> Trips {
    Box::new(move |times| (0..times).for_each(|_| trip()))
}

/// Takes over a number that a crate gave as the caller's.
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the crates that give numbers say that the receiver owns what they stand for, and each is taken once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

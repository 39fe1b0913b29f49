//! `[both]` What goes wrong with messages and their descriptors.

use std::io;
use std::path::PathBuf;

use crate::channel::{Credentials, Kind};

use crate::typed::Found;

/// Why a message was not sent or received. Nothing was delivered in part, and no descriptor of it was handed out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The peer has closed its end, or is dead. To a receiver: what it sent before has been received.
    #[error("the peer has closed its end of the channel")]
    Disconnected,
    /// No message is there (receive) or no room (send), and the call does not wait: poll and try again.
    #[error("the channel is not ready, and the call does not wait")]
    WouldBlock,
    /// The channel's timeout, or the call's deadline, passed.
    #[error("it was not done within the time that was given")]
    TimedOut,
    /// The message has more bytes than the receiver's packet, or than the kernel takes. Use a larger packet or
    /// several messages.
    #[error("the message has more bytes than fit: larger than the receiver's packet, or than the kernel takes")]
    TooLarge,
    /// The message has more descriptors than this end accepts (`Channel::set_max_fds`), or than a message can carry.
    #[error("the message has more than {budget} descriptors, as many as are accepted here; none was kept")]
    TooManyDescriptors {
        /// The number that would have been accepted.
        budget: usize,
    },
    /// This process has no free descriptors for those of the message, or for a connection, which goes on waiting in its
    /// listener's queue: close some, or raise RLIMIT_NOFILE.
    #[error(
        "this process's descriptor table is full (RLIMIT_NOFILE): of a message, nothing was kept; a connection waits"
    )]
    DescriptorTableFull,
    /// A message of no bytes and no descriptors was to be sent: its receiver could not tell it from a hang-up.
    #[error("an empty message without descriptors cannot be told from a hang-up, and is not sent")]
    Empty,
    /// Nothing was sent: too many descriptors are in flight, which the kernel counts for all processes of this user
    /// (ETOOMANYREFS), or it has no memory (ENOBUFS, ENOMEM). The call does not wait, or has waited for as long as it
    /// was to. Polling does not tell when it is over: try again later.
    #[error("{call}: {source}: the kernel has no room for the message now; try again later")]
    Congested {
        /// The call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// Part of the message, with all of its descriptors, is on its way over a stream; the channel holds the rest. Do
    /// not send it again: the next send, or `Channel::flush`, finishes it. If the channel is dropped before, its peer
    /// is told "disconnected" instead, as soon as no other descriptor is open on this end.
    #[error("the message is sent in part, and the channel holds the rest: flush it")]
    Unfinished,
    /// A stream whose frames are out of step: the peer is no `Channel`, or lies. Close it.
    #[error("the framing is broken: the peer is not a Channel, or lies about its messages")]
    Broken,
    /// Control data came that the channel did not ask for, and may have taken the room of descriptors; all were closed.
    /// Somebody set SO_PASSCRED, SO_PASSPIDFD or SO_PASSSEC on the socket after it had become a channel.
    #[error("control data came that the channel did not ask for (SO_PASSCRED or the like, set behind its back)")]
    UnexpectedControlData,
    /// This kernel cannot do it, or not for such a socket.
    #[error("not to be had here: {what}")]
    Unsupported {
        /// What, and since when Linux has it.
        what: &'static str,
    },
    /// The listener's owner did not want this peer, which was closed before anything was received from it. The listener
    /// goes on.
    #[error("the peer ({}) was refused, and nothing was received from it", named(*.credentials))]
    PeerRefused {
        /// Who connected.
        credentials: Credentials,
    },
    /// The descriptor is not a UNIX socket of type SEQPACKET, STREAM or DGRAM, or it is one that listens.
    #[error("the descriptor is not a UNIX socket that messages can go through (another kind, or one that listens)")]
    NotASocket,
    /// Another error of a system call.
    #[error("{call}: {source}")]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
}

fn named(Credentials { pid, uid, gid }: Credentials) -> String {
    let process = pid.map_or("a process without a number here".to_owned(), |pid| format!("process {pid}"));
    format!("{process}, uid {uid}, gid {gid}")
}

impl From<ChannelError> for io::Error {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::DescriptorTableFull => Self::from_raw_os_error(libc::EMFILE),
            ChannelError::Os { source, .. } | ChannelError::Congested { source, .. } => source,
            error => Self::new(error.kind(), error),
        }
    }
}

impl ChannelError {
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Disconnected => io::ErrorKind::BrokenPipe,
            Self::WouldBlock => io::ErrorKind::WouldBlock,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Empty | Self::NotASocket => io::ErrorKind::InvalidInput,
            Self::DescriptorTableFull => io::Error::from_raw_os_error(libc::EMFILE).kind(),
            Self::Os { source, .. } | Self::Congested { source, .. } => source.kind(),
            Self::PeerRefused { .. } => io::ErrorKind::PermissionDenied,
            Self::Unsupported { .. } => io::ErrorKind::Unsupported,
            Self::Unfinished => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        }
    }
}

/// Why nothing listens at an address now, or why there is no channel to it. Nothing is left of the attempt: no
/// descriptor, no file. `asked` says what was asked, with the address; `call` is the system call that decided.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No system call was made: this cannot be. The message says what to ask for instead.
    #[error("{asked}: {why}")]
    Unfit {
        /// What was asked.
        asked: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// ENOENT: no such path, or no directory for it.
    #[error("{asked}: {call}: no such path; is the listener started, and its directory made?")]
    NotFound {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
    },
    /// ECONNREFUSED: the path is there (a stale socket, or no socket), or the abstract name is not; nobody listens.
    #[error("{asked}: {call}: nobody listens there; start the listener, which replaces a stale path")]
    NobodyListens {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
    },
    /// EACCES or EPERM: to connect needs write permission on the socket's path, to bind on its directory, and both need
    /// search permission on every directory before it.
    #[error("{asked}: {call}: {source}; look at the modes and owners of the path and its directories")]
    PermissionDenied {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// EAGAIN: the listener does not accept, and as many connections as its backlog allows wait. Try again later.
    #[error("{asked}: {call}: the listener's queue was full until the deadline; is it stuck?")]
    QueueFull {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
    },
    /// EPROTOTYPE: a socket of another kind is there. Connect with its kind.
    #[error("{asked}: {call}: the socket there is not of kind {kind:?}; connect with the kind that it listens with")]
    WrongKind {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
        /// The kind that was asked for.
        kind: Kind,
    },
    /// Another process, or another listener of this one, has the address: stop it, or choose another. Its socket is
    /// untouched.
    #[error("{asked}: {call}: the address is in use: {how}")]
    InUse {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
        /// How it is known.
        how: &'static str,
    },
    /// Something is in the way that a listener never removes. Look at it, and remove it or choose another path.
    #[error("{asked}: {} is in the way: {what}; it is untouched", .path.display())]
    Occupied {
        /// What was asked.
        asked: String,
        /// The path: the socket's, or that of its lock file.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// EMFILE: this process has no free descriptor for the socket, or for what a listener's path needs for a moment:
    /// close some, or raise RLIMIT_NOFILE.
    #[error("{asked}: {call}: this process's descriptor table is full (RLIMIT_NOFILE); close some, or raise the limit")]
    DescriptorTableFull {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
    },
    /// The descriptor that was to be a listener is none. It is closed.
    #[error("the descriptor is not a listener: {what}")]
    NotAListener {
        /// What it is.
        what: &'static str,
    },
    /// Another error of a system call.
    #[error("{asked}: {call}: {source}")]
    Os {
        /// What was asked.
        asked: String,
        /// The system call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
}

impl From<EndpointError> for io::Error {
    fn from(error: EndpointError) -> Self {
        let kind = match error {
            EndpointError::PermissionDenied { source, .. } | EndpointError::Os { source, .. } => return source,
            EndpointError::Unfit { .. } | EndpointError::NotAListener { .. } => io::ErrorKind::InvalidInput,
            EndpointError::NotFound { .. } => return Self::from_raw_os_error(libc::ENOENT),
            EndpointError::NobodyListens { .. } => return Self::from_raw_os_error(libc::ECONNREFUSED),
            EndpointError::QueueFull { .. } => io::ErrorKind::TimedOut,
            EndpointError::WrongKind { .. } => return Self::from_raw_os_error(libc::EPROTOTYPE),
            EndpointError::InUse { .. } => return Self::from_raw_os_error(libc::EADDRINUSE),
            EndpointError::Occupied { .. } => io::ErrorKind::AlreadyExists,
            EndpointError::DescriptorTableFull { .. } => return Self::from_raw_os_error(libc::EMFILE),
        };
        Self::new(kind, error)
    }
}

/// Why descriptors were not what they were to be taken for (module [`typed`](crate::typed)). All of them are closed,
/// the right ones too: the sender and the receiver do not mean the same message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// More or fewer descriptors than were asked for.
    #[error("{found} descriptors are there where {expected} are expected; all were closed")]
    WrongCount {
        /// How many were asked for.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// One of the descriptors is of another kind.
    #[error("descriptor {position} is {found}, where {expected} is expected; all were closed")]
    WrongKind {
        /// Which one, from 0.
        position: usize,
        /// What was asked for, in words.
        expected: &'static str,
        /// What it is.
        found: Found,
    },
    /// The kernel did not say what the descriptor is: ENOSYS or EPERM where a system-call filter forbids to ask, EMFILE
    /// where a check needs a free descriptor.
    #[error("descriptor {position} was to be {expected}, but the kernel does not tell: {source}; all were closed")]
    Os {
        /// Which one, from 0.
        position: usize,
        /// What was asked for, in words.
        expected: &'static str,
        /// The errno.
        source: io::Error,
    },
}

impl From<TakeError> for io::Error {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Os { source, .. } => source,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

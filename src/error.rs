//! `[both]` Errors, by what the caller can do next. Those of channel and client convert into [`std::io::Error`] with the
//! errno, where there is one, so that `?` works in functions that return `io::Result`.

use std::io;
use std::path::PathBuf;

use crate::channel::{Credentials, Kind};
use crate::sandbox::Step;
use crate::wire::path::PathError;
use crate::wire::{Malformed, Refusal};

/// Why a message was not sent or received. In every case nothing was delivered in part and no descriptor was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The peer has closed its end, or is dead. What it sent before has been received.
    #[error("the peer has closed its end of the channel")]
    Disconnected,
    /// A non-blocking channel has no message (receive) or no room (send): poll and try again.
    #[error("the channel is not ready, and is non-blocking")]
    WouldBlock,
    /// The timeout of the channel passed.
    #[error("the peer did nothing within the channel's timeout")]
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
    /// A stream whose frames are out of step: the peer is no `Channel`, or a frame was cut short. Close it.
    #[error("the stream's framing is broken: the peer is not a Channel, or a message was cut short")]
    Broken,
    /// The descriptor is not a UNIX socket of type SEQPACKET, STREAM or DGRAM.
    #[error("the descriptor is not a UNIX socket")]
    NotASocket,
    /// The listener's owner did not want this peer, which was closed before anything was received from it. The listener
    /// goes on.
    #[error("the peer ({}) was refused, and nothing was received from it", named(*.credentials))]
    PeerRefused {
        /// Who connected.
        credentials: Credentials,
    },
    /// This kernel cannot do it, or not for such a socket.
    #[error("not to be had here: {what}")]
    Unsupported {
        /// What, and since when Linux has it.
        what: &'static str,
    },
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
            ChannelError::Os { source, .. } => source,
            error => Self::new(error.kind(), error),
        }
    }
}

impl ChannelError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Disconnected => io::ErrorKind::BrokenPipe,
            Self::WouldBlock => io::ErrorKind::WouldBlock,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Empty | Self::NotASocket => io::ErrorKind::InvalidInput,
            Self::PeerRefused { .. } => io::ErrorKind::PermissionDenied,
            Self::Unsupported { .. } => io::ErrorKind::Unsupported,
            Self::DescriptorTableFull => io::Error::from_raw_os_error(libc::EMFILE).kind(),
            Self::Os { source, .. } => source.kind(),
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
        };
        Self::new(kind, error)
    }
}

/// Why a policy could not be built. Nothing is granted by a policy that does not build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A path of a rule is not absolute and plain.
    #[error("rule for {}: {source}", .path.display())]
    Path {
        /// As given.
        path: PathBuf,
        /// What is wrong with it.
        source: PathError,
    },
    /// A rule grants nothing: say `.read()`, `.write()`, `.append()` or `.create(mode)`.
    #[error("rule for {}: it grants no right; say which (read, write, append, create)", .path.display())]
    NoRight {
        /// The rule's.
        path: PathBuf,
    },
    /// Two rules for one object.
    #[error("{what}: there is a rule for it already; put all its rights into one rule")]
    Duplicate {
        /// The object.
        what: String,
    },
    /// A directory of a rule could not be opened.
    #[error("rule for {}: {call} of {}: {source}", .path.display(), .opened.display())]
    Open {
        /// The rule's path.
        path: PathBuf,
        /// What was opened for it: the directory itself, or the one that holds the file.
        opened: PathBuf,
        /// The system call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// The rule names something that no rule can: the message says what to write instead.
    #[error("rule for {what}: {why}")]
    Unfit {
        /// The object.
        what: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// The refusal errno is not an error number.
    #[error("{0} is no error number: refuse with one of 1 to 4095")]
    Errno(i32),
    /// This kernel, or a filter around this process, has no openat2(2), without which no path can be opened safely.
    #[error("openat2 is not to be had here ({0}): it needs Linux 5.6 and no seccomp filter that refuses it")]
    NoOpenat2(io::Error),
}

/// Why the worker did not get what it asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The path was not sent: it cannot be in any policy.
    #[error("{asked}: {source}")]
    Path {
        /// Verb and object.
        asked: String,
        /// What is wrong with the path.
        source: PathError,
    },
    /// The broker said no, with an errno.
    #[error("{asked}: {refusal}")]
    Refused {
        /// Verb and object.
        asked: String,
        /// Who said no, and the errno.
        refusal: Refusal,
    },
    /// The channel failed. After [`ChannelError::DescriptorTableFull`] the client goes on; otherwise no further request
    /// will be answered.
    #[error("{asked}: {source}")]
    Channel {
        /// Verb and object.
        asked: String,
        /// What happened.
        source: ChannelError,
    },
    /// What came back is no answer to the request. The client is of no more use.
    #[error("{asked}: the peer does not answer as a broker does: {what}")]
    NotABroker {
        /// Verb and object.
        asked: String,
        /// What was wrong.
        what: String,
    },
    /// The descriptor that was to be the channel is none.
    #[error("standard input is not a channel to a broker: {0}")]
    NoChannel(#[source] ChannelError),
}

impl ClientError {
    /// The refusal, if the broker said no.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }
}

/// A refusal becomes the error that `open(2)` would have given, so callers that match on `io::ErrorKind::NotFound` go
/// on working.
impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Path { .. } => io::ErrorKind::InvalidInput,
            ClientError::Refused { refusal, .. } => return Self::from_raw_os_error(refusal.errno),
            ClientError::Channel { source: ChannelError::DescriptorTableFull, .. } => {
                return Self::from_raw_os_error(libc::EMFILE);
            }
            ClientError::Channel { source, .. } | ClientError::NoChannel(source) => source.kind(),
            ClientError::NotABroker { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Why a broker ended a worker's service by its own decision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The worker sent what is not a request.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The worker sent descriptors. None was kept.
    #[error("malformed: the request carried descriptors, and a broker accepts none")]
    Descriptors,
    /// The worker did not read its replies for as long as the broker waits. Kill it: until its end of the channel is closed,
    /// the descriptors that it has not read stay in flight, and the kernel counts them for the broker's user.
    #[error("the worker does not read its replies")]
    Stalled,
    /// The service panicked.
    #[error("the service panicked: {0}")]
    Panicked(String),
    /// The channel failed.
    #[error("the channel failed: {0}")]
    Channel(ChannelError),
}

/// Why no worker was started. No process and no descriptor is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// What the worker was to be started with cannot be had in this process.
    #[error("starting {}: {what}: {source}", .program.display())]
    Prepare {
        /// The program.
        program: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The errno, or what else was wrong.
        source: io::Error,
    },
    /// A step of the new process failed, before the worker ran its first instruction.
    #[error("starting {}: step \"{step}\" of the new process: {source}", .program.display())]
    Step {
        /// The program.
        program: PathBuf,
        /// The step.
        step: Step,
        /// Its errno.
        source: io::Error,
    },
}

/// Why `lockdown` left the process as it is, or half locked down: end the process.
#[derive(Debug, thiserror::Error)]
#[error("lockdown: {what}: {source}")]
pub struct LockdownError {
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

/// Why `split` did not come to a worker with a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The policy's closure failed.
    #[error("making the policy: {0}")]
    Policy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The worker could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A system call of the parent failed.
    #[error("{call}: {source}")]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// The marker of a worker is in the environment, but this process is none: the message says what is missing.
    #[error(
        "{variable} is in the environment, but this is no worker of fdbroker: {what}. Unset it to start the program"
    )]
    NotAWorker {
        /// The variable.
        variable: &'static str,
        /// What a worker would have.
        what: String,
    },
    /// The worker could not lock itself down.
    #[error(transparent)]
    Lockdown(#[from] LockdownError),
}

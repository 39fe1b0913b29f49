//! `[both]` What goes wrong with policies, requests, workers and their start.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::ChannelError;
use crate::policy::Place;
use crate::sandbox::{Layer, Step};
use crate::wire::path::PathError;
use crate::wire::{Malformed, Refusal};

/// Why a policy could not be built. Nothing is granted by a policy that does not build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A path of a rule is not absolute and plain.
    #[error("{place}: rule for {}: {source}", .path.display())]
    Path {
        /// Where the rule was written.
        place: Place,
        /// As given.
        path: PathBuf,
        /// What is wrong with it.
        source: PathError,
    },
    /// A rule grants nothing: say `.read()`, `.write()`, `.append()`, `.create(mode)` or another.
    #[error("{place}: rule for {}: it grants no right; say which (read, write, append, create, ...)", .path.display())]
    NoRight {
        /// Where the rule was written.
        place: Place,
        /// The rule's.
        path: PathBuf,
    },
    /// Two rules for one object.
    #[error("{place}: {what}: there is a rule for it already, at {first}; put all its rights into one rule")]
    Duplicate {
        /// Where the second rule was written.
        place: Place,
        /// Where the first was.
        first: Place,
        /// The object.
        what: String,
    },
    /// Two rules of which one makes the other meaningless, or leads around it.
    #[error("{place}: {what}: {why} {other}")]
    Contradiction {
        /// Where the rule was written.
        place: Place,
        /// Where the other was.
        other: Place,
        /// The object.
        what: String,
        /// What the matter is with the other rule, whose place follows.
        why: &'static str,
    },
    /// A directory of a rule could not be opened.
    #[error("{place}: rule for {}: {call} of {}: {source}", .path.display(), .opened.display())]
    Open {
        /// Where the rule was written.
        place: Place,
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
    #[error("{place}: rule for {what}: {why}")]
    Unfit {
        /// Where the rule was written.
        place: Place,
        /// The object.
        what: String,
        /// Why not, and what to do.
        why: Cow<'static, str>,
    },
    /// The refusal errno is not an error number.
    #[error("{0} is no error number: refuse with one of 1 to 4095")]
    Errno(i32),
    /// Two phases have one name, or a phase has none.
    #[error("phase \"{0}\": each phase has a name of its own")]
    Phase(String),
    /// The text of the policy is not right.
    #[cfg(feature = "policy-file")]
    #[error(transparent)]
    Text(#[from] crate::policy::TextError),
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
    /// The worker did not read its replies for as long as the broker waits. Kill it: until its end of the channel is
    /// closed, the descriptors that it has not read stay in flight, and the kernel counts them for the broker's user.
    #[error("the worker does not read its replies")]
    Stalled,
    /// The worker asked for what only an earlier phase of its life granted.
    #[error("the worker asked for what only an earlier phase grants")]
    PhaseOver,
    /// The service panicked.
    #[error("the service panicked: {0}")]
    Panicked(String),
    /// The channel failed.
    #[error("the channel failed: {0}")]
    Channel(ChannelError),
}

/// Why a worker is not known to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// It has not said so in time. It may say so yet.
    #[error("the worker has not said in time that it is ready; one that is to say so calls Client::ready")]
    TimedOut,
    /// Its service has ended, and it has not said so before.
    #[error("the worker's service has ended before the worker said that it is ready")]
    Ended,
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
    /// A layer is required that is not to be had here.
    #[error("starting {}: layer \"{layer}\" is required, and not to be had: {reason}", .program.display())]
    Unavailable {
        /// The program.
        program: PathBuf,
        /// The layer.
        layer: Layer,
        /// Why, and who can do what about it.
        reason: String,
    },
    /// A step of the new process failed, before the worker ran its first instruction.
    #[error("starting {}: step \"{step}\"{} of the new process: {source}", .program.display(), Of(.about))]
    Step {
        /// The program.
        program: PathBuf,
        /// The step.
        step: Step,
        /// Of a step that is taken several times, for which file or resource it failed.
        about: Option<String>,
        /// Its errno.
        source: io::Error,
    },
}

struct Of<'a>(&'a Option<String>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|about| write!(f, " ({about})"))
    }
}

/// Why a supervisor could not start a worker, or lost sight of it. No process is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The policy's closure failed.
    #[error("making the policy: {0}")]
    Policy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The worker could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A system call of the supervisor failed.
    #[error("{call}: {source}")]
    Os {
        /// The call, or what it was for.
        call: &'static str,
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

//! `[worker]` Many requests in one message.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Client, OpenOptions, no_path};
use crate::error::{ChannelError, ClientError};
use crate::wire::{self, Access, Address, Answer, Ask, MAX_BATCH, MAX_MESSAGE, SocketType, path};

/// Requests for descriptors that are made in one message and answered in one, each for itself: up to 253
/// ([`MAX_FDS`](crate::MAX_FDS)), and as many as fit into 64 KiB. Where the paths are known before the files are
/// needed, this is several times faster than one after the other.
///
/// ```no_run
/// use std::fs::File;
///
/// # let client = fdbroker::Client::from_stdin()?;
/// let files = client.batch().read("/etc/hosts").read("/etc/services").send()?;
/// for file in files {
///     let file = File::from(file?);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is asked until it is sent"]
pub struct Batch<'c> {
    client: &'c Client,
    asks: Vec<Wanted>,
}

enum Wanted {
    File(Access, PathBuf),
    Scratch,
    Listen(SocketAddr),
    Connect(SocketAddr),
}

impl Wanted {
    fn ask(&self) -> Ask<'_> {
        match self {
            Self::File(access, path) => Ask::Open { access: *access, path: path.as_os_str().as_bytes() },
            Self::Scratch => Ask::Scratch,
            Self::Listen(address) => Ask::Listen(SocketType::Stream, Address::Ip(*address)),
            Self::Connect(address) => Ask::Connect(SocketType::Stream, Address::Ip(*address)),
        }
    }
}

impl<'c> Batch<'c> {
    pub(super) fn new(client: &'c Client) -> Self {
        Self { client, asks: Vec::new() }
    }

    fn with(mut self, wanted: Wanted) -> Self {
        self.asks.push(wanted);
        self
    }

    /// As [`Client::read`].
    pub fn read(self, path: impl AsRef<Path>) -> Self {
        self.with(Wanted::File(Access::READ, path.as_ref().into()))
    }

    /// As [`Client::write`].
    pub fn write(self, path: impl AsRef<Path>) -> Self {
        self.with(Wanted::File(Access::WRITE, path.as_ref().into()))
    }

    /// As [`Client::append`].
    pub fn append(self, path: impl AsRef<Path>) -> Self {
        self.with(Wanted::File(Access::APPEND, path.as_ref().into()))
    }

    /// As [`Client::create`].
    pub fn create(self, path: impl AsRef<Path>) -> Self {
        self.with(Wanted::File(Access::CREATE_NEW, path.as_ref().into()))
    }

    /// As [`OpenOptions::open`].
    pub fn open(self, options: &OpenOptions<'_>, path: impl AsRef<Path>) -> Self {
        self.with(Wanted::File(options.access(), path.as_ref().into()))
    }

    /// As [`Client::scratch`].
    pub fn scratch(self) -> Self {
        self.with(Wanted::Scratch)
    }

    /// As [`Client::listen`].
    pub fn listen(self, address: SocketAddr) -> Self {
        self.with(Wanted::Listen(address))
    }

    /// As [`Client::connect`].
    pub fn connect(self, address: SocketAddr) -> Self {
        self.with(Wanted::Connect(address))
    }

    /// How many requests there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    /// Asks, and answers in the order of the requests; at once if there are none.
    ///
    /// # Errors
    /// [`ClientError`], when there are no answers: nothing has been asked if a path has not the form of one, or if the
    /// requests do not fit into a message ([`ChannelError::TooLarge`](crate::ChannelError::TooLarge)). The answers have
    /// errors of their own. After [`ChannelError::DescriptorTableFull`](crate::ChannelError::DescriptorTableFull) every
    /// request has been served, and every descriptor closed.
    pub fn send(self) -> Result<Vec<Result<OwnedFd, ClientError>>, ClientError> {
        let Self { client, asks } = self;
        for wanted in &asks {
            if let Wanted::File(_, path) = wanted {
                path::check(path.as_os_str().as_bytes()).map_err(|source| no_path(wanted.ask(), source))?;
            }
        }
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; MAX_MESSAGE];
        let batch = wire::Batch::encode(asks.iter().map(Wanted::ask), &mut buffer).map_err(|_| {
            let asked = format!("batch of {}", asks.len());
            ClientError::Channel { asked, source: ChannelError::TooLarge }
        })?;
        client.exchange(Ask::Batch(batch), MAX_BATCH, |answer, fds| {
            let Answer::Batch(answers) = answer else { return Err("one answer to many requests") };
            let mut answered = Vec::with_capacity(asks.len());
            let mut asked = asks.iter();
            for answer in answers.iter() {
                let wanted = asked.next().ok_or("more answers than requests")?;
                answered.push(match answer {
                    Answer::Granted { descriptors: 1, data: [] } => Ok(fds.next().ok_or("too few descriptors")?),
                    Answer::Refused(refusal) => Err(ClientError::Refused { asked: wanted.ask().to_string(), refusal }),
                    _ => return Err("an answer that does not answer"),
                });
            }
            if asked.next().is_some() {
                return Err("fewer answers than requests");
            }
            Ok(answered)
        })
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.asks.iter().map(|wanted| wanted.ask().to_string())).finish()
    }
}

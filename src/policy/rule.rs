//! `[broker]` Rules, as a program writes them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::open::Way;
use crate::wire::Right;

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rights(u8);

impl Rights {
    pub(super) fn with(self, right: Right) -> Self {
        Self(self.0 | 1 << right as u8)
    }

    pub(super) fn contains(self, right: Right) -> bool {
        self.0 & 1 << right as u8 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One thing that a policy allows. Made by the functions here, given to
/// [`PolicyBuilder::allow`](super::PolicyBuilder::allow).
#[derive(Debug, Clone)]
pub struct Rule(pub(super) Written);

#[derive(Debug, Clone)]
pub(super) enum Written {
    File(FileRule),
    Scratch(PathBuf),
    Listen(ListenRule),
    Connect(ConnectRule),
}

impl Rule {
    /// The file of exactly this name. The directory that holds it is opened when the policy is built, and must exist
    /// then; the file need not. The name is opened as it stands here: nothing of a request's bytes reaches the kernel.
    /// A symbolic link of that name is refused.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> FileRule {
        FileRule::new(path, Scope::Exact)
    }

    /// Every regular file beneath this directory, at any depth. The directory itself is opened when the policy is
    /// built (symbolic links in its own path are followed then, and a later rename of it changes nothing); beneath it,
    /// no symbolic link is followed at all.
    #[must_use]
    pub fn beneath(directory: impl Into<PathBuf>) -> FileRule {
        FileRule::new(directory, Scope::Beneath)
    }

    /// Unnamed temporary files, in this directory: open for reading and writing, never visible under a name
    /// (O_TMPFILE), or for no longer than it takes to remove it where the file system cannot do that. A policy has at
    /// most one such rule. The directory is opened when the policy is built, and found again through /proc.
    #[must_use]
    pub fn scratch(directory: impl Into<PathBuf>) -> Self {
        Self(Written::Scratch(directory.into()))
    }

    /// A TCP socket that listens on exactly this address and port. Port 0 allows a request for port 0, on which the
    /// kernel chooses one. An IPv6 socket takes IPv6 only (IPV6_V6ONLY).
    #[must_use]
    pub fn listen(address: SocketAddr) -> ListenRule {
        ListenRule { address, reuse_port: false, nonblocking: false, backlog: 128 }
    }

    /// A TCP socket connected to exactly this address and port.
    #[must_use]
    pub fn connect(address: SocketAddr) -> ConnectRule {
        ConnectRule { address, timeout: Duration::from_secs(10), nonblocking: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Exact,
    Beneath,
}

/// A rule about files: which, and what for. It grants nothing until a right is named.
#[derive(Debug, Clone)]
pub struct FileRule {
    pub(super) path: PathBuf,
    pub(super) scope: Scope,
    pub(super) rights: Rights,
    pub(super) mode: u32,
    pub(super) way: Way,
}

impl FileRule {
    fn new(path: impl Into<PathBuf>, scope: Scope) -> Self {
        Self { path: path.into(), scope, rights: Rights::default(), mode: 0, way: Way::default() }
    }

    fn with(mut self, right: Right) -> Self {
        self.rights = self.rights.with(right);
        self
    }

    /// Allows opening for reading (O_RDONLY).
    #[must_use]
    pub fn read(self) -> Self {
        self.with(Right::Read)
    }

    /// Allows opening an existing file for writing (O_WRONLY). Opening does not truncate.
    #[must_use]
    pub fn write(self) -> Self {
        self.with(Right::Write)
    }

    /// Allows opening an existing file for writing at its end (O_WRONLY, O_APPEND).
    ///
    /// O_APPEND is a flag that its holder can take off again with fcntl(2), and it does not keep the holder from
    /// truncating the file. In a worker that [`Sandbox`](crate::Sandbox) started, the system-call filter refuses both.
    #[must_use]
    pub fn append(self) -> Self {
        self.with(Right::Append)
    }

    /// Allows creating files that do not exist (O_WRONLY, O_CREAT, O_EXCL), with these permission bits: at most
    /// `0o777`, whatever the broker's umask is.
    #[must_use]
    pub fn create(mut self, mode: u32) -> Self {
        self.mode = mode;
        self.with(Right::Create)
    }

    /// Follows symbolic links that stay beneath the directory. One that is absolute or leads out by `..` is EXDEV, also
    /// where it comes back in; magic links are never followed, and a link is never created through.
    #[must_use]
    pub fn links_within(mut self) -> Self {
        self.way.links_within = true;
        self
    }

    /// Crosses no mount point: what is mounted beneath the directory is EXDEV, even if it is of the same file system.
    #[must_use]
    pub fn one_file_system(mut self) -> Self {
        self.way.one_file_system = true;
        self
    }
}

/// A rule about a listening socket. `SO_REUSEADDR` is set, as std does; the descriptor is close-on-exec and blocking.
#[derive(Debug, Clone)]
pub struct ListenRule {
    pub(super) address: SocketAddr,
    pub(crate) reuse_port: bool,
    pub(crate) nonblocking: bool,
    pub(crate) backlog: i32,
}

impl ListenRule {
    /// Sets SO_REUSEPORT: further sockets of the same user may listen on the same port.
    #[must_use]
    pub fn reuse_port(mut self) -> Self {
        self.reuse_port = true;
        self
    }

    /// Sets O_NONBLOCK. The flag belongs to the open file description, which the worker shares with nobody here.
    #[must_use]
    pub fn nonblocking(mut self) -> Self {
        self.nonblocking = true;
        self
    }

    /// How many connections may wait to be accepted: 128 unless said otherwise; the kernel caps it at
    /// `net.core.somaxconn`.
    #[must_use]
    pub fn backlog(mut self, connections: u16) -> Self {
        self.backlog = i32::from(connections);
        self
    }
}

/// A rule about a connected socket; the descriptor is close-on-exec and blocking.
#[derive(Debug, Clone)]
pub struct ConnectRule {
    pub(super) address: SocketAddr,
    pub(crate) timeout: Duration,
    pub(crate) nonblocking: bool,
}

impl ConnectRule {
    /// How long the broker tries: 10 seconds unless said otherwise. The worker's further requests wait meanwhile;
    /// other workers' do not.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets O_NONBLOCK once the socket is connected.
    #[must_use]
    pub fn nonblocking(mut self) -> Self {
        self.nonblocking = true;
        self
    }
}

impl From<FileRule> for Rule {
    fn from(rule: FileRule) -> Self {
        Self(Written::File(rule))
    }
}

impl From<ListenRule> for Rule {
    fn from(rule: ListenRule) -> Self {
        Self(Written::Listen(rule))
    }
}

impl From<ConnectRule> for Rule {
    fn from(rule: ConnectRule) -> Self {
        Self(Written::Connect(rule))
    }
}

//! `[broker]` Rules, as a program writes them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::info::Place;
use crate::resolve::Way;
use crate::wire::{Network, Ports};
use crate::wire::{Right, Rights, SocketType};

/// One thing that a policy allows or denies. Made by the functions here, given to
/// [`PolicyBuilder::allow`](super::PolicyBuilder::allow) or [`deny`](super::PolicyBuilder::deny).
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) written: Written,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Written {
    File(FileRule),
    Scratch(ScratchRule),
    Socket(SocketRule),
    Service(ServiceRule),
}

impl Rule {
    /// The object of exactly this name. The directory that holds it is opened when the policy is built, and must exist
    /// then; the object need not. The name is opened as it stands here: nothing of a request's bytes reaches the
    /// kernel. A symbolic link of that name is refused.
    #[track_caller]
    pub fn file(path: impl Into<PathBuf>) -> FileRule {
        FileRule::new(path.into(), Scope::Exact)
    }

    /// Everything beneath this directory, at any depth; the directory itself for [`list`](FileRule::list),
    /// [`stat`](FileRule::stat) and descriptors of directories. It is opened when the policy is built (symbolic links
    /// in its own path are followed then, and a later rename of it changes nothing); beneath it, no symbolic link is
    /// followed at all.
    #[track_caller]
    pub fn beneath(directory: impl Into<PathBuf>) -> FileRule {
        FileRule::new(directory.into(), Scope::Beneath)
    }

    /// Everything whose whole path the pattern matches: `*` stands for any bytes but a slash, also none; `?` for one
    /// byte but a slash; `**`, as a whole component, for any number of components, also none. Everything else stands
    /// for itself. The directory before the first component with a wildcard is opened when the policy is built; where
    /// `**` follows it to the end, the directory itself is matched as by [`beneath`](Self::beneath).
    #[track_caller]
    pub fn glob(pattern: impl Into<PathBuf>) -> FileRule {
        FileRule::new(pattern.into(), Scope::Glob)
    }

    /// Unnamed temporary files, in this directory: open for reading and writing, never visible under a name
    /// (O_TMPFILE), or for no longer than it takes to remove it where the file system cannot do that. A policy has at
    /// most one such rule. The directory is opened when the policy is built, and found again through /proc.
    #[track_caller]
    pub fn scratch(directory: impl Into<PathBuf>) -> ScratchRule {
        ScratchRule { directory: directory.into(), once: false, place: Place::here() }
    }

    /// A TCP socket that listens on exactly this address and port; of an IPv6 address the scope id too, but there is
    /// one rule for an address and port. Port 0 allows a request for port 0, on which the
    /// kernel chooses one. An IPv6 socket takes IPv6 only, unless [`dual_stack`](SocketRule::dual_stack) is said.
    #[track_caller]
    pub fn listen(address: SocketAddr) -> SocketRule {
        SocketRule::new(Right::Listen, SocketType::Stream, At::address(address))
    }

    /// TCP sockets that listen on addresses of this network and ports of this range. Port 0, for which the kernel
    /// chooses one, is allowed by the range of it alone, and by that of all ports.
    #[track_caller]
    pub fn listen_within(network: Network, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Listen, SocketType::Stream, At::Network { network, ports: ports.into(), scope: None })
    }

    /// A listening UNIX socket with this abstract name (without its NUL), of type stream unless
    /// [`socket_type`](SocketRule::socket_type) says otherwise.
    #[track_caller]
    pub fn listen_abstract(name: impl Into<Vec<u8>>) -> SocketRule {
        SocketRule::new(Right::Listen, SocketType::Stream, At::Abstract(name.into()))
    }

    /// A UDP socket that is bound to exactly this address and port; port 0 as for [`listen`](Self::listen).
    ///
    /// Its holder receives from everybody, and sends to every address that it names: no rule limits those. In a worker
    /// that [`Sandbox`](crate::Sandbox) started, sendto(2) with an address is refused, but sendmsg(2) with one is not.
    #[track_caller]
    pub fn bind(address: SocketAddr) -> SocketRule {
        SocketRule::new(Right::Bind, SocketType::Datagram, At::address(address))
    }

    /// UDP sockets that are bound to addresses of this network and ports of this range; port 0 as for
    /// [`listen_within`](Self::listen_within).
    #[track_caller]
    pub fn bind_within(network: Network, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Bind, SocketType::Datagram, At::Network { network, ports: ports.into(), scope: None })
    }

    /// A UNIX datagram socket that is bound to this abstract name (without its NUL).
    #[track_caller]
    pub fn bind_abstract(name: impl Into<Vec<u8>>) -> SocketRule {
        SocketRule::new(Right::Bind, SocketType::Datagram, At::Abstract(name.into()))
    }

    /// A TCP socket connected to exactly this address and port. For UDP, say [`udp`](SocketRule::udp).
    #[track_caller]
    pub fn connect(address: SocketAddr) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::address(address))
    }

    /// TCP sockets connected to addresses of this network and ports of this range. For UDP, say
    /// [`udp`](SocketRule::udp).
    #[track_caller]
    pub fn connect_within(network: Network, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::Network { network, ports: ports.into(), scope: None })
    }

    /// TCP sockets connected to this host, which the broker looks up when it is asked: the worker names the host, and
    /// never an address. For UDP, say [`udp`](SocketRule::udp).
    #[track_caller]
    pub fn connect_name(host: impl Into<String>, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::Host { host: host.into(), ports: ports.into() })
    }

    /// A socket connected to the UNIX socket with this abstract name (without its NUL), of type stream unless
    /// [`socket_type`](SocketRule::socket_type) says otherwise.
    ///
    /// **Who is at the other end takes the worker for the broker:** SO_PEERCRED there tells the broker's uid, gid and pid.
    /// Grant no service that trusts its callers by those (polkit, D-Bus, databases with peer authentication).
    #[track_caller]
    pub fn connect_abstract(name: impl Into<Vec<u8>>) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::Abstract(name.into()))
    }

    /// Calls of the service that the daemon has registered by this name ([`Broker::service`](crate::Broker::service)).
    #[track_caller]
    pub fn service(name: impl Into<String>) -> ServiceRule {
        ServiceRule { name: name.into(), rights: Rights::NONE, once: false, place: Place::here() }
    }

    /// Where the rule was written.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The rule stands elsewhere than where it was made, as in a file that was read.
    #[cfg(feature = "policy-file")]
    #[must_use]
    pub(super) fn placed(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
}

/// Which objects a rule about files is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Exact,
    Beneath,
    Glob,
}

/// A kind of object that a rule about files can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file: what a rule is about that says nothing.
    Regular,
    /// A FIFO. It is opened without waiting for its other end: for writing it must have a reader (ENXIO).
    Fifo,
    /// A character device. Never the broker's own terminal (/dev/tty).
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Regular, Self::Fifo, Self::CharacterDevice, Self::BlockDevice];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Fifo => "fifo",
            Self::CharacterDevice => "character-device",
            Self::BlockDevice => "block-device",
        }
    }

    pub(super) const fn file_type(self) -> libc::mode_t {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Fifo => libc::S_IFIFO,
            Self::CharacterDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }
}

/// The kinds that a rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileKinds(u8);

impl FileKinds {
    #[cfg(feature = "learn")]
    pub(super) const ALL: Self = Self((1 << FileKind::ALL.len()) - 1);

    fn with(self, kind: FileKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether an object with this st_mode is of one of the kinds. No kind named stands for regular files.
    pub(crate) fn contain(self, mode: libc::mode_t) -> bool {
        let kinds = if self.0 == 0 { Self::default().with(FileKind::Regular) } else { self };
        FileKind::ALL.into_iter().any(|kind| kinds.0 & 1 << kind as u8 != 0 && kind.file_type() == mode & libc::S_IFMT)
    }
}

/// The types of socket that a rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SocketTypes(u8);

impl SocketTypes {
    pub(crate) fn with(self, socket: SocketType) -> Self {
        Self(self.0 | 1 << socket.code())
    }

    pub(crate) fn contain(self, socket: SocketType) -> bool {
        self.0 & 1 << socket.code() != 0
    }

    fn of(sockets: impl IntoIterator<Item = SocketType>) -> Self {
        sockets.into_iter().fold(Self::default(), Self::with)
    }
}

/// A rule about files: which, and what for. It grants nothing until a right is named; to deny it names none.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct FileRule {
    pub(super) path: PathBuf,
    pub(super) scope: Scope,
    pub(super) rights: Rights,
    pub(super) terms: Terms,
    pub(super) reopen_root: bool,
    pub(super) once: bool,
    pub(super) place: Place,
}

/// What a rule about files says beyond its path and its rights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Terms {
    /// Of files, directories and sockets that are made.
    pub(crate) file_mode: u32,
    pub(crate) directory_mode: u32,
    pub(crate) socket_mode: u32,
    pub(crate) kinds: FileKinds,
    pub(crate) connect: SocketTypes,
    pub(crate) listen: SocketTypes,
    pub(crate) way: Way,
    pub(crate) protect_hard_links: bool,
    /// Of sockets that are connected, listen or are bound.
    pub(crate) socket: SocketOptions,
}

impl FileRule {
    #[track_caller]
    fn new(path: PathBuf, scope: Scope) -> Self {
        let (rights, terms) = (Rights::NONE, Terms::default());
        Self { path, scope, rights, terms, reopen_root: false, once: false, place: Place::here() }
    }

    /// Grants these rights too. Those that need more said than their name (create, mkdir, listen, bind, connect) are
    /// better granted by the method of their name: they have mode 0 and no type of socket otherwise.
    pub fn grant(mut self, rights: impl Into<Rights>) -> Self {
        self.rights = self.rights.union(rights.into());
        self
    }

    /// Allows opening for reading (O_RDONLY); with [`write`](Self::write), for both (O_RDWR).
    pub fn read(self) -> Self {
        self.grant(Right::Read)
    }

    /// Allows opening an existing file for writing (O_WRONLY). Opening does not truncate.
    pub fn write(self) -> Self {
        self.grant(Right::Write)
    }

    /// Allows opening an existing file for writing at its end (O_WRONLY, O_APPEND).
    ///
    /// O_APPEND is a flag that its holder can take off again with fcntl(2), and it does not keep the holder from
    /// truncating the file. In a worker that [`Sandbox`](crate::Sandbox) started, the system-call filter refuses both.
    pub fn append(self) -> Self {
        self.grant(Right::Append)
    }

    /// Allows emptying an existing file as it is opened for writing; [`write`](Self::write) is needed as well. A holder
    /// of a descriptor for writing can truncate it in any case, unless its sandbox forbids that.
    pub fn truncate(self) -> Self {
        self.grant(Right::Truncate)
    }

    /// Allows creating files that do not exist (O_CREAT, O_EXCL), open for writing or for writing at their end, and for
    /// reading if [`read`](Self::read) is granted. They have these permission bits, at most `0o777`, whatever the
    /// broker's umask is.
    pub fn create(mut self, mode: u32) -> Self {
        self.terms.file_mode = mode;
        self.grant(Right::Create)
    }

    /// Allows asking what a directory holds: names, types and inode numbers as data, no descriptor. What the policy
    /// denies is left out; what no rule allows is not.
    pub fn list(self) -> Self {
        self.grant(Right::List)
    }

    /// Allows asking what an object is (lstat(2)), of whatever kind.
    pub fn stat(self) -> Self {
        self.grant(Right::Stat)
    }

    /// Allows asking where a symbolic link points.
    pub fn readlink(self) -> Self {
        self.grant(Right::Readlink)
    }

    /// Allows creating directories with these permission bits, at most `0o777`, whatever the broker's umask is. It is
    /// made inside a directory `.fdbroker-…`, which is beside it for a moment and only the broker's user can search. Where
    /// the file system cannot move it from there (RENAME_NOREPLACE), the umask takes its bits off the mode.
    pub fn mkdir(mut self, mode: u32) -> Self {
        self.terms.directory_mode = mode;
        self.grant(Right::Mkdir)
    }

    /// Allows removing names of anything but directories.
    pub fn unlink(self) -> Self {
        self.grant(Right::Unlink)
    }

    /// Allows removing empty directories.
    pub fn rmdir(self) -> Self {
        self.grant(Right::Rmdir)
    }

    /// Allows giving objects of the kinds of this rule another name, in place of what had it, if that is of these kinds
    /// too. It is needed at both ends. The object has the rights of its new place from then on. Directories are not
    /// renamed: what a rule denies inside would be denied no longer.
    ///
    /// Exactly the object that was judged gets the new name, whatever others do to the names meanwhile: by a hard link,
    /// so that for a moment it has both names, and by /proc, which must be mounted. Where something is replaced, there is
    /// for a moment a directory `.fdbroker-…` beside it that only the broker's user can search; a broker that is killed
    /// then leaves it behind, and so it does when somebody renames it. Where the kernel refuses the link (file systems
    /// that have none; files of others under `fs.protected_hardlinks`, for a broker without CAP_FOWNER), it is renamed by
    /// name if the directory of the old name is the broker's user's or root's and nobody else can write to it, and
    /// otherwise not at all (EPERM).
    pub fn rename(self) -> Self {
        self.grant(Right::Rename)
    }

    /// Allows descriptors of directories, **which are a way out of them**: `openat(fd, "..")` leads to everything that
    /// the worker may open by its own rights, out of a chroot too. Only for a worker that has none.
    pub fn directory_escape(self) -> Self {
        self.grant(Right::Directory)
    }

    /// Allows sockets connected to UNIX sockets of the paths that the rule names, of these types only.
    ///
    /// **Who is at the other end takes the worker for the broker:** SO_PEERCRED there tells the broker's uid, gid and pid.
    /// Grant no service that trusts its callers by those (polkit, D-Bus, databases with peer authentication).
    pub fn connect(mut self, sockets: impl IntoIterator<Item = SocketType>) -> Self {
        self.terms.connect = SocketTypes::of(sockets);
        self.grant(Right::Connect)
    }

    /// Allows listening UNIX sockets, of these types, at the paths that the rule names, with these permission bits. The
    /// path is removed when the worker's service ends, if what is there is still that socket.
    ///
    /// Nothing is replaced: EADDRINUSE when anything is there, and so also for the path that an earlier run has left
    /// behind, as a broker that is killed removes nothing. (Remove it before the worker starts, or grant
    /// [`unlink`](Self::unlink).) There are at most 256 paths of one worker's sockets at a time. The last component must
    /// fit into an address (107 bytes) behind `/proc/self/fd/N/`, which is also what the socket's own address
    /// (getsockname(2), `local_addr`) begins with.
    pub fn listen(mut self, sockets: impl IntoIterator<Item = SocketType>, mode: u32) -> Self {
        self.terms.listen = SocketTypes::of(sockets);
        self.terms.socket_mode = mode;
        self.grant(Right::Listen)
    }

    /// Allows UNIX datagram sockets that are bound to the paths that the rule names, with these permission bits. As for
    /// [`listen`](Self::listen), the path is removed in the end, nothing is replaced, and number and length are bounded.
    pub fn bind(mut self, mode: u32) -> Self {
        self.terms.socket_mode = mode;
        self.grant(Right::Bind)
    }

    /// The kinds of object that are opened and renamed: regular files unless this says otherwise.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = FileKind>) -> Self {
        self.terms.kinds = kinds.into_iter().fold(self.terms.kinds, FileKinds::with);
        self
    }

    /// Sets O_NONBLOCK on sockets, once they are connected or listen. (Of a file, who opens it decides.)
    pub fn nonblocking(mut self) -> Self {
        self.terms.socket.nonblocking = true;
        self
    }

    /// As for [`SocketRule::backlog`].
    pub fn backlog(mut self, connections: u16) -> Self {
        self.terms.socket.backlog = i32::from(connections);
        self
    }

    /// How long the broker tries to connect to a socket whose queue is full: 10 seconds unless said otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.socket.timeout = timeout;
        self
    }

    /// Follows symbolic links that stay inside the rule's directory; never absolute ones, and never those of /proc. Not
    /// to be had where another rule says something else of a part of that directory, and not for a worker that has
    /// narrowed its paths: a link would lead around that.
    pub fn follow_links_within(mut self) -> Self {
        self.terms.way.links_within = true;
        self
    }

    /// Does not go into other file systems that are mounted inside the rule's directory (EXDEV).
    pub fn one_file_system(mut self) -> Self {
        self.terms.way.one_file_system = true;
        self
    }

    /// Refuses regular files that have a second name (a hard link): who may write to the rule's directory could have
    /// put another's file there.
    pub fn protect_hard_links(mut self) -> Self {
        self.terms.protect_hard_links = true;
        self
    }

    /// Opens the rule's directory anew for each request, by its path as it is then: for a directory that is replaced as
    /// a whole while the broker runs. Who can rename in the directories above it decides what is served.
    pub fn reopen_root(mut self) -> Self {
        self.reopen_root = true;
        self
    }

    /// Grants to each worker one time: a request that is granted uses it up, one that fails does not.
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// A rule about unnamed temporary files.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct ScratchRule {
    pub(super) directory: PathBuf,
    pub(super) once: bool,
    pub(super) place: Place,
}

impl ScratchRule {
    /// As for [`FileRule::once`].
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// What a rule about sockets is about.
#[derive(Debug, Clone)]
pub(super) enum At {
    Network {
        network: Network,
        ports: Ports,
        /// The scope id that a request must have; `None`: none, or any for link-local addresses.
        scope: Option<u32>,
    },
    Host {
        host: String,
        ports: Ports,
    },
    Abstract(Vec<u8>),
    /// An IPv4 address in IPv6 form: no rule can be about one.
    Mapped(SocketAddr),
}

impl At {
    fn address(address: SocketAddr) -> Self {
        if address.ip().to_canonical() != address.ip() {
            return Self::Mapped(address);
        }
        let scope = match address {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(v6) => Some(v6.scope_id()),
        };
        Self::Network { network: address.ip().into(), ports: address.port().into(), scope }
    }
}

/// A rule about sockets that are no files. The descriptors are close-on-exec, and blocking unless it says otherwise.
/// For UNIX sockets with a path, see [`FileRule::connect`], [`FileRule::listen`] and [`FileRule::bind`].
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct SocketRule {
    pub(super) right: Right,
    pub(super) socket: SocketType,
    pub(super) at: At,
    pub(super) options: SocketOptions,
    pub(super) answers: Vec<Network>,
    pub(super) once: bool,
    pub(super) place: Place,
}

/// How sockets of a rule are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SocketOptions {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) dual_stack: bool,
    pub(crate) nonblocking: bool,
    pub(crate) backlog: i32,
    pub(crate) timeout: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl SocketOptions {
    pub(crate) const DEFAULT: Self = Self {
        reuse_address: true,
        reuse_port: false,
        dual_stack: false,
        nonblocking: false,
        backlog: 128,
        timeout: Duration::from_secs(10),
    };
}

impl SocketRule {
    #[track_caller]
    fn new(right: Right, socket: SocketType, at: At) -> Self {
        // Two UDP sockets of one port would share its datagrams: as std does, SO_REUSEADDR is for TCP alone.
        let options = SocketOptions { reuse_address: right == Right::Listen, ..SocketOptions::DEFAULT };
        Self { right, socket, at, options, answers: Vec::new(), once: false, place: Place::here() }
    }

    /// UDP instead of TCP, for a rule about connected sockets.
    ///
    /// Who it is connected to is the default of a UDP socket, and whom it receives from, but no bound: its holder can
    /// send elsewhere by sendmsg(2) with an address, in a sandbox too, as for [`Rule::bind`].
    pub fn udp(self) -> Self {
        self.socket_type(SocketType::Datagram)
    }

    /// The type of socket: for abstract names.
    pub fn socket_type(mut self, socket: SocketType) -> Self {
        self.socket = socket;
        self
    }

    /// Sets SO_REUSEADDR, or not. Unless said otherwise it is set on sockets that listen, as std does, and not on
    /// others.
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.options.reuse_address = reuse;
        self
    }

    /// Sets SO_REUSEPORT: further sockets of the same user may have the same port.
    pub fn reuse_port(mut self) -> Self {
        self.options.reuse_port = true;
        self
    }

    /// Takes IPv4 connections on an IPv6 socket as well (IPV6_V6ONLY off): of `[::]`, all of the port.
    pub fn dual_stack(mut self) -> Self {
        self.options.dual_stack = true;
        self
    }

    /// Sets O_NONBLOCK, once the socket is connected or listens. The flag belongs to the open file description, which
    /// the worker shares with nobody here.
    pub fn nonblocking(mut self) -> Self {
        self.options.nonblocking = true;
        self
    }

    /// How many connections may wait to be accepted: 128 unless said otherwise; the kernel caps it at
    /// `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u16) -> Self {
        self.options.backlog = i32::from(connections);
        self
    }

    /// How long the broker tries to look up and connect: 10 seconds unless said otherwise. The worker's further
    /// requests wait meanwhile; other workers' do not.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Of what the host's name stands for, only addresses of these networks are connected to. Without, whoever answers
    /// for the name chooses, and may choose an address inside; but none that a rule denies.
    pub fn answers_within(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.answers.extend(networks);
        self
    }

    /// As for [`FileRule::once`].
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// A rule about a service of the daemon's own.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct ServiceRule {
    pub(super) name: String,
    pub(super) rights: Rights,
    pub(super) once: bool,
    pub(super) place: Place,
}

impl ServiceRule {
    /// Rights that a call may ask for; what they mean is for the service to say. None are needed to call it.
    pub fn grant(mut self, rights: impl Into<Rights>) -> Self {
        self.rights = self.rights.union(rights.into());
        self
    }

    /// As for [`FileRule::once`].
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

macro_rules! into_rule {
    ($($rule:ident => $written:ident),+) => {
        $(impl From<$rule> for Rule {
            fn from(rule: $rule) -> Self {
                Self { place: rule.place.clone(), written: Written::$written(rule) }
            }
        })+
    };
}

into_rule!(FileRule => File, ScratchRule => Scratch, SocketRule => Socket, ServiceRule => Service);

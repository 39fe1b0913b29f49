//! `[broker]` Rules about what has a path.

use std::path::PathBuf;
use std::time::Duration;

use super::{FileKinds, SocketTypes, Terms};
use crate::policy::info::Place;
use crate::wire::{Right, Rights, SocketType};

/// A rule about files: which, and what for. It grants nothing until a right is named; to deny it names none.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct FileRule {
    pub(in crate::policy) path: PathBuf,
    pub(in crate::policy) scope: Scope,
    pub(in crate::policy) rights: Rights,
    pub(in crate::policy) terms: Terms,
    pub(in crate::policy) reopen_root: bool,
    pub(in crate::policy) once: bool,
    pub(in crate::policy) place: Place,
}

impl FileRule {
    #[track_caller]
    pub(super) fn new(path: PathBuf, scope: Scope) -> Self {
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
    /// With [`read`](Self::read), the file can be opened for both (O_RDWR), and then mapped and written over.
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
    /// made inside a directory `.fdbroker-…`, which is beside it for a moment and only the broker's user can search.
    /// Where the file system cannot move it from there (RENAME_NOREPLACE), the umask takes its bits off the mode.
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
    /// so that for a moment it has both names, and by /proc, which must be mounted. Where something is replaced, there
    /// is for a moment a directory `.fdbroker-…` beside it that only the broker's user can search; a broker that is
    /// killed then leaves it behind, and so it does when somebody renames it. Where the kernel refuses the link (file
    /// systems that have none; files of others under `fs.protected_hardlinks`, for a broker without CAP_FOWNER), it is
    /// renamed by name if the directory of the old name is the broker's user's or root's and nobody else can write to
    /// it, and otherwise not at all (EPERM).
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
    /// **Who is at the other end takes the worker for the broker:** SO_PEERCRED there tells the broker's uid, gid and
    /// pid. Grant no service that trusts its callers by those (polkit, D-Bus, databases with peer authentication).
    pub fn connect(mut self, sockets: impl IntoIterator<Item = SocketType>) -> Self {
        self.terms.connect = SocketTypes::of(sockets);
        self.grant(Right::Connect)
    }

    /// Allows listening UNIX sockets, of these types, at the paths that the rule names, with these permission bits. The
    /// path is removed when the worker's service ends, if what is there is still that socket.
    ///
    /// Nothing is replaced: EADDRINUSE when anything is there, and so also for the path that an earlier run has left
    /// behind, as a broker that is killed removes nothing. (Remove it before the worker starts, or grant
    /// [`unlink`](Self::unlink).) There are at most 256 paths of one worker's sockets at a time. The last component
    /// must fit into an address (107 bytes) behind `/proc/self/fd/N/`, which is also what the socket's own address
    /// (getsockname(2), `local_addr`) begins with.
    pub fn listen(mut self, sockets: impl IntoIterator<Item = SocketType>, mode: u32) -> Self {
        self.terms.listen = SocketTypes::of(sockets);
        self.terms.socket_mode = mode;
        self.grant(Right::Listen)
    }

    /// Allows UNIX datagram sockets that are bound to the paths that the rule names, with these permission bits. As for
    /// [`listen`](Self::listen), the path is removed in the end, nothing is replaced, and number and length are
    /// bounded.
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

    /// As for [`SocketRule::backlog`](super::SocketRule::backlog).
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

    pub(in crate::policy) const fn file_type(self) -> libc::mode_t {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Fifo => libc::S_IFIFO,
            Self::CharacterDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }
}

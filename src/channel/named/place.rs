//! `[both]` A path for a socket: taken by one listener at a time, made with its mode, and removed by who made it.
//!
//! A socket's path outlives the process that bound it, and bind(2) takes no path that exists. So somebody must remove
//! what is stale, and no sequence of look and unlink(2) is safe against another process that does the same. Here a lock
//! on a file beside the path decides who may.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::geteuid;

use super::{Kind, address};
use crate::error::EndpointError;
use crate::sys::lock;

/// A path that is free, and stays so for everybody who asks here: its lock is held. Bind it now.
pub(super) struct Claim {
    path: PathBuf,
    name: UnixAddr,
    kind: Kind,
    lock: Lock,
}

/// A path that is bound. Dropped in the process that made it, it removes the path, if that is still what it made.
pub(super) struct Place {
    path: PathBuf,
    made: Inode,
    /// Its fields are dropped after [`Place::drop`], so the path goes before the lock.
    lock: Lock,
}

impl Claim {
    /// # Errors
    /// Whatever is at the path is untouched, unless it was a socket that no process has bound.
    pub(super) fn of(path: &Path, name: &UnixAddr, kind: Kind, asked: &str) -> Result<Self, EndpointError> {
        // Relative paths must mean the same at the end, when the process may have moved.
        let path = std::path::absolute(path).map_err(|error| address::os(asked, "getcwd", error))?;
        let mut beside = path.clone().into_os_string();
        beside.push(".lock");
        let lock = Lock::take(PathBuf::from(beside), asked)?;
        remove_stale(&path, name, kind, asked)?;
        Ok(Self { path, name: *name, kind, lock })
    }

    /// After bind(2) of `socket`, and before listen(2), when nobody can have connected: gives the path the bits of
    /// `mode` that the umask took away.
    pub(super) fn bound(self, socket: OwnedFd, mode: u32, asked: &str) -> Result<(Place, OwnedFd), EndpointError> {
        let there = fs::symlink_metadata(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => replaced(asked),
            _ => address::os(asked, "lstat", error),
        })?;
        if !there.file_type().is_socket() {
            return Err(replaced(asked));
        }
        if there.mode() & PERMISSIONS & !mode != 0 {
            // Ours or somebody's: once ours is closed, only ours is nobody's.
            drop(socket);
            let _ = remove_stale(&self.path, &self.name, self.kind, asked);
            return Err(too_permissive(asked));
        }
        let place = Place { path: self.path, made: inode(&there), lock: self.lock };
        if there.mode() & PERMISSIONS != mode {
            place.widen(mode, asked)?;
        }
        Ok((place, socket))
    }
}

impl Place {
    /// There is no call that changes the mode of a bound socket's path by the socket. By the path it could be
    /// another's: so it is opened, looked at, and changed through what was opened.
    fn widen(&self, mode: u32, asked: &str) -> Result<(), EndpointError> {
        let path =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&self.path).map_err(
                |error| match error.kind() {
                    io::ErrorKind::NotFound => replaced(asked),
                    _ => address::os(asked, "open(O_PATH)", error),
                },
            )?;
        let there = path.metadata().map_err(|error| address::os(asked, "fstat", error))?;
        if inode(&there) != self.made || there.uid() != geteuid().as_raw() {
            return Err(replaced(asked));
        }
        let opened = format!("/proc/self/fd/{}", path.as_raw_fd());
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(AT_FDCWD, opened.as_str(), mode, FchmodatFlags::FollowSymlink).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => EndpointError::Unfit {
                asked: asked.to_owned(),
                why: "the umask took bits of the mode away, put back through /proc: mount it, or change the umask",
            },
            errno => address::os(asked, "fchmodat", errno.into()),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // While the socket is bound, its inode is in use, and its number cannot come to mean another.
        if self.lock.is_makers() && names(&self.path, self.made) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An empty file that is locked for as long as this lives, by this process and those that it forks.
struct Lock {
    path: PathBuf,
    locked: Inode,
    /// The process that took it: one that it forks has this value too, and must not remove what its parent needs.
    maker: u32,
    /// Closed last: what waits for it finds a path that names another file, or none.
    _file: File,
}

impl Lock {
    fn take(path: PathBuf, asked: &str) -> Result<Self, EndpointError> {
        let in_use = |how| EndpointError::InUse { asked: asked.to_owned(), call: "flock", how };
        for _ in 0..ATTEMPTS {
            let Some((file, made)) = open_lock(&path, asked)? else { continue };
            let there = file.metadata().map_err(|error| address::os(asked, "fstat of its lock file", error))?;
            if !there.is_file() || there.len() != 0 {
                return Err(occupied(asked, &path, "it is no lock file, which is a file of no bytes"));
            }
            let free = lock::try_exclusive(&file).map_err(|error| {
                // Where files cannot be locked, nobody else has locked it.
                if made && names(&path, inode(&there)) {
                    let _ = fs::remove_file(&path);
                }
                address::os(asked, "flock of its lock file", error)
            })?;
            if !free {
                return Err(in_use("another listener holds its lock file"));
            }
            // Who held it before may have removed it, and then somebody else has another.
            if names(&path, inode(&there)) {
                return Ok(Self { path, locked: inode(&there), maker: process::id(), _file: file });
            }
        }
        Err(in_use("its lock file is replaced again and again"))
    }

    fn is_makers(&self) -> bool {
        self.maker == process::id()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_makers() && names(&self.path, self.locked) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the lock file or makes it, and says which; `None` when it came or went between the two. Never with O_CREAT
/// alone: in a sticky directory that others can write to, Linux refuses that for a file of another user, even to root
/// (fs.protected_regular).
fn open_lock(path: &Path, asked: &str) -> Result<Option<(File, bool)>, EndpointError> {
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a FIFO there must not make this wait.
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let result = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match options.create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            result => result.map(|file| (file, true)),
        },
        result => result.map(|file| (file, false)),
    };
    result.map(Some).map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ELOOP => occupied(asked, path, "it is a symbolic link, not a lock file"),
        Errno::EISDIR | Errno::ENXIO => occupied(asked, path, "it is no lock file, which is a file of no bytes"),
        errno => address::error(asked, "open of its lock file", errno, Kind::SeqPacket),
    })
}

/// Removes a socket that no process has bound, and nothing else.
fn remove_stale(path: &Path, name: &UnixAddr, kind: Kind, asked: &str) -> Result<(), EndpointError> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|error| address::os(asked, "lstat", error))?,
    };
    if !there.file_type().is_socket() {
        return Err(occupied(
            asked,
            path,
            if there.is_symlink() { "it is a symbolic link" } else { "it is not a socket" },
        ));
    }
    // By a datagram socket first: Linux answers EPROTOTYPE for every bound socket of another type, though it does not
    // listen yet, and who listens is not woken. Other kernels (gVisor's) say ECONNREFUSED to that.
    for socket_type in [SockType::Datagram, address::socket_type(kind, asked)?] {
        if !is_refused(name, socket_type, asked)? {
            let how = "a process without a lock file has bound it, or at least it is not refused as a stale one is";
            return Err(EndpointError::InUse { asked: asked.to_owned(), call: "connect", how });
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            Err(address::error(asked, "unlink of the stale socket", errno, kind))
        }
        _ => Ok(()),
    }
}

/// Whether connect(2) says that there is nobody, without waiting.
fn is_refused(name: &UnixAddr, socket_type: SockType, asked: &str) -> Result<bool, EndpointError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, socket_type, flags, None)
        .map_err(|errno| address::os(asked, "socket", errno.into()))?;
    match connect(probe.as_raw_fd(), name) {
        // ENOENT: it went away by itself.
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(true),
        Err(errno @ Errno::EACCES) => {
            Err(address::error(asked, "connect, to see whether it is in use", errno, Kind::SeqPacket))
        }
        _ => Ok(false),
    }
}

/// Device and number of a file.
type Inode = (u64, u64);

fn inode(of: &Metadata) -> Inode {
    (of.dev(), of.ino())
}

fn names(path: &Path, made: Inode) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| inode(&there) == made)
}

fn replaced(asked: &str) -> EndpointError {
    let how = "somebody replaced the path as soon as it was made; is its directory writable for others?";
    EndpointError::InUse { asked: asked.to_owned(), call: "bind", how }
}

fn too_permissive(asked: &str) -> EndpointError {
    let why = "the path was made with more permissions than asked for: its file system adds some, or somebody replaced \
               or changed it; use a directory of another file system, which only its owner can write to";
    EndpointError::Unfit { asked: asked.to_owned(), why }
}

fn occupied(asked: &str, path: &Path, what: &'static str) -> EndpointError {
    EndpointError::Occupied { asked: asked.to_owned(), path: path.to_owned(), what }
}

const PERMISSIONS: u32 = 0o777;
/// How often a lock file may come or go under our hands: each time is another listener that starts or ends just then.
const ATTEMPTS: usize = 100;

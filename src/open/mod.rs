//! `[broker]` Permit to descriptor: the only place that opens, makes, removes, binds or connects anything for a worker.
//!
//! A name is resolved beneath the rule's directory by `openat2(2)`, or where that is not to be had by a walk with the
//! same answers ([`Resolver`](crate::Resolver)): no magic link is followed, no symbolic link unless the rule says so,
//! and nothing leads out. What was opened is then asked what it is; what is not of the kinds that the rule names is
//! closed again. O_NONBLOCK is set on opening, so that a FIFO in the place of a file cannot hold the broker up; on a
//! regular file it stays set and does nothing. O_NOCTTY is always set, so a terminal there never becomes the broker's.

mod change;
mod file;
mod look;
mod names;
mod private;
mod socket;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use libc::{S_IFMT, S_IFSOCK};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat};

use crate::policy::{Answers, Endpoint, Grant, Permit, Root, SocketOptions};
use crate::resolve::Way;
use crate::wire::path::PATH_MAX;
use crate::wire::{Reason, Refusal, SocketType};
use names::Names;
use socket::Inode;

/// Does for one worker what its permits say. Dropped, it removes the paths of the UNIX sockets that it has made for it,
/// those that are still there.
#[derive(Debug, Default)]
pub struct Opener {
    names: Names,
    made: Vec<Made>,
}

/// What has been had.
#[derive(Debug)]
pub enum Opened {
    /// A descriptor, close-on-exec.
    Descriptor(OwnedFd),
    /// Bytes of data, in the buffer that was given; 0 where there is nothing to tell.
    Data(usize),
}

/// The path of a socket.
#[derive(Debug)]
struct Made {
    root: Arc<Root>,
    name: Box<[u8]>,
    way: Way,
    inode: Inode,
}

/// Paths of sockets that are remembered for one worker: those that are there at a time.
const MOST_MADE: usize = 256;

impl Opener {
    /// Nothing made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does what the permit says. Data goes into `data`. Waits as long as the system calls do, and for a connection or
    /// a name as long as the rule says.
    ///
    /// # Errors
    /// A refusal: [`Reason::Failed`] with the errno of the system call that failed, [`Reason::Kind`] with EACCES when
    /// what is there is not of the kinds that the rule names, [`Reason::Limit`] when too many paths of
    /// the worker's sockets are there or `data` is too small. Whatever was opened is closed again. A file or directory
    /// that was created stays if the last step after its creation, setting its mode, fails.
    pub fn open(&mut self, permit: Permit<'_>, data: &mut [u8]) -> Result<Opened, Refusal> {
        let fd = match permit.into_grant() {
            Grant::Open { at, access, terms } => file::open(at, access, terms)?,
            Grant::Scratch(root) => scratch(root)?,
            Grant::Listen { socket, to, options, mode } => self.listen(socket, to, options, mode)?,
            Grant::Connect { socket, to, options } => connect(socket, to, options)?,
            Grant::ConnectName { socket, host, port, options, answers } => {
                self.connect_name(socket, host, port, options, &answers)?
            }
            Grant::List { at, from, hidden } => return look::list(at, from, hidden, data).map(Opened::Data),
            Grant::Stat(at) => return look::stat(at, data).map(Opened::Data),
            Grant::Readlink(at) => return look::readlink(at, data).map(Opened::Data),
            Grant::Mkdir { at, mode } => return change::mkdir(at, mode).map(|()| Opened::Data(0)),
            Grant::Unlink(at) => return change::unlink(at).map(|()| Opened::Data(0)),
            Grant::Rmdir(at) => return change::rmdir(at).map(|()| Opened::Data(0)),
            Grant::Rename { from, to, terms } => return change::rename(from, to, terms).map(|()| Opened::Data(0)),
            // A service's, not the kernel's: the broker calls it.
            Grant::Call { .. } => return Err(failed(Errno::ENOSYS)),
        };
        Ok(Opened::Descriptor(fd))
    }

    fn listen(
        &mut self,
        socket: SocketType,
        to: Endpoint<'_>,
        options: &SocketOptions,
        mode: u32,
    ) -> Result<OwnedFd, Refusal> {
        match to {
            Endpoint::Ip(address) if socket == SocketType::Datagram => socket::bind(address, options).map_err(failed),
            Endpoint::Ip(address) => socket::listen(address, options).map_err(failed),
            Endpoint::Abstract(name) => socket::listen_abstract(name, socket, options).map_err(failed),
            Endpoint::Path(_) if !self.has_room() => Err(LIMIT),
            Endpoint::Path(at) => {
                let (mut buffer, opened) = ([0; PATH_MAX], at.root.open().map_err(failed)?);
                let resolver = at.root.resolver();
                let (parent, name) = resolver.parent(opened.as_fd(), at.name, at.way, &mut buffer).map_err(failed)?;
                let (fd, inode) = socket::listen_unix(parent.as_fd(), name, socket, mode, options).map_err(failed)?;
                self.made.push(Made { root: at.root.clone(), name: at.name.into(), way: at.way, inode });
                Ok(fd)
            }
        }
    }

    /// Forgets the paths that are gone when there are too many.
    fn has_room(&mut self) -> bool {
        if self.made.len() == MOST_MADE {
            self.made.retain(|made| made.is_there() != Ok(false));
        }
        self.made.len() < MOST_MADE
    }

    fn connect_name(
        &self,
        socket: SocketType,
        host: &[u8],
        port: u16,
        options: &SocketOptions,
        allowed: &Answers<'_>,
    ) -> Result<OwnedFd, Refusal> {
        let deadline = deadline(options);
        let host = std::str::from_utf8(host).map_err(|_| failed(Errno::EINVAL))?;
        let answers = self.names.resolve(host, deadline).map_err(|error| failed(error.errno()))?;
        let usable = || answers.addresses().iter().filter(|ip| allowed.allow(**ip, port));
        let (mut last, mut left) = (Errno::EHOSTUNREACH, u32::try_from(usable().count()).unwrap_or(u32::MAX));
        for ip in usable() {
            // Each has its share of the time, so that one that does not answer leaves some to the others.
            let now = Instant::now();
            let share = now + deadline.saturating_duration_since(now) / left;
            left -= 1;
            match socket::connect(socket, (*ip, port).into(), share, options.nonblocking) {
                Ok(fd) => return Ok(fd),
                Err(errno) => last = errno,
            }
        }
        Err(failed(last))
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        for made in &self.made {
            let _ = made.remove();
        }
    }
}

impl Made {
    fn remove(&self) -> Result<bool, Errno> {
        self.in_directory(socket::remove_unix)
    }

    /// A directory that is not there has no path in it.
    fn is_there(&self) -> Result<bool, Errno> {
        match self.in_directory(socket::has_unix) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            there => there,
        }
    }

    fn in_directory<T>(&self, act: fn(BorrowedFd<'_>, &CStr, Inode) -> Result<T, Errno>) -> Result<T, Errno> {
        let (mut buffer, opened) = ([0; PATH_MAX], self.root.open()?);
        let (parent, name) = self.root.resolver().parent(opened.as_fd(), &self.name, self.way, &mut buffer)?;
        act(parent.as_fd(), name, self.inode)
    }
}

/// O_EXCL: it never gets a name, not even by a worker's linkat(2). The mode is set because the umask takes bits off it,
/// and a file without a name can still be opened again through /proc by who may look into a holder of it.
fn scratch(root: &Root) -> Result<OwnedFd, Refusal> {
    let opened = root.open().map_err(failed)?;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let flags = OFlag::O_TMPFILE | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE;
    let fd = match openat(opened.as_fd(), c".", flags, mode) {
        // What file systems say that have no such files, and kernels that know of none.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => named_for_a_moment(opened.as_fd())?,
        fd => fd.map_err(failed)?,
    };
    fchmod(&fd, mode).map_err(failed)?;
    Ok(fd)
}

/// tempfile wants a name for the directory: this one is of the directory that was pinned. (Its own unnamed files can be
/// given a name.) A file whose last name is gone gets none again.
fn named_for_a_moment(directory: BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let named = tempfile::NamedTempFile::new_in(directory).map_err(|error| failed(errno(&error)))?;
    Ok(named.into_file().into())
}

fn connect(socket: SocketType, to: Endpoint<'_>, options: &SocketOptions) -> Result<OwnedFd, Refusal> {
    let (deadline, nonblocking) = (deadline(options), options.nonblocking);
    match to {
        Endpoint::Ip(address) => socket::connect(socket, address, deadline, nonblocking).map_err(failed),
        Endpoint::Abstract(name) => socket::connect_abstract(name, socket, deadline, nonblocking).map_err(failed),
        Endpoint::Path(at) => {
            let object = file::beneath(at, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
            let stat = fstat(&object.0).map_err(failed)?;
            if stat.st_mode & S_IFMT != S_IFSOCK {
                return Err(NOT_OF_THE_KIND);
            }
            socket::connect_unix(object.judged(stat.st_dev)?.as_fd(), socket, deadline, nonblocking).map_err(failed)
        }
    }
}

/// A year, where the rule's own is too far away to say when it is.
fn deadline(options: &SocketOptions) -> Instant {
    let now = Instant::now();
    now.checked_add(options.timeout).unwrap_or(now + std::time::Duration::from_secs(365 * 24 * 60 * 60))
}

const NOT_OF_THE_KIND: Refusal = Refusal { reason: Reason::Kind, errno: libc::EACCES };
const LIMIT: Refusal = Refusal { reason: Reason::Limit, errno: libc::EAGAIN };

fn failed(errno: Errno) -> Refusal {
    Refusal { reason: Reason::Failed, errno: errno as i32 }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

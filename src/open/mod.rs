//! `[broker]` Permit to descriptor: the only place that opens, makes, removes, binds or connects anything for a worker.
//!
//! A name is resolved beneath the rule's directory by `openat2(2)`, or where that is not to be had by a walk with the
//! same answers ([`Resolver`]): no magic link is followed, no symbolic link unless the rule says so, and nothing leads
//! out. What was opened is then asked what it is; what is not of the kinds that the rule names is closed again.
//! O_NONBLOCK is set on opening, so that a FIFO in the place of a file cannot hold the broker up; on a regular file it
//! stays set and does nothing. O_NOCTTY is always set, so a terminal there never becomes the broker's.

mod change;
mod look;
pub(crate) mod names;
mod resolve;
mod socket;
mod walk;

pub use resolve::Resolver;
pub(crate) use resolve::Way;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use libc::{S_IFCHR, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, major, minor};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use crate::policy::{Answers, At, Endpoint, Grant, Permit, Root, SocketOptions, Terms};
use crate::wire::path::PATH_MAX;
use crate::wire::{Access, Reason, Refusal, SocketType};
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

/// Paths of sockets that are remembered for one worker.
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
    /// what is there is not of the kinds that the rule names, [`Reason::Limit`] when the worker has made too many
    /// sockets or `data` is too small. Whatever was opened is closed again. A file or directory that was created stays
    /// if the last step after its creation, setting its mode, fails.
    pub fn open(&mut self, permit: Permit<'_>, data: &mut [u8]) -> Result<Opened, Refusal> {
        let fd = match permit.into_grant() {
            Grant::Open { at, access, terms } => file(at, access, terms)?,
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
            Endpoint::Path(_) if self.made.len() == MOST_MADE => Err(LIMIT),
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
        let (mut buffer, opened) = ([0; PATH_MAX], self.root.open()?);
        let (parent, name) = self.root.resolver().parent(opened.as_fd(), &self.name, self.way, &mut buffer)?;
        socket::remove_unix(parent.as_fd(), name, self.inode)
    }
}

/// How often a file that came and went between two looks is looked for again.
const ATTEMPTS: usize = 8;

fn file(at: At<'_>, access: Access, terms: &Terms) -> Result<OwnedFd, Refusal> {
    if access.contains(Access::DIRECTORY) {
        return directory(at);
    }
    if access.contains(Access::NEW) {
        return create(at, access, terms);
    }
    if !access.contains(Access::CREATE) {
        return existing(at, access, terms);
    }
    for _ in 0..ATTEMPTS {
        match existing(at, access, terms) {
            Err(NOT_THERE) => {}
            done => return done,
        }
        match create(at, access, terms) {
            Err(THERE) => {}
            done => return done,
        }
    }
    // Nothing is created through a link, so one that leads nowhere is no name that comes and goes.
    let named = beneath(at, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty());
    let link = named.is_ok_and(|named| fstat(&named.0).is_ok_and(|stat| stat.st_mode & S_IFMT == S_IFLNK));
    Err(failed(if link { Errno::ELOOP } else { Errno::EAGAIN }))
}

fn existing(at: At<'_>, access: Access, terms: &Terms) -> Result<OwnedFd, Refusal> {
    let fd = beneath(at, flags(access), Mode::empty())?;
    let stat = fstat(&fd.0).map_err(failed)?;
    // /dev/tty is whatever terminal its opener has: here, the broker's.
    let own_terminal = stat.st_mode & S_IFMT == S_IFCHR && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 0);
    if !terms.kinds.contain(stat.st_mode) || own_terminal {
        return Err(NOT_OF_THE_KIND);
    }
    if has_forbidden_links(terms, &stat) {
        return Err(NOT_OF_THE_KIND);
    }
    let regular = stat.st_mode & S_IFMT == S_IFREG;
    let fd = fd.judged(stat.st_dev)?;
    // open(2) takes no notice of O_TRUNC where there is nothing to truncate, as in a device.
    if regular && access.contains(Access::TRUNCATE) {
        ftruncate(&fd, 0).map_err(failed)?;
    }
    if !regular && !access.contains(Access::NONBLOCKING) {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map_err(failed)?;
    }
    Ok(fd)
}

/// Whether it is a file of several names, where the rule wants none.
fn has_forbidden_links(terms: &Terms, stat: &FileStat) -> bool {
    terms.protect_hard_links && stat.st_mode & S_IFMT == S_IFREG && stat.st_nlink > 1
}

/// O_EXCL makes it a regular file that was not there before. The mode is set again because the broker's umask took
/// bits off it.
fn create(at: At<'_>, access: Access, terms: &Terms) -> Result<OwnedFd, Refusal> {
    let mode = Mode::from_bits_truncate(terms.file_mode);
    let fd = beneath(at, flags(access) | OFlag::O_CREAT | OFlag::O_EXCL, mode)?.0;
    fchmod(&fd, mode).map_err(failed)?;
    Ok(fd)
}

fn directory(at: At<'_>) -> Result<OwnedFd, Refusal> {
    let fd = beneath(at, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let device = fstat(&fd.0).map_err(failed)?.st_dev;
    fd.judged(device)
}

fn flags(access: Access) -> OFlag {
    let writes = access.contains(Access::WRITE) || access.contains(Access::APPEND);
    let mode = match (access.contains(Access::READ), writes) {
        (true, true) => OFlag::O_RDWR,
        (false, true) => OFlag::O_WRONLY,
        (_, false) => OFlag::O_RDONLY,
    };
    let append = if access.contains(Access::APPEND) { OFlag::O_APPEND } else { OFlag::empty() };
    mode | append | OFlag::O_NOCTTY | OFlag::O_NONBLOCK
}

/// What has been opened and not been asked yet where it lies; and the file system of the directory beneath which it
/// was found.
struct Unjudged(OwnedFd, libc::dev_t);

impl Unjudged {
    /// A proc file system that is mounted somewhere beneath a root holds the broker's own memory. Only what lies on
    /// another file system than its root can be in one: the policy takes no root on one.
    fn judged(self, device: libc::dev_t) -> Result<OwnedFd, Refusal> {
        let Self(fd, root) = self;
        if device != root && fstatfs(&fd).map_err(failed)?.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(NOT_OF_THE_KIND);
        }
        Ok(fd)
    }
}

fn beneath(at: At<'_>, flags: OFlag, mode: Mode) -> Result<Unjudged, Refusal> {
    let root = at.root.open().map_err(failed)?;
    let fd = at.root.resolver().open(root.as_fd(), at.name, flags, mode, at.way).map_err(failed)?;
    Ok(Unjudged(fd, root.device))
}

/// tempfile wants a name for the directory: this one is of the directory that was pinned. The mode is set because
/// tempfile leaves it to the broker's umask, and a file without a name can still be opened again through /proc by who
/// may look into a holder of it.
fn scratch(root: &Root) -> Result<OwnedFd, Refusal> {
    let opened = root.open().map_err(failed)?;
    let directory = format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd());
    let fd = OwnedFd::from(tempfile::tempfile_in(directory).map_err(|error| failed(errno(&error)))?);
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    Ok(fd)
}

fn connect(socket: SocketType, to: Endpoint<'_>, options: &SocketOptions) -> Result<OwnedFd, Refusal> {
    let (deadline, nonblocking) = (deadline(options), options.nonblocking);
    match to {
        Endpoint::Ip(address) => socket::connect(socket, address, deadline, nonblocking).map_err(failed),
        Endpoint::Abstract(name) => socket::connect_abstract(name, socket, deadline, nonblocking).map_err(failed),
        Endpoint::Path(at) => {
            let object = beneath(at, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
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
const NOT_THERE: Refusal = Refusal { reason: Reason::Failed, errno: libc::ENOENT };
const THERE: Refusal = Refusal { reason: Reason::Failed, errno: libc::EEXIST };

fn failed(errno: Errno) -> Refusal {
    Refusal { reason: Reason::Failed, errno: errno as i32 }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

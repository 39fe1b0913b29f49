//! `[broker]` Files, and what else has a name and is opened.

use std::os::fd::{AsFd, OwnedFd};

use libc::{S_IFCHR, S_IFLNK, S_IFMT, S_IFREG};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, major, minor};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use super::{NOT_OF_THE_KIND, failed};
use crate::policy::{At, Terms};
use crate::wire::{Access, Reason, Refusal};

/// How often a file that came and went between two looks is looked for again.
const ATTEMPTS: usize = 8;

pub(super) fn open(at: At<'_>, access: Access, terms: &Terms) -> Result<OwnedFd, Refusal> {
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
pub(super) fn has_forbidden_links(terms: &Terms, stat: &FileStat) -> bool {
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
pub(super) struct Unjudged(pub(super) OwnedFd, libc::dev_t);

impl Unjudged {
    /// A proc file system that is mounted somewhere beneath a root holds the broker's own memory. Only what lies on
    /// another file system than its root can be in one: the policy takes no root on one.
    pub(super) fn judged(self, device: libc::dev_t) -> Result<OwnedFd, Refusal> {
        let Self(fd, root) = self;
        if device != root && fstatfs(&fd).map_err(failed)?.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(NOT_OF_THE_KIND);
        }
        Ok(fd)
    }
}

pub(super) fn beneath(at: At<'_>, flags: OFlag, mode: Mode) -> Result<Unjudged, Refusal> {
    let root = at.root.open().map_err(failed)?;
    let fd = at.root.resolver().open(root.as_fd(), at.name, flags, mode, at.way).map_err(failed)?;
    Ok(Unjudged(fd, root.device))
}

const NOT_THERE: Refusal = Refusal { reason: Reason::Failed, errno: libc::ENOENT };
const THERE: Refusal = Refusal { reason: Reason::Failed, errno: libc::EEXIST };

//! `[broker]` Resolution without `openat2(2)`: one `openat(2)` for each component, none of which follows a link.
//!
//! Three things are left to us that the kernel would have done. Links, where a rule follows them, are read and taken
//! apart here. Mount points, where a rule keeps to one, are found by the mount's id. And a directory that is renamed
//! out of the root between two steps takes the walk with it (K14), so nothing is handed out before the way back has
//! been gone: from the directory that holds the object, by `..`, to the root; and the name there still has to be the
//! object's (K43). No walk takes memory, but for the text of links, or holds more than four descriptors.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use libc::{S_IFLNK, S_IFMT, S_ISVTX, S_IWOTH};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::{Parent, TRIES, Way};
use crate::sys::descriptor::{is_nosymfollow, mount_id};
use crate::wire::path::PATH_MAX;

/// Opens `name` with `flags` as [`Resolver::open`](super::Resolver::open) says.
pub(super) fn open(root: BorrowedFd<'_>, name: &CStr, flags: OFlag, mode: Mode, way: Way) -> Result<OwnedFd, Errno> {
    // openat2 refuses these, and openat does not look at them (K12).
    let with_path = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if flags.contains(OFlag::O_PATH) && !with_path.contains(flags) {
        return Err(Errno::EINVAL);
    }
    for _ in 0..TRIES {
        match Walk::new(root, way)?.open(Names::new(name), flags, mode) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => return done,
        }
    }
    Err(Errno::EAGAIN)
}

/// The directory `name`, as O_PATH.
pub(super) fn directory<'r>(root: BorrowedFd<'r>, name: &CStr, way: Way) -> Result<Parent<'r>, Errno> {
    for _ in 0..TRIES {
        match Walk::new(root, way)?.directory(Names::new(name)) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => return done,
        }
    }
    Err(Errno::EAGAIN)
}

struct Walk<'r> {
    root: BorrowedFd<'r>,
    here: Parent<'r>,
    /// How many directories `here` is beneath the root, unless one was renamed.
    depth: usize,
    links: usize,
    way: Way,
    /// The root's, where the rule keeps to it.
    mount: Option<u64>,
}

/// What the last component is.
enum Last {
    Opened(OwnedFd),
    /// A link to this.
    Link(Vec<u8>),
}

impl<'r> Walk<'r> {
    fn new(root: BorrowedFd<'r>, way: Way) -> Result<Self, Errno> {
        let mount = if way.one_file_system { Some(mount_of(root, c"")?) } else { None };
        Ok(Self { root, here: Parent::Root(root), depth: 0, links: 0, way, mount })
    }

    fn open(mut self, mut names: Names, mut flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        while let Some(step) = names.next() {
            let dots = matches!(step.name.to_bytes(), b"." | b"..");
            if !step.is_last || dots {
                if let Some(target) = self.enter(step.name, false)? {
                    names.put_in_front(&target);
                }
                continue;
            }
            // At the end of a link's text, a slash says that a directory is meant.
            flags.set(OFlag::O_DIRECTORY, flags.contains(OFlag::O_DIRECTORY) || step.has_slash);
            match self.open_last(step.name, flags, mode)? {
                Last::Opened(fd) => return Ok(fd),
                Last::Link(target) => names.put_in_front(&target),
            }
        }
        // The name was `.`, or a link's text ended with dots.
        match self.open_last(c".", flags, mode)? {
            Last::Opened(fd) => Ok(fd),
            Last::Link(_) => Err(Errno::ELOOP),
        }
    }

    fn directory(mut self, mut names: Names) -> Result<Parent<'r>, Errno> {
        while let Some(step) = names.next() {
            if let Some(target) = self.enter(step.name, step.is_last)? {
                names.put_in_front(&target);
            }
        }
        self.is_beneath()?;
        Ok(self.here)
    }

    /// One directory further. The text of the link, if that is what stands there and the rule follows it.
    fn enter(&mut self, name: &CStr, is_last: bool) -> Result<Option<Vec<u8>>, Errno> {
        if let dots @ (b"." | b"..") = name.to_bytes() {
            // Only to be told if this directory may not be searched.
            openat(&self.here, c".", DIRECTORY, Mode::empty())?;
            if dots == b".." {
                self.leave()?;
            }
            return Ok(None);
        }
        match openat(&self.here, name, DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                self.keeps_to_mount(directory.as_fd(), c"")?;
                self.here = Parent::Beneath(directory);
                self.depth += 1;
                Ok(None)
            }
            Err(errno @ (Errno::ENOTDIR | Errno::ELOOP)) => self.link(name, is_last)?.map(Some).ok_or(errno),
            Err(errno) => Err(errno),
        }
    }

    /// One directory back, which only the text of a link asks for. Above the root is outside.
    fn leave(&mut self) -> Result<(), Errno> {
        self.depth = self.depth.checked_sub(1).ok_or(Errno::EXDEV)?;
        self.here = if self.depth == 0 {
            Parent::Root(self.root)
        } else {
            Parent::Beneath(openat(&self.here, c"..", DIRECTORY, Mode::empty())?)
        };
        self.keeps_to_mount(self.here.as_fd(), c"")
    }

    /// Opens the last component, and hands it out if it is beneath the root.
    fn open_last(&mut self, name: &CStr, flags: OFlag, mode: Mode) -> Result<Last, Errno> {
        let creates = flags.contains(OFlag::O_CREAT);
        // Beforehand, so that hardly ever anything is made, or a device woken, where nothing may be; what counts is
        // what is asked afterwards.
        if creates {
            self.is_beneath()?;
        }
        match self.keeps_to_mount(self.here.as_fd(), name) {
            Err(Errno::ENOENT) => {}
            done => done?,
        }
        let follows = !flags.contains(OFlag::O_NOFOLLOW) && !creates;
        let fd = match openat(&self.here, name, flags | OFlag::O_NOFOLLOW, mode) {
            Ok(fd) => fd,
            Err(errno @ (Errno::ENOTDIR | Errno::ELOOP)) if follows => {
                return self.link(name, true)?.map(Last::Link).ok_or(errno);
            }
            Err(errno) => return Err(errno),
        };
        let stat = fstat(&fd)?;
        if follows && is_link(&stat) {
            return self.link(name, true)?.map(Last::Link).ok_or(Errno::EAGAIN);
        }
        if creates {
            self.is_beneath().inspect_err(|_| self.remove(name, &stat))?;
        } else {
            self.keeps_to_mount(fd.as_fd(), c"")?;
            self.holds(name, &stat)?;
        }
        Ok(Last::Opened(fd))
    }

    /// Whether what was opened as `name` is beneath the root: the directory is, and has the object under that name.
    /// Both are asked twice, one after the other: a directory that is outside while the object is put into it, and
    /// inside again when it is asked for, would have to come and go between each two of four system calls (K43).
    /// In the root itself there is nothing to ask: a descriptor holds it.
    fn holds(&self, name: &CStr, stat: &FileStat) -> Result<(), Errno> {
        if self.depth == 0 {
            return Ok(());
        }
        for _ in 0..2 {
            self.is_beneath()?;
            match fstatat(&self.here, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(now) if identity(&now) == identity(stat) => {}
                // Somebody put another file in its place; what the name means now is found by another try.
                Ok(_) | Err(Errno::ENOENT) => return Err(Errno::EAGAIN),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether `here` is beneath the root now: its `..` lead there.
    fn is_beneath(&self) -> Result<(), Errno> {
        if self.depth == 0 {
            return Ok(());
        }
        let root = identity(&fstat(self.root)?);
        // As many steps back as there were forth, in one call.
        let mut buffer = [0; 3 * 32 + 1];
        if let Some(path) = buffer.get_mut(..3 * self.depth) {
            path.chunks_exact_mut(3).for_each(|step| step.copy_from_slice(b"../"));
            let path = CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::EXDEV)?;
            if identity(&fstatat(&self.here, path, AtFlags::empty())?) == root {
                return Ok(());
            }
        }
        self.climb(root)
    }

    /// As [`is_beneath`](Self::is_beneath) for a directory that lies deep, or has been renamed to another depth. At the
    /// top `..` leads nowhere else; a storm of renames does not make this longer than the bound.
    fn climb(&self, root: Identity) -> Result<(), Errno> {
        let mut at = openat(&self.here, c".", DIRECTORY, Mode::empty())?;
        let mut identity_here = identity(&fstat(&at)?);
        for _ in 0..PATH_MAX {
            if identity_here == root {
                return Ok(());
            }
            at = openat(&at, c"..", DIRECTORY, Mode::empty())?;
            let above = identity(&fstat(&at)?);
            if above == identity_here {
                break;
            }
            identity_here = above;
        }
        Err(Errno::EXDEV)
    }

    /// Takes back what was created in a directory that is outside now, unless somebody has put something else there.
    fn remove(&self, name: &CStr, made: &FileStat) {
        let still = fstatat(&self.here, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if still.is_ok_and(|stat| identity(&stat) == identity(made)) {
            // If that fails, an empty file stays, with the mode that the policy says.
            let _ = unlinkat(&self.here, name, UnlinkatFlags::NoRemoveDir);
        }
    }

    /// The text of the link `name`, if it is one; ELOOP or EXDEV if it is one that is not followed.
    fn link(&mut self, name: &CStr, is_last: bool) -> Result<Option<Vec<u8>>, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let link = openat(&self.here, name, flags, Mode::empty())?;
        self.keeps_to_mount(link.as_fd(), c"")?;
        let stat = fstat(&link)?;
        if !is_link(&stat) {
            return Ok(None);
        }
        self.links += 1;
        if !self.way.links_within || self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if is_last && self.is_a_trap(&stat)? {
            return Err(Errno::EACCES);
        }
        let is_proc = fstatfs(&link)?.filesystem_type() == PROC_SUPER_MAGIC;
        if is_proc || is_nosymfollow(link.as_fd()).map_err(errno_of)? {
            return Err(Errno::ELOOP);
        }
        let target = readlinkat(&link, c"")?.into_vec();
        match target.first() {
            None => Err(Errno::ENOENT),
            Some(b'/') => Err(Errno::EXDEV),
            Some(_) => Ok(Some(target)),
        }
    }

    /// Whether the kernel would follow this link for no privileged process (fs.protected_symlinks): one that another
    /// user has put into a directory such as /tmp.
    fn is_a_trap(&self, link: &FileStat) -> Result<bool, Errno> {
        let directory = fstat(&self.here)?;
        let shared = directory.st_mode & (S_ISVTX | S_IWOTH) == S_ISVTX | S_IWOTH;
        Ok(shared && link.st_uid != geteuid().as_raw() && link.st_uid != directory.st_uid)
    }

    fn keeps_to_mount(&self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        match self.mount {
            Some(mount) if mount_of(directory, name)? != mount => Err(Errno::EXDEV),
            _ => Ok(()),
        }
    }
}

/// Enough to open something in it; nothing is read from it.
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// As the kernel's (path_resolution(7)).
const MAX_LINKS: usize = 40;

type Identity = (libc::dev_t, libc::ino_t);

fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn is_link(stat: &FileStat) -> bool {
    stat.st_mode & S_IFMT == S_IFLNK
}

fn mount_of(directory: BorrowedFd<'_>, name: &CStr) -> Result<u64, Errno> {
    mount_id(directory, name).map_err(errno_of)?.ok_or(Errno::EOPNOTSUPP)
}

fn errno_of(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// What is left of a name, in pieces that the kernel takes as they are.
struct Names {
    fixed: [u8; PATH_MAX],
    /// Once a link was followed: its text, and what came after it.
    longer: Vec<u8>,
    at: usize,
}

struct Step<'n> {
    name: &'n CStr,
    is_last: bool,
    has_slash: bool,
}

impl Names {
    fn new(name: &CStr) -> Self {
        let mut fixed = [0; PATH_MAX];
        let bytes = name.to_bytes_with_nul();
        let len = bytes.len().min(PATH_MAX - 1);
        fixed[..len].copy_from_slice(&bytes[..len]);
        Self { fixed, longer: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> Option<Step<'_>> {
        let bytes = if self.longer.is_empty() { &mut self.fixed[..] } else { &mut self.longer[..] };
        let rest = bytes.get_mut(self.at..)?;
        let len = rest.iter().position(|byte| matches!(byte, b'/' | 0)).filter(|&len| len > 0)?;
        let slashes = rest[len..].iter().take_while(|&&byte| byte == b'/').count();
        let is_last = rest.get(len + slashes).is_none_or(|&byte| byte == 0);
        rest[len..len + slashes].fill(0);
        self.at += len + slashes;
        let name = CStr::from_bytes_until_nul(rest).ok()?;
        Some(Step { name, is_last, has_slash: slashes > 0 })
    }

    /// The text of a link takes the place of the component that was last answered.
    fn put_in_front(&mut self, target: &[u8]) {
        let bytes = if self.longer.is_empty() { &self.fixed[..] } else { &self.longer[..] };
        let rest = bytes.get(self.at..).unwrap_or_default();
        let rest = rest.split(|&byte| byte == 0).next().unwrap_or_default();
        let slash: &[u8] = if rest.is_empty() { b"" } else { b"/" };
        self.longer = [target, slash, rest, b"\0"].concat();
        self.at = 0;
    }
}

//! `[broker]` A name beneath a directory to a descriptor, in a way that nobody can race.
//!
//! Where the kernel has `openat2(2)` it resolves the whole name in one call and vouches for the outcome. Where it has
//! not (Linux before 5.6), or a filter around this process keeps it from us (K15), [`walk`] does the same one component
//! at a time, with the same answers: a symbolic link is ELOOP, what leads out of the directory is EXDEV. Which it is
//! gets decided once, on a directory that is known to be there, and never because of what one file answered.

mod walk;

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use crate::sys::descriptor::mount_id;
use crate::wire::path::PATH_MAX;

/// How names are resolved beneath the directories of a policy.
///
/// Both ways give the same answers and hold against the same races. `openat2` is one system call; the walk, about a
/// dozen for three components, and takes five times as long. They differ in these:
///
/// * While somebody renames directories on the way, the walk may answer EAGAIN or EXDEV for a name that was inside at
///   every moment. What was created is checked by the walk alone.
/// * Where a directory may not be searched by the broker, the walk says EACCES when it is opened as a parent;
///   `openat2`, when something is done in it.
/// * By a rule that follows links, the walk follows none on a proc file system, not even plain ones; and none in a
///   sticky directory that everybody may write, unless this user or the directory's owner made it (EACCES). `openat2`
///   does the latter when `fs.protected_symlinks` is set, and also says EACCES of such a link in a tree without links,
///   where the walk says ELOOP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolver {
    /// By `openat2(2)`: Linux 5.6.
    Openat2,
    /// By `openat(2)`, component after component, with a check from the other end before anything is handed out.
    Walk,
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Openat2 => "openat2",
            Self::Walk => "component walk",
        })
    }
}

/// What a rule says about the way to an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Way {
    /// Follow symbolic links that stay beneath the root. Absolute ones lead out, and magic ones are never followed.
    pub(crate) links_within: bool,
    /// Cross no mount point, not even one of the same file system.
    pub(crate) one_file_system: bool,
}

/// The directory that holds an object.
#[derive(Debug)]
pub(crate) enum Parent<'r> {
    /// The root itself.
    Root(BorrowedFd<'r>),
    /// A directory beneath it, as O_PATH.
    Beneath(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Beneath(directory) => directory.as_fd(),
        }
    }
}

impl Resolver {
    /// Asks a directory that is known to be there. ENOSYS and EPERM are what kernels and filters say of an `openat2`
    /// that is not to be had, and a filter's author can choose EACCES; as that can be the directory's own answer, a
    /// plain `openat` of the same has to succeed.
    ///
    /// # Errors
    /// That of the directory.
    pub(crate) fn probe(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH);
        match openat2(directory, c".", how) {
            Ok(_) => Ok(Self::Openat2),
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => {
                openat(directory, c".", flags, Mode::empty())?;
                Ok(Self::Walk)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Whether mounts can be told apart here (statx(2) with STATX_MNT_ID: Linux 5.8). Without that the walk refuses
    /// every name of a rule that keeps to one file system, with EOPNOTSUPP; `openat2` does not need it.
    pub(crate) fn probe_mount_ids(directory: BorrowedFd<'_>) -> bool {
        matches!(mount_id(directory, c""), Ok(Some(_)))
    }

    /// Opens `name`, which has plain components only, or is `.` for the root itself.
    ///
    /// `flags` are those of open(2), with O_EXCL wherever O_CREAT is, and without O_TRUNC and O_TMPFILE; O_CLOEXEC is
    /// added. O_PATH with O_NOFOLLOW opens a link that is the last component; other links are refused unless the rule
    /// follows them. `mode` is for what is created, less the umask. May wait as open(2) does.
    ///
    /// # Errors
    /// ELOOP for a link (or more than 40 of them), EXDEV for what leads out of the root, or off its mount where the
    /// rule keeps to that, EAGAIN when renames elsewhere kept the answer from being certain 64 times, EINVAL for a name
    /// or flags of another form; otherwise open(2)'s. Nothing stays open, and a file that was created is removed again
    /// when it turns out to be outside.
    pub(crate) fn open(
        self,
        root: BorrowedFd<'_>,
        name: &[u8],
        flags: OFlag,
        mode: Mode,
        way: Way,
    ) -> Result<OwnedFd, Errno> {
        let mut buffer = [0; PATH_MAX];
        let name = terminated(name, &mut buffer)?;
        // What cannot be taken back waits until the object is known to be inside: the caller truncates.
        let unfit = flags.contains(OFlag::O_TMPFILE) || flags.contains(OFlag::O_TRUNC);
        if unfit || (flags.contains(OFlag::O_CREAT) && !flags.contains(OFlag::O_EXCL)) {
            return Err(Errno::EINVAL);
        }
        let flags = flags | OFlag::O_CLOEXEC;
        match self {
            Self::Openat2 => beneath(root, name, flags, mode, way),
            Self::Walk => walk::open(root, name, flags, mode, way),
        }
    }

    /// The directory that holds the last component of `name`, and that component: for what is done by name and not by
    /// descriptor (mkdirat, unlinkat, renameat, readlinkat, bind). The last component is not looked at. The directory
    /// was beneath the root when this function looked; it may be renamed afterwards, as with any descriptor.
    ///
    /// # Errors
    /// As [`open`](Self::open); EINVAL for the root itself, which has no parent here.
    pub(crate) fn parent<'b>(
        self,
        root: BorrowedFd<'b>,
        name: &[u8],
        way: Way,
        buffer: &'b mut [u8; PATH_MAX],
    ) -> Result<(Parent<'b>, &'b CStr), Errno> {
        if name == b"." {
            return Err(Errno::EINVAL);
        }
        terminated(name, buffer)?;
        let Some(slash) = name.iter().rposition(|&byte| byte == b'/') else {
            return Ok((Parent::Root(root), string(buffer)?));
        };
        let (directory, last) = buffer.split_at_mut(slash + 1);
        directory[slash] = 0;
        let directory = string(directory)?;
        let parent = match self {
            Self::Openat2 => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                Parent::Beneath(beneath(root, directory, flags, Mode::empty(), way)?)
            }
            Self::Walk => walk::directory(root, directory, way)?,
        };
        Ok((parent, string(last)?))
    }
}

fn beneath(root: BorrowedFd<'_>, name: &CStr, flags: OFlag, mode: Mode, way: Way) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    resolve.set(ResolveFlag::RESOLVE_NO_SYMLINKS, !way.links_within);
    resolve.set(ResolveFlag::RESOLVE_NO_XDEV, way.one_file_system);
    // A mode where nothing is made is EINVAL.
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    // A rename elsewhere can make the kernel unsure whether the walk stayed beneath the root; it then asks for another
    // try.
    for _ in 0..TRIES {
        match openat2(root, name, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => return done,
        }
    }
    Err(Errno::EAGAIN)
}

/// Bounds the broker's work for one request during a storm of renames. Without `..` in a path, the kernel was never
/// seen to ask even once (K13).
const TRIES: usize = 64;

/// The name as the kernel takes it, if it has the form that no resolver has to think about. The policy has seen to that
/// already; this is the last place where a `..` or a slash at the end could be stopped (K11).
fn terminated<'b>(name: &[u8], buffer: &'b mut [u8; PATH_MAX]) -> Result<&'b CStr, Errno> {
    if name.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let odd = |component: &[u8]| matches!(component, b"" | b"." | b"..") || component.contains(&0);
    if name != b"." && name.split(|&byte| byte == b'/').any(odd) {
        return Err(Errno::EINVAL);
    }
    buffer[..name.len()].copy_from_slice(name);
    buffer[name.len()] = 0;
    string(buffer)
}

fn string(bytes: &[u8]) -> Result<&CStr, Errno> {
    CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::EINVAL)
}

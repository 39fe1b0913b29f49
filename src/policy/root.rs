//! `[broker]` The directories of a policy, opened when it is built. The only I/O of the policy.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, readlink};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::info::Place;
use crate::error::PolicyError;
use crate::resolve::Resolver;

/// A pinned directory: whatever happens to its name, this is the directory that the policy meant. If the rule asks for
/// it, it is opened by its name each time instead.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    device: libc::dev_t,
    resolver: Resolver,
    /// The name to open it by for each request.
    again: Option<PathBuf>,
}

impl Root {
    pub(crate) fn resolver(&self) -> Resolver {
        self.resolver
    }

    /// Whether it can be told where another file system begins.
    pub(super) fn tells_mounts(&self) -> bool {
        self.resolver == Resolver::Openat2 || Resolver::probe_mount_ids(self.directory.as_fd())
    }

    /// The directory for one request.
    pub(crate) fn open(&self) -> Result<Opened<'_>, Errno> {
        match &self.again {
            None => Ok(Opened { directory: Directory::Pinned(self.directory.as_fd()), device: self.device }),
            Some(path) => {
                let directory = open(path, FLAGS, Mode::empty())?;
                let device = fstat(&directory)?.st_dev;
                // When the policy was built it was none; whoever can rename above it may have changed that.
                if fstatfs(&directory)?.filesystem_type() == PROC_SUPER_MAGIC {
                    return Err(Errno::EACCES);
                }
                Ok(Opened { directory: Directory::Again(directory), device })
            }
        }
    }
}

const FLAGS: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A rule's directory, for one request.
pub(crate) struct Opened<'r> {
    directory: Directory<'r>,
    /// The file system on which it is.
    pub(crate) device: libc::dev_t,
}

enum Directory<'r> {
    Pinned(BorrowedFd<'r>),
    Again(OwnedFd),
}

impl AsFd for Opened<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.directory {
            Directory::Pinned(fd) => *fd,
            Directory::Again(fd) => fd.as_fd(),
        }
    }
}

/// The directories of a policy while it is built: each is opened once, however many rules are about it.
#[derive(Debug, Default)]
pub(super) struct Roots {
    opened: HashMap<(PathBuf, bool), Arc<Root>>,
    resolver: Option<Resolver>,
}

impl Roots {
    /// How names are resolved, if any rule is about names.
    pub(super) fn resolver(&self) -> Option<Resolver> {
        self.resolver
    }

    /// The root of a rule for what is beneath `path`.
    pub(super) fn of_tree(&mut self, path: &Path, again: bool, place: &Place) -> Result<Arc<Root>, PolicyError> {
        let root = self.pin(path, path, again, place)?;
        if is_procfs(&root).unwrap_or(true) {
            let why = "a tree of /proc holds the memory and secrets of other processes, the broker's among them; name single files";
            return Err(PolicyError::Unfit { place: place.clone(), what: path.display().to_string(), why: why.into() });
        }
        Ok(root)
    }

    /// The directory of a scratch rule.
    pub(super) fn of_scratch(&mut self, path: &Path, place: &Place) -> Result<Arc<Root>, PolicyError> {
        self.pin(path, path, false, place)
    }

    /// The root of a rule for exactly `path`: the directory that holds it. A symbolic link of that name is in order
    /// where only the link itself is asked about.
    pub(super) fn of_file(
        &mut self,
        path: &Path,
        again: bool,
        links: bool,
        place: &Place,
    ) -> Result<Arc<Root>, PolicyError> {
        let root = self.pin(path, path.parent().unwrap_or(path), again, place)?;
        let unfit = |why: &'static str| {
            let (place, what) = (place.clone(), path.display().to_string());
            PolicyError::Unfit { place, what, why: why.into() }
        };
        let name = path.file_name().unwrap_or(OsStr::new("/"));
        let found = fstatat(&root.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let is_link = found.is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK);
        if is_link && !links {
            return Err(unfit("it is a symbolic link, which no rule follows; name what it points to"));
        }
        let of_a_process = || is_number(name.as_bytes()) || is_of_a_process(&root).unwrap_or(true);
        if again && is_procfs(&root).unwrap_or(true) {
            return Err(unfit("a directory of /proc is not opened anew for each request: it is always the same"));
        }
        if is_procfs(&root).unwrap_or(true) && of_a_process() {
            return Err(unfit(
                "the directories of processes in /proc hold their memory and secrets, and /proc/self are the broker's",
            ));
        }
        Ok(root)
    }

    /// The directory itself, for questions about it alone.
    pub(super) fn leading(&mut self, path: &Path, place: &Place) -> Result<Arc<Root>, PolicyError> {
        self.pin(path, path, false, place)
    }

    /// Opens `directory` for a rule about `path`, following symbolic links, as O_PATH: it can be opened beneath, and
    /// neither read nor listed.
    fn pin(&mut self, path: &Path, directory: &Path, again: bool, place: &Place) -> Result<Arc<Root>, PolicyError> {
        if let Some(root) = self.opened.get(&(directory.to_owned(), again)) {
            return Ok(root.clone());
        }
        let fail = |call| {
            move |source: io::Error| PolicyError::Open {
                place: place.clone(),
                path: path.to_owned(),
                opened: directory.to_owned(),
                call,
                source,
            }
        };
        let fd = open(directory, FLAGS, Mode::empty()).map_err(|errno| fail("open")(errno.into()))?;
        let device = fstat(&fd).map_err(|errno| fail("fstat")(errno.into()))?.st_dev;
        let resolver = match self.resolver {
            Some(resolver) => resolver,
            None => probe().map_err(|errno| fail("openat2 of /, or what stands in for it,")(errno.into()))?,
        };
        self.resolver = Some(resolver);
        let root = Arc::new(Root { directory: fd, device, resolver, again: again.then(|| directory.to_owned()) });
        self.opened.insert((directory.to_owned(), again), root.clone());
        Ok(root)
    }
}

/// Asked of a directory that everybody may search: what one directory answers says nothing of the kernel (K15).
fn probe() -> Result<Resolver, Errno> {
    Resolver::probe(open("/", FLAGS, Mode::empty())?.as_fd())
}

fn is_procfs(root: &Root) -> io::Result<bool> {
    Ok(fstatfs(&root.directory)?.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Whether the directory is a process's, or inside one: those have numbers for names, wherever the proc file system is
/// mounted.
fn is_of_a_process(root: &Root) -> io::Result<bool> {
    let path = readlink(format!("/proc/self/fd/{}", root.directory.as_raw_fd()).as_str())?;
    Ok(path.as_bytes().split(|&byte| byte == b'/').any(is_number))
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// The last component of a plain absolute path.
pub(super) fn file_name(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

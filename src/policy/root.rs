//! `[broker]` The directories of a policy, opened once when it is built. The only I/O of the policy.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::error::PolicyError;
use crate::open::{Resolver, Way};

/// A pinned directory: whatever happens to its name, this is the directory that the policy meant.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    device: libc::dev_t,
    resolver: Resolver,
    way: Way,
}

impl Root {
    /// Opens `directory` for a rule about `path`, following symbolic links, as O_PATH: it can be opened beneath, and
    /// neither read nor listed.
    fn pin(path: &Path, directory: &Path) -> Result<Self, PolicyError> {
        let fail = |call| {
            move |errno: Errno| PolicyError::Open {
                path: path.to_owned(),
                opened: directory.to_owned(),
                call,
                source: errno.into(),
            }
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(directory, flags, Mode::empty()).map_err(fail("open"))?;
        let device = fstat(&fd).map_err(fail("fstat"))?.st_dev;
        let resolver = Resolver::probe(fd.as_fd()).map_err(fail("openat2"))?;
        Ok(Self { directory: fd, device, resolver, way: Way::default() })
    }

    /// The root of a rule for everything beneath `path`.
    pub(super) fn of_tree(path: &Path) -> Result<Self, PolicyError> {
        let root = Self::pin(path, path)?;
        if root.is_procfs().unwrap_or(true) {
            return Err(PolicyError::Unfit {
                what: path.display().to_string(),
                why: "a tree of /proc holds the memory and secrets of other processes, the broker's among them; name single files",
            });
        }
        Ok(root)
    }

    /// The directory of a scratch rule.
    pub(super) fn of_scratch(path: &Path) -> Result<Self, PolicyError> {
        Self::pin(path, path)
    }

    /// The root of a rule for exactly the file `path`: the directory that holds it.
    pub(super) fn of_file(path: &Path) -> Result<Self, PolicyError> {
        let root = Self::pin(path, path.parent().unwrap_or(path))?;
        let name = path.file_name().unwrap_or(OsStr::new("/"));
        match fstatat(&root, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK => {
                Err(PolicyError::Unfit {
                    what: path.display().to_string(),
                    why: "it is a symbolic link, which no rule follows; name what it points to",
                })
            }
            _ => Ok(root),
        }
    }

    /// The file system on which the directory is.
    pub(crate) fn device(&self) -> libc::dev_t {
        self.device
    }

    fn is_procfs(&self) -> io::Result<bool> {
        Ok(fstatfs(&self.directory)?.filesystem_type() == PROC_SUPER_MAGIC)
    }

    /// How names beneath it are resolved.
    pub(crate) fn resolver(&self) -> Resolver {
        self.resolver
    }

    /// What the rule says about the way.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// The same directory under a rule's terms for the way, where they can be kept.
    pub(super) fn on_way(self, path: &Path, way: Way) -> Result<Self, PolicyError> {
        if way.one_file_system && self.resolver == Resolver::Walk && !Resolver::probe_mount_ids(self.as_fd()) {
            return Err(PolicyError::Unfit {
                what: path.display().to_string(),
                why: "neither openat2 nor mount ids are to be had here, so it cannot keep to one file system; it needs Linux 5.8",
            });
        }
        Ok(Self { way, ..self })
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The last component of a plain absolute path.
pub(super) fn file_name(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

//! `[worker]` What the broker tells, and what a service of the daemon's own gives.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use crate::wire::Entry;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// Its name, without the directory's.
    pub name: OsString,
    /// The inode's number.
    pub inode: u64,
    /// Its type, as getdents(2) says it: DT_REG (8), DT_DIR (4), DT_LNK (10), ...; DT_UNKNOWN (0) where the file system
    /// does not tell.
    pub file_type: u8,
}

impl DirEntry {
    /// Whether it is a regular file, as far as the file system tells.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file_type == libc::DT_REG
    }

    /// Whether it is a directory, as far as the file system tells.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type == libc::DT_DIR
    }

    /// Whether it is a symbolic link, as far as the file system tells.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.file_type == libc::DT_LNK
    }
}

impl From<Entry<'_>> for DirEntry {
    fn from(entry: Entry<'_>) -> Self {
        let Entry { inode, file_type, name } = entry;
        Self { name: OsString::from_vec(name.to_vec()), inode, file_type }
    }
}

/// What a service of the daemon's own has given.
#[derive(Debug)]
#[non_exhaustive]
pub struct Called {
    /// What it said.
    pub bytes: Vec<u8>,
    /// Its descriptors, close-on-exec. What they are is for the service to say:
    /// [`typed`](crate::typed) asks the kernel.
    pub fds: Vec<OwnedFd>,
}

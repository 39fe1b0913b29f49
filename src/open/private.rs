//! `[broker]` A directory of the broker's own for the length of one change, in which nobody comes between two steps:
//! others who may write to the directory around it can rename it, but neither see nor change what is inside.

use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat, umask};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::sys::directory::unshare_umask;

/// Dropped, it is removed, if it is empty and still has its name.
pub(super) struct Private<'d> {
    parent: BorrowedFd<'d>,
    name: [u8; NAME],
    /// O_PATH.
    directory: OwnedFd,
}

impl<'d> Private<'d> {
    /// In this directory. `None` where it cannot be made so that only the broker's user can write to it. What stands
    /// under the name by the time that it is opened can be another one that somebody has put there: then it is as
    /// private, and [`spare`](Self::spare) is as free in it.
    pub(super) fn new(parent: BorrowedFd<'d>) -> Result<Option<Self>, Errno> {
        let made = Self::make(parent)?;
        if made.is_searchable()? {
            return made.if_private();
        }
        // The umask takes bits of the owner's away. It is one for all threads that share it: so of a thread that does
        // not, and that ends before anything else can be done with it.
        drop(made);
        let apart = || {
            unshare_umask().map_err(|error| super::errno(&error))?;
            umask(Mode::empty());
            Self::make(parent)
        };
        let made = thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, apart).map_err(|error| super::errno(&error))?;
            thread.join().unwrap_or(Err(Errno::EIO))
        })?;
        made.if_private()
    }

    fn make(parent: BorrowedFd<'d>) -> Result<Self, Errno> {
        let name = random_name();
        let path = CStr::from_bytes_with_nul(&name).map_err(|_| Errno::EINVAL)?;
        mkdirat(parent, path, Mode::S_IRWXU)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = openat(parent, path, flags, Mode::empty()).inspect_err(|_| {
            let _ = unlinkat(parent, path, UnlinkatFlags::RemoveDir);
        })?;
        Ok(Self { parent, name, directory })
    }

    fn is_searchable(&self) -> Result<bool, Errno> {
        Ok(fstat(&self.directory)?.st_mode & libc::S_IRWXU == libc::S_IRWXU)
    }

    fn if_private(self) -> Result<Option<Self>, Errno> {
        let stat = fstat(&self.directory)?;
        // An access control list cannot give more to anybody else than the bits of the group say.
        let private = stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o077 == 0;
        Ok((private && self.is_searchable()?).then_some(self))
    }

    /// A name in it that nothing has: that of the directory itself, which nobody guesses.
    pub(super) fn spare(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.name).unwrap_or(c"-")
    }
}

impl AsFd for Private<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(self.parent, self.spare(), UnlinkatFlags::RemoveDir);
    }
}

/// `.fdbroker-`, sixteen digits, and a NUL.
const NAME: usize = 27;

/// The hasher's keys are of the kernel's random numbers, and others for each.
fn random_name() -> [u8; NAME] {
    let mut name = [0; NAME];
    let mut room = &mut name[..NAME - 1];
    // It has room for exactly that.
    let _ = write!(room, ".fdbroker-{:016x}", RandomState::new().build_hasher().finish());
    name
}

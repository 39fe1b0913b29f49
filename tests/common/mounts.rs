//! Mounts of a test's own beneath a directory that is deleted when it ends. They are gone before that, also when an
//! assertion fails: who deletes a directory with /proc or /etc in it deletes what is in those.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A mount namespace of this thread's own, and of those that it starts, of which the system sees nothing. Who is not
/// root gets a user namespace as well, which takes a process without further threads.
pub fn own_mounts() -> nix::Result<()> {
    let user = if super::is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    unshare(user | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// Something that is mounted, until this is dropped: in the thread that mounted it, which may be the only one that sees
/// it. It borrows the directory's guard, so that what forgets the order does not compile.
#[must_use = "dropped, it is unmounted"]
pub struct Mounted<'directory> {
    place: PathBuf,
    directory: PhantomData<&'directory TempDir>,
    /// Neither `Send` nor `Sync`.
    thread: PhantomData<*const ()>,
}

impl<'directory> Mounted<'directory> {
    /// A file or a directory once more, with what is mounted beneath it.
    pub fn again(directory: &'directory TempDir, what: &Path, place: &Path) -> nix::Result<Self> {
        Self::new(directory, place, Some(what), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
    }

    /// A file system of a kind. `data` is what only that kind understands.
    pub fn of_kind(
        directory: &'directory TempDir,
        place: &Path,
        kind: &str,
        flags: MsFlags,
        data: Option<&str>,
    ) -> nix::Result<Self> {
        Self::new(directory, place, None, Some(kind), flags, data)
    }

    fn new(
        directory: &'directory TempDir,
        place: &Path,
        what: Option<&Path>,
        kind: Option<&str>,
        flags: MsFlags,
        data: Option<&str>,
    ) -> nix::Result<Self> {
        let place = place.canonicalize().expect("a place to mount upon");
        let deleted = directory.path().canonicalize().expect("the directory");
        assert!(place.starts_with(&deleted), "{} is not in {}", place.display(), deleted.display());
        mount(Some(what.unwrap_or("test".as_ref())), &place, kind, flags, data)?;
        Ok(Self { place, directory: PhantomData, thread: PhantomData })
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let Err(errno) = umount2(&self.place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) else { return };
        // Nothing more is done by this process, least of all what would come next: to delete the directory.
        eprintln!("{} could not be unmounted: {errno}", self.place.display());
        std::process::abort();
    }
}

//! `[broker]` Names that are made, removed and changed. There are no descriptors for that: each is done by name in the
//! directory that holds it, which was found beneath the rule's directory a moment before.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, geteuid, linkat, unlinkat};

use super::file::has_forbidden_links;
use super::private::Private;
use super::socket::ProcPath;
use super::{NOT_OF_THE_KIND, errno, failed};
use crate::policy::{At, Terms};
use crate::sys::directory;
use crate::wire::Refusal;
use crate::wire::path::PATH_MAX;

/// It is made in a directory of the broker's own, where nobody can put another in its place, so that no other can be
/// what gets the mode: mkdirat(2) takes off it what the umask says, and adds the set-group-id bit of the directory
/// above. Where there is no such directory, or where the file system cannot move it without replacing what is there, it
/// has the mode that mkdirat(2) gives it, which is never a wider one.
pub(super) fn mkdir(at: At<'_>, mode: u32) -> Result<(), Refusal> {
    let mode = Mode::from_bits_truncate(mode);
    in_directory(at, |parent, name| {
        if let Ok(_there) = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            return Err(Errno::EEXIST);
        }
        let Some(private) = Private::new(parent)? else { return mkdirat(parent, name, mode) };
        match mkdir_by(&private, parent, name, mode) {
            Err(Errno::EINVAL) => mkdirat(parent, name, mode),
            done => done,
        }
    })
}

/// EINVAL where the file system does not know RENAME_NOREPLACE.
fn mkdir_by(private: &Private<'_>, parent: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<(), Errno> {
    let spare = private.spare();
    mkdirat(private, spare, Mode::S_IRWXU)?;
    let placed = (|| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(private, spare, flags, Mode::empty())?;
        // Who does not own a directory's bits to write to it cannot move it (its `..` changes).
        set_mode(&made, mode | Mode::S_IRWXU)?;
        directory::rename_new(private.as_fd(), spare, parent, name).map_err(|error| errno(&error))?;
        Ok(made)
    })();
    let made = placed.inspect_err(|_| {
        let _ = unlinkat(private, spare, UnlinkatFlags::RemoveDir);
    })?;
    if mode.contains(Mode::S_IRWXU) { Ok(()) } else { set_mode(&made, mode) }
}

/// Of the very directory that is open as O_PATH.
fn set_mode(directory: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    fchmodat(AT_FDCWD, ProcPath::of(directory.as_fd(), None)?.as_os_str(), mode, FchmodatFlags::FollowSymlink)
}

pub(super) fn unlink(at: At<'_>) -> Result<(), Refusal> {
    in_directory(at, |parent, name| unlinkat(parent, name, UnlinkatFlags::NoRemoveDir))
}

pub(super) fn rmdir(at: At<'_>) -> Result<(), Refusal> {
    in_directory(at, |parent, name| unlinkat(parent, name, UnlinkatFlags::RemoveDir))
}

/// Only what is of the kinds of both rules is renamed, so never a directory: with a directory, what a rule denies
/// inside would get a name that none denies. rename(2) takes names, and whoever may write to the directory can put
/// another object under one after the look. So the object that was judged is given its new name by its descriptor
/// (linkat(2)), and then loses the old one; for a moment it has both.
pub(super) fn rename(from: At<'_>, to: At<'_>, terms: [&Terms; 2]) -> Result<(), Refusal> {
    let (mut old_buffer, mut new_buffer) = ([0; PATH_MAX], [0; PATH_MAX]);
    let (old_root, new_root) = (from.root.open().map_err(failed)?, to.root.open().map_err(failed)?);
    let resolve = |at: At<'_>| at.root.resolver();
    let (old_parent, old_name) =
        resolve(from).parent(old_root.as_fd(), from.name, from.way, &mut old_buffer).map_err(failed)?;
    let (new_parent, new_name) =
        resolve(to).parent(new_root.as_fd(), to.name, to.way, &mut new_buffer).map_err(failed)?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let object = openat(&old_parent, old_name, flags, Mode::empty()).map_err(failed)?;
    let stat = fstat(&object).map_err(failed)?;
    let replaced = match fstatat(&new_parent, new_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => None,
        replaced => Some(replaced.map_err(failed)?),
    };
    let fits = |mode| terms.into_iter().all(|terms| terms.kinds.contain(mode));
    if !fits(stat.st_mode) || replaced.is_some_and(|stat| !fits(stat.st_mode)) {
        return Err(NOT_OF_THE_KIND);
    }
    // Under its new name another rule may open it, which does not look.
    if terms.into_iter().any(|terms| has_forbidden_links(terms, &stat)) {
        return Err(NOT_OF_THE_KIND);
    }
    // As rename(2) does: two names of one object both stay, and so does the one if they are the same.
    if replaced.is_some_and(|there| is_same(&there, &stat)) {
        return Ok(());
    }
    let old = Name { parent: old_parent.as_fd(), name: old_name };
    let new = Name { parent: new_parent.as_fd(), name: new_name };
    move_object(&object, &stat, old, new, replaced.is_some()).map_err(failed)
}

/// One name in one directory.
#[derive(Clone, Copy)]
struct Name<'n> {
    parent: BorrowedFd<'n>,
    name: &'n CStr,
}

impl Name<'_> {
    fn is(self, object: &FileStat) -> bool {
        fstatat(self.parent, self.name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|there| is_same(&there, object))
    }

    fn remove(self) -> Result<(), Errno> {
        unlinkat(self.parent, self.name, UnlinkatFlags::NoRemoveDir)
    }
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The old name is looked at before it is removed. Whoever puts another object there between the two could have removed
/// that one as well; a directory is not removed.
fn move_object(object: &OwnedFd, stat: &FileStat, old: Name<'_>, new: Name<'_>, replaces: bool) -> Result<(), Errno> {
    if !can_lose(old, stat)? {
        return move_name(old, new);
    }
    let named = match if replaces { Err(Errno::EEXIST) } else { link(object, new) } {
        Err(Errno::EEXIST) => replace(object, new),
        done => done,
    };
    match named {
        // Not this file system, not this file (fs.protected_hardlinks), or not this often.
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => return move_name(old, new),
        named => named?,
    }
    if !old.is(stat) {
        return Ok(());
    }
    match old.remove() {
        Err(Errno::ENOENT) => Ok(()),
        removed => removed.inspect_err(|_| {
            if !replaces && new.is(stat) {
                let _ = new.remove();
            }
        }),
    }
}

/// Whether the broker may take the old name away: asked before the object has the new one. Where the directory is
/// sticky and neither it nor the object is the broker's, only the kernel knows.
fn can_lose(old: Name<'_>, object: &FileStat) -> Result<bool, Errno> {
    faccessat(old.parent, c".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)?;
    let (parent, own) = (fstat(old.parent)?, geteuid().as_raw());
    let sticky = parent.st_mode & libc::S_ISVTX != 0;
    Ok(!sticky || own == 0 || own == parent.st_uid || own == object.st_uid)
}

/// Another name for what is open as O_PATH, whatever has its old name by now. Needs /proc (ENOENT without). It is never
/// a directory's: EPERM.
fn link(object: &OwnedFd, new: Name<'_>) -> Result<(), Errno> {
    linkat(AT_FDCWD, ProcPath::of(object.as_fd(), None)?.as_os_str(), new.parent, new.name, AtFlags::AT_SYMLINK_FOLLOW)
}

/// In one step, so that whoever opens the new name finds the one or the other. rename(2) replaces no directory by
/// anything else; a link or a socket that somebody has put there after the look is lost, as it would be if they had
/// removed it themselves.
fn replace(object: &OwnedFd, new: Name<'_>) -> Result<(), Errno> {
    let private = Private::new(new.parent)?.ok_or(Errno::EPERM)?;
    let spare = Name { parent: private.as_fd(), name: private.spare() };
    link(object, spare)?;
    let replaced = renameat(spare.parent, spare.name, new.parent, new.name);
    // It is still there if that failed, or if the new name was the object's already.
    let _ = spare.remove();
    replaced
}

/// By name: only where nobody but the broker's user and root can have put anything else under the old one, otherwise
/// EPERM. (A worker can put an empty directory there, in which there is nothing that it has not made.)
fn move_name(old: Name<'_>, new: Name<'_>) -> Result<(), Errno> {
    let parent = fstat(old.parent)?;
    let trusted = [0, geteuid().as_raw()].contains(&parent.st_uid);
    // An access control list cannot give more to anybody else than the bits of the group say.
    if !trusted || parent.st_mode & 0o022 != 0 {
        return Err(Errno::EPERM);
    }
    renameat(old.parent, old.name, new.parent, new.name)
}

fn in_directory(at: At<'_>, act: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<(), Errno>) -> Result<(), Refusal> {
    let (mut buffer, root) = ([0; PATH_MAX], at.root.open().map_err(failed)?);
    let (parent, name) = at.root.resolver().parent(root.as_fd(), at.name, at.way, &mut buffer).map_err(failed)?;
    act(parent.as_fd(), name).map_err(failed)
}

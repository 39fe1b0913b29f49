//! `[broker]` Names that are made, removed and changed. There are no descriptors for that: each is done by name in the
//! directory that holds it, which was found beneath the rule's directory a moment before.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::file::has_forbidden_links;
use super::{NOT_OF_THE_KIND, failed};
use crate::policy::{At, Terms};
use crate::wire::Refusal;
use crate::wire::path::PATH_MAX;

/// The mode is set again because the broker's umask took bits off it; on the directory that was made, unless somebody
/// has put another in its place, who then has a directory of their own with this mode.
pub(super) fn mkdir(at: At<'_>, mode: u32) -> Result<(), Refusal> {
    let mode = Mode::from_bits_truncate(mode);
    in_directory(at, |parent, name| {
        mkdirat(parent, name, mode)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(parent, name, flags, Mode::empty())?;
        let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
        let stat = nix::sys::stat::fstat(&made)?;
        if stat.st_mode & 0o7777 == mode.bits() || stat.st_uid != nix::unistd::geteuid().as_raw() {
            return Ok(());
        }
        fchmodat(nix::fcntl::AT_FDCWD, through.as_str(), mode, FchmodatFlags::FollowSymlink)
    })
}

pub(super) fn unlink(at: At<'_>) -> Result<(), Refusal> {
    in_directory(at, |parent, name| unlinkat(parent, name, UnlinkatFlags::NoRemoveDir))
}

pub(super) fn rmdir(at: At<'_>) -> Result<(), Refusal> {
    in_directory(at, |parent, name| unlinkat(parent, name, UnlinkatFlags::RemoveDir))
}

/// Only what is of the kinds of both rules is renamed, so never a directory: with a directory, what a rule denies inside
/// would get a name that none denies. Between the look and the renaming somebody can put a directory there: who may do
/// that in the file system does not need the broker for it, and a worker has no way but this one, which renames none,
/// and to make an empty one, in which there is nothing that it has not put there.
pub(super) fn rename(from: At<'_>, to: At<'_>, terms: [&Terms; 2]) -> Result<(), Refusal> {
    let (mut old_buffer, mut new_buffer) = ([0; PATH_MAX], [0; PATH_MAX]);
    let (old_root, new_root) = (from.root.open().map_err(failed)?, to.root.open().map_err(failed)?);
    let resolve = |at: At<'_>| at.root.resolver();
    let (old_parent, old_name) =
        resolve(from).parent(old_root.as_fd(), from.name, from.way, &mut old_buffer).map_err(failed)?;
    let (new_parent, new_name) =
        resolve(to).parent(new_root.as_fd(), to.name, to.way, &mut new_buffer).map_err(failed)?;
    let old = fstatat(&old_parent, old_name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
    let replaced = match fstatat(&new_parent, new_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => None,
        replaced => Some(replaced.map_err(failed)?),
    };
    let fits = |mode| terms.into_iter().all(|terms| terms.kinds.contain(mode));
    if !fits(old.st_mode) || replaced.is_some_and(|stat| !fits(stat.st_mode)) {
        return Err(NOT_OF_THE_KIND);
    }
    // Under its new name another rule may open it, which does not look.
    if terms.into_iter().any(|terms| has_forbidden_links(terms, &old)) {
        return Err(NOT_OF_THE_KIND);
    }
    renameat(&old_parent, old_name, &new_parent, new_name).map_err(failed)
}

fn in_directory(at: At<'_>, act: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<(), Errno>) -> Result<(), Refusal> {
    let (mut buffer, root) = ([0; PATH_MAX], at.root.open().map_err(failed)?);
    let (parent, name) = at.root.resolver().parent(root.as_fd(), at.name, at.way, &mut buffer).map_err(failed)?;
    act(parent.as_fd(), name).map_err(failed)
}

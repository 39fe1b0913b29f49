//! `[broker -> worker]` A root directory of the new process's own, in its mount namespace.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use super::calls::{self, Attributes};
use super::step::Step;
use crate::sys::call::Errno;

/// Something in the child's root. The paths are relative to it, and what stands above them has come before.
#[derive(Debug)]
pub(crate) enum Entity {
    Directory(CString),
    File(CString),
    Link {
        path: CString,
        target: CString,
    },
    /// What is at `source` now, read-only, with what is mounted beneath it; where there is no mount_setattr(2), without.
    Bind {
        path: CString,
        source: CString,
        /// Whether it is a character device, which can then be used.
        is_device: bool,
    },
}

/// Makes it the root. `begin` is told of each step, and of which entity it is taken for.
pub(super) fn make(root: &[Entity], begin: impl Fn(Step, usize)) -> Result<(), Errno> {
    begin(Step::PrivateMounts, 0);
    calls::make_mounts_private()?;
    begin(Step::EmptyRoot, 0);
    let top = empty_file_system()?;
    // What is mounted on the root is not seen by look-ups that begin there: the old root's files are still found.
    calls::move_mount(top, None, c"/")?;
    if !root.is_empty() {
        // The modes of what is made here are not the parent's umask's business.
        let umask = calls::umask(0)?;
        for (which, entity) in root.iter().enumerate() {
            begin(Step::Bind, which);
            put(top, entity)?;
        }
        calls::umask(umask)?;
    }
    begin(Step::ReadOnlyRoot, 0);
    make_read_only(top)?;
    begin(Step::PivotRoot, 0);
    calls::fchdir(top)?;
    // The new root is put in the place of the old one, which then lies on top of it and is taken away.
    calls::pivot_root(c".", c".")?;
    calls::detach(c".")?;
    calls::close(top)
}

/// Its root, mounted nowhere yet.
fn empty_file_system() -> Result<RawFd, Errno> {
    let context = calls::fsopen_tmpfs()?;
    calls::fsconfig_set(context, c"mode", c"0755")?;
    calls::fsconfig_create(context)?;
    let top = calls::fsmount(context, OF_THE_ROOT)?;
    calls::close(context)?;
    Ok(top)
}

const OF_THE_ROOT: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);

fn make_read_only(top: RawFd) -> Result<(), Errno> {
    match calls::restrict_mount(top, Attributes::READ_ONLY) {
        Err(MISSING) => {
            calls::fchdir(top)?;
            calls::remount(c".", OF_THE_ROOT.and(Attributes::READ_ONLY))
        }
        done => done,
    }
}

/// Before Linux 5.12 there is no mount_setattr(2), and some filters hide it.
const MISSING: Errno = Errno(libc::ENOSYS);

fn put(top: RawFd, entity: &Entity) -> Result<(), Errno> {
    match entity {
        Entity::Directory(path) => calls::mkdir(top, path, 0o755),
        Entity::File(path) => calls::make_file(top, path, 0o444),
        Entity::Link { path, target } => calls::symlink(target, top, path),
        Entity::Bind { path, source, is_device } => {
            let attributes = Attributes::READ_ONLY.and(Attributes::NO_SUID);
            let attributes = if *is_device { attributes } else { attributes.and(Attributes::NO_DEVICES) };
            let tree = calls::open_tree(source, true)?;
            match calls::restrict_mount(tree, attributes) {
                Err(MISSING) => {
                    calls::close(tree)?;
                    return bind_one(top, path, source, attributes);
                }
                done => done?,
            }
            calls::move_mount(tree, Some(top), path)?;
            calls::close(tree)
        }
    }
}

/// Without what is mounted beneath it, which would not be restricted: mount(2) sets the attributes of one mount, once
/// that is attached. (Who prepares the worker has seen to it that nothing is.) The working directory is then the root:
/// sources are absolute.
fn bind_one(top: RawFd, path: &CStr, source: &CStr, attributes: Attributes) -> Result<(), Errno> {
    let tree = calls::open_tree(source, false)?;
    // What it is restricted to already stays so: who is in a user namespace could not take it away.
    let attributes = attributes.and(calls::attributes_of(tree)?);
    calls::move_mount(tree, Some(top), path)?;
    calls::close(tree)?;
    calls::fchdir(top)?;
    calls::remount(path, attributes)
}

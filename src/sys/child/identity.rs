//! `[broker -> worker]` Who the new process is, and which rights it gives up.

use std::ffi::CStr;
use std::os::fd::RawFd;

use super::calls::{self, Property};
use super::step::Step;
use crate::sys::call::Errno;

/// The user whom the child becomes.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) uid: libc::uid_t,
    pub(crate) gid: libc::gid_t,
    /// Supplementary ones; none: as they are.
    pub(crate) groups: Option<Vec<libc::gid_t>>,
}

/// Becomes the user. `begin` is told of each step.
pub(super) fn become_user(ids: &Ids, begin: impl Fn(Step)) -> Result<(), Errno> {
    if let Some(groups) = &ids.groups {
        begin(Step::Groups);
        calls::setgroups(groups)?;
    }
    begin(Step::Gid);
    calls::setresgid(ids.gid)?;
    begin(Step::Uid);
    calls::setresuid(ids.uid)
}

/// Lines for uid_map and gid_map.
pub(super) fn write_id_maps([uids, gids]: &[String; 2]) -> Result<(), Errno> {
    // The kernel lets an ordinary user map a group only after setgroups has been given up.
    write_file(c"/proc/self/setgroups", b"deny")?;
    write_file(c"/proc/self/uid_map", uids.as_bytes())?;
    write_file(c"/proc/self/gid_map", gids.as_bytes())
}

fn write_file(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = calls::open(path, libc::O_WRONLY)?;
    let written = calls::write(file, text);
    calls::close(file)?;
    written.map(drop)
}

/// Of a kernel that knows so many capabilities.
pub(super) fn empty_bounding_set(capabilities: u8) -> Result<(), Errno> {
    (0..capabilities).try_for_each(|capability| calls::prctl(Property::WithoutCapability, capability.into()))
}

/// SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP, SECBIT_NO_CAP_AMBIENT_RAISE, with their locks, and SECBIT_KEEP_CAPS_LOCKED
/// (linux/securebits.h). The kernel's own handling of capabilities at a change of user is no longer wanted: they are
/// given up by name.
const SECUREBITS: usize = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;

pub(super) fn lock_securebits() -> Result<(), Errno> {
    calls::prctl(Property::Securebits, SECUREBITS)
}

pub(super) fn set_no_new_privs() -> Result<(), Errno> {
    calls::prctl(Property::NoNewPrivs, 1)
}

/// SIGKILL, when the thread ends that made this process. `parent` is its process, by pidfd for a child in another PID
/// namespace, where it has no number.
pub(super) fn die_with(parent: u32, pidfd: Option<RawFd>) -> Result<(), Errno> {
    calls::prctl(Property::DeathSignal, libc::SIGKILL as usize)?;
    // It may have died before it was watched.
    let is_gone = match pidfd {
        Some(pidfd) => calls::has_ended(pidfd)?,
        None => calls::getppid()? != parent as usize,
    };
    if is_gone { Err(Errno(libc::ESRCH)) } else { Ok(()) }
}

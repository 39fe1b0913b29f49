//! `[broker]` The user whom a worker becomes.

use std::io;

use nix::unistd::{Uid, User, getresgid, getresuid};

use super::{Layer, host};
use crate::sys::child::Ids;

/// The user of a worker, when the broker is root and was not told another: nobody, with group nogroup.
const NOBODY: (u32, u32) = (65534, 65534);

/// The user whom a worker is to be.
#[derive(Debug, Clone)]
pub(super) enum RunAs {
    Ids(u32, u32),
    Name(String),
}

/// The ids to become, for root; none for anybody else.
pub(super) fn ids(run_as: Option<&RunAs>, groups: &[u32]) -> io::Result<Option<Ids>> {
    if !host::changes_user() {
        if run_as.is_none() && groups.is_empty() {
            return Ok(None);
        }
        let reason = host::available(Layer::User).err().unwrap_or_default();
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    let (uid, gid) = match run_as {
        None => NOBODY,
        Some(RunAs::Ids(uid, gid)) => (*uid, *gid),
        Some(RunAs::Name(name)) => named(name)?,
    };
    if Uid::from_raw(uid).is_root() || gid == 0 || groups.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker is never user 0, and never in group 0"));
    }
    Ok(Some(Ids { uid, gid, groups: Some(groups.to_vec()) }))
}

/// The effective user of this process, if that is not its real and saved one as well. With no_new_privs, exec makes the
/// real user the effective one: a daemon of root's that has lowered its effective user for a while would start workers of
/// user 0.
pub(super) fn own_if_mixed() -> io::Result<Option<Ids>> {
    let (user, group) = (getresuid()?, getresgid()?);
    let is_one = user.real == user.effective && user.saved == user.effective;
    let is_one_group = group.real == group.effective && group.saved == group.effective;
    let ids = Ids { uid: user.effective.as_raw(), gid: group.effective.as_raw(), groups: None };
    Ok((!is_one || !is_one_group).then_some(ids))
}

pub(super) fn nobody() -> Ids {
    Ids { uid: NOBODY.0, gid: NOBODY.1, groups: Some(Vec::new()) }
}

fn named(name: &str) -> io::Result<(u32, u32)> {
    let user = User::from_name(name)?;
    let user = user.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no user is called {name:?}")))?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

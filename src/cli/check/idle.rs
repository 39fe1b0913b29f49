//! `[broker]` Rules that do nothing: about what is not there, of another kind, or not allowed anyway.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::Failure;
use super::Warning;
use super::wide::fixed;
use crate::policy::inspect::{File, FileScope, Given};
use crate::policy::{Policy, PolicyBuilder};
use crate::wire::{Ask, Right, Rights};

pub(super) fn warnings(builder: &PolicyBuilder, given: Given<'_>) -> Result<Vec<Warning>, Failure> {
    let Some(file) = given.file() else {
        return Ok(pointless(builder, given).into_iter().collect());
    };
    Ok(match (given.denies, file.scope()) {
        (true, _) => pointless(builder, given),
        (false, FileScope::Exact) => absent(given, file),
        (false, FileScope::Glob) => no_match(builder, given, file)?,
        (false, FileScope::Beneath) => None,
    }
    .into_iter()
    .collect())
}

/// Rights with which the object is opened as what it is.
const OPENS: [Right; 4] = [Right::Read, Right::Write, Right::Append, Right::Truncate];
/// Rights to put an object there.
const MAKES: [Right; 5] = [Right::Create, Right::Mkdir, Right::Listen, Right::Bind, Right::Rename];

fn absent(given: Given<'_>, file: File<'_>) -> Option<Warning> {
    let path = file.path();
    let has = |some: &[Right]| some.iter().any(|right| given.rights().contains(*right));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !has(&MAKES) => {
            let text = format!("{} is not there, and the rule lets nobody make it", path.display());
            Some(Warning::new("absent", given, text))
        }
        Ok(metadata) if has(&OPENS) && !file.kinds().contain(metadata.mode()) => {
            let kind = match metadata.mode() & libc::S_IFMT {
                libc::S_IFREG => "a regular file",
                libc::S_IFDIR => "a directory, which only list tells of",
                libc::S_IFIFO => "a FIFO",
                libc::S_IFCHR => "a character device",
                libc::S_IFBLK => "a block device",
                libc::S_IFSOCK => "a socket, which is connected to",
                _ => "of another kind",
            };
            let text = format!("{} is {kind}: the rule does not open those (kinds)", path.display());
            Some(Warning::new("wrong-kind", given, text))
        }
        _ => None,
    }
}

/// So many names are looked at, and no more.
const MOST: usize = 100_000;

/// By the policy's own word: one of this rule alone is asked about every name.
fn no_match(builder: &PolicyBuilder, given: Given<'_>, file: File<'_>) -> Result<Option<Warning>, Failure> {
    let has = |some: &[Right]| some.iter().any(|right| given.rights().contains(*right));
    let only: Policy = builder.only(given).build()?;
    let about = |path: &Path| match only.decide(&Ask::Stat(path.as_os_str().as_bytes())) {
        Ok(_) => true,
        Err(denial) => denial.rule().is_some(),
    };
    let mut directories = vec![fixed(file.path(), FileScope::Glob).to_owned()];
    let mut left = MOST;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path: PathBuf = entry.path();
            left = left.saturating_sub(1);
            if left == 0 || about(&path) {
                return Ok(None);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            }
        }
    }
    if has(&MAKES) {
        return Ok(None);
    }
    let text = format!("{} matches nothing that is there now", file.path().display());
    Ok(Some(Warning::new("no-match-now", given, text)))
}

/// A denial where nothing would be allowed without it.
fn pointless(builder: &PolicyBuilder, given: Given<'_>) -> Option<Warning> {
    let allowed = |other: &Given<'_>| {
        let same_time = given.phase.is_none() || other.phase.is_none() || given.phase == other.phase;
        !other.denies && same_time && meet(given, *other)
    };
    if !given.denies || builder.given().any(|other| allowed(&other)) {
        return None;
    }
    let text = "it denies what no rule allows: everything is refused that is not allowed";
    Some(Warning::new("never-matches", given, text))
}

/// Whether both may be about one object. In doubt, they are.
fn meet(one: Given<'_>, other: Given<'_>) -> bool {
    match (one.file(), other.file()) {
        (Some(one), Some(other)) => {
            let (a, b) = (fixed(one.path(), one.scope()), fixed(other.path(), other.scope()));
            match (one.scope(), other.scope()) {
                (FileScope::Exact, FileScope::Exact) => a == b,
                (FileScope::Exact, _) => a.starts_with(b),
                (_, FileScope::Exact) => b.starts_with(a),
                _ => a.starts_with(b) || b.starts_with(a),
            }
        }
        (None, None) => match (one.network(), other.network()) {
            (Some((right, network, ports)), Some((other_right, other_network, other_ports))) => {
                let around = network.contains_network(&other_network) || other_network.contains_network(&network);
                right == other_right && around && ports.overlaps(&other_ports)
            }
            (None, None) => one.object() == other.object() || host_like(one, other),
            _ => false,
        },
        _ => false,
    }
}

/// Hosts, names and services are told apart by rights only: whether their ports meet is not looked at.
fn host_like(one: Given<'_>, other: Given<'_>) -> bool {
    let rights: Rights = one.rights().union(other.rights());
    one.denies != other.denies
        && !rights.is_empty()
        && one.object().split(' ').nth(2) == other.object().split(' ').nth(2)
}

//! `[broker -> worker]` Landlock rulesets.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags,
};

use super::files::Files;
use crate::sys::process;

/// The newest ABI that this crate asks for; on an older kernel, the layers that it has are asked of it.
const NEWEST: ABI = ABI::V7;

/// The kernel's Landlock ABI, or why it has none.
pub(super) fn abi() -> Result<u32, String> {
    match process::landlock_abi() {
        Ok(abi) => u32::try_from(abi).map_err(|_| "unknown ABI".to_owned()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err("Landlock is not enabled in this kernel (boot with lsm=...,landlock)".to_owned())
        }
        Err(error) => Err(format!("this kernel has no Landlock (Linux 5.13): {error}")),
    }
}

/// Signals to processes outside are refused from this ABI on.
pub(super) const SCOPES_SIGNALS: u32 = 6;

/// Everything is refused but to execute `program`, and to read and execute what it needs; and TCP, unless it `has_tcp`.
pub(super) fn for_start(program: &File, files: &Files, has_tcp: bool) -> io::Result<OwnedFd> {
    let read_tree = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let read = BitFlags::from(AccessFs::ReadFile);
    let nothing = if has_tcp { nothing_but_tcp().and_then(Ruleset::create) } else { nothing() };
    let mut ruleset = nothing.and_then(|nothing| nothing.add_rule(PathBeneath::new(program, read | AccessFs::Execute)));
    for needed in &files.needed {
        let mut access = if needed.is_directory { read_tree } else { read };
        if needed.is_device {
            access |= AccessFs::WriteFile;
        } else if needed.executable {
            access |= AccessFs::Execute;
        }
        ruleset = ruleset.and_then(|ruleset| ruleset.add_rule(PathBeneath::new(&needed.file, access)));
    }
    let ruleset: Option<OwnedFd> = ruleset.map(Option::from).map_err(io::Error::other)?;
    // It was asked for its ABI before.
    ruleset.ok_or_else(|| io::Error::other("the kernel has Landlock, but gave no ruleset"))
}

/// Everything that Landlock can refuse is refused.
pub(super) fn nothing() -> Result<RulesetCreated, RulesetError> {
    nothing_but_tcp()?.handle_access(AccessNet::from_all(NEWEST))?.create()
}

fn nothing_but_tcp() -> Result<Ruleset, RulesetError> {
    Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))
}

/// Files stay as they are, but for making devices, which some right must stand for. Of processes outside, none is traced
/// or looked into (/proc/<pid>/mem, which is as good as tracing), and none is signalled.
pub(super) fn files_alone() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(make_bitflags!(AccessFs::{MakeBlock | MakeChar}))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

//! `[broker -> worker]` Landlock rulesets.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags,
};

use crate::sys::child;

/// The newest ABI that this crate asks for; on an older kernel, the layers that it has are asked of it.
const NEWEST: ABI = ABI::V7;

/// Where the shared libraries of a dynamically linked program are, and the program loader with its cache.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// The kernel's Landlock ABI, or why it has none.
pub(super) fn abi() -> Result<u32, String> {
    match child::landlock_abi() {
        Ok(abi) => u32::try_from(abi).map_err(|_| "unknown ABI".to_owned()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err("Landlock is not enabled in this kernel (boot with lsm=...,landlock)".to_owned())
        }
        Err(error) => Err(format!("this kernel has no Landlock (Linux 5.13): {error}")),
    }
}

/// Signals to processes outside are refused from this ABI on.
pub(super) const SCOPES_SIGNALS: u32 = 6;

/// Everything is refused but to execute `program`, and to read and execute what it cannot start without.
pub(super) fn for_start(program: &File, runtime: Vec<File>) -> io::Result<Option<OwnedFd>> {
    let read_tree = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let read = BitFlags::from(AccessFs::ReadFile);
    let mut ruleset =
        nothing().and_then(|nothing| nothing.add_rule(PathBeneath::new(program, read | AccessFs::Execute)));
    for directory in LIBRARIES.iter().map(Path::new) {
        ruleset = allow_if_there(ruleset, directory, read_tree);
        for loader in loaders(directory) {
            ruleset = allow_if_there(ruleset, &loader, read | AccessFs::Execute);
        }
    }
    ruleset = allow_if_there(ruleset, Path::new(LOADER_CACHE), read);
    for file in runtime {
        let access = if file.metadata()?.is_dir() { read_tree } else { read };
        ruleset = ruleset.and_then(|ruleset| ruleset.add_rule(PathBeneath::new(file, access | AccessFs::Execute)));
    }
    ruleset.map(Option::from).map_err(io::Error::other)
}

/// Everything that Landlock can refuse is refused.
pub(super) fn nothing() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

/// What is not there needs no rule: systems keep their libraries in different places.
fn allow_if_there(
    ruleset: Result<RulesetCreated, RulesetError>,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match open_path(path) {
        Ok(file) => ruleset?.add_rule(PathBeneath::new(file, access)),
        Err(_) => ruleset,
    }
}

/// The program loaders in a directory of libraries: ld-linux-x86-64.so.2, ld-musl-x86_64.so.1 and the like.
fn loaders(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let is_loader = |name: &str| name.starts_with("ld-") && name.contains(".so");
    let entries = directory.read_dir().into_iter().flatten().flatten();
    entries.filter(move |entry| entry.file_name().to_str().is_some_and(is_loader)).map(|entry| entry.path())
}

/// O_PATH: a file that may be executed need not be one that the broker may read.
pub(super) fn open_path(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH).open(path)
}

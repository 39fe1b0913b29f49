//! `[broker]` Rules that are about more than anybody means, or about what others trust.

use std::path::{Path, PathBuf};

use super::Warning;
use crate::policy::inspect::{File, FileScope, Given};
use crate::wire::{Right, Rights};

pub(super) fn warnings(given: Given<'_>) -> Vec<Warning> {
    if given.denies {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    if let Some(file) = given.file() {
        warnings.extend(tree(given, file));
        warnings.extend(programs(given, file));
        if given.rights().contains(Right::Directory) {
            let text = "descriptors of directories are a way out of them: openat(fd, \"..\") leads to all that the \
                        worker's user may open";
            warnings.push(Warning::new("directory-escape", given, text));
        }
    }
    if let Some((right, network, ports)) = given.network() {
        if network.prefix_len() == 0 {
            let what = format!(
                "{right} within {network} ports {ports}: that is every address, those of this machine and of the inner network among them"
            );
            warnings.push(Warning::new("too-wide", given, what));
        }
    }
    if let Some(host) = given.any_answer() {
        let what = format!(
            "who answers for the name {host} chooses the address, and may choose one inside: limit it by answers-within"
        );
        warnings.push(Warning::new("too-wide", given, what));
    }
    warnings
}

/// Trees that hold much of a system, and what is in them.
const WIDE: [(&str, &str); 18] = [
    ("/", "every file there is"),
    ("/boot", "kernels and their initial file systems"),
    ("/dev", "every device, disks and memory among them"),
    ("/etc", "the configuration of everything, secrets among it (shadow, private keys)"),
    ("/home", "all that every user has"),
    ("/media", "every disk that is put in"),
    ("/mnt", "whatever is mounted there"),
    ("/opt", "everything that was installed beside the system"),
    ("/root", "all that root has, keys and histories among it"),
    ("/run", "the sockets and secrets of every service"),
    ("/srv", "the data of every service"),
    ("/sys", "the settings of the kernel and of devices"),
    ("/tmp", "what every user put there for a moment"),
    ("/usr", "everything that is installed"),
    ("/var", "the data of every service: mail, databases, logs"),
    ("/var/lib", "the state of every service"),
    ("/var/log", "the logs of every service"),
    ("/var/tmp", "what every user put there"),
];

fn tree(given: Given<'_>, file: File<'_>) -> Option<Warning> {
    let directory = match file.scope() {
        FileScope::Exact => return None,
        FileScope::Beneath => file.path().to_owned(),
        // A pattern for whole trees.
        FileScope::Glob => file.path().to_str()?.strip_suffix("/**").map(PathBuf::from)?,
    };
    let real = directory.canonicalize().unwrap_or(directory.clone());
    let (name, holds) = WIDE.iter().find(|(name, _)| Path::new(name) == real || Path::new(name) == directory)?;
    let text = format!("all of {name} is {holds}; name what is meant inside");
    Some(Warning::new("too-wide", given, text))
}

const CHANGES: [Right; 8] = [
    Right::Write,
    Right::Append,
    Right::Truncate,
    Right::Create,
    Right::Mkdir,
    Right::Unlink,
    Right::Rename,
    Right::Rmdir,
];

/// What others execute, load, or are configured by.
const TRUSTED: [&str; 11] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt", "/sbin", "/usr", "/root", "/sys"];

fn programs(given: Given<'_>, file: File<'_>) -> Option<Warning> {
    let changes: Rights = given.rights().intersection(Rights::from(CHANGES));
    if changes.is_empty() {
        return None;
    }
    let path = file.path();
    let fixed = fixed(path, file.scope());
    let real = fixed.canonicalize().unwrap_or_else(|_| fixed.to_owned());
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.is_absolute() && real.starts_with(directory))
    };
    let trusted = TRUSTED.iter().any(|directory| real.starts_with(directory) || fixed.starts_with(directory));
    // The null device and its like are there to be written to.
    let device = file.scope() == FileScope::Exact && real.starts_with("/dev");
    if !(trusted || in_path()) || device {
        return None;
    }
    let text = format!("it grants {changes} where others execute programs or are configured: {}", path.display());
    Some(Warning::new("writes-programs", given, text))
}

/// The path, or what of a pattern stands before its wildcards.
pub(super) fn fixed(path: &Path, scope: FileScope) -> &Path {
    let wild = |path: &Path| path.to_string_lossy().contains(['*', '?']);
    match scope {
        FileScope::Exact | FileScope::Beneath => path,
        FileScope::Glob => path.ancestors().find(|above| !wild(above)).unwrap_or(path),
    }
}

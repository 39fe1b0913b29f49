//! `[broker]` Directories that others than the policy's owner can change: who can rename in one decides what its names
//! mean.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Warning;
use super::wide::fixed;
use crate::policy::inspect::{FileScope, Given};

/// The user and group of workers.
pub(super) struct Worker {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Worker {
    pub(super) fn policy_file(&self, path: &Path) -> Option<Warning> {
        let path = path.canonicalize().ok()?;
        let who = self.who(&path.metadata().ok()?).map(|who| (path.clone(), who));
        let (what, who) = who.or_else(|| self.above(&path))?;
        let text = format!("{} can be changed by {who}, and what the policy says with it", what.display());
        Some(Warning { name: "writable", rule: None, text })
    }

    pub(super) fn warnings(&self, given: Given<'_>) -> Vec<Warning> {
        if given.denies {
            return Vec::new();
        }
        let (directory, hard_links) = match (given.file(), given.scratch()) {
            (Some(file), _) => {
                let fixed = fixed(file.path(), file.scope());
                let directory = if file.scope() == FileScope::Exact { fixed.parent() } else { Some(fixed) };
                (directory, file.protects_hard_links())
            }
            // A scratch file has no name that anybody could change.
            _ => (None, false),
        };
        let Some(directory) = directory.and_then(|directory| directory.canonicalize().ok()) else {
            return Vec::new();
        };
        let mut warnings = Vec::new();
        if let Some(who) = directory.metadata().ok().and_then(|metadata| self.who(&metadata)) {
            let mut text =
                format!("{} can be written to by {who}, who can put there what others own", directory.display());
            if !hard_links {
                text += ", by a hard link: protect-hard-links refuses those";
            }
            warnings.push(Warning::new("writable", given, text));
        }
        if let Some((above, who)) = self.above(&directory) {
            let when = match given.file() {
                Some(file) if file.reopens_root() => "at each request",
                _ => "when the policy is loaded",
            };
            let text = format!(
                "{} above {} can be written to by {who}, who decides {when} which directory has that name",
                above.display(),
                directory.display()
            );
            warnings.push(Warning::new("writable", given, text));
        }
        warnings
    }

    /// A directory above `path` in which somebody can rename what leads to it.
    fn above(&self, path: &Path) -> Option<(PathBuf, String)> {
        path.ancestors().zip(path.ancestors().skip(1)).find_map(|(below, above)| {
            let (below, metadata) = (below.symlink_metadata().ok()?, above.metadata().ok()?);
            let who = self.who(&metadata)?;
            // In a sticky directory names are their owners' and the directory's.
            let sticky = metadata.mode() & libc::S_ISVTX != 0;
            let kept = sticky && ![below.uid(), metadata.uid()].contains(&self.uid);
            (!kept).then(|| (above.to_owned(), who))
        })
    }

    /// Who can write to it, of everybody and the worker.
    fn who(&self, metadata: &Metadata) -> Option<String> {
        if metadata.mode() & libc::S_IWOTH != 0 {
            return Some("everybody".to_owned());
        }
        let by_owner = metadata.uid() == self.uid && metadata.mode() & libc::S_IWUSR != 0;
        let by_group = metadata.gid() == self.gid && metadata.mode() & libc::S_IWGRP != 0;
        // Root writes to everything, and no worker is root.
        (self.uid != 0 && (by_owner || by_group)).then(|| format!("the worker's user ({})", self.uid))
    }
}

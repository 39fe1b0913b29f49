//! `[broker]` Denials that a symbolic link in a rule's own path would lead around.
//!
//! A request is judged by the path that it writes, and a rule's directory is found by following links when the policy
//! is built. So one object can have two names that rules are about: `/var/run/app` and `/run/app`. A denial of the one
//! would say nothing of the other.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Building, bytes};
use crate::error::PolicyError;
use crate::policy::What;
use crate::policy::pattern::Pattern;
use crate::policy::rule::{FileRule, Scope, Written};

/// What a rule about files is about: by the path that it writes, and by the one where that is.
struct Name {
    rule: u32,
    written: Box<[u8]>,
    real: Box<[u8]>,
}

impl Name {
    fn is_canonical(&self) -> bool {
        self.written == self.real
    }
}

impl Building {
    /// # Errors
    /// A denial is about something inside of what another rule allows, or around it, by where the two are, but not in
    /// the same way by what they write.
    pub(super) fn aliases(&self, rules: impl Iterator<Item = u32>) -> Result<(), PolicyError> {
        let mut places = Places::default();
        let (mut denied, mut allowed) = (Vec::new(), Vec::new());
        for number in rules {
            let Written::File(rule) = &self.written[number as usize] else { continue };
            let is_denied = matches!(self.policy.rules[number as usize].what, What::Deny);
            let of = if is_denied { &mut denied } else { &mut allowed };
            of.push(places.name(number, rule));
        }
        for denial in &denied {
            // Where both write where they are, there are no two names.
            let suspects = allowed.iter().filter(|name| !(denial.is_canonical() && name.is_canonical()));
            if let Some(name) = suspects.into_iter().find(|name| leads_around(name, denial)) {
                let why =
                    "symbolic links in its own path, or in that of the denial, would lead around what is denied at";
                return Err(self.contradiction(name.rule, denial.rule, why));
            }
        }
        Ok(())
    }
}

fn leads_around(allowed: &Name, denied: &Name) -> bool {
    let differs = |real: Option<&[u8]>, written: Option<&[u8]>| real.is_some() && real != written;
    differs(inside(&denied.real, &allowed.real), inside(&denied.written, &allowed.written))
        || differs(inside(&allowed.real, &denied.real), inside(&allowed.written, &denied.written))
}

/// What of `path` comes after `directory`, if it is that or inside it.
fn inside<'p>(path: &'p [u8], directory: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(directory).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Where directories are; each is asked for once.
#[derive(Default)]
struct Places(HashMap<PathBuf, PathBuf>);

impl Places {
    /// Of a pattern, the directory before its first wildcard counts.
    fn name(&mut self, number: u32, rule: &FileRule) -> Name {
        let path = &rule.path;
        let (written, real) = match (rule.scope, Pattern::new(bytes(path))) {
            (Scope::Glob, Ok(pattern)) => {
                let directory = PathBuf::from(OsStr::from_bytes(&pattern.directory));
                let real = self.of(&directory);
                (directory, real)
            }
            // Of one object its directory is followed, and not itself.
            (Scope::Exact, _) => {
                let name = path.file_name().unwrap_or_default();
                (path.clone(), path.parent().map_or_else(|| path.clone(), |parent| self.of(parent).join(name)))
            }
            _ => (path.clone(), self.of(path)),
        };
        Name { rule: number, written: bytes(&written).into(), real: bytes(&real).into() }
    }

    /// Where the directory is, or would be.
    fn of(&mut self, directory: &Path) -> PathBuf {
        if let Some(real) = self.0.get(directory) {
            return real.clone();
        }
        let real = directory.canonicalize().unwrap_or_else(|_| match (directory.parent(), directory.file_name()) {
            // A denial can be of what is not there.
            (Some(parent), Some(name)) => self.of(parent).join(name),
            _ => directory.to_owned(),
        });
        self.0.insert(directory.to_owned(), real.clone());
        real
    }
}

//! `[broker]` Paths that differ from worker to worker in a component: `{user}` stands for a value that the broker's
//! side gives once, when a worker starts. What becomes of the worker's uid or name later changes nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::wire::path::{self, PathError};

/// What the names in templates stand for. Each value is one plain component of a path, or a part of one: it cannot lead
/// out of the place where it is put, and is no wildcard if that is a pattern.
///
/// ```
/// use fdbroker::policy::{Values, expand};
///
/// let values = Values::new().with("user", "alice")?;
/// assert_eq!(expand("/home/{user}/public", &values)?, std::path::Path::new("/home/alice/public"));
/// assert!(Values::new().with("user", "../root").is_err());
/// # Ok::<(), fdbroker::policy::TemplateError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, OsString>);

impl Values {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this value for this name, in place of one that it had.
    ///
    /// # Errors
    /// [`TemplateError::Name`] unless the name has ASCII letters, digits, `-` and `_` only, and at least one of them;
    /// [`TemplateError::Value`] for a value that is empty, is `.` or `..`, has a slash, a NUL, one of the wildcards `*`
    /// and `?`, or more than 255 bytes.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Result<Self, TemplateError> {
        let (name, value) = (name.into(), value.into());
        if !is_name(name.as_bytes()) {
            return Err(TemplateError::Name(name));
        }
        match wrong(value.as_bytes()) {
            Some(why) => Err(TemplateError::Value { name, value, why }),
            None => {
                self.0.insert(name, value);
                Ok(self)
            }
        }
    }
}

/// Puts values in the place of the names in braces, once: braces in a value are bytes of the value. `{{` and `}}` stand
/// for one brace each.
///
/// # Errors
/// [`TemplateError::Unknown`] for a name that has no value, [`TemplateError::Stray`] for a brace that belongs to no
/// name.
pub fn expand(template: impl AsRef<Path>, values: &Values) -> Result<PathBuf, TemplateError> {
    expand_bytes(template.as_ref().as_os_str().as_bytes(), values).map(|path| OsString::from_vec(path).into())
}

/// As [`expand`], of any bytes.
pub(super) fn expand_bytes(template: &[u8], values: &Values) -> Result<Vec<u8>, TemplateError> {
    let mut path = Vec::with_capacity(template.len());
    for part in parts(template) {
        match part? {
            Part::Byte(byte) => path.push(byte),
            Part::Name(name) => path.extend_from_slice(values.get(name)?.as_bytes()),
        }
    }
    Ok(path)
}

/// Whether the braces are in order; the names may be unknown.
#[cfg(feature = "policy-file")]
pub(super) fn check(template: &[u8]) -> Result<(), TemplateError> {
    parts(template).try_for_each(|part| part.map(drop))
}

/// Why there is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A name that cannot stand in a template.
    #[error("\"{}\" cannot be a name in a template: it has letters, digits, \"-\" and \"_\"", .0.escape_debug())]
    Name(String),
    /// A value that is not one plain component.
    #[error("the value \"{}\" for {{{name}}} {why}", .value.as_bytes().escape_ascii())]
    Value {
        /// What it was to be the value of.
        name: String,
        /// As given.
        value: OsString,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name without value.
    #[error("{{{name}}} is not known here: known {known}")]
    Unknown {
        /// As it stands in the template.
        name: String,
        /// What is known, in words.
        known: String,
    },
    /// A brace that belongs to no name.
    #[error(
        "byte {position} of the path is a brace that belongs to no name: for a value write {{name}}, for the brace \
         itself write it twice"
    )]
    Stray {
        /// Where it is in the template, in bytes from 1.
        position: usize,
    },
}

impl Values {
    fn get(&self, name: &str) -> Result<&OsStr, TemplateError> {
        self.0.get(name).map(OsString::as_os_str).ok_or_else(|| {
            let names: Vec<String> = self.0.keys().map(|name| format!("{{{name}}}")).collect();
            let known = match &names[..] {
                [] => "is nothing".to_owned(),
                [one] => format!("is {one}"),
                several => format!("are {}", several.join(", ")),
            };
            TemplateError::Unknown { name: name.to_owned(), known }
        })
    }
}

enum Part<'t> {
    Byte(u8),
    Name(&'t str),
}

fn parts(template: &[u8]) -> impl Iterator<Item = Result<Part<'_>, TemplateError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = template.get(at..)?;
        let stray = Err(TemplateError::Stray { position: at + 1 });
        Some(match rest {
            [] => return None,
            [b'{', b'{', ..] | [b'}', b'}', ..] => {
                at += 2;
                Ok(Part::Byte(rest[0]))
            }
            [b'{', name @ ..] => match name.iter().position(|&byte| byte == b'}').map(|end| &name[..end]) {
                Some(name) if is_name(name) => {
                    at += name.len() + 2;
                    // Its bytes are ASCII.
                    std::str::from_utf8(name).map(Part::Name).or(stray)
                }
                _ => stray,
            },
            [b'}', ..] => stray,
            [byte, ..] => {
                at += 1;
                Ok(Part::Byte(*byte))
            }
        })
    })
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Why a value is not one plain component.
fn wrong(value: &[u8]) -> Option<&'static str> {
    if value.contains(&b'/') {
        return Some("has a slash: it is one component of a path");
    }
    if value.iter().any(|byte| matches!(byte, b'*' | b'?')) {
        return Some("has a wildcard, which would match other names than its own");
    }
    match path::check(&[b"/", value].concat()) {
        Ok(()) => None,
        Err(PathError::Nul) => Some("has a NUL byte"),
        Err(PathError::Dots) => Some("is not a name but a way: \".\" or \"..\""),
        Err(PathError::TooLong) => Some("is longer than the 255 bytes of a component"),
        Err(_) => Some("is empty"),
    }
}

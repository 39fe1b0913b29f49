//! `[broker]` What is mounted where this process is.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A mount of this process's mount namespace, beneath its root directory.
pub(super) struct Mount {
    /// What of the file system is mounted: a path in it.
    pub root: PathBuf,
    /// Where, by the root directory of this process.
    pub point: PathBuf,
    /// Of the file system, as in mount(2).
    pub kind: OsString,
    /// Of the file system, with commas between them.
    pub options: OsString,
}

/// What it was read from, for those who are told that it could not be.
pub(super) const PATH: &str = "/proc/self/mountinfo";

/// All of them, in the order in which one lies on another.
pub(super) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parsed(&fs::read(PATH)?))
}

pub(super) fn parsed(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

/// proc_pid_mountinfo(5): after the sixth field come any number of others, and a hyphen at their end.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    fields.find(|field| field == b"-")?;
    let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let path = |field| Path::new(OsStr::from_bytes(&unescaped(field))).to_owned();
    let word = |field| OsString::from_vec(unescaped(field).into_owned());
    Some(Mount { root: path(root), point: path(point), kind: word(kind), options: word(options) })
}

/// Some bytes of a field are a backslash and three octal digits.
fn unescaped(mut field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut bytes = Vec::with_capacity(field.len());
    while let Some((&byte, rest)) = field.split_first() {
        let digits = (byte == b'\\').then(|| rest.get(..3)).flatten();
        let escaped = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(escaped.unwrap_or(byte));
        field = if escaped.is_some() { &rest[3..] } else { rest };
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn lines_of_it() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
                     25 22 0:22 / /a\\012b\xff rw - fuse.a\\040b c \n\
                     cut 35 98:0 /mnt1 /mnt2 rw - ext3\n";
        let seen: Vec<_> = parsed(text)
            .iter()
            .map(|mount| {
                [mount.root.as_os_str(), mount.point.as_os_str(), &mount.kind, &mount.options].map(OsStr::to_owned)
            })
            .collect();
        let words = |words: [&[u8]; 4]| words.map(|word| OsStr::from_bytes(word).to_owned());
        let first = words([b"/mnt1", b"/mnt 2\\x", b"ext3", b"rw,errors=continue"]);
        assert_eq!(seen, [first, words([b"/", b"/a\nb\xff", b"fuse.a b", b""])]);
    }

    /// Of this machine: the root directory is a mount, and so is what this was read from.
    #[test]
    fn of_this_process() {
        let mounts = mounts().unwrap();
        assert!(mounts.iter().any(|mount| mount.point == Path::new("/proc") && mount.kind == "proc"));
        assert!(mounts.iter().all(|mount| mount.point.is_absolute()));
    }
}

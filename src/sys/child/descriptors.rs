//! `[broker -> worker]` Descriptors: those that were declared at their numbers, and no other after exec.

use std::os::fd::RawFd;

use super::calls::{self, Entries};
use crate::sys::call::Errno;

/// Puts each source at its target. No source has the number of a target.
pub(super) fn place(descriptors: &[(RawFd, RawFd)]) -> Result<(), Errno> {
    descriptors.iter().try_for_each(|(source, target)| calls::dup3(*source, *target))
}

/// All that are no targets, which are in ascending order. They are not closed here: what is still needed is among them.
/// exec closes them.
pub(super) fn close_others_on_exec(descriptors: &[(RawFd, RawFd)]) -> Result<(), Errno> {
    match by_ranges(descriptors) {
        // Before Linux 5.11, or a filter around this process.
        Err(Errno(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => one_by_one(descriptors),
        closed => closed,
    }
}

fn by_ranges(descriptors: &[(RawFd, RawFd)]) -> Result<(), Errno> {
    let mut next = 0;
    for (_, target) in descriptors {
        if *target > next {
            calls::close_range_on_exec(next, Some(target.wrapping_sub(1)))?;
        }
        next = target.wrapping_add(1);
    }
    calls::close_range_on_exec(next, None)
}

fn one_by_one(descriptors: &[(RawFd, RawFd)]) -> Result<(), Errno> {
    let directory = calls::open(c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut entries = Entries([0; 2048]);
    loop {
        let read = calls::getdents(directory, &mut entries)?;
        if read == 0 {
            return calls::close(directory);
        }
        for name in Names(entries.0.get(..read).unwrap_or_default()) {
            let Some(descriptor) = decimal(name) else { continue };
            if !descriptors.iter().any(|(_, target)| *target == descriptor) {
                calls::close_on_exec(descriptor)?;
            }
        }
    }
}

/// The names in a buffer of `struct linux_dirent64`: d_ino and d_off (8 bytes each), d_reclen (2), d_type (1), name.
struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_ne_bytes([*self.0.get(16)?, *self.0.get(17)?]);
        let entry = self.0.get(..usize::from(length)).filter(|entry| !entry.is_empty())?;
        self.0 = self.0.get(usize::from(length)..)?;
        entry.get(19..)?.split(|byte| *byte == 0).next()
    }
}

fn decimal(text: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

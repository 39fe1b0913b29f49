//! `[broker]` What is told about an object instead of handing it out.

use std::os::fd::AsFd;

use libc::{S_IFDIR, S_IFLNK, S_IFMT};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{Whence, lseek};

use super::file::beneath;
use super::{LIMIT, NOT_OF_THE_KIND, failed};
use crate::policy::{At, Hidden};
use crate::sys::directory;
use crate::wire::path::PATH_MAX;
use crate::wire::{EntriesWriter, Entry, Refusal, Stat};

/// What the object is; of a link, the link itself.
pub(super) fn stat(at: At<'_>, data: &mut [u8]) -> Result<usize, Refusal> {
    let object = beneath(at, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
    let stat = fstat(&object.0).map_err(failed)?;
    object.judged(stat.st_dev)?;
    told(&stat).encode(data).map_err(|_| LIMIT)
}

/// On the platforms of Linux the fields have several widths; their values fit.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "see above")]
fn told(stat: &FileStat) -> Stat {
    Stat {
        mode: stat.st_mode as u32,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        inode: stat.st_ino as u64,
        device: stat.st_dev as u64,
        modified: stat.st_mtime as i64,
        modified_nanoseconds: stat.st_mtime_nsec as u32,
    }
}

/// The target, whole or not at all: what readlink(2) cuts off would make it another's.
pub(super) fn readlink(at: At<'_>, data: &mut [u8]) -> Result<usize, Refusal> {
    let object = beneath(at, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
    let stat = fstat(&object.0).map_err(failed)?;
    let is_link = stat.st_mode & S_IFMT == S_IFLNK;
    let link = object.judged(stat.st_dev)?;
    if !is_link {
        return Err(failed(Errno::EINVAL));
    }
    let mut target = [0; PATH_MAX];
    let len = directory::readlink(link.as_fd(), &mut target).map_err(|error| failed(super::errno(&error)))?;
    data.get_mut(..len).ok_or(LIMIT)?.copy_from_slice(&target[..len]);
    Ok(len)
}

/// Bytes that one getdents64(2) may give.
const ENTRIES: usize = 8 * 1024;

/// As much of the directory, from a place that an earlier reply told, as finds room. A place that none told gives some
/// of the same entries, or none.
pub(super) fn list(at: At<'_>, from: u64, hidden: Hidden<'_>, data: &mut [u8]) -> Result<usize, Refusal> {
    let opened = beneath(at, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let stat = fstat(&opened.0).map_err(failed)?;
    if stat.st_mode & S_IFMT != S_IFDIR {
        return Err(NOT_OF_THE_KIND);
    }
    let fd = opened.judged(stat.st_dev)?;
    if from != 0 {
        lseek(&fd, i64::try_from(from).map_err(|_| failed(Errno::EINVAL))?, Whence::SeekSet).map_err(failed)?;
    }
    let mut writer = EntriesWriter::new(data);
    let (mut next, mut some) = (from, false);
    let mut buffer = [0; ENTRIES];
    loop {
        let filled = directory::read(fd.as_fd(), &mut buffer).map_err(|error| failed(super::errno(&error)))?;
        if filled == 0 {
            return writer.finish(None).map_err(|_| LIMIT);
        }
        for entry in directory::entries(&buffer[..filled]) {
            let tell = !matches!(entry.name, b"." | b"..") && !hidden.hides(entry.name);
            let told = Entry { inode: entry.inode, file_type: entry.file_type, name: entry.name };
            if tell && writer.put(told).is_err() {
                // Nothing at all has found room.
                return if some { writer.finish(Some(next)).map_err(|_| LIMIT) } else { Err(LIMIT) };
            }
            some |= tell;
            next = entry.next;
        }
    }
}

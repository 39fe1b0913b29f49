//! `[broker]` What a directory and a link hold, read through a descriptor (nix's directory streams allocate, and do not
//! tell where to go on), and what is done with names in one.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// getdents64(2), once: how many bytes of `buffer` are entries; 0 at the end.
pub(crate) fn read(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most as many bytes as `buffer` has, which is exclusively borrowed.
    let filled =
        unsafe { libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    usize::try_from(filled).map_err(|_| io::Error::last_os_error())
}

/// The target of the symbolic link that `link` (O_PATH) is: how many bytes of `buffer` it has, cut where that ends.
pub(crate) fn readlink(link: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the path is a C string, and the kernel writes at most as many bytes as `buffer` has, which is exclusively
    // borrowed. It writes no NUL.
    let len = unsafe { libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// renameat2(2) with RENAME_NOREPLACE: EEXIST when anything has the new name, EINVAL where the file system does not
/// know the flag. nix has it for one C library only.
pub(crate) fn rename_new(
    old_parent: BorrowedFd<'_>,
    old: &CStr,
    new_parent: BorrowedFd<'_>,
    new: &CStr,
) -> io::Result<()> {
    let (from, to) = (old_parent.as_raw_fd(), new_parent.as_raw_fd());
    // SAFETY: both paths are C strings, which the kernel only reads; the rest are numbers.
    let status =
        unsafe { libc::syscall(libc::SYS_renameat2, from, old.as_ptr(), to, new.as_ptr(), libc::RENAME_NOREPLACE) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From here on this thread has a umask (and a working directory, and a root) of its own. It needs no privilege.
pub(crate) fn unshare_umask() -> io::Result<()> {
    // SAFETY: takes a number, and touches no memory of this process.
    let status = unsafe { libc::unshare(libc::CLONE_FS) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One entry as the kernel tells it.
pub(crate) struct Entry<'a> {
    pub(crate) inode: u64,
    /// Where the directory goes on after it.
    pub(crate) next: u64,
    pub(crate) file_type: u8,
    pub(crate) name: &'a [u8],
}

/// The entries in a buffer that [`read`] filled: struct linux_dirent64, of which each says how long it is
/// (getdents(2)).
pub(crate) fn entries(mut filled: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        let (inode, rest) = filled.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (file_type, _) = rest.split_first()?;
        let entry = filled.get(..usize::from(u16::from_ne_bytes(*len)))?;
        let name = entry.get(HEAD..)?.split(|&byte| byte == 0).next()?;
        filled = &filled[entry.len()..];
        Some(Entry { inode: u64::from_ne_bytes(*inode), next: u64::from_ne_bytes(*next), file_type: *file_type, name })
    })
}

/// Bytes before the name.
const HEAD: usize = 8 + 8 + 2 + 1;

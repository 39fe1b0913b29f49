//! `[both]` Memory as a descriptor, and what its maker can no longer do to it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::descriptor::{Access, Descriptor};
use super::{Checked, FromDescriptor};
use crate::sys::descriptor;

/// A memfd (memfd_create(2)) that has at least the seals in `REQUIRED`, a set of the constants in [`seal`].
///
/// Who sends a memfd can keep a duplicate and a mapping of it. Without seals it can therefore
/// * **truncate it** while it is mapped here: the next access to the mapping raises SIGBUS, which ends the process.
///   Require [`seal::SHRINK`] of all that is mapped.
/// * **change it** after it was checked and before it is used, or between two reads of one field. Require
///   [`seal::WRITE`], with which the kernel vouches that there is no writable mapping of it and never will be.
///   [`seal::FUTURE_WRITE`] does not suffice for that: mappings that were made before go on writing.
///
/// With [`seal::IMMUTABLE`] its length and its bytes are what they are for good.
///
/// ```
/// use std::{fs::File, io::{Read, Seek}};
/// use fdbroker::{Packet, TakeError, typed::{Memfd, seal}};
///
/// fn image(packet: &mut Packet) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
///     let mut file = File::from(packet.take_one::<Memfd<{ seal::IMMUTABLE }>>()?);
///     file.rewind()?; // The offset is the sender's too.
///     let mut bytes = Vec::new();
///     file.take(1 << 20).read_to_end(&mut bytes)?;
///     Ok(bytes)
/// }
/// ```
///
/// A set with a seal that there is not does not compile:
///
/// ```compile_fail
/// # use fdbroker::{Packet, typed::{Memfd, seal}};
/// Packet::new().take_one::<Memfd<{ seal::WRITE | 0x4000 }>>().unwrap_err();
/// ```
#[derive(Debug)]
pub struct Memfd<const REQUIRED: i32>(OwnedFd);

/// The seals of a memfd (fcntl(2), F_ADD_SEALS): each forbids something to everybody, for good.
pub mod seal {
    /// No further seal can be added.
    pub const SEAL: i32 = libc::F_SEAL_SEAL;
    /// Its length cannot become less: no access to a mapping raises SIGBUS.
    pub const SHRINK: i32 = libc::F_SEAL_SHRINK;
    /// Its length cannot become more.
    pub const GROW: i32 = libc::F_SEAL_GROW;
    /// Its bytes cannot be changed, neither by write(2) nor through a mapping.
    pub const WRITE: i32 = libc::F_SEAL_WRITE;
    /// Its bytes cannot be changed but through mappings that were there before. Linux 5.1.
    pub const FUTURE_WRITE: i32 = libc::F_SEAL_FUTURE_WRITE;
    /// It cannot be made executable, or cease to be. Linux 6.3; a system may set it on every memfd (`vm.memfd_noexec`).
    pub const EXEC: i32 = libc::F_SEAL_EXEC;
    /// [`SHRINK`], [`GROW`] and [`WRITE`]: neither length nor bytes ever change.
    pub const IMMUTABLE: i32 = SHRINK | GROW | WRITE;
}

impl<const REQUIRED: i32> FromDescriptor for Memfd<REQUIRED> {
    const EXPECTED: &'static str = {
        let (text, len) = &Self::WORDS;
        match std::str::from_utf8(text.split_at(*len).0) {
            Ok(words) => words,
            Err(_) => unreachable!(),
        }
    };

    fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
        let Some(seals) = descriptor.seals()? else { return Ok(false) };
        Ok(seals & REQUIRED == REQUIRED
            && is_memfd(descriptor.as_fd(), seals)?
            && descriptor.access()? != Access::Neither)
    }

    fn from_checked(fd: Checked<Self>) -> Self {
        Self(fd.into_fd())
    }
}

impl<const REQUIRED: i32> Memfd<REQUIRED> {
    const WORDS: ([u8; 96], usize) = words(REQUIRED);
}

impl<const REQUIRED: i32> AsFd for Memfd<REQUIRED> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<const REQUIRED: i32> From<Memfd<REQUIRED>> for OwnedFd {
    fn from(memfd: Memfd<REQUIRED>) -> Self {
        memfd.0
    }
}

impl<const REQUIRED: i32> From<Memfd<REQUIRED>> for File {
    fn from(memfd: Memfd<REQUIRED>) -> Self {
        memfd.0.into()
    }
}

/// Whether a file with these seals is a memfd. A file on tmpfs or hugetlbfs has F_SEAL_SEAL from its creation and can
/// get no other seal, so every other answer, the empty one too, is a memfd's. A memfd that was made without
/// MFD_ALLOW_SEALING has F_SEAL_SEAL alone as well: those lie on file systems that the kernel mounts for itself, where
/// nobody can open a file by name, and a memfd of our own says which.
pub(super) fn is_memfd(fd: BorrowedFd<'_>, seals: i32) -> io::Result<bool> {
    if seals != seal::SEAL {
        return Ok(true);
    }
    let status = descriptor::status(fd)?;
    let ours = descriptor::status(new(MFdFlags::empty())?.as_fd())?;
    if ours.device == status.device {
        return Ok(true);
    }
    // Of huge pages there is one file system for each size, which is the size of its blocks.
    let size = MFdFlags::from_bits_retain(status.block_size.trailing_zeros() << libc::MFD_HUGE_SHIFT);
    match new(MFdFlags::MFD_HUGETLB | size) {
        Ok(huge) => Ok(descriptor::status(huge.as_fd())?.device == status.device),
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(errno.into()),
        // No such pages, so no memfd of them.
        Err(_) => Ok(false),
    }
}

/// Not executable, because a system can demand that (`vm.memfd_noexec`); before Linux 6.3 there was no such flag.
fn new(flags: MFdFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | MFdFlags::MFD_CLOEXEC;
    let not_executable = flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(c"fdbroker: where memfds lie", not_executable) {
        Err(Errno::EINVAL) => memfd_create(c"fdbroker: where memfds lie", flags),
        made => made,
    }
}

/// Seals in words: "the seals SHRINK, GROW".
pub(super) struct Seals(pub(super) i32);

impl fmt::Display for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "the seals ";
        for (_, name) in NAMES.iter().filter(|(seal, _)| self.0 & seal != 0) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        if separator == "the seals " { f.write_str("no seals") } else { Ok(()) }
    }
}

const NAMES: [(i32, &str); 6] = [
    (seal::SEAL, "SEAL"),
    (seal::SHRINK, "SHRINK"),
    (seal::GROW, "GROW"),
    (seal::WRITE, "WRITE"),
    (seal::FUTURE_WRITE, "FUTURE_WRITE"),
    (seal::EXEC, "EXEC"),
];

/// "a memfd with the seals SHRINK, GROW", at compile time, with its length.
const fn words<const ROOM: usize>(required: i32) -> ([u8; ROOM], usize) {
    let (text, len) = append(([0; ROOM], 0), "a memfd");
    let mut words = (text, len);
    let mut left = required;
    let mut index = 0;
    while index < NAMES.len() {
        let (seal, name) = NAMES[index];
        if left & seal != 0 {
            words = append(words, if left == required { " with the seals " } else { ", " });
            words = append(words, name);
            left &= !seal;
        }
        index += 1;
    }
    assert!(left == 0, "there is no such seal: use the constants of fdbroker::typed::seal");
    words
}

const fn append<const ROOM: usize>((mut text, mut len): ([u8; ROOM], usize), more: &str) -> ([u8; ROOM], usize) {
    let mut index = 0;
    while index < more.len() {
        text[len] = more.as_bytes()[index];
        len += 1;
        index += 1;
    }
    (text, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest text fits, and the texts are those of `Seals`.
    #[test]
    fn words_of_every_set_of_seals() {
        for set in 0..64 {
            let (text, len) = words::<96>(set);
            let text = std::str::from_utf8(&text[..len]).expect("text");
            let seals = Seals(set).to_string();
            assert_eq!(text, if set == 0 { "a memfd".to_owned() } else { format!("a memfd with {seals}") });
        }
        assert_eq!(Seals(0).to_string(), "no seals");
        assert_eq!(Memfd::<{ seal::IMMUTABLE }>::EXPECTED, "a memfd with the seals SHRINK, GROW, WRITE");
    }
}

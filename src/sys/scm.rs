//! `[both]` sendmsg(2) and recvmsg(2) with SCM_RIGHTS.
//!
//! Receiving owns every descriptor that the kernel installed before anything else can happen, sets close-on-exec in
//! the same system call, and says what was cut. The rows K1 to K31 that comments name are facts of the kernel that
//! docs/KERNEL.md lists.
//!
//! The path of a message is inlined into its caller: that was measured to take 2 to 4 % off a message
//! (benches/README.md), more than all else that is done here.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::platform::{self, CONTROL, FD, HEADER, LEVEL_AT, TYPE_AT, space};
use super::socket;

/// SCM_MAX_FD of the kernel: descriptors that one message can carry (K3).
pub(crate) const MAX_FDS: usize = 253;

/// Linux 6.5, include/linux/socket.h; libc does not name it for every target.
const SCM_PIDFD: i32 = 4;
/// Not the type of any block where there is no such thing.
#[cfg(target_os = "linux")]
const SCM_CREDENTIALS: i32 = libc::SCM_CREDENTIALS;
#[cfg(not(target_os = "linux"))]
const SCM_CREDENTIALS: i32 = -2;

/// Room for control data, aligned as the kernel's `cmsghdr` wants it.
#[repr(C, align(8))]
struct Aligned<const BYTES: usize>([u8; BYTES]);

/// What a receive makes room for, and no more: what there is no room for cannot be installed (K4, K20).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) fds: usize,
    pub(crate) credentials: bool,
    pub(crate) pidfd: bool,
}

/// The control data of a message, once it has arrived. Each receive adds to it.
pub(crate) struct Arrived {
    control: Box<Aligned<CONTROL>>,
    /// Its capacity is MAX_FDS from the start and never changes.
    pub(crate) fds: Vec<OwnedFd>,
    /// Process, user, group.
    pub(crate) credentials: Option<[u32; 3]>,
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Arrived {
    pub(crate) fn new() -> Self {
        let control = Box::new(Aligned([0; CONTROL]));
        Self { control, fds: Vec::with_capacity(MAX_FDS), credentials: None, pidfd: None }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.fds.clear();
        self.credentials = None;
        self.pidfd = None;
    }
}

/// What one recvmsg said, beside what arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes put into the buffer.
    pub(crate) len: usize,
    /// Any control data came: tells an empty message from a hang-up (K1).
    pub(crate) control: bool,
    /// MSG_TRUNC: the message had more bytes than the buffer.
    pub(crate) bytes_cut: bool,
    /// MSG_CTRUNC: descriptors were lost, for want of room in the buffer or in the process's table (K2, K19).
    pub(crate) control_cut: bool,
    /// In the place of a pidfd was the error of a full descriptor table (K22).
    pub(crate) no_pidfd: bool,
    /// Control data came that no room was made for: it may have taken that of the descriptors.
    pub(crate) unexpected: bool,
}

/// sendmsg(2) with MSG_NOSIGNAL, again after EINTR. The kernel checks each number in `fds` (EBADF) and copies the
/// open files; nothing is closed.
#[inline(always)]
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[IoSlice<'_>],
    fds: impl ExactSizeIterator<Item = RawFd>,
    flags: libc::c_int,
) -> io::Result<usize> {
    // Most messages have few descriptors: no kilobyte is cleared for them.
    let mut few = Aligned([0; space(4 * FD)]);
    let mut many;
    let room = if fds.len() <= 4 {
        &mut few.0[..]
    } else {
        many = Aligned([0; space(MAX_FDS * FD)]);
        &mut many.0[..]
    };
    let mut header = empty_header();
    header.msg_iov = bytes.as_ptr().cast::<libc::iovec>().cast_mut();
    header.msg_iovlen = bytes.len() as _;
    if fds.len() > 0 {
        let len = put_rights(room, fds).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        header.msg_control = room.as_mut_ptr().cast();
        header.msg_controllen = len as _;
    }
    let timeout = || socket::send_timeout(socket);
    retry(timeout, || {
        // SAFETY: `header` points to `bytes` (IoSlice is an iovec, by std's promise) and to `room`, which are borrowed
        // for longer than the call; the kernel only reads through them, no more than the lengths given.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &header, platform::SEND_FLAGS | flags) }
    })
}

/// recvmsg(2) with MSG_CMSG_CLOEXEC, again after EINTR. Every descriptor that came is owned by `arrived` when this
/// returns, or has been closed: a pidfd after the first, descriptors beyond MAX_FDS.
#[inline(always)]
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    arrived: &mut Arrived,
    room: Room,
    flags: libc::c_int,
) -> io::Result<Received> {
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let control = &mut arrived.control.0;
    let room_bytes = platform::room(room).min(control.len());
    let mut header = empty_header();
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = room_bytes as _;
    let timeout = || socket::receive_timeout(socket);
    let mut lost = false;
    let len = loop {
        let result = retry(timeout, || {
            // SAFETY: `header` points to `iov`, which points to `bytes`, and to the first `room_bytes` bytes of
            // `control` (at most all of them); all are borrowed exclusively for longer than the call. The kernel writes
            // no more than the lengths given, and any bytes are valid there.
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, platform::RECV_FLAGS | flags) }
        });
        match result {
            Err(error) if !lost && platform::lost_descriptors(&error) => lost = true,
            result => break result?,
        }
    };
    #[allow(clippy::unnecessary_cast, reason = "musl declares it as socklen_t")]
    let filled = (header.msg_controllen as usize).min(room_bytes);
    let mut received = Received {
        len,
        control: filled > 0,
        bytes_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        control_cut: lost || header.msg_flags & libc::MSG_CTRUNC != 0,
        no_pidfd: false,
        unexpected: false,
    };
    for block in Blocks(&control[..filled]) {
        match Item::of(block) {
            Item::Rights(slots) => {
                for number in installed(slots) {
                    // SAFETY: the kernel wrote this number a moment ago into a block that means "installed in your
                    // table for you": it is open, and nobody else in this process knows of it. It is not negative.
                    let fd = unsafe { OwnedFd::from_raw_fd(number) };
                    if platform::RECV_FLAGS == 0 {
                        let _ = platform::close_on_exec(&fd);
                    }
                    if arrived.fds.len() < arrived.fds.capacity() {
                        arrived.fds.push(fd);
                    }
                }
            }
            Item::PidFd(slots) => {
                received.unexpected |= !room.pidfd;
                // One that was not asked for, or that an earlier part of the message had, is no loss.
                let missed = room.pidfd && arrived.pidfd.is_none();
                received.no_pidfd |=
                    missed && numbers(slots).any(|number| [-libc::EMFILE, -libc::ENFILE].contains(&number));
                for number in installed(slots) {
                    // SAFETY: as for SCM_RIGHTS, the kernel installed it for this process a moment ago; where it could
                    // not, the number is negative, and `installed` has left it out.
                    let fd = unsafe { OwnedFd::from_raw_fd(number) };
                    arrived.pidfd.get_or_insert(fd);
                }
            }
            Item::Credentials(numbers) => {
                received.unexpected |= !room.credentials;
                // Parts of one message that differ in their sender have none: process 0 is the kernel's "unknown".
                if *arrived.credentials.get_or_insert(numbers) != numbers {
                    arrived.credentials = Some([0; 3]);
                }
            }
            Item::Other => received.unexpected = true,
        }
    }
    Ok(received)
}

/// Writes one SCM_RIGHTS block and answers its length, or `None` if there is no room for it.
#[inline(always)]
fn put_rights(room: &mut [u8], fds: impl ExactSizeIterator<Item = RawFd>) -> Option<usize> {
    let len = HEADER + fds.len() * FD;
    let (header, data) = room.get_mut(..len)?.split_at_mut(HEADER);
    put_header(header, len, libc::SOL_SOCKET, libc::SCM_RIGHTS);
    for (slot, fd) in data.chunks_exact_mut(FD).zip(fds) {
        slot.copy_from_slice(&fd.to_ne_bytes());
    }
    Some(len)
}

#[inline]
fn put_header(header: &mut [u8], len: usize, level: i32, kind: i32) {
    match (LEVEL_AT, u32::try_from(len)) {
        (4, Ok(len)) => header[..4].copy_from_slice(&len.to_ne_bytes()),
        _ => header[..mem::size_of::<usize>()].copy_from_slice(&len.to_ne_bytes()),
    }
    header[LEVEL_AT..LEVEL_AT + 4].copy_from_slice(&level.to_ne_bytes());
    header[TYPE_AT..TYPE_AT + 4].copy_from_slice(&kind.to_ne_bytes());
}

/// What a block of control data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item<'a> {
    /// These descriptors were installed.
    Rights(&'a [u8]),
    /// So was this one, for the sender; or it could not be, for a reason that stands in its place as a negative number
    /// (K22).
    PidFd(&'a [u8]),
    Credentials([u32; 3]),
    Other,
}

impl<'a> Item<'a> {
    #[inline]
    fn of((level, kind, data): (i32, i32, &'a [u8])) -> Self {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => Self::Rights(data),
            (libc::SOL_SOCKET, SCM_PIDFD) => Self::PidFd(data),
            (libc::SOL_SOCKET, SCM_CREDENTIALS) => credentials(data).map_or(Self::Other, Self::Credentials),
            _ => Self::Other,
        }
    }
}

/// The descriptors among the numbers in slots of data.
#[inline]
fn installed(slots: &[u8]) -> impl Iterator<Item = RawFd> {
    numbers(slots).filter(|&number| number >= 0)
}

/// The numbers that fill slots of data. A part of a number at the end is none.
#[inline]
fn numbers(slots: &[u8]) -> impl Iterator<Item = i32> {
    <[u8]>::chunks_exact(slots, FD).filter_map(|slot| Some(i32::from_ne_bytes(four(slot, 0)?)))
}

/// What a fuzz target sees of control data: the numbers of descriptors, and whether there were credentials.
#[cfg(fuzzing)]
#[must_use]
pub fn parse_control_data(control: &[u8]) -> (Vec<RawFd>, bool) {
    let items = || Blocks(control).map(Item::of);
    let slots = |item| match item {
        Item::Rights(slots) | Item::PidFd(slots) => Some(slots),
        _ => None,
    };
    let credentials = items().any(|item| matches!(item, Item::Credentials(_)));
    (items().filter_map(slots).flat_map(installed).collect(), credentials)
}

fn credentials(data: &[u8]) -> Option<[u32; 3]> {
    Some([four(data, 0)?, four(data, 4)?, four(data, 8)?].map(u32::from_ne_bytes))
}

/// Walks control data as the kernel leaves it: blocks of level, type and data, each at an aligned offset. A length
/// that is less than a header ends the walk; one that is more than is left is clamped.
struct Blocks<'a>(&'a [u8]);

impl<'a> Iterator for Blocks<'a> {
    type Item = (i32, i32, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let len = match LEVEL_AT {
            4 => usize::try_from(u32::from_ne_bytes(four(self.0, 0)?)).unwrap_or(usize::MAX),
            _ => usize::from_ne_bytes(*self.0.first_chunk()?),
        };
        let [level, kind] = [four(self.0, LEVEL_AT)?, four(self.0, TYPE_AT)?].map(i32::from_ne_bytes);
        let len = len.min(self.0.len());
        let data = self.0.get(HEADER..len)?;
        // A block takes its data's length, up to the next multiple of the alignment.
        self.0 = self.0.get(space(data.len())..).unwrap_or_default();
        Some((level, kind, data))
    }
}

#[inline]
fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is a C struct of integers and pointers, for which all zeros is a value (empty, null). It is
    // zeroed rather than written out because musl's has private padding.
    unsafe { mem::zeroed() }
}

/// Makes a call again after EINTR. The kernel then begins to wait anew, so that a timer's signals could keep the
/// socket's timeout from ever passing: it is counted here as well, from the first interruption, and ends in EAGAIN too.
#[inline(always)]
fn retry(timeout: impl Fn() -> io::Result<Option<Duration>>, mut call: impl FnMut() -> isize) -> io::Result<usize> {
    let mut interrupted = None;
    loop {
        if let Ok(len) = usize::try_from(call()) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        let waited = interrupted.get_or_insert_with(Instant::now).elapsed();
        if timeout()?.is_some_and(|limit| waited >= limit) {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(len: usize, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [&len.to_ne_bytes()[..], &libc::SOL_SOCKET.to_ne_bytes(), &kind.to_ne_bytes(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(mem::align_of::<usize>()), 0);
        bytes
    }

    #[test]
    fn walks_blocks_of_every_kind_in_every_order() {
        let credentials = block(HEADER + 12, libc::SCM_CREDENTIALS, &[7; 12]);
        let rights = block(HEADER + 4, libc::SCM_RIGHTS, &5i32.to_ne_bytes());
        for (first, second) in [(&credentials, &rights), (&rights, &credentials)] {
            let bytes = [&first[..], &second[..]].concat();
            let mut kinds: Vec<_> = Blocks(&bytes).map(|(_, kind, data)| (kind, data.len())).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, [(libc::SCM_RIGHTS, 4), (libc::SCM_CREDENTIALS, 12)]);
        }
    }

    /// P-15, K22: -1 and other negative numbers are no descriptors, 0 is one; what is no descriptor is not read as one.
    #[test]
    fn negative_slots_are_no_descriptors() {
        let slots = [0, -1, 7, -24, i32::MIN, i32::MAX].map(i32::to_ne_bytes).concat();
        let control = [
            block(HEADER + slots.len(), libc::SCM_RIGHTS, &slots),
            block(HEADER + 12, libc::SCM_CREDENTIALS, &[1; 12]),
            block(HEADER + 4, SCM_PIDFD, &(-24i32).to_ne_bytes()),
            block(HEADER + 7, SCM_PIDFD, &[9, 0, 0, 0, 9, 0, 0]),
        ]
        .concat();
        let found: Vec<_> = Blocks(&control).map(Item::of).collect();
        let [Item::Rights(rights), Item::Credentials(credentials), Item::PidFd(none), Item::PidFd(pidfd)] = found[..]
        else {
            panic!("{found:?}")
        };
        assert_eq!(installed(rights).collect::<Vec<_>>(), [0, 7, i32::MAX]);
        assert_eq!(credentials, [0x0101_0101; 3]);
        assert_eq!(numbers(none).collect::<Vec<_>>(), [-24]);
        assert_eq!([none, pidfd].map(|slots| installed(slots).collect::<Vec<_>>()), [vec![], vec![9]]);
    }

    #[test]
    fn a_lying_length_neither_panics_nor_runs_on() {
        for len in [0, 1, HEADER - 1, HEADER + 1, usize::MAX, usize::MAX - 7, HEADER + 4096] {
            let bytes = block(len, libc::SCM_RIGHTS, &5i32.to_ne_bytes());
            assert!(Blocks(&bytes).count() <= 2, "length {len}");
        }
        for len in 0..2 * HEADER {
            assert!(Blocks(&vec![0xff; len]).count() <= 1);
            assert_eq!(Blocks(&vec![0; len]).count(), 0);
        }
    }
}

//! `[broker]` UNIX sockets. A path is used through the descriptor that was judged, so no name is resolved a second
//! time.

use std::ffi::{CStr, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use libc::{S_IFMT, S_IFSOCK};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket, sockopt};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::{errno, nonblocking_flag, set_nonblocking, start_listening};
use crate::channel::time_value;
use crate::policy::SocketOptions;
use crate::sys::{descriptor, socket as sys};
use crate::wire::SocketType;

/// A UNIX socket connected to the one that `object` (O_PATH) is, under whatever name it was found.
///
/// ECONNREFUSED when it is no socket or nobody listens, EPROTOTYPE when it is one of another type, ETIMEDOUT when its
/// queue stays full until the deadline, ENOENT only where /proc is not mounted.
pub(crate) fn connect_unix(
    object: BorrowedFd<'_>,
    kind: SocketType,
    deadline: Instant,
    nonblocking: bool,
) -> Result<OwnedFd, Errno> {
    connect(&UnixAddr::new(ProcPath::of(object, None)?.as_os_str())?, kind, deadline, nonblocking)
}

/// As [`connect_unix`], to whoever has an abstract name. ECONNREFUSED when nobody has it.
pub(crate) fn connect_abstract(
    name: &[u8],
    kind: SocketType,
    deadline: Instant,
    nonblocking: bool,
) -> Result<OwnedFd, Errno> {
    connect(&abstract_address(name)?, kind, deadline, nonblocking)
}

/// A UNIX socket at `name` in exactly this directory. It listens, or is only bound if it is for datagrams. The path has
/// this mode (0 to 0o777) whatever the umask is, and never a wider one. Does not wait.
///
/// The address that the kernel tells of the socket begins with `/proc/self/fd/`, where others do not find it.
///
/// EADDRINUSE when anything is there, a stale socket as well: what is in the way is not known to be the broker's to
/// remove. ENAMETOOLONG when the name has more bytes than a UNIX address holds (107) behind `/proc/self/fd/N/`. EPERM
/// when the file system does not let the path have the mode. After an error, what was made is removed again, unless
/// somebody has replaced it.
pub(crate) fn listen_unix(
    parent: BorrowedFd<'_>,
    name: &CStr,
    kind: SocketType,
    mode: u32,
    options: &SocketOptions,
) -> Result<(OwnedFd, Inode), Errno> {
    check_name(name)?;
    if mode > 0o777 {
        return Err(Errno::EINVAL);
    }
    let address = UnixAddr::new(ProcPath::of(parent, Some(name))?.as_os_str())?;
    let socket = new(kind, options.nonblocking)?;
    // Linux makes the path with the mode of the socket, less the umask.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
    let made = || {
        let path = path_of(&socket, parent, name, mode)?;
        let inode = Inode::of(path.as_fd())?;
        Ok((path, inode))
    };
    let (path, made) = made().inspect_err(|_| withdraw(parent, name, mode))?;
    // Until it listens, who connects is refused.
    let ready = set_mode(&path, mode).and_then(|()| start(&socket, kind, options));
    ready.inspect_err(|_| {
        if remove_unix(parent, name, made).is_err() {
            withdraw(parent, name, mode);
        }
    })?;
    Ok((socket, made))
}

/// A UNIX socket that has an abstract name: as [`listen_unix`], without a mode, and nothing stays behind.
pub(crate) fn listen_abstract(name: &[u8], kind: SocketType, options: &SocketOptions) -> Result<OwnedFd, Errno> {
    let address = abstract_address(name)?;
    let socket = new(kind, options.nonblocking)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
    start(&socket, kind, options)?;
    Ok(socket)
}

/// Removes the path of a socket that [`listen_unix`] made, if it is still that, and says whether it was. Nobody else's
/// file is removed, unless it was put there, by someone who can write to the directory, in the moment between looking
/// and removing: unlinkat(2) takes names only.
pub(crate) fn remove_unix(parent: BorrowedFd<'_>, name: &CStr, made: Inode) -> Result<bool, Errno> {
    let Some(there) = still_there(parent, name, made)? else { return Ok(false) };
    // Another's socket cannot get this inode's number meanwhile: `there` keeps it in use.
    let removed = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
    drop(there);
    match removed {
        Err(Errno::ENOENT) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Whether the path of a socket that [`listen_unix`] made is still there, under this name.
pub(crate) fn has_unix(parent: BorrowedFd<'_>, name: &CStr, made: Inode) -> Result<bool, Errno> {
    still_there(parent, name, made).map(|there| there.is_some())
}

fn still_there(parent: BorrowedFd<'_>, name: &CStr, made: Inode) -> Result<Option<OwnedFd>, Errno> {
    check_name(name)?;
    let there = match look(parent, name) {
        Err(Errno::ENOENT) => return Ok(None),
        there => there?,
    };
    Ok((Inode::of(there.as_fd())? == made).then_some(there))
}

/// A path that was made here, as distinct from every other file. A file system may give the number to another file once
/// the path is gone and the socket closed; so the time of birth counts as well, where the file system tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode(descriptor::Identity);

impl Inode {
    fn of(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        descriptor::identity(file).map(Self).map_err(errno)
    }
}

/// The path that bind(2) has made for the socket, open as O_PATH. The kernel tells it to who has CAP_NET_ADMIN. Others
/// look under its name, and take what is there for it if it can be: where others can write to the directory, that may
/// be another socket of the broker's.
fn path_of(socket: &OwnedFd, parent: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<OwnedFd, Errno> {
    if let Ok(path) = sys::bound_path(socket.as_fd()) {
        return Ok(path);
    }
    let path = look(parent, name)?;
    if can_be(&fstat(&path)?, mode) { Ok(path) } else { Err(Errno::EADDRINUSE) }
}

/// Whether this can be the path that bind(2) has made for a socket of this mode.
fn can_be(path: &FileStat, mode: u32) -> bool {
    path.st_mode & S_IFMT == S_IFSOCK && path.st_mode & PERMISSIONS & !mode == 0 && path.st_uid == geteuid().as_raw()
}

/// Removes what bind(2) has made a moment ago and what could not be opened since: no descriptor may be to be had.
fn withdraw(parent: BorrowedFd<'_>, name: &CStr, mode: u32) {
    if fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|there| can_be(&there, mode)) {
        let _ = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Gives the path the bits that the umask took away. There is no call that does it by the socket.
fn set_mode(path: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let has_it = || fstat(path).map(|stat| stat.st_mode & PERMISSIONS == mode);
    if has_it()? {
        return Ok(());
    }
    let through = ProcPath::of(path.as_fd(), None)?;
    fchmodat(AT_FDCWD, through.as_os_str(), Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
    if has_it()? { Ok(()) } else { Err(Errno::EPERM) }
}

/// Most queues have room: only for one that has none is a time set.
fn connect(to: &UnixAddr, kind: SocketType, deadline: Instant, nonblocking: bool) -> Result<OwnedFd, Errno> {
    let socket = new(kind, true)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), to) {
        Err(Errno::EAGAIN | Errno::EINTR) => {
            set_nonblocking(&socket, false)?;
            wait_for_room(&socket, to, deadline)?;
            if nonblocking {
                set_nonblocking(&socket, true)?;
            }
        }
        done => {
            done?;
            if !nonblocking {
                set_nonblocking(&socket, false)?;
            }
        }
    }
    Ok(socket)
}

/// The time that connect(2) waits for room in the queue is that of sends. Afterwards it is for ever again, as in a new
/// socket.
fn wait_for_room(socket: &OwnedFd, to: &UnixAddr, deadline: Instant) -> Result<(), Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        setsockopt(socket, sockopt::SendTimeout, &time_value(Some(left)))?;
        match nix::sys::socket::connect(socket.as_raw_fd(), to) {
            Err(Errno::EAGAIN) if left.is_zero() => return Err(Errno::ETIMEDOUT),
            // A local socket that was interrupted is as it was before.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => break done?,
        }
    }
    setsockopt(socket, sockopt::SendTimeout, &time_value(None))
}

fn new(kind: SocketType, nonblocking: bool) -> Result<OwnedFd, Errno> {
    let kind = match kind {
        SocketType::Stream => SockType::Stream,
        SocketType::Datagram => SockType::Datagram,
        SocketType::SeqPacket => SockType::SeqPacket,
    };
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | nonblocking_flag(nonblocking), None)
}

/// Datagram sockets do not listen.
fn start(socket: &OwnedFd, kind: SocketType, options: &SocketOptions) -> Result<(), Errno> {
    if kind == SocketType::Datagram { Ok(()) } else { start_listening(socket, options) }
}

/// The kernel has an empty abstract name too. Nobody means it.
fn abstract_address(name: &[u8]) -> Result<UnixAddr, Errno> {
    if name.is_empty() { Err(Errno::EINVAL) } else { UnixAddr::new_abstract(name) }
}

/// One plain component, which stays in its directory.
fn check_name(name: &CStr) -> Result<(), Errno> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// What is under the name, if it is a symbolic link that.
fn look(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// `/proc/self/fd/N`, or a name in the directory that this is, of at most so many bytes as a UNIX address holds.
pub(in crate::open) struct ProcPath {
    bytes: [u8; SUN_PATH],
    len: usize,
}

impl ProcPath {
    pub(in crate::open) fn of(file: BorrowedFd<'_>, name: Option<&CStr>) -> Result<Self, Errno> {
        let mut bytes = [0; SUN_PATH];
        let mut room = &mut bytes[..];
        write!(room, "/proc/self/fd/{}", file.as_raw_fd()).map_err(|_| Errno::ENAMETOOLONG)?;
        if let Some(name) = name {
            room.write_all(b"/").map_err(|_| Errno::ENAMETOOLONG)?;
            room.write_all(name.to_bytes()).map_err(|_| Errno::ENAMETOOLONG)?;
        }
        let len = SUN_PATH - room.len();
        Ok(Self { bytes, len })
    }

    pub(in crate::open) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.bytes[..self.len])
    }
}

/// Bytes of `sun_path`. The address of a path has a NUL among them.
const SUN_PATH: usize = 108;
const PERMISSIONS: u32 = 0o777;

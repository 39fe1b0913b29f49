//! System calls as an attacker makes them: numbers and words.

use std::ffi::{CStr, CString};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub const CWD: usize = libc::AT_FDCWD as usize;
/// Above what the kernel reads of an argument of 32 bits.
pub const HIGH: usize = 1 << 32;

pub fn call(number: i64, arguments: &[usize]) -> io::Result<i64> {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: whatever the kernel does with the arguments, it does to the memory they name: strings, and buffers that
    // are leaked (`scratch`, `leak`) and nobody else uses. Calls that make a process go through `child_ends`.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

pub fn text(text: &'static CStr) -> usize {
    text.as_ptr() as usize
}

pub fn path(path: impl AsRef<Path>) -> usize {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap().into_raw() as usize
}

pub fn leak<T>(value: T) -> usize {
    Box::into_raw(Box::new(value)) as usize
}

/// A buffer for whatever the kernel writes.
pub fn scratch() -> usize {
    leak([0_u64; 512])
}

pub fn number(fd: &impl AsRawFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap()
}

pub fn open(name: impl AsRef<Path>, flags: i32) -> io::Result<i64> {
    open_at(CWD, name, flags)
}

pub fn open_at(directory: usize, name: impl AsRef<Path>, flags: i32) -> io::Result<i64> {
    call(libc::SYS_openat, &[directory, path(name), flags as usize, 0o600])
}

/// The answer as a descriptor.
pub fn owned(answer: io::Result<i64>) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for nobody else.
    answer.map(|fd| unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}

/// Both ends of a pipe.
pub fn pipe() -> io::Result<[OwnedFd; 2]> {
    let ends = leak([-1_i32; 2]);
    call(libc::SYS_pipe2, &[ends, libc::O_CLOEXEC as usize])?;
    // SAFETY: the array above, which nobody else has, with two new descriptors in it.
    Ok(unsafe { *(ends as *const [i32; 2]) }.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    owned(call(libc::SYS_socket, &[family as usize, kind as usize, protocol as usize]))
}

/// The C library's loader, by its name on this architecture.
pub fn loader() -> usize {
    text(if cfg!(target_arch = "x86_64") {
        c"/lib64/ld-linux-x86-64.so.2"
    } else if cfg!(target_arch = "aarch64") {
        c"/lib/ld-linux-aarch64.so.1"
    } else {
        c"/lib/ld-linux-riscv64-lp64d.so.1"
    })
}

/// Bytes of a page: 4096, 16384 or 65536 on aarch64, as the kernel was built.
pub fn page_size() -> usize {
    // SAFETY: asks for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
}

/// A sockaddr_in, of 16 bytes.
pub fn internet(address: SocketAddrV4) -> usize {
    let mut bytes = [0_u8; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&address.ip().octets());
    leak(bytes)
}

/// A sockaddr_un and its length. An abstract name begins with a NUL.
pub fn unix(name: &[u8]) -> (usize, usize) {
    let mut bytes = [0_u8; 110];
    bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    bytes[2..2 + name.len()].copy_from_slice(name);
    (leak(bytes), 2 + name.len())
}

/// A msghdr, and an array of one mmsghdr, of one byte to this address.
pub fn message_to(address: usize, length: usize) -> (usize, usize) {
    let iov = Box::leak(Box::new(libc::iovec { iov_base: text(c"!") as *mut _, iov_len: 1 }));
    // SAFETY: all zeros is a value of this struct of integers and pointers.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = address as *mut _;
    message.msg_hdr.msg_namelen = u32::try_from(length).unwrap();
    message.msg_hdr.msg_iov = iov;
    message.msg_hdr.msg_iovlen = 1;
    let message = Box::leak(Box::new(message));
    (&raw const message.msg_hdr as usize, message as *const _ as usize)
}

/// One iovec.
pub fn vector(address: usize, length: usize) -> usize {
    leak([address, length])
}

/// A page whose address has a lower half of 0, which a comparison of 32 bits takes for a null pointer.
pub fn at_four_gigabytes() -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    map(1 << 32, libc::PROT_READ | libc::PROT_WRITE, flags, !0)
}

pub fn map(at: usize, access: i32, flags: i32, fd: usize) -> io::Result<usize> {
    let arguments = [at, 4096, access as usize, flags as usize, fd, 0];
    Ok(usize::try_from(call(libc::SYS_mmap, &arguments)?).unwrap())
}

pub fn cloned(flags: usize) -> io::Result<i64> {
    child_ends(call(libc::SYS_clone, &[flags, 0, 0, 0, 0]))
}

/// The child, if this is one, ends at once. The parent waits for it, if it is its own.
pub fn child_ends(result: io::Result<i64>) -> io::Result<i64> {
    match result? {
        0 => end(0),
        pid => {
            call(libc::SYS_wait4, &[usize::try_from(pid).unwrap(), 0, libc::__WALL as usize, 0]).ok();
            Ok(pid)
        }
    }
}

pub fn end(status: usize) -> ! {
    call(libc::SYS_exit_group, &[status]).ok();
    unreachable!("exit_group(2) returned")
}

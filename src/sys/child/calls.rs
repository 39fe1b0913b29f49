//! `[broker -> worker]` The system calls of a new process, each by a function whose types make it sound. They are made
//! by their instruction: the C library's would write the `errno` of a thread of the parent's.
//!
//! Descriptors are numbers here, and have no owner: they are those of a process that is about to execute another program,
//! or to end.

use std::ffi::{CStr, c_int};
use std::os::fd::RawFd;

use seccompiler::sock_filter;

use crate::sys::call::{Errno, call};

/// A descriptor as an argument.
fn fd(descriptor: RawFd) -> usize {
    descriptor as usize
}

fn path(path: &CStr) -> usize {
    path.as_ptr().expose_provenance()
}

/// A call that changes nothing in this memory.
///
/// # Safety
/// The kernel reads what it takes for an address among the arguments, and writes to none: each is of something that
/// lives for the length of the call, a string with its NUL, an array as long as the call is told, or a struct as large
/// as it takes it to be. The call takes away and changes no mapping.
unsafe fn reading(number: libc::c_long, arguments: &[usize]) -> Result<usize, Errno> {
    let mut six = [0; 6];
    for (slot, argument) in six.iter_mut().zip(arguments) {
        *slot = *argument;
    }
    // SAFETY: the caller's promise. What it does not name is 0.
    unsafe { call(number, six) }
}

/// For calls that answer a new descriptor.
fn new(answer: usize) -> RawFd {
    answer as RawFd
}

const AT_FDCWD: usize = libc::AT_FDCWD as usize;

// ------------------------------------------------------------------------------------------------------ descriptors

pub(super) fn dup3(from: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_dup3, &[fd(from), fd(to), 0]) }.map(drop)
}

/// All from `first` on, up to `last` or to the end of all numbers.
pub(super) fn close_range_on_exec(first: RawFd, last: Option<RawFd>) -> Result<(), Errno> {
    let last = last.map_or(u32::MAX as usize, fd);
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_close_range, &[fd(first), last, libc::CLOSE_RANGE_CLOEXEC as usize]) }.map(drop)
}

pub(super) fn close_on_exec(descriptor: RawFd) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_fcntl, &[fd(descriptor), libc::F_SETFD as usize, libc::FD_CLOEXEC as usize]) }.map(drop)
}

pub(super) fn close(descriptor: RawFd) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_close, &[fd(descriptor)]) }.map(drop)
}

pub(super) fn open(name: &CStr, flags: c_int) -> Result<RawFd, Errno> {
    // SAFETY: a path with its NUL, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_openat, &[AT_FDCWD, path(name), (flags | libc::O_CLOEXEC) as usize]) }.map(new)
}

pub(super) fn write(descriptor: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads as many bytes as there are.
    unsafe { reading(libc::SYS_write, &[fd(descriptor), bytes.as_ptr().expose_provenance(), bytes.len()]) }
}

/// What getdents64(2) fills, aligned as it wants it.
#[repr(C, align(8))]
pub(super) struct Entries(pub(super) [u8; 2048]);

pub(super) fn getdents(directory: RawFd, entries: &mut Entries) -> Result<usize, Errno> {
    let arguments = [fd(directory), (&raw mut *entries).expose_provenance(), size_of::<Entries>(), 0, 0, 0];
    // SAFETY: the kernel writes at most that many bytes to `entries`.
    unsafe { call(libc::SYS_getdents64, arguments) }
}

/// Sends one byte with one descriptor.
pub(super) fn send_descriptor(socket: RawFd, descriptor: RawFd) -> Result<(), Errno> {
    /// A cmsghdr with room for one descriptor.
    #[repr(C)]
    struct Control {
        length: usize,
        level: c_int,
        kind: c_int,
        descriptor: RawFd,
        padding: c_int,
    }
    let mut byte = 0_u8;
    let mut vector = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let length = size_of::<usize>() + 3 * size_of::<c_int>();
    let mut control = Control { length, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, descriptor, padding: 0 };
    // SAFETY: integers and pointers, of which all may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_NOSIGNAL as usize;
    // SAFETY: the kernel reads the message, and what it points to, all of which lives until the end of this function.
    unsafe { reading(libc::SYS_sendmsg, &[fd(socket), (&raw const message).expose_provenance(), flags]) }.map(drop)
}

pub(super) fn pause_for_a_millisecond() {
    let pause = [0_u64, 1_000_000];
    // SAFETY: the kernel reads one timespec. Where it would write what is left of it, there is a null pointer.
    let _ = unsafe { reading(libc::SYS_nanosleep, &[pause.as_ptr().expose_provenance(), 0]) };
}

/// Of a clock that only goes forward.
pub(super) fn milliseconds() -> Result<u64, Errno> {
    let mut time = [0_u64; 2];
    let into = time.as_mut_ptr().expose_provenance();
    // SAFETY: the kernel writes one timespec.
    unsafe { call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, into, 0, 0, 0, 0]) }?;
    Ok(time[0].wrapping_mul(1000).wrapping_add(time[1] / 1_000_000))
}

/// Whether the process of a pidfd has ended.
pub(super) fn has_ended(pidfd: RawFd) -> Result<bool, Errno> {
    let mut waited = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    let at_once = [0_u64; 2];
    let (waited, at_once) = ((&raw mut waited).expose_provenance(), at_once.as_ptr().expose_provenance());
    // SAFETY: the kernel reads and writes one pollfd, and reads one timespec.
    unsafe { call(libc::SYS_ppoll, [waited, 1, at_once, 0, 0, 0]) }.map(|ready| ready != 0)
}

// ---------------------------------------------------------------------------------------------------------- signals

/// The kernel's struct sigaction, without a restorer where the architecture has none: then the mask comes earlier and
/// the end is not read. Zeros mean the default.
#[repr(C)]
#[derive(Default)]
struct Action {
    handler: usize,
    rest: [usize; 4],
}

/// Of the kernel's signal sets: 64 signals.
const SET: usize = 8;

/// Takes the signal's handler away, or what ignores it.
pub(super) fn default_action(signal: c_int) -> Result<(), Errno> {
    let default = Action::default();
    // SAFETY: a struct to be read, with no function in it; the address at which the old one would be written is null.
    unsafe { reading(libc::SYS_rt_sigaction, &[signal as usize, (&raw const default).expose_provenance(), 0, SET]) }
        .map(drop)
}

pub(super) fn has_handler(signal: c_int) -> Result<bool, Errno> {
    let mut action = Action::default();
    let into = (&raw mut action).expose_provenance();
    // SAFETY: the kernel writes one struct.
    unsafe { call(libc::SYS_rt_sigaction, [signal as usize, 0, into, SET, 0, 0]) }?;
    Ok(![libc::SIG_DFL, libc::SIG_IGN].contains(&action.handler))
}

/// Sets this thread's mask, and answers what it was. Also of the signals that the C library keeps for itself.
pub(super) fn change_mask(mask: u64) -> Result<u64, Errno> {
    let mut old = 0_u64;
    let (new, before) = ((&raw const mask).expose_provenance(), (&raw mut old).expose_provenance());
    // SAFETY: the kernel reads one set of 64 signals and writes another.
    unsafe { call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, before, SET, 0, 0]) }?;
    Ok(old)
}

// ----------------------------------------------------------------------------------------------------------- mounts

// linux/mount.h
const FSOPEN_CLOEXEC: usize = 1;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const FSMOUNT_CLOEXEC: usize = 1;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const OPEN_TREE_CLONE: usize = 1;

/// Of mounts: they can only be added here.
#[derive(Clone, Copy)]
pub(super) struct Attributes(u64);

impl Attributes {
    pub(super) const READ_ONLY: Self = Self(1);
    pub(super) const NO_SUID: Self = Self(2);
    pub(super) const NO_DEVICES: Self = Self(4);
    pub(super) const NO_EXEC: Self = Self(8);
    const NO_SYMLINKS: Self = Self(0x20_0000);

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is mounted and unmounted in this mount namespace is seen in no other, nor the other way round.
pub(super) fn make_mounts_private() -> Result<(), Errno> {
    let flags = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    // SAFETY: paths with their NULs, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_mount, &[path(c"none"), path(c"/"), 0, flags, 0]) }.map(drop)
}

/// A new file system in memory, which can be configured.
pub(super) fn fsopen_tmpfs() -> Result<RawFd, Errno> {
    // SAFETY: a text with its NUL, borrowed for the call, and a number.
    unsafe { reading(libc::SYS_fsopen, &[path(c"tmpfs"), FSOPEN_CLOEXEC]) }.map(new)
}

pub(super) fn fsconfig_set(context: RawFd, name: &CStr, value: &CStr) -> Result<(), Errno> {
    // SAFETY: texts with their NULs, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_fsconfig, &[fd(context), FSCONFIG_SET_STRING, path(name), path(value), 0]) }.map(drop)
}

pub(super) fn fsconfig_create(context: RawFd) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_fsconfig, &[fd(context), FSCONFIG_CMD_CREATE, 0, 0, 0]) }.map(drop)
}

/// Its root, mounted nowhere yet.
pub(super) fn fsmount(context: RawFd, attributes: Attributes) -> Result<RawFd, Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_fsmount, &[fd(context), FSMOUNT_CLOEXEC, attributes.0 as usize]) }.map(new)
}

/// Mounts what `mounted` is the root of, at a path from `directory` on, or from the working directory.
pub(super) fn move_mount(mounted: RawFd, directory: Option<RawFd>, name: &CStr) -> Result<(), Errno> {
    let directory = directory.map_or(AT_FDCWD, fd);
    // SAFETY: paths with their NULs, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_move_mount, &[fd(mounted), path(c""), directory, path(name), MOVE_MOUNT_F_EMPTY_PATH]) }
        .map(drop)
}

/// A copy of what is mounted at the path, and of what is mounted beneath that if it is `whole`; mounted nowhere yet.
pub(super) fn open_tree(name: &CStr, whole: bool) -> Result<RawFd, Errno> {
    let recursive = if whole { libc::AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | recursive) as usize;
    // SAFETY: a path with its NUL, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_open_tree, &[AT_FDCWD, path(name), flags]) }.map(new)
}

/// Adds attributes to a mount and to those beneath it. Linux 5.12.
pub(super) fn restrict_mount(mounted: RawFd, attributes: Attributes) -> Result<(), Errno> {
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    let attributes: [u64; 4] = [attributes.0, 0, 0, 0];
    let flags = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as usize;
    let (address, size) = (attributes.as_ptr().expose_provenance(), size_of_val(&attributes));
    // SAFETY: a descriptor, an empty path, and a struct with its size.
    unsafe { reading(libc::SYS_mount_setattr, &[fd(mounted), path(c""), flags, address, size]) }.map(drop)
}

/// Those that the mount has of which this descriptor is a part.
pub(super) fn attributes_of(mounted: RawFd) -> Result<Attributes, Errno> {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))) {
        return Err(Errno(libc::ENOSYS));
    }
    // struct statfs of these architectures: 15 words, of which f_flags is the eleventh (asm-generic/statfs.h).
    let mut words = [0_u64; 15];
    let into = words.as_mut_ptr().expose_provenance();
    // SAFETY: a descriptor, and a struct that the kernel writes.
    unsafe { call(libc::SYS_fstatfs, [fd(mounted), into, 0, 0, 0, 0]) }?;
    // Four have the same value as an attribute. Links are followed nowhere: ST_NOSYMFOLLOW of linux/statfs.h.
    let same = Attributes(words[10] & 0xf);
    Ok(if words[10] & 0x2000 == 0 { same } else { same.and(Attributes::NO_SYMLINKS) })
}

/// Sets the attributes of the mount at this path, and of none beneath it. What is said of access times stays.
pub(super) fn remount(name: &CStr, attributes: Attributes) -> Result<(), Errno> {
    /// linux/mount.h
    const MS_NOSYMFOLLOW: usize = 256;
    // The others have the same values as flags of mount(2).
    let flags = (libc::MS_REMOUNT | libc::MS_BIND) as usize | (attributes.0 & 0xf) as usize;
    let follows = attributes.0 & Attributes::NO_SYMLINKS.0 == 0;
    let flags = if follows { flags } else { flags | MS_NOSYMFOLLOW };
    // SAFETY: paths with their NULs, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_mount, &[path(c"none"), path(name), 0, flags, 0]) }.map(drop)
}

pub(super) fn pivot_root(new: &CStr, old: &CStr) -> Result<(), Errno> {
    // SAFETY: paths with their NULs, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_pivot_root, &[path(new), path(old)]) }.map(drop)
}

/// Takes it away at once, whoever uses it still.
pub(super) fn detach(name: &CStr) -> Result<(), Errno> {
    // SAFETY: a path with its NUL, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_umount2, &[path(name), libc::MNT_DETACH as usize]) }.map(drop)
}

pub(super) fn mkdir(directory: RawFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: a path with its NUL, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_mkdirat, &[fd(directory), path(name), mode as usize]) }.map(drop)
}

pub(super) fn make_file(directory: RawFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: a path with its NUL, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_mknodat, &[fd(directory), path(name), (libc::S_IFREG | mode) as usize, 0]) }.map(drop)
}

pub(super) fn symlink(target: &CStr, directory: RawFd, name: &CStr) -> Result<(), Errno> {
    // SAFETY: paths with their NULs, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_symlinkat, &[path(target), fd(directory), path(name)]) }.map(drop)
}

pub(super) fn chdir(name: &CStr) -> Result<(), Errno> {
    // SAFETY: a path with its NUL, borrowed for the call, and numbers.
    unsafe { reading(libc::SYS_chdir, &[path(name)]) }.map(drop)
}

pub(super) fn fchdir(directory: RawFd) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_fchdir, &[fd(directory)]) }.map(drop)
}

/// Answers what it was.
pub(super) fn umask(mask: usize) -> Result<usize, Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_umask, &[mask]) }
}

// ----------------------------------------------------------------------------------------------------------- rights

/// What prctl(2) sets to a number. It has other options, which take addresses.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Property {
    /// Takes this capability out of the bounding set.
    WithoutCapability = libc::PR_CAPBSET_DROP,
    Securebits = libc::PR_SET_SECUREBITS,
    NoNewPrivs = libc::PR_SET_NO_NEW_PRIVS,
    /// The signal that comes when the parent ends.
    DeathSignal = libc::PR_SET_PDEATHSIG,
}

pub(super) fn prctl(property: Property, value: usize) -> Result<(), Errno> {
    // SAFETY: it takes numbers, for all of these.
    unsafe { reading(libc::SYS_prctl, &[property as usize, value, 0, 0, 0]) }.map(drop)
}

/// Soft and hard limit, of this process.
pub(super) fn set_limit(resource: u32, limits: &[u64; 2]) -> Result<(), Errno> {
    // Two words, as in struct rlimit64.
    // SAFETY: numbers, and two words to be read; the address at which the old limit would be written is null.
    unsafe { reading(libc::SYS_prlimit64, &[0, resource as usize, limits.as_ptr().expose_provenance(), 0]) }.map(drop)
}

pub(super) fn setgroups(groups: &[libc::gid_t]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many groups as there are.
    unsafe { reading(libc::SYS_setgroups, &[groups.len(), groups.as_ptr().expose_provenance()]) }.map(drop)
}

/// Real, effective and saved.
pub(super) fn setresgid(gid: libc::gid_t) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_setresgid, &[gid as usize; 3]) }.map(drop)
}

/// Real, effective and saved.
pub(super) fn setresuid(uid: libc::uid_t) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_setresuid, &[uid as usize; 3]) }.map(drop)
}

/// Empties the effective, permitted and inheritable sets, and so the ambient one, which is never more than those.
pub(super) fn drop_capabilities() -> Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: 64-bit sets, in two halves of three words.
    const VERSION_3: u32 = 0x2008_0522;
    // The layouts of __user_cap_header_struct (version, pid 0 for oneself) and of two __user_cap_data_struct.
    let mut header: [u32; 2] = [VERSION_3, 0];
    let sets = [0_u32; 6];
    let arguments = [header.as_mut_ptr().expose_provenance(), sets.as_ptr().expose_provenance()];
    // SAFETY: the kernel reads a header and, for its version, two structs of three words each. It would write to the
    // header if it did not know the version.
    unsafe { call(libc::SYS_capset, [arguments[0], arguments[1], 0, 0, 0, 0]) }.map(drop)
}

/// No number in another PID namespace.
pub(super) fn getppid() -> Result<usize, Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_getppid, &[]) }
}

pub(super) fn restrict_by_landlock(ruleset: RawFd) -> Result<(), Errno> {
    // SAFETY: it takes numbers.
    unsafe { reading(libc::SYS_landlock_restrict_self, &[fd(ruleset), 0]) }.map(drop)
}

/// Puts a filter on this process. Answers what the kernel does: with SECCOMP_FILTER_FLAG_NEW_LISTENER, a descriptor.
pub(super) fn set_filter(code: &[sock_filter], flags: libc::c_ulong) -> Result<RawFd, Errno> {
    #[repr(C)]
    struct Program {
        length: u16,
        code: *const sock_filter,
    }
    // The kernel refuses more than 4096 instructions.
    let length = u16::try_from(code.len()).map_err(|_| Errno(libc::EINVAL))?;
    let program = Program { length, code: code.as_ptr() };
    let operation = libc::SECCOMP_SET_MODE_FILTER as usize;
    // SAFETY: the kernel reads the struct, and as many instructions as that says there are.
    unsafe { reading(libc::SYS_seccomp, &[operation, flags as usize, (&raw const program).expose_provenance()]) }
        .map(new)
}

// -------------------------------------------------------------------------------------------------------------- end

/// Strings for a program, by their addresses.
pub(super) struct Vector<'a>(&'a [*const libc::c_char]);

impl<'a> Vector<'a> {
    /// # Safety
    /// The pointers are to strings that end with a NUL, the last one is null, and all live as long as the slice.
    pub(super) unsafe fn new(pointers: &'a [*const libc::c_char]) -> Self {
        Self(pointers)
    }
}

/// Executes a program by its descriptor, or by its path. Returns only when it fails. The token stands in a register that
/// the call does not use, for the filter.
pub(super) fn execveat(
    program: Result<RawFd, &CStr>,
    argv: &Vector<'_>,
    envp: &Vector<'_>,
    token: u64,
) -> Result<(), Errno> {
    let (directory, name, flags) = match program {
        Ok(descriptor) => (fd(descriptor), path(c""), libc::AT_EMPTY_PATH as usize),
        Err(name) => (AT_FDCWD, path(name), 0),
    };
    let (argv, envp) = (argv.0.as_ptr().expose_provenance(), envp.0.as_ptr().expose_provenance());
    // SAFETY: a path with its NUL, and vectors that are what `Vector::new` was promised. This memory stays for those
    // who are in it as well: the program gets another.
    unsafe { reading(libc::SYS_execveat, &[directory, name, argv, envp, flags, token as usize]) }.map(drop)
}

pub(super) fn exit(status: usize) -> ! {
    loop {
        // It does not return.
        // SAFETY: it takes numbers.
        let _ = unsafe { reading(libc::SYS_exit_group, &[status]) };
    }
}

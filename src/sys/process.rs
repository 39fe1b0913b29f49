//! `[both]` Processes by their pidfds, and what the kernel says about this one and what it can be made to do.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;

/// How a process ended, and what it used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    pub(crate) user_time: Duration,
    pub(crate) system_time: Duration,
}

/// Takes the status of a child that has ended, and nothing of one that has not. ECHILD: somebody else has taken it.
pub(crate) fn try_reap(pidfd: BorrowedFd<'_>, pid: libc::pid_t) -> io::Result<Option<Exit>> {
    // SAFETY: integers, of which all may be zero.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let options = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    let mut wait = |kind: libc::idtype_t, id: libc::c_int| {
        let (info, usage) = (&raw mut info, &raw mut usage);
        // SAFETY: the kernel writes one siginfo_t and one rusage.
        let status = unsafe { libc::syscall(libc::SYS_waitid, kind, id, info, options, usage) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match wait(libc::P_PIDFD, pidfd.as_raw_fd()) {
        // Before Linux 5.4. The number is the child's for as long as nobody has waited for it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => wait(libc::P_PID, pid)?,
        result => result?,
    }
    // SAFETY: waitid has filled in these fields; of a process that has not ended, with zeros.
    let (ended, status) = unsafe { (info.si_pid() != 0, info.si_status()) };
    if !ended {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    };
    let time = |time: libc::timeval| {
        let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or(0));
        seconds + Duration::from_micros(time.tv_usec.try_into().unwrap_or(0))
    };
    let (user_time, system_time) = (time(usage.ru_utime), time(usage.ru_stime));
    Ok(Some(Exit { status: ExitStatus::from_raw(status), user_time, system_time }))
}

/// Waits for a child that is ending. Nothing, if somebody else has taken its status.
pub(crate) fn reap(pidfd: &OwnedFd, pid: libc::pid_t) -> Option<Exit> {
    loop {
        if let Some(exit) = try_reap(pidfd.as_fd(), pid).transpose() {
            return exit.ok();
        }
        let _ = nix::poll::poll(
            &mut [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)],
            nix::poll::PollTimeout::NONE,
        );
    }
}

/// ESRCH if it has ended and was waited for; it is never another process.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    let (fd, nothing) = (pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: takes numbers, and a null pointer for the signal's usual information.
    let status = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, nothing, 0) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A pidfd of this process.
pub(crate) fn this() -> io::Result<OwnedFd> {
    pidfd(std::process::id())
}

/// A pidfd of the process that has this number now, or of the one that has a thread of this number.
pub(crate) fn pidfd(process: u32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let open = |flags: libc::c_uint| {
        // SAFETY: takes numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, flags) };
        i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
    };
    // Of a thread that is not its process's first, a pidfd has to be asked for by name (Linux 6.9); a signal to it goes
    // to the whole process then.
    let fd = open(0).or_else(|_| open(PIDFD_THREAD))?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// O_EXCL (linux/pidfd.h).
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

/// Whether the kernel keeps no exit status for this process's children, because it ignores SIGCHLD (SIG_IGN, or
/// SA_NOCLDWAIT).
pub(crate) fn ignores_children() -> bool {
    // SAFETY: integers and pointers, of which all may be zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only, and the C library writes one struct.
    unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
}

/// Whether the file has capabilities of its own (the attribute `security.capability`): executing it can do more than
/// executing another.
pub(crate) fn has_capabilities(path: &std::ffi::CStr) -> bool {
    // SAFETY: two strings with their NUL, and no room for an answer, of which the length is asked.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// How many capabilities this kernel knows. Asked once.
pub(crate) fn capabilities() -> u8 {
    static KNOWN: OnceLock<u8> = OnceLock::new();
    // SAFETY: takes numbers.
    let knows = |capability: &u8| unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(*capability)) } >= 0;
    *KNOWN.get_or_init(|| (0..64).take_while(knows).count().try_into().unwrap_or(64))
}

/// PR_GET_DUMPABLE.
pub(crate) fn dumpable() -> libc::c_int {
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }
}

/// PR_SET_DUMPABLE. The kernel takes no 2, which is no more than 0 to anybody but root.
pub(crate) fn set_dumpable(value: libc::c_int) {
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_long::from(value == 1), 0, 0, 0) };
}

/// Whether this process has a system-call filter (PR_GET_SECCOMP).
pub(crate) fn is_filtered() -> bool {
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) == 2 }
}

/// The Landlock ABI of this kernel (LANDLOCK_CREATE_RULESET_VERSION).
pub(crate) fn landlock_abi() -> io::Result<libc::c_long> {
    // SAFETY: a null pointer of size 0 with this flag asks for the version.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) };
    if abi >= 0 { Ok(abi) } else { Err(io::Error::last_os_error()) }
}

/// Whether a mount can be restricted together with what is mounted beneath it: mount_setattr(2), Linux 5.12.
pub(crate) fn restricts_trees() -> bool {
    // SAFETY: no descriptor, an empty path, and no struct, of size 0: nothing is changed.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Whether a filter can ask another process what to do with a system call (SECCOMP_RET_USER_NOTIF, Linux 5.0). Asked
/// once.
pub(crate) fn filters_can_notify() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| knows_action(libc::SECCOMP_RET_USER_NOTIF))
}

/// Whether this kernel has system-call filters (Linux 4.14 tells).
pub(crate) fn has_filters() -> bool {
    knows_action(libc::SECCOMP_RET_KILL_PROCESS)
}

fn knows_action(action: u32) -> bool {
    // SAFETY: the kernel reads 32 bits from the pointer, which is to a local of that size.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Whether this process has one thread only. An error where neither the kernel says it nor /proc.
pub(crate) fn has_one_thread() -> io::Result<bool> {
    // To leave one's threads is no operation for a thread without any, and invalid for others.
    // SAFETY: takes a number. It changes nothing, whether it succeeds or fails.
    let status = unsafe { libc::syscall(libc::SYS_unshare, libc::c_long::from(libc::CLONE_THREAD)) };
    if status == 0 {
        return Ok(true);
    }
    if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        return Ok(false);
    }
    Ok(fs::read_dir("/proc/self/task")?.count() == 1)
}

/// The hard limit of a resource: what a child's limit can be set to at most.
pub(crate) fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limits = [0_u64; 2];
    let (nothing, limits_at) = (std::ptr::null::<u64>(), limits.as_mut_ptr());
    // SAFETY: the kernel writes two words, as in struct rlimit64.
    let status = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, nothing, limits_at) };
    if status == 0 { Ok(limits[1]) } else { Err(io::Error::last_os_error()) }
}

/// A number that nobody else knows.
pub(crate) fn random() -> io::Result<u64> {
    let mut number = [0; 8];
    loop {
        // SAFETY: the kernel writes at most as many bytes as there are.
        let got = unsafe { libc::getrandom(number.as_mut_ptr().cast(), number.len(), 0) };
        if usize::try_from(got) == Ok(number.len()) {
            return Ok(u64::from_ne_bytes(number));
        }
        let error = io::Error::last_os_error();
        if got < 0 && error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

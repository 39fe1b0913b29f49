//! `[both]` What the kernel says about this process, and about what it can be made to do.

use std::fs;
use std::io;
use std::sync::OnceLock;

/// Whether a filter can ask another process what to do with a system call (SECCOMP_RET_USER_NOTIF, Linux 5.0). Asked
/// once.
pub(crate) fn filters_can_notify() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
        // SAFETY: the kernel reads 32 bits from the pointer, which is to a local of that size.
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
    })
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

//! `[broker -> worker]` System-call filters.
//!
//! Two filters work together. The first lists what is allowed; anything else is ENOSYS, so that the C library takes its
//! older ways where it knows some. The second lists what is refused by name with EPERM: it adds no protection, only a
//! clearer word. The kernel takes the strictest answer of all filters, and of two errnos that of the later filter.
//!
//! A filter sees numbers and flags, not what a pointer points to.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Cmp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// For how much of its life a filter lets a process do things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// From its first instruction: it may load itself, and execute a program in its place.
    Start,
    /// Once it runs: it computes, makes threads, and uses the descriptors that it holds.
    Locked,
}

/// The filters for a stage, in the order in which they are to be installed. `signals_are_scoped` says that something
/// else (Landlock, ABI 6) refuses signals to other processes; without it, tgkill(2) is refused.
pub(super) fn filters(stage: Stage, signals_are_scoped: bool) -> io::Result<Vec<BpfProgram>> {
    let allowed = allowed(stage, signals_are_scoped).map_err(backend)?;
    let refused = refused(stage).map_err(backend)?;
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    Ok(vec![compile(allowed, enosys, SeccompAction::Allow)?, compile(refused, SeccompAction::Allow, eperm)?])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| {
        io::Error::new(io::ErrorKind::Unsupported, "no system-call filter is written for this architecture")
    })?;
    let filter = SeccompFilter::new(rules, otherwise, on_match, arch).map_err(backend)?;
    filter.try_into().map_err(backend)
}

fn backend(error: BackendError) -> io::Error {
    io::Error::other(error)
}

fn allowed(stage: Stage, signals_are_scoped: bool) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for group in [MEMORY, THREADS, SIGNALS, TIME, SELF, IO, WAITING, SOCKETS] {
        rules.extend(group.iter().map(|&number| (number, Vec::new())));
    }
    if stage == Stage::Start {
        rules.extend(START.iter().map(|&number| (number, Vec::new())));
    }
    if signals_are_scoped {
        rules.insert(libc::SYS_tgkill, Vec::new());
    }
    rules.extend(conditional(stage)?);
    Ok(rules)
}

/// System calls of which some uses are allowed: each vector is a list of alternatives.
fn conditional(stage: Stage) -> Result<Rules, BackendError> {
    let only = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|&value| rule(vec![is(argument, value)?])).collect()
    };
    let no_programs = ATTACH.iter().map(|&option| not(2, option)).collect::<Result<_, _>>()?;
    let thread = libc::CLONE_THREAD as u64;
    let mut rules = Rules::from([
        // Threads. A process of the worker's would outlive it, with its channel.
        (libc::SYS_clone, vec![rule(vec![masked(0, NAMESPACES | thread, thread)?])?]),
        (libc::SYS_fcntl, only(1, FCNTL)?),
        (libc::SYS_ioctl, only(1, IOCTL)?),
        (libc::SYS_prctl, only(0, PRCTL)?),
        // Its own limits, to look at or to lower.
        (libc::SYS_prlimit64, only(0, &[0])?),
        // A datagram socket of a pair can send to any named socket: only the connected kinds. Of UNIX sockets: of
        // another family the kernel makes two sockets, and loads its module, before it finds that there are no pairs of
        // them.
        (libc::SYS_socketpair, vec![pair_of(libc::SOCK_STREAM as u64)?, pair_of(libc::SOCK_SEQPACKET as u64)?]),
        // Not the other write flags: RWF_NOAPPEND (Linux 6.9) writes over a file that was granted for appending.
        (libc::SYS_pwritev2, vec![rule(vec![masked(5, !WRITE_FLAGS, 0)?])?]),
        // A listener that was shut down is an unconnected socket, and MSG_FASTOPEN connects that to any address, past
        // connect(2) and past Landlock.
        (libc::SYS_sendmsg, vec![rule(vec![masked(2, libc::MSG_FASTOPEN as u64, 0)?])?]),
        (libc::SYS_sendmmsg, vec![rule(vec![masked(3, libc::MSG_FASTOPEN as u64, 0)?])?]),
        // A program on a listener that shares its port would choose among the connections of the others.
        (libc::SYS_setsockopt, vec![rule(vec![not(1, libc::SOL_SOCKET as u64)?])?, rule(no_programs)?]),
        // To the peer of the socket, not to an address.
        (libc::SYS_sendto, vec![rule(vec![SeccompCondition::new(4, Len::Qword, Cmp::Eq, 0)?])?]),
    ]);
    if stage == Stage::Locked {
        // The C library asks fstat in this way. The path, which should be empty, is out of the filter's sight.
        rules.insert(libc::SYS_newfstatat, only(3, &[libc::AT_EMPTY_PATH as u64])?);
        rules.insert(libc::SYS_statx, vec![rule(vec![masked(2, EMPTY_PATH, EMPTY_PATH)?])?]);
    }
    Ok(rules)
}

fn refused(stage: Stage) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    rules.extend(REFUSED.iter().map(|&number| (number, Vec::new())));
    rules.insert(libc::SYS_fcntl, vec![rule(vec![is(1, libc::F_SETFL as u64)?])?]);
    // A process, not a thread.
    rules.insert(libc::SYS_clone, vec![rule(vec![masked(0, libc::CLONE_THREAD as u64, 0)?])?]);
    if stage == Stage::Locked {
        rules.extend(REFUSED_WHEN_LOCKED.iter().map(|&number| (number, Vec::new())));
    }
    Ok(rules)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Len::Dword, Cmp::Eq, value)
}

fn not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Len::Dword, Cmp::Ne, value)
}

fn pair_of(kind: u64) -> Result<SeccompRule, BackendError> {
    rule(vec![is(0, libc::AF_UNIX as u64)?, masked(1, SOCKET_TYPE, kind)?])
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Len::Dword, Cmp::MaskedEq(mask), value)
}

const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;
/// The bits of socketpair's second argument that are the type; SOCK_CLOEXEC and SOCK_NONBLOCK lie above.
const SOCKET_TYPE: u64 = 0xf;
/// RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND (include/uapi/linux/fs.h).
const WRITE_FLAGS: u64 = 0x1f;
/// Socket options that put a program on a socket.
const ATTACH: &[u64] = &[
    libc::SO_ATTACH_FILTER as u64,
    libc::SO_ATTACH_BPF as u64,
    libc::SO_ATTACH_REUSEPORT_CBPF as u64,
    libc::SO_ATTACH_REUSEPORT_EBPF as u64,
];
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

const MEMORY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
];

const THREADS: &[i64] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "riscv64")]
    libc::SYS_riscv_flush_icache,
];

const SIGNALS: &[i64] = &[
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pause,
];

const TIME: &[i64] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_setitimer,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

const SELF: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_getcwd,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_getuid,
    // Adds filters and takes none off: the second filter of a stage needs it.
    libc::SYS_seccomp,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getpgrp,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_getrlimit,
];

const IO: &[i64] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fadvise64,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_sync_file_range,
    libc::SYS_tee,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
];

const WAITING: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_eventfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
];

/// Of sockets that it holds. None of these makes one that reaches anybody new.
const SOCKETS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
];

/// What a program needs to get going; Landlock decides which files it reaches with these.
const START: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// F_SETFL is not among them: its holder could take O_APPEND off a descriptor that was granted for appending.
const FCNTL: &[u64] = &[
    libc::F_DUPFD as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_GETLK as u64,
    libc::F_SETLK as u64,
    libc::F_SETLKW as u64,
    libc::F_OFD_GETLK as u64,
    libc::F_OFD_SETLK as u64,
    libc::F_OFD_SETLKW as u64,
    libc::F_ADD_SEALS as u64,
    libc::F_GET_SEALS as u64,
    libc::F_GETPIPE_SZ as u64,
];

/// Not among them: TIOCSTI and TIOCLINUX, which type into a terminal that the worker shares with its starter.
#[allow(clippy::unnecessary_cast, reason = "musl declares them as c_int")]
const IOCTL: &[u64] = &[
    libc::FIOCLEX as u64,
    libc::FIONCLEX as u64,
    libc::FIONBIO as u64,
    libc::FIONREAD as u64,
    libc::TCGETS as u64,
    libc::TIOCGWINSZ as u64,
];

const PRCTL: &[u64] = &[
    libc::PR_CAPBSET_READ as u64,
    libc::PR_GET_DUMPABLE as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_GET_NO_NEW_PRIVS as u64,
    libc::PR_GET_SECCOMP as u64,
    libc::PR_SET_DUMPABLE as u64,
    libc::PR_SET_NAME as u64,
    libc::PR_SET_NO_NEW_PRIVS as u64,
    libc::PR_SET_VMA as u64,
];

/// Refused from the start, with EPERM instead of ENOSYS. Not a list of everything that is refused: that is what is not
/// allowed above. `clone3` must stay out of it: the C library takes `clone` only after ENOSYS.
const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_chroot,
    libc::SYS_connect,
    libc::SYS_delete_module,
    libc::SYS_fallocate,
    libc::SYS_fanotify_init,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_finit_module,
    libc::SYS_fsetxattr,
    libc::SYS_fsopen,
    libc::SYS_ftruncate,
    libc::SYS_init_module,
    libc::SYS_inotify_init1,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_lsetxattr,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_renameat2,
    libc::SYS_request_key,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_semget,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setns,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setsid,
    libc::SYS_setuid,
    libc::SYS_setxattr,
    libc::SYS_shmget,
    libc::SYS_socket,
    libc::SYS_swapon,
    libc::SYS_symlinkat,
    libc::SYS_syslog,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_umount2,
    libc::SYS_unlinkat,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

const REFUSED_WHEN_LOCKED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_faccessat,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

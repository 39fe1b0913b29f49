//! What a worker that was taken over tries, before and after `lockdown`, and what comes of it. Every attempt is also
//! made outside the sandbox, to show that it is one: there it works, or fails for another reason.
//!
//! `cargo test --test escape -- --nocapture` prints the table.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "arguments of system calls are plain words"
)]
#![allow(unsafe_code, reason = "what is attempted has no safe form")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use fdbroker::{Broker, Client, Layer, Policy, Preset, Rule, Sandbox, Stdio, Worker};

/// What may come of an attempt: errnos, or 0 for success.
type Answers = &'static [i32];

const WORKS: Answers = &[0];
/// Refused by name, by a filter.
const EPERM: Answers = &[libc::EPERM];
/// Not allowed, by a filter.
const ENOSYS: Answers = &[libc::ENOSYS];
/// By Landlock.
const EACCES: Answers = &[libc::EACCES];

struct Attempt {
    name: &'static str,
    /// What a worker gets from its first instruction on.
    start: Answers,
    /// What it gets after `lockdown`.
    locked: Answers,
    /// Why the same comes of it outside, if it does.
    same_outside: Option<&'static str>,
    make: Box<dyn FnOnce() -> io::Result<i64>>,
}

/// Where and as what the attempts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Start,
    Locked,
}

/// What the attempts are made with.
struct Means {
    place: Place,
    directory: PathBuf,
    /// The process that started this one.
    parent: usize,
    /// A file that was granted, or opened, for appending.
    append: File,
    listener: TcpListener,
    /// Where somebody listens.
    target: SocketAddrV4,
}

// ---------------------------------------------------------------------------------------------------- the attempts

fn attempts(means: Means) -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut add = |name, start, locked, make: Box<dyn FnOnce() -> io::Result<i64>>| {
        all.push(Attempt { name, start, locked, same_outside: None, make });
    };
    let Means { place, directory, parent, append, listener, target } = means;
    let fd = number(&append);
    let at = |name: &str| leak(&directory.join(name));
    let own = leak(Path::new(&format!("/proc/self/fd/{fd}")));
    let of_parent = |name: &str| leak(Path::new(&format!("/proc/{parent}/{name}")));
    let cwd = libc::AT_FDCWD as usize;
    let file = at("file");

    // Files, by name.
    add("open to read", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, text(c"/etc/passwd"), 0]));
    add("open to read, by open(2)", EACCES, EPERM, raw(libc::SYS_open, &[text(c"/etc/passwd"), 0]));
    let how = Box::leak(Box::new([0u64; 3])).as_ptr() as usize;
    add("open to read, by openat2(2)", EACCES, EPERM, raw(libc::SYS_openat2, &[cwd, text(c"/etc/passwd"), how, 24]));
    add("open to write", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, file, libc::O_WRONLY as usize]));
    add(
        "open and truncate",
        EACCES,
        EPERM,
        raw(libc::SYS_openat, &[cwd, file, (libc::O_RDWR | libc::O_TRUNC) as usize]),
    );
    // Landlock does not refuse it: such a descriptor can only be asked about, and executed where Landlock allows that.
    add("open as O_PATH", WORKS, EPERM, raw(libc::SYS_openat, &[cwd, text(c"/etc/passwd"), libc::O_PATH as usize]));
    add("open a directory", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, text(c"/"), libc::O_DIRECTORY as usize]));
    add("open /proc/self/status", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, text(c"/proc/self/status"), 0]));
    add(
        "open /proc/self/mem",
        EACCES,
        EPERM,
        raw(libc::SYS_openat, &[cwd, text(c"/proc/self/mem"), libc::O_RDWR as usize]),
    );
    add("open the parent's environment", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, of_parent("environ"), 0]));
    add("open the parent's memory", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, of_parent("mem"), 0]));
    add(
        "open through the parent's root",
        EACCES,
        EPERM,
        raw(libc::SYS_openat, &[cwd, of_parent("root/etc/passwd"), 0]),
    );
    let create = (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as usize;
    add("create a file", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, at("new"), create, 0o600]));
    add("create a file, by creat(2)", EPERM, EPERM, raw(libc::SYS_creat, &[at("new, too"), 0o600]));
    let unnamed = (libc::O_WRONLY | libc::O_TMPFILE) as usize;
    add("create an unnamed file", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, at(""), unnamed, 0o600]));
    add("make a directory", EPERM, EPERM, raw(libc::SYS_mkdirat, &[cwd, at("directory"), 0o700]));
    add("make a symbolic link", EPERM, EPERM, raw(libc::SYS_symlinkat, &[text(c"/etc/passwd"), cwd, at("symlink")]));
    add("make a hard link", EPERM, EPERM, raw(libc::SYS_linkat, &[cwd, file, cwd, at("link"), 0]));
    add("make a FIFO", EPERM, EPERM, raw(libc::SYS_mknodat, &[cwd, at("fifo"), (libc::S_IFIFO | 0o600) as usize, 0]));
    add("rename", EPERM, EPERM, raw(libc::SYS_renameat2, &[cwd, at("link"), cwd, at("link, renamed"), 0]));
    add("rename, by renameat(2)", ENOSYS, ENOSYS, raw(libc::SYS_renameat, &[cwd, at("nothing"), cwd, at("something")]));
    add("unlink", EPERM, EPERM, raw(libc::SYS_unlinkat, &[cwd, at("link, renamed"), 0]));
    add("change a mode", EPERM, EPERM, raw(libc::SYS_fchmodat, &[cwd, file, 0o666]));
    add("change a mode, by fchmodat2(2)", ENOSYS, ENOSYS, raw(452, &[cwd, file, 0o666, 0]));
    add("change an owner", EPERM, EPERM, raw(libc::SYS_fchownat, &[cwd, file, !0, !0, 0]));
    add("change times", EPERM, EPERM, raw(libc::SYS_utimensat, &[cwd, file, 0, 0]));
    add("truncate, by name", EPERM, EPERM, raw(libc::SYS_truncate, &[file, 5]));
    add("set an attribute", EPERM, EPERM, raw(libc::SYS_setxattr, &[at("nothing"), text(c"user.a"), file, 1, 0]));
    // A known limit: whether there is a file, and how large it is, can be asked. After lockdown this way only.
    add("stat", WORKS, ENOSYS, raw(libc::SYS_newfstatat, &[cwd, text(c"/etc/passwd"), scratch(), 0]));
    let empty = libc::AT_EMPTY_PATH as usize;
    add(
        "stat, by AT_EMPTY_PATH",
        WORKS,
        WORKS,
        raw(libc::SYS_newfstatat, &[cwd, text(c"/etc/passwd"), scratch(), empty]),
    );
    add("access", WORKS, EPERM, raw(libc::SYS_access, &[text(c"/etc/passwd"), 0]));
    add("read a link", WORKS, EPERM, raw(libc::SYS_readlinkat, &[cwd, text(c"/proc/self/exe"), scratch(), 256]));
    add(
        "read a link of the parent",
        EACCES,
        EPERM,
        raw(libc::SYS_readlinkat, &[cwd, of_parent("exe"), scratch(), 256]),
    );
    add(
        "make a file handle",
        EPERM,
        EPERM,
        raw(libc::SYS_name_to_handle_at, &[cwd, text(c"/nowhere"), scratch(), scratch(), 0]),
    );
    add("open by file handle", EPERM, EPERM, raw(libc::SYS_open_by_handle_at, &[cwd, 0, 0]));
    add("chroot", EPERM, EPERM, raw(libc::SYS_chroot, &[text(c"/")]));
    add("chdir", EPERM, EPERM, raw(libc::SYS_chdir, &[text(c"/")]));
    add("mount", EPERM, EPERM, raw(libc::SYS_mount, &[text(c"none"), text(c"/nowhere"), text(c"tmpfs"), 0, 0]));
    add("unmount", EPERM, EPERM, raw(libc::SYS_umount2, &[text(c"/nowhere"), 0]));
    add("pivot_root", EPERM, EPERM, raw(libc::SYS_pivot_root, &[text(c"/nowhere"), text(c"/nowhere")]));
    add("fsopen", EPERM, EPERM, raw(libc::SYS_fsopen, &[text(c"tmpfs"), 0]));
    add("open_tree", EPERM, EPERM, raw(libc::SYS_open_tree, &[cwd, text(c"/"), 0]));
    add("mount_setattr", ENOSYS, ENOSYS, raw(442, &[cwd, text(c"/nowhere"), 0, scratch(), 32]));
    add("watch files (inotify)", EPERM, EPERM, raw(libc::SYS_inotify_init1, &[0]));
    add("watch files (fanotify)", EPERM, EPERM, raw(libc::SYS_fanotify_init, &[0, 0]));

    // A descriptor that was granted for appending, and one that is there from the start.
    let nonblock = libc::O_NONBLOCK as usize;
    add("reopen what was granted", EACCES, EPERM, raw(libc::SYS_openat, &[cwd, own, libc::O_RDWR as usize]));
    // A known limit: a pipe of the broker's own user, such as standard output may be, can be read from, too.
    let pipe = if common::is_root() { EACCES } else { WORKS };
    add(
        "reopen standard output to read",
        pipe,
        EPERM,
        raw(libc::SYS_openat, &[cwd, text(c"/proc/self/fd/1"), nonblock]),
    );
    add("take O_APPEND off", EPERM, EPERM, raw(libc::SYS_fcntl, &[fd, libc::F_SETFL as usize, 0]));
    let high = 1 << 32;
    add("take O_APPEND off, high bits", EPERM, EPERM, raw(libc::SYS_fcntl, &[fd, libc::F_SETFL as usize | high, 0]));
    add("F_SETOWN", ENOSYS, ENOSYS, raw(libc::SYS_fcntl, &[fd, libc::F_SETOWN as usize, parent]));
    add("F_SETLEASE", ENOSYS, ENOSYS, raw(libc::SYS_fcntl, &[fd, libc::F_SETLEASE as usize, libc::F_UNLCK as usize]));
    let overwrite = Box::leak(Box::new(libc::iovec { iov_base: text(c"overwritten") as *mut _, iov_len: 11 }));
    const RWF_NOAPPEND: usize = 0x20;
    add("write over, by RWF_NOAPPEND", ENOSYS, ENOSYS, {
        let overwrite = overwrite as *const _ as usize;
        Box::new(move || {
            // Outside, it was taken off a moment ago.
            call(libc::SYS_fcntl, &[fd, libc::F_SETFL as usize, libc::O_APPEND as usize]).ok();
            call(libc::SYS_pwritev2, &[fd, overwrite, 1, 0, 0, RWF_NOAPPEND])
        })
    });
    let ordinary = overwrite as *const _ as usize;
    add("append, by pwritev2", WORKS, WORKS, raw(libc::SYS_pwritev2, &[fd, ordinary, 1, 0, 0, 0]));
    add("ftruncate", EPERM, EPERM, raw(libc::SYS_ftruncate, &[fd, 5]));
    add("fallocate", EPERM, EPERM, raw(libc::SYS_fallocate, &[fd, 0, 0, 1 << 16]));
    add("fchmod", EPERM, EPERM, raw(libc::SYS_fchmod, &[fd, 0o666]));
    add("fchown", EPERM, EPERM, raw(libc::SYS_fchown, &[fd, !0, !0]));
    add("fsetxattr", EPERM, EPERM, raw(libc::SYS_fsetxattr, &[fd, text(c"nonsense"), file, 1, 0]));
    add("FICLONE", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, 0x4004_9409, fd]));
    add("FS_IOC_SETFLAGS", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, 0x4008_6602, scratch()]));
    add("FIOASYNC", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, libc::FIOASYNC as usize, scratch()]));
    add("TIOCSTI", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, libc::TIOCSTI as usize, scratch()]));
    add("TIOCSTI, high bits", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, libc::TIOCSTI as usize | high, scratch()]));
    add("TIOCLINUX", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, libc::TIOCLINUX as usize, scratch()]));
    add("TIOCSCTTY", ENOSYS, ENOSYS, raw(libc::SYS_ioctl, &[fd, libc::TIOCSCTTY as usize, 0]));

    // Sockets.
    for (name, family, kind) in [
        ("socket, TCP", libc::AF_INET, libc::SOCK_STREAM),
        ("socket, UDP", libc::AF_INET, libc::SOCK_DGRAM),
        ("socket, UDP over IPv6", libc::AF_INET6, libc::SOCK_DGRAM),
        ("socket, UNIX", libc::AF_UNIX, libc::SOCK_STREAM),
        ("socket, UNIX datagram", libc::AF_UNIX, libc::SOCK_DGRAM),
        ("socket, netlink", libc::AF_NETLINK, libc::SOCK_RAW),
    ] {
        add(name, EPERM, EPERM, raw(libc::SYS_socket, &[family as usize, kind as usize, 0]));
    }
    // These need privileges outside.
    add("socket, raw", EPERM, EPERM, raw(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_RAW as usize, 1]));
    add("socket, packet", EPERM, EPERM, raw(libc::SYS_socket, &[libc::AF_PACKET as usize, libc::SOCK_RAW as usize, 0]));
    let unix = libc::AF_UNIX as usize;
    let pair = |family: usize, kind: usize| raw(libc::SYS_socketpair, &[family, kind, 0, scratch()]);
    add("pair, stream", WORKS, WORKS, pair(unix, libc::SOCK_STREAM as usize));
    add("pair, seqpacket", WORKS, WORKS, pair(unix, (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as usize));
    add("pair, datagram", ENOSYS, ENOSYS, pair(unix, libc::SOCK_DGRAM as usize));
    add("pair, datagram, high bits", ENOSYS, ENOSYS, pair(unix, libc::SOCK_DGRAM as usize | high));
    add("pair, raw (the kernel makes it datagram)", ENOSYS, ENOSYS, pair(unix, libc::SOCK_RAW as usize));
    // They make no pair of it, but make the socket first, and load the module that has the family.
    add("pair, TCP", ENOSYS, ENOSYS, pair(libc::AF_INET as usize, libc::SOCK_STREAM as usize));
    add("pair, another family", ENOSYS, ENOSYS, pair(libc::AF_X25 as usize, libc::SOCK_SEQPACKET as usize));
    let address = address_of(target);
    let socket = number(&listener);
    add("connect", EPERM, EPERM, raw(libc::SYS_connect, &[socket, address, 16]));
    add("bind", EPERM, EPERM, raw(libc::SYS_bind, &[socket, address, 16]));
    add("listen", EPERM, EPERM, raw(libc::SYS_listen, &[socket, 5]));
    add("sendto, with an address", ENOSYS, ENOSYS, raw(libc::SYS_sendto, &[socket, address, 1, 0, address, 16]));
    add("sendto, lower half of the address 0", ENOSYS, ENOSYS, {
        Box::new(move || {
            let page = at_four_gigabytes()?;
            call(libc::SYS_sendto, &[socket, page, 1, libc::MSG_NOSIGNAL as usize, page, 16])
        })
    });

    // Processes.
    let seize = 0x4206;
    add("signal the parent", EPERM, EPERM, raw(libc::SYS_kill, &[parent, 0]));
    add("signal every process", EPERM, EPERM, raw(libc::SYS_kill, &[!0, 0]));
    add("signal the process group", EPERM, EPERM, raw(libc::SYS_kill, &[0, 0]));
    // Landlock's, or the filter's where Landlock does not refuse it.
    add("signal the parent, by tgkill(2)", EPERM, EPERM, raw(libc::SYS_tgkill, &[parent, parent, 0]));
    add("signal the parent, by tkill(2)", EPERM, EPERM, raw(libc::SYS_tkill, &[parent, 0]));
    let mut info = [0i32; 32];
    info[2] = libc::SI_QUEUE;
    let info = Box::leak(Box::new(info)).as_ptr() as usize;
    add("queue a signal", EPERM, EPERM, raw(libc::SYS_rt_sigqueueinfo, &[parent, 0, info]));
    add("pidfd of the parent", EPERM, EPERM, raw(libc::SYS_pidfd_open, &[parent, 0]));
    add("signal a pidfd", EPERM, EPERM, raw(libc::SYS_pidfd_send_signal, &[fd, 0, 0, 0]));
    add("take a descriptor of a pidfd", EPERM, EPERM, raw(libc::SYS_pidfd_getfd, &[fd, 0, 0]));
    add("trace the parent", EPERM, EPERM, raw(libc::SYS_ptrace, &[seize, parent, 0, 0]));
    add("be traced", EPERM, EPERM, raw(libc::SYS_ptrace, &[!0, 0, 0, 0]));
    add("read the parent's memory", EPERM, EPERM, raw(libc::SYS_process_vm_readv, &[parent, 0, 0, 0, 0, 0]));
    add("write the parent's memory", EPERM, EPERM, raw(libc::SYS_process_vm_writev, &[parent, 0, 0, 0, 0, 0]));
    add("compare with the parent", EPERM, EPERM, raw(libc::SYS_kcmp, &[parent, parent, 2, 0, 0]));
    add("process_madvise", ENOSYS, ENOSYS, raw(440, &[fd, 0, 0, 0, 0]));
    add("limits of the parent", ENOSYS, ENOSYS, raw(libc::SYS_prlimit64, &[parent, 7, 0, scratch()]));
    add("priority of the parent", ENOSYS, ENOSYS, raw(libc::SYS_getpriority, &[0, parent]));
    add("processors of the parent", ENOSYS, ENOSYS, raw(libc::SYS_sched_setaffinity, &[parent, 0, 0]));
    let child = libc::SIGCHLD as usize;
    let clone = |flags: usize| -> Box<dyn FnOnce() -> io::Result<i64>> { Box::new(move || cloned(flags)) };
    add("fork", EPERM, EPERM, clone(child));
    add("fork, high bits", EPERM, EPERM, clone(child | high));
    add("fork a child of the parent", EPERM, EPERM, clone(child | libc::CLONE_PARENT as usize));
    add("fork into a user namespace", EPERM, EPERM, clone(child | libc::CLONE_NEWUSER as usize));
    add("fork into a mount namespace", EPERM, EPERM, clone(child | (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as usize));
    add("fork, by fork(2)", EPERM, EPERM, Box::new(|| child_ends(call(libc::SYS_fork, &[]))));
    let arguments = Box::leak(Box::new([0u64; 11]));
    arguments[4] = libc::SIGCHLD as u64;
    let arguments = arguments.as_ptr() as usize;
    add("fork, by clone3(2)", ENOSYS, ENOSYS, Box::new(move || child_ends(call(libc::SYS_clone3, &[arguments, 88]))));
    add("unshare", EPERM, EPERM, raw(libc::SYS_unshare, &[libc::CLONE_FS as usize]));
    add("join a namespace", EPERM, EPERM, raw(libc::SYS_setns, &[fd, 0]));
    add("execute another program", EPERM, EPERM, executed(place, c"/bin/true"));
    add("execute a shell", EPERM, EPERM, executed(place, c"/bin/sh"));
    add("setuid(0)", EPERM, EPERM, raw(libc::SYS_setuid, &[0]));
    add("setresuid", EPERM, EPERM, raw(libc::SYS_setresuid, &[!0, !0, !0]));
    add("setgid", EPERM, EPERM, raw(libc::SYS_setgid, &[0]));
    add("setgroups", EPERM, EPERM, raw(libc::SYS_setgroups, &[0, 0]));
    add("setfsuid", EPERM, EPERM, raw(libc::SYS_setfsuid, &[!0]));
    add("setsid", EPERM, EPERM, raw(libc::SYS_setsid, &[]));
    add("setpgid", ENOSYS, ENOSYS, raw(libc::SYS_setpgid, &[0, 0]));
    add("capset", EPERM, EPERM, raw(libc::SYS_capset, &[0, 0]));
    add("PR_SET_SECCOMP", ENOSYS, ENOSYS, raw(libc::SYS_prctl, &[libc::PR_SET_SECCOMP as usize, 2, 0, 0, 0]));
    add("PR_SET_PDEATHSIG", ENOSYS, ENOSYS, raw(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, 0, 0, 0, 0]));
    add(
        "PR_SET_PDEATHSIG, high bits",
        ENOSYS,
        ENOSYS,
        raw(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize | high, 0]),
    );
    add("PR_SET_PTRACER", ENOSYS, ENOSYS, raw(libc::SYS_prctl, &[libc::PR_SET_PTRACER as usize, parent, 0, 0, 0]));
    add("PR_CAP_AMBIENT", ENOSYS, ENOSYS, raw(libc::SYS_prctl, &[libc::PR_CAP_AMBIENT as usize, 4, 0, 0, 0]));
    add("PR_SET_MM", ENOSYS, ENOSYS, raw(libc::SYS_prctl, &[libc::PR_SET_MM as usize, 99, 0, 0, 0]));
    add("personality", ENOSYS, ENOSYS, raw(libc::SYS_personality, &[0xffff_ffff]));

    // The rest of the kernel.
    for (name, number) in [
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("mq_open", libc::SYS_mq_open),
        ("shmget", libc::SYS_shmget),
        ("syslog", libc::SYS_syslog),
        ("init_module", libc::SYS_init_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("reboot", libc::SYS_reboot),
        ("swapon", libc::SYS_swapon),
        ("iopl", libc::SYS_iopl),
    ] {
        // Senseless arguments: each fails outside, in its own way.
        let arguments = [if name == "userfaultfd" { 0 } else { 77 }, 0, 0, !0, 0, 0];
        add(name, EPERM, EPERM, raw(number, &arguments));
    }
    add("sethostname", ENOSYS, ENOSYS, raw(libc::SYS_sethostname, &[0, !0]));
    for (name, number) in [
        ("io_setup", libc::SYS_io_setup),
        ("modify_ldt", libc::SYS_modify_ldt),
        ("vmsplice", libc::SYS_vmsplice),
        ("clock_settime", libc::SYS_clock_settime),
        ("timer_create", libc::SYS_timer_create),
        ("semop", libc::SYS_semop),
        ("move_pages", libc::SYS_move_pages),
        ("quotactl", libc::SYS_quotactl),
    ] {
        add(name, ENOSYS, ENOSYS, raw(number, &[77, 0, 0, 0, 0, 0]));
    }
    const X32: i64 = 0x4000_0000;
    add("getpid of x32", ENOSYS, ENOSYS, raw(libc::SYS_getpid | X32, &[]));
    add("execve of x32", ENOSYS, ENOSYS, raw(520 | X32, &[0, 0, 0]));
    add("a number beyond all", ENOSYS, ENOSYS, raw(9999, &[]));

    // One instruction that lets everything pass, and the header that names it.
    let instruction: &'static [u64; 1] = Box::leak(Box::new([u64::from_ne_bytes([6, 0, 0, 0, 255, 255, 255, 255])]));
    let program: &'static [usize; 2] = Box::leak(Box::new([1, instruction.as_ptr() as usize]));
    let level = libc::SOL_SOCKET as usize;
    let filter = libc::SO_ATTACH_FILTER as usize;
    let attach = [socket, level, filter, program.as_ptr() as usize, size_of_val(program)];
    add("put a program on a socket", ENOSYS, ENOSYS, raw(libc::SYS_setsockopt, &attach));
    let one: &'static i32 = Box::leak(Box::new(1));
    let option = [socket, level, libc::SO_KEEPALIVE as usize, std::ptr::from_ref(one) as usize, 4];
    add("set another option", WORKS, WORKS, raw(libc::SYS_setsockopt, &option));

    // Last, because it uses the listener up: a listener that was shut down is an unconnected socket, and the first
    // data of a TCP Fast Open connects it to any address.
    add("connect, by sendmsg", ENOSYS, ENOSYS, {
        let name = address;
        Box::new(move || {
            call(libc::SYS_shutdown, &[socket, libc::SHUT_RDWR as usize])?;
            let (message, _) = message_to(name);
            call(libc::SYS_sendmsg, &[socket, message, FAST_OPEN])
        })
    });
    add("connect, by sendmmsg", ENOSYS, ENOSYS, {
        Box::new(move || {
            let again = TcpListener::bind("127.0.0.1:0");
            // Inside there is no second one; the filter answers before the socket is looked at.
            let socket = again.as_ref().map_or(socket, number);
            call(libc::SYS_shutdown, &[socket, libc::SHUT_RDWR as usize]).ok();
            let (_, messages) = message_to(address);
            let result = call(libc::SYS_sendmmsg, &[socket, messages, 1, FAST_OPEN]);
            drop((again, listener, append));
            result
        })
    });

    for attempt in &mut all {
        attempt.same_outside = match attempt.name {
            "getpid of x32" | "execve of x32" => Some("few kernels have x32"),
            "reopen standard output to read" => Some("it is the kernel's own check"),
            "a number beyond all" => Some("no kernel has it"),
            "pair, stream"
            | "pair, seqpacket"
            | "append, by pwritev2"
            | "stat, by AT_EMPTY_PATH"
            | "set another option" => Some("it is allowed"),
            _ if attempt.start == WORKS => Some("it is allowed at first"),
            _ => None,
        };
    }
    all
}

const FAST_OPEN: usize = (libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL) as usize;

fn call(number: i64, arguments: &[usize]) -> io::Result<i64> {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: whatever the kernel does with the arguments, it does to the memory they name: strings, and buffers that
    // are leaked (`scratch`, `leak`) and nobody else uses. Calls that make a process go through `child_ends`.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn raw(number: i64, arguments: &[usize]) -> Box<dyn FnOnce() -> io::Result<i64>> {
    let arguments = arguments.to_vec();
    Box::new(move || call(number, &arguments))
}

fn text(text: &'static std::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

fn leak(path: &Path) -> usize {
    let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    text.into_raw() as usize
}

/// A buffer for whatever the kernel writes.
fn scratch() -> usize {
    Box::leak(Box::new([0u64; 512])).as_mut_ptr() as usize
}

fn number(fd: &impl AsRawFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap()
}

fn address_of(address: SocketAddrV4) -> usize {
    let mut bytes = [0u8; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&address.ip().octets());
    Box::leak(Box::new(bytes)).as_ptr() as usize
}

/// A msghdr, and an array of one mmsghdr, of one byte to this address.
fn message_to(address: usize) -> (usize, usize) {
    let iov = Box::leak(Box::new(libc::iovec { iov_base: text(c"!") as *mut _, iov_len: 1 }));
    // SAFETY: all zeros is a value of this struct of integers and pointers.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = address as *mut _;
    message.msg_hdr.msg_namelen = 16;
    message.msg_hdr.msg_iov = iov;
    message.msg_hdr.msg_iovlen = 1;
    let message = Box::leak(Box::new(message));
    (&raw const message.msg_hdr as usize, message as *const _ as usize)
}

/// A page whose address has a lower half of 0, which a comparison of 32 bits takes for a null pointer.
fn at_four_gigabytes() -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let arguments = [1 << 32, 4096, (libc::PROT_READ | libc::PROT_WRITE) as usize, flags as usize, !0, 0];
    Ok(usize::try_from(call(libc::SYS_mmap, &arguments)?).unwrap())
}

fn cloned(flags: usize) -> io::Result<i64> {
    child_ends(call(libc::SYS_clone, &[flags, 0, 0, 0, 0]))
}

/// The child, if this is one, ends at once. The parent waits for it, if it is its own.
fn child_ends(result: io::Result<i64>) -> io::Result<i64> {
    match result? {
        0 => end(0),
        pid => {
            call(libc::SYS_wait4, &[usize::try_from(pid).unwrap(), 0, 0, 0]).ok();
            Ok(pid)
        }
    }
}

fn end(status: usize) -> ! {
    call(libc::SYS_exit_group, &[status]).ok();
    unreachable!("exit_group(2) returned")
}

/// Outside in a child of its own, whose exit status is the errno. Inside there are no children; a success would be
/// seen, as nothing would be reported any more.
fn executed(place: Place, program: &'static std::ffi::CStr) -> Box<dyn FnOnce() -> io::Result<i64>> {
    let argv = Box::leak(Box::new([text(program), text(c"-c"), text(c"exit 0"), 0])).as_ptr() as usize;
    let execute = move || call(libc::SYS_execve, &[text(program), argv, 0]);
    Box::new(move || if place == Place::Outside { in_a_child(execute) } else { execute() })
}

fn in_a_child(execute: impl FnOnce() -> io::Result<i64>) -> io::Result<i64> {
    match call(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0])? {
        0 => {
            let error = execute().unwrap_err();
            end(usize::try_from(error.raw_os_error().unwrap()).unwrap())
        }
        pid => {
            let status = Box::leak(Box::new([0i32; 2]));
            call(libc::SYS_wait4, &[usize::try_from(pid).unwrap(), status.as_mut_ptr() as usize, 0, 0])?;
            match ExitStatus::from_raw(status[0]).code() {
                Some(0) => Ok(0),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other(format!("status {}", status[0]))),
            }
        }
    }
}

// -------------------------------------------------------------------------------------------------------- the test

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["attempts", place, directory, target, parent] => {
            make_attempts(place, directory.into(), target.parse().unwrap(), parent.parse().unwrap());
        }
        ["threads", path] => threads(Path::new(path)),
        ["int80"] => println!("int 0x80 answers {}", int_80()),
        _ => panic!("no such role: {role}"),
    }
}

fn make_attempts(place: &str, directory: PathBuf, target: SocketAddrV4, parent: usize) {
    let path = directory.join("append");
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let (place, append, listener) = if place == "outside" {
        let append = File::options().append(true).open(&path).unwrap();
        (Place::Outside, append, TcpListener::bind(any).unwrap())
    } else {
        let client = Client::from_stdin().unwrap();
        let (append, listener) = (client.append(&path).unwrap(), client.listen(any.into()).unwrap());
        let place = if place == "locked" { Place::Locked } else { Place::Start };
        if place == Place::Locked {
            println!("{}", fdbroker::lockdown().unwrap());
        }
        (place, append, listener)
    };
    for Attempt { name, make, .. } in attempts(Means { place, directory, parent, append, listener, target }) {
        let result = make();
        let errno = result.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0);
        // By one system call, so that nothing stays in a buffer that a child would flush once more.
        let line = format!("\n=\t{name}\t{errno}\n");
        call(libc::SYS_write, &[1, line.as_ptr() as usize, line.len()]).unwrap();
    }
    println!("\n=\tdone\t0");
}

fn answers(output: &str) -> BTreeMap<String, i32> {
    let parse = |line: &str| {
        let (name, errno) = line.strip_prefix("=\t")?.split_once('\t')?;
        Some((name.to_owned(), errno.parse().unwrap()))
    };
    let answers: BTreeMap<String, i32> = output.lines().filter_map(parse).collect();
    assert!(answers.contains_key("done"), "the process did not come to its end:\n{output}");
    answers
}

/// A directory in which everybody can do everything, with the files that the attempts are about.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let (guard, path) = common::directory();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["file", "append", "script"] {
        fs::write(path.join(name), "content").unwrap();
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    (guard, path)
}

struct Outcome {
    answers: BTreeMap<String, i32>,
    appended: String,
    connected: bool,
    file: String,
}

/// Makes the attempts in one place.
fn outcome(place: &str) -> Outcome {
    let (_guard, path) = directory();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let role = format!("attempts {place} {} {target} {}", path.display(), std::process::id());
    let output = if place == "outside" {
        let output = common::rerun("process", &role).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    } else {
        let append = Rule::file(path.join("append")).append();
        let listen = Rule::listen("127.0.0.1:0".parse().unwrap());
        let policy = Policy::builder().allow(append).allow(listen).build().unwrap();
        let (worker, channel) = worker(&role).stdout(Stdio::piped()).spawn().unwrap();
        let service = Broker::new().serve("worker", channel, policy).unwrap();
        let mut output = String::new();
        worker.take_stdout().unwrap().read_to_string(&mut output).unwrap();
        let status = worker.wait().unwrap();
        assert!(status.success(), "{status}:\n{output}");
        service.wait().unwrap();
        output
    };
    listener.set_nonblocking(true).unwrap();
    Outcome {
        answers: answers(&output),
        appended: fs::read_to_string(path.join("append")).unwrap(),
        connected: listener.accept().is_ok(),
        file: fs::read_to_string(path.join("file")).unwrap(),
    }
}

fn worker(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    // The floor: with a root of its own there would be nothing at these paths.
    sandbox.preset(Preset::Floor).env("FDBROKER_TEST_ROLE", role)
}

/// The names and expectations alone, in order.
fn table() -> Vec<Attempt> {
    let (_guard, directory) = directory();
    let append = File::options().append(true).open(directory.join("append")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    attempts(Means { place: Place::Outside, directory, parent: 1, append, listener, target })
}

/// B-02, B-12: every attempt from inside fails as it should, at the start and after `lockdown`; outside it is made in
/// earnest.
#[test]
fn b_02_b_12_every_attempt_from_inside() {
    if !landlock_is_whole() {
        eprintln!("SKIPPED b_02_b_12_every_attempt_from_inside: this kernel has no Landlock of ABI 6");
        return;
    }
    let (outside, start, locked) = (outcome("outside"), outcome("start"), outcome("locked"));
    let word = |errno: i32| match errno {
        0 => "works".to_owned(),
        -1 => "?".to_owned(),
        _ => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    };
    let mut wrong = Vec::new();
    println!("{:<42} {:<14} {:<10} {:<10}", "attempt", "outside", "start", "locked");
    for attempt in table() {
        let name = attempt.name;
        let of = |outcome: &Outcome| *outcome.answers.get(name).unwrap_or(&-1);
        let (out, first, second) = (of(&outside), of(&start), of(&locked));
        println!("{name:<42} {:<14} {:<10} {:<10}", word(out), word(first), word(second));
        if !attempt.start.contains(&first) || !attempt.locked.contains(&second) {
            wrong.push(format!("{name}: {} at the start, {} after lockdown", word(first), word(second)));
        }
        // An ordinary user may be refused outside in the same words.
        let for_want_of_privilege = !common::is_root() && matches!(out, libc::EPERM | libc::EACCES);
        if out == first && attempt.same_outside.is_none() && !for_want_of_privilege {
            wrong.push(format!("{name}: {} outside, too: the attempt shows nothing", word(out)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    for (place, outcome) in [("start", &start), ("locked", &locked)] {
        assert_eq!(outcome.appended, "contentoverwritten", "{place}: what was granted for appending");
        assert_eq!(outcome.file, "content", "{place}: the file that was not granted");
        assert!(!outcome.connected, "{place}: somebody connected to where nobody may");
    }
    assert!(outside.appended.starts_with("overw") || outside.answers["write over, by RWF_NOAPPEND"] != 0);
    assert!(outside.connected, "outside, TCP Fast Open does connect");
}

fn landlock_is_whole() -> bool {
    let (worker, _channel): (Worker, _) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
    let layers = worker.enforced();
    let abi = layers.layers().find(|(layer, _)| *layer == Layer::Landlock).and_then(|(_, state)| state.ok());
    let number = abi.and_then(|text| text.strip_prefix("ABI ")?.split(',').next()?.parse::<u32>().ok());
    number.is_some_and(|abi| abi >= 6)
}

/// B-12: `lockdown` in a worker that has threads already: all of them are covered, and the client still works.
#[test]
fn b_12_lockdown_covers_every_thread() {
    let (_guard, path) = directory();
    let policy = Policy::builder().allow(Rule::file(path.join("file")).read()).build().unwrap();
    let role = format!("threads {}", path.join("file").display());
    let (worker, channel) = worker(&role).stdout(Stdio::null()).spawn().unwrap();
    let service = Broker::new().serve("worker", channel, policy).unwrap();
    assert!(worker.wait().unwrap().success());
    service.wait().unwrap();
}

fn threads(path: &Path) {
    let client = Client::from_stdin().unwrap();
    let barrier = std::sync::Barrier::new(4);
    let read = || io::read_to_string(client.read(path).unwrap()).unwrap();
    let refused = |number, arguments: &[usize]| {
        let error = call(number, arguments).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{number}");
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                barrier.wait();
                barrier.wait();
                refused(libc::SYS_openat, &[libc::AT_FDCWD as usize, text(c"/nowhere"), libc::O_PATH as usize]);
                refused(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0]);
                refused(libc::SYS_execve, &[text(c"/bin/true"), 0, 0]);
                refused(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0]);
                assert_eq!(read(), "content");
            });
        }
        barrier.wait();
        let enforced = fdbroker::lockdown().unwrap();
        assert!(enforced.has(Layer::Seccomp) && enforced.has(Layer::NoNewPrivs));
        barrier.wait();
        assert_eq!(read(), "content");
    });
    // A thread can still be started, and memory had.
    let thread = std::thread::spawn(|| vec![1u8; 1 << 24].into_iter().map(usize::from).sum::<usize>());
    assert_eq!(thread.join().unwrap(), 1 << 24);
}

/// B-02: the 32-bit system calls have other numbers, which no filter of this architecture knows: they kill the worker.
#[test]
fn b_02_int_0x80_kills() {
    let output = common::rerun("process", "int80").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !text.contains("int 0x80 answers ") {
        eprintln!("outside, int 0x80 ends with {}: this kernel has no 32-bit system calls", output.status);
    }
    let (worker, _channel) = worker("int80").stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
    let status = worker.wait().unwrap();
    assert!(matches!(status.signal(), Some(libc::SIGSYS | libc::SIGSEGV)), "{status}: {text}");
    assert!(!text.contains("answers"), "{text}");
}

/// getpid(2) of i386.
fn int_80() -> i64 {
    let mut result: i64 = 20;
    // SAFETY: getpid takes no arguments and touches no memory; the kernel may change r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}

//! Other processes, and more rights for its own.

use std::io;

use super::attempt::{EPERM, Expected, List, Outside, REFUSED, UNKNOWN, WORKS};
use super::call::*;

const EXISTS: &str = "known limit: whether a process exists (and its session) can be asked without a PID namespace";
/// Nobody minds it.
const SIGNAL: usize = libc::SIGWINCH as usize;
const PTRACE_SEIZE: usize = 0x4206;

pub fn add(list: &mut List) {
    signals(list);
    memory(list);
    scheduling(list);
    children(list);
    namespaces(list);
    rights(list);
    prctls(list);
}

fn signals(list: &mut List) {
    let info = |pid: usize| {
        let mut info = [0_i32; 32];
        (info[0], info[2], info[4]) = (SIGNAL as i32, libc::SI_QUEUE, pid as i32);
        leak(info)
    };
    list.add("signal a process", REFUSED, |m| call(libc::SYS_kill, &[m.victim, SIGNAL]));
    list.add("signal the parent", REFUSED, |m| call(libc::SYS_kill, &[m.parent, 0]));
    list.add("signal process 1", REFUSED, |_| call(libc::SYS_kill, &[1, 0])).privileged();
    list.add("signal every process", REFUSED, |_| call(libc::SYS_kill, &[!0, 0]));
    list.add("signal the process group", REFUSED, |_| call(libc::SYS_kill, &[0, 0]));
    list.add("signal the parent's group", REFUSED, |m| {
        let group = call(libc::SYS_getpgid, &[if m.is_outside() { m.parent } else { 0 }])?;
        call(libc::SYS_kill, &[0_usize.wrapping_sub(group as usize), 0])
    });
    // Landlock's, or the filter's where Landlock does not refuse it; or it is not there to be seen.
    let scoped = Expected::always(EPERM).full(&[libc::EPERM, libc::ESRCH]);
    list.add("signal a process, by tgkill(2)", scoped, |m| call(libc::SYS_tgkill, &[m.victim, m.victim, SIGNAL]));
    list.add("end a process, by tgkill(2)", scoped, |m| {
        // Outside, this is shown by the signal above.
        let signal = if m.is_outside() { 0 } else { libc::SIGKILL as usize };
        call(libc::SYS_tgkill, &[m.victim, m.victim, signal])
    });
    list.add("signal a process, by tkill(2)", REFUSED, |m| call(libc::SYS_tkill, &[m.victim, SIGNAL]));
    list.add("queue a signal", REFUSED, move |m| {
        call(libc::SYS_rt_sigqueueinfo, &[m.victim, SIGNAL, info(std::process::id() as usize)])
    });
    list.add("queue a signal to a thread", REFUSED, move |m| {
        call(libc::SYS_rt_tgsigqueueinfo, &[m.victim, m.victim, SIGNAL, info(std::process::id() as usize)])
    });
    list.add("a process's pidfd", REFUSED, |m| call(libc::SYS_pidfd_open, &[m.victim, 0]));
    list.add("signal a process by its pidfd", REFUSED, |m| {
        let pidfd = if m.is_outside() { call(libc::SYS_pidfd_open, &[m.victim, 0])? as usize } else { 0 };
        call(libc::SYS_pidfd_send_signal, &[pidfd, SIGNAL, 0, 0])
    });
    list.add("take a descriptor of a process", REFUSED, |m| {
        let pidfd = if m.is_outside() { call(libc::SYS_pidfd_open, &[m.victim, 0])? as usize } else { 0 };
        call(libc::SYS_pidfd_getfd, &[pidfd, 0, 0])
    });
}

fn memory(list: &mut List) {
    list.add("trace a process", REFUSED, |m| call(libc::SYS_ptrace, &[PTRACE_SEIZE, m.victim, 0, 0]));
    list.add("attach to a process", REFUSED, |m| {
        let request = if m.is_outside() { PTRACE_SEIZE } else { libc::PTRACE_ATTACH as usize };
        call(libc::SYS_ptrace, &[request, m.victim, 0, 0])
    });
    list.add("be traced", REFUSED, |_| call(libc::SYS_ptrace, &[0, 0, 0, 0]));
    list.add("read a process's memory", REFUSED, |m| {
        let (local, remote) = (vector(scratch(), 16), vector(m.secret, 16));
        call(libc::SYS_process_vm_readv, &[m.victim, local, 1, remote, 1, 0])
    });
    list.add("write a process's memory", REFUSED, |m| {
        let (local, remote) = (vector(text(c"FDBROKER SECRET!"), 16), vector(m.secret, 16));
        call(libc::SYS_process_vm_writev, &[m.victim, local, 1, remote, 1, 0])
    });
    list.add("compare with a process", REFUSED, |m| call(libc::SYS_kcmp, &[m.victim, m.victim, 2, 0, 0]));
    list.add("process_madvise", UNKNOWN, |m| {
        let pidfd = if m.is_outside() { call(libc::SYS_pidfd_open, &[m.victim, 0])? as usize } else { 0 };
        const MADV_COLD: usize = 20;
        call(440, &[pidfd, vector(m.secret & !(page_size() - 1), page_size()), 1, MADV_COLD, 0])
    })
    .privileged();
    list.add("a process's robust list", UNKNOWN, |m| {
        call(libc::SYS_get_robust_list, &[m.victim, scratch(), scratch()])
    });
    list.add("move a process's pages", UNKNOWN, |m| {
        call(libc::SYS_move_pages, &[m.victim, 1, leak([m.secret & !(page_size() - 1)]), 0, scratch(), 0])
    })
    .outside(Outside::Perhaps("few kernels have NUMA"));
    list.add("migrate a process's pages", UNKNOWN, |m| {
        call(libc::SYS_migrate_pages, &[m.victim, 1, leak(1_u64), leak(1_u64)])
    })
    .outside(Outside::Perhaps("few kernels have NUMA"));
    let seen = Expected::always(WORKS).full(&[libc::EINVAL]);
    list.add("a process's processor time", seen, |m| {
        let clock = (!m.victim) << 3 | 2;
        call(libc::SYS_clock_gettime, &[clock as u32 as i32 as isize as usize, scratch()])
    })
    .known("known limit: processor time of a process can be asked without a PID namespace");
}

fn scheduling(list: &mut List) {
    list.add("limits of a process", UNKNOWN, |m| call(libc::SYS_prlimit64, &[m.victim, 7, 0, scratch()]));
    list.add("set limits of a process", UNKNOWN, |m| {
        let limits = leak([0_u64, 0]);
        call(libc::SYS_prlimit64, &[m.victim, libc::RLIMIT_CORE as usize, limits, 0])
    });
    list.add("raise its own limit", Expected::always(EPERM), |_| {
        let (resource, limits) = (libc::RLIMIT_NOFILE as usize, leak([0_u64; 2]));
        call(libc::SYS_prlimit64, &[0, resource, 0, limits])?;
        // SAFETY: the two words above, which nobody else has.
        let [_, hard] = unsafe { *(limits as *const [u64; 2]) };
        let set = |value: u64| call(libc::SYS_prlimit64, &[0, resource, leak([value; 2]), 0]);
        set(hard - 1).map_err(|_| errno(libc::EINVAL))?;
        set(hard)
    })
    .outside(Outside::Perhaps("it takes CAP_SYS_RESOURCE"));
    list.add("raise its own limit of cores", Expected::always(EPERM), |_| {
        call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, leak([1_u64 << 20; 2]), 0])
    })
    .outside(Outside::Perhaps("the hard limit may be 0"));
    #[cfg(not(target_arch = "riscv64"))]
    list.add("raise its own limit, by setrlimit(2)", UNKNOWN, |_| {
        call(libc::SYS_setrlimit, &[libc::RLIMIT_CORE as usize, leak([0_u64, 0])])
    });
    list.add("priority of a process", UNKNOWN, |m| call(libc::SYS_getpriority, &[0, m.victim]));
    list.add("set a process's priority", UNKNOWN, |m| call(libc::SYS_setpriority, &[0, m.victim, 19]));
    list.add("set a process's I/O priority", UNKNOWN, |m| call(libc::SYS_ioprio_set, &[1, m.victim, 2 << 13 | 7]));
    list.add("set a process's scheduling", UNKNOWN, |m| {
        call(libc::SYS_sched_setscheduler, &[m.victim, libc::SCHED_BATCH as usize, leak(0_i32)])
    });
    list.add("set a process's scheduling, by sched_setattr", UNKNOWN, |m| {
        let attributes = leak([48_u32, 3, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        call(libc::SYS_sched_setattr, &[m.victim, attributes, 0])
    });
    list.add("set a process's processors", UNKNOWN, |m| {
        call(libc::SYS_sched_setaffinity, &[m.victim, 128, leak([!0_u64; 16])])
    });
    let seen = Expected::always(WORKS).full(&[libc::ESRCH]);
    list.add("a process's processors", seen, |m| call(libc::SYS_sched_getaffinity, &[m.victim, 128, scratch()]))
        .known(EXISTS);
    list.add("a process's session", seen, |m| call(libc::SYS_getsid, &[m.victim])).known(EXISTS);
}

fn children(list: &mut List) {
    let child = libc::SIGCHLD as usize;
    for (name, flags) in [
        ("fork", child),
        ("fork, high bits", child | HIGH),
        ("fork, without a signal", 0),
        ("fork, in its own memory", child | (libc::CLONE_VM | libc::CLONE_VFORK) as usize),
    ] {
        let vfork = flags & libc::CLONE_VM as usize != 0;
        list.add(name, REFUSED, move |m| {
            // In its own memory, a child would return on its parent's stack.
            cloned(if vfork && m.place.forks() { flags & !(libc::CLONE_VM as usize) } else { flags })
        });
    }
    list.add("fork a child of the parent", REFUSED, move |_| cloned(child | libc::CLONE_PARENT as usize));
    #[cfg(target_arch = "x86_64")]
    list.add("fork, by fork(2)", REFUSED, |_| child_ends(call(libc::SYS_fork, &[])));
    #[cfg(target_arch = "x86_64")]
    list.add("fork, by vfork(2)", REFUSED, |m| {
        let number = if m.place.forks() { libc::SYS_fork } else { libc::SYS_vfork };
        child_ends(call(number, &[]))
    });
    list.add("fork, by clone3(2)", UNKNOWN, |_| {
        let mut arguments = [0_u64; 11];
        arguments[4] = libc::SIGCHLD as u64;
        child_ends(call(libc::SYS_clone3, &[leak(arguments), 88]))
    });
    list.add("fork, from a thread", REFUSED, move |_| std::thread::spawn(move || cloned(child)).join().unwrap());
    list.add("setsid", REFUSED, |_| call(libc::SYS_setsid, &[]));
    list.add("setpgid", UNKNOWN, |_| call(libc::SYS_setpgid, &[0, 0]));
}

fn namespaces(list: &mut List) {
    let child = libc::SIGCHLD as usize;
    const NEWTIME: i32 = 0x80;
    for (name, by_clone, by_clone3, flags) in [
        ("a user namespace", "by clone", "by clone3", libc::CLONE_NEWUSER),
        ("a mount namespace", "by clone", "by clone3", libc::CLONE_NEWNS),
        ("a PID namespace", "by clone", "by clone3", libc::CLONE_NEWPID),
        ("a network namespace", "by clone", "by clone3", libc::CLONE_NEWNET),
        ("an IPC namespace", "by clone", "by clone3", libc::CLONE_NEWIPC),
        ("a UTS namespace", "by clone", "by clone3", libc::CLONE_NEWUTS),
        ("a cgroup namespace", "by clone", "by clone3", libc::CLONE_NEWCGROUP),
        ("a time namespace", "", "by clone3", NEWTIME),
    ] {
        let leaked = |how: &str| -> &'static str { Box::leak(format!("{name}, {how}").into_boxed_str()) };
        let flags = flags as usize;
        list.add(leaked("by unshare"), REFUSED, move |_| call(libc::SYS_unshare, &[flags])).privileged();
        if !by_clone.is_empty() {
            list.add(leaked(by_clone), REFUSED, move |_| cloned(child | flags)).privileged();
        }
        list.add(leaked(by_clone3), UNKNOWN, move |_| {
            let mut arguments = [0_u64; 11];
            (arguments[0], arguments[4]) = (flags as u64, libc::SIGCHLD as u64);
            child_ends(call(libc::SYS_clone3, &[leak(arguments), 88]))
        })
        .privileged();
    }
    list.add("unshare what it shares with threads", REFUSED, |_| call(libc::SYS_unshare, &[libc::CLONE_FS as usize]));
    list.add("unshare, high bits", REFUSED, |_| call(libc::SYS_unshare, &[libc::CLONE_THREAD as usize | HIGH]))
        .not("the kernel refuses unknown bits");
    list.add("join a namespace", REFUSED, |m| {
        let own = if m.is_outside() { open("/proc/self/ns/uts", 0)? as usize } else { 0 };
        call(libc::SYS_setns, &[own, 0])
    })
    .privileged();
    list.add("a host's name", UNKNOWN, |m| {
        if m.is_outside() {
            call(libc::SYS_unshare, &[libc::CLONE_NEWUTS as usize])?;
        }
        call(libc::SYS_sethostname, &[text(c"escaped"), 7])
    })
    .privileged();
}

fn rights(list: &mut List) {
    list.add("setuid", REFUSED, |_| call(libc::SYS_setuid, &[call(libc::SYS_geteuid, &[])? as usize]));
    list.add("setuid(0)", REFUSED, |_| call(libc::SYS_setuid, &[0])).privileged();
    list.add("setresuid", REFUSED, |_| call(libc::SYS_setresuid, &[!0, !0, !0]));
    list.add("setreuid", REFUSED, |_| call(libc::SYS_setreuid, &[!0, !0]));
    list.add("setgid(0)", REFUSED, |_| call(libc::SYS_setgid, &[0])).privileged();
    list.add("setresgid", REFUSED, |_| call(libc::SYS_setresgid, &[!0, !0, !0]));
    list.add("setgroups", REFUSED, |_| call(libc::SYS_setgroups, &[0, 0])).privileged();
    list.add("setfsuid", REFUSED, |_| call(libc::SYS_setfsuid, &[!0]));
    list.add("capset", REFUSED, |_| {
        let (header, sets) = (leak([0x2008_0522_u32, 0]), leak([0_u32; 6]));
        call(libc::SYS_capget, &[header, sets])?;
        call(libc::SYS_capset, &[header, sets])
    });
}

fn prctls(list: &mut List) {
    fn prctl(operation: i32, argument: usize) -> io::Result<i64> {
        call(libc::SYS_prctl, &[operation as usize, argument, 0, 0, 0])
    }
    list.add("PR_SET_SECCOMP", UNKNOWN, |_| {
        call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0])?;
        let filter = leak([1, leak(u64::from_ne_bytes([6, 0, 0, 0, 0, 0, 0xff, 0x7f]))]);
        call(libc::SYS_prctl, &[libc::PR_SET_SECCOMP as usize, 2, filter])
    });
    list.add("a filter whose calls it answers itself", Expected::always(&[libc::EPERM]), |_| {
        call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0])?;
        let filter = leak([1, leak(u64::from_ne_bytes([6, 0, 0, 0, 0, 0, 0xff, 0x7f]))]);
        call(libc::SYS_seccomp, &[1, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize, filter])
    });
    list.add("PR_SET_PDEATHSIG", UNKNOWN, |_| prctl(libc::PR_SET_PDEATHSIG, 0));
    list.add("PR_SET_PDEATHSIG, high bits", UNKNOWN, |_| {
        call(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize | HIGH, 0])
    });
    list.add("PR_SET_PTRACER", UNKNOWN, |m| prctl(libc::PR_SET_PTRACER, m.victim))
        .outside(Outside::Perhaps("few kernels have Yama"));
    list.add("PR_CAP_AMBIENT", UNKNOWN, |_| prctl(libc::PR_CAP_AMBIENT, 4));
    list.add("PR_SET_MM", UNKNOWN, |_| call(libc::SYS_prctl, &[libc::PR_SET_MM as usize, 15, leak(0_u32), 0, 0]))
        .outside(Outside::Perhaps("few kernels have checkpoints"));
    list.add("PR_SET_CHILD_SUBREAPER", UNKNOWN, |_| prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
    list.add("PR_SET_KEEPCAPS", UNKNOWN, |_| prctl(libc::PR_SET_KEEPCAPS, 0));
    list.add("PR_SET_SECUREBITS", UNKNOWN, |_| prctl(libc::PR_SET_SECUREBITS, 0)).privileged();
    list.add("PR_SET_DUMPABLE, to be traced again", REFUSED, |_| prctl(libc::PR_SET_DUMPABLE, 1));
    list.add("PR_SET_DUMPABLE, high bits", REFUSED, |_| {
        call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize | HIGH, 1])
    });
    list.add("PR_SET_TIMERSLACK", UNKNOWN, |_| prctl(libc::PR_SET_TIMERSLACK, 0));
    list.add("personality", UNKNOWN, |_| call(libc::SYS_personality, &[0xffff_ffff]));
}

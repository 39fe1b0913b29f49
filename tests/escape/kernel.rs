//! The rest of the kernel.

use super::attempt::{List, Outside, REFUSED, UNKNOWN};
use super::call::*;

const NOT_IN_EARNEST: &str = "not made in earnest: it would change this host";

pub fn add(list: &mut List) {
    interfaces(list);
    keys(list);
    objects(list);
    the_host(list);
    numbers(list);
}

fn interfaces(list: &mut List) {
    list.add("io_uring_setup", REFUSED, |_| call(libc::SYS_io_uring_setup, &[1, scratch()]))
        .outside(Outside::Perhaps("kernel.io_uring_disabled"));
    list.add("io_uring_enter", REFUSED, |m| {
        let ring = if m.is_outside() { call(libc::SYS_io_uring_setup, &[1, scratch()])? as usize } else { 0 };
        call(libc::SYS_io_uring_enter, &[ring, 0, 0, 0, 0, 0])
    })
    .outside(Outside::Perhaps("kernel.io_uring_disabled"));
    list.add("bpf", REFUSED, |_| {
        // BPF_MAP_CREATE: an array of one.
        call(libc::SYS_bpf, &[0, leak([2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 48])
    })
    .privileged();
    list.add("perf_event_open", REFUSED, |_| {
        // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK; exclude_kernel and exclude_hv.
        let mut attributes = [0_u64; 16];
        (attributes[0], attributes[1], attributes[5]) = (1 | 128 << 32, 1, 1 << 5 | 1 << 6);
        call(libc::SYS_perf_event_open, &[leak(attributes), 0, !0, !0, 0])
    })
    .outside(Outside::Perhaps("kernel.perf_event_paranoid"));
    list.add("userfaultfd", REFUSED, |_| call(libc::SYS_userfaultfd, &[1]))
        .outside(Outside::Perhaps("before Linux 5.11"));
    list.add("io_setup", UNKNOWN, |_| call(libc::SYS_io_setup, &[1, scratch()]));
    #[cfg(target_arch = "x86_64")]
    list.add("modify_ldt", UNKNOWN, |_| call(libc::SYS_modify_ldt, &[0, scratch(), 8]));
    list.add("vmsplice", UNKNOWN, |_| {
        let [_read, write] = pipe()?;
        call(libc::SYS_vmsplice, &[number(&write), vector(text(c"!"), 1), 1, 0])
    });
    list.add("timer_create", UNKNOWN, |_| call(libc::SYS_timer_create, &[0, 0, scratch()]));
    list.add("a timer that signals another", UNKNOWN, |m| {
        let event = leak([0_u64, (4_u64) << 32 | libc::SIGKILL as u64, m.victim as u64, 0, 0, 0, 0, 0]);
        call(libc::SYS_timer_create, &[0, event, scratch()])
    })
    .not("the kernel wants a thread of its own");
    list.add("set_mempolicy", UNKNOWN, |_| call(libc::SYS_set_mempolicy, &[0, 0, 0]))
        .outside(Outside::Perhaps("few kernels have NUMA"));
    list.add("listmount", UNKNOWN, |_| call(458, &[leak([24_u64, !0, 0]), scratch(), 8, 0]))
        .outside(Outside::Perhaps("since Linux 6.8"));
    list.add("mseal", UNKNOWN, |_| call(462, &[0, 0, 0])).outside(Outside::Perhaps("since Linux 6.10"));
    list.add("pkey_alloc", UNKNOWN, |_| call(libc::SYS_pkey_alloc, &[0, 0]))
        .outside(Outside::Perhaps("not every processor has keys"));
    list.add("cachestat", UNKNOWN, |m| call(451, &[number(&m.read), leak([0_u64; 2]), scratch(), 0]))
        .outside(Outside::Perhaps("since Linux 6.5"));
}

fn keys(list: &mut List) {
    // KEY_SPEC_PROCESS_KEYRING
    const OWN: usize = -2_i64 as usize;
    fn key() -> [usize; 3] {
        [text(c"user"), text(c"fdbroker-escape"), text(c"secret")]
    }
    list.add("keyctl", REFUSED, |_| call(libc::SYS_keyctl, &[0, OWN, 1])).outside(keyed());
    list.add("the session's keyring", REFUSED, |_| call(libc::SYS_keyctl, &[0, -3_i64 as usize, 1])).outside(keyed());
    list.add("add_key", REFUSED, |_| {
        let [kind, name, value] = key();
        call(libc::SYS_add_key, &[kind, name, value, 6, OWN])
    })
    .outside(keyed());
    list.add("request_key", REFUSED, |_| {
        let [kind, name, value] = key();
        call(libc::SYS_add_key, &[kind, name, value, 6, OWN]).ok();
        call(libc::SYS_request_key, &[kind, name, 0, 0])
    })
    .outside(keyed());
    fn keyed() -> Outside {
        Outside::Perhaps("few kernels have no keys, but some do")
    }
}

fn objects(list: &mut List) {
    list.add("a shared memory segment", REFUSED, |m| call(libc::SYS_shmget, &[m.key, 0, 0o600]));
    list.add("a shared memory segment's content", REFUSED, |m| {
        let segment = call(libc::SYS_shmget, &[m.key, 0, 0o600])?;
        call(libc::SYS_shmat, &[segment as usize, 0, 0])
    });
    list.add("a shared memory segment by its number", UNKNOWN, |m| {
        // Whoever guesses the number needs no key.
        let segment = if m.is_outside() { call(libc::SYS_shmget, &[m.key, 0, 0o600])? } else { 0 };
        call(libc::SYS_shmat, &[segment as usize, 0, 0])
    });
    list.add("a new shared memory segment", REFUSED, |_| {
        let segment = call(libc::SYS_shmget, &[0, 4096, 0o600])?;
        call(libc::SYS_shmctl, &[segment as usize, 0, 0])
    });
    list.add("a semaphore", REFUSED, |m| call(libc::SYS_semget, &[m.key, 1, 0o600]));
    list.add("use a semaphore", UNKNOWN, |m| {
        let set = if m.is_outside() { call(libc::SYS_semget, &[m.key, 1, 0o600])? } else { 0 };
        call(libc::SYS_semop, &[set as usize, leak([0_u16, 1, 0]), 1])
    });
    list.add("a message queue", REFUSED, |m| call(libc::SYS_msgget, &[m.key, 0o600]));
    list.add("send to a message queue", UNKNOWN, |m| {
        let queue = if m.is_outside() { call(libc::SYS_msgget, &[m.key, 0o600])? } else { 0 };
        call(libc::SYS_msgsnd, &[queue as usize, leak([1_u64, 0]), 8, libc::IPC_NOWAIT as usize])
    });
    list.add("a POSIX message queue", REFUSED, |m| {
        let name = path(format!("fdbroker-escape-{}", m.key));
        call(libc::SYS_mq_open, &[name, libc::O_RDWR as usize, 0, 0])
    });
    list.add("remove a POSIX message queue", UNKNOWN, |m| {
        call(libc::SYS_mq_unlink, &[path(format!("fdbroker-escape-{}-removed", m.key))])
    });
}

fn the_host(list: &mut List) {
    list.add("the kernel's log", REFUSED, |_| call(libc::SYS_syslog, &[10, 0, 0])).privileged();
    list.add("the kernel's log, read", REFUSED, |_| call(libc::SYS_syslog, &[3, scratch(), 4096])).privileged();
    #[cfg(target_arch = "x86_64")]
    list.add("iopl", REFUSED, |_| call(libc::SYS_iopl, &[3])).outside(Outside::Perhaps("few kernels have it"));
    #[cfg(target_arch = "x86_64")]
    list.add("ioperm", REFUSED, |_| call(libc::SYS_ioperm, &[0x80, 1, 1]))
        .outside(Outside::Perhaps("few kernels have it"));
    list.add("the clock, read by adjtimex", UNKNOWN, |_| call(libc::SYS_adjtimex, &[scratch()]));
    list.add("the clock", UNKNOWN, |_| call(libc::SYS_clock_settime, &[0, 0])).not(NOT_IN_EARNEST);
    list.add("quotas", UNKNOWN, |_| call(libc::SYS_quotactl, &[0x80_0001 << 8, 0, 0, 0]))
        .outside(Outside::Perhaps("few kernels have them"));
    list.add("sync", UNKNOWN, |m| {
        // Outside, of a file system that has nothing to write: what a host's disks have may take minutes.
        let other = if m.is_outside() { Some(owned(open("/proc", libc::O_DIRECTORY))?) } else { None };
        other.map_or_else(|| call(libc::SYS_sync, &[]), |other| call(libc::SYS_syncfs, &[number(&other)]))
    });
    for (name, number) in [
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("delete_module", libc::SYS_delete_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("reboot", libc::SYS_reboot),
        ("swapon", libc::SYS_swapon),
        ("acct", libc::SYS_acct),
    ] {
        // Senseless arguments: each fails outside, in its own way.
        list.add(name, REFUSED, move |_| call(number, &[77, 0, 0, !0, 0, 0])).not(NOT_IN_EARNEST);
    }
}

fn numbers(list: &mut List) {
    const X32: i64 = 0x4000_0000;
    list.add("getpid of x32", UNKNOWN, |_| call(libc::SYS_getpid | X32, &[])).not("this kernel has no x32");
    #[cfg(target_arch = "x86_64")]
    list.add("open of x32", UNKNOWN, |_| call(libc::SYS_open | X32, &[text(c"/etc/passwd"), 0]))
        .not("this kernel has no x32");
    list.add("a number beyond all", UNKNOWN, |_| call(9999, &[])).not("no kernel has it");
    list.add("a number with high bits", UNKNOWN, |_| call(HIGH as i64 | 9999, &[])).not("no kernel has it");
    list.add("a negative number", UNKNOWN, |_| call(-2, &[])).not("no kernel has it");
}

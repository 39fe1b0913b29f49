//! Files of the host, by every name that leads to them.

use std::io;

use super::attempt::{
    EACCES, ENOENT, ENOSYS, EPERM, Expected, HELD, List, Means, NAMED, Outside, REFUSED, ROOT, UNKNOWN, WORKS,
};
use super::call::*;

const ASKED: &str = "known limit: Landlock does not refuse questions about a file, and a filter sees no paths";
const HELD_ROOT: &str = "known limit: it was given a directory (SECURITY.md: a descriptor of one is a way out of it)";
/// The C library, where Debian has it.
const LIBRARY: &str = if cfg!(target_arch = "x86_64") {
    "/lib/x86_64-linux-gnu/libc.so.6"
} else if cfg!(target_arch = "aarch64") {
    "/lib/aarch64-linux-gnu/libc.so.6"
} else {
    "/lib/riscv64-linux-gnu/libc.so.6"
};
/// A read-only mount says so before Landlock is asked; permissions before both.
const NOT_WRITABLE: Expected =
    Expected::always(&[libc::EACCES]).rooted(&[libc::EROFS, libc::EACCES, libc::ENOENT]).locked(EPERM);
/// Its directory is there in the worker's root, too, as one of its files is in it.
const NEW: Expected = NOT_WRITABLE;

pub fn add(list: &mut List) {
    by_name(list);
    by_other_names(list);
    by_a_held_directory(list);
    what_is_of_the_worker(list);
    questions(list);
    changes(list);
    mounts(list);
    devices(list);
}

fn by_name(list: &mut List) {
    list.add("open to read", NAMED, |_| open("/etc/passwd", libc::O_RDONLY));
    #[cfg(target_arch = "x86_64")]
    list.add("open to read, by open(2)", NAMED, |_| call(libc::SYS_open, &[text(c"/etc/passwd"), 0]));
    list.add("open to read, by openat2(2)", NAMED, |_| {
        call(libc::SYS_openat2, &[CWD, text(c"/etc/passwd"), leak([0_u64; 3]), 24])
    });
    list.add("open to write", NAMED, |m| open(m.at("file"), libc::O_WRONLY));
    list.add("open and truncate", NAMED, |m| open(m.at("truncated"), libc::O_RDWR | libc::O_TRUNC));
    let path_only = Expected::always(WORKS).rooted(ENOENT).locked(EPERM);
    list.add("open as O_PATH", path_only, |_| open("/etc/passwd", libc::O_PATH)).known(ASKED);
    list.add("open as O_PATH, and again by AT_EMPTY_PATH", NAMED.floor(ENOENT), |_| {
        let file = owned(open("/etc/passwd", libc::O_PATH))?;
        open_at(number(&file), "", libc::O_RDONLY | libc::AT_EMPTY_PATH)
    })
    .not("openat has no such flag on this kernel");
    list.add("open as O_PATH, and again by /proc/self/fd", NAMED, |_| {
        let file = owned(open("/etc/passwd", libc::O_PATH))?;
        open(format!("/proc/self/fd/{}", number(&file)), libc::O_RDONLY)
    });
    list.add("open the root directory", HELD, |_| open("/", libc::O_DIRECTORY));
    list.add("create a file", NEW, |m| open(m.at("new"), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL));
    #[cfg(target_arch = "x86_64")]
    list.add("create a file, by creat(2)", REFUSED, |m| call(libc::SYS_creat, &[path(m.at("new, too")), 0o600]));
    list.add("create an unnamed file", NEW, |m| open(&m.directory, libc::O_WRONLY | libc::O_TMPFILE));
    list.add("create a file in the root", HELD.rooted(&[libc::EROFS, libc::EACCES]), |m| {
        open(format!("/fdbroker-escape-{}", m.key), libc::O_WRONLY | libc::O_CREAT)
    })
    .privileged();
    // It is there in the worker's root if the targets are in it.
    list.add("create a file in /dev/shm", NAMED.rooted(&[libc::ENOENT, libc::EROFS]), |m| {
        open(format!("/dev/shm/fdbroker-escape-{}", m.key), libc::O_WRONLY | libc::O_CREAT)
    });
}

fn by_other_names(list: &mut List) {
    for name in ["/../../etc/passwd", "/usr/lib/../../etc/passwd", "/lib/../../etc/passwd"] {
        list.add(name, NAMED, move |_| open(name, libc::O_RDONLY));
    }
    for name in ["/proc/self/root/etc/passwd", "/proc/thread-self/root/etc/passwd"] {
        list.add(name, NAMED, move |_| open(name, libc::O_RDONLY));
    }
    // The root is above itself: however deep the working directory is, these are enough of them.
    let up = "../".repeat(200);
    for (name, start) in [("../../ and so on", ""), ("/proc/self/cwd/../../ and so on", "/proc/self/cwd/")] {
        let name_of_file = format!("{start}{up}etc/passwd");
        list.add(name, NAMED, move |_| open(&name_of_file, libc::O_RDONLY));
    }
    list.add("/proc/1/root", NAMED, |_| open("/proc/1/root/etc/passwd", libc::O_RDONLY))
        .outside(Outside::Perhaps("process 1 may be another's"));
    list.add("through the parent's root", NAMED, |m| open(m.of_parent("root/etc/passwd"), libc::O_RDONLY));
    list.add("through the parent's working directory", NAMED, |m| open(m.of_parent("cwd"), libc::O_RDONLY));
    list.add("through the parent's descriptors", NAMED, |m| open(m.of_parent("fd/0"), libc::O_RDONLY))
        .outside(Outside::Perhaps("standard input may be a socket"));
    list.add("through the parent's mounts", NAMED, |m| open(m.of_parent("mountinfo"), libc::O_RDONLY));
    list.add("the parent's environment", NAMED, |m| open(m.of_parent("environ"), libc::O_RDONLY));
    list.add("the parent's memory", NAMED, |m| open(m.of_parent("mem"), libc::O_RDONLY));
    list.add("a process's memory, by /proc", NAMED, |m| {
        let memory = owned(open(m.of_victim("mem"), libc::O_RDWR))?;
        call(libc::SYS_pread64, &[number(&memory), scratch(), 16, m.secret])
    });
    list.add("a process's command line", NAMED, |m| open(m.of_victim("cmdline"), libc::O_RDONLY));
    list.add("a process's descriptors", NAMED, |m| open(m.of_victim("fd"), libc::O_DIRECTORY));
    list.add("read a link of a process", Expected::always(EACCES).rooted(ENOENT).locked(EPERM), |m| {
        call(libc::SYS_readlinkat, &[CWD, path(m.of_victim("exe")), scratch(), 256])
    });
    list.add("/proc/self/status", NAMED, |_| open("/proc/self/status", libc::O_RDONLY));
    list.add("/proc/self/mem", NAMED, |_| open("/proc/self/mem", libc::O_RDWR));
    list.add("/proc/self/uid_map", NAMED, |_| open("/proc/self/uid_map", libc::O_RDWR));
    list.add("/proc/sys/kernel/core_pattern", NAMED, |_| open("/proc/sys/kernel/core_pattern", libc::O_WRONLY))
        .privileged();
    list.add("/proc/sys/kernel/hostname", NAMED, |_| open("/proc/sys/kernel/hostname", libc::O_WRONLY)).privileged();
    list.add("/sys", NAMED, |_| open("/sys/kernel", libc::O_DIRECTORY));
    list.add("a file by its handle", REFUSED, |m| {
        let handle = leak([128_u32; 40]);
        call(libc::SYS_name_to_handle_at, &[CWD, path(m.at("file")), handle, scratch(), 0]).ok();
        // Any file of its file system will do.
        call(libc::SYS_open_by_handle_at, &[number(&m.read), handle, 0])
    })
    .privileged();
    list.add("make a file handle", REFUSED, |m| {
        let handle = leak([128_u32; 40]);
        call(libc::SYS_name_to_handle_at, &[CWD, path(m.at("file")), handle, scratch(), 0])
    });
}

fn by_a_held_directory(list: &mut List) {
    list.add("a held root: open a file", HELD, |_| open_at(ROOT, "etc/passwd", libc::O_RDONLY));
    list.add("a held root: through ..", HELD, |_| open_at(ROOT, "usr/../../etc/passwd", libc::O_RDONLY));
    list.add("a held root: RESOLVE_IN_ROOT", HELD, |_| {
        call(libc::SYS_openat2, &[ROOT, text(c"/etc/passwd"), leak([0_u64, 0, 0x10]), 24])
    });
    list.add("a held root: write", HELD, |m| open_at(ROOT, m.at("file").strip_prefix("/").unwrap(), libc::O_WRONLY));
    list.add("a held root: /dev/fd", NAMED, |_| open("/dev/fd/10/etc/passwd", libc::O_RDONLY));
    list.add("a held root: /proc/self/fd", NAMED, |_| open("/proc/self/fd/10/etc/passwd", libc::O_RDONLY));
    list.add("a held root: the parent's memory", HELD, |m| {
        open_at(ROOT, m.of_parent("mem").strip_prefix("/").unwrap(), libc::O_RDONLY)
    });
    list.add("a held root: as O_PATH", Expected::always(WORKS).locked(EPERM), |_| {
        open_at(ROOT, "etc/passwd", libc::O_PATH)
    })
    .known(HELD_ROOT);
    list.add("a held root: stat", Expected::always(WORKS).locked(ENOSYS), |_| {
        call(libc::SYS_newfstatat, &[ROOT, text(c"etc/passwd"), scratch(), 0])
    })
    .known(HELD_ROOT);
    list.add("a held root: list it", Expected::always(WORKS).locked(ENOSYS), |_| {
        call(libc::SYS_getdents64, &[ROOT, scratch(), 4096])
    })
    .known(HELD_ROOT);
    list.add("a held root: list another", HELD, |_| {
        let directory = owned(open_at(ROOT, "etc", libc::O_DIRECTORY))?;
        call(libc::SYS_getdents64, &[number(&directory), scratch(), 4096])
    });
    list.add("a held root: go there", REFUSED, |_| call(libc::SYS_fchdir, &[ROOT]));
    list.add("a held root: chroot", REFUSED, |_| {
        call(libc::SYS_fchdir, &[ROOT])?;
        call(libc::SYS_chroot, &[text(c".")])
    })
    .privileged();
    list.add("a held root: clone its mount", REFUSED, |m| {
        mounts_of_its_own(m)?;
        const OPEN_TREE_CLONE: usize = 1;
        // What was held before is of the mounts from before.
        let own = if m.is_outside() { Some(owned(open("/", libc::O_PATH))?) } else { None };
        call(libc::SYS_open_tree, &[own.as_ref().map_or(ROOT, number), text(c"usr"), OPEN_TREE_CLONE])
    })
    .privileged();
}

fn what_is_of_the_worker(list: &mut List) {
    let executing = "the kernel refuses to write to what is executed (ETXTBSY)";
    // Who built the tests is who runs them, and may write to it, where the worker has no user of its own.
    let own = NAMED.floor(&[libc::EACCES, libc::ETXTBSY]).rooted(&[libc::ENOENT, libc::EROFS]);
    list.add("write to its own program", own, |_| open("/proc/self/exe", libc::O_WRONLY)).not(executing);
    list.add("write to a library", NOT_WRITABLE, |_| {
        let libraries = [LIBRARY, "/lib64/libc.so.6", "/usr/lib/libc.so.6"];
        let there = libraries.iter().find(|name| std::fs::metadata(name).is_ok()).unwrap_or(&libraries[0]);
        open(there, libc::O_WRONLY | libc::O_APPEND)
    })
    .privileged();
    list.add("write to a file of its runtime", NOT_WRITABLE, |m| open(m.at("runtime/file"), libc::O_WRONLY));
    list.add("create a file in its runtime", NOT_WRITABLE, |m| {
        open(m.at("runtime/new"), libc::O_WRONLY | libc::O_CREAT)
    });
    list.add("truncate a file of its runtime", REFUSED, |m| call(libc::SYS_truncate, &[path(m.at("runtime/file")), 1]));
    // A read-only mount does not keep anybody from writing to a FIFO.
    list.add("write to a FIFO of its runtime", HELD, |m| open(m.at("runtime/fifo"), libc::O_RDWR));
    // A bind mount is no way up.
    list.add("out of its runtime, by ..", NAMED, |m| open(m.at("runtime/../file"), libc::O_RDONLY));
    list.add("out of its runtime, by .. of a descriptor", NAMED, |m| {
        let runtime = owned(open(m.at("runtime"), libc::O_DIRECTORY | libc::O_PATH))?;
        open_at(number(&runtime), "../file", libc::O_RDONLY)
    });
    list.add("out of its runtime, by a link", NAMED, |m| open(m.at("runtime/link"), libc::O_RDONLY));
}

fn questions(list: &mut List) {
    let asked = Expected::always(WORKS).rooted(ENOENT);
    list.add("stat", asked.locked(ENOSYS), |_| call(libc::SYS_newfstatat, &[CWD, text(c"/etc/passwd"), scratch(), 0]))
        .known(ASKED);
    list.add("stat, by AT_EMPTY_PATH", asked, |_| {
        call(libc::SYS_newfstatat, &[CWD, text(c"/etc/passwd"), scratch(), libc::AT_EMPTY_PATH as usize])
    })
    .known(ASKED);
    list.add("statx, by AT_EMPTY_PATH", asked, |_| {
        call(libc::SYS_statx, &[CWD, text(c"/etc/passwd"), libc::AT_EMPTY_PATH as usize, 0xfff, scratch()])
    })
    .known(ASKED);
    #[cfg(target_arch = "x86_64")]
    list.add("access", asked.locked(EPERM), |_| call(libc::SYS_access, &[text(c"/etc/passwd"), 0])).known(ASKED);
    list.add("statfs", asked.locked(EPERM), |_| call(libc::SYS_statfs, &[text(c"/etc/passwd"), scratch()]))
        .known(ASKED);
    list.add("read a link", asked.locked(EPERM), |_| {
        call(libc::SYS_readlinkat, &[CWD, text(c"/proc/self/exe"), scratch(), 256])
    })
    .known(ASKED);
    list.add("get an attribute", UNKNOWN, |m| call(libc::SYS_llistxattr, &[path(m.at("file")), scratch(), 256]));
    list.add("watch files (inotify)", REFUSED, |m| {
        let watch = owned(call(libc::SYS_inotify_init1, &[0]))?;
        call(libc::SYS_inotify_add_watch, &[number(&watch), path(&m.directory), 0x100])
    });
    list.add("watch files (fanotify)", REFUSED, |_| call(libc::SYS_fanotify_init, &[0, 0])).privileged();
    list.add("watch a held directory (F_NOTIFY)", UNKNOWN, |_| {
        call(libc::SYS_fcntl, &[ROOT, libc::F_NOTIFY as usize, 0x20])
    });
}

fn changes(list: &mut List) {
    list.add("make a directory", REFUSED, |m| call(libc::SYS_mkdirat, &[CWD, path(m.at("directory")), 0o700]));
    #[cfg(target_arch = "x86_64")]
    list.add("make a directory, by mkdir(2)", REFUSED, |m| call(libc::SYS_mkdir, &[path(m.at("directory 2")), 0o700]));
    list.add("remove a directory", REFUSED, |m| {
        call(libc::SYS_unlinkat, &[CWD, path(m.at("empty")), libc::AT_REMOVEDIR as usize])
    });
    #[cfg(target_arch = "x86_64")]
    list.add("remove a directory, by rmdir(2)", REFUSED, |m| call(libc::SYS_rmdir, &[path(m.at("empty 2"))]));
    list.add("make a symbolic link", REFUSED, |m| {
        call(libc::SYS_symlinkat, &[text(c"/etc/passwd"), CWD, path(m.at("symlink"))])
    });
    list.add("make a hard link", REFUSED, |m| {
        call(libc::SYS_linkat, &[CWD, path(m.at("file")), CWD, path(m.at("link")), 0])
    });
    list.add("make a FIFO", REFUSED, |m| {
        call(libc::SYS_mknodat, &[CWD, path(m.at("fifo")), (libc::S_IFIFO | 0o600) as usize, 0])
    });
    list.add("make a device", REFUSED, |m| {
        let device = [CWD, path(m.at("device")), (libc::S_IFBLK | 0o600) as usize, 0x700];
        call(libc::SYS_mknodat, &device)
    })
    .privileged();
    list.add("rename", REFUSED, |m| {
        call(libc::SYS_renameat2, &[CWD, path(m.at("old")), CWD, path(m.at("renamed")), 0])
    });
    #[cfg(not(target_arch = "riscv64"))]
    list.add("rename, by renameat(2)", UNKNOWN, |m| {
        call(libc::SYS_renameat, &[CWD, path(m.at("old 2")), CWD, path(m.at("renamed 2"))])
    });
    #[cfg(target_arch = "x86_64")]
    list.add("rename, by rename(2)", REFUSED, |m| {
        call(libc::SYS_rename, &[path(m.at("old 3")), path(m.at("renamed 3"))])
    });
    list.add("unlink", REFUSED, |m| call(libc::SYS_unlinkat, &[CWD, path(m.at("unlinked")), 0]));
    list.add("change a mode", REFUSED, |m| call(libc::SYS_fchmodat, &[CWD, path(m.at("changed")), 0o666]));
    list.add("change a mode, by fchmodat2(2)", UNKNOWN, |m| call(452, &[CWD, path(m.at("changed")), 0o666, 0]));
    list.add("change an owner", REFUSED, |m| call(libc::SYS_fchownat, &[CWD, path(m.at("changed")), !0, !0, 0]));
    list.add("change times", REFUSED, |m| call(libc::SYS_utimensat, &[CWD, path(m.at("changed")), 0, 0]));
    list.add("truncate, by name", REFUSED, |m| call(libc::SYS_truncate, &[path(m.at("changed")), 5]));
    list.add("set an attribute", REFUSED, |m| {
        call(libc::SYS_setxattr, &[path(m.at("changed")), text(c"user.a"), text(c"b"), 1, 0])
    })
    .outside(Outside::Perhaps("not every file system has attributes"));
    list.add("give a program capabilities", REFUSED, |m| {
        // VFS_CAP_REVISION_2 with cap_setuid permitted, and effective.
        let capabilities = leak([0x0200_0001_u32, 0x80, 0, 0, 0]);
        call(libc::SYS_setxattr, &[path(m.at("program")), text(c"security.capability"), capabilities, 20, 0])
    })
    .privileged();
    list.add("go to another directory", REFUSED, |_| call(libc::SYS_chdir, &[text(c"/tmp")]));
    list.add("chroot", REFUSED, |_| call(libc::SYS_chroot, &[text(c"/")])).privileged();
}

/// Outside, in mounts of its own, so that those of the system stay as they are.
fn mounts_of_its_own(means: &Means) -> io::Result<()> {
    if !means.is_outside() {
        return Ok(());
    }
    let user = if super::common::is_root() { 0 } else { libc::CLONE_NEWUSER };
    call(libc::SYS_unshare, &[(libc::CLONE_NEWNS | user) as usize])?;
    let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    call(libc::SYS_mount, &[text(c"none"), text(c"/"), 0, private, 0]).map(drop)
}

fn mount_memory(at: usize) -> io::Result<i64> {
    call(libc::SYS_mount, &[text(c"none"), at, text(c"tmpfs"), 0, 0])
}

fn mounts(list: &mut List) {
    let mut mounting = |name, expected, make: fn(&Means) -> io::Result<i64>| {
        let make = move |m: &Means| mounts_of_its_own(m).and_then(|()| make(m));
        list.add(name, expected, make).privileged();
    };
    mounting("mount a file system", REFUSED, |m| mount_memory(path(&m.directory)));
    mounting("mount /proc", REFUSED, |m| {
        // Only in a PID namespace that is the user namespace's own.
        let kind = if m.is_outside() { text(c"tmpfs") } else { text(c"proc") };
        call(libc::SYS_mount, &[text(c"none"), path(&m.directory), kind, 0, 0])
    });
    mounting("mount a directory once more", REFUSED, |m| {
        let bind = (libc::MS_BIND | libc::MS_REC) as usize;
        // Not the root: what is mounted in a directory is removed with it, should it ever be seen by the starter.
        call(libc::SYS_mount, &[path(m.at("runtime")), path(m.at("place")), 0, bind, 0])
    });
    mounting("make the root writable", REFUSED, |m| {
        if m.is_outside() {
            let place = path(&m.directory);
            mount_memory(place)?;
            let again = (libc::MS_REMOUNT | libc::MS_BIND) as usize;
            call(libc::SYS_mount, &[0, place, 0, again | libc::MS_RDONLY as usize, 0])?;
            return call(libc::SYS_mount, &[0, place, 0, again, 0]);
        }
        call(libc::SYS_mount, &[0, text(c"/"), 0, (libc::MS_REMOUNT | libc::MS_BIND) as usize, 0])
    });
    mounting("make the root writable, by mount_setattr(2)", UNKNOWN, |m| {
        let place = if m.is_outside() { path(&m.directory) } else { text(c"/") };
        if m.is_outside() {
            mount_memory(place)?;
        }
        call(libc::SYS_mount_setattr, &[CWD, place, 0, leak([0_u64, 1, 0, 0]), 32])
    });
    mounting("unmount", REFUSED, |m| {
        let place = if m.is_outside() { path(&m.directory) } else { text(c"/") };
        if m.is_outside() {
            mount_memory(place)?;
        }
        call(libc::SYS_umount2, &[place, libc::MNT_DETACH as usize])
    });
    mounting("pivot_root", REFUSED, |m| {
        let place = path(&m.directory);
        if m.is_outside() {
            mount_memory(place)?;
        }
        call(libc::SYS_pivot_root, &[place, place])
    });
    mounting("fsopen", REFUSED, |_| call(libc::SYS_fsopen, &[text(c"tmpfs"), 0]));
    mounting("fspick", UNKNOWN, |m| {
        let place = if m.is_outside() { path(&m.directory) } else { text(c"/") };
        if m.is_outside() {
            mount_memory(place)?;
        }
        call(libc::SYS_fspick, &[CWD, place, 0])
    });
    mounting("open_tree", REFUSED, |_| call(libc::SYS_open_tree, &[CWD, text(c"/usr"), 1]));
    mounting("open_tree and move_mount", REFUSED, |m| {
        let tree = call(libc::SYS_open_tree, &[CWD, path(m.at("runtime")), 1]);
        // Inside there is none: the filter answers before it is looked at.
        let tree = if m.is_outside() { Some(owned(tree)?) } else { None };
        let tree = tree.as_ref().map_or(ROOT, number);
        call(libc::SYS_move_mount, &[tree, text(c""), CWD, path(m.at("place")), 4])
    });
}

fn devices(list: &mut List) {
    for name in ["/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/loop0", "/dev/kvm", "/dev/fuse", "/dev/tty0"] {
        let expected = NAMED.floor(&[libc::EACCES, libc::ENOENT]);
        list.add(name, expected, move |_| open(name, libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK))
            .outside(Outside::Perhaps("not every host has this device"));
    }
    for name in ["/dev/null", "/dev/ptmx", "/dev/full"] {
        list.add(name, NAMED, move |_| open(name, libc::O_RDWR | libc::O_NOCTTY));
    }
    list.add("/dev/tty", NAMED, |m| {
        super::descriptors::controlling(m)?;
        open("/dev/tty", libc::O_RDWR)
    });
}

//! Where a refusal kills; and what no table holds: children, cores, set-user-ID programs.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};

use fdbroker::{Layer, Mode, Preset, Sandbox, Stdio, Word};

use super::call::{call, end, leak, loader, number, open, owned, text};
use super::common;
use super::run::{killed, worker};
use super::targets::Targets;

/// Of each kind, one or two, with the number of the system call that the filter ends it for.
const SAMPLE: &[(&str, i64)] = &[
    #[cfg(target_arch = "x86_64")]
    ("create a file, by creat(2)", libc::SYS_creat),
    ("make a hard link", libc::SYS_linkat),
    ("rename", libc::SYS_renameat2),
    ("a held root: go there", libc::SYS_fchdir),
    ("mount a file system", libc::SYS_mount),
    ("make the root writable, by mount_setattr(2)", libc::SYS_mount_setattr),
    ("open_tree", libc::SYS_open_tree),
    ("ftruncate", libc::SYS_ftruncate),
    ("socket, TCP", libc::SYS_socket),
    ("connect to an abstract UNIX socket", libc::SYS_connect),
    ("pair, datagram", libc::SYS_socketpair),
    ("send to a UDP address, by sendto", libc::SYS_sendto),
    ("signal a process", libc::SYS_kill),
    ("trace a process", libc::SYS_ptrace),
    ("read a process's memory", libc::SYS_process_vm_readv),
    ("fork", libc::SYS_clone),
    ("a user namespace, by unshare", libc::SYS_unshare),
    ("join a namespace", libc::SYS_setns),
    ("setuid(0)", libc::SYS_setuid),
    ("execute a shell", libc::SYS_execve),
    ("execute, with the token !0", libc::SYS_execveat),
    ("bpf", libc::SYS_bpf),
    ("keyctl", libc::SYS_keyctl),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("personality", libc::SYS_personality),
    ("a number beyond all", 9999),
];

/// B-02: where a refusal kills, each of these ends the worker, and the broker knows for which system call.
#[test]
fn b_02_a_refusal_that_kills() {
    let targets = Targets::new();
    for &(name, number) in SAMPLE {
        let (worker, output) = killed(&targets, name);
        let status = worker.wait().unwrap();
        assert!(matches!(status.signal(), Some(libc::SIGKILL | libc::SIGSYS)), "{name}: {status}: {output}");
        assert!(!output.contains("=\t"), "{name}: it went on: {output}");
        if status.signal() == Some(libc::SIGKILL) {
            let report = format!("{worker:?}");
            assert!(report.contains(&format!("refused: Some({number})")), "{name}: {report}");
        }
    }
}

/// B-02: where a refusal kills, what is allowed and what programs try out does not.
#[test]
fn b_02_a_refusal_that_kills_nobody_else() {
    let targets = Targets::new();
    for (name, errno) in [
        ("append, by pwritev2", 0),
        ("set another option", 0),
        ("fork, by clone3(2)", libc::ENOSYS),
        ("io_uring_setup", libc::ENOSYS),
        ("TIOCSTI", libc::ENOSYS),
        ("open to read", libc::EACCES),
    ] {
        // Files are Landlock's.
        if name == "open to read" && !super::landlock_is_whole() {
            continue;
        }
        let (worker, output) = killed(&targets, name);
        assert!(worker.wait().unwrap().success(), "{name}: {output}");
        assert!(output.contains(&format!("=\t{name}\t{errno}\n")), "{name}: {output}");
    }
}

/// B-02: a worker that may make processes executes no program in them either, with whatever token.
#[test]
fn b_02_exec_once_holds_in_children() {
    let output = common::rerun("process", "children").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("children executed 6"), "outside, they do: {output:?}");
    let sandbox = worker("children").preset(Preset::Full).allow(Word::Processes).stdout(Stdio::piped());
    let (worker, _channel) = sandbox.spawn().unwrap();
    let mut text = String::new();
    worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
    assert!(worker.wait().unwrap().success(), "{text}");
    assert!(text.contains("children executed 0"), "{text}");
}

/// In children of its own, and in a child of theirs.
pub fn guess_in_children() {
    let mut executed = 0;
    for token in [0_usize, 1, !0, 1 << 63] {
        executed += usize::from(a_child(move || execute(token)));
    }
    executed += usize::from(a_child(|| {
        let made = a_child(|| execute(0));
        end(if made { 0 } else { 1 })
    }));
    executed += usize::from(std::thread::spawn(|| a_child(|| execute(!1))).join().unwrap());
    println!("children executed {executed}");
}

fn a_child(body: impl FnOnce()) -> bool {
    match call(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0]).unwrap() {
        0 => {
            body();
            end(1)
        }
        pid => {
            let status = leak(-1_i32);
            call(libc::SYS_wait4, &[pid as usize, status, 0, 0]).unwrap();
            // SAFETY: the number above, which nobody else has.
            unsafe { *(status as *const i32) == 0 }
        }
    }
}

/// Its own program, which is there in whatever root: with an argument by which it ends well.
fn execute(token: usize) {
    let own = owned(open("/proc/self/exe", libc::O_PATH));
    let own = own.as_ref().map_or(libc::AT_FDCWD as usize, number);
    let argv = leak([text(c"escape"), text(c"--help"), 0]);
    call(libc::SYS_execveat, &[own, text(c""), argv, 0, libc::AT_EMPTY_PATH as usize, token]).ok();
    // The loader is there as well.
    let loader = loader();
    let argv = leak([loader, text(c"--version"), 0]);
    call(libc::SYS_execveat, &[libc::AT_FDCWD as usize, loader, argv, 0, 0, token]).ok();
    call(libc::SYS_execve, &[loader, argv, 0]).ok();
}

/// B-02: what a worker knows is not written to a core: its limit is 0, and cannot be raised.
#[test]
fn b_02_no_core_is_dumped() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.starts_with('|') {
        eprintln!("SKIPPED b_02_no_core_is_dumped: cores go to a program here, for which the limit says nothing");
        return;
    }
    let (_guard, directory) = common::directory();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    let outside = common::rerun("process", "abort").current_dir(&directory).output().unwrap().status;
    assert_eq!(outside.signal(), Some(libc::SIGABRT));
    if !outside.core_dumped() {
        eprintln!("outside no core is dumped either: the hard limit, or the host's settings");
    }
    for preset in Preset::ALL {
        let (worker, _channel) =
            worker("abort").preset(preset).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let status = worker.wait().unwrap();
        // Process 1 of a PID namespace takes no SIGABRT of its own: the C library has another way for it.
        assert!(status.signal().is_some() && !status.core_dumped(), "{preset}: {status}");
    }
}

pub fn abort() {
    let limits = leak([1_u64 << 30, 1 << 30]);
    if call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, limits, 0]).is_err() {
        let hard = leak([0_u64; 2]);
        call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, 0, hard]).unwrap();
        // SAFETY: the two words above, which nobody else has.
        let [_, most] = unsafe { *(hard as *const [u64; 2]) };
        call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, leak([most, most]), 0]).unwrap();
    }
    std::process::abort();
}

/// Why no program in this directory gains anything by its mode, even outside.
fn set_user_id_is_ignored(directory: &std::path::Path) -> Option<&'static str> {
    let flags = nix::sys::statvfs::statvfs(directory).unwrap().flags();
    if flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID) {
        return Some("the temporary directory is on a file system that is mounted with nosuid");
    }
    (common::status(std::process::id(), "NoNewPrivs") != "0").then_some("the tests run with no_new_privs")
}

/// B-02: a set-user-ID program of root's is the worker's own user, whether it is the worker or a program of its.
#[test]
fn b_02_set_user_id_programs_gain_nothing() {
    if !common::is_root() {
        eprintln!("SKIPPED b_02_set_user_id_programs_gain_nothing: only root can make such a program");
        return;
    }
    let (_guard, directory) = common::directory();
    let program = directory.join("id");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(std::fs::metadata(&program).unwrap().uid(), 0);
    let outside = std::process::Command::new(&program).arg("-u").uid(65534).gid(65534).output().unwrap();
    if let Some(why) = set_user_id_is_ignored(&directory) {
        eprintln!("SKIPPED b_02_set_user_id_programs_gain_nothing: {why}");
        return;
    }
    assert_eq!(outside.stdout, b"0\n", "outside it is root's");
    for preset in Preset::ALL {
        // Not by the mount alone, and not by no_new_privs alone.
        for off in [None, Some(Layer::Landlock), Some(Layer::Capabilities)] {
            let sandbox = Sandbox::new(&program).arg("-u").preset(preset).stdout(Stdio::piped());
            let sandbox = off.into_iter().fold(sandbox, |sandbox, layer| sandbox.layer(layer, Mode::Off));
            let (worker, _channel) = sandbox.spawn().unwrap();
            let mut text = String::new();
            worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "65534\n", "{preset}, without {off:?}");
        }
        let sandbox = Sandbox::new("/bin/sh").args(["-c", "exec \"$0\" -u"]).arg(&program);
        let sandbox = sandbox.preset(preset).runtime(&program).allow(Word::Exec).stdout(Stdio::piped());
        let (worker, _channel) = sandbox.spawn().unwrap();
        let mut text = String::new();
        worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "65534\n", "{preset}, executed by a shell");
    }
}

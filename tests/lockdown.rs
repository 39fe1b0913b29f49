//! `lockdown`: each preset in plain processes that fdbroker did not start, with one thread and with several, once and
//! again, and in workers.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]
#![allow(unsafe_code, reason = "fork, and attempts that have no safe form")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Barrier;

use fdbroker::{Broker, Client, Enforced, Layer, Lockdown, Policy, Refusal, Rule, Sandbox, Stdio, Word, lockdown};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["threads"] => threads_of_a_plain_process(),
        ["worker", preset, path] => worker_of_a_broker(preset_of(preset), Path::new(path)),
        ["fails", number, conditions, what] => fails(number.parse().unwrap(), conditions, what),
        _ => panic!("no such role: {role}"),
    }
}

fn preset_of(name: &str) -> Lockdown {
    match name {
        "computes" => Lockdown::computes(),
        "serves" => Lockdown::serves(),
        "spawns_nothing" => Lockdown::spawns_nothing(),
        _ => panic!("no such preset: {name}"),
    }
}

// ------------------------------------------------------------------------------------------- with one thread

/// B-12: a process that fdbroker did not start: the report says what holds, and so do the attempts and /proc.
#[test]
fn b_12_a_plain_process_that_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    in_a_fork(|| {
        // /proc cannot be opened afterwards.
        let mut status = File::open("/proc/self/status").unwrap();
        let enforced = lockdown().unwrap();
        for layer in [Layer::NoNewPrivs, Layer::Seccomp, Layer::NotDumpable] {
            assert!(enforced.has(layer), "{enforced}");
        }
        assert_eq!(enforced.has(Layer::Landlock), has_landlock(), "{enforced}");
        let mut text = String::new();
        status.read_to_string(&mut text).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(text.contains(line), "{line}: {text}");
        }

        refused_everywhere();
        assert_eq!(errno(File::open("/").map(drop)), libc::EPERM);
        assert_eq!(errno(execute()), libc::EPERM);
        assert_eq!(executable_memory(), Err(Errno::EPERM));
        // What it holds goes on working: files, sockets, memory, threads.
        file.write_all(b"text").unwrap();
        listener.accept().unwrap();
        UnixStream::pair().unwrap();
        let thread = std::thread::spawn(|| vec![1u8; 1 << 24].into_iter().map(usize::from).sum::<usize>());
        assert_eq!(thread.join().unwrap(), 1 << 24);
    });
}

/// B-12: one that computes accepts no connection and makes no pair of sockets.
#[test]
fn b_12_a_plain_process_that_computes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    in_a_fork(|| {
        let enforced = Lockdown::computes().enforce().unwrap();
        assert_eq!(enforced.has(Layer::Landlock), has_landlock(), "{enforced}");
        refused_everywhere();
        assert_eq!(errno(File::open("/").map(drop)), libc::EPERM);
        assert_eq!(errno(execute()), libc::EPERM);
        assert_eq!(executable_memory(), Err(Errno::EPERM));
        assert_eq!(errno(listener.accept().map(drop)), libc::EPERM);
        makes_no_pair();
        here.write_all(b"!").unwrap();
        there.read_exact(&mut [0]).unwrap();
        std::thread::spawn(|| ()).join().unwrap();
    });
}

/// B-12: one that spawns nothing opens and changes files as before, and executes nothing.
#[test]
fn b_12_a_plain_process_that_spawns_nothing() {
    let (_guard, directory) = common::directory();
    in_a_fork(|| {
        let enforced = Lockdown::spawns_nothing().enforce().unwrap();
        assert_eq!(enforced.is_full(), has_landlock(), "{enforced}");
        assert_eq!(enforced.has(Layer::Landlock), has_landlock(), "{enforced}");
        refused_everywhere();
        fs::write(directory.join("file"), "text").unwrap();
        assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "text");
        File::options().write(true).open(directory.join("file")).unwrap().set_len(1).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert_eq!(errno(execute()), libc::EPERM);
        assert_eq!(executable_memory(), Ok(()));
    });
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "t");
}

/// B-12: what is allowed beyond a preset is left, and what is taken from it is not.
#[test]
fn b_12_words_beyond_a_preset() {
    in_a_fork(|| {
        Lockdown::computes().allow(Word::Code).without(Word::Threads).enforce().unwrap();
        assert_eq!(executable_memory(), Ok(()));
        let thread = std::thread::Builder::new().spawn(|| ());
        assert_eq!(errno(thread.map(drop)), libc::EPERM);
    });
}

/// B-12: where words let opens and sockets pass the filter, Landlock still refuses them.
#[test]
fn b_12_landlock_below_the_filter() {
    if !has_landlock() {
        eprintln!("SKIPPED b_12_landlock_below_the_filter: this kernel has no Landlock");
        return;
    }
    let (_guard, directory) = common::directory();
    in_a_fork(|| {
        let preset = Lockdown::computes().allow(Word::Load).allow(Word::Exec).allow(Word::Code);
        let enforced = preset.enforce().unwrap();
        assert!(enforced.is_full(), "{enforced}");
        assert_eq!(errno(File::open(&directory).map(drop)), libc::EACCES);
        assert_eq!(errno(fs::write(directory.join("file"), "text")), libc::EACCES);
        assert_eq!(errno(execute()), libc::EACCES);
    });
}

/// B-12: it can be done again, which gives up more and nothing less.
#[test]
fn b_12_again_and_again() {
    let (_guard, directory) = common::directory();
    in_a_fork(|| {
        Lockdown::spawns_nothing().enforce().unwrap();
        fs::write(directory.join("file"), "text").unwrap();
        let pair = UnixStream::pair().unwrap();
        for _ in 0..2 {
            let enforced = lockdown().unwrap();
            assert_eq!(enforced.has(Layer::Landlock), has_landlock(), "{enforced}");
            assert_eq!(errno(File::open(&directory).map(drop)), libc::EPERM);
            UnixStream::pair().unwrap();
        }
        Lockdown::computes().enforce().unwrap();
        makes_no_pair();
        // What was given up before stays so.
        let enforced = Lockdown::spawns_nothing().enforce().unwrap();
        assert!(enforced.has(Layer::Seccomp));
        assert_eq!(errno(File::open(&directory).map(drop)), libc::EPERM);
        (&pair.0).write_all(b"!").unwrap();
    });
}

/// B-12: where a refusal kills, what is given up ends the process by SIGSYS; the rest goes on.
#[test]
fn b_12_a_refusal_that_kills() {
    let attempt = |attempt: fn()| {
        fork_status(move || {
            Lockdown::computes().refusal(Refusal::Kill).enforce().unwrap();
            assert_eq!(vec![1; 1 << 20].len(), 1 << 20);
            std::thread::spawn(|| ()).join().unwrap();
            attempt();
        })
    };
    assert_eq!(attempt(|| ()).code(), Some(0));
    let killed: [fn(); 4] = [
        || drop(File::open("/")),
        || drop(TcpListener::bind("127.0.0.1:0")),
        || drop(UnixStream::pair()),
        || assert_eq!(executable_memory(), Ok(())),
    ];
    for (index, killed) in killed.into_iter().enumerate() {
        assert_eq!(attempt(killed).signal(), Some(libc::SIGSYS), "attempt {index}");
    }
}

/// L-07, B-12: other processes of its user could look at it and trace it before, and no longer can.
#[test]
fn l_07_b_12_not_dumpable() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    // SAFETY: the child does what a test does, in memory of its own; the C library's allocator is made for that.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => end_with(catch_unwind(AssertUnwindSafe(|| {
            drop(here);
            become_nobody();
            meet(&mut there);
            meet(&mut there);
            lockdown().unwrap();
            meet(&mut there);
            meet(&mut there);
        }))),
    };
    drop(there);
    meet(&mut here);
    assert_ne!(owner_of_environment(child), 0);
    assert!(fs::read(environment(child)).is_ok());
    meet(&mut here);
    meet(&mut here);
    // Root's, so that its own user cannot read it. (In a user namespace, root may go by another number.)
    let root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/").unwrap());
    assert_eq!(owner_of_environment(child), root);
    if !common::is_root() {
        let error = fs::read(environment(child)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(seize(child), Err(Errno::EPERM));
    }
    meet(&mut here);
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

/// Waits until the other side has come as far.
fn meet(other: &mut UnixStream) {
    other.write_all(b"!").unwrap();
    other.read_exact(&mut [0]).unwrap();
}

fn environment(pid: Pid) -> String {
    format!("/proc/{pid}/environ")
}

/// PTRACE_SEIZE, which does not stop it.
fn seize(pid: Pid) -> Result<(), Errno> {
    // SAFETY: traces another process, and touches no memory.
    Errno::result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.as_raw(), 0, 0) }).map(drop)
}

fn owner_of_environment(pid: Pid) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(environment(pid)).unwrap().uid()
}

fn become_nobody() {
    if common::is_root() {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setresgid(65534.into(), 65534.into(), 65534.into()).unwrap();
        nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
        prctl::set_dumpable(true).unwrap();
    }
}

// ------------------------------------------------------------------------------------------- with several threads

/// B-12: a process that has threads already: the filter covers all of them, and the report says that Landlock does not.
#[test]
fn b_12_threads_of_a_plain_process() {
    common::passes(common::rerun("process", "threads"));
}

fn threads_of_a_plain_process() {
    let before = Barrier::new(4);
    let after = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                before.wait();
                after.wait();
                refused_everywhere();
                assert_eq!(errno(File::open("/").map(drop)), libc::EPERM);
                assert_eq!(errno(execute()), libc::EPERM);
            });
        }
        before.wait();
        let enforced = lockdown().unwrap();
        after.wait();
        assert!(enforced.has(Layer::Seccomp) && enforced.has(Layer::NotDumpable), "{enforced}");
        let landlock = state(&enforced, Layer::Landlock).unwrap_err();
        assert!(!has_landlock() || landlock.contains("this thread only"), "{enforced}");
        refused_everywhere();
    });
}

/// B-12: a worker of fdbroker, by each preset: the client still works, and every open, socket and exec fails.
#[test]
fn b_12_workers_by_each_preset() {
    for preset in ["computes", "serves", "spawns_nothing"] {
        let (_guard, path) = common::directory();
        let file = path.join("file");
        fs::write(&file, "content").unwrap();
        let policy = Policy::builder().allow(Rule::file(&file).read()).build().unwrap();
        let role = format!("worker {preset} {}", file.display());
        let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
        let sandbox = sandbox.env("FDBROKER_TEST_ROLE", role).stdout(Stdio::Null);
        let (worker, channel) = sandbox.spawn().unwrap();
        let service = Broker::new().serve("worker", channel, policy).unwrap();
        assert!(worker.wait().unwrap().success(), "{preset}");
        service.wait().unwrap();
    }
}

fn worker_of_a_broker(preset: Lockdown, path: &Path) {
    let client = Client::from_stdin().unwrap();
    let read = || io::read_to_string(client.read(path).unwrap()).unwrap();
    assert_eq!(read(), "content");
    // On the floor, before Linux 5.13.
    let sees_files = File::open(path).is_ok();
    for round in 0..2 {
        let enforced = preset.enforce().unwrap();
        assert!(enforced.has(Layer::Seccomp) && enforced.has(Layer::NotDumpable), "{round}: {enforced}");
        refused_everywhere();
        assert!(sees_files && !enforced.has(Layer::Landlock) || File::open(path).is_err(), "{round}: {enforced}");
        assert_eq!(errno(execute()), libc::EPERM);
        assert_eq!(read(), "content");
    }
}

// ------------------------------------------------------------------------------------------- what fails

/// L-10, B-12: a step that fails is an error with the step's name.
#[test]
fn l_10_b_12_a_step_that_fails() {
    let steps = [
        (libc::SYS_seccomp, "1", "seccomp"),
        (libc::SYS_landlock_restrict_self, "", "landlock_restrict_self"),
        (libc::SYS_prctl, "4", "PR_SET_DUMPABLE"),
    ];
    for (number, condition, what) in steps {
        if number == libc::SYS_landlock_restrict_self && !has_landlock() {
            eprintln!("SKIPPED landlock_restrict_self: this kernel has no Landlock");
            continue;
        }
        common::passes(common::rerun("process", &format!("fails {number} {condition} {what}")));
    }
}

fn fails(number: i64, condition: &str, what: &str) {
    let conditions: Vec<(u8, u64)> = condition.parse().map(|value| (0, value)).into_iter().collect();
    common::refuse(number, &conditions, libc::EIO);
    let error = lockdown().unwrap_err().to_string();
    let errno = io::Error::from_raw_os_error(libc::EIO).to_string();
    assert!(error.contains(what) && error.contains(&errno), "{error}");
}

// ------------------------------------------------------------------------------------------- what is tried

/// By every preset.
fn refused_everywhere() {
    assert_eq!(errno(TcpListener::bind("127.0.0.1:0").map(drop)), libc::EPERM);
    // SAFETY: takes numbers; nothing of it comes into being.
    let forked = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
    assert_eq!((forked, Errno::last()), (-1, Errno::EPERM));
    let parent = nix::unistd::getppid();
    assert_eq!(nix::sys::signal::kill(parent, None), Err(Errno::EPERM));
    assert!(!prctl::get_dumpable().unwrap());
    assert_eq!(prctl::set_dumpable(true), Err(Errno::EPERM));
}

/// In one of the filter's two words: EPERM where its number stands beside that of a call that is refused by name, as on
/// aarch64 and riscv64.
fn makes_no_pair() {
    let errno = errno(UnixStream::pair().map(drop));
    assert!([libc::ENOSYS, libc::EPERM].contains(&errno), "{errno}");
}

/// In the place of this process. If it succeeded, the process would end with another status than that of a test.
fn execute() -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    Err(std::process::Command::new("/bin/false").exec())
}

fn executable_memory() -> Result<(), Errno> {
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping, at no address that is used.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if page == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

fn errno(result: io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0)
}

fn state(enforced: &Enforced, layer: Layer) -> Result<String, String> {
    let state = enforced.layers().find(|(known, _)| *known == layer).unwrap().1;
    state.map(str::to_owned).map_err(str::to_owned)
}

/// Whether this kernel has Landlock: a null pointer of size 0 with this flag asks for its version.
fn has_landlock() -> bool {
    // SAFETY: as just said.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) > 0 }
}

/// A process with one thread, which a test is not.
fn in_a_fork(body: impl FnOnce()) {
    let status = fork_status(body);
    assert_eq!(status.code(), Some(0), "{status}");
}

fn fork_status(body: impl FnOnce()) -> ExitStatus {
    // SAFETY: the child does what a test does, in memory of its own; the C library's allocator is made for that.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::unistd::alarm::set(60);
            end_with(catch_unwind(AssertUnwindSafe(body)))
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
            WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
            other => panic!("{other:?}"),
        },
    }
}

/// Without what a test's process does at its end.
fn end_with(result: std::thread::Result<()>) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) }
}

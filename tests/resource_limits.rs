//! Limits of a worker's resources: they hold, it cannot raise them, and none is above the broker's own.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(unsafe_code, reason = "limits and mappings have no safe form")]

mod common;

use std::fs;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use common::start::{PATIENCE, run, say, started, wait_for_the_end, worker};
use fdbroker::{Layer, Limit, Mode, Preset, Refusal, Sandbox, SpawnError, Stdio, Step};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::dup;

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "map" => map(argument.parse().unwrap()),
        "raise" => raise(),
        "descriptors" => descriptors(),
        "threads" => threads(),
        "signals" => signals(),
        "abort" => std::process::abort(),
        "lowered" => lowered(),
        "crowded" => crowded(),
        "congested" => congested(),
        other => panic!("no such role: {other}"),
    }
}

const RESOURCES: [(Limit, u32); 10] = [
    (Limit::Memory, libc::RLIMIT_AS),
    (Limit::Data, libc::RLIMIT_DATA),
    (Limit::Stack, libc::RLIMIT_STACK),
    (Limit::LockedMemory, libc::RLIMIT_MEMLOCK),
    (Limit::Descriptors, libc::RLIMIT_NOFILE),
    (Limit::Processes, libc::RLIMIT_NPROC),
    (Limit::PendingSignals, libc::RLIMIT_SIGPENDING),
    (Limit::FileSize, libc::RLIMIT_FSIZE),
    (Limit::Core, libc::RLIMIT_CORE),
    (Limit::CpuTime, libc::RLIMIT_CPU),
];

/// Soft and hard.
fn limits(resource: u32) -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one struct.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    (limit.rlim_cur, limit.rlim_max)
}

fn set_limits(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one struct.
    let status = unsafe { libc::setrlimit(resource, &raw const limit) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Values at which the worker still runs, each below what this process may have.
fn asked(limit: Limit) -> u64 {
    match limit {
        Limit::Memory => 1 << 40,
        Limit::Data => 1 << 39,
        Limit::Stack => 1 << 20,
        Limit::LockedMemory => 1 << 12,
        Limit::Descriptors => 33,
        Limit::Processes => 3000,
        Limit::PendingSignals => 2000,
        Limit::FileSize => 12345,
        Limit::Core => 0,
        Limit::CpuTime => 999,
        other => panic!("a limit that this test does not know: {other}"),
    }
}

/// Says each limit, and what came of raising it: the hard one, and the soft one beyond the hard one.
fn raise() {
    let mut lines = Vec::new();
    for (limit, resource) in RESOURCES {
        let before = limits(resource);
        let tried =
            [(before.0, before.1.saturating_add(1)), (before.0.saturating_add(1), before.1), (u64::MAX, u64::MAX)].map(
                |(soft, hard)| {
                    set_limits(resource, soft, hard).map_or_else(|error| error.raw_os_error().unwrap(), |()| 0)
                },
            );
        lines.push(format!("{limit}: {before:?} {tried:?} {:?}", limits(resource)));
    }
    say(&lines.join("\n"));
    wait_for_the_end();
}

/// B-13, B-09: every limit that is asked for is the worker's, soft and hard, at every preset; it cannot raise any; and
/// the report says each as it is.
#[test]
fn b_13_b_09_every_limit_holds_and_cannot_be_raised() {
    assert_eq!(RESOURCES.map(|(limit, _)| limit), Limit::ALL);
    for preset in Preset::ALL {
        let sandbox = Limit::ALL.iter().fold(worker("raise").preset(preset), |s, limit| s.limit(*limit, asked(*limit)));
        let (worker, _channel, seen) = started(&sandbox);
        let (unprivileged, invalid) = (libc::EPERM, libc::EINVAL);
        let expected = Limit::ALL.map(|limit| {
            let value = asked(limit).min(limits(RESOURCES.iter().find(|(known, _)| *known == limit).unwrap().1).1);
            let pair = (value, value);
            format!("{limit}: {pair:?} [{unprivileged}, {invalid}, {unprivileged}] {pair:?}")
        });
        assert_eq!(seen, expected.join("\n"), "{preset}");
        let said = worker.enforced().layers().find(|(layer, _)| *layer == Layer::Limits).unwrap().1.unwrap();
        let named: Vec<_> = said.split(", ").map(|limit| limit.rsplit_once(' ').unwrap()).collect();
        assert_eq!(named.len(), Limit::ALL.len());
        for (name, value) in named {
            let line = seen.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap();
            assert!(line.contains(&format!(": ({value}, {value}) ")), "{line}: {said}");
        }
    }
}

/// Private memory of so many MiB.
fn map(mebibytes: usize) {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, anywhere.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), mebibytes << 20, access, kind, -1, 0) };
    let failed = address == libc::MAP_FAILED;
    say(&if failed { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }.to_string());
    wait_for_the_end();
}

/// B-13: memory beyond the limit is not to be had, and memory within it is.
#[test]
fn b_13_memory() {
    for limit in [Limit::Memory, Limit::Data] {
        for (mebibytes, expected) in [(64, 0), (2048, libc::ENOMEM)] {
            let sandbox = worker(&format!("map {mebibytes}")).limit(limit, 1 << 30);
            assert_eq!(started(&sandbox).2, expected.to_string(), "{limit}, {mebibytes} MiB");
        }
    }
}

fn descriptors() {
    let mut highest = 0;
    let end = loop {
        match dup(io::stdin()) {
            Ok(fd) => highest = std::os::fd::IntoRawFd::into_raw_fd(fd),
            Err(errno) => break errno as i32,
        }
    };
    say(&format!("{highest} {end}"));
    wait_for_the_end();
}

/// B-13: descriptors beyond the limit are not to be had; those that were declared are there, whatever their number.
#[test]
fn b_13_descriptors() {
    for limit in [8, 50] {
        let (_worker, _channel, seen) = started(&worker("descriptors").limit(Limit::Descriptors, limit));
        assert_eq!(seen, format!("{} {}", limit - 1, libc::EMFILE));
    }
    let (_directory, path) = common::directory();
    fs::write(path.join("file"), "").unwrap();
    let file = fs::File::open(path.join("file")).unwrap();
    let (worker, _channel, _) = started(&worker("descriptors").limit(Limit::Descriptors, 8).descriptor(40, file));
    assert_eq!(common::fds_of(worker.id()), [0, 1, 2, 3, 4, 5, 6, 7, 40]);
}

fn threads() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
    let mut handles = Vec::new();
    let error = loop {
        let receiver = std::sync::Arc::clone(&receiver);
        match std::thread::Builder::new().spawn(move || receiver.lock().unwrap().recv().unwrap_err()) {
            Ok(handle) => handles.push(handle),
            Err(error) => break error.raw_os_error().unwrap(),
        }
    };
    say(&format!("{error}"));
    drop(sender);
    wait_for_the_end();
}

/// B-13: no more threads and processes of its user than the limit. For a user of the worker's own, which root can give.
#[test]
fn b_13_processes() {
    if !common::is_root() {
        eprintln!("SKIPPED b_13_processes: others of this user count as well, and only root can start as another");
        return;
    }
    let sandbox = worker("threads").ids(54399, 54399).limit(Limit::Processes, 12);
    let (worker, _channel, seen) = started(&sandbox);
    assert_eq!(seen, libc::EAGAIN.to_string());
    let threads: u32 = common::status(worker.id(), "Threads").parse().unwrap();
    assert!(threads <= 12, "{threads}");
}

/// B-13: no more signals wait than the limit; and so the broker's user has others left.
#[test]
fn b_13_pending_signals() {
    // Where Landlock does not keep its signals inside, the filter lets it send none.
    let sandbox = worker("signals").preset(Preset::Floor).layer(Layer::Seccomp, Mode::Off);
    let sandbox = sandbox.layer(Layer::ExecOnce, Mode::Off).limit(Limit::PendingSignals, 7);
    let (_worker, _channel, seen) = started(&sandbox);
    let (queued, errno) = seen.split_once(' ').unwrap();
    assert!(queued.parse::<u32>().unwrap() <= 7, "{seen}");
    assert_eq!(errno, libc::EAGAIN.to_string());
}

/// Sends itself a signal that is blocked, and of which each is queued, until that fails.
fn signals() {
    let signal = libc::SIGRTMIN();
    // SAFETY: a set of signals that the kernel reads, and numbers.
    let (queued, error) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let own = libc::syscall(libc::SYS_gettid);
        let queue = || libc::syscall(libc::SYS_tgkill, libc::getpid(), own, signal) == 0;
        ((0..1_000_000).take_while(|_| queue()).count(), io::Error::last_os_error())
    };
    say(&format!("{queued} {}", error.raw_os_error().unwrap()));
    wait_for_the_end();
}

/// B-13: the limit is about what the worker does: it is started, however many others its user has.
#[test]
fn b_13_processes_there_are_already() {
    if !common::is_root() {
        eprintln!("SKIPPED b_13_processes_there_are_already: only root can start as another user");
        return;
    }
    for preset in Preset::ALL {
        let sandbox = Sandbox::new("/bin/cat").preset(preset).ids(54398, 54398).limit(Limit::Processes, 1);
        let prepared = sandbox.stdout(Stdio::null()).prepare().unwrap();
        let workers: Vec<_> = (0..3).map(|_| prepared.spawn().unwrap()).collect();
        for (worker, channel) in workers {
            drop(channel);
            assert!(worker.wait_timeout(PATIENCE).unwrap().expect("its end").success());
        }
    }
}

fn end_of(sandbox: &Sandbox) -> ExitStatus {
    let (worker, _channel) = sandbox.spawn().unwrap();
    worker.wait_timeout(PATIENCE).unwrap().expect("its end")
}

/// B-13: a file grows no further than the limit, and who writes beyond is ended by SIGXFSZ.
#[test]
fn b_13_file_size() {
    let file = tempfile::tempfile().unwrap();
    let shell = Sandbox::new("/bin/sh").args(["-c", "while :; do echo 0123456789; done"]);
    let shell = shell.limit(Limit::FileSize, 1000).stdout(Stdio::from(file.try_clone().unwrap()));
    assert_eq!(end_of(&shell).signal(), Some(libc::SIGXFSZ));
    assert_eq!(file.metadata().unwrap().size(), 1000);
}

/// B-13: the same where the broker was started with that signal ignored, which stays so across exec.
#[test]
fn b_13_file_size_for_a_broker_that_ignores_the_signal() {
    common::alone("b_13_file_size_for_a_broker_that_ignores_the_signal", || {
        // SAFETY: no handler is installed.
        unsafe { nix::sys::signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
        b_13_file_size();
    });
}

/// B-13: processor time beyond the limit is the end. The soft limit is the hard one, so the kernel does not warn.
#[test]
fn b_13_cpu_time() {
    let shell = Sandbox::new("/bin/sh").args(["-c", "while :; do :; done"]).limit(Limit::CpuTime, 1);
    assert_eq!(end_of(&shell).signal(), Some(libc::SIGKILL));
}

/// B-13: no core is dumped, unless that is asked for.
#[test]
fn b_13_core() {
    let status = end_of(&worker("abort").stderr(Stdio::null()));
    assert!(status.signal().is_some_and(common::aborts), "{status}");
    assert!(!status.core_dumped(), "{status}");
}

/// B-13: a limit above the broker's own hard limit is that, and the report says so.
#[test]
fn b_13_above_the_brokers_own() {
    run("lowered");
}

fn lowered() {
    set_limits(libc::RLIMIT_NOFILE, 300, 500).unwrap();
    let (worker, _channel, seen) = started(&worker("raise").limit(Limit::Descriptors, 1_000_000));
    assert!(seen.contains(&format!("descriptors: (500, 500) [{0}, {1}, {0}]", libc::EPERM, libc::EINVAL)), "{seen}");
    let said = worker.enforced().layers().find(|(layer, _)| *layer == Layer::Limits).unwrap().1.unwrap();
    assert!(said.contains("descriptors 500"), "{said}");
    // Its own are as they were.
    assert_eq!(limits(libc::RLIMIT_NOFILE), (300, 500));
}

/// B-13, F-06: a broker that has more open than the worker may have starts one nevertheless: in both refusals, one of
/// which has a listener, down to the descriptors that are declared.
#[test]
fn b_13_f_06_fewer_descriptors_than_the_broker_has() {
    run("crowded");
}

fn crowded() {
    let crowd: Vec<_> = (0..100).map(|_| fs::File::open("/").unwrap()).collect();
    for preset in Preset::ALL {
        for refusal in [Refusal::Errno, Refusal::Kill] {
            for limit in [4, 8, 50] {
                let cat = Sandbox::new("/bin/cat").preset(preset).refusal(refusal).limit(Limit::Descriptors, limit);
                let (worker, channel) = match cat.stdout(Stdio::piped()).spawn() {
                    Ok(started) => started,
                    Err(error) => panic!("{preset}, {refusal}, {limit}: {error}"),
                };
                channel.send(b"word", &[]).unwrap();
                let mut echo = [0; 4];
                worker.take_stdout().unwrap().read_exact(&mut echo).unwrap();
                assert_eq!(&echo, b"word", "{preset}, {refusal}, {limit}");
            }
        }
    }
    drop(crowd);
}

/// B-11, K9: a worker sends its filter's listener, and the kernel counts what else its user has in flight: what is
/// received before long is waited for, and what is not is an error that says so, after which nothing is left.
#[test]
fn b_11_k9_descriptors_in_flight_of_the_workers_user() {
    run("congested");
}

fn congested() {
    let user = 54397;
    let (sender, receiver) = UnixStream::pair().unwrap();
    let sent = thread::spawn(move || {
        // SAFETY: takes numbers. By the call itself it is about this thread alone.
        let become_user = || unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
        assert!(!common::is_root() || become_user() == 0);
        let fds = [sender.as_raw_fd(); 40];
        let rights = [ControlMessage::ScmRights(&fds)];
        let word = [IoSlice::new(b"word")];
        sendmsg::<()>(sender.as_raw_fd(), &word, &rights, MsgFlags::empty(), None).unwrap();
    });
    sent.join().unwrap();
    set_limits(libc::RLIMIT_NOFILE, 30, limits(libc::RLIMIT_NOFILE).1).unwrap();
    let cat = Sandbox::new("/bin/cat").refusal(Refusal::Kill).stdout(Stdio::null());
    let cat = if common::is_root() { cat.ids(user, user) } else { cat };
    let prepared = cat.prepare().unwrap();
    let before = common::open_fds();
    match prepared.spawn() {
        Err(SpawnError::Step { step: Step::Listener, about: Some(about), source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ETOOMANYREFS));
            assert!(about.contains("a user of its own"), "{about}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(common::open_fds(), before);
    let child =
        || waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL);
    assert_eq!(child(), Err(Errno::ECHILD));
    let received = thread::spawn(move || {
        while child() == Err(Errno::ECHILD) {
            thread::yield_now();
        }
        // Long enough to have been refused a few times.
        thread::sleep(Duration::from_millis(100));
        // What reads bytes alone closes what came with them.
        assert_eq!((&receiver).read(&mut [0; 8]).unwrap(), 4);
    });
    let (worker, channel) = prepared.spawn().unwrap();
    received.join().unwrap();
    drop(channel);
    assert!(worker.wait_timeout(PATIENCE).unwrap().expect("its end").success());
}

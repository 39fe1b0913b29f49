//! Workers are started beside other threads, from odd brokers, and by the thousand: what else goes on is not disturbed,
//! and nothing gets where it does not belong.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::state::{has_no_child, state};
use common::{alone, alone_with, is_root};
use fdbroker::{
    Broker, Channel, Client, Layer, Mode, Packet, Policy, Preset, Refusal, Rule, Sandbox, SpawnError, Stdio, Step,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;

/// Nothing takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "answers" => answers(argument.parse().unwrap()),
        "sleeps" => thread::sleep(PATIENCE),
        "broker" => broker(argument.parse().unwrap()),
        "secret" => secrets(),
        "storm" => storm(),
        _ => {}
    }
}

/// This test binary, as a worker in a role.
fn this(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--test-threads=1"]);
    let sandbox = sandbox.env("FDBROKER_TEST_ROLE", role).stdout(Stdio::Null).stderr(Stdio::Null);
    as_somebody(sandbox)
}

/// A program that ends at once.
fn brief() -> Sandbox {
    as_somebody(Sandbox::new("/bin/true").stdout(Stdio::Null).stderr(Stdio::Null))
}

/// A program that echoes to nowhere until its channel ends.
fn cat() -> Sandbox {
    as_somebody(Sandbox::new("/bin/cat").stdout(Stdio::Null).stderr(Stdio::Null))
}

fn as_somebody(sandbox: Sandbox) -> Sandbox {
    if is_root() { sandbox.ids(54321, 54322) } else { sandbox }
}

/// What no kernel executes.
fn garbage(directory: &Path) -> PathBuf {
    let path = directory.join("garbage");
    fs::write(&path, "\x7fELF, but no more").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A worker that answers each message on its channel, until that ends.
fn answers(channel: i32) {
    let mut bytes = [0; 64];
    while let Ok(length @ 1..) = recv(channel, &mut bytes, MsgFlags::empty()) {
        send(channel, &bytes[..length], MsgFlags::MSG_NOSIGNAL).unwrap();
    }
}

/// The worker is alive, and at the other end of this.
fn assert_answers(channel: &Channel) {
    channel.set_recv_timeout(Some(PATIENCE)).unwrap();
    channel.send(b"there?", &[]).unwrap();
    let mut packet = Packet::new();
    channel.recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"there?");
}

fn dumpable() -> bool {
    nix::sys::prctl::get_dumpable().unwrap()
}

// ------------------------------------------------------------------------------------------------------- threads

/// B-03: several threads start workers at once, of which some cannot be started: afterwards, the process and each of its
/// threads is what it was.
#[test]
fn b_03_several_threads_spawn_at_once() {
    alone("b_03_several_threads_spawn_at_once", || {
        let (_keep, directory) = common::directory();
        let garbage = garbage(&directory);
        // Who is to die with the process is made by one thread, whoever asks for it.
        let presets =
            Preset::ALL.into_iter().flat_map(|preset| [Mode::Off, Mode::IfAvailable].map(|mode| (preset, mode)));
        let alone = state();
        for (preset, mode) in presets {
            let around = |sandbox: Sandbox| sandbox.preset(preset).layer(Layer::DieWithParent, mode).prepare().unwrap();
            let (good, bad) = (around(brief()), around(as_somebody(Sandbox::new(&garbage))));
            drop(thread::scope(|scope| scope.spawn(|| good.spawn().unwrap()).join()).unwrap());
            wait_for_threads(&alone);
            let before = state();
            assert!(before["dumpable"].contains("true"), "{}", before["dumpable"]);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..25 {
                            let (worker, _channel) = good.spawn().unwrap();
                            assert!(worker.wait().unwrap().success());
                            let error = bad.spawn().unwrap_err();
                            assert!(matches!(error, SpawnError::Step { step: Step::Exec, .. }), "{error}");
                        }
                    });
                }
            });
            wait_for_threads(&before);
            assert_eq!(state(), before, "{preset}, die with parent: {mode}");
            assert!(has_no_child());
        }
    });
}

/// A thread that was joined is in /proc for a moment more.
fn wait_for_threads(before: &common::state::State) {
    let since = Instant::now();
    while state().len() > before.len() {
        assert!(since.elapsed() < PATIENCE, "threads that do not end");
        thread::yield_now();
    }
}

/// B-03, L-07: a broker that is not dumpable starts workers, and is not dumpable afterwards.
#[test]
fn b_03_l_07_a_broker_that_is_not_dumpable() {
    alone("b_03_l_07_a_broker_that_is_not_dumpable", || {
        nix::sys::prctl::set_dumpable(false).unwrap();
        for preset in Preset::ALL {
            // What an ordinary user cannot have then, the report says.
            let (worker, channel) = this("answers 0").preset(preset).spawn().unwrap();
            assert_answers(&channel);
            assert!(!dumpable(), "{preset}");
            let missing = worker.enforced().layers().find(|(layer, state)| state.is_err() && *layer != Layer::ExecOnce);
            assert!(!is_root() || missing.is_none(), "{}", worker.enforced());
        }
    });
}

/// B-05: 2,000 workers are started by 4 threads beside 4 that allocate: none fails, and none hangs.
#[test]
fn b_05_two_thousand_workers_beside_allocating_threads() {
    for arenas in [None, Some("1")] {
        let mut command = common::rerun("process", "storm");
        if let Some(arenas) = arenas {
            // One lock for all threads: a child that waited for it would wait for a thread that is not there.
            command.env("MALLOC_ARENA_MAX", arenas);
        }
        common::passes(command);
    }
}

fn storm() {
    nix::unistd::alarm::set(240);
    // Who is to die with the process would be made by one thread, whoever asks for it.
    let prepared = brief().layer(Layer::DieWithParent, Mode::Off).prepare().unwrap();
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 0..4 {
            let stop = &stop;
            scope.spawn(move || allocate(seed, stop));
        }
        let spawning = || {
            for _ in 0..500 {
                let (worker, _channel) = prepared.spawn().unwrap();
                assert!(worker.wait().unwrap().success());
                made.fetch_add(1, Ordering::Relaxed);
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(spawning)).collect();
        let results: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(made.into_inner(), 2000);
    assert!(has_no_child());
}

/// Small pieces and large ones, kept for a while.
fn allocate(seed: usize, stop: &AtomicBool) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut number = seed;
    while !stop.load(Ordering::Relaxed) {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = if number >> 60 == 0 { 300_000 } else { 16 + (number >> 33) % 4000 };
        let byte = number.to_le_bytes()[7];
        kept.push(black_box(vec![byte; size]));
        if kept.len() > 200 {
            let gone = kept.swap_remove(number % 200);
            assert!(gone.iter().all(|other| *other == gone[0]), "somebody else wrote here");
            // The other threads, and what they measure, have processors as well.
            thread::yield_now();
        }
    }
}

/// F-03: while workers are started and descriptors received, a thread starts other programs in a loop, by fork and exec:
/// nothing of all that is open in them.
#[test]
fn f_03_what_others_execute_inherits_nothing() {
    alone("f_03_what_others_execute_inherits_nothing", || {
        let (_keep, directory) = common::directory();
        fs::write(directory.join("file"), "granted").unwrap();
        let policy = Policy::builder().allow(Rule::file(directory.join("file")).read()).build().unwrap();
        let (theirs, ours) = Channel::pair().unwrap();
        let service = Broker::new().serve("client", theirs, policy).unwrap();
        let client = Client::new(ours);
        let sandboxes = Preset::ALL.map(|preset| cat().preset(preset).refusal(Refusal::Kill).stdin_elsewhere());
        let prepared = sandboxes.map(|sandbox| sandbox.prepare().unwrap());
        let list = || {
            // One of its own: the directory that it lists.
            let listed = Command::new("/bin/sh").args(["-c", "echo /proc/self/fd/*"]).stdin(Output::null()).output();
            String::from_utf8(listed.unwrap().stdout).unwrap()
        };
        // Also what whoever started the tests has left open.
        let expected = list();
        let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let spawning = scope.spawn(|| {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (worker, _channel) = prepared[rounds % 3].spawn().unwrap();
                    // The kernel lets the parent go a moment before it closes what the new program is not to have.
                    let since = Instant::now();
                    while common::fds_of(worker.id()) != [0, 1, 2, 9] {
                        assert!(since.elapsed() < PATIENCE, "{:?}", common::fds_of(worker.id()));
                        thread::yield_now();
                    }
                    rounds += 1;
                    made.store(rounds, Ordering::Relaxed);
                }
            });
            let receiving = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(client.read(directory.join("file")).unwrap());
                }
            });
            let listed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut lists = 0;
                while lists < 200 || made.load(Ordering::Relaxed) < 50 {
                    assert_eq!(list(), expected);
                    assert!(!spawning.is_finished(), "the other thread has failed");
                    lists += 1;
                }
            }));
            stop.store(true, Ordering::Relaxed);
            receiving.join().unwrap();
            listed.unwrap();
        });
        drop(client);
        service.wait().unwrap();
    });
}

trait StdinElsewhere {
    fn stdin_elsewhere(self) -> Sandbox;
}

impl StdinElsewhere for Sandbox {
    /// A pipe, which has one more end here.
    fn stdin_elsewhere(self) -> Sandbox {
        self.channel_at(9).stdin(Stdio::Pipe).stdout(Stdio::Pipe)
    }
}

/// F-05: what a descriptor that is not passed on is closed by is the execution, and not sooner: the broker's own
/// descriptors, and those of other threads, are there afterwards, with the flags that they had.
#[test]
fn f_05_the_brokers_descriptors_keep_their_flags() {
    alone("f_05_the_brokers_descriptors_keep_their_flags", || {
        let open: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        for (index, file) in open.iter().enumerate() {
            let flag = if index % 2 == 0 { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
            fcntl(file, FcntlArg::F_SETFD(flag)).unwrap();
        }
        let flags = || open.iter().map(|file| fcntl(file, FcntlArg::F_GETFD).unwrap()).collect::<Vec<_>>();
        let before = flags();
        for preset in Preset::ALL {
            let (worker, channel) = this("answers 0").preset(preset).spawn().unwrap();
            assert_answers(&channel);
            assert_eq!(common::fds_of(worker.id()), [0, 1, 2]);
            assert_eq!(flags(), before);
        }
        // A program that cannot be executed is told of by the child, which has closed nothing that it needs for that.
        let (_keep, directory) = common::directory();
        let error = Sandbox::new(garbage(&directory)).spawn().unwrap_err();
        assert!(matches!(error, SpawnError::Step { step: Step::Exec, .. }), "{error}");
        assert_eq!(flags(), before);
    });
}

// ------------------------------------------------------------------------------------------------------- numbers

/// F-06: the worker's numbers are those that the library's own descriptors have in the broker, one after the other, and
/// those of the descriptors that are passed.
#[test]
fn f_06_numbers_that_are_taken_in_the_broker() {
    alone("f_06_numbers_that_are_taken_in_the_broker", || {
        let (_keep, directory) = common::directory();
        let file = |name: String| {
            fs::write(directory.join(&name), &name).unwrap();
            OwnedFd::from(File::open(directory.join(&name)).unwrap())
        };
        for channel in 3..24 {
            // The next one, its own number, and one further up.
            let own = file("own".to_owned());
            let own_number = own.as_raw_fd();
            let mut expected: Vec<i32> = vec![0, 1, 2, channel];
            let mut sandbox = this(&format!("answers {channel}")).channel_at(channel).stdin(Stdio::Pipe);
            for number in [channel + 1, own_number, channel + 7] {
                if !expected.contains(&number) {
                    expected.push(number);
                    let fd = if number == own_number { own.try_clone().unwrap() } else { file(number.to_string()) };
                    sandbox = sandbox.descriptor(number, fd);
                }
            }
            expected.sort_unstable();
            let (worker, there) = sandbox.stdout(Stdio::Pipe).spawn().unwrap();
            assert_answers(&there);
            assert_eq!(common::fds_of(worker.id()), expected);
            for number in expected.into_iter().filter(|number| *number > 2 && *number != channel) {
                let name = if number == own_number { "own".to_owned() } else { number.to_string() };
                let path = fs::read_link(format!("/proc/{}/fd/{number}", worker.id())).unwrap();
                assert_eq!(path, directory.join(name), "channel at {channel}");
            }
        }
    });
}

/// F-06: the descriptor that is passed has, in the broker, the very number that it is to have in the worker.
#[test]
fn f_06_a_descriptor_that_keeps_its_number() {
    alone("f_06_a_descriptor_that_keeps_its_number", || {
        for _ in 0..10 {
            let file = File::open("/dev/zero").unwrap();
            let number = file.as_raw_fd();
            let (worker, channel) = this("answers 0").descriptor(number, file).spawn().unwrap();
            assert_answers(&channel);
            assert_eq!(common::fds_of(worker.id()), [0, 1, 2, number]);
            let path = fs::read_link(format!("/proc/{}/fd/{number}", worker.id())).unwrap();
            assert_eq!(path, Path::new("/dev/zero"));
        }
    });
}

/// F-06: a broker that has closed 0, 1 and 2: nothing of a running worker's has one of these numbers there.
#[test]
fn f_06_nothing_on_the_standard_numbers() {
    alone("f_06_nothing_on_the_standard_numbers", || {
        // libtest prints the result to standard output.
        let standard = [0, 1, 2].map(dup_above_20);
        (0..3).for_each(|number| nix::unistd::close(number).unwrap());
        let mut wrong = Vec::new();
        for preset in Preset::ALL {
            for refusal in [Refusal::Errno, Refusal::Kill] {
                let sandbox = this("answers 5").preset(preset).refusal(refusal);
                let sandbox = sandbox.channel_at(5).stdin(Stdio::Pipe).log(|_| ()).stdout(Stdio::Pipe);
                let (worker, channel) = match sandbox.spawn() {
                    Ok(spawned) => spawned,
                    Err(error) => {
                        wrong.push(format!("{preset}, {refusal:?}: {error}"));
                        continue;
                    }
                };
                let there: Vec<String> = (0..3).filter_map(open_on).collect();
                if !there.is_empty() {
                    wrong.push(format!("{preset}, {refusal:?}: {there:?}"));
                }
                drop((worker, channel));
            }
        }
        put_back(standard);
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// What is open there.
fn open_on(number: i32) -> Option<String> {
    fs::read_link(format!("/proc/self/fd/{number}")).ok().map(|target| format!("{number}: {}", target.display()))
}

#[allow(unsafe_code, reason = "numbers, not descriptors, are what this is about")]
fn dup_above_20(number: i32) -> i32 {
    // SAFETY: takes numbers.
    unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 20) }
}

#[allow(unsafe_code, reason = "as above")]
fn put_back(standard: [i32; 3]) {
    for (number, from) in (0..).zip(standard) {
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::dup2(from, number) }, number);
    }
}

// ------------------------------------------------------------------------------------------------------ thousands

/// L-01: 4,096 workers, each with a service of its own, in a broker that can have 4,096 descriptors: none is left.
#[test]
fn l_01_four_thousand_workers() {
    alone_with(4096, "l_01_four_thousand_workers", || serve_and_end(4096));
}

/// L-01: the same with 64 descriptors.
#[test]
fn l_01_workers_of_a_broker_with_few_descriptors() {
    alone_with(64, "l_01_workers_of_a_broker_with_few_descriptors", || {
        serve_and_end(200);
        let prepared = brief().prepare().unwrap();
        let before = common::open_fds();
        // From none left to enough: whatever it is that is not to be had, nothing is kept of the rest.
        let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let mut failed = 0;
        let worker = loop {
            match prepared.spawn() {
                Ok((worker, _channel)) => break worker,
                Err(SpawnError::Prepare { source, .. } | SpawnError::Step { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
                }
                Err(other) => panic!("{other:?}"),
            }
            assert!(has_no_child());
            let free: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            assert_eq!(free.len(), failed, "a descriptor was lost, or found");
            drop(free);
            failed += 1;
            drop(hoard.pop().expect("never enough"));
        };
        assert!(failed >= 3, "{failed} failures");
        assert!(worker.wait().unwrap().success());
        drop((worker, hoard));
        assert_eq!(common::open_fds(), before);
    });
}

fn serve_and_end(workers: usize) {
    let policy = std::sync::Arc::new(Policy::builder().build().unwrap());
    let (prepared, broker) = (brief().prepare().unwrap(), Broker::new());
    let before = common::open_fds();
    for _ in 0..workers {
        let (worker, channel) = prepared.spawn().unwrap();
        let service = broker.serve("worker", channel, std::sync::Arc::clone(&policy)).unwrap();
        assert!(worker.wait().unwrap().success());
        service.wait().unwrap();
    }
    assert_eq!(common::open_fds(), before);
    assert!(has_no_child());
}

// --------------------------------------------------------------------------------------------------------- memory

/// L-06: a worker is not where its broker is in its memory, nor where another worker is, and it has nothing of what
/// the broker's heap, environment and arguments hold.
#[test]
fn l_06_a_worker_has_nothing_of_its_brokers_memory() {
    let mut command = common::rerun("process", "secret");
    // libtest takes it for the name of one more test.
    command.arg(format!("argument-{}", random())).env("SECRET", format!("variable-{}", random()));
    common::passes(command);
}

fn random() -> String {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secrets() {
    let heap = black_box(format!("heap-{}", random()));
    let variable = std::env::var("SECRET").unwrap();
    let argument = std::env::args().find(|argument| argument.starts_with("argument-")).unwrap();
    let secrets = [heap, variable, argument];
    let own = memory(std::process::id());
    for secret in &secrets {
        assert!(holds(&own, secret.as_bytes()), "the search does not find what is there");
    }
    drop(own);
    let randomized = fs::read_to_string("/proc/sys/kernel/randomize_va_space").unwrap();
    for preset in Preset::ALL {
        let mut layouts = vec![layout(std::process::id())];
        for _ in 0..2 {
            let declared = random();
            let (worker, channel) = this("answers 0").env("DECLARED", &declared).preset(preset).spawn().unwrap();
            assert_answers(&channel);
            let memory = memory(worker.id());
            assert!(holds(&memory, declared.as_bytes()), "{preset}: the search does not find what is there");
            for secret in &secrets {
                assert!(!holds(&memory, secret.as_bytes()), "{preset}: {secret}");
            }
            layouts.push(layout(worker.id()));
        }
        if randomized.trim() == "0" {
            eprintln!("SKIPPED l_06 in part: this host does not randomize addresses");
            continue;
        }
        for (index, one) in layouts.iter().enumerate() {
            for other in &layouts[index + 1..] {
                assert!(one.iter().all(|address| !other.contains(address)), "{preset}: {one:?} {other:?}");
            }
        }
    }
}

/// Where the program, the C library, the heap and the stack begin.
fn layout(pid: u32) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let start = |what: &str| {
        let line = maps.lines().find(|line| line.ends_with(what));
        line.map(|line| line.split('-').next().unwrap().to_owned()).unwrap_or_else(|| panic!("no {what} in {maps}"))
    };
    let program = std::env::current_exe().unwrap();
    ["[heap]", "[stack]", "libc.so.6", program.to_str().unwrap()].map(start).to_vec()
}

/// All that it can write to, which is where its data are.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    let mut file = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut pieces = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" r") && !line.contains("[v")) {
        let (first, last) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [first, last] = [first, last].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut piece = vec![0; usize::try_from(last - first).unwrap()];
        file.seek(SeekFrom::Start(first)).unwrap();
        if file.read_exact(&mut piece).is_ok() {
            pieces.push(piece);
        }
    }
    pieces
}

fn holds(memory: &[Vec<u8>], what: &[u8]) -> bool {
    let first = what[0];
    memory.iter().any(|piece| {
        let starts = piece.iter().enumerate().filter(|(_, byte)| **byte == first).map(|(start, _)| start);
        starts.into_iter().any(|start| piece[start..].starts_with(what))
    })
}

// ------------------------------------------------------------------------------------------------ who waits for whom

/// L-07: the worker's end was taken by somebody else, and its process id is another process's by now: that is neither
/// killed nor waited for.
#[test]
fn l_07_a_process_id_that_is_anothers() {
    alone("l_07_a_process_id_that_is_anothers", || {
        for _ in 0..200 {
            let (worker, _channel) = cat().spawn().unwrap();
            let pid = i32::try_from(worker.id()).unwrap();
            nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
            nix::sys::wait::waitpid(Pid::from_raw(pid), None).unwrap();
            if let Err(error) = fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()) {
                eprintln!("SKIPPED l_07_a_process_id_that_is_anothers: the next process id cannot be chosen: {error}");
                return;
            }
            let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
            if other.id() == worker.id() {
                worker.kill().unwrap();
                worker.signal(libc::SIGTERM).unwrap();
                assert_eq!(worker.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
                assert_eq!(worker.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
                drop(worker);
                assert_eq!(other.try_wait().unwrap(), None, "another process was hit");
                other.kill().unwrap();
                assert_eq!(other.wait().unwrap().signal(), Some(libc::SIGKILL));
                return;
            }
            other.kill().unwrap();
            other.wait().unwrap();
        }
        eprintln!("SKIPPED l_07_a_process_id_that_is_anothers: others took the process id each time");
    });
}

/// L-07: where SIGCHLD is ignored, the kernel keeps no status: waiting says so at the worker's end, and hangs never; a
/// step that fails is told as ever.
#[test]
fn l_07_sigchld_is_ignored() {
    alone("l_07_sigchld_is_ignored", || {
        use nix::sys::signal::{SigHandler, Signal, signal};
        #[allow(unsafe_code, reason = "of signal(2), which ignores here")]
        // SAFETY: no handler.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
        let (_keep, directory) = common::directory();
        for preset in Preset::ALL {
            let (worker, channel) = this("answers 0").preset(preset).spawn().unwrap();
            assert_answers(&channel);
            assert_eq!(worker.try_wait().unwrap(), None);
            worker.kill().unwrap();
            assert_eq!(worker.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
            drop(worker);
            let error = as_somebody(Sandbox::new(garbage(&directory))).preset(preset).spawn().unwrap_err();
            assert!(matches!(error, SpawnError::Step { step: Step::Exec, .. }), "{error}");
            assert!(has_no_child());
        }
    });
}

/// L-07: a loop elsewhere in the broker waits for any child: who asks for a worker's status has it, or hears that
/// somebody else has; and the loop sees no child whose program was never executed.
#[test]
fn l_07_somebody_else_waits_for_any_child() {
    alone("l_07_somebody_else_waits_for_any_child", || {
        let (_keep, directory) = common::directory();
        let stop = AtomicBool::new(false);
        let (good, bad) =
            (brief().prepare().unwrap(), as_somebody(Sandbox::new(garbage(&directory))).prepare().unwrap());
        let (mut own, mut others) = (0, 0);
        let taken = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut taken = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match nix::sys::wait::waitpid(None, None) {
                        Ok(status) => taken.push(status),
                        Err(Errno::ECHILD) => thread::yield_now(),
                        Err(errno) => panic!("{errno}"),
                    }
                }
                taken
            });
            for _ in 0..300 {
                let (worker, _channel) = good.spawn().unwrap();
                match worker.wait() {
                    Ok(status) => {
                        assert!(status.success());
                        own += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
                        others += 1;
                    }
                }
                let error = bad.spawn().unwrap_err();
                assert!(matches!(error, SpawnError::Step { step: Step::Exec, .. }), "{error}");
            }
            stop.store(true, Ordering::Relaxed);
            waiting.join().unwrap()
        });
        assert_eq!((own + others, taken.len()), (300, others), "{taken:?}");
        assert!(has_no_child());
    });
}

// -------------------------------------------------------------------------------------------------- life and death

/// B-04: the thread that started a worker ends: the worker, which is to die with the process, lives.
#[test]
fn b_04_the_thread_that_spawned_ends() {
    alone("b_04_the_thread_that_spawned_ends", || {
        for preset in Preset::ALL {
            let spawning = move || this("answers 0").preset(preset).die_with_parent().spawn().unwrap();
            let threads = || fs::read_dir("/proc/self/task").unwrap().count();
            let id = |(sender, spawned): (std::sync::mpsc::Sender<_>, _)| {
                drop(sender.send((nix::unistd::gettid(), spawned)))
            };
            let (sender, spawned) = std::sync::mpsc::channel();
            thread::spawn(move || id((sender, spawning()))).join().unwrap();
            let (thread, (worker, channel)) = spawned.recv().unwrap();
            let since = Instant::now();
            while Path::new(&format!("/proc/self/task/{thread}")).exists() {
                assert!(since.elapsed() < PATIENCE, "{} threads", threads());
                thread::yield_now();
            }
            assert_answers(&channel);
            assert_eq!(worker.try_wait().unwrap(), None, "{preset}");
        }
    });
}

/// B-04: the process that started a worker is killed: the worker, which looks at nothing, ends.
#[test]
fn b_04_the_process_that_spawned_dies() {
    for preset in Preset::ALL {
        let mut broker = common::rerun("process", &format!("broker {preset}")).stdout(Output::piped()).spawn().unwrap();
        let mut output = broker.stdout.take().unwrap();
        let mut text = String::new();
        while !text.contains(
            "the worker is up
",
        ) {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{text}");
            text.push(char::from(byte[0]));
        }
        let since = Instant::now();
        broker.kill().unwrap();
        broker.wait().unwrap();
        // The worker has the pipe as well.
        output.read_to_string(&mut text).unwrap();
        assert!(since.elapsed() < PATIENCE / 2, "{preset}: the worker outlived the broker");
    }
}

fn broker(preset: Preset) {
    let stdout = Stdio::from(fs::OpenOptions::new().write(true).open("/proc/self/fd/1").unwrap());
    // From a thread that is not the main one, and one that is gone by then.
    let spawned =
        thread::spawn(move || this("sleeps").preset(preset).stdout(stdout).die_with_parent().spawn().unwrap());
    let _worker = spawned.join().unwrap();
    println!("the worker is up");
    thread::sleep(PATIENCE);
}

/// B-04: a broker that has started workers forks, and both go on: each has workers of its own, which die with it.
#[test]
fn b_04_a_broker_that_forks() {
    alone("b_04_a_broker_that_forks", || {
        let spawned = |preset| {
            // The first time, this makes the thread that starts workers; after a fork, there is none.
            thread::spawn(move || this("answers 0").preset(preset).die_with_parent().spawn().unwrap()).join().unwrap()
        };
        for preset in Preset::ALL {
            let (worker, channel) = spawned(preset);
            let child = fork(|| {
                let (own, own_channel) = spawned(preset);
                assert_answers(&own_channel);
                assert!(own.kill().is_ok() && own.wait().unwrap().signal() == Some(libc::SIGKILL));
                // The other's worker is no child of this process: it cannot be waited for.
                assert_eq!(worker.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
            });
            assert_eq!(nix::sys::wait::waitpid(child, None).unwrap(), nix::sys::wait::WaitStatus::Exited(child, 0));
            assert_answers(&channel);
            assert_eq!(worker.try_wait().unwrap(), None, "{preset}");
        }
    });
}

#[allow(unsafe_code, reason = "fork(2)")]
fn fork(body: impl FnOnce()) -> Pid {
    // SAFETY: the other threads wait, and hold no lock.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            nix::unistd::alarm::set(60);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: takes a number.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
    }
}

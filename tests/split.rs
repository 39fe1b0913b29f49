//! Programs that split themselves: this one, started again in a role. `split` wants to be called first thing in main,
//! so the file has a main of its own, which runs the tests and prints what the usual one prints.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio, exit};
use std::time::Duration;

use fdbroker::{Channel, Client, Packet, Policy, PolicyError, Rule, Sandbox, Split, SplitError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};

const MARKER: &str = "FDBROKER_WORKER";
/// For how long a worker that should have been killed waits before it says that it was not.
const PATIENCE: Duration = Duration::from_secs(60);

const TESTS: &[(&str, fn())] = &[
    ("the_worker_is_served_and_locked_down", the_worker_is_served_and_locked_down),
    ("the_exit_status_is_the_workers", the_exit_status_is_the_workers),
    ("a_signal_that_kills_the_worker_is_told", a_signal_that_kills_the_worker_is_told),
    ("signals_are_passed_on", signals_are_passed_on),
    ("the_hang_up_of_a_terminal_is_passed_on", the_hang_up_of_a_terminal_is_passed_on),
    ("a_handled_signal_is_the_workers_own_business", a_handled_signal_is_the_workers_own_business),
    ("p_06_a_fault_kills_the_worker", p_06_a_fault_kills_the_worker),
    (
        "a_worker_that_blocks_standard_error_is_killed_all_the_same",
        a_worker_that_blocks_standard_error_is_killed_all_the_same,
    ),
    (
        "a_worker_that_makes_standard_error_non_blocking_is_killed_all_the_same",
        a_worker_that_makes_standard_error_non_blocking_is_killed_all_the_same,
    ),
    ("a_policy_that_fails_starts_no_worker", a_policy_that_fails_starts_no_worker),
    ("a_worker_that_cannot_be_started", a_worker_that_cannot_be_started),
    ("l_06_secrets_of_the_policy_are_not_in_the_worker", l_06_secrets_of_the_policy_are_not_in_the_worker),
    ("l_06_the_address_layout_is_another", l_06_the_address_layout_is_another),
    ("a_forged_marker_is_refused", a_forged_marker_is_refused),
    ("a_forged_marker_with_a_silent_broker_is_refused", a_forged_marker_with_a_silent_broker_is_refused),
    ("arguments_are_passed_through", arguments_are_passed_through),
    ("b_10_environment_and_standard_input", b_10_environment_and_standard_input),
    ("l_02_b_04_the_parents_death_ends_the_worker", l_02_b_04_the_parents_death_ends_the_worker),
    ("b_01_the_user_is_the_one_asked_for", b_01_the_user_is_the_one_asked_for),
];

/// Runs the tests side by side: each waits for processes of its own. Takes names as cargo test passes them, and
/// `--list`.
fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "role") {
        return role(&arguments[1..]);
    }
    let arguments: Vec<String> = arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let fits = |test: &str, name: &str| if exact { test == name } else { test.contains(name) };
    let is_wanted = |test: &str| names.is_empty() || names.iter().any(|name| fits(test, name));
    let wanted: Vec<_> = TESTS.iter().filter(|(name, _)| is_wanted(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let mut failed = 0;
    std::thread::scope(|scope| {
        let start = |&&(name, test): &&(&'static str, fn())| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            (name, thread.spawn_scoped(scope, test).unwrap())
        };
        let running: Vec<_> = wanted.iter().map(start).collect();
        for (name, thread) in running {
            let ended = thread.join();
            failed += usize::from(ended.is_err());
            println!("test {name} ... {}", if ended.is_ok() { "ok" } else { "FAILED" });
        }
    });
    let (passed, others) = (wanted.len() - failed, TESTS.len() - wanted.len());
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {others} filtered out\n");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

// ---------------------------------------------------------------------------------------------------- the programs

/// A program that splits itself. What comes after the split is the worker.
fn role(arguments: &[OsString]) -> ExitCode {
    let name = arguments[0].to_str().unwrap();
    let argument = arguments.get(1).map_or(Path::new("/"), Path::new);
    match name {
        "bare" => bare(false, false),
        "forged, no_new_privs" => bare(true, false),
        "forged, no_new_privs and a filter" => bare(true, true),
        "policy fails" => {
            let error =
                fdbroker::split(|| Policy::builder().allow(Rule::beneath("not absolute").read()).build()).unwrap_err();
            assert!(matches!(&error, SplitError::Policy(source) if source.is::<PolicyError>()), "{error:?}");
            assert_eq!(waitpid(None::<Pid>, None), Err(Errno::ECHILD), "a child was started");
            assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::empty(), "signals are left blocked");
            println!("{error}");
            return ExitCode::from(3);
        }
        "program is missing" => {
            let before = common::open_fds();
            let split = Split::new().sandbox(|_| Sandbox::new("/nowhere/to/be/found"));
            let error = split.run(|| Policy::builder().build()).unwrap_err();
            assert!(matches!(error, SplitError::Spawn(_)), "{error:?}");
            assert_eq!(waitpid(None::<Pid>, None), Err(Errno::ECHILD), "a child was started");
            assert_eq!(common::open_fds(), before);
            assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::empty(), "signals are left blocked");
            println!("{error}");
            return ExitCode::from(3);
        }
        "leads a session" if std::env::var_os(MARKER).is_none() => {
            // The first terminal that the leader of a session opens becomes the session's.
            setsid().unwrap();
            std::mem::forget(File::options().read(true).write(true).open(argument).unwrap());
        }
        _ => {}
    }
    let split = Split::new();
    let split = match name {
        "blocks" => {
            let output = argument.to_owned();
            let is_worker = std::env::var_os(MARKER).is_some();
            split.sandbox(move |sandbox| match is_worker {
                true => sandbox,
                false => sandbox.stdout(File::options().write(true).open(output).unwrap()),
            })
        }
        "serve" => split
            .on_start(|enforced| eprintln!("on_start: {} layers", enforced.layers().count()))
            .audit(|record| eprintln!("audit: {record}")),
        "user" => split.sandbox(|sandbox| sandbox.ids(54321, 54322)),
        _ => split,
    };
    let policy = || {
        let builder = Policy::builder();
        match name {
            "secret" => secret(),
            "serve" => return builder.allow(Rule::beneath(argument).read()).build(),
            _ => {}
        }
        builder.build()
    };
    let client = split.run(policy).unwrap();
    worker(name, argument, &client)
}

fn worker(name: &str, argument: &Path, client: &Client) -> ExitCode {
    let say = |line: &str| {
        println!("{line}");
        io::stdout().flush().unwrap();
    };
    match name {
        "exit" => return ExitCode::from(argument.to_str().unwrap().parse::<u8>().unwrap()),
        "abort" => std::process::abort(),
        "idle" | "secret" | "user" | "leads a session" => {
            say(&format!("worker {}", std::process::id()));
            std::thread::sleep(PATIENCE);
            say("the worker was not killed");
        }
        "handles" => {
            let mut term = SigSet::empty();
            term.add(Signal::SIGTERM);
            term.thread_block().unwrap();
            say("worker is ready");
            say(&format!("got {}", term.wait().unwrap()));
            return ExitCode::from(5);
        }
        "fault" => {
            say("worker sends garbage");
            nix::unistd::write(client, b"garbage").unwrap();
            std::thread::sleep(PATIENCE);
            say("the worker was not killed");
        }
        "blocks" => {
            let filling = std::thread::spawn(|| while io::stderr().write(&[b'x'; 4096]).is_ok() {});
            // Once the pipe is full, nothing can be written any more.
            let stderr = io::stderr();
            let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            while poll(&mut room, 0u8).unwrap() > 0 {
                std::thread::yield_now();
            }
            nix::unistd::write(client, b"garbage").unwrap();
            std::thread::sleep(PATIENCE);
            say("the worker was not killed");
            drop(filling);
        }
        "non-blocking" => {
            // It is no such stream, but the call is the same.
            let stderr: OwnedFd = io::stderr().as_fd().try_clone_to_owned().unwrap();
            UnixStream::from(stderr.try_clone().unwrap()).set_nonblocking(true).unwrap();
            while nix::unistd::write(&stderr, &[b'x'; 4096]).is_ok() {}
            while nix::unistd::write(&stderr, b"x").is_ok() {}
            nix::unistd::write(client, b"garbage").unwrap();
            std::thread::sleep(PATIENCE);
            say("the worker was not killed");
        }
        "serve" => {
            say(&io::read_to_string(client.read(argument.join("page")).unwrap()).unwrap());
            let refused = File::open(argument.join("page")).unwrap_err();
            say(&format!("directly: {:?}", refused.raw_os_error()));
        }
        "arguments" => {
            for argument in std::env::args_os() {
                say(&argument.as_bytes().escape_ascii().to_string());
            }
        }
        "surroundings" => {
            let mut bytes = Vec::new();
            let stdin = io::stdin();
            let mut events = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut events, 30_000u16).unwrap(), 1, "reading standard input would wait");
            io::stdin().read_to_end(&mut bytes).unwrap();
            say(&format!("standard input: {bytes:?}"));
            for (name, value) in std::env::vars_os() {
                say(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
            }
        }
        _ => panic!("no such role: {name}"),
    }
    ExitCode::SUCCESS
}

/// Says what `split` says; with the walls of a worker around it, if asked for, but by nobody's doing but the starter's.
fn bare(no_new_privs: bool, filter: bool) {
    if no_new_privs {
        nix::sys::prctl::set_no_new_privs().unwrap();
    }
    if filter {
        common::refuse(libc::SYS_acct, &[], libc::EPERM);
    }
    match fdbroker::split(|| Policy::builder().build()) {
        Err(SplitError::NotAWorker { variable, what }) => println!("not a worker: {variable}: {what}"),
        other => println!("{other:?}"),
    }
    exit(3);
}

/// Something that only the broker knows: made at run time, so that it is not in the program's file, and kept.
fn secret() {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("secret {secret}");
    io::stdout().flush().unwrap();
    Box::leak(secret.into_boxed_str());
}

// ------------------------------------------------------------------------------------------------------- the tests

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("role").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program whose standard output can be waited for.
struct Running {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = program(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What stands after this word, on the first line that begins with it.
    fn wait_for(&mut self, word: &str) -> String {
        loop {
            let line = self.lines.next().expect("more output").unwrap();
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The exit status, and what was still printed, by the worker too: it is read until nobody holds the pipe.
    fn end(mut self) -> (Option<i32>, String) {
        let rest: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        let status = self.child.wait().unwrap();
        (status.code(), rest.join("\n"))
    }
}

/// B-12: the worker gets through the client what it cannot get itself, and the parent's two calls are made.
fn the_worker_is_served_and_locked_down() {
    let (_directory, path) = common::directory();
    fs::write(path.join("page"), "hello from the broker").unwrap();
    let output = run(&["serve", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "hello from the broker\ndirectly: Some(1)\n");
    let said = stderr(&output);
    assert!(said.contains("on_start: "), "{said}");
    assert!(said.contains("/page") && said.contains(": granted") && said.contains("worker: end: hung up"), "{said}");
}

fn the_exit_status_is_the_workers() {
    for status in [0, 7, 255] {
        let output = run(&["exit", &status.to_string()]);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
    }
}

fn a_signal_that_kills_the_worker_is_told() {
    assert_eq!(run(&["abort"]).status.code(), Some(128 + libc::SIGABRT));
    let mut running = Running::start(&["idle"]);
    let worker = running.wait_for("worker ").parse().unwrap();
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    assert_eq!(running.end(), (Some(128 + libc::SIGKILL), String::new()));
    assert!(!Path::new(&format!("/proc/{worker}")).exists());
}

/// The kernel tells the leader of the session, which the broker is here, and nobody else.
fn the_hang_up_of_a_terminal_is_passed_on() {
    // Close-on-exec from the start: the programs of the tests beside this one must not hold it open.
    let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let mut running = Running::start(&["leads a session", &ptsname_r(&terminal).unwrap()]);
    running.wait_for("worker ");
    drop(terminal);
    assert_eq!(running.end(), (Some(128 + libc::SIGHUP), String::new()));
}

fn signals_are_passed_on() {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2] {
        let mut running = Running::start(&["idle"]);
        running.wait_for("worker ");
        kill(running.pid(), signal).unwrap();
        assert_eq!(running.end(), (Some(128 + signal as i32), String::new()), "{signal}");
    }
}

fn a_handled_signal_is_the_workers_own_business() {
    let mut running = Running::start(&["handles"]);
    running.wait_for("worker is ready");
    kill(running.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(running.end(), (Some(5), "got SIGTERM".to_owned()));
}

/// P-06: garbage on the channel. The worker is killed, and the parent says why.
fn p_06_a_fault_kills_the_worker() {
    let output = run(&["fault"]);
    assert_eq!(output.status.code(), Some(128 + libc::SIGKILL));
    assert!(stderr(&output).contains("fdbroker: the worker is killed: malformed: 7 bytes"), "{}", stderr(&output));
    assert!(!stdout(&output).contains("not killed"));
}

/// The worker shares standard error, and has filled it up: the parent must not wait for room before it kills.
fn a_worker_that_blocks_standard_error_is_killed_all_the_same() {
    let (_directory, path) = common::directory();
    let fifo = path.join("output");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let mut child = program(&["blocks", fifo.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    // Only the worker holds the other end: this comes to an end with it. Nobody has read standard error until then.
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "");
    let mut said = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said).trim_start_matches('x').to_owned();
    assert!(said.contains("fdbroker: the worker is killed: malformed"), "{} ... {said:?}", said.len());
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGKILL));
}

fn a_worker_that_makes_standard_error_non_blocking_is_killed_all_the_same() {
    let mut child = program(&["non-blocking"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(io::read_to_string(child.stdout.take().unwrap()).unwrap(), "");
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGKILL));
}

fn a_policy_that_fails_starts_no_worker() {
    let output = run(&["policy fails"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("making the policy: ") && stdout(&output).contains(": rule for not absolute"),
        "{}",
        stdout(&output)
    );
}

fn a_worker_that_cannot_be_started() {
    let output = run(&["program is missing"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stdout(&output).contains("/nowhere/to/be/found"), "{}", stdout(&output));
}

/// L-06: what the policy's closure knows is in the parent's memory and not in the worker's.
fn l_06_secrets_of_the_policy_are_not_in_the_worker() {
    let mut running = Running::start(&["secret"]);
    let secret = running.wait_for("secret ");
    let worker = running.wait_for("worker ");
    let parent = running.child.id().to_string();
    let found = [&parent, &worker].map(|pid| is_in_memory(pid, secret.as_bytes()));
    running.child.kill().unwrap();
    running.end();
    match found {
        [Ok(in_parent), Ok(in_worker)] => {
            assert!(in_parent, "the search does not find what is there");
            assert!(!in_worker, "the broker's secret is in the worker's memory");
        }
        [parent, worker] => eprintln!(
            "SKIPPED l_06_secrets_of_the_policy_are_not_in_the_worker: reading memory: parent {parent:?}, worker {worker:?}"
        ),
    }
}

/// Searches all that the process can read itself.
fn is_in_memory(pid: &str, secret: &[u8]) -> io::Result<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut searched = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        // The kernel's own pages, which nobody can read in this way.
        if !rest.starts_with('r')
            || rest.ends_with("[vvar]")
            || rest.ends_with("[vvar_vclock]")
            || rest.ends_with("[vsyscall]")
        {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        memory.read_exact_at(&mut bytes, start)?;
        searched += bytes.len();
        if bytes.windows(secret.len()).any(|window| window == secret) {
            return Ok(true);
        }
    }
    assert!(searched > 1 << 18, "only {searched} bytes were searched");
    Ok(false)
}

/// L-06: the worker is a new process image, so its addresses say nothing about the parent's.
fn l_06_the_address_layout_is_another() {
    let mut running = Running::start(&["idle"]);
    let worker = running.wait_for("worker ");
    let parent = running.child.id().to_string();
    let first = |pid: &str| {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        Ok::<_, io::Error>(maps.split_once('-').map(|(start, _)| start.to_owned()))
    };
    let bases = [&parent, &worker].map(|pid| first(pid));
    running.child.kill().unwrap();
    running.end();
    let randomized = fs::read_to_string("/proc/sys/kernel/randomize_va_space").is_ok_and(|text| text.trim() == "2");
    match bases {
        [Ok(parent), Ok(worker)] if randomized => assert_ne!(parent, worker),
        other => eprintln!("SKIPPED l_06_the_address_layout_is_another: randomized: {randomized}, {other:?}"),
    }
}

/// The marker alone makes nobody a worker: no_new_privs, a filter and a broker at standard input are needed, too.
fn a_forged_marker_is_refused() {
    for (role, word) in [
        ("bare", "no_new_privs is not set"),
        ("forged, no_new_privs", "it has no system-call filter"),
        ("forged, no_new_privs and a filter", "standard input is not a channel"),
    ] {
        let output = program(&[role]).env(MARKER, "1").output().unwrap();
        assert_eq!(
            stdout(&output),
            format!("not a worker: {MARKER}: {}\n", at_least(&output, word)),
            "{}",
            stderr(&output)
        );
        assert_eq!(output.status.code(), Some(3));
    }
    // Somebody is at the other end who knows the answers, but there are no walls.
    for role in ["bare", "forged, no_new_privs"] {
        let output = with_a_peer(role, |channel| while channel.recv(&mut Packet::new()).is_ok() {});
        assert!(stdout(&output).starts_with("not a worker: "), "{role}: {}", stdout(&output));
    }
    // There are walls, but the other end is no broker.
    for answer in [&b""[..], b"garbage", b"fb\x01\x80\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        let output = with_a_peer("forged, no_new_privs and a filter", |channel| {
            channel.recv(&mut Packet::new()).unwrap();
            if !answer.is_empty() {
                channel.send(answer, &[]).unwrap();
            }
        });
        assert!(stdout(&output).starts_with("not a worker: "), "{answer:?}: {}", stdout(&output));
    }
}

/// What was said of the kind that is expected, whole.
fn at_least(output: &Output, word: &str) -> String {
    let text = stdout(output);
    let what = text.trim_end().rsplit_once(&format!("{MARKER}: ")).map_or("", |(_, what)| what);
    assert!(what.starts_with(word), "{text}");
    what.to_owned()
}

/// The program with a channel to this process as its standard input, and the marker.
fn with_a_peer(role: &str, peer: impl FnOnce(&Channel)) -> Output {
    let (here, there) = Channel::pair().unwrap();
    let mut command = program(&[role]);
    command.env(MARKER, "1").stdin(OwnedFd::from(there)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    peer(&here);
    drop(here);
    child.wait_with_output().unwrap()
}

/// A peer that says nothing is given up after 10 seconds.
fn a_forged_marker_with_a_silent_broker_is_refused() {
    let (here, there) = Channel::pair().unwrap();
    let mut command = program(&["forged, no_new_privs and a filter"]);
    let output = command.env(MARKER, "1").stdin(OwnedFd::from(there)).output().unwrap();
    assert!(stdout(&output).starts_with("not a worker: "), "{}", stdout(&output));
    drop(here);
}

fn arguments_are_passed_through() {
    let odd = OsString::from_vec(b"\xff\n \\".to_vec());
    let mut command = program(&["arguments", "", "--exact", "a b"]);
    let output = command.arg0("a name of its own").arg(&odd).arg(OsStr::new("*")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = ["a name of its own", "role", "arguments", "", "--exact", "a b", "\\xff\\n \\\\", "*"];
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), expected);
}

/// B-10: the worker's environment is the marker, and its standard input is at its end.
fn b_10_environment_and_standard_input() {
    let output = program(&["surroundings"]).env("SECRET", "of the broker").env("PATH", "/bin").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("standard input: []\n{MARKER}=1\n"));
}

/// L-02, B-04: the parent is killed with SIGKILL, and can tell nobody.
fn l_02_b_04_the_parents_death_ends_the_worker() {
    let mut running = Running::start(&["idle"]);
    running.wait_for("worker ");
    running.child.kill().unwrap();
    // The worker holds the pipe, too: its end is the worker's.
    let rest: Vec<String> = running.lines.by_ref().map(Result::unwrap).collect();
    assert_eq!(rest, [""; 0]);
    assert_eq!(running.child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

/// B-01: by default nobody, otherwise as asked for.
fn b_01_the_user_is_the_one_asked_for() {
    if !common::is_root() {
        eprintln!("SKIPPED b_01_the_user_is_the_one_asked_for: only root can start a worker as another user");
        return;
    }
    for (role, uid, gid) in [("idle", 65534, 65534), ("user", 54321, 54322)] {
        let mut running = Running::start(&[role]);
        let worker: u32 = running.wait_for("worker ").parse().unwrap();
        assert_eq!(common::status(worker, "Uid"), [uid; 4].map(|id: u32| id.to_string()).join("\t"));
        assert_eq!(common::status(worker, "Gid"), [gid; 4].map(|id: u32| id.to_string()).join("\t"));
        assert_eq!(common::status(worker, "Groups"), "");
        kill(running.pid(), Signal::SIGTERM).unwrap();
        assert_eq!(running.end().0, Some(128 + libc::SIGTERM));
    }
}

//! Starting a worker: what it has, what it has not, and what is left when it cannot be started or has ended.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Output, exit};
use std::time::Duration;

use fdbroker::{
    Broker, Channel, ChannelError, Client, ClientError, Layer, Packet, Policy, Rule, Sandbox, SpawnError, Stdio, Step,
    Worker,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{MsgFlags, getsockname, recv, send};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// The ids of the worker that [`worker`] starts: another user's for root, our own for anybody else.
const IDS: (u32, u32) = (54321, 54322);
/// Bounds every wait for a worker: nothing takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        // Workers.
        "report" => report(),
        "idle" => idle(),
        "deaf" => deaf(),
        "non-blocking" => non_blocking(),
        "reader" => reader(argument),
        // Brokers.
        "hygiene" => hygiene(),
        "own-description" => own_description(),
        "unchanged" => unchanged(),
        "closed" => closed(argument),
        "unstartable" => unstartable(),
        "broker" => broker(argument),
        other => panic!("no such role: {other}"),
    }
}

/// This test binary, as a worker in a role.
fn worker(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    let sandbox = sandbox.env("FDBROKER_TEST_ROLE", role);
    if common::is_root() { sandbox.ids(IDS.0, IDS.1) } else { sandbox }
}

/// The worker, once it has said its first word, and that.
fn started(sandbox: Sandbox) -> (Worker, Channel, String) {
    let (worker, channel) = sandbox.stdout(Stdio::null()).spawn().unwrap();
    let word = word(&channel);
    (worker, channel, word)
}

fn word(channel: &Channel) -> String {
    channel.set_recv_timeout(Some(PATIENCE)).unwrap();
    let mut packet = Packet::new();
    channel.recv(&mut packet).expect("a word from the worker");
    String::from_utf8(packet.bytes().to_vec()).unwrap()
}

fn run(role: &str) -> Output {
    let mut command = common::rerun("process", role);
    let _files = common::temporary_files_of(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "role {role:?}: {}\n{}", output.status, text(&output));
    output
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

// ---------------------------------------------------------------------------------------------- what workers do

/// Over standard input as it is, so that the worker opens nothing for it.
fn say(words: &str) {
    assert_eq!(send(0, words.as_bytes(), MsgFlags::MSG_NOSIGNAL).unwrap(), words.len());
}

/// Says what a process can only see from inside.
fn report() {
    // getsockname(2) takes any number: EBADF is a closed one. fcntl(2) would ask for a descriptor that is known to be
    // open.
    let is_open = |number: &i32| getsockname::<()>(*number) != Err(Errno::EBADF);
    let open: Vec<i32> = (0..1024).filter(is_open).collect();
    let mut environment: Vec<_> =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    environment.sort();
    let mut lines = vec![format!("open {open:?}"), format!("cwd {}", std::env::current_dir().unwrap().display())];
    lines.push(format!(
        "environment {}",
        environment.iter().map(|entry| entry.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
    ));
    lines.push(format!("mask {:?}", SigSet::thread_get_mask().unwrap().iter().collect::<Vec<_>>()));
    lines.push(format!("passwd {:?}", File::open("/etc/passwd").map_err(|error| error.raw_os_error()).map(drop)));
    lines.push(format!(
        "socket {:?}",
        std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.raw_os_error()).map(drop)
    ));
    say(&lines.join("\n"));
    wait_for_the_end();
}

fn idle() {
    say("ready");
    wait_for_the_end();
}

/// Ends with status 42 when the broker has gone, and in no other way.
fn wait_for_the_end() -> ! {
    let end = recv(0, &mut [0; 16], MsgFlags::empty());
    exit(if matches!(end, Ok(0) | Err(Errno::ECONNRESET)) { 42 } else { 43 })
}

/// Does not care whether there is a broker.
fn deaf() {
    say("ready");
    std::thread::sleep(PATIENCE);
    println!("the worker outlived the broker");
}

/// Reads a file through the broker until it gets no answer.
fn reader(path: &str) {
    let client = Client::from_stdin().unwrap();
    assert_eq!(io::read_to_string(client.read(path).unwrap()).unwrap(), "granted");
    println!("the worker is served");
    loop {
        match client.read(path) {
            Ok(_) => {}
            Err(ClientError::Channel { source: ChannelError::Disconnected, .. }) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    println!("the worker saw the hang-up");
}

// ------------------------------------------------------------------------------------- descriptors, environment

/// B-10, F-04: the worker has descriptors 0, 1 and 2 and the declared environment, whatever the broker has.
#[test]
fn b_10_f_04_nothing_but_what_was_declared() {
    let mut command = common::rerun("process", "hygiene");
    let output = command.env("SECRET", "of the broker").env("LD_LIBRARY_PATH", "/nowhere").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn hygiene() {
    let mut leaking: Vec<OwnedFd> = Vec::new();
    for _ in 0..20 {
        leaking.push(File::open("/").unwrap().into());
        leaking.push(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into());
        let (one, other) = Channel::pair().unwrap();
        leaking.extend([OwnedFd::from(one), OwnedFd::from(other)]);
    }
    // One far up, where a loop over the first few hundred would not come by.
    let high = fcntl(&leaking[0], FcntlArg::F_DUPFD(900)).unwrap();
    assert!(high >= 900);
    for fd in &leaking {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGCHLD] {
        blocked.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    let (_directory, path) = common::directory();
    std::env::set_current_dir(path).unwrap();

    let odd = std::ffi::OsString::from_vec(b"\xff \n=".to_vec());
    let (worker, _channel, inside) =
        started(worker("report").env("A", "0").env("A", "1").env("ODD", &odd).env("EMPTY", ""));
    let lines: Vec<&str> = inside.lines().collect();
    assert_eq!(lines[0], "open [0, 1, 2]");
    assert_eq!(lines[1], "cwd /");
    assert_eq!(lines[2], "environment A=1 EMPTY= FDBROKER_TEST_ROLE=report ODD=\\xff \\n=");
    assert_eq!(lines[3], "mask []");

    let proc = format!("/proc/{}", worker.id());
    assert_eq!(common::fds_of(worker.id()), [0, 1, 2]);
    assert_eq!(fs::read_link(format!("{proc}/cwd")).unwrap(), Path::new("/"));
    let environ = fs::read(format!("{proc}/environ")).unwrap();
    let mut environ: Vec<&[u8]> = environ.split(|&byte| byte == 0).filter(|entry| !entry.is_empty()).collect();
    environ.sort_unstable();
    assert_eq!(environ, [&b"A=1"[..], b"EMPTY=", b"FDBROKER_TEST_ROLE=report", b"ODD=\xff \n="]);

    // A program of another make, which does not change its signals as Rust's start-up does.
    let (worker, channel) = Sandbox::new("/bin/cat").stdout(Stdio::piped()).spawn().unwrap();
    channel.send(b"loaded", &[]).unwrap();
    let mut echo = [0; 6];
    worker.take_stdout().unwrap().read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"loaded");
    assert_eq!(common::fds_of(worker.id()), [0, 1, 2]);
    assert_eq!(fs::read(format!("/proc/{}/environ", worker.id())).unwrap(), b"");
    assert_eq!(common::status(worker.id(), "SigBlk"), "0000000000000000");
    // SIGPIPE is ignored in this process, by Rust's start-up. What its starter ignored, the worker ignores too.
    assert!(ignores_sigpipe(std::process::id()));
    assert!(!ignores_sigpipe(worker.id()));
    drop((worker, channel, leaking));
}

fn ignores_sigpipe(pid: u32) -> bool {
    u64::from_str_radix(&common::status(pid, "SigIgn"), 16).unwrap() & 1 << (libc::SIGPIPE - 1) != 0
}

/// B-03: a spawn changes nothing about its caller: dumpable, signal mask, working directory, umask, descriptors.
#[test]
fn b_03_the_caller_is_unchanged() {
    run("unchanged");
}

fn unchanged() {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    umask(Mode::from_bits_truncate(0o027));
    let state = || {
        let mask = umask(Mode::from_bits_truncate(0o027));
        let fields = ["SigIgn", "SigCgt", "CapEff", "CapBnd", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp"];
        let status = fields.map(|field| common::status(std::process::id(), field));
        let dumpable = nix::sys::prctl::get_dumpable().unwrap();
        let blocked = SigSet::thread_get_mask().unwrap();
        (mask, status, blocked, dumpable, std::env::current_dir().unwrap(), common::fds_of(std::process::id()))
    };
    let before = state();
    let (worker, channel, _) = started(worker("idle").die_with_parent());
    drop((worker, channel));
    assert_eq!(state(), before);
    let error = Sandbox::new("/").spawn().unwrap_err();
    assert_eq!(state(), before, "after {error}");
}

/// F-06: a broker that has closed some of 0, 1 and 2, so that what it opens for the worker lands there.
#[test]
fn f_06_channel_and_pipes_on_the_standard_numbers() {
    for closed in ["", "0", "1", "2", "01", "02", "12", "012"] {
        for stdout in ["inherit", "null", "piped"] {
            // Still free when the worker is started, or taken by a descriptor that is closed on exec.
            for state in ["free", "taken"] {
                run(&format!("closed {stdout}:{state}:{closed}"));
            }
        }
    }
}

/// What goes wrong here cannot be told on standard error, which may be closed or another file.
fn closed(argument: &str) {
    let (stdout, rest) = argument.split_once(':').unwrap();
    let (state, numbers) = rest.split_once(':').unwrap();
    let stderr = fcntl(io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(20)).unwrap();
    let mut stderr = File::options().append(true).open(format!("/proc/self/fd/{stderr}")).unwrap();
    let (_directory, path) = common::directory();
    let (file, garbage) = (path.join("file"), path.join("garbage"));
    fs::write(&file, "granted").unwrap();
    fs::write(&garbage, "\x7fELF, but no more").unwrap();
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o755)).unwrap();
    let policy = Policy::builder().allow(Rule::file(&file).read()).build().unwrap();
    for number in numbers.bytes() {
        nix::unistd::close(i32::from(number - b'0')).unwrap();
    }
    let taking: Vec<File> = numbers.bytes().filter(|_| state == "taken").map(|_| File::open(&path).unwrap()).collect();
    if let Err(why) = spawn_with_closed(stdout, &file, &garbage, policy) {
        writeln!(stderr, "closed {numbers:?}, {state}, stdout {stdout}: {why}").unwrap();
        exit(1);
    }
    drop(taking);
    exit(0);
}

fn spawn_with_closed(stdout: &str, file: &Path, garbage: &Path, policy: Policy) -> Result<(), String> {
    let before = common::open_fds();
    let output = || match stdout {
        "null" => Stdio::null(),
        "piped" => Stdio::piped(),
        _ => Stdio::inherit(),
    };
    let role = format!("reader {}", file.display());
    let (child, channel) = worker(&role).stdout(output()).spawn().map_err(|error| error.to_string())?;
    let (audit, requests) = std::sync::mpsc::sync_channel(0);
    let broker = Broker::new().audit(move |record| drop(audit.send(record.to_string())));
    let service = broker.serve("worker", channel, policy).map_err(|error| error.to_string())?;
    // The service's start, the worker's greeting and two opens: the first of them has arrived.
    let start = requests.recv_timeout(PATIENCE).map_err(|error| error.to_string())?;
    if !start.starts_with("worker: start") {
        return Err(start);
    }
    for _ in 0..3 {
        let line = requests.recv_timeout(PATIENCE).map_err(|error| error.to_string())?;
        if !line.ends_with("granted") {
            return Err(line);
        }
    }
    drop(requests);
    service.stop();
    service.wait().map_err(|fault| fault.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    let mut printed = String::new();
    if let Some(mut pipe) = child.take_stdout() {
        pipe.read_to_string(&mut printed).map_err(|error| error.to_string())?;
    }
    if !status.success() || stdout == "piped" && !printed.contains("the worker saw the hang-up\n") {
        return Err(format!("the worker ended with {status} and printed {printed:?}"));
    }
    drop(child);

    // The report of what went wrong comes another way, which must not be in the way either.
    match Sandbox::new(garbage).stdout(output()).spawn() {
        Err(SpawnError::Step { step: Step::Exec, .. }) => {}
        other => return Err(format!("garbage: {other:?}")),
    }
    match common::open_fds() {
        // The policy's root went with the policy.
        after if after + 1 == before => Ok(()),
        after => Err(format!("{before} descriptors before, {after} after")),
    }
}

// ------------------------------------------------------------------------------------------------ beginning and end

/// H-02, B-04: each of parent and worker holds one end, and sees the other's death.
#[test]
fn h_02_b_04_each_sees_the_death_of_the_other() {
    let (child, channel, _) = started(worker("idle"));
    child.kill().unwrap();
    let error = channel.recv(&mut Packet::new()).unwrap_err();
    assert!(matches!(error, ChannelError::Disconnected), "{error:?}");
    assert_eq!(child.wait().unwrap().signal(), Some(9));

    let (child, channel, _) = started(worker("idle"));
    drop(channel);
    assert_eq!(child.wait().unwrap().code(), Some(42), "the status with which it sees the hang-up");
}

/// L-03, B-04: the worker closes its channel, the service ends Ok, and the worker is reaped.
#[test]
fn l_03_b_04_the_end_of_a_worker_is_the_end_of_its_service() {
    let (_directory, path) = common::directory();
    let file = path.join("file");
    fs::write(&file, "granted").unwrap();
    let policy = Policy::builder().allow(Rule::file(&file).read()).build().unwrap();
    let role = format!("reader {}", file.display());
    let (child, channel) = worker(&role).stdout(Stdio::piped()).spawn().unwrap();
    let service = Broker::new().serve("worker", channel, policy).unwrap();
    let mut output = child.take_stdout().unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"served\n") {
        let mut byte = [0];
        output.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    child.kill().unwrap();
    service.wait().expect("no fault");
    let pid = child.id();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(is_gone(pid));
}

/// L-03: dropping a worker kills and reaps it: no zombie is left, and no descriptor.
#[test]
fn l_03_dropping_a_worker_kills_and_reaps_it() {
    let (worker, channel, _) = started(worker("deaf"));
    let pid = worker.id();
    assert!(!is_gone(pid));
    drop(worker);
    assert!(is_gone(pid), "{}", common::status(pid, "State"));
    let error = channel.recv(&mut Packet::new()).unwrap_err();
    assert!(matches!(error, ChannelError::Disconnected), "{error:?}");
}

/// L-02, B-04: the broker is killed with SIGKILL; a worker that was to die with it does, though it looks at nothing.
#[test]
fn l_02_b_04_die_with_parent() {
    let output = kill_the_broker("deaf", "worker is up\n");
    assert!(!output.contains("outlived"), "{output}");
}

/// L-02: the broker is killed with SIGKILL; the client's call returns an error, and no signal comes.
#[test]
fn l_02_the_client_sees_that_the_broker_is_gone() {
    let output = kill_the_broker("reader", "the worker is served\n");
    assert!(output.contains("the worker saw the hang-up\n"), "{output}");
}

/// Kills a broker in another process once `word` has been read from it or its worker, and answers what else they print.
/// Both hold the pipe: its end is the end of both.
fn kill_the_broker(role: &str, word: &str) -> String {
    let mut broker = common::rerun("process", &format!("broker {role}"));
    let _files = common::temporary_files_of(&mut broker);
    let mut broker = broker.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut output = broker.stdout.take().unwrap();
    let mut text = String::new();
    while !text.contains(word) {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    broker.kill().unwrap();
    output.read_to_string(&mut text).unwrap();
    broker.wait().unwrap();
    text
}

fn broker(role: &str) {
    let (_directory, path) = common::directory();
    if role == "deaf" {
        let (_worker, channel) = worker("deaf").die_with_parent().spawn().unwrap();
        word(&channel);
        println!("worker is up");
        std::thread::sleep(PATIENCE);
        return;
    }
    let file = path.join("file");
    fs::write(&file, "granted").unwrap();
    let policy = Policy::builder().allow(Rule::file(&file).read()).build().unwrap();
    let reader = worker(&format!("reader {}", file.display())).layer(Layer::DieWithParent, fdbroker::Mode::Off);
    let (_worker, channel) = reader.spawn().unwrap();
    let _service = Broker::new().serve("worker", channel, policy).unwrap();
    std::thread::sleep(PATIENCE);
}

// ------------------------------------------------------------------------------------ standard output and error

fn non_blocking() {
    for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
        // It is no such stream, but the call is the same.
        UnixStream::from(stream.try_clone_to_owned().unwrap()).set_nonblocking(true).unwrap();
    }
    let readable = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).read(&mut [0]));
    say(&format!("{:?}", readable.unwrap_err().raw_os_error()));
    std::thread::sleep(PATIENCE);
}

/// B-03, P-20: what a worker does to the flags of its output is not done to the broker's, though both go to one pipe: a
/// broker whose standard error became non-blocking would panic when it is full.
#[test]
fn b_03_p_20_the_brokers_output_stays_its_own() {
    run("own-description");
}

fn own_description() {
    let (_worker, channel) = worker("non-blocking").spawn().unwrap();
    assert_eq!(word(&channel), format!("{:?}", Some(libc::EBADF)), "a pipe that can be read");
    for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
        let flags = OFlag::from_bits_retain(fcntl(stream, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }
}

// ------------------------------------------------------------------------------------------------------- failures

/// B-11: a program that cannot be started: the error says what was being done, and the errno; nothing is left.
#[test]
fn b_11_programs_that_cannot_be_started() {
    run("unstartable");
}

fn unstartable() {
    let (_directory, path) = common::directory();
    let make = |name: &str, content: &str, mode| {
        fs::write(path.join(name), content).unwrap();
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
        path.join(name)
    };
    let before = common::open_fds();
    match Sandbox::new(path.join("missing")).spawn().unwrap_err() {
        SpawnError::Prepare { program, what, source } => {
            assert_eq!(program, path.join("missing"));
            assert_eq!((what, source.raw_os_error()), ("opening the program", Some(libc::ENOENT)));
        }
        other => panic!("{other:?}"),
    }
    match worker("idle").arg("with a NUL \0 in it").spawn().unwrap_err() {
        SpawnError::Prepare { source, .. } => assert_eq!(source.kind(), io::ErrorKind::InvalidInput),
        other => panic!("{other:?}"),
    }
    let fifo = path.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for program in [path.clone(), fifo] {
        match Sandbox::new(&program).spawn().unwrap_err() {
            SpawnError::Prepare { what, source, .. } => {
                assert_eq!((what, source.kind()), ("opening the program", io::ErrorKind::PermissionDenied));
                assert_eq!(source.to_string(), "it is not a regular file");
            }
            other => panic!("{other:?}"),
        }
    }
    let absent = worker("idle").runtime(path.join("absent")).spawn();
    assert!(matches!(absent, Err(SpawnError::Prepare { .. })), "{absent:?}");
    for (program, errno) in [
        (make("not executable", "", 0o644), libc::EACCES),
        (make("garbage", "\x7fELF, but no more", 0o755), libc::ENOEXEC),
        (make("empty", "", 0o755), libc::ENOEXEC),
        (make("no interpreter", "#!/nowhere/to/be/found\n", 0o755), libc::ENOENT),
    ] {
        match Sandbox::new(&program).stdout(Stdio::null()).spawn() {
            Err(SpawnError::Step { program: named, step, source, .. }) => {
                assert_eq!((&named, step), (&program, Step::Exec), "{source}");
                assert_eq!(source.raw_os_error(), Some(errno), "{}: {source}", program.display());
            }
            other => panic!("{}: {other:?}", program.display()),
        }
    }
    nothing_is_left(before);
}

fn nothing_is_left(descriptors: usize) {
    assert_eq!(waitpid(None::<Pid>, None), Err(Errno::ECHILD), "a child is left");
    assert_eq!(common::open_fds(), descriptors, "descriptors");
}

/// B-11: standard output as a descriptor of the caller's own: it is the worker's, and errors are still reported.
#[test]
fn b_11_output_to_a_file() {
    let file = tempfile::tempfile().unwrap();
    let output: OwnedFd = file.try_clone().unwrap().into();
    let number = output.as_raw_fd();
    let (child, channel) = worker("idle").stdout(output).spawn().unwrap();
    assert!(number > 2);
    assert_eq!(word(&channel), "ready");
    drop(channel);
    assert_eq!(child.wait().unwrap().code(), Some(42));
    use std::os::unix::fs::FileExt;
    let mut start = [0; 64];
    let len = file.read_at(&mut start, 0).unwrap();
    assert!(String::from_utf8_lossy(&start[..len]).contains("running 1 test"));
}

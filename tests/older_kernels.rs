//! Kernels, and filters around the broker, that lack something: what is done without it, what is not, and what the
//! report says. Each lack is made by a system-call filter in a process of its own.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(unsafe_code, reason = "tgkill(2) has no safe form")]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use fdbroker::Resolver;
use fdbroker::{
    Broker, Channel, ChannelError, Client, Fault, Layer, Packet, Policy, Rule, Sandbox, SpawnError, Stdio, Step, Worker,
};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, getppid};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["landlock", errno] => without_landlock(errno.parse().unwrap()),
        ["namespaces"] => without_namespaces(),
        ["bounding", "set"] => without_bounding_set(),
        ["openat2", errno] => without_openat2(errno.parse().unwrap()),
        ["step", "seccomp", errno] => step(libc::SYS_seccomp, errno.parse().unwrap(), Step::Seccomp),
        ["step", "descriptors", errno] => step(libc::SYS_close_range, errno.parse().unwrap(), Step::Descriptors),
        ["passrights"] => without_passrights(),
        // Workers.
        ["inside"] => inside(true),
        ["unlocked"] => inside(false),
        ["smuggler"] => smuggler(),
        _ => panic!("no such role: {role}"),
    }
}

fn run(role: &str) {
    let output = common::rerun("process", role).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "role {role:?}: {}\n{text}", output.status);
    if let Some(skipped) = text.lines().find(|line| line.starts_with("SKIPPED")) {
        eprintln!("{skipped}");
    }
}

fn worker(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    sandbox.env("FDBROKER_TEST_ROLE", role).stdout(Stdio::null())
}

fn spawned(role: &str) -> (Worker, Channel, String) {
    let (worker, channel) = worker(role).spawn().unwrap();
    channel.set_recv_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut packet = Packet::new();
    channel.recv(&mut packet).expect("a word from the worker");
    let text = String::from_utf8(packet.bytes().to_vec()).unwrap();
    (worker, channel, text)
}

/// What the worker finds that it can do, before and after lockdown. After it, only root could look at the worker.
fn inside(locks: bool) {
    let errno = |result: io::Result<()>| result.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0);
    let parent = getppid().as_raw();
    let attempts = || {
        let open = errno(File::open("/etc/passwd").map(drop));
        let socket = errno(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
        let signal = errno(kill(getppid(), None).map_err(io::Error::from));
        // SAFETY: takes numbers.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, parent, parent, 0) };
        let thread = errno(if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) });
        let execute = errno(std::process::Command::new("/bin/true").status().map(drop));
        format!("open {open}, socket {socket}, signal {signal}, to a thread {thread}, execute {execute}")
    };
    let channel = Channel::try_from(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let before = attempts();
    let text = if locks {
        let enforced = fdbroker::lockdown().unwrap();
        format!("{before}\n{}\n{enforced}", attempts())
    } else {
        before
    };
    channel.send(text.as_bytes(), &[]).unwrap();
    channel.recv(&mut Packet::new()).unwrap_err();
}

fn reason(worker: &Worker, layer: Layer) -> Option<String> {
    let state = worker.enforced().layers().find(|(known, _)| *known == layer).map(|(_, state)| state);
    state?.err().map(str::to_owned)
}

// --------------------------------------------------------------------------------------------------- what is left out

/// B-07, B-09: no Landlock, or one that is switched off. The worker starts, the report says so, and the filters hold.
#[test]
fn b_07_b_09_without_landlock() {
    run(&format!("landlock {}", libc::ENOSYS));
    run(&format!("landlock {}", libc::EOPNOTSUPP));
}

fn without_landlock(errno: i32) {
    common::refuse(libc::SYS_landlock_create_ruleset, &[], errno);
    let (worker, _channel, text) = spawned("inside");
    let why = reason(&worker, Layer::Landlock).expect("the report says that there is no Landlock");
    let word = if errno == libc::ENOSYS { "has no Landlock" } else { "not enabled" };
    assert!(why.contains(word), "{why}");
    assert!(!worker.enforced().has(Layer::Landlock) && !worker.enforced().is_full());
    assert!(worker.enforced().to_string().contains("landlock        NO   "), "{}", worker.enforced());
    assert!(worker.enforced().has(Layer::Seccomp) && worker.enforced().has(Layer::NoNewPrivs));
    assert_eq!(common::status(worker.id(), "Seccomp"), "2");
    let lines: Vec<&str> = text.lines().collect();
    // That the file opens shows that it is Landlock that is missing. /bin/true would need a process.
    // Where Landlock does not scope signals, the filter refuses tgkill(2) altogether.
    assert_eq!(lines[0], "open 0, socket 1, signal 1, to a thread 1, execute 1");
    assert!(lines[1].starts_with("open 1, socket 1, signal 1, to a thread 1, execute "), "{text}");
    assert_ne!(lines[1].rsplit(' ').next(), Some("0"), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("landlock        NO   ")), "{text}");
}

/// B-07, B-09: an ordinary user who may make no user namespace. The worker starts, and the report says what is missing.
#[test]
fn b_07_b_09_without_user_namespaces() {
    run("namespaces");
}

fn without_namespaces() {
    common::refuse(libc::SYS_unshare, &[], libc::EPERM);
    become_ordinary();
    let (worker, _channel, text) = spawned("unlocked");
    let why = reason(&worker, Layer::UserNamespace).expect("the report says that there is no user namespace");
    assert!(
        why.contains("user namespace") && why.contains(&io::Error::from_raw_os_error(libc::EPERM).to_string()),
        "{why}"
    );
    assert!(reason(&worker, Layer::User).is_some());
    assert!(!worker.enforced().is_full());
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(namespace("self"), namespace(&worker.id().to_string()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(common::status(worker.id(), set), "0000000000000000", "{set}");
    }
    let is_empty = common::status(worker.id(), "CapBnd") == "0000000000000000";
    assert_eq!(worker.enforced().has(Layer::Capabilities), is_empty, "the bounding set");
    // The other layers hold as ever.
    assert_eq!(common::status(worker.id(), "NoNewPrivs"), "1");
    assert_eq!(common::status(worker.id(), "Seccomp"), "2");
    let open = if worker.enforced().has(Layer::Landlock) { libc::EACCES } else { 0 };
    assert!(text.starts_with(&format!("open {open}, socket 1, signal 1, to a thread ")), "{text}");
}

/// As `setpriv --reuid=65534` does. The change takes the dumpable flag off, and with it the process's own files in
/// /proc.
fn become_ordinary() {
    if common::is_root() {
        nix::unistd::setgroups(&[]).unwrap();
        let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
        nix::unistd::setresgid(gid, gid, gid).unwrap();
        nix::unistd::setresuid(uid, uid, uid).unwrap();
        nix::sys::prctl::set_dumpable(true).unwrap();
    }
}

/// B-09: root who cannot empty the bounding set, as in some containers. The worker starts, and the report says so.
#[test]
fn b_09_without_the_bounding_set() {
    run("bounding set");
}

fn without_bounding_set() {
    if !common::is_root() {
        eprintln!("SKIPPED b_09_without_the_bounding_set: only root's workers, and those in a namespace, empty it");
        return;
    }
    common::refuse(libc::SYS_prctl, &[(0, libc::PR_CAPBSET_DROP as u64)], libc::EPERM);
    let (worker, _channel, _) = spawned("inside");
    let why = reason(&worker, Layer::Capabilities).expect("the report says that the bounding set is as it was");
    assert!(why.contains("bounding set"), "{why}");
    assert_ne!(common::status(worker.id(), "CapBnd"), "0000000000000000");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(common::status(worker.id(), set), "0000000000000000", "{set}");
    }
}

/// P-07, K18, K29: no SO_PASSRIGHTS. The broker serves, and a request with descriptors ends the service; nothing leaks.
#[test]
fn p_07_without_passrights() {
    run("passrights");
}

fn without_passrights() {
    common::refuse(libc::SYS_setsockopt, &[(1, libc::SOL_SOCKET as u64), (2, 83)], libc::ENOPROTOOPT);
    let before = common::open_fds();
    for _ in 0..3 {
        let (worker, channel) = worker("smuggler").spawn().unwrap();
        let policy = Policy::builder().allow(Rule::scratch(std::env::temp_dir())).build().unwrap();
        let end = Broker::new().serve("smuggler", channel, policy).unwrap().wait();
        assert!(matches!(end, Err(Fault::Descriptors)), "{end:?}");
        assert!(worker.wait().unwrap().success());
        drop(worker);
        assert_eq!(common::open_fds(), before);
    }
}

/// Asks for something, and then sends descriptors where none are taken.
fn smuggler() {
    let client = Client::from_stdin().unwrap();
    let granted = client.scratch().unwrap();
    let channel = Channel::try_from(client.as_fd().try_clone_to_owned().unwrap()).unwrap();
    channel.send(b"fb\x01\x01 and whatever", &[granted.as_fd(), granted.as_fd()]).unwrap();
    let error = channel.recv(&mut Packet::new()).unwrap_err();
    assert!(matches!(error, ChannelError::Disconnected), "{error:?}");
}

// --------------------------------------------------------------------------------------------- what is not done
// without

/// K15: no openat2, or a filter that refuses it: names are resolved by the walk, and the policy says so.
#[test]
fn k15_without_openat2() {
    run(&format!("openat2 {}", libc::ENOSYS));
    run(&format!("openat2 {}", libc::EPERM));
}

fn without_openat2(errno: i32) {
    let (_directory, path) = common::directory();
    fs::write(path.join("file"), "content").unwrap();
    let policy = || Policy::builder().allow(Rule::beneath(&path).read()).build().unwrap();
    assert_eq!(policy().resolver(), Some(Resolver::Openat2));
    common::refuse(libc::SYS_openat2, &[], errno);
    assert_eq!(policy().resolver(), Some(Resolver::Walk));
    let (_service, client) = common::served::client(policy());
    assert_eq!(std::io::read_to_string(client.read(path.join("file")).unwrap()).unwrap(), "content");
    // Without names there is nothing to resolve.
    let without = Policy::builder().allow(Rule::listen("127.0.0.1:0".parse().unwrap())).build().unwrap();
    assert_eq!(without.resolver(), None);
}

/// B-08, L-10: no seccomp filters. No worker is started without them.
#[test]
fn b_08_l_10_without_seccomp() {
    run(&format!("step seccomp {}", libc::ENOSYS));
    run(&format!("step seccomp {}", libc::EINVAL));
}

/// B-08, L-10: no close_range, or none that can set close-on-exec. No worker is started.
#[test]
fn b_08_l_10_without_close_range() {
    run(&format!("step descriptors {}", libc::ENOSYS));
    run(&format!("step descriptors {}", libc::EINVAL));
}

fn step(number: i64, errno: i32, expected: Step) {
    let before = common::open_fds();
    common::refuse(number, &[], errno);
    match worker("inside").spawn() {
        Err(SpawnError::Step { step, source, .. }) => {
            assert_eq!((step, source.raw_os_error()), (expected, Some(errno)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(waitpid(None::<Pid>, None), Err(Errno::ECHILD), "a child is left");
    assert_eq!(common::open_fds(), before);
    if expected == Step::Seccomp {
        let error = fdbroker::lockdown().unwrap_err().to_string();
        assert!(error.contains("seccomp"), "{error}");
    }
}

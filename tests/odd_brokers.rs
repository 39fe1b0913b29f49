//! Brokers in a place where something is missing: not dumpable, without /proc, root of a user namespace that has
//! nobody else. A worker gets what is to be had there, with the reason for the rest, or there is an error: never a
//! hang, and never a report that is not true.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio as Standard};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::start::{PATIENCE, run, worker};
use common::watched::{Verdict, watched};
use fdbroker::{Channel, Host, Layer, Packet, Prepared, Preset, Sandbox, SpawnError, Stdio};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    if let Some((how, root)) = role.strip_prefix("chroot ").and_then(|words| words.split_once(' ')) {
        return in_a_chroot(how, Path::new(root));
    }
    match role.as_str() {
        "not dumpable" => not_dumpable(),
        "limited" => limited(),
        "one user namespace" => one_user_namespace(),
        "no user namespace" => no_user_namespace(),
        other => panic!("no such role: {other}"),
    }
}

/// L-07, B-07, B-09: a broker that is not dumpable, so that its /proc is root's: as root, nothing is missing for that;
/// for anybody else, the user namespace is, and the reason says what to do. It stays not dumpable.
#[test]
fn l_07_b_07_b_09_not_dumpable() {
    run("not dumpable");
}

fn not_dumpable() {
    nix::sys::prctl::set_dumpable(false).unwrap();
    let cat = |preset| Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::null());
    for preset in Preset::ALL {
        let (worker, channel) = cat(preset).spawn().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap(), "{preset}");
        if common::is_root() {
            let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
            let own = namespace("self") != namespace(&worker.id().to_string());
            assert_eq!(worker.enforced().has(Layer::MountNamespace), own && preset != Preset::Floor);
        } else if preset != Preset::Floor {
            let why = worker.enforced().layers().find(|(layer, _)| *layer == Layer::UserNamespace).unwrap().1;
            // What is not dumpable is the system's root's: who is that, under another number, may write to it.
            let own = fs::metadata("/proc/self/environ").unwrap().uid() == nix::unistd::geteuid().as_raw();
            let told = |why: &str| why.contains("not dumpable") || why.contains("max_user_namespaces");
            assert!(why.map_or_else(told, |_| own), "{why:?}");
        }
        drop(channel);
        assert!(worker.wait_timeout(PATIENCE).unwrap().is_some());
    }
}

/// B-07, B-09: without /proc, an ordinary user has no user namespace, and the reason names the step; programs by their
/// path start all the same.
#[test]
fn b_07_b_09_without_proc() {
    common::namespace::with_mounts("b_07_b_09_without_proc", || {
        let none: Option<&str> = None;
        mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        without_proc();
    });
}

/// B-07, B-08, L-10: without /proc and before Linux 5.11 (CLOSE_RANGE_CLOEXEC), nobody knows which descriptors there are
/// to be closed: nothing is started, and the error says what is missing.
#[test]
fn b_07_b_08_l_10_without_proc_and_close_range() {
    let name = "b_07_b_08_l_10_without_proc_and_close_range";
    common::namespace::with_mounts(name, || {
        let none: Option<&str> = None;
        mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        common::refuse(libc::SYS_close_range, &[], libc::EINVAL);
        for preset in Preset::ALL {
            let error = Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::null()).spawn().unwrap_err();
            assert!(error.to_string().contains("/proc"), "{preset}: {error}");
        }
    });
}

fn without_proc() {
    assert!(!Path::new("/proc/self").exists());
    for preset in Preset::ALL {
        let cat = Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::piped());
        match cat.spawn() {
            Ok((worker, channel)) => {
                if !common::is_root() && preset != Preset::Floor {
                    let why = worker.enforced().layers().find(|(layer, _)| *layer == Layer::UserNamespace).unwrap().1;
                    assert!(why.unwrap_err().contains("/proc"), "{why:?}");
                }
                channel.send(b"word", &[]).unwrap();
                let mut echo = [0; 4];
                std::io::Read::read_exact(&mut worker.take_stdout().unwrap(), &mut echo).unwrap();
                assert_eq!(&echo, b"word");
                drop(channel);
                assert!(worker.wait_timeout(PATIENCE).unwrap().is_some());
            }
            // Root of a user namespace of its own cannot be another user.
            Err(SpawnError::Step { .. } | SpawnError::Unavailable { .. }) => {}
            Err(other) => panic!("{preset}: {other}"),
        }
    }
    // This program is found by /proc alone.
    assert!(matches!(worker("inside").spawn(), Err(SpawnError::Prepare { what: "opening the program", .. })));
}

/// B-07, B-08: user 0 of a user namespace that has no other user, as `unshare -r` and rootless containers make it: it
/// cannot be anybody else, and says so, or there is an error; no worker that is user 0
/// without a user namespace of its own.
#[test]
fn b_07_b_08_root_of_nobody() {
    let user = nix::unistd::geteuid();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "process", "--nocapture", "--test-threads=1"]).env("FDBROKER_TEST_ROLE", "limited");
    let child = command.stdout(Standard::piped()).stderr(Standard::piped()).process_group(0).spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED b_07_b_08_root_of_nobody: no unshare(1)");
        return;
    };
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL).unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare: ") {
        eprintln!("SKIPPED b_07_b_08_root_of_nobody: user {user} may make no user namespace");
        return;
    }
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
}

fn limited() {
    assert!(common::is_root());
    let host = Host::probe();
    for preset in Preset::ALL {
        let cat = Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::null());
        match cat.spawn() {
            Ok((worker, _channel)) => {
                let report = worker.enforced();
                let is_zero = common::status(worker.id(), "Uid").starts_with('0');
                assert!(is_zero && report.has(Layer::UserNamespace) && !report.has(Layer::User), "{report}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("groups") || text.contains("uid") || text.contains("user"), "{text}\n{host}");
            }
        }
    }
}

/// B-07, B-09: as many namespaces as there may be: the report says so, for as long as it is so. When another's has
/// ended, the same process has its own.
#[test]
fn b_07_b_09_namespaces_are_used_up() {
    with_user_namespaces("b_07_b_09_namespaces_are_used_up", "1", "one user namespace");
}

fn one_user_namespace() {
    let mut holder = Command::new("/bin/cat");
    own_user_namespace(&mut holder, None);
    let mut holder = holder.stdin(Standard::piped()).spawn().unwrap();
    for _ in 0..2 {
        let why = why_none(&prepared()).expect("a second user namespace");
        assert!(why.contains("user.max_user_namespaces is 1"), "{why}");
    }
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    // The kernel counts it for a moment more, and so each of those that are made to try something out.
    let begun = Instant::now();
    let expected = |missing: &[Layer]| missing.iter().all(|layer| [Layer::User, Layer::Landlock].contains(layer));
    while !expected(&missing(&prepared())) {
        assert!(begun.elapsed() < PATIENCE, "{}", prepared().enforced());
        std::thread::yield_now();
    }
    assert!(Host::probe().layers().any(|(layer, state)| layer == Layer::UserNamespace && state.is_ok()));
}

/// B-07, B-09: no namespace may be made at all: that is found out once.
#[test]
fn b_07_b_09_no_namespaces_at_all() {
    with_user_namespaces("b_07_b_09_no_namespaces_at_all", "0", "no user namespace");
}

fn no_user_namespace() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let count = move |_: &_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Verdict::Go
    };
    watched(&[libc::SYS_clone3], count, move || {
        let why = why_none(&prepared()).expect("a user namespace");
        assert!(why.contains("user.max_user_namespaces is 0"), "{why}");
        let before = tries.load(Ordering::SeqCst);
        assert!(before > 0);
        let why = why_none(&prepared()).expect("a user namespace");
        assert!(why.contains("user.max_user_namespaces is 0"), "{why}");
        assert_eq!(tries.load(Ordering::SeqCst), before, "tried again");
    });
}

fn prepared() -> Prepared {
    Sandbox::new("/bin/cat").preset(Preset::Full).stdout(Stdio::null()).prepare().unwrap()
}

fn missing(prepared: &Prepared) -> Vec<Layer> {
    prepared.enforced().layers().filter(|(_, state)| state.is_err()).map(|(layer, _)| layer).collect()
}

fn why_none(prepared: &Prepared) -> Option<String> {
    let mut layers = prepared.enforced().layers();
    Some(layers.find(|(layer, _)| *layer == Layer::UserNamespace).unwrap().1.err()?.to_owned())
}

/// Takes the role in a process of an ordinary user, in a user namespace in which there may be so many further ones.
fn with_user_namespaces(name: &str, limit: &'static str, role: &str) {
    let mut command = common::rerun("process", role);
    own_user_namespace(&mut command, Some(limit));
    let mut probe = Command::new("/bin/true");
    own_user_namespace(&mut probe, Some(limit));
    match probe.status() {
        Ok(_) => common::passes(command),
        Err(error) => eprintln!("SKIPPED {name}: user namespaces are not permitted here: {error}"),
    }
}

/// The command begins in a user namespace, as user 1000 of it. `limit` is that namespace's own, and nobody else's:
/// /proc/sys/user is about the user namespace of whoever opens it.
#[allow(unsafe_code, reason = "what a new process does first")]
fn own_user_namespace(command: &mut Command, limit: Option<&'static str>) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let mut files = vec![
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("1000 {uid} 1")),
        ("/proc/self/gid_map", format!("1000 {gid} 1")),
    ];
    files.extend(limit.map(|limit| ("/proc/sys/user/max_user_namespaces", limit.to_owned())));
    let begin = move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        files.iter().try_for_each(|(file, text)| {
            fs::OpenOptions::new()
                .write(true)
                .open(file)
                .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        })
    };
    // SAFETY: system calls only; nothing is allocated for short paths, and nothing is locked.
    unsafe { command.pre_exec(begin) };
}

// ---------------------------------------------------------------------------------------------------------- a chroot

/// Says with which errno it cannot open a file that everybody may read outside, and ends with its channel.
const STATIC: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    char byte;
    printf("%d\n", open("/secret", O_RDONLY) < 0 ? errno : 0);
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    return 0;
}
"#;

/// B-07, B-09: a broker that has called chroot(2), as root and as a user: what the report says of each worker is so, as
/// seen from outside; and the reason why it has no root, or no user namespace, says what is in the way, or what can be
/// done. With that done, it has one.
#[test]
fn b_07_b_09_in_a_chroot() {
    let name = "b_07_b_09_in_a_chroot";
    if !common::is_root() {
        eprintln!("SKIPPED {name}: only root can call chroot(2)");
        return;
    }
    if common::kernel() < (5, 11) {
        eprintln!("SKIPPED {name}: before Linux 5.11 a worker cannot be started where there is no /proc");
        return;
    }
    let (_directory, root) = common::directory();
    let source = root.join("program.c");
    fs::write(&source, STATIC).unwrap();
    fs::write(root.join("secret"), "secret").unwrap();
    let built = Command::new("cc").args(["-static", "-Os", "-o"]).arg(root.join("program")).arg(source).output();
    if !built.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED {name}: cc -static: {built:?}");
        return;
    }
    let no_mount_point = Some("can mount that directory over itself");
    seen_in_a_chroot("plain", &root, Layer::Root, no_mount_point);
    seen_in_a_chroot("mounted", &root, Layer::Root, None);
    seen_in_a_chroot("user", &root, Layer::UserNamespace, Some("in a chroot"));
}

/// Starts a worker of each preset, tells of it, and waits until it was looked at.
fn in_a_chroot(how: &str, root: &Path) {
    use nix::unistd::{Gid, Uid, chdir, chroot, setgroups, setresgid, setresuid};
    let channel = Channel::try_from(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    channel.set_recv_timeout(Some(PATIENCE)).unwrap();
    if how == "mounted" {
        let none: Option<&str> = None;
        // Mounts of this thread's own: nobody else sees what it does.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some(root), root, none, MsFlags::MS_BIND, none).unwrap();
    }
    chroot(root).unwrap();
    chdir("/").unwrap();
    if how == "user" {
        setgroups(&[]).unwrap();
        setresgid(Gid::from_raw(65534), Gid::from_raw(65534), Gid::from_raw(65534)).unwrap();
        setresuid(Uid::from_raw(65534), Uid::from_raw(65534), Uid::from_raw(65534)).unwrap();
        nix::sys::prctl::set_dumpable(true).unwrap();
    }
    for preset in Preset::ALL {
        let program = Sandbox::new("/program").preset(preset).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (worker, end) = program.spawn().unwrap();
        let mut errno = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(worker.take_stdout().unwrap()), &mut errno).unwrap();
        let (thread, report) = (nix::unistd::gettid(), worker.enforced());
        channel.send(format!("{thread}\n{}\n{errno}{report}", worker.id()).as_bytes(), &[]).unwrap();
        channel.recv(&mut Packet::new()).unwrap();
        drop(end);
        assert!(worker.wait_timeout(PATIENCE).unwrap().unwrap().success());
    }
}

/// Looks at these workers. Those of more than the floor are without the layer for the reason, or have it.
fn seen_in_a_chroot(how: &str, root: &Path, layer: Layer, why_not: Option<&str>) {
    let (theirs, ours) = Channel::pair().unwrap();
    let mut command = common::rerun("process", &format!("chroot {how} {}", root.display()));
    let broker = command.stdin(OwnedFd::from(theirs)).stdout(Standard::piped()).stderr(Standard::piped());
    let broker = broker.spawn().unwrap();
    drop(command);
    ours.set_recv_timeout(Some(PATIENCE)).unwrap();
    let mut seen = Vec::new();
    let mut packet = Packet::new();
    while ours.recv(&mut packet).is_ok() {
        let text = String::from_utf8(packet.bytes().to_vec()).unwrap();
        let [broker, worker, errno, report] = text.splitn(4, '\n').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let look = Look { broker: broker.parse().unwrap(), worker: worker.parse().unwrap(), errno };
        for line in report.lines() {
            let (name, state) = line.split_once("  ").unwrap();
            let (word, detail) = state.trim_start().split_once(' ').unwrap();
            let known: Layer = name.parse().unwrap();
            if let Some(holds) = look.holds(known, report) {
                assert_eq!(word == "yes", holds, "{how}: {line}\n{text}");
            }
            if known == layer {
                seen.push((word.to_owned(), detail.to_owned()));
            }
        }
        ours.send(b"seen", &[]).unwrap();
    }
    let output = broker.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{how}: {}\n{said}", output.status);
    // Of the standard and the full one: the floor wants neither.
    assert_eq!(seen.len(), 2, "{how}: {seen:?}");
    for (word, detail) in seen {
        assert_eq!(word, if why_not.is_some() { "NO" } else { "yes" }, "{how}: {detail}");
        assert!(why_not.is_none_or(|why| detail.contains(why)), "{how}: {detail}");
    }
}

/// A worker, from outside.
struct Look<'a> {
    /// The thread that has started it.
    broker: u32,
    worker: u32,
    errno: &'a str,
}

impl Look<'_> {
    /// None where it cannot be seen from here.
    fn holds(&self, layer: Layer, report: &str) -> Option<bool> {
        let status = |field| common::status(self.worker, field);
        let namespace = |kind: &str| {
            let of = |process: u32| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
            Some(of(self.broker) != of(self.worker))
        };
        let has_root = report.lines().any(|line| line.starts_with("root  ") && line.contains("  yes  "));
        match layer {
            Layer::Descriptors => Some(common::fds_of(self.worker) == [0, 1, 2]),
            Layer::User => Some(status("Uid") != common::status(self.broker, "Uid")),
            Layer::UserNamespace => namespace("user"),
            Layer::MountNamespace => namespace("mnt"),
            Layer::PidNamespace => namespace("pid"),
            Layer::IpcNamespace => namespace("ipc"),
            Layer::UtsNamespace => namespace("uts"),
            Layer::CgroupNamespace => namespace("cgroup"),
            Layer::NetworkNamespace => namespace("net"),
            Layer::Root => Some(self.errno == libc::ENOENT.to_string()),
            // It refuses what the root has not hidden already.
            Layer::Landlock if !has_root => Some(self.errno == libc::EACCES.to_string()),
            Layer::Capabilities => {
                let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"];
                Some(sets.into_iter().all(|set| status(set) == "0000000000000000"))
            }
            Layer::NoNewPrivs => Some(status("NoNewPrivs") == "1"),
            Layer::Seccomp => Some(status("Seccomp") == "2"),
            _ => None,
        }
    }
}

//! Brokers in a place where something is missing: not dumpable, without /proc, root of a user namespace that has
//! nobody else. A worker gets what is to be had there, with the reason for the rest, or there is an error: never a
//! hang, and never a report that is not true.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio as Standard};
use std::time::{Duration, Instant};

use common::start::{PATIENCE, run, worker};
use fdbroker::{Host, Layer, Preset, Sandbox, SpawnError, Stdio};
use nix::mount::{MsFlags, mount};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    match role.as_str() {
        "not dumpable" => not_dumpable(),
        "limited" => limited(),
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

//! Races that attackers run against resolution for ten seconds each, or for `FDBROKER_RACE_SECONDS`: they rename, swap
//! and hard-link in a directory that the broker serves and in one beside it, both of which they may write. Whatever the
//! worker is given, it is never an object that has only ever been outside.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::served::client_of;
use common::{directory, identity, open_fds, passes, refuse, rerun, role};
use fdbroker::{Broker, Client, Policy, Resolver, Rule};

/// R1-04: with openat2, nothing from outside is ever handed out, and nothing is created there.
#[test]
fn r1_04_ten_seconds_of_attacks_on_openat2() {
    apart("r1_04_ten_seconds_of_attacks_on_openat2", || race(Resolver::Openat2));
}

/// R1-09: with the walk neither, whose every step the attackers can come between.
#[test]
fn r1_09_ten_seconds_of_attacks_on_the_walk() {
    apart("r1_09_ten_seconds_of_attacks_on_the_walk", || {
        refuse(libc::SYS_openat2, &[], libc::ENOSYS);
        race(Resolver::Walk);
    });
}

/// As [`common::alone`], for as long as the race takes, and with what it says shown.
fn apart(name: &str, body: impl FnOnce()) {
    if role().is_none() {
        let mut again = rerun(name, "alone");
        again.stderr(Stdio::inherit());
        return passes(again);
    }
    body();
}

/// What the attackers are after: objects that are never beneath `served`, by device and inode.
type Secrets = HashSet<(u64, u64)>;

/// A part of the tree, and what one attacker does with it over and over. After each round all is as before.
type Attack = fn(&Path);

const ATTACKS: [Attack; 6] = [
    // A directory on the way is now and then a link to a directory outside with the same names in it.
    |root| {
        there_and_back(root, &[("served/d", "served/d-aside"), ("served/d-link", "served/d")]);
    },
    // So is the file itself.
    |root| {
        there_and_back(root, &[("served/f/file", "served/f/aside"), ("served/f/link", "served/f/file")]);
    },
    // A directory is outside now and then, and only there is a secret in it.
    |root| {
        let steps =
            [("served/m/n", "outside/n"), ("outside/n/file", "outside/n-kept"), ("outside/n-secret", "outside/n/file")];
        there_and_back(root, &steps);
    },
    // The same with a directory further up.
    |root| {
        let steps = [
            ("served/o/p", "outside/p"),
            ("outside/p/q/file", "outside/p-kept"),
            ("outside/p-secret", "outside/p/q/file"),
        ];
        there_and_back(root, &steps);
    },
    // A directory with a link in it is outside now and then, where the dots of the link's text lead elsewhere.
    |root| there_and_back(root, &[("served/k/w", "outside/w")]),
    // Names of one file come and go, inside and out.
    |root| {
        let name = |name: &str| root.join(name);
        fs::hard_link(name("served/h/file"), name("outside/h-link")).unwrap();
        fs::hard_link(name("served/h/file"), name("served/h/second")).unwrap();
        fs::rename(name("outside/h-link"), name("served/h/third")).unwrap();
        fs::rename(name("served/h/third"), name("served/h/file")).unwrap();
        for name in [name("served/h/second"), name("served/h/third")] {
            let _ = fs::remove_file(name);
        }
    },
];

fn there_and_back(root: &Path, steps: &[(&str, &str)]) {
    for (from, to) in steps {
        fs::rename(root.join(from), root.join(to)).unwrap();
    }
    for (from, to) in steps.iter().rev() {
        fs::rename(root.join(to), root.join(from)).unwrap();
    }
}

/// The names that the worker asks for.
const NAMES: [&str; 8] =
    ["d/e/file", "f/file", "m/n/file", "o/p/q/file", "k/w/link", "h/file", "h/second", "k/w/up/o/p/q/file"];

fn scene(root: &Path) -> Secrets {
    let inside = ["d/e/file", "f/file", "m/n/file", "o/p/q/file", "k/w/file", "h/file"].map(|name| ("served", name));
    // What `../..` is in served/k/w, is `root` itself in outside/w: hence the last.
    let outside = [
        ("outside", "decoy/e/file"),
        ("outside", "secret"),
        ("outside", "n-secret"),
        ("outside", "p-secret"),
        ("o", "p/q/file"),
    ];
    let secrets = outside.map(|(tree, name)| (root.join(tree).join(name), "secret"));
    for (path, text) in
        inside.map(|(tree, name)| (root.join(tree).join(name), "inside")).into_iter().chain(secrets.clone())
    {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    symlink("../outside/decoy", root.join("served/d-link")).unwrap();
    symlink("../../outside/secret", root.join("served/f/link")).unwrap();
    symlink("../../o/p/q/file", root.join("served/k/w/link")).unwrap();
    symlink("../..", root.join("served/k/w/up")).unwrap();
    secrets.iter().map(|(path, _)| identity(fs::File::open(path).unwrap())).collect()
}

#[derive(Default)]
struct Count {
    attempts: AtomicU64,
    grants: AtomicU64,
    refusals: AtomicU64,
    attacks: AtomicU64,
}

fn race(resolver: Resolver) {
    let duration = std::env::var("FDBROKER_RACE_SECONDS").map_or(10, |seconds| seconds.parse().unwrap());
    nix::unistd::alarm::set(duration + 120);
    let (_keep, root) = directory();
    let secrets = scene(&root);
    let policy = |rule: fdbroker::policy::FileRule| {
        let policy = Policy::builder().allow(rule.read().write().append().create(0o600)).build().unwrap();
        assert_eq!(policy.resolver(), Some(resolver));
        policy
    };
    let plain = policy(Rule::beneath(root.join("served")));
    let following = policy(Rule::beneath(root.join("served")).follow_links_within());
    let broker = Broker::new();
    let clients = [client_of(&broker, plain), client_of(&broker, following)];
    let baseline = settled(clients.each_ref().map(|(_, client)| client));
    let (stop, count) = (AtomicBool::new(false), Count::default());
    thread::scope(|scope| {
        for attack in &ATTACKS {
            scope.spawn(|| {
                let _end = StopAtPanic(&stop);
                while !stop.load(Ordering::Relaxed) {
                    attack(&root);
                    count.attacks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for (_, client) in &clients {
            scope.spawn(|| {
                let _end = StopAtPanic(&stop);
                while !stop.load(Ordering::Relaxed) {
                    ask(client, &root.join("served"), &secrets, &count);
                }
            });
        }
        // The length of the race; nothing is waited for.
        for _ in 0..duration * 10 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let Count { attempts, grants, refusals, attacks } = count;
    let [attempts, grants, refusals, attacks] = [attempts, grants, refusals, attacks].map(AtomicU64::into_inner);
    eprintln!("{resolver}: {attempts} attempts, {grants} grants, {refusals} refusals, {attacks} rounds of attacks");
    assert!(grants > 0 && refusals > 0 && attacks > 0 && attempts == grants + refusals);
    assert_eq!(settled(clients.each_ref().map(|(_, client)| client)), baseline);
    // Nothing was created outside.
    for directory in ["outside/decoy/e", "o/p/q"] {
        assert_eq!(fs::read_dir(root.join(directory)).unwrap().count(), 1, "{directory}");
    }
}

/// The descriptors of this process, when the broker has answered everything.
fn settled(clients: [&Client; 2]) -> usize {
    clients.into_iter().for_each(|client| client.hello().unwrap());
    open_fds()
}

/// Every verb for every name, once.
fn ask(client: &Client, served: &Path, secrets: &Secrets, count: &Count) {
    for name in NAMES {
        let path = served.join(name);
        let new = path.with_file_name("new");
        for granted in [client.read(&path), client.write(&path), client.append(&path), client.create(&new)] {
            count.attempts.fetch_add(1, Ordering::Relaxed);
            match granted {
                Ok(file) => {
                    count.grants.fetch_add(1, Ordering::Relaxed);
                    assert!(!secrets.contains(&identity(file)), "{name}: an object that is outside");
                }
                Err(error) => {
                    assert!(error.refusal().is_some(), "{error}");
                    count.refusals.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        // So that it can be created again, wherever its directory is now.
        let moved: [PathBuf; 2] = [new, served.join("../outside").join(name).with_file_name("new")];
        moved.iter().for_each(|new| drop(fs::remove_file(new)));
    }
}

/// One failure ends the race for all.
struct StopAtPanic<'a>(&'a AtomicBool);

impl Drop for StopAtPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

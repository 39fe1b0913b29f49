//! Proves that a name leads to what the policy meant: no link is followed that the rule does not follow, and nothing
//! leads out of a rule's directory. Each test is a function, and runs three times: with openat2(2), and with filters
//! that answer ENOSYS and EPERM to it, as older kernels and sandboxes around the broker do (R1-06).
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::served::client;
use common::{directory, identity, open_fds};
use fdbroker::wire::Reason;
use fdbroker::{Client, ClientError, Policy, Resolver, Rule};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// R1-06: every test of this file with each way in which openat2 is there or is not. A test is its own function's name
/// in the module that says which.
macro_rules! with_each_resolver {
    ($($name:ident)*) => {
        mod openat2 {
            $(#[test] fn $name() { super::run(concat!("openat2::", stringify!($name)), None, super::$name); })*
        }
        mod r1_06_enosys {
            $(#[test] fn $name() {
                super::run(concat!("r1_06_enosys::", stringify!($name)), Some(libc::ENOSYS), super::$name);
            })*
        }
        mod r1_06_eperm {
            $(#[test] fn $name() {
                super::run(concat!("r1_06_eperm::", stringify!($name)), Some(libc::EPERM), super::$name);
            })*
        }
    };
}

with_each_resolver! {
    r1_01_a_final_link_is_refused
    r1_02_a_link_on_the_way_is_refused
    r1_03_links_in_a_rules_own_path_are_followed_at_build
    r1_05_magic_links_are_refused
    r1_05_a_proc_file_system_beneath_a_root_is_refused
    other_mounts_beneath_a_root_are_served
    r1_11_an_exact_rule_keeps_its_directory
    r1_11_a_tree_is_pinned
}

/// Runs a test in a process of its own, where openat2 fails with this errno, or does not.
fn run(name: &str, errno: Option<i32>, body: fn()) {
    common::alone(name, || {
        errno.into_iter().for_each(|errno| common::refuse(libc::SYS_openat2, &[], errno));
        let expected = if errno.is_none() { Resolver::Openat2 } else { Resolver::Walk };
        assert_eq!(policy(Rule::beneath("/etc").read()).resolver(), Some(expected));
        body();
    });
}

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

/// Every verb that opens what exists.
fn attempts(client: &Client, path: &Path) -> [Result<fs::File, ClientError>; 3] {
    [client.read(path), client.write(path), client.append(path)]
}

#[track_caller]
fn refused_as(result: Result<fs::File, ClientError>, reason: Reason, errno: i32) {
    let refusal = result.unwrap_err().refusal().unwrap();
    assert_eq!((refusal.reason, refusal.errno), (reason, errno));
}

fn text(file: Result<fs::File, ClientError>) -> String {
    io::read_to_string(file.unwrap()).unwrap()
}

/// R1-01: a link as the last component is refused: absolute or relative, outwards or inwards, to itself or to nothing.
fn r1_01_a_final_link_is_refused() {
    let (_keep, root) = directory();
    let served = root.join("served");
    fs::create_dir(&served).unwrap();
    fs::write(root.join("secret"), b"secret").unwrap();
    fs::write(served.join("file"), b"file").unwrap();
    let targets = [
        root.join("secret"),
        "../secret".into(),
        served.join("file"),
        "file".into(),
        "nowhere".into(),
        "self".into(),
        "/etc/passwd".into(),
    ];
    let tree = || policy(Rule::beneath(&served).read().write().append().create(0o600));
    for target in targets {
        let link = served.join("self");
        // Built before there is a link: at build an exact rule for one would be refused.
        let exact = policy(Rule::file(&link).read().write().append());
        symlink(&target, &link).unwrap();
        for policy in [tree(), exact] {
            let (_service, client) = client(policy);
            for attempt in attempts(&client, &link) {
                refused_as(attempt, Reason::Failed, libc::ELOOP);
            }
        }
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(fs::read(root.join("secret")).unwrap(), b"secret");
    assert!(!served.join("nowhere").exists());
}

/// R1-02: a link anywhere in the middle of a path is refused, also for creating beneath it.
fn r1_02_a_link_on_the_way_is_refused() {
    let (_keep, root) = directory();
    let (served, outside) = (root.join("served"), root.join("outside"));
    fs::create_dir_all(served.join("real/deeper")).unwrap();
    fs::create_dir_all(outside.join("deeper")).unwrap();
    for directory in [&served.join("real"), &outside] {
        fs::write(directory.join("deeper/file"), b"file").unwrap();
    }
    symlink(&outside, served.join("out")).unwrap();
    symlink("../outside", served.join("relative")).unwrap();
    symlink("real", served.join("inwards")).unwrap();
    symlink("../../../outside/deeper", served.join("real/deeper/chained")).unwrap();
    let (_service, client) = client(policy(Rule::beneath(&served).read().write().append().create(0o600)));
    assert_eq!(text(client.read(served.join("real/deeper/file"))), "file");
    for name in ["out", "relative", "inwards", "real/deeper/chained"] {
        let way = served.join(name);
        for attempt in
            attempts(&client, &way.join("deeper/file")).into_iter().chain(attempts(&client, &way.join("file")))
        {
            refused_as(attempt, Reason::Failed, libc::ELOOP);
        }
        refused_as(client.create(way.join("new")), Reason::Failed, libc::ELOOP);
        refused_as(client.create(way.join("deeper/new")), Reason::Failed, libc::ELOOP);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// R1-03: links in a rule's own path are followed once, when the policy is built, and never again.
fn r1_03_links_in_a_rules_own_path_are_followed_at_build() {
    let (_keep, root) = directory();
    for name in ["real", "decoy"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
    }
    let link = root.join("link");
    symlink(root.join("real"), &link).unwrap();
    let rules = [policy(Rule::beneath(&link).read()), policy(Rule::file(link.join("file")).read())];
    fs::remove_file(&link).unwrap();
    symlink(root.join("decoy"), &link).unwrap();
    for policy in rules {
        let (_service, client) = client(policy);
        assert_eq!(text(client.read(link.join("file"))), "real");
        refused_as(client.read(root.join("real/file")), Reason::Denied, libc::EACCES);
    }
}

/// R1-05: the magic links of /proc are refused, also where a rule names one by its exact path: they lead anywhere.
fn r1_05_magic_links_are_refused() {
    let (_keep, root) = directory();
    let secret = root.join("secret");
    fs::write(&secret, b"secret").unwrap();
    // A number that is free while the policy is built; then it is the secret's, and its name in /proc a magic link.
    let free = |number: i32| !Path::new(&format!("/proc/self/fd/{number}")).exists();
    let number = (100..).find(|number| free(*number)).unwrap();
    let own = std::process::id();
    for directory in ["/proc/self/fd".to_string(), format!("/proc/{own}/fd"), "/dev/fd".into()] {
        let path = format!("{directory}/{number}");
        let (_service, client) = client(policy(Rule::file(&path).read().write().append()));
        refused_as(client.read(&path), Reason::Failed, libc::ENOENT);
        let held = held_at(number, &secret);
        assert_eq!(fs::read(&path).unwrap(), b"secret", "anybody else follows it");
        for attempt in attempts(&client, Path::new(&path)) {
            refused_as(attempt, Reason::Failed, libc::ELOOP);
        }
        drop(held);
    }
    // By exact name a regular file of /proc is granted: that is for the policy's author to decide.
    let (_service, client) = client(policy(Rule::file("/proc/version").read()));
    assert!(text(client.read("/proc/version")).starts_with("Linux version"));
}

/// The file, open often enough that descriptor `number`, which was free, is one of them.
fn held_at(number: i32, path: &Path) -> Vec<fs::File> {
    let mut held: Vec<fs::File> = Vec::new();
    while held.last().is_none_or(|file| file.as_raw_fd() != number) {
        held.push(fs::File::open(path).unwrap());
    }
    held
}

/// R1-05: a proc file system that somebody mounts beneath a served directory gives nothing away, regular as its files
/// look: the broker's own memory is among them.
fn r1_05_a_proc_file_system_beneath_a_root_is_refused() {
    let (_keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(root.join("file"), b"file").unwrap();
    if let Err(error) = mount_proc_at(&inside) {
        eprintln!("SKIPPED R1-05 with a mounted proc file system: mounting is not permitted here: {error}");
        return;
    }
    let own = inside.join(std::process::id().to_string());
    assert!(fs::read(own.join("environ")).is_ok(), "it is a proc file system, and of this process");

    let (_service, client) = client(policy(Rule::beneath(&root).read().write().append()));
    refused_as(client.read(own.join("environ")), Reason::Kind, libc::EACCES);
    let baseline = open_fds();
    for name in ["environ", "maps", "mem", "status", "cmdline"] {
        refused_as(client.read(own.join(name)), Reason::Kind, libc::EACCES);
    }
    refused_as(client.read(inside.join("version")), Reason::Kind, libc::EACCES);
    for name in ["mem", "comm"] {
        for attempt in [client.write(own.join(name)), client.append(own.join(name))] {
            refused_as(attempt, Reason::Kind, libc::EACCES);
        }
    }
    for name in ["fd/0", "root/etc/passwd", "cwd/file", "exe"] {
        refused_as(client.read(own.join(name)), Reason::Failed, libc::ELOOP);
    }
    refused_as(client.read(inside.join("self/environ")), Reason::Failed, libc::ELOOP);
    assert_eq!(text(client.read(root.join("file"))), "file");
    client.hello().unwrap();
    assert_eq!(open_fds(), baseline);
}

/// Any other file system that is mounted beneath a root is served as a part of the tree.
fn other_mounts_beneath_a_root_are_served() {
    let (_keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    let none: Option<&str> = None;
    let mounted = own_mounts().and_then(|()| mount(Some("none"), &inside, Some("tmpfs"), MsFlags::empty(), none));
    if let Err(error) = mounted {
        eprintln!("SKIPPED other mounts: mounting is not permitted here: {error}");
        return;
    }
    fs::write(inside.join("file"), b"of another file system").unwrap();
    let (_service, client) = client(policy(Rule::beneath(&root).read()));
    assert_eq!(text(client.read(inside.join("file"))), "of another file system");
}

/// A mount namespace of this process's own, of which the system sees nothing.
fn own_mounts() -> nix::Result<()> {
    let flags = if nix::unistd::geteuid().is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    unshare(flags | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

fn mount_proc_at(place: &Path) -> nix::Result<()> {
    own_mounts()?;
    let none: Option<&str> = None;
    mount(Some("/proc"), place, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
}

/// R1-11: a rule for exactly one file opens in the directory that it meant when the policy was built, whatever has
/// taken that directory's name since.
fn r1_11_an_exact_rule_keeps_its_directory() {
    let (_keep, root) = directory();
    let (parent, path) = (root.join("parent"), root.join("parent/file"));
    fs::create_dir(&parent).unwrap();
    fs::write(&path, b"meant").unwrap();
    let (_service, client) = client(policy(Rule::file(&path).read().create(0o600)));

    fs::rename(&parent, root.join("moved")).unwrap();
    fs::create_dir(&parent).unwrap();
    fs::write(&path, b"planted").unwrap();
    assert_eq!(text(client.read(&path)), "meant");
    fs::remove_dir_all(&parent).unwrap();
    symlink("/etc", &parent).unwrap();
    assert_eq!(text(client.read(&path)), "meant");

    fs::remove_file(root.join("moved/file")).unwrap();
    refused_as(client.read(&path), Reason::Failed, libc::ENOENT);
    client.create(&path).unwrap();
    assert!(root.join("moved/file").exists());
    refused_as(client.read(root.join("moved/file")), Reason::Denied, libc::EACCES);
}

/// R1-11: a tree is the directory that it was when the policy was built, wherever it is renamed to, and when it is
/// removed nothing takes its place.
fn r1_11_a_tree_is_pinned() {
    let (_keep, root) = directory();
    let tree = root.join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), b"meant").unwrap();
    let meant = identity(fs::File::open(tree.join("sub/file")).unwrap());
    let (_service, client) = client(policy(Rule::beneath(&tree).read()));

    fs::rename(&tree, root.join("moved")).unwrap();
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), b"planted").unwrap();
    assert_eq!(identity(client.read(tree.join("sub/file")).unwrap()), meant);
    fs::remove_dir_all(root.join("moved")).unwrap();
    refused_as(client.read(tree.join("sub/file")), Reason::Failed, libc::ENOENT);
    assert_eq!(fs::read(tree.join("sub/file")).unwrap(), b"planted");
}

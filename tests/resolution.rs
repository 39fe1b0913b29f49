//! Proves that a name leads to what the policy meant: no link is followed that the rule does not follow, and nothing
//! leads out of a rule's directory. Each test is a function, and runs three times: with openat2(2), and with filters
//! that answer ENOSYS and EPERM to it, as older kernels and sandboxes around the broker do (R1-06).
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::mounts::{Mounted, own_mounts};
use common::served::client;
use common::{directory, identity, open_fds};
use fdbroker::wire::Reason;
use fdbroker::{Client, ClientError, Policy, PolicyError, Resolver, Rule};
use nix::mount::MsFlags;
use tempfile::TempDir;

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
    r1_05_the_directories_of_processes_are_refused
    r1_05_a_proc_file_system_beneath_a_root_is_refused
    other_mounts_beneath_a_root_are_served
    r1_11_an_exact_rule_keeps_its_directory
    r1_11_a_tree_is_pinned
    links_that_stay_within_are_followed_where_a_rule_says_so
    r1_05_links_of_proc_are_not_followed_within
    links_are_not_followed_where_the_kernel_would_not
    r1_10_a_rule_keeps_to_one_file_system
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

/// R1-05: what is in the directories of processes in /proc is refused when the policy is built, by whatever way a rule
/// names it: magic links, which lead anywhere, and the broker's own memory, which is a regular file.
fn r1_05_the_directories_of_processes_are_refused() {
    let own = std::process::id();
    let directories =
        ["/proc/self", "/proc/thread-self", &format!("/proc/{own}"), "/proc/self/fd", "/dev/fd", "/proc/1"];
    for directory in directories {
        for name in ["mem", "environ", "0", "1234", "exe", "absent"] {
            let built = Policy::builder().allow(Rule::file(format!("{directory}/{name}")).read()).build();
            let refused = matches!(built, Err(PolicyError::Unfit { .. }));
            assert!(refused || directory == "/proc/1" && built.is_err(), "{directory}/{name}: {built:?}");
        }
    }
    // By exact name another regular file of /proc is granted: that is for the policy's author to decide.
    let (_service, client) = client(policy(Rule::file("/proc/version").read()));
    assert!(text(client.read("/proc/version")).starts_with("Linux version"));
}

/// R1-05: a proc file system that somebody mounts beneath a served directory gives nothing away, regular as its files
/// look: the broker's own memory is among them.
fn r1_05_a_proc_file_system_beneath_a_root_is_refused() {
    let (keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(root.join("file"), b"file").unwrap();
    let _mounted = match mount_proc_at(&keep, &inside) {
        Ok(mounted) => mounted,
        Err(error) => {
            return eprintln!("SKIPPED R1-05 with a mounted proc file system: mounting is not permitted here: {error}");
        }
    };
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
    let (keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    let tmpfs = |()| Mounted::of_kind(&keep, &inside, "tmpfs", MsFlags::empty(), None);
    let _mounted = match own_mounts().and_then(tmpfs) {
        Ok(mounted) => mounted,
        Err(error) => return eprintln!("SKIPPED other mounts: mounting is not permitted here: {error}"),
    };
    fs::write(inside.join("file"), b"of another file system").unwrap();
    let (_service, client) = client(policy(Rule::beneath(&root).read()));
    assert_eq!(text(client.read(inside.join("file"))), "of another file system");
}

fn mount_proc_at<'a>(keep: &'a TempDir, place: &Path) -> nix::Result<Mounted<'a>> {
    own_mounts()?;
    Mounted::again(keep, "/proc".as_ref(), place)
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

/// A rule can follow links that stay beneath its directory: on the way and at the end, relative ones only.
fn links_that_stay_within_are_followed_where_a_rule_says_so() {
    let (_keep, root) = directory();
    let served = root.join("served");
    fs::create_dir_all(served.join("real/deeper")).unwrap();
    fs::write(served.join("real/deeper/file"), b"file").unwrap();
    fs::write(root.join("secret"), b"secret").unwrap();
    let within = ["real/deeper/file", "./real/../real//deeper/file", "way/deeper/file", "way/deeper/../deeper/file"];
    let outside = ["../secret", "real/../../secret", "../served/real/deeper/file", "way/../../secret", ".."];
    symlink("real", served.join("way")).unwrap();
    symlink("missing", served.join("dangling")).unwrap();
    symlink("real/deeper/file/", served.join("slash")).unwrap();
    symlink(served.join("real"), served.join("absolute")).unwrap();
    let (_service, client) =
        client(policy(Rule::beneath(&served).follow_links_within().read().write().append().create(0o600)));
    for (number, text) in within.iter().chain(&outside).enumerate() {
        let link = served.join(format!("link-{number}"));
        symlink(text, &link).unwrap();
        for attempt in attempts(&client, &link) {
            match attempt {
                Ok(file) if number < within.len() => assert_eq!(identity(file), identity(of(&served))),
                refused => refused_as(refused, Reason::Failed, libc::EXDEV),
            }
        }
        refused_as(client.create(&link), Reason::Failed, libc::EEXIST);
    }
    assert_eq!(text(client.read(served.join("way/deeper/file"))), "file");
    client.create(served.join("way/new")).unwrap();
    assert!(served.join("real/new").exists());
    for (name, errno) in [("dangling", libc::ENOENT), ("slash", libc::ENOTDIR), ("absolute/deeper/file", libc::EXDEV)] {
        refused_as(client.read(served.join(name)), Reason::Failed, errno);
    }
    refused_as(client.create(served.join("dangling")), Reason::Failed, libc::EEXIST);
    assert!(!served.join("missing").exists());
}

fn of(served: &Path) -> fs::File {
    fs::File::open(served.join("real/deeper/file")).unwrap()
}

/// R1-05: a rule that follows links follows none that is magic, and a relative text makes no difference.
fn r1_05_links_of_proc_are_not_followed_within() {
    let (keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(root.join("file"), b"file").unwrap();
    let _mounted = match mount_proc_at(&keep, &inside) {
        Ok(mounted) => mounted,
        Err(error) => {
            return eprintln!("SKIPPED R1-05 with a rule that follows links: mounting is not permitted here: {error}");
        }
    };
    let own = std::process::id();
    symlink(format!("inside/{own}/cwd/file"), root.join("cwd")).unwrap();
    symlink(format!("inside/{own}/fd/0"), root.join("stdin")).unwrap();
    let (_service, client) = client(policy(Rule::beneath(&root).follow_links_within().read().write().append()));
    for name in ["cwd", "stdin"] {
        for attempt in attempts(&client, &root.join(name)) {
            refused_as(attempt, Reason::Failed, libc::ELOOP);
        }
    }
    for name in ["fd/0", "root/etc/passwd", "cwd/file", "exe", "ns/mnt"] {
        refused_as(client.read(inside.join(own.to_string()).join(name)), Reason::Failed, libc::ELOOP);
    }
    // A plain one, which openat2 follows, leads to nothing that would be handed out either.
    client.read(inside.join("self/environ")).unwrap_err();
}

/// Links are no more followed by us than by the kernel: not on a mount that says so, and not one that another user put
/// into a directory such as /tmp.
fn links_are_not_followed_where_the_kernel_would_not() {
    let (keep, root) = directory();
    if !common::is_root() {
        eprintln!("SKIPPED links of another user: only root can make them");
        return;
    }
    let (shared, quiet) = (root.join("shared"), root.join("quiet"));
    for directory in [&shared, &quiet] {
        fs::create_dir(directory).unwrap();
    }
    let nosymfollow = MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW);
    let quietly = own_mounts().and_then(|()| Mounted::of_kind(&keep, &quiet, "tmpfs", nosymfollow, None));
    for directory in [&shared, &quiet] {
        fs::write(directory.join("file"), b"file").unwrap();
        symlink("file", directory.join("link")).unwrap();
    }
    let (_service, client) = client(policy(Rule::beneath(&root).follow_links_within().read()));
    assert_eq!(text(client.read(shared.join("link"))), "file");
    match &quietly {
        Ok(_) => refused_as(client.read(quiet.join("link")), Reason::Failed, libc::ELOOP),
        Err(error) => eprintln!("SKIPPED a mount without links: mounting is not permitted here: {error}"),
    }

    std::os::unix::fs::lchown(shared.join("link"), Some(65534), Some(65534)).unwrap();
    assert_eq!(text(client.read(shared.join("link"))), "file");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let by_walk = policy(Rule::beneath(&root).read()).resolver() == Some(Resolver::Walk);
    let protected = fs::read("/proc/sys/fs/protected_symlinks").is_ok_and(|word| word.starts_with(b"1"));
    match client.read(shared.join("link")) {
        Ok(file) => assert!(!by_walk && !protected, "{file:?}"),
        refused => refused_as(refused, Reason::Failed, libc::EACCES),
    }
    assert_eq!(text(client.read(shared.join("file"))), "file");
}

/// R1-10: a rule that keeps to one file system crosses no mount point, not even to the same file system, and not at the
/// last component; with the walk neither. Where mounts cannot be told apart, such a rule is refused when it is loaded.
fn r1_10_a_rule_keeps_to_one_file_system() {
    let (keep, root) = directory();
    for name in ["real", "same", "other"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    for name in ["real/file", "bound", "bound-fifo"] {
        fs::write(root.join(name), b"file").unwrap();
    }
    nix::unistd::mkfifo(&root.join("real/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bind = |from: &str, to: &str| Mounted::again(&keep, &root.join(from), &root.join(to));
    let all = |()| {
        let tmpfs = Mounted::of_kind(&keep, &root.join("other"), "tmpfs", MsFlags::empty(), None)?;
        Ok([bind("real", "same")?, bind("real/file", "bound")?, bind("real/fifo", "bound-fifo")?, tmpfs])
    };
    let _mounted = match own_mounts().and_then(all) {
        Ok(mounted) => mounted,
        Err(error) => return eprintln!("SKIPPED R1-10: mounting is not permitted here: {error}"),
    };
    fs::write(root.join("other/file"), b"file").unwrap();
    symlink("same/file", root.join("link")).unwrap();
    let rule = || Rule::beneath(&root).read().write().append().create(0o600);
    let (_service, everywhere) = client(policy(rule()));
    let (_service, stays) = client(policy(rule().one_file_system()));
    let (_service, follows) = client(policy(rule().one_file_system().follow_links_within()));
    for name in ["same/file", "bound", "other/file"] {
        assert_eq!(text(everywhere.read(root.join(name))), "file");
        for client in [&stays, &follows] {
            for attempt in attempts(client, &root.join(name)) {
                refused_as(attempt, Reason::Failed, libc::EXDEV);
            }
        }
    }
    refused_as(follows.read(root.join("link")), Reason::Failed, libc::EXDEV);
    // Not even asked to open: the one would say ENXIO, and the other EISDIR.
    for name in ["bound-fifo", "same"] {
        refused_as(stays.write(root.join(name)), Reason::Failed, libc::EXDEV);
    }
    for directory in ["same", "other"] {
        refused_as(stays.create(root.join(directory).join("new")), Reason::Failed, libc::EXDEV);
        assert!(!root.join(directory).join("new").exists());
    }
    assert_eq!(text(stays.read(root.join("real/file"))), "file");
    // A root that is itself a mount is one file system as any other.
    let (_service, mounted) = client(policy(Rule::beneath(root.join("same")).one_file_system().read()));
    assert_eq!(text(mounted.read(root.join("same/file"))), "file");

    // Older than Linux 4.11 in this respect, and without openat2, in every run: the last thing that this process does.
    common::refuse(libc::SYS_openat2, &[], libc::ENOSYS);
    common::refuse(libc::SYS_statx, &[], libc::ENOSYS);
    let refused = Policy::builder().allow(rule().one_file_system()).build().unwrap_err();
    assert!(refused.to_string().contains("one file system"), "{refused}");
    Policy::builder().allow(rule()).build().unwrap();
}

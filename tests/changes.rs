//! Proves what a worker can change by name: make, remove, rename; and that what is refused is as it was.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::served::client;
use common::{alone, directory, open_fds};
use fdbroker::policy::FileKind;
use fdbroker::wire::Reason;
use fdbroker::{ClientError, Policy, PolicyError, Rule};
use nix::sys::stat::{Mode, umask};

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

#[track_caller]
fn refusal<T>(result: Result<T, ClientError>) -> (Reason, i32) {
    let refusal = result.map(drop).unwrap_err().refusal().unwrap();
    (refusal.reason, refusal.errno)
}

const DENIED: (Reason, i32) = (Reason::Denied, libc::EACCES);
const NOT_OF_THE_KIND: (Reason, i32) = (Reason::Kind, libc::EACCES);

fn failed(errno: i32) -> (Reason, i32) {
    (Reason::Failed, errno)
}

/// Every name beneath a directory, with its inode and its bytes.
fn everything(directory: &Path) -> Vec<(PathBuf, u64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut further = vec![directory.to_path_buf()];
    while let Some(directory) = further.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let bytes = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            all.push((path.clone(), stat.ino(), bytes));
            if stat.is_dir() {
                further.push(path);
            }
        }
    }
    all.sort();
    all
}

/// O-16: the mode of a directory that is made is the policy's, whatever the broker's umask is, and without the
/// set-group-id bit that it would have inherited.
#[test]
fn o_16_the_mode_of_a_directory_is_the_policys() {
    alone("o_16_the_mode_of_a_directory_is_the_policys", || {
        for (mask, mode) in [(0o777, 0o750), (0o777, 0o777), (0, 0o700), (0, 0), (0o027, 0o755)] {
            let (_keep, root) = directory();
            let inherits = root.join("inherits");
            fs::create_dir(&inherits).unwrap();
            fs::set_permissions(&inherits, fs::Permissions::from_mode(0o2755)).unwrap();
            let (_service, client) = client(policy(Rule::beneath(&root).mkdir(mode).create(mode)));
            umask(Mode::from_bits_truncate(mask));
            for path in [root.join("new"), inherits.join("new")] {
                client.mkdir(&path).unwrap();
                let made = fs::symlink_metadata(&path).unwrap().mode();
                assert_eq!(made, libc::S_IFDIR | mode, "umask {mask:03o}: {}", path.display());
            }
            let file = inherits.join("file");
            client.create(&file).unwrap();
            assert_eq!(fs::symlink_metadata(&file).unwrap().mode(), libc::S_IFREG | mode, "umask {mask:03o}");
            umask(Mode::empty());
            // So that they can be deleted.
            for path in [root.join("new"), inherits.join("new")] {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
            }
        }
    });
}

/// O-16: a policy that would make anything set-user-id, set-group-id or sticky is none, by whichever right.
#[test]
fn o_16_set_id_and_sticky_bits_are_refused_at_build() {
    use fdbroker::wire::SocketType;
    let (_keep, root) = directory();
    for mode in [0o1000, 0o2000, 0o4000, 0o1777, 0o2755, 0o4755, 0o7777, 0o10_0644, 0o4_0755, u32::MAX] {
        let rules = [
            Rule::beneath(&root).create(mode),
            Rule::file(root.join("file")).create(mode),
            Rule::glob(root.join("*")).create(mode),
            Rule::beneath(&root).mkdir(mode),
            Rule::beneath(&root).listen([SocketType::Stream], mode),
            Rule::beneath(&root).bind(mode),
        ];
        for rule in rules {
            let built = Policy::builder().allow(rule).build();
            assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{mode:o}: {built:?}");
        }
    }
    for rule in [Rule::beneath(&root).create(0o777), Rule::beneath(&root).mkdir(0o777)] {
        Policy::builder().allow(rule).build().unwrap();
    }
}

/// D-02: who makes all directories on the way is told that those above the rules' exist, where the policy says so;
/// where it does not, no. Nothing is made or learnt beside that.
#[test]
fn d_02_mkdir_of_what_is_above_the_rules() {
    let (_keep, root) = directory();
    let tree = root.join("a/b/tree");
    fs::create_dir_all(&tree).unwrap();
    fs::create_dir(root.join("there")).unwrap();
    let rules = || Policy::builder().allow(Rule::beneath(&tree).mkdir(0o700));
    let above = [tree.clone(), root.join("a/b"), root.join("a"), root.clone()];
    let (_service, plain) = client(rules().build().unwrap());
    for path in &above {
        assert_eq!(refusal(plain.mkdir(path)), DENIED);
    }

    let (_service, client) = client(rules().mkdir_says_exists().build().unwrap());
    for path in &above {
        assert_eq!(refusal(client.mkdir(path)), failed(libc::EEXIST), "{}", path.display());
    }
    for path in [root.join("there"), root.join("absent"), root.join("a/c"), "/etc".into()] {
        assert_eq!(refusal(client.mkdir(path)), DENIED);
    }
    for path in ["one", "one/two", "one/two/three"].map(|name| tree.join(name)) {
        client.mkdir(&path).unwrap();
        assert!(path.is_dir());
        assert_eq!(refusal(client.mkdir(&path)), failed(libc::EEXIST));
    }
    assert_eq!(refusal(client.stat(&root)), DENIED, "the option is about making directories alone");

    // Also where a rule is about the directory, but for something else.
    let rules = rules().allow(Rule::beneath(&root).read()).mkdir_says_exists();
    let (_service, client) = common::served::client(rules.build().unwrap());
    assert_eq!(refusal(client.mkdir(root.join("a/b"))), failed(libc::EEXIST));
    assert_eq!(refusal(client.mkdir(root.join("absent"))), DENIED);
}

/// D-02: directories are made where that is granted, and in the place of nothing.
#[test]
fn d_02_mkdir_makes_only_what_is_not_there() {
    let (_keep, root) = directory();
    fs::write(root.join("file"), b"").unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("/tmp", root.join("link")).unwrap();
    let (_service, client) = client(policy(Rule::beneath(&root).mkdir(0o700)));
    for name in ["file", "dangling", "link"] {
        assert_eq!(refusal(client.mkdir(root.join(name))), failed(libc::EEXIST), "{name}");
    }
    assert_eq!(refusal(client.mkdir(root.join("link/new"))), failed(libc::ELOOP));
    assert_eq!(refusal(client.mkdir(root.join("absent/new"))), failed(libc::ENOENT));
    assert_eq!(refusal(client.mkdir(root.join("file/new"))), failed(libc::ENOTDIR));
    assert!(!root.join("nowhere").exists() && !Path::new("/tmp/new").exists());
    let others = Rule::beneath(&root).read().write().create(0o600).list().stat().unlink().rmdir().rename();
    let (_service, client) = common::served::client(policy(others));
    assert_eq!(refusal(client.mkdir(root.join("new"))), DENIED);
    assert!(!root.join("new").exists());
}

/// D-03: a renaming needs the right at both ends. Where one is missing nothing is moved, and nothing replaced.
#[test]
fn d_03_rename_needs_the_right_at_both_ends() {
    let (_keep, root) = directory();
    for name in ["with", "without", "none"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
        fs::write(root.join(name).join("other"), format!("other of {name}")).unwrap();
    }
    let all_but = Rule::beneath(root.join("without")).read().write().append().truncate().create(0o600).list().stat();
    let rules = Policy::builder()
        .allow(Rule::beneath(root.join("with")).rename())
        .allow(all_but.mkdir(0o700).unlink().rmdir().readlink())
        .deny(Rule::file(root.join("with/denied")));
    let (_service, client) = client(rules.build().unwrap());
    fs::write(root.join("with/denied"), b"denied").unwrap();
    let before = everything(&root);
    let ends = ["with/file", "without/file", "none/file", "with/denied", "with/absent", "none/absent"];
    for from in ends {
        for to in ends.into_iter().chain(["without/new", "none/new"]) {
            let granted = |name: &str| name.starts_with("with/") && !name.ends_with("denied");
            if granted(from) && granted(to) {
                continue;
            }
            assert_eq!(refusal(client.rename(root.join(from), root.join(to))), DENIED, "{from} to {to}");
            assert_eq!(everything(&root), before, "{from} to {to}");
        }
    }
    assert_eq!(refusal(client.rename(root.join("with/absent"), root.join("with/file"))), failed(libc::ENOENT));
    assert_eq!(everything(&root), before);
}

/// D-03: the object itself gets the new name, in place of what had it; between two rules as within one.
#[test]
fn d_03_rename_moves_and_replaces() {
    let (_keep, root) = directory();
    let (one, other) = (root.join("one"), root.join("other"));
    fs::create_dir_all(one.join("deep")).unwrap();
    fs::create_dir(&other).unwrap();
    let rules = Policy::builder().allow(Rule::beneath(&one).rename()).allow(Rule::file(other.join("exact")).rename());
    let (_service, client) = client(rules.build().unwrap());
    let moves = [
        (one.join("file"), one.join("deep/name")),
        (one.join("deep/name"), other.join("exact")),
        (other.join("exact"), one.join("again")),
        (one.join("again"), one.join("again")),
    ];
    fs::write(one.join("file"), b"the file").unwrap();
    let inode = fs::metadata(one.join("file")).unwrap().ino();
    for (from, to) in &moves {
        if to != from {
            fs::write(to, b"to be replaced").unwrap();
        }
        client.rename(from, to).unwrap();
        assert_eq!((fs::metadata(to).unwrap().ino(), fs::read(to).unwrap()), (inode, b"the file".to_vec()));
        assert!(from == to || !from.exists());
    }
}

/// D-03: directories, links and sockets are not renamed nor replaced, and other kinds where both rules name them.
#[test]
fn d_03_rename_is_of_the_kinds_of_both_rules() {
    let (_keep, root) = directory();
    let [plain, fifos] = ["plain", "fifos"].map(|name| root.join(name));
    let mut listeners = Vec::new();
    for place in [&plain, &fifos] {
        fs::create_dir_all(place.join("directory/inside")).unwrap();
        fs::create_dir(place.join("empty")).unwrap();
        fs::write(place.join("file"), b"file").unwrap();
        symlink("file", place.join("link")).unwrap();
        nix::unistd::mkfifo(&place.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        listeners.push(UnixListener::bind(place.join("socket")).unwrap());
    }
    let rules = Policy::builder()
        .allow(Rule::beneath(&plain).rename().mkdir(0o700))
        .allow(Rule::beneath(&fifos).rename().kinds([FileKind::Fifo, FileKind::Regular]));
    let (_service, client) = client(rules.build().unwrap());
    let before = everything(&root);
    for (place, name) in [(&plain, "fifo"), (&plain, "directory"), (&plain, "empty"), (&plain, "link")]
        .into_iter()
        .chain([(&plain, "socket"), (&fifos, "directory"), (&fifos, "link"), (&fifos, "socket")])
    {
        let object = place.join(name);
        for to in [place.join("new"), place.join("file")] {
            assert_eq!(refusal(client.rename(&object, to)), NOT_OF_THE_KIND, "{}", object.display());
        }
        assert_eq!(refusal(client.rename(place.join("file"), &object)), NOT_OF_THE_KIND, "{}", object.display());
    }
    assert_eq!(refusal(client.rename(fifos.join("fifo"), plain.join("new"))), NOT_OF_THE_KIND, "of both rules");
    assert_eq!(refusal(client.rename(plain.join("file"), fifos.join("directory"))), NOT_OF_THE_KIND);
    // A rule's own directory is no name that is beneath it.
    assert_eq!(refusal(client.rename(plain.join("file"), &plain)), DENIED);
    assert_eq!(refusal(client.rename(&plain, fifos.join("new"))), DENIED);
    assert_eq!(everything(&root), before);
    client.rename(fifos.join("fifo"), fifos.join("new")).unwrap();
    client.rename(fifos.join("new"), fifos.join("file")).unwrap();
    // What is replaced, too.
    assert_eq!(refusal(client.rename(plain.join("file"), fifos.join("file"))), NOT_OF_THE_KIND);
    client.rename(plain.join("file"), fifos.join("plain")).unwrap();
    assert_eq!(fs::read(fifos.join("plain")).unwrap(), b"file");
}

/// D-03: what would be a copy is refused: EXDEV from one file system to another.
#[test]
fn d_03_rename_across_file_systems_is_refused() {
    let (_keep, root) = directory();
    let elsewhere = tempfile::tempdir_in("/dev/shm").map(|place| (place.path().canonicalize(), place));
    let Ok((Ok(other), _place)) = elsewhere else {
        return eprintln!("SKIPPED D-03 across file systems: /dev/shm is not to be had");
    };
    if fs::metadata(&root).unwrap().dev() == fs::metadata(&other).unwrap().dev() {
        return eprintln!("SKIPPED D-03 across file systems: /dev/shm is on the same as the temporary directory");
    }
    let rules = Policy::builder().allow(Rule::beneath(&root).rename()).allow(Rule::beneath(&other).rename());
    let (_service, client) = client(rules.build().unwrap());
    fs::write(root.join("file"), b"here").unwrap();
    fs::write(other.join("file"), b"there").unwrap();
    for to in ["new", "file"] {
        assert_eq!(refusal(client.rename(root.join("file"), other.join(to))), failed(libc::EXDEV));
    }
    assert_eq!(fs::read(root.join("file")).unwrap(), b"here");
    assert_eq!(everything(&other).len(), 1);
    assert_eq!(fs::read(other.join("file")).unwrap(), b"there");
}

/// D-04: names are removed where that is granted, those of directories by a right of their own; what is refused is
/// still there.
#[test]
fn d_04_unlink_and_rmdir() {
    let (_keep, root) = directory();
    let fill = || {
        fs::create_dir_all(root.join("full/inside")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        fs::write(root.join("file"), b"file").unwrap();
        let _ = symlink("full", root.join("link"));
        let _ = nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o600));
        let _ = fs::remove_file(root.join("socket"));
        drop(UnixListener::bind(root.join("socket")).unwrap());
        fs::create_dir_all(root.join("denied")).unwrap();
    };
    fill();
    let all_but = Rule::beneath(&root).read().write().append().truncate().create(0o600).list().stat().readlink();
    let (_service, none) = client(policy(all_but.mkdir(0o700).rename()));
    let with = |rule| Policy::builder().allow(rule).deny(Rule::file(root.join("denied"))).build().unwrap();
    let (_service, unlinks) = client(with(Rule::beneath(&root).unlink()));
    let (_service, rmdirs) = client(with(Rule::beneath(&root).rmdir()));
    let before = everything(&root);
    for name in ["full", "empty", "file", "link", "fifo", "socket", "absent", "denied"] {
        let path = root.join(name);
        assert_eq!(refusal(none.unlink(&path)), DENIED, "{name}");
        assert_eq!(refusal(none.rmdir(&path)), DENIED, "{name}");
        assert_eq!(refusal(unlinks.rmdir(&path)), DENIED, "{name}");
        assert_eq!(refusal(rmdirs.unlink(&path)), DENIED, "{name}");
    }
    for name in ["full", "empty"] {
        assert_eq!(refusal(unlinks.unlink(root.join(name))), failed(libc::EISDIR), "{name}");
    }
    for name in ["file", "link", "fifo", "socket"] {
        assert_eq!(refusal(rmdirs.rmdir(root.join(name))), failed(libc::ENOTDIR), "{name}");
    }
    assert_eq!(refusal(rmdirs.rmdir(root.join("full"))), failed(libc::ENOTEMPTY));
    assert_eq!(refusal(unlinks.unlink(root.join("link/inside"))), failed(libc::ELOOP));
    assert_eq!(refusal(rmdirs.rmdir(root.join("link/inside"))), failed(libc::ELOOP));
    assert_eq!(refusal(unlinks.unlink(root.join("denied"))), DENIED);
    assert_eq!(refusal(rmdirs.rmdir(root.join("denied"))), DENIED);
    assert_eq!(refusal(rmdirs.rmdir(&root)), DENIED, "a rule's own directory is not beneath it");
    assert_eq!(refusal(unlinks.unlink(root.join("absent"))), failed(libc::ENOENT));
    assert_eq!(refusal(rmdirs.rmdir(root.join("absent"))), failed(libc::ENOENT));
    assert_eq!(everything(&root), before);

    for name in ["file", "link", "fifo", "socket"] {
        unlinks.unlink(root.join(name)).unwrap();
        assert!(fs::symlink_metadata(root.join(name)).is_err(), "{name}");
    }
    rmdirs.rmdir(root.join("empty")).unwrap();
    assert!(!root.join("empty").exists() && root.join("full/inside").exists());
}

/// D-03, D-04: whatever came of it, nothing stays open.
#[test]
fn d_04_changes_leave_no_descriptor_behind() {
    alone("d_04_changes_leave_no_descriptor_behind", || {
        let (_keep, root) = directory();
        fs::create_dir(root.join("deep")).unwrap();
        let rule = Rule::beneath(&root).create(0o600).mkdir(0o700).unlink().rmdir().rename().list().stat();
        let (_service, client) = client(policy(rule.reopen_root()));
        client.hello().unwrap();
        let before = open_fds();
        for _ in 0..50 {
            let (one, other, directory) = (root.join("deep/one"), root.join("other"), root.join("deep/directory"));
            drop(client.create(&one).unwrap());
            client.mkdir(&directory).unwrap();
            client.mkdir(&directory).unwrap_err();
            client.rename(&one, &directory).unwrap_err();
            client.rename(&one, &other).unwrap();
            client.rename(&one, &other).unwrap_err();
            client.unlink(&one).unwrap_err();
            client.unlink(&directory).unwrap_err();
            client.rmdir(&other).unwrap_err();
            client.rmdir(root.join("deep")).unwrap_err();
            client.unlink(&other).unwrap();
            client.rmdir(&directory).unwrap();
        }
        client.hello().unwrap();
        assert_eq!(open_fds(), before);
    });
}

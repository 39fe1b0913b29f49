//! Proves what a worker is told: of objects, of links, of directories, and what it is not.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::served::{Raw, client, raw};
use common::{alone, directory, open_fds};
use fdbroker::open::{Opened, Opener};
use fdbroker::wire::{
    Access, Answer, Ask, Batch, Entries, MAX_MESSAGE, MAX_REPLY, Reason, Refusal, Reply, Request, Stat,
};
use fdbroker::{Client, ClientError, Policy, PolicyError, Rule};

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

#[track_caller]
fn refusal<T>(result: Result<T, ClientError>) -> (Reason, i32) {
    let refusal = result.map(drop).unwrap_err().refusal().unwrap();
    (refusal.reason, refusal.errno)
}

const DENIED: (Reason, i32) = (Reason::Denied, libc::EACCES);

/// As the system says it to anybody.
fn as_std_says(path: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let stat = fs::symlink_metadata(path).unwrap();
    let owner = (stat.mode(), stat.nlink(), stat.uid(), stat.gid(), stat.size());
    (owner, stat.ino(), stat.dev(), stat.mtime(), stat.mtime_nsec())
}

fn as_told(stat: Stat) -> impl PartialEq + std::fmt::Debug + use<> {
    let owner = (stat.mode, u64::from(stat.links), stat.uid, stat.gid, stat.size);
    (owner, stat.inode, stat.device, stat.modified, i64::from(stat.modified_nanoseconds))
}

/// D-01: of an object of any kind the worker is told what anybody is told who asks without following a link; nothing is
/// opened for it.
#[test]
fn d_01_stat_tells_what_lstat_tells() {
    let (_keep, root) = directory();
    fs::write(root.join("file"), vec![7; 12345]).unwrap();
    fs::hard_link(root.join("file"), root.join("second")).unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    File::create(root.join("large")).unwrap().set_len(5 << 30).unwrap();
    symlink("a target that is nowhere", root.join("dangling")).unwrap();
    symlink("directory", root.join("link")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o621)).unwrap();
    let _listener = UnixListener::bind(root.join("socket")).unwrap();
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_nanos(1_500_000_001);
    File::open(root.join("second")).unwrap().set_modified(old).unwrap();

    let rules = Policy::builder().allow(Rule::beneath(&root).stat()).allow(Rule::file("/dev/null").stat());
    let (_service, client) = client(rules.build().unwrap());
    let mut modes = BTreeSet::new();
    let names = ["file", "second", "directory", "large", "dangling", "link", "fifo", "socket"];
    for path in names.map(|name| root.join(name)).into_iter().chain([root.clone(), "/dev/null".into()]) {
        let told = client.stat(&path).unwrap();
        modes.insert(told.mode & libc::S_IFMT);
        assert_eq!(format!("{:?}", as_told(told)), format!("{:?}", as_std_says(&path)), "{}", path.display());
    }
    assert_eq!(modes.len(), 6);
    assert_eq!(refusal(client.stat(root.join("absent"))), (Reason::Failed, libc::ENOENT));
    assert_eq!(refusal(client.stat(root.join("file/name"))), (Reason::Failed, libc::ENOTDIR));
    assert_eq!(refusal(client.stat(root.join("link/name"))), (Reason::Failed, libc::ELOOP), "a link on the way");
}

/// D-01: to open something, or to list where it is, is no right to ask what it is; and the other way round.
#[test]
fn d_01_stat_only_where_it_is_granted() {
    let (_keep, root) = directory();
    let (file, other) = (root.join("file"), root.join("other"));
    fs::write(&file, b"").unwrap();
    fs::write(&other, b"").unwrap();
    let without = Rule::beneath(&root).read().write().append().create(0o600).list().readlink().mkdir(0o700);
    let without = without.unlink().rmdir().rename().directory_escape();
    let (_service, client) = client(policy(without));
    for path in [&file, &root, &root.join("absent")] {
        assert_eq!(refusal(client.stat(path)), DENIED);
    }

    let (_service, client) = common::served::client(policy(Rule::file(&file).stat()));
    client.stat(&file).unwrap();
    assert_eq!(refusal(client.stat(&other)), DENIED);
    assert_eq!(refusal(client.read(&file)), DENIED);
    assert_eq!(refusal(client.list(&root)), DENIED);
}

/// D-01: the directories above those of rules only with the option, and no others then; what is denied never.
#[test]
fn d_01_leading_directories_only_with_the_option() {
    let (_keep, root) = directory();
    let tree = root.join("a/b/tree");
    fs::create_dir_all(tree.join("inside")).unwrap();
    fs::create_dir_all(root.join("a/c")).unwrap();
    let rules =
        || Policy::builder().allow(Rule::beneath(&tree).read()).allow(Rule::file(root.join("a/c/file")).read().stat());
    let above = [root.join("a/b"), root.join("a/c"), root.join("a"), root.clone(), root.parent().unwrap().into()];
    let (_service, client) = client(rules().build().unwrap());
    for path in &above {
        assert_eq!(refusal(client.stat(path)), DENIED);
    }

    let (_service, client) = common::served::client(rules().stat_leading_directories().build().unwrap());
    for path in &above {
        assert_eq!(format!("{:?}", as_told(client.stat(path).unwrap())), format!("{:?}", as_std_says(path)));
        for refused in [client.read(path).map(drop), client.directory(path).map(drop), client.list(path).map(drop)] {
            assert_eq!(refusal(refused), DENIED);
        }
    }
    fs::create_dir(root.join("sibling")).unwrap();
    for path in ["sibling", "a/b/other", "a/c/file/below", "a/b/tree/inside"].map(|name| root.join(name)) {
        assert_eq!(refusal(client.stat(&path)), DENIED, "{}", path.display());
    }
}

/// D-05: the target of a link comes whole, whatever it is; a buffer that has no room for it is refused, and nothing is
/// written where it ends.
#[test]
fn d_05_readlink_tells_the_whole_target() {
    let (_keep, root) = directory();
    let rules = policy(Rule::beneath(&root).readlink());
    let link = root.join("link");
    let path = link.as_os_str().as_bytes();
    let mut seen = 0;
    for len in [1, 2, 59, 60, 61, 254, 255, 256, 1023, 1024, 4094, 4095] {
        let target: Vec<u8> = (0x81..=0xff).chain([b'/']).cycle().take(len).collect();
        if let Err(error) = symlink(OsStr::from_bytes(&target), &link) {
            eprintln!("SKIPPED D-05 of a target of {len} bytes: {error}");
            continue;
        }
        seen += 1;
        for room in [0, 1, len - 1, len, len + 1, 2 * len] {
            let mut buffer = vec![0xee; 2 * len + 64];
            let permit = rules.decide(&Ask::Readlink(path)).unwrap();
            match Opener::new().open(permit, &mut buffer[..room]) {
                Ok(Opened::Data(told)) => assert_eq!((told, &buffer[..told]), (len, &target[..])),
                other => {
                    let refused = other.map(|_| ()).unwrap_err();
                    assert!(room < len, "{refused:?}");
                    assert_eq!(refused, Refusal { reason: Reason::Limit, errno: libc::EAGAIN });
                }
            }
            assert!(buffer[room..].iter().all(|byte| *byte == 0xee), "{len} bytes into {room}");
        }
        fs::remove_file(&link).unwrap();
    }
    assert!(seen > 0);
}

/// D-05: through the channel, too; also where many answers share one message, which has no room for all of them: each
/// is whole or refused.
#[test]
fn d_05_readlink_in_a_batch_is_whole_or_refused() {
    let (_keep, root) = directory();
    let target = "t/".repeat(500);
    let paths: Vec<_> = (0..100).map(|n| root.join(format!("link{n}"))).collect();
    for path in &paths {
        symlink(&target, path).unwrap();
    }
    let (_service, client) = client(policy(Rule::beneath(&root).readlink()));
    assert_eq!(client.readlink(&paths[0]).unwrap(), Path::new(&target));

    let (_service, raw) = raw(policy(Rule::beneath(&root).readlink()));
    let asks: Vec<_> = paths.iter().map(|path| Ask::Readlink(path.as_os_str().as_bytes())).collect();
    let mut items = vec![0; MAX_MESSAGE];
    let batch = Batch::encode(asks, &mut items).unwrap();
    let mut request = vec![0; MAX_MESSAGE];
    let len = Request { id: 1, ask: Ask::Batch(batch) }.encode(&mut request).unwrap();
    raw.channel.send(&request[..len], &[]).unwrap();
    let mut packet = fdbroker::Packet::with_capacity(MAX_REPLY);
    raw.channel.recv(&mut packet).unwrap();
    let Answer::Batch(answers) = Reply::decode(packet.bytes(), 0).unwrap().answer else { panic!("no batch") };
    let (mut whole, mut refused) = (0, 0);
    for answer in answers.iter() {
        match answer {
            Answer::Granted { data, .. } => {
                assert_eq!(data, target.as_bytes());
                whole += 1;
            }
            Answer::Refused(refusal) => {
                assert_eq!(refusal.reason, Reason::Limit);
                refused += 1;
            }
            Answer::Batch(_) => panic!("a batch in a batch"),
        }
    }
    assert_eq!(whole + refused, paths.len());
    assert!(whole >= 10 && refused > 0, "{whole} whole, {refused} refused");
}

/// D-05: only of links, only where it is granted, and not by other rights.
#[test]
fn d_05_readlink_of_links_that_are_granted() {
    let (_keep, root) = directory();
    fs::write(root.join("file"), b"").unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    symlink("directory", root.join("way")).unwrap();
    symlink("x", root.join("directory/inner")).unwrap();
    let (_service, client) = client(policy(Rule::beneath(&root).readlink()));
    assert_eq!(client.readlink(root.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(refusal(client.readlink(root.join("file"))), (Reason::Failed, libc::EINVAL));
    assert_eq!(refusal(client.readlink(root.join("directory"))), (Reason::Failed, libc::EINVAL));
    assert_eq!(refusal(client.readlink(root.join("absent"))), (Reason::Failed, libc::ENOENT));
    assert_eq!(refusal(client.readlink(root.join("way/inner"))), (Reason::Failed, libc::ELOOP));
    assert_eq!(refusal(client.read(root.join("link"))), DENIED);

    let (_service, client) = common::served::client(policy(Rule::beneath(&root).stat().list().read()));
    assert_eq!(refusal(client.readlink(root.join("link"))), DENIED);
    let (_service, client) = common::served::client(policy(Rule::file(root.join("link")).readlink()));
    assert_eq!(client.readlink(root.join("link")).unwrap(), Path::new("/etc/passwd"));
}

/// D-06: a descriptor of a directory is refused although all else is granted beneath it, by whichever way it is asked
/// for.
#[test]
fn d_06_no_directory_descriptor_without_the_right() {
    let (_keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    let everything = Rule::beneath(&root).read().write().append().truncate().create(0o600).list().stat().readlink();
    let (_service, client) = client(policy(everything.mkdir(0o700).unlink().rmdir().rename()));
    for path in [&root, &inside] {
        assert_eq!(refusal(client.directory(path)), DENIED);
    }
    assert_eq!(refusal(client.read(&inside)), (Reason::Kind, libc::EACCES));
    assert_eq!(refusal(client.open_options().read(true).nonblocking(true).open(&inside)).1, libc::EACCES);
    assert_eq!(refusal(client.read(&root)), DENIED, "a tree is what is beneath it");

    let (_service, client) = common::served::client(policy(Rule::beneath(&root).directory_escape()));
    for path in [&root, &inside] {
        let granted = client.directory(path).unwrap();
        assert_eq!(common::identity(&granted), common::identity(File::open(path).unwrap()));
    }
    fs::write(root.join("file"), b"").unwrap();
    assert_eq!(refusal(client.directory(root.join("file"))), (Reason::Failed, libc::ENOTDIR));
    symlink("inside", root.join("link")).unwrap();
    let link = refusal(client.directory(root.join("link")));
    assert!([(Reason::Failed, libc::ELOOP), (Reason::Failed, libc::ENOTDIR)].contains(&link), "{link:?}");
    let (_service, mut raw) = raw(policy(Rule::beneath(&root).directory_escape()));
    for others in [Access::READ, Access::WRITE, Access::CREATE, Access::NEW] {
        let ask = Ask::Open { access: Access::DIRECTORY | others, path: inside.as_os_str().as_bytes() };
        assert_eq!(raw.ask(ask).unwrap_err(), Refusal { reason: Reason::Impossible, errno: libc::EINVAL });
    }
}

/// D-07: a policy that grants such descriptors to a worker that is confined to a directory of its own is none.
#[test]
fn d_07_no_directory_descriptor_for_a_confined_worker() {
    let (_keep, root) = directory();
    for rule in [Rule::beneath(&root), Rule::file(root.join("inside")), Rule::glob(root.join("*"))] {
        let rule = rule.directory_escape();
        let built = Policy::builder().worker_is_confined().allow(rule.clone()).build();
        assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{built:?}");
        let phase = Policy::builder().phase("first", |phase| phase.allow(rule.clone())).worker_is_confined().build();
        assert!(matches!(phase, Err(PolicyError::Unfit { .. })), "{phase:?}");
        Policy::builder().allow(rule).build().unwrap();
    }
    Policy::builder().worker_is_confined().allow(Rule::beneath(&root).read().list()).build().unwrap();
}

/// What is in a directory, by name: inode and type.
type Listed = BTreeMap<OsString, (u64, u8)>;

fn as_readdir_says(path: &Path) -> Listed {
    let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let stat = fs::symlink_metadata(entry.path()).unwrap();
            (entry.file_name(), (stat.ino(), u8::try_from((stat.mode() & libc::S_IFMT) >> 12).unwrap()))
        })
        .collect()
}

fn listed(client: &Client, path: &Path) -> Listed {
    let entries = client.list(path).unwrap();
    let count = entries.len();
    let listed: Listed = entries.into_iter().map(|entry| (entry.name, (entry.inode, entry.file_type))).collect();
    assert_eq!(listed.len(), count, "a name came twice");
    listed
}

/// One part of a directory: its names, and where it goes on.
fn part(raw: &mut Raw, path: &Path, from: u64) -> Result<(Vec<OsString>, Option<u64>), Refusal> {
    let data = raw.told(Ask::List { path: path.as_os_str().as_bytes(), from })?;
    let entries = Entries::decode(&data).expect("entries");
    Ok((entries.iter().map(|entry| OsString::from_vec(entry.name.to_vec())).collect(), entries.next))
}

/// D-01: a directory is told whole and each name once, with its inode and its type: of none, of one of each kind, and
/// of ten thousand with long names that are no text. No descriptor stays behind.
#[test]
fn d_01_list_is_whole() {
    alone("d_01_list_is_whole", || {
        let (_keep, root) = directory();
        let [empty, kinds, large] = ["empty", "kinds", "large"].map(|name| root.join(name));
        for directory in [&empty, &kinds, &large] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(kinds.join("file"), b"").unwrap();
        fs::create_dir(kinds.join("directory")).unwrap();
        symlink("nowhere", kinds.join("link")).unwrap();
        nix::unistd::mkfifo(&kinds.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let _listener = UnixListener::bind(kinds.join("socket")).unwrap();
        fs::write(kinds.join("..name"), b"").unwrap();
        for n in 0_u32..10_000 {
            let mut name = vec![0xff; 1 + n as usize % 251];
            name.extend(format!("{n:04}").bytes());
            File::create(large.join(OsStr::from_bytes(&name))).unwrap();
        }
        let (_service, client) = client(policy(Rule::beneath(&root).list()));
        client.list(&empty).unwrap();
        client.hello().unwrap();
        let before = open_fds();
        for path in [&empty, &kinds, &large, &root] {
            assert_eq!(listed(&client, path), as_readdir_says(path), "{}", path.display());
        }
        assert_eq!((listed(&client, &empty).len(), listed(&client, &large).len()), (0, 10_000));
        assert_eq!(refusal(client.list(kinds.join("file"))), (Reason::Failed, libc::ENOTDIR));
        assert_eq!(refusal(client.list(kinds.join("absent"))), (Reason::Failed, libc::ENOENT));
        let link = refusal(client.list(kinds.join("link")));
        assert!([libc::ELOOP, libc::ENOTDIR].contains(&link.1), "{link:?}");
        client.hello().unwrap();
        assert_eq!(open_fds(), before);
    });
}

/// D-01: a directory is told part by part, and a place that no reply has told is answered like any other: with names
/// that are there, or EINVAL.
#[test]
fn d_01_list_from_any_place() {
    let (_keep, root) = directory();
    let all: BTreeSet<OsString> = (0..600).map(|n| format!("{n:0>200}").into()).collect();
    for name in &all {
        File::create(root.join(name)).unwrap();
    }
    let (_service, mut raw) = raw(policy(Rule::beneath(&root).list()));
    let (mut told, mut from, mut parts) = (Vec::new(), 0, Vec::new());
    loop {
        let (names, next) = part(&mut raw, &root, from).unwrap();
        assert!(!names.is_empty() || next.is_none(), "a part of nothing");
        told.extend(names);
        parts.push(from);
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert!(parts.len() > 5, "{parts:?}");
    assert_eq!((told.len(), told.into_iter().collect::<BTreeSet<_>>()), (all.len(), all.clone()));

    let mut hostile = vec![1, 2, 3, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, 1 << 32, u32::MAX.into(), 4095];
    hostile.extend(parts.iter().flat_map(|from| [from.wrapping_add(1), from.wrapping_sub(1), !from, *from]));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    hostile.extend((0..500).map(|_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    }));
    for from in hostile {
        match part(&mut raw, &root, from) {
            Ok((names, next)) => {
                assert!(names.iter().all(|name| all.contains(name)), "from {from}");
                assert!(next != Some(from), "from {from}: no further");
            }
            Err(refusal) => assert_eq!(refusal, Refusal { reason: Reason::Failed, errno: libc::EINVAL }, "from {from}"),
        }
    }
    assert!(part(&mut raw, &root, 0).is_ok(), "the service is as it was");
}

/// D-01: names that a rule denies are left out, whichever way it is written; names that no rule allows are not; a part
/// that denials leave nothing of is no end.
#[test]
fn d_01_list_leaves_out_what_is_denied() {
    let (_keep, root) = directory();
    let tree = root.join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::create_dir(tree.join("secrets")).unwrap();
    for name in ["exact", "plain", "a.key", "b.key", "sub/c.key", "sub/plain", "secrets/inner"] {
        fs::write(tree.join(name), b"").unwrap();
    }
    for n in 0..2000 {
        fs::write(tree.join(format!("{n:0>100}.key")), b"").unwrap();
    }
    let rules = Policy::builder()
        .allow(Rule::beneath(&tree).list())
        .deny(Rule::file(tree.join("exact")))
        .deny(Rule::beneath(tree.join("secrets")))
        .deny(Rule::glob(tree.join("**/*.key")));
    let (_service, client) = client(rules.build().unwrap());
    let names = |path: &Path| listed(&client, path).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&tree), ["plain", "sub"]);
    assert_eq!(names(&tree.join("sub")), ["plain"]);
    assert_eq!(refusal(client.list(tree.join("secrets"))), DENIED);

    // What only another rule is about is told: the name is in the directory that may be listed.
    let rules = Policy::builder().allow(Rule::beneath(&tree).list()).allow(Rule::file(tree.join("exact")).read());
    let (_service, client) = common::served::client(rules.build().unwrap());
    assert!(listed(&client, &tree).contains_key(OsStr::new("exact")));
}

/// D-01: listing wants a right of its own, and lists what the rule is about: a tree or one directory.
#[test]
fn d_01_list_only_where_it_is_granted() {
    let (_keep, root) = directory();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("file"), b"").unwrap();
    let (_service, client) = client(policy(Rule::beneath(&root).read().stat().write()));
    assert_eq!(refusal(client.list(&root)), DENIED);
    let (_service, client) = common::served::client(policy(Rule::file(&inside).list()));
    assert_eq!(listed(&client, &inside), as_readdir_says(&inside));
    for other in [root.clone(), inside.join("file"), PathBuf::from("/etc")] {
        assert_eq!(refusal(client.list(other)), DENIED);
    }
}

//! Proves what the rules of a policy match, which of them decides, and which are refused when the policy is built.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::served::{client, client_of, raw};
use common::{directory, identity};
use fdbroker::policy::Why;
use fdbroker::wire::path::PathError;
use fdbroker::wire::{Access, Address, Ask, Reason, Refusal, Right, SocketType};
use fdbroker::{Broker, Policy, PolicyError, Rule};

fn build(rule: impl Into<Rule>) -> Result<Policy, PolicyError> {
    Policy::builder().allow(rule).build()
}

/// What the policy answers, by its own word; nothing is opened.
fn decide(policy: &Policy, right: Right, path: &[u8]) -> Result<(), Refusal> {
    let (_, access) = OPENING.into_iter().find(|(other, _)| *other == right).unwrap();
    policy.decide(&Ask::Open { access, path }).map(drop).map_err(|denial| denial.refusal())
}

/// The rights to open a file, and how each is asked for by itself.
const OPENING: [(Right, Access); 4] = [
    (Right::Read, Access::READ),
    (Right::Write, Access::WRITE),
    (Right::Append, Access::APPEND),
    (Right::Create, Access::CREATE_NEW),
];

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

const DENIED: Result<(), Refusal> = Err(Refusal { reason: Reason::Denied, errno: libc::EACCES });
const NO_PATH: Result<(), Refusal> = Err(Refusal { reason: Reason::Path, errno: libc::EACCES });
const TOO_LONG: Result<(), Refusal> = Err(Refusal { reason: Reason::Path, errno: libc::ENAMETOOLONG });

/// M-01: a tree ends where its name ends: a sibling whose name begins with it is outside.
#[test]
fn m_01_a_tree_is_not_a_prefix() {
    let (_keep, root) = directory();
    for name in ["tmp", "tmp_good_but_bad", "tm", "tmp.d"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
    }
    let (_service, client) = client(build(Rule::beneath(root.join("tmp")).read()).unwrap());
    assert!(client.read(root.join("tmp/file")).is_ok());
    for outside in ["tmp_good_but_bad/file", "tm/file", "tmp.d/file", "tmp", "tmpfile", "file"] {
        let refusal = client.read(root.join(outside)).unwrap_err().refusal();
        assert_eq!(refusal.map(|refusal| refusal.reason), Some(Reason::Denied), "{outside}");
    }
}

/// M-02: names that begin alike are not mistaken for one another, by a rule for one of them or for all.
#[test]
fn m_02_names_that_begin_alike_are_told_apart() {
    let (_keep, root) = directory();
    let names = ["mbog", "mbogo", "mboga", "mbogos"];
    for name in names {
        fs::write(root.join(name), name).unwrap();
    }
    let (_service, one) = client(build(Rule::file(root.join("mbogo")).read()).unwrap());
    for name in names {
        assert_eq!(one.read(root.join(name)).is_ok(), name == "mbogo", "{name}");
    }
    let rules = names.iter().fold(Policy::builder(), |rules, name| rules.allow(Rule::file(root.join(name)).read()));
    let (_service, all) = client(rules.build().unwrap());
    for name in names {
        assert_eq!(std::io::read_to_string(all.read(root.join(name)).unwrap()).unwrap(), name);
    }
}

/// The spellings that are no path, by what is wrong with each.
const NO_PATHS: [(&str, PathError); 16] = [
    ("", PathError::Empty),
    ("etc", PathError::Relative),
    ("./etc", PathError::Relative),
    ("../etc", PathError::Relative),
    ("/", PathError::TrailingSlash),
    ("/etc/", PathError::TrailingSlash),
    ("//", PathError::TrailingSlash),
    ("//etc", PathError::EmptyComponent),
    ("/etc//hostname", PathError::EmptyComponent),
    ("/.", PathError::Dots),
    ("/..", PathError::Dots),
    ("/../etc", PathError::Dots),
    ("/etc/../etc", PathError::Dots),
    ("/etc/..", PathError::Dots),
    ("/etc/./hostname", PathError::Dots),
    ("/etc\0/hostname", PathError::Nul),
];

/// M-03: a rule whose path is not absolute and plain fails when the policy is built, and says what is wrong.
#[test]
fn m_03_rules_are_absolute_and_plain() {
    for (path, wrong) in NO_PATHS {
        let rules =
            [Rule::from(Rule::file(path).read()), Rule::beneath(path).read().into(), Rule::scratch(path).into()];
        for rule in rules {
            match build(rule).unwrap_err() {
                PolicyError::Path { path: told, source, .. } => {
                    assert_eq!((told.as_os_str(), source), (path.as_ref(), wrong))
                }
                PolicyError::Unfit { .. } => {
                    assert_eq!(path, "/", "the whole tree has an error of its own")
                }
                other => panic!("{path:?}: {other}"),
            }
        }
    }
    let long = format!("/{}", "a".repeat(256));
    let built = build(Rule::file(long).read());
    assert!(matches!(built, Err(PolicyError::Path { source: PathError::TooLong, .. })), "{built:?}");
}

/// M-04, M-05: the same spellings in a request are refused, with an answer and before any rule is asked; names that
/// only look like `..` are names.
#[test]
fn m_04_m_05_requests_are_absolute_and_plain() {
    let (_keep, root) = directory();
    for name in ["..name", "...", ".name", "name..", " "] {
        fs::write(root.join(name), name).unwrap();
    }
    fs::write(root.join("file"), b"").unwrap();
    fs::create_dir(root.join("sub")).unwrap();
    let (_service, mut raw) = raw(build(Rule::beneath(&root).read()).unwrap());
    let mut read = |path: &[u8]| raw.ask(Ask::Open { access: Access::READ, path }).map(|fd| assert!(fd.is_some()));

    for (path, _) in NO_PATHS {
        assert_eq!(read(path.as_bytes()), NO_PATH, "{path:?}");
    }
    let root_text = root.to_str().unwrap();
    for tail in
        ["/../file", "/sub/../file", "/sub/..", "/./file", "//file", "/file/", "/file/.", "/", "/.", "/..", "/f\0"]
    {
        assert_eq!(read(format!("{root_text}{tail}").as_bytes()), NO_PATH, "{tail:?}");
    }
    for name in ["..name", "...", ".name", "name..", " ", "file"] {
        assert_eq!(read(bytes(&root.join(name))), Ok(()), "{name:?}");
    }
}

/// M-07: the most specific rule decides alone: it takes away as well as it gives, in whichever order rules are written.
#[test]
fn m_07_the_most_specific_rule_decides_alone() {
    let (_keep, root) = directory();
    fs::create_dir_all(root.join("logs/old")).unwrap();
    let rules = [
        Rule::from(Rule::beneath(&root).read().write()),
        Rule::beneath(root.join("logs")).append().into(),
        Rule::file(root.join("logs/secret")).create(0o600).into(),
        Rule::beneath(root.join("logs/old")).read().into(),
    ];
    let expected = [
        ("a", [true, true, false, false]),
        ("logs", [true, true, false, false]),
        ("logs/a", [false, false, true, false]),
        ("logs/secret", [false, false, false, true]),
        ("logs/secrets", [false, false, true, false]),
        ("logs/secret/a", [false, false, true, false]),
        ("logs/old", [false, false, true, false]),
        ("logs/old/a", [true, false, false, false]),
        ("logs/older", [false, false, true, false]),
        ("logs/old/deep/er", [true, false, false, false]),
        ("logbook", [true, true, false, false]),
    ];
    for turn in 0..rules.len() {
        let mut order = rules.clone();
        order.rotate_left(turn);
        for order in [order.clone(), {
            order.reverse();
            order
        }] {
            let policy = order.into_iter().fold(Policy::builder(), |policy, rule| policy.allow(rule)).build().unwrap();
            for (name, allowed) in expected {
                for ((right, _), allowed) in OPENING.into_iter().zip(allowed) {
                    let expected = if allowed { Ok(()) } else { DENIED };
                    assert_eq!(decide(&policy, right, bytes(&root.join(name))), expected, "{right} {name}");
                }
            }
        }
    }
}

/// M-07: two rules for one object are refused, whatever they grant; an exact rule and a tree of one name are two
/// objects.
#[test]
fn m_07_duplicates_are_refused() {
    let (_keep, root) = directory();
    let file = root.join("file");
    let address = "127.0.0.1:1".parse().unwrap();
    let pairs: [(Rule, Rule); 5] = [
        (Rule::file(&file).read().into(), Rule::file(&file).write().into()),
        (Rule::beneath(&root).read().into(), Rule::beneath(&root).read().into()),
        (Rule::scratch(&root).into(), Rule::scratch("/tmp").into()),
        (Rule::listen(address).into(), Rule::listen(address).reuse_port().into()),
        (Rule::connect(address).into(), Rule::connect(address).nonblocking().into()),
    ];
    for (one, other) in pairs {
        let built = Policy::builder().allow(one).allow(other).build();
        assert!(matches!(built, Err(PolicyError::Duplicate { .. })), "{built:?}");
    }
    let both = Policy::builder().allow(Rule::file(&root).read()).allow(Rule::beneath(&root).read());
    both.allow(Rule::listen(address)).allow(Rule::connect(address)).build().unwrap();
}

/// M-09: a request passes only by the right of its own verb: every single right against every verb.
#[test]
fn m_09_a_verb_passes_by_its_own_right_only() {
    let (_keep, root) = directory();
    let path = root.join("file");
    for set in 1..16u8 {
        let has = |right: Right| set & (1 << OPENING.iter().position(|(each, _)| *each == right).unwrap()) != 0;
        let add = |mut rule: fdbroker::policy::FileRule| {
            rule = if has(Right::Read) { rule.read() } else { rule };
            rule = if has(Right::Write) { rule.write() } else { rule };
            rule = if has(Right::Append) { rule.append() } else { rule };
            if has(Right::Create) { rule.create(0o600) } else { rule }
        };
        for rule in [add(Rule::file(&path)), add(Rule::beneath(&root))] {
            let policy = build(rule).unwrap();
            for (right, _) in OPENING {
                let expected = if has(right) { Ok(()) } else { DENIED };
                assert_eq!(decide(&policy, right, bytes(&path)), expected, "{right} of {set:04b}");
            }
        }
    }
}

/// M-09: what the policy has no rule for, of whichever kind, is refused.
#[test]
fn m_09_an_empty_policy_allows_nothing() {
    let policy = Policy::builder().build().unwrap();
    let address = "127.0.0.1:80".parse().unwrap();
    for (right, _) in OPENING {
        assert_eq!(decide(&policy, right, b"/etc/hostname"), DENIED);
    }
    let (stream, address) = (SocketType::Stream, Address::Ip(address));
    let path = b"/etc/hostname";
    let asks = [
        Ask::Hello,
        Ask::Ready,
        Ask::Open { access: Access::DIRECTORY, path },
        Ask::Scratch,
        Ask::List { path, from: 0 },
        Ask::Stat(path),
        Ask::Readlink(path),
        Ask::Mkdir(path),
        Ask::Unlink(path),
        Ask::Rmdir(path),
        Ask::Rename { from: path, to: path },
        Ask::Listen(stream, address),
        Ask::Listen(stream, Address::Path(path)),
        Ask::Listen(stream, Address::Abstract(path)),
        Ask::Bind(address),
        Ask::Bind(Address::Path(path)),
        Ask::Connect(stream, address),
        Ask::Connect(SocketType::Datagram, address),
        Ask::Connect(SocketType::SeqPacket, Address::Path(path)),
        Ask::Connect(stream, Address::Abstract(path)),
        Ask::ConnectName { socket: stream, host: b"localhost", port: 80 },
        Ask::Call { service: b"pty", rights: Right::Read.into(), bytes: b"" },
    ];
    for ask in asks {
        let denied = policy.decide(&ask).unwrap_err();
        assert_eq!(
            (Err(denied.refusal()), denied.why(), denied.rule().is_none()),
            (DENIED, Why::NoRule, true),
            "{ask}"
        );
    }
}

/// M-10: workers of one broker have each their own policy.
#[test]
fn m_10_workers_do_not_share_rules() {
    let (_keep, root) = directory();
    let (mine, yours) = (root.join("mine"), root.join("yours"));
    fs::write(&mine, b"mine").unwrap();
    fs::write(&yours, b"yours").unwrap();
    let broker = Broker::new();
    let (_one, me) = client_of(&broker, build(Rule::file(&mine).read()).unwrap());
    let (_other, you) = client_of(&broker, build(Rule::file(&yours).read()).unwrap());
    for _ in 0..100 {
        assert!(me.read(&mine).is_ok() && you.read(&yours).is_ok());
        for stolen in [me.read(&yours), you.read(&mine)] {
            assert_eq!(stolen.unwrap_err().refusal().unwrap().reason, Reason::Denied);
        }
    }
}

/// M-13: a path is bytes: names that are not UTF-8 work in rules and requests, and none is taken for another.
#[test]
fn m_13_paths_are_bytes() {
    let (_keep, root) = directory();
    let names =
        [&b"\xff\xfe"[..], b"\x80", b"caf\xe9", "caf\u{e9}".as_bytes(), "\u{fffd}".as_bytes(), b"new\nline", b"\x01"];
    for name in names {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let (_service, tree) = client(build(Rule::beneath(&root).read()).unwrap());
    for name in names {
        let path = root.join(OsStr::from_bytes(name));
        let expected = identity(fs::File::open(&path).unwrap());
        assert_eq!(identity(tree.read(&path).unwrap()), expected);
        let (_service, exact) = client(build(Rule::file(&path).read()).unwrap());
        for other in names {
            let read = exact.read(root.join(OsStr::from_bytes(other)));
            assert_eq!(read.is_ok(), other == name, "{}", other.escape_ascii());
        }
        assert_eq!(identity(exact.read(&path).unwrap()), expected);
    }
}

/// M-14: what is longer than the kernel takes is ENAMETOOLONG, at the limits exactly, and never the file that a shorter
/// path names.
#[test]
fn m_14_long_paths_are_not_cut() {
    let (_keep, root) = directory();
    let longest = "n".repeat(255);
    fs::write(root.join(&longest), b"").unwrap();
    let policy = build(Rule::beneath(&root).read()).unwrap();
    let child = |name: &str| [bytes(&root), b"/", name.as_bytes()].concat();
    assert_eq!(decide(&policy, Right::Read, &child(&"n".repeat(256))), TOO_LONG);

    let (_service, mut raw) = raw(policy);
    let mut read = |path: &[u8]| raw.ask(Ask::Open { access: Access::READ, path });
    assert!(read(&child(&longest)).unwrap().is_some());
    assert_eq!(read(&child(&"n".repeat(256))).map(drop), TOO_LONG);

    // Of 4,095 bytes a path can be; the kernel is asked, and finds nothing.
    let mut path = bytes(&root).to_vec();
    while path.len() < 4095 {
        let room = 4095 - path.len() - 1;
        path.push(b'/');
        // The last component must not be empty.
        let name = if room == 255 + 1 { 200 } else { room.min(255) };
        path.extend(std::iter::repeat_n(b'd', name));
    }
    assert_eq!(path.len(), 4095);
    let absent = Err(Refusal { reason: Reason::Failed, errno: libc::ENOENT });
    assert_eq!(read(&path).map(drop), absent);
    path.push(b'd');
    assert_eq!(read(&path).map(drop), TOO_LONG);
    path.resize(60_000, b'd');
    assert_eq!(read(&path).map(drop), TOO_LONG);
    // A request names a file by all its bytes or not at all.
    let padded = [&child(&longest)[..], b"/", &b"x/".repeat(2000)].concat();
    assert_eq!(read(&padded).map(drop), TOO_LONG);
}

/// M-03: what no rule can mean is refused when the policy is built, and the error says what to write instead.
#[test]
fn m_03_rules_that_mean_too_much_or_nothing() {
    let (_keep, root) = directory();
    let file = root.join("file");
    fs::write(&file, b"").unwrap();
    symlink("file", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("/proc", root.join("proc")).unwrap();

    let no_right = [Rule::from(Rule::file(&file)), Rule::beneath(&root).into()];
    for rule in no_right {
        let built = build(rule);
        assert!(matches!(built, Err(PolicyError::NoRight { .. })), "{built:?}");
    }
    let unfit = [
        Rule::from(Rule::beneath("/").read()),
        Rule::beneath("/proc").read().into(),
        Rule::beneath("/proc/self").read().into(),
        Rule::beneath("/proc/sys/kernel").read().into(),
        Rule::beneath("/dev/fd").read().into(),
        Rule::beneath(root.join("proc")).read().into(),
        Rule::file(root.join("link")).read().into(),
        Rule::file(root.join("dangling")).create(0o600).into(),
        Rule::file("/proc/self/exe").read().into(),
        Rule::file("/proc/self/cwd").read().into(),
        Rule::file("/proc/self/fd/0").read().into(),
        // The broker's own memory.
        Rule::file("/proc/self/mem").read().into(),
        Rule::file("/proc/thread-self/environ").read().into(),
        Rule::file(format!("/proc/{}/maps", std::process::id())).read().into(),
    ];
    for rule in unfit {
        let text = format!("{rule:?}");
        let built = build(rule);
        assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{text}: {built:?}");
    }
    for errno in [0, -1, -libc::EACCES, 4096, i32::MIN, i32::MAX] {
        let built = Policy::builder().refuse_with(errno).build();
        assert!(matches!(built, Err(PolicyError::Errno(told)) if told == errno), "{built:?}");
    }
    // A directory that is not there, or is none.
    let missing = [
        Rule::from(Rule::beneath(root.join("absent")).read()),
        Rule::beneath(&file).read().into(),
        Rule::file(root.join("absent/file")).read().into(),
        Rule::scratch(root.join("absent")).into(),
        Rule::scratch(&file).into(),
    ];
    for rule in missing {
        let built = build(rule);
        assert!(matches!(built, Err(PolicyError::Open { .. })), "{built:?}");
    }
}

/// M-07: each of 400 rules, at depths from 1 to 7, is found by what it matches and by nothing else.
#[test]
fn m_07_every_one_of_many_rules_is_found() {
    let (_keep, root) = directory();
    if nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().0 < 600 {
        eprintln!("SKIPPED M-07 with many rules: each holds a descriptor, and this process may have too few");
        return;
    }
    let mut builder = Policy::builder();
    for number in 0..200 {
        let tree = root.join(format!("tree{number}/{}", "deep/".repeat(number % 7))).components().collect::<PathBuf>();
        fs::create_dir_all(&tree).unwrap();
        builder = builder.allow(Rule::beneath(&tree).read());
        builder = builder.allow(Rule::file(tree.join("exact")).append());
    }
    let policy = builder.build().unwrap();
    for number in 0..200 {
        let tree = root.join(format!("tree{number}/{}", "deep/".repeat(number % 7))).components().collect::<PathBuf>();
        assert_eq!(decide(&policy, Right::Read, bytes(&tree.join("a/b/c"))), Ok(()));
        assert_eq!(decide(&policy, Right::Read, bytes(&tree.join("exact"))), DENIED);
        assert_eq!(decide(&policy, Right::Append, bytes(&tree.join("exact"))), Ok(()));
        assert_eq!(decide(&policy, Right::Append, bytes(&tree.join("exactly"))), DENIED);
        assert_eq!(decide(&policy, Right::Read, bytes(&tree)), DENIED);
    }
}

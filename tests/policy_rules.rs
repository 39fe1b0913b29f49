//! Proves what rules that deny do, what patterns match, which verb passes by which right, and that rules which cannot
//! stand beside one another are refused with both places named.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::directory;
use common::served::client;
use fdbroker::policy::{FileRule, Narrowing, Network, Place, Standing, Why};
use fdbroker::wire::{Access, Address, Ask, Reason, Right, Rights, SocketType};
use fdbroker::{Policy, PolicyError, Rule};

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Every order of some rules.
fn orders<T: Clone>(rules: &[T]) -> Vec<Vec<T>> {
    if rules.is_empty() {
        return vec![vec![]];
    }
    let with_first = |first: usize| {
        let mut rest = rules.to_vec();
        let first = rest.remove(first);
        orders(&rest).into_iter().map(move |rest| [vec![first.clone()], rest].concat())
    };
    (0..rules.len()).flat_map(with_first).collect()
}

/// M-06: what a rule denies inside an allowed tree is refused, in every order of the rules, by a deny of a file, a tree
/// or a pattern, and although more specific rules allow it; what lies beside it is granted.
#[test]
fn m_06_a_denial_inside_an_allowed_tree_wins_in_every_order() {
    let (_keep, root) = directory();
    for inside in ["keys/deep", "keysmith", "web"] {
        fs::create_dir_all(root.join(inside)).unwrap();
    }
    let files = ["keys/a", "keys/deep/b", "keysmith/c", "web/x.key", "web/x.html", "secret", "secrets"];
    files.iter().for_each(|file| fs::write(root.join(file), file).unwrap());
    let rules: Vec<(bool, Rule)> = vec![
        (true, Rule::beneath(&root).read().list().into()),
        (true, Rule::glob(root.join("**/deep/*")).read().into()),
        (false, Rule::beneath(root.join("keys")).into()),
        (false, Rule::glob(root.join("**/*.key")).into()),
        (false, Rule::file(root.join("secret")).into()),
    ];
    for order in orders(&rules) {
        let add = |policy: fdbroker::policy::PolicyBuilder, (allows, rule): (bool, Rule)| {
            if allows { policy.allow(rule) } else { policy.deny(rule) }
        };
        let (_service, client) = client(order.into_iter().fold(Policy::builder(), add).build().unwrap());
        for file in files {
            let allowed = ["keysmith/c", "web/x.html", "secrets"].contains(&file);
            match client.read(root.join(file)) {
                Ok(granted) => assert_eq!((allowed, std::io::read_to_string(granted).unwrap()), (true, file.into())),
                Err(error) => {
                    let reason = error.refusal().map(|refusal| refusal.reason);
                    assert_eq!((allowed, reason), (false, Some(Reason::Denied)), "{file}");
                }
            }
        }
        assert!(client.list(root.join("keys")).is_err());
        let listed: Vec<_> = client.list(&root).unwrap().into_iter().map(|entry| entry.name).collect();
        assert!(!listed.iter().any(|name| name == "secret" || name == "keys"), "{listed:?}");
        assert!(listed.iter().any(|name| name == "secrets"), "{listed:?}");
    }
}

/// M-06: so for networks: a denied network, or port, inside an allowed one, and an allowed one inside a denied one.
#[test]
fn m_06_a_denied_network_wins_in_every_order() {
    let network = |text: &str| text.parse::<Network>().unwrap();
    let rules: Vec<(bool, Rule)> = vec![
        (true, Rule::connect_within(network("10.0.0.0/8"), 1..=1000).into()),
        (true, Rule::connect_within(network("10.1.2.3/32"), 80..=443).into()),
        (false, Rule::connect_within(network("10.1.0.0/16"), 1..=100).into()),
        (true, Rule::listen_within(network("10.1.0.0/16"), 80).into()),
    ];
    let cells = [
        ("10.2.0.1:80", true),
        ("10.1.2.3:80", false),
        ("10.1.2.3:443", true),
        ("10.1.9.9:101", true),
        ("10.1.9.9:100", false),
    ];
    for order in orders(&rules) {
        let add = |policy: fdbroker::policy::PolicyBuilder, (allows, rule): (bool, Rule)| {
            if allows { policy.allow(rule) } else { policy.deny(rule) }
        };
        let policy = order.into_iter().fold(Policy::builder(), add).build().unwrap();
        for (address, allowed) in cells {
            let ask = Ask::Connect(SocketType::Stream, Address::Ip(address.parse().unwrap()));
            assert_eq!(policy.decide(&ask).is_ok(), allowed, "{address}");
        }
        let ask = Ask::Listen(SocketType::Stream, Address::Ip("10.1.2.3:80".parse().unwrap()));
        assert!(policy.decide(&ask).is_ok(), "a denial is of one use");
    }
}

/// M-06: a socket on the unspecified address has every address of its family, and with dual stack those of IPv4 as
/// well; for port 0 the kernel may choose any: what is denied is not had that way, nor what the rule's ports leave out.
#[test]
fn m_06_no_address_and_no_port_lead_around_a_denied_network() {
    let network = |text: &str| text.parse::<Network>().unwrap();
    let any = |ports: std::ops::RangeInclusive<u16>| Rule::listen_within(network("0.0.0.0/0"), ports);
    let any6 = |ports: std::ops::RangeInclusive<u16>| Rule::listen_within(network("::/0"), ports);
    let local = || Rule::listen_within(network("127.0.0.0/8"), 8080);
    let cases: Vec<(Rule, Option<Rule>, &str, bool)> = vec![
        (any(1..=9000).into(), None, "0.0.0.0:8080", true),
        (any(1..=9000).into(), Some(local().into()), "0.0.0.0:8080", false),
        (any(1..=9000).into(), Some(local().into()), "0.0.0.0:8081", true),
        (any(1..=9000).into(), Some(local().into()), "192.0.2.1:8080", true),
        (any6(1..=9000).into(), Some(local().into()), "[::]:8080", true),
        (any6(1..=9000).dual_stack().into(), Some(local().into()), "[::]:8080", false),
        (any6(1..=9000).dual_stack().into(), Some(local().into()), "[::1]:8080", true),
        (any(0..=1023).into(), None, "127.0.0.1:0", false),
        (any(0..=65535).into(), None, "127.0.0.1:0", true),
        (any(0..=0).into(), None, "127.0.0.1:0", true),
        (any(0..=0).into(), Some(local().into()), "127.0.0.1:0", false),
        (any(0..=0).into(), Some(local().into()), "192.0.2.1:0", true),
        (any(0..=0).into(), Some(local().into()), "0.0.0.0:0", false),
        (Rule::listen("127.0.0.1:0".parse().unwrap()).into(), None, "127.0.0.1:0", true),
    ];
    for (allow, deny, address, granted) in cases {
        let text = format!("{allow:?} {deny:?} {address}");
        let policy = Policy::builder().allow(allow);
        let policy = deny.into_iter().fold(policy, |policy, rule| policy.deny(rule)).build().unwrap();
        let ask = Ask::Listen(SocketType::Stream, Address::Ip(address.parse().unwrap()));
        assert_eq!(policy.decide(&ask).is_ok(), granted, "{text}");
    }
}

/// N-06: the same for what is narrowed.
#[test]
fn n_06_no_address_and_no_port_lead_around_narrowed_networks() {
    let network = |text: &str| text.parse::<Network>().unwrap();
    let listen = |text: &str| Ask::Listen(SocketType::Stream, Address::Ip(text.parse().unwrap()));
    let rules = || Policy::builder().allow(Rule::listen_within(network("0.0.0.0/0"), 0..=65535));
    let standing =
        Standing::new(rules().allow(Rule::listen_within(network("::/0"), 1..=9000).dual_stack()).build().unwrap());
    for ask in [listen("127.0.0.1:0"), listen("0.0.0.0:80"), listen("[::]:80")] {
        standing.decide(&ask).map(drop).unwrap();
    }
    let kept = [(network("127.0.0.0/8"), (0..=1023).into()), (network("::/0"), (1..=9000).into())];
    standing.narrow(&Narrowing::new().listen(kept)).unwrap();
    for ask in [listen("127.0.0.1:0"), listen("0.0.0.0:80"), listen("[::]:80")] {
        assert_eq!(standing.decide(&ask).unwrap_err().why(), Why::Narrowed, "{ask}");
    }
    for ask in [listen("127.0.0.1:80"), listen("[::1]:80")] {
        standing.decide(&ask).map(drop).unwrap();
    }
}

/// M-06: what is denied by name is denied with all beneath it, by a rule for one name and by a pattern too.
#[test]
fn m_06_a_denied_name_is_denied_with_all_beneath_it() {
    let (_keep, root) = directory();
    let read = |policy: &Policy, name: &str| {
        let path = root.join(name);
        policy.decide(&Ask::Open { access: Access::READ, path: path.as_os_str().as_bytes() }).is_ok()
    };
    let denials: [Rule; 3] = [
        Rule::file(root.join("a/private")).into(),
        Rule::beneath(root.join("a/private")).into(),
        Rule::glob(root.join("*/priv*")).into(),
    ];
    for deny in denials {
        let text = format!("{deny:?}");
        let policy = Policy::builder().allow(Rule::beneath(&root).read()).deny(deny).build().unwrap();
        for name in ["a/private", "a/private/key", "a/private/deep/er"] {
            assert!(!read(&policy, name), "{text}: {name}");
        }
        for name in ["a/public", "private", "a", "a/xprivate/key"] {
            assert!(read(&policy, name), "{text}: {name}");
        }
    }
}

/// M-07: a rule that always holds, and is denied in one phase, is granted in the other; one that is denied in all is a
/// contradiction.
#[test]
fn m_07_what_one_phase_denies_another_grants() {
    let (_keep, root) = directory();
    let file = || Rule::file(root.join("file"));
    let policy = Policy::builder().allow(file().read());
    let one = policy.clone().phase("first", |phase| phase).phase("second", |phase| phase.deny(file()));
    let standing = Standing::new(one.build().unwrap());
    let path = root.join("file");
    let ask = Ask::Open { access: Access::READ, path: path.as_os_str().as_bytes() };
    assert!(standing.decide(&ask).is_ok());
    standing.enter("second").unwrap();
    assert_eq!(standing.decide(&ask).unwrap_err().why(), Why::PhaseOver);
    let both = policy.phase("first", |phase| phase.deny(file())).phase("second", |phase| phase.deny(file()));
    assert!(matches!(both.build(), Err(PolicyError::Contradiction { .. })));
}

/// D-02: what `mkdir_says_exists` tells is narrowed away with the path.
#[test]
fn d_02_what_exists_is_narrowed_away() {
    let (_keep, root) = directory();
    let policy = Policy::builder().allow(Rule::beneath(&root).mkdir(0o700)).mkdir_says_exists().build().unwrap();
    let above = root.parent().unwrap().as_os_str().as_bytes();
    let standing = Standing::new(policy);
    let refusal = |standing: &Standing| standing.decide(&Ask::Mkdir(above)).unwrap_err().refusal();
    assert_eq!(refusal(&standing).errno, libc::EEXIST);
    standing.narrow(&Narrowing::nothing()).unwrap();
    assert_eq!((refusal(&standing).reason, refusal(&standing).errno), (Reason::Denied, libc::EACCES));
}

/// M-07: an exact rule before a pattern, a pattern before a tree, the pattern with more bytes of its own, the nearest
/// tree: each decides alone, in every order, and is named.
#[test]
fn m_07_exact_before_pattern_before_tree() {
    let (_keep, root) = directory();
    fs::create_dir_all(root.join("a/b")).unwrap();
    let rules: Vec<FileRule> = vec![
        Rule::beneath(&root).read(),
        Rule::beneath(root.join("a")).write(),
        Rule::glob(root.join("**/log*")).append(),
        Rule::glob(root.join("a/*/log-*")).unlink(),
        Rule::file(root.join("a/b/log-1")).stat(),
    ];
    let cells = [
        ("x", "read"),
        ("a/x", "write"),
        ("a/b/x", "write"),
        ("log-1", "append"),
        ("a/log-1", "append"),
        ("a/b/log", "append"),
        ("a/b/log-2", "unlink"),
        ("a/b/log-1", "stat"),
        ("a/b/log-1/x", "write"),
    ];
    for order in orders(&rules) {
        let policy = order.into_iter().fold(Policy::builder(), |policy, rule| policy.allow(rule)).build().unwrap();
        for (name, word) in cells {
            let path = root.join(name);
            let asks = [
                ("read", Ask::Open { access: Access::READ, path: bytes(&path) }),
                ("write", Ask::Open { access: Access::WRITE, path: bytes(&path) }),
                ("append", Ask::Open { access: Access::APPEND, path: bytes(&path) }),
                ("unlink", Ask::Unlink(bytes(&path))),
                ("stat", Ask::Stat(bytes(&path))),
            ];
            for (verb, ask) in asks {
                let decided = policy.decide(&ask);
                let rule = match &decided {
                    Ok(permit) => permit.rule(),
                    Err(denial) => denial.rule(),
                };
                assert_eq!(decided.is_ok(), verb == word, "{verb} {name}");
                assert!(rule.unwrap().text().ends_with(&format!(": {word}")), "{verb} {name}: {}", rule.unwrap());
            }
        }
    }
}

/// The line of this file that a place names.
#[track_caller]
fn line(place: &Place) -> u32 {
    match place {
        Place::Code(location) if location.file() == file!() => location.line(),
        other => panic!("{other}"),
    }
}

/// M-07: two rules for one object, and a rule that another makes meaningless, are refused whichever comes first; the
/// error names both by file and line.
#[test]
fn m_07_rules_that_cannot_both_stand_are_named_with_their_places() {
    let (_keep, root) = directory();
    fs::create_dir(root.join("sub")).unwrap();
    let (file, sub) = (root.join("file"), root.join("sub"));
    let (address, network) = ("127.0.0.1:80".parse().unwrap(), "127.0.0.0/8".parse::<Network>().unwrap());
    // Whether each allows, and whether they are duplicates. Each rule has a line of its own.
    type Effect = (bool, Rule);
    let pairs: Vec<(Effect, Effect, bool)> = vec![
        (
            (true, Rule::file(&file).read().into()), //
            (true, Rule::file(&file).write().into()),
            true,
        ),
        (
            (false, Rule::beneath(&sub).into()), //
            (false, Rule::beneath(&sub).into()),
            true,
        ),
        (
            (true, Rule::glob(root.join("*.c")).read().into()), //
            (true, Rule::glob(root.join("*.c")).stat().into()),
            true,
        ),
        (
            (true, Rule::connect_within(network, 1..=80).into()),
            (true, Rule::connect_within(network, 80..=90).into()),
            true,
        ),
        (
            (true, Rule::listen(address).into()), //
            (true, Rule::listen(address).reuse_port().into()),
            true,
        ),
        (
            (true, Rule::connect_name("example.org", 1..=80).into()), //
            (true, Rule::connect_name("Example.ORG", 80).into()),
            true,
        ),
        (
            (true, Rule::service("sign").into()), //
            (true, Rule::service("sign").grant(Right::Read).into()),
            true,
        ),
        (
            (true, Rule::scratch(&root).into()), //
            (true, Rule::scratch(&sub).into()),
            true,
        ),
        (
            (true, Rule::listen_abstract("name").into()), //
            (false, Rule::listen_abstract("name").into()),
            false,
        ),
        (
            (true, Rule::service("sign").into()), //
            (false, Rule::service("sign").into()),
            false,
        ),
        (
            (true, Rule::connect_name("example.org", 80).into()), //
            (false, Rule::connect_name("example.org", 1..=100).into()),
            false,
        ),
        (
            (true, Rule::file(&file).read().into()), //
            (false, Rule::file(&file).into()),
            false,
        ),
        (
            (true, Rule::file(&file).read().into()), //
            (false, Rule::glob(root.join("f*")).into()),
            false,
        ),
        (
            (true, Rule::beneath(&sub).read().into()), //
            (false, Rule::beneath(&root).into()),
            false,
        ),
        (
            (true, Rule::glob(sub.join("*")).read().into()), //
            (false, Rule::beneath(&sub).into()),
            false,
        ),
        (
            (true, Rule::beneath(&root).read().follow_links_within().into()),
            (false, Rule::file(sub.join("x")).into()),
            false,
        ),
        (
            (true, Rule::beneath(&root).directory_escape().into()), //
            (true, Rule::beneath(&sub).read().into()),
            false,
        ),
    ];
    for (n, (one, other, duplicate)) in pairs.into_iter().enumerate() {
        let places = [line(one.1.place()), line(other.1.place())];
        assert_ne!(places[0], places[1]);
        for order in [[one.clone(), other.clone()], [other, one]] {
            let (second, allows_both) = (line(order[1].1.place()), order[0].0 && order[1].0);
            let add = |policy: fdbroker::policy::PolicyBuilder, (allows, rule): (bool, Rule)| {
                if allows { policy.allow(rule) } else { policy.deny(rule) }
            };
            let error = order.into_iter().fold(Policy::builder(), add).build().unwrap_err();
            let mut named = match &error {
                PolicyError::Duplicate { place, first, .. } if duplicate => {
                    assert_eq!(line(place), second, "the second one is the surplus one");
                    [line(place), line(first)]
                }
                PolicyError::Contradiction { place, other, .. } if !duplicate => [line(place), line(other)],
                other => panic!("{n}, both allow: {allows_both}: {other}"),
            };
            named.sort_unstable();
            assert_eq!(named, places, "{n}: {error}");
            for line in places {
                assert!(error.to_string().contains(&format!("{}:{line}:", file!())), "{error}");
            }
        }
    }
}

/// M-09: every verb about files against every right, alone and as all but one: it passes exactly if its own is there.
#[test]
fn m_09_every_verb_passes_by_its_own_right() {
    let (_keep, root) = directory();
    fs::create_dir(root.join("sub")).unwrap();
    let path = root.join("sub");
    let path = bytes(&path);
    let open = |access| Ask::Open { access, path };
    let there = Address::Path(path);
    let verbs: Vec<(Ask<'_>, Rights)> = vec![
        (open(Access::READ), Right::Read.into()),
        (open(Access::WRITE), Right::Write.into()),
        (open(Access::APPEND), Right::Append.into()),
        (open(Access::READ | Access::WRITE), [Right::Read, Right::Write].into()),
        (open(Access::READ | Access::APPEND), [Right::Read, Right::Append].into()),
        (open(Access::WRITE | Access::TRUNCATE), [Right::Write, Right::Truncate].into()),
        (open(Access::CREATE_NEW), Right::Create.into()),
        (open(Access::CREATE_NEW | Access::READ), [Right::Create, Right::Read].into()),
        (open(Access::APPEND | Access::CREATE), [Right::Create, Right::Append].into()),
        (
            open(Access::WRITE | Access::CREATE | Access::TRUNCATE),
            [Right::Write, Right::Create, Right::Truncate].into(),
        ),
        (open(Access::DIRECTORY), Right::Directory.into()),
        (Ask::List { path, from: 0 }, Right::List.into()),
        (Ask::Stat(path), Right::Stat.into()),
        (Ask::Readlink(path), Right::Readlink.into()),
        (Ask::Mkdir(path), Right::Mkdir.into()),
        (Ask::Unlink(path), Right::Unlink.into()),
        (Ask::Rmdir(path), Right::Rmdir.into()),
        (Ask::Rename { from: path, to: path }, Right::Rename.into()),
        (Ask::Listen(SocketType::Stream, there), Right::Listen.into()),
        (Ask::Bind(there), Right::Bind.into()),
        (Ask::Connect(SocketType::Datagram, there), Right::Connect.into()),
    ];
    let every: Vec<Right> =
        Right::ALL.into_iter().filter(|right| !matches!(right, Right::Scratch | Right::Call)).collect();
    let all: Rights = every.iter().copied().collect();
    let sets = every.iter().flat_map(|right| [Rights::from(*right), all.without((*right).into())]).chain([all]);
    for set in sets {
        let rule = |rule: FileRule| {
            let rule = rule.grant(set.without(Rights::from([Right::Listen, Right::Connect])));
            let rule = if set.contains(Right::Listen) { rule.listen([SocketType::Stream], 0o600) } else { rule };
            if set.contains(Right::Connect) { rule.connect([SocketType::Datagram]) } else { rule }
        };
        for rule in [rule(Rule::file(root.join("sub"))), rule(Rule::beneath(&root)), rule(Rule::glob(root.join("s?b")))]
        {
            let policy = Policy::builder().allow(rule).build().unwrap();
            for (ask, needs) in &verbs {
                let decided = policy.decide(ask).map(drop);
                assert_eq!(decided.is_ok(), set.contains_all(*needs), "{ask} by {set}");
                let missing = decided.err().map(|denial| (denial.refusal().reason, denial.why()));
                let expected = (Reason::Denied, Why::Lacks(needs.without(set)));
                assert!(missing.is_none_or(|missing| missing == expected), "{ask} by {set}: {missing:?}");
            }
        }
    }
}

/// M-09: what the bits of an access mean is a closed set: all 65,536 by the rule that grants everything, and no other
/// than the 18 that say something is granted, each with O_NONBLOCK or without.
#[test]
fn m_09_of_all_accesses_those_that_mean_something_are_granted() {
    let (_keep, root) = directory();
    let every = Rights::ALL.without(Rights::from([Right::Scratch, Right::Call, Right::Listen, Right::Connect]));
    let policy = Policy::builder().allow(Rule::beneath(&root).grant(every)).build().unwrap();
    let path = root.join("any");
    let granted = |bits| policy.decide(&Ask::Open { access: Access::from_bits(bits), path: bytes(&path) });
    let mut count = 0;
    for bits in 0..=u16::MAX {
        match granted(bits) {
            Ok(_) => count += 1,
            Err(denial) => {
                let refusal = denial.refusal();
                assert_eq!((refusal.reason, refusal.errno), (Reason::Impossible, libc::EINVAL), "{bits:#x}");
            }
        }
    }
    // Five ways to read and write; two of them truncate, also what may not be there; four create, or create anew;
    // and the directory.
    assert_eq!(count, 2 * (5 + 2 * 2 + 4 * 2 + 1));
}

/// M-12: a pattern matches the whole path or nothing of it: not its beginning, not its end, and no line of it.
#[test]
fn m_12_patterns_are_anchored_at_both_ends() {
    let (_keep, root) = directory();
    fs::create_dir_all(root.join("logs")).unwrap();
    let table: [(&str, &[&str], &[&str]); 7] = [
        (
            "logs/*.log",
            &["logs/a.log", "logs/.log", "logs/a\nb.log"],
            &[
                "logs/a.log.gz",
                "logs/a.log\nx",
                "logs/a.logs",
                "logs/a/b.log",
                "x/logs/a.log",
                "logs/a.log/b",
                "logs",
                "logs/a.lo",
                "alogs/a.log",
            ],
        ),
        ("logs/a?", &["logs/ab", "logs/a?", "logs/a*"], &["logs/a", "logs/abc", "logs/a/", "logs/a/b", "logs/xab"]),
        ("logs/?", &["logs/a"], &["logs/", "logs/ab", "logs", "logs/é"]),
        ("logs/**", &["logs/a", "logs/a/b", "logs/a/b/c"], &["logsx", "logs.d/a", "xlogs/a"]),
        ("**/x", &["x", "a/x", "a/b/x"], &["xx", "x/y", "a/xx", "ax"]),
        (
            "logs/**/x/*.c",
            &["logs/x/a.c", "logs/a/b/x/a.c"],
            &["logs/a.c", "logs/x/a/b.c", "logs/x/a.cc", "logs/ax/a.c"],
        ),
        ("logs/[ab]*", &["logs/[ab]", "logs/[ab]c"], &["logs/a", "logs/b", "logs/ab"]),
    ];
    for (pattern, inside, outside) in table {
        let policy = Policy::builder().allow(Rule::glob(root.join(pattern)).read()).build().unwrap();
        let decide = |name: &str| {
            let path = [bytes(&root), b"/", name.as_bytes()].concat();
            policy.decide(&Ask::Open { access: Access::READ, path: &path }).map(drop).is_ok()
        };
        inside.iter().for_each(|name| assert!(decide(name), "{pattern} is about {name:?}"));
        outside.iter().for_each(|name| assert!(!decide(name), "{pattern} is not about {name:?}"));
    }
    // The directory itself is among what `**` matches, as a tree's is among it.
    let policy = Policy::builder().allow(Rule::glob(root.join("logs/**")).read().list().stat()).build().unwrap();
    let (logs, beside) = (root.join("logs"), root.join("logs.d"));
    assert!(policy.decide(&Ask::List { path: bytes(&logs), from: 0 }).is_ok());
    assert!(policy.decide(&Ask::Stat(bytes(&logs))).is_ok());
    assert!(policy.decide(&Ask::Stat(bytes(&beside))).is_err());
    assert!(policy.decide(&Ask::Open { access: Access::READ, path: bytes(&logs) }).is_err());
    let (_service, client) = client(policy);
    assert_eq!(client.list(&logs).unwrap().len(), 0);
    assert!(client.stat(&logs).is_ok());
}

/// M-13: in patterns and denials, too, names are bytes: `?` is one byte, and what is no UTF-8 is matched by itself
/// alone.
#[test]
fn m_13_patterns_and_denials_are_of_bytes() {
    let (_keep, root) = directory();
    let name = |name: &[u8]| root.join(OsStr::from_bytes(name));
    let policy = Policy::builder()
        .allow(Rule::glob(name(b"\xff?")).read())
        .allow(Rule::glob(name(b"caf??")).read())
        .deny(Rule::file(name(b"\xff\xfe")))
        .build()
        .unwrap();
    let cells: [(&[u8], bool); 8] = [
        (b"\xff\xfd", true),
        (b"\xffa", true),
        (b"\xff\xfe", false),
        (b"\xff", false),
        (b"\xfe\xfe", false),
        ("caf\u{e9}".as_bytes(), true),
        (b"caf\xe9", false),
        ("\u{fffd}\u{fffd}".as_bytes(), false),
    ];
    for (file, allowed) in cells {
        let path = name(file);
        let ask = Ask::Open { access: Access::READ, path: bytes(&path) };
        assert_eq!(policy.decide(&ask).is_ok(), allowed, "{}", file.escape_ascii());
    }
}

/// M-06: a denial cannot be led around by another name of the same place: where links in a rule's own path, or in the
/// denial's, make two names of it, the policy is not built, and both places are named. Where both write the same name,
/// or have nothing to do with one another, it is.
#[test]
fn m_06_links_in_a_rules_own_path_lead_around_no_denial() {
    let (_keep, root) = directory();
    fs::create_dir_all(root.join("real/secret")).unwrap();
    fs::create_dir_all(root.join("real/open")).unwrap();
    fs::create_dir(root.join("else")).unwrap();
    symlink("real", root.join("link")).unwrap();
    let at = |name: &str| root.join(name);
    let build = |allow: Rule, deny: Rule| Policy::builder().deny(deny).allow(allow).build();
    type Pair = (Rule, Rule);
    let around: [Pair; 9] = [
        (Rule::beneath(at("link")).read().into(), Rule::beneath(at("real/secret")).into()),
        (Rule::beneath(at("real")).read().into(), Rule::beneath(at("link/secret")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::file(at("real/key")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::beneath(at("real/absent/deep")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::glob(at("real/*.key")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::glob(at("r*/*.key")).into()),
        (Rule::file(at("link/key")).read().into(), Rule::file(at("real/key")).into()),
        (Rule::file(at("link/secret/key")).read().into(), Rule::beneath(at("real/secret")).into()),
        (Rule::glob(at("link/*/key")).read().into(), Rule::beneath(at("real/secret")).into()),
    ];
    for (allow, deny) in around {
        let text = format!("{allow:?} {deny:?}");
        match build(allow.clone(), deny.clone()).unwrap_err() {
            PolicyError::Contradiction { place, other, .. } => {
                assert_eq!((&place, &other), (allow.place(), deny.place()), "{text}");
            }
            error => panic!("{text}: {error}"),
        }
    }
    let apart: [Pair; 6] = [
        (Rule::beneath(at("link")).read().into(), Rule::beneath(at("link/secret")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::glob(at("link/*.key")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::file(at("link/absent/key")).into()),
        (Rule::beneath(at("link/open")).read().into(), Rule::beneath(at("real/secret")).into()),
        (Rule::beneath(at("link")).read().into(), Rule::beneath(at("else")).into()),
        (Rule::file(at("link/a")).read().into(), Rule::file(at("real/b")).into()),
    ];
    for (allow, deny) in apart {
        let text = format!("{allow:?} {deny:?}");
        build(allow, deny).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    // And what is denied by the name that both write is.
    let policy = build(Rule::beneath(at("link")).read().into(), Rule::beneath(at("link/secret")).into()).unwrap();
    let path = at("link/secret/key");
    let ask = Ask::Open { access: Access::READ, path: path.as_os_str().as_bytes() };
    assert_eq!(policy.decide(&ask).unwrap_err().why(), Why::Denied);
}

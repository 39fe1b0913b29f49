//! Proves that deciding takes no memory from the heap, whatever is asked and however many rules there are: an allocator
//! counts, thread by thread.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use common::directory;
use common::heap::{ASKED, Counting};
use fdbroker::policy::Standing;
use fdbroker::wire::{Access, Address, Ask, Right, Rights, SocketType};
use fdbroker::{Policy, Rule};

#[global_allocator]
static HEAP: Counting = Counting;

/// Ten thousand rules, of every kind, about few directories: each is a descriptor.
fn policy(root: &Path) -> Policy {
    let mut policy = Policy::builder().stat_leading_directories().mkdir_says_exists();
    for n in 0..1000u16 {
        let directory = root.join(format!("d{}", n % 50));
        fs::create_dir_all(&directory).unwrap();
        let [high, low] = n.to_be_bytes();
        policy = policy
            .allow(Rule::file(directory.join(format!("file-{n}"))).read().rename())
            .allow(Rule::file(directory.join(format!("once-{n}"))).read().once())
            .deny(Rule::file(directory.join(format!("denied-{n}"))))
            .allow(Rule::connect_within(format!("10.{high}.{low}.0/24").parse().unwrap(), 443))
            .deny(Rule::connect_within(format!("10.{high}.{low}.128/25").parse().unwrap(), 0..=u16::MAX))
            .allow(Rule::bind(SocketAddr::from(([127, 0, 0, 1], 1024 + n))))
            .allow(Rule::connect_name(format!("host-{n}.example.org"), 443))
            .allow(Rule::listen_abstract(format!("name-{n}")))
            .allow(Rule::service(format!("service-{n}")).grant(Right::Read));
        let every = Rights::ALL.without(Rights::from([Right::Scratch, Right::Call, Right::Directory]));
        policy = match n {
            0..50 => {
                let types = [SocketType::Stream, SocketType::SeqPacket];
                policy.allow(Rule::beneath(&directory).grant(every).connect(types).listen(types, 0o600))
            }
            50..800 => policy.allow(Rule::glob(directory.join(format!("**/log-{n}-*"))).append()),
            _ => policy.allow(Rule::file(directory.join(format!("other-{n}"))).write()),
        };
    }
    policy = policy.phase("early", |phase| phase.allow(Rule::file(root.join("early")).read()));
    policy.phase("late", |phase| phase.allow(Rule::scratch(root))).build().unwrap()
}

/// Deciding allocates nothing: for what is granted, denied, lacking, used up, of an earlier phase, impossible or no
/// path, in every verb.
#[test]
fn deciding_takes_nothing_from_the_heap() {
    let (_keep, root) = directory();
    let policy = policy(&root);
    assert!(policy.rules().len() >= 10_000);
    let (start, standing) = (Standing::new(policy), root.as_os_str().as_encoded_bytes());
    let path = |name: &str| [standing, b"/d7/", name.as_bytes()].concat();
    let (file, once, denied, log) = (path("file-7"), path("once-7"), path("denied-7"), path("x/y/log-57-z"));
    let (inside, long, early) = (path("any/thing"), path(&"x/".repeat(3000)), [standing, b"/early"].concat());
    let (own, above, outside) = (&path("")[..standing.len() + 3], &standing[..4], b"/nowhere/at/all");
    let ip = |text: &str| Address::Ip(text.parse().unwrap());
    let open = |access, path| Ask::Open { access, path };
    let (stream, datagram) = (SocketType::Stream, SocketType::Datagram);
    let host = |host| Ask::ConnectName { socket: stream, host, port: 443 };
    let call = |service, rights| Ask::Call { service, rights, bytes: b"bytes" };
    // Whether the first phase grants it, and the second.
    let asks: Vec<(Ask<'_>, bool, bool)> = vec![
        (open(Access::READ, &file), true, true),
        (open(Access::WRITE, &file), false, false),
        (open(Access::APPEND, &log), true, true),
        (open(Access::READ, &denied), false, false),
        (open(Access::CREATE_NEW, &inside), true, true),
        (open(Access::TRUNCATE, &inside), false, false),
        (open(Access::DIRECTORY, own), false, false),
        (open(Access::READ, &long), false, false),
        (open(Access::READ, b"relative"), false, false),
        (open(Access::READ, outside), false, false),
        (open(Access::READ, &early), true, false),
        (open(Access::READ, &once), true, false),
        (Ask::Scratch, false, true),
        (Ask::List { path: own, from: 0 }, true, true),
        (Ask::Stat(above), true, true),
        (Ask::Stat(outside), false, false),
        (Ask::Readlink(&inside), true, true),
        (Ask::Mkdir(&inside), true, true),
        (Ask::Mkdir(above), false, false),
        (Ask::Unlink(&inside), true, true),
        (Ask::Rmdir(&inside), true, true),
        (Ask::Rename { from: &file, to: &inside }, true, true),
        (Ask::Rename { from: &inside, to: &denied }, false, false),
        (Ask::Listen(stream, Address::Path(&inside)), true, true),
        (Ask::Listen(datagram, Address::Path(&inside)), false, false),
        (Ask::Bind(Address::Path(&inside)), true, true),
        (Ask::Connect(stream, Address::Path(&inside)), true, true),
        (Ask::Connect(datagram, Address::Path(&inside)), false, false),
        (Ask::Connect(stream, ip("10.0.7.1:443")), true, true),
        (Ask::Connect(stream, ip("10.0.7.129:443")), false, false),
        (Ask::Connect(stream, ip("[::ffff:10.0.7.1]:443")), false, false),
        (Ask::Bind(ip("127.0.0.1:1031")), true, true),
        (Ask::Bind(ip("[::1]:1031")), false, false),
        (Ask::Listen(stream, Address::Abstract(b"name-7")), true, true),
        (Ask::Connect(stream, Address::Abstract(b"name-7")), false, false),
        (host(b"HOST-7.example.org"), true, true),
        (host(b"host-7.example.net"), false, false),
        (call(b"service-7", Right::Read.into()), true, true),
        (call(b"service-7", Right::Write.into()), false, false),
        (call(b"no service", Rights::NONE), false, false),
        (Ask::Hello, false, false),
        (Ask::Ready, false, false),
    ];
    assert!(ASKED.get() > 0, "the policy did allocate, and it was counted");
    for (phase, standing) in [&start, &start].into_iter().enumerate() {
        for (ask, first, second) in &asks {
            let before = ASKED.get();
            for _ in 0..100 {
                let (initial, now) = (standing.policy().decide(ask).is_ok(), standing.decide(ask).is_ok());
                assert!(initial == *first && now == if phase == 0 { *first } else { *second }, "{ask}");
            }
            assert_eq!(ASKED.get() - before, 0, "allocations for 200 of: {ask}");
        }
        if phase == 0 {
            let permit = start.decide(&open(Access::READ, &once)).unwrap();
            permit.rules().for_each(|rule| start.use_up(rule));
            start.enter("late").unwrap();
        }
    }
}

//! Proves that the broker takes no memory from the heap for a request: an allocator that counts, thread by thread, is
//! asked from within the broker's own thread.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::num::NonZeroU32;
use std::path::Path;

use common::directory;
use common::heap::{ASKED, Counting};
use common::served::{Raw, ended, raw_of};
use fdbroker::wire::{Access, Address, Ask, Rights, SocketType};
use fdbroker::{Audit, Broker, JsonLines, Policy, Record, Rule};

#[global_allocator]
static HEAP: Counting = Counting;

fn file(access: Access, path: &Path) -> Ask<'_> {
    Ask::Open { access, path: path.as_os_str().as_encoded_bytes() }
}

/// A broker of which a worker can ask what its thread has asked of the heap so far.
fn counting(broker: Broker) -> Broker {
    broker.service("heap", |_, gift| gift.write(&ASKED.get().to_le_bytes()))
}

/// What a record costs is for the audit to say: this one looks at it, and keeps nothing.
struct Looks(Option<NonZeroU32>);

impl Audit for Looks {
    fn record(&self, record: &Record<'_>) {
        assert!(!record.worker.is_empty());
    }

    fn records_per_second(&self) -> Option<NonZeroU32> {
        self.0
    }
}

/// P-02: after its first requests the broker's thread allocates nothing: not for what is granted, not for what is
/// refused, and not for what fails; without an audit, with one that takes all records or a few of them, and with lines
/// of JSON.
#[test]
fn p_02_a_request_takes_nothing_from_the_brokers_heap() {
    with_each_audit();
}

/// P-02: nor where openat2 is not to be had, and each component is opened by itself.
#[test]
fn p_02_the_walk_takes_nothing_from_the_brokers_heap() {
    common::alone("p_02_the_walk_takes_nothing_from_the_brokers_heap", || {
        common::refuse(libc::SYS_openat2, &[], libc::ENOSYS);
        with_each_audit();
    });
}

fn with_each_audit() {
    let few = NonZeroU32::new(10);
    let lines = || JsonLines::new(File::options().write(true).open("/dev/null").unwrap());
    takes_nothing("no audit", Broker::new());
    takes_nothing("an audit", Broker::new().audit_to(Looks(None)));
    takes_nothing("an audit of few records", Broker::new().audit_to(Looks(few)));
    takes_nothing("lines of JSON", Broker::new().audit_to(lines().max_per_second(None)));
    takes_nothing("few lines of JSON", Broker::new().audit_to(lines().max_per_second(few)));
}

fn takes_nothing(audit: &str, broker: Broker) {
    let (_keep, root) = directory();
    let (path, absent, long) = (root.join("a/b/file"), root.join("a/absent"), root.join("x".repeat(5000)));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(&path, b"file").unwrap();
    std::os::unix::fs::symlink("file", root.join("link")).unwrap();
    let link = root.join("link");
    let any = "127.0.0.1:0".parse().unwrap();
    let tree = Rule::beneath(&root).read().write().append().create(0o600).stat().readlink().list();
    let rules = Policy::builder().allow(tree).allow(Rule::service("heap"));
    let policy = rules.allow(Rule::file("/etc/passwd").read()).allow(Rule::listen(any)).build().unwrap();
    let (service, mut raw) = raw_of(&counting(broker), policy);

    // The answer stands for everything before the call, the reply to the request before it too.
    let so_far = |raw: &mut Raw| {
        let said = raw.told(Ask::Call { service: b"heap", rights: Rights::NONE, bytes: b"" }).unwrap();
        u64::from_le_bytes(said.try_into().unwrap())
    };
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    let (name, link, directory) = (bytes(&path), bytes(&link), bytes(&root));
    let kinds: [(&str, Ask<'_>, bool); 13] = [
        ("read", file(Access::READ, &path), true),
        ("read by an exact rule", file(Access::READ, Path::new("/etc/passwd")), true),
        ("write", file(Access::WRITE, &path), true),
        ("append", file(Access::APPEND, &path), true),
        ("listen", Ask::Listen(SocketType::Stream, Address::Ip(any)), true),
        ("stat", Ask::Stat(&name), true),
        ("readlink", Ask::Readlink(&link), true),
        ("list", Ask::List { path: &directory, from: 0 }, true),
        ("create what exists", file(Access::CREATE_NEW, &path), false),
        ("read what is absent", file(Access::READ, &absent), false),
        ("read what is not listed", file(Access::READ, Path::new("/etc/shadow")), false),
        ("read what is no path", file(Access::READ, &long), false),
        ("scratch without a rule", Ask::Scratch, false),
    ];
    assert!(so_far(&mut raw) > 0, "starting a thread does allocate, and is counted");
    for (what, ask, granted) in kinds {
        answers(&mut raw, ask, granted);
        let before = so_far(&mut raw);
        (0..1000).for_each(|_| answers(&mut raw, ask, granted));
        assert_eq!(so_far(&mut raw) - before, 0, "allocations for 1,000 of: {what}, with {audit}");
    }
    drop(raw);
    ended(service).unwrap();
}

/// With or without a descriptor.
fn answers(raw: &mut Raw, ask: Ask<'_>, granted: bool) {
    let id = raw.send(ask);
    let reply = raw.reply().unwrap();
    assert_eq!((reply.id, reply.answer.is_ok()), (id, granted), "{ask}");
}

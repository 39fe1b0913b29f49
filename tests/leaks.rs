//! Proves that broker and worker keep no descriptor that nobody holds: after thousands of requests, and when there are
//! none left to be had.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::served::{PATIENCE, Raw, alone, client, ended, inherited, limit_descriptors, raw, start};
use common::{directory, open_fds};
use fdbroker::wire::{Access, Address, Ask, Reason, Refusal, SocketType};
use fdbroker::{Broker, ChannelError, Client, ClientError, Policy, Rule};
use nix::sys::stat::Mode;

/// A policy under which a request of every kind can be granted, refused and fail.
fn mixed(root: &Path, listen: SocketAddr, connect: SocketAddr) -> Policy {
    Policy::builder()
        .allow(Rule::beneath(root).read().write().append().create(0o600))
        .allow(Rule::scratch(root))
        .allow(Rule::listen(listen))
        .allow(Rule::connect(connect))
        .build()
        .unwrap()
}

/// Files of several kinds beneath `root`.
fn furnish(root: &Path) {
    fs::write(root.join("file"), b"file").unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    std::os::unix::fs::symlink("file", root.join("link")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
}

fn file(access: Access, path: &Path) -> Ask<'_> {
    Ask::Open { access, path: path.as_os_str().as_encoded_bytes() }
}

/// F-01, F-02: after 10,000 requests of every kind and end, with what was granted dropped unused, broker and client
/// have the descriptors that they began with.
#[test]
fn f_01_f_02_ten_thousand_requests_leave_no_descriptor() {
    if !alone("f_01_f_02_ten_thousand_requests_leave_no_descriptor") {
        return;
    }
    let (_keep, root) = directory();
    furnish(&root);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let baseline = open_fds();
    let (service, client) = client(mixed(&root, free, listener.local_addr().unwrap()));
    let new = root.join("new");
    let (mut granted, mut refused) = (0, 0);
    for number in 0..10_000 {
        let result = match number % 20 {
            0 | 1 => client.read(root.join("file")).map(drop),
            2 => client.write(root.join("file")).map(drop),
            3 => client.append(root.join("file")).map(drop),
            4 => {
                let created = client.create(&new).map(drop);
                fs::remove_file(&new).unwrap();
                created
            }
            5 => client.scratch().map(drop),
            6 => client.listen(free).map(drop),
            7 => {
                let connected = client.connect(listener.local_addr().unwrap()).map(drop);
                drop(listener.accept().unwrap());
                connected
            }
            8 => client.connect(closed).map(drop),
            9 => client.read(root.join("absent")).map(drop),
            10 => client.read(root.join("directory")).map(drop),
            11 => client.read(root.join("link")).map(drop),
            12 => client.read(root.join("fifo")).map(drop),
            13 => client.write(root.join("fifo")).map(drop),
            14 => client.create(root.join("file")).map(drop),
            15 => client.read("/etc/shadow").map(drop),
            16 => client.read("relative").map(drop),
            17 => client.read(root.join("a".repeat(300))).map(drop),
            18 => client.listen(closed).map(drop),
            _ => client.hello(),
        };
        *if result.is_ok() { &mut granted } else { &mut refused } += 1;
    }
    assert_eq!((granted, refused), (4_500, 5_500));
    // The broker has closed its copy of a descriptor by the time it answers the next request.
    client.hello().unwrap();
    assert_eq!(open_fds(), baseline + 3, "the directory of tree and scratch, and the channel's two ends");
    drop(client);
    ended(service).unwrap();
    assert_eq!(open_fds(), baseline);
}

/// F-02: replies that nobody received are closed with the channel, and those that nobody took with the next receive.
#[test]
fn f_02_replies_that_nobody_takes_are_closed() {
    if !alone("f_02_replies_that_nobody_takes_are_closed") {
        return;
    }
    let (_keep, root) = directory();
    furnish(&root);
    let path = root.join("file");
    let ask = file(Access::READ, &path);
    let any = "127.0.0.1:0".parse().unwrap();
    let baseline = open_fds();
    for _ in 0..50 {
        let (service, mut raw) = raw(mixed(&root, any, any));
        for _ in 0..20 {
            raw.send(ask);
        }
        // Received, and not taken out of the packet.
        let mut packet = fdbroker::Packet::new();
        for _ in 0..10 {
            raw.channel.recv(&mut packet).unwrap();
            assert_eq!(packet.fds().len(), 1);
        }
        drop(packet);
        drop(raw);
        ended(service).unwrap();
        assert_eq!(open_fds(), baseline);
    }
}

/// F-08: a worker whose descriptor table is full gets EMFILE, loses nothing but that one answer, and goes on when it
/// has room.
#[test]
fn f_08_a_worker_without_free_descriptors() {
    const NAME: &str = "f_08_a_worker_without_free_descriptors";
    if common::role().as_deref() == Some("worker") {
        return worker_without_descriptors();
    }
    let policy = Policy::builder().allow(Rule::file("/etc/passwd").read()).build().unwrap();
    let (mut worker, channel) = start(NAME, "worker");
    let service = Broker::new().serve("worker", channel, policy).unwrap();
    let status = worker.wait();
    assert!(status.success(), "{status}");
    ended(service).unwrap();
}

fn worker_without_descriptors() {
    let client = Client::new(inherited());
    client.read("/etc/passwd").unwrap();
    limit_descriptors(64);
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for round in 0..100 {
        let error = client.read("/etc/passwd").unwrap_err();
        let full = matches!(error, ClientError::Channel { source: ChannelError::DescriptorTableFull, .. });
        assert!(full, "round {round}: {error}");
        let error: io::Error = error.into();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        // Requests that need no descriptor are answered as ever.
        assert_eq!(client.read("/etc/shadow").unwrap_err().refusal().unwrap().reason, Reason::Denied);
        client.hello().unwrap();
    }
    // One place is free, and one descriptor takes it.
    hoard.pop();
    let file = client.read("/etc/passwd").unwrap();
    assert!(client.read("/etc/passwd").is_err());
    drop(file);
    let text = io::read_to_string(client.read("/etc/passwd").unwrap()).unwrap();
    assert_eq!(text, fs::read_to_string("/etc/passwd").unwrap());
    let held = hoard.len();
    drop(hoard);
    // The first table held 0, 1 and 2, the client's channel and what the test itself needs, and holds no more now.
    let again: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert_eq!(again.len(), held + 1, "as many places are free as there were");
}

/// F-07: a broker without free descriptors answers EMFILE, keeps nothing, and serves on when it has room.
#[test]
fn f_07_a_broker_without_free_descriptors() {
    if !alone("f_07_a_broker_without_free_descriptors") {
        return;
    }
    let (_keep, root) = directory();
    furnish(&root);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::bind(any).unwrap();
    let taken = listener.local_addr().unwrap();
    let (service, mut raw) = raw(mixed(&root, any, taken));
    let (path, new) = (root.join("file"), root.join("new"));
    let asks = [
        file(Access::READ, &path),
        file(Access::WRITE, &path),
        file(Access::APPEND, &path),
        file(Access::CREATE_NEW, &new),
        Ask::Scratch,
        Ask::Listen(SocketType::Stream, Address::Ip(any)),
        Ask::Connect(SocketType::Stream, Address::Ip(taken)),
    ];
    raw.ask(Ask::Hello).unwrap();
    let baseline = open_fds();
    limit_descriptors(100);
    for round in 0..20 {
        let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        for ask in asks {
            let refusal = raw.ask(ask).map(drop).unwrap_err();
            assert_eq!(refusal, Refusal { reason: Reason::Failed, errno: libc::EMFILE }, "round {round}: {ask}");
        }
        assert!(!new.exists());
        raw.ask(Ask::Hello).unwrap();
        drop(hoard);
        for ask in asks {
            assert!(raw.ask(ask).unwrap().is_some(), "round {round}: {ask}");
        }
        fs::remove_file(&new).unwrap();
        drop(listener.accept().unwrap());
        raw.ask(Ask::Hello).unwrap();
        assert_eq!(open_fds(), baseline);
    }
    drop(raw);
    ended(service).unwrap();
}

/// F-01: a service that is ended by a fault, at whichever point, leaves no descriptor and no thread.
#[test]
fn f_01_faults_leave_no_descriptor_and_no_thread() {
    if !alone("f_01_faults_leave_no_descriptor_and_no_thread") {
        return;
    }
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let tasks = threads();
    let (_keep, root) = directory();
    furnish(&root);
    let path = root.join("file");
    let ask = file(Access::READ, &path);
    let any = "127.0.0.1:0".parse().unwrap();
    let policy = Arc::new(mixed(&root, any, any));
    let broker = Broker::new();
    let serve = || common::served::raw_of(&broker, policy.clone());
    let end = |mut raw: Raw, service: fdbroker::Service| {
        raw.send(ask);
        raw.send_bytes(b"garbage").unwrap();
        let reply = raw.reply().unwrap();
        assert_eq!((reply.answer, reply.fd.is_some()), (Ok(vec![]), true));
        service.wait().unwrap_err();
    };
    let (service, first) = serve();
    end(first, service);
    let descriptors = open_fds();
    for _ in 0..500 {
        let (service, raw) = serve();
        end(raw, service);
    }
    assert_eq!(open_fds(), descriptors);
    // A thread that has been joined is listed for a moment longer.
    let late = Instant::now() + PATIENCE / 2;
    while threads() > tasks {
        assert!(Instant::now() < late, "{} threads, {tasks} before", threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}

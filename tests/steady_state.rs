//! Proves what a long-lived broker costs: no descriptor and no memory that grow with the number of requests, and a
//! handful of system calls for each.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::served::{PATIENCE, Raw, alone, inherited, raw_of, start, within};
use common::{directory, open_fds, resident_kib, role};
use fdbroker::wire::{Access, Address, Ask, Reason, SocketType};
use fdbroker::{Broker, Client, Fault, Policy, Rule};

/// P-02, F-01: 100,000 mixed requests, a third of them refused or malformed, leave the broker with the descriptors and
/// the resident memory that it had after the first 10,000.
#[test]
fn p_02_f_01_a_hundred_thousand_requests_cost_nothing_lasting() {
    if !alone("p_02_f_01_a_hundred_thousand_requests_cost_nothing_lasting") {
        return;
    }
    let (_keep, root) = directory();
    let office = Office::new(&root);
    let (service, mut raw) = raw_of(&office.broker, office.policy.clone());
    let mut tally = Tally::default();
    for number in 0..10_000 {
        office.request(&mut raw, number, &mut tally);
    }
    raw.ask(Ask::Hello).unwrap();
    let (descriptors, memory) = (open_fds(), resident_kib());
    tally = Tally::default();
    for number in 0..100_000 {
        office.request(&mut raw, number, &mut tally);
    }
    raw.ask(Ask::Hello).unwrap();
    let (after, grown) = (open_fds(), resident_kib());
    eprintln!(
        "100,000 requests ({tally:?}): {descriptors} descriptors, then {after}; {memory} KiB resident, then {grown}"
    );
    assert!(tally.refused + tally.malformed >= 33_333);
    assert_eq!(after, descriptors);
    assert!(grown <= memory + 512, "{memory} KiB resident before, {grown} after");
    drop(raw);
    service.wait().unwrap();
}

#[derive(Debug, Default)]
struct Tally {
    granted: u32,
    refused: u32,
    malformed: u32,
}

struct Office {
    broker: Broker,
    policy: Arc<Policy>,
    file: PathBuf,
    absent: PathBuf,
    directory: PathBuf,
    new: PathBuf,
    long: PathBuf,
}

impl Office {
    fn new(root: &Path) -> Self {
        fs::write(root.join("file"), b"file").unwrap();
        fs::create_dir(root.join("directory")).unwrap();
        let policy = Policy::builder()
            .allow(Rule::beneath(root).read().write().append().create(0o600))
            .allow(Rule::scratch(root))
            .allow(Rule::listen("127.0.0.1:0".parse().unwrap()));
        Self {
            broker: Broker::new(),
            policy: Arc::new(policy.build().unwrap()),
            file: root.join("file"),
            absent: root.join("absent"),
            directory: root.join("directory"),
            new: root.join("new"),
            long: root.join("x".repeat(5000)),
        }
    }

    /// The `number`th of a mixture that repeats: two granted, then one that is not.
    fn request(&self, raw: &mut Raw, number: u32, tally: &mut Tally) {
        if number % 300 == 299 {
            self.malformed(number);
            tally.malformed += 1;
            return;
        }
        let mut ask = |ask| raw.ask(ask).map(drop).map_err(|refusal| refusal.reason);
        let (expected, answer) = match number % 30 {
            0 => (Ok(()), ask(ask_for(Access::WRITE, &self.file))),
            1 => (Ok(()), ask(ask_for(Access::APPEND, &self.file))),
            3 => {
                let created = ask(ask_for(Access::CREATE_NEW, &self.new));
                fs::remove_file(&self.new).unwrap();
                (Ok(()), created)
            }
            4 => (Ok(()), ask(Ask::Scratch)),
            6 => (Ok(()), ask(Ask::Listen(SocketType::Stream, Address::Ip("127.0.0.1:0".parse().unwrap())))),
            7 => (Ok(()), ask(Ask::Hello)),
            2 | 20 => (Err(Reason::Failed), ask(ask_for(Access::READ, &self.absent))),
            5 | 23 => (Err(Reason::Denied), ask(ask_for(Access::READ, Path::new("/etc/passwd")))),
            8 => (Err(Reason::Kind), ask(ask_for(Access::READ, &self.directory))),
            11 => (Err(Reason::Path), ask(ask_for(Access::READ, &self.long))),
            14 => (Err(Reason::Path), ask(ask_for(Access::READ, Path::new("relative")))),
            17 => {
                (Err(Reason::Denied), ask(Ask::Listen(SocketType::Stream, Address::Ip("127.0.0.1:1".parse().unwrap()))))
            }
            26 => (
                Err(Reason::Denied),
                ask(Ask::Connect(SocketType::Stream, Address::Ip("127.0.0.1:1".parse().unwrap()))),
            ),
            29 => (Err(Reason::Failed), ask(ask_for(Access::CREATE_NEW, &self.file))),
            _ => (Ok(()), ask(ask_for(Access::READ, &self.file))),
        };
        assert_eq!(answer, expected, "request {number}");
        *if expected.is_ok() { &mut tally.granted } else { &mut tally.refused } += 1;
    }

    /// What is malformed costs its sender the channel, so it has one of its own.
    fn malformed(&self, number: u32) {
        let (service, raw) = raw_of(&self.broker, self.policy.clone());
        raw.send_bytes(&vec![b'f'; 1 + number as usize % 1000]).unwrap();
        assert!(matches!(service.wait(), Err(Fault::Malformed(_))));
    }
}

fn ask_for(access: Access, path: &Path) -> Ask<'_> {
    Ask::Open { access, path: path.as_os_str().as_encoded_bytes() }
}

/// Requests that are counted.
const COUNTED: usize = 100;

/// One allowed read in the steady state takes at most five system calls in the broker (receive, open, ask what it is,
/// send, close) and two in the worker (send, receive), as strace counts them in two processes.
#[test]
fn one_read_is_five_system_calls_of_the_broker_and_two_of_the_worker() {
    const NAME: &str = "one_read_is_five_system_calls_of_the_broker_and_two_of_the_worker";
    match role().as_deref() {
        Some("worker") => return worker(NAME),
        Some("broker") => return broker(),
        _ => {}
    }
    if !is_strace_usable() {
        eprintln!("SKIPPED the count of system calls: strace is missing, or may not trace here");
        return;
    }
    let (_keep, root) = directory();
    let path = root.join("file");
    fs::write(&path, b"file").unwrap();
    if fs::metadata(&path).unwrap().dev() != fs::metadata(&root).unwrap().dev() {
        eprintln!("SKIPPED the count of system calls: here files are on another device than their directory");
        return;
    }
    let log = root.join("log");
    let worker = common::rerun(NAME, "worker");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(&log).arg(worker.get_program()).args(worker.get_args());
    strace.env("FDBROKER_TEST_ROLE", "worker").env(FILE, &path).stdout(Stdio::null());
    let status = within(PATIENCE, &mut strace.spawn().unwrap());
    assert!(status.success(), "{status}");

    let log = fs::read_to_string(&log).unwrap();
    let (workers, brokers) = counts(&log);
    eprintln!("system calls for {COUNTED} reads: the worker's {workers:?}, the broker's {brokers:?}");
    // The file that the worker was given is the worker's to close, and no part of the request.
    let request: usize = workers.iter().filter(|(call, _)| **call != "close").map(|(_, count)| count).sum();
    assert_eq!(workers.get("close"), Some(&COUNTED));
    assert!(request <= 2 * COUNTED, "{workers:?}");
    assert_eq!(brokers.get("openat2"), Some(&COUNTED));
    // What the broker does after its last reply before the first marker, and does not after its last, is one close or
    // one receive: it can be on either side of a marker.
    let all: usize = brokers.values().sum();
    assert!(all <= 5 * COUNTED + 2, "{brokers:?}");
}

/// Names the file to the two processes.
const FILE: &str = "FDBROKER_TEST_FILE";

fn is_strace_usable() -> bool {
    let tried = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// A system call that nothing else here makes, to be found in the log.
fn marker() {
    let _ = nix::unistd::getpgid(None);
}

fn worker(name: &str) {
    let path = PathBuf::from(std::env::var_os(FILE).unwrap());
    let (mut broker, channel) = start(name, "broker");
    let client = Client::new(channel);
    for _ in 0..10 {
        client.read(&path).unwrap();
    }
    client.hello().unwrap();
    marker();
    for _ in 0..COUNTED {
        drop(client.read(&path).unwrap());
    }
    marker();
    drop(client);
    assert!(broker.wait().success());
}

fn broker() {
    let path = PathBuf::from(std::env::var_os(FILE).unwrap());
    let policy = Policy::builder().allow(Rule::beneath(path.parent().unwrap()).read()).build().unwrap();
    Broker::new().serve("worker", inherited(), policy).unwrap().wait().unwrap();
}

type Counts<'a> = BTreeMap<&'a str, usize>;

/// The system calls between the markers, by name: those of the thread that made the markers, and those of all others.
fn counts(log: &str) -> (Counts<'_>, Counts<'_>) {
    let (mut own, mut others) = (Counts::new(), Counts::new());
    let mut marked = None;
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        // In a debug build std asks of each descriptor whether it is open before it closes it.
        if cfg!(debug_assertions) && rest.contains("F_GETFD") {
            continue;
        }
        // A call that another thread's interrupts in the log has two lines; the first counts.
        let Some((call, _)) = rest.split_once('(').filter(|_| !rest.starts_with("<...")) else { continue };
        match (call, marked) {
            ("getpgid", None) => marked = Some(thread),
            ("getpgid", Some(_)) => return (own, others),
            (_, Some(marker)) => *if thread == marker { &mut own } else { &mut others }.entry(call).or_insert(0) += 1,
            (_, None) => {}
        }
    }
    panic!("the log has no two markers");
}

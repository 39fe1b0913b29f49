//! Each wall by itself: a root of its own without Landlock, and `lockdown` in a process that nobody has sandboxed.

use fdbroker::Layer;

use super::attempt::{List, Place};
use super::run::{Outcome, attempts, outcome};
use super::{answer, common, expected_of, kernel, landlock_is_whole, processes, programs, sockets};

/// What Landlock alone refuses to a worker with a root of its own: all of it is by what the starter gave it.
const BY_LANDLOCK_ALONE: [&str; 9] = [
    "open the root directory",
    "a held root: open a file",
    "a held root: through ..",
    "a held root: RESOLVE_IN_ROOT",
    "a held root: write",
    "a held root: list another",
    "write to a FIFO of its runtime",
    "K8: /proc by a held directory",
    "send to an abstract UNIX datagram socket",
];

/// B-02: a root of its own and the filter hold without Landlock, too, but for what is reached by a directory that was
/// given to the worker, and by abstract names.
#[test]
fn b_02_a_root_of_its_own_without_landlock() {
    let outcome = outcome(Place::WithoutLandlock);
    if !outcome.enforced.as_ref().is_some_and(|enforced| enforced.has(Layer::Root)) {
        eprintln!("SKIPPED b_02_a_root_of_its_own_without_landlock: no root of its own is to be had here");
        return;
    }
    let mut wrong = otherwise(&outcome, Place::WithoutLandlock);
    wrong.retain(|(name, errno)| *errno != 0 || !BY_LANDLOCK_ALONE.contains(name));
    // Before Linux 6.5 a channel tells no pidfd of its peer.
    wrong.retain(|(_, errno)| *errno != libc::ENOPROTOOPT || common::kernel() >= (6, 5));
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// B-12: `lockdown` in a process that fdbroker did not start refuses what it refuses in a worker.
#[test]
fn b_12_lockdown_of_a_plain_process() {
    for place in [Place::PlainComputes, Place::PlainServes] {
        let mut wrong = otherwise(&outcome(place), place);
        // It has no channel.
        wrong.retain(|(name, errno)| *errno != libc::ENOTSOCK && !of_its_starter(name));
        assert!(wrong.is_empty(), "{}: {wrong:?}", place.name());
    }
}

/// B-12: a plain process that spawns nothing opens files as before, but makes no process, and reaches into none: not by
/// the files of /proc either, with which another process of its user would spawn for it.
#[test]
fn b_12_a_plain_process_spawns_nothing() {
    if !landlock_is_whole() {
        eprintln!("SKIPPED b_12_a_plain_process_spawns_nothing: this kernel has no Landlock of ABI 6");
        return;
    }
    let mut list = List::default();
    sockets::add(&mut list);
    processes::add(&mut list);
    programs::add(&mut list);
    kernel::add(&mut list);
    let files = ["the parent's memory", "a process's memory, by /proc", "read a link of a process"];
    let through = ["through the parent's root", "through the parent's descriptors", "K8: through the parent"];
    let names: Vec<_> = list.0.iter().map(|attempt| attempt.name).chain(files).chain(through).collect();
    let outcome = outcome(Place::PlainSpawnsNothing);
    let mut wrong = otherwise(&outcome, Place::PlainSpawnsNothing);
    wrong.retain(|(name, _)| names.contains(name) && !of_its_starter(name));
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(outcome.answers["open to read"], 0, "files are as before");
}

/// What is no matter of `lockdown`: nobody has set limits, or taken the capability to raise them; and abstract names
/// are beyond a Landlock before ABI 6.
fn of_its_starter(name: &str) -> bool {
    let abstract_name = name == "send to an abstract UNIX datagram socket" && !landlock_is_whole();
    ["raise its own limit", "raise its own limit of cores"].contains(&name) || abstract_name
}

/// What the words allow, of all that does not work without them: nothing of it reaches anybody outside.
const BY_WORDS: [&str; 43] = [
    "take O_APPEND off",
    "take O_APPEND off, high bits",
    "ftruncate",
    "fallocate",
    // Of its owner's own files.
    "fchmod",
    "K8: fchmod",
    "futimens",
    "O_NONBLOCK on what the broker has as well",
    "O_ASYNC",
    "socket, TCP",
    "socket, UDP",
    "socket, UDP over IPv6",
    "socket, UNIX",
    "socket, UNIX datagram",
    "socket, UNIX seqpacket",
    "socket, netlink route",
    "socket, high bits",
    "pair, datagram",
    "pair, datagram, high bits",
    "pair, raw (the kernel makes it datagram)",
    "connect, UDP",
    "listen",
    "send to a UDP address, by sendto",
    "sendto, lower half of the address 0",
    // Of its own PID namespace.
    "signal process 1",
    "signal the process group",
    "signal the parent's group",
    "signal every process",
    "fork",
    "fork, high bits",
    "fork, without a signal",
    "fork, in its own memory",
    "fork, by fork(2)",
    "fork, by vfork(2)",
    "fork, from a thread",
    "setsid",
    "setpgid",
    "execute a file of its runtime",
    "execute the loader with a program",
    "execute what is in memory",
    "execute a descriptor, by /proc/self/fd",
    "execute itself again",
    "fork, by clone3(2)",
];

/// B-02: with every word of the filter, the other layers hold.
#[test]
fn b_02_with_every_word() {
    let place = Place::AllWords;
    let outcome = outcome(place);
    let enforced = outcome.enforced.as_ref().unwrap();
    let layers = [Layer::Root, Layer::PidNamespace, Layer::NetworkNamespace];
    if !landlock_is_whole() || !layers.iter().all(|layer| enforced.has(*layer)) {
        eprintln!("SKIPPED b_02_with_every_word: these words are for workers with namespaces, which are not to be had");
        return;
    }
    let mut wrong = otherwise(&outcome, place);
    // In a young PID namespace of the tests' own, the starter's number is also that of a process of the worker's.
    let young = std::process::id() < 10;
    wrong.retain(|(name, errno)| *errno == 0 && !BY_WORDS.contains(name) && !(young && *name == "signal the parent"));
    assert!(wrong.is_empty(), "{wrong:?}");
    let traces = &outcome.traces;
    assert_eq!(traces.files, "content".repeat(7));
    assert!(!traces.tcp, "somebody connected by TCP");
    assert_eq!((traces.streams, traces.datagrams), ([false; 2], [false; 2]), "UNIX sockets of the host");
    assert!(traces.victim_lives && traces.secret_is_whole && !traces.typed);
}

/// What came out otherwise than in a worker.
fn otherwise(outcome: &Outcome, place: Place) -> Vec<(&'static str, i32)> {
    let answers = attempts().into_iter().map(|attempt| (answer(outcome, &attempt), attempt));
    answers
        .filter(|(errno, attempt)| !expected_of(attempt, place).contains(errno))
        .map(|(errno, attempt)| (attempt.name, errno))
        .collect()
}

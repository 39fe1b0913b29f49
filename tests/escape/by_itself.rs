//! Each wall by itself: a root of its own without Landlock, and `lockdown` in a process that nobody has sandboxed.

use fdbroker::Layer;

use super::attempt::{List, Place};
use super::run::{Outcome, attempts, outcome};
use super::{answer, expected_of, kernel, landlock_is_whole, processes, programs, sockets};

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
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// B-12: `lockdown` in a process that fdbroker did not start refuses what it refuses in a worker.
#[test]
fn b_12_lockdown_of_a_plain_process() {
    for place in [Place::PlainComputes, Place::PlainServes] {
        let mut wrong = otherwise(&outcome(place), place);
        // It has no channel, and nobody has limited its cores.
        wrong.retain(|(name, errno)| *errno != libc::ENOTSOCK && *name != "raise its own limit of cores");
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
    wrong.retain(|(name, _)| names.contains(name) && *name != "raise its own limit of cores");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(outcome.answers["open to read"], 0, "files are as before");
}

/// What came out otherwise than in a worker.
fn otherwise(outcome: &Outcome, place: Place) -> Vec<(&'static str, i32)> {
    let answers = attempts().into_iter().map(|attempt| (answer(outcome, &attempt), attempt));
    answers
        .filter(|(errno, attempt)| !expected_of(attempt, place).contains(errno))
        .map(|(errno, attempt)| (attempt.name, errno))
        .collect()
}

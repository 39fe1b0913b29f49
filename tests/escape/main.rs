//! The escape list: what a worker that was taken over tries, at its start under each preset and after each `lockdown`,
//! and what comes of it. Every attempt is also made outside the sandbox, against the same targets, to show that it is
//! one: there it works, or the table says why not.
//!
//! `cargo test --test escape -- --nocapture` prints the table.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    unreachable_pub,
    reason = "arguments of system calls are plain words"
)]
#![allow(unsafe_code, reason = "what is attempted has no safe form")]

#[path = "../common/mod.rs"]
mod common;

mod attempt;
mod by_itself;
mod call;
mod descriptors;
mod files;
mod kernel;
mod killed;
mod processes;
mod programs;
mod run;
mod sockets;
mod targets;
mod threads;

use std::collections::BTreeMap;

use fdbroker::{Enforced, Layer, Sandbox, Stdio, Worker};

use attempt::{Answers, Attempt, Outside, Place};
use run::{Outcome, outcome};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let words: Vec<&str> = role.split('\t').collect();
    match words[..] {
        ["attempts", ref rest @ ..] => run::make_attempts(rest, None),
        ["attempt", ref rest @ .., only] => run::make_attempts(rest, Some(only)),
        ["victim"] => targets::be_victim(),
        ["threads", path] => threads::be_locked_down(path.as_ref()),
        #[cfg(target_arch = "x86_64")]
        ["int80"] => println!("int 0x80 answers {}", threads::int_80()),
        ["children"] => killed::guess_in_children(),
        ["abort"] => killed::abort(),
        _ => panic!("no such role: {role}"),
    }
}

/// B-02: every attempt from inside comes to what it should under each preset and after each lockdown, and has left no
/// trace; outside it is made in earnest.
#[test]
fn b_02_every_attempt_from_inside() {
    every_attempt("b_02_every_attempt_from_inside", 200, |name| !name.starts_with("K8"));
}

/// K8: a descriptor that was granted for reading becomes one for writing in no way, though its file is everybody's to
/// write to.
#[test]
fn k8_what_is_granted_for_reading_stays_so() {
    every_attempt("k8_what_is_granted_for_reading_stays_so", 8, |name| name.starts_with("K8"));
}

fn every_attempt(test: &str, least: usize, chosen: impl Fn(&str) -> bool) {
    if !landlock_is_whole() {
        eprintln!("SKIPPED {test}: this kernel has no Landlock of ABI 6");
        return;
    }
    let outcomes: Vec<(Place, Outcome)> = Place::ALL.into_iter().map(|place| (place, outcome(place))).collect();
    let attempts: Vec<Attempt> = run::attempts().into_iter().filter(|attempt| chosen(attempt.name)).collect();
    let (mut table, mut wrong) = (Vec::new(), Vec::new());
    let row = |name: &str, columns: &mut dyn Iterator<Item = String>| {
        columns.fold(format!("{name:<52}"), |row, column| row + &format!(" {column:<10}"))
    };
    table.push(row("attempt", &mut Place::ALL.into_iter().map(|place| place.name().to_owned())));
    for attempt in &attempts {
        let answers: Vec<i32> = outcomes.iter().map(|(_, outcome)| answer(outcome, attempt)).collect();
        let answered = row(attempt.name, &mut answers.iter().map(|errno| word(*errno)));
        table.push(format!("{answered} {}", note(attempt, answers[0])));
        if !attempt.is_explained() {
            wrong.push(format!("{}: what works inside says why, and nothing else", attempt.name));
        }
        if let Some(why) = unproved(attempt, answers[0]) {
            wrong.push(format!("{}: {why}", attempt.name));
        }
        for ((place, outcome), errno) in outcomes.iter().zip(&answers).skip(1) {
            let expected = expected(attempt, *place, outcome.enforced.as_ref().unwrap());
            if !expected.contains(errno) {
                let expected: Vec<_> = expected.iter().map(|errno| word(*errno)).collect();
                wrong.push(format!("{}: {} in {}, not {expected:?}", attempt.name, word(*errno), place.name()));
            }
        }
    }
    let names: BTreeMap<_, _> = attempts.iter().map(|attempt| (attempt.name, ())).collect();
    assert_eq!(names.len(), attempts.len(), "two attempts have one name");
    let in_earnest = attempts.iter().filter(|attempt| answer(&outcomes[0].1, attempt) == 0).count();
    table.push(format!("{} attempts, of which {in_earnest} work outside", attempts.len()));
    if in_earnest < least {
        wrong.push(format!("only {in_earnest} attempts work outside"));
    }
    outcomes.iter().for_each(|(place, outcome)| traces(*place, outcome, &mut wrong));
    // A failure says what is wrong, and not four hundred rows that are right.
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{}", table.join("\n"));
}

fn answer(outcome: &Outcome, attempt: &Attempt) -> i32 {
    *outcome.answers.get(attempt.name).unwrap_or(&-1)
}

fn word(errno: i32) -> String {
    match errno {
        0 => "works".to_owned(),
        -1 => "?".to_owned(),
        _ => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    }
}

fn note(attempt: &Attempt, outside: i32) -> String {
    let why = match attempt.outside {
        _ if outside == 0 => "",
        Outside::Works => "outside it should work",
        Outside::Privileged => "outside it takes privileges",
        Outside::Not(why) | Outside::Perhaps(why) => why,
    };
    [why, attempt.known.unwrap_or("")].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Why the attempt shows nothing.
fn unproved(attempt: &Attempt, outside: i32) -> Option<String> {
    match attempt.outside {
        Outside::Works if outside != 0 => Some(format!("{} outside: the attempt shows nothing", word(outside))),
        Outside::Privileged if outside != 0 && common::is_root() => {
            Some(format!("{} for root, outside", word(outside)))
        }
        Outside::Not(_) if outside == 0 => Some("outside it works after all".to_owned()),
        _ => None,
    }
}

/// By what really holds: where there are no user namespaces, every preset is the floor.
fn expected(attempt: &Attempt, place: Place, enforced: &Enforced) -> Answers {
    let namespaces = enforced.has(Layer::PidNamespace) && enforced.has(Layer::NetworkNamespace);
    let place = match place {
        Place::Full if namespaces && enforced.has(Layer::Root) => Place::Full,
        Place::Standard | Place::Full if enforced.has(Layer::Root) => Place::Standard,
        Place::Standard | Place::Full => Place::Floor,
        other => other,
    };
    expected_of(attempt, place)
}

fn expected_of(attempt: &Attempt, place: Place) -> Answers {
    let of = &attempt.expected;
    if attempt.name.starts_with("send the broker") && run::descriptors_arrive() {
        // The first that it is sent ends the service.
        return &[0, libc::EPIPE, libc::ECONNRESET];
    }
    match place {
        Place::Outside | Place::Floor => of.floor,
        Place::Standard | Place::WithoutLandlock => of.rooted,
        Place::Full | Place::AllWords => of.full,
        Place::Computes | Place::PlainComputes => of.computes,
        Place::Serves | Place::PlainServes => of.serves,
        Place::SpawnsNothing | Place::PlainSpawnsNothing => of.spawns_nothing,
    }
}

/// Nothing of the host has changed, but what was allowed; outside, it has.
fn traces(place: Place, outcome: &Outcome, wrong: &mut Vec<String>) {
    let traces = &outcome.traces;
    let mut is = |what: &str, holds: bool| {
        if !holds {
            wrong.push(format!("{}: {what}: {traces:?}", place.name()));
        }
    };
    let content = "content".repeat(7);
    if place == Place::Outside {
        is("files were changed", traces.files != content);
        is("a process's memory was changed", !traces.secret_is_whole);
        is("a UDP packet came", traces.udp);
        is("UNIX sockets were connected to", traces.streams == [true; 2]);
        is("UNIX datagrams came", traces.datagrams == [true; 2]);
        return;
    }
    is("no file was changed", traces.files == content);
    is("what was granted for appending was appended to, once", traces.appended == "contentoverwritten");
    is("nobody connected by TCP", !traces.tcp);
    is("nobody connected to a UNIX socket", traces.streams == [false; 2]);
    is("no datagram came to an abstract name", !traces.datagrams[1]);
    is("nothing was typed into the terminal", !traces.typed);
    is("the process is alive", traces.victim_lives);
    is("its memory is whole", traces.secret_is_whole);
}

fn landlock_is_whole() -> bool {
    let (worker, _channel): (Worker, _) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
    let layers = worker.enforced();
    let abi = layers.layers().find(|(layer, _)| *layer == Layer::Landlock).and_then(|(_, state)| state.ok());
    let number = abi.and_then(|text| text.strip_prefix("ABI ")?.split(',').next()?.parse::<u32>().ok());
    number.is_some_and(|abi| abi >= 6)
}

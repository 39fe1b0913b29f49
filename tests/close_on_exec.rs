//! A program that is started at any moment inherits none of the descriptors that this process is receiving.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use fdbroker::{Channel, Kind, Packet};

/// Programs that are started beside each kind of channel.
const PROGRAMS: u32 = 300;

/// What a program that is started now finds open, as `number -> object`, but for the directory that it lists.
fn inherited() -> Vec<String> {
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    assert!(output.status.success());
    let mut links: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .filter(|(_, object)| !(object.starts_with("/proc/") && object.ends_with("/fd")))
        .map(|(line, object)| {
            let kind = object.split_once(':').map_or(object, |(kind, _)| kind);
            format!("{} -> {kind}", line.rsplit(' ').next().unwrap())
        })
        .collect();
    links.sort_unstable();
    links
}

/// F-03: programs started while another thread receives descriptors, and makes and drops channels, find open what they
/// found before: 0, 1, 2, and what whoever runs the tests has left open. Close-on-exec is there from the first instant.
#[test]
fn f_03_a_program_started_meanwhile_inherits_nothing() {
    common::alone("f_03_a_program_started_meanwhile_inherits_nothing", || {
        let before = inherited();
        assert!(before.len() >= 3, "{before:?}");
        for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
            let done = AtomicBool::new(false);
            let received = AtomicU32::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        receive_and_drop(kind);
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let found = (0..PROGRAMS).map(|_| inherited()).find(|found| *found != before);
                done.store(true, Ordering::Relaxed);
                assert_eq!(found, None, "{kind:?}: this was open before: {before:?}");
            });
            assert!(received.load(Ordering::Relaxed) > 100, "there was no race");
        }
    });
}

fn receive_and_drop(kind: Kind) {
    let files = [(); 4].map(|()| File::open("/dev/zero").unwrap());
    let fds = files.each_ref().map(AsFd::as_fd);
    let (one, other) = Channel::pair_of(kind).unwrap();
    let mut packet = Packet::with_capacity(8);
    for _ in 0..20 {
        one.send(b"files", &fds).unwrap();
        other.recv(&mut packet).unwrap();
        assert_eq!(packet.fds().len(), 4);
    }
}

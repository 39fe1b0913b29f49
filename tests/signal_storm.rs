//! Two processes, each interrupted thousands of times a second, lose nothing, and their waits end when they are to.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::{Channel, ChannelError, Kind, Packet};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
/// At least so many each way, and more if it takes more for so many signals.
const MESSAGES: u32 = 2000;
const ENOUGH: u32 = 500;
const LONG: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_micros(200);
const LAST: u32 = u32::MAX;

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Runs `body` while this thread gets signals, whose handler is without SA_RESTART, so that each ends what it waits in.
fn in_a_storm(pause: Duration, body: impl FnOnce()) {
    let action = SigAction::new(SigHandler::Handler(count_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler adds to an atomic number, which is allowed in a handler.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let (process, target) = (std::process::id(), nix::unistd::gettid());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: tgkill(2) takes three numbers and touches no memory; the thread is there until this one has
                // ended.
                unsafe { libc::syscall(libc::SYS_tgkill, process, target.as_raw(), libc::SIGUSR1) };
                thread::sleep(pause);
            }
        });
        // Also when it panics, the storm ends.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// P-16: between two processes in a storm, both ways at once, each message arrives once, whole and in order, and no
/// descriptor stays.
#[test]
fn p_16_two_processes_in_a_storm() {
    const NAME: &str = "p_16_two_processes_in_a_storm";
    if let Some(kind) = KINDS.into_iter().find(|kind| common::role() == Some(format!("{kind:?}"))) {
        nix::unistd::alarm::set(120);
        let end = Channel::try_from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(end.kind(), kind);
        return exchange(&end);
    }
    common::alone(NAME, || {
        for kind in KINDS {
            let before = common::open_fds();
            let (near, far) = Channel::pair_of(kind).unwrap();
            let mut command = common::rerun(NAME, &format!("{kind:?}"));
            let mut peer = command.stdin(OwnedFd::from(far)).stdout(Stdio::null()).spawn().unwrap();
            // With its copy of the other end.
            drop(command);
            exchange(&near);
            assert!(peer.wait().unwrap().success(), "{kind:?}");
            drop(near);
            assert_eq!(common::open_fds(), before, "{kind:?}");
        }
    });
}

/// Sends and receives at once, each in a storm of its own, until there were enough messages and signals.
fn exchange(end: &Channel) {
    end.set_recv_timeout(Some(LONG)).unwrap();
    end.set_send_timeout(Some(LONG)).unwrap();
    let null = File::open("/dev/null").unwrap();
    let mut packet = Packet::with_capacity(1 << 20);
    let before = common::open_fds();
    let start = SIGNALS.load(Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            in_a_storm(OFTEN, || {
                let calm = |number| number < MESSAGES || SIGNALS.load(Ordering::Relaxed) < start + ENOUGH;
                for number in (0..LAST).take_while(|&number| calm(number)).chain([LAST]) {
                    let fds = vec![null.as_fd(); count(number)];
                    // Each way to wait.
                    match number % 2 {
                        0 => end.send(&message(number), &fds).unwrap(),
                        _ => end.send_deadline(&message(number), &fds, Instant::now() + LONG).unwrap(),
                    }
                }
            });
        });
        in_a_storm(OFTEN, || {
            for number in 0..=LAST {
                match number % 2 {
                    0 => end.recv_deadline(&mut packet, Instant::now() + LONG).unwrap(),
                    _ => end.recv(&mut packet).unwrap(),
                }
                let last = packet.bytes() == message(LAST);
                let number = if last { LAST } else { number };
                assert!(packet.bytes() == message(number), "message {number}");
                assert_eq!(packet.fds().len(), count(number), "message {number}");
                if last {
                    break;
                }
            }
        });
    });
    packet.clear();
    assert_eq!(common::open_fds(), before);
}

fn message(number: u32) -> Vec<u8> {
    // Each hundredth is longer than what the queue takes at once.
    number.to_le_bytes().repeat(if number % 100 == 0 { 40_000 } else { 10 })
}

fn count(number: u32) -> usize {
    (number % 4) as usize
}

/// H-06, P-16: a timeout and a deadline pass though a signal comes each millisecond, and nothing was sent or lost.
#[test]
fn h_06_p_16_waits_end_in_a_storm() {
    const SHORT: Duration = Duration::from_millis(100);
    common::alone("h_06_p_16_waits_end_in_a_storm", || {
        for kind in KINDS {
            let (one, other) = Channel::pair_of(kind).unwrap();
            other.set_recv_timeout(Some(SHORT)).unwrap();
            one.set_send_timeout(Some(SHORT)).unwrap();
            let mut packet = Packet::new();
            in_a_storm(Duration::from_millis(1), || {
                let waits: [&mut dyn FnMut() -> Result<(), ChannelError>; 4] = [
                    &mut || other.recv(&mut Packet::new()),
                    &mut || other.recv_deadline(&mut packet, Instant::now() + SHORT),
                    &mut || (0..).find_map(|_| one.send(b"nobody reads", &[]).err()).map_or(Ok(()), Err),
                    &mut || one.send_deadline(b"nobody reads", &[], Instant::now() + SHORT),
                ];
                for (number, wait) in waits.into_iter().enumerate() {
                    let (start, signals) = (Instant::now(), SIGNALS.load(Ordering::Relaxed));
                    let result = wait();
                    assert!(matches!(result, Err(ChannelError::TimedOut)), "{kind:?}, wait {number}: {result:?}");
                    assert!(start.elapsed() >= SHORT - common::TICK, "{kind:?}, wait {number}");
                    assert!(SIGNALS.load(Ordering::Relaxed) > signals + 5, "{kind:?}, wait {number}");
                }
            });
            while other.try_recv(&mut packet).is_ok() {
                assert_eq!(packet.bytes(), b"nobody reads");
            }
            one.send(b"on", &[]).unwrap();
            other.recv(&mut packet).unwrap();
            assert_eq!(packet.bytes(), b"on");
        }
    });
}

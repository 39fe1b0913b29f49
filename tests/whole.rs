//! A message arrives whole or not at all: what cannot be delivered is a typed error, everything of it is closed, and
//! the channel goes on. The senders here are plain sockets, which keep to nothing.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use fdbroker::{Channel, ChannelError, DEFAULT_MAX_FDS, Kind, MAX_FDS, Packet};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use sendfd::SendWithFd;

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
const LONG: Duration = Duration::from_secs(60);

/// A plain socket and the channel that it is connected to.
fn raw(kind: Kind) -> (UnixDatagram, Channel) {
    let (one, other) = Channel::pair_of(kind).unwrap();
    other.set_recv_timeout(Some(LONG)).unwrap();
    // std's type for datagrams sends and receives with any socket that keeps messages apart.
    (UnixDatagram::from(OwnedFd::from(one)), other)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// The channel delivers the next message, with its descriptor.
fn goes_on(sender: &impl SendWithFd, receiver: &Channel, packet: &mut Packet) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"whole").unwrap();
    sender.send_with_fd(b"next", &[file.as_raw_fd()]).unwrap();
    receiver.recv(packet).unwrap();
    assert_eq!(packet.bytes(), b"next");
    let received = packet.take_fds().next().unwrap();
    assert_eq!(common::identity(&received), common::identity(&file));
    let mut text = String::new();
    let mut received = File::from(received);
    received.seek(SeekFrom::Start(0)).unwrap();
    received.read_to_string(&mut text).unwrap();
    assert_eq!(text, "whole");
}

fn is_empty(packet: &Packet) -> bool {
    packet.bytes().is_empty() && packet.fds().is_empty()
}

/// P-05, K1: a packet of no bytes is no hang-up while its sender lives: with a descriptor it is a message with that
/// descriptor, without one an empty message. The hang-up that follows is one.
#[test]
fn p_05_k1_a_packet_of_no_bytes() {
    for kind in [Kind::SeqPacket, Kind::Datagram] {
        let (sender, receiver) = raw(kind);
        let mut packet = Packet::new();
        let null = null();
        for _ in 0..3 {
            sender.send_with_fd(b"", &[null.as_raw_fd()]).unwrap();
            receiver.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes().len(), packet.fds().len()), (0, 1), "{kind:?}");
            assert_eq!(common::identity(&packet.fds()[0]), common::identity(&null));

            sender.send(b"").unwrap();
            receiver.recv(&mut packet).unwrap();
            assert!(is_empty(&packet), "{kind:?}");
        }
        goes_on(&sender, &receiver, &mut packet);
    }
    let (sender, receiver) = raw(Kind::SeqPacket);
    drop(sender);
    assert!(matches!(receiver.recv(&mut Packet::new()), Err(ChannelError::Disconnected)));
}

/// P-05, K1: also when the sender is gone by the time they are read: nothing that stands behind an empty packet is
/// lost.
#[test]
fn p_05_k1_empty_packets_of_the_dead() {
    let (sender, receiver) = raw(Kind::SeqPacket);
    let mut packet = Packet::new();
    sender.send(b"").unwrap();
    sender.send(b"behind it").unwrap();
    sender.send_with_fd(b"", &[null().as_raw_fd()]).unwrap();
    drop(sender);
    receiver.recv(&mut packet).unwrap();
    assert!(is_empty(&packet));
    receiver.recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"behind it");
    receiver.recv(&mut packet).unwrap();
    assert_eq!(packet.fds().len(), 1);
    for _ in 0..3 {
        assert!(matches!(receiver.recv(&mut packet), Err(ChannelError::Disconnected)));
        assert!(is_empty(&packet));
    }
}

/// P-05, K1: a packet of no bytes whose descriptor is over the budget is no hang-up either.
#[test]
fn p_05_k1_no_bytes_and_no_budget() {
    let (sender, mut receiver) = raw(Kind::SeqPacket);
    receiver.set_max_fds(0);
    let mut packet = Packet::new();
    sender.send_with_fd(b"", &[null().as_raw_fd()]).unwrap();
    let result = receiver.recv(&mut packet);
    assert!(matches!(result, Err(ChannelError::TooManyDescriptors { budget: 0 })), "{result:?}");
    sender.send(b"x").unwrap();
    receiver.recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"x");
}

/// P-10: a message with more bytes than the packet holds is "too large"; nothing of it is delivered, and the channel
/// goes on. Exactly as many bytes as the packet holds fit.
#[test]
fn p_10_more_bytes_than_the_packet_holds() {
    common::alone("p_10_more_bytes_than_the_packet_holds", || {
        for kind in [Kind::SeqPacket, Kind::Datagram] {
            let (sender, receiver) = raw(kind);
            let null = null();
            for capacity in [0, 1, 4, 1000] {
                let mut packet = Packet::with_capacity(capacity);
                let before = common::open_fds();
                for surplus in [1, 2, 5000] {
                    sender.send_with_fd(&vec![7; capacity + surplus], &[null.as_raw_fd(); 3]).unwrap();
                    assert!(matches!(receiver.recv(&mut packet), Err(ChannelError::TooLarge)), "{kind:?}");
                    assert!(is_empty(&packet));
                    assert_eq!(common::open_fds(), before);
                }
                sender.send_with_fd(&vec![7; capacity], &[null.as_raw_fd()]).unwrap();
                receiver.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes().len(), packet.fds().len()), (capacity, 1));
            }
            goes_on(&sender, &receiver, &mut Packet::new());
        }
    });
}

/// P-11, K19, K20, H-13: more descriptors than the budget are "too many", for each budget and each surplus; all are
/// closed, the descriptor table is not filled, and the channel goes on. Exactly the budget is delivered.
#[test]
fn p_11_h_13_more_descriptors_than_the_budget() {
    common::alone("p_11_h_13_more_descriptors_than_the_budget", || {
        for kind in KINDS {
            let (sender, mut receiver) = Channel::pair_of(kind).unwrap();
            assert_eq!(receiver.max_fds(), DEFAULT_MAX_FDS);
            receiver.set_recv_timeout(Some(LONG)).unwrap();
            let mut packet = Packet::new();
            let null = null();
            for budget in [0, 1, 2, 3, 16, 252, 253] {
                receiver.set_max_fds(budget);
                let before = common::open_fds();
                for count in [budget + 1, budget + 2, budget + 17, MAX_FDS] {
                    if count > MAX_FDS || count <= budget {
                        continue;
                    }
                    sender.send(b"many", &vec![null.as_fd(); count]).unwrap();
                    let result = receiver.recv(&mut packet);
                    assert!(
                        matches!(result, Err(ChannelError::TooManyDescriptors { budget: told }) if told == budget),
                        "{kind:?}, budget {budget}, {count} descriptors: {result:?}"
                    );
                    assert!(is_empty(&packet));
                    assert_eq!(common::open_fds(), before);
                }
                sender.send(b"fits", &vec![null.as_fd(); budget]).unwrap();
                receiver.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"fits"[..], budget));
                packet.clear();
            }
            receiver.set_max_fds(10_000);
            assert_eq!(receiver.max_fds(), MAX_FDS);
            goes_on(&sender, &receiver, &mut packet);
        }
    });
}

/// K2, F-08, K21: with 0, 1 and 2 free descriptors, three that come are "descriptor table full": those that the kernel
/// installed are closed, those that were free are free, and the next message that fits is delivered.
#[test]
fn k2_f_08_a_full_descriptor_table() {
    common::alone_with(64, "k2_f_08_a_full_descriptor_table", || {
        for kind in KINDS {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            receiver.set_recv_timeout(Some(LONG)).unwrap();
            let mut packet = Packet::new();
            let null = null();
            for free in 0..3 {
                let mut filling = fill(&null);
                filling.truncate(filling.len() - free);
                for _ in 0..10 {
                    sender.send(b"three", &[null.as_fd(); 3]).unwrap();
                    let result = receiver.recv(&mut packet);
                    assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{kind:?}, {free}: {result:?}");
                    assert!(is_empty(&packet));

                    sender.send(b"fits", &vec![null.as_fd(); free]).unwrap();
                    receiver.recv(&mut packet).unwrap();
                    assert_eq!((packet.bytes(), packet.fds().len()), (&b"fits"[..], free));
                    packet.clear();
                }
                assert_eq!(fill(&null).len(), free, "{kind:?}");
                drop(filling);
                goes_on(&sender, &receiver, &mut packet);
            }
        }
    });
}

/// Duplicates of `file` in every free slot of the descriptor table.
fn fill(file: &File) -> Vec<File> {
    std::iter::from_fn(|| file.try_clone().ok()).collect()
}

/// P-15: where descriptors 0, 1 and 2 are closed, received ones land there, and are descriptors like any others.
#[test]
fn p_15_descriptors_land_on_0_1_and_2() {
    const NAME: &str = "p_15_descriptors_land_on_0_1_and_2";
    common::alone(NAME, || {
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let mut files = [(); 3].map(|()| tempfile::tempfile().unwrap());
            for (number, file) in files.iter_mut().enumerate() {
                write!(file, "file {number}").unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
            }
            let mut packet = Packet::new();
            let standard = (std::io::stdin(), std::io::stdout(), std::io::stderr());
            let kept = [standard.0.as_fd(), standard.1.as_fd(), standard.2.as_fd()];
            let kept = kept.map(|fd| fd.try_clone_to_owned().unwrap());
            sender.send(b"three", &[files[0].as_fd(), files[1].as_fd(), files[2].as_fd()]).unwrap();
            for number in 0..3 {
                nix::unistd::close(number).unwrap();
            }
            // Until 0, 1 and 2 are as they were, a failure would have nowhere to be told: collect first.
            let result = receiver.recv(&mut packet);
            let numbers: Vec<RawFd> = packet.fds().iter().map(AsRawFd::as_raw_fd).collect();
            let texts: Vec<_> = packet.take_fds().map(|fd| std::io::read_to_string(File::from(fd))).collect();
            nix::unistd::dup2_stdin(&kept[0]).unwrap();
            nix::unistd::dup2_stdout(&kept[1]).unwrap();
            nix::unistd::dup2_stderr(&kept[2]).unwrap();
            result.unwrap();
            assert_eq!(numbers, [0, 1, 2], "{kind:?}");
            let texts: Vec<_> = texts.into_iter().map(Result::unwrap).collect();
            assert_eq!(texts, ["file 0", "file 1", "file 2"], "{kind:?}");
        }
    });
}

fn pair(kind: Kind) -> (Channel, Channel) {
    let (sender, receiver) = Channel::pair_of(kind).unwrap();
    receiver.set_recv_timeout(Some(LONG)).unwrap();
    (sender, receiver)
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Lets SIGUSR1 interrupt what it hits: the handler is without SA_RESTART.
fn count_signals() {
    let action = SigAction::new(SigHandler::Handler(count_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler adds to an atomic number, which is allowed in a handler.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
}

/// P-16: under a storm of signals whose handler makes every waiting system call end with EINTR, no message is lost,
/// doubled or cut.
#[test]
fn p_16_a_signal_storm() {
    common::alone("p_16_a_signal_storm", || {
        count_signals();
        for kind in KINDS {
            let before = common::open_fds();
            storm(kind);
            assert_eq!(common::open_fds(), before, "{kind:?}");
        }
    });
}

fn storm(kind: Kind) {
    let (sender, receiver) = pair(kind);
    sender.set_send_timeout(Some(LONG)).unwrap();
    let done = AtomicBool::new(false);
    let (tell, targets) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let tell_receiver = tell.clone();
        let ends = [
            scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                send_numbered(sender);
            }),
            scope.spawn(move || {
                tell_receiver.send(nix::unistd::gettid()).unwrap();
                receive_numbered(receiver);
            }),
        ];
        let targets = [targets.recv().unwrap(), targets.recv().unwrap()];
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                targets.iter().for_each(|&thread| interrupt(thread));
            }
        });
        let results = ends.map(|end| end.join());
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
}

/// H-06, P-16: a timeout passes though signals interrupt the wait again and again, each sooner than it would pass.
#[test]
fn h_06_p_16_a_timeout_in_a_signal_storm() {
    const SHORT: Duration = Duration::from_millis(100);
    common::alone("h_06_p_16_a_timeout_in_a_signal_storm", || {
        count_signals();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            receiver.set_recv_timeout(Some(SHORT)).unwrap();
            sender.set_send_timeout(Some(SHORT)).unwrap();
            let done = AtomicBool::new(false);
            let this = nix::unistd::gettid();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        interrupt(this);
                        std::thread::sleep(SHORT / 10);
                    }
                });
                let received = receiver.recv(&mut Packet::new());
                let sent = std::iter::repeat_with(|| sender.send(b"nobody reads", &[])).find(Result::is_err);
                done.store(true, Ordering::Relaxed);
                assert!(matches!(received, Err(ChannelError::TimedOut)), "{kind:?}: {received:?}");
                assert!(matches!(sent, Some(Err(ChannelError::TimedOut))), "{kind:?}: {sent:?}");
            });
        }
    });
}

/// A signal to one thread of this process, if it is there still.
fn interrupt(thread: nix::unistd::Pid) {
    let process = nix::unistd::Pid::this();
    // SAFETY: tgkill(2) takes three numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), libc::SIGUSR1) };
}

const LAST: u32 = u32::MAX;

/// Each hundredth is longer than what the queue takes at once.
fn numbered(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(if number % 100 == 0 { 16_000 } else { 10 })
}

/// At least 3,000 messages, and as many as it takes for a thousand signals.
fn send_numbered(sender: Channel) {
    let null = null();
    let start = SIGNALS.load(Ordering::Relaxed);
    let calm = |number| number < 3000 || SIGNALS.load(Ordering::Relaxed) < start + 1000;
    for number in (0..LAST).take_while(|&number| calm(number)).chain([LAST]) {
        sender.send(&numbered(number), &vec![null.as_fd(); (number % 4) as usize]).unwrap();
    }
}

fn receive_numbered(receiver: Channel) {
    let mut packet = Packet::new();
    for number in 0.. {
        receiver.recv(&mut packet).unwrap();
        let number = if packet.bytes() == numbered(LAST) { LAST } else { number };
        assert!(packet.bytes() == numbered(number), "message {number}");
        assert_eq!(packet.fds().len(), (number % 4) as usize, "message {number}");
        if number == LAST {
            return;
        }
    }
}

/// F-02, P-11, K2: each error of a receive a thousand times, and descriptors that nobody took: none is left open.
#[test]
fn f_02_a_thousand_of_each_error() {
    common::alone("f_02_a_thousand_of_each_error", || {
        for kind in KINDS {
            let (sender, mut receiver) = Channel::pair_of(kind).unwrap();
            receiver.set_nonblocking(true).unwrap();
            let null = null();
            let mut packet = Packet::new();
            let mut small = Packet::with_capacity(3);
            let before = common::open_fds();
            for turn in 0..1000 {
                sender.send(b"unclaimed", &[null.as_fd(); 5]).unwrap();
                receiver.recv(&mut packet).unwrap();

                receiver.set_max_fds(2);
                sender.send(b"too many", &[null.as_fd(); 3]).unwrap();
                let result = receiver.recv(&mut packet);
                assert!(matches!(result, Err(ChannelError::TooManyDescriptors { .. })), "{kind:?}: {result:?}");
                receiver.set_max_fds(16);

                assert!(matches!(receiver.recv(&mut packet), Err(ChannelError::WouldBlock)));
                assert!(matches!(sender.send(b"", &[]), Err(ChannelError::Empty)));
                let result = sender.send(b"x", &[null.as_fd(); 254]);
                assert!(matches!(result, Err(ChannelError::TooManyDescriptors { .. })));

                if kind != Kind::Stream {
                    sender.send(b"too large", &[null.as_fd(); 5]).unwrap();
                    assert!(matches!(receiver.recv(&mut small), Err(ChannelError::TooLarge)));
                }
                // Never received: gone with the channel.
                if turn % 10 == 0 {
                    let (one, other) = Channel::pair_of(kind).unwrap();
                    one.send(b"in flight", &[null.as_fd(); 5]).unwrap();
                    drop((one, other));
                }
                // Of five taken, one is kept for a moment.
                sender.send(b"some", &[null.as_fd(); 5]).unwrap();
                receiver.recv(&mut packet).unwrap();
                drop(packet.take_fds().next());
            }
            assert_eq!(common::open_fds(), before, "{kind:?}");
        }
    });
}

/// F-02: a packet that is dropped, and one that is used again, close what nobody took; what was taken stays.
#[test]
fn f_02_unclaimed_descriptors_are_closed() {
    common::alone("f_02_unclaimed_descriptors_are_closed", || {
        let (sender, receiver) = Channel::pair().unwrap();
        let null = null();
        let before = common::open_fds();
        let mut packet = Packet::new();
        sender.send(b"x", &[null.as_fd(); 4]).unwrap();
        receiver.recv(&mut packet).unwrap();
        assert_eq!(common::open_fds(), before + 4);
        let kept = packet.take_fds().next().unwrap();
        assert_eq!(common::open_fds(), before + 1);

        sender.send(b"y", &[null.as_fd(); 4]).unwrap();
        receiver.recv(&mut packet).unwrap();
        sender.send(b"z", &[]).unwrap();
        receiver.recv(&mut packet).unwrap();
        assert_eq!(common::open_fds(), before + 1);

        sender.send(b"x", &[null.as_fd(); 4]).unwrap();
        receiver.recv(&mut packet).unwrap();
        drop(packet);
        assert_eq!(common::open_fds(), before + 1);
        assert_eq!(common::identity(&kept), common::identity(&null));
    });
}

/// K30: the kernel echoes MSG_CMSG_CLOEXEC in the flags of a message; that is taken for no cut, with and without
/// descriptors, in any number.
#[test]
fn k30_echoed_flags_are_no_cut() {
    let null = null();
    for kind in KINDS {
        let (sender, receiver) = pair(kind);
        let mut packet = Packet::with_capacity(4);
        for count in 0..=DEFAULT_MAX_FDS {
            sender.send(b"full", &vec![null.as_fd(); count]).unwrap();
            receiver.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"full"[..], count), "{kind:?}");
        }
    }
}

/// P-15: a number that is no open descriptor cannot be sent, through the trait that takes numbers: the kernel says so,
/// and nothing is sent.
#[test]
fn p_15_a_number_that_is_no_descriptor() {
    for kind in KINDS {
        let (sender, receiver) = pair(kind);
        for number in [-1, RawFd::MAX, RawFd::MIN] {
            let error = sender.send_with_fd(b"x", &[number]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{kind:?}");
        }
        receiver.set_nonblocking(true).unwrap();
        assert!(matches!(receiver.recv(&mut Packet::new()), Err(ChannelError::WouldBlock)));
    }
}

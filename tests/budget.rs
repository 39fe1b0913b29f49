//! How many descriptors come in: no more than this end allows, whatever the sender does with its control data, and each
//! one with the message that it was sent with.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fdbroker::raw::{self, Ancillary};
use fdbroker::{Channel, ChannelError, DEFAULT_MAX_FDS, Kind, MAX_FDS, Packet};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use sendfd::SendWithFd;

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
const LONG: Duration = Duration::from_secs(60);
const SO_PASSRIGHTS: i32 = 83;

fn pair(kind: Kind) -> (Channel, Channel) {
    let (sender, receiver) = Channel::pair_of(kind).unwrap();
    receiver.set_recv_timeout(Some(LONG)).unwrap();
    sender.set_send_timeout(Some(LONG)).unwrap();
    (sender, receiver)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// Duplicates of `file` in every free slot of the descriptor table.
fn fill(file: &File) -> Vec<File> {
    std::iter::from_fn(|| file.try_clone().ok()).collect()
}

fn is_empty(packet: &Packet) -> bool {
    packet.bytes().is_empty() && packet.fds().is_empty()
}

/// A message as it is on the wire: a header of length and number of descriptors, on a stream.
fn message(kind: Kind, bytes: &[u8], count: usize) -> Vec<u8> {
    if kind != Kind::Stream {
        return bytes.to_vec();
    }
    let numbers = [bytes.len(), count].map(|number| u32::try_from(number).unwrap().to_le_bytes());
    [&numbers.concat(), bytes].concat()
}

/// One sendmsg with a block of SCM_RIGHTS for each of `blocks`.
fn send_blocks(socket: impl AsFd, bytes: &[u8], blocks: &[&[RawFd]]) -> nix::Result<usize> {
    let control: Vec<_> = blocks.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), None)
}

// ------------------------------------------------------------------------------------------------------- the budget

/// H-13, K20: one message of 253 descriptors does not fill a table that has just more room than the budget: the error
/// is "too many", not "table full", whichever budget; afterwards there is as much room as before. That it can fail: a
/// budget of 253 is the full table.
#[test]
fn h_13_k20_the_table_is_not_filled() {
    common::alone_with(64, "h_13_k20_the_table_is_not_filled", || {
        let null = null();
        for kind in KINDS {
            let (sender, mut receiver) = pair(kind);
            let mut packet = Packet::new();
            assert_eq!((receiver.max_fds(), DEFAULT_MAX_FDS), (16, 16));
            for budget in [DEFAULT_MAX_FDS, 0, 1, 2, 7, 30] {
                receiver.set_max_fds(budget);
                let mut filling = fill(&null);
                filling.truncate(filling.len() - budget - 1);
                for _ in 0..3 {
                    sender.send(b"flood", &[null.as_fd(); MAX_FDS]).unwrap();
                    let result = receiver.recv(&mut packet);
                    let told =
                        matches!(result, Err(ChannelError::TooManyDescriptors { budget: told }) if told == budget);
                    assert!(told, "{kind:?}, {budget}: {result:?}");
                    assert!(is_empty(&packet));
                    assert_eq!(fill(&null).len(), budget + 1);
                }
                receiver.set_max_fds(MAX_FDS);
                sender.send(b"flood", &[null.as_fd(); MAX_FDS]).unwrap();
                let result = receiver.recv(&mut packet);
                assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{kind:?}: {result:?}");
                assert_eq!(fill(&null).len(), budget + 1);
            }
        }
    });
}

/// H-13, K20: while message after message comes over the budget, another thread can open its files, though there are
/// hardly more free numbers than the budget.
#[test]
fn h_13_k20_others_can_open_files() {
    common::alone_with(64, "h_13_k20_others_can_open_files", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let mut filling = fill(&null);
            filling.truncate(filling.len() - DEFAULT_MAX_FDS - 2);
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let opening = scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        null.try_clone().expect("a free number");
                    }
                });
                let mut packet = Packet::new();
                for _ in 0..3000 {
                    sender.send(b"flood", &[null.as_fd(); MAX_FDS]).unwrap();
                    let result = receiver.recv(&mut packet);
                    assert!(matches!(result, Err(ChannelError::TooManyDescriptors { .. })), "{kind:?}: {result:?}");
                }
                done.store(true, Ordering::Relaxed);
                opening.join().unwrap();
            });
        }
    });
}

/// P-09, K4, K19: for each budget, odd and even, a surplus of one to nine never slips into padding: it is "too many",
/// and all is closed. By hostile senders too, who cut their control data as they like.
#[test]
fn p_09_k4_k19_nothing_in_the_padding() {
    common::alone_with(1024, "p_09_k4_k19_nothing_in_the_padding", || {
        let null = null();
        for kind in KINDS {
            let (sender, mut receiver) = pair(kind);
            let mut packet = Packet::new();
            let before = common::open_fds();
            for (budget, surplus) in (0..=33).flat_map(|budget| (0..10).map(move |surplus| (budget, surplus))) {
                receiver.set_max_fds(budget);
                let fds = vec![null.as_raw_fd(); budget + surplus];
                let bytes = message(kind, b"odd", fds.len());
                // In one block, and each descriptor in one of its own.
                let single: Vec<&[RawFd]> = fds.chunks(1).collect();
                for blocks in [&[&fds[..]][..], &single] {
                    send_blocks(&sender, &bytes, blocks).unwrap();
                    let result = receiver.recv(&mut packet);
                    let case = format!("{kind:?}, budget {budget}, {surplus} more: {result:?}");
                    if surplus == 0 {
                        assert!(result.is_ok() && packet.fds().len() == budget, "{case}");
                        packet.clear();
                    } else {
                        assert!(matches!(result, Err(ChannelError::TooManyDescriptors { .. })), "{case}");
                    }
                    assert!(is_empty(&packet), "{case}");
                    assert_eq!(common::open_fds(), before, "{case}");
                }
            }
        }
    });
}

/// P-13, K7: two blocks of SCM_RIGHTS in one message arrive as one, in order; their sum is what meets the budget.
#[test]
fn p_13_k7_two_blocks() {
    common::alone("p_13_k7_two_blocks", || {
        let files = [(); 8].map(|()| tempfile::tempfile().unwrap());
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        for kind in KINDS {
            let (sender, mut receiver) = pair(kind);
            let mut packet = Packet::new();
            let before = common::open_fds();
            for (first, second) in (0..=4).flat_map(|first| (0..=4).map(move |second| (first, second))) {
                let sum: usize = first + second;
                for budget in [sum, sum.saturating_sub(1), first] {
                    receiver.set_max_fds(budget);
                    let blocks = [&numbers[..first], &numbers[first..sum]];
                    send_blocks(&sender, &message(kind, b"two", sum), &blocks).unwrap();
                    let result = receiver.recv(&mut packet);
                    let case = format!("{kind:?}, {first} and {second}, budget {budget}: {result:?}");
                    if sum <= budget {
                        assert!(result.is_ok(), "{case}");
                        let received = packet.fds().iter().map(common::identity);
                        assert!(received.eq(files[..sum].iter().map(common::identity)), "{case}");
                        packet.clear();
                    } else {
                        assert!(matches!(result, Err(ChannelError::TooManyDescriptors { .. })), "{case}");
                    }
                    assert_eq!(common::open_fds(), before, "{case}");
                }
            }
        }
    });
}

/// K2, K21: what the receiver's full table costs, the sender never learns: each of its sends is a success. The receiver
/// learns it each time, and the bytes are not delivered without their descriptors.
#[test]
fn k2_k21_the_sender_never_learns() {
    common::alone_with(64, "k2_k21_the_sender_never_learns", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let mut packet = Packet::new();
            for free in 0..3 {
                let mut filling = fill(&null);
                filling.truncate(filling.len() - free);
                for _ in 0..10 {
                    sender.send(b"a grant", &[null.as_fd(); 3]).unwrap();
                }
                assert!(matches!(sender.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "nothing comes back");
                for _ in 0..10 {
                    let result = receiver.recv(&mut packet);
                    assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{kind:?}, {free}: {result:?}");
                    assert!(is_empty(&packet));
                }
                assert_eq!(fill(&null).len(), free);
                drop(filling);
                sender.send(b"room", &[null.as_fd(); 3]).unwrap();
                receiver.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"room"[..], 3));
                packet.clear();
            }
        }
    });
}

/// P-08: a stream's header that says one, two or seventeen descriptors fewer than came, or one more, for each number
/// from 1 to 253: the peer is cut off, all is closed, and a channel beside it is not hurt.
#[test]
fn p_08_declared_and_actual() {
    common::alone_with(1024, "p_08_declared_and_actual", || {
        let null = null();
        let (beside, other) = pair(Kind::Stream);
        let mut packet = Packet::new();
        for actual in 1..=MAX_FDS {
            for declared in [actual.wrapping_sub(1), actual.wrapping_sub(2), actual.wrapping_sub(17), actual + 1] {
                let Ok(declared) = u32::try_from(declared) else { continue };
                let (raw, socket) = UnixStream::pair().unwrap();
                let mut channel = Channel::from(socket);
                channel.set_recv_timeout(Some(LONG)).unwrap();
                channel.set_max_fds(MAX_FDS);
                let before = common::open_fds();
                let bytes = [&3u32.to_le_bytes(), &declared.to_le_bytes(), &b"lie"[..]].concat();
                raw.send_with_fd(&bytes, &vec![null.as_raw_fd(); actual]).unwrap();
                for _ in 0..2 {
                    let result = channel.recv(&mut packet);
                    assert!(matches!(result, Err(ChannelError::Broken)), "{declared} for {actual}: {result:?}");
                    assert!(is_empty(&packet));
                    assert_eq!(common::open_fds(), before, "{declared} for {actual}");
                }
            }
            beside.send(b"whole", &[null.as_fd(); 2]).unwrap();
            other.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"whole"[..], 2));
            packet.clear();
        }
    });
}

/// P-14, K10: many messages are queued, some with a descriptor, some with more, some without: each has its own when it
/// is received, glued or not.
#[test]
fn p_14_each_descriptor_with_its_message() {
    common::alone_with(1024, "p_14_each_descriptor_with_its_message", || {
        let files: Vec<File> = (0..100).map(|_| tempfile::tempfile().unwrap()).collect();
        for kind in KINDS {
            let (sender, receiver) = pair(kind);
            let own = |number: usize| &files[number..(number + [1, 0, 3, 1, 0, 0, 2][number % 7]).min(files.len())];
            for number in 0..files.len() {
                let fds: Vec<_> = own(number).iter().map(AsFd::as_fd).collect();
                sender.send(&number.to_le_bytes()[..1 + number % 8], &fds).unwrap();
            }
            let mut packet = Packet::new();
            for number in 0..files.len() {
                receiver.recv(&mut packet).unwrap();
                assert_eq!(packet.bytes(), &number.to_le_bytes()[..1 + number % 8], "{kind:?}");
                let received = packet.fds().iter().map(common::identity);
                assert!(received.eq(own(number).iter().map(common::identity)), "{kind:?}, message {number}");
            }
        }
    });
}

// --------------------------------------------------------------------------------------------------------- refusing

/// K18, K29: an end that refuses descriptors: their sender gets EPERM and nothing arrives; plain messages do, and the
/// other direction is as it was. What was queued before meets the budget of 0, is closed, and the channel goes on.
#[test]
fn k18_k29_refused_at_the_sender() {
    common::alone("k18_k29_refused_at_the_sender", || {
        let null = null();
        for kind in KINDS {
            let (sender, mut receiver) = pair(kind);
            let mut packet = Packet::new();
            let before = common::open_fds();
            for count in [1, 2, 253] {
                sender.send(b"early", &vec![null.as_fd(); count]).unwrap();
            }
            if !receiver.refuse_descriptors().unwrap() {
                eprintln!("SKIPPED: this kernel has no SO_PASSRIGHTS (Linux 6.16)");
                return;
            }
            assert_eq!(receiver.max_fds(), 0);
            for _ in 0..3 {
                let result = sender.send(b"refused", &[null.as_fd()]);
                let Err(ChannelError::Os { source, .. }) = result else { panic!("{kind:?}: {result:?}") };
                assert_eq!(source.raw_os_error(), Some(libc::EPERM), "{kind:?}");
            }
            // What is no channel at the other end is refused as well.
            assert_eq!(send_blocks(&sender, &message(kind, b"x", 1), &[&[null.as_raw_fd()]]), Err(Errno::EPERM));
            for _ in 0..3 {
                let result = receiver.recv(&mut packet);
                let told = matches!(result, Err(ChannelError::TooManyDescriptors { budget: 0 }));
                assert!(told && is_empty(&packet), "{kind:?}: {result:?}");
                assert_eq!(common::open_fds(), before);
            }
            assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "{kind:?}");
            sender.send(b"plain", &[]).unwrap();
            receiver.recv(&mut packet).unwrap();
            assert_eq!(packet.bytes(), b"plain");
            receiver.send(b"back", &[null.as_fd(); 2]).unwrap();
            sender.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"back"[..], 2), "{kind:?}");
            packet.clear();
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// K29: sockets that a listener accepts refuse what it refuses.
#[test]
fn k29_accepted_sockets_inherit_it() {
    let name = format!("fdbroker test k29 {}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let value: libc::c_int = 0;
    // SAFETY: the kernel reads the four bytes of a c_int.
    let set = unsafe {
        libc::setsockopt(listener.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const value).cast(), 4)
    };
    if set != 0 {
        eprintln!("SKIPPED: this kernel has no SO_PASSRIGHTS (Linux 6.16)");
        return;
    }
    let client = Channel::from(UnixStream::connect_addr(&address).unwrap());
    let server = Channel::from(listener.accept().unwrap().0);
    let null = null();
    let result = client.send(b"refused", &[null.as_fd()]);
    assert!(
        matches!(&result, Err(ChannelError::Os { source, .. }) if source.raw_os_error() == Some(libc::EPERM)),
        "{result:?}"
    );
    let mut packet = Packet::new();
    assert!(matches!(server.try_recv(&mut packet), Err(ChannelError::WouldBlock)));
    client.send(b"plain", &[]).unwrap();
    server.recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"plain");
    server.send(b"back", &[null.as_fd()]).unwrap();
    client.recv(&mut packet).unwrap();
    assert_eq!(packet.fds().len(), 1);
}

/// K18, K29: on a kernel without SO_PASSRIGHTS the answer is "no", and each message with descriptors is "too many" at
/// receipt, closed, on a channel that goes on. Another failure of the call is an error.
#[test]
fn k18_k29_refused_at_receipt() {
    common::alone("k18_k29_refused_at_receipt", || {
        let condition = |option| [(1, libc::SOL_SOCKET as u64), (2, option)];
        common::refuse(libc::SYS_setsockopt, &condition(83), libc::ENOPROTOOPT);
        let null = null();
        for kind in KINDS {
            let (sender, mut receiver) = pair(kind);
            assert!(!receiver.refuse_descriptors().unwrap());
            assert_eq!(receiver.max_fds(), 0);
            let mut packet = Packet::new();
            let before = common::open_fds();
            for count in [1, 2, 16, 253] {
                sender.send(b"bearing", &vec![null.as_fd(); count]).unwrap();
                let result = receiver.recv(&mut packet);
                let told = matches!(result, Err(ChannelError::TooManyDescriptors { budget: 0 }));
                assert!(told && is_empty(&packet), "{kind:?}, {count}: {result:?}");
                assert_eq!(common::open_fds(), before);
                sender.send(b"plain", &[]).unwrap();
                receiver.recv(&mut packet).unwrap();
                assert_eq!(packet.bytes(), b"plain");
            }
        }
        common::refuse(libc::SYS_setsockopt, &condition(83), libc::EACCES);
        let result = pair(Kind::SeqPacket).1.refuse_descriptors();
        assert!(matches!(result, Err(ChannelError::Os { .. })), "{result:?}");
    });
}

// ------------------------------------------------------------------------------------------------ facts of the kernel

/// K5: offset and O_NONBLOCK are shared by both holders of what was sent.
#[test]
fn k5_offset_and_o_nonblock_are_shared() {
    for kind in KINDS {
        let (sender, receiver) = pair(kind);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        sender.send(b"x", &[file.as_fd(), pipe.as_fd()]).unwrap();
        let mut packet = Packet::new();
        receiver.recv(&mut packet).unwrap();
        let mut received = packet.take_fds();
        let mut there = File::from(received.next().unwrap());
        file.seek(SeekFrom::Start(4)).unwrap();
        let mut bytes = [0; 2];
        there.read_exact(&mut bytes).unwrap();
        assert_eq!((bytes, file.stream_position().unwrap()), (*b"45", 6), "{kind:?}");

        fcntl(received.next().unwrap(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK), "{kind:?}");
    }
}

/// K24: a stream drops the descriptors of a message that has no bytes: a channel's has a header, and `raw` refuses it.
#[test]
fn k24_descriptors_without_bytes() {
    let null = null();
    let (one, other) = UnixStream::pair().unwrap();
    // What happens without.
    assert_eq!(send_blocks(&one, b"", &[&[null.as_raw_fd()]]), Ok(0));
    let error = raw::send(&one, b"", &[null.as_fd()]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    raw::send(&one, b"x", &[null.as_fd()]).unwrap();
    let mut ancillary = Ancillary::new(4);
    let received = raw::recv(&other, &mut [0; 8], &mut ancillary).unwrap();
    assert_eq!((received.len, ancillary.fds().len()), (1, 1), "that of the byte, and not the one before");

    let (sender, receiver) = pair(Kind::Stream);
    sender.send(b"", &[null.as_fd(); 5]).unwrap();
    let mut packet = Packet::new();
    receiver.recv(&mut packet).unwrap();
    assert_eq!((packet.bytes().len(), packet.fds().len()), (0, 5));
}

/// K26, K1: the look behind an empty message of a peer that is gone, which tells it from the end, installs no
/// descriptor. So that the test can fail: a look with room for one does.
#[test]
fn k26_k1_a_look_installs_nothing() {
    common::alone("k26_k1_a_look_installs_nothing", || {
        let null = null();
        let (sender, receiver) = pair(Kind::SeqPacket);
        let sender = OwnedFd::from(sender);
        for _ in 0..3 {
            send(sender.as_raw_fd(), b"", MsgFlags::empty()).unwrap();
            send_blocks(&sender, b"behind", &[&[null.as_raw_fd(); 3]]).unwrap();
        }
        drop(sender);
        let before = common::open_fds();
        let mut packet = Packet::new();
        for _ in 0..3 {
            receiver.recv(&mut packet).unwrap();
            assert!(is_empty(&packet));
            assert_eq!(common::open_fds(), before);
            receiver.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"behind"[..], 3));
            packet.clear();
        }
        assert!(matches!(receiver.recv(&mut packet), Err(ChannelError::Disconnected)));

        let (sender, receiver) = pair(Kind::SeqPacket);
        sender.send(b"x", &[null.as_fd()]).unwrap();
        let before = common::open_fds();
        peek(&receiver);
        assert_eq!(common::open_fds(), before + 1);
    });
}

fn peek(socket: impl AsFd) {
    let (mut byte, mut control) = ([0u8; 1], [0u64; 8]);
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all zeros is a msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), 64);
    // SAFETY: the header points to buffers of the lengths given, which outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, libc::MSG_PEEK) };
    assert_eq!(length, 1);
}

/// K31, K9: small messages with a descriptor each fill the queue: "would block", after more than a hundred. All that
/// were taken arrive, each with its own.
#[test]
fn k31_a_queue_of_descriptors() {
    let null = null();
    for kind in KINDS {
        let (sender, receiver) = pair(kind);
        let mut taken = 0;
        let full = loop {
            match sender.try_send(b"x", &[null.as_fd()]) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, ChannelError::WouldBlock) && taken > 100, "{kind:?}, {taken}: {full}");
        let mut packet = Packet::new();
        for _ in 0..taken {
            receiver.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"x"[..], 1), "{kind:?}");
        }
        assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)), "{kind:?}");
    }
}

/// H-04, H-15: a stream's peer that sends a byte out of band (MSG_OOB), with or without a descriptor, in any place: no
/// call spins or hangs over it, none delivers a descriptor that is not of its frame, and nothing leaks.
#[test]
fn h_15_a_byte_out_of_band() {
    common::alone("h_15_a_byte_out_of_band", || {
        let null = null();
        let frame = b"\x04\0\0\0\x01\0\0\0body";
        for cut in 0..=frame.len() {
            for fds in [&[][..], &[null.as_raw_fd()]] {
                let (raw, socket) = UnixStream::pair().unwrap();
                let channel = Channel::from(socket);
                let mut packet = Packet::new();
                let before = common::open_fds();
                if cut > 0 {
                    send_blocks(&raw, &frame[..cut], &[&[null.as_raw_fd()]]).unwrap();
                }
                let rights = [ControlMessage::ScmRights(fds)];
                let control = if fds.is_empty() { &[][..] } else { &rights };
                let sent = sendmsg::<()>(raw.as_raw_fd(), &[IoSlice::new(b"!")], control, MsgFlags::MSG_OOB, None);
                if sent == Err(Errno::EOPNOTSUPP) {
                    eprintln!("SKIPPED: this kernel has no bytes out of band on UNIX sockets");
                    return;
                }
                sent.unwrap();
                let deadline = std::time::Instant::now() + Duration::from_millis(20);
                let result = channel.recv_deadline(&mut packet, deadline);
                let whole = matches!(result, Ok(())) && packet.bytes() == b"body" && packet.fds().len() == 1;
                assert!(whole || matches!(result, Err(ChannelError::TimedOut)), "{cut}: {result:?}");
                packet.clear();
                if cut < frame.len() {
                    let first: &[&[RawFd]] = if cut == 0 { &[&[null.as_raw_fd()]] } else { &[] };
                    send_blocks(&raw, &frame[cut..], first).unwrap();
                    drop(raw);
                    let result = channel.recv_deadline(&mut packet, std::time::Instant::now() + LONG);
                    let whole = matches!(result, Ok(())) && packet.bytes() == b"body" && packet.fds().len() == 1;
                    let told = matches!(result, Err(ChannelError::Broken | ChannelError::Disconnected));
                    assert!(whole || told, "{cut}: {result:?}, {packet:?}");
                    packet.clear();
                    assert_eq!(common::open_fds() + 1, before, "{cut}");
                }
            }
        }
    });
}

//! Frames over SOCK_STREAM, from a plain socket that sends them in pieces, in one piece, or wrong.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::{Channel, ChannelError, DEFAULT_MAX_FDS, Kind, MAX_FDS, Packet};
use sendfd::{RecvWithFd, SendWithFd};

const LONG: Duration = Duration::from_secs(60);

/// A plain socket and the channel that it is connected to.
fn raw() -> (UnixStream, Channel) {
    let (raw, socket) = UnixStream::pair().unwrap();
    let channel = Channel::from(socket);
    channel.set_recv_timeout(Some(LONG)).unwrap();
    (raw, channel)
}

/// A frame, written out here by its documentation: two numbers, u32, little-endian, then the bytes.
fn frame(length: u32, count: u32, bytes: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), &count.to_le_bytes(), bytes].concat()
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// H-04: what a channel sends is the header that its documentation says, then the bytes, with the descriptors on the
/// first.
#[test]
fn h_04_the_frame_as_documented() {
    let (raw, channel) = raw();
    let null = null();
    channel.send(b"hello", &[null.as_fd(), null.as_fd()]).unwrap();
    let (mut bytes, mut fds) = ([0; 64], [0; 4]);
    // Only one byte is asked for; all the descriptors come with it.
    assert_eq!(raw.recv_with_fd(&mut bytes[..1], &mut fds).unwrap(), (1, 2));
    let length = (&raw).read(&mut bytes[1..]).unwrap() + 1;
    assert_eq!(bytes[..length], *b"\x05\0\0\0\x02\0\0\0hello");
    fds[..2].iter().for_each(|&fd| nix::unistd::close(fd).unwrap());
}

/// H-04, K10: a frame that is cut in two at any byte arrives whole with its descriptors, and so does the one behind it,
/// which is glued to its second half. Blocking and non-blocking.
#[test]
fn h_04_cut_at_every_byte() {
    common::alone("h_04_cut_at_every_byte", || {
        let null = null();
        let first = frame(5, 2, b"first");
        for nonblocking in [false, true] {
            let (mut raw, channel) = raw();
            channel.set_nonblocking(nonblocking).unwrap();
            let mut packet = Packet::new();
            let before = common::open_fds();
            for cut in 1..first.len() {
                raw.send_with_fd(&first[..cut], &[null.as_raw_fd(); 2]).unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        while let Err(error) = channel.recv(&mut packet) {
                            assert!(nonblocking && matches!(error, ChannelError::WouldBlock), "{error}");
                            thread::yield_now();
                        }
                    });
                    // The second half is sent when the first has been taken.
                    while unread(&channel) {
                        thread::yield_now();
                    }
                    raw.write_all(&[&first[cut..], &frame(6, 0, b"second")[..]].concat()).unwrap();
                });
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"first"[..], 2), "cut at {cut}");
                channel.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"second"[..], 0), "cut at {cut}");
            }
            assert_eq!(common::open_fds(), before);
        }
    });
}

fn unread(channel: &Channel) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
}

/// H-04: byte by byte, with a descriptor on some of the header's: those of one frame are that frame's.
#[test]
fn h_04_byte_by_byte() {
    let (raw, channel) = raw();
    let files = [(); 4].map(|()| tempfile::tempfile().unwrap());
    let mut packet = Packet::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                let bytes = frame(4, 4, b"four");
                for (place, byte) in bytes.iter().enumerate() {
                    let riding = if place < 8 && place % 2 == 0 { &files[place / 2..][..1] } else { &[] };
                    let riding: Vec<_> = riding.iter().map(AsRawFd::as_raw_fd).collect();
                    raw.send_with_fd(&[*byte], &riding).unwrap();
                }
            }
        });
        for _ in 0..20 {
            channel.recv(&mut packet).unwrap();
            assert_eq!(packet.bytes(), b"four");
            let received: Vec<_> = packet.fds().iter().map(common::identity).collect();
            assert_eq!(received, files.iter().map(common::identity).collect::<Vec<_>>());
        }
    });
}

/// H-04, K10, K24: frames that arrive in one piece are told apart, with the descriptors on each kept to it.
#[test]
fn h_04_glued_frames() {
    let (raw, channel) = raw();
    let files = [(); 3].map(|()| tempfile::tempfile().unwrap());
    let mut packet = Packet::new();
    // Bytes without descriptors, then a frame with: the kernel glues what follows bytes that have none.
    raw.send_with_fd(&[frame(1, 0, b"a"), frame(0, 0, b""), frame(3, 0, b"bcd")].concat(), &[]).unwrap();
    raw.send_with_fd(&[frame(1, 2, b"e"), frame(2, 0, b"fg")].concat(), &[files[0].as_raw_fd(), files[1].as_raw_fd()])
        .unwrap();
    raw.send_with_fd(&frame(0, 1, b""), &[files[2].as_raw_fd()]).unwrap();
    let expected: [(&[u8], &[File]); 6] =
        [(b"a", &[]), (b"", &[]), (b"bcd", &[]), (b"e", &files[..2]), (b"fg", &[]), (b"", &files[2..])];
    for (bytes, files) in expected {
        channel.recv(&mut packet).unwrap();
        assert_eq!(packet.bytes(), bytes);
        let received: Vec<_> = packet.fds().iter().map(common::identity).collect();
        assert_eq!(received, files.iter().map(common::identity).collect::<Vec<_>>());
    }
}

/// H-15, P-08: a header that says fewer or more descriptors than came is an error, all are closed, and each later
/// receive says that the stream is broken. Sending is not hurt.
#[test]
fn h_15_p_08_a_lying_count() {
    common::alone("h_15_p_08_a_lying_count", || {
        let null = null();
        for real in [0, 1, 2, 5, DEFAULT_MAX_FDS] {
            for told in [0, 1, 2, 3, 6, 17, 18, 254, 1 << 16, u32::MAX - 1, u32::MAX] {
                if usize::try_from(told) == Ok(real) {
                    continue;
                }
                let (mut raw, channel) = raw();
                let mut packet = Packet::new();
                let before = common::open_fds();
                raw.send_with_fd(&frame(3, told, b"lie"), &vec![null.as_raw_fd(); real]).unwrap();
                raw.write_all(&frame(5, 0, b"truth")).unwrap();
                for _ in 0..3 {
                    let result = channel.recv(&mut packet);
                    assert!(matches!(result, Err(ChannelError::Broken)), "{told} for {real}: {result:?}");
                    assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                    assert_eq!(common::open_fds(), before);
                }
                channel.send(b"away", &[]).unwrap();
                let mut bytes = [0; 12];
                raw.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes[..], frame(4, 0, b"away"));
            }
        }
    });
}

/// P-02, P-03: a header with a length over the packet is "too large" before anything is allocated or waited for, and
/// the descriptors are closed. A rest of up to a megabyte is passed over, before the next frame is read.
#[test]
fn p_02_p_03_a_length_over_the_packet() {
    common::alone("p_02_p_03_a_length_over_the_packet", || {
        let null = null();
        for capacity in [0, 4, 65536] {
            for excess in [1, 9, 10_000, 1 << 20] {
                let (mut raw, channel) = raw();
                let mut packet = Packet::with_capacity(capacity);
                let (fds, memory) = (common::open_fds(), common::resident_kib());
                let length = u32::try_from(capacity + excess).unwrap();
                raw.send_with_fd(&frame(length, 3, b""), &[null.as_raw_fd(); 3]).unwrap();
                assert!(matches!(channel.recv(&mut packet), Err(ChannelError::TooLarge)), "{length} in {capacity}");
                assert!(matches!(channel.try_recv(&mut packet), Err(ChannelError::WouldBlock)));
                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                assert_eq!(common::open_fds(), fds);
                assert!(common::resident_kib() < memory + 8192);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        raw.write_all(&vec![7; capacity + excess]).unwrap();
                        raw.send_with_fd(&frame(0, 1, b""), &[null.as_raw_fd()]).unwrap();
                    });
                    channel.recv(&mut packet).unwrap();
                });
                assert_eq!((packet.bytes().len(), packet.fds().len()), (0, 1));
            }
        }
    });
}

/// H-15, P-02, P-03: what is too large by more than a megabyte, or has descriptors where no frame has them, is not
/// passed over: each later receive says that the stream is broken, and nothing is kept.
#[test]
fn h_15_p_02_p_03_a_length_that_is_not_passed_over() {
    common::alone("h_15_p_02_p_03_a_length_that_is_not_passed_over", || {
        let null = null();
        for length in [(1 << 20) + 5, 1 << 31, u32::MAX - 8, u32::MAX - 7, u32::MAX, 5] {
            let (raw, channel) = raw();
            let mut packet = Packet::with_capacity(4);
            let fds = common::open_fds();
            raw.send_with_fd(&frame(length, 3, b""), &[null.as_raw_fd(); 3]).unwrap();
            assert!(matches!(channel.recv(&mut packet), Err(ChannelError::TooLarge)), "{length}");
            let riding = if length == 5 { 3 } else { 0 };
            raw.send_with_fd(b"x", &vec![null.as_raw_fd(); riding]).unwrap();
            for _ in 0..3 {
                assert!(matches!(channel.try_recv(&mut packet), Err(ChannelError::Broken)), "{length}");
                assert_eq!(common::open_fds(), fds);
            }
        }
    });
}

/// H-15, P-08: a header with more descriptors than a message can have is no header: nothing is waited for, and each
/// later receive says that the stream is broken.
#[test]
fn h_15_p_08_an_impossible_count() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0, 0, 0, 0, 254, 0, 0, 0], &[0xff; 8]] {
        let (mut raw, channel) = raw();
        raw.write_all(bytes).unwrap();
        for _ in 0..3 {
            assert!(matches!(channel.recv(&mut Packet::new()), Err(ChannelError::Broken)));
        }
    }
}

/// H-15, H-16: a peer that dies inside a frame: "disconnected", all closed; and no later call takes it for anything
/// else than the end.
#[test]
fn h_15_a_death_inside_a_frame() {
    common::alone("h_15_a_death_inside_a_frame", || {
        let null = null();
        let whole = frame(5, 2, b"first");
        for cut in 0..whole.len() {
            let (raw, channel) = raw();
            let mut packet = Packet::new();
            let before = common::open_fds();
            if cut > 0 {
                raw.send_with_fd(&whole[..cut], &[null.as_raw_fd(); 2]).unwrap();
            }
            raw.shutdown(Shutdown::Write).unwrap();
            let result = channel.recv(&mut packet);
            assert!(matches!(result, Err(ChannelError::Disconnected)), "cut at {cut}: {result:?}");
            let again = channel.recv(&mut packet);
            assert!(matches!(again, Err(ChannelError::Disconnected)), "cut at {cut}: {again:?}");
            assert!(packet.bytes().is_empty() && packet.fds().is_empty());
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// P-11, H-13, H-15: more descriptors than the budget, on the first byte or strewn over the header: all are closed, and
/// the frame behind it is read as if nothing had been. Behind the header no frame of a `Channel` has any: the stream is
/// broken.
#[test]
fn p_11_h_13_over_the_budget_in_pieces() {
    common::alone("p_11_h_13_over_the_budget_in_pieces", || {
        let null = null();
        for budget in [0, 1, 3, 16] {
            for pieces in [1, 2, 5, 12] {
                let (raw, mut channel) = raw();
                channel.set_max_fds(budget);
                let mut packet = Packet::new();
                let before = common::open_fds();
                let bytes = frame(4, 24, b"many");
                for piece in bytes.chunks(12 / pieces) {
                    let each = 24 * piece.len() / 12;
                    raw.send_with_fd(piece, &vec![null.as_raw_fd(); each]).unwrap();
                }
                raw.send_with_fd(&frame(2, 0, b"on"), &[]).unwrap();
                let result = channel.recv(&mut packet);
                if pieces > 2 {
                    assert!(matches!(result, Err(ChannelError::Broken)), "budget {budget}: {result:?}");
                    assert_eq!(common::open_fds(), before);
                    continue;
                }
                assert!(
                    matches!(result, Err(ChannelError::TooManyDescriptors { budget: told }) if told == budget),
                    "budget {budget} in {pieces} pieces: {result:?}"
                );
                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                assert_eq!(common::open_fds(), before);
                channel.recv(&mut packet).unwrap();
                assert_eq!(packet.bytes(), b"on");
            }
        }
        assert_eq!(MAX_FDS, 253);
    });
}

/// H-06, K25: a send whose timeout passes in the middle of a frame says so; the channel holds the rest, which goes
/// before whatever is sent next, or with a flush. Its peer gets each message whole and in order.
#[test]
fn h_06_a_send_cut_short_is_finished_later() {
    let (one, other) = Channel::pair_of(Kind::Stream).unwrap();
    one.set_send_timeout(Some(Duration::from_millis(50))).unwrap();
    let long = vec![7; 4 << 20];
    let null = null();
    assert!(matches!(one.send(&long, &[null.as_fd()]), Err(ChannelError::Unfinished)));
    for _ in 0..3 {
        assert!(matches!(one.send(b"next", &[]), Err(ChannelError::TimedOut)), "nothing of it was sent");
        assert!(matches!(one.flush(), Err(ChannelError::TimedOut)));
    }
    let mut packet = Packet::with_capacity(long.len());
    thread::scope(|scope| {
        scope.spawn(|| {
            one.set_send_timeout(None).unwrap();
            one.flush().unwrap();
            one.send(b"next", &[null.as_fd(); 2]).unwrap();
        });
        other.recv(&mut packet).unwrap();
        assert!(packet.bytes() == long && packet.fds().len() == 1);
        other.recv(&mut packet).unwrap();
        assert_eq!((packet.bytes(), packet.fds().len()), (&b"next"[..], 2));
    });
}

/// H-15: a channel that is dropped with a frame half sent leaves its peer a half frame and the end, which is a hang-up.
#[test]
fn h_15_an_unfinished_send_is_dropped() {
    let (one, other) = Channel::pair_of(Kind::Stream).unwrap();
    let long = vec![7; 16 << 20];
    assert!(matches!(one.try_send(&long, &[]), Err(ChannelError::Unfinished)));
    drop(one);
    let mut packet = Packet::with_capacity(long.len());
    assert!(matches!(other.recv(&mut packet), Err(ChannelError::Disconnected)));
    assert!(packet.bytes().is_empty());
}

/// H-06: a call that is not to wait does not wait for another thread either that is inside a frame and waits for the
/// peer: nor does one longer than until its deadline or the channel's timeout.
#[test]
fn h_06_not_behind_another_thread() {
    let (mut raw, channel) = raw();
    let (large, soon) = (vec![7; 4 << 20], Duration::from_millis(50));
    let (tell, told) = std::sync::mpsc::channel();
    let late = Instant::now() + LONG;
    thread::scope(|scope| {
        scope.spawn(|| channel.recv_deadline(&mut Packet::new(), late).unwrap());
        scope.spawn(|| channel.send_deadline(&large, &[], late).unwrap());
        // Each of them is inside when half a header has been taken, and a piece of a frame sent.
        raw.write_all(&[5, 0, 0, 0]).unwrap();
        while unread(&channel) {
            thread::yield_now();
        }
        assert_eq!((&raw).read(&mut [0; 8]).unwrap(), 8);
        scope.spawn(|| {
            let mut packet = Packet::new();
            tell.send(("try_recv", channel.try_recv(&mut packet))).unwrap();
            tell.send(("try_send", channel.try_send(b"x", &[]))).unwrap();
            let soon_over = || Instant::now() + soon;
            tell.send(("recv_deadline", channel.recv_deadline(&mut packet, soon_over()))).unwrap();
            tell.send(("send_deadline", channel.send_deadline(b"x", &[], soon_over()))).unwrap();
            channel.set_recv_timeout(Some(soon)).unwrap();
            channel.set_send_timeout(Some(soon)).unwrap();
            tell.send(("recv with a timeout", channel.recv(&mut packet))).unwrap();
            tell.send(("send with a timeout", channel.send(b"x", &[]))).unwrap();
            channel.set_nonblocking(true).unwrap();
            tell.send(("recv, non-blocking", channel.recv(&mut packet))).unwrap();
            tell.send(("send, non-blocking", channel.send(b"x", &[]))).unwrap();
            tell.send(("flush, non-blocking", channel.flush())).unwrap();
        });
        for expected in ["WouldBlock", "TimedOut", "TimedOut", "WouldBlock"].into_iter().flat_map(|told| [told; 2]) {
            let (call, result) = told.recv_timeout(LONG / 4).unwrap();
            assert_eq!(format!("{:?}", result.unwrap_err()), expected, "{call}");
        }
        assert!(matches!(told.recv_timeout(LONG / 4).unwrap().1, Err(ChannelError::WouldBlock)));
        // The others go on as if nothing had been.
        raw.write_all(b"\0\0\0\0hello").unwrap();
        let mut bytes = vec![0; large.len()];
        raw.read_exact(&mut bytes).unwrap();
        assert!(bytes == large);
    });
}

/// H-15: a socket that is taken out of a channel in the middle of a message, in either direction, can be used for no
/// other: its peer would take that for the rest of this one.
#[test]
fn h_15_taken_out_in_the_middle() {
    let (one, other) = Channel::pair_of(Kind::Stream).unwrap();
    assert!(matches!(one.try_send(&vec![1; 4 << 20], &[]), Err(ChannelError::Unfinished)));
    let again = Channel::try_from(OwnedFd::from(one)).unwrap();
    assert!(matches!(again.try_send(&vec![2; 4 << 20], &[]), Err(ChannelError::Disconnected)));
    let mut packet = Packet::with_capacity(4 << 20);
    assert!(matches!(other.recv(&mut packet), Err(ChannelError::Disconnected)));

    let (mut raw, channel) = raw();
    raw.write_all(&frame(8, 0, b"\x04\0\0\0")).unwrap();
    assert!(matches!(channel.try_recv(&mut packet), Err(ChannelError::WouldBlock)));
    let again = Channel::try_from(OwnedFd::from(channel)).unwrap();
    let _ = raw.write_all(b"\0\0\0\0abcd");
    assert!(matches!(again.recv(&mut packet), Err(ChannelError::Disconnected)));

    // Between messages it is as good as before.
    let (one, other) = Channel::pair_of(Kind::Stream).unwrap();
    one.send(b"first", &[]).unwrap();
    let again = Channel::try_from(OwnedFd::from(one)).unwrap();
    again.send(b"second", &[]).unwrap();
    for message in [&b"first"[..], b"second"] {
        other.recv(&mut packet).unwrap();
        assert_eq!(packet.bytes(), message);
    }
}

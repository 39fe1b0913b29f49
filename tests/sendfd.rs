//! Code that is generic over the traits of the crate sendfd takes a `UnixStream` and a `Channel` alike; through a
//! channel it gains close-on-exec, and errors where messages would be cut silently.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use fdbroker::{Channel, Kind};
use sendfd::{RecvWithFd, SendWithFd};

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];

/// What a user of sendfd has written: it knows nothing of channels.
fn hand_over<S: SendWithFd, R: RecvWithFd>(sender: &S, receiver: &R, files: &[File]) -> io::Result<Vec<RawFd>> {
    let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    assert_eq!(sender.send_with_fd(b"files", &numbers)?, 5);
    let (mut bytes, mut fds) = ([0; 64], [-1; 8]);
    let (length, count) = receiver.recv_with_fd(&mut bytes, &mut fds)?;
    assert_eq!(&bytes[..length], b"files");
    Ok(fds[..count].to_vec())
}

fn files() -> Vec<File> {
    (0..3)
        .map(|number| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "file {number}").unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            file
        })
        .collect()
}

/// Whether a number is close-on-exec, as /proc says it: the trait gives numbers, nobody owns them yet.
fn is_close_on_exec(number: RawFd) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC != 0
}

/// Reads a received file to its end, by its number, and closes it.
fn read_and_close(number: RawFd) -> String {
    let mut text = String::new();
    File::open(format!("/proc/self/fd/{number}")).unwrap().read_to_string(&mut text).unwrap();
    nix::unistd::close(number).unwrap();
    text
}

/// H-10: the same generic function over sockets and over channels of each kind delivers the same files, in order; only
/// through a channel are they close-on-exec.
#[test]
fn h_10_a_stream_and_a_channel_alike() {
    let expected = ["file 0", "file 1", "file 2"];
    let files = files();
    let (one, other) = UnixStream::pair().unwrap();
    let plain = hand_over(&one, &other, &files).unwrap();
    // sendfd's own defect, for which this crate's implementation is there.
    assert!(plain.iter().all(|&fd| !is_close_on_exec(fd)));
    assert_eq!(plain.into_iter().map(read_and_close).collect::<Vec<_>>(), expected);
    let (one, other) = UnixDatagram::pair().unwrap();
    let plain = hand_over(&one, &other, &files).unwrap();
    assert_eq!(plain.into_iter().map(read_and_close).collect::<Vec<_>>(), expected);

    for kind in KINDS {
        let (one, other) = Channel::pair_of(kind).unwrap();
        let received = hand_over(&one, &other, &files).unwrap();
        assert!(received.iter().all(|&fd| is_close_on_exec(fd)), "{kind:?}");
        assert_eq!(received.into_iter().map(read_and_close).collect::<Vec<_>>(), expected, "{kind:?}");
        assert!(hand_over(&other, &one, &[]).unwrap().is_empty());
    }
}

/// H-10: a hang-up is `Ok((0, 0))`, as it is for a `UnixStream`.
#[test]
fn h_10_a_hang_up() {
    let told = |receiver: &dyn RecvWithFd| receiver.recv_with_fd(&mut [0; 8], &mut [0; 8]).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    drop(one);
    assert_eq!(told(&other), (0, 0));
    for kind in [Kind::SeqPacket, Kind::Stream] {
        let (one, other) = Channel::pair_of(kind).unwrap();
        drop(one);
        assert_eq!(told(&other), (0, 0), "{kind:?}");
    }
}

/// H-10: bytes that do not fit the caller's slice are an error, not a cut; every descriptor is closed, and the channel,
/// where the kernel keeps messages apart, goes on.
#[test]
fn h_10_cut_bytes_are_an_error() {
    common::alone("h_10_cut_bytes_are_an_error", || {
        let files = files();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        for kind in KINDS {
            let (one, other) = Channel::pair_of(kind).unwrap();
            let before = common::open_fds();
            let (mut bytes, mut fds) = ([0xee; 4], [-1; 8]);
            one.send_with_fd(b"seven b", &numbers).unwrap();
            let error = other.recv_with_fd(&mut bytes, &mut fds).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{kind:?}: {error}");
            assert_eq!((bytes, fds), ([0xee; 4], [-1; 8]), "nothing is delivered in part");
            assert_eq!(common::open_fds(), before, "{kind:?}");
            if kind != Kind::Stream {
                one.send_with_fd(b"four", &[]).unwrap();
                assert_eq!(other.recv_with_fd(&mut bytes, &mut fds).unwrap(), (4, 0));
                assert_eq!(&bytes, b"four");
            }
        }
    });
}

/// H-10: descriptors that do not fit the caller's slice are an error, not a cut; every one is closed, and the channel
/// goes on. The slice's length counts, not the channel's budget.
#[test]
fn h_10_cut_descriptors_are_an_error() {
    common::alone("h_10_cut_descriptors_are_an_error", || {
        let null = File::open("/dev/null").unwrap();
        for kind in KINDS {
            let (one, other) = Channel::pair_of(kind).unwrap();
            let before = common::open_fds();
            for room in [0, 1, 2, 3, 100] {
                let (mut bytes, mut fds) = ([0; 8], vec![-1; room]);
                one.send_with_fd(b"many", &vec![null.as_raw_fd(); room + 1]).unwrap();
                let error = other.recv_with_fd(&mut bytes, &mut fds).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{kind:?}, {room}: {error}");
                assert_eq!(fds, vec![-1; room]);
                assert_eq!(common::open_fds(), before, "{kind:?}, {room}");

                one.send_with_fd(b"fits", &vec![null.as_raw_fd(); room]).unwrap();
                assert_eq!(other.recv_with_fd(&mut bytes, &mut fds).unwrap(), (4, room));
                fds.into_iter().for_each(|fd| nix::unistd::close(fd).unwrap());
            }
            // Room for more than the kernel carries.
            let mut fds = [-1; 300];
            one.send_with_fd(b"253", &[null.as_raw_fd(); 253]).unwrap();
            assert_eq!(other.recv_with_fd(&mut [0; 8], &mut fds).unwrap(), (3, 253));
            fds[..253].iter().for_each(|&fd| nix::unistd::close(fd).unwrap());
            assert_eq!(common::open_fds(), before);
            assert_eq!(
                one.send_with_fd(b"254", &[null.as_raw_fd(); 254]).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    });
}

/// H-10, K2: a full descriptor table is EMFILE, not `Ok` with fewer descriptors.
#[test]
fn h_10_a_full_table_is_emfile() {
    common::alone_with(64, "h_10_a_full_table_is_emfile", || {
        let null = File::open("/dev/null").unwrap();
        for kind in KINDS {
            let (one, other) = Channel::pair_of(kind).unwrap();
            let mut filling: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
            filling.pop();
            one.send_with_fd(b"three", &[null.as_raw_fd(); 3]).unwrap();
            let error = other.recv_with_fd(&mut [0; 8], &mut [-1; 8]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{kind:?}");
            assert_eq!(filling.len() + 1, filling.len() + null.try_clone().into_iter().count());
        }
    });
}

/// H-10: a plain sendfd peer and a channel understand each other where the kernel keeps messages apart.
#[test]
fn h_10_a_plain_peer() {
    let files = files();
    let (plain, socket) = UnixDatagram::pair().unwrap();
    let channel = Channel::from(socket);
    for fd in hand_over(&plain, &channel, &files).unwrap() {
        assert!(is_close_on_exec(fd));
        nix::unistd::close(fd).unwrap();
    }
    let received = hand_over(&channel, &plain, &files).unwrap();
    assert_eq!(received.into_iter().map(read_and_close).collect::<Vec<_>>(), ["file 0", "file 1", "file 2"]);
}

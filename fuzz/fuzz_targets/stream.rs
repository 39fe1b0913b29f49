//! H-04, H-15, P-18: a stream channel against its peer. An honest peer's frames, cut and glued in every way, arrive
//! each with its own descriptors, or are the error that they have to be. What a hostile peer sends is a message within
//! the bounds or an error, and what is broken stays so. No descriptor is left over.
//!
//! The input: a byte whose lowest bit says which peer it is, a byte for the packet's capacity, a byte for the budget, a
//! byte that says how many frames follow, two bytes for each (its length and its descriptors), and then what is done, a
//! byte each.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use fdbroker::{Channel, ChannelError, Packet, raw};

static DEVICES: OnceLock<[(File, u64); 2]> = OnceLock::new();

fn devices() -> &'static [(File, u64); 2] {
    DEVICES.get_or_init(|| {
        ["/dev/null", "/dev/zero"].map(|path| {
            let file = File::open(path).expect("a device");
            let number = file.metadata().expect("its number").rdev();
            (file, number)
        })
    })
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [mode, capacity, budget, rest @ ..] = input else { return };
    devices();
    let before = open_descriptors();
    {
        let (peer, socket) = UnixStream::pair().expect("a pair");
        peer.set_nonblocking(true).expect("non-blocking");
        let mut channel = Channel::from(socket);
        channel.set_max_fds((budget % 20).into());
        let capacity = (*capacity).into();
        let end = End { channel, packet: Packet::with_capacity(capacity), capacity };
        if mode & 1 == 0 { honest(peer, end, rest) } else { hostile(peer, end, rest) }
    }
    assert_eq!(open_descriptors(), before);
});

struct End {
    channel: Channel,
    packet: Packet,
    capacity: usize,
}

struct Frame {
    bytes: Vec<u8>,
    /// Which of the devices each is.
    fds: Vec<usize>,
}

fn honest(peer: UnixStream, mut end: End, input: &[u8]) {
    let [count, input @ ..] = input else { return };
    let count = usize::from(count % 8).min(input.len() / 2);
    let (shapes, mut script) = input.split_at(2 * count);
    let frame = |shape: &[u8]| Frame {
        bytes: (0..shape[0]).collect(),
        fds: (0..shape[1] % 24).map(|n| usize::from(n ^ shape[0]) % 2).collect(),
    };
    let frames: Vec<_> = shapes.chunks(2).map(frame).collect();
    let mut due = frames.iter();
    for frame in &frames {
        let fds: Vec<_> = frame.fds.iter().map(|&device| devices()[device].0.as_fd()).collect();
        let mut wire = Vec::new();
        for number in [frame.bytes.len(), fds.len()] {
            wire.extend_from_slice(&u32::try_from(number).expect("small").to_le_bytes());
        }
        wire.extend_from_slice(&frame.bytes);
        let (mut unsent, mut fds) = (&wire[..], &fds[..]);
        while !unsent.is_empty() {
            // The script's next byte: how many bytes are sent, and whether something is received after that.
            let (step, more) = script.split_first().map_or((255, script), |(step, more)| (*step, more));
            script = more;
            let piece = unsent.len().min(usize::from(step >> 1) + 1);
            // A full queue is emptied; an empty one has room.
            let sent = raw::send(&peer, &unsent[..piece], fds).or_else(|_| {
                while end.arrives(&mut due) {}
                raw::send(&peer, &unsent[..piece], fds)
            });
            assert_eq!(sent.expect("room"), piece);
            (unsent, fds) = (&unsent[piece..], &[]);
            if step & 1 == 1 {
                while end.arrives(&mut due) {}
            }
        }
    }
    while end.arrives(&mut due) {}
    assert!(due.next().is_none(), "a frame is missing");
    drop(peer);
    for _ in 0..2 {
        assert!(matches!(end.channel.try_recv(&mut end.packet), Err(ChannelError::Disconnected)));
    }
}

impl End {
    /// Whether a frame was there: then it was what is due.
    fn arrives<'f>(&mut self, due: &mut impl Iterator<Item = &'f Frame>) -> bool {
        let result = self.channel.try_recv(&mut self.packet);
        if matches!(result, Err(ChannelError::WouldBlock)) {
            return false;
        }
        let frame = due.next().expect("a frame that was not sent");
        match result {
            Ok(()) => {
                assert_eq!(self.packet.bytes(), frame.bytes);
                let device = |fd: BorrowedFd<'_>| {
                    let file = File::from(fd.try_clone_to_owned().expect("a duplicate"));
                    file.metadata().expect("its number").rdev()
                };
                let got: Vec<_> = self.packet.fds().iter().map(|fd| device(fd.as_fd())).collect();
                let sent: Vec<_> = frame.fds.iter().map(|&index| devices()[index].1).collect();
                assert_eq!(got, sent);
            }
            Err(ChannelError::TooLarge) => assert!(frame.bytes.len() > self.capacity),
            Err(ChannelError::TooManyDescriptors { budget }) => assert!(frame.fds.len() > budget),
            Err(error) => panic!("{error}"),
        }
        true
    }
}

/// What is done: a byte that says how many bytes follow to be sent, and with how many descriptors.
fn hostile(peer: UnixStream, mut end: End, mut script: &[u8]) {
    let null = devices()[0].0.as_fd();
    let mut broken = false;
    while let [step, rest @ ..] = script {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(step & 15)));
        script = rest;
        if !piece.is_empty() {
            let _ = raw::send(&peer, piece, &vec![null; usize::from(step >> 4)]);
        }
        match end.channel.try_recv(&mut end.packet) {
            Ok(()) => {
                assert!(!broken, "what is broken stays so");
                assert!(end.packet.fds().len() <= end.channel.max_fds());
            }
            Err(error) => {
                assert!(end.packet.bytes().is_empty() && end.packet.fds().is_empty());
                match error {
                    ChannelError::Broken => broken = true,
                    ChannelError::WouldBlock | ChannelError::TooLarge | ChannelError::TooManyDescriptors { .. } => {
                        assert!(!broken, "what is broken stays so")
                    }
                    error => panic!("{error}"),
                }
            }
        }
    }
}

//! `[both]` Raw calls, as a careful C program makes them: the CMSG macros, close-on-exec in the call, every buffer made
//! once, all that came is closed, the flags are looked at.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, numbers, own, pair, repeat};

pub(super) const PEER: Peer = Peer {
    name: "raw calls (libc)",
    package: "libc",
    ours: false,
    frames: false,
    most: MAX_FDS,
    trips: make_trips,
    receiver,
};

/// Length and number of descriptors: the framing of a Channel over a stream.
const HEADER: usize = 8;

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    let (sender, receiver) = pair(job.kind);
    let fds = numbers(job.fds);
    let mut control = Control::new(MAX_FDS);
    let mut bytes = [0; PAYLOAD.len()];
    if !job.framed {
        return Ok(repeat(move || {
            send(&sender, &[&PAYLOAD], &fds, &mut control);
            let (len, flags) = recv(&receiver, &mut bytes, Some(&mut control)).expect("recvmsg");
            assert!(len == PAYLOAD.len() && flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0);
            assert_eq!(control.each(close), fds.len());
        }));
    }
    let mut header = [0; HEADER];
    Ok(repeat(move || {
        let [length, count] = [PAYLOAD.len(), fds.len()].map(|number| (number as u32).to_le_bytes());
        header[..4].copy_from_slice(&length);
        header[4..].copy_from_slice(&count);
        send(&sender, &[&header, &PAYLOAD], &fds, &mut control);
        let (len, flags) = recv(&receiver, &mut header, Some(&mut control)).expect("recvmsg");
        assert!(len == HEADER && flags & libc::MSG_CTRUNC == 0);
        let length = u32::from_le_bytes(header[..4].try_into().expect("4 bytes")) as usize;
        let count = u32::from_le_bytes(header[4..].try_into().expect("4 bytes")) as usize;
        assert_eq!(control.each(close), count);
        let (len, flags) = recv(&receiver, &mut bytes[..length], None).expect("recvmsg");
        assert!(len == length && flags & libc::MSG_CTRUNC == 0);
    }))
}

fn receiver(socket: OwnedFd, _: Kind, room: Room) -> Receiver {
    let mut control = Control::new(room.fds);
    let mut bytes = vec![0; room.bytes];
    Box::new(move || {
        let (len, flags) = recv(&socket, &mut bytes, Some(&mut control)).map_err(|error| error.to_string())?;
        let mut fds = Vec::new();
        control.each(|number| fds.push(own(number)));
        Ok(Got { bytes: Some(len), fds, cut: flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 })
    })
}

/// A control buffer, aligned by its type.
struct Control {
    buffer: Box<[u64]>,
    room: usize,
    header: libc::msghdr,
}

impl Control {
    fn new(fds: usize) -> Self {
        let bytes = fds * mem::size_of::<RawFd>();
        // SAFETY: CMSG_SPACE and CMSG_LEN calculate; all zeros is a msghdr, whose fields are integers and pointers.
        let (space, room, header) =
            unsafe { (libc::CMSG_SPACE(bytes as u32), libc::CMSG_LEN(bytes as u32), mem::zeroed()) };
        Self { buffer: vec![0; (space as usize).div_ceil(8)].into(), room: room as usize, header }
    }

    /// Gives each descriptor of the last receive to `take`, and answers how many there were.
    fn each(&self, mut take: impl FnMut(RawFd)) -> usize {
        let mut count = 0;
        // SAFETY: `header` is as the last recvmsg left it and points to `buffer`: the macros stay within it, and each
        // block of rights holds whole descriptors.
        unsafe {
            let mut block = libc::CMSG_FIRSTHDR(&self.header);
            while let Some(header) = block.as_ref() {
                if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
                    let data = libc::CMSG_DATA(block).cast::<RawFd>();
                    let number = (header.cmsg_len - libc::CMSG_LEN(0) as usize) / mem::size_of::<RawFd>();
                    (0..number).for_each(|index| take(data.add(index).read_unaligned()));
                    count += number;
                }
                block = libc::CMSG_NXTHDR(&self.header, block);
            }
        }
        count
    }
}

fn send<const N: usize>(socket: &OwnedFd, bytes: &[&[u8]; N], fds: &[RawFd], control: &mut Control) {
    let mut parts = bytes.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: the header points to `parts`, which point to `bytes`, and to the control buffer, which has room for
    // MAX_FDS descriptors; all outlive the call.
    let sent = unsafe {
        let size = mem::size_of_val(fds) as u32;
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = N as _;
        header.msg_control = control.buffer.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(size) as _;
        let block = libc::CMSG_FIRSTHDR(&header);
        (*block).cmsg_level = libc::SOL_SOCKET;
        (*block).cmsg_type = libc::SCM_RIGHTS;
        (*block).cmsg_len = libc::CMSG_LEN(size) as _;
        ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(block).cast(), fds.len());
        libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL)
    };
    assert_eq!(sent, bytes.iter().map(|part| part.len()).sum::<usize>() as isize);
}

/// Answers length and flags.
fn recv(socket: &OwnedFd, bytes: &mut [u8], control: Option<&mut Control>) -> io::Result<(usize, i32)> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a msghdr. It points to `part`, which points to `bytes`, and to the control buffer with the
    // length that it has; all are borrowed exclusively and outlive the call.
    unsafe {
        let mut plain = mem::zeroed();
        let header: &mut libc::msghdr = match control {
            Some(control) => {
                control.header.msg_control = control.buffer.as_mut_ptr().cast();
                control.header.msg_controllen = control.room as _;
                &mut control.header
            }
            None => &mut plain,
        };
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        let len = libc::recvmsg(socket.as_raw_fd(), header, libc::MSG_CMSG_CLOEXEC);
        if len < 0 { Err(io::Error::last_os_error()) } else { Ok((len as usize, header.msg_flags)) }
    }
}

fn close(number: RawFd) {
    // SAFETY: the kernel installed this number for us in the last receive, and it is closed once.
    unsafe { libc::close(number) };
}

//! `[both]` The crate sendfd. It has no type for SOCK_SEQPACKET: a `UnixDatagram` made of the descriptor does.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use sendfd::{RecvWithFd, SendWithFd};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, numbers, own, pair, repeat};

pub(super) const PEER: Peer =
    Peer { name: "sendfd", package: "sendfd", ours: false, frames: false, most: MAX_FDS, trips: make_trips, receiver };

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    let (sender, receiver) = pair(job.kind);
    match job.kind {
        _ if job.framed => Err("it has no framing"),
        Kind::SeqPacket => Ok(over(UnixDatagram::from(sender), UnixDatagram::from(receiver), job.fds)),
        Kind::Stream => Ok(over(UnixStream::from(sender), UnixStream::from(receiver), job.fds)),
    }
}

fn over(sender: impl SendWithFd + 'static, receiver: impl RecvWithFd + 'static, count: usize) -> Trips {
    let fds = numbers(count);
    let mut bytes = [0; PAYLOAD.len()];
    let mut received = vec![-1; count];
    repeat(move || {
        sender.send_with_fd(&PAYLOAD, &fds).expect("send");
        assert_eq!(receiver.recv_with_fd(&mut bytes, &mut received).expect("recv"), (PAYLOAD.len(), fds.len()));
        received.iter().for_each(|&number| drop(own(number)));
    })
}

fn receiver(socket: OwnedFd, kind: Kind, room: Room) -> Receiver {
    let socket: Box<dyn RecvWithFd> = match kind {
        Kind::SeqPacket => Box::new(UnixDatagram::from(socket)),
        Kind::Stream => Box::new(UnixStream::from(socket)),
    };
    let mut bytes = vec![0; room.bytes];
    let mut fds = vec![-1; room.fds];
    Box::new(move || {
        let (len, count) = socket.recv_with_fd(&mut bytes, &mut fds).map_err(|error| error.to_string())?;
        Ok(Got { bytes: Some(len), fds: fds[..count].iter().map(|&number| own(number)).collect(), cut: false })
    })
}

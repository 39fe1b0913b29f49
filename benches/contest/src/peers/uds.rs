//! `[both]` The crate uds.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use uds::{UnixSeqpacketConn, UnixStreamExt};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, numbers, own, pair, repeat};

pub(super) const PEER: Peer =
    Peer { name: "uds", package: "uds", ours: false, frames: false, most: MAX_FDS, trips: make_trips, receiver };

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    if job.framed {
        return Err("it has no framing");
    }
    let (sender, receiver) = pair(job.kind);
    let fds = numbers(job.fds);
    let mut bytes = [0; PAYLOAD.len()];
    let mut received = vec![-1; job.fds];
    if job.kind == Kind::Stream {
        let [sender, receiver] = [sender, receiver].map(UnixStream::from);
        return Ok(repeat(move || {
            sender.send_fds(&PAYLOAD, &fds).expect("send");
            assert_eq!(receiver.recv_fds(&mut bytes, &mut received).expect("recv"), (PAYLOAD.len(), fds.len()));
            received.iter().for_each(|&number| drop(own(number)));
        }));
    }
    let [sender, receiver] = [sender, receiver].map(connection);
    Ok(repeat(move || {
        sender.send_fds(&PAYLOAD, &fds).expect("send");
        assert_eq!(receiver.recv_fds(&mut bytes, &mut received).expect("recv"), (PAYLOAD.len(), false, fds.len()));
        received.iter().for_each(|&number| drop(own(number)));
    }))
}

fn receiver(socket: OwnedFd, kind: Kind, room: Room) -> Receiver {
    let mut bytes = vec![0; room.bytes];
    let mut fds = vec![-1; room.fds];
    if kind == Kind::Stream {
        let socket = UnixStream::from(socket);
        return Box::new(move || {
            let (len, count) = socket.recv_fds(&mut bytes, &mut fds).map_err(|error| error.to_string())?;
            Ok(Got { bytes: Some(len), fds: fds[..count].iter().map(|&number| own(number)).collect(), cut: false })
        });
    }
    let socket = connection(socket);
    Box::new(move || {
        let (len, cut, count) = socket.recv_fds(&mut bytes, &mut fds).map_err(|error| error.to_string())?;
        Ok(Got { bytes: Some(len), fds: fds[..count].iter().map(|&number| own(number)).collect(), cut })
    })
}

fn connection(socket: OwnedFd) -> UnixSeqpacketConn {
    // SAFETY: a connected socket of this type, given away.
    unsafe { UnixSeqpacketConn::from_raw_fd(socket.into_raw_fd()) }
}

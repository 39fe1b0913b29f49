//! `[both]` The crate passfd: one descriptor, on any socket by its number, with four bytes of its own.

use std::os::fd::{AsRawFd, OwnedFd};

use passfd::FdPassingExt;

use super::{Got, Job, Kind, Peer, Receiver, Room, Trips, numbers, own, pair, repeat};

pub(super) const PEER: Peer =
    Peer { name: "passfd", package: "passfd", ours: false, frames: false, most: 1, trips: make_trips, receiver };

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    if job.framed {
        return Err("it has no framing");
    }
    let [fd] = numbers(job.fds)[..] else { return Err("it passes one descriptor") };
    let (sender, receiver) = pair(job.kind);
    Ok(repeat(move || {
        sender.as_raw_fd().send_fd(fd).expect("send");
        drop(own(receiver.as_raw_fd().recv_fd().expect("recv")));
    }))
}

fn receiver(socket: OwnedFd, _: Kind, _: Room) -> Receiver {
    Box::new(move || {
        let fd = socket.as_raw_fd().recv_fd().map_err(|error| error.to_string())?;
        Ok(Got { bytes: None, fds: vec![own(fd)], cut: false })
    })
}

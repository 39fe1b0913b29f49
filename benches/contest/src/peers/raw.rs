//! `[both]` fdbroker's raw form: one sendmsg and one recvmsg, on any UNIX socket.

use std::os::fd::OwnedFd;

use fdbroker::raw::{self, Ancillary};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, borrowed, pair, repeat};

pub(super) const PEER: Peer = Peer {
    name: "fdbroker raw",
    package: "fdbroker",
    ours: true,
    frames: false,
    most: MAX_FDS,
    trips: make_trips,
    receiver,
};

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    if job.framed {
        return Err("it has no framing");
    }
    let (sender, receiver) = pair(job.kind);
    let fds = borrowed(job.fds);
    let mut bytes = [0; PAYLOAD.len()];
    let mut ancillary = Ancillary::new(job.fds);
    Ok(repeat(move || {
        assert_eq!(raw::send(&sender, &PAYLOAD, &fds).expect("send"), PAYLOAD.len());
        let received = raw::recv(&receiver, &mut bytes, &mut ancillary).expect("recv");
        assert!(received.len == PAYLOAD.len() && !received.bytes_cut && !received.ancillary_cut);
        assert_eq!(ancillary.take_fds().map(drop).count(), fds.len());
    }))
}

fn receiver(socket: OwnedFd, _: Kind, room: Room) -> Receiver {
    let mut bytes = vec![0; room.bytes];
    Box::new(move || {
        let mut ancillary = Ancillary::new(room.fds);
        let received = raw::recv(&socket, &mut bytes, &mut ancillary).map_err(|error| error.to_string())?;
        let fds = ancillary.take_fds().collect();
        Ok(Got { bytes: Some(received.len), fds, cut: received.bytes_cut || received.ancillary_cut })
    })
}

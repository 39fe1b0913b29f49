//! `[both]` fdbroker's Channel.

use std::os::fd::OwnedFd;

use fdbroker::{Channel, Packet};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, borrowed, repeat};

pub(super) const PEER: Peer = Peer {
    name: "fdbroker Channel",
    package: "fdbroker",
    ours: true,
    frames: true,
    most: MAX_FDS,
    trips: make_trips,
    receiver,
};

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    let kind = match (job.kind, job.framed) {
        (Kind::SeqPacket, _) => fdbroker::Kind::SeqPacket,
        (Kind::Stream, true) => fdbroker::Kind::Stream,
        (Kind::Stream, false) => return Err("it frames every message"),
    };
    let (sender, mut receiver) = Channel::pair_of(kind).expect("a pair");
    receiver.set_max_fds(job.fds);
    let fds = borrowed(job.fds);
    let mut packet = Packet::with_capacity(PAYLOAD.len());
    Ok(repeat(move || {
        sender.send(&PAYLOAD, &fds).expect("send");
        receiver.recv(&mut packet).expect("recv");
        assert!(packet.bytes().len() == PAYLOAD.len() && packet.fds().len() == fds.len());
        packet.clear();
    }))
}

fn receiver(socket: OwnedFd, _: Kind, room: Room) -> Receiver {
    let mut channel = Channel::try_from(socket).expect("a UNIX socket");
    channel.set_max_fds(room.fds);
    let mut packet = Packet::with_capacity(room.bytes);
    Box::new(move || {
        channel.recv(&mut packet).map_err(|error| format!("{error:?}"))?;
        let got = Got { bytes: Some(packet.bytes().len()), fds: packet.take_fds().collect(), cut: false };
        // With a pidfd of the sender, if the socket was set to have one.
        packet.clear();
        Ok(got)
    })
}

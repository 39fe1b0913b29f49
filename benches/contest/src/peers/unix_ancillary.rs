//! `[both]` The crate unix-ancillary, in both of its forms: its calls with the caller's buffers, which allocate least,
//! and its extension traits, which it recommends. For SOCK_SEQPACKET the traits need a `UnixDatagram` made of the
//! descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use unix_ancillary::{AncillaryData, SocketAncillary, UnixDatagramExt, UnixStreamExt, cmsg_recvmsg, cmsg_sendmsg};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, borrowed, pair, repeat};

pub(super) const PEER: Peer = Peer {
    name: "unix-ancillary",
    package: "unix-ancillary",
    ours: false,
    frames: false,
    most: MAX_FDS,
    trips: make_trips,
    receiver,
};
pub(super) const EXTENSIONS: Peer = Peer {
    name: "unix-ancillary traits",
    package: "unix-ancillary",
    ours: false,
    frames: false,
    most: MAX_FDS,
    trips: trait_trips,
    receiver: by_trait,
};

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    if job.framed {
        return Err("it has no framing");
    }
    let (sender, receiver) = pair(job.kind);
    let fds = borrowed(job.fds);
    let mut bytes = [0; PAYLOAD.len()];
    let mut buffers = [0; 2].map(|_: u8| vec![0; SocketAncillary::buffer_size_for_rights(fds.len())]);
    Ok(repeat(move || {
        let [outgoing, incoming] = &mut buffers;
        let mut ancillary = SocketAncillary::new(outgoing);
        ancillary.add_fds(&fds).expect("room");
        cmsg_sendmsg(sender.as_fd(), &[IoSlice::new(&PAYLOAD)], &ancillary).expect("send");
        let mut ancillary = SocketAncillary::new(incoming);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let result = cmsg_recvmsg(receiver.as_fd(), &mut parts, &mut ancillary).expect("recv");
        assert!(result.bytes_read == PAYLOAD.len() && !result.truncated && !result.data_truncated);
        assert_eq!(rights(&mut ancillary).map(drop).count(), fds.len());
    }))
}

fn receiver(socket: OwnedFd, _: Kind, room: Room) -> Receiver {
    let mut bytes = vec![0; room.bytes];
    let mut buffer = vec![0; SocketAncillary::buffer_size_for_rights(room.fds)];
    Box::new(move || {
        let mut ancillary = SocketAncillary::new(&mut buffer);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let result = cmsg_recvmsg(socket.as_fd(), &mut parts, &mut ancillary).map_err(|error| error.to_string())?;
        let fds = rights(&mut ancillary).collect();
        Ok(Got { bytes: Some(result.bytes_read), fds, cut: result.truncated || result.data_truncated })
    })
}

fn rights<'a>(ancillary: &'a mut SocketAncillary<'_>) -> impl Iterator<Item = OwnedFd> + 'a {
    let descriptors = |data| match data {
        AncillaryData::ScmRights(rights) => Some(rights),
        _ => None,
    };
    ancillary.messages().filter_map(descriptors).flatten()
}

fn trait_trips(job: Job) -> Result<Trips, &'static str> {
    let (sender, receiver) = pair(job.kind);
    match job.fds {
        _ if job.framed => Err("it has no framing"),
        1 => Ok(exactly::<1>(job.kind, sender, receiver)),
        MAX_FDS => Ok(exactly::<MAX_FDS>(job.kind, sender, receiver)),
        _ => Err("its number of descriptors is fixed when it is compiled"),
    }
}

fn exactly<const N: usize>(kind: Kind, sender: OwnedFd, receiver: OwnedFd) -> Trips {
    let fds = borrowed(N);
    let mut bytes = [0; PAYLOAD.len()];
    match kind {
        Kind::SeqPacket => {
            let [sender, receiver] = [sender, receiver].map(UnixDatagram::from);
            repeat(move || {
                sender.send_fds(&PAYLOAD, &fds).expect("send");
                let (len, received) = receiver.recv_fds_exact_into::<N>(&mut bytes).expect("recv");
                assert!(len == PAYLOAD.len() && received.len() == N);
            })
        }
        Kind::Stream => {
            let [sender, receiver] = [sender, receiver].map(UnixStream::from);
            repeat(move || {
                sender.send_fds(&PAYLOAD, &fds).expect("send");
                let (len, received) = receiver.recv_fds_exact_into::<N>(&mut bytes).expect("recv");
                assert!(len == PAYLOAD.len() && received.len() == N);
            })
        }
    }
}

fn by_trait(socket: OwnedFd, kind: Kind, room: Room) -> Receiver {
    let mut bytes = vec![0; room.bytes];
    let socket = match kind {
        Kind::SeqPacket => Socket::Packets(socket.into()),
        Kind::Stream => Socket::Stream(socket.into()),
    };
    Box::new(move || {
        let result = match room.fds {
            1 => socket.receive::<1>(&mut bytes),
            2 => socket.receive::<2>(&mut bytes),
            3 => socket.receive::<3>(&mut bytes),
            _ => socket.receive::<4>(&mut bytes),
        };
        let (len, fds) = result.map_err(|error| error.to_string())?;
        Ok(Got { bytes: Some(len), fds, cut: false })
    })
}

enum Socket {
    Packets(UnixDatagram),
    Stream(UnixStream),
}

impl Socket {
    fn receive<const N: usize>(&self, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        match self {
            Self::Packets(socket) => socket.recv_fds_exact_into::<N>(bytes),
            Self::Stream(socket) => socket.recv_fds_exact_into::<N>(bytes),
        }
    }
}

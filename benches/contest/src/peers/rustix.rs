//! `[both]` The crate rustix, which makes its system calls itself, without libc.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, borrowed, pair, repeat};

pub(super) const PEER: Peer =
    Peer { name: "rustix", package: "rustix", ours: false, frames: false, most: MAX_FDS, trips: make_trips, receiver };

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    if job.framed {
        return Err("it has no framing");
    }
    let (sender, receiver) = pair(job.kind);
    let fds = borrowed(job.fds);
    let mut bytes = [0; PAYLOAD.len()];
    let mut spaces = [0; 2].map(|_: u8| vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(fds.len()))]);
    Ok(repeat(move || {
        let [outgoing, incoming] = &mut spaces;
        let mut control = SendAncillaryBuffer::new(outgoing);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&sender, &[IoSlice::new(&PAYLOAD)], &mut control, SendFlags::NOSIGNAL).expect("send");
        let mut control = RecvAncillaryBuffer::new(incoming);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg(&receiver, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("recv");
        assert!(message.bytes == PAYLOAD.len() && !message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC));
        assert_eq!(rights(&mut control).map(drop).count(), fds.len());
    }))
}

fn receiver(socket: OwnedFd, _: Kind, room: Room) -> Receiver {
    let mut bytes = vec![0; room.bytes];
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(room.fds))];
    Box::new(move || {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message =
            recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).map_err(|errno| errno.to_string())?;
        let fds = rights(&mut control).collect();
        let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        Ok(Got { bytes: Some(message.bytes), fds, cut })
    })
}

fn rights<'a>(control: &'a mut RecvAncillaryBuffer<'_>) -> impl Iterator<Item = OwnedFd> + 'a {
    let descriptors = |message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    };
    control.drain().filter_map(descriptors).flatten()
}

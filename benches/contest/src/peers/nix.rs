//! `[both]` The crate nix. It allocates to send; what it is given to receive into is made once.

use std::io::{IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::{Got, Job, Kind, MAX_FDS, PAYLOAD, Peer, Receiver, Room, Trips, numbers, own, pair, repeat};

pub(super) const PEER: Peer =
    Peer { name: "nix", package: "nix", ours: false, frames: false, most: MAX_FDS, trips: make_trips, receiver };

fn make_trips(job: Job) -> Result<Trips, &'static str> {
    if job.framed {
        return Err("it has no framing");
    }
    let (sender, receiver) = pair(job.kind);
    let fds = numbers(job.fds);
    let mut bytes = [0; PAYLOAD.len()];
    let mut control = space(job.fds);
    Ok(repeat(move || {
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(&PAYLOAD)];
        sendmsg::<()>(sender.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).expect("send");
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(receiver.as_raw_fd(), &mut parts, Some(&mut control), flags).expect("recv");
        assert!(message.bytes == PAYLOAD.len() && !message.flags.contains(MsgFlags::MSG_TRUNC));
        let mut count = 0;
        for block in message.cmsgs().expect("whole") {
            if let ControlMessageOwned::ScmRights(numbers) = block {
                count += numbers.into_iter().map(own).map(drop).count();
            }
        }
        assert_eq!(count, fds.len());
    }))
}

fn receiver(socket: OwnedFd, _: Kind, room: Room) -> Receiver {
    let mut bytes = vec![0; room.bytes];
    let mut control = space(room.fds);
    Box::new(move || {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
            .map_err(|errno| errno.to_string())?;
        let mut fds = Vec::new();
        for block in message.cmsgs().map_err(|errno| errno.to_string())? {
            if let ControlMessageOwned::ScmRights(numbers) = block {
                fds.extend(numbers.into_iter().map(own));
            }
        }
        Ok(Got { bytes: Some(message.bytes), fds, cut: message.flags.contains(MsgFlags::MSG_TRUNC) })
    })
}

/// What `cmsg_space!([RawFd; n])` makes, for a number that is not known when this is compiled.
fn space(fds: usize) -> Vec<u8> {
    // SAFETY: calculates.
    vec![0; unsafe { libc::CMSG_SPACE((fds * mem::size_of::<RawFd>()) as u32) } as usize]
}

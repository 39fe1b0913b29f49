//! Who sent a message, by the kernel's word (SO_PASSCRED, SO_PASSPIDFD): it is right, it cannot be forged, and asking
//! for it neither loses nor leaks a descriptor, however little room there is.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;
use std::time::Duration;

use fdbroker::{Channel, ChannelError, Kind, MAX_FDS, Packet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Pid, Uid, setgid, setuid};

const KINDS: [Kind; 3] = [Kind::SeqPacket, Kind::Stream, Kind::Datagram];
const LONG: Duration = Duration::from_secs(60);
/// An ordinary user, where the tests run as root.
const NOBODY: u32 = 65534;
const SO_PASSPIDFD: i32 = 76;

/// What is asked for with each message.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    credentials: bool,
    pidfd: bool,
}

const EACH: [Asked; 4] = [
    Asked { credentials: false, pidfd: false },
    Asked { credentials: true, pidfd: false },
    Asked { credentials: false, pidfd: true },
    Asked { credentials: true, pidfd: true },
];
const BOTH: Asked = EACH[3];

/// A sender and a receiver that asks. Says so and answers `None` where the kernel cannot give what is asked for.
fn pair(kind: Kind, asked: Asked) -> Option<(Channel, Channel)> {
    let (sender, mut receiver) = Channel::pair_of(kind).unwrap();
    receiver.set_recv_timeout(Some(LONG)).unwrap();
    receiver.set_sender_credentials(asked.credentials).unwrap();
    match receiver.set_sender_pidfd(asked.pidfd) {
        Err(ChannelError::Unsupported { what }) => {
            eprintln!("SKIPPED: this kernel does not have {what}");
            None
        }
        result => {
            result.unwrap();
            Some((sender, receiver))
        }
    }
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn is_pidfd(fd: impl AsFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).unwrap();
    link.to_string_lossy().contains("[pidfd")
}

/// Whether the process of a pidfd has ended.
fn has_ended(pidfd: impl AsFd) -> bool {
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
}

/// The packet says that this process sent it, as far as that was asked for.
fn is_from_here(packet: &mut Packet, asked: Asked) {
    let sender = packet.sender();
    assert_eq!(sender.is_some(), asked.credentials);
    if let Some(sender) = sender {
        let here = (Some(std::process::id()), Uid::effective().as_raw(), Gid::effective().as_raw());
        assert_eq!((sender.pid, sender.uid, sender.gid), here);
    }
    let pidfd = packet.take_sender_pidfd();
    assert_eq!(pidfd.is_some(), asked.pidfd);
    assert!(pidfd.is_none_or(|pidfd| is_pidfd(&pidfd) && !has_ended(&pidfd)));
    assert!(packet.take_sender_pidfd().is_none(), "it is taken once");
}

// ------------------------------------------------------------------------------------------------------- who it was

/// H-07, K16: the sender is the process that sent, not the one that made the pair or inherited the end first; its ids
/// are those that it has, not those that its parent has; and the pidfd is a handle on it.
#[test]
fn h_07_k16_a_child_that_inherited_the_end() {
    const NAME: &str = "h_07_k16_a_child_that_inherited_the_end";
    match common::role().as_deref() {
        Some("child") => {
            let end = inherited();
            let mut grandchild = common::rerun(NAME, "grandchild");
            grandchild.stdin(OwnedFd::from(inherited())).stdout(Stdio::null());
            let mut grandchild = grandchild.spawn().unwrap();
            say_who(&end);
            assert!(grandchild.wait().unwrap().success());
        }
        Some(_) => {
            if common::is_root() {
                setgid(Gid::from_raw(NOBODY - 1)).unwrap();
                setuid(Uid::from_raw(NOBODY)).unwrap();
            }
            say_who(&inherited());
        }
        None => KINDS.into_iter().for_each(the_family_says_who),
    }
}

fn inherited() -> Channel {
    let channel = Channel::try_from(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    channel.set_recv_timeout(Some(LONG)).unwrap();
    channel
}

/// Sends the truth about this process, and waits to be let go.
fn say_who(end: &Channel) {
    let ids = [std::process::id(), Uid::effective().as_raw(), Gid::effective().as_raw()];
    end.send(&ids.map(u32::to_le_bytes).concat(), &[null().as_fd()]).unwrap();
    // Two processes that receive from one end of a stream take each other's frames to pieces: whatever comes lets it
    // go.
    let _ = end.recv(&mut Packet::new());
}

fn the_family_says_who(kind: Kind) {
    let Some((there, here)) = pair(kind, BOTH) else { return };
    there.send(&[[0; 4]; 3].concat(), &[null().as_fd()]).unwrap();
    let mut packet = Packet::new();
    here.recv(&mut packet).unwrap();
    is_from_here(&mut packet, BOTH);

    let mut child = common::rerun("h_07_k16_a_child_that_inherited_the_end", "child");
    let mut child = child.stdin(OwnedFd::from(there)).stdout(Stdio::null()).spawn().unwrap();
    let mut told = Vec::new();
    let pidfds = [(); 2].map(|()| {
        here.recv(&mut packet).unwrap();
        let numbers: Vec<u32> =
            packet.bytes().chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let sender = packet.sender().unwrap();
        assert_eq!([sender.pid.unwrap(), sender.uid, sender.gid], numbers[..], "{kind:?}");
        assert_eq!(packet.fds().len(), 1);
        told.push((numbers[0], numbers[1]));
        let pidfd = packet.take_sender_pidfd().unwrap();
        assert!(is_pidfd(&pidfd) && !has_ended(&pidfd));
        (numbers[0], pidfd)
    });
    assert!(told.iter().any(|&(pid, _)| pid == child.id()) && told[0].0 != told[1].0, "{kind:?}: {told:?}");
    assert!(!common::is_root() || told.iter().any(|&(_, uid)| uid == NOBODY));

    // A message for each; or the hang-up, which a datagram end does not see.
    here.send(b"go", &[]).unwrap();
    here.send(b"go", &[]).unwrap();
    drop(here);
    let (_, of_child) = pidfds.iter().find(|(pid, _)| *pid == child.id()).unwrap();
    let status = waitid(Id::PIDFd(of_child.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    assert_eq!(status, WaitStatus::Exited(Pid::from_raw(child.id().try_into().unwrap()), 0));
    assert!(pidfds.iter().all(|(_, pidfd)| has_ended(pidfd)));
    child.wait().unwrap();
}

/// H-07: the sender of a message has ended by the time it is received: the message still says who it was. While nobody
/// has waited for it the pidfd is there, and says how it ended; after that it is there or `None`, and never another's.
#[test]
fn h_07_a_sender_that_has_ended() {
    const NAME: &str = "h_07_a_sender_that_has_ended";
    if common::role().is_some() {
        inherited().send(b"the last words", &[null().as_fd()]).unwrap();
        std::process::exit(7);
    }
    for kind in KINDS {
        for waited_for in [false, true] {
            let Some((there, here)) = pair(kind, BOTH) else { return };
            let mut child = common::rerun(NAME, "child");
            let mut child = child.stdin(OwnedFd::from(there)).stdout(Stdio::null()).spawn().unwrap();
            let pid = Pid::from_raw(child.id().try_into().unwrap());
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
            if waited_for {
                child.wait().unwrap();
            }
            let mut packet = Packet::new();
            here.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"the last words"[..], 1));
            assert_eq!(packet.sender().unwrap().pid, Some(child.id()), "{kind:?}");
            let pidfd = packet.take_sender_pidfd();
            assert!(pidfd.is_some() || waited_for, "{kind:?}");
            if let Some(pidfd) = pidfd {
                assert!(has_ended(&pidfd), "{kind:?}");
                let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
                let expected = if waited_for { Err(Errno::ECHILD) } else { Ok(WaitStatus::Exited(pid, 7)) };
                assert_eq!(status, expected, "{kind:?}");
            }
            child.wait().unwrap();
        }
    }
}

/// H-07, K23: a message that was queued before the receiver asked has no sender, which is said, and never somebody's
/// name; the next one has. What is no longer asked for is no longer said.
#[test]
fn h_07_k23_queued_before_it_was_asked() {
    for kind in KINDS {
        let (sender, mut receiver) = Channel::pair_of(kind).unwrap();
        receiver.set_recv_timeout(Some(LONG)).unwrap();
        let null = null();
        sender.send(b"early", &[null.as_fd()]).unwrap();
        receiver.set_sender_credentials(true).unwrap();
        let pidfd = receiver.set_sender_pidfd(true).is_ok();
        let asked = Asked { credentials: true, pidfd };
        let mut packet = Packet::new();
        receiver.recv(&mut packet).unwrap();
        assert_eq!((packet.bytes(), packet.fds().len()), (&b"early"[..], 1), "{kind:?}");
        assert_eq!(packet.sender(), None, "{kind:?}");
        assert!(packet.take_sender_pidfd().is_none(), "{kind:?}");

        sender.send(b"in time", &[null.as_fd()]).unwrap();
        receiver.recv(&mut packet).unwrap();
        is_from_here(&mut packet, asked);
        receiver.set_sender_credentials(false).unwrap();
        receiver.set_sender_pidfd(false).unwrap();
        sender.send(b"unasked", &[null.as_fd()]).unwrap();
        receiver.recv(&mut packet).unwrap();
        is_from_here(&mut packet, EACH[0]);
    }
}

/// H-07: an ordinary user cannot send in another's name: the kernel refuses another process, user or group, for each
/// kind, and nothing arrives. Its own name it can send, and that is what is told.
#[test]
fn h_07_a_forged_sender() {
    common::alone("h_07_a_forged_sender", || {
        if common::is_root() {
            setgid(Gid::from_raw(NOBODY)).unwrap();
            setuid(Uid::from_raw(NOBODY)).unwrap();
        }
        let (pid, uid, gid) = (Pid::this().as_raw(), Uid::effective().as_raw(), Gid::effective().as_raw());
        for kind in KINDS {
            let (sender, mut receiver) = Channel::pair_of(kind).unwrap();
            receiver.set_sender_credentials(true).unwrap();
            let sender = OwnedFd::from(sender);
            let mut packet = Packet::new();
            let parent = nix::unistd::getppid().as_raw();
            for lie in [(1, uid, gid), (parent, uid, gid), (pid, 0, gid), (pid, uid, 0), (pid, uid + 1, gid), (1, 0, 0)]
            {
                assert_eq!(send_as(&sender, kind, lie), Err(Errno::EPERM), "{kind:?}: {lie:?}");
                assert!(matches!(receiver.try_recv(&mut packet), Err(ChannelError::WouldBlock)));
            }
            send_as(&sender, kind, (pid, uid, gid)).unwrap();
            receiver.recv(&mut packet).unwrap();
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"x"[..], 1));
            is_from_here(&mut packet, EACH[1]);
        }
    });
}

/// One byte and one descriptor, with credentials of the sender's choice.
fn send_as(socket: &OwnedFd, kind: Kind, (pid, uid, gid): (i32, u32, u32)) -> nix::Result<usize> {
    let name = UnixCredentials::from(libc::ucred { pid, uid, gid });
    let null = null();
    let fds = [null.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds), ControlMessage::ScmCredentials(&name)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(frame(kind))], &control, MsgFlags::empty(), None)
}

/// The message `x` with one descriptor, as it is on the wire.
fn frame(kind: Kind) -> &'static [u8] {
    if kind == Kind::Stream { b"\x01\0\0\0\x01\0\0\0x" } else { b"x" }
}

/// P-12, H-14: a sender that puts credentials of its own before or behind its descriptors is understood, whether the
/// receiver asks for them or not.
#[test]
fn p_12_h_14_credentials_before_and_behind_descriptors() {
    let (pid, uid, gid) = (Pid::this().as_raw(), Uid::effective().as_raw(), Gid::effective().as_raw());
    let name = UnixCredentials::from(libc::ucred { pid, uid, gid });
    for kind in KINDS {
        for asked in EACH {
            let Some((sender, receiver)) = pair(kind, asked) else { continue };
            let file = tempfile::tempfile().unwrap();
            let fds = [file.as_raw_fd()];
            let (rights, credentials) = (ControlMessage::ScmRights(&fds), ControlMessage::ScmCredentials(&name));
            for control in [[credentials, rights], [rights, credentials]] {
                let socket = sender.as_fd().as_raw_fd();
                sendmsg::<()>(socket, &[IoSlice::new(frame(kind))], &control, MsgFlags::empty(), None).unwrap();
                let mut packet = Packet::new();
                receiver.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"x"[..], 1), "{kind:?}, {asked:?}");
                assert_eq!(common::identity(&packet.fds()[0]), common::identity(&file));
                is_from_here(&mut packet, asked);
            }
        }
    }
}

/// H-07: a stream's frame that two processes have written between them is nobody's: the second's bytes are not told to
/// be the first's.
#[test]
fn h_07_a_frame_of_two_senders() {
    const NAME: &str = "h_07_a_frame_of_two_senders";
    if common::role().is_some() {
        let end = OwnedFd::from(inherited());
        assert_eq!(nix::unistd::write(&end, b"grant"), Ok(5));
        return;
    }
    for asked in [EACH[1], BOTH] {
        let Some((there, here)) = pair(Kind::Stream, asked) else { continue };
        let mut there = UnixStream::from(OwnedFd::from(there));
        there.write_all(b"\x05\0\0\0\0\0\0\0").unwrap();
        let mut child = common::rerun(NAME, "child");
        common::passes({
            child.stdin(OwnedFd::from(there.try_clone().unwrap()));
            child
        });
        let mut packet = Packet::new();
        here.recv(&mut packet).unwrap();
        assert_eq!(packet.bytes(), b"grant");
        assert_eq!(packet.sender(), None);
        assert!(packet.take_sender_pidfd().is_none());
        // The next frame is one sender's again.
        there.write_all(b"\x02\0\0\0\0\0\0\0ok").unwrap();
        here.recv(&mut packet).unwrap();
        is_from_here(&mut packet, asked);
    }
}

// ------------------------------------------------------------------------------------------------ with descriptors

/// H-14, K22: credentials and a pidfd with any number of descriptors, for each budget: the message is whole, or "too
/// many", whatever the surplus has pushed out; each number among the descriptors is one that was sent; nothing leaks.
#[test]
fn h_14_k22_every_budget() {
    common::alone_with(1024, "h_14_k22_every_budget", || {
        let null = null();
        for kind in KINDS {
            for asked in EACH {
                let Some((sender, mut receiver)) = pair(kind, asked) else { continue };
                let mut packet = Packet::new();
                let before = common::open_fds();
                for budget in (0..=20).chain([63, 64, 252, 253]) {
                    receiver.set_max_fds(budget);
                    let counts = (0..=budget.min(4)).chain(budget.saturating_sub(1)..=budget + 9).chain([MAX_FDS]);
                    for count in counts.filter(|&count| count <= MAX_FDS) {
                        // A stream's frame is received at once when it has no bytes, and in two parts when it has.
                        for bytes in [&b"body"[..], if count == 0 { b"x" } else { b"" }] {
                            sender.send(bytes, &vec![null.as_fd(); count]).unwrap();
                            let result = receiver.recv(&mut packet);
                            let case = format!("{kind:?}, {asked:?}, budget {budget}, {count} sent: {result:?}");
                            if count <= budget {
                                assert!(result.is_ok(), "{case}");
                                assert_eq!((packet.bytes(), packet.fds().len()), (bytes, count), "{case}");
                                assert!(packet.fds().iter().all(|fd| common::identity(fd) == common::identity(&null)));
                                is_from_here(&mut packet, asked);
                                packet.clear();
                            } else {
                                let Err(ChannelError::TooManyDescriptors { budget: told }) = result else {
                                    panic!("{case}")
                                };
                                assert_eq!(told, budget, "{case}");
                                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                                assert!(packet.sender().is_none() && packet.take_sender_pidfd().is_none());
                            }
                            assert_eq!(common::open_fds(), before, "{case}");
                        }
                    }
                }
            }
        }
    });
}

/// H-14, K22, K2: with each number of free descriptors from none to enough, a message is whole when those and the pidfd
/// have room, and "descriptor table full" when not (where the pidfd would be is -24 then); nothing leaks, and the
/// channel goes on.
#[test]
fn h_14_k22_a_full_table() {
    common::alone_with(64, "h_14_k22_a_full_table", || {
        let null = null();
        for kind in KINDS {
            for asked in EACH {
                let Some((sender, receiver)) = pair(kind, asked) else { continue };
                let mut packet = Packet::new();
                for (free, count) in (0..6).flat_map(|free| (0..5).map(move |count| (free, count))) {
                    let mut filling = fill(&null);
                    filling.truncate(filling.len() - free);
                    for bytes in [&b"body"[..], if count == 0 { b"x" } else { b"" }] {
                        sender.send(bytes, &vec![null.as_fd(); count]).unwrap();
                        let result = receiver.recv(&mut packet);
                        let case = format!("{kind:?}, {asked:?}, {free} free, {count} sent, {bytes:?}: {result:?}");
                        if count + usize::from(asked.pidfd) <= free {
                            assert!(result.is_ok(), "{case}");
                            assert_eq!((packet.bytes(), packet.fds().len()), (bytes, count), "{case}");
                            assert!(packet.take_sender_pidfd().is_some() == asked.pidfd, "{case}");
                            packet.clear();
                        } else {
                            assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{case}");
                            assert!(packet.bytes().is_empty() && packet.fds().is_empty());
                        }
                        assert_eq!(fill(&null).len(), free, "{case}");
                    }
                    drop(filling);
                    sender.send(b"goes on", &[null.as_fd(); 4]).unwrap();
                    receiver.recv(&mut packet).unwrap();
                    assert_eq!((packet.bytes(), packet.fds().len()), (&b"goes on"[..], 4));
                    is_from_here(&mut packet, asked);
                    packet.clear();
                }
            }
        }
    });
}

/// Duplicates of `file` in every free slot of the descriptor table.
fn fill(file: &File) -> Vec<File> {
    std::iter::from_fn(|| file.try_clone().ok()).collect()
}

/// H-14: a stream's frame in pieces: each piece comes with a pidfd of its own, of which one is kept.
#[test]
fn h_14_a_pidfd_with_each_piece() {
    common::alone("h_14_a_pidfd_with_each_piece", || {
        let null = null();
        for asked in EACH {
            let Some((sender, receiver)) = pair(Kind::Stream, asked) else { continue };
            let mut packet = Packet::new();
            let before = common::open_fds();
            for nonblocking in [false, true] {
                receiver.set_nonblocking(nonblocking).unwrap();
                for _ in 0..20 {
                    // As many receives as there are bytes: the second is not sent before the first has been received.
                    for (place, byte) in b"\x04\0\0\0\x02\0\0\0four".iter().enumerate() {
                        let fds = [null.as_raw_fd(); 2];
                        let rights = [ControlMessage::ScmRights(&fds)];
                        let control = if place == 0 { &rights[..] } else { &[] };
                        let bytes = [IoSlice::new(std::slice::from_ref(byte))];
                        let socket = sender.as_fd().as_raw_fd();
                        sendmsg::<()>(socket, &bytes, control, MsgFlags::empty(), None).unwrap();
                        if nonblocking && place < 11 {
                            assert!(matches!(receiver.recv(&mut packet), Err(ChannelError::WouldBlock)));
                        }
                    }
                    receiver.recv(&mut packet).unwrap();
                    assert_eq!((packet.bytes(), packet.fds().len()), (&b"four"[..], 2));
                    is_from_here(&mut packet, asked);
                    packet.clear();
                    assert_eq!(common::open_fds(), before, "{asked:?}");
                }
            }
        }
    });
}

/// P-15, K22: a pidfd whose number is 0 is a pidfd.
#[test]
fn p_15_a_pidfd_lands_on_0() {
    common::alone("p_15_a_pidfd_lands_on_0", || {
        for kind in KINDS {
            let Some((sender, receiver)) = pair(kind, EACH[2]) else { return };
            let mut packet = Packet::new();
            sender.send(b"x", &[]).unwrap();
            let standard = io::stdin().as_fd().try_clone_to_owned().unwrap();
            nix::unistd::close(0).unwrap();
            receiver.recv(&mut packet).unwrap();
            let pidfd = OwnedFd::from(packet.take_sender_pidfd().unwrap());
            assert_eq!((pidfd.as_raw_fd(), is_pidfd(&pidfd)), (0, true), "{kind:?}");
            // It is closed by what takes its number.
            std::mem::forget(pidfd);
            nix::unistd::dup2_stdin(&standard).unwrap();
        }
    });
}

// ---------------------------------------------------------------------------------------- options that others set

/// An option of the receiving end, set on a duplicate: the channel does not know.
fn set_behind_its_back(channel: &Channel, option: i32, value: i32) -> nix::Result<()> {
    let duplicate = channel.as_fd().try_clone_to_owned().unwrap();
    let value = (&raw const value).cast();
    // SAFETY: the kernel reads the four bytes of a c_int.
    Errno::result(unsafe { libc::setsockopt(duplicate.as_raw_fd(), libc::SOL_SOCKET, option, value, 4) }).map(drop)
}

/// H-14: options that somebody else sets on the socket of a channel take the room of descriptors: the message is whole,
/// or the error says what happened, and never that there were too many when there were not, or that the table was full.
/// Nothing leaks, and when the options are taken back all is as it was.
#[test]
fn h_14_options_set_behind_the_channels_back() {
    common::alone("h_14_options_set_behind_the_channels_back", || {
        let options = [libc::SO_TIMESTAMP, libc::SO_PASSCRED, SO_PASSPIDFD, libc::SO_PASSSEC];
        let sets = [&options[..1], &options[1..2], &options[2..3], &options[1..3], &options[..3], &options[3..]];
        for kind in KINDS {
            for asked in EACH {
                for set in sets {
                    behind_its_back(kind, asked, set);
                }
            }
        }
    });
}

fn behind_its_back(kind: Kind, asked: Asked, options: &[i32]) {
    let null = null();
    let Some((sender, mut receiver)) = pair(kind, asked) else { return };
    let mut packet = Packet::new();
    let before = common::open_fds();
    for budget in 0..6 {
        receiver.set_max_fds(budget);
        for count in 0..=budget + 2 {
            for &option in options {
                if let Err(errno) = set_behind_its_back(&receiver, option, 1) {
                    eprintln!("SKIPPED: socket option {option} cannot be set here: {errno}");
                    return;
                }
            }
            sender.send(b"body", &vec![null.as_fd(); count]).unwrap();
            let result = receiver.recv(&mut packet);
            let case = format!("{kind:?}, {asked:?}, {options:?} set, budget {budget}, {count} sent: {result:?}");
            match result {
                Ok(()) => {
                    assert_eq!((packet.bytes(), packet.fds().len()), (&b"body"[..], count), "{case}");
                    assert!(count <= budget, "{case}");
                }
                Err(ChannelError::UnexpectedControlData) => {}
                Err(ChannelError::TooManyDescriptors { .. }) => assert!(count > budget, "{case}"),
                Err(_) => panic!("{case}"),
            }
            packet.clear();
            assert_eq!(common::open_fds(), before, "{case}");

            for &option in options {
                let value = match option {
                    libc::SO_PASSCRED => asked.credentials,
                    SO_PASSPIDFD => asked.pidfd,
                    _ => false,
                };
                set_behind_its_back(&receiver, option, value.into()).unwrap();
            }
            sender.send(b"goes on", &vec![null.as_fd(); budget]).unwrap();
            receiver.recv(&mut packet).unwrap_or_else(|error| panic!("{case}, and then {error}"));
            assert_eq!((packet.bytes(), packet.fds().len()), (&b"goes on"[..], budget), "{case}");
            is_from_here(&mut packet, asked);
            packet.clear();
        }
    }
}

/// H-14: a full table does not cost a message without descriptors when the pidfd that has no room was not asked for.
#[test]
fn h_14_a_pidfd_that_nobody_asked_for() {
    common::alone_with(64, "h_14_a_pidfd_that_nobody_asked_for", || {
        let null = null();
        for kind in KINDS {
            let (sender, receiver) = Channel::pair_of(kind).unwrap();
            if set_behind_its_back(&receiver, SO_PASSPIDFD, 1).is_err() {
                eprintln!("SKIPPED: this kernel has no SO_PASSPIDFD");
                return;
            }
            let mut packet = Packet::new();
            let filling = fill(&null);
            sender.send(b"plain", &[]).unwrap();
            let result = receiver.recv(&mut packet);
            assert!(result.is_ok(), "{kind:?}: {result:?}");
            assert_eq!(packet.bytes(), b"plain");
            drop(filling);
        }
    });
}

/// H-14: options that are taken back behind the channel's back leave room, which a surplus of descriptors gets into: it
/// is still "too many"; and nobody's name is told.
#[test]
fn h_14_options_taken_back_behind_the_channels_back() {
    common::alone("h_14_options_taken_back_behind_the_channels_back", || {
        let null = null();
        for kind in KINDS {
            let Some((sender, mut receiver)) = pair(kind, BOTH) else { return };
            set_behind_its_back(&receiver, libc::SO_PASSCRED, 0).unwrap();
            set_behind_its_back(&receiver, SO_PASSPIDFD, 0).unwrap();
            let mut packet = Packet::new();
            let before = common::open_fds();
            for budget in 0..10 {
                receiver.set_max_fds(budget);
                for count in 0..40 {
                    sender.send(b"body", &vec![null.as_fd(); count]).unwrap();
                    match receiver.recv(&mut packet) {
                        Ok(()) => assert!(count <= budget && packet.fds().len() == count, "{kind:?}, {count}"),
                        Err(ChannelError::TooManyDescriptors { .. }) => assert!(count > budget),
                        Err(error) => panic!("{kind:?}, budget {budget}, {count}: {error}"),
                    }
                    is_from_here(&mut packet, EACH[0]);
                    packet.clear();
                    assert_eq!(common::open_fds(), before, "{kind:?}, budget {budget}, {count}");
                }
            }
        }
    });
}

/// H-14, H-07: options that a socket has already when it becomes a channel are noticed: its messages have a sender, and
/// all of their descriptors.
#[test]
fn h_14_options_of_an_adopted_socket() {
    let null = null();
    for kind in KINDS {
        for asked in EACH {
            let Some((sender, receiver)) = pair(kind, asked) else { continue };
            let socket = OwnedFd::from(receiver);
            let mut adopted = match kind {
                Kind::SeqPacket => Channel::try_from(socket).unwrap(),
                Kind::Stream => UnixStream::from(socket).into(),
                _ => UnixDatagram::from(socket).into(),
            };
            for budget in 0..5 {
                adopted.set_max_fds(budget);
                sender.send(b"body", &vec![null.as_fd(); budget]).unwrap();
                let mut packet = Packet::new();
                adopted.recv(&mut packet).unwrap();
                assert_eq!(packet.fds().len(), budget, "{kind:?}, {asked:?}");
                is_from_here(&mut packet, asked);
            }
        }
    }
}

/// H-07: a kernel without SO_PASSPIDFD: asking is a typed error that says what is missing; not asking is none.
#[test]
fn h_07_a_kernel_without_pidfds() {
    common::alone("h_07_a_kernel_without_pidfds", || {
        let option = u64::try_from(SO_PASSPIDFD).unwrap();
        common::refuse(libc::SYS_setsockopt, &[(1, libc::SOL_SOCKET as u64), (2, option)], libc::ENOPROTOOPT);
        let (sender, mut receiver) = Channel::pair().unwrap();
        let error = receiver.set_sender_pidfd(true).unwrap_err();
        assert!(matches!(error, ChannelError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("6.5"), "{error}");
        receiver.set_sender_pidfd(false).unwrap();
        receiver.set_sender_credentials(true).unwrap();
        sender.send(b"x", &[null().as_fd()]).unwrap();
        let mut packet = Packet::new();
        receiver.recv(&mut packet).unwrap();
        assert_eq!(packet.fds().len(), 1);
        is_from_here(&mut packet, EACH[1]);
    });
}

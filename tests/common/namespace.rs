//! Namespaces of a test's own, of which the system sees nothing. Who is not root gets a user namespace as well.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::stat::Mode;

/// Runs the body of the test `name` in a process with mounts of its own.
pub fn with_mounts(name: &str, body: impl FnOnce()) {
    within(name, CloneFlags::CLONE_NEWNS, || {
        private_mounts().expect("private mounts");
        body();
    });
}

/// As [`with_mounts`], with a network of its own as well, of which the loopback interface is up.
pub fn with_network(name: &str, body: impl FnOnce()) {
    within(name, CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS, || {
        private_mounts().expect("private mounts");
        loopback_up().expect("the loopback interface");
        body();
    });
}

/// As [`alone`](super::alone), in new namespaces. Where they are refused, the test says so.
fn within(name: &str, what: CloneFlags, body: impl FnOnce()) {
    if super::role().is_some() {
        return super::alone(name, body);
    }
    let mut command = super::rerun(name, "alone");
    enter(&mut command, what);
    let mut probe = Command::new(command.get_program());
    enter(probe.arg("--list"), what);
    match probe.output() {
        Ok(_) => super::passes(command),
        Err(error) => eprintln!("SKIPPED {name}: namespaces are not permitted here: {error}"),
    }
}

/// The command begins in new namespaces: only a process without further threads gets a user namespace, and a test is a
/// thread of its process.
#[allow(unsafe_code)]
fn enter(command: &mut Command, what: CloneFlags) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("0 {uid} 1")),
        (c"/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    let begin = move || -> io::Result<()> {
        if uid.is_root() {
            return Ok(unshare(what)?);
        }
        unshare(what | CloneFlags::CLONE_NEWUSER)?;
        for (file, text) in &maps {
            nix::unistd::write(open(*file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?, text.as_bytes())?;
        }
        Ok(())
    };
    // SAFETY: system calls only; nothing is allocated, and nothing is locked.
    unsafe { command.pre_exec(begin) };
}

/// Puts a file over another: everybody here sees it in its place.
pub fn put_over(file: &Path, place: &str) -> nix::Result<()> {
    let none: Option<&str> = None;
    mount(Some(file), place, none, MsFlags::MS_BIND, none)
}

fn private_mounts() -> nix::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// Tells the kernel to set IFF_UP on interface 1 (rtnetlink(7)).
fn loopback_up() -> nix::Result<()> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).expect("two bytes");
    let mut message = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence number, sender.
    message.extend(32_u32.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and padding, type, index, flags, which flags.
    message.extend([0; 4]);
    for number in [1_u32, 1, 1] {
        message.extend(number.to_ne_bytes());
    }
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 128];
    let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // struct nlmsgerr behind the header: 0, or an errno as a negative number.
    assert!(len >= 20, "{len} bytes from the kernel");
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        negative => Err(Errno::from_raw(-negative)),
    }
}

//! Namespaces of a test's own, of which the system sees nothing. Each is for a process that has no threads yet
//! (`common::alone`); who is not root gets a user namespace as well. An error says that this host refuses them.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Mounts of this process's own.
pub fn own_mounts() -> nix::Result<()> {
    own(CloneFlags::CLONE_NEWNS)?;
    private_mounts()
}

/// A network of this process's own, with a loopback interface that is up, and mounts.
pub fn own_network_and_mounts() -> nix::Result<()> {
    own(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    loopback_up()?;
    private_mounts()
}

/// Puts a file over another: everybody here sees it in its place.
pub fn put_over(file: &Path, place: &str) -> nix::Result<()> {
    let none: Option<&str> = None;
    mount(Some(file), place, none, MsFlags::MS_BIND, none)
}

fn own(what: CloneFlags) -> nix::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        return unshare(what);
    }
    unshare(what | CloneFlags::CLONE_NEWUSER)?;
    let maps = [("setgroups", "deny".into()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))];
    for (file, text) in maps {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    }
    Ok(())
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

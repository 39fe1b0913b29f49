//! Proves what a sandboxed worker can do with the datagram and seqpacket sockets that it is granted, and what of it is
//! not held back.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;

use common::served::PATIENCE;
use fdbroker::wire::SocketType::{Datagram, SeqPacket};
use fdbroker::{Broker, Channel, Client, Kind, Layer, Packet, Policy, Preset, Rule, Sandbox, Stdio};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrIn, UnixAddr, accept4, bind, listen, recv, send,
    sendmsg, sendto, socket,
};

/// Not a test by itself: the worker that [`datagrams_in_a_sandbox`] starts.
#[test]
fn worker() {
    let Some(role) = common::role() else { return };
    let (before, after) = role.split_once(' ').unwrap();
    let (udp, other_udp) = before.split_once(',').unwrap();
    let (udp, other): (SocketAddr, SocketAddr) = (udp.parse().unwrap(), other_udp.parse().unwrap());
    let directory = Path::new(after);
    let client = Client::from_stdin().unwrap();
    let has_root = !Path::new("/proc").exists();
    fdbroker::lockdown().unwrap();

    let connected = client.connect_udp(udp).unwrap();
    connected.send(b"connected").unwrap();
    came(|bytes| connected.recv(bytes), b"answer");
    let bound = client.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let refused = |result: std::io::Result<_>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSYS));
    refused(bound.send_to(b"by sendto", other));
    refused(connected.send_to(b"by sendto", other));
    assert_eq!(bound.connect(other).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let SocketAddr::V4(v4) = other else { unreachable!() };
    for socket in [&bound, &connected] {
        let message = [IoSlice::new(b"by sendmsg")];
        sendmsg(socket.as_raw_fd(), &message, &[], MsgFlags::empty(), Some(&SockaddrIn::from(v4))).unwrap();
    }

    let to = |name: &str| UnixAddress::from_pathname(directory.join(name)).unwrap();
    let socket = UnixDatagram::from(client.unix_connect_addr(Datagram, &to("server")).unwrap());
    socket.send(b"connected").unwrap();
    let elsewhere = UnixAddr::new(&directory.join("elsewhere")).unwrap();
    let sent = sendto(socket.as_raw_fd(), b"by sendto", &elsewhere, MsgFlags::empty());
    assert_eq!(sent, Err(nix::errno::Errno::ENOSYS));
    let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(b"by sendmsg")], &[], MsgFlags::empty(), Some(&elsewhere));
    // In a root of its own there is no such path.
    assert_eq!(sent, if has_root { Err(nix::errno::Errno::ENOENT) } else { Ok(10) });

    let channel = Channel::try_from(client.unix_connect_addr(SeqPacket, &to("packets")).unwrap()).unwrap();
    assert_eq!(channel.kind(), Kind::SeqPacket);
    channel.send(b"packet", &[]).unwrap();
    let mut packet = Packet::new();
    channel.recv(&mut packet).unwrap();
    assert_eq!(packet.bytes(), b"answer");

    let name = UnixAddress::from_abstract_name(format!("fdbroker-sandboxed-{}", udp.port())).unwrap();
    let abstract_one = UnixDatagram::from(client.unix_connect_addr(Datagram, &name).unwrap());
    abstract_one.send(b"abstract").unwrap();
}

/// Connected UDP sockets, and UNIX sockets for datagrams and packets, can be used as they are connected.
/// sendto(2) with an address is refused and sendmsg(2) with one is not: that is what SECURITY.md says. But in a root of
/// its own, a worker finds no path to send to.
#[test]
fn datagrams_in_a_sandbox() {
    for preset in [Preset::Standard, Preset::Floor] {
        datagrams(preset);
    }
}

fn datagrams(preset: Preset) {
    use std::os::unix::fs::PermissionsExt;
    let (_keep, directory) = common::directory();
    let udp = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let unix = |name| {
        let socket = UnixDatagram::bind(directory.join(name)).unwrap();
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (here, other, server, elsewhere) = (udp(), udp(), unix("server"), unix("elsewhere"));
    let (address, other_address) = (here.local_addr().unwrap(), other.local_addr().unwrap());
    let name = format!("fdbroker-sandboxed-{}", address.port());
    let abstract_one = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    abstract_one.set_read_timeout(Some(PATIENCE)).unwrap();

    let rules = Policy::builder()
        .allow(Rule::connect(address).udp())
        .allow(Rule::bind((Ipv4Addr::LOCALHOST, 0).into()))
        .allow(Rule::file(directory.join("server")).connect([Datagram]))
        .allow(Rule::file(directory.join("packets")).connect([SeqPacket]))
        .allow(Rule::connect_abstract(&*name).socket_type(Datagram));
    let policy = rules.build().unwrap();
    let packets = seqpacket_listener(&directory.join("packets"));

    let role = format!("{address},{other_address} {}", directory.display());
    let sandbox = Sandbox::this_program().args(["--exact", "worker", "--nocapture", "--test-threads=1"]);
    let sandbox = sandbox.env("FDBROKER_TEST_ROLE", role).stdout(Stdio::null());
    let (process, channel) = sandbox.preset(preset).spawn().unwrap();
    let has_root = process.enforced().has(Layer::Root);
    let _service = Broker::new().serve("worker", channel, policy).unwrap();
    let mut bytes = [0; 32];
    let (len, from) = here.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"connected");
    here.send_to(b"answer", from).unwrap();
    for _ in 0..2 {
        came(|bytes| other.recv(bytes), b"by sendmsg");
    }
    came(|bytes| server.recv(bytes), b"connected");
    if !has_root {
        came(|bytes| elsewhere.recv(bytes), b"by sendmsg");
    }
    let connection = accept4(packets.as_raw_fd(), SockFlag::SOCK_CLOEXEC).unwrap();
    let len = recv(connection, &mut bytes, MsgFlags::empty()).unwrap();
    assert_eq!(&bytes[..len], b"packet");
    send(connection, b"answer", MsgFlags::MSG_NOSIGNAL).unwrap();
    came(|bytes| abstract_one.recv(bytes), b"abstract");
    assert!(process.wait().unwrap().success());
    nix::unistd::close(connection).unwrap();
}

#[track_caller]
fn came(receive: impl FnOnce(&mut [u8]) -> std::io::Result<usize>, expected: &[u8]) {
    let mut bytes = [0; 32];
    let len = receive(&mut bytes).unwrap();
    assert_eq!(bytes[..len].escape_ascii().to_string(), expected.escape_ascii().to_string());
}

fn seqpacket_listener(path: &Path) -> std::os::unix::net::UnixListener {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(4).unwrap()).unwrap();
    listener.into()
}

//! Sockets: others' addresses, and other families.

use std::io;

use super::attempt::{ENOENT, ENOSYS, EPERM, Expected, List, Means, Outside, REACHED, REFUSED, UNKNOWN, WORKS};
use super::call::*;

const FAST_OPEN: usize = (libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL) as usize;
const ADDRESSED: &str = "known limit: a filter does not see the address in a message (SECURITY.md: datagram sockets)";

pub fn add(list: &mut List) {
    families(list);
    pairs(list);
    unix_addresses(list);
    internet_addresses(list);
    options(list);
}

fn families(list: &mut List) {
    let make = |family: i32, kind: i32, protocol: i32| move |_: &Means| socket(family, kind, protocol).map(|_| 0);
    use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};
    list.add("socket, TCP", REFUSED, make(libc::AF_INET, SOCK_STREAM, 0));
    list.add("socket, UDP", REFUSED, make(libc::AF_INET, SOCK_DGRAM, 0));
    list.add("socket, UDP over IPv6", REFUSED, make(libc::AF_INET6, SOCK_DGRAM, 0))
        .outside(Outside::Perhaps("the host may have no IPv6"));
    list.add("socket, UNIX", REFUSED, make(libc::AF_UNIX, SOCK_STREAM, 0));
    list.add("socket, UNIX datagram", REFUSED, make(libc::AF_UNIX, SOCK_DGRAM, 0));
    list.add("socket, UNIX seqpacket", REFUSED, make(libc::AF_UNIX, SOCK_SEQPACKET, 0));
    list.add("socket, netlink route", REFUSED, make(libc::AF_NETLINK, SOCK_RAW, libc::NETLINK_ROUTE));
    list.add("socket, netlink uevent", REFUSED, make(libc::AF_NETLINK, SOCK_RAW, 15));
    list.add("socket, high bits", REFUSED, |_| {
        call(libc::SYS_socket, &[libc::AF_INET as usize | HIGH, libc::SOCK_DGRAM as usize, 0])
    });
    list.add("socket, raw", REFUSED, make(libc::AF_INET, SOCK_RAW, 1)).privileged();
    list.add("socket, packet", REFUSED, make(libc::AF_PACKET, SOCK_RAW, 0)).privileged();
    for (name, family, kind, protocol) in [
        ("socket, ping", libc::AF_INET, SOCK_DGRAM, 1),
        ("socket, MPTCP", libc::AF_INET, SOCK_STREAM, 262),
        ("socket, SCTP", libc::AF_INET, SOCK_STREAM, 132),
        ("socket, vsock", libc::AF_VSOCK, SOCK_STREAM, 0),
        ("socket, key", libc::AF_KEY, SOCK_RAW, 2),
        ("socket, crypto", libc::AF_ALG, SOCK_SEQPACKET, 0),
        ("socket, bluetooth", libc::AF_BLUETOOTH, SOCK_RAW, 1),
        ("socket, XDP", libc::AF_XDP, SOCK_RAW, 0),
        ("socket, TIPC", libc::AF_TIPC, SOCK_SEQPACKET, 0),
    ] {
        list.add(name, REFUSED, make(family, kind, protocol))
            .outside(Outside::Perhaps("few hosts have this family for everybody"));
    }
}

fn pairs(list: &mut List) {
    fn pair(family: i32, kind: usize) -> io::Result<i64> {
        call(libc::SYS_socketpair, &[family as usize, kind, 0, scratch()])
    }
    const HARMLESS: &str = "it is connected to nobody but itself";
    let connected = Expected::always(WORKS).computes(ENOSYS);
    let unix = libc::AF_UNIX;
    list.add("pair, stream", connected, move |_| pair(unix, libc::SOCK_STREAM as usize)).known(HARMLESS);
    list.add("pair, seqpacket", connected, move |_| pair(unix, (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as usize))
        .known(HARMLESS);
    list.add("pair, datagram", UNKNOWN, move |_| pair(unix, libc::SOCK_DGRAM as usize));
    list.add("pair, datagram, high bits", UNKNOWN, move |_| pair(unix, libc::SOCK_DGRAM as usize | HIGH));
    list.add("pair, raw (the kernel makes it datagram)", UNKNOWN, move |_| pair(unix, libc::SOCK_RAW as usize));
    let none = "there are no such pairs; the socket is made first, and its module loaded";
    list.add("pair, TCP", UNKNOWN, |_| pair(libc::AF_INET, libc::SOCK_STREAM as usize)).not(none);
    list.add("pair, another family", UNKNOWN, |_| pair(libc::AF_X25, libc::SOCK_SEQPACKET as usize)).not(none);
    list.add("pair, TIPC", UNKNOWN, |_| pair(libc::AF_TIPC, libc::SOCK_SEQPACKET as usize)).not(none);
}

/// To a socket of the host's, which is there: by a socket that was granted, as none can be made.
fn unix_addresses(list: &mut List) {
    let by_path = |m: &Means| unix(m.at("datagram").to_str().unwrap().as_bytes());
    let connect = |m: &Means, kind: i32, address: (usize, usize)| {
        // Inside it is refused: the granted one is taken.
        let own = if m.is_outside() { Some(socket(libc::AF_UNIX, kind, 0)?) } else { None };
        let socket = own.as_ref().map_or(number(&m.datagram), number);
        call(libc::SYS_connect, &[socket, address.0, address.1])
    };
    list.add("connect to a UNIX socket by its path", REFUSED, move |m| {
        connect(m, libc::SOCK_STREAM, unix(m.at("stream").to_str().unwrap().as_bytes()))
    });
    list.add("connect to an abstract UNIX socket", REFUSED, move |m| {
        connect(m, libc::SOCK_STREAM, unix(&m.abstract_name("stream")))
    });
    list.add("connect to a UNIX datagram socket", REFUSED, move |m| connect(m, libc::SOCK_DGRAM, by_path(m)));
    list.add("send to a UNIX datagram socket by its path", Expected::always(REACHED).rooted(ENOENT), move |m| {
        let (address, length) = by_path(m);
        call(libc::SYS_sendmsg, &[number(&m.datagram), message_to(address, length).0, 0])
    })
    .known(ADDRESSED);
    list.add("send to a UNIX datagram socket in its runtime", Expected::always(REACHED), |m| {
        let (address, length) = unix(m.at("runtime/datagram").to_str().unwrap().as_bytes());
        call(libc::SYS_sendmsg, &[number(&m.datagram), message_to(address, length).0, 0])
    })
    .known("known limit: what can be reached by its path includes the sockets of its runtime (SECURITY.md)");
    list.add("send to an abstract UNIX datagram socket", Expected::always(EPERM), |m| {
        let (address, length) = unix(&m.abstract_name("datagram"));
        call(libc::SYS_sendmsg, &[number(&m.datagram), message_to(address, length).0, 0])
    });
    list.add("send to an abstract one, by sendto", UNKNOWN, |m| {
        let (address, length) = unix(&m.abstract_name("datagram"));
        call(libc::SYS_sendto, &[number(&m.datagram), text(c"!"), 1, 0, address, length])
    });
    list.add("name a UNIX socket", REFUSED, |m| {
        let own = if m.is_outside() { Some(socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?) } else { None };
        let (address, length) = unix(&m.abstract_name("new"));
        call(libc::SYS_bind, &[own.as_ref().map_or(number(&m.datagram), number), address, length])
    });
}

fn internet_addresses(list: &mut List) {
    let own = |m: &Means, kind: i32| -> io::Result<Option<std::os::fd::OwnedFd>> {
        if m.is_outside() { socket(libc::AF_INET, kind, 0).map(Some) } else { Ok(None) }
    };
    list.add("connect, TCP", REFUSED, move |m| {
        let own = own(m, libc::SOCK_STREAM)?;
        call(libc::SYS_connect, &[own.as_ref().map_or(number(&m.listener), number), internet(m.target), 16])
    });
    list.add("connect, UDP", REFUSED, |m| call(libc::SYS_connect, &[number(&m.udp), internet(m.udp_target), 16]));
    list.add("bind, TCP", REFUSED, move |m| {
        let own = own(m, libc::SOCK_STREAM)?;
        let any = internet("127.0.0.1:0".parse().unwrap());
        call(libc::SYS_bind, &[own.as_ref().map_or(number(&m.listener), number), any, 16])
    });
    list.add("listen", REFUSED, |m| call(libc::SYS_listen, &[number(&m.listener), 5]));
    list.add("send to a UDP address", Expected::always(WORKS), |m| {
        call(libc::SYS_sendmsg, &[number(&m.udp), message_to(internet(m.udp_target), 16).0, 0])
    })
    .known(ADDRESSED);
    list.add("send to a UDP address, by sendmmsg", Expected::always(WORKS), |m| {
        call(libc::SYS_sendmmsg, &[number(&m.udp), message_to(internet(m.udp_target), 16).1, 1, 0])
    })
    .known(ADDRESSED);
    list.add("send to a UDP address, by sendto", UNKNOWN, |m| {
        call(libc::SYS_sendto, &[number(&m.udp), text(c"!"), 1, 0, internet(m.udp_target), 16])
    });
    list.add("sendto, lower half of the address 0", UNKNOWN, |m| {
        let page = at_four_gigabytes()?;
        // SAFETY: two mappings of this process: an address of 16 bytes, and the page, which holds 4096.
        unsafe { std::ptr::copy_nonoverlapping(internet(m.udp_target) as *const u8, page as *mut u8, 16) };
        call(libc::SYS_sendto, &[number(&m.udp), text(c"!"), 1, 0, page, 16])
    });
    // A listener that was shut down is an unconnected socket, and the first data of a TCP Fast Open connects it.
    fn unconnected(m: &Means) -> io::Result<(Option<std::os::fd::OwnedFd>, usize)> {
        let own = if m.is_outside() { Some(socket(libc::AF_INET, libc::SOCK_STREAM, 0)?) } else { None };
        let fd = own.as_ref().map_or(number(&m.listener), number);
        call(libc::SYS_shutdown, &[number(&m.listener), libc::SHUT_RDWR as usize]).ok();
        Ok((own, fd))
    }
    list.add("connect, by sendmsg", UNKNOWN, |m| {
        let (_own, fd) = unconnected(m)?;
        call(libc::SYS_sendmsg, &[fd, message_to(internet(m.target), 16).0, FAST_OPEN])
    })
    .outside(Outside::Perhaps("net.ipv4.tcp_fastopen may be off"));
    list.add("connect, by sendmmsg", UNKNOWN, |m| {
        let (_own, fd) = unconnected(m)?;
        call(libc::SYS_sendmmsg, &[fd, message_to(internet(m.target), 16).1, 1, FAST_OPEN])
    })
    .outside(Outside::Perhaps("net.ipv4.tcp_fastopen may be off"));
    list.add("connect, by sendto", UNKNOWN, |m| {
        let (_own, fd) = unconnected(m)?;
        call(libc::SYS_sendto, &[fd, text(c"!"), 1, FAST_OPEN, internet(m.target), 16])
    })
    .outside(Outside::Perhaps("net.ipv4.tcp_fastopen may be off"));
}

fn options(list: &mut List) {
    fn set(fd: usize, level: i32, option: i32, value: usize, length: usize) -> io::Result<i64> {
        call(libc::SYS_setsockopt, &[fd, level as usize, option as usize, value, length])
    }
    // One instruction that lets everything pass, and the header that names it.
    fn program() -> usize {
        leak([1, leak(u64::from_ne_bytes([6, 0, 0, 0, 255, 255, 255, 255]))])
    }
    list.add("put a program on a socket", UNKNOWN, |m| {
        set(number(&m.udp), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program(), 16)
    });
    list.add("take a program off a socket", UNKNOWN, |m| {
        if m.is_outside() {
            set(number(&m.udp), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program(), 16)?;
        }
        set(number(&m.udp), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, leak(0_i32), 4)
    });
    // Outside of a socket that shares its port, and inside of what was granted.
    fn sharing(m: &Means) -> io::Result<(Option<std::os::fd::OwnedFd>, usize)> {
        if !m.is_outside() {
            return Ok((None, number(&m.udp)));
        }
        let own = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        set(number(&own), libc::SOL_SOCKET, libc::SO_REUSEPORT, leak(1_i32), 4)?;
        call(libc::SYS_bind, &[number(&own), internet("127.0.0.1:0".parse().unwrap()), 16])?;
        let fd = number(&own);
        Ok((Some(own), fd))
    }
    list.add("choose among a port's sockets", UNKNOWN, |m| {
        let (_own, fd) = sharing(m)?;
        set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, program(), 16)
    });
    list.add("take a port's program off", UNKNOWN, |m| {
        const SO_DETACH_REUSEPORT_BPF: i32 = 68;
        let (_own, fd) = sharing(m)?;
        if m.is_outside() {
            set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, program(), 16)?;
        }
        set(fd, libc::SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, leak(0_i32), 4)
    });
    list.add("set another option", Expected::always(WORKS), |m| {
        set(number(&m.udp), libc::SOL_SOCKET, libc::SO_KEEPALIVE, leak(1_i32), 4)
    })
    .known("it is allowed");
}

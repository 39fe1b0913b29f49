//! Proves which sockets a policy grants, and with which options.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use common::open_fds;
use common::served::{PATIENCE, alone, client, ended, raw};
use fdbroker::wire::{Ask, Reason, Refusal};
use fdbroker::{Client, ClientError, Policy, PolicyError, Rule};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

/// A loopback address that no other test uses at this time, so every port of it is free.
fn address(port: u16) -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed)), port).into()
}

/// A port of [::1] that was free a moment ago, or `None` where there is no IPv6.
fn ipv6_port() -> Option<u16> {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(listener) => Some(listener.local_addr().unwrap().port()),
        Err(error) => {
            eprintln!("SKIPPED the part with IPv6: {error}");
            None
        }
    }
}

#[track_caller]
fn refused<T>(result: Result<T, ClientError>, reason: Reason, errno: i32) {
    let Err(error) = result else { panic!("granted") };
    assert_eq!(error.refusal(), Some(Refusal { reason, errno }), "{error}");
}

fn is_close_on_exec(fd: impl AsFd) -> bool {
    FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
}

/// Ends a listener at once. To close it is not enough: another test may be starting a process in this moment, which
/// holds every descriptor until it executes its program.
fn end(listener: TcpListener) {
    nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
}

/// Sends a byte from one side to the other.
fn carries(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"!").unwrap();
    to.read_exact(&mut [0]).unwrap();
}

/// S-01: a listener by rule works; another port, address, family or verb is refused.
#[test]
fn s_01_a_listener_is_exactly_the_rules() {
    let allowed = address(8080);
    let (_service, client) = client(policy(Rule::listen(allowed)));
    let listener = client.listen(allowed).unwrap();
    assert_eq!(listener.local_addr().unwrap(), allowed);
    let outside = TcpStream::connect_timeout(&allowed, PATIENCE).unwrap();
    carries(&outside, &listener.accept().unwrap().0);

    let port = allowed.port();
    let SocketAddr::V4(v4) = allowed else { unreachable!() };
    let others: [SocketAddr; 10] = [
        (*v4.ip(), port + 1).into(),
        (*v4.ip(), 0).into(),
        (*v4.ip(), port.swap_bytes()).into(),
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
        (v4.ip().to_ipv6_mapped(), port).into(),
        (v4.ip().to_ipv6_compatible(), port).into(),
        (Ipv4Addr::BROADCAST, port).into(),
    ];
    for other in others {
        refused(client.listen(other), Reason::Denied, libc::EACCES);
    }
    refused(client.connect(allowed), Reason::Denied, libc::EACCES);
    // While the first one lives, the kernel has its say.
    refused(client.listen(allowed), Reason::Failed, libc::EADDRINUSE);
    drop(outside);
    end(listener);
    client.listen(allowed).unwrap();
}

/// S-01: an IPv4 address in IPv6 form is no way around a rule, and no rule can have one.
#[test]
fn s_01_mapped_addresses_dodge_nothing() {
    let allowed = address(8081);
    let SocketAddr::V4(v4) = allowed else { unreachable!() };
    let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
    for rule in [Rule::from(Rule::listen(mapped)), Rule::connect(mapped).into()] {
        let built = Policy::builder().allow(rule).build();
        assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{built:?}");
    }
    let rules = Policy::builder().allow(Rule::listen(allowed)).allow(Rule::connect(allowed)).build().unwrap();
    let (_service, mut raw) = raw(rules);
    for scope in [0, 1, u32::MAX] {
        let spelling = SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, scope));
        for ask in [Ask::Listen(spelling), Ask::Connect(spelling)] {
            let refusal = raw.ask(ask).unwrap_err();
            assert_eq!(refusal, Refusal { reason: Reason::Denied, errno: libc::EACCES });
        }
    }
    assert!(raw.ask(Ask::Listen(allowed)).unwrap().is_some());
}

/// S-01: an IPv6 listener takes IPv6 only, so a rule for `[::]` opens no IPv4 port.
#[test]
fn s_01_ipv6_listeners_take_ipv6_only() {
    let Some(port) = ipv6_port() else { return };
    let addresses: [SocketAddr; 2] = [(Ipv6Addr::LOCALHOST, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    for allowed in addresses {
        let (_service, client) = client(policy(Rule::listen(allowed)));
        let listener = client.listen(allowed).unwrap();
        assert!(getsockopt(&listener, sockopt::Ipv6V6Only).unwrap());
        let outside = TcpStream::connect_timeout(&(Ipv6Addr::LOCALHOST, port).into(), PATIENCE).unwrap();
        carries(&listener.accept().unwrap().0, &outside);
        let v4 = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), PATIENCE);
        assert_eq!(v4.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        refused(client.listen((Ipv4Addr::UNSPECIFIED, port).into()), Reason::Denied, libc::EACCES);
        // The number of the interface is a part of the address.
        let scoped = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 1));
        refused(client.listen(scoped), Reason::Denied, libc::EACCES);
        end(listener);
    }
}

/// S-01: a rule for port 0 lets the kernel choose, and grants no port that the worker chooses.
#[test]
fn s_01_port_zero_is_the_kernels_choice() {
    let any = address(0);
    let (_service, client) = client(policy(Rule::listen(any)));
    let (one, other) = (client.listen(any).unwrap(), client.listen(any).unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    assert!(port(&one) != 0 && port(&other) != 0 && port(&one) != port(&other));
    refused(client.listen((any.ip(), port(&one)).into()), Reason::Denied, libc::EACCES);
}

/// S-04: what a listener is like without being asked: close-on-exec, blocking, SO_REUSEADDR, no SO_REUSEPORT.
#[test]
fn s_04_listeners_by_default() {
    let allowed = address(8082);
    let (_service, client) = client(policy(Rule::listen(allowed)));
    let listener = client.listen(allowed).unwrap();
    assert!(is_close_on_exec(&listener) && !is_nonblocking(&listener));
    assert!(getsockopt(&listener, sockopt::ReuseAddr).unwrap());
    assert!(!getsockopt(&listener, sockopt::ReusePort).unwrap());
    assert!(getsockopt(&listener, sockopt::AcceptConn).unwrap());
}

/// S-04: and what it is like when the policy asks: non-blocking, and several on one port.
#[test]
fn s_04_listeners_by_policy() {
    let allowed = address(8083);
    let (_service, client) = client(policy(Rule::listen(allowed).nonblocking().reuse_port()));
    let (one, other) = (client.listen(allowed).unwrap(), client.listen(allowed).unwrap());
    for listener in [&one, &other] {
        assert!(is_close_on_exec(listener) && is_nonblocking(listener));
        assert!(getsockopt(listener, sockopt::ReusePort).unwrap());
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

/// How many connections a listener takes before anybody accepts one.
fn fill(listener: SocketAddr, most: usize) -> Vec<TcpStream> {
    let connect = || TcpStream::connect_timeout(&listener, Duration::from_millis(300)).ok();
    std::iter::from_fn(connect).take(most).collect()
}

/// S-04: the backlog is the policy's: the kernel lets one more connection than it wait, and none beyond.
#[test]
fn s_04_the_backlog_is_the_policys() {
    for backlog in [0, 3] {
        let allowed = address(8084);
        let (_service, client) = client(policy(Rule::listen(allowed).backlog(backlog)));
        let _listener = client.listen(allowed).unwrap();
        assert_eq!(fill(allowed, 10).len(), usize::from(backlog) + 1);
    }
    let allowed = address(8085);
    let (_service, client) = client(policy(Rule::listen(allowed)));
    let _listener = client.listen(allowed).unwrap();
    assert_eq!(fill(allowed, 20).len(), 20, "128 unless said otherwise");
}

/// S-04: a backlog beyond what the system allows is cut to that, and the listener works.
#[test]
fn s_04_a_backlog_beyond_the_systems_is_cut() {
    for backlog in [4096, 4097, u16::MAX] {
        let allowed = address(8086);
        let (_service, client) = client(policy(Rule::listen(allowed).backlog(backlog)));
        let listener = client.listen(allowed).unwrap();
        let outside = TcpStream::connect_timeout(&allowed, PATIENCE).unwrap();
        carries(&outside, &listener.accept().unwrap().0);
    }
}

/// S-02: a connection by rule reaches its listener; what is not listed is refused, and not tried.
#[test]
fn s_02_a_connection_is_exactly_the_rules() {
    let (listed, other) = (address(8087), address(8087));
    let (listener, silent) = (TcpListener::bind(listed).unwrap(), TcpListener::bind(other).unwrap());
    silent.set_nonblocking(true).unwrap();
    let (_service, client) = client(policy(Rule::connect(listed)));
    let stream = client.connect(listed).unwrap();
    let (accepted, from) = listener.accept().unwrap();
    assert_eq!(from, stream.local_addr().unwrap());
    carries(&stream, &accepted);
    carries(&accepted, &stream);
    assert!(is_close_on_exec(&stream) && !is_nonblocking(&stream));

    refused(client.connect(other), Reason::Denied, libc::EACCES);
    refused(client.connect((listed.ip(), 8088).into()), Reason::Denied, libc::EACCES);
    refused(client.listen(listed), Reason::Denied, libc::EACCES);
    assert_eq!(silent.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody knocked");
    end(listener);
    refused(client.connect(listed), Reason::Failed, libc::ECONNREFUSED);
    let error: std::io::Error = client.connect(listed).unwrap_err().into();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// S-04: a connection is non-blocking when the policy asks, and connected all the same.
#[test]
fn s_04_connections_by_policy() {
    let listed = address(8089);
    let listener = TcpListener::bind(listed).unwrap();
    let (_service, client) = client(policy(Rule::connect(listed).nonblocking()));
    let mut stream = client.connect(listed).unwrap();
    assert!(is_close_on_exec(&stream) && is_nonblocking(&stream));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    carries(&stream, &listener.accept().unwrap().0);
}

/// S-02, L-05: a connection that nobody takes ends with ETIMEDOUT after the policy's time; other workers do not wait
/// for it, and nothing of it is left.
#[test]
fn s_02_l_05_connecting_takes_no_longer_than_the_policy_says() {
    if !alone("s_02_l_05_connecting_takes_no_longer_than_the_policy_says") {
        return;
    }
    let full = address(8090);
    let (server, host) = client(policy(Rule::listen(full).backlog(0)));
    let listener = host.listen(full).unwrap();
    let waiting = fill(full, 10);
    let timeout = Duration::from_millis(300);
    let broker = fdbroker::Broker::new();
    let (service, slow) = common::served::client_of(&broker, policy(Rule::connect(full).timeout(timeout)));
    let (_other_service, other) = common::served::client_of(&broker, policy(Rule::file("/dev/null").read()));
    let baseline = open_fds();

    let started = Instant::now();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| slow.connect(full));
        let mut served = 0;
        while !connecting.is_finished() || served == 0 {
            refused(other.read("/dev/null"), Reason::Kind, libc::EACCES);
            served += 1;
        }
        refused(connecting.join().unwrap(), Reason::Failed, libc::ETIMEDOUT);
        assert!(served > 10, "{served} requests of the other in all that time");
    });
    assert!(started.elapsed() >= timeout);
    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
    let error: std::io::Error = slow.connect(full).unwrap_err().into();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    other.hello().unwrap();
    assert_eq!(open_fds(), baseline);
    drop((listener, waiting, slow, host));
    ended(service).unwrap();
    ended(server).unwrap();
}

/// S-05: what listen grants listens, and what connect grants is connected: TCP both.
#[test]
fn s_05_sockets_are_of_the_kind_that_was_asked_for() {
    let (here, any) = (address(8091), address(0));
    let rules = Policy::builder().allow(Rule::listen(here)).allow(Rule::connect(here)).allow(Rule::listen(any));
    let (_service, client) = client(rules.build().unwrap());
    let listener = client.listen(here).unwrap();
    let stream = client.connect(here).unwrap();
    for (socket, listens) in [(listener.as_fd(), true), (stream.as_fd(), false)] {
        assert_eq!(getsockopt(&socket, sockopt::AcceptConn).unwrap(), listens);
        assert_eq!(getsockopt(&socket, sockopt::SockType).unwrap(), nix::sys::socket::SockType::Stream);
    }
    assert_eq!(stream.peer_addr().unwrap(), here);
}

/// S-01: a port below 1024, which only a privileged broker can give.
#[test]
fn s_01_a_privileged_port() {
    let low = address(80);
    let (_service, client) = client(policy(Rule::listen(low)));
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    match client.listen(low) {
        Ok(listener) => assert_eq!(listener.local_addr().unwrap(), low),
        Err(_) if nix::unistd::geteuid().is_root() => {
            eprintln!("SKIPPED S-01 with a privileged port: root may not bind one here");
        }
        Err(error) => {
            assert!(start.trim().parse::<u16>().is_ok_and(|start| start > 80), "{error}");
            assert_eq!(error.refusal(), Some(Refusal { reason: Reason::Failed, errno: libc::EACCES }));
            eprintln!("SKIPPED the granted half of S-01 with a privileged port: this user may not bind one");
        }
    }
    lives(&client);
}

fn lives(client: &Client) {
    client.hello().unwrap();
}

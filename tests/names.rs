//! Proves what a policy grants by the names of hosts: the broker looks them up, with the system's resolver.
//!
//! Each test has /etc/hosts to itself, in mounts of its own. Where the host refuses those, it says SKIPPED.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::namespace::{put_over, with_mounts, with_network};
use common::open_fds;
use common::served::{PATIENCE, client, client_of, raw};
use fdbroker::policy::{Network, SocketRule};
use fdbroker::wire::SocketType::{Datagram, Stream};
use fdbroker::wire::{Address, Ask, Reason, Refusal};
use fdbroker::{Broker, Client, ClientError, Policy, PolicyError, Rule};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

const DENIED: Refusal = Refusal { reason: Reason::Denied, errno: libc::EACCES };

fn failed(errno: i32) -> Refusal {
    Refusal { reason: Reason::Failed, errno }
}

#[track_caller]
fn refused<T>(result: Result<T, ClientError>, refusal: Refusal) {
    let Err(error) = result else { panic!("granted") };
    assert_eq!(error.refusal(), Some(refusal), "{error}");
}

/// Runs `body` where /etc/hosts is this text, and no name server is asked: in a process of its own.
fn where_hosts_are(test: &str, hosts: &str, body: impl FnOnce(&Path)) {
    with_mounts(test, || {
        let (_keep, directory) = common::directory();
        if let Err(error) = hosts_file(&directory, hosts) {
            eprintln!("SKIPPED {test}: mounting over /etc/hosts is not permitted here: {error}");
            return;
        }
        body(&directory);
    });
}

fn hosts_file(directory: &Path, hosts: &str) -> nix::Result<()> {
    put_file(directory, "hosts", hosts)?;
    put_file(directory, "nsswitch.conf", "hosts: files\n")
}

fn put_file(directory: &Path, name: &str, text: &str) -> nix::Result<()> {
    fs::write(directory.join(name), text).unwrap();
    put_over(&directory.join(name), &format!("/etc/{name}"))
}

fn connect(client: &Client, host: &str, port: u16) -> Result<SocketAddr, ClientError> {
    client.connect_name(host, port).map(|stream| stream.peer_addr().unwrap())
}

/// S-02: a name leads to what the broker has looked up, and to the rule's ports, however it is spelt; to no address
/// that the worker names itself, not even one that the name stands for.
#[test]
fn s_02_a_name_leads_to_what_the_broker_looked_up() {
    let hosts = "127.71.0.1 one.test\n127.71.0.2 other.test\n127.71.0.1 dead.test\n127.71.0.3 dead.test\n";
    where_hosts_are("s_02_a_name_leads_to_what_the_broker_looked_up", hosts, |directory| {
        let at = |last| SocketAddr::from((Ipv4Addr::new(127, 71, 0, last), 7100));
        let listeners = [at(1), at(2)].map(|address| TcpListener::bind(address).unwrap());
        let rules = Policy::builder().allow(Rule::connect_name("One.test", 7100..=7101));
        let rules =
            rules.allow(Rule::connect_name("one.test", 7105).udp()).allow(Rule::connect_name("dead.test", 7100));
        let (_service, mut raw) = raw(rules.build().unwrap());
        let ask = |socket, host, port| Ask::ConnectName { socket, host, port };
        for spelling in [&b"one.test"[..], b"ONE.TEST"] {
            let stream = std::net::TcpStream::from(raw.ask(ask(Stream, spelling, 7100)).unwrap().unwrap());
            assert_eq!(stream.peer_addr().unwrap(), at(1));
            assert_eq!(listeners[0].accept().unwrap().1, stream.local_addr().unwrap());
        }
        let datagrams = UdpSocket::from(raw.ask(ask(Datagram, b"one.test", 7105)).unwrap().unwrap());
        assert_eq!(datagrams.peer_addr().unwrap(), (at(1).ip(), 7105).into());
        assert_eq!(raw.ask(ask(Stream, b"one.test", 7101)).unwrap_err(), failed(libc::ECONNREFUSED));
        let denied = [
            ask(Stream, b"one.test", 7099),
            ask(Stream, b"one.test", 7102),
            ask(Stream, b"one.test", 7105),
            ask(Datagram, b"one.test", 7100),
            ask(Stream, b"other.test", 7100),
            ask(Stream, b"one", 7100),
            ask(Stream, b"sub.one.test", 7100),
            Ask::Connect(Stream, Address::Ip(at(1))),
            Ask::Connect(Datagram, Address::Ip((at(1).ip(), 7105).into())),
        ];
        denied.iter().for_each(|ask| assert_eq!(raw.ask(*ask).unwrap_err(), DENIED, "{ask}"));
        // The second address where the first does not answer; and what the name stands for now, not before.
        drop(listeners);
        let third = TcpListener::bind(at(3)).unwrap();
        let stream = std::net::TcpStream::from(raw.ask(ask(Stream, b"dead.test", 7100)).unwrap().unwrap());
        assert_eq!(stream.peer_addr().unwrap(), at(3));
        drop(third);
        let _second = TcpListener::bind(at(2)).unwrap();
        fs::write(directory.join("hosts"), "127.71.0.2 one.test\n").unwrap();
        let stream = std::net::TcpStream::from(raw.ask(ask(Stream, b"one.test", 7100)).unwrap().unwrap());
        assert_eq!(stream.peer_addr().unwrap(), at(2));
        assert_eq!(raw.ask(ask(Stream, b"dead.test", 7100)).unwrap_err(), failed(libc::ENOENT));
    });
}

/// S-02: of what a name stands for, only what is in the rule's networks is connected to; nobody else hears of it.
#[test]
fn s_02_answers_within_networks() {
    let hosts = "127.72.0.1 two.test\n127.72.1.1 two.test\n";
    where_hosts_are("s_02_answers_within_networks", hosts, |_| {
        let at = |third| SocketAddr::from((Ipv4Addr::new(127, 72, third, 1), 7200));
        let listeners = [at(0), at(1)].map(|address| TcpListener::bind(address).unwrap());
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Network>>();
        let within = |texts| policy(Rule::connect_name("two.test", 7200).answers_within(networks(texts)));
        for (networks, third) in [(&["127.72.0.0/24"][..], 0), (&["10.0.0.0/8", "127.72.1.0/24"], 1)] {
            let (_service, client) = client(within(networks));
            assert_eq!(connect(&client, "two.test", 7200).unwrap(), at(third));
        }
        listeners.iter().for_each(|listener| drop(listener.accept().unwrap()));
        let (_service, client) = client(within(&["10.0.0.0/8", "::/0"]));
        refused(connect(&client, "two.test", 7200), failed(libc::EHOSTUNREACH));
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "nobody knocked");
        }
    });
}

/// S-02: networks that are denied are denied to what a name stands for as well.
#[test]
fn s_02_denied_networks_are_denied_to_names() {
    let hosts = "127.73.0.1 inside.test\n127.73.0.1 both.test\n127.73.1.1 both.test\n::ffff:127.73.0.1 mapped.test\n";
    where_hosts_are("s_02_denied_networks_are_denied_to_names", hosts, |_| {
        let at = |third| SocketAddr::from((Ipv4Addr::new(127, 73, third, 1), 7300));
        let (inside, outside) = (TcpListener::bind(at(0)).unwrap(), TcpListener::bind(at(1)).unwrap());
        let denied: Network = "127.73.0.0/24".parse().unwrap();
        let mut rules = Policy::builder().deny(Rule::connect_within(denied, 0..=u16::MAX));
        for host in ["inside.test", "both.test", "mapped.test"] {
            rules = rules.allow(Rule::connect_name(host, 7300));
        }
        let (_service, client) = client(rules.build().unwrap());
        assert_eq!(connect(&client, "both.test", 7300).unwrap(), at(1));
        for host in ["inside.test", "mapped.test"] {
            let Err(error) = connect(&client, host, 7300) else { panic!("{host} leads to a denied network") };
            assert!(error.refusal().is_some(), "{error}");
        }
        outside.accept().unwrap();
        inside.set_nonblocking(true).unwrap();
        assert!(inside.accept().is_err(), "nobody knocked");
    });
}

/// S-07: of the addresses of a name sixteen are kept, whatever their number is; those that nobody can be meant by are
/// none of them.
#[test]
fn s_07_answers_are_bounded() {
    let mut hosts = String::from("0.0.0.0 odd.test\n:: odd.test\n224.0.0.1 odd.test\nff02::1 odd.test\n");
    hosts += "255.255.255.255 odd.test\n::ffff:0.0.0.0 odd.test\n::ffff:127.74.1.1 mapped.test\n";
    (1..=60).for_each(|last| hosts += &format!("127.74.0.{last} many.test\n127.74.0.{last} many.test\n"));
    where_hosts_are("s_07_answers_are_bounded", &hosts, |_| {
        let granted = |last: &u8| {
            let one = Network::from(std::net::IpAddr::from(Ipv4Addr::new(127, 74, 0, *last)));
            let (_service, client) = client(policy(Rule::connect_name("many.test", 7400).udp().answers_within([one])));
            match client.connect_name_udp("many.test", 7400) {
                Ok(socket) => {
                    assert!(one.contains(socket.peer_addr().unwrap().ip()));
                    true
                }
                Err(error) => {
                    assert_eq!(error.refusal(), Some(failed(libc::EHOSTUNREACH)), "{error}");
                    false
                }
            }
        };
        assert_eq!((1..=60).filter(granted).count(), 16);

        let udp = |host| Rule::connect_name(host, 7400).udp();
        let (_service, client) =
            client(Policy::builder().allow(udp("odd.test")).allow(udp("mapped.test")).build().unwrap());
        refused(client.connect_name_udp("odd.test", 7400), failed(libc::ENOENT));
        let mapped = client.connect_name_udp("mapped.test", 7400).unwrap().peer_addr().unwrap();
        assert_eq!(mapped, (Ipv4Addr::new(127, 74, 1, 1), 7400).into(), "the IPv4 address that it is");
    });
}

/// S-07: names of any length and with any bytes are refused, and the service goes on; no rule can have such a name.
#[test]
fn s_07_hostile_names() {
    common::alone("s_07_hostile_names", || {
        let (_service, mut raw) = raw(policy(Rule::connect_name("localhost", 0..=u16::MAX)));
        raw.told(Ask::Hello).unwrap();
        let baseline = open_fds();
        let labels = vec!["a".repeat(63); 4].join(".");
        let names = [
            String::new(),
            "a".repeat(64),
            "a".repeat(253),
            "a".repeat(254),
            labels,
            "a".repeat(4000),
            "localhost.".into(),
            "localhost\0".into(),
            "localhost\0.test".into(),
            "\0".into(),
            " localhost".into(),
            "localhost\n".into(),
            "127.0.0.1".into(),
            "127.1".into(),
            "2130706433".into(),
            "0x7f000001".into(),
            "::1".into(),
            "[::1]".into(),
            "fe80::1%lo".into(),
            ".".into(),
            "..".into(),
            "a..b".into(),
            "-a".into(),
            "loc\u{e4}lhost".into(),
            "*".into(),
        ];
        for name in &names {
            let asks = [Stream, Datagram].map(|socket| Ask::ConnectName { socket, host: name.as_bytes(), port: 80 });
            for ask in asks {
                assert_eq!(raw.ask(ask).unwrap_err(), DENIED, "{ask}");
            }
            let built = Policy::builder().allow(Rule::connect_name(&**name, 80)).build();
            assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{name:?}: {built:?}");
        }
        for host in [&b"\xff"[..], b"localhost\xff", b"\xc3\x28", &[0x80; 253]] {
            let ask = Ask::ConnectName { socket: Stream, host, port: 80 };
            assert_eq!(raw.ask(ask).unwrap_err(), DENIED, "{ask}");
        }
        assert_eq!(look_ups(), 0, "none was looked up");
        raw.told(Ask::Hello).unwrap();
        assert_eq!(open_fds(), baseline);
    });
}

/// Look-ups that are under way in this process.
fn look_ups() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("fdbroker-names")).count()
}

/// A FIFO in the place of /etc/hosts: who opens it waits for as long as nobody writes.
struct Hang(PathBuf);

impl Hang {
    fn start(directory: &Path) -> Self {
        let fifo = directory.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o644)).unwrap();
        put_over(&fifo, "/etc/hosts").unwrap();
        Self(fifo)
    }

    /// Lets everybody go on who waits, until nobody does.
    fn end(self) {
        umount2("/etc/hosts", MntFlags::MNT_DETACH).unwrap();
        let late = Instant::now() + PATIENCE;
        while look_ups() > 0 {
            // Without a reader: ENXIO.
            let writer = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.0);
            drop(writer.and_then(|mut writer| writer.write_all(b"127.75.0.9 never.test\n")));
            assert!(Instant::now() < late, "{} look-ups are still under way", look_ups());
            std::thread::yield_now();
        }
    }
}

/// S-02, S-07, L-05: a resolver that hangs: who asked has its answer when the policy's time is over, and other workers
/// are served meanwhile. Who asks again for the same name waits for the same look-up; how many there are is bounded,
/// and one more is refused at once. When it is over, names are had again, and nothing is left.
#[test]
fn s_02_s_07_l_05_a_resolver_that_hangs() {
    let hosts = "127.75.0.1 name-0.test\n";
    where_hosts_are("s_02_s_07_l_05_a_resolver_that_hangs", hosts, |directory| {
        let here = SocketAddr::from((Ipv4Addr::new(127, 75, 0, 1), 7500));
        let _listener = TcpListener::bind(here).unwrap();
        let timeout = Duration::from_millis(300);
        let name = |number: usize| format!("name-{number}.test");
        let rule = |number| -> SocketRule { Rule::connect_name(name(number), 7500).timeout(timeout) };
        let rules = (0..6).fold(Policy::builder(), |rules, number| rules.allow(rule(number)));
        let broker = Broker::new();
        let (_slow_service, slow) = client_of(&broker, rules.build().unwrap());
        let (_other_service, other) = client_of(&broker, policy(Rule::file("/dev/null").read()));
        assert_eq!(connect(&slow, &name(0), 7500).unwrap(), here);
        slow.hello().unwrap();
        other.hello().unwrap();
        let baseline = open_fds();

        let (hang, started) = (Hang::start(directory), Instant::now());
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| connect(&slow, &name(0), 7500));
            let mut served = 0;
            while !asking.is_finished() || served == 0 {
                refused(other.read("/dev/null"), Refusal { reason: Reason::Kind, errno: libc::EACCES });
                served += 1;
            }
            refused(asking.join().unwrap(), failed(libc::ETIMEDOUT));
            assert!(served > 10, "{served} requests of the other in all that time");
        });
        assert!(started.elapsed() >= timeout && started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
        refused(connect(&slow, &name(0), 7500), failed(libc::ETIMEDOUT));
        assert_eq!(look_ups(), 1, "the same look-up");
        for number in 1..4 {
            refused(connect(&slow, &name(number), 7500), failed(libc::ETIMEDOUT));
        }
        for number in [4, 5, 4] {
            refused(connect(&slow, &name(number), 7500), failed(libc::EAGAIN));
        }
        assert_eq!(look_ups(), 4);
        hang.end();
        assert_eq!(connect(&slow, &name(0), 7500).unwrap(), here);
        slow.hello().unwrap();
        assert_eq!(open_fds(), baseline);
    });
}

/// S-02, L-05: a name server that is asked and does not answer: ETIMEDOUT after the policy's time.
#[test]
fn s_02_l_05_a_name_server_that_is_silent() {
    with_network("s_02_l_05_a_name_server_that_is_silent", || {
        let (_keep, directory) = common::directory();
        let files = hosts_file(&directory, "127.0.0.1 localhost\n")
            .and_then(|()| put_file(&directory, "resolv.conf", "nameserver 127.0.0.1\n"));
        if let Err(error) = files {
            eprintln!("SKIPPED S-02 with a silent name server: mounting in /etc is not permitted here: {error}");
            return;
        }
        fs::write(directory.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
        let server = UdpSocket::bind("127.0.0.1:53").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let timeout = Duration::from_millis(500);
        let (_service, client) = client(policy(Rule::connect_name("silent.test", 80).timeout(timeout)));
        let started = Instant::now();
        refused(connect(&client, "silent.test", 80), failed(libc::ETIMEDOUT));
        assert!(started.elapsed() >= timeout && started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
        let mut query = [0; 512];
        let len = server.recv(&mut query).unwrap();
        assert!(query[..len].windows(6).any(|bytes| bytes == b"silent"), "the name server was asked");
        client.hello().unwrap();
    });
}

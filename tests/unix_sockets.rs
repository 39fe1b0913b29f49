//! Proves what a policy grants of UNIX sockets: connected, listening and bound, by path and by abstract name.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::served::{PATIENCE, Raw, client, client_of, ended, raw};
use common::{directory, identity, open_fds};
use fdbroker::wire::SocketType::{Datagram, SeqPacket, Stream};
use fdbroker::wire::{Address, Ask, Reason, Refusal, SocketType};
use fdbroker::{Broker, ClientError, Policy, PolicyError, Rule};
use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, OFlag, RenameFlags, fcntl, renameat2};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::mkfifo;

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

const DENIED: Refusal = Refusal { reason: Reason::Denied, errno: libc::EACCES };
const KIND: Refusal = Refusal { reason: Reason::Kind, errno: libc::EACCES };

fn failed(errno: i32) -> Refusal {
    Refusal { reason: Reason::Failed, errno }
}

#[track_caller]
fn refused<T>(result: Result<T, ClientError>, refusal: Refusal) {
    let Err(error) = result else { panic!("granted") };
    assert_eq!(error.refusal(), Some(refusal), "{error}");
}

fn at(path: &Path) -> Address<'_> {
    Address::Path(path.as_os_str().as_bytes())
}

/// An abstract name that no other test has.
fn name() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("fdbroker-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).into_bytes()
}

fn abstract_address(name: &[u8]) -> SocketAddr {
    SocketAddr::from_abstract_name(name).unwrap()
}

fn kind_of(socket: SocketType) -> SockType {
    match socket {
        Stream => SockType::Stream,
        Datagram => SockType::Datagram,
        SeqPacket => SockType::SeqPacket,
    }
}

/// A server of this type, without the broker.
fn server(kind: SocketType, address: &UnixAddr) -> OwnedFd {
    let server = socket(AddressFamily::Unix, kind_of(kind), SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(server.as_raw_fd(), address).unwrap();
    if kind != Datagram {
        listen(&server, Backlog::new(64).unwrap()).unwrap();
    }
    server
}

fn server_at(kind: SocketType, path: &Path) -> OwnedFd {
    server(kind, &UnixAddr::new(path).unwrap())
}

/// Whether the socket is of this type and connected to exactly that server: what is sent arrives there.
#[track_caller]
fn carries(socket: &OwnedFd, kind: SocketType, server: &OwnedFd) {
    assert_eq!(getsockopt(socket, sockopt::SockType).unwrap(), kind_of(kind));
    let flags = FdFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
    let at_server = match kind {
        Datagram => server.try_clone().unwrap(),
        _ => UnixListener::from(server.try_clone().unwrap()).accept().unwrap().0.into(),
    };
    let sent = UnixStream::from(socket.try_clone().unwrap()).write(b"word").unwrap();
    let mut bytes = [0; 16];
    let came = UnixStream::from(at_server).read(&mut bytes).unwrap();
    assert_eq!((sent, &bytes[..came]), (4, &b"word"[..]));
}

// ------------------------------------------------------------------------------------------------------- connecting

/// O-19: by exact path, by tree and by pattern: each type of socket where the rule names it, and no other; a type that
/// the rule names and the socket is not of is the kernel's to refuse.
#[test]
fn o_19_types_as_configured() {
    let (_keep, root) = directory();
    let kinds = SocketType::ALL;
    let servers = kinds.map(|kind| server_at(kind, &root.join(kind.name())));
    let forms: [fn(PathBuf, &str) -> fdbroker::policy::FileRule; 3] = [
        |root, name| Rule::file(root.join(name)),
        |root, _| Rule::beneath(root),
        |root, name| Rule::glob(root.join(format!("{}*", &name[..3]))),
    ];
    for form in forms {
        for (kind, server) in kinds.into_iter().zip(&servers) {
            let path = root.join(kind.name());
            let (_service, mut named) = raw(policy(form(root.clone(), kind.name()).connect([kind])));
            carries(&named.ask(Ask::Connect(kind, at(&path))).unwrap().unwrap(), kind, server);
            for other in kinds.into_iter().filter(|other| *other != kind) {
                assert_eq!(named.ask(Ask::Connect(other, at(&path))).unwrap_err(), DENIED);
            }
            let (_service, mut all) = raw(policy(form(root.clone(), kind.name()).connect(kinds)));
            for asked in kinds {
                match all.ask(Ask::Connect(asked, at(&path))) {
                    Ok(fd) => {
                        assert_eq!(asked, kind);
                        carries(&fd.unwrap(), kind, server);
                    }
                    Err(refusal) => assert!(asked != kind && refusal == failed(libc::EPROTOTYPE), "{refusal:?}"),
                }
            }
        }
    }
    let built = Policy::builder().allow(Rule::beneath(&root).connect([])).build();
    assert!(matches!(built, Err(PolicyError::Unfit { .. })), "a rule that names no type: {built:?}");
}

/// O-19: what is no socket is refused as such; a link is refused, in the end and on the way; nothing, and nobody, as
/// the kernel says. Nothing of it is left in the broker.
#[test]
fn o_19_what_is_not_a_socket() {
    common::alone("o_19_what_is_not_a_socket", || {
        let (_keep, root) = directory();
        let served = root.join("served");
        fs::create_dir(&served).unwrap();
        let (inside, outside) = (server_at(Stream, &served.join("socket")), server_at(Stream, &root.join("outside")));
        fs::write(served.join("file"), b"").unwrap();
        fs::create_dir(served.join("directory")).unwrap();
        mkfifo(&served.join("fifo"), Mode::S_IRWXU).unwrap();
        symlink("socket", served.join("link")).unwrap();
        symlink(root.join("outside"), served.join("out")).unwrap();
        symlink(&root, served.join("up")).unwrap();
        drop(server_at(Stream, &served.join("stale")));
        let outcomes = [
            ("file", KIND),
            ("directory", KIND),
            ("fifo", KIND),
            // Of these it is the link itself that is judged.
            ("link", KIND),
            ("out", KIND),
            ("up/outside", failed(libc::ELOOP)),
            ("nothing", failed(libc::ENOENT)),
            ("file/socket", failed(libc::ENOTDIR)),
            ("stale", failed(libc::ECONNREFUSED)),
        ];
        let (_service, client) = client(policy(Rule::beneath(&served).connect(SocketType::ALL)));
        carries(&client.unix_connect(served.join("socket")).unwrap().into(), Stream, &inside);
        // Its own copies the broker has closed before it answers again.
        client.hello().unwrap();
        let baseline = open_fds();
        for _ in 0..10 {
            outcomes.iter().for_each(|(name, refusal)| refused(client.unix_connect(served.join(name)), *refusal));
            refused(client.unix_connect(root.join("outside")), DENIED);
        }
        client.hello().unwrap();
        assert_eq!(open_fds(), baseline);
        UnixListener::from(outside.try_clone().unwrap()).set_nonblocking(true).unwrap();
        let knocked = UnixListener::from(outside).accept();
        assert_eq!(knocked.unwrap_err().kind(), ErrorKind::WouldBlock, "nobody knocked");
    });
}

/// O-19: for ten thousand connections and more, somebody swaps the socket with a link to another one, and its directory
/// with one that holds another one: whoever is connected is connected to the socket inside.
#[test]
fn o_19_swapping_leads_nowhere_else() {
    let (_keep, root) = directory();
    let (served, sub) = (root.join("served"), root.join("served/sub"));
    fs::create_dir_all(&sub).unwrap();
    fs::create_dir(root.join("elsewhere")).unwrap();
    let inside = [server_at(Stream, &served.join("socket")), server_at(Stream, &sub.join("socket"))];
    let outside = server_at(Stream, &root.join("elsewhere/socket"));
    symlink(root.join("elsewhere/socket"), root.join("link")).unwrap();
    symlink(root.join("elsewhere"), root.join("tree")).unwrap();
    let swap = |one: &Path, other: &str| {
        renameat2(AT_FDCWD, one, AT_FDCWD, &root.join(other), RenameFlags::RENAME_EXCHANGE).unwrap();
    };
    let servers = inside.each_ref().map(|server| UnixListener::from(server.try_clone().unwrap()));
    let outside = UnixListener::from(outside);
    servers.iter().chain([&outside]).for_each(|server| server.set_nonblocking(true).unwrap());
    let (_service, client) = client(policy(Rule::beneath(&served).connect([Stream])));
    let (over, started) = (AtomicBool::new(false), Instant::now());
    let (mut granted, mut others) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && started.elapsed() < PATIENCE {
                swap(&served.join("socket"), "link");
                swap(&sub, "tree");
            }
        });
        // Both must have happened, however slow this machine is.
        while (granted + others < 10_000 || granted == 0 || others == 0) && started.elapsed() < PATIENCE / 2 {
            for path in [served.join("socket"), sub.join("socket")] {
                match client.unix_connect(path).map_err(|error| error.refusal().unwrap()) {
                    Ok(_) => granted += 1,
                    Err(refusal) => {
                        // EXDEV: the directory was moved out while the kernel was in it.
                        let expected = [KIND, failed(libc::ELOOP), failed(libc::EXDEV)].contains(&refusal);
                        over.store(!expected, Ordering::Relaxed);
                        assert!(expected, "{refusal:?}");
                        others += 1;
                    }
                }
            }
            servers.iter().for_each(|server| while server.accept().is_ok() {});
            if let Ok((_, from)) = outside.accept() {
                over.store(true, Ordering::Relaxed);
                panic!("connected to the socket outside: {from:?}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    eprintln!("O-19: {granted} connections granted, {others} refused, none outside");
    assert!(granted > 0 && others > 0);
}

/// O-19: a tree, a pattern or a path that is denied is denied to sockets as well, whatever is allowed.
#[test]
fn o_19_s_06_what_is_denied_covers_sockets() {
    let (_keep, root) = directory();
    let denied = root.join("denied");
    fs::create_dir(&denied).unwrap();
    let server = server_at(Stream, &root.join("socket"));
    let _servers = ["denied/socket", "exact", "a.pattern"].map(|name| server_at(Stream, &root.join(name)));
    let allowed = Rule::beneath(&root).connect([Stream]).listen([Stream], 0o600).bind(0o600);
    let rules = Policy::builder().allow(allowed).allow(Rule::glob(root.join("*/socket")).connect([Stream]));
    let rules = rules.deny(Rule::beneath(&denied)).deny(Rule::file(root.join("exact")));
    let (_service, mut raw) = raw(rules.deny(Rule::glob(root.join("*.pattern"))).build().unwrap());
    carries(&raw.ask(Ask::Connect(Stream, at(&root.join("socket")))).unwrap().unwrap(), Stream, &server);
    for name in ["denied/socket", "exact", "a.pattern", "denied/new", "new.pattern"] {
        let path = root.join(name);
        for ask in [Ask::Connect(Stream, at(&path)), Ask::Listen(Stream, at(&path)), Ask::Bind(at(&path))] {
            assert_eq!(raw.ask(ask).unwrap_err(), DENIED, "{ask}");
        }
    }
    assert!(!denied.join("new").exists() && !root.join("new.pattern").exists());
}

/// O-19: abstract names: connected, listened on and bound by exactly the rule's name, which no other name is, nor the
/// path of the same bytes.
#[test]
fn o_19_abstract_names() {
    // Alone: a process that another test starts would hold a server's socket for a moment.
    common::alone("o_19_abstract_names", abstract_names);
}

fn abstract_names() {
    for kind in SocketType::ALL {
        let (name, serving) = (name(), name());
        let server = server(kind, &UnixAddr::new_abstract(&name).unwrap());
        let own = if kind == Datagram {
            Rule::bind_abstract(&*serving)
        } else {
            Rule::listen_abstract(&*serving).socket_type(kind)
        };
        let rules = Policy::builder().allow(Rule::connect_abstract(&*name).socket_type(kind)).allow(own);
        let (_service, mut raw) = raw(rules.build().unwrap());
        let connected = raw.ask(Ask::Connect(kind, Address::Abstract(&name))).unwrap().unwrap();
        carries(&connected, kind, &server);

        let own = |name| if kind == Datagram { Ask::Bind(name) } else { Ask::Listen(kind, name) };
        let listener = raw.ask(own(Address::Abstract(&serving))).unwrap().unwrap();
        assert_eq!(getsockopt(&listener, sockopt::AcceptConn).unwrap(), kind != Datagram);
        let outside = socket(AddressFamily::Unix, kind_of(kind), SockFlag::SOCK_CLOEXEC, None).unwrap();
        let there = UnixAddr::new_abstract(&serving).unwrap();
        nix::sys::socket::connect(outside.as_raw_fd(), &there).unwrap();
        carries(&outside, kind, &listener);
        assert_eq!(raw.ask(own(Address::Abstract(&serving))).unwrap_err(), failed(libc::EADDRINUSE));

        let longer = [&name[..], b"\0"].concat();
        for other in [&name[1..], &name[..name.len() - 1], &longer[..], b"\0"] {
            for other in [Address::Abstract(other), Address::Path(other)] {
                let refusal = raw.ask(Ask::Connect(kind, other)).unwrap_err();
                assert!(matches!(refusal.reason, Reason::Denied | Reason::Path), "{refusal:?}");
            }
        }
        assert_eq!(raw.ask(own(Address::Abstract(&name))).unwrap_err(), DENIED);
        assert_eq!(raw.ask(Ask::Connect(kind, Address::Abstract(&serving))).unwrap_err(), DENIED);
        drop(server);
        let late = raw.ask(Ask::Connect(kind, Address::Abstract(&name))).unwrap_err();
        assert_eq!(late, failed(libc::ECONNREFUSED));
    }
    for wrong in [vec![], vec![b'x'; 108]] {
        let built = Policy::builder().allow(Rule::connect_abstract(wrong)).build();
        assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{built:?}");
    }
}

/// S-04: abstract sockets are non-blocking where the rule says so, and blocking where it does not.
#[test]
fn s_04_abstract_sockets_by_policy() {
    for nonblocking in [false, true] {
        let name = name();
        let with = |rule: fdbroker::policy::SocketRule| if nonblocking { rule.nonblocking() } else { rule };
        let rules = Policy::builder().allow(with(Rule::listen_abstract(&*name)));
        let (_service, client) = client(rules.allow(with(Rule::connect_abstract(&*name))).build().unwrap());
        let listener = client.unix_listen_addr(&abstract_address(&name)).unwrap();
        let stream = client.unix_connect_addr(Stream, &abstract_address(&name)).unwrap();
        for socket in [listener.as_fd(), stream.as_fd()] {
            let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL).unwrap());
            assert_eq!(flags.contains(OFlag::O_NONBLOCK), nonblocking);
            assert!(FdFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC));
        }
    }
}

/// O-19, L-05: a connection for which the listener's queue has no room ends with ETIMEDOUT after the policy's time;
/// other workers do not wait for it, and nothing of it is left. With room it is had, without any limit of time of its
/// own.
#[test]
fn o_19_l_05_a_full_queue_takes_no_longer_than_the_policy_says() {
    common::alone("o_19_l_05_a_full_queue_takes_no_longer_than_the_policy_says", || {
        let (name, timeout) = (name(), Duration::from_millis(300));
        let listener = UnixListener::from(server(Stream, &UnixAddr::new_abstract(&name).unwrap()));
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let first = UnixStream::connect_addr(&abstract_address(&name)).unwrap();
        let broker = Broker::new();
        let (_slow_service, slow) = client_of(&broker, policy(Rule::connect_abstract(&*name).timeout(timeout)));
        let (_other_service, other) = client_of(&broker, policy(Rule::file("/dev/null").read()));
        other.hello().unwrap();
        let (baseline, started) = (open_fds(), Instant::now());
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| slow.unix_connect_addr(Stream, &abstract_address(&name)));
            let mut served = 0;
            while !connecting.is_finished() || served == 0 {
                refused(other.read("/dev/null"), KIND);
                served += 1;
            }
            refused(connecting.join().unwrap(), failed(libc::ETIMEDOUT));
            assert!(served > 10, "{served} requests of the other in all that time");
        });
        assert!(started.elapsed() >= timeout);
        assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
        assert_eq!(open_fds(), baseline);
        drop((listener.accept().unwrap(), first));
        let stream = UnixStream::from(slow.unix_connect_addr(Stream, &abstract_address(&name)).unwrap());
        assert_eq!(stream.write_timeout().unwrap(), None);
    });
}

// -------------------------------------------------------------------------------------------------------- listening

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What is asked for at an address.
type Asked = fn(Address<'_>) -> Ask<'_>;

/// S-06: the path of a socket has exactly the rule's mode, whatever the broker's umask is; it works, and goes when the
/// worker's service ends.
#[test]
fn s_06_paths_have_the_rules_mode_and_go_with_the_service() {
    common::alone("s_06_paths_have_the_rules_mode_and_go_with_the_service", || {
        for mask in [0, 0o022, 0o777] {
            umask(Mode::from_bits_truncate(mask));
            for mode in [0, 0o600, 0o640, 0o666, 0o777] {
                let (_keep, root) = directory();
                umask(Mode::from_bits_truncate(mask));
                let rules = Rule::beneath(&root).listen([Stream, SeqPacket], mode).bind(mode);
                let (service, mut raw) = raw(policy(rules));
                let asks: [(_, Asked); 3] = [
                    ("stream", |at| Ask::Listen(Stream, at)),
                    ("seqpacket", |at| Ask::Listen(SeqPacket, at)),
                    ("datagram", |at| Ask::Bind(at)),
                ];
                raw.told(Ask::Hello).unwrap();
                let baseline = open_fds();
                for (name, ask) in asks {
                    let (path, kind) = (root.join(name), name.parse::<SocketType>().unwrap());
                    let socket = raw.ask(ask(at(&path))).unwrap().unwrap();
                    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
                    assert_eq!(mode_of(&path), mode, "umask {mask:o}, {name}");
                    if mode == 0o777 || common::is_root() {
                        let outside = socket_connected_to(kind, &UnixAddr::new(&path).unwrap());
                        carries(&outside, kind, &socket);
                    }
                }
                // Its own copies it has closed before it answers again.
                raw.told(Ask::Hello).unwrap();
                assert_eq!(open_fds(), baseline, "no descriptor stays in the broker");
                drop(raw);
                ended(service).unwrap();
                assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "what was made is removed");
            }
        }
    });
}

fn socket_connected_to(kind: SocketType, address: &UnixAddr) -> OwnedFd {
    let outside = socket(AddressFamily::Unix, kind_of(kind), SockFlag::SOCK_CLOEXEC, None).unwrap();
    nix::sys::socket::connect(outside.as_raw_fd(), address).unwrap();
    outside
}

/// S-06: in the end a path is removed only if what is there is what the broker made: what somebody else has put in its
/// place stays, of whatever kind. What has been moved away stays as well.
#[test]
fn s_06_only_what_the_broker_made_is_removed() {
    let (_keep, root) = directory();
    let path = |name: &str| root.join(name);
    let (service, client) = client(policy(Rule::beneath(&root).listen([Stream], 0o600)));
    let listeners =
        ["kept", "file", "socket", "link", "moved", "gone"].map(|name| client.unix_listen(path(name)).unwrap());
    let made = fs::symlink_metadata(path("moved")).unwrap();
    for name in ["file", "socket", "link", "gone"] {
        fs::remove_file(path(name)).unwrap();
    }
    fs::write(path("file"), b"another's").unwrap();
    let anothers = server_at(Stream, &path("socket"));
    symlink("kept", path("link")).unwrap();
    fs::rename(path("moved"), path("away")).unwrap();
    drop(client);
    ended(service).unwrap();
    let mut left: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["away", "file", "link", "socket"]);
    assert_eq!(fs::read(path("file")).unwrap(), b"another's");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::symlink_metadata(path("away")).unwrap().ino(), made.ino());
    carries(&socket_connected_to(Stream, &UnixAddr::new(&path("socket")).unwrap()), Stream, &anothers);
    drop(listeners);
}

/// S-06: a path that was removed can be had again, by the same worker or another; each removes in the end what is its
/// own. The inode number of the one that is gone may have been given to the other.
#[test]
fn s_06_each_worker_removes_its_own() {
    let (_keep, root) = directory();
    let path = root.join("socket");
    let rule = || policy(Rule::file(&path).listen([Stream], 0o600));
    let (first_service, first) = client(rule());
    let (second_service, second) = client(rule());
    drop(first.unix_listen(&path).unwrap());
    for _ in 0..3 {
        fs::remove_file(&path).unwrap();
        drop(first.unix_listen(&path).unwrap());
    }
    fs::remove_file(&path).unwrap();
    let listener = second.unix_listen(&path).unwrap();
    drop(first);
    ended(first_service).unwrap();
    assert!(path.exists(), "it is the second worker's");
    UnixStream::connect(&path).unwrap();
    drop((second, listener));
    ended(second_service).unwrap();
    assert!(!path.exists());
}

/// S-06: the directory is the one that it was when the policy was built, also in the end, wherever it is by then.
#[test]
fn s_06_the_directory_is_pinned() {
    let (_keep, root) = directory();
    let tree = root.join("tree");
    fs::create_dir(&tree).unwrap();
    let (service, client) = client(policy(Rule::beneath(&tree).listen([Stream], 0o600)));
    let _listener = client.unix_listen(tree.join("socket")).unwrap();
    fs::rename(&tree, root.join("moved")).unwrap();
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("socket"), b"another's").unwrap();
    let _other = client.unix_listen(tree.join("other")).unwrap();
    assert!(root.join("moved/other").exists() && !tree.join("other").exists());
    service.stop();
    ended(service).ok();
    assert_eq!(fs::read_dir(root.join("moved")).unwrap().count(), 0);
    assert!(tree.join("socket").exists());
}

/// S-06: nothing that is there is replaced, whatever it is: EADDRINUSE. A link is not followed, and a directory that is
/// one not gone through.
#[test]
fn s_06_nothing_is_replaced() {
    common::alone("s_06_nothing_is_replaced", || {
        let (_keep, root) = directory();
        let served = root.join("served");
        fs::create_dir_all(served.join("directory")).unwrap();
        fs::write(served.join("file"), b"file").unwrap();
        mkfifo(&served.join("fifo"), Mode::S_IRWXU).unwrap();
        symlink(root.join("nothing"), served.join("dangling")).unwrap();
        symlink(&root, served.join("up")).unwrap();
        drop(server_at(Stream, &served.join("stale")));
        let _live = server_at(Stream, &served.join("live"));
        let before = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            fs::symlink_metadata(served.join(name)).unwrap().ino()
        };
        let names = ["directory", "file", "fifo", "dangling", "up", "stale", "live"];
        let inodes = names.map(before);
        let (service, client) = client(policy(Rule::beneath(&served).listen([Stream], 0o600).bind(0o600)));
        client.hello().unwrap();
        let baseline = open_fds();
        for name in names {
            refused(client.unix_listen(served.join(name)), failed(libc::EADDRINUSE));
            refused(client.unix_bind(served.join(name)), failed(libc::EADDRINUSE));
        }
        refused(client.unix_listen(served.join("up/new")), failed(libc::ELOOP));
        refused(client.unix_listen(served.join("absent/new")), failed(libc::ENOENT));
        refused(client.unix_listen(served.join("x".repeat(120))), failed(libc::ENAMETOOLONG));
        refused(client.unix_listen(root.join("new")), DENIED);
        client.hello().unwrap();
        assert_eq!(open_fds(), baseline);
        drop(client);
        ended(service).unwrap();
        assert_eq!(names.map(before), inodes);
        assert!(!root.join("nothing").exists() && !root.join("new").exists());
    });
}

/// S-06, O-19: a path may be longer than an address holds: the broker names no more than its last component.
#[test]
fn s_06_o_19_long_paths() {
    let (_keep, root) = directory();
    let deep = root.join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("socket");
    let rules = Rule::beneath(&root).listen([Stream], 0o600).connect([Stream]);
    let (service, client) = client(policy(rules));
    let listener = client.unix_listen(&path).unwrap();
    let connected = client.unix_connect(&path).unwrap();
    carries(&connected.into(), Stream, &listener.into());
    drop(client);
    ended(service).unwrap();
    assert!(!path.exists());
}

/// S-06: no path stays behind of a socket that could not be had because the broker has no descriptor left for the rest
/// of it, however many it has.
#[test]
fn s_06_without_descriptors_nothing_stays_behind() {
    common::alone("s_06_without_descriptors_nothing_stays_behind", || {
        common::served::limit_descriptors(64);
        let (_keep, root) = directory();
        fs::create_dir(root.join("deep")).unwrap();
        let (_service, client) = client(policy(Rule::beneath(&root).listen([Stream], 0o600).bind(0o600)));
        client.hello().unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let mut had = 0;
        for free in 0..8 {
            let mut all: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
            all.truncate(all.len() - free);
            let sockets =
                [client.unix_listen(root.join("one")).map(drop), client.unix_listen(root.join("deep/one")).map(drop)];
            drop(all);
            for (socket, name) in sockets.into_iter().zip(["one", "deep/one"]) {
                had += usize::from(socket.is_ok());
                assert_eq!(socket.is_ok(), root.join(name).exists(), "{free} descriptors, {name}: {socket:?}");
                if let Err(error) = socket {
                    let refusal = error.refusal().unwrap();
                    assert_eq!(refusal, failed(libc::EMFILE), "{free} descriptors, {name}");
                }
                let _ = fs::remove_file(root.join(name));
            }
        }
        assert!(had > 0 && had < 16, "{had}");
    });
}

/// S-06: the paths that are remembered for one worker are 256 that are there at a time; further sockets are refused,
/// and nothing is made of them. Those that somebody has removed or replaced make room. In the end all are removed.
#[test]
fn s_06_a_bounded_number_of_paths() {
    let (_keep, root) = directory();
    let (service, client) = client(policy(Rule::beneath(&root).listen([Stream], 0o600)));
    for number in 0..256 {
        drop(client.unix_listen(root.join(number.to_string())).unwrap());
    }
    let limit = Refusal { reason: Reason::Limit, errno: libc::EAGAIN };
    for _ in 0..3 {
        refused(client.unix_listen(root.join("one-more")), limit);
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 256);
    fs::remove_file(root.join("7")).unwrap();
    drop(client.unix_listen(root.join("one-more")).unwrap());
    refused(client.unix_listen(root.join("another")), limit);
    fs::remove_file(root.join("8")).unwrap();
    fs::write(root.join("8"), b"another's").unwrap();
    drop(client.unix_listen(root.join("another")).unwrap());
    refused(client.unix_listen(root.join("third")), limit);
    drop(client);
    ended(service).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(fs::read(root.join("8")).unwrap(), b"another's");
}

/// S-05: what listens by path listens, what is connected is connected, and what is bound is neither.
#[test]
fn s_05_never_another_type_or_state() {
    let (_keep, root) = directory();
    let path = root.join("socket");
    let bound = root.join("bound");
    let rules = Rule::beneath(&root).listen([Stream], 0o600).connect(SocketType::ALL).bind(0o600);
    let (_service, mut raw) = raw(policy(rules));
    let ask = |raw: &mut Raw, ask| raw.ask(ask).unwrap().unwrap();
    let listener = ask(&mut raw, Ask::Listen(Stream, at(&path)));
    let stream = ask(&mut raw, Ask::Connect(Stream, at(&path)));
    let datagram = ask(&mut raw, Ask::Bind(at(&bound)));
    let to_it = ask(&mut raw, Ask::Connect(Datagram, at(&bound)));
    let states = [
        (&listener, SockType::Stream, true, false),
        (&stream, SockType::Stream, false, true),
        (&datagram, SockType::Datagram, false, false),
        (&to_it, SockType::Datagram, false, true),
    ];
    for (socket, kind, listens, connected) in states {
        assert_eq!(getsockopt(socket, sockopt::SockType).unwrap(), kind);
        assert_eq!(getsockopt(socket, sockopt::AcceptConn).unwrap(), listens);
        let peer = UnixDatagram::from(socket.try_clone().unwrap()).peer_addr();
        assert_eq!(peer.is_ok(), connected, "{peer:?}");
    }
    assert_ne!(identity(&listener), identity(&stream));
}

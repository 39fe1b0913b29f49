//! Named endpoints between processes that are not related: who may connect, whose path it is, and what is left of it.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fdbroker::{Channel, ChannelError, Credentials, EndpointError, Kind, Listener, Packet};
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, fork, geteuid, getpid};

/// Long enough for any machine; a test that waits for it fails.
const LONG: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;
const KINDS: [Kind; 2] = [Kind::SeqPacket, Kind::Stream];

/// Another process of this test: it is told things line by line, and says things in lines that begin with `@`.
struct Other {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
    }

    /// What it says next.
    fn hear(&mut self) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended, having said: {all}");
            if let Some(said) = line.strip_prefix('@') {
                return said.trim_end().to_owned();
            }
            all.push_str(&line);
        }
    }

    /// Waits for its end, which must be that of a test that passed.
    fn passes(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success() && rest.contains("1 passed"), "{status}: {rest}");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(what: impl std::fmt::Display) {
    println!("\n@{what}");
}

fn told() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// The words after the first of the role that this process was started for, if that is `role`. Between them are tabs: a
/// path may have spaces.
fn arguments(role: &str) -> Option<Vec<String>> {
    let given = common::role()?;
    let mut words = given.split('\t').map(str::to_owned);
    (words.next()? == role).then(|| {
        nix::unistd::alarm::set(120);
        words.collect()
    })
}

fn kind_of(word: &str) -> Kind {
    KINDS.into_iter().find(|kind| format!("{kind:?}") == word).unwrap()
}

fn abstract_name(of: &str) -> SocketAddr {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from_abstract_name(format!("fdbroker-test-{}-{of}-{number}", std::process::id())).unwrap()
}

fn pathname(path: &Path) -> SocketAddr {
    SocketAddr::from_pathname(path).unwrap()
}

/// An address as one word, for another process.
fn word(address: &SocketAddr) -> String {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => path.to_str().unwrap().to_owned(),
        (_, Some(name)) => format!("@{}", std::str::from_utf8(name).unwrap()),
        _ => unreachable!(),
    }
}

fn address_of(word: &str) -> SocketAddr {
    match word.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
        None => pathname(Path::new(word)),
    }
}

fn anybody(_: &Credentials) -> bool {
    true
}

fn soon() -> Instant {
    Instant::now() + LONG
}

fn within(channel: Channel) -> Channel {
    channel.set_recv_timeout(Some(LONG)).unwrap();
    channel.set_send_timeout(Some(LONG)).unwrap();
    channel
}

fn received(channel: &Channel) -> Packet {
    let mut packet = Packet::new();
    channel.recv(&mut packet).unwrap();
    packet
}

fn pipe() -> (File, File) {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

fn is_close_on_exec(fd: impl AsFd) -> bool {
    FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
}

fn is_readable(fd: BorrowedFd<'_>, timeout: impl Into<PollTimeout>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout.into()).unwrap() == 1
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn inode_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn lock_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.lock", path.display()))
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The path of a socket that nobody has any more.
fn make_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(exists(path));
}

/// A socket that has the path and does not listen.
fn bound(path: &Path, socket_type: SockType) -> OwnedFd {
    let socket = nix::sys::socket::socket(AddressFamily::Unix, socket_type, SockFlag::SOCK_CLOEXEC, None).unwrap();
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

/// Connects, in both directions a message with a descriptor, and says who is at the other end.
fn greets(listener: &Listener, address: &SocketAddr) {
    let client = within(Channel::connect_to(address, listener.kind()).unwrap());
    let server = within(listener.accept_deadline(anybody, soon()).unwrap());
    client.send(b"hello", &[]).unwrap();
    assert_eq!(received(&server).bytes(), b"hello");
}

/// H-08: two processes that are not related, both kinds, a path and an abstract name; a descriptor goes in both
/// directions. Each knows who the other is.
#[test]
fn h_08_both_directions_with_descriptors() {
    const NAME: &str = "h_08_both_directions_with_descriptors";
    if let Some(words) = arguments("client") {
        let [address, kind, server] = &words[..] else { unreachable!() };
        let kind = kind_of(kind);
        let channel = within(Channel::connect_to(&address_of(address), kind).unwrap());
        assert_eq!(channel.kind(), kind);
        assert!(is_close_on_exec(&channel));
        let peer = channel.peer_credentials().unwrap();
        assert_eq!((peer.pid, peer.uid), (server.parse().ok(), geteuid().as_raw()));
        let (mut reader, writer) = pipe();
        channel.send(b"write here", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "written by the server");
        let mut reply = received(&channel);
        assert_eq!(reply.bytes(), b"read there");
        let mut text = String::new();
        File::from(reply.take_fds().next().unwrap()).read_to_string(&mut text).unwrap();
        return assert_eq!(text, "left by the server");
    }
    let (_guard, directory) = common::directory();
    for kind in KINDS {
        for address in [pathname(&directory.join("socket")), abstract_name("both")] {
            let listener = Listener::options().kind(kind).bind_addr(&address).unwrap();
            assert!(is_close_on_exec(&listener));
            assert_eq!(word(&listener.local_addr().unwrap()), word(&address));
            let role = format!("client\t{}\t{kind:?}\t{}", word(&address), std::process::id());
            let other = Other::start(common::rerun(NAME, &role));
            let mut asked = None;
            let channel = within(listener.accept_deadline(|peer| asked.replace(*peer).is_none(), soon()).unwrap());
            let peer = asked.unwrap();
            assert_eq!((peer.pid, peer.uid), (Some(other.child.id()), geteuid().as_raw()));
            assert_eq!(channel.peer_credentials().unwrap(), peer);
            assert_eq!(channel.kind(), kind);
            assert!(is_close_on_exec(&channel));
            let mut request = received(&channel);
            assert_eq!(request.bytes(), b"write here");
            File::from(request.take_fds().next().unwrap()).write_all(b"written by the server").unwrap();
            let (reader, mut writer) = pipe();
            writer.write_all(b"left by the server").unwrap();
            channel.send(b"read there", &[reader.as_fd()]).unwrap();
            drop(writer);
            other.passes();
        }
    }
    assert!(names_in(&directory).is_empty());
}

/// H-08: who is not wanted (another uid, where this test is root) has sent a descriptor before it is accepted. It is
/// told from the others before anything is received, its message is released, and the listener serves the next.
#[test]
fn h_08_a_refused_peer_is_not_received_from() {
    const NAME: &str = "h_08_a_refused_peer_is_not_received_from";
    if let Some(words) = arguments("client") {
        let channel = within(Channel::connect_to(&address_of(&words[0]), kind_of(&words[1])).unwrap());
        let (mut reader, writer) = pipe();
        channel.send(b"unwanted", &[writer.as_fd()]).unwrap();
        drop(writer);
        say("sent");
        // Ends when the descriptor in flight is closed.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        return assert!(matches!(channel.recv(&mut Packet::new()), Err(ChannelError::Disconnected)));
    }
    common::alone(NAME, || {
        let (_guard, directory) = common::directory();
        let program = directory.join("test");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        for kind in KINDS {
            for address in [pathname(&directory.join("socket")), abstract_name("refused")] {
                let listener = Listener::options().kind(kind).mode(0o666).bind_addr(&address).unwrap();
                let mut command = Command::new(&program);
                let plain = common::rerun(NAME, &format!("client\t{}\t{kind:?}", word(&address)));
                command.args(plain.get_args()).envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
                let uid = if common::is_root() { NOBODY } else { geteuid().as_raw() };
                if common::is_root() {
                    command.uid(uid).gid(NOBODY);
                }
                command.current_dir("/");
                let mut other = Other::start(command);
                assert_eq!(other.hear(), "sent");
                let before = common::open_fds();
                let result = listener.accept_deadline(
                    |peer| {
                        assert_eq!(common::open_fds(), before + 1, "only the connection");
                        peer.uid != uid
                    },
                    soon(),
                );
                assert_eq!(common::open_fds(), before);
                match &result {
                    Err(ChannelError::PeerRefused { credentials }) => {
                        assert_eq!((credentials.pid, credentials.uid), (Some(other.child.id()), uid));
                    }
                    _ => unreachable!("{result:?}"),
                }
                let said = result.unwrap_err().to_string();
                assert!(said.contains(&format!("uid {uid}")) && said.contains(&other.child.id().to_string()), "{said}");
                other.passes();
                greets(&listener, &address);
            }
        }
    });
}

/// H-08: what a killed listener has left behind is replaced, and nothing is left when the next one is dropped.
#[test]
fn h_08_a_stale_path_is_replaced() {
    const NAME: &str = "h_08_a_stale_path_is_replaced";
    if let Some(words) = arguments("listener") {
        let _listener = Listener::options().kind(kind_of(&words[1])).bind(&words[0]).unwrap();
        say("listening");
        return drop(told());
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    for theirs in KINDS {
        for ours in KINDS {
            let mut other = Other::start(common::rerun(NAME, &format!("listener\t{}\t{theirs:?}", path.display())));
            assert_eq!(other.hear(), "listening");
            drop(Channel::connect_to(&pathname(&path), theirs).unwrap());
            drop(other);
            assert!(exists(&path) && exists(&lock_of(&path)));
            let error = Channel::connect_to(&pathname(&path), ours).unwrap_err();
            assert!(matches!(error, EndpointError::NobodyListens { .. }), "{error}");
            let listener = Listener::options().kind(ours).bind(&path).unwrap();
            greets(&listener, &pathname(&path));
            drop(listener);
            assert!(names_in(&directory).is_empty());
        }
    }
    // One that knew nothing of lock files.
    make_stale(&path);
    greets(&Listener::bind(&path).unwrap(), &pathname(&path));
    assert!(names_in(&directory).is_empty());
}

/// H-08: a path that somebody has is not replaced, be it another fdbroker process, or a program without lock file whose
/// socket listens, is of another kind, is full, or is bound and does not listen yet. Nor is it woken.
#[test]
fn h_08_a_path_in_use_is_not_replaced() {
    const NAME: &str = "h_08_a_path_in_use_is_not_replaced";
    if let Some(words) = arguments("listener") {
        let listener = Listener::bind(&words[0]).unwrap();
        say("listening");
        greets(&listener, &pathname(Path::new(&told())));
        return;
    }
    common::alone("h_08_a_path_in_use_is_not_replaced", || {
        let (_guard, directory) = common::directory();
        let path = directory.join("socket");
        let refused = || {
            let before = inode_of(&path);
            for kind in KINDS {
                let error = Listener::options().kind(kind).bind(&path).unwrap_err();
                assert!(matches!(error, EndpointError::InUse { .. }), "{error}");
                let said = error.to_string();
                assert!(said.contains(path.to_str().unwrap()), "{said}");
            }
            assert_eq!(inode_of(&path), before);
        };

        let mut other = Other::start(common::rerun(NAME, &format!("listener\t{}", path.display())));
        assert_eq!(other.hear(), "listening");
        refused();
        // Without the lock it is still seen by the socket.
        fs::remove_file(lock_of(&path)).unwrap();
        refused();
        other.tell(path.to_str().unwrap());
        other.passes();
        assert!(names_in(&directory).is_empty());

        let here = Listener::bind(&path).unwrap();
        refused();
        greets(&here, &pathname(&path));
        drop(here);

        let foreign = UnixListener::bind(&path).unwrap();
        refused();
        foreign.set_nonblocking(true).unwrap();
        assert_eq!(foreign.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was woken");
        let waiting = std::iter::from_fn(|| {
            // A backlog of 0, until it is full.
            nix::sys::socket::listen(&foreign, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
            let address = pathname(&path);
            Channel::connect_deadline(&address, Kind::Stream, Instant::now() + Duration::from_millis(10)).ok()
        });
        let waiting: Vec<_> = waiting.collect();
        assert!(!waiting.is_empty());
        refused();
        drop((waiting, foreign));
        fs::remove_file(&path).unwrap();

        let datagrams = UnixDatagram::bind(&path).unwrap();
        refused();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"still there", &path).unwrap();
        assert_eq!(datagrams.recv(&mut [0; 32]).unwrap(), 11);
        // One that talks to somebody else only: connect(2) says EPERM.
        let elsewhere = UnixDatagram::bind(directory.join("elsewhere")).unwrap();
        datagrams.connect(directory.join("elsewhere")).unwrap();
        refused();
        drop((datagrams, elsewhere));
        fs::remove_file(&path).unwrap();

        for socket_type in [SockType::SeqPacket, SockType::Stream] {
            let _not_yet = bound(&path, socket_type);
            refused();
            fs::remove_file(&path).unwrap();
        }
        // An abstract name.
        let name = abstract_name("in-use");
        let holder = Listener::options().bind_addr(&name).unwrap();
        let error = Listener::options().bind_addr(&name).unwrap_err();
        assert!(matches!(error, EndpointError::InUse { .. }), "{error}");
        greets(&holder, &name);
        drop(holder);
        drop(Listener::options().bind_addr(&name).unwrap());
    });
}

/// H-08: of processes that find one stale path at the same moment, one listens and is reached, and the others are told.
/// Fifty rounds of two, and of four.
#[test]
fn h_08_many_that_start_at_once() {
    const NAME: &str = "h_08_many_that_start_at_once";
    if let Some(words) = arguments("racer") {
        return race(Path::new(&words[0]));
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    for number in [2, 4] {
        let racer = || Other::start(common::rerun(NAME, &format!("racer\t{}", path.display())));
        let mut racers: Vec<_> = std::iter::repeat_with(racer).take(number).collect();
        for round in 0..50 {
            make_stale(&path);
            let at = SystemTime::now() + Duration::from_millis(2);
            let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos().to_string();
            racers.iter_mut().for_each(|racer| racer.tell(&at));
            let said: Vec<_> = racers.iter_mut().map(Other::hear).collect();
            let winner = said.iter().position(|said| said == "won").unwrap();
            assert_eq!(said.iter().filter(|said| *said == "in use").count(), number - 1, "round {round}: {said:?}");
            let channel = Channel::connect(&path).unwrap();
            assert_eq!(channel.peer_credentials().unwrap().pid, Some(racers[winner].child.id()), "round {round}");
            racers.iter_mut().for_each(|racer| racer.tell("enough"));
            racers.iter_mut().for_each(|racer| assert_eq!(racer.hear(), "gone"));
        }
        for mut racer in racers {
            racer.tell("");
            racer.passes();
        }
        assert!(names_in(&directory).is_empty());
    }
}

/// Binds the path at each moment that it is told, and keeps it, if it got it, until it is told that this is enough.
fn race(path: &Path) {
    loop {
        let at = told();
        if at.is_empty() {
            return;
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(at.parse().unwrap());
        while SystemTime::now() < at {
            std::hint::spin_loop();
        }
        let listener = Listener::bind(path);
        match &listener {
            Ok(_) => say("won"),
            Err(EndpointError::InUse { .. }) => say("in use"),
            Err(error) => unreachable!("{error}"),
        }
        assert_eq!(told(), "enough");
        drop(listener);
        say("gone");
    }
}

/// H-08: listeners that come and go at one path, which is left stale again and again, each removing its lock file while
/// others open it: whoever is told that it listens is the one that is reached, for as long as it lives.
#[test]
fn h_08_many_that_come_and_go() {
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let rounds = || {
        let mut had = 0;
        for _ in 0..3000 {
            let listener = match Listener::bind(&path) {
                Ok(listener) => listener,
                Err(EndpointError::InUse { .. }) => continue,
                Err(error) => unreachable!("{error}"),
            };
            had += 1;
            let _client = Channel::connect(&path).unwrap();
            drop(listener.accept_deadline(anybody, Instant::now()).expect("that connection"));
            drop(listener);
            drop(UnixListener::bind(&path));
        }
        had
    };
    let had = thread::scope(|scope| [(); 3].map(|()| scope.spawn(rounds)).map(|each| each.join().unwrap()));
    assert!(had.iter().sum::<i32>() > 0);
    drop(Listener::bind(&path).unwrap());
    assert!(names_in(&directory).is_empty());
}

/// H-08: a lock file that was removed between its opening and its locking, as a listener that ends does: who then locks
/// what is no longer there notices, and does not take the path from who has the new lock. strace(1) makes the moment
/// long.
#[test]
fn h_08_a_lock_file_that_is_no_longer_there() {
    const NAME: &str = "h_08_a_lock_file_that_is_no_longer_there";
    const MOMENT: Duration = Duration::from_millis(500);
    if let Some(words) = arguments("late") {
        say(std::process::id());
        assert_eq!(told(), "now");
        let result = Listener::bind(&words[0]);
        return say(result.is_ok());
    }
    if !can_trace(NAME) {
        return;
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let lock_file = || File::create_new(lock_of(&path)).unwrap();
    for _ in 0..10 {
        make_stale(&path);
        drop(lock_file());
        let plain = common::rerun(NAME, &format!("late\t{}", path.display()));
        let traced = slowed(&plain, "flock", None, MOMENT);
        let mut late = Other::start(traced);
        let fds = format!("/proc/{}/fd", late.hear());
        late.tell("now");
        let before = Instant::now();
        let open = || {
            let mut fds = fs::read_dir(&fds).unwrap();
            fds.any(|fd| fs::read_link(fd.unwrap().path()).is_ok_and(|file| file == lock_of(&path)))
        };
        while !open() {
            assert!(before.elapsed() < LONG);
        }
        fs::remove_file(lock_of(&path)).unwrap();
        let held = Flock::lock(lock_file(), FlockArg::LockExclusiveNonblock).unwrap();
        let in_time = before.elapsed() < MOMENT;
        let got_it = late.hear();
        late.passes();
        drop(held);
        fs::remove_file(&path).unwrap();
        fs::remove_file(lock_of(&path)).unwrap();
        if in_time {
            return assert_eq!(got_it, "false");
        }
    }
    unreachable!("not once was the lock file replaced within {MOMENT:?}");
}

/// Whether strace(1) is there and may be used; if not, says so.
fn can_trace(name: &str) -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let usable = tried.is_ok_and(|status| status.success());
    if !usable {
        eprintln!("SKIPPED {name}: strace is missing, or may not trace here");
    }
    usable
}

/// `plain`, whose first system call of this name, and for this path if one is given, takes a moment longer to begin.
fn slowed(plain: &Command, call: &str, path: Option<&Path>, moment: Duration) -> Command {
    let what = format!("delay_enter={}:when=1", moment.as_micros());
    injected(plain, call, path, &what)
}

fn injected(plain: &Command, calls: &str, path: Option<&Path>, what: &str) -> Command {
    let mut traced = Command::new("strace");
    let inject = format!("inject={calls}:{what}");
    traced.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject]);
    traced.args(path.iter().flat_map(|path| ["-P".as_ref(), path.as_os_str()]));
    traced.arg(plain.get_program()).args(plain.get_args());
    traced.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    traced
}

/// H-08: what is no socket is never removed, neither at the path nor where the lock file would be.
#[test]
fn h_08_what_is_no_socket_is_untouched() {
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let stale = directory.join("stale");
    make_stale(&stale);
    let file = directory.join("file");
    fs::write(&file, "kept").unwrap();
    let empty = directory.join("empty");
    fs::write(&empty, "").unwrap();
    let fifo = |path: &Path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    type Maker<'a> = (&'a str, &'a dyn Fn(&Path));
    let makers: [Maker<'_>; 8] = [
        ("a file", &|path| fs::write(path, "kept").unwrap()),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
        ("a FIFO", &fifo),
        ("a link to nothing", &|path| symlink("/nowhere/at/all", path).unwrap()),
        ("a link to a file", &|path| symlink(&file, path).unwrap()),
        ("a link to an empty file", &|path| symlink(&empty, path).unwrap()),
        ("a link to a stale socket", &|path| symlink(&stale, path).unwrap()),
        ("a device", &|path| symlink("/dev/null", path).unwrap()),
    ];
    for (what, make) in makers {
        for at in [path.clone(), lock_of(&path)] {
            make(&at);
            let (before, all) = (inode_of(&at), names_in(&directory));
            let error = Listener::bind(&path).unwrap_err();
            assert!(matches!(&error, EndpointError::Occupied { path, .. } if *path == at), "{what}: {error}");
            assert!(error.to_string().contains(at.to_str().unwrap()), "{error}");
            assert_eq!((inode_of(&at), names_in(&directory)), (before, all), "{what}");
            fs::remove_dir(&at).or_else(|_| fs::remove_file(&at)).unwrap();
        }
    }
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    // A socket in the lock file's place.
    make_stale(&lock_of(&path));
    assert!(matches!(Listener::bind(&path), Err(EndpointError::Occupied { .. })));
    assert!(exists(&lock_of(&path)) && !exists(&path));
}

/// H-08: whatever the umask is, the path has the mode that was asked for, and never had more. A mode that is right from
/// the start is never changed (the kernel would say so: IN_ATTRIB), and where the umask took bits away, somebody who
/// looks all the time sees the narrower one before.
#[test]
fn h_08_the_mode_of_the_path() {
    common::alone("h_08_the_mode_of_the_path", || {
        let (_guard, directory) = common::directory();
        let path = directory.join("socket");
        for mask in [0o000, 0o022, 0o077, 0o777] {
            umask(Mode::from_bits_truncate(mask));
            for mode in [None, Some(0), Some(0o200), Some(0o600), Some(0o620), Some(0o660), Some(0o666), Some(0o777)] {
                let wanted = mode.unwrap_or(0o600);
                let events = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
                events.add_watch(&directory, AddWatchFlags::IN_ATTRIB).unwrap();
                let mut options = Listener::options();
                if let Some(mode) = mode {
                    options.mode(mode);
                }
                let listener = options.bind(&path).unwrap();
                assert_eq!(mode_of(&path), wanted, "{wanted:o} under {mask:o}");
                let changed = match events.read_events() {
                    Ok(events) => events.into_iter().filter(|event| event.name.as_deref() == path.file_name()).count(),
                    Err(errno) => {
                        assert_eq!(errno, nix::errno::Errno::EAGAIN);
                        0
                    }
                };
                assert_eq!(changed, usize::from(wanted & mask != 0), "{wanted:o} under {mask:o}");
                drop(listener);
                assert!(names_in(&directory).is_empty());
            }
        }
        umask(Mode::from_bits_truncate(0o022));
        let done = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    seen.extend(fs::symlink_metadata(&path).map(|there| there.mode() & 0o7777));
                }
                seen
            });
            for _ in 0..2000 {
                drop(Listener::options().mode(0o666).bind(&path).unwrap());
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        });
        assert!(seen.is_subset(&[0o644, 0o666].into()), "{seen:?}");
    });
}

/// H-08: somebody who can write to the directory puts a symbolic link to our file, or our file itself, where the socket
/// was just made, while the mode is still to be widened: the file keeps its mode.
#[test]
fn h_08_a_path_replaced_under_our_hands() {
    common::alone("h_08_a_path_replaced_under_our_hands", || {
        let (_guard, directory) = common::directory();
        let (path, ours) = (directory.join("socket"), directory.join("ours"));
        fs::write(&ours, "").unwrap();
        fs::set_permissions(&ours, Permissions::from_mode(0o600)).unwrap();
        umask(Mode::from_bits_truncate(0o077));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    let trap = directory.join("trap");
                    if round % 2 == 0 { symlink(&ours, &trap) } else { fs::hard_link(&ours, &trap) }.unwrap();
                    while !exists(&path) && !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    fs::rename(&trap, &path).unwrap();
                    // A rename to another name of the same file does nothing.
                    let _ = fs::remove_file(&trap);
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let (mut made, mut told) = (0, 0);
            for _ in 0..3000 {
                match Listener::options().mode(0o666).bind(&path) {
                    Ok(_) => made += 1,
                    Err(EndpointError::InUse { .. } | EndpointError::Occupied { .. }) => told += 1,
                    Err(error) => unreachable!("{error}"),
                }
                assert_eq!(mode_of(&ours), 0o600);
                let _ = fs::remove_file(&path);
            }
            done.store(true, Ordering::Relaxed);
            eprintln!("{made} made, {told} told");
        });
    });
}

/// H-08: the same, with the moment before the mode is widened made long by strace(1), when the path has just been seen
/// to be a socket: neither a file nor another socket that is put there is changed, and it is an error.
#[test]
fn h_08_a_path_replaced_before_it_is_widened() {
    const NAME: &str = "h_08_a_path_replaced_before_it_is_widened";
    const MOMENT: Duration = Duration::from_millis(500);
    if let Some(words) = arguments("binder") {
        umask(Mode::from_bits_truncate(0o077));
        say(std::process::id());
        assert_eq!(told(), "now");
        let result = Listener::options().mode(0o666).bind(&words[0]);
        return say(matches!(result, Err(EndpointError::InUse { call: "bind", .. })));
    }
    if !can_trace(NAME) {
        return;
    }
    let (_guard, directory) = common::directory();
    let (path, ours) = (directory.join("socket"), directory.join("ours"));
    for make in [(|path| drop(File::create_new(path).unwrap())) as fn(&Path), make_stale] {
        make(&ours);
        fs::set_permissions(&ours, Permissions::from_mode(0o600)).unwrap();
        let in_time = (0..10).any(|_| {
            let plain = common::rerun(NAME, &format!("binder\t{}", path.display()));
            let mut binder = Other::start(slowed(&plain, "openat", Some(&path), MOMENT));
            let tasks = format!("/proc/{}/task", binder.hear());
            let before = Instant::now();
            binder.tell("now");
            let opens = || {
                let mut calls = fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path().join("syscall"));
                calls.any(|call| {
                    let openat = format!("{} ", nix::libc::SYS_openat);
                    fs::read_to_string(call).is_ok_and(|call| call.starts_with(&openat))
                })
            };
            while !exists(&path) || !opens() {
                assert!(before.elapsed() < LONG);
            }
            fs::hard_link(&ours, directory.join("trap")).unwrap();
            fs::rename(directory.join("trap"), &path).unwrap();
            let in_time = before.elapsed() < MOMENT;
            let told = binder.hear();
            assert_eq!(mode_of(&ours), 0o600);
            assert!(!in_time || told == "true", "{told}");
            binder.passes();
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(lock_of(&path));
            in_time
        });
        assert!(in_time);
        fs::remove_file(&ours).unwrap();
    }
}

/// H-08: a path that comes out with more permissions than asked for, as a file system can make it (here another process
/// adds them, in a moment that strace(1) makes long), is an error that says so, and it is removed.
#[test]
fn h_08_a_path_with_more_permissions() {
    const NAME: &str = "h_08_a_path_with_more_permissions";
    const MOMENT: Duration = Duration::from_millis(500);
    if let Some(words) = arguments("binder") {
        say(std::process::id());
        assert_eq!(told(), "now");
        let error = Listener::bind(&words[0]).unwrap_err();
        return say(matches!(error, EndpointError::Unfit { why, .. } if why.contains("more permissions")));
    }
    if !can_trace(NAME) {
        return;
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let in_time = (0..10).any(|_| {
        let plain = common::rerun(NAME, &format!("binder\t{}", path.display()));
        // fchmod(2) of the socket, bind(2), and the moment: the look at the path, of which it is the second.
        let what = format!("delay_enter={}:when=2", MOMENT.as_micros());
        let mut binder = Other::start(injected(&plain, "statx", Some(&path), &what));
        binder.hear();
        binder.tell("now");
        let before = Instant::now();
        while !exists(&path) {
            assert!(before.elapsed() < LONG);
        }
        let made = Instant::now();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let in_time = made.elapsed() < MOMENT / 2;
        let told = binder.hear();
        assert!(!in_time || told == "true", "{told}");
        if in_time {
            binder.passes();
            assert!(names_in(&directory).is_empty(), "{:?}", names_in(&directory));
        }
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(lock_of(&path));
        in_time
    });
    assert!(in_time);
}

/// H-08: without /proc, the bits that the umask took cannot be put back: that is an error that says so, and no path is
/// left. A mode of which it took none needs no /proc.
#[test]
fn h_08_no_proc() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let name = "h_08_no_proc";
    if !common::is_root() {
        return eprintln!("SKIPPED {name}: a mount namespace of its own needs root");
    }
    common::alone(name, || {
        let (_guard, directory) = common::directory();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        umask(Mode::from_bits_truncate(0o022));
        let error = Listener::options().mode(0o660).bind(directory.join("socket")).unwrap_err();
        assert!(matches!(error, EndpointError::Unfit { .. }) && error.to_string().contains("/proc"), "{error}");
        assert!(names_in(&directory).is_empty());
        drop(Listener::bind(directory.join("socket")).unwrap());
        nix::mount::umount("/proc").unwrap();
    });
}

/// H-08: what cannot be an address, a kind or a mode is said before anything is done.
#[test]
fn h_08_what_cannot_be() {
    let (_guard, directory) = common::directory();
    let long = directory.join("x".repeat(108 - directory.as_os_str().len() - 1));
    assert_eq!(long.as_os_str().len(), 108);
    let fits = &long.to_str().unwrap()[..107];
    greets(&Listener::bind(fits).unwrap(), &pathname(Path::new(fits)));
    let unfit = |result: Result<(), EndpointError>, why: &str| match result {
        Err(EndpointError::Unfit { asked, why: said }) => assert!(said.contains(why), "{asked}: {said}"),
        result => unreachable!("{why}: {result:?}"),
    };
    let both = |path: &Path, why: &str| {
        unfit(Listener::bind(path).map(drop), why);
        unfit(Channel::connect(path).map(drop), why);
    };
    both(&long, "107");
    both(&directory.join("x".repeat(5000)), "107");
    both(&directory.join("a\0b"), "NUL");
    both(Path::new(""), "");
    both(&directory.join("socket/"), "no path of a file");
    let unnamed = UnixStream::pair().unwrap().0.local_addr().unwrap();
    unfit(Listener::options().bind_addr(&unnamed).map(drop), "unnamed");
    unfit(Channel::connect_to(&unnamed, Kind::SeqPacket).map(drop), "unnamed");
    let path = directory.join("socket");
    unfit(Listener::options().kind(Kind::Datagram).bind(&path).map(drop), "datagram");
    unfit(Channel::connect_to(&pathname(&path), Kind::Datagram).map(drop), "datagram");
    unfit(Listener::options().mode(0o1600).bind(&path).map(drop), "0o777");
    assert!(names_in(&directory).is_empty());
}

/// H-08: a connection that is not made says why: no path, nobody there, no permission, another kind, a full queue.
#[test]
fn h_08_why_there_is_no_connection() {
    const NAME: &str = "h_08_why_there_is_no_connection";
    common::alone("h_08_why_there_is_no_connection", || {
        let (_guard, directory) = common::directory();
        let (path, stale) = (directory.join("socket"), directory.join("stale"));
        let says = |error: EndpointError, path: &Path| {
            let said = error.to_string();
            assert!(said.contains(path.to_str().unwrap()) && said.contains("connect"), "{said}");
            error
        };
        let error = says(Channel::connect(&path).unwrap_err(), &path);
        assert!(matches!(error, EndpointError::NotFound { call: "connect", .. }), "{error:?}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
        make_stale(&stale);
        let error = says(Channel::connect(&stale).unwrap_err(), &stale);
        assert!(matches!(error, EndpointError::NobodyListens { call: "connect", .. }), "{error:?}");
        let error = Channel::connect_to(&abstract_name("nobody"), Kind::SeqPacket).unwrap_err();
        assert!(
            matches!(error, EndpointError::NobodyListens { .. }) && error.to_string().contains("@fdbroker"),
            "{error}"
        );
        for (ours, theirs) in [(Kind::SeqPacket, Kind::Stream), (Kind::Stream, Kind::SeqPacket)] {
            let _listener = Listener::options().kind(theirs).bind(&path).unwrap();
            let error = says(Channel::connect_to(&pathname(&path), ours).unwrap_err(), &path);
            assert!(matches!(error, EndpointError::WrongKind { kind, .. } if kind == ours), "{error:?}");
        }

        let listener = Listener::options().backlog(0).bind(&path).unwrap();
        let first = Channel::connect(&path).unwrap();
        let address = pathname(&path);
        for deadline in [Instant::now(), Instant::now() + Duration::from_millis(30)] {
            let error = says(Channel::connect_deadline(&address, Kind::SeqPacket, deadline).unwrap_err(), &path);
            assert!(matches!(error, EndpointError::QueueFull { .. }), "{error:?}");
            assert!(Instant::now() >= deadline);
        }
        // Without a deadline it waits its turn.
        thread::scope(|scope| {
            let second = scope.spawn(|| Channel::connect(&path).unwrap());
            drop(listener.accept_deadline(anybody, soon()).unwrap());
            drop(listener.accept_deadline(anybody, soon()).unwrap());
            second.join().unwrap();
        });
        drop((first, listener));
        // What a deadline limits is the connecting: a receive waits as ever, which its own deadline shows to have been
        // reached.
        let listener = Listener::bind(&path).unwrap();
        let client = Channel::connect_deadline(&address, Kind::SeqPacket, Instant::now() + LONG).unwrap();
        let timeout = nix::sys::socket::getsockopt(&client, nix::sys::socket::sockopt::SendTimeout).unwrap();
        assert_eq!((timeout.tv_sec(), timeout.tv_usec()), (0, 0));
        drop((client, listener));

        permissions(NAME, &directory);
    });
}

/// As an ordinary user: a socket that is not for others, and a directory that is not for us.
fn permissions(name: &str, directory: &Path) {
    let closed = directory.join("closed");
    let _listener = Listener::options().mode(0).bind(&closed).unwrap();
    let shut = directory.join("shut");
    fs::DirBuilder::new().create(&shut).unwrap();
    fs::set_permissions(&shut, Permissions::from_mode(0o500)).unwrap();
    // Somebody's without a lock file, in a directory in which everybody may make files: is it stale? It cannot be seen.
    let open = directory.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let _foreign = UnixListener::bind(open.join("socket")).unwrap();
    fs::set_permissions(open.join("socket"), Permissions::from_mode(0o000)).unwrap();
    let body = || {
        let error = Listener::bind(open.join("socket")).unwrap_err();
        assert!(matches!(error, EndpointError::PermissionDenied { .. }), "{error:?}");
        assert_eq!(names_in(&open), ["socket".to_owned()].into());
        let error = Channel::connect(&closed).unwrap_err();
        assert!(matches!(error, EndpointError::PermissionDenied { call: "connect", .. }), "{error:?}");
        let error = Listener::bind(shut.join("socket")).unwrap_err();
        assert!(matches!(error, EndpointError::PermissionDenied { .. }), "{error:?}");
    };
    if !common::is_root() {
        return body();
    }
    // The thread alone becomes somebody else, by the system call itself: the C library would take the others along.
    thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            // SAFETY: takes numbers.
            assert_eq!(unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, -1, NOBODY, -1) }, 0, "{name}");
            body();
        });
        nobody.join().unwrap();
    });
}

/// S-06: on drop the path is removed only if it is still the socket that the listener made; the same for its lock file.
#[test]
fn s_06_only_ones_own_path_is_removed() {
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let listener = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(listener);
    assert_eq!(fs::read(&path).unwrap(), b"another's");
    assert!(!exists(&lock_of(&path)));
    fs::remove_file(&path).unwrap();

    let listener = Listener::bind(&path).unwrap();
    fs::rename(&path, directory.join("moved")).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).unwrap();
    drop(other);
    fs::remove_file(&path).unwrap();
    fs::remove_file(directory.join("moved")).unwrap();

    let listener = Listener::bind(&path).unwrap();
    fs::remove_file(lock_of(&path)).unwrap();
    fs::write(lock_of(&path), "another's").unwrap();
    drop(listener);
    assert_eq!(names_in(&directory), ["socket.lock".to_owned()].into());
    fs::remove_file(lock_of(&path)).unwrap();

    // One that is gone already is no fault.
    let listener = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(lock_of(&path)).unwrap();
    drop(listener);
    assert!(names_in(&directory).is_empty());
}

/// S-06: a process that was forked from the one that bound the path removes nothing, and gives nobody the lock while
/// that one lives. A relative path is that of the directory in which it was given.
#[test]
fn s_06_a_forked_process_removes_nothing() {
    common::alone("s_06_a_forked_process_removes_nothing", || {
        let (_guard, directory) = common::directory();
        let path = directory.join("socket");
        std::env::set_current_dir(&directory).unwrap();
        let listener = Listener::bind("socket").unwrap();
        std::env::set_current_dir("/").unwrap();
        // SAFETY: the child drops a listener, which makes system calls only, and ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop(listener);
                // SAFETY: ends the process, and runs nothing of its parent's.
                unsafe { nix::libc::_exit(0) }
            }
            ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
        }
        assert!(matches!(Listener::bind(&path), Err(EndpointError::InUse { call: "flock", .. })));
        greets(&listener, &pathname(&path));
        drop(listener);
        assert!(names_in(&directory).is_empty());
    });
}

/// H-08: every error, again and again: the number of descriptors comes back, and no file is left.
#[test]
fn h_08_no_error_leaks_a_descriptor() {
    common::alone("h_08_no_error_leaks_a_descriptor", || {
        let (_guard, directory) = common::directory();
        let (path, file, stale) = (directory.join("socket"), directory.join("file"), directory.join("stale"));
        fs::write(&file, "").unwrap();
        make_stale(&stale);
        let foreign = UnixDatagram::bind(directory.join("foreign")).unwrap();
        let listener = Listener::options().backlog(0).bind(directory.join("here")).unwrap();
        let here = pathname(&directory.join("here"));
        listener.set_nonblocking(true).unwrap();
        let (files, before) = (names_in(&directory), common::open_fds());
        for _ in 0..500 {
            assert!(Listener::bind(&file).is_err());
            assert!(Listener::bind(directory.join("foreign")).is_err());
            assert!(Listener::bind(directory.join("here")).is_err());
            assert!(Listener::bind(directory.join("none/socket")).is_err());
            assert!(Listener::bind("").is_err());
            assert!(Channel::connect(&path).is_err());
            assert!(Channel::connect(&stale).is_err());
            assert!(Channel::connect(&file).is_err());
            assert!(Channel::connect(directory.join("foreign")).is_err());
            assert!(matches!(listener.accept(anybody), Err(ChannelError::WouldBlock)));
            assert!(matches!(listener.accept_deadline(anybody, Instant::now()), Err(ChannelError::TimedOut)));
            let client = Channel::connect_to(&here, Kind::SeqPacket).unwrap();
            assert!(Channel::connect_deadline(&here, Kind::SeqPacket, Instant::now()).is_err());
            client.send(b"x", &[foreign.as_fd()]).unwrap();
            assert!(matches!(listener.accept(|_| false), Err(ChannelError::PeerRefused { .. })));
            drop(client);
            let client = Channel::connect_to(&here, Kind::SeqPacket).unwrap();
            let panicked = std::panic::catch_unwind(|| listener.accept(|_| std::panic::resume_unwind(Box::new("no"))));
            assert!(panicked.is_err());
            drop(client);
            assert!(Listener::try_from(OwnedFd::from(File::open(&file).unwrap())).is_err());
            assert!(Listener::try_from(OwnedFd::from(UnixDatagram::unbound().unwrap())).is_err());
            assert!(Listener::try_from(OwnedFd::from(UnixStream::pair().unwrap().0)).is_err());
            assert!(Channel::from(UnixDatagram::unbound().unwrap()).peer_credentials().is_err());
            assert!(Channel::from(UnixDatagram::unbound().unwrap()).peer_pidfd().is_err());
        }
        assert_eq!((names_in(&directory), common::open_fds()), (files, before));
    });
}

/// H-08: a full descriptor table. To accept is an error of its own, at once, even where it would wait; the connection
/// stays in the queue, and is had when there is room. To bind is an error at each number of free slots, and leaves no
/// file.
#[test]
fn h_08_a_full_table() {
    common::alone("h_08_a_full_table", || {
        let (_guard, directory) = common::directory();
        let path = directory.join("socket");
        let listener = Listener::bind(&path).unwrap();
        let client = Channel::connect(&path).unwrap();
        let pair = Channel::pair().unwrap().0;
        // Since Linux 6.5.
        let has_pidfds = pair.peer_pidfd().is_ok();
        let null = File::open("/dev/null").unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        let mut fill: Vec<OwnedFd> = std::iter::from_fn(|| null.as_fd().try_clone_to_owned().ok()).collect();
        let full = |result| assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{result:?}");
        for _ in 0..3 {
            full(listener.accept(anybody));
            full(listener.accept_deadline(anybody, soon()));
            assert!(is_readable(listener.as_fd(), PollTimeout::ZERO), "the connection waits");
        }
        assert!(!has_pidfds || matches!(pair.peer_pidfd(), Err(ChannelError::DescriptorTableFull)));
        let out_of = |error: EndpointError| {
            assert!(matches!(error, EndpointError::DescriptorTableFull { .. }), "{error}");
            assert_eq!(std::io::Error::from(error).raw_os_error(), Some(nix::libc::EMFILE));
        };
        out_of(Channel::connect(&path).unwrap_err());
        drop(fill.pop());
        let server = listener.accept(anybody).unwrap();
        client.send(b"in time", &[]).unwrap();
        assert_eq!(received(&server).bytes(), b"in time");
        full(listener.accept(anybody));
        drop((server, client, listener));

        let slots = |fill: &mut Vec<OwnedFd>, free: usize| {
            fill.extend(std::iter::from_fn(|| null.as_fd().try_clone_to_owned().ok()));
            fill.truncate(fill.len() - free);
        };
        umask(Mode::from_bits_truncate(0o077));
        let mut enough = None;
        for free in 0..8 {
            for stale in [false, true] {
                if stale {
                    slots(&mut fill, 8);
                    make_stale(&path);
                }
                slots(&mut fill, free);
                match Listener::options().mode(0o666).bind(&path) {
                    Ok(listener) => {
                        enough = enough.or(Some(free));
                        assert_eq!(mode_of(&path), 0o666);
                        drop(listener);
                    }
                    Err(error) => {
                        assert!(enough.is_none(), "{free} free: {error}");
                        out_of(error);
                        assert!(!exists(&lock_of(&path)));
                        // A stale one may have gone: it was seen to be stale.
                        let _ = fs::remove_file(&path);
                    }
                }
                slots(&mut fill, 8);
                assert!(names_in(&directory).is_empty(), "{free} free");
            }
        }
        assert!(enough.is_some_and(|enough| enough > 0), "{enough:?}");
    });
}

/// H-08: a deadline on accepting passes as an error, takes what is there, and holds though another thread gets the
/// connection; what has no deadline waits afterwards as before.
#[test]
fn h_08_deadlines_and_non_blocking_use() {
    common::alone("h_08_deadlines_and_non_blocking_use", || {
        let (_guard, directory) = common::directory();
        let path = directory.join("socket");
        for kind in KINDS {
            let address = pathname(&path);
            let listener = Listener::options().kind(kind).bind(&path).unwrap();
            let connect = || Channel::connect_to(&address, kind).unwrap();
            let deadline = Instant::now() + Duration::from_millis(50);
            assert!(matches!(listener.accept_deadline(anybody, deadline), Err(ChannelError::TimedOut)));
            assert!(Instant::now() >= deadline);
            let client = connect();
            drop(listener.accept_deadline(anybody, deadline).unwrap());
            drop(client);

            // One connection and two that wait for it, each for as long as it was told.
            let got = thread::scope(|scope| {
                let wait = || listener.accept_deadline(anybody, Instant::now() + Duration::from_secs(1));
                let both = [scope.spawn(wait), scope.spawn(wait)];
                let _client = connect();
                both.map(|one| one.join().unwrap())
            });
            let mut got = got.map(|result| result.map(drop));
            got.sort_by_key(Result::is_err);
            assert!(matches!(got, [Ok(()), Err(ChannelError::TimedOut)]), "{got:?}");

            // An accept without deadline waits, though deadlines have made the description non-blocking.
            thread::scope(|scope| {
                let (sender, thread) = std::sync::mpsc::channel();
                let listener = &listener;
                let waiting = scope.spawn(move || {
                    sender.send(nix::unistd::gettid()).unwrap();
                    listener.accept(anybody).map(drop)
                });
                let status = format!("/proc/self/task/{}/status", thread.recv().unwrap());
                let asleep = || fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tS"));
                let until = soon();
                while !asleep() && !waiting.is_finished() {
                    assert!(Instant::now() < until);
                    thread::yield_now();
                }
                let _client = connect();
                waiting.join().unwrap().unwrap();
            });

            listener.set_nonblocking(true).unwrap();
            assert!(matches!(listener.accept(anybody), Err(ChannelError::WouldBlock)));
            assert!(!is_readable(listener.as_fd(), PollTimeout::ZERO));
            let client = connect();
            assert!(is_readable(listener.as_fd(), PollTimeout::MAX));
            let server = listener.accept(anybody).unwrap();
            client.send(b"x", &[]).unwrap();
            // A channel of a non-blocking listener waits: on Linux the flag is not inherited.
            let flags = OFlag::from_bits_retain(fcntl(&server, FcntlArg::F_GETFL).unwrap());
            assert!(!flags.contains(OFlag::O_NONBLOCK));
            assert_eq!(received(&within(server)).bytes(), b"x");
            listener.set_nonblocking(false).unwrap();
            assert!(matches!(listener.accept_deadline(anybody, Instant::now()), Err(ChannelError::TimedOut)));
        }
    });
}

/// H-08: what is interrupted is made again: locking, connecting, accepting and waiting; so is an accept for somebody
/// who has gone. What the system has run out of is an error, after which the listener goes on.
#[test]
fn h_08_interrupted_calls() {
    const NAME: &str = "h_08_interrupted_calls";
    if let Some(words) = arguments("interrupted") {
        let [path, what] = &words[..] else { unreachable!() };
        let listener = Listener::bind(path).unwrap();
        let client = within(Channel::connect(path).unwrap());
        if what == "ENFILE" {
            let error = listener.accept(anybody).unwrap_err();
            let ChannelError::Os { call: "accept4", source } = &error else { unreachable!("{error}") };
            assert_eq!(source.raw_os_error(), Some(nix::libc::ENFILE));
        }
        client.send(b"here", &[]).unwrap();
        assert_eq!(received(&within(listener.accept(anybody).unwrap())).bytes(), b"here");
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(matches!(listener.accept_deadline(anybody, deadline), Err(ChannelError::TimedOut)));
        return assert!(Instant::now() >= deadline);
    }
    if !can_trace(NAME) {
        return;
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let cases = [("accept4", "ECONNABORTED"), ("accept4", "ENFILE"), ("flock,connect,accept4,?poll,?ppoll", "EINTR")];
    for (calls, errno) in cases {
        let plain = common::rerun(NAME, &format!("interrupted\t{}\t{errno}", path.display()));
        Other::start(injected(&plain, calls, None, &format!("error={errno}:when=1"))).passes();
        assert!(names_in(&directory).is_empty(), "{calls} {errno}");
    }
}

/// H-08: a listener that another process opened, as systemd does, is one when the kernel says so; its path stays.
/// K16: a client sees who called listen(2), not who serves.
#[test]
fn h_08_k_16_an_inherited_listener() {
    const NAME: &str = "h_08_k_16_an_inherited_listener";
    if common::role().is_some() {
        nix::unistd::alarm::set(120);
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let listener = Listener::try_from(socket).unwrap();
        assert!(is_close_on_exec(&listener));
        let channel = within(listener.accept_deadline(anybody, soon()).unwrap());
        assert_eq!(channel.kind(), listener.kind());
        return channel.send(std::process::id().to_string().as_bytes(), &[]).unwrap();
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    for kind in KINDS {
        let socket = match kind {
            Kind::Stream => OwnedFd::from(UnixListener::bind(&path).unwrap()),
            _ => {
                let socket = bound(&path, SockType::SeqPacket);
                nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
                socket
            }
        };
        let mut command = common::rerun(NAME, "server");
        let child = command.stdin(socket).stdout(Stdio::null()).spawn().unwrap();
        drop(command);
        let client = within(Channel::connect_to(&pathname(&path), kind).unwrap());
        let server = received(&client);
        assert_eq!(server.bytes(), child.id().to_string().as_bytes());
        assert_eq!(client.peer_credentials().unwrap().pid, Some(std::process::id()), "who called listen(2)");
        assert!(child.wait_with_output().unwrap().status.success());
        assert!(exists(&path), "it is not the child's to remove");
        fs::remove_file(&path).unwrap();
    }
}

/// H-08: what is given as a listener and is none is said to be none; what was non-blocking stays so, and a path stays.
#[test]
fn h_08_what_is_no_listener() {
    common::alone("h_08_what_is_no_listener", || {
        let (_guard, directory) = common::directory();
        let path = directory.join("socket");
        let none = |fd: OwnedFd, why: &str| match Listener::try_from(fd) {
            Err(EndpointError::NotAListener { what }) => assert!(what.contains(why), "{what}"),
            result => unreachable!("{why}: {result:?}"),
        };
        none(File::open("/dev/null").unwrap().into(), "not a socket");
        let path_only = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open("/dev/null").unwrap();
        none(path_only.into(), "not a socket");
        none(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(), "not a UNIX socket");
        none(UnixDatagram::unbound().unwrap().into(), "datagram");
        none(UnixStream::pair().unwrap().0.into(), "does not listen");
        none(bound(&path, SockType::Stream), "does not listen");
        // What was non-blocking is.
        let foreign = UnixListener::bind(directory.join("foreign")).unwrap();
        foreign.set_nonblocking(true).unwrap();
        let listener = Listener::try_from(OwnedFd::from(foreign)).unwrap();
        assert!(matches!(listener.accept(anybody), Err(ChannelError::WouldBlock)));
        drop(listener);
        assert!(fs::symlink_metadata(directory.join("foreign")).unwrap().file_type().is_socket());
    });
}

/// H-08: a filter that does not let a listener be asked or made close-on-exec is told as that, not as "no listener";
/// the descriptor is closed.
#[test]
fn h_08_a_filter_that_forbids_to_ask() {
    use nix::libc::{EPERM, F_GETFL, F_SETFD, SO_ACCEPTCONN, SO_DOMAIN, SO_TYPE, SYS_fcntl, SYS_getsockopt};
    let number = |value: i32| u64::try_from(value).unwrap();
    let questions = [
        ("getsockopt(SO_DOMAIN)", SYS_getsockopt, (2, number(SO_DOMAIN))),
        ("getsockopt(SO_TYPE)", SYS_getsockopt, (2, number(SO_TYPE))),
        ("getsockopt(SO_ACCEPTCONN)", SYS_getsockopt, (2, number(SO_ACCEPTCONN))),
        ("fcntl(F_GETFL)", SYS_fcntl, (1, number(F_GETFL))),
        ("fcntl(F_SETFD)", SYS_fcntl, (1, number(F_SETFD))),
    ];
    common::alone("h_08_a_filter_that_forbids_to_ask", || {
        let (_guard, directory) = common::directory();
        // A filter is for good: the latest question to be forbidden is the first that is asked.
        for (number, (question, system_call, condition)) in questions.into_iter().enumerate().rev() {
            let before = common::open_fds();
            let socket = UnixListener::bind(directory.join(number.to_string())).unwrap();
            common::refuse(system_call, &[condition], EPERM);
            let error = Listener::try_from(OwnedFd::from(socket)).unwrap_err();
            let EndpointError::Os { call, source, .. } = &error else { unreachable!("{question}: {error}") };
            assert_eq!((*call, source.raw_os_error()), (question, Some(EPERM)));
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// H-08: where files cannot be locked (ENOLCK, as on some network file systems), nothing is left of the attempt; a lock
/// file that was there stays.
#[test]
fn h_08_no_locks() {
    common::alone("h_08_no_locks", || {
        let (_guard, directory) = common::directory();
        common::refuse(nix::libc::SYS_flock, &[], nix::libc::ENOLCK);
        let lock = directory.join("socket.lock");
        for there in [false, true] {
            if there {
                fs::write(&lock, "").unwrap();
            }
            let before = common::open_fds();
            let error = Listener::bind(directory.join("socket")).unwrap_err();
            assert!(error.to_string().contains("flock"), "{error}");
            let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, if there { vec!["socket.lock"] } else { vec![] });
            assert_eq!(common::open_fds(), before);
        }
    });
}

/// K16: of a pair, both ends name who made it, whoever holds them: the child that has one finds its parent there, and
/// so does the parent, which finds itself.
#[test]
fn k_16_a_pair_names_its_maker() {
    const NAME: &str = "k_16_a_pair_names_its_maker";
    if let Some(words) = arguments("child") {
        let channel = within(Channel::try_from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap());
        let maker = words[0].parse().ok();
        assert_eq!(channel.peer_credentials().unwrap().pid, maker);
        assert_ne!(maker, Some(std::process::id()));
        return channel.send(std::process::id().to_string().as_bytes(), &[]).unwrap();
    }
    let ours = Credentials::clone(&Channel::pair().unwrap().0.peer_credentials().unwrap());
    assert_eq!((ours.pid, ours.uid), (Some(std::process::id()), geteuid().as_raw()));
    for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
        let (here, there) = Channel::pair_of(kind).unwrap();
        let here = within(here);
        let mut command = common::rerun(NAME, &format!("child\t{}", std::process::id()));
        let child = command.stdin(OwnedFd::from(there)).stdout(Stdio::null()).spawn().unwrap();
        drop(command);
        assert_eq!(received(&here).bytes(), child.id().to_string().as_bytes(), "the child has the other end");
        assert_eq!(here.peer_credentials().unwrap(), ours, "{kind:?}");
        assert!(child.wait_with_output().unwrap().status.success());
    }
    // Never connected: the kernel's "nobody" is not given as a user.
    let lone = Channel::from(UnixDatagram::unbound().unwrap());
    assert!(matches!(lone.peer_credentials(), Err(ChannelError::Unsupported { .. })));
    assert!(matches!(lone.peer_pidfd(), Err(ChannelError::Unsupported { .. })));
}

/// H-08, K16: the pidfd of a peer is that of the process that connected: it says when that has ended, and how.
#[test]
fn h_08_k_16_a_peers_pidfd() {
    const NAME: &str = "h_08_k_16_a_peers_pidfd";
    if let Some(words) = arguments("client") {
        let _channel = Channel::connect(&words[0]).unwrap();
        say("connected");
        return drop(told());
    }
    let (_guard, directory) = common::directory();
    let path = directory.join("socket");
    let listener = Listener::bind(&path).unwrap();
    let mut other = Other::start(common::rerun(NAME, &format!("client\t{}", path.display())));
    assert_eq!(other.hear(), "connected");
    let channel = listener.accept_deadline(anybody, soon()).unwrap();
    let pidfd = match channel.peer_pidfd() {
        Err(ChannelError::Unsupported { what }) => return eprintln!("SKIPPED {NAME}: {what}"),
        result => result.unwrap(),
    };
    assert!(is_close_on_exec(&pidfd));
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd())).unwrap();
    assert!(info.contains(&format!("Pid:\t{}\n", other.child.id())), "{info}");
    assert!(!is_readable(pidfd.as_fd(), PollTimeout::ZERO), "it lives");
    other.child.kill().unwrap();
    assert!(is_readable(pidfd.as_fd(), PollTimeout::MAX));
    let ended = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    let WaitStatus::Signaled(pid, signal, _) = ended else { unreachable!("{ended:?}") };
    assert_eq!((pid.as_raw().unsigned_abs(), signal), (other.child.id(), Signal::SIGKILL));
    // Of a pair it is the maker.
    let own = Channel::pair().unwrap().0.peer_pidfd().unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", own.as_fd().as_raw_fd())).unwrap();
    assert!(info.contains(&format!("Pid:\t{}\n", getpid())), "{info}");
}

/// H-08: a kernel without SO_PEERPIDFD is said to be one.
#[test]
fn h_08_no_peer_pidfd() {
    common::alone("h_08_no_peer_pidfd", || {
        common::refuse(nix::libc::SYS_getsockopt, &[(2, 77)], nix::libc::ENOPROTOOPT);
        let pair = Channel::pair().unwrap().0;
        let error = pair.peer_pidfd().unwrap_err();
        assert!(matches!(error, ChannelError::Unsupported { what } if what.contains("6.5")), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::Unsupported);
        pair.peer_credentials().unwrap();
    });
}

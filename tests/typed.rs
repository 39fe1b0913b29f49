//! Descriptors taken as types: every type of every kind of descriptor that Linux readily gives, through a channel. What
//! is of the right kind works; what is not is an error with words, and closed, with all that came with it.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use common::mounts::{Mounted, own_mounts};
use fdbroker::typed::{
    Access, Checked, Descriptor, FileType, FromDescriptor, FromDescriptors, Memfd, PipeReader, PipeWriter, from_fd,
    from_fds, seal,
};
use fdbroker::{Channel, Kind, Packet, PidFd, TakeError};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

/// A type of a user's own: the trait is open.
struct ReadOnly(File);

impl FromDescriptor for ReadOnly {
    const EXPECTED: &'static str = "a regular file, open for reading only";

    fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
        Ok(File::accepts(descriptor)? && descriptor.access()? == Access::Read)
    }

    fn from_checked(fd: Checked<Self>) -> Self {
        Self(fd.into_fd().into())
    }
}

impl From<ReadOnly> for OwnedFd {
    fn from(file: ReadOnly) -> Self {
        file.0.into()
    }
}

/// One type: its name in the table, its words, and how it is taken.
struct Asked {
    name: &'static str,
    expected: &'static str,
    take: fn(&mut Packet) -> Result<OwnedFd, TakeError>,
}

fn asked<T: FromDescriptor + Into<OwnedFd>>(name: &'static str) -> Asked {
    Asked { name, expected: T::EXPECTED, take: |packet| packet.take_one::<T>().map(Into::into) }
}

fn every_type() -> Vec<Asked> {
    vec![
        asked::<OwnedFd>("any"),
        asked::<File>("file"),
        asked::<ReadOnly>("read-only file"),
        asked::<TcpListener>("tcp listener"),
        asked::<TcpStream>("tcp stream"),
        asked::<UdpSocket>("udp"),
        asked::<UnixListener>("unix listener"),
        asked::<UnixStream>("unix stream"),
        asked::<UnixDatagram>("unix datagram"),
        asked::<Channel>("channel"),
        asked::<PipeReader>("reader"),
        asked::<PipeWriter>("writer"),
        asked::<Memfd<0>>("memfd"),
        asked::<Memfd<{ seal::SEAL }>>("memfd S"),
        asked::<Memfd<{ seal::SHRINK | seal::GROW }>>("memfd sg"),
        asked::<Memfd<{ seal::FUTURE_WRITE }>>("memfd f"),
        asked::<Memfd<{ seal::IMMUTABLE }>>("memfd sgw"),
        asked::<Memfd<{ seal::IMMUTABLE | seal::SEAL }>>("memfd Ssgw"),
        asked::<PidFd>("pidfd"),
    ]
}

/// One descriptor: which types it can be taken as, besides "any", and its words.
struct Specimen {
    name: &'static str,
    fd: OwnedFd,
    is: &'static [&'static str],
    words: &'static str,
}

/// Those that could be made here.
#[derive(Default)]
struct Zoo {
    specimens: Vec<Specimen>,
    /// Other ends, which live as long.
    kept: Vec<OwnedFd>,
}

impl Zoo {
    fn add(
        &mut self,
        name: &'static str,
        fd: impl Into<OwnedFd>,
        is: &'static [&'static str],
        words: &'static str,
    ) -> &mut Self {
        self.specimens.push(Specimen { name, fd: fd.into(), is, words });
        self
    }

    /// One that not every kernel, user or container can make.
    fn perhaps(
        &mut self,
        name: &'static str,
        fd: io::Result<OwnedFd>,
        is: &'static [&'static str],
        words: &'static str,
    ) -> &mut Self {
        match fd {
            Ok(fd) => self.add(name, fd, is, words),
            Err(error) => {
                eprintln!("SKIPPED a part of H-05: {name}: {error}");
                self
            }
        }
    }

    fn files(&mut self, root: &Path) -> &mut Self {
        let file = root.join("file");
        std::fs::write(&file, b"text").unwrap();
        symlink("file", root.join("link")).unwrap();
        let named = UnixListener::bind(root.join("socket")).unwrap();
        self.kept.push(named.into());
        let flags = |path: &Path, flags: i32| {
            // std adds its own O_CLOEXEC and an access mode, which O_PATH ignores.
            OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
        };
        self.add("file r", File::open(&file).unwrap(), &["file", "read-only file"], "a regular file, open for reading")
            .add(
                "file w",
                OpenOptions::new().append(true).open(&file).unwrap(),
                &["file"],
                "a regular file, open for writing",
            )
            .add(
                "file rw",
                File::options().read(true).write(true).open(&file).unwrap(),
                &["file"],
                "a regular file, open for reading and writing",
            )
            .add("file of access mode 3", open(&file, 3), &[], "a regular file, open for neither reading nor writing")
            .add("file O_PATH", flags(&file, libc::O_PATH), &[], "an O_PATH descriptor of a regular file")
            .add(
                "file without a name",
                tempfile::tempfile_in(root).unwrap(),
                &["file"],
                "a regular file, open for reading and writing",
            )
            .add(
                "namespace",
                File::open("/proc/self/ns/net").unwrap(),
                &["file", "read-only file"],
                "a regular file, open for reading",
            )
            .add("directory", File::open(root).unwrap(), &[], "a directory, open for reading")
            .add("directory O_PATH", flags(root, libc::O_PATH), &[], "an O_PATH descriptor of a directory")
            .add("/proc/self", File::open("/proc/self").unwrap(), &[], "a directory, open for reading")
            .add(
                "link O_PATH",
                flags(&root.join("link"), libc::O_PATH | libc::O_NOFOLLOW),
                &[],
                "an O_PATH descriptor of a symbolic link",
            )
            .add("socket O_PATH", flags(&root.join("socket"), libc::O_PATH), &[], "an O_PATH descriptor of a socket")
            .add("/dev/null", File::open("/dev/null").unwrap(), &[], "a character device, open for reading");
        let tmpfs = tempfile::tempfile_in("/dev/shm").ok().filter(|file| {
            let seals = Descriptor::of(file.as_fd()).seals().unwrap();
            seals == Some(seal::SEAL)
        });
        self.perhaps(
            "file on tmpfs",
            tmpfs.map(OwnedFd::from).ok_or_else(|| io::Error::other("no tmpfs on /dev/shm")),
            &["file"],
            "a regular file, open for reading and writing",
        )
    }

    fn pipes(&mut self, root: &Path) -> &mut Self {
        const READER: (&[&str], &str) = (&["reader"], "a pipe, open for reading");
        const WRITER: (&[&str], &str) = (&["writer"], "a pipe, open for writing");
        let fifo = root.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        let both = File::options().read(true).write(true).open(&fifo).unwrap();
        let (reads, writes) = nix::unistd::pipe().unwrap();
        self.add("pipe r", reads, READER.0, READER.1)
            .add("pipe w", writes, WRITER.0, WRITER.1)
            .add("fifo r", File::open(&fifo).unwrap(), READER.0, READER.1)
            .add("fifo w", File::options().write(true).open(&fifo).unwrap(), WRITER.0, WRITER.1)
            .add("fifo O_PATH", open(&fifo, libc::O_PATH), &[], "an O_PATH descriptor of a pipe")
            .add("fifo rw", both, &[], "a pipe, open for reading and writing")
    }

    fn internet(&mut self) -> &mut Self {
        use libc::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_SCTP, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let bound = socket(AF_INET, SOCK_STREAM, 0).unwrap();
        nix::sys::socket::bind(bound.as_raw_fd(), &nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let v6 = |kind| socket(AF_INET6, kind, 0);
        self.add("TCP listener", listener, &["tcp listener"], "a listening TCP socket")
            .add("TCP stream", stream, &["tcp stream"], "a TCP socket")
            .add("TCP accepted", accepted, &["tcp stream"], "a TCP socket")
            .add("TCP bound", bound, &["tcp stream"], "a TCP socket")
            .perhaps(
                "TCP v6 listener",
                v6(SOCK_STREAM).and_then(listening),
                &["tcp listener"],
                "a listening TCP socket",
            )
            .perhaps("TCP v6", v6(SOCK_STREAM), &["tcp stream"], "a TCP socket")
            .perhaps("MPTCP", socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), &["tcp stream"], "a MPTCP socket")
            .perhaps(
                "MPTCP listener",
                socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP).and_then(listening),
                &["tcp listener"],
                "a listening MPTCP socket",
            )
            .perhaps(
                "SCTP listener",
                socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP).and_then(listening),
                &[],
                "a listening socket of domain 2, type 1, protocol 132",
            )
            .add("UDP", UdpSocket::bind("127.0.0.1:0").unwrap(), &["udp"], "a UDP socket")
            .perhaps("UDP v6", v6(SOCK_DGRAM), &["udp"], "a UDP socket")
            .perhaps("UDP-Lite", socket(AF_INET, SOCK_DGRAM, 136), &[], "a socket of domain 2, type 2, protocol 136")
            .perhaps("ping", ping(), &[], "a socket of domain 2, type 2, protocol 1")
            .perhaps("raw UDP", socket(AF_INET, SOCK_RAW, 17), &[], "a socket of domain 2, type 3, protocol 17")
            .perhaps("raw TCP", socket(AF_INET, SOCK_RAW, 6), &[], "a socket of domain 2, type 3, protocol 6")
            .perhaps("vsock", socket(libc::AF_VSOCK, SOCK_STREAM, 0), &[], "a socket of domain 40, type 1, protocol 0")
            .add(
                "netlink",
                socket(libc::AF_NETLINK, SOCK_DGRAM, 0).unwrap(),
                &[],
                "a socket of domain 16, type 2, protocol 0",
            )
    }

    fn unix(&mut self) -> &mut Self {
        use libc::{AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM};
        let (stream, other) = UnixStream::pair().unwrap();
        let (datagram, another) = UnixDatagram::pair().unwrap();
        let (seqpacket, third) = Channel::pair().unwrap();
        self.kept.extend([other.into(), another.into(), third.into()]);
        let listening = |kind| {
            let fd = socket(AF_UNIX, kind, 0).unwrap();
            // An address of no bytes: the kernel picks an abstract one.
            let address = nix::sys::socket::UnixAddr::new_unnamed();
            nix::sys::socket::bind(fd.as_raw_fd(), &address).unwrap();
            nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
            fd
        };
        self.add("UNIX stream", stream, &["unix stream", "channel"], "a UNIX stream socket")
            .add(
                "UNIX stream of none",
                socket(AF_UNIX, SOCK_STREAM, 0).unwrap(),
                &["unix stream", "channel"],
                "a UNIX stream socket",
            )
            .add("UNIX listener", listening(SOCK_STREAM), &["unix listener"], "a listening UNIX stream socket")
            .add("UNIX datagram", datagram, &["unix datagram", "channel"], "a UNIX datagram socket")
            .add("UNIX seqpacket", seqpacket, &["channel"], "a UNIX seqpacket socket")
            .add("UNIX seqpacket listener", listening(SOCK_SEQPACKET), &[], "a listening UNIX seqpacket socket")
    }

    fn memory(&mut self) -> &mut Self {
        let sealable = MFdFlags::MFD_ALLOW_SEALING;
        let huge = MFdFlags::MFD_HUGETLB;
        let sealed = memfd(sealable, seal::IMMUTABLE).unwrap();
        let for_reading = open(&path_of(&sealed), libc::O_RDONLY);
        let only_path = open(&path_of(&sealed), libc::O_PATH);
        let neither = open(&path_of(&sealed), 3);
        // SAFETY: takes a number.
        let secret = owned(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) });
        self.add(
            "memfd",
            memfd(sealable, 0).unwrap(),
            &["file", "memfd"],
            "a memfd with no seals, open for reading and writing",
        )
        .add(
            "memfd, never to be sealed",
            memfd(MFdFlags::empty(), 0).unwrap(),
            &["file", "memfd", "memfd S"],
            "a memfd with the seals SEAL, open for reading and writing",
        )
        .add(
            "memfd SEAL",
            memfd(sealable, seal::SEAL).unwrap(),
            &["file", "memfd", "memfd S"],
            "a memfd with the seals SEAL, open for reading and writing",
        )
        .add(
            "memfd SHRINK",
            memfd(sealable, seal::SHRINK).unwrap(),
            &["file", "memfd"],
            "a memfd with the seals SHRINK, open for reading and writing",
        )
        .add(
            "memfd SHRINK GROW",
            memfd(sealable, seal::SHRINK | seal::GROW).unwrap(),
            &["file", "memfd", "memfd sg"],
            "a memfd with the seals SHRINK, GROW, open for reading and writing",
        )
        .add(
            "memfd SHRINK WRITE",
            memfd(sealable, seal::SHRINK | seal::WRITE).unwrap(),
            &["file", "memfd"],
            "a memfd with the seals SHRINK, WRITE, open for reading and writing",
        )
        .add(
            "memfd of the future",
            memfd(sealable, seal::SHRINK | seal::GROW | seal::FUTURE_WRITE).unwrap(),
            &["file", "memfd", "memfd sg", "memfd f"],
            "a memfd with the seals SHRINK, GROW, FUTURE_WRITE, open for reading and writing",
        )
        .add(
            "memfd immutable",
            sealed,
            &["file", "memfd", "memfd sg", "memfd sgw"],
            "a memfd with the seals SHRINK, GROW, WRITE, open for reading and writing",
        )
        .add(
            "memfd immutable r",
            for_reading,
            &["file", "read-only file", "memfd", "memfd sg", "memfd sgw"],
            "a memfd with the seals SHRINK, GROW, WRITE, open for reading",
        )
        .add("memfd immutable O_PATH", only_path, &[], "an O_PATH descriptor of a regular file")
        .add(
            "memfd immutable of access mode 3",
            neither,
            &[],
            "a memfd with the seals SHRINK, GROW, WRITE, open for neither reading nor writing",
        )
        .add(
            "memfd immutable, no more seals",
            memfd(sealable, seal::IMMUTABLE | seal::SEAL).unwrap(),
            &["file", "memfd", "memfd S", "memfd sg", "memfd sgw", "memfd Ssgw"],
            "a memfd with the seals SEAL, SHRINK, GROW, WRITE, open for reading and writing",
        )
        .perhaps(
            "memfd of huge pages",
            memfd(huge | sealable, seal::SHRINK | seal::GROW),
            &["file", "memfd", "memfd sg"],
            "a memfd with the seals SHRINK, GROW, open for reading and writing",
        )
        .perhaps(
            "memfd of huge pages, never to be sealed",
            memfd(huge, 0),
            &["file", "memfd", "memfd S"],
            "a memfd with the seals SEAL, open for reading and writing",
        )
        .perhaps("memfd_secret", secret, &["file"], "a regular file, open for reading and writing")
    }

    fn processes(&mut self, child: &Child, zombie: &Child, reaped: OwnedFd) -> &mut Self {
        let thread = pidfd_open(std::process::id(), libc::O_EXCL as u32);
        self.add("pidfd of this process", pidfd(std::process::id()), &["pidfd"], "a pidfd")
            .add("pidfd of process 1", pidfd(1), &["pidfd"], "a pidfd")
            .add("pidfd of a child", pidfd(child.id()), &["pidfd"], "a pidfd")
            .add("pidfd of a zombie", pidfd(zombie.id()), &["pidfd"], "a pidfd")
            .add("pidfd of a process that was reaped", reaped, &["pidfd"], "a pidfd")
            .add("pidfd, non-blocking", pidfd_open(child.id(), libc::O_NONBLOCK as u32).unwrap(), &["pidfd"], "a pidfd")
            .perhaps("pidfd of a thread", thread, &["pidfd"], "a pidfd")
    }

    fn anonymous(&mut self) -> &mut Self {
        const WORDS: &str = "an object without a file type (epoll, eventfd and the like)";
        // SAFETY: they take numbers, but for signalfd's set, which is a value of this frame.
        let (epoll, event, timer, inotify) = unsafe {
            (
                libc::epoll_create1(libc::EPOLL_CLOEXEC),
                libc::eventfd(0, libc::EFD_CLOEXEC),
                libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC),
                libc::inotify_init1(libc::IN_CLOEXEC),
            )
        };
        self.add("epoll", owned(epoll.into()).unwrap(), &[], WORDS)
            .add("eventfd", owned(event.into()).unwrap(), &[], WORDS)
            .add("timerfd", owned(timer.into()).unwrap(), &[], WORDS)
            .add("inotify", owned(inotify.into()).unwrap(), &[], WORDS)
    }
}

fn owned(number: i64) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).unwrap();
    // SAFETY: a system call has just made it, for this caller.
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(number) }) }
}

/// As the flags say, without std's own ideas of an access mode.
fn open(path: &Path, flags: i32) -> OwnedFd {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a C string, and numbers.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into()).unwrap()
}

fn path_of(fd: &OwnedFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers.
    owned(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) }.into())
}

/// A socket that sends ICMP echo requests. Few systems let a user have one; root can in a network of its own.
fn ping() -> io::Result<OwnedFd> {
    let ping = || socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP);
    let in_own_network = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
        ping()
    };
    ping().or_else(|_| std::thread::spawn(in_own_network).join().expect("no panic"))
}

/// On a port that the kernel picks.
fn listening(socket: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers.
    let status = unsafe { libc::listen(socket.as_raw_fd(), 1) };
    if status == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn memfd(flags: MFdFlags, seals: i32) -> io::Result<OwnedFd> {
    // Executable: by default a system can add a seal (`vm.memfd_noexec`), before Linux 6.3 there was no such flag.
    let executable = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let flags = flags | MFdFlags::MFD_CLOEXEC;
    let fd = memfd_create(c"test", flags | executable).or_else(|_| memfd_create(c"test", flags))?;
    if seals != 0 {
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals)))?;
    }
    Ok(fd)
}

fn pidfd(pid: u32) -> OwnedFd {
    pidfd_open(pid, 0).unwrap()
}

fn pidfd_open(pid: u32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })
}

/// A child that runs until its standard input ends.
fn running() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// A child that has ended with this script, and has not been waited for.
fn ended(script: &str) -> Child {
    let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    // nix cannot read the end by a real-time signal: what it answers does not matter here, only that it answers.
    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    child
}

/// Received together, through a channel.
fn through(fds: &[BorrowedFd<'_>]) -> Packet {
    let (here, there) = Channel::pair().unwrap();
    here.send(b"x", fds).unwrap();
    let mut packet = Packet::new();
    there.recv(&mut packet).unwrap();
    packet
}

/// H-05: each of the types is asked for with each of the descriptors. What it is, is given and is the same open file;
/// anything else is the error that names it, and is closed.
#[test]
fn h_05_every_type_of_every_descriptor() {
    common::alone("h_05_every_type_of_every_descriptor", || {
        let (_keep, root) = common::directory();
        let (mut child, mut zombie, mut gone) = (running(), ended("exit 3"), ended("exit 0"));
        let reaped = pidfd(gone.id());
        gone.wait().unwrap();
        let mut zoo = Zoo::default();
        zoo.files(&root).pipes(&root).internet().unix().memory().processes(&child, &zombie, reaped).anonymous();
        let types = every_type();
        for specimen in &zoo.specimens {
            for wrong in specimen.is {
                assert!(types.iter().any(|asked| asked.name == *wrong), "the table's own mistake: {wrong}");
            }
            for asked in &types {
                is_taken_or_refused(specimen, asked);
            }
        }
        eprintln!("{} descriptors as {} types", zoo.specimens.len(), types.len());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(zombie.wait().unwrap().code(), Some(3), "none of the questions has reaped the child");
    });
}

fn is_taken_or_refused(specimen: &Specimen, asked: &Asked) {
    let case = format!("{} as {}", specimen.name, asked.name);
    let before = common::open_fds();
    let mut packet = through(&[specimen.fd.as_fd()]);
    assert_eq!(common::open_fds(), before + 1, "{case}");
    let result = (asked.take)(&mut packet);
    assert_eq!((packet.fds().len(), packet.bytes()), (0, &b"x"[..]), "{case}");
    if asked.name == "any" || specimen.is.contains(&asked.name) {
        let taken = result.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(common::identity(&taken), common::identity(&specimen.fd), "{case}");
        drop(taken);
    } else {
        let error = result.expect_err(&case);
        let TakeError::WrongKind { position: 0, expected, found } = &error else { panic!("{case}: {error}") };
        assert_eq!((*expected, found.to_string().as_str()), (asked.expected, specimen.words), "{case}");
        let text = format!("descriptor 0 is {found}, where {expected} is expected; all were closed");
        assert_eq!(error.to_string(), text);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
    }
    assert_eq!(common::open_fds(), before, "{case}");
}

/// H-05: one more or one less than was asked for, of each type that takes a number of them: an error, and all are
/// closed.
#[test]
fn h_05_a_wrong_count_closes_all() {
    fn counts<T: FromDescriptors>(expected: usize) {
        let file = File::open("/dev/null").unwrap();
        let before = common::open_fds();
        for found in 0..9 {
            let mut packet = through(&vec![file.as_fd(); found]);
            let result = packet.take_all::<T>();
            assert!(packet.fds().is_empty());
            match result {
                Ok(taken) => {
                    assert_eq!(expected, found);
                    assert_eq!(common::open_fds(), before + found);
                    drop(taken);
                }
                Err(error) => {
                    let counts =
                        matches!(error, TakeError::WrongCount { expected: e, found: f } if (e, f) == (expected, found));
                    assert!(counts && expected != found, "{error}");
                    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
                }
            }
            assert_eq!(common::open_fds(), before);
        }
    }
    type Any = OwnedFd;
    common::alone("h_05_a_wrong_count_closes_all", || {
        counts::<()>(0);
        counts::<(Any,)>(1);
        counts::<(Any, Any)>(2);
        counts::<(Any, Any, Any)>(3);
        counts::<(Any, Any, Any, Any)>(4);
        counts::<(Any, Any, Any, Any, Any)>(5);
        counts::<(Any, Any, Any, Any, Any, Any)>(6);
        counts::<[Any; 0]>(0);
        counts::<[Any; 1]>(1);
        counts::<[Any; 7]>(7);
        let file = File::open("/dev/null").unwrap();
        let before = common::open_fds();
        for found in [0, 1, 16] {
            let mut packet = through(&vec![file.as_fd(); found]);
            assert_eq!(packet.take_all::<Vec<Any>>().unwrap().len(), found);
            let one = through(&vec![file.as_fd(); found]).into_one::<Any>();
            assert!(matches!(one, Err(TakeError::WrongCount { expected: 1, found: f }) if f == found) || found == 1);
            drop(one);
            assert_eq!(common::open_fds(), before);
        }
        // What was taken before is not there again.
        let mut packet = through(&[file.as_fd(), file.as_fd()]);
        drop(packet.take_fds().next());
        assert!(matches!(packet.take_one::<Any>(), Err(TakeError::WrongCount { expected: 1, found: 0 })));
        assert_eq!(common::open_fds(), before);
    });
}

/// H-05: of several, one is wrong, at each position: the error says which one, nothing is made, all are closed. The
/// right ones arrive in order.
#[test]
fn h_05_one_wrong_descriptor_closes_all() {
    type Six = (File, File, File, File, File, File);
    fn at<T: FromDescriptors>(files: &[File], wrong: &UdpSocket) {
        let before = common::open_fds();
        for position in 0..6 {
            let mut fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            fds[position] = wrong.as_fd();
            let mut packet = through(&fds);
            let error = packet.take_all::<T>().err().expect("an error");
            assert!(packet.fds().is_empty());
            assert!(matches!(error, TakeError::WrongKind { position: p, .. } if p == position), "{position}: {error}");
            let text = "is a UDP socket, where a regular file, open for reading or writing is expected";
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(common::open_fds(), before);
        }
    }
    common::alone("h_05_one_wrong_descriptor_closes_all", || {
        let files: Vec<File> = (0..6).map(|_| tempfile::tempfile().unwrap()).collect();
        let wrong = UdpSocket::bind("127.0.0.1:0").unwrap();
        at::<Six>(&files, &wrong);
        at::<[File; 6]>(&files, &wrong);
        at::<Vec<File>>(&files, &wrong);

        let before = common::open_fds();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let (a, b, c, d, e, f) = through(&fds).take_all::<Six>().unwrap();
        let array = through(&fds).take_all::<[File; 6]>().unwrap();
        let many = through(&fds).take_all::<Vec<File>>().unwrap();
        for taken in [[a, b, c, d, e, f], array, many.try_into().unwrap()] {
            assert_eq!(
                taken.each_ref().map(common::identity)[..],
                *files.iter().map(common::identity).collect::<Vec<_>>()
            );
        }
        // Of different types: each is checked as its own.
        let (reads, writes) = nix::unistd::pipe().unwrap();
        through(&[reads.as_fd(), writes.as_fd()]).take_all::<(PipeReader, PipeWriter)>().unwrap();
        let error = through(&[reads.as_fd(), reads.as_fd()]).take_all::<(PipeReader, PipeWriter)>().unwrap_err();
        assert!(matches!(error, TakeError::WrongKind { position: 1, .. }), "{error}");
        drop((reads, writes));
        assert_eq!(common::open_fds(), before);
    });
}

/// H-05: descriptors that did not come in a packet are checked and closed alike.
#[test]
fn h_05_descriptors_from_elsewhere() {
    common::alone("h_05_descriptors_from_elsewhere", || {
        let before = common::open_fds();
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(from_fd::<File>(file()).is_ok());
        assert!(matches!(from_fd::<PidFd>(file()), Err(TakeError::WrongKind { position: 0, .. })));
        assert!(from_fds::<(File, File)>(vec![file(), file()]).is_ok());
        assert!(matches!(
            from_fds::<(File, PidFd)>(vec![file(), file()]),
            Err(TakeError::WrongKind { position: 1, .. })
        ));
        assert!(matches!(from_fds::<(File,)>(vec![]), Err(TakeError::WrongCount { expected: 1, found: 0 })));
        assert_eq!(common::open_fds(), before);
    });
}

/// H-05: a child that has ended is waited for as if nobody had asked about its pidfd, however it ended; and a pidfd
/// whose process was reaped is one still.
#[test]
fn h_05_a_pidfd_is_asked_without_reaping() {
    common::alone("h_05_a_pidfd_is_asked_without_reaping", || {
        let realtime = libc::SIGRTMIN() + 1;
        let kill = format!("kill -{realtime} $$");
        for (script, code, signal) in [
            ("exit 0", Some(0), None),
            ("exit 77", Some(77), None),
            ("kill -9 $$", None, Some(9)),
            (&kill, None, Some(realtime)),
        ] {
            let mut child = ended(script);
            let pidfd = pidfd(child.id());
            for _ in 0..3 {
                through(&[pidfd.as_fd()]).into_one::<PidFd>().unwrap();
            }
            let status = child.wait().unwrap();
            assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
            through(&[pidfd.as_fd()]).into_one::<PidFd>().unwrap();
        }
        // One that lives is not waited for: this returns.
        let mut child = running();
        let pidfd = through(&[pidfd(child.id()).as_fd()]).into_one::<PidFd>().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(child.stdin.take());
        // Readable when the process has ended, as a pidfd is.
        let mut poll = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut poll, 60_000u16).unwrap(), 1);
        assert!(child.wait().unwrap().success());
    });
}

/// H-05: what was taken can do what its type can.
#[test]
fn h_05_what_was_taken_works() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let taken: TcpListener = through(&[listener.as_fd()]).into_one().unwrap();
    drop(listener);
    let stream: TcpStream = through(&[TcpStream::connect(address).unwrap().as_fd()]).into_one().unwrap();
    (&stream).write_all(b"over TCP").unwrap();
    drop(stream);
    assert_eq!(io::read_to_string(taken.accept().unwrap().0).unwrap(), "over TCP");

    let (reads, writes) = nix::unistd::pipe().unwrap();
    let (mut reader, mut writer): (PipeReader, PipeWriter) =
        through(&[reads.as_fd(), writes.as_fd()]).take_all().unwrap();
    drop((reads, writes));
    writer.write_all(b"through ").unwrap();
    assert_eq!(writer.write_vectored(&[io::IoSlice::new(b"a "), io::IoSlice::new(b"pipe")]).unwrap(), 6);
    writer.flush().unwrap();
    drop(writer);
    let (mut one, mut other) = ([0; 4], [0; 4]);
    assert_eq!(reader.read_vectored(&mut [io::IoSliceMut::new(&mut one), io::IoSliceMut::new(&mut other)]).unwrap(), 8);
    assert_eq!((&one, &other), (b"thro", b"ugh "));
    assert_eq!(io::read_to_string(&mut reader).unwrap(), "a pipe");

    for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
        let (here, there) = Channel::pair_of(kind).unwrap();
        let there: Channel = through(&[there.as_fd()]).into_one().unwrap();
        assert_eq!(there.kind(), kind);
        here.send(b"over a channel", &[]).unwrap();
        let mut packet = Packet::new();
        there.recv(&mut packet).unwrap();
        assert_eq!(packet.bytes(), b"over a channel");
    }

    let (reads, writes) = nix::unistd::pipe().unwrap();
    let writer: PipeWriter = through(&[writes.as_fd()]).into_one().unwrap();
    drop(writes);
    assert!(Command::new("echo").arg("by a child").stdout(writer).status().unwrap().success());
    let reader: PipeReader = from_fd(reads).unwrap();
    let output = Command::new("cat").stdin(reader).output().unwrap();
    assert_eq!(output.stdout, b"by a child\n");
}

/// H-05: what the required seals are for. Without SHRINK and WRITE the sender changes what was received; with them it
/// cannot, and with FUTURE_WRITE it can through a mapping that it made before.
#[test]
fn h_05_what_seals_forbid() {
    fn holding(seals: i32) -> (File, OwnedFd) {
        let sent = memfd(MFdFlags::MFD_ALLOW_SEALING, 0).unwrap();
        let mut file = File::from(sent.try_clone().unwrap());
        file.write_all(b"checked").unwrap();
        file.rewind().unwrap();
        if seals != 0 {
            fcntl(&sent, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).unwrap();
        }
        (file, sent)
    }
    let (mut held, sent) = holding(0);
    let mut taken = File::from(through(&[sent.as_fd()]).into_one::<Memfd<0>>().unwrap());
    held.write_all(b"changed").unwrap();
    taken.rewind().unwrap();
    assert_eq!(io::read_to_string(&mut taken).unwrap(), "changed");
    held.set_len(0).unwrap();
    assert_eq!(taken.metadata().unwrap().len(), 0);

    let (mut held, sent) = holding(seal::IMMUTABLE);
    let mut taken = File::from(through(&[sent.as_fd()]).into_one::<Memfd<{ seal::IMMUTABLE }>>().unwrap());
    for forbidden in [held.write_all(b"changed"), held.set_len(0), held.set_len(100)] {
        assert_eq!(forbidden.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
    taken.rewind().unwrap();
    assert_eq!(io::read_to_string(&mut taken).unwrap(), "checked");

    let (held, sent) = holding(0);
    // SAFETY: a new mapping of a file of this test, which lives to its end.
    let mapping = unsafe {
        libc::mmap(std::ptr::null_mut(), 7, libc::PROT_WRITE, libc::MAP_SHARED, held.as_raw_fd(), 0).cast::<u8>()
    };
    assert_ne!(mapping.cast(), libc::MAP_FAILED);
    let add = |seals| fcntl(&sent, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals)));
    assert_eq!(add(seal::WRITE), Err(nix::errno::Errno::EBUSY));
    add(seal::SHRINK | seal::GROW | seal::FUTURE_WRITE).unwrap();
    let error = through(&[sent.as_fd()]).into_one::<Memfd<{ seal::IMMUTABLE }>>().unwrap_err();
    assert!(matches!(error, TakeError::WrongKind { .. }), "{error}");
    let mut taken = File::from(through(&[sent.as_fd()]).into_one::<Memfd<{ seal::FUTURE_WRITE }>>().unwrap());
    // SAFETY: within the mapping, and no reference to it exists.
    unsafe { mapping.write(b'C') };
    taken.rewind().unwrap();
    assert_eq!(io::read_to_string(&mut taken).unwrap(), "Checked");
}

/// H-05: files of tmpfs and of hugetlbfs say F_SEAL_SEAL, as a memfd that cannot be sealed does, and are none. Without
/// a name too.
#[test]
fn h_05_files_that_have_seals_are_no_memfds() {
    if !common::is_root() {
        eprintln!("SKIPPED a part of H-05: mounting tmpfs and hugetlbfs needs root");
        return;
    }
    common::alone("h_05_files_that_have_seals_are_no_memfds", || {
        if let Err(errno) = own_mounts() {
            return eprintln!("SKIPPED a part of H-05: a mount namespace: {errno}");
        }
        for file_system in ["tmpfs", "hugetlbfs"] {
            let (keep, root) = common::directory();
            let _mounted = match Mounted::of_kind(&keep, &root, file_system, nix::mount::MsFlags::empty(), None) {
                Ok(mounted) => mounted,
                Err(errno) => {
                    eprintln!("SKIPPED a part of H-05: {file_system}: {errno}");
                    continue;
                }
            };
            let path = root.join("memfd:test");
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            for _ in ["with its name", "without"] {
                assert_eq!(Descriptor::of(file.as_fd()).seals().unwrap(), Some(seal::SEAL), "{file_system}");
                assert!(matches!(through(&[file.as_fd()]).into_one::<Memfd<0>>(), Err(TakeError::WrongKind { .. })));
                let sealed = through(&[file.as_fd()]).into_one::<Memfd<{ seal::SEAL }>>();
                assert!(matches!(sealed, Err(TakeError::WrongKind { .. })), "{file_system}");
                assert!(through(&[file.as_fd()]).into_one::<File>().is_ok());
                let _ = std::fs::remove_file(&path);
            }
        }
    });
}

/// H-05: where the kernel does not tell, because a filter forbids the question or no descriptor is free for it, that is
/// the error, with its errno; all are closed, and what needs no such question goes on.
#[test]
fn h_05_a_kernel_that_does_not_tell() {
    common::alone_with(64, "h_05_a_kernel_that_does_not_tell", || {
        let (child, plain) = (pidfd(std::process::id()), memfd(MFdFlags::empty(), 0).unwrap());
        let sealed = memfd(MFdFlags::MFD_ALLOW_SEALING, seal::SHRINK).unwrap();
        let (mut of_pidfd, mut of_plain, mut of_sealed) =
            (through(&[child.as_fd()]), through(&[plain.as_fd()]), through(&[sealed.as_fd()]));
        let before = common::open_fds();
        let mut filler = Vec::new();
        while let Ok(fd) = plain.try_clone() {
            filler.push(fd);
        }
        // Settled by its seals alone. First, because the other, when it is closed, leaves a free descriptor.
        let sealed = of_sealed.take_one::<Memfd<{ seal::SHRINK }>>();
        let memfd = of_plain.take_one::<Memfd<0>>();
        drop(filler);
        assert!(
            matches!(&memfd, Err(TakeError::Os { position: 0, source, .. }) if source.raw_os_error() == Some(libc::EMFILE)),
            "{memfd:?}"
        );
        assert_eq!(io::Error::from(memfd.unwrap_err()).raw_os_error(), Some(libc::EMFILE));
        assert!(sealed.is_ok(), "{sealed:?}");
        drop(sealed);
        assert_eq!(common::open_fds(), before - 2);

        common::refuse(libc::SYS_waitid, &[], libc::ENOSYS);
        let error = of_pidfd.take_one::<PidFd>().unwrap_err();
        assert!(
            matches!(&error, TakeError::Os { source, .. } if source.raw_os_error() == Some(libc::ENOSYS)),
            "{error}"
        );
        assert!(
            error.to_string().starts_with("descriptor 0 was to be a pidfd, but the kernel does not tell: "),
            "{error}"
        );
        assert_eq!(common::open_fds(), before - 3);
        // Described as well as it can be.
        let error = through(&[child.as_fd()]).into_one::<File>().unwrap_err();
        assert!(
            matches!(&error, TakeError::WrongKind { found, .. } if found.file_type == FileType::Anonymous && !found.pidfd),
            "{error}"
        );
    });
}

/// H-05: a worker that has locked itself down can take every type.
#[test]
fn h_05_in_a_locked_worker() {
    common::alone("h_05_in_a_locked_worker", || {
        let (file, listener) = (tempfile::tempfile().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (reads, _writes) = nix::unistd::pipe().unwrap();
        let plain = memfd(MFdFlags::empty(), 0).unwrap();
        let itself = pidfd(std::process::id());
        fdbroker::lockdown().unwrap();
        type Four = (File, TcpListener, PipeReader, Memfd<0>);
        through(&[file.as_fd(), listener.as_fd(), reads.as_fd(), plain.as_fd()]).take_all::<Four>().unwrap();
        let error = through(&[file.as_fd()]).into_one::<Memfd<0>>().unwrap_err();
        assert!(matches!(error, TakeError::WrongKind { .. }), "{error}");
        through(&[itself.as_fd()]).into_one::<PidFd>().unwrap();
    });
}

/// H-05: a check of a user's own that fails or panics leaves nothing in the packet, and nothing open.
#[test]
fn h_05_a_users_check_that_fails_or_panics() {
    #[derive(Debug)]
    struct Fails;
    impl FromDescriptor for Fails {
        const EXPECTED: &'static str = "a miracle";

        fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
            assert_eq!(descriptor.file_type()?, FileType::Regular, "the panic of the test");
            Err(io::Error::from_raw_os_error(libc::EIO))
        }

        fn from_checked(_: Checked<Self>) -> Self {
            unreachable!("it was not accepted")
        }
    }
    common::alone("h_05_a_users_check_that_fails_or_panics", || {
        let (file, null) = (tempfile::tempfile().unwrap(), File::open("/dev/null").unwrap());
        let before = common::open_fds();
        let mut packet = through(&[file.as_fd(), file.as_fd()]);
        let error = packet.take_all::<(OwnedFd, Fails)>().unwrap_err();
        assert!(
            matches!(&error, TakeError::Os { position: 1, source, expected: "a miracle" } if source.raw_os_error() == Some(libc::EIO))
        );
        assert_eq!((packet.fds().len(), common::open_fds()), (0, before));

        let mut packet = through(&[null.as_fd(), file.as_fd()]);
        let panic = std::panic::AssertUnwindSafe(|| packet.take_all::<[Fails; 2]>());
        std::panic::catch_unwind(panic).expect_err("a panic");
        assert_eq!((packet.fds().len(), common::open_fds()), (0, before));
    });
}

/// H-05: no check waits for a server. The file system is this test's own (FUSE); who serves it can leave a question for
/// the attributes of a file unanswered for ever, and with it the process that asked. So none may be asked.
#[test]
fn h_05_no_check_waits_for_a_server() {
    common::alone("h_05_no_check_waits_for_a_server", || {
        let (keep, root) = common::directory();
        let path = root.join("served");
        File::create(&path).unwrap();
        let Some((_mounted, file, questions)) = served(&keep, &path) else { return };
        let before = common::open_fds();
        for asked in every_type() {
            let result = (asked.take)(&mut through(&[file.as_fd()]));
            assert_eq!(result.is_ok(), ["any", "file", "read-only file"].contains(&asked.name), "{}", asked.name);
        }
        assert_eq!(common::open_fds(), before);
        assert_eq!(questions.load(Ordering::SeqCst), 0, "the server was asked");
        // The server does count: this asks it.
        assert!(file.metadata().is_err());
        assert_eq!(questions.load(Ordering::SeqCst), 1);
    });
}

/// A regular file at `path`, served by a thread (include/uapi/linux/fuse.h), and how often its attributes were asked
/// for.
fn served<'a>(keep: &'a tempfile::TempDir, path: &Path) -> Option<(Mounted<'a>, File, Arc<AtomicUsize>)> {
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const INIT: u32 = 26;
    if !common::is_root() {
        eprintln!("SKIPPED a part of H-05: a file system of the test's own needs root");
        return None;
    }
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let options =
        device.as_ref().map(|device| format!("fd={},rootmode=100000,user_id=0,group_id=0", device.as_raw_fd()));
    let mounted = options.map_err(|error| error.to_string()).and_then(|options| {
        own_mounts()
            .and_then(|()| Mounted::of_kind(keep, path, "fuse", nix::mount::MsFlags::empty(), Some(&options)))
            .map_err(|errno| errno.to_string())
    });
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            eprintln!("SKIPPED a part of H-05: FUSE: {error}");
            return None;
        }
    };
    let questions = Arc::new(AtomicUsize::new(0));
    let (count, ready) = (Arc::clone(&questions), Arc::new(Barrier::new(2)));
    let started = Arc::clone(&ready);
    std::thread::spawn(move || {
        let mut device = device.unwrap();
        let mut request = vec![0; 1 << 20];
        started.wait();
        while let Ok(len) = device.read(&mut request) {
            let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
            let unique = &request[8..16];
            let (errno, body): (i32, Vec<u8>) = match word(4) {
                // Version 7.31; the rest of fuse_init_out is zeros, but for the size of a write.
                INIT => {
                    let mut body = [7u32, 31, 0, 0, 0, 4096].map(u32::to_ne_bytes).concat();
                    body.resize(64, 0);
                    (0, body)
                }
                OPEN => (0, vec![0; 16]),
                GETATTR => {
                    count.fetch_add(1, Ordering::SeqCst);
                    (libc::EIO, vec![])
                }
                _ => (libc::ENOSYS, vec![]),
            };
            assert!(len >= 40, "a header of fuse_in_header");
            let total = u32::try_from(16 + body.len()).unwrap();
            let reply = [&total.to_ne_bytes()[..], &(-errno).to_ne_bytes(), unique, &body].concat();
            // ENOENT: it did not wait for the reply.
            let _ = device.write(&reply);
        }
    });
    ready.wait();
    Some((mounted, File::open(path).unwrap(), questions))
}

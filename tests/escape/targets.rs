//! What the attempts are aimed at: real files, processes, sockets, a terminal, and objects of the kernel.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::attempt::Place;
use super::call::{call, path};
use super::common;

pub struct Targets {
    _guard: tempfile::TempDir,
    pub directory: PathBuf,
    victim: Child,
    secret: usize,
    tcp: TcpListener,
    udp: UdpSocket,
    streams: [UnixListener; 2],
    datagrams: [UnixDatagram; 2],
    _in_runtime: UnixDatagram,
    pub terminal: OwnedFd,
    _master: OwnedFd,
    terminal_name: String,
    objects: Objects,
}

const SECRET: &[u8; 16] = b"fdbroker secret!";

impl Targets {
    pub fn new() -> Self {
        let (guard, directory) = files();
        let mut victim = common::rerun("process", "victim");
        let mut victim = victim.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(victim.stdout.as_mut().unwrap()).lines();
        let secret = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("secret at ")?.parse().ok());
        let objects = Objects::new();
        let address = |kind: &str| {
            let name = format!("fdbroker-escape-{}-{kind}", objects.key);
            SocketAddr::from_abstract_name(name).unwrap()
        };
        let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
        let targets = Self {
            secret: secret.unwrap(),
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            streams: [
                UnixListener::bind(directory.join("stream")).unwrap(),
                UnixListener::bind_addr(&address("stream")).unwrap(),
            ],
            datagrams: [
                UnixDatagram::bind(directory.join("datagram")).unwrap(),
                UnixDatagram::bind_addr(&address("datagram")).unwrap(),
            ],
            _in_runtime: UnixDatagram::bind(directory.join("runtime/datagram")).unwrap(),
            terminal_name: nix::unistd::ttyname(&slave).unwrap().to_str().unwrap().to_owned(),
            terminal: slave,
            _master: master,
            _guard: guard,
            directory,
            victim,
            objects,
        };
        for name in ["stream", "datagram", "runtime/datagram"] {
            fs::set_permissions(targets.directory.join(name), Permissions::from_mode(0o777)).unwrap();
        }
        targets.tcp.set_nonblocking(true).unwrap();
        targets.udp.set_nonblocking(true).unwrap();
        targets.streams.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        targets.datagrams.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        targets
    }

    /// What another process has to know of them. Between the words are tabs: a path may have spaces.
    pub fn role(&self, what: &str, place: Place) -> String {
        let words = [
            what.to_owned(),
            place.name().to_owned(),
            self.directory.display().to_string(),
            std::process::id().to_string(),
            self.victim.id().to_string(),
            self.secret.to_string(),
            self.objects.key.to_string(),
            self.tcp.local_addr().unwrap().to_string(),
            self.udp.local_addr().unwrap().to_string(),
            self.terminal_name.clone(),
        ];
        words.join("\t")
    }

    /// What has become of them.
    pub fn traces(&mut self) -> Traces {
        let received = |socket: &UnixDatagram| socket.recv(&mut [0; 8]).is_ok();
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let mut typed = 0_i32;
        // SAFETY: the kernel writes one number to `typed`.
        unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::FIONREAD, &raw mut typed) };
        let mut memory = [0; 16];
        let file = File::open(format!("/proc/{}/mem", self.victim.id())).unwrap();
        // Of one that has ended, nothing.
        std::os::unix::fs::FileExt::read_at(&file, &mut memory, self.secret as u64).ok();
        Traces {
            files: ["file", "truncated", "runtime/file", "changed", "old", "old 2", "unlinked"].map(read).concat(),
            appended: read("append"),
            tcp: self.tcp.accept().is_ok(),
            udp: self.udp.recv(&mut [0; 8]).is_ok(),
            streams: [self.streams[0].accept().is_ok(), self.streams[1].accept().is_ok()],
            datagrams: [received(&self.datagrams[0]), received(&self.datagrams[1])],
            typed: typed > 0,
            victim_lives: self.victim.try_wait().unwrap().is_none(),
            secret_is_whole: memory == *SECRET,
            names: fs::read_dir(&self.directory).unwrap().count(),
        }
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        // What attempts have created outside of the directory.
        for directory in ["/", "/dev/shm"] {
            let _ = fs::remove_file(Path::new(directory).join(format!("fdbroker-escape-{}", self.objects.key)));
        }
    }
}

/// What attempts leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    pub files: String,
    pub appended: String,
    pub tcp: bool,
    pub udp: bool,
    pub streams: [bool; 2],
    pub datagrams: [bool; 2],
    pub typed: bool,
    pub victim_lives: bool,
    pub secret_is_whole: bool,
    pub names: usize,
}

/// Lives until its standard input ends.
pub fn be_victim() {
    let secret: &'static [u8; 16] = Box::leak(Box::new(*SECRET));
    // SAFETY: Yama's own number, and any process; kernels without it refuse.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, -1_i64, 0, 0, 0) };
    println!("\nsecret at {}", std::ptr::from_ref(secret) as usize);
    let _ = std::io::stdin().read(&mut [0; 1]);
    assert!(!secret.is_empty());
}

/// A directory in which everybody can do everything.
fn files() -> (tempfile::TempDir, PathBuf) {
    let (guard, directory) = common::directory();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(&directory, 0o777);
    for name in ["runtime", "empty", "empty 2", "place"] {
        fs::create_dir(directory.join(name)).unwrap();
        open(&directory.join(name), 0o777);
    }
    for name in
        ["file", "append", "both", "read", "truncated", "changed", "old", "old 2", "old 3", "unlinked", "runtime/file"]
    {
        fs::write(directory.join(name), "content").unwrap();
        open(&directory.join(name), 0o666);
    }
    std::os::unix::fs::symlink("../file", directory.join("runtime/link")).unwrap();
    nix::unistd::mkfifo(&directory.join("runtime/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    open(&directory.join("runtime/fifo"), 0o666);
    fs::write(directory.join("script"), "#!/bin/sh\nexit 0\n").unwrap();
    open(&directory.join("script"), 0o777);
    for (name, mode) in [("program", 0o777), ("setuid", 0o4755), ("runtime/program", 0o755)] {
        fs::copy("/bin/true", directory.join(name)).unwrap();
        open(&directory.join(name), mode);
    }
    (guard, directory)
}

/// System V objects and POSIX message queues, which everybody may use.
struct Objects {
    key: usize,
    ids: [usize; 3],
}

impl Objects {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let key = (std::process::id() as usize % 0x7f_ffff) << 8 | NEXT.fetch_add(1, Ordering::Relaxed);
        let make = (libc::IPC_CREAT | 0o777) as usize;
        let made = |number, arguments: &[usize]| call(number, arguments).unwrap() as usize;
        let ids = [
            made(libc::SYS_shmget, &[key, 4096, make]),
            made(libc::SYS_semget, &[key, 1, make]),
            made(libc::SYS_msgget, &[key, make]),
        ];
        for name in Self::names(key) {
            let flags = (libc::O_CREAT | libc::O_RDWR | libc::O_CLOEXEC) as usize;
            // struct mq_attr: one message of one byte. What a user's queues may hold is little (RLIMIT_MSGQUEUE).
            let attributes = super::call::leak([0_u64, 1, 1, 0, 0, 0, 0, 0]);
            let queue = call(libc::SYS_mq_open, &[path(name), flags, 0o666, attributes]);
            let queue = super::call::owned(queue).unwrap();
            drop(queue);
        }
        Self { key, ids }
    }

    fn names(key: usize) -> [String; 2] {
        [format!("fdbroker-escape-{key}"), format!("fdbroker-escape-{key}-removed")]
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let [memory, semaphores, queue] = self.ids;
        let _ = call(libc::SYS_shmctl, &[memory, libc::IPC_RMID as usize, 0]);
        let _ = call(libc::SYS_semctl, &[semaphores, 0, libc::IPC_RMID as usize]);
        let _ = call(libc::SYS_msgctl, &[queue, libc::IPC_RMID as usize, 0]);
        for name in Self::names(self.key) {
            let _ = call(libc::SYS_mq_unlink, &[path(name)]);
        }
    }
}

/// The address of a role's word.
pub fn address(word: &str) -> SocketAddrV4 {
    word.parse().unwrap()
}

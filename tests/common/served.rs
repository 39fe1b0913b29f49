//! A broker's service with a worker's end of its channel, and processes that cannot outstay their time.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::wire::{Answer, Ask, MAX_MESSAGE, Refusal, Reply, Request};
use fdbroker::{Broker, Channel, Client, Fault, Kind, Packet, Policy, Service};
use nix::sys::socket::{MsgFlags, SetSockOpt};

/// Nothing in these tests takes as long as this. What does, hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A channel of which the worker's end gives up waiting some day.
pub fn pair() -> (Channel, Channel) {
    pair_of(Kind::SeqPacket)
}

/// As [`pair`], of another kind.
pub fn pair_of(kind: Kind) -> (Channel, Channel) {
    let (theirs, ours) = Channel::pair_of(kind).expect("a channel");
    ours.set_recv_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
    ours.set_send_timeout(Some(PATIENCE)).expect("SO_SNDTIMEO");
    (theirs, ours)
}

/// A worker of the library's own, served by `policy`.
pub fn client(policy: Policy) -> (Service, Client) {
    client_of(&Broker::new(), policy)
}

/// As [`client`], of a broker that serves others as well.
pub fn client_of(broker: &Broker, policy: impl Into<std::sync::Arc<Policy>>) -> (Service, Client) {
    let (theirs, ours) = pair();
    (broker.serve("client", theirs, policy).expect("a thread"), Client::new(ours))
}

/// A worker that writes its bytes itself, served by `policy`.
pub fn raw(policy: Policy) -> (Service, Raw) {
    raw_of(&Broker::new(), policy)
}

/// As [`raw`], of a broker that serves others as well.
pub fn raw_of(broker: &Broker, policy: impl Into<std::sync::Arc<Policy>>) -> (Service, Raw) {
    let (theirs, ours) = pair();
    (broker.serve("raw", theirs, policy).expect("a thread"), Raw::new(ours))
}

/// As [`raw`], but on a kernel that cannot refuse descriptors at the sender (older than Linux 6.16): where it can, that
/// is taken back after the broker asked for it.
pub fn raw_where_descriptors_arrive(broker: &Broker, policy: Policy) -> (Service, Raw) {
    let (theirs, ours) = pair();
    let same = std::os::fd::AsFd::as_fd(&theirs).try_clone_to_owned().expect("dup");
    let service = broker.serve("raw", theirs, policy).expect("a thread");
    match PassRights.set(&same, &true) {
        Ok(()) | Err(nix::errno::Errno::ENOPROTOOPT) => {}
        Err(errno) => panic!("SO_PASSRIGHTS: {errno}"),
    }
    (service, Raw::new(ours))
}

/// SO_PASSRIGHTS of include/uapi/asm-generic/socket.h.
const SO_PASSRIGHTS: libc::c_int = 83;
#[derive(Clone, Copy, Debug)]
pub struct PassRights;
mod pass_rights {
    #![allow(unsafe_code, reason = "nix's macro writes the setsockopt call")]
    use super::{PassRights, SO_PASSRIGHTS};
    nix::setsockopt_impl!(PassRights, libc::SOL_SOCKET, SO_PASSRIGHTS, bool, nix::sys::socket::sockopt::SetBool);
}

/// A worker's end, spoken to in bytes.
pub struct Raw {
    pub channel: Channel,
    packet: Packet,
    request: Box<[u8]>,
    id: u64,
}

impl Raw {
    pub fn new(channel: Channel) -> Self {
        Self { channel, packet: Packet::new(), request: vec![0; MAX_MESSAGE].into(), id: 0 }
    }

    /// One request without its answer. Answers its id.
    pub fn send(&mut self, ask: Ask<'_>) -> u64 {
        self.id += 1;
        let len = Request { id: self.id, ask }.encode(&mut self.request).expect("a request that fits");
        self.channel.send(&self.request[..len], &[]).expect("the broker's queue");
        self.id
    }

    /// Any bytes, even none: those the channel itself would not send.
    pub fn send_bytes(&self, bytes: &[u8]) -> nix::Result<usize> {
        let socket = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&self.channel));
        nix::sys::socket::send(socket, bytes, MsgFlags::MSG_NOSIGNAL)
    }

    /// The next reply, whatever it answers.
    pub fn reply(&mut self) -> Result<Replied, fdbroker::ChannelError> {
        self.channel.recv(&mut self.packet)?;
        let came = self.packet.fds().len();
        let Reply { id, answer } = Reply::decode(self.packet.bytes(), came).expect("a well-formed reply");
        let answer = match answer {
            Answer::Granted { descriptors, data } => {
                assert_eq!(usize::from(descriptors), came);
                Ok(data.to_vec())
            }
            Answer::Refused(refusal) => Err(refusal),
            _ => panic!("the answers to a batch"),
        };
        Ok(Replied { id, answer, fd: self.packet.take_fds().next() })
    }

    /// One request and its answer: the descriptor.
    pub fn ask(&mut self, ask: Ask<'_>) -> Result<Option<OwnedFd>, Refusal> {
        let id = self.send(ask);
        let reply = self.reply().expect("a reply");
        assert_eq!(reply.id, id);
        reply.answer.map(|_| reply.fd)
    }

    /// One request and its answer: what is told.
    pub fn told(&mut self, ask: Ask<'_>) -> Result<Vec<u8>, Refusal> {
        let id = self.send(ask);
        let reply = self.reply().expect("a reply");
        assert_eq!(reply.id, id);
        assert!(reply.fd.is_none(), "a descriptor where none was asked for");
        reply.answer
    }
}

/// One reply, but for a batch's.
#[derive(Debug)]
pub struct Replied {
    pub id: u64,
    pub answer: Result<Vec<u8>, Refusal>,
    pub fd: Option<OwnedFd>,
}

/// How a service ended, which it is about to.
pub fn ended(service: Service) -> Result<(), Fault> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(service.wait()));
    told.recv_timeout(PATIENCE).expect("the service has not ended")
}

/// Whether this process was started to be the test `name` alone. If not, it starts one, and sees to it that it passes.
pub fn alone(name: &str) -> bool {
    if super::role().is_some() {
        return true;
    }
    let mut command = super::rerun(name, "alone");
    let _files = super::temporary_files_of(&mut command);
    let mut child = command.stdout(Stdio::null()).spawn().expect("this program again");
    let status = within(PATIENCE, &mut child);
    assert!(status.success(), "{name}, in a process of its own: {status}");
    false
}

/// Another process of this test, with a channel to this one as its standard input.
pub fn start(name: &str, role: &str) -> (Reaped, Channel) {
    let (theirs, ours) = pair();
    let mut command = super::rerun(name, role);
    (Reaped(spawn_with(&mut command, theirs)), ours)
}

/// The command holds the other end of the channel for as long as it lives: afterwards the child alone does.
fn spawn_with(command: &mut Command, theirs: Channel) -> Child {
    let child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().expect("this program again");
    command.stdin(Stdio::null());
    child
}

/// The channel that [`start`] put on this process's standard input.
pub fn inherited() -> Channel {
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().expect("dup");
    let channel = Channel::try_from(stdin).expect("a channel on standard input");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    nix::unistd::dup2_stdin(null).expect("dup2");
    channel
}

/// A process that is killed and reaped when the test is done with it, however that came.
pub struct Reaped(pub Child);

impl Reaped {
    /// How it ended, which it is about to.
    pub fn wait(&mut self) -> ExitStatus {
        within(PATIENCE, &mut self.0)
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a child, and kills it when it takes too long.
pub fn within(patience: Duration, child: &mut Child) -> ExitStatus {
    let late = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("waitpid") {
            return status;
        }
        if Instant::now() > late {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a process was still there after {patience:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Makes SIGPIPE deadly, as it is in a C program: Rust's runtime ignores it.
#[allow(unsafe_code)]
pub fn default_sigpipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action is no function of this process.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.expect("signal");
}

/// This process may open so many descriptors, and no more.
pub fn limit_descriptors(limit: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("setrlimit");
}

//! `[worker]` The verbs.

mod batch;
mod options;
mod told;

pub use batch::Batch;
pub use options::OpenOptions;
pub use told::{Called, DirEntry};

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{self as unix, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{dup2_stdin, pipe2};

use crate::channel::{Channel, Kind, Packet, Wait};
use crate::error::{ChannelError, ClientError};
use crate::policy::Narrowing;
use crate::wire::path::{self, PathError};
use crate::wire::{
    Access, Address, Answer, Ask, Entries, MAX_BATCH, MAX_MESSAGE, MAX_REPLY, Reply, Request, Rights, SocketType, Stat,
};

/// A worker's end of its channel to the broker. Each verb asks for one thing and waits for the answer;
/// [`batch`](Self::batch) asks for many at a time.
///
/// What comes back are std's own types. They own their descriptors, which are close-on-exec, and each is an open of its
/// own with its own offset.
///
/// `Send + Sync`: threads may share it; their requests are served one after the other.
pub struct Client {
    channel: Channel,
    exchange: Mutex<Exchange>,
}

/// The buffers of a request and its reply, and what must not be mixed up between threads.
struct Exchange {
    request: Box<[u8]>,
    reply: Packet,
    last_id: u64,
    /// Something went wrong after which replies and requests might not belong together.
    dead: bool,
}

/// How long [`Client::from_stdin`] waits for the broker's greeting.
const GREETING: Duration = Duration::from_secs(10);

impl Client {
    /// Takes the channel that [`Sandbox`](crate::Sandbox) put on standard input, greets the broker, and puts an empty
    /// pipe in the channel's place: whoever reads standard input later sees its end.
    ///
    /// # Errors
    /// [`ClientError::NoChannel`]: standard input is something else. [`ClientError::Channel`],
    /// [`ClientError::NotABroker`]: nobody who speaks this version of the protocol is at the other end, or said nothing
    /// for 10 seconds. Standard input is then what it was, but a socket has been sent the greeting.
    pub fn from_stdin() -> Result<Self, ClientError> {
        let no_channel = |call| move |source: io::Error| ClientError::NoChannel(ChannelError::Os { call, source });
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(no_channel("fcntl(F_DUPFD_CLOEXEC)"))?;
        let channel = Channel::try_from(stdin).map_err(ClientError::NoChannel)?;
        if channel.kind() != Kind::SeqPacket {
            return Err(ClientError::NoChannel(ChannelError::NotASocket));
        }
        // The socket is this worker's alone: whoever had it before need not be asked.
        channel.set_nonblocking(false).map_err(ClientError::NoChannel)?;
        channel.set_recv_timeout(Some(GREETING)).map_err(ClientError::NoChannel)?;
        let client = Self::new(channel);
        let greeted = client.hello();
        client.channel.set_recv_timeout(None).map_err(ClientError::NoChannel)?;
        greeted?;
        let (nothing, _) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| no_channel("pipe2")(errno.into()))?;
        dup2_stdin(nothing).map_err(|errno| no_channel("dup2")(errno.into()))?;
        Ok(client)
    }

    /// A client over a channel that came in another way. It should be of [`Kind::SeqPacket`] or [`Kind::Stream`]: a
    /// datagram channel does not tell when the broker is gone. Every verb waits for its answer as long as the channel
    /// does; with O_NONBLOCK or a receive timeout an answer that comes too late ends the client.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        let exchange = Exchange {
            request: vec![0; MAX_MESSAGE].into_boxed_slice(),
            reply: Packet::with_capacity(MAX_REPLY),
            last_id: 0,
            dead: false,
        };
        Self { channel, exchange: Mutex::new(exchange) }
    }

    /// Asks whether a broker is there that speaks this version of the protocol.
    ///
    /// # Errors
    /// [`ClientError`]; it is no more to be had from this client then.
    pub fn hello(&self) -> Result<(), ClientError> {
        self.done(Ask::Hello)
    }

    /// Says that this worker has started up and does its work from now on. Whoever started it may wait for that
    /// ([`Service::wait_ready`](crate::Service::wait_ready), [`Supervisor`](crate::Supervisor)). To say it again changes
    /// nothing.
    ///
    /// # Errors
    /// As for [`hello`](Self::hello); EAGAIN, if a limit on this worker is reached. It is not known to be ready then.
    pub fn ready(&self) -> Result<(), ClientError> {
        self.done(Ask::Ready)
    }

    /// Has less from now on: a worker that has read its configuration, or is about to look at what strangers sent,
    /// gives up what it needs no more. There is no way back, and it counts for all threads that share this client.
    /// Descriptors that were got before stay as they are.
    ///
    /// # Errors
    /// As for [`read`](Self::read), with EPERM for one that asks for more than is held, after which nothing has
    /// changed; and one that is too long for a message.
    ///
    /// ```
    /// use fdbroker::policy::Narrowing;
    /// use fdbroker::wire::Right;
    ///
    /// # use fdbroker::{Broker, Channel, Client, Policy, Rule};
    /// # let (here, there) = Channel::pair()?;
    /// # let policy = Policy::builder().allow(Rule::beneath("/etc").read()).build()?;
    /// # let service = Broker::new().serve("worker", here, policy)?;
    /// # let client = Client::new(there);
    /// client.read("/etc/passwd")?;
    /// client.narrow(&Narrowing::nothing().rights(Right::Read).paths(["/etc/services", "/etc/hosts"]))?;
    /// assert!(client.read("/etc/passwd").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn narrow(&self, narrowing: &Narrowing) -> Result<(), ClientError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let narrow = narrowing
            .encode(&mut buffer)
            .map_err(|_| ClientError::Channel { asked: "narrow".into(), source: ChannelError::TooLarge })?;
        self.done(Ask::Narrow(narrow))
    }

    /// Opens an existing file for reading.
    ///
    /// `path` is absolute, with plain components: no `.`, no `..`, no slash at the end.
    ///
    /// # Errors
    /// [`ClientError`]. It converts into the [`io::Error`] that opening the file directly would have given, with EACCES
    /// (or the policy's errno) for what the policy does not allow.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.open(Access::READ, path.as_ref())
    }

    /// Opens an existing file for writing, at offset 0, without truncating it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.open(Access::WRITE, path.as_ref())
    }

    /// Opens an existing file for writing at its end.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn append(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.open(Access::APPEND, path.as_ref())
    }

    /// Creates a file that does not exist yet, open for writing. Its mode is the policy's.
    ///
    /// # Errors
    /// As for [`read`](Self::read); EEXIST when there is anything of that name.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.open(Access::CREATE_NEW, path.as_ref())
    }

    /// Every other way to open a file, in the manner of [`std::fs::OpenOptions`].
    pub fn open_options(&self) -> OpenOptions<'_> {
        OpenOptions::new(self)
    }

    /// A descriptor of a directory: see [`FileRule::directory_escape`](crate::policy::FileRule::directory_escape).
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn directory(&self, path: impl AsRef<Path>) -> Result<OwnedFd, ClientError> {
        self.open(Access::DIRECTORY, path.as_ref()).map(OwnedFd::from)
    }

    /// An unnamed temporary file, open for reading and writing. It is gone when its last descriptor is.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn scratch(&self) -> Result<File, ClientError> {
        self.descriptor(Ask::Scratch).map(File::from)
    }

    /// What a directory holds, but for `.` and `..` and what the policy denies, in no order. A large directory takes
    /// several requests; what changes meanwhile is told or not.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>, ClientError> {
        let path = bytes(path.as_ref(), "list")?;
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let ask = Ask::List { path, from };
            let next = self.told(ask, |data| {
                let entries = Entries::decode(data)?;
                all.extend(entries.iter().map(DirEntry::from));
                Some(entries.next)
            })?;
            match next {
                None => return Ok(all),
                Some(next) if next == from => return Err(not_a_broker(ask, "a list that does not go on")),
                Some(next) => from = next,
            }
        }
    }

    /// What an object is. A symbolic link is not followed.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat, ClientError> {
        self.told(Ask::Stat(bytes(path.as_ref(), "stat")?), Stat::decode)
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// As for [`read`](Self::read); EINVAL for what is no link.
    pub fn readlink(&self, path: impl AsRef<Path>) -> Result<PathBuf, ClientError> {
        let target = |data: &[u8]| Some(OsString::from_vec(data.to_vec()).into());
        self.told(Ask::Readlink(bytes(path.as_ref(), "readlink")?), target)
    }

    /// Creates a directory. Its mode is the policy's.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), ClientError> {
        self.done(Ask::Mkdir(bytes(path.as_ref(), "mkdir")?))
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// As for [`read`](Self::read); EISDIR for a directory.
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<(), ClientError> {
        self.done(Ask::Unlink(bytes(path.as_ref(), "unlink")?))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As for [`read`](Self::read); ENOTEMPTY for one that is not.
    pub fn rmdir(&self, path: impl AsRef<Path>) -> Result<(), ClientError> {
        self.done(Ask::Rmdir(bytes(path.as_ref(), "rmdir")?))
    }

    /// Gives a file another name, in place of the file that has it.
    ///
    /// # Errors
    /// As for [`read`](Self::read); EXDEV from one file system to another.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), ClientError> {
        self.done(Ask::Rename { from: bytes(from.as_ref(), "rename")?, to: bytes(to.as_ref(), "rename")? })
    }

    /// A TCP socket that listens on `address`. For port 0 the kernel chooses: see [`TcpListener::local_addr`].
    ///
    /// # Errors
    /// As for [`read`](Self::read); EADDRINUSE when another socket has the address.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener, ClientError> {
        self.descriptor(Ask::Listen(SocketType::Stream, Address::Ip(address))).map(TcpListener::from)
    }

    /// A UDP socket that is bound to `address`. It receives from everybody and sends to everybody, as far as the
    /// sandbox lets it.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn bind(&self, address: SocketAddr) -> Result<UdpSocket, ClientError> {
        self.descriptor(Ask::Bind(Address::Ip(address))).map(UdpSocket::from)
    }

    /// A TCP socket that is connected to `address`.
    ///
    /// # Errors
    /// As for [`read`](Self::read); ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT and the like when it could not be connected.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream, ClientError> {
        self.descriptor(Ask::Connect(SocketType::Stream, Address::Ip(address))).map(TcpStream::from)
    }

    /// A UDP socket that is connected to `address`. Its holder can send elsewhere too, as far as the sandbox lets it.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn connect_udp(&self, address: SocketAddr) -> Result<UdpSocket, ClientError> {
        self.descriptor(Ask::Connect(SocketType::Datagram, Address::Ip(address))).map(UdpSocket::from)
    }

    /// A TCP socket that is connected to this host, which the broker looks up.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect); ENOENT when there is no such host, EAGAIN when no name server answered.
    pub fn connect_name(&self, host: &str, port: u16) -> Result<TcpStream, ClientError> {
        self.descriptor(Ask::ConnectName { socket: SocketType::Stream, host: host.as_bytes(), port })
            .map(TcpStream::from)
    }

    /// A UDP socket that is connected to this host, which the broker looks up.
    ///
    /// # Errors
    /// As for [`connect_name`](Self::connect_name).
    pub fn connect_name_udp(&self, host: &str, port: u16) -> Result<UdpSocket, ClientError> {
        self.descriptor(Ask::ConnectName { socket: SocketType::Datagram, host: host.as_bytes(), port })
            .map(UdpSocket::from)
    }

    /// A UNIX stream socket that listens at `path`. Its `local_addr()` tells a path of the broker's, which begins with
    /// `/proc/self/fd/` and leads nowhere here.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen). EADDRINUSE when anything is at `path`, also what an earlier run has left
    /// behind; ENAMETOOLONG when its last component does not fit into an address behind `/proc/self/fd/N/` (107 bytes
    /// in all); the reason Limit when 256 paths of this worker's sockets are there.
    pub fn unix_listen(&self, path: impl AsRef<Path>) -> Result<UnixListener, ClientError> {
        let ask = Ask::Listen(SocketType::Stream, Address::Path(bytes(path.as_ref(), "listen")?));
        self.descriptor(ask).map(UnixListener::from)
    }

    /// As [`unix_listen`](Self::unix_listen), for any address: a path or an abstract name.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn unix_listen_addr(&self, address: &unix::SocketAddr) -> Result<UnixListener, ClientError> {
        self.descriptor(Ask::Listen(SocketType::Stream, unix_address(address, "listen")?)).map(UnixListener::from)
    }

    /// A UNIX datagram socket that is bound to `path`.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn unix_bind(&self, path: impl AsRef<Path>) -> Result<UnixDatagram, ClientError> {
        self.descriptor(Ask::Bind(Address::Path(bytes(path.as_ref(), "bind")?))).map(UnixDatagram::from)
    }

    /// As [`unix_bind`](Self::unix_bind), for any address: a path or an abstract name.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn unix_bind_addr(&self, address: &unix::SocketAddr) -> Result<UnixDatagram, ClientError> {
        self.descriptor(Ask::Bind(unix_address(address, "bind")?)).map(UnixDatagram::from)
    }

    /// A UNIX stream socket that is connected to the one at `path`.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn unix_connect(&self, path: impl AsRef<Path>) -> Result<UnixStream, ClientError> {
        let ask = Ask::Connect(SocketType::Stream, Address::Path(bytes(path.as_ref(), "connect")?));
        self.descriptor(ask).map(UnixStream::from)
    }

    /// As [`unix_connect`](Self::unix_connect), for any address (a path or an abstract name) and any type of socket. A
    /// [`Channel`] takes any of them, a [`UnixDatagram`] one of type datagram.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn unix_connect_addr(&self, socket: SocketType, address: &unix::SocketAddr) -> Result<OwnedFd, ClientError> {
        self.descriptor(Ask::Connect(socket, unix_address(address, "connect")?))
    }

    /// Calls a [service of the daemon's own](crate::Broker::service). Its name has 1 to 255 bytes; name and `bytes`
    /// together have room for 65,511, or the error is [`ChannelError::TooLarge`].
    ///
    /// # Errors
    /// As for [`read`](Self::read), with the errno that the service answers; ENOSYS when the policy allows it, but
    /// there is none of this name.
    pub fn call(&self, service: &str, rights: impl Into<Rights>, bytes: &[u8]) -> Result<Called, ClientError> {
        let ask = Ask::Call { service: service.as_bytes(), rights: rights.into(), bytes };
        self.exchange(ask, MAX_BATCH, |answer, fds| match answer {
            Answer::Granted { data, .. } => Ok(Called { bytes: data.to_vec(), fds: fds.collect() }),
            _ => Err("no answer to a call"),
        })
    }

    /// Asks for many things in one message. See [`Batch`].
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    fn open(&self, access: Access, path: &Path) -> Result<File, ClientError> {
        let ask = Ask::Open { access, path: path.as_os_str().as_bytes() };
        path::check(path.as_os_str().as_bytes()).map_err(|source| no_path(ask, source))?;
        self.descriptor(ask).map(File::from)
    }

    fn descriptor(&self, ask: Ask<'_>) -> Result<OwnedFd, ClientError> {
        self.exchange(ask, 1, |answer, fds| match (answer, fds.next()) {
            (Answer::Granted { data: [], .. }, Some(fd)) => Ok(fd),
            _ => Err("a grant without a descriptor"),
        })
    }

    /// A request for something to be told.
    fn told<T>(&self, ask: Ask<'_>, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, ClientError> {
        self.exchange(ask, 0, |answer, _| match answer {
            Answer::Granted { data, .. } => read(data).ok_or("an answer that does not answer"),
            _ => Err("many answers to one request"),
        })
    }

    /// A request for something to be done.
    fn done(&self, ask: Ask<'_>) -> Result<(), ClientError> {
        self.told(ask, |data| data.is_empty().then_some(()))
    }

    /// One request and its reply, which brings at most `budget` descriptors. The request is sent and its reply received
    /// under one lock, so no thread can get the descriptor that another asked for.
    fn exchange<T>(
        &self,
        ask: Ask<'_>,
        budget: usize,
        take: impl FnOnce(Answer<'_>, &mut dyn Iterator<Item = OwnedFd>) -> Result<T, &'static str>,
    ) -> Result<T, ClientError> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.exchange_locked(&mut exchange, ask, budget, take);
        // The descriptors of a reply that was not accepted are closed now, not with the client.
        exchange.reply.clear();
        taken
    }

    fn exchange_locked<T>(
        &self,
        exchange: &mut Exchange,
        ask: Ask<'_>,
        budget: usize,
        take: impl FnOnce(Answer<'_>, &mut dyn Iterator<Item = OwnedFd>) -> Result<T, &'static str>,
    ) -> Result<T, ClientError> {
        let channel_error = |source| ClientError::Channel { asked: ask.to_string(), source };
        if exchange.dead {
            return Err(channel_error(ChannelError::Disconnected));
        }
        let id = exchange.last_id.wrapping_add(1);
        let Exchange { request, reply, dead, .. } = exchange;
        let len = Request { id, ask }.encode(request).map_err(|_| channel_error(ChannelError::TooLarge))?;
        exchange.last_id = id;
        // Until this request has its reply, and that is a sound one.
        *dead = true;
        self.channel.send(&request[..len], &[]).map_err(channel_error)?;
        match self.channel.recv_within(Wait::Socket, budget, reply) {
            Ok(()) => {}
            Err(error @ ChannelError::DescriptorTableFull) => {
                // The reply has been consumed, and its descriptors closed by the kernel.
                *dead = false;
                return Err(channel_error(error));
            }
            Err(ChannelError::TooManyDescriptors { .. }) => {
                return Err(not_a_broker(ask, format_args!("more descriptors than the {budget} that are due at most")));
            }
            Err(error) => return Err(channel_error(error)),
        }
        let came = reply.fds().len();
        let (bytes, mut fds) = reply.parts();
        let decoded = Reply::decode(bytes, came).map_err(|wrong| not_a_broker(ask, wrong))?;
        if decoded.id != id {
            return Err(not_a_broker(ask, "a reply to another request"));
        }
        if let Answer::Refused(refusal) = decoded.answer {
            *dead = false;
            return Err(ClientError::Refused { asked: ask.to_string(), refusal });
        }
        let taken = take(decoded.answer, &mut fds).map_err(|wrong| not_a_broker(ask, wrong))?;
        *dead = false;
        Ok(taken)
    }
}

/// The bytes of a path that has the form of one.
fn bytes<'a>(path: &'a Path, verb: &str) -> Result<&'a [u8], ClientError> {
    let bytes = path.as_os_str().as_bytes();
    let asked = || format!("{verb} {}", bytes.escape_ascii());
    path::check(bytes).map_err(|source| ClientError::Path { asked: asked(), source })?;
    Ok(bytes)
}

fn no_path(ask: Ask<'_>, source: PathError) -> ClientError {
    ClientError::Path { asked: ask.to_string(), source }
}

fn unix_address<'a>(address: &'a unix::SocketAddr, verb: &str) -> Result<Address<'a>, ClientError> {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => Ok(Address::Path(bytes(path, verb)?)),
        (_, Some(name)) if !name.is_empty() => Ok(Address::Abstract(name)),
        // An unnamed address is nobody's; nor can the wire say an abstract name without bytes.
        _ => Err(ClientError::Path { asked: format!("{verb} an unnamed address"), source: PathError::Empty }),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// For polling: a hang-up says that the broker is gone.
impl AsFd for Client {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn not_a_broker(ask: Ask<'_>, what: impl fmt::Display) -> ClientError {
    ClientError::NotABroker { asked: ask.to_string(), what: what.to_string() }
}

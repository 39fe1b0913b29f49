//! `[worker]` The verbs.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{dup2_stdin, pipe2};

use crate::channel::{Channel, Kind, Packet};
use crate::error::{ChannelError, ClientError};
use crate::wire::path::{self, PATH_MAX};
use crate::wire::{Answer, Ask, HEADER_LEN, MAX_REPLY, Reply, Request, Right};

/// A worker's end of its channel to the broker. Each verb asks for one descriptor and waits for the answer.
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
    /// datagram channel does not tell when the broker is gone.
    #[must_use]
    pub fn new(mut channel: Channel) -> Self {
        channel.set_max_fds(1);
        let exchange = Exchange {
            request: vec![0; HEADER_LEN + PATH_MAX].into_boxed_slice(),
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
        self.exchange(Ask::Hello).map(drop)
    }

    /// Opens an existing file for reading.
    ///
    /// `path` is absolute, with plain components: no `.`, no `..`, no slash at the end.
    ///
    /// # Errors
    /// [`ClientError`]. It converts into the [`io::Error`] that opening the file directly would have given, with EACCES
    /// (or the policy's errno) for what the policy does not allow.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.file(Right::Read, path.as_ref())
    }

    /// Opens an existing file for writing, at offset 0, without truncating it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.file(Right::Write, path.as_ref())
    }

    /// Opens an existing file for writing at its end.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn append(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.file(Right::Append, path.as_ref())
    }

    /// Creates a file that does not exist yet, open for writing. Its mode is the policy's.
    ///
    /// # Errors
    /// As for [`read`](Self::read); EEXIST when there is anything of that name.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.file(Right::Create, path.as_ref())
    }

    /// An unnamed temporary file, open for reading and writing. It is gone when its last descriptor is.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn scratch(&self) -> Result<File, ClientError> {
        self.descriptor(Ask::Scratch).map(File::from)
    }

    /// A TCP socket that listens on `address`. For port 0 the kernel chooses: see [`TcpListener::local_addr`].
    ///
    /// # Errors
    /// As for [`read`](Self::read); EADDRINUSE when another socket has the address.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener, ClientError> {
        self.descriptor(Ask::Listen(address)).map(TcpListener::from)
    }

    /// A TCP socket that is connected to `address`.
    ///
    /// # Errors
    /// As for [`read`](Self::read); ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT and the like when it could not be connected.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream, ClientError> {
        self.descriptor(Ask::Connect(address)).map(TcpStream::from)
    }

    fn file(&self, right: Right, path: &Path) -> Result<File, ClientError> {
        let ask = Ask::File { right, path: path.as_os_str().as_bytes() };
        path::check(path.as_os_str().as_bytes())
            .map_err(|source| ClientError::Path { asked: ask.to_string(), source })?;
        self.descriptor(ask).map(File::from)
    }

    fn descriptor(&self, ask: Ask<'_>) -> Result<OwnedFd, ClientError> {
        // `exchange` answers with a descriptor to everything but hello.
        self.exchange(ask)?.ok_or_else(|| not_a_broker(ask, "a grant without a descriptor"))
    }

    /// One request and its reply. The request is sent and its reply received under one lock, so no thread can get the
    /// descriptor that another asked for.
    fn exchange(&self, ask: Ask<'_>) -> Result<Option<OwnedFd>, ClientError> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = self.exchange_locked(&mut exchange, ask);
        // The descriptors of a reply that was not accepted are closed now, not with the client.
        exchange.reply.clear();
        answer
    }

    fn exchange_locked(&self, exchange: &mut Exchange, ask: Ask<'_>) -> Result<Option<OwnedFd>, ClientError> {
        let channel_error = |source| ClientError::Channel { asked: ask.to_string(), source };
        if exchange.dead {
            return Err(channel_error(ChannelError::Disconnected));
        }
        let id = exchange.last_id.wrapping_add(1);
        exchange.last_id = id;
        // Until this request has its reply, and that is a sound one.
        exchange.dead = true;

        let Exchange { request, reply, dead, .. } = exchange;
        let len = Request { id, ask }.encode(request).map_err(|_| channel_error(ChannelError::TooLarge))?;
        self.channel.send(&request[..len], &[]).map_err(channel_error)?;
        match self.channel.recv(reply) {
            Ok(()) => {}
            Err(error @ ChannelError::DescriptorTableFull) => {
                // The reply has been consumed, and its descriptor closed by the kernel.
                *dead = false;
                return Err(channel_error(error));
            }
            Err(error) => return Err(channel_error(error)),
        }
        let decoded = Reply::decode(reply.bytes(), reply.fds().len()).map_err(|wrong| not_a_broker(ask, wrong))?;
        if decoded.id != id {
            return Err(not_a_broker(ask, "a reply to another request"));
        }
        let expected = u16::from(ask != Ask::Hello);
        let granted = match decoded.answer {
            Answer::Granted { descriptors } if descriptors != expected => {
                return Err(not_a_broker(ask, format_args!("{descriptors} descriptors where {expected} was due")));
            }
            Answer::Granted { .. } => Ok(reply.take_fds().next()),
            Answer::Refused(refusal) => Err(ClientError::Refused { asked: ask.to_string(), refusal }),
        };
        *dead = false;
        granted
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

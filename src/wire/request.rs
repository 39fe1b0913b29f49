//! `[both]` What a worker asks.

use std::fmt;

use super::batch::put_item;
use super::{
    ABSTRACT_MAX, Access, Address, Batch, Frame, Malformed, Narrow, Reader, Right, Rights, SocketType, TooLong,
};

/// One request as it stands on the wire. Decoding says that it is well-formed; whether it is allowed, and whether
/// the path has the right form, is for the policy to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the worker; the reply repeats it.
    pub id: u64,
    /// What is asked.
    pub ask: Ask<'a>,
}

/// What is asked: a verb and what it is about. Paths and names are bytes from the worker, not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask<'a> {
    /// Is a broker there, and does it speak this version?
    Hello,
    /// Have less from now on.
    Narrow(Narrow<'a>),
    /// Know that the worker has started up.
    Ready,
    /// Open or create the file at `path`.
    Open {
        /// How.
        access: Access,
        /// Which.
        path: &'a [u8],
    },
    /// An unnamed temporary file.
    Scratch,
    /// What the directory at `path` holds.
    List {
        /// Which.
        path: &'a [u8],
        /// Where to go on: 0, or what the reply before said.
        from: u64,
    },
    /// What the object at `path` is.
    Stat(&'a [u8]),
    /// Where the symbolic link at `path` points.
    Readlink(&'a [u8]),
    /// A new directory at `path`.
    Mkdir(&'a [u8]),
    /// Remove the name `path` of anything but a directory.
    Unlink(&'a [u8]),
    /// Remove the empty directory at `path`.
    Rmdir(&'a [u8]),
    /// Give what is at `from` the name `to`, in place of what has that name.
    Rename {
        /// The old name.
        from: &'a [u8],
        /// The new name.
        to: &'a [u8],
    },
    /// A socket that listens on this address.
    Listen(SocketType, Address<'a>),
    /// A datagram socket that is bound to this address.
    Bind(Address<'a>),
    /// A socket that is connected to this address.
    Connect(SocketType, Address<'a>),
    /// A socket that is connected to an address of this host, which the broker looks up.
    ConnectName {
        /// [`SocketType::Stream`] for TCP, [`SocketType::Datagram`] for UDP.
        socket: SocketType,
        /// The host's name.
        host: &'a [u8],
        /// The port.
        port: u16,
    },
    /// Call a service of the daemon's own.
    Call {
        /// Its name.
        service: &'a [u8],
        /// What is asked of it.
        rights: Rights,
        /// What is said to it.
        bytes: &'a [u8],
    },
    /// Many requests in one message.
    Batch(Batch<'a>),
}

impl Ask<'_> {
    /// The verb's word.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Narrow(_) => "narrow",
            Self::Ready => "ready",
            Self::Open { .. } => "open",
            Self::Scratch => "scratch",
            Self::List { .. } => "list",
            Self::Stat(_) => "stat",
            Self::Readlink(_) => "readlink",
            Self::Mkdir(_) => "mkdir",
            Self::Unlink(_) => "unlink",
            Self::Rmdir(_) => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Listen(..) => "listen",
            Self::Bind(_) => "bind",
            Self::Connect(..) | Self::ConnectName { .. } => "connect",
            Self::Call { .. } => "call",
            Self::Batch(_) => "batch",
        }
    }

    /// The rights that a rule must grant for it. Of what no rule decides (hello, narrow, ready, a batch) none.
    ///
    /// # Errors
    /// It asks for what cannot be had, by any rule: the message says why.
    pub fn needs(&self) -> Result<Rights, &'static str> {
        Ok(match self {
            Self::Hello | Self::Narrow(_) | Self::Ready | Self::Batch(_) => Rights::NONE,
            Self::Open { access, .. } => access.needs()?,
            Self::Scratch => Right::Scratch.into(),
            Self::List { .. } => Right::List.into(),
            Self::Stat(_) => Right::Stat.into(),
            Self::Readlink(_) => Right::Readlink.into(),
            Self::Mkdir(_) => Right::Mkdir.into(),
            Self::Unlink(_) => Right::Unlink.into(),
            Self::Rmdir(_) => Right::Rmdir.into(),
            Self::Rename { .. } => Right::Rename.into(),
            Self::Listen(SocketType::Datagram, _) => return Err("datagram sockets do not listen: bind one"),
            Self::Listen(SocketType::SeqPacket, Address::Ip(_))
            | Self::Connect(SocketType::SeqPacket, Address::Ip(_))
            | Self::ConnectName { socket: SocketType::SeqPacket, .. } => {
                return Err("there are no seqpacket sockets over IP: ask for a stream or for datagrams");
            }
            Self::Listen(..) => Right::Listen.into(),
            Self::Bind(_) => Right::Bind.into(),
            Self::Connect(..) | Self::ConnectName { .. } => Right::Connect.into(),
            Self::Call { rights, .. } => rights.with(Right::Call),
        })
    }

    /// Whether a grant brings a descriptor. A call may bring some.
    #[must_use]
    pub const fn brings_descriptor(&self) -> bool {
        matches!(
            self,
            Self::Open { .. }
                | Self::Scratch
                | Self::Listen(..)
                | Self::Bind(_)
                | Self::Connect(..)
                | Self::ConnectName { .. }
        )
    }

    pub(super) const fn stands_in_a_batch(&self) -> bool {
        !matches!(self, Self::Hello | Self::Narrow(_) | Self::Ready | Self::Call { .. } | Self::Batch(_))
    }
}

/// The verb and its object, on one line: bytes that are not printable ASCII are escaped.
impl fmt::Display for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As the plain verbs say it: `read /path`, `create /path`.
            Self::Open { access, path } => return write!(f, "{access} {}", path.escape_ascii()),
            _ => f.write_str(self.verb())?,
        }
        match self {
            Self::Hello | Self::Ready | Self::Scratch | Self::Open { .. } => Ok(()),
            Self::Narrow(narrow) => narrow.fmt(f),
            Self::List { path, .. }
            | Self::Stat(path)
            | Self::Readlink(path)
            | Self::Mkdir(path)
            | Self::Unlink(path)
            | Self::Rmdir(path) => write!(f, " {}", path.escape_ascii()),
            Self::Rename { from, to } => write!(f, " {} to {}", from.escape_ascii(), to.escape_ascii()),
            Self::Listen(socket, address) | Self::Connect(socket, address) => match (socket, address) {
                (SocketType::Stream, Address::Ip(_)) => write!(f, " {address}"),
                _ => write!(f, " {socket} {address}"),
            },
            Self::Bind(address) => write!(f, " {address}"),
            Self::ConnectName { socket: SocketType::Stream, host, port } => {
                write!(f, " {}:{port}", host.escape_ascii())
            }
            Self::ConnectName { socket, host, port } => write!(f, " {socket} {}:{port}", host.escape_ascii()),
            Self::Call { service, .. } => write!(f, " {}", service.escape_ascii()),
            Self::Batch(batch) => write!(f, " of {}", batch.len()),
        }
    }
}

mod verb {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const NARROW: u8 = 0x02;
    pub(super) const READY: u8 = 0x03;
    pub(super) const OPEN: u8 = 0x10;
    pub(super) const SCRATCH: u8 = 0x11;
    pub(super) const LIST: u8 = 0x12;
    pub(super) const STAT: u8 = 0x13;
    pub(super) const READLINK: u8 = 0x14;
    pub(super) const MKDIR: u8 = 0x15;
    pub(super) const UNLINK: u8 = 0x16;
    pub(super) const RMDIR: u8 = 0x17;
    pub(super) const RENAME: u8 = 0x18;
    pub(super) const LISTEN: u8 = 0x20;
    pub(super) const BIND: u8 = 0x21;
    pub(super) const CONNECT: u8 = 0x22;
    pub(super) const CONNECT_NAME: u8 = 0x23;
    pub(super) const CALL: u8 = 0x30;
    pub(in crate::wire) const BATCH: u8 = 0x40;
}
pub(super) use verb::BATCH;

impl<'a> Request<'a> {
    /// Reads one message, which came with `descriptors` descriptors.
    ///
    /// # Errors
    /// [`Malformed`]; only [`Malformed::UnknownVerb`] deserves an answer.
    pub fn decode(bytes: &'a [u8], descriptors: usize) -> Result<Self, Malformed> {
        let Frame { verb, id, descriptors: count, body } = Frame::decode(bytes, descriptors)?;
        if count != 0 {
            return Err(Malformed::Descriptors { declared: count, actual: descriptors });
        }
        match decode_body(verb, body) {
            Some(Ok(ask)) => Ok(Self { id, ask }),
            Some(Err(BadBody)) => Err(Malformed::Body(verb)),
            None => Err(Malformed::UnknownVerb { id, verb }),
        }
    }

    /// Puts the message into `buffer` and answers its length.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit, or when a name in it is empty or longer than the wire takes: a service's has 1
    /// to 255 bytes, an abstract socket's 1 to [`ABSTRACT_MAX`].
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        self.ask.encode_body(|verb, parts| Frame::encode(verb, self.id, 0, parts, buffer))
    }
}

/// The body is not in the form that its verb wants.
pub(super) struct BadBody;

/// `None`: the verb is not known here.
pub(super) fn decode_body(verb: u8, body: &[u8]) -> Option<Result<Ask<'_>, BadBody>> {
    let empty = |ask| body.is_empty().then_some(ask);
    let mut reader = Reader::new(body);
    let ask = match verb {
        verb::HELLO => empty(Ask::Hello),
        verb::NARROW => Narrow::decode(body).map(Ask::Narrow),
        verb::READY => empty(Ask::Ready),
        verb::OPEN => reader.u16().map(|bits| Ask::Open { access: Access::from_bits(bits), path: reader.rest() }),
        verb::SCRATCH => empty(Ask::Scratch),
        verb::LIST => reader.u64().map(|from| Ask::List { path: reader.rest(), from }),
        verb::STAT => Some(Ask::Stat(body)),
        verb::READLINK => Some(Ask::Readlink(body)),
        verb::MKDIR => Some(Ask::Mkdir(body)),
        verb::UNLINK => Some(Ask::Unlink(body)),
        verb::RMDIR => Some(Ask::Rmdir(body)),
        verb::RENAME => reader.u16().and_then(|len| {
            let (from, to) = reader.rest().split_at_checked(len.into())?;
            Some(Ask::Rename { from, to })
        }),
        verb::LISTEN => Address::decode(body).map(|(socket, address)| Ask::Listen(socket, address)),
        verb::BIND => Address::decode(body)
            .and_then(|(socket, address)| (socket == SocketType::Datagram).then_some(Ask::Bind(address))),
        verb::CONNECT => Address::decode(body).map(|(socket, address)| Ask::Connect(socket, address)),
        verb::CONNECT_NAME => connect_name(reader),
        verb::CALL => call(reader),
        verb::BATCH => Batch::decode(body).map(Ask::Batch),
        _ => return None,
    };
    Some(ask.ok_or(BadBody))
}

fn connect_name(mut reader: Reader<'_>) -> Option<Ask<'_>> {
    let (socket, reserved, port) = (SocketType::from_code(reader.u8()?)?, reader.u8()?, reader.u16()?);
    (reserved == 0).then_some(Ask::ConnectName { socket, host: reader.rest(), port })
}

fn call(mut reader: Reader<'_>) -> Option<Ask<'_>> {
    let (rights, len) = (Rights::from_bits(reader.u32()?)?, reader.u8()?);
    let (service, bytes) = reader.rest().split_at_checked(len.into())?;
    (!service.is_empty()).then_some(Ask::Call { service, rights, bytes })
}

impl Ask<'_> {
    /// As an item of a batch.
    pub(super) fn encode_item(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        if !self.stands_in_a_batch() {
            return Err(TooLong);
        }
        self.encode_body(|verb, parts| put_item(buffer, verb, 0, parts))
    }

    /// Gives `put` the verb and the parts of the body.
    fn encode_body(&self, put: impl FnOnce(u8, &[&[u8]]) -> Result<usize, TooLong>) -> Result<usize, TooLong> {
        match *self {
            Self::Hello => put(verb::HELLO, &[]),
            Self::Narrow(narrow) => put(verb::NARROW, &[narrow.bytes()]),
            Self::Ready => put(verb::READY, &[]),
            Self::Open { access, path } => put(verb::OPEN, &[&access.bits().to_le_bytes(), path]),
            Self::Scratch => put(verb::SCRATCH, &[]),
            Self::List { path, from } => put(verb::LIST, &[&from.to_le_bytes(), path]),
            Self::Stat(path) => put(verb::STAT, &[path]),
            Self::Readlink(path) => put(verb::READLINK, &[path]),
            Self::Mkdir(path) => put(verb::MKDIR, &[path]),
            Self::Unlink(path) => put(verb::UNLINK, &[path]),
            Self::Rmdir(path) => put(verb::RMDIR, &[path]),
            Self::Rename { from, to } => {
                let len = u16::try_from(from.len()).map_err(|_| TooLong)?;
                put(verb::RENAME, &[&len.to_le_bytes(), from, to])
            }
            Self::Listen(socket, address) => put_address(verb::LISTEN, socket, address, put),
            Self::Bind(address) => put_address(verb::BIND, SocketType::Datagram, address, put),
            Self::Connect(socket, address) => put_address(verb::CONNECT, socket, address, put),
            Self::ConnectName { socket, host, port } => {
                put(verb::CONNECT_NAME, &[&[socket.code(), 0], &port.to_le_bytes(), host])
            }
            Self::Call { service, rights, bytes } => {
                let len = u8::try_from(service.len()).ok().filter(|len| *len > 0).ok_or(TooLong)?;
                put(verb::CALL, &[&rights.bits().to_le_bytes(), &[len], service, bytes])
            }
            Self::Batch(batch) => put(verb::BATCH, &[batch.bytes()]),
        }
    }
}

fn put_address(
    verb: u8,
    socket: SocketType,
    address: Address<'_>,
    put: impl FnOnce(u8, &[&[u8]]) -> Result<usize, TooLong>,
) -> Result<usize, TooLong> {
    if matches!(address, Address::Abstract(name) if !(1..=ABSTRACT_MAX).contains(&name.len())) {
        return Err(TooLong);
    }
    let (fixed, rest) = address.encode(socket);
    put(verb, &[fixed.bytes(), rest])
}

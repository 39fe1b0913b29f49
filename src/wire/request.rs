//! `[both]` What a worker asks.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{Frame, Malformed, Reader, TooLong};

/// What a descriptor of a file is good for. The same words stand in the policy, on the wire and in the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Right {
    /// Open an existing file for reading.
    Read,
    /// Open an existing file for writing. It is not truncated.
    Write,
    /// Open an existing file for writing at its end.
    Append,
    /// Create a file that does not exist, open for writing.
    Create,
}

impl Right {
    /// Every right, in the order of their verbs.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Append, Self::Create];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Append => "append",
            Self::Create => "create",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One request as it stands on the wire. Decoding says that it is well-formed; whether it is allowed, and whether
/// the path has the right form, is for the policy to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the worker; the reply repeats it.
    pub id: u64,
    /// What is asked.
    pub ask: Ask<'a>,
}

/// What is asked: a verb and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask<'a> {
    /// Is a broker there, and does it speak this version?
    Hello,
    /// Open or create the file at `path`.
    File {
        /// What for.
        right: Right,
        /// Bytes from the worker, not checked yet.
        path: &'a [u8],
    },
    /// An unnamed temporary file.
    Scratch,
    /// A TCP socket that listens on this address.
    Listen(SocketAddr),
    /// A TCP socket that is connected to this address.
    Connect(SocketAddr),
}

impl Ask<'_> {
    /// The verb's word.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::File { right, .. } => right.name(),
            Self::Scratch => "scratch",
            Self::Listen(_) => "listen",
            Self::Connect(_) => "connect",
        }
    }
}

/// The verb and its object. Bytes of a path that are not printable ASCII are escaped, so that a line stays a line.
impl fmt::Display for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        match self {
            Self::Hello | Self::Scratch => Ok(()),
            Self::File { path, .. } => write!(f, " {}", path.escape_ascii()),
            Self::Listen(address) | Self::Connect(address) => write!(f, " {address}"),
        }
    }
}

mod verb {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const READ: u8 = 0x10;
    pub(super) const WRITE: u8 = 0x11;
    pub(super) const APPEND: u8 = 0x12;
    pub(super) const CREATE: u8 = 0x13;
    pub(super) const SCRATCH: u8 = 0x14;
    pub(super) const LISTEN: u8 = 0x20;
    pub(super) const CONNECT: u8 = 0x21;
}

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
        let file = |right| Some(Ask::File { right, path: body });
        let empty = |ask| body.is_empty().then_some(ask);
        let ask = match verb {
            verb::HELLO => empty(Ask::Hello),
            verb::READ => file(Right::Read),
            verb::WRITE => file(Right::Write),
            verb::APPEND => file(Right::Append),
            verb::CREATE => file(Right::Create),
            verb::SCRATCH => empty(Ask::Scratch),
            verb::LISTEN => Address::decode(body).map(Ask::Listen),
            verb::CONNECT => Address::decode(body).map(Ask::Connect),
            _ => return Err(Malformed::UnknownVerb { id, verb }),
        };
        Ok(Self { id, ask: ask.ok_or(Malformed::Body(verb))? })
    }

    /// Puts the message into `buffer` and answers its length.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        let mut put = |verb, body: &[u8]| Frame::encode(verb, self.id, 0, &[body], buffer);
        match self.ask {
            Ask::Hello => put(verb::HELLO, &[]),
            Ask::File { right: Right::Read, path } => put(verb::READ, path),
            Ask::File { right: Right::Write, path } => put(verb::WRITE, path),
            Ask::File { right: Right::Append, path } => put(verb::APPEND, path),
            Ask::File { right: Right::Create, path } => put(verb::CREATE, path),
            Ask::Scratch => put(verb::SCRATCH, &[]),
            Ask::Listen(address) => put(verb::LISTEN, Address::new(address).bytes()),
            Ask::Connect(address) => put(verb::CONNECT, Address::new(address).bytes()),
        }
    }
}

/// A socket address as it stands on the wire.
struct Address {
    bytes: [u8; 24],
    len: usize,
}

impl Address {
    fn new(address: SocketAddr) -> Self {
        let mut bytes = [0; 24];
        bytes[2..4].copy_from_slice(&address.port().to_le_bytes());
        let len = match address {
            SocketAddr::V4(v4) => {
                bytes[0] = 4;
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                8
            }
            SocketAddr::V6(v6) => {
                bytes[0] = 6;
                bytes[4..20].copy_from_slice(&v6.ip().octets());
                bytes[20..24].copy_from_slice(&v6.scope_id().to_le_bytes());
                24
            }
        };
        Self { bytes, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn decode(body: &[u8]) -> Option<SocketAddr> {
        let mut reader = Reader::new(body);
        let (family, reserved, port) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let address = match family {
            4 => SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(reader.array::<4>()?), port)),
            6 => {
                let (ip, scope) = (Ipv6Addr::from(reader.array::<16>()?), reader.u32()?);
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope))
            }
            _ => return None,
        };
        reader.end()?;
        (reserved == 0).then_some(address)
    }
}

//! `[both]` A socket's type and address as they stand on the wire.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{Reader, SocketType};

/// The longest name of an abstract UNIX socket: `sun_path` less the byte that makes it abstract (unix(7)).
pub const ABSTRACT_MAX: usize = 107;

/// Where a socket listens, is bound, or is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address<'a> {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A UNIX socket in the file system. Bytes from the worker, not checked yet.
    Path(&'a [u8]),
    /// A UNIX socket in the abstract namespace, without the leading NUL: 1 to [`ABSTRACT_MAX`] bytes.
    Abstract(&'a [u8]),
}

/// An IP address as it is; a path or a name escaped, with an `@` before an abstract one.
impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Path(path) => write!(f, "{}", path.escape_ascii()),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

const UNIX: u8 = 1;
const ABSTRACT: u8 = 2;
const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// The fixed part; a path or a name follows it.
pub(super) struct Fixed {
    bytes: [u8; 24],
    len: usize,
}

impl Fixed {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<'a> Address<'a> {
    /// The fixed part, and what follows it.
    pub(super) fn encode(self, socket: SocketType) -> (Fixed, &'a [u8]) {
        let mut bytes = [0; 24];
        bytes[1] = socket.code();
        let (family, len, rest): (_, _, &[u8]) = match self {
            Self::Path(path) => (UNIX, 4, path),
            Self::Abstract(name) => (ABSTRACT, 4, name),
            Self::Ip(SocketAddr::V4(v4)) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                (IPV4, 8, &[])
            }
            Self::Ip(SocketAddr::V6(v6)) => {
                bytes[4..20].copy_from_slice(&v6.ip().octets());
                bytes[20..24].copy_from_slice(&v6.scope_id().to_le_bytes());
                (IPV6, 24, &[])
            }
        };
        if let Self::Ip(address) = self {
            bytes[2..4].copy_from_slice(&address.port().to_le_bytes());
        }
        bytes[0] = family;
        (Fixed { bytes, len }, rest)
    }

    pub(super) fn decode(body: &'a [u8]) -> Option<(SocketType, Self)> {
        let mut reader = Reader::new(body);
        let (family, socket, port) = (reader.u8()?, SocketType::from_code(reader.u8()?)?, reader.u16()?);
        let address = match family {
            UNIX if port == 0 => return Some((socket, Self::Path(reader.rest()))),
            ABSTRACT if port == 0 => {
                let name = reader.rest();
                return (1..=ABSTRACT_MAX).contains(&name.len()).then_some((socket, Self::Abstract(name)));
            }
            IPV4 => SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(reader.array::<4>()?), port)),
            IPV6 => {
                let (ip, scope) = (Ipv6Addr::from(reader.array::<16>()?), reader.u32()?);
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope))
            }
            _ => return None,
        };
        reader.end()?;
        Some((socket, Self::Ip(address)))
    }
}

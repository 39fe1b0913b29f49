//! `[both]` The types of socket that are granted.

use std::fmt;
use std::str::FromStr;

/// The type of a socket (socket(2)). Its numbers on the wire are the same on every architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketType {
    /// 1: a stream of bytes. Over IP: TCP.
    Stream,
    /// 2: datagrams. Over IP: UDP.
    Datagram,
    /// 5: messages in sequence. UNIX sockets only.
    SeqPacket,
}

impl SocketType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Datagram, Self::SeqPacket];

    /// Its number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::SeqPacket => 5,
        }
    }

    /// From the number on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|socket| socket.code() == code)
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Datagram => "datagram",
            Self::SeqPacket => "seqpacket",
        }
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The word is no type of socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no type of socket: it is stream, datagram or seqpacket")]
pub struct UnknownSocketType(pub String);

impl FromStr for SocketType {
    type Err = UnknownSocketType;

    fn from_str(word: &str) -> Result<Self, UnknownSocketType> {
        Self::ALL.into_iter().find(|socket| socket.name() == word).ok_or_else(|| UnknownSocketType(word.into()))
    }
}

//! `[both]` The wire format: bytes to values and back. No I/O, no allocation, total on every input.
//!
//! One message is one packet of the channel. A worker sends requests, the broker sends replies. All numbers are
//! little-endian. A worker in another language needs nothing but these tables and a way to receive descriptors.
//!
//! # Header (every message, 20 bytes)
//!
//! | offset | size | field | value |
//! |-------:|-----:|-------|-------|
//! | 0  | 2 | magic | bytes `f` `b` ([`MAGIC`]) |
//! | 2  | 1 | version | [`VERSION`] |
//! | 3  | 1 | verb | a request's below 0x80, a reply's from 0x80 |
//! | 4  | 8 | request id | chosen by the worker; the reply repeats it |
//! | 12 | 4 | body length | bytes after the header, exactly |
//! | 16 | 2 | descriptor count | descriptors that ride on this message, exactly |
//! | 18 | 2 | flags | reserved: 0, or the message is malformed |
//!
//! A request is at most [`MAX_MESSAGE`] bytes with its header, a reply at most [`MAX_REPLY`].
//!
//! # Requests
//!
//! | verb | name | body | granted with |
//! |-----:|------|------|--------------|
//! | 0x01 | hello | empty | nothing |
//! | 0x02 | narrow | sections, each of another kind, in the order of their tags; there may be none | nothing |
//! | 0x03 | ready | empty | nothing |
//! | 0x10 | open | u16 [access](Access), then a path to the end of the body | a file; with bit 0x80, a directory |
//! | 0x11 | scratch | empty | an unnamed temporary file, open for reading and writing |
//! | 0x12 | list | u64 where to go on, 0 at first, then a path | [data](Entries): a part of the directory |
//! | 0x13 | stat | path | [data](Stat), 56 bytes |
//! | 0x14 | readlink | path | data: the link's target |
//! | 0x15 | mkdir | path | nothing |
//! | 0x16 | unlink | path | nothing |
//! | 0x17 | rmdir | path | nothing |
//! | 0x18 | rename | u16 length of the old path, the old path, the new path | nothing |
//! | 0x20 | listen | socket address | a listening socket |
//! | 0x21 | bind | socket address, of type 2 | a bound datagram socket |
//! | 0x22 | connect | socket address | a connected socket |
//! | 0x23 | connect name | u8 socket type, u8 0, u16 port, then the host's name | a connected socket |
//! | 0x30 | call | u32 [rights](Rights), u8 length of the name, the name, then any bytes | what the service gives |
//! | 0x40 | batch | 1 to 253 items | an answer to each |
//!
//! A request carries no descriptors. A path is bytes, not text, and has no terminator; its form is [`path`]'s.
//! A request with a verb that is not in the table is answered (reason 5) and the channel lives.
//!
//! # Socket address
//!
//! | offset | size | field | value |
//! |-------:|-----:|-------|-------|
//! | 0 | 1 | family | 4, 6, 1 (a UNIX socket's path) or 2 (an abstract UNIX name) |
//! | 1 | 1 | socket type | 1 stream, 2 datagram, 5 seqpacket ([`SocketType`]) |
//! | 2 | 2 | port | 0 for families 1 and 2 |
//! | 4 | 4 or 16 | address | families 4 and 6: in network order, as written |
//! | 20 | 4 | scope id | family 6 only |
//! | 4 | to the end | path or name | families 1 and 2: as in other requests; a name of 1 to 107 bytes, without its NUL |
//!
//! # Section of a narrowing
//!
//! | offset | size | field | value |
//! |-------:|-----:|-------|-------|
//! | 0 | 1 | tag | what is narrowed: one of the next table |
//! | 1 | 1 | reserved | 0 |
//! | 2 | 2 | length | bytes of all items |
//! | 4 | length | items | all that is kept of this kind |
//!
//! | tag | kept | items |
//! |----:|------|-------|
//! | 1 | rights | u32 [rights](Rights), one time |
//! | 2 | paths | names: each is kept with everything beneath it |
//! | 3 | where sockets are connected to | networks |
//! | 4 | where sockets listen or are bound | networks |
//! | 5 | hosts, of connections by name | names |
//! | 6 | abstract UNIX names | names |
//! | 7 | services | names |
//!
//! A name is its length (u16) and its bytes. A network has, at most [256](MAX_NETWORKS) times in a section:
//!
//! | offset | size | field | value |
//! |-------:|-----:|-------|-------|
//! | 0 | 1 | family | 4 or 6 |
//! | 1 | 1 | prefix length | 0 to 32, or to 128 |
//! | 2 | 2 | first port | |
//! | 4 | 2 | last port | not below the first |
//! | 6 | 4 or 16 | address | in network order, as written; no bits beyond the prefix, and not IPv4 in IPv6 form |
//!
//! A kind without a section is left as it was; a section without items (rights: 0) leaves nothing of its kind. What
//! asks for more than is held is refused (reason 7, EPERM), and nothing changes.
//!
//! # Item of a batch
//!
//! | offset | size | field | value |
//! |-------:|-----:|-------|-------|
//! | 0 | 1 | verb | a request's, but for hello, narrow, ready, call and batch |
//! | 1 | 1 | reserved | 0 |
//! | 2 | 2 | body length | |
//! | 4 | body length | body | the verb's |
//!
//! # Replies
//!
//! | verb | name | body | descriptors |
//! |-----:|------|------|-------------|
//! | 0x80 | granted | data, empty where none is asked for | 1 for a request for a descriptor; a call's as its service says; otherwise 0 |
//! | 0x81 | refused | refusal | 0 |
//! | 0x82 | batch | items, one for each request, in order | those of all items, in order |
//!
//! An item of a reply has the verb (0x80 or 0x81), the number of its descriptors (u8), the length of its body (u16),
//! and the body. What a batch asks to know beyond the size of a reply is refused (reason 8, EAGAIN).
//!
//! # Refusal (8 bytes)
//!
//! | offset | size | field | value |
//! |-------:|-----:|-------|-------|
//! | 0 | 2 | reason | see [`Reason`] |
//! | 2 | 2 | reserved | 0 |
//! | 4 | 4 | errno | Linux error number, 1 to 4095 |
//!
//! # Malformed
//!
//! Anything else is malformed: a wrong magic or version, a length or descriptor count that is not the packet's, a
//! reserved bit, a verb's body in another form. The broker closes the channel on it; the client uses it no more.

pub mod path;

mod access;
mod address;
mod batch;
mod cursor;
mod data;
pub(crate) mod host;
mod narrow;
pub(crate) mod network;
mod reply;
mod request;
mod right;
mod socket_type;

pub use access::Access;
pub use address::{ABSTRACT_MAX, Address};
pub use batch::{Answers, AnswersWriter, Batch};
pub use data::{Entries, EntriesWriter, Entry, Stat};
pub use narrow::{MAX_NETWORKS, Narrow};
pub(crate) use narrow::{NarrowWriter, section};
pub use network::{Network, NetworkError, Ports, PortsError};
pub use reply::{Answer, Reason, Refusal, Reply};
pub use request::{Ask, Request};
pub use right::{Right, Rights, UnknownRight};
pub use socket_type::{SocketType, UnknownSocketType};

use cursor::{Reader, Writer};

/// The first two bytes of every message, as a little-endian number.
pub const MAGIC: u16 = u16::from_le_bytes(*b"fb");
/// The version of the format in this crate.
pub const VERSION: u8 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 20;
/// Bytes of the largest message, header included.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes of the largest reply, header included: a buffer of this size holds any.
pub const MAX_REPLY: usize = 16 * 1024;
/// Requests in one batch, and so descriptors on one reply, at most: the kernel's SCM_MAX_FD.
pub const MAX_BATCH: usize = 253;

/// Why received bytes are not a message. Only [`Malformed::UnknownVerb`] is answered; everything else ends the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer bytes than a header.
    #[error("{0} bytes are fewer than the header's 20")]
    Short(usize),
    /// The first two bytes are not [`MAGIC`].
    #[error("magic 0x{0:04x} is not fdbroker's")]
    Magic(u16),
    /// A version that this crate does not speak.
    #[error("version {0} of the wire is not known here (this is version 1)")]
    Version(u8),
    /// More bytes than [`MAX_MESSAGE`], or for a reply than [`MAX_REPLY`].
    #[error("the message is over 65536 bytes, or the reply over 16384")]
    Oversize,
    /// The body length in the header is not what follows the header.
    #[error("the header says {declared} bytes of body, {actual} came")]
    Length {
        /// What the header says.
        declared: u32,
        /// What came after the header.
        actual: usize,
    },
    /// The descriptor count in the header is not the number that came, or not what the verb carries.
    #[error("the header says {declared} descriptors, {actual} came")]
    Descriptors {
        /// What the header says.
        declared: u16,
        /// How many came.
        actual: usize,
    },
    /// A reserved bit is set.
    #[error("a reserved bit is set")]
    Reserved,
    /// The body is not in the form that the verb wants.
    #[error("the body of verb 0x{0:02x} is malformed")]
    Body(u8),
    /// A well-formed request with a verb that is not in the table.
    #[error("verb 0x{verb:02x} is not known here")]
    UnknownVerb {
        /// The request to answer.
        id: u64,
        /// Its verb.
        verb: u8,
    },
}

/// The buffer given to an `encode` is too small, the message would be over [`MAX_MESSAGE`] (a reply, [`MAX_REPLY`]), or
/// a part of it has a length or a number that the wire does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not fit: a request has at most 65536 bytes, a reply 16384, and each name at least one")]
pub struct TooLong;

/// The checked header of one message, and its body.
struct Frame<'a> {
    verb: u8,
    id: u64,
    descriptors: u16,
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks everything that does not depend on the verb. `descriptors` is the number that came with the bytes.
    fn decode(bytes: &'a [u8], descriptors: usize) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut header = || {
            Some((
                reader.u16()?,
                reader.u8()?,
                reader.u8()?,
                reader.u64()?,
                reader.u32()?,
                reader.u16()?,
                reader.u16()?,
            ))
        };
        let (magic, version, verb, id, length, count, flags) = header().ok_or(Malformed::Short(bytes.len()))?;
        let body = reader.rest();
        if magic != MAGIC {
            return Err(Malformed::Magic(magic));
        }
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        if bytes.len() > MAX_MESSAGE {
            return Err(Malformed::Oversize);
        }
        if u32::try_from(body.len()) != Ok(length) {
            return Err(Malformed::Length { declared: length, actual: body.len() });
        }
        if usize::from(count) != descriptors {
            return Err(Malformed::Descriptors { declared: count, actual: descriptors });
        }
        if flags != 0 {
            return Err(Malformed::Reserved);
        }
        Ok(Self { verb, id, descriptors: count, body })
    }

    /// Puts header and body into `buffer`, the body in `parts`. Answers the length of the message.
    fn encode(verb: u8, id: u64, descriptors: u16, parts: &[&[u8]], buffer: &mut [u8]) -> Result<usize, TooLong> {
        let body: usize = parts.iter().map(|part| part.len()).sum();
        if body > MAX_MESSAGE - HEADER_LEN {
            return Err(TooLong);
        }
        let body = u32::try_from(body).map_err(|_| TooLong)?;
        let mut writer = Writer::new(buffer);
        writer.put(&MAGIC.to_le_bytes());
        writer.put(&[VERSION, verb]);
        writer.put(&id.to_le_bytes());
        writer.put(&body.to_le_bytes());
        writer.put(&descriptors.to_le_bytes());
        writer.put(&0u16.to_le_bytes());
        for part in parts {
            writer.put(part);
        }
        writer.len().ok_or(TooLong)
    }
}

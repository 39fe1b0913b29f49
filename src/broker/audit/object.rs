//! `[broker]` What a request is about, part by part, as the audit shows it: escaped, and never longer than what can
//! exist.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use crate::wire::path::PATH_MAX;
use crate::wire::{Access, Address, Ask, Reason, Rights, SocketType};

/// A request in parts. What does not apply to its verb is `None`.
#[derive(Default)]
pub(super) struct About<'a> {
    pub(super) object: Option<Object<'a>>,
    /// The new name.
    pub(super) to: Option<Object<'a>>,
    pub(super) access: Option<Access>,
    pub(super) socket: Option<SocketType>,
    pub(super) family: Option<&'static str>,
    pub(super) from: Option<u64>,
    pub(super) rights: Option<Rights>,
    /// How much is said to a service. What is said may be a secret.
    pub(super) bytes: Option<usize>,
}

impl<'a> About<'a> {
    pub(super) fn new(ask: &Ask<'a>) -> Self {
        let name = |bytes| Self { object: Some(Object::Bytes(bytes)), ..Self::default() };
        match *ask {
            Ask::Hello | Ask::Narrow(_) | Ask::Scratch | Ask::Batch(_) => Self::default(),
            Ask::Open { access, path } => Self { access: Some(access), ..name(path) },
            Ask::List { path, from } => Self { from: Some(from), ..name(path) },
            Ask::Stat(path) | Ask::Readlink(path) | Ask::Mkdir(path) | Ask::Unlink(path) | Ask::Rmdir(path) => {
                name(path)
            }
            Ask::Rename { from, to } => Self { to: Some(Object::Bytes(to)), ..name(from) },
            Ask::Listen(socket, address) | Ask::Connect(socket, address) => Self::socket(socket, address),
            Ask::Bind(address) => Self::socket(SocketType::Datagram, address),
            Ask::ConnectName { socket, host, port } => Self {
                object: Some(Object::Host(host, port)),
                socket: Some(socket),
                family: Some("host"),
                ..Self::default()
            },
            Ask::Call { service, rights, bytes } => {
                Self { rights: Some(rights), bytes: Some(bytes.len()), ..name(service) }
            }
        }
    }

    fn socket(socket: SocketType, address: Address<'a>) -> Self {
        let (family, object) = match address {
            Address::Ip(address) => ("ip", Object::Ip(address)),
            Address::Path(path) => ("unix", Object::Bytes(path)),
            Address::Abstract(name) => ("abstract", Object::Bytes(name)),
        };
        Self { object: Some(object), socket: Some(socket), family: Some(family), ..Self::default() }
    }
}

/// A path, a name or an address. Displayed as printable ASCII; of bytes, the first 4,096.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    Bytes(&'a [u8]),
    Host(&'a [u8], u16),
    Ip(SocketAddr),
}

impl Object<'_> {
    /// How many bytes the worker wrote, if they are too many to be shown.
    pub(super) fn cut(&self) -> Option<usize> {
        match self {
            Self::Bytes(bytes) | Self::Host(bytes, _) => Some(bytes.len()).filter(|len| *len > PATH_MAX),
            Self::Ip(_) => None,
        }
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{}", first(bytes).escape_ascii()),
            Self::Host(host, port) => write!(f, "{}:{port}", first(host).escape_ascii()),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

fn first(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(PATH_MAX)]
}

/// A request on one line, cut after 16 KiB: a message is much longer than any path that exists.
pub(crate) struct Shown<'r, 'a>(pub(crate) &'r Ask<'a>);

impl fmt::Display for Shown<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut short = Short { to: f, left: 4 * PATH_MAX, cut: false };
        write!(short, "{}", self.0)?;
        if short.cut { f.write_str("... (cut)") } else { Ok(()) }
    }
}

/// Passes on so many bytes and drops the rest.
struct Short<'s, 'f> {
    to: &'s mut fmt::Formatter<'f>,
    left: usize,
    cut: bool,
}

impl Write for Short<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Requests are shown in ASCII; of anything else nothing is passed on.
        let shown = text.get(..text.len().min(self.left)).unwrap_or_default();
        self.cut |= shown.len() < text.len();
        self.left -= shown.len();
        self.to.write_str(shown)
    }
}

/// One word for a reason.
pub(super) fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Denied => "denied",
        Reason::Path => "path",
        Reason::Failed => "failed",
        Reason::Kind => "kind",
        Reason::Verb => "verb",
        Reason::Impossible => "impossible",
        Reason::NotHeld => "not-held",
        Reason::Limit => "limit",
    }
}

/// Without control characters and others that cannot be seen: they are escaped as in a Rust string. For what the daemon
/// wrote.
pub(crate) struct Printable<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Printing(f), "{}", self.0)
    }
}

struct Printing<'s, 'f>(&'s mut fmt::Formatter<'f>);

impl Write for Printing<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|char| match char {
            '"' | '\'' | '\\' => self.0.write_char(char),
            _ => write!(self.0, "{}", char.escape_debug()),
        })
    }
}

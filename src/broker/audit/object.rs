//! `[broker]` What a request is about, part by part, as the audit shows it: escaped, and never longer than what can
//! exist.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use crate::policy::{NotHeld, Why};
use crate::wire::path::PATH_MAX;
use crate::wire::{Access, Address, Ask, Narrow, Rights, SocketType};

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
            Ask::Hello | Ask::Ready | Ask::Scratch | Ask::Batch(_) => Self::default(),
            Ask::Narrow(narrow) => Self { object: Some(Object::Narrow(narrow)), ..Self::default() },
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

/// A path, a name, an address, or what is to be kept. Displayed as printable ASCII; of bytes, the first 4,096, and of
/// what is to be kept as much as those can take.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    Bytes(&'a [u8]),
    Host(&'a [u8], u16),
    Ip(SocketAddr),
    Narrow(Narrow<'a>),
}

impl Object<'_> {
    /// How many bytes the worker wrote, if they are too many to be shown; of what is to be kept, how many its text has.
    pub(super) fn cut(&self) -> Option<usize> {
        match self {
            Self::Bytes(bytes) | Self::Host(bytes, _) => Some(bytes.len()).filter(|len| *len > PATH_MAX),
            Self::Ip(_) => None,
            Self::Narrow(narrow) => Some(text_len(narrow)).filter(|len| *len > SHOWN),
        }
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{}", first(bytes).escape_ascii()),
            Self::Host(host, port) => write!(f, "{}:{port}", first(host).escape_ascii()),
            Self::Ip(address) => write!(f, "{address}"),
            Self::Narrow(narrow) => write!(Short { to: f, left: SHOWN, cut: false, start: true }, "{narrow}"),
        }
    }
}

/// Bytes of text that a path of bytes which are all escaped would take.
const SHOWN: usize = 4 * PATH_MAX;

/// Without the space that stands before each kind, as it is shown.
fn text_len(narrow: &Narrow<'_>) -> usize {
    struct Counted(usize);
    impl Write for Counted {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // Counting does not fail.
    let _ = write!(counted, "{narrow}");
    counted.0.saturating_sub(1)
}

/// Why a request was not granted, if it was the policy or what the worker holds. What is not held may be as long as a
/// message, and is cut after 1 KiB.
#[derive(Clone, Copy)]
pub(crate) enum Because<'a> {
    Policy(Why),
    NotHeld(&'a NotHeld),
}

impl<'a> Because<'a> {
    pub(crate) fn new(why: Option<Why>, not_held: Option<&'a NotHeld>) -> Option<Self> {
        why.map(Self::Policy).or(not_held.map(Self::NotHeld))
    }
}

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(why) => write!(f, "{why}"),
            Self::NotHeld(not_held) => {
                let mut short = Short { to: f, left: 1024, cut: false, start: false };
                write!(Printing(&mut short), "{not_held}")?;
                if short.cut { f.write_str("... (cut)") } else { Ok(()) }
            }
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
        let mut short = Short { to: f, left: SHOWN, cut: false, start: false };
        write!(short, "{}", self.0)?;
        if short.cut { f.write_str("... (cut)") } else { Ok(()) }
    }
}

/// Passes on so many bytes and drops the rest.
struct Short<'s, 'f> {
    to: &'s mut fmt::Formatter<'f>,
    left: usize,
    cut: bool,
    /// A space at the beginning is dropped.
    start: bool,
}

impl Write for Short<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = if std::mem::take(&mut self.start) { text.trim_start_matches(' ') } else { text };
        // Requests are shown in ASCII; of anything else nothing is passed on.
        let shown = text.get(..text.len().min(self.left)).unwrap_or_default();
        self.cut |= shown.len() < text.len();
        self.left -= shown.len();
        self.to.write_str(shown)
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

struct Printing<'w, W>(&'w mut W);

impl<W: Write> Write for Printing<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|char| match char {
            '"' | '\'' | '\\' => self.0.write_char(char),
            _ => write!(self.0, "{}", char.escape_debug()),
        })
    }
}

//! `[broker]` A request in the words of the audit.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use super::Failure;
use crate::policy::unescaped;
use crate::wire::{Access, Address, Ask, Right, Rights, SocketType};

/// What is asked, with its own bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    Open(Access, Vec<u8>),
    Scratch,
    List(Vec<u8>),
    Stat(Vec<u8>),
    Readlink(Vec<u8>),
    Mkdir(Vec<u8>),
    Unlink(Vec<u8>),
    Rmdir(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Listen(SocketType, At),
    Bind(At),
    Connect(SocketType, At),
    ConnectName(SocketType, Vec<u8>, u16),
    Call(Vec<u8>, Rights),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum At {
    Ip(SocketAddr),
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

const VERBS: &str = "read, write, append, truncate, create (joined with + to ask for several at once), list, stat, \
                     readlink, mkdir, unlink, rmdir, rename, scratch, listen, bind, connect, call";

impl Asked {
    /// Reads the words; one word with blanks is as many words.
    pub(super) fn parse(words: &[OsString]) -> Result<Self, Failure> {
        let mut words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        if let [all] = words[..] {
            words = all.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        }
        let Some((verb, about)) = words.split_first() else {
            return Err(Failure("no request: write one as read /etc/hosts".into()));
        };
        let verb = std::str::from_utf8(verb).unwrap_or_default();
        match (verb, about) {
            ("scratch", []) => Ok(Self::Scratch),
            ("list", [path]) => name(path).map(Self::List),
            ("stat", [path]) => name(path).map(Self::Stat),
            ("readlink", [path]) => name(path).map(Self::Readlink),
            ("mkdir", [path]) => name(path).map(Self::Mkdir),
            ("unlink", [path]) => name(path).map(Self::Unlink),
            ("rmdir", [path]) => name(path).map(Self::Rmdir),
            ("rename", [from, to] | [from, b"to", to]) => Ok(Self::Rename(name(from)?, name(to)?)),
            ("listen" | "bind" | "connect", about) => socket(verb, about),
            ("call", [service, rights @ ..]) => Ok(Self::Call(name(service)?, self::rights(rights)?)),
            (_, [path]) => match access(verb) {
                Some(access) => Ok(Self::Open(access, name(path)?)),
                None => Err(Failure(format!("\"{verb}\" is nothing to ask for: ask for one of {VERBS}"))),
            },
            _ => Err(Failure(format!(
                "{verb}: that is no request: write as the audit does \"read /etc/hosts\", \"rename /a /b\", \
                 \"connect 10.0.0.1:53\""
            ))),
        }
    }

    pub(super) fn ask(&self) -> Ask<'_> {
        match self {
            Self::Open(access, path) => Ask::Open { access: *access, path },
            Self::Scratch => Ask::Scratch,
            Self::List(path) => Ask::List { path, from: 0 },
            Self::Stat(path) => Ask::Stat(path),
            Self::Readlink(path) => Ask::Readlink(path),
            Self::Mkdir(path) => Ask::Mkdir(path),
            Self::Unlink(path) => Ask::Unlink(path),
            Self::Rmdir(path) => Ask::Rmdir(path),
            Self::Rename(from, to) => Ask::Rename { from, to },
            Self::Listen(socket, at) => Ask::Listen(*socket, at.address()),
            Self::Bind(at) => Ask::Bind(at.address()),
            Self::Connect(socket, at) => Ask::Connect(*socket, at.address()),
            Self::ConnectName(socket, host, port) => Ask::ConnectName { socket: *socket, host, port: *port },
            Self::Call(service, rights) => Ask::Call { service, rights: *rights, bytes: &[] },
        }
    }
}

impl At {
    fn address(&self) -> Address<'_> {
        match self {
            Self::Ip(address) => Address::Ip(*address),
            Self::Path(path) => Address::Path(path),
            Self::Abstract(name) => Address::Abstract(name),
        }
    }
}

/// The words of [`Access`]. `create` alone is the plain verb: a new file for writing.
fn access(words: &str) -> Option<Access> {
    const WORDS: [(&str, Access); 8] = [
        ("read", Access::READ),
        ("write", Access::WRITE),
        ("append", Access::APPEND),
        ("truncate", Access::TRUNCATE),
        ("create", Access::CREATE),
        ("new", Access::NEW),
        ("nonblocking", Access::NONBLOCKING),
        ("directory", Access::DIRECTORY),
    ];
    if words == "create" {
        return Some(Access::CREATE_NEW);
    }
    words.split('+').try_fold(Access::default(), |access, word| {
        let (_, bit) = WORDS.iter().find(|(known, _)| *known == word)?;
        Some(access | *bit)
    })
}

fn socket(verb: &str, about: &[&[u8]]) -> Result<Asked, Failure> {
    let wrong = || {
        Failure(format!(
            "{verb}: write an address (10.0.0.1:53, [::1]:53), a host (db.example.org:5432), a path (/run/x) or an \
             abstract name (@x), before it udp, stream, datagram or seqpacket if that is meant"
        ))
    };
    let Some((object, words)) = about.split_last() else { return Err(wrong()) };
    let mut socket = SocketType::Stream;
    for word in words {
        socket = match *word {
            b"unix" | b"abstract" => socket,
            b"tcp" | b"stream" => SocketType::Stream,
            b"udp" | b"datagram" => SocketType::Datagram,
            b"seqpacket" => SocketType::SeqPacket,
            _ => return Err(wrong()),
        };
    }
    let at = match object {
        [b'/', ..] => At::Path(name(object)?),
        [b'@', rest @ ..] => match name(rest)? {
            name if (1..=crate::wire::ABSTRACT_MAX).contains(&name.len()) => At::Abstract(name),
            _ => return Err(Failure(format!("{verb}: an abstract name has 1 to 107 bytes after the @"))),
        },
        _ => {
            let text = std::str::from_utf8(object).map_err(|_| wrong())?;
            match (text.parse(), text.rsplit_once(':')) {
                (Ok(address), _) => At::Ip(address),
                (_, Some((host, port))) if verb == "connect" && !host.is_empty() && !host.contains(':') => {
                    let port = port.parse().map_err(|_| wrong())?;
                    return Ok(Asked::ConnectName(socket, host.into(), port));
                }
                _ => return Err(wrong()),
            }
        }
    };
    Ok(match verb {
        "listen" => Asked::Listen(socket, at),
        "bind" => Asked::Bind(at),
        _ => Asked::Connect(socket, at),
    })
}

fn rights(words: &[&[u8]]) -> Result<Rights, Failure> {
    let words = words.iter().flat_map(|word| word.split(|byte| matches!(byte, b'+' | b',')));
    let words = words.filter(|word| !word.is_empty());
    words.map(|word| Ok(String::from_utf8_lossy(word).parse::<Right>()?)).collect()
}

/// A path or a name. A backslash begins an escape, as the audit writes them; without one the bytes are as they are.
fn name(word: &[u8]) -> Result<Vec<u8>, Failure> {
    if !word.contains(&b'\\') {
        return Ok(word.into());
    }
    let wrong = |why: &str| Failure(format!("{}: {why}", OsStr::from_bytes(word).to_string_lossy()));
    let text = std::str::from_utf8(word).map_err(|_| wrong("bytes that are no text stand beside an escape"))?;
    unescaped(text).map_err(wrong)
}

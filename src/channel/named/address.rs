//! `[both]` Addresses of named endpoints, and what the errors of bind(2) and connect(2) say about them.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{SockType, UnixAddr};

use super::Kind;
use crate::error::EndpointError;

/// A path as an address.
pub(super) fn of_path(path: &Path, verb: &str) -> Result<SocketAddr, EndpointError> {
    SocketAddr::from_pathname(path).map_err(|_| {
        let long = path.as_os_str().len() > LONGEST_PATH;
        let why = if long {
            "the path is longer than an address holds, 107 bytes: use a shorter one, or a relative one"
        } else {
            "the path has a NUL inside"
        };
        EndpointError::Unfit { asked: format!("{verb} {}", path.display()), why }
    })
}

/// As the system calls take it.
pub(super) fn of(address: &SocketAddr, asked: &str) -> Result<UnixAddr, EndpointError> {
    let unfit = |why| EndpointError::Unfit { asked: asked.to_owned(), why };
    let address = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) if path.as_os_str().is_empty() || path.as_os_str().as_bytes().ends_with(b"/") => {
            return Err(unfit("that is no path of a file"));
        }
        (Some(path), _) => UnixAddr::new(path),
        (_, Some(name)) => UnixAddr::new_abstract(name),
        // To bind it would make a name up, which nobody could know.
        _ => return Err(unfit("an unnamed address is nobody's: give a path or an abstract name")),
    };
    address.map_err(|_| unfit("the address is longer than the kernel takes"))
}

/// What was asked, for the errors.
pub(super) fn asked(verb: &str, address: &SocketAddr) -> String {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => format!("{verb} {}", path.display()),
        (_, Some(name)) => format!("{verb} @{}", name.escape_ascii()),
        _ => format!("{verb} an unnamed address"),
    }
}

/// The kinds that listen and are connected to.
pub(super) fn socket_type(kind: Kind, asked: &str) -> Result<SockType, EndpointError> {
    match kind {
        Kind::SeqPacket => Ok(SockType::SeqPacket),
        Kind::Stream => Ok(SockType::Stream),
        Kind::Datagram => Err(EndpointError::Unfit {
            asked: asked.to_owned(),
            why: "datagram sockets do not listen: use Kind::SeqPacket, which keeps messages apart as well",
        }),
    }
}

/// What an errno of socket(2), connect(2), bind(2) or another call for an address says.
pub(super) fn error(asked: &str, call: &'static str, errno: Errno, kind: Kind) -> EndpointError {
    let asked = asked.to_owned();
    match errno {
        Errno::ENOENT => EndpointError::NotFound { asked, call },
        Errno::ECONNREFUSED => EndpointError::NobodyListens { asked, call },
        Errno::EACCES | Errno::EPERM => EndpointError::PermissionDenied { asked, call, source: errno.into() },
        Errno::EAGAIN => EndpointError::QueueFull { asked, call },
        Errno::EPROTOTYPE => EndpointError::WrongKind { asked, call, kind },
        Errno::EADDRINUSE => EndpointError::InUse { asked, call, how: "somebody has bound it" },
        _ => os(&asked, call, errno.into()),
    }
}

/// An error of a call that has no other meaning at an address.
pub(super) fn os(asked: &str, call: &'static str, source: io::Error) -> EndpointError {
    let asked = asked.to_owned();
    match source.raw_os_error() {
        Some(libc::EMFILE) => EndpointError::DescriptorTableFull { asked, call },
        _ => EndpointError::Os { asked, call, source },
    }
}

/// `sun_path` has room for 108 bytes, one of which std keeps for a NUL.
const LONGEST_PATH: usize = 107;

//! `[broker]` The system's resolver of host names. Not by std, whose error does not tell a name that does not exist
//! from a name server that does not answer.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use libc::{addrinfo, c_int};

/// Why there are no addresses.
#[derive(Debug)]
pub(crate) enum NoAddresses {
    /// There is no such name, or it has no address.
    NotFound,
    /// No name server has answered, or one did not want to.
    NoAnswer,
    /// Something else is wrong with a name server or with this system's configuration.
    Failed,
    /// A system call failed.
    System(io::Error),
}

/// Gives each address that the system knows for `host` to `take`, those of one socket type once, in the order of
/// preference. Waits for as long as the system does, which may be minutes. IPv6 zones are lost.
pub(crate) fn addresses(host: &CStr, mut take: impl FnMut(IpAddr)) -> Result<(), NoAddresses> {
    let list = List::of(host)?;
    let mut next = list.0;
    while !next.is_null() {
        // SAFETY: the C library linked it into the list, which lives until `list` is dropped and which nobody changes.
        let entry = unsafe { &*next };
        if let Some(address) = address(entry) {
            take(address);
        }
        next = entry.ai_next;
    }
    Ok(())
}

/// What getaddrinfo(3) made.
struct List(*mut addrinfo);

impl List {
    fn of(host: &CStr) -> Result<Self, NoAddresses> {
        // Zeroed: any family, no flags, no name, no next.
        // SAFETY: numbers and pointers that may be null: all zeros are a struct addrinfo.
        let mut hints: addrinfo = unsafe { std::mem::zeroed() };
        hints.ai_socktype = libc::SOCK_STREAM;
        let mut list = ptr::null_mut();
        // SAFETY: `host` is a C string, a null pointer says that no service is wanted, `hints` is read only, and
        // `list`, which the C library writes on success, is exclusively borrowed.
        let code = unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
        match code {
            0 => Ok(Self(list)),
            libc::EAI_NONAME | EAI_NODATA | EAI_ADDRFAMILY => Err(NoAddresses::NotFound),
            libc::EAI_AGAIN => Err(NoAddresses::NoAnswer),
            libc::EAI_SYSTEM => Err(NoAddresses::System(io::Error::last_os_error())),
            libc::EAI_MEMORY => Err(NoAddresses::System(io::Error::from_raw_os_error(libc::ENOMEM))),
            _ => Err(NoAddresses::Failed),
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // POSIX does not say that a null pointer can be freed.
        if !self.0.is_null() {
            // SAFETY: getaddrinfo made it, and it is freed once: whoever borrows from it is gone.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

fn address(entry: &addrinfo) -> Option<IpAddr> {
    let len = usize::try_from(entry.ai_addrlen).ok()?;
    match entry.ai_family {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the C library says that so many bytes are there, and they are numbers. Alignment is not assumed.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The name exists, and has no address (netdb.h of glibc; libc does not name them for every C library).
const EAI_NODATA: c_int = -5;
/// It has none of the family that was asked for.
const EAI_ADDRFAMILY: c_int = -9;

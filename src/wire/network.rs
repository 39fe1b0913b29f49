//! `[both]` IP networks and ranges of ports.
//!
//! An IPv4 address in IPv6 form (`::ffff:192.0.2.1`) is reached over IPv4. It is in no IPv6 network, `::/0` included,
//! and no network can be written in that form: whoever judges such an address judges the IPv4 address that it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An IPv4 or IPv6 network: an address and how many of its bits are the network's. Written `10.0.0.0/8` or
/// `2001:db8::/32`; an address without prefix length is the network of that address alone.
///
/// ```
/// use fdbroker::wire::Network;
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.1.2.3".parse()?));
/// assert!(!network.contains("::ffff:10.1.2.3".parse()?));
/// let error = "10.1.0.0/8".parse::<Network>().unwrap_err();
/// assert!(error.to_string().contains("10.0.0.0/8"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix_len: u8,
}

impl Network {
    /// From its parts, if they are in the one form there is for each network: no bits beyond the prefix, and not IPv4
    /// in IPv6 form.
    pub(crate) fn from_parts(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let in_one_form = prefix_len <= bits(address) && masked(address, prefix_len) == address;
        (in_one_form && mapped(address).is_none()).then_some(Self { address, prefix_len })
    }

    /// The network's first address: all bits beyond the prefix are 0.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the prefix: 0 to 32 for IPv4, 0 to 128 for IPv6.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether the address is in the network. No IPv4 address in IPv6 form is in any.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && mapped(address).is_none()
            && masked(address, self.prefix_len) == self.address
    }

    /// Whether all of the other network's addresses are in this one.
    #[must_use]
    pub fn contains_network(&self, other: &Self) -> bool {
        self.prefix_len <= other.prefix_len && self.contains(other.address)
    }
}

/// The network of one address; that of the IPv4 address, if it is one in IPv6 form.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix_len: bits(address) }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address { text: text.to_owned() })?;
        let max = bits(address);
        let prefix_len = match prefix_len {
            Some(digits) => decimal(digits)
                .and_then(|number| u8::try_from(number).ok())
                .filter(|&len| len <= max)
                .ok_or_else(|| NetworkError::PrefixLen { text: text.to_owned(), max })?,
            None => max,
        };
        if let (Some(v4), Some(len)) = (mapped(address), prefix_len.checked_sub(MAPPED_PREFIX_LEN)) {
            let network = Self { address: masked(v4.into(), len), prefix_len: len };
            return Err(NetworkError::Mapped { text: text.to_owned(), network });
        }
        let network = Self { address: masked(address, prefix_len), prefix_len };
        if network.address != address {
            return Err(NetworkError::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

/// With the prefix length always, as it can be read back.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// What stands before the slash, or all of it, is no IP address.
    #[error("{text:?} is no IP network: write one as 10.0.0.0/8 or 2001:db8::/32, or a single IP address")]
    Address {
        /// As given.
        text: String,
    },
    /// What stands behind the slash is no prefix length.
    #[error("{text:?}: what follows the slash is the number of bits in the prefix: write 0 to {max}")]
    PrefixLen {
        /// As given.
        text: String,
        /// The longest for an address of this family.
        max: u8,
    },
    /// Bits beyond the prefix are set: which network is meant cannot be known.
    #[error("{text:?} has bits set beyond its prefix: write {network}, or a longer prefix")]
    HostBits {
        /// As given.
        text: String,
        /// The network of that prefix length in which the address is.
        network: Network,
    },
    /// IPv4 in IPv6 form.
    #[error("{text:?} is IPv4 in IPv6 form, which is judged as IPv4: write {network}")]
    Mapped {
        /// As given.
        text: String,
        /// The IPv4 network.
        network: Network,
    },
}

/// A range of ports, both ends included. Written `80` or `1024-65535`. Port 0 can be listened on only, where it means
/// that the kernel chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The lowest port of the range, if it is not empty.
    pub(crate) const fn first(&self) -> u16 {
        self.first
    }

    /// The highest port of the range, if it is not empty.
    pub(crate) const fn last(&self) -> u16 {
        self.last
    }

    /// Whether the port is in the range.
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether all of the other range's ports are in this one.
    #[must_use]
    pub const fn contains_range(&self, other: &Self) -> bool {
        other.is_empty() || self.first <= other.first && other.last <= self.last
    }

    /// Whether some port is in both ranges.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.first <= other.last && other.first <= self.last
    }

    /// Whether the kernel may be let choose a port (port 0): if nothing else is in the range, or every port is.
    #[must_use]
    pub(crate) const fn let_choose(&self) -> bool {
        self.first == 0 && matches!(self.last, 0 | u16::MAX)
    }

    /// Whether there is no port in the range. No text stands for such a range.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first > self.last
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

/// A range whose end lies before its start has no ports.
impl From<RangeInclusive<u16>> for Ports {
    fn from(range: RangeInclusive<u16>) -> Self {
        if range.is_empty() { Self { first: 1, last: 0 } } else { Self { first: *range.start(), last: *range.end() } }
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |digits| {
            let number = decimal(digits).ok_or_else(|| PortsError::Form { text: text.to_owned() })?;
            u16::try_from(number).map_err(|_| PortsError::Number { text: text.to_owned() })
        };
        let Some((first, last)) = text.split_once('-') else { return port(text).map(Self::from) };
        match (port(first)?, port(last)?) {
            (first, last) if first <= last => Ok(Self { first, last }),
            (first, last) => Err(PortsError::Backwards { first, last }),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { first, last } if first > last => f.write_str("no port"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// Why a text is no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortsError {
    /// Something else than one number, or two with a hyphen between them.
    #[error("{text:?} is no port or range of ports: write 80 or 1024-65535")]
    Form {
        /// As given.
        text: String,
    },
    /// A number that no port has.
    #[error("{text:?}: a port is 0 to 65535")]
    Number {
        /// As given.
        text: String,
    },
    /// The range ends before it starts.
    #[error("{first}-{last} ends before it starts: write {last}-{first}")]
    Backwards {
        /// The first number.
        first: u16,
        /// The second.
        last: u16,
    },
}

/// The IPv4 address that stands in IPv6 form.
pub(crate) fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
    }
}

/// The address with all bits beyond the prefix cleared.
pub(crate) fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    let host = u32::from(bits(address).saturating_sub(prefix_len));
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)).into(),
    }
}

/// Bits of an address of this family.
const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// One way only to write a number: digits, and no zero before them. (`parse` takes `+8` and `08`.)
fn decimal(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// Bits of `::ffff:0:0/96`, which holds the IPv4 addresses in IPv6 form.
const MAPPED_PREFIX_LEN: u8 = 96;

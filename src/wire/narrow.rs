//! `[both]` What a worker wants to have from now on, and nothing else of the kinds that it names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Reader, Rights, TooLong, Writer};
use crate::policy::{Network, Ports};

/// Networks that one section has at most. Every connection is judged against each of them.
pub const MAX_NETWORKS: usize = 256;

/// A narrowing as it stands on the wire: well-formed sections, each of one kind. A section that is not there leaves
/// everything of its kind as it was; one without items leaves nothing of it. Paths and names are bytes from the worker,
/// not checked yet. [`Narrowing`](crate::policy::Narrowing) makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Narrow<'a>(&'a [u8]);

pub(crate) mod section {
    pub(crate) const RIGHTS: u8 = 1;
    pub(crate) const PATHS: u8 = 2;
    pub(crate) const CONNECT: u8 = 3;
    pub(crate) const LISTEN: u8 = 4;
    pub(crate) const HOSTS: u8 = 5;
    pub(crate) const ABSTRACT_NAMES: u8 = 6;
    pub(crate) const SERVICES: u8 = 7;
}

impl<'a> Narrow<'a> {
    /// Reads the body of a request to narrow; `None` if it is malformed.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (mut sections, mut before) = (Sections(body), 0);
        for (tag, items) in sections.by_ref() {
            // In their order, so that none comes twice.
            if tag <= before || !are_items(tag, items) {
                return None;
            }
            before = tag;
        }
        sections.0.is_empty().then_some(Self(body))
    }

    /// The only rights to be kept.
    #[must_use]
    pub fn rights(&self) -> Option<Rights> {
        Rights::from_bits(Reader::new(self.section(section::RIGHTS)?).u32()?)
    }

    /// The only paths to be kept, with everything beneath each.
    #[must_use]
    pub fn paths(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        self.section(section::PATHS).map(Names)
    }

    /// The only networks and ports to be kept that sockets are connected to.
    #[must_use]
    pub fn connect(&self) -> Option<impl Iterator<Item = (Network, Ports)> + use<'a>> {
        self.section(section::CONNECT).map(Networks)
    }

    /// The only networks and ports to be kept that sockets listen on or are bound to.
    #[must_use]
    pub fn listen(&self) -> Option<impl Iterator<Item = (Network, Ports)> + use<'a>> {
        self.section(section::LISTEN).map(Networks)
    }

    /// The only hosts to be kept that sockets are connected to by name.
    #[must_use]
    pub fn hosts(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        self.section(section::HOSTS).map(Names)
    }

    /// The only abstract names of UNIX sockets to be kept.
    #[must_use]
    pub fn abstract_names(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        self.section(section::ABSTRACT_NAMES).map(Names)
    }

    /// The only services to be kept.
    #[must_use]
    pub fn services(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        self.section(section::SERVICES).map(Names)
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.0
    }

    fn section(&self, wanted: u8) -> Option<&'a [u8]> {
        Sections(self.0).find(|(tag, _)| *tag == wanted).map(|(_, items)| items)
    }
}

fn are_items(tag: u8, items: &[u8]) -> bool {
    match tag {
        section::RIGHTS => {
            let mut reader = Reader::new(items);
            reader.u32().and_then(Rights::from_bits).is_some() && reader.end().is_some()
        }
        section::CONNECT | section::LISTEN => {
            let mut networks = Networks(items);
            networks.by_ref().count() <= MAX_NETWORKS && networks.0.is_empty()
        }
        section::PATHS | section::HOSTS | section::ABSTRACT_NAMES | section::SERVICES => {
            let mut names = Names(items);
            names.by_ref().for_each(drop);
            names.0.is_empty()
        }
        _ => false,
    }
}

/// Tags and items. Like the iterators below, it stops where the bytes are none of it, and leaves them.
struct Sections<'a>(&'a [u8]);

impl<'a> Iterator for Sections<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.0);
        let (tag, reserved, len) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (items, rest) = reader.rest().split_at_checked(len.into())?;
        if reserved != 0 {
            return None;
        }
        self.0 = rest;
        Some((tag, items))
    }
}

struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.0);
        let len = reader.u16()?;
        let (name, rest) = reader.rest().split_at_checked(len.into())?;
        self.0 = rest;
        Some(name)
    }
}

struct Networks<'a>(&'a [u8]);

impl Iterator for Networks<'_> {
    type Item = (Network, Ports);

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.0);
        let (family, prefix_len, first, last) = (reader.u8()?, reader.u8()?, reader.u16()?, reader.u16()?);
        let address: IpAddr = match family {
            4 => Ipv4Addr::from(reader.array::<4>()?).into(),
            6 => Ipv6Addr::from(reader.array::<16>()?).into(),
            _ => return None,
        };
        let network = Network::from_parts(address, prefix_len)?;
        if first > last {
            return None;
        }
        self.0 = reader.rest();
        Some((network, (first..=last).into()))
    }
}

/// Puts the sections of a narrowing into a buffer, in the order of their tags.
pub(crate) struct NarrowWriter<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> NarrowWriter<'b> {
    pub(crate) fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    pub(crate) fn rights(&mut self, rights: Rights) -> Result<(), TooLong> {
        self.section(section::RIGHTS, |items| {
            items.put(&rights.bits().to_le_bytes());
            Ok(())
        })
    }

    pub(crate) fn names<'n>(&mut self, tag: u8, names: impl Iterator<Item = &'n [u8]>) -> Result<(), TooLong> {
        self.section(tag, |items| {
            for name in names {
                items.put(&u16::try_from(name.len()).map_err(|_| TooLong)?.to_le_bytes());
                items.put(name);
            }
            Ok(())
        })
    }

    pub(crate) fn networks(
        &mut self,
        tag: u8,
        networks: impl ExactSizeIterator<Item = (Network, Ports)>,
    ) -> Result<(), TooLong> {
        if networks.len() > MAX_NETWORKS {
            return Err(TooLong);
        }
        self.section(tag, |items| {
            for (network, ports) in networks {
                items.put(&[if network.address().is_ipv4() { 4 } else { 6 }, network.prefix_len()]);
                items.put(&ports.first().to_le_bytes());
                items.put(&ports.last().to_le_bytes());
                match network.address() {
                    IpAddr::V4(v4) => items.put(&v4.octets()),
                    IpAddr::V6(v6) => items.put(&v6.octets()),
                }
            }
            Ok(())
        })
    }

    fn section(&mut self, tag: u8, put: impl FnOnce(&mut Writer<'_>) -> Result<(), TooLong>) -> Result<(), TooLong> {
        let buffer = self.buffer.get_mut(self.len..).ok_or(TooLong)?;
        let (head, items) = buffer.split_first_chunk_mut::<4>().ok_or(TooLong)?;
        let mut writer = Writer::new(items);
        put(&mut writer)?;
        let len = writer.len().ok_or(TooLong)?;
        let [low, high] = u16::try_from(len).map_err(|_| TooLong)?.to_le_bytes();
        *head = [tag, 0, low, high];
        self.len += head.len() + len;
        Ok(())
    }

    pub(crate) fn finish(self) -> Narrow<'b> {
        Narrow(&self.buffer[..self.len])
    }
}

/// What is kept of each kind that is named, on one line, with a space before each: bytes that are not printable ASCII
/// are escaped.
impl fmt::Display for Narrow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "rights", self.rights().map(|rights| rights.iter()))?;
        list(f, "paths", self.paths().map(|names| names.map(<[u8]>::escape_ascii)))?;
        let with_ports = |(network, ports)| format!("{network} ports {ports}");
        list(f, "connect", self.connect().map(|networks| networks.map(with_ports)))?;
        list(f, "listen", self.listen().map(|networks| networks.map(with_ports)))?;
        list(f, "hosts", self.hosts().map(|names| names.map(<[u8]>::escape_ascii)))?;
        list(f, "abstract names", self.abstract_names().map(|names| names.map(<[u8]>::escape_ascii)))?;
        list(f, "services", self.services().map(|names| names.map(<[u8]>::escape_ascii)))
    }
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    items: Option<impl Iterator<Item = T>>,
) -> fmt::Result {
    let Some(items) = items else { return Ok(()) };
    write!(f, " {kind} (")?;
    for (n, item) in items.enumerate() {
        write!(f, "{}{item}", if n == 0 { "" } else { ", " })?;
    }
    f.write_str(")")
}

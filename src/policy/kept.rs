//! `[broker]` What a worker has kept: the intersection of all that it was narrowed to. Deciding by it allocates
//! nothing.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::narrowing::{Names, Narrowing, Networks};
use super::permit::{Endpoint, Grant, Permit};
use super::{NotHeld, ancestors};
use crate::wire::host::MAX_HOST;
use crate::wire::{Address, Ask, Rights};
use crate::wire::{Network, Ports};

impl Narrowing {
    /// What is in both: made of what was kept already, so that it can be no more than that.
    ///
    /// # Errors
    /// That is not all of what `asked` names.
    pub(super) fn narrowed(&self, asked: &Self) -> Result<Self, NotHeld> {
        Ok(Self {
            rights: both(&self.rights, &asked.rights, rights)?,
            paths: both(&self.paths, &asked.paths, paths)?,
            connect: both(&self.connect, &asked.connect, |kept, asked| networks(kept, asked, NotHeld::Connect))?,
            listen: both(&self.listen, &asked.listen, |kept, asked| networks(kept, asked, NotHeld::Listen))?,
            hosts: both(&self.hosts, &asked.hosts, |kept, asked| names(kept, asked, NotHeld::host))?,
            abstract_names: both(&self.abstract_names, &asked.abstract_names, |kept, asked| {
                names(kept, asked, |name| NotHeld::AbstractName(name.into()))
            })?,
            services: both(&self.services, &asked.services, |kept, asked| names(kept, asked, NotHeld::service))?,
        })
    }

    /// Whether what the policy allows is among what is kept.
    pub(super) fn permits(&self, ask: &Ask<'_>) -> bool {
        let keeps_rights = |kept: Rights| ask.needs().is_ok_and(|needs| kept.contains_all(needs));
        self.rights.is_none_or(keeps_rights)
            && match *ask {
                Ask::Open { path, .. }
                | Ask::List { path, .. }
                | Ask::Stat(path)
                | Ask::Readlink(path)
                | Ask::Mkdir(path)
                | Ask::Unlink(path)
                | Ask::Rmdir(path) => self.keeps_path(path),
                Ask::Rename { from, to } => self.keeps_path(from) && self.keeps_path(to),
                Ask::Listen(_, address) | Ask::Bind(address) => {
                    self.keeps_address(&self.listen, address) && self.keeps_choice(address)
                }
                Ask::Connect(_, address) => self.keeps_address(&self.connect, address),
                Ask::ConnectName { host, port, .. } => self.keeps_host(host, port),
                Ask::Call { service, .. } => keeps_name(&self.services, service),
                Ask::Scratch => true,
                // No policy allows these.
                Ask::Hello | Ask::Narrow(_) | Ask::Ready | Ask::Batch(_) => false,
            }
    }

    /// Whether an IPv6 socket that takes IPv4 as well is kept with both.
    pub(super) fn keeps_both(&self, permit: &Permit<'_>) -> bool {
        let (Some(kept), Grant::Listen { to: Endpoint::Ip(SocketAddr::V6(v6)), options, .. }) =
            (&self.listen, permit.grant())
        else {
            return true;
        };
        let any_ipv4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        !options.dual_stack || !v6.ip().is_unspecified() || keeps_ip(kept, any_ipv4, v6.port())
    }

    /// What a permit must not lead to.
    pub(super) fn restrict(&self, permit: &mut Permit<'_>) {
        if self.paths.is_some() {
            permit.forbid_links();
        }
        if let Some(networks) = &self.connect {
            permit.connect_within(networks);
        }
    }

    fn keeps_path(&self, path: &[u8]) -> bool {
        self.paths.as_ref().is_none_or(|kept| is_within(kept, path))
    }

    fn keeps_address(&self, networks: &Option<Networks>, address: Address<'_>) -> bool {
        match address {
            Address::Ip(address) => networks.as_ref().is_none_or(|kept| keeps_ip(kept, address.ip(), address.port())),
            Address::Path(path) => self.keeps_path(path),
            Address::Abstract(name) => keeps_name(&self.abstract_names, name),
        }
    }

    /// Whether the kernel may choose a port, if it is to.
    fn keeps_choice(&self, address: Address<'_>) -> bool {
        match (address, &self.listen) {
            (Address::Ip(address), Some(kept)) if address.port() == 0 => {
                kept.iter().any(|(network, ports)| ports.let_choose() && network.contains(address.ip()))
            }
            _ => true,
        }
    }

    /// Its addresses are judged when it has been looked up; this is no more than that some could be.
    fn keeps_host(&self, host: &[u8], port: u16) -> bool {
        let mut lower = [0; MAX_HOST];
        let Some(lower) = lower.get_mut(..host.len()) else { return false };
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        let reaches = |kept: &Networks| kept.iter().any(|(_, ports)| ports.contains(port));
        keeps_name(&self.hosts, lower) && self.connect.as_ref().is_none_or(reaches)
    }
}

/// Whether one of these networks has the address, with the port among its ports.
pub(super) fn keeps_ip(kept: &Networks, ip: IpAddr, port: u16) -> bool {
    kept.iter().any(|(network, ports)| ports.contains(port) && network.contains(ip))
}

fn keeps_name(kept: &Option<Names>, name: &[u8]) -> bool {
    kept.as_ref().is_none_or(|kept| position(kept, name).is_some())
}

/// One kind: what was kept if nothing is asked, what is asked if everything was kept, or what is in both.
fn both<T: Clone>(
    kept: &Option<T>,
    asked: &Option<T>,
    intersection: impl FnOnce(&T, &T) -> Result<T, NotHeld>,
) -> Result<Option<T>, NotHeld> {
    match (kept, asked) {
        (Some(kept), Some(asked)) => intersection(kept, asked).map(Some),
        (kept, None) => Ok(kept.clone()),
        (None, asked) => Ok(asked.clone()),
    }
}

fn rights(kept: &Rights, asked: &Rights) -> Result<Rights, NotHeld> {
    let both = kept.intersection(*asked);
    if both == *asked { Ok(both) } else { Err(NotHeld::Rights(asked.without(both))) }
}

/// A path inside another is in both; of what is only asked for, nothing is.
fn paths(kept: &Names, asked: &Names) -> Result<Names, NotHeld> {
    let both = asked.iter().map(|path| if is_within(kept, path) { Ok(path.clone()) } else { Err(NotHeld::path(path)) });
    both.collect()
}

fn names(kept: &Names, asked: &Names, not_held: impl Fn(&[u8]) -> NotHeld) -> Result<Names, NotHeld> {
    let both = asked.iter().map(|name| match position(kept, name) {
        Some(place) => Ok(kept[place].clone()),
        None => Err(not_held(name)),
    });
    both.collect()
}

fn networks(
    kept: &Networks,
    asked: &Networks,
    not_held: impl Fn(Network, Ports) -> NotHeld,
) -> Result<Networks, NotHeld> {
    let both = |asked: &(Network, Ports)| {
        let mut intersections = kept.iter().filter_map(|kept| intersection(kept, asked));
        intersections.find(|both| both == asked).ok_or_else(|| not_held(asked.0, asked.1))
    };
    asked.iter().map(both).collect()
}

fn intersection(one: &(Network, Ports), other: &(Network, Ports)) -> Option<(Network, Ports)> {
    let network = match (&one.0, &other.0) {
        (one, other) if one.contains_network(other) => other,
        (one, other) if other.contains_network(one) => one,
        _ => return None,
    };
    let ports = Ports::from(one.1.first().max(other.1.first())..=one.1.last().min(other.1.last()));
    (!ports.is_empty()).then_some((*network, ports))
}

fn position(names: &Names, name: &[u8]) -> Option<usize> {
    names.binary_search_by(|other| (**other).cmp(name)).ok()
}

/// Whether `path` is one of these, or inside one.
fn is_within(kept: &Names, path: &[u8]) -> bool {
    let directories = ancestors(path, path.len()).map(|(directory, _)| directory);
    std::iter::once(path).chain(directories).any(|path| position(kept, path).is_some())
}

impl NotHeld {
    pub(super) fn path(path: &[u8]) -> Self {
        Self::Path(OsStr::from_bytes(path).into())
    }

    pub(super) fn host(host: &[u8]) -> Self {
        Self::Host(String::from_utf8_lossy(host).into())
    }

    pub(super) fn service(name: &[u8]) -> Self {
        Self::Service(String::from_utf8_lossy(name).into())
    }
}

//! `[broker]` What a policy says of IP networks and ports.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::wire::network::{mapped, masked};
use crate::wire::{Network, Ports};

/// What is said of networks and ports. The longest prefix with the port among its ports decides.
#[derive(Debug)]
pub(crate) struct Networks<T> {
    v4: Prefixes<T>,
    v6: Prefixes<T>,
}

/// One table for each prefix length there is, the longest first: a look-up is at most 129 of them, however many
/// networks there are.
type Prefixes<T> = Vec<Prefix<T>>;

#[derive(Debug)]
struct Prefix<T> {
    len: u8,
    /// By the network's first address. The ranges of ports are in order, and no two overlap.
    networks: HashMap<IpAddr, Vec<(Ports, T)>>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T> Networks<T> {
    /// # Errors
    /// What is said already of the same network and some of these ports. Nothing is changed.
    pub(crate) fn insert(&mut self, network: Network, ports: Ports, value: T) -> Result<(), &T> {
        if ports.is_empty() {
            return Ok(());
        }
        let prefixes = if network.address().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let place = prefixes.partition_point(|prefix| prefix.len > network.prefix_len());
        if prefixes.get(place).is_none_or(|prefix| prefix.len != network.prefix_len()) {
            prefixes.insert(place, Prefix { len: network.prefix_len(), networks: HashMap::new() });
        }
        let ranges = prefixes[place].networks.entry(network.address()).or_default();
        let place = first_reaching(ranges, ports.first());
        if ranges.get(place).is_some_and(|(next, _)| next.first() <= ports.last()) {
            return Err(&ranges[place].1);
        }
        ranges.insert(place, (ports, value));
        Ok(())
    }

    /// What is said of this address (or of any of the family) and this port (or of any): of several, of the longest
    /// prefix, the lowest network and the lowest ports. Goes through all that is said. Of an IPv4 address in IPv6 form
    /// nothing is.
    pub(crate) fn overlapping(&self, address: Option<IpAddr>, v4: bool, port: Option<u16>) -> Option<&T> {
        if address.is_some_and(|address| mapped(address).is_some()) {
            return None;
        }
        let prefixes = if v4 { &self.v4 } else { &self.v6 };
        prefixes.iter().find_map(|prefix| {
            let about = |network: &IpAddr| address.is_none_or(|address| masked(address, prefix.len) == *network);
            let networks = prefix.networks.iter().filter(|(network, _)| about(network));
            let said = networks.flat_map(|(network, ranges)| ranges.iter().map(move |said| (network, said)));
            let said = said.filter(|(_, (ports, _))| port.is_none_or(|port| ports.contains(port)));
            let lowest = said.min_by_key(|(network, (ports, _))| (*network, ports.first()));
            lowest.map(|(_, (_, value))| value)
        })
    }

    /// What is said of this address and port. An IPv4 address in IPv6 form is in no network.
    pub(crate) fn find(&self, address: IpAddr, port: u16) -> Option<&T> {
        if mapped(address).is_some() {
            return None;
        }
        let prefixes = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        prefixes.iter().find_map(|prefix| {
            let ranges = prefix.networks.get(&masked(address, prefix.len))?;
            let (ports, value) = ranges.get(first_reaching(ranges, port))?;
            ports.contains(port).then_some(value)
        })
    }
}

impl<T> Networks<T> {
    /// Whether something is said of one network and one range of ports in which all of these are.
    pub(crate) fn hold(&self, network: &Network, ports: &Ports) -> bool {
        self.holding(network, ports).is_some()
    }

    /// What is said of one network and one range of ports in which all of these are.
    pub(crate) fn holding(&self, network: &Network, ports: &Ports) -> Option<&T> {
        let prefixes = if network.address().is_ipv4() { &self.v4 } else { &self.v6 };
        prefixes.iter().filter(|prefix| prefix.len <= network.prefix_len()).find_map(|prefix| {
            let ranges = prefix.networks.get(&masked(network.address(), prefix.len))?;
            let (range, value) = ranges.get(first_reaching(ranges, ports.first()))?;
            range.contains_range(ports).then_some(value)
        })
    }
}

/// The place of the first range that does not end before `port`.
fn first_reaching<T>(ranges: &[(Ports, T)], port: u16) -> usize {
    ranges.partition_point(|(ports, _)| ports.last() < port)
}

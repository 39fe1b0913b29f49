//! `[broker]` Which rule decides. To find it takes as long with ten thousand rules as with ten.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::ancestors;
use super::networks::Networks;
use super::pattern::Patterns;
use crate::wire::Ports;
use crate::wire::host::MAX_HOST;
use crate::wire::{ABSTRACT_MAX, Right, Rights, SocketType};

/// The rules of one phase, by what they are about. The numbers are places in the policy's list of rules.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) allowed: Files,
    /// All that its rules grant.
    pub(super) rights: Rights,
    pub(super) denied: Files,
    pub(super) scratch: Option<u32>,
    pub(super) networks: [Networks<u32>; Use::ALL.len()],
    pub(super) denied_networks: [Networks<u32>; Use::ALL.len()],
    /// By the name in lower case. A name has few rules: they differ in ports and types.
    pub(super) hosts: HashMap<Box<[u8]>, Vec<(SocketType, Ports, u32)>>,
    /// By right, type and name.
    pub(super) abstracts: HashMap<Box<[u8]>, u32>,
    pub(super) services: HashMap<Box<[u8]>, u32>,
    /// The directories above those of rules, where an option is about them.
    pub(super) leading: HashSet<Box<[u8]>>,
}

/// What a rule about networks is for. Each has networks of its own: a rule for one says nothing of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    ListenTcp,
    BindUdp,
    ConnectTcp,
    ConnectUdp,
}

impl Use {
    const ALL: [Self; 4] = [Self::ListenTcp, Self::BindUdp, Self::ConnectTcp, Self::ConnectUdp];

    pub(super) fn of(right: Right, socket: SocketType) -> Option<Self> {
        match (right, socket) {
            (Right::Listen, SocketType::Stream) => Some(Self::ListenTcp),
            (Right::Bind, SocketType::Datagram) => Some(Self::BindUdp),
            (Right::Connect, SocketType::Stream) => Some(Self::ConnectTcp),
            (Right::Connect, SocketType::Datagram) => Some(Self::ConnectUdp),
            _ => None,
        }
    }
}

/// Rules about paths.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) exact: HashMap<Box<[u8]>, u32>,
    pub(super) patterns: Patterns,
    pub(super) trees: HashMap<Box<[u8]>, u32>,
    /// Bytes of the longest key of `trees`: no longer prefix of a path needs to be looked up.
    pub(super) longest_tree: usize,
    /// As for `trees`, of `exact`.
    pub(super) longest_exact: usize,
}

/// What a rule is about, of which a path is a part.
pub(super) enum Found<'a> {
    Exact,
    /// What comes after the rule's directory.
    Beneath(&'a [u8]),
    /// The rule's own directory.
    Itself,
}

impl Files {
    /// The most specific rule about `path`: an exact one before a pattern, a pattern before a tree, the nearest tree.
    /// The rule of a tree, or of a pattern that ends in `**`, is about its own directory only where `itself` says that
    /// this counts.
    pub(super) fn find<'a>(&self, path: &'a [u8], itself: bool) -> Option<(u32, Found<'a>)> {
        if let Some(rule) = self.exact.get(path) {
            return Some((*rule, Found::Exact));
        }
        if let Some((rule, name)) = self.patterns.find(path, itself) {
            return Some((rule, name.map_or(Found::Itself, Found::Beneath)));
        }
        if itself {
            if let Some(rule) = self.trees.get(path) {
                return Some((*rule, Found::Itself));
            }
        }
        self.nearest_tree(path).map(|(rule, name)| (rule, Found::Beneath(name)))
    }

    /// The rule of the nearest tree that `path` is inside, and what of it comes after that.
    fn nearest_tree<'a>(&self, path: &'a [u8]) -> Option<(u32, &'a [u8])> {
        if self.trees.is_empty() {
            return None;
        }
        ancestors(path, self.longest_tree).find_map(|(directory, name)| Some((*self.trees.get(directory)?, name)))
    }

    /// A rule about a tree that holds all of what is at `path` or beneath it.
    pub(super) fn tree_around(&self, path: &[u8]) -> Option<u32> {
        self.trees.get(path).copied().or_else(|| self.nearest_tree(path).map(|(rule, _)| rule))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.trees.is_empty() && self.patterns.is_empty()
    }

    /// For denials: a rule about `path`, or about a directory above it. What is denied is denied with all beneath it.
    pub(super) fn covering(&self, path: &[u8]) -> Option<u32> {
        if let Some(rule) = self.exact.get(path) {
            return Some(*rule);
        }
        if let Some(rule) = self.patterns.covering(path) {
            return Some(rule);
        }
        if let Some(rule) = self.trees.get(path) {
            return Some(*rule);
        }
        if self.exact.is_empty() && self.trees.is_empty() {
            return None;
        }
        ancestors(path, self.longest_tree.max(self.longest_exact))
            .find_map(|(directory, _)| self.exact.get(directory).or_else(|| self.trees.get(directory)).copied())
    }
}

impl Table {
    pub(super) fn network(&self, used: Use, ip: IpAddr, port: u16) -> Option<u32> {
        self.networks[used as usize].find(ip, port).copied()
    }

    /// The denial of a socket with this address. One that takes what is sent to any address has all of them, and for
    /// port 0 the kernel may choose any port.
    pub(super) fn denied_network(&self, used: Use, ip: IpAddr, port: u16) -> Option<u32> {
        let networks = &self.denied_networks[used as usize];
        let bound = matches!(used, Use::ListenTcp | Use::BindUdp);
        match (bound && ip.is_unspecified(), bound && port == 0) {
            (false, false) => networks.find(ip, port).copied(),
            (any_address, any_port) => {
                networks.overlapping((!any_address).then_some(ip), ip.is_ipv4(), (!any_port).then_some(port)).copied()
            }
        }
    }

    pub(super) fn host(&self, socket: SocketType, host: &[u8], port: u16) -> Option<u32> {
        let mut lower = [0; MAX_HOST];
        let lower = lower.get_mut(..host.len())?;
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        let rules = self.hosts.get(&*lower)?;
        rules.iter().find(|(of, ports, _)| *of == socket && ports.contains(port)).map(|(.., rule)| *rule)
    }

    pub(super) fn abstract_name(&self, right: Right, socket: SocketType, name: &[u8]) -> Option<u32> {
        let mut key = [0; 2 + ABSTRACT_MAX];
        let key = key.get_mut(..2 + name.len())?;
        put_abstract_key(right, socket, name, key);
        self.abstracts.get(&*key).copied()
    }
}

pub(super) fn abstract_key(right: Right, socket: SocketType, name: &[u8]) -> Box<[u8]> {
    let mut key = vec![0; 2 + name.len()];
    put_abstract_key(right, socket, name, &mut key);
    key.into()
}

fn put_abstract_key(right: Right, socket: SocketType, name: &[u8], key: &mut [u8]) {
    key[0] = right as u8;
    key[1] = socket.code();
    key[2..].copy_from_slice(name);
}

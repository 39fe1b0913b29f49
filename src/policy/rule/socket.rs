//! `[broker]` Rules about sockets that are no files.

use std::net::SocketAddr;
use std::time::Duration;

use super::SocketOptions;
use crate::policy::info::Place;
use crate::wire::{Network, Ports, Right, SocketType};

/// A rule about sockets that are no files. The descriptors are close-on-exec, and blocking unless it says otherwise.
/// For UNIX sockets with a path, see [`FileRule::connect`](super::FileRule::connect),
/// [`FileRule::listen`](super::FileRule::listen) and [`FileRule::bind`](super::FileRule::bind).
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct SocketRule {
    pub(in crate::policy) right: Right,
    pub(in crate::policy) socket: SocketType,
    pub(in crate::policy) at: At,
    pub(in crate::policy) options: SocketOptions,
    pub(in crate::policy) answers: Vec<Network>,
    pub(in crate::policy) once: bool,
    pub(in crate::policy) place: Place,
}

impl SocketRule {
    #[track_caller]
    pub(super) fn new(right: Right, socket: SocketType, at: At) -> Self {
        // Two UDP sockets of one port would share its datagrams: as std does, SO_REUSEADDR is for TCP alone.
        let options = SocketOptions { reuse_address: right == Right::Listen, ..SocketOptions::DEFAULT };
        Self { right, socket, at, options, answers: Vec::new(), once: false, place: Place::here() }
    }

    /// UDP instead of TCP, for a rule about connected sockets.
    ///
    /// Who it is connected to is the default of a UDP socket, and whom it receives from, but no bound: its holder can
    /// send elsewhere by sendmsg(2) with an address, in a sandbox too, as for [`Rule::bind`](super::Rule::bind).
    pub fn udp(self) -> Self {
        self.socket_type(SocketType::Datagram)
    }

    /// The type of socket: for abstract names.
    pub fn socket_type(mut self, socket: SocketType) -> Self {
        self.socket = socket;
        self
    }

    /// Sets SO_REUSEADDR, or not. Unless said otherwise it is set on sockets that listen, as std does, and not on
    /// others.
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.options.reuse_address = reuse;
        self
    }

    /// Sets SO_REUSEPORT: further sockets of the same user may have the same port.
    pub fn reuse_port(mut self) -> Self {
        self.options.reuse_port = true;
        self
    }

    /// Takes IPv4 connections on an IPv6 socket as well (IPV6_V6ONLY off): of `[::]`, all of the port.
    pub fn dual_stack(mut self) -> Self {
        self.options.dual_stack = true;
        self
    }

    /// Sets O_NONBLOCK, once the socket is connected or listens. The flag belongs to the open file description, which
    /// the worker shares with nobody here.
    pub fn nonblocking(mut self) -> Self {
        self.options.nonblocking = true;
        self
    }

    /// How many connections may wait to be accepted: 128 unless said otherwise; the kernel caps it at
    /// `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u16) -> Self {
        self.options.backlog = i32::from(connections);
        self
    }

    /// How long the broker tries to look up and connect: 10 seconds unless said otherwise. The worker's further
    /// requests wait meanwhile; other workers' do not.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Of what the host's name stands for, only addresses of these networks are connected to. Without, whoever answers
    /// for the name chooses, and may choose an address inside; but none that a rule denies.
    pub fn answers_within(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.answers.extend(networks);
        self
    }

    /// As for [`FileRule::once`](super::FileRule::once).
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// What a rule about sockets is about.
#[derive(Debug, Clone)]
pub(in crate::policy) enum At {
    Network {
        network: Network,
        ports: Ports,
        /// The scope id that a request must have; `None`: none, or any for link-local addresses.
        scope: Option<u32>,
    },
    Host {
        host: String,
        ports: Ports,
    },
    Abstract(Vec<u8>),
    /// An IPv4 address in IPv6 form: no rule can be about one.
    Mapped(SocketAddr),
}

impl At {
    pub(super) fn address(address: SocketAddr) -> Self {
        if address.ip().to_canonical() != address.ip() {
            return Self::Mapped(address);
        }
        let scope = match address {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(v6) => Some(v6.scope_id()),
        };
        Self::Network { network: address.ip().into(), ports: address.port().into(), scope }
    }
}

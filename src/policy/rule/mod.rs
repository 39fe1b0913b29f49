//! `[broker]` Rules, as a program writes them.

mod file;
mod socket;
mod terms;

pub(crate) use file::Scope;
pub use file::{FileKind, FileRule};
pub(super) use socket::At;
pub use socket::SocketRule;
pub(super) use terms::{FileKinds, SocketTypes};
pub(crate) use terms::{SocketOptions, Terms};

use std::net::SocketAddr;
use std::path::PathBuf;

use super::info::Place;
use crate::wire::{Network, Ports, Right, Rights, SocketType};

/// One thing that a policy allows or denies. Made by the functions here, given to
/// [`PolicyBuilder::allow`](crate::policy::PolicyBuilder::allow) or [`deny`](crate::policy::PolicyBuilder::deny).
#[derive(Debug, Clone)]
pub struct Rule {
    pub(in crate::policy) written: Written,
    pub(in crate::policy) place: Place,
}

#[derive(Debug, Clone)]
pub(in crate::policy) enum Written {
    File(FileRule),
    Scratch(ScratchRule),
    Socket(SocketRule),
    Service(ServiceRule),
}

impl Rule {
    /// The object of exactly this name. The directory that holds it is opened when the policy is built, and must exist
    /// then; the object need not. The name is opened as it stands here: nothing of a request's bytes reaches the
    /// kernel. A symbolic link of that name is refused.
    #[track_caller]
    pub fn file(path: impl Into<PathBuf>) -> FileRule {
        FileRule::new(path.into(), Scope::Exact)
    }

    /// Everything beneath this directory, at any depth; the directory itself for [`list`](FileRule::list),
    /// [`stat`](FileRule::stat) and descriptors of directories. It is opened when the policy is built (symbolic links
    /// in its own path are followed then, and a later rename of it changes nothing); beneath it, no symbolic link is
    /// followed at all.
    #[track_caller]
    pub fn beneath(directory: impl Into<PathBuf>) -> FileRule {
        FileRule::new(directory.into(), Scope::Beneath)
    }

    /// Everything whose whole path the pattern matches: `*` stands for any bytes but a slash, also none; `?` for one
    /// byte but a slash; `**`, as a whole component, for any number of components, also none. Everything else stands
    /// for itself. The directory before the first component with a wildcard is opened when the policy is built; where
    /// `**` follows it to the end, the directory itself is matched as by [`beneath`](Self::beneath).
    #[track_caller]
    pub fn glob(pattern: impl Into<PathBuf>) -> FileRule {
        FileRule::new(pattern.into(), Scope::Glob)
    }

    /// Unnamed temporary files, in this directory: open for reading and writing, never visible under a name
    /// (O_TMPFILE), or for no longer than it takes to remove it where the file system cannot do that. A policy has at
    /// most one such rule. The directory is opened when the policy is built, and found again through /proc.
    #[track_caller]
    pub fn scratch(directory: impl Into<PathBuf>) -> ScratchRule {
        ScratchRule { directory: directory.into(), once: false, place: Place::here() }
    }

    /// A TCP socket that listens on exactly this address and port; of an IPv6 address the scope id too, but there is
    /// one rule for an address and port. Port 0 allows a request for port 0, on which the
    /// kernel chooses one. An IPv6 socket takes IPv6 only, unless [`dual_stack`](SocketRule::dual_stack) is said.
    #[track_caller]
    pub fn listen(address: SocketAddr) -> SocketRule {
        SocketRule::new(Right::Listen, SocketType::Stream, At::address(address))
    }

    /// TCP sockets that listen on addresses of this network and ports of this range. Port 0, for which the kernel
    /// chooses one, is allowed by the range of it alone, and by that of all ports.
    #[track_caller]
    pub fn listen_within(network: Network, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Listen, SocketType::Stream, At::Network { network, ports: ports.into(), scope: None })
    }

    /// A listening UNIX socket with this abstract name (without its NUL), of type stream unless
    /// [`socket_type`](SocketRule::socket_type) says otherwise.
    #[track_caller]
    pub fn listen_abstract(name: impl Into<Vec<u8>>) -> SocketRule {
        SocketRule::new(Right::Listen, SocketType::Stream, At::Abstract(name.into()))
    }

    /// A UDP socket that is bound to exactly this address and port; port 0 as for [`listen`](Self::listen).
    ///
    /// Its holder receives from everybody, and sends to every address that it names: no rule limits those. In a worker
    /// that [`Sandbox`](crate::Sandbox) started, sendto(2) with an address is refused, but sendmsg(2) with one is not.
    #[track_caller]
    pub fn bind(address: SocketAddr) -> SocketRule {
        SocketRule::new(Right::Bind, SocketType::Datagram, At::address(address))
    }

    /// UDP sockets that are bound to addresses of this network and ports of this range; port 0 as for
    /// [`listen_within`](Self::listen_within).
    #[track_caller]
    pub fn bind_within(network: Network, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Bind, SocketType::Datagram, At::Network { network, ports: ports.into(), scope: None })
    }

    /// A UNIX datagram socket that is bound to this abstract name (without its NUL).
    #[track_caller]
    pub fn bind_abstract(name: impl Into<Vec<u8>>) -> SocketRule {
        SocketRule::new(Right::Bind, SocketType::Datagram, At::Abstract(name.into()))
    }

    /// A TCP socket connected to exactly this address and port. For UDP, say [`udp`](SocketRule::udp).
    #[track_caller]
    pub fn connect(address: SocketAddr) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::address(address))
    }

    /// TCP sockets connected to addresses of this network and ports of this range. For UDP, say
    /// [`udp`](SocketRule::udp).
    #[track_caller]
    pub fn connect_within(network: Network, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::Network { network, ports: ports.into(), scope: None })
    }

    /// TCP sockets connected to this host, which the broker looks up when it is asked: the worker names the host, and
    /// never an address. For UDP, say [`udp`](SocketRule::udp).
    #[track_caller]
    pub fn connect_name(host: impl Into<String>, ports: impl Into<Ports>) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::Host { host: host.into(), ports: ports.into() })
    }

    /// A socket connected to the UNIX socket with this abstract name (without its NUL), of type stream unless
    /// [`socket_type`](SocketRule::socket_type) says otherwise.
    ///
    /// **Who is at the other end takes the worker for the broker:** SO_PEERCRED there tells the broker's uid, gid and
    /// pid. Grant no service that trusts its callers by those (polkit, D-Bus, databases with peer authentication).
    #[track_caller]
    pub fn connect_abstract(name: impl Into<Vec<u8>>) -> SocketRule {
        SocketRule::new(Right::Connect, SocketType::Stream, At::Abstract(name.into()))
    }

    /// Calls of the service that the daemon has registered by this name ([`Broker::service`](crate::Broker::service)).
    #[track_caller]
    pub fn service(name: impl Into<String>) -> ServiceRule {
        ServiceRule { name: name.into(), rights: Rights::NONE, once: false, place: Place::here() }
    }

    /// Where the rule was written.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The rule stands elsewhere than where it was made, as in a file that was read.
    #[cfg(feature = "policy-file")]
    #[must_use]
    pub(in crate::policy) fn placed(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
}

/// A rule about unnamed temporary files.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct ScratchRule {
    pub(in crate::policy) directory: PathBuf,
    pub(in crate::policy) once: bool,
    pub(in crate::policy) place: Place,
}

impl ScratchRule {
    /// As for [`FileRule::once`].
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// A rule about a service of the daemon's own.
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until a policy is given it"]
pub struct ServiceRule {
    pub(in crate::policy) name: String,
    pub(in crate::policy) rights: Rights,
    pub(in crate::policy) once: bool,
    pub(in crate::policy) place: Place,
}

impl ServiceRule {
    /// Rights that a call may ask for; what they mean is for the service to say. None are needed to call it.
    pub fn grant(mut self, rights: impl Into<Rights>) -> Self {
        self.rights = self.rights.union(rights.into());
        self
    }

    /// As for [`FileRule::once`].
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

macro_rules! into_rule {
    ($($rule:ident => $written:ident),+) => {
        $(impl From<$rule> for Rule {
            fn from(rule: $rule) -> Self {
                Self { place: rule.place.clone(), written: Written::$written(rule) }
            }
        })+
    };
}

into_rule!(FileRule => File, ScratchRule => Scratch, SocketRule => Socket, ServiceRule => Service);

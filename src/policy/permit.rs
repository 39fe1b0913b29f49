//! `[broker]` A yes with its terms, and a no with its reasons.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Policy;
use super::info::Info;
use super::kept::keeps_ip;
use super::narrowing::Networks;
use super::root::Root;
use super::rule::{SocketOptions, Terms};
use super::table::{Table, Use};
use crate::resolve::Way;
use crate::wire::Network;
use crate::wire::path::PathError;
use crate::wire::{Access, Refusal, Rights, SocketType};

/// Says that the policy allows one thing, and on what terms. Only [`Policy::decide`] makes one, and
/// [`Opener`](crate::open::Opener) takes nothing else.
#[derive(Debug)]
#[must_use = "a permit does nothing until it is opened"]
pub struct Permit<'p> {
    rule: Option<&'p Info>,
    /// That of the other end of a renaming.
    other: Option<&'p Info>,
    grant: Grant<'p>,
}

impl<'p> Permit<'p> {
    pub(super) fn new(rule: &'p Info, grant: Grant<'p>) -> Self {
        Self { rule: Some(rule), other: None, grant }
    }

    pub(super) fn by_two(rule: &'p Info, other: &'p Info, grant: Grant<'p>) -> Self {
        Self { rule: Some(rule), other: Some(other), grant }
    }

    pub(super) fn without_rule(grant: Grant<'p>) -> Self {
        Self { rule: None, other: None, grant }
    }

    /// The rule that decided (of a renaming, about the old name); `None` for what an option of the policy allows.
    #[must_use]
    pub fn rule(&self) -> Option<&'p Info> {
        self.rule
    }

    /// The rules that grant it: two where they are about the two ends of a renaming.
    pub fn rules(&self) -> impl Iterator<Item = &'p Info> + use<'p> {
        [self.rule, self.other].into_iter().flatten()
    }

    pub(crate) fn into_grant(self) -> Grant<'p> {
        self.grant
    }

    pub(crate) fn grant(&self) -> &Grant<'p> {
        &self.grant
    }

    /// Links are not followed, whatever the rule says: they would lead around what has been narrowed.
    pub(super) fn forbid_links(&mut self) {
        for at in self.grant.places().into_iter().flatten() {
            at.way.links_within = false;
        }
    }

    /// A name that is looked up leads into these networks only.
    pub(super) fn connect_within(&mut self, networks: &Networks) {
        if let Grant::ConnectName { answers, .. } = &mut self.grant {
            answers.kept = Some(networks.clone());
        }
    }
}

/// A name beneath a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'p> {
    pub(crate) root: &'p Arc<Root>,
    /// Relative to the root, with plain components only; `.` for the root itself.
    pub(crate) name: &'p [u8],
    pub(crate) way: Way,
}

#[derive(Debug)]
pub(crate) enum Grant<'p> {
    Open {
        at: At<'p>,
        access: Access,
        terms: &'p Terms,
    },
    Scratch(&'p Root),
    List {
        at: At<'p>,
        from: u64,
        hidden: Hidden<'p>,
    },
    Stat(At<'p>),
    Readlink(At<'p>),
    Mkdir {
        at: At<'p>,
        mode: u32,
    },
    Unlink(At<'p>),
    Rmdir(At<'p>),
    Rename {
        from: At<'p>,
        to: At<'p>,
        /// Of the rules at both ends.
        terms: [&'p Terms; 2],
    },
    /// Also a bound socket, which is of type datagram.
    Listen {
        socket: SocketType,
        to: Endpoint<'p>,
        options: &'p SocketOptions,
        /// Of the name in the file system.
        mode: u32,
    },
    Connect {
        socket: SocketType,
        to: Endpoint<'p>,
        options: &'p SocketOptions,
    },
    ConnectName {
        socket: SocketType,
        host: &'p [u8],
        port: u16,
        options: &'p SocketOptions,
        answers: Answers<'p>,
    },
    Call {
        service: &'p [u8],
        rights: Rights,
        bytes: &'p [u8],
    },
}

impl<'p> Grant<'p> {
    /// The names that it is about.
    fn places(&mut self) -> [Option<&mut At<'p>>; 2] {
        match self {
            Self::Open { at, .. } | Self::List { at, .. } | Self::Mkdir { at, .. } => [Some(at), None],
            Self::Stat(at) | Self::Readlink(at) | Self::Unlink(at) | Self::Rmdir(at) => [Some(at), None],
            Self::Listen { to: Endpoint::Path(at), .. } | Self::Connect { to: Endpoint::Path(at), .. } => {
                [Some(at), None]
            }
            Self::Rename { from, to, .. } => [Some(from), Some(to)],
            Self::Scratch(_)
            | Self::Listen { .. }
            | Self::Connect { .. }
            | Self::ConnectName { .. }
            | Self::Call { .. } => [None, None],
        }
    }
}

/// Which addresses of a host are connected to.
#[derive(Debug)]
pub(crate) struct Answers<'p> {
    /// If there are any, the only ones.
    pub(super) within: &'p [Network],
    /// Where what is denied stands.
    pub(super) table: &'p Table,
    pub(super) used: Use,
    /// What has been narrowed to.
    pub(super) kept: Option<Networks>,
}

impl Answers<'_> {
    /// Whether this address is one. No IPv4 address in IPv6 form is.
    pub(crate) fn allow(&self, ip: IpAddr, port: u16) -> bool {
        ip.to_canonical() == ip
            && (self.within.is_empty() || self.within.iter().any(|network| network.contains(ip)))
            && self.table.denied_network(self.used, ip, port).is_none()
            && self.kept.as_ref().is_none_or(|kept| keeps_ip(kept, ip, port))
    }
}

/// Where a socket listens or is connected to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Endpoint<'p> {
    Ip(SocketAddr),
    Path(At<'p>),
    Abstract(&'p [u8]),
}

/// Which names of a directory are not to be told.
#[derive(Clone, Copy)]
pub(crate) struct Hidden<'p> {
    pub(super) policy: &'p Policy,
    pub(super) phase: usize,
    pub(super) directory: &'p [u8],
}

impl Hidden<'_> {
    /// Whether the policy denies what has this name.
    pub(crate) fn hides(&self, name: &[u8]) -> bool {
        self.policy.denies_entry(self.phase, self.directory, name)
    }
}

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hidden").field("directory", &self.directory.escape_ascii().to_string()).finish_non_exhaustive()
    }
}

/// A no.
#[derive(Debug, Clone, Copy)]
pub struct Denial<'p> {
    pub(super) refusal: Refusal,
    pub(super) rule: Option<&'p Info>,
    pub(super) why: Why,
}

impl<'p> Denial<'p> {
    /// What the worker is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// The rule that decided, if one did.
    #[must_use]
    pub fn rule(&self) -> Option<&'p Info> {
        self.rule
    }

    /// Why.
    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }
}

/// Why something is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// No rule is about it.
    NoRule,
    /// A rule denies it.
    Denied,
    /// The rule that decides does not grant these rights.
    Lacks(Rights),
    /// The rule that decides does not name this type of socket.
    SocketType(SocketType),
    /// The rule that decides grants it once, and has.
    UsedUp,
    /// The policy grants it, but it has been narrowed away.
    Narrowed,
    /// No rule of this phase grants it. One of an earlier phase does: to ask for it now is a fault.
    PhaseOver,
    /// It is not a path.
    Path(PathError),
    /// No rule can grant it: the text says why.
    Impossible(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule is about it"),
            Self::Denied => f.write_str("a rule denies it"),
            Self::Lacks(rights) => write!(f, "the rule that decides does not grant {rights}"),
            Self::SocketType(socket) => write!(f, "the rule that decides does not name {socket} sockets"),
            Self::UsedUp => f.write_str("the rule that decides grants it once, and has"),
            Self::Narrowed => f.write_str("it has been narrowed away"),
            Self::PhaseOver => f.write_str("only an earlier phase grants it"),
            Self::Path(error) => error.fmt(f),
            Self::Impossible(why) => f.write_str(why),
        }
    }
}

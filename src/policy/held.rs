//! `[broker]` What a policy's rules are about from a phase on: no narrowing can ask for more.

use std::path::PathBuf;

use super::narrowing::Narrowing;
use super::table::{Table, Use, abstract_key};
use super::{Policy, What};
use crate::wire::path;
use crate::wire::{ABSTRACT_MAX, Right, Rights, SocketType};
use crate::wire::{Network, Ports};

/// A narrowing asks for what is not held: no rule of the present phase or a later one is about it, or it was narrowed
/// away before. Nothing has been changed. Ask for what is held, or leave the whole kind away to keep it as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotHeld {
    /// These rights.
    #[error("nothing is narrowed: not held are the rights {0}")]
    Rights(Rights),
    /// This path with all that is beneath it.
    #[error("nothing is narrowed: not held is {}, with all that is beneath it", .0.display())]
    Path(PathBuf),
    /// Connections to all of this network and these ports.
    #[error("nothing is narrowed: not held are connections to {0} ports {1}, not to all of it or not by one rule")]
    Connect(Network, Ports),
    /// To listen on or be bound to all of this network and these ports.
    #[error("nothing is narrowed: not held is {0} ports {1} to listen on, not all of it or not by one rule")]
    Listen(Network, Ports),
    /// Connections to this host.
    #[error("nothing is narrowed: not held are connections to the host {0:?}")]
    Host(String),
    /// UNIX sockets with this abstract name.
    #[error("nothing is narrowed: not held are sockets with the abstract name @{}", .0.escape_ascii())]
    AbstractName(Vec<u8>),
    /// Calls of this service.
    #[error("nothing is narrowed: not held are calls of the service {0:?}")]
    Service(String),
}

impl Policy {
    /// Whether rules of this phase or later ones are about everything that `asked` names.
    pub(super) fn holds(&self, phase: usize, asked: &Narrowing) -> Result<(), NotHeld> {
        if self.is_learning() {
            // What no rule is about is granted as well.
            return Ok(());
        }
        let Narrowing { rights, paths, connect, listen, hosts, abstract_names, services } = asked;
        let tables = || self.phases[phase..].iter().map(|phase| &phase.table);
        if let Some(rights) = rights {
            let held = tables().map(|table| self.rights(table)).fold(Rights::NONE, Rights::union);
            if !held.contains_all(*rights) {
                return Err(NotHeld::Rights(rights.without(held)));
            }
        }
        for path in paths.iter().flatten() {
            check(tables().any(|table| is_about_path(table, path)), || NotHeld::path(path))?;
        }
        for (network, ports) in connect.iter().flat_map(|networks| networks.iter()) {
            let held = |table: &Table| self.connects(table, network, ports);
            check(tables().any(held), || NotHeld::Connect(*network, *ports))?;
        }
        for (network, ports) in listen.iter().flat_map(|networks| networks.iter()) {
            let uses = [Use::ListenTcp, Use::BindUdp];
            let held = |table: &Table| uses.iter().any(|used| table.networks[*used as usize].hold(network, ports));
            check(tables().any(held), || NotHeld::Listen(*network, *ports))?;
        }
        for host in hosts.iter().flatten() {
            check(tables().any(|table| self.has_host(table, host)), || NotHeld::host(host))?;
        }
        for name in abstract_names.iter().flatten() {
            check(tables().any(|table| self.has_abstract(table, name)), || NotHeld::AbstractName(name.to_vec()))?;
        }
        for name in services.iter().flatten() {
            let held = |table: &Table| table.services.get(name).is_some_and(|rule| self.allows(*rule));
            check(tables().any(held), || NotHeld::service(name))?;
        }
        Ok(())
    }

    fn rights(&self, table: &Table) -> Rights {
        let leading = self.stat_leading && !table.leading.is_empty();
        if leading { table.rights.with(Right::Stat) } else { table.rights }
    }

    /// By address, or by a host's name that may stand for such addresses.
    fn connects(&self, table: &Table, network: &Network, ports: &Ports) -> bool {
        let by_address = [Use::ConnectTcp, Use::ConnectUdp];
        let by_name = |(_, of, rule): &(SocketType, Ports, u32)| match &self.rules[*rule as usize].what {
            What::Socket(terms) => {
                let answers = &terms.answers;
                let within = answers.is_empty() || answers.iter().any(|answer| answer.contains_network(network));
                of.contains_range(ports) && within
            }
            _ => false,
        };
        by_address.iter().any(|used| table.networks[*used as usize].hold(network, ports))
            || table.hosts.values().flatten().any(by_name)
    }

    fn has_host(&self, table: &Table, host: &[u8]) -> bool {
        table.hosts.get(host).is_some_and(|rules| rules.iter().any(|(.., rule)| self.allows(*rule)))
    }

    fn has_abstract(&self, table: &Table, name: &[u8]) -> bool {
        let rights = [Right::Listen, Right::Bind, Right::Connect];
        let allows = |right, socket| {
            let rule = table.abstracts.get(&abstract_key(right, socket, name));
            rule.is_some_and(|rule| self.allows(*rule))
        };
        name.len() <= ABSTRACT_MAX
            && rights.into_iter().any(|right| SocketType::ALL.into_iter().any(|socket| allows(right, socket)))
    }

    fn allows(&self, rule: u32) -> bool {
        !matches!(self.rules[rule as usize].what, What::Deny)
    }
}

fn is_about_path(table: &Table, path: &[u8]) -> bool {
    let files = &table.allowed;
    path::check(path).is_ok()
        && table.denied.covering(path).is_none()
        && (files.exact.contains_key(path) || files.tree_around(path).is_some() || files.patterns.reach(path))
}

fn check(held: bool, not_held: impl FnOnce() -> NotHeld) -> Result<(), NotHeld> {
    if held { Ok(()) } else { Err(not_held()) }
}

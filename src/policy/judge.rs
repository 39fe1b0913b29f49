//! `[broker]` One request before one phase's rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::permit::{Answers, Denial, Endpoint, Permit, Why};
use super::table::{Found, Table, Use};
use super::{At, Compiled, FileTerms, Grant, Info, Policy, SocketTerms, What};
use crate::resolve::Way;
use crate::wire::path::{self, PathError};
use crate::wire::{Address, Reason, Refusal, Right, Rights, SocketType};

/// One request before one phase's rules.
pub(super) struct Judge<'p> {
    pub(super) policy: &'p Policy,
    pub(super) table: &'p Table,
    pub(super) needs: Rights,
}

impl<'p> Judge<'p> {
    pub(super) fn denied(&self, rule: Option<u32>, why: Why) -> Denial<'p> {
        let refusal = Refusal { reason: Reason::Denied, errno: self.policy.refuse_with };
        Denial { refusal, rule: rule.map(|rule| &self.rule(rule).info), why }
    }

    fn rule(&self, rule: u32) -> &'p Compiled {
        &self.policy.rules[rule as usize]
    }

    pub(super) fn path(
        &self,
        path: &'p [u8],
        itself: bool,
        grant: impl FnOnce(At<'p>, &'p FileTerms) -> Grant<'p>,
    ) -> Result<Permit<'p>, Denial<'p>> {
        let (rule, at, file) = self.find(path, itself)?;
        Ok(Permit::new(&rule.info, grant(at, file)))
    }

    /// The rule that decides about `path`, if it grants what is needed.
    fn find(&self, path: &'p [u8], itself: bool) -> Result<(&'p Compiled, At<'p>, &'p FileTerms), Denial<'p>> {
        path::check(path).map_err(|wrong| self.no_path(wrong))?;
        if let Some(rule) = self.table.denied.covering(path) {
            return Err(self.denied(Some(rule), Why::Denied));
        }
        let (number, found) = self.table.allowed.find(path, itself).ok_or_else(|| self.denied(None, Why::NoRule))?;
        let rule = self.rule(number);
        let What::File(file) = &rule.what else { return Err(self.denied(Some(number), Why::NoRule)) };
        if !file.rights.contains_all(self.needs) {
            return Err(self.denied(Some(number), Why::Lacks(self.needs.without(file.rights))));
        }
        let name = match found {
            Found::Exact => &file.name[..],
            Found::Beneath(name) => name,
            Found::Itself => b".",
        };
        Ok((rule, At { root: &file.root, name, way: file.terms.way }, file))
    }

    fn no_path(&self, wrong: PathError) -> Denial<'p> {
        let errno = if wrong == PathError::TooLong { libc::ENAMETOOLONG } else { self.policy.refuse_with };
        Denial { refusal: Refusal { reason: Reason::Path, errno }, rule: None, why: Why::Path(wrong) }
    }

    pub(super) fn stat(&self, path: &'p [u8]) -> Result<Permit<'p>, Denial<'p>> {
        let result = self.path(path, true, |at, _| Grant::Stat(at));
        match (&result, self.policy.leading.get(path)) {
            (Err(Denial { why: Why::NoRule | Why::Lacks(_), .. }), Some(root))
                if self.policy.stat_leading && self.table.leading.contains(path) =>
            {
                Ok(Permit::without_rule(Grant::Stat(At { root, name: b".", way: Way::default() })))
            }
            _ => result,
        }
    }

    /// Who makes directories one above the other asks for those that were there before the rules were: that they are is
    /// known without looking.
    pub(super) fn mkdir(
        &self,
        path: &'p [u8],
        grant: impl FnOnce(At<'p>, &'p FileTerms) -> Grant<'p>,
    ) -> Result<Permit<'p>, Denial<'p>> {
        self.path(path, false, grant).map_err(|denial| match denial.why {
            Why::NoRule | Why::Lacks(_) if self.policy.mkdir_says_exists && self.table.leading.contains(path) => {
                Denial { refusal: Refusal { reason: Reason::Failed, errno: libc::EEXIST }, ..denial }
            }
            _ => denial,
        })
    }

    pub(super) fn rename(&self, from: &'p [u8], to: &'p [u8]) -> Result<Permit<'p>, Denial<'p>> {
        // A denial of either end is that, whatever the other is.
        let is_final = |denial: &Denial<'_>| matches!(denial.why, Why::Denied | Why::Path(_));
        let ((rule, from, old), (other, to, new)) = match (self.find(from, false), self.find(to, false)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(from), Err(to)) if is_final(&to) && !is_final(&from) => return Err(to),
            (Err(denial), _) | (_, Err(denial)) => return Err(denial),
        };
        Ok(Permit::by_two(&rule.info, &other.info, Grant::Rename { from, to, terms: [&old.terms, &new.terms] }))
    }

    pub(super) fn scratch(&self) -> Result<Permit<'p>, Denial<'p>> {
        let number = self.table.scratch.ok_or_else(|| self.denied(None, Why::NoRule))?;
        match self.rule(number) {
            Compiled { info, what: What::Scratch(root) } => Ok(Permit::new(info, Grant::Scratch(root))),
            _ => Err(self.denied(Some(number), Why::Denied)),
        }
    }

    pub(super) fn listen(
        &self,
        right: Right,
        socket: SocketType,
        address: Address<'p>,
    ) -> Result<Permit<'p>, Denial<'p>> {
        match address {
            Address::Path(path) => {
                let (rule, at, file) = self.find(path, false)?;
                if right == Right::Listen && !file.terms.listen.contain(socket) {
                    return Err(self.lacks(rule, socket));
                }
                let (to, mode, options) = (Endpoint::Path(at), file.terms.socket_mode, &file.terms.socket);
                Ok(Permit::new(&rule.info, Grant::Listen { socket, to, options, mode }))
            }
            _ => {
                let (info, terms, to) = self.socket(right, socket, address)?;
                Ok(Permit::new(info, Grant::Listen { socket, to, options: &terms.options, mode: 0 }))
            }
        }
    }

    pub(super) fn connect(&self, socket: SocketType, address: Address<'p>) -> Result<Permit<'p>, Denial<'p>> {
        match address {
            Address::Path(path) => {
                let (rule, at, file) = self.find(path, false)?;
                if !file.terms.connect.contain(socket) {
                    return Err(self.lacks(rule, socket));
                }
                let (to, options) = (Endpoint::Path(at), &file.terms.socket);
                Ok(Permit::new(&rule.info, Grant::Connect { socket, to, options }))
            }
            _ => {
                let (info, terms, to) = self.socket(Right::Connect, socket, address)?;
                Ok(Permit::new(info, Grant::Connect { socket, to, options: &terms.options }))
            }
        }
    }

    fn lacks(&self, rule: &'p Compiled, socket: SocketType) -> Denial<'p> {
        Denial { rule: Some(&rule.info), ..self.denied(None, Why::SocketType(socket)) }
    }

    /// The rule about a socket that is no file.
    fn socket(
        &self,
        right: Right,
        socket: SocketType,
        address: Address<'p>,
    ) -> Result<(&'p Info, &'p SocketTerms, Endpoint<'p>), Denial<'p>> {
        let none = || self.denied(None, Why::NoRule);
        let (number, endpoint) = match address {
            Address::Ip(address) => {
                let used = Use::of(right, socket).ok_or_else(none)?;
                // An IPv4 address in IPv6 clothes is in no IPv6 network: whichever spelling a request has, it cannot
                // dodge a rule.
                if let Some(rule) = self.table.denied_network(used, address.ip(), address.port()) {
                    return Err(self.denied(Some(rule), Why::Denied));
                }
                let rule = self.table.network(used, address.ip(), address.port()).ok_or_else(none)?;
                (rule, Endpoint::Ip(address))
            }
            Address::Abstract(name) => {
                let rule = self.table.abstract_name(right, socket, name).ok_or_else(none)?;
                (rule, Endpoint::Abstract(name))
            }
            Address::Path(_) => return Err(none()),
        };
        let Compiled { info, what: What::Socket(terms) } = self.rule(number) else {
            return Err(self.denied(Some(number), Why::Denied));
        };
        if let Endpoint::Ip(address) = endpoint {
            let chosen = right == Right::Connect || address.port() != 0 || terms.ports.is_some_and(|p| p.let_choose());
            if !chosen || !scope_fits(terms.scope, address) {
                return Err(self.denied(None, Why::NoRule));
            }
            // It takes IPv4 as well.
            let used = Use::of(right, socket).filter(|_| terms.options.dual_stack && address.ip() == ANY_IPV6);
            let denied = used.and_then(|used| self.table.denied_network(used, ANY_IPV4, address.port()));
            if let (Some(rule), false) = (denied, right == Right::Connect) {
                return Err(self.denied(Some(rule), Why::Denied));
            }
        }
        Ok((info, terms, endpoint))
    }

    pub(super) fn connect_name(&self, socket: SocketType, host: &'p [u8], port: u16) -> Result<Permit<'p>, Denial<'p>> {
        let none = || self.denied(None, Why::NoRule);
        let used = Use::of(Right::Connect, socket).ok_or_else(none)?;
        let rule = self.table.host(socket, host, port).ok_or_else(none)?;
        match self.rule(rule) {
            Compiled { info, what: What::Socket(SocketTerms { options, answers, .. }) } => {
                let answers = Answers { within: answers, table: self.table, used, kept: None };
                Ok(Permit::new(info, Grant::ConnectName { socket, host, port, options, answers }))
            }
            _ => Err(self.denied(Some(rule), Why::Denied)),
        }
    }

    pub(super) fn call(&self, service: &'p [u8], rights: Rights, bytes: &'p [u8]) -> Result<Permit<'p>, Denial<'p>> {
        let rule = self.table.services.get(service).ok_or_else(|| self.denied(None, Why::NoRule))?;
        match self.rule(*rule) {
            Compiled { info, what: What::Service(granted) } if granted.contains_all(rights) => {
                Ok(Permit::new(info, Grant::Call { service, rights, bytes }))
            }
            Compiled { what: What::Service(granted), .. } => {
                Err(self.denied(Some(*rule), Why::Lacks(rights.without(*granted))))
            }
            _ => Err(self.denied(Some(*rule), Why::Denied)),
        }
    }
}

const ANY_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A rule for one address names its scope id; one for a network leaves it open where addresses are of a link.
fn scope_fits(scope: Option<u32>, address: SocketAddr) -> bool {
    let SocketAddr::V6(v6) = address else { return true };
    match scope {
        Some(scope) => scope == v6.scope_id(),
        None => v6.scope_id() == 0 || matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()),
    }
}

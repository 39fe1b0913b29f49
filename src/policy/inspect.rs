//! `[broker]` Rules as they were given, for who looks at a policy as a whole: the program's `check` and `explain`.

use std::path::Path;

use super::build::{Effect, Rules, describe};
use super::info::Place;
use super::rule::{At, FileKinds, FileRule, Rule, Scope, SocketRule, Written};
use super::{Policy, PolicyBuilder};
use crate::wire::{Network, Ports};
use crate::wire::{Right, Rights, SocketType};

/// One rule of a builder, beside its number in the policy that is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'b> {
    pub(crate) number: u32,
    pub(crate) phase: Option<&'b str>,
    pub(crate) denies: bool,
    rule: &'b Rule,
}

/// Which objects a rule about files is about.
pub(crate) use super::rule::Scope as FileScope;

impl PolicyBuilder {
    /// Every rule, in the order of [`Policy::rules`].
    pub(crate) fn given(&self) -> impl Iterator<Item = Given<'_>> {
        let phases = self.phases.iter().map(|(name, rules)| (Some(&**name), rules));
        let all = std::iter::once((None, &self.rules)).chain(phases);
        let all = all.flat_map(|(phase, rules)| rules.iter().map(move |(rule, effect)| (phase, rule, effect)));
        all.zip(1..).map(|((phase, rule, effect), number)| Given {
            number,
            phase,
            denies: *effect == Effect::Deny,
            rule,
        })
    }

    /// A policy of this rule alone.
    pub(crate) fn only(&self, given: Given<'_>) -> Self {
        let rule = given.rule.clone();
        if given.denies { Policy::builder().deny(rule) } else { Policy::builder().allow(rule) }
    }

    /// Without the rule of this number; those after it have other numbers then.
    pub(crate) fn without(mut self, number: u32) -> Self {
        if let Some((rules, n)) = self.at(number) {
            rules.remove(n);
        }
        self
    }

    /// With another rule in the place of this number.
    pub(crate) fn with_other(mut self, number: u32, rule: Rule) -> Self {
        if let Some((rules, n)) = self.at(number) {
            rules[n].0 = rule;
        }
        self
    }

    /// With the rules that the other one always has.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.rules.extend(other.rules);
        self
    }

    fn at(&mut self, number: u32) -> Option<(&mut Rules, usize)> {
        let mut n = (number as usize).checked_sub(1)?;
        let lists = std::iter::once(&mut self.rules).chain(self.phases.iter_mut().map(|(_, rules)| rules));
        for rules in lists {
            if n < rules.len() {
                return Some((rules, n));
            }
            n -= rules.len();
        }
        None
    }
}

impl<'b> Given<'b> {
    pub(crate) fn place(&self) -> &'b Place {
        &self.rule.place
    }

    /// What it is about, as `beneath /srv/www`.
    pub(crate) fn object(&self) -> String {
        let bare = match &self.rule.written {
            Written::File(rule) => Written::File(FileRule { rights: Rights::NONE, ..rule.clone() }),
            Written::Service(rule) => {
                let mut rule = rule.clone();
                rule.rights = Rights::NONE;
                Written::Service(rule)
            }
            other => other.clone(),
        };
        describe(&bare)
    }

    /// The rights that it names; those that it is about by itself, where it names none.
    pub(crate) fn rights(&self) -> Rights {
        match &self.rule.written {
            _ if self.denies => Rights::NONE,
            Written::File(rule) => rule.rights,
            Written::Scratch(_) => Right::Scratch.into(),
            Written::Socket(rule) => rule.right.into(),
            Written::Service(rule) => rule.rights.with(Right::Call),
        }
    }

    pub(crate) fn once(&self) -> bool {
        match &self.rule.written {
            Written::File(rule) => rule.once,
            Written::Scratch(rule) => rule.once,
            Written::Socket(rule) => rule.once,
            Written::Service(rule) => rule.once,
        }
    }

    pub(crate) fn file(&self) -> Option<File<'b>> {
        match &self.rule.written {
            Written::File(rule) => Some(File(rule)),
            _ => None,
        }
    }

    /// The directory of scratch files.
    pub(crate) fn scratch(&self) -> Option<&'b Path> {
        match &self.rule.written {
            Written::Scratch(rule) => Some(&rule.directory),
            _ => None,
        }
    }

    /// The right, the network and the ports of a rule about IP sockets.
    pub(crate) fn network(&self) -> Option<(Right, Network, Ports)> {
        match &self.rule.written {
            Written::Socket(SocketRule { right, at: At::Network { network, ports, .. }, .. }) => {
                Some((*right, *network, *ports))
            }
            _ => None,
        }
    }

    /// The host, if what its name stands for is not limited.
    pub(crate) fn any_answer(&self) -> Option<&'b str> {
        match &self.rule.written {
            Written::Socket(SocketRule { at: At::Host { host, .. }, answers, .. }) if answers.is_empty() => Some(host),
            _ => None,
        }
    }

    /// The same rule with the rights of `needs` too, if they need nothing else said.
    pub(crate) fn granting(&self, needs: Rights, at: Option<&Path>) -> Option<Rule> {
        let mut rule = match &self.rule.written {
            Written::File(rule) => {
                let mut rule = rule.clone();
                if let Some(path) = at {
                    rule.terms.way.links_within = false;
                    (rule.scope, rule.path) = (Scope::Exact, path.into());
                }
                super::lines::granting(rule, needs).into()
            }
            Written::Service(rule) => Rule::from(rule.clone().grant(needs)),
            _ => return None,
        };
        rule.place = self.rule.place.clone();
        Some(rule)
    }
}

/// A rule about files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File<'b>(&'b FileRule);

impl<'b> File<'b> {
    pub(crate) fn path(&self) -> &'b Path {
        &self.0.path
    }

    pub(crate) fn scope(&self) -> Scope {
        self.0.scope
    }

    pub(crate) fn reopens_root(&self) -> bool {
        self.0.reopen_root
    }

    pub(crate) fn protects_hard_links(&self) -> bool {
        self.0.terms.protect_hard_links
    }

    /// Of the objects that it opens and renames.
    pub(crate) fn kinds(&self) -> FileKinds {
        self.0.terms.kinds
    }
}

impl Rule {
    /// A rule for exactly this path.
    pub(crate) fn bare_file(path: &Path, needs: Rights) -> Self {
        super::lines::granting(Self::file(path), needs).into()
    }

    /// The same for this type of socket too, to be connected or to listen as `needs` says.
    pub(crate) fn with_socket_type(mut self, needs: Rights, socket: SocketType) -> Self {
        if let Written::File(FileRule { terms, .. }) = &mut self.written {
            if needs.contains(Right::Connect) {
                terms.connect = terms.connect.with(socket);
            }
            if needs.contains(Right::Listen) {
                terms.listen = terms.listen.with(socket);
            }
        }
        self
    }
}

//! `[broker]` The rules of one phase together: each in its place, and none against another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use super::{Building, bytes, path_of, unfit};
use crate::error::PolicyError;
use crate::policy::pattern::Pattern;
use crate::policy::rule::{At, FileRule, Scope, SocketRule, Written};
use crate::policy::table::{Files, Table, Use, abstract_key};
use crate::policy::{What, ancestors};
use crate::wire::Ports;
use crate::wire::{Right, Rights, SocketType};

impl Building {
    /// Puts the rules of one phase together.
    pub(super) fn table(&mut self, rules: impl Iterator<Item = u32> + Clone) -> Result<Table, PolicyError> {
        let mut table = Table::default();
        for rule in rules.clone() {
            self.insert(&mut table, rule)?;
            table.rights = table.rights.union(self.rights(rule));
        }
        self.aliases(rules.clone())?;
        for rule in rules {
            self.leads_around(&table, rule)?;
            if self.policy.stat_leading || self.policy.mkdir_says_exists {
                self.lead_to(&mut table, rule)?;
            }
        }
        Ok(table)
    }

    fn insert(&self, table: &mut Table, number: u32) -> Result<(), PolicyError> {
        let denies = matches!(self.policy.rules[number as usize].what, What::Deny);
        let taken = match &self.written[number as usize] {
            Written::File(rule) => {
                let files = if denies { &mut table.denied } else { &mut table.allowed };
                insert_file(files, rule, number).map_err(|taken| {
                    taken.ok_or_else(|| {
                        let why = "over 32 patterns begin with the same directory; a rule for a tree takes fewer words";
                        unfit(self.place(number), self.what(number), why)
                    })
                })
            }
            Written::Scratch(_) => match table.scratch.replace(number) {
                None => Ok(()),
                Some(first) => Err(Ok(first)),
            },
            Written::Service(rule) => insert(&mut table.services, rule.name.as_bytes().into(), number).map_err(Ok),
            Written::Socket(rule) => insert_socket(table, rule, number, denies).map_err(Ok),
        };
        match taken {
            Ok(()) => Ok(()),
            Err(Ok(first)) => Err(self.clash(number, first)),
            Err(Err(error)) => Err(error),
        }
    }

    /// What the rule grants.
    fn rights(&self, rule: u32) -> Rights {
        match (&self.policy.rules[rule as usize].what, &self.written[rule as usize]) {
            (What::Deny, _) => Rights::NONE,
            (_, Written::File(rule)) => rule.rights,
            (_, Written::Scratch(_)) => Right::Scratch.into(),
            (_, Written::Socket(rule)) => rule.right.into(),
            (_, Written::Service(rule)) => rule.rights.with(Right::Call),
        }
    }

    /// Two rules about one object.
    fn clash(&self, second: u32, first: u32) -> PolicyError {
        let denies = |rule: u32| matches!(self.policy.rules[rule as usize].what, What::Deny);
        if denies(second) == denies(first) {
            let (place, first) = (self.place(second).clone(), self.place(first).clone());
            return PolicyError::Duplicate { place, first, what: self.what(second) };
        }
        self.contradiction(second, first, "it is allowed here and denied, or the other way round, at")
    }

    pub(super) fn contradiction(&self, rule: u32, other: u32, why: &'static str) -> PolicyError {
        let (place, other) = (self.place(rule).clone(), self.place(other).clone());
        PolicyError::Contradiction { place, other, what: self.what(rule), why }
    }

    /// # Errors
    /// What this rule allows is denied, all of it, in every one of the tables.
    pub(super) fn is_granted(&self, number: u32, tables: &[&Table]) -> Result<(), PolicyError> {
        let mut denials = tables.iter().map(|table| self.never_granted(table, number));
        match denials.next().flatten() {
            Some(denied) if denials.all(|denied| denied.is_some()) => {
                Err(self.contradiction(number, denied, "it can never be granted: all of it is denied at"))
            }
            _ => Ok(()),
        }
    }

    /// The rule that denies all that this one allows.
    fn never_granted(&self, table: &Table, number: u32) -> Option<u32> {
        if matches!(self.policy.rules[number as usize].what, What::Deny) {
            return None;
        }
        match &self.written[number as usize] {
            Written::File(rule) => {
                let path = bytes(&rule.path);
                match Pattern::new(path) {
                    // By the same pattern, or by what is above its directory.
                    Ok(pattern) if rule.scope == Scope::Glob => {
                        table.denied.patterns.same(path).or_else(|| table.denied.covering(&pattern.directory))
                    }
                    _ => table.denied.covering(path),
                }
            }
            Written::Socket(SocketRule { right, socket, at: At::Network { network, ports, .. }, .. }) => {
                let denied = &table.denied_networks[Use::of(*right, *socket)? as usize];
                denied.holding(network, ports).copied()
            }
            _ => None,
        }
    }

    /// # Errors
    /// The rule leads around another one.
    fn leads_around(&self, table: &Table, number: u32) -> Result<(), PolicyError> {
        let (Written::File(rule), What::File(file)) =
            (&self.written[number as usize], &self.policy.rules[number as usize].what)
        else {
            return Ok(());
        };
        // The directory that the rule is about, or the file.
        let path = bytes(&rule.path);
        let pattern = (rule.scope == Scope::Glob).then(|| Pattern::new(path).ok()).flatten();
        let about = pattern.as_ref().map_or(path, |pattern| &*pattern.directory);
        let leads_around = if file.terms.way.links_within {
            "links inside its directory would lead around the rule at"
        } else if file.rights.contains(Right::Directory) {
            "a descriptor of its directory would lead around the rule at"
        } else {
            return Ok(());
        };
        let inside = |other: &[u8]| other.strip_prefix(about).is_some_and(|rest| rest.starts_with(b"/"));
        for files in [&table.denied, &table.allowed] {
            let trees = files.trees.iter().filter(|(path, _)| inside(path));
            // A pattern that begins further up may match inside.
            let reaches = |directory: &[u8]| directory == about || inside(directory) || is_inside(about, directory);
            // A link to `.` is another name of the directory itself.
            let exact = files.exact.iter().filter(|(path, _)| &***path == about || inside(path));
            let other = exact.chain(trees).map(|(_, rule)| *rule);
            let patterns = files.patterns.iter().filter(|(directory, _)| reaches(directory)).map(|(_, rule)| rule);
            if let Some(other) = other.chain(patterns).find(|other| *other != number) {
                return Err(self.contradiction(number, other, leads_around));
            }
        }
        Ok(())
    }

    /// Notes the directories above what the rule is about.
    fn lead_to(&mut self, table: &mut Table, number: u32) -> Result<(), PolicyError> {
        let (Written::File(rule), What::File(_)) =
            (&self.written[number as usize], &self.policy.rules[number as usize].what)
        else {
            return Ok(());
        };
        // Not that of `rule`, which is where the rule was made.
        let place = self.place(number).clone();
        let path = match Pattern::new(bytes(&rule.path)) {
            Ok(pattern) if rule.scope == Scope::Glob => pattern.directory,
            _ => bytes(&rule.path).into(),
        };
        let itself = (rule.scope != Scope::Exact).then_some(&*path);
        let above = ancestors(&path, path.len()).map(|(directory, _)| directory);
        for directory in itself.into_iter().chain(above).filter(|directory| !directory.is_empty()) {
            if self.policy.stat_leading && !self.policy.leading.contains_key(directory) {
                let root = self.roots.leading(&path_of(directory), &place)?;
                self.policy.leading.insert(directory.into(), root);
            }
            table.leading.insert(directory.into());
        }
        Ok(())
    }
}

fn insert_file(files: &mut Files, rule: &FileRule, number: u32) -> Result<(), Option<u32>> {
    let path = bytes(&rule.path);
    match rule.scope {
        Scope::Exact => {
            files.longest_exact = files.longest_exact.max(path.len());
            insert(&mut files.exact, path.into(), number).map_err(Some)
        }
        Scope::Beneath => {
            files.longest_tree = files.longest_tree.max(path.len());
            insert(&mut files.trees, path.into(), number).map_err(Some)
        }
        // Checked before.
        Scope::Glob => Pattern::new(path).map_err(|_| None).and_then(|pattern| files.patterns.insert(pattern, number)),
    }
}

fn insert_socket(table: &mut Table, rule: &SocketRule, number: u32, denies: bool) -> Result<(), u32> {
    let SocketRule { right, socket, at, .. } = rule;
    match at {
        At::Network { network, ports, .. } => {
            let networks = if denies { &mut table.denied_networks } else { &mut table.networks };
            match Use::of(*right, *socket) {
                Some(used) => networks[used as usize].insert(*network, *ports, number).map_err(|first| *first),
                None => Err(number),
            }
        }
        At::Host { host, ports } => {
            let rules = table.hosts.entry(host.to_ascii_lowercase().into_bytes().into()).or_default();
            let overlaps = |(of, other, _): &&(SocketType, Ports, u32)| of == socket && other.overlaps(ports);
            if let Some((.., first)) = rules.iter().find(overlaps) {
                return Err(*first);
            }
            rules.push((*socket, *ports, number));
            Ok(())
        }
        At::Abstract(name) => insert(&mut table.abstracts, abstract_key(*right, *socket, name), number),
        // Refused before.
        At::Mapped(_) => Err(number),
    }
}

fn insert<K: Eq + Hash>(map: &mut HashMap<K, u32>, key: K, rule: u32) -> Result<(), u32> {
    match map.entry(key) {
        Entry::Occupied(first) => Err(*first.get()),
        Entry::Vacant(place) => {
            place.insert(rule);
            Ok(())
        }
    }
}

fn is_inside(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

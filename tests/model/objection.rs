//! Which policies the model refuses to build: two rules about one object, and rules of which one makes the other
//! meaningless or leads around it.

use fdbroker::wire::Right;

use super::matching::{address_in, glob_directory, is_above};
use super::{About, Model, Rule};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    Duplicate,
    Contradiction,
}

impl Model {
    /// What is wrong with the rules of some phase, compared two by two; several things may be.
    pub fn objections(&self) -> Vec<Objection> {
        let mut found = Vec::new();
        for phase in 0..self.phases.max(1) {
            let holds = |rule: &&Rule| rule.phase.is_none_or(|of| of == phase);
            let rules: Vec<&Rule> = self.rules.iter().filter(holds).collect();
            for (n, one) in rules.iter().enumerate() {
                for (m, other) in rules.iter().enumerate() {
                    found.extend((n < m).then(|| same_object(one, other)).flatten());
                    found.extend((n != m && leads_around(one, other)).then_some(Objection::Contradiction));
                }
            }
        }
        found.extend(self.rules.iter().any(|rule| self.is_never_granted(rule)).then_some(Objection::Contradiction));
        found
    }

    /// Whether there is no phase in which something of the rule is not denied.
    fn is_never_granted(&self, rule: &Rule) -> bool {
        let phases = (0..self.phases.max(1)).filter(|phase| rule.phase.is_none_or(|of| of == *phase));
        let denied = |phase: usize| self.active(phase, true).any(|(_, other)| is_meaningless(rule, other));
        phases.into_iter().all(denied)
    }
}

/// Two rules about one object. Rules about files and networks allow or deny: there a denial is an exception.
fn same_object(one: &Rule, other: &Rule) -> Option<Objection> {
    let overlap = |a: (u16, u16), b: (u16, u16)| (a.0..=a.1).any(|port| (b.0..=b.1).contains(&port));
    let (same, exclusive) = match (&one.about, &other.about) {
        (
            About::Network { right, socket, address, prefix_len, ports, .. },
            About::Network {
                right: right2, socket: socket2, address: address2, prefix_len: len2, ports: ports2, ..
            },
        ) => {
            let network = (right, socket, address, prefix_len) == (right2, socket2, address2, len2);
            (network && overlap(*ports, *ports2), false)
        }
        (About::Host { socket, name, ports }, About::Host { socket: socket2, name: name2, ports: ports2 }) => {
            (socket == socket2 && name.eq_ignore_ascii_case(name2) && overlap(*ports, *ports2), true)
        }
        (About::Scratch(_), About::Scratch(_)) => (true, true),
        (About::Abstract { .. }, About::Abstract { .. }) | (About::Service(_), About::Service(_)) => {
            (one.about == other.about, true)
        }
        (a, b) => (a == b, false),
    };
    match (same, one.denies == other.denies) {
        (true, true) => Some(Objection::Duplicate),
        (true, false) if exclusive => Some(Objection::Contradiction),
        _ => None,
    }
}

/// Nothing of what `rule` allows can ever be had: `other` denies all of it.
fn is_meaningless(rule: &Rule, other: &Rule) -> bool {
    if rule.denies || !other.denies {
        return false;
    }
    let alone = Model { rules: vec![Rule { phase: None, ..other.clone() }], ..Model::default() };
    let denied = |path: &[u8]| alone.most_specific(0, true, path, true).is_some();
    match (&rule.about, &other.about) {
        (About::Exact(path) | About::Beneath(path), _) => denied(path),
        (About::Glob(one), About::Glob(other)) if one == other => true,
        (About::Glob(pattern), _) => denied(&glob_directory(pattern)),
        (
            About::Network { right, socket, address, prefix_len, ports, .. },
            About::Network {
                right: right2, socket: socket2, address: address2, prefix_len: len2, ports: ports2, ..
            },
        ) => {
            (right, socket) == (right2, socket2)
                && len2 <= prefix_len
                && address_in(*address, *address2, *len2)
                && ports2.0 <= ports.0
                && ports.1 <= ports2.1
        }
        _ => false,
    }
}

/// A link inside `rule`'s directory, or a descriptor of it, leads to what `other` says something else of.
fn leads_around(rule: &Rule, other: &Rule) -> bool {
    if rule.denies || !(rule.follows_links || rule.rights.contains(Right::Directory)) {
        return false;
    }
    let about = match &rule.about {
        About::Exact(path) => path.clone(),
        about => match directory(about) {
            Some(directory) => directory,
            None => return false,
        },
    };
    match &other.about {
        About::Exact(path) => *path == about || is_above(&about, path),
        About::Beneath(path) => is_above(&about, path),
        About::Glob(pattern) => {
            let directory = glob_directory(pattern);
            directory == about || is_above(&about, &directory) || is_above(&directory, &about)
        }
        _ => false,
    }
}

fn directory(about: &About) -> Option<Vec<u8>> {
    match about {
        About::Beneath(directory) => Some(directory.clone()),
        About::Glob(pattern) => Some(glob_directory(pattern)),
        _ => None,
    }
}

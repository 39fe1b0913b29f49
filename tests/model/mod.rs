//! A naive model of the policy: a list of rules that are tried one by one. It is written from what the documentation of
//! `fdbroker::policy` says, not from the code: quadratic, allocating, and meant to be read. Used by
//! tests/policy_model.rs and, by its path, by the fuzz targets `decide` and `broker`.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes a part of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

pub mod generate;
pub mod less;
pub mod matching;
pub mod objection;
pub mod real;

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use fdbroker::policy::Why;
use fdbroker::wire::path::{self, PathError};
use fdbroker::wire::{Access, Address, Ask, Reason, Right, Rights, SocketType};

use less::Less;
use matching::{access_needs, address_in, components, glob_matches, is_above, scope_fits};

/// What one worker may have, as a list.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Those of no phase first, then those of each phase: the order in which a policy numbers its rules.
    pub rules: Vec<Rule>,
    /// 0: the policy has no phases. Otherwise they are named `phase 0`, `phase 1`, ...
    pub phases: usize,
    pub errno: i32,
    pub stat_leading: bool,
    pub mkdir_says_exists: bool,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub denies: bool,
    pub about: About,
    /// Rules about files and services.
    pub rights: Rights,
    /// Rules about files: the types of UNIX socket.
    pub connect: Vec<SocketType>,
    pub listen: Vec<SocketType>,
    pub follows_links: bool,
    pub once: bool,
    /// `None`: it always holds.
    pub phase: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum About {
    Exact(Vec<u8>),
    Beneath(Vec<u8>),
    Glob(Vec<u8>),
    Scratch(Vec<u8>),
    Network {
        right: Right,
        socket: SocketType,
        address: IpAddr,
        prefix_len: u8,
        ports: (u16, u16),
        /// A rule for one address: the scope id of requests. `None`: a rule for a network.
        scope: Option<u32>,
    },
    Host {
        socket: SocketType,
        name: String,
        ports: (u16, u16),
    },
    Abstract {
        right: Right,
        socket: SocketType,
        name: Vec<u8>,
    },
    Service(String),
}

/// What one worker has left of it.
#[derive(Debug, Clone)]
pub struct Life {
    pub phase: usize,
    /// By rule.
    pub used_up: Vec<bool>,
    /// All narrowings.
    pub less: Vec<Less>,
}

impl Life {
    pub fn new(model: &Model) -> Self {
        Self { phase: 0, used_up: vec![false; model.rules.len()], less: Vec::new() }
    }
}

/// Yes, with the rules that grant it, by their numbers from 1; or no.
pub type Verdict = Result<Vec<u32>, No>;

#[derive(Debug, Clone, PartialEq)]
pub struct No {
    pub reason: Reason,
    pub errno: i32,
    /// The rule that decided, by its number from 1.
    pub rule: Option<u32>,
    /// What it says in words is not compared.
    pub why: Why,
}

/// A request is about one path, or about what is found without comparing paths.
impl Model {
    pub fn decide(&self, life: &Life, ask: &Ask<'_>) -> Verdict {
        let rules = match self.decide_in(life.phase, ask) {
            Ok(rules) => rules,
            // What an option tells is narrowed as well.
            Err(no) if no.reason == Reason::Failed && !life.less.iter().all(|less| less.keeps(ask)) => {
                return Err(self.no(no.rule, Why::Narrowed));
            }
            Err(no) => {
                let earlier = (0..life.phase).any(|phase| self.decide_in(phase, ask).is_ok());
                return Err(if earlier { No { why: Why::PhaseOver, ..no } } else { no });
            }
        };
        match rules.iter().find(|rule| life.used_up[**rule as usize - 1]) {
            Some(rule) => Err(self.no(Some(*rule), Why::UsedUp)),
            None if life.less.iter().all(|less| less.keeps(ask)) => Ok(rules),
            None => Err(self.no(rules.first().copied(), Why::Narrowed)),
        }
    }

    /// What narrowing does, if it `succeeded`. It has to be refused if something was narrowed away before.
    pub fn narrow(&self, life: &mut Life, less: &Less, succeeded: bool) {
        let held = life.less.iter().all(|earlier| less.is_within(earlier));
        assert!(held || !succeeded, "narrowed to {less:?}, after {:?}", life.less);
        if succeeded {
            life.less.push(less.clone());
        }
    }

    /// What was granted has been had.
    pub fn use_up(&self, life: &mut Life, rules: &[u32]) {
        for rule in rules {
            let rule = *rule as usize - 1;
            life.used_up[rule] = self.rules[rule].once;
        }
    }

    fn decide_in(&self, phase: usize, ask: &Ask<'_>) -> Verdict {
        match *ask {
            Ask::Open { access, path } => {
                let needs = access_needs(access).ok_or_else(impossible)?;
                self.path(phase, path, access.contains(Access::DIRECTORY), needs, None)
            }
            Ask::List { path, .. } => self.path(phase, path, true, Right::List.into(), None),
            Ask::Stat(path) => self.stat(phase, path),
            Ask::Readlink(path) => self.path(phase, path, false, Right::Readlink.into(), None),
            Ask::Mkdir(path) => self.mkdir(phase, path),
            Ask::Unlink(path) => self.path(phase, path, false, Right::Unlink.into(), None),
            Ask::Rmdir(path) => self.path(phase, path, false, Right::Rmdir.into(), None),
            Ask::Rename { from, to } => {
                // A denial of either end comes first, and what is no path.
                let is_final = |no: &No| matches!(no.why, Why::Denied | Why::Path(_));
                let from = self.path(phase, from, false, Right::Rename.into(), None);
                let to = self.path(phase, to, false, Right::Rename.into(), None);
                match (from, to) {
                    (Err(from), Err(to)) if is_final(&to) && !is_final(&from) => Err(to),
                    (Err(from), _) => Err(from),
                    (_, Err(to)) => Err(to),
                    (Ok(from), Ok(to)) => Ok([from, to].concat()),
                }
            }
            Ask::Scratch => self.first(phase, |about| matches!(about, About::Scratch(_))),
            Ask::Listen(SocketType::Datagram, _) => Err(impossible()),
            Ask::Listen(socket, address) => self.socket(phase, Right::Listen, socket, address),
            Ask::Bind(address) => self.socket(phase, Right::Bind, SocketType::Datagram, address),
            Ask::Connect(socket, address) => self.socket(phase, Right::Connect, socket, address),
            Ask::ConnectName { socket: SocketType::SeqPacket, .. } => Err(impossible()),
            Ask::ConnectName { socket, host, port } => self.first(phase, |about| match about {
                About::Host { socket: of, name, ports } => {
                    *of == socket && name.as_bytes().eq_ignore_ascii_case(host) && within(*ports, port)
                }
                _ => false,
            }),
            Ask::Call { service, rights, .. } => {
                let found = self.first(phase, |about| matches!(about, About::Service(n) if n.as_bytes() == service))?;
                let granted = self.rules[found[0] as usize - 1].rights.with(Right::Call);
                if granted.contains_all(rights) {
                    Ok(found)
                } else {
                    Err(self.no(Some(found[0]), Why::Lacks(rights.without(granted))))
                }
            }
            _ => Err(self.no(None, Why::NoRule)),
        }
    }

    /// "What a rule denies is refused, whatever else allows it. Of the rules that allow, the most specific decides,
    /// alone. What that rule does not grant is refused. Where no rule is, everything is refused."
    fn path(
        &self,
        phase: usize,
        path: &[u8],
        itself: bool,
        needs: Rights,
        socket: Option<(Right, SocketType)>,
    ) -> Verdict {
        if let Err(wrong) = path::check(path) {
            let errno = if wrong == PathError::TooLong { libc_enametoolong() } else { self.errno };
            return Err(No { reason: Reason::Path, errno, rule: None, why: Why::Path(wrong) });
        }
        if let Some(rule) = self.most_specific(phase, true, path, true) {
            return Err(self.no(Some(rule), Why::Denied));
        }
        let Some(number) = self.most_specific(phase, false, path, itself) else {
            return Err(self.no(None, Why::NoRule));
        };
        let rule = &self.rules[number as usize - 1];
        if !rule.rights.contains_all(needs) {
            return Err(self.no(Some(number), Why::Lacks(needs.without(rule.rights))));
        }
        match socket {
            Some((Right::Listen, socket)) if !rule.listen.contains(&socket) => {
                Err(self.no(Some(number), Why::SocketType(socket)))
            }
            Some((Right::Connect, socket)) if !rule.connect.contains(&socket) => {
                Err(self.no(Some(number), Why::SocketType(socket)))
            }
            _ => Ok(vec![number]),
        }
    }

    /// "Stat of the directories above those that rules are about."
    fn stat(&self, phase: usize, path: &[u8]) -> Verdict {
        let verdict = self.path(phase, path, true, Right::Stat.into(), None);
        match &verdict {
            Err(No { why: Why::NoRule | Why::Lacks(_), .. }) if self.stat_leading && self.leads(phase, path) => {
                Ok(Vec::new())
            }
            _ => verdict,
        }
    }

    /// "EEXIST, instead of the refusal, to who asks to create a directory above those that rules are about."
    fn mkdir(&self, phase: usize, path: &[u8]) -> Verdict {
        let no = match self.path(phase, path, false, Right::Mkdir.into(), None) {
            Ok(rules) => return Ok(rules),
            Err(no) => no,
        };
        let missing = matches!(no.why, Why::NoRule | Why::Lacks(_));
        if missing && self.mkdir_says_exists && self.leads(phase, path) {
            return Err(No { reason: Reason::Failed, errno: 17, ..no });
        }
        Err(no)
    }

    /// Whether the directory is above what a rule that allows is about, or is that rule's.
    fn leads(&self, phase: usize, path: &[u8]) -> bool {
        self.active(phase, false).any(|(_, rule)| match &rule.about {
            About::Exact(file) => is_above(path, file),
            About::Beneath(directory) => is_above(path, directory) || path == directory,
            About::Glob(pattern) => {
                let directory = matching::glob_directory(pattern);
                is_above(path, &directory) || path == directory
            }
            _ => false,
        })
    }

    fn socket(&self, phase: usize, right: Right, socket: SocketType, address: Address<'_>) -> Verdict {
        match address {
            Address::Path(path) => self.path(phase, path, false, right.into(), Some((right, socket))),
            Address::Abstract(name) => self.first(phase, |about| match about {
                About::Abstract { right: of, socket: kind, name: named } => {
                    *of == right && *kind == socket && named == name
                }
                _ => false,
            }),
            Address::Ip(_) if socket == SocketType::SeqPacket => Err(impossible()),
            Address::Ip(address) => self.network(phase, right, socket, address),
        }
    }

    /// "Of networks the longest prefix", with the port among its ports.
    fn network(&self, phase: usize, right: Right, socket: SocketType, asked: SocketAddr) -> Verdict {
        let binds = right != Right::Connect;
        let any = asked.ip().is_unspecified() && binds;
        let chosen = asked.port() == 0 && binds;
        // "To listen on the unspecified address is denied by a denial of any address of the family, and on port 0 by
        // that of any port."
        let denied = |v4: bool| {
            let about = self.active(phase, true).filter_map(|(number, rule)| match rule.about {
                About::Network { right: of, socket: kind, address, prefix_len, ports, .. }
                    if of == right
                        && kind == socket
                        && address.is_ipv4() == v4
                        && (any || address_in(asked.ip(), address, prefix_len))
                        && (chosen || within(ports, asked.port())) =>
                {
                    Some((prefix_len, Reverse((address, ports.0)), number))
                }
                _ => None,
            });
            // "Of several, of the longest prefix, the lowest network and the lowest ports."
            about.max().map(|(.., number)| number)
        };
        let longest = |denies| {
            let about = self.active(phase, denies).filter_map(|(number, rule)| match rule.about {
                About::Network { right: of, socket: kind, address, prefix_len, ports, scope }
                    if of == right
                        && kind == socket
                        && address_in(asked.ip(), address, prefix_len)
                        && within(ports, asked.port()) =>
                {
                    Some((prefix_len, number, scope, ports))
                }
                _ => None,
            });
            about.max_by_key(|(prefix_len, ..)| *prefix_len)
        };
        if let Some(rule) = denied(asked.is_ipv4()) {
            return Err(self.no(Some(rule), Why::Denied));
        }
        match longest(false) {
            Some((.., ports)) if chosen && ports != (0, 0) && ports != (0, u16::MAX) => Err(self.no(None, Why::NoRule)),
            Some((_, rule, scope, _)) if scope_fits(scope, asked) => Ok(vec![rule]),
            _ => Err(self.no(None, Why::NoRule)),
        }
    }

    /// The rule about an object of which two rules cannot be: it allows or denies.
    fn first(&self, phase: usize, is_about: impl Fn(&About) -> bool) -> Verdict {
        let denied = self.active(phase, true).find(|(_, rule)| is_about(&rule.about));
        if let Some((number, _)) = denied {
            return Err(self.no(Some(number), Why::Denied));
        }
        let allowed = self.active(phase, false).find(|(_, rule)| is_about(&rule.about));
        allowed.map(|(number, _)| vec![number]).ok_or_else(|| self.no(None, Why::NoRule))
    }

    /// "A rule for exactly the path before a pattern, a pattern before a tree; of patterns the one with the most bytes
    /// that stand for themselves, of trees the nearest." Of patterns with equally many the documentation says only that
    /// the order of rules means nothing: here as there the one whose directory is nearer, then the one that sorts
    /// first.
    pub fn most_specific(&self, phase: usize, denies: bool, path: &[u8], itself: bool) -> Option<u32> {
        use std::cmp::Reverse;
        let about = self.active(phase, denies).filter_map(|(number, rule)| match &rule.about {
            About::Exact(file) if file == path => Some((3, 0, 0, Reverse(vec![]), number)),
            // "A name that is denied is denied with everything beneath it."
            About::Exact(file) => {
                (denies && is_above(file, path)).then_some((1, file.len(), 1, Reverse(vec![]), number))
            }
            About::Glob(pattern) => {
                let directory = matching::glob_directory(pattern);
                let counts = itself || directory != path;
                let literal = pattern.iter().filter(|byte| !b"*?".contains(byte)).count();
                let (pattern_of, path_of) = (components(pattern), components(path));
                let above = (1..=path_of.len()).filter(|len| denies || *len == path_of.len());
                let matches = counts && above.into_iter().any(|len| glob_matches(&pattern_of, &path_of[..len]));
                matches.then(|| (2, literal, directory.len(), Reverse(pattern.clone()), number))
            }
            About::Beneath(directory) => {
                let matches = is_above(directory, path) || (itself && directory == path);
                matches.then(|| (1, directory.len(), 0, Reverse(vec![]), number))
            }
            _ => None,
        });
        about.max().map(|(.., number)| number)
    }

    /// The rules that hold in this phase, with their numbers.
    pub fn active(&self, phase: usize, denies: bool) -> impl Iterator<Item = (u32, &Rule)> {
        let numbered = self.rules.iter().zip(1..).map(|(rule, number)| (number, rule));
        numbered.filter(move |(_, rule)| rule.denies == denies && rule.phase.is_none_or(|of| of == phase))
    }

    fn no(&self, rule: Option<u32>, why: Why) -> No {
        No { reason: Reason::Denied, errno: self.errno, rule, why }
    }
}

fn impossible() -> No {
    No { reason: Reason::Impossible, errno: 22, rule: None, why: Why::Impossible("") }
}

const fn libc_enametoolong() -> i32 {
    36
}

fn within((first, last): (u16, u16), port: u16) -> bool {
    (first..=last).contains(&port)
}

//! `[broker]` From rules as they are written to a policy that decides.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::info::{Info, Place};
use super::network::Ports;
use super::pattern::Pattern;
use super::root::{self, Roots};
use super::rule::{At, FileRule, Rule, Scope, ScratchRule, ServiceRule, SocketRule, SocketTypes, Written};
use super::table::{Files, Table, Use, abstract_key};
use super::{Compiled, FileTerms, Phase, Policy, SocketTerms, What, ancestors};
use crate::error::PolicyError;
use crate::open::names;
use crate::wire::path::{self, PathError};
use crate::wire::{ABSTRACT_MAX, Right, Rights, SocketType};

/// Collects rules; [`build`](Self::build) checks them and opens their directories.
#[derive(Debug, Clone)]
pub struct PolicyBuilder {
    pub(super) rules: Rules,
    pub(super) phases: Vec<(String, Rules)>,
    refuse_with: i32,
    stat_leading: bool,
    mkdir_says_exists: bool,
    worker_is_confined: bool,
    #[cfg(feature = "learn")]
    learn: bool,
}

/// Rules as they were given: what they say, and whether they allow or deny it.
pub(super) type Rules = Vec<(Rule, Effect)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

impl Default for PolicyBuilder {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            phases: Vec::new(),
            refuse_with: libc::EACCES,
            stat_leading: false,
            mkdir_says_exists: false,
            worker_is_confined: false,
            #[cfg(feature = "learn")]
            learn: false,
        }
    }
}

impl PolicyBuilder {
    /// Adds a rule. The order of rules means nothing.
    #[must_use]
    pub fn allow(mut self, rule: impl Into<Rule>) -> Self {
        self.rules.push((rule.into(), Effect::Allow));
        self
    }

    /// Refuses everything that `rule` is about, whatever else allows it. The rule names no rights. A rule about a
    /// network is about what it names alone: to deny TCP connections leaves UDP as it was.
    #[must_use]
    pub fn deny(mut self, rule: impl Into<Rule>) -> Self {
        self.rules.push((rule.into(), Effect::Deny));
        self
    }

    /// Adds a phase of the worker's life, with rules that hold in it alone, beside those that always hold. A worker
    /// begins in the phase that is added first; the broker's side says when the next one begins, and there is no way
    /// back. A worker that then asks for what only an earlier phase granted is ended.
    ///
    /// ```
    /// use fdbroker::{Policy, Rule};
    ///
    /// let policy = Policy::builder()
    ///     .phase("pre-auth", |phase| phase.allow(Rule::file("/etc/passwd").read()))
    ///     .phase("post-auth", |phase| phase.allow(Rule::beneath("/usr/share").read()))
    ///     .build()?;
    /// # Ok::<(), fdbroker::PolicyError>(())
    /// ```
    #[must_use]
    pub fn phase(mut self, name: impl Into<String>, rules: impl FnOnce(PhaseBuilder) -> PhaseBuilder) -> Self {
        self.phases.push((name.into(), rules(PhaseBuilder { rules: Vec::new() }).rules));
        self
    }

    /// The errno of a refusal, EACCES (13) unless said otherwise.
    #[must_use]
    pub fn refuse_with(mut self, errno: i32) -> Self {
        self.refuse_with = errno;
        self
    }

    /// Allows [stat](FileRule::stat) of the directories above those that rules are about, and of no others, as programs
    /// ask that walk down to a file.
    #[must_use]
    pub fn stat_leading_directories(mut self) -> Self {
        self.stat_leading = true;
        self
    }

    /// Answers EEXIST, instead of the refusal, to who asks to create a directory above those that rules are about, as
    /// programs ask that create all directories on the way to one.
    #[must_use]
    pub fn mkdir_says_exists(mut self) -> Self {
        self.mkdir_says_exists = true;
        self
    }

    /// The worker has a root directory of its own (chroot(2), pivot_root(2), a container), which is worth nothing with
    /// a descriptor of a directory outside: a rule that [grants one](FileRule::directory_escape) is then an error.
    #[must_use]
    pub fn worker_is_confined(mut self) -> Self {
        self.worker_is_confined = true;
        self
    }

    /// **Grants everything that no rule denies,** as far as the broker's own user may have it, but for descriptors of
    /// directories and services: to learn from the audit which rules a worker needs. A record without a rule is of what
    /// no rule allows. The service of a worker that has such a policy begins with a warning on standard error. Never for
    /// a worker that is exposed to anybody; feature `learn`, which no release of a daemon should have.
    #[cfg(feature = "learn")]
    #[must_use]
    pub fn learn(mut self) -> Self {
        self.learn = true;
        self
    }

    /// Checks the rules and opens their directories, as the user that calls it.
    ///
    /// # Errors
    /// [`PolicyError`], about the first rule that is not right. Every directory that was opened is closed again.
    pub fn build(self) -> Result<Policy, PolicyError> {
        if !(1..=4095).contains(&self.refuse_with) {
            return Err(PolicyError::Errno(self.refuse_with));
        }
        let mut building = Building {
            policy: Policy {
                rules: Vec::new(),
                phases: Vec::new(),
                once: 0,
                refuse_with: self.refuse_with,
                leading: HashMap::new(),
                stat_leading: self.stat_leading,
                mkdir_says_exists: self.mkdir_says_exists,
                resolver: None,
                #[cfg(feature = "learn")]
                learn: None,
            },
            written: Vec::new(),
            roots: Roots::default(),
            worker_is_confined: self.worker_is_confined,
        };
        let always = building.compile_all(self.rules)?;
        let mut phases = Vec::new();
        for (name, rules) in self.phases {
            if name.is_empty() || phases.iter().any(|(other, _)| *other == name) {
                return Err(PolicyError::Phase(name));
            }
            phases.push((name, building.compile_all(rules)?));
        }
        if phases.is_empty() {
            phases.push((String::new(), Vec::new()));
        }
        for (name, rules) in phases {
            let table = building.table(always.iter().chain(&rules).copied())?;
            building.policy.phases.push(Phase { name: name.into(), table });
        }
        #[cfg(feature = "learn")]
        if self.learn {
            building.policy.learn = Some(super::learn::Learn::new(&mut building.roots)?);
        }
        building.policy.resolver = building.roots.resolver();
        Ok(building.policy)
    }
}

/// Collects the rules of one phase.
#[derive(Debug)]
pub struct PhaseBuilder {
    rules: Rules,
}

impl PhaseBuilder {
    /// As [`PolicyBuilder::allow`], for this phase.
    #[must_use]
    pub fn allow(mut self, rule: impl Into<Rule>) -> Self {
        self.rules.push((rule.into(), Effect::Allow));
        self
    }

    /// As [`PolicyBuilder::deny`], for this phase.
    #[must_use]
    pub fn deny(mut self, rule: impl Into<Rule>) -> Self {
        self.rules.push((rule.into(), Effect::Deny));
        self
    }
}

/// A policy that is being built.
struct Building {
    policy: Policy,
    /// Beside the policy's rules: as they were written.
    written: Vec<Written>,
    roots: Roots,
    worker_is_confined: bool,
}

impl Building {
    fn compile_all(&mut self, rules: Rules) -> Result<Vec<u32>, PolicyError> {
        rules.into_iter().map(|(rule, effect)| self.compile(rule, effect)).collect()
    }

    /// Checks one rule by itself, and opens its directory. Answers its place in the policy's list.
    fn compile(&mut self, rule: Rule, effect: Effect) -> Result<u32, PolicyError> {
        let Rule { written, place } = rule;
        let once = match &written {
            Written::File(FileRule { once, .. })
            | Written::Scratch(ScratchRule { once, .. })
            | Written::Socket(SocketRule { once, .. })
            | Written::Service(ServiceRule { once, .. }) => *once,
        };
        let what = match (&written, effect) {
            (Written::File(rule), _) => self.file(rule, effect, &place)?,
            (Written::Scratch(rule), Effect::Allow) => {
                check_path(&rule.directory, &place)?;
                What::Scratch(self.roots.of_scratch(&rule.directory, &place)?)
            }
            (Written::Scratch(_), Effect::Deny) => {
                return Err(unfit(
                    &place,
                    describe(&written),
                    "what is not to be had is not allowed: leave the rule away",
                ));
            }
            (Written::Socket(rule), _) => socket(rule, effect, &place)?,
            (Written::Service(rule), _) => service(rule, effect, &place)?,
        };
        if effect == Effect::Deny && once {
            return Err(unfit(&place, describe(&written), "a denial is no grant: it is not for one time"));
        }
        let number = u32::try_from(self.policy.rules.len()).unwrap_or(u32::MAX);
        let word = if effect == Effect::Allow { "allow" } else { "deny" };
        let text = format!("{word} {}{}", describe(&written), if once { ", once" } else { "" }).into();
        let once = once.then(|| {
            self.policy.once += 1;
            self.policy.once - 1
        });
        self.policy.rules.push(Compiled { info: Info { number: number + 1, text, place, once }, what });
        self.written.push(written);
        Ok(number)
    }

    fn file(&mut self, rule: &FileRule, effect: Effect, place: &Place) -> Result<What, PolicyError> {
        let FileRule { path, scope, rights, terms, reopen_root, .. } = rule;
        let unfit_because = |why: &'static str| unfit(place, path.display().to_string(), why);
        let unfit = |why| Err(unfit_because(why));
        if *scope == Scope::Beneath && path.as_os_str() == "/" {
            return unfit("it would be about every file there is; name the directories that are meant");
        }
        check_path(path, place)?;
        let pattern = match scope {
            Scope::Glob => Some(Pattern::new(bytes(path)).map_err(unfit_because)?),
            Scope::Exact | Scope::Beneath => None,
        };
        if effect == Effect::Deny {
            let plain = rights.is_empty() && *terms == super::Terms::default() && !reopen_root;
            return if plain {
                Ok(What::Deny)
            } else {
                unfit("a denial is of everything: it names no rights and no options")
            };
        }
        if rights.is_empty() {
            return Err(PolicyError::NoRight { place: place.clone(), path: path.clone() });
        }
        if rights.contains(Right::Scratch) || rights.contains(Right::Call) {
            return unfit("scratch files and services have rules of their own");
        }
        if (terms.file_mode | terms.directory_mode | terms.socket_mode) & !0o777 != 0 {
            return unfit("the mode of what is created has at most the bits 0o777: no set-id, no sticky bit");
        }
        if (rights.contains(Right::Connect) && terms.connect == SocketTypes::default())
            || (rights.contains(Right::Listen) && terms.listen == SocketTypes::default())
        {
            return unfit("it names no type of socket: stream, datagram or seqpacket");
        }
        if terms.listen.contain(SocketType::Datagram) {
            return unfit("datagram sockets do not listen: grant to bind one");
        }
        if terms.way.links_within && *scope != Scope::Beneath {
            return unfit("a link would lead to another name than the rule's: follow links beneath a directory only");
        }
        if rights.contains(Right::Directory) && self.worker_is_confined {
            return unfit("the worker is confined to a directory of its own, and a descriptor of another is a way out");
        }
        // A link can be asked about where nothing else is.
        let links = Rights::from([Right::Stat, Right::Readlink, Right::Unlink]).contains_all(*rights);
        let root = match (scope, &pattern) {
            (Scope::Exact, _) => self.roots.of_file(path, *reopen_root, links, place)?,
            (_, Some(pattern)) => self.roots.of_tree(&path_of(&pattern.directory), *reopen_root, place)?,
            (..) => self.roots.of_tree(path, *reopen_root, place)?,
        };
        if terms.way.one_file_system && !root.tells_mounts() {
            return unfit("whether it keeps to one file system cannot be told here: that takes openat2, or Linux 5.8");
        }
        let name = if *scope == Scope::Exact { root::file_name(path).into() } else { Box::default() };
        Ok(What::File(FileTerms { root, name, rights: *rights, terms: *terms }))
    }

    /// Puts the rules of one phase together.
    fn table(&mut self, rules: impl Iterator<Item = u32> + Clone) -> Result<Table, PolicyError> {
        let mut table = Table::default();
        for rule in rules.clone() {
            self.insert(&mut table, rule)?;
            table.rights = table.rights.union(self.rights(rule));
        }
        for rule in rules {
            self.contradictions(&table, rule)?;
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

    fn contradiction(&self, rule: u32, other: u32, why: &'static str) -> PolicyError {
        let (place, other) = (self.place(rule).clone(), self.place(other).clone());
        PolicyError::Contradiction { place, other, what: self.what(rule), why }
    }

    fn contradictions(&self, table: &Table, number: u32) -> Result<(), PolicyError> {
        let (Written::File(rule), What::File(file)) =
            (&self.written[number as usize], &self.policy.rules[number as usize].what)
        else {
            return Ok(());
        };
        // The directory that the rule is about, or the file.
        let path = bytes(&rule.path);
        let pattern = (rule.scope == Scope::Glob).then(|| Pattern::new(path).ok()).flatten();
        let about = pattern.as_ref().map_or(path, |pattern| &*pattern.directory);
        let denied = match rule.scope {
            Scope::Exact => table.denied.any(about),
            Scope::Beneath | Scope::Glob => table.denied.tree_around(about),
        };
        if let Some(denied) = denied {
            return Err(self.contradiction(number, denied, "it can never be granted: all of it is denied at"));
        }
        let leads_around = if file.terms.way.links_within {
            "links inside its directory would lead around the rule at"
        } else if file.rights.contains(Right::Directory) {
            "a descriptor of its directory would lead around the rule at"
        } else {
            return Ok(());
        };
        let inside = |other: &[u8]| other.strip_prefix(about).is_some_and(|rest| rest.starts_with(b"/"));
        for files in [&table.denied, &table.allowed] {
            let exact = files.exact.iter().chain(&files.trees).map(|(path, rule)| (&**path, *rule));
            // A pattern that begins further up may match inside.
            let reaches = |directory: &[u8]| directory == about || inside(directory) || is_inside(about, directory);
            let other = exact.filter(|(path, _)| inside(path)).map(|(_, rule)| rule);
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

    fn place(&self, rule: u32) -> &Place {
        &self.policy.rules[rule as usize].info.place
    }

    fn what(&self, rule: u32) -> String {
        describe(&self.written[rule as usize])
    }
}

fn insert_file(files: &mut Files, rule: &FileRule, number: u32) -> Result<(), Option<u32>> {
    let path = bytes(&rule.path);
    match rule.scope {
        Scope::Exact => insert(&mut files.exact, path.into(), number).map_err(Some),
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

fn socket(rule: &SocketRule, effect: Effect, place: &Place) -> Result<What, PolicyError> {
    let SocketRule { right, socket, at, options, answers, .. } = rule;
    let unfit = |why: &'static str| Err(unfit(place, describe_socket(rule), why));
    if *right == Right::Listen && *socket == SocketType::Datagram {
        return unfit("datagram sockets do not listen: bind one");
    }
    if *right == Right::Bind && *socket != SocketType::Datagram {
        return unfit("only datagram sockets are bound; to have a stream, listen");
    }
    let scope = match at {
        At::Network { .. } | At::Host { .. } if Use::of(*right, *socket).is_none() => {
            return unfit(
                "there are no such sockets over IP: a stream listens or is connected, datagrams are bound or connected",
            );
        }
        At::Mapped(_) => return unfit("it is an IPv4 address in IPv6 form; write the IPv4 address"),
        At::Network { ports, .. } | At::Host { ports, .. } if ports.is_empty() => {
            return unfit("the range of ports ends before it starts: there is none in it");
        }
        At::Network { scope, .. } => *scope,
        At::Host { host, .. } => {
            let wrong = |error: names::HostError| self::unfit(place, describe_socket(rule), error.to_string());
            names::check_host(host.as_bytes()).map_err(wrong)?;
            None
        }
        At::Abstract(name) if !(1..=ABSTRACT_MAX).contains(&name.len()) => {
            return unfit("an abstract name has 1 to 107 bytes");
        }
        At::Abstract(_) => None,
    };
    if !answers.is_empty() && !matches!(at, At::Host { .. }) {
        return unfit("only what a host's name stands for can be limited to networks");
    }
    if effect == Effect::Deny {
        return Ok(What::Deny);
    }
    Ok(What::Socket(SocketTerms { options: *options, scope, answers: answers.clone().into() }))
}

fn service(rule: &ServiceRule, effect: Effect, place: &Place) -> Result<What, PolicyError> {
    if !(1..=255).contains(&rule.name.len()) {
        return Err(unfit(place, format!("service {}", rule.name), "a service's name has 1 to 255 bytes"));
    }
    Ok(if effect == Effect::Deny { What::Deny } else { What::Service(rule.rights.with(Right::Call)) })
}

fn check_path(path: &Path, place: &Place) -> Result<(), PolicyError> {
    let wrong = |source: PathError| PolicyError::Path { place: place.clone(), path: path.to_owned(), source };
    path::check(bytes(path)).map_err(wrong)
}

fn unfit(place: &Place, what: String, why: impl Into<Cow<'static, str>>) -> PolicyError {
    PolicyError::Unfit { place: place.clone(), what, why: why.into() }
}

fn is_inside(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// The object of a rule, and what is granted, in words.
pub(super) fn describe(written: &Written) -> String {
    match written {
        Written::File(rule) => {
            let scope = match rule.scope {
                Scope::Exact => "file",
                Scope::Beneath => "beneath",
                Scope::Glob => "glob",
            };
            let rights = if rule.rights.is_empty() { String::new() } else { format!(": {}", rule.rights) };
            format!("{scope} {}{rights}", bytes(&rule.path).escape_ascii())
        }
        Written::Scratch(rule) => format!("scratch {}", bytes(&rule.directory).escape_ascii()),
        Written::Socket(rule) => describe_socket(rule),
        Written::Service(rule) if rule.rights.is_empty() => format!("service {}", rule.name.escape_debug()),
        Written::Service(rule) => format!("service {}: {}", rule.name.escape_debug(), rule.rights),
    }
}

fn describe_socket(rule: &SocketRule) -> String {
    let SocketRule { right, socket, at, .. } = rule;
    let transport = match (at, socket) {
        (At::Abstract(_), _) => socket.name(),
        (_, SocketType::Datagram) => "udp",
        (_, SocketType::Stream) => "tcp",
        (_, SocketType::SeqPacket) => socket.name(),
    };
    match at {
        At::Network { network, ports, .. } => format!("{right} {transport} {network} ports {ports}"),
        At::Host { host, ports } => format!("{right} {transport} {} ports {ports}", host.escape_debug()),
        At::Abstract(name) => format!("{right} {transport} @{}", name.escape_ascii()),
        At::Mapped(address) => format!("{right} {transport} {address}"),
    }
}

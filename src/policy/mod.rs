//! `[broker]` Request to permit or refusal. Deciding does no I/O, allocates nothing, and takes as long with ten
//! thousand rules as with ten.
//!
//! **What a rule denies is refused,** whatever else allows it, in whichever order rules are written. Of the rules that
//! allow, **the most specific decides, alone:** a rule for exactly the path before a pattern, a pattern before a tree; of
//! patterns the one with the most bytes that stand for themselves, of trees the nearest, of networks the longest prefix.
//! What that rule does not grant is refused, whatever a less specific one grants. Where no rule is, everything is
//! refused.

mod build;
mod held;
mod info;
#[cfg(feature = "cli")]
pub(crate) mod inspect;
mod kept;
#[cfg(feature = "learn")]
mod learn;
#[cfg(all(feature = "learn", feature = "policy-file"))]
mod learned;
#[cfg(any(feature = "cli", all(feature = "learn", feature = "policy-file")))]
mod lines;
mod narrowing;
mod network;
mod pattern;
mod permit;
mod root;
mod rule;
mod standing;
mod table;
mod template;
#[cfg(feature = "policy-file")]
mod text;

pub use build::{PhaseBuilder, PolicyBuilder};
pub use held::NotHeld;
pub use info::{Info, Place};
#[cfg(all(feature = "learn", feature = "policy-file"))]
pub use learned::Learned;
#[cfg(feature = "cli")]
pub(crate) use lines::lines;
pub use narrowing::Narrowing;
pub use network::{Network, NetworkError, Ports, PortsError};
pub(crate) use permit::{Answers, At, Endpoint, Grant, Hidden};
pub use permit::{Denial, Permit, Why};
pub(crate) use root::Root;
pub use rule::{FileKind, FileRule, Rule, ScratchRule, ServiceRule, SocketRule};
pub(crate) use rule::{SocketOptions, Terms};
pub use standing::{NoSuchPhase, Standing};
pub use template::{TemplateError, Values, expand};
#[cfg(feature = "cli")]
pub(crate) use text::unescaped;
#[cfg(feature = "policy-file")]
pub use text::{PolicyFile, TextError, WrittenRule};

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::open::{Resolver, Way};
use crate::wire::path::{self, NAME_MAX, PATH_MAX, PathError};
use crate::wire::{Access, Address, Ask, Reason, Refusal, Right, Rights, SocketType};
use table::{Found, Table, Use};

/// What one worker may have. Immutable, `Send + Sync`; share it between workers of one role with `Arc`.
///
/// ```
/// use fdbroker::{Policy, Rule};
///
/// let logs = std::env::temp_dir();
/// let policy = Policy::builder()
///     .allow(Rule::beneath("/etc").read())
///     .deny(Rule::beneath("/etc/ssl"))
///     .allow(Rule::beneath(&logs).append().create(0o640))
///     .allow(Rule::listen("127.0.0.1:8080".parse()?))
///     .allow(Rule::connect_within("10.0.0.0/8".parse()?, 5432))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Compiled>,
    /// The initial one first. There is always one.
    phases: Vec<Phase>,
    /// How many rules grant one time only.
    once: u32,
    refuse_with: i32,
    /// For questions about directories above those of rules.
    leading: HashMap<Box<[u8]>, Arc<Root>>,
    stat_leading: bool,
    mkdir_says_exists: bool,
    resolver: Option<Resolver>,
    #[cfg(feature = "learn")]
    learn: Option<learn::Learn>,
}

#[derive(Debug)]
struct Phase {
    name: Box<str>,
    table: Table,
}

#[derive(Debug)]
struct Compiled {
    info: Info,
    what: What,
}

#[derive(Debug)]
enum What {
    Deny,
    File(FileTerms),
    Scratch(Arc<Root>),
    Socket(SocketTerms),
    Service(Rights),
}

#[derive(Debug)]
struct FileTerms {
    root: Arc<Root>,
    /// The name to open for a rule about exactly one object: the policy's bytes, never the request's.
    name: Box<[u8]>,
    rights: Rights,
    terms: Terms,
}

#[derive(Debug)]
struct SocketTerms {
    options: SocketOptions,
    scope: Option<u32>,
    answers: Box<[Network]>,
}

impl Policy {
    /// A policy that allows nothing yet.
    #[must_use]
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder::default()
    }

    /// Decides for a worker that has narrowed nothing and is in the initial phase, on the request's bytes and the rules
    /// alone. [`Standing`] decides for a worker in the middle of its life.
    ///
    /// # Errors
    /// A denial. Its refusal is [`Reason::Path`] for a path that is not in the [form](crate::wire::path) of one, with
    /// ENAMETOOLONG for one that is too long; [`Reason::Impossible`] with EINVAL for what no rule can grant;
    /// [`Reason::Denied`] where no rule allows it, with the policy's [errno](PolicyBuilder::refuse_with).
    pub fn decide<'p>(&'p self, ask: &Ask<'p>) -> Result<Permit<'p>, Denial<'p>> {
        self.judge(0, ask)
    }

    /// How names are resolved: `None` if no rule is about names.
    #[must_use]
    pub fn resolver(&self) -> Option<Resolver> {
        self.resolver
    }

    /// The names of the phases, the initial one first. A policy without phases has one, without a name.
    pub fn phases(&self) -> impl ExactSizeIterator<Item = &str> {
        self.phases.iter().map(|phase| &*phase.name)
    }

    /// Every rule, in the order in which they were given.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Info> {
        self.rules.iter().map(|rule| &rule.info)
    }

    /// Whether it grants what no rule allows ([`PolicyBuilder::learn`], feature `learn`).
    #[must_use]
    pub fn is_learning(&self) -> bool {
        #[cfg(feature = "learn")]
        return self.learn.is_some();
        #[cfg(not(feature = "learn"))]
        false
    }

    fn judge<'p>(&'p self, phase: usize, ask: &Ask<'p>) -> Result<Permit<'p>, Denial<'p>> {
        let judged = self.judge_by_rules(phase, ask);
        #[cfg(feature = "learn")]
        if let (Some(learn), Err(Denial { why: Why::NoRule | Why::Lacks(_) | Why::SocketType(_), .. })) =
            (&self.learn, &judged)
        {
            return learn.grant(self, phase, ask).map_or(judged, Ok);
        }
        judged
    }

    fn judge_by_rules<'p>(&'p self, phase: usize, ask: &Ask<'p>) -> Result<Permit<'p>, Denial<'p>> {
        let table = &self.phases[phase].table;
        let needs = ask.needs().map_err(|why| {
            let refusal = Refusal { reason: Reason::Impossible, errno: libc::EINVAL };
            Denial { refusal, rule: None, why: Why::Impossible(why) }
        })?;
        let judge = Judge { policy: self, table, needs };
        match *ask {
            Ask::Open { access, path } => judge.path(path, access.contains(Access::DIRECTORY), |at, file| {
                Grant::Open { at, access, terms: &file.terms }
            }),
            Ask::List { path, from } => judge.path(path, true, |at, _| {
                let hidden = Hidden { policy: self, phase, directory: path };
                Grant::List { at, from, hidden }
            }),
            Ask::Stat(path) => judge.stat(path),
            Ask::Readlink(path) => judge.path(path, false, |at, _| Grant::Readlink(at)),
            Ask::Mkdir(path) => judge.mkdir(path, |at, file| Grant::Mkdir { at, mode: file.terms.directory_mode }),
            Ask::Unlink(path) => judge.path(path, false, |at, _| Grant::Unlink(at)),
            Ask::Rmdir(path) => judge.path(path, false, |at, _| Grant::Rmdir(at)),
            Ask::Rename { from, to } => judge.rename(from, to),
            Ask::Scratch => judge.scratch(),
            Ask::Listen(socket, address) => judge.listen(Right::Listen, socket, address),
            Ask::Bind(address) => judge.listen(Right::Bind, SocketType::Datagram, address),
            Ask::Connect(socket, address) => judge.connect(socket, address),
            Ask::ConnectName { socket, host, port } => judge.connect_name(socket, host, port),
            Ask::Call { service, rights, bytes } => judge.call(service, rights, bytes),
            Ask::Hello | Ask::Narrow(_) | Ask::Batch(_) => Err(judge.denied(None, Why::NoRule)),
        }
    }

    fn denies_entry(&self, phase: usize, directory: &[u8], name: &[u8]) -> bool {
        let mut path = [0; PATH_MAX + 1 + NAME_MAX];
        let (end, len) = (directory.len(), directory.len() + 1 + name.len());
        let Some(path) = path.get_mut(..len) else { return true };
        path[..end].copy_from_slice(directory);
        path[end] = b'/';
        path[end + 1..].copy_from_slice(name);
        self.phases[phase].table.denied.any(path).is_some()
    }
}

/// One request before one phase's rules.
struct Judge<'p> {
    policy: &'p Policy,
    table: &'p Table,
    needs: Rights,
}

impl<'p> Judge<'p> {
    fn denied(&self, rule: Option<u32>, why: Why) -> Denial<'p> {
        let refusal = Refusal { reason: Reason::Denied, errno: self.policy.refuse_with };
        Denial { refusal, rule: rule.map(|rule| &self.rule(rule).info), why }
    }

    fn rule(&self, rule: u32) -> &'p Compiled {
        &self.policy.rules[rule as usize]
    }

    fn path(
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
        if let Some(rule) = self.table.denied.any(path) {
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

    fn stat(&self, path: &'p [u8]) -> Result<Permit<'p>, Denial<'p>> {
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
    fn mkdir(
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

    fn rename(&self, from: &'p [u8], to: &'p [u8]) -> Result<Permit<'p>, Denial<'p>> {
        let (rule, from, old) = self.find(from, false)?;
        let (other, to, new) = self.find(to, false)?;
        Ok(Permit::by_two(&rule.info, &other.info, Grant::Rename { from, to, terms: [&old.terms, &new.terms] }))
    }

    fn scratch(&self) -> Result<Permit<'p>, Denial<'p>> {
        let number = self.table.scratch.ok_or_else(|| self.denied(None, Why::NoRule))?;
        match self.rule(number) {
            Compiled { info, what: What::Scratch(root) } => Ok(Permit::new(info, Grant::Scratch(root))),
            _ => Err(self.denied(Some(number), Why::Denied)),
        }
    }

    fn listen(&self, right: Right, socket: SocketType, address: Address<'p>) -> Result<Permit<'p>, Denial<'p>> {
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

    fn connect(&self, socket: SocketType, address: Address<'p>) -> Result<Permit<'p>, Denial<'p>> {
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
            if !scope_fits(terms.scope, address) {
                return Err(self.denied(None, Why::NoRule));
            }
        }
        Ok((info, terms, endpoint))
    }

    fn connect_name(&self, socket: SocketType, host: &'p [u8], port: u16) -> Result<Permit<'p>, Denial<'p>> {
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

    fn call(&self, service: &'p [u8], rights: Rights, bytes: &'p [u8]) -> Result<Permit<'p>, Denial<'p>> {
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

/// A rule for one address names its scope id; one for a network leaves it open where addresses are of a link.
fn scope_fits(scope: Option<u32>, address: SocketAddr) -> bool {
    let SocketAddr::V6(v6) = address else { return true };
    match scope {
        Some(scope) => scope == v6.scope_id(),
        None => v6.scope_id() == 0 || matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()),
    }
}

/// The directories that `path` is inside, the nearest first, with what of the path comes after each; those longer than
/// `longest` are left out.
fn ancestors(path: &[u8], longest: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut end = path.len().min(longest + 1);
    std::iter::from_fn(move || {
        let slash = path[..end].iter().rposition(|&byte| byte == b'/')?;
        end = slash;
        Some((&path[..slash], &path[slash + 1..]))
    })
}

//! `[broker]` Request to permit or refusal. Deciding does no I/O, allocates nothing, and takes as long with ten
//! thousand rules as with ten.
//!
//! **What a rule denies is refused,** whatever else allows it, in whichever order rules are written. Of the rules that
//! allow, **the most specific decides, alone:** a rule for exactly the path before a pattern, a pattern before a tree;
//! of patterns the one with the most bytes that stand for themselves (of equals in different directories, the nearer),
//! of trees the nearest, of networks the longest prefix that has the port among its ports.
//! What that rule does not grant is refused, whatever a less specific one grants. Where no rule is, everything is
//! refused.

mod build;
mod held;
mod info;
#[cfg(feature = "cli")]
pub(crate) mod inspect;
mod judge;
mod kept;
#[cfg(feature = "learn")]
mod learn;
#[cfg(all(feature = "learn", feature = "policy-file"))]
mod learned;
mod limits;
#[cfg(any(feature = "cli", all(feature = "learn", feature = "policy-file")))]
mod lines;
mod narrowing;
mod networks;
mod pattern;
mod permit;
mod root;
mod rule;
mod standing;
mod table;
mod template;
#[cfg(feature = "policy-file")]
mod text;

pub use crate::wire::{Network, NetworkError, Ports, PortsError};
pub use build::{PhaseBuilder, PolicyBuilder};
pub use held::NotHeld;
pub use info::{Info, Place};
#[cfg(all(feature = "learn", feature = "policy-file"))]
pub use learned::Learned;
pub use limits::Limits;
#[cfg(feature = "cli")]
pub(crate) use lines::lines;
pub use narrowing::Narrowing;
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
use std::sync::Arc;

use crate::resolve::Resolver;
use crate::wire::path::{NAME_MAX, PATH_MAX};
use crate::wire::{Access, Ask, Reason, Refusal, Right, Rights, SocketType};
use judge::Judge;
use table::Table;

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
    ports: Option<Ports>,
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
            Ask::Hello | Ask::Narrow(_) | Ask::Ready | Ask::Batch(_) => Err(judge.denied(None, Why::NoRule)),
        }
    }

    fn denies_entry(&self, phase: usize, directory: &[u8], name: &[u8]) -> bool {
        if self.phases[phase].table.denied.is_empty() {
            return false;
        }
        let mut path = [0; PATH_MAX + 1 + NAME_MAX];
        let (end, len) = (directory.len(), directory.len() + 1 + name.len());
        let Some(path) = path.get_mut(..len) else { return true };
        path[..end].copy_from_slice(directory);
        path[end] = b'/';
        path[end + 1..].copy_from_slice(name);
        self.phases[phase].table.denied.covering(path).is_some()
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

//! `[broker]` From rules as they are written to a policy that decides.

mod alias;
mod compile;
mod together;
mod words;

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::info::Place;
use super::root::Roots;
use super::rule::{Rule, Written};
use super::{Phase, Policy};
use crate::error::PolicyError;
pub(super) use words::describe;

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

    /// Refuses everything that `rule` is about, whatever else allows it. The rule names no rights and no options.
    ///
    /// A name that is denied, by whichever rule about files, is denied with everything beneath it. Denials are by name:
    /// a second mount of a directory, and another spelling where a file system does not tell letters' cases apart, are
    /// other names. A rule about a network is about what it names alone: to deny TCP connections leaves UDP as it was.
    /// To listen on the unspecified address is denied by a denial of any address of the family, and on port 0, for
    /// which the kernel chooses, by that of any port.
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

    /// Allows [stat](super::FileRule::stat) of the directories above those that rules are about, and of no others, as
    /// programs ask that walk down to a file.
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
    /// a descriptor of a directory outside: a rule that [grants one](super::FileRule::directory_escape) is then an
    /// error.
    #[must_use]
    pub fn worker_is_confined(mut self) -> Self {
        self.worker_is_confined = true;
        self
    }

    /// **Grants everything that no rule denies,** as far as the broker's own user may have it, but for descriptors of
    /// directories and services: to learn from the audit which rules a worker needs. A record without a rule is of what
    /// no rule allows. The service of a worker that has such a policy begins with a warning on standard error. Never
    /// for a worker that is exposed to anybody; feature `learn`, which no release of a daemon should have.
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
        let mut tables = Vec::new();
        for (_, rules) in &phases {
            let table = building.table(always.iter().chain(rules).copied())?;
            rules.iter().try_for_each(|rule| building.is_granted(*rule, &[&table]))?;
            tables.push(table);
        }
        let all: Vec<_> = tables.iter().collect();
        always.iter().try_for_each(|rule| building.is_granted(*rule, &all))?;
        let phases = phases.into_iter().zip(tables);
        building.policy.phases = phases.map(|((name, _), table)| Phase { name: name.into(), table }).collect();
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
    fn place(&self, rule: u32) -> &Place {
        &self.policy.rules[rule as usize].info.place
    }

    fn what(&self, rule: u32) -> String {
        describe(&self.written[rule as usize])
    }
}

fn unfit(place: &Place, what: String, why: impl Into<Cow<'static, str>>) -> PolicyError {
    PolicyError::Unfit { place: place.clone(), what, why: why.into() }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

//! `[broker]` A policy file as a whole: its tables, and what is wrong with what they say together.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::OsStringExt;

use serde::{Deserialize, Serialize};

use super::rule::{RuleText, Wrong};
use super::value::{Count, List, Refusal};
use crate::policy::Limits;
use crate::wire::MAX_REPLY;

/// The text of a policy. What is left away has the builder's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "a policy: a table")]
pub(super) struct FileText {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refuse_with: Option<Refusal>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) stat_leading_directories: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) mkdir_says_exists: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) worker_is_confined: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsText>,
    #[serde(skip_serializing_if = "List::is_empty")]
    allow: List<RuleText>,
    #[serde(skip_serializing_if = "List::is_empty")]
    deny: List<RuleText>,
    #[serde(skip_serializing_if = "List::is_empty")]
    phase: List<PhaseText>,
}

/// The keys of [`FileText`].
pub(super) const TOP_KEYS: &[&str] = &[
    "allow",
    "deny",
    "phase",
    "limits",
    "refuse-with",
    "stat-leading-directories",
    "mkdir-says-exists",
    "worker-is-confined",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a phase: a table with its name")]
struct PhaseText {
    name: String,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    allow: List<RuleText>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    deny: List<RuleText>,
}

/// The keys of [`PhaseText`].
pub(super) const PHASE_KEYS: &[&str] = &["name", "allow", "deny"];

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "limits: a table")]
struct LimitsText {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_in_flight: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_queued: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptors_outstanding: Option<Count>,
}

/// The keys of [`LimitsText`].
pub(super) const LIMIT_KEYS: &[&str] =
    &["requests-in-flight", "bytes-queued", "requests-per-second", "descriptors-outstanding"];

/// One step of the way to a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Key(&'static str),
    /// In a list, from 0.
    Number(usize),
}

/// What is wrong, and the way to it.
pub(super) struct Fault {
    pub(super) steps: Vec<Step>,
    pub(super) why: String,
}

impl Fault {
    /// Where there are no lines: the keys, and the numbers of rules and phases from 1.
    pub(super) fn in_words(&self) -> String {
        let mut words = String::new();
        for step in &self.steps {
            match step {
                Step::Key(key) if words.is_empty() => words.push_str(key),
                // To a string, always.
                Step::Key(key) => drop(write!(words, ", {key}")),
                Step::Number(n) => drop(write!(words, " {}", n + 1)),
            }
        }
        format!("{words}: {}", self.why)
    }
}

/// A rule and where it stands.
pub(super) struct Entry<'f> {
    /// The number of the phase that it is in, from 0.
    pub(super) phase: Option<usize>,
    pub(super) denies: bool,
    /// Its number in its list, from 0.
    number: usize,
    pub(super) rule: &'f RuleText,
}

impl Entry<'_> {
    pub(super) fn steps(&self) -> Vec<Step> {
        let phase = self.phase.map(|phase| [Step::Key("phase"), Step::Number(phase)]);
        let list = if self.denies { "deny" } else { "allow" };
        phase.into_iter().flatten().chain([Step::Key(list), Step::Number(self.number)]).collect()
    }
}

impl FileText {
    /// Every rule, in the order in which the policy is given them.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let phases = self.phase.0.iter().enumerate().map(|(n, phase)| (Some(n), &phase.allow, &phase.deny));
        std::iter::once((None, &self.allow, &self.deny)).chain(phases).flat_map(|(phase, allow, deny)| {
            let allow =
                allow.0.iter().enumerate().map(move |(number, rule)| Entry { phase, denies: false, number, rule });
            let deny = deny.0.iter().enumerate().map(move |(number, rule)| Entry { phase, denies: true, number, rule });
            allow.chain(deny)
        })
    }

    /// The names of the phases.
    pub(super) fn phases(&self) -> impl Iterator<Item = &str> {
        self.phase.0.iter().map(|phase| &*phase.name)
    }

    /// Finds what is wrong with values that are right by themselves.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let as_written = |_, name: &super::value::Name| Ok(OsString::from_vec(name.0.clone()).into());
        for entry in self.entries() {
            if let Err(Wrong { key, why }) = entry.rule.rule(entry.denies, &as_written) {
                let steps = entry.steps().into_iter().chain(key.map(Step::Key)).collect();
                return Err(Fault { steps, why });
            }
        }
        for (n, name) in self.phases().enumerate() {
            if name.is_empty() || self.phases().take(n).any(|other| other == name) {
                let steps = vec![Step::Key("phase"), Step::Number(n), Step::Key("name")];
                let taken = if name.is_empty() { "it has none" } else { "another phase has this one" };
                return Err(Fault { steps, why: format!("each phase has a name of its own: {taken}") });
            }
        }
        let queue = self.limits.and_then(|limits| limits.bytes_queued);
        match queue.filter(|bytes| (*bytes as usize) < MAX_REPLY || i32::try_from(*bytes).is_err()) {
            Some(bytes) => {
                let steps = vec![Step::Key("limits"), Step::Key("bytes-queued")];
                let why = format!("{bytes} is no size of a queue: write {MAX_REPLY} (one reply) to {}", i32::MAX);
                Err(Fault { steps, why })
            }
            None => Ok(()),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let LimitsText { requests_in_flight, bytes_queued, requests_per_second, descriptors_outstanding } =
            self.limits.unwrap_or_default();
        let mut limits = Limits::new();
        if let Some(Count(requests)) = requests_in_flight {
            limits = limits.requests_in_flight(requests);
        }
        if let Some(bytes) = bytes_queued {
            limits = limits.bytes_queued(bytes as usize);
        }
        if let Some(Count(requests)) = requests_per_second {
            limits = limits.requests_per_second(requests);
        }
        if let Some(Count(descriptors)) = descriptors_outstanding {
            limits = limits.descriptors_outstanding(descriptors);
        }
        limits
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(said: &bool) -> bool {
    !said
}

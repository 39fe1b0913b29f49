//! `[broker]` What was enforced, not what was asked.

use std::fmt;

/// One wall between a worker and the rest of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// Nothing is open but standard input, output and error.
    Descriptors,
    /// Another user than the broker's, without groups.
    User,
    /// A user namespace of its own, for a broker that is not root.
    UserNamespace,
    /// No capability in any set.
    Capabilities,
    /// No program that it executes can gain privileges.
    NoNewPrivs,
    /// Landlock: files, TCP, signals and abstract sockets.
    Landlock,
    /// The system-call filter.
    Seccomp,
    /// Other processes of its user cannot trace it, and its memory cannot be dumped.
    NotDumpable,
}

impl Layer {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::User => "user",
            Self::UserNamespace => "user namespace",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::NotDumpable => "not dumpable",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which layers hold around a worker, and why the others do not. [`Display`](fmt::Display) makes an aligned table of
/// it.
#[derive(Debug, Clone, Default)]
pub struct Enforced(Vec<(Layer, Result<String, String>)>);

impl Enforced {
    pub(super) fn push(&mut self, layer: Layer, state: Result<String, String>) {
        self.0.push((layer, state));
    }

    /// Each layer with what it is, or with the reason why it is not there.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, Result<&str, &str>)> {
        self.0.iter().map(|(layer, state)| (*layer, state.as_deref().map_err(String::as_str)))
    }

    /// Whether this layer holds.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        self.0.iter().any(|(known, state)| *known == layer && state.is_ok())
    }

    /// Whether every layer holds that has a place in this sandbox.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.iter().all(|(_, state)| state.is_ok())
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (layer, state)) in self.layers().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            match state {
                Ok(what) => write!(f, "{newline}{layer:<15} yes  {what}")?,
                Err(why) => write!(f, "{newline}{layer:<15} NO   {why}")?,
            }
        }
        Ok(())
    }
}

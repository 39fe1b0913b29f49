//! `[both]` The walls that can stand around a worker, and which of them a preset wants.

use std::fmt;
use std::str::FromStr;

/// One wall between a worker and the rest of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// Nothing is open but the descriptors that were declared.
    Descriptors,
    /// Another user than the broker's, with no groups but those that were declared. Root's workers only.
    User,
    /// A user namespace of its own, in which it is nobody else. For a broker that is not root: it gives the right to
    /// make the other namespaces.
    UserNamespace,
    /// A mount namespace of its own.
    MountNamespace,
    /// An empty, read-only root directory, with the files in it that the program needs to get going.
    Root,
    /// A PID namespace of its own, in which it is process 1: what it starts ends with it, and it sees no other process.
    PidNamespace,
    /// An IPC namespace of its own: System V objects and POSIX message queues.
    IpcNamespace,
    /// A UTS namespace of its own: the host's name.
    UtsNamespace,
    /// A cgroup namespace of its own.
    CgroupNamespace,
    /// A network namespace of its own, without interfaces but a loopback that is down.
    NetworkNamespace,
    /// No capability in any set.
    Capabilities,
    /// User 0 has no capabilities by being user 0, for good.
    Securebits,
    /// No program that it executes can gain privileges.
    NoNewPrivs,
    /// Resource limits.
    Limits,
    /// The end of the broker is its end.
    DieWithParent,
    /// Landlock: files, TCP, signals and abstract sockets.
    Landlock,
    /// The system-call filter.
    Seccomp,
    /// It executes no program but the one that it was started with. Not to be had on riscv64, where a program finds in its
    /// registers what let it pass: it can use that again.
    ExecOnce,
    /// Its memory is written to no core dump, and nobody of its user may trace it.
    NotDumpable,
}

impl Layer {
    /// All of them, as a report lists them.
    pub const ALL: [Self; 19] = [
        Self::Descriptors,
        Self::User,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::Root,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::NetworkNamespace,
        Self::Capabilities,
        Self::Securebits,
        Self::NoNewPrivs,
        Self::Limits,
        Self::DieWithParent,
        Self::Landlock,
        Self::Seccomp,
        Self::ExecOnce,
        Self::NotDumpable,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::User => "user",
            Self::UserNamespace => "user namespace",
            Self::MountNamespace => "mount namespace",
            Self::Root => "root",
            Self::PidNamespace => "pid namespace",
            Self::IpcNamespace => "ipc namespace",
            Self::UtsNamespace => "uts namespace",
            Self::CgroupNamespace => "cgroup namespace",
            Self::NetworkNamespace => "network namespace",
            Self::Capabilities => "capabilities",
            Self::Securebits => "securebits",
            Self::NoNewPrivs => "no_new_privs",
            Self::Limits => "limits",
            Self::DieWithParent => "die with parent",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::ExecOnce => "exec once",
            Self::NotDumpable => "not dumpable",
        }
    }

    /// What it is, in a line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Descriptors => "nothing is open but the descriptors that were declared",
            Self::User => "another user than the broker's, and no groups; for root's workers",
            Self::UserNamespace => "a user namespace, with which users who are not root get the other namespaces",
            Self::MountNamespace => "mounts of its own",
            Self::Root => "an empty, read-only root directory, with the files that the program needs to start",
            Self::PidNamespace => "process ids of its own: it sees no other process, and what it starts ends with it",
            Self::IpcNamespace => "System V objects and POSIX message queues of its own",
            Self::UtsNamespace => "a host name of its own",
            Self::CgroupNamespace => "a view of the cgroups of its own",
            Self::NetworkNamespace => "a network of its own, without interfaces but a loopback that is down",
            Self::Capabilities => "no capability in any set",
            Self::Securebits => "no capabilities by being user 0, for good",
            Self::NoNewPrivs => "no program that it executes can gain privileges",
            Self::Limits => "resource limits",
            Self::DieWithParent => "the broker's end is its end",
            Self::Landlock => "Landlock: no files, TCP, signals and abstract sockets but what was granted",
            Self::Seccomp => "the system-call filter",
            Self::ExecOnce => "it executes no program but the one that it was started with",
            Self::NotDumpable => "no core dumps, no tracing by others of its user; by the worker itself, in lockdown",
        }
    }

    /// The CLONE_NEW* flag of a namespace.
    pub(super) fn flag(self) -> Option<u64> {
        let flag = match self {
            Self::UserNamespace => libc::CLONE_NEWUSER,
            Self::MountNamespace => libc::CLONE_NEWNS,
            Self::PidNamespace => libc::CLONE_NEWPID,
            Self::IpcNamespace => libc::CLONE_NEWIPC,
            Self::UtsNamespace => libc::CLONE_NEWUTS,
            Self::CgroupNamespace => libc::CLONE_NEWCGROUP,
            Self::NetworkNamespace => libc::CLONE_NEWNET,
            _ => return None,
        };
        u64::try_from(flag).ok()
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its name. In the place of a space, `-` and `_` are as good.
impl FromStr for Layer {
    type Err = UnknownLayer;

    fn from_str(text: &str) -> Result<Self, UnknownLayer> {
        let known = Self::ALL.into_iter().find(|layer| same_words(layer.name(), text));
        known.ok_or_else(|| UnknownLayer(text.to_owned()))
    }
}

/// The word is that of no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no layer of a sandbox: they are {names}", names = Layer::ALL.map(Layer::name).join(", "))]
pub struct UnknownLayer(pub String);

/// Whether these are the same words, whatever joins them.
pub(super) fn same_words(one: &str, other: &str) -> bool {
    let joint = |c| matches!(c, ' ' | '-' | '_');
    one.split(joint).eq(other.split(joint))
}

/// How much a layer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Without it, there is no worker: an error, before the worker's first instruction.
    Required,
    /// It is put up where this host has it; [`Enforced`](super::Enforced) says where not, and why.
    IfAvailable,
    /// It is not put up.
    Off,
}

impl Mode {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::IfAvailable => "if available",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which layers a sandbox has, before any is asked for by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// What is to be had without namespaces.
    Floor,
    /// The floor, with an empty root and namespaces that cost little.
    #[default]
    Standard,
    /// Everything: the standard, with a network and a PID namespace.
    Full,
}

impl Preset {
    /// All of them, from less to more.
    pub const ALL: [Self; 3] = [Self::Floor, Self::Standard, Self::Full];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Standard => "standard",
            Self::Full => "full",
        }
    }

    /// What it is for, in a line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Floor => {
                "what is to be had without namespaces: Landlock, the filter, limits; for hosts that have none"
            }
            Self::Standard => {
                "an empty read-only root and cheap namespaces as well; the filter refuses sockets; for most workers"
            }
            Self::Full => {
                "a network and a PID namespace as well; for workers that make sockets or processes of their own"
            }
        }
    }

    /// What it wants of a layer.
    #[must_use]
    pub const fn mode(self, layer: Layer) -> Mode {
        match (self, layer) {
            // It is not to be had there, of no kernel: the report says so.
            (_, Layer::ExecOnce) if cfg!(target_arch = "riscv64") => Mode::IfAvailable,
            (_, Layer::Descriptors | Layer::NoNewPrivs | Layer::Seccomp | Layer::ExecOnce | Layer::Limits) => {
                Mode::Required
            }
            // After exec, nobody but the worker itself can see to that: `lockdown`.
            (_, Layer::NotDumpable) => Mode::Off,
            (_, Layer::User | Layer::Capabilities | Layer::Securebits | Layer::DieWithParent | Layer::Landlock)
            | (Self::Full, _) => Mode::IfAvailable,
            (Self::Floor, _) | (Self::Standard, Layer::PidNamespace | Layer::NetworkNamespace) => Mode::Off,
            (Self::Standard, _) => Mode::IfAvailable,
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(text: &str) -> Result<Self, UnknownPreset> {
        Self::ALL.into_iter().find(|preset| preset.name() == text).ok_or(UnknownPreset(()))
    }
}

/// The word is that of no preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such preset: there are floor, standard and full")]
pub struct UnknownPreset(());

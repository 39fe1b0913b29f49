//! `[broker -> worker]` Resource limits.

use std::fmt;
use std::str::FromStr;

use super::layer::same_words;

/// A resource of which a worker can be given a limited amount: getrlimit(2). The limit is the soft and the hard one, so
/// that the worker cannot raise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// Bytes of address space (RLIMIT_AS): what is beyond is not to be had, and most programs then end themselves.
    Memory,
    /// Bytes of heap, of data and of private writable mappings (RLIMIT_DATA).
    Data,
    /// Bytes of the main thread's stack (RLIMIT_STACK).
    Stack,
    /// Bytes of memory that cannot be swapped out (RLIMIT_MEMLOCK).
    LockedMemory,
    /// Descriptors: one more than the highest number (RLIMIT_NOFILE). What is passed on to it counts.
    Descriptors,
    /// Processes and threads of its *user*, on the whole system (RLIMIT_NPROC): others of that user count.
    Processes,
    /// Signals of its *user* that are queued, and timers that would queue one (RLIMIT_SIGPENDING): others of that user count.
    PendingSignals,
    /// Bytes of a file that it writes to (RLIMIT_FSIZE); SIGXFSZ ends it there.
    FileSize,
    /// Bytes of a core dump (RLIMIT_CORE). 0 in every sandbox, unless said otherwise.
    Core,
    /// Seconds of processor time (RLIMIT_CPU); SIGKILL ends it there.
    CpuTime,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Memory,
        Self::Data,
        Self::Stack,
        Self::LockedMemory,
        Self::Descriptors,
        Self::Processes,
        Self::PendingSignals,
        Self::FileSize,
        Self::Core,
        Self::CpuTime,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Data => "data",
            Self::Stack => "stack",
            Self::LockedMemory => "locked memory",
            Self::Descriptors => "descriptors",
            Self::Processes => "processes",
            Self::PendingSignals => "pending signals",
            Self::FileSize => "file size",
            Self::Core => "core",
            Self::CpuTime => "cpu time",
        }
    }

    /// What it counts, in a line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Memory => "bytes of address space",
            Self::Data => "bytes of heap, data and private writable mappings",
            Self::Stack => "bytes of the main thread's stack",
            Self::LockedMemory => "bytes of memory that cannot be swapped out",
            Self::Descriptors => "open descriptors: one more than the highest number",
            Self::Processes => "processes and threads of its user, on the whole system",
            Self::PendingSignals => "queued signals, and timers, of its user, on the whole system",
            Self::FileSize => "bytes of a file that it writes to",
            Self::Core => "bytes of a core dump; 0 unless said otherwise",
            Self::CpuTime => "seconds of processor time",
        }
    }

    /// Its number.
    #[allow(clippy::unnecessary_cast, reason = "musl declares them as c_int")]
    pub(super) fn resource(self) -> u32 {
        (match self {
            Self::Memory => libc::RLIMIT_AS,
            Self::Data => libc::RLIMIT_DATA,
            Self::Stack => libc::RLIMIT_STACK,
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
            Self::Descriptors => libc::RLIMIT_NOFILE,
            Self::Processes => libc::RLIMIT_NPROC,
            Self::PendingSignals => libc::RLIMIT_SIGPENDING,
            Self::FileSize => libc::RLIMIT_FSIZE,
            Self::Core => libc::RLIMIT_CORE,
            Self::CpuTime => libc::RLIMIT_CPU,
        }) as u32
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its name. In the place of a space, `-` and `_` are as good.
impl FromStr for Limit {
    type Err = UnknownLimit;

    fn from_str(text: &str) -> Result<Self, UnknownLimit> {
        let known = Self::ALL.into_iter().find(|limit| same_words(limit.name(), text));
        known.ok_or_else(|| UnknownLimit(text.to_owned()))
    }
}

/// The word is that of no resource that can be limited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no resource with a limit: they are {names}", names = Limit::ALL.map(Limit::name).join(", "))]
pub struct UnknownLimit(pub String);

//! `[both]` What a filter allows, in words.

use std::fmt;
use std::str::FromStr;

/// What a worker may do beyond what every worker may, in the spirit of OpenBSD's pledge(2): a purpose, not a system
/// call.
///
/// Every worker has, without a word: memory for its data, time, its own signals, input, output and waiting on the
/// descriptors that it holds, receiving descriptors and sending its own over a socket, giving up more rights of its
/// own, and its end.
///
/// A filter sees numbers, not what is behind a pointer. So a word allows a kind of system call, and where it reaches is
/// for the other layers: the root, Landlock, the user, the namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Word {
    /// Threads of its own.
    Threads,
    /// Processes of its own: fork(2), waiting for them, process groups and sessions. Signals to other processes only
    /// where Landlock (ABI 6) keeps them inside the sandbox.
    ///
    /// Without it there are none, because they outlive the worker and hold its channel. With a PID namespace they do
    /// not: the kernel kills them all with the worker, which is process 1 there. Never is a new process in new
    /// namespaces, or a child of the worker's parent.
    Processes,
    /// Opening, listing and asking about files by name, as far as root, Landlock and permissions let: what a
    /// dynamically linked program, and an interpreter, need to get going.
    Load,
    /// Executing other programs, in its own place or in a process of its own, again and again. Without it, the program
    /// that a sandbox starts is the only one.
    Exec,
    /// Using sockets that it holds: accepting connections, setting options of their protocols, and making connected
    /// pairs.
    Sockets,
    /// Sockets of its own: UNIX, TCP, UDP over both IPs, and asking the kernel for addresses and routes (netlink).
    /// Sensible only in a network namespace of the worker's own: without one, and without Landlock, it reaches whatever
    /// the host reaches.
    Network,
    /// Changing files that it holds open: their length, mode and times, and the flags of their descriptors (F_SETFL).
    ///
    /// It lifts the promise of a grant for appending: F_SETFL takes O_APPEND off, and ftruncate(2) cuts.
    Files,
    /// Executable memory (PROT_EXEC). The loader of a dynamically linked program needs it at start, a just-in-time
    /// compiler for ever.
    Code,
}

impl Word {
    /// All words, in the order in which they are explained.
    pub const ALL: [Self; 8] =
        [Self::Threads, Self::Processes, Self::Load, Self::Exec, Self::Sockets, Self::Network, Self::Files, Self::Code];

    /// How it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::Load => "load",
            Self::Exec => "exec",
            Self::Sockets => "sockets",
            Self::Network => "network",
            Self::Files => "files",
            Self::Code => "code",
        }
    }

    /// What it allows, in one line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Threads => "threads of its own",
            Self::Processes => "processes of its own; sensible with a PID namespace, with which they end",
            Self::Load => "opening files by name, as far as root, Landlock and permissions let",
            Self::Exec => "executing other programs",
            Self::Sockets => "accepting on sockets that it holds, their options, and connected pairs",
            Self::Network => "sockets of its own; sensible with a network namespace",
            Self::Files => "length, mode, times and flags of files that it holds; lifts the promise of appending",
            Self::Code => "executable memory, for loaders and just-in-time compilers",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Word {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = Self::ALL.into_iter().find(|word| word.name() == text);
        known.ok_or_else(|| UnknownWord(text.to_owned()))
    }
}

/// The word is none of the closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no word of the filter: they are {words}", words = Word::ALL.map(Word::name).join(", "))]
pub struct UnknownWord(pub String);

/// What comes of a system call that no word allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Refusal {
    /// It fails: with EPERM where that is the plain truth, with ENOSYS where programs know an older way to the same.
    #[default]
    Errno,
    /// It ends the process: what a program does against its nature is a sign that it was taken over. What C libraries
    /// and runtimes try in order to fall back is still an errno (clone3(2), unknown ioctl(2), fcntl(2) and prctl(2)
    /// operations, and the like).
    Kill,
}

impl Refusal {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Errno, Self::Kill];

    /// How it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Errno => "errno",
            Self::Kill => "kill",
        }
    }

    /// What it means, in one line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Errno => "the call fails, and the program goes on",
            Self::Kill => "the program is killed, as one that was taken over",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Refusal {
    type Err = UnknownRefusal;

    fn from_str(text: &str) -> Result<Self, UnknownRefusal> {
        let known = Self::ALL.into_iter().find(|refusal| refusal.name() == text);
        known.ok_or_else(|| UnknownRefusal(text.to_owned()))
    }
}

/// The word is none for a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no refusal: they are errno and kill")]
pub struct UnknownRefusal(pub String);

/// A set of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(in crate::sandbox) struct Words(u16);

impl Words {
    pub(in crate::sandbox) const NONE: Self = Self(0);

    pub(in crate::sandbox) const fn with(self, word: Word) -> Self {
        Self(self.0 | 1 << word as u8)
    }

    pub(in crate::sandbox) const fn without(self, word: Word) -> Self {
        Self(self.0 & !(1 << word as u8))
    }

    pub(in crate::sandbox) const fn has(self, word: Word) -> bool {
        self.0 & 1 << word as u8 != 0
    }

    /// In the order of [`Word::ALL`].
    pub(in crate::sandbox) fn iter(self) -> impl Iterator<Item = Word> {
        Word::ALL.into_iter().filter(move |&word| self.has(word))
    }
}

/// The names, separated by commas.
impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{word}")?;
        }
        Ok(())
    }
}

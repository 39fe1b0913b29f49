//! `[both]` The steps of a new process, by name.

use std::fmt;

/// A step of starting a worker, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Step {
    /// The process with its namespaces: clone3(2).
    Clone = 1,
    /// SIGPIPE is not ignored, as Rust does it, nor SIGXFSZ, which ends who writes beyond a limit, and no handler of the
    /// parent's is left: rt_sigaction(2). What else the parent ignores, the worker does, as after nohup(1).
    Signals,
    /// The user and group as which it appears in its user namespace: /proc/self/uid_map and gid_map.
    IdMaps,
    /// Descriptors at the numbers that they are to have: dup3(2).
    Descriptors,
    /// Every other descriptor is closed by exec: close_range(2), or fcntl(2) for each that /proc/self/fd lists.
    CloseOnExec,
    /// What it mounts is seen by nobody else: mount(2).
    PrivateMounts,
    /// An empty root directory: fsopen(2), fsmount(2), move_mount(2).
    EmptyRoot,
    /// One file or directory in it: mkdirat(2), mknodat(2), symlinkat(2), open_tree(2), mount_setattr(2), move_mount(2);
    /// where there is no mount_setattr(2), fstatfs(2), fchdir(2) and mount(2).
    Bind,
    /// The root is read-only: mount_setattr(2), or mount(2).
    ReadOnlyRoot,
    /// It is the root, and the old one is not there any more: pivot_root(2), umount2(2).
    PivotRoot,
    /// The working directory: chdir(2).
    WorkingDirectory,
    /// Emptying the bounding capability set: prctl(2).
    BoundingSet,
    /// User 0 has no capabilities by being user 0: prctl(2).
    Securebits,
    /// The supplementary groups: setgroups(2).
    Groups,
    /// The group: setresgid(2).
    Gid,
    /// The user: setresuid(2).
    Uid,
    /// Emptying the other capability sets: capset(2).
    Capabilities,
    /// no_new_privs: prctl(2).
    NoNewPrivs,
    /// Dying with the parent: prctl(2), and asking whether it is still there.
    DieWithParent,
    /// Landlock: landlock_restrict_self(2).
    Landlock,
    /// No signal is blocked: rt_sigprocmask(2).
    SignalMask,
    /// The system-call filter: seccomp(2).
    Seccomp,
    /// The filter's listener, handed to the parent: sendmsg(2), clock_gettime(2), nanosleep(2).
    Listener,
    /// A resource limit: prlimit(2).
    Limits,
    /// The program: execveat(2).
    Exec,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 25] = [
        Self::Clone,
        Self::Signals,
        Self::IdMaps,
        Self::Descriptors,
        Self::CloseOnExec,
        Self::PrivateMounts,
        Self::EmptyRoot,
        Self::Bind,
        Self::ReadOnlyRoot,
        Self::PivotRoot,
        Self::WorkingDirectory,
        Self::BoundingSet,
        Self::Securebits,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::DieWithParent,
        Self::Landlock,
        Self::SignalMask,
        Self::Seccomp,
        Self::Listener,
        Self::Limits,
        Self::Exec,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Signals => "signals",
            Self::IdMaps => "id maps",
            Self::Descriptors => "descriptors",
            Self::CloseOnExec => "close on exec",
            Self::PrivateMounts => "private mounts",
            Self::EmptyRoot => "empty root",
            Self::Bind => "bind",
            Self::ReadOnlyRoot => "read-only root",
            Self::PivotRoot => "pivot_root",
            Self::WorkingDirectory => "working directory",
            Self::BoundingSet => "bounding set",
            Self::Securebits => "securebits",
            Self::Groups => "groups",
            Self::Gid => "gid",
            Self::Uid => "uid",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::DieWithParent => "die with parent",
            Self::Landlock => "landlock",
            Self::SignalMask => "signal mask",
            Self::Seccomp => "seccomp",
            Self::Listener => "listener",
            Self::Limits => "limits",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

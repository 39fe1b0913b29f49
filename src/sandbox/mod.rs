//! `[broker -> worker]` Starting a program as a worker: with a channel, and with nothing else.

mod death;
mod enforced;
mod files;
mod filter;
mod host;
mod landlock;
mod layer;
mod limit;
mod lockdown;
mod mountinfo;
mod oom;
mod preparation;
mod prepared;
mod program;
mod root;
mod spawner;
mod states;
mod stdio;
mod syscall;
mod user;
mod worker;

pub use crate::sys::child::Step;
pub use death::Death;
pub use enforced::{Enforced, NotFull};
pub use filter::{Refusal, UnknownRefusal, UnknownWord, Word};
pub use host::Host;
#[cfg(feature = "cli")]
pub(crate) use host::has_listener;
pub use layer::{Layer, Mode, Preset, UnknownLayer, UnknownPreset};
pub use limit::{Limit, UnknownLimit};
pub use lockdown::{Lockdown, lockdown};
pub use prepared::Prepared;
pub use stdio::{Line, Stdio};
pub use worker::Worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use crate::channel::Channel;
use crate::error::SpawnError;
use filter::Words;
use user::RunAs;

/// How to start a worker.
///
/// The worker's standard input is its channel, unless that is [put elsewhere](Self::channel_at). Standard output and
/// error go where the broker's go, unless said otherwise. No other descriptor is open, the environment is empty, the
/// working directory is `/`, no signal is blocked, and no core is dumped.
///
/// Which [layers](Layer) stand around it from its first instruction on, a [`Preset`] says, [`Preset::Standard`] if none
/// is chosen, and [`layer`](Self::layer) for one of them. What is wanted "if available" and is not to be had is left out,
/// and [`Enforced`] says so; what is required and is not to be had is an error, and there is no worker.
///
/// The system-call filter is said in [words](Word). At first a worker has [`Word::Threads`], [`Word::Load`],
/// [`Word::Sockets`] and [`Word::Code`], which it takes to load a program and run it. A program that links this crate can
/// close what its start-up left open: [`lockdown`].
///
/// A value of this type says what is wanted, and does nothing. [`prepare`](Self::prepare) opens and compiles what is
/// the same for each worker, for those who start the same one again; [`spawn`](Self::spawn) does both.
#[derive(Clone)]
pub struct Sandbox {
    program: PathBuf,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    working_directory: PathBuf,
    /// None: it has no channel.
    channel_at: Option<RawFd>,
    /// The channel if that is at 0, and /dev/null otherwise, if not said.
    stdin: Option<Stdio>,
    stdout: Stdio,
    stderr: Stdio,
    log: Option<stdio::Log>,
    descriptors: BTreeMap<RawFd, Arc<OwnedFd>>,
    run_as: Option<RunAs>,
    groups: Vec<u32>,
    preset: Preset,
    modes: BTreeMap<Layer, Mode>,
    full: bool,
    words: Words,
    refusal: Refusal,
    runtime: Vec<PathBuf>,
    limits: BTreeMap<Limit, u64>,
}

impl Sandbox {
    /// The program at this path, which is not looked for in PATH. Statically linked ones need no other file; of those
    /// that are dynamically linked, the loader and the system's libraries are there for them, and for scripts, the
    /// interpreter is. (That of `#!/usr/bin/env python3` is `env`, which executes another program: that takes
    /// [`Word::Exec`] and [`runtime`](Self::runtime); write `#!/usr/bin/python3`.) What else a program needs to get going,
    /// say with [`runtime`](Self::runtime).
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let words = [Word::Threads, Word::Load, Word::Sockets, Word::Code];
        Self {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            env: Vec::new(),
            working_directory: PathBuf::from("/"),
            channel_at: Some(0),
            stdin: None,
            stdout: Stdio::Inherit,
            stderr: Stdio::Inherit,
            log: None,
            descriptors: BTreeMap::new(),
            run_as: None,
            groups: Vec::new(),
            preset: Preset::default(),
            modes: BTreeMap::new(),
            full: false,
            words: words.into_iter().fold(Words::NONE, Words::with),
            refusal: Refusal::default(),
            runtime: Vec::new(),
            limits: BTreeMap::from([(Limit::Core, 0)]),
        }
    }

    /// The program that is running now, whatever has become of its path meanwhile (`/proc/self/exe`).
    #[must_use]
    pub fn this_program() -> Self {
        let mut sandbox = Self::new("/proc/self/exe");
        sandbox.arg0 = std::env::args_os().next();
        sandbox
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the worker's environment, which is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The working directory, as the worker sees it: in a root of its own, there are only the directories that it needs.
    #[must_use]
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.working_directory = path.into();
        self
    }

    /// Puts the channel at this number instead of 0. Standard input is then what [`stdin`](Self::stdin) says, and the
    /// worker takes the channel with `Channel::try_from`. Not 1 or 2.
    #[must_use]
    pub fn channel_at(mut self, number: i32) -> Self {
        self.channel_at = Some(number);
        self
    }

    /// Without a channel, for a program that asks nobody: standard input is what [`stdin`](Self::stdin) says. The broker
    /// still gets its end, at which nobody is.
    #[cfg(feature = "cli")]
    pub(crate) fn no_channel(mut self) -> Self {
        self.channel_at = None;
        self
    }

    /// Where standard input comes from, if the [channel is elsewhere](Self::channel_at): from /dev/null, unless said
    /// otherwise.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Where standard output goes: where the broker's goes, unless said otherwise.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Where standard error goes: where the broker's goes, unless said otherwise.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
        self
    }

    /// Calls `log` with each line that the worker writes to a descriptor that is [`Stdio::Log`]; standard output and
    /// error are from here on. It is called on a thread for each of them, which ends when nobody can write there any
    /// more, or when the worker has ended and what was written by then is read: that can be a little after the worker's
    /// end. If it panics, that thread ends, and the worker writes into a closed pipe.
    #[must_use]
    pub fn log(mut self, log: impl Fn(&Line<'_>) + Send + Sync + 'static) -> Self {
        self.log = Some(Arc::new(log));
        self.stdout(Stdio::Log).stderr(Stdio::Log)
    }

    /// Gives the worker a duplicate of this descriptor at this number, beside the standard ones and the channel.
    #[must_use]
    pub fn descriptor(mut self, number: i32, fd: impl Into<OwnedFd>) -> Self {
        self.descriptors.insert(number, Arc::new(fd.into()));
        self
    }

    /// The user as which it runs, with that user's group. Only root can ask for it.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.run_as = Some(RunAs::Name(name.into()));
        self
    }

    /// The user and group as which it runs, by number. Only root can ask for it.
    #[must_use]
    pub fn ids(mut self, uid: u32, gid: u32) -> Self {
        self.run_as = Some(RunAs::Ids(uid, gid));
        self
    }

    /// Its supplementary groups, by number: none, unless said. Only root can ask for it; the worker of another broker has
    /// that broker's.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.groups = groups.into_iter().collect();
        self
    }

    /// The layers that stand around it, but for those that [`layer`](Self::layer) speaks of.
    #[must_use]
    pub fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// How much this layer is wanted, whatever the preset says.
    #[must_use]
    pub fn layer(mut self, layer: Layer, mode: Mode) -> Self {
        self.modes.insert(layer, mode);
        self
    }

    /// Every layer that is wanted if available is required. A broker that is not root cannot have
    /// [`Layer::User`], and turns it off first: its workers are of its own user.
    #[must_use]
    pub fn require_full(mut self) -> Self {
        self.full = true;
        self
    }

    /// Allows this, too. With [`Word::Exec`], nothing keeps the worker from executing other programs
    /// ([`Layer::ExecOnce`]).
    #[must_use]
    pub fn allow(mut self, word: Word) -> Self {
        self.words = self.words.with(word);
        self
    }

    /// Does not allow this.
    #[must_use]
    pub fn without(mut self, word: Word) -> Self {
        self.words = self.words.without(word);
        self
    }

    /// What comes of a system call that no word allows. With [`Refusal::Kill`] the kernel asks the broker (Linux 5.0),
    /// a thread of which kills the worker and remembers which call it was; on an older kernel, the kernel kills it.
    #[must_use]
    pub fn refusal(mut self, refusal: Refusal) -> Self {
        self.refusal = refusal;
        self
    }

    /// A file or directory that the program needs to get going, beyond its own file and the system's libraries: it may
    /// read and execute what is there, which is in its root at the same path. For interpreters, and libraries at unusual
    /// places. It must be there. Of devices, such as `/dev/null`, it may read and write.
    ///
    /// What is mounted beneath a directory comes with it. That takes mount_setattr(2), Linux 5.12: before, a worker has no
    /// root of its own then ([`Layer::Root`]), and the report names the mount.
    #[must_use]
    pub fn runtime(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime.push(path.into());
        self
    }

    /// Limits a resource, for good. A limit above the broker's own hard limit is that, as it is when the worker is prepared:
    /// a broker that lowers its own below it afterwards starts none (step "limits", EPERM), though it be root.
    #[must_use]
    pub fn limit(mut self, resource: Limit, value: u64) -> Self {
        self.limits.insert(resource, value);
        self
    }

    /// The end of this process is the worker's end ([`Layer::DieWithParent`]): without it, there is no worker. Every
    /// preset wants it, if available.
    #[must_use]
    pub fn die_with_parent(self) -> Self {
        self.layer(Layer::DieWithParent, Mode::Required)
    }

    /// Opens the program and what it needs, looks its user up, compiles its filter, and finds out which layers are to
    /// be had: what is the same for every worker that is started in this way.
    ///
    /// # Errors
    /// [`SpawnError::Unavailable`]: a layer is required that is not to be had. [`SpawnError::Prepare`]: something else
    /// that is wanted is not.
    pub fn prepare(&self) -> Result<Prepared, SpawnError> {
        Prepared::new(self)
    }

    /// Starts it, as [`Prepared::spawn`] does, which says more. The channel is the broker's end, to be given to
    /// [`Broker::serve`](crate::Broker::serve).
    ///
    /// # Errors
    /// [`SpawnError`], with the step that failed. No process is left.
    pub fn spawn(&self) -> Result<(Worker, Channel), SpawnError> {
        self.prepare()?.spawn()
    }

    /// How much a layer is wanted.
    fn mode(&self, layer: Layer) -> Mode {
        match self.modes.get(&layer).copied().unwrap_or_else(|| self.preset.mode(layer)) {
            Mode::IfAvailable if self.full => Mode::Required,
            mode => mode,
        }
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("preset", &self.preset)
            .field("modes", &self.modes)
            .finish_non_exhaustive()
    }
}

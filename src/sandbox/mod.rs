//! `[broker -> worker]` Starting a program as a worker: with a channel, and with nothing else.

mod enforced;
mod filter;
mod landlock;
mod lockdown;
mod spawn;
mod stdio;

pub use crate::sys::child::Step;
pub use enforced::{Enforced, Layer};
pub use filter::{Refusal, UnknownWord, Word};
pub use lockdown::{Lockdown, lockdown};

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use crate::channel::Channel;
use crate::error::SpawnError;
use spawn::RunAs;

/// How to start a worker.
///
/// The worker's standard input is its channel. Standard output and error go where the broker's go, unless said
/// otherwise: a terminal or a pipe is opened once more for it, for writing only; a file or a socket is shared with it.
/// No other descriptor is open, the environment is empty, and the working directory is `/`.
///
/// These layers are put around it before it executes its first instruction; those marked * are left out where the
/// kernel does not have them, and [`Enforced`] then says so:
///
/// * another user without groups, if the broker is root: `nobody` (65534) unless [`user`](Self::user) says otherwise;
/// * a user namespace of its own*, if the broker is not root;
/// * no capabilities (the bounding set* included), and no_new_privs;
/// * Landlock*: it can execute and read its program, read the system's libraries, and open no other file, no TCP port
///   and, from ABI 6 on, no process and no abstract socket outside;
/// * a system-call filter: no sockets but those that it is handed, no signals to others, no tracing, no mounts, no
///   namespaces, no keys, no io_uring, no bpf, and so on. It can make threads, but no processes, and execute a program
///   in its own place.
///
/// A program that links this crate can close what its start-up left open: [`lockdown`].
#[derive(Debug)]
pub struct Sandbox {
    program: PathBuf,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    /// The broker's, if not said.
    stdout: Option<Stdio>,
    /// The broker's, if not said.
    stderr: Option<Stdio>,
    run_as: Option<RunAs>,
    runtime: Vec<PathBuf>,
    die_with_parent: bool,
}

impl Sandbox {
    /// The program at this path, which is not looked for in PATH.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            env: Vec::new(),
            stdout: None,
            stderr: None,
            run_as: None,
            runtime: Vec::new(),
            die_with_parent: false,
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

    /// Where standard output goes: the broker's, unless said otherwise.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Where standard error goes: the broker's, unless said otherwise.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
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

    /// A file or directory that the program needs to get going, beyond its own file and the system's libraries: it may
    /// read and execute what is there. For interpreters, and libraries at unusual places. It must be there.
    #[must_use]
    pub fn runtime(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime.push(path.into());
        self
    }

    /// Kills the worker (SIGKILL) when the **thread** that calls [`spawn`](Self::spawn) ends. That is what Linux offers
    /// (PR_SET_PDEATHSIG); ask for it when that thread lives as long as the broker.
    #[must_use]
    pub fn die_with_parent(mut self) -> Self {
        self.die_with_parent = true;
        self
    }

    /// Starts it. The channel is the broker's end, to be given to [`Broker::serve`](crate::Broker::serve).
    ///
    /// # Errors
    /// [`SpawnError`], with the step that failed. No process is left.
    pub fn spawn(self) -> Result<(Worker, Channel), SpawnError> {
        let (child, channel, enforced) = spawn::spawn(self)?;
        Ok((Worker { child, enforced }, channel))
    }
}

/// A running worker. Dropping it kills the process and waits for its end, so none is left behind, alive or as a zombie.
#[derive(Debug)]
#[must_use = "dropping a worker kills it"]
pub struct Worker {
    child: Child,
    enforced: Enforced,
}

impl Worker {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What holds around it.
    #[must_use]
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Of waitpid(2), when somebody else has waited for it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it (SIGKILL). No error if it has ended already.
    ///
    /// # Errors
    /// Of kill(2).
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// What it wrote to standard output, if that was [`Stdio::piped`]. The second call gives nothing.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// What it wrote to standard error, if that was [`Stdio::piped`]. The second call gives nothing.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

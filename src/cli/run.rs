//! `[broker -> worker]` `fdbroker run`: one program as a worker, by a policy file.

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};

use nix::sys::signal::SigSet;

use super::audit::Form;
use super::source::Source;
use super::walls::Walls;
use super::{Failure, death};
use crate::broker::Broker;
use crate::policy::Policy;
use crate::sandbox::Death;
use crate::supervise::{passed_on, supervise};

/// Runs a program as a sandboxed worker, and serves it by a policy
///
/// The program runs in a sandbox: another user (if this is root), no capabilities, no files and no sockets of its own,
/// as far as the kernel has all that. Its standard input is the channel on which it asks; standard output and error
/// are those of this process, its environment is empty, its working directory is `/`.
///
/// SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on to it; in a PID namespace, they kill it if it does
/// not handle them. If it breaks the rules of the channel it is killed. If the filter, a limit or a want of memory ends
/// it, a line on standard error says so.
///
/// Exit status: the program's, or 128 and the number of the signal that killed it; 2 if it could not be started.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fdbroker run policy.toml -- /usr/lib/my-daemon/worker --verbose
  fdbroker run --audit json --user www-data policy.toml -- ./worker 2> audit.json
  fdbroker run --set user=alice --runtime /usr/lib/python3.11 policy.toml -- python3 /srv/worker.py")]
pub(super) struct Run {
    /// What is said of each request, on standard error
    #[arg(long, value_enum, default_value_t = Form::Human, value_name = "FORM")]
    audit: Form,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    worker: Worker,
}

impl Run {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let loaded = self.source.load()?;
        let broker = self.audit.of(Broker::new().limits(loaded.file.limits()));
        let ended = self.worker.serve(&broker, || Ok(loaded.builder.build()?))?;
        Ok(death::ended("the worker", ended, self.audit == Form::Json))
    }
}

/// The program, and what stands around it.
#[derive(Debug, clap::Args)]
pub(super) struct Worker {
    #[command(flatten)]
    walls: Walls,
    /// The program and its arguments; without a slash it is looked for in PATH
    #[arg(last = true, required = true, num_args = 1.., value_names = ["PROGRAM", "ARGS"])]
    program: Vec<OsString>,
}

impl Worker {
    /// Runs it from its start to its end.
    pub(super) fn serve(
        self,
        broker: &Broker,
        policy: impl FnOnce() -> Result<Policy, Failure>,
    ) -> Result<(ExitStatus, Death), Failure> {
        // Before there are threads.
        let signals: SigSet = passed_on();
        signals.thread_block()?;
        let policy = policy()?;
        let prepared = self.walls.around(self.program)?.prepare()?;
        Ok(supervise(&signals, prepared, broker, policy, |_| {})?)
    }
}

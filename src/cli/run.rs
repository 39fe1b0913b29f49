//! `[broker -> worker]` `fdbroker run`: one program as a worker, by a policy file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::SigSet;
use nix::unistd::{Uid, User};

use super::audit::Form;
use super::source::Source;
use super::{FAILED, Failure};
use crate::broker::Broker;
use crate::policy::Policy;
use crate::sandbox::Sandbox;
use crate::supervise::{exit_code, passed_on, supervise};

/// Runs a program as a sandboxed worker, and serves it by a policy
///
/// The program runs in a sandbox: another user (if this is root), no capabilities, no files and no sockets of its own,
/// as far as the kernel has all that. Its standard input is the channel on which it asks; standard output and error
/// are those of this process, its environment is empty, its working directory is `/`.
///
/// SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on to it. If it breaks the rules of the channel it
/// is killed.
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
        self.worker.serve(&broker, || Ok(loaded.builder.build()?))
    }
}

/// The program, and what stands around it.
#[derive(Debug, clap::Args)]
pub(super) struct Worker {
    /// The user whom the program runs as, by name or number; only root can ask for it [default: nobody]
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// A variable of the program's environment; without a value, as it is here
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// A file or directory that the program needs to start, beyond the system's libraries, as an interpreter does
    #[arg(long, value_name = "PATH")]
    runtime: Vec<PathBuf>,
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
    ) -> Result<ExitCode, Failure> {
        // Before there are threads.
        let signals: SigSet = passed_on();
        signals.thread_block()?;
        let policy = policy()?;
        let sandbox = self.sandbox()?.die_with_parent();
        let status = supervise(&signals, sandbox, broker, policy, |_| {})?;
        Ok(ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(FAILED)))
    }

    fn sandbox(self) -> Result<Sandbox, Failure> {
        let mut arguments = self.program.into_iter();
        let program = arguments.next().unwrap_or_default();
        let mut sandbox = Sandbox::new(find(&program)?).args(arguments);
        for variable in self.env {
            let bytes = variable.as_bytes();
            sandbox = match bytes.iter().position(|byte| *byte == b'=') {
                Some(equals) => {
                    sandbox.env(OsStr::from_bytes(&bytes[..equals]), OsStr::from_bytes(&bytes[equals + 1..]))
                }
                None => match std::env::var_os(&variable) {
                    Some(value) => sandbox.env(variable, value),
                    None => sandbox,
                },
            };
        }
        for path in self.runtime {
            sandbox = sandbox.runtime(path);
        }
        Ok(match self.user {
            None => sandbox,
            Some(user) => match user.parse::<u32>() {
                Ok(uid) => sandbox.ids(uid, group(uid)),
                Err(_) => sandbox.user(user),
            },
        })
    }
}

/// The group of a user; of one that nobody knows, that of the same number.
pub(super) fn group(uid: u32) -> u32 {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or(uid, |user| user.gid.as_raw())
}

/// As shells find it. The worker's directory is another, so the path is absolute.
fn find(program: &OsStr) -> Result<PathBuf, Failure> {
    if program.as_bytes().contains(&b'/') {
        return Ok(std::path::absolute(program)?);
    }
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    found.find_map(|directory| Some(directory.join(Path::new(program))).filter(runs)).ok_or_else(|| {
        Failure(format!("{}: there is no such program in PATH: name it with its directory", program.to_string_lossy()))
    })
}

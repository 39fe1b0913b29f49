//! `[both]` Broker and worker from one main function.

use std::error::Error;
use std::fmt;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use std::process::ExitStatus;

use crate::broker::{Broker, Record};
use crate::client::Client;
use crate::error::SplitError;
use crate::policy::Policy;
use crate::sandbox::{Enforced, Sandbox, lockdown};
use crate::supervise::{exit_code, passed_on, supervise};
use crate::sys::process;

/// Says to a program that it is the worker. It is no proof: see [`Split::run`].
const MARKER: &str = "FDBROKER_WORKER";

/// Splits the program in two: see [`Split::run`], with everything as it is by default.
///
/// ```no_run
/// use fdbroker::{Policy, Rule};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let client = fdbroker::split(|| {
///         Policy::builder().allow(Rule::beneath("/srv/www").read()).build()
///     })?;
///     // From here on this is the worker: it can open nothing itself.
///     let page = std::io::read_to_string(client.read("/srv/www/index.html")?)?;
/// #   let _ = page;
///     Ok(())
/// }
/// ```
///
/// # Errors
/// As for [`Split::run`].
pub fn split<E>(policy: impl FnOnce() -> Result<Policy, E>) -> Result<Client, SplitError>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Split::new().run(policy)
}

/// How to split a program, beyond the default.
pub struct Split {
    sandbox: Vec<Box<dyn FnOnce(Sandbox) -> Sandbox>>,
    broker: Broker,
    announce: Box<dyn FnOnce(&Enforced)>,
}

impl Split {
    /// As [`split`] does it.
    #[must_use]
    pub fn new() -> Self {
        Self { sandbox: Vec::new(), broker: Broker::new(), announce: Box::new(|_| {}) }
    }

    /// Changes the sandbox: its user, its environment, where its output goes. Called in the first process only, after
    /// the policy has been made.
    #[must_use]
    pub fn sandbox(mut self, change: impl FnOnce(Sandbox) -> Sandbox + 'static) -> Self {
        self.sandbox.push(Box::new(change));
        self
    }

    /// See [`Broker::audit`].
    #[must_use]
    pub fn audit(mut self, audit: impl Fn(&Record<'_>) + Send + Sync + 'static) -> Self {
        self.broker = self.broker.audit(audit);
        self
    }

    /// Called in the broker with what holds around the worker, before the worker is served.
    #[must_use]
    pub fn on_start(mut self, announce: impl FnOnce(&Enforced) + 'static) -> Self {
        self.announce = Box::new(announce);
        self
    }

    /// Splits the program. Call it first thing in main, before threads are started and before anything is read that the
    /// worker must not know.
    ///
    /// **In the process that the user started** it makes the policy, starts the same program again with the same
    /// arguments as the sandboxed worker, and serves it. It does not return then: when the worker ends, so does this
    /// process, with its exit status, or with 128 and the number of the signal that killed it. SIGHUP, SIGINT, SIGQUIT,
    /// SIGTERM, SIGUSR1 and SIGUSR2 are passed on to the worker, unless the terminal has sent them to both already. A
    /// worker that commits a [`Fault`](crate::Fault) is killed, with a line on standard error.
    ///
    /// **In the worker** it returns the client, after [`lockdown`]. The worker is a new process image, not a fork:
    /// nothing of the broker's memory is in it, and its address layout is another.
    ///
    /// The worker knows that it is one by a variable in its environment. Whoever forges that gains nothing: the process
    /// must have no_new_privs and a system-call filter already, neither of which a program can have by accident or give
    /// its starter more rights through, and a broker must answer at its standard input.
    ///
    /// # Errors
    /// [`SplitError`]. In the first process no worker is left running then; in the worker: end the process.
    pub fn run<E>(self, policy: impl FnOnce() -> Result<Policy, E>) -> Result<Client, SplitError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if std::env::var_os(MARKER).is_some() {
            return become_worker();
        }
        // Blocked before there are threads, so that none of them takes a signal. The worker starts with none blocked.
        let os = |call| move |errno: Errno| SplitError::Os { call, source: errno.into() };
        let mask = SigSet::thread_get_mask().map_err(os("pthread_sigmask"))?;
        let signals = passed_on();
        signals.thread_block().map_err(os("pthread_sigmask"))?;
        match self.be_broker(&signals, policy) {
            Ok(status) => std::process::exit(exit_code(status)),
            Err(error) => {
                mask.thread_set_mask().map_err(os("pthread_sigmask"))?;
                Err(error)
            }
        }
    }

    fn be_broker<E>(
        self,
        signals: &SigSet,
        policy: impl FnOnce() -> Result<Policy, E>,
    ) -> Result<ExitStatus, SplitError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let policy = policy().map_err(|error| SplitError::Policy(error.into()))?;
        let sandbox = Sandbox::this_program().args(std::env::args_os().skip(1)).env(MARKER, "1").die_with_parent();
        let sandbox = self.sandbox.into_iter().fold(sandbox, |sandbox, change| change(sandbox));
        let prepared = sandbox.prepare()?;
        drop(sandbox);
        let (status, _) = supervise(signals, prepared, &self.broker, policy, self.announce)?;
        Ok(status)
    }
}

impl Default for Split {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split").field("broker", &self.broker).finish_non_exhaustive()
    }
}

fn become_worker() -> Result<Client, SplitError> {
    let not_a_worker = |what: &dyn fmt::Display| SplitError::NotAWorker { variable: MARKER, what: what.to_string() };
    // Set before a set-user-ID program was executed, no_new_privs kept it from gaining anything; and nothing can take
    // it off. So whoever gets past this point by forgery holds no right that the forger did not have.
    if !prctl::get_no_new_privs().unwrap_or(false) {
        return Err(not_a_worker(&"no_new_privs is not set"));
    }
    if !process::is_filtered() {
        return Err(not_a_worker(&"it has no system-call filter"));
    }
    let client = Client::from_stdin().map_err(|error| not_a_worker(&error))?;
    lockdown()?;
    Ok(client)
}

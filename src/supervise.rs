//! `[broker]` One worker from its start to its end: signals are passed on to it, a fault ends it, and its status is
//! told.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::broker::Broker;
use crate::error::{Fault, SplitError};
use crate::policy::Policy;
use crate::sandbox::{Enforced, Prepared};

/// The signals that are passed on to the worker. They must be blocked in the whole process before there are threads, so
/// that none of them takes one.
pub(crate) fn passed_on() -> SigSet {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2].into_iter().collect()
}

/// Starts a worker and serves it until it ends. The worker has no signals blocked. `announce` is called before it is
/// served.
pub(crate) fn supervise(
    signals: &SigSet,
    prepared: &Prepared,
    broker: &Broker,
    policy: impl Into<Arc<Policy>>,
    announce: impl FnOnce(&Enforced),
) -> Result<WaitStatus, SplitError> {
    let os = |call| move |source| SplitError::Os { call, source };
    let descriptor =
        SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC).map_err(|errno| os("signalfd")(errno.into()))?;

    let (worker, channel) = prepared.spawn()?;
    let pid = Pid::from_raw(worker.id().try_into().unwrap_or(i32::MAX));
    announce(worker.enforced());
    let service = broker.serve("worker", channel, policy).map_err(os("starting the broker's thread"))?;
    let channel = service.channel();
    let thread = |name: &str| thread::Builder::new().name(name.into());
    thread("signals")
        .spawn(move || pass_signals_on(&descriptor, pid))
        .map_err(os("starting the thread that passes signals on"))?;
    let (ended, end) = mpsc::channel();
    thread("service")
        .spawn(move || {
            if let Err(fault) = service.wait() {
                let _ = kill(pid, Signal::SIGKILL);
                complain(&fault);
            }
            let _ = ended.send(());
        })
        .map_err(os("starting the thread that waits for the service"))?;

    // The worker is left as a zombie until the very end, so that its pid, which two threads have, stays its own.
    let status = wait_for(pid).map_err(|errno| os("waitid")(errno.into()))?;
    channel.shut_down();
    // For the last records of the audit; but nothing that the worker asked for outlives it.
    let _ = end.recv_timeout(LAST_WORDS);
    worker.wait().map_err(os("waitpid"))?;
    Ok(status)
}

/// How long the service may take to end when its worker has.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn wait_for(pid: Pid) -> Result<WaitStatus, Errno> {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            status => return status,
        }
    }
}

fn pass_signals_on(signals: &SignalFd, worker: Pid) {
    while let Ok(Some(info)) = signals.read_signal() {
        // What the kernel sends for a key, it sends to every process of the terminal's foreground group, and the
        // worker is in ours. (The SIGHUP of a terminal that hangs up it sends to the leader of the session alone.)
        let is_key = matches!(i32::try_from(info.ssi_signo), Ok(libc::SIGINT | libc::SIGQUIT));
        let from_terminal = is_key && info.ssi_code == libc::SI_KERNEL;
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        if let (false, Some(signal)) = (from_terminal, signal) {
            let _ = kill(worker, signal);
        }
    }
}

/// On the process's standard error: this process is the worker's supervisor and nothing else. The worker may share it,
/// and may have filled it up or made it non-blocking, so this comes after the kill, and its failure is no panic.
fn complain(fault: &Fault) {
    let _ = writeln!(io::stderr(), "fdbroker: the worker is killed: {}", fault.to_string().escape_debug());
}

/// As shells say it: the worker's, or 128 and the number of the signal that killed it.
pub(crate) fn exit_code(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 1,
    }
}

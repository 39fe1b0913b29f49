//! `[broker]` One worker whose starter does nothing else: signals are passed on to it, a fault ends it, and its status
//! is told.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::bell::{Bell, wait_for};
use super::life::{LAST_WORDS, Life};
use crate::broker::Broker;
use crate::error::{Fault, SplitError};
use crate::policy::Policy;
use crate::sandbox::{Death, Enforced, Prepared};

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
    prepared: Prepared,
    broker: &Broker,
    policy: impl Into<Arc<Policy>>,
    announce: impl FnOnce(&Enforced),
) -> Result<(ExitStatus, Death), SplitError> {
    let os = |call| move |source| SplitError::Os { call, source };
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(signals, flags).map_err(|errno| os("signalfd")(errno.into()))?;
    let bell = Arc::new(Bell::new().map_err(os("eventfd"))?);

    let (worker, channel) = prepared.spawn()?;
    // What was opened for the worker alone, such as its end of a pipe, is then open nowhere else.
    drop(prepared);
    announce(worker.enforced());
    let life = Life::begin(worker, channel, broker, "worker", policy.into(), &bell);
    let mut life = life.map_err(os("starting the broker's thread"))?;
    let mut said = None;
    loop {
        wait_for([life.as_fd(), bell.as_fd(), signals.as_fd()], None).map_err(os("poll"))?;
        bell.hush();
        pass_signals_on(&signals, &life);
        let news = life.news().map_err(os("waiting for the worker"))?;
        if let Some(fault) = news.fault {
            let what = if news.ended { "of the worker, which has ended" } else { "the worker is killed" };
            said = complain(what, &fault);
        }
        if news.ended {
            break;
        }
    }
    let status = life.worker().wait().map_err(os("waiting for the worker"))?;
    let (death, fault) = life.close(&bell).map_err(os("poll"))?;
    if let Some(fault) = fault {
        said = complain("of the worker, which has ended", &fault);
    }
    let _ = said.map(|said| said.recv_timeout(LAST_WORDS));
    Ok((status, death))
}

fn pass_signals_on(signals: &SignalFd, life: &Life) {
    while let Ok(Some(info)) = signals.read_signal() {
        // What the kernel sends for a key, it sends to every process of the terminal's foreground group, and the
        // worker is in ours. (The SIGHUP of a terminal that hangs up it sends to the leader of the session alone.)
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        let is_key = matches!(number, libc::SIGINT | libc::SIGQUIT);
        let from_terminal = is_key && info.ssi_code == libc::SI_KERNEL;
        // Each of these signals ends a process that does not handle it: so does it a worker that would not hear it.
        let is_killed = life.kill_if_deaf_to(number).unwrap_or(false);
        if !from_terminal && !is_killed {
            let _ = life.worker().signal(number);
        }
    }
}

/// On the process's standard error: this process is the worker's supervisor and nothing else. The worker may share it,
/// and may have filled it up or made it non-blocking, so a thread of its own waits for room, and its failure is no
/// panic. Answers who tells that it is said.
fn complain(what: &str, fault: &Fault) -> Option<Receiver<()>> {
    say(format!("fdbroker: {what}: {}\n", fault.to_string().escape_debug()))
}

/// Says something of a worker that has ended, on standard error, if there is room for it before long.
#[cfg(feature = "cli")]
pub(crate) fn last_words(line: String) {
    let _ = say(line).map(|said| said.recv_timeout(LAST_WORDS));
}

fn say(line: String) -> Option<Receiver<()>> {
    let (tell, said) = mpsc::channel();
    let write = move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = tell.send(());
    };
    thread::Builder::new().name("complaint".to_owned()).spawn(write).ok().map(|_| said)
}

/// As shells say it: the worker's, or 128 and the number of the signal that killed it.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1)
}

//! `[broker]` A running worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::death::Notes;
use super::{Death, Enforced};
use crate::sys::{descriptor, notify, process};

/// A running worker, held by a pidfd: what is done to it is done to it and no other process, whatever has become of its
/// process id. `&Worker` can be shared among threads.
///
/// Dropping it kills the process (SIGKILL) and waits for its end, so none is left behind, alive or as a zombie. A process
/// that has given up the right to signal its workers (another user, a Landlock domain that was entered since) cannot: what
/// is dropped then runs on, and ends with the process at the latest ([`Layer::DieWithParent`](super::Layer)).
///
/// [`AsFd`] gives the pidfd: it is readable for poll(2) when the worker has ended.
#[derive(Debug)]
#[must_use = "dropping a worker kills it"]
pub struct Worker {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    enforced: Arc<Enforced>,
    streams: Mutex<Streams>,
    ended: Mutex<Option<Ended>>,
    killed: AtomicBool,
    refused: Arc<AtomicI64>,
    notes: Notes,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) user_time: Duration,
    pub(super) system_time: Duration,
    /// The system call that the filter ended it for.
    pub(super) refused: Option<i64>,
    /// Whether it was [`Worker::kill`] that ended it, or the filter.
    pub(super) killed: bool,
}

/// The other ends of a worker's pipes.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// No system call has this number.
const NONE: i64 = i64::MIN;

impl Worker {
    pub(super) fn new(
        pid: libc::pid_t,
        pidfd: OwnedFd,
        enforced: Arc<Enforced>,
        streams: Streams,
        notes: Notes,
    ) -> Self {
        Self {
            pid,
            pidfd,
            enforced,
            streams: Mutex::new(streams),
            ended: Mutex::new(None),
            killed: AtomicBool::new(false),
            refused: Arc::new(AtomicI64::new(NONE)),
            notes,
        }
    }

    /// A broker may have closed 0, 1 or 2: the kernel must not have put the pidfd there, for the next `println!` to write
    /// into.
    pub(super) fn out_of_the_way(&mut self) -> io::Result<()> {
        if self.pidfd.as_raw_fd() < 3 {
            self.pidfd = descriptor::duplicate_above(self.pidfd.as_fd(), 3)?;
        }
        Ok(())
    }

    /// Kills it, and the process that asks, when its filter's listener is asked, and remembers for which system call.
    pub(super) fn watch(&self, listener: OwnedFd) -> io::Result<()> {
        let (pidfd, refused) = (self.pidfd.try_clone()?, Arc::clone(&self.refused));
        // Until nobody has the filter any more: processes that the worker has made have it, too.
        let watch = move || {
            loop {
                let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut waited, PollTimeout::NONE);
                let asks = waited[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
                match (ready, asks) {
                    (Err(Errno::EINTR), _) => {}
                    (Ok(_), true) => match notify::next(&listener) {
                        Ok(None) => {}
                        Ok(Some(asked)) => {
                            let _ = refused.compare_exchange(NONE, asked.number, Ordering::AcqRel, Ordering::Acquire);
                            let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
                            asked.kill(&listener);
                        }
                        Err(_) => return,
                    },
                    // POLLHUP.
                    _ => return,
                }
            }
        };
        std::thread::Builder::new().name("filter".to_owned()).spawn(watch).map(drop)
    }

    /// Its process id, of the broker's PID namespace.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// What holds around it.
    #[must_use]
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// Waits for its end. Later calls, by any thread, give the same status.
    ///
    /// # Errors
    /// ECHILD: somebody else has waited for it, such as a loop of the daemon's own that waits for any child, or SIGCHLD
    /// is ignored.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        self.ended(None).and_then(|ended| ended.ok_or_else(|| Errno::ECHILD.into())).map(|ended| ended.status)
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Its exit status, if it ends within this time.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        Ok(self.ended(Some(timeout))?.map(|ended| ended.status))
    }

    /// Waits for its end, and says the reason of it.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn death(&self) -> io::Result<Death> {
        let ended = self.ended(None)?.ok_or(Errno::ECHILD)?;
        Ok(self.notes.explain(&ended))
    }

    /// Sends it a signal, by its number (`libc::SIGTERM`). No error if it has ended already. A worker in a PID namespace
    /// of its own is not reached by signals for which it has no handler, but for SIGKILL and SIGSTOP.
    ///
    /// # Errors
    /// Of pidfd_send_signal(2): EINVAL, if there is no such signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match process::send_signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Kills it (SIGKILL). No error if it has ended already.
    ///
    /// # Errors
    /// Of pidfd_send_signal(2).
    pub fn kill(&self) -> io::Result<()> {
        self.killed.store(true, Ordering::Release);
        self.signal(libc::SIGKILL)
    }

    /// Where its standard input comes from, if that was [`Stdio::piped`](super::Stdio::piped). The second call gives
    /// nothing.
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.streams().stdin.take().map(ChildStdin::from)
    }

    /// What it writes to standard output, if that was [`Stdio::piped`](super::Stdio::piped). The second call gives
    /// nothing.
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.streams().stdout.take().map(ChildStdout::from)
    }

    /// What it writes to standard error, if that was [`Stdio::piped`](super::Stdio::piped). The second call gives
    /// nothing.
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.streams().stderr.take().map(ChildStderr::from)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended. None after the timeout.
    pub(super) fn ended(&self, timeout: Option<Duration>) -> io::Result<Option<Ended>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(ended) = self.reaped()? {
                return Ok(Some(ended));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            // A millisecond more than is left of it, so that it is not asked in vain at the end.
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// How it ended, if it has. One thread takes the status, and all have it.
    fn reaped(&self) -> io::Result<Option<Ended>> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            *ended = process::try_reap(self.pidfd.as_fd(), self.pid)?.map(|exit| Ended {
                status: exit.status,
                user_time: exit.user_time,
                system_time: exit.system_time,
                refused: Some(self.refused.load(Ordering::Acquire)).filter(|number| *number != NONE),
                killed: self.killed.load(Ordering::Acquire),
            });
        }
        Ok(*ended)
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let has_ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        // Who may not kill it would wait for as long as it likes.
        if !has_ended && self.kill().is_ok() {
            let _ = self.wait();
        }
    }
}

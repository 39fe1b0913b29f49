//! `[broker]` One worker from its start to its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::{Bell, wait_for};
use crate::broker::{Broker, Service};
use crate::channel::Channel;
use crate::error::Fault;
use crate::policy::Policy;
use crate::sandbox::{Death, Worker};

/// How long the service may take to end when its worker has.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// A worker that has been started, and is being served. Dropped, it is killed, and nothing that it asked for outlives
/// it.
pub(super) struct Life {
    worker: Worker,
    /// Until it has ended by itself.
    service: Option<Service>,
    since: Instant,
    /// Whether it has been told that the worker is ready.
    told_ready: bool,
}

/// How many of a worker's threads are asked whether they wait for a signal.
const THREADS: usize = 64;

/// What is new in a worker's life.
#[derive(Default)]
pub(super) struct News {
    /// It has said that it is ready.
    pub(super) ready: bool,
    /// It has been killed for this.
    pub(super) fault: Option<Fault>,
    /// It has ended.
    pub(super) ended: bool,
}

impl Life {
    /// `bell` rings when there is news, but for the worker's end, which its pidfd tells.
    pub(super) fn begin(
        worker: Worker,
        channel: Channel,
        broker: &Broker,
        name: &str,
        policy: Arc<Policy>,
        bell: &Arc<Bell>,
    ) -> io::Result<Self> {
        let bell = bell.clone();
        let service = broker.serve_and_tell(name, channel, policy, move || bell.ring())?;
        Ok(Self { worker, service: Some(service), since: Instant::now(), told_ready: false })
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// So long it has lived.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn is_ready(&self) -> bool {
        self.told_ready
    }

    /// To be asked when the bell has rung (and was hushed), or the pidfd can be read. A worker whose service ended by a
    /// fault is killed. One that has hung up lives on, if it wants to.
    pub(super) fn news(&mut self) -> io::Result<News> {
        let mut news = News { ended: self.worker.try_wait()?.is_some(), ..News::default() };
        news.ready = !self.told_ready && self.service.as_ref().is_some_and(Service::is_ready);
        self.told_ready |= news.ready;
        if let Some(service) = self.service.take_if(|service| service.is_over()) {
            news.fault = service.wait().err();
            if news.fault.is_some() && !news.ended {
                self.worker.kill()?;
            }
        }
        Ok(news)
    }

    /// Asks it to end (SIGTERM), or kills it if it would not hear that. Answers whether it was asked.
    pub(super) fn ask_to_end(&self) -> io::Result<bool> {
        if self.kill_if_deaf_to(libc::SIGTERM)? {
            return Ok(false);
        }
        self.worker.signal(libc::SIGTERM)?;
        Ok(true)
    }

    /// Kills it, if this signal would end it were it not the first process of a PID namespace. Answers whether it is
    /// so.
    pub(super) fn kill_if_deaf_to(&self, signal: i32) -> io::Result<bool> {
        let directory = format!("/proc/{}", self.worker.id());
        let status = fs::read_to_string(format!("{directory}/status")).unwrap_or_default();
        // Who waits for a signal blocks it in every thread. In one, it may be for a moment: the C library does so while
        // it starts a thread. Not all are asked of a worker that has thousands, which would take as long as it likes.
        let is_deaf = may_be_deaf_to(signal, &status) && {
            let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let threads = fs::read_dir(format!("{directory}/task")).into_iter().flatten().flatten();
            threads.take(THREADS).any(|thread| is_deaf_to(signal, &status(thread)))
        };
        if is_deaf {
            self.worker.kill()?;
        }
        Ok(is_deaf)
    }

    /// After its end: the service ends, and has told the audit so, if it does not take too long about it.
    pub(super) fn close(mut self, bell: &Bell) -> io::Result<(Death, Option<Fault>)> {
        let late = Instant::now() + LAST_WORDS;
        let mut fault = None;
        if let Some(service) = self.service.take() {
            service.stop();
            while !service.is_over() && Instant::now() < late {
                wait_for([bell.as_fd()], Some(late))?;
                bell.hush();
            }
            if service.is_over() {
                fault = service.wait().err();
            }
        }
        Ok((self.worker.death()?, fault))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(service) = &self.service {
            service.stop();
        }
    }
}

/// Readable when it has ended.
impl AsFd for Life {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.worker.as_fd()
    }
}

/// By the text of a thread's status in /proc: a process that is the first of its PID namespace does not get a signal
/// that it neither handles nor waits for (sigwait(3), signalfd(2)), though others are ended by it (pid_namespaces(7)).
/// One that it ignores would not end others either.
fn is_deaf_to(signal: i32, status: &str) -> bool {
    may_be_deaf_to(signal, status) && !has(signal, status, "SigBlk")
}

/// What is the same for all threads of a process: which it is, what it handles and what it ignores.
fn may_be_deaf_to(signal: i32, status: &str) -> bool {
    let in_namespaces: Vec<&str> = field(status, "NStgid").unwrap_or_default().split_whitespace().collect();
    let cares = ["SigCgt", "SigIgn"].into_iter().any(|name| has(signal, status, name));
    in_namespaces.len() > 1 && in_namespaces.last() == Some(&"1") && !cares
}

fn has(signal: i32, status: &str, name: &str) -> bool {
    let mask = field(status, name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(u64::MAX);
    mask & (1 << (signal - 1)) != 0
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_namespace_hears_what_it_handles() {
        const NONE: &str = "0000000000000000";
        const SIGTERM: &str = "0000000000004000";
        let with = |pids, caught, ignored, blocked| {
            format!("Name:\tworker\nNStgid:\t{pids}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n")
        };
        let status = |pids, caught| with(pids, caught, NONE, NONE);
        for (status, deaf) in [
            (with("4711\t1", NONE, SIGTERM, NONE), false),
            (with("4711\t1", NONE, NONE, SIGTERM), false),
            (status("4711\t1", "0000000000000000"), true),
            (status("4711\t12\t1", "0000000000000440"), true),
            (status("4711\t1", "0000000000004000"), false),
            (status("4711\t2", "0000000000000000"), false),
            (status("4711", "0000000000000000"), false),
            // Process 1 of a container, where this broker is, is no worker of a namespace of its own.
            (status("1", "0000000000000000"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_deaf_to(libc::SIGTERM, &status), deaf, "{status}");
        }
    }
}

//! `[broker]` Host names to addresses, by the system's resolver (/etc/hosts, DNS, whatever nsswitch.conf(5) says).
//!
//! The system's resolver cannot be told a deadline. So it runs on a thread of its own, and who asked waits no longer
//! than it wants to; the thread ends when the resolver has. How many run is bounded. Who asks for a name that is
//! being looked up already waits for the same answer: however often one worker asks for a name whose servers hang, that
//! is one of them.
//!
//! A name is looked up as the system does it: one that is not found may be tried with the search domains of
//! resolv.conf(5) behind it.

use std::ffi::CString;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;

use crate::sys::lookup::{self, NoAddresses};
use crate::wire::host::{HostError, check_host};

/// A resolver. `Send + Sync`; each has its own look-ups, and its own bound on how many there are.
#[derive(Debug)]
pub(crate) struct Names {
    open: Arc<Open>,
    most: usize,
}

/// How many look-ups a resolver has at a time, unless it is told.
pub(crate) const OUTSTANDING: usize = 4;

impl Default for Names {
    fn default() -> Self {
        Self::new(OUTSTANDING)
    }
}

impl Names {
    /// A resolver with at most so many look-ups at a time. It starts no thread before it is asked.
    pub(crate) fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// The addresses of `host`, waiting no longer than until `deadline`.
    pub(crate) fn resolve(&self, host: &str, deadline: Instant) -> Result<Answers, Unresolved> {
        let host = check_host(host.as_bytes()).map_err(Unresolved::Host)?;
        self.lookup(host)?.wait(deadline)
    }

    /// The look-up of this name that is under way, or a new one.
    fn lookup(&self, host: &str) -> Result<Arc<Lookup>, Unresolved> {
        let lookup = {
            let mut open = lock(&self.open);
            if let Some(lookup) = open.iter().find(|lookup| &*lookup.host == host) {
                return Ok(lookup.clone());
            }
            if open.len() >= self.most {
                return Err(Unresolved::Busy);
            }
            let lookup = Arc::new(Lookup { host: host.into(), outcome: Mutex::default(), done: Condvar::new() });
            open.push(lookup.clone());
            lookup
        };
        // Dropped with the closure if there is no thread for it.
        let running = Running {
            open: self.open.clone(),
            lookup: lookup.clone(),
            outcome: Err(Unresolved::Failed(Errno::EAGAIN)),
        };
        let started = thread::Builder::new().name("fdbroker-names".into()).spawn(move || running.run());
        started.map_err(|error| Unresolved::Failed(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN))))?;
        Ok(lookup)
    }
}

/// The addresses of one name: at most [`ADDRESSES`], in the system's order of preference, and each once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answers {
    addresses: [IpAddr; ADDRESSES],
    len: usize,
}

/// How many addresses of a name are kept; further ones are dropped.
pub(crate) const ADDRESSES: usize = 16;

impl Answers {
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses[..self.len]
    }

    /// Keeps it if it is one that can be connected to, as what it is: an IPv4 address in IPv6 form is the IPv4 address.
    fn keep(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast || self.addresses().contains(&address) {
            return;
        }
        if let Some(place) = self.addresses.get_mut(self.len) {
            *place = address;
            self.len += 1;
        }
    }
}

/// Why there are no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unresolved {
    #[error(transparent)]
    Host(HostError),
    #[error("there is no such host, or it has no address that can be connected to")]
    NotFound,
    #[error("no name server answered")]
    NoAnswer,
    #[error("as many names are being looked up as may be at a time")]
    Busy,
    #[error("the name was not resolved before the deadline")]
    TimedOut,
    #[error("the system's resolver failed: {0}")]
    Failed(Errno),
}

impl Unresolved {
    /// The errno that says it best. No system call resolves names; these are what glibc's own sources of names answer
    /// (NSS): ENOENT for a name that is not found, EAGAIN where another try may find it.
    pub(crate) fn errno(self) -> Errno {
        match self {
            Self::Host(_) => Errno::EINVAL,
            Self::NotFound => Errno::ENOENT,
            Self::NoAnswer | Self::Busy => Errno::EAGAIN,
            Self::TimedOut => Errno::ETIMEDOUT,
            Self::Failed(errno) => errno,
        }
    }
}

/// The look-ups that are under way.
type Open = Mutex<Vec<Arc<Lookup>>>;

/// One name that is being looked up. Whoever asked for it waits here.
#[derive(Debug)]
struct Lookup {
    host: Box<str>,
    outcome: Mutex<Option<Result<Answers, Unresolved>>>,
    done: Condvar,
}

impl Lookup {
    fn wait(&self, deadline: Instant) -> Result<Answers, Unresolved> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = *outcome {
                return outcome;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unresolved::TimedOut);
            }
            outcome = self.done.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What the thread of a look-up holds. However it ends, it makes room and tells who waits.
struct Running {
    open: Arc<Open>,
    lookup: Arc<Lookup>,
    outcome: Result<Answers, Unresolved>,
}

impl Running {
    fn run(mut self) {
        self.outcome = ask(&self.lookup.host);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // First, so that who has the answer finds the room that it made.
        lock(&self.open).retain(|lookup| !Arc::ptr_eq(lookup, &self.lookup));
        *lock(&self.lookup.outcome) = Some(self.outcome);
        self.lookup.done.notify_all();
    }
}

fn ask(host: &str) -> Result<Answers, Unresolved> {
    let host = CString::new(host).map_err(|_| Unresolved::Host(HostError::Byte))?;
    let mut answers = Answers { addresses: [IpAddr::from([0; 4]); ADDRESSES], len: 0 };
    lookup::addresses(&host, |address| answers.keep(address)).map_err(|why| match why {
        NoAddresses::NotFound => Unresolved::NotFound,
        NoAddresses::NoAnswer => Unresolved::NoAnswer,
        NoAddresses::Failed => Unresolved::Failed(Errno::EIO),
        NoAddresses::System(error) => Unresolved::Failed(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
    })?;
    if answers.len == 0 { Err(Unresolved::NotFound) } else { Ok(answers) }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! `[broker -> worker]` What happens in a new process before it executes its program.
//!
//! The child is in its parent's memory (`clone`): it makes system calls (`calls`) and reads what was prepared, and does
//! nothing else. It does not allocate, does not panic, and writes to its own stack and its [`Report`] alone. The order of
//! the steps matters: a wrong one fails with EPERM, EACCES or EBADF.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "arguments and answers of system calls are machine words"
)]

mod calls;
mod descriptors;
mod dumpable;
mod filter;
mod identity;
mod image;
mod root;
mod signals;
mod step;

pub(crate) use filter::Filter;
pub(crate) use identity::Ids;
pub(crate) use image::Image;
pub(crate) use root::Entity;
pub use step::Step;

use std::convert::Infallible;
use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

use super::call::Errno;
use super::clone::{Entry, Handlers, clone_vfork};
use super::process;
use dumpable::Dumpable;

/// What the child is to do: the same for each that is started by it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// CLONE_NEW* flags.
    pub(crate) namespaces: u64,
    /// Lines for uid_map and gid_map, for a user namespace of its own.
    pub(crate) id_maps: Option<[String; 2]>,
    /// What its root holds, in a mount namespace of its own.
    pub(crate) root: Option<Vec<Entity>>,
    pub(crate) working_directory: CString,
    /// Resource, soft and hard limit.
    pub(crate) limits: Vec<(u32, [u64; 2])>,
    /// How many capabilities this kernel has, if the bounding set is to be emptied.
    pub(crate) bounding_set: Option<u8>,
    pub(crate) securebits: bool,
    pub(crate) ids: Option<Ids>,
    pub(crate) no_new_privs: bool,
    pub(crate) die_with_parent: bool,
    /// A Landlock ruleset.
    pub(crate) landlock: Option<OwnedFd>,
    /// What to execute; without one, the child ends when all else is done.
    pub(crate) image: Option<Image>,
}

/// What one start has of its own. No descriptor in it, or in the plan, has a number that another is to get.
pub(crate) struct Start<'a> {
    pub(crate) plan: &'a Plan,
    /// Descriptors with the numbers that they get, in ascending order of those.
    pub(crate) descriptors: &'a [(RawFd, RawFd)],
    pub(crate) filter: Option<Filter<'a>>,
    /// What the filter wants to see with execveat(2).
    pub(crate) token: u64,
    /// Where the filter's listener is sent.
    pub(crate) listener: Option<RawFd>,
    /// This process, for a child that cannot ask for its parent's pid.
    pub(crate) parent: Option<RawFd>,
}

/// Why there is no child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) why: Why,
    /// Of a step that is taken several times, which one.
    pub(crate) which: usize,
}

/// What came in the way of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The kernel refused it, with this errno.
    Refused(i32),
    /// The child was killed while it took it: by this signal, if that is known. A filter around this process does so.
    Killed(Option<i32>),
}

impl From<Why> for io::Error {
    fn from(why: Why) -> Self {
        match why {
            Why::Refused(errno) => Self::from_raw_os_error(errno),
            Why::Killed(Some(libc::SIGSYS)) => {
                Self::other("killed (SIGSYS): a filter around this process kills who takes this step")
            }
            Why::Killed(Some(signal)) => Self::other(format!("killed by signal {signal}")),
            Why::Killed(None) => Self::other("killed"),
        }
    }
}

/// Makes the child and waits until it has executed its program, or has come to its end in a plan without one. The
/// calling thread's signal mask and the process's PR_SET_DUMPABLE are then what they were.
///
/// If a step fails, the child is gone and has been waited for.
pub(crate) fn spawn(start: &Start<'_>) -> Result<(libc::pid_t, OwnedFd), Failure> {
    let failed = |step, Errno(errno)| Failure { step, why: Why::Refused(errno), which: 0 };
    let report = Report::default();
    let order = Order { start, report: &report, parent: std::process::id() };
    let entry = Entry { run: begin, argument: (&raw const order).cast_mut().cast() };
    // Changing ids clears the flag of the memory, which is ours too.
    let dumpable = start.plan.ids.is_some().then(Dumpable::keep);
    let mask = signals::block().map_err(|errno| failed(Step::Signals, errno))?;
    // SAFETY: all signals are blocked; `order` is what `begin` takes, and lives until the end of this function; `begin`
    // does what `clone_vfork` says.
    let made = unsafe { clone_vfork(start.plan.namespaces, &entry) };
    // It cannot fail with a mask that the kernel gave.
    let _ = signals::set_mask(mask);
    drop(dumpable);
    let (pid, pidfd) = made.map_err(|errno| failed(Step::Clone, errno))?;
    let Some((step, which)) = report.unfinished() else { return Ok((pid, pidfd)) };
    let exit = process::reap(&pidfd, pid);
    let why = match report.errno.load(Ordering::Relaxed) {
        0 => Why::Killed(exit.and_then(|exit| exit.status.signal())),
        errno => Why::Refused(errno),
    };
    Err(Failure { step, why, which })
}

/// Beyond the last step, of a plan without a program.
const DONE: u8 = u8::MAX;

/// How far the child has come. It writes, and its parent reads when the child has left this memory.
#[derive(Default)]
struct Report {
    step: AtomicU8,
    which: AtomicUsize,
    errno: AtomicI32,
}

impl Report {
    /// The step that failed, or in which the child was killed. The last one is different: who is in it and reports
    /// nothing has executed the program (or was killed by the kernel when there was no way back from that).
    fn unfinished(&self) -> Option<(Step, usize)> {
        let failed = self.errno.load(Ordering::Acquire) != 0;
        let number = self.step.load(Ordering::Relaxed);
        if number == DONE || (number == Step::Exec as u8 && !failed) {
            return None;
        }
        let step = Step::ALL.into_iter().find(|step| *step as u8 == number).unwrap_or(Step::Clone);
        Some((step, self.which.load(Ordering::Relaxed)))
    }
}

struct Order<'a> {
    start: &'a Start<'a>,
    report: &'a Report,
    parent: u32,
}

fn begin(order: *mut c_void, handlers: Handlers) -> ! {
    // SAFETY: `spawn` passes its own `Order`, which lives for as long as the child is in this memory.
    let order = unsafe { &*order.cast::<Order<'_>>() };
    let Err(Errno(errno)) = order.take_steps(handlers);
    order.report.errno.store(errno, Ordering::Release);
    calls::exit(127)
}

impl Order<'_> {
    /// Ends only by a failure, which is that of the step that was begun last.
    fn take_steps(&self, handlers: Handlers) -> Result<Infallible, Errno> {
        let Start { plan, descriptors, .. } = self.start;
        self.begin(Step::Signals);
        signals::reset(handlers)?;
        if let Some(maps) = &plan.id_maps {
            self.begin(Step::IdMaps);
            identity::write_id_maps(maps)?;
        }
        self.begin(Step::Descriptors);
        descriptors::place(descriptors)?;
        self.begin(Step::CloseOnExec);
        descriptors::close_others_on_exec(descriptors)?;
        if let Some(root) = &plan.root {
            root::make(root, |step, which| self.begin_one(step, which))?;
        }
        self.begin(Step::WorkingDirectory);
        calls::chdir(&plan.working_directory)?;
        if let Some(capabilities) = plan.bounding_set {
            self.begin(Step::BoundingSet);
            identity::empty_bounding_set(capabilities)?;
        }
        if plan.securebits {
            self.begin(Step::Securebits);
            identity::lock_securebits()?;
        }
        if let Some(ids) = &plan.ids {
            identity::become_user(ids, |step| self.begin(step))?;
        }
        self.begin(Step::Capabilities);
        calls::drop_capabilities()?;
        if plan.no_new_privs {
            self.begin(Step::NoNewPrivs);
            identity::set_no_new_privs()?;
        }
        if plan.die_with_parent {
            // After the change of user, which clears it.
            self.begin(Step::DieWithParent);
            identity::die_with(self.parent, self.start.parent)?;
        }
        if let Some(ruleset) = &plan.landlock {
            self.begin(Step::Landlock);
            calls::restrict_by_landlock(ruleset.as_raw_fd())?;
        }
        // The mask is inherited, by exec too: a worker of a thread that has blocked SIGTERM could not be told to end.
        // There is no handler to run any more.
        self.begin(Step::SignalMask);
        signals::set_mask(0)?;
        if let Some(filter) = &self.start.filter {
            self.begin(Step::Seccomp);
            let listener = filter.install()?;
            if let (Some(listener), Some(socket)) = (listener, self.start.listener) {
                self.begin(Step::Listener);
                filter::hand_over(listener, socket)?;
            }
        }
        // None of them is in the way of what is done before: the kernel holds the limit of descriptors against who sends
        // one (K9), and that of processes against who changes its user (K66).
        for (which, (resource, limits)) in plan.limits.iter().enumerate() {
            self.begin_one(Step::Limits, which);
            calls::set_limit(*resource, limits)?;
        }
        match &plan.image {
            Some(image) => {
                self.begin(Step::Exec);
                image.execute(self.start.token)
            }
            None => {
                self.report.step.store(DONE, Ordering::Release);
                calls::exit(0)
            }
        }
    }

    fn begin(&self, step: Step) {
        self.begin_one(step, 0);
    }

    /// Of a step that is taken several times.
    fn begin_one(&self, step: Step, which: usize) {
        self.report.which.store(which, Ordering::Relaxed);
        self.report.step.store(step as u8, Ordering::Relaxed);
    }
}

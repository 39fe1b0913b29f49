//! `[broker -> worker]` What happens in a new process before it executes its program.
//!
//! The child is in its parent's memory (`clone`): it makes system calls and reads what was prepared, and does nothing
//! else. It does not allocate, does not panic, and writes to its own stack and its [`Report`] alone. The order of the
//! steps matters: a wrong one fails with EPERM, EACCES or EBADF.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr, OsString, c_int, c_void};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

use super::call::{Errno, call};
use super::clone::{Entry, Handlers, clone_vfork};
use super::process;

/// A step of starting a worker, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Step {
    /// The process with its namespaces: clone3(2).
    Clone = 1,
    /// What was ignored is not, and no handler of the parent's is left: rt_sigaction(2).
    Signals,
    /// The user and group as which it appears in its user namespace: /proc/self/uid_map and gid_map.
    IdMaps,
    /// Descriptors at the numbers that they are to have: dup3(2).
    Descriptors,
    /// Every other descriptor is closed by exec: close_range(2), or fcntl(2) for each that /proc/self/fd lists.
    CloseOnExec,
    /// What it mounts is seen by nobody else: mount(2).
    PrivateMounts,
    /// An empty root directory: fsopen(2), fsmount(2), move_mount(2).
    EmptyRoot,
    /// One file or directory in it: mkdirat(2), mknodat(2), symlinkat(2), open_tree(2), move_mount(2).
    Bind,
    /// The root is read-only: mount_setattr(2).
    ReadOnlyRoot,
    /// It is the root, and the old one is not there any more: pivot_root(2), umount2(2).
    PivotRoot,
    /// The working directory: chdir(2).
    WorkingDirectory,
    /// A resource limit: prlimit(2).
    Limits,
    /// Emptying the bounding and ambient capability sets: prctl(2).
    BoundingSet,
    /// User 0 has no capabilities by being user 0: prctl(2).
    Securebits,
    /// The supplementary groups: setgroups(2).
    Groups,
    /// The group: setresgid(2).
    Gid,
    /// The user: setresuid(2).
    Uid,
    /// Emptying the other capability sets: capset(2).
    Capabilities,
    /// no_new_privs: prctl(2).
    NoNewPrivs,
    /// Dying with the parent: prctl(2), and asking whether it is still there.
    DieWithParent,
    /// Landlock: landlock_restrict_self(2).
    Landlock,
    /// No signal is blocked: rt_sigprocmask(2).
    SignalMask,
    /// The system-call filters: seccomp(2).
    Seccomp,
    /// The filter's listener, handed to the parent: sendmsg(2).
    Listener,
    /// The program: execveat(2).
    Exec,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 25] = [
        Self::Clone,
        Self::Signals,
        Self::IdMaps,
        Self::Descriptors,
        Self::CloseOnExec,
        Self::PrivateMounts,
        Self::EmptyRoot,
        Self::Bind,
        Self::ReadOnlyRoot,
        Self::PivotRoot,
        Self::WorkingDirectory,
        Self::Limits,
        Self::BoundingSet,
        Self::Securebits,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::DieWithParent,
        Self::Landlock,
        Self::SignalMask,
        Self::Seccomp,
        Self::Listener,
        Self::Exec,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Signals => "signals",
            Self::IdMaps => "id maps",
            Self::Descriptors => "descriptors",
            Self::CloseOnExec => "close on exec",
            Self::PrivateMounts => "private mounts",
            Self::EmptyRoot => "empty root",
            Self::Bind => "bind",
            Self::ReadOnlyRoot => "read-only root",
            Self::PivotRoot => "pivot_root",
            Self::WorkingDirectory => "working directory",
            Self::Limits => "limits",
            Self::BoundingSet => "bounding set",
            Self::Securebits => "securebits",
            Self::Groups => "groups",
            Self::Gid => "gid",
            Self::Uid => "uid",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::DieWithParent => "die with parent",
            Self::Landlock => "landlock",
            Self::SignalMask => "signal mask",
            Self::Seccomp => "seccomp",
            Self::Listener => "listener",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
    /// Whether the bounding and ambient sets are emptied.
    pub(crate) bounding_set: bool,
    pub(crate) securebits: bool,
    pub(crate) ids: Option<Ids>,
    pub(crate) no_new_privs: bool,
    pub(crate) die_with_parent: bool,
    /// A Landlock ruleset.
    pub(crate) landlock: Option<OwnedFd>,
    /// What to execute; without one, the child ends when all else is done.
    pub(crate) image: Option<Image>,
}

/// The user whom the child becomes.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) uid: libc::uid_t,
    pub(crate) gid: libc::gid_t,
    /// Supplementary ones.
    pub(crate) groups: Vec<libc::gid_t>,
}

/// Something in the child's root. The paths are relative to it, and what stands above them has come before.
#[derive(Debug)]
pub(crate) enum Entity {
    Directory(CString),
    File(CString),
    Link {
        path: CString,
        target: CString,
    },
    /// What is at `source` now, with what is mounted beneath it, read-only.
    Bind {
        path: CString,
        source: CString,
    },
}

/// What one start has of its own. No descriptor in it, or in the plan, has a number that another is to get.
pub(crate) struct Start<'a> {
    pub(crate) plan: &'a Plan,
    /// Descriptors with the numbers that they get, in ascending order of those.
    pub(crate) descriptors: &'a [(RawFd, RawFd)],
    /// Installed in this order.
    pub(crate) filters: &'a [Filter<'a>],
    /// What the filter wants to see with execveat(2).
    pub(crate) token: u64,
    /// Where a filter's listener is sent. It has, until then, the number after the last of `descriptors`, at which
    /// nothing is that is needed here.
    pub(crate) listener: Option<RawFd>,
    /// This process, for a child that cannot ask for its parent's pid.
    pub(crate) parent: Option<RawFd>,
}

/// A program for seccomp(2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    pub(crate) code: &'a [seccompiler::sock_filter],
    /// Whether it has a listener (SECCOMP_FILTER_FLAG_NEW_LISTENER).
    pub(crate) listener: bool,
}

/// A program with its arguments and environment, as execveat(2) wants them.
#[derive(Debug)]
pub(crate) struct Image {
    /// The program's file, if it is to be executed by descriptor.
    file: Option<File>,
    path: CString,
    /// Null-terminated, into `_strings`.
    argv: Vec<*const libc::c_char>,
    /// Null-terminated, into `_strings`.
    envp: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

// SAFETY: the pointers are to the heap memory of `_strings`, which belongs to the same value and is never changed.
unsafe impl Send for Image {}
// SAFETY: as above; nothing can be changed through a shared reference.
unsafe impl Sync for Image {}

impl Image {
    /// Fails when anything holds a NUL byte.
    pub(crate) fn new<'a>(
        file: Option<File>,
        path: &Path,
        args: impl Iterator<Item = &'a OsStr>,
        env: impl Iterator<Item = &'a (OsString, OsString)>,
    ) -> io::Result<Self> {
        let variable = |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut strings: Vec<CString> = args.map(|arg| CString::new(arg.as_bytes())).collect::<Result<_, _>>()?;
        let args = strings.len();
        for entry in env {
            strings.push(CString::new(variable(entry))?);
        }
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        let (argv, envp) = (pointers(&strings[..args]), pointers(&strings[args..]));
        Ok(Self { file, path, argv, envp, _strings: strings })
    }
}

/// Why there is no child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
    /// Of a step that is taken several times, which one.
    pub(crate) which: usize,
}

/// Makes the child and waits until it has executed its program, or has come to its end in a plan without one. The
/// calling thread's signal mask and the process's PR_SET_DUMPABLE are then what they were.
///
/// If a step fails, the child is gone and has been waited for.
pub(crate) fn spawn(start: &Start<'_>) -> Result<(libc::pid_t, OwnedFd), Failure> {
    let failed = |step, Errno(errno)| Failure { step, errno, which: 0 };
    let report = Report::default();
    let order = Order { start, report: &report, parent: std::process::id() };
    let entry = Entry { run: begin, argument: (&raw const order).cast_mut().cast() };
    // Changing ids clears the flag of the memory, which is ours too.
    let dumpable = start.plan.ids.is_some().then(Dumpable::keep);
    let mask = block_signals().map_err(|errno| failed(Step::Signals, errno))?;
    // SAFETY: all signals are blocked; `order` is what `begin` takes, and lives until the end of this function; `begin`
    // does what `clone_vfork` says.
    let made = unsafe { clone_vfork(start.plan.namespaces, &entry) };
    set_mask(mask);
    drop(dumpable);
    let (pid, pidfd) = made.map_err(|errno| failed(Step::Clone, errno))?;
    match report.failure() {
        None => Ok((pid, pidfd)),
        Some(failure) => {
            process::reap(&pidfd, pid);
            Err(failure)
        }
    }
}

/// How far the child has come. It writes, and its parent reads when the child has left this memory.
#[derive(Default)]
struct Report {
    step: AtomicU8,
    which: AtomicUsize,
    errno: AtomicI32,
}

impl Report {
    fn failure(&self) -> Option<Failure> {
        let errno = Some(self.errno.load(Ordering::Acquire)).filter(|errno| *errno != 0)?;
        let number = self.step.load(Ordering::Relaxed);
        let step = Step::ALL.into_iter().find(|step| *step as u8 == number)?;
        Some(Failure { step, errno, which: self.which.load(Ordering::Relaxed) })
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
    exit(127)
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: takes a number, and does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]) };
    }
}

impl Order<'_> {
    /// Ends only by a failure, which is that of the step that was begun last.
    fn take_steps(&self, handlers: Handlers) -> Result<Infallible, Errno> {
        let Start { plan, .. } = self.start;
        self.begin(Step::Signals);
        default_signals(handlers)?;
        if let Some(maps) = &plan.id_maps {
            self.begin(Step::IdMaps);
            write_id_maps(maps)?;
        }
        self.begin(Step::Descriptors);
        self.place_descriptors()?;
        self.begin(Step::CloseOnExec);
        self.close_the_rest()?;
        if let Some(root) = &plan.root {
            self.make_root(root)?;
        }
        self.begin(Step::WorkingDirectory);
        path_call(libc::SYS_chdir, &plan.working_directory)?;
        self.begin(Step::Limits);
        self.set_limits()?;
        if plan.bounding_set {
            self.begin(Step::BoundingSet);
            empty_bounding_set()?;
        }
        if plan.securebits {
            self.begin(Step::Securebits);
            numbers(libc::SYS_prctl, &[libc::PR_SET_SECUREBITS as usize, SECUREBITS])?;
        }
        if let Some(ids) = &plan.ids {
            self.change_ids(ids)?;
        }
        self.begin(Step::Capabilities);
        drop_capabilities()?;
        if plan.no_new_privs {
            self.begin(Step::NoNewPrivs);
            numbers(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as usize, 1])?;
        }
        if plan.die_with_parent {
            // After the change of user, which clears it.
            self.begin(Step::DieWithParent);
            self.die_with_parent()?;
        }
        if let Some(ruleset) = &plan.landlock {
            self.begin(Step::Landlock);
            numbers(libc::SYS_landlock_restrict_self, &[number(ruleset.as_raw_fd()), 0])?;
        }
        // The mask is inherited, by exec too: a worker of a thread that has blocked SIGTERM could not be told to end.
        // There is no handler to run any more.
        self.begin(Step::SignalMask);
        change_mask(0)?;
        for filter in self.start.filters {
            self.begin(Step::Seccomp);
            let listener = install(filter)?;
            if let (Some(listener), Some(socket)) = (listener, self.start.listener) {
                self.begin(Step::Listener);
                send_descriptor(socket, listener)?;
            }
        }
        match &plan.image {
            Some(image) => {
                self.begin(Step::Exec);
                exec(image, self.start.token)
            }
            None => exit(0),
        }
    }

    fn begin(&self, step: Step) {
        self.report.step.store(step as u8, Ordering::Relaxed);
    }

    fn place_descriptors(&self) -> Result<(), Errno> {
        for (source, target) in self.start.descriptors {
            numbers(libc::SYS_dup3, &[number(*source), number(*target), 0])?;
        }
        if let (Some(_), Some((_, last))) = (self.start.listener, self.start.descriptors.last()) {
            // A number for the listener, which is made when the limits hold. What the parent has there is not needed.
            let _ = close(number(last.wrapping_add(1)));
        }
        Ok(())
    }

    /// Not closed here: what is still needed is among them. exec closes them.
    fn close_the_rest(&self) -> Result<(), Errno> {
        let mut next = 0;
        for (_, target) in self.start.descriptors {
            if *target > next && self.close_on_exec(next, target.wrapping_sub(1))? {
                return Ok(());
            }
            next = target.wrapping_add(1);
        }
        self.close_on_exec(next, RawFd::MAX).map(drop)
    }

    /// The descriptors from `first` to `last`; or all that have no place, which the answer then says.
    fn close_on_exec(&self, first: RawFd, last: RawFd) -> Result<bool, Errno> {
        // RawFd::MAX stands for all that can be.
        let last = if last == RawFd::MAX { u32::MAX as usize } else { number(last) };
        let flag = libc::CLOSE_RANGE_CLOEXEC as usize;
        match numbers(libc::SYS_close_range, &[number(first), last, flag]) {
            Ok(_) => Ok(false),
            // Before Linux 5.11, or a filter around this process.
            Err(Errno(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => self.close_on_exec_one_by_one().map(|()| true),
            Err(errno) => Err(errno),
        }
    }

    fn close_on_exec_one_by_one(&self) -> Result<(), Errno> {
        let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
        let directory = open(c"/proc/self/fd", flags)?;
        let mut buffer = Entries([0; 2048]);
        loop {
            let arguments = [directory, (&raw mut buffer).expose_provenance(), size_of::<Entries>(), 0, 0, 0];
            // SAFETY: the kernel writes at most that many bytes to `buffer`.
            let read = unsafe { call(libc::SYS_getdents64, arguments) }?;
            if read == 0 {
                return close(directory);
            }
            for name in Names(buffer.0.get(..read).unwrap_or_default()) {
                let Some(descriptor) = decimal(name) else { continue };
                if !self.start.descriptors.iter().any(|(_, target)| *target == descriptor) {
                    let closed = [number(descriptor), libc::F_SETFD as usize, libc::FD_CLOEXEC as usize];
                    numbers(libc::SYS_fcntl, &closed)?;
                }
            }
        }
    }

    fn make_root(&self, root: &[Entity]) -> Result<(), Errno> {
        self.begin(Step::PrivateMounts);
        mount(None, c"/", (libc::MS_REC | libc::MS_PRIVATE) as usize)?;
        self.begin(Step::EmptyRoot);
        let top = empty_file_system()?;
        move_mount(top, c"/")?;
        // The modes of what is made here are not the parent's umask's business.
        let umask = numbers(libc::SYS_umask, &[0])?;
        for (which, entity) in root.iter().enumerate() {
            self.begin(Step::Bind);
            self.report.which.store(which, Ordering::Relaxed);
            put(top, entity)?;
        }
        numbers(libc::SYS_umask, &[umask])?;
        self.begin(Step::ReadOnlyRoot);
        restrict_mount(top, MOUNT_ATTR_RDONLY)?;
        self.begin(Step::PivotRoot);
        numbers(libc::SYS_fchdir, &[top])?;
        // The new root is put over the old one, which is then on top of it, and is taken away.
        let here = c".".as_ptr().expose_provenance();
        numbers(libc::SYS_pivot_root, &[here, here])?;
        numbers(libc::SYS_umount2, &[here, libc::MNT_DETACH as usize])?;
        close(top)
    }

    fn set_limits(&self) -> Result<(), Errno> {
        for (which, (resource, limits)) in self.start.plan.limits.iter().enumerate() {
            self.report.which.store(which, Ordering::Relaxed);
            let arguments = [0, *resource as usize, (&raw const *limits).expose_provenance(), 0, 0, 0];
            // SAFETY: two words, as in struct rlimit64, which the kernel reads.
            unsafe { call(libc::SYS_prlimit64, arguments) }?;
        }
        Ok(())
    }

    fn change_ids(&self, ids: &Ids) -> Result<(), Errno> {
        let (uid, gid) = (ids.uid as usize, ids.gid as usize);
        self.begin(Step::Groups);
        numbers(libc::SYS_setgroups, &[ids.groups.len(), ids.groups.as_ptr().expose_provenance()])?;
        self.begin(Step::Gid);
        numbers(libc::SYS_setresgid, &[gid, gid, gid])?;
        self.begin(Step::Uid);
        numbers(libc::SYS_setresuid, &[uid, uid, uid]).map(drop)
    }

    fn die_with_parent(&self) -> Result<(), Errno> {
        numbers(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize])?;
        // It may have died before it was watched.
        let is_gone = match self.start.parent {
            // In another PID namespace, it has no number.
            Some(pidfd) => has_ended(pidfd)?,
            None => numbers(libc::SYS_getppid, &[])? != self.parent as usize,
        };
        if is_gone { Err(Errno(libc::ESRCH)) } else { Ok(()) }
    }
}

/// A descriptor as an argument.
fn number(descriptor: RawFd) -> usize {
    descriptor as usize
}

/// A system call that takes numbers, or addresses of strings that end with a NUL and of arrays that are as long as it is
/// told. None of those made here writes to memory.
fn numbers(number: libc::c_long, arguments: &[usize]) -> Result<usize, Errno> {
    let mut six = [0; 6];
    for (slot, argument) in six.iter_mut().zip(arguments) {
        *slot = *argument;
    }
    // SAFETY: the callers, all in this file, pass what the line above says.
    unsafe { call(number, six) }
}

fn path_call(number: libc::c_long, path: &CStr) -> Result<usize, Errno> {
    numbers(number, &[path.as_ptr().expose_provenance()])
}

fn open(path: &CStr, flags: usize) -> Result<usize, Errno> {
    numbers(libc::SYS_openat, &[AT_FDCWD, path.as_ptr().expose_provenance(), flags])
}

fn close(descriptor: usize) -> Result<(), Errno> {
    numbers(libc::SYS_close, &[descriptor]).map(drop)
}

const AT_FDCWD: usize = libc::AT_FDCWD as usize;

/// The kernel's struct sigaction, without a restorer where the architecture has none: then the mask comes earlier and
/// the end is not read. Zeros mean the default.
#[repr(C)]
#[derive(Default)]
struct Action {
    handler: usize,
    rest: [usize; 4],
}

/// Of the kernel's signal sets: 64 signals.
const SET: usize = 8;

/// Rust ignores SIGPIPE, and what is ignored stays so across exec.
fn default_signals(handlers: Handlers) -> Result<(), Errno> {
    let default = Action::default();
    let default = (&raw const default).expose_provenance();
    // SAFETY: the kernel reads one struct.
    unsafe { call(libc::SYS_rt_sigaction, [libc::SIGPIPE as usize, default, 0, SET, 0, 0]) }?;
    if handlers == Handlers::Cleared {
        return Ok(());
    }
    for signal in 1..=64 {
        let mut action = Action::default();
        // SAFETY: the kernel writes one struct.
        unsafe { call(libc::SYS_rt_sigaction, [signal, 0, (&raw mut action).expose_provenance(), SET, 0, 0]) }?;
        if ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.handler) {
            // SAFETY: the kernel reads one struct.
            unsafe { call(libc::SYS_rt_sigaction, [signal, default, 0, SET, 0, 0]) }?;
        }
    }
    Ok(())
}

/// Sets this thread's mask, and answers what it was. Also of the signals that the C library keeps for itself.
fn change_mask(mask: u64) -> Result<u64, Errno> {
    let mut old = 0_u64;
    let (new, before) = ((&raw const mask).expose_provenance(), (&raw mut old).expose_provenance());
    // SAFETY: the kernel reads one set of 64 signals and writes another.
    unsafe { call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, before, SET, 0, 0]) }?;
    Ok(old)
}

fn block_signals() -> Result<u64, Errno> {
    change_mask(u64::MAX)
}

fn set_mask(mask: u64) {
    // It cannot fail with these arguments.
    let _ = change_mask(mask);
}

fn write_id_maps([uids, gids]: &[String; 2]) -> Result<(), Errno> {
    // The kernel lets an ordinary user map a group only after setgroups has been given up.
    write_file(c"/proc/self/setgroups", b"deny")?;
    write_file(c"/proc/self/uid_map", uids.as_bytes())?;
    write_file(c"/proc/self/gid_map", gids.as_bytes())
}

fn write_file(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = open(path, (libc::O_WRONLY | libc::O_CLOEXEC) as usize)?;
    let written = numbers(libc::SYS_write, &[file, text.as_ptr().expose_provenance(), text.len()]);
    close(file)?;
    written.map(drop)
}

/// What getdents64(2) fills, aligned as it wants it.
#[repr(C, align(8))]
struct Entries([u8; 2048]);

/// The names in a buffer of `struct linux_dirent64`: d_ino and d_off (8 bytes each), d_reclen (2), d_type (1), name.
struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_ne_bytes([*self.0.get(16)?, *self.0.get(17)?]);
        let entry = self.0.get(..usize::from(length)).filter(|entry| !entry.is_empty())?;
        self.0 = self.0.get(usize::from(length)..)?;
        entry.get(19..)?.split(|byte| *byte == 0).next()
    }
}

fn decimal(text: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn mount(kind: Option<&CStr>, target: &CStr, flags: usize) -> Result<(), Errno> {
    let none = c"none".as_ptr().expose_provenance();
    let kind = kind.map_or(0, |kind| kind.as_ptr().expose_provenance());
    numbers(libc::SYS_mount, &[none, target.as_ptr().expose_provenance(), kind, flags, 0]).map(drop)
}

// linux/mount.h
const FSOPEN_CLOEXEC: usize = 1;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const FSMOUNT_CLOEXEC: usize = 1;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const OPEN_TREE_CLONE: usize = 1;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// A descriptor of the root of a new, empty file system in memory, which is mounted nowhere yet.
fn empty_file_system() -> Result<usize, Errno> {
    let context = numbers(libc::SYS_fsopen, &[c"tmpfs".as_ptr().expose_provenance(), FSOPEN_CLOEXEC])?;
    let (mode, value) = (c"mode".as_ptr().expose_provenance(), c"0755".as_ptr().expose_provenance());
    numbers(libc::SYS_fsconfig, &[context, FSCONFIG_SET_STRING, mode, value, 0])?;
    numbers(libc::SYS_fsconfig, &[context, FSCONFIG_CMD_CREATE, 0, 0, 0])?;
    let attributes = (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC) as usize;
    let mounted = numbers(libc::SYS_fsmount, &[context, FSMOUNT_CLOEXEC, attributes])?;
    close(context)?;
    Ok(mounted)
}

/// Mounts what `mounted` is the root of.
fn move_mount(mounted: usize, path: &CStr) -> Result<(), Errno> {
    move_mount_at(mounted, AT_FDCWD, path)
}

fn move_mount_at(mounted: usize, directory: usize, path: &CStr) -> Result<(), Errno> {
    let (nothing, path) = (c"".as_ptr().expose_provenance(), path.as_ptr().expose_provenance());
    numbers(libc::SYS_move_mount, &[mounted, nothing, directory, path, MOVE_MOUNT_F_EMPTY_PATH]).map(drop)
}

/// Adds attributes to a mount, and to those beneath it. Linux 5.12.
fn restrict_mount(mounted: usize, set: u64) -> Result<(), Errno> {
    // `struct mount_attr`: attr_set, attr_clr, propagation, userns_fd.
    let attributes: [u64; 4] = [set, 0, 0, 0];
    let flags = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as usize;
    let nothing = c"".as_ptr().expose_provenance();
    let (address, size) = (attributes.as_ptr().expose_provenance(), size_of_val(&attributes));
    numbers(libc::SYS_mount_setattr, &[mounted, nothing, flags, address, size]).map(drop)
}

fn put(top: usize, entity: &Entity) -> Result<(), Errno> {
    match entity {
        Entity::Directory(path) => {
            numbers(libc::SYS_mkdirat, &[top, path.as_ptr().expose_provenance(), 0o755]).map(drop)
        }
        Entity::File(path) => {
            let kind = (libc::S_IFREG | 0o444) as usize;
            numbers(libc::SYS_mknodat, &[top, path.as_ptr().expose_provenance(), kind, 0]).map(drop)
        }
        Entity::Link { path, target } => {
            let (path, target) = (path.as_ptr().expose_provenance(), target.as_ptr().expose_provenance());
            numbers(libc::SYS_symlinkat, &[target, top, path]).map(drop)
        }
        Entity::Bind { path, source } => {
            let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_RECURSIVE) as usize;
            let tree = numbers(libc::SYS_open_tree, &[AT_FDCWD, source.as_ptr().expose_provenance(), flags])?;
            restrict_mount(tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)?;
            move_mount_at(tree, top, path)?;
            close(tree)
        }
    }
}

fn empty_bounding_set() -> Result<(), Errno> {
    for capability in 0..64 {
        match numbers(libc::SYS_prctl, &[libc::PR_CAPBSET_DROP as usize, capability]) {
            // Beyond the last capability that this kernel knows.
            Err(Errno(libc::EINVAL)) => break,
            result => result?,
        };
    }
    numbers(libc::SYS_prctl, &[libc::PR_CAP_AMBIENT as usize, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize]).map(drop)
}

/// SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP, SECBIT_NO_CAP_AMBIENT_RAISE, with their locks, and SECBIT_KEEP_CAPS_LOCKED
/// (linux/securebits.h). The kernel's own handling of capabilities at a change of user is no longer wanted: they are
/// given up by name.
const SECUREBITS: usize = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;

/// The effective, permitted and inheritable sets.
fn drop_capabilities() -> Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: 64-bit sets, in two halves of three words.
    const VERSION_3: u32 = 0x2008_0522;
    // The layouts of __user_cap_header_struct (version, pid 0 for oneself) and of two __user_cap_data_struct.
    let header: [u32; 2] = [VERSION_3, 0];
    let sets = [0_u32; 6];
    numbers(libc::SYS_capset, &[header.as_ptr().expose_provenance(), sets.as_ptr().expose_provenance()]).map(drop)
}

fn has_ended(pidfd: RawFd) -> Result<bool, Errno> {
    let mut waited = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    let at_once = [0_u64; 2];
    let (waited, at_once) = ((&raw mut waited).expose_provenance(), at_once.as_ptr().expose_provenance());
    // SAFETY: the kernel reads and writes one pollfd, and reads one timespec.
    unsafe { call(libc::SYS_ppoll, [waited, 1, at_once, 0, 0, 0]) }.map(|ready| ready != 0)
}

/// Answers its listener.
fn install(filter: &Filter<'_>) -> Result<Option<usize>, Errno> {
    #[repr(C)]
    struct Program {
        length: u16,
        code: *const seccompiler::sock_filter,
    }
    // The kernel refuses more than 4096 instructions.
    let length = u16::try_from(filter.code.len()).map_err(|_| Errno(libc::EINVAL))?;
    let program = Program { length, code: filter.code.as_ptr() };
    let program = (&raw const program).expose_provenance();
    let with = |flags: libc::c_ulong| {
        numbers(libc::SYS_seccomp, &[libc::SECCOMP_SET_MODE_FILTER as usize, flags as usize, program])
    };
    if !filter.listener {
        return with(0).map(|_| None);
    }
    // Linux 5.19 has the flag by which no signal interrupts a call that is judged.
    let listener = match with(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno(libc::EINVAL)) => with(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        listener => listener,
    };
    listener.map(Some)
}

const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// One byte with one descriptor.
fn send_descriptor(socket: RawFd, descriptor: usize) -> Result<(), Errno> {
    /// A cmsghdr with room for one descriptor.
    #[repr(C)]
    struct Control {
        length: usize,
        level: c_int,
        kind: c_int,
        descriptor: c_int,
        padding: c_int,
    }
    let mut byte = 0_u8;
    let mut vector = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let length = size_of::<usize>() + 3 * size_of::<c_int>();
    let descriptor = descriptor as c_int;
    let mut control = Control { length, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, descriptor, padding: 0 };
    // SAFETY: integers and pointers, of which all may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_NOSIGNAL as usize;
    numbers(libc::SYS_sendmsg, &[number(socket), (&raw const message).expose_provenance(), flags]).map(drop)
}

/// Returns only when it fails. The token stands in a register that the call does not use, for the filter.
fn exec(image: &Image, token: u64) -> Result<Infallible, Errno> {
    let (descriptor, path, flags) = match &image.file {
        Some(file) => (number(file.as_raw_fd()), c"".as_ptr(), libc::AT_EMPTY_PATH as usize),
        None => (AT_FDCWD, image.path.as_ptr(), 0),
    };
    let (argv, envp) = (image.argv.as_ptr().expose_provenance(), image.envp.as_ptr().expose_provenance());
    let path = path.expose_provenance();
    // The strings end with a NUL and the arrays with a null pointer, by `Image::new`.
    let answer = numbers(libc::SYS_execveat, &[descriptor, path, argv, envp, flags, token as usize]);
    Err(answer.err().unwrap_or(Errno(libc::EINVAL)))
}

/// The process's PR_SET_DUMPABLE, which a child that shares its memory clears by changing its ids, until the last such
/// child has left this memory. Not set any earlier: for whoever may trace the child's new user, that child would be a
/// door to this memory.
struct Dumpable;

static BORROWED: Mutex<(usize, c_int)> = Mutex::new((0, 0));

impl Dumpable {
    fn keep() -> Self {
        let mut borrowed = BORROWED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if borrowed.0 == 0 {
            borrowed.1 = process::dumpable();
        }
        borrowed.0 += 1;
        Self
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut borrowed = BORROWED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        borrowed.0 -= 1;
        if borrowed.0 == 0 && process::dumpable() != borrowed.1 {
            process::set_dumpable(borrowed.1);
        }
    }
}

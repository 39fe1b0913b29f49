//! `[broker -> worker]` What happens in a new process between fork and exec.
//!
//! The parent may have threads, so the child may hold any lock: it makes system calls and touches memory that was
//! prepared before the fork, and does nothing else. It does not allocate. The order of the steps matters: a wrong one
//! fails with EPERM, EACCES or EBADF.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use seccompiler::BpfProgram;

/// A step of starting a worker, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Step {
    /// Marking every descriptor but 0, 1 and 2 close-on-exec: close_range(2), Linux 5.11.
    Descriptors = 1,
    /// A user namespace of the worker's own: unshare(2).
    UserNamespace,
    /// The user and group as which it appears there: /proc/self/uid_map and gid_map.
    IdMaps,
    /// Emptying the bounding and ambient capability sets: prctl(2).
    BoundingSet,
    /// Leaving all supplementary groups: setgroups(2).
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
    /// The system-call filters: seccomp(2).
    Seccomp,
    /// The program: execveat(2), or execve(2) for a script.
    Exec,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Descriptors,
        Self::UserNamespace,
        Self::IdMaps,
        Self::BoundingSet,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::DieWithParent,
        Self::Landlock,
        Self::Seccomp,
        Self::Exec,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::UserNamespace => "user namespace",
            Self::IdMaps => "id maps",
            Self::BoundingSet => "bounding set",
            Self::Groups => "groups",
            Self::Gid => "gid",
            Self::Uid => "uid",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::DieWithParent => "die with parent",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the child is to do: prepared by the parent, only read by the child.
pub(crate) struct Plan {
    /// Where failures are reported. Not one of 0, 1 and 2.
    pub(crate) status: OwnedFd,
    /// /dev/null, if there is one. Not one of 0, 1 and 2.
    pub(crate) null: Option<File>,
    /// Lines for uid_map and gid_map, for a user namespace of its own.
    pub(crate) id_maps: Option<[String; 2]>,
    /// uid and gid to become.
    pub(crate) ids: Option<(libc::uid_t, libc::gid_t)>,
    /// The parent's pid, to die with it.
    pub(crate) parent: Option<libc::pid_t>,
    /// A Landlock ruleset. Not one of 0, 1 and 2.
    pub(crate) landlock: Option<OwnedFd>,
    /// Installed in this order.
    pub(crate) filters: Vec<BpfProgram>,
    /// What to execute.
    pub(crate) image: Image,
}

/// A program with its arguments and environment, as execveat(2) wants them. Not std's business: its execvp(3) starts a
/// shell where the kernel says that a file is no program (ENOEXEC).
pub(crate) struct Image {
    /// The program's file, if it is to be executed by descriptor. Not one of 0, 1 and 2.
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

/// One failed step, as it is written to the status pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl Failure {
    pub(crate) const LEN: usize = 5;

    fn encode(self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.errno.to_ne_bytes();
        [self.step as u8, a, b, c, d]
    }

    pub(crate) fn decode(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [step, a, b, c, d] = bytes;
        let step = Step::ALL.into_iter().find(|known| *known as u8 == step)?;
        Some(Self { step, errno: i32::from_ne_bytes([a, b, c, d]) })
    }
}

/// Makes `command` take the plan's steps in the child, the last of which is exec: the command's own program is never
/// executed. A step that fails ends the child, and `spawn` returns its errno; steps that may fail are only reported.
/// std has by then put standard input, output and error in place, and reset SIGPIPE. The signal mask it leaves as it
/// was in the thread that spawned.
pub(crate) fn attach(command: &mut Command, plan: Plan) {
    // SAFETY: `take_steps` allocates nothing, takes no lock, and calls only system calls (directly or through
    // functions of libc and seccompiler that do no more than make them), which is what a forked child of a
    // process with threads may do. An io::Error made of an errno holds no memory.
    unsafe { command.pre_exec(move || take_steps(&plan)) };
}

fn take_steps(plan: &Plan) -> io::Result<()> {
    let required = |step, result: io::Result<()>| {
        if let Err(error) = &result {
            report(plan, step, error);
        }
        result
    };
    let optional = |step, result: io::Result<()>| {
        if let Err(error) = &result {
            report(plan, step, error);
        }
        result.is_ok()
    };

    // Not closed here: the status pipe, std's own and Landlock's are still needed; exec closes them.
    required(Step::Descriptors, close_on_exec_from(3))?;
    if let Some(null) = &plan.null {
        required(Step::Descriptors, complete_stdio(null))?;
    }
    let mut privileged = plan.ids.is_some();
    if let Some(maps) = &plan.id_maps {
        // Some systems allow the namespace and then refuse everything in it: that is for the maps to find out.
        privileged = optional(Step::UserNamespace, unshare_user()) && optional(Step::IdMaps, write_id_maps(maps));
    }
    if privileged {
        optional(Step::BoundingSet, empty_bounding_set());
    }
    if let Some((uid, gid)) = plan.ids {
        // SAFETY: setgroups reads no list of length 0; the other calls take numbers.
        required(Step::Groups, check(unsafe { libc::setgroups(0, std::ptr::null()) }))?;
        // SAFETY: as above.
        required(Step::Gid, check(unsafe { libc::setresgid(gid, gid, gid) }))?;
        // SAFETY: as above.
        required(Step::Uid, check(unsafe { libc::setresuid(uid, uid, uid) }))?;
    }
    required(Step::Capabilities, drop_capabilities())?;
    // SAFETY: takes numbers.
    required(Step::NoNewPrivs, check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))?;
    if let Some(parent) = plan.parent {
        // After the change of user, which clears it.
        required(Step::DieWithParent, die_with(parent))?;
    }
    if let Some(ruleset) = &plan.landlock {
        // SAFETY: takes numbers; the descriptor is the plan's.
        let status = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
        required(Step::Landlock, if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) })?;
    }
    for filter in &plan.filters {
        required(Step::Seccomp, apply_filter(filter))?;
    }
    // Last, because a handler of the parent's would run here until exec takes it away.
    unblock_signals();
    required(Step::Exec, Err(exec(&plan.image)))
}

fn report(plan: &Plan, step: Step, error: &io::Error) {
    let record = Failure { step, errno: error.raw_os_error().unwrap_or(0) }.encode();
    // SAFETY: `record` outlives the call and has the length given. The pipe holds far more than all records, so
    // this neither blocks nor cuts; that it might fail changes nothing about what happens next.
    unsafe { libc::write(plan.status.as_raw_fd(), record.as_ptr().cast(), record.len()) };
}

fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes numbers, and closes nothing.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts /dev/null in the place of a standard descriptor that the worker would start without: one that the broker has
/// closed, or closes on exec because it is something else there. A Rust program opens /dev/null itself then, and aborts
/// where Landlock refuses that.
fn complete_stdio(null: &File) -> io::Result<()> {
    for number in 0..3 {
        // SAFETY: takes numbers.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags == -1 || flags & libc::FD_CLOEXEC != 0 {
            // SAFETY: takes numbers; what is closed here is a copy that nobody in this process uses.
            check(unsafe { libc::dup2(null.as_raw_fd(), number) })?;
        }
    }
    Ok(())
}

fn unshare_user() -> io::Result<()> {
    // SAFETY: a fork has one thread, and CLONE_NEWUSER changes nothing about memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })
}

fn write_id_maps([uids, gids]: &[String; 2]) -> io::Result<()> {
    // The kernel lets an ordinary user map a group only after setgroups has been given up.
    write_file(c"/proc/self/setgroups", b"deny")?;
    write_file(c"/proc/self/uid_map", uids.as_bytes())?;
    write_file(c"/proc/self/gid_map", gids.as_bytes())
}

fn write_file(path: &std::ffi::CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: `path` ends with a NUL; `text` outlives the call and has the length given; the descriptor is closed
    // once, by the function that opened it.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let written = libc::write(fd, text.as_ptr().cast(), text.len());
        let result = if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        libc::close(fd);
        result
    }
}

fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: takes numbers.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            // Beyond the last capability that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })
}

/// The effective, permitted and inheritable sets.
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: 64-bit sets, in two halves of three words.
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let sets = [0u32; 6];
    // SAFETY: the two arrays have the layout of __user_cap_header_struct (version, pid 0 for oneself) and of two
    // __user_cap_data_struct, and outlive the call.
    let status = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn die_with(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: take numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // It may have died before it was watched.
    // SAFETY: takes nothing.
    if unsafe { libc::getppid() } == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// The mask is inherited, by exec too: a worker of a thread that has blocked SIGTERM could not be told to end.
fn unblock_signals() {
    // SAFETY: sigemptyset makes a set of any bytes; the set outlives the call, and a null pointer asks for no old one.
    // With these arguments neither can fail.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Returns only when it fails.
fn exec(image: &Image) -> io::Error {
    let (argv, envp) = (image.argv.as_ptr(), image.envp.as_ptr());
    // SAFETY: the paths end with a NUL, the arrays with a null pointer, and the strings they point to with a NUL, by
    // `Image::new`; all belong to `image`, which outlives the call. By descriptor it is a raw call because glibc has
    // execveat since 2.34 only.
    unsafe {
        match &image.file {
            Some(file) => {
                let (fd, itself) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
                libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv, envp, itself);
            }
            None => {
                libc::execve(image.path.as_ptr(), argv, envp);
            }
        }
    }
    io::Error::last_os_error()
}

fn apply_filter(filter: &BpfProgram) -> io::Result<()> {
    use seccompiler::Error;
    seccompiler::apply_filter(filter).map_err(|error| match error {
        Error::Prctl(error) | Error::Seccomp(error) => error,
        _ => io::Error::from_raw_os_error(libc::EINVAL),
    })
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether this process has a system-call filter (PR_GET_SECCOMP).
pub(crate) fn is_filtered() -> bool {
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) == 2 }
}

/// The Landlock ABI of this kernel (LANDLOCK_CREATE_RULESET_VERSION).
pub(crate) fn landlock_abi() -> io::Result<libc::c_long> {
    // SAFETY: a null pointer of size 0 with this flag asks for the version.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) };
    if abi >= 0 { Ok(abi) } else { Err(io::Error::last_os_error()) }
}

//! Holds a broker's thread at a system call of its own choosing, while a test changes what the call will find, or
//! answers it in the kernel's place (seccomp_unotify(2)). What is done at that moment is done at no other: a race is
//! not waited for.
#![allow(unsafe_code, reason = "seccomp(2) and its ioctls have no safe form")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;

/// A system call that is about to happen.
pub struct Call {
    /// Of the thread that makes it.
    pub thread: u32,
    pub number: i64,
    /// Of a call whose second argument is a path.
    pub path: Vec<u8>,
    /// The third argument: of openat(2) the flags.
    pub third: u64,
    pub arguments: [u64; 6],
}

impl Call {
    pub fn is(&self, number: i64, path: &str) -> bool {
        self.number == number && self.path == path.as_bytes()
    }
}

/// What becomes of it.
pub enum Verdict {
    /// The kernel does it.
    Go,
    /// It fails with this errno.
    Fail(i32),
}

/// What `start` answers, done on a thread of its own: that thread's system calls of these numbers, and those of all
/// threads that it starts, wait for `judge`. None where the kernel has no such filters. It ends with the process, so it
/// belongs into one of the test's own.
pub fn watched<T: Send + 'static>(
    numbers: &[i64],
    judge: impl FnMut(&Call) -> Verdict + Send + 'static,
    start: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    judged(Numbers::These(numbers.to_vec()), judge, start)
}

/// As [`watched`], of all system calls but these: those by which the thread and `judge` wait for each other must be
/// among them.
pub fn watched_but<T: Send + 'static>(
    numbers: &[i64],
    judge: impl FnMut(&Call) -> Verdict + Send + 'static,
    start: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    judged(Numbers::AllBut(numbers.to_vec()), judge, start)
}

/// Which system calls wait.
pub enum Numbers {
    These(Vec<i64>),
    AllBut(Vec<i64>),
}

fn judged<T: Send + 'static>(
    numbers: Numbers,
    mut judge: impl FnMut(&Call) -> Verdict + Send + 'static,
    start: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (give, listener) = mpsc::channel();
    thread::spawn(move || {
        let Ok(Ok(listener)) = listener.recv() else { return };
        let memory = File::open("/proc/self/mem").expect("this process's memory");
        while let Some((id, call)) = next(&listener, &memory) {
            answer(&listener, id, judge(&call));
        }
    });
    thread::spawn(move || match install(&numbers) {
        Ok(listener) => {
            give.send(Ok(listener)).expect("the thread that listens");
            Some(start())
        }
        Err(error) => {
            eprintln!("SKIPPED: no filter that asks is to be had here: {error}");
            give.send(Err(())).expect("the thread that listens");
            None
        }
    })
    .join()
    .expect("the watched thread")
}

/// From here on, these calls of this thread and of those that it starts wait for who has the listener.
pub fn install(numbers: &Numbers) -> io::Result<OwnedFd> {
    let (numbers, listed, others) = match numbers {
        Numbers::These(numbers) => (numbers, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW),
        Numbers::AllBut(numbers) => (numbers, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF),
    };
    let step = |code: u32, k: u32, jt: usize| libc::sock_filter {
        code: u16::try_from(code).expect("a code"),
        jt: u8::try_from(jt).expect("a short jump"),
        jf: 0,
        k,
    };
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (index, number) in numbers.iter().enumerate() {
        let number = u32::try_from(*number).expect("a number");
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, numbers.len() - index));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, others, 0));
    program.push(step(libc::BPF_RET | libc::BPF_K, listed, 0));
    let len = u16::try_from(program.len()).expect("a short program");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the program is as long as it says, and lives for longer than the call.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else knows.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next call that waits. A watched thread that was interrupted asks anew.
pub fn next(listener: &OwnedFd, memory: &File) -> Option<(u64, Call)> {
    // SAFETY: numbers only.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct, which is zeroed as it wants it.
    while unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) } != 0 {
        let error = io::Error::last_os_error().raw_os_error();
        if !matches!(error, Some(libc::EINTR | libc::ENOENT)) {
            return None;
        }
    }
    let mut path = vec![0; 256];
    let read = memory.read_at(&mut path, asked.data.args[1]).unwrap_or(0);
    path.truncate(path[..read].iter().position(|&byte| byte == 0).unwrap_or(0));
    let arguments = asked.data.args;
    Some((asked.id, Call { thread: asked.pid, number: asked.data.nr.into(), path, third: arguments[2], arguments }))
}

pub fn answer(listener: &OwnedFd, id: u64, verdict: Verdict) {
    let go = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).expect("a flag");
    let (error, flags) = match verdict {
        Verdict::Go => (0, go),
        Verdict::Fail(errno) => (-errno, 0),
    };
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads one struct. It refuses the answer if the call is no longer waited for.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

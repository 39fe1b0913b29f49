//! `[broker -> worker]` Which system calls the words stand for.

use std::io;

use super::calls;
use super::compile::Calls;
use super::compile::Condition::{Bits, Is, IsNot, WholeIs};
use super::word::{Word, Words};

/// Executing programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exec {
    /// Not, unless there is the word for it.
    Never,
    /// By execveat(2) with this number in its sixth register, unless there is the word for it.
    With(u64),
}

/// To whom signals are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signals {
    /// Landlock refuses those to processes outside.
    pub(super) are_scoped: bool,
    /// The process that the filter is for, if that is there already.
    pub(super) own: Option<u32>,
}

/// All that a process with these words may do.
pub(super) fn allowed(words: Words, exec: Exec, signals: Signals) -> io::Result<Calls> {
    let mut calls = Calls::default();
    always(&mut calls, signals)?;
    for word in words.iter() {
        add(&mut calls, word, signals)?;
    }
    if let (false, Exec::With(token)) = (words.has(Word::Exec), exec) {
        calls.when(libc::SYS_execveat, &[WholeIs(5, token)])?;
    }
    Ok(calls)
}

/// What every worker has.
fn always(calls: &mut Calls, signals: Signals) -> io::Result<()> {
    use calls::{CHANNEL, IO, MEMORY, SELF, SIGNALS, TASK, TIME, WAITING};
    for group in [MEMORY, TASK, SIGNALS, TIME, SELF, IO, WAITING, CHANNEL] {
        calls.any(group);
    }
    each(calls, libc::SYS_fcntl, 1, calls::FCNTL)?;
    each(calls, libc::SYS_ioctl, 1, calls::IOCTL)?;
    each(calls, libc::SYS_prctl, 0, calls::PRCTL)?;
    // Not to be looked at by others of its user (ptrace(2), /proc): that can be said, and not taken back.
    calls.when(libc::SYS_prctl, &[Is(0, libc::PR_SET_DUMPABLE as u64), WholeIs(1, 0)])?;
    // Filters of its own, which take rights away. Not with a listener: its answers would let pass what a filter of this
    // crate only reports, once that one's listener is closed.
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    calls.when(libc::SYS_seccomp, &[Is(0, libc::SECCOMP_SET_MODE_FILTER.into()), Bits(1, listener, 0)])?;
    calls.when(libc::SYS_seccomp, &[Is(0, libc::SECCOMP_GET_ACTION_AVAIL.into())])?;
    // Does nothing, and says by that whether there is one thread only.
    calls.when(libc::SYS_unshare, &[WholeIs(0, libc::CLONE_THREAD as u64)])?;
    // Its own limits, to look at or to lower.
    calls.when(libc::SYS_prlimit64, &[Is(0, 0)])?;
    // Of its own thread: of others of its user it tells where their thread's memory is.
    calls.when(libc::SYS_get_robust_list, &[Is(0, 0)])?;
    // What a pidfd is, is asked so; and it takes the status of its own children alone.
    calls.when(libc::SYS_waitid, &[Is(0, libc::P_PIDFD.into())])?;
    if signals.are_scoped {
        calls.any(&[libc::SYS_tgkill]);
    }
    if let Some(own) = signals.own {
        calls.when(libc::SYS_tgkill, &[Is(0, own.into())])?;
    }
    for (number, argument) in [(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)] {
        calls.when(number, &[Bits(argument, libc::PROT_EXEC as u64, 0)])?;
    }
    // Not the other write flags: RWF_NOAPPEND (Linux 6.9) writes over a file that was granted for appending.
    calls.when(libc::SYS_pwritev2, &[Bits(5, !WRITE_FLAGS, 0)])?;
    // The C library asks fstat in this way. The path, which should be empty, is out of the filter's sight.
    calls.when(libc::SYS_newfstatat, &[Is(3, EMPTY_PATH)])?;
    calls.when(libc::SYS_statx, &[Bits(2, EMPTY_PATH, EMPTY_PATH)])?;
    // A listener that was shut down is an unconnected socket, and MSG_FASTOPEN connects that to any address, past
    // connect(2) and past Landlock.
    calls.when(libc::SYS_sendmsg, &[Bits(2, libc::MSG_FASTOPEN as u64, 0)])?;
    calls.when(libc::SYS_sendmmsg, &[Bits(3, libc::MSG_FASTOPEN as u64, 0)])?;
    // To the peer of the socket, not to an address.
    calls.when(libc::SYS_sendto, &[WholeIs(4, 0)])?;
    // Timeouts, buffers, credentials. A program on a listener that shares its port would choose among the connections
    // of the others.
    let attach = calls::ATTACH.iter().map(|&option| IsNot(2, option));
    let options: Vec<_> = [Is(1, libc::SOL_SOCKET as u64)].into_iter().chain(attach).collect();
    calls.when(libc::SYS_setsockopt, &options)
}

fn add(calls: &mut Calls, word: Word, signals: Signals) -> io::Result<()> {
    let thread = libc::CLONE_THREAD as u64;
    match word {
        Word::Threads => {
            calls.any(calls::THREADS);
            calls.when(libc::SYS_clone, &[Bits(0, NAMESPACES | thread, thread)])?;
        }
        Word::Processes => {
            calls.any(calls::PROCESSES);
            // With CLONE_PARENT it would be a child of the worker's parent, outside of its PID namespace's reaping.
            let parent = libc::CLONE_PARENT as u64;
            calls.when(libc::SYS_clone, &[Bits(0, NAMESPACES | thread | parent, 0)])?;
            // For what it starts. Nothing else than SIGKILL, which is what it has itself: so it cannot outlive the
            // broker by it.
            calls.when(libc::SYS_prctl, &[Is(0, libc::PR_SET_PDEATHSIG as u64), WholeIs(1, libc::SIGKILL as u64)])?;
            if signals.are_scoped {
                calls.any(calls::KILL);
            }
        }
        Word::Load => calls.any(calls::LOAD),
        Word::Exec => calls.any(&[libc::SYS_execve, libc::SYS_execveat]),
        Word::Sockets => {
            calls.any(calls::SOCKETS);
            calls.when(libc::SYS_setsockopt, &[IsNot(1, libc::SOL_SOCKET as u64)])?;
            // A datagram socket of a pair can send to any named socket: only the connected kinds. Of UNIX sockets: of
            // another family the kernel makes two sockets, and loads its module, before it finds that there are no
            // pairs of them.
            for kind in [libc::SOCK_STREAM as u64, libc::SOCK_SEQPACKET as u64] {
                let family = Is(0, libc::AF_UNIX as u64);
                calls.when(libc::SYS_socketpair, &[family, Bits(1, SOCKET_TYPE, kind)])?;
            }
        }
        Word::Network => {
            calls.any(calls::NETWORK);
            // To any address, but without connecting, which Landlock would not see: what it was granted is of the
            // host's network.
            calls.when(libc::SYS_sendto, &[Bits(3, libc::MSG_FASTOPEN as u64, 0)])?;
            calls.when(libc::SYS_socketpair, &[Is(0, libc::AF_UNIX as u64)])?;
            // Of closed lists, so that no other family or protocol is loaded for the asking. Not MPTCP, which is past
            // Landlock's rules about TCP.
            calls.when(libc::SYS_socket, &[Is(0, libc::AF_UNIX as u64)])?;
            calls.when(libc::SYS_socket, &[Is(0, libc::AF_NETLINK as u64), Is(2, libc::NETLINK_ROUTE as u64)])?;
            for family in [libc::AF_INET as u64, libc::AF_INET6 as u64] {
                for &(kind, protocol) in INTERNET {
                    let kind = Bits(1, SOCKET_TYPE, kind);
                    calls.when(libc::SYS_socket, &[Is(0, family), kind, Is(2, protocol)])?;
                }
            }
        }
        Word::Files => {
            calls.any(calls::FILES);
            calls.when(libc::SYS_fcntl, &[Is(1, libc::F_SETFL as u64)])?;
            // futimens(3): of the descriptor itself, without a path.
            calls.when(libc::SYS_utimensat, &[WholeIs(1, 0)])?;
        }
        Word::Code => calls.any(calls::CODE),
    }
    Ok(())
}

/// The uses of a call in which an argument has one of these values.
fn each(calls: &mut Calls, number: i64, argument: u8, values: &[u64]) -> io::Result<()> {
    values.iter().try_for_each(|&value| calls.when(number, &[Is(argument, value)]))
}

/// What is refused with EPERM, if it is not allowed.
pub(super) fn refused() -> io::Result<Calls> {
    let mut calls = Calls::default();
    calls.any(calls::REFUSED);
    calls.when(libc::SYS_fcntl, &[Is(1, libc::F_SETFL as u64)])?;
    calls.when(libc::SYS_prctl, &[Is(0, libc::PR_SET_DUMPABLE as u64)])?;
    Ok(calls)
}

/// What is refused with ENOSYS even where everything else ends the process.
pub(super) fn probed(words: Words) -> io::Result<Calls> {
    let mut calls = Calls::default();
    calls.any(calls::PROBED);
    if words.has(Word::Network) {
        // Which families there are.
        calls.any(&[libc::SYS_socket]);
    }
    // getpwuid(3) asks a name service cache before it reads a file: Python and shells do it at their start. And whether
    // there is IPv6 at all is asked by having a socket of it.
    calls.when(libc::SYS_socket, &[Is(0, libc::AF_UNIX as u64)])?;
    let datagram = Bits(1, SOCKET_TYPE, libc::SOCK_DGRAM as u64);
    calls.when(libc::SYS_socket, &[Is(0, libc::AF_INET6 as u64), datagram])?;
    Ok(calls)
}

const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;
/// The bits of socket's and socketpair's second argument that are the type; SOCK_CLOEXEC and SOCK_NONBLOCK lie above.
const SOCKET_TYPE: u64 = 0xf;
/// Types of sockets with their protocols, which 0 leaves to the kernel.
const INTERNET: &[(u64, u64)] = &[
    (libc::SOCK_STREAM as u64, 0),
    (libc::SOCK_STREAM as u64, libc::IPPROTO_TCP as u64),
    (libc::SOCK_DGRAM as u64, 0),
    (libc::SOCK_DGRAM as u64, libc::IPPROTO_UDP as u64),
];
/// RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND (include/uapi/linux/fs.h).
const WRITE_FLAGS: u64 = 0x1f;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

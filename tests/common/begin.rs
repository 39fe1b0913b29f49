//! What happens before the first test: how the tests were started is nothing that they are about.
#![allow(unsafe_code, reason = "before main, and by system calls that have no safe form")]

use std::fs::{File, Permissions, read_to_string};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};

/// The C library calls this before `main`.
#[used]
// SAFETY: the section holds pointers to functions of this type.
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    // A process in a role has what it was started with.
    if super::role().is_some() {
        return;
    }
    // What tests write is for workers of another user to read.
    umask(Mode::from_bits_truncate(0o022));
    default_ignored_signals();
    // Those that were held back are not: the mask is inherited, too.
    let _ = SigSet::empty().thread_set_mask();
    room_for_descriptors();
    everybodys_program();
    if let Some(why) = impossible() {
        eprintln!("{why}: tests that need it fail here");
    }
}

/// Tests are threads that share a table: what a shell has at least, if it may be had.
fn room_for_descriptors() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < ROOM {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ROOM), hard);
    }
    if hard < ROOM {
        eprintln!("these tests need {ROOM} descriptors at once, and may have {hard} (RLIMIT_NOFILE): expect EMFILE");
    }
}

const ROOM: u64 = 1024;

/// Root's workers are another user, and execute this program: built with a strict umask, it is root's alone.
fn everybodys_program() {
    let Ok(program) = File::open("/proc/self/exe") else { return };
    let Ok(mode) = program.metadata().map(|found| found.permissions().mode()) else { return };
    if super::is_root() && mode & 0o005 != 0o005 {
        let _ = program.set_permissions(Permissions::from_mode(mode | 0o055));
    }
}

/// What tests start is ended by signals, those of real time among them. SIGPIPE alone stays as it is: Rust's runtime
/// ignores it.
fn default_ignored_signals() {
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: the kernel is given nothing to read, and writes one struct. The C library refuses its own signals.
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            // SAFETY: the default action is no function of this process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// What no test can do anything about.
fn impossible() -> Option<&'static str> {
    // SYS_PTRACE and SYS_ADMIN of capability.h.
    const LOOKS_INTO_OTHERS_AND_MOUNTS: u64 = 1 << 19 | 1 << 21;
    let loopback = || UdpSocket::bind("127.0.0.1:0")?.connect("127.0.0.1:9");
    if loopback().is_err() {
        return Some("the loopback interface is not up");
    }
    if !super::is_root() {
        return None;
    }
    let has = u64::from_str_radix(&super::status(std::process::id(), "CapEff"), 16).unwrap_or(u64::MAX);
    if has & LOOKS_INTO_OTHERS_AND_MOUNTS != LOOKS_INTO_OTHERS_AND_MOUNTS {
        return Some(
            "this root has no CAP_SYS_PTRACE or no CAP_SYS_ADMIN, as in a container; an ordinary user needs none",
        );
    }
    let map = read_to_string("/proc/self/uid_map").unwrap_or_default();
    let reaches = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some((first..first + count).contains(&65534))
    };
    let reached = map.is_empty() || map.lines().any(|line| reaches(line) == Some(true));
    (!reached).then_some("this root can become nobody else: its user namespace has no user 65534")
}

//! What happens before the first test: how the tests were started is nothing that they are about.
#![allow(unsafe_code, reason = "before main, and by system calls that have no safe form")]

use std::fs::{File, Permissions};
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

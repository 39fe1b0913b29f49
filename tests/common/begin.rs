//! What happens before the first test: how the tests were started is nothing that they are about.
#![allow(unsafe_code, reason = "before main, and by system calls that have no safe form")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};

/// The C library calls this before `main`, while there is one thread, of which all others have the mask of signals.
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
    let _ = SigSet::all().thread_unblock();
    if is_root_of_nobody() {
        be_an_ordinary_user();
    }
}

/// What tests start is ended by signals. SIGPIPE alone stays as it is: Rust's runtime ignores it.
fn default_ignored_signals() {
    for signal in Signal::iterator().filter(|signal| *signal != Signal::SIGPIPE) {
        // SAFETY: the kernel is given nothing to read, and writes one struct.
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            // SAFETY: the default action is no function of this process.
            unsafe { libc::signal(signal as libc::c_int, libc::SIG_DFL) };
        }
    }
}

/// User 0 of a user namespace that has no other user, as `unshare -r` makes it: such a root can start no worker as
/// somebody else, and is refused most of what is root's (B-07 has tests about it).
fn is_root_of_nobody() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let users: u64 = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
    super::is_root() && users == 1
}

/// As which everything that is not root's is shown. The tests begin anew, so that the capabilities of the new user
/// namespace are gone. Where there is none to be had, they go on as they are.
fn be_an_ordinary_user() {
    let gid = nix::unistd::getegid();
    if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
        return;
    }
    let maps =
        [("setgroups", "deny".to_owned()), ("uid_map", "65534 0 1".to_owned()), ("gid_map", format!("65534 {gid} 1"))];
    let written = maps.iter().try_for_each(|(name, text)| fs::write(format!("/proc/self/{name}"), text));
    let words = fs::read("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<&std::ffi::OsStr> =
        words.split(|&byte| byte == 0).map(std::os::unix::ffi::OsStrExt::from_bytes).collect();
    if let (Ok(()), [_, arguments @ .., _]) = (written, &words[..]) {
        eprintln!("SKIPPED what is root's: this user namespace has no other user");
        let _ = Command::new("/proc/self/exe").args(arguments).exec();
    }
}

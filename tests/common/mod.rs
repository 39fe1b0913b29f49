//! What several tests need. Nothing here is a stand-in: it asks the kernel.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

#[cfg(target_os = "linux")]
mod begin;
pub mod heap;
#[cfg(target_os = "linux")]
pub mod mounts;
pub mod namespace;
mod place;
pub mod served;
pub mod start;
#[cfg(target_os = "linux")]
pub mod state;
#[cfg(target_os = "linux")]
pub mod watched;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// The descriptors that this process has open, but for the one that looks.
pub fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count() - 1
}

/// Resident memory of this process, in KiB.
pub fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
}

/// Device and inode of what a descriptor is open on.
pub fn identity(fd: impl AsFd) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let number = fd.as_fd().as_raw_fd();
    let metadata = fs::metadata(format!("/proc/self/fd/{number}")).expect("an open descriptor");
    (metadata.dev(), metadata.ino())
}

/// A new directory, by its real path, which a policy can name and every user can search.
pub fn directory() -> (TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new_in(place::of_directories()).expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = directory.path().canonicalize().expect("its real path");
    (directory, path)
}

/// Runs the test `name` of this test binary again in a process of its own, with `FDBROKER_TEST_ROLE` set to `role`: a
/// test that finds the variable set takes the role instead of testing. For what changes the whole process (limits,
/// closed descriptors, sessions) and for descriptor counts that parallel tests would disturb.
pub fn rerun(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test's program"));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("FDBROKER_TEST_ROLE", role);
    command.env("TMPDIR", place::of_directories());
    command
}

/// The role that this process was started for by [`rerun`].
pub fn role() -> Option<String> {
    std::env::var("FDBROKER_TEST_ROLE").ok()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// One line of `/proc/<pid>/status`, without its name.
pub fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc/<pid>/status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

/// The numbers of the descriptors that another process has open.
pub fn fds_of(pid: u32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc/<pid>/fd");
    let mut numbers: Vec<i32> = entries
        .map(|entry| entry.expect("an entry").file_name().to_str().unwrap_or("?").parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// From here on, the system call fails with this errno in this process and those that it starts, if each of the
/// conditions (argument, value of its lower half) is met. This is how an older kernel is had; it cannot be undone, so
/// it belongs into a [`rerun`].
pub fn refuse(number: i64, conditions: &[(u8, u64)], errno: i32) {
    seccompiler::apply_filter_all_threads(&refusal(number, conditions, errno)).expect("seccomp");
}

/// As [`refuse`], but whoever makes the call is killed (SIGSYS): so do the filters of service managers that list what
/// is allowed.
pub fn kill_for(number: i64, conditions: &[(u8, u64)]) {
    use nix::sys::resource::{Resource, setrlimit};
    // SIGSYS leaves a core, which nobody wants.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("setrlimit");
    let filter = filter(number, conditions, seccompiler::SeccompAction::KillProcess);
    seccompiler::apply_filter_all_threads(&filter).expect("seccomp");
}

/// As [`refuse`], in this thread and those that it starts: others go on as before.
pub fn refuse_in_this_thread(number: i64, errno: i32) {
    seccompiler::apply_filter(&refusal(number, &[], errno)).expect("seccomp");
}

fn refusal(number: i64, conditions: &[(u8, u64)], errno: i32) -> seccompiler::BpfProgram {
    filter(number, conditions, seccompiler::SeccompAction::Errno(u32::try_from(errno).expect("an errno")))
}

fn filter(number: i64, conditions: &[(u8, u64)], answer: seccompiler::SeccompAction) -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    let condition = |&(argument, value): &(u8, u64)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    let conditions: Vec<_> = conditions.iter().map(condition).collect::<Result<_, _>>().expect("conditions");
    let rules = if conditions.is_empty() { vec![] } else { vec![SeccompRule::new(conditions).expect("a rule")] };
    let arch = std::env::consts::ARCH.try_into().expect("an architecture");
    let filter = SeccompFilter::new([(number, rules)].into(), SeccompAction::Allow, answer, arch).expect("a filter");
    filter.try_into().expect("a program")
}

/// Runs the body of the test `name` in a process of its own, which SIGALRM ends after five minutes.
pub fn alone(name: &str, body: impl FnOnce()) {
    if role().is_none() {
        return passes(rerun(name, "alone"));
    }
    nix::unistd::alarm::set(300);
    body();
}

/// As [`alone`], in a process that can have `descriptors` descriptors (RLIMIT_NOFILE).
pub fn alone_with(descriptors: usize, name: &str, body: impl FnOnce()) {
    if role().is_none() {
        if !may_have(descriptors) {
            return eprintln!("SKIPPED {name}: it takes {descriptors} descriptors, and RLIMIT_NOFILE allows fewer");
        }
        let plain = rerun(name, "alone");
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
        limited.arg(plain.get_program()).args(plain.get_args());
        limited.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        return passes(limited);
    }
    alone(name, body);
}

/// Whether the limit can be that: a lower hard one only some can raise.
fn may_have(descriptors: usize) -> bool {
    use nix::sys::resource::{Resource, getrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    let raised = || Command::new("sh").args(["-c", &format!("ulimit -n {descriptors} 2>&-")]).status();
    hard >= descriptors as u64 || raised().is_ok_and(|status| status.success())
}

/// A directory for the temporary files of another process, as long as the guard lives: who is killed, becomes another
/// user or is left without a descriptor deletes nothing.
pub fn temporary_files_of(command: &mut Command) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let (guard, directory) = directory();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777)).expect("chmod");
    command.env("TMPDIR", directory);
    guard
}

/// The kernel counts a socket's time limits in ticks, the longest of which are this long. The first may be nearly over.
pub const TICK: Duration = Duration::from_millis(10);

/// Whether abort(3) ends a worker by this signal: where Landlock does not keep signals within it (before Linux 6.12), the
/// filter lets it send none, and the C library ends it by an instruction.
pub fn aborts(signal: i32) -> bool {
    [libc::SIGABRT, libc::SIGSEGV, libc::SIGILL, libc::SIGTRAP].contains(&signal)
}

/// Version and patch level of the kernel: 5 and 16 of 5.16.
pub fn kernel() -> (u32, u32) {
    let name = nix::sys::utsname::uname().expect("uname(2)");
    let mut numbers =
        name.release().to_str().expect("text").split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Waits for a test that was run again, and asserts that it ran and passed. A misspelt name is a failure.
pub fn passes(mut command: Command) {
    let _files = temporary_files_of(&mut command);
    let output = command.output().expect("the test's program");
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && said.contains("1 passed");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(passed, "{}\n{said}\n{complained}", output.status);
    complained.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| eprintln!("{line}"));
}

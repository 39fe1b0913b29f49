//! What a process is: all that a spawn must leave as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

/// By name, so that a comparison that fails says of what.
pub type State = BTreeMap<String, String>;

/// Of this process, and of each of its threads.
pub fn state() -> State {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let mask = umask(Mode::from_bits_truncate(0o077));
    umask(mask);
    let mut state = State::from([
        ("umask".to_owned(), format!("{mask:?}")),
        ("working directory".to_owned(), format!("{:?}", std::env::current_dir())),
        ("dumpable".to_owned(), format!("{:?}", nix::sys::prctl::get_dumpable())),
        ("mounts".to_owned(), read("/proc/self/mountinfo")),
        ("limits".to_owned(), read("/proc/self/limits")),
        ("descriptors".to_owned(), descriptors()),
        ("root".to_owned(), format!("{:?}", fs::read_link("/proc/self/root"))),
    ]);
    for entry in fs::read_dir("/proc/self/ns").expect("/proc/self/ns") {
        let entry = entry.expect("an entry");
        // What a child gets that is made later is no thread's own.
        state.insert(format!("{:?}", entry.file_name()), format!("{:?}", fs::read_link(entry.path())));
    }
    for entry in fs::read_dir("/proc/self/task").expect("/proc/self/task") {
        let thread = entry.expect("an entry").path();
        // The library's own: as many as were ever needed at once.
        if fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "spawner") {
            continue;
        }
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        for line in status.lines().filter(|line| FIELDS.iter().any(|field| line.starts_with(field))) {
            let (field, value) = line.split_once(':').expect("a field");
            state.insert(format!("{field} of thread {}", thread.display()), value.trim().to_owned());
        }
    }
    state
}

/// SigBlk has all 64 signals: also those that the C library keeps for itself and shows to nobody.
const FIELDS: [&str; 16] = [
    "Uid:",
    "Gid:",
    "Groups:",
    "SigBlk:",
    "SigIgn:",
    "SigCgt:",
    "CapInh:",
    "CapPrm:",
    "CapEff:",
    "CapBnd:",
    "CapAmb:",
    "NoNewPrivs:",
    "Seccomp:",
    "Seccomp_filters:",
    "Umask:",
    "TracerPid:",
];

/// Number and kind of each, but for the one that looks.
fn descriptors() -> String {
    let mut open: Vec<(i32, String)> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").expect("/proc/self/fd") {
        let path = entry.expect("an entry").path();
        let Ok(target) = fs::read_link(&path) else { continue };
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
        if target != Path::new(&format!("/proc/{}/fd", std::process::id())) {
            open.push((number, target.display().to_string()));
        }
    }
    open.sort();
    format!("{open:?}")
}

/// How many mappings this process has.
pub fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").expect("/proc/self/maps").lines().count()
}

/// Whether this process has no child: none that runs, and none that nobody has waited for. Also of those whose end no
/// signal tells (__WALL).
#[allow(unsafe_code, reason = "nix lets nobody wait for all with __WALL and learn of ECHILD alone")]
pub fn has_no_child() -> bool {
    // SAFETY: takes numbers, and a null pointer for a status that nobody wants.
    let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
    pid == -1 && Errno::last() == Errno::ECHILD
}

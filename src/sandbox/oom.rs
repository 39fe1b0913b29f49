//! `[broker]` How many processes the kernel has killed because memory ran out.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::mountinfo::{Mount, mounts};
use super::stdio::moved;

/// A count of such kills, of which a worker's may be one. Opened once. A cgroup's is read at each start; the system's,
/// which takes the kernel longer to put together than a process to make, when it is opened. Both are read at each end that
/// they might explain. `Clone` is cheap.
#[derive(Debug, Clone)]
pub(super) struct OomKills {
    file: Arc<File>,
    scope: Scope,
    /// What was read last.
    known: Arc<AtomicU64>,
}

/// Whose kills are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those of this process's memory cgroup, in which its workers are born.
    Cgroup,
    /// Those of the whole system.
    System,
}

impl OomKills {
    /// `None` where the kernel has none that can be read here.
    pub(super) fn of_this_process() -> Option<Self> {
        Self::of_cgroup().or_else(|| Self::open(Path::new("/proc/vmstat"), Scope::System))
    }

    /// The root of all cgroups has no such file.
    fn of_cgroup() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::open(&file_of_cgroup(&cgroups, &mounts().ok()?)?, Scope::Cgroup)
    }

    fn open(path: &Path, scope: Scope) -> Option<Self> {
        // Out of the way of a broker that has closed its standard descriptors.
        let file = moved(File::open(path).ok()?.into(), 3).ok()?;
        let counter = Self { file: Arc::new(file.into()), scope, known: Arc::default() };
        // Kernels before 4.13 have the files without this line.
        counter.count().is_some().then_some(counter)
    }

    /// What it was before a worker that starts now.
    pub(super) fn before(&self) -> Option<u64> {
        match self.scope {
            Scope::Cgroup => self.count(),
            Scope::System => Some(self.known.load(Ordering::Relaxed)),
        }
    }

    /// Since the system started, or the cgroup was made.
    pub(super) fn count(&self) -> Option<u64> {
        let mut small = [0; 512];
        let count = match self.scope {
            // A few lines, in one piece.
            Scope::Cgroup => {
                let len = self.file.read_at(&mut small, 0).ok()?;
                counted(&String::from_utf8_lossy(small.get(..len)?))
            }
            Scope::System => counted(&read_from_start(&self.file).ok()?),
        }?;
        self.known.store(count, Ordering::Relaxed);
        Some(count)
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }
}

fn counted(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The kernel makes the text anew for each read from the start.
fn read_from_start(file: &File) -> io::Result<String> {
    let mut text = vec![0; 32 << 10];
    let mut len = 0;
    loop {
        match file.read_at(&mut text[len..], len as u64)? {
            0 => break,
            more => len += more,
        }
    }
    Ok(String::from_utf8_lossy(&text[..len]).into_owned())
}

/// From the text of /proc/self/cgroup (cgroups(7)).
fn file_of_cgroup(cgroups: &str, mounts: &[Mount]) -> Option<PathBuf> {
    // Version 1 has a hierarchy for the memory controller; version 2 has one for all, and that controller only where
    // no version 1 has it.
    let of = |wanted: fn(&str) -> bool| {
        cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            wanted(controllers).then_some(path)
        })
    };
    let (path, kind, option, file) = match of(|controllers| controllers.split(',').any(|word| word == "memory")) {
        Some(path) => (path, "cgroup", "memory", "memory.oom_control"),
        None => (of(str::is_empty)?, "cgroup2", "", "memory.events"),
    };
    mounts.iter().find_map(|mount| {
        let has_option = || mount.options.as_bytes().split(|&byte| byte == b',').any(|word| word == option.as_bytes());
        let is_it = mount.kind == kind && (option.is_empty() || has_option());
        let within = Path::new(path).strip_prefix(&mount.root).ok().filter(|_| is_it)?;
        Some(mount.point.join(within).join(file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::mountinfo::parsed;

    #[test]
    fn the_file_of_a_cgroup_is_found() {
        let v2 = "0::/system.slice/daemon.service\n";
        let unified = "25 22 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let container = "35 31 0:32 /docker/1f /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n";
        for (cgroups, mounts, file) in [
            (v2, unified, Some("/sys/fs/cgroup/system.slice/daemon.service/memory.events")),
            ("0::/\n", unified, Some("/sys/fs/cgroup/memory.events")),
            ("9:name=systemd:/a\n4:memory:/b/c\n0::/\n", hybrid, Some("/sys/fs/cgroup/memory/b/c/memory.oom_control")),
            ("4:cpu,memory:/docker/1f/x\n", container, Some("/sys/fs/cgroup/memory/x/memory.oom_control")),
            ("4:memory:/elsewhere\n", container, None),
            ("0::/a\n", "25 22 0:22 / /with\\040space rw - cgroup2 none rw\n", Some("/with space/a/memory.events")),
            (v2, "", None),
            ("", unified, None),
        ] {
            let mounts_parsed = parsed(mounts.as_bytes());
            assert_eq!(file_of_cgroup(cgroups, &mounts_parsed).as_deref(), file.map(Path::new), "{cgroups}{mounts}");
        }
    }

    /// Of this machine, whichever it has: it only grows.
    #[test]
    fn the_count_can_be_read_more_than_once() {
        let system = OomKills::open(Path::new("/proc/vmstat"), Scope::System).expect("Linux 4.13");
        let (first, second) = (system.count(), system.count());
        assert!(first.is_some() && first <= second, "{first:?} {second:?}");
    }
}

//! A worker that is looked at from outside (/proc) and from inside (by what it tries), and whether the report about it
//! is true: every line of it, and what it does not speak of.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use fdbroker::{Enforced, Layer, Limit, Mode, Preset, Sandbox, Worker};
use nix::errno::Errno;
use nix::sys::socket::getsockname;

use super::common;
use super::common::start::{say, started, wait_for_the_end, worker};

/// What a worker tries to make where nobody but root may. Should it be able to, it does not stay.
const MADE: &str = "/made by a worker";

/// Says what can only be seen, or tried, from inside.
pub fn inside() {
    let errno = |error: io::Error| error.raw_os_error().unwrap();
    let tried = |result: io::Result<()>| result.map_or_else(errno, |()| 0);
    // getsockname(2) takes any number: EBADF is a closed one.
    let open: Vec<i32> = (0..1024).filter(|number| getsockname::<()>(*number) != Err(Errno::EBADF)).collect();
    let prctl = |option: i32| {
        // SAFETY: what is asked here takes nothing, and answers a number.
        let answer = unsafe { libc::prctl(option, 0, 0, 0, 0) };
        if answer == -1 { -errno(io::Error::last_os_error()) } else { answer }
    };
    let execute = nix::unistd::execve::<&std::ffi::CStr, &std::ffi::CStr>(c"/nowhere/to/be/found", &[], &[]);
    let facts = [
        ("open", format!("{open:?}")),
        ("passwd", tried(File::open("/etc/passwd").map(drop)).to_string()),
        ("list", tried(fs::read_dir("/").map(drop)).to_string()),
        ("make", tried(fs::create_dir(MADE).inspect(|()| drop(fs::remove_dir(MADE)))).to_string()),
        ("socket", tried(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)).to_string()),
        ("pid", std::process::id().to_string()),
        ("parent", nix::unistd::getppid().to_string()),
        ("execute", (execute.unwrap_err() as i32).to_string()),
        ("securebits", prctl(libc::PR_GET_SECUREBITS).to_string()),
        ("death signal", DEATH_SIGNAL.load(Ordering::Relaxed).to_string()),
        ("dumpable", prctl(libc::PR_GET_DUMPABLE).to_string()),
    ];
    say(&facts.map(|(name, value)| format!("{name}={value}")).join("\n"));
    wait_for_the_end();
}

/// PR_GET_PDEATHSIG, which is the main thread's: no test runs there.
static DEATH_SIGNAL: AtomicI32 = AtomicI32::new(-1);

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = {
    extern "C" fn look() {
        let mut signal = 0;
        // SAFETY: the kernel writes an int.
        if unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal, 0, 0, 0) } == 0 {
            DEATH_SIGNAL.store(signal, Ordering::Relaxed);
        }
    }
    look
};

/// A worker, with what it says of itself.
pub struct Seen {
    pub worker: Worker,
    inside: BTreeMap<String, String>,
    /// Of a worker of the same sandbox without a filter, which hides some things from it.
    unfiltered: BTreeMap<String, String>,
    _channels: [fdbroker::Channel; 2],
}

impl Seen {
    pub fn of(sandbox: &Sandbox) -> Self {
        let facts = |words: &str| {
            words.lines().map(|line| line.split_once('=').unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        };
        let (worker, channel, inside) = started(sandbox);
        let (other, channel_2, unfiltered) = started(&sandbox.clone().layer(Layer::Seccomp, Mode::Off));
        drop(other);
        Self { worker, inside: facts(&inside), unfiltered: facts(&unfiltered), _channels: [channel, channel_2] }
    }

    pub fn enforced(&self) -> &Enforced {
        self.worker.enforced()
    }

    pub fn status(&self, field: &str) -> String {
        common::status(self.worker.id(), field)
    }

    fn has_own(&self, namespace: &str) -> bool {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        of("self") != of(&self.worker.id().to_string())
    }

    /// Whether the layer is there, by what is seen from outside and by what was tried inside. The report is not asked.
    pub fn holds(&self, layer: Layer) -> bool {
        let fact = |name: &str| self.inside[name].as_str();
        match layer {
            Layer::Descriptors => common::fds_of(self.worker.id()) == [0, 1, 2] && fact("open") == "[0, 1, 2]",
            Layer::User => self.status("Uid") != common::status(std::process::id(), "Uid"),
            Layer::UserNamespace => self.has_own("user"),
            Layer::MountNamespace => self.has_own("mnt"),
            Layer::Root => self.has_own_root() && fact("passwd") == "2",
            Layer::PidNamespace => self.has_own("pid") && fact("pid") == "1" && fact("parent") == "0",
            Layer::IpcNamespace => self.has_own("ipc"),
            Layer::UtsNamespace => self.has_own("uts"),
            Layer::CgroupNamespace => self.has_own("cgroup"),
            Layer::NetworkNamespace => self.has_own("net") && self.interfaces() == ["lo"],
            Layer::Capabilities => {
                ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"].iter().all(|s| self.status(s) == "0000000000000000")
            }
            // NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, locked, and KEEP_CAPS locked.
            Layer::Securebits => self.unfiltered["securebits"] == 0b1110_1111.to_string(),
            Layer::NoNewPrivs => self.status("NoNewPrivs") == "1",
            Layer::Limits => {
                self.limit("Max open files") == ["77", "77"] && self.limit("Max core file size") == ["0", "0"]
            }
            Layer::DieWithParent => self.unfiltered["death signal"] == libc::SIGKILL.to_string(),
            // In a directory that everybody may list.
            Layer::Landlock => fact("list") == libc::EACCES.to_string(),
            Layer::Seccomp => self.status("Seccomp") == "2" && fact("socket") == libc::EPERM.to_string(),
            // Not that there is no such file. On riscv64 a program that looks into its registers first can execute others:
            // `tests/filter_words.rs` has one that does.
            Layer::ExecOnce => fact("execute") == libc::EPERM.to_string() && cfg!(not(target_arch = "riscv64")),
            Layer::NotDumpable => fact("dumpable") != "1",
            other => panic!("a layer that this test does not know: {other}"),
        }
    }

    /// Whether everything that is mounted there is read-only and without setuid programs and devices, and the root is
    /// an empty file system of its own.
    fn has_own_root(&self) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.worker.id())).unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let is_closed = |mount: &Vec<&str>| {
            let options: Vec<_> = mount[5].split(',').collect();
            ["ro", "nosuid", "nodev"].iter().all(|option| options.contains(option))
        };
        let is_empty = |mount: &Vec<&str>| mount[4] == "/" && mount[3] == "/" && mount.contains(&"tmpfs");
        mounts.clone().any(|mount| is_empty(&mount)) && mounts.all(|mount| is_closed(&mount))
    }

    fn interfaces(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/net/dev", self.worker.id())).unwrap();
        table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
    }

    /// Soft and hard.
    fn limit(&self, name: &str) -> [String; 2] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.worker.id())).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let mut values = line.split_whitespace().map(str::to_owned);
        [values.next().unwrap(), values.next().unwrap()]
    }

    /// Each line of the report is true, and what is not in it is not there.
    pub fn check(&self, what: &str) {
        let report = self.enforced();
        for layer in Layer::ALL {
            let said = report.layers().find(|(known, _)| *known == layer).map(|(_, state)| state);
            let holds = self.holds(layer);
            let context = || format!("{what}: {layer}: said {said:?}, seen {holds}\n{report}\n{:?}", self.inside);
            assert_eq!(said.is_some_and(|state| state.is_ok()), holds, "{}", context());
            if let Some(Ok(detail)) = said {
                self.check_detail(layer, detail);
            }
        }
        assert_eq!(report.is_full(), report.layers().all(|(_, state)| state.is_ok()));
        assert_eq!(report.is_full(), report.require_full().is_ok());
    }

    /// What the report says beyond yes.
    fn check_detail(&self, layer: Layer, detail: &str) {
        let (ids, status) = (|line: String| line.split_whitespace().next().unwrap().to_owned(), |f| self.status(f));
        match layer {
            Layer::Descriptors => assert_eq!(detail, "0 (the channel), 1, 2"),
            Layer::User => {
                let (uid, gid, groups) = (ids(status("Uid")), ids(status("Gid")), status("Groups"));
                let groups = if groups.is_empty() { "no groups".to_owned() } else { format!("groups {groups}") };
                assert_eq!(detail, format!("uid {uid}, gid {gid}, {groups}"));
            }
            Layer::Limits => assert_eq!(detail, "descriptors 77, core 0"),
            Layer::Landlock => assert!(detail.starts_with(&format!("ABI {}, ", landlock_abi())), "{detail}"),
            Layer::Seccomp => {
                let exec = if self.inside["execute"] == libc::EPERM.to_string() { "" } else { "exec, " };
                assert_eq!(detail, format!("threads, load, {exec}sockets, code; anything else: errno"));
            }
            Layer::Root => {
                let many = detail.split_whitespace().find_map(|word| word.parse::<usize>().ok()).unwrap();
                let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.worker.id())).unwrap();
                // What lies in a directory that is there as well is not mounted once more.
                assert!((2..=many + 1).contains(&mounts.lines().count()), "{detail}\n{mounts}");
            }
            _ => {}
        }
    }
}

fn landlock_abi() -> libc::c_long {
    // SAFETY: with this flag the kernel reads nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) }
}

pub fn sandbox(preset: Preset) -> Sandbox {
    worker("inside").preset(preset).limit(Limit::Descriptors, 77)
}

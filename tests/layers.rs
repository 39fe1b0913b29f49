//! The layers around a worker: which are there, which are not, and whether the report says so. Each is looked at from
//! outside (/proc) and tried from inside, at every preset.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(unsafe_code, reason = "prctl(2) has no safe form for what is asked, and a look before main")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicI32, Ordering};

use common::start::{run, say, started, wait_for_the_end, worker};
use common::status;
use fdbroker::{Enforced, Host, Layer, Limit, Mode, Preset, Sandbox, SpawnError, Stdio, Word, Worker};
use nix::errno::Errno;
use nix::sys::socket::getsockname;

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    match role.as_str() {
        "inside" => inside(),
        "groups" => groups(),
        other => panic!("no such role: {other}"),
    }
}

// ---------------------------------------------------------------------------------------------- what workers do

/// Says what can only be seen, or tried, from inside.
fn inside() {
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
        ("make", tried(fs::create_dir("/made by a worker")).to_string()),
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
struct Seen {
    worker: Worker,
    inside: BTreeMap<String, String>,
    /// Of a worker of the same sandbox without a filter, which hides some things from it.
    unfiltered: BTreeMap<String, String>,
    _channels: [fdbroker::Channel; 2],
}

impl Seen {
    fn of(sandbox: &Sandbox) -> Self {
        let facts = |words: &str| {
            words.lines().map(|line| line.split_once('=').unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        };
        let (worker, channel, inside) = started(sandbox);
        let (other, channel_2, unfiltered) = started(&sandbox.clone().layer(Layer::Seccomp, Mode::Off));
        drop(other);
        Self { worker, inside: facts(&inside), unfiltered: facts(&unfiltered), _channels: [channel, channel_2] }
    }

    fn enforced(&self) -> &Enforced {
        self.worker.enforced()
    }

    fn status(&self, field: &str) -> String {
        status(self.worker.id(), field)
    }

    fn has_own(&self, namespace: &str) -> bool {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        of("self") != of(&self.worker.id().to_string())
    }

    /// Whether the layer is there, by what is seen from outside and by what was tried inside. The report is not asked.
    fn holds(&self, layer: Layer) -> bool {
        let fact = |name: &str| self.inside[name].as_str();
        match layer {
            Layer::Descriptors => common::fds_of(self.worker.id()) == [0, 1, 2] && fact("open") == "[0, 1, 2]",
            Layer::User => self.status("Uid") != status(std::process::id(), "Uid"),
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
            // Not that there is no such file.
            Layer::ExecOnce => fact("execute") == libc::EPERM.to_string(),
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
    fn check(&self, what: &str) {
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
                let exec = if self.holds(Layer::ExecOnce) { "" } else { "exec, " };
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

fn sandbox(preset: Preset) -> Sandbox {
    worker("inside").preset(preset).limit(Limit::Descriptors, 77)
}

// ------------------------------------------------------------------------------------------- ids and capabilities

/// B-01: at every preset, /proc says NoNewPrivs 1, Seccomp 2, no capability in any set, and the ids and groups that were
/// asked for.
#[test]
fn b_01_ids_and_capabilities_at_each_preset() {
    for preset in Preset::ALL {
        let (sandbox, uid, gid, groups) = if common::is_root() {
            (sandbox(preset).ids(54321, 54322).groups([7, 54323]), 54321, 54322, "7 54323")
        } else {
            (sandbox(preset), nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), "")
        };
        let seen = Seen::of(&sandbox);
        check_status(&seen, uid, gid);
        if common::is_root() {
            assert_eq!(seen.status("Groups"), groups);
        }
    }
}

/// B-01: without a word about the user, root's worker is nobody; by name, it is that user with that user's group, and
/// with no other.
#[test]
fn b_01_users_by_default_and_by_name() {
    if !common::is_root() {
        eprintln!("SKIPPED b_01_users_by_default_and_by_name: only root can start a worker as another user");
        return;
    }
    let daemon = nix::unistd::User::from_name("daemon").unwrap().expect("a user called daemon");
    for preset in Preset::ALL {
        check_status(&Seen::of(&sandbox(preset)), 65534, 65534);
        let seen = Seen::of(&sandbox(preset).user("daemon"));
        check_status(&seen, daemon.uid.as_raw(), daemon.gid.as_raw());
        assert_eq!(seen.status("Groups"), "");
    }
}

/// B-01: the broker's supplementary groups are not the worker's.
#[test]
fn b_01_no_supplementary_groups() {
    if common::is_root() {
        run("groups");
    } else {
        eprintln!("SKIPPED b_01_no_supplementary_groups: only root can leave groups");
    }
}

fn groups() {
    nix::unistd::setgroups(&[1, 2, 1234].map(nix::unistd::Gid::from_raw)).unwrap();
    assert_eq!(status(std::process::id(), "Groups"), "1 2 1234");
    for preset in Preset::ALL {
        assert_eq!(Seen::of(&sandbox(preset)).status("Groups"), "");
    }
}

/// B-01: user 0 and group 0 are refused, and so is another user for a broker that is not root; nothing is run.
#[test]
fn b_01_users_that_no_worker_can_be() {
    let zero = |sandbox: Sandbox| [sandbox.clone().ids(0, 1), sandbox.clone().ids(1, 0), sandbox.groups([5, 0])];
    let plain = || worker("inside");
    let mut refused = vec![plain().ids(1, 1), plain().groups([1]), plain().user("daemon")];
    if common::is_root() {
        refused = zero(plain()).to_vec();
        refused.push(plain().user("root"));
        refused.push(plain().user("no such user"));
    }
    for sandbox in refused {
        let error = witnessed(&sandbox).unwrap_err();
        assert!(matches!(error, SpawnError::Prepare { what: "choosing the user", .. }), "{error:?}");
    }
}

fn check_status(seen: &Seen, uid: u32, gid: u32) {
    assert_eq!(seen.status("NoNewPrivs"), "1");
    assert_eq!(seen.status("Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(seen.status(set), "0000000000000000", "{set}");
    }
    // Without a user namespace, an ordinary user cannot empty it; the report says so then.
    let has_rights = common::is_root() || seen.enforced().has(Layer::UserNamespace);
    assert_eq!(seen.status("CapBnd") == "0000000000000000", has_rights);
    assert_eq!(seen.enforced().has(Layer::Capabilities), has_rights);
    assert_eq!(seen.holds(Layer::Securebits), has_rights);
    // Real, effective, saved and of the file system.
    assert_eq!(seen.status("Uid"), [uid; 4].map(|id| id.to_string()).join("\t"));
    assert_eq!(seen.status("Gid"), [gid; 4].map(|id| id.to_string()).join("\t"));
}

// ---------------------------------------------------------------------------------------------------- the report

/// B-09, B-07: at every preset, each line of the report is what /proc says from outside and a try says from inside, and
/// what it does not speak of is not there.
#[test]
fn b_09_b_07_the_report_is_what_holds() {
    for preset in Preset::ALL {
        let seen = Seen::of(&sandbox(preset));
        eprintln!("{preset}:\n{}", seen.enforced());
        seen.check(preset.name());
        // The preset wants what it says: nothing that it wants is passed over. Root has no use for a user namespace.
        for layer in Layer::ALL {
            let wanted = preset.mode(layer) != Mode::Off && !(common::is_root() && layer == Layer::UserNamespace);
            assert_eq!(seen.enforced().layers().any(|(known, _)| known == layer), wanted, "{preset}: {layer}");
        }
        // What every host has that these tests run on.
        for layer in [Layer::Descriptors, Layer::NoNewPrivs, Layer::Seccomp, Layer::ExecOnce, Layer::Limits] {
            assert!(seen.enforced().has(layer), "{preset}: {layer}");
        }
    }
}

/// B-09: each layer turned off is not there, and the report, which does not speak of it, is true of all others: so each
/// of the looks above tells a layer that is there from one that is not.
#[test]
fn b_09_a_layer_that_is_off_is_not_there() {
    for layer in Layer::ALL.into_iter().filter(|layer| *layer != Layer::Descriptors) {
        let mut sandbox = sandbox(Preset::Full).layer(layer, Mode::Off);
        if layer == Layer::NoNewPrivs {
            // These want it.
            sandbox = sandbox.layer(Layer::Landlock, Mode::Off).layer(Layer::Seccomp, Mode::Off);
        }
        if layer == Layer::NoNewPrivs && !common::is_root() {
            // The right to do without is the user namespace's.
            continue;
        }
        let seen = Seen::of(&sandbox);
        assert!(!seen.enforced().layers().any(|(known, _)| known == layer), "{layer}\n{}", seen.enforced());
        seen.check(&format!("{layer} off"));
    }
}

/// B-09: the report as JSON parses, and says the same as the table and the lines; so it is of the host's.
#[test]
fn b_09_the_report_as_json() {
    let script = "import json, sys\nfor entry in json.load(sys.stdin):\n  \
                  assert sorted(entry) == ['detail', 'enforced', 'layer'] and type(entry['enforced']) is bool\n  \
                  print(entry['layer'], {True: 'yes', False: 'NO'}[entry['enforced']], entry['detail'], sep='|')\n";
    for preset in Preset::ALL {
        let prepared = sandbox(preset).prepare().unwrap();
        let report = prepared.enforced();
        let mut python = match std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        {
            Ok(python) => python,
            Err(error) => {
                eprintln!("SKIPPED b_09_the_report_as_json: python3: {error}");
                return;
            }
        };
        python.stdin.take().unwrap().write_all(report.to_json().as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", report.to_json());
        let lines = report.layers().map(|(layer, state)| match state {
            Ok(what) => format!("{layer}|yes|{what}\n"),
            Err(why) => format!("{layer}|NO|{why}\n"),
        });
        assert_eq!(String::from_utf8(output.stdout).unwrap(), lines.collect::<String>());
        // The table has the same in the same order, in columns.
        let table = report.to_string();
        assert_eq!(table.lines().count(), report.layers().count());
        for (line, (layer, state)) in table.lines().zip(report.layers()) {
            let (word, detail) = state.map_or_else(|why| ("NO ", why), |what| ("yes", what));
            assert_eq!(line.split_whitespace().collect::<Vec<_>>().join(" "), {
                let plain = format!("{layer} {word} {detail}");
                plain.split_whitespace().collect::<Vec<_>>().join(" ")
            });
            assert_eq!(line.find(&format!("  {word}  ")), table.lines().next().unwrap().find("  yes  "), "{table}");
        }
    }
}

/// B-09, B-07: what the probe says of the host is what workers get that ask for it.
#[test]
fn b_09_b_07_the_probe_says_what_workers_get() {
    let host = Host::probe();
    eprintln!("{host}");
    assert_eq!(host.layers().map(|(layer, _)| layer).collect::<Vec<_>>(), Layer::ALL);
    let seen = Seen::of(&sandbox(Preset::Full));
    for (layer, state) in host.layers() {
        // For what the preset leaves out: asked for by name.
        let seen = if seen.enforced().layers().any(|(known, _)| known == layer) {
            &seen
        } else {
            &Seen::of(&sandbox(Preset::Full).layer(layer, Mode::IfAvailable))
        };
        assert_eq!(state.is_ok(), seen.holds(layer), "{layer}: {state:?}\n{}", seen.enforced());
        assert!(!state.unwrap_or_else(|why| why).is_empty());
    }
}

// ------------------------------------------------------------------------------------- required, if available, off

/// Starts the worker with standard output to a file. On an error, nothing has been run: the file is empty.
fn witnessed(sandbox: &Sandbox) -> Result<(), SpawnError> {
    let file = tempfile::tempfile().unwrap();
    let sandbox = sandbox.clone().stdout(Stdio::from(file.try_clone().unwrap()));
    match sandbox.spawn() {
        Ok((worker, channel)) => {
            common::start::word(&channel);
            drop(worker);
            assert_ne!(file.metadata().unwrap().size(), 0, "a worker that runs writes there");
            Ok(())
        }
        Err(error) => {
            // Who was born after all writes before it ends.
            assert_eq!(file.metadata().unwrap().size(), 0, "{error}, but the worker ran");
            Err(error)
        }
    }
}

/// B-08, B-07, L-10: each layer, required, if available, and off: the worker has it, or there is no worker and the error
/// names the layer and says why; or the report says why; or neither speaks of it.
#[test]
fn b_08_b_07_l_10_each_layer_in_each_mode() {
    let host = Host::probe();
    for (layer, state) in host.layers() {
        let asked = |mode| sandbox(Preset::Full).layer(layer, mode);
        match (state, witnessed(&asked(Mode::Required))) {
            (Ok(_), started) => started.unwrap_or_else(|error| panic!("{layer}: {error}")),
            (Err(why), Err(SpawnError::Unavailable { layer: missing, reason, .. })) => {
                // The missing user namespace is why the others are missing.
                assert!(missing == layer, "{layer}: {missing}: {reason}");
                assert!(!reason.is_empty() && !why.is_empty());
            }
            (Err(why), other) => panic!("{layer} is not to be had ({why}), but: {other:?}"),
        }
        let prepared = asked(Mode::IfAvailable).prepare().unwrap();
        let of_root = common::is_root() && layer == Layer::UserNamespace;
        assert_eq!(prepared.enforced().has(layer), state.is_ok(), "{layer}: {}", prepared.enforced());
        assert_eq!(prepared.enforced().layers().any(|(known, _)| known == layer), !of_root, "{layer}");
        match (layer, asked(Mode::Off).prepare()) {
            (Layer::Descriptors | Layer::NoNewPrivs, Err(SpawnError::Unavailable { layer: named, .. })) => {
                assert_eq!(named, layer);
            }
            (Layer::Descriptors | Layer::NoNewPrivs, other) => panic!("{layer}: {other:?}"),
            (_, prepared) => {
                let prepared = prepared.unwrap();
                assert!(!prepared.enforced().layers().any(|(known, _)| known == layer), "{layer}");
            }
        }
    }
}

/// B-08: what needs another layer that is off is not to be had, and says which one it needs.
#[test]
fn b_08_layers_that_need_others() {
    let off = |layer| sandbox(Preset::Full).layer(layer, Mode::Off);
    let mut cases = vec![
        (off(Layer::MountNamespace), Layer::Root, "the mount namespace"),
        (off(Layer::Seccomp), Layer::ExecOnce, "the filter"),
        (off(Layer::Seccomp).allow(Word::Exec), Layer::ExecOnce, "the filter"),
        (sandbox(Preset::Full).allow(Word::Exec), Layer::ExecOnce, "the word exec"),
    ];
    if !common::is_root() {
        for layer in [Layer::PidNamespace, Layer::Capabilities, Layer::Securebits, Layer::NetworkNamespace] {
            cases.push((off(Layer::UserNamespace), layer, "the user namespace"));
        }
    }
    for (sandbox, layer, needed) in cases {
        match witnessed(&sandbox.clone().layer(layer, Mode::Required)) {
            Err(SpawnError::Unavailable { layer: named, reason, .. }) => {
                assert_eq!(named, layer);
                assert!(reason.contains(needed), "{layer}: {reason}");
            }
            other => panic!("{layer}: {other:?}"),
        }
        let prepared = sandbox.layer(layer, Mode::IfAvailable).prepare().unwrap();
        let said = prepared.enforced().layers().find(|(known, _)| *known == layer).unwrap().1;
        assert!(said.unwrap_err().contains(needed), "{said:?}");
    }
}

/// B-08: asked for beforehand, a full sandbox is one whose report is full, or there is no worker; asked for afterwards,
/// the answer names what is missing.
#[test]
fn b_08_l_10_full_or_none() {
    for preset in Preset::ALL {
        let seen = Seen::of(&sandbox(preset));
        let missing: Vec<_> =
            seen.enforced().layers().filter_map(|(layer, state)| Some((layer, state.err()?))).collect();
        match seen.enforced().require_full() {
            Ok(()) => assert!(missing.is_empty() && seen.enforced().is_full()),
            Err(error) => {
                assert_eq!(error.missing().collect::<Vec<_>>(), missing);
                let text = error.to_string();
                assert!(missing.iter().all(|(layer, why)| text.contains(&format!("{layer}: {why}"))), "{text}");
            }
        }
        match (missing.first(), witnessed(&sandbox(preset).require_full())) {
            (None, Ok(())) => {}
            (Some((layer, _)), Err(SpawnError::Unavailable { layer: named, .. })) => assert_eq!(named, *layer),
            (_, other) => panic!("{preset}: missing {missing:?}, but {other:?}"),
        }
        // Without what is missing, it is full.
        let without = missing.iter().fold(sandbox(preset), |sandbox, (layer, _)| sandbox.layer(*layer, Mode::Off));
        witnessed(&without.require_full()).unwrap();
    }
}

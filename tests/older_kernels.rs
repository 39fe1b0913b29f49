//! Kernels, and filters around the broker, that lack something: what is done without it, what is not, and what the
//! report says. Each lack is made by a system-call filter in a process of its own.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(unsafe_code, reason = "tgkill(2) and handlers have no safe form")]

mod common;
mod seen;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::mounts::Mounted;
use common::namespace::with_mounts;
use common::start::{PATIENCE, run, started, worker};
use fdbroker::{
    Broker, Channel, ChannelError, Client, Fault, Host, Layer, Mode, Packet, Policy, Preset, Refusal, Resolver, Rule,
    Sandbox, SpawnError, Stdio, Worker,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::MsFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getppid};
use seen::{Seen, sandbox};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["lack", index] => without(&LACKS[index.parse::<usize>().unwrap()]),
        ["landlock", errno] => without_landlock(errno.parse().unwrap()),
        ["filters", errno] => without_filters(errno.parse().unwrap()),
        ["descriptors", errno] => without_close_range(errno.parse().unwrap()),
        ["clone3", errno] => without_clone3(errno.parse().unwrap()),
        ["notification", expected] => without_notification(expected),
        ["waiting"] => without_waiting_by_pidfd(),
        ["openat2", errno] => without_openat2(errno.parse().unwrap()),
        ["passrights"] => without_passrights(),
        ["killed-for", number] => killed_for(number.parse().unwrap()),
        ["system-service"] => as_a_system_service(),
        // Workers.
        ["inside"] => seen::inside(),
        ["attempts"] => attempts(),
        ["forbidden"] => forbidden(),
        ["smuggler"] => smuggler(),
        _ => panic!("no such role: {role}"),
    }
}

/// What the worker finds that it can do, before and after lockdown.
fn attempts() {
    let errno = |result: io::Result<()>| result.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0);
    let parent = getppid().as_raw();
    let all = || {
        let open = errno(File::open("/etc/passwd").map(drop));
        let socket = errno(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
        let signal = errno(kill(getppid(), None).map_err(io::Error::from));
        // SAFETY: takes numbers.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, parent, parent, 0) };
        let thread = errno(if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) });
        let execute = errno(std::process::Command::new("/bin/true").status().map(drop));
        format!("open {open}, socket {socket}, signal {signal}, to a thread {thread}, execute {execute}")
    };
    let channel = Channel::try_from(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let before = all();
    let enforced = fdbroker::lockdown().unwrap();
    let text = format!("{before}\n{}\n{enforced}", all());
    channel.send(text.as_bytes(), &[]).unwrap();
    channel.recv(&mut Packet::new()).unwrap_err();
}

// --------------------------------------------------------------------------------------------------- what is left out

/// Something that is missing, and which layers are missing for that.
struct Lack {
    /// A system call, the values of some of its arguments, and what it fails with.
    refused: &'static [(libc::c_long, &'static [(u8, u64)], i32)],
    /// Also clone(2) with any flag for a namespace.
    namespaces: bool,
    lost: &'static [Layer],
    /// In the reason.
    word: &'static str,
}

const LACKS: &[Lack] = &[
    // Before Linux 5.13, and switched off.
    lack(&[(libc::SYS_landlock_create_ruleset, &[], libc::ENOSYS)], &[Layer::Landlock], "has no Landlock"),
    lack(&[(libc::SYS_landlock_create_ruleset, &[], libc::EOPNOTSUPP)], &[Layer::Landlock], "lsm="),
    // Before Linux 5.2, and filters that let nobody mount.
    lack(&[(libc::SYS_mount_setattr, &[], libc::EPERM)], &[Layer::Root], "an administrator can allow it"),
    lack(&[(libc::SYS_fsopen, &[], libc::ENOSYS)], &[Layer::Root], "this kernel does not have it"),
    lack(&[(libc::SYS_open_tree, &[], libc::ENOSYS)], &[Layer::Root], "this kernel does not have it"),
    lack(&[(libc::SYS_move_mount, &[], libc::EPERM)], &[Layer::Root], "an administrator can allow it"),
    lack(&[(libc::SYS_pivot_root, &[], libc::EPERM)], &[Layer::Root], "an administrator can allow it"),
    lack(&[(libc::SYS_mount, &[], libc::EPERM)], &[Layer::Root], "an administrator can allow it"),
    // Containers whose root has not all of root's rights.
    lack(
        &[(libc::SYS_prctl, &[(0, libc::PR_CAPBSET_DROP as u64)], libc::EPERM)],
        &[Layer::Capabilities],
        "bounding set",
    ),
    lack(
        &[(libc::SYS_prctl, &[(0, libc::PR_SET_SECUREBITS as u64)], libc::EPERM)],
        &[Layer::Securebits],
        "an administrator can allow it",
    ),
    // A container's filter, which cannot look into clone3's arguments.
    Lack {
        refused: &[(libc::SYS_clone3, &[], libc::ENOSYS)],
        namespaces: true,
        lost: &[
            Layer::UserNamespace,
            Layer::MountNamespace,
            Layer::Root,
            Layer::PidNamespace,
            Layer::IpcNamespace,
            Layer::UtsNamespace,
            Layer::CgroupNamespace,
            Layer::NetworkNamespace,
        ],
        word: "refused to this process",
    },
    // Nothing is missing: there is another way.
    lack(&[(libc::SYS_close_range, &[], libc::ENOSYS)], &[], ""),
    lack(&[(libc::SYS_close_range, &[], libc::EPERM)], &[], ""),
    lack(&[(libc::SYS_clone3, &[], libc::ENOSYS)], &[], ""),
    lack(&[(libc::SYS_mount_setattr, &[], libc::ENOSYS)], &[], ""),
    // Filters that kill for what they do not list. The broker goes on: who is killed is who tries it out.
    lack(MOUNTING_KILLS, &[Layer::Root], "a filter around this process kills who takes this step"),
    lack(&[(libc::SYS_pivot_root, &[], KILLED)], &[Layer::Root], "a filter around this process kills"),
    lack(
        &[(libc::SYS_prctl, &[(0, libc::PR_CAPBSET_DROP as u64)], KILLED)],
        &[Layer::Capabilities],
        "a filter around this process kills",
    ),
    lack(
        &[(libc::SYS_prctl, &[(0, libc::PR_SET_SECUREBITS as u64)], KILLED)],
        &[Layer::Securebits],
        "a filter around this process kills",
    ),
];

/// In the place of an errno.
const KILLED: i32 = -1;

/// What starting a worker takes that systemd's @system-service has not: its @mount has it.
const MOUNTING_KILLS: &[(libc::c_long, &[(u8, u64)], i32)] = &[
    (libc::SYS_mount, &[], KILLED),
    (libc::SYS_umount2, &[], KILLED),
    (libc::SYS_pivot_root, &[], KILLED),
    (libc::SYS_fsopen, &[], KILLED),
    (libc::SYS_fsconfig, &[], KILLED),
    (libc::SYS_fsmount, &[], KILLED),
    (libc::SYS_move_mount, &[], KILLED),
    (libc::SYS_open_tree, &[], KILLED),
    (libc::SYS_mount_setattr, &[], KILLED),
];

/// The rest of that, which systemd 252 has in no list.
const SANDBOXING: [libc::c_long; 4] = [
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

const fn lack(
    refused: &'static [(libc::c_long, &'static [(u8, u64)], i32)],
    lost: &'static [Layer],
    word: &'static str,
) -> Lack {
    Lack { refused, namespaces: false, lost, word }
}

/// B-07, B-08, B-09, L-10: whatever is missing: if the layer is wanted if available, the worker starts without it, the
/// report says so and why, and all of it is true; if it is required, there is no worker, and nothing has been run. What
/// is there without the lack, and has nothing to do with it, is there with it.
#[test]
fn b_07_b_08_b_09_l_10_whatever_is_missing() {
    let there: Vec<_> = Host::probe().layers().filter(|(_, state)| state.is_ok()).map(|(layer, _)| layer).collect();
    for (index, lack) in LACKS.iter().enumerate() {
        let mut lost: Vec<_> = there.iter().filter(|layer| lack.lost.contains(layer)).collect();
        if lost.contains(&&Layer::UserNamespace) {
            lost.extend([&Layer::Capabilities, &Layer::Securebits]);
        }
        let there = there.iter().filter(|layer| !lost.contains(layer));
        let names = |layers: &mut dyn Iterator<Item = &Layer>| layers.map(|l| l.name()).collect::<Vec<_>>().join(",");
        let (there, lost) = (names(&mut { there }), names(&mut lost.iter().copied()));
        let mut command = common::rerun("process", &format!("lack {index}"));
        let output = command.env("THERE", &there).env("LOST", &lost).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        // Before Linux 5.16 whoever shares the memory of the process that is killed is killed with it (SECURITY.md).
        let kills = lack.refused.iter().any(|(.., errno)| *errno == KILLED) && common::kernel() < (5, 16);
        let is_killed = kills && output.status.signal() == Some(libc::SIGSYS);
        assert!(output.status.success() || is_killed, "{:?}: {}\n{text}", lack.refused, output.status);
    }
}

fn without(lack: &Lack) {
    for (number, conditions, errno) in lack.refused {
        match *errno {
            KILLED => common::kill_for(*number, conditions),
            errno => common::refuse(*number, conditions, errno),
        }
    }
    if lack.namespaces {
        refuse_namespaces();
    }
    let [there, lost] = ["THERE", "LOST"].map(|name| std::env::var(name).unwrap());
    let there: Vec<&str> = there.split(',').collect();
    for preset in Preset::ALL {
        let seen = Seen::of(&sandbox(preset));
        seen.check(preset.name());
        for (layer, state) in seen.enforced().layers() {
            if !there.contains(&layer.name()) || layer == Layer::Capabilities || layer == Layer::Securebits {
                continue;
            }
            assert!(state.is_ok(), "{preset}: {layer} is lost as well\n{}", seen.enforced());
        }
    }
    let host = Host::probe();
    for (layer, state) in host.layers() {
        assert_eq!(state.is_ok(), there.contains(&layer.name()), "{layer}: {state:?}");
        if let (Err(why), true) = (state, lack.lost.contains(&layer)) {
            let root_has_none = layer == Layer::UserNamespace && common::is_root();
            // Where it was missing before, it may be for another reason.
            let was_there = lost.split(',').any(|name| name == layer.name());
            let stands_on_another = why.starts_with("it needs") && lack.lost.len() > 1;
            assert!(why.contains(lack.word) || root_has_none || stands_on_another || !was_there, "{layer}: {why}");
            none_starts(&sandbox(Preset::Full).layer(layer, Mode::Required), layer);
        }
    }
}

/// B-07, B-08, B-09: before Linux 5.12 the root and what is bound into it are restricted as well, mount by mount: the same
/// is mounted at the same places, with the same options. Where something is mounted beneath what is needed there is no
/// such root, and the report says why: nothing is shown that a mount covers.
#[test]
fn b_07_b_08_b_09_a_root_without_mount_setattr() {
    let name = "b_07_b_08_b_09_a_root_without_mount_setattr";
    with_mounts(name, || {
        let (guard, directory) = common::directory();
        let [held, outer, inner] = ["held", "outer", "outer/in ner"].map(|name| directory.join(name));
        fs::create_dir(&held).unwrap();
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("covered"), "secret").unwrap();
        let no_symlinks = MsFlags::from_bits_retain(256);
        let options = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME | no_symlinks;
        let _held = Mounted::of_kind(&guard, &held, "tmpfs", options, None).unwrap();
        let _inner = Mounted::of_kind(&guard, &inner, "tmpfs", options, None).unwrap();
        fs::create_dir(held.join("directory")).unwrap();
        let cat = || Sandbox::new("/bin/cat").stdout(Stdio::null());
        let (alone, with_another) = (cat().runtime(held.join("directory")), cat().runtime(&outer));
        let before = mounts_of(&alone.spawn().unwrap().0);
        let Some(before) = before else { return eprintln!("SKIPPED {name}: no root of its own is to be had here") };
        let is_held = |(place, options): &(String, String)| {
            place.ends_with("held/directory") && options.contains("noexec") && options.contains("noatime")
        };
        assert!(before.iter().any(is_held), "{before:?}");
        if common::kernel() >= (5, 12) {
            let of_another = mounts_of(&with_another.spawn().unwrap().0).unwrap();
            assert!(of_another.iter().any(|(place, _)| place.ends_with("outer/in\\040ner")), "{of_another:?}");
        }

        common::refuse(libc::SYS_mount_setattr, &[], libc::ENOSYS);
        assert_eq!(mounts_of(&alone.spawn().unwrap().0).unwrap(), before);
        let (worker, channel) = with_another.spawn().unwrap();
        let why = worker.enforced().layers().find(|(layer, _)| *layer == Layer::Root).unwrap().1.unwrap_err();
        assert!(why.contains(&format!("{} is mounted beneath {}", inner.display(), outer.display())), "{why}");
        drop((worker, channel));
        none_starts(&with_another.layer(Layer::Root, Mode::Required), Layer::Root);
    });
}

/// What a worker sees mounted where, and with which options; if it has a root of its own.
fn mounts_of(worker: &Worker) -> Option<BTreeSet<(String, String)>> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", worker.id())).unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mounts = fields.map(|fields| (fields[4].to_owned(), fields[5].to_owned())).collect();
    worker.enforced().has(Layer::Root).then_some(mounts)
}

fn none_starts(sandbox: &Sandbox, layer: Layer) {
    let file = tempfile::tempfile().unwrap();
    let before = common::open_fds();
    let sandbox = sandbox.clone().stdout(Stdio::from(file.try_clone().unwrap()));
    match sandbox.spawn() {
        // What it stands on may be what is named.
        Err(SpawnError::Unavailable { layer: named, reason, .. }) => assert!(named == layer, "{named}: {reason}"),
        other => panic!("{layer}: {other:?}"),
    }
    drop(sandbox);
    assert_eq!(file.metadata().unwrap().size(), 0, "a worker ran");
    assert_eq!(waitpid(None::<Pid>, None), Err(Errno::ECHILD), "a child is left");
    assert_eq!(common::open_fds(), before);
}

/// clone(2) and unshare(2) with any of the flags.
fn refuse_namespaces() {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    let flags = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let rule = |flag: &i32| {
        let flag = u64::try_from(*flag).unwrap();
        let has = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag);
        SeccompRule::new(vec![has.unwrap()]).unwrap()
    };
    let rules: Vec<_> = flags.iter().map(rule).collect();
    let rules = [(libc::SYS_clone, rules.clone()), (libc::SYS_unshare, rules)].into();
    let errno = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: seccompiler::BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter_all_threads(&filter).unwrap();
}

/// B-07, B-09: no Landlock, or one that is switched off, at the floor: the filter holds, and refuses signals as well,
/// which nothing else does; so after a lockdown, whose report says the same.
#[test]
fn b_07_b_09_without_landlock() {
    run(&format!("landlock {}", libc::ENOSYS));
    run(&format!("landlock {}", libc::EOPNOTSUPP));
}

fn without_landlock(errno: i32) {
    common::refuse(libc::SYS_landlock_create_ruleset, &[], errno);
    let (worker, _channel, text) = started(&worker("attempts").preset(Preset::Floor));
    assert!(!worker.enforced().has(Layer::Landlock) && !worker.enforced().is_full());
    let lines: Vec<&str> = text.lines().collect();
    // That the file opens shows that it is Landlock that is missing. /bin/true would need a process.
    // Where Landlock does not scope signals, the filter refuses them.
    assert_eq!(lines[0], "open 0, socket 1, signal 1, to a thread 1, execute 1");
    assert!(lines[1].starts_with("open 1, socket 1, signal 1, to a thread 1, execute "), "{text}");
    assert_ne!(lines[1].rsplit(' ').next(), Some("0"), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("landlock") && line.contains("  NO   ")), "{text}");
}

/// B-10, F-04, F-05: without close_range(2), the worker's descriptors are the declared ones nevertheless, whatever the
/// broker has open, and the broker's stay as they are.
#[test]
fn b_10_f_04_f_05_without_close_range() {
    for errno in [0, libc::ENOSYS, libc::EINVAL, libc::EPERM] {
        run(&format!("descriptors {errno}"));
    }
}

fn without_close_range(errno: i32) {
    // More of them than one buffer of the directory's entries holds, and one far up.
    let mut leaking: Vec<OwnedFd> = (0..200).map(|_| File::open("/").unwrap().into()).collect();
    leaking.push(fcntl_dup(&leaking[0], 900));
    for fd in &leaking {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    if errno != 0 {
        common::refuse(libc::SYS_close_range, &[], errno);
    }
    let before = common::fds_of(std::process::id());
    for preset in Preset::ALL {
        let declared = |number| (number, OwnedFd::from(File::open("/dev/null").unwrap()));
        // Gaps below, between and above; next to each other; and beyond all that the broker has.
        for numbers in [vec![], vec![3], vec![5, 6, 40], vec![300, 899, 901]] {
            let cat = Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::piped());
            let cat = numbers.iter().map(|number| declared(*number)).fold(cat, |cat, (n, fd)| cat.descriptor(n, fd));
            let (worker, channel) = cat.spawn().unwrap();
            runs(&worker, &channel);
            let mut expected = vec![0, 1, 2];
            expected.extend(numbers);
            assert_eq!(common::fds_of(worker.id()), expected, "{preset}");
            drop((worker, channel, cat));
        }
    }
    assert_eq!(common::fds_of(std::process::id()), before);
    for fd in &leaking {
        assert_eq!(fcntl(fd, FcntlArg::F_GETFD).unwrap(), 0, "the broker's own flag");
    }
}

/// Waits until it has come to its own code: the kernel lets the parent go on a little before it closes what is
/// close-on-exec.
fn runs(cat: &Worker, channel: &Channel) {
    channel.send(b"word", &[]).unwrap();
    let mut echo = [0; 4];
    cat.take_stdout().unwrap().read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"word");
}

fn fcntl_dup(fd: &OwnedFd, lowest: i32) -> OwnedFd {
    let number = fcntl(fd, FcntlArg::F_DUPFD(lowest)).unwrap();
    // SAFETY: a new descriptor that nobody else knows.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(number) }
}

/// B-03, B-10: by clone3(2), and by clone(2), which leaves the parent's handlers to the child: the worker has none of
/// them, and ignores what the broker ignores, but for SIGPIPE. The broker has its own as before.
#[test]
fn b_03_b_10_signals_by_either_clone() {
    for errno in [0, libc::ENOSYS, libc::EINVAL, libc::EPERM] {
        run(&format!("clone3 {errno}"));
    }
}

fn without_clone3(errno: i32) {
    extern "C" fn handler(_: libc::c_int) {}
    let set = |signals: &[Signal], handler| {
        for signal in signals {
            // SAFETY: the handler does nothing.
            unsafe { sigaction(*signal, &SigAction::new(handler, SaFlags::empty(), SigSet::empty())) }.unwrap();
        }
    };
    set(&[Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGCHLD], SigHandler::Handler(handler));
    set(&[Signal::SIGHUP, Signal::SIGUSR2], SigHandler::SigIgn);
    // The C library makes threads by clone3(2), too, and has no other way unless it is ENOSYS: so the thread that makes
    // workers is there before, and what is to be had is known.
    let cat = |preset| Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::piped());
    let reports = || Preset::ALL.map(|preset| cat(preset).spawn().unwrap().0.enforced().to_string());
    let report = reports();
    if errno != 0 {
        common::refuse(libc::SYS_clone3, &[], errno);
    }
    assert_eq!(reports(), report);
    let own = |field| common::status(std::process::id(), field);
    let state = || (own("SigIgn"), own("SigCgt"), SigSet::thread_get_mask().unwrap());
    let before = state();
    let bits = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
    assert_ne!(bits(&before.0) & bit(Signal::SIGPIPE), 0);
    for preset in Preset::ALL {
        let (worker, channel) = cat(preset).spawn().unwrap();
        runs(&worker, &channel);
        let of = |field| bits(&common::status(worker.id(), field));
        assert_eq!(of("SigCgt"), 0);
        assert_eq!(of("SigBlk"), 0);
        assert_eq!(of("SigIgn"), bits(&before.0) & !bit(Signal::SIGPIPE));
        assert_eq!(state(), before);
        if !worker.enforced().has(Layer::PidNamespace) {
            worker.signal(libc::SIGTERM).unwrap();
            assert_eq!(worker.wait_timeout(PATIENCE).unwrap().unwrap().signal(), Some(libc::SIGTERM));
        }
    }
}

/// L-07: before Linux 5.4, waitid(2) takes no pidfd. The worker's end is seen all the same.
#[test]
fn l_07_without_waiting_by_pidfd() {
    run("waiting");
}

fn without_waiting_by_pidfd() {
    common::refuse(libc::SYS_waitid, &[(0, 3)], libc::EINVAL);
    let (worker, channel) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(worker.try_wait().unwrap(), None);
    drop(channel);
    assert!(worker.wait_timeout(PATIENCE).unwrap().is_some());
    let (worker, _channel) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
    let pid = worker.id();
    drop(worker);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// B-08: a filter that asks the broker (Linux 5.0): without that, the kernel ends the worker for a call that no word
/// allows, and the signal says so. Which kernel it is, strace makes it say.
#[test]
fn b_08_without_notification() {
    let plain = common::rerun("process", "notification killed");
    common::start::run("notification killed");
    let mut command = Command::new("strace");
    // The first such call of a process asks for KILL_PROCESS, the second for USER_NOTIF.
    command.args(["-f", "-q", "-o", "/dev/null", "-e", "trace=seccomp", "-e"]);
    command.arg("inject=seccomp:error=EOPNOTSUPP:when=2").arg(plain.get_program()).args(plain.get_args());
    match command.env("FDBROKER_TEST_ROLE", "notification by-the-kernel").output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
        }
        Err(error) => eprintln!("SKIPPED b_08_without_notification: strace: {error}"),
    }
}

fn without_notification(expected: &str) {
    let (worker, _channel) = worker("forbidden").refusal(Refusal::Kill).spawn().unwrap();
    let status = worker.wait_timeout(PATIENCE).unwrap().expect("its end");
    let signal = if expected == "killed" { libc::SIGKILL } else { libc::SIGSYS };
    assert_eq!(status.signal(), Some(signal), "{status}");
}

fn forbidden() {
    let _ = std::net::UdpSocket::bind("127.0.0.1:0");
    panic!("it goes on");
}

/// K15: no openat2, or a filter that refuses it: names are resolved by the walk, and the policy says so.
#[test]
fn k15_without_openat2() {
    run(&format!("openat2 {}", libc::ENOSYS));
    run(&format!("openat2 {}", libc::EPERM));
}

fn without_openat2(errno: i32) {
    let (_directory, path) = common::directory();
    fs::write(path.join("file"), "content").unwrap();
    let policy = || Policy::builder().allow(Rule::beneath(&path).read()).build().unwrap();
    assert_eq!(policy().resolver(), Some(Resolver::Openat2));
    common::refuse(libc::SYS_openat2, &[], errno);
    assert_eq!(policy().resolver(), Some(Resolver::Walk));
    let (_service, client) = common::served::client(policy());
    assert_eq!(std::io::read_to_string(client.read(path.join("file")).unwrap()).unwrap(), "content");
    // Without names there is nothing to resolve.
    let without = Policy::builder().allow(Rule::listen("127.0.0.1:0".parse().unwrap())).build().unwrap();
    assert_eq!(without.resolver(), None);
}

/// P-07, K18, K29: no SO_PASSRIGHTS. The broker serves, and a request with descriptors ends the service; nothing leaks.
#[test]
fn p_07_without_passrights() {
    run("passrights");
}

fn without_passrights() {
    common::refuse(libc::SYS_setsockopt, &[(1, libc::SOL_SOCKET as u64), (2, 83)], libc::ENOPROTOOPT);
    let before = common::open_fds();
    for _ in 0..3 {
        let (worker, channel) = worker("smuggler").spawn().unwrap();
        let policy = Policy::builder().allow(Rule::scratch(std::env::temp_dir())).build().unwrap();
        let end = Broker::new().serve("smuggler", channel, policy).unwrap().wait();
        assert!(matches!(end, Err(Fault::Descriptors)), "{end:?}");
        assert!(worker.wait().unwrap().success());
        drop(worker);
        assert_eq!(common::open_fds(), before);
    }
}

/// Asks for something, and then sends descriptors where none are taken.
fn smuggler() {
    let client = Client::from_stdin().unwrap();
    let granted = client.scratch().unwrap();
    let channel = Channel::try_from(client.as_fd().try_clone_to_owned().unwrap()).unwrap();
    channel.send(b"fb\x01\x01 and whatever", &[granted.as_fd(), granted.as_fd()]).unwrap();
    let error = channel.recv(&mut Packet::new()).unwrap_err();
    assert!(matches!(error, ChannelError::Disconnected), "{error:?}");
}

// --------------------------------------------------------------------------------------------- what is not done
// without

/// B-08, L-10: no system-call filters. No worker is started without them, unless they are turned off; and no lockdown is
/// claimed.
#[test]
fn b_08_l_10_without_filters() {
    run(&format!("filters {}", libc::ENOSYS));
    run(&format!("filters {}", libc::EINVAL));
}

fn without_filters(errno: i32) {
    common::refuse(libc::SYS_seccomp, &[], errno);
    for preset in Preset::ALL {
        none_starts(&sandbox(preset), Layer::Seccomp);
    }
    let prepared = sandbox(Preset::Standard).layer(Layer::Seccomp, Mode::IfAvailable).layer(Layer::ExecOnce, Mode::Off);
    let seen = Seen::of(&prepared);
    assert!(!seen.enforced().has(Layer::Seccomp) && !seen.enforced().has(Layer::ExecOnce));
    assert!(!seen.enforced().is_full());
    // Which leaves this process half locked down.
    let error = fdbroker::lockdown().unwrap_err().to_string();
    assert!(error.contains("seccomp"), "{error}");
}

/// B-08, L-10: a filter around the broker that kills for a call which the broker makes itself, to make a worker or to
/// know what is to be had: no other way is tried, and it is the broker that is killed. Nothing has been run.
#[test]
fn b_08_l_10_a_broker_is_killed_by_a_filter_around_it() {
    let own = [libc::SYS_clone3, libc::SYS_seccomp, libc::SYS_pidfd_open];
    for number in own.into_iter().chain([libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule]) {
        let mut command = common::rerun("process", &format!("killed-for {number}"));
        let witness = tempfile::tempfile().unwrap();
        let output = command.stdin(witness.try_clone().unwrap()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if text.contains("SKIPPED") {
            text.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| eprintln!("{line}"));
            continue;
        }
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "call {number}: {text}");
        assert_eq!(witness.metadata().unwrap().size(), 0, "a worker ran");
    }
}

fn killed_for(number: libc::c_long) {
    let needed = match number {
        libc::SYS_landlock_add_rule => Layer::Landlock,
        // For a worker that cannot see its parent's number.
        libc::SYS_pidfd_open => Layer::PidNamespace,
        _ => Layer::Descriptors,
    };
    if !Host::probe().layers().any(|(layer, state)| layer == needed && state.is_ok()) {
        println!("SKIPPED call {number}: no {needed} here");
        return;
    }
    common::kill_for(number, &[]);
    let witness = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let _ =
        Sandbox::new("/bin/echo").arg("it runs").stdout(Stdio::from(File::from(witness))).preset(Preset::Full).spawn();
    println!("the broker is there");
}

/// B-07, B-08, L-10: a service of systemd's with SystemCallFilter=@system-service and SystemCallErrorNumber=EPERM: the
/// filter is required, and there is none without seccomp(2): the error says so.
#[test]
fn b_07_b_08_l_10_as_a_system_service() {
    run("system-service");
}

fn as_a_system_service() {
    for (number, _, _) in MOUNTING_KILLS {
        common::refuse(*number, &[], libc::EPERM);
    }
    for number in SANDBOXING.into_iter().rev() {
        common::refuse(number, &[], libc::EPERM);
    }
    for preset in Preset::ALL {
        none_starts(&sandbox(preset), Layer::Seccomp);
    }
    for layer in [Layer::Landlock, Layer::Root] {
        let host = Host::probe();
        assert!(host.layers().any(|(known, state)| known == layer && state.is_err()), "{host}");
    }
}

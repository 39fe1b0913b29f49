//! Workers that make processes of their own, which may outlive them, and programs that the kernel treats in its own way.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]
#![allow(unsafe_code, reason = "setxattr(2) has no safe form")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use fdbroker::{Death, Layer, Mode, Preset, Refusal, Sandbox, SpawnError, Stdio, Word};

/// Nothing here takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A shell that may execute other programs, in processes of its own.
fn shell(script: &str) -> Sandbox {
    let sandbox = Sandbox::new("/bin/sh").args(["-c", script]).runtime("/usr/bin").channel_at(3);
    sandbox.allow(Word::Processes).allow(Word::Exec).stderr(Stdio::null())
}

/// B-02: where a refusal kills, it kills the process that made the call, which the worker has made, and the worker.
#[test]
fn b_02_a_refusal_kills_who_made_the_call() {
    // Without a namespace to make: the filter is asked before the kernel looks at anything.
    let script = "(/usr/bin/unshare --uts /usr/bin/true; echo alive); sleep 60";
    for preset in Preset::ALL {
        let sandbox = shell(script).preset(preset).refusal(Refusal::Kill).stdout(Stdio::piped());
        let (worker, _channel) = sandbox.spawn().unwrap();
        let mut said = String::new();
        let mut stdout = worker.take_stdout().unwrap();
        let death = worker.death().unwrap();
        assert!(matches!(death, Death::SystemCall(_)), "{preset}: {death}");
        // Of the shell between the two, which has done nothing. It ends by itself, and so the pipe does.
        stdout.read_to_string(&mut said).unwrap();
        assert!(said.is_empty() || said == "alive\n", "{preset}: {said:?}");
    }
}

/// L-01: what a worker has made and left behind holds its output open, but no thread and no descriptor of the broker's.
#[test]
fn l_01_what_a_worker_leaves_behind_keeps_nothing_here() {
    common::alone("l_01_what_a_worker_leaves_behind_keeps_nothing_here", || {
        let prepared = shell("sleep 20 & echo said; exit 1").log(|_| {}).prepare().unwrap();
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = (threads(), common::open_fds());
        for _ in 0..5 {
            let (worker, _channel) = prepared.spawn().unwrap();
            assert_eq!(worker.wait().unwrap().code(), Some(1));
        }
        let late = Instant::now() + PATIENCE;
        // One more: the thread of the library's own that starts workers.
        while threads() > before.0 + 1 || common::open_fds() > before.1 {
            assert!(
                Instant::now() < late,
                "{} threads, {} descriptors; before: {before:?}",
                threads(),
                common::open_fds()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// B-08, B-04: a program with file capabilities would not die with its broker where it executes without a mount namespace
/// and with a bounding set: the report says so, and who requires it gets no worker.
#[test]
fn b_08_b_04_file_capabilities() {
    let (_directory, path) = common::directory();
    let program = path.join("program");
    fs::copy("/bin/cat", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // struct vfs_cap_data of linux/capability.h: VFS_CAP_REVISION_2 and the effective bit, permitted and inheritable,
    // twice. CAP_NET_BIND_SERVICE is bit 10.
    let words: [u32; 5] = [0x0200_0001, 1 << 10, 0, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let name = std::ffi::CString::new(program.to_str().unwrap()).unwrap();
    // SAFETY: two strings with their NUL, and as many bytes as are said.
    let set = unsafe {
        libc::setxattr(name.as_ptr(), c"security.capability".as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0)
    };
    if set != 0 {
        eprintln!("SKIPPED b_08_b_04_file_capabilities: {}", std::io::Error::last_os_error());
        return;
    }
    let floor = || Sandbox::new(&program).preset(Preset::Floor).layer(Layer::Capabilities, Mode::Off);
    let prepared = floor().prepare().unwrap();
    let die = prepared.enforced().layers().find(|(layer, _)| *layer == Layer::DieWithParent).unwrap();
    assert!(die.1.unwrap_err().contains("file capabilities"), "{}", prepared.enforced());
    match floor().die_with_parent().prepare() {
        Err(SpawnError::Unavailable { layer: Layer::DieWithParent, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(Sandbox::new(&program).prepare().unwrap().enforced().has(Layer::DieWithParent));
}

//! Changes by name under attack: before each system call of the broker's, one after the other, somebody who may write
//! to the directory, but not to what is inside, exchanges two names in it. Nothing is waited for: the broker's thread
//! is held at the call meanwhile.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::served;
use common::watched::{Verdict, watched};
use common::{alone, directory};
use fdbroker::{Client, Policy, Rule, Service};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// All calls that find or change a name, or a mode.
const CALLS: [i64; 10] = [
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_mkdirat,
    libc::SYS_fchmodat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_faccessat2,
    libc::SYS_statx,
    RENAMEAT,
];

#[cfg(target_arch = "riscv64")]
const RENAMEAT: i64 = libc::SYS_renameat2;
#[cfg(not(target_arch = "riscv64"))]
const RENAMEAT: i64 = libc::SYS_renameat;

/// What happens before the so-many-th call of a request.
#[derive(Default)]
struct Attack {
    calls: usize,
    at: Option<usize>,
    /// In which the names are.
    directory: PathBuf,
    /// Of them, which are exchanged with `private`: those that begin so.
    name: &'static str,
    done: bool,
}

impl Attack {
    fn before_a_call(&mut self) {
        self.calls += 1;
        if self.at != Some(self.calls) {
            return;
        }
        for entry in fs::read_dir(&self.directory).unwrap() {
            let name = entry.unwrap().file_name();
            if name.to_str().unwrap().starts_with(self.name) {
                let (one, other) = (self.directory.join(name), self.directory.join("private"));
                self.done |= renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok();
            }
        }
    }
}

fn attacked(policy: Policy) -> Option<(Service, Client, Arc<Mutex<Attack>>)> {
    let attack = Arc::new(Mutex::new(Attack::default()));
    let judge = attack.clone();
    let (service, client) = watched(
        &CALLS,
        move |_| {
            judge.lock().unwrap().before_a_call();
            Verdict::Go
        },
        move || served::client(policy),
    )?;
    Some((service, client, attack))
}

/// Every moment of a request, and every kind of name. `request` answers whether something was granted; `check` looks at
/// what has become of it all.
fn at_every_moment(
    attack: &Mutex<Attack>,
    names: &[&'static str],
    mut set_up: impl FnMut() -> PathBuf,
    mut request: impl FnMut() -> bool,
    mut check: impl FnMut(&str),
) {
    let (mut attacks, mut grants) = (0, 0);
    for &name in names {
        // More than any request has; it ends when there was no such call.
        for at in 1..100 {
            *attack.lock().unwrap() = Attack { at: Some(at), directory: set_up(), name, ..Attack::default() };
            grants += usize::from(request());
            let (calls, done) = {
                let mut attack = attack.lock().unwrap();
                attack.at = None;
                (attack.calls, attack.done)
            };
            attacks += usize::from(done);
            check(&format!("{name} before call {at} of {calls}"));
            if calls < at {
                break;
            }
            assert!(at < 99, "a request that does not end");
        }
    }
    eprintln!("{attacks} attacks, {grants} grants");
    assert!(attacks >= 2 * names.len(), "{attacks} attacks only");
    assert!(grants > 0);
}

/// The directory that has the key, which must still be in this one, under whatever name.
fn place_of_the_key(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.join("key").exists())
}

/// D-03: whatever is exchanged with what under the names of a renaming, and when, no directory is moved, and what is
/// moved is what was judged.
#[test]
fn d_03_no_exchange_has_another_object_renamed() {
    alone("d_03_no_exchange_has_another_object_renamed", || {
        let (_keep, root) = directory();
        let (one, other) = (root.join("one"), root.join("other"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        for (replaces, attacked_directory) in [(false, &one), (true, &one), (true, &other)] {
            let rules = Policy::builder()
                .allow(Rule::file(one.join("file")).rename())
                .allow(Rule::beneath(&other).rename())
                .deny(Rule::beneath(one.join("private")));
            let Some((_service, client, attack)) = attacked(rules.build().unwrap()) else { return };
            let inode = std::cell::Cell::new(0);
            let set_up = || {
                [&one, &other].into_iter().for_each(|place| empty(place));
                private_here(attacked_directory);
                fs::write(one.join("file"), b"file").unwrap();
                inode.set(fs::metadata(one.join("file")).unwrap().ino());
                if replaces {
                    fs::write(other.join("new"), b"replaced").unwrap();
                }
                attacked_directory.clone()
            };
            let check = |when: &str| {
                assert!(place_of_the_key(attacked_directory).is_some(), "{when}: the directory was moved");
                let new = fs::symlink_metadata(other.join("new"));
                let stays = replaces && new.as_ref().is_ok_and(|new| new.size() == 8);
                let swapped = attacked_directory == &other && other.join("new/key").exists();
                let moved = new.as_ref().is_ok_and(|new| new.ino() == inode.get());
                assert!(new.is_err() || stays || swapped || moved, "{when}: {new:?}");
                let names = [&one, &other].map(|place| {
                    fs::read_dir(place)
                        .unwrap()
                        .filter(|entry| entry.as_ref().unwrap().metadata().unwrap().ino() == inode.get())
                        .count()
                });
                assert!(names.iter().sum::<usize>() > 0, "{when}: the object is lost");
            };
            let names: &[&str] = match (replaces, attacked_directory == &one) {
                (_, true) => &["file"],
                _ => &["new", ".fdbroker-"],
            };
            at_every_moment(
                &attack,
                names,
                set_up,
                || client.rename(one.join("file"), other.join("new")).is_ok(),
                check,
            );
        }
    });
}

fn private_here(directory: &Path) {
    fs::create_dir(directory.join("private")).unwrap();
    fs::set_permissions(directory.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(directory.join("private/key"), b"key").unwrap();
}

/// D-02, O-16: whatever is exchanged with what while a directory is made, no other gets its mode.
#[test]
fn d_02_o_16_no_exchange_gives_another_directory_the_mode() {
    alone("d_02_o_16_no_exchange_gives_another_directory_the_mode", || {
        let (_keep, root) = directory();
        let place = root.join("place");
        fs::create_dir(&place).unwrap();
        let rules = Policy::builder().allow(Rule::file(place.join("new")).mkdir(0o755));
        let Some((_service, client, attack)) = attacked(rules.build().unwrap()) else { return };
        let set_up = || {
            empty(&place);
            private_here(&place);
            place.clone()
        };
        let check = |when: &str| {
            let key = place_of_the_key(&place).unwrap_or_else(|| panic!("{when}: the directory was moved"));
            let mode = fs::metadata(&key).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o700, "{when}: {}", key.display());
        };
        at_every_moment(&attack, &["new", ".fdbroker-"], set_up, || client.mkdir(place.join("new")).is_ok(), check);
    });
}

/// D-03, R1-12: neither is a file of several names renamed, where the rule wants none.
#[test]
fn d_03_r1_12_no_exchange_has_a_file_of_several_names_renamed() {
    alone("d_03_r1_12_no_exchange_has_a_file_of_several_names_renamed", || {
        let (_keep, root) = directory();
        let (one, other) = (root.join("one"), root.join("other"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(root.join("secret"), b"secret").unwrap();
        let secret = fs::metadata(root.join("secret")).unwrap().ino();
        let rules = Policy::builder()
            .allow(Rule::beneath(&one).rename().protect_hard_links())
            .allow(Rule::beneath(&other).rename());
        let Some((_service, client, attack)) = attacked(rules.build().unwrap()) else { return };
        let set_up = || {
            for place in [&one, &other] {
                empty(place);
            }
            fs::write(one.join("file"), b"file").unwrap();
            fs::hard_link(root.join("secret"), one.join("private")).unwrap();
            one.clone()
        };
        let check = |when: &str| {
            let moved = fs::metadata(other.join("new")).is_ok_and(|new| new.ino() == secret);
            assert!(!moved, "{when}: the other file was moved");
        };
        at_every_moment(
            &attack,
            &["file"],
            set_up,
            || client.rename(one.join("file"), other.join("new")).is_ok(),
            check,
        );
    });
}

/// D-03: where there are no hard links, objects are renamed by name, but only out of directories to which nobody else
/// can write. Out of others nothing is renamed, and nothing replaced.
#[test]
fn d_03_without_hard_links_rename_is_for_directories_of_ones_own() {
    alone("d_03_without_hard_links_rename_is_for_directories_of_ones_own", || {
        common::refuse(libc::SYS_linkat, &[], libc::EPERM);
        let (_keep, root) = directory();
        let place = root.join("place");
        fs::create_dir(&place).unwrap();
        let (_service, client) =
            served::client(Policy::builder().allow(Rule::beneath(&place).rename()).build().unwrap());
        for (mode, renamed) in [(0o755, true), (0o700, true), (0o775, false), (0o757, false), (0o1777, false)] {
            for replaces in [false, true] {
                empty(&place);
                fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
                fs::write(place.join("old"), b"object").unwrap();
                if replaces {
                    fs::write(place.join("new"), b"replaced").unwrap();
                }
                let before = fs::read_dir(&place).unwrap().count();
                let answer = client.rename(place.join("old"), place.join("new"));
                assert_eq!(answer.is_ok(), renamed, "{mode:o}: {answer:?}");
                if renamed {
                    assert_eq!(fs::read(place.join("new")).unwrap(), b"object");
                    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
                } else {
                    assert_eq!(answer.unwrap_err().refusal().unwrap().errno, libc::EPERM);
                    assert_eq!(fs::read(place.join("old")).unwrap(), b"object");
                    assert_eq!(fs::read(place.join("new")).ok(), replaces.then(|| b"replaced".to_vec()));
                    assert_eq!(fs::read_dir(&place).unwrap().count(), before);
                }
            }
        }
    });
}

/// D-02: where a directory cannot be moved into its place, it is made there, and never with a wider mode.
#[test]
fn d_02_without_renameat2_a_directory_is_never_wider() {
    alone("d_02_without_renameat2_a_directory_is_never_wider", || {
        common::refuse(libc::SYS_renameat2, &[], libc::EINVAL);
        let (_keep, root) = directory();
        let (_service, client) =
            served::client(Policy::builder().allow(Rule::beneath(&root).mkdir(0o755)).build().unwrap());
        for (mask, mode) in [(0o077, 0o700), (0, 0o755), (0o022, 0o755)] {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
            client.mkdir(root.join("new")).unwrap();
            assert_eq!(fs::metadata(root.join("new")).unwrap().mode() & 0o7777, mode);
            assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
            assert_eq!(client.mkdir(root.join("new")).unwrap_err().refusal().unwrap().errno, libc::EEXIST);
            fs::remove_dir(root.join("new")).unwrap();
        }
    });
}

fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
    }
}

/// D-02, D-03: the same with real attackers, of a user of their own, for five seconds: against a broker that may do
/// everything, a directory that is not theirs is not moved out of theirs, nor opened to anybody.
#[test]
fn d_02_d_03_five_seconds_of_attacks_by_another_user() {
    if !common::is_root() {
        return eprintln!("SKIPPED D-02, D-03 by another user: only root can be one");
    }
    alone("d_02_d_03_five_seconds_of_attacks_by_another_user", || {
        let (_keep, root) = directory();
        let (one, other) = (root.join("one"), root.join("other"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::chown(&one, Some(65534), Some(65534)).unwrap();
        private_here(&one);
        let rules = Policy::builder()
            .allow(Rule::file(one.join("file")).rename())
            .allow(Rule::glob(one.join("new*")).mkdir(0o755).rmdir())
            .allow(Rule::beneath(&other).rename())
            .deny(Rule::beneath(one.join("private")));
        let (_service, client) = served::client(rules.build().unwrap());
        let over = AtomicBool::new(false);
        let (mut renamed, mut made) = (0_u64, 0_u64);
        std::thread::scope(|scope| {
            for names in [&["file"][..], &["new"], &["file", "new", ".fdbroker-"]] {
                scope.spawn(|| {
                    be_nobody();
                    while !over.load(Ordering::Relaxed) {
                        exchange_with_private(&one, names);
                    }
                });
            }
            let _end = Over(&over);
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until || renamed == 0 || made == 0 {
                assert!(Instant::now() < until + served::PATIENCE, "{renamed} renamed, {made} made");
                let _ = fs::write(one.join("file"), b"file");
                if client.rename(one.join("file"), other.join("new")).is_ok() {
                    renamed += 1;
                    assert!(fs::symlink_metadata(other.join("new")).unwrap().is_file());
                }
                made += u64::from(client.mkdir(one.join("new")).is_ok());
                let _ = client.rmdir(one.join("new"));
            }
        });
        eprintln!("{renamed} renamed, {made} made");
        assert!(fs::symlink_metadata(other.join("new")).unwrap().is_file());
        let key = place_of_the_key(&one).expect("the directory is where it was");
        assert_eq!(fs::metadata(key).unwrap().mode() & 0o7777, 0o700);
    });
}

fn exchange_with_private(directory: &Path, names: &[&str]) {
    let exchange = |name: &Path| {
        let _ = renameat2(AT_FDCWD, name, AT_FDCWD, &directory.join("private"), RenameFlags::RENAME_EXCHANGE);
    };
    for name in names {
        match *name {
            ".fdbroker-" => {
                let all = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
                all.filter(|path| path.to_str().unwrap().contains(name)).for_each(|path| exchange(&path));
            }
            name => exchange(&directory.join(name)),
        }
    }
}

/// This thread alone: the C library's setresuid would change all of them.
#[allow(unsafe_code, reason = "the system call itself")]
fn be_nobody() {
    // SAFETY: numbers only.
    let status = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(status, 0);
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// D-03: what replaces a file does so in one step: whoever opens the name always finds the one or the other.
#[test]
fn d_03_the_new_name_is_never_absent() {
    let (_keep, root) = directory();
    let (old, new) = (root.join("old"), root.join("new"));
    let policy = Policy::builder().allow(Rule::beneath(&root).rename()).build().unwrap();
    let (_service, client) = served::client(policy);
    fs::write(&new, b"first").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Over(&over);
        let reader = scope.spawn(|| {
            let mut looks = 0_u64;
            while !over.load(Ordering::Relaxed) {
                fs::File::open(&new).expect("the one or the other");
                looks += 1;
            }
            looks
        });
        for _ in 0..500 {
            fs::write(&old, b"next").unwrap();
            client.rename(&old, &new).unwrap();
            assert!(!old.exists());
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

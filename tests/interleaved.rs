//! What happens to a resolution when something else happens in the middle of it. The broker's thread is held at the
//! very system call in question, so each of these races is run once, and always lost or won in the same way.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::served::client;
use common::watched::{Call, Verdict, watched};
use common::{alone, directory, identity, is_root, open_fds, refuse};
use fdbroker::{Client, ClientError, Policy, Resolver, Rule, Service};
use libc::{SYS_newfstatat, SYS_openat, SYS_openat2};

/// `served/a/b/file` and, outside, `outside/secret`.
struct Scene {
    _keep: tempfile::TempDir,
    root: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (keep, root) = directory();
        fs::create_dir_all(root.join("served/a/b")).unwrap();
        fs::create_dir(root.join("outside")).unwrap();
        fs::write(root.join("served/a/b/file"), b"file").unwrap();
        fs::write(root.join("outside/secret"), b"secret").unwrap();
        Self { _keep: keep, root }
    }

    fn file(&self) -> PathBuf {
        self.root.join("served/a/b/file")
    }

    fn new_file(&self) -> PathBuf {
        self.root.join("served/a/b/new")
    }

    /// A worker whose broker may do anything in `served`, and is watched.
    fn client(&self, mut judge: impl FnMut(&Path, &Call) -> Verdict + Send + 'static) -> Option<(Service, Client)> {
        let (root, served) = (self.root.clone(), self.root.join("served"));
        let numbers = [SYS_openat, SYS_openat2, SYS_newfstatat];
        watched(
            &numbers,
            move |call| judge(&root, call),
            move || {
                let rule = Rule::beneath(served).read().write().create(0o600);
                client(Policy::builder().allow(rule).build().unwrap())
            },
        )
    }

    /// As [`client`](Self::client); `when` says the moment, `act` is done once, then, and the broker goes on.
    fn client_when(
        &self,
        when: impl Fn(&Call) -> bool + Send + 'static,
        act: impl FnOnce(&Path) + Send + 'static,
    ) -> Option<(Service, Client)> {
        let mut act = Some(act);
        self.client(move |root, call| {
            if when(call) {
                act.take().into_iter().for_each(|act| act(root));
            }
            Verdict::Go
        })
    }
}

fn rename(root: &Path, from: &str, to: &str) {
    fs::rename(root.join(from), root.join(to)).unwrap();
}

fn content(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[track_caller]
fn failed_with(result: Result<File, ClientError>, errno: i32) {
    assert_eq!(result.unwrap_err().refusal().map(|refusal| refusal.errno), Some(errno));
}

/// The descriptors of this process, the broker's among them, when it has answered everything.
fn held(client: &Client) -> usize {
    client.hello().unwrap();
    open_fds()
}

/// Runs the test in a process where there is no openat2.
fn by_walk(name: &str, body: fn()) {
    alone(name, || {
        refuse(SYS_openat2, &[], libc::ENOSYS);
        body();
    });
}

// --------------------------------------------------------------------------------------------------- renamed
// directories

/// R1-13, K14: a directory that is renamed out of the root while the walk is in it or beneath it. Whatever the moment,
/// nothing of it is handed out, and nothing stays open.
#[test]
fn r1_13_a_directory_renamed_out_in_the_middle_of_a_walk() {
    by_walk("r1_13_a_directory_renamed_out_in_the_middle_of_a_walk", || {
        let moments = [("b", "a"), ("file", "a"), ("file", "a/b")];
        for (at, renamed) in moments {
            let scene = Scene::new();
            let act = move |root: &Path| rename(root, &format!("served/{renamed}"), "outside/moved");
            let Some((_service, client)) = scene.client_when(move |call| call.is(SYS_openat, at), act) else { return };
            let before = held(&client);
            failed_with(client.read(scene.file()), libc::EXDEV);
            assert!(scene.root.join("outside/moved").exists(), "it was renamed");
            failed_with(client.write(scene.file()), libc::ENOENT);
            assert_eq!(held(&client), before);
        }
    });
}

/// R1-13: a directory that is renamed to another depth beneath the root is still beneath it, and so is its file.
#[test]
fn r1_13_a_directory_renamed_within_the_root() {
    by_walk("r1_13_a_directory_renamed_within_the_root", || {
        for to in ["served/c", "served/c/d/e/f"] {
            let scene = Scene::new();
            let act = move |root: &Path| {
                fs::create_dir_all(root.join(to).parent().unwrap()).unwrap();
                rename(root, "served/a/b", to);
            };
            let Some((_service, client)) = scene.client_when(|call| call.is(SYS_openat, "file"), act) else { return };
            assert_eq!(content(client.read(scene.file()).unwrap()), "file");
            assert!(!scene.file().exists(), "it was renamed");
        }
    });
}

/// R1-13: nothing is created in a directory that was renamed out before, and what was created in one that is renamed
/// out at that moment is taken away again.
#[test]
fn r1_13_nothing_stays_created_outside() {
    by_walk("r1_13_nothing_stays_created_outside", || {
        for at in ["b", "new"] {
            let scene = Scene::new();
            let creations = Arc::new(AtomicUsize::new(0));
            let mut act = Some(|root: &Path| rename(root, "served/a", "outside/a"));
            let seen = Arc::clone(&creations);
            let started = scene.client(move |root, call| {
                let creates = call.number == SYS_openat && call.third & libc::O_CREAT as u64 != 0;
                seen.fetch_add(usize::from(creates), Ordering::SeqCst);
                if call.is(SYS_openat, at) {
                    act.take().into_iter().for_each(|act| act(root));
                }
                Verdict::Go
            });
            let Some((_service, client)) = started else { return };
            let before = held(&client);
            failed_with(client.create(scene.new_file()), libc::EXDEV);
            assert_eq!(creations.load(Ordering::SeqCst), usize::from(at == "new"), "at {at}");
            assert_eq!(fs::read_dir(scene.root.join("outside/a/b")).unwrap().count(), 1, "at {at}");
            assert_eq!(held(&client), before);
        }
    });
}

/// R1-13: what somebody else put in the place of the file that was created outside is not the broker's to remove.
#[test]
fn r1_13_only_its_own_file_is_taken_away() {
    by_walk("r1_13_only_its_own_file_is_taken_away", || {
        let scene = Scene::new();
        let mut created = false;
        let started = scene.client(move |root, call| {
            if call.is(SYS_openat, "new") {
                created = true;
                rename(root, "served/a", "outside/a");
            } else if created && call.is(SYS_newfstatat, "../../") {
                rename(root, "outside/secret", "outside/a/b/new");
            }
            Verdict::Go
        });
        let Some((_service, client)) = started else { return };
        failed_with(client.create(scene.new_file()), libc::EXDEV);
        assert_eq!(fs::read(scene.root.join("outside/a/b/new")).unwrap(), b"secret");
    });
}

/// R1-13, K43: a directory that is outside while the secret is put into it, and inside again, without the secret, when
/// the walk asks where it is. The descriptor that is held then is the secret's; it is not handed out.
#[test]
fn r1_13_a_directory_that_comes_back_in_time() {
    by_walk("r1_13_a_directory_that_comes_back_in_time", || {
        let scene = Scene::new();
        let secret = identity(File::open(scene.root.join("outside/secret")).unwrap());
        let mut step = 0;
        let opened_secret = Arc::new(AtomicUsize::new(0));
        let opened = Arc::clone(&opened_secret);
        let started = scene.client(move |root, call| {
            if step == 0 && call.is(SYS_openat, "file") {
                step = 1;
                rename(root, "served/a/b", "outside/b");
                rename(root, "outside/b/file", "outside/kept");
                rename(root, "outside/secret", "outside/b/file");
            } else if step == 1 && call.is(SYS_newfstatat, "../../") {
                step = 2;
                opened.store(1, Ordering::SeqCst);
                rename(root, "outside/b/file", "outside/secret");
                rename(root, "outside/kept", "outside/b/file");
                rename(root, "outside/b", "served/a/b");
            }
            Verdict::Go
        });
        let Some((_service, client)) = started else { return };
        let before = held(&client);
        let granted = client.read(scene.file()).unwrap();
        assert_eq!(opened_secret.load(Ordering::SeqCst), 1, "the walk had the secret");
        assert_ne!(identity(&granted), secret);
        assert_eq!(content(granted), "file");
        assert_eq!(held(&client), before);
    });
}

/// R1-13, K43: a directory that comes and goes twice, so that each question about it gets the answer that suits, is
/// found out by asking both again.
#[test]
fn r1_13_a_directory_that_comes_and_goes() {
    by_walk("r1_13_a_directory_that_comes_and_goes", || {
        let scene = Scene::new();
        let mut moments = [(SYS_openat, "file"), (SYS_newfstatat, "../../"), (SYS_newfstatat, "file")].into_iter();
        let mut next = moments.next();
        let mut is_out = false;
        let passed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&passed);
        let started = scene.client(move |root, call| {
            if next.is_some_and(|(number, path)| call.is(number, path)) {
                next = moments.next();
                count.fetch_add(1, Ordering::SeqCst);
                let steps = [
                    ("served/a/b", "outside/b"),
                    ("outside/b/file", "outside/kept"),
                    ("outside/secret", "outside/b/file"),
                ];
                if is_out {
                    steps.iter().rev().for_each(|(from, to)| rename(root, to, from));
                } else {
                    steps.iter().for_each(|(from, to)| rename(root, from, to));
                }
                is_out = !is_out;
            }
            Verdict::Go
        });
        let Some((_service, client)) = started else { return };
        let before = held(&client);
        failed_with(client.read(scene.file()), libc::EXDEV);
        assert_eq!(passed.load(Ordering::SeqCst), 3);
        assert_eq!(held(&client), before);
    });
}

// ------------------------------------------------------------------------------------------------- answers of the
// kernel

/// The worker of a scene whose openat2 of `path`, and no other, is answered so as long as `answers` has any.
fn answered(scene: &Scene, answers: Vec<i32>) -> Option<(Service, Client, Arc<AtomicUsize>)> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let mut answers = answers.into_iter();
    let (service, client) = scene.client(move |_, call| {
        if !call.is(SYS_openat2, "a/b/file") {
            return Verdict::Go;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        answers.next().map_or(Verdict::Go, Verdict::Fail)
    })?;
    Some((service, client, asked))
}

/// R1-08: EAGAIN is asked again a bounded number of times. Then it is the answer, nothing is open, and the next request
/// is served.
#[test]
fn r1_08_eagain_is_retried_a_bounded_number_of_times() {
    alone("r1_08_eagain_is_retried_a_bounded_number_of_times", || {
        for errno in [libc::EAGAIN, libc::EINTR] {
            let scene = Scene::new();
            let Some((_service, client, asked)) = answered(&scene, vec![errno; 100]) else { return };
            let before = held(&client);
            failed_with(client.read(scene.file()), libc::EAGAIN);
            assert_eq!(asked.load(Ordering::SeqCst), 64);
            client.create(scene.new_file()).unwrap();
            assert_eq!(held(&client), before);
        }
    });
}

/// R1-08: EAGAIN that passes is never seen by the worker.
#[test]
fn r1_08_eagain_that_passes_is_not_an_answer() {
    alone("r1_08_eagain_that_passes_is_not_an_answer", || {
        let scene = Scene::new();
        let answers = vec![libc::EAGAIN, libc::EINTR, libc::EAGAIN];
        let Some((_service, client, asked)) = answered(&scene, answers) else { return };
        assert_eq!(content(client.read(scene.file()).unwrap()), "file");
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    });
}

/// R1-08: so with the walk, which has renames elsewhere to retry as well: a file that is replaced at each try is EAGAIN
/// in the end, one that is replaced thrice is opened.
#[test]
fn r1_08_the_walk_retries_a_bounded_number_of_times() {
    by_walk("r1_08_the_walk_retries_a_bounded_number_of_times", || {
        for (replacements, errno) in [(3, None), (1000, Some(libc::EAGAIN))] {
            let scene = Scene::new();
            let opened = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&opened);
            let mut left = replacements;
            let started = scene.client(move |root, call| {
                seen.fetch_add(usize::from(call.is(SYS_openat, "file")), Ordering::SeqCst);
                if left > 0 && call.is(SYS_newfstatat, "file") {
                    left -= 1;
                    fs::write(root.join("served/next"), b"next").unwrap();
                    rename(root, "served/next", "served/a/b/file");
                }
                Verdict::Go
            });
            let Some((_service, client)) = started else { return };
            let before = held(&client);
            match (client.read(scene.file()), errno) {
                (granted, None) => assert_eq!(content(granted.unwrap()), "next"),
                (refused, Some(errno)) => failed_with(refused, errno),
            }
            assert_eq!(opened.load(Ordering::SeqCst), if errno.is_none() { 4 } else { 64 });
            assert_eq!(held(&client), before);
        }
    });
}

/// R1-07: an errno about one file that could be taken for "there is no openat2" is that request's answer, and the next
/// file is opened by openat2 as before.
#[test]
fn r1_07_one_files_errno_does_not_downgrade() {
    alone("r1_07_one_files_errno_does_not_downgrade", || {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
            let scene = Scene::new();
            fs::write(scene.root.join("served/a/b/other"), b"other").unwrap();
            let calls = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&calls);
            let started = scene.client(move |_, call| {
                if call.path.ends_with(b"other") || call.path.ends_with(b"file") {
                    seen.lock().unwrap().push((call.number, String::from_utf8(call.path.clone()).unwrap()));
                }
                if call.is(SYS_openat2, "a/b/file") { Verdict::Fail(errno) } else { Verdict::Go }
            });
            let Some((_service, client)) = started else { return };
            failed_with(client.read(scene.file()), errno);
            assert_eq!(content(client.read(scene.root.join("served/a/b/other")).unwrap()), "other");
            let expected = ["a/b/file", "a/b/other"].map(|path| (SYS_openat2, path.to_owned()));
            assert_eq!(*calls.lock().unwrap(), expected);
        }
    });
}

/// R1-07: the same of a file that this process may really not open, which only an ordinary user has.
#[test]
fn r1_07_a_forbidden_file_does_not_downgrade() {
    use std::os::unix::fs::PermissionsExt;
    if is_root() {
        eprintln!("SKIPPED R1-07 with a file of mode 0: root may open it");
        return;
    }
    let scene = Scene::new();
    fs::write(scene.root.join("served/other"), b"other").unwrap();
    fs::set_permissions(scene.file(), fs::Permissions::from_mode(0o000)).unwrap();
    let policy = Arc::new(Policy::builder().allow(Rule::beneath(scene.root.join("served")).read()).build().unwrap());
    let (_service, client) = common::served::client_of(&fdbroker::Broker::new(), Arc::clone(&policy));
    failed_with(client.read(scene.file()), libc::EACCES);
    assert_eq!(policy.resolver(), Some(Resolver::Openat2));
    assert_eq!(io::read_to_string(client.read(scene.root.join("served/other")).unwrap()).unwrap(), "other");
}

//! Proves that the component walk answers what openat2(2) answers: the same object or the same errno, for random trees
//! and names, with each option of a rule about the way. One broker has openat2 and one, in a thread where a filter
//! refuses it, has not; both are asked the same.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use common::served::{PATIENCE, client};
use common::{directory, identity, refuse_in_this_thread};
use fdbroker::wire::Refusal;
use fdbroker::{Client, ClientError, Policy, Resolver, Rule, Service};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// R1-06: the same answers, whatever the tree and the name, and more than one kind of them.
#[test]
fn r1_06_both_resolvers_give_the_same_answers() {
    let seen = RefCell::new(BTreeMap::new());
    // The seed of a failure is printed by its message; nothing is kept beside this file.
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let trees = prop::collection::vec((components(), entry()), 1..40);
    let names = prop::collection::vec(components(), 30);
    TestRunner::new(config)
        .run(&(trees, names), |(tree, names)| {
            compare(&tree, &names, &mut seen.borrow_mut());
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("answers: {seen:?}");
    for answer in [0, libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EXDEV, libc::EEXIST, libc::EISDIR] {
        assert!(seen.contains_key(&answer), "errno {answer} was never the answer");
    }
}

/// R1-06: what random trees hardly ever have. Forty links are followed, one more is not.
#[test]
fn r1_06_both_resolvers_count_links_alike() {
    let (_keep, root) = directory();
    fs::create_dir(root.join("directory")).unwrap();
    fs::write(root.join("directory/0"), b"file").unwrap();
    for number in 1..=41 {
        symlink((number - 1).to_string(), root.join(format!("directory/{number}"))).unwrap();
    }
    symlink("directory", root.join("way")).unwrap();
    for both in Both::of_each_way(&root) {
        for (name, errno) in
            [("directory/40", 0), ("directory/41", libc::ELOOP), ("way/39", 0), ("way/40", libc::ELOOP)]
        {
            let answer = both.agree(&root.join(name), Client::read);
            assert_eq!(answer, if both.follows { errno } else { libc::ELOOP }, "{name}");
        }
    }
}

/// R1-06: deeper than the walk asks its way back in one call, and as long as a path can be.
#[test]
fn r1_06_both_resolvers_go_as_deep() {
    let (_keep, root) = directory();
    let mut path = root.clone();
    while path.as_os_str().len() < 4000 {
        path.push("d");
        fs::create_dir(&path).unwrap();
    }
    let last = path.join("f".repeat(4095 - path.as_os_str().len() - 1));
    for both in Both::of_each_way(&root) {
        assert_eq!(both.agree(&last, Client::create), 0);
        fs::write(&last, b"deep").unwrap();
        assert_eq!(both.agree(&last, Client::read), 0);
        assert_eq!(both.agree(&path, Client::write), libc::EISDIR);
        fs::remove_file(&last).unwrap();
    }
}

/// R1-06: dots in the text of a link want a directory that may be searched, as names do.
#[test]
fn r1_06_both_resolvers_search_no_closed_directory() {
    if common::is_root() {
        eprintln!("SKIPPED R1-06 with directories that may not be searched: root may search them all");
        return;
    }
    let (_keep, root) = directory();
    fs::write(root.join("file"), b"file").unwrap();
    for (name, mode) in [("closed", 0o600), ("hidden", 0o100)] {
        fs::create_dir(root.join(name)).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        for (link, text) in [("back", "../file"), ("here", "."), ("both", "./../file")] {
            symlink(format!("{name}/{text}"), root.join(format!("{name}-{link}"))).unwrap();
        }
    }
    for both in Both::of_each_way(&root).into_iter().filter(|both| both.follows) {
        for (name, errno) in [
            ("closed-back", libc::EACCES),
            ("closed-both", libc::EACCES),
            ("closed/x", libc::EACCES),
            ("hidden-back", 0),
            ("hidden-both", 0),
            ("hidden/x", libc::ENOENT),
        ] {
            assert_eq!(both.agree(&root.join(name), Client::read), errno, "{name}");
        }
        for name in ["closed-here", "hidden-here"] {
            assert_eq!(both.agree(&root.join(name), Client::read), libc::EACCES, "{name}");
        }
    }
    // So that they can be deleted.
    for name in ["closed", "hidden"] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

// ------------------------------------------------------------------------------------------------------------- the
// trees

/// One to four of four names, so that they meet what is there.
fn components() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&["a", "b", "c", "d"][..]), 1..5).prop_map(|names| names.join("/"))
}

#[derive(Debug, Clone)]
enum Entry {
    Directory,
    /// Which may not be searched, or not be listed; root may.
    Closed(u32),
    File,
    Fifo,
    Link(&'static str),
}

fn entry() -> impl Strategy<Value = Entry> {
    let texts = [
        "a",
        "b",
        "c",
        "d",
        "a/b",
        "b//c",
        "../a",
        "../b/c",
        "../../d",
        ".",
        "..",
        "./a",
        "a/",
        "b/.",
        "c/..",
        "d/../a",
        "a/../../b/./c//",
        "../../../..",
        "/",
        "/etc",
        "missing",
        "missing/",
        "a/missing",
    ];
    prop_oneof![
        5 => Just(Entry::Directory),
        1 => prop::sample::select(&[0o444, 0o111, 0][..]).prop_map(Entry::Closed),
        3 => Just(Entry::File),
        1 => Just(Entry::Fifo),
        6 => prop::sample::select(texts.to_vec()).prop_map(Entry::Link),
    ]
}

/// What cannot be made where it is asked for is left out, and so is what a link would lead to: out of the tree, maybe.
fn make(root: &Path, tree: &[(String, Entry)]) {
    let mut closed = Vec::new();
    for (name, entry) in tree {
        let path = root.join(name);
        let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| *parent != root).collect();
        if parents.iter().any(|parent| parent.is_symlink()) {
            continue;
        }
        let _ = fs::create_dir_all(path.parent().unwrap());
        let _ = match entry {
            Entry::Directory => fs::create_dir(&path),
            Entry::Closed(mode) => fs::create_dir(&path).map(|()| closed.push((path, *mode))),
            Entry::File => File::create_new(&path).map(drop),
            Entry::Fifo => mkfifo(&path, Mode::S_IRWXU).map_err(Into::into),
            Entry::Link(text) => symlink(text, &path),
        };
    }
    // The deepest first. Afterwards the directory must be removable again: see `open_up`.
    closed.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
    for (path, mode) in closed {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    }
}

fn open_up(root: &Path) {
    let _ = fs::set_permissions(root, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(root).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            open_up(&entry.path());
        }
    }
}

// ----------------------------------------------------------------------------------------------------------- the
// answers

type Verb = fn(&Client, PathBuf) -> Result<File, ClientError>;

/// The mode of files that `create` makes, and no others: they are not made to be executed.
const CREATED: u32 = 0o711;

/// Two brokers with the same policy.
struct Both {
    openat2: (Service, Client),
    walk: (Service, Client),
    follows: bool,
}

impl Both {
    /// For each combination of a rule's options.
    fn of_each_way(root: &Path) -> Vec<Self> {
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        ways.iter().map(|&(follows, stays)| Self::new(root, follows, stays)).collect()
    }

    fn new(root: &Path, follows: bool, stays: bool) -> Self {
        let root = root.to_owned();
        let start = move |resolver| {
            let mut rule = Rule::beneath(&root).read().write().append().create(CREATED);
            rule = if follows { rule.follow_links_within() } else { rule };
            rule = if stays { rule.one_file_system() } else { rule };
            let policy = Policy::builder().allow(rule).build().unwrap();
            assert_eq!(policy.resolver(), Some(resolver));
            client(policy)
        };
        let openat2 = start(Resolver::Openat2);
        let without = move || {
            refuse_in_this_thread(libc::SYS_openat2, libc::ENOSYS);
            start(Resolver::Walk)
        };
        Self { openat2, walk: thread::spawn(without).join().unwrap(), follows }
    }

    /// The errno that both answer, or 0 for one object that both open. What is created is removed.
    #[track_caller]
    fn agree(&self, path: &Path, verb: Verb) -> i32 {
        let ask = |client: &Client| {
            let file = certain(|| verb(client, path.to_owned()))?;
            let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            let is_new = self.was_missing(&place, &file);
            if is_new {
                fs::remove_file(&place).unwrap();
            }
            Ok((place, if is_new { None } else { Some(identity(file)) }))
        };
        let (one, other) = (ask(&self.openat2.1), ask(&self.walk.1));
        assert_eq!(one, other, "{} (links followed: {})", path.display(), self.follows);
        one.map_or_else(|refusal: Refusal| refusal.errno, |_| 0)
    }

    fn was_missing(&self, place: &Path, file: &File) -> bool {
        place.exists() && file.metadata().unwrap().permissions().mode() & 0o777 == CREATED
    }
}

/// The answer, once it is certain (K13): while somebody else on this machine renames, the kernel can be unsure of each
/// of a loop's `..` for as often as the resolver asks.
fn certain(ask: impl Fn() -> Result<File, ClientError>) -> Result<File, Refusal> {
    let begun = Instant::now();
    loop {
        let answer = ask().map_err(|error| error.refusal().expect("an answer"));
        let unsure = answer.as_ref().is_err_and(|refusal| refusal.errno == libc::EAGAIN);
        if !unsure || begun.elapsed() > PATIENCE {
            return answer;
        }
    }
}

fn compare(tree: &[(String, Entry)], names: &[String], seen: &mut BTreeMap<i32, usize>) {
    let (_keep, root) = directory();
    make(&root, tree);
    for both in Both::of_each_way(&root) {
        for name in names {
            let path = root.join(name);
            let verbs: [Verb; 4] = [Client::read, Client::write, Client::append, Client::create];
            for verb in verbs {
                *seen.entry(both.agree(&path, verb)).or_default() += 1;
            }
        }
    }
    open_up(&root);
}

//! Proves what a rule says beyond its path and its rights: other file systems, hard links, links inside, a root that is
//! looked up anew; and which rules about /proc are none. With openat2, and where a filter keeps it away.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use common::mounts::{Mounted, own_mounts};
use common::served::{self, client};
use common::{directory, identity, open_fds};
use fdbroker::Resolver;
use fdbroker::policy::{FileKind, FileRule};
use fdbroker::wire::{Reason, SocketType};
use fdbroker::{Client, ClientError, Policy, PolicyError, Rule};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

#[track_caller]
fn refusal<T>(result: Result<T, ClientError>) -> (Reason, i32) {
    let refusal = result.map(drop).unwrap_err().refusal().unwrap();
    (refusal.reason, refusal.errno)
}

fn failed(errno: i32) -> (Reason, i32) {
    (Reason::Failed, errno)
}

fn text(file: Result<File, ClientError>) -> String {
    io::read_to_string(file.unwrap()).unwrap()
}

const DENIED: (Reason, i32) = (Reason::Denied, libc::EACCES);
const NOT_OF_THE_KIND: (Reason, i32) = (Reason::Kind, libc::EACCES);

/// Everything that a rule can grant by name.
fn everything(rule: FileRule) -> FileRule {
    let rule = rule.read().write().append().truncate().create(0o600).list().stat().readlink().mkdir(0o700);
    let sockets = [SocketType::Stream];
    rule.unlink().rmdir().rename().connect(sockets).listen(sockets, 0o600).bind(0o600)
}

/// Runs the test `name` in processes of its own: with openat2, and with two ways not to have it.
fn with_each_resolver(name: &str, body: impl FnOnce()) {
    const ROLES: [(&str, i32); 3] = [("openat2", 0), ("ENOSYS", libc::ENOSYS), ("EPERM", libc::EPERM)];
    let Some(role) = common::role() else {
        return ROLES.into_iter().for_each(|(role, _)| common::passes(common::rerun(name, role)));
    };
    nix::unistd::alarm::set(120);
    let (_, errno) = ROLES.into_iter().find(|(known, _)| *known == role).unwrap();
    if errno != 0 {
        common::refuse(libc::SYS_openat2, &[], errno);
    }
    let resolver = policy(Rule::beneath("/usr").read()).resolver();
    if errno == 0 && resolver == Some(Resolver::Walk) {
        return eprintln!("SKIPPED {name} with openat2: it is not to be had here");
    }
    assert_eq!(resolver, Some(if errno == 0 { Resolver::Openat2 } else { Resolver::Walk }));
    body();
}

/// R1-10: a rule for one file system does not go into another that is mounted inside, nor into another part of its own
/// that is, nor through a file that is mounted upon; not for a single right. Without the option all of it is served.
#[test]
fn r1_10_one_file_system() {
    with_each_resolver("r1_10_one_file_system", || {
        let (keep, root) = directory();
        let (elsewhere, served) = (root.join("elsewhere"), root.join("served"));
        for path in ["elsewhere", "served/tmpfs", "served/bound", "served/plain"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["served/file", "served/plain/file", "elsewhere/file", "elsewhere/upon"] {
            fs::write(root.join(path), path).unwrap();
        }
        fs::write(served.join("upon"), b"beneath").unwrap();
        let bind = |from: &Path, to: &str| Mounted::again(&keep, from, &served.join(to));
        let all = |()| {
            let tmpfs = Mounted::of_kind(&keep, &served.join("tmpfs"), "tmpfs", MsFlags::empty(), None)?;
            Ok([tmpfs, bind(&elsewhere, "bound")?, bind(&elsewhere.join("upon"), "upon")?])
        };
        let _mounted = match own_mounts().and_then(all) {
            Ok(mounted) => mounted,
            Err(error) => return eprintln!("SKIPPED R1-10: mounting is not permitted here: {error}"),
        };
        let [tmpfs, bound] = ["tmpfs", "bound"].map(|name| served.join(name));
        for place in [&tmpfs, &bound] {
            fs::create_dir_all(place.join("deep/empty")).unwrap();
            fs::write(place.join("file"), b"of another mount").unwrap();
            symlink("file", place.join("link")).unwrap();
        }
        let rule = || everything(Rule::beneath(&served));
        let (_service, client) = client(policy(rule().one_file_system()));
        client.hello().unwrap();
        let before = open_fds();
        for place in [&tmpfs, &bound] {
            for path in [place.join("file"), place.join("link"), place.join("deep/new"), place.join("deep/empty")] {
                let ours = served.join("file");
                for (what, result) in everything_asked(&client, &path, &ours) {
                    let what = format!("{what} {}", path.display());
                    assert_eq!(refusal(result), failed(libc::EXDEV), "{what}");
                }
            }
            for result in [client.stat(place).map(drop), client.list(place).map(drop)] {
                assert_eq!(refusal(result), failed(libc::EXDEV), "the place that is mounted upon");
            }
            // The name is the rule's own, and no mount is taken away by it.
            assert_eq!(refusal(client.rmdir(place)), failed(libc::EBUSY));
            assert_eq!(fs::read(place.join("file")).unwrap(), b"of another mount");
            assert!(place.join("deep/empty").exists() && !place.join("deep/new").exists());
        }
        let upon = served.join("upon");
        let truncating = client.open_options().write(true).truncate(true).create(true);
        for result in [client.read(&upon), client.write(&upon), client.append(&upon), truncating.open(&upon)] {
            assert_eq!(refusal(result), failed(libc::EXDEV));
        }
        assert_eq!(refusal(client.stat(&upon)), failed(libc::EXDEV));
        assert_eq!(refusal(client.unlink(&upon)), failed(libc::EBUSY));
        assert_eq!(fs::read(&upon).unwrap(), b"elsewhere/upon");

        assert_eq!(text(client.read(served.join("plain/file"))), "served/plain/file");
        client.create(served.join("plain/new")).unwrap();
        client.rename(served.join("plain/new"), served.join("plain/newer")).unwrap();
        assert_eq!(client.list(&served).unwrap().len(), 5, "names are names");
        client.hello().unwrap();
        assert_eq!(open_fds(), before);

        // Exact rules and patterns too; and without the option all is served.
        let keeping = Policy::builder()
            .allow(Rule::file(&upon).read().one_file_system())
            .allow(Rule::glob(served.join("tm*/file")).read().one_file_system());
        let (_service, client) = served::client(keeping.build().unwrap());
        assert_eq!(refusal(client.read(&upon)), failed(libc::EXDEV));
        assert_eq!(refusal(client.read(tmpfs.join("file"))), failed(libc::EXDEV));
        let (_service, client) = served::client(policy(rule()));
        for place in [&tmpfs, &bound] {
            assert_eq!(text(client.read(place.join("file"))), "of another mount");
            client.create(place.join("deep/new")).unwrap();
            assert_eq!(client.stat(place).unwrap().inode, fs::metadata(place).unwrap().ino());
        }
        assert_eq!(text(client.read(&upon)), "elsewhere/upon");
    });
}

/// One request for each right, about `path`. `ours` is where a renaming leads to or comes from.
fn everything_asked(client: &Client, path: &Path, ours: &Path) -> Vec<(&'static str, Result<(), ClientError>)> {
    let both = client.open_options().write(true).truncate(true).create(true);
    vec![
        ("read", client.read(path).map(drop)),
        ("write", client.write(path).map(drop)),
        ("append", client.append(path).map(drop)),
        ("create", client.create(path).map(drop)),
        ("truncate", both.open(path).map(drop)),
        ("list", client.list(path).map(drop)),
        ("stat", client.stat(path).map(drop)),
        ("readlink", client.readlink(path).map(drop)),
        ("mkdir", client.mkdir(path)),
        ("unlink", client.unlink(path)),
        ("rmdir", client.rmdir(path)),
        ("rename from", client.rename(path, ours)),
        ("rename to", client.rename(ours, path)),
        ("connect", client.unix_connect(path).map(drop)),
        ("listen", client.unix_listen(path).map(drop)),
        ("bind", client.unix_bind(path).map(drop)),
    ]
}

/// R1-12: a file that has a second name is refused where the rule says so, in whichever way it is to be opened; nothing
/// is written to it. Without the option, and when the other name is gone, it is granted.
#[test]
fn r1_12_protect_hard_links() {
    with_each_resolver("r1_12_protect_hard_links", || {
        let (_keep, root) = directory();
        let served = root.join("served");
        fs::create_dir(&served).unwrap();
        let (secret, name) = (root.join("secret"), served.join("name"));
        fs::write(&secret, b"secret").unwrap();
        let rules = || {
            let of = [Rule::beneath(&served), Rule::file(&name), Rule::glob(served.join("n*"))];
            of.map(|rule| rule.read().write().append().truncate().create(0o600))
        };
        for (rule, plain) in rules().map(FileRule::protect_hard_links).into_iter().zip(rules()) {
            fs::hard_link(&secret, &name).unwrap();
            let (service, client) = client(policy(rule));
            let options = || client.open_options();
            client.hello().unwrap();
            let before = open_fds();
            let opened = [
                client.read(&name),
                client.write(&name),
                client.append(&name),
                options().read(true).write(true).open(&name),
                options().write(true).truncate(true).open(&name),
                options().write(true).truncate(true).create(true).open(&name),
                options().append(true).create(true).open(&name),
            ];
            for opened in opened {
                assert_eq!(refusal(opened), NOT_OF_THE_KIND);
            }
            client.hello().unwrap();
            assert_eq!(open_fds(), before);
            assert_eq!(fs::read(&secret).unwrap(), b"secret");
            let (unprotecting, unprotected) = served::client(policy(plain));
            assert_eq!(identity(unprotected.read(&name).unwrap()), identity(File::open(&secret).unwrap()));
            drop(unprotected);
            served::ended(unprotecting).unwrap();

            fs::remove_file(&name).unwrap();
            client.create(&name).unwrap();
            client.read(&name).unwrap();
            fs::hard_link(&name, root.join("second")).unwrap();
            assert_eq!(refusal(client.read(&name)), NOT_OF_THE_KIND);
            fs::remove_file(root.join("second")).unwrap();
            client.read(&name).unwrap();
            fs::remove_file(&name).unwrap();
            drop(client);
            served::ended(service).unwrap();
        }

        // It is about regular files: what else has two names has no bytes of its own.
        let fifo = served.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        fs::hard_link(&fifo, served.join("again")).unwrap();
        let rule = Rule::beneath(&served).read().kinds([FileKind::Fifo]).protect_hard_links();
        let (_service, client) = client(policy(rule));
        client.read(&fifo).unwrap();
    });
}

/// R1-11: a rule that looks its directory up anew serves the one that has the name by now; any other rule serves the
/// one that it meant when the policy was built.
#[test]
fn r1_11_reopened_roots_follow_their_name() {
    with_each_resolver("r1_11_reopened_roots_follow_their_name", || {
        let (_keep, root) = directory();
        let current = root.join("current");
        let release = |name: &str| {
            let place = root.join(name);
            fs::create_dir(&place).unwrap();
            fs::write(place.join("file"), name).unwrap();
            place
        };
        let first = release("first");
        fs::rename(&first, &current).unwrap();
        let file = current.join("file");
        let rules = || [Rule::beneath(&current), Rule::file(&file), Rule::glob(current.join("fil?"))];
        let pinned: Vec<_> = rules().map(|rule| client(policy(everything(rule)))).into();
        let anew: Vec<_> = rules().map(|rule| client(policy(everything(rule).reopen_root()))).into();
        // Whoever answers has closed what it granted before.
        let settled = || pinned.iter().chain(&anew).for_each(|(_, client)| client.hello().unwrap());
        settled();
        let before = open_fds();
        for name in ["second", "third"] {
            let next = release(name);
            fs::rename(&current, root.join(format!("before-{name}"))).unwrap();
            for (_, client) in &anew {
                assert_eq!(refusal(client.read(&file)), failed(libc::ENOENT));
                assert_eq!(refusal(client.unlink(&file)), failed(libc::ENOENT));
            }
            fs::rename(&next, &current).unwrap();
            for (_, client) in &anew {
                assert_eq!(text(client.read(&file)), name);
                assert_eq!(client.stat(&file).unwrap().inode, fs::metadata(&file).unwrap().ino());
            }
            for (_, client) in &pinned {
                assert_eq!(text(client.read(&file)), "first");
            }
        }
        // By a link as well: it is the path as it is then.
        fs::rename(&current, root.join("last")).unwrap();
        symlink(release("linked"), &current).unwrap();
        for (_, client) in &anew {
            assert_eq!(text(client.read(&file)), "linked");
        }
        assert_eq!(anew[0].1.list(&current).unwrap().len(), 1);
        anew[0].1.create(current.join("new")).unwrap();
        assert!(root.join("linked/new").exists());
        settled();
        assert_eq!(open_fds(), before);
    });
}

/// R1-05: a root that is looked up anew and leads into /proc by now is refused, whatever is asked of it.
#[test]
fn r1_05_a_reopened_root_never_leads_into_proc() {
    with_each_resolver("r1_05_a_reopened_root_never_leads_into_proc", || {
        let (_keep, root) = directory();
        let current = root.join("current");
        fs::create_dir(&current).unwrap();
        fs::write(root.join("ours"), b"").unwrap();
        let rules = [
            Rule::beneath(&current),
            Rule::beneath(&current).one_file_system(),
            Rule::glob(current.join("*")),
            Rule::file(current.join("environ")),
        ];
        let own = format!("/proc/{}", std::process::id());
        for rule in rules {
            let rules =
                Policy::builder().allow(everything(rule).reopen_root()).allow(Rule::file(root.join("ours")).rename());
            let (service, client) = client(rules.build().unwrap());
            assert_eq!(refusal(client.read(current.join("environ"))), failed(libc::ENOENT));
            client.hello().unwrap();
            let before = open_fds();
            fs::remove_dir(&current).unwrap();
            for target in ["/proc/self", &own, "/proc/self/task/../", "/proc/thread-self"] {
                symlink(target, &current).unwrap();
                assert!(fs::read(current.join("environ")).is_ok() || target.ends_with('/'), "it leads there: {target}");
                for (what, result) in everything_asked(&client, &current.join("environ"), &root.join("ours")) {
                    assert_eq!(refusal(result), failed(libc::EACCES), "{what}, {target}");
                }
                fs::remove_file(&current).unwrap();
            }
            client.hello().unwrap();
            assert_eq!(open_fds(), before);
            fs::create_dir(&current).unwrap();
            drop(client);
            served::ended(service).unwrap();
        }
    });
}

/// R1-01: links that stay inside are followed where a rule says so; absolute ones, those that lead out, and circles are
/// not; and what is asked about a link itself is.
#[test]
fn r1_01_links_that_stay_inside_are_followed_where_a_rule_says_so() {
    with_each_resolver("r1_01_links_that_stay_inside_are_followed_where_a_rule_says_so", || {
        let (_keep, root) = directory();
        let served = root.join("served");
        fs::create_dir_all(served.join("real/deeper")).unwrap();
        fs::create_dir(root.join("outside")).unwrap();
        for path in ["outside/file", "served/file", "served/real/file", "served/real/deeper/file"] {
            fs::write(root.join(path), path).unwrap();
        }
        let links = [
            ("to-file", "real/file"),
            ("to-directory", "real"),
            ("chain", "to-directory/deeper"),
            ("real/up", "../file"),
            ("real/deeper/far", "../../real/deeper/../file"),
            ("dots", "./real/./file"),
            ("absolute", served.join("file").to_str().unwrap()),
            ("out", "../outside/file"),
            ("out-directory", "../outside"),
            ("out-and-in", "../served/file"),
            ("real/deeper/out", "../../../outside/file"),
            ("chained-out", "out-directory/file"),
            ("circle", "elcric"),
            ("elcric", "circle"),
            ("self", "self/file"),
            ("dangling", "nowhere"),
        ]
        .map(|(name, target)| (name.to_owned(), target.to_owned()));
        for (name, target) in &links {
            symlink(target, served.join(name)).unwrap();
        }
        let (_service, client) = client(policy(everything(Rule::beneath(&served)).follow_links_within()));
        client.hello().unwrap();
        let before = open_fds();
        let inside = [
            ("to-file", "served/real/file"),
            ("to-directory/file", "served/real/file"),
            ("chain/file", "served/real/deeper/file"),
            ("real/up", "served/file"),
            ("to-directory/up", "served/file"),
            ("chain/far", "served/real/file"),
            ("dots", "served/real/file"),
        ];
        for (name, expected) in inside {
            assert_eq!(text(client.read(served.join(name))), expected, "{name}");
        }
        let outward = [
            ("absolute", libc::EXDEV),
            ("out", libc::EXDEV),
            ("out-directory/file", libc::EXDEV),
            ("out-and-in", libc::EXDEV),
            ("real/deeper/out", libc::EXDEV),
            ("chained-out", libc::EXDEV),
            ("chain/out", libc::EXDEV),
            ("circle", libc::ELOOP),
            ("self", libc::ELOOP),
            ("dangling", libc::ENOENT),
        ];
        for (name, errno) in outward {
            let path = served.join(name);
            for opened in [client.read(&path), client.write(&path), client.append(&path)] {
                assert_eq!(refusal(opened), failed(errno), "{name}");
            }
        }
        assert_eq!(refusal(client.create(served.join("out-directory/new"))), failed(libc::EXDEV));
        assert_eq!(refusal(client.mkdir(served.join("out-directory/new"))), failed(libc::EXDEV));
        assert_eq!(refusal(client.unlink(served.join("out-directory/file"))), failed(libc::EXDEV));
        let (ours, theirs) = (served.join("file"), served.join("out-directory/file"));
        assert_eq!(refusal(client.rename(&theirs, &ours)), failed(libc::EXDEV));
        assert_eq!(refusal(client.rename(&ours, &theirs)), failed(libc::EXDEV));
        assert_eq!(refusal(client.create(served.join("dangling"))), failed(libc::EEXIST));
        assert!(!served.join("nowhere").exists());
        assert_eq!(fs::read_dir(root.join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read(root.join("outside/file")).unwrap(), b"outside/file");

        for (name, target) in &links {
            let path = served.join(name);
            assert_eq!(client.readlink(&path).unwrap(), Path::new(target), "{name}");
            assert_eq!(client.stat(&path).unwrap().inode, fs::symlink_metadata(&path).unwrap().ino(), "{name}");
        }
        assert_eq!(client.list(served.join("chain")).unwrap().len(), 3);
        client.create(served.join("chain/new")).unwrap();
        assert!(served.join("real/deeper/new").exists());
        client.rename(served.join("chain/new"), served.join("to-directory/newer")).unwrap();
        client.unlink(served.join("to-file")).unwrap();
        assert!(!served.join("to-file").exists() && served.join("real/newer").exists());
        assert_eq!(text(client.read(served.join("real/file"))), "served/real/file");
        client.hello().unwrap();
        assert_eq!(open_fds(), before);
    });
}

/// M-06: links are followed beneath directories alone, and beneath none of which another rule says something else of a
/// part: the error names where both were written.
#[test]
fn m_06_links_lead_around_no_other_rule() {
    let (_keep, root) = directory();
    let tree = root.join("tree");
    fs::create_dir_all(tree.join("part")).unwrap();
    fs::create_dir(root.join("tree-like")).unwrap();
    for rule in [Rule::file(tree.join("file")), Rule::glob(tree.join("*")), Rule::glob(tree.join("**/file"))] {
        let built = Policy::builder().allow(rule.read().follow_links_within()).build();
        assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{built:?}");
    }
    let following = || Rule::beneath(&tree).read().follow_links_within();
    let denied: [fn(PathBuf) -> FileRule; 3] = [
        |tree| Rule::beneath(tree.join("part")),
        |tree| Rule::file(tree.join("a")),
        |tree| Rule::glob(tree.join("*.key")),
    ];
    for rule in denied {
        let (denies, allows) = (rule(tree.clone()), following());
        let orders = [
            Policy::builder().allow(allows.clone()).deny(denies.clone()),
            Policy::builder().deny(denies).allow(allows),
        ];
        for builder in orders {
            let error = builder.build().unwrap_err();
            let PolicyError::Contradiction { place, other, .. } = &error else { panic!("{error}") };
            let (said, place, other) = (error.to_string(), place.to_string(), other.to_string());
            assert!(said.contains(&place) && said.contains(&other) && place != other, "{said}");
            assert!(place.starts_with("tests/terms.rs:") && other.starts_with("tests/terms.rs:"), "{said}");
        }
    }
    let others: [FileRule; 4] = [
        Rule::beneath(tree.join("part")).read().write(),
        Rule::file(tree.join("part/file")).write(),
        Rule::glob(root.join("**/file")).write(),
        Rule::glob(root.join("*/part/*")).write(),
    ];
    for other in others {
        for built in [
            Policy::builder().allow(following()).allow(other.clone()),
            Policy::builder().allow(other.clone()).allow(following()),
        ] {
            let built = built.build();
            assert!(matches!(built, Err(PolicyError::Contradiction { .. })), "{other:?}: {built:?}");
        }
    }
    let phases = Policy::builder().allow(following()).phase("first", |phase| phase.deny(Rule::file(tree.join("a"))));
    assert!(matches!(phases.build(), Err(PolicyError::Contradiction { .. })));

    let beside = Policy::builder()
        .allow(following())
        .deny(Rule::beneath(root.join("tree-like")))
        .deny(Rule::file(root.join("treefile")))
        .allow(Rule::beneath(root.join("tree-like")).read())
        .allow(Rule::file(root.join("other")).write());
    assert!(matches!(beside.clone().build(), Err(PolicyError::Contradiction { .. })), "it denies what it allows");
    let beside = Policy::builder().allow(following()).deny(Rule::beneath(root.join("tree-like")));
    beside.allow(Rule::file(root.join("other")).write()).build().unwrap();
}

/// R1-05: no rule is about the directory of a process, the broker's or another's, by whichever name and way it leads
/// there; what is about the system is granted by its exact name.
#[test]
fn r1_05_no_rule_is_about_a_process() {
    let (_keep, root) = directory();
    symlink("/proc/self", root.join("link")).unwrap();
    let own = format!("/proc/{}", std::process::id());
    let names = ["environ", "mem", "maps", "fd/0", "fdinfo/0", "root", "cwd", "exe", "task/1/environ", "ns/net", "new"];
    let mut paths: Vec<PathBuf> = Vec::new();
    for directory in ["/proc/self", &own, "/proc/thread-self", "/proc/1", root.join("link").to_str().unwrap()] {
        paths.extend(names.iter().map(|name| Path::new(directory).join(name)));
    }
    let links = ["/dev/fd/0", "/dev/fd/77", "/dev/stdin", "/proc/self", "/proc/thread-self", "/proc/mounts"];
    paths.extend(links.map(PathBuf::from));
    paths.extend([PathBuf::from(&own), "/proc/1".into()]);
    for path in &paths {
        for rule in [Rule::file(path), Rule::file(path).reopen_root()] {
            for rule in [rule.clone().read(), rule.clone().write(), rule.clone().list(), rule.directory_escape()] {
                let built = Policy::builder().allow(rule).build();
                // Some cannot even be opened by this user, or are not there.
                let refused = matches!(built, Err(PolicyError::Unfit { .. } | PolicyError::Open { .. }));
                assert!(refused, "{}: {built:?}", path.display());
            }
        }
    }
    let trees =
        ["/proc", "/proc/self", &own, "/proc/sys", "/proc/self/fd", "/dev/fd", root.join("link").to_str().unwrap()]
            .map(PathBuf::from);
    for tree in trees {
        for rule in [
            Rule::beneath(&tree),
            Rule::glob(tree.join("*")),
            Rule::glob(tree.join("**")),
            Rule::beneath(&tree).reopen_root(),
        ] {
            let built = Policy::builder().allow(rule.read()).build();
            assert!(matches!(built, Err(PolicyError::Unfit { .. })), "{}: {built:?}", tree.display());
        }
    }

    let system = ["/proc/version", "/proc/sys/kernel/ostype", "/proc/uptime"];
    let rules = system.iter().fold(Policy::builder(), |rules, path| rules.allow(Rule::file(path).read().stat()));
    let (_service, client) = client(rules.build().unwrap());
    assert_eq!(text(client.read(system[0])), fs::read_to_string(system[0]).unwrap());
    assert_eq!(text(client.read(system[1])), "Linux\n");
    assert!(!text(client.read(system[2])).is_empty());
    for path in ["/proc/meminfo", "/proc/self/environ", "/proc/version/x"] {
        assert_eq!(refusal(client.read(path)), DENIED);
    }
}

/// R1-05: of a proc file system that is mounted beneath a root nothing is told, and nothing changed: not where its
/// links point, which is what the broker has open, nor what is in it.
#[test]
fn r1_05_nothing_is_told_of_a_proc_file_system_inside() {
    with_each_resolver("r1_05_nothing_is_told_of_a_proc_file_system_inside", || {
        let (keep, root) = directory();
        let inside = root.join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(root.join("ours"), b"").unwrap();
        let _mounted = match own_mounts().and_then(|()| Mounted::again(&keep, "/proc".as_ref(), &inside)) {
            Ok(mounted) => mounted,
            Err(error) => return eprintln!("SKIPPED R1-05 of what is told: mounting is not permitted here: {error}"),
        };
        let own = inside.join(std::process::id().to_string());
        assert!(fs::read_link(own.join("fd/0")).is_ok(), "it is a proc file system, and of this process");
        let (_service, client) = client(policy(everything(Rule::beneath(&root)).directory_escape()));
        client.hello().unwrap();
        let before = open_fds();
        for name in ["", "fd", "environ", "fd/0", "exe", "cwd", "root", "task"] {
            let path = if name.is_empty() { own.clone() } else { own.join(name) };
            for (what, result) in everything_asked(&client, &path, &root.join("ours")) {
                let (reason, errno) = refusal(result);
                assert!([Reason::Kind, Reason::Failed].contains(&reason), "{what} {name}: {reason:?} {errno}");
            }
            for told in [client.stat(&path).map(drop), client.list(&path).map(drop)] {
                let refused = refusal(told);
                let by_kernel = [failed(libc::ENOTDIR), failed(libc::ELOOP)];
                assert!(refused == NOT_OF_THE_KIND || by_kernel.contains(&refused), "{name}: {refused:?}");
            }
            let readlink = refusal(client.readlink(&path));
            assert_eq!(readlink, NOT_OF_THE_KIND, "{name}");
            assert!(client.directory(&path).is_err(), "{name}");
        }
        assert_eq!(refusal(client.stat(&inside)), NOT_OF_THE_KIND);
        assert_eq!(refusal(client.readlink(inside.join("self"))), NOT_OF_THE_KIND);
        client.hello().unwrap();
        assert_eq!(open_fds(), before);
    });
}

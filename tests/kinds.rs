//! Proves that a rule opens objects of the kinds that it names, and of no other.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::served::{self, client};
use common::{alone, directory, identity, open_fds};
use fdbroker::policy::FileKind;
use fdbroker::wire::Reason;
use fdbroker::{Client, ClientError, Policy, Rule};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

fn refusal<T>(result: Result<T, ClientError>) -> (Reason, i32) {
    let refusal = result.map(drop).unwrap_err().refusal().unwrap();
    (refusal.reason, refusal.errno)
}

const NOT_OF_THE_KIND: (Reason, i32) = (Reason::Kind, libc::EACCES);

fn flags(fd: impl AsFd) -> i32 {
    fcntl(fd.as_fd(), FcntlArg::F_GETFL).unwrap() & (libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK)
}

/// A pseudo-terminal: its master's end, and the name of the other.
fn terminal() -> nix::Result<(nix::pty::PtyMaster, PathBuf)> {
    let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    nix::pty::grantpt(&master)?;
    nix::pty::unlockpt(&master)?;
    let name = nix::pty::ptsname_r(&master)?;
    Ok((master, name.into()))
}

/// O-12: a terminal that a rule for character devices grants becomes the controlling terminal of nobody, although the
/// broker leads a session that has none.
#[test]
fn o_12_a_terminal_that_is_granted_stays_its_holders() {
    alone("o_12_a_terminal_that_is_granted_stays_its_holders", || {
        nix::unistd::setsid().unwrap();
        let (mut master, name) = match terminal() {
            Ok(terminal) => terminal,
            Err(error) => return eprintln!("SKIPPED O-12: no pseudo-terminal is to be had here: {error}"),
        };
        let controlling = || File::open("/dev/tty").map(drop).map_err(|error| error.raw_os_error().unwrap());
        assert_eq!(controlling(), Err(libc::ENXIO), "a new session has no terminal");
        let kinds = [FileKind::CharacterDevice];
        let (_service, client) = client(policy(Rule::file(&name).read().write().append().kinds(kinds)));
        for nonblocking in [false, true] {
            let options = client.open_options().read(true).write(true).nonblocking(nonblocking);
            let mut granted = options.open(&name).unwrap();
            assert_eq!(flags(&granted), libc::O_RDWR | if nonblocking { libc::O_NONBLOCK } else { 0 });
            assert_eq!(nix::sys::termios::tcgetattr(&granted).map(drop), Ok(()), "it is a terminal");
            granted.write_all(b"x").unwrap();
            let mut byte = [0];
            assert_eq!((master.read(&mut byte).unwrap(), byte), (1, *b"x"));
            for file in [client.read(&name), client.write(&name), client.append(&name)] {
                drop(file.unwrap());
                assert_eq!(controlling(), Err(libc::ENXIO));
            }
        }
        // That it could have: the same open without O_NOCTTY takes it.
        let _taken = open(&name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(controlling(), Ok(()));
        // Closing it now would hang up this session, with SIGHUP.
        std::mem::forget(master);
    });
}

/// Objects of every kind that can be had here, each with its own.
struct Zoo {
    _keep: tempfile::TempDir,
    _listener: UnixListener,
    /// Nothing: a socket, a directory, a link.
    objects: Vec<(PathBuf, Option<FileKind>)>,
}

fn zoo() -> Zoo {
    let (keep, root) = directory();
    fs::write(root.join("regular"), b"content").unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o666)).unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    symlink("regular", root.join("link")).unwrap();
    let listener = UnixListener::bind(root.join("socket")).unwrap();
    let mut objects = vec![
        (root.join("regular"), Some(FileKind::Regular)),
        (root.join("fifo"), Some(FileKind::Fifo)),
        ("/dev/null".into(), Some(FileKind::CharacterDevice)),
        (root.join("directory"), None),
        (root.join("link"), None),
        (root.join("socket"), None),
    ];
    match block_device(&root) {
        Some(path) => objects.push((path, Some(FileKind::BlockDevice))),
        None => eprintln!("SKIPPED O-18 of block devices: there is none here that this user can open"),
    }
    Zoo { _keep: keep, _listener: listener, objects }
}

/// A block device that can be opened for reading: one of the system's, or a node of this test's own for one.
fn block_device(root: &Path) -> Option<PathBuf> {
    let opens = |path: &PathBuf| {
        let kind = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        kind && File::open(path).is_ok()
    };
    let listed = fs::read_dir("/dev").ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(opens);
    listed.or_else(|| {
        let made = root.join("block");
        let numbers = fs::read_dir("/sys/dev/block").ok()?.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let (major, minor) = name.split_once(':')?;
            Some(makedev(major.parse().ok()?, minor.parse().ok()?))
        });
        numbers.into_iter().find_map(|number| {
            mknod(&made, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), number).ok()?;
            let opened = opens(&made);
            opened.then(|| made.clone()).or_else(|| fs::remove_file(&made).map(|()| None).ok().flatten())
        })
    })
}

/// O-18: a rule for one kind takes objects of that kind and of no other: sockets, directories and links are of none.
/// What is refused is closed again, and a FIFO that has nobody at its other end holds nothing up.
#[test]
fn o_18_each_kind_by_its_rule_alone() {
    alone("o_18_each_kind_by_its_rule_alone", || {
        let zoo = zoo();
        for kinds in [
            &[FileKind::Regular][..],
            &[FileKind::Fifo],
            &[FileKind::CharacterDevice],
            &[FileKind::BlockDevice],
            &[FileKind::Fifo, FileKind::CharacterDevice],
            &FileKind::ALL,
            &[],
        ] {
            let mut rules = Policy::builder();
            for (path, _) in &zoo.objects {
                // What is a link when the policy is built has no exact rule, but a pattern may match it.
                let is_link = path.ends_with("link");
                let rule = if is_link { Rule::glob(path.with_file_name("lin?")) } else { Rule::file(path) };
                rules = rules.allow(rule.read().kinds(kinds.iter().copied()));
            }
            let (service, client) = client(rules.build().unwrap());
            client.hello().unwrap();
            let before = open_fds();
            for (path, kind) in &zoo.objects {
                let read = client.read(path);
                let named = if kinds.is_empty() { &[FileKind::Regular][..] } else { kinds };
                if kind.is_some_and(|kind| named.contains(&kind)) {
                    assert_eq!(identity(read.unwrap()), identity(path_only(path)), "{kinds:?}: {}", path.display());
                    continue;
                }
                let expected = match path.file_name().unwrap().to_str().unwrap() {
                    "socket" => (Reason::Failed, libc::ENXIO),
                    "link" => (Reason::Failed, libc::ELOOP),
                    _ => NOT_OF_THE_KIND,
                };
                assert_eq!(refusal(read), expected, "{kinds:?}: {}", path.display());
            }
            client.hello().unwrap();
            assert_eq!(open_fds(), before);
            drop(client);
            served::ended(service).unwrap();
        }
    });
}

fn path_only(path: &Path) -> std::os::fd::OwnedFd {
    open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

/// O-18: what was a regular file when the policy was built may be something else when it is asked for.
#[test]
fn o_18_what_takes_the_place_of_a_file_is_refused() {
    let (_keep, root) = directory();
    let path = root.join("name");
    fs::write(&path, b"").unwrap();
    let rule = || Rule::file(&path).read().write().append().truncate().create(0o600);
    let (_service, client) = client(policy(rule()));
    client.read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let every = |client: &Client| {
        [
            refusal(client.read(&path)),
            refusal(client.open_options().read(true).write(true).open(&path)),
            refusal(client.open_options().read(true).append(true).create(true).open(&path)),
            refusal(client.open_options().read(true).write(true).truncate(true).create(true).open(&path)),
        ]
    };
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(every(&client), [NOT_OF_THE_KIND; 4]);
    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(every(&client), [(Reason::Failed, libc::ENXIO); 4]);
    drop(listener);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let is_directory = (Reason::Failed, libc::EISDIR);
    assert_eq!(every(&client), [NOT_OF_THE_KIND, is_directory, is_directory, is_directory]);
    fs::remove_dir(&path).unwrap();
    match mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3)).map(|()| File::open(&path)) {
        Ok(Ok(_)) => assert_eq!(every(&client), [NOT_OF_THE_KIND; 4]),
        other => eprintln!("SKIPPED O-18 of a device in the place of a file: none can be had here: {other:?}"),
    }
}

/// O-18: a FIFO that a rule names is opened at once, whoever is at its other end; for writing there has to be somebody.
#[test]
fn o_18_a_fifo_holds_nobody_up() {
    let (_keep, root) = directory();
    let path = root.join("fifo");
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let rule = Rule::beneath(&root)
        .read()
        .write()
        .append()
        .truncate()
        .create(0o600)
        .kinds([FileKind::Regular, FileKind::Fifo]);
    let (_service, client) = client(policy(rule));
    assert_eq!(refusal(client.write(&path)), (Reason::Failed, libc::ENXIO));
    assert_eq!(refusal(client.append(&path)), (Reason::Failed, libc::ENXIO));
    let mut reader = client.read(&path).unwrap();
    assert_eq!(flags(&reader), libc::O_RDONLY, "it blocks, as its holder expects");
    // Emptying a FIFO is nothing, as for open(2).
    let options = client.open_options().write(true).truncate(true).create(true);
    let mut writer = options.open(&path).unwrap();
    writer.write_all(b"through").unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

/// O-18: /dev/tty is the terminal of whoever opens it, here the broker's: no rule grants it, by whichever name.
#[test]
fn o_18_the_brokers_own_terminal_is_never_granted() {
    alone("o_18_the_brokers_own_terminal_is_never_granted", || {
        nix::unistd::setsid().unwrap();
        let (master, name) = match terminal() {
            Ok(terminal) => terminal,
            Err(error) => return eprintln!("SKIPPED O-18 of /dev/tty: no pseudo-terminal is to be had here: {error}"),
        };
        let taken = open(&name, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert!(File::open("/dev/tty").is_ok(), "this session has a terminal now");
        let (_keep, root) = directory();
        let other = root.join("other");
        let kinds = [FileKind::CharacterDevice];
        let mut names = vec![PathBuf::from("/dev/tty")];
        let device = mknod(&other, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(5, 0));
        match device.map(|()| File::open(&other)) {
            Ok(Ok(_)) => names.push(other),
            failed => eprintln!("SKIPPED O-18 of another name of /dev/tty: none can be had here: {failed:?}"),
        }
        for name in names {
            let (service, client) = client(policy(Rule::file(&name).read().write().append().kinds(kinds)));
            for opened in [client.read(&name), client.write(&name), client.append(&name)] {
                assert_eq!(refusal(opened), NOT_OF_THE_KIND);
            }
            drop(client);
            served::ended(service).unwrap();
        }
        // Closing them now would hang up this session, with SIGHUP.
        std::mem::forget((master, taken));
    });
}

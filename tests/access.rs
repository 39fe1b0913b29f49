//! Proves how files are opened: every combination of access bits against every set of rights, and against std.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use common::served::{PATIENCE, Raw, client, raw};
use common::{directory, identity, open_fds};
use fdbroker::policy::FileRule;
use fdbroker::wire::{Access, Ask, Reason, Refusal, Right};
use fdbroker::{Client, ClientError, Policy, Rule};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

fn policy(rule: impl Into<Rule>) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

/// What F_GETFL says, without what differs between the system calls that open: O_LARGEFILE and O_NOFOLLOW do nothing to
/// a file that is open.
fn flags(fd: impl AsFd) -> i32 {
    const LARGEFILE: i32 = 0o100_000;
    fcntl(fd.as_fd(), FcntlArg::F_GETFL).unwrap() & !(libc::O_LARGEFILE | LARGEFILE | libc::O_NOFOLLOW)
}

/// What a request for a file came to: the descriptor's flags, or the refusal.
type Outcome = Result<i32, (Reason, i32)>;

fn by_wire(raw: &mut Raw, bits: u16, path: &Path) -> Outcome {
    let ask = Ask::Open { access: Access::from_bits(bits), path: path.as_os_str().as_bytes() };
    outcome(raw.ask(ask).map(|fd| fd.expect("a grant has a descriptor")))
}

fn outcome(result: Result<impl AsFd, Refusal>) -> Outcome {
    result.map(flags).map_err(|refusal| (refusal.reason, refusal.errno))
}

fn refused(result: Result<File, ClientError>) -> Result<File, Refusal> {
    result.map_err(|error| error.refusal().unwrap_or_else(|| panic!("{error}")))
}

const READ: u16 = 0x01;
const WRITE: u16 = 0x02;
const APPEND: u16 = 0x04;
const TRUNCATE: u16 = 0x08;
const CREATE: u16 = 0x10;
const NEW: u16 = 0x20;
const NONBLOCKING: u16 = 0x40;
const DIRECTORY: u16 = 0x80;

/// The rights of a rule: as many bits, of this test's own.
const RIGHTS: [(u8, Right); 5] =
    [(R, Right::Read), (W, Right::Write), (A, Right::Append), (T, Right::Truncate), (C, Right::Create)];
const R: u8 = 1;
const W: u8 = 2;
const A: u8 = 4;
const T: u8 = 8;
const C: u8 = 16;

/// Everything that can be asked of a file, but for [`NONBLOCKING`], which goes with each: the rights that it takes, and
/// the flags that the descriptor has. What is not here is impossible.
const POSSIBLE: [(u16, u8, i32); 17] = [
    (READ, R, libc::O_RDONLY),
    (WRITE, W, libc::O_WRONLY),
    (APPEND, A, libc::O_WRONLY | libc::O_APPEND),
    (READ | WRITE, R | W, libc::O_RDWR),
    (READ | APPEND, R | A, libc::O_RDWR | libc::O_APPEND),
    (WRITE | TRUNCATE, W | T, libc::O_WRONLY),
    (READ | WRITE | TRUNCATE, R | W | T, libc::O_RDWR),
    (WRITE | CREATE, W | C, libc::O_WRONLY),
    (READ | WRITE | CREATE, R | W | C, libc::O_RDWR),
    (APPEND | CREATE, A | C, libc::O_WRONLY | libc::O_APPEND),
    (READ | APPEND | CREATE, R | A | C, libc::O_RDWR | libc::O_APPEND),
    (WRITE | TRUNCATE | CREATE, W | T | C, libc::O_WRONLY),
    (READ | WRITE | TRUNCATE | CREATE, R | W | T | C, libc::O_RDWR),
    (WRITE | CREATE | NEW, C, libc::O_WRONLY),
    (READ | WRITE | CREATE | NEW, R | C, libc::O_RDWR),
    (APPEND | CREATE | NEW, C, libc::O_WRONLY | libc::O_APPEND),
    (READ | APPEND | CREATE | NEW, R | C, libc::O_RDWR | libc::O_APPEND),
];

fn possible(bits: u16) -> Option<(u8, i32)> {
    let plain = bits & !NONBLOCKING;
    POSSIBLE.into_iter().find(|(asked, ..)| *asked == plain).map(|(_, needs, flags)| (needs, flags))
}

fn granting(rule: FileRule, rights: u8) -> FileRule {
    // Some right, so that there is a rule even where none of these is granted.
    let rule = if rights & C == 0 { rule.stat() } else { rule.stat().create(0o640) };
    RIGHTS.into_iter().filter(|(bit, _)| rights & bit != 0).fold(rule, |rule, (_, right)| rule.grant(right))
}

/// O-03: no rule, and rules for reading, writing and both, each asked for reading, for writing and for both: by the
/// client, which looks at the path beforehand, and by bytes alone. The answers are the same.
#[test]
fn o_03_every_cell_by_client_and_by_wire() {
    let (_keep, root) = directory();
    let (file, other) = (root.join("file"), root.join("other"));
    fs::write(&file, b"kept").unwrap();
    let denied = Err((Reason::Denied, libc::EACCES));
    let nonblock = libc::O_NONBLOCK;
    let (rdonly, wronly, rdwr) =
        (Ok(libc::O_RDONLY | nonblock), Ok(libc::O_WRONLY | nonblock), Ok(libc::O_RDWR | nonblock));
    let rules = [
        (Rule::file(&other).read().write(), [denied, denied, denied]),
        (Rule::file(&file).read(), [rdonly, denied, denied]),
        (Rule::file(&file).write(), [denied, wronly, denied]),
        (Rule::file(&file).read().write(), [rdonly, wronly, rdwr]),
    ];
    for (rule, expected) in rules {
        let (_service, client) = client(policy(rule.clone()));
        let (_service, mut raw) = raw(policy(rule.clone()));
        for ((read, write), expected) in [(true, false), (false, true), (true, true)].into_iter().zip(expected) {
            let options = client.open_options().read(read).write(write);
            let bits = if read { READ } else { 0 } | if write { WRITE } else { 0 };
            assert_eq!(outcome(refused(options.open(&file))), expected, "{rule:?}, {bits:#x}");
            assert_eq!(by_wire(&mut raw, bits, &file), expected, "{rule:?}, {bits:#x}");
        }
        // What the client says no to by itself, the broker says no to as well.
        let path = root.join("./file");
        assert!(matches!(client.read(&path), Err(ClientError::Path { .. })));
        assert_eq!(by_wire(&mut raw, READ, &path), Err((Reason::Path, libc::EACCES)));
    }
    assert_eq!(fs::read(&file).unwrap(), b"kept");
}

/// O-03: all 256 combinations of the bits that there are, against all 32 sets of rights, for a file that is there and
/// for one that is not: impossible, lacking, or exactly what was asked for. What is refused is not even opened.
#[test]
fn o_03_every_combination_against_every_set_of_rights() {
    let (_keep, root) = directory();
    let (there, absent) = (root.join("there"), root.join("absent"));
    for rights in 0..32 {
        let (_service, mut raw) = raw(policy(granting(Rule::beneath(&root), rights)));
        fs::write(&there, b"content").unwrap();
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        watch.add_watch(&root, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CREATE).unwrap();
        let events = || watch.read_events().map_or(0, |events| events.len());
        for bits in 0..=0xff_u16 {
            let what = format!("{} ({bits:#x}) where {rights:#b} is granted", Access::from_bits(bits));
            let refused = match possible(bits) {
                None if bits & !NONBLOCKING == DIRECTORY => Some((Reason::Denied, libc::EACCES)),
                None => Some((Reason::Impossible, libc::EINVAL)),
                Some((needs, _)) if needs & !rights != 0 => Some((Reason::Denied, libc::EACCES)),
                Some(_) => None,
            };
            if let Some(refused) = refused {
                assert_eq!(by_wire(&mut raw, bits, &there), Err(refused), "{what}");
                assert_eq!(by_wire(&mut raw, bits, &absent), Err(refused), "{what}");
                assert_eq!(events(), 0, "{what}");
                continue;
            }
            let (_, expected) = possible(bits).unwrap();
            // On a regular file it does nothing, and is set in any case.
            let granted = Ok(expected | libc::O_NONBLOCK);
            let on_there = if bits & NEW == 0 { granted } else { Err((Reason::Failed, libc::EEXIST)) };
            assert_eq!(by_wire(&mut raw, bits, &there), on_there, "{what}");
            let emptied = bits & TRUNCATE != 0;
            assert_eq!(fs::read(&there).unwrap(), if emptied { &b""[..] } else { b"content" }, "{what}");
            if emptied {
                fs::write(&there, b"content").unwrap();
            }
            if bits & CREATE == 0 {
                assert_eq!(by_wire(&mut raw, bits, &absent), Err((Reason::Failed, libc::ENOENT)), "{what}");
                assert!(!absent.exists(), "{what}");
            } else {
                assert_eq!(by_wire(&mut raw, bits, &absent), granted, "{what}");
                let made = fs::symlink_metadata(&absent).unwrap();
                assert_eq!((made.mode(), made.len()), (libc::S_IFREG | 0o640, 0), "{what}");
                fs::remove_file(&absent).unwrap();
            }
            events();
        }
    }
}

/// O-03: the words of the rights are the same for a rule that is about a name, a tree or a pattern.
#[test]
fn o_03_the_scope_of_a_rule_changes_no_answer() {
    let (_keep, root) = directory();
    let file = root.join("file");
    fs::write(&file, b"content").unwrap();
    for rights in [R, W, A, R | W, W | T, W | C, R | A | C] {
        let rules = [Rule::file(&file), Rule::beneath(&root), Rule::glob(root.join("f*e"))];
        let [exact, tree, glob] = rules.map(|rule| {
            let (_service, mut raw) = raw(policy(granting(rule, rights)));
            (0..=0x7f).map(|bits| by_wire(&mut raw, bits, &file)).collect::<Vec<_>>()
        });
        assert_eq!(exact, tree, "{rights:#b}");
        assert_eq!(exact, glob, "{rights:#b}");
        assert!(exact.iter().any(Result::is_ok) && exact.iter().any(Result::is_err));
    }
}

/// O-07: each of the 16 bits that can be asked, alone, of a rule that grants everything: what means something by itself
/// passes, the rest is refused; and a bit that means nothing spoils every combination.
#[test]
fn o_07_each_bit_alone() {
    let (_keep, root) = directory();
    let file = root.join("file");
    fs::write(&file, b"kept").unwrap();
    let (_service, mut raw) = raw(policy(granting(Rule::beneath(&root), 0b11111).directory_escape()));
    let impossible = Err((Reason::Impossible, libc::EINVAL));
    for bit in 0..16 {
        let bits = 1 << bit;
        let expected = match bits {
            READ => Ok(libc::O_RDONLY | libc::O_NONBLOCK),
            WRITE => Ok(libc::O_WRONLY | libc::O_NONBLOCK),
            APPEND => Ok(libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK),
            DIRECTORY => Err((Reason::Failed, libc::ENOTDIR)),
            _ => impossible,
        };
        assert_eq!(by_wire(&mut raw, bits, &file), expected, "{bits:#x}");
    }
    for unknown in 8..16 {
        for bits in 0..=0xff {
            assert_eq!(by_wire(&mut raw, bits | 1 << unknown, &file), impossible, "{bits:#x} and bit {unknown}");
        }
    }
    assert_eq!(by_wire(&mut raw, 0, &file), impossible);
    assert_eq!(fs::read(&file).unwrap(), b"kept");
}

/// O-08: nothing is truncated that is not opened for writing at any place of it, whatever the rule grants, and the file
/// keeps its bytes.
#[test]
fn o_08_truncating_without_writing_is_refused() {
    let (_keep, root) = directory();
    let file = root.join("file");
    fs::write(&file, b"kept").unwrap();
    let rule = || policy(granting(Rule::file(&file), 0b11111));
    let (_service, mut raw) = raw(rule());
    let (_service, client) = client(rule());
    let impossible = Err((Reason::Impossible, libc::EINVAL));
    for others in [0, READ, APPEND, READ | APPEND, APPEND | CREATE, READ | NONBLOCKING] {
        assert_eq!(by_wire(&mut raw, others | TRUNCATE, &file), impossible, "{others:#x}");
    }
    for options in [client.open_options().read(true), client.open_options().append(true)] {
        assert_eq!(outcome(refused(options.truncate(true).open(&file))), impossible);
    }
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    assert!(by_wire(&mut raw, WRITE | TRUNCATE, &file).is_ok());
    assert_eq!(fs::read(&file).unwrap(), b"");
}

/// O-09: O_ASYNC, O_NOATIME, O_DIRECT, O_PATH and the like cannot be asked for: as numbers they mean nothing, and no
/// descriptor has them.
#[test]
fn o_09_other_flags_are_not_to_be_had() {
    let (_keep, root) = directory();
    let file = root.join("file");
    fs::write(&file, b"kept").unwrap();
    let (_service, mut raw) = raw(policy(granting(Rule::file(&file), 0b11111)));
    let others = [libc::O_ASYNC, libc::O_NOATIME, libc::O_DIRECT, libc::O_PATH, libc::O_SYNC, libc::O_TMPFILE];
    let all = others.into_iter().fold(0, |all, flag| all | flag);
    for (bits, ..) in POSSIBLE.into_iter().filter(|(bits, ..)| bits & NEW == 0) {
        let granted = by_wire(&mut raw, bits, &file).unwrap();
        assert_eq!(granted & all, 0, "{bits:#x}");
        for flag in others {
            // As far as it finds room in what can be asked.
            for half in [flag & 0xffff, flag >> 16] {
                let Some(half) = u16::try_from(half).ok().filter(|half| half & 0xff00 != 0) else { continue };
                let answer = by_wire(&mut raw, bits | half, &file);
                assert_eq!(answer, Err((Reason::Impossible, libc::EINVAL)), "{bits:#x} and {half:#x}");
            }
        }
    }
}

/// O-11: O_NONBLOCK is on the descriptor of a FIFO or a device that is asked for with it, and on no other; also where
/// both ends come from the broker.
#[test]
fn o_11_nonblocking_reaches_the_descriptor() {
    use fdbroker::policy::FileKind;
    let (_keep, root) = directory();
    let fifo = root.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let kinds = [FileKind::Fifo, FileKind::CharacterDevice];
    let rules = Policy::builder()
        .allow(Rule::file(&fifo).read().write().append().kinds(kinds))
        .allow(Rule::file("/dev/null").read().write().append().kinds(kinds));
    let (_service, client) = client(rules.build().unwrap());
    for path in [&fifo, Path::new("/dev/null")] {
        for nonblocking in [true, false] {
            let expected = if nonblocking { libc::O_NONBLOCK } else { 0 };
            let options = || client.open_options().nonblocking(nonblocking);
            let reader = options().read(true).open(path).unwrap();
            let writer = options().write(true).open(path).unwrap();
            let appender = options().append(true).open(path).unwrap();
            assert_eq!(flags(&reader), libc::O_RDONLY | expected);
            assert_eq!(flags(&writer), libc::O_WRONLY | expected);
            assert_eq!(flags(&appender), libc::O_WRONLY | libc::O_APPEND | expected);
        }
    }
    let mut reader = client.open_options().read(true).nonblocking(true).open(&fifo).unwrap();
    let mut writer = client.write(&fifo).unwrap();
    let mut byte = [0];
    assert_eq!(reader.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    writer.write_all(b"x").unwrap();
    assert_eq!((reader.read(&mut byte).unwrap(), byte), (1, *b"x"));
}

/// O-17: the client's options give what std's give, for every combination of them and whatever is of that name: the
/// same flags, the same file afterwards, or the same error.
#[test]
fn o_17_options_do_what_stds_do() {
    let (_keep, root) = directory();
    let (ours, theirs) = (root.join("ours"), root.join("theirs"));
    fs::create_dir(&ours).unwrap();
    fs::create_dir(&theirs).unwrap();
    let (_service, client) = client(policy(granting(Rule::beneath(&ours), 0b11111).create(0o644)));
    type Make = fn(&Path);
    let places: [(&str, Make); 5] = [
        ("absent", |_| {}),
        ("file", |path| fs::write(path, b"content").unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("absent/file", |_| {}),
        ("not-a-directory/file", |path| fs::write(path.parent().unwrap(), b"").unwrap()),
    ];
    for (name, make) in places {
        for combination in 0..64_u8 {
            let has = |bit: u8| combination >> bit & 1 == 1;
            let (read, write, append, truncate, create, new) = (has(0), has(1), has(2), has(3), has(4), has(5));
            if name == "directory" && read && !write && !append {
                // std gives the directory, and a directory is what no plain file's right gives.
                continue;
            }
            let mut std = fs::OpenOptions::new();
            std.read(read).write(write).append(append).truncate(truncate).create(create).create_new(new);
            let options = client.open_options().read(read).write(write).append(append).truncate(truncate);
            let options = options.create(create).create_new(new);
            make(&ours.join(name));
            make(&theirs.join(name));
            let mine = seen(options.open(ours.join(name)).map_err(io::Error::from), &ours.join(name));
            let stds = seen(std.open(theirs.join(name)), &theirs.join(name));
            assert_eq!(mine, stds, "{name}: {std:?}");
            for entry in [&ours, &theirs].into_iter().flat_map(|place| fs::read_dir(place).unwrap()) {
                let path = entry.unwrap().path();
                fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
            }
        }
    }
}

/// What came of opening it, the file's bytes after something was written if it can be.
fn seen(opened: io::Result<File>, path: &Path) -> (Result<i32, io::ErrorKind>, Option<Vec<u8>>) {
    let result = opened.map(|mut file| {
        let flags = flags(&file) & !libc::O_NONBLOCK;
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            file.write_all(b"AB").unwrap();
        }
        flags
    });
    (result.map_err(|error| error.kind()), fs::read(path).ok())
}

/// O-14: opening what is there or creating it, while somebody else makes and removes it: it never fails otherwise than
/// for having found no end to that, never empties what it was not to empty, and never leads to a file outside.
#[test]
fn o_14_open_or_create_while_the_name_comes_and_goes() {
    common::alone("o_14_open_or_create_while_the_name_comes_and_goes", || {
        let (_keep, root) = directory();
        let tree = root.join("tree");
        fs::create_dir(&tree).unwrap();
        let (name, secret) = (tree.join("name"), root.join("secret"));
        fs::write(&secret, b"secret").unwrap();
        let (_service, client) = client(policy(granting(Rule::beneath(&tree), 0b11111)));
        client.open_options().write(true).create(true).open(&name).unwrap();
        // Once it answers this, the broker has closed its copy.
        client.hello().unwrap();
        let before = open_fds();
        let (over, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (mut opened, mut failed) = (0, 0);
        thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                let mut kept = 0;
                while !over.load(Ordering::Relaxed) {
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    let next = root.join("next");
                    fs::write(&next, b"precious").unwrap();
                    fs::rename(&next, &name).unwrap();
                    // By a descriptor, because the name may be another's by now.
                    let file = File::open(&name);
                    let _ = fs::remove_file(&name);
                    if let Ok(text) = file.map(|file| io::read_to_string(file).unwrap()) {
                        assert!(text == "precious" || text.is_empty());
                        kept += usize::from(text == "precious");
                    }
                    if turn % 3 == 0 {
                        symlink(&secret, &name).or_else(|_| fs::remove_file(&name)).unwrap();
                        let _ = fs::remove_file(&name);
                    }
                }
                kept
            });
            let since = Instant::now();
            let mut turn = 0;
            while (turn < 6000 || turns.load(Ordering::Relaxed) < 100) && since.elapsed() < PATIENCE {
                turn += 1;
                let options = client.open_options().write(true).create(true).truncate(turn % 2 == 0);
                match options.open(&name) {
                    Ok(file) => {
                        opened += 1;
                        assert_ne!(identity(&file), identity(File::open(&secret).unwrap()));
                        // Found as it was, made new, or, where that was asked, emptied.
                        let len = file.metadata().unwrap().len();
                        assert!(len == 0 || len == 8 && turn % 2 == 1, "{len} bytes in turn {turn}");
                    }
                    Err(error) => {
                        failed += 1;
                        let Refusal { reason, errno } = error.refusal().unwrap_or_else(|| panic!("{error}"));
                        assert_eq!(reason, Reason::Failed);
                        assert!([libc::EAGAIN, libc::ELOOP].contains(&errno), "{error}");
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
            let kept = attacker.join().unwrap();
            let turns = turns.load(Ordering::Relaxed);
            eprintln!("{opened} opened, {failed} failed, the name came and went {turns} times, {kept} seen whole");
            assert!(opened > 0 && turns >= 100);
        });
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        client.hello().unwrap();
        assert_eq!(open_fds(), before);
    });
}

/// O-14: without the right to empty it, what is found keeps its bytes in such a race.
#[test]
fn o_14_open_or_create_never_truncates_by_itself() {
    let (_keep, root) = directory();
    let (name, next) = (root.join("name"), root.join("next"));
    let (_service, client) = client(policy(granting(Rule::file(&name), W | C)));
    let (over, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fs::write(&next, b"precious").unwrap();
                let file = File::open(&next).unwrap();
                fs::rename(&next, &name).unwrap();
                thread::yield_now();
                fs::remove_file(&name).unwrap();
                assert_eq!(io::read_to_string(file).unwrap(), "precious");
                turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut requests = 0;
        let since = Instant::now();
        while (requests < 3000 || turns.load(Ordering::Relaxed) < 100) && since.elapsed() < PATIENCE {
            let opened = open_or_create(&client, &name);
            let as_documented = matches!(opened, Ok(_) | Err((Reason::Failed, libc::EAGAIN)));
            if !as_documented || attacker.is_finished() {
                over.store(true, Ordering::Relaxed);
                assert!(as_documented, "{opened:?}");
            }
            requests += 1;
        }
        over.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
        assert!(turns.load(Ordering::Relaxed) >= 100, "{turns:?} turns in {requests} requests");
    });
}

fn open_or_create(client: &Client, path: &Path) -> Outcome {
    outcome(refused(client.open_options().write(true).create(true).open(path)))
}

/// O-14: of a directory that is not there, and of a name that is a dangling link, opening or creating says so at once.
#[test]
fn o_14_open_or_create_where_neither_can_be() {
    let (_keep, root) = directory();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    let rule = || granting(Rule::beneath(&root), 0b11111);
    for rule in [rule(), rule().follow_links_within()] {
        let (_service, client) = client(policy(rule));
        let failed = |errno| Err((Reason::Failed, errno));
        assert_eq!(open_or_create(&client, &root.join("absent/name")), failed(libc::ENOENT));
        assert_eq!(open_or_create(&client, &root.join("directory")), failed(libc::EISDIR));
        let dangling = open_or_create(&client, &root.join("dangling"));
        assert_eq!(dangling, failed(libc::ELOOP));
        assert!(!root.join("nowhere").exists());
    }
}

//! Many requests in one message: each is answered by itself, in order, and has its own descriptors.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::served::{PATIENCE, Raw, client, client_of, ended, inherited, limit_descriptors, raw, raw_of, start};
use common::{directory, identity, open_fds};
use fdbroker::wire::{
    Access, Address, Answer, Ask, Batch, Entries, MAX_BATCH, MAX_MESSAGE, MAX_REPLY, Malformed, Reason, Refusal, Reply,
    SocketType, Stat,
};
use fdbroker::{Broker, ChannelError, Client, ClientError, Event, Fault, Limits, Packet, Policy, Record, Rule};

/// Files with their own numbers in them.
fn files(root: &Path, count: usize) -> Vec<PathBuf> {
    let path = |number| root.join(format!("file{number}"));
    let written = |number: usize| fs::write(path(number), number.to_string()).map(|()| path(number)).unwrap();
    (0..count).map(written).collect()
}

/// Everything beneath `root`.
fn everything(root: &Path) -> Policy {
    let rule = Rule::beneath(root).read().write().create(0o600).list().stat().readlink();
    Policy::builder().allow(rule.mkdir(0o700).unlink().rmdir()).build().unwrap()
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn read(path: &Path) -> Ask<'_> {
    Ask::Open { access: Access::READ, path: bytes(path) }
}

/// The answers to a batch: what is told, and the descriptors that are the answer's own.
type Answered = Result<(Vec<u8>, Vec<OwnedFd>), Refusal>;

/// Sends these bytes as the body of a batch, and reads its reply.
fn exchange(raw: &mut Raw, ask: Ask<'_>) -> Vec<Answered> {
    raw.channel.set_max_fds(MAX_BATCH);
    let id = raw.send(ask);
    let mut packet = Packet::new();
    raw.channel.recv(&mut packet).unwrap();
    assert!(packet.bytes().len() <= MAX_REPLY);
    let came = packet.bytes().to_vec();
    let mut fds = packet.take_fds();
    let reply = Reply::decode(&came, fds.len()).unwrap();
    assert_eq!(reply.id, id);
    let Answer::Batch(answers) = reply.answer else { panic!("{reply:?}") };
    let own = |answer| match answer {
        Answer::Granted { descriptors, data } => Ok((data.to_vec(), fds.by_ref().take(descriptors.into()).collect())),
        Answer::Refused(refusal) => Err(refusal),
        Answer::Batch(_) => unreachable!(),
    };
    answers.iter().map(own).collect()
}

fn batch(raw: &mut Raw, asks: &[Ask<'_>]) -> Vec<Answered> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let batch = Batch::encode(asks.iter().copied(), &mut buffer).unwrap();
    let answers = exchange(raw, Ask::Batch(batch));
    assert_eq!(answers.len(), asks.len());
    answers
}

fn is_file(answer: &Answered, path: &Path) {
    let (data, fds) = answer.as_ref().unwrap();
    assert!(data.is_empty());
    assert_eq!(fds.len(), 1, "{}", path.display());
    assert_eq!(identity(&fds[0]), identity(File::open(path).unwrap()), "{}", path.display());
}

fn is_data(answer: &Answered) -> &[u8] {
    let (data, fds) = answer.as_ref().unwrap();
    assert!(fds.is_empty());
    data
}

fn is_refused(answer: &Answered, reason: Reason, errno: i32) {
    assert_eq!(answer.as_ref().unwrap_err(), &Refusal { reason, errno });
}

/// P-14: 1, 2, 252 and 253 files in one message, and several such messages one after the other: each answer is that of
/// its own request. Afterwards nobody has a descriptor more than before.
#[test]
fn p_14_a_batch_keeps_its_order() {
    common::alone("p_14_a_batch_keeps_its_order", || {
        let (_keep, root) = directory();
        let paths = files(&root, MAX_BATCH);
        let (service, client) = client(everything(&root));
        client.read(&paths[0]).unwrap();
        client.hello().unwrap();
        let before = open_fds();
        for count in [1, 2, 252, 253, 253] {
            // Not in the order of their names, nor in that of their inodes.
            let order: Vec<_> = (0..count).map(|place| place * 101 % MAX_BATCH).collect();
            let asked = order.iter().fold(client.batch(), |batch, number| batch.read(&paths[*number]));
            let answers = asked.send().unwrap();
            assert_eq!(answers.len(), count);
            for (number, answer) in order.iter().zip(answers) {
                assert_eq!(io::read_to_string(File::from(answer.unwrap())).unwrap(), number.to_string());
            }
            // The broker closes behind its reply: before it reads on.
            client.hello().unwrap();
            assert_eq!(open_fds(), before, "{count}");
        }
        assert!(client.batch().send().unwrap().is_empty());
        drop(client);
        ended(service).unwrap();
    });
}

/// P-14: grants, refusals of each kind, and verbs that nobody knows, mixed; data beside descriptors.
#[test]
fn p_14_each_answer_is_its_own() {
    common::alone("p_14_each_answer_is_its_own", || {
        let (_keep, root) = directory();
        let paths = files(&root, 3);
        symlink("target", root.join("link")).unwrap();
        let [absent, link, new, inner] = ["absent", "link", "new", "inner"].map(|name| root.join(name));
        fs::create_dir(&inner).unwrap();
        let (_service, mut raw) = raw(everything(&root));
        raw.ask(Ask::Hello).unwrap();
        let before = open_fds();
        // Each, between descriptors.
        let asks = [
            read(&paths[2]),
            Ask::Stat(bytes(&paths[1])),
            read(&absent),
            read(&paths[0]),
            read(Path::new("/etc/passwd")),
            Ask::List { path: bytes(&root), from: 0 },
            Ask::Open { access: Access::TRUNCATE | Access::READ, path: bytes(&paths[0]) },
            Ask::Open { access: Access::CREATE_NEW, path: bytes(&new) },
            Ask::Readlink(bytes(&link)),
            read(Path::new("relative")),
            read(&inner),
            read(&paths[1]),
        ];
        let answers = batch(&mut raw, &asks);
        is_file(&answers[0], &paths[2]);
        assert_eq!(Stat::decode(is_data(&answers[1])).unwrap().size, 1);
        is_refused(&answers[2], Reason::Failed, libc::ENOENT);
        is_file(&answers[3], &paths[0]);
        is_refused(&answers[4], Reason::Denied, libc::EACCES);
        let listed = Entries::decode(is_data(&answers[5])).unwrap();
        // The file that a later request creates is not there yet.
        assert_eq!((listed.next, listed.iter().count()), (None, 5));
        is_refused(&answers[6], Reason::Impossible, libc::EINVAL);
        is_file(&answers[7], &new);
        assert_eq!(is_data(&answers[8]), b"target");
        assert_eq!(answers[9].as_ref().unwrap_err().reason, Reason::Path);
        assert_eq!(answers[10].as_ref().unwrap_err().reason, Reason::Kind);
        is_file(&answers[11], &paths[1]);
        drop(answers);
        raw.ask(Ask::Hello).unwrap();
        assert_eq!(open_fds(), before, "nothing of it is left, here or at the broker");
    });
}

/// P-06, P-14: verbs that are in no table are refused one by one, between others that are served.
#[test]
fn p_06_p_14_unknown_verbs_between_others() {
    let (_keep, root) = directory();
    let paths = files(&root, 2);
    let (_service, raw) = raw(everything(&root));
    let mut body = Vec::new();
    let mut item = |verb: u8, of: &[u8]| {
        body.extend([verb, 0]);
        body.extend(u16::try_from(of.len()).unwrap().to_le_bytes());
        body.extend(of);
    };
    item(0x7f, b"");
    item(0x10, &[b"\x01\0", bytes(&paths[0])].concat());
    item(0xff, b"anything");
    item(0x80, b"");
    item(0x10, &[b"\x01\0", bytes(&paths[1])].concat());
    // A header by hand, for the crate's own client says no such thing.
    let mut message = b"fb\x01\x40\x07\0\0\0\0\0\0\0".to_vec();
    message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    message.extend([0; 4]);
    message.extend(body);
    raw.send_bytes(&message).unwrap();
    let mut packet = Packet::new();
    raw.channel.recv(&mut packet).unwrap();
    let unknown = Answer::Refused(Refusal { reason: Reason::Verb, errno: libc::ENOSYS });
    let granted = Answer::Granted { descriptors: 1, data: b"" };
    let reply = Reply::decode(packet.bytes(), 2).unwrap();
    let Answer::Batch(answers) = reply.answer else { panic!("{reply:?}") };
    assert_eq!(reply.id, 7);
    assert_eq!(answers.iter().collect::<Vec<_>>(), [unknown, granted, unknown, unknown, granted]);
    for (fd, path) in packet.take_fds().zip(&paths) {
        assert_eq!(identity(fd), identity(File::open(path).unwrap()));
    }
}

/// P-02: 254 requests are refused by the client, which sends nothing and goes on; by the broker they are malformed, and
/// none of them is served.
#[test]
fn p_02_254_requests_are_too_many() {
    let (_keep, root) = directory();
    let paths = files(&root, 1);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let broker = Broker::new().audit(move |record: &Record<'_>| {
        if let Event::Request { .. } = record.event {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (client_service, client) = client_of(&broker, everything(&root));
    let batch = (0..MAX_BATCH + 1).fold(client.batch(), |batch, _| batch.read(&paths[0]));
    assert_eq!(batch.len(), 254);
    let error = batch.send().unwrap_err();
    assert!(matches!(error, ClientError::Channel { source: ChannelError::TooLarge, .. }), "{error}");
    // Nor what does not fit by its length, nor what has a path that is none.
    let long = PathBuf::from(format!("/{}", "x/".repeat(2000) + "x"));
    assert!((0..20).fold(client.batch(), |batch, _| batch.read(&long)).send().is_err());
    let error = client.batch().read(&paths[0]).read("relative").send().unwrap_err();
    assert!(matches!(error, ClientError::Path { .. }), "{error}");
    client.hello().unwrap();
    drop(client);
    ended(client_service).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the greeting");

    let (service, raw) = raw_of(&broker, everything(&root));
    let item = [&[0x15, 0, u8::try_from(bytes(&root).len() + 2).unwrap(), 0][..], bytes(&root), b"/x"].concat();
    let body = item.repeat(254);
    let mut message = b"fb\x01\x40\x07\0\0\0\0\0\0\0".to_vec();
    message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    message.extend([0; 4]);
    message.extend(body);
    raw.send_bytes(&message).unwrap();
    let fault = ended(service).unwrap_err();
    assert!(matches!(fault, Fault::Malformed(Malformed::Body(0x40))), "{fault}");
    assert!(!root.join("x").exists());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// P-02: data that finds no room in the reply is refused as over a limit, whole; what comes behind it is answered, and
/// no change is made without its answer.
#[test]
fn p_02_data_beyond_the_reply() {
    let (_keep, root) = directory();
    let full = root.join("full");
    fs::create_dir(&full).unwrap();
    for number in 0..400 {
        fs::write(full.join(format!("{number:0>100}")), b"").unwrap();
    }
    let target = "t".repeat(1000);
    symlink(&target, root.join("link")).unwrap();
    let (file, made, link) = (root.join("file"), root.join("made"), root.join("link"));
    fs::write(&file, b"file").unwrap();
    let (_service, mut raw) = raw(everything(&root));
    let list = Ask::List { path: bytes(&full), from: 0 };
    let (readlink, unlink) = (Ask::Readlink(bytes(&link)), Ask::Unlink(bytes(&file)));
    let stat = Ask::Stat(bytes(&file));
    let asks = [readlink, list, list, readlink, stat, Ask::Mkdir(bytes(&made)), read(&file), unlink, stat, readlink];
    let answers = batch(&mut raw, &asks);
    let limit = |place: usize| is_refused(&answers[place], Reason::Limit, libc::EAGAIN);
    assert_eq!(is_data(&answers[0]), target.as_bytes());
    let listed = Entries::decode(is_data(&answers[1])).unwrap();
    assert!(listed.next.is_some() && listed.iter().count() > 100, "as much as there was room for");
    limit(2);
    // Not cut: a target that is shorter than it is would be another one.
    limit(3);
    assert_eq!(is_data(&answers[5]), b"");
    assert!(made.is_dir());
    assert_eq!(answers[6].as_ref().unwrap().1.len(), 1);
    assert_eq!(is_data(&answers[7]), b"");
    assert!(!file.exists());
    is_refused(&answers[8], Reason::Failed, libc::ENOENT);
    limit(9);
    // Alone, each finds room.
    assert_eq!(raw.told(readlink).unwrap(), target.as_bytes());
}

/// P-02, D-05: links of every length fill the reply: each target is told whole, or is refused.
#[test]
fn p_02_d_05_links_are_told_whole_or_not_at_all() {
    let (_keep, root) = directory();
    let links: Vec<_> = (0..40).map(|number| root.join(format!("link{number}"))).collect();
    for (number, link) in links.iter().enumerate() {
        symlink("x".repeat(390 + number), link).unwrap();
    }
    let (_service, mut raw) = raw(everything(&root));
    for shift in 0..40 {
        let order: Vec<_> = (0..40).map(|place| (place + shift) % 40).collect();
        let asks: Vec<_> =
            order.iter().map(|number| Ask::Readlink(bytes(&links[*number]))).chain([Ask::Scratch]).collect();
        let answers = batch(&mut raw, &asks);
        let told = order.iter().zip(&answers).take_while(|(_, answer)| answer.is_ok()).count();
        assert!((30..40).contains(&told), "{told} of 16 KiB");
        for (number, answer) in order.iter().zip(&answers) {
            match answer {
                Ok((data, _)) => assert_eq!(data.len(), 390 + number),
                Err(refusal) => assert_eq!(refusal.reason, Reason::Limit),
            }
        }
        is_refused(&answers[40], Reason::Denied, libc::EACCES);
    }
}

/// P-02, D-05: a target that takes all the room there is left is told, and of one that is a byte longer nothing.
#[test]
fn p_02_d_05_a_target_that_just_fits_is_told() {
    let (_keep, root) = directory();
    // An item's four bytes each: 4 times 4,000, and what is left of the reply's 16,364.
    let left = MAX_REPLY - 20 - 4 * (4 + 4000) - 4;
    let links = [("long", 4000), ("fits", left), ("too long", left + 1)].map(|(name, len)| {
        symlink("x".repeat(len), root.join(name)).unwrap();
        root.join(name)
    });
    let (_service, mut raw) = raw(everything(&root));
    let [long, fits, too_long] = links.each_ref().map(|link| Ask::Readlink(bytes(link)));
    let answers = batch(&mut raw, &[long, long, long, long, fits]);
    assert_eq!(is_data(&answers[4]).len(), left);
    let answers = batch(&mut raw, &[long, long, long, long, too_long]);
    is_refused(&answers[4], Reason::Limit, libc::EAGAIN);
    assert!(answers[..4].iter().all(|answer| is_data(answer).len() == 4000));
}

/// P-02: 253 changes in one message, each of them made and answered.
#[test]
fn p_02_every_change_is_answered() {
    let (_keep, root) = directory();
    let (_service, mut raw) = raw(everything(&root));
    let made: Vec<_> = (0..MAX_BATCH).map(|number| root.join(number.to_string())).collect();
    let asks: Vec<_> = made.iter().map(|path| Ask::Mkdir(bytes(path))).collect();
    for answer in batch(&mut raw, &asks) {
        assert_eq!(is_data(&answer), b"");
    }
    assert!(made.iter().all(|path| path.is_dir()));
    for answer in batch(&mut raw, &asks) {
        is_refused(&answer, Reason::Failed, libc::EEXIST);
    }
}

/// F-01: what the broker has granted it closes, and nothing else: also where other descriptors lie between.
#[test]
fn f_01_the_broker_closes_its_own_descriptors() {
    common::alone("f_01_the_broker_closes_its_own_descriptors", || {
        let (_keep, root) = directory();
        let paths = files(&root, 20);
        let (_service, client) = client(everything(&root));
        client.read(&paths[0]).unwrap();
        client.hello().unwrap();
        let before = open_fds();
        // Every other place is free.
        let mut held: Vec<_> = (0..60).map(|_| Some(File::open("/dev/null").unwrap())).collect();
        held.iter_mut().step_by(2).for_each(|file| drop(file.take()));
        let numbers: Vec<_> = held.iter().flatten().map(|file| (file.as_raw_fd(), identity(file))).collect();
        let answers = paths.iter().fold(client.batch(), |batch, path| batch.read(path)).send().unwrap();
        assert!(answers.iter().all(Result::is_ok));
        client.hello().unwrap();
        for (number, was) in &numbers {
            let metadata = fs::metadata(format!("/proc/self/fd/{number}")).unwrap();
            assert_eq!((std::os::unix::fs::MetadataExt::ino(&metadata)), was.1);
        }
        assert_eq!(open_fds(), before + 30 + 20, "the broker's own are closed");
        drop((answers, held));
        assert_eq!(open_fds(), before);
    });
}

/// F-01: consecutive descriptors are closed with one call, as the kernel's own record of calls shows.
#[test]
fn f_01_consecutive_descriptors_are_closed_with_one_call() {
    const NAME: &str = "f_01_consecutive_descriptors_are_closed_with_one_call";
    if common::role().is_some() {
        return served_under_strace();
    }
    let probe = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED {NAME}: there is no strace here, or it may not trace");
        return;
    }
    let (_keep, root) = directory();
    let log = root.join("log");
    let plain = common::rerun(NAME, "served");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", "trace=close,close_range", "-o"]).arg(&log).arg("--").arg(plain.get_program());
    traced.args(plain.get_args()).envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = traced.output().unwrap();
    let (said, calls) = (String::from_utf8_lossy(&output.stderr), fs::read_to_string(&log).unwrap());
    assert!(output.status.success(), "{said}\n{calls}");
    let first: u32 = said.lines().find_map(|line| line.strip_prefix("first: ")).unwrap().parse().unwrap();
    let last = first + 19;
    assert!(calls.contains(&format!("close_range({first}, {last}, 0")), "{first} to {last}:\n{calls}");
}

/// The places below are all taken, so what the broker opens stands side by side.
fn served_under_strace() {
    let (_keep, root) = directory();
    let paths = files(&root, 20);
    let (_service, client) = client(everything(&root));
    client.read(&paths[0]).unwrap();
    client.hello().unwrap();
    let held: Vec<_> = (0..40).map(|_| File::open("/dev/null").unwrap()).collect();
    let first = held.iter().map(AsRawFd::as_raw_fd).max().unwrap() + 1;
    let answers = paths.iter().fold(client.batch(), |batch, path| batch.read(path)).send().unwrap();
    assert!(answers.iter().all(Result::is_ok));
    client.hello().unwrap();
    eprintln!("\nfirst: {first}");
}

/// F-08: a worker whose table has too little room for all descriptors loses that reply and nothing else (K2): every
/// descriptor is closed, and the next batch is answered.
#[test]
fn f_08_a_batch_to_a_worker_without_room() {
    const NAME: &str = "f_08_a_batch_to_a_worker_without_room";
    if let Some(root) = common::role() {
        return worker_without_room(Path::new(&root));
    }
    let (_keep, root) = directory();
    files(&root, 10);
    let (mut worker, channel) = start(NAME, root.to_str().unwrap());
    let service = Broker::new().serve("worker", channel, everything(&root)).unwrap();
    let status = worker.wait();
    assert!(status.success(), "{status}");
    ended(service).unwrap();
    assert!(root.join("made 0").is_dir() && root.join("made 19").is_dir());
}

fn worker_without_room(root: &Path) {
    let client = Client::new(inherited());
    let ten = || (0..10).fold(client.batch(), |batch, number| batch.read(root.join(format!("file{number}"))));
    drop(ten().send().unwrap());
    limit_descriptors(64);
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for round in 0..20 {
        // None is free, one is, nine are.
        let free = [0, 1, 9][round % 3];
        let kept = hoard.len() - free;
        hoard.truncate(kept);
        let error = ten().send().unwrap_err();
        let full = matches!(error, ClientError::Channel { source: ChannelError::DescriptorTableFull, .. });
        assert!(full, "round {round}: {error}");
        hoard.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        assert_eq!(hoard.len(), kept + free, "round {round}: as many places are free as there were");
        client.mkdir(root.join(format!("made {round}"))).unwrap();
    }
    hoard.truncate(hoard.len() - 10);
    for (number, answer) in ten().send().unwrap().into_iter().enumerate() {
        assert_eq!(io::read_to_string(File::from(answer.unwrap())).unwrap(), number.to_string());
    }
}

/// P-20: the limit of descriptors outstanding holds within a batch: those over it are refused, what needs none is
/// answered, and the worker has its due again once it has read.
#[test]
fn p_20_descriptors_outstanding_within_a_batch() {
    let (_keep, root) = directory();
    let paths = files(&root, 8);
    let limits = Limits::new().descriptors_outstanding(5.try_into().unwrap());
    let (_service, mut raw) = raw_of(&Broker::new().limits(limits), everything(&root));
    let mut asks: Vec<_> = paths.iter().map(|path| read(path)).collect();
    asks.insert(1, read(Path::new("/etc/passwd")));
    asks.push(Ask::Stat(bytes(&paths[7])));
    for _ in 0..3 {
        let answers = batch(&mut raw, &asks);
        is_file(&answers[0], &paths[0]);
        // A refusal takes nothing of it.
        is_refused(&answers[1], Reason::Denied, libc::EACCES);
        (1..5).for_each(|number| is_file(&answers[number + 1], &paths[number]));
        (6..9).for_each(|place| is_refused(&answers[place], Reason::Limit, libc::EAGAIN));
        assert_eq!(Stat::decode(is_data(&answers[9])).unwrap().size, 1);
    }
}

/// A listener with a full queue: who connects to it waits as long as the policy says.
fn silent(path: &Path) -> (OwnedFd, OwnedFd) {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
    let new = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let (listener, first, address) = (new(), new(), UnixAddr::new(path).unwrap());
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    connect(first.as_raw_fd(), &address).unwrap();
    (listener, first)
}

/// L-03: a batch of connections to who does not answer ends when its service is stopped and when its worker is
/// gone, not after the time that all of them may take; what was served of it is recorded.
#[test]
fn l_03_a_batch_that_waits_ends_with_its_service() {
    for stopped in [true, false] {
        let (_keep, root) = directory();
        let (begun, busy) = (root.join("begun"), root.join("socket"));
        let _silent = silent(&busy);
        let records = Arc::new(AtomicUsize::new(0));
        let count = records.clone();
        let broker = Broker::new().audit(move |record: &Record<'_>| {
            if let Event::Request { .. } = record.event {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        // 252 seconds, which nobody waits for here.
        let connect = Rule::file(&busy).connect([SocketType::Stream]).timeout(Duration::from_secs(1));
        let policy = Policy::builder().allow(connect).allow(Rule::beneath(&root).mkdir(0o700)).build().unwrap();
        let (service, mut raw) = raw_of(&broker, policy);
        let connect = Ask::Connect(SocketType::Stream, Address::Path(bytes(&busy)));
        let asks = std::iter::once(Ask::Mkdir(bytes(&begun))).chain([connect; MAX_BATCH - 1]);
        let mut buffer = vec![0; MAX_MESSAGE];
        raw.send(Ask::Batch(Batch::encode(asks, &mut buffer).unwrap()));
        let since = Instant::now();
        while !begun.exists() {
            assert!(since.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        if stopped {
            service.stop();
            assert!(matches!(raw.reply(), Err(ChannelError::Disconnected)));
        } else {
            drop(raw);
        }
        ended(service).unwrap();
        assert!((1..60).contains(&records.load(Ordering::Relaxed)), "{records:?} of 253");
    }
}

/// L-03: a worker that sends nothing more, and waits for its reply, has it.
#[test]
fn l_03_a_batch_of_who_sends_no_more_is_answered() {
    let (_keep, root) = directory();
    let path = root.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let rule = Rule::file(&path).connect([SocketType::Stream]);
    let (service, mut raw) = raw(Policy::builder().allow(rule).build().unwrap());
    let mut buffer = vec![0; MAX_MESSAGE];
    let connect = Ask::Connect(SocketType::Stream, Address::Path(bytes(&path)));
    raw.channel.set_max_fds(MAX_BATCH);
    raw.send(Ask::Batch(Batch::encode([connect; 50], &mut buffer).unwrap()));
    nix::sys::socket::shutdown(raw.channel.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write).unwrap();
    let mut packet = Packet::new();
    raw.channel.recv(&mut packet).unwrap();
    assert_eq!(packet.fds().len(), 50);
    ended(service).unwrap();
}

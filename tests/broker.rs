//! Proves what the broker does with bytes and descriptors that no honest worker sends.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use common::served::{Raw, alone, ended, pair, pair_of, raw, raw_of, raw_where_descriptors_arrive};
use common::{directory, open_fds};
use fdbroker::wire::{Access, Ask, HEADER_LEN, MAX_MESSAGE, Malformed, Reason, Refusal, Request};
use fdbroker::{Broker, ChannelError, Fault, Kind, Policy, Rule, Service};

fn policy() -> Policy {
    Policy::builder().allow(Rule::file("/etc/passwd").read()).build().unwrap()
}

const READ: Ask<'static> = Ask::Open { access: Access::READ, path: b"/etc/passwd" };

/// A well-formed request, to be spoilt.
fn request(ask: Ask<'_>) -> Vec<u8> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let len = Request { id: 0x1122_3344_5566_7788, ask }.encode(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

/// The worker is told of the end at once: by a hang-up, and by nothing else.
fn is_hung_up_on(raw: &mut Raw) {
    match raw.reply() {
        Err(ChannelError::Disconnected) => {}
        other => panic!("{other:?}"),
    }
}

fn malformed(service: Service) -> Malformed {
    match ended(service) {
        Err(Fault::Malformed(malformed)) => malformed,
        other => panic!("{other:?}"),
    }
}

/// P-05: an empty packet is malformed, and is not taken for a hang-up: the worker is still there.
#[test]
fn p_05_an_empty_packet_is_no_hang_up() {
    let (service, mut raw) = raw(policy());
    assert!(raw.ask(READ).unwrap().is_some());
    raw.send_bytes(b"").unwrap();
    is_hung_up_on(&mut raw);
    assert_eq!(malformed(service), Malformed::Short(0));
}

/// P-05: an empty packet that carries a descriptor is refused by the kernel to its sender, and the service goes on; on
/// a kernel that lets it through, it is closed and the service ended.
#[test]
fn p_05_an_empty_packet_with_a_descriptor() {
    if !alone("p_05_an_empty_packet_with_a_descriptor") {
        return;
    }
    let hostile = File::open("/dev/null").unwrap();
    let baseline = open_fds();
    let (service, mut worker) = raw(policy());
    match worker.channel.send(b"", &[hostile.as_fd()]) {
        Err(ChannelError::Os { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {
            assert!(worker.ask(READ).unwrap().is_some());
            drop(worker);
            ended(service).unwrap();
        }
        Ok(()) => {
            eprintln!("SKIPPED the first half of P-05: this kernel cannot refuse descriptors (Linux 6.16 can)");
            drop(worker);
            let _ = ended(service);
        }
        Err(error) => panic!("{error}"),
    }

    let (service, mut worker) = raw_where_descriptors_arrive(&Broker::new(), policy());
    worker.channel.send(b"", &[hostile.as_fd()]).unwrap();
    is_hung_up_on(&mut worker);
    assert!(matches!(ended(service), Err(Fault::Descriptors)));
    drop(worker);
    assert_eq!(open_fds(), baseline);
}

/// P-06: a verb that the broker does not know is answered, and the channel lives.
#[test]
fn p_06_an_unknown_verb_is_answered() {
    let (service, mut raw) = raw(policy());
    let files = 0x10..=0x18;
    let known: Vec<u8> = [0x01, 0x02, 0x03, 0x30, 0x40].into_iter().chain(files).chain(0x20..=0x23).collect();
    for verb in (0..=u8::MAX).filter(|verb| !known.contains(verb)) {
        let mut bytes = request(READ);
        bytes[3] = verb;
        raw.send_bytes(&bytes).unwrap();
        let reply = raw.reply().unwrap();
        let refused = Err(Refusal { reason: Reason::Verb, errno: libc::ENOSYS });
        assert_eq!((reply.id, reply.answer), (0x1122_3344_5566_7788, refused), "verb 0x{verb:02x}");
        assert!(reply.fd.is_none());
    }
    assert!(raw.ask(READ).unwrap().is_some());
    drop(raw);
    ended(service).unwrap();
}

/// P-06, P-02: what is not of this version, or lies about itself, ends the channel: without an answer, with the reason
/// told.
#[test]
fn p_06_p_02_what_is_malformed_ends_the_channel() {
    type Spoil = fn(&mut Vec<u8>);
    let body = READ_BODY;
    let table: [(&str, Spoil, Malformed); 16] = [
        ("version 0", |b| b[2] = 0, Malformed::Version(0)),
        ("version 2", |b| b[2] = 2, Malformed::Version(2)),
        ("version 255", |b| b[2] = 255, Malformed::Version(255)),
        ("a flag", |b| b[18] = 1, Malformed::Reserved),
        ("the last flag", |b| b[19] = 0x80, Malformed::Reserved),
        ("magic", |b| b[0] = b'F', Malformed::Magic(u16::from_le_bytes(*b"Fb"))),
        ("one byte", |b| b.truncate(1), Malformed::Short(1)),
        ("no whole header", |b| b.truncate(HEADER_LEN - 1), Malformed::Short(HEADER_LEN - 1)),
        (
            "a byte too few",
            |b| b.truncate(b.len() - 1),
            Malformed::Length { declared: body, actual: body as usize - 1 },
        ),
        ("a byte too many", |b| b.push(b'x'), Malformed::Length { declared: body, actual: body as usize + 1 }),
        ("length 0", |b| b[12..16].fill(0), Malformed::Length { declared: 0, actual: body as usize }),
        ("length u32::MAX", |b| b[12..16].fill(0xff), Malformed::Length { declared: u32::MAX, actual: body as usize }),
        ("one descriptor told, none there", |b| b[16] = 1, Malformed::Descriptors { declared: 1, actual: 0 }),
        ("65,535 told", |b| b[16..18].fill(0xff), Malformed::Descriptors { declared: 65535, actual: 0 }),
        ("more than a message has", |b| b.resize(MAX_MESSAGE + 1, b'x'), Malformed::Oversize),
        ("hello with a body", |b| b[3] = 0x01, Malformed::Body(0x01)),
    ];
    let broker = Broker::new();
    let (bystander, mut other) = raw_of(&broker, policy());
    for (what, spoil, expected) in table {
        let (service, mut raw) = raw_of(&broker, policy());
        assert!(raw.ask(READ).unwrap().is_some());
        let mut bytes = request(READ);
        spoil(&mut bytes);
        raw.send_bytes(&bytes).unwrap();
        is_hung_up_on(&mut raw);
        assert_eq!(malformed(service), expected, "{what}");
        assert!(other.ask(READ).unwrap().is_some());
    }
    drop(other);
    ended(bystander).unwrap();
}

/// Bytes of the body of [`READ`].
const READ_BODY: u32 = 13;

/// P-06: every byte of a well-formed request changed to each of eight others: answered or hung up on, and nothing in
/// between. What is answered has the id that was sent.
#[test]
fn p_06_every_spoilt_byte_is_answered_or_ends_the_channel() {
    let broker = Broker::new();
    let whole = request(READ);
    let (mut answered, mut hung_up) = (0, 0);
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[index] ^= 1 << bit;
            let (service, mut raw) = raw_of(&broker, policy());
            raw.send_bytes(&bytes).unwrap();
            match raw.reply() {
                Ok(reply) => {
                    assert_eq!(reply.id.to_le_bytes(), bytes[4..12]);
                    drop(raw);
                    ended(service).unwrap();
                    answered += 1;
                }
                Err(ChannelError::Disconnected) => {
                    malformed(service);
                    hung_up += 1;
                }
                Err(error) => panic!("byte {index}, bit {bit}: {error}"),
            }
        }
    }
    assert_eq!((answered, hung_up), {
        // Ids, accesses and paths are free. Of the verb's eight neighbours scratch and call alone want another body:
        // list, readlink and rename take this one, and the other three are not in the table.
        let free = 8 * (8 + READ_BODY as usize);
        let verbs = 6;
        (free + verbs, 8 * whole.len() - free - verbs)
    });
}

/// P-07: descriptors on a request are refused by the kernel to their sender: nothing of the message arrives.
#[test]
fn p_07_the_kernel_refuses_descriptors_to_their_sender() {
    let (service, mut raw) = raw(policy());
    let hostile = File::open("/dev/null").unwrap();
    match raw.channel.send(&request(READ), &[hostile.as_fd()]) {
        Err(ChannelError::Os { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EPERM)),
        Ok(()) => {
            eprintln!("SKIPPED P-07 with EPERM: this kernel cannot refuse descriptors (Linux 6.16 can)");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let fd = raw.ask(READ).unwrap();
    assert!(fd.is_some(), "the channel lives");
    drop(raw);
    ended(service).unwrap();
}

/// P-07, P-08: where the kernel lets descriptors through, none is kept however many there are and whatever the header
/// says of them, and the service ends.
#[test]
fn p_07_p_08_descriptors_that_arrive_are_closed() {
    if !alone("p_07_p_08_descriptors_that_arrive_are_closed") {
        return;
    }
    let (_keep, root) = directory();
    let path = root.join("file");
    fs::write(&path, b"").unwrap();
    let hostile = File::open(&path).unwrap();
    let broker = Broker::new();
    let (bystander, mut other) = raw_of(&broker, policy());
    assert!(other.ask(READ).unwrap().is_some());
    assert_eq!(other.ask(Ask::Hello).unwrap().map(drop), None);
    let baseline = open_fds();
    for count in [1u16, 2, 3, 16, 17, 253] {
        for declared in [0, 1, count] {
            let (service, mut raw) = raw_where_descriptors_arrive(&broker, policy());
            let mut bytes = request(READ);
            bytes[16..18].copy_from_slice(&declared.to_le_bytes());
            raw.channel.send(&bytes, &vec![hostile.as_fd(); count.into()]).unwrap();
            is_hung_up_on(&mut raw);
            let fault = ended(service);
            assert!(matches!(fault, Err(Fault::Descriptors)), "{count}, {declared} declared: {fault:?}");
        }
    }
    assert_eq!(open_fds(), baseline);
    assert_eq!(holders(&path), 1, "nobody but this test holds the file");
    assert!(other.ask(READ).unwrap().is_some());
    drop(other);
    ended(bystander).unwrap();
}

/// How many descriptors of this process are open on the file.
fn holders(path: &std::path::Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|target| target == path).count()
}

/// P-07: descriptors that were on their way before the broker took the channel still arrive, on any kernel: they are
/// closed and end the service.
#[test]
fn p_07_descriptors_that_were_sent_before_the_service_began() {
    if !alone("p_07_descriptors_that_were_sent_before_the_service_began") {
        return;
    }
    let hostile = File::open("/dev/null").unwrap();
    let baseline = open_fds();
    for bytes in [request(READ), Vec::new()] {
        let (theirs, ours) = pair();
        ours.send(&bytes, &[hostile.as_fd()]).unwrap();
        let service = Broker::new().serve("early", theirs, policy()).unwrap();
        is_hung_up_on(&mut Raw::new(ours));
        assert!(matches!(ended(service), Err(Fault::Descriptors)));
        assert_eq!(open_fds(), baseline);
    }
}

/// P-14: replies that wait in a queue carry each the descriptor of its own request.
#[test]
fn p_14_queued_replies_keep_their_descriptors() {
    let (_keep, root) = directory();
    for number in 0..8 {
        fs::write(root.join(format!("{number}")), format!("{number}")).unwrap();
    }
    let rules = Policy::builder().allow(Rule::beneath(&root).read()).build().unwrap();
    let (_service, mut raw) = raw(rules);
    for round in 0..50 {
        let asked: Vec<_> = (0..16)
            .map(|slot| {
                let number = (round * 7 + slot * 3) % 11;
                let path = root.join(format!("{number}"));
                (raw.send(Ask::Open { access: Access::READ, path: path.as_os_str().as_encoded_bytes() }), number)
            })
            .collect();
        for (id, number) in asked {
            let reply = raw.reply().unwrap();
            assert_eq!(reply.id, id);
            let text = reply.fd.map(|fd: OwnedFd| std::io::read_to_string(File::from(fd)).unwrap());
            assert_eq!(text, (number < 8).then(|| number.to_string()), "there are files 0 to 7");
        }
    }
}

/// P-21: a worker that asks and is gone leaves nothing behind in the broker, and its end raises no signal.
#[test]
fn p_21_a_worker_that_asks_and_is_gone() {
    if !alone("p_21_a_worker_that_asks_and_is_gone") {
        return;
    }
    common::served::default_sigpipe();
    let baseline = open_fds();
    // Of the two kinds, the kernel raises SIGPIPE for a stream.
    for (requests, kind) in [1, 2, 10, 100, 200].into_iter().flat_map(|n| [(n, Kind::SeqPacket), (n, Kind::Stream)]) {
        let (theirs, ours) = pair_of(kind);
        let mut worker = Raw::new(ours);
        for _ in 0..requests {
            worker.send(READ);
        }
        // All of it is there before the service begins, and so is the hang-up.
        drop(worker);
        let service = Broker::new().serve("gone", theirs, policy()).unwrap();
        ended(service).unwrap();
        assert_eq!(open_fds(), baseline);
    }
    // And one that hangs up while it is being served, with replies unread.
    for requests in [1, 2, 10, 30] {
        let (service, mut worker) = raw(policy());
        for _ in 0..requests {
            worker.send(READ);
        }
        worker.reply().unwrap();
        drop(worker);
        ended(service).unwrap();
        assert_eq!(open_fds(), baseline);
    }
}

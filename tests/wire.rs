//! The wire format, against tables of bytes that were written out by hand from its documentation and are read both
//! ways, and against everything that is one step away from a valid message.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use fdbroker::wire::path::{NAME_MAX, PATH_MAX, PathError, check};
use fdbroker::wire::{
    ABSTRACT_MAX, Access, Address, Answer, AnswersWriter, Ask, Batch, Entries, EntriesWriter, Entry, HEADER_LEN, MAGIC,
    MAX_BATCH, MAX_MESSAGE, MAX_REPLY, Malformed, Reason, Refusal, Reply, Request, Right, Rights, SocketType, Stat,
    TooLong, VERSION,
};
use proptest::prelude::*;

/// Header fields in their order: magic, version, verb, id, body length, descriptor count, flags; then the body.
fn message(verb: u8, id: u64, length: u32, descriptors: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'f', b'b', 1, verb];
    bytes.extend(id.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(descriptors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn valid(verb: u8, id: u64, descriptors: u16, body: &[u8]) -> Vec<u8> {
    message(verb, id, u32::try_from(body.len()).unwrap(), descriptors, 0, body)
}

fn v6(address: Ipv6Addr, port: u16, scope: u32) -> SocketAddr {
    SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope))
}

const LISTEN_V6: &[u8] = b"\x06\x01\x50\x00\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x07\0\0\0";
const CONNECT_V4: &[u8] = b"\x04\x01\xbb\x01\xc0\0\x02\x63";

const V4: Address<'static> = Address::Ip(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 99), 443)));

/// Each request's verb and body as bytes, written out by hand from the tables of the documentation.
fn bodies() -> Vec<(u8, Vec<u8>, Ask<'static>)> {
    use SocketType::{Datagram, SeqPacket, Stream};
    let open = |bits: &[u8], access, path: &'static [u8]| (0x10, [bits, path].concat(), Ask::Open { access, path });
    let rows: Vec<(u8, &[u8], Ask<'static>)> = vec![
        (0x01, b"", Ask::Hello),
        (0x03, b"", Ask::Ready),
        (0x11, b"", Ask::Scratch),
        (0x12, b"\x08\x07\x06\x05\x04\x03\x02\x01/d", Ask::List { path: b"/d", from: 0x0102_0304_0506_0708 }),
        (0x12, b"\0\0\0\0\0\0\0\0", Ask::List { path: b"", from: 0 }),
        (0x13, b"/s\xff", Ask::Stat(b"/s\xff")),
        (0x14, b"/l", Ask::Readlink(b"/l")),
        (0x15, b"/new", Ask::Mkdir(b"/new")),
        (0x16, b"", Ask::Unlink(b"")),
        (0x17, b"/r", Ask::Rmdir(b"/r")),
        (0x18, b"\x04\0/old/new", Ask::Rename { from: b"/old", to: b"/new" }),
        (0x18, b"\0\0", Ask::Rename { from: b"", to: b"" }),
        (0x20, LISTEN_V6, Ask::Listen(Stream, Address::Ip(v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 80, 7)))),
        (0x20, b"\x01\x05\0\0/run/s", Ask::Listen(SeqPacket, Address::Path(b"/run/s"))),
        (0x21, b"\x04\x02\x35\0\x7f\0\0\x01", Ask::Bind(Address::Ip("127.0.0.1:53".parse().unwrap()))),
        (0x21, b"\x02\x02\0\0name", Ask::Bind(Address::Abstract(b"name"))),
        (0x22, CONNECT_V4, Ask::Connect(Stream, V4)),
        (0x22, b"\x02\x05\0\0\0\xff", Ask::Connect(SeqPacket, Address::Abstract(b"\0\xff"))),
        (0x22, b"\x01\x02\0\0", Ask::Connect(Datagram, Address::Path(b""))),
        (0x23, b"\x02\0\x39\x30a.example", Ask::ConnectName { socket: Datagram, host: b"a.example", port: 12345 }),
        (0x30, b"\0\0\0\0\x01s", Ask::Call { service: b"s", rights: Rights::NONE, bytes: b"" }),
        (
            0x30,
            b"\x01\0\x02\0\x04signany \0bytes",
            Ask::Call { service: b"sign", rights: [Right::Read, Right::Call].into(), bytes: b"any \0bytes" },
        ),
        // Two items: read /x, and a verb that is not in the table.
        (0x40, b"\x10\0\x04\0\x01\0/x\x7f\0\x03\0any", Ask::Batch(batch(&[(0x10, b"\x01\0/x"), (0x7f, b"any")]))),
    ];
    let accesses = [
        open(b"\x01\0", Access::READ, b"/etc/hostname"),
        open(b"\x02\0", Access::WRITE, b"/w"),
        open(b"\x04\0", Access::APPEND, b"/\xff"),
        open(b"\x0a\0", Access::WRITE | Access::TRUNCATE, b"/t"),
        open(b"\x32\0", Access::CREATE_NEW, b"/n"),
        open(b"\x12\0", Access::WRITE | Access::CREATE, b"/c"),
        open(b"\x32\0", Access::WRITE | Access::CREATE | Access::NEW, b""),
        open(b"\x41\0", Access::READ | Access::NONBLOCKING, b"/fifo"),
        open(b"\x80\0", Access::DIRECTORY, b"/d"),
        open(b"\0\0", Access::default(), b"relative"),
        open(b"\xff\xff", Access::from_bits(0xffff), b"/all"),
    ];
    rows.into_iter().map(|(verb, body, ask)| (verb, body.to_vec(), ask)).chain(accesses).collect()
}

/// Each request as bytes, with an id of its own.
fn requests() -> Vec<(Vec<u8>, Request<'static>)> {
    let ids = [1, 0x0102_0304_0506_0708, u64::MAX, 1 << 63, 0].into_iter().cycle();
    let row = |((verb, body, ask), id): ((_, Vec<u8>, _), _)| (valid(verb, id, 0, &body), Request { id, ask });
    bodies().into_iter().zip(ids).map(row).collect()
}

/// The body of a batch of these verbs and bodies. It lives as long as the test.
fn items(items: &[(u8, &[u8])]) -> &'static [u8] {
    let mut bytes = Vec::new();
    for (verb, body) in items {
        bytes.extend([*verb, 0]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(*body);
    }
    bytes.leak()
}

fn batch(of: &[(u8, &[u8])]) -> Batch<'static> {
    let message: &'static [u8] = valid(0x40, 1, 0, items(of)).leak();
    match Request::decode(message, 0) {
        Ok(Request { ask: Ask::Batch(batch), .. }) => batch,
        other => panic!("{other:?}"),
    }
}

/// Each reply's verb, body and descriptors.
fn replies() -> Vec<(Vec<u8>, u16, Reply<'static>)> {
    let refused = |reason, errno| Answer::Refused(Refusal { reason, errno });
    let granted = |descriptors, data| Answer::Granted { descriptors, data };
    let two: &[u8] = b"\x80\x02\x03\0abc\x81\0\x08\0\x08\0\0\0\x0b\0\0\0\x80\0\0\0";
    let rows: Vec<(u8, &[u8], u16, Answer<'static>)> = vec![
        (0x80, b"", 1, granted(1, b"")),
        (0x80, b"", 0, granted(0, b"")),
        (0x80, b"any \0\xff", 253, granted(253, b"any \0\xff")),
        (0x81, b"\x01\0\0\0\x0d\0\0\0", 0, refused(Reason::Denied, libc::EACCES)),
        (0x81, b"\x02\0\0\0\x24\0\0\0", 0, refused(Reason::Path, libc::ENAMETOOLONG)),
        (0x81, b"\x03\0\0\0\x02\0\0\0", 0, refused(Reason::Failed, libc::ENOENT)),
        (0x81, b"\x04\0\0\0\xff\x0f\0\0", 0, refused(Reason::Kind, 4095)),
        (0x81, b"\x05\0\0\0\x26\0\0\0", 0, refused(Reason::Verb, libc::ENOSYS)),
        (0x81, b"\x06\0\0\0\x16\0\0\0", 0, refused(Reason::Impossible, libc::EINVAL)),
        (0x81, b"\x07\0\0\0\x01\0\0\0", 0, refused(Reason::NotHeld, 1)),
        (0x81, b"\x08\0\0\0\x0b\0\0\0", 0, refused(Reason::Limit, libc::EAGAIN)),
        (0x82, two, 2, answers(&[granted(2, b"abc"), refused(Reason::Limit, libc::EAGAIN), granted(0, b"")])),
    ];
    let row = |(id, (verb, body, descriptors, answer))| {
        (valid(verb, id, descriptors, body), descriptors, Reply { id, answer })
    };
    (u64::MAX - 3..=u64::MAX).chain(0..).zip(rows).map(row).collect()
}

/// They live as long as the test.
fn answers(of: &[Answer<'_>]) -> Answer<'static> {
    let mut writer = AnswersWriter::new(vec![0; MAX_REPLY - HEADER_LEN].leak());
    of.iter().for_each(|answer| writer.put(*answer).unwrap());
    Answer::Batch(writer.finish().0)
}

/// The descriptors that an answer rides with.
fn riding(answer: &Answer<'_>) -> u16 {
    match answer {
        Answer::Granted { descriptors, .. } => *descriptors,
        Answer::Refused(_) => 0,
        Answer::Batch(answers) => answers.iter().map(|answer| riding(&answer)).sum(),
    }
}

/// The message that a request becomes.
fn written(request: &Request<'_>) -> Vec<u8> {
    let mut buffer = vec![0xaa; MAX_MESSAGE];
    let length = request.encode(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn replied(reply: &Reply<'_>) -> Vec<u8> {
    let mut buffer = [0xaa; MAX_REPLY];
    let length = reply.encode(riding(&reply.answer), &mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// What every input must satisfy, whatever it is: an error, or a value that is written as exactly these bytes again,
/// each of whose parts can be read.
fn one_form_only(bytes: &[u8], descriptors: usize) {
    if let Ok(request) = Request::decode(bytes, descriptors) {
        assert_eq!(written(&request), bytes);
        assert_eq!(descriptors, 0);
        if let Ask::Batch(batch) = request.ask {
            assert_eq!(batch.iter().count(), batch.len());
            assert!((1..=MAX_BATCH).contains(&batch.len()));
            let known: Vec<_> = batch.iter().filter_map(Result::ok).collect();
            if known.len() == batch.len() {
                let mut buffer = vec![0; MAX_MESSAGE];
                assert_eq!(Batch::encode(known, &mut buffer), Ok(batch));
            }
        }
        // Neither panics on anything.
        let _ = (request.ask.to_string(), request.ask.needs());
    }
    if let Ok(reply) = Reply::decode(bytes, descriptors) {
        assert_eq!(replied(&reply), bytes);
        assert_eq!(usize::from(riding(&reply.answer)), descriptors);
        match reply.answer {
            Answer::Granted { data, .. } => {
                let _ = (Stat::decode(data), Entries::decode(data));
            }
            Answer::Batch(answers) => assert!((1..=MAX_BATCH).contains(&answers.iter().count())),
            Answer::Refused(refusal) => assert!((1..4096).contains(&refusal.errno)),
        }
    }
}

/// P-01: the tables of the documentation, as bytes, read both ways.
#[test]
fn p_01_byte_tables_read_both_ways() {
    for (bytes, request) in requests() {
        assert_eq!(Request::decode(&bytes, 0), Ok(request));
        assert_eq!(written(&request), bytes, "{request:?}");
        assert_eq!(Reply::decode(&bytes, 0), Err(Malformed::UnknownVerb { id: request.id, verb: bytes[3] }));
    }
    for (bytes, descriptors, reply) in replies() {
        assert_eq!(Reply::decode(&bytes, descriptors.into()), Ok(reply));
        assert_eq!(replied(&reply), bytes, "{reply:?}");
        assert!(Request::decode(&bytes, descriptors.into()).is_err());
    }
    assert_eq!((MAGIC.to_le_bytes(), VERSION), (*b"fb", 1));
    assert_eq!((HEADER_LEN, MAX_REPLY, MAX_MESSAGE, MAX_BATCH, ABSTRACT_MAX), (20, 16384, 65536, 253, 107));
}

/// P-01: a batch says its items one by one, those that it knows and those that it does not, and every verb that may
/// stand in one can.
#[test]
fn p_01_items_of_a_batch() {
    let mixed = batch(&[(0x10, b"\x01\0/x"), (0x7f, b"any"), (0x80, b""), (0x11, b"")]);
    let read = Ask::Open { access: Access::READ, path: b"/x" };
    assert_eq!(mixed.iter().collect::<Vec<_>>(), [Ok(read), Err(0x7f), Err(0x80), Ok(Ask::Scratch)]);
    assert_eq!(mixed.len(), 4);
    let alone = [0x01, 0x03, 0x30, 0x40];
    for (verb, body, ask) in bodies() {
        let mut buffer = vec![0; MAX_MESSAGE];
        if alone.contains(&verb) {
            assert_eq!(Batch::encode([ask], &mut buffer), Err(TooLong), "{ask:?}");
            let message = valid(0x40, 1, 0, items(&[(verb, &body)]));
            assert_eq!(Request::decode(&message, 0), Err(Malformed::Body(0x40)), "{ask:?}");
            continue;
        }
        let encoded = Batch::encode([Ask::Scratch, ask], &mut buffer).unwrap();
        assert_eq!(encoded, batch(&[(0x11, b""), (verb, &body)]));
        assert_eq!(encoded.iter().collect::<Vec<_>>(), [Ok(Ask::Scratch), Ok(ask)]);
    }
}

/// P-01: the numbers of rights and of accesses that the tables refer to.
#[test]
fn p_01_rights_and_accesses_as_numbers() {
    let words = "read write append truncate create list stat readlink mkdir unlink rmdir rename directory-escape scratch \
        listen bind connect call";
    for (bit, word) in words.split(' ').enumerate() {
        let right: Right = word.parse().unwrap();
        assert_eq!(Rights::from(right).bits(), 1 << bit, "{word}");
        assert_eq!(Rights::from_bits(1 << bit), Some(right.into()));
    }
    for bit in words.split(' ').count()..32 {
        assert_eq!(Rights::from_bits(1 << bit), None);
    }
    let accesses = [Access::READ, Access::WRITE, Access::APPEND, Access::TRUNCATE, Access::CREATE, Access::NEW];
    for (bit, access) in accesses.into_iter().chain([Access::NONBLOCKING, Access::DIRECTORY]).enumerate() {
        assert_eq!(access.bits(), 1 << bit);
    }
}

const STAT: &[u8; 56] = b"\xa4\x81\0\0\x02\0\0\0\x01\0\0\0\xff\xff\xff\xff\
    \x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\x80\x02\xfe\0\0\0\0\0\0\
    \xff\xff\xff\xff\xff\xff\xff\xff\x15\xcd\x5b\x07\0\0\0\0";

/// P-01, P-02: what an object is, in bytes; a byte more, a byte less and a reserved one are malformed.
#[test]
fn p_01_p_02_stat() {
    let stat = Stat::decode(STAT).unwrap();
    assert_eq!((stat.mode, stat.links, stat.uid, stat.gid), (0o100_644, 2, 1, u32::MAX));
    assert_eq!((stat.size, stat.inode, stat.device), (0x0102_0304_0506_0708, 1 << 63 | 9, 0xfe02));
    assert_eq!((stat.modified, stat.modified_nanoseconds), (-1, 123_456_789));
    let mut buffer = [0xaa; 57];
    assert_eq!(stat.encode(&mut buffer), Ok(56));
    assert_eq!(&buffer[..56], STAT);
    for len in 0..56 {
        assert_eq!(Stat::decode(&STAT[..len]), None);
        assert_eq!(stat.encode(&mut vec![0; len]), Err(TooLong));
    }
    assert_eq!(Stat::decode(&[&STAT[..], b"\0"].concat()), None);
    for reserved in 52..56 {
        let mut bytes = *STAT;
        bytes[reserved] = 1;
        assert_eq!(Stat::decode(&bytes), None);
    }
}

const ENTRIES: &[u8] = b"\x08\x07\x06\x05\x04\x03\x02\x01\x01\
    \x0b\0\0\0\0\0\0\x01\x08\x01a\
    \0\0\0\0\0\0\0\0\0\x04\xff\n..";

/// P-01, P-02: a part of a directory, in bytes; each that is cut short, has a name without bytes or another word for
/// "more" is malformed.
#[test]
fn p_01_p_02_entries() {
    let all = [
        Entry { inode: 0x0100_0000_0000_000b, file_type: libc::DT_REG, name: b"a" },
        Entry { inode: 0, file_type: libc::DT_UNKNOWN, name: b"\xff\n.." },
    ];
    let entries = Entries::decode(ENTRIES).unwrap();
    assert_eq!(entries.next, Some(0x0102_0304_0506_0708));
    assert_eq!(entries.iter().collect::<Vec<_>>(), all);
    let mut buffer = [0xaa; 100];
    let mut writer = EntriesWriter::new(&mut buffer);
    all.iter().for_each(|entry| writer.put(*entry).unwrap());
    let len = writer.finish(entries.next).unwrap();
    assert_eq!(&buffer[..len], ENTRIES);
    // Whole entries alone are sound.
    let sound = [9, 20, ENTRIES.len()];
    for len in 0..=ENTRIES.len() {
        assert_eq!(Entries::decode(&ENTRIES[..len]).is_some(), sound.contains(&len), "{len}");
    }
    for more in 2..=255 {
        assert_eq!(Entries::decode(&[&ENTRIES[..8], &[more], &ENTRIES[9..]].concat()), None);
    }
    let last = Entries::decode(b"\0\0\0\0\0\0\0\0\0").unwrap();
    assert_eq!((last.next, last.iter().count()), (None, 0));
    let nameless = [&ENTRIES[..9], &[0; 10]].concat();
    assert_eq!(Entries::decode(&nameless), None);
}

/// P-02: entries that do not fit leave those before them as they were; there is no name of 0 or 256 bytes.
#[test]
fn p_02_entries_in_little_room() {
    for room in 0..ENTRIES.len() {
        let mut buffer = vec![0; room];
        let mut writer = EntriesWriter::new(&mut buffer);
        let fitted = Entries::decode(ENTRIES).unwrap().iter().take_while(|entry| writer.put(*entry).is_ok()).count();
        match writer.finish(Some(0x0102_0304_0506_0708)) {
            Ok(len) => assert_eq!((&buffer[..len], fitted), (&ENTRIES[..len], usize::from(room >= 20))),
            Err(TooLong) => assert!(room < 9),
        }
    }
    let mut buffer = [0; 1000];
    let mut writer = EntriesWriter::new(&mut buffer);
    let entry = |name| Entry { inode: 1, file_type: 0, name };
    assert_eq!(writer.put(entry(&[b'n'; 256])), Err(TooLong));
    assert_eq!(writer.put(entry(b"")), Err(TooLong));
    writer.put(entry(&[b'n'; 255])).unwrap();
    let len = writer.finish(None).unwrap();
    assert_eq!(Entries::decode(&buffer[..len]).unwrap().iter().next(), Some(entry(&[b'n'; 255])));
}

fn ip() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<SocketAddrV4>().prop_map(SocketAddr::V4),
        (any::<Ipv6Addr>(), any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| v6(ip, port, scope)),
    ]
}

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = &'static [u8]> {
    // Leaked: a property is tried some hundred times.
    prop::collection::vec(any::<u8>(), len).prop_map(|bytes| &*bytes.leak())
}

fn address() -> impl Strategy<Value = Address<'static>> {
    prop_oneof![
        ip().prop_map(Address::Ip),
        bytes(0..300).prop_map(Address::Path),
        bytes(1..ABSTRACT_MAX + 1).prop_map(Address::Abstract),
    ]
}

fn socket() -> impl Strategy<Value = SocketType> {
    prop::sample::select(&SocketType::ALL[..])
}

/// Any request that may stand in a batch.
fn item() -> impl Strategy<Value = Ask<'static>> {
    let path = || prop_oneof![4 => bytes(0..40), 1 => bytes(0..5000)];
    let name = (socket(), bytes(0..300), any::<u16>());
    prop_oneof![
        Just(Ask::Scratch),
        (any::<u16>(), path()).prop_map(|(bits, path)| Ask::Open { access: Access::from_bits(bits), path }),
        (any::<u64>(), path()).prop_map(|(from, path)| Ask::List { path, from }),
        path().prop_map(Ask::Stat),
        path().prop_map(Ask::Readlink),
        path().prop_map(Ask::Mkdir),
        path().prop_map(Ask::Unlink),
        path().prop_map(Ask::Rmdir),
        (path(), path()).prop_map(|(from, to)| Ask::Rename { from, to }),
        (socket(), address()).prop_map(|(socket, address)| Ask::Listen(socket, address)),
        address().prop_map(Ask::Bind),
        (socket(), address()).prop_map(|(socket, address)| Ask::Connect(socket, address)),
        name.prop_map(|(socket, host, port)| Ask::ConnectName { socket, host, port }),
    ]
}

fn ask() -> impl Strategy<Value = Ask<'static>> {
    let rights = (0..=Rights::ALL.bits()).prop_map(|bits| Rights::from_bits(bits).unwrap());
    let call = (rights, bytes(1..256), bytes(0..5000));
    prop_oneof![
        1 => prop_oneof![Just(Ask::Hello), Just(Ask::Ready)],
        8 => item(),
        2 => call.prop_map(|(rights, service, bytes)| Ask::Call { service, rights, bytes }),
        3 => prop::collection::vec(item(), 1..12)
            .prop_map(|items| Ask::Batch(Batch::encode(items, vec![0; 2 * MAX_MESSAGE].leak()).unwrap()))
            .prop_filter("a message holds it", |ask| Request { id: 0, ask: *ask }.encode(&mut [0; MAX_MESSAGE]).is_ok()),
    ]
}

const REASONS: [Reason; 8] = [
    Reason::Denied,
    Reason::Path,
    Reason::Failed,
    Reason::Kind,
    Reason::Verb,
    Reason::Impossible,
    Reason::NotHeld,
    Reason::Limit,
];

fn refused() -> impl Strategy<Value = Answer<'static>> {
    (prop::sample::select(&REASONS[..]), 1..4096i32)
        .prop_map(|(reason, errno)| Answer::Refused(Refusal { reason, errno }))
}

fn answer() -> impl Strategy<Value = Answer<'static>> {
    let granted = |(descriptors, data)| Answer::Granted { descriptors, data };
    let one = || prop_oneof![(0..4u16, bytes(0..60)).prop_map(granted), refused()];
    prop_oneof![
        (any::<u16>(), bytes(0..MAX_REPLY - HEADER_LEN + 1)).prop_map(granted),
        refused(),
        prop::collection::vec(one(), 1..=MAX_BATCH).prop_map(|of| answers(&of)),
    ]
}

/// A valid message of either kind, and the descriptors that ride on it.
fn any_message() -> impl Strategy<Value = (Vec<u8>, usize)> {
    prop_oneof![
        (any::<u64>(), ask()).prop_map(|(id, ask)| (written(&Request { id, ask }), 0)),
        (any::<u64>(), answer())
            .prop_map(|(id, answer)| (replied(&Reply { id, answer }), usize::from(riding(&answer)))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P-01: every request that can be made comes back as it was.
    #[test]
    fn p_01_requests_round_trip(id: u64, ask in ask()) {
        let request = Request { id, ask };
        let bytes = written(&request);
        prop_assert_eq!(Request::decode(&bytes, 0), Ok(request));
        for descriptors in 1..4 {
            let malformed = Malformed::Descriptors { declared: 0, actual: descriptors };
            prop_assert_eq!(Request::decode(&bytes, descriptors), Err(malformed));
        }
    }

    /// P-01: the items of every batch come back as they were, in their order.
    #[test]
    fn p_01_batches_round_trip(asks in prop::collection::vec(item(), 1..30)) {
        let mut buffer = vec![0; 4 * MAX_MESSAGE];
        let batch = Batch::encode(asks.clone(), &mut buffer).unwrap();
        prop_assert_eq!(batch.len(), asks.len());
        prop_assert_eq!(batch.iter().collect::<Vec<_>>(), asks.into_iter().map(Ok).collect::<Vec<_>>());
    }

    /// P-01: every reply that the documentation allows comes back as it was, with its own number of descriptors only.
    #[test]
    fn p_01_replies_round_trip(id: u64, answer in answer(), other in 0..70_000usize) {
        let reply = Reply { id, answer };
        let bytes = replied(&reply);
        let riding = riding(&answer);
        prop_assert_eq!(Reply::decode(&bytes, usize::from(riding)), Ok(reply));
        if other != usize::from(riding) {
            let malformed = Malformed::Descriptors { declared: riding, actual: other };
            prop_assert_eq!(Reply::decode(&bytes, other), Err(malformed));
        }
    }

    /// P-01: the answers of every batch come back as they were, in their order.
    #[test]
    fn p_01_answers_round_trip(of in prop::collection::vec(
        prop_oneof![
            (0..256u16, bytes(0..50)).prop_map(|(descriptors, data)| Answer::Granted { descriptors, data }),
            refused(),
        ],
        1..=MAX_BATCH,
    )) {
        let Answer::Batch(answers) = answers(&of) else { unreachable!() };
        prop_assert_eq!(answers.iter().collect::<Vec<_>>(), of);
    }

    /// P-01: every part of a directory comes back as it was.
    #[test]
    fn p_01_entries_round_trip(
        next: Option<u64>,
        of in prop::collection::vec((any::<u64>(), any::<u8>(), bytes(1..256)), 0..30),
    ) {
        let of: Vec<_> = of.into_iter().map(|(inode, file_type, name)| Entry { inode, file_type, name }).collect();
        let mut buffer = [0; MAX_REPLY];
        let mut writer = EntriesWriter::new(&mut buffer);
        of.iter().for_each(|entry| writer.put(*entry).unwrap());
        let len = writer.finish(next).unwrap();
        let entries = Entries::decode(&buffer[..len]).unwrap();
        prop_assert_eq!(entries.next, next);
        prop_assert_eq!(entries.iter().collect::<Vec<_>>(), of);
    }

    /// P-01: what any object is comes back as it was; every 52 bytes with 4 reserved ones are one.
    #[test]
    fn p_01_stat_round_trips(bytes in prop::array::uniform32(any::<u8>()), more in prop::array::uniform20(any::<u8>())) {
        let bytes = [&bytes[..], &more, &[0; 4]].concat();
        let mut buffer = [0xaa; Stat::LEN];
        prop_assert_eq!(Stat::decode(&bytes).unwrap().encode(&mut buffer), Ok(Stat::LEN));
        prop_assert_eq!(&buffer[..], &bytes[..]);
    }

    /// P-02, P-03: any bytes at all, with any number of descriptors, and as the body of each verb: never a panic, never
    /// a second form of one value.
    #[test]
    fn p_02_p_03_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80), verb: u8, descriptors in 0..4u16) {
        one_form_only(&bytes, descriptors.into());
        let _ = (Stat::decode(&bytes), Entries::decode(&bytes).map(|entries| entries.iter().count()));
        let known = [0x01, 0x02, 0x03, 0x10, 0x11, 0x12, 0x18, 0x20, 0x21, 0x22, 0x23, 0x30, 0x40, 0x80, 0x81, 0x82];
        for verb in known.into_iter().chain([verb]) {
            one_form_only(&valid(verb, 1, 0, &bytes), 0);
            one_form_only(&valid(verb, 1, descriptors, &bytes), descriptors.into());
        }
    }

    /// P-02, P-03: as many lists of items, sound and unsound, as the body of a batch and of its reply.
    #[test]
    fn p_02_p_03_any_items(
        items in prop::collection::vec((any::<u8>(), 0..3u8, 0..12u16, bytes(0..12)), 0..8),
        descriptors in 0..6u16,
    ) {
        let mut body = Vec::new();
        for (verb, second, len, bytes) in items {
            // Half the verbs are those of answers.
            body.extend([if verb > 127 { 0x80 + verb % 3 } else { verb }, second]);
            body.extend(len.to_le_bytes());
            body.extend(bytes);
        }
        one_form_only(&valid(0x40, 1, 0, &body), 0);
        one_form_only(&valid(0x82, 1, descriptors, &body), descriptors.into());
    }

    /// P-02, P-03: any valid message with any of its bytes changed.
    #[test]
    fn p_02_p_03_changed_bytes(
        (mut bytes, descriptors) in any_message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        one_form_only(&bytes, descriptors);
    }
}

/// P-01: the flow information of an IPv6 address is not on the wire; it is the one thing that does not come back.
#[test]
fn p_01_flow_information_is_not_sent() {
    let flowing = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0xabcde, 3));
    let connect = |address| Request { id: 1, ask: Ask::Connect(SocketType::Stream, Address::Ip(address)) };
    let bytes = written(&connect(flowing));
    assert_eq!(Request::decode(&bytes, 0), Ok(connect(v6(Ipv6Addr::LOCALHOST, 1, 3))));
}

/// P-01, P-03: an errno that is none can be put into a refusal by hand; whoever reads it refuses it, and sees no other.
#[test]
fn p_01_p_03_an_errno_that_is_none() {
    for errno in [0, -1, -13, 4096, i32::MAX, i32::MIN] {
        let bytes = replied(&Reply { id: 1, answer: Answer::Refused(Refusal { reason: Reason::Failed, errno }) });
        assert_eq!(Reply::decode(&bytes, 0), Err(Malformed::Body(0x81)), "{errno}");
        let among =
            replied(&Reply { id: 1, answer: answers(&[Answer::Refused(Refusal { reason: Reason::Failed, errno })]) });
        assert_eq!(Reply::decode(&among, 0), Err(Malformed::Body(0x82)), "{errno}");
    }
}

/// P-02: every valid message without its last bytes, and with bytes behind it, is malformed, whatever is cut off or
/// added.
#[test]
fn p_02_every_truncation_and_extension() {
    let requests = requests().into_iter().map(|(bytes, _)| (bytes, 0));
    let replies = replies().into_iter().map(|(bytes, descriptors, _)| (bytes, usize::from(descriptors)));
    for (bytes, descriptors) in requests.chain(replies) {
        for cut in 0..bytes.len() {
            let expected = if cut < HEADER_LEN {
                Malformed::Short(cut)
            } else {
                let declared = u32::try_from(bytes.len() - HEADER_LEN).unwrap();
                Malformed::Length { declared, actual: cut - HEADER_LEN }
            };
            assert_eq!(Request::decode(&bytes[..cut], descriptors), Err(expected));
            assert_eq!(Reply::decode(&bytes[..cut], descriptors), Err(expected));
        }
        for surplus in [&b"\0"[..], b"/x", &[0xff; 100]] {
            let longer = [&bytes, surplus].concat();
            assert!(matches!(Request::decode(&longer, descriptors), Err(Malformed::Length { .. })));
            assert!(matches!(Reply::decode(&longer, descriptors), Err(Malformed::Length { .. })));
        }
    }
}

/// P-02, P-03: every single bit of every valid message flipped, with every near number of descriptors: an error, or
/// another value that is written as exactly these bytes.
#[test]
fn p_02_p_03_every_bit_flip() {
    let requests = requests().into_iter().map(|(bytes, _)| bytes);
    let replies = replies().into_iter().map(|(bytes, ..)| bytes);
    for bytes in requests.chain(replies) {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            for descriptors in [0, 1, 2, 3, 253, 65535, 65536, usize::MAX] {
                one_form_only(&flipped, descriptors);
            }
            // Magic, version, length and flags have one right value each.
            if matches!(bit / 8, 0..=2 | 12..=15 | 18..=19) {
                assert!(Request::decode(&flipped, 0).is_err() && Reply::decode(&flipped, 0).is_err());
                assert!(Reply::decode(&flipped, 1).is_err());
            }
        }
    }
}

/// P-02, P-03: a body length that is not the packet's, among them those near the largest number and those that would
/// wrap with the header's 20 bytes.
#[test]
fn p_02_p_03_lengths() {
    for length in [0, 1, 3, 5, 20, 24, 1 << 16, 1 << 31, u32::MAX - 20, u32::MAX - 19, u32::MAX - 15, u32::MAX] {
        let bytes = message(0x10, 9, length, 0, 0, b"/etc");
        assert_eq!(Request::decode(&bytes, 0), Err(Malformed::Length { declared: length, actual: 4 }));
        assert_eq!(Reply::decode(&bytes, 0), Err(Malformed::Length { declared: length, actual: 4 }));
    }
    let length = u32::try_from(MAX_MESSAGE - HEADER_LEN).unwrap();
    let largest = message(0x10, 9, length, 0, 0, &vec![b'a'; MAX_MESSAGE - HEADER_LEN]);
    assert!(Request::decode(&largest, 0).is_ok());
    let larger = message(0x10, 9, length + 1, 0, 0, &vec![b'a'; MAX_MESSAGE - HEADER_LEN + 1]);
    assert_eq!(Request::decode(&larger, 0), Err(Malformed::Oversize));
    let data = vec![b'a'; MAX_REPLY - HEADER_LEN + 1];
    assert!(Reply::decode(&valid(0x80, 9, 0, &data[1..]), 0).is_ok());
    assert_eq!(Reply::decode(&valid(0x80, 9, 0, &data), 0), Err(Malformed::Oversize));
    let reply = |data| Reply { id: 9, answer: Answer::Granted { descriptors: 0, data } };
    assert_eq!(reply(&data[1..]).encode(0, &mut [0; MAX_MESSAGE]), Ok(MAX_REPLY));
    assert_eq!(reply(&data).encode(0, &mut [0; MAX_MESSAGE]), Err(TooLong));
}

/// P-08: a descriptor count that is not what came is malformed; so is one that a verb does not carry.
#[test]
fn p_08_counts() {
    for (told, came) in [(0, 1), (1, 0), (1, 2), (2, 1), (65535, 65536), (0, 65536), (1, 65537), (0, usize::MAX)] {
        let malformed = Err(Malformed::Descriptors { declared: told, actual: came });
        assert_eq!(Request::decode(&valid(0x01, 1, told, b""), came), malformed);
        assert_eq!(Reply::decode(&valid(0x80, 1, told, b""), came).map(drop), malformed.map(drop));
    }
    for count in [1, 2, 253] {
        let malformed = Malformed::Descriptors { declared: count, actual: usize::from(count) };
        assert_eq!(Request::decode(&valid(0x10, 1, count, b"/a"), usize::from(count)), Err(malformed));
        let refusal = valid(0x81, 1, count, b"\x01\0\0\0\x0d\0\0\0");
        assert_eq!(Reply::decode(&refusal, usize::from(count)), Err(malformed));
    }
}

/// P-06: another magic, another version and each reserved bit end the channel: they are errors that tell no id to
/// answer. Each verb that is not in the table tells its own.
#[test]
fn p_06_versions_verbs_and_reserved_bits() {
    let good = valid(0x01, 0x1122_3344_5566_7788, 0, b"");
    for version in (0..=255).filter(|&version| version != 1) {
        let mut bytes = good.clone();
        bytes[2] = version;
        assert_eq!(Request::decode(&bytes, 0), Err(Malformed::Version(version)));
    }
    for magic in [*b"bf", *b"FB", [0, 0], *b"f\0"] {
        let mut bytes = good.clone();
        bytes[..2].copy_from_slice(&magic);
        assert_eq!(Request::decode(&bytes, 0), Err(Malformed::Magic(u16::from_le_bytes(magic))));
    }
    for bit in 0..16 {
        assert_eq!(Request::decode(&message(0x01, 1, 0, 0, 1 << bit, b""), 0), Err(Malformed::Reserved));
        assert_eq!(Reply::decode(&message(0x80, 1, 0, 0, 1 << bit, b""), 0), Err(Malformed::Reserved));
    }
    for verb in 0..=255 {
        let unknown = Malformed::UnknownVerb { id: u64::MAX, verb };
        for body in [&b""[..], b"/any/body"] {
            let bytes = valid(verb, u64::MAX, 0, body);
            // 0x02 is the narrowing's.
            if !matches!(verb, 0x01..=0x03 | 0x10..=0x18 | 0x20..=0x23 | 0x30 | 0x40) {
                assert_eq!(Request::decode(&bytes, 0), Err(unknown));
                let items = batch(&[(0x11, b""), (verb, body)]);
                assert_eq!(items.iter().collect::<Vec<_>>(), [Ok(Ask::Scratch), Err(verb)]);
            }
            if !matches!(verb, 0x80..=0x82) {
                assert_eq!(Reply::decode(&bytes, 0), Err(unknown));
            }
        }
    }
}

/// P-02, P-04, P-06: a body in another form than its verb's is malformed: bytes where there are none, addresses of
/// another length or family, reserved bytes, reasons and errors out of their tables.
#[test]
fn p_04_bodies_in_another_form() {
    let malformed_request = |verb, body: &[u8]| {
        assert_eq!(Request::decode(&valid(verb, 1, 0, body), 0), Err(Malformed::Body(verb)), "{body:?}");
    };
    for verb in [0x01, 0x03, 0x11] {
        malformed_request(verb, b"\0");
        malformed_request(verb, b"/path");
    }
    for (verb, whole) in [(0x10, &b"\x01\0"[..]), (0x12, &[0; 8]), (0x18, b"\0\0"), (0x23, b"\x01\0\x50\0")] {
        assert!(Request::decode(&valid(verb, 1, 0, whole), 0).is_ok());
        for cut in 0..whole.len() {
            malformed_request(verb, &whole[..cut]);
        }
    }
    // The old path is longer than all that came.
    for (len, came) in [(1u16, 0), (5, 4), (u16::MAX, 4), (0x8000, 4)] {
        malformed_request(0x18, &[&len.to_le_bytes()[..], &b"/old"[..came]].concat());
    }
    for reserved in 1..=255 {
        malformed_request(0x23, &[1, reserved, 80, 0, b'h']);
    }
    for socket in (0..=255).filter(|socket| ![1, 2, 5].contains(socket)) {
        malformed_request(0x23, &[socket, 0, 80, 0, b'h']);
    }
    malformed_replies();
}

/// P-02, P-04: addresses of another length, family or type, and names of every length near the ends.
#[test]
fn p_02_p_04_addresses_in_another_form() {
    let malformed = |verb, body: &[u8]| {
        assert_eq!(Request::decode(&valid(verb, 1, 0, body), 0), Err(Malformed::Body(verb)), "{body:?}");
    };
    for verb in [0x20, 0x21, 0x22] {
        // A bound socket is of datagrams.
        let socket = if verb == 0x21 { 2 } else { 1 };
        let typed = |address: &[u8]| [&address[..1], &[socket], &address[2..]].concat();
        for address in [typed(CONNECT_V4), typed(LISTEN_V6)] {
            assert!(Request::decode(&valid(verb, 1, 0, &address), 0).is_ok());
            for cut in 0..address.len() {
                malformed(verb, &address[..cut]);
            }
            malformed(verb, &[&address[..], b"\0"].concat());
            for family in (0..=255).filter(|family| *family != address[0]) {
                // With port 0 it would be a path or a name.
                malformed(verb, &[&[family], &address[1..]].concat());
            }
            for other in (0..=255).filter(|other| ![1, 2, 5].contains(other) || (verb == 0x21 && *other != 2)) {
                malformed(verb, &[&address[..1], &[other], &address[2..]].concat());
            }
        }
        for (family, port) in [(1, [1, 0]), (1, [0, 1]), (2, [1, 0]), (2, [0, 1])] {
            malformed(verb, &[&[family, socket], &port[..], b"name"].concat());
        }
        for len in 0..300 {
            let (name, fits) = (vec![0xff; len], (1..=107).contains(&len));
            let body = [&[2, socket, 0, 0], &name[..]].concat();
            assert_eq!(Request::decode(&valid(verb, 1, 0, &body), 0).is_ok(), fits, "{len}");
            let ask = match verb {
                0x20 => Ask::Listen(SocketType::Stream, Address::Abstract(&name)),
                0x21 => Ask::Bind(Address::Abstract(&name)),
                _ => Ask::Connect(SocketType::Stream, Address::Abstract(&name)),
            };
            let written = Request { id: 1, ask }.encode(&mut [0; 1000]);
            assert_eq!(written, if fits { Ok(HEADER_LEN + 4 + len) } else { Err(TooLong) });
            let among = Batch::encode([ask], &mut [0; 1000]).is_ok();
            assert_eq!(among, fits);
        }
    }
}

/// P-02, P-04: a call's name has 1 to 255 bytes, all of which have come; its rights are rights.
#[test]
fn p_02_p_04_calls() {
    let malformed = |body: &[u8]| {
        assert_eq!(Request::decode(&valid(0x30, 1, 0, body), 0), Err(Malformed::Body(0x30)), "{body:?}");
    };
    let whole = b"\0\0\0\0\x02ab";
    for cut in 0..whole.len() {
        malformed(&whole[..cut]);
    }
    malformed(b"\0\0\0\0\0");
    malformed(b"\0\0\0\0\0bytes");
    malformed(&[&b"\0\0\0\0\xff"[..], &[b'n'; 254]].concat());
    for bit in Right::ALL.len()..32 {
        malformed(&[&(1u32 << bit).to_le_bytes()[..], b"\x01s"].concat());
    }
    for len in [0, 1, 254, 255, 256, 257, 512] {
        let service = &vec![b'n'; len][..];
        let request = Request { id: 1, ask: Ask::Call { service, rights: Rights::ALL, bytes: b"said" } };
        let mut buffer = [0; 1000];
        let written = request.encode(&mut buffer);
        if (1..=255).contains(&len) {
            assert_eq!(Request::decode(&buffer[..written.unwrap()], 0), Ok(request));
        } else {
            assert_eq!(written, Err(TooLong), "{len}");
        }
    }
}

/// P-02, P-03: batches of 0 and 254 items, items that are cut short or say another length, reserved bytes, what may not
/// stand in a batch, and known items in another form.
#[test]
fn p_02_p_03_batches_in_another_form() {
    let malformed = |body: &[u8]| {
        let shown = &body[..body.len().min(40)];
        assert_eq!(Request::decode(&valid(0x40, 1, 0, body), 0), Err(Malformed::Body(0x40)), "{shown:?}");
    };
    let scratch: &[u8] = b"\x11\0\0\0";
    malformed(b"");
    for count in [1, 2, 252, 253] {
        let body = scratch.repeat(count);
        assert_eq!(batch(&vec![(0x11, &b""[..]); count]).len(), count);
        for cut in 1..4 {
            malformed(&body[..body.len() - cut]);
        }
        let asks = vec![Ask::Scratch; count];
        assert_eq!(Batch::encode(asks, &mut [0; 2000]).unwrap().len(), count);
    }
    for count in [254, 255, 256, 1000, (MAX_MESSAGE - HEADER_LEN) / 4] {
        malformed(&scratch.repeat(count));
        malformed(&[0x7f, 0, 0, 0].repeat(count));
        assert_eq!(Batch::encode(vec![Ask::Scratch; count], &mut vec![0; MAX_MESSAGE]), Err(TooLong));
    }
    assert_eq!(Batch::encode([], &mut [0; 10]), Err(TooLong));
    for reserved in 1..=255 {
        malformed(&[0x11, reserved, 0, 0]);
        malformed(&[0x7f, reserved, 0, 0]);
        malformed(&[scratch, &[0x11, reserved, 0, 0]].concat());
    }
    let stat = [scratch, b"\x13\0\x02\0/s", scratch].concat();
    assert!(Request::decode(&valid(0x40, 1, 0, &stat), 0).is_ok());
    // Each takes bytes of the items behind it, leaves some, or is longer than all that came.
    for len in [0u16, 1, 3, 5, 7, 255, 0x7fff, 0xfffe, 0xffff] {
        let mut body = stat.clone();
        body[6..8].copy_from_slice(&len.to_le_bytes());
        malformed(&body);
    }
    for item in [&b"\x10\0\x01\0\x01"[..], b"\x11\0\x01\0x", b"\x20\0\0\0", b"\x18\0\x02\0\x01\0", b"\x01\0\0\0"] {
        malformed(item);
        malformed(&[scratch, item, scratch].concat());
    }
}

/// P-02: batches within batches, as many as a message holds, are malformed without being read: whoever reads them has
/// a small stack here.
#[test]
fn p_02_batches_within_batches() {
    let mut body = b"\x11\0\0\0".to_vec();
    while body.len() + 4 <= 65_000 {
        let len = u16::try_from(body.len()).unwrap().to_le_bytes();
        body.splice(..0, [0x40, 0, len[0], len[1]]);
    }
    let read = move || Request::decode(&valid(0x40, 1, 0, &body), 0).map(drop);
    let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(read).unwrap();
    assert_eq!(thread.join().unwrap(), Err(Malformed::Body(0x40)));
}

/// P-02, P-03, P-08: replies to a batch with 0 and 254 answers, with counts that do not add up, and answers in another
/// form.
#[test]
fn p_02_p_03_p_08_answers_in_another_form() {
    let decode =
        |descriptors: u16, body: &[u8]| Reply::decode(&valid(0x82, 1, descriptors, body), descriptors.into()).map(drop);
    let malformed = Err(Malformed::Body(0x82));
    let (one, none): (&[u8], &[u8]) = (b"\x80\x01\0\0", b"\x80\0\0\0");
    assert_eq!(decode(0, b""), malformed);
    for count in [1u16, 2, 252, 253] {
        let body = one.repeat(count.into());
        assert_eq!(decode(count, &body), Ok(()));
        for other in [0, count - 1, count + 1, count + 256, u16::MAX] {
            assert_eq!(decode(other, &body), malformed, "{other}");
        }
        assert_eq!(decode(count, &body[..body.len() - 1]), malformed);
    }
    for count in [254, 255, 4000] {
        assert_eq!(decode(0, &none.repeat(count)), malformed);
    }
    assert_eq!(decode(u16::MAX, &b"\x80\xff\0\0".repeat(253)), malformed);
    assert_eq!(decode(255 * 253, &b"\x80\xff\0\0".repeat(253)), Ok(()));
    let refusal: &[u8] = b"\x81\0\x08\0\x01\0\0\0\x0d\0\0\0";
    assert_eq!(decode(1, &[one, refusal, none].concat()), Ok(()));
    for (place, byte) in
        [(0, 0x82), (0, 0x7f), (0, 0x00), (1, 1), (2, 7), (2, 9), (3, 1), (4, 0), (4, 9), (6, 1), (8, 0)]
    {
        let mut other = refusal.to_vec();
        other[place] = byte;
        assert_eq!(decode(0, &other), malformed, "{other:?}");
        assert_eq!(decode(0, &[none, &other, none].concat()), malformed, "{other:?}");
        assert_eq!(decode(1, &other), malformed, "{other:?}");
    }
}

/// P-02: the writer of answers keeps room for a refusal of each that is still to come, and of each that carries
/// descriptors; it takes 253 answers, and none that it cannot say.
#[test]
fn p_02_room_for_refusals() {
    let refused = Answer::Refused(Refusal { reason: Reason::Limit, errno: 11 });
    let mut buffer = [0; MAX_REPLY - HEADER_LEN];
    for carried in [0, 1, 100, 252] {
        let mut writer = AnswersWriter::new(&mut buffer);
        (0..carried).for_each(|_| writer.put(Answer::Granted { descriptors: 1, data: b"" }).unwrap());
        let further = MAX_BATCH - carried - 1;
        let data = vec![7; writer.room(further)];
        writer.put(Answer::Granted { descriptors: 0, data: &data }).unwrap();
        (0..further).for_each(|_| writer.put(refused).unwrap());
        assert_eq!(writer.put(Answer::Granted { descriptors: 0, data: b"" }), Err(TooLong), "the 254th");
        let (answers, descriptors) = writer.finish();
        assert_eq!(usize::from(descriptors), carried);
        // Those that carry descriptors are refused after all.
        let mut other = [0; MAX_REPLY - HEADER_LEN];
        let mut writer = AnswersWriter::new(&mut other);
        for answer in answers.iter() {
            let brought = matches!(answer, Answer::Granted { descriptors: 1.., .. });
            writer.put(if brought { refused } else { answer }).unwrap();
        }
        assert_eq!(writer.finish().0.iter().count(), MAX_BATCH);
    }
    let mut writer = AnswersWriter::new(&mut buffer);
    assert_eq!(writer.put(Answer::Granted { descriptors: 256, data: b"" }), Err(TooLong));
    assert_eq!(writer.put(answers(&[refused])), Err(TooLong));
    let room = writer.room(0);
    assert_eq!(writer.put(Answer::Granted { descriptors: 0, data: &vec![0; room + 1] }), Err(TooLong));
    assert_eq!(writer.put(Answer::Granted { descriptors: 0, data: &vec![0; room] }), Ok(()));
    assert_eq!((writer.room(0), writer.put(refused)), (0, Err(TooLong)));
}

fn malformed_replies() {
    let malformed_reply = |verb, body: &[u8]| {
        assert_eq!(Reply::decode(&valid(verb, 1, 0, body), 0), Err(Malformed::Body(verb)), "{body:?}");
    };
    let refusal = b"\x01\0\0\0\x0d\0\0\0";
    for cut in 0..refusal.len() {
        malformed_reply(0x81, &refusal[..cut]);
    }
    malformed_reply(0x81, b"\x01\0\0\0\x0d\0\0\0\0");
    for reason in (0..=u16::MAX).filter(|reason| !(1..=8).contains(reason)) {
        malformed_reply(0x81, &[&reason.to_le_bytes(), &refusal[2..]].concat());
    }
    for reserved in [1u16, 0x100, u16::MAX] {
        malformed_reply(0x81, &[&refusal[..2], &reserved.to_le_bytes(), &refusal[4..]].concat());
    }
    for errno in [0, 4096, 0xffff_fff3, 1 << 31, u32::MAX] {
        malformed_reply(0x81, &[&refusal[..4], &errno.to_le_bytes()].concat());
    }
}

/// P-02: a message that does not fit its buffer, or is over the largest, is not written past the buffer's end.
#[test]
fn p_02_encode_into_little_room() {
    for (bytes, request) in requests() {
        for room in 0..bytes.len() {
            assert_eq!(request.encode(&mut vec![0; room]), Err(TooLong));
        }
        assert_eq!(request.encode(&mut vec![0; bytes.len()]), Ok(bytes.len()));
    }
    for (bytes, _, reply) in replies() {
        for room in 0..bytes.len() {
            assert_eq!(reply.encode(riding(&reply.answer), &mut vec![0; room]), Err(TooLong));
        }
    }
    let mut buffer = vec![0; 2 * MAX_MESSAGE];
    for (surplus, expected) in [(0, Ok(MAX_MESSAGE)), (1, Err(TooLong)), (MAX_MESSAGE, Err(TooLong))] {
        let path = vec![b'a'; MAX_MESSAGE - HEADER_LEN - 2 + surplus];
        let request = Request { id: 1, ask: Ask::Open { access: Access::READ, path: &path } };
        assert_eq!(request.encode(&mut buffer), expected);
    }
}

/// P-04, M-04, M-05, M-13, M-14: the form of a path: empty, relative, NUL, dots, slashes and lengths.
#[test]
fn p_04_paths() {
    let name = |length| [&b"/"[..], &vec![b'n'; length]].concat();
    let deep = |length: usize| b"/d".repeat(length / 2 + 1)[..length].to_vec();
    let good: [&[u8]; 12] = [
        b"/a",
        b"/a/b",
        b"/..name",
        b"/...",
        b"/.name",
        b"/name.",
        b"/name..",
        b"/a/..b/c",
        b"/\xff\xfe",
        b"/a b\n\t\x01",
        &name(NAME_MAX),
        &deep(PATH_MAX - 2),
    ];
    for path in good {
        assert_eq!(check(path), Ok(()), "{}", path.escape_ascii());
    }
    assert_eq!(deep(PATH_MAX - 2).len(), 4094);
    let bad: [(&[u8], PathError); 24] = [
        (b"", PathError::Empty),
        (b"a", PathError::Relative),
        (b"a/b", PathError::Relative),
        (b".", PathError::Relative),
        (b"../a", PathError::Relative),
        (b"\\a", PathError::Relative),
        (b"/", PathError::TrailingSlash),
        (b"//", PathError::TrailingSlash),
        (b"/a/", PathError::TrailingSlash),
        (b"/./", PathError::TrailingSlash),
        (b"//a", PathError::EmptyComponent),
        (b"/a//b", PathError::EmptyComponent),
        (b"/.", PathError::Dots),
        (b"/..", PathError::Dots),
        (b"/./a", PathError::Dots),
        (b"/../a", PathError::Dots),
        (b"/a/../b", PathError::Dots),
        (b"/a/..", PathError::Dots),
        (b"\0", PathError::Nul),
        (b"/a\0", PathError::Nul),
        (b"/a\0/../b", PathError::Nul),
        (&name(NAME_MAX + 1), PathError::TooLong),
        (&deep(PATH_MAX), PathError::TooLong),
        (&deep(1 << 20), PathError::TooLong),
    ];
    for (path, error) in bad {
        assert_eq!(check(path), Err(error), "{}", path[..path.len().min(40)].escape_ascii());
    }
    // 4095 bytes is the longest: one more, with its NUL, the kernel does not take.
    let longest = [&b"/xy"[..], &deep(PATH_MAX - 4)].concat();
    assert_eq!((longest.len(), check(&longest)), (4095, Ok(())));
}

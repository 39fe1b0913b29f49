//! The wire format, against tables of bytes that were written out by hand from its documentation and are read both
//! ways, and against everything that is one step away from a valid message.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use fdbroker::wire::path::{NAME_MAX, PATH_MAX, PathError, check};
use fdbroker::wire::{
    Answer, Ask, HEADER_LEN, MAGIC, MAX_MESSAGE, MAX_REPLY, Malformed, Reason, Refusal, Reply, Request, Right, TooLong,
    VERSION,
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

const LISTEN_V6: &[u8] = b"fb\x01\x20\x08\x07\x06\x05\x04\x03\x02\x01\x18\0\0\0\0\0\0\0\
    \x06\0\x50\x00\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x07\0\0\0";
const CONNECT_V4: &[u8] = b"fb\x01\x21\x02\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x04\0\xbb\x01\xc0\0\x02\x63";

/// Each request as bytes, written out by hand from the tables of the documentation.
fn requests() -> Vec<(&'static [u8], Request<'static>)> {
    let file = |id, right, path| Request { id, ask: Ask::File { right, path } };
    vec![
        (b"fb\x01\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Request { id: 1, ask: Ask::Hello }),
        (
            b"fb\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\x0d\0\0\0\0\0\0\0/etc/hostname",
            file(u64::MAX, Right::Read, b"/etc/hostname"),
        ),
        (b"fb\x01\x11\0\0\0\0\0\0\0\x80\x02\0\0\0\0\0\0\0/w", file(1 << 63, Right::Write, b"/w")),
        (b"fb\x01\x12\x02\x01\0\0\0\0\0\0\x02\0\0\0\0\0\0\0/\xff", file(0x0102, Right::Append, b"/\xff")),
        (b"fb\x01\x13\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", file(0, Right::Create, b"")),
        (b"fb\x01\x14\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Request { id: 7, ask: Ask::Scratch }),
        (
            LISTEN_V6,
            Request {
                id: 0x0102_0304_0506_0708,
                ask: Ask::Listen(v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 80, 7)),
            },
        ),
        (
            CONNECT_V4,
            Request { id: 2, ask: Ask::Connect(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 99), 443))) },
        ),
    ]
}

/// Each reply as bytes, and the descriptors that ride on it.
fn replies() -> Vec<(&'static [u8], usize, Reply)> {
    let refused = |id, reason, errno| Reply { id, answer: Answer::Refused(Refusal { reason, errno }) };
    vec![
        (
            b"fb\x01\x80\x01\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0",
            1,
            Reply { id: 1, answer: Answer::Granted { descriptors: 1 } },
        ),
        (
            b"fb\x01\x80\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            0,
            Reply { id: 2, answer: Answer::Granted { descriptors: 0 } },
        ),
        (
            b"fb\x01\x81\x03\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0\x0d\0\0\0",
            0,
            refused(3, Reason::Denied, libc::EACCES),
        ),
        (
            b"fb\x01\x81\x04\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x02\0\0\0\x24\0\0\0",
            0,
            refused(4, Reason::Path, libc::ENAMETOOLONG),
        ),
        (
            b"fb\x01\x81\x05\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x03\0\0\0\x02\0\0\0",
            0,
            refused(5, Reason::Failed, libc::ENOENT),
        ),
        (b"fb\x01\x81\x06\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x04\0\0\0\xff\x0f\0\0", 0, refused(6, Reason::Kind, 4095)),
        (b"fb\x01\x81\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x05\0\0\0\x01\0\0\0", 0, refused(7, Reason::Verb, 1)),
    ]
}

/// The message that a request becomes.
fn written(request: &Request<'_>) -> Vec<u8> {
    let mut buffer = vec![0xaa; MAX_MESSAGE];
    let length = request.encode(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn replied(reply: &Reply) -> Vec<u8> {
    let mut buffer = [0xaa; MAX_REPLY];
    let length = reply.encode(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// What every input must satisfy, whatever it is: an error, or a value that is written as exactly these bytes again.
fn one_form_only(bytes: &[u8], descriptors: usize) {
    if let Ok(request) = Request::decode(bytes, descriptors) {
        assert_eq!(written(&request), bytes);
        assert_eq!(descriptors, 0);
    }
    if let Ok(reply) = Reply::decode(bytes, descriptors) {
        assert_eq!(replied(&reply), bytes);
        match reply.answer {
            Answer::Granted { descriptors: told } => assert_eq!(usize::from(told), descriptors),
            Answer::Refused(_) => assert_eq!(descriptors, 0),
        }
    }
}

/// P-01: the tables of the documentation, as bytes, read both ways.
#[test]
fn p_01_byte_tables_read_both_ways() {
    for (bytes, request) in requests() {
        assert_eq!(Request::decode(bytes, 0), Ok(request));
        assert_eq!(written(&request), bytes, "{request:?}");
        assert_eq!(Reply::decode(bytes, 0), Err(Malformed::UnknownVerb { id: request.id, verb: bytes[3] }));
    }
    for (bytes, descriptors, reply) in replies() {
        assert_eq!(Reply::decode(bytes, descriptors), Ok(reply));
        assert_eq!(replied(&reply), bytes, "{reply:?}");
        assert!(Request::decode(bytes, descriptors).is_err());
    }
    assert_eq!((MAGIC.to_le_bytes(), VERSION), (*b"fb", 1));
    assert_eq!((HEADER_LEN, MAX_REPLY, MAX_MESSAGE), (20, 28, 65536));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<SocketAddrV4>().prop_map(SocketAddr::V4),
        (any::<Ipv6Addr>(), any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| v6(ip, port, scope)),
    ]
}

#[derive(Debug, Clone)]
enum Asked {
    Hello,
    Scratch,
    File(Right, Vec<u8>),
    Listen(SocketAddr),
    Connect(SocketAddr),
}

impl Asked {
    fn ask(&self) -> Ask<'_> {
        match self {
            Self::Hello => Ask::Hello,
            Self::Scratch => Ask::Scratch,
            Self::File(right, path) => Ask::File { right: *right, path },
            Self::Listen(address) => Ask::Listen(*address),
            Self::Connect(address) => Ask::Connect(*address),
        }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let path = prop::collection::vec(any::<u8>(), 0..5000);
    prop_oneof![
        Just(Asked::Hello),
        Just(Asked::Scratch),
        (prop::sample::select(&Right::ALL[..]), path).prop_map(|(right, path)| Asked::File(right, path)),
        address().prop_map(Asked::Listen),
        address().prop_map(Asked::Connect),
    ]
}

const REASONS: [Reason; 5] = [Reason::Denied, Reason::Path, Reason::Failed, Reason::Kind, Reason::Verb];

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any::<u16>().prop_map(|descriptors| Answer::Granted { descriptors }),
        (prop::sample::select(&REASONS[..]), 1..4096i32)
            .prop_map(|(reason, errno)| Answer::Refused(Refusal { reason, errno })),
    ]
}

/// A valid message of either kind, and the descriptors that ride on it.
fn any_message() -> impl Strategy<Value = (Vec<u8>, usize)> {
    prop_oneof![
        (any::<u64>(), asked()).prop_map(|(id, asked)| (written(&Request { id, ask: asked.ask() }), 0)),
        (any::<u64>(), answer()).prop_map(|(id, answer)| {
            let riding = match answer {
                Answer::Granted { descriptors } => usize::from(descriptors),
                Answer::Refused(_) => 0,
            };
            (replied(&Reply { id, answer }), riding)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P-01: every request that can be made comes back as it was.
    #[test]
    fn p_01_requests_round_trip(id: u64, asked in asked()) {
        let request = Request { id, ask: asked.ask() };
        let bytes = written(&request);
        prop_assert_eq!(Request::decode(&bytes, 0), Ok(request));
        for descriptors in 1..4 {
            let malformed = Malformed::Descriptors { declared: 0, actual: descriptors };
            prop_assert_eq!(Request::decode(&bytes, descriptors), Err(malformed));
        }
    }

    /// P-01: every reply that the documentation allows comes back as it was, with its own number of descriptors only.
    #[test]
    fn p_01_replies_round_trip(id: u64, answer in answer(), other in 0..70_000usize) {
        let reply = Reply { id, answer };
        let bytes = replied(&reply);
        let riding = match answer { Answer::Granted { descriptors } => descriptors, Answer::Refused(_) => 0 };
        prop_assert_eq!(Reply::decode(&bytes, usize::from(riding)), Ok(reply));
        if other != usize::from(riding) {
            let malformed = Malformed::Descriptors { declared: riding, actual: other };
            prop_assert_eq!(Reply::decode(&bytes, other), Err(malformed));
        }
    }

    /// P-02, P-03: any bytes at all, with any number of descriptors, and any valid message with any of its bytes
    /// changed: never a panic, never a second form of one value.
    #[test]
    fn p_02_p_03_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80), descriptors in 0..4usize) {
        one_form_only(&bytes, descriptors);
        let mut headed = message(bytes.first().copied().unwrap_or(1), 1, 0, 0, 0, &bytes);
        headed[12..16].copy_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        one_form_only(&headed, 0);
    }

    /// P-02, P-03: see above.
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
    let bytes = written(&Request { id: 1, ask: Ask::Connect(flowing) });
    let expected = Request { id: 1, ask: Ask::Connect(v6(Ipv6Addr::LOCALHOST, 1, 3)) };
    assert_eq!(Request::decode(&bytes, 0), Ok(expected));
}

/// P-01, P-03: an errno that is none can be put into a refusal by hand; whoever reads it refuses it, and sees no other.
#[test]
fn p_01_p_03_an_errno_that_is_none() {
    for errno in [0, -1, -13, 4096, i32::MAX, i32::MIN] {
        let bytes = replied(&Reply { id: 1, answer: Answer::Refused(Refusal { reason: Reason::Failed, errno }) });
        assert_eq!(Reply::decode(&bytes, 0), Err(Malformed::Body(0x81)), "{errno}");
    }
}

/// P-02: every valid message without its last bytes, and with bytes behind it, is malformed, whatever is cut off or
/// added.
#[test]
fn p_02_every_truncation_and_extension() {
    let requests = requests().into_iter().map(|(bytes, _)| (bytes, 0));
    let replies = replies().into_iter().map(|(bytes, descriptors, _)| (bytes, descriptors));
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
            let longer = [bytes, surplus].concat();
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
            let mut flipped = bytes.to_vec();
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
    }
    let length = u32::try_from(MAX_MESSAGE - HEADER_LEN).unwrap();
    let largest = message(0x10, 9, length, 0, 0, &vec![b'a'; MAX_MESSAGE - HEADER_LEN]);
    assert!(Request::decode(&largest, 0).is_ok());
    let larger = message(0x10, 9, length + 1, 0, 0, &vec![b'a'; MAX_MESSAGE - HEADER_LEN + 1]);
    assert_eq!(Request::decode(&larger, 0), Err(Malformed::Oversize));
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
        let unknown = Err(Malformed::UnknownVerb { id: u64::MAX, verb });
        for body in [&b""[..], b"/any/body"] {
            if !matches!(verb, 0x01 | 0x10..=0x14 | 0x20 | 0x21) {
                assert_eq!(Request::decode(&valid(verb, u64::MAX, 0, body), 0), unknown);
            }
            if !matches!(verb, 0x80 | 0x81) {
                assert_eq!(
                    Reply::decode(&valid(verb, u64::MAX, 0, body), 0),
                    unknown.map(|_: Request<'_>| unreachable!())
                );
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
    for verb in [0x01, 0x14] {
        malformed_request(verb, b"\0");
        malformed_request(verb, b"/path");
    }
    let (four, six) = (&CONNECT_V4[HEADER_LEN..], &LISTEN_V6[HEADER_LEN..]);
    for verb in [0x20, 0x21] {
        for address in [four, six] {
            for cut in 0..address.len() {
                malformed_request(verb, &address[..cut]);
            }
            malformed_request(verb, &[address, b"\0"].concat());
            for family in (0..=255).filter(|&family| family != address[0]) {
                malformed_request(verb, &[&[family], &address[1..]].concat());
            }
            for reserved in 1..=255 {
                malformed_request(verb, &[&address[..1], &[reserved], &address[2..]].concat());
            }
        }
    }
    let malformed_reply = |verb, body: &[u8]| {
        assert_eq!(Reply::decode(&valid(verb, 1, 0, body), 0), Err(Malformed::Body(verb)), "{body:?}");
    };
    malformed_reply(0x80, b"\0");
    let refusal = b"\x01\0\0\0\x0d\0\0\0";
    for cut in 0..refusal.len() {
        malformed_reply(0x81, &refusal[..cut]);
    }
    malformed_reply(0x81, b"\x01\0\0\0\x0d\0\0\0\0");
    for reason in (0..=u16::MAX).filter(|reason| !(1..=5).contains(reason)) {
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
            assert_eq!(reply.encode(&mut vec![0; room]), Err(TooLong));
        }
    }
    let mut buffer = vec![0; 2 * MAX_MESSAGE];
    for (surplus, expected) in [(0, Ok(MAX_MESSAGE)), (1, Err(TooLong)), (MAX_MESSAGE, Err(TooLong))] {
        let path = vec![b'a'; MAX_MESSAGE - HEADER_LEN + surplus];
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

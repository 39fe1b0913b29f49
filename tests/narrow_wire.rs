//! A narrowing on the wire, against bytes that were written out by hand from the tables of its documentation, and
//! against everything that is nearly one.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use common::served::{ended, raw};
use fdbroker::policy::{Narrowing, Network, Ports};
use fdbroker::wire::{Ask, Batch, MAX_MESSAGE, MAX_NETWORKS, Malformed, Narrow, Request, Right, Rights, TooLong};
use fdbroker::{Fault, Policy};
use proptest::prelude::*;

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

/// The message with this body, by hand.
fn message(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"fb\x01\x02\x07\0\0\0\0\0\0\0".to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

/// Bodies, written out by hand, and what they say.
fn table() -> Vec<(&'static [u8], Narrowing)> {
    let v6 = b"\x03\0\x16\0\x06\x20\0\0\xff\xff\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\0";
    vec![
        (b"", Narrowing::new()),
        (b"\x01\0\x04\0\x03\0\0\0", Narrowing::new().rights([Right::Read, Right::Write])),
        (b"\x01\0\x04\0\0\0\x03\0", Narrowing::new().rights([Right::Connect, Right::Call])),
        (b"\x01\0\x04\0\0\0\0\0", Narrowing::new().rights(Rights::NONE)),
        (b"\x02\0\x0a\0\x02\0/a\x04\0/b/c", Narrowing::new().paths(["/b/c", "/a"])),
        (b"\x02\0\0\0", Narrowing::new().paths([""; 0])),
        (
            b"\x03\0\x0a\0\x04\x08\x50\0\xbb\x01\x0a\0\0\0",
            Narrowing::new().connect([(network("10.0.0.0/8"), (80..=443).into())]),
        ),
        (v6, Narrowing::new().connect([(network("2001:db8::/32"), (0..=65535).into())])),
        (b"\x03\0\0\0", Narrowing::new().connect([])),
        (b"\x04\0\x0a\0\x04\x20\0\0\0\0\x7f\0\0\x01", Narrowing::new().listen([(network("127.0.0.1"), 0.into())])),
        (b"\x05\0\x03\0\x01\0h", Narrowing::new().hosts(["H"])),
        (b"\x06\0\x04\0\x02\0@\xff", Narrowing::new().abstract_names([b"@\xff"])),
        (b"\x07\0\x06\0\x04\0sign", Narrowing::new().services(["sign"])),
        (b"\x01\0\x04\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05\0\0\0\x06\0\0\0\x07\0\0\0", Narrowing::nothing()),
    ]
}

/// P-01: the tables of the documentation, as bytes, read both ways.
#[test]
fn p_01_bytes_of_a_narrowing_read_both_ways() {
    for (body, narrowing) in table() {
        let mut buffer = vec![0xaa; MAX_MESSAGE];
        let narrow = narrowing.encode(&mut buffer).unwrap();
        assert_eq!(Narrow::decode(body), Some(narrow), "{narrowing:?}");
        let bytes = message(body);
        let request = Request { id: 7, ask: Ask::Narrow(narrow) };
        assert_eq!(Request::decode(&bytes, 0), Ok(request));
        let mut written = vec![0xaa; MAX_MESSAGE];
        let len = request.encode(&mut written).unwrap();
        assert_eq!(written[..len], bytes);
        // And what is read is what was meant.
        assert_eq!(Narrowing::from(narrow), narrowing);
    }
}

/// Bodies that are one step away from a narrowing.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let mut bodies: Vec<(&str, Vec<u8>)> = vec![
        ("no tag", b"\0\0\0\0".to_vec()),
        ("an unknown tag", b"\x08\0\0\0".to_vec()),
        ("an unknown tag behind a known one", b"\x02\0\0\0\xff\0\0\0".to_vec()),
        ("a reserved byte", b"\x02\x01\0\0".to_vec()),
        ("a tag two times", b"\x02\0\0\0\x02\0\0\0".to_vec()),
        ("rights two times", b"\x01\0\x04\0\0\0\0\0\x01\0\x04\0\x01\0\0\0".to_vec()),
        ("tags out of order", b"\x03\0\0\0\x02\0\0\0".to_vec()),
        ("half a head", b"\x02\0\0".to_vec()),
        ("a byte behind", b"\x02\0\0\0\0".to_vec()),
        ("a section over the end", b"\x02\0\x01\0".to_vec()),
        ("rights without a number", b"\x01\0\0\0".to_vec()),
        ("rights of three bytes", b"\x01\0\x03\0\0\0\0".to_vec()),
        ("rights of five bytes", b"\x01\0\x05\0\0\0\0\0\0".to_vec()),
        ("a bit that is no right", b"\x01\0\x04\0\0\0\0\x80".to_vec()),
        ("a name over the section's end", b"\x02\0\x04\0\x03\0/a\x07\0\0\0".to_vec()),
        ("half a name's length", b"\x07\0\x01\0\0".to_vec()),
        ("a network of no family", b"\x03\0\x0a\0\x05\x08\0\0\0\0\x0a\0\0\0".to_vec()),
        ("a prefix too long for IPv4", b"\x03\0\x0a\0\x04\x21\0\0\0\0\x0a\0\0\0".to_vec()),
        ("bits beyond the prefix", b"\x03\0\x0a\0\x04\x08\0\0\0\0\x0a\0\0\x01".to_vec()),
        ("ports backwards", b"\x04\0\x0a\0\x04\x08\x02\0\x01\0\x0a\0\0\0".to_vec()),
        ("half a network", b"\x04\0\x09\0\x04\x08\0\0\0\0\x0a\0\0".to_vec()),
        ("IPv4's size for IPv6", b"\x04\0\x0a\0\x06\0\0\0\0\0\0\0\0\0".to_vec()),
    ];
    let mut mapped = b"\x03\0\x16\0\x06\x60\0\0\0\0".to_vec();
    mapped.extend("::ffff:0:0".parse::<std::net::Ipv6Addr>().unwrap().octets());
    bodies.push(("IPv4 in IPv6 form", mapped));
    let mut long = b"\x03\0\x16\0\x06\x81\0\0\0\0".to_vec();
    long.extend([0; 16]);
    bodies.push(("a prefix too long for IPv6", long));
    let count = MAX_NETWORKS + 1;
    let mut many = vec![3, 0];
    many.extend(u16::try_from(count * 10).unwrap().to_le_bytes());
    many.extend(b"\x04\x08\0\0\0\0\x0a\0\0\0".repeat(count));
    bodies.push(("too many networks", many));
    bodies
}

/// P-02: what is nearly a narrowing is malformed, and ends the service; nothing of it is applied.
#[test]
fn p_02_hostile_narrowings_end_the_service() {
    for (what, body) in malformed() {
        assert_eq!(Narrow::decode(&body), None, "{what}");
        let bytes = message(&body);
        assert_eq!(Request::decode(&bytes, 0), Err(Malformed::Body(2)), "{what}");
        let (service, mut raw) = raw(Policy::builder().build().unwrap());
        raw.ask(Ask::Hello).unwrap();
        raw.send_bytes(&bytes).unwrap();
        assert!(raw.reply().is_err(), "{what}: answered");
        assert!(matches!(ended(service), Err(Fault::Malformed(Malformed::Body(2)))), "{what}");
    }
}

/// P-02: a narrowing does not stand in a batch, which is malformed with one.
#[test]
fn p_02_no_narrowing_in_a_batch() {
    let (mut one, mut other) = ([0; 64], [0; 64]);
    let narrow = Narrowing::nothing().encode(&mut one).unwrap();
    assert_eq!(Batch::encode([Ask::Narrow(narrow)], &mut other), Err(TooLong));
    let bytes = b"fb\x01\x40\x07\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x02\0\0\0";
    assert_eq!(Request::decode(bytes, 0), Err(Malformed::Body(0x40)));
}

/// What does not fit a message is not cut, and neither is what has more networks than are taken.
#[test]
fn what_does_not_fit_is_not_sent() {
    let mut buffer = vec![0; MAX_MESSAGE];
    let names: Vec<_> = (0..12_000).map(|n| format!("/{n:04}")).collect();
    assert_eq!(Narrowing::new().paths(&names).encode(&mut buffer), Err(TooLong));
    assert!(Narrowing::new().paths(&names[..8_000]).encode(&mut buffer).is_ok());
    assert_eq!(Narrowing::new().services(["x".repeat(70_000)]).encode(&mut buffer), Err(TooLong));
    let networks = |count: usize| (0..count).map(|n| (network("10.0.0.0/8"), Ports::from(u16::try_from(n).unwrap())));
    assert_eq!(Narrowing::new().listen(networks(257)).encode(&mut buffer), Err(TooLong));
    assert!(Narrowing::new().listen(networks(256)).encode(&mut buffer).is_ok());
    assert_eq!(Narrowing::nothing().encode(&mut buffer[..31]), Err(TooLong));
    assert!(Narrowing::nothing().encode(&mut buffer[..32]).is_ok());
}

/// In the audit a narrowing is one line, and a name cannot make it two.
#[test]
fn a_narrowing_is_one_line_of_a_log() {
    let less = Narrowing::new().rights([Right::Read, Right::Stat]).paths(["/a\nb", "/c"]).hosts([""; 0]);
    let less = less.connect([(network("10.0.0.0/8"), 80.into())]);
    let mut buffer = [0; 128];
    let line = Ask::Narrow(less.encode(&mut buffer).unwrap()).to_string();
    assert_eq!(line, r"narrow rights (read, stat) paths (/a\nb, /c) connect (10.0.0.0/8 ports 80) hosts ()");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// P-02, P-03: any bytes, and any narrowing with some of its bytes changed: never a panic, never bytes that come
    /// back as others.
    #[test]
    fn p_02_p_03_any_bytes_of_a_narrowing(
        place in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let table = table();
        let mut body = table[place.index(table.len())].0.to_vec();
        for (place, byte) in changes {
            if !body.is_empty() {
                let place = place.index(body.len());
                body[place] = byte;
            }
        }
        for body in [body, noise] {
            let bytes = message(&body);
            let Ok(request) = Request::decode(&bytes, 0) else { continue };
            let mut buffer = vec![0xaa; MAX_MESSAGE];
            let len = request.encode(&mut buffer).unwrap();
            prop_assert_eq!(&buffer[..len], &bytes[..]);
            let Ask::Narrow(narrow) = request.ask else { panic!("another request") };
            // It says the same when it has been understood and is said again.
            let understood = Narrowing::from(narrow);
            let mut again = vec![0; MAX_MESSAGE];
            prop_assert_eq!(&Narrowing::from(understood.encode(&mut again).unwrap()), &understood);
            let _ = request.ask.to_string();
        }
    }
}

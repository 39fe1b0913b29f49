//! P-18, P-12, P-15: control data, as a kernel or a hostile libc might leave it. Arbitrary bytes never panic and never
//! make a descriptor of a negative number, nor more of them than fit; blocks that are well-formed give exactly their
//! descriptors, in order, whatever lies between them. The first byte of the input says which of the two the rest is.
#![no_main]

use fdbroker::parse_control_data;

const SCM_PIDFD: i32 = 4;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, bytes)) => arbitrary(bytes),
        Some((_, bytes)) => well_formed(bytes),
        None => {}
    }
});

fn arbitrary(bytes: &[u8]) {
    let (numbers, _) = parse_control_data(bytes);
    assert!(numbers.len() <= bytes.len() / 4);
    assert!(numbers.iter().all(|&number| number >= 0));
    for cut in 0..bytes.len().min(64) {
        let (fewer, _) = parse_control_data(&bytes[..cut]);
        assert!(numbers.len() >= fewer.len() && numbers.starts_with(&fewer), "a cut invents nothing");
    }
}

/// Each block is made of a byte for its type, a byte for its length, and its data.
fn well_formed(mut bytes: &[u8]) {
    let (mut control, mut numbers, mut credentials) = (Vec::new(), Vec::new(), false);
    while let [kind, length, rest @ ..] = bytes {
        let (data, rest) = rest.split_at(rest.len().min((*length).into()));
        bytes = rest;
        let (level, kind) = match kind % 6 {
            0 | 1 => (libc::SOL_SOCKET, libc::SCM_RIGHTS),
            2 => (libc::SOL_SOCKET, SCM_PIDFD),
            3 => (libc::SOL_SOCKET, libc::SCM_CREDENTIALS),
            4 => (libc::SOL_SOCKET, i32::from(*kind)),
            _ => (libc::IPPROTO_IP, i32::from(*kind)),
        };
        // SAFETY: adds numbers up.
        let (len, space) = unsafe { (libc::CMSG_LEN(data.len() as u32), libc::CMSG_SPACE(data.len() as u32)) };
        let start = control.len();
        control.extend_from_slice(&(len as usize).to_ne_bytes());
        control.extend_from_slice(&level.to_ne_bytes());
        control.extend_from_slice(&kind.to_ne_bytes());
        control.extend_from_slice(data);
        control.resize(start + space as usize, 0xff);
        if level == libc::SOL_SOCKET && (kind == libc::SCM_RIGHTS || kind == SCM_PIDFD) {
            let slots = data.chunks_exact(4).map(|slot| i32::from_ne_bytes(slot.try_into().expect("four bytes")));
            numbers.extend(slots.filter(|&number| number >= 0));
        }
        credentials |= level == libc::SOL_SOCKET && kind == libc::SCM_CREDENTIALS && data.len() >= 12;
    }
    assert_eq!(parse_control_data(&control), (numbers, credentials));
}

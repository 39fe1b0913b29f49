//! Services of the daemon's own: what goes in, what comes out, and who may call them.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::panic, reason = "a test")]

mod common;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use common::served::{PATIENCE, client_of, ended};
use common::{directory, identity, open_fds};
use fdbroker::wire::{HEADER_LEN, MAX_BATCH, MAX_MESSAGE, MAX_REPLY, Reason, Refusal, Right, Rights};
use fdbroker::{Broker, ChannelError, ClientError, Fault, Limits, Policy, Rule};

/// Most that a reply tells.
const ROOM: usize = MAX_REPLY - HEADER_LEN;

fn calls(rule: fdbroker::policy::ServiceRule) -> Policy {
    Policy::builder().allow(rule).build().unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (Reason, i32) {
    let Refusal { reason, errno } = result.unwrap_err().refusal().expect("a refusal");
    (reason, errno)
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// P-01: a service is told the worker's name, its phase, exactly the rights that are asked for, and its bytes, from
/// none to as many as a message holds; what it says comes back.
#[test]
fn p_01_bytes_and_rights() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = seen.clone();
    let broker = Broker::new().service("echo", move |call, gift| {
        see.lock().unwrap().push((call.worker().to_owned(), call.phase().to_owned(), call.rights()));
        // In two parts, as it likes.
        let (half, rest) = call.bytes().split_at(call.bytes().len() / 2);
        gift.write(half)?;
        gift.write(rest)
    });
    let rights = [Right::Read, Right::Write];
    let (_service, client) = client_of(&broker, calls(Rule::service("echo").grant(rights)));
    for len in [0, 1, 255, 4096, ROOM] {
        let said: Vec<u8> = (0..251).cycle().take(len).collect();
        let called = client.call("echo", Right::Read, &said).unwrap();
        assert_eq!(called.bytes, said);
        assert!(called.fds.is_empty());
    }
    client.call("echo", Rights::NONE, b"").unwrap();
    client.call("echo", rights, b"").unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().all(|(worker, phase, _)| worker == "client" && !phase.contains('/')));
    assert_eq!(seen[0].2, Rights::from(Right::Read));
    assert_eq!((seen[5].2, seen[6].2), (Rights::NONE, rights.into()));
}

/// P-02: the largest call that a message holds arrives; a larger one, and one without a name, is not sent.
#[test]
fn p_02_the_largest_call() {
    let broker = Broker::new().service("length", |call, gift| gift.write(&call.bytes().len().to_le_bytes()));
    let (_service, client) = client_of(&broker, calls(Rule::service("length")));
    let most = MAX_MESSAGE - HEADER_LEN - 5 - "length".len();
    let bytes = vec![7; most + 1];
    assert_eq!(client.call("length", Rights::NONE, &bytes[..most]).unwrap().bytes, most.to_le_bytes());
    for (name, bytes) in [("length", &bytes[..]), ("", b""), (&"n".repeat(256), b"")] {
        let error = client.call(name, Rights::NONE, bytes).unwrap_err();
        assert!(matches!(error, ClientError::Channel { source: ChannelError::TooLarge, .. }), "{error}");
    }
    client.call("length", Rights::NONE, b"").unwrap();
}

/// P-02: what a reply has no room for is EMSGSIZE to the service, and adds nothing to what was given before.
#[test]
fn p_02_a_gift_over_the_reply() {
    let broker = Broker::new().service("large", |call, gift| {
        let first = usize::from_le_bytes(call.bytes().try_into().unwrap());
        gift.write(&vec![1; first])?;
        let error = gift.write(&vec![2; ROOM - first + 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        gift.write(b"")
    });
    let broker = broker.service("too large", |_, gift| gift.write(&[0; ROOM + 1]));
    let policy = Policy::builder().allow(Rule::service("large")).allow(Rule::service("too large")).build().unwrap();
    let (_service, client) = client_of(&broker, policy);
    for first in [0usize, 1, 1000, ROOM] {
        let called = client.call("large", Rights::NONE, &first.to_le_bytes()).unwrap();
        assert_eq!(called.bytes, vec![1; first]);
    }
    assert_eq!(refusal(client.call("too large", Rights::NONE, b"")), (Reason::Failed, libc::EMSGSIZE));
}

/// P-08, F-01: 0, 1, 2 and 253 descriptors come in their order, each the file that was given, and the broker keeps
/// none; the 254th is refused to the service.
#[test]
fn p_08_f_01_descriptors() {
    common::alone("p_08_f_01_descriptors", || {
        let (_keep, root) = directory();
        let paths: Vec<PathBuf> = (0..254).map(|number| root.join(number.to_string())).collect();
        paths.iter().for_each(|path| std::fs::write(path, b"").unwrap());
        let given = paths.clone();
        let broker = Broker::new().service("files", move |call, gift| {
            let count = usize::from(call.bytes()[0]);
            for path in &given[..count] {
                gift.push(File::open(path)?)?;
            }
            gift.write(b"given")
        });
        let (_service, client) = client_of(&broker, calls(Rule::service("files")));
        client.hello().unwrap();
        let before = open_fds();
        for count in [0u8, 1, 2, 253] {
            let called = client.call("files", Rights::NONE, &[count]).unwrap();
            assert_eq!((called.bytes.as_slice(), called.fds.len()), (&b"given"[..], usize::from(count)));
            for (fd, path) in called.fds.iter().zip(&paths) {
                assert_eq!(identity(fd), identity(File::open(path).unwrap()));
            }
            drop(called);
            client.hello().unwrap();
            assert_eq!(open_fds(), before, "{count}");
        }
        assert_eq!(refusal(client.call("files", Rights::NONE, &[254])), (Reason::Failed, libc::EAGAIN));
        client.hello().unwrap();
        assert_eq!(open_fds(), before, "what it had pushed until then is closed");
        assert_eq!(MAX_BATCH, 253);
    });
}

/// M-09: what the rule does not grant is refused, and the service not called; so is what no rule allows, and what one
/// denies. One that nobody has registered is ENOSYS.
#[test]
fn m_09_who_may_call() {
    let called = Arc::new(AtomicUsize::new(0));
    let count = called.clone();
    let broker = Broker::new().service("sign", move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let rule = Rule::service("sign").grant([Right::Read, Right::Stat]);
    let policy = Policy::builder().allow(rule).allow(Rule::service("nobody's")).refuse_with(libc::EPERM).build();
    let (_service, client) = client_of(&broker, policy.unwrap());
    let mut allowed = 0;
    for right in Right::ALL {
        let answer = client.call("sign", right, b"");
        if matches!(right, Right::Read | Right::Stat | Right::Call) {
            answer.unwrap();
            allowed += 1;
        } else {
            assert_eq!(refusal(answer), (Reason::Denied, libc::EPERM), "{right}");
        }
        assert_eq!(called.load(Ordering::Relaxed), allowed, "{right}");
    }
    let denied = (Reason::Denied, libc::EPERM);
    assert_eq!(refusal(client.call("sign", [Right::Read, Right::Write], b"")), denied);
    assert_eq!(refusal(client.call("sign", Rights::ALL, b"")), denied);
    // Names are whole names.
    for name in ["sig", "signs", "Sign", "sign\0", "sign ", "other", "*"] {
        assert_eq!(refusal(client.call(name, Rights::NONE, b"")), denied, "{name}");
    }
    assert_eq!(refusal(client.call("nobody's", Rights::NONE, b"")), (Reason::Failed, libc::ENOSYS));
    assert_eq!(refusal(client.call("nobody's", Right::Read, b"")), denied);
    assert_eq!(called.load(Ordering::Relaxed), allowed);
}

/// F-01: a service's error is told by its errno, EIO where it has none that can be told; what it has given until then
/// is neither told nor kept.
#[test]
fn f_01_errors_of_a_service() {
    common::alone("f_01_errors_of_a_service", || {
        let broker = Broker::new().service("fails", |call, gift| {
            gift.write(b"secret")?;
            for _ in 0..7 {
                gift.push(File::open("/dev/null")?)?;
            }
            match call.bytes() {
                [] => Err(io::Error::other("without an errno")),
                errno => Err(os(i32::from_le_bytes(errno.try_into().unwrap()))),
            }
        });
        let (_service, client) = client_of(&broker, calls(Rule::service("fails")));
        client.hello().unwrap();
        let before = open_fds();
        for errno in [1, libc::ENOENT, libc::EKEYREJECTED, 4095] {
            let answer = client.call("fails", Rights::NONE, &errno.to_le_bytes());
            assert_eq!(refusal(answer), (Reason::Failed, errno));
        }
        for none in [0, -1, 4096, i32::MIN, i32::MAX] {
            let answer = client.call("fails", Rights::NONE, &none.to_le_bytes());
            assert_eq!(refusal(answer), (Reason::Failed, libc::EIO), "{none}");
        }
        assert_eq!(refusal(client.call("fails", Rights::NONE, b"")), (Reason::Failed, libc::EIO));
        client.hello().unwrap();
        assert_eq!(open_fds(), before);
    });
}

/// L-09: a service that panics ends the service of the worker that called it, and of no other; what it had given is
/// closed.
#[test]
fn l_09_a_panic_in_a_service() {
    common::alone("l_09_a_panic_in_a_service", || {
        let broker = Broker::new().service("panics", |_, gift| {
            gift.push(File::open("/dev/null")?)?;
            panic!("it fell over")
        });
        let rules = Policy::builder().allow(Rule::service("panics")).allow(Rule::file("/etc/passwd").read());
        let policy = Arc::new(rules.build().unwrap());
        let (other, others) = client_of(&broker, policy.clone());
        drop(others.read("/etc/passwd").unwrap());
        others.hello().unwrap();
        let before = open_fds();
        for _ in 0..3 {
            let (service, client) = client_of(&broker, policy.clone());
            let error = client.call("panics", Rights::NONE, b"").unwrap_err();
            assert!(matches!(error, ClientError::Channel { source: ChannelError::Disconnected, .. }), "{error}");
            let fault = ended(service).unwrap_err();
            assert!(matches!(&fault, Fault::Panicked(text) if text == "it fell over"), "{fault}");
            drop(client);
            drop(others.read("/etc/passwd").unwrap());
            others.hello().unwrap();
            assert_eq!(open_fds(), before);
        }
        drop(others);
        ended(other).unwrap();
    });
}

/// M-10: two workers of one broker, each with a policy of its own, have each what is its own.
#[test]
fn m_10_two_workers() {
    let broker = Broker::new()
        .service("sign", |call, gift| gift.write(format!("signed for {}", call.worker()).as_bytes()))
        .service("log", |_, gift| gift.write(b"logged"));
    let (_first, signs) = client_of(&broker, calls(Rule::service("sign").grant([Right::Read])));
    let (_second, logs) = client_of(&broker, calls(Rule::service("log").grant([Right::Write])));
    for _ in 0..2 {
        assert_eq!(signs.call("sign", Right::Read, b"").unwrap().bytes, b"signed for client");
        assert_eq!(logs.call("log", Right::Write, b"").unwrap().bytes, b"logged");
        let denied = (Reason::Denied, libc::EACCES);
        assert_eq!(refusal(signs.call("log", Rights::NONE, b"")), denied);
        assert_eq!(refusal(logs.call("sign", Rights::NONE, b"")), denied);
        assert_eq!(refusal(logs.call("log", Right::Read, b"")), denied);
    }
}

/// N-07: what is granted once is had once, by each worker; a call that fails does not use it up.
#[test]
fn n_07_once() {
    let broker = Broker::new().service("once", |call, _| match call.bytes() {
        b"fail" => Err(os(libc::EBUSY)),
        _ => Ok(()),
    });
    let policy = Arc::new(calls(Rule::service("once").once()));
    for _ in 0..2 {
        let (_service, client) = client_of(&broker, policy.clone());
        for _ in 0..2 {
            assert_eq!(refusal(client.call("once", Rights::NONE, b"fail")), (Reason::Failed, libc::EBUSY));
        }
        client.call("once", Rights::NONE, b"").unwrap();
        for bytes in [&b""[..], b"fail"] {
            assert_eq!(refusal(client.call("once", Rights::NONE, bytes)), (Reason::Denied, libc::EACCES));
        }
    }
}

/// N-08: a service begins the next phase of the worker that calls it, and of no other: from the next request on the
/// worker has what that phase grants, and to ask for what it no more grants is a fault.
#[test]
fn n_08_a_service_begins_a_phase() {
    let broker = Broker::new().service("authenticate", |call, gift| {
        if call.bytes() != b"password" {
            return Err(os(libc::EKEYREJECTED));
        }
        assert!(call.enter_phase("no such phase").is_err());
        call.enter_phase("authenticated").map_err(io::Error::other)?;
        gift.write(call.phase().as_bytes())
    });
    let file = || Rule::file("/etc/passwd").read();
    let policy = Policy::builder()
        .phase("new", |phase| phase.allow(Rule::service("authenticate")))
        .phase("authenticated", |phase| phase.allow(file()))
        .build();
    let policy = Arc::new(policy.unwrap());
    let (service, client) = client_of(&broker, policy.clone());
    let (_other, others) = client_of(&broker, policy);
    let denied = (Reason::Denied, libc::EACCES);
    assert_eq!(refusal(client.read("/etc/passwd")), denied);
    let wrong = client.call("authenticate", Rights::NONE, b"guess");
    assert_eq!(refusal(wrong), (Reason::Failed, libc::EKEYREJECTED));
    assert_eq!(refusal(client.read("/etc/passwd")), denied);
    assert_eq!(client.call("authenticate", Rights::NONE, b"password").unwrap().bytes, b"authenticated");
    assert_eq!(service.standing().phase(), "authenticated");
    client.read("/etc/passwd").unwrap();
    assert_eq!(refusal(others.read("/etc/passwd")), denied);
    assert!(client.call("authenticate", Rights::NONE, b"password").is_err());
    let fault = ended(service).unwrap_err();
    assert!(matches!(fault, Fault::PhaseOver), "{fault}");
}

/// L-05: while a service is at work for one worker, others are served.
#[test]
fn l_05_a_slow_service() {
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let broker = Broker::new()
        .service("slow", move |_, _| told.lock().unwrap().recv_timeout(PATIENCE).map_err(io::Error::other));
    let policy = Policy::builder().allow(Rule::service("slow")).allow(Rule::file("/etc/passwd").read()).build();
    let policy = Arc::new(policy.unwrap());
    let (_slow, waits) = client_of(&broker, policy.clone());
    let (_other, others) = client_of(&broker, policy);
    let waiting = std::thread::spawn(move || waits.call("slow", Rights::NONE, b"").map(drop));
    (0..10).for_each(|_| drop(others.read("/etc/passwd").unwrap()));
    // It ends only now.
    tell.send(()).unwrap();
    waiting.join().unwrap().unwrap();
}

/// P-20: a service gives no more descriptors than the worker's limit, and is told so.
#[test]
fn p_20_a_gift_over_the_limit() {
    let broker = Broker::new().limits(Limits::new().descriptors_outstanding(3.try_into().unwrap()));
    let broker = broker.service("files", |call, gift| {
        for _ in 0..3 {
            gift.push(File::open("/dev/null")?)?;
        }
        let error = gift.push(File::open("/dev/null")?).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        if call.bytes().is_empty() { Ok(()) } else { Err(error) }
    });
    let (_service, client) = client_of(&broker, calls(Rule::service("files")));
    for _ in 0..3 {
        assert_eq!(client.call("files", Rights::NONE, b"").unwrap().fds.len(), 3);
        assert_eq!(refusal(client.call("files", Rights::NONE, b"fail")), (Reason::Failed, libc::EAGAIN));
    }
}

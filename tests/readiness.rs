//! A worker says that it is ready, and its broker waits for that.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::served::{PATIENCE, client, client_of, ended, raw};
use fdbroker::wire::{Ask, Batch, MAX_MESSAGE, TooLong};
use fdbroker::{Broker, Limits, NotReady, Policy};

fn nothing() -> Policy {
    Policy::builder().build().unwrap()
}

#[test]
fn a_worker_is_ready_when_it_has_said_so_and_not_before() {
    let (service, client) = client(nothing());
    client.hello().unwrap();
    assert!(!service.is_ready());
    assert_eq!(service.wait_ready(Duration::ZERO), Err(NotReady::TimedOut));
    client.ready().unwrap();
    assert!(service.is_ready());
    assert_eq!(service.wait_ready(Duration::ZERO), Ok(()));
}

#[test]
fn who_waits_is_woken() {
    let (service, client) = client(nothing());
    thread::scope(|scope| {
        let waits = [(); 2].map(|()| scope.spawn(|| service.wait_ready(PATIENCE)));
        client.ready().unwrap();
        for wait in waits {
            assert_eq!(wait.join().unwrap(), Ok(()));
        }
    });
}

/// As of sd_notify(3): to say it again does no harm. Each time is a request, with its record.
#[test]
fn to_say_it_again_changes_nothing() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let records = lines.clone();
    let broker = Broker::new().audit(move |record| records.lock().unwrap().push(record.to_string()));
    let (service, client) = client_of(&broker, nothing());
    client.ready().unwrap();
    client.ready().unwrap();
    assert_eq!(service.wait_ready(PATIENCE), Ok(()));
    drop(client);
    ended(service).unwrap();
    let expected = ["client: start", "client: ready: granted", "client: ready: granted", "client: end: hung up"];
    assert_eq!(*lines.lock().unwrap(), expected);
}

#[test]
fn a_worker_that_hangs_up_will_not_be_ready() {
    let (service, client) = client(nothing());
    thread::scope(|scope| {
        let wait = scope.spawn(|| service.wait_ready(PATIENCE));
        drop(client);
        assert_eq!(wait.join().unwrap(), Err(NotReady::Ended));
    });
    assert!(!service.is_ready());
}

#[test]
fn a_worker_that_was_ready_was_ready() {
    let (service, client) = client(nothing());
    client.ready().unwrap();
    service.stop();
    assert!(client.hello().is_err());
    assert_eq!(service.wait_ready(PATIENCE), Ok(()));
}

/// The limit on requests counts it, and a worker that is told EAGAIN has not been heard.
#[test]
fn over_its_limit_a_worker_is_not_heard() {
    let broker = Broker::new().limits(Limits::new().requests_per_second(NonZeroU32::MIN));
    let (service, client) = client_of(&broker, nothing());
    let refused = (0..1000).find_map(|_| client.hello().err()).unwrap();
    assert_eq!(refused.refusal().unwrap().errno, libc::EAGAIN);
    // On a slow machine another second has come.
    let heard = client.ready();
    assert_eq!(service.is_ready(), heard.is_ok(), "{heard:?}");
}

/// It is about the worker and no object, so it stands alone.
#[test]
fn it_stands_in_no_batch() {
    let mut buffer = vec![0; MAX_MESSAGE];
    assert_eq!(Batch::encode([Ask::Ready], &mut buffer), Err(TooLong));
    let (service, raw) = raw(nothing());
    // A batch of one item without a body: verb 3.
    raw.send_bytes(b"fb\x01\x40\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x03\0\0\0").unwrap();
    ended(service).unwrap_err();
}

//! Proves that the broker takes no memory from the heap for a request: an allocator that counts, thread by thread, is
//! asked from within the broker's own thread.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::directory;
use common::served::{Raw, ended, raw_of};
use fdbroker::wire::{Ask, Right};
use fdbroker::{Broker, Policy, Rule};

thread_local! {
    /// What this thread has asked of the heap. Needs no destructor, so it can be used at any time in a thread's life.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) };
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

fn file(right: Right, path: &Path) -> Ask<'_> {
    Ask::File { right, path: path.as_os_str().as_encoded_bytes() }
}

/// P-02: after its first requests the broker's thread allocates nothing: not for what is granted, not for what is
/// refused, and not for what fails.
#[test]
fn p_02_a_request_takes_nothing_from_the_brokers_heap() {
    requests_without_heap();
}

/// P-02: nor where openat2 is not to be had, and each component is opened by itself.
#[test]
fn p_02_the_walk_takes_nothing_from_the_brokers_heap() {
    common::alone("p_02_the_walk_takes_nothing_from_the_brokers_heap", || {
        common::refuse(libc::SYS_openat2, &[], libc::ENOSYS);
        requests_without_heap();
    });
}

fn requests_without_heap() {
    let (_keep, root) = directory();
    let (path, absent, long) = (root.join("a/b/file"), root.join("a/absent"), root.join("x".repeat(5000)));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(&path, b"file").unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let rules = Policy::builder().allow(Rule::beneath(&root).read().write().append().create(0o600));
    let policy = rules.allow(Rule::file("/etc/passwd").read()).allow(Rule::listen(any)).build().unwrap();

    // The audit is called on the broker's thread, after the decision and the open and before the reply.
    let asked = Arc::new(AtomicU64::new(0));
    let told = asked.clone();
    let broker = Broker::new().audit(move |_| told.store(ASKED.get(), Ordering::Release));
    let (service, mut raw) = raw_of(&broker, policy);
    // The audit's word about one more request stands for everything before it, the last reply too.
    let so_far = |raw: &mut Raw| {
        raw.ask(Ask::Hello).unwrap();
        asked.load(Ordering::Acquire)
    };
    let kinds: [(&str, Ask<'_>, bool); 10] = [
        ("read", file(Right::Read, &path), true),
        ("read by an exact rule", file(Right::Read, Path::new("/etc/passwd")), true),
        ("write", file(Right::Write, &path), true),
        ("append", file(Right::Append, &path), true),
        ("listen", Ask::Listen(any), true),
        ("create what exists", file(Right::Create, &path), false),
        ("read what is absent", file(Right::Read, &absent), false),
        ("read what is not listed", file(Right::Read, Path::new("/etc/shadow")), false),
        ("read what is no path", file(Right::Read, &long), false),
        ("scratch without a rule", Ask::Scratch, false),
    ];
    assert!(so_far(&mut raw) > 0, "starting a thread does allocate, and is counted");
    for (what, ask, granted) in kinds {
        assert_eq!(raw.ask(ask).is_ok(), granted, "{what}");
        let before = so_far(&mut raw);
        for _ in 0..1000 {
            assert_eq!(raw.ask(ask).is_ok(), granted, "{what}");
        }
        assert_eq!(so_far(&mut raw) - before, 0, "allocations for 1,000 of: {what}");
    }
    drop(raw);
    ended(service).unwrap();
}

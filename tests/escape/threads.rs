//! `lockdown` covers all threads; the 32-bit system calls are none.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use fdbroker::{Broker, Client, Layer, Policy, Rule, Stdio};

use super::call::{call, text};
use super::common;
use super::run::worker;

/// B-12: `lockdown` in a worker that has threads already: all of them are covered, and the client still works.
#[test]
fn b_12_lockdown_covers_every_thread() {
    let (_guard, path) = common::directory();
    std::fs::write(path.join("file"), "content").unwrap();
    let policy = Policy::builder().allow(Rule::file(path.join("file")).read()).build().unwrap();
    let role = format!("threads\t{}", path.join("file").display());
    let (worker, channel) = worker(&role).stdout(Stdio::null()).spawn().unwrap();
    let service = Broker::new().serve("worker", channel, policy).unwrap();
    assert!(worker.wait().unwrap().success());
    service.wait().unwrap();
}

pub fn be_locked_down(path: &Path) {
    let client = Client::from_stdin().unwrap();
    let barrier = std::sync::Barrier::new(4);
    let read = || io::read_to_string(client.read(path).unwrap()).unwrap();
    let refused = |number, arguments: &[usize]| {
        let error = call(number, arguments).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{number}");
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                barrier.wait();
                barrier.wait();
                refused(libc::SYS_openat, &[libc::AT_FDCWD as usize, text(c"/nowhere"), libc::O_PATH as usize]);
                refused(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0]);
                refused(libc::SYS_execve, &[text(c"/bin/true"), 0, 0]);
                refused(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0]);
                assert_eq!(read(), "content");
            });
        }
        barrier.wait();
        let enforced = fdbroker::lockdown().unwrap();
        assert!(enforced.has(Layer::Seccomp) && enforced.has(Layer::NoNewPrivs));
        barrier.wait();
        assert_eq!(read(), "content");
    });
    // A thread can still be started, and memory had.
    let thread = std::thread::spawn(|| vec![1u8; 1 << 24].into_iter().map(usize::from).sum::<usize>());
    assert_eq!(thread.join().unwrap(), 1 << 24);
}

/// B-02: the 32-bit system calls have other numbers, which no filter of this architecture knows: they kill the worker.
#[test]
fn b_02_int_0x80_kills() {
    let output = common::rerun("process", "int80").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !text.contains("int 0x80 answers ") {
        eprintln!("outside, int 0x80 ends with {}: this kernel has no 32-bit system calls", output.status);
    }
    let (worker, _channel) = worker("int80").stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
    let status = worker.wait().unwrap();
    assert!(matches!(status.signal(), Some(libc::SIGSYS | libc::SIGSEGV)), "{status}: {text}");
    assert!(!text.contains("answers"), "{text}");
}

/// getpid(2) of i386.
pub fn int_80() -> i64 {
    let mut result: i64 = 20;
    // SAFETY: getpid takes no arguments and touches no memory; the kernel may change r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}

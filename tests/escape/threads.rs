//! `lockdown` covers all threads; the 32-bit system calls are none.

use std::io;
#[cfg(not(target_arch = "riscv64"))]
use std::io::Read;
#[cfg(not(target_arch = "riscv64"))]
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
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
pub fn int_80() -> i64 {
    let mut result: i64 = 20;
    // SAFETY: getpid takes no arguments and touches no memory; the kernel may change r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}

/// B-02: a program of 32 bits makes system calls of another architecture, of which the first kills it.
#[cfg(target_arch = "aarch64")]
#[test]
fn b_02_a_program_of_32_bits_is_killed() {
    use std::os::unix::fs::PermissionsExt;
    let (_guard, directory) = common::directory();
    let program = directory.join("program");
    std::fs::write(&program, program_of_32_bits()).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    match std::process::Command::new(&program).output() {
        Ok(output) if output.stdout == b"alive\n" => {}
        other => {
            eprintln!("SKIPPED b_02_a_program_of_32_bits_is_killed: outside it does not run either: {other:?}");
            return;
        }
    }
    let sandbox = fdbroker::Sandbox::new(&program).runtime(&program).stdout(Stdio::piped());
    let (worker, _channel) = sandbox.preset(fdbroker::Preset::Floor).spawn().unwrap();
    let mut text = String::new();
    worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
    let status = worker.wait().unwrap();
    assert_eq!((status.signal(), &*text), (Some(libc::SIGSYS), ""), "{status}");
}

/// An ELF file for 32-bit ARM that writes a word and ends.
#[cfg(target_arch = "aarch64")]
fn program_of_32_bits() -> Vec<u8> {
    const AT: u32 = 0x1_0000;
    const HEADERS: u32 = 52 + 32;
    // write(1, what follows the code, 6), exit(0): the numbers of the calls in r7.
    let code =
        [0xe3a0_7004_u32, 0xe3a0_0001, 0xe28f_1010, 0xe3a0_2006, 0xef00_0000, 0xe3a0_7001, 0xe3a0_0000, 0xef00_0000];
    let length = HEADERS + 4 * 8 + 6;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for EM_ARM, of version 1; entry, program headers, no sections, EABI 5.
    file.extend([2_u16, 40].map(u16::to_le_bytes).concat());
    file.extend([1, AT + HEADERS, 52, 0, 0x0500_0000].map(u32::to_le_bytes).concat());
    file.extend([52_u16, 32, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // One segment: all of the file, to be read and executed.
    file.extend([1, 0, AT, AT, length, length, 5, AT].map(u32::to_le_bytes).concat());
    file.extend(code.map(u32::to_le_bytes).concat());
    file.extend(b"alive\n");
    file
}

//! `[both]` System calls by their instruction, past the C library.
//!
//! A child that shares its parent's memory (`clone`) must not touch what the C library keeps there: not even `errno`,
//! which is the parent thread's own.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "arguments and answers of system calls are machine words"
)]

use std::io;

/// Makes one system call. The answer is the kernel's: an errno is a negative number.
///
/// # Safety
/// What the call does with its arguments must be allowed at this point: pointers are to memory that is there for as long
/// as the kernel uses it, descriptors are the caller's to use.
#[inline(always)]
pub(crate) unsafe fn raw(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    // SAFETY: by the caller's promise about the arguments. The registers are those of the architecture's convention for
    // system calls (syscall(2), "Architecture calling conventions"); the kernel changes no others, and not the stack.
    // But for vectors: of those whose length the processor chooses (SVE, RISC-V's V), a system call leaves nothing that a
    // compiler may count on. Those are among what a function may change, so that is what is said.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => answer,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            clobber_abi("C"),
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        std::arch::asm!(
            "ecall",
            in("a7") number,
            inlateout("a0") a as isize => answer,
            in("a1") b, in("a2") c, in("a3") d, in("a4") e, in("a5") f,
            clobber_abi("C"),
            options(nostack),
        );
    }
    // Architectures for which there is no system-call filter, and so no sandbox. `errno` is touched, and read.
    // SAFETY: as above.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    unsafe {
        let result = libc::syscall(number, a, b, c, d, e, f);
        answer = if result == -1 { -(*libc::__errno_location() as isize) } else { result as isize };
    }
    answer
}

/// As [`raw`], with the answer told apart from the errno.
///
/// # Safety
/// As for [`raw`].
#[inline(always)]
pub(crate) unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let answer = unsafe { raw(number, arguments) };
    // The kernel's convention: the last 4095 values are errnos.
    if (-4095..0).contains(&answer) { Err(Errno(-(answer as i32))) } else { Ok(answer as usize) }
}

/// Why the kernel refused. Made and passed on without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

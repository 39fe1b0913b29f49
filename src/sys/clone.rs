//! `[broker -> worker]` A new process on a stack of its own, in its parent's memory until it executes a program.
//!
//! A fork copies the parent's page tables: with 1 GiB touched, that takes longer than all else. This child borrows the
//! parent's memory instead (CLONE_VM), while the thread that made it waits (CLONE_VFORK). Other threads go on: the
//! child must not take a lock, allocate, or touch what the C library keeps for the thread.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "arguments and answers of system calls are machine words"
)]

use std::cell::Cell;
use std::ffi::c_void;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use super::call::{Errno, call};

/// What the child finds of its parent's signal handlers, which it must not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handlers {
    /// None is set.
    Cleared,
    /// They are set: the child has to take them away before it unblocks a signal.
    Inherited,
}

/// What runs in the child.
pub(crate) struct Entry {
    pub(crate) run: fn(*mut c_void, Handlers) -> !,
    pub(crate) argument: *mut c_void,
}

/// Makes a child that runs `entry`, and answers when it has ended or executed a program: its process id, and a pidfd,
/// which is close-on-exec. `namespaces` are CLONE_NEW* flags. Until it has executed a program, no signal says that it has
/// ended, and only a wait with __WALL sees it.
///
/// By clone3(2) with CLONE_CLEAR_SIGHAND (Linux 5.5), or by clone(2) (Linux 5.2 for CLONE_PIDFD) where that is refused.
///
/// # Safety
/// All signals are blocked in the calling thread. What `entry` takes lives until the answer. It takes no lock, allocates
/// nothing, does not panic, and makes system calls by `sys::call` alone.
pub(crate) unsafe fn clone_vfork(namespaces: u64, entry: &Entry) -> Result<(libc::pid_t, OwnedFd), Errno> {
    let stack = Stack::of_this_thread()?;
    // SAFETY: the stack and the start live until the child has left this memory, which is when the call returns; the
    // rest is the caller's promise.
    let made = match unsafe { by_clone3(namespaces, &stack, entry) } {
        // An older kernel, or a container's filter that refuses what it cannot look into. No child was made.
        // SAFETY: as above.
        Err(Errno(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => unsafe { by_clone(namespaces, &stack, entry) },
        made => made,
    };
    stack.give_back();
    let (pid, pidfd) = made?;
    // SAFETY: the kernel has put the number of a new descriptor there.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

struct Start<'a> {
    entry: &'a Entry,
    handlers: Handlers,
}

extern "C" fn begin(start: *mut c_void) -> ! {
    // SAFETY: `by_clone3` and `by_clone` pass their own `Start`, which lives for as long as the child is here.
    let Start { entry, handlers } = unsafe { &*start.cast::<Start<'_>>() };
    (entry.run)(entry.argument, *handlers)
}

const FLAGS: u64 = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// `struct clone_args` of linux/sched.h, as far as Linux 5.3 has it.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
unsafe fn by_clone3(namespaces: u64, stack: &Stack, entry: &Entry) -> Result<(libc::pid_t, i32), Errno> {
    let mut pidfd = -1_i32;
    let arguments = CloneArgs {
        flags: FLAGS | CLONE_CLEAR_SIGHAND | namespaces,
        pidfd: &raw mut pidfd as u64,
        stack: stack.bottom() as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    let start = Start { entry, handlers: Handlers::Cleared };
    let (arguments, size) = (&raw const arguments, size_of::<CloneArgs>());
    let start = &raw const start;
    let answer: isize;
    // The child comes back from the system call on the new stack, with the registers of its parent. It calls `begin`
    // and never gets past that. The parent sees one instruction that changes what system calls change (`call::raw`).
    // SAFETY: the kernel reads `arguments`, whose pointers are to `pidfd` and to a stack of that size; `begin` takes
    // what stands in its argument's register. The end of the stack is aligned as the call convention wants it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") arguments, in("rsi") size,
            in("r12") start, in("r13") begin as extern "C" fn(*mut c_void) -> !,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") arguments => answer, in("x1") size,
            in("x20") start, in("x21") begin as extern "C" fn(*mut c_void) -> !,
            clobber_abi("C"),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        std::arch::asm!(
            "ecall",
            "bnez a0, 2f",
            "mv a0, s2",
            "jalr s3",
            "unimp",
            "2:",
            in("a7") libc::SYS_clone3,
            inlateout("a0") arguments => answer, in("a1") size,
            in("s2") start, in("s3") begin as extern "C" fn(*mut c_void) -> !,
            clobber_abi("C"),
        );
    }
    if answer < 0 { Err(Errno(-(answer as i32))) } else { Ok((answer as libc::pid_t, pidfd)) }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
unsafe fn by_clone3(_: u64, _: &Stack, _: &Entry) -> Result<(libc::pid_t, i32), Errno> {
    Err(Errno(libc::ENOSYS))
}

/// The C library's own function, which does no more than the above. Its flags have 32 bits: no CLONE_CLEAR_SIGHAND.
unsafe fn by_clone(namespaces: u64, stack: &Stack, entry: &Entry) -> Result<(libc::pid_t, i32), Errno> {
    extern "C" fn returning(start: *mut c_void) -> libc::c_int {
        begin(start)
    }
    let mut pidfd = -1_i32;
    let mut start = Start { entry, handlers: Handlers::Inherited };
    let flags = (FLAGS | namespaces) as u32 as libc::c_int;
    // SAFETY: `returning` takes what is passed to it, on a stack that ends where this says; the kernel writes `pidfd`.
    let pid = unsafe { libc::clone(returning, stack.top().cast(), flags, (&raw mut start).cast(), &raw mut pidfd) };
    if pid == -1 {
        // SAFETY: `errno` is this thread's.
        return Err(Errno(unsafe { *libc::__errno_location() }));
    }
    Ok((pid, pidfd))
}

/// Room for the child, which goes a few calls deep and keeps a page of buffers at most.
const STACK: usize = 64 * 1024;
/// What lies below it and is not there to be touched. At least a page, whatever the architecture's pages.
const GUARD: usize = 64 * 1024;

/// Memory of its own for the child's stack.
struct Stack(*mut c_void);

thread_local! {
    /// Of this thread, between two children: a mapping, with the pages that the last one has touched.
    static IDLE: Cell<Option<Stack>> = const { Cell::new(None) };
}

impl Stack {
    /// To be given back. A thread that is ending has none to keep, and makes one.
    fn of_this_thread() -> Result<Self, Errno> {
        IDLE.try_with(Cell::take).ok().flatten().map_or_else(Self::new, Ok)
    }

    fn give_back(self) {
        let _ = IDLE.try_with(|idle| idle.set(Some(self)));
    }

    fn new() -> Result<Self, Errno> {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        let length = GUARD + STACK;
        // SAFETY: a new mapping, anywhere.
        let base =
            unsafe { call(libc::SYS_mmap, [0, length, libc::PROT_NONE as usize, kind as usize, usize::MAX, 0]) }?;
        let stack = Self(ptr::with_exposed_provenance_mut(base));
        let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        // SAFETY: the upper part of that mapping, which nobody else knows.
        unsafe { call(libc::SYS_mprotect, [base + GUARD, STACK, access, 0, 0, 0]) }?;
        Ok(stack)
    }

    fn bottom(&self) -> *mut c_void {
        self.0.wrapping_byte_add(GUARD)
    }

    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(GUARD + STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and the child that used it has left this memory.
        let _ = unsafe { call(libc::SYS_munmap, [self.0.addr(), GUARD + STACK, 0, 0, 0, 0]) };
    }
}

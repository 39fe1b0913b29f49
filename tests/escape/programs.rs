//! Another program in its place, and other code in its memory.

use std::ffi::CStr;
use std::io;
use std::path::PathBuf;

use super::attempt::{EPERM, Expected, List, Means, REFUSED, UNKNOWN, WORKS};
use super::call::*;

const EMPTY: usize = libc::AT_EMPTY_PATH as usize;

/// Returns only when it fails. Outside, each attempt is made in a child of its own.
fn execute(name: usize) -> io::Result<i64> {
    call(libc::SYS_execve, &[name, leak([name, text(c"-c"), text(c"exit 0"), 0]), 0])
}

fn execute_at(directory: usize, name: usize, flags: usize, token: usize) -> io::Result<i64> {
    let argv = leak([text(c"sh"), text(c"-c"), text(c"exit 0"), 0]);
    call(libc::SYS_execveat, &[directory, name, argv, 0, flags, token])
}

/// Each token in turn. What is answered last is the answer: the first that is right would not come back.
fn execute_with(program: usize, tokens: impl Iterator<Item = usize>) -> io::Result<i64> {
    let mut answer = Ok(0);
    for token in tokens {
        answer = execute_at(program, text(c""), EMPTY, token);
    }
    answer
}

/// A descriptor of a program: of the host's outside, and of whatever there is inside.
fn program(m: &Means) -> usize {
    let shell = open("/bin/sh", libc::O_PATH);
    if m.is_outside() { shell.unwrap() as usize } else { shell.map_or(number(&m.read), |fd| fd as usize) }
}

pub fn add(list: &mut List) {
    by_name(list);
    by_descriptor(list);
    by_guessing(list);
    code(list);
}

fn by_name(list: &mut List) {
    const PROGRAMS: [(&str, &CStr); 2] = [("execute another program", c"/bin/true"), ("execute a shell", c"/bin/sh")];
    for (name, program) in PROGRAMS {
        list.add(name, REFUSED, move |_| execute(text(program)));
    }
    list.add("execute a script", REFUSED, |m| execute(path(m.at("script"))));
    list.add("execute a set-user-ID program", REFUSED, |m| execute(path(m.at("setuid"))));
    list.add("execute a program of the system that is set-user-ID", REFUSED, |_| {
        let name = text(c"/bin/mount");
        call(libc::SYS_execve, &[name, leak([name, text(c"--version"), 0]), 0])
    })
    .outside(super::attempt::Outside::Perhaps("the host may have no mount(8)"));
    list.add("execute itself again", REFUSED, |_| {
        let name = text(c"/proc/self/exe");
        call(libc::SYS_execve, &[name, leak([name, text(c"--list"), 0]), 0])
    });
    list.add("execute the loader with a program", REFUSED, |_| {
        let name = loader();
        call(libc::SYS_execve, &[name, leak([name, text(c"/bin/true"), 0]), 0])
    })
    .outside(super::attempt::Outside::Perhaps("its name depends on the C library"));
    list.add("execute a file of its runtime", REFUSED, |m| execute(path(m.at("runtime/program"))));
    list.add("execute, by execveat with a path", REFUSED, |_| execute_at(CWD, text(c"/bin/sh"), 0, 0));
    list.add("execute, by execve of x32", UNKNOWN, |_| call(520 | 0x4000_0000, &[text(c"/bin/true"), 0, 0]))
        .not("this kernel has no x32");
    list.add("execute, by execveat of x32", UNKNOWN, |_| {
        call(545 | 0x4000_0000, &[CWD, text(c"/bin/true"), 0, 0, 0, 0])
    })
    .not("this kernel has no x32");
    #[cfg(target_arch = "x86_64")]
    list.add("load a library, by uselib(2)", UNKNOWN, |_| call(libc::SYS_uselib, &[text(c"/bin/true")]))
        .not("no kernel of today has it");
}

fn by_descriptor(list: &mut List) {
    list.add("execute a descriptor", REFUSED, |m| execute_at(program(m), text(c""), EMPTY, 0));
    list.add("execute what a held root leads to", REFUSED, |_| execute_at(super::attempt::ROOT, text(c"bin/sh"), 0, 0));
    list.add("execute what is in memory", REFUSED, |m| {
        let memory = owned(call(libc::SYS_memfd_create, &[text(c"program"), 0]))?;
        // It need not be there: the filter answers first.
        let program = std::fs::read(m.at("runtime/program")).unwrap_or_default();
        std::io::Write::write_all(&mut std::fs::File::from(memory.try_clone()?), &program)?;
        execute_at(number(&memory), text(c""), EMPTY, 0)
    });
    list.add("execute a descriptor, by /proc/self/fd", REFUSED, |m| {
        execute(path(PathBuf::from(format!("/proc/self/fd/{}", program(m)))))
    });
    list.add("ask whether it could (AT_EXECVE_CHECK)", REFUSED, |m| {
        execute_at(program(m), text(c""), EMPTY | 0x10000, 0)
    })
    .outside(super::attempt::Outside::Perhaps("since Linux 6.14"));
}

/// AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 and AUDIT_ARCH_RISCV64 (linux/audit.h).
const ARCHITECTURE: usize = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_00f3
};

/// The filter lets one execveat pass, by a number that it alone knows.
fn by_guessing(list: &mut List) {
    list.add("execute, with the token !0", REFUSED, |m| execute_at(program(m), text(c""), EMPTY, !0));
    list.add("execute, with each bit as the token", REFUSED, |m| {
        let program = program(m);
        execute_with(program, (0..64).map(|bit| 1 << bit))
    });
    list.add("execute, with the filter's own constants", REFUSED, |m| {
        let program = program(m);
        let guesses = [0xfdb0_7e57_fdb0_0ced, 0xfdb0_0ced_fdb0_7e57, 0xfdb0_0ced, ARCHITECTURE, 0x4000_0000];
        execute_with(program, guesses.into_iter())
    });
    list.add("execute, with 100,000 tokens", REFUSED, |m| {
        let (program, mut token) = (program(m), 88_172_645_463_325_252_usize);
        let guess = |_| {
            token ^= token << 13;
            token ^= token >> 7;
            token ^= token << 17;
            token
        };
        execute_with(program, (0..100_000).map(guess))
    });
    list.add("execute, with what is in its registers' place", REFUSED, |m| {
        // AT_RANDOM and the cookies of the thread are the only random numbers that the kernel has given it.
        let program = program(m);
        // SAFETY: AT_RANDOM is the address of 16 bytes in this process.
        let random = unsafe { std::slice::from_raw_parts(libc::getauxval(libc::AT_RANDOM) as *const u8, 16) };
        let words = (0..9).map(|at| usize::from_ne_bytes(random[at..at + 8].try_into().unwrap()));
        execute_with(program, words)
    });
    list.add("execute, from a thread", REFUSED, |m| {
        let program = program(m);
        std::thread::spawn(move || execute_at(program, text(c""), EMPTY, 0)).join().unwrap()
    });
}

/// W^X holds from `lockdown` on: a loader, and a compiler, want it before.
fn code(list: &mut List) {
    const LOADING: &str = "a loader needs it: lockdown takes it away";
    let loading = Expected::always(WORKS).locked(EPERM);
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    list.add("executable memory", loading, move |_| map(0, all, anonymous, !0).map(|_| 0)).known(LOADING);
    list.add("memory made executable", loading, move |_| {
        let page = map(0, libc::PROT_READ | libc::PROT_WRITE, anonymous, !0)?;
        call(libc::SYS_mprotect, &[page, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize])
    })
    .known(LOADING);
    // riscv64 has no keys, and aarch64 has some since Linux 6.12.
    let keys = if cfg!(target_arch = "x86_64") { WORKS } else { &[0, libc::ENOSYS] };
    list.add("memory made executable, by pkey_mprotect", Expected::always(keys).locked(EPERM), move |_| {
        let page = map(0, libc::PROT_READ | libc::PROT_WRITE, anonymous, !0)?;
        call(libc::SYS_pkey_mprotect, &[page, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize, !0])
    })
    .outside(super::attempt::Outside::Perhaps("without protection keys there is no such call"))
    .known(LOADING);
    list.add("a file made executable memory", loading, |m| {
        map(0, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, number(&m.read)).map(|_| 0)
    })
    .known(LOADING);
    list.add("memory of a memfd, written and executed", loading, |_| {
        let memory = owned(call(libc::SYS_memfd_create, &[text(c"code"), 0]))?;
        call(libc::SYS_write, &[number(&memory), text(c"\xc3"), 1])?;
        map(0, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, number(&memory)).map(|_| 0)
    })
    .known(LOADING);
    list.add("its own code made writable", Expected::always(WORKS), |_| {
        let page = (execute as fn(usize) -> io::Result<i64> as usize) & !(page_size() - 1);
        call(libc::SYS_mprotect, &[page, 4096, all_but_write()])?;
        call(libc::SYS_mprotect, &[page, 4096, (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as usize])
    });
    let own = list.0.last_mut().unwrap();
    own.expected = loading;
    own.known(LOADING);
    list.add("what may be read may be executed (personality)", UNKNOWN, |_| {
        call(libc::SYS_personality, &[0x0040_0000])
    });
    list.add("shared memory, executable", REFUSED, |m| {
        let segment = call(libc::SYS_shmget, &[m.key, 0, 0o600])?;
        call(libc::SYS_shmat, &[segment as usize, 0, 0x8000])
    });
    list.add("remap_file_pages", UNKNOWN, |_| {
        let memory = owned(call(libc::SYS_memfd_create, &[text(c"pages"), 0]))?;
        call(libc::SYS_write, &[number(&memory), text(c"!"), 1])?;
        let page = map(0, libc::PROT_READ, libc::MAP_SHARED, number(&memory))?;
        call(libc::SYS_remap_file_pages, &[page, page_size(), 0, 0, 0])
    });
}

fn all_but_write() -> usize {
    (libc::PROT_READ | libc::PROT_EXEC) as usize
}

//! `[broker -> worker]` System-call filters, said in words.
//!
//! A filter lists what is allowed. Of what is not, it refuses some by name with EPERM, which adds no protection, only a
//! clearer word; the rest is ENOSYS, so that the C library takes its older ways where it knows some, or the end of the
//! process.
//!
//! A filter sees numbers and flags, not what a pointer points to.

mod allow;
mod calls;
mod compile;
mod squeeze;
mod word;

pub use word::{Refusal, UnknownRefusal, UnknownWord, Word};

use std::io;

use seccompiler::{BpfProgram, sock_filter};

use super::host;
use allow::{Exec, Signals, allowed, probed, refused};
use compile::{Answer, JUMP_IF_EQUAL, compile};
pub(super) use word::Words;

/// A program for seccomp(2).
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) code: BpfProgram,
    /// To be installed with SECCOMP_FILTER_FLAG_NEW_LISTENER: what the program does not allow waits for an answer from
    /// whoever holds the listener. While nobody holds one, it is ENOSYS.
    pub(super) listener: bool,
}

/// The filter of a worker from its first instruction on, compiled, but for the token of its one execveat(2).
#[derive(Debug, Clone)]
pub(super) struct Start {
    program: Program,
    /// Where the lower and the upper half of the token belong. Nowhere, if programs can be executed freely.
    token: Option<[usize; 2]>,
}

/// Compiles the filter for these words. `signals_are_scoped` says that something else (Landlock, ABI 6, or a PID
/// namespace) refuses signals to processes outside; without it, kill(2) and tgkill(2) are refused.
pub(super) fn for_start(words: Words, refusal: Refusal, signals_are_scoped: bool) -> io::Result<Start> {
    let otherwise = match refusal {
        Refusal::Errno => Answer::Errno(libc::ENOSYS),
        Refusal::Kill if host::has_listener() => Answer::Notify,
        Refusal::Kill => Answer::KillProcess,
    };
    let signals = Signals { are_scoped: signals_are_scoped, own: None };
    let code = program(words, Exec::With(PLACEHOLDER), signals, otherwise)?;
    let token = if words.has(Word::Exec) { None } else { Some(token_places(&code)?) };
    Ok(Start { program: Program { code, listener: otherwise == Answer::Notify }, token })
}

impl Start {
    /// Whether it has a listener.
    pub(super) fn has_listener(&self) -> bool {
        self.program.listener
    }

    /// The program of one start. Unless the words have [`Word::Exec`], execveat(2) is allowed with `token` as its sixth
    /// argument, which the kernel ignores, and no other way of executing anything.
    pub(super) fn with_token(&self, token: u64) -> Program {
        let mut program = self.program.clone();
        if let Some([lower, upper]) = self.token {
            (program.code[lower].k, program.code[upper].k) = halves(token);
        }
        program
    }
}

/// The filter that a running process puts on itself: no program is executed, unless the words have [`Word::Exec`].
pub(super) fn for_lockdown(words: Words, refusal: Refusal, signals_are_scoped: bool) -> io::Result<BpfProgram> {
    let otherwise = match refusal {
        Refusal::Errno => Answer::Errno(libc::ENOSYS),
        Refusal::Kill => Answer::KillProcess,
    };
    let signals = Signals { are_scoped: signals_are_scoped, own: Some(std::process::id()) };
    program(words, Exec::Never, signals, otherwise)
}

fn program(words: Words, exec: Exec, signals: Signals, otherwise: Answer) -> io::Result<BpfProgram> {
    let allowed = (allowed(words, exec, signals)?, Answer::Allow);
    let refused = match otherwise {
        Answer::Errno(_) => (refused()?, Answer::Errno(libc::EPERM)),
        _ => (probed(words)?, Answer::Errno(libc::ENOSYS)),
    };
    compile(&[allowed, refused], otherwise)
}

/// Stands for the token until it is known. Both halves are values that nothing else is compared with.
const PLACEHOLDER: u64 = 0xfdb0_7e57_fdb0_0ced;

fn halves(token: u64) -> (u32, u32) {
    #[allow(clippy::cast_possible_truncation, reason = "it is to be cut")]
    (token as u32, (token >> 32) as u32)
}

/// Where the placeholder's halves are compared with the sixth argument.
fn token_places(code: &[sock_filter]) -> io::Result<[usize; 2]> {
    // Offset of args[5] in seccomp_data, on the little-endian architectures that seccompiler knows.
    const SIXTH: u32 = 16 + 5 * 8;
    let (lower, upper) = halves(PLACEHOLDER);
    let place = |half: u32, offset: u32| {
        let mut places = code.iter().enumerate().filter(|(_, instruction)| instruction.k == half);
        match (places.next(), places.next()) {
            (Some((place, found)), None) if found.code == JUMP_IF_EQUAL && place > 0 && code[place - 1].k == offset => {
                Ok(place)
            }
            _ => Err(io::Error::other("the filter does not compare the token in the way this crate knows")),
        }
    };
    Ok([place(lower, SIXTH)?, place(upper, SIXTH + 4)?])
}

//! `[broker -> worker]` One program out of lists of system calls, each with its answer.
//!
//! The kernel runs every filter at each system call that it does not know to be allowed always (since Linux 5.11 it keeps
//! a bitmap of those, and fills it by running the program once for each number there is). Checking and translating a
//! program takes it about a tenth of a microsecond for each instruction, while the worker waits to start. So there is
//! one program instead of one for each answer; it finds a number's answer by halving; and numbers side by side with the
//! same answer share it. seccompiler writes what looks at arguments, and the check of the architecture.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::squeeze::squeeze;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Cmp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

/// System calls, each with the uses that a list is about: any of the alternatives, or all uses if there is none.
#[derive(Debug, Default, Clone)]
pub(super) struct Calls(BTreeMap<i64, Vec<SeccompRule>>);

impl Calls {
    /// In any use, whatever was said before.
    pub(super) fn any(&mut self, numbers: &[i64]) {
        self.0.extend(numbers.iter().map(|&number| (number, Vec::new())));
    }

    /// In a use that meets all conditions, too. Changes nothing for a call that is there in any use.
    pub(super) fn when(&mut self, number: i64, conditions: &[Condition]) -> io::Result<()> {
        let conditions = conditions.iter().map(|condition| condition.compiled()).collect::<Result<_, _>>();
        let rule = conditions.and_then(SeccompRule::new).map_err(backend)?;
        match self.0.get_mut(&number) {
            Some(alternatives) if alternatives.is_empty() => {}
            Some(alternatives) => alternatives.push(rule),
            None => drop(self.0.insert(number, vec![rule])),
        }
        Ok(())
    }
}

/// A condition on an argument, counted from 0. Those without `Whole` look at its lower 32 bits, as the kernel does with
/// what it takes for an int.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    Is(u8, u64),
    IsNot(u8, u64),
    /// These bits of it are these.
    Bits(u8, u64, u64),
    WholeIs(u8, u64),
}

impl Condition {
    fn compiled(self) -> Result<SeccompCondition, BackendError> {
        match self {
            Self::Is(argument, value) => SeccompCondition::new(argument, Len::Dword, Cmp::Eq, value),
            Self::IsNot(argument, value) => SeccompCondition::new(argument, Len::Dword, Cmp::Ne, value),
            Self::Bits(argument, mask, value) => {
                SeccompCondition::new(argument, Len::Dword, Cmp::MaskedEq(mask), value)
            }
            Self::WholeIs(argument, value) => SeccompCondition::new(argument, Len::Qword, Cmp::Eq, value),
        }
    }
}

/// What the kernel is to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Allow,
    Errno(i32),
    KillProcess,
    /// Asks whoever holds the filter's listener.
    Notify,
}

impl Answer {
    /// The value that a program returns for it.
    fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            #[allow(clippy::cast_sign_loss, reason = "an errno is positive")]
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA),
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// A program that gives a call the answer of the first list that it is on, and `otherwise` if it is on none. A call of
/// another architecture (32-bit ones on x86_64) ends the process.
pub(super) fn compile(lists: &[(Calls, Answer)], otherwise: Answer) -> io::Result<BpfProgram> {
    let program = squeeze(halving(lists, otherwise)?);
    // The kernel's BPF_MAXINSNS.
    if program.len() > 4096 {
        return Err(io::Error::other(format!("a filter of {} instructions", program.len())));
    }
    Ok(program)
}

fn halving(lists: &[(Calls, Answer)], otherwise: Answer) -> io::Result<BpfProgram> {
    let mut leaves: Vec<(u32, BpfProgram)> = Vec::new();
    let mut from = |number: u32, program: BpfProgram| {
        if leaves.last().is_none_or(|(_, last)| *last != program) {
            leaves.push((number, program));
        }
    };
    let unlisted = vec![statement(RETURN, otherwise.value())];
    let numbers: BTreeSet<i64> = lists.iter().flat_map(|(calls, _)| calls.0.keys().copied()).collect();
    let (mut next, mut last) = (0, None);
    for number in numbers {
        let answered = answered(lists, number, otherwise)?;
        let number = u32::try_from(number).map_err(io::Error::other)?;
        if number > next {
            // Beside a refusal by name, an older call that is on no list is refused in the same word, which saves a turn.
            let shares = number <= FIRST_OF_THE_NEW && matches!(otherwise, Answer::Errno(_));
            match last.as_ref().filter(|last| shares && is_refusal(last)) {
                Some(_) => {}
                None if shares && is_refusal(&answered) => from(next, answered.clone()),
                None => from(next, unlisted.clone()),
            }
        }
        last = Some(answered.clone());
        from(number, answered);
        next = number + 1;
    }
    from(next, unlisted);

    let architecture = section(0, &[])?.0;
    Ok([architecture, vec![statement(LOAD, 0)], tree(&leaves)].concat())
}

/// Whether it is an errno, whatever the arguments.
fn is_refusal(program: &BpfProgram) -> bool {
    matches!(program.as_slice(), [only] if only.code == RETURN && only.k & ACTION == libc::SECCOMP_RET_ERRNO)
}

/// pidfd_send_signal(2): from here on, calls have one number on all architectures, and C libraries know older ways to the
/// same, which they take after ENOSYS.
const FIRST_OF_THE_NEW: u32 = 424;
const ACTION: u32 = libc::SECCOMP_RET_ACTION_FULL;

/// Goes to the leaf for a number that has been loaded: the last one whose number is not above it.
fn tree(leaves: &[(u32, BpfProgram)]) -> BpfProgram {
    if let [(_, program)] = leaves {
        return program.clone();
    }
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let (first, low, high) = (high[0].0, tree(low), tree(high));
    // A conditional jump goes 255 instructions far, an unconditional one anywhere.
    let choice = match u8::try_from(low.len()) {
        Ok(over) => vec![sock_filter { code: JUMP_IF_AT_LEAST, jt: over, jf: 0, k: first }],
        Err(_) => vec![sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: first }, jump(low.len())],
    };
    [choice, low, high].concat()
}

/// The answer to one number, list after list.
fn answered(lists: &[(Calls, Answer)], number: i64, otherwise: Answer) -> io::Result<BpfProgram> {
    let mut program = BpfProgram::new();
    for (calls, answer) in lists {
        match calls.0.get(&number) {
            None => {}
            Some(alternatives) if alternatives.is_empty() => {
                program.push(statement(RETURN, answer.value()));
                return Ok(program);
            }
            Some(alternatives) => {
                let (_, mut code) = section(number, alternatives)?;
                let end = code.len();
                for (index, instruction) in code.iter_mut().enumerate() {
                    if instruction.code == RETURN && instruction.k == MATCH {
                        instruction.k = answer.value();
                    } else if instruction.code == RETURN && instruction.k == MISMATCH {
                        // On to the next list.
                        *instruction = jump(end - index - 1);
                    }
                }
                program.append(&mut code);
            }
        }
    }
    program.push(statement(RETURN, otherwise.value()));
    Ok(program)
}

/// What seccompiler makes of a call with alternatives: the check of the architecture, and what comes after it.
fn section(number: i64, alternatives: &[SeccompRule]) -> io::Result<(BpfProgram, BpfProgram)> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| {
        io::Error::new(io::ErrorKind::Unsupported, "no system-call filter is written for this architecture")
    })?;
    // Two actions that no filter of ours takes, so that they can be told and replaced.
    let (mismatch, matched) = (SeccompAction::Trace(MISMATCH & DATA), SeccompAction::Trace(MATCH & DATA));
    let filter =
        SeccompFilter::new([(number, alternatives.to_vec())].into(), mismatch, matched, arch).map_err(backend)?;
    let mut program: BpfProgram = filter.try_into().map_err(backend)?;
    // The architecture (offset 4 of seccomp_data): jump over the next if it is the right one; end the process.
    let is_check = match program.as_slice() {
        [load, jump, kill, rest @ ..] => {
            let loads = load.code == LOAD && load.k == 4;
            let jumps = jump.code == JUMP_IF_EQUAL && (jump.jt, jump.jf) == (1, 0);
            let kills = kill.code == RETURN && kill.k == libc::SECCOMP_RET_KILL_PROCESS;
            loads && jumps && kills && !rest.is_empty()
        }
        _ => false,
    };
    if !is_check {
        return Err(io::Error::other("seccompiler makes programs of another form than this crate knows"));
    }
    let rules = program.split_off(3);
    Ok((program, rules))
}

const DATA: u32 = libc::SECCOMP_RET_DATA;
const MATCH: u32 = libc::SECCOMP_RET_TRACE | 0x6d61;
const MISMATCH: u32 = libc::SECCOMP_RET_TRACE | 0x6d69;

// Of linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JA, BPF_JMP | BPF_JEQ | BPF_K,
// BPF_JMP | BPF_JGE | BPF_K, BPF_RET | BPF_K.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Over this many instructions.
#[allow(clippy::cast_possible_truncation, reason = "a program has some thousand instructions at most")]
fn jump(over: usize) -> sock_filter {
    statement(JUMP, over as u32)
}

fn backend(error: BackendError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::allow::{Exec, Signals, allowed, refused};
    use super::super::word::{Word, Words};
    use super::*;

    /// As they are before they are squeezed: with few words and with many.
    pub(in super::super) fn programs() -> Vec<BpfProgram> {
        let few = Words::NONE;
        let many = [Word::Threads, Word::Load, Word::Sockets, Word::Code].into_iter().fold(few, Words::with);
        let signals = Signals { are_scoped: true, own: None };
        let of = |words| {
            let lists = [
                (allowed(words, Exec::With(super::super::PLACEHOLDER), signals).ok()?, Answer::Allow),
                (refused().ok()?, Answer::Errno(libc::EPERM)),
            ];
            halving(&lists, Answer::Errno(libc::ENOSYS)).ok()
        };
        [few, many].into_iter().filter_map(of).collect()
    }
}

//! `[broker -> worker]` One program out of lists of system calls, each with its answer.
//!
//! The kernel runs every filter at each system call that it has not seen to be allowed always (it keeps a bitmap of
//! those since Linux 5.11), and fills that bitmap by running the program once for each number there is: the shorter the
//! way through, the sooner a worker starts. So there is one program instead of one for each answer, and it finds the
//! few rules that a number can match by halving.

use std::collections::BTreeMap;
use std::io;

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
    let mut numbers: Vec<i64> = lists.iter().flat_map(|(calls, _)| calls.0.keys().copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let leaves = numbers.chunks(LEAF).map(|numbers| {
        let program = chain(lists, numbers[0], numbers[numbers.len() - 1], otherwise)?;
        Ok((u32::try_from(numbers[0]).map_err(io::Error::other)?, program))
    });
    let leaves = leaves.collect::<io::Result<Vec<_>>>()?;
    let architecture = section(&Calls::default())?.0;
    let program = [architecture, vec![statement(LOAD, 0)], tree(&leaves)].concat();
    // The kernel's BPF_MAXINSNS.
    if program.len() > 4096 {
        return Err(io::Error::other(format!("a filter of {} instructions", program.len())));
    }
    Ok(program)
}

/// How many numbers are looked at one after the other. Of 4, 8 and 16 the fastest to install.
const LEAF: usize = 4;

/// Goes to the leaf in which a number is, if it is in any. The number has been loaded.
fn tree(leaves: &[(u32, BpfProgram)]) -> BpfProgram {
    match leaves {
        [] => Vec::new(),
        [(_, program)] => program.clone(),
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let (first, low, high) = (high[0].0, tree(low), tree(high));
            // A conditional jump goes 255 instructions far, an unconditional one anywhere.
            #[allow(clippy::cast_possible_truncation, reason = "a program has some thousand instructions")]
            let over = statement(JUMP, low.len() as u32);
            let choice = sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: first };
            [vec![choice, over], low, high].concat()
        }
    }
}

/// The rules of all lists for the numbers from `first` to `last`, one list after the other.
fn chain(lists: &[(Calls, Answer)], first: i64, last: i64, otherwise: Answer) -> io::Result<BpfProgram> {
    let mut program = BpfProgram::new();
    for (calls, answer) in lists {
        let here: BTreeMap<_, _> = calls.0.range(first..=last).map(|(&number, uses)| (number, uses.clone())).collect();
        if here.is_empty() {
            continue;
        }
        let (_, mut code) = section(&Calls(here))?;
        let end = code.len();
        for (index, instruction) in code.iter_mut().enumerate() {
            if instruction.code == RETURN && instruction.k == MATCH {
                instruction.k = answer.value();
            } else if instruction.code == RETURN && instruction.k == MISMATCH {
                // On to the next list.
                #[allow(clippy::cast_possible_truncation, reason = "a section has some hundred instructions")]
                let over = statement(JUMP, (end - index - 1) as u32);
                *instruction = over;
            }
        }
        program.append(&mut code);
    }
    program.push(statement(RETURN, otherwise.value()));
    Ok(program)
}

/// What seccompiler makes of a list: the check of the architecture, and what comes after it.
fn section(calls: &Calls) -> io::Result<(BpfProgram, BpfProgram)> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| {
        io::Error::new(io::ErrorKind::Unsupported, "no system-call filter is written for this architecture")
    })?;
    // Two actions that no filter of ours takes, so that they can be told and replaced.
    let (mismatch, matched) = (SeccompAction::Trace(MISMATCH & DATA), SeccompAction::Trace(MATCH & DATA));
    let filter = SeccompFilter::new(calls.0.clone(), mismatch, matched, arch).map_err(backend)?;
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

fn backend(error: BackendError) -> io::Error {
    io::Error::other(error)
}

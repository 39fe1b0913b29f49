//! `[broker -> worker]` The same program in fewer instructions.
//!
//! The kernel translates a filter each time that a worker starts, which takes it longer than to make the process.
//! seccompiler writes each condition as if nothing were known by then: it loads what is loaded, asks for the number that
//! it was found by, and jumps to jumps. Here that is taken out. A classic BPF program only jumps ahead, so one look from
//! the start to the end sees all that can be known at each place.

use seccompiler::{BpfProgram, sock_filter};

// Of linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS, BPF_ALU | BPF_AND | BPF_K, BPF_JMP | BPF_JA; with BPF_JMP and BPF_K:
// BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET; BPF_RET | BPF_K.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const GO: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_ABOVE: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// A conditional jump goes so far.
const FAR: usize = 255;

/// An instruction, with what comes next as places in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Goes on with the next one.
    Plain {
        code: u16,
        k: u32,
    },
    If {
        code: u16,
        k: u32,
        yes: usize,
        no: usize,
    },
    Go(usize),
    Return(u32),
}

/// A program that answers every call as this one does. One with instructions that are not known here is left as it is.
pub(super) fn squeeze(program: BpfProgram) -> BpfProgram {
    let steps = program.iter().enumerate().map(|(place, instruction)| step(place, instruction));
    let Some(mut steps) = steps.collect::<Option<Vec<Step>>>() else { return program };
    loop {
        let before = steps.clone();
        forget_what_is_known(&mut steps);
        shorten_ways(&mut steps);
        take_out(&mut steps);
        // Each round makes it shorter, or is the last.
        if steps.len() == before.len() {
            break;
        }
    }
    written(&steps).unwrap_or(program)
}

fn step(place: usize, instruction: &sock_filter) -> Option<Step> {
    let sock_filter { code, jt, jf, k } = *instruction;
    let after = |distance: usize| place + 1 + distance;
    Some(match code {
        LOAD | AND => Step::Plain { code, k },
        IF_EQUAL | IF_ABOVE | IF_AT_LEAST | IF_SET => Step::If { code, k, yes: after(jt.into()), no: after(jf.into()) },
        GO => Step::Go(after(usize::try_from(k).ok()?)),
        RETURN => Step::Return(k),
        _ => return None,
    })
}

/// What is known when the program comes to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The offset in seccomp_data that was loaded last, if it is still what the accumulator holds.
    loaded: Option<u32>,
    /// The call's number, which is at offset 0, is within these.
    least: u32,
    most: u32,
}

impl Known {
    /// On both ways to one place.
    fn either(self, other: Self) -> Self {
        Self {
            loaded: self.loaded.filter(|_| self.loaded == other.loaded),
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }

    /// After a comparison of the number with `k`, by its outcome. None for one that cannot be.
    fn after(self, code: u16, k: u32) -> [Option<Self>; 2] {
        let within = |least: Option<u32>, most: Option<u32>| {
            let (least, most) = (self.least.max(least?), self.most.min(most?));
            (least <= most).then_some(Self { least, most, ..self })
        };
        if self.loaded != Some(0) {
            return [Some(self); 2];
        }
        match code {
            IF_EQUAL if self.least == k => [within(Some(k), Some(k)), within(k.checked_add(1), Some(u32::MAX))],
            IF_EQUAL => [within(Some(k), Some(k)), Some(self)],
            IF_AT_LEAST => [within(Some(k), Some(u32::MAX)), within(Some(0), k.checked_sub(1))],
            _ => [Some(self); 2],
        }
    }
}

/// Loads of what is loaded, and questions with one answer, become jumps.
fn forget_what_is_known(steps: &mut [Step]) {
    let mut known: Vec<Option<Known>> = vec![None; steps.len() + 1];
    let start = Known { loaded: None, least: 0, most: u32::MAX };
    let arrive = |known: &mut [Option<Known>], place: usize, state: Known| {
        if let Some(there) = known.get_mut(place) {
            *there = Some(there.map_or(state, |there| there.either(state)));
        }
    };
    arrive(&mut known, 0, start);
    for place in 0..steps.len() {
        let Some(now) = known[place] else { continue };
        match steps[place] {
            Step::Plain { code: LOAD, k } => {
                if now.loaded == Some(k) {
                    steps[place] = Step::Go(place + 1);
                }
                arrive(&mut known, place + 1, Known { loaded: Some(k), ..now });
            }
            Step::Plain { .. } => arrive(&mut known, place + 1, Known { loaded: None, ..now }),
            Step::If { code, k, yes, no } => {
                let [on_yes, on_no] = now.after(code, k);
                if on_no.is_none() || yes == no {
                    steps[place] = Step::Go(yes);
                } else if on_yes.is_none() {
                    steps[place] = Step::Go(no);
                }
                on_yes.into_iter().for_each(|state| arrive(&mut known, yes, state));
                on_no.into_iter().for_each(|state| arrive(&mut known, no, state));
            }
            Step::Go(to) => arrive(&mut known, to, now),
            Step::Return(_) => {}
        }
    }
}

/// No jump leads to a jump; jumps to the same answer go to the same place, as far as they reach.
fn shorten_ways(steps: &mut [Step]) {
    for place in (0..steps.len()).rev() {
        let last = |to: usize, steps: &[Step]| match steps.get(to) {
            Some(Step::Go(further)) => *further,
            _ => to,
        };
        match steps[place] {
            Step::Go(to) => {
                let to = last(to, steps);
                steps[place] = match steps.get(to) {
                    Some(answer @ Step::Return(_)) => *answer,
                    _ => Step::Go(to),
                };
            }
            Step::If { code, k, yes, no } => {
                let end = steps.len().min(place + 1 + FAR + 1);
                let shared = |to: usize| {
                    let to = Some(last(to, steps)).filter(|further| *further < end).unwrap_or(to);
                    match steps.get(to) {
                        Some(answer @ Step::Return(_)) => {
                            (to..end).rev().find(|other| steps[*other] == *answer).unwrap_or(to)
                        }
                        _ => to,
                    }
                };
                steps[place] = Step::If { code, k, yes: shared(yes), no: shared(no) };
            }
            Step::Plain { .. } | Step::Return(_) => {}
        }
    }
}

/// What no way leads to, and jumps to what comes next anyway.
fn take_out(steps: &mut Vec<Step>) {
    let mut reached = vec![false; steps.len() + 1];
    reached[0] = true;
    for (place, step) in steps.iter().enumerate() {
        if reached[place] {
            match *step {
                Step::Plain { .. } => reached[place + 1] = true,
                Step::If { yes, no, .. } => (reached[yes], reached[no]) = (true, true),
                Step::Go(to) => reached[to] = true,
                Step::Return(_) => {}
            }
        }
    }
    for place in 0..steps.len() {
        if let Step::Go(to) = steps[place] {
            if (place + 1..to).all(|between| !reached[between]) {
                reached[place] = false;
            }
        }
    }
    // Where each place is afterwards; of one that is taken out, what comes after it.
    let mut moved = Vec::with_capacity(reached.len());
    let mut kept = 0;
    for reached in &reached {
        moved.push(kept);
        kept += usize::from(*reached);
    }
    let mut all = reached.iter();
    steps.retain(|_| all.next() == Some(&true));
    for step in steps {
        match step {
            Step::If { yes, no, .. } => (*yes, *no) = (moved[*yes], moved[*no]),
            Step::Go(to) => *to = moved[*to],
            Step::Plain { .. } | Step::Return(_) => {}
        }
    }
}

/// None if a jump does not reach its place, which is not to be: everything has come nearer.
fn written(steps: &[Step]) -> Option<BpfProgram> {
    let instruction = |(place, step): (usize, &Step)| {
        let over = |to: usize| to.checked_sub(place + 1);
        Some(match *step {
            Step::Plain { code, k } => sock_filter { code, jt: 0, jf: 0, k },
            Step::Return(k) => sock_filter { code: RETURN, jt: 0, jf: 0, k },
            Step::Go(to) => sock_filter { code: GO, jt: 0, jf: 0, k: u32::try_from(over(to)?).ok()? },
            Step::If { code, k, yes, no } => {
                sock_filter { code, jt: u8::try_from(over(yes)?).ok()?, jf: u8::try_from(over(no)?).ok()?, k }
            }
        })
    };
    steps.iter().enumerate().map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter makes of a program, for one call's seccomp_data.
    fn run(program: &[sock_filter], data: &[u32; 16]) -> u32 {
        let (mut place, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[place];
            place += 1;
            let jump = |met: bool| usize::from(if met { jt } else { jf });
            match code {
                LOAD => accumulator = data[k as usize / 4],
                AND => accumulator &= k,
                GO => place += k as usize,
                IF_EQUAL => place += jump(accumulator == k),
                IF_ABOVE => place += jump(accumulator > k),
                IF_AT_LEAST => place += jump(accumulator >= k),
                IF_SET => place += jump(accumulator & k != 0),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// B-02: the shorter program answers every number as the longer one does, with arguments that the program asks for
    /// and those beside them, and of each architecture.
    #[test]
    fn b_02_the_shorter_program_gives_the_same_answers() {
        let programs = super::super::compile::tests::programs();
        assert_eq!(programs.len(), 2);
        for program in programs {
            let shorter = squeeze(program.clone());
            assert!(shorter.len() * 10 < program.len() * 7, "{} of {}", shorter.len(), program.len());
            let asked = program.iter().filter(|instruction| instruction.code != LOAD).map(|instruction| instruction.k);
            let mut values: Vec<u32> = asked.flat_map(|k| [k, k.wrapping_add(1), k.wrapping_sub(1), !k]).collect();
            values.extend([0, 1, u32::MAX]);
            values.sort_unstable();
            values.dedup();
            let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
            let mut next = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let architecture = program[1].k;
            let numbers = (0..600).chain(0x4000_0000..0x4000_0258).chain([u32::MAX, 0x3fff_ffff, 0x8000_0000]);
            for number in numbers {
                for _ in 0..400 {
                    let mut data = [0; 16];
                    (data[0], data[1]) = (number, if next() % 50 == 0 { architecture ^ 1 } else { architecture });
                    for half in &mut data[2..] {
                        *half = match next() % 3 {
                            0 => 0,
                            _ => values[usize::try_from(next() % values.len() as u64).unwrap_or(0)],
                        };
                    }
                    assert_eq!(run(&shorter, &data), run(&program, &data), "{data:x?}");
                }
                // Each value that is asked for, with nothing but zeros beside it.
                for half in 4..16 {
                    for value in &values {
                        let mut data = [0; 16];
                        (data[0], data[1], data[half]) = (number, architecture, *value);
                        assert_eq!(run(&shorter, &data), run(&program, &data), "{data:x?}");
                    }
                }
            }
        }
    }
}

//! `[broker]` How long it takes to start a worker and to see its end, beside a plain fork and beside other sandboxes: see
//! benches/README.md. The exit status is 1 if it takes longer than was promised.
#![allow(missing_docs, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used, reason = "a program")]
#![allow(unsafe_code, reason = "fork(2), which nothing else is to be measured in")]

use std::env;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio as Output};
use std::ptr;
use std::time::Instant;

use fdbroker::{Layer, Mode, Prepared, Preset, Sandbox, Stdio};

/// What the large parent has touched.
const LARGE: usize = 1 << 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--help") {
        println!("cargo bench --bench spawn [-- --quick]");
        return ExitCode::SUCCESS;
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--large-parent") {
        return large_parent(Path::new(&arguments[at + 1]));
    }
    if !has("--bench") {
        eprintln!("spawn measures only as a benchmark: cargo bench --bench spawn");
        return ExitCode::SUCCESS;
    }
    let quick = has("--quick");
    let keep = tempfile::tempdir().unwrap();
    let program = match program(keep.path()) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("SKIPPED spawn: a program to start cannot be made with cc: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let mut contestants = contestants(&program);
    let times = measure(&mut contestants, if quick { 50 } else { 500 });
    let kept = report(&contestants, &times);
    // A second says too little on a machine that does something else as well.
    if kept || quick { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The least that there is to execute: two instructions, linked statically, which need no library and no memory.
fn program(directory: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let (source, program) = (directory.join("ends.c"), directory.join("ends"));
    let (text, options): (_, &[&str]) = match env::consts::ARCH {
        "x86_64" => (r#"void _start(void) { __asm__("mov $60, %eax; xor %edi, %edi; syscall"); }"#, &["-nostdlib"]),
        "aarch64" => (r#"void _start(void) { __asm__("mov x8, 93; mov x0, 0; svc 0"); }"#, &["-nostdlib"]),
        _ => ("int main(void) { return 0; }", &[]),
    };
    fs::write(&source, text)?;
    let mut cc = Command::new("cc");
    cc.args(["-static", "-Os", "-o"]).arg(&program).args(options).arg(&source);
    if !cc.status()?.success() || !Command::new(&program).status()?.success() {
        return Err(io::Error::other("it does not run"));
    }
    Ok(program.canonicalize()?)
}

/// Starts one process and waits for its end.
struct Contestant {
    name: &'static str,
    start: Box<dyn FnMut() -> f64>,
    /// Whether it takes part in each tenth round only.
    is_slow: bool,
    /// What it may cost at most, beside another.
    limit: Option<(f64, &'static str)>,
}

const FORK: &str = "fork and exec";
const FLOOR: &str = "floor";
const FULL: &str = "full";
const BUBBLEWRAP: &str = "bubblewrap";

fn contestants(program: &Path) -> Vec<Contestant> {
    let plain = Plain::new(program);
    let spawned = program.to_owned();
    let mut all = vec![
        contestant(FORK, move || plain.fork()),
        contestant("posix_spawn", move || by_command(&mut Command::new(&spawned))),
        contestant("Command with Landlock, filter", hardened(program)),
        sandboxed(FLOOR, sandbox(program).preset(Preset::Floor)).at_most(1.3, FORK),
        sandboxed("standard", sandbox(program).preset(Preset::Standard)),
        sandboxed("full, no network namespace", without_network(program)).at_most(2.2, FORK),
        sandboxed(FULL, sandbox(program).preset(Preset::Full)).at_most(3.8, FORK),
    ];
    let large = |name, word: u8| {
        let mut parent = LargeParent::start(program);
        Contestant { name, start: Box::new(move || parent.ask(word)), is_slow: word == b'f', limit: None }
    };
    all.push(large("fork and exec, 1 GiB touched", b'f'));
    all.push(large("floor, 1 GiB touched", b's').at_most(1.5, FLOOR));
    let mut add = |name, others: &[&str], words: &[&OsStr]| {
        let command = move |words: &[&OsStr]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Output::null()).stdout(Output::null()).stderr(Output::null());
            command
        };
        let words: Vec<&OsStr> = others.iter().map(OsStr::new).chain(words.iter().copied()).collect();
        let mut command = command(&words);
        if command.status().is_ok_and(|status| status.success()) {
            all.push(contestant(name, move || by_command(&mut command)));
        } else {
            println!("({name} is not installed, or does not run here)");
        }
    };
    let (path, inside) = (program.as_os_str(), OsStr::new("/ends"));
    add(BUBBLEWRAP, &["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind"], &[path, inside, inside]);
    add("minijail0", &["minijail0", "-v", "-p", "-l", "-e", "-N", "-n", "--"], &[path]);
    let has_bubblewrap = all.iter().any(|contestant| contestant.name == BUBBLEWRAP);
    let full = all.iter().position(|contestant| contestant.name == FULL).filter(|_| has_bubblewrap);
    if let Some(full) = full {
        // It has a limit by the fork already: one more row, of its own times.
        let again = sandboxed("full, once more", sandbox(program).preset(Preset::Full)).at_most(0.35, BUBBLEWRAP);
        all.insert(full + 1, again);
    }
    let prepared = sandbox(program).preset(Preset::Full);
    all.push(contestant("preparing full, no process", move || drop(prepared.prepare().unwrap())));
    all
}

impl Contestant {
    fn at_most(self, ratio: f64, other: &'static str) -> Self {
        Self { limit: Some((ratio, other)), ..self }
    }
}

/// Timed here.
fn contestant(name: &'static str, mut start: impl FnMut() + 'static) -> Contestant {
    let start = move || {
        let since = Instant::now();
        start();
        since.elapsed().as_secs_f64() * 1e6
    };
    Contestant { name, start: Box::new(start), is_slow: false, limit: None }
}

fn sandbox(program: &Path) -> Sandbox {
    Sandbox::new(program).stdout(Stdio::Null).stderr(Stdio::Null)
}

fn without_network(program: &Path) -> Sandbox {
    sandbox(program).preset(Preset::Full).layer(Layer::NetworkNamespace, Mode::Off)
}

fn sandboxed(name: &'static str, sandbox: Sandbox) -> Contestant {
    let prepared = sandbox.prepare().unwrap();
    if let Err(missing) = prepared.enforced().require_full() {
        println!("({name}: {missing})");
    }
    contestant(name, move || one_worker(&prepared))
}

fn one_worker(prepared: &Prepared) {
    let (worker, channel) = prepared.spawn().unwrap();
    assert!(worker.wait().unwrap().success());
    drop(channel);
}

/// By posix_spawn(3), which the standard library takes where nothing is to be done in between.
fn by_command(command: &mut Command) {
    assert!(command.status().unwrap().success());
}

/// What can be had with the standard library and two crates: a fork, with calls before the program is executed.
fn hardened(program: &Path) -> impl FnMut() + use<> {
    use landlock::{ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr};
    use std::os::fd::{AsRawFd, OwnedFd};
    let access = AccessFs::from_all(ABI::V7);
    let rules = Ruleset::default().handle_access(access).unwrap().create().unwrap();
    let rules = rules.add_rule(PathBeneath::new(PathFd::new(program).unwrap(), AccessFs::Execute | AccessFs::ReadFile));
    let rules = Option::<OwnedFd>::from(rules.unwrap());
    // Of the size of a worker's: a hundred calls or so.
    let allowed = (0..120).map(|number| (number, vec![])).chain([(libc::SYS_exit_group, vec![])]).collect();
    let refused = seccompiler::SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = env::consts::ARCH.try_into().unwrap();
    let filter = seccompiler::SeccompFilter::new(allowed, refused, seccompiler::SeccompAction::Allow, arch).unwrap();
    let filter: seccompiler::BpfProgram = filter.try_into().unwrap();
    let mut command = Command::new(program);
    let confine = move || {
        // SAFETY: takes numbers.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if let Some(rules) = &rules {
            // SAFETY: takes numbers.
            if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        seccompiler::apply_filter(&filter).map_err(io::Error::other)
    };
    // SAFETY: system calls only, unless they fail.
    unsafe { command.pre_exec(confine) };
    move || by_command(&mut command)
}

/// The least that POSIX has for it.
struct Plain {
    path: CString,
}

impl Plain {
    fn new(program: &Path) -> Self {
        Self { path: CString::new(program.as_os_str().as_bytes()).unwrap() }
    }

    fn fork(&self) {
        let (arguments, environment) = ([self.path.as_ptr(), ptr::null()], [ptr::null()]);
        // SAFETY: the child makes two system calls, with strings and arrays that end as they must.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::execve(self.path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                libc::_exit(127);
            }
            pid
        };
        let mut status = 0;
        // SAFETY: the kernel writes one integer.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}

/// A process of its own that starts others when it is told to, and says how long that took.
struct LargeParent(Child);

impl LargeParent {
    fn start(program: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg("--large-parent").arg(program).stdin(Output::piped()).stdout(Output::piped());
        let mut parent = Self(command.spawn().unwrap());
        // It has touched its memory.
        parent.ask(b'f');
        parent
    }

    fn ask(&mut self, word: u8) -> f64 {
        self.0.stdin.as_mut().unwrap().write_all(&[word]).unwrap();
        let mut time = [0; 8];
        self.0.stdout.as_mut().unwrap().read_exact(&mut time).unwrap();
        f64::from_ne_bytes(time)
    }
}

impl Drop for LargeParent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn large_parent(program: &Path) -> ExitCode {
    // SAFETY: a new mapping, of which small pages are wanted: a fork copies an entry for each.
    let memory = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let memory = libc::mmap(ptr::null_mut(), LARGE, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        assert_ne!(memory, libc::MAP_FAILED);
        libc::madvise(memory, LARGE, libc::MADV_NOHUGEPAGE);
        std::slice::from_raw_parts_mut(memory.cast::<u8>(), LARGE)
    };
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let plain = Plain::new(program);
    let mut fork = contestant("", move || plain.fork());
    let mut floor = sandboxed("", sandbox(program).preset(Preset::Floor));
    let mut word = [0];
    while let Ok(1) = io::stdin().read(&mut word) {
        let time = if word == [b'f'] { (fork.start)() } else { (floor.start)() };
        io::stdout().write_all(&time.to_ne_bytes()).unwrap();
        io::stdout().flush().unwrap();
    }
    assert_eq!(memory[LARGE - 4096], 1);
    ExitCode::SUCCESS
}

/// Microseconds, of each contestant in each round. In a round each starts one process, in an order that no other round
/// has: what one leaves for the kernel to do afterwards, such as taking namespaces down, is not always in the way of the
/// same next one.
fn measure(contestants: &mut [Contestant], rounds: usize) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); contestants.len()];
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..rounds + 5 {
        for last in (1..order.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(last, usize::try_from(random % (last as u64 + 1)).unwrap());
        }
        for &which in &order {
            // To copy the pages of a gigabyte takes longer than all others together.
            if contestants[which].is_slow && round % 10 != 9 {
                continue;
            }
            let time = (contestants[which].start)();
            // The first find nothing in any cache.
            if round >= 5 {
                times[which].push(time);
            }
        }
    }
    times
}

/// Prints the table, and answers whether all kept to their limits.
fn report(contestants: &[Contestant], times: &[Vec<f64>]) -> bool {
    let times: Vec<Vec<f64>> = times.iter().map(|times| blocks(times)).collect();
    let medians: Vec<f64> = times.iter().map(|times| quantile(times, 0.5)).collect();
    let of = |name: &str| contestants.iter().position(|contestant| contestant.name == name).map(|at| medians[at]);
    let fork = of(FORK).unwrap();
    let mut kept = true;
    println!("{:30}{:>9}{:>18}{:>8}  at most", "microseconds", "median", "middle half", "ratio");
    for ((contestant, times), median) in contestants.iter().zip(&times).zip(&medians) {
        let middle = format!("{:.0} - {:.0}", quantile(times, 0.25), quantile(times, 0.75));
        let verdict = contestant.limit.and_then(|(limit, other)| {
            let ratio = median / of(other)?;
            kept &= ratio <= limit;
            let word = if ratio <= limit { "" } else { ": TOO LONG" };
            Some(format!("{limit} of \"{other}\", and has {ratio:.2}{word}"))
        });
        println!(
            "{:30}{median:9.0}{middle:>18}{:8.2}  {}",
            contestant.name,
            median / fork,
            verdict.unwrap_or_default()
        );
    }
    kept
}

/// The best of so many rounds in a row stands for them: others on the machine take time and caches now and then.
const BLOCK: usize = 5;

fn blocks(times: &[f64]) -> Vec<f64> {
    times.chunks(BLOCK).map(|block| block.iter().copied().fold(f64::INFINITY, f64::min)).collect()
}

fn quantile(numbers: &[f64], part: f64) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    numbers[((numbers.len() - 1) as f64 * part) as usize]
}

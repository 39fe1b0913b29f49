//! Every system call of a new process fails once, and is once its last: what the parent says, and what is left.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::state::{State, has_no_child, mappings, state};
use common::watched::{Numbers, Verdict, answer, install, next, watched_but};
use fdbroker::{Channel, Layer, Limit, Mode, Prepared, Preset, Refusal, Sandbox, SpawnError, Stdio, Step};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a kernel answers to none of the calls of its own accord.
const INJECTED: i32 = libc::EXDEV;

/// A layer whose absence leaves the step out. Of a new step, nothing is known here: whoever adds it says by what it is
/// made to fail (`calls`), and when it is taken.
fn taken(step: Step, prepared: &Prepared) -> bool {
    let has = |layer| prepared.enforced().has(layer);
    match step {
        Step::Signals
        | Step::Descriptors
        | Step::CloseOnExec
        | Step::WorkingDirectory
        | Step::Limits
        | Step::Capabilities
        | Step::SignalMask
        | Step::Exec => true,
        Step::IdMaps => has(Layer::UserNamespace),
        Step::PrivateMounts | Step::EmptyRoot | Step::Bind | Step::ReadOnlyRoot | Step::PivotRoot => has(Layer::Root),
        Step::BoundingSet => has(Layer::Capabilities),
        Step::Securebits => has(Layer::Securebits),
        Step::Groups | Step::Gid | Step::Uid => has(Layer::User),
        Step::NoNewPrivs => has(Layer::NoNewPrivs),
        Step::DieWithParent => has(Layer::DieWithParent),
        Step::Landlock => has(Layer::Landlock),
        Step::Seccomp => has(Layer::Seccomp),
        // No call of the child's; and a filter with a listener is not to be had beside that of `watched`. Tests of
        // their own.
        Step::Clone | Step::Listener => false,
        new => panic!("a step of which this test does not know how it fails: {new}"),
    }
}

/// The system calls of a step, each of which is made to fail.
fn calls(step: Step) -> &'static [i64] {
    match step {
        Step::Clone => &[libc::SYS_clone3, libc::SYS_clone],
        Step::Signals => &[libc::SYS_rt_sigaction],
        Step::IdMaps => &[libc::SYS_openat, libc::SYS_write, libc::SYS_close],
        Step::Descriptors => &[libc::SYS_dup3],
        Step::CloseOnExec => {
            &[libc::SYS_close_range, libc::SYS_openat, libc::SYS_getdents64, libc::SYS_fcntl, libc::SYS_close]
        }
        Step::PrivateMounts => &[libc::SYS_mount],
        Step::EmptyRoot => &[
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_close,
            libc::SYS_move_mount,
            libc::SYS_umask,
        ],
        Step::Bind => &[
            libc::SYS_mkdirat,
            libc::SYS_mknodat,
            libc::SYS_symlinkat,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_close,
            libc::SYS_umask,
            libc::SYS_fstatfs,
            libc::SYS_fchdir,
            libc::SYS_mount,
        ],
        Step::ReadOnlyRoot => &[libc::SYS_mount_setattr, libc::SYS_fchdir, libc::SYS_mount],
        Step::PivotRoot => &[libc::SYS_fchdir, libc::SYS_pivot_root, libc::SYS_umount2, libc::SYS_close],
        Step::WorkingDirectory => &[libc::SYS_chdir],
        Step::Limits => &[libc::SYS_prlimit64],
        Step::BoundingSet | Step::Securebits | Step::NoNewPrivs => &[libc::SYS_prctl],
        Step::Groups => &[libc::SYS_setgroups],
        Step::Gid => &[libc::SYS_setresgid],
        Step::Uid => &[libc::SYS_setresuid],
        Step::Capabilities => &[libc::SYS_capset],
        Step::DieWithParent => &[libc::SYS_prctl, libc::SYS_getppid, libc::SYS_ppoll],
        Step::Landlock => &[libc::SYS_landlock_restrict_self],
        Step::SignalMask => &[libc::SYS_rt_sigprocmask],
        Step::Seccomp => &[libc::SYS_seccomp],
        Step::Listener => &[libc::SYS_sendmsg],
        Step::Exec => &[libc::SYS_execveat],
        new => panic!("a step of which this test does not know how it fails: {new}"),
    }
}

/// Not a test by itself: the worker, and the broker that is killed.
#[test]
fn process() {
    match common::role().as_deref() {
        Some("worker") => std::thread::sleep(PATIENCE),
        Some(broker) if broker.starts_with("broker ") => broken_off(broker),
        _ => {}
    }
}

/// Every layer is at its place, and nothing of a worker is told on the test's output.
fn sandbox(preset: Preset) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--test-threads=1"]);
    let sandbox = sandbox.env("FDBROKER_TEST_ROLE", "worker").preset(preset).stdout(Stdio::Null).stderr(Stdio::Null);
    if common::is_root() { sandbox.ids(54321, 54322).groups([54323]) } else { sandbox }
}

/// What becomes of the child's n-th call.
#[derive(Default)]
struct Plot {
    /// The call that it is about, counted from the child's first.
    at: usize,
    kills: bool,
    seen: Vec<i64>,
    child: Option<u32>,
    on: bool,
}

impl Plot {
    fn judge(&mut self, thread: u32, number: i64) -> Verdict {
        if !self.on || Path::new("/proc/self/task").join(thread.to_string()).exists() {
            return Verdict::Go;
        }
        self.child = Some(thread);
        self.seen.push(number);
        match self.seen.len() - 1 == self.at {
            true if self.kills => {
                kill(Pid::from_raw(thread.try_into().unwrap()), Signal::SIGKILL).unwrap();
                Verdict::Go
            }
            true => Verdict::Fail(INJECTED),
            false => Verdict::Go,
        }
    }
}

/// Those by which the watched thread gets on with the one that judges, and memory, of which that one may hold the lock.
const UNWATCHED: [i64; 8] = [
    libc::SYS_futex,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_sched_yield,
    libc::SYS_exit_group,
];

/// Does `body` on a thread whose children come to what `Plot` says.
fn plotted(body: impl FnOnce(&Mutex<Plot>) + Send + 'static) {
    let plot = Arc::new(Mutex::new(Plot::default()));
    let judge = Arc::clone(&plot);
    watched_but(&UNWATCHED, move |call| judge.lock().unwrap().judge(call.thread, call.number), move || body(&plot));
}

/// One failure: at which step, of which call, and what else was said.
struct Failed {
    step: Step,
    number: i64,
    about: Option<String>,
}

/// Fails each call of the child, from the first to the last, in order.
fn fail_each(prepared: &Prepared, plot: &Mutex<Plot>) -> Vec<Failed> {
    let mut failures = Vec::new();
    for at in 0.. {
        *plot.lock().unwrap() = Plot { at, on: true, ..Plot::default() };
        let result = prepared.spawn();
        let seen = std::mem::take(&mut *plot.lock().unwrap()).seen;
        match result {
            Err(SpawnError::Step { step, about, source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(INJECTED), "{step}");
                // Nothing more than to close what it had open, and to end, which is not watched.
                assert!(seen[at + 1..].iter().all(|call| *call == libc::SYS_close), "{step}: it goes on: {seen:?}");
                failures.push(Failed { step, number: seen[at], about });
                assert!(has_no_child(), "{step}");
            }
            // It is none of the child's any more, but the worker's.
            Ok((worker, _channel)) => {
                assert!(at > 0 && seen.len() >= at, "{seen:?}");
                assert_eq!(seen[at - 1], libc::SYS_execveat, "a call that failed, and nobody said it: {seen:?}");
                drop(worker);
                break;
            }
            Err(other) => panic!("call {at} ({seen:?}): {other:?}"),
        }
    }
    failures
}

/// The process is what it was before, with all that a first worker leaves in it.
fn unchanged<T>(prepared: &Prepared, body: impl FnOnce() -> T) -> T {
    drop(prepared.spawn().unwrap());
    let (before, mapped) = (state(), mappings());
    assert_nothing_is_blocked(&before);
    let answer = body();
    let after = state();
    for (name, value) in &before {
        assert_eq!(after.get(name), Some(value), "{name}");
    }
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    // The heap of a thread may take a few more pieces; a stack that is left for each failure would be hundreds.
    assert!(mappings() <= mapped + 4, "{mapped} mappings before, {} after", mappings());
    assert!(has_no_child());
    drop(prepared.spawn().unwrap());
    answer
}

/// No worker has blocked a signal for good, not the first one either, and not the children that try out what the host
/// offers: neither in a thread that was there, nor in the one that starts workers from then on.
fn assert_nothing_is_blocked(state: &State) {
    for (name, mask) in state.iter().filter(|(name, _)| name.starts_with("SigBlk")) {
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // Blocked by `peculiar`.
        assert_eq!(mask & !(1 << (libc::SIGUSR2 - 1)), 0, "{name}: {mask:x}");
    }
}

/// Sets what a spawn might change to what is not the default.
fn peculiar() {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, signal, sigprocmask};
    use nix::sys::stat::{Mode, umask};
    umask(Mode::from_bits_truncate(0o031));
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    handle(Signal::SIGUSR1);
    #[allow(unsafe_code, reason = "of signal(2), which ignores here")]
    // SAFETY: no handler.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.unwrap();
}

#[allow(unsafe_code, reason = "sigaction(2) has no safe form")]
fn handle(signal: Signal) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.unwrap();
}

/// Fails each call of workers of this preset on a kernel without the calls `missing`.
fn every_call_fails(preset: Preset, missing: &[i64]) {
    let missing = missing.to_vec();
    plotted(move |plot| {
        peculiar();
        for number in missing {
            common::refuse_in_this_thread(number, libc::ENOSYS);
        }
        let prepared = sandbox(preset).prepare().unwrap();
        let failures = unchanged(&prepared, || fail_each(&prepared, plot));
        let mut seen: BTreeMap<Step, BTreeSet<i64>> = BTreeMap::new();
        let mut last = Step::Clone;
        for Failed { step, number, about } in failures {
            assert!(step >= last, "{step} after {last}");
            last = step;
            assert!(calls(step).contains(&number), "{step}: call {number}");
            seen.entry(step).or_default().insert(number);
            match step {
                Step::Bind => assert!(about.is_some_and(|path| path.starts_with('/')), "{step}"),
                Step::Limits => assert_eq!(about.as_deref(), Some("core")),
                Step::WorkingDirectory => assert_eq!(about.as_deref(), Some("/")),
                _ => assert_eq!(about, None, "{step}"),
            }
        }
        let expected: BTreeSet<Step> = Step::ALL.into_iter().filter(|step| taken(*step, &prepared)).collect();
        assert_eq!(seen.into_keys().collect::<BTreeSet<_>>(), expected);
    });
}

/// B-11, B-08, L-10: each system call of a new process with the least layers fails once: the error says at which step,
/// with which errno and about what; nothing is left, and the parent is what it was.
#[test]
fn b_11_b_08_l_10_every_call_fails_in_the_floor() {
    common::alone("b_11_b_08_l_10_every_call_fails_in_the_floor", || every_call_fails(Preset::Floor, &[]));
}

/// B-11, B-08, L-10: the same with the layers of the standard.
#[test]
fn b_11_b_08_l_10_every_call_fails_in_the_standard() {
    common::alone("b_11_b_08_l_10_every_call_fails_in_the_standard", || every_call_fails(Preset::Standard, &[]));
}

/// B-11, B-08, L-10: the same with all layers.
#[test]
fn b_11_b_08_l_10_every_call_fails_in_the_full() {
    common::alone("b_11_b_08_l_10_every_call_fails_in_the_full", || every_call_fails(Preset::Full, &[]));
}

/// B-11, B-08, L-10: the same on a kernel without clone3(2) and close_range(2), where the child does more itself.
#[test]
fn b_11_b_08_l_10_every_call_fails_on_an_older_kernel() {
    common::alone("b_11_b_08_l_10_every_call_fails_on_an_older_kernel", || {
        every_call_fails(Preset::Standard, &[libc::SYS_clone3, libc::SYS_close_range, libc::SYS_mount_setattr]);
    });
}

/// B-11: clone3(2) fails, and so does clone(2) where that takes its place.
#[test]
fn b_11_no_process_is_made() {
    common::alone("b_11_no_process_is_made", || {
        let prepared = sandbox(Preset::Standard).layer(Layer::DieWithParent, Mode::Off).prepare().unwrap();
        unchanged_but_for_filters(&prepared, || {
            common::refuse_in_this_thread(libc::SYS_clone3, libc::EAGAIN);
            assert_eq!(step_of(&prepared), (Step::Clone, libc::EAGAIN));
        });
    });
}

/// B-11: as above, where there is no clone3(2).
#[test]
fn b_11_no_process_is_made_on_an_older_kernel() {
    common::alone("b_11_no_process_is_made_on_an_older_kernel", || {
        let prepared = sandbox(Preset::Standard).layer(Layer::DieWithParent, Mode::Off).prepare().unwrap();
        unchanged_but_for_filters(&prepared, || {
            common::refuse_in_this_thread(libc::SYS_clone3, libc::ENOSYS);
            drop(prepared.spawn().unwrap());
            common::refuse_in_this_thread(libc::SYS_clone, libc::EAGAIN);
            assert_eq!(step_of(&prepared), (Step::Clone, libc::EAGAIN));
        });
    });
}

/// B-11, B-08: the filter's listener cannot be handed over, or not be had.
#[test]
fn b_11_b_08_the_filter_has_no_listener() {
    common::alone("b_11_b_08_the_filter_has_no_listener", || {
        let sandbox = sandbox(Preset::Standard).layer(Layer::DieWithParent, Mode::Off);
        let prepared = sandbox.refusal(Refusal::Kill).prepare().unwrap();
        unchanged_but_for_filters(&prepared, || {
            common::refuse_in_this_thread(libc::SYS_sendmsg, libc::EXDEV);
            assert_eq!(step_of(&prepared), (Step::Listener, libc::EXDEV));
            // There is one for each chain of filters.
            let listener = install(&Numbers::These(vec![libc::SYS_sethostname])).unwrap();
            assert_eq!(step_of(&prepared), (Step::Seccomp, libc::EBUSY));
            drop(listener);
        });
    });
}

/// B-08, B-02: another listens to a filter around the broker, as a container's manager may: the kernel kills by itself.
#[test]
fn b_08_b_02_another_has_the_listener() {
    common::alone("b_08_b_02_another_has_the_listener", || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        let listener = install(&Numbers::These(vec![libc::SYS_sethostname])).unwrap();
        let shell = Sandbox::new("/bin/sh").args(["-c", "exec /bin/true"]).preset(Preset::Floor);
        let shell = shell.layer(Layer::DieWithParent, Mode::Off).refusal(Refusal::Kill);
        let (worker, _channel) = shell.spawn().unwrap();
        let status = worker.wait_timeout(PATIENCE).unwrap().expect("its end");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
        drop(listener);
    });
}

fn step_of(prepared: &Prepared) -> (Step, i32) {
    match prepared.spawn() {
        Err(SpawnError::Step { step, about: None, source, .. }) => (step, source.raw_os_error().unwrap()),
        other => panic!("{other:?}"),
    }
}

/// As [`unchanged`], of a body that puts filters on its thread, which no spawn is wanted of afterwards.
fn unchanged_but_for_filters(prepared: &Prepared, body: impl FnOnce()) {
    drop(prepared.spawn().unwrap());
    assert_nothing_is_blocked(&state());
    // The thread that waited for that worker's filter has ended.
    let one_thread = || fs::read_dir("/proc/self/task").unwrap().count() <= 2;
    while !one_thread() {
        std::thread::yield_now();
    }
    let no_filters =
        || state().into_iter().filter(|(name, _)| !name.starts_with("Seccomp") && !name.starts_with("NoN"));
    let (before, mapped) = (no_filters().collect::<Vec<_>>(), mappings());
    body();
    assert_eq!(no_filters().collect::<Vec<_>>(), before);
    assert!(mappings() <= mapped + 4, "{mapped} mappings before, {} after", mappings());
    assert!(has_no_child());
}

/// B-11, L-10: every limit that is asked for is a step of its own: the error says which one was refused.
#[test]
fn b_11_l_10_the_error_names_the_limit() {
    common::alone("b_11_l_10_the_error_names_the_limit", || {
        plotted(move |plot| {
            for limit in Limit::ALL {
                let prepared = sandbox(Preset::Floor).limit(limit, 1 << 40).prepare().unwrap();
                let about = fail_each(&prepared, plot).into_iter().filter(|failed| failed.step == Step::Limits);
                let about: BTreeSet<String> = about.map(|failed| failed.about.unwrap()).collect();
                assert_eq!(about, BTreeSet::from(["core".to_owned(), limit.to_string()]));
            }
        });
    });
}

// ------------------------------------------------------------------------------------------------------------ memory

/// B-06: however large the parent is, nothing of its memory is copied, no page table either: until it has executed its
/// program, the child is in the parent's own, where it finds what the parent has written since it was made. By
/// clone3(2) and by clone(2), at each of the child's calls.
#[test]
fn b_06_the_parent_is_not_copied() {
    common::alone("b_06_the_parent_is_not_copied", || {
        for missing in [None, Some(libc::SYS_clone3)] {
            in_its_parents_memory(missing);
        }
    });
}

fn in_its_parents_memory(missing: Option<i64>) {
    static WORD: AtomicUsize = AtomicUsize::new(0);
    let calls = Arc::new(AtomicUsize::new(0));
    let looks = Arc::clone(&calls);
    let judge = move |call: &common::watched::Call| {
        let is_child = !Path::new("/proc/self/task").join(call.thread.to_string()).exists();
        // After the last of these, it is another program's.
        if is_child && looks.load(Ordering::SeqCst) != usize::MAX {
            let word = WORD.fetch_add(1, Ordering::SeqCst) + 1;
            if !has_word(call.thread, &WORD, word) {
                eprintln!("call {} of the child: in a memory of its own", call.number);
                return Verdict::Fail(INJECTED);
            }
            looks.fetch_add(1, Ordering::SeqCst);
            if call.number == libc::SYS_execveat {
                looks.store(usize::MAX, Ordering::SeqCst);
            }
        }
        Verdict::Go
    };
    watched_but(&UNWATCHED, judge, move || {
        if let Some(number) = missing {
            common::refuse_in_this_thread(number, libc::ENOSYS);
        }
        let brief = Sandbox::new("/bin/true").preset(Preset::Floor).layer(Layer::DieWithParent, Mode::Off);
        let (worker, _channel) = brief.spawn().unwrap();
        assert!(worker.wait_timeout(PATIENCE).unwrap().unwrap().success());
        assert_eq!(calls.load(Ordering::SeqCst), usize::MAX, "its last call is the execution");
    });
}

/// Whether a process has this value at the place where this one has the word.
fn has_word(process: u32, word: &'static AtomicUsize, value: usize) -> bool {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; size_of::<usize>()];
    let memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    memory
        .read_exact_at(&mut bytes, word.as_ptr().addr().try_into().unwrap())
        .is_ok_and(|()| bytes == value.to_ne_bytes())
}

// ---------------------------------------------------------------------------------------------- signals before exec

/// B-03, B-10: a signal that comes between clone and exec does in the child what it does by default. The parent's
/// handler would run in the parent's memory: it does so neither after clone3(2), which takes handlers away, nor after
/// clone(2), which leaves them there.
#[test]
fn b_03_b_10_a_signal_before_exec() {
    common::alone("b_03_b_10_a_signal_before_exec", || {
        handled_by_counting(SIGNALS);
        for missing in [None, Some(libc::SYS_clone3)] {
            for signal in SIGNALS {
                signalled_before_exec(signal, missing);
            }
        }
    });
}

/// The last one is of those that have no name.
const SIGNALS: [i32; 2] = [libc::SIGUSR1, 64];
static HANDLED: AtomicUsize = AtomicUsize::new(0);

fn signalled_before_exec(signal: i32, missing: Option<i64>) {
    let on = Arc::new(AtomicUsize::new(0));
    let judge_on = Arc::clone(&on);
    // To the child at its first call, when all signals are blocked.
    let judge = move |call: &common::watched::Call| {
        let is_child = !Path::new("/proc/self/task").join(call.thread.to_string()).exists();
        if is_child && judge_on.swap(0, Ordering::SeqCst) == 1 {
            send(call.thread.try_into().unwrap(), signal);
        }
        Verdict::Go
    };
    watched_but(&UNWATCHED, judge, move || {
        if let Some(number) = missing {
            common::refuse_in_this_thread(number, libc::ENOSYS);
        }
        // By this thread, which is watched.
        let prepared = sandbox(Preset::Standard).layer(Layer::DieWithParent, Mode::Off).prepare().unwrap();
        let before = HANDLED.load(Ordering::SeqCst);
        on.store(1, Ordering::SeqCst);
        let result = prepared.spawn();
        assert_eq!(on.load(Ordering::SeqCst), 0, "no signal was sent");
        assert_eq!(HANDLED.load(Ordering::SeqCst), before, "signal {signal} ran the parent's handler in the child");
        match result {
            Err(SpawnError::Step { step: Step::SignalMask, source, .. }) => {
                assert_eq!(source.to_string(), format!("killed by signal {signal}"));
            }
            other => panic!("signal {signal}: {other:?}"),
        }
        assert!(has_no_child());
        // The parent's own handler is where it was.
        send(std::process::id().try_into().unwrap(), signal);
        let since = Instant::now();
        while HANDLED.load(Ordering::SeqCst) != before + 1 {
            assert!(since.elapsed() < PATIENCE, "the parent has lost its handler");
            std::thread::yield_now();
        }
    });
}

#[allow(unsafe_code, reason = "nix knows no signal by its number")]
fn send(pid: i32, signal: i32) {
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[allow(unsafe_code, reason = "sigaction(2) has no safe form")]
fn handled_by_counting(signals: [i32; 2]) {
    extern "C" fn count(_: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }
    for signal in signals {
        // SAFETY: the handler does nothing but count, and interrupts no call for good.
        let before = unsafe { libc::signal(signal, count as extern "C" fn(libc::c_int) as libc::sighandler_t) };
        assert_ne!(before, libc::SIG_ERR);
    }
}

// ------------------------------------------------------------------------------------------------- what is killed

/// Kills the child at each of its calls.
fn killed_at_every_call(preset: Preset) {
    plotted(move |plot| {
        let prepared = sandbox(preset).prepare().unwrap();
        unchanged(&prepared, || {
            let calls = fail_each(&prepared, plot).len();
            assert!(calls > 10);
            for at in 0..calls {
                *plot.lock().unwrap() = Plot { at, kills: true, on: true, ..Plot::default() };
                let result = prepared.spawn();
                let seen = std::mem::take(&mut *plot.lock().unwrap()).seen;
                assert_eq!(seen.len(), at + 1, "calls of the dead: {seen:?}");
                match result {
                    // Only a program that was executed could be told from that.
                    Ok((worker, _channel)) => {
                        assert_eq!(at, calls - 1, "call {}", seen[at]);
                        let status = worker.wait_timeout(PATIENCE).unwrap().expect("a worker that is dead");
                        assert_eq!(status.signal(), Some(libc::SIGKILL), "call {at}, {}", seen[at]);
                    }
                    Err(SpawnError::Step { source, .. }) => {
                        assert_eq!(source.to_string(), "killed by signal 9", "call {at}, {}", seen[at]);
                    }
                    Err(other) => panic!("{other:?}"),
                }
                assert!(has_no_child());
            }
        });
    });
}

/// B-11: a child that is killed before it has executed its program, at any of its calls, is no running worker.
#[test]
fn b_11_killed_at_every_call_in_the_floor() {
    common::alone("b_11_killed_at_every_call_in_the_floor", || killed_at_every_call(Preset::Floor));
}

/// B-11: the same with all layers.
#[test]
fn b_11_killed_at_every_call_in_the_full() {
    common::alone("b_11_killed_at_every_call_in_the_full", || killed_at_every_call(Preset::Full));
}

/// B-04: the broker is killed while it waits for the child to execute its program: the child ends, at whichever of its
/// calls that was, before it is watched or after.
#[test]
fn b_04_the_broker_is_killed_while_it_spawns() {
    common::alone("b_04_the_broker_is_killed_while_it_spawns", || {
        for preset in Preset::ALL {
            let mut at = 0;
            while killed_with_its_broker(preset, at) {
                // Each call of the end, where the parent is looked for; a few of the long way there.
                at += if at < 8 { 1 } else { 3 };
            }
            assert!(at > 8, "{preset}: {at}");
        }
    });
}

/// Whether the child has as many calls.
fn killed_with_its_broker(preset: Preset, at: usize) -> bool {
    let (here, there) = Channel::pair().unwrap();
    let mut command = common::rerun("process", &format!("broker {preset}"));
    let mut broker =
        command.stdin(std::os::fd::OwnedFd::from(there)).stdout(std::process::Stdio::null()).spawn().unwrap();
    drop(command);
    here.set_recv_timeout(Some(PATIENCE)).unwrap();
    let mut packet = fdbroker::Packet::new();
    here.recv(&mut packet).unwrap();
    let listener = packet.take_fds().next().unwrap();
    let memory = fs::File::open("/dev/null").unwrap();
    let mut seen = 0;
    let mut child = None;
    let broker_id = broker.id();
    let mut executed = false;
    // Nobody has the filter any more: the child has ended, and with it the last call.
    while let Some((id, call)) = next_or_end(&listener, &memory) {
        let of_broker = Path::new(&format!("/proc/{broker_id}/task/{}", call.thread)).exists();
        if !of_broker && !executed {
            child = Some(call.thread);
            if seen == at {
                kill(Pid::from_raw(broker_id.try_into().unwrap()), Signal::SIGKILL).unwrap();
                broker.wait().unwrap();
            }
            seen += 1;
            executed = call.number == libc::SYS_execveat;
            // If that was killed before it was watched, the child has found out; if after, it is killed.
            assert!(!executed || seen <= at + 1, "{preset}: its broker is gone since call {at}, and it goes on");
            if executed && seen <= at {
                broker.kill().unwrap();
                broker.wait().unwrap();
            }
        }
        answer(&listener, id, Verdict::Go);
    }
    let child = child.expect("a child");
    let since = Instant::now();
    // It leaves its filter a moment before its end.
    while !has_ended(child) {
        assert!(since.elapsed() < PATIENCE, "{preset}, call {at}: {}", common::status(child, "State"));
        std::thread::yield_now();
    }
    let _ = broker.wait();
    seen > at
}

/// Nobody's child any more: whoever reaps orphans here may take a while.
fn has_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.lines().any(|line| line.starts_with("State:\tZ") || line.starts_with("State:\tX"))
}

fn next_or_end(listener: &impl AsFd, memory: &fs::File) -> Option<(u64, common::watched::Call)> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE.as_millis()).unwrap();
    assert_eq!(poll(&mut waited, timeout).unwrap(), 1, "neither a call nor the end");
    let events = waited[0].revents().unwrap();
    if !events.contains(PollFlags::POLLIN) {
        return None;
    }
    let listener = listener.as_fd().try_clone_to_owned().unwrap();
    next(&listener, memory)
}

/// A broker whose thread that spawns is watched by another process.
fn broken_off(role: &str) {
    let preset: Preset = role.trim_start_matches("broker ").parse().unwrap();
    let prepared = sandbox(preset).die_with_parent().prepare().unwrap();
    let channel = Channel::try_from(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let handed = Arc::new(AtomicUsize::new(0));
    let ready = Arc::clone(&handed);
    let spawning = std::thread::spawn(move || {
        let listener = install(&Numbers::AllBut(UNWATCHED.to_vec())).unwrap();
        ready.store(1 + usize::try_from(listener.as_raw_fd()).unwrap(), Ordering::Release);
        std::mem::forget(listener);
        let _worker = prepared.spawn();
        std::thread::sleep(PATIENCE);
    });
    while handed.load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    let number = handed.load(Ordering::Acquire) - 1;
    let listener = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert!(listener.to_string_lossy().contains("seccomp"), "{listener:?}");
    #[allow(unsafe_code, reason = "the thread that has it waits for whoever listens to it")]
    // SAFETY: nobody closes it.
    let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(number.try_into().unwrap()) };
    channel.send(b"listener", &[listener]).unwrap();
    nix::unistd::close(i32::try_from(number).unwrap()).unwrap();
    spawning.join().unwrap();
}

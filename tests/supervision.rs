//! Workers that are kept running: when they are started again, when not, how they are stopped, and why they died.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::exit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use fdbroker::supervise::{Event, Outcome, Restart, Supervision};
use fdbroker::{
    Broker, Client, Death, Layer, Limit, Policy, Prepared, Preset, Refusal, Rule, Sandbox, Stdio, Supervisor, Worker,
};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe};

use common::served::PATIENCE;

const HOUR: Duration = Duration::from_secs(3600);

/// Not a test by itself: what the workers do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    if role == "broker" {
        return broker();
    }
    let client = Client::from_stdin().unwrap();
    match role {
        "exit" => exit(argument.parse().unwrap()),
        "idle" => idle(),
        "ready" => {
            client.ready().unwrap();
            idle();
        }
        "ready-twice" => {
            client.ready().unwrap();
            client.ready().unwrap();
            exit(0);
        }
        "handles-sigterm" => {
            on_sigterm(SigHandler::Handler(exit_with_5));
            client.ready().unwrap();
            idle();
        }
        "ignores-sigterm" => {
            on_sigterm(SigHandler::SigIgn);
            client.ready().unwrap();
            idle();
        }
        "hears-sigterm" => {
            let (heard, hear) = pipe().unwrap();
            HEARD.set(hear).unwrap();
            on_sigterm(SigHandler::Handler(tell_that_it_came));
            client.ready().unwrap();
            File::from(heard).read_exact(&mut [0]).unwrap();
            client.stat("/got-it").unwrap_err();
            idle();
        }
        "garbage" => {
            send_garbage(&client);
            idle();
        }
        "abort" => std::process::abort(),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "compute" => loop {
            std::hint::spin_loop();
        },
        "write" => {
            let mut file = client.scratch().unwrap();
            file.write_all(&[0; 8192]).unwrap();
        }
        "allocate" => {
            let mut all = Vec::new();
            loop {
                all.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&all);
            }
        }
        other => panic!("no such role: {other}"),
    }
}

fn idle() -> ! {
    loop {
        thread::park();
    }
}

extern "C" fn exit_with_5(_: libc::c_int) {
    #[allow(unsafe_code)]
    // SAFETY: takes a number, and may be called in a handler (signal-safety(7)).
    unsafe {
        libc::_exit(5)
    };
}

static HEARD: OnceLock<OwnedFd> = OnceLock::new();

extern "C" fn tell_that_it_came(_: libc::c_int) {
    let _ = HEARD.get().map(|pipe| nix::unistd::write(pipe, b"!"));
}

#[allow(unsafe_code)]
fn on_sigterm(handler: SigHandler) {
    // SAFETY: the handlers make one system call each, and may be called at any time (signal-safety(7)).
    unsafe { signal(Signal::SIGTERM, handler) }.unwrap();
}

fn send_garbage(client: &Client) {
    let socket = std::os::fd::AsFd::as_fd(client).as_raw_fd();
    assert_eq!(send(socket, b"garbage", MsgFlags::MSG_NOSIGNAL).unwrap(), 7);
}

// ------------------------------------------------------------------------------------------------ what tests have

/// This test binary, as a worker in a role.
fn worker(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    sandbox.env("FDBROKER_TEST_ROLE", role).stdout(Stdio::null())
}

fn prepared(role: &str) -> Prepared {
    worker(role).prepare().unwrap()
}

fn nothing() -> Policy {
    Policy::builder().build().unwrap()
}

/// Without pauses and without a ceiling.
fn supervisor(role: &str) -> Supervisor {
    quick(Supervisor::new(prepared(role), nothing()))
}

fn quick(supervisor: Supervisor) -> Supervisor {
    supervisor.backoff(Duration::ZERO, Duration::ZERO).start_limit(0, Duration::ZERO)
}

/// An event that can be kept.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Started(u32),
    NotStarted(String),
    Ready,
    NotReady,
    Faulted(String),
    Died(Death),
    Restarting(Duration),
    GaveUp,
    Finished,
    Stopped,
}

impl From<&Event<'_>> for Seen {
    fn from(event: &Event<'_>) -> Self {
        match event {
            Event::Started { pid, .. } => Self::Started(*pid),
            Event::NotStarted(error) => Self::NotStarted(error.to_string()),
            Event::Ready { .. } => Self::Ready,
            Event::NotReady => Self::NotReady,
            Event::Faulted(fault) => Self::Faulted(fault.to_string()),
            Event::Died { death, .. } => Self::Died(*death),
            Event::Restarting { delay } => Self::Restarting(*delay),
            Event::GaveUp => Self::GaveUp,
            Event::Finished => Self::Finished,
            Event::Stopped => Self::Stopped,
            other => panic!("{other}"),
        }
    }
}

/// A supervision, and what happens in it.
struct Watched {
    supervision: Supervision,
    events: Receiver<Seen>,
}

impl Watched {
    fn start(supervisor: Supervisor) -> Self {
        let (tell, events) = mpsc::channel();
        let supervisor = supervisor.on_event(move |event| {
            assert!(!event.to_string().is_empty());
            // The test may be over.
            let _ = tell.send(event.into());
        });
        Self { supervision: supervisor.start().unwrap(), events }
    }

    fn next(&self) -> Seen {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    fn started(&self) -> u32 {
        match self.next() {
            Seen::Started(pid) => pid,
            other => panic!("{other:?}"),
        }
    }

    fn died(&self) -> Death {
        match self.next() {
            Seen::Died(death) => death,
            other => panic!("{other:?}"),
        }
    }

    /// The process id, once it has said that it is ready.
    fn ready(&self) -> u32 {
        let pid = self.started();
        assert_eq!(self.next(), Seen::Ready);
        pid
    }

    /// All that is still to come, without the process ids, and how it ends.
    fn rest(self) -> (Vec<Seen>, Outcome) {
        let mut all: Vec<Seen> = Vec::new();
        while !matches!(all.last(), Some(Seen::GaveUp | Seen::Finished | Seen::Stopped)) {
            all.push(match self.next() {
                Seen::Started(_) => Seen::Started(0),
                other => other,
            });
        }
        let outcome = self.supervision.wait().unwrap();
        assert_eq!(self.supervision.outcome(), Some(outcome));
        drop(self.supervision);
        assert_eq!(self.events.try_iter().collect::<Vec<_>>(), [], "after the last event");
        (all, outcome)
    }
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn by(signal: Signal) -> impl Fn(&Death) -> bool {
    move |death| matches!(death, Death::Signal { number, .. } if *number == signal as i32)
}

// ---------------------------------------------------------------------------------------------------- starting again

#[test]
fn each_restart_policy_does_what_it_says() {
    use Seen::{Died, Finished, GaveUp, Restarting, Started};
    let (once, zero) = (Started(0), Duration::ZERO);
    let again = |code| vec![once.clone(), Died(Death::Exit(code)), Restarting(zero)];
    let last = |code, end| vec![once.clone(), Died(Death::Exit(code)), end];
    for (restart, code, ends) in [
        (Restart::Never, 0, true),
        (Restart::Never, 3, true),
        (Restart::OnFailure, 0, true),
        (Restart::OnFailure, 3, false),
        (Restart::Always, 0, false),
        (Restart::Always, 3, false),
    ] {
        let supervisor = supervisor(&format!("exit {code}")).restart(restart).start_limit(3, HOUR);
        let (seen, outcome) = Watched::start(supervisor).rest();
        let death = Some(Death::Exit(code));
        let (expected, end) = if ends {
            (last(code, Finished), Outcome::Finished(death))
        } else {
            ([again(code), again(code), last(code, GaveUp)].concat(), Outcome::GaveUp(death))
        };
        assert_eq!((seen, outcome), (expected, end), "{restart:?}, exit code {code}");
    }
}

#[test]
fn pauses_double_until_it_is_given_up() {
    let milliseconds = Duration::from_millis;
    let supervisor = supervisor("exit 1").backoff(milliseconds(1), milliseconds(5)).start_limit(6, HOUR);
    let (seen, outcome) = Watched::start(supervisor).rest();
    let pauses: Vec<_> = seen.iter().filter(|seen| matches!(seen, Seen::Restarting(_))).cloned().collect();
    assert_eq!(pauses, [1, 2, 4, 5, 5].map(|pause| Seen::Restarting(milliseconds(pause))));
    assert_eq!(outcome, Outcome::GaveUp(Some(Death::Exit(1))));
}

#[test]
fn after_a_long_life_pauses_begin_anew() {
    let (first, longest) = (Duration::from_millis(1), HOUR);
    let long = supervisor("exit 1").backoff(first, longest).backoff_reset(Duration::ZERO).start_limit(5, HOUR);
    let (seen, _) = Watched::start(long).rest();
    let pauses: Vec<_> = seen.iter().filter(|seen| matches!(seen, Seen::Restarting(_))).collect();
    assert_eq!(pauses, [&Seen::Restarting(first); 4]);
}

/// L-03: its channel is closed with it, and it is reaped; another one takes its place.
#[test]
fn l_03_a_worker_that_is_killed_from_outside_is_replaced() {
    let watched = Watched::start(supervisor("ready"));
    let first = watched.ready();
    kill(Pid::from_raw(first.try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert!(by(Signal::SIGKILL)(&watched.died()));
    assert!(is_gone(first), "a zombie");
    assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
    let second = watched.ready();
    assert_ne!(first, second);
    drop(watched);
    assert!(is_gone(second));
}

#[test]
fn what_breaks_the_rules_of_the_channel_is_killed_and_replaced() {
    let watched = Watched::start(supervisor("garbage"));
    for _ in 0..2 {
        watched.started();
        let Seen::Faulted(fault) = watched.next() else { panic!("no fault") };
        assert!(fault.starts_with("malformed: 7 bytes"), "{fault}");
        assert_eq!(watched.died(), Death::Killed);
        assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
    }
}

/// A policy that cannot be made is a start that failed.
#[test]
fn the_policy_is_made_for_each_start() {
    let made = Arc::new(AtomicU32::new(0));
    let counted = made.clone();
    let make = move || match counted.fetch_add(1, Ordering::SeqCst) {
        1 => Err("not this time"),
        _ => Ok(nothing()),
    };
    let supervisor = quick(Supervisor::with_policy(prepared("exit 1"), make)).start_limit(3, HOUR);
    let (seen, outcome) = Watched::start(supervisor).rest();
    let (again, failed) =
        (Seen::Restarting(Duration::ZERO), Seen::NotStarted("making the policy: not this time".into()));
    let life = [Seen::Started(0), Seen::Died(Death::Exit(1))];
    let expected = [&life[..], &[again.clone(), failed, again], &life, &[Seen::GaveUp]].concat();
    assert_eq!((seen, outcome), (expected, Outcome::GaveUp(Some(Death::Exit(1)))));
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

/// While one worker runs, its program is taken away; while none does, another is put in its place, as packages do it.
/// What was prepared once starts the one that it has opened; what is prepared anew finds what there is.
#[test]
fn a_program_that_is_replaced() {
    let (_keep, directory) = common::directory();
    for anew in [false, true] {
        let program = directory.join(format!("program {anew}"));
        let replaced = directory.join(format!("replaced {anew}"));
        fs::copy("/bin/false", &program).unwrap();
        fs::copy("/bin/true", &replaced).unwrap();
        let sandbox = Sandbox::new(&program).stdout(Stdio::null());
        let supervisor = quick(Supervisor::new(sandbox.prepare().unwrap(), nothing())).start_limit(3, HOUR);
        let supervisor = if anew { supervisor.prepare_anew(sandbox) } else { supervisor };
        let (tell, events) = mpsc::channel();
        let name = program.clone();
        let supervisor = supervisor.on_event(move |event| {
            match event {
                Event::Died { death: Death::Exit(1), .. } if name.exists() => fs::remove_file(&name).unwrap(),
                Event::NotStarted(_) => fs::rename(&replaced, &name).unwrap(),
                _ => {}
            }
            tell.send(Seen::from(event)).unwrap();
        });
        let outcome = supervisor.start().unwrap().wait().unwrap();
        let ends: Vec<Seen> =
            events.iter().filter(|event| matches!(event, Seen::NotStarted(_) | Seen::Died(_))).collect();
        let old = Seen::Died(Death::Exit(1));
        if anew {
            let [first, Seen::NotStarted(why), last] = &ends[..] else { panic!("{ends:?}") };
            assert_eq!((first, last), (&old, &Seen::Died(Death::Exit(0))));
            assert!(why.contains(program.to_str().unwrap()), "{why}");
            assert_eq!(outcome, Outcome::Finished(Some(Death::Exit(0))));
        } else {
            assert_eq!(ends, [old.clone(), old.clone(), old]);
            assert_eq!(outcome, Outcome::GaveUp(Some(Death::Exit(1))));
        }
    }
}

#[test]
fn a_worker_that_cannot_be_started_is_given_up() {
    let make = || Err::<Policy, _>("never");
    let supervisor = quick(Supervisor::with_policy(prepared("exit 1"), make)).restart(Restart::Never);
    let (seen, outcome) = Watched::start(supervisor).rest();
    assert_eq!(seen, [Seen::NotStarted("making the policy: never".into()), Seen::Finished]);
    assert_eq!(outcome, Outcome::Finished(None));
}

// --------------------------------------------------------------------------------------------------------- readiness

#[test]
fn readiness_is_told_once() {
    let (seen, outcome) = Watched::start(supervisor("ready-twice")).rest();
    assert_eq!(seen, [Seen::Started(0), Seen::Ready, Seen::Died(Death::Exit(0)), Seen::Finished]);
    assert_eq!(outcome, Outcome::Finished(Some(Death::Exit(0))));
}

#[test]
fn a_worker_that_is_ready_in_time_lives_on() {
    let watched = Watched::start(supervisor("ready").ready_within(PATIENCE));
    watched.ready();
    assert!(watched.supervision.is_ready());
    let stopped = watched.supervision.stop(HOUR).unwrap();
    assert!(matches!(stopped, Outcome::Stopped(Some(death)) if by(Signal::SIGTERM)(&death)), "{stopped:?}");
    assert!(!watched.supervision.is_ready());
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed_and_has_failed() {
    let watched = Watched::start(supervisor("idle").ready_within(Duration::from_millis(50)));
    for _ in 0..2 {
        let pid = watched.started();
        assert_eq!(watched.next(), Seen::NotReady);
        assert_eq!(watched.died(), Death::Killed);
        assert!(is_gone(pid));
        assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
    }
}

/// Its exit code says success; that it was to be ready, and was not, says that it is none.
#[test]
fn a_worker_that_ends_before_it_is_ready_has_failed() {
    let supervisor = supervisor("exit 0").ready_within(PATIENCE).start_limit(2, HOUR);
    let (seen, outcome) = Watched::start(supervisor).rest();
    let life = [Seen::Started(0), Seen::Died(Death::Exit(0))];
    let expected = [&life[..], &[Seen::Restarting(Duration::ZERO)], &life, &[Seen::GaveUp]].concat();
    assert_eq!((seen, outcome), (expected, Outcome::GaveUp(Some(Death::Exit(0)))));
}

// ---------------------------------------------------------------------------------------------------------- stopping

#[test]
fn a_stop_is_orderly() {
    for (role, death) in [("handles-sigterm", Some(Death::Exit(5))), ("ready", None)] {
        let watched = Watched::start(supervisor(role).restart(Restart::Always));
        let pid = watched.ready();
        let Outcome::Stopped(Some(stopped)) = watched.supervision.stop(HOUR).unwrap() else { panic!("not stopped") };
        assert!(is_gone(pid));
        assert!(death.map_or_else(|| by(Signal::SIGTERM)(&stopped), |death| stopped == death), "{role}: {stopped:?}");
        let (seen, outcome) = watched.rest();
        assert_eq!(seen, [Seen::Died(stopped), Seen::Stopped]);
        assert_eq!(outcome, Outcome::Stopped(Some(stopped)));
    }
}

#[test]
fn who_does_not_end_is_killed_after_the_deadline() {
    let watched = Watched::start(supervisor("ignores-sigterm"));
    let pid = watched.ready();
    let outcome = watched.supervision.stop(Duration::from_millis(50)).unwrap();
    assert_eq!(outcome, Outcome::Stopped(Some(Death::Killed)));
    assert!(is_gone(pid));
}

/// Process 1 of a PID namespace does not get a SIGTERM for which it has no handler, so nobody waits for it to end. One
/// with a handler ends as others do.
#[test]
fn a_first_process_of_its_namespace_that_would_not_hear_is_killed_at_once() {
    for (role, death) in [("ready", Death::Killed), ("handles-sigterm", Death::Exit(5))] {
        let prepared = match worker(role).preset(Preset::Full).prepare() {
            Ok(prepared) if prepared.enforced().has(Layer::PidNamespace) => prepared,
            other => {
                eprintln!("SKIPPED a_first_process_of_its_namespace: no PID namespace: {:?}", other.err());
                return;
            }
        };
        let watched = Watched::start(quick(Supervisor::new(prepared, nothing())));
        watched.ready();
        assert_eq!(watched.supervision.stop(HOUR), Some(Outcome::Stopped(Some(death))), "{role}");
    }
}

/// One thread is patient, and has asked the worker already; another one is not.
#[test]
fn the_earliest_deadline_counts() {
    common::alone("the_earliest_deadline_counts", || {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let broker = Broker::new().audit(move |record| {
            if record.to_string().contains("stat /got-it") {
                tell.lock().unwrap().send(()).unwrap();
            }
        });
        let watched = Watched::start(supervisor("hears-sigterm").broker(&broker));
        watched.ready();
        let killed = Outcome::Stopped(Some(Death::Killed));
        thread::scope(|scope| {
            let supervision = &watched.supervision;
            let waits = scope.spawn(|| supervision.wait());
            let patient = scope.spawn(|| supervision.stop(HOUR));
            told.recv_timeout(PATIENCE).expect("the worker has got SIGTERM");
            assert_eq!(supervision.stop(Duration::ZERO), Some(killed));
            assert_eq!([patient, waits].map(|thread| thread.join().unwrap()), [Some(killed); 2]);
        });
        // It is over, and can be stopped all the same.
        assert_eq!(watched.supervision.stop(HOUR), Some(killed));
        watched.supervision.restart();
        watched.supervision.signal(libc::SIGHUP).unwrap();
    });
}

#[test]
fn a_pause_can_be_stopped() {
    let watched = Watched::start(supervisor("exit 1").backoff(HOUR, HOUR));
    watched.started();
    assert_eq!(watched.died(), Death::Exit(1));
    assert_eq!(watched.next(), Seen::Restarting(HOUR));
    assert_eq!(watched.supervision.stop(HOUR), Some(Outcome::Stopped(None)));
    assert_eq!(watched.rest().0, [Seen::Stopped]);
}

#[test]
fn dropped_it_leaves_no_worker() {
    let watched = Watched::start(supervisor("ignores-sigterm"));
    let pid = watched.ready();
    drop(watched.supervision);
    assert!(is_gone(pid));
    assert_eq!(watched.events.iter().collect::<Vec<_>>(), [Seen::Died(Death::Killed), Seen::Stopped]);
}

// ------------------------------------------------------------------------------------------------- asking for a restart

#[test]
fn a_restart_puts_another_in_its_place() {
    let watched = Watched::start(supervisor("handles-sigterm").restart(Restart::Never).backoff(HOUR, HOUR));
    let first = watched.ready();
    watched.supervision.restart();
    assert_eq!(watched.died(), Death::Exit(5));
    assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
    assert_ne!(watched.ready(), first);
    assert!(is_gone(first));
}

#[test]
fn a_restart_has_a_deadline_too() {
    let supervisor = supervisor("ignores-sigterm").stop_timeout(Duration::from_millis(50));
    let watched = Watched::start(supervisor);
    watched.ready();
    watched.supervision.restart();
    assert_eq!(watched.died(), Death::Killed);
    assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
    watched.ready();
}

/// And it begins anew: pauses, and the ceiling.
#[test]
fn a_restart_ends_a_pause() {
    let watched = Watched::start(supervisor("exit 1").backoff(HOUR, HOUR).start_limit(2, 10 * HOUR));
    for _ in 0..3 {
        watched.started();
        assert_eq!(watched.died(), Death::Exit(1));
        assert_eq!(watched.next(), Seen::Restarting(HOUR));
        watched.supervision.restart();
        assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
    }
}

#[test]
fn signals_are_passed_to_the_worker() {
    let watched = Watched::start(supervisor("handles-sigterm"));
    watched.ready();
    assert_eq!(watched.supervision.signal(4711).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    for (number, death) in
        [(libc::SIGTERM, Some(Death::Exit(5))), (libc::SIGUSR1, None), (libc::SIGKILL, Some(Death::Killed))]
    {
        watched.supervision.signal(number).unwrap();
        let died = watched.died();
        assert!(death.map_or_else(|| by(Signal::SIGUSR1)(&died), |death| died == death), "{number}: {died:?}");
        assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
        watched.ready();
    }
}

// ------------------------------------------------------------------------------------------------------ the closure

#[test]
fn a_closure_that_panics_leaves_no_worker_and_nobody_waiting() {
    let (tell, told) = mpsc::channel();
    let supervisor = supervisor("ready").on_event(move |event| match event {
        Event::Started { pid, .. } => tell.send(*pid).unwrap(),
        Event::Ready { .. } => panic!("the test's own"),
        _ => {}
    });
    let supervision = supervisor.start().unwrap();
    let pid = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(supervision.wait(), Some(Outcome::Panicked));
    assert!(is_gone(pid));
}

/// It cannot wait for itself.
#[test]
fn a_closure_may_stop_it() {
    let itself: Arc<OnceLock<Arc<Supervision>>> = Arc::default();
    let (tell, told) = mpsc::channel();
    let (start, started) = mpsc::channel();
    let there = itself.clone();
    let started = Mutex::new(started);
    let supervisor = supervisor("ready").on_event(move |event| match event {
        Event::Started { .. } => started.lock().unwrap().recv().unwrap(),
        Event::Ready { .. } => tell.send(there.get().unwrap().stop(HOUR)).unwrap(),
        _ => {}
    });
    let supervision = Arc::new(supervisor.start().unwrap());
    itself.set(supervision.clone()).unwrap();
    start.send(()).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(None));
    assert!(matches!(supervision.wait(), Some(Outcome::Stopped(Some(_)))));
}

// ------------------------------------------------------------------------------------------------------------ deaths

/// The first death of a worker in this role.
fn death_of(sandbox: Sandbox) -> Death {
    let policy = Policy::builder().allow(Rule::scratch(std::env::temp_dir().canonicalize().unwrap())).build().unwrap();
    let supervisor = Supervisor::new(sandbox.prepare().unwrap(), policy).restart(Restart::Never);
    let watched = Watched::start(supervisor);
    watched.started();
    watched.died()
}

#[test]
fn exit_and_signals_are_told_apart() {
    assert_eq!(death_of(worker("exit 0")), Death::Exit(0));
    assert_eq!(death_of(worker("exit 255")), Death::Exit(255));
    let aborted = death_of(worker("abort"));
    assert!(matches!(aborted, Death::Signal { number, .. } if common::aborts(number)), "{aborted:?}");
}

/// B-13: the limit holds, and the death says which.
#[test]
fn b_13_deaths_at_a_limit_name_it() {
    assert_eq!(death_of(worker("compute").limit(Limit::CpuTime, 1)), Death::Limit(Limit::CpuTime));
    assert_eq!(death_of(worker("write").limit(Limit::FileSize, 4096)), Death::Limit(Limit::FileSize));
}

/// The filter's own signal says no more than "a bad system call"; the death says which.
#[test]
fn death_for_a_system_call_names_it() {
    let death = death_of(worker("socket").refusal(Refusal::Kill));
    assert_eq!((death, death.system_call()), (Death::SystemCall(libc::SYS_socket), Some("socket")));
}

/// A worker that nobody supervises has a reason, too.
#[test]
fn a_worker_tells_its_death() {
    let (worker, channel): (Worker, _) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
    worker.kill().unwrap();
    assert_eq!(worker.death().unwrap(), Death::Killed);
    let (worker, _channel) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
    drop(channel);
    worker.signal(libc::SIGKILL).unwrap();
    assert!(by(Signal::SIGKILL)(&worker.death().unwrap()));
}

/// In a cgroup of its own with little memory, where the machine lets one have one.
#[test]
fn death_for_want_of_memory_is_told() {
    let name = "death_for_want_of_memory_is_told";
    common::alone(name, || {
        let cgroup = match Cgroup::enter(64 << 20) {
            Ok(cgroup) => cgroup,
            Err(error) => return eprintln!("SKIPPED {name}: a memory cgroup: {error}"),
        };
        let death = death_of(worker("allocate"));
        assert!(matches!(death, Death::OutOfMemory { in_its_cgroup: true, .. }), "{death:?}");
        // What was counted before a worker's start is not held to be the reason of its end.
        let (worker, _channel) = Sandbox::new("/bin/cat").stdout(Stdio::null()).spawn().unwrap();
        worker.signal(libc::SIGKILL).unwrap();
        let death = worker.death().unwrap();
        assert!(by(Signal::SIGKILL)(&death), "{death:?}");
        drop(cgroup);
    });
}

/// A memory cgroup, of either version, with this process in it.
struct Cgroup {
    path: std::path::PathBuf,
    parent: std::path::PathBuf,
}

impl Cgroup {
    fn enter(bytes: u64) -> std::io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let of = |prefix: &str| {
            own.lines()
                .find_map(|line| line.split_once(':')?.1.strip_prefix(prefix))
                .map(|path| path.trim_start_matches('/'))
        };
        let (parent, file) = match of("memory:") {
            Some(path) => (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"),
            None => (Path::new("/sys/fs/cgroup").join(of(":").unwrap_or_default()), "memory.max"),
        };
        let cgroup = Self { path: parent.join(format!("fdbroker-test-{}", std::process::id())), parent };
        fs::create_dir(&cgroup.path)?;
        fs::write(cgroup.path.join(file), bytes.to_string())?;
        // The worker is bigger than this process, and chosen for that; this makes it sure, where it is permitted.
        let _ = fs::write("/proc/self/oom_score_adj", "-1000");
        fs::write(cgroup.path.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.path);
    }
}

// ------------------------------------------------------------------------------------------------------ what it takes

/// Two seconds in which nothing happens, after something has: a thread that asks over and over would take them whole.
#[test]
fn waiting_takes_no_time_of_the_processor() {
    common::alone("waiting_takes_no_time_of_the_processor", || {
        let watched = Watched::start(supervisor("idle").ready_within(Duration::from_secs(2)));
        let pid = watched.started();
        watched.supervision.signal(libc::SIGURG).unwrap();
        let before = own_time();
        assert_eq!(watched.next(), Seen::NotReady);
        let used = own_time() - before;
        assert!(used < Duration::from_secs(1), "{used:?}");
        assert_eq!(watched.died(), Death::Killed);
        assert!(is_gone(pid));
    });
}

/// Of all threads of this process.
fn own_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()].into_iter().map(|time| Duration::from_micros(micros(time))).sum()
}

fn micros(time: TimeVal) -> u64 {
    time.num_microseconds().try_into().unwrap()
}

// ------------------------------------------------------------------------------------------------------ what is left

/// B-04: whichever thread starts the workers, they do not outlive the process.
#[test]
fn b_04_the_brokers_death_ends_the_worker() {
    let mut broker = common::rerun("process", "broker").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(broker.stdout.take().unwrap());
    let mut line = String::new();
    // What the test's harness says comes first.
    while !line.contains("the worker is ready") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the broker has ended");
    }
    broker.kill().unwrap();
    broker.wait().unwrap();
    // The worker has the pipe as well: it ends with the last of them.
    output.read_to_end(&mut Vec::new()).unwrap();
}

fn broker() {
    let sandbox = worker("ready").stdout(Stdio::inherit()).die_with_parent();
    let watched = Watched::start(quick(Supervisor::new(sandbox.prepare().unwrap(), nothing())));
    watched.ready();
    println!("the worker is ready");
    watched.supervision.wait();
}

/// L-01: 200 lives leave no descriptor, no child and no thread.
#[test]
fn l_01_restarts_leave_nothing() {
    common::alone("l_01_restarts_leave_nothing", || {
        let lives = |lives| {
            let sandbox = Sandbox::new("/bin/true");
            let supervisor = Supervisor::new(sandbox.prepare().unwrap(), nothing()).prepare_anew(sandbox);
            let watched = Watched::start(quick(supervisor).restart(Restart::Always));
            for _ in 0..lives {
                watched.started();
                assert_eq!(watched.died(), Death::Exit(0));
                assert_eq!(watched.next(), Seen::Restarting(Duration::ZERO));
            }
            assert!(matches!(watched.supervision.stop(HOUR), Some(Outcome::Stopped(_))));
        };
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        // What is made once, for all workers.
        lives(2);
        let (descriptors, most) = (common::open_fds(), threads());
        lives(200);
        assert_eq!(common::open_fds(), descriptors);
        // A thread that has been joined is listed for a moment longer, and may have been so before.
        let late = Instant::now() + Duration::from_secs(30);
        while threads() > most {
            assert!(Instant::now() < late, "{} threads, {most} before", threads());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
    });
}

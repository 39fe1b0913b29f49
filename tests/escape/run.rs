//! Making the attempts in one place, and what came of them there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use fdbroker::{
    Broker, Client, Enforced, Layer, Lockdown, Mode, Policy, Preset, Refusal, Rule, Sandbox, Stdio, Word, Worker,
};

use super::attempt::{Attempt, List, Means, Place, ROOT, TERMINAL};
use super::call::{call, end, leak, number, pipe};
use super::targets::{Targets, Traces, address};
use super::{common, descriptors, files, kernel, processes, programs, sockets};

/// All of them, in the order in which they are made.
pub fn attempts() -> Vec<Attempt> {
    let mut list = List::default();
    files::add(&mut list);
    descriptors::add(&mut list);
    descriptors::reopened(&mut list);
    sockets::add(&mut list);
    processes::add(&mut list);
    programs::add(&mut list);
    kernel::add(&mut list);
    list.0
}

/// The errno of each attempt, or 0; -1 for something else.
pub struct Outcome {
    pub answers: BTreeMap<String, i32>,
    pub traces: Traces,
    pub enforced: Option<Enforced>,
}

/// Makes all attempts in one place.
pub fn outcome(place: Place) -> Outcome {
    let mut targets = Targets::new();
    let role = targets.role("attempts", place);
    if place.is_plain() {
        let output = common::rerun("process", &role).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answers = answers(&String::from_utf8_lossy(&output.stdout));
        return Outcome { answers, traces: targets.traces(), enforced: None };
    }
    let (worker, output) = in_a_sandbox(&targets, sandbox(&targets, place, &role));
    let status = worker.wait().unwrap();
    assert!(status.success(), "{}: {status}:\n{output}", place.name());
    let enforced = Some(worker.enforced().clone());
    Outcome { answers: answers(&output), traces: targets.traces(), enforced }
}

/// What one attempt comes to where a refusal kills.
pub fn killed(targets: &Targets, name: &str) -> (Worker, String) {
    let role = format!("{}\t{}", targets.role("attempt", Place::Floor), name.replace(' ', "_"));
    in_a_sandbox(targets, sandbox(targets, Place::Floor, &role).refusal(Refusal::Kill))
}

fn sandbox(targets: &Targets, place: Place, role: &str) -> Sandbox {
    let preset = match place {
        Place::Standard | Place::WithoutLandlock => Preset::Standard,
        Place::Full | Place::AllWords => Preset::Full,
        _ => Preset::Floor,
    };
    let landlock = if place == Place::WithoutLandlock { Mode::Off } else { Mode::IfAvailable };
    let words: &[Word] = if place == Place::AllWords { &Word::ALL } else { &[] };
    // A careless starter gives it the host's root directory, and a terminal.
    let worker = words.iter().fold(worker(role), |worker, word| worker.allow(*word));
    worker
        .preset(preset)
        .layer(Layer::Landlock, landlock)
        .runtime(targets.directory.join("runtime"))
        .descriptor(ROOT as i32, File::open("/").unwrap())
        .descriptor(TERMINAL as i32, targets.terminal.try_clone().unwrap())
        .stdout(Stdio::piped())
}

pub fn worker(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    sandbox.env("FDBROKER_TEST_ROLE", role)
}

/// Until it ends, and what it has said.
fn in_a_sandbox(targets: &Targets, sandbox: Sandbox) -> (Worker, String) {
    let at = |name: &str| targets.directory.join(name);
    let any = "127.0.0.1:0".parse().unwrap();
    let policy = Policy::builder()
        .allow(Rule::file(at("append")).append())
        .allow(Rule::file(at("both")).read().append())
        .allow(Rule::file(at("read")).read())
        .allow(Rule::file(at("granted")).bind(0o777))
        .allow(Rule::listen(any))
        .allow(Rule::bind(any));
    let (worker, channel) = sandbox.spawn().unwrap();
    let service = Broker::new().serve("worker", channel, policy.build().unwrap()).unwrap();
    let mut output = String::new();
    worker.take_stdout().unwrap().read_to_string(&mut output).unwrap();
    let _ = worker.wait().unwrap();
    match service.wait() {
        // What it was sent has ended the service, and nothing else.
        Err(fdbroker::Fault::Descriptors) if descriptors_arrive() => {}
        ended => ended.unwrap(),
    }
    (worker, output)
}

/// Before Linux 6.16 (SO_PASSRIGHTS) descriptors that are sent to the broker arrive there, and are closed.
pub fn descriptors_arrive() -> bool {
    let (mut channel, _peer) = fdbroker::Channel::pair().unwrap();
    !channel.refuse_descriptors().unwrap()
}

/// In a process of its own: `words` are those of [`Targets::role`].
pub fn make_attempts(words: &[&str], only: Option<&str>) {
    let &[place, directory, parent, victim, secret, key, tcp, udp, terminal] = words else { panic!("{words:?}") };
    let (place, directory) = (Place::of(place), PathBuf::from(directory));
    if place.is_plain() {
        put(File::open("/").unwrap(), ROOT);
        open_terminal(terminal);
    }
    let granted = if place.is_plain() { opened(&directory) } else { asked_for(&directory) };
    let (append, both, read, listener, udp_socket, datagram) = granted.unwrap();
    let lockdown = match place {
        Place::Computes | Place::PlainComputes => Some(Lockdown::computes()),
        Place::Serves | Place::PlainServes => Some(Lockdown::serves()),
        Place::SpawnsNothing | Place::PlainSpawnsNothing => Some(Lockdown::spawns_nothing()),
        _ => None,
    };
    if let Some(lockdown) = lockdown {
        println!("{}", lockdown.enforce().unwrap());
    }
    let number_of = |word: &str| word.parse::<usize>().unwrap();
    let means = Means {
        place,
        directory,
        parent: number_of(parent),
        victim: number_of(victim),
        secret: number_of(secret),
        key: number_of(key),
        target: address(tcp),
        udp_target: address(udp),
        append,
        both,
        read,
        listener,
        udp: udp_socket,
        datagram,
    };
    for attempt in attempts() {
        if only.is_some_and(|only| only != attempt.name.replace(' ', "_")) {
            continue;
        }
        let result = if place.forks() { in_a_child(&attempt, &means, terminal) } else { (attempt.make)(&means) };
        let errno = result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0);
        say(&format!("\n=\t{}\t{errno}\n", attempt.name));
    }
    say("\n=\tdone\t0\n");
}

type Granted = (File, File, File, TcpListener, UdpSocket, UnixDatagram);

fn opened(directory: &std::path::Path) -> io::Result<Granted> {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    Ok((
        File::options().append(true).open(directory.join("append"))?,
        File::options().read(true).append(true).open(directory.join("both"))?,
        File::open(directory.join("read"))?,
        TcpListener::bind(any)?,
        UdpSocket::bind(any)?,
        UnixDatagram::bind(directory.join("granted"))?,
    ))
}

fn asked_for(directory: &std::path::Path) -> io::Result<Granted> {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into();
    let client = Client::from_stdin().unwrap();
    let granted = (
        client.append(directory.join("append")).unwrap(),
        client.open_options().read(true).append(true).open(directory.join("both")).unwrap(),
        client.read(directory.join("read")).unwrap(),
        client.listen(any).unwrap(),
        client.bind(any).unwrap(),
        client.unix_bind(directory.join("granted")).unwrap(),
    );
    // The channel stays open: it is attacked as well.
    std::mem::forget(client);
    Ok(granted)
}

/// By one system call, so that nothing stays in a buffer that a child would write once more.
fn say(line: &str) {
    call(libc::SYS_write, &[1, line.as_ptr() as usize, line.len()]).unwrap();
}

fn open_terminal(name: &str) {
    let terminal = File::options().read(true).write(true).open(name);
    // Without O_NOCTTY it would become its own: its session has another, or none that it may have.
    put(terminal.unwrap(), TERMINAL);
}

/// Has it under this number, which may be its own already: who started the tests may have left descriptors open.
fn put(file: File, place: usize) {
    if number(&file) == place {
        return std::mem::forget(file);
    }
    call(libc::SYS_dup3, &[number(&file), place, 0]).unwrap();
}

/// Outside each attempt is made in a child of its own, which it may change, replace or end.
fn in_a_child(attempt: &Attempt, means: &Means, terminal: &str) -> io::Result<i64> {
    let [read, write] = pipe()?;
    let pid = match call(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0])? {
        0 => {
            // Nothing that is attempted takes as long.
            call(libc::SYS_setitimer, &[libc::ITIMER_REAL as usize, leak([0_u64, 0, 30, 0]), 0]).unwrap();
            // A terminal whose session has ended is hung up.
            if means.place.is_plain() {
                open_terminal(terminal);
            }
            let result = (attempt.make)(means);
            let errno = result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0);
            File::from(write).write_all(&errno.to_ne_bytes()).ok();
            end(0)
        }
        pid => usize::try_from(pid).unwrap(),
    };
    drop(write);
    let mut bytes = [0; 4];
    let answered = File::from(read).read_exact(&mut bytes);
    let status = leak(0_i32);
    call(libc::SYS_wait4, &[pid, status, libc::__WALL as usize, 0])?;
    // SAFETY: the number above, which nobody else has.
    let status = ExitStatus::from_raw(unsafe { *(status as *const i32) });
    match (answered, i32::from_ne_bytes(bytes)) {
        (Ok(()), 0) => Ok(0),
        (Ok(()), errno) => Err(io::Error::from_raw_os_error(errno)),
        // It has executed a program, which has come to its end.
        (Err(_), _) if status.success() => Ok(0),
        (Err(_), _) => Err(io::Error::other(format!("{status}"))),
    }
}

fn answers(output: &str) -> BTreeMap<String, i32> {
    let parse = |line: &str| {
        let (name, errno) = line.strip_prefix("=\t")?.split_once('\t')?;
        Some((name.to_owned(), errno.parse().unwrap()))
    };
    let answers: BTreeMap<String, i32> = output.lines().filter_map(parse).collect();
    assert!(answers.contains_key("done"), "the process did not come to its end:\n{output}");
    answers
}

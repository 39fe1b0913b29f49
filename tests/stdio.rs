//! What a worker has open, where its standard descriptors lead, and where it is.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc::{Receiver, channel};

use common::start::{PATIENCE, run, say, started, wait_for_the_end, worker};
use fdbroker::{Channel, Limit, Line, Packet, Preset, Sandbox, SpawnError, Stdio, Step, Worker};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::getsockname;

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "open" => open(),
        "channel" => channel_elsewhere(argument.parse().unwrap()),
        "inherit" => inherit(),
        other => panic!("no such role: {other}"),
    }
}

// -------------------------------------------------------------------------------------------------- descriptors

/// Says which numbers are open (getsockname(2) takes any: EBADF is a closed one), where it is, and its environment.
fn open() {
    let is_open = |number: &i32| getsockname::<()>(*number) != Err(Errno::EBADF);
    let open: Vec<i32> = (0..2048).filter(is_open).collect();
    say(&format!("{open:?}\n{}\n{}", std::env::current_dir().unwrap().display(), std::env::vars().count()));
    wait_for_the_end();
}

/// B-10, F-04: the worker's descriptors are 0, 1, 2, the channel and the declared ones, by number, whatever is asked for
/// the standard ones; seen from inside and from outside; and each is what was declared.
#[test]
fn b_10_f_04_exactly_the_declared_descriptors() {
    let (_directory, path) = common::directory();
    let file = |name: &str| {
        fs::write(path.join(name), name).unwrap();
        File::open(path.join(name)).unwrap()
    };
    let kinds: [fn() -> Stdio; 4] = [Stdio::null, Stdio::piped, Stdio::log, Stdio::inherit];
    for preset in Preset::ALL {
        for kind in kinds {
            for numbers in [vec![], vec![3], vec![4, 7], vec![3, 4, 5, 1000]] {
                let sandbox = worker("open").preset(preset).limit(Limit::Descriptors, 1024).log(|_| {});
                let sandbox = sandbox.stdout(kind()).stderr(kind());
                let sandbox = numbers
                    .iter()
                    .fold(sandbox, |sandbox, number| sandbox.descriptor(*number, file(&number.to_string())));
                let (worker, _channel, seen) = started(&sandbox);
                let mut expected = vec![0, 1, 2];
                expected.extend(&numbers);
                assert_eq!(seen, format!("{expected:?}\n/\n1"), "{preset}");
                assert_eq!(common::fds_of(worker.id()), expected);
                for number in numbers {
                    let link = fs::read_link(format!("/proc/{}/fd/{number}", worker.id())).unwrap();
                    assert_eq!(link, path.join(number.to_string()));
                }
            }
        }
    }
}

fn channel_elsewhere(number: i32) {
    let text = io::read_to_string(io::stdin()).unwrap();
    let open: Vec<i32> = (0..2048).filter(|number| getsockname::<()>(*number) != Err(Errno::EBADF)).collect();
    let answer = format!("{open:?} {text}");
    nix::sys::socket::send(number, answer.as_bytes(), nix::sys::socket::MsgFlags::empty()).unwrap();
}

/// B-10, F-04, F-06: the channel at another number, and standard input from everywhere it can come from.
#[test]
fn b_10_f_04_f_06_the_channel_elsewhere() {
    let (_directory, path) = common::directory();
    fs::write(path.join("input"), "from a file").unwrap();
    for preset in Preset::ALL {
        for number in [3, 4, 9, 700] {
            let asked = || worker(&format!("channel {number}")).preset(preset).channel_at(number);
            let said = |channel: &Channel| common::start::word(channel);
            let open = format!("[0, 1, 2, {number}] ");
            let (_worker, channel) = asked().spawn().unwrap();
            assert_eq!(said(&channel), open);
            let (_worker, channel) = asked().stdin(Stdio::null()).spawn().unwrap();
            assert_eq!(said(&channel), open);
            let (_worker, channel) = asked().stdin(File::open(path.join("input")).unwrap()).spawn().unwrap();
            assert_eq!(said(&channel), format!("{open}from a file"));
            let (worker, channel) = asked().stdin(Stdio::piped()).spawn().unwrap();
            worker.take_stdin().unwrap().write_all(b"from a pipe").unwrap();
            assert!(worker.take_stdin().is_none());
            assert_eq!(said(&channel), format!("{open}from a pipe"));
        }
    }
}

/// F-06: numbers that cannot be, and wishes that contradict each other, are errors before anything is run.
#[test]
fn f_06_descriptors_that_cannot_be() {
    let null = || File::options().read(true).open("/dev/null").unwrap();
    for sandbox in [
        worker("open").channel_at(1),
        worker("open").channel_at(2),
        worker("open").channel_at(-1),
        worker("open").channel_at(i32::MAX),
        worker("open").stdin(Stdio::null()),
        worker("open").descriptor(0, null()),
        worker("open").descriptor(2, null()),
        worker("open").descriptor(-5, null()),
        worker("open").channel_at(5).descriptor(5, null()),
        worker("open").channel_at(3).stdin(Stdio::log()).log(|_| {}),
        // A log that nobody reads would end the worker with its first line.
        worker("open").stdout(Stdio::log()),
        worker("open").stderr(Stdio::log()),
    ] {
        match sandbox.spawn() {
            Err(SpawnError::Prepare { what: "choosing the descriptors", .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// B-10: standard output and error, each to where it was put: nothing, a pipe, a file at its offset.
#[test]
fn b_10_where_output_goes() {
    let shell = || Sandbox::new("/bin/sh").args(["-c", "echo out; echo error >&2"]);
    let end = |worker: &Worker| assert!(worker.wait_timeout(PATIENCE).unwrap().unwrap().success());
    for preset in Preset::ALL {
        let (worker, _channel) = shell().preset(preset).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(io::read_to_string(worker.take_stdout().unwrap()).unwrap(), "out\n");
        assert_eq!(io::read_to_string(worker.take_stderr().unwrap()).unwrap(), "error\n");
        assert!(worker.take_stdout().is_none() && worker.take_stderr().is_none() && worker.take_stdin().is_none());
        end(&worker);

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        let output = Stdio::from(OwnedFd::from(file.try_clone().unwrap()));
        let both = shell().preset(preset).stdout(output.clone()).stderr(output);
        for _ in 0..2 {
            let (worker, _channel) = both.spawn().unwrap();
            end(&worker);
        }
        let mut text = vec![0; usize::try_from(file.metadata().unwrap().size()).unwrap()];
        file.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(text, b"before\nout\nerror\nout\nerror\n");

        let (worker, _channel) = shell().preset(preset).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        end(&worker);
    }
}

/// B-10, B-03: inherited output goes to where the broker's goes, through a description of its own, for writing alone.
#[test]
fn b_10_b_03_inherited_output() {
    let text = String::from_utf8(run("inherit").stdout).unwrap();
    assert!(text.contains("from the worker\n"), "{text}");
}

fn inherit() {
    let shell = Sandbox::new("/bin/sh").args(["-c", "echo from the worker; read line <&0"]);
    let (worker, channel) = shell.spawn().unwrap();
    let link = |pid: &str| fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
    assert_eq!(link("self"), link(&worker.id().to_string()));
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/1", worker.id())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    assert_eq!(i32::from_str_radix(flags, 8).unwrap() & libc::O_ACCMODE, libc::O_WRONLY, "{info}");
    let own = OFlag::from_bits_retain(fcntl(io::stdout().as_fd(), FcntlArg::F_GETFL).unwrap());
    assert!(!own.contains(OFlag::O_NONBLOCK));
    drop(channel);
    assert!(worker.wait_timeout(PATIENCE).unwrap().is_some());
}

// ------------------------------------------------------------------------------------------------------------ log

type Lines = Receiver<(u32, i32, Vec<u8>)>;

/// A shell that runs this, and the lines that its log gets: ended when both of its streams have.
fn logged(script: &str) -> (Worker, Channel, Lines) {
    let (sender, lines) = channel();
    let sandbox = Sandbox::new("/bin/sh").args(["-c", script]).log(move |line: &Line<'_>| {
        sender.send((line.worker, line.stream, line.bytes.to_vec())).unwrap();
    });
    let (worker, channel) = sandbox.spawn().unwrap();
    drop(sandbox);
    (worker, channel, lines)
}

/// The lines of one stream, in order.
fn lines_of(script: &str, stream: i32) -> Vec<Vec<u8>> {
    let (worker, _channel, lines) = logged(script);
    let mut all = Vec::new();
    // The closure goes with the threads, when they have read everything.
    while let Ok((pid, number, bytes)) = lines.recv_timeout(PATIENCE) {
        assert_eq!(pid, worker.id());
        if number == stream {
            all.push(bytes);
        }
    }
    assert!(worker.wait_timeout(PATIENCE).unwrap().is_some());
    all
}

/// B-10: lines come one by one, with the worker and the stream they are from: empty ones, those without an end, binary
/// ones; and none is longer than the most that there can be.
#[test]
fn b_10_the_log_has_every_line() {
    let both = "echo out 1; echo error 1 >&2; echo; echo out 2; printf 'no end' >&2";
    assert_eq!(lines_of(both, 1), [b"out 1".as_slice(), b"", b"out 2"]);
    assert_eq!(lines_of(both, 2), [b"error 1".as_slice(), b"no end"]);
    assert_eq!(
        lines_of("printf 'a\\0\\377\\033[31m\\r\\n\\n\\200'", 1),
        [b"a\0\xff\x1b[31m\r".as_slice(), b"", b"\x80"]
    );
    assert!(lines_of(":", 1).is_empty());
    for length in [Line::MAX - 1, Line::MAX, Line::MAX + 1, 3 * Line::MAX, 100_000] {
        let script = format!("printf '%0{length}d\\n.\\n' 0");
        let lines = lines_of(&script, 1);
        let (last, long) = lines.split_last().unwrap();
        assert_eq!(last, b".", "{length}");
        assert_eq!(long.iter().map(Vec::len).sum::<usize>(), length);
        assert_eq!(long.len(), length.div_ceil(Line::MAX));
        assert!(long.iter().all(|part| part.len() <= Line::MAX));
    }
}

/// B-10: a line is shown with everything escaped that could act on a terminal.
#[test]
fn b_10_a_line_as_text() {
    let shown = |bytes: &[u8]| Line { worker: 1, stream: 1, bytes }.to_string();
    assert_eq!(shown(b"plain \xc3\xa4"), "plain ä");
    assert_eq!(shown(b"\x1b[2J\r\x07\0"), "\\u{1b}[2J\\r\\u{7}\\0");
    assert_eq!(shown("\u{9b}31m".as_bytes()), "\\u{9b}31m");
    assert_eq!(shown(b"\xff"), "\u{fffd}");
    // What turns the direction of text, ends a line for some, or is not seen; and what would look like an escape.
    assert_eq!(shown("\u{202e}\u{2028}\u{200b}\\u{1b}".as_bytes()), "\\u{202e}\\u{2028}\\u{200b}\\\\u{1b}");
}

/// B-10: a log that is slow holds up nobody but the worker; one line is in order after the other; nothing is left open.
#[test]
fn b_10_the_log_leaves_nothing() {
    common::alone("b_10_the_log_leaves_nothing", || {
        drop(logged("echo once"));
        // Until the threads of that are gone, and the thread that makes workers is there.
        let settled = || {
            let (worker, _channel, lines) = logged("i=0; while [ $i -lt 300 ]; do echo $i; i=$((i + 1)); done");
            let all: Vec<_> = std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok()).map(|line| line.2).collect();
            assert_eq!(all, (0..300).map(|number: i32| number.to_string().into_bytes()).collect::<Vec<_>>());
            assert!(worker.wait_timeout(PATIENCE).unwrap().is_some());
        };
        settled();
        // The closure is dropped by the last of the threads, whose pipe has been closed by then or is about to be.
        let quiet = || (0..1000).map(|_| std::thread::sleep(std::time::Duration::from_millis(5)));
        let before = common::open_fds();
        for _ in 0..20 {
            settled();
        }
        assert!(quiet().any(|()| common::open_fds() <= before), "{} descriptors, {before} before", common::open_fds());
    });
}

// ------------------------------------------------------------------------------- environment and working directory

/// B-10: the working directory is the one that was asked for, if the worker has it; one that it has not is an error
/// with its path.
#[test]
fn b_10_the_working_directory() {
    let (_directory, path) = common::directory();
    fs::create_dir(path.join("beneath")).unwrap();
    let beneath = path.join("beneath");
    for preset in Preset::ALL {
        let sandbox = worker("open").preset(preset).runtime(&path).current_dir(&beneath);
        let (worker, _channel, seen) = started(&sandbox);
        assert_eq!(seen.lines().nth(1), beneath.to_str());
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", worker.id())).unwrap(), beneath);
        let absent = path.join("absent");
        match worker_error(&worker_in(preset).runtime(&path).current_dir(&absent)) {
            SpawnError::Step { step: Step::WorkingDirectory, about, source, .. } => {
                assert_eq!(about.as_deref(), absent.to_str());
                assert_eq!(source.raw_os_error(), Some(libc::ENOENT));
            }
            other => panic!("{other:?}"),
        }
        // Of the host, and not in a root of the worker's own.
        let undeclared = worker_in(preset).current_dir(&beneath);
        if undeclared.prepare().unwrap().enforced().has(fdbroker::Layer::Root) {
            let error = worker_error(&undeclared).to_string();
            assert!(error.contains(beneath.to_str().unwrap()) && error.contains("working directory"), "{error}");
        }
    }
}

fn worker_in(preset: Preset) -> Sandbox {
    worker("open").preset(preset)
}

fn worker_error(sandbox: &Sandbox) -> SpawnError {
    sandbox.spawn().unwrap_err()
}

/// B-10: the environment is what was declared, byte by byte, and what was said last about each variable; from outside,
/// before the program has changed anything.
#[test]
fn b_10_the_environment() {
    for preset in Preset::ALL {
        let cat = Sandbox::new("/bin/cat").preset(preset).stdout(Stdio::piped());
        let many = cat.clone().env("A", "0").env("B", "").env("A", "=1\n").env("LD_BIND_NOW", "1");
        for (sandbox, expected) in [(cat, &b""[..]), (many, b"B=\0A==1\n\0LD_BIND_NOW=1\0")] {
            let (worker, channel) = sandbox.spawn().unwrap();
            channel.send(b"word", &[]).unwrap();
            worker.take_stdout().unwrap().read_exact(&mut [0; 4]).unwrap();
            assert_eq!(fs::read(format!("/proc/{}/environ", worker.id())).unwrap(), expected);
            drop(worker);
            channel.recv(&mut Packet::new()).unwrap_err();
        }
    }
}

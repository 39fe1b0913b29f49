//! A service of the daemon's own: "give me a terminal".
//!
//! The process that you start becomes the broker. It starts this same program again as a sandboxed worker, which cannot
//! open `/dev/ptmx` and asks for a pseudo-terminal instead. Nothing on the wire is about terminals: the broker
//! registers a service by a name, the policy says who may call it and how often, and what it gives travels like any
//! descriptor.
//!
//! ```text
//! cargo run --example pty
//! ```
//!
//! It prints what the worker tried and what came of it, and fails if any of that is not as it should be.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example's output")]

use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use fdbroker::wire::Right;
use fdbroker::{Broker, Call, Client, Gift, Policy, Rule, Sandbox, lockdown};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};

fn main() -> ExitCode {
    let is_worker = std::env::args().nth(1).as_deref() == Some("worker");
    match if is_worker { worker() } else { broker() } {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pty: {error}");
            ExitCode::FAILURE
        }
    }
}

fn broker() -> Result<ExitCode, Box<dyn Error>> {
    // One terminal for each worker, to read and to write.
    let rule = Rule::service("pty").grant([Right::Read, Right::Write]).once();
    let policy = Policy::builder().allow(rule).build()?;
    let broker = Broker::new().service("pty", terminal).audit(|record| println!("  audit: {record}"));

    let (worker, channel) = Sandbox::this_program().arg("worker").spawn()?;
    let service = broker.serve("worker", channel, policy)?;
    let status = worker.wait()?;
    service.wait()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs in the broker, on the thread that serves the worker. The policy has been asked already.
fn terminal(call: &Call<'_>, gift: &mut Gift<'_>) -> io::Result<()> {
    // What the worker says is not to be trusted: there is nothing to say here.
    if !call.bytes().is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let pty = openpty(None, None)?;
    for end in [pty.master, pty.slave] {
        fcntl(&end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        gift.push(end)?;
    }
    gift.write(format!("a terminal for {}", call.worker()).as_bytes())
}

fn worker() -> Result<ExitCode, Box<dyn Error>> {
    let client = Client::from_stdin()?;
    lockdown()?;

    let Err(own) = File::open("/dev/ptmx") else { return Err("the worker opened /dev/ptmx".into()) };
    println!("worker: opens /dev/ptmx itself: {own}");
    let Err(other) = client.read("/dev/ptmx") else { return Err("the broker opened /dev/ptmx".into()) };
    println!("worker: asks for the file: {other}");

    let called = client.call("pty", [Right::Read, Right::Write], b"")?;
    println!("worker: calls the service: {}", String::from_utf8_lossy(&called.bytes));
    let [outside, inside]: [OwnedFd; 2] = called.fds.try_into().map_err(|_| "not two descriptors")?;
    use_terminal(File::from(outside), File::from(inside))?;

    let Err(again) = client.call("pty", Right::Read, b"") else { return Err("a second terminal".into()) };
    println!("worker: calls it again: {again}");
    Ok(ExitCode::SUCCESS)
}

/// Both ends are used here. A daemon would give the inner one to a program, and speak to it through the outer one.
fn use_terminal(mut outside: File, mut inside: File) -> Result<(), Box<dyn Error>> {
    let echoes = tcgetattr(&inside)?.local_flags.contains(LocalFlags::ECHO);
    println!("worker: it is a terminal: {}, which echoes: {echoes}", inside.is_terminal());
    inside.write_all(b"hello\n")?;
    let shown = read(&mut outside)?;
    println!("worker: what is written to it is shown as {}", shown.escape_ascii());
    outside.write_all(b"typed\x7f\x7f\n")?;
    let line = read(&mut inside)?;
    println!("worker: what is typed, with two keys taken back, is read as {}", line.escape_ascii());
    // Only a terminal makes these of them.
    if shown != b"hello\r\n" || line != b"typ\n" || !inside.is_terminal() {
        return Err("this is no terminal".into());
    }
    Ok(())
}

/// Up to the end of a line: a terminal may give it in parts.
fn read(from: &mut File) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        from.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(line)
}

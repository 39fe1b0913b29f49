//! A static-file server that can open nothing itself.
//!
//! The process that you start becomes the broker: it makes the policy and starts this same program again as a sandboxed
//! worker. The worker is a small HTTP server. Its listening socket, its log and every file that it serves come
//! from the broker; it has no other way to any of them.
//!
//! ```text
//! cargo run --release --example privsep
//! cargo run --release --example privsep -- --serve DIR --listen 127.0.0.1:8080
//! ```
//!
//! The first starts the second for a directory of its own, plays an attacker against it, and prints what was asked,
//! what the policy said and what came back. It fails if any of that is not as it should be.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example's output")]

mod demo;
mod server;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: privsep                                 run the demonstration
       privsep --serve DIR --listen ADDR:PORT [--log FILE]";

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Ok(None) => demo::run(),
        Ok(Some(arguments)) => server::run(&arguments).map(|()| ExitCode::SUCCESS),
        Err(wrong) => {
            eprintln!("privsep: {wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("privsep: {error}");
        ExitCode::FAILURE
    })
}

/// What to serve, and where.
struct Arguments {
    directory: PathBuf,
    listen: SocketAddr,
    log: Option<PathBuf>,
    /// The demonstration asks the worker to try what it must not be able to do.
    attempts: bool,
}

impl Arguments {
    /// `None` without arguments.
    fn parse() -> Result<Option<Self>, Box<dyn Error>> {
        let (mut directory, mut listen, mut log, mut attempts) = (None, None, None, false);
        let mut arguments = std::env::args_os().skip(1).peekable();
        if arguments.peek().is_none() {
            return Ok(None);
        }
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{} wants a value", name.to_string_lossy()));
            match name.to_str() {
                Some("--serve") => directory = Some(PathBuf::from(value()?)),
                Some("--listen") => listen = Some(value()?.to_string_lossy().parse()?),
                Some("--log") => log = Some(PathBuf::from(value()?)),
                Some("--attempts") => attempts = true,
                _ => return Err(format!("{} is not known", name.to_string_lossy()).into()),
            }
        }
        let directory = directory.ok_or("--serve is missing")?;
        let listen = listen.ok_or("--listen is missing")?;
        Ok(Some(Self { directory, listen, log, attempts }))
    }
}

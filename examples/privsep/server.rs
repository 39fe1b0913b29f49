//! The split server: `run` is called in both processes, and goes on in the worker.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{env, fs, thread};

use fdbroker::wire::{Reason, Refusal};
use fdbroker::{Client, ClientError, Event, Policy, Record, Rule, Split};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::getppid;
use tiny_http::{Header, Request, Response, Server, StatusCode};

use crate::Arguments;

/// The real path of the directory: the worker could not find it out, having neither working directory nor file system.
const ROOT: &str = "PRIVSEP_ROOT";

/// Clients that are served at the same time: a slow one holds up nobody but those who come after all others are busy.
const THREADS: usize = 8;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // Three lines make a privilege-separated program of it. The closures are called in the first process only.
    let directory = arguments.directory.clone();
    let client = Split::new()
        .sandbox(move |sandbox| sandbox.env(ROOT, fs::canonicalize(directory).unwrap_or_default()))
        .on_start(|enforced| say(&enforced.to_string()))
        .audit(|record| say(&audit_line(record)))
        .run(|| policy(arguments))?;

    // From here on this is the worker.
    let listener = client.listen(arguments.listen)?;
    let log = arguments.log.as_ref().map(|log| client.append(log)).transpose()?;
    println!("listening on {}", listener.local_addr()?);
    let server = Server::from_listener(listener, None).map_err(|error| error.to_string())?;
    let root = PathBuf::from(env::var_os(ROOT).ok_or("no root")?);
    let worker = Worker { client, root, log, attempts: arguments.attempts };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    // A client that has gone away is no reason to stop.
                    let _ = worker.answer(request);
                }
            });
        }
    });
    Ok(())
}

/// Everything that the worker can ever have.
fn policy(arguments: &Arguments) -> Result<Policy, Box<dyn Error + Send + Sync>> {
    let root = fs::canonicalize(&arguments.directory)
        .map_err(|error| format!("{}: {error}", arguments.directory.display()))?;
    let mut policy = Policy::builder().allow(Rule::beneath(root).read()).allow(Rule::listen(arguments.listen));
    if let Some(log) = &arguments.log {
        policy = policy.allow(Rule::file(log).append());
    }
    Ok(policy.build()?)
}

/// In one piece, and without a panic when nobody reads it.
fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

struct Worker {
    client: Client,
    root: PathBuf,
    log: Option<fs::File>,
    attempts: bool,
}

impl Worker {
    fn answer(&self, request: Request) -> io::Result<()> {
        if let Some(mut log) = self.log.as_ref() {
            log.write_all(format!("{} {}\n", request.method(), request.url().escape_debug()).as_bytes())?;
        }
        if let Some(attempt) = request.url().strip_prefix("/-/").filter(|_| self.attempts) {
            let outcome = try_to(attempt, &self.client);
            return request.respond(Response::from_string(outcome));
        }
        let path = self.path(request.url());
        match self.client.read(&path) {
            Ok(file) => {
                let response = Response::from_file(file).with_header(content_type(&path));
                request.respond(response.with_chunked_threshold(usize::MAX))
            }
            Err(error) => {
                let status = match &error {
                    ClientError::Path { .. } => 400,
                    ClientError::Refused { refusal, .. } if refusal.errno == nix::libc::ENOENT => 404,
                    ClientError::Refused { .. } => 403,
                    _ => 500,
                };
                request.respond(Response::from_string(format!("{error}\n")).with_status_code(StatusCode(status)))
            }
        }
    }

    /// A careless server: it joins what the network says to its root. `..`, `//etc/passwd` (which replaces the root)
    /// and symbolic links are for the broker to see through.
    fn path(&self, url: &str) -> PathBuf {
        let bytes = decoded(url.split('?').next().unwrap_or_default());
        let mut path = self.root.join(OsStr::from_bytes(bytes.strip_prefix(b"/").unwrap_or(&bytes)));
        if bytes.ends_with(b"/") {
            path.push("index.html");
        }
        path
    }
}

/// With each `%` and two hexadecimal digits replaced by the byte that they stand for.
fn decoded(url: &str) -> Vec<u8> {
    let mut rest = url.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    bytes
}

fn content_type(path: &Path) -> Header {
    let value = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    Header::from_bytes("Content-Type", value).expect("plain ASCII makes a header")
}

/// What an attacker would try first, having taken over the worker.
fn try_to(attempt: &str, client: &Client) -> String {
    let result = match attempt {
        "open-passwd" => fs::File::open("/etc/passwd").map(drop),
        "make-socket" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "signal-parent" => kill(getppid(), Signal::SIGTERM).map_err(io::Error::from),
        // Any port but the one of the policy.
        "listen-elsewhere" => client.listen(SocketAddr::from(([127, 0, 0, 1], 1))).map(drop).map_err(io::Error::from),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    match result {
        Ok(()) => "it worked".to_owned(),
        Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
}

fn audit_line(record: &Record<'_>) -> String {
    match &record.event {
        Event::Request { ask, answer, .. } => {
            let said = match answer {
                Ok(()) => "granted".to_owned(),
                Err(Refusal { reason: Reason::Denied, .. }) => "refused: no rule".to_owned(),
                Err(Refusal { reason: Reason::Kind, .. }) => "refused: not a regular file".to_owned(),
                Err(Refusal { reason: Reason::Failed, errno }) => {
                    format!("allowed, but {:?}", Errno::from_raw(*errno))
                }
                Err(refusal) => format!("refused: {refusal}"),
            };
            format!("audit\t{ask}\t{said}")
        }
        _ => record.to_string(),
    }
}

//! The split server: `run` is called in both processes, and goes on in the worker.

use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::{env, fs};

use fdbroker::wire::{Reason, Refusal};
use fdbroker::{Client, ClientError, Event, Policy, Record, Rule, Split};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::getppid;
use tiny_http::{Header, Request, Response, Server, StatusCode};

use crate::Arguments;

/// The real path of the directory: the worker could not find it out, having neither working directory nor file system.
const ROOT: &str = "PRIVSEP_ROOT";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let root = match env::var_os(ROOT) {
        Some(root) => PathBuf::from(root),
        None => fs::canonicalize(&arguments.directory)
            .map_err(|error| format!("{}: {error}", arguments.directory.display()))?,
    };

    // Three lines make a privilege-separated program of it.
    let client = Split::new()
        .sandbox(|sandbox| sandbox.env(ROOT, &root))
        .on_start(|enforced| eprintln!("{enforced}"))
        .audit(|record| eprintln!("{}", audit_line(record)))
        .run(|| policy(&root, arguments))?;

    // From here on this is the worker.
    let listener = client.listen(arguments.listen)?;
    let log = arguments.log.as_ref().map(|log| client.append(log)).transpose()?;
    println!("listening on {}", listener.local_addr()?);
    let server = Server::from_listener(listener, None).map_err(|error| error.to_string())?;
    for request in server.incoming_requests() {
        if let Some(mut log) = log.as_ref() {
            writeln!(log, "{} {}", request.method(), request.url().escape_debug())?;
        }
        match request.url().strip_prefix("/-/").filter(|_| arguments.attempts) {
            Some(attempt) => {
                let outcome = try_to(attempt, &client);
                request.respond(Response::from_string(outcome))?;
            }
            None => serve(request, &root, &client)?,
        }
    }
    Ok(())
}

/// Everything that the worker can ever have.
fn policy(root: &Path, arguments: &Arguments) -> Result<Policy, fdbroker::PolicyError> {
    let mut policy = Policy::builder().allow(Rule::beneath(root).read()).allow(Rule::listen(arguments.listen));
    if let Some(log) = &arguments.log {
        policy = policy.allow(Rule::file(log).append());
    }
    policy.build()
}

fn serve(request: Request, root: &Path, client: &Client) -> io::Result<()> {
    // A careless server: it joins what the network says to its root. `..`, `//etc/passwd` (which replaces the root)
    // and symbolic links are for the broker to see through.
    let url = request.url().split('?').next().unwrap_or_default();
    let mut path = root.join(&url[1.min(url.len())..]);
    if url.ends_with('/') {
        path.push("index.html");
    }
    match client.read(&path) {
        Ok(file) => request.respond(Response::from_file(file).with_header(content_type(&path))),
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
        Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)).to_string(),
    }
}

fn audit_line(record: &Record<'_>) -> String {
    match &record.event {
        Event::Request { ask, answer } => {
            let said = match answer {
                Ok(()) => "granted".to_owned(),
                Err(Refusal { reason: Reason::Denied, .. }) => "refused: no rule".to_owned(),
                Err(Refusal { reason: Reason::Kind, .. }) => "refused: not a regular file".to_owned(),
                Err(Refusal { reason: Reason::Failed, errno }) => {
                    format!("allowed, but {}", Errno::from_raw(*errno))
                }
                Err(refusal) => format!("refused: {refusal}"),
            };
            format!("audit\t{ask}\t{said}")
        }
        _ => record.to_string(),
    }
}

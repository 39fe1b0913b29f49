//! A worker in Python that knows the wire from its tables alone, and the crate's own client: one table of requests, one
//! policy, the same answers.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use common::directory;
use common::served::{PATIENCE, client_of, ended, pair};
use fdbroker::wire::{Reason, Rights, SocketType};
use fdbroker::{Broker, Client, ClientError, Policy, Rule};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

/// What is asked, and what is to come of it. `ROOT` is a directory of each worker's own; `TCP` a server that says
/// "welcome", as the one at `ROOT/socket` does.
const TABLE: &[(&str, &str)] = &[
    ("hello", "granted: "),
    ("ready", "granted: "),
    ("read ROOT/file", "granted: content"),
    ("read ROOT/absent", "refused: failed ENOENT"),
    ("read ROOT/private", "refused: denied EACCES"),
    ("read ROOT/link", "refused: failed ELOOP"),
    ("read ROOT/inner", "refused: kind EACCES"),
    ("read ROOT/../secret", "refused: path"),
    ("read relative", "refused: path"),
    ("read /etc/passwd", "refused: denied EACCES"),
    ("write ROOT/file", "granted: 4 bytes written"),
    ("read ROOT/file", "granted: lineent"),
    ("append ROOT/file", "granted: 4 bytes written"),
    ("read ROOT/file", "granted: lineentline"),
    ("truncate ROOT/file", "granted: 4 bytes written"),
    ("read ROOT/file", "granted: line"),
    ("write /etc/passwd", "refused: denied EACCES"),
    ("create ROOT/new", "granted: 4 bytes written"),
    ("create ROOT/new", "refused: failed EEXIST"),
    ("create ROOT/private", "refused: denied EACCES"),
    ("stat ROOT/new", "granted: mode 100640, 1 links, 4 bytes"),
    ("stat /etc/passwd", "refused: denied EACCES"),
    ("readlink ROOT/link", "granted: file"),
    ("readlink ROOT/file", "refused: failed EINVAL"),
    ("rename ROOT/new ROOT/newer", "granted: "),
    ("rename ROOT/newer ROOT/private", "refused: denied EACCES"),
    ("mkdir ROOT/made", "granted: "),
    ("mkdir ROOT/made", "refused: failed EEXIST"),
    ("list ROOT", "granted: file inner link made newer socket"),
    ("list ROOT/file", "refused: failed ENOTDIR"),
    ("list /etc", "refused: denied EACCES"),
    ("rmdir ROOT/made", "granted: "),
    ("unlink ROOT/newer", "granted: "),
    ("unlink ROOT/newer", "refused: failed ENOENT"),
    ("unlink ROOT/private", "refused: denied EACCES"),
    ("list ROOT/inner", "granted: "),
    ("directory ROOT/inner", "refused: denied EACCES"),
    ("scratch", "granted:  and 1 descriptors"),
    ("listen 127.0.0.1:0", "granted: listens: 1"),
    ("listen [::1]:0", "refused: denied EACCES"),
    ("bind 127.0.0.1:0", "granted: listens: 0"),
    ("bind 0.0.0.0:0", "refused: denied EACCES"),
    ("connect TCP", "granted: welcome"),
    ("connect 127.0.0.1:9", "refused: denied EACCES"),
    ("connect-udp TCP", "refused: denied EACCES"),
    ("connect-name host.invalid 80", "refused: denied EACCES"),
    ("connect ROOT/socket", "granted: welcome"),
    ("connect @nobody", "refused: denied EACCES"),
    ("call upper words", "refused: denied EACCES"),
    ("call echo words", "granted: words"),
    ("call missing", "refused: failed ENOSYS"),
    ("hello", "granted: "),
];

/// P-01: a Python program of the standard library, which has read the tables, is granted and refused what the crate's
/// own client is, request by request.
#[test]
fn p_01_a_worker_in_python() {
    if !python_is_there() {
        return;
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worker.py");
    // The test may be run where the sources are not readable.
    let script = include_str!("../examples/worker.py");
    let of_rust = answers(|site| {
        let (service, client) = client_of(&broker(), site.policy());
        let lines = site.requests().map(|request| of_the_client(&client, &request)).collect();
        drop(client);
        ended(service).unwrap();
        lines
    });
    let of_python = answers(|site| {
        let (theirs, ours) = pair();
        let service = broker().serve("python", ours, site.policy()).unwrap();
        let mut command = Command::new("timeout");
        command.args([&PATIENCE.as_secs().to_string(), "python3", "-c", script]).args(site.requests());
        let child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        let output = child.wait_with_output().unwrap();
        let (said, complained) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && complained.is_empty(), "{program}: {}\n{said}{complained}", output.status);
        ended(service).unwrap();
        said.lines().map(str::to_owned).collect()
    });
    for (place, (request, wanted)) in TABLE.iter().enumerate() {
        let (rust, python) = (&of_rust[place], &of_python[place]);
        assert_eq!(rust, &format!("{request}: {wanted}"), "the client");
        // The crate's own client does not even send what is no path; the broker says its errno.
        let python = if *wanted == "refused: path" { python.trim_end_matches(" EACCES") } else { python };
        assert_eq!(python, rust, "Python");
    }
    assert_eq!((of_rust.len(), of_python.len()), (TABLE.len(), TABLE.len()));
}

/// P-01: without arguments it greets.
#[test]
fn p_01_a_worker_in_python_greets() {
    if !python_is_there() {
        return;
    }
    let (theirs, ours) = pair();
    let service = broker().serve("python", ours, Policy::builder().build().unwrap()).unwrap();
    let mut command = Command::new("timeout");
    command.args([&PATIENCE.as_secs().to_string(), "python3", "-c", include_str!("../examples/worker.py")]);
    let output = command.stdin(OwnedFd::from(theirs)).output().unwrap();
    drop(command);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "hello: granted: \n");
    ended(service).unwrap();
}

fn broker() -> Broker {
    Broker::new().service("echo", |call, gift| gift.write(call.bytes()))
}

/// What one worker finds, the same for each.
struct Site<'s> {
    root: &'s Path,
    tcp: String,
}

impl Site<'_> {
    fn policy(&self) -> Policy {
        let root = Rule::beneath(self.root).read().write().append().truncate().create(0o640).list().stat().readlink();
        let root = root.mkdir(0o750).unlink().rmdir().rename();
        Policy::builder()
            .allow(root)
            .deny(Rule::file(self.root.join("private")))
            .allow(Rule::file(self.root.join("socket")).connect([SocketType::Stream]))
            .allow(Rule::scratch(self.root))
            .allow(Rule::listen("127.0.0.1:0".parse().unwrap()))
            .allow(Rule::bind("127.0.0.1:0".parse().unwrap()))
            .allow(Rule::connect(self.tcp.parse().unwrap()))
            .allow(Rule::service("echo"))
            .allow(Rule::service("missing"))
            .build()
            .unwrap()
    }

    fn requests(&self) -> impl Iterator<Item = String> {
        TABLE.iter().map(|(request, _)| self.here(request))
    }

    fn here(&self, request: &str) -> String {
        request.replace("ROOT", self.root.to_str().unwrap()).replace("TCP", &self.tcp)
    }
}

/// Furnishes a site for one worker, and has its lines with the words of the table.
fn answers(work: impl FnOnce(&Site<'_>) -> Vec<String>) -> Vec<String> {
    let (_keep, root) = directory();
    fs::write(root.join("file"), b"content").unwrap();
    fs::write(root.join("private"), b"secret").unwrap();
    fs::create_dir(root.join("inner")).unwrap();
    symlink("file", root.join("link")).unwrap();
    let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(root.join("socket")).unwrap());
    fs::set_permissions(root.join("socket"), fs::Permissions::from_mode(0o666)).unwrap();
    let site = Site { root: &root, tcp: tcp.local_addr().unwrap().to_string() };
    // Each is asked once. Nobody waits for these threads: they end with the process.
    std::thread::spawn(move || tcp.accept().unwrap().0.write_all(b"welcome").unwrap());
    std::thread::spawn(move || unix.accept().unwrap().0.write_all(b"welcome").unwrap());
    let lines = work(&site).into_iter();
    lines.map(|line| line.replace(root.to_str().unwrap(), "ROOT").replace(&site.tcp, "TCP")).collect()
}

/// One request of the table by the crate's own client, in the words of the other.
fn of_the_client(client: &Client, request: &str) -> String {
    match granted(client, &request.split(' ').collect::<Vec<_>>()) {
        Ok(told) => format!("{request}: granted: {told}"),
        Err(ClientError::Path { .. }) => format!("{request}: refused: path"),
        Err(error) => {
            let refusal = error.refusal().unwrap_or_else(|| panic!("{request}: {error}"));
            let reason = match refusal.reason {
                Reason::Denied => "denied",
                Reason::Failed => "failed",
                Reason::Kind => "kind",
                other => panic!("{request}: {other:?}"),
            };
            format!("{request}: refused: {reason} {:?}", Errno::from_raw(refusal.errno))
        }
    }
}

fn granted(client: &Client, words: &[&str]) -> Result<String, ClientError> {
    let write = |mut file: File| format!("{} bytes written", file.write(b"line").unwrap());
    let done = |()| String::new();
    Ok(match *words {
        ["hello"] => done(client.hello()?),
        ["ready"] => done(client.ready()?),
        ["read", path] => io::read_to_string(client.read(path)?).unwrap(),
        ["write", path] => write(client.write(path)?),
        ["append", path] => write(client.append(path)?),
        ["truncate", path] => write(client.open_options().write(true).truncate(true).open(path)?),
        ["create", path] => write(client.create(path)?),
        ["directory", path] => client.directory(path).map(|_| "a directory".to_owned())?,
        ["scratch"] => client.scratch().map(|_| " and 1 descriptors".to_owned())?,
        ["list", path] => {
            let mut names: Vec<_> = client.list(path)?.into_iter().map(|entry| entry.name).collect();
            names.sort();
            names.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        }
        ["stat", path] => {
            let stat = client.stat(path)?;
            format!("mode {:o}, {} links, {} bytes", stat.mode, stat.links, stat.size)
        }
        ["readlink", path] => client.readlink(path)?.to_str().unwrap().to_owned(),
        ["mkdir", path] => done(client.mkdir(path)?),
        ["unlink", path] => done(client.unlink(path)?),
        ["rmdir", path] => done(client.rmdir(path)?),
        ["rename", old, new] => done(client.rename(old, new)?),
        ["listen", address] => listens(client.listen(address.parse().unwrap())?),
        ["bind", address] => listens(client.bind(address.parse().unwrap())?),
        ["connect", path] if path.starts_with('/') => heard(client.unix_connect(path)?),
        ["connect", name] if name.starts_with('@') => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
            heard(UnixStream::from(client.unix_connect_addr(SocketType::Stream, &address)?))
        }
        ["connect", address] => heard(client.connect(address.parse().unwrap())?),
        ["connect-udp", address] => listens(client.connect_udp(address.parse().unwrap())?),
        ["connect-name", host, port] => heard(client.connect_name(host, port.parse().unwrap())?),
        ["call", name, ..] => {
            let said = words.get(2).copied().unwrap_or_default();
            String::from_utf8(client.call(name, Rights::NONE, said.as_bytes())?.bytes).unwrap()
        }
        _ => panic!("{words:?}"),
    })
}

fn listens(socket: impl AsFd) -> String {
    format!("listens: {}", u8::from(getsockopt(&socket, sockopt::AcceptConn).unwrap()))
}

fn heard(mut socket: impl Read) -> String {
    let mut said = [0; 7];
    socket.read_exact(&mut said).unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

fn python_is_there() -> bool {
    let tried = Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]).status();
    let there = tried.is_ok_and(|status| status.success());
    if !there {
        assert!(std::env::var_os("CI").is_none(), "Python 3.9 is missing, and in CI no peer may be");
        eprintln!("SKIPPED a worker in Python: Python 3.9 (Debian: python3) is missing");
    }
    there
}

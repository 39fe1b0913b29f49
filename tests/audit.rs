//! Proves what the audit says: each request is one record with everything that decided it, in any form that records are
//! written in; a flood is bounded and counted; nothing that a worker sends reaches a line as it came; and an audit that
//! fails is no worker's trouble, or that of its own worker alone.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use common::directory;
use common::served::{PATIENCE, Raw, alone, default_sigpipe, ended, pair, raw_of};
use fdbroker::policy::Narrowing;
use fdbroker::wire::{
    Access, Address, Answer, Ask, Batch, MAX_MESSAGE, Reason, Reply, Request, Right, Rights, SocketType,
};
use fdbroker::{Audit, Broker, ChannelError, Event, Fault, JsonLines, Packet, Policy, Record, Rule, Service};
use proptest::prelude::*;

/// A record that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    worker: String,
    what: String,
    /// Number, text, and whether it says where in this file it was written.
    rule: Option<(u32, String, bool)>,
    /// Reason and errno.
    refusal: Option<(String, i32)>,
    why: Option<String>,
    /// What people read.
    line: String,
}

impl Seen {
    fn new(record: &Record<'_>) -> Self {
        let (line, worker) = (record.to_string(), record.worker.to_owned());
        let plain = |what: String| Self { worker: worker.clone(), what, rule: None, refusal: None, why: None, line };
        match &record.event {
            Event::Start(resolver) => plain(format!("start: {}", resolver.map_or("none".into(), |r| r.to_string()))),
            Event::Request { ask, rule, answer, why, took, .. } => {
                assert!(*took < PATIENCE);
                let here = |place: String| place.contains("tests/audit.rs:");
                Self {
                    rule: rule.map(|rule| (rule.number(), rule.text().into(), here(rule.place().to_string()))),
                    refusal: answer.err().map(|refusal| (format!("{:?}", refusal.reason), refusal.errno)),
                    why: why.map(|why| why.to_string()),
                    ..plain(ask.to_string())
                }
            }
            Event::UnknownVerb { verb, refusal, .. } => {
                assert_eq!((refusal.reason, refusal.errno), (Reason::Verb, libc::ENOSYS));
                plain(format!("unknown verb {verb:#x}"))
            }
            Event::Suppressed(records) => plain(format!("suppressed {records}")),
            Event::End(end) => plain(format!("end: {end:?}")),
            other => panic!("{other:?}"),
        }
    }
}

/// Keeps every record, or so many a second.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Seen>>>, Option<NonZeroU32>);

impl Kept {
    fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    fn what(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.what).collect()
    }
}

impl Audit for Kept {
    fn record(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(Seen::new(record));
    }

    fn records_per_second(&self) -> Option<NonZeroU32> {
        self.1
    }
}

fn path(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// Under which every verb can be granted and denied.
fn policy(root: &Path, listener: &TcpListener) -> Policy {
    let to = listener.local_addr().unwrap();
    let tree = Rule::beneath(root).read().write().append().create(0o600).list().stat().readlink().mkdir(0o700).unlink();
    Policy::builder()
        .allow(tree.rmdir().rename())
        .deny(Rule::beneath(root.join("secret")))
        .allow(Rule::file(root.join("plain")).stat())
        .allow(Rule::scratch(root))
        .allow(Rule::listen("127.0.0.1:0".parse().unwrap()))
        .allow(Rule::bind("127.0.0.1:0".parse().unwrap()))
        .allow(Rule::connect(to))
        .allow(Rule::connect_name("localhost", to.port()))
        .allow(Rule::service("echo").grant(Rights::from(Right::Read)))
        .build()
        .unwrap()
}

fn furnish(root: &Path) {
    fs::write(root.join("file"), b"file").unwrap();
    fs::write(root.join("plain"), b"plain").unwrap();
    std::os::unix::fs::symlink("file", root.join("link")).unwrap();
    fs::create_dir(root.join("secret")).unwrap();
}

fn echo(broker: Broker) -> Broker {
    broker.service("echo", |call, gift| gift.write(call.bytes()))
}

/// What the record of a request has to say.
struct Case<'a> {
    ask: Ask<'a>,
    rule: Option<u32>,
    refusal: Option<(&'static str, i32)>,
    why: Option<&'static str>,
}

fn granted(ask: Ask<'_>, rule: u32) -> Case<'_> {
    Case { ask, rule: Some(rule), refusal: None, why: None }
}

fn denied<'a>(ask: Ask<'a>, rule: impl Into<Option<u32>>, why: &'static str) -> Case<'a> {
    Case { ask, rule: rule.into(), refusal: Some(("Denied", libc::EACCES)), why: Some(why) }
}

fn failed(ask: Ask<'_>, rule: u32, errno: i32) -> Case<'_> {
    Case { ask, rule: Some(rule), refusal: Some(("Failed", errno)), why: None }
}

const NO_RULE: &str = "no rule is about it";
const A_RULE: &str = "a rule denies it";

/// U-01: every verb, granted, denied and failed, is one record, in the order of the requests: the worker, the request
/// with its bytes escaped, the rule with number, text and place or none, outcome, errno, and why.
#[test]
fn u_01_each_request_is_one_record() {
    let (_keep, root) = directory();
    furnish(&root);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let at = |name: &str| root.join(name);
    let (file, link, new, newer) = (at("file"), at("link"), at("new"), at("newer"));
    let (secret, plain, absent, odd) = (at("secret/key"), at("plain"), at("absent"), at("a\n\x1b[2J\u{e9}"));
    let open = |access, name| Ask::Open { access, path: name };
    let any = Address::Ip("127.0.0.1:0".parse().unwrap());
    let other = Address::Ip("127.0.0.1:1".parse().unwrap());
    let outside: &[u8] = b"/outside";
    let stream = SocketType::Stream;
    let call = |service, rights| Ask::Call { service, rights, bytes: b"secret words" };
    let cases = [
        Case { ask: Ask::Hello, rule: None, refusal: None, why: None },
        Case { ask: Ask::Ready, rule: None, refusal: None, why: None },
        granted(open(Access::READ, path(&file)), 1),
        granted(open(Access::CREATE_NEW, path(&new)), 1),
        granted(Ask::Scratch, 4),
        granted(Ask::List { path: path(&root), from: 0 }, 1),
        granted(Ask::Stat(path(&file)), 1),
        granted(Ask::Stat(path(&plain)), 3),
        granted(Ask::Readlink(path(&link)), 1),
        granted(Ask::Rename { from: path(&new), to: path(&newer) }, 1),
        granted(Ask::Unlink(path(&newer)), 1),
        granted(Ask::Mkdir(path(&new)), 1),
        granted(Ask::Rmdir(path(&new)), 1),
        granted(Ask::Listen(stream, any), 5),
        granted(Ask::Bind(any), 6),
        granted(Ask::Connect(stream, Address::Ip(to)), 7),
        granted(Ask::ConnectName { socket: stream, host: b"localhost", port: to.port() }, 8),
        granted(call(b"echo", Right::Read.into()), 9),
        denied(open(Access::READ, outside), None, NO_RULE),
        denied(open(Access::READ, path(&secret)), 2, A_RULE),
        denied(open(Access::READ, path(&plain)), 3, "the rule that decides does not grant read"),
        denied(Ask::List { path: outside, from: 0 }, None, NO_RULE),
        denied(Ask::Stat(outside), None, NO_RULE),
        denied(Ask::Readlink(outside), None, NO_RULE),
        denied(Ask::Mkdir(outside), None, NO_RULE),
        denied(Ask::Unlink(path(&secret)), 2, A_RULE),
        denied(Ask::Rmdir(outside), None, NO_RULE),
        denied(Ask::Rename { from: path(&file), to: path(&secret) }, 2, A_RULE),
        denied(Ask::Listen(stream, other), None, NO_RULE),
        denied(Ask::Listen(stream, Address::Path(outside)), None, NO_RULE),
        denied(Ask::Listen(stream, Address::Abstract(b"a\0b")), None, NO_RULE),
        denied(Ask::Bind(other), None, NO_RULE),
        denied(Ask::Connect(stream, other), None, NO_RULE),
        denied(Ask::ConnectName { socket: stream, host: b"example.org", port: 1 }, None, NO_RULE),
        denied(call(b"other", Rights::NONE), None, NO_RULE),
        denied(call(b"echo", Right::Write.into()), 9, "the rule that decides does not grant write"),
        failed(open(Access::READ, path(&absent)), 1, libc::ENOENT),
        failed(Ask::Stat(path(&odd)), 1, libc::ENOENT),
        failed(open(Access::CREATE_NEW, path(&file)), 1, libc::EEXIST),
        Case {
            ask: open(Access::READ, b"relative"),
            rule: None,
            refusal: Some(("Path", libc::EACCES)),
            why: Some("the path is relative: paths are absolute here"),
        },
        Case {
            ask: open(Access::READ | Access::TRUNCATE, path(&file)),
            rule: None,
            refusal: Some(("Impossible", libc::EINVAL)),
            why: Some("only what is opened for writing can be truncated"),
        },
    ];
    let kept = Kept::default();
    let policy = policy(&root, &listener);
    let rules: Vec<_> = policy.rules().map(|rule| rule.text().to_owned()).collect();
    let (service, mut raw) = raw_of(&echo(Broker::new().audit_to(kept.clone())), policy);
    for case in &cases {
        let id = raw.send(case.ask);
        let reply = raw.reply().unwrap();
        let errno = reply.answer.err().map(|refusal| refusal.errno);
        assert_eq!((reply.id, errno), (id, case.refusal.map(|(_, errno)| errno)), "{}", case.ask);
    }
    drop(raw);
    ended(service).unwrap();
    let seen = kept.seen();
    assert_eq!(seen.len(), cases.len() + 2, "one record each, and the start and the end");
    for (seen, case) in seen[1..].iter().zip(&cases) {
        assert_eq!((&*seen.worker, &seen.what), ("raw", &case.ask.to_string()));
        let rule = case.rule.map(|number| (number, rules[number as usize - 1].clone(), true));
        assert_eq!(seen.rule, rule, "{}", seen.what);
        let refusal = case.refusal.map(|(reason, errno)| (reason.to_owned(), errno));
        assert_eq!((seen.refusal.clone(), seen.why.as_deref()), (refusal, case.why), "{}", seen.what);
        let outcome = if case.refusal.is_none() { ": granted" } else { ": not granted: " };
        assert!(seen.line.starts_with(&format!("raw: {}{outcome}", seen.what)), "{}", seen.line);
        assert!(seen.line.contains(case.why.unwrap_or_default()) && !seen.line.contains("secret words"));
    }
    assert!(seen.iter().any(|seen| seen.what.ends_with("/a\\n\\x1b[2J\\xc3\\xa9")));
}

/// U-01: a call of a service that panics is one record, of a failure, before that of the end.
#[test]
fn u_01_a_call_that_panics_is_recorded() {
    let kept = Kept::default();
    let broker = Broker::new().audit_to(kept.clone()).service("deadly", |_, _| panic!("as this test wants it"));
    let policy = Policy::builder().allow(Rule::service("deadly").once()).build().unwrap();
    let (service, mut raw) = raw_of(&broker, policy);
    raw.send(Ask::Call { service: b"deadly", rights: Rights::NONE, bytes: b"" });
    assert!(matches!(raw.reply(), Err(ChannelError::Disconnected)));
    assert!(matches!(ended(service), Err(Fault::Panicked(text)) if text == "as this test wants it"));
    let seen = kept.seen();
    let [_, call, end] = &seen[..] else { panic!("{seen:?}") };
    assert!(call.line.starts_with("raw: call deadly") && call.line.contains(": not granted: "), "{}", call.line);
    assert_eq!(call.rule.as_ref().map(|rule| rule.0), Some(1));
    assert_eq!(call.refusal, Some(("Failed".into(), libc::EIO)));
    assert!(end.what.starts_with("end: Err(Panicked("), "{}", end.what);
}

/// U-01: a service's start says how names are resolved, and its end how it came: by a hang-up, when it is stopped, by
/// what is malformed. Each is one record.
#[test]
fn u_01_start_and_end_are_one_record_each() {
    let kept = Kept::default();
    let broker = Broker::new().audit_to(kept.clone());
    let rules = || Policy::builder().allow(Rule::file("/etc/passwd").read()).build().unwrap();
    let resolver = rules().resolver().unwrap().to_string();
    let start = format!("start: {resolver}");
    let records = |end: &dyn Fn(&Service, &mut Raw)| {
        let before = kept.what().len();
        let (service, mut raw) = raw_of(&broker, rules());
        raw.ask(Ask::Hello).unwrap();
        end(&service, &mut raw);
        drop(raw);
        let _ = ended(service);
        let what = kept.what().split_off(before);
        let [first, hello, last] = &what[..] else { panic!("{what:?}") };
        assert_eq!((first, &**hello), (&start, "hello"));
        last.clone()
    };
    assert_eq!(records(&|_, _| {}), "end: Ok(())");
    assert_eq!(records(&|service, _| service.stop()), "end: Ok(())");
    let garbage = records(&|_, raw| assert_eq!(raw.send_bytes(b"garbage"), Ok(7)));
    assert_eq!(garbage, "end: Err(Malformed(Short(7)))");
    assert_eq!(kept.seen()[0].line, format!("raw: start: names are resolved by {resolver}"));
    assert_eq!(kept.seen().last().unwrap().line, "raw: end: malformed: 7 bytes are fewer than the header's 20");

    // Without rules about names nothing is to be resolved.
    let sockets = Policy::builder().allow(Rule::listen("127.0.0.1:0".parse().unwrap())).build().unwrap();
    let (service, raw) = raw_of(&broker, sockets);
    drop(raw);
    ended(service).unwrap();
    assert_eq!(kept.what().split_off(9), ["start: none", "end: Ok(())"]);
}

/// Puts another verb at its place in a message: 3 in the header, the first of an item.
fn with_verb(bytes: &mut [u8], at: usize, verb: u8) {
    bytes[at] = verb;
}

/// U-01: each request of a batch is one record, in order, and so is one with a verb that nobody knows, alone or in a
/// batch.
#[test]
fn u_01_requests_of_a_batch_and_unknown_verbs() {
    let (_keep, root) = directory();
    furnish(&root);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = Kept::default();
    let (service, mut raw) = raw_of(&Broker::new().audit_to(kept.clone()), policy(&root, &listener));
    let (file, secret, absent) = (root.join("file"), root.join("secret/key"), root.join("absent"));
    let asks = [
        Ask::Open { access: Access::READ, path: path(&file) },
        Ask::Scratch,
        Ask::Stat(path(&file)),
        Ask::Open { access: Access::READ, path: path(&secret) },
        Ask::Stat(path(&absent)),
    ];
    let (mut body, mut message) = (vec![0; MAX_MESSAGE], vec![0; MAX_MESSAGE]);
    let batch = Batch::encode(asks, &mut body).unwrap();
    let len = Request { id: 1, ask: Ask::Batch(batch) }.encode(&mut message).unwrap();
    // The second, which has no body, gets a verb that is in no table.
    let second = 20 + 4 + 2 + path(&file).len();
    with_verb(&mut message, second, 0x7e);
    raw.send_bytes(&message[..len]).unwrap();
    let mut packet = Packet::with_capacity(MAX_MESSAGE);
    raw.channel.recv(&mut packet).unwrap();
    let reply = Reply::decode(packet.bytes(), packet.fds().len()).unwrap();
    let Answer::Batch(answers) = reply.answer else { panic!("{reply:?}") };
    let refused = answers.iter().map(|answer| matches!(answer, Answer::Refused(_)));
    assert_eq!(refused.collect::<Vec<_>>(), [false, true, false, true, true]);

    let len = Request { id: 2, ask: Ask::Hello }.encode(&mut message).unwrap();
    with_verb(&mut message, 3, 0x7f);
    raw.send_bytes(&message[..len]).unwrap();
    assert_eq!(raw.reply().unwrap().answer.unwrap_err().errno, libc::ENOSYS);
    drop(raw);
    ended(service).unwrap();

    let seen = kept.seen();
    let what: Vec<_> = seen[1..].iter().map(|seen| seen.what.clone()).collect();
    let verb = |verb: &str| format!("unknown verb {verb}");
    let expected = [
        asks[0].to_string(),
        verb("0x7e"),
        asks[2].to_string(),
        asks[3].to_string(),
        asks[4].to_string(),
        verb("0x7f"),
        "end: Ok(())".into(),
    ];
    assert_eq!(what, expected);
    let rules: Vec<_> = seen[1..6].iter().map(|seen| seen.rule.as_ref().map(|rule| rule.0)).collect();
    assert_eq!(rules, [Some(1), None, Some(1), Some(2), Some(1)]);
    let errnos: Vec<_> = seen[1..6].iter().map(|seen| seen.refusal.as_ref().map(|refusal| refusal.1)).collect();
    assert_eq!(errnos, [None, None, None, Some(libc::EACCES), Some(libc::ENOENT)]);
    assert!(seen[6].line.starts_with("raw: verb 0x7f: not granted: the broker does not know"), "{}", seen[6].line);
}

// ------------------------------------------------------------------------------------------------------- lines of JSON

/// Memory that is written to and looked at.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What Python reads in lines of JSON: a line for each, of the fields that are asked for.
fn python(lines: &str, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    const PROGRAM: &str = r#"
import datetime, json, sys
def unique(pairs):
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)
def told(record, field):
    if field not in record: return "-"
    value = record[field]
    if field in ("object", "to") and value is not None:
        return value.encode().decode("unicode_escape").encode("latin-1").hex()
    return json.dumps(value)
now = datetime.datetime.now(datetime.timezone.utc)
for line in sys.stdin.buffer.read().split(b"\n")[:-1]:
    assert all(0x20 <= byte <= 0x7e for byte in line), line
    record = json.loads(line, object_pairs_hook=unique)
    time = datetime.datetime.fromisoformat(record["time"].replace("Z", "+00:00"))
    assert abs(now - time) < datetime.timedelta(hours=1) and len(record["time"]) == 27, record["time"]
    print("\t".join(told(record, field) for field in sys.argv[1:]))
"#;
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).args(fields).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "python3 is missing");
            eprintln!("SKIPPED the audit's lines as Python reads them: python3 is missing");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{lines}");
    let told = String::from_utf8(output.stdout).unwrap();
    Some(told.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// U-01: lines of JSON, as Python reads them, have every field of their table, for each event and each kind of request.
#[test]
fn u_01_lines_of_json_say_all_of_it() {
    let (_keep, root) = directory();
    furnish(&root);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let memory = Memory::default();
    let broker = echo(Broker::new().audit_to(JsonLines::new(memory.clone())));
    let (theirs, ours) = pair();
    let policy = policy(&root, &listener);
    let (resolver, text) = (policy.resolver().unwrap().to_string(), policy.rules().next().unwrap().text().to_owned());
    let service = broker.serve("worker \"1\"\n\u{2028}\u{1f980}", theirs, policy).unwrap();
    let mut raw = Raw::new(ours);
    let (file, absent) = (root.join("file"), root.join("absent"));
    raw.ask(Ask::Open { access: Access::READ | Access::WRITE, path: path(&file) }).unwrap();
    raw.ask(Ask::Rename { from: path(&absent), to: path(&file) }).unwrap_err();
    raw.ask(Ask::Open { access: Access::READ, path: b"/outside" }).unwrap_err();
    raw.ask(Ask::Connect(SocketType::SeqPacket, Address::Abstract(b"\0name"))).unwrap_err();
    raw.ask(Ask::ConnectName { socket: SocketType::Datagram, host: b"h\xff", port: 53 }).unwrap_err();
    raw.ask(Ask::Listen(SocketType::Stream, Address::Ip("127.0.0.1:0".parse().unwrap()))).unwrap();
    raw.ask(Ask::Listen(SocketType::Stream, Address::Path(b"/x"))).unwrap_err();
    raw.told(Ask::List { path: path(&root), from: 7 }).unwrap();
    raw.told(Ask::Call { service: b"echo", rights: Right::Read.into(), bytes: b"secret" }).unwrap();
    raw.ask(Ask::Hello).unwrap();
    let mut unknown = vec![0; 64];
    let len = Request { id: 2, ask: Ask::Hello }.encode(&mut unknown).unwrap();
    with_verb(&mut unknown, 3, 0x7f);
    raw.send_bytes(&unknown[..len]).unwrap();
    raw.reply().unwrap().answer.unwrap_err();
    raw.send_bytes(b"garbage").unwrap();
    assert!(matches!(ended(service), Err(Fault::Malformed(_))));

    let lines = memory.text();
    assert!(!lines.contains("secret") && lines.ends_with("}\n"), "{lines}");
    let told = |fields: &[&str]| python(&lines, fields).map(|lines| lines.into_iter().map(|line| line.join(" ")));
    let is = |fields: &[&str], expected: &[&str]| {
        let Some(told) = told(fields) else { return };
        assert_eq!(told.collect::<Vec<_>>(), expected, "{fields:?}");
    };
    let Some(workers) = told(&["worker"]) else { return };
    assert!(workers.into_iter().all(|worker| worker == r#""worker \"1\"\n\u2028\ud83e\udd80""#));
    let start = format!("\"start\" - \"{resolver}\"");
    is(
        &["event", "verb", "resolver"],
        &[
            &*start,
            r#""request" "open" -"#,
            r#""request" "rename" -"#,
            r#""request" "open" -"#,
            r#""request" "connect" -"#,
            r#""request" "connect" -"#,
            r#""request" "listen" -"#,
            r#""request" "listen" -"#,
            r#""request" "list" -"#,
            r#""request" "call" -"#,
            r#""request" "hello" -"#,
            r#""unknown-verb" 127 -"#,
            r#""end" - -"#,
        ],
    );
    let (file, absent, root) = (hex(path(&file)), hex(path(&absent)), hex(path(&root)));
    is(
        &["object", "to", "access", "socket", "family", "from", "rights", "bytes"],
        &[
            "- - - - - - - -",
            &format!("{file} - \"read+write\" - - - - -"),
            &format!("{absent} {file} - - - - - -"),
            &format!("{} - \"read\" - - - - -", hex(b"/outside")),
            &format!("{} - - \"seqpacket\" \"abstract\" - - -", hex(b"\0name")),
            &format!("{} - - \"datagram\" \"host\" - - -", hex(b"h\xff:53")),
            &format!("{} - - \"stream\" \"ip\" - - -", hex(b"127.0.0.1:0")),
            &format!("{} - - \"stream\" \"unix\" - - -", hex(b"/x")),
            &format!("{root} - - - - 7 - -"),
            &format!("{} - - - - - \"read\" 6", hex(b"echo")),
            "null - - - - - - -",
            "- - - - - - - -",
            "- - - - - - - -",
        ],
    );
    let denied = r#"null "refused" "denied" 13 "EACCES" "no rule is about it""#;
    is(
        &["rule", "outcome", "reason", "errno", "errno_name", "why"],
        &[
            "- - - - - -",
            r#"1 "granted" null null null null"#,
            r#"1 "refused" "failed" 2 "ENOENT" null"#,
            denied,
            denied,
            denied,
            r#"5 "granted" null null null null"#,
            denied,
            r#"1 "granted" null null null null"#,
            r#"9 "granted" null null null null"#,
            r#"null "granted" null null null null"#,
            r#"- "refused" "verb" 38 "ENOSYS" -"#,
            r#"- "fault" - - - "malformed: 7 bytes are fewer than the header's 20""#,
        ],
    );
    let Some(rules) = python(&lines, &["rule_text", "rule_place", "took_us"]) else { return };
    assert_eq!(rules[0], ["-"; 3]);
    assert_eq!(rules[1][0], format!("\"{text}\""));
    assert!(rules[1][1].starts_with("\"tests/audit.rs:"), "{:?}", rules[1]);
    assert_eq!(rules[3][..2], ["null"; 2]);
    assert!(rules[1..11].iter().all(|rule| rule[2].parse::<u64>().unwrap() < 60_000_000));
}

/// The field `object` of the last line but the end, read without Python.
fn object(lines: &str) -> Vec<u8> {
    let line = lines.lines().rfind(|line| line.contains(r#""event":"request""#)).unwrap();
    let (_, rest) = line.split_once(r#""object":""#).unwrap();
    let mut json = rest.bytes();
    // First what JSON escapes, up to the end of the string, then what the audit does.
    let mut shown = Vec::new();
    loop {
        match json.next().unwrap() {
            b'"' => break,
            b'\\' => match json.next().unwrap() {
                byte @ (b'"' | b'\\') => shown.push(byte),
                other => panic!("\\{other}: {line}"),
            },
            byte => shown.push(byte),
        }
    }
    let (mut shown, mut bytes) = (shown.into_iter(), Vec::new());
    while let Some(byte) = shown.next() {
        bytes.push(match byte {
            b'\\' => match shown.next().unwrap() {
                b't' => b'\t',
                b'r' => b'\r',
                b'n' => b'\n',
                b'x' => {
                    let digits = [shown.next().unwrap(), shown.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                quoted => quoted,
            },
            byte => byte,
        });
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// U-01, U-02: whatever bytes are asked for, they come back out of a line, which is of printable ASCII alone.
    #[test]
    fn u_01_u_02_any_bytes_come_back(
        asked in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'"'), Just(b'x'), Just(b'n'), Just(b'0')], 0..40),
            any::<String>().prop_map(String::into_bytes),
        ],
    ) {
        let memory = Memory::default();
        let (service, mut raw) = raw_of(&Broker::new().audit_to(JsonLines::new(memory.clone())), nothing());
        raw.ask(Ask::Stat(&asked)).unwrap_err();
        drop(raw);
        ended(service).unwrap();
        let lines = memory.text();
        prop_assert!(lines.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')), "{}", lines);
        prop_assert_eq!(lines.lines().count(), 3);
        prop_assert_eq!(object(&lines), asked);
    }
}

fn nothing() -> Policy {
    Policy::builder().build().unwrap()
}

/// U-02: control bytes, escape sequences, line ends of every alphabet and what is no text, in paths, hosts, names of
/// sockets and of services: no line has any of it as it came, and Python finds the exact bytes.
#[test]
fn u_02_hostile_bytes_never_reach_a_line() {
    let hostile: [&[u8]; 9] = [
        b"/a\nraw: read /etc/shadow: granted",
        b"/\x1b]0;title\x07\x1b[2J",
        b"/\r\x08\x7f\0",
        "/\u{2028}\u{2029}\u{85}\u{202e}\u{feff}".as_bytes(),
        b"/\xff\xfe\xc0\x80\xed\xa0\x80",
        b"/\",\"outcome\":\"granted\"}\n{\"x\":\"",
        b"/\\x41\\u0041\\",
        b"/\x9b31m\xc2\x9b31m",
        b"",
    ];
    let memory = Memory::default();
    let kept = Kept::default();
    let mut expected = Vec::new();
    for broker in [Broker::new().audit_to(JsonLines::new(memory.clone())), Broker::new().audit_to(kept.clone())] {
        let (service, mut raw) = raw_of(&broker, nothing());
        expected.clear();
        for bytes in hostile {
            let at = Address::Path(bytes);
            let asks = [
                Ask::Open { access: Access::READ, path: bytes },
                Ask::Rename { from: bytes, to: bytes },
                Ask::Listen(SocketType::Stream, at),
                Ask::Bind(at),
                Ask::ConnectName { socket: SocketType::Stream, host: bytes, port: 1 },
            ];
            for ask in asks {
                raw.ask(ask).unwrap_err();
                let host = matches!(ask, Ask::ConnectName { .. });
                expected.push(hex(bytes) + if host { "3a31" } else { "" });
            }
            if !bytes.is_empty() {
                raw.ask(Ask::Call { service: bytes, rights: Rights::NONE, bytes }).unwrap_err();
                raw.ask(Ask::Connect(SocketType::Stream, Address::Abstract(bytes))).unwrap_err();
                expected.extend([hex(bytes), hex(bytes)]);
            }
        }
        drop(raw);
        ended(service).unwrap();
    }
    let printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let lines = memory.text();
    assert!(lines.lines().all(printable), "{lines}");
    assert_eq!(lines.lines().count(), expected.len() + 2);
    let seen = kept.seen();
    assert_eq!(seen.len(), expected.len() + 2);
    assert!(seen.iter().all(|seen| printable(&seen.line)), "{seen:?}");
    let Some(told) = python(&lines, &["object"]) else { return };
    assert_eq!(told[1..=expected.len()].concat(), expected);
}

/// U-01, U-02: of a narrowing a record says what was to be kept and, if it was refused, what was not held, in at most
/// so many bytes.
#[test]
fn u_01_u_02_narrowings_are_told() {
    let (memory, kept) = (Memory::default(), Kept::default());
    let long = format!("/{}", "\u{e9}".repeat(20_000));
    let narrowings = [
        Narrowing::new().rights(Right::Read).paths(["/usr/a\nb"]).services(["s"]),
        Narrowing::new().paths(["/etc"]),
        Narrowing::new(),
        Narrowing::new().paths([&long]),
        Narrowing::new().paths(["/usr"].iter().chain(&["/var/a\n\u{202e}"])),
    ];
    for broker in [Broker::new().audit_to(JsonLines::new(memory.clone())), Broker::new().audit_to(kept.clone())] {
        let policy = Policy::builder().allow(Rule::beneath("/usr").read()).allow(Rule::service("s")).build().unwrap();
        let (service, mut raw) = raw_of(&broker, policy);
        let mut buffer = vec![0; MAX_MESSAGE];
        for (number, narrowing) in narrowings.iter().enumerate() {
            let answer = raw.ask(Ask::Narrow(narrowing.encode(&mut buffer).unwrap()));
            let errno = answer.err().map(|refusal| refusal.errno);
            assert_eq!(errno, [None, Some(libc::EPERM), None, Some(libc::EPERM), Some(libc::EPERM)][number]);
        }
        drop(raw);
        ended(service).unwrap();
    }
    let lines = memory.text();
    assert!(lines.lines().all(|line| line.len() < 44 << 10 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte))));
    let objects = [
        (&b"rights (read) paths (/usr/a\\nb) services (s)"[..], "null"),
        (b"paths (/etc)", "\"nothing is narrowed: not held is /etc, with all that is beneath it\""),
        (b"", "null"),
    ];
    let seen = kept.seen();
    assert!(seen[2].line.ends_with(": not held is /etc, with all that is beneath it"));
    assert!(seen[4].line.ends_with("... (cut)") && seen[4].line.len() < 19 << 10, "{}", seen[4].line.len());
    assert!(seen.iter().all(|seen| !seen.line.contains(['\n', '\u{202e}'])), "{seen:?}");
    let told = python(&lines, &["object", "why", "object_bytes"]);
    let Some(told) = told else { return };
    for (told, (object, why)) in told[1..].iter().zip(objects) {
        // Escaped one time for what it is made of, so that is what it reads as.
        let read = told[0].clone();
        let expected = std::str::from_utf8(object).unwrap().replace("\\n", "\n");
        assert_eq!((read, &*told[1]), (hex(expected.as_bytes()), why));
    }
    assert_eq!(told[4][2], (4 * 40_000 + "paths (/)".len()).to_string());
}

/// U-02: a request that is longer than any path is one record of bounded length, which says how long it was.
#[test]
fn u_02_no_line_is_longer_than_what_can_exist() {
    let long = vec![0xff; 60_000];
    let (memory, kept) = (Memory::default(), Kept::default());
    for broker in [Broker::new().audit_to(JsonLines::new(memory.clone())), Broker::new().audit_to(kept.clone())] {
        let (service, mut raw) = raw_of(&broker, nothing());
        raw.ask(Ask::Stat(&long)).unwrap_err();
        raw.ask(Ask::Stat(&long[..4096])).unwrap_err();
        raw.ask(Ask::Rename { from: &long[..30_000], to: &long[..30_000] }).unwrap_err();
        drop(raw);
        ended(service).unwrap();
    }
    let lines = memory.text();
    assert!(lines.lines().all(|line| line.len() < 44 << 10));
    let seen = kept.seen();
    assert!(seen.iter().all(|seen| seen.line.len() < 17 << 10) && seen[1].line.contains("... (cut): not granted"));
    let Some(told) = python(&lines, &["object", "object_bytes", "to", "to_bytes"]) else { return };
    let shown = hex(&long[..4096]);
    assert_eq!(told[1], [&shown, "60000", "-", "-"]);
    assert_eq!(told[2], [&shown, "-", "-", "-"]);
    assert_eq!(told[3], [&shown, "30000", &shown, "30000"]);
}

// ------------------------------------------------------------------------------------------------------------- bounds

const DENIED: Ask<'static> = Ask::Open { access: Access::READ, path: b"/etc/shadow" };

/// So many denials, a hundred in the queue at a time; every fifth hundred in a batch.
fn flood(raw: &mut Raw, hundreds: usize) {
    let (mut body, mut message) = (vec![0; MAX_MESSAGE], vec![0; MAX_MESSAGE]);
    let batch = Batch::encode([DENIED; 100], &mut body).unwrap();
    let len = Request { id: 1, ask: Ask::Batch(batch) }.encode(&mut message).unwrap();
    let mut packet = Packet::with_capacity(MAX_MESSAGE);
    for hundred in 0..hundreds {
        if hundred % 5 == 4 {
            raw.send_bytes(&message[..len]).unwrap();
            raw.channel.recv(&mut packet).unwrap();
            continue;
        }
        for _ in 0..10 {
            let ids = [(); 10].map(|()| raw.send(DENIED));
            ids.into_iter().for_each(|id| assert_eq!(refused(raw, id), libc::EACCES));
        }
    }
}

/// The errno of the next reply, which is to this request.
fn refused(raw: &mut Raw, id: u64) -> i32 {
    let reply = raw.reply().unwrap();
    assert_eq!(reply.id, id);
    reply.answer.unwrap_err().errno
}

/// U-02: a flood of denials makes no more records than the audit takes, those that are not made are counted to the last
/// one, and another worker's records are not among them.
#[test]
fn u_02_a_flood_is_bounded_and_counted() {
    const RATE: u32 = 20;
    const HUNDREDS: usize = 50;
    let kept = Kept(Arc::default(), NonZeroU32::new(RATE));
    let broker = Broker::new().audit_to(kept.clone());
    let (service, mut raw) = raw_of(&broker, nothing());
    let start = Instant::now();
    flood(&mut raw, HUNDREDS);
    // Its own bound is used up. Another worker's is not.
    let (theirs, ours) = pair();
    let other_service = broker.serve("other", theirs, nothing()).unwrap();
    let mut other = Raw::new(ours);
    (0..RATE).for_each(|_| assert_eq!(other.ask(DENIED).unwrap_err().errno, libc::EACCES));
    drop(other);
    ended(other_service).unwrap();
    flood(&mut raw, HUNDREDS);
    drop(raw);
    ended(service).unwrap();
    let most = RATE as usize * (start.elapsed().as_secs() as usize + 2);

    let (others, seen): (Vec<_>, Vec<_>) = kept.seen().into_iter().partition(|seen| seen.worker == "other");
    let what: Vec<_> = others.iter().map(|seen| &*seen.what).collect();
    assert_eq!(what[1..=RATE as usize], [&*DENIED.to_string(); RATE as usize], "none of the other's is missing");
    assert_eq!(what.len(), RATE as usize + 2);

    let count = |seen: &Seen| seen.what.strip_prefix("suppressed ").map(|n| n.parse::<usize>().unwrap());
    let (suppressed, made): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| count(seen).is_some());
    let requests = made.iter().filter(|seen| seen.what == DENIED.to_string()).count();
    let uncounted: usize = suppressed.iter().copied().filter_map(count).sum();
    assert_eq!(requests + uncounted, 2 * HUNDREDS * 100, "every request is a record or counted");
    assert!((RATE as usize..=most).contains(&requests), "{requests} records, of {most}");
    assert!(suppressed.len() <= requests + 1);
    assert_eq!(made.len(), requests + 2, "the start and the end are never suppressed");
    let last = seen[seen.len() - 2..].iter().map(|seen| &*seen.what).collect::<Vec<_>>();
    assert!(last[0].starts_with("suppressed ") && last[1] == "end: Ok(())", "{last:?}");
}

/// U-02: lines of JSON are bounded unless that is switched off, and say what is missing.
#[test]
fn u_02_lines_of_json_are_bounded_by_default() {
    let bound = |audit: &JsonLines<Memory>| Audit::records_per_second(audit);
    assert_eq!(bound(&JsonLines::new(Memory::default())), NonZeroU32::new(1_000));
    assert_eq!(bound(&JsonLines::new(Memory::default()).max_per_second(None)), None);
    let shared = Arc::new(JsonLines::new(Memory::default()).max_per_second(NonZeroU32::new(7)));
    assert_eq!(Audit::records_per_second(&shared), NonZeroU32::new(7));

    let memory = Memory::default();
    let audit = JsonLines::new(memory.clone()).max_per_second(NonZeroU32::new(10));
    let (service, mut raw) = raw_of(&Broker::new().audit_to(audit), nothing());
    flood(&mut raw, 10);
    drop(raw);
    ended(service).unwrap();
    let lines = memory.text();
    let made = lines.lines().filter(|line| line.contains(r#""event":"request""#)).count();
    let Some(told) = python(&lines, &["event", "records"]) else { return };
    let told: Vec<_> = told.iter().filter(|line| line[0] == "\"suppressed\"").collect();
    let suppressed: usize = told.iter().map(|line| line[1].parse::<usize>().unwrap()).sum();
    assert_eq!(made + suppressed, 1000);
    assert!(made < 500, "{made}");
}

/// U-02: records stand in the order of the requests, also when the worker sends many before it reads.
#[test]
fn u_02_the_order_is_that_of_the_requests() {
    let kept = Kept::default();
    let (service, mut raw) = raw_of(&Broker::new().audit_to(kept.clone()), nothing());
    let names: Vec<String> = (0..600).map(|number| format!("/{}", number * 7919 % 1009)).collect();
    for names in names.chunks(20) {
        let ids: Vec<u64> = names.iter().map(|name| raw.send(Ask::Stat(name.as_bytes()))).collect();
        ids.into_iter().for_each(|id| assert_eq!(refused(&mut raw, id), libc::EACCES));
    }
    drop(raw);
    ended(service).unwrap();
    let expected: Vec<String> = names.iter().map(|name| format!("stat {name}")).collect();
    assert_eq!(kept.what()[1..=600], expected);
}

// ----------------------------------------------------------------------------------------------- audits that go wrong

/// U-02: an audit that panics ends the service of the worker that the record is about, which is behind its reply, and
/// no other.
#[test]
fn u_02_an_audit_that_panics_ends_its_worker_alone() {
    let broker = Broker::new().audit(|record| {
        let deadly = matches!(&record.event, Event::Request { ask: Ask::Scratch, .. });
        assert!(!deadly, "as this test wants it");
    });
    let (other_service, mut other) = raw_of(&broker, nothing());
    let (service, mut raw) = raw_of(&broker, nothing());
    raw.ask(Ask::Hello).unwrap();
    assert_eq!(raw.ask(Ask::Scratch).unwrap_err().errno, libc::EACCES);
    assert!(matches!(raw.reply(), Err(ChannelError::Disconnected)));
    assert!(matches!(ended(service), Err(Fault::Panicked(_))));
    other.ask(Ask::Hello).unwrap();
    drop(other);
    ended(other_service).unwrap();
}

/// U-02: a writer that panics in the middle of a line ends that worker's service; the lines of another are whole.
#[test]
fn u_02_a_writer_that_panics_leaves_the_lines_of_others_whole() {
    struct Deadly(Memory);
    impl Write for Deadly {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.windows(9).any(|window| window == b"\"scratch\"") {
                self.0.write_all(&bytes[..20])?;
                panic!("as this test wants it");
            }
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let memory = Memory::default();
    let audit = Arc::new(JsonLines::new(Deadly(memory.clone())));
    let broker = Broker::new().audit_to(audit.clone());
    let (other_service, mut other) = raw_of(&broker, nothing());
    let (service, mut raw) = raw_of(&broker, nothing());
    assert_eq!(raw.ask(Ask::Scratch).unwrap_err().errno, libc::EACCES);
    assert!(matches!(raw.reply(), Err(ChannelError::Disconnected)));
    assert!(matches!(ended(service), Err(Fault::Panicked(_))));
    other.ask(Ask::Hello).unwrap();
    drop(other);
    ended(other_service).unwrap();
    let text = memory.text();
    let whole = text.lines().filter(|line| line.starts_with("{\"time\"") && line.ends_with('}')).count();
    assert_eq!((whole, text.lines().count()), (5, 6), "two starts, two ends, a hello; and what was torn: {text}");
}

/// U-02: an audit that blocks keeps its own worker waiting with its next request, and no other.
#[test]
fn u_02_an_audit_that_blocks_delays_its_worker_alone() {
    let (release, released) = mpsc::channel::<()>();
    let (block, blocked) = mpsc::channel();
    let (released, block) = (Mutex::new(released), Mutex::new(block));
    let broker = Broker::new().audit(move |record| {
        if matches!(&record.event, Event::Request { ask: Ask::Scratch, .. }) {
            block.lock().unwrap().send(()).unwrap();
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
    });
    let (other_service, mut other) = raw_of(&broker, nothing());
    let (service, mut raw) = raw_of(&broker, nothing());
    // A record says what has been answered.
    raw.ask(Ask::Scratch).unwrap_err();
    blocked.recv_timeout(PATIENCE).unwrap();
    raw.send(Ask::Hello);
    for _ in 0..1000 {
        other.ask(DENIED).unwrap_err();
    }
    let unanswered = raw.channel.try_recv(&mut Packet::new());
    assert!(matches!(unanswered, Err(ChannelError::WouldBlock)), "{unanswered:?}");
    release.send(()).unwrap();
    raw.reply().unwrap().answer.unwrap();
    drop((raw, other));
    ended(service).unwrap();
    ended(other_service).unwrap();
}

/// U-02: on a full disk records are lost and counted, with the reason; the worker is answered as ever.
#[test]
fn u_02_a_full_disk_is_no_trouble_of_the_worker() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let audit = Arc::new(JsonLines::new(full));
    let (service, mut raw) = raw_of(&Broker::new().audit_to(audit.clone()), nothing());
    for _ in 0..10 {
        raw.ask(Ask::Hello).unwrap();
        assert_eq!(raw.ask(DENIED).unwrap_err().errno, libc::EACCES);
    }
    drop(raw);
    ended(service).unwrap();
    assert_eq!(audit.lost(), 22, "each, and the start and the end");
    assert_eq!(audit.take_error().unwrap().raw_os_error(), Some(libc::ENOSPC));
    assert!(audit.take_error().is_none());
}

/// U-02: when nobody reads the pipe any more records are lost and counted, and no SIGPIPE ends the broker, even where
/// that is deadly; what else the process does with SIGPIPE is as before.
#[test]
fn u_02_a_closed_pipe_is_no_signal() {
    if !alone("u_02_a_closed_pipe_is_no_signal") {
        return;
    }
    default_sigpipe();
    let (reads, writes) = nix::unistd::pipe().unwrap();
    let audit = Arc::new(JsonLines::new(File::from(writes)));
    let (service, mut raw) = raw_of(&Broker::new().audit_to(audit.clone()), nothing());
    raw.ask(Ask::Hello).unwrap();
    let mut lines = io::BufReader::new(File::from(reads));
    for event in ["start", "hello"] {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains(event), "{line}");
    }
    assert_eq!(audit.lost(), 0);
    drop(lines);
    for _ in 0..10 {
        raw.ask(Ask::Hello).unwrap();
    }
    drop(raw);
    ended(service).unwrap();
    assert_eq!(audit.lost(), 11);
    assert_eq!(audit.take_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
}

/// U-02: a pipe that has no room takes the beginning of a line: the record is counted as lost, and the next that is
/// written has a line of its own.
#[test]
fn u_02_a_torn_line_is_ended_by_the_next() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (reads, writes) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
    fcntl(writes.as_fd(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let room = fcntl(writes.as_fd(), FcntlArg::F_GETPIPE_SZ).unwrap();
    let audit = Arc::new(JsonLines::new(File::from(writes)));
    let (service, mut raw) = raw_of(&Broker::new().audit_to(audit.clone()), nothing());
    let mut reads = File::from(reads);
    let mut drain = || {
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = reads.read(&mut part) {
            text.extend_from_slice(&part[..read]);
        }
        String::from_utf8(text).unwrap()
    };
    raw.ask(Ask::Hello).unwrap();
    let (mut lines, late) = (0, Instant::now() + PATIENCE);
    while lines < 2 {
        assert!(Instant::now() < late, "the record of what was answered does not come");
        lines += drain().lines().count();
    }
    if room > 16 << 10 {
        eprintln!("SKIPPED a torn line: no pipe here is smaller than {room} bytes");
        return;
    }
    raw.ask(Ask::Stat(&[0xff; 4096])).unwrap_err();
    while audit.lost() == 0 && Instant::now() < late {}
    assert_eq!(audit.lost(), 1);
    assert_eq!(audit.take_error().unwrap().kind(), io::ErrorKind::WouldBlock);
    let torn = drain();
    assert!(torn.starts_with("{\"time\"") && !torn.contains('\n') && torn.len() >= 4096, "{torn}");
    raw.ask(Ask::Hello).unwrap();
    drop(raw);
    ended(service).unwrap();
    let text = drain();
    let rest = text.strip_prefix('\n').unwrap();
    assert!(
        rest.lines().count() == 2 && rest.lines().all(|line| line.starts_with('{') && line.ends_with('}')),
        "{rest}"
    );
    assert_eq!(audit.lost(), 1);
}

/// U-02: the lines of workers that write at the same time do not mix.
#[test]
fn u_02_lines_of_workers_do_not_mix() {
    let (_keep, root) = directory();
    let file = File::options().append(true).create(true).open(root.join("log")).unwrap();
    let audit = Arc::new(JsonLines::new(file).max_per_second(None));
    let broker = Broker::new().audit_to(audit.clone());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (service, mut raw) = raw_of(&broker, nothing());
                flood(&mut raw, 5);
                drop(raw);
                ended(service).unwrap();
            });
        }
    });
    let text = fs::read_to_string(root.join("log")).unwrap();
    assert_eq!((text.lines().count(), audit.lost()), (8 * 502, 0));
    assert!(text.lines().all(|line| line.starts_with("{\"time\":") && line.matches("\"time\":").count() == 1));
    let Some(told) = python(&text, &["event"]) else { return };
    assert_eq!(told.iter().filter(|event| event[0] == "\"request\"").count(), 4000);
}

// ------------------------------------------------------------------------------------------------------------ tracing

#[cfg(feature = "tracing")]
mod tracing_events {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use fdbroker::Tracing;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record as SpanRecord};
    use tracing::{Level, Metadata, Subscriber};

    use super::*;

    #[derive(Debug, Default)]
    struct Fields(BTreeMap<&'static str, String>);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let twice = self.0.insert(field.name(), format!("{value:?}"));
            assert!(twice.is_none(), "{field}");
        }
    }

    type Events = Arc<Mutex<Vec<(Level, String, BTreeMap<&'static str, String>)>>>;

    /// Keeps events. There are no spans.
    struct Keeping(Events);

    impl Subscriber for Keeping {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &SpanRecord<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let metadata = event.metadata();
            self.0.lock().unwrap().push((*metadata.level(), metadata.target().to_owned(), fields.0));
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// U-01, U-02: events of `tracing` have the same fields, by level, without what would be null, and with nothing of
    /// the worker's as it came.
    #[test]
    fn u_01_u_02_events_of_tracing() {
        let events = Events::default();
        tracing::subscriber::set_global_default(Keeping(events.clone())).unwrap();
        let (_keep, root) = directory();
        furnish(&root);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let audit = Tracing::new().max_per_second(NonZeroU32::new(6));
        assert_eq!(Audit::records_per_second(&Tracing::new()), NonZeroU32::new(1_000));
        let (theirs, ours) = pair();
        let broker = Broker::new().audit_to(audit);
        let service = broker.serve("one\n\x1b[2J", theirs, policy(&root, &listener)).unwrap();
        let mut raw = Raw::new(ours);
        let (file, absent) = (root.join("file"), root.join("absent"));
        raw.ask(Ask::Open { access: Access::READ, path: path(&file) }).unwrap();
        raw.ask(Ask::Stat(path(&absent))).unwrap_err();
        raw.ask(Ask::Open { access: Access::READ, path: b"/a\n\x1b[2J\xff" }).unwrap_err();
        let mut unknown = vec![0; 64];
        let len = Request { id: 2, ask: Ask::Hello }.encode(&mut unknown).unwrap();
        with_verb(&mut unknown, 3, 0x7f);
        raw.send_bytes(&unknown[..len]).unwrap();
        raw.reply().unwrap().answer.unwrap_err();
        (0..200).for_each(|_| assert_eq!(raw.ask(DENIED).unwrap_err().errno, libc::EACCES));
        raw.send_bytes(b"garbage").unwrap();
        ended(service).unwrap_err();

        let events = std::mem::take(&mut *events.lock().unwrap());
        let printable = |text: &String| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        assert!(events.iter().all(|event| event.1 == "fdbroker::audit" && event.2.values().all(printable)));
        assert!(events.iter().all(|event| event.2["worker"] == "one\\n\\u{1b}[2J"), "{events:?}");
        let of = |message: &'static str| events.iter().filter(move |event| event.2["message"] == message);
        assert_eq!((events[0].0, &*events[0].2["message"]), (Level::INFO, "start"));
        let requests: Vec<_> = of("request").collect();
        let levels: Vec<_> = requests[..3].iter().map(|event| event.0).collect();
        assert_eq!(levels, [Level::DEBUG, Level::INFO, Level::WARN]);
        let is = |event: &BTreeMap<&'static str, String>, expected: &[(&str, &str)]| {
            for (field, value) in expected {
                assert_eq!(event.get(field).map(String::as_str), Some(*value), "{field}: {event:?}");
            }
            let place = event.get("rule_place").is_none_or(|place| place.starts_with("tests/audit.rs:"));
            let rest = ["message", "worker", "took_us", "rule_text", "rule_place"];
            let others = event.keys().filter(|key| !rest.contains(key)).count();
            assert!(place && others == expected.len(), "{event:?}");
        };
        let (file, absent) = (file.display().to_string(), absent.display().to_string());
        let granted =
            [("verb", "\"open\""), ("object", &file), ("access", "read"), ("rule", "1"), ("outcome", "\"granted\"")];
        is(&requests[0].2, &granted);
        let failed = [
            ("verb", "\"stat\""),
            ("object", &*absent),
            ("rule", "1"),
            ("outcome", "\"refused\""),
            ("reason", "\"failed\""),
            ("errno", "2"),
            ("errno_name", "ENOENT"),
        ];
        is(&requests[1].2, &failed);
        let denied = [
            ("verb", "\"open\""),
            ("object", "/a\\n\\x1b[2J\\xff"),
            ("access", "read"),
            ("outcome", "\"refused\""),
            ("reason", "\"denied\""),
            ("errno", "13"),
            ("errno_name", "EACCES"),
            ("why", NO_RULE),
        ];
        is(&requests[2].2, &denied);
        let unknown: Vec<_> = of("unknown-verb").collect();
        assert_eq!((unknown.len(), unknown[0].0, &*unknown[0].2["verb"]), (1, Level::WARN, "127"));
        let suppressed: usize = of("suppressed").map(|event| event.2["records"].parse::<usize>().unwrap()).sum();
        assert_eq!(requests.len() + unknown.len() + suppressed, 204);
        let end = events.last().unwrap();
        assert_eq!((end.0, &*end.2["message"], &*end.2["outcome"]), (Level::WARN, "end", "\"fault\""));
        assert_eq!(end.2["why"], "malformed: 7 bytes are fewer than the header's 20");
    }
}

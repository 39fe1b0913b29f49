//! Proves that a policy written as text is the policy that the builder makes of the same words, that what is wrong with
//! a text is told with its line and column, and that templates are replaced once, by what cannot lead elsewhere.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;
#[path = "policy_file/random.rs"]
mod random;

use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::served::{PATIENCE, client, pair};
use common::{directory, is_root, rerun, role};
use fdbroker::policy::{Place, TemplateError, Values, expand};
use fdbroker::wire::{Reason, Right};
use fdbroker::{Broker, Client, Limits, Policy, PolicyError, PolicyFile};
use random::{Draft, Random};
use serde::{Deserialize, Serialize};

/// Texts that are wrong, where, and a part of what is told.
const WRONG: &[(&str, (usize, usize), &str)] = &[
    // Not TOML.
    ("[[allow]\nfile = '/a'\n", (1, 9), "`]`"),
    ("[[allow]]\nfile = '/a\n", (2, 11), "`'`"),
    ("[[allow]]\nfile '/a'\n", (2, 6), "`=`"),
    ("[[allow]]\nfile = \n", (2, 8), "quoted"),
    ("[[allow]]\nfile = '/a'\nfile = '/b'\n", (3, 1), "duplicate"),
    ("refuse-with = 1\nrefuse-with = 2\n", (2, 1), "duplicate"),
    ("[[allow]]\nfile = \"/a\\q\"\n", (2, 12), "escape"),
    ("[[allow]]\nfile = '/a' rights = ['read']\n", (2, 13), "newline"),
    ("[limits]\n[limits]\n", (2, 2), "duplicate"),
    ("[[allow]]\nrights = ['read'", (2, 17), "`]`"),
    // Keys that nobody knows.
    ("refuse_with = 'EACCES'\n", (1, 1), "is \"refuse-with\" meant"),
    ("deny-all = true\n", (1, 1), "a policy has no key \"deny-all\": there"),
    ("\n\n  [[alow]]\nfile = '/a'\n", (3, 5), "is \"allow\" meant"),
    ("[allow]\nfile = '/a'\n", (1, 1), "there can be many: write each as"),
    ("allow.file = '/a'\n", (1, 1), "there can be many: write each as"),
    ("allow = 3\n", (1, 9), "invalid type: integer `3`, expected a list"),
    ("allow = ['/a']\n", (1, 10), "invalid type: string \"/a\", expected a rule"),
    ("[[allow]]\nfiel = '/a'\nrights = ['read']\n", (2, 1), "is \"file\" meant"),
    ("[[allow]]\nfile = '/a'\nright = ['read']\n", (3, 1), "is \"rights\" meant"),
    (
        "[[allow]]\nfile = '/a'\nrights = ['read']\n[[deny]]\nbeneath = '/a'\nreason = 'x'\n",
        (6, 1),
        "a rule has no key \"reason\": there",
    ),
    ("[[phase]]\nname = 'a'\nrules = []\n", (3, 1), "a phase has no key \"rules\": there"),
    ("[[phase]]\nname = 'a'\n[phase.allow]\nfile = '/a'\n", (3, 1), "there can be many: write each as"),
    ("[phase]\nname = 'a'\n", (1, 1), "there can be many: write each as"),
    ("[[phase]]\nname = 'a'\n[[phase.allow]]\npath = '/a'\n", (4, 1), "a rule has no key \"path\": there"),
    ("[limits]\nrequests = 4\n", (2, 1), "limits has no key \"requests\": there are"),
    // Values of the wrong type.
    ("stat-leading-directories = 'yes'\n", (1, 28), "invalid type: string \"yes\", expected a boolean"),
    ("[[allow]]\nfile = 5\nrights = ['read']\n", (2, 8), "invalid type: integer `5`, expected a string"),
    ("[[allow]]\nfile = ['/a', '/b']\nrights = ['read']\n", (2, 8), "invalid type: sequence, expected a string, or"),
    ("[[allow]]\nfile = '/a'\nrights = 'read'\n", (3, 10), "invalid type: string \"read\", expected a list"),
    ("[[allow]]\nfile = '/a'\nrights = ['read', 4]\n", (3, 19), "invalid type: integer `4`, expected a string"),
    ("[[allow]]\nfile = '/a'\nrights = ['read']\nonce = 1\n", (4, 8), "invalid type: integer `1`, expected a boolean"),
    ("[[allow]]\nconnect = 80\n", (2, 11), "invalid type: integer `80`, expected a string"),
    ("[limits]\nrequests-in-flight = 0\n", (2, 22), "0 is no limit: write a number"),
    ("[limits]\nrequests-in-flight = -1\n", (2, 22), "-1 is no limit: write a number"),
    ("[limits]\nbytes-queued = 100\n", (2, 1), "100 is no size of a queue"),
    ("[limits]\nbytes-queued = 3000000000\n", (2, 1), "3000000000 is no size of a queue"),
    ("limits = 3\n", (1, 10), "invalid type: integer `3`, expected limits: a"),
    ("[[phase]]\n[[phase.allow]]\nfile = '/a'\nrights = ['read']\n", (1, 1), "missing field `name`"),
    // Words and values that are none.
    ("refuse-with = 'EACESS'\n", (1, 15), "is \"EACCES\" meant"),
    ("refuse-with = 0\n", (1, 15), "0 is no errno: write a name"),
    ("refuse-with = 4096\n", (1, 15), "4096 is no errno: write a name"),
    ("[[allow]]\nfile = '/a'\nrights = ['read', 'raed']\n", (3, 19), "is \"read\" meant"),
    (
        "[[allow]]\nfile = '/a'\nrights = [\n  'read',\n  'execute',\n]\n",
        (5, 3),
        "\"execute\" is no right: one of read",
    ),
    ("[[allow]]\nfile = '/a'\nrights = ['Read']\n", (3, 11), "is \"read\" meant"),
    ("[[allow]]\nfile = '/a'\nrights = ['read']\nkinds = ['pipe']\n", (4, 10), "\"pipe\" is no kind of file: one"),
    (
        "[[allow]]\nfile = '/a'\nrights = ['connect']\nsockets = ['dgram']\n",
        (4, 12),
        "\"dgram\" is no type of socket: one",
    ),
    ("[[allow]]\nconnect = '10.0.0.1:80'\ntransport = 'sctp'\n", (3, 13), "\"sctp\" is no transport: one of tcp"),
    ("[[allow]]\nlisten = 'localhost:80'\n", (2, 10), "\"localhost:80\" is no IP address: write 127.0.0.1"),
    ("[[allow]]\nconnect = '10.1.0.0/8'\nports = 80\n", (2, 11), "\"10.1.0.0/8\" has bits set beyond its prefix"),
    ("[[allow]]\nconnect = '10.0.0.0/33'\nports = 80\n", (2, 11), "\"10.0.0.0/33\": what follows the slash is the"),
    ("[[allow]]\nconnect = '[::ffff:10.0.0.1]:80'\n", (2, 11), "\"[::ffff:10.0.0.1]:80\" is IPv4 in IPv6 form, whi"),
    ("[[allow]]\nconnect = '10.0.0.0/8'\nports = 65536\n", (3, 9), "65536 is no port: a port is"),
    ("[[allow]]\nconnect = '10.0.0.0/8'\nports = '90-80'\n", (3, 9), "90-80 ends before it starts: write 80-90"),
    ("[[allow]]\nconnect = '10.0.0.0/8'\nports = [80, 443]\n", (3, 9), "invalid type: sequence, expected a port or"),
    (
        "[[allow]]\nconnect-name = 'a.example'\nports = 80\nanswers-within = ['10.0.0.0/8', '10.0.0.1/8']\n",
        (4, 33),
        "\"10.0.0.1/8\" has bits set beyond its prefix",
    ),
    (
        "[[allow]]\nconnect = '10.0.0.1:80'\ntimeout = '10s'\n",
        (3, 11),
        "invalid type: string \"10s\", expected a number",
    ),
    ("[[allow]]\nconnect = '10.0.0.1:80'\ntimeout = 0\n", (3, 11), "0 is no time to wait: write"),
    ("[[allow]]\nconnect = '10.0.0.1:80'\ntimeout = nan\n", (3, 11), "NaN is no time to wait: write"),
    ("[[allow]]\nconnect = '10.0.0.1:80'\ntimeout = -1.5\n", (3, 11), "-1.5 is no time to wait: write"),
    ("[[allow]]\nfile = '/a'\nrights = ['connect']\nsockets = ['stream']\nbacklog = 5\n", (5, 1), "grants none"),
    ("[[allow]]\nfile = '/a'\nrights = ['read']\ntimeout = 5\n", (4, 1), "grants none"),
    ("[[allow]]\nfile = '/a'\nrights = ['read']\nnonblocking = true\n", (4, 1), "grants none"),
    ("[[allow]]\nlisten = '10.0.0.1:80'\nbacklog = 65536\n", (3, 11), "65536 are not connections that can wait"),
    (
        "[[allow]]\nfile = '/a'\nrights = ['create']\ncreate-mode = 640\n",
        (4, 15),
        "permission bits are octal: write them as",
    ),
    (
        "[[allow]]\nfile = '/a'\nrights = ['create']\ncreate-mode = 0x1a0\n",
        (4, 15),
        "permission bits are octal: write them as",
    ),
    (
        "[[allow]]\nfile = '/a'\nrights = ['create']\ncreate-mode = 0o4755\n",
        (4, 15),
        "2541 is more than the bits 0o777",
    ),
    (
        "[[allow]]\nfile = '/a'\nrights = ['create']\ncreate-mode = '0849'\n",
        (4, 15),
        "\"0849\" are no permission bits: write three",
    ),
    ("[[allow]]\nfile = { escaped = '/caf\\xe' }\nrights = ['read']\n", (2, 8), "a backslash begins one of \\xNN (two"),
    (
        "[[allow]]\nfile = { escaped = \"/caf\u{e9}\" }\nrights = ['read']\n",
        (2, 8),
        "bytes over 127 are escaped as \\xNN",
    ),
    ("[[allow]]\nfile = { bytes = '/a' }\nrights = ['read']\n", (2, 8), "the one key here is escaped, as"),
    ("[[allow]]\nfile = { escaped = '/a', more = 1 }\nrights = ['read']\n", (2, 8), "the one key here is escaped, as"),
    // Braces.
    ("[[allow]]\nfile = '/home/{user/a'\nrights = ['read']\n", (2, 8), "byte 7 of the path is a"),
    ("[[allow]]\nfile = '/home/user}/a'\nrights = ['read']\n", (2, 8), "byte 11 of the path is a"),
    ("[[allow]]\nbeneath = '/home/{}/a'\nrights = ['read']\n", (2, 11), "byte 7 of the path is a"),
    ("[[allow]]\nglob = '/home/{a,b}/*'\nrights = ['read']\n", (2, 8), "byte 7 of the path is a"),
    // Keys that do not go together.
    ("[[allow]]\nrights = ['read']\n", (1, 1), "it does not say what it is"),
    ("[[deny]]\n", (1, 1), "it does not say what it is"),
    ("[[allow]]\nfile = '/a'\nbeneath = '/b'\nrights = ['read']\n", (3, 1), "it is about file already: write a"),
    ("[[allow]]\nfile = '/a'\n", (1, 1), "it does not say what it grants"),
    ("[[allow]]\nfile = '/a'\nrights = []\n", (3, 1), "it grants no right: name at least"),
    ("[[allow]]\nfile = '/a'\nrights = ['create']\n", (1, 1), "the right create needs create-mode, as 0o640"),
    (
        "[[allow]]\nfile = '/a'\nrights = ['read']\ncreate-mode = 0o640\n",
        (4, 1),
        "nothing that it grants has create-mode: it",
    ),
    ("[[allow]]\nbeneath = '/a'\nrights = ['mkdir']\n", (1, 1), "the right mkdir needs mkdir-mode, as 0o640"),
    ("[[allow]]\nfile = '/a'\nrights = ['connect']\n", (1, 1), "the right connect needs sockets, as [\"stream\"]"),
    ("[[allow]]\nfile = '/a'\nrights = ['connect']\nsockets = []\n", (4, 1), "it names no type of socket: stream"),
    (
        "[[allow]]\nfile = '/a'\nrights = ['read']\nsockets = ['stream']\n",
        (4, 1),
        "nothing that it grants has sockets: it",
    ),
    (
        "[[allow]]\nfile = '/a'\nrights = ['listen']\nsockets = ['stream']\n",
        (1, 1),
        "the right listen needs socket-mode, as 0o640",
    ),
    (
        "[[allow]]\nfile = '/a'\nrights = ['listen']\nsockets = ['datagram']\nsocket-mode = 0o600\n",
        (4, 1),
        "datagram sockets do not listen: grant to",
    ),
    (
        "[[allow]]\nfile = '/a'\nrights = ['connect']\nsockets = ['stream']\nlisten-sockets = ['stream']\n",
        (5, 1),
        "nothing that it grants has listen-sockets: it",
    ),
    ("[[allow]]\nfile = '/a'\nrights = ['bind']\n", (1, 1), "the right bind needs socket-mode, as 0o640"),
    (
        "[[allow]]\nfile = '/a'\nrights = ['read']\nfollow-links-within = true\n",
        (4, 1),
        "a rule for file has no follow-links-within",
    ),
    ("[[allow]]\nfile = '/a'\nrights = ['read']\nports = 80\n", (4, 1), "a rule for file has no ports"),
    ("[[allow]]\nscratch = '/tmp'\nrights = ['write']\n", (3, 1), "a rule for scratch has no rights"),
    ("[[allow]]\nlisten = '127.0.0.1:80'\nports = 81\n", (3, 1), "the port is 80 already: write listen"),
    ("[[allow]]\nlisten = '127.0.0.0/8'\n", (1, 1), "127.0.0.0/8 needs ports: as ports = 443"),
    ("[[allow]]\nconnect = '10.0.0.1'\n", (1, 1), "10.0.0.1/32 needs ports: as ports = 443"),
    ("[[allow]]\nconnect-name = 'a.example'\n", (1, 1), "connect-name needs ports, as ports = 443"),
    ("[[allow]]\nlisten = '127.0.0.1:80'\ntransport = 'udp'\n", (3, 1), "a rule for listen has no transport"),
    (
        "[[allow]]\nlisten-abstract = 'a'\nsocket-type = 'datagram'\n",
        (3, 1),
        "datagram sockets do not listen: write bind-abstr",
    ),
    ("[[allow]]\nservice = 'pty'\nports = 80\n", (3, 1), "a rule for service has no ports"),
    ("[[deny]]\nfile = '/a'\nrights = ['read']\n", (3, 1), "a denial is of everything: it has"),
    ("[[deny]]\nfile = '/a'\nonce = true\n", (3, 1), "a denial is of everything: it has"),
    ("[[deny]]\nconnect = '10.0.0.1:80'\ntimeout = 5\n", (3, 1), "a denial is of everything: it has"),
    ("[[deny]]\nscratch = '/tmp'\n", (2, 1), "what no rule allows is not to"),
    ("[[phase]]\nname = ''\n", (2, 1), "each phase has a name of its"),
    ("[[phase]]\nname = 'a'\n[[phase]]\nname = 'a'\n", (4, 1), "each phase has a name of its"),
    (
        "[[phase]]\nname = 'a'\n[[phase]]\nname = 'b'\n[[phase.deny]]\nfile = '/a'\nrights = ['read']\n",
        (7, 1),
        "a denial is of everything: it has",
    ),
    // Columns are in characters.
    ("allow = [{ file = '/\u{e9}\u{e9}', rights = ['raed'] }]\n", (1, 36), "is \"read\" meant"),
];

/// Each of these texts is refused, at the place that is wrong, with what would be right.
#[test]
fn errors_say_where_and_what() {
    for (text, (line, column), word) in WRONG {
        let error = match PolicyFile::parse(text, "web.toml") {
            Ok(file) => panic!("{text:?} was taken for {file:?}"),
            Err(error) => error,
        };
        let told = error.to_string();
        assert!(told.starts_with(&format!("web.toml:{line}:{column}: ")), "{text:?}: {told}");
        assert!(told.contains(word), "{text:?}: {told}");
        let Place::Text { file, line: l, column: c, .. } = error.place() else { panic!("{:?}", error.place()) };
        assert_eq!((&**file, l, c), ("web.toml", line, column));
        // Nor does it come in through another format.
        if let Ok(value) = toml::from_str::<toml::Value>(text) {
            let decimal = told.contains("permission bits are octal: write them as");
            assert_eq!(PolicyFile::deserialize(value).is_ok(), decimal && text.contains("0x1a0"), "{text:?}");
        }
    }
    assert!(WRONG.len() >= 60);
}

/// What the rules say together is found when the policy is built, and both places are told.
#[test]
fn errors_of_building_name_lines() {
    let (_keep, root) = directory();
    fs::create_dir(root.join("in")).unwrap();
    let build = |text: &str| Policy::from_toml(&text.replace("ROOT", root.to_str().unwrap()), "web.toml").unwrap_err();

    let twice = "\n[[allow]]\nfile = 'ROOT/a'\nrights = ['read']\n[[phase]]\nname = 'one'\n\
                 [[phase.allow]]\nrights = ['write']\nfile = 'ROOT/a'\n";
    let error = build(twice);
    assert!(matches!(error, PolicyError::Duplicate { .. }), "{error}");
    assert!(
        error.to_string().starts_with("web.toml:7:1: ") && error.to_string().contains("at web.toml:2:1"),
        "{error}"
    );

    let both = "[[deny]]\nbeneath = 'ROOT/in'\n  [[allow]]\nbeneath = 'ROOT/in'\nrights = ['read']\n";
    let error = build(both);
    assert!(matches!(error, PolicyError::Contradiction { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("web.toml:1:1") && told.contains("web.toml:3:3"), "{told}");

    let relative = "allow = [\n  { file = 'ROOT/a', rights = ['read'] },\n  { file = 'a', rights = ['read'] },\n]\n";
    let error = build(relative);
    assert!(matches!(error, PolicyError::Path { .. }) && error.to_string().starts_with("web.toml:3:3: "), "{error}");

    let absent = "stat-leading-directories = true\n[[allow]]\nbeneath = 'ROOT/gone/here'\nrights = ['read']\n";
    let error = build(absent);
    assert!(matches!(error, PolicyError::Open { .. }) && error.to_string().starts_with("web.toml:2:1: "), "{error}");

    let inside = "[[allow]]\nbeneath = 'ROOT'\nrights = ['read']\nfollow-links-within = true\n\
                  [[deny]]\nbeneath = 'ROOT/in'\n";
    let error = build(inside);
    let told = error.to_string();
    assert!(told.starts_with("web.toml:1:1: ") && told.contains("web.toml:5:1"), "{told}");

    let unknown = "[[allow]]\nfile = '/home/{user}/a'\nrights = ['read']\n";
    let error = build(unknown);
    assert!(matches!(error, PolicyError::Text(_)) && error.to_string().starts_with("web.toml:1:1: file: "), "{error}");
}

/// A rule that is built of a text is called by the line where it stands, and knows its phase and what it says.
#[test]
fn rules_are_listed_as_they_are_written() {
    let text = "[[deny]]\nbeneath = '/etc/ssl'\n\n[[allow]]\nbeneath = '/etc'\nrights = ['read', 'list']\n\
                [[phase]]\nname = 'one'\n[[phase.allow]]\nconnect = '10.0.0.0/8'\nports = 80\n\
                [[phase]]\nname = 'two'\n[[phase.allow]]\nfile = '/etc/{name}'\nrights = ['stat']\n";
    let file = PolicyFile::parse(text, "web.toml").unwrap();
    let policy = file.builder(&Values::new().with("name", "fstab").unwrap()).unwrap().build().unwrap();
    let written: Vec<_> = file
        .rules()
        .map(|rule| {
            let rights: Vec<_> = rule.rights().iter().map(Right::name).collect();
            let path = rule.path().map(|path| path.display().to_string()).unwrap_or_default();
            (rule.place().to_string(), rule.phase(), rule.denies(), rule.object(), path, rights.join(" "))
        })
        .collect();
    let row = |place: &str, phase, denies, object, path: &str, rights: &str| {
        (format!("web.toml:{place}:1"), phase, denies, object, path.to_owned(), rights.to_owned())
    };
    let wanted = [
        row("4", None, false, "beneath", "/etc", "read list"),
        row("1", None, true, "beneath", "/etc/ssl", ""),
        row("9", Some("one"), false, "connect", "", ""),
        row("14", Some("two"), false, "file", "/etc/{name}", "stat"),
    ];
    assert_eq!(written, wanted);
    let built: Vec<_> = policy.rules().map(|rule| (rule.text().to_owned(), rule.place().to_string())).collect();
    let places = written.iter().map(|(place, ..)| place);
    assert!(built.iter().map(|(_, place)| place).eq(places), "{built:?}");
    assert_eq!(built[3].0, "allow file /etc/fstab: stat");
    assert_eq!(policy.phases().collect::<Vec<_>>(), ["one", "two"]);
}

/// M-08: a policy made by the builder, and the same one written as text, parsed, copied, serialised and parsed again,
/// in TOML and as another format's tables, decide alike on every request, by the same rule and on the same terms, in
/// each phase; or none of them can be built, for the same reason.
#[test]
fn m_08_policies_written_copied_and_parsed_decide_alike() {
    let (_keep, root) = directory();
    random::make_tree(&root);
    let (mut built, mut asked, mut granted) = (0, 0, 0);
    for seed in 0..1500 {
        let mut random = Random::new(seed);
        let draft = Draft::new(&mut random, &root);
        let file =
            PolicyFile::parse(&draft.text, "a").unwrap_or_else(|error| panic!("{seed}: {error}\n{}", draft.text));
        let again = PolicyFile::parse(&file.to_toml(), "b").unwrap_or_else(|error| panic!("{seed}: {error}"));
        let value = toml::Value::try_from(&file).unwrap();
        let other = PolicyFile::deserialize(value).unwrap_or_else(|error| panic!("{seed}: {error}\n{}", draft.text));
        assert!(again == file && other == file && file.clone() == file, "{seed}\n{}\n{}", draft.text, file.to_toml());
        let copies = [&file, &file.clone(), &again, &other].map(|file| file.builder(&Values::new()).unwrap().build());
        let wanted = draft.builder.clone().build();
        let policy = match wanted {
            Ok(policy) => policy,
            Err(error) => {
                for copy in copies {
                    let told = copy.map(drop).unwrap_err();
                    assert_eq!(random::kind(&told), random::kind(&error), "{seed}: {told}, {error}");
                }
                continue;
            }
        };
        built += 1;
        let copies = copies.map(|copy| copy.unwrap_or_else(|error| panic!("{seed}: {error}\n{}", draft.text)));
        let all: Vec<_> = std::iter::once(policy).chain(copies).map(fdbroker::policy::Standing::new).collect();
        let phases: Vec<String> = all[0].policy().phases().map(str::to_owned).collect();
        for (n, phase) in phases.iter().enumerate() {
            if n > 0 {
                all.iter().for_each(|standing| standing.enter(phase).unwrap());
            }
            for _ in 0..40 {
                let question = random.question(&draft, &root);
                let ask = question.ask();
                let answers: Vec<_> = all.iter().map(|standing| random::answer(standing, &ask)).collect();
                asked += 1;
                granted += usize::from(answers[0].starts_with("granted"));
                for answer in &answers[1..] {
                    assert_eq!(answer, &answers[0], "{seed}, {phase}, {ask}\n{}", draft.text);
                }
            }
        }
    }
    eprintln!("{built} policies of 1500 were built; {granted} of {asked} requests were granted");
    assert!(built > 400 && granted > asked / 20, "{built} {granted} {asked}");
}

/// Every key of the documentation is one that files have, and the other way round; and serde knows the same ones.
#[test]
fn keys_are_those_of_the_documentation() {
    let documented = include_str!("../src/policy/text/mod.rs");
    let cases = [("", ""), ("[[allow]]\n", "allow"), ("[[phase]]\nname = 'a'\n", "phase"), ("[limits]\n", "limits")];
    for (table, name) in cases {
        let text = format!("{table}zzz = 1\n");
        let told = PolicyFile::parse(&text, "f").unwrap_err();
        let (_, known) = told.message().split_once("there are ").unwrap();
        let mut known: Vec<&str> = known.split(", ").collect();
        let serde = toml::from_str::<PolicyFile>(&text).unwrap_err();
        let (_, words) = serde.message().split_once("expected ").unwrap();
        let mut words: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
        known.sort_unstable();
        words.sort_unstable();
        assert_eq!(known, words, "{name}");
        for key in known {
            let rows = documented.lines().filter(|line| line.starts_with("/// | ") && line.contains(key));
            assert!(rows.count() > 0, "{key} of {name} is not documented");
        }
    }
}

/// The limits of a file are those that the builder of limits makes, and the default where nothing is said.
#[test]
fn limits_are_read() {
    let text = "[limits]\nrequests-in-flight = 4\nbytes-queued = 65536\nrequests-per-second = 100\n\
                descriptors-outstanding = 9\n";
    let number = |number| NonZeroU32::new(number).unwrap();
    let wanted = Limits::new()
        .requests_in_flight(number(4))
        .bytes_queued(65536)
        .requests_per_second(number(100))
        .descriptors_outstanding(number(9));
    assert_eq!(PolicyFile::parse(text, "f").unwrap().limits(), wanted);
    assert_eq!(PolicyFile::parse("", "f").unwrap().limits(), Limits::new());
}

/// A daemon's configuration has a policy as a field. Where the format keeps no lines, rules are named by their numbers.
#[test]
fn a_policy_is_part_of_a_configuration() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Config {
        port: u16,
        policy: PolicyFile,
    }
    let text = "port = 80\n[[policy.allow]]\nfile = '/etc/hostname'\nrights = ['read']\n\
                [[policy.allow]]\nfile = '/etc/hostname'\nrights = ['stat']\n";
    let config: Config = toml::from_str(text).unwrap();
    assert_eq!(config.policy.rules().map(|rule| rule.place().clone()).collect::<Vec<_>>(), [1, 2].map(Place::Position));
    let error = config.policy.builder(&Values::new()).unwrap().build().unwrap_err().to_string();
    assert!(error.starts_with("rule 2: ") && error.contains("rule 1"), "{error}");
    assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);

    let wrong = "port = 80\n[[policy.allow]]\nfile = '/etc/hostname'\nrights = ['raed']\n";
    let error = toml::from_str::<Config>(wrong).unwrap_err();
    assert_eq!(error.span().map(|span| &wrong[span]), Some("'raed'"));
    let wrong = "port = 80\n[[policy.allow]]\nfile = '/etc/hostname'\nrights = ['create']\n";
    let error = toml::from_str::<Config>(wrong).unwrap_err().to_string();
    assert!(error.contains("allow 1: the right create needs create-mode"), "{error}");
}

/// The example to copy is right, and has every kind of table.
#[test]
fn the_example_is_a_policy() {
    let text = include_str!("../examples/policy.toml");
    let file = PolicyFile::parse(text, "examples/policy.toml").unwrap_or_else(|error| panic!("{error}"));
    let values = Values::new().with("user", "alice").unwrap();
    file.builder(&values).unwrap();
    assert!(file.rules().any(|rule| rule.denies()) && file.rules().any(|rule| rule.phase().is_some()));
    assert_ne!(file.limits(), Limits::new());
    assert!(PolicyFile::parse(&file.to_toml(), "again").unwrap() == file);
}

/// M-13: a path that is not UTF-8 is written with escapes, as audit records show it, in a string of single quotes; its
/// bytes reach the kernel as they are, and are serialised as they were.
#[test]
fn m_13_paths_of_any_bytes_are_written_with_escapes() {
    let (_keep, root) = directory();
    let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for name in [&every[..128], &every[128..], b"caf\xe9", b"{}", b"\\x41", b"'\""] {
        let path = root.join(OsStr::from_bytes(name));
        if let Err(error) = fs::write(&path, name) {
            eprintln!("SKIPPED {}: {error}", name.escape_ascii());
            continue;
        }
        let doubled = path.as_os_str().as_bytes().escape_ascii().to_string().replace('{', "{{").replace('}', "}}");
        // In single quotes nothing is escaped, so that a quote is written as its number.
        let text =
            format!("[[allow]]\nrights = ['read']\nfile = {{ escaped = '{}' }}\n", doubled.replace("\\'", "\\x27"));
        let file = PolicyFile::parse(&text, "f").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let again = PolicyFile::parse(&file.to_toml(), "g").unwrap();
        assert!(file == again, "{text}\n{}", file.to_toml());
        for file in [file, again] {
            assert_eq!(expand(file.rules().next().unwrap().path().unwrap(), &Values::new()).unwrap(), path);
            let (_service, client) = client(file.builder(&Values::new()).unwrap().build().unwrap());
            assert_eq!(fs::read(&path).unwrap(), name);
            let mut read = Vec::new();
            std::io::Read::read_to_end(&mut client.read(&path).unwrap(), &mut read).unwrap();
            assert_eq!(read, name);
        }
    }
}

/// M-11: what a value may be: one plain component, or a part of one; and what stands in a template.
#[test]
fn m_11_values_are_plain_components() {
    let long = "a".repeat(256);
    for wrong in ["", ".", "..", "a/b", "/", "a\0b", "*", "a?", &long] {
        let error = Values::new().with("user", wrong).unwrap_err();
        assert!(matches!(error, TemplateError::Value { .. }), "{wrong:?}: {error}");
    }
    for wrong in ["", "a b", "{", "a}", "a/b", "\u{e9}"] {
        assert!(matches!(Values::new().with(wrong, "x"), Err(TemplateError::Name(_))), "{wrong:?}");
    }
    let values = Values::new().with("user", "alice").unwrap().with("odd", OsStr::from_bytes(b"{user}\xff..")).unwrap();
    let rows: [(&str, &[u8]); 6] = [
        ("/home/{user}", b"/home/alice"),
        ("/{user}{user}/x{user}.d", b"/alicealice/xalice.d"),
        ("/{odd}/a", b"/{user}\xff../a"),
        ("/{{user}}", b"/{user}"),
        ("/{{{user}}}", b"/{alice}"),
        ("/plain", b"/plain"),
    ];
    for (template, wanted) in rows {
        assert_eq!(expand(template, &values).unwrap().as_os_str().as_bytes(), wanted, "{template}");
    }
    for (template, position) in [("/{", 2), ("/a}", 3), ("/{}", 2), ("/{a b}", 2), ("/{user}}", 8), ("/{{{", 4)] {
        assert_eq!(expand(template, &values), Err(TemplateError::Stray { position }), "{template}");
    }
    let error = expand("/{usr}", &values).unwrap_err().to_string();
    assert!(error.contains("{usr}") && error.contains("{odd}, {user}"), "{error}");
}

/// M-11: a policy's template is replaced once, when the worker starts. Whatever the worker then does to its own name
/// and uid, it is granted what was meant for it at its start, and nothing of another's.
#[test]
fn m_11_templates_are_replaced_once() {
    const NAME: &str = "m_11_templates_are_replaced_once";
    let tree = std::env::var_os("FDBROKER_TEST_TREE").map(PathBuf::from);
    if let (Some(_), Some(root)) = (role(), tree) {
        return becomes_bob(&root);
    }
    let (_keep, root) = directory();
    for user in ["alice", "bob", "{user}"] {
        fs::create_dir(root.join(user)).unwrap();
        fs::write(root.join(user).join("mail"), user).unwrap();
        fs::write(root.join(user).join("key"), user).unwrap();
    }
    let text = "[[allow]]\nbeneath = 'ROOT/{user}'\nrights = ['read']\n\
                [[deny]]\nglob = 'ROOT/{user}/k*'\n";
    let file = PolicyFile::parse(&text.replace("ROOT", root.to_str().unwrap()), "f").unwrap();
    let policy = file.builder(&Values::new().with("user", "alice").unwrap()).unwrap().build().unwrap();

    let (theirs, ours) = pair();
    let service = Broker::new().serve("alice", theirs, policy).unwrap();
    let mut worker = rerun(NAME, "worker");
    worker
        .env("FDBROKER_TEST_TREE", &root)
        .env("USER", "alice")
        .stdin(Stdio::from(ours.as_fd().try_clone_to_owned().unwrap()));
    drop(ours);
    common::passes(worker);
    service.wait().unwrap();
}

fn becomes_bob(root: &Path) {
    nix::unistd::alarm::set(u32::try_from(PATIENCE.as_secs()).unwrap());
    let client = Client::from_stdin().unwrap();
    let sees_alice_alone = || {
        assert_eq!(std::io::read_to_string(client.read(root.join("alice/mail")).unwrap()).unwrap(), "alice");
        for path in ["alice/key", "bob/mail", "bob/key", "{user}/mail", "alice/../bob/mail"] {
            let refusal = client.read(root.join(path)).unwrap_err().refusal();
            assert!(refusal.is_none_or(|refusal| refusal.reason == Reason::Denied), "{path}: {refusal:?}");
        }
    };
    sees_alice_alone();
    nix::sys::prctl::set_name(c"bob").unwrap();
    sees_alice_alone();
    if is_root() {
        nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
        sees_alice_alone();
    } else {
        eprintln!("SKIPPED the change of uid: only root can");
    }
}

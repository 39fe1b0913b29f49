//! Proves what the program `fdbroker` does, with workers of its own: this test's program, in the sandbox.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;
#[path = "cli/sandbox.rs"]
mod sandbox;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::served::{PATIENCE, Reaped, within};
use common::{directory, is_root, role};
use fdbroker::{Client, ClientError};
use tempfile::TempDir;

/// The program: where it was built, or beside this test's where that was copied.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let beside = here.parent().unwrap().join("bin/fdbroker");
    if beside.exists() { beside } else { env!("CARGO_BIN_EXE_fdbroker").into() }
}

/// The program, as no terminal and no test's caller changes it.
fn fdbroker() -> Command {
    let mut command = Command::new(program());
    command.stdin(Stdio::null());
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

fn output(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
    let mut child = Reaped(child);
    let (mut out, mut err) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        err.read_to_end(&mut text).unwrap();
        text
    });
    let mut stdout = Vec::new();
    out.read_to_end(&mut stdout).unwrap();
    let status = within(PATIENCE, &mut child.0);
    Output { status, stdout, stderr: reader.join().unwrap() }
}

/// Exit status, standard output, standard error.
fn ran(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = output(command);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// A command that ends with this test's program as the worker, in the role.
fn with_worker(mut command: Command, role: &str, policy: Option<&Path>, at: &Path) -> Command {
    command.arg("--env").arg(format!("FDBROKER_TEST_ROLE={role}")).arg("--env");
    command.arg([OsStr::new("WHERE="), at.as_os_str()].concat_os());
    command.args(policy).arg("--").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "worker", "--nocapture", "--test-threads=1"]);
    command
}

trait ConcatOs {
    fn concat_os(&self) -> std::ffi::OsString;
}

impl ConcatOs for [&OsStr] {
    fn concat_os(&self) -> std::ffi::OsString {
        self.iter().copied().collect()
    }
}

fn run(audit: &str, role: &str, policy: &Path, at: &Path) -> Command {
    let mut command = fdbroker();
    command.args(["run", "--audit", audit]);
    with_worker(command, role, Some(policy), at)
}

/// The workers.
#[test]
fn worker() {
    let Some(role) = role() else { return };
    let at = PathBuf::from(std::env::var_os("WHERE").unwrap());
    let client = || Client::from_stdin().expect("a broker");
    match &*role {
        "asks" => {
            let client = client();
            assert!(fs::File::open(at.join("a")).is_err(), "it can open files itself");
            let mut text = String::new();
            client.read(at.join("a")).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "what a says");
            assert_eq!(errno(client.read(at.join("secret"))), libc::EACCES);
            assert_eq!(errno(client.read(at.join("absent"))), libc::ENOENT);
            assert_eq!(errno(client.read(at.join("\x1b[31m"))), libc::ENOENT);
            std::process::exit(7);
        }
        "waits" => {
            println!("it waits");
            loop {
                std::thread::park();
            }
        }
        "raves" => {
            let socket = std::os::fd::AsRawFd::as_raw_fd(&std::io::stdin().as_fd());
            nix::sys::socket::send(socket, b"no request", nix::sys::socket::MsgFlags::empty()).unwrap();
            loop {
                std::thread::park();
            }
        }
        "confined" => sandbox::confined(&at),
        "limits" => sandbox::limits(),
        "makes a socket" => sandbox::make_a_socket(),
        #[cfg(feature = "learn")]
        "trace" => {
            learning::trace(&client(), &at).expect("all of it is granted");
            std::process::exit(0);
        }
        other => panic!("no role {other}"),
    }
}

fn errno<T>(answer: Result<T, ClientError>) -> i32 {
    match answer {
        Err(ClientError::Refused { refusal, .. }) => refusal.errno,
        Err(other) => panic!("{other}"),
        Ok(_) => 0,
    }
}

/// A directory with a few files, for every user to read, and a policy about it.
fn scene(policy: &str) -> (TempDir, PathBuf, PathBuf) {
    let (guard, at) = directory();
    for name in ["a", "secret"] {
        fs::write(at.join(name), format!("what {name} says")).unwrap();
    }
    let file = at.join("policy.toml");
    fs::write(&file, policy.replace("AT", at.to_str().unwrap())).unwrap();
    (guard, at, file)
}

const POLICY: &str = r#"[[allow]]
beneath = "AT"
rights = ["read"]

[[deny]]
file = "AT/secret"
"#;

/// U-01: of each request one line, with its rule and errno, aligned and escaped; and the worker's status.
#[test]
fn u_01_run_serves_a_worker_and_ends_as_it_does() {
    let (_guard, at, policy) = scene(POLICY);
    let (status, _, said) = ran(&mut run("human", "asks", &policy, &at));
    assert_eq!(status, 7, "{said}");
    let line = |begins: &str| {
        let mut found = said.lines().filter(|line| line.starts_with(begins));
        let line = found.next().unwrap_or_else(|| panic!("no line {begins} in {said}")).to_owned();
        assert!(found.next().is_none(), "two lines {begins} in {said}");
        line
    };
    let at = at.display();
    let place = policy.display();
    assert!(line(&format!("granted  read {at}/a ")).contains(&format!("rule 1 ({place}:1:1)")));
    let refused = line(&format!("refused  read {at}/secret "));
    assert!(refused.contains("EACCES: a rule denies it") && refused.contains(&format!("rule 2 ({place}:5:1)")));
    assert!(line(&format!("failed   read {at}/absent ")).contains("ENOENT"));
    line(&format!("failed   read {at}/\\x1b[31m "));
    assert!(!said.contains('\x1b'), "colours in a pipe, or the worker's bytes: {said}");
}

/// U-01: the same as JSON, a line each, which Python reads.
#[test]
fn u_01_run_writes_json_lines() {
    let (_guard, at, policy) = scene(POLICY);
    let (status, _, said) = ran(&mut run("json", "asks", &policy, &at));
    assert_eq!(status, 7, "{said}");
    let script = "import json, sys\nrecords = [json.loads(line) for line in sys.stdin]\n\
                  print([(r['outcome'], r['rule'], r['errno_name']) for r in records if r['event'] == 'request' and r['verb'] == 'open'])";
    let Some(read) = python(script, &said) else { return };
    assert_eq!(
        read.trim(),
        "[('granted', 1, None), ('refused', 2, 'EACCES'), ('refused', 1, 'ENOENT'), ('refused', 1, 'ENOENT')]"
    );
    let (status, _, said) = ran(&mut run("none", "asks", &policy, &at));
    assert!(status == 7 && said.is_empty(), "{said}");
}

/// A worker that is no Rust, of examples/worker.py: what it is granted is what `explain` says.
#[test]
fn run_serves_a_worker_in_python() {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        return eprintln!("SKIPPED: no {}", python.display());
    }
    let (_guard, at, policy) = scene(POLICY);
    let requests: Vec<String> = ["read a", "write a", "read secret", "stat a", "append secret"]
        .map(|request| request.replace(' ', &format!(" {}/", at.display())))
        .into();
    let mut command = fdbroker();
    command.args(["run", "--audit", "none"]).arg(&policy).arg("--").arg(python);
    command.args(["-I", "-c", include_str!("../examples/worker.py")]).args(&requests);
    let (status, said, error) = ran(&mut command);
    assert_eq!(status, 0, "{said}{error}");
    for request in &requests {
        let granted = said.contains(&format!("{request}: granted: "));
        let refused = said.contains(&format!("{request}: refused: denied EACCES"));
        let (explained, ..) = ran(fdbroker().arg("explain").arg(&policy).arg(request));
        assert_eq!((granted, refused), (explained == 0, explained == 1), "{request}: {said}");
    }
}

/// What Python makes of it; `None` where there is no Python.
fn python(script: &str, input: &str) -> Option<String> {
    let started = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => Reaped(child),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "python3: {error}");
            eprintln!("SKIPPED: python3: {error}");
            return None;
        }
    };
    child.0.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let mut text = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().success(), "python3 did not read: {input}");
    Some(text)
}

/// Signals are passed on to the worker, and its death by one is told as shells tell it.
#[test]
fn run_passes_signals_on() {
    let (_guard, at, policy) = scene(POLICY);
    let mut command = run("none", "waits", &policy, &at);
    let mut child = Reaped(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it waits")), "the worker did not start");
    let pid = nix::unistd::Pid::from_raw(child.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().code(), Some(128 + libc::SIGTERM));
}

/// A worker that sends what is no request is killed.
#[test]
fn run_kills_a_worker_that_breaks_the_rules() {
    let (_guard, at, policy) = scene(POLICY);
    let (status, _, said) = ran(&mut run("none", "raves", &policy, &at));
    assert_eq!(status, 128 + libc::SIGKILL, "{said}");
    assert!(said.contains("fdbroker: the worker is killed: "), "{said}");
}

/// What cannot be started is an error of the program's own.
#[test]
fn run_says_what_it_could_not_start() {
    let (_guard, _at, policy) = scene(POLICY);
    for (program, words) in
        [("no-such-program", "there is no such program in PATH"), ("/no/such", "opening the program")]
    {
        let (status, _, said) = ran(fdbroker().arg("run").arg(&policy).args(["--", program]));
        assert!(status == 2 && said.starts_with("fdbroker: ") && said.contains(words), "{said}");
    }
}

/// Root says who the worker is.
#[test]
fn run_starts_the_worker_as_another_user() {
    if !is_root() {
        return eprintln!("SKIPPED: only root can start a worker as another user");
    }
    let (_guard, _at, policy) = scene(POLICY);
    let id = ["--", "/usr/bin/id"];
    let (status, said, error) =
        ran(fdbroker().args(["run", "--audit", "none", "--user", "4321"]).arg(&policy).args(id));
    assert!(status == 0 && said.contains("uid=4321") && said.contains("gid=4321"), "{said}{error}");
}

/// A terminal gets colours unless NO_COLOR is set, and a pipe none.
#[test]
fn colours_are_for_terminals() {
    let (_guard, _at, policy) = scene(POLICY);
    let check = format!("'{}' check '{}'", program().display(), policy.display());
    let terminal = |no_color: bool| {
        let mut script = Command::new("script");
        script.args(["-qec", &check, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
        script.env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
        // Its user's shell can be one that runs nothing, or complains of the locale.
        script.env("SHELL", "/bin/sh").env("LC_ALL", "C");
        if no_color {
            script.env("NO_COLOR", "1");
        }
        script
    };
    if let Err(error) = Command::new("script").arg("--version").output() {
        assert!(std::env::var_os("CI").is_none(), "script: {error}");
        return eprintln!("SKIPPED: script(1): {error}");
    }
    let (_, said, _) = ran(&mut terminal(false));
    assert!(said.contains("\x1b[") && said.contains("it loads"), "{said:?}");
    let (_, said, _) = ran(&mut terminal(true));
    assert!(!said.contains("\x1b[") && said.contains("it loads"), "{said:?}");
    let (_, said, _) = ran(fdbroker().arg("check").arg(&policy));
    assert!(!said.contains('\x1b') && said.contains("it loads"), "{said:?}");
}

/// What is wrong is said with file, line and column.
#[test]
fn errors_say_where() {
    let (_guard, at, policy) = scene("[[allow]]\nbeneth = \"AT\"\n");
    let begins = |commands: &[&str], begin: String| {
        let (status, out, said) = ran(fdbroker().args(commands));
        assert!(status == 2 && out.is_empty() && said.starts_with(&begin), "{commands:?}: {status} {said}");
    };
    let name = policy.to_str().unwrap();
    for command in [&["check", name][..], &["explain", name, "read", "/x"], &["run", name, "--", "/bin/true"]] {
        begins(command, format!("fdbroker: {name}:2:1: a rule has no key \"beneth\": is \"beneath\" meant?"));
    }
    fs::write(&policy, format!("[[allow]]\nbeneath = \"{}/none\"\nrights = [\"read\"]\n", at.display())).unwrap();
    begins(&["check", name], format!("fdbroker: {name}:1:1: rule for "));
    begins(&["check", "/no/such/file"], "fdbroker: /no/such/file: No such file".to_owned());
    begins(&["check", "--set", "user=../x", name], "fdbroker: --set: the value \"../x\" for {user}".to_owned());
    begins(&["explain", name, "devour", "/x"], "fdbroker: \"devour\" is nothing to ask for".to_owned());
    let (status, said, _) = ran(fdbroker().args(["check", "--json", name]));
    let Some(read) = python("import json, sys; d = json.load(sys.stdin); print(d['loads'], d['error'])", &said) else {
        return;
    };
    assert!(status == 2 && read.starts_with(&format!("False {name}:1:1: ")), "{read}");
}

/// Values are put into templates.
#[test]
fn templates_have_the_values_that_are_set() {
    let (_guard, at, policy) = scene("[[allow]]\nfile = \"AT/{name}\"\nrights = [\"read\"]\n");
    let explain = |path: &str| {
        let mut command = fdbroker();
        command.args(["explain", "--set", "name=a"]).arg(&policy).arg("read").arg(at.join(path));
        ran(&mut command).0
    };
    assert_eq!((explain("a"), explain("secret")), (0, 1));
}

/// The table and the warnings: each kind of warning for what it is about, and none for what is in order.
#[test]
fn check_warns_of_what_deserves_a_look() {
    let (_guard, at, policy) = scene(
        r#"
[[allow]]
beneath = "/etc"
rights = ["read"]
[[allow]]
file = "/etc/fdbroker-test"
rights = ["write", "create"]
create-mode = 0o644
[[allow]]
connect = "0.0.0.0/0"
ports = 443
[[allow]]
file = "AT/absent"
rights = ["read"]
[[allow]]
beneath = "AT/open"
rights = ["list", "directory-escape"]
[[allow]]
glob = "AT/closed/*.nothing"
rights = ["read"]
[[allow]]
file = "AT/closed"
rights = ["read"]
[[deny]]
file = "/usr/nothing"
"#,
    );
    fs::create_dir(at.join("open")).unwrap();
    fs::create_dir(at.join("closed")).unwrap();
    fs::set_permissions(at.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let check = &["check", "--worker-uid", "4321"];
    let (status, said, error) = ran(fdbroker().args(check).arg(&policy));
    let place = policy.display();
    assert!(error.is_empty(), "{error}");
    for (line, name, rule) in [
        (2, "too-wide", 1),
        (5, "writes-programs", 2),
        (9, "too-wide", 3),
        (12, "absent", 4),
        (15, "writable", 5),
        (15, "directory-escape", 5),
        (18, "no-match-now", 6),
        (21, "wrong-kind", 7),
        (24, "never-matches", 8),
    ] {
        let begin = format!("{place}:{line}:1: warning[{name}]: rule {rule}: ");
        assert_eq!(said.lines().filter(|line| line.starts_with(&begin)).count(), 1, "{begin} in {said}");
    }
    assert_eq!(status, 0);
    let (status, json, _) = ran(fdbroker().args(["check", "--deny-warnings", "--json"]).arg(&policy));
    assert_eq!(status, 1);
    let script = "import json, sys; d = json.load(sys.stdin); print(d['loads'], len(d['rules']), \
                  d['rules'][1]['rights'], sorted({w['name'] for w in d['warnings']}))";
    if let Some(read) = python(script, &json) {
        let names = "['absent', 'directory-escape', 'never-matches', 'no-match-now', 'too-wide', 'writable', \
                     'writes-programs', 'wrong-kind']";
        assert_eq!(read.trim(), format!("True 8 ['write', 'create'] {names}"));
    }
}

/// Columns begin where their headings do; a policy that is in order has no warning.
#[test]
fn check_shows_the_rules_in_columns() {
    let (_guard, at, policy) = scene(POLICY);
    // What is above the policy is not this test's: a directory of the worker's own user would be warned of.
    let (status, said, error) = ran(fdbroker().args(["check", "--deny-warnings", "--worker-uid", "4321"]).arg(&policy));
    assert_eq!(status, 0, "{said}{error}");
    let lines: Vec<&str> = said.lines().take(3).collect();
    let [heading, first, second] = lines[..] else { panic!("{said}") };
    for (column, one, other) in [
        ("effect", "allow", "deny"),
        ("object", &*format!("beneath {}", at.display()), &*format!("file {}/secret", at.display())),
        ("rights", "read", "-"),
        ("place", policy.to_str().unwrap(), policy.to_str().unwrap()),
    ] {
        let start = heading.find(column).unwrap();
        assert!(first[start..].starts_with(one) && second[start..].starts_with(other), "{column}: {said}");
    }
    assert!(said.contains("\nit loads: 2 rules, 0 warnings\n"), "{said}");
}

/// The worker's own user is warned of, and others' are not.
#[test]
fn check_warns_of_directories_of_the_workers_user() {
    let (_guard, at, policy) = scene("[[allow]]\nbeneath = \"AT\"\nrights = [\"read\"]\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&at).unwrap());
    if owner == 0 {
        std::os::unix::fs::chown(&at, Some(4321), Some(4321)).unwrap();
    }
    let owner = if owner == 0 { 4321 } else { owner };
    let above = fs::metadata(at.parent().unwrap()).unwrap().permissions().mode();
    let sticky = above & 0o1002 == 0o1002;
    let warned = |uid: u32| {
        let (_, said, _) = ran(fdbroker().args(["check", "--worker-uid", &uid.to_string()]).arg(&policy));
        let itself =
            format!("warning[writable]: rule 1: {} can be written to by the worker's user ({uid})", at.display());
        // In a sticky directory, as the temporary one mostly is, who owns a name can rename it.
        let above = format!("above {} can be written to by ", at.display());
        assert_eq!(said.contains(&itself), said.contains(&above) || !sticky, "{said}");
        said.contains(&itself)
    };
    assert_eq!((warned(owner), warned(owner + 1)), (true, false));
}

const EXPLAINED: &str = r#"[[allow]]
beneath = "AT"
rights = ["read"]

[[allow]]
file = "AT/a"
rights = ["read", "stat"]

[[allow]]
connect = "10.0.0.0/8"
ports = "1-100"

[[deny]]
file = "AT/secret"

[[phase]]
name = "first"

[[phase.allow]]
scratch = "AT"

[[phase]]
name = "second"
"#;

/// Which rule decides, which others there are, and the exit status.
#[test]
fn explain_says_which_rule_decides() {
    let (_guard, at, policy) = scene(EXPLAINED);
    let at = at.display();
    let script = "import json, sys; d = json.load(sys.stdin)\n\
                  print(d['allowed'], [r['number'] for r in d['rules']], [r['number'] for r in d['others']], d['errno'])";
    for (request, status, read) in [
        (format!("read {at}/a"), 0, "True [2] [1] None"),
        (format!("read {at}/b/c"), 0, "True [1] [] None"),
        (format!("read+write {at}/a"), 1, "False [2] [1] 13"),
        (format!("read {at}/secret"), 1, "False [4] [1] 13"),
        (format!("rename {at}/a {at}/secret"), 1, "False [4] [1, 2] 13"),
        ("connect 10.1.2.3:53".to_owned(), 0, "True [3] [] None"),
        ("connect udp 10.1.2.3:53".to_owned(), 1, "False [] [] 13"),
        ("connect [::ffff:10.1.2.3]:53".to_owned(), 1, "False [] [] 13"),
        ("connect db.example.org:5432".to_owned(), 1, "False [] [] 13"),
        ("scratch".to_owned(), 0, "True [5] [] None"),
        ("call pty".to_owned(), 1, "False [] [] 13"),
        ("listen 127.0.0.1:80".to_owned(), 1, "False [] [] 13"),
        ("read ../etc".to_owned(), 1, "False [] [] 13"),
    ] {
        let (code, json, error) = ran(fdbroker().args(["explain", "--json"]).arg(&policy).args(request.split(' ')));
        assert_eq!(code, status, "{request}: {json}{error}");
        let Some(said) = python(script, &json) else { return };
        assert_eq!(said.trim(), read, "{request}: {json}");
    }
    let later = |args: &[&str]| ran(fdbroker().arg("explain").args(args).arg(&policy).arg("scratch")).0;
    assert_eq!((later(&["--phase", "first"]), later(&["--phase", "second"]), later(&["--phase", "third"])), (0, 1, 2));
    let (_, said, _) = ran(fdbroker().args(["explain", "--phase", "second"]).arg(&policy).arg("scratch"));
    assert!(
        said.contains("only an earlier phase grants it") && said.contains("write rule 5 outside of the phases"),
        "{said}"
    );
}

/// To do what it advises is to be allowed it; what it does not advise, no rule allows.
#[test]
fn explain_advises_what_helps() {
    let (_guard, at, _) = scene("");
    let written = EXPLAINED.replace("AT", at.to_str().unwrap());
    let at = at.display();
    let script = "import json, sys; d = json.load(sys.stdin)['advice']\n\
                  print(d['allows'])\n\
                  for s in d['steps']: print('@', s['do'], s['rule'] or '', sep='|'); print(s['toml'] or '', end='')";
    for request in [
        format!("write {at}/a"),
        format!("read+write {at}/deep/b"),
        format!("create {at}/new"),
        format!("mkdir {at}/new"),
        format!("list {at}"),
        format!("read {at}/secret"),
        format!("append {at}/secret"),
        format!("rename {at}/a {at}/secret"),
        format!("rename {at}/x {at}/y"),
        format!("stat {at}/{{braces}}"),
        format!("stat {at}/caf\\xe9"),
        format!("listen {at}/socket"),
        format!("connect seqpacket {at}/socket"),
        format!("bind {at}/socket"),
        "connect @name".to_owned(),
        "listen 127.0.0.1:80".to_owned(),
        "bind [::1]:0".to_owned(),
        "connect udp 10.1.2.3:53".to_owned(),
        "connect 10.1.2.3:101".to_owned(),
        "connect udp db.example.org:5432".to_owned(),
        "call pty read".to_owned(),
    ] {
        let (guard, here) = directory();
        let policy = here.join("policy.toml");
        fs::write(&policy, &written).unwrap();
        let explain = || ran(fdbroker().args(["explain", "--json"]).arg(&policy).args(request.split(' ')));
        let (status, json, error) = explain();
        assert_eq!(status, 1, "{request}: {json}{error}");
        let Some(advice) = python(script, &json) else { return };
        let (allows, steps) = advice.split_once('\n').unwrap();
        assert_eq!(allows, "True", "{request}: {json}");
        fs::write(&policy, followed(&written, steps)).unwrap();
        let (status, json, error) = explain();
        assert_eq!(status, 0, "{request}, after {steps}: {json}{error}");
        drop(guard);
    }
    for request in ["read relative", "connect [::ffff:192.0.2.1]:80", "read+truncate /x", "listen datagram @name"] {
        let (status, json, error) = ran(fdbroker().args(["explain", "--json", "-", request]));
        assert_eq!(status, 1, "{request}: {error}");
        let Some(advice) = python(script, &json) else { return };
        assert_eq!(advice.trim(), "False", "{request}: {json}");
    }
}

/// The policy with the steps taken.
fn followed(written: &str, steps: &str) -> String {
    // In the order of their numbers: those that always hold, and those that allow before those that deny.
    let mut parts: Vec<String> = written.split("\n\n").map(str::to_owned).collect();
    let numbered: Vec<usize> = (0..parts.len()).filter(|n| !parts[*n].starts_with("[[phase]]")).collect();
    for step in steps.split("@|").filter(|step| !step.is_empty()) {
        let (head, toml) = step.split_once('\n').unwrap();
        let (what, rule) = head.split_once('|').unwrap();
        let at = rule.parse::<usize>().ok().map(|number| numbered[number - 1]);
        match (what, at) {
            ("add", None) => parts.push(toml.to_owned()),
            ("remove", Some(at)) => parts[at] = String::new(),
            ("replace", Some(at)) => {
                let head = parts[at].lines().next().unwrap().to_owned();
                parts[at] = format!("{head}\n{toml}");
            }
            other => panic!("{other:?} in {steps}"),
        }
    }
    parts.join("\n\n")
}

/// Completions that bash reads, and some for other shells; all name the commands.
#[test]
fn completions_are_for_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, said, _) = ran(fdbroker().args(["completions", shell]));
        let missing = ["run", "sandbox", "check", "explain", "worker-uid", "if-available"]
            .into_iter()
            .find(|word| !said.contains(word));
        assert!(status == 0 && missing.is_none(), "{shell}: {missing:?}");
        // Names, where a shell's completions have the values of options.
        let values = ["cgroup-namespace", "processes", "standard"];
        assert!(matches!(shell, "elvish" | "powershell") || values.iter().all(|value| said.contains(value)), "{shell}");
        if shell == "bash" {
            let (_guard, at) = directory();
            fs::write(at.join("completions"), &said).unwrap();
            // A locale that is not installed is none of its complaints.
            let (status, _, error) = ran(Command::new("bash").arg("-n").arg(at.join("completions")).env("LC_ALL", "C"));
            assert!(status == 0 && error.is_empty(), "{error}");
        }
    }
}

/// A page that groff finds nothing wrong with, with a section for each command.
#[test]
fn the_manual_page_is_one() {
    let (status, page, _) = ran(fdbroker().arg("man"));
    assert_eq!(status, 0);
    for command in ["RUN", "SANDBOX", "CHECK", "EXPLAIN", "COMPLETIONS", "MAN"] {
        assert!(page.contains(&format!("\n.SH \"COMMAND {command}\"\n")), "{command}: {page}");
    }
    assert!(page.contains("deny\\-warnings") && !page.contains(".SH EXTRA"));
    let (_guard, at) = directory();
    fs::write(at.join("fdbroker.1"), &page).unwrap();
    let groff = Command::new("groff").args(["-man", "-Tascii", "-ww", "-P-cbou"]).arg(at.join("fdbroker.1")).output();
    match groff {
        Ok(groff) => {
            let (text, wrong) = (String::from_utf8_lossy(&groff.stdout), String::from_utf8_lossy(&groff.stderr));
            assert!(wrong.is_empty() && text.contains("EXPLAIN"), "{wrong}");
        }
        Err(error) => eprintln!("SKIPPED: groff: {error}"),
    }
}

/// That its reader has seen enough is no failure, and no panic.
#[test]
fn a_reader_that_is_gone_is_no_failure() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let mut child = Reaped(fdbroker().arg("man").stdout(writer).stderr(Stdio::piped()).spawn().unwrap());
    assert!(child.wait().success());
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

/// U-03: without the feature there is no command that grants what no rule allows.
#[cfg(not(feature = "learn"))]
#[test]
fn u_03_without_the_feature_nothing_learns() {
    let (status, _, said) = ran(fdbroker().args(["learn", "--output", "/dev/null", "--", "/bin/true"]));
    assert!(status == 2 && said.contains("unrecognized subcommand 'learn'"), "{said}");
    assert!(!ran(fdbroker().arg("--help")).1.contains("learn"));
    assert!(!fdbroker::Policy::builder().build().unwrap().is_learning());
}

#[cfg(feature = "learn")]
mod learning {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What the worker does, with every right that a path can have. The same twice, if the directory is.
    pub(super) fn trace(client: &Client, at: &Path) -> Result<(), ClientError> {
        client.hello()?;
        client.read(at.join("a"))?;
        client.open_options().read(true).write(true).open(at.join("secret"))?;
        client.open_options().write(true).truncate(true).open(at.join("emptied"))?;
        client.append(at.join("log"))?;
        client.create(at.join("new"))?;
        client.rename(at.join("new"), at.join("renamed"))?;
        client.mkdir(at.join("made"))?;
        client.create(at.join("made/inside"))?;
        client.stat(at.join("made/inside"))?;
        client.unlink(at.join("made/inside"))?;
        client.rmdir(at.join("made"))?;
        client.list(at)?;
        client.stat(at.join("a"))?;
        client.readlink(at.join("link"))?;
        client.read("/dev/null")?;
        client.write("/dev/null")?;
        client.open_options().read(true).nonblocking(true).open(at.join("fifo"))?;
        client.scratch()?;
        client.listen("127.0.0.1:0".parse().unwrap())?;
        client.bind("127.0.0.1:0".parse().unwrap())?;
        client.connect_udp("127.0.0.1:9".parse().unwrap())?;
        let listener = client.unix_listen(at.join("socket"))?;
        client.unix_connect(at.join("socket"))?;
        drop(listener);
        client.read(at.join("caf\u{e9}{}"))?;
        Ok(())
    }

    /// The same in the words of `explain`.
    fn words(at: &Path) -> Vec<String> {
        let at = at.display();
        [
            "read AT/a",
            "read+write AT/secret",
            "write+truncate AT/emptied",
            "append AT/log",
            "create AT/new",
            "rename AT/new AT/renamed",
            "mkdir AT/made",
            "create AT/made/inside",
            "stat AT/made/inside",
            "unlink AT/made/inside",
            "rmdir AT/made",
            "list AT",
            "stat AT/a",
            "readlink AT/link",
            "read /dev/null",
            "write /dev/null",
            "read+nonblocking AT/fifo",
            "scratch",
            "listen 127.0.0.1:0",
            "bind 127.0.0.1:0",
            "connect udp 127.0.0.1:9",
            "listen AT/socket",
            "connect AT/socket",
            "read AT/caf\u{e9}{}",
        ]
        .map(|words| words.replace("AT", &at.to_string()))
        .into()
    }

    fn scene() -> (TempDir, PathBuf) {
        let (guard, above) = directory();
        let at = above.join("scene");
        fs::create_dir(&at).unwrap();
        for name in ["a", "secret", "emptied", "log", "caf\u{e9}{}"] {
            fs::write(at.join(name), "something").unwrap();
        }
        symlink("a", at.join("link")).unwrap();
        nix::unistd::mkfifo(&at.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        (guard, at)
    }

    /// As it was before the trace.
    fn again(at: &Path) {
        fs::remove_file(at.join("renamed")).unwrap();
        let _ = fs::remove_file(at.join("socket"));
    }

    fn learn(at: &Path, output: &Path, policy: Option<&Path>) -> (i32, String, String) {
        let mut command = fdbroker();
        command.arg("learn").arg("--output").arg(output);
        ran(&mut with_worker(command, "trace", policy, at))
    }

    /// U-03: with the feature, it says loudly what it does.
    #[test]
    fn u_03_learning_is_said_loudly() {
        let (_guard, at) = scene();
        let (status, _, said) = learn(&at, &at.join("../learnt.toml"), None);
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("fdbroker: LEARNING: EVERYTHING THAT NO RULE DENIES IS GRANTED TO worker\n"), "{said}");
        assert!(ran(fdbroker().args(["learn", "--help"])).1.contains("GRANTED EVERYTHING"));
    }

    /// U-04: what was learnt loads, and grants the same; without any rule or right of it, something of that is refused.
    #[test]
    fn u_04_what_is_learnt_is_enough_and_no_more() {
        let (_guard, at) = scene();
        let learnt = at.join("../learnt.toml");
        let (status, _, said) = learn(&at, &learnt, None);
        assert!(status == 0 && !said.contains("does not load"), "{said}");
        again(&at);
        let (status, _, said) = ran(&mut run("human", "trace", &learnt, &at));
        assert_eq!(status, 0, "{said}\n{}", fs::read_to_string(&learnt).unwrap());
        assert!(said.contains("granted  read /dev/null") && !said.contains("LEARNING"), "{said}");

        let text = fs::read_to_string(&learnt).unwrap();
        let less = at.join("../less.toml");
        let refused = || {
            let asked = |words: &String| ran(fdbroker().arg("explain").arg(&less).args(words.split(' ')));
            words(&at)
                .iter()
                .filter(|words| {
                    let (status, said, error) = asked(words);
                    assert!(status < 2, "{words}: {said}{error}\n{}", fs::read_to_string(&less).unwrap());
                    status == 1
                })
                .count()
        };
        fs::write(&less, &text).unwrap();
        assert_eq!(refused(), 0, "{text}");
        let rules: Vec<&str> = text.split("[[allow]]\n").skip(1).collect();
        assert!(rules.len() > 15, "{text}");
        let mut tried = 0;
        for n in 0..rules.len() {
            for changed in fewer(rules[n]) {
                let mut others: Vec<String> = rules.iter().map(|rule| format!("[[allow]]\n{rule}")).collect();
                others[n] = changed;
                fs::write(&less, others.concat()).unwrap();
                assert!(refused() > 0, "nothing is missing without {}", rules[n]);
                tried += 1;
            }
        }
        eprintln!("{} rules, {tried} policies with less", rules.len());
    }

    /// The rule taken away, and with each of its rights taken away if it has several.
    fn fewer(rule: &str) -> Vec<String> {
        let mut fewer = vec![String::new()];
        let Some(line) = rule.lines().find(|line| line.starts_with("rights = ")) else { return fewer };
        let rights: Vec<&str> = line["rights = [".len()..line.len() - 1].split(", ").collect();
        for right in rights.iter().filter(|_| rights.len() > 1) {
            let left: Vec<&str> = rights.iter().copied().filter(|other| other != right).collect();
            let goes_with = |line: &&str| match line.split(' ').next().unwrap() {
                "create-mode" => *right != "\"create\"",
                "mkdir-mode" => *right != "\"mkdir\"",
                "socket-mode" | "listen-sockets" => *right != "\"listen\"",
                "sockets" => *right != "\"connect\"",
                _ => true,
            };
            let rest: Vec<&str> = rule.lines().filter(goes_with).collect();
            fewer.push(
                format!("[[allow]]\n{}\n", rest.join("\n")).replace(line, &format!("rights = [{}]", left.join(", "))),
            );
        }
        fewer
    }

    /// U-04: what a policy denies is refused while learning too, and is not learnt; its modes are kept.
    #[test]
    fn u_04_denials_hold_while_learning() {
        let (_guard, at) = scene();
        let denials = at.join("../denials.toml");
        fs::write(&denials, format!("[[deny]]\nfile = \"{}/a\"\n", at.display())).unwrap();
        let (status, _, said) = learn(&at, &at.join("../learnt.toml"), Some(&denials));
        assert_ne!(status, 0, "{said}");
        assert!(!fs::read_to_string(at.join("../learnt.toml")).unwrap().contains("/a\""), "{said}");
        let modes = at.join("../modes.toml");
        let text = format!(
            "[[allow]]\nfile = \"{}/new\"\nrights = [\"create\", \"rename\"]\ncreate-mode = 0o640\n",
            at.display()
        );
        fs::write(&modes, text).unwrap();
        let (status, _, said) = learn(&at, &at.join("../learnt.toml"), Some(&modes));
        let learnt = fs::read_to_string(at.join("../learnt.toml")).unwrap();
        assert!(
            status == 0 && learnt.contains("/new\"\nrights = [\"create\", \"rename\"]\ncreate-mode = 0o640\n"),
            "{said}{learnt}"
        );
    }
}

//! `fdbroker sandbox`, and the options that it shares with `fdbroker run`.

use std::ffi::OsString;
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use fdbroker::{Enforced, Host, Layer, Limit, Mode, Preset, Refusal, Sandbox, Word};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockname;
use nix::unistd::Pid;

use super::*;

const CAT: &str = "/bin/cat";
const SHELL: &str = "/bin/sh";

fn sandbox() -> Command {
    let mut command = fdbroker();
    command.arg("sandbox");
    command
}

/// With something to read.
fn fed(command: &mut Command, input: &[u8]) -> (i32, String, String) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    ran(command.stdin(file))
}

/// This test's program, in the role.
fn program_in_role(options: &[&str], role: &str) -> (i32, String, String) {
    let (_guard, at) = directory();
    fs::write(at.join("a"), "what a says").unwrap();
    ran(&mut with_worker(with(options), role, None, &at))
}

fn with(options: &[&str]) -> Command {
    let mut command = sandbox();
    command.args(options);
    command
}

/// What the library says would hold.
fn enforced(sandbox: Sandbox) -> Enforced {
    sandbox.prepare().unwrap().enforced().clone()
}

/// What this host lacks, if anything.
fn lacking() -> Option<(Layer, String)> {
    let host = Host::probe();
    let lack = host.layers().find_map(|(layer, state)| Some((layer, state.err()?.to_owned())));
    if lack.is_none() {
        eprintln!("SKIPPED: this host lacks no layer");
    }
    lack
}

fn joined(name: &str) -> String {
    name.replace(' ', "-")
}

/// Role: what a program in it finds. It has no channel.
pub(super) fn confined(at: &Path) {
    let is_open = |number: &i32| getsockname::<()>(*number) != Err(Errno::EBADF);
    let open: Vec<i32> = (0..1024).filter(is_open).collect();
    assert_eq!(open, [0, 1, 2], "descriptors");
    assert!(fs::File::open(at.join("a")).is_err(), "it can open files itself");
    assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err(), "it can make sockets");
    assert!(nix::sys::prctl::get_no_new_privs().unwrap());
    assert!(!nix::unistd::geteuid().is_root());
    println!("in {}", std::env::current_dir().unwrap().display());
    std::process::exit(7);
}

/// Role: its limits, in the order of the library's.
pub(super) fn limits() {
    println!();
    for resource in [
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_SIGPENDING,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_CPU,
    ] {
        let (soft, hard) = getrlimit(resource).unwrap();
        assert_eq!(soft, hard, "{resource:?}");
        println!("limit {soft}");
    }
    std::process::exit(0);
}

/// Role: what the filter refuses.
pub(super) fn make_a_socket() {
    let refused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
    println!("refused: {refused}");
    std::process::exit(0);
}

/// The program's input and output are the caller's; on standard error stands, before it starts, what the library says
/// will hold, in columns, and without colours in a pipe.
#[test]
fn sandbox_shows_what_holds_and_runs_a_program() {
    for preset in Preset::ALL {
        let (status, said, shown) = fed(sandbox().args(["--preset", preset.name(), "--", CAT]), b"from the caller\n");
        assert_eq!((status, &*said), (0, "from the caller\n"), "{shown}");
        let holds = enforced(Sandbox::new(CAT).preset(preset));
        let mut lines = shown.lines();
        let heading = lines.next().unwrap();
        let [second, third] = ["holds", "what it is"].map(|column| heading.find(column).unwrap());
        for (layer, state) in holds.layers() {
            let line = lines.next().unwrap();
            assert_eq!(line[..second].trim(), layer.name(), "{shown}");
            assert_eq!(line[second..third].trim(), if state.is_ok() { "yes" } else { "NO" }, "{shown}");
            // The library's own sandbox has a channel.
            if layer != Layer::Descriptors {
                assert_eq!(&line[third..], state.unwrap_or_else(|why| why), "{shown}");
            } else {
                assert_eq!(&line[third..], "0, 1, 2", "{shown}");
            }
        }
        let outcome = lines.nth(1).unwrap();
        let whole = format!("it is whole: preset {preset}, {} layers", holds.layers().count());
        assert_eq!(outcome == whole, holds.is_full(), "{shown}");
        assert!(holds.is_full() || outcome.starts_with(&format!("it is not whole: preset {preset}, without ")));
        assert!(lines.next().is_none() && !shown.contains('\x1b'), "{shown}");
    }
}

/// It has no channel and nothing of its own, and its exit status is this program's.
#[test]
fn sandbox_confines_a_program_that_knows_nothing_of_it() {
    for preset in Preset::ALL {
        let mut options = vec!["--preset", preset.name()];
        if is_root() {
            options.extend(["--user", "4321"]);
        }
        let (status, said, shown) = program_in_role(&options, "confined");
        assert!(status == 7 && said.contains("in /\n"), "{said}{shown}");
        assert_eq!(shown.contains("uid 4321, gid 4321, no groups"), is_root(), "{shown}");
    }
}

/// What is shown as JSON is one document, with the same in it as the library's; with --dry-run on standard output, and
/// nothing runs.
#[test]
fn sandbox_writes_json() {
    let script = "import json, sys; d = json.load(sys.stdin)\n\
                  print(d['program'], d['preset'], d['whole'])\n\
                  for l in d['layers'][1:]: print(l['layer'], l['enforced'], l['detail'], sep='|')";
    let holds = enforced(Sandbox::new(CAT).preset(Preset::Full).allow(Word::Files));
    let capital = |is: bool| if is { "True" } else { "False" };
    let mut wanted = format!("{CAT} full {}\n", capital(holds.is_full()));
    for (layer, state) in holds.layers().skip(1) {
        wanted += &format!("{layer}|{}|{}\n", capital(state.is_ok()), state.unwrap_or_else(|why| why));
    }
    let options = ["--preset", "full", "--allow", "files", "--json"];
    let (status, said, shown) = fed(sandbox().args(options).args(["--", CAT]), b"input");
    assert_eq!((status, &*said), (0, "input"), "{shown}");
    let Some(read) = python(script, &shown) else { return };
    assert_eq!(read, wanted);
    let (status, said, error) = fed(sandbox().args(options).args(["--dry-run", "--", CAT]), b"input");
    assert_eq!((status, &*error), (0, ""), "{said}");
    assert_eq!(python(script, &said), Some(wanted));
    let (status, said, error) = fed(sandbox().args(["--dry-run", "--", CAT]), b"input");
    assert!(status == 0 && error.is_empty() && said.starts_with("layer ") && !said.contains("input"), "{said}{error}");
}

/// A terminal gets colours unless NO_COLOR is set, and the columns stand where they do without.
#[test]
fn sandbox_has_colours_on_a_terminal() {
    let run = format!("'{}' sandbox --dry-run -- {CAT}", program().display());
    let terminal = |no_color: bool| {
        let mut script = Command::new("script");
        script.args(["-qec", &run, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
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
    let (_, plain, _) = ran(sandbox().args(["--dry-run", "--", CAT]));
    let (_, coloured, _) = ran(&mut terminal(false));
    let (_, uncoloured, _) = ran(&mut terminal(true));
    let green_yes = coloured.contains("\x1b[1m\x1b[32myes\x1b[0m");
    assert!(green_yes, "{coloured:?}");
    assert_eq!(uncoloured.replace("\r\n", "\n"), plain);
    assert_eq!(without_colours(&coloured).replace("\r\n", "\n"), plain);
    // What is not there stands out, and its reason stands back.
    if let Some((layer, _)) = enforced(Sandbox::new(CAT)).layers().find(|(_, state)| state.is_err()) {
        let line = coloured.lines().find(|line| line.starts_with(layer.name())).unwrap();
        assert!(line.contains("\x1b[1m\x1b[31mNO\x1b[0m") && line.contains("\x1b[2m"), "{line:?}");
    }
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// As shells have it: the program's own status, or 128 and its signal; 2 if there was none to run.
#[test]
fn sandbox_ends_as_its_program_does() {
    for wanted in [0, 1, 99] {
        let (status, _, shown) = ran(sandbox().args(["--", SHELL, "-c", &format!("exit {wanted}")]));
        assert_eq!(status, wanted, "{shown}");
    }
    let (_guard, at) = directory();
    let output = fs::File::create(at.join("output")).unwrap();
    let mut input = fs::File::create_new(at.join("input")).unwrap();
    input.write_all(&[b'x'; 100_000]).unwrap();
    let mut command = sandbox();
    command.args(["--limit", "file-size=4k", "--", CAT]).stdin(fs::File::open(at.join("input")).unwrap());
    let mut child = Reaped(command.stdout(output).stderr(Stdio::piped()).spawn().unwrap());
    let mut shown = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut shown).unwrap();
    assert_eq!(child.wait().code(), Some(128 + libc::SIGXFSZ));
    let last = shown.lines().next_back().unwrap();
    assert!(last.starts_with("fdbroker: the program has ended: ") && last.contains("limit on file size"), "{last}");
    assert_eq!(fs::metadata(at.join("output")).unwrap().len(), 4096);
    for (program, words) in
        [("no-such-program", "there is no such program in PATH"), ("/no/such", "opening the program")]
    {
        let (status, said, error) = ran(sandbox().args(["--", program]));
        assert!(status == 2 && said.is_empty() && error.starts_with("fdbroker: ") && error.contains(words), "{error}");
    }
}

/// What no word allows fails, or ends the program; that is said, with the system call where the kernel tells it.
#[test]
fn sandbox_refuses_in_two_ways() {
    let (status, said, shown) = program_in_role(&["--refuse", "errno"], "makes a socket");
    assert!(status == 0 && said.contains("refused: ") && !shown.contains("has ended"), "{said}{shown}");
    let tells = |shown: &str, beginning: &str| {
        let line = shown.lines().next_back().unwrap();
        let named = if filters_can_notify() { "socket (" } else { "" };
        assert!(line.starts_with(beginning) && line.contains(named), "{shown}");
        line.to_owned()
    };
    let killed = [128 + libc::SIGKILL, 128 + libc::SIGSYS];
    let (status, said, shown) = program_in_role(&["--refuse", "kill"], "makes a socket");
    assert!(killed.contains(&status) && !said.contains("refused: "), "{status} {said}");
    tells(&shown, "fdbroker: the program has ended: ");
    let (status, _, shown) = program_in_role(&["--refuse", "kill", "--json"], "makes a socket");
    assert!(killed.contains(&status), "{status}");
    let line = tells(&shown, "{\"event\":\"death\",");
    let event = "import json, sys; d = json.load(sys.stdin); print(d['event'], d['death']['reason'])";
    if filters_can_notify() {
        assert!(python(event, &line).is_none_or(|read| read == "death system-call\n"), "{line}");
    }
    let (_guard, at, policy) = scene(POLICY);
    for (audit, beginning) in [("none", "fdbroker: the worker has ended: "), ("json", "{\"event\":\"death\",")] {
        let mut command = fdbroker();
        command.args(["run", "--audit", audit, "--refuse", "kill"]);
        let (status, _, shown) = ran(&mut with_worker(command, "makes a socket", Some(&policy), &at));
        assert!(killed.contains(&status), "{status}");
        tells(&shown, beginning);
    }
}

fn filters_can_notify() -> bool {
    let (_, said, _) = ran(&mut with(&["--probe"]));
    said.contains("the broker is told which one it was")
}

/// Each signal that is passed on ends the program, as it does without a sandbox; the first process of a PID namespace,
/// too.
#[test]
fn sandbox_passes_signals_on() {
    // SIGHUP and SIGINT may be ignored already, as by nohup(1), or in the background.
    for (preset, signal) in [
        (Preset::Floor, Signal::SIGTERM),
        (Preset::Standard, Signal::SIGUSR1),
        (Preset::Standard, Signal::SIGUSR2),
        (Preset::Full, Signal::SIGTERM),
    ] {
        let (_guard, at) = directory();
        let mut command = with_worker(with(&["--preset", preset.name()]), "waits", None, &at);
        let mut child = Reaped(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("it waits")), "the program did not start");
        kill(Pid::from_raw(child.0.id().try_into().unwrap()), signal).unwrap();
        let is_first = enforced(Sandbox::this_program().preset(preset)).has(Layer::PidNamespace);
        let by = if is_first { Signal::SIGKILL } else { signal };
        assert_eq!(child.wait().code(), Some(128 + by as i32), "{preset} {signal}");
    }
}

/// A program that handles a signal, or ignores it, does so in every preset.
#[test]
fn sandbox_leaves_signals_to_a_program_that_handles_them() {
    const SCRIPT: &str = "trap 'exit 5' TERM; trap '' USR1; echo ready; read line; echo read $line";
    for (preset, signal, wanted) in Preset::ALL
        .into_iter()
        .flat_map(|preset| [(preset, Signal::SIGTERM, (5, "")), (preset, Signal::SIGUSR1, (0, "read on\n"))])
    {
        let mut command = with(&["--preset", preset.name(), "--", SHELL, "-c", SCRIPT]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Reaped(command.spawn().unwrap());
        let mut input = child.0.stdin.take().unwrap();
        let mut output = BufReader::new(child.0.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill(Pid::from_raw(child.0.id().try_into().unwrap()), signal).unwrap();
        if signal == Signal::SIGUSR1 {
            input.write_all(b"on\n").unwrap();
        }
        let status = child.wait().code();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!((status, &*rest), (Some(wanted.0), wanted.1), "{preset} {signal}");
    }
}

/// The end of this program is that of the one in it: nobody is left to hold its output open.
#[test]
fn sandbox_leaves_nothing_behind() {
    let (_guard, at) = directory();
    let mut command = with_worker(sandbox(), "waits", None, &at);
    let mut child = Reaped(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it waits")), "the program did not start");
    child.0.kill().unwrap();
    child.wait();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(lines.count()));
    told.recv_timeout(PATIENCE).expect("the program is still there");
}

/// Nobody need read what is shown.
#[test]
fn sandbox_needs_no_reader_of_what_it_shows() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let mut child =
        Reaped(sandbox().args(["--", SHELL, "-c", "echo ran"]).stdout(Stdio::piped()).stderr(writer).spawn().unwrap());
    assert!(child.wait().success());
    let mut said = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "ran\n");
}

/// A name that is none is an error that lists those there are; so is what is no number.
#[test]
fn options_with_unknown_names_list_the_known_ones() {
    let layers: Vec<_> = Layer::ALL.iter().map(|layer| joined(layer.name())).collect();
    let words: Vec<_> = Word::ALL.iter().map(|word| word.name().to_owned()).collect();
    let presets: Vec<_> = Preset::ALL.iter().map(|preset| preset.name().to_owned()).collect();
    let limits: Vec<_> = Limit::ALL.iter().map(|limit| limit.name().to_owned()).collect();
    let refusals: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.name().to_owned()).collect();
    for (option, value, names) in [
        ("--preset", "strict", &presets),
        ("--require", "lanlock", &layers),
        ("--require", "landlock,rot", &layers),
        ("--if-available", "Landlock", &layers),
        ("--off", "", &layers),
        ("--allow", "everything", &words),
        ("--without", "exec,exce", &words),
        ("--refuse", "ask", &refusals),
        ("--limit", "time=1", &limits),
        ("--limit", "memory", &vec!["NAME=VALUE".to_owned()]),
        ("--limit", "memory=", &vec!["no number of memory".to_owned()]),
        ("--limit", "memory=-1", &vec!["no unit \"-1\"".to_owned()]),
        ("--limit", "memory=1.5G", &vec!["no unit \".5G\"".to_owned()]),
        ("--limit", "memory=1kB", &vec!["k, M, G and T".to_owned()]),
        ("--limit", "memory=18014398509481984k", &vec!["more than there can be".to_owned()]),
        ("--limit", "cpu-time=1k", &vec!["seconds of processor time".to_owned()]),
    ] {
        for command in [&["sandbox"][..], &["run"]] {
            let (status, said, error) = ran(fdbroker().args(command).args([option, value, "--", CAT]));
            assert!(status == 2 && said.is_empty(), "{command:?} {option} {value}: {status} {said}");
            assert!(error.contains(option), "{error}");
            let missing: Vec<_> = names.iter().filter(|name| !error.contains(*name)).collect();
            assert!(missing.is_empty(), "{missing:?} in {error}");
        }
    }
    for (options, words) in [
        (&["--off", "landlock", "--require", "landlock"][..], "layer \"landlock\" is said to be required, and off"),
        (&["--allow", "exec", "--without", "exec"], "--allow exec and --without exec"),
        (&["--off", "descriptors"], "layer \"descriptors\" is required"),
    ] {
        let (status, said, error) = ran(with(options).args(["--", CAT]));
        assert!(status == 2 && said.is_empty() && error.contains(words), "{error}");
    }
    for options in [&["--probe", "--", CAT][..], &["--probe", "--dry-run"], &["--list", "--json"], &[]] {
        let (status, said, error) = ran(&mut with(options));
        assert!(status == 2 && said.is_empty() && error.contains("Usage: "), "{options:?}: {said}{error}");
    }
}

/// Layers by name, in each form of it: required, if available, off.
#[test]
fn options_choose_layers() {
    let shown = |options: &[&str]| {
        let (status, said, error) = ran(with(options).args(["--dry-run", "--json", "--", CAT]));
        assert_eq!(status, 0, "{options:?}: {error}");
        said
    };
    let has = |shown: &str, layer: Layer| shown.contains(&format!("\"layer\": \"{layer}\""));
    let floor = shown(&["--preset", "floor"]);
    assert!(has(&floor, Layer::Limits) && !has(&floor, Layer::UtsNamespace), "{floor}");
    for written in ["uts-namespace", "uts namespace"] {
        let more = shown(&["--preset", "floor", "--if-available", written]);
        assert!(has(&more, Layer::UtsNamespace), "{more}");
    }
    let less = shown(&["--off", "limits,uts-namespace", "--off", "die-with-parent"]);
    for layer in [Layer::Limits, Layer::UtsNamespace, Layer::DieWithParent] {
        assert!(!has(&less, layer), "{layer}: {less}");
    }
    assert!(has(&shown(&["--require", "no-new-privs"]), Layer::NoNewPrivs));
}

/// What is required and not to be had is an error with the reason, and nothing runs.
#[test]
fn options_require_layers() {
    let echo = ["--", SHELL, "-c", "echo ran"];
    if let Some((layer, why)) = lacking() {
        for command in [sandbox(), with(&["--dry-run"])] {
            let mut command = command;
            let (status, said, error) = ran(command.args(["--require", &joined(layer.name())]).args(echo));
            assert!(status == 2 && said.is_empty(), "{status} {said}{error}");
            assert!(error.contains(&format!("layer \"{layer}\" is required, and not to be had: ")), "{error}");
            assert!(error.contains(&why) || error.contains("it needs the "), "{error}");
        }
    }
    for preset in Preset::ALL {
        let whole = enforced(Sandbox::new(SHELL).preset(preset)).is_full();
        let (status, said, error) = ran(with(&["--preset", preset.name(), "--full"]).args(echo));
        assert_eq!((status, &*said), if whole { (0, "ran\n") } else { (2, "") }, "{preset}: {error}");
        let (probed, ..) = ran(&mut with(&["--probe", "--preset", preset.name(), "--full"]));
        assert_eq!(probed == 0, whole, "{preset}");
    }
}

/// Words add to what the filter allows, and take from it.
#[test]
fn options_choose_words() {
    let shell = ["--", SHELL, "-c", "/bin/true && echo it ran another"];
    for (options, runs) in [
        (&["--allow", "processes,exec"][..], true),
        (&["--allow", "exec", "--allow", "processes"], true),
        (&["--allow", "processes"], false),
        (&[], false),
    ] {
        let (_, said, error) = ran(with(options).args(["--runtime", "/bin/true"]).args(shell));
        assert_eq!(said == "it ran another\n", runs, "{options:?}: {said}{error}");
        let once = error.lines().any(|line| line.starts_with("exec once "));
        assert_eq!(once, !options.concat().contains("exec"), "{error}");
    }
    // Its loader opens libraries.
    let (status, said, error) = ran(&mut with(&["--without", "load", "--", SHELL, "-c", "echo ran"]));
    assert!(status != 0 && said.is_empty(), "{error}");
}

/// Programs of a pipeline in one sandbox, as the help shows it.
#[test]
fn a_shell_runs_other_programs() {
    let options = ["--preset", "full", "--allow", "processes,exec", "--runtime", "/usr/bin", "--"];
    let (status, said, error) = fed(with(&options).args([SHELL, "-c", "sort | uniq -c"]), b"b\na\nb\n");
    let counted: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((status, &*counted), (0, &["1", "a", "2", "b"][..]), "{error}");
}

/// Each limit, with its unit, from inside; in `run` as well.
#[test]
fn options_limit_resources() {
    const M: u64 = 1 << 20;
    let limits = [
        ("memory=3G", 3072 * M),
        ("data=512M", 512 * M),
        ("stack=4096k", 4 * M),
        ("locked-memory=16K", 16 << 10),
        ("descriptors=123", 123),
        ("processes=1000000", 1_000_000),
        ("pending-signals=99", 99),
        ("file-size=1T", M * M),
        ("core=0", 0),
        ("cpu-time=77", 77),
    ];
    let resources = [
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_SIGPENDING,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_CPU,
    ];
    let wanted: Vec<u64> = limits
        .iter()
        .zip(resources)
        .map(|((_, value), resource)| (*value).min(getrlimit(resource).unwrap().1))
        .collect();
    let list = limits.map(|(written, _)| written).join(",");
    let said_limits = |said: &str| -> Vec<u64> {
        said.lines().filter_map(|line| Some(line.strip_prefix("limit ")?.parse().unwrap())).collect()
    };
    let (status, said, error) = program_in_role(&["--limit", &list], "limits");
    assert_eq!((status, said_limits(&said)), (0, wanted.clone()), "{said}{error}");
    let (_guard, at, policy) = scene(POLICY);
    let mut command = fdbroker();
    command.args(["run", "--audit", "none", "--preset", "floor"]);
    command.args(list.split(',').flat_map(|limit| ["--limit", limit]));
    let (status, said, error) = ran(&mut with_worker(command, "limits", Some(&policy), &at));
    assert_eq!((status, said_limits(&said)), (0, wanted), "{said}{error}");
}

/// The working directory is one that the program sees.
#[test]
fn options_choose_the_directory() {
    let (_guard, at) = directory();
    let chdir = |options: &[&OsStr]| ran(sandbox().args(options).args(["--", SHELL, "-c", "pwd"]));
    let (runtime, chosen) = (OsStr::new("--runtime"), OsStr::new("--chdir"));
    let (status, said, error) = chdir(&[runtime, at.as_os_str(), chosen, at.as_os_str()]);
    assert_eq!((status, said.trim_end()), (0, at.to_str().unwrap()), "{error}");
    let (status, said, error) = chdir(&[chosen, at.join("absent").as_os_str()]);
    assert!(status == 2 && said.is_empty() && error.contains("absent"), "{error}");
}

/// A worker that is served by a policy can have other walls, too; what is required is so for it as well.
#[test]
fn run_has_the_same_options() {
    let (_guard, at, policy) = scene(POLICY);
    for preset in Preset::ALL {
        let mut command = fdbroker();
        command.args(["run", "--audit", "none", "--preset", preset.name(), "--refuse", "kill", "--allow", "files"]);
        let (status, _, error) = ran(&mut with_worker(command, "asks", Some(&policy), &at));
        assert_eq!((status, &*error), (7, ""));
    }
    let Some((layer, _)) = lacking() else { return };
    let mut command = fdbroker();
    command.args(["run", "--require", &joined(layer.name())]);
    let (status, said, error) = ran(&mut with_worker(command, "asks", Some(&policy), &at));
    assert!(status == 2 && said.is_empty() && error.contains(" is required, and not to be had: "), "{said}{error}");
}

/// A name of any bytes does nothing to the terminal, and JSON has it.
#[test]
fn hostile_names_are_escaped() {
    let (_guard, at) = directory();
    let name = "\x1b[31m\n\"fdbroker: it is whole\\\u{202e}";
    let path = at.join(name);
    fs::copy(CAT, &path).unwrap();
    let broken = at.join(OsString::from_vec([name.as_bytes(), b"\xff"].concat()));
    let control =
        |text: &str| text.trim_end_matches('\n').chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    let (status, said, error) = ran(sandbox().arg("--").arg(&broken));
    assert!(status == 2 && said.is_empty(), "{error}");
    assert!(error.lines().count() == 1 && !control(&error), "{error:?}");
    let (status, said, error) = ran(sandbox().args(["--dry-run", "--"]).arg(&path));
    assert!(status == 0 && !control(&said) && error.is_empty(), "{said:?}{error:?}");
    let (status, said, error) = ran(sandbox().args(["--dry-run", "--json", "--"]).arg(&path));
    assert!(status == 0 && !control(&said), "{said:?}{error:?}");
    let read = "import json, sys; print(ascii(json.load(sys.stdin)['program'].rsplit('/', 1)[1]))";
    if let Some(read) = python(read, &said) {
        assert_eq!(read.trim(), r#"'\x1b[31m\n"fdbroker: it is whole\\\u202e'"#);
    }
    fs::rename(&path, &broken).unwrap();
    let (status, said, error) = ran(sandbox().args(["--dry-run", "--json", "--"]).arg(&broken));
    assert!(status == 0 && !control(&said), "{said:?}{error:?}");
    let _ = python("import json, sys; assert json.load(sys.stdin)['program'].endswith('\\u202e\\ufffd')", &said);
    assert!(broken.as_os_str().as_bytes().ends_with(b"\xff"));
}

/// What this host offers: as the library finds it, with the reason for each lack.
#[test]
fn probe_says_what_this_host_offers() {
    let (status, said, error) = ran(&mut with(&["--probe"]));
    assert!(status == 0 && error.is_empty(), "{said}{error}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(said.starts_with(&format!("Linux {}, {}, user ", release.trim(), std::env::consts::ARCH)), "{said}");
    let host = Host::probe();
    for (layer, state) in host.layers() {
        let line = said.lines().find(|line| line.starts_with(&format!("{layer} "))).unwrap_or_else(|| panic!("{said}"));
        let word = if state.is_ok() { " yes " } else { " NO " };
        assert!(line.contains(word), "{line}");
        state.map_or_else(|why| assert!(line.ends_with(why), "{line}"), |_| ());
    }
    let script = "import json, sys; d = json.load(sys.stdin)\n\
                  print(d['kernel'], d['user'], d['can_be_had'], d['lacks'])\n\
                  for l in d['layers']: print(l['layer'], l['available'], l['detail'], sep='|')\n\
                  for p in d['presets']: print(p['preset'], p['whole'], [m['layer'] for m in p['missing']])\n\
                  assert d['landlock_abi'] is None or d['landlock_abi'] > 0\n\
                  assert d['seccomp_notification'] in (True, False)";
    let capital = |is: bool| if is { "True" } else { "False" };
    let mut wanted = format!("{} {} True None\n", release.trim(), nix::unistd::geteuid());
    for (layer, state) in host.layers() {
        wanted += &format!("{layer}|{}|{}\n", capital(state.is_ok()), state.unwrap_or_else(|why| why));
    }
    for preset in Preset::ALL {
        let holds = enforced(Sandbox::this_program().preset(preset));
        let missing: Vec<_> = holds.layers().filter(|(_, state)| state.is_err()).collect();
        let names: Vec<_> = missing.iter().map(|(layer, _)| format!("'{layer}'")).collect();
        wanted += &format!("{preset} {} [{}]\n", capital(missing.is_empty()), names.join(", "));
    }
    let (status, json, error) = ran(&mut with(&["--probe", "--json"]));
    assert!(status == 0 && error.is_empty(), "{json}{error}");
    let Some(read) = python(script, &json) else { return };
    assert_eq!(read, wanted);
    let Some((layer, _)) = lacking() else { return };
    let options = ["--probe", "--require", &joined(layer.name())];
    let (status, said, error) = ran(&mut with(&options));
    assert!(status == 1 && error.is_empty() && said.contains("it cannot be had: layer "), "{said}{error}");
    let (status, json, _) = ran(with(&options).arg("--json"));
    let script = "import json, sys; d = json.load(sys.stdin); print(d['can_be_had'], d['lacks']['layer'])";
    assert_eq!((status, python(script, &json).unwrap().trim()), (1, &*format!("False {layer}")));
}

/// Every name that an option takes is listed, and in the long help.
#[test]
fn names_are_listed() {
    let (status, listed, _) = ran(&mut with(&["--list"]));
    assert_eq!(status, 0);
    for command in ["sandbox", "run"] {
        let (_, help, _) = ran(fdbroker().args([command, "--help"]));
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for limit in Limit::ALL {
            assert!(help.contains(&joined(limit.name())), "{limit}: {help}");
        }
        let described = (Preset::ALL.map(|preset| (joined(preset.name()), preset.description())).into_iter())
            .chain(Layer::ALL.map(|layer| (joined(layer.name()), layer.description())))
            .chain(Word::ALL.map(|word| (joined(word.name()), word.description())))
            .chain(Refusal::ALL.map(|refusal| (joined(refusal.name()), refusal.description())));
        for (name, description) in described {
            assert!(help.contains(&format!("- {name}: {description}")), "{name}: {help}");
        }
    }
    let [presets, layers, words, limits]: [&str; 4] =
        listed.split("\n\n").collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{listed}"));
    let row = |table: &str, name: &str| -> Vec<String> {
        let rows = table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
        let mut rows = rows.map(|row| row.map(str::to_owned).collect::<Vec<_>>());
        rows.find(|row| row[0] == joined(name)).unwrap_or_else(|| panic!("{name}: {table}"))
    };
    for preset in Preset::ALL {
        assert_eq!(row(presets, preset.name())[1..], [preset.description()]);
    }
    for layer in Layer::ALL {
        let [floor, standard, full] = Preset::ALL.map(|preset| match preset.mode(layer) {
            Mode::Off => "-",
            mode => mode.name(),
        });
        assert_eq!(row(layers, layer.name())[1..], [floor, standard, full, layer.description()]);
    }
    for word in Word::ALL {
        assert_eq!(row(words, word.name())[1..], [word.description()]);
    }
    for limit in Limit::ALL {
        assert_eq!(row(limits, limit.name())[1..], [limit.description()]);
    }
}

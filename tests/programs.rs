//! What can be started: static and dynamic programs, scripts, and what cannot be read or is not there any more; and what
//! their root holds.
//!
//! What writes a program and runs it does so in a process of its own: a child that another thread makes meanwhile would
//! have the program open for writing for a moment, which is ETXTBSY.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::start::{PATIENCE, run, say, started, wait_for_the_end, worker};
use fdbroker::{Layer, Mode, Preset, Sandbox, SpawnError, Stdio, Step, Word};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "list" => list(),
        "write" => write(argument),
        "relative" => relative(argument),
        "replaced" => replaced(),
        "report" => {
            say("it runs");
            wait_for_the_end();
        }
        other => panic!("no such role: {other}"),
    }
}

// --------------------------------------------------------------------------------------------------- kinds of program

fn executable(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What it prints, and its status, at every preset that keeps files from it: the same. (Before Linux 5.13 the floor does
/// not.)
fn printed(sandbox: &Sandbox) -> Result<(String, Option<i32>), SpawnError> {
    let mut all = BTreeSet::new();
    for preset in Preset::ALL {
        let (worker, _channel) =
            sandbox.clone().preset(preset).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut text = String::new();
        worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
        let status = worker.wait_timeout(PATIENCE).unwrap().expect("its end");
        let enforced = worker.enforced();
        if enforced.has(Layer::Root) || enforced.has(Layer::Landlock) || preset == Preset::Full {
            all.insert((text, status.code()));
        }
    }
    assert_eq!(all.len(), 1, "{all:?}");
    Ok(all.pop_first().unwrap())
}

/// A program without libraries that prints its arguments and tries to open a file that every process may open outside.
const STATIC: &str = r#"
#include <fcntl.h>
#include <stdio.h>
int main(int count, char **words) {
    for (int i = 1; i < count; i++) printf("%s ", words[i]);
    printf("%s\n", open("/etc/passwd", O_RDONLY) < 0 ? "sees nothing" : "sees passwd");
    return 7;
}
"#;

/// Builds it. Where there is no compiler, the test says so.
fn static_program(directory: &Path, test: &str) -> Option<PathBuf> {
    let (source, program) = (directory.join("static.c"), directory.join("static"));
    fs::write(&source, STATIC).unwrap();
    let built = Command::new("cc").args(["-static", "-Os", "-o"]).arg(&program).arg(&source).output();
    match built {
        Ok(output) if output.status.success() => Some(program),
        other => {
            eprintln!("SKIPPED {test}: cc -static: {other:?}");
            None
        }
    }
}

/// B-10: a statically linked program runs in an empty root; a copy that may be executed and not read does as well.
#[test]
fn b_10_static_programs() {
    common::alone("b_10_static_programs", static_programs);
}

fn static_programs() {
    let (_directory, path) = common::directory();
    let Some(program) = static_program(&path, "b_10_static_programs") else { return };
    let ran = ("one two sees nothing\n".to_owned(), Some(7));
    assert_eq!(printed(&Sandbox::new(&program).args(["one", "two"])).unwrap(), ran);
    let prepared = Sandbox::new(&program).prepare().unwrap();
    let root = prepared.enforced().layers().find(|(layer, _)| *layer == Layer::Root).unwrap().1;
    assert!(root.is_err() || root == Ok("empty, read-only"), "{root:?}");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o111)).unwrap();
    assert_eq!(printed(&Sandbox::new(&program).args(["one", "two"])).unwrap(), ran);
}

/// B-10: a dynamically linked program, one that may be executed and not read, and one through symbolic links.
#[test]
fn b_10_dynamic_programs() {
    common::alone("b_10_dynamic_programs", dynamic_programs);
}

fn dynamic_programs() {
    let (_directory, path) = common::directory();
    let program = path.join("echo");
    fs::copy("/bin/echo", &program).unwrap();
    symlink(&program, path.join("link")).unwrap();
    symlink("link", path.join("link to link")).unwrap();
    for mode in [0o755, 0o111] {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        for name in ["echo", "link", "link to link"] {
            let said = printed(&Sandbox::new(path.join(name)).arg("hello")).unwrap();
            assert_eq!(said, ("hello\n".to_owned(), Some(0)), "{name}, mode {mode:o}");
        }
    }
}

/// B-10: scripts by their interpreter, with its argument, through symbolic links, with one interpreter being the other's
/// script, and with an interpreter that cannot be read. They read their file, and no other.
#[test]
fn b_10_scripts() {
    common::alone("b_10_scripts", scripts);
}

fn scripts() {
    let (_directory, path) = common::directory();
    let script = path.join("script");
    executable(&script, "#!/bin/sh -u\necho \"$0: $1, $-\"\nread line < /etc/passwd || echo closed\n");
    let said = |script: &Path| printed(&Sandbox::new(script).arg("hello").stderr(Stdio::null())).unwrap();
    let expected = |script: &Path| (format!("{}: hello, u\nclosed\n", script.display()), Some(0));
    let (status, text) = (said(&script), expected(&script));
    // POSIX lets a shell end at a redirection that fails.
    assert!(status == text || status.0.starts_with(&format!("{}: hello, u\n", script.display())), "{status:?}");
    symlink(&script, path.join("link")).unwrap();
    fs::create_dir(path.join("further")).unwrap();
    symlink("../link", path.join("further/link")).unwrap();
    for link in [path.join("link"), path.join("further/link")] {
        let (text, _) = said(&link);
        assert!(text.starts_with(&format!("{}: hello, u\n", link.display())), "{text}");
    }
    let roundabout = path.join("further/../script");
    assert!(said(&roundabout).0.starts_with(&format!("{}: hello, u\n", script.display())));

    let outer = path.join("outer");
    executable(&outer, format!("#!{}\nnot read by a shell\n", script.display()));
    let (text, _) = printed(&Sandbox::new(&outer)).unwrap();
    assert!(text.starts_with(&format!("{}: {}, u\n", script.display(), outer.display())), "{text}");

    let shell = path.join("unreadable sh");
    fs::copy("/bin/sh", path.join("sh")).unwrap();
    fs::rename(path.join("sh"), path.join("closed-sh")).unwrap();
    fs::set_permissions(path.join("closed-sh"), fs::Permissions::from_mode(0o111)).unwrap();
    executable(&shell, format!("#!{}\necho it runs\n", path.join("closed-sh").display()));
    assert_eq!(printed(&Sandbox::new(&shell)).unwrap(), ("it runs\n".to_owned(), Some(0)));
}

/// B-10: a script in Python, which needs its library beside the interpreter.
#[test]
fn b_10_scripts_with_a_runtime() {
    common::alone("b_10_scripts_with_a_runtime", scripts_with_a_runtime);
}

fn scripts_with_a_runtime() {
    let (_directory, path) = common::directory();
    let ask = "import sys; print(sys.executable); print(sys.base_prefix + '/' + sys.platlibdir)";
    let asked = ["/usr/bin/python3", "python3"].map(|python| Command::new(python).args(["-c", ask]).output());
    let Some(answer) = asked.into_iter().flatten().find(|output| output.status.success()) else {
        eprintln!("SKIPPED b_10_scripts_with_a_runtime: no python3");
        return;
    };
    let answer = String::from_utf8(answer.stdout).unwrap();
    let (python, library) = answer.trim().split_once('\n').unwrap();
    let script = path.join("script.py");
    executable(&script, format!("#!{python} -I\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"));
    for runtime in [Path::new(library), &fs::canonicalize(library).unwrap()] {
        let said = printed(&Sandbox::new(&script).args(["a", "b"]).runtime(runtime)).unwrap();
        assert_eq!(said, ("[\"a\", \"b\"]\n".to_owned(), Some(0)));
    }
}

/// B-10: programs and scripts by a path that is relative to the broker's working directory, which the worker's is not.
#[test]
fn b_10_relative_paths() {
    common::alone("b_10_relative_paths", relative_paths);
}

fn relative_paths() {
    let (_directory, path) = common::directory();
    executable(&path.join("script"), "#!/bin/sh\necho \"$0\"\n");
    fs::copy("/bin/echo", path.join("echo")).unwrap();
    fs::create_dir(path.join("beneath")).unwrap();
    run(&format!("relative {}", path.display()));
}

fn relative(path: &str) {
    std::env::set_current_dir(path).unwrap();
    let printed = |program: &str| printed(&Sandbox::new(program)).unwrap().0;
    assert_eq!(printed("./script"), format!("{path}/script\n"));
    assert_eq!(printed("script"), format!("{path}/script\n"));
    assert_eq!(printed("echo"), "\n");
    std::env::set_current_dir("beneath").unwrap();
    assert_eq!(printed("../script"), format!("{path}/script\n"));
    assert_eq!(printed("../echo"), "\n");
}

/// B-10, L-10: what is prepared is what runs: a program that is replaced or deleted afterwards runs as it was. A script
/// is found by its path: one that is not the same file any more does not run, and the error names the step.
#[test]
fn b_10_l_10_replaced_between_preparing_and_starting() {
    common::alone("b_10_l_10_replaced_between_preparing_and_starting", replaced_between_preparing_and_starting);
}

fn replaced_between_preparing_and_starting() {
    let (_directory, path) = common::directory();
    let program = path.join("program");
    for preset in Preset::ALL {
        for deleted in [false, true] {
            fs::copy("/bin/echo", &program).unwrap();
            let sandbox = Sandbox::new(&program).arg("the old").preset(preset).stdout(Stdio::piped());
            let prepared = sandbox.prepare().unwrap();
            fs::remove_file(&program).unwrap();
            if !deleted {
                fs::copy("/bin/false", &program).unwrap();
            }
            let (worker, _channel) = prepared.spawn().unwrap();
            let mut text = String::new();
            worker.take_stdout().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "the old\n", "{preset}, deleted: {deleted}");
            let _ = fs::remove_file(&program);

            executable(&program, "#!/bin/sh\necho the old\n");
            let prepared = Sandbox::new(&program).preset(preset).stdout(Stdio::piped()).prepare().unwrap();
            fs::remove_file(&program).unwrap();
            if !deleted {
                executable(&program, "#!/bin/sh\necho the new\n");
            }
            let has_landlock = prepared.enforced().has(Layer::Landlock);
            match prepared.spawn() {
                Err(SpawnError::Step { step: Step::Exec, about: None, .. }) => {}
                Err(SpawnError::Step { step: Step::Bind, about: Some(path), .. }) => {
                    assert!(deleted && path == program.to_str().unwrap(), "{path}");
                }
                // Nothing else knows one file from the other.
                Ok(_) if !has_landlock && !deleted => {}
                other => panic!("{preset}, deleted: {deleted}: {other:?}"),
            }
            let _ = fs::remove_file(&program);
        }
    }
}

/// B-10: this program is the one that is running, whatever is at its path by now.
#[test]
fn b_10_this_program_is_the_one_that_runs() {
    common::alone("b_10_this_program_is_the_one_that_runs", this_program_is_the_one_that_runs);
}

fn this_program_is_the_one_that_runs() {
    let (_directory, path) = common::directory();
    let program = path.join("copy");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    let command = command.args(["--exact", "process", "--nocapture"]).env("FDBROKER_TEST_ROLE", "replaced");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn replaced() {
    let path = std::env::current_exe().unwrap();
    fs::remove_file(&path).unwrap();
    fs::copy("/bin/false", &path).unwrap();
    assert_eq!(started(&worker("report")).2, "it runs");
}

// ------------------------------------------------------------------------------------------------ what the root holds

/// Everything on the file system of the root, and where something is mounted.
fn list() {
    let own = fs::metadata("/").unwrap().dev();
    let mut lines = BTreeSet::new();
    let mut directories = vec![PathBuf::from("/")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = if metadata.dev() != own {
                "mounted".to_owned()
            } else if metadata.is_dir() {
                directories.push(path.clone());
                "directory".to_owned()
            } else if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                "something".to_owned()
            };
            lines.insert(format!("{} {kind}", path.display()));
        }
    }
    let above = fs::metadata("/..").unwrap();
    assert_eq!((above.dev(), above.ino()), (own, fs::metadata("/").unwrap().ino()));
    say(&lines.into_iter().collect::<Vec<_>>().join("\n"));
    wait_for_the_end();
}

/// Without Landlock, which would not let it look.
fn looking(role: &str) -> Sandbox {
    worker(role).layer(Layer::Landlock, Mode::Off)
}

/// What a root with these files in it looks like.
fn expected(files: &[&Path]) -> BTreeSet<String> {
    let libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"].map(Path::new);
    let there: Vec<&Path> = libraries.into_iter().chain(files.iter().copied()).filter(|path| path.exists()).collect();
    let real: BTreeSet<PathBuf> = there.iter().map(|path| path.canonicalize().unwrap()).collect();
    let within = |path: &Path| path.ancestors().skip(1).any(|above| real.contains(above));
    let mounted: Vec<_> = real.iter().filter(|path| !within(path)).collect();
    let mut lines: BTreeSet<String> = mounted.iter().map(|path| format!("{} mounted", path.display())).collect();
    let links = there.iter().filter(|path| path.is_symlink() && !within(path));
    let links: Vec<_> = links.map(|path| (path, path.canonicalize().unwrap())).collect();
    lines.extend(links.iter().map(|(path, target)| format!("{} -> {}", path.display(), target.display())));
    for path in mounted.iter().map(|path| path.as_path()).chain(links.iter().map(|(path, _)| **path)) {
        let above = path.ancestors().skip(1).filter(|above| above.parent().is_some());
        lines.extend(above.map(|above| format!("{} directory", above.display())));
    }
    lines
}

fn has_root(test: &str) -> bool {
    let has = looking("list").prepare().unwrap().enforced().has(Layer::Root);
    if !has {
        eprintln!("SKIPPED {test}: no root of its own is to be had here");
    }
    has
}

/// B-10, B-09: the root holds what was declared, the libraries and the directories above them, and nothing else: listed
/// from inside. There is no way up from it.
#[test]
fn b_10_b_09_what_the_root_holds() {
    if !has_root("b_10_b_09_what_the_root_holds") {
        return;
    }
    let (_directory, path) = common::directory();
    let (file, directory, link) = (path.join("file"), path.join("directory"), path.join("link"));
    fs::write(&file, "declared").unwrap();
    fs::write(path.join("other"), "not declared").unwrap();
    fs::create_dir_all(directory.join("deep/er")).unwrap();
    symlink("file", &link).unwrap();
    let cases: [&[&Path]; 5] = [
        &[],
        &[&file],
        &[&file, &directory],
        // Through the link; and what lies in a directory that is there anyhow.
        &[&link],
        &[&directory.join("deep"), &directory, &directory.join("deep/er")],
    ];
    for files in cases {
        let sandbox = files.iter().fold(looking("list"), |sandbox, path| sandbox.runtime(*path));
        let (_worker, _channel, seen) = started(&sandbox);
        let seen: BTreeSet<String> = seen.lines().map(str::to_owned).collect();
        assert_eq!(seen, expected(files), "{files:?}");
    }
}

/// Tries to write in every directory and to the file, whose owner it is, and says what came of it.
fn write(file: &str) {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap();
    let mut seen = BTreeSet::new();
    for directory in ["/", "/usr", "/usr/lib", Path::new(file).parent().unwrap().to_str().unwrap(), "/tmp"] {
        if Path::new(directory).exists() {
            seen.insert(fs::create_dir(format!("{directory}/made")).map_err(errno));
            seen.insert(File::create(format!("{directory}/made")).map(drop).map_err(errno));
        }
    }
    seen.insert(File::options().append(true).open(file).map(drop).map_err(errno));
    seen.insert(fs::set_permissions(file, fs::Permissions::from_mode(0o600)).map_err(errno));
    seen.insert(
        fs::remove_file(file).map_err(errno).map_err(|errno| if errno == libc::EBUSY { libc::EROFS } else { errno }),
    );
    assert_eq!(fs::read_to_string(file).unwrap(), "declared");
    say(&format!("{seen:?}"));
    wait_for_the_end();
}

/// B-10: nothing in the root can be written, made or removed, by a worker that has neither Landlock nor a filter, not
/// even a file of its own user's; all of it is read-only, without setuid programs and devices.
#[test]
fn b_10_the_root_is_read_only() {
    if !has_root("b_10_the_root_is_read_only") {
        return;
    }
    let (_directory, path) = common::directory();
    let file = path.join("file");
    fs::write(&file, "declared").unwrap();
    if common::is_root() {
        std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
    }
    let role = format!("write {}", file.display());
    let sandbox = looking(&role).runtime(&file).allow(Word::Files).layer(Layer::Seccomp, Mode::Off);
    let (worker, _channel, seen) = started(&sandbox);
    assert_eq!(seen, format!("{{Err({})}}", libc::EROFS));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", worker.id())).unwrap();
    for line in mounts.lines() {
        let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        assert!(["ro", "nosuid", "nodev"].iter().all(|option| options.contains(option)), "{line}");
    }
    // Only what was bound, and the empty file system: no mount of the host's.
    let places: BTreeSet<&str> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert!(places.contains("/") && places.contains(file.to_str().unwrap()), "{mounts}");
    assert!(!places.contains("/proc") && !places.contains("/dev") && !places.contains("/sys"), "{mounts}");
}

/// B-10: with a root, or without one: at the floor, a worker sees the host's directories and opens none of their files.
#[test]
fn b_10_without_a_root_nothing_opens() {
    let (_directory, path) = common::directory();
    let file = path.join("file");
    fs::write(&file, "not declared").unwrap();
    let sandbox = Sandbox::new("/bin/cat").arg(file.as_os_str()).stderr(Stdio::null());
    if !sandbox.prepare().unwrap().enforced().has(Layer::Landlock) {
        eprintln!("SKIPPED b_10_without_a_root_nothing_opens: this kernel has no Landlock");
        return;
    }
    assert_eq!(printed(&sandbox).unwrap(), (String::new(), Some(1)));
    assert_eq!(printed(&sandbox.runtime(&file)).unwrap(), ("not declared".to_owned(), Some(0)));
}

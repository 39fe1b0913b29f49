//! `[broker -> worker]` Starting the process: everything is prepared here, and done in the child by `sys::child`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::iter;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::OFlag;
use nix::unistd::{Uid, User, getegid, geteuid, pipe2};

use super::filter::{self, Refusal, Word, Words};
use super::{Enforced, Layer, Sandbox, landlock, stdio};
use crate::channel::Channel;
use crate::error::SpawnError;
use crate::sys::child::{self, Failure, Image, Plan, Step};

/// The user of a worker, when the broker is root and was not told another: nobody, with group nogroup.
const NOBODY: (u32, u32) = (65534, 65534);

/// The user whom a worker is to be.
#[derive(Debug, Clone)]
pub(super) enum RunAs {
    Ids(u32, u32),
    Name(String),
}

pub(super) fn spawn(sandbox: Sandbox) -> Result<(Child, Channel, Enforced), SpawnError> {
    let program = &sandbox.program;
    let prepare = |what| move |source| SpawnError::Prepare { program: program.clone(), what, source };

    let _occupied = stdio::occupy().map_err(prepare("occupying 0, 1 and 2"))?;
    let ids = ids(sandbox.run_as.as_ref()).map_err(prepare("choosing the user"))?;
    let file = landlock::open_path(&sandbox.program).map_err(prepare("opening the program"))?;
    if !file.metadata().map_err(prepare("fstat"))?.is_file() {
        return Err(prepare("it is not a regular file")(io::Error::from_raw_os_error(libc::EACCES)));
    }
    let runtime = sandbox.runtime.iter().map(|path| opened(path)).collect::<Result<Vec<_>, _>>();
    let runtime = runtime.map_err(prepare("opening what it needs"))?;
    let abi = landlock::abi();
    let ruleset = match abi {
        Ok(_) => landlock::for_start(&file, runtime).map_err(prepare("making the Landlock ruleset"))?,
        Err(_) => None,
    };
    let scoped = abi.as_ref().is_ok_and(|&abi| abi >= landlock::SCOPES_SIGNALS);
    let words = [Word::Threads, Word::Load, Word::Exec, Word::Sockets, Word::Code];
    let words = words.into_iter().fold(Words::NONE, Words::with);
    let start = filter::for_start(words, Refusal::Errno, scoped).map_err(prepare("compiling the filter"))?;
    let filters = start.programs(0).into_iter().inspect(|program| debug_assert!(!program.listener));
    let filters = filters.map(|program| program.code).collect();
    let (status, status_writer) =
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|errno| prepare("pipe2")(errno.into()))?;
    let (here, there) = Channel::pair().map_err(|error| prepare("making the channel")(error.into()))?;
    let args = iter::once(sandbox.arg0.as_deref().unwrap_or(sandbox.program.as_os_str()))
        .chain(sandbox.args.iter().map(OsString::as_os_str));
    // The file that was opened is what runs, whatever has become of its path, and the worker's user needs no right to
    // search the directories above it. A script is executed by its path: the interpreter opens it once more.
    let program_file = if is_script(&file) { None } else { Some(file) };
    let image = Image::new(program_file, program, args, last_of_each(&sandbox.env).into_iter())
        .map_err(prepare("reading the arguments and the environment"))?;
    let plan = Plan {
        status: status_writer,
        null: File::options().read(true).write(true).open("/dev/null").ok(),
        id_maps: ids.is_none().then(id_maps),
        ids,
        parent: sandbox.die_with_parent.then(|| nix::unistd::getpid().as_raw()),
        landlock: ruleset,
        filters,
        image,
    };

    let mut command = Command::new(&sandbox.program);
    command.current_dir("/").stdin(OwnedFd::from(there));
    command.stdout(sandbox.stdout.unwrap_or_else(|| inherited(io::stdout().as_fd())));
    command.stderr(sandbox.stderr.unwrap_or_else(|| inherited(io::stderr().as_fd())));
    child::attach(&mut command, plan);
    let spawned = command.spawn();
    // Closes the child's end of the channel and of the status pipe, which the command holds.
    drop(command);

    let failures = failures(status.into());
    match spawned {
        Ok(child) => {
            let enforced = report(ids, &abi, &failures);
            Ok((child, here, enforced))
        }
        Err(source) => {
            // A step that ends the child is the last that it reports. Without a report, no step was taken: std could
            // not fork, or not put the standard descriptors into place.
            match failures.last() {
                Some(failure) if !is_optional(failure.step) => {
                    Err(SpawnError::Step { program: sandbox.program, step: failure.step, source })
                }
                _ => Err(prepare("making the process")(source)),
            }
        }
    }
}

fn opened(path: &Path) -> io::Result<File> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    landlock::open_path(path).map_err(named)
}

fn inherited(fd: BorrowedFd<'_>) -> Stdio {
    stdio::reopened(fd).map_or_else(Stdio::inherit, Stdio::from)
}

/// The variables of the environment: what was said last about each.
fn last_of_each(env: &[(OsString, OsString)]) -> Vec<&(OsString, OsString)> {
    let is_last = |index: usize| env[index + 1..].iter().all(|(later, _)| *later != env[index].0);
    (0..env.len()).filter(|&index| is_last(index)).map(|index| &env[index]).collect()
}

fn is_optional(step: Step) -> bool {
    matches!(step, Step::UserNamespace | Step::IdMaps | Step::BoundingSet)
}

/// Which layers hold, from what was asked of the child and which of it failed.
fn report(ids: Option<(u32, u32)>, abi: &Result<u32, String>, failures: &[Failure]) -> Enforced {
    let failure = |step| {
        let failure = failures.iter().find(|failure| failure.step == step)?;
        Some(format!("{step}: {}", io::Error::from_raw_os_error(failure.errno)))
    };
    let no_namespace = failure(Step::UserNamespace).or_else(|| failure(Step::IdMaps));
    let bounding_set = match (&ids, &no_namespace) {
        (None, Some(_)) => Err("none is held, but the bounding set is as it was: no user namespace".to_owned()),
        _ => failure(Step::BoundingSet).map_or(Ok(()), Err),
    };
    let mut enforced = Enforced::default();
    enforced.push(Layer::Descriptors, Ok("0 (the channel), 1, 2".to_owned()));
    match ids {
        Some((uid, gid)) => enforced.push(Layer::User, Ok(format!("uid {uid}, gid {gid}, no groups"))),
        None => {
            let own = "the broker's own: only root can start a worker as another user".to_owned();
            enforced.push(Layer::User, Err(own));
            let namespace = no_namespace.map_or_else(|| Ok("its own".to_owned()), Err);
            enforced.push(Layer::UserNamespace, namespace);
        }
    }
    enforced.push(Layer::Capabilities, bounding_set.map(|()| "none, in any set".to_owned()));
    enforced.push(Layer::NoNewPrivs, Ok("set".to_owned()));
    enforced.push(
        Layer::Landlock,
        match abi {
            Ok(abi) => Ok(format!("ABI {abi}, the program and its libraries only")),
            Err(why) => Err(why.clone()),
        },
    );
    enforced.push(Layer::Seccomp, Ok("no sockets, no other processes, no administration".to_owned()));
    enforced
}

/// The ids to become, for root; none for anybody else.
fn ids(run_as: Option<&RunAs>) -> io::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return match run_as {
            None => Ok(None),
            Some(_) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, "only root can start a worker as another user"))
            }
        };
    }
    let (uid, gid) = match run_as {
        None => NOBODY,
        Some(RunAs::Ids(uid, gid)) => (*uid, *gid),
        Some(RunAs::Name(name)) => {
            let user = User::from_name(name)?;
            let user =
                user.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no user is called {name:?}")))?;
            (user.uid.as_raw(), user.gid.as_raw())
        }
    };
    if Uid::from_raw(uid).is_root() || gid == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker is never user 0 or group 0"));
    }
    Ok(Some((uid, gid)))
}

/// In its own user namespace the worker is the user that it is outside.
fn id_maps() -> [String; 2] {
    let (uid, gid) = (geteuid(), getegid());
    [format!("{uid} {uid} 1\n"), format!("{gid} {gid} 1\n")]
}

/// Whether the file starts as a script does. One that cannot be read is none that could be interpreted.
fn is_script(program: &File) -> bool {
    let mut start = [0; 2];
    let opened = File::open(format!("/proc/self/fd/{}", program.as_raw_fd()));
    opened.and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

/// All reports were written before `spawn` returned. The pipe is not read to its end but until it is empty: a process
/// that another thread forked meanwhile may hold it open.
fn failures(mut status: File) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut record = [0; Failure::LEN];
    while status.read_exact(&mut record).is_ok() {
        failures.extend(Failure::decode(record));
    }
    failures
}

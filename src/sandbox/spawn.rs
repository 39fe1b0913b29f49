//! `[broker -> worker]` Starting the process: everything is prepared here, and done in the child by `sys::child`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::iter;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, User, getegid, geteuid, pipe2};

use super::{Enforced, Layer, Sandbox, filter, landlock};
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

    let (_occupied, null) = occupy_stdio();
    let ids = ids(sandbox.run_as.as_ref()).map_err(prepare("choosing the user"))?;
    let file = landlock::open_path(&sandbox.program).map_err(prepare("opening the program"))?;
    let file = File::from(above_stdio(file.into()).map_err(prepare("fcntl"))?);
    let abi = landlock::abi();
    let ruleset = match abi {
        Ok(_) => landlock::for_start(&file, &sandbox.runtime)
            .map_err(|error| prepare("making the Landlock ruleset")(io::Error::other(error)))?,
        Err(_) => None,
    };
    let scoped = abi.as_ref().is_ok_and(|&abi| abi >= landlock::SCOPES_SIGNALS);
    let filters = filter::filters(filter::Stage::Start, scoped).map_err(prepare("compiling the filter"))?;
    let (status, status_writer) = status_pipe().map_err(prepare("pipe2"))?;
    let (here, there) = Channel::pair().map_err(|error| prepare("making the channel")(error.into()))?;
    let args = iter::once(sandbox.arg0.as_deref().unwrap_or(sandbox.program.as_os_str()))
        .chain(sandbox.args.iter().map(OsString::as_os_str));
    let image = Image::new(&exec_path(&file, &sandbox.program), args, last_of_each(&sandbox.env).into_iter())
        .map_err(prepare("reading the arguments and the environment"))?;
    let plan = Plan {
        status: status_writer,
        null,
        id_maps: ids.is_none().then(id_maps),
        ids,
        parent: sandbox.die_with_parent.then(|| nix::unistd::getpid().as_raw()),
        landlock: ruleset.map(above_stdio).transpose().map_err(prepare("fcntl"))?,
        filters,
        image,
    };

    let mut command = Command::new(&sandbox.program);
    command.current_dir("/").stdin(OwnedFd::from(there)).stdout(sandbox.stdout).stderr(sandbox.stderr);
    child::attach(&mut command, plan);
    let spawned = command.spawn();
    // Closes the child's end of the channel and of the status pipe, which the command holds.
    drop(command);

    let failures = failures(status);
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

/// A name for the file that was opened, so that it is this file that runs, whatever has become of its path, and so that
/// the worker's user needs no right to search the directories above it. A script is named by its path: the
/// interpreter opens it once more. Where there is no /proc, the path has to do.
fn exec_path(file: &File, path: &Path) -> PathBuf {
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut start = [0; 2];
    let is_script = File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!";
    if is_script || !by_descriptor.exists() { path.to_owned() } else { by_descriptor }
}

/// A pipe whose writing end is out of the way of standard input, output and error.
fn status_pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    Ok((reader.into(), above_stdio(writer)?))
}

/// Occupies those of 0, 1 and 2 that the broker has closed, for as long as the first half of the answer lives: std puts
/// the worker's own over these numbers, and would do so over what it opens for the worker. The second half is /dev/null,
/// out of the way, if there is one.
fn occupy_stdio() -> (Vec<OwnedFd>, Option<OwnedFd>) {
    let mut occupied = Vec::new();
    while let Ok(fd) = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) {
        if fd.as_raw_fd() > 2 {
            return (occupied, Some(fd));
        }
        occupied.push(fd);
    }
    (occupied, None)
}

/// std puts the worker's standard descriptors into place over 0, 1 and 2 before our steps are taken: what those need
/// must not lie there, as it would in a broker that has closed some of the three and has no /dev/null.
fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fd.as_fd().try_clone_to_owned() }
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

//! `[broker]` From what is wanted to what is prepared: which layers are to be had, and the plan of the new process.

use std::ffi::{CString, OsString};
use std::io;
use std::iter;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;

use super::files::Files;
use super::filter::{self, Word};
use super::oom::OomKills;
use super::prepared::Inner;
use super::program::Program;
use super::stdio::moved;
use super::{Enforced, Layer, Limit, Mode, Sandbox, Stdio, host, landlock, root, user};
use crate::error::SpawnError;
use crate::sys::child::{self, Image, Plan};
use crate::sys::process;

/// What is wanted, and what has been put up of it so far.
pub(super) struct Preparation<'a> {
    sandbox: &'a Sandbox,
    enforced: Enforced,
}

impl<'a> Preparation<'a> {
    pub(super) fn of(sandbox: &'a Sandbox) -> Self {
        Self { sandbox, enforced: Enforced::default() }
    }

    pub(super) fn prepare(mut self) -> Result<Inner, SpawnError> {
        let sandbox = self.sandbox;
        let above = self.places()?;
        let ids = user::ids(sandbox.run_as.as_ref(), &sandbox.groups);
        let mut ids = ids.map_err(self.failed("choosing the user"))?;
        let program = Program::open(&sandbox.program).map_err(self.failed("opening the program"))?;
        let files = Files::of(&program, &sandbox.runtime).map_err(self.failed("opening what it needs"))?;

        self.put_up(Layer::Descriptors, || Ok(described_descriptors(sandbox)))?;
        let described = ids.as_ref().map(|ids| {
            format!("uid {}, gid {}, {}", ids.uid, ids.gid, groups(ids.groups.as_deref().unwrap_or_default()))
        });
        let is_another =
            self.put_up(Layer::User, || host::available(Layer::User).map(|_| described.unwrap_or_default()))?;
        ids = match ids.filter(|_| is_another) {
            None => user::own_if_mixed().map_err(self.failed("getresuid"))?,
            another => another,
        };
        let namespaces = self.namespaces()?;
        if !is_another && geteuid().is_root() && namespaces & Layer::UserNamespace.flag().unwrap_or(0) == 0 {
            let why = host::available(Layer::User).err().unwrap_or_else(|| "it was told to be no other".to_owned());
            let reason = format!("a worker is never user 0, but another, or in a user namespace of its own; {why}");
            return Err(self.unavailable(Layer::User, reason));
        }
        let root = self.root(&files)?;
        let can = self.has_rights();
        let bounding_set = self.put_up(Layer::Capabilities, || {
            can.map_err(|why| format!("none is held, but the bounding set is as it was: {why}"))?;
            host::available(Layer::Capabilities).map(|_| "none, in any set".to_owned())
        })?;
        let securebits = self.put_up(Layer::Securebits, || {
            can.map_err(str::to_owned)?;
            host::available(Layer::Securebits).map(|_| "locked: no capabilities by being user 0".to_owned())
        })?;
        let no_new_privs = self.put_up(Layer::NoNewPrivs, || Ok("set".to_owned()))?;
        let limits = self.limits()?;
        // The kernel forgets the signal at the exec of a program that has capabilities of its own, though it gets none;
        // not of one that is of another mount namespace, nor without a bounding set.
        let forgets = namespaces & Layer::MountNamespace.flag().unwrap_or(0) == 0 && !bounding_set;
        let has_capabilities = forgets && files.have_capabilities(&program);
        let die_with_parent = self.put_up(Layer::DieWithParent, || match has_capabilities {
            true => Err("the program has file capabilities, at whose exec the kernel forgets it".to_owned()),
            false => Ok("SIGKILL at the broker's end".to_owned()),
        })?;
        let abi = landlock::abi();
        let has_landlock = self.put_up(Layer::Landlock, || {
            abi.as_ref().map(|abi| format!("ABI {abi}, the program and what it needs only")).map_err(Clone::clone)
        })?;
        // In a network of its own, the worker reaches nobody by it but itself.
        let has_tcp = self.sandbox.words.has(Word::Network) && self.enforced.has(Layer::NetworkNamespace);
        let landlock = match has_landlock {
            true => Some(landlock::for_start(&program.file, &files, has_tcp))
                .transpose()
                .map_err(self.failed("making the Landlock ruleset"))?,
            false => None,
        };
        let scoped = has_landlock && abi.is_ok_and(|abi| abi >= landlock::SCOPES_SIGNALS);
        let has_pid_namespace = namespaces & Layer::PidNamespace.flag().unwrap_or(0) != 0;
        let filter = self.filter(scoped || has_pid_namespace)?;
        self.put_up(Layer::NotDumpable, || host::available(Layer::NotDumpable))?;
        if !no_new_privs && (landlock.is_some() || filter.is_some()) {
            let needed = "Landlock and the filter want it: turn them off as well";
            return Err(self.unavailable(Layer::NoNewPrivs, needed.to_owned()));
        }

        let raised = |fd: OwnedFd| moved(fd, above).map_err(self.failed("fcntl(F_DUPFD_CLOEXEC)"));
        let landlock = landlock.map(raised).transpose()?;
        let is_script = program.is_script();
        let file = raised(program.file.into())?;
        let args = iter::once(sandbox.arg0.as_deref().unwrap_or(sandbox.program.as_os_str()))
            .chain(sandbox.args.iter().map(OsString::as_os_str));
        // The file that was opened is what runs, whatever has become of its path, and the worker's user needs no right
        // to search the directories above it. A script is executed by its path: the interpreter opens it once more.
        let image =
            Image::new((!is_script).then(|| file.into()), &program.path, args, last_of_each(&sandbox.env).into_iter());
        let image = image.map_err(self.failed("reading the arguments and the environment"))?;
        // /dev/null is the same for all.
        let (null, stdio): (Vec<_>, Vec<_>) =
            stdio_places(sandbox).into_iter().partition(|(_, stdio)| matches!(stdio, Stdio::Null));
        let null = null.into_iter().map(|(number, stdio)| Ok((number, stdio.open(number, above)?.end)));
        let declared = sandbox.descriptors.iter().map(|(number, fd)| Ok((*number, moved(fd.try_clone()?, above)?)));
        let declared = declared.chain(null).collect::<io::Result<Vec<_>>>();
        let declared = declared.map_err(self.failed("opening its descriptors"))?;
        let working_directory = CString::new(sandbox.working_directory.as_os_str().as_bytes());
        let working_directory =
            working_directory.map_err(|error| self.failed("reading the working directory")(error.into()))?;
        let has_user_namespace = namespaces & Layer::UserNamespace.flag().unwrap_or(0) != 0;
        let cpu_time = limits.iter().find(|(limit, _)| *limit == Limit::CpuTime);
        Ok(Inner {
            program: sandbox.program.clone(),
            plan: Plan {
                namespaces,
                id_maps: has_user_namespace.then(host::id_maps),
                root,
                working_directory,
                limits: limits.iter().map(|(limit, value)| (limit.resource(), [*value; 2])).collect(),
                bounding_set: bounding_set.then(process::capabilities),
                securebits,
                ids,
                no_new_privs,
                die_with_parent,
                landlock,
                image: Some(image),
            },
            filter,
            enforced: Arc::new(self.enforced.in_order()),
            channel_at: sandbox.channel_at,
            stdio,
            descriptors: declared,
            above,
            log: sandbox.log.clone(),
            cpu_time: cpu_time.map(|(_, seconds)| Duration::from_secs(*seconds)),
            oom_kills: OomKills::of_this_process(),
            limits: limits.into_iter().map(|(limit, _)| limit).collect(),
            has_pid_namespace,
        })
    }

    /// The number above all that the worker's descriptors have.
    fn places(&self) -> Result<RawFd, SpawnError> {
        let wrong = |what: &str| {
            Err(self.failed("choosing the descriptors")(io::Error::new(io::ErrorKind::InvalidInput, what)))
        };
        let Sandbox { channel_at, descriptors, .. } = self.sandbox;
        if channel_at.is_some_and(|number| number < 0 || matches!(number, 1 | 2)) {
            return wrong("the channel is at 0, or at 3 or more");
        }
        if *channel_at == Some(0) && self.sandbox.stdin.is_some() {
            return wrong("standard input is the channel: put that elsewhere first (channel_at)");
        }
        if descriptors.keys().any(|number| *number < 3 || Some(*number) == *channel_at) {
            return wrong("a further descriptor has a number from 3 on that is not the channel's");
        }
        if self.sandbox.stdin.as_ref().is_some_and(|stdin| matches!(stdin, Stdio::Log)) {
            return wrong("standard input cannot go to the log");
        }
        let logs = [&self.sandbox.stdout, &self.sandbox.stderr].iter().any(|stdio| matches!(stdio, Stdio::Log));
        if logs && self.sandbox.log.is_none() {
            return wrong("there is nobody to log to: say whom (Sandbox::log)");
        }
        let last = descriptors.keys().chain(channel_at).chain(&[2]).max().copied().unwrap_or(2);
        last.checked_add(1).map_or_else(|| wrong("there is no such descriptor"), Ok)
    }

    /// Whether a layer is there: what it is goes into the report, or why it is not.
    fn put_up(&mut self, layer: Layer, have: impl FnOnce() -> Result<String, String>) -> Result<bool, SpawnError> {
        let mode = self.sandbox.mode(layer);
        if mode == Mode::Off {
            if layer == Layer::Descriptors {
                return Err(self.unavailable(layer, "it cannot be left off".to_owned()));
            }
            return Ok(false);
        }
        let state = have();
        if let (Mode::Required, Err(reason)) = (mode, &state) {
            return Err(self.unavailable(layer, reason.clone()));
        }
        let holds = state.is_ok();
        self.enforced.push(layer, state);
        Ok(holds)
    }

    fn namespaces(&mut self) -> Result<u64, SpawnError> {
        let is_root = host::changes_user();
        let mut flags = 0;
        // Root has no use for one, which is no lack, unless it asks by name.
        let is_asked = self.sandbox.modes.get(&Layer::UserNamespace) == Some(&Mode::Required);
        if (!is_root || is_asked) && self.put_up(Layer::UserNamespace, || host::available(Layer::UserNamespace))? {
            flags |= Layer::UserNamespace.flag().unwrap_or(0);
        }
        let can = self.has_rights();
        for layer in [
            Layer::MountNamespace,
            Layer::PidNamespace,
            Layer::IpcNamespace,
            Layer::UtsNamespace,
            Layer::CgroupNamespace,
            Layer::NetworkNamespace,
        ] {
            if self.put_up(layer, || can.map_err(str::to_owned).and_then(|()| host::available(layer)))? {
                flags |= layer.flag().unwrap_or(0);
            }
        }
        Ok(flags)
    }

    /// Whether the new process has the rights of root, its user namespace's at least.
    fn has_rights(&self) -> Result<(), &'static str> {
        let has = host::changes_user() || self.enforced.has(Layer::UserNamespace);
        if has { Ok(()) } else { Err("it needs the user namespace") }
    }

    fn root(&mut self, files: &Files) -> Result<Option<Vec<child::Entity>>, SpawnError> {
        let has_mounts = self.enforced.has(Layer::MountNamespace);
        let described = match files.needed.len() {
            0 => "empty, read-only".to_owned(),
            many => format!("read-only, empty but for {many} files or directories that the program needs"),
        };
        let up = self.put_up(Layer::Root, || match has_mounts {
            true => host::available(Layer::Root).and_then(|_| root::can_be_whole(files)).map(|()| described),
            false => Err("it needs the mount namespace".to_owned()),
        })?;
        if !up {
            return Ok(None);
        }
        root::entities(files).map(Some).map_err(self.failed("planning its root"))
    }

    /// What is asked, or the broker's own hard limit where that is less.
    fn limits(&mut self) -> Result<Vec<(Limit, u64)>, SpawnError> {
        let own = |(limit, value): (&Limit, &u64)| {
            let hard = process::hard_limit(limit.resource())?;
            Ok((*limit, (*value).min(hard)))
        };
        let limits = self.sandbox.limits.iter().map(own).collect::<io::Result<Vec<_>>>();
        let limits = limits.map_err(self.failed("getrlimit"))?;
        let described = limits.iter().map(|(limit, value)| format!("{limit} {value}")).collect::<Vec<_>>().join(", ");
        Ok(if self.put_up(Layer::Limits, || Ok(described))? { limits } else { Vec::new() })
    }

    fn filter(&mut self, scoped: bool) -> Result<Option<filter::Start>, SpawnError> {
        let Sandbox { mut words, refusal, .. } = *self.sandbox;
        if self.sandbox.mode(Layer::ExecOnce) == Mode::Off {
            words = words.with(Word::Exec);
        }
        let described = format!("{words}; anything else: {refusal}");
        let once = !words.has(Word::Exec);
        let up = self.put_up(Layer::Seccomp, || host::available(Layer::Seccomp).map(|_| described))?;
        // Of those who leave the filter off, or allow exec, nobody asks for it by the preset.
        let asked = self.sandbox.modes.contains_key(&Layer::ExecOnce) || up && once;
        if asked {
            self.put_up(Layer::ExecOnce, || match (up, once) {
                (true, true) => {
                    host::available(Layer::ExecOnce).map(|_| "the program, and no other after it".to_owned())
                }
                (true, false) => Err("the word exec allows other programs".to_owned()),
                (false, _) => Err("it needs the filter".to_owned()),
            })?;
        }
        if !up {
            return Ok(None);
        }
        filter::for_start(words, refusal, scoped).map(Some).map_err(self.failed("compiling the filter"))
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> SpawnError + use<> {
        let program = self.sandbox.program.clone();
        move |source| SpawnError::Prepare { program: program.clone(), what, source }
    }

    fn unavailable(&self, layer: Layer, reason: String) -> SpawnError {
        SpawnError::Unavailable { program: self.sandbox.program.clone(), layer, reason }
    }
}

fn described_descriptors(sandbox: &Sandbox) -> String {
    let mut numbers: Vec<_> = (0..3).chain(sandbox.channel_at).chain(sandbox.descriptors.keys().copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let described = |number: RawFd| match Some(number) == sandbox.channel_at {
        true => format!("{number} (the channel)"),
        false => number.to_string(),
    };
    numbers.into_iter().map(described).collect::<Vec<_>>().join(", ")
}

fn groups(groups: &[u32]) -> String {
    match groups {
        [] => "no groups".to_owned(),
        groups => format!("groups {}", groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    }
}

fn stdio_places(sandbox: &Sandbox) -> Vec<(RawFd, Stdio)> {
    let mut places = vec![(1, sandbox.stdout.clone()), (2, sandbox.stderr.clone())];
    if sandbox.channel_at != Some(0) {
        places.push((0, sandbox.stdin.clone().unwrap_or(Stdio::Null)));
    }
    places
}

/// The variables of the environment: what was said last about each.
fn last_of_each(env: &[(OsString, OsString)]) -> Vec<&(OsString, OsString)> {
    let is_last = |index: usize| env[index + 1..].iter().all(|(later, _)| *later != env[index].0);
    (0..env.len()).filter(|&index| is_last(index)).map(|index| &env[index]).collect()
}

//! `[broker -> worker]` From what is prepared to a running worker, whose first steps `sys::child` takes.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::death::Notes;
use super::filter;
use super::oom::OomKills;
use super::preparation::Preparation;
use super::stdio::{self, Opened, moved};
use super::worker::Streams;
use super::{Enforced, Limit, Sandbox, Stdio, Worker, host, root, spawner};
use crate::channel::{Channel, Kind, Packet};
use crate::error::SpawnError;
use crate::sys::child::{self, Filter, Plan, Start, Step};
use crate::sys::process;

/// Everything that is the same for each worker of a [`Sandbox`], opened, compiled and looked up: restarting one costs no
/// more than the process itself. `Clone` is cheap. The program is the file that was opened: one that is put
/// in its place afterwards is not the one that runs. A script and an interpreter, a loader and what is bound into the
/// worker's root are found by their paths at each start; Landlock allows those that were opened and no others, so after
/// they have been replaced, as by a package's upgrade, prepare anew
/// ([`Supervisor::prepare_anew`](crate::Supervisor::prepare_anew) does it for each restart).
#[derive(Clone)]
pub struct Prepared(Arc<Inner>);

pub(super) struct Inner {
    pub(super) program: PathBuf,
    pub(super) plan: Plan,
    pub(super) filter: Option<filter::Start>,
    pub(super) enforced: Arc<Enforced>,
    pub(super) channel_at: Option<RawFd>,
    /// Of 0, 1 and 2, where the channel is not.
    pub(super) stdio: Vec<(RawFd, Stdio)>,
    /// Number in the worker, and what is duplicated there.
    pub(super) descriptors: Vec<(RawFd, OwnedFd)>,
    /// More than any number in the worker. Everything that is opened for it has at least this number, so that nothing is
    /// in the way when descriptors are put at their places.
    pub(super) above: RawFd,
    pub(super) log: Option<stdio::Log>,
    pub(super) limits: Vec<Limit>,
    /// What explains its end.
    pub(super) cpu_time: Option<Duration>,
    pub(super) oom_kills: Option<OomKills>,
    pub(super) has_pid_namespace: bool,
}

impl Prepared {
    pub(super) fn new(sandbox: &Sandbox) -> Result<Self, SpawnError> {
        let prepare = || Preparation::of(sandbox).prepare();
        let short = |source| SpawnError::Prepare {
            program: sandbox.program.clone(),
            what: "trying out what this host offers",
            source,
        };
        host::known(prepare, short).map(|inner| Self(Arc::new(inner)))
    }

    /// What will hold around each worker: a worker that is started has all of it.
    #[must_use]
    pub fn enforced(&self) -> &Enforced {
        &self.0.enforced
    }

    /// Starts a worker. The channel is the broker's end, to be given to [`Broker::serve`](crate::Broker::serve).
    ///
    /// It can be called by any thread of a process that has many: it waits until the program is executed, which takes
    /// no copy of the process's memory. If [`Layer::DieWithParent`](super::Layer::DieWithParent) holds and the caller is not the main thread, a
    /// thread of the library's own does it, which lives as long as the process and is as restricted (by Landlock, a filter,
    /// capabilities) as the caller that first needed it was, not as this one is.
    ///
    /// # Errors
    /// [`SpawnError`], with the step that failed. No process is left, and no descriptor.
    pub fn spawn(&self) -> Result<(Worker, Channel), SpawnError> {
        if !self.0.plan.die_with_parent {
            return self.0.spawn();
        }
        let inner = Arc::clone(&self.0);
        spawner::for_life(move || inner.spawn())
            .map_err(|source| self.0.failed("the thread that starts workers", source))?
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("program", &self.0.program).field("plan", &self.0.plan).finish_non_exhaustive()
    }
}

impl Inner {
    fn spawn(&self) -> Result<(Worker, Channel), SpawnError> {
        let failed = |what| move |source| self.failed(what, source);
        let (here, there) = Channel::pair().map_err(|error| self.failed("making the channel", error.into()))?;
        let here = out_of_the_way(here).map_err(failed("making the channel"))?;
        let there = moved(there.into(), self.above).map_err(failed("making the channel"))?;
        let (standard, streams, logs) = self.open_stdio().map_err(failed("opening its standard descriptors"))?;
        let (listener_here, listener_there) = self.listener().map_err(failed("making the filter's socket"))?.unzip();
        let parent = self.parent().map_err(failed("pidfd_open"))?;
        let token = process::random().map_err(failed("getrandom"))?;
        let program = self.filter.as_ref().map(|filter| filter.with_token(token));
        let filter = program.as_ref().map(|program| Filter { code: &program.code, listener: program.listener });
        let standard_places = standard.iter().map(|(number, fd)| (fd.as_raw_fd(), *number));
        let declared = self.descriptors.iter().map(|(number, fd)| (fd.as_raw_fd(), *number));
        let channel = self.channel_at.map(|number| (there.as_raw_fd(), number));
        let mut places: Vec<_> = standard_places.chain(declared).chain(channel).collect();
        places.sort_by_key(|(_, number)| *number);
        let start = Start {
            plan: &self.plan,
            descriptors: &places,
            filter,
            token,
            listener: listener_there.as_ref().map(AsRawFd::as_raw_fd),
            parent: parent.as_ref().map(AsRawFd::as_raw_fd),
        };
        let notes = Notes::at_start(self.oom_kills.as_ref(), self.cpu_time);
        let (pid, pidfd) = child::spawn(&start).map_err(|failure| self.failed_step(failure))?;
        drop((there, standard, listener_there));

        // From here on, an error drops the worker, and so ends it.
        let mut worker = Worker::new(pid, pidfd, Arc::clone(&self.enforced), streams, notes);
        worker.out_of_the_way().map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
        if let Some(socket) = listener_here {
            let listener = received(&socket).and_then(|listener| moved(listener, 3));
            let listener = listener.map_err(failed("receiving the filter's listener"))?;
            worker.watch(listener).map_err(failed("starting the thread that watches the filter"))?;
        }
        for (number, stream) in logs {
            if let Some(log) = &self.log {
                let pidfd = worker.as_fd().try_clone_to_owned().map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
                stdio::follow(stream, worker.id(), pidfd, number, Arc::clone(log))
                    .map_err(failed("starting the thread that reads its output"))?;
            }
        }
        Ok((worker, here))
    }

    /// The worker's ends with their numbers; the other ends for the worker's holder; and those for the log.
    #[allow(clippy::type_complexity, reason = "three lists, taken apart where it is called")]
    fn open_stdio(&self) -> io::Result<(Vec<(RawFd, OwnedFd)>, Streams, Vec<(RawFd, OwnedFd)>)> {
        let (mut places, mut streams, mut logs) = (Vec::new(), Streams::default(), Vec::new());
        for (number, stdio) in &self.stdio {
            let Opened { end, other } = stdio.open(*number, self.above)?;
            places.push((*number, end));
            let Some(other) = other else { continue };
            match (number, stdio) {
                (_, Stdio::Log) => logs.push((*number, other)),
                (0, _) => streams.stdin = Some(other),
                (1, _) => streams.stdout = Some(other),
                _ => streams.stderr = Some(other),
            }
        }
        Ok((places, streams, logs))
    }

    /// A pair for the filter's listener, if it has one.
    fn listener(&self) -> io::Result<Option<(Channel, OwnedFd)>> {
        let has_listener = self.filter.as_ref().is_some_and(filter::Start::has_listener);
        if !has_listener {
            return Ok(None);
        }
        let (here, there) = Channel::pair_of(Kind::SeqPacket)?;
        Ok(Some((out_of_the_way(here)?, moved(there.into(), self.above)?)))
    }

    fn parent(&self) -> io::Result<Option<OwnedFd>> {
        if !self.plan.die_with_parent || !self.has_pid_namespace {
            return Ok(None);
        }
        moved(process::this()?, self.above).map(Some)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> SpawnError {
        SpawnError::Prepare { program: self.program.clone(), what, source }
    }

    fn failed_step(&self, child::Failure { step, why, which }: child::Failure) -> SpawnError {
        let about = match step {
            Step::Bind => {
                let entity = self.plan.root.as_ref().and_then(|root| root.get(which));
                entity.map(|entity| root::path_of(entity).display().to_string())
            }
            Step::Limits => self.limits.get(which).map(ToString::to_string),
            Step::WorkingDirectory => Some(self.plan.working_directory.to_string_lossy().into_owned()),
            Step::Listener if why == child::Why::Refused(libc::ETOOMANYREFS) => Some(IN_FLIGHT.to_owned()),
            Step::Exec if why == child::Why::Refused(libc::EAGAIN) => Some(CROWDED.to_owned()),
            _ => None,
        };
        SpawnError::Step { program: self.program.clone(), step, about, source: why.into() }
    }
}

/// What ETOOMANYREFS is about when a worker sends its filter's listener (K9).
const IN_FLIGHT: &str = "processes of the worker's user have sent more descriptors than it may have open, which nobody \
    has received: give the worker a user of its own, or end who does not receive";

/// What EAGAIN is about when it executes its program.
const CROWDED: &str = "the worker's user has more processes and threads than the broker's RLIMIT_NPROC: give the worker \
    a user of its own, or its workers less (Limit::Processes)";

/// A broker may have closed 0, 1 or 2. Its end of the channel must not get one of these numbers, for the next `println!`
/// to write into.
fn out_of_the_way(channel: Channel) -> io::Result<Channel> {
    if channel.as_fd().as_raw_fd() > 2 {
        return Ok(channel);
    }
    Ok(Channel::try_from(moved(channel.into(), 3)?)?)
}

/// The descriptor that the child has sent before it executed its program.
fn received(socket: &Channel) -> io::Result<OwnedFd> {
    let mut packet = Packet::new();
    socket.try_recv(&mut packet)?;
    packet.take_fds().next().ok_or_else(|| io::Error::other("no descriptor came"))
}

//! `[worker]` The second half of the sandbox, by the worker's own word once it runs.

use std::io;

use landlock::RulesetStatus;
use nix::sys::prctl;

use super::filter::{self, Refusal, Word, Words};
use super::{Enforced, Layer, landlock as rulesets};
use crate::error::LockdownError;
use crate::sys::process;

/// Gives up, for good, everything that a running worker does not need: [`Lockdown::serves`], enforced.
///
/// From here on the process computes, makes threads, and uses the descriptors that it holds and is granted. Opening
/// files, executing programs, making processes, executable memory, and sockets that reach anybody are refused.
///
/// Call it from the main function, before threads. It works in any process, also in one that fdbroker did not start.
/// [`split`](crate::split()) calls it for you.
///
/// # Errors
/// As for [`Lockdown::enforce`].
pub fn lockdown() -> Result<Enforced, LockdownError> {
    Lockdown::serves().enforce()
}

/// What a running process gives up, for good: a preset by what is left to it, and words for what it needs beyond.
///
/// ```no_run
/// use fdbroker::{Lockdown, Word};
///
/// // A decoder that compiles what it decodes.
/// let enforced = Lockdown::computes().allow(Word::Code).enforce()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What it cannot refuse: asking whether a file exists and for its size and times (the C library's fstat(3) is a call
/// on a path too, and a filter does not see paths).
#[derive(Debug, Clone)]
#[must_use = "nothing is given up before `enforce`"]
pub struct Lockdown {
    left: Left,
    words: Words,
    refusal: Refusal,
}

/// What a preset leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Computing,
    Serving,
    Files,
}

impl Lockdown {
    /// Computes: memory, threads, the descriptors that it holds, and the channel with what is granted over it. No
    /// sockets but those that it was given, and no new executable memory. For parsers, decoders, renderers.
    pub const fn computes() -> Self {
        Self { left: Left::Computing, words: Words::NONE.with(Word::Threads), refusal: Refusal::Errno }
    }

    /// Serves: as [`computes`](Self::computes), and accepts connections on listeners that it holds, with all options
    /// and pairs of sockets. For servers.
    pub const fn serves() -> Self {
        Self { left: Left::Serving, words: Self::computes().words.with(Word::Sockets), refusal: Refusal::Errno }
    }

    /// Spawns nothing: opens and changes files as before, as far as permissions let, and loads code; but makes no
    /// process, executes no program, and makes no socket that reaches anybody. Landlock is left as it is. For programs
    /// that find their files as they go, such as interpreters.
    ///
    /// A process that is not root finds most files of its own in /proc closed from then on: see [`Layer::NotDumpable`].
    pub const fn spawns_nothing() -> Self {
        let words = Self::serves().words.with(Word::Load).with(Word::Files).with(Word::Code);
        Self { left: Left::Files, words, refusal: Refusal::Errno }
    }

    /// What is left, in one line.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        match self.left {
            Left::Computing => "computes: memory, threads, descriptors that it holds",
            Left::Serving => "serves: memory, threads, descriptors and sockets that it holds",
            Left::Files => "spawns nothing: files as before, no processes and no programs",
        }
    }

    /// Leaves this, too. It gives nothing back that an earlier filter, Landlock or the user refuses; in particular,
    /// [`Word::Load`] opens nothing with a preset that leaves Landlock nothing.
    pub const fn allow(mut self, word: Word) -> Self {
        self.words = self.words.with(word);
        self
    }

    /// Gives this up, too, if the preset leaves it.
    pub const fn without(mut self, word: Word) -> Self {
        self.words = self.words.without(word);
        self
    }

    /// What comes of a system call that is not left. [`Refusal::Kill`] ends the process with SIGSYS here.
    pub const fn refusal(mut self, refusal: Refusal) -> Self {
        self.refusal = refusal;
        self
    }

    /// Gives up the rest: sets no_new_privs, leaves Landlock nothing, makes the process non-dumpable (no core, no
    /// tracing by its own user), and puts the filter on every thread there is. It can be done again, to give up more.
    ///
    /// Landlock covers the calling thread and those that it starts. If there are others already, the report says that
    /// Landlock does not hold: what one thread can do, all can that share its memory. The filter alone refuses to open
    /// anything then.
    ///
    /// # Errors
    /// [`LockdownError`], when the kernel has no seccomp or refuses a step. The process may be locked down in part: end
    /// it. A kernel without Landlock is no error but said in the answer: the filter alone refuses to open anything.
    pub fn enforce(&self) -> Result<Enforced, LockdownError> {
        let mut enforced = Enforced::default();
        let os = |what| move |errno: nix::errno::Errno| failed(what)(errno.into());
        prctl::set_no_new_privs().map_err(os("prctl(PR_SET_NO_NEW_PRIVS)"))?;
        enforced.push(Layer::NoNewPrivs, Ok("set".to_owned()));

        let mut scoped = false;
        if self.left != Left::Files {
            let landlock = leave_nothing()?;
            scoped = landlock.as_ref().is_ok_and(|&abi| abi >= rulesets::SCOPES_SIGNALS);
            enforced.push(Layer::Landlock, landlock.map(|abi| format!("ABI {abi}, nothing left")));
        }
        // Before the filter, which lets nobody take it back. (A change of user would set it anew; that is refused.)
        prctl::set_dumpable(false).map_err(os("prctl(PR_SET_DUMPABLE)"))?;
        let code = filter::for_lockdown(self.words, self.refusal, scoped).map_err(failed("compiling the filter"))?;
        seccompiler::apply_filter_all_threads(&code).map_err(|error| failed("seccomp")(io::Error::other(error)))?;
        enforced.push(Layer::Seccomp, Ok(self.description().to_owned()));
        enforced.push(Layer::NotDumpable, Ok("no tracing by its user, no core".to_owned()));
        Ok(enforced)
    }
}

/// Landlock with nothing left. The ABI that holds for the whole process, or why none does.
fn leave_nothing() -> Result<Result<u32, String>, LockdownError> {
    let abi = match rulesets::abi() {
        Ok(abi) => abi,
        Err(why) => return Ok(Err(why)),
    };
    // Before anything is refused: it may have to look into /proc.
    let alone = process::has_one_thread();
    let status = rulesets::nothing()
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| failed("landlock_restrict_self")(io::Error::other(error)))?;
    Ok(match (status.ruleset, alone) {
        (RulesetStatus::NotEnforced, _) => Err("the kernel did not enforce it".to_owned()),
        (_, Ok(true)) => Ok(abi),
        (_, Ok(false)) => Err(format!("ABI {abi} for this thread only: others are held by the filter alone")),
        (_, Err(_)) => Err(format!("ABI {abi} for this thread; others, if any, are held by the filter alone")),
    })
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> LockdownError {
    move |source| LockdownError { what, source }
}

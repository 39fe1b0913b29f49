//! `[worker]` The second half of the sandbox, by the worker's own word once it runs.

use std::io;

use landlock::RulesetStatus;

use super::{Enforced, Layer, filter, landlock as rulesets};
use crate::error::LockdownError;

/// Gives up, for good, everything that a running worker does not need: from here on the process computes, makes
/// threads, and uses the descriptors that it holds and is granted. Opening files, executing programs, making processes
/// and sockets that reach anybody are refused.
///
/// Call it from the main function, before threads: the system-call filter is put on every thread there is, Landlock on
/// the calling one and those that it starts. It works in any process, also in one that fdbroker did not start.
/// [`split`](crate::split()) calls it for you.
///
/// What it cannot refuse: asking whether a file exists and for its size and times (the C library's fstat(3) is a call
/// on a path too, and a filter does not see paths).
///
/// # Errors
/// [`LockdownError`], when the kernel has no seccomp or refuses a step. The process may be locked down in part: end it.
/// A kernel without Landlock is no error but said in the answer: the filter alone refuses to open anything.
pub fn lockdown() -> Result<Enforced, LockdownError> {
    let mut enforced = Enforced::default();
    let abi = rulesets::abi();
    let scoped = abi.as_ref().is_ok_and(|&abi| abi >= rulesets::SCOPES_SIGNALS);
    let filters = filter::filters(filter::Stage::Locked, scoped).map_err(failed("compiling the filter"))?;

    let landlock = match abi {
        Ok(abi) => {
            let status = rulesets::nothing()
                .and_then(landlock::RulesetCreated::restrict_self)
                .map_err(|error| failed("landlock_restrict_self")(io::Error::other(error)))?;
            match status.ruleset {
                RulesetStatus::NotEnforced => Err("the kernel did not enforce it".to_owned()),
                _ => Ok(format!("ABI {abi}, nothing left")),
            }
        }
        Err(why) => Err(why),
    };
    for filter in &filters {
        seccompiler::apply_filter_all_threads(filter).map_err(|error| failed("seccomp")(io::Error::other(error)))?;
    }
    enforced.push(Layer::NoNewPrivs, Ok("set".to_owned()));
    enforced.push(Layer::Landlock, landlock);
    enforced.push(Layer::Seccomp, Ok("descriptors held, memory, threads, time".to_owned()));
    Ok(enforced)
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> LockdownError {
    move |source| LockdownError { what, source }
}

//! `[broker -> worker]` `fdbroker learn`: a run in which everything is granted, and the policy that it needed. Feature
//! `learn` only.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::audit::Lines;
use super::run::Worker;
use super::source::Set;
use super::{Failure, death};
use crate::broker::{Audit, Broker, Record};
use crate::policy::{Learned, Policy};

/// Runs a program that is GRANTED EVERYTHING, and writes the policy that it needed
///
/// What no rule denies is granted, as far as the user of this process may have it, but for descriptors of directories
/// and services: never run a program so that is exposed to anybody. When it has ended, a policy file is written that
/// grants what was granted in this run, object by object, and nothing else. It is a draft: read it, and put patterns or
/// trees in the place of names that differ from run to run.
///
/// With a POLICY, what it denies is refused, and what it grants is granted on its terms; the file that is written
/// stands alone all the same. A POLICY with phases is of no use here: the program stays in the first one.
///
/// Exit status: as of run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fdbroker learn --output draft.toml -- /usr/lib/my-daemon/worker
  fdbroker learn --output draft.toml denials.toml -- /usr/lib/my-daemon/worker
  fdbroker check draft.toml")]
pub(super) struct Learn {
    /// The file to write the policy to, in place of what is there
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    set: Set,
    /// A policy file, in TOML, that holds as well
    policy: Option<PathBuf>,
    #[command(flatten)]
    worker: Worker,
}

impl Learn {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (builder, limits) = match &self.policy {
            Some(policy) => {
                let loaded = self.set.load(policy)?;
                (loaded.builder, loaded.file.limits())
            }
            None => (Policy::builder(), crate::policy::Limits::new()),
        };
        let failed = |error: io::Error| Failure(format!("{}: {error}", self.output.display()));
        // Before the run: to have nowhere to put what was learnt would be known too late.
        let mut output = File::create(&self.output).map_err(failed)?;
        let learned = Arc::new(Learned::new());
        let audit = Both { learned: learned.clone(), lines: Lines::new() };
        let broker = Broker::new().limits(limits).audit_to(audit);
        let ended = self.worker.serve(&broker, || Ok(builder.learn().build()?))?;
        let status = death::ended("the worker", ended, false);
        let text = learned.to_toml();
        output.write_all(text.as_bytes()).and_then(|()| output.sync_all()).map_err(failed)?;
        let file = learned.policy_file()?;
        let rules = file.rules().count();
        let note =
            format!("{rules} rules are written to {}: a draft, to be read before it is used", self.output.display());
        let _ = writeln!(io::stderr(), "fdbroker: {note}");
        if let Err(error) = file.builder(&crate::policy::Values::new())?.build() {
            let _ = writeln!(io::stderr(), "fdbroker: as it stands it does not load: {error}");
        }
        Ok(status)
    }
}

/// Every record is needed, whether or not it is shown.
struct Both {
    learned: Arc<Learned>,
    lines: Lines,
}

impl Audit for Both {
    fn record(&self, record: &Record<'_>) {
        self.learned.record(record);
        self.lines.record(record);
    }
}

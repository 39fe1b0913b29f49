//! `[broker -> worker]` `fdbroker sandbox`: any program in the sandbox, with nobody to ask; and what this host offers.

mod list;
mod probe;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use super::json::Json;
use super::paint::Paint;
use super::table::table;
use super::walls::Walls;
use super::{Failure, death, print};
use crate::broker::{Broker, Printable};
use crate::policy::Policy;
use crate::sandbox::{Enforced, Layer, Preset, Stdio};
use crate::supervise::{passed_on, supervise};

/// Shows what holds around a program, and runs it in the sandbox
///
/// The program is any that reads, writes and computes: it has standard input, output and error of this process, and no
/// other descriptor; there is no broker that it could ask for one. Its environment is empty, its working directory is
/// `/`, unless said otherwise. What holds around it is shown on standard error before it starts.
///
/// SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on to it; in a PID namespace, they kill it if it does
/// not handle them. If the filter, a limit or a want of memory ends it, a line on standard error says so, with --json a
/// second document.
///
/// Exit status: the program's, or 128 and the number of the signal that killed it; 2 if it could not be started. With
/// --dry-run: 0, or 2 if it could not be started. With --probe: 0 if a sandbox with the options given beside it can be
/// had here, 1 if a layer is required that is not to be had.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fdbroker sandbox -- /usr/bin/sort < names
  fdbroker sandbox --preset full --full --limit memory=512M,cpu-time=10 -- ./convert < in.png > out.png
  fdbroker sandbox --preset full --allow processes,exec --runtime /usr/bin -- sh -c 'sort | uniq -c' < names
  fdbroker sandbox --dry-run --json -- ./worker
  fdbroker sandbox --probe
  fdbroker sandbox --probe --preset full --full && echo all of it")]
pub(super) struct Sandboxed {
    /// Shows on standard output what would hold, and runs nothing
    #[arg(long)]
    dry_run: bool,
    /// Shows what this host offers, and for what it does not, what an administrator can do
    #[arg(long, conflicts_with_all = ["dry_run", "program"])]
    probe: bool,
    /// Lists presets, layers, words and limits, with what they are
    #[arg(long, exclusive = true)]
    list: bool,
    /// Writes what is shown as one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    walls: Walls,
    /// The program and its arguments; without a slash it is looked for in PATH
    #[arg(last = true, num_args = 1.., value_names = ["PROGRAM", "ARGS"])]
    #[arg(required_unless_present_any = ["probe", "list"])]
    program: Vec<OsString>,
}

impl Sandboxed {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.list {
            return print(list::list(Paint::of(&io::stdout())).as_bytes()).map(|()| ExitCode::SUCCESS);
        }
        if self.probe {
            return probe::probe(self.walls, self.json);
        }
        // Before there are threads.
        let signals = passed_on();
        signals.thread_block()?;
        let about = About { program: self.program[0].to_string_lossy().into_owned(), preset: self.walls.preset };
        let sandbox = self.walls.around(self.program)?.no_channel().stdin(Stdio::inherit());
        let prepared = sandbox.prepare()?;
        if self.dry_run {
            let shown = about.shown(prepared.enforced(), self.json, Paint::of(&io::stdout()));
            return print(&shown).map(|()| ExitCode::SUCCESS);
        }
        // In one piece, whether or not there is anybody to read it.
        let _ = io::stderr().write_all(&about.shown(prepared.enforced(), self.json, Paint::of(&io::stderr())));
        // Nobody has the other end of the channel, so there is nothing to serve.
        let nothing = Policy::builder().build()?;
        let ended = supervise(&signals, prepared, &Broker::new(), nothing, |_| {})?;
        Ok(death::ended("the program", ended, self.json))
    }
}

struct About {
    program: String,
    preset: Preset,
}

impl About {
    fn shown(&self, enforced: &Enforced, json: bool, paint: Paint) -> Vec<u8> {
        if json { self.json(enforced) } else { self.people(enforced, paint) }
    }

    fn people(&self, enforced: &Enforced, paint: Paint) -> Vec<u8> {
        let rows: Vec<_> = enforced.layers().map(|(layer, state)| row(layer, state, paint)).collect();
        let missing: Vec<_> = enforced.layers().filter(|(_, state)| state.is_err()).collect();
        let names = missing.iter().map(|(layer, _)| layer.name()).collect::<Vec<_>>().join(", ");
        let outcome = if missing.is_empty() {
            format!("{}: preset {}, {} layers", paint.good("it is whole"), self.preset, rows.len())
        } else {
            format!("{}: preset {}, without {names}", paint.doubtful("it is not whole"), self.preset)
        };
        format!("{}\n{outcome}\n", table(["layer", "holds", "what it is, or why not"], &rows, paint)).into_bytes()
    }

    fn json(&self, enforced: &Enforced) -> Vec<u8> {
        Json::Object(vec![
            ("program", Json::text(&self.program)),
            ("preset", Json::text(self.preset)),
            ("whole", Json::Bool(enforced.is_full())),
            ("layers", Json::list(enforced.layers().map(|layer| json_of(layer, "enforced")))),
        ])
        .document()
    }
}

/// A layer with its state. `is_there` is what it is called that there is such a layer.
fn json_of((layer, state): (Layer, Result<&str, &str>), is_there: &'static str) -> Json {
    Json::Object(vec![
        ("layer", Json::text(layer)),
        (is_there, Json::Bool(state.is_ok())),
        ("detail", Json::text(state.unwrap_or_else(|why| why))),
    ])
}

fn row(layer: Layer, state: Result<&str, &str>, paint: Paint) -> [String; 3] {
    match state {
        Ok(what) => [layer.to_string(), paint.good("yes"), Printable(what).to_string()],
        Err(why) => [layer.to_string(), paint.wrong("NO"), paint.faint(Printable(why))],
    }
}

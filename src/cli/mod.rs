//! `[broker]` The program `fdbroker`: runs a worker by a policy file, and says what is in one; runs any program in the
//! sandbox. No part of the library's interface.

mod audit;
mod check;
mod death;
mod explain;
mod json;
#[cfg(feature = "learn")]
mod learn;
mod paint;
mod request;
mod run;
mod sandbox;
mod source;
mod table;
mod walls;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

const ABOUT: &str = "Runs programs that open nothing themselves, and says what a policy lets them have";

const LONG_ABOUT: &str = "\
Runs a program in a sandbox, in which it can open no file and no socket, and hands it the descriptors that a policy \
grants when it asks for them. The program must be a cooperating worker: one that asks the broker at its standard input, \
through the crate fdbroker or by its documented wire format. Any other program can be run in the sandbox alone.";

const AFTER: &str = "\
Examples:
  fdbroker check policy.toml
  fdbroker explain policy.toml read /etc/hosts
  fdbroker run policy.toml -- /usr/lib/my-daemon/worker --verbose
  fdbroker sandbox -- /usr/bin/sort

What a policy file says is in the documentation of fdbroker::PolicyFile: https://docs.rs/fdbroker

Exit status: 2 for a wrong command line, for a policy that is not right and for a worker that could not be started; \
otherwise what each command says.";

#[derive(Debug, Parser)]
#[command(name = "fdbroker", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Sandbox(sandbox::Sandboxed),
    Check(check::Check),
    Explain(explain::Explain),
    #[cfg(feature = "learn")]
    Learn(learn::Learn),
    /// Writes completions for a shell to standard output
    ///
    /// Where they belong is for the shell to say. For bash:
    ///
    ///   fdbroker completions bash > ~/.local/share/bash-completion/completions/fdbroker
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes the manual page to standard output, in roff
    ///
    /// To read it: fdbroker man | man -l -
    Man,
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(run) => run.run(),
        Command::Sandbox(sandboxed) => sandboxed.run(),
        Command::Check(check) => check.run(),
        Command::Explain(explain) => explain.run(),
        #[cfg(feature = "learn")]
        Command::Learn(learn) => learn.run(),
        Command::Completions { shell } => completions(shell),
        Command::Man => manual(),
    };
    done.unwrap_or_else(|failure| {
        failure.complain();
        ExitCode::from(FAILED)
    })
}

/// The exit status of what could not be done.
const FAILED: u8 = 2;

/// Why the program gives up, in words.
#[derive(Debug)]
struct Failure(String);

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Failure {
    fn complain(&self) {
        let name = paint::Paint::of(&io::stderr()).wrong("fdbroker:");
        // Whether or not there is anybody to read it.
        let _ = writeln!(io::stderr(), "{name} {}", crate::broker::Printable(&self.0));
    }
}

/// Writes to standard output. That its reader has seen enough is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "fdbroker", &mut text);
    print(&text).map(|()| ExitCode::SUCCESS)
}

/// One page for all: the program's, and a section for each command.
fn manual() -> Result<ExitCode, Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    let mut page = String::from_utf8_lossy(&text).replace(".SH EXTRA", ".SH EXAMPLES");
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let (name, mut text) = (command.get_name(), Vec::new());
        let man = clap_mangen::Man::new(command.clone());
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        if command.get_after_help().is_some() {
            man.render_extra_section(&mut text)?;
        }
        // Its headings are those of a part of the page, and it has no page of its own.
        let section = String::from_utf8_lossy(&text).replace(".SH EXTRA", ".SH EXAMPLES").replace(".SH ", ".SS ");
        page = page.replace(&format!("fdbroker\\-{name}(1)"), &format!("fdbroker {name}"));
        page += &format!(".SH \"COMMAND {}\"\n{section}", name.to_uppercase());
    }
    print(page.replace("fdbroker\\-help(1)", "fdbroker help").as_bytes()).map(|()| ExitCode::SUCCESS)
}

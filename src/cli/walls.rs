//! `[broker -> worker]` What stands around a program, as the commands that start one are told it.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use nix::unistd::{Uid, User};

use super::Failure;
use crate::sandbox::{Layer, Limit, Mode, Preset, Refusal, Sandbox, Word};

#[derive(Debug, clap::Args)]
pub(super) struct Walls {
    /// Which layers stand around the program
    #[arg(long, value_name = "PRESET", default_value = "standard", value_parser = one_of::<Preset>(presets()))]
    #[arg(help_heading = HEADING)]
    pub(super) preset: Preset,
    /// A layer without which the program is not started
    ///
    /// Several are separated by commas, or given one by one, as with the options that follow.
    #[arg(long, value_name = "LAYER", value_delimiter = ',', value_parser = one_of::<Layer>(layers()))]
    #[arg(help_heading = HEADING)]
    require: Vec<Layer>,
    /// A layer that is put up where the host has it
    #[arg(long, value_name = "LAYER", value_delimiter = ',', value_parser = one_of::<Layer>(layers()))]
    #[arg(help_heading = HEADING, hide_possible_values = true)]
    if_available: Vec<Layer>,
    /// A layer that is left off
    #[arg(long, value_name = "LAYER", value_delimiter = ',', value_parser = one_of::<Layer>(layers()))]
    #[arg(help_heading = HEADING, hide_possible_values = true)]
    off: Vec<Layer>,
    /// Does not start the program unless every layer holds that is wanted, by the preset or by name
    #[arg(long, help_heading = HEADING)]
    full: bool,
    /// What the system-call filter allows beside threads, load, sockets and code, and what every program may
    #[arg(long, value_name = "WORD", value_delimiter = ',', value_parser = one_of::<Word>(words()))]
    #[arg(help_heading = HEADING)]
    allow: Vec<Word>,
    /// What the filter does not allow: one of threads, load, sockets and code
    #[arg(long, value_name = "WORD", value_delimiter = ',', value_parser = one_of::<Word>(words()))]
    #[arg(help_heading = HEADING, hide_possible_values = true)]
    without: Vec<Word>,
    /// What comes of a system call that the filter does not allow
    #[arg(long, value_name = "HOW", default_value = "errno", value_parser = one_of::<Refusal>(refusals()))]
    #[arg(help_heading = HEADING)]
    refuse: Refusal,
    /// A limited resource: memory, data, stack, locked-memory, file-size or core, in bytes, of which k, M, G and T make
    /// 1024 times as many each; cpu-time, in seconds; descriptors, processes or pending-signals, by their number
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = limit)]
    #[arg(help_heading = HEADING)]
    limit: Vec<(Limit, u64)>,
    /// The user whom the program runs as, by name or number; only root can ask for it [default: nobody]
    #[arg(long, value_name = "NAME|UID", help_heading = HEADING)]
    user: Option<String>,
    /// A variable of the program's environment; without a value, as it is here
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = HEADING)]
    env: Vec<OsString>,
    /// A file or directory that the program needs to start, beyond the system's libraries, as an interpreter does
    #[arg(long, value_name = "PATH", help_heading = HEADING)]
    runtime: Vec<PathBuf>,
    /// The program's working directory, as it sees it: in a root of its own, one that is above or in what it needs
    #[arg(long, value_name = "PATH", default_value = "/", help_heading = HEADING)]
    chdir: PathBuf,
}

const HEADING: &str = "Sandbox";

impl Walls {
    /// The program, its arguments, and these walls around it. It ends with this process, unless that is said to be off.
    pub(super) fn around(self, program: Vec<OsString>) -> Result<Sandbox, Failure> {
        let mut arguments = program.into_iter();
        let program = arguments.next().unwrap_or_default();
        self.apply(Sandbox::new(find(&program)?).args(arguments))
    }

    pub(super) fn apply(self, sandbox: Sandbox) -> Result<Sandbox, Failure> {
        let modes = self.modes()?;
        if let Some(word) = self.allow.iter().find(|word| self.without.contains(word)) {
            return Err(Failure(format!("--allow {word} and --without {word}: say one of them")));
        }
        let mut sandbox = sandbox.preset(self.preset).die_with_parent().refusal(self.refuse).current_dir(self.chdir);
        for (layer, mode) in modes {
            sandbox = sandbox.layer(layer, mode);
        }
        if self.full {
            sandbox = sandbox.require_full();
        }
        sandbox = self.allow.into_iter().fold(sandbox, Sandbox::allow);
        sandbox = self.without.into_iter().fold(sandbox, Sandbox::without);
        sandbox = self.limit.into_iter().fold(sandbox, |sandbox, (limit, value)| sandbox.limit(limit, value));
        sandbox = self.env.iter().fold(sandbox, |sandbox, variable| with_variable(sandbox, variable));
        sandbox = self.runtime.into_iter().fold(sandbox, Sandbox::runtime);
        Ok(match self.user {
            None => sandbox,
            Some(user) => match user.parse::<u32>() {
                Ok(uid) => sandbox.ids(uid, group(uid)),
                Err(_) => sandbox.user(user),
            },
        })
    }

    fn modes(&self) -> Result<Vec<(Layer, Mode)>, Failure> {
        let mut modes: Vec<(Layer, Mode)> = Vec::new();
        for (layers, mode) in
            [(&self.require, Mode::Required), (&self.if_available, Mode::IfAvailable), (&self.off, Mode::Off)]
        {
            for &layer in layers {
                if let Some((_, other)) = modes.iter().find(|(known, other)| *known == layer && *other != mode) {
                    return Err(Failure(format!(
                        "layer \"{layer}\" is said to be {other}, and {mode}: say one of them"
                    )));
                }
                modes.push((layer, mode));
            }
        }
        Ok(modes)
    }
}

/// As people write it on a command line.
pub(super) fn written(name: &str) -> String {
    name.replace(' ', "-")
}

pub(super) fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
    Preset::ALL.into_iter().map(|preset| (preset.name(), preset.description()))
}

fn layers() -> impl Iterator<Item = (&'static str, &'static str)> {
    Layer::ALL.into_iter().map(|layer| (layer.name(), layer.description()))
}

pub(super) fn words() -> impl Iterator<Item = (&'static str, &'static str)> {
    Word::ALL.into_iter().map(|word| (word.name(), word.description()))
}

fn refusals() -> impl Iterator<Item = (&'static str, &'static str)> {
    Refusal::ALL.into_iter().map(|refusal| (refusal.name(), refusal.description()))
}

/// One of these names, each with its description.
fn one_of<T>(all: impl Iterator<Item = (&'static str, &'static str)>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    let values = all.map(|(name, description)| {
        let joined = written(name);
        PossibleValue::new(joined.clone()).help(description).aliases([name.to_owned(), joined.replace('_', "-")])
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse())
}

/// A resource and how much of it.
fn limit(text: &str) -> Result<(Limit, u64), Box<dyn Error + Send + Sync>> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in memory=512M")?;
    let limit: Limit = name.parse()?;
    let (digits, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let counts_bytes = !matches!(limit, Limit::Descriptors | Limit::Processes | Limit::CpuTime);
    let shift = match unit {
        "" => 0,
        _ if !counts_bytes => {
            return Err(format!("{name} has no unit: write a plain number ({})", limit.description()).into());
        }
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("there is no unit {unit:?}: there are k, M, G and T").into()),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{digits:?} is no number of {name}: {error}"))?;
    let value = number.checked_mul(1 << shift).ok_or_else(|| format!("{value} is more than there can be"))?;
    Ok((limit, value))
}

fn with_variable(sandbox: Sandbox, variable: &OsStr) -> Sandbox {
    let bytes = variable.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(equals) => sandbox.env(OsStr::from_bytes(&bytes[..equals]), OsStr::from_bytes(&bytes[equals + 1..])),
        None => match std::env::var_os(variable) {
            Some(value) => sandbox.env(variable, value),
            None => sandbox,
        },
    }
}

/// The group of a user; of one that nobody knows, that of the same number.
pub(super) fn group(uid: u32) -> u32 {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or(uid, |user| user.gid.as_raw())
}

/// As shells find it. The worker's directory is another, so the path is absolute.
fn find(program: &OsStr) -> Result<PathBuf, Failure> {
    if program.as_bytes().contains(&b'/') {
        return Ok(std::path::absolute(program)?);
    }
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    found.find_map(|directory| Some(directory.join(Path::new(program))).filter(runs)).ok_or_else(|| {
        Failure(format!("{}: there is no such program in PATH: name it with its directory", program.to_string_lossy()))
    })
}

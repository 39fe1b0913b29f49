//! `[broker]` The policy file that a command is given, with the values for its templates.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::policy::{PolicyBuilder, PolicyFile, Values};

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// A value for {NAME} in the paths of the policy: one plain component of a path
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Source {
    #[command(flatten)]
    set: Set,
    /// The policy file, in TOML; `-` for standard input
    pub(super) policy: PathBuf,
}

/// A policy file that has been read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) file: PolicyFile,
    pub(super) builder: PolicyBuilder,
}

impl Source {
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        self.set.load(&self.policy)
    }
}

impl Set {
    pub(super) fn load(&self, policy: &Path) -> Result<Loaded, Failure> {
        let values = self.values()?;
        let from_stdin = policy == Path::new("-");
        let name = if from_stdin { "standard input".into() } else { policy.to_string_lossy() };
        let failed = |error: std::io::Error| Failure(format!("{name}: {error}"));
        let mut text = Vec::new();
        if from_stdin {
            std::io::stdin().read_to_end(&mut text).map_err(failed)?;
        } else {
            text = std::fs::read(policy).map_err(failed)?;
        }
        let text = String::from_utf8(text).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            Failure(format!("{name}:{line}: it is not UTF-8, as TOML is: write such names as {{ escaped = '...' }}"))
        })?;
        let file = PolicyFile::parse(&text, &name)?;
        let builder = file.builder(&values)?;
        Ok(Loaded { file, builder })
    }

    fn values(&self) -> Result<Values, Failure> {
        self.set.iter().try_fold(Values::new(), |values, said| {
            let wrong = || Failure(format!("--set {}: write NAME=VALUE", said.to_string_lossy()));
            let bytes = said.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let name = std::str::from_utf8(&bytes[..equals]).map_err(|_| wrong())?;
            values
                .with(name, OsStr::from_bytes(&bytes[equals + 1..]))
                .map_err(|error| Failure(format!("--set: {error}")))
        })
    }
}

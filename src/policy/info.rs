//! `[broker]` What a rule is called, for people: its words and where it was written.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

/// Where a rule was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In a program.
    Code(&'static Location<'static>),
    /// In a policy file.
    Text {
        /// The file's name, as it was given.
        file: Arc<str>,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// In a list of rules that came in another way: the position, from 1.
    Position(usize),
}

impl Place {
    #[track_caller]
    pub(super) fn here() -> Self {
        Self::Code(Location::caller())
    }
}

/// `file:line:column`, as compilers say it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(location) => write!(f, "{location}"),
            Self::Text { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Position(position) => write!(f, "rule {position}"),
        }
    }
}

/// A rule of a policy, for people.
#[derive(Debug)]
pub struct Info {
    pub(super) number: u32,
    pub(super) text: Box<str>,
    pub(super) place: Place,
    pub(super) once: Option<u32>,
}

impl Info {
    /// Its number in the policy, from 1, in the order in which the rules were given.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What it says, in one line, as `allow beneath /srv/www: read`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it was written.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its place among the rules that grant one time.
    pub(super) fn once(&self) -> Option<usize> {
        self.once.map(|once| once as usize)
    }
}

/// What it says, and where.
impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.place)
    }
}

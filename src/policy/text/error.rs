//! `[broker]` What is wrong with a policy file.

use crate::policy::Place;

/// A policy file, or a value for it, is not right: where, and what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct TextError {
    place: Place,
    message: String,
}

impl TextError {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }

    /// Where: file, line and column.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong, and what would be right, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

//! `[both]` What was enforced, not what was asked.

use std::fmt::{self, Write};

use super::Layer;
use super::states::States;
use crate::broker::Escaped;

/// Which layers hold around a worker, and why the others do not. [`Display`](fmt::Display) makes an aligned table of
/// it. Layers that were not asked for are not in it.
#[derive(Debug, Clone, Default)]
pub struct Enforced(States);

impl Enforced {
    pub(super) fn push(&mut self, layer: Layer, state: Result<String, String>) {
        self.0.push(layer, state);
    }

    /// As [`Layer::ALL`] has them.
    pub(super) fn in_order(self) -> Self {
        Self(self.0.in_order())
    }

    /// Each layer with what it is, or with the reason why it is not there.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, Result<&str, &str>)> {
        self.0.iter()
    }

    /// Whether this layer holds.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        self.layers().any(|(known, state)| known == layer && state.is_ok())
    }

    /// Whether every layer holds that was asked for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.layers().all(|(_, state)| state.is_ok())
    }

    /// No error if every layer holds that was asked for.
    ///
    /// # Errors
    /// [`NotFull`], with each layer that does not hold and why.
    pub fn require_full(&self) -> Result<(), NotFull> {
        let missing = self.layers().filter_map(|(layer, state)| Some((layer, state.err()?.to_owned())));
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() { Ok(()) } else { Err(NotFull { missing }) }
    }

    /// A JSON array with one object for each layer: `layer`, its word; `enforced`, true or false; `detail`, what it is
    /// or why it is not there.
    #[must_use]
    pub fn to_json(&self) -> String {
        let object = |(layer, state): (Layer, Result<&str, &str>)| {
            let mut detail = Vec::new();
            // To memory, always.
            let _ = Escaped(&mut detail).write_str(state.unwrap_or_else(|why| why));
            let (enforced, detail) = (state.is_ok(), String::from_utf8_lossy(&detail));
            format!("{{\"layer\":\"{layer}\",\"enforced\":{enforced},\"detail\":\"{detail}\"}}")
        };
        format!("[{}]", self.layers().map(object).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Layers that were asked for and do not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFull {
    missing: Vec<(Layer, String)>,
}

impl NotFull {
    /// Each with the reason.
    pub fn missing(&self) -> impl Iterator<Item = (Layer, &str)> {
        self.missing.iter().map(|(layer, why)| (*layer, why.as_str()))
    }
}

impl fmt::Display for NotFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sandbox is not full")?;
        self.missing.iter().try_for_each(|(layer, why)| write!(f, "; {layer}: {why}"))
    }
}

impl std::error::Error for NotFull {}

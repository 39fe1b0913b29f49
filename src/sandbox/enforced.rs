//! `[both]` What was enforced, not what was asked.

use std::fmt::{self, Write};

use super::Layer;
use crate::broker::Escaped;

/// Which layers hold around a worker, and why the others do not. [`Display`](fmt::Display) makes an aligned table of
/// it. Layers that were not asked for are not in it.
#[derive(Debug, Clone, Default)]
pub struct Enforced(Vec<(Layer, Result<String, String>)>);

impl Enforced {
    pub(super) fn push(&mut self, layer: Layer, state: Result<String, String>) {
        self.0.push((layer, state));
    }

    /// As [`Layer::ALL`] has them.
    pub(super) fn in_order(mut self) -> Self {
        self.0.sort_by_key(|(layer, _)| *layer);
        self
    }

    /// Each layer with what it is, or with the reason why it is not there.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, Result<&str, &str>)> {
        self.0.iter().map(|(layer, state)| (*layer, state.as_deref().map_err(String::as_str)))
    }

    /// Whether this layer holds.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        self.0.iter().any(|(known, state)| *known == layer && state.is_ok())
    }

    /// Whether every layer holds that was asked for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.iter().all(|(_, state)| state.is_ok())
    }

    /// No error if every layer holds that was asked for.
    ///
    /// # Errors
    /// [`NotFull`], with each layer that does not hold and why.
    pub fn require_full(&self) -> Result<(), NotFull> {
        let missing = self.0.iter().filter_map(|(layer, state)| Some((*layer, state.as_ref().err()?.clone())));
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
        let width = self.0.iter().map(|(layer, _)| layer.name().len()).max().unwrap_or(0);
        for (index, (layer, state)) in self.layers().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            match state {
                Ok(what) => write!(f, "{newline}{layer:<width$}  yes  {what}")?,
                Err(why) => write!(f, "{newline}{layer:<width$}  NO   {why}")?,
            }
        }
        Ok(())
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

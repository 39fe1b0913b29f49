//! `[both]` Layers, each with what it is or why it is not there: what [`Host`](super::Host) and
//! [`Enforced`](super::Enforced) have in common.

use std::fmt;

use super::Layer;

#[derive(Debug, Clone, Default)]
pub(super) struct States(Vec<(Layer, Result<String, String>)>);

impl States {
    pub(super) fn push(&mut self, layer: Layer, state: Result<String, String>) {
        self.0.push((layer, state));
    }

    /// As [`Layer::ALL`] has them.
    pub(super) fn in_order(mut self) -> Self {
        self.0.sort_by_key(|(layer, _)| *layer);
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Layer, Result<&str, &str>)> {
        self.0.iter().map(|(layer, state)| (*layer, state.as_deref().map_err(String::as_str)))
    }
}

impl FromIterator<(Layer, Result<String, String>)> for States {
    fn from_iter<T: IntoIterator<Item = (Layer, Result<String, String>)>>(states: T) -> Self {
        Self(states.into_iter().collect())
    }
}

/// A line for each, in columns.
impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(layer, _)| layer.name().len()).max().unwrap_or(0);
        for (index, (layer, state)) in self.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let (word, detail) = state.map_or_else(|why| ("NO ", why), |what| ("yes", what));
            write!(f, "{newline}{layer:<width$}  {word}  {detail}")?;
        }
        Ok(())
    }
}

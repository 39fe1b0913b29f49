//! `[broker]` Colours, where there is a terminal that has them and nobody has asked for none (NO_COLOR).

use std::fmt::Display;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};

#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// For what is written to this stream.
    pub(super) fn of(stream: &impl RawStream) -> Self {
        Self { on: AutoStream::choice(stream) != ColorChoice::Never }
    }

    /// What is granted, or in order.
    pub(super) fn good(self, text: impl Display) -> String {
        self.put(AnsiColor::Green.on_default().bold(), text)
    }

    /// What is refused, or an error.
    pub(super) fn wrong(self, text: impl Display) -> String {
        self.put(AnsiColor::Red.on_default().bold(), text)
    }

    /// What deserves a look.
    pub(super) fn doubtful(self, text: impl Display) -> String {
        self.put(AnsiColor::Yellow.on_default().bold(), text)
    }

    /// A heading.
    pub(super) fn head(self, text: impl Display) -> String {
        self.put(Style::new().bold().underline(), text)
    }

    /// What stands beside.
    pub(super) fn faint(self, text: impl Display) -> String {
        self.put(Style::new().dimmed(), text)
    }

    fn put(self, style: Style, text: impl Display) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_string() }
    }
}

//! `[broker]` How a program ended that a command has started: its exit status becomes this program's, and what that does
//! not tell is said.

use std::process::{ExitCode, ExitStatus};

use super::FAILED;
use super::paint::Paint;
use crate::sandbox::Death;
use crate::supervise::{exit_code, last_words};

/// `what` it is for who reads it. As JSON: one object, on a line, with the death as [`Death::to_json`] has it.
pub(super) fn ended(what: &str, (status, death): (ExitStatus, Death), json: bool) -> ExitCode {
    if is_news(&death) {
        last_words(if json {
            format!("{{\"event\":\"death\",\"death\":{}}}\n", death.to_json())
        } else {
            format!("{} {what} has ended: {death}\n", Paint::of(&std::io::stderr()).wrong("fdbroker:"))
        });
    }
    ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(FAILED))
}

/// What an exit status does not tell. A program says itself why it exits; signals are told by their number, and whom
/// this process killed, it said when it did.
fn is_news(death: &Death) -> bool {
    !matches!(death, Death::Exit(_) | Death::Signal { .. } | Death::Killed)
}

//! `[both]` How long a message with descriptors takes, beside raw calls and other crates: see benches/README.md.
#![allow(missing_docs, clippy::print_stderr, unreachable_pub, reason = "a program")]

mod launch;

fn main() -> std::process::ExitCode {
    launch::run("passing")
}

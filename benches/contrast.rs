//! `[both]` What a hostile message does to other crates and to this one (H-18): see benches/README.md.
#![allow(missing_docs, clippy::print_stderr, unreachable_pub, reason = "a program")]

mod launch;

fn main() -> std::process::ExitCode {
    launch::run("contrast")
}

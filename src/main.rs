//! `[broker]` The program `fdbroker`: see `fdbroker --help`, and the module `cli`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    fdbroker::cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

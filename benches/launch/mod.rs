//! `[both]` Builds and runs a program of benches/contest, which is a package of its own so that the crates that it
//! compares are neither in this crate's dependency tree nor in what `cargo test` builds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Hands the arguments on and answers the program's exit status. Without `--bench` among them (`cargo test --benches`)
/// nothing is measured.
pub fn run(program: &str) -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let asked = arguments.len();
    arguments.retain(|argument| argument != "--bench");
    if arguments.len() == asked {
        eprintln!("{program} measures only as a benchmark: cargo bench --bench {program}");
        return ExitCode::SUCCESS;
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/contest/Cargo.toml");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--release", "--locked", "--bin", program, "--manifest-path"]).arg(&manifest);
    cargo.arg("--target-dir").arg(target_directory(&manifest)).arg("--").args(arguments);
    match cargo.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{cargo:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `contest` in the target directory that this program was built into: target/release/deps/<this program>.
fn target_directory(manifest: &Path) -> PathBuf {
    let program = env::current_exe().ok();
    let target = program.as_deref().and_then(|program| program.ancestors().nth(3));
    target.map_or_else(|| manifest.with_file_name("target"), |target| target.join("contest"))
}

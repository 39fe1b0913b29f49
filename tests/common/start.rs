//! Workers that are the test binary itself, in a role, and what they say over their channel. A file that starts some has a
//! test called `process`, in which they, and other processes of the file's own, take their roles.

use std::process::{Output, exit};
use std::time::Duration;

use fdbroker::{Channel, Packet, Sandbox, Stdio, Worker};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

/// Bounds every wait for a worker: nothing takes as long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// This test binary, as a worker in a role.
pub fn worker(role: &str) -> Sandbox {
    let sandbox = Sandbox::this_program().args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    sandbox.env("FDBROKER_TEST_ROLE", role).stdout(Stdio::null())
}

/// The worker, once it has said its first word, and that.
pub fn started(sandbox: &Sandbox) -> (Worker, Channel, String) {
    let (worker, channel) = sandbox.spawn().expect("a worker");
    let word = word(&channel);
    (worker, channel, word)
}

pub fn word(channel: &Channel) -> String {
    channel.set_recv_timeout(Some(PATIENCE)).expect("a timeout");
    let mut packet = Packet::new();
    channel.recv(&mut packet).expect("a word from the worker");
    String::from_utf8(packet.bytes().to_vec()).expect("text")
}

/// What a worker says: over standard input as it is, so that nothing is opened for it.
pub fn say(words: &str) {
    assert_eq!(send(0, words.as_bytes(), MsgFlags::MSG_NOSIGNAL).expect("the channel"), words.len());
}

/// Ends with status 42 when the broker has gone, and in no other way.
pub fn wait_for_the_end() -> ! {
    let end = recv(0, &mut [0; 16], MsgFlags::empty());
    exit(if matches!(end, Ok(0) | Err(Errno::ECONNRESET)) { 42 } else { 43 })
}

/// Another process in a role, which must succeed.
pub fn run(role: &str) -> Output {
    let mut command = super::rerun("process", role);
    let _files = super::temporary_files_of(&mut command);
    let output = command.output().expect("the test's program");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "role {role:?}: {}\n{text}", output.status);
    text.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| eprintln!("{line}"));
    output
}

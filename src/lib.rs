// What the names in the README link to in the documentation. Of two definitions the first counts: those at the end of
// the README are for readers of the repository.
#![cfg_attr(target_os = "linux", doc = include_str!("links.md"))]
#![cfg_attr(feature = "tokio", doc = "[`AsyncChannel`]: crate::AsyncChannel")]
//!
#![doc = include_str!("../README.md")]
//!
//! # How it hangs together
//!
//! ```text
//!  worker                       broker
//!  Client::read(path)
//!    Request --encode--> bytes -> Packet --decode--> Request --decide--> Permit --open--> OwnedFd --> Reply
//!    File <------------- Packet <------------------------ send(bytes, [fd]) <------------------------+
//!             channel             channel   wire         policy          open           wire, channel
//! ```
//!
//! Each arrow is one function that consumes what stands left of it, and each type is born in exactly one module: only
//! [`policy`] makes a [`Permit`](policy::Permit), and [`open`] takes nothing else.
//!
//! Each module's documentation begins with where its code runs: `[broker]`, `[worker]`, or `[both]`, which for channels
//! alone means any process.

#[cfg(not(any(
    target_os = "linux",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
compile_error!("fdbroker runs on Linux; its channels, on macOS and the BSDs as well");

#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
mod broker;
#[forbid(unsafe_code)]
mod channel;
#[cfg(all(target_os = "linux", feature = "cli"))]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod cli;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
mod client;
#[forbid(unsafe_code)]
mod error;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
pub mod open;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
pub mod policy;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
mod resolve;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
mod sandbox;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
mod split;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
pub mod supervise;
mod sys;
#[cfg(target_os = "linux")]
#[forbid(unsafe_code)]
pub mod wire;

#[cfg(all(target_os = "linux", feature = "tracing"))]
pub use broker::Tracing;
#[cfg(target_os = "linux")]
pub use broker::{Audit, Broker, Call, Event, Gift, JsonLines, Record, Service};
#[cfg(feature = "tokio")]
pub use channel::AsyncChannel;
pub use channel::{Channel, Credentials, DEFAULT_MAX_FDS, Kind, MAX_FDS, Packet, PidFd, raw, typed};
#[cfg(target_os = "linux")]
pub use channel::{Listener, ListenerOptions};
#[cfg(target_os = "linux")]
pub use client::{Batch, Called, Client, DirEntry, OpenOptions};
pub use error::{ChannelError, EndpointError, TakeError};
#[cfg(target_os = "linux")]
pub use error::{ClientError, Fault, LockdownError, NotReady, PolicyError, SpawnError, SplitError, StartError};
#[cfg(target_os = "linux")]
pub use policy::{Limits, Policy, Rule};
#[cfg(all(target_os = "linux", feature = "policy-file"))]
pub use policy::{PolicyFile, TextError};
#[cfg(target_os = "linux")]
pub use resolve::Resolver;
#[cfg(target_os = "linux")]
pub use sandbox::{
    Death, Enforced, Host, Layer, Limit, Line, Lockdown, Mode, NotFull, Prepared, Preset, Refusal, Sandbox, Stdio,
    Step, UnknownLayer, UnknownLimit, UnknownPreset, UnknownRefusal, UnknownWord, Word, Worker, lockdown,
};
#[cfg(target_os = "linux")]
pub use split::{Split, split};
#[cfg(target_os = "linux")]
pub use supervise::Supervisor;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use sys::scm::parse_control_data;

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

#[cfg(not(target_os = "linux"))]
compile_error!("fdbroker runs on Linux only so far");

#[forbid(unsafe_code)]
mod broker;
#[forbid(unsafe_code)]
mod channel;
#[forbid(unsafe_code)]
mod client;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
pub mod open;
#[forbid(unsafe_code)]
pub mod policy;
#[forbid(unsafe_code)]
mod sandbox;
#[forbid(unsafe_code)]
mod split;
mod sys;
#[forbid(unsafe_code)]
pub mod wire;

pub use broker::{Broker, Event, Record, Service};
pub use channel::{Channel, Credentials, DEFAULT_MAX_FDS, Kind, Listener, ListenerOptions, MAX_FDS, Packet, PidFd};
pub use client::Client;
pub use error::{ChannelError, ClientError, EndpointError, Fault, LockdownError, PolicyError, SpawnError, SplitError};
pub use policy::{Policy, Rule};
pub use sandbox::{Enforced, Layer, Sandbox, Step, Worker, lockdown};
pub use split::{Split, split};

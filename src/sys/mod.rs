//! `[both]` The only `unsafe` of the crate: system calls that no dependency wraps in the way this crate needs them.
//!
//! What is here is small, says for each block why it is sound, and has a safe signature.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
pub(crate) mod call;
#[cfg(target_os = "linux")]
pub(crate) mod child;
#[cfg(target_os = "linux")]
pub(crate) mod clone;
#[cfg(target_os = "linux")]
pub(crate) mod descriptor;
#[cfg(target_os = "linux")]
pub(crate) mod directory;
#[cfg(target_os = "linux")]
pub(crate) mod lock;
#[cfg(target_os = "linux")]
pub(crate) mod lookup;
#[cfg(target_os = "linux")]
pub(crate) mod notify;
pub(crate) mod platform;
#[cfg(target_os = "linux")]
pub(crate) mod process;
pub(crate) mod scm;
#[cfg(target_os = "linux")]
pub(crate) mod sigpipe;
pub(crate) mod socket;

//! `[both]` Errors, by what the caller can do next. Those of channel and client convert into [`std::io::Error`] with
//! the errno, where there is one, so that `?` works in functions that return `io::Result`.

#[cfg(target_os = "linux")]
mod broker;
mod channel;

#[cfg(target_os = "linux")]
pub use broker::{ClientError, Fault, LockdownError, NotReady, PolicyError, SpawnError, SplitError, StartError};
pub use channel::{ChannelError, EndpointError, TakeError};

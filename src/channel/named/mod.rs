//! `[both]` Channels between processes that are not related, by a name: a path or an abstract name. Linux.

mod address;
mod connect;
mod listener;
mod place;

pub use listener::{Listener, ListenerOptions};

use super::settings::time_value;
use super::wait::milliseconds;
use super::{Channel, Credentials, Kind, os, peer, status_flags};

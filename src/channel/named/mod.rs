//! `[both]` Channels between processes that are not related, by a name: a path or an abstract name. Linux.

mod address;
mod connect;
mod listener;
mod place;

pub use listener::{Listener, ListenerOptions};

use super::{Channel, Credentials, Kind, os, peer, time_value};

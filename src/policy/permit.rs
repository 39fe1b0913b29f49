//! `[broker]` A yes, with its terms.

use std::net::SocketAddr;

use super::root::Root;
use super::rule::{ConnectRule, ListenRule};
use crate::wire::Right;

/// Says that the policy allows one thing, and on what terms. Only [`Policy::decide`](super::Policy::decide) makes one,
/// and [`open`](crate::open::open) takes nothing else.
#[derive(Debug)]
#[must_use = "a permit does nothing until it is opened"]
pub struct Permit<'p>(Grant<'p>);

#[derive(Debug)]
pub(crate) enum Grant<'p> {
    /// `name` is relative to `root`, and has plain components only.
    File {
        root: &'p Root,
        name: &'p [u8],
        right: Right,
        mode: u32,
    },
    Scratch {
        root: &'p Root,
    },
    Listen {
        address: SocketAddr,
        rule: &'p ListenRule,
    },
    Connect {
        address: SocketAddr,
        rule: &'p ConnectRule,
    },
}

impl<'p> Permit<'p> {
    pub(super) fn new(grant: Grant<'p>) -> Self {
        Self(grant)
    }

    pub(crate) fn into_grant(self) -> Grant<'p> {
        self.0
    }
}

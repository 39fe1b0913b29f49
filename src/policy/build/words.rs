//! `[broker]` What a rule is about, and what it grants, in words.

use super::bytes;
use crate::policy::rule::{At, Scope, SocketRule, Written};
use crate::wire::SocketType;

/// The object of a rule, and what is granted, in words.
pub(in crate::policy) fn describe(written: &Written) -> String {
    match written {
        Written::File(rule) => {
            let scope = match rule.scope {
                Scope::Exact => "file",
                Scope::Beneath => "beneath",
                Scope::Glob => "glob",
            };
            let rights = if rule.rights.is_empty() { String::new() } else { format!(": {}", rule.rights) };
            format!("{scope} {}{rights}", bytes(&rule.path).escape_ascii())
        }
        Written::Scratch(rule) => format!("scratch {}", bytes(&rule.directory).escape_ascii()),
        Written::Socket(rule) => describe_socket(rule),
        Written::Service(rule) if rule.rights.is_empty() => format!("service {}", rule.name.escape_debug()),
        Written::Service(rule) => format!("service {}: {}", rule.name.escape_debug(), rule.rights),
    }
}

pub(super) fn describe_socket(rule: &SocketRule) -> String {
    let SocketRule { right, socket, at, .. } = rule;
    let transport = match (at, socket) {
        (At::Abstract(_), _) => socket.name(),
        (_, SocketType::Datagram) => "udp",
        (_, SocketType::Stream) => "tcp",
        (_, SocketType::SeqPacket) => socket.name(),
    };
    match at {
        At::Network { network, ports, .. } => format!("{right} {transport} {network} ports {ports}"),
        At::Host { host, ports } => format!("{right} {transport} {} ports {ports}", host.escape_debug()),
        At::Abstract(name) => format!("{right} {transport} @{}", name.escape_ascii()),
        At::Mapped(address) => format!("{right} {transport} {address}"),
    }
}

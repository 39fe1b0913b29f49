//! `[broker]` A policy that grants what no rule allows, to learn which rules are missing. Feature `learn` only.

use std::path::Path;
use std::sync::Arc;

use super::root::{Root, Roots};
use super::rule::{FileKinds, SocketTypes};
use super::table::Use;
use super::{Answers, At, Endpoint, Grant, Hidden, Permit, Place, Policy, SocketOptions, Terms};
use crate::error::PolicyError;
use crate::resolve::Way;
use crate::wire::{Access, Address, Ask, Right, SocketType};

/// What is granted without a rule, and on what terms.
#[derive(Debug)]
pub(super) struct Learn {
    root: Arc<Root>,
    scratch: Arc<Root>,
    terms: Terms,
}

impl Learn {
    pub(super) fn new(roots: &mut Roots) -> Result<Self, PolicyError> {
        let sockets = SocketType::ALL.into_iter().fold(SocketTypes::default(), SocketTypes::with);
        let terms = Terms {
            file_mode: 0o600,
            directory_mode: 0o700,
            socket_mode: 0o600,
            kinds: FileKinds::ALL,
            connect: sockets,
            listen: sockets,
            ..Terms::default()
        };
        let place = Place::here();
        let root = roots.leading(Path::new("/"), &place)?;
        let scratch = roots.of_scratch(&std::env::temp_dir(), &place)?;
        Ok(Self { root, scratch, terms })
    }

    /// Grants it, unless it is what nobody should have for the asking: a descriptor of a directory, or a service.
    pub(super) fn grant<'p>(&'p self, policy: &'p Policy, phase: usize, ask: &Ask<'p>) -> Option<Permit<'p>> {
        // No rule could be written for it: an IPv4 address in IPv6 form.
        if let Ask::Listen(_, Address::Ip(ip)) | Ask::Bind(Address::Ip(ip)) | Ask::Connect(_, Address::Ip(ip)) = ask {
            if ip.ip().to_canonical() != ip.ip() {
                return None;
            }
        }
        let at = |path: &'p [u8]| At { root: &self.root, name: path.get(1..).unwrap_or_default(), way: Way::default() };
        let endpoint = |address| match address {
            Address::Ip(address) => Endpoint::Ip(address),
            Address::Path(path) => Endpoint::Path(at(path)),
            Address::Abstract(name) => Endpoint::Abstract(name),
        };
        let (options, mode) = (&SocketOptions::DEFAULT, self.terms.socket_mode);
        let grant = match *ask {
            Ask::Open { access, path } if !access.contains(Access::DIRECTORY) => {
                Grant::Open { at: at(path), access, terms: &self.terms }
            }
            Ask::Scratch => Grant::Scratch(&self.scratch),
            Ask::List { path, from } => {
                Grant::List { at: at(path), from, hidden: Hidden { policy, phase, directory: path } }
            }
            Ask::Stat(path) => Grant::Stat(at(path)),
            Ask::Readlink(path) => Grant::Readlink(at(path)),
            Ask::Mkdir(path) => Grant::Mkdir { at: at(path), mode: self.terms.directory_mode },
            Ask::Unlink(path) => Grant::Unlink(at(path)),
            Ask::Rmdir(path) => Grant::Rmdir(at(path)),
            Ask::Rename { from, to } => Grant::Rename { from: at(from), to: at(to), terms: [&self.terms; 2] },
            Ask::Listen(socket, address) => Grant::Listen { socket, to: endpoint(address), options, mode },
            Ask::Bind(address) => Grant::Listen { socket: SocketType::Datagram, to: endpoint(address), options, mode },
            Ask::Connect(socket, address) => Grant::Connect { socket, to: endpoint(address), options },
            Ask::ConnectName { socket, host, port } => {
                let (table, used) = (&policy.phases[phase].table, Use::of(Right::Connect, socket)?);
                let answers = Answers { within: &[], table, used, kept: None };
                Grant::ConnectName { socket, host, port, options, answers }
            }
            _ => return None,
        };
        Some(Permit::without_rule(grant))
    }
}

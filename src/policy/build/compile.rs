//! `[broker]` One rule by itself: checked, and its directory opened.

use super::words::{describe, describe_socket};
use super::{Building, Effect, Rules, bytes, path_of, unfit};
use crate::error::PolicyError;
use crate::policy::info::{Info, Place};
use crate::policy::pattern::Pattern;
use crate::policy::root;
use crate::policy::rule::{At, FileRule, Rule, Scope, ScratchRule, ServiceRule, SocketRule, SocketTypes, Written};
use crate::policy::table::Use;
use crate::policy::{Compiled, FileTerms, SocketOptions, SocketTerms, What};
use crate::wire::host;
use crate::wire::path::{self, PathError};
use crate::wire::{ABSTRACT_MAX, Right, Rights, SocketType};
use std::path::Path;

impl Building {
    pub(super) fn compile_all(&mut self, rules: Rules) -> Result<Vec<u32>, PolicyError> {
        rules.into_iter().map(|(rule, effect)| self.compile(rule, effect)).collect()
    }

    /// Checks one rule by itself, and opens its directory. Answers its place in the policy's list.
    fn compile(&mut self, rule: Rule, effect: Effect) -> Result<u32, PolicyError> {
        let Rule { written, place } = rule;
        let once = match &written {
            Written::File(FileRule { once, .. })
            | Written::Scratch(ScratchRule { once, .. })
            | Written::Socket(SocketRule { once, .. })
            | Written::Service(ServiceRule { once, .. }) => *once,
        };
        let what = match (&written, effect) {
            (Written::File(rule), _) => self.file(rule, effect, &place)?,
            (Written::Scratch(rule), Effect::Allow) => {
                check_path(&rule.directory, &place)?;
                What::Scratch(self.roots.of_scratch(&rule.directory, &place)?)
            }
            (Written::Scratch(_), Effect::Deny) => {
                return Err(unfit(
                    &place,
                    describe(&written),
                    "what is not to be had is not allowed: leave the rule away",
                ));
            }
            (Written::Socket(rule), _) => socket(rule, effect, &place)?,
            (Written::Service(rule), _) => service(rule, effect, &place)?,
        };
        if effect == Effect::Deny && once {
            return Err(unfit(&place, describe(&written), "a denial is no grant: it is not for one time"));
        }
        let number = u32::try_from(self.policy.rules.len()).unwrap_or(u32::MAX);
        let word = if effect == Effect::Allow { "allow" } else { "deny" };
        let text = format!("{word} {}{}", describe(&written), if once { ", once" } else { "" }).into();
        let once = once.then(|| {
            self.policy.once += 1;
            self.policy.once - 1
        });
        self.policy.rules.push(Compiled { info: Info { number: number + 1, text, place, once }, what });
        self.written.push(written);
        Ok(number)
    }

    fn file(&mut self, rule: &FileRule, effect: Effect, place: &Place) -> Result<What, PolicyError> {
        let FileRule { path, scope, rights, terms, reopen_root, .. } = rule;
        let unfit_because = |why: &'static str| unfit(place, path.display().to_string(), why);
        let unfit = |why| Err(unfit_because(why));
        if *scope == Scope::Beneath && path.as_os_str() == "/" {
            return unfit("it would be about every file there is; name the directories that are meant");
        }
        check_path(path, place)?;
        let pattern = match scope {
            Scope::Glob => Some(Pattern::new(bytes(path)).map_err(unfit_because)?),
            Scope::Exact | Scope::Beneath => None,
        };
        if effect == Effect::Deny {
            let plain = rights.is_empty() && *terms == crate::policy::Terms::default() && !reopen_root;
            return if plain {
                Ok(What::Deny)
            } else {
                unfit("a denial is of everything: it names no rights and no options")
            };
        }
        if rights.is_empty() {
            return Err(PolicyError::NoRight { place: place.clone(), path: path.clone() });
        }
        if rights.contains(Right::Scratch) || rights.contains(Right::Call) {
            return unfit("scratch files and services have rules of their own");
        }
        if (terms.file_mode | terms.directory_mode | terms.socket_mode) & !0o777 != 0 {
            return unfit("the mode of what is created has at most the bits 0o777: no set-id, no sticky bit");
        }
        if (rights.contains(Right::Connect) && terms.connect == SocketTypes::default())
            || (rights.contains(Right::Listen) && terms.listen == SocketTypes::default())
        {
            return unfit("it names no type of socket: stream, datagram or seqpacket");
        }
        if terms.listen.contain(SocketType::Datagram) {
            return unfit("datagram sockets do not listen: grant to bind one");
        }
        if terms.way.links_within && *scope != Scope::Beneath {
            return unfit("a link would lead to another name than the rule's: follow links beneath a directory only");
        }
        if rights.contains(Right::Directory) && self.worker_is_confined {
            return unfit("the worker is confined to a directory of its own, and a descriptor of another is a way out");
        }
        if rights.contains(Right::Create) && !terms.kinds.contain(libc::S_IFREG) {
            return unfit("what is created is a regular file, which is not of the kinds that it names");
        }
        // A link can be asked about where nothing else is.
        let links = Rights::from([Right::Stat, Right::Readlink, Right::Unlink]).contains_all(*rights);
        let root = match (scope, &pattern) {
            (Scope::Exact, _) => self.roots.of_file(path, *reopen_root, links, place)?,
            (_, Some(pattern)) => self.roots.of_tree(&path_of(&pattern.directory), *reopen_root, place)?,
            (..) => self.roots.of_tree(path, *reopen_root, place)?,
        };
        if terms.way.one_file_system && !root.tells_mounts() {
            return unfit("whether it keeps to one file system cannot be told here: that takes openat2, or Linux 5.8");
        }
        let name = if *scope == Scope::Exact { root::file_name(path).into() } else { Box::default() };
        Ok(What::File(FileTerms { root, name, rights: *rights, terms: *terms }))
    }
}

fn socket(rule: &SocketRule, effect: Effect, place: &Place) -> Result<What, PolicyError> {
    let SocketRule { right, socket, at, options, answers, .. } = rule;
    let unfit = |why: &'static str| Err(unfit(place, describe_socket(rule), why));
    if *right == Right::Listen && *socket == SocketType::Datagram {
        return unfit("datagram sockets do not listen: bind one");
    }
    if *right == Right::Bind && *socket != SocketType::Datagram {
        return unfit("only datagram sockets are bound; to have a stream, listen");
    }
    let scope = match at {
        At::Network { .. } | At::Host { .. } if Use::of(*right, *socket).is_none() => {
            return unfit(
                "there are no such sockets over IP: a stream listens or is connected, datagrams are bound or connected",
            );
        }
        At::Mapped(_) => return unfit("it is an IPv4 address in IPv6 form; write the IPv4 address"),
        At::Network { ports, .. } | At::Host { ports, .. } if ports.is_empty() => {
            return unfit("the range of ports ends before it starts: there is none in it");
        }
        At::Network { scope, .. } => *scope,
        At::Host { host, .. } => {
            let wrong = |error: host::HostError| self::unfit(place, describe_socket(rule), error.to_string());
            host::check_host(host.as_bytes()).map_err(wrong)?;
            None
        }
        At::Abstract(name) if !(1..=ABSTRACT_MAX).contains(&name.len()) => {
            return unfit("an abstract name has 1 to 107 bytes");
        }
        At::Abstract(_) => None,
    };
    if !answers.is_empty() && !matches!(at, At::Host { .. }) {
        return unfit("only what a host's name stands for can be limited to networks");
    }
    if effect == Effect::Deny {
        let plain = SocketOptions { reuse_address: *right == Right::Listen, ..SocketOptions::DEFAULT };
        let said = *options != plain || !answers.is_empty();
        return if said { unfit("a denial is of everything: it names no options") } else { Ok(What::Deny) };
    }
    let ports = match at {
        At::Network { ports, .. } => Some(*ports),
        _ => None,
    };
    Ok(What::Socket(SocketTerms { options: *options, scope, ports, answers: answers.clone().into() }))
}

fn service(rule: &ServiceRule, effect: Effect, place: &Place) -> Result<What, PolicyError> {
    if !(1..=255).contains(&rule.name.len()) {
        let what = format!("service {}", rule.name.escape_debug());
        return Err(unfit(place, what, "a service's name has 1 to 255 bytes"));
    }
    if effect == Effect::Deny && !rule.rights.is_empty() {
        let what = format!("service {}", rule.name.escape_debug());
        return Err(unfit(place, what, "a denial is of everything: it names no rights"));
    }
    Ok(if effect == Effect::Deny { What::Deny } else { What::Service(rule.rights.with(Right::Call)) })
}

fn check_path(path: &Path, place: &Place) -> Result<(), PolicyError> {
    let wrong = |source: PathError| PolicyError::Path { place: place.clone(), path: path.to_owned(), source };
    path::check(bytes(path)).map_err(wrong)
}

//! `[broker]` One rule of a policy file: its keys, which of them go together, and the rule that they make.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::nearest::hint;
use super::value::{Address, Connections, List, Mode, Name, PortRange, Said, Seconds, Transport, Written};
use crate::policy::{FileKind, FileRule, Network, Ports, Rule, SocketRule};
use crate::wire::{Right, Rights, SocketType};

macro_rules! keys {
    ($($field:ident: $type:ty = $word:literal,)+) => {
        /// A rule, as it is written.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a rule: a table, as { file = \"/etc/hostname\", rights = [\"read\"] }")]
        pub(super) struct RuleText {
            $(#[serde(rename = $word, default, skip_serializing_if = "Option::is_none")] $field: Option<$type>,)+
        }

        impl RuleText {
            /// Every key that a rule can have.
            pub(super) const KEYS: &[&str] = &[$($word),+];

            /// The keys that this one has.
            fn said(&self) -> impl Iterator<Item = &'static str> {
                [$(self.$field.is_some().then_some($word)),+].into_iter().flatten()
            }
        }
    };
}

keys! {
    file: Name = "file",
    beneath: Name = "beneath",
    glob: Name = "glob",
    scratch: Name = "scratch",
    listen: Written<Address> = "listen",
    bind: Written<Address> = "bind",
    connect: Written<Address> = "connect",
    connect_name: String = "connect-name",
    listen_abstract: Name = "listen-abstract",
    bind_abstract: Name = "bind-abstract",
    connect_abstract: Name = "connect-abstract",
    service: String = "service",
    rights: List<Said<Right>> = "rights",
    create_mode: Mode = "create-mode",
    mkdir_mode: Mode = "mkdir-mode",
    socket_mode: Mode = "socket-mode",
    sockets: List<Said<SocketType>> = "sockets",
    listen_sockets: List<Said<SocketType>> = "listen-sockets",
    kinds: List<Said<FileKind>> = "kinds",
    follow_links_within: bool = "follow-links-within",
    one_file_system: bool = "one-file-system",
    protect_hard_links: bool = "protect-hard-links",
    reopen_root: bool = "reopen-root",
    ports: PortRange = "ports",
    transport: Said<Transport> = "transport",
    socket_type: Said<SocketType> = "socket-type",
    answers_within: List<Written<Network>> = "answers-within",
    reuse_address: bool = "reuse-address",
    reuse_port: bool = "reuse-port",
    dual_stack: bool = "dual-stack",
    nonblocking: bool = "nonblocking",
    backlog: Connections = "backlog",
    timeout: Seconds = "timeout",
    once: bool = "once",
}

/// The keys that say what a rule is about, with those that it can have beside.
const OBJECTS: [(&str, &[&str]); 12] = [
    ("file", FILE),
    ("beneath", TREE),
    ("glob", FILE),
    ("scratch", &["once"]),
    ("listen", &["ports", "reuse-address", "reuse-port", "dual-stack", "nonblocking", "backlog", "once"]),
    ("bind", &["ports", "reuse-address", "reuse-port", "dual-stack", "nonblocking", "once"]),
    ("connect", &["ports", "transport", "nonblocking", "timeout", "once"]),
    ("connect-name", &["ports", "transport", "answers-within", "nonblocking", "timeout", "once"]),
    ("listen-abstract", &["socket-type", "nonblocking", "backlog", "once"]),
    ("bind-abstract", &["nonblocking", "once"]),
    ("connect-abstract", &["socket-type", "nonblocking", "timeout", "once"]),
    ("service", &["rights", "once"]),
];

const FILE: &[&str] = &[
    "rights",
    "create-mode",
    "mkdir-mode",
    "socket-mode",
    "sockets",
    "listen-sockets",
    "kinds",
    "one-file-system",
    "protect-hard-links",
    "reopen-root",
    "nonblocking",
    "backlog",
    "timeout",
    "once",
];

/// Links are followed beneath a directory only.
const TREE: &[&str] = &[
    "rights",
    "create-mode",
    "mkdir-mode",
    "socket-mode",
    "sockets",
    "listen-sockets",
    "kinds",
    "follow-links-within",
    "one-file-system",
    "protect-hard-links",
    "reopen-root",
    "nonblocking",
    "backlog",
    "timeout",
    "once",
];

/// What a denial can say beside what it is about: of which ports and sockets.
const DENIAL: [&str; 3] = ["ports", "transport", "socket-type"];

/// What is wrong with a rule: at one of its keys, or as a whole.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) key: Option<&'static str>,
    pub(super) why: String,
}

impl Wrong {
    pub(super) fn at(key: &'static str, why: impl Into<String>) -> Self {
        Self { key: Some(key), why: why.into() }
    }

    fn whole(why: impl Into<String>) -> Self {
        Self { key: None, why: why.into() }
    }
}

/// What makes a path of a name that may have templates in it.
pub(super) type Expand<'a> = &'a dyn Fn(&'static str, &Name) -> Result<PathBuf, Wrong>;

/// What sets an option of a rule.
type Set<T> = fn(T) -> T;

impl RuleText {
    /// The rule that this makes.
    pub(super) fn rule(&self, denies: bool, expand: Expand<'_>) -> Result<Rule, Wrong> {
        let object = self.object()?;
        self.check_keys(object, denies)?;
        let name = |name: &Name| expand(object, name);
        let bytes = |name: &Name| expand(object, name).map(|path| path.into_os_string().into_encoded_bytes());
        let once = self.once.unwrap_or_default();
        let socket = |rule| self.socket(rule).map(Rule::from);
        match self {
            Self { file: Some(path), .. } => self.file(Rule::file(name(path)?), denies),
            Self { beneath: Some(path), .. } => self.file(Rule::beneath(name(path)?), denies),
            Self { glob: Some(path), .. } => self.file(Rule::glob(name(path)?), denies),
            Self { scratch: Some(path), .. } => {
                let rule = Rule::scratch(name(path)?);
                Ok(if once { rule.once().into() } else { rule.into() })
            }
            Self { listen: Some(Written(at)), .. } => {
                socket(self.ip(*at, object, Rule::listen, Rule::listen_within)?)
            }
            Self { bind: Some(Written(at)), .. } => socket(self.ip(*at, object, Rule::bind, Rule::bind_within)?),
            Self { connect: Some(Written(at)), .. } => {
                socket(self.ip(*at, object, Rule::connect, Rule::connect_within)?)
            }
            Self { connect_name: Some(host), .. } => {
                let Some(PortRange(ports)) = self.ports else {
                    return Err(Wrong::whole("connect-name needs ports, as ports = 443"));
                };
                socket(Rule::connect_name(host, ports))
            }
            Self { listen_abstract: Some(name), .. } => socket(Rule::listen_abstract(bytes(name)?)),
            Self { bind_abstract: Some(name), .. } => socket(Rule::bind_abstract(bytes(name)?)),
            Self { connect_abstract: Some(name), .. } => socket(Rule::connect_abstract(bytes(name)?)),
            _ => {
                let rule = Rule::service(self.service.as_deref().unwrap_or_default()).grant(self.rights());
                Ok(if once { rule.once().into() } else { rule.into() })
            }
        }
    }

    /// The key of what it is about.
    pub(super) fn object(&self) -> Result<&'static str, Wrong> {
        let mut objects = self.said().filter(|key| OBJECTS.iter().any(|(object, _)| object == key));
        let Some(object) = objects.next() else {
            let all: Vec<_> = OBJECTS.iter().map(|(object, _)| *object).collect();
            return Err(Wrong::whole(format!("it does not say what it is about: one of {}", all.join(", "))));
        };
        match objects.next() {
            None => Ok(object),
            Some(other) => {
                Err(Wrong::at(other, format!("it is about {object} already: write a rule of its own for {other}")))
            }
        }
    }

    /// The path as it is written, for a rule about paths.
    pub(super) fn path(&self) -> Option<&[u8]> {
        let Self { file, beneath, glob, scratch, .. } = self;
        [file, beneath, glob, scratch].into_iter().flatten().next().map(|name| &name.0[..])
    }

    /// The rights that are written.
    pub(super) fn rights(&self) -> Rights {
        self.rights.iter().flat_map(|list| &list.0).map(|right| right.0).collect()
    }

    fn check_keys(&self, object: &'static str, denies: bool) -> Result<(), Wrong> {
        if denies && object == "scratch" {
            return Err(Wrong::at(object, "what no rule allows is not to be had: leave the rule away"));
        }
        let beside = OBJECTS.iter().find(|(key, _)| *key == object).map_or(&[][..], |(_, beside)| *beside);
        for key in self.said().filter(|key| *key != object) {
            if denies && !DENIAL.contains(&key) {
                return Err(Wrong::at(key, format!("a denial is of everything: it has no {key}")));
            }
            if !beside.contains(&key) {
                let beside: Vec<_> = beside.iter().filter(|key| !denies || DENIAL.contains(key)).copied().collect();
                let keys = if beside.is_empty() { "none".to_owned() } else { beside.join(", ") };
                let hint = hint(key, beside);
                return Err(Wrong::at(
                    key,
                    format!("a rule for {object} has no {key}: {hint}its other keys are {keys}"),
                ));
            }
        }
        Ok(())
    }

    fn file(&self, rule: FileRule, denies: bool) -> Result<Rule, Wrong> {
        if denies {
            return Ok(rule.into());
        }
        let rights = self.rights();
        if self.rights.is_none() {
            return Err(Wrong::whole("it does not say what it grants: as rights = [\"read\"]"));
        }
        if rights.is_empty() {
            return Err(Wrong::at("rights", "it grants no right: name at least one, as \"read\""));
        }
        let mut rule = rule.grant(rights);
        if let Some(Mode(mode)) = needed(self.create_mode, "create-mode", rights, &[Right::Create], MODE)? {
            rule = rule.create(mode);
        }
        if let Some(Mode(mode)) = needed(self.mkdir_mode, "mkdir-mode", rights, &[Right::Mkdir], MODE)? {
            rule = rule.mkdir(mode);
        }
        let socket_mode = needed(self.socket_mode, "socket-mode", rights, &[Right::Listen, Right::Bind], MODE)?;
        rule = self.unix(rule, rights, socket_mode.map_or(0, |Mode(mode)| mode))?;
        rule = self.unix_options(rule, rights)?;
        rule = rule.kinds(self.kinds.iter().flat_map(|list| &list.0).map(|kind| kind.0));
        let options: [(_, Set<FileRule>); 5] = [
            (self.follow_links_within, FileRule::follow_links_within),
            (self.one_file_system, FileRule::one_file_system),
            (self.protect_hard_links, FileRule::protect_hard_links),
            (self.reopen_root, FileRule::reopen_root),
            (self.once, FileRule::once),
        ];
        let said = options.into_iter().filter(|(said, _)| *said == Some(true));
        Ok(said.fold(rule, |rule, (_, option)| option(rule)).into())
    }

    /// Its UNIX sockets: `sockets` are those of connect and listen, unless `listen-sockets` says otherwise for listen.
    fn unix(&self, mut rule: FileRule, rights: Rights, mode: u32) -> Result<FileRule, Wrong> {
        const STREAM: &str = "as [\"stream\"]";
        let both: &[Right] =
            if self.listen_sockets.is_none() { &[Right::Connect, Right::Listen] } else { &[Right::Connect] };
        let sockets = needed(self.sockets.as_ref(), "sockets", rights, both, STREAM)?;
        let listen = match &self.listen_sockets {
            Some(sockets) => needed(Some(sockets), "listen-sockets", rights, &[Right::Listen], STREAM)?
                .map(|s| ("listen-sockets", s)),
            None => sockets.map(|sockets| ("sockets", sockets)),
        };
        let types = |sockets: &List<Said<SocketType>>| sockets.0.iter().map(|socket| socket.0).collect::<Vec<_>>();
        if let (true, Some(sockets)) = (rights.contains(Right::Connect), sockets) {
            if sockets.is_empty() {
                return Err(Wrong::at("sockets", "it names no type of socket: stream, datagram or seqpacket"));
            }
            rule = rule.connect(types(sockets));
        }
        if let (true, Some((key, sockets))) = (rights.contains(Right::Listen), listen) {
            let sockets = types(sockets);
            if sockets.is_empty() {
                return Err(Wrong::at(key, "it names no type of socket: stream or seqpacket"));
            }
            if sockets.contains(&SocketType::Datagram) {
                let why = "datagram sockets do not listen: grant to bind them, or name others in listen-sockets";
                return Err(Wrong::at(key, why));
            }
            rule = rule.listen(sockets, mode);
        }
        Ok(if rights.contains(Right::Bind) { rule.bind(mode) } else { rule })
    }

    fn unix_options(&self, mut rule: FileRule, rights: Rights) -> Result<FileRule, Wrong> {
        const LISTEN: &[Right] = &[Right::Listen];
        const CONNECT: &[Right] = &[Right::Connect];
        const ANY: [Right; 3] = [Right::Listen, Right::Bind, Right::Connect];
        let without = |key, of: &[Right]| match of.iter().any(|right| rights.contains(*right)) {
            true => Ok(()),
            false => Err(Wrong::at(key, "it is about sockets, and the rule grants none that it is for")),
        };
        if let Some(Connections(connections)) = self.backlog {
            without("backlog", LISTEN)?;
            rule = rule.backlog(connections);
        }
        if let Some(Seconds(time)) = self.timeout {
            without("timeout", CONNECT)?;
            rule = rule.timeout(time);
        }
        if self.nonblocking == Some(true) {
            without("nonblocking", &ANY)?;
            rule = rule.nonblocking();
        }
        Ok(rule)
    }

    fn ip(
        &self,
        at: Address,
        object: &'static str,
        one: fn(std::net::SocketAddr) -> SocketRule,
        within: fn(Network, Ports) -> SocketRule,
    ) -> Result<SocketRule, Wrong> {
        match (at, self.ports) {
            (Address::One(address), None) => Ok(one(address)),
            (Address::One(address), Some(_)) => {
                let (ip, port) = (address.ip(), address.port());
                Err(Wrong::at("ports", format!("the port is {port} already: write {object} = \"{ip}\" to have others")))
            }
            (Address::Within(network), Some(PortRange(ports))) => Ok(within(network, ports)),
            (Address::Within(network), None) => {
                Err(Wrong::whole(format!("{network} needs ports: as ports = 443 or ports = \"1024-65535\"")))
            }
        }
    }

    fn socket(&self, mut rule: SocketRule) -> Result<SocketRule, Wrong> {
        if self.transport == Some(Said(Transport::Udp)) {
            rule = rule.udp();
        }
        if let Some(Said(socket)) = self.socket_type {
            if self.listen_abstract.is_some() && socket == SocketType::Datagram {
                return Err(Wrong::at("socket-type", "datagram sockets do not listen: write bind-abstract instead"));
            }
            rule = rule.socket_type(socket);
        }
        if let Some(reuse) = self.reuse_address {
            rule = rule.reuse_address(reuse);
        }
        if let Some(Connections(connections)) = self.backlog {
            rule = rule.backlog(connections);
        }
        if let Some(Seconds(time)) = self.timeout {
            rule = rule.timeout(time);
        }
        rule = rule.answers_within(self.answers_within.iter().flat_map(|list| &list.0).map(|network| network.0));
        let options: [(_, Set<SocketRule>); 4] = [
            (self.reuse_port, SocketRule::reuse_port),
            (self.dual_stack, SocketRule::dual_stack),
            (self.nonblocking, SocketRule::nonblocking),
            (self.once, SocketRule::once),
        ];
        let said = options.into_iter().filter(|(said, _)| *said == Some(true));
        Ok(said.fold(rule, |rule, (_, option)| option(rule)))
    }
}

const MODE: &str = "as 0o640";

/// What goes with some rights, and with these only.
fn needed<T>(
    value: Option<T>,
    key: &'static str,
    rights: Rights,
    with: &[Right],
    example: &str,
) -> Result<Option<T>, Wrong> {
    let granted = with.iter().find(|right| rights.contains(**right));
    match (value, granted) {
        (None, Some(right)) => Err(Wrong::whole(format!("the right {right} needs {key}, {example}"))),
        (Some(_), None) => {
            let with: Vec<_> = with.iter().map(|right| right.name()).collect();
            Err(Wrong::at(
                key,
                format!("nothing that it grants has {key}: it goes with the right {}", with.join(" or ")),
            ))
        }
        (value, _) => Ok(value),
    }
}

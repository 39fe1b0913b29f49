//! `[broker]` A rule as lines of a policy file.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use super::rule::{At, FileKind, FileRule, Rule, Scope, SocketRule, SocketTypes, Written};
use crate::wire::{Right, Rights, SocketType};

/// The keys of a rule and their values, one a line. Options of sockets are left out: who writes rules has the default
/// ones.
pub(crate) fn lines(rule: &Rule) -> String {
    let mut lines = Lines(String::new());
    let once = match &rule.written {
        Written::File(rule) => {
            lines.file(rule);
            rule.once
        }
        Written::Scratch(rule) => {
            lines.name("scratch", rule.directory.as_os_str().as_bytes());
            rule.once
        }
        Written::Socket(rule) => {
            lines.socket(rule);
            rule.once
        }
        Written::Service(rule) => {
            lines.key("service", text(&rule.name));
            if !rule.rights.is_empty() {
                lines.rights(rule.rights);
            }
            rule.once
        }
    };
    lines.flag("once", once);
    lines.0
}

/// With these rights too, and modes that nobody else gets anything of where it had none.
pub(super) fn granting(mut rule: FileRule, needs: Rights) -> FileRule {
    let (had, terms) = (rule.rights, &mut rule.terms);
    let adds = |right| needs.contains(right) && !had.contains(right);
    let sockets = had.contains(Right::Listen) || had.contains(Right::Bind);
    if adds(Right::Create) {
        terms.file_mode = 0o600;
    }
    if adds(Right::Mkdir) {
        terms.directory_mode = 0o700;
    }
    if (adds(Right::Listen) || adds(Right::Bind)) && !sockets {
        terms.socket_mode = 0o600;
    }
    rule.grant(needs)
}

struct Lines(String);

impl Lines {
    fn file(&mut self, rule: &FileRule) {
        let scope = match rule.scope {
            Scope::Exact => "file",
            Scope::Beneath => "beneath",
            Scope::Glob => "glob",
        };
        self.name(scope, rule.path.as_os_str().as_bytes());
        let (rights, terms) = (rule.rights, &rule.terms);
        if !rights.is_empty() {
            self.rights(rights);
        }
        let modes = [
            ("create-mode", terms.file_mode, rights.contains(Right::Create)),
            ("mkdir-mode", terms.directory_mode, rights.contains(Right::Mkdir)),
            ("socket-mode", terms.socket_mode, rights.contains(Right::Listen) || rights.contains(Right::Bind)),
        ];
        for (key, mode, _) in modes.into_iter().filter(|(.., granted)| *granted) {
            self.key(key, format_args!("0o{mode:o}"));
        }
        let types = |types: SocketTypes| SocketType::ALL.into_iter().filter(move |socket| types.contain(*socket));
        if rights.contains(Right::Connect) {
            self.list("sockets", types(terms.connect).map(SocketType::name));
        }
        if rights.contains(Right::Listen) {
            self.list("listen-sockets", types(terms.listen).map(SocketType::name));
        }
        if terms.kinds != super::rule::FileKinds::default() {
            let kinds = FileKind::ALL.into_iter().filter(|kind| terms.kinds.contain(kind.file_type()));
            self.list("kinds", kinds.map(FileKind::name));
        }
        self.flag("follow-links-within", terms.way.links_within);
        self.flag("one-file-system", terms.way.one_file_system);
        self.flag("protect-hard-links", terms.protect_hard_links);
        self.flag("reopen-root", rule.reopen_root);
    }

    fn socket(&mut self, rule: &SocketRule) {
        let verb = rule.right.name();
        match &rule.at {
            At::Network { network, ports, scope } => {
                let port = ports.to_string().parse::<u16>();
                let single = network.prefix_len() == if network.address().is_ipv4() { 32 } else { 128 };
                match (single, port) {
                    (true, Ok(port)) => {
                        let mut address = std::net::SocketAddr::new(network.address(), port);
                        if let (std::net::SocketAddr::V6(v6), Some(scope)) = (&mut address, scope) {
                            v6.set_scope_id(*scope);
                        }
                        self.key(verb, text(&address.to_string()));
                    }
                    _ => {
                        self.key(verb, text(&network.to_string()));
                        self.ports(&ports.to_string());
                    }
                }
            }
            At::Host { host, ports } => {
                self.key("connect-name", text(host));
                self.ports(&ports.to_string());
            }
            At::Abstract(name) => self.name(&format!("{verb}-abstract"), name),
            // No rule is about such an address.
            At::Mapped(address) => self.key(verb, text(&address.to_string())),
        }
        match (&rule.at, rule.right, rule.socket) {
            (At::Abstract(_), Right::Listen | Right::Connect, socket) if socket != SocketType::Stream => {
                self.key("socket-type", text(socket.name()));
            }
            (At::Network { .. } | At::Host { .. }, Right::Connect, SocketType::Datagram) => {
                self.key("transport", text("udp"));
            }
            _ => {}
        }
    }

    fn ports(&mut self, ports: &str) {
        match ports.parse::<u16>() {
            Ok(port) => self.key("ports", port),
            Err(_) => self.key("ports", text(ports)),
        }
    }

    fn rights(&mut self, rights: Rights) {
        self.list("rights", rights.iter().map(Right::name));
    }

    /// A path or a name: a brace is written twice, and what is no text with escapes.
    fn name(&mut self, key: &str, bytes: &[u8]) {
        let mut name = Vec::with_capacity(bytes.len());
        for byte in bytes {
            name.push(*byte);
            if matches!(byte, b'{' | b'}') {
                name.push(*byte);
            }
        }
        match OsStr::from_bytes(&name).to_str() {
            Some(name) => self.key(key, text(name)),
            None => {
                let escaped = text(&name.escape_ascii().to_string());
                self.key(key, format_args!("{{ escaped = {escaped} }}"));
            }
        }
    }

    fn list(&mut self, key: &str, words: impl Iterator<Item = &'static str>) {
        let words: Vec<String> = words.map(text).collect();
        self.key(key, format_args!("[{}]", words.join(", ")));
    }

    fn flag(&mut self, key: &str, said: bool) {
        if said {
            self.key(key, true);
        }
    }

    fn key(&mut self, key: &str, value: impl std::fmt::Display) {
        // To a string, always.
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

/// A string in TOML's double quotes.
fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => drop(write!(quoted, "\\u{:04X}", char as u32)),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

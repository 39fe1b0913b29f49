//! Random policies, each written twice: by the builder and as text. And random requests.
#![allow(unreachable_pub, reason = "a part of one test")]

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fdbroker::policy::{FileKind, Network, PolicyBuilder, Ports, Standing};
use fdbroker::wire::{Access, Address, Ask, Right, Rights, SocketType};
use fdbroker::{Policy, PolicyError, Rule};

/// Numbers that are the same for the same seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ z >> 31) % end as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Some of them, in their order.
    fn some<T: Copy>(&mut self, all: &[T], one_in: usize) -> Vec<T> {
        all.iter().copied().filter(|_| self.one_in(one_in)).collect()
    }
}

/// Components of paths; the last ones are no plain text.
const NAMES: [&[u8]; 5] = [b"a", b"b", b"x y", b"{c}", b"caf\xe9"];
const PATTERNS: [&[u8]; 5] = [b"*", b"a*", b"**", b"?", b"*\xe9"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.9.9.9", "192.0.2.7", "2001:db8::1"];
const NETWORKS: [&str; 5] = ["10.0.0.0/8", "10.0.0.0/24", "0.0.0.0/0", "2001:db8::/32", "192.0.2.7"];
const HOSTS: [&str; 3] = ["db.example.org", "www.example.org", "localhost"];
const ABSTRACT: [&[u8]; 4] = [b"app", b"a{b}", b"\x00\xff'", b"x"];
const PORTS: [u16; 5] = [0, 80, 81, 443, 5432];
const FILE_RIGHTS: [Right; 16] = [
    Right::Read,
    Right::Write,
    Right::Append,
    Right::Truncate,
    Right::Create,
    Right::List,
    Right::Stat,
    Right::Readlink,
    Right::Mkdir,
    Right::Unlink,
    Right::Rmdir,
    Right::Rename,
    Right::Directory,
    Right::Listen,
    Right::Bind,
    Right::Connect,
];

/// Directories of one and two components beneath `root`, so that most rules have theirs.
pub fn make_tree(root: &Path) {
    for one in NAMES {
        for two in NAMES {
            fs::create_dir_all(root.join(os(one)).join(os(two))).unwrap();
        }
    }
}

/// One policy, written twice.
pub struct Draft {
    pub text: String,
    /// What its first rules are about, to ask for.
    paths: Vec<PathBuf>,
    pub builder: PolicyBuilder,
}

/// The rules of a table, as text with `[[prefix…]]` to come before, and for the builder.
type Rules = Vec<(String, Rule)>;

impl Draft {
    pub fn new(random: &mut Random, root: &Path) -> Self {
        let (mut text, mut builder) = (String::new(), Policy::builder());
        match random.below(4) {
            0 => (text, builder) = ("refuse-with = 'ENOENT'\n".into(), builder.refuse_with(libc::ENOENT)),
            1 => (text, builder) = ("refuse-with = 4095\n".into(), builder.refuse_with(4095)),
            _ => {}
        }
        if random.one_in(3) {
            text += "stat-leading-directories = true\n";
            builder = builder.stat_leading_directories();
        }
        if random.one_in(3) {
            text += "mkdir-says-exists = true\n";
            builder = builder.mkdir_says_exists();
        }
        if random.one_in(5) {
            text += "worker-is-confined = true\n";
            builder = builder.worker_is_confined();
        }
        let (allow, deny) = rules(random, root, 8);
        let paths = allow.iter().filter_map(|(text, _)| path_of(text, root)).collect();
        for (rule, built) in allow {
            text += &format!("[[allow]]\n{rule}");
            builder = builder.allow(built);
        }
        for (rule, built) in deny {
            text += &format!("[[deny]]\n{rule}");
            builder = builder.deny(built);
        }
        for name in ["one", "two", "three"].into_iter().take(random.below(4)) {
            let (allow, deny) = rules(random, root, 2);
            text += &format!("[[phase]]\nname = '{name}'\n");
            // Each list has an order of its own: in the text, denials may come first.
            deny.iter().for_each(|(rule, _)| text += &format!("[[phase.deny]]\n{rule}"));
            allow.iter().for_each(|(rule, _)| text += &format!("[[phase.allow]]\n{rule}"));
            builder = builder.phase(name, |phase| {
                let phase = allow.into_iter().fold(phase, |phase, (_, rule)| phase.allow(rule));
                deny.into_iter().fold(phase, |phase, (_, rule)| phase.deny(rule))
            });
        }
        Self { text, paths, builder }
    }
}

/// The path that a rule begins with, if it is written plainly.
fn path_of(text: &str, root: &Path) -> Option<PathBuf> {
    let path = text.split('\'').nth(1).filter(|path| path.starts_with(root.to_str().unwrap()))?;
    Some(path.replace("{{", "{").replace("}}", "}").replace('*', "a").into())
}

/// Up to `most` rules that allow, and up to half as many that deny.
fn rules(random: &mut Random, root: &Path, most: usize) -> (Rules, Rules) {
    let allow = (0..random.below(most + 1)).map(|_| allow(random, root)).collect();
    let deny = (0..random.below(most / 2 + 1)).map(|_| deny(random, root)).collect();
    (allow, deny)
}

fn allow(random: &mut Random, root: &Path) -> (String, Rule) {
    let mut text = String::new();
    let rule = match random.below(10) {
        0..=4 => file(random, root, &mut text),
        5 => {
            let path = path(random, root, 1);
            text += &format!("scratch = {}\n", name(path.as_os_str().as_bytes()));
            let rule = Rule::scratch(path);
            if once(random, &mut text) { rule.once().into() } else { rule.into() }
        }
        6 => {
            let (service, rights) = (random.of(&["pty", "sign"]), random.some(&FILE_RIGHTS, 8));
            text += &format!("service = '{service}'\n");
            if !rights.is_empty() || random.one_in(2) {
                text += &format!("rights = {}\n", words(&rights, Right::name));
            }
            let rule = Rule::service(service).grant(rights.into_iter().collect::<Rights>());
            if once(random, &mut text) { rule.once().into() } else { rule.into() }
        }
        _ => socket(random, &mut text, true),
    };
    (text, rule)
}

fn deny(random: &mut Random, root: &Path) -> (String, Rule) {
    let mut text = String::new();
    let rule = match random.below(6) {
        0..=3 => object(random, root, &mut text).into(),
        4 => {
            text += "service = 'pty'\n";
            Rule::service("pty").into()
        }
        _ => socket(random, &mut text, false),
    };
    (text, rule)
}

fn object(random: &mut Random, root: &Path, text: &mut String) -> fdbroker::policy::FileRule {
    let depth = random.below(3) + 1;
    let path = path(random, root, depth);
    let (key, rule) = match random.below(5) {
        0 | 1 => ("file", Rule::file(&path)),
        2 | 3 => ("beneath", Rule::beneath(&path)),
        _ => {
            let pattern = path.join(os(random.of(&PATTERNS)));
            *text += &format!("glob = {}\n", name(pattern.as_os_str().as_bytes()));
            return Rule::glob(pattern);
        }
    };
    *text += &format!("{key} = {}\n", name(path.as_os_str().as_bytes()));
    rule
}

fn file(random: &mut Random, root: &Path, text: &mut String) -> Rule {
    let mut rule = object(random, root, text);
    let tree = text.starts_with("beneath");
    let mut rights = random.some(&FILE_RIGHTS, 2);
    if rights.is_empty() || random.one_in(4) {
        rights.push(random.of(&FILE_RIGHTS));
    }
    rights.sort_unstable();
    rights.dedup();
    // With many other rules a policy that grants this cannot be built.
    if rights.len() > 1 && !random.one_in(8) {
        rights.retain(|right| *right != Right::Directory);
    }
    *text += &format!("rights = {}\n", words(&rights, Right::name));
    rule = rule.grant(rights.iter().copied().collect::<Rights>());
    let mut mode = |random: &mut Random, key: &str| {
        let mode = u32::try_from(random.below(0o1000)).unwrap();
        let written = if random.one_in(2) { format!("0o{mode:o}") } else { format!("'{mode:04o}'") };
        text.push_str(&format!("{key} = {written}\n"));
        mode
    };
    if rights.contains(&Right::Create) {
        rule = rule.create(mode(random, "create-mode"));
    }
    if rights.contains(&Right::Mkdir) {
        rule = rule.mkdir(mode(random, "mkdir-mode"));
    }
    let (connects, listens) = (rights.contains(&Right::Connect), rights.contains(&Right::Listen));
    let socket_mode = (listens || rights.contains(&Right::Bind)).then(|| mode(random, "socket-mode"));
    let apart = listens && random.one_in(2);
    let connect =
        if listens && !apart { vec![SocketType::Stream] } else { vec![SocketType::Datagram, SocketType::Stream] };
    let listen = if apart { vec![SocketType::SeqPacket] } else { connect.clone() };
    if connects || (listens && !apart) {
        *text += &format!("sockets = {}\n", words(&connect, SocketType::name));
    }
    if apart {
        *text += &format!("listen-sockets = {}\n", words(&listen, SocketType::name));
    }
    if connects {
        rule = rule.connect(connect);
    }
    if listens {
        rule = rule.listen(listen, socket_mode.unwrap_or_default());
    }
    if rights.contains(&Right::Bind) {
        rule = rule.bind(socket_mode.unwrap_or_default());
    }
    if random.one_in(3) {
        let kinds = random.some(&FileKind::ALL, 2);
        *text += &format!("kinds = {}\n", words(&kinds, FileKind::name));
        rule = rule.kinds(kinds);
    }
    if tree && random.one_in(2) && flag(random, text, "follow-links-within") {
        rule = rule.follow_links_within();
    }
    if flag(random, text, "one-file-system") {
        rule = rule.one_file_system();
    }
    if flag(random, text, "protect-hard-links") {
        rule = rule.protect_hard_links();
    }
    if flag(random, text, "reopen-root") {
        rule = rule.reopen_root();
    }
    if once(random, text) { rule.once().into() } else { rule.into() }
}

fn socket(random: &mut Random, text: &mut String, options: bool) -> Rule {
    let kind = random.below(7);
    let (address, port) = (random.of(&ADDRESSES), random.of(&PORTS));
    let network: Network = random.of(&NETWORKS).parse().unwrap();
    let ports: Ports = if random.one_in(2) { port.into() } else { (port..=port.saturating_add(1000)).into() };
    let abstract_name = random.of(&ABSTRACT);
    let one = random.one_in(2);
    let mut rule = match kind {
        0..=2 => {
            let key = ["listen", "bind", "connect"][kind];
            if one {
                let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
                *text += &format!("{key} = '{address}'\n");
                [Rule::listen, Rule::bind, Rule::connect][kind](address)
            } else {
                *text += &format!("{key} = '{network}'\n{}", ports_key(ports));
                [Rule::listen_within, Rule::bind_within, Rule::connect_within][kind](network, ports)
            }
        }
        3 => {
            let host = random.of(&HOSTS);
            *text += &format!("connect-name = '{host}'\n{}", ports_key(ports));
            Rule::connect_name(host, ports)
        }
        _ => {
            let key = ["listen-abstract", "bind-abstract", "connect-abstract"][kind - 4];
            *text += &format!("{key} = {}\n", name(abstract_name));
            [Rule::listen_abstract, Rule::bind_abstract, Rule::connect_abstract][kind - 4](abstract_name)
        }
    };
    if (kind == 2 || kind == 3) && random.one_in(2) {
        let udp = random.one_in(2);
        *text += if udp { "transport = 'udp'\n" } else { "transport = 'tcp'\n" };
        rule = if udp { rule.udp() } else { rule };
    }
    if (kind == 4 || kind == 6) && random.one_in(2) {
        *text += "socket-type = 'seqpacket'\n";
        rule = rule.socket_type(SocketType::SeqPacket);
    }
    if !options {
        return rule.into();
    }
    let (listens, connects) = (kind == 0 || kind == 4, matches!(kind, 2 | 3 | 6));
    if kind < 2 {
        if random.one_in(3) {
            let reuse = random.one_in(2);
            *text += &format!("reuse-address = {reuse}\n");
            rule = rule.reuse_address(reuse);
        }
        if flag(random, text, "reuse-port") {
            rule = rule.reuse_port();
        }
        if flag(random, text, "dual-stack") {
            rule = rule.dual_stack();
        }
    }
    if listens && random.one_in(3) {
        let backlog = u16::try_from(random.below(0x1_0000)).unwrap();
        *text += &format!("backlog = {backlog}\n");
        rule = rule.backlog(backlog);
    }
    if connects && random.one_in(3) {
        let milliseconds = random.below(86_400_000) + 1;
        *text += &format!("timeout = {}.{:03}\n", milliseconds / 1000, milliseconds % 1000);
        rule = rule.timeout(Duration::from_millis(milliseconds as u64));
    }
    if kind == 3 && random.one_in(2) {
        let networks = random.some(&NETWORKS, 2);
        *text += &format!("answers-within = {}\n", words(&networks, |network| network));
        rule = rule.answers_within(networks.iter().map(|network| network.parse().unwrap()));
    }
    if flag(random, text, "nonblocking") {
        rule = rule.nonblocking();
    }
    if once(random, text) { rule.once().into() } else { rule.into() }
}

/// Writes the key or not; whether it is true.
fn flag(random: &mut Random, text: &mut String, key: &str) -> bool {
    let said = random.below(8);
    if said < 2 {
        writeln!(text, "{key} = {}", said == 0).unwrap();
    }
    said == 0
}

fn once(random: &mut Random, text: &mut String) -> bool {
    flag(random, text, "once")
}

fn ports_key(ports: Ports) -> String {
    let text = ports.to_string();
    if text.contains('-') { format!("ports = '{text}'\n") } else { format!("ports = {text}\n") }
}

fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> String {
    let all: Vec<_> = all.iter().map(|one| format!("'{}'", word(*one))).collect();
    format!("[{}]", all.join(", "))
}

fn path(random: &mut Random, root: &Path, depth: usize) -> PathBuf {
    (0..depth).fold(root.to_owned(), |path, _| path.join(os(random.of(&NAMES))))
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(bytes)
}

/// As it stands in a file.
fn name(bytes: &[u8]) -> String {
    let doubled: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| std::iter::repeat_n(*byte, if matches!(byte, b'{' | b'}') { 2 } else { 1 }))
        .collect();
    match std::str::from_utf8(&doubled) {
        Ok(text) if !text.contains(['\'', '\\']) && !text.contains(char::is_control) => format!("'{text}'"),
        _ => format!("{{ escaped = '{}' }}", doubled.escape_ascii().to_string().replace("\\'", "\\x27")),
    }
}

/// What a request is about, owned.
pub struct Question {
    kind: usize,
    path: Vec<u8>,
    other: Vec<u8>,
    access: Access,
    socket: SocketType,
    address: std::net::SocketAddr,
    host: &'static str,
    name: &'static [u8],
    rights: Rights,
}

impl Random {
    /// A request about what the rules of [`Draft`]s are about, or nearly.
    pub fn question(&mut self, draft: &Draft, root: &Path) -> Question {
        const ACCESS: [Access; 9] = [
            Access::READ,
            Access::WRITE,
            Access::APPEND,
            Access::CREATE,
            Access::DIRECTORY,
            Access::CREATE_NEW,
            Access::NONBLOCKING,
            Access::READ,
            Access::READ,
        ];
        let path = |random: &mut Self| {
            let path = match draft.paths.len() {
                0 => path(random, root, 1),
                count if random.one_in(4) => path(random, root, count % 3 + 1),
                count => draft.paths[random.below(count)].clone(),
            };
            let path = if random.one_in(2) { path } else { path.join(os(random.of(&NAMES))) };
            path.into_os_string().into_encoded_bytes()
        };
        let (one, other) = (path(self), path(self));
        let access = if self.one_in(3) { self.of(&ACCESS) | self.of(&ACCESS) } else { self.of(&ACCESS) };
        Question {
            kind: self.below(25),
            path: one,
            other,
            access,
            socket: self.of(&SocketType::ALL),
            address: std::net::SocketAddr::new(self.of(&ADDRESSES).parse().unwrap(), self.of(&PORTS)),
            host: self.of(&HOSTS),
            name: self.of(&ABSTRACT),
            rights: self.some(&FILE_RIGHTS, 12).into_iter().collect(),
        }
    }
}

impl Question {
    pub fn ask(&self) -> Ask<'_> {
        let Self { path, socket, .. } = self;
        match self.kind {
            0 => Ask::Scratch,
            1 => Ask::List { path, from: 0 },
            2 => Ask::Stat(path),
            3 => Ask::Readlink(path),
            4 => Ask::Mkdir(path),
            5 => Ask::Unlink(path),
            6 => Ask::Rmdir(path),
            7 => Ask::Rename { from: path, to: &self.other },
            8 => Ask::Listen(*socket, Address::Path(path)),
            9 => Ask::Bind(Address::Path(path)),
            10 => Ask::Connect(*socket, Address::Path(path)),
            11 => Ask::Listen(SocketType::Stream, Address::Ip(self.address)),
            12 => Ask::Bind(Address::Ip(self.address)),
            13 => Ask::Connect(*socket, Address::Ip(self.address)),
            14 => Ask::ConnectName { socket: *socket, host: self.host.as_bytes(), port: self.address.port() },
            15 => Ask::Listen(*socket, Address::Abstract(self.name)),
            16 => Ask::Bind(Address::Abstract(self.name)),
            17 => Ask::Connect(*socket, Address::Abstract(self.name)),
            18 => Ask::Call { service: b"pty", rights: self.rights, bytes: b"" },
            _ => Ask::Open { access: self.access, path },
        }
    }
}

/// A decision in full: the rule by its number and words, the refusal or the terms, and why. What differs between
/// policies that are the same is left out: numbers of descriptors, and where rules were written.
pub fn answer(standing: &Standing, ask: &Ask<'_>) -> String {
    let rule = |rule: Option<&fdbroker::policy::Info>| rule.map(|rule| format!("{} {}", rule.number(), rule.text()));
    match standing.decide(ask) {
        Ok(permit) => {
            let debug = format!("{permit:?}");
            let (_, grant) = debug.split_once("grant: ").unwrap_or_else(|| panic!("{debug}"));
            let mut terms = String::new();
            for (n, part) in grant.split("fd: ").enumerate() {
                terms += if n == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) };
            }
            // What a listing hides is a reference to the policy; what a name may stand for, to its denials as well.
            let terms = if matches!(ask, Ask::List { .. }) { "" } else { &terms };
            let (terms, _) = terms.split_once(", table: ").unwrap_or((terms, ""));
            format!("granted {:?}: {terms}", rule(permit.rule()))
        }
        Err(denial) => format!("{:?} {:?} {:?}", denial.refusal(), rule(denial.rule()), denial.why()),
    }
}

/// What kind of error it is.
pub fn kind(error: &PolicyError) -> std::mem::Discriminant<PolicyError> {
    std::mem::discriminant(error)
}

//! Policies and requests by chance, or by the bytes of a fuzzer: over so few names that they often meet.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use fdbroker::wire::{Access, Address, Ask, Right, Rights, SocketType};

use super::{About, Model, Rule, matching};

/// Where choices come from.
#[derive(Debug, Clone)]
pub enum Choices<'a> {
    /// SplitMix64 of a seed.
    Seeded(u64),
    /// Two bytes a choice, and the first of all there are when they are used up.
    Bytes(&'a [u8]),
}

impl Choices<'_> {
    /// A number below `end`, which is at most 65,536.
    pub fn below(&mut self, end: usize) -> usize {
        match self {
            Self::Seeded(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = *state;
                word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((word >> 40) as usize) % end
            }
            Self::Bytes(bytes) => match bytes.split_first_chunk() {
                Some((two, rest)) => {
                    *bytes = rest;
                    usize::from(u16::from_le_bytes(*two)) % end
                }
                None => 0,
            },
        }
    }

    /// In `times` of 100 cases.
    pub fn percent(&mut self, times: usize) -> bool {
        // The first choice is no: a fuzzer whose bytes are used up adds nothing.
        self.below(100) + times >= 100
    }

    pub fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Whether there is more to choose from.
    pub fn any_left(&self) -> bool {
        !matches!(self, Self::Bytes([] | [_]))
    }
}

/// Names that begin alike, one that is not UTF-8, one that looks like `..`.
const NAMES: [&[u8]; 5] = [b"a", b"b", b"ab", b"\xffb", b"..a"];
const WILD: [&[u8]; 12] = [b"*", b"**", b"?", b"a*", b"*b", b"?b", b"a?", b"*a*", b"a", b"b", b"?*", b"\xff*"];

/// A real directory with all directories of some names in it, to some depth, so that rules about them can be built.
#[derive(Debug, Clone)]
pub struct World {
    pub root: PathBuf,
    names: &'static [&'static [u8]],
    depth: usize,
    /// What requests are about, and rules are not.
    asked: &'static [&'static [u8]],
}

impl World {
    /// Three levels of directories: for policies that decide only.
    pub fn make(root: &Path) -> Self {
        let world = Self { root: root.to_owned(), names: &NAMES, depth: 3, asked: &[] };
        world.fill();
        world
    }

    /// Two levels of directories, and what can be opened in them: for brokers. [`fill`](Self::fill) makes it as it was.
    pub fn small(root: &Path) -> Self {
        Self { root: root.to_owned(), names: &NAMES[1..4], depth: 2, asked: &[b"file", b"socket", b"out", b"in", b"b"] }
    }

    pub fn fill(&self) {
        let mut level = vec![self.root.clone()];
        fs::create_dir_all(&self.root).unwrap();
        for _ in 0..self.depth {
            let inside =
                |directory: PathBuf| self.names.iter().map(move |name| directory.join(OsStr::from_bytes(name)));
            level = level.into_iter().flat_map(inside).collect();
            level.iter().for_each(|directory| fs::create_dir_all(directory).unwrap());
        }
        for directory in level.iter().filter(|_| !self.asked.is_empty()) {
            fs::write(directory.join("file"), b"file").unwrap();
            symlink("/proc/self/environ", directory.join("out")).unwrap();
            symlink("file", directory.join("in")).unwrap();
            // It stays when its listener is gone. Where the path is too long for one, there is none.
            let _ = UnixListener::bind(directory.join("socket"));
        }
    }

    /// A path of a directory, of as many names as there are levels, or fewer.
    fn directory(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let depth = choices.below(self.depth + 1);
        self.path(choices, depth)
    }

    fn path(&self, choices: &mut Choices<'_>, depth: usize) -> Vec<u8> {
        let mut path = self.root.as_os_str().as_bytes().to_vec();
        for _ in 0..depth {
            path.push(b'/');
            path.extend(choices.of(self.names));
        }
        path
    }

    /// A name that requests are about.
    fn name(&self, choices: &mut Choices<'_>) -> &'static [u8] {
        let asked = if self.asked.is_empty() || choices.percent(30) { self.names } else { self.asked };
        choices.of(asked)
    }

    /// A policy of some rules: the builder may refuse it.
    pub fn model(&self, choices: &mut Choices<'_>, most: usize) -> Model {
        let phases = choices.of(&[0, 0, 1, 2, 3]);
        let mut model = Model {
            rules: Vec::new(),
            phases,
            errno: choices.of(&[13, 1, 2]),
            stat_leading: choices.percent(30),
            mkdir_says_exists: choices.percent(30),
        };
        for _ in 0..=choices.below(most) {
            model.rules.push(self.rule(choices, phases));
        }
        model.in_order(|place| place as u64).0
    }

    fn rule(&self, choices: &mut Choices<'_>, phases: usize) -> Rule {
        let about = self.about(choices);
        let denies = choices.percent(25) && !matches!(about, About::Scratch(_));
        let file = matches!(about, About::Exact(_) | About::Beneath(_) | About::Glob(_));
        let rights = if denies { Rights::NONE } else { rights(choices, file) };
        let types = |choices: &mut Choices<'_>, all: &[SocketType]| -> Vec<SocketType> {
            let first = choices.of(all);
            all.iter().copied().filter(|socket| *socket == first || choices.percent(30)).collect()
        };
        let granted = |right| file && rights.contains(right);
        Rule {
            denies,
            rights: if file || matches!(about, About::Service(_)) { rights } else { Rights::NONE },
            connect: if granted(Right::Connect) { types(choices, &SocketType::ALL) } else { Vec::new() },
            listen: if granted(Right::Listen) {
                types(choices, &[SocketType::Stream, SocketType::SeqPacket])
            } else {
                Vec::new()
            },
            follows_links: !denies && matches!(about, About::Beneath(_)) && choices.percent(4),
            once: !denies && choices.percent(10),
            phase: if phases > 0 && choices.percent(60) { Some(choices.below(phases)) } else { None },
            about,
        }
    }

    fn about(&self, choices: &mut Choices<'_>) -> About {
        match choices.below(20) {
            0..=3 => {
                let depth = 1 + choices.below(self.depth + 1);
                About::Exact(self.path(choices, depth))
            }
            4..=7 => About::Beneath(self.directory(choices)),
            8..=12 => About::Glob(self.pattern(choices)),
            13..=15 => network(choices),
            16 => {
                let (socket, name) = (choices.of(&TRANSPORTS), choices.of(&HOSTS).to_owned());
                About::Host { socket, name, ports: ports(choices) }
            }
            17 => {
                let (right, socket, name) = abstract_name(choices);
                About::Abstract { right, socket, name }
            }
            18 => About::Service(choices.of(&SERVICES).to_owned()),
            _ => About::Scratch(self.directory(choices)),
        }
    }

    fn pattern(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let mut pattern = self.directory(choices);
        let end = pattern.len();
        for _ in 0..=choices.below(3) {
            pattern.push(b'/');
            pattern.extend(choices.of(&WILD));
        }
        if !pattern[end..].iter().any(|byte| b"*?".contains(byte)) {
            pattern.extend(b"/*");
        }
        // A pattern's directory is opened: plain names in it have to be there.
        let directory = matching::glob_directory(&pattern);
        if !Path::new(OsStr::from_bytes(&directory)).is_dir() {
            pattern.truncate(end);
            pattern.extend(b"/*");
        }
        pattern
    }

    /// A request, more often than not about what some rule is about or about what is near that.
    pub fn request(&self, choices: &mut Choices<'_>, model: &Model) -> OwnedAsk {
        let near = choices.of(&model.rules).about;
        match near {
            About::Exact(_) | About::Beneath(_) | About::Glob(_) => self.file_request(choices, model),
            About::Scratch(_) => OwnedAsk::Scratch,
            About::Network { right, socket, ports, .. } => {
                let address = address(choices, ports);
                let socket = if choices.percent(10) { choices.of(&SocketType::ALL) } else { socket };
                ip_request(right, socket, address)
            }
            About::Host { socket, name, ports } => {
                let host = match choices.below(10) {
                    0 => name.to_ascii_uppercase(),
                    1 => choices.of(&HOSTS).to_owned(),
                    2 => format!("{name}."),
                    3 => name.repeat(40),
                    4 => String::new(),
                    _ => name,
                };
                let socket = if choices.percent(10) { choices.of(&SocketType::ALL) } else { socket };
                OwnedAsk::ConnectName { socket, host: host.into_bytes(), port: port(choices, ports) }
            }
            About::Abstract { .. } => {
                let (right, socket, name) = abstract_name(choices);
                OwnedAsk::Socket(right, socket, Where::Abstract(name))
            }
            About::Service(name) => {
                let service = if choices.percent(20) { "other".to_owned() } else { name };
                OwnedAsk::Call { service: service.into_bytes(), rights: rights(choices, false) }
            }
        }
    }

    fn file_request(&self, choices: &mut Choices<'_>, model: &Model) -> OwnedAsk {
        let path = self.near_path(choices, model);
        match choices.below(16) {
            0..=4 => OwnedAsk::Open(access(choices), path),
            5 => OwnedAsk::List(path),
            6 | 7 => OwnedAsk::Stat(path),
            8 => OwnedAsk::Readlink(path),
            9 | 10 => OwnedAsk::Mkdir(path),
            11 => OwnedAsk::Unlink(path),
            12 => OwnedAsk::Rmdir(path),
            13 => OwnedAsk::Rename(path, self.near_path(choices, model)),
            _ => {
                let right = choices.of(&[Right::Listen, Right::Bind, Right::Connect]);
                let socket = if right == Right::Bind { SocketType::Datagram } else { choices.of(&SocketType::ALL) };
                OwnedAsk::Socket(right, socket, Where::Path(path))
            }
        }
    }

    fn near_path(&self, choices: &mut Choices<'_>, model: &Model) -> Vec<u8> {
        let mut path = match choices.of(&model.rules).about {
            About::Exact(path) | About::Beneath(path) => path,
            About::Glob(pattern) => instance(choices, &pattern),
            _ => {
                let depth = choices.below(self.depth + 2);
                self.path(choices, depth)
            }
        };
        for _ in 0..choices.below(3) {
            match choices.below(12) {
                0..=3 => path = [&path[..], b"/", self.name(choices)].concat(),
                4..=6 => path.truncate(path.iter().rposition(|&byte| byte == b'/').unwrap_or(0).max(1)),
                7 => path.push(choices.of(b"abx\xff*?")),
                8 => drop(path.pop()),
                9 => path = [&path[..], b"/", self.name(choices), b"/", self.name(choices)].concat(),
                10 => {}
                _ => path.extend(choices.of(&BAD)),
            }
        }
        if choices.percent(1) {
            path.extend([b'x'; 4096]);
        }
        path
    }
}

/// What makes a path none.
const BAD: [&[u8]; 6] = [b"/", b"//a", b"/.", b"/../a", b"\0", b"/./b"];
const TRANSPORTS: [SocketType; 2] = [SocketType::Stream, SocketType::Datagram];
const HOSTS: [&str; 4] = ["example.org", "EXAMPLE.org", "a.example.org", "other.test"];
const SERVICES: [&str; 2] = ["sign", "s"];
const PORTS: [u16; 6] = [0, 1, 80, 81, 443, u16::MAX];

/// Something that the pattern may match.
fn instance(choices: &mut Choices<'_>, pattern: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    for component in matching::components(pattern) {
        if component == b"**" {
            for _ in 0..choices.below(3) {
                path.push(b'/');
                path.extend(choices.of(&NAMES));
            }
            continue;
        }
        path.push(b'/');
        for &byte in component {
            match byte {
                b'*' => path.extend(choices.of(&[&b""[..], b"a", b"b", b"xy"])),
                b'?' => path.push(choices.of(b"ab\xff")),
                byte => path.push(byte),
            }
        }
    }
    path
}

fn rights(choices: &mut Choices<'_>, file: bool) -> Rights {
    let fit = |right: &Right| !file || !matches!(right, Right::Scratch | Right::Call);
    let all: Vec<Right> = Right::ALL.into_iter().filter(fit).collect();
    let wide = choices.percent(40);
    let some = all.iter().copied().filter(|right| {
        // Rules that grant descriptors of directories leave little beside them.
        let times = if *right == Right::Directory { 5 } else { 25 };
        (wide && *right != Right::Directory) || choices.percent(times)
    });
    let some: Rights = some.collect();
    if file && some.is_empty() { choices.of(&all[..5]).into() } else { some }
}

fn access(choices: &mut Choices<'_>) -> Access {
    let plain = [Access::READ, Access::WRITE, Access::APPEND, Access::CREATE_NEW, Access::READ | Access::WRITE];
    match choices.below(4) {
        0 | 1 => choices.of(&plain),
        2 => Access::from_bits(u16::try_from(choices.below(0x200)).unwrap()),
        _ => choices.of(&plain).with(choices.of(&[
            Access::TRUNCATE,
            Access::CREATE,
            Access::CREATE | Access::TRUNCATE,
            Access::NONBLOCKING,
            Access::DIRECTORY,
        ])),
    }
}

const NETWORKS: [(&str, u8); 11] = [
    ("10.0.0.0", 8),
    ("10.1.0.0", 16),
    ("10.1.2.0", 23),
    ("10.1.2.3", 32),
    ("0.0.0.0", 0),
    ("::", 0),
    ("2001:db8::", 32),
    ("2001:db8::1", 128),
    ("fe80::", 10),
    ("fe80::1", 128),
    ("127.0.0.1", 32),
];

fn network(choices: &mut Choices<'_>) -> About {
    let (address, prefix_len) = choices.of(&NETWORKS);
    let right = choices.of(&[Right::Listen, Right::Bind, Right::Connect]);
    let socket = match right {
        Right::Listen => SocketType::Stream,
        Right::Bind => SocketType::Datagram,
        _ => choices.of(&TRANSPORTS),
    };
    let address: IpAddr = address.parse().unwrap();
    let alone = prefix_len == if address.is_ipv4() { 32 } else { 128 };
    let scope = (alone && choices.percent(50)).then(|| u32::try_from(choices.below(3)).unwrap());
    let ports = ports(choices);
    let ports = if scope.is_some() { (ports.0, ports.0) } else { ports };
    About::Network { right, socket, address, prefix_len, ports, scope }
}

fn ports(choices: &mut Choices<'_>) -> (u16, u16) {
    let (one, other) = (choices.of(&PORTS), choices.of(&PORTS));
    if choices.percent(50) { (one, one) } else { (one.min(other), one.max(other)) }
}

fn port(choices: &mut Choices<'_>, (first, last): (u16, u16)) -> u16 {
    match choices.below(6) {
        0 => first,
        1 => last,
        2 => first.wrapping_sub(1),
        3 => last.wrapping_add(1),
        4 => choices.of(&PORTS),
        _ => first,
    }
}

fn address(choices: &mut Choices<'_>, ports: (u16, u16)) -> SocketAddr {
    const ADDRESSES: [&str; 14] = [
        "10.1.2.3",
        "10.1.3.255",
        "10.1.4.0",
        "10.255.0.1",
        "11.0.0.0",
        "127.0.0.1",
        "::ffff:10.1.2.3",
        "::ffff:127.0.0.1",
        "::1",
        "2001:db8::1",
        "2001:db8:1::",
        "2001:db9::",
        "fe80::1",
        "febf::2",
    ];
    let port = port(choices, ports);
    match choices.of(&ADDRESSES).parse().unwrap() {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, u32::try_from(choices.below(3)).unwrap()).into(),
    }
}

fn ip_request(right: Right, socket: SocketType, address: SocketAddr) -> OwnedAsk {
    let socket = if right == Right::Bind { SocketType::Datagram } else { socket };
    OwnedAsk::Socket(right, socket, Where::Ip(address))
}

fn abstract_name(choices: &mut Choices<'_>) -> (Right, SocketType, Vec<u8>) {
    let right = choices.of(&[Right::Listen, Right::Bind, Right::Connect]);
    let socket = match right {
        Right::Listen => choices.of(&[SocketType::Stream, SocketType::SeqPacket]),
        Right::Bind => SocketType::Datagram,
        _ => choices.of(&SocketType::ALL),
    };
    (right, socket, choices.of(&[&b"fdbroker-model"[..], b"fdbroker-model2", b"\0\xff"]).to_vec())
}

/// A request that holds its own bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedAsk {
    Open(Access, Vec<u8>),
    List(Vec<u8>),
    Stat(Vec<u8>),
    Readlink(Vec<u8>),
    Mkdir(Vec<u8>),
    Unlink(Vec<u8>),
    Rmdir(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Scratch,
    /// To listen, to be bound or to be connected.
    Socket(Right, SocketType, Where),
    ConnectName {
        socket: SocketType,
        host: Vec<u8>,
        port: u16,
    },
    Call {
        service: Vec<u8>,
        rights: Rights,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Where {
    Ip(SocketAddr),
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

impl OwnedAsk {
    pub fn ask(&self) -> Ask<'_> {
        match self {
            Self::Open(access, path) => Ask::Open { access: *access, path },
            Self::List(path) => Ask::List { path, from: 0 },
            Self::Stat(path) => Ask::Stat(path),
            Self::Readlink(path) => Ask::Readlink(path),
            Self::Mkdir(path) => Ask::Mkdir(path),
            Self::Unlink(path) => Ask::Unlink(path),
            Self::Rmdir(path) => Ask::Rmdir(path),
            Self::Rename(from, to) => Ask::Rename { from, to },
            Self::Scratch => Ask::Scratch,
            Self::Socket(right, socket, address) => {
                let address = match address {
                    Where::Ip(address) => Address::Ip(*address),
                    Where::Path(path) => Address::Path(path),
                    Where::Abstract(name) => Address::Abstract(name),
                };
                match right {
                    Right::Listen => Ask::Listen(*socket, address),
                    Right::Bind => Ask::Bind(address),
                    _ => Ask::Connect(*socket, address),
                }
            }
            Self::ConnectName { socket, host, port } => Ask::ConnectName { socket: *socket, host, port: *port },
            Self::Call { service, rights } => Ask::Call { service, rights: *rights, bytes: b"" },
        }
    }
}

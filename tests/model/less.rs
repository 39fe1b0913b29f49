//! What a worker has been narrowed to, as a list of all that was said: each of them has to keep what is asked.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fdbroker::policy::{Narrowing, Network, Ports};
use fdbroker::wire::{Address, Ask, Right, Rights};

use super::generate::Choices;
use super::matching::{access_needs, address_in, glob_directory, is_above};
use super::{About, Model, within};

/// A network and its ports.
type Net = (IpAddr, u8, (u16, u16));

/// What is kept of each kind; `None`: all that there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Less {
    pub rights: Option<Rights>,
    pub paths: Option<Vec<Vec<u8>>>,
    pub connect: Option<Vec<Net>>,
    pub listen: Option<Vec<Net>>,
    pub hosts: Option<Vec<String>>,
    pub abstract_names: Option<Vec<Vec<u8>>>,
    pub services: Option<Vec<String>>,
}

impl Less {
    /// Of what the rules are about, mostly.
    pub fn random(choices: &mut Choices<'_>, model: &Model) -> Self {
        let mut less = Self::default();
        if choices.percent(30) {
            let held =
                model.rules.iter().fold(Rights::from([Right::Stat, Right::Connect]), |all, r| all.union(r.rights));
            less.rights = Some(held.iter().filter(|_| !choices.percent(20)).collect());
        }
        for _ in 0..choices.below(3) {
            let near = choices.of(&model.rules).about;
            let any = choices.percent(85);
            match near {
                About::Exact(path) | About::Beneath(path) => {
                    let path = if choices.percent(30) { [&path[..], b"/a"].concat() } else { path };
                    add(&mut less.paths, path, any);
                }
                About::Glob(pattern) => {
                    let path = [&glob_directory(&pattern)[..], if choices.percent(50) { b"/a" } else { b"" }].concat();
                    add(&mut less.paths, path, any);
                }
                About::Network { right, address, prefix_len, ports, .. } => {
                    let kind = if right == Right::Connect { &mut less.connect } else { &mut less.listen };
                    let longer = if address.is_ipv4() { 32 } else { 128 };
                    let prefix_len = if choices.percent(30) { longer } else { prefix_len };
                    let ports = if choices.percent(30) { (ports.1, ports.1) } else { ports };
                    add(kind, (address, prefix_len, ports), any);
                }
                About::Host { name, .. } => add(&mut less.hosts, name, any),
                About::Abstract { name, .. } => add(&mut less.abstract_names, name, any),
                About::Service(name) => add(&mut less.services, name, any),
                About::Scratch(_) => {}
            }
        }
        less
    }

    /// Whether nothing that it names has been narrowed away by `earlier`.
    pub fn is_within(&self, earlier: &Self) -> bool {
        let net = |net: &Net, kept: &Net| {
            address_in(net.0, kept.0, kept.1.min(net.1))
                && kept.1 <= net.1
                && kept.2.0 <= net.2.0
                && net.2.1 <= kept.2.1
        };
        let rights = |asked: &Rights| earlier.rights.is_none_or(|kept| kept.contains_all(*asked));
        self.rights.as_ref().is_none_or(rights)
            && all(&self.paths, &earlier.paths, |path, kept| path == kept || is_above(kept, path))
            && all(&self.connect, &earlier.connect, net)
            && all(&self.listen, &earlier.listen, net)
            && all(&self.hosts, &earlier.hosts, |host, kept| host.eq_ignore_ascii_case(kept))
            && all(&self.abstract_names, &earlier.abstract_names, |name, kept| name == kept)
            && all(&self.services, &earlier.services, |name, kept| name == kept)
    }

    pub fn keeps(&self, ask: &Ask<'_>) -> bool {
        let path = |path: &[u8]| any(&self.paths, |kept| kept == path || is_above(kept, path));
        let ip = |nets: &Option<Vec<Net>>, asked: SocketAddr| {
            any(nets, |(net, len, ports)| address_in(asked.ip(), *net, *len) && within(*ports, asked.port()))
        };
        let there = |nets: &Option<Vec<Net>>, address: &Address<'_>| match *address {
            Address::Ip(asked) => ip(nets, asked),
            Address::Path(asked) => path(asked),
            Address::Abstract(name) => any(&self.abstract_names, |kept| kept == name),
        };
        // For port 0 the kernel chooses: among all that are kept, or by a range that says so.
        let chosen = |address: &Address<'_>| match *address {
            Address::Ip(asked) if asked.port() == 0 => any(&self.listen, |(net, len, ports)| {
                address_in(asked.ip(), *net, *len) && matches!(ports, (0, 0 | u16::MAX))
            }),
            _ => true,
        };
        let (right, object) = match ask {
            Ask::Open { access, path: asked } => (access_needs(*access).unwrap(), path(asked)),
            Ask::List { path: asked, .. } => (Right::List.into(), path(asked)),
            Ask::Stat(asked) => (Right::Stat.into(), path(asked)),
            Ask::Readlink(asked) => (Right::Readlink.into(), path(asked)),
            Ask::Mkdir(asked) => (Right::Mkdir.into(), path(asked)),
            Ask::Unlink(asked) => (Right::Unlink.into(), path(asked)),
            Ask::Rmdir(asked) => (Right::Rmdir.into(), path(asked)),
            Ask::Rename { from, to } => (Right::Rename.into(), path(from) && path(to)),
            Ask::Scratch => (Right::Scratch.into(), true),
            Ask::Listen(_, address) => (Right::Listen.into(), there(&self.listen, address) && chosen(address)),
            Ask::Bind(address) => (Right::Bind.into(), there(&self.listen, address) && chosen(address)),
            Ask::Connect(_, address) => (Right::Connect.into(), there(&self.connect, address)),
            Ask::ConnectName { host, port, .. } => {
                let named = any(&self.hosts, |kept| kept.as_bytes().eq_ignore_ascii_case(host));
                // Which addresses it stands for is judged when they are known.
                (Right::Connect.into(), named && any(&self.connect, |(.., ports)| within(*ports, *port)))
            }
            Ask::Call { service, rights, .. } => {
                (rights.with(Right::Call), any(&self.services, |kept| kept.as_bytes() == *service))
            }
            _ => (Rights::NONE, false),
        };
        object && self.rights.is_none_or(|kept| kept.contains_all(right))
    }

    /// As the crate's.
    pub fn real(&self) -> Narrowing {
        let path = |path: &Vec<u8>| Path::new(OsStr::from_bytes(path)).to_owned();
        let net = |(address, len, (first, last)): &Net| -> (Network, Ports) {
            (format!("{address}/{len}").parse().unwrap(), Ports::from(*first..=*last))
        };
        let mut real = Narrowing::new();
        if let Some(rights) = self.rights {
            real = real.rights(rights);
        }
        if let Some(paths) = &self.paths {
            real = real.paths(paths.iter().map(path));
        }
        if let Some(nets) = &self.connect {
            real = real.connect(nets.iter().map(net));
        }
        if let Some(nets) = &self.listen {
            real = real.listen(nets.iter().map(net));
        }
        if let Some(hosts) = &self.hosts {
            real = real.hosts(hosts);
        }
        if let Some(names) = &self.abstract_names {
            real = real.abstract_names(names);
        }
        if let Some(services) = &self.services {
            real = real.services(services);
        }
        real
    }
}

/// Adds one, or nothing: then the kind is named without any.
fn add<T>(kind: &mut Option<Vec<T>>, item: T, any: bool) {
    let items = kind.get_or_insert_default();
    items.extend(any.then_some(item));
}

fn any<T>(kept: &Option<Vec<T>>, keeps: impl FnMut(&T) -> bool) -> bool {
    kept.as_ref().is_none_or(|kept| kept.iter().any(keeps))
}

fn all<T>(asked: &Option<Vec<T>>, kept: &Option<Vec<T>>, is_within: impl Fn(&T, &T) -> bool) -> bool {
    let (Some(asked), Some(kept)) = (asked, kept) else { return true };
    asked.iter().all(|item| kept.iter().any(|kept| is_within(item, kept)))
}

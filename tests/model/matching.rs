//! What a rule of the model is about: by components, by bits, by going through all there is.

use std::net::{IpAddr, SocketAddr};

use fdbroker::wire::{Access, Right, Rights};

/// The components of a path in its form.
pub fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/').skip(1).collect()
}

/// Whether `path` is inside the directory, at any depth.
pub fn is_above(directory: &[u8], path: &[u8]) -> bool {
    let (directory, path) = (components(directory), components(path));
    path.len() > directory.len() && path[..directory.len()] == directory
}

/// "`*` stands for any bytes but a slash, also none; `?` for one byte but a slash; `**`, as a whole component, for any
/// number of components, also none. Everything else stands for itself."
pub fn glob_matches(pattern: &[&[u8]], path: &[&[u8]]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b"**", rest @ ..] => (0..=path.len()).any(|swallowed| glob_matches(rest, &path[swallowed..])),
        [one, rest @ ..] => match path {
            [] => false,
            [name, after @ ..] => component_matches(one, name) && glob_matches(rest, after),
        },
    }
}

/// As [`glob_matches`], within one component.
pub fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|swallowed| component_matches(rest, &name[swallowed..])),
        [b'?', rest @ ..] => !name.is_empty() && component_matches(rest, &name[1..]),
        [byte, rest @ ..] => name.first() == Some(byte) && component_matches(rest, &name[1..]),
    }
}

/// "The directory before the first component with a wildcard."
pub fn glob_directory(pattern: &[u8]) -> Vec<u8> {
    let plain = |component: &&&[u8]| !component.iter().any(|byte| b"*?".contains(byte));
    let components = components(pattern);
    let before: Vec<&[u8]> = components.iter().take_while(plain).copied().collect();
    [b"/", &before.join(&b'/')[..]].concat()
}

/// The rights that an access needs, by a list of everything that can be asked; `None` for what is not in it.
pub fn access_needs(access: Access) -> Option<Rights> {
    let mut all = vec![(Access::DIRECTORY, Rights::from(Right::Directory))];
    let ways = [
        (Access::READ, Rights::NONE),
        (Access::WRITE, Right::Write.into()),
        (Access::APPEND, Right::Append.into()),
        (Access::READ | Access::WRITE, Right::Write.into()),
        (Access::READ | Access::APPEND, Right::Append.into()),
    ];
    for (way, writes) in ways {
        let reads = if way.contains(Access::READ) { Right::Read.into() } else { Rights::NONE };
        let there = reads.union(writes);
        // What is there already: opened, and emptied.
        all.push((way, there));
        if way.contains(Access::WRITE) {
            all.push((way | Access::TRUNCATE, there.with(Right::Truncate)));
            // It may be there, and is emptied then.
            all.push((way | Access::TRUNCATE | Access::CREATE, there.with(Right::Truncate).with(Right::Create)));
        }
        if way != Access::READ {
            all.push((way | Access::CREATE, there.with(Right::Create)));
            // "What is written to it was nobody's before."
            all.push((way | Access::CREATE | Access::NEW, reads.with(Right::Create)));
        }
    }
    let asked = access.without(Access::NONBLOCKING);
    all.into_iter().find(|(listed, _)| *listed == asked).map(|(_, needs)| needs)
}

/// Whether the first bits of both are the same. An IPv4 address in IPv6 form is in no network.
pub fn address_in(address: IpAddr, network: IpAddr, prefix_len: u8) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).map(move |bit| octet & (0x80 >> bit) != 0)).collect()
    };
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let (address, network, len) = (bits(address), bits(network), usize::from(prefix_len));
    !mapped && address.len() == network.len() && address[..len] == network[..len]
}

/// A rule for one address has its scope id; one for a network leaves it open for link-local addresses alone.
pub fn scope_fits(scope: Option<u32>, asked: SocketAddr) -> bool {
    match (asked, scope) {
        (SocketAddr::V4(_), _) => true,
        (SocketAddr::V6(v6), Some(scope)) => v6.scope_id() == scope,
        (SocketAddr::V6(v6), None) => v6.scope_id() == 0 || v6.ip().segments()[0] & 0xffc0 == 0xfe80,
    }
}

//! Proves that narrowing only ever takes away: for random policies, narrowings and requests against a model that is too
//! simple to be wrong, and while requests are under way.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;

use common::heap::{ASKED, Counting};
use common::served::client;
use common::{alone, directory, resident_kib};
use fdbroker::policy::{Narrowing, Network, PolicyBuilder, Ports, Standing};
use fdbroker::wire::{Access, Address, Ask, Right, Rights, SocketType};
use fdbroker::{Policy, Rule};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

#[global_allocator]
static HEAP: Counting = Counting;

/// A narrowing in plain words.
#[derive(Debug, Clone, Default)]
struct Said {
    rights: Option<Vec<Right>>,
    paths: Option<Vec<String>>,
    connect: Option<Vec<(&'static str, (u16, u16))>>,
    listen: Option<Vec<(&'static str, (u16, u16))>>,
    hosts: Option<Vec<&'static str>>,
    abstract_names: Option<Vec<&'static str>>,
    services: Option<Vec<&'static str>>,
}

fn network((network, (first, last)): &(&str, (u16, u16))) -> (Network, Ports) {
    (network.parse().unwrap(), (*first..=*last).into())
}

impl Said {
    fn narrowing(&self, root: &Path) -> Narrowing {
        let mut narrowing = Narrowing::new();
        if let Some(rights) = &self.rights {
            narrowing = narrowing.rights(rights.iter().copied().collect::<Rights>());
        }
        if let Some(paths) = &self.paths {
            narrowing = narrowing.paths(paths.iter().map(|path| root.join(path)));
        }
        if let Some(networks) = &self.connect {
            narrowing = narrowing.connect(networks.iter().map(network));
        }
        if let Some(networks) = &self.listen {
            narrowing = narrowing.listen(networks.iter().map(network));
        }
        if let Some(hosts) = &self.hosts {
            narrowing = narrowing.hosts(hosts);
        }
        if let Some(names) = &self.abstract_names {
            narrowing = narrowing.abstract_names(names);
        }
        if let Some(services) = &self.services {
            narrowing = narrowing.services(services);
        }
        narrowing
    }

    /// What is kept of one kind.
    fn keeps(&self, asked: &Asked) -> bool {
        fn any<T>(kept: &Option<Vec<T>>, keeps: impl Fn(&T) -> bool) -> bool {
            kept.as_ref().is_none_or(|kept| kept.iter().any(keeps))
        }
        let path = |path: &str| any(&self.paths, |kept| Path::new(path).starts_with(kept));
        let ip = |kept: &Option<Vec<(&str, (u16, u16))>>, ip: &IpAddr, port: u16| {
            any(kept, |(network, (first, last))| inside(network, *ip) && (*first..=*last).contains(&port))
        };
        asked.needs.iter().all(|right| self.rights.as_ref().is_none_or(|rights| rights.contains(right)))
            && match &asked.what {
                What::File(at, _) => path(at),
                What::Rename(from, to) => path(from) && path(to),
                What::Connect(_, address, port) => ip(&self.connect, address, *port),
                What::Listen(address, port) | What::Bind(address, port) => ip(&self.listen, address, *port),
                What::Host(host, port) => {
                    any(&self.hosts, |kept| kept.eq_ignore_ascii_case(host))
                        && any(&self.connect, |(_, (first, last))| (*first..=*last).contains(port))
                }
                What::Abstract(name) => any(&self.abstract_names, |kept| kept == name),
                What::Call(service) => any(&self.services, |kept| kept == service),
                What::Scratch => true,
            }
    }

    /// Whether `next` says nothing that is not kept here already.
    fn holds(&self, next: &Self) -> bool {
        fn all<T>(kept: &Option<Vec<T>>, next: &Option<Vec<T>>, within: impl Fn(&T, &T) -> bool) -> bool {
            let (Some(kept), Some(next)) = (kept, next) else { return true };
            next.iter().all(|next| kept.iter().any(|kept| within(next, kept)))
        }
        let ports = |next: &(u16, u16), kept: &(u16, u16)| kept.0 <= next.0 && next.1 <= kept.1;
        let networks = |next: &(&str, (u16, u16)), kept: &(&str, (u16, u16))| {
            let (address, length) = next.0.split_once('/').unwrap();
            let shorter = kept.0.split_once('/').unwrap().1.parse::<u8>().unwrap() <= length.parse().unwrap();
            shorter && inside(kept.0, address.parse().unwrap()) && ports(&next.1, &kept.1)
        };
        all(&self.rights, &next.rights, |next, kept| next == kept)
            && all(&self.paths, &next.paths, |next, kept| Path::new(next).starts_with(kept))
            && all(&self.connect, &next.connect, networks)
            && all(&self.listen, &next.listen, networks)
            && all(&self.hosts, &next.hosts, |next, kept| next == kept)
            && all(&self.abstract_names, &next.abstract_names, |next, kept| next == kept)
            && all(&self.services, &next.services, |next, kept| next == kept)
    }
}

/// Bit by bit.
fn inside(network: &str, address: IpAddr) -> bool {
    let (first, length) = network.split_once('/').unwrap();
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    };
    let (first, length): (IpAddr, usize) = (first.parse().unwrap(), length.parse().unwrap());
    first.is_ipv4() == address.is_ipv4() && bits(first)[..length] == bits(address)[..length]
}

/// A request in plain words.
#[derive(Debug)]
struct Asked {
    needs: Vec<Right>,
    what: What,
}

#[derive(Debug)]
enum What {
    File(String, Right),
    Rename(String, String),
    Connect(SocketType, IpAddr, u16),
    Listen(IpAddr, u16),
    Bind(IpAddr, u16),
    Host(&'static str, u16),
    Abstract(&'static str),
    Call(&'static str),
    Scratch,
}

impl Asked {
    fn decide(&self, standing: &Standing, root: &Path) -> bool {
        let at = |path: &str| root.join(path).into_os_string().into_encoded_bytes();
        let ip = |address: &IpAddr, port: u16| Address::Ip((*address, port).into());
        let decide = |ask: Ask<'_>| standing.decide(&ask).is_ok();
        match &self.what {
            What::File(path, right) => {
                let path = &at(path)[..];
                let open = |access| decide(Ask::Open { access, path });
                match right {
                    Right::Read => open(Access::READ),
                    Right::Write => open(Access::WRITE),
                    Right::Append => open(Access::APPEND),
                    Right::Truncate => open(Access::WRITE | Access::TRUNCATE),
                    Right::Create => open(Access::CREATE_NEW),
                    Right::List => decide(Ask::List { path, from: 0 }),
                    Right::Stat => decide(Ask::Stat(path)),
                    Right::Readlink => decide(Ask::Readlink(path)),
                    Right::Mkdir => decide(Ask::Mkdir(path)),
                    Right::Unlink => decide(Ask::Unlink(path)),
                    Right::Rmdir => decide(Ask::Rmdir(path)),
                    Right::Connect => decide(Ask::Connect(SocketType::Stream, Address::Path(path))),
                    Right::Listen => decide(Ask::Listen(SocketType::Stream, Address::Path(path))),
                    Right::Bind => decide(Ask::Bind(Address::Path(path))),
                    _ => panic!("no request about one path"),
                }
            }
            What::Rename(from, to) => decide(Ask::Rename { from: &at(from), to: &at(to) }),
            What::Connect(socket, address, port) => decide(Ask::Connect(*socket, ip(address, *port))),
            What::Listen(address, port) => decide(Ask::Listen(SocketType::Stream, ip(address, *port))),
            What::Bind(address, port) => decide(Ask::Bind(ip(address, *port))),
            What::Host(host, port) => {
                decide(Ask::ConnectName { socket: SocketType::Stream, host: host.as_bytes(), port: *port })
            }
            What::Abstract(name) => decide(Ask::Connect(SocketType::Stream, Address::Abstract(name.as_bytes()))),
            What::Call(service) => {
                let rights = self.needs.iter().copied().collect::<Rights>().without(Right::Call.into());
                decide(Ask::Call { service: service.as_bytes(), rights, bytes: b"" })
            }
            What::Scratch => decide(Ask::Scratch),
        }
    }
}

const OF_PATHS: [Right; 14] = [
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
    Right::Connect,
    Right::Listen,
    Right::Bind,
];
const DIRECTORIES: [&str; 7] = ["a", "ab", "a/a", "a/ab", "a/a/a", "ab/a", "ab/b"];
const FILES: [&str; 9] = ["a/f", "ab/f", "a/a/f", "a/a/g", "a/ab/f", "a/a/a/f", "ab/a/f", "ab/b/g", "ab/b/x/y"];
const NETWORKS: [&str; 7] =
    ["10.0.0.0/8", "10.0.0.0/16", "10.0.5.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32", "2001:db8:1::/48"];
const PORTS: [(u16, u16); 4] = [(1, 1000), (80, 80), (80, 443), (443, 65535)];
const ADDRESSES: [&str; 7] =
    ["10.1.1.1", "10.0.1.1", "10.0.5.1", "192.0.2.1", "2001:db8:1::1", "2001:db8::1", "::ffff:10.0.5.1"];
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Everything that is asked after each step.
fn everything() -> Vec<Asked> {
    let mut all = vec![Asked { needs: vec![Right::Scratch], what: What::Scratch }];
    for path in DIRECTORIES.iter().chain(&FILES) {
        all.extend(OF_PATHS.map(|right| {
            let needs = if right == Right::Truncate { vec![Right::Write, right] } else { vec![right] };
            Asked { needs, what: What::File((*path).into(), right) }
        }));
        let rename = |to: &&str| Asked { needs: vec![Right::Rename], what: What::Rename((*path).into(), (*to).into()) };
        all.extend(FILES.iter().map(rename));
    }
    for (address, port) in ADDRESSES.iter().flat_map(|address| [79, 80, 443, 1001].map(|port| (address, port))) {
        let address = address.parse().unwrap();
        let mut push = |right, what| all.push(Asked { needs: vec![right], what });
        push(Right::Connect, What::Connect(SocketType::Stream, address, port));
        push(Right::Connect, What::Connect(SocketType::Datagram, address, port));
        push(Right::Listen, What::Listen(address, port));
        push(Right::Bind, What::Bind(address, port));
    }
    for name in NAMES {
        for port in [80, 443] {
            all.push(Asked { needs: vec![Right::Connect], what: What::Host(name, port) });
        }
        all.push(Asked { needs: vec![Right::Connect], what: What::Host("ONE", 80) });
        all.push(Asked { needs: vec![Right::Connect], what: What::Abstract(name) });
        all.push(Asked { needs: vec![Right::Call], what: What::Call(name) });
        all.push(Asked { needs: vec![Right::Call, Right::Read], what: What::Call(name) });
    }
    all
}

/// A rule as it may come up, and whether it denies.
#[derive(Debug, Clone)]
enum Ruled {
    Path { scope: u8, path: String, rights: Vec<Right>, denies: bool },
    Network { right: Right, network: (&'static str, (u16, u16)), udp: bool, denies: bool },
    Host(&'static str, (u16, u16)),
    Abstract(&'static str),
    Service(&'static str, bool),
    Scratch,
}

impl Ruled {
    fn add(&self, rules: PolicyBuilder, root: &Path) -> PolicyBuilder {
        let (rule, denies) = self.rule(root);
        if denies { rules.deny(rule) } else { rules.allow(rule) }
    }

    fn rule(&self, root: &Path) -> (Rule, bool) {
        match self {
            Self::Path { scope, path, rights, denies } => {
                let path = root.join(path);
                let rule = match scope {
                    0 => Rule::file(path.join("f")),
                    1 => Rule::glob(path.join("*/f")),
                    2 => Rule::glob(path.join("**/g")),
                    _ => Rule::beneath(path),
                };
                if *denies {
                    return (rule.into(), true);
                }
                let rule = if rights.contains(&Right::Connect) { rule.connect([SocketType::Stream]) } else { rule };
                let rule = if rights.contains(&Right::Listen) { rule.listen([SocketType::Stream], 0) } else { rule };
                (rule.grant(rights.iter().copied().collect::<Rights>()).into(), false)
            }
            Self::Network { right, network: at, udp, denies } => {
                let (network, ports) = network(at);
                let rule = match right {
                    Right::Listen => Rule::listen_within(network, ports),
                    Right::Bind => Rule::bind_within(network, ports),
                    _ if *udp => Rule::connect_within(network, ports).udp(),
                    _ => Rule::connect_within(network, ports),
                };
                (rule.into(), *denies)
            }
            Self::Host(host, (first, last)) => (Rule::connect_name(*host, *first..=*last).into(), false),
            Self::Abstract(name) => (Rule::connect_abstract(*name).into(), false),
            Self::Service(name, false) => (Rule::service(*name).into(), false),
            Self::Service(name, true) => (Rule::service(*name).grant(Right::Read).into(), false),
            Self::Scratch => (Rule::scratch(root).into(), false),
        }
    }
}

fn ruled() -> impl Strategy<Value = Ruled> {
    let rights = || subsequence([&OF_PATHS[..], &[Right::Rename]].concat(), 1..=15);
    let path = (0..5u8, select(&DIRECTORIES[..]), rights(), prop::bool::weighted(0.15))
        .prop_map(|(scope, path, rights, denies)| Ruled::Path { scope, path: path.into(), rights, denies });
    let rights = select(vec![Right::Listen, Right::Bind, Right::Connect]);
    let network = (rights, select(&NETWORKS[..]), select(&PORTS[..]), any::<bool>(), prop::bool::weighted(0.2))
        .prop_map(|(right, at, ports, udp, denies)| Ruled::Network { right, network: (at, ports), udp, denies });
    prop_oneof![
        4 => path,
        4 => network,
        1 => (select(&NAMES[..]), select(&PORTS[..])).prop_map(|(host, ports)| Ruled::Host(host, ports)),
        1 => select(&NAMES[..]).prop_map(Ruled::Abstract),
        1 => (select(&NAMES[..]), any::<bool>()).prop_map(|(name, reads)| Ruled::Service(name, reads)),
        1 => Just(Ruled::Scratch),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let some = 0.3;
    let at = select([&DIRECTORIES[..], &FILES[..]].concat()).prop_map(str::to_owned);
    let networks = || prop::collection::vec((select(&NETWORKS[..]), select(&PORTS[..])), 0..4);
    let names = || subsequence(&NAMES[..], 0..=3);
    let rights = subsequence(&Right::ALL[..], 0..=18)
        .prop_map(|rights| rights.into_iter().filter(|right| *right != Right::Directory).collect::<Vec<_>>());
    (
        prop::option::weighted(some, rights),
        prop::option::weighted(some, prop::collection::vec(at, 0..4)),
        prop::option::weighted(some, networks()),
        prop::option::weighted(some, networks()),
        prop::option::weighted(0.2, names()),
        prop::option::weighted(0.2, names()),
        prop::option::weighted(0.2, names()),
    )
        .prop_map(|(rights, paths, connect, listen, hosts, abstract_names, services)| Said {
            rights,
            paths,
            connect,
            listen,
            hosts,
            abstract_names,
            services,
        })
}

/// The rules of which a policy can be made, in the order in which they come: contradictions and duplicates are left
/// out.
fn build(root: &Path, phases: &[Vec<Ruled>]) -> Policy {
    let mut kept: Vec<Vec<Ruled>> = vec![Vec::new(); phases.len()];
    let builder = |kept: &[Vec<Ruled>]| {
        kept.iter().enumerate().fold(Policy::builder(), |rules, (n, ruled)| match n {
            0 => ruled.iter().fold(rules, |rules, one| one.add(rules, root)),
            _ => rules.phase(format!("phase {n}"), |phase| {
                ruled.iter().fold(phase, |phase, one| match one.rule(root) {
                    (rule, true) => phase.deny(rule),
                    (rule, false) => phase.allow(rule),
                })
            }),
        })
    };
    for (n, ruled) in phases.iter().enumerate() {
        for one in ruled {
            kept[n].push(one.clone());
            if builder(&kept).build().is_err() {
                kept[n].pop();
            }
        }
    }
    builder(&kept).build().unwrap()
}

/// N-06: for random policies of several phases, narrowings and requests: what is allowed after a narrowing was allowed
/// before, and is exactly what the policy allows and all narrowings keep; one that is refused changes nothing.
#[test]
fn n_06_decisions_after_are_a_subset() {
    let (_keep, root) = directory();
    DIRECTORIES.iter().for_each(|path| fs::create_dir_all(root.join(path)).unwrap());
    let everything = everything();
    let (accepted, refused, allowed) = (Cell::new(0u64), Cell::new(0u64), Cell::new(0u64));
    let steps = prop::collection::vec((said(), prop::bool::weighted(0.15)), 1..8);
    let phases = prop::collection::vec(prop::collection::vec(ruled(), 0..10), 3);
    let config =
        ProptestConfig { failure_persistence: None, cases: 250, max_shrink_iters: 300, ..ProptestConfig::default() };
    let result = proptest::test_runner::TestRunner::new(config).run(&(phases, steps), |(phases, steps)| {
        let policy = Arc::new(build(&root, &phases));
        let decide = |standing: &Standing| -> BTreeSet<usize> {
            (0..everything.len()).filter(|n| everything[*n].decide(standing, &root)).collect()
        };
        let (standing, whole) = (Standing::new(policy.clone()), Standing::new(policy));
        let (mut said, mut before): (Vec<Said>, _) = (Vec::new(), decide(&standing));
        let mut later = 2;
        for (next, enters) in steps {
            if enters && later == 2 {
                standing.enter("phase 2").unwrap();
                whole.enter("phase 2").unwrap();
                later += 1;
                before = decide(&standing);
            }
            let outcome = standing.narrow(&next.narrowing(&root));
            let after = decide(&standing);
            prop_assert!(after.is_subset(&before), "{:?}", after.difference(&before));
            match outcome {
                Ok(()) => {
                    prop_assert!(said.iter().all(|said| said.holds(&next)), "more than was left: {next:?}");
                    said.push(next);
                    accepted.set(accepted.get() + 1);
                }
                Err(_) => {
                    prop_assert_eq!(&after, &before);
                    refused.set(refused.get() + 1);
                }
            }
            let keeps = |n: &usize| said.iter().all(|said| said.keeps(&everything[*n]));
            let expected: BTreeSet<usize> = decide(&whole).into_iter().filter(keeps).collect();
            let differ: Vec<_> = after.symmetric_difference(&expected).map(|n| &everything[*n]).collect();
            prop_assert!(differ.is_empty(), "{differ:?} after {said:?}");
            allowed.set(allowed.get() + after.len() as u64);
            before = after;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let (accepted, refused, allowed) = (accepted.get(), refused.get(), allowed.get());
    eprintln!("N-06: {accepted} narrowings accepted, {refused} refused, {allowed} requests allowed after them");
    assert!(accepted > 100 && refused > 100 && allowed > 1000);
}

/// So many paths of which one is given up after the other.
const STEPS: usize = 200;

/// A tree with these files, and a policy to read them.
fn files() -> (tempfile::TempDir, Vec<PathBuf>, Policy) {
    let (keep, root) = directory();
    let files: Vec<_> = (0..STEPS).map(|n| root.join(format!("{n:03}"))).collect();
    files.iter().for_each(|file| fs::write(file, "").unwrap());
    let policy = Policy::builder().allow(Rule::beneath(&root).read().stat()).build().unwrap();
    (keep, files, policy)
}

/// N-09: while the broker's side narrows again and again, each request is decided by a state that held between its
/// sending and its answer: after `narrow` has returned nothing is granted that it took.
#[test]
fn n_09_requests_under_way_are_before_or_after() {
    let (_keep, files, policy) = files();
    let (service, client) = client(policy);
    let (begun, done, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let (granted, denied) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // Asks around where the narrowing is at the moment.
            let mut n = 0usize;
            while !over.load(SeqCst) {
                n += 1;
                let at = (done.load(SeqCst) + n % 5).saturating_sub(2).min(STEPS - 1);
                let least = done.load(SeqCst);
                let answer = client.read(&files[at]);
                let most = begun.load(SeqCst);
                match answer {
                    Ok(_) => {
                        assert!(at >= least, "{at} was granted after {least} had been taken");
                        granted.fetch_add(1, SeqCst);
                    }
                    Err(error) => {
                        assert!(error.refusal().is_some(), "{error}");
                        assert!(at < most, "{at} was refused before {most}");
                        denied.fetch_add(1, SeqCst);
                    }
                }
            }
        });
        for step in 1..=STEPS {
            let seen = granted.load(SeqCst) + denied.load(SeqCst);
            begun.store(step, SeqCst);
            service.narrow(&Narrowing::new().paths(&files[step..])).unwrap();
            done.store(step, SeqCst);
            // Some requests for each step, if the worker is there at all.
            while granted.load(SeqCst) + denied.load(SeqCst) < seen + 3 && !worker.is_finished() {
                thread::yield_now();
            }
        }
        over.store(true, SeqCst);
    });
    let (granted, denied) = (granted.into_inner(), denied.into_inner());
    eprintln!("N-09: {granted} requests granted, {denied} denied in {STEPS} narrowings");
    assert!(granted > 100 && denied > 100);
}

/// N-09: the worker and the broker's side narrow at the same moment: both hold afterwards, whichever came first.
#[test]
fn n_09_no_narrowing_is_lost() {
    let (_keep, files, policy) = files();
    let policy = Arc::new(policy);
    let (read, stat): (Vec<_>, Vec<_>) = files
        .iter()
        .map(|file| file.as_os_str().as_encoded_bytes())
        .map(|path| (Ask::Open { access: Access::READ, path }, Ask::Stat(path)))
        .unzip();
    for _ in 0..2000 {
        let standing = Standing::new(policy.clone());
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                standing.narrow(&Narrowing::new().paths(&files[..1])).unwrap();
            });
            start.wait();
            standing.narrow(&Narrowing::new().rights(Right::Read)).unwrap();
        });
        assert!(standing.decide(&read[0]).is_ok());
        assert!(standing.decide(&read[1]).is_err() && standing.decide(&stat[0]).is_err());
    }
}

/// N-08: who decides while a phase begins sees it begin once: what the new one grants and what the old one granted are
/// never both to be had, and no request is between the two.
#[test]
fn n_08_a_phase_begins_at_once() {
    let (_keep, files, _) = files();
    let policy = Policy::builder()
        .phase("old", |phase| phase.allow(Rule::file(&files[0]).read()))
        .phase("new", |phase| phase.allow(Rule::file(&files[1]).read()))
        .build();
    let policy = Arc::new(policy.unwrap());
    let [old, new] = [0, 1].map(|n| Ask::Open { access: Access::READ, path: files[n].as_os_str().as_encoded_bytes() });
    let mut between = 0;
    for _ in 0..500 {
        let standing = Standing::new(policy.clone());
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                standing.enter("new").unwrap();
            });
            start.wait();
            loop {
                let (old_before, is_new, old_after) =
                    (standing.decide(&old).is_ok(), standing.decide(&new).is_ok(), standing.decide(&old).is_ok());
                assert!(!(is_new && old_after), "both");
                assert!(old_before || is_new, "neither");
                between += u32::from(old_before && is_new);
                if is_new {
                    return;
                }
            }
        });
    }
    eprintln!("N-08: the phase began between two decisions {between} times");
}

/// A worker that narrows for ever costs the broker no more memory than one that did it once.
#[test]
fn what_has_been_narrowed_does_not_grow() {
    alone("what_has_been_narrowed_does_not_grow", || {
        let (_keep, files, policy) = files();
        let (_service, client) = client(policy);
        let less = Narrowing::new().paths(&files).rights([Right::Read, Right::Stat]).connect([]);
        let narrow = |times: usize| (0..times).for_each(|_| client.narrow(&less).unwrap());
        narrow(500);
        let before = resident_kib();
        narrow(5_000);
        let after = resident_kib();
        assert!(after < before + 4096, "{before} KiB before, {after} KiB after 5,000 more");
        client.read(&files[0]).unwrap();
    });
}

/// To decide takes nothing from the heap, narrowed or not, granted or not.
#[test]
fn deciding_takes_nothing_from_the_heap() {
    let (_keep, files, _) = files();
    let root = files[0].parent().unwrap();
    let network: Network = "10.0.0.0/8".parse().unwrap();
    let rules = Policy::builder().allow(Rule::beneath(root).read().rename().follow_links_within());
    let rules = rules.allow(Rule::connect_within(network, 80)).allow(Rule::connect_name("one", 80));
    let standing = Standing::new(rules.allow(Rule::service("one")).build().unwrap());
    let ports = Ports::from(80);
    let less = Narrowing::new().paths(&files[..100]).connect([("10.1.0.0/16".parse().unwrap(), ports)]);
    standing.narrow(&less.hosts(["one"]).services(["one"])).unwrap();
    let path = |n: usize| files[n].as_os_str().as_encoded_bytes();
    let connect = |address: &str| Ask::Connect(SocketType::Stream, Address::Ip(address.parse().unwrap()));
    let host = |host| Ask::ConnectName { socket: SocketType::Stream, host, port: 80 };
    let call = |service| Ask::Call { service, rights: Rights::NONE, bytes: b"" };
    let asks = [
        (Ask::Open { access: Access::READ, path: path(99) }, true),
        (Ask::Open { access: Access::READ, path: path(100) }, false),
        (Ask::Rename { from: path(0), to: path(1) }, true),
        (Ask::Rename { from: path(0), to: path(100) }, false),
        (connect("10.1.2.3:80"), true),
        (connect("10.2.2.3:80"), false),
        (host(b"ONE"), true),
        (host(b"two"), false),
        (call(b"one"), true),
        (call(b"two"), false),
    ];
    let decide = || asks.iter().for_each(|(ask, granted)| assert_eq!(standing.decide(ask).is_ok(), *granted, "{ask}"));
    decide();
    let before = ASKED.get();
    assert!(before > 0, "the test itself is counted");
    (0..1000).for_each(|_| decide());
    assert_eq!(ASKED.get(), before);
}

//! `[broker]` How long it takes to decide, by policies of 10 to 10,000 rules: see benches/README.md. The exit status is
//! 1 if 10,000 rules cost more than twice as much as 10.
#![allow(missing_docs, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used, reason = "a program")]

use std::env;
use std::fs;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use fdbroker::wire::{Access, Address, Ask, SocketType};
use fdbroker::{Policy, Rule};

const SIZES: [usize; 4] = [10, 100, 1000, 10_000];
/// What 10,000 rules may cost at most, beside 10.
const MOST: f64 = 2.0;
/// Directories of rules: each is a descriptor for as long as the policy lives, and there are four policies.
const DIRECTORIES: usize = 100;
/// Requests of each kind, one after the other in a batch: so many that they do not all find the same few rules.
const REQUESTS: usize = 256;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("cargo bench --bench policy [-- --quick]");
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        eprintln!("policy measures only as a benchmark: cargo bench --bench policy");
        return ExitCode::SUCCESS;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let rounds = if quick { 150 } else { 3000 };
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path().canonicalize().unwrap();
    for directory in 0..DIRECTORIES {
        fs::create_dir_all(root.join(nested(directory))).unwrap();
    }
    let policies: Vec<Policy> = SIZES.iter().map(|size| policy(&root, *size)).collect();
    let kinds = kinds(&root);
    kinds.iter().for_each(|kind| check(kind, &policies));
    let ratio = report(&measure(&policies, &kinds, rounds), &kinds);
    println!("\n10,000 rules cost {ratio:.2} times what 10 cost; the limit is {MOST:.1}.");
    // A second says too little on a machine that does something else as well.
    if ratio > MOST && !quick { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Directories are one in another, three deep, ten in each.
fn nested(directory: usize) -> String {
    format!("srv/{}/{}", directory % 10, directory / 10)
}

/// The n-th rule of a policy: of ten rules four are about single files, and one each about a tree, a pattern, a denied
/// file, a network, an address and a host. A larger policy has a smaller one's rules and more.
fn policy(root: &Path, size: usize) -> Policy {
    let mut policy = Policy::builder();
    for n in 0..size {
        let (tenth, directory) = (n / 10, root.join(nested((n / 10) % DIRECTORIES)));
        policy = match n % 10 {
            // Once for each directory; further ones are about files.
            4 if tenth < DIRECTORIES => policy.allow(Rule::beneath(&directory).read().stat()),
            5 if tenth < 8 * DIRECTORIES => {
                policy.allow(Rule::glob(directory.join(format!("*/log-{tenth}-*.txt"))).append())
            }
            6 => policy.deny(Rule::file(directory.join(format!("secret-{tenth}")))),
            7 => policy
                .allow(Rule::connect_within(format!("10.{}.{}.0/24", tenth / 256, tenth % 256).parse().unwrap(), 443)),
            8 => policy.allow(Rule::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port(tenth))))),
            9 => policy.allow(Rule::connect_name(format!("host-{tenth}.example.org"), 443)),
            kind => policy.allow(Rule::file(directory.join(format!("file-{tenth}-{kind}"))).read().write()),
        };
    }
    policy.build().unwrap()
}

fn port(tenth: usize) -> u16 {
    1024 + u16::try_from(tenth).unwrap()
}

/// What is asked, about the n-th ten of rules.
enum Asked {
    Open(Access, Vec<u8>),
    Listen(SocketAddr),
    Connect(SocketAddr),
    Host(Vec<u8>),
}

impl Asked {
    fn ask(&self) -> Ask<'_> {
        match self {
            Self::Open(access, path) => Ask::Open { access: *access, path },
            Self::Listen(address) => Ask::Listen(SocketType::Stream, Address::Ip(*address)),
            Self::Connect(address) => Ask::Connect(SocketType::Stream, Address::Ip(*address)),
            Self::Host(host) => Ask::ConnectName { socket: SocketType::Stream, host, port: 443 },
        }
    }
}

/// Requests of one kind.
struct Kind {
    name: &'static str,
    granted: bool,
    /// For each size of policy: about rules from all parts of it.
    asked: [Vec<Asked>; SIZES.len()],
}

fn kinds(root: &Path) -> Vec<Kind> {
    let open = |access, tenth: usize, name: String| {
        let path = root.join(nested(tenth % DIRECTORIES)).join(name);
        Asked::Open(access, path.into_os_string().into_vec())
    };
    let net = |tenth: usize| ([10, (tenth / 256).to_le_bytes()[0], tenth.to_le_bytes()[0], 9], 443).into();
    let kind = |name, granted, asked: &dyn Fn(usize) -> Asked| {
        let of_size = |size: usize| (0..REQUESTS).map(|n| asked(n * (size / 10) / REQUESTS)).collect();
        Kind { name, granted, asked: SIZES.map(of_size) }
    };
    let (read, append) = (Access::READ, Access::APPEND);
    vec![
        kind("file, granted", true, &|tenth| open(read, tenth, format!("file-{tenth}-1"))),
        kind("file, right missing", false, &|tenth| open(append, tenth, format!("file-{tenth}-2"))),
        kind("tree, granted", true, &|tenth| open(read, tenth, format!("any/thing/at/all-{tenth}"))),
        kind("pattern, granted", true, &|tenth| open(append, tenth, format!("any/log-{}-1.txt", tenth % 800))),
        kind("denied file", false, &|tenth| open(read, tenth, format!("secret-{tenth}"))),
        kind("path of no rule", false, &|tenth| open(read, tenth, "x".into()).elsewhere()),
        kind("network, granted", true, &|tenth| Asked::Connect(net(tenth))),
        kind("address, granted", true, &|tenth| Asked::Listen((Ipv4Addr::LOCALHOST, port(tenth)).into())),
        kind("address of no rule", false, &|tenth| Asked::Listen(net(tenth))),
        kind("host, granted", true, &|tenth| Asked::Host(format!("host-{tenth}.example.org").into())),
        kind("host of no rule", false, &|tenth| Asked::Host(format!("host-{tenth}.example.net").into())),
    ]
}

impl Asked {
    /// The same path, but for its first component.
    fn elsewhere(self) -> Self {
        match self {
            Self::Open(access, path) => Self::Open(access, [b"/x", &path[1..]].concat()),
            other => other,
        }
    }
}

/// A benchmark of what is answered otherwise than is meant would measure something else.
fn check(kind: &Kind, policies: &[Policy]) {
    for (policy, asked) in policies.iter().zip(&kind.asked) {
        for asked in asked {
            let (ask, rules) = (asked.ask(), policy.rules().len());
            assert_eq!(policy.decide(&ask).is_ok(), kind.granted, "{}, of {rules} rules: {ask}", kind.name);
        }
    }
}

/// Nanoseconds of each round for a request: by kind and by size.
type Times = Vec<[Vec<f64>; SIZES.len()]>;

/// In a round each kind is asked of every policy, in an order that turns.
fn measure(policies: &[Policy], kinds: &[Kind], rounds: usize) -> Times {
    let mut times: Times = kinds.iter().map(|_| Default::default()).collect();
    for round in 0..rounds {
        for (kind, times) in kinds.iter().zip(&mut times) {
            for turn in 0..SIZES.len() {
                let size = (turn + round) % SIZES.len();
                let since = Instant::now();
                for asked in &kind.asked[size] {
                    let _ = black_box(policies[size].decide(black_box(&asked.ask())));
                }
                times[size].push(since.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64);
            }
        }
    }
    times
}

/// The best of so many rounds in a row stands for them: others on the machine take time and caches now and then.
const BLOCK: usize = 10;

/// Prints the table: nanoseconds, and medians of the ratios to ten rules in the same block. And answers the ratio of
/// all kinds together.
fn report(times: &Times, kinds: &[Kind]) -> f64 {
    println!("{:22}{:>8}{:>10}{:>8}{:>10}", "nanoseconds, rules:", 10, "100", "1000", "10000");
    let line = |name: &str, best: &[Vec<f64>; SIZES.len()]| {
        let ratio = |size: usize| median(best[size].iter().zip(&best[0]).map(|(many, few)| many / few));
        let cell = |size: usize| format!("{:7.0} {:4.2}", median(best[size].iter().copied()), ratio(size));
        println!("{name:22}{:8.0}{}{}{}", median(best[0].iter().copied()), cell(1), cell(2), cell(3));
        ratio(SIZES.len() - 1)
    };
    let mut together: [Vec<f64>; SIZES.len()] = Default::default();
    for (kind, times) in kinds.iter().zip(times) {
        let best = times.each_ref().map(|times| blocks(times));
        line(kind.name, &best);
        for (sums, best) in together.iter_mut().zip(&best) {
            sums.resize(best.len(), 0.0);
            sums.iter_mut().zip(best).for_each(|(sum, best)| *sum += best / kinds.len() as f64);
        }
    }
    line("all together", &together)
}

fn blocks(times: &[f64]) -> Vec<f64> {
    times.chunks(BLOCK).map(|block| block.iter().copied().fold(f64::INFINITY, f64::min)).collect()
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

//! The model's rules as the crate's.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fdbroker::policy::{Denial, FileRule, Network, Permit, PolicyBuilder, Ports, SocketRule, Why};
use fdbroker::wire::{Right, SocketType};
use fdbroker::{Policy, PolicyError, Rule as Real};

use super::{About, Model, No, Rule, Verdict};

impl Model {
    /// The policy.
    pub fn build(&self) -> Result<Policy, PolicyError> {
        let mut policy = Policy::builder().refuse_with(self.errno);
        for rule in self.rules.iter().filter(|rule| rule.phase.is_none()) {
            policy = if rule.denies { policy.deny(real(rule)) } else { policy.allow(real(rule)) };
        }
        for phase in 0..self.phases {
            policy = policy.phase(phase_name(phase), |mut policy| {
                for rule in self.rules.iter().filter(|rule| rule.phase == Some(phase)) {
                    policy = if rule.denies { policy.deny(real(rule)) } else { policy.allow(real(rule)) };
                }
                policy
            });
        }
        let set = |policy: PolicyBuilder, yes, option: fn(PolicyBuilder) -> PolicyBuilder| {
            if yes { option(policy) } else { policy }
        };
        let policy = set(policy, self.stat_leading, PolicyBuilder::stat_leading_directories);
        set(policy, self.mkdir_says_exists, PolicyBuilder::mkdir_says_exists).build()
    }

    /// The rules in the policy's own words, for people.
    pub fn words(&self) -> String {
        let options = format!(
            "stat leading {}, mkdir says exists {}, {} phases\n",
            self.stat_leading, self.mkdir_says_exists, self.phases
        );
        let line = |rule: &Rule| {
            let alone =
                Self { rules: vec![Rule { phase: None, ..rule.clone() }], phases: 0, errno: 13, ..Self::default() };
            let text = match alone.build() {
                Ok(policy) => policy.rules().map(|rule| rule.text().to_owned()).collect(),
                Err(error) => error.to_string(),
            };
            let links = if rule.follows_links { ", follows links" } else { "" };
            let phase = rule.phase.map_or(String::new(), |phase| format!(" in phase {phase}"));
            format!("{text}{links}{phase}\n")
        };
        options + &self.rules.iter().map(line).collect::<String>()
    }

    /// The same rules in another order, each phase's among themselves, and the number that each had before (by the
    /// place that it has now).
    pub fn in_order(&self, order: impl Fn(usize) -> u64) -> (Self, Vec<u32>) {
        let mut places: Vec<usize> = (0..self.rules.len()).collect();
        places.sort_by_key(|&place| (self.rules[place].phase.map_or(0, |phase| phase + 1), order(place)));
        let rules = places.iter().map(|&place| self.rules[place].clone()).collect();
        let numbers = places.iter().map(|&place| u32::try_from(place).unwrap() + 1).collect();
        (Self { rules, ..self.clone() }, numbers)
    }
}

/// What the policy decided, in the model's words.
pub fn verdict(decided: &Result<Permit<'_>, Denial<'_>>) -> Verdict {
    match decided {
        Ok(permit) => Ok(permit.rules().map(|rule| rule.number()).collect()),
        Err(denial) => {
            let refusal = denial.refusal();
            let why = if matches!(denial.why(), Why::Impossible(_)) { Why::Impossible("") } else { denial.why() };
            let rule = denial.rule().map(|rule| rule.number());
            Err(No { reason: refusal.reason, errno: refusal.errno, rule, why })
        }
    }
}

pub fn phase_name(phase: usize) -> String {
    format!("phase {phase}")
}

fn real(rule: &Rule) -> Real {
    let once = |real: FileRule| if rule.once { real.once() } else { real };
    let path = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
    match &rule.about {
        About::Exact(file) => once(file_rule(rule, Real::file(path(file)))).into(),
        About::Beneath(directory) => once(file_rule(rule, Real::beneath(path(directory)))).into(),
        About::Glob(pattern) => once(file_rule(rule, Real::glob(path(pattern)))).into(),
        About::Scratch(directory) => {
            let real = Real::scratch(path(directory));
            if rule.once { real.once().into() } else { real.into() }
        }
        About::Service(name) => {
            let real = Real::service(name).grant(rule.rights);
            if rule.once { real.once().into() } else { real.into() }
        }
        about => {
            let real = socket_rule(about);
            if rule.once { real.once().into() } else { real.into() }
        }
    }
}

fn file_rule(rule: &Rule, real: FileRule) -> FileRule {
    let plain = [Right::Listen, Right::Bind, Right::Connect];
    let others = rule.rights.iter().filter(|right| !plain.contains(right));
    let mut real = others.fold(real, FileRule::grant);
    // Of what is made: so that who runs the tests, whoever it is, can look at it and remove it.
    if rule.rights.contains(Right::Create) {
        real = real.create(0o600);
    }
    if rule.rights.contains(Right::Mkdir) {
        real = real.mkdir(0o700);
    }
    if rule.rights.contains(Right::Bind) {
        real = real.bind(0o600);
    }
    if rule.rights.contains(Right::Listen) {
        real = real.listen(rule.listen.iter().copied(), 0o600);
    }
    if rule.rights.contains(Right::Connect) {
        real = real.connect(rule.connect.iter().copied());
    }
    if rule.follows_links { real.follow_links_within() } else { real }
}

fn socket_rule(about: &About) -> SocketRule {
    let range = |(first, last): (u16, u16)| Ports::from(first..=last);
    match about {
        About::Network { right, socket, address, prefix_len, ports, scope } => {
            let within = || -> Network { format!("{address}/{prefix_len}").parse().unwrap() };
            let exactly = |scope| match *address {
                IpAddr::V4(v4) => SocketAddr::from((v4, ports.0)),
                IpAddr::V6(v6) => SocketAddrV6::new(v6, ports.0, 0, scope).into(),
            };
            let rule = match (right, scope) {
                (Right::Listen, None) => Real::listen_within(within(), range(*ports)),
                (Right::Listen, Some(scope)) => Real::listen(exactly(*scope)),
                (Right::Bind, None) => Real::bind_within(within(), range(*ports)),
                (Right::Bind, Some(scope)) => Real::bind(exactly(*scope)),
                (_, None) => Real::connect_within(within(), range(*ports)),
                (_, Some(scope)) => Real::connect(exactly(*scope)),
            };
            if *right == Right::Connect && *socket == SocketType::Datagram { rule.udp() } else { rule }
        }
        About::Host { socket, name, ports } => {
            let rule = Real::connect_name(name, range(*ports));
            if *socket == SocketType::Datagram { rule.udp() } else { rule }
        }
        About::Abstract { right, socket, name } => match right {
            Right::Listen => Real::listen_abstract(name.clone()).socket_type(*socket),
            Right::Bind => Real::bind_abstract(name.clone()),
            _ => Real::connect_abstract(name.clone()).socket_type(*socket),
        },
        _ => unreachable!("no rule about sockets"),
    }
}

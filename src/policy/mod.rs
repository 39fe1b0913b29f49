//! `[broker]` Request to permit or refusal. Deciding does no I/O, allocates nothing, and takes as long with ten
//! thousand rules as with ten.
//!
//! **The most specific rule decides, alone:** a rule for exactly the path before any tree, and of the trees the
//! nearest. What that rule does not grant is refused, whatever a rule further up grants. Where no rule is, everything
//! is refused.

mod permit;
mod root;
mod rule;

pub(crate) use permit::Grant;
pub use permit::Permit;
pub(crate) use root::Root;
pub use rule::{ConnectRule, FileRule, ListenRule, Rule};

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::PolicyError;
use crate::open::Resolver;
use crate::wire::path::{self, PathError};
use crate::wire::{Ask, Reason, Refusal, Right};
use rule::{Rights, Scope, Written};

/// What one worker may have. Immutable, `Send + Sync`; share it between workers of one role with `Arc`.
///
/// ```
/// use fdbroker::{Policy, Rule};
///
/// let logs = std::env::temp_dir();
/// let policy = Policy::builder()
///     .allow(Rule::beneath("/etc").read())
///     .allow(Rule::beneath(&logs).append().create(0o640))
///     .allow(Rule::listen("127.0.0.1:8080".parse()?))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Policy {
    /// By the whole path.
    files: HashMap<Box<[u8]>, FileTerms>,
    /// By the path of the directory.
    trees: HashMap<Box<[u8]>, FileTerms>,
    /// Bytes of the longest key of `trees`: no longer prefix of a path needs to be looked up.
    longest_tree: usize,
    scratch: Option<Root>,
    listen: HashMap<SocketAddr, ListenRule>,
    connect: HashMap<SocketAddr, ConnectRule>,
    refuse_with: i32,
}

#[derive(Debug)]
struct FileTerms {
    root: Root,
    /// The name to open for a rule about exactly one file: the policy's bytes, never the request's.
    name: Box<[u8]>,
    rights: Rights,
    mode: u32,
}

impl Policy {
    /// A policy that allows nothing yet.
    #[must_use]
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder::default()
    }

    /// How names are resolved beneath the directories of its rules; none if no rule is about files.
    #[must_use]
    pub fn resolver(&self) -> Option<Resolver> {
        self.files.values().chain(self.trees.values()).next().map(|terms| terms.root.resolver())
    }

    /// Decides, on the request's bytes and the rules alone.
    ///
    /// # Errors
    /// A refusal: [`Reason::Path`] for a path that is not in the [form](crate::wire::path) of one, with ENAMETOOLONG
    /// for one that is too long; [`Reason::Denied`] where no rule allows it, with the policy's
    /// [errno](PolicyBuilder::refuse_with).
    pub fn decide<'p>(&'p self, ask: &Ask<'p>) -> Result<Permit<'p>, Refusal> {
        let denied = Refusal { reason: Reason::Denied, errno: self.refuse_with };
        let grant = match *ask {
            Ask::File { right, path } => {
                path::check(path).map_err(|wrong| self.refuse_path(wrong))?;
                self.file(right, path)
            }
            Ask::Scratch => self.scratch.as_ref().map(|root| Grant::Scratch { root }),
            Ask::Listen(address) => self.listen.get(&address).map(|rule| Grant::Listen { address, rule }),
            Ask::Connect(address) => self.connect.get(&address).map(|rule| Grant::Connect { address, rule }),
            Ask::Hello => None,
        };
        grant.map(Permit::new).ok_or(denied)
    }

    fn file<'p>(&'p self, right: Right, path: &'p [u8]) -> Option<Grant<'p>> {
        let (terms, name) = match self.files.get(path) {
            Some(terms) => (terms, &terms.name[..]),
            None => self.nearest_tree(path)?,
        };
        let FileTerms { ref root, rights, mode, .. } = *terms;
        rights.contains(right).then_some(Grant::File { root, name, right, mode })
    }

    /// The deepest tree that holds `path`, and what of the path is beneath it.
    fn nearest_tree<'p>(&'p self, path: &'p [u8]) -> Option<(&'p FileTerms, &'p [u8])> {
        let mut end = path.len().min(self.longest_tree + 1);
        while let Some(slash) = path[..end].iter().rposition(|&byte| byte == b'/') {
            if let Some(terms) = self.trees.get(&path[..slash]) {
                return Some((terms, &path[slash + 1..]));
            }
            end = slash;
        }
        None
    }

    fn refuse_path(&self, wrong: PathError) -> Refusal {
        let errno = if wrong == PathError::TooLong { libc::ENAMETOOLONG } else { self.refuse_with };
        Refusal { reason: Reason::Path, errno }
    }
}

/// Collects rules; [`build`](Self::build) checks them and opens their directories.
#[derive(Debug)]
pub struct PolicyBuilder {
    rules: Vec<Rule>,
    refuse_with: i32,
}

impl Default for PolicyBuilder {
    fn default() -> Self {
        Self { rules: Vec::new(), refuse_with: libc::EACCES }
    }
}

impl PolicyBuilder {
    /// Adds a rule. The order of rules means nothing.
    #[must_use]
    pub fn allow(mut self, rule: impl Into<Rule>) -> Self {
        self.rules.push(rule.into());
        self
    }

    /// The errno of a refusal, EACCES (13) unless said otherwise.
    #[must_use]
    pub fn refuse_with(mut self, errno: i32) -> Self {
        self.refuse_with = errno;
        self
    }

    /// Checks the rules and opens their directories, as the user that calls it.
    ///
    /// # Errors
    /// [`PolicyError`], about the first rule that is not right. Every directory that was opened is closed again.
    pub fn build(self) -> Result<Policy, PolicyError> {
        if !(1..=4095).contains(&self.refuse_with) {
            return Err(PolicyError::Errno(self.refuse_with));
        }
        let mut policy = Policy {
            files: HashMap::new(),
            trees: HashMap::new(),
            longest_tree: 0,
            scratch: None,
            listen: HashMap::new(),
            connect: HashMap::new(),
            refuse_with: self.refuse_with,
        };
        for rule in self.rules {
            match rule.0 {
                Written::File(rule) => policy.add_file(rule)?,
                Written::Scratch(directory) => policy.add_scratch(&directory)?,
                Written::Listen(rule) => {
                    let address = plain_address(rule.address)?;
                    insert(&mut policy.listen, address, rule, || format!("listen {address}"))?;
                }
                Written::Connect(rule) => {
                    let address = plain_address(rule.address)?;
                    insert(&mut policy.connect, address, rule, || format!("connect {address}"))?;
                }
            }
        }
        Ok(policy)
    }
}

impl Policy {
    fn add_file(&mut self, rule: FileRule) -> Result<(), PolicyError> {
        let FileRule { path, scope, rights, mode, way } = rule;
        if scope == Scope::Beneath && path.as_os_str() == "/" {
            return Err(unfit("/", "it would grant every file there is; name the directories that are meant"));
        }
        check_path(&path)?;
        if rights.is_empty() {
            return Err(PolicyError::NoRight { path });
        }
        if mode & !0o777 != 0 {
            return Err(unfit(
                path.display(),
                "the mode of created files has at most the bits 0o777: no set-id, no sticky bit",
            ));
        }
        let key = path.as_os_str().as_bytes().into();
        let what = || path.display().to_string();
        match scope {
            Scope::Exact => {
                let terms = FileTerms {
                    root: Root::of_file(&path)?.on_way(&path, way)?,
                    name: root::file_name(&path).into(),
                    rights,
                    mode,
                };
                insert(&mut self.files, key, terms, what)
            }
            Scope::Beneath => {
                let terms =
                    FileTerms { root: Root::of_tree(&path)?.on_way(&path, way)?, name: Box::default(), rights, mode };
                self.longest_tree = self.longest_tree.max(path.as_os_str().len());
                insert(&mut self.trees, key, terms, what)
            }
        }
    }

    fn add_scratch(&mut self, directory: &Path) -> Result<(), PolicyError> {
        check_path(directory)?;
        if self.scratch.is_some() {
            return Err(PolicyError::Duplicate { what: "scratch".into() });
        }
        self.scratch = Some(Root::of_scratch(directory)?);
        Ok(())
    }
}

fn check_path(path: &Path) -> Result<(), PolicyError> {
    path::check(path.as_os_str().as_bytes()).map_err(|source| PolicyError::Path { path: path.to_owned(), source })
}

/// The address as a request on the wire spells it. An IPv4 address in IPv6 clothes is another key than the plain one,
/// so a rule may not use it: whichever spelling a request has, it cannot dodge the rule.
fn plain_address(mut address: SocketAddr) -> Result<SocketAddr, PolicyError> {
    if let SocketAddr::V6(v6) = &mut address {
        v6.set_flowinfo(0);
    }
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Err(unfit(address, "it is an IPv4 address in IPv6 form; write the IPv4 address"))
        }
        _ => Ok(address),
    }
}

fn insert<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    key: K,
    value: V,
    what: impl Fn() -> String,
) -> Result<(), PolicyError> {
    match map.entry(key) {
        Entry::Occupied(_) => Err(PolicyError::Duplicate { what: what() }),
        Entry::Vacant(place) => {
            place.insert(value);
            Ok(())
        }
    }
}

fn unfit(what: impl Display, why: &'static str) -> PolicyError {
    PolicyError::Unfit { what: what.to_string(), why }
}

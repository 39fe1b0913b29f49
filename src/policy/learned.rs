//! `[broker]` What a worker was granted, as the smallest policy that grants it again. Features `learn` and
//! `policy-file`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lines::{granting, lines};
use super::rule::{FileKind, FileRule, Rule};
use super::{PolicyFile, TextError};
use crate::broker::{Audit, Event, Record};
use crate::wire::{Address, Ask, Right, Rights, SocketType};

/// An audit that remembers what was granted, and writes it down as a policy file. Together with
/// [`PolicyBuilder::learn`](super::PolicyBuilder::learn) it gives the first draft of a worker's policy.
///
/// ```
/// use std::sync::Arc;
/// use fdbroker::policy::Learned;
/// use fdbroker::{Broker, Client, Policy};
///
/// let learned = Arc::new(Learned::new());
/// let broker = Broker::new().audit_to(learned.clone());
/// # let (here, there) = fdbroker::Channel::pair()?;
/// let service = broker.serve("worker", here, Policy::builder().learn().build()?)?;
/// # let client = Client::new(there);
/// client.read("/etc/hostname")?;
/// # drop(client);
/// service.wait()?;
/// assert!(learned.to_toml().contains("file = \"/etc/hostname\"\nrights = [\"read\"]\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The policy grants what was granted in that run, each object by itself and with the rights that were needed: to take
/// a rule or a right away is to refuse something that was asked for. What was denied or failed is not in it. **It is a
/// draft:** whoever could make the worker ask for something while it was learnt has put it in. Names that differ from
/// run to run want a [pattern](super::Rule::glob) in their place.
///
/// Files that the worker made have the permission bits `0o600`, its directories `0o700`, unless a rule has granted
/// them: then those that they have. Inside a directory that the worker itself made, which is not there when the policy
/// is loaded the next time, a rule is a pattern whose directory is the one above.
///
/// It looks at each object that was granted (lstat(2)), on the worker's thread, to know of which kind it is.
#[derive(Debug, Default)]
pub struct Learned {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<Vec<u8>, File>,
    /// Directories that the worker made.
    made: BTreeSet<Vec<u8>>,
    /// What is not about a path, by its lines.
    others: BTreeMap<String, Rule>,
    services: BTreeMap<String, Rights>,
}

#[derive(Debug, Clone)]
struct File {
    rule: FileRule,
    kinds: Vec<FileKind>,
}

impl Learned {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The policy file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        const HEAD: &str = "# Learnt by fdbroker from one run: what was asked for and granted. A draft, to be read before it is used.\n";
        let state = self.state();
        let files = state.rules().into_iter().map(|rule| lines(&rule.into()));
        let services = state.services.iter().map(|(name, rights)| lines(&Rule::service(name).grant(*rights).into()));
        let rules = files.chain(state.others.keys().cloned()).chain(services);
        std::iter::once(HEAD.to_owned()).chain(rules.map(|lines| format!("\n[[allow]]\n{lines}"))).collect()
    }

    /// As [`to_toml`](Self::to_toml), read back.
    ///
    /// # Errors
    /// None: what it writes, it can read.
    pub fn policy_file(&self) -> Result<PolicyFile, TextError> {
        PolicyFile::parse(&self.to_toml(), "the learnt policy")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audit for Learned {
    fn record(&self, record: &Record<'_>) {
        if let Event::Request { ask, rule, answer: Ok(()), .. } = &record.event {
            self.state().learn(ask, rule.is_some());
        }
    }
}

impl State {
    fn learn(&mut self, ask: &Ask<'_>, by_rule: bool) {
        let Ok(needs) = ask.needs() else { return };
        match *ask {
            Ask::Hello | Ask::Narrow(_) | Ask::Ready | Ask::Batch(_) => {}
            Ask::Open { path, .. } => self.file(path, needs, by_rule).look(path),
            Ask::List { path, .. } | Ask::Stat(path) | Ask::Readlink(path) | Ask::Unlink(path) | Ask::Rmdir(path) => {
                self.file(path, needs, by_rule);
            }
            Ask::Mkdir(path) => {
                self.file(path, needs, by_rule);
                self.made.insert(path.into());
            }
            Ask::Rename { from, to } => {
                let kind = kind(to);
                for path in [from, to] {
                    self.file(path, needs, by_rule).kinds.extend(kind);
                }
            }
            Ask::Listen(socket, Address::Path(path)) => {
                let terms = &mut self.file(path, needs, by_rule).rule.terms;
                terms.listen = terms.listen.with(socket);
            }
            Ask::Connect(socket, Address::Path(path)) => {
                let terms = &mut self.file(path, needs, by_rule).rule.terms;
                terms.connect = terms.connect.with(socket);
            }
            Ask::Bind(Address::Path(path)) => drop(self.file(path, needs, by_rule)),
            Ask::Scratch => self.other(Rule::scratch(std::env::temp_dir())),
            Ask::Listen(_, Address::Ip(address)) => self.other(Rule::listen(address)),
            Ask::Listen(socket, Address::Abstract(name)) => {
                self.other(Rule::listen_abstract(name).socket_type(socket));
            }
            Ask::Bind(Address::Ip(address)) => self.other(Rule::bind(address)),
            Ask::Bind(Address::Abstract(name)) => self.other(Rule::bind_abstract(name)),
            Ask::Connect(socket, Address::Ip(address)) => {
                self.other(Rule::connect(address).socket_type(socket));
            }
            Ask::Connect(socket, Address::Abstract(name)) => {
                self.other(Rule::connect_abstract(name).socket_type(socket));
            }
            Ask::ConnectName { socket, host, port } => {
                // It was looked up, so it is a name.
                let host = String::from_utf8_lossy(host).to_ascii_lowercase();
                self.other(Rule::connect_name(host, port).socket_type(socket));
            }
            Ask::Call { service, rights, .. } => {
                let name = String::from_utf8_lossy(service).into_owned();
                let had = self.services.entry(name).or_default();
                *had = had.union(rights);
            }
        }
    }

    /// The rule for exactly this path, with these rights too.
    fn file(&mut self, path: &[u8], needs: Rights, by_rule: bool) -> &mut File {
        let new = || File { rule: Rule::file(OsStr::from_bytes(path)), kinds: Vec::new() };
        let file = self.files.entry(path.into()).or_insert_with(new);
        let adds = |right| needs.contains(right) && !file.rule.rights.contains(right);
        let makes = [Right::Create, Right::Mkdir, Right::Listen, Right::Bind].into_iter().any(adds);
        file.rule = granting(file.rule.clone(), needs);
        if by_rule && makes {
            if let Some(metadata) = metadata(path) {
                let mode = metadata.mode() & 0o777;
                let terms = &mut file.rule.terms;
                for (right, of) in [(Right::Create, &mut terms.file_mode), (Right::Mkdir, &mut terms.directory_mode)] {
                    if needs.contains(right) {
                        *of = mode;
                    }
                }
                if needs.contains(Right::Listen) || needs.contains(Right::Bind) {
                    terms.socket_mode = mode;
                }
            }
        }
        file
    }

    fn other<R: Into<Rule>>(&mut self, rule: R) {
        let rule = rule.into();
        self.others.insert(lines(&rule), rule);
    }

    /// The rules about files.
    fn rules(&self) -> Vec<FileRule> {
        let (mut rules, mut patterns) = (Vec::new(), BTreeMap::<PathBuf, Vec<FileRule>>::new());
        for (path, file) in &self.files {
            let rule = file.rule();
            match self.pattern(path) {
                Some((above, pattern)) => patterns.entry(above).or_default().push(FileRule {
                    scope: super::rule::Scope::Glob,
                    path: pattern,
                    ..rule
                }),
                None => rules.push(rule),
            }
        }
        for (above, patterns) in patterns {
            if patterns.len() <= super::pattern::Patterns::MOST {
                rules.extend(patterns);
                continue;
            }
            // A policy has no more of them: one for all.
            let all = patterns.into_iter().reduce(both);
            rules.extend(all.map(|all| FileRule { path: above.join("*/**"), ..all }));
        }
        rules
    }

    /// For a path inside a directory that will not be there: the directory that will be, and a pattern of the path that
    /// begins with it. None beneath the root directory, where there are no patterns.
    fn pattern(&self, path: &[u8]) -> Option<(PathBuf, PathBuf)> {
        let path = Path::new(OsStr::from_bytes(path));
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        let absent = |directory: &&&Path| self.made.contains(directory.as_os_str().as_bytes()) || !directory.is_dir();
        let first = above.iter().find(absent)?;
        let parent = first.parent().filter(|parent| *parent != Path::new("/"))?;
        let mut pattern = first.as_os_str().to_owned();
        pattern.push("*/");
        pattern.push(path.strip_prefix(first).ok()?);
        Some((parent.to_owned(), pattern.into()))
    }
}

impl File {
    /// Notes of which kind the object is.
    fn look(&mut self, path: &[u8]) {
        self.kinds.extend(kind(path));
    }

    /// With the kinds, if regular files are not all.
    fn rule(&self) -> FileRule {
        let only_regular = self.kinds.iter().all(|kind| *kind == FileKind::Regular);
        let kinds = if only_regular { &[][..] } else { &self.kinds };
        self.rule.clone().kinds(kinds.iter().copied())
    }
}

/// One rule that grants what either does.
fn both(mut one: FileRule, other: FileRule) -> FileRule {
    let (mine, theirs) = (&mut one.terms, other.terms);
    mine.file_mode |= theirs.file_mode;
    mine.directory_mode |= theirs.directory_mode;
    mine.socket_mode |= theirs.socket_mode;
    for socket in SocketType::ALL {
        if theirs.connect.contain(socket) {
            mine.connect = mine.connect.with(socket);
        }
        if theirs.listen.contain(socket) {
            mine.listen = mine.listen.with(socket);
        }
    }
    let mut kinds = FileKind::ALL.to_vec();
    let named = |terms: &super::Terms, kind: &FileKind| terms.kinds.contain(kind.file_type());
    kinds.retain(|kind| named(mine, kind) || named(&theirs, kind));
    let kinds = if kinds == [FileKind::Regular] { Vec::new() } else { kinds };
    one.grant(other.rights).kinds(kinds)
}

/// What is at the path now, if it is of a kind that rules name.
fn kind(path: &[u8]) -> Option<FileKind> {
    let mode = metadata(path)?.mode();
    FileKind::ALL.into_iter().find(|kind| kind.file_type() == mode & libc::S_IFMT)
}

fn metadata(path: &[u8]) -> Option<Metadata> {
    fs::symlink_metadata(OsStr::from_bytes(path)).ok()
}

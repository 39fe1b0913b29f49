//! `[broker]` What to write so that a policy allows a request. Each piece of advice was tried: the policy was built
//! with it, and asked again.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::Failure;
use super::super::json::Json;
use super::{Verdict, parts, speaks_of};
use crate::policy::inspect::{FileScope, Given};
use crate::policy::{PolicyBuilder, PolicyFile, Rule, Values, Why, lines};
use crate::wire::{Address, Ask, SocketType};

#[derive(Debug)]
pub(super) struct Advice {
    steps: Vec<Step>,
    /// Whether the policy allows the request when all that is done; why it is not to be had otherwise.
    works: Result<(), String>,
}

#[derive(Debug)]
enum Step {
    /// A denial stands in the way.
    Remove { number: u32, what: String },
    /// A rule holds in an earlier phase only.
    Always { number: u32, what: String },
    /// Lines for a new rule.
    Add { toml: String, note: Option<String> },
    /// Lines in the place of a rule's.
    Replace { number: u32, what: String, toml: String },
}

impl Advice {
    pub(super) fn of(builder: &PolicyBuilder, phase: Option<&str>, ask: &Ask<'_>) -> Result<Self, Failure> {
        let mut advice = Self { steps: Vec::new(), works: Ok(()) };
        let mut changed = Changed { builder: builder.clone(), removed: Vec::new() };
        for part in parts(ask) {
            if let Err(why) = advice.allow(&mut changed, phase, &part)? {
                advice.works = Err(why);
                return Ok(advice);
            }
        }
        let verdict = Verdict::of(changed.builder, phase, ask);
        advice.works = match verdict {
            Ok(verdict) if verdict.allowed => Ok(()),
            Ok(verdict) => Err(verdict.because()),
            Err(Failure(error)) => Err(error),
        };
        Ok(advice)
    }

    /// Adds steps until `ask` is allowed, or says why none lead there.
    fn allow(
        &mut self,
        changed: &mut Changed,
        phase: Option<&str>,
        ask: &Ask<'_>,
    ) -> Result<Result<(), String>, Failure> {
        // Each step takes away one reason; a policy has at most as many as it has rules, and two more.
        for _ in 0..changed.builder.given().count() + 3 {
            let verdict = match Verdict::of(changed.builder.clone(), phase, ask) {
                Ok(verdict) => verdict,
                Err(Failure(error)) => return Ok(Err(error)),
            };
            let rule = verdict.rules.first();
            match (verdict.why, rule) {
                (None, _) => return Ok(Ok(())),
                (Some(Why::Denied), Some(rule)) => {
                    self.steps.push(Step::Remove { number: changed.original(rule.number), what: rule.text.clone() });
                    changed.remove(rule.number);
                }
                (Some(Why::PhaseOver), _) => {
                    let Some(earlier) = earlier(&changed.builder, ask)? else { return Ok(Err(verdict.because())) };
                    let (number, what) =
                        (changed.original(earlier.number), format!("{} ({})", earlier.object(), earlier.place()));
                    let always = changed.builder.only(earlier);
                    changed.builder = changed.builder.clone().without(earlier.number).and(always);
                    self.steps.push(Step::Always { number, what });
                    // Its numbers are those of another order now: one such step is enough.
                    let verdict = Verdict::of(changed.builder.clone(), phase, ask)?;
                    return Ok(if verdict.allowed { Ok(()) } else { Err(verdict.because()) });
                }
                (Some(Why::NoRule), _) if mapped(ask) => {
                    return Ok(Err(
                        "it is an IPv4 address in IPv6 form, which is in no rule: ask for the IPv4 address".into(),
                    ));
                }
                (Some(Why::NoRule), _) => {
                    let Some(new) = new_rule(ask) else { return Ok(Err(verdict.because())) };
                    self.add(changed, &new, None)?;
                }
                (Some(why @ (Why::Lacks(_) | Why::SocketType(_))), Some(rule)) => {
                    let number = rule.number;
                    let Some(given) = changed.builder.given().find(|given| given.number == number) else {
                        return Ok(Err(verdict.because()));
                    };
                    match widened(given, why, ask) {
                        Some(Widened::Same(other)) => {
                            let toml = lines(&other);
                            let original = changed.original(number);
                            self.steps.push(Step::Replace { number: original, what: rule.text.clone(), toml });
                            changed.builder = changed.builder.clone().with_other(number, other);
                        }
                        Some(Widened::Nearer(nearer)) => {
                            let original = changed.original(number);
                            let note = format!(
                                "It decides alone, so it grants what rule {original} does as well. To grant it to all \
                                 that rule {original} is about, add the right there instead."
                            );
                            self.add(changed, &nearer, Some(note))?;
                        }
                        None => return Ok(Err(verdict.because())),
                    }
                }
                _ => return Ok(Err(verdict.because())),
            }
        }
        Ok(Err("no few lines allow it".to_owned()))
    }

    /// A rule, by the lines that are shown.
    fn add(&mut self, changed: &mut Changed, rule: &Rule, note: Option<String>) -> Result<(), Failure> {
        let toml = format!("[[allow]]\n{}", lines(rule));
        let more = PolicyFile::parse(&toml, "the advice")?.builder(&Values::new())?;
        changed.builder = changed.builder.clone().and(more);
        self.steps.push(Step::Add { toml, note });
        Ok(())
    }

    pub(super) fn json(&self) -> Json {
        let step = |step: &Step| {
            let (what, number, toml) = match step {
                Step::Remove { number, .. } => ("remove", Some(*number), None),
                Step::Always { number, .. } => ("always", Some(*number), None),
                Step::Add { toml, .. } => ("add", None, Some(toml)),
                Step::Replace { number, toml, .. } => ("replace", Some(*number), Some(toml)),
            };
            Json::Object(vec![
                ("do", Json::text(what)),
                ("rule", Json::or_null(number.map(|number| Json::Number(number.into())))),
                ("toml", Json::or_null(toml.map(Json::text))),
            ])
        };
        Json::Object(vec![
            ("allows", Json::Bool(self.works.is_ok())),
            ("why_not", Json::or_null(self.works.as_ref().err().map(Json::text))),
            ("steps", Json::list(self.steps.iter().map(step))),
        ])
    }
}

/// In words and lines.
impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(why) = &self.works {
            write!(f, "No rule that could be added allows it: {why}.")?;
            return Ok(());
        }
        for (n, step) in self.steps.iter().enumerate() {
            let then = if n == 0 { "To allow it" } else { "\n\nand then" };
            match step {
                Step::Remove { number, what } => write!(
                    f,
                    "{then}, take rule {number} away, or make it narrower: while it stands, nothing allows what it \
                     denies.\n\n    {what}"
                )?,
                Step::Always { number, what } => write!(
                    f,
                    "{then}, write rule {number} outside of the phases, or in this one as well: it has ended with its \
                     phase.\n\n    {what}"
                )?,
                Step::Add { toml, note } => {
                    write!(f, "{then}, add:\n\n{}", indented(toml))?;
                    if let Some(note) = note {
                        write!(f, "\n\n{note}")?;
                    }
                }
                Step::Replace { number, what, toml } => {
                    write!(f, "{then}, write in the place of rule {number} ({what}):\n\n{}", indented(toml))?;
                }
            }
        }
        Ok(())
    }
}

fn indented(toml: &str) -> String {
    toml.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// The rule of a phase that grants it there.
fn earlier<'b>(builder: &'b PolicyBuilder, ask: &Ask<'_>) -> Result<Option<Given<'b>>, Failure> {
    for given in builder.given().filter(|given| given.phase.is_some() && !given.denies) {
        if speaks_of(builder, given, ask)? {
            return Ok(Some(given));
        }
    }
    Ok(None)
}

/// A policy on the way to one that allows it. Its rules have other numbers once some are gone.
struct Changed {
    builder: PolicyBuilder,
    /// By their original numbers.
    removed: Vec<u32>,
}

impl Changed {
    fn remove(&mut self, number: u32) {
        let original = self.original(number);
        self.builder = self.builder.clone().without(number);
        self.removed.push(original);
        self.removed.sort_unstable();
    }

    /// The number that the rule has in the file.
    fn original(&self, number: u32) -> u32 {
        self.removed.iter().fold(number, |number, removed| if *removed <= number { number + 1 } else { number })
    }
}

enum Widened {
    /// In the place of the rule.
    Same(Rule),
    /// For the one object, beside the rule.
    Nearer(Rule),
}

/// The rule that decides, such that it grants what is asked.
fn widened(given: Given<'_>, why: Why, ask: &Ask<'_>) -> Option<Widened> {
    let needs = ask.needs().ok()?;
    let path = path(ask).map(|path| Path::new(OsStr::from_bytes(path)));
    // A rule for one object needs the directory that holds it; where that is not there, the wider rule has to do.
    let loads = path.and_then(Path::parent).is_some_and(Path::is_dir);
    let exact = given.file().is_none_or(|file| file.scope() == FileScope::Exact) || !loads;
    let at = if exact { None } else { path };
    let mut rule = given.granting(needs, at)?;
    let socket = match (ask, why) {
        (Ask::Listen(socket, _) | Ask::Connect(socket, _), _) => Some(*socket),
        (_, Why::SocketType(socket)) => Some(socket),
        _ => None,
    };
    if let Some(socket) = socket {
        rule = rule.with_socket_type(needs, socket);
    }
    Some(if exact { Widened::Same(rule) } else { Widened::Nearer(rule) })
}

/// A rule for what is asked and nothing else.
fn new_rule(ask: &Ask<'_>) -> Option<Rule> {
    let needs = ask.needs().ok()?;
    if let Some(path) = path(ask) {
        let rule = Rule::bare_file(Path::new(OsStr::from_bytes(path)), needs);
        return Some(match ask {
            Ask::Listen(socket, _) | Ask::Connect(socket, _) => rule.with_socket_type(needs, *socket),
            _ => rule,
        });
    }
    let socket = |rule: crate::policy::SocketRule, socket: SocketType| Some(rule.socket_type(socket).into());
    match *ask {
        Ask::Scratch => Some(Rule::scratch(std::env::temp_dir()).into()),
        Ask::Listen(kind, Address::Ip(address)) => socket(Rule::listen(address), kind),
        Ask::Bind(Address::Ip(address)) => Some(Rule::bind(address).into()),
        Ask::Connect(kind, Address::Ip(address)) => socket(Rule::connect(address), kind),
        Ask::Listen(kind, Address::Abstract(name)) => socket(Rule::listen_abstract(name), kind),
        Ask::Bind(Address::Abstract(name)) => Some(Rule::bind_abstract(name).into()),
        Ask::Connect(kind, Address::Abstract(name)) => socket(Rule::connect_abstract(name), kind),
        Ask::ConnectName { socket: kind, host, port } => {
            socket(Rule::connect_name(std::str::from_utf8(host).ok()?, port), kind)
        }
        Ask::Call { service, rights, .. } => {
            Some(Rule::service(std::str::from_utf8(service).ok()?).grant(rights).into())
        }
        _ => None,
    }
}

fn mapped(ask: &Ask<'_>) -> bool {
    match ask {
        Ask::Listen(_, Address::Ip(address))
        | Ask::Bind(Address::Ip(address))
        | Ask::Connect(_, Address::Ip(address)) => address.ip().to_canonical() != address.ip(),
        _ => false,
    }
}

/// The path that it is about; of a renaming in parts, both are the same.
fn path<'a>(ask: &Ask<'a>) -> Option<&'a [u8]> {
    match *ask {
        Ask::Open { path, .. }
        | Ask::List { path, .. }
        | Ask::Stat(path)
        | Ask::Readlink(path)
        | Ask::Mkdir(path)
        | Ask::Unlink(path)
        | Ask::Rmdir(path)
        | Ask::Rename { from: path, .. }
        | Ask::Listen(_, Address::Path(path))
        | Ask::Bind(Address::Path(path))
        | Ask::Connect(_, Address::Path(path)) => Some(path),
        _ => None,
    }
}

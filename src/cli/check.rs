//! `[broker]` `fdbroker check`: loads a policy, shows its rules, and warns of what is not wrong but deserves a look.

mod idle;
mod wide;
mod writable;

use std::io;
use std::process::ExitCode;

use nix::unistd::User;

use super::json::Json;
use super::paint::Paint;
use super::source::{Loaded, Source};
use super::table::table;
use super::{FAILED, Failure, print};
use crate::broker::Printable;
use crate::policy::PolicyBuilder;
use crate::policy::inspect::Given;

/// Loads a policy, shows its rules, and warns of what deserves a look
///
/// Warnings, by their names:
///   too-wide          trees as /, /etc, /home, /root, /var, /usr; every address; hosts whose answers are not limited
///   writes-programs   rights to change what others execute or are configured by
///   directory-escape  descriptors of directories, which are a way out of them
///   writable          directories of rules, those above them, and the policy itself, that the worker's user or
///   everybody can write to (permission bits; access control lists are not looked at)
///   absent            objects that are not there, and that the rule does not let anybody make
///   wrong-kind        objects of a kind that the rule does not open
///   never-matches     denials of what nothing allows
///   no-match-now      patterns that match nothing that is there
///
/// Run it as the user who will load the policy, on the machine where that will be: directories are opened, and files
/// are looked at.
///
/// Exit status: 0 if the policy loads, 1 if there are warnings and --deny-warnings is given, 2 if it does not load.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  fdbroker check policy.toml
  fdbroker check --deny-warnings --worker-uid www-data policy.toml
  fdbroker check --json --set user=alice policy.toml"
)]
pub(super) struct Check {
    /// Writes one JSON document
    #[arg(long)]
    json: bool,
    /// Exits with status 1 if there are warnings
    #[arg(long)]
    deny_warnings: bool,
    /// The user whom workers run as, by number or name
    #[arg(long, value_name = "UID", default_value = "65534")]
    worker_uid: String,
    #[command(flatten)]
    source: Source,
}

/// Something that deserves a look.
#[derive(Debug)]
struct Warning {
    name: &'static str,
    /// The rule that it is about.
    rule: Option<(u32, String)>,
    text: String,
}

impl Warning {
    fn new(name: &'static str, given: Given<'_>, text: impl Into<String>) -> Self {
        Self { name, rule: Some((given.number, given.place().to_string())), text: text.into() }
    }
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let uid = user(&self.worker_uid)?;
        match self.source.load().and_then(|loaded| self.look(uid, loaded)) {
            Ok((builder, warnings)) => {
                let shown = if self.json { json(&builder, &warnings) } else { people(&builder, &warnings) };
                print(&shown)?;
                Ok(ExitCode::from(u8::from(self.deny_warnings && !warnings.is_empty())))
            }
            Err(Failure(error)) if self.json => {
                let error = Json::text(&error);
                print(&Json::Object(vec![("loads", Json::Bool(false)), ("error", error)]).document())?;
                Ok(ExitCode::from(FAILED))
            }
            Err(failure) => Err(failure),
        }
    }

    fn look(&self, uid: u32, loaded: Loaded) -> Result<(PolicyBuilder, Vec<Warning>), Failure> {
        let builder = loaded.builder;
        builder.clone().build()?;
        let worker = writable::Worker { uid, gid: super::walls::group(uid) };
        let mut warnings: Vec<Warning> = worker.policy_file(&self.source.policy).into_iter().collect();
        for given in builder.given() {
            warnings.extend(wide::warnings(given));
            warnings.extend(worker.warnings(given));
            warnings.extend(idle::warnings(&builder, given)?);
        }
        Ok((builder, warnings))
    }
}

fn user(said: &str) -> Result<u32, Failure> {
    if let Ok(uid) = said.parse() {
        return Ok(uid);
    }
    let user = User::from_name(said)?.ok_or_else(|| Failure(format!("--worker-uid: no user is called {said:?}")))?;
    Ok(user.uid.as_raw())
}

fn people(builder: &PolicyBuilder, warnings: &[Warning]) -> Vec<u8> {
    let paint = Paint::of(&io::stdout());
    let phased = builder.given().any(|given| given.phase.is_some());
    let rows: Vec<[String; 6]> = builder.given().map(|given| row(given)).collect();
    let mut text = if rows.is_empty() {
        "No rules: everything is refused.\n".to_owned()
    } else if phased {
        table(["#", "effect", "object", "rights", "phase", "place"], &rows, paint)
    } else {
        let rows: Vec<_> = rows.into_iter().map(|[a, b, c, d, _, f]| [a, b, c, d, f]).collect();
        table(["#", "effect", "object", "rights", "place"], &rows, paint)
    };
    for (n, Warning { name, rule, text: what }) in warnings.iter().enumerate() {
        let place = rule.as_ref().map(|(_, place)| format!("{}: ", Printable(place))).unwrap_or_default();
        let number = rule.as_ref().map(|(number, _)| format!("rule {number}: ")).unwrap_or_default();
        let gap = if n == 0 { "\n" } else { "" };
        let head = paint.doubtful(format_args!("warning[{name}]"));
        text += &format!("{gap}{place}{head}: {number}{}\n", Printable(what));
    }
    let (rules, count) = (builder.given().count(), warnings.len());
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let outcome = if count == 0 { paint.good("it loads") } else { paint.doubtful("it loads") };
    text += &format!("\n{outcome}: {}, {}\n", plural(rules, "rule"), plural(count, "warning"));
    text.into_bytes()
}

fn row(given: Given<'_>) -> [String; 6] {
    let once = if given.once() { ", once" } else { "" };
    let rights = if given.denies { "-".to_owned() } else { format!("{}{once}", given.rights()) };
    [
        given.number.to_string(),
        if given.denies { "deny" } else { "allow" }.to_owned(),
        Printable(given.object()).to_string(),
        rights,
        Printable(given.phase.unwrap_or("always")).to_string(),
        Printable(given.place()).to_string(),
    ]
}

fn json(builder: &PolicyBuilder, warnings: &[Warning]) -> Vec<u8> {
    let rule = |given: Given<'_>| {
        Json::Object(vec![
            ("number", Json::Number(given.number.into())),
            ("effect", Json::text(if given.denies { "deny" } else { "allow" })),
            ("object", Json::text(given.object())),
            ("rights", Json::list(given.rights().iter().map(Json::text))),
            ("once", Json::Bool(given.once())),
            ("phase", Json::or_null(given.phase.map(Json::text))),
            ("place", Json::text(given.place())),
        ])
    };
    let warning = |warning: &Warning| {
        let (number, place) = warning.rule.clone().unzip();
        Json::Object(vec![
            ("name", Json::text(warning.name)),
            ("rule", Json::or_null(number.map(|number| Json::Number(number.into())))),
            ("place", Json::or_null(place.map(Json::Text))),
            ("text", Json::text(&warning.text)),
        ])
    };
    Json::Object(vec![
        ("loads", Json::Bool(true)),
        ("rules", Json::list(builder.given().map(rule))),
        ("warnings", Json::list(warnings.iter().map(warning))),
    ])
    .document()
}

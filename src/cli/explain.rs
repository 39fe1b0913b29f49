//! `[broker]` `fdbroker explain`: which rule decides about a request, why, and what to write to allow it.
//!
//! Nothing here decides: every word is an answer of [`Policy::decide`], of the policy or of one with a rule more or
//! less.

mod advice;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use self::advice::Advice;
use super::json::Json;
use super::paint::Paint;
use super::request::Asked;
use super::source::Source;
use super::{Failure, print};
use crate::broker::{Printable, Shown};
use crate::policy::inspect::Given;
use crate::policy::{Policy, PolicyBuilder, Standing, Why};
use crate::wire::{Ask, Reason};

/// Says whether a policy allows a request, which rule decides, and what to write to allow it
///
/// The request is written as the audit shows it; a backslash begins an escape as there.
///
/// What is said is what the policy says. Whether the object is there, and of which kind it is, is another matter.
///
/// Exit status: 0 if it is allowed, 1 if it is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Requests:
  read PATH, write PATH, append PATH, create PATH    read+write PATH, write+create+truncate PATH, ...
  list PATH, stat PATH, readlink PATH                mkdir PATH, unlink PATH, rmdir PATH
  rename PATH PATH                                   scratch
  listen 127.0.0.1:80, connect [udp] 10.0.0.1:53     bind 0.0.0.0:53
  connect [udp] db.example.org:5432                  call SERVICE [RIGHT...]
  connect [stream|datagram|seqpacket] /run/x         connect @abstract; the same with listen, and with bind

Examples:
  fdbroker explain policy.toml read /etc/hosts
  fdbroker explain --set user=alice policy.toml rename /srv/alice/a /srv/alice/b
  fdbroker explain --json --phase post-auth policy.toml 'connect udp 10.0.0.1:53'")]
pub(super) struct Explain {
    /// Writes one JSON document
    #[arg(long)]
    json: bool,
    /// The phase of the worker's life [default: the first]
    #[arg(long, value_name = "NAME")]
    phase: Option<String>,
    #[command(flatten)]
    source: Source,
    /// What is asked
    #[arg(required = true, num_args = 1.., allow_hyphen_values = true)]
    request: Vec<OsString>,
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let asked = Asked::parse(&self.request)?;
        let builder = self.source.load()?.builder;
        let ask = asked.ask();
        let phase = self.phase.as_deref();
        let verdict = Verdict::of(builder.clone(), phase, &ask)?;
        let others = others(&builder, &ask, &verdict)?;
        let advice = if verdict.allowed { None } else { Some(Advice::of(&builder, phase, &ask)?) };
        let text = if self.json {
            json(&ask, &verdict, &others, advice.as_ref()).document()
        } else {
            people(&ask, &verdict, &others, advice.as_ref()).into_bytes()
        };
        print(&text)?;
        Ok(ExitCode::from(u8::from(!verdict.allowed)))
    }
}

/// What a policy says of a request.
#[derive(Debug)]
struct Verdict {
    allowed: bool,
    /// Those that decide: two of a renaming.
    rules: Vec<Told>,
    why: Option<Why>,
    /// What the worker is told.
    errno: i32,
    reason: Option<Reason>,
}

/// A rule as people are told of it.
#[derive(Debug)]
struct Told {
    number: u32,
    text: String,
    json: Json,
}

impl Verdict {
    fn of(builder: PolicyBuilder, phase: Option<&str>, ask: &Ask<'_>) -> Result<Self, Failure> {
        let standing = Standing::new(builder.build()?);
        if let Some(phase) = phase.filter(|phase| *phase != standing.phase()) {
            let known = || standing.policy().phases().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            standing.enter(phase).map_err(|_| match standing.phase() {
                "" => Failure(format!("there is no phase \"{phase}\": the policy has none")),
                _ => Failure(format!("there is no phase \"{phase}\": the policy has {}", known())),
            })?;
        }
        let told = |rule: &crate::policy::Info| Told {
            number: rule.number(),
            text: Printable(rule).to_string(),
            json: Json::rule(rule),
        };
        Ok(match standing.decide(ask) {
            Ok(permit) => {
                let mut rules: Vec<Told> = permit.rules().map(told).collect();
                rules.dedup_by_key(|rule| rule.number);
                Self { allowed: true, rules, why: None, errno: 0, reason: None }
            }
            Err(denial) => Self {
                allowed: false,
                rules: denial.rule().map(told).into_iter().collect(),
                why: Some(denial.why()),
                errno: denial.refusal().errno,
                reason: Some(denial.refusal().reason),
            },
        })
    }

    /// In a sentence.
    fn because(&self) -> String {
        match (self.why, &self.rules[..]) {
            (None, []) => "an option of the policy allows it (stat-leading-directories)".to_owned(),
            (None, [_]) => "this rule decides, and grants it".to_owned(),
            (None, _) => "these rules decide about the two names, and grant it".to_owned(),
            (Some(why), _) => why.to_string(),
        }
    }
}

/// The requests of which this one consists: of a renaming, about either name.
fn parts<'a>(ask: &Ask<'a>) -> Vec<Ask<'a>> {
    match *ask {
        Ask::Rename { from, to } => vec![Ask::Rename { from, to: from }, Ask::Rename { from: to, to }],
        ask => vec![ask],
    }
}

/// Whether the rule, if it were the only one, would have anything to say.
fn speaks_of(builder: &PolicyBuilder, given: Given<'_>, ask: &Ask<'_>) -> Result<bool, Failure> {
    let policy: Policy = builder.only(given).build()?;
    Ok(parts(ask).iter().any(|ask| policy.decide(ask).map_or_else(|denial| denial.rule().is_some(), |_| true)))
}

/// The rules that are about it as well and do not decide, with the phase in which they hold.
fn others(builder: &PolicyBuilder, ask: &Ask<'_>, verdict: &Verdict) -> Result<Vec<(Told, Option<String>)>, Failure> {
    let policy = builder.clone().build()?;
    let mut others = Vec::new();
    for (given, rule) in builder.given().zip(policy.rules()) {
        let decides = verdict.rules.iter().any(|told| told.number == given.number);
        if !decides && speaks_of(builder, given, ask)? {
            let told = Told { number: given.number, text: Printable(rule).to_string(), json: Json::rule(rule) };
            others.push((told, given.phase.map(str::to_owned)));
        }
    }
    Ok(others)
}

fn people(ask: &Ask<'_>, verdict: &Verdict, others: &[(Told, Option<String>)], advice: Option<&Advice>) -> String {
    let paint = Paint::of(&io::stdout());
    let outcome = if verdict.allowed { paint.good("allowed") } else { paint.wrong("refused") };
    let mut lines = vec![format!("{outcome}  {}", Shown(ask))];
    for rule in &verdict.rules {
        lines.push(format!("rule     {}: {}", rule.number, rule.text));
    }
    lines.push(format!("why      {}", Printable(verdict.because())));
    if !verdict.allowed {
        lines.push(format!("errno    {:?}", nix::errno::Errno::from_raw(verdict.errno)));
    }
    for (n, (rule, phase)) in others.iter().enumerate() {
        let head = if n == 0 { "also" } else { "" };
        let phase = phase.as_ref().map(|phase| format!(" [phase {}]", Printable(phase))).unwrap_or_default();
        lines.push(format!("{head:8} {}: {}{phase} {}", rule.number, rule.text, paint.faint("(does not decide)")));
    }
    if let Some(advice) = advice {
        lines.push(String::new());
        lines.push(advice.to_string());
    }
    lines.join("\n") + "\n"
}

fn json(ask: &Ask<'_>, verdict: &Verdict, others: &[(Told, Option<String>)], advice: Option<&Advice>) -> Json {
    let other = |(told, phase): &(Told, Option<String>)| {
        let mut fields = match &told.json {
            Json::Object(fields) => fields.clone(),
            _ => Vec::new(),
        };
        fields.push(("phase", Json::or_null(phase.as_ref().map(Json::text))));
        Json::Object(fields)
    };
    Json::Object(vec![
        ("request", Json::text(Shown(ask))),
        ("allowed", Json::Bool(verdict.allowed)),
        ("rules", Json::list(verdict.rules.iter().map(|rule| rule.json.clone()))),
        ("why", Json::text(verdict.because())),
        ("errno", if verdict.allowed { Json::Null } else { Json::Number(verdict.errno.into()) }),
        ("reason", Json::or_null(verdict.reason.map(Json::text))),
        ("others", Json::list(others.iter().map(other))),
        ("advice", Json::or_null(advice.map(Advice::json))),
    ])
}

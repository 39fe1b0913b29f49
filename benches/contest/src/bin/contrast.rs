//! `[both]` H-18: one hostile message each against fdbroker and other crates. Exit status 1 if fdbroker leaks, lies,
//! blocks or panics in any case; what the others do is printed with their versions and judged by nobody.

use std::process::ExitCode;

use fdbroker_contest::hostile::{self, CASES, Outcome};
use fdbroker_contest::peers::{ALL, Peer};
use fdbroker_contest::table::{self, Cell, Mark, json, plain, say};

const HELP: &str = "\
usage: contrast [--json]
Each case runs in a fresh process. A row says what the receiver's crate made of one message:
  leaked     descriptors left in the table that nobody can close
  inherited  descriptors without close-on-exec
  lied       Ok, with fewer bytes or descriptors than were sent, and nothing says so (whether or not it is documented)
  next       an honest message behind it was received whole
  answer     what the caller got
fdbroker's row must be clean in every case, or the exit status is 1.";

fn main() -> ExitCode {
    if hostile::was_child() {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let as_json = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--json"] => true,
        _ => {
            eprintln!("{HELP}");
            return if arguments.iter().any(|argument| argument == "--help") {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    let mut faults = Vec::new();
    let mut objects = Vec::new();
    for case in CASES {
        let mut rows = Vec::new();
        for peer in ALL {
            let outcome = match hostile::run(case, peer) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(why)) => {
                    rows.push(vec![name(peer), plain(format!("- {why}"))]);
                    continue;
                }
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::FAILURE;
                }
            };
            if peer.ours && !outcome.is_sound(peer) {
                faults.push(format!("{}: {}: {outcome:?}", peer.name, case.name));
            }
            objects.push(object(case.name, peer, &outcome));
            rows.push(row(peer, &outcome));
        }
        if !as_json {
            say(&format!("{}: {}", case.name, case.what));
            say(&table::render(&["", "leaked", "inherited", "lied", "next ", "answer "], &rows));
        }
    }
    if as_json {
        say(&format!("[\n{}\n]", objects.join(",\n")));
    } else if faults.is_empty() {
        say(&format!("fdbroker leaks nothing and conceals nothing in {} cases.", CASES.len()));
    }
    for fault in &faults {
        eprintln!("fdbroker is at fault: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn name(peer: &Peer) -> Cell {
    plain(format!("{} {}", peer.name, peer.version()))
}

fn row(peer: &Peer, outcome: &Outcome) -> Vec<Cell> {
    let number = |number: usize| if number == 0 { ("-".into(), Mark::None) } else { (number.to_string(), Mark::Bad) };
    let lied = if outcome.lied { ("lied".into(), Mark::Bad) } else { plain("-") };
    let next = match outcome.next {
        None => plain("-"),
        Some(true) => ("whole".into(), Mark::Good),
        Some(false) => ("lost".into(), Mark::Bad),
    };
    let mut answer = outcome.answer.clone();
    let mut mark = Mark::None;
    for (noted, note) in [(outcome.glued, "two messages as one"), (outcome.blocked, "blocked")] {
        if noted {
            answer = format!("{note}: {answer}");
            mark = Mark::Bad;
        }
    }
    if outcome.panicked {
        mark = Mark::Bad;
    }
    if let Some(size) = outcome.table {
        answer = format!("{answer} (its table grew to {size})");
    }
    vec![name(peer), number(outcome.leaked), number(outcome.inherited), lied, next, (answer, mark)]
}

fn object(case: &str, peer: &Peer, outcome: &Outcome) -> String {
    let next = outcome.next.map_or("null".into(), |next| next.to_string());
    let table = outcome.table.map_or("null".into(), |table| table.to_string());
    format!(
        "  {{\"case\": {}, \"contestant\": {}, \"version\": {}, \"leaked\": {}, \"inherited\": {}, \"lied\": {}, \
         \"glued\": {}, \"blocked\": {}, \"panicked\": {}, \"next\": {next}, \"table\": {table}, \"answer\": {}}}",
        json(case),
        json(peer.name),
        json(peer.version()),
        outcome.leaked,
        outcome.inherited,
        outcome.lied,
        outcome.glued,
        outcome.blocked,
        outcome.panicked,
        json(&outcome.answer),
    )
}

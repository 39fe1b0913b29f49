//! `[both]` What a message with descriptors costs: fdbroker and other crates, against raw calls, in one run.
//!
//! One thread sends a message to itself, receives it and closes what came, so no wake-up of another process drowns the
//! difference. In each round every contestant runs one batch, in a new order; a round gives one ratio to raw calls for
//! each, and the table shows their median. Time is this thread's processor time: what other programs do meanwhile is
//! not in it, though it is felt through the caches.

use std::process::ExitCode;

use fdbroker_contest::count::{Counting, allocations};
use fdbroker_contest::hostile::{self, CASES, Outcome};
use fdbroker_contest::peers::{ALL, BASE, Job, Kind, MAX_FDS, Peer, Trips};
use fdbroker_contest::table::{self, Cell, Mark, json, plain, say};
use nix::time::{ClockId, clock_gettime};

#[global_allocator]
static COUNTING: Counting = Counting;

const HELP: &str = "\
usage: passing [--quick] [--json]
A round trip is: send 16 bytes and the descriptors, receive them, close what came.
  ratio    to raw calls that do the same, in the same round: the median
  spread   of the ratios: the half in the middle
  ns       of processor time, the median; only the ratios carry over to other machines
  allocs   calls for memory in a round trip
What a contestant does for it, seen a moment ago in the messages that `contrast` sends:
  close-on-exec  of what it received
  surplus        descriptors beyond those asked for, or that no longer fit: closed, or left open
  pidfd          the one that SO_PASSPIDFD adds: closed, or left open
  cuts           of bytes or descriptors: told, or silent
  framing        of messages on a stream: its own; by hand, in this program; or none";

/// Round trips in a batch last about so long, so that a round is short beside what disturbs it.
const BATCH_NS: u64 = 300_000;

fn main() -> ExitCode {
    if hostile::was_child() {
        return ExitCode::SUCCESS;
    }
    let (mut rounds, mut as_json) = (1000, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => rounds = 60,
            "--json" => as_json = true,
            "--help" => {
                say(HELP);
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let promises: Vec<Promise> = match ALL.iter().map(Promise::seen).collect() {
        Ok(promises) => promises,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut objects = Vec::new();
    for (kind, framed, title) in [
        (Kind::SeqPacket, false, "SOCK_SEQPACKET"),
        (Kind::Stream, false, "SOCK_STREAM, without framing"),
        (Kind::Stream, true, "SOCK_STREAM, each message behind a header of 8 bytes"),
    ] {
        for fds in [1, MAX_FDS] {
            let entries = measure(Job { kind, framed, fds }, rounds);
            let title = format!("{title}: {fds} {}", if fds == 1 { "descriptor" } else { "descriptors" });
            if as_json {
                objects.extend(entries.iter().map(|entry| entry.object(&title, &promises)));
            } else {
                say(&format!("{title}\n{}", tabulate(&entries, &promises)));
            }
        }
    }
    if as_json {
        say(&format!("[\n{}\n]", objects.join(",\n")));
    }
    ExitCode::SUCCESS
}

/// One contestant in one table.
struct Entry {
    peer: &'static Peer,
    /// The base a second time: how far its ratio is from 1 says what the other ratios are worth.
    again: bool,
    result: Result<Figures, &'static str>,
}

struct Figures {
    ratio: f64,
    spread: (f64, f64),
    ns: f64,
    allocations: f64,
}

fn measure(job: Job, rounds: usize) -> Vec<Entry> {
    let entrants = [(BASE, false), (BASE, true)].into_iter().chain(ALL[1..].iter().map(|peer| (peer, false)));
    let mut entrants: Vec<_> = entrants.map(|(peer, again)| (peer, again, (peer.trips)(job))).collect();
    let mut trips: Vec<&mut Trips> = entrants.iter_mut().filter_map(|entrant| entrant.2.as_mut().ok()).collect();

    let times = batch_size(trips[0]);
    let allocated: Vec<f64> = trips.iter_mut().map(|trips| allocations_of(trips)).collect();
    let mut order: Vec<usize> = (0..trips.len()).collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut nanoseconds = vec![Vec::with_capacity(rounds); trips.len()];
    for _ in 0..rounds {
        dice.shuffle(&mut order);
        for &index in &order {
            let start = processor_time();
            trips[index](times);
            nanoseconds[index].push((processor_time() - start) as f64 / times as f64);
        }
    }

    let base = nanoseconds[0].clone();
    let mut figures = nanoseconds.into_iter().zip(allocated).map(|(mut ns, allocations)| {
        let mut ratios: Vec<f64> = ns.iter().zip(&base).map(|(ns, base)| ns / base).collect();
        ratios.sort_by(f64::total_cmp);
        ns.sort_by(f64::total_cmp);
        let spread = (quantile(&ratios, 0.25), quantile(&ratios, 0.75));
        Figures { ratio: quantile(&ratios, 0.5), spread, ns: quantile(&ns, 0.5), allocations }
    });
    let entry = |(peer, again, trips): (_, _, Result<Trips, _>)| Entry {
        peer,
        again,
        result: trips.map(|_| figures.next().expect("as many as there are trips")),
    };
    entrants.into_iter().map(entry).collect()
}

fn batch_size(trips: &mut Trips) -> usize {
    trips(50);
    let start = processor_time();
    trips(50);
    let one = ((processor_time() - start) / 50).max(1);
    usize::try_from(BATCH_NS / one).unwrap_or(1).max(1)
}

fn allocations_of(trips: &mut Trips) -> f64 {
    const TIMES: usize = 20;
    trips(TIMES);
    let before = allocations();
    trips(TIMES);
    (allocations() - before) as f64 / TIMES as f64
}

fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock");
    (time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unsigned_abs()
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// xorshift64: the same orders in every run.
struct Dice(u64);

impl Dice {
    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            order.swap(last, (self.0 % (last as u64 + 1)) as usize);
        }
    }
}

/// What a contestant was seen to do with messages that are not as expected.
struct Promise {
    close_on_exec: bool,
    closes_surplus: bool,
    /// None where the kernel has no such option.
    closes_pidfd: Option<bool>,
    tells_cuts: bool,
    framing: &'static str,
}

impl Promise {
    fn seen(peer: &Peer) -> std::io::Result<Self> {
        let outcomes = |about_pidfd: bool| -> std::io::Result<Vec<Outcome>> {
            let cases =
                CASES.iter().filter(|case| case.is_about_pidfds() == about_pidfd && !case.is_about_credentials());
            cases.filter_map(|case| hostile::run(case, peer).map(Result::ok).transpose()).collect()
        };
        let (messages, pidfds) = (outcomes(false)?, outcomes(true)?);
        let frames = (peer.trips)(Job { kind: Kind::Stream, framed: true, fds: 1 }).is_ok();
        Ok(Self {
            close_on_exec: messages.iter().all(|outcome| outcome.inherited <= outcome.leaked),
            closes_surplus: messages.iter().all(|outcome| outcome.leaked == 0),
            closes_pidfd: (!pidfds.is_empty()).then(|| pidfds.iter().all(|outcome| outcome.leaked == 0)),
            tells_cuts: messages.iter().all(|outcome| !outcome.lied),
            framing: match frames {
                true if peer.frames => "its own",
                true => "by hand",
                false => "none",
            },
        })
    }

    fn words(&self) -> [&'static str; 5] {
        let closed = |closed| if closed { "closed" } else { "left open" };
        [
            if self.close_on_exec { "yes" } else { "no" },
            closed(self.closes_surplus),
            self.closes_pidfd.map_or("-", closed),
            if self.tells_cuts { "told" } else { "silent" },
            self.framing,
        ]
    }
}

fn tabulate(entries: &[Entry], promises: &[Promise]) -> String {
    let titles = ["", "ratio", "spread", "ns", "allocs", "close-on-exec ", "surplus ", "pidfd ", "cuts ", "framing "];
    let ratios = || entries.iter().skip(2).filter_map(|entry| Some(entry.result.as_ref().ok()?.ratio));
    let (best, worst) = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
    let mut rows = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let mut row: Vec<Cell> = vec![plain(entry.name())];
        match &entry.result {
            Ok(figures) => {
                let mark = match figures.ratio {
                    ratio if index < 2 || best == worst || (ratio > best && ratio < worst) => Mark::None,
                    ratio if ratio <= best => Mark::Good,
                    _ => Mark::Bad,
                };
                row.push((format!("{:.3}", figures.ratio), mark));
                row.push(plain(format!("{:.2} to {:.2}", figures.spread.0, figures.spread.1)));
                row.push(plain(format!("{:.0}", figures.ns)));
                row.push(plain(format!("{}", figures.allocations)));
                row.extend(entry.promise(promises).words().map(plain));
            }
            Err(why) => row.push(plain(format!("- {why}"))),
        }
        rows.push(row);
    }
    table::render(&titles, &rows)
}

impl Entry {
    fn name(&self) -> String {
        let again = if self.again { ", again" } else { "" };
        format!("{} {}{again}", self.peer.name, self.peer.version())
    }

    fn promise<'p>(&self, promises: &'p [Promise]) -> &'p Promise {
        let index = ALL.iter().position(|peer| peer.name == self.peer.name).expect("a contestant");
        &promises[index]
    }

    fn object(&self, title: &str, promises: &[Promise]) -> String {
        let Figures { ratio, spread, ns, allocations } = match &self.result {
            Ok(figures) => figures,
            Err(why) => {
                let name = json(&self.name());
                return format!("  {{\"table\": {}, \"contestant\": {name}, \"cannot\": {}}}", json(title), json(why));
            }
        };
        let [close_on_exec, surplus, pidfd, cuts, framing] = self.promise(promises).words().map(json);
        format!(
            "  {{\"table\": {}, \"contestant\": {}, \"ratio\": {ratio:.4}, \"spread\": [{:.4}, {:.4}], \"ns\": {ns:.1}, \
             \"allocations\": {allocations}, \"close_on_exec\": {close_on_exec}, \"surplus\": {surplus}, \"pidfd\": {pidfd}, \"cuts\": {cuts}, \
             \"framing\": {framing}}}",
            json(title),
            json(&self.name()),
            spread.0,
            spread.1,
        )
    }
}

//! Proves that a policy decides as its documentation says: random policies, of real directories, against a naive model
//! (tests/model). Deterministic; `FDBROKER_MODEL_SEED` and `FDBROKER_MODEL_CASES` choose other cases or more of them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;
mod model;

use std::fmt::Debug;
use std::path::PathBuf;

use common::directory;
use fdbroker::policy::Standing;
use fdbroker::{Policy, PolicyError, Rule};
use model::generate::{Choices, OwnedAsk, World};
use model::less::Less;
use model::matching::{components, glob_matches};
use model::objection::Objection;
use model::real::{phase_name, verdict};
use model::{Life, Model, Verdict};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Calls `case` with the seeds of so many cases, and says which one fails.
fn cases(count: u64, case: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let first = number("FDBROKER_MODEL_SEED", 1);
    for seed in first..first + number("FDBROKER_MODEL_CASES", count) {
        if let Err(panic) = std::panic::catch_unwind(|| case(seed)) {
            eprintln!("to see it again: FDBROKER_MODEL_SEED={seed} FDBROKER_MODEL_CASES=1");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A policy that can be built: rules are left away until the model has nothing against it.
fn sound(choices: &mut Choices<'_>, world: &World) -> Model {
    let mut model = world.model(choices, 12);
    while !model.objections().is_empty() {
        let place = choices.below(model.rules.len());
        model.rules.remove(place);
    }
    model
}

fn same<T: PartialEq + Debug>(real: T, expected: T, model: &Model, ask: &OwnedAsk) {
    assert!(real == expected, "{}: decided {real:?}, the model says {expected:?}\n{}", ask.ask(), model.words());
}

/// How often each kind of answer came up: a model that is never asked proves nothing.
#[derive(Default)]
struct Tally(std::sync::Mutex<std::collections::BTreeMap<String, u64>>);

impl Tally {
    fn count(&self, verdict: &Verdict) {
        let kind = match verdict {
            Ok(rules) => format!("granted by {} rules", rules.len()),
            Err(no) => format!("{:?}: {:?}", no.reason, no.why).split('(').next().unwrap().to_owned(),
        };
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
    }

    fn assert_wide(&self) {
        let tally = self.0.lock().unwrap();
        eprintln!("{tally:#?}");
        let total: u64 = tally.values().sum();
        let often = tally.values().filter(|times| **times >= 50).count();
        assert!(total < 100_000 || often >= 11, "{often} kinds of answers in {total} cases");
    }
}

/// 5,000 policies with 20 requests each, made in one life of a worker: what is granted is used up now and then, the
/// worker comes into later phases, and is narrowed.
#[test]
fn random_policies_decide_as_the_model_does() {
    let (_keep, root) = directory();
    let (world, tally) = (World::make(&root), Tally::default());
    cases(5000, |seed| {
        let mut choices = Choices::Seeded(seed);
        let model = sound(&mut choices, &world);
        let standing = Standing::new(model.build().unwrap_or_else(|error| panic!("{error}\n{}", model.words())));
        let (mut life, start) = (Life::new(&model), Life::new(&model));
        for _ in 0..20 {
            let owned = world.request(&mut choices, &model);
            let ask = owned.ask();
            let first = verdict(&standing.policy().decide(&ask));
            same(first, model.decide(&start, &ask), &model, &owned);
            let decided = standing.decide(&ask);
            let expected = model.decide(&life, &ask);
            same(verdict(&decided), expected.clone(), &model, &owned);
            tally.count(&expected);
            if let (Ok(permit), Ok(rules), true) = (decided, expected, choices.percent(50)) {
                permit.rules().for_each(|rule| standing.use_up(rule));
                model.use_up(&mut life, &rules);
            }
            if choices.percent(5) {
                let less = Less::random(&mut choices, &model);
                model.narrow(&mut life, &less, standing.narrow(&less.real()).is_ok());
            }
            if life.phase + 1 < model.phases && choices.percent(10) {
                life.phase += 1;
                standing.enter(&phase_name(life.phase)).unwrap();
            }
        }
    });
    tally.assert_wide();
}

/// The same rules in any order decide alike, and by the same rules. M-06, M-07.
#[test]
fn m_06_m_07_the_order_of_rules_means_nothing() {
    let (_keep, root) = directory();
    let world = World::make(&root);
    cases(1000, |seed| {
        let mut choices = Choices::Seeded(seed);
        let model = sound(&mut choices, &world);
        let policy = model.build().unwrap();
        let keys: Vec<u64> = model.rules.iter().map(|_| choices.below(1 << 16) as u64).collect();
        let (shuffled, numbers) = model.in_order(|place| keys[place]);
        let other = shuffled.build().unwrap();
        let before = |number: u32| numbers[number as usize - 1];
        for _ in 0..20 {
            let owned = world.request(&mut choices, &model);
            let one = verdict(&policy.decide(&owned.ask()));
            let mut two = verdict(&other.decide(&owned.ask()));
            match &mut two {
                Ok(rules) => rules.iter_mut().for_each(|rule| *rule = before(*rule)),
                Err(no) => no.rule = no.rule.map(before),
            }
            same(two, one, &model, &owned);
        }
    });
}

/// What the model has something against is refused, for a reason that it knows, in every order; nothing else is.
#[test]
fn m_07_what_is_refused_is_refused_in_every_order() {
    let (_keep, root) = directory();
    let world = World::make(&root);
    cases(3000, |seed| {
        let mut choices = Choices::Seeded(seed);
        let model = world.model(&mut choices, 8);
        let objections = model.objections();
        for turn in 0..4 {
            let keys: Vec<u64> = model.rules.iter().map(|_| choices.below(1 << 16) as u64).collect();
            let (model, _) = if turn == 0 { (model.clone(), vec![]) } else { model.in_order(|place| keys[place]) };
            let built = model.build().map(drop);
            let known = match &built {
                Ok(()) => objections.is_empty(),
                Err(PolicyError::Duplicate { .. }) => objections.contains(&Objection::Duplicate),
                Err(PolicyError::Contradiction { .. }) => objections.contains(&Objection::Contradiction),
                Err(_) => false,
            };
            assert!(known, "{built:?}; the model: {objections:?}\n{}", model.words());
        }
    });
}

/// Patterns of any bytes against paths of any bytes: anchored at both ends, by components. M-12.
#[test]
fn m_12_patterns_match_as_the_naive_matcher_says() {
    let (_keep, root) = directory();
    let text = root.to_str().unwrap().to_owned();
    cases(20_000, |seed| {
        let mut choices = Choices::Seeded(seed);
        let alphabet = b"ab\xff.*?**//[]{}\\\n*";
        let wild: Vec<u8> = (0..1 + choices.below(9)).map(|_| choices.of(alphabet)).collect();
        let pattern = [text.as_bytes(), b"/?/", &wild].concat();
        let pattern = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&pattern));
        let Ok(policy) = Policy::builder().allow(Rule::glob(&pattern).unlink()).build() else { return };
        let pattern = pattern.as_os_str().as_encoded_bytes();
        for _ in 0..20 {
            let name: Vec<u8> = (0..1 + choices.below(6)).map(|_| choices.of(b"ab\xff.*?//[\n")).collect();
            let path = [text.as_bytes(), b"/a/", &name].concat();
            let real = policy.decide(&fdbroker::wire::Ask::Unlink(&path)).is_ok();
            let naive =
                fdbroker::wire::path::check(&path).is_ok() && glob_matches(&components(pattern), &components(&path));
            assert_eq!(real, naive, "{} of {}", path.escape_ascii(), pattern.escape_ascii());
        }
    });
}

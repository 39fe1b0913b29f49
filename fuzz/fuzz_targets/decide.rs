//! Bytes are a policy of a few rules and the requests of one worker's life: the policy decides as the naive model of
//! tests/model does, by the same rules, in whichever order these are given.
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use fdbroker::Policy;
use fdbroker::policy::Standing;
use model::generate::{Choices, World};
use model::less::Less;
use model::real::{phase_name, verdict};
use model::{Life, Model};

/// One directory for all inputs, in the directory of builds: rules open what they are about, and nothing here changes
/// it.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/decide");
        fs::create_dir_all(&root).unwrap();
        World::make(&root.canonicalize().unwrap())
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::Bytes(input);
    let model = world().model(&mut choices, 8);
    let refused = !model.objections().is_empty();
    let (reversed, numbers) = model.in_order(|place| u64::MAX - place as u64);
    match (model.build(), reversed.build()) {
        (Ok(policy), Ok(other)) if !refused => live(&mut choices, &model, policy, &other, &numbers),
        (Err(_), Err(_)) if refused => {}
        (built, other) => panic!("refused {refused}: {built:?}, and in another order {other:?}\n{}", model.words()),
    }
});

fn live(choices: &mut Choices<'_>, model: &Model, policy: Policy, other: &Policy, numbers: &[u32]) {
    let standing = Standing::new(policy);
    let (mut life, start) = (Life::new(model), Life::new(model));
    while choices.any_left() {
        let owned = world().request(choices, model);
        let ask = owned.ask();
        let mut reordered = verdict(&other.decide(&ask));
        let before = |number: &mut u32| *number = numbers[*number as usize - 1];
        match &mut reordered {
            Ok(rules) => rules.iter_mut().for_each(before),
            Err(no) => no.rule.iter_mut().for_each(before),
        }
        assert_eq!(reordered, model.decide(&start, &ask), "{ask}, in another order\n{}", model.words());
        let decided = standing.decide(&ask);
        let expected = model.decide(&life, &ask);
        assert_eq!(verdict(&decided), expected, "{ask}\n{}", model.words());
        if let (Ok(permit), Ok(rules), true) = (decided, expected, choices.percent(50)) {
            permit.rules().for_each(|rule| standing.use_up(rule));
            model.use_up(&mut life, &rules);
        }
        if choices.percent(5) {
            let less = Less::random(choices, model);
            model.narrow(&mut life, &less, standing.narrow(&less.real()).is_ok());
        }
        if life.phase + 1 < model.phases && choices.percent(10) {
            life.phase += 1;
            standing.enter(&phase_name(life.phase)).unwrap();
        }
    }
}

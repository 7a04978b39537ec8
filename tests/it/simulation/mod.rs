//! The planner and the store's rules in a deterministic simulator: random DAGs, several processes with clocks of their own,
//! and faults at every transition. The decisions are the real ones (`domain::plan`, `domain::control`); what the store
//! promises is a model in memory (`database`), which `conformance` holds to the real one.
//!
//! `PINSCHED_TEST_SEED=<seed> cargo test --test it simulation::a_thousand` replays one seed and prints its events.

mod claims;
mod conformance;
mod database;
mod drawing;
mod rules;
mod stepper;
mod ticks;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use database::Flaw;
use pinsched::domain::task_state::TaskEvent;
use world::{Summary, simulate};

use crate::services;

/// Simulates a seed; what is wrong, a panic included, is said.
fn wrong_with(seed: u64, flaw: Option<Flaw>) -> Result<Summary, String> {
    let simulated = catch_unwind(AssertUnwindSafe(|| simulate(seed, flaw, None)));
    simulated.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        Err(words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned())).unwrap_or_default())
    })
}

#[test]
fn a_thousand_dags_end_as_their_rules_say_whatever_crashes() {
    let seeds = services::seeds(0..1_000);
    if seeds.is_empty() {
        return said("the seed is another test's");
    }
    let mut total = Summary::default();
    let mut happened: BTreeMap<TaskEvent, usize> = BTreeMap::new();
    for seed in seeds {
        match wrong_with(seed, None) {
            Ok(summary) => {
                total.events += summary.events;
                total.tasks += summary.tasks;
                total.exact += summary.exact;
                summary.faults.into_iter().for_each(|(kind, count)| *total.faults.entry(kind).or_default() += count);
                summary.happened.into_iter().for_each(|(event, count)| *happened.entry(event).or_default() += count);
            }
            Err(wrong) if services::seed().is_some() => panic!("seed {seed}: {wrong}\n{}", events(seed)),
            Err(wrong) => panic!(
                "seed {seed}: {wrong}\nreplay it by: PINSCHED_TEST_SEED={seed} cargo test --test it simulation::a_thousand"
            ),
        }
    }
    if let Some(seed) = services::seed() {
        said(&format!("{}\nseed {seed} is as it should be", events(seed)));
        return;
    }
    said(&format!(
        "{} events; {} tasks nobody touched, {} with one end; {:?}",
        total.events, total.tasks, total.exact, total.faults
    ));
    said(&format!("{happened:?}"));
    for event in TaskEvent::ALL {
        assert!(happened.contains_key(&event), "nothing was ever {event}");
    }
    assert!(total.faults.len() >= 12, "some faults never came: {:?}", total.faults);
    assert!(total.exact * 10 > total.tasks * 7, "of {} tasks {} could end in one way only", total.tasks, total.exact);
}

/// A simulation that finds nothing proves nothing: each rule that is left out is found within some seeds.
#[test]
fn each_rule_that_is_left_out_is_found() {
    let found: Vec<(Flaw, Option<(u64, String)>)> = Flaw::ALL
        .iter()
        .map(|flaw| (*flaw, (1_400..5_000).find_map(|seed| Some((seed, wrong_with(seed, Some(*flaw)).err()?)))))
        .collect();
    for (flaw, first) in found {
        let Some((seed, wrong)) = first else { panic!("{flaw:?} is not found") };
        said(&format!("{flaw:?} is found by seed {seed}: {wrong}"));
    }
}

fn events(seed: u64) -> String {
    let mut trace = Vec::new();
    // A panic was told of before.
    let _ = catch_unwind(AssertUnwindSafe(|| simulate(seed, None, Some(&mut trace))));
    trace.join("\n")
}

#[expect(clippy::print_stderr, reason = "what a seed did is for who replays it")]
fn said(words: &str) {
    eprintln!("{words}");
}

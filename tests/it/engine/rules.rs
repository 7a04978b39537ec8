//! Every trigger rule, over every pair of ways in which two upstreams can end.

use std::fmt::Write as _;

use pinsched::domain::trigger_rule::TriggerRule;

use super::whole_run;

/// Two tasks of each ending: `blocked` becomes upstream_failed, `spared` skipped. Failures come first: where a task has
/// both a failed and a skipped upstream, the first to end decides, as in Airflow.
const UPSTREAMS: &str = "
  bad1: {operator: script, acts: [refuse]}
  bad2: {operator: script, acts: [refuse]}
  good1: {operator: script, dependencies: [blocked1, blocked2], trigger_rule: all_done}
  good2: {operator: script, dependencies: [blocked1, blocked2], trigger_rule: all_done}
  spared1: {operator: script, dependencies: [good1], trigger_rule: all_failed}
  spared2: {operator: script, dependencies: [good2], trigger_rule: all_failed}
  blocked1: {operator: script, dependencies: [bad1]}
  blocked2: {operator: script, dependencies: [bad2]}";

fn indented(text: &str) -> String {
    text.replace("\n  ", "\n    ")
}

#[tokio::test]
async fn every_trigger_rule_over_every_pair_of_endings() {
    let kinds = ["good", "bad", "spared", "blocked"];
    let mut text = format!("rules:\n  tasks:{}", indented(UPSTREAMS));
    for rule in TriggerRule::ALL.map(TriggerRule::as_str) {
        for (place, one) in kinds.iter().enumerate() {
            for other in &kinds[place..] {
                write!(
                    text,
                    "\n    {rule}-{one}-{other}: {{operator: script, dependencies: [{one}1, {other}2], trigger_rule: {rule}}}"
                )
                .unwrap();
            }
        }
    }
    insta::assert_snapshot!(whole_run(&text).await);
}

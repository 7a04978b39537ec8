//! Mapped tasks: expanded into instances, each with attempts of its own, and ended by their ends.

use std::sync::Arc;

use pinsched::clock;
use pinsched::connect::NamedSettings;
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::masking::Masks;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::engine::Engine;
use pinsched::engine::lookup::Lookup;
use pinsched::engine::outputs::{OutputLimits, OutputStore};
use pinsched::engine::shutdown::Shutdown;
use pinsched::store::{Mode, Request, SecretKeys, TaskRun};
use secrecy::SecretString;
use serde_json::Value;

use super::{drive, drive_with, whole_run};
use crate::dags::{House, Play};

/// A task and its instances as they are stored.
async fn family(house: &House, play: &Play, task: &str) -> (TaskRun, Vec<TaskRun>) {
    let mut tasks = house.store.task_runs(play.run.key).await.unwrap();
    let parent = tasks.iter().position(|run| run.task == play.task(task)).unwrap();
    let parent = tasks.remove(parent);
    let mut instances: Vec<_> = tasks.into_iter().filter(|run| run.map_of == Some(parent.task)).collect();
    instances.sort_by_key(|run| run.map_index);
    (parent, instances)
}

async fn said(house: &House, play: &Play, task: &str) -> Vec<Value> {
    let (_, instances) = family(house, play, task).await;
    instances.into_iter().map(|run| run.output.map_or(Value::Null, |output| output["said"].clone())).collect()
}

#[tokio::test]
async fn a_list_makes_an_instance_of_each_value_and_what_follows_sees_their_outputs() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, partial: {retries: 1}, expand: {say: [a, \"{{ ds }}\", c]}, map_index_template: \"it says {{ say }}\"}
    after:
      operator: script
      dependencies: [each]
      say: \"{% for one in outputs.each %}{{ one.said }} {% endfor %}{{ outputs.each | length }}\"",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    insta::assert_snapshot!(house.picture(&play).await);
    assert_eq!(said(&house, &play, "each").await, ["a", "2026-02-01", "c"]);
    let (_, instances) = family(&house, &play, "each").await;
    assert_eq!(instances[1].label.as_deref(), Some("it says 2026-02-01"));
    let after = &house.store.task_runs(play.run.key).await.unwrap()[1];
    assert_eq!(after.output.as_ref().unwrap()["said"], "a 2026-02-01 c 3");
}

#[tokio::test]
async fn outputs_of_a_task_before_it_are_expanded_over_by_any_form() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    list: {operator: script, say: abc}
    letters: {operator: script, dependencies: [list], expand: {say: \"{{ outputs.list.said | list }}\"}}
    entries: {operator: script, dependencies: [list], say: \"{{ map_item.acts }}!\", expand_kwargs: \"{{ [{'acts': ['succeed']}] }}\"}
    whole: {operator: script, dependencies: [letters], say: \"no {{ ti.map_index }}\", expand_kwargs: \"{{ [{}, {}] }}\"}
    again: {operator: script, dependencies: [letters], expand: {say: \"{{ outputs.letters | map(attribute='said') | list }}\"}}
    pulled: {operator: script, dependencies: [letters], expand: {say: \"{{ ti.xcom_pull('letters', key='said') }}\"}}
    paired:
      operator: script
      dependencies: [letters]
      say: \"{{ ti.xcom_pull(task_ids='letters', key='said', map_indexes=ti.map_index) }}{{ ti.map_index }}\"
      expand_kwargs: \"{{ [{}, {}] }}\"",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    assert_eq!(said(&house, &play, "letters").await, ["a", "b", "c"]);
    assert_eq!(said(&house, &play, "whole").await, ["no 0", "no 1"]);
    assert_eq!(said(&house, &play, "again").await, ["a", "b", "c"], "over the outputs of instances, too");
    assert_eq!(said(&house, &play, "pulled").await, ["a", "b", "c"], "and in Airflow's words");
    assert_eq!(said(&house, &play, "paired").await, ["a0", "b1"], "each reads the instance of its own index");
}

#[tokio::test]
async fn a_tasks_own_output_is_expanded_over_in_dag_factorys_form_and_is_never_rendered_again() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    list: {operator: script, say: \"{{ '{{ nothing }}' }}\"}
    kinds: {operator: script, dependencies: [list], expand: {say: \"{{ [outputs.list.said] }}\"}}
    wrong: {operator: script, dependencies: [list], expand: {say: list.output}}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    assert_eq!(said(&house, &play, "kinds").await, ["{{ nothing }}"]);
    // An object is expanded into its entries, which `say` is not.
    let (wrong, instances) = family(&house, &play, "wrong").await;
    assert_eq!((wrong.state, instances.len()), (TaskState::Failed, 2));
    assert_eq!(wrong.error.as_deref(), Some("2 of 2 mapped instances failed: [0], [1]"));
}

#[tokio::test]
async fn nothing_to_expand_over_skips_the_task_and_too_much_fails_it_for_good() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  default_args: {retries: 3}
  tasks:
    list: {operator: script, say: \"\"}
    none: {operator: script, dependencies: [list], expand: {say: \"{{ outputs.list.said | list }}\"}}
    after: {operator: script, dependencies: [none], trigger_rule: all_done, say: \"{{ outputs.none | length }} left\"}
    skipped: {operator: script, dependencies: [none]}
    many: {operator: script, expand: {say: \"{{ range(4) | list }}\"}}
    text: {operator: script, expand: {say: \"{{ ds }}\"}}",
        )
        .await;
    let engine = Engine { max_map_length: 3, ..house.engine().await };
    assert_eq!(drive_with(&engine, &house, &play).await, RunState::Failed);
    insta::assert_snapshot!(house.picture(&play).await);
}

#[tokio::test]
async fn instances_fail_and_are_tried_again_one_by_one_and_the_task_says_which_failed() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each:
      operator: script
      retries: 1
      retry_delay: 0.01
      expand_kwargs:
        - {say: a}
        - {acts: [fail, succeed]}
        - {acts: [fail]}
        - {acts: [skip]}
        - {acts: [refuse]}
    after: {operator: script, dependencies: [each]}
    made_good: {operator: script, dependencies: [each], trigger_rule: one_failed}
    in_any_case: {operator: script, dependencies: [each], trigger_rule: all_done, say: \"{{ outputs.each | length }} left\"}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    insta::assert_snapshot!(house.picture(&play).await);
    let last = &house.store.task_runs(play.run.key).await.unwrap()[3];
    assert_eq!(last.output.as_ref().unwrap()["said"], "2 left", "those that failed or were skipped left nothing");
}

#[tokio::test]
async fn a_task_whose_instances_were_all_skipped_is_skipped() {
    let picture = whole_run(
        "orders:
  tasks:
    each: {operator: script, acts: [skip], expand: {say: [a, b]}}
    after: {operator: script, dependencies: [each]}",
    )
    .await;
    insta::assert_snapshot!(picture);
}

#[tokio::test]
async fn a_mapped_task_goes_on_where_a_killed_worker_left_it() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, expand_kwargs: [{say: a}, {acts: [hang, succeed]}, {acts: [hang, succeed]}, {say: d}]}
    after: {operator: script, dependencies: [each], say: \"{{ outputs.each | length }} left\"}",
        )
        .await;
    let engine = house.engine().await;
    let (run, shutdown) = (house.running(&play).await, Shutdown::default());
    let two_hang =
        |scene: &crate::script::Scene| scene.attempts.len() == 4 && scene.runs("each[1]") && scene.runs("each[2]");
    let two_left = async {
        play.stage.wait_for("two instances", two_hang).await;
        // The others' ends are written, too: what is killed before that runs again, and rightly.
        let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
        while family(&house, &play, "each").await.1.iter().filter(|one| one.state == TaskState::Success).count() < 2 {
            look.tick().await;
        }
    };
    tokio::select! {
        driven = engine.drive(run, &shutdown) => panic!("it ended: {driven:?}"),
        () = two_left => {}
    }
    assert_eq!(drive(&house, &play).await, RunState::Success);
    insta::assert_snapshot!(house.picture(&play).await);
    let history = house.store.transitions(play.run.key).await.unwrap();
    let (parent, instances) = family(&house, &play, "each").await;
    for task in instances.iter().chain([&parent]) {
        let ends = history.iter().filter(|at| at.task == task.task && at.event.as_str() == "succeeded").count();
        assert_eq!(ends, 1, "of {}", task.name());
    }
    let expanded = history.iter().filter(|at| at.event.as_str() == "expanded").count();
    assert_eq!(expanded, 1);
}

#[tokio::test]
async fn what_a_variable_hides_is_masked_in_an_instance_that_another_process_runs() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, acts: [refuse, tell], expand: {say: [\"{{ var.json.settings.token }}\"]}}",
        )
        .await;
    let settings = SecretString::from(serde_json::json!({"token": "nobody-may-read-it"}).to_string());
    let named =
        || NamedSettings { variables: [("settings".to_owned(), settings.clone())].into(), ..NamedSettings::default() };
    let process = async || {
        let engine = house.engine().await;
        let lookup = Lookup::new(engine.store.clone(), named(), SecretKeys::default(), Masks::default());
        Engine { lookup, ..engine }
    };
    assert_eq!(drive_with(&process().await, &house, &play).await, RunState::Failed);
    let (_, instances) = family(&house, &play, "each").await;
    let request =
        Request { action: Action::Clear, tasks: &[instances[0].task], reach: Reach::default(), words: "cleared" };
    house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap();
    assert_eq!(drive_with(&process().await, &house, &play).await, RunState::Failed);
    let (_, instances) = family(&house, &play, "each").await;
    assert_eq!(instances[0].error.as_deref(), Some("it says ***"));
}

#[tokio::test]
async fn a_template_of_an_expansion_that_may_pass_is_tried_again() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    absent: {operator: script, retries: 1, retry_delay: 0.01, expand: {say: [\"{{ var.value.nobody_made_it }}\"]}}
    wrong: {operator: script, retries: 1, retry_delay: 0.01, expand: {say: [\"{{ dag_run.conf.nothing }}\"]}}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!((tasks[0].try_number, tasks[1].try_number), (2, 1), "{tasks:?}");
}

#[tokio::test]
async fn what_instances_left_is_read_by_those_who_name_it_and_refused_when_it_is_too_large_together() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, expand: {say: [LONG, LONG, LONG]}}
    careless: {operator: script, dependencies: [each], say: fine}
    reader: {operator: script, retries: 2, dependencies: [each], say: \"{{ outputs.each | length }} left\"}
    product: {operator: script, dependencies: [careless], retries: 2, expand: {say: [LONG, LONG, LONG, LONG, LONG]}}"
                .replace("LONG", &"x".repeat(100))
                .as_str(),
        )
        .await;
    let limits = OutputLimits { most: 350, ..OutputLimits::default() };
    let outputs = Arc::new(OutputStore::new(crate::attempts::nowhere().s3, limits));
    let engine = Engine { outputs, ..house.engine().await };
    assert_eq!(drive_with(&engine, &house, &play).await, RunState::Failed);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(tasks[1].state, TaskState::Success, "it does not name them");
    for task in &tasks[2..4] {
        let error = task.error.as_deref().unwrap_or_default();
        assert!(error.contains("`outputs.limit` (PINSCHED_OUTPUTS_LIMIT) allows"), "{error}");
        assert_eq!(task.try_number, 1, "another try would find as much");
    }
}

#[tokio::test]
async fn a_cancelled_run_ends_its_instances() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, acts: [hang], expand: {say: [a, b, c]}}
    after: {operator: script, dependencies: [each]}",
        )
        .await;
    let engine = house.engine().await;
    let (run, shutdown) = (house.running(&play).await, Shutdown::default());
    let cancelled = async {
        play.stage.wait_for("an instance", |scene| scene.runs("each[1]")).await;
        house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    };
    let (driven, ()) = tokio::join!(engine.drive(run, &shutdown), cancelled);
    assert_eq!(driven.unwrap(), pinsched::engine::Driven::Concluded(RunState::Failed));
    let (parent, instances) = family(&house, &play, "each").await;
    assert!(instances.iter().chain([&parent]).all(|task| task.state == TaskState::Failed));
}

#[tokio::test]
async fn limits_bound_the_instances_of_a_task() {
    for limit in ["max_active_tis_per_dagrun: 2", "max_active_tis_per_dag: 2"] {
        assert_eq!(most_at_once(limit).await, 2, "{limit}");
    }
}

/// How many of five instances run at once under that limit.
async fn most_at_once(limit: &str) -> i32 {
    let house = House::open().await;
    let play = house
        .play(
            &"orders:
  tasks:
    each: {operator: script, acts: [gate], LIMIT, expand: {say: [a, b, c, d, e]}}"
                .replace("LIMIT", limit),
        )
        .await;
    let engine = house.engine().await;
    let (run, shutdown) = (house.running(&play).await, Shutdown::default());
    let opened = async {
        play.stage.wait_for("two instances", |scene| scene.attempts.iter().filter(|at| !at.ended).count() == 2).await;
        (0..5).for_each(|index| play.stage.open(&format!("each[{index}]")));
    };
    let (driven, ()) = tokio::join!(engine.drive(run, &shutdown), opened);
    assert_eq!(driven.unwrap(), pinsched::engine::Driven::Concluded(RunState::Success));
    let history = house.store.transitions(play.run.key).await.unwrap();
    let (mut running, mut most) = (0, 0);
    let instance = |at: &pinsched::store::Transition| at.task.as_usize() >= play.dag.tasks().len();
    for at in history.iter().filter(|at| instance(at)) {
        running += i32::from(at.to == TaskState::Running) - i32::from(at.from == TaskState::Running);
        most = most.max(running);
    }
    most
}

#[tokio::test]
async fn clearing_a_mapped_task_expands_it_anew_and_clearing_instances_runs_those_alone() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, expand_kwargs: [{say: a}, {acts: [refuse, succeed]}, {say: c}]}
    after: {operator: script, dependencies: [each], say: \"{{ outputs.each | length }} left\"}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    let (_, before) = family(&house, &play, "each").await;
    // Only what failed: one instance, and what waits for it.
    let each = play.task("each");
    let clear = async |tasks: &[_], only_failed: bool| {
        let reach = Reach { downstream: true, only_failed, ..Reach::default() };
        let request = Request { action: Action::Clear, tasks, reach, words: "cleared" };
        house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap()
    };
    let changed = clear(&[each], true).await;
    assert!(changed.iter().any(|one| one.task == before[1].task && one.to == TaskState::Queued), "{changed:?}");
    assert!(changed.iter().any(|one| one.task == each && one.to == TaskState::Mapped), "{changed:?}");
    assert!(!changed.iter().any(|one| one.task == before[0].task), "{changed:?}");
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let (_, again) = family(&house, &play, "each").await;
    assert_eq!(
        again.iter().map(|one| one.task).collect::<Vec<_>>(),
        before.iter().map(|one| one.task).collect::<Vec<_>>()
    );
    assert_eq!(again.iter().map(|one| one.fence).collect::<Vec<_>>(), [1, 2, 1]);
    // One by its index.
    clear(&[before[2].task], false).await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let (_, again) = family(&house, &play, "each").await;
    assert_eq!(again.iter().map(|one| one.fence).collect::<Vec<_>>(), [1, 2, 2]);
    // All of it: new instances, which have nothing of the old ones.
    clear(&[each], false).await;
    assert_eq!(family(&house, &play, "each").await.1.len(), 0);
    assert_eq!(drive(&house, &play).await, RunState::Failed, "the second instance refuses its first attempt");
    let (_, anew) = family(&house, &play, "each").await;
    assert!(anew.iter().all(|one| one.task > before[2].task && one.fence == 1), "{anew:?}");
    // A person takes the failed one for done: so is the task.
    let request =
        Request { action: Action::MarkSuccess, tasks: &[anew[1].task], reach: Reach::default(), words: "marked" };
    house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap();
    assert_eq!(family(&house, &play, "each").await.0.state, TaskState::Success);
    assert_eq!(drive(&house, &play).await, RunState::Success);
}

#[tokio::test]
async fn ten_thousand_instances_run_and_what_follows_reads_all_their_outputs() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, expand: {say: \"{{ range(10000) | map('string') | list }}\"}}
    all: {operator: script, dependencies: [each], say: \"{{ outputs.each | length }}, {{ outputs.each[9999].said }}\"}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let last = house.store.task_runs(play.run.key).await.unwrap().remove(1);
    assert_eq!(last.output.unwrap()["said"], "10000, 9999");
}

/// How the tasks of the DAG stand, by name.
async fn states(house: &House, play: &Play) -> Vec<(String, &'static str)> {
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    let own = tasks.iter().filter(|task| task.map_of.is_none());
    own.map(|task| (task.task_id.to_string(), task.state.as_str())).collect()
}

fn expected(states: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    states.iter().map(|(task, state)| ((*task).to_owned(), *state)).collect()
}

#[tokio::test]
async fn rules_count_instances_and_those_that_wait_for_one_do_not_wait_for_the_mapped_task() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, expand_kwargs: [{acts: [gate]}, {say: b}, {acts: [refuse]}, {acts: [skip]}]}
    one_failed: {operator: script, dependencies: [each], trigger_rule: one_failed}
    one_success: {operator: script, dependencies: [each], trigger_rule: one_success}
    one_done: {operator: script, dependencies: [each], trigger_rule: one_done}
    all_success: {operator: script, dependencies: [each]}
    all_failed: {operator: script, dependencies: [each], trigger_rule: all_failed}
    none_skipped: {operator: script, dependencies: [each], trigger_rule: none_skipped}
    all_done: {operator: script, dependencies: [each], trigger_rule: all_done}
    lucky: {operator: script, expand_kwargs: [{say: a}, {acts: [skip]}]}
    after_lucky: {operator: script, dependencies: [lucky]}
    none_failed: {operator: script, dependencies: [lucky], trigger_rule: none_failed_min_one_success}
    unlucky: {operator: script, expand_kwargs: [{say: a}, {acts: [refuse]}]}
    min_one: {operator: script, dependencies: [unlucky], trigger_rule: all_done_min_one_success}",
        )
        .await;
    let engine = house.engine().await;
    let (run, shutdown) = (house.running(&play).await, Shutdown::default());
    let gate = async {
        let early = ["one_failed", "one_success", "one_done"];
        let began = |scene: &crate::script::Scene| early.iter().all(|task| scene.is_over(task, 1));
        play.stage.wait_for("what one instance releases", began).await;
        assert_eq!(family(&house, &play, "each").await.0.state, TaskState::Mapped, "an instance still runs");
        play.stage.open("each[0]");
    };
    let (driven, ()) = tokio::join!(engine.drive(run, &shutdown), gate);
    assert_eq!(driven.unwrap(), pinsched::engine::Driven::Concluded(RunState::Failed));
    let as_in_airflow = expected(&[
        ("each", "failed"),
        ("one_failed", "success"),
        ("one_success", "success"),
        ("one_done", "success"),
        ("all_success", "upstream_failed"),
        ("all_failed", "skipped"),
        ("none_skipped", "skipped"),
        ("all_done", "success"),
        ("lucky", "success"),
        ("after_lucky", "skipped"),
        ("none_failed", "success"),
        ("unlucky", "failed"),
        ("min_one", "success"),
    ]);
    assert_eq!(states(&house, &play).await, as_in_airflow);
    // What is cleared afterwards sees its mapped upstream in the same way.
    let after: Vec<_> = play.dag.tasks().iter().filter(|task| task.mapping.is_none()).map(|task| task.index).collect();
    let request = Request { action: Action::Clear, tasks: &after, reach: Reach::default(), words: "cleared" };
    house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap();
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    assert_eq!(states(&house, &play).await, as_in_airflow);
}

#[tokio::test]
async fn what_waits_for_one_is_cleared_while_the_mapped_task_goes_on_and_runs_again_at_once() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    each: {operator: script, expand_kwargs: [{acts: [gate]}, {acts: [refuse]}]}
    alarm: {operator: script, dependencies: [each], trigger_rule: one_failed}",
        )
        .await;
    let engine = house.engine().await;
    let (run, shutdown) = (house.running(&play).await, Shutdown::default());
    let cleared = async {
        house.until(&play, "alarm", TaskState::Success).await;
        let alarm = [play.task("alarm")];
        let request = Request { action: Action::Clear, tasks: &alarm, reach: Reach::default(), words: "cleared" };
        let changed = house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap();
        assert_eq!(changed[0].to, TaskState::Queued, "an instance has failed already");
        play.stage.wait_for("it again", |scene| scene.is_over("alarm", 2)).await;
        play.stage.open("each[0]");
    };
    let (driven, ()) = tokio::join!(engine.drive(run, &shutdown), cleared);
    assert_eq!(driven.unwrap(), pinsched::engine::Driven::Concluded(RunState::Success));
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_told_with_its_instance_and_key() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  default_args: {retries: 3}
  tasks:
    list: {operator: script, say: \"7\"}
    each: {operator: script, dependencies: [list], expand: {say: \"{{ ['a', outputs.list.said | int, [1]] }}\"}}
    acts: {operator: script, expand_kwargs: \"{{ [{'acts': ['dance']}, {'acts': 'x' * 200}, {'act': 'fail'}] }}\"}
    alone: {operator: script, dependencies: [list], say: \"{{ outputs.list.said | int }}\"}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    let errors = async |task: &str| {
        let (parent, instances) = family(&house, &play, task).await;
        let all = [vec![parent], instances].concat();
        assert!(all.iter().all(|run| run.try_number == 1), "another try would be given the same: {all:?}");
        all.into_iter().skip(1).map(|run| run.error.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(
        errors("each").await,
        [
            "",
            "`each[1]` cannot run with its values: `say` is text, but this is a number; it was given 7",
            "`each[2]` cannot run with its values: `say` is text, but this is a list; it was given [1]",
        ]
    );
    let acts = errors("acts").await;
    assert!(acts[0].starts_with("`acts[0]` cannot run with its values: `acts` cannot be `dance`"), "{acts:?}");
    assert!(acts[0].ends_with(r#"; it was given ["dance"]"#), "{acts:?}");
    assert!(acts[1].ends_with("xxx…"), "{acts:?}");
    assert_eq!(
        acts[2],
        "`acts[2]` cannot run with its values: the operator `script` has no key `act` (did you mean `acts`?); it was given \"fail\""
    );
    let alone = &house.store.task_runs(play.run.key).await.unwrap()[3];
    assert_eq!(
        alone.error.as_deref(),
        Some("`alone` cannot run with its values: `say` is text, but this is a number; it was given 7")
    );
}

//! The DAG file language: every fixture in `tests/fixtures/bad` with what is said of it, every good one as a DAG.

mod commands;
mod mapped;
mod operators;

use std::path::{Path, PathBuf};

use pinsched::domain::callbacks::Event;
use pinsched::domain::check::{check, decode};
use pinsched::domain::dag::Dag;
use pinsched::domain::diagnostic::Code;

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// All that is said of a file, as on a terminal; with it the codes.
fn said(name: &str, bytes: Vec<u8>) -> (String, Vec<Code>) {
    let (file, diagnostics) = match decode(name, bytes) {
        Ok(file) => {
            let checked = check(&file, operators::CATALOG);
            (file, checked.diagnostics)
        }
        Err(refused) => {
            let (file, diagnostic) = *refused;
            (file, vec![diagnostic])
        }
    };
    let text: Vec<String> = diagnostics.iter().map(|diagnostic| diagnostic.render(&file, false)).collect();
    (text.join("\n\n"), diagnostics.iter().map(|diagnostic| diagnostic.code).collect())
}

#[test]
fn every_bad_fixture_is_refused_in_the_same_words() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../../fixtures/bad");
    settings.set_omit_expression(true);
    let files = fixtures("bad");
    assert!(files.len() >= 40, "{} bad fixtures", files.len());
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (text, codes) = said(&name, std::fs::read(&path).unwrap());
        assert!(!codes.is_empty(), "{name} passes");
        settings.bind(|| insta::assert_snapshot!(name.trim_end_matches(".yaml").to_owned(), text));
    }
}

#[test]
fn every_kind_of_mistake_has_its_fixture() {
    let mut missing: Vec<Code> = Code::ALL.to_vec();
    for path in fixtures("bad") {
        let (_, codes) = said("x", std::fs::read(&path).unwrap());
        missing.retain(|code| !codes.contains(code));
    }
    // A file of more than 10 MB is made below; what is on the disk is `validate`'s.
    missing.retain(|code| !matches!(code, Code::TooLarge | Code::Unreadable | Code::MissingFile));
    assert!(missing.is_empty(), "no fixture for {missing:?}");
}

/// A DAG in words: what the file came to.
fn described(dag: &Dag) -> String {
    let settings = &dag.settings;
    let mut lines = vec![format!(
        "{} {:?} {} from {:?} to {:?}\n  catchup {:?} overlap {:?} dst {:?}/{:?}, data interval {:?}, {} runs, {:?} tasks, timeout {:?}, paused {}, owner {:?}, tags {:?}\n  params {}",
        settings.id,
        settings.schedule,
        settings.timezone,
        settings.start_date.map(|at| at.to_rfc3339()),
        settings.end_date.map(|at| at.to_rfc3339()),
        settings.catchup,
        settings.overlap,
        settings.dst.gap,
        settings.dst.overlap,
        settings.data_interval,
        settings.max_active_runs,
        settings.max_active_tasks,
        settings.dagrun_timeout,
        settings.paused_upon_creation,
        settings.owner,
        settings.tags,
        serde_json::to_string(&settings.params).unwrap(),
    )];
    for index in dag.topological() {
        let task = dag.task(index).unwrap();
        let upstream: Vec<&str> = dag.upstream(index).iter().map(|up| dag.task(*up).unwrap().id.as_str()).collect();
        lines.push(format!(
            "  {} = {} {} after {upstream:?} when {:?}, {} retries after {:?} (x{} to {:?}), timeout {:?}, pool {:?}/{}, weight {}{}{}{}",
            task.id,
            task.operator,
            task.config,
            task.trigger_rule,
            task.retry.retries,
            task.retry.delay,
            if task.retry.exponential { 2 } else { 1 },
            task.retry.max_delay,
            task.execution_timeout,
            task.pool,
            task.pool_slots,
            task.priority_weight,
            match (task.is_setup, task.is_teardown, task.on_failure_fail_dagrun) {
                (true, ..) => ", setup",
                (_, true, true) => ", teardown that fails the run",
                (_, true, false) => ", teardown",
                _ => "",
            },
            if task.depends_on_past { ", depends on past" } else { "" },
            if task.wait_for_downstream { ", waits for downstream" } else { "" },
        ));
    }
    if let Some(deadline) = settings.deadline {
        lines.push(format!("  deadline {:?} after {:?}", deadline.within, deadline.after));
    }
    let all = dag.tasks().iter().map(|task| (task.id.as_str(), &task.callbacks, task.deadline));
    for (of, callbacks, deadline) in std::iter::once(("the run", &settings.callbacks, None)).chain(all) {
        if let Some(deadline) = deadline {
            lines.push(format!("  deadline of {of} {deadline:?}"));
        }
        for event in Event::ALL {
            for callback in callbacks.of(event) {
                lines.push(format!("  {event} of {of} by {} {}", callback.channel.as_str(), callback.config));
            }
        }
    }
    for group in dag.groups() {
        let parent = group.parent.map(|at| dag.groups()[at].id.as_str());
        let tasks: Vec<&str> = group.tasks.iter().map(|at| dag.task(*at).unwrap().id.as_str()).collect();
        lines.push(format!("  group {} ({:?}, in {parent:?}) of {tasks:?}", group.id, group.tooltip));
    }
    lines.join("\n")
}

#[test]
fn every_good_fixture_is_the_dag_that_it_says() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../../fixtures/good");
    settings.set_omit_expression(true);
    for path in fixtures("good") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = decode(&name, std::fs::read(&path).unwrap()).unwrap();
        let checked = check(&file, operators::CATALOG);
        let warnings: Vec<String> =
            checked.diagnostics.iter().map(|diagnostic| diagnostic.render(&file, false)).collect();
        assert!(!checked.has_errors(), "{}", warnings.join("\n"));
        let dags: Vec<String> = checked.dags.iter().map(described).collect();
        let text = [dags, warnings].concat().join("\n\n");
        settings.bind(|| insta::assert_snapshot!(name.trim_end_matches(".yaml").to_owned(), text));
    }
}

#[test]
fn a_file_of_more_than_10_mb_is_refused_before_it_is_parsed() {
    let (text, codes) = said("big.yaml", vec![b'#'; 10 * 1024 * 1024 + 1]);
    assert_eq!(codes, [Code::TooLarge]);
    assert!(text.contains("the file has more than 10 MB; a DAG file has at most that"), "{text}");
}

#[test]
fn anchors_within_anchors_are_a_bomb_too() {
    let (open, close): (String, String) = ((0..50).map(|n| format!("&a{n} [")).collect(), "]".repeat(50));
    let (text, codes) = said("bomb.yaml", format!("a: {open}{}1{close}\n", "1,".repeat(20_000)).into_bytes());
    assert_eq!(codes, [Code::AliasBomb], "{text}");
    let file = format!("a: {}1{}\n", "[".repeat(50), "]".repeat(50));
    assert_ne!(said("deep.yaml", file.into_bytes()).1, [Code::AliasBomb], "without anchors it is only deep");
}

/// Work that is quadratic anywhere would take minutes here.
#[test]
fn ten_thousand_tasks_are_checked() {
    const TASKS: usize = 10_000;
    let dag = |task: &dyn Fn(usize) -> String| -> Vec<u8> {
        let tasks: String = (0..TASKS).map(|n| format!("    task_{n}: {{operator: bash, {}}}\n", task(n))).collect();
        format!("big:\n  params: {{n: 1}}\n  tasks:\n{tasks}").into_bytes()
    };
    let checked = |bytes: Vec<u8>| check(&decode("big.yaml", bytes).unwrap(), operators::CATALOG);
    let before = |n: usize| if n > 0 { format!("[task_{}]", n - 1) } else { "[]".to_owned() };

    let chain =
        checked(dag(&|n| format!("bash_command: \"{{{{ params.n }}}} {{{{ ds }}}}\", dependencies: {}", before(n))));
    assert_eq!((chain.dags.len(), chain.diagnostics.len()), (1, 0));

    let first_for_all = checked(dag(&|n| {
        let command = if n > 0 { "{{ outputs.task_0.x }}" } else { "ls" };
        format!("bash_command: \"{command}\", dependencies: {}", before(n))
    }));
    assert_eq!((first_for_all.dags.len(), first_for_all.diagnostics.len()), (1, 0));

    let half_way = checked(dag(&|n| {
        let command = if n > 0 { format!("{{{{ outputs.task_{}.x }}}}", n / 2) } else { "ls".to_owned() };
        format!("bash_command: \"{command}\", dependencies: {}", before(n))
    }));
    assert_eq!((half_way.dags.len(), half_way.diagnostics.len()), (1, 0));

    let the_next_one = checked(dag(&|n| {
        let command = format!("{{{{ outputs.task_{}.x }}}}", (n + 1) % TASKS);
        format!("bash_command: \"{command}\", dependencies: {}", before(n))
    }));
    assert_eq!(the_next_one.diagnostics.len(), TASKS - 1, "only the last one's next, which is the first, is upstream");
    assert!(the_next_one.diagnostics.iter().all(|diagnostic| diagnostic.code == Code::OutputNotUpstream));

    let circle = checked(dag(&|n| format!("bash_command: ls, dependencies: [task_{}]", (n + 1) % TASKS)));
    assert_eq!(circle.diagnostics.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>(), [Code::Cycle]);
    let help = circle.diagnostics[0].help.as_deref().unwrap();
    assert!((0..TASKS).all(|n| help.contains(&format!("`task_{n}`"))), "the whole cycle is named");

    for (mistyped, code) in [
        ("bash_command: ls, dependencies: [tsk_N]", Code::DanglingDependency),
        ("bash_command: \"{{ outputs.tsk_N.x }}\"", Code::OutputOfUnknownTask),
    ] {
        let wrong = checked(dag(&|n| mistyped.replace('N', &n.to_string())));
        assert_eq!(wrong.diagnostics.len(), TASKS);
        assert!(wrong.diagnostics.iter().all(|diagnostic| diagnostic.code == code));
        let suggested = wrong.diagnostics.iter().filter(|diagnostic| diagnostic.help.is_some()).count();
        assert!(
            (1..=100).contains(&suggested),
            "{suggested}: each compares ten thousand names, and a million is enough"
        );
    }
}

/// Whatever bytes come, there is an answer.
#[test]
fn no_file_makes_it_panic() {
    use proptest::prelude::*;
    let seeds: Vec<Vec<u8>> =
        [fixtures("bad"), fixtures("good")].concat().iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 1..6);
    runner
        .run(&(0..seeds.len(), edits), |(seed, edits)| {
            let mut bytes = seeds[seed].clone();
            for (place, edit, byte) in edits {
                if bytes.is_empty() {
                    break;
                }
                let at = place.index(bytes.len());
                match edit {
                    0 => bytes[at] = b" \n:-{}[]\"'&*#|>@%`\t"[usize::from(byte) % 19],
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, byte),
                    _ => bytes.truncate(at),
                }
            }
            said("fuzzed.yaml", bytes);
            Ok(())
        })
        .unwrap();
}

/// Whatever dates and date formats come, too; bytes at random hardly ever make one.
#[test]
fn no_date_makes_it_panic() {
    use proptest::prelude::*;
    let date = prop_oneof![
        Just("+262142-12-31T23:30:00".to_owned()),
        Just("-262143-01-01T00:30:00".to_owned()),
        "[+-]?[0-9]{1,6}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-5][0-9](:[0-6][0-9])?(Z|[+-][0-9]{2}:[0-9]{2})?)?",
    ];
    let zone = prop::sample::select(vec!["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"]);
    let format = "(%[-_0#:.]{0,2}[A-Za-z0-9%+]|[ T:/-]){0,6}";
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&(date, zone, format, any::<i64>()), |(date, zone, format, by)| {
            let dag = |body: &str| format!("orders:\n  timezone: {zone}\n{body}");
            for key in ["start_date", "end_date"] {
                said(
                    "date.yaml",
                    dag(&format!("  {key}: \"{date}\"\n  tasks: {{a: {{operator: empty}}}}\n")).into_bytes(),
                );
            }
            for expression in [
                format!("macros.ds_format(ds, '%Y-%m-%d', '{format}')"),
                format!("macros.ds_format('{date}', '{format}', '{format}')"),
                format!("logical_date.strftime('{format}')"),
                format!("logical_date.add(days={by}).in_timezone('{zone}').isoformat()"),
                format!("macros.ds_add('{date}', {by})"),
                format!("'{date}' | ts"),
            ] {
                let task = format!("  tasks:\n    a: {{operator: bash, bash_command: \"{{{{ {expression} }}}}\"}}\n");
                said("template.yaml", dag(&task).into_bytes());
            }
            Ok(())
        })
        .unwrap();
}

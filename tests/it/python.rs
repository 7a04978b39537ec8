//! `python`, run for real by the machine's `python3`.

use std::fs;
use std::path::Path;

use pinsched::engine::operator::{Failure, Output};
use serde_json::{Value, json};

use crate::attempts::{self, TestRun};

const AT: &str = "2026-03-01T02:00:00+00:00";

async fn run_in(folder: &Path) -> TestRun {
    let mut run = TestRun::start().await;
    run.dag_folder = folder.canonicalize().unwrap();
    run.variables = json!({
        "ds": "2026-03-01", "ds_nodash": "20260301", "ts": AT, "logical_date": AT, "data_interval_start": AT,
        "data_interval_end": AT, "run_id": "manual", "params": {"factor": 2},
    });
    run
}

/// Runs this text as a script.
async fn script(text: &str, config: Value) -> Result<Output, Failure> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("task.py"), text).unwrap();
    let mut config = config;
    config["script"] = json!("task.py");
    run_in(folder.path()).await.run("t", "python", config).await
}

#[tokio::test]
async fn a_function_gets_the_context_that_its_arguments_name_and_its_value_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("tasks.py"),
        "import os, json\n\
         def some(first, params, ds='x', *, outputs, extra=1):\n\
         \x20   json.dump({'beside': 7}, open(os.environ['PINSCHED_OUTPUT'], 'w'))\n\
         \x20   return [first, params, ds, outputs, extra]\n\
         def every(**context):\n    return sorted(context)\n\
         class Deep:\n    @staticmethod\n    def inner(): return None\n\
         def unwritable(): return object()\n",
    )
    .unwrap();
    let mut run = run_in(folder.path()).await;
    run.finished("before", "bash", json!({"return_value": "b"}));
    let config = json!({"python_callable": "tasks:some", "op_args": [1], "op_kwargs": {"extra": "e"}});
    let output = run.run("t", "python", config).await.unwrap();
    let expected = json!([1, {"factor": 2}, "2026-03-01", {"before": {"return_value": "b"}}, "e"]);
    assert_eq!(Value::Object(output), json!({"beside": 7, "return_value": expected}));
    let output = run.run("t", "python", json!({"python_callable": "tasks.every"})).await.unwrap();
    let names = [
        "dag_id",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "map_index",
        "outputs",
        "params",
        "run_id",
        "task_id",
        "try_number",
        "ts",
    ];
    assert_eq!(output["return_value"], json!(names));
    let output = run.run("t", "python", json!({"python_callable": "tasks:Deep.inner"})).await.unwrap();
    assert_eq!(output["return_value"], Value::Null);
    let failure = run.run("t", "python", json!({"python_callable": "tasks:unwritable"})).await.unwrap_err();
    assert!(failure.to_string().contains("`return_value` is of the type `object`"), "{failure}");
    let failure = run.run("t", "python", json!({"python_callable": "tasks:missing"})).await.unwrap_err();
    assert!(failure.to_string().contains("has no attribute 'missing'"), "{failure}");
}

/// Calls `task()` of this text; what it returned.
async fn returned(text: &str) -> Result<Value, Failure> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tasks.py"), text).unwrap();
    let output = run_in(folder.path()).await.run("t", "python", json!({"python_callable": "tasks:task"})).await?;
    Ok(output["return_value"].clone())
}

/// What stands for numpy, which is not there.
const NUMBERS: &str = "
class Kind:
    def __init__(self, kind): self.kind = kind
class Scalar:
    def __init__(self, value, kind='f', shape=(), text=''):
        self.value, self.dtype, self.shape, self.text = value, Kind(kind), shape, text
    def item(self): return self.value
    def tolist(self): return [self.value]
    def __str__(self): return self.text
";

#[tokio::test]
async fn what_a_function_returns_is_kept_as_json_has_it() {
    let text = format!(
        "import collections, dataclasses, datetime as d, decimal, enum, pathlib, uuid
{NUMBERS}
@dataclasses.dataclass
class Row:
    at: d.date
    parts: tuple
Point = collections.namedtuple('Point', 'x y')
class Level(enum.IntEnum):
    HIGH = 3
class Text(str):
    def __str__(self): return 'not this'
def task():
    return {{
        'at': d.datetime(2026, 3, 1, 12, 30, tzinfo=d.timezone(d.timedelta(hours=1))),
        'naive': d.datetime(2026, 3, 1, 12, 30, 0, 250000),
        'day': d.date(2026, 3, 1),
        'time': d.time(8, 15),
        'took': d.timedelta(minutes=1, milliseconds=500),
        'price': decimal.Decimal('19.990'),
        'id': uuid.UUID(int=7),
        'path': pathlib.PurePosixPath('/data') / 'a.csv',
        'set': {{3, 1, 2}},
        'frozen': frozenset(['b', 'a']),
        'tuple': (1, Point(2, 3)),
        'row': Row(d.date(2026, 1, 2), ('x',)),
        'level': Level.HIGH,
        'text': Text('this'),
        'scalars': [Scalar(1.5), Scalar(3, 'i'), Scalar(True, 'b'), Scalar(0, 'M', text='2026-03-01T00:00:00')],
        'ordered': collections.OrderedDict(b=1, a=None),
        1: 'whole', True: 'overwrites the whole one', None: 'nothing',
        'large': 2**64 - 1, 'small': -2**63, 'exact': 0.1,
    }}
"
    );
    let kept = returned(&text).await.unwrap();
    assert_eq!(
        kept,
        json!({
            "at": "2026-03-01T12:30:00+01:00", "naive": "2026-03-01T12:30:00.250000", "day": "2026-03-01",
            "time": "08:15:00", "took": 60.5, "price": "19.990", "id": "00000000-0000-0000-0000-000000000007",
            "path": "/data/a.csv", "set": [1, 2, 3], "frozen": ["a", "b"], "tuple": [1, [2, 3]],
            "row": {"at": "2026-01-02", "parts": ["x"]}, "level": 3, "text": "this",
            "scalars": [1.5, 3, true, "2026-03-01T00:00:00"], "ordered": {"b": 1, "a": null},
            "1": "overwrites the whole one", "null": "nothing",
            "large": u64::MAX, "small": i64::MIN, "exact": 0.1,
        })
    );
}

#[tokio::test]
async fn files_of_the_users_may_have_the_names_of_pythons_own_modules() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["uuid", "decimal", "datetime", "pathlib", "dataclasses"] {
        fs::write(folder.path().join(format!("{name}.py")), "raise SystemExit('nobody asked for it')").unwrap();
    }
    fs::write(folder.path().join("tasks.py"), "def task(): return {'a': (1, {2})}").unwrap();
    let output =
        run_in(folder.path()).await.run("t", "python", json!({"python_callable": "tasks:task"})).await.unwrap();
    assert_eq!(output["return_value"], json!({"a": [1, [2]]}));
}

#[tokio::test]
async fn what_json_would_change_is_refused_for_good_with_its_path() {
    for (value, refusal) in [
        (
            "{'a': [1, float('nan')]}",
            "`return_value[\"a\"][1]` is nan, which JSON does not have: return None, or leave it out",
        ),
        ("[float('-inf')]", "`return_value[0]` is -inf, which JSON does not have: return None, or leave it out"),
        ("Decimal('NaN')", "`return_value` is NaN, which JSON does not have: return None, or leave it out"),
        ("[Scalar(float('nan'))]", "`return_value[0]` is nan, which JSON does not have: return None, or leave it out"),
        (
            "{'b': b'abc'}",
            "`return_value[\"b\"]` is of the type `bytes`, which JSON does not have: decode it to text, or encode it as base64",
        ),
        ("{1, 'a'}", "`return_value` is a set that cannot be sorted: return a list"),
        (
            "(n for n in [1])",
            "`return_value` is of the type `generator`, which JSON does not have: return it as a list",
        ),
        (
            "Scalar(1, shape=(3,))",
            "`return_value` is of the type `Scalar`, which JSON does not have: return its `tolist()`, or write it to object \
             storage and return its name",
        ),
        (
            "Scalar(0, 'm')",
            "`return_value` is of the type `Scalar`, which JSON does not have: convert it to a number of Python's own",
        ),
        ("[Scalar(0, 'M', text='NaT')]", "`return_value[0]` is no date (NaT): return None, or leave it out"),
        (
            "complex(1, 2)",
            "`return_value` is of the type `complex`, which JSON does not have: return text, numbers, dates, lists or dicts",
        ),
        ("[2**64]", "`return_value[0]` is a whole number of more than 64 bits: return it as text"),
        ("['\\ud800']", "`return_value[0]` is text with a lone surrogate: it is no Unicode text"),
        ("{1: 'a', '1': 'b'}", "`return_value` has two keys that are `1` as text"),
        ("{(1, 2): 'a'}", "`return_value` has the key (1, 2): the keys of JSON are text"),
        ("loop", "is nested deeper than 100 levels, or holds itself"),
    ] {
        let text = format!(
            "from decimal import Decimal\n{NUMBERS}\nloop = []\nloop.append(loop)\ndef task(): return {value}\n"
        );
        let Err(Failure::Fatal(failure)) = returned(&text).await else { panic!("{value} is kept") };
        assert!(failure.starts_with("the output cannot be kept: `return_value"), "{value}: {failure}");
        assert!(failure.ends_with(refusal), "{value}: {failure}");
    }
}

/// Python itself exits with 1 then, which may be a code that skips.
#[tokio::test]
async fn an_output_that_is_refused_is_no_skip() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = run_in(folder.path()).await;
    fs::write(folder.path().join("tasks.py"), "def nan(): return float('nan')\ndef ends(): exit(1)").unwrap();
    let mut call = async |name: &str| {
        let config = json!({"python_callable": format!("tasks:{name}"), "skip_on_exit_code": 1});
        run.run("t", "python", config).await
    };
    let Err(Failure::Fatal(refused)) = call("nan").await else { panic!("it is kept, or skipped") };
    assert!(refused.starts_with("the output cannot be kept: `return_value` is nan"), "{refused}");
    assert_eq!(call("ends").await, Err(Failure::Skip("the process exited with code 1".to_owned())));
}

#[tokio::test]
async fn numbers_that_are_none_are_named_in_what_a_script_wrote() {
    let dump = |value: &str| {
        format!("import json, os\njson.dump({value}, open(os.environ['PINSCHED_OUTPUT'], 'w'), indent=1)")
    };
    for (value, found) in [("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")] {
        let failure = script(&dump(&format!("{{'a': 1, 'b': [float('{value}')]}}")), json!({})).await;
        let Err(Failure::Fatal(text)) = failure else { panic!("{failure:?}") };
        assert!(text.starts_with(&format!("the output has {found} in line 4, column ")), "{text}");
    }
}

#[tokio::test]
async fn a_script_leaves_an_object_and_no_more_than_there_is_room_for() {
    let leave = |text: &str| format!("import os\nopen(os.environ['PINSCHED_OUTPUT'], 'wb').write({text})");
    let left = script(&leave("b'{\"rows\": 3}'"), json!({})).await.unwrap();
    assert_eq!(Value::Object(left), json!({"rows": 3}));
    assert_eq!(script("pass", json!({})).await, Ok(Output::new()));
    let fatal = async |text: &str| match script(&leave(text), json!({})).await {
        Err(Failure::Fatal(text)) => text,
        other => panic!("{other:?}"),
    };
    let large = fatal("b'{\"rows\": \"' + b'x' * 100_000_000 + b'\"}'").await;
    assert_eq!(
        large,
        "the output has 100000012 bytes, and `outputs.limit` (PINSCHED_OUTPUTS_LIMIT) allows 67108864: write the data to \
         object storage or a table in the task, and leave its name"
    );
    assert!(fatal("b'{'").await.starts_with("the output is not JSON"));
    assert!(fatal("b'\\xff\\xfe'").await.starts_with("the output is not JSON"));
    assert_eq!(fatal("b'[1]'").await, "the output is not a JSON object");
}

#[tokio::test]
async fn what_is_printed_is_logged_whatever_its_bytes_and_an_exception_shows_its_last_lines() {
    let folder = tempfile::tempdir().unwrap();
    let text = "import sys\nsys.stdout.buffer.write(b'caf\\xe9\\n')\nprint(sys.argv[1:])\nraise ValueError('too few')";
    fs::write(folder.path().join("task.py"), text).unwrap();
    let mut run = run_in(folder.path()).await;
    let mut attempt = run.claim("t").await;
    let config = json!({"script": "task.py", "op_args": ["a", 1, null]});
    let failure = attempts::run(&attempt.context, "python", config).await.unwrap_err();
    let Failure::Retry(text) = failure else { panic!("{failure:?}") };
    assert!(text.starts_with("the command exited with code 1; its last lines:"), "{text}");
    assert!(text.ends_with("ValueError: too few"), "{text}");
    let lines = attempt.log.lines();
    assert!(lines.contains(&"caf\u{fffd}".to_owned()) && lines.contains(&"['a', '1', 'null']".to_owned()), "{lines:?}");
}

/// A line of 200 MB is logged in pieces, and no more of it than an attempt may log.
#[tokio::test]
async fn a_line_without_an_end_is_logged_in_pieces_and_not_beyond_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("task.py"), "for _ in range(200): print('x' * 1_000_000, end='')").unwrap();
    let mut run = run_in(folder.path()).await;
    let mut attempt = run.claim("t").await;
    attempts::run(&attempt.context, "python", json!({"script": "task.py"})).await.unwrap();
    let lines = attempt.log.lines();
    assert!(lines.iter().all(|line| line.len() <= 128 * 1024), "{:?}", lines.iter().map(String::len).max());
    assert!(lines.iter().map(String::len).sum::<usize>() < 34 * 1024 * 1024);
    assert!(lines.last().unwrap().contains("further output is not logged"), "{}", lines.len());
}

#[tokio::test]
async fn skips_and_missing_interpreters_are_told_apart() {
    let skipped = |code: i32| Err(Failure::Skip(format!("the process exited with code {code}")));
    assert_eq!(script("import sys; sys.exit(99)", json!({})).await, skipped(99));
    assert_eq!(script("import sys; sys.exit(3)", json!({"skip_on_exit_code": 3})).await, skipped(3));
    let missing = script("pass", json!({"venv": "no/such"})).await;
    assert!(matches!(&missing, Err(Failure::Fatal(text)) if text.contains("is it installed?")), "{missing:?}");
    let hidden = "import os, sys; sys.exit(any(n.startswith('PINSCHED_') and n not in \
                  ('PINSCHED_CONTEXT', 'PINSCHED_OUTPUT') for n in os.environ))";
    assert!(script(hidden, json!({})).await.is_ok());
}

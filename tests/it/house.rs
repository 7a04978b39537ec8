//! The house rules, read off the files themselves: which room may use which, where SQL, printing and the environment
//! may stand, and that what is written down in several places says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pinsched::config::KEYS;
use pinsched::domain::check::{check, decode};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{TaskEvent, TaskState};
use regex::Regex;

/// The rooms from top to bottom, each with the rooms that it uses: only such as stand above it.
const ROOMS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("store", &["domain"]),
    ("connect", &[]),
    ("engine", &["clock", "domain", "store", "connect"]),
    ("operators", &["clock", "domain", "store", "connect", "engine"]),
    ("embedded", &["clock", "config", "connect"]),
    ("service", &["clock", "domain", "store", "engine", "operators"]),
    ("cli", &["clock", "config", "telemetry", "domain", "store", "engine", "operators", "embedded", "service"]),
];

/// A file larger than this has more than one thing in it.
const LARGEST_FILE: usize = 600;

struct Source {
    /// Below `src/`, as `store/runs.rs`.
    name: String,
    text: String,
}

impl Source {
    /// `store` of `store/runs.rs`, `clock` of `clock.rs`.
    fn room(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or_default()
    }

    /// The lines that are code, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_any_of(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.name == *place || (place.ends_with('/') && self.name.starts_with(place)))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut sources = Vec::new();
    for path in files_below(&src).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        sources.push(Source { name, text: fs::read_to_string(path).unwrap() });
    }
    assert!(sources.len() > 100, "the sources are found");
    sources
}

/// Every line of code outside `allowed` that matches, as `src/file.rs:line: text`.
fn offences(pattern: &str, allowed: &[&str]) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_any_of(allowed)) {
        let lines = source.code().filter(|(_, line)| pattern.is_match(line));
        found.extend(lines.map(|(number, line)| format!("src/{}:{number}: {}", source.name, line.trim())));
    }
    found
}

#[track_caller]
fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// The cells of a Markdown table's rows, of the table that follows this heading.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let section = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no `{heading}`")).1;
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The body of the first Mermaid picture of this kind.
fn mermaid<'a>(document: &'a str, kind: &str) -> &'a str {
    let start = format!("```mermaid\n{kind}");
    let body = document.split_once(&start).unwrap_or_else(|| panic!("there is no Mermaid picture {kind}")).1;
    body.split_once("```").unwrap().0
}

#[test]
fn each_room_uses_only_rooms_above_it() {
    for (index, (room, uses)) in ROOMS.iter().enumerate() {
        for used in *uses {
            assert!(ROOMS[..index].iter().any(|(above, _)| above == used), "{room} stands above {used}");
        }
    }
    let library = read("src/lib.rs");
    let listed: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(listed, ROOMS.iter().map(|(room, _)| *room).collect::<Vec<_>>(), "src/lib.rs lists them in this order");
    let arrow = Regex::new(r"\bcrate::(\{|[a-z_]+)").unwrap();
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_any_of(&["lib.rs", "main.rs"])) {
        let (room, uses) = ROOMS.iter().find(|(room, _)| *room == source.room()).expect("ROOMS has every room");
        for (number, line) in source.code() {
            for used in arrow.captures_iter(line).map(|captures| captures.get(1).unwrap().as_str()) {
                if used != *room && !uses.contains(&used) {
                    found.push(format!("src/{}:{number}: {used}", source.name));
                }
            }
        }
    }
    assert_none(&found, "a room uses what is not above it");
}

#[test]
fn the_picture_of_the_rooms_shows_these_arrows() {
    let architecture = read("ARCHITECTURE.md");
    let arrow = Regex::new(r"(?m)^\s*(\w+) --> (\w+)$").unwrap();
    let drawn: BTreeSet<(String, String)> = arrow
        .captures_iter(mermaid(&architecture, "flowchart"))
        .map(|captures| (captures[1].to_owned(), captures[2].to_owned()))
        .collect();
    let real: BTreeSet<(String, String)> = ROOMS
        .iter()
        .flat_map(|(room, uses)| uses.iter().map(|used| ((*room).to_owned(), (*used).to_owned())))
        .collect();
    assert_eq!(drawn, real);
}

#[test]
fn the_domain_is_pure() {
    let elsewhere: Vec<String> =
        ROOMS.iter().map(|(room, _)| *room).filter(|room| *room != "domain").map(|room| format!("{room}/")).collect();
    let mut allowed: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
    allowed.extend(["clock.rs", "telemetry.rs", "lib.rs", "main.rs"]);
    let io = r"\b(tokio|sqlx|reqwest|rdkafka|aws_sdk_s3|rustix|rand|tracing)::|\bstd::(fs|net|env|process|io|thread)\b|\b(Utc|Local|Instant|SystemTime)::now\b";
    assert_none(&offences(io, &allowed), "the domain does IO or reads a clock");
}

#[test]
fn sql_about_pinscheds_state_is_in_the_store_alone() {
    let created = Regex::new(r"CREATE TABLE (\w+)").unwrap();
    let mut tables = BTreeSet::new();
    for path in files_below(&root().join("migrations")) {
        let text = fs::read_to_string(path).unwrap();
        tables.extend(created.captures_iter(&text).map(|captures| captures[1].to_owned()));
    }
    assert!(tables.contains("task_run"));
    let tables: Vec<String> = tables.into_iter().collect();
    let statement = format!(r"\b(FROM|INTO|UPDATE|JOIN|TABLE) ({})\b", tables.join("|"));
    assert_none(&offences(&statement, &["store/"]), "SQL about pinsched's state outside of store");
    assert_none(
        &offences(r"\bquery(_as|_scalar|_file|_file_as|_file_scalar)?!", &["store/"]),
        "checked SQL outside of store",
    );
    // Users' databases, and the embedded cluster's own: there sqlx is a client like any other.
    let clients = [
        "store/",
        "connect/source/",
        "connect/sqlstate.rs",
        "operators/transform/postgres.rs",
        "embedded/postgres/",
        "embedded/source/",
    ];
    assert_none(&offences(r"\bsqlx::", &clients), "sqlx where no database is reached");
}

#[test]
fn a_task_moves_on_by_its_table_of_transitions_alone() {
    let statement = Regex::new(r#"UPDATE task_run\b[^"]*"#).unwrap();
    let assignments = Regex::new(r"(?s)\bSET\b(.*?)(\bWHERE\b|\bFROM\b|$)").unwrap();
    let state = Regex::new(r"\bstate\s*=").unwrap();
    let sets_state = |statement: &str| assignments.captures(statement).is_some_and(|set| state.is_match(&set[1]));
    let mut writers = Vec::new();
    for path in files_below(&root().join("src")) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if statement.find_iter(&text).any(|found| sets_state(found.as_str())) {
            writers.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    // The plan's moves, which name the state that they start from, and claims, of queued tasks only; and the end of a run
    // whose DAG nobody can read, so that no plan can be made; and what a person does, which `domain::control` decides.
    let known = [
        "src/store/sql/claim_limited.sql",
        "src/store/sql/control.sql",
        "src/store/sql/give_up_run.sql",
        "src/store/sql/step.sql",
        "src/store/sql/step_alone.sql",
    ];
    assert_eq!(writers, known);
    let asked = offences(
        r"\.next\((E::|TaskEvent::|event\))",
        &["domain/plan.rs", "domain/control.rs", "domain/task_state.rs"],
    );
    assert_none(&asked, "somebody but the plan moves a task on");
}

/// `--long` runs tests by their names, long after somebody could have renamed them.
#[test]
fn the_long_tests_are_there() {
    let script = fs::read_to_string(root().join("scripts/test")).unwrap();
    let list = script.split("LONG=(").nth(1).and_then(|rest| rest.split(')').next()).expect("a list");
    let names: Vec<&str> = list.split_whitespace().collect();
    assert!(!names.is_empty());
    for name in names {
        let (module, test) = name.rsplit_once("::").expect("a module and a test");
        let file = root().join("tests/it").join(module.replace("::", "/")).with_extension("rs");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let declared = text.find(&format!("fn {test}()")).unwrap_or_else(|| panic!("there is no test {name}"));
        let attributes = text[..declared].rsplit("\n\n").next().unwrap();
        assert!(attributes.contains("#[ignore"), "{name} runs with the others as well");
    }
}

/// The statement of a step that looks at nothing but its plans is the whole one without the parts for the queue.
#[test]
fn a_step_is_the_same_statement_with_and_without_the_queue() {
    let read = |name: &str| fs::read_to_string(root().join("src/store/sql").join(name)).unwrap();
    let after_words = |text: &str| text[text.find("WITH planned").unwrap()..].to_owned();
    let (mut is_of_the_queue, mut parts, mut rest) = (false, 0, String::new());
    for line in after_words(&read("step.sql")).lines() {
        match line.trim() {
            "-- queue {" => (is_of_the_queue, parts) = (true, parts + 1),
            "-- } queue" => is_of_the_queue = false,
            _ if is_of_the_queue => {}
            _ => rest += &format!("{line}\n"),
        }
    }
    assert_eq!(parts, 3);
    assert_eq!(after_words(&read("step_alone.sql")), rest);
}

#[test]
fn the_environment_is_read_by_config_alone() {
    // `bash` looks at the names only, to keep pinsched's own variables from its command.
    assert_none(
        &offences(r"\benv::vars?(_os)?\b", &["config/", "operators/process/mod.rs"]),
        "the environment is read",
    );
}

#[test]
fn only_the_output_prints() {
    // The exploration of the lease protocol is a test, and says how many states it saw.
    let may_print = ["cli/output.rs", "engine/lease_protocol.rs"];
    assert_none(&offences(r"\b(e?print(ln)?|dbg)!|\.print\(\)", &may_print), "something prints");
    // Progress is drawn over stderr; the stack's process tells its starter in one line how it went; logs go to stderr.
    let streams = ["cli/output.rs", "cli/progress.rs", "embedded/stack.rs", "telemetry.rs"];
    assert_none(&offences(r"\b(stdout|stderr)\(\)", &streams), "something writes to the process's streams");
}

#[test]
fn the_clock_is_read_in_one_place() {
    // tokio's own Instant is the clock of its timers, and for their deadlines only.
    assert_none(&offences(r"\b(Utc|Local|SystemTime|std::time::Instant)::now\b", &["clock.rs"]), "a clock is read");
}

#[test]
fn what_is_spawned_is_tracked() {
    // By a JoinSet or a TaskTracker. Blocking calls that are awaited where they are made are tracked by that.
    assert_none(&offences(r"\btokio::(task::)?spawn\(|\b(task|thread)::spawn\(", &[]), "a task that nobody waits for");
    // A client of librdkafka's may block while it is let go, and nothing depends on that; a query's handle aborts it.
    let known = ["connect/kafka/mod.rs", "operators/transform/datafusion/mod.rs"];
    assert_none(&offences(r"\b(runtime|handle)\.spawn", &known), "a task that nobody waits for");
}

#[test]
fn every_file_says_what_it_is_for_and_stays_readable() {
    let mut found = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if !source.text.starts_with("//!") {
            found.push(format!("src/{}: no module doc", source.name));
        }
        if lines > LARGEST_FILE {
            found.push(format!("src/{}: {lines} lines", source.name));
        }
    }
    assert_none(&found, "a file without a purpose, or with too many");
}

#[test]
fn the_state_machine_is_the_same_wherever_it_stands() {
    let states: BTreeSet<String> = TaskState::ALL.iter().map(ToString::to_string).collect();
    let events: BTreeSet<String> = TaskEvent::ALL.iter().map(ToString::to_string).collect();
    let runs: BTreeSet<String> = RunState::ALL.iter().map(|state| state.as_str().to_owned()).collect();
    assert_eq!(in_check("task_state_check"), states);
    assert_eq!(in_check("task_event_check"), events);
    assert_eq!(in_check("run_state_check"), runs);

    // store/rows.rs has no texts of its own: it goes through ALL.
    let rows = read("src/store/rows.rs");
    for through in ["TaskState::ALL", "TaskEvent::ALL", "RunState::ALL"] {
        assert!(rows.contains(through), "store/rows.rs does not go through {through}");
    }

    let mut real = BTreeSet::new();
    for from in TaskState::ALL {
        for event in TaskEvent::ALL {
            // A person's word counts in every state, which a line below the picture says.
            let is_a_persons = matches!(
                event,
                TaskEvent::Cleared | TaskEvent::MarkedSuccess | TaskEvent::MarkedFailed | TaskEvent::Reopened
            );
            if let Ok(to) = from.next(event)
                && !is_a_persons
            {
                real.insert((from.to_string(), to.to_string(), event.to_string()));
            }
        }
    }
    let architecture = read("ARCHITECTURE.md");
    let diagram = mermaid(&architecture, "stateDiagram-v2");
    let step = Regex::new(r"(?m)^\s*(\w+) --> (\w+): (.+)$").unwrap();
    let mut drawn = BTreeSet::new();
    for captures in step.captures_iter(diagram) {
        for event in captures[3].split(", ") {
            drawn.insert((captures[1].to_owned(), captures[2].to_owned(), event.to_owned()));
        }
    }
    assert_eq!(drawn, real);
    let last = Regex::new(r"(?m)^\s*(\w+) --> \[\*\]$").unwrap();
    let ends: BTreeSet<String> = last.captures_iter(diagram).map(|captures| captures[1].to_owned()).collect();
    let finals = TaskState::ALL.iter().filter(|state| state.is_final()).map(ToString::to_string).collect();
    assert_eq!(ends, finals);
}

/// Beside fixtures a snapshot has the name of its fixture, elsewhere that of its test or one that the test gives it.
#[test]
fn every_snapshot_is_some_tests() {
    let mut sources = String::new();
    let (mut snapshots, mut orphans) = (0, Vec::new());
    for folder in ["src", "tests"] {
        for path in files_below(&root().join(folder)).iter().filter(|path| path.to_string_lossy().ends_with(".rs")) {
            sources.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    for path in files_below(&root().join("tests")).iter().filter(|path| path.to_string_lossy().ends_with(".snap")) {
        snapshots += 1;
        let stem = path.file_stem().unwrap().to_str().unwrap();
        // A test's second snapshot has a number behind its name; a form that is drawn, an ending.
        let name = stem.rsplit("__").next().unwrap_or_default();
        let test = name.rsplit_once('-').map_or(name, |(test, _)| test);
        let is_form = name.split_once('.').is_some_and(|(drawn, _)| sources.contains(&format!("\"{drawn}.")));
        let is_named = sources.contains(&format!("fn {test}(")) || sources.contains(&format!("\"{name}\"")) || is_form;
        if !is_named && !path.with_extension("yaml").exists() {
            orphans.push(path.display().to_string());
        }
    }
    assert!(snapshots > 0, "the snapshots are found");
    assert_none(&orphans, "a snapshot that no test compares with");
}

/// The texts that the constraint of this name lists in the newest migration that has it.
fn in_check(constraint: &str) -> BTreeSet<String> {
    let mut last = None;
    for path in
        files_below(&root().join("migrations")).into_iter().filter(|path| path.to_string_lossy().ends_with(".up.sql"))
    {
        let text = fs::read_to_string(path).unwrap();
        last = text.split_once(&format!("CONSTRAINT {constraint} ")).map(|(_, rest)| rest.to_owned()).or(last);
    }
    let rest = last.unwrap_or_else(|| panic!("no migration has {constraint}"));
    let list = rest.split_once(" IN").unwrap().1;
    let list = list.split_once(')').unwrap().0;
    list.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn migrations_are_dated_explained_and_can_be_taken_back() {
    let mut pairs: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let name = Regex::new(r"^(\d{14}_[a-z_]+)\.(up|down)\.sql$").unwrap();
    for path in files_below(&root().join("migrations")) {
        let file = path.file_name().unwrap().to_str().unwrap();
        let captures = name.captures(file).unwrap_or_else(|| panic!("{file}: <date>_<what>.up.sql or .down.sql"));
        let direction = if &captures[2] == "up" { "up" } else { "down" };
        pairs.entry(captures[1].to_owned()).or_default().insert(direction);
        let text = fs::read_to_string(&path).unwrap();
        assert!(direction == "down" || text.starts_with("-- "), "{file} does not say what it is for");
    }
    assert!(!pairs.is_empty());
    let dates: BTreeSet<&str> = pairs.keys().filter_map(|migration| migration.split('_').next()).collect();
    assert_eq!(dates.len(), pairs.len(), "two migrations have one date, which is their version");
    for (migration, directions) in pairs {
        assert_eq!(directions.len(), 2, "{migration} has an up and a down");
    }
}

#[test]
fn the_readme_tells_of_every_setting() {
    let rows = table(&read("README.md"), "## Configuration");
    let told: Vec<&str> = rows.iter().map(|row| quoted(&row[0])[0]).filter(|name| !name.ends_with(".<name>")).collect();
    let real: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(told, real);
    for key in KEYS {
        let row = rows.iter().find(|row| quoted(&row[0])[0] == key.name).expect("it was just compared");
        assert_eq!(quoted(&row[1]), key.variables, "the variables of `{}`", key.name);
        match key.default {
            Some(default) => assert_eq!(row[2], format!("`{default}`"), "the default of `{}`", key.name),
            None => assert_eq!(row[2].contains("embedded"), key.embedded, "the default of `{}`", key.name),
        }
        assert_eq!(row[3], key.about, "`{}`", key.name);
    }
}

#[test]
fn the_readme_tells_of_every_operator_and_its_keys() {
    let rows = table(&read("README.md"), "## The DAG file");
    let told = |row: &Vec<String>| {
        let keys: BTreeSet<String> =
            row[2].split(", ").flat_map(|cell| quoted(cell).into_iter().take(1)).map(str::to_owned).collect();
        (quoted(&row[0])[0].to_owned(), keys)
    };
    let told: BTreeMap<String, BTreeSet<String>> = rows.iter().map(told).collect();
    let real: BTreeMap<String, BTreeSet<String>> = pinsched::operators::catalog()
        .into_iter()
        .map(|kind| {
            let schema = (kind.schema)();
            let keys =
                schema.get("properties").and_then(|properties| properties.as_object()).cloned().unwrap_or_default();
            (kind.name.to_owned(), keys.keys().cloned().collect())
        })
        .collect();
    assert_eq!(told, real);
}

#[test]
fn the_dag_files_that_are_shown_are_valid() {
    let mut files = Vec::new();
    let pages = [root().join("README.md")].into_iter().chain(files_below(&root().join("docs")));
    for path in pages.chain(files_below(&root().join("dags"))) {
        let text = || fs::read_to_string(&path).unwrap();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("yaml") => files.push((path.display().to_string(), text())),
            Some("md") => {
                let text = text();
                // What is no whole file is fenced as `yaml fragment`.
                let blocks = text.split("```yaml\n").skip(1).map(|block| block.split_once("```").unwrap().0.to_owned());
                files.extend(blocks.map(|block| (path.display().to_string(), block)));
            }
            _ => {}
        }
    }
    for shown in ["README.md", "docs/schedules.md", "dags/daily.yaml"] {
        assert!(files.iter().any(|(name, _)| name.ends_with(shown)), "{shown} shows DAGs");
    }
    for (name, text) in files {
        let Ok(file) = decode(&name, text.into_bytes()) else { panic!("{name} is no text") };
        let checked = check(&file, &pinsched::operators::catalog());
        let said: Vec<String> = checked.diagnostics.iter().map(|diagnostic| diagnostic.render(&file, false)).collect();
        assert_eq!(said, Vec::<String>::new());
    }
}

#[test]
fn the_readme_tells_of_every_command() {
    let rows = table(&read("README.md"), "## Commands");
    let first_word = |usage: &str| usage.split(' ').next().unwrap_or_default().to_owned();
    let told: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[0])).map(first_word).collect();
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_pinsched")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split_once("Commands:\n").unwrap().1.lines().take_while(|line| !line.is_empty());
    let named =
        commands.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).map(|line| first_word(line.trim()));
    assert_eq!(told, named.filter(|name| name != "help").collect());
}

#[test]
fn the_readme_gives_a_reason_for_every_dependency() {
    let rows = table(&read("README.md"), "## Dependencies");
    let told: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let names = |section: &str| manifest[section].as_table().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let real: BTreeSet<String> = names("dependencies").union(&names("dev-dependencies")).cloned().collect();
    assert_eq!(told, real);
}

#[test]
fn the_tests_that_architecture_names_exist() {
    let architecture = read("ARCHITECTURE.md");
    let mut functions = BTreeSet::new();
    let function = Regex::new(r"fn (\w+)\(").unwrap();
    for folder in ["src", "tests"] {
        for path in files_below(&root().join(folder)).iter().filter(|path| path.to_string_lossy().ends_with(".rs")) {
            let text = fs::read_to_string(path).unwrap();
            functions.extend(function.captures_iter(&text).map(|captures| captures[1].to_owned()));
        }
    }
    let rows = table(&architecture, "## Invariants");
    assert!(!rows.is_empty());
    for row in rows {
        for test in quoted(&row[2]) {
            let name = test.rsplit("::").next().unwrap_or_default();
            assert!(functions.contains(name), "ARCHITECTURE.md names the test `{test}`, which does not exist");
        }
    }
}

#[test]
fn the_books_summary_has_every_page_by_its_title() {
    let docs = root().join("docs");
    let pages = files_below(&docs).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut wanted: Vec<String> = pages
        .filter(|path| !path.ends_with("SUMMARY.md"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let title = text.lines().next().unwrap().trim_start_matches("# ").to_owned();
            format!("- [{title}]({})", path.strip_prefix(&docs).unwrap().display())
        })
        .collect();
    wanted.sort();
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut listed: Vec<String> = summary.lines().filter(|line| line.starts_with("- ")).map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, wanted);
}

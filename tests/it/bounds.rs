//! Programs of tasks that do what none should: they are kept within bounds, and nothing else suffers.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pinsched::engine::operator::{Failure, Processes};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use uuid::Uuid;

use crate::attempts::{self, Attempt, TestRun};
use crate::bash::dies;
use crate::services;
use crate::stack::scratch::{PROGRAM, not_run};

/// Longer than any of these takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Fewer than a fork bomb makes in a blink.
const LIMIT: u32 = 64;

async fn bound() -> TestRun {
    let mut run = TestRun::start().await;
    run.processes = Processes { limit: NonZeroU32::new(LIMIT), are_traced: false };
    run
}

/// Whether tasks get cgroups here: as root where the machine lets it.
async fn has_cgroups(run: &mut TestRun) -> bool {
    let output = run.run("probe", "bash", json!({"bash_command": "grep -c pinsched- /proc/self/cgroup || true"})).await;
    let has = output.unwrap()["return_value"] != "0";
    if !has {
        not_run("nothing here bounds the processes of root");
    }
    has
}

/// The processes whose command line has this word in it.
fn named(word: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.parse::<u32>().is_ok());
    // A process may be gone by the time its line is read.
    let has = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    };
    let own = std::process::id().to_string();
    pids.filter(has).filter(|pid| *pid != own).collect()
}

/// Counts such processes every now and then for as long as the work goes on: what it gave, and the most there were.
async fn counting<T>(word: &str, work: impl Future<Output = T>) -> (T, usize) {
    let mut work = std::pin::pin!(tokio::time::timeout(Duration::from_secs(60), work));
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let mut most = 0;
    loop {
        tokio::select! {
            done = &mut work => return (done.expect("it ends within a minute"), most),
            _ = tick.tick() => most = most.max(named(word).len()),
        }
    }
}

#[tokio::test]
async fn a_fork_bomb_is_bound_and_wholly_gone() {
    let mut run = bound().await;
    if !has_cgroups(&mut run).await {
        return;
    }
    let bomb = format!("bomb_{}", Uuid::new_v4().simple());
    // It goes on behind a command that has ended, and succeeded.
    let config = json!({"bash_command": format!("{bomb}() {{ {bomb} | {bomb} & }}; {bomb}")});
    let (ended, most) = counting(&bomb, run.run("t", "bash", config)).await;
    let Err(Failure::Retry(text)) = ended else { panic!("it left a bomb behind: {ended:?}") };
    // The command itself may be the one that could not start another.
    assert!(
        text.starts_with("the command ended and left processes behind")
            || text.starts_with("the command exited with code"),
        "{text}"
    );
    let why = " once it had as many processes as a task may have, 64 (`engine.max_processes_per_task`)";
    assert!(text.contains(why), "{text}");
    assert!((8..=LIMIT as usize).contains(&most), "{most} at once");
    assert_eq!(named(&bomb), BTreeSet::new());
    // It never ends, and is told to stop.
    let Attempt { context, .. } = run.claim("t").await;
    let config = json!({"bash_command": format!("{bomb}() {{ {bomb} | {bomb}; }}; {bomb}")});
    let stopped = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while named(&bomb).len() < LIMIT as usize / 2 {
            tick.tick().await;
        }
        context.cancel.cancel();
    };
    let (((), ended), most) =
        counting(&bomb, async { tokio::join!(stopped, attempts::run(&context, "bash", config)) }).await;
    let Err(Failure::Retry(text)) = ended else { panic!("it was told to stop: {ended:?}") };
    assert!(text.starts_with("the command was told to stop"), "{text}");
    assert!(most <= LIMIT as usize, "{most} at once");
    assert_eq!(named(&bomb), BTreeSet::new());
    let after = run.run("t", "bash", json!({"bash_command": "seq 3 | tail -1"})).await;
    assert_eq!(after.unwrap()["return_value"], "3");
}

#[tokio::test]
async fn what_leaves_its_group_ends_with_the_task_all_the_same() {
    let mut run = bound().await;
    if !has_cgroups(&mut run).await {
        return;
    }
    let command = "setsid sleep 600 >/dev/null 2>&1 & echo $!";
    let output = run.run("t", "bash", json!({"bash_command": command})).await.unwrap();
    dies(output["return_value"].as_str().unwrap()).await;
}

/// Makes a cgroup two below the task's own, whose folder is `$nested` then.
const NESTED: &str = "own=$(sed -n 's/^[0-9]*:[a-z,]*pids[a-z,]*:\\|^0:://p' /proc/self/cgroup | grep pinsched-)
for root in /sys/fs/cgroup/pids /sys/fs/cgroup; do
    if [ -d $root$own ]; then nested=$root$own/.hidden/below; mkdir -p $nested; break; fi
done";

#[tokio::test]
async fn what_is_in_a_cgroup_below_the_tasks_own_ends_with_the_task_and_nothing_is_left_of_it() {
    let mut run = bound().await;
    if !has_cgroups(&mut run).await {
        return;
    }
    let command = format!(
        "{NESTED}
sh -c \"echo 0 > $nested/cgroup.procs; exec setsid sleep 600\" >/dev/null 2>&1 &
until grep -qx $! $nested/cgroup.procs; do :; done
echo $! $nested"
    );
    let output = run.run("t", "bash", json!({"bash_command": command})).await.unwrap();
    let (pid, nested) = output["return_value"].as_str().unwrap().split_once(' ').unwrap();
    dies(pid).await;
    let own = Path::new(nested).parent().and_then(Path::parent).unwrap();
    assert!(own.to_string_lossy().contains("pinsched-") && !own.exists(), "{}", own.display());
}

/// Not a test of its own: the process that the next one kills.
#[tokio::test]
#[ignore = "`a_killed_pinsched_takes_along_what_left_its_group` runs it"]
#[expect(clippy::print_stdout, reason = "that test reads the process id there")]
async fn a_command_whose_child_leaves_its_group() {
    let mut run = bound().await;
    if !has_cgroups(&mut run).await {
        println!("\nnone");
        return;
    }
    let Attempt { context, mut log } = run.claim("slow").await;
    let printed = async { println!("\ngrandchild {}", log.next_line().await) };
    // It leaves its group, and its cgroup for one below.
    let command = format!(
        "{NESTED}\nsh -c \"echo 0 > $nested/cgroup.procs; exec setsid sleep 600\" & pid=$!
until grep -qx $pid $nested/cgroup.procs; do :; done
echo $pid; wait"
    );
    let _ = tokio::join!(printed, attempts::run(&context, "bash", json!({"bash_command": command})));
}

#[tokio::test]
async fn a_killed_pinsched_takes_along_what_left_its_group() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "bounds::a_command_whose_child_leaves_its_group", "--ignored", "--nocapture"]);
    let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it says which process it started");
            if let Some(pid) = line.strip_prefix("grandchild ") {
                return Some(pid.to_owned());
            }
            if line == "none" {
                return None;
            }
        }
    });
    let Some(grandchild) = found.await.expect("in time") else { return };
    process.kill().await.unwrap();
    dies(&grandchild).await;
}

/// `pinsched run` on a database of the test's own, in that folder: about to start.
async fn run_of(folder: &Path, program: &[&str]) -> Command {
    let url = services::database().await;
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args(["run", "dag.yaml", "--output", "json", "--home", "home"]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_clear().env("PATH", env!("PATH")).env("DATABASE_URL", url.expose_secret());
    // Nothing embedded is started for what no task uses.
    command
        .env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
        .env("PINSCHED_S3_ENDPOINT_URL", "http://127.0.0.1:9");
    command.env("PINSCHED_SOURCE_URL", "postgres://127.0.0.1:9/nothing");
    command
}

#[tokio::test]
async fn an_ordinary_users_fork_bomb_is_bound_by_what_the_user_may_have() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bomb = format!("bomb_{}", Uuid::new_v4().simple());
    let dag = format!(
        "bad:
  tasks:
    bomb: {{operator: bash, execution_timeout: 3, bash_command: '{bomb}() {{ {bomb} | {bomb}; }}; {bomb}'}}
    fine: {{operator: bash, bash_command: 'seq 3 | tail -1', dependencies: [bomb], trigger_rule: all_done}}
"
    );
    std::fs::write(folder.path().join("dag.yaml"), dag).unwrap();
    std::fs::create_dir(folder.path().join("home")).unwrap();
    // The build's folder may be out of that user's reach.
    let program = folder.path().join("pinsched");
    std::fs::copy(PROGRAM, &program).unwrap();
    let all = ["chown", "-R", "65534:65534"];
    assert!(Command::new(all[0]).args(&all[1..]).arg(folder.path()).status().await.unwrap().success());
    let program = program.to_str().unwrap();
    let as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", program];
    let mut command = run_of(folder.path(), &as_nobody).await;
    command.env("PINSCHED_MAX_PROCESSES_PER_TASK", LIMIT.to_string());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let there: usize = load.split(' ').nth(3).unwrap().split('/').nth(1).unwrap().parse().unwrap();
    let (answer, most) = counting(&bomb, command.output()).await;
    let answer = answer.unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    let run: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}\n{stderr}"));
    let task = |id: &str| run["tasks"].as_array().unwrap().iter().find(|task| task["task_id"] == id).unwrap().clone();
    let error = task("bomb")["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("it ran longer than its execution_timeout of 3 s"), "{error}");
    assert!(error.contains("Resource temporarily unavailable"), "{error}");
    assert_eq!(task("fine")["state"], "success", "{run}");
    // Others start and end processes meanwhile: half as many again are far from what a bomb makes in three seconds.
    assert!(most <= (there + LIMIT as usize) * 3 / 2, "{most} at once, where {there} were before");
    assert_eq!(named(&bomb), BTreeSet::new());
}

/// The most memory that the process ever held, in bytes.
fn most_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[tokio::test]
async fn a_line_of_a_gigabyte_takes_no_memory_and_fills_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let dag = "loud:
  tasks:
    line: {operator: bash, bash_command: \"head -c 1000000000 /dev/zero | tr '\\\\0' x; echo; echo the end\"}
";
    std::fs::write(folder.path().join("dag.yaml"), dag).unwrap();
    let child = run_of(folder.path(), &[PROGRAM]).await.spawn().unwrap();
    let pid = child.id().unwrap();
    let mut done = std::pin::pin!(tokio::time::timeout(PATIENCE, child.wait_with_output()));
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut most = 0;
    let answer = loop {
        tokio::select! {
            answer = &mut done => break answer.expect("it ends").unwrap(),
            _ = tick.tick() => most = most_memory(pid).unwrap_or_default().max(most),
        }
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    let run: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}\n{stderr}"));
    assert_eq!(run["tasks"][0]["output"]["return_value"], "the end", "{run}");
    assert!((1..400 << 20).contains(&most), "it held {most} bytes");
}

#[tokio::test]
async fn text_that_is_none_does_no_harm_wherever_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let dag = r#"odd:
  tasks:
    says: {operator: bash, bash_command: "printf 'a\\xffb\\xfe'; printf 'c\\xff\n' >&2"}
    names: {operator: bash, bash_command: "touch $'\\xff.txt'; ls; env | grep ODD", dependencies: [says]}
    leaves: {operator: python, script: leaves.py, dependencies: [names], retries: 0}
    after: {operator: bash, bash_command: echo fine, dependencies: [leaves], trigger_rule: all_done}
"#;
    std::fs::write(folder.path().join("dag.yaml"), dag).unwrap();
    let script = "import os\nopen(os.environ['PINSCHED_OUTPUT'], 'wb').write(b'{\"a\": \"\\xff\"}')\n";
    std::fs::write(folder.path().join("leaves.py"), script).unwrap();
    // A file of another name beside it, whose text is none either.
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff.yaml"));
    std::fs::write(odd, b"x: \xff").unwrap();
    let mut command = run_of(folder.path(), &[PROGRAM]).await;
    command.env("ODD", std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    let answer = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    let run: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}\n{stderr}"));
    let task = |id: &str| run["tasks"].as_array().unwrap().iter().find(|task| task["task_id"] == id).unwrap().clone();
    assert_eq!(task("says")["output"]["return_value"], "a\u{fffd}b\u{fffd}c\u{fffd}", "{run}");
    assert_eq!(task("names")["output"]["return_value"], "ODD=\u{fffd}\u{fffd}", "{run}");
    assert_eq!(task("leaves")["state"], "failed", "{run}");
    assert!(task("leaves")["error"].as_str().unwrap().contains("is not JSON"), "{run}");
    assert_eq!(task("after")["state"], "success", "{run}");
    let mut validate = Command::new(PROGRAM);
    validate.args(["validate", "."]).current_dir(folder.path()).env_clear();
    let answer = validate.output().await.unwrap();
    let said = String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr);
    assert_eq!(answer.status.code(), Some(1), "{said}");
    assert!(said.contains("UTF-8"), "{said}");
}

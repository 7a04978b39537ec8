//! `script`: a real operator that does what its task's script says, attempt by attempt, and tells the test of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pinsched::domain::operator_kind::{ConfigProblem, OperatorKind};
use pinsched::domain::plan::Skips;
use pinsched::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

pub static REGISTRATIONS: &[Registration] = &[Registration { kind: &KIND, build }];

pub static KIND: OperatorKind = OperatorKind {
    name: "script",
    class_paths: &[],
    about: "Does what the test says",
    schema: || schemars::schema_for!(Script),
    check: |config| match Script::deserialize(config) {
        Ok(_) => Vec::new(),
        Err(error) => vec![ConfigProblem { path: Vec::new(), message: error.to_string(), help: None }],
    },
    late_fields: &[],
    file_keys: &[],
};

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Script {
    /// What each attempt does, in order of their fences; the last goes on for all further ones.
    #[serde(default)]
    acts: Vec<Act>,
    /// Left in the output.
    #[serde(default)]
    say: String,
}

#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Act {
    /// Ends well.
    Succeed,
    /// Fails; another attempt may help.
    Fail,
    /// Fails for good.
    Refuse,
    /// Fails for good, with what it has to say.
    Tell,
    /// Panics.
    Panic,
    /// Runs until it is told to stop.
    Hang,
    /// Runs until it is told to stop, and has something to say of it.
    Complain,
    /// Runs until its future is dropped, whatever it is told.
    Ignore,
    /// Ends well when the test opens its gate.
    Gate,
    /// Fails when the test opens its gate; another attempt may help.
    FailAtGate,
    /// Logs a line every few milliseconds until the test opens its gate.
    Chat,
    /// Logs 800,000 lines at once and ends well.
    Flood,
    /// Fails with words that Postgres's text cannot hold.
    GarbleError,
    /// Says that there is nothing to do.
    Skip,
    /// Ends well, and keeps what is right after it from running.
    SkipNext,
    /// Ends well, and keeps all that comes after it from running.
    SkipDownstream,
    /// Ends well when the test opens its gate, and keeps what is right after it from running.
    SkipNextAtGate,
    /// Ends well with an output that Postgres's JSON cannot hold.
    GarbleOutput,
}

/// What the attempts of a run did so far, and which gates the test has opened.
#[derive(Debug, Default)]
pub struct Scene {
    open: BTreeSet<String>,
    /// Every attempt that began, in order.
    pub attempts: Vec<Performed>,
}

/// An attempt that began.
#[derive(Debug, Clone)]
pub struct Performed {
    pub task: String,
    pub fence: i64,
    pub ended: bool,
    /// Whether another attempt of the task was still running when it began.
    pub overlapped: bool,
}

impl Scene {
    /// Whether that attempt of that task runs now.
    pub fn is_running(&self, task: &str, fence: i64) -> bool {
        self.attempts.iter().any(|at| at.task == task && at.fence == fence && !at.ended)
    }

    /// Whether that attempt of that task began and is over.
    pub fn is_over(&self, task: &str, fence: i64) -> bool {
        self.attempts.iter().any(|at| at.task == task && at.fence == fence && at.ended)
    }

    /// Whether any attempt of that task runs now.
    pub fn runs(&self, task: &str) -> bool {
        self.attempts.iter().any(|at| at.task == task && !at.ended)
    }
}

/// The test's side of a run's scripts.
#[derive(Debug, Clone)]
pub struct Stage {
    scene: watch::Sender<Scene>,
}

impl Stage {
    /// The stage of the run with that uuid.
    pub fn of(run: Uuid) -> Self {
        static STAGES: LazyLock<Mutex<HashMap<Uuid, Stage>>> = LazyLock::new(Mutex::default);
        let mut stages = STAGES.lock().unwrap();
        stages.entry(run).or_insert_with(|| Self { scene: watch::Sender::new(Scene::default()) }).clone()
    }

    /// Lets the task's `gate` and `chat` acts end, those to come too.
    pub fn open(&self, task: &str) {
        self.scene.send_modify(|scene| {
            scene.open.insert(task.to_owned());
        });
    }

    /// Waits until the scene is as `wanted`.
    pub async fn wait_for(&self, what: &str, wanted: impl FnMut(&Scene) -> bool) {
        let mut receiver = self.scene.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(60), receiver.wait_for(wanted)).await;
        assert!(waited.is_ok_and(|scene| scene.is_ok()), "waited 60 s for {what}: {:?}", self.attempts());
    }

    /// What began so far.
    pub fn attempts(&self) -> Vec<Performed> {
        self.scene.borrow().attempts.clone()
    }

    fn begin(&self, task: &str, fence: i64) -> Performance {
        self.scene.send_modify(|scene| {
            let overlapped = scene.runs(task);
            scene.attempts.push(Performed { task: task.to_owned(), fence, ended: false, overlapped });
        });
        Performance { stage: self.clone(), task: task.to_owned(), fence }
    }

    async fn opened(&self, task: &str) {
        let mut receiver = self.scene.subscribe();
        receiver.wait_for(|scene| scene.open.contains(task)).await.expect("the stage is never taken down");
    }
}

/// An attempt at work; over when it is dropped, however it came to that.
struct Performance {
    stage: Stage,
    task: String,
    fence: i64,
}

impl Drop for Performance {
    fn drop(&mut self) {
        self.stage.scene.send_modify(|scene| {
            let mine = |at: &&mut Performed| at.task == self.task && at.fence == self.fence;
            for performed in scene.attempts.iter_mut().filter(mine) {
                performed.ended = true;
            }
        });
    }
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Script>(config)?))
}

#[async_trait]
impl Operator for Script {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let instance = context.map_index.map(|index| format!("[{index}]")).unwrap_or_default();
        let task = format!("{}{instance}", context.task_id);
        let task = task.as_str();
        let stage = Stage::of(context.attempt.run_uuid);
        let fence = context.attempt.fence;
        let _performance = stage.begin(task, fence);
        let nth = usize::try_from(fence - 1).unwrap_or(usize::MAX);
        context.log.line(format!("attempt {} begins", context.attempt.try_number));
        match self.acts.get(nth).or(self.acts.last()).copied().unwrap_or(Act::Succeed) {
            Act::Succeed => {}
            Act::Fail => return Err(Failure::Retry("exit status 1".to_owned())),
            Act::Refuse => return Err(Failure::Fatal("no such table".to_owned())),
            Act::Tell => return Err(Failure::Fatal(format!("it says {}", self.say))),
            Act::Panic => panic!("index out of bounds"),
            Act::Hang => {
                context.cancel.cancelled().await;
                return Err(Failure::Interrupted);
            }
            Act::Complain => {
                context.cancel.cancelled().await;
                return Err(Failure::Retry("half of it was done".to_owned()));
            }
            Act::Ignore => std::future::pending().await,
            Act::Gate => tokio::select! {
                () = stage.opened(task) => {}
                () = context.cancel.cancelled() => return Err(Failure::Interrupted),
            },
            Act::FailAtGate => tokio::select! {
                () = stage.opened(task) => return Err(Failure::Retry("the source went away".to_owned())),
                () = context.cancel.cancelled() => return Err(Failure::Interrupted),
            },
            Act::Chat => chat(context, &stage, task).await?,
            Act::Flood => (0..800_000).for_each(|n| context.log.line(format!("line {n} of a quite long log"))),
            Act::Skip => return Err(Failure::Skip("nothing is new".to_owned())),
            Act::SkipNext => context.choice.skip(Skips::Next),
            Act::SkipDownstream => context.choice.skip(Skips::Downstream),
            Act::SkipNextAtGate => tokio::select! {
                () = stage.opened(task) => context.choice.skip(Skips::Next),
                () = context.cancel.cancelled() => return Err(Failure::Interrupted),
            },
            Act::GarbleError => return Err(Failure::Retry("half a\0word".to_owned())),
            Act::GarbleOutput => return Ok(object(json!({"said": "half a\0word", "in\0side": ["\0"]}))),
        }
        context.log.line("done");
        Ok(object(json!({"said": self.say, "attempt": context.attempt.try_number})))
    }
}

async fn chat(context: &TaskContext, stage: &Stage, task: &str) -> Result<(), Failure> {
    let mut word = tokio::time::interval(Duration::from_millis(20));
    let mut count = 0;
    loop {
        tokio::select! {
            () = stage.opened(task) => return Ok(()),
            () = context.cancel.cancelled() => return Err(Failure::Interrupted),
            _ = word.tick() => {
                count += 1;
                context.log.line(format!("word {count}"));
            }
        }
    }
}

fn object(value: Value) -> Output {
    let Value::Object(object) = value else { panic!("an output is an object: {value}") };
    object
}

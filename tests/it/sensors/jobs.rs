//! `http_job` against a service that counts what it is asked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Json;
use axum::routing::{get, post};
use pinsched::clock;
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::engine::operator::Failure;
use pinsched::store::{Mode, Request, Word};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Stand;
use crate::attempts::{self, Attempt, TestRun};

/// What the service was asked, and how its job stands.
struct Asked {
    keys: Vec<String>,
    cancellations: usize,
    state: &'static str,
    is_mute: bool,
}

#[derive(Clone)]
struct Jobs {
    asked: Arc<Mutex<Asked>>,
    submitted: Arc<Notify>,
}

impl Jobs {
    async fn serve(servers: &mut JoinSet<()>) -> (Self, SocketAddr) {
        let asked = Asked { keys: Vec::new(), cancellations: 0, state: "running", is_mute: false };
        let jobs = Self { asked: Arc::new(Mutex::new(asked)), submitted: Arc::new(Notify::new()) };
        let router = Router::new()
            .route("/jobs", post(submit))
            .route("/jobs/7", get(state).delete(cancel))
            .with_state(jobs.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (jobs, address)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Asked) -> T) -> T {
        look(&mut self.asked.lock().unwrap())
    }
}

async fn submit(State(jobs): State<Jobs>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let is_mute = jobs.with(|asked| {
        asked.keys.push(headers["idempotency-key"].to_str().unwrap().to_owned());
        asked.is_mute
    });
    jobs.submitted.notify_one();
    if is_mute {
        std::future::pending::<()>().await;
    }
    (StatusCode::ACCEPTED, Json(json!({"id": 7})))
}

async fn state(State(jobs): State<Jobs>) -> Json<Value> {
    Json(json!({"status": jobs.with(|asked| asked.state), "rows": 3}))
}

async fn cancel(State(jobs): State<Jobs>) -> StatusCode {
    jobs.with(|asked| asked.cancellations += 1);
    StatusCode::NO_CONTENT
}

fn config(address: SocketAddr, more: Value) -> Value {
    let mut config = json!({
        "url": format!("http://{address}/jobs"),
        "json": {"table": "pins"},
        "status_url": format!("http://{address}/jobs/{{{{ response.body.id }}}}"),
        "cancel_url": format!("http://{address}/jobs/{{{{ response.body.id }}}}"),
        "success_states": ["done"],
        "failure_states": ["broken"],
        "poke_interval": "20ms",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// Runs an attempt until its log has that many lines, and then drops it as a death of its process does.
async fn died(run: &mut TestRun, config: Value, lines: usize) {
    let Attempt { context, mut log } = run.claim("job").await;
    let saying = async {
        for _ in 0..lines {
            log.next_line().await;
        }
    };
    tokio::select! {
        ended = attempts::run(&context, "http_job", config) => panic!("it ended: {ended:?}"),
        () = saying => {}
    }
}

#[tokio::test]
async fn an_attempt_that_died_is_followed_by_one_that_goes_on_with_its_job() {
    let mut servers = JoinSet::new();
    let (jobs, address) = Jobs::serve(&mut servers).await;
    let mut run = TestRun::start().await;
    died(&mut run, config(address, json!({})), 2).await;
    jobs.with(|asked| asked.state = "done");
    let Attempt { context, mut log } = run.claim("job").await;
    let output = attempts::run(&context, "http_job", config(address, json!({}))).await.unwrap();
    assert_eq!(log.lines(), ["goes on with the job that an earlier attempt submitted"]);
    assert_eq!((&output["state"], &output["return_value"]["rows"]), (&json!("done"), &json!(3)));
    assert_eq!(jobs.with(|asked| (asked.keys.len(), asked.cancellations)), (1, 0));
}

#[tokio::test]
async fn one_that_died_before_the_answer_submits_again_with_its_key() {
    let mut servers = JoinSet::new();
    let (jobs, address) = Jobs::serve(&mut servers).await;
    let mut run = TestRun::start().await;
    jobs.with(|asked| asked.is_mute = true);
    let Attempt { context, log: _log } = run.claim("job").await;
    tokio::select! {
        ended = attempts::run(&context, "http_job", config(address, json!({}))) => panic!("it ended: {ended:?}"),
        () = jobs.submitted.notified() => {}
    }
    jobs.with(|asked| (asked.is_mute, asked.state) = (false, "done"));
    run.run("job", "http_job", config(address, json!({}))).await.unwrap();
    let keys = jobs.with(|asked| asked.keys.clone());
    assert_eq!((keys.len(), BTreeSet::from_iter(keys).len()), (2, 1), "twice, by one key");
}

#[tokio::test]
async fn a_job_ends_badly_or_is_cancelled_with_its_task_and_not_with_its_process() {
    let mut servers = JoinSet::new();
    let (jobs, address) = Jobs::serve(&mut servers).await;
    let mut run = TestRun::start().await;
    jobs.with(|asked| asked.state = "broken");
    let failure = run.run("broken", "http_job", config(address, json!({}))).await;
    assert_eq!(failure, Err(Failure::Retry("the job ended as `broken`".to_owned())));
    jobs.with(|asked| asked.state = "running");
    let failure = run.run("late", "http_job", config(address, json!({"timeout": "1ms"}))).await;
    assert!(matches!(failure, Err(Failure::Fatal(_))), "{failure:?}");
    assert_eq!(jobs.with(|asked| asked.cancellations), 1, "patience ended");

    for (why, cancellations) in [("shutdown", 1), ("timeout", 2), ("cancel", 3)] {
        let Attempt { context, mut log } = run.claim(why).await;
        let stopping = async {
            log.next_line().await;
            match why {
                "timeout" => context.timed_out.cancel(),
                "cancel" => {
                    let asked = run.store.request_cancel(context.attempt.task_run.run, clock::now()).await;
                    assert!(asked.unwrap().is_some());
                }
                _ => {}
            }
            context.cancel.cancel();
        };
        let (ended, ()) = tokio::join!(attempts::run(&context, "http_job", config(address, json!({}))), stopping);
        assert_eq!(ended, Err(Failure::Interrupted));
        assert_eq!(jobs.with(|asked| asked.cancellations), cancellations, "{why}");
    }
}

#[tokio::test]
async fn a_job_outlives_the_service_that_submitted_it() {
    let mut servers = JoinSet::new();
    let (jobs, address) = Jobs::serve(&mut servers).await;
    let task = config(address, json!({"operator": "http_job"}));
    let text = json!({"waits": {"schedule": "none", "tasks": {"job": task}}}).to_string();
    let (mut stand, victim) = Stand::with(1, &text).await;
    let run = stand.trigger("waits").await;
    stand.until_tasks(&run, 1, TaskState::Deferred).await;
    victim.abort();
    stand.start().await;
    stand.until("the takeover", async |house| house.store.task_runs(run.key).await.unwrap()[0].fence == 2).await;
    jobs.with(|asked| asked.state = "done");
    assert_eq!(stand.ended(&run).await, RunState::Success);
    assert_eq!(stand.picture(&run).await, "  job  success          attempt 1");
    assert_eq!(jobs.with(|asked| (asked.keys.len(), asked.cancellations)), (1, 0));
    stand.stop().await;
}

/// What a person takes away from a worker is over for the other service, too.
#[tokio::test]
async fn a_job_is_cancelled_with_a_task_that_is_marked_or_cleared_while_it_waits() {
    for (action, keys) in [(Action::MarkSuccess, 1), (Action::Clear, 2)] {
        let mut servers = JoinSet::new();
        let (jobs, address) = Jobs::serve(&mut servers).await;
        let task = config(address, json!({"operator": "http_job"}));
        let text = json!({"waits": {"schedule": "none", "tasks": {"job": task}}}).to_string();
        let (stand, _service) = Stand::with(1, &text).await;
        let run = stand.trigger("waits").await;
        stand.until_tasks(&run, 1, TaskState::Deferred).await;
        let request = Request { action, tasks: &[], reach: Reach::default(), words: "by a test" };
        let store = &stand.house.store;
        store.change_tasks(run.key, &super::dag(&text, "waits"), request, Mode::Do, clock::now()).await.unwrap();
        store.tell(Word::Look).await.unwrap();
        store.tell(Word::Work).await.unwrap();
        stand.until("the cancellation", async |_| jobs.with(|asked| asked.cancellations) == 1).await;
        jobs.with(|asked| asked.state = "done");
        assert_eq!(stand.ended(&run).await, RunState::Success);
        let asked = jobs.with(|asked| asked.keys.clone());
        assert_eq!(
            (asked.len(), BTreeSet::from_iter(asked).len()),
            (keys, keys),
            "{action:?}: a try has a job of its own"
        );
        stand.stop().await;
    }
}

//! A run as a trace of OpenTelemetry's: its spans, made from what the state says after the fact, as OTLP's JSON.
//!
//! Ids follow from the run and its attempts, so that a trace which is sent twice is the same, and so that a program
//! which a task starts can be told of its span before there is one. <https://opentelemetry.io/docs/specs/otlp/>

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::ids::{AttemptKey, DagId, RunId, TaskId, TaskIndex};
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::domain::task_state::AttemptOutcome;

/// So many spans at most are in one request: some hundred kilobytes, where receivers take some megabytes.
const SPANS_A_REQUEST: usize = 500;

/// OTLP's number for a span within a process.
const INTERNAL: u8 = 1;

/// What a trace tells of a run.
#[derive(Debug, Clone)]
pub struct TracedRun {
    /// The trace's id.
    pub uuid: Uuid,
    /// The DAG.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// What made it.
    pub run_type: RunType,
    /// How it ended.
    pub state: RunState,
    /// Its logical date.
    pub logical_date: Timestamp,
    /// When it was created.
    pub queued_at: Timestamp,
    /// When it began; when it was created, where it never did.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Why it did not succeed.
    pub error: Option<String>,
}

/// What a trace tells of an attempt.
#[derive(Debug, Clone)]
pub struct TracedAttempt {
    /// Its task.
    pub task: TaskIndex,
    /// The task's id.
    pub task_id: TaskId,
    /// The task's operator; none where the DAG does not have the task any more.
    pub operator: Option<String>,
    /// Which instance of a mapped task it is of.
    pub map_index: Option<u32>,
    /// Its fence.
    pub fence: i64,
    /// The try that it belongs to.
    pub try_number: i32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How.
    pub outcome: AttemptOutcome,
    /// Why it failed.
    pub error: Option<String>,
}

/// The requests, in order, that tell a collector of a run: the run's own span first, then its attempts', which stand
/// in the order of tasks and fences.
#[must_use]
pub fn requests(resource: &[(String, String)], run: &TracedRun, attempts: &[TracedAttempt]) -> Vec<Value> {
    let mut spans = vec![run_span(run)];
    let mut before: Option<&TracedAttempt> = None;
    for attempt in attempts {
        let retried = before.filter(|before| before.task == attempt.task);
        spans.push(attempt_span(run, attempt, retried));
        before = Some(attempt);
    }
    let resource: Vec<Value> = resource.iter().map(|(key, value)| text(key, value)).collect();
    let scope = json!({"name": "pinsched", "version": env!("CARGO_PKG_VERSION")});
    let request = |spans: &[Value]| {
        let spans = json!({"scope": scope, "spans": spans});
        json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [spans]}]})
    };
    spans.chunks(SPANS_A_REQUEST).map(request).collect()
}

/// W3C's header, and variable, by which a program that an attempt starts joins its trace.
#[must_use]
pub fn traceparent(attempt: &AttemptKey) -> String {
    let trace = attempt.run_uuid.simple();
    format!("00-{trace}-{}-01", span_id(attempt.run_uuid, Some((attempt.task_run.task, attempt.fence))))
}

/// The id of an attempt's span, or of the run's own.
fn span_id(run: Uuid, attempt: Option<(TaskIndex, i64)>) -> String {
    let mut digest = Sha256::new_with_prefix(run.as_bytes());
    if let Some((task, fence)) = attempt {
        digest.update(task.0.to_be_bytes());
        digest.update(fence.to_be_bytes());
    }
    let digest = digest.finalize();
    let id: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // All zeros is no id.
    if id.bytes().all(|digit| digit == b'0') { "0000000000000001".to_owned() } else { id }
}

fn run_span(run: &TracedRun) -> Value {
    json!({
        "traceId": run.uuid.simple().to_string(),
        "spanId": span_id(run.uuid, None),
        "name": run.dag_id.as_str(),
        "kind": INTERNAL,
        "startTimeUnixNano": nanoseconds(run.started_at),
        "endTimeUnixNano": nanoseconds(run.finished_at),
        "attributes": [
            text("dag_id", run.dag_id.as_str()),
            text("run_id", run.run_id.as_str()),
            text("run_type", run.run_type.as_str()),
            text("state", run.state.as_str()),
            text("logical_date", &run.logical_date.to_rfc3339()),
            text("queued_at", &run.queued_at.to_rfc3339()),
        ],
        "status": match run.state {
            RunState::Success => json!({"code": 1}),
            _ => error(run.error.as_deref()),
        },
    })
}

fn attempt_span(run: &TracedRun, attempt: &TracedAttempt, retried: Option<&TracedAttempt>) -> Value {
    let trace = run.uuid.simple().to_string();
    let mut attributes = vec![
        text("dag_id", run.dag_id.as_str()),
        text("run_id", run.run_id.as_str()),
        text("run_type", run.run_type.as_str()),
        text("task_id", attempt.task_id.as_str()),
        number("try_number", i64::from(attempt.try_number)),
        text("state", attempt.outcome.as_str()),
    ];
    attributes.extend(attempt.operator.as_deref().map(|operator| text("operator", operator)));
    attributes.extend(attempt.map_index.map(|index| number("map_index", i64::from(index))));
    let links: Vec<Value> = retried
        .map(|before| {
            let span = span_id(run.uuid, Some((before.task, before.fence)));
            let what = [text("link", "the attempt before")];
            json!({"traceId": trace, "spanId": span, "attributes": what})
        })
        .into_iter()
        .collect();
    json!({
        "traceId": trace,
        "spanId": span_id(run.uuid, Some((attempt.task, attempt.fence))),
        "parentSpanId": span_id(run.uuid, None),
        "name": format!("{}.{}", run.dag_id, attempt.task_id),
        "kind": INTERNAL,
        "startTimeUnixNano": nanoseconds(attempt.started_at),
        "endTimeUnixNano": nanoseconds(attempt.finished_at),
        "attributes": attributes,
        "links": links,
        "status": match attempt.outcome {
            AttemptOutcome::Success => json!({"code": 1}),
            AttemptOutcome::Skipped => json!({}),
            AttemptOutcome::Failed
            | AttemptOutcome::Interrupted
            | AttemptOutcome::Lost
            | AttemptOutcome::Cancelled => error(attempt.error.as_deref().or(Some(attempt.outcome.as_str()))),
        },
    })
}

fn error(message: Option<&str>) -> Value {
    json!({"code": 2, "message": message.unwrap_or_default()})
}

/// Protobuf's JSON has 64-bit numbers as text.
fn nanoseconds(at: Timestamp) -> String {
    at.timestamp_nanos_opt().unwrap_or_default().to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{RunKey, TaskRunKey};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(second, 0).unwrap()
    }

    fn run() -> TracedRun {
        TracedRun {
            uuid: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            dag_id: "orders".parse().unwrap(),
            run_id: "manual__1".parse().unwrap(),
            run_type: RunType::Manual,
            state: RunState::Failed,
            logical_date: at(0),
            queued_at: at(1),
            started_at: at(2),
            finished_at: at(9),
            error: Some("task `load`: no".to_owned()),
        }
    }

    fn attempt(task: u32, fence: i64) -> TracedAttempt {
        TracedAttempt {
            task: TaskIndex(task),
            task_id: "load".parse().unwrap(),
            operator: Some("bash".to_owned()),
            map_index: None,
            fence,
            try_number: 1,
            started_at: at(2),
            finished_at: at(3),
            outcome: AttemptOutcome::Failed,
            error: Some("no".to_owned()),
        }
    }

    fn spans(requests: &[Value]) -> Vec<&Value> {
        requests.iter().flat_map(|one| one["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()).collect()
    }

    #[test]
    fn a_program_is_told_of_the_span_that_its_attempt_will_be() {
        let run = run();
        let made = requests(&[], &run, &[attempt(3, 7)]);
        let span = spans(&made)[1];
        let task_run = TaskRunKey { run: RunKey(1), task: TaskIndex(3) };
        let told = traceparent(&AttemptKey { run_uuid: run.uuid, task_run, try_number: 1, fence: 7 });
        let (trace, id) = (span["traceId"].as_str().unwrap(), span["spanId"].as_str().unwrap());
        assert_eq!(told, format!("00-{trace}-{id}-01"));
    }

    #[test]
    fn each_attempt_is_a_child_of_the_run_and_linked_to_the_one_before() {
        let made = requests(&[], &run(), &[attempt(0, 1), attempt(0, 2), attempt(1, 1)]);
        let spans = spans(&made);
        assert!(spans[1..].iter().all(|span| span["parentSpanId"] == spans[0]["spanId"]));
        assert_eq!(spans[2]["links"][0]["spanId"], spans[1]["spanId"]);
        assert_eq!((&spans[1]["links"], &spans[3]["links"]), (&json!([]), &json!([])));
        assert_eq!(spans[0]["status"], json!({"code": 2, "message": "task `load`: no"}));
        assert_eq!(spans[0]["startTimeUnixNano"], "2000000000");
    }

    #[test]
    fn many_spans_are_several_requests_and_each_span_is_in_one() {
        let attempts: Vec<_> = (0..1_200).map(|task| attempt(task, 1)).collect();
        let made = requests(&[], &run(), &attempts);
        let ids: std::collections::BTreeSet<_> = spans(&made).iter().map(|span| span["spanId"].as_str()).collect();
        assert_eq!((made.len(), spans(&made).len(), ids.len()), (3, 1_201, 1_201));
    }
}

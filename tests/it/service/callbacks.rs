//! Callbacks and deadlines: each tells once, of what happened and of nothing else, whoever was away meanwhile.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::TimeDelta;
use pinsched::clock;
use pinsched::connect::NamedSettings;
use pinsched::connect::notify::signature;
use pinsched::domain::callbacks::Event;
use pinsched::domain::ids::RunKey;
use pinsched::domain::run_state::RunState;
use pinsched::store::Notification;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Served;
use crate::dags::House;
use crate::engine::drive;
use crate::receivers::{MailBox, Receiver};
use crate::script::Stage;

async fn notifications(house: &House, run: RunKey) -> Vec<Notification> {
    house.store.notifications(run).await.unwrap()
}

/// Waits until everything that happened in the run was sent or given up, and gives it.
async fn settled(served: &Served, run: RunKey) -> Vec<Notification> {
    let look = async |house: &House| {
        let all = notifications(house, run).await;
        let is_over =
            |one: &Notification| one.sent_at.is_some() || one.dropped_at.is_some() || one.event == Event::Deadline;
        (!all.is_empty() && all.iter().all(is_over)).then_some(all)
    };
    served.until("the callbacks to be sent", look).await
}

/// PEERS: callbacks are lost, or come twice.
#[tokio::test]
async fn each_event_is_told_once_though_two_services_look() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let text = format!(
        "orders:
  on_failure: {{webhook: {{url: '{url}/dag', secret: hush, headers: {{X-Team: '{{{{ dag.dag_id }}}}'}}}}}}
  on_success: {{webhook: {{url: '{url}/dag'}}}}
  default_args:
    on_failure: {{webhook: {{url: '{url}/task'}}}}
    on_success: {{webhook: {{url: '{url}/task'}}}}
    on_retry: {{webhook: {{url: '{url}/task'}}}}
  tasks:
    flaky: {{operator: script, acts: [fail, succeed], retries: 1, retry_delay: 0.05}}
    bad: {{operator: script, acts: [fail, refuse], retries: 3, retry_delay: 0.05, dependencies: [flaky]}}
    after: {{operator: script, dependencies: [bad]}}"
    );
    let mut served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(&text, "1").await;
    assert_eq!(served.ended(&run).await, RunState::Failed);
    let all = settled(&served, run.key).await;
    assert!(all.iter().all(|one| one.sent_at.is_some() && one.attempts == 1), "{all:?}");
    assert_eq!(
        receiver.told(),
        [
            "failure of bad, try 2",
            "failure of the run",
            "retry of bad, try 1",
            "retry of flaky, try 1",
            "success of flaky, try 2"
        ]
    );
    let bodies = receiver.bodies();
    let of_run = bodies.iter().find(|body| body["task"].is_null()).unwrap();
    assert_eq!(of_run["error"], json!("task `bad`: no such table"));
    assert_eq!((&of_run["dag_id"], &of_run["state"]), (&json!("orders"), &json!("failed")));
    let retry = bodies.iter().find(|body| body["event"] == json!("retry")).unwrap();
    assert_eq!(retry["error"], json!("exit status 1"));

    let got = receiver.got();
    let (headers, body) = got.iter().find(|(headers, _)| headers.contains_key("x-pinsched-signature")).unwrap();
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signed = header("x-pinsched-signature");
    let second = signed.split_once(',').unwrap().0.strip_prefix("t=").unwrap().parse().unwrap();
    assert_eq!(signed, signature(&SecretString::from("hush"), second, body));
    assert_eq!(header("x-team"), "orders");
    let id = serde_json::from_slice::<Value>(body).unwrap()["id"].clone();
    assert_eq!(id, json!(header("idempotency-key")));
    served.stop().await;
}

#[tokio::test]
async fn a_deadline_fires_while_the_task_runs_and_once_and_one_that_is_kept_does_not() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let text = format!(
        "orders:
  deadline: 1s
  on_deadline: {{webhook: {{url: '{url}/dag'}}}}
  default_args: {{on_deadline: {{webhook: {{url: '{url}/task'}}}}}}
  tasks:
    quick: {{operator: script, deadline: 500ms}}
    slow: {{operator: script, acts: [fail, gate], retries: 1, retry_delay: 0.05, deadline: 500ms}}"
    );
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(&text, "1").await;
    let missed = async |_: &House| (receiver.told().len() >= 2).then_some(());
    served.until("the deadlines", missed).await;
    assert!(Stage::of(run.uuid).attempts().iter().any(|attempt| attempt.task == "slow" && !attempt.ended));
    Stage::of(run.uuid).open("slow");
    assert_eq!(served.ended(&run).await, RunState::Success);
    let kept = async |house: &House| {
        let all = notifications(house, run.key).await;
        all.iter().all(|one| one.sent_at.is_some() || one.dropped_at.is_some()).then_some(all)
    };
    let all = served.until("the deadline that was kept", kept).await;
    assert_eq!(receiver.told(), ["deadline of slow, try 1", "deadline of the run"]);
    assert_eq!(all.iter().filter(|one| one.dropped_at.is_some()).count(), 1, "{all:?}");
    served.stop().await;
}

/// The run's own process dies right after the last step; who comes next tells of it, also of a deadline that was missed
/// while nobody was there.
#[tokio::test]
async fn what_happened_before_a_kill_is_told_after_it() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let text = format!(
        "orders:
  deadline: {{after: logical_date, within: 1h}}
  on_deadline: {{webhook: {{url: '{url}/dag'}}}}
  on_success: {{webhook: {{url: '{url}/dag'}}}}
  tasks: {{one: {{operator: script}}}}"
    );
    let served = Served::nothing().await;
    let play = served.house.play(&text).await;
    assert_eq!(drive(&served.house, &play).await, RunState::Success);
    assert_eq!(receiver.told(), Vec::<String>::new());
    let before = notifications(&served.house, play.run.key).await;
    assert_eq!(before.len(), 2, "written with the run's end: {before:?}");

    // Another process takes both, and dies before it has sent them: they are its own for a while, and then are not.
    let now = clock::now();
    let store = &served.house.store;
    assert_eq!(store.claim_notifications(None, 8, now).await.unwrap().len(), 2);
    assert_eq!(store.claim_notifications(None, 8, now + TimeDelta::seconds(60)).await.unwrap().len(), 0);
    let again = store.claim_notifications(None, 8, now + TimeDelta::seconds(91)).await.unwrap();
    assert_eq!(again.len(), 2, "they are to be sent all the same");
    for due in again {
        store.note_unsent(due.id, "its process was killed", Some(now), now).await.unwrap();
    }
    let mut served = served;
    served.start().await;
    let all = settled(&served, play.run.key).await;
    let sent = async |_: &House| (receiver.told().len() == 2).then_some(());
    served.until("both", sent).await;
    assert_eq!(receiver.told(), ["deadline of the run", "success of the run"], "{all:?}");
    served.stop().await;
}

#[tokio::test]
async fn a_receiver_in_trouble_is_told_again_and_one_that_refuses_is_not() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let text = format!(
        "orders:
  on_success: {{webhook: {{url: '{url}/hook/tok3n'}}}}
  tasks: {{one: {{operator: script}}}}"
    );
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    receiver.answer(&[StatusCode::INTERNAL_SERVER_ERROR]);
    let run = served.trigger(&text, "1").await;
    let all = settled(&served, run.key).await;
    assert_eq!(receiver.told().len(), 2);
    assert_eq!((all.len(), all[0].attempts), (1, 2));
    assert!(all[0].sent_at.is_some() && all[0].error.is_none());
    let ids: Vec<Value> = receiver.bodies().iter().map(|body| body["id"].clone()).collect();
    assert_eq!(ids[0], ids[1], "its receiver knows that it is the same");

    receiver.answer(&[StatusCode::NOT_FOUND]);
    let run = served.trigger(&text, "2").await;
    let all = settled(&served, run.key).await;
    assert_eq!(all[0].error.as_deref(), Some("127.0.0.1 answered with 404 Not Found"));
    assert!(all[0].dropped_at.is_some() && all[0].attempts == 1);
    served.stop().await;
}

#[tokio::test]
async fn slack_and_mail_are_told_through_airflows_connections() {
    let (mut servers, receiver, mailbox) = (JoinSet::new(), Receiver::default(), MailBox::default());
    let url = receiver.serve(&mut servers).await;
    let port = mailbox.serve(&mut servers).await;
    let text = "orders:
  default_args:
    on_failure:
      - slack: {conn_id: chat, text: '{{ ti.task_id }} is {{ state }} at {{ ds }}: {{ error }}', channel: '#data'}
      - email: {to: [ann@example.org, bob@example.org], subject: '{{ dag.dag_id }}: try {{ try_number }}'}
  tasks: {one: {operator: script, acts: [refuse]}}";
    let mail = json!({"conn_type": "smtp", "host": "127.0.0.1", "port": port,
        "extra": {"from_email": "pinsched@example.org", "disable_ssl": true, "disable_tls": true}});
    let chat = json!({"conn_type": "slackwebhook", "host": format!("{url}/services"), "password": "T0/B0/x"});
    let connections = [("smtp_default", mail), ("chat", chat)];
    let connections: BTreeMap<_, _> =
        connections.map(|(id, text)| (id.to_owned(), SecretString::from(text.to_string()))).into();
    let mut served = Served::nothing().await;
    served.write("orders.yaml", text);
    served.start_with(NamedSettings { connections, ..NamedSettings::default() }).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    let all = settled(&served, run.key).await;
    assert!(all.iter().all(|one| one.sent_at.is_some()), "{all:?}");
    let day = run.logical_date.format("%Y-%m-%d");
    let text = format!("one is failed at {day}: no such table");
    assert_eq!(receiver.bodies(), [json!({"text": text, "channel": "#data"})]);
    let mails = mailbox.mails();
    assert_eq!(mails.len(), 1);
    for part in [
        "RCPT TO:<ann@example.org>",
        "RCPT TO:<bob@example.org>",
        "From: pinsched@example.org",
        "Subject: orders: try 1",
        "orders.one failed",
    ] {
        assert!(mails[0].contains(part), "{part}: {}", mails[0]);
    }
    served.stop().await;
}

/// PEERS: a run that takes too long is noticed only when it ends.
#[tokio::test]
async fn a_run_that_takes_too_long_is_cancelled_with_its_reason_and_told_of() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let text = format!(
        "orders:
  dagrun_timeout: 1s
  on_failure: {{webhook: {{url: '{url}/dag'}}}}
  tasks: {{one: {{operator: script, acts: [hang]}}, two: {{operator: script, dependencies: [one]}}}}"
    );
    let reason = "it ran longer than its dagrun_timeout of 1 s";
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(&text, "1").await;
    assert_eq!(served.ended(&run).await, RunState::Failed);
    let stored = served.house.store.run(run.key).await.unwrap().unwrap();
    assert_eq!(stored.cancel_reason.as_deref(), Some(reason));
    settled(&served, run.key).await;
    assert_eq!(receiver.bodies()[0]["error"], json!(reason));
    served.stop().await;

    let house = House::open().await;
    let play = house.play(&text).await;
    assert_eq!(drive(&house, &play).await, RunState::Failed, "also where one process drives it alone");
    let stored = house.store.run(play.run.key).await.unwrap().unwrap();
    assert_eq!(stored.cancel_reason.as_deref(), Some(reason));
}

#[tokio::test]
async fn runs_without_callbacks_leave_nothing_in_the_outbox() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {one: {operator: script}, two: {operator: script, acts: [refuse]}}}").await;
    drive(&house, &play).await;
    assert_eq!(notifications(&house, play.run.key).await, []);
}

//! Tells somebody what happened: renders a callback of a DAG file for a notification of the outbox, sends it, and notes what
//! became of that.
//!
//! It is at least once: a process that dies after sending and before noting so leaves it to be sent again, under the same id.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::connect::notify::{Mail, MailServer, NotifyError, Post, Security, post, send_mail, signature};
use crate::domain::Timestamp;
use crate::domain::callbacks::{Callback, Channel, Event};
use crate::domain::connection::Connection;
use crate::domain::dag::Task;
use crate::domain::ids::RunKey;
use crate::domain::template::{TemplateScope, Wanted};
use crate::engine::lookup::{Lookup, LookupError};
use crate::engine::operator::chain;
use crate::engine::running::RunningRun;
use crate::engine::versions::Versions;
use crate::store::{Due, Run, Store, StoreError};

/// How many are sent at once.
const BATCH: i64 = 8;

/// The waits between tries.
const WAITS: Waits = Waits { first: TimeDelta::seconds(2), longest: TimeDelta::minutes(30) };

/// A receiver that was away for a day is not told any more.
const PATIENCE: TimeDelta = TimeDelta::hours(24);

/// The connection that mail goes through unless a callback names another, as in Airflow.
const MAIL_CONNECTION: &str = "smtp_default";

/// Sends what the outbox has.
#[derive(Clone)]
pub struct Notifier {
    store: Store,
    versions: Arc<Versions>,
    lookup: Lookup,
}

impl From<LookupError> for NotifyError {
    fn from(error: LookupError) -> Self {
        match &error {
            _ if error.is_transient() => Self::Again(chain(&error)),
            _ => Self::Never(chain(&error)),
        }
    }
}

impl From<StoreError> for NotifyError {
    fn from(error: StoreError) -> Self {
        Self::Again(chain(&error))
    }
}

/// What a receiver is told.
struct Notice<'a> {
    due: &'a Due,
    run: &'a Run,
    task: Option<&'a Task>,
    /// Which instance of a mapped task.
    map_index: Option<u32>,
    error: Option<String>,
}

impl Notifier {
    /// Looks the DAGs of runs up there, and connections and variables there.
    #[must_use]
    pub fn new(store: Store, versions: Arc<Versions>, lookup: Lookup) -> Self {
        Self { store, versions, lookup }
    }

    /// Sends what is due, of one run or of all; says how many were due.
    ///
    /// # Errors
    /// When the database does not answer; what was not noted is sent again.
    pub async fn send_due(&self, of: Option<RunKey>) -> Result<usize, StoreError> {
        let due = self.store.claim_notifications(of, BATCH, clock::now()).await?;
        let sent = futures::future::join_all(due.iter().map(|due| self.settle(due))).await;
        sent.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(due.len())
    }

    /// Whether something of a run that happened is still to be told.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_more(&self, run: RunKey) -> Result<bool, StoreError> {
        Ok(self.store.unsent_notifications(run, clock::now()).await? > 0)
    }

    async fn settle(&self, due: &Due) -> Result<(), StoreError> {
        let told = self.tell(due).await;
        let now = clock::now();
        let (words, again) = match told {
            Ok(()) => return self.store.note_sent(due.id, now).await,
            Err(NotifyError::Again(words)) => (words, WAITS.next_try(due.attempts, due.happened_at, None, now)),
            Err(NotifyError::Never(words)) => (words, None),
        };
        let words = self.lookup.masks().mask(&words).into_owned();
        if again.is_none() {
            tracing::error!(run.key = due.run.0, event = %due.event, error = %words, "a callback was given up");
        }
        self.store.note_unsent(due.id, &words, again, now).await
    }

    async fn tell(&self, due: &Due) -> Result<(), NotifyError> {
        let never = |words: &str| NotifyError::Never(words.to_owned());
        let run = self.store.run(due.run).await?.ok_or_else(|| never("the run is gone"))?;
        let dag =
            self.versions.of_run(&self.store, &run).await?.map_err(|error| NotifyError::Never(error.to_string()))?;
        let running = RunningRun::new(&run, dag);
        let (task, map_index) = match due.task {
            Some(index) if running.dag.task(index).is_none() => {
                let mut found = self.store.instances(due.run, &[index]).await?;
                let (map_of, instance) =
                    found.remove(&index).ok_or_else(|| never("the instance that it tells of was cleared away"))?;
                (running.dag.task(map_of), Some(instance.map_index))
            }
            index => (index.and_then(|index| running.dag.task(index)), None),
        };
        let callbacks = task.map_or(&running.dag.settings.callbacks, |task| &task.callbacks);
        let callback = callbacks.of(due.event).get(due.place).ok_or_else(|| never("the DAG has no such callback"))?;
        let error = match (&due.reason, due.task, due.event) {
            (None, None, Event::Failure) => first_failure(&self.store, due.run).await?,
            (reason, ..) => reason.clone(),
        };
        let notice = Notice { due, run: &run, task, map_index, error };
        let config = self.rendered(callback, &running, &notice).await?;
        match callback.channel {
            Channel::Webhook => post(self.webhook(&config, &notice)?).await,
            Channel::Slack => post(self.slack(&config, &notice).await?).await,
            Channel::Email => self.mail(&config, &notice).await,
        }
    }

    async fn rendered(
        &self,
        callback: &Callback,
        running: &RunningRun,
        notice: &Notice<'_>,
    ) -> Result<Map<String, Value>, NotifyError> {
        let mut extra = json!({
            "event": notice.due.event.as_str(),
            "state": notice.due.event.state(),
            "error": notice.error,
        });
        if notice.task.is_some() {
            extra["try_number"] = notice.due.round.into();
        }
        let named = self.lookup.named(&Wanted::in_config(&callback.config)).await?;
        let scope = TemplateScope::for_callback(&running.facts, notice.task, extra).with_named(named);
        match scope.render_config(&callback.config, &[]) {
            Ok(Value::Object(config)) => Ok(config),
            Ok(_) => Err(NotifyError::Never("the callback is no mapping".to_owned())),
            Err(error) => Err(NotifyError::Never(error.to_string())),
        }
    }

    fn webhook(&self, config: &Map<String, Value>, notice: &Notice<'_>) -> Result<Post, NotifyError> {
        let url = SecretString::from(needed(config, "url")?);
        let body = notice.facts().to_string().into_bytes();
        let mut headers: Vec<(String, SecretString)> = Vec::new();
        for (name, value) in config.get("headers").and_then(Value::as_object).into_iter().flatten() {
            headers.push((name.clone(), SecretString::from(as_text(value))));
        }
        headers.push(("Idempotency-Key".to_owned(), notice.due.uuid.to_string().into()));
        headers.push(("User-Agent".to_owned(), concat!("pinsched/", env!("CARGO_PKG_VERSION")).into()));
        if let Some(secret) = config.get("secret").map(as_text).filter(|secret| !secret.is_empty()) {
            let secret = SecretString::from(secret);
            self.lookup.masks().add([&secret]);
            let signed = signature(&secret, clock::now().timestamp(), &body);
            headers.push(("X-Pinsched-Signature".to_owned(), signed.into()));
        }
        Ok(Post { url, headers, body })
    }

    async fn slack(&self, config: &Map<String, Value>, notice: &Notice<'_>) -> Result<Post, NotifyError> {
        let url = match config.get("conn_id") {
            Some(id) => slack_url(&self.lookup.connection(&as_text(id)).await?)?,
            None => SecretString::from(needed(config, "webhook_url")?),
        };
        self.lookup.masks().add([&url]);
        let text = config.get("text").map_or_else(|| notice.sentence(), as_text);
        let mut body = json!({ "text": text });
        if let Some(channel) = config.get("channel") {
            body["channel"] = as_text(channel).into();
        }
        Ok(Post { url, headers: Vec::new(), body: body.to_string().into_bytes() })
    }

    async fn mail(&self, config: &Map<String, Value>, notice: &Notice<'_>) -> Result<(), NotifyError> {
        let id = config.get("conn_id").map_or_else(|| MAIL_CONNECTION.to_owned(), as_text);
        let connection = self.lookup.connection(&id).await?;
        let (server, from) = mail_server(&connection)?;
        let to = match config.get("to") {
            Some(Value::Array(items)) => items.iter().map(as_text).collect(),
            Some(one) => as_text(one).split(',').map(|address| address.trim().to_owned()).collect(),
            None => Vec::new(),
        };
        let subject = config.get("subject").map_or_else(|| notice.heading(), as_text);
        let body = config.get("body").map_or_else(|| format!("{}\n", notice.sentence()), as_text);
        send_mail(&server, Mail { id: notice.due.uuid.to_string(), from, to, subject, body }).await
    }
}

impl Notice<'_> {
    /// All of it, for programs.
    fn facts(&self) -> Value {
        let (run, due) = (self.run, self.due);
        json!({
            "id": due.uuid.to_string(),
            "event": due.event.as_str(),
            "state": due.event.state(),
            "at": due.happened_at.to_rfc3339(),
            "dag_id": run.dag_id.as_str(),
            "run_id": run.run_id.as_str(),
            "run_uuid": run.uuid.to_string(),
            "run_type": run.run_type.as_str(),
            "logical_date": run.logical_date.to_rfc3339(),
            "started_at": run.started_at.map(|at| at.to_rfc3339()),
            "finished_at": run.finished_at.map(|at| at.to_rfc3339()),
            "error": self.error,
            "task": self.task.map(|task| json!({
                "task_id": task.id.as_str(),
                "operator": task.operator,
                "try_number": due.round,
                "map_index": self.map_index.map_or(-1, i64::from),
            })),
        })
    }

    /// What happened, in a few words.
    fn heading(&self) -> String {
        let dag = &self.run.dag_id;
        let which = self.map_index.map(|index| format!("[{index}]")).unwrap_or_default();
        let what = self.task.map_or_else(|| dag.to_string(), |task| format!("{dag}.{}{which}", task.id));
        match self.due.event {
            Event::Failure => format!("{what} failed"),
            Event::Success => format!("{what} succeeded"),
            Event::Retry => format!("{what} failed in try {} and is tried again", self.due.round),
            Event::Deadline => format!("{what} has missed its deadline of {}", self.due.happened_at.to_rfc3339()),
        }
    }

    /// The same with the run and the error.
    fn sentence(&self) -> String {
        let error = self.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        format!("{} (run {}){error}", self.heading(), self.run.run_id)
    }
}

/// Which task of a run failed first, with its error.
pub(super) async fn first_failure(store: &Store, run: RunKey) -> Result<Option<String>, StoreError> {
    Ok(store.first_failure(run).await?.map(|(task, error)| match error {
        Some(error) => format!("task `{task}`: {error}"),
        None => format!("task `{task}` failed"),
    }))
}

/// How long it waits between tries of telling somebody.
pub(super) struct Waits {
    /// After a first failure; each further wait is twice as long.
    pub(super) first: TimeDelta,
    /// The longest one.
    pub(super) longest: TimeDelta,
}

impl Waits {
    /// When what happened at that instant, and was tried so often, is tried again, not before so long as the receiver asked
    /// for; not any more after a day, unless it was hardly tried.
    pub(super) fn next_try(
        &self,
        attempts: i32,
        happened_at: Timestamp,
        asked: Option<Duration>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(16);
        let wait = self.first.checked_mul(1 << doublings).map_or(self.longest, |wait| wait.min(self.longest));
        let asked = asked.map(|asked| TimeDelta::from_std(asked).unwrap_or(TimeDelta::MAX));
        let wait = asked.map_or(wait, |asked| wait.max(asked));
        let again = now.checked_add_signed(wait)?;
        (again - happened_at < PATIENCE || (attempts < 3 && wait < PATIENCE)).then_some(again)
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn needed(config: &Map<String, Value>, key: &str) -> Result<String, NotifyError> {
    let text = config.get(key).map(as_text).filter(|text| !text.is_empty());
    text.ok_or_else(|| NotifyError::Never(format!("its `{key}` is empty")))
}

/// The address of Airflow's `slackwebhook` connection: the host, and the password behind it.
fn slack_url(connection: &Connection) -> Result<SecretString, NotifyError> {
    use secrecy::ExposeSecret;
    let host = connection.host.as_deref().unwrap_or("https://hooks.slack.com/services");
    let host = if host.contains("://") {
        host.to_owned()
    } else {
        format!("{}://{host}", connection.schema.as_deref().unwrap_or("https"))
    };
    let host = match connection.port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    };
    let Some(password) = &connection.password else {
        let words = format!("connection `{}` has no password, which is a Slack webhook's token", connection.id);
        return Err(NotifyError::Never(words));
    };
    let token = password.expose_secret();
    if token.starts_with("https://") || token.starts_with("http://") {
        return Ok(SecretString::from(token));
    }
    Ok(SecretString::from(format!("{}/{}", host.trim_end_matches('/'), token.trim_start_matches('/'))))
}

/// The server of Airflow's `smtp` connection, and whom mail is from.
fn mail_server(connection: &Connection) -> Result<(MailServer, String), NotifyError> {
    let never = |words: &str| NotifyError::Never(format!("connection `{}` {words}", connection.id));
    let host = connection.host.clone().ok_or_else(|| never("has no host"))?;
    let extra = connection.extra_fields();
    let is_set = |key: &str| match extra.get(key) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    };
    let security = match (is_set("disable_ssl"), is_set("disable_tls")) {
        (false, _) => Security::Tls,
        (true, false) => Security::StartTls,
        (true, true) => Security::None,
    };
    let from =
        extra.get("from_email").and_then(Value::as_str).map(ToOwned::to_owned).or_else(|| connection.login.clone());
    let from = from.ok_or_else(|| never("has no `from_email` in its extra"))?;
    let login = connection.login.clone().zip(connection.password.clone());
    let ca_file = extra.get("ca_file").and_then(Value::as_str).map(Into::into);
    Ok((MailServer { host, port: connection.port, security, login, ca_file }, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_after_a_day_and_heed_the_receiver() {
        let happened = Timestamp::from_timestamp(0, 0).unwrap();
        let after = |attempts, asked: Option<u64>, hours| {
            let now = happened + TimeDelta::hours(hours);
            WAITS
                .next_try(attempts, happened, asked.map(Duration::from_secs), now)
                .map(|again| (again - now).num_seconds())
        };
        let waits: Vec<_> = [1, 2, 3, 10, 11, 90].map(|attempts| after(attempts, None, 1).unwrap()).into();
        assert_eq!(waits, [2, 4, 8, 1024, 1800, 1800]);
        assert_eq!((after(1, Some(60), 1), after(11, Some(60), 1)), (Some(60), Some(1800)));
        assert_eq!((after(40, None, 25), after(2, None, 25)), (None, Some(4)), "it is tried some times at least");
        assert_eq!((after(1, Some(90_000), 1), after(1, Some(u64::MAX), 1)), (None, None), "that is too long");
    }
}

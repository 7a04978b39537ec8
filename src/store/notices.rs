//! What somebody is to be told of: an outbox. The tables' triggers write most of it, in the transaction of the change that
//! it tells of; deadlines stand in it from when they begin to count. What is sent is noted after it was: a process that
//! dies between the two sends once more.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::callbacks::{Callbacks, DeadlineStart, Event};
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::store::{Store, StoreError, rows};

/// How long a notification is its sender's: longer than any exchange may take.
const SENDING: f64 = 90.0;

/// Something to tell, for one callback, claimed by this process for a while.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its key.
    pub id: i64,
    /// By which a receiver knows it when it comes again.
    pub uuid: Uuid,
    /// The run.
    pub run: RunKey,
    /// The task; none when it is about the run as a whole.
    pub task: Option<TaskIndex>,
    /// What happened.
    pub event: Event,
    /// The try of a task that it tells of; of a deadline, the first try. Of a run, how often tasks of it were cleared.
    pub round: i32,
    /// Which of the event's callbacks in the DAG file.
    pub place: usize,
    /// When it happened; of a deadline, when it was missed.
    pub happened_at: Timestamp,
    /// The error of that try, or why the run was cancelled.
    pub reason: Option<String>,
    /// How often it was tried to send it, this time included.
    pub attempts: i32,
}

/// A notification, as people look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The task; none when it is about the run as a whole.
    pub task: Option<TaskIndex>,
    /// What happened.
    pub event: Event,
    /// As in [`Due`].
    pub round: i32,
    /// How often it was tried to send it.
    pub attempts: i32,
    /// When it was sent.
    pub sent_at: Option<Timestamp>,
    /// When it was decided that it will not be sent: a deadline that was kept, or a receiver that was given up.
    pub dropped_at: Option<Timestamp>,
    /// Why it was not sent, as far as known.
    pub error: Option<String>,
}

/// From when a deadline counts that is known now.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Watched {
    /// The run was created.
    Queued {
        /// The run's logical date.
        logical_date: Timestamp,
    },
    /// The run began.
    Begun,
}

/// How many callbacks each event has, as rows have it; none where there are none at all.
pub(in crate::store) fn counts(callbacks: &Callbacks) -> Option<Vec<i16>> {
    let count = |event| i16::try_from(callbacks.of(event).len()).unwrap_or(i16::MAX);
    (!callbacks.is_empty()).then(|| Event::ALL.into_iter().map(count).collect())
}

/// Notes by when the run is to have ended, where its deadline counts from what happened now.
pub(in crate::store) async fn expect_deadline(
    connection: &mut PgConnection,
    dag: &Dag,
    watched: Watched,
    run: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let callbacks = dag.settings.callbacks.of(Event::Deadline).len();
    let Some(deadline) = dag.settings.deadline.filter(|_| callbacks > 0) else { return Ok(()) };
    let from = match (deadline.after, watched) {
        (DeadlineStart::RunStart, Watched::Begun) | (DeadlineStart::Queued, Watched::Queued { .. }) => now,
        (DeadlineStart::LogicalDate, Watched::Queued { logical_date }) => logical_date,
        (DeadlineStart::RunStart, Watched::Queued { .. })
        | (DeadlineStart::LogicalDate | DeadlineStart::Queued, Watched::Begun) => return Ok(()),
    };
    sqlx::query!(
        "INSERT INTO notification (run_key, event, round, place, happened_at, due_at)
         SELECT $1, 'deadline', 0, place, $2::timestamptz + make_interval(secs => $3), $2 + make_interval(secs => $3)
         FROM generate_series(0, $4::int - 1) AS place
         ON CONFLICT DO NOTHING",
        run,
        from,
        deadline.within.as_secs_f64(),
        i32::try_from(callbacks).unwrap_or(i32::MAX),
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("note a run's deadline"))?;
    Ok(())
}

/// Notes which tasks of a new run somebody is told of. Costs nothing where there are none.
pub(in crate::store) async fn watch_tasks(
    connection: &mut PgConnection,
    dag: &Dag,
    run: i64,
) -> Result<(), StoreError> {
    for task in dag.tasks() {
        let Some(counts) = counts(&task.callbacks) else { continue };
        sqlx::query!(
            "UPDATE task_run
             SET notifies = $3, deadline = make_interval(secs => $4)
             WHERE run_key = $1 AND task_index = $2",
            run,
            task.index.0.cast_signed(),
            &counts,
            task.deadline.map(|within| within.as_secs_f64()),
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::query("note who is told of tasks"))?;
    }
    Ok(())
}

fn event(text: &str) -> Result<Event, StoreError> {
    let found = Event::ALL.into_iter().find(|event| event.as_str() == text);
    found.ok_or_else(|| StoreError::Corrupt { what: "an event", value: text.to_owned() })
}

fn task(index: Option<i32>) -> Option<TaskIndex> {
    index.map(|index| TaskIndex(index.cast_unsigned()))
}

impl Store {
    /// Claims what is due, of one run or of all, at most `most`, for a minute and a half: whoever dies with it leaves it
    /// to others. Deadlines that were kept are noted so, and not claimed.
    pub async fn claim_notifications(
        &self,
        of: Option<RunKey>,
        most: i64,
        now: Timestamp,
    ) -> Result<Vec<Due>, StoreError> {
        let of = of.map(|run| run.0);
        sqlx::query!(
            "UPDATE notification AS n
             SET dropped_at = $2
             FROM run AS r
             WHERE n.sent_at IS NULL AND n.dropped_at IS NULL AND n.due_at <= $2
               AND n.event = 'deadline' AND n.attempts = 0 AND ($1::bigint IS NULL OR n.run_key = $1)
               AND r.id = n.run_key
               AND (r.finished_at <= n.happened_at OR EXISTS (
                    SELECT 1
                    FROM task_run AS t
                    WHERE t.run_key = n.run_key AND t.task_index = n.task_index
                      AND (t.finished_at <= n.happened_at OR t.first_try <> n.round)))",
            of,
            now
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note the deadlines that were kept"))?;
        let claimed = sqlx::query!(
            r#"UPDATE notification AS n
               SET attempts = n.attempts + 1, due_at = $2::timestamptz + make_interval(secs => $4)
               FROM (SELECT id
                     FROM notification
                     WHERE sent_at IS NULL AND dropped_at IS NULL AND due_at <= $2
                       AND ($1::bigint IS NULL OR run_key = $1)
                     ORDER BY due_at, id
                     LIMIT $3
                     FOR UPDATE SKIP LOCKED) AS due
               WHERE n.id = due.id
               RETURNING n.id, n.uuid, n.run_key, n.task_index, n.event AS "event!", n.round, n.place, n.happened_at,
                         n.reason, n.attempts"#,
            of,
            now,
            most,
            SENDING,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for what somebody is to be told of"))?;
        let due = claimed.into_iter().map(|row| {
            Ok(Due {
                id: row.id,
                uuid: row.uuid,
                run: RunKey(row.run_key),
                task: task(row.task_index),
                event: event(&row.event)?,
                round: row.round,
                place: usize::try_from(row.place).unwrap_or(usize::MAX),
                happened_at: row.happened_at,
                reason: row.reason,
                attempts: row.attempts,
            })
        });
        due.collect()
    }

    /// Notes that a notification was sent.
    pub async fn note_sent(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE notification SET sent_at = $2, error = NULL WHERE id = $1 AND dropped_at IS NULL",
            id,
            now
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note that somebody was told"))?;
        Ok(())
    }

    /// Notes why a notification could not be sent: it is tried again at `again`, or not any more.
    pub async fn note_unsent(
        &self,
        id: i64,
        words: &str,
        again: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE notification
             SET error      = $2,
                 due_at     = COALESCE($3, due_at),
                 dropped_at = CASE WHEN $3::timestamptz IS NULL THEN $4::timestamptz END
             WHERE id = $1 AND sent_at IS NULL",
            id,
            rows::text(words),
            again,
            now
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note that somebody could not be told"))?;
        Ok(())
    }

    /// How many notifications of a run are not sent yet that are due, or being sent.
    pub async fn unsent_notifications(&self, run: RunKey, now: Timestamp) -> Result<i64, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM notification
               WHERE run_key = $1 AND sent_at IS NULL AND dropped_at IS NULL AND happened_at <= $2"#,
            run.0,
            now
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("count what is to be told of a run"))
    }

    /// The notifications of a run, in the order in which they came about; at most 10,000.
    pub async fn notifications(&self, run: RunKey) -> Result<Vec<Notification>, StoreError> {
        let found = sqlx::query!(
            r#"SELECT task_index, event AS "event!", round, attempts, sent_at, dropped_at, error
               FROM notification
               WHERE run_key = $1
               ORDER BY id
               LIMIT 10000"#,
            run.0
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a run's notifications"))?;
        let notifications = found.into_iter().map(|row| {
            Ok(Notification {
                task: task(row.task_index),
                event: event(&row.event)?,
                round: row.round,
                attempts: row.attempts,
                sent_at: row.sent_at,
                dropped_at: row.dropped_at,
                error: row.error,
            })
        });
        notifications.collect()
    }
}

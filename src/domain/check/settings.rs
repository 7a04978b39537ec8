//! A DAG's own keys.

use std::time::Duration;

use chrono::{LocalResult, TimeDelta, TimeZone};
use chrono_tz::Tz;

use crate::domain::Timestamp;
use crate::domain::check::callbacks;
use crate::domain::dag::{Catchup, DagSettings, DataIntervals, Schedule};
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::ids::DagId;
use crate::domain::schedule::Moment;
use crate::domain::source::Span;
use crate::domain::spec::{DagKeys, DagSpec, Problems, Spanned};

/// Airflow's default.
const MAX_ACTIVE_RUNS: u32 = 16;

pub(super) fn check(spec: &DagSpec, problems: &mut Problems<'_>) -> Option<DagSettings> {
    let keys = &spec.keys;
    let id = check_id(spec, problems);
    let timezone = keys.timezone.as_ref().map_or(Tz::UTC, |zone| zone.value.0);
    let start_date = keys.start_date.as_ref().map(|date| in_zone(date.value.0, timezone));
    let end_date = keys.end_date.as_ref().map(|date| in_zone(date.value.0, timezone));
    if let (Some(start), Some(end), Some(start_key), Some(end_key)) =
        (start_date, end_date, &keys.start_date, &keys.end_date)
        && end < start
    {
        problems.add(
            Diagnostic::error(Code::EndBeforeStart, end_key.span, "`end_date` is before `start_date`")
                .related(start_key.span, "the start"),
        );
    }
    let catchup = value(&keys.catchup).copied().unwrap_or_default();
    if let (Catchup::All, None, Some(typed)) = (catchup, start_date, &keys.catchup) {
        problems.add(
            Diagnostic::warning(
                Code::IgnoredKey,
                typed.span,
                "without a `start_date` there is nothing to catch up with",
            )
            .help("give the DAG a `start_date`"),
        );
    }
    warn_of_what_never_comes(keys, problems);
    let scheduled = value(&keys.schedule).is_some_and(|schedule| *schedule != Schedule::None);
    for (name, span) in keys.params.iter().filter(|_| scheduled).flat_map(|params| &params.value.required) {
        let message = format!("the param `{name}` has no default, and nobody sets it when a schedule starts the run");
        problems.add(Diagnostic::error(Code::BadParam, *span, message).help("give it a `default`"));
    }
    not_zero("dagrun_timeout", keys.dagrun_timeout.as_ref().map(|limit| (limit.value.0, limit.span)), problems);
    callbacks::not_at_once(keys.deadline.as_ref().map(|limit| (limit.value.within, limit.span)), problems);
    Some(DagSettings {
        id: id?,
        description: value(&keys.description).cloned(),
        doc_md: value(&keys.doc_md).cloned(),
        schedule: value(&keys.schedule).cloned().unwrap_or(Schedule::None),
        timezone,
        data_interval: value(&keys.data_interval).copied().unwrap_or_default(),
        start_date,
        end_date,
        catchup,
        overlap: value(&keys.overlap).copied().unwrap_or_default(),
        dst: value(&keys.dst).copied().unwrap_or_default(),
        max_active_runs: value(&keys.max_active_runs).map_or(MAX_ACTIVE_RUNS, |runs| runs.0),
        max_active_tasks: value(&keys.max_active_tasks).map(|tasks| tasks.0),
        paused_upon_creation: value(&keys.is_paused_upon_creation).copied().unwrap_or(false),
        dagrun_timeout: value(&keys.dagrun_timeout).map(|limit| limit.0),
        deadline: value(&keys.deadline).copied(),
        callbacks: callbacks::of_dag(keys),
        owner: value(&keys.owner).cloned(),
        tags: value(&keys.tags).map(|tags| tags.0.clone()).unwrap_or_default(),
        params: value(&keys.params).map(|params| params.defaults.clone()).unwrap_or_default(),
        param_schemas: value(&keys.params).map(|params| params.schemas.clone()).unwrap_or_default(),
    })
}

/// Says so where a schedule never comes for want of a start, and where intervals have nothing to lie between.
fn warn_of_what_never_comes(keys: &DagKeys, problems: &mut Problems<'_>) {
    let schedule = value(&keys.schedule).unwrap_or(&Schedule::None);
    if let (Schedule::Once, None, Some(typed)) = (schedule, &keys.start_date, &keys.schedule) {
        let message = "`@once` means the `start_date`, and there is none: it never comes";
        problems.add(Diagnostic::warning(Code::IgnoredKey, typed.span, message).help("give the DAG a `start_date`"));
    }
    if let Some(typed) = keys.data_interval.as_ref().filter(|typed| typed.value == DataIntervals::Cron)
        && !schedule.recurs()
    {
        let message = "`data_interval: cron` is the time between two ticks, and this schedule has none that recur";
        problems.add(
            Diagnostic::warning(Code::IgnoredKey, typed.key, message)
                .help("it goes with cron expressions, presets and durations"),
        );
    }
}

/// What was typed under a key.
pub(super) fn value<T>(key: &Option<Spanned<T>>) -> Option<&T> {
    key.as_ref().map(|spanned| &spanned.value)
}

/// Reports a limit of no time at all: everything would fail at once.
pub(super) fn not_zero(key: &str, limit: Option<(Duration, Span)>, problems: &mut Problems<'_>) {
    if let Some((Duration::ZERO, span)) = limit {
        let message = format!("`{key}` is no time at all: everything would fail at once");
        problems.add(Diagnostic::error(Code::OutOfRange, span, message).help("leave it out for no limit"));
    }
}

fn check_id(spec: &DagSpec, problems: &mut Problems<'_>) -> Option<DagId> {
    if let Some(typed) = &spec.keys.dag_id
        && typed.value != spec.id.text
    {
        let message = format!("`dag_id` says `{}`, but the DAG stands under `{}`", typed.value, spec.id.text);
        problems.add(
            Diagnostic::error(Code::BadId, typed.span, message)
                .related(spec.id.span, "its id by its key")
                .help("leave `dag_id` out, or make both the same"),
        );
    }
    spec.id
        .text
        .parse()
        .map_err(|error: crate::domain::ids::IdError| {
            problems.add(Diagnostic::error(Code::BadId, spec.id.span, error.to_string()));
        })
        .ok()
}

/// A date as an instant: what has no offset of its own is in the DAG's zone.
fn in_zone(date: Moment, zone: Tz) -> Timestamp {
    match date {
        Moment::Fixed(at) => at,
        Moment::Local(local) => match zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
            // A time that the clocks skip: the hour after it exists everywhere.
            LocalResult::None => zone
                .from_local_datetime(&(local + TimeDelta::hours(1)))
                .earliest()
                .map_or_else(|| local.and_utc(), |at| at.to_utc()),
        },
    }
}

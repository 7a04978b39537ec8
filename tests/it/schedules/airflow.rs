//! The ticks that Airflow gives, compared with ours.

use std::io::Write;
use std::path::Path;

use chrono_tz::Tz;
use pinsched::domain::Timestamp;
use pinsched::domain::dag::DstPolicy;
use pinsched::domain::schedule::Schedule;
use serde::Deserialize;

use crate::schedules::at;

/// A schedule with its first ticks at or after `from`.
#[derive(Debug, Deserialize)]
struct Row {
    cron: String,
    zone: String,
    from: Timestamp,
    ticks: Vec<Timestamp>,
}

impl Row {
    /// What we say instead, where it is not the same.
    fn difference(&self) -> Option<String> {
        let schedule: Schedule = self.cron.parse().unwrap();
        let zone: Tz = self.zone.parse().unwrap();
        let mut tick = self.from - chrono::TimeDelta::nanoseconds(1);
        let ours: Vec<Timestamp> = (0..self.ticks.len())
            .map(|_| {
                tick = schedule.next_after(tick, zone, DstPolicy::default(), None).unwrap();
                tick
            })
            .collect();
        (ours != self.ticks).then(|| format!("{self:?}\nours: {ours:?}"))
    }
}

#[track_caller]
fn assert_same(rows: &[Row]) {
    let different: Vec<String> = rows.iter().filter_map(Row::difference).collect();
    assert!(different.is_empty(), "{} of {} differ:\n{}", different.len(), rows.len(), different.join("\n"));
}

/// What was asked of Airflow itself lies beside the checkout, where it is at all.
#[test]
fn every_tick_that_airflow_was_asked_for_is_ours() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/airflow_ticks.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        // Straight to the stream: what a test prints is not shown when it passes.
        let said = format!("SKIPPED: there is no {}, so ticks are not compared with Airflow's\n", path.display());
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    };
    let rows: Vec<Row> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= 100, "{} rows", rows.len());
    assert_same(&rows);
}

/// From how Airflow counts, worked out by hand: each tick from the one before it, on the clock that shows that one.
#[test]
fn ticks_around_changes_of_the_clocks_are_those_of_airflow() {
    let rows = [
        // London, 2026-03-29: 01:00 becomes 02:00. What is skipped comes an hour later.
        ("30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z 2026-03-30T00:30:00Z"),
        ("0 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-30T00:00:00Z"),
        // Of several times that are skipped the first is shifted, and the count goes on from there.
        ("10,30 1 * * *", "Europe/London", "2026-03-28T12:00:00Z", "2026-03-29T01:10:00Z 2026-03-30T00:10:00Z"),
        (
            "*/30 0-2 * * *",
            "Europe/London",
            "2026-03-29T00:20:00Z",
            "2026-03-29T00:30:00Z 2026-03-29T01:00:00Z 2026-03-29T01:30:00Z 2026-03-29T23:00:00Z",
        ),
        // London, 2026-10-25: 02:00 becomes 01:00. The second of the two counts.
        ("30 1 * * *", "Europe/London", "2026-10-24T12:00:00Z", "2026-10-25T01:30:00Z 2026-10-26T01:30:00Z"),
        (
            "*/30 0-2 * * *",
            "Europe/London",
            "2026-10-24T23:20:00Z",
            "2026-10-24T23:30:00Z 2026-10-25T01:00:00Z 2026-10-25T01:30:00Z 2026-10-25T02:00:00Z",
        ),
        // What takes every hour keeps its distance instead.
        (
            "0 * * * *",
            "Europe/London",
            "2026-10-24T23:20:00Z",
            "2026-10-25T00:00:00Z 2026-10-25T01:00:00Z 2026-10-25T02:00:00Z",
        ),
        (
            "15 0-23 * * *",
            "Europe/London",
            "2026-10-24T23:20:00Z",
            "2026-10-25T00:15:00Z 2026-10-25T01:15:00Z 2026-10-25T02:15:00Z",
        ),
        (
            "0 * * * *",
            "Europe/London",
            "2026-03-29T00:00:00Z",
            "2026-03-29T00:00:00Z 2026-03-29T01:00:00Z 2026-03-29T02:00:00Z",
        ),
        // Six hours apart is not every hour.
        (
            "0 */6 * * *",
            "America/New_York",
            "2026-11-01T04:00:00Z",
            "2026-11-01T04:00:00Z 2026-11-01T11:00:00Z 2026-11-01T17:00:00Z",
        ),
        // Lord Howe, 2026-10-04: 02:00 becomes 02:30, at 15:30 UTC the day before.
        (
            "*/20 0-4 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T15:00:00Z",
            "2026-10-03T15:10:00Z 2026-10-03T15:30:00Z 2026-10-03T15:40:00Z 2026-10-03T16:00:00Z",
        ),
        // … and 50 minutes past is counted an hour on, which is 03:20 on the wall, before the wall is right again.
        (
            "50 * * * *",
            "Australia/Lord_Howe",
            "2026-10-03T15:00:00Z",
            "2026-10-03T15:20:00Z 2026-10-03T16:20:00Z 2026-10-03T16:50:00Z",
        ),
        // Lord Howe, 2026-04-05: 02:00 becomes 01:30, at 15:00 UTC the day before.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-04-03T16:00:00Z", "2026-04-04T15:45:00Z 2026-04-05T15:45:00Z"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-03T16:00:00Z", "2026-04-04T15:15:00Z 2026-04-05T15:15:00Z"),
        // Samoa had no 30 December 2011: that day's run would be the next day's.
        (
            "0 6 * * *",
            "Pacific/Apia",
            "2011-12-29T00:00:00Z",
            "2011-12-29T16:00:00Z 2011-12-30T16:00:00Z 2011-12-31T16:00:00Z",
        ),
        // Without changes: days of months and weeks, either of which is enough.
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"),
        (
            "0 12 1 * MON",
            "UTC",
            "2026-01-01T00:00:00Z",
            "2026-01-01T12:00:00Z 2026-01-05T12:00:00Z 2026-01-12T12:00:00Z",
        ),
    ];
    let rows = rows.map(|(cron, zone, from, ticks)| Row {
        cron: cron.to_owned(),
        zone: zone.to_owned(),
        from: at(from),
        ticks: ticks.split(' ').map(at).collect(),
    });
    assert_same(&rows);
}

/// Whoever asks in the middle of a change is told the same ticks as who counts through it.
#[test]
fn the_next_tick_is_the_same_whoever_asks() {
    for (cron, zone, from) in [
        ("*/20 0-4 * * *", Tz::Australia__Lord_Howe, "2026-10-03T13:00:00Z"),
        ("50 * * * *", Tz::Australia__Lord_Howe, "2026-10-03T13:00:00Z"),
        ("*/20 * * * *", Tz::Australia__Lord_Howe, "2026-04-04T13:00:00Z"),
        ("*/15 0-3 * * *", Tz::Europe__London, "2026-10-24T22:00:00Z"),
        ("*/15 * 1 * *", Tz::America__New_York, "2026-03-31T22:00:00Z"),
    ] {
        let schedule: Schedule = cron.parse().unwrap();
        let next = |after| schedule.next_after(after, zone, DstPolicy::default(), None).unwrap();
        let mut tick = next(at(from) - chrono::TimeDelta::days(31));
        while tick < at(from) + chrono::TimeDelta::hours(8) {
            let following = next(tick);
            let mut asked = tick;
            while asked < following && asked < at(from) + chrono::TimeDelta::hours(8) {
                assert_eq!(next(asked), following, "{cron} in {zone}, asked at {asked}");
                asked += chrono::TimeDelta::minutes(if asked < at(from) { 12 * 60 } else { 1 });
            }
            tick = following;
        }
    }
}

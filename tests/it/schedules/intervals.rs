//! Ticks within a DAG's start and end, and what the run of each is for, as Airflow 3 and Airflow 2 have it.

use chrono::TimeDelta;
use pinsched::domain::Timestamp;
use pinsched::domain::dag::DagSettings;

use crate::dags;
use crate::schedules::at;

/// The settings of a DAG with these keys.
fn settings(keys: &str) -> DagSettings {
    dags::dag(&format!("orders:\n  {}\n  tasks: {{a: {{operator: script}}}}\n", keys.replace("; ", "\n  "))).settings
}

/// Some ticks from an instant on, as `run_after = logical_date from..to`.
fn ticks(settings: &DagSettings, from: &str, count: usize) -> Vec<String> {
    let mut next = settings.tick_from(at(from));
    let mut ticks = Vec::new();
    while let Some(tick) = next.filter(|_| ticks.len() < count) {
        let interval = settings.data_interval(tick);
        let short = |at: Timestamp| at.format("%d %H:%M").to_string();
        let (date, start, end) = (short(interval.logical_date), short(interval.start), short(interval.end));
        ticks.push(format!("{} = {date}, {start} to {end}", short(tick)));
        next = settings.next_tick(tick);
    }
    ticks
}

#[test]
fn by_default_a_run_is_for_its_tick() {
    let daily = settings("schedule: \"@daily\"; start_date: 2026-01-02; end_date: 2026-01-04");
    let all = [
        "02 00:00 = 02 00:00, 02 00:00 to 02 00:00",
        "03 00:00 = 03 00:00, 03 00:00 to 03 00:00",
        "04 00:00 = 04 00:00, 04 00:00 to 04 00:00",
    ];
    assert_eq!(ticks(&daily, "2025-01-01T00:00:00Z", 10), all, "start and end count");
    assert_eq!(ticks(&daily, "2026-01-03T00:00:00Z", 10), all[1..]);
    assert_eq!(ticks(&daily, "2026-01-03T00:00:00.000001Z", 10), all[2..]);
    assert_eq!(daily.next_tick(at("2026-01-02T00:00:00Z")), Some(at("2026-01-03T00:00:00Z")));
    assert_eq!(daily.next_tick(at("2026-01-04T00:00:00Z")), None);
    let manual = daily.manual_data_interval(at("2026-01-03T07:30:00Z"));
    assert_eq!((manual.logical_date, manual.start, manual.end), (manual.end, manual.end, at("2026-01-03T07:30:00Z")));
}

#[test]
fn with_cron_intervals_a_run_is_for_the_time_since_the_tick_before() {
    let daily = settings("schedule: \"@daily\"; data_interval: cron; start_date: 2026-01-02; end_date: 2026-01-04");
    assert_eq!(
        ticks(&daily, "2025-01-01T00:00:00Z", 10),
        [
            "03 00:00 = 02 00:00, 02 00:00 to 03 00:00",
            "04 00:00 = 03 00:00, 03 00:00 to 04 00:00",
            "05 00:00 = 04 00:00, 04 00:00 to 05 00:00",
        ],
        "the first runs when its day is over, and the last is that of the end date"
    );
    let midday = settings("schedule: \"@daily\"; data_interval: cron; start_date: 2026-01-02T12:00");
    assert_eq!(ticks(&midday, "2026-01-01T00:00:00Z", 1), ["04 00:00 = 03 00:00, 03 00:00 to 04 00:00"]);
    let without_start = settings("schedule: \"0 0 * * MON\"; data_interval: cron");
    assert_eq!(ticks(&without_start, "2026-01-12T00:00:00Z", 1), ["12 00:00 = 05 00:00, 05 00:00 to 12 00:00"]);
    let weekdays = settings("schedule: \"0 0 * * 2-6\"; data_interval: cron");
    assert_eq!(ticks(&weekdays, "2026-01-13T00:00:00Z", 1), ["13 00:00 = 10 00:00, 10 00:00 to 13 00:00"]);
}

#[test]
fn a_manual_run_is_for_the_last_interval_that_was_complete() {
    let interval = |settings: &DagSettings, when: &str| {
        let interval = settings.manual_data_interval(at(when));
        assert_eq!(interval.logical_date, at(when));
        [interval.start, interval.end].map(|at| at.format("%d %H:%M").to_string())
    };
    let daily = settings("schedule: \"@daily\"; data_interval: cron; start_date: 2026-01-02");
    assert_eq!(interval(&daily, "2026-01-25T01:00:00Z"), ["24 00:00", "25 00:00"]);
    assert_eq!(interval(&daily, "2026-01-25T00:00:00Z"), ["24 00:00", "25 00:00"]);
    assert_eq!(interval(&daily, "2026-01-24T23:59:59Z"), ["23 00:00", "24 00:00"]);
    let hours = settings("schedule: 6h; data_interval: cron; start_date: 2026-01-02");
    assert_eq!(interval(&hours, "2026-01-25T01:30:00Z"), ["24 19:30", "25 01:30"]);
    let triggered = settings("data_interval: cron");
    assert_eq!(interval(&triggered, "2026-01-25T01:30:00Z"), ["25 01:30", "25 01:30"]);
}

#[test]
fn durations_are_counted_from_the_start_date() {
    let every = settings("schedule: 90m; start_date: 2026-01-02T00:10:00; end_date: 2026-01-02T04:40:00");
    let all: Vec<String> = ["00:10", "01:40", "03:10", "04:40"]
        .iter()
        .map(|at| format!("02 {at} = 02 {at}, 02 {at} to 02 {at}"))
        .collect();
    assert_eq!(ticks(&every, "2026-01-01T00:00:00Z", 10), all);
    let intervals = settings("schedule: 90m; data_interval: cron; start_date: 2026-01-02T00:10:00");
    assert_eq!(ticks(&intervals, "2026-01-01T00:00:00Z", 1), ["02 01:40 = 02 00:10, 02 00:10 to 02 01:40"]);
    let across = settings("schedule: 12h; start_date: 2026-03-28T12:00; timezone: Europe/London");
    assert_eq!(across.tick_from(at("2026-03-29T01:00:00Z")), Some(at("2026-03-29T12:00:00Z")), "13:00 on the wall");
}

#[test]
fn dates_come_once_and_a_list_is_all_of_its_lines() {
    let mixed = settings(
        "schedule: [\"0 12 * * *\", 2026-01-02T18:00:00, 2026-01-03T12:00:00, \"2026-01-02T18:00:00Z\"]; timezone: Europe/Berlin",
    );
    let at_once = |at: &str| format!("{at} = {at}, {at} to {at}");
    assert_eq!(
        ticks(&mixed, "2026-01-02T00:00:00Z", 4),
        [at_once("02 11:00"), at_once("02 17:00"), at_once("02 18:00"), at_once("03 11:00")],
        "in the DAG's zone unless they name their own, and what comes at once is one"
    );
    assert_eq!(mixed.previous_tick(at("2026-01-02T18:00:00Z")), Some(at("2026-01-02T17:00:00Z")));
    let date = settings("schedule: 2026-03-29T01:30:00; timezone: Europe/London; start_date: 2026-01-01");
    assert_eq!(date.tick_from(at("2026-01-01T00:00:00Z")), Some(at("2026-03-29T01:30:00Z")), "an hour on");
    assert_eq!(date.next_tick(at("2026-03-29T01:30:00Z")), None);
    let late = settings("schedule: 2026-03-29T01:30:00; start_date: 2026-04-01");
    assert_eq!(late.tick_from(at("2026-01-01T00:00:00Z")), None);
    for (policy, expected) in [("first", &["00:30"][..]), ("second", &["01:30"]), ("both", &["00:30", "01:30"])] {
        let twice =
            settings(&format!("schedule: 2026-10-25T01:30:00; timezone: Europe/London; dst: {{overlap: {policy}}}"));
        let first = twice.tick_from(at("2026-01-01T00:00:00Z")).unwrap();
        let ticks = [Some(first), twice.next_tick(first)];
        let ticks: Vec<String> = ticks.into_iter().flatten().map(|at| at.format("%H:%M").to_string()).collect();
        assert_eq!(ticks, expected);
    }
    let skipped = settings("schedule: 2026-03-29T01:30:00; timezone: Europe/London; dst: {gap: skip}");
    assert_eq!(skipped.tick_from(at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn once_is_at_the_start() {
    let once = settings("schedule: \"@once\"; start_date: 2026-01-02");
    assert_eq!(ticks(&once, "2026-01-01T00:00:00Z", 5), ["02 00:00 = 02 00:00, 02 00:00 to 02 00:00"]);
    assert_eq!(once.previous_tick(at("2026-02-01T00:00:00Z")), Some(at("2026-01-02T00:00:00Z")));
    let triggered = settings("schedule: none");
    assert_eq!(triggered.tick_from(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(triggered.previous_tick(at("2026-01-01T00:00:00Z")), None);
}

/// Counting back meets what counting forward met.
#[test]
fn the_previous_tick_is_the_one_whose_next_this_is() {
    let zone = "timezone: Australia/Lord_Howe; start_date: 2026-04-03; end_date: 2026-10-20";
    for schedule in ["*/20 0-4 * * *", "50 * * * *", "*/45 * * * *", "0 2 * * *", "*/10 59 1 * * *", "7h", "0 12 L * *"]
    {
        for interval in ["trigger", "cron"] {
            for dst in ["{}", "{gap: skip, overlap: both}", "{gap: run_at_end, overlap: first}"] {
                let settings =
                    settings(&format!("schedule: \"{schedule}\"; data_interval: {interval}; dst: {dst}; {zone}"));
                let mut last = None;
                let mut next = settings.tick_from(at("2026-01-01T00:00:00Z"));
                let mut count = 0;
                while let Some(tick) = next {
                    if tick < at("2026-04-07T00:00:00Z") || tick > at("2026-10-02T00:00:00Z") {
                        assert_eq!(settings.previous_tick(tick), last, "{schedule} {interval} {dst} before {tick}");
                        let soon = tick + TimeDelta::milliseconds(1);
                        assert_eq!(settings.previous_tick(soon), Some(tick), "{schedule} {interval} {dst}");
                    }
                    count += 1;
                    (last, next) = (next, settings.next_tick(tick));
                }
                assert!(count > 5, "{schedule}: {count}");
                assert_eq!(settings.previous_tick(at("2027-01-01T00:00:00Z")), last, "{schedule} {interval} {dst}");
            }
        }
    }
}

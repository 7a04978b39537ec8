//! A run's progress while it runs: bars on a terminal, plain lines elsewhere. Both on stderr.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::Printer;
use crate::cli::words;
use crate::clock;
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::plan::Move;
use crate::domain::task_state::TaskEvent;
use crate::engine::observer::Observer;
use crate::engine::operator::Progress;

/// Shows what a worker does.
pub(crate) struct ProgressDisplay {
    printer: Printer,
    dag: Arc<Dag>,
    bars: MultiProgress,
    /// What runs; none once the display has ended, after which nothing is drawn or said.
    running: Mutex<Option<BTreeMap<TaskIndex, Running>>>,
    /// The instances of mapped tasks that run, or ran: which they are.
    instances: Mutex<BTreeMap<TaskIndex, (TaskIndex, u32)>>,
    /// Of mapped tasks: how many of their instances are over, and how many of these failed.
    over: Mutex<BTreeMap<TaskIndex, (u64, u64)>>,
}

/// An error's length in a line of progress; tables and logs have the rest.
const ERROR_EXCERPT: usize = 240;

/// The narrowest terminal that has room for a drawn bar.
const ROOM_FOR_A_BAR: usize = 80;

/// So many instances of a mapped task are told of one by one.
const INSTANCES_TOLD: u64 = 20;

/// After that there is a line for so many.
const INSTANCES_A_LINE: u64 = 1_000;

/// What is said of a step of an instance.
enum Told {
    Line,
    Count { ended: u64, failed: u64 },
    Nothing,
}

struct Running {
    begun: Instant,
    try_number: i32,
    progress: Arc<Progress>,
    line: Option<ProgressBar>,
}

impl ProgressDisplay {
    pub(crate) fn new(printer: Printer, dag: Arc<Dag>) -> Self {
        let target =
            if printer.talks_to_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            printer,
            dag,
            bars: MultiProgress::with_draw_target(target),
            running: Mutex::new(Some(BTreeMap::new())),
            instances: Mutex::default(),
            over: Mutex::default(),
        }
    }

    /// Draws the bars as they are now; called some ten times a second.
    pub(crate) fn refresh(&self) {
        for running in self.lock().iter().flat_map(BTreeMap::values) {
            let Some(line) = &running.line else { continue };
            let (rows, total) = running.progress.read();
            if let Some(total) = total
                && line.length() != Some(total)
            {
                line.set_length(total);
                if self.printer.talk_width().is_none_or(|width| width >= ROOM_FOR_A_BAR) {
                    line.set_style(with_bar());
                }
            }
            line.set_position(rows);
            line.set_message(rows_so_far(rows, total, line.per_sec()));
            line.tick();
            // It was left at the line's end. What the keyboard's echo added there, nobody would clear.
            self.printer.rewind();
        }
    }

    /// Takes away what is drawn, whoever still runs. A driver that is not waited for may tell of more; nobody hears it.
    pub(crate) fn end(&self) {
        for running in self.lock().take().iter().flat_map(BTreeMap::values) {
            running.clear();
        }
    }

    /// Says a line above the bars.
    pub(crate) fn say(&self, line: &str) {
        self.bars.suspend(|| self.printer.say(line));
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<TaskIndex, Running>>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn name(&self, task: TaskIndex) -> String {
        let id = |index: TaskIndex| self.dag.task(index).map(|task| task.id.to_string()).unwrap_or_default();
        match self.instance(task) {
            Some((map_of, map_index)) => format!("{}[{map_index}]", id(map_of)),
            None => id(task),
        }
    }

    fn instance(&self, task: TaskIndex) -> Option<(TaskIndex, u32)> {
        self.instances.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&task).copied()
    }

    /// Counts the end of an instance; what is to be said of it: each of the first ones and each failure, and then how far
    /// the task is, now and then.
    fn count_instance(&self, map_of: TaskIndex, step: &Move) -> Told {
        let mut over = self.over.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (ended, failed) = over.entry(map_of).or_default();
        *ended += u64::from(step.to.is_final());
        *failed += u64::from(step.to.is_failure());
        match *ended {
            _ if step.to.is_failure() && *failed <= INSTANCES_TOLD => Told::Line,
            _ if !step.to.is_final() => {
                if *ended < INSTANCES_TOLD {
                    Told::Line
                } else {
                    Told::Nothing
                }
            }
            0..=INSTANCES_TOLD => Told::Line,
            ended if ended.is_multiple_of(INSTANCES_A_LINE) => Told::Count { ended, failed: *failed },
            _ => Told::Nothing,
        }
    }

    /// The longest task id, so that what follows the ids lines up.
    fn width(&self) -> usize {
        self.dag.tasks().iter().map(|task| task.id.as_str().chars().count()).max().unwrap_or(0).min(40)
    }

    fn line(&self, step: &Move, running: Option<&Running>, error: Option<&str>) -> String {
        let width = self.width();
        let mut line = format!("{:width$}  {}", self.name(step.task), self.printer.talk_of_task(step.to));
        if let Some(running) = running {
            let _ = write!(line, " in {}", words::duration(running.begun.elapsed()));
            let (rows, _) = running.progress.read();
            if rows > 0 {
                let rate = average(rows, running.begun.elapsed());
                let _ = write!(line, ", {} rows, {}", words::count(rows), words::rate(rate));
            }
            if running.try_number > 1 {
                let _ = write!(line, ", try {}", running.try_number);
            }
        }
        if let Some(ready_at) = step.ready_at.filter(|_| step.event == TaskEvent::FailedForNow) {
            let wait = (ready_at - clock::now()).to_std().unwrap_or_default();
            let _ = write!(line, ", again in {}", words::duration(wait));
        }
        if let Some(error) = error {
            let _ = write!(line, ": {}", words::excerpt(error, ERROR_EXCERPT));
        }
        line
    }
}

impl Running {
    fn clear(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

impl Observer for ProgressDisplay {
    fn attempt_started(&self, _: RunKey, task: TaskIndex, try_number: i32, progress: &Arc<Progress>) {
        let mut all = self.lock();
        let Some(running) = all.as_mut() else { return };
        let line = self.printer.talks_to_terminal().then(|| {
            let line = self.bars.add(ProgressBar::new_spinner().with_style(without_bar()));
            let width = self.width();
            line.set_prefix(format!("{:width$}", self.name(task)));
            line
        });
        let progress = Arc::clone(progress);
        running.insert(task, Running { begun: clock::monotonic(), try_number, progress, line });
    }

    fn is_instance(&self, _: RunKey, task: TaskIndex, map_of: TaskIndex, map_index: u32) {
        let mut instances = self.instances.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        instances.insert(task, (map_of, map_index));
    }

    fn task_moved(&self, _: RunKey, step: &Move, error: Option<&str>) {
        if step.event == TaskEvent::Released {
            return;
        }
        // Held while the line is said: the display may end meanwhile.
        let mut all = self.lock();
        let Some(running) = all.as_mut() else { return };
        let running = running.remove(&step.task);
        if let Some(running) = &running {
            running.clear();
        }
        let told = self.instance(step.task).map_or(Told::Line, |(map_of, _)| self.count_instance(map_of, step));
        match told {
            Told::Line => self.say(&self.line(step, running.as_ref(), error)),
            Told::Count { ended, failed } => {
                let width = self.width();
                let map_of = self.instance(step.task).map_or(step.task, |(map_of, _)| map_of);
                let failed = if failed > 0 { format!(", {} failed", words::count(failed)) } else { String::new() };
                self.say(&format!("{:width$}  {} instances are over{failed}", self.name(map_of), words::count(ended)));
            }
            Told::Nothing => {}
        }
    }

    fn attempt_gone(&self, _: RunKey, task: TaskIndex) {
        if let Some(running) = self.lock().as_mut().and_then(|running| running.remove(&task)) {
            running.clear();
        }
    }

    fn database_lost(&self, error: &str) {
        let all = self.lock();
        if all.is_some() {
            self.say(&format!(
                "the database went away, trying to reach it again for 5 minutes (Ctrl-C ends that; nothing is lost): {error}"
            ));
        }
    }
}

/// `1,200/5,000 rows  345/s`; nothing for a task that has no rows, or none yet.
fn rows_so_far(rows: u64, total: Option<u64>, per_second: f64) -> String {
    match total {
        Some(total) => {
            format!("{}/{} rows  {}", words::count(rows), words::count(total), words::rate(per_second))
        }
        None if rows > 0 => format!("{} rows  {}", words::count(rows), words::rate(per_second)),
        None => String::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn average(rows: u64, time: Duration) -> f64 {
    rows as f64 / time.as_secs_f64().max(0.001)
}

fn with_bar() -> ProgressStyle {
    style("{spinner} {prefix}  {elapsed:>4}  {bar:30}  {wide_msg}")
}

/// What does not fit beside the rest is cut: a line that is broken over two cannot be drawn over.
fn without_bar() -> ProgressStyle {
    style("{spinner} {prefix}  {elapsed:>4}  {wide_msg}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant and names known keys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::OutputFormat;
    use crate::domain::check;
    use crate::domain::source::SourceFile;
    use crate::operators;

    #[test]
    fn what_is_told_after_the_end_is_not_shown() {
        let file = SourceFile::new("one.yaml", "one:\n  tasks: {only: {operator: empty}}\n");
        let dag = check::check(&file, &operators::catalog()).dags.remove(0);
        let display = ProgressDisplay::new(Printer::new(OutputFormat::Table, true), Arc::new(dag));
        let progress = Arc::new(Progress::default());
        let (run, task) = (RunKey(1), TaskIndex(0));
        display.attempt_started(run, task, 1, &progress);
        assert_eq!(Arc::strong_count(&progress), 2, "it is drawn");
        display.end();
        display.attempt_started(run, task, 2, &progress);
        display.attempt_gone(run, task);
        display.refresh();
        assert_eq!(Arc::strong_count(&progress), 1);
    }

    #[test]
    fn rows_are_told_of_tasks_that_have_some() {
        assert_eq!(rows_so_far(0, None, 0.0), "");
        assert_eq!(rows_so_far(1_200, None, 1_234.567_8), "1,200 rows  1.23k/s");
        assert_eq!(rows_so_far(0, Some(5_000), 0.0), "0/5,000 rows  0/s");
    }
}

//! A run's progress while it runs: bars on a terminal, plain lines elsewhere. Both on stderr.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

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
    running: Mutex<BTreeMap<TaskIndex, Running>>,
}

struct Running {
    begun: Instant,
    try_number: i32,
    progress: Arc<Progress>,
    bar: Option<ProgressBar>,
}

impl ProgressDisplay {
    pub(crate) fn new(printer: Printer, dag: Arc<Dag>) -> Self {
        let target =
            if printer.talks_to_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { printer, dag, bars: MultiProgress::with_draw_target(target), running: Mutex::default() }
    }

    /// Draws the bars as they are now; called some ten times a second.
    pub(crate) fn refresh(&self) {
        for running in self.lock().values() {
            let Some(bar) = &running.bar else { continue };
            let (rows, total) = running.progress.read();
            if let Some(total) = total
                && bar.length() != Some(total)
            {
                bar.set_length(total);
                bar.set_style(counted());
            }
            bar.set_position(rows);
            bar.tick();
        }
    }

    /// Says a line above the bars.
    pub(crate) fn say(&self, line: &str) {
        self.bars.suspend(|| self.printer.say(line));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskIndex, Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn name(&self, task: TaskIndex) -> String {
        self.dag.task(task).map(|task| task.id.to_string()).unwrap_or_default()
    }

    /// The longest task id, so that what follows the ids lines up.
    fn width(&self) -> usize {
        self.dag.tasks().iter().map(|task| task.id.as_str().chars().count()).max().unwrap_or(0).min(40)
    }

    fn line(&self, step: &Move, running: Option<&Running>, error: Option<&str>) -> String {
        let width = self.width();
        let mut line = format!("{:width$}  {}", self.name(step.task), self.printer.painted(step.to));
        if let Some(running) = running {
            let _ = write!(line, " in {}", words::duration(running.begun.elapsed()));
            let (rows, _) = running.progress.read();
            if rows > 0 {
                let seconds = running.begun.elapsed().as_secs_f64().max(0.001);
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rate for people"
                )]
                let rate = (rows as f64 / seconds) as u64;
                let _ = write!(line, ", {} rows, {}/s", words::count(rows), words::count(rate));
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
            let _ = write!(line, ": {error}");
        }
        line
    }
}

impl Observer for ProgressDisplay {
    fn attempt_started(&self, _: RunKey, task: TaskIndex, try_number: i32, progress: &Arc<Progress>) {
        let bar = self.printer.talks_to_terminal().then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner().with_style(uncounted()));
            let width = self.width();
            bar.set_prefix(format!("{:width$}", self.name(task)));
            bar
        });
        let progress = Arc::clone(progress);
        self.lock().insert(task, Running { begun: clock::monotonic(), try_number, progress, bar });
    }

    fn task_moved(&self, _: RunKey, step: &Move, error: Option<&str>) {
        if step.event == TaskEvent::Released {
            return;
        }
        let running = self.lock().remove(&step.task);
        if let Some(bar) = running.as_ref().and_then(|running| running.bar.as_ref()) {
            bar.finish_and_clear();
        }
        let line = self.line(step, running.as_ref(), error);
        self.say(&line);
    }

    fn attempt_gone(&self, _: RunKey, task: TaskIndex) {
        if let Some(bar) = self.lock().remove(&task).and_then(|running| running.bar) {
            bar.finish_and_clear();
        }
    }

    fn database_lost(&self, error: &str) {
        self.say(&format!(
            "the database went away, trying to reach it again for 5 minutes (Ctrl-C ends that; nothing is lost): {error}"
        ));
    }
}

fn counted() -> ProgressStyle {
    style("{spinner} {prefix}  {bar:30} {human_pos}/{human_len} rows  {per_sec}  {elapsed}")
}

fn uncounted() -> ProgressStyle {
    style("{spinner} {prefix}  {human_pos} rows  {elapsed}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant and names known keys")
}

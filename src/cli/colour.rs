//! The colours of states, as Airflow has them: in tables and in lines on stderr.

use comfy_table::Color;

use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;

/// A colour of a terminal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Red,
    DarkYellow,
    Yellow,
    Cyan,
    Magenta,
    Grey,
}

impl Colour {
    pub(crate) fn of_task(state: TaskState) -> Self {
        match state {
            TaskState::Success => Self::Green,
            TaskState::Failed => Self::Red,
            TaskState::UpstreamFailed => Self::DarkYellow,
            TaskState::UpForRetry => Self::Yellow,
            TaskState::Running | TaskState::Deferred | TaskState::Mapped => Self::Cyan,
            TaskState::Skipped => Self::Magenta,
            TaskState::None | TaskState::Queued => Self::Grey,
        }
    }

    pub(crate) fn of_run(state: RunState) -> Self {
        match state {
            RunState::Success => Self::Green,
            RunState::Failed => Self::Red,
            RunState::Running => Self::Cyan,
            RunState::Queued => Self::Grey,
        }
    }

    /// For a table's cell.
    pub(crate) fn of_cell(self) -> Color {
        self.forms().0
    }

    /// The text between the codes that a terminal takes.
    pub(crate) fn paint(self, text: &str) -> String {
        format!("\x1b[{}m{text}\x1b[0m", self.forms().1)
    }

    fn forms(self) -> (Color, u8) {
        match self {
            Self::Green => (Color::Green, 32),
            Self::Red => (Color::Red, 31),
            Self::DarkYellow => (Color::DarkYellow, 33),
            Self::Yellow => (Color::Yellow, 93),
            Self::Cyan => (Color::Cyan, 36),
            Self::Magenta => (Color::Magenta, 35),
            Self::Grey => (Color::Grey, 37),
        }
    }
}

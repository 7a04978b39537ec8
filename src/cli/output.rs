//! The two streams: stdout is the answer, stderr is talk. The only file that prints.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde::Serialize;

use crate::cli::arguments::OutputFormat;
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;

/// Whether anybody still reads stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Yes, as far as one can tell.
    Listens,
    /// It went away.
    Gone,
}

/// Prints. A reader that went away (`| head`) is no error: what it did not want to read is not written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    format: OutputFormat,
    answer_colours: bool,
    talk_colours: bool,
    talk_is_terminal: bool,
}

impl Printer {
    /// Colours where a terminal reads and `NO_COLOR` is not set.
    pub(crate) fn new(format: OutputFormat, no_color: bool) -> Self {
        Self {
            format,
            answer_colours: !no_color && io::stdout().is_terminal(),
            talk_colours: !no_color && io::stderr().is_terminal(),
            talk_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Whether the answer goes to a program.
    pub(crate) fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Whether somebody reads stderr on a terminal, so that a line may be drawn over.
    pub(crate) fn talks_to_terminal(self) -> bool {
        self.talk_is_terminal
    }

    /// Whether the answer may be coloured.
    pub(crate) fn answer_colours(self) -> bool {
        self.answer_colours
    }

    /// Whether the talk may be coloured.
    pub(crate) fn talk_colours(self) -> bool {
        self.talk_colours
    }

    /// Writes text to stdout as it is. An answer that cannot be written, as to a full disk, was not given.
    pub(crate) fn text(self, text: &str) -> anyhow::Result<Reader> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(Reader::Listens),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
            Err(error) => Err(error).context("could not write the answer to stdout"),
        }
    }

    /// Writes what the argument parser has to say: usage is talk, help is an answer.
    pub(crate) fn usage(self, usage: &clap::Error) {
        let usage_text = usage.render();
        let text = |colours| if colours { usage_text.ansi().to_string() } else { usage_text.to_string() };
        if usage.use_stderr() {
            self.say(text(self.talk_colours).trim_end());
        } else {
            let _ = self.text(&text(self.answer_colours)); // help that cannot be written helps nobody, and hurts nobody
        }
    }

    /// Writes the answer: `json` for programs, `text` for people.
    pub(crate) fn answer<T: Serialize>(self, json: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let answer = if self.is_json() {
            let mut line = serde_json::to_string_pretty(json).expect("answers have text keys and no failing parts");
            line.push('\n');
            line
        } else {
            text()
        };
        self.text(&answer).map(drop)
    }

    /// Says a line on stderr.
    pub(crate) fn say(self, line: &str) {
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "{line}");
    }

    /// Says what went wrong on stderr.
    pub(crate) fn error(self, text: &str) {
        if self.talk_colours {
            self.say(&format!("\x1b[1;31merror\x1b[0m: {text}"));
        } else {
            self.say(&format!("error: {text}"));
        }
    }

    /// A task's state for a line on stderr, in the colour that it has in tables.
    pub(crate) fn painted(self, state: TaskState) -> String {
        if self.talk_colours {
            format!("\x1b[{}m{state}\x1b[0m", Colour::of_task(state).forms().1)
        } else {
            state.to_string()
        }
    }

    /// An empty table with these headings, as wide as the terminal.
    pub(crate) fn table(self, headings: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if self.answer_colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let bold = |heading: &&str| Cell::new(heading).add_attribute(Attribute::Bold);
        table.set_header(headings.iter().map(bold));
        table
    }
}

/// A table as text: no blanks at the ends of its lines, one line feed at its own.
pub(crate) fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

/// A colour, for tables and for lines on stderr.
#[derive(Debug, Clone, Copy)]
enum Colour {
    Green,
    Red,
    DarkYellow,
    Yellow,
    Cyan,
    Magenta,
    Grey,
}

impl Colour {
    fn of_task(state: TaskState) -> Self {
        match state {
            TaskState::Success => Self::Green,
            TaskState::Failed => Self::Red,
            TaskState::UpstreamFailed => Self::DarkYellow,
            TaskState::UpForRetry => Self::Yellow,
            TaskState::Running => Self::Cyan,
            TaskState::Skipped => Self::Magenta,
            TaskState::None | TaskState::Queued => Self::Grey,
        }
    }

    fn of_run(state: RunState) -> Self {
        match state {
            RunState::Success => Self::Green,
            RunState::Failed => Self::Red,
            RunState::Running => Self::Cyan,
            RunState::Queued => Self::Grey,
        }
    }

    /// For a table's cell, and the code that a terminal takes.
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

/// A task's state as a cell, coloured as Airflow does.
pub(crate) fn task_state_cell(state: TaskState) -> Cell {
    Cell::new(state).fg(Colour::of_task(state).forms().0)
}

/// A run's state as a cell.
pub(crate) fn run_state_cell(state: RunState) -> Cell {
    Cell::new(state).fg(Colour::of_run(state).forms().0)
}

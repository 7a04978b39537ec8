//! The two streams: stdout is the answer, stderr is talk. The only file that prints.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use serde::Serialize;

use crate::cli::arguments::OutputFormat;
use crate::cli::colour::Colour;
use crate::cli::table::{Field, Table};
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
    answer_width: Option<usize>,
    talk_colours: bool,
    talk_is_terminal: bool,
    talk_width: Option<usize>,
}

impl Printer {
    /// Colours where a terminal reads and `NO_COLOR` is not set.
    pub(crate) fn new(format: OutputFormat, no_color: bool) -> Self {
        let (answer_is_terminal, talk_is_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        // A terminal that nobody told its size says 0.
        let width_of = |stream: &comfy_table::Table| stream.width().map(usize::from).filter(|width| *width > 0);
        Self {
            format,
            answer_colours: !no_color && answer_is_terminal,
            answer_width: width_of(&comfy_table::Table::new()),
            talk_colours: !no_color && talk_is_terminal,
            talk_is_terminal,
            talk_width: width_of(comfy_table::Table::new().use_stderr()),
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

    /// How many characters fit into a line of that terminal, where it says so.
    pub(crate) fn talk_width(self) -> Option<usize> {
        self.talk_width
    }

    /// How many characters fit into a line of the terminal that the answer goes to, where it says so.
    pub(crate) fn answer_width(self) -> Option<usize> {
        self.answer_width
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
    pub(crate) fn usage(self, usage: &clap::Error) -> anyhow::Result<()> {
        let usage_text = usage.render();
        let text = |colours| if colours { usage_text.ansi().to_string() } else { usage_text.to_string() };
        if usage.use_stderr() {
            self.say(text(self.talk_colours).trim_end());
            return Ok(());
        }
        self.text(&text(self.answer_colours)).map(drop)
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
    pub(crate) fn talk_of_task(self, state: TaskState) -> String {
        if self.talk_colours { Colour::of_task(state).paint(state.as_str()) } else { state.to_string() }
    }

    /// Puts the cursor where its line starts: there a terminal writes `^C`, and not into the line below.
    pub(crate) fn rewind(self) {
        if self.talk_is_terminal {
            let mut stderr = io::stderr().lock();
            let _ = stderr.write_all(b"\r").and_then(|()| stderr.flush());
        }
    }

    /// An empty table with these headings, for the terminal's width where one reads.
    pub(crate) fn table(self, headings: &[&str]) -> Table {
        Table::new(headings, self.answer_colours, self.answer_width)
    }

    /// Fields side by side in one line; in several where the terminal is too narrow.
    pub(crate) fn line(self, fields: Vec<Field>) -> String {
        let mut line = self.table(&vec![""; fields.len()]).named_by(fields.len());
        line.row(fields);
        line.paragraphs()
    }
}

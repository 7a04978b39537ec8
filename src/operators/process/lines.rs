//! A command's output as lines: to the attempt's log, with the last few kept for the error.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::error::Elapsed;

use crate::domain::masking::Masks;
use crate::engine::task_log::TaskLog;

/// A longer line is logged in pieces: a command that never ends its line must not fill the memory.
const LONGEST_LINE: usize = 64 * 1024;

/// How many lines an error shows.
const LAST_LINES: usize = 20;

/// How much of each of them.
const LONGEST_SHOWN: usize = 500;

/// What is logged of one attempt at the most; `yes` fills a disk in minutes.
const LOG_LIMIT: usize = 32 * 1024 * 1024;

pub(in crate::operators) struct Lines {
    log: TaskLog,
    logged: usize,
    unfinished: Vec<u8>,
    last: VecDeque<String>,
    /// The line that is being read, whole: what a task may leave as its output.
    line: Line,
    /// The last one that was read.
    last_line: Line,
    /// The longest line that is kept whole.
    longest: u64,
}

/// A line as it was printed; of one that is too long only its length.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    length: u64,
}

/// A last line that is larger than any output may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the last line of what the command printed, which is its output, has {length} bytes, and `outputs.limit` \
     (PINSCHED_OUTPUTS_LIMIT) allows {limit}: write the data to a file or to object storage, and print its name"
)]
pub(in crate::operators) struct LineTooLong {
    length: u64,
    limit: u64,
}

impl Lines {
    pub(super) fn new(log: TaskLog, longest: u64) -> Self {
        let (line, last_line) = (Line::default(), Line::default());
        Self { log, logged: 0, unfinished: Vec::new(), last: VecDeque::new(), line, last_line, longest }
    }

    /// Copies for as long as `main` runs. Safe to drop: what was read is kept, and another call goes on behind it.
    pub(super) async fn copy_while(
        &mut self,
        output: &mut pipe::Receiver,
        main: impl Future<Output = io::Result<ExitStatus>>,
    ) -> io::Result<ExitStatus> {
        let mut main = std::pin::pin!(main);
        tokio::select! {
            status = &mut main => status,
            () = self.copy(output) => main.await,
        }
    }

    /// Copies until the output ends, which is when all who hold it are gone: they have `grace` for it.
    pub(super) async fn copy_rest(&mut self, output: &mut pipe::Receiver, grace: Duration) -> Result<(), Elapsed> {
        let ended = tokio::time::timeout(grace, self.copy(output)).await;
        if !self.unfinished.is_empty() {
            self.finish_line();
        }
        ended
    }

    /// Safe to drop between reads: what was read is kept.
    async fn copy(&mut self, output: &mut pipe::Receiver) {
        let mut buffer = vec![0; 16 * 1024];
        // An error of a pipe's reading end is as final as its end.
        while let Ok(read @ 1..) = output.read(&mut buffer).await {
            for piece in buffer[..read].split_inclusive(|&byte| byte == b'\n') {
                self.take_up(piece);
                self.unfinished.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.unfinished.len() >= LONGEST_LINE {
                    self.finish_line();
                }
            }
        }
    }

    /// Adds to the line that is being read; one that is too long is let go of.
    fn take_up(&mut self, piece: &[u8]) {
        let is_whole = piece.ends_with(b"\n");
        let words = piece.strip_suffix(b"\n").unwrap_or(piece);
        self.line.length += words.len() as u64;
        if self.line.length <= self.longest {
            self.line.bytes.extend_from_slice(words);
        } else {
            self.line.bytes = Vec::new();
        }
        if is_whole {
            self.last_line = std::mem::take(&mut self.line);
        }
    }

    fn finish_line(&mut self) {
        let bytes = std::mem::take(&mut self.unfinished);
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.push(&text);
    }

    fn push(&mut self, line: &str) {
        if self.logged <= LOG_LIMIT {
            self.logged += line.len() + 1;
            self.log.line(line);
            if self.logged > LOG_LIMIT {
                self.log.line(format!("further output is not logged: {} MiB are enough", LOG_LIMIT / 1024 / 1024));
            }
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    /// The last line, empty when there was none.
    ///
    /// # Errors
    /// When it is longer than any output may be.
    pub(in crate::operators) fn last_line(&self) -> Result<String, LineTooLong> {
        let line = if self.line.length > 0 { &self.line } else { &self.last_line };
        if line.length > self.longest {
            return Err(LineTooLong { length: line.length, limit: self.longest });
        }
        let bytes = line.bytes.strip_suffix(b"\r").unwrap_or(&line.bytes);
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The last lines as the end of an error message; masked before they are cut, for a cut secret is not found.
    pub(in crate::operators) fn last_lines(&self, masks: &Masks) -> String {
        let mut text = String::from(if self.last.is_empty() { " and printed nothing" } else { "; its last lines:" });
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        for line in masks.mask(&last.join("\n")).lines() {
            let shown: String = line.chars().take(LONGEST_SHOWN).collect();
            let _ = write!(text, "\n  {shown}");
        }
        text
    }
}

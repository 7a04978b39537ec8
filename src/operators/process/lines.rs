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
use crate::engine::operator::TaskLog;

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
}

impl Lines {
    pub(super) fn new(log: TaskLog) -> Self {
        Self { log, logged: 0, unfinished: Vec::new(), last: VecDeque::new() }
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
                self.unfinished.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.unfinished.len() >= LONGEST_LINE {
                    self.finish_line();
                }
            }
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
    pub(in crate::operators) fn last_line(&self) -> String {
        self.last.back().cloned().unwrap_or_default()
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

//! The lines that an attempt logs, on their way from whoever says them to the store. A channel of the runtime's is ten times
//! as large where nothing is said, and thousands of attempts may be silent for days.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where an attempt says its lines. Clones write the same log; the last one's end is the log's.
#[derive(Clone)]
pub struct TaskLog(Arc<Writers>);

/// All that write one log: the last one's end is the log's.
struct Writers(Arc<Said>);

impl Drop for Writers {
    fn drop(&mut self) {
        self.0.lines().are_complete = true;
        self.0.changed.notify_one();
    }
}

/// What was said and not read.
#[derive(Default)]
struct Said {
    lines: Mutex<Lines>,
    changed: Notify,
}

#[derive(Default)]
struct Lines {
    unread: VecDeque<String>,
    /// Nobody is left who writes, or who reads.
    are_complete: bool,
}

impl Said {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TaskLog {
    /// A log, and where its lines are read.
    #[must_use]
    pub fn new() -> (Self, LogReader) {
        let said = Arc::new(Said::default());
        (Self(Arc::new(Writers(Arc::clone(&said)))), LogReader(said))
    }

    /// Adds a line (no `\n` at its end). Never payloads, never secrets.
    pub fn line(&self, line: impl Into<String>) {
        let said = &self.0.0;
        let mut lines = said.lines();
        if lines.are_complete {
            return; // the attempt is over: nobody is left to read
        }
        lines.unread.push_back(line.into());
        drop(lines);
        said.changed.notify_one();
    }
}

/// Reads the lines of a [`TaskLog`].
pub struct LogReader(Arc<Said>);

impl LogReader {
    /// The next line; nothing once no writer is left, or the log was closed, and all was read.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            {
                let mut lines = self.0.lines();
                if let Some(line) = lines.unread.pop_front() {
                    if lines.unread.is_empty() {
                        lines.unread = VecDeque::new(); // its room, too, is given back
                    }
                    return Some(line);
                }
                if lines.are_complete {
                    return None;
                }
            }
            self.0.changed.notified().await; // what was said since the look above is remembered
        }
    }

    /// Takes no more lines than those that were said by now.
    pub fn close(&mut self) {
        self.0.lines().are_complete = true;
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        *self.0.lines() = Lines { unread: VecDeque::new(), are_complete: true };
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn read_now(reader: &mut LogReader) -> Option<Option<String>> {
        reader.next().now_or_never()
    }

    #[test]
    fn lines_are_read_in_their_order_until_the_last_writer_is_gone() {
        let (log, mut reader) = TaskLog::new();
        let other = log.clone();
        log.line("one");
        other.line("two");
        assert_eq!(read_now(&mut reader), Some(Some("one".to_owned())));
        drop(log);
        assert_eq!(read_now(&mut reader), Some(Some("two".to_owned())));
        assert_eq!(read_now(&mut reader), None, "somebody may say more");
        other.line("three");
        drop(other);
        assert_eq!(read_now(&mut reader), Some(Some("three".to_owned())));
        assert_eq!(read_now(&mut reader), Some(None));
    }

    #[test]
    fn a_closed_log_gives_what_was_said_before_and_takes_no_more() {
        let (log, mut reader) = TaskLog::new();
        log.line("before");
        reader.close();
        log.line("after");
        assert_eq!(read_now(&mut reader), Some(Some("before".to_owned())));
        assert_eq!(read_now(&mut reader), Some(None));
    }

    #[tokio::test]
    async fn who_waits_for_a_line_wakes_by_it_and_by_the_end() {
        let (log, mut reader) = TaskLog::new();
        let said = async {
            tokio::task::yield_now().await;
            log.line("at last");
            tokio::task::yield_now().await;
            drop(log);
        };
        let read = async { (reader.next().await, reader.next().await) };
        assert_eq!(tokio::join!(read, said).0, (Some("at last".to_owned()), None));
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let (log, reader) = TaskLog::new();
        log.line("unread");
        drop(reader);
        log.line("to nobody");
        assert!(log.0.0.lines().unread.is_empty());
    }
}

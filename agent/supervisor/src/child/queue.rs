//! The events that wait to be taken.
//!
//! Bounded, and never blocking the one who puts: if it did, a slow reader would fill the pipe, and a child that
//! cannot write its log stops working. So the oldest lines are dropped and counted; they are in the log file all the same.
//! The end is never dropped.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Event, ExitStatus, Line};

/// A verbose build writes some hundred lines a second; this is several seconds of that.
const MAX_LINES: usize = 4096;
/// With long lines this bound is reached first.
const MAX_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told after each change. One reader: `next` is only called through `&mut Child`.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Line>,
    /// The sum of the lines' text, in bytes.
    bytes: usize,
    /// Lines that were dropped before the first one.
    dropped: u64,
    exit: Option<ExitStatus>,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, line: Line) {
        let mut waiting = self.lock();
        waiting.bytes += line.text.len();
        waiting.lines.push_back(line);
        // The newest line stays, however long it is.
        while waiting.lines.len() > MAX_LINES || (waiting.bytes > MAX_BYTES && waiting.lines.len() > 1) {
            if let Some(oldest) = waiting.lines.pop_front() {
                waiting.bytes -= oldest.text.len();
                waiting.dropped += 1;
            }
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Nothing follows but the exit, if there is one.
    pub(super) fn close(&self, exit: Option<ExitStatus>) {
        let mut waiting = self.lock();
        waiting.exit = exit;
        waiting.closed = true;
        drop(waiting);
        self.changed.notify_one();
    }

    pub(super) async fn next(&self) -> Option<Event> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(event) = waiting.take() {
                    return Some(event);
                }
                if waiting.closed {
                    return None;
                }
            }
            // A change since the look above has left its permit here.
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // At worst a panic elsewhere leaves the count of bytes wrong.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Event> {
        if self.dropped > 0 {
            return Some(Event::Dropped {
                lines: std::mem::take(&mut self.dropped),
            });
        }
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.text.len();
            return Some(Event::Line(line));
        }
        self.exit.take().map(Event::Exited)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;

    #[tokio::test]
    async fn oldest_lines_are_dropped_and_counted_and_the_end_is_kept() {
        let queue = Queue::default();
        for number in 0..MAX_LINES + 10 {
            queue.push(line(&number.to_string()));
        }
        let exit = ExitStatus {
            code: Some(0),
            signal: None,
        };
        queue.close(Some(exit));
        assert_eq!(queue.next().await, Some(Event::Dropped { lines: 10 }));
        for number in 10..MAX_LINES + 10 {
            assert_eq!(queue.next().await, Some(Event::Line(line(&number.to_string()))));
        }
        assert_eq!(queue.next().await, Some(Event::Exited(exit)));
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let queue = Queue::default();
        let long = "x".repeat(MAX_BYTES / 4);
        for _ in 0..7 {
            queue.push(line(&long));
        }
        assert!(queue.lock().bytes <= MAX_BYTES);
        assert_eq!(queue.next().await, Some(Event::Dropped { lines: 3 }));
        queue.push(line(&"y".repeat(2 * MAX_BYTES)));
        assert_eq!(queue.next().await, Some(Event::Dropped { lines: 4 }));
        let Some(Event::Line(newest)) = queue.next().await else {
            panic!("the newest line stays")
        };
        assert_eq!(newest.text.len(), 2 * MAX_BYTES);
    }

    #[tokio::test]
    async fn waiting_reader_is_woken() {
        let queue = std::sync::Arc::new(Queue::default());
        let reader = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { (queue.next().await, queue.next().await) }
        });
        tokio::task::yield_now().await;
        queue.push(line("one"));
        tokio::task::yield_now().await;
        queue.close(None);
        assert_eq!(reader.await.unwrap(), (Some(Event::Line(line("one"))), None));
    }

    fn line(text: &str) -> Line {
        Line {
            stream: Stream::Stdout,
            text: text.to_owned(),
            cut: false,
        }
    }
}

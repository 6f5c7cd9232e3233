//! What the demo says, and how much of it.
//!
//! A person who starts the demo reads at most [`LINES`] lines from start to end, so the lines are
//! counted. Those that show how the device's state changes may not use up the ones that say how the
//! demo ends. With `--check` the same lines go to stderr, and stdout carries the result alone.
//!
//! A screen that is gone (a closed pipe) is no reason to fail: what was started must still be stopped. Whoever asked for
//! [`Screen::gone`] is told.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use tokio::sync::Notify;

use super::shell;

/// Lines that a demo prints at most, the build's own progress set aside.
const LINES: usize = 20;
/// Lines kept back for the end of the demo.
const RESERVED: usize = 3;
/// The same with `--check`, which may have to say what is missing.
const RESERVED_FOR_CHECK: usize = 6;
/// Columns of the narrowest terminal that is thought of: a line that is longer is broken there, where nobody would break it.
const COLUMNS: usize = 80;
/// Columns before the text of a labelled line: two spaces, the label, a space.
const LABELLED: usize = 13;
/// Lines of a demo that stops in order: that it stops, and that it has.
const STOPPING: usize = 2;

/// Where the demo speaks.
pub(crate) struct Screen {
    out: Box<dyn Write>,
    colour: bool,
    left: usize,
    reserved: usize,
    /// What is said when there is no room for more changes.
    no_more: &'static str,
    gone: Arc<Notify>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Screen {
    /// Speaks on stdout.
    pub(crate) fn for_people() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_more = "further changes: `orfe status` and the dashboard";
        Self::new(Box::new(std::io::stdout()), terminal, RESERVED, no_more)
    }

    /// Speaks on stderr; stdout is left to the result.
    pub(crate) fn for_check() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let no_more = "further changes are left out, until the end";
        Self::new(Box::new(std::io::stderr()), terminal, RESERVED_FOR_CHECK, no_more)
    }

    fn new(out: Box<dyn Write>, terminal: bool, reserved: usize, no_more: &'static str) -> Self {
        let is = |name: &str, wrong: fn(&str) -> bool| {
            std::env::var_os(name).is_some_and(|value| wrong(&value.to_string_lossy()))
        };
        let plain = is("NO_COLOR", |value| !value.is_empty()) || is("TERM", |value| value == "dumb");
        Self {
            out,
            colour: terminal && !plain,
            left: LINES,
            reserved,
            no_more,
            gone: Arc::default(),
        }
    }

    /// Told when nobody can read the screen any more.
    pub(crate) fn gone(&self) -> Arc<Notify> {
        self.gone.clone()
    }

    /// Looks whether stdout still has its reader; a line that is written tells, too, but may be long in coming.
    pub(crate) fn check(&self) {
        if is_closed(std::io::stdout().as_fd()) {
            self.gone.notify_one();
        }
    }

    /// A labelled line of the opening. A text that has no room beside its label stands below it.
    pub(crate) fn part(&mut self, label: &str, text: &str) {
        if LABELLED + text.chars().count() <= COLUMNS {
            self.labelled(label, text);
        } else {
            self.labelled(label, "");
            self.line(&format!("    {text}"));
        }
    }

    /// A labelled command line to paste into a shell, in as many lines as it needs.
    pub(crate) fn command(&mut self, label: &str, words: &[String]) {
        for (index, line) in shell::folded(words, COLUMNS - LABELLED).iter().enumerate() {
            self.labelled(if index == 0 { label } else { "" }, line);
        }
    }

    fn labelled(&mut self, label: &str, text: &str) {
        let line = if self.colour {
            format!("  \x1b[1m{label:<10}\x1b[0m {text}")
        } else {
            format!("  {label:<10} {text}")
        };
        self.line(line.trim_end());
    }

    /// A line that shows a change; when too many came, one last line says so, and where to look instead.
    pub(crate) fn change(&mut self, text: &str) {
        match self.left.saturating_sub(self.reserved) {
            0 => {}
            1 => self.line(&format!("  … {}", self.no_more)),
            _ => self.line(&format!("  {text}")),
        }
    }

    /// The entries that there is room for, and how many more there are.
    pub(crate) fn list(&mut self, entries: &[String]) {
        let room = self.left.saturating_sub(STOPPING);
        let shown = if entries.len() <= room {
            entries.len()
        } else {
            room.saturating_sub(1)
        };
        for entry in &entries[..shown] {
            self.line(&format!("  {entry}"));
        }
        if shown < entries.len() && room > 0 {
            self.line(&format!("  … {} more, in the result", entries.len() - shown));
        }
    }

    /// A plain line.
    pub(crate) fn line(&mut self, text: &str) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let written = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            self.gone.notify_one();
        }
    }
}

/// Whether whatever is behind `fd` has been closed at its other end.
fn is_closed(fd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::empty())];
    // An error or a hang-up is reported unasked.
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|found| found > 0)
}

/// Takes what the build's progress left on its terminal line away, so that a shell's prompt begins on an empty one. Fails
/// for nobody: without a terminal there is no such line.
pub(crate) fn clear_progress() {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // To the line's begin, and clear to the screen's end: a narrow terminal broke the line.
        let _ = stderr.write_all(b"\r\x1b[J").and_then(|()| stderr.flush());
    }
}

/// Prints the one JSON object of `--check`, on stdout.
pub(crate) fn print_result(report: &Value) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{report}")
        .and_then(|()| stdout.flush())
        .context("cannot write the result to standard output")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use std::os::fd::AsFd as _;

    use super::{LINES, RESERVED, RESERVED_FOR_CHECK, Screen, is_closed};

    const NO_MORE: &str = "further changes elsewhere";

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn changes_leave_room_for_the_end_and_the_whole_stays_within_its_lines() {
        let page = Page::default();
        let mut screen = Screen::new(Box::new(page.clone()), false, RESERVED, NO_MORE);
        screen.part("dashboard", "http://127.0.0.1:1/");
        for n in 0..100 {
            screen.change(&format!("change {n}"));
        }
        screen.line("stopping");
        screen.line("stopped");
        screen.line("bye");
        screen.line("one too many");

        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), LINES);
        assert!(lines[LINES - RESERVED - 1].contains(NO_MORE), "{text}");
        assert_eq!(&lines[LINES - RESERVED..], ["stopping", "stopped", "bye"]);
        assert!(!text.contains('\x1b'), "no colour without a terminal");
    }

    #[test]
    fn what_is_long_is_broken_where_a_person_would() {
        let page = Page::default();
        let mut screen = Screen::new(Box::new(page.clone()), false, RESERVED, NO_MORE);
        let link = format!("http://127.0.0.1:1/{}", "x".repeat(50));
        screen.part("dashboard", &link);
        let program = format!("/{}/orfe", "p".repeat(40));
        let words = [&program, "--control", "/tmp/orfe-demo-123456/d1.sock", "status"];
        screen.command("look", &words.map(str::to_owned));

        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let expected = format!(
            "  dashboard\n    {link}\n  look       {program} \\\n             --control {} status\n",
            words[2]
        );
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.len() <= super::COLUMNS), "{text}");
    }

    #[test]
    fn what_is_missing_leaves_room_for_the_end() {
        let page = Page::default();
        let mut screen = Screen::new(Box::new(page.clone()), false, RESERVED_FOR_CHECK, NO_MORE);
        for n in 0..100 {
            screen.change(&format!("change {n}"));
        }
        screen.line("not healthy; still missing:");
        screen.list(&["a", "b", "c", "d"].map(str::to_owned));
        screen.line("stopping");
        screen.line("stopped");

        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), LINES);
        assert_eq!(
            &lines[LINES - 5..],
            ["  a", "  b", "  … 2 more, in the result", "stopping", "stopped"]
        );
    }

    #[test]
    fn a_pipe_is_closed_when_its_reader_is_gone() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_closed(writer.as_fd()));
        drop(reader);
        assert!(is_closed(writer.as_fd()));
    }

    #[tokio::test]
    async fn whoever_asked_is_told_that_nobody_reads() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut screen = Screen::new(Box::new(writer), false, RESERVED, NO_MORE);
        let gone = screen.gone();
        drop(reader);
        screen.line("hello?");
        gone.notified().await;
    }
}

//! What the demo says, and how much of it.
//!
//! A person who starts the demo reads at most [`LINES`] lines from start to end, so the lines are
//! counted. Those that show how the device's state changes may not use up the ones that say how the
//! demo ends. With `--check` the same lines go to stderr, and stdout carries the result alone.
//!
//! A screen that is gone (a closed pipe) is no reason to fail: what was started must still be stopped.

use std::io::{IsTerminal as _, Write};

use serde_json::Value;

/// Lines that a demo prints at most, the build's own progress set aside.
const LINES: usize = 20;
/// Lines kept back for the end of the demo.
const RESERVED: usize = 3;

/// Where the demo speaks.
pub(crate) struct Screen {
    out: Box<dyn Write>,
    colour: bool,
    left: usize,
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
        Self::new(Box::new(std::io::stdout()), std::io::stdout().is_terminal())
    }

    /// Speaks on stderr; stdout is left to the result.
    pub(crate) fn for_check() -> Self {
        Self::new(Box::new(std::io::stderr()), std::io::stderr().is_terminal())
    }

    fn new(out: Box<dyn Write>, terminal: bool) -> Self {
        Self {
            out,
            colour: terminal,
            left: LINES,
        }
    }

    /// A labelled line of the opening.
    pub(crate) fn part(&mut self, label: &str, text: &str) {
        if self.colour {
            self.line(&format!("  \x1b[1m{label:<10}\x1b[0m {text}"));
        } else {
            self.line(&format!("  {label:<10} {text}"));
        }
    }

    /// A line that shows a change; when too many came, one last line says where to look instead.
    pub(crate) fn change(&mut self, text: &str) {
        match self.left.saturating_sub(RESERVED) {
            0 => {}
            1 => self.line("  … further changes: `orfe status` and the dashboard"),
            _ => self.line(&format!("  {text}")),
        }
    }

    /// A plain line.
    pub(crate) fn line(&mut self, text: &str) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }
}

/// Prints the one JSON object of `--check`, on stdout.
pub(crate) fn print_result(report: &Value) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{report}");
    let _ = stdout.flush();
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::{LINES, RESERVED, Screen};

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
        let mut screen = Screen::new(Box::new(page.clone()), false);
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
        assert!(lines[LINES - RESERVED - 1].contains("further changes"), "{text}");
        assert_eq!(&lines[LINES - RESERVED..], ["stopping", "stopped", "bye"]);
        assert!(!text.contains('\x1b'), "no colour without a terminal");
    }
}

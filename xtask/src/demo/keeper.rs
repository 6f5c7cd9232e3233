//! The keeper: cleans up after a demo whose own process was killed.
//!
//! The demo starts its keeper first and tells it, over the keeper's stdin, which folder and which
//! processes it owns. The keeper does nothing until that pipe ends. When the demo ended in order it
//! said `done` before; when it did not, it was killed, and the keeper ends the processes in the demo's
//! order and removes the folder. The keeper is in a process group of its own, so that what a terminal
//! or a shell sends to the demo's group does not reach it.

use std::fmt::Display;
use std::io::{BufRead, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::folder::is_demo_folder;
use super::leftover;

/// How long a process may take to end after SIGTERM, before it is killed.
const GRACE: Duration = Duration::from_secs(8);
/// How often to look whether a process has ended; it is not our child, so nobody tells.
const LOOK: Duration = Duration::from_millis(50);

/// The demo's end of its keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts a keeper for `folder`; with `keep_folder` it leaves the folder where it is.
    pub(crate) fn start(folder: &Path, keep_folder: bool) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        let mut child = Command::new(program)
            .arg("demo-keeper")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the demo's keeper")?;
        let pipe = child.stdin.take();
        let mut keeper = Self { child, pipe };
        if keep_folder {
            keeper.tell("keep", "")?;
        }
        keeper.tell("folder", folder.display())?;
        Ok(keeper)
    }

    /// Hands over a process that was just started. The last one handed over is ended first.
    pub(crate) fn process(&mut self, pid: u32) -> Result<()> {
        self.tell("process", pid)
    }

    /// Says that a process has ended and been waited for: its pid may soon be another's.
    pub(crate) fn gone(&mut self, pid: u32) -> Result<()> {
        self.tell("gone", pid)
    }

    /// Says that everything has been cleaned up, and waits for the keeper to end.
    pub(crate) fn done(mut self) -> Result<()> {
        self.tell("done", "")?;
        self.pipe = None;
        self.child.wait().context("cannot wait for the demo's keeper")?;
        Ok(())
    }

    fn tell(&mut self, word: &str, what: impl Display) -> Result<()> {
        let pipe = self
            .pipe
            .as_mut()
            .context("the demo's keeper was dismissed already")?;
        writeln!(pipe, "{word} {what}").context("the demo's keeper has died")
    }
}

/// What the keeper has been told.
#[derive(Debug, Default)]
struct Charge {
    folder: Option<PathBuf>,
    keep_folder: bool,
    /// In the order of their start.
    processes: Vec<i32>,
    done: bool,
}

impl Charge {
    fn hear(&mut self, line: &str) {
        let (word, what) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "keep" => self.keep_folder = true,
            "folder" => self.folder = Some(PathBuf::from(what)),
            "process" => self
                .processes
                .extend(what.parse::<i32>().ok().filter(|&pid| pid > 1)),
            "gone" => self.processes.retain(|pid| what.parse() != Ok(*pid)),
            "done" => self.done = true,
            _ => {}
        }
    }
}

/// The keeper's whole life: listens until `orders` ends, then cleans up if nobody said `done`.
pub(crate) fn watch_over(orders: impl BufRead) -> Result<()> {
    let mut charge = Charge::default();
    // A broken line is the end of the demo like any other.
    for line in orders.lines().map_while(Result::ok) {
        charge.hear(&line);
    }
    if charge.done {
        return Ok(());
    }
    for &pid in charge.processes.iter().rev() {
        end(pid);
    }
    let Some(folder) = charge.folder else {
        return Ok(());
    };
    end_leftovers(&folder);
    // A demo that panicked may have removed its folder itself.
    if charge.keep_folder || !is_demo_folder(&folder) {
        return Ok(());
    }
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Ends what still runs with its temporary files in `folder`; returns how many there were.
pub(crate) fn end_leftovers(folder: &Path) -> usize {
    let leftovers = leftover::processes(folder);
    leftovers.iter().copied().for_each(end);
    leftovers.len()
}

/// SIGTERM, and SIGKILL after the grace.
fn end(pid: i32) {
    let pid = Pid::from_raw(pid);
    if kill(pid, Signal::SIGTERM) == Err(Errno::ESRCH) {
        return;
    }
    let deadline = Instant::now() + GRACE;
    while runs(pid) {
        if Instant::now() >= deadline {
            // It ended in this very moment, or it cannot be ended by us.
            let _ = kill(pid, Signal::SIGKILL);
            return;
        }
        thread::sleep(LOOK);
    }
}

/// Whether the process still runs; one that has ended and awaits its parent does not.
fn runs(pid: Pid) -> bool {
    if kill(pid, None).is_err() {
        return false;
    }
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        // No such file: the process just ended, or the system has no /proc.
        return !Path::new("/proc/self/stat").exists();
    };
    // The state follows the name, which stands in parentheses and may hold any character.
    stat.rsplit(") ").next().is_none_or(|rest| !rest.starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    use super::super::folder::Folder;
    use super::{Charge, watch_over};

    fn sleeper() -> std::process::Child {
        Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_demo_that_was_killed_is_cleaned_up_after() {
        let folder = Folder::create(true).unwrap();
        let mut child = sleeper();
        let orders = format!("folder {}\nprocess {}\n", folder.path().display(), child.id());

        watch_over(orders.as_bytes()).unwrap();

        assert_eq!(child.wait().unwrap().signal(), Some(15));
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_demo_that_ended_in_order_is_left_alone() {
        let folder = Folder::create(false).unwrap();
        let mut child = sleeper();
        let orders = format!(
            "folder {}\nprocess {}\ndone \n",
            folder.path().display(),
            child.id()
        );

        watch_over(orders.as_bytes()).unwrap();

        assert!(child.try_wait().unwrap().is_none(), "the process was ended");
        assert!(folder.path().exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn foreign_folders_and_odd_pids_are_never_touched() {
        let foreign = tempfile::tempdir().unwrap();
        let orders = format!(
            "folder {}\nprocess 1\nprocess 0\nprocess -1\nprocess x\nwhat\n",
            foreign.path().display()
        );
        let mut charge = Charge::default();
        orders.lines().for_each(|line| charge.hear(line));
        assert_eq!(charge.processes, Vec::<i32>::new());

        watch_over(orders.as_bytes()).unwrap();
        assert!(foreign.path().exists());
    }
}

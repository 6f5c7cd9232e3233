//! A supervised child: its handle, its events, and how it is started.
//!
//! The child is owned by a private task, which reads its output and waits for it. [`Child`] holds that task and the queue
//! of events; dropping it ends the task and nothing else: the child goes on, without anybody reading. What ends the child
//! goes through [`ChildHandle`], which can be cloned and needs no task: signals are sent to an identity, and a tree is killed
//! by looking at the process table.

mod actor;
mod lines;
mod queue;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orfe_platform::private::PrivateFileError;
use orfe_platform::process::{self, ProcessError, ProcessId, Signal};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::actor::Actor;
pub(crate) use self::lines::{Lines, Sink, Source};
use self::queue::Queue;
use crate::imp;
use crate::log_file::LogFile;
use crate::reaper;
use crate::redact::Redactor;
use crate::spec::Spec;
use crate::tree::{self, KillError, Tree};

/// How long [`ChildHandle::kill_tree`] waits for processes to be gone. SIGKILL takes effect at once but for processes in
/// uninterruptible sleep, for which no wait is long enough.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What a child does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote a line.
    Line(Line),
    /// Lines were dropped here, because they were not taken in time; they are in the log file.
    Dropped {
        /// How many.
        lines: u64,
    },
    /// It ended. The last event.
    Exited(ExitStatus),
}

/// A line of output, without its end, and without the child's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it was written.
    pub stream: Stream,
    /// What was written; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Whether the line was longer than 64 KiB, and its end is missing.
    pub cut: bool,
}

/// The streams of a child. Lines of one are in order, between the two there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a child ended: one of the two, or none where the system did not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// What it returned.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl ExitStatus {
    /// Whether it returned 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "ended by signal {signal}"),
            (None, None) => f.write_str("ended, nobody knows how"),
        }
    }
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system did not start the program.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The working folder is not there.
    #[error("the working folder {path} is not a folder")]
    WorkingFolder {
        /// The folder.
        path: PathBuf,
    },
    /// An argument holds one of the secrets; every user of the machine would see it.
    #[error("argument {index} of {program} holds a secret")]
    SecretInArguments {
        /// The program.
        program: PathBuf,
        /// Which argument, counted from 1.
        index: usize,
    },
    /// The marker names no plain variable of the environment.
    #[error("the marker {name} is no plain variable of the child's environment")]
    Marker {
        /// The marker's name.
        name: String,
    },
    /// The log file cannot be used.
    #[error(transparent)]
    Log(#[from] PrivateFileError),
    /// The child was started and ended again, because it cannot be found in the process table.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl SpawnError {
    /// What to do about it, for the `hint:` line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Start { program, source } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some(format!("install `{}`, or name another one", program.display()))
                }
                io::ErrorKind::PermissionDenied => Some(format!("run `chmod +x {}`", program.display())),
                _ => None,
            },
            Self::Log(error) => error.hint(),
            Self::SecretInArguments { .. } => Some("hand it over by environment or by file".to_owned()),
            Self::WorkingFolder { .. } | Self::Marker { .. } | Self::Process(_) => None,
        }
    }
}

/// A supervised child.
#[derive(Debug)]
pub struct Child {
    handle: ChildHandle,
    queue: Arc<Queue>,
    /// Ends the task when this is dropped.
    _guard: DropGuard,
    /// The task has nobody else; it ends by itself after the child, or by the guard.
    _task: JoinHandle<()>,
}

impl Child {
    /// Starts the program of `spec`. Needs a tokio runtime; blocks for a few milliseconds.
    pub fn spawn(spec: &Spec) -> Result<Self, SpawnError> {
        let redactor = Redactor::new(spec.all_secrets());
        check(spec, &redactor)?;
        let marker = spec.marker_with_value();
        let log = spec.log_file.clone().map(LogFile::open).transpose()?;
        let mut command = command(spec);
        let (mut process, pid, registration) =
            reaper::spawn_registered(|| command.spawn()).map_err(|source| SpawnError::Start {
                program: spec.program.clone(),
                source,
            })?;

        // Nobody has waited for it, so the number is still its own, even if it has ended.
        let identity = match process::identify(pid) {
            Ok(Some(identity)) => identity,
            other => {
                // It cannot be supervised; a failed kill leaves nothing more to do.
                let _ = process.start_kill();
                let gone = || ProcessError {
                    action: "find a new child in the process table",
                    pid: Some(pid),
                    source: io::ErrorKind::NotFound.into(),
                };
                return Err(other.err().unwrap_or_else(gone).into());
            }
        };
        tracing::debug!(slot = spec.slot, pid, program = %spec.program.display(), "child started");

        let tree = Arc::new(Mutex::new(Tree::new(identity, marker, Some(registration))));
        let queue = Arc::new(Queue::default());
        let lines = Lines::new(
            process.stdout.take().map(|stdout| Box::new(stdout) as Source),
            process.stderr.take().map(|stderr| Box::new(stderr) as Source),
        );
        let token = CancellationToken::new();
        let actor = Actor {
            slot: spec.slot,
            process,
            lines,
            sink: Sink::new(redactor, log),
            queue: Arc::clone(&queue),
            tree: Arc::clone(&tree),
        };
        let task = tokio::spawn(actor.run(token.clone()));
        Ok(Self {
            handle: ChildHandle { identity, tree },
            queue,
            _guard: token.drop_guard(),
            _task: task,
        })
    }

    /// The next event; `None` after [`Event::Exited`]. Safe to use in `select!`: nothing is lost when it is dropped.
    pub async fn next_event(&mut self) -> Option<Event> {
        self.queue.next().await
    }

    /// The means to end it, to be used from anywhere.
    pub fn handle(&self) -> ChildHandle {
        self.handle.clone()
    }

    /// Who it is; to be kept on disk, with the boot's id.
    pub fn identity(&self) -> ProcessId {
        self.handle.identity
    }
}

/// The means to end a child. Works for as long as anything of its tree is there, after [`Event::Exited`] too.
#[derive(Debug, Clone)]
pub struct ChildHandle {
    identity: ProcessId,
    tree: Arc<Mutex<Tree>>,
}

impl ChildHandle {
    /// Who the child is.
    pub fn identity(&self) -> ProcessId {
        self.identity
    }

    /// Asks the child, and none of its descendants, to finish what it does and end: SIGTERM. `false` when it has ended
    /// already. On Windows an error of kind `Unsupported`.
    pub fn drain(&self) -> Result<bool, ProcessError> {
        self.ask(Signal::Terminate)
    }

    /// Asks the child, and none of its descendants, to cancel what it does and end: SIGINT. `false` when it has ended
    /// already. On Windows an error of kind `Unsupported`.
    pub fn interrupt(&self) -> Result<bool, ProcessError> {
        self.ask(Signal::Interrupt)
    }

    fn ask(&self, signal: Signal) -> Result<bool, ProcessError> {
        // Descendants that lose their parent by this are known from now on; without it they may still be found.
        if let Err(error) = tree::lock(&self.tree).look() {
            tracing::warn!(pid = self.identity.pid, error = %error, "descendants of a child are not known");
        }
        process::send(&self.identity, signal)
    }

    /// The processes of the tree that run, the child among them.
    pub fn processes(&self) -> Result<Vec<ProcessId>, ProcessError> {
        let members = tree::lock(&self.tree).look()?;
        Ok(members
            .iter()
            .filter(|entry| !entry.zombie)
            .map(|entry| entry.id)
            .collect())
    }

    /// Kills the child and everything that came out of it, and returns when nobody is left, within 10 s. Returns whether
    /// there was anybody. To be called after [`Event::Exited`] too: a child that crashed leaves its terraform behind.
    pub async fn kill_tree(&self) -> Result<bool, KillError> {
        tree::kill(&self.tree, KILL_LIMIT).await
    }
}

fn check(spec: &Spec, redactor: &Redactor) -> Result<(), SpawnError> {
    if let Some(index) = spec
        .args
        .iter()
        .position(|arg| redactor.finds(&arg.to_string_lossy()))
    {
        return Err(SpawnError::SecretInArguments {
            program: spec.program.clone(),
            index: index + 1,
        });
    }
    if let Some(name) = &spec.marker
        && spec.marker_with_value().is_none()
    {
        return Err(SpawnError::Marker {
            name: name.to_string_lossy().into_owned(),
        });
    }
    // Without this a missing folder looks like a missing program.
    if !spec.cwd.is_dir() {
        return Err(SpawnError::WorkingFolder {
            path: spec.cwd.clone(),
        });
    }
    Ok(())
}

fn command(spec: &Spec) -> Command {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value.as_os_str())))
        .current_dir(&spec.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(false);
    imp::prepare(&mut command);
    command
}

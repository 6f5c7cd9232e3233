//! Being asked to stop.
//!
//! [`Termination`] is registered once at start; from then on the named signals no longer end the process by
//! themselves. Signals that arrive between two calls of [`Termination::recv`] are kept, but several of one kind
//! may be told as one.

use std::io;

use crate::imp;

/// What asked this process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `SIGTERM`; on Windows closing the console, logging off or shutting down.
    Terminate,
    /// `SIGINT`; on Windows ctrl-c or ctrl-break.
    Interrupt,
    /// `SIGHUP`; never on Windows.
    Hangup,
}

/// The stream of requests to stop.
#[derive(Debug)]
pub struct Termination(imp::signals::Streams);

impl Termination {
    /// Registers for the signals. Needs a tokio runtime with its I/O driver.
    pub fn new() -> io::Result<Self> {
        imp::signals::Streams::new().map(Self)
    }

    /// Waits for the next request. Safe to use in `select!`: nothing is lost when it is dropped.
    pub async fn recv(&mut self) -> Signal {
        self.0.recv().await
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal as Raw, getpid, kill_process};

    use super::*;

    // One test for all three: signals reach the whole test process.
    #[tokio::test]
    async fn each_signal_is_told_by_its_name() {
        let mut termination = Termination::new().unwrap();
        for (raw, expected) in [
            (Raw::TERM, Signal::Terminate),
            (Raw::INT, Signal::Interrupt),
            (Raw::HUP, Signal::Hangup),
        ] {
            kill_process(getpid(), raw).unwrap();
            let signal = tokio::time::timeout(Duration::from_secs(10), termination.recv())
                .await
                .unwrap();
            assert_eq!(signal, expected);
        }
    }
}

//! Termination signals by tokio's handlers.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::signals::Signal;

#[derive(Debug)]
pub(crate) struct Streams {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Streams {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn recv(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.hangup.recv() => Signal::Hangup,
        }
    }
}

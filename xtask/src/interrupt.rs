//! The signals that ask a command to stop.

pub(crate) use imp::Interrupts;

#[cfg(unix)]
mod imp {
    use anyhow::{Context as _, Result};
    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// Ctrl-C, SIGTERM, and the closing of the terminal, from the moment this is made.
    #[derive(Debug)]
    pub(crate) struct Interrupts {
        interrupt: Signal,
        terminate: Signal,
        hangup: Signal,
    }

    impl Interrupts {
        pub(crate) fn listen() -> Result<Self> {
            let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
            Ok(Self {
                interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
                terminate: listen(SignalKind::terminate(), "SIGTERM")?,
                hangup: listen(SignalKind::hangup(), "SIGHUP")?,
            })
        }

        /// Waits for the next one.
        pub(crate) async fn next(&mut self) {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.hangup.recv() => {}
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use anyhow::Result;

    /// Ctrl-C, from the moment this is first awaited.
    #[derive(Debug)]
    pub(crate) struct Interrupts;

    impl Interrupts {
        #[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
        pub(crate) fn listen() -> Result<Self> {
            Ok(Self)
        }

        /// Waits for the next one.
        pub(crate) async fn next(&mut self) {
            if tokio::signal::ctrl_c().await.is_err() {
                // It cannot be heard: then nothing interrupts.
                std::future::pending::<()>().await;
            }
        }
    }
}

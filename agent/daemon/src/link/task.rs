//! The task that carries the daemon's session, and the handle to it.
//!
//! The core says when to connect and what to send; this task only does it. One task lives for one session. Its news
//! goes into the daemon's event queue, tagged with a number, so that the last words of a session that was closed
//! are not taken for the next one's.

use orfe_core::session::Closed;
use orfe_protocol::key::NoisePrivateKey;
use orfe_protocol::message::{FromAgent, FromRegistry};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{InnerWay, LinkError, Received, RegistryAddress, STEP_TIMEOUT};

/// Messages that wait for the socket. The agent says little; a full queue is a dead socket, and the session is given up.
const OUTBOX: usize = 64;

/// News of a session.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Connected,
    Message(Box<FromRegistry>),
    Closed(Closed),
}

/// The daemon's way to the registry.
#[derive(Debug)]
pub(crate) struct Link {
    registry: RegistryAddress,
    key: NoisePrivateKey,
    inner: InnerWay,
    events: mpsc::Sender<(u64, LinkEvent)>,
    tasks: TaskTracker,
    session: u64,
    live: Option<(mpsc::Sender<FromAgent>, CancellationToken)>,
}

impl Link {
    pub(crate) fn new(
        registry: RegistryAddress,
        key: NoisePrivateKey,
        inner: InnerWay,
        events: mpsc::Sender<(u64, LinkEvent)>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            registry,
            key,
            inner,
            events,
            tasks,
            session: 0,
            live: None,
        }
    }

    /// Begins a session; the old one, if any, ends.
    pub(crate) fn connect(&mut self) {
        self.close();
        self.session += 1;
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let stop = CancellationToken::new();
        self.live = Some((outbox, stop.clone()));
        let (registry, key, inner) = (self.registry.clone(), self.key.clone(), self.inner.clone());
        let reporter = Reporter {
            session: self.session,
            events: self.events.clone(),
        };
        self.tasks.spawn(async move {
            let closed = run(&registry, &key, &inner, inbox, &stop, &reporter).await;
            reporter.tell(LinkEvent::Closed(closed)).await;
        });
    }

    /// Whether news of this session number is of the present one.
    pub(crate) fn is_current(&self, session: u64) -> bool {
        self.live.is_some() && session == self.session
    }

    /// Sends a message, or gives the session up when its queue is full.
    pub(crate) fn send(&mut self, message: FromAgent) {
        if let Some((outbox, stop)) = &self.live
            && outbox.try_send(message).is_err()
        {
            stop.cancel();
        }
    }

    /// Ends the session. What was queued is still sent, for as long as the task's owner grants.
    pub(crate) fn close(&mut self) {
        // Dropping the sender ends the inbox, which the task takes for the wish to close.
        self.live = None;
    }
}

struct Reporter {
    session: u64,
    events: mpsc::Sender<(u64, LinkEvent)>,
}

impl Reporter {
    async fn tell(&self, event: LinkEvent) {
        // The daemon drops its end only when it is done, and then nobody is interested any more.
        let _ = self.events.send((self.session, event)).await;
    }
}

async fn run(
    registry: &RegistryAddress,
    key: &NoisePrivateKey,
    inner: &InnerWay,
    mut inbox: mpsc::Receiver<FromAgent>,
    stop: &CancellationToken,
    reporter: &Reporter,
) -> Closed {
    let connected = tokio::select! {
        connected = inner.connect(registry, key) => connected,
        () = stop.cancelled() => return Closed::Lost("given up".to_owned()),
        () = closed(&mut inbox) => return Closed::Lost("closed".to_owned()),
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error) => return describe(&error),
    };
    reporter.tell(LinkEvent::Connected).await;
    loop {
        tokio::select! {
            received = connection.receive() => match received {
                Ok(Received::Message(message)) => reporter.tell(LinkEvent::Message(message)).await,
                Ok(Received::Unknown(kind)) => tracing::debug!(kind, "the registry said something new"),
                Err(error) => return describe(&error),
            },
            message = inbox.recv() => {
                let Some(message) = message else {
                    connection.close().await;
                    return Closed::Lost("closed".to_owned());
                };
                match timeout(STEP_TIMEOUT, connection.send(&message)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return describe(&error),
                    Err(_) => return Closed::Lost("the registry takes no more messages".to_owned()),
                }
            }
            () = stop.cancelled() => return Closed::Lost("the session could not take more messages".to_owned()),
        }
    }
}

/// Waits until nobody can send any more; messages before that cannot be: nothing is sent before the welcome.
async fn closed(inbox: &mut mpsc::Receiver<FromAgent>) {
    while inbox.recv().await.is_some() {}
}

fn describe(error: &LinkError) -> Closed {
    if let LinkError::Closed { code, reason } = error {
        return Closed::Code(*code, reason.trim_start_matches(": ").to_owned());
    }
    if error.is_refused() {
        Closed::Refused(error.text())
    } else {
        Closed::Lost(error.text())
    }
}

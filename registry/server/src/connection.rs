//! One agent's connection: carries frames between its WebSocket and its [`Session`], and does what that asks for.
//!
//! Each connection is one task that reads and writes by turns, so nothing is queued between the two: a device that
//! does not read stops being read from, and after the send timeout it is dropped. What others want of the session
//! comes in over two ways:
//!
//! - commands (close, tell), in order, `COMMANDS_MAX` of them; when that many wait, the session is stuck and ends;
//! - the plan, a slot with the newest value only, because desired state is whole and never a difference.
//!
//! The session counts as standing from [`crate::fleet::Fleet::session_began`] until this task ends, however it does.

mod admission;
mod handle;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use jiff::Timestamp;
use orfe_protocol::id::{DeviceId, Revision};
use orfe_protocol::message::{FromRegistry, GoodbyeReason};
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::ObservedState;
use orfe_tunnel_core::{Bucket, Rate};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

pub(crate) use self::admission::{refused, unavailable};
use self::handle::Command;
pub use self::handle::SessionHandle;
use crate::desired::Plan;
use crate::enrolment;
use crate::session::{Closing, Output, Session};
use crate::shared::Shared;

/// What one device may say. Ten times what an agent with 64 slots that all restart says.
const MESSAGES: Rate = Rate {
    per_second: 20.0,
    burst: 200.0,
};

/// How long the last frame may take; the other side may be gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the connection until one side ends it.
pub(crate) async fn serve(socket: WebSocket, source: IpAddr, shared: Arc<Shared>) {
    let Ok(_permit) = shared.sessions.clone().try_acquire_owned() else {
        close(socket, Closing::FULL).await;
        return;
    };
    let (handle, inbox) = SessionHandle::new();
    let mut connection = Connection {
        socket,
        source,
        session: Session::new(shared.noise_key.clone()),
        plan: shared.plan.clone(),
        handle,
        inbox,
        bucket: Bucket::full(MESSAGES, Instant::now()),
        progress_at: tokio::time::Instant::now(),
        standing: None,
        goodbye: None,
        shared,
    };
    let ended = connection.run().await;
    connection.finish(ended).await;
}

/// How the task's loop ended.
enum Ended {
    /// We close, with this reason.
    Close(Closing),
    /// The other side is gone or takes nothing any more.
    Gone(&'static str),
}

/// The session of a known device, once it stands.
struct Standing {
    id: DeviceId,
    /// For the log.
    name: DeviceName,
    epoch: u64,
    /// The desired state that was sent last, or that the device had.
    told: Revision,
}

struct Connection {
    socket: WebSocket,
    source: IpAddr,
    session: Session,
    plan: watch::Receiver<Arc<Plan>>,
    handle: SessionHandle,
    inbox: mpsc::Receiver<Command>,
    bucket: Bucket,
    /// When the device last got further: before its session stands, by a step; from then on, by any message.
    /// Pings and messages without an end do not keep a stranger's connection open.
    progress_at: tokio::time::Instant,
    standing: Option<Standing>,
    goodbye: Option<GoodbyeReason>,
    shared: Arc<Shared>,
}

impl Connection {
    async fn run(&mut self) -> Ended {
        loop {
            let deadline = self.progress_at + self.session.patience(self.shared.heartbeat());
            let step = tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => Err(Ended::Close(Closing::STOPPING)),
                () = self.handle.overflow.cancelled() => Err(Ended::Close(Closing::COMMANDS)),
                Some(command) = self.inbox.recv() => match command {
                    Command::Close(closing) => Err(Ended::Close(closing)),
                    Command::Tell => self.tell().await,
                },
                Ok(()) = self.plan.changed() => self.tell().await,
                message = self.socket.recv() => self.take(message).await,
                () = tokio::time::sleep_until(deadline) => Err(Ended::Close(Closing::SILENT)),
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    async fn take(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), Ended> {
        let outputs = match message {
            None | Some(Ok(Message::Close(_))) => return Err(Ended::Gone("closed by the device")),
            Some(Err(error)) => {
                tracing::debug!(source = %self.source, error = crate::chain(&error), "a frame could not be read");
                return Err(unreadable(error));
            }
            Some(Ok(message)) => {
                if !self.bucket.take(MESSAGES, Instant::now()) {
                    return Err(Ended::Close(Closing::TOO_MANY));
                }
                match message {
                    Message::Binary(frame) => {
                        let outputs = self.session.handle_frame(&frame, self.shared.heartbeat());
                        if self.standing.is_some() || !outputs.is_empty() {
                            self.progress_at = tokio::time::Instant::now();
                        }
                        outputs
                    }
                    Message::Text(_) => self.session.handle_text(),
                    // Answered by the WebSocket itself.
                    Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Vec::new(),
                }
            }
        };
        self.carry_out(outputs).await
    }

    /// Does what the session asks for, in order; what the answers to its questions ask for comes last.
    async fn carry_out(&mut self, outputs: Vec<Output>) -> Result<(), Ended> {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Send(frame) => self.send(frame).await?,
                Output::Claim { key, claim } => {
                    let answer = enrolment::claim(&self.shared, self.source, key, &claim).await;
                    outputs.extend(self.session.claimed(answer));
                }
                Output::Begin { key, hello } => outputs.extend(self.begin(key, &hello).await),
                Output::Heard => self.heard(),
                Output::Observed(observed) => self.observed(Arc::new(*observed)),
                Output::Goodbye(reason) => self.goodbye = Some(reason),
                Output::Close(closing) => return Err(Ended::Close(closing)),
            }
        }
        Ok(())
    }

    fn observed(&self, observed: Arc<ObservedState>) {
        if let Some(standing) = &self.standing
            && self.shared.fleet.observed(standing.id, standing.epoch, &observed)
        {
            self.shared.recorder.observed(standing.id, observed);
        }
    }

    fn heard(&self) {
        let now = Timestamp::now();
        if let Some(standing) = &self.standing {
            self.shared.fleet.heard(standing.id, standing.epoch, now);
            self.shared.recorder.seen(standing.id, now);
        }
    }

    /// Plan or device changed: says what is desired now, if that is something else than what was said.
    async fn tell(&mut self) -> Result<(), Ended> {
        let Some((id, told)) = self
            .standing
            .as_ref()
            .map(|standing| (standing.id, standing.told))
        else {
            return Ok(());
        };
        let Some(device) = self.shared.fleet.device(id) else {
            return Ok(());
        };
        match self.desired(&device, told).await {
            Ok(desired) if desired.revision != told => {
                if let Some(standing) = &mut self.standing {
                    standing.told = desired.revision;
                }
                let outputs = self.session.say(&FromRegistry::Desired(Box::new(desired)));
                self.carry_out(outputs).await
            }
            Ok(_) => Ok(()),
            // The device keeps what it has and learns of the change when it comes back.
            Err(refused) => Err(Ended::Close(Closing::untold(refused.reason))),
        }
    }

    async fn send(&mut self, frame: Vec<u8>) -> Result<(), Ended> {
        let sending = self.socket.send(Message::Binary(Bytes::from(frame)));
        match tokio::time::timeout(self.shared.send_timeout, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Gone("the connection broke")),
            Err(_) => Err(Ended::Gone("the device takes no frames")),
        }
    }

    async fn finish(self, ended: Ended) {
        let reason = match &ended {
            Ended::Close(closing) => closing.reason,
            Ended::Gone(reason) => reason,
        };
        if let Some(standing) = &self.standing {
            self.shared
                .fleet
                .session_ended(standing.id, standing.epoch, self.goodbye, Instant::now());
            let unknown_messages = self.session.unknown_messages();
            let (name, epoch) = (&standing.name, standing.epoch);
            tracing::info!(device = %name, device_id = %standing.id, epoch, reason, unknown_messages, "session ends");
        } else {
            tracing::debug!(source = %self.source, reason, "connection ends without a session");
        }
        if let Ended::Close(closing) = ended {
            close(self.socket, closing).await;
        }
    }
}

/// How a connection ends whose next frame could not be read.
fn unreadable(error: axum::Error) -> Ended {
    let Ok(error) = error.into_inner().downcast::<tungstenite::Error>() else {
        return Ended::Close(Closing::MALFORMED);
    };
    match *error {
        tungstenite::Error::Capacity(_) => Ended::Close(Closing::TOO_LARGE),
        tungstenite::Error::Io(_)
        | tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Ended::Gone("the connection broke")
        }
        // Not the WebSocket protocol: no mask, an opcode that means nothing, a control frame in parts.
        _ => Ended::Close(Closing::MALFORMED),
    }
}

/// Says why, and hangs up.
async fn close(mut socket: WebSocket, closing: Closing) {
    let frame = CloseFrame {
        code: closing.code,
        reason: closing.reason.into(),
    };
    let farewell = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // Until the other side has answered: a socket that is closed with unread bytes is reset, and a reset
            // may overtake the close frame.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
        tracing::trace!("the other side did not answer the close frame");
    }
}

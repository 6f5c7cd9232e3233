//! A private network namespace that was lost comes back by itself.
//!
//! Each thread's namespace has a task of its own, which ends with the gateway:
//!
//! ```text
//!             new connections: the kernel's                  new connections: smoltcp's
//!   ┌────────────────── here ── its device cannot be read ──► lost ◄─────────────────┐
//!   │                     ▲                                    │ after a pause        │ refused, 5 s at most:
//!   │ the thread ends     │ made: handed to the thread         ▼                      │ the next pause is twice as long
//!   ▼                     └────────────────────────────────  making ─────────────────┘
//!  over
//! ```
//!
//! * The first pause is 10 s, the longest 10 min. They begin anew after a namespace that stood for as long as the longest one:
//!   whoever takes the device away again and again does not keep the gateway busy.
//! * A change is for new connections alone. Those of the lost namespace were over with it; those that smoltcp took in between
//!   live on there until they end. Connections of the two are counted apart, so for that while there may be twice as many.
//! * A fixed `tcp_stack = "namespace"` is served by smoltcp meanwhile, too. A gateway that began on smoltcp stays there: what
//!   was refused then is how its system is set up, and that is found out at the start.
//! * What is lost is shown by `GatewayView::tcp_stack`, with the next try and what the last one was refused for. The loss is logged
//!   where it is seen (`netstack::kernel`), a refusal when its reason is a new one, and the return.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shown;
use super::choice::{Lost, NoNamespace};
use super::front::Command;
use super::landing::{self, Arriving, Landed};
use crate::netstack::{Handle, Loss, StackConfig};

/// Pause before a namespace is made anew: the first, and the longest after doubling.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(10));

/// Keeps the namespace of one thread.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The program that makes namespaces.
    pub(super) helper: PathBuf,
    /// What the namespace is for.
    pub(super) stack: StackConfig,
    /// Where a loss is shown.
    pub(super) shown: Arc<Mutex<Shown>>,
}

impl Keeper {
    /// Has connections accepted in the thread's first namespace, and in those that take its place, until the thread ends.
    pub(super) async fn keep(self, mut arriving: Arriving, thread: Handle<Command>) {
        let mut pause = PAUSE.0;
        loop {
            let since = Instant::now();
            let Some(loss) = arriving.attend().await else {
                return;
            };
            if since.elapsed() >= PAUSE.1 {
                pause = PAUSE.0;
            }
            let (kernel, next) = self.make_until_made(&loss, &mut pause).await.split();
            // What was asked of the thread before has smoltcp, and what comes after this the kernel.
            if thread.send(Command::Regain(Box::new(kernel))).await.is_err() {
                return;
            }
            self.show(None);
            tracing::info!("the private network namespace is back: new connections have the kernel's TCP");
            arriving = next;
        }
    }

    async fn make_until_made(&self, loss: &Loss, pause: &mut Duration) -> Landed {
        let mut refused: Option<NoNamespace> = None;
        loop {
            self.show(Some(Lost {
                reason: Arc::clone(&loss.reason),
                refused: refused.clone(),
                next_try: Instant::now() + *pause,
            }));
            tokio::time::sleep(*pause).await;
            *pause = pause.saturating_mul(2).min(PAUSE.1);
            match self.make().await {
                Ok(landed) => return landed,
                Err(error) => {
                    if refused.as_ref() != Some(&error) {
                        tracing::warn!(
                            reason = error.reason,
                            hint = error.hint,
                            "the private network namespace cannot be made anew; trying again"
                        );
                    }
                    refused = Some(error);
                }
            }
        }
    }

    /// Makes one, on a thread that may be blocked.
    async fn make(&self) -> Result<Landed, NoNamespace> {
        let (helper, stack) = (self.helper.clone(), self.stack.clone());
        let made = tokio::task::spawn_blocking(move || landing::make(&helper, 1, &stack)).await;
        let (mut landed, _congestion) = made.unwrap_or_else(|error| {
            Err(NoNamespace {
                reason: error.to_string(),
                hint: None,
            })
        })?;
        landed.pop().ok_or_else(|| NoNamespace {
            reason: "none was made".to_owned(),
            hint: None,
        })
    }

    fn show(&self, lost: Option<Lost>) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).lost = lost;
    }
}

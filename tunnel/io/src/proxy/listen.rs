//! A listening port and the tasks behind it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use data_encoding::BASE64;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connections::Connections;
use super::lobby::Lobby;
use super::reach::{self, WatchedDialer};
use super::routes::Routes;
use super::target::Target;
use super::{Limits, ProxyError, USER, admit};
use crate::accepting::AcceptFailures;

/// Who is let in, and where to.
pub(super) enum Entry {
    /// Who shows the credential, to anywhere that the routes allow.
    Proxy {
        /// `orfe:credential`.
        plain: SecretString,
        /// The same in base64.
        token: SecretString,
    },
    /// Everybody, to this one destination.
    Forward(Target),
}

impl Entry {
    /// For who shows this credential; `None` where it is too short to be one, or could not stand in a URL.
    pub(super) fn with(credential: &SecretString) -> Option<Self> {
        if !stands_in_url(credential.expose_secret()) {
            return None;
        }
        Some(Self::Proxy {
            plain: pair(credential),
            token: token(credential),
        })
    }

    /// Whether a `Proxy-Authorization` is `Basic` and the expected token. The time it takes tells the token's length and
    /// nothing of its content.
    pub(super) fn admits(&self, given: &SecretString) -> bool {
        let Self::Proxy { token, .. } = self else {
            return false;
        };
        let Some((scheme, given)) = given.expose_secret().split_once(' ') else {
            return false;
        };
        scheme.eq_ignore_ascii_case("basic") && same(given.trim_ascii(), token)
    }

    /// Whether `user:password` is the expected pair, likewise.
    pub(super) fn opens_to(&self, pair: &SecretString) -> bool {
        match self {
            Self::Proxy { plain, .. } => same(pair.expose_secret(), plain),
            Self::Forward(_) => false,
        }
    }
}

fn pair(credential: &SecretString) -> SecretString {
    format!("{USER}:{}", credential.expose_secret()).into()
}

/// What stands behind `Basic` in a `Proxy-Authorization`.
pub(super) fn token(credential: &SecretString) -> SecretString {
    BASE64.encode(pair(credential).expose_secret().as_bytes()).into()
}

fn stands_in_url(credential: &str) -> bool {
    (16..=256).contains(&credential.len())
        && credential
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

fn same(given: &str, expected: &SecretString) -> bool {
    given.as_bytes().ct_eq(expected.expose_secret().as_bytes()).into()
}

/// What every connection's task needs.
pub(super) struct Shared {
    pub(super) local_addr: SocketAddr,
    pub(super) entry: Entry,
    pub(super) limits: Limits,
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    pub(super) dialer: WatchedDialer,
    pub(super) connections: Arc<Connections>,
    /// Places for clients that are served: those of a proxy that have shown the credential, all those of a forward.
    pub(super) served: Arc<Semaphore>,
    /// Places for SOCKS associations.
    pub(super) associations: Semaphore,
    pub(super) stop: CancellationToken,
}

/// A port that is listened on. Dropping it stops it without waiting.
pub(super) struct Listening {
    pub(super) shared: Arc<Shared>,
    /// Owns the accepting task and each connection's task.
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Listening {
    pub(super) async fn start(
        listen: SocketAddr,
        entry: Entry,
        limits: Limits,
        routes: watch::Receiver<Arc<Routes>>,
        dialer: WatchedDialer,
    ) -> Result<Self, ProxyError> {
        let bind_error = |source| ProxyError::Bind {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            local_addr,
            entry,
            served: Arc::new(Semaphore::new(limits.connections)),
            associations: Semaphore::new(limits.associations),
            limits,
            routes,
            dialer,
            connections: Connections::new(),
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        Ok(Self {
            shared,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// Stops, and waits until the last task has ended.
    pub(super) async fn shutdown(self) {
        self.stop.disarm().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Accepts until it is stopped. One task for each client: of a proxy, at most `limits.lobby` that have not shown the
/// credential and `limits.connections` that have; of a forward, at most `limits.connections`. What each holds until it is let
/// in is its head, 64 KiB at most.
async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    let lobby = Lobby::new(shared.limits.lobby);
    let failures = AcceptFailures::default();
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failures.pause_after(&error).await;
                continue;
            }
        };
        match &shared.entry {
            Entry::Proxy { .. } => {
                let Some(place) = lobby.enter().await else { return };
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    // Pinned here, because what is given to `run_until_cancelled` by value takes its room twice.
                    let serving = pin!(admit::client(&shared, stream, peer, place));
                    shared.stop.run_until_cancelled(serving).await;
                });
            }
            Entry::Forward(to) => {
                let Ok(slot) = Arc::clone(&shared.served).try_acquire_owned() else {
                    // There are no words for it.
                    reach::reset_on_close(&stream);
                    continue;
                };
                let (shared, to) = (Arc::clone(&shared), to.clone());
                tasks.spawn(async move {
                    let serving = pin!(admit::forward(&shared, stream, peer, &to));
                    shared.stop.run_until_cancelled(serving).await;
                    drop(slot);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::with(&"0123456789abcdef".to_owned().into()).expect("a credential")
    }

    #[test]
    fn only_the_whole_credential_opens() {
        for (pair, opens) in [
            ("orfe:0123456789abcdef", true),
            ("orfe:0123456789abcdeg", false),
            ("orfe:0123456789abcde", false),
            ("root:0123456789abcdef", false),
            ("orfe0123456789abcdef", false),
            (":", false),
            ("", false),
        ] {
            assert_eq!(entry().opens_to(&pair.to_owned().into()), opens, "{pair}");
            let header = format!("Basic {}", BASE64.encode(pair.as_bytes()));
            assert_eq!(entry().admits(&header.into()), opens, "{pair}");
        }
        assert!(!entry().admits(&"orfe:0123456789abcdef".to_owned().into()));
        let forward = Entry::Forward(Target::parse("coder:443", None).expect("target"));
        assert!(!forward.opens_to(&"orfe:0123456789abcdef".to_owned().into()));
    }
}

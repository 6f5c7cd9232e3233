//! What the keeper's loop waits for. What is not there is waited for for ever, so that each is a branch of one `select!`.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use orfe_platform::network::{NetworkSignal, NetworkWatch};
use orfe_tunnel::carrier::BridgeState;
use tokio::sync::watch;
use tokio::time::sleep_until;

/// Something that runs beside the loop, one of its kind at a time.
pub(super) type Job<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Waits until `timer`; for ever where there is none.
pub(super) async fn at(timer: Option<Instant>) {
    match timer {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The next change of the network.
pub(super) async fn signal(watch: &mut Option<NetworkWatch>) -> NetworkSignal {
    match watch {
        Some(watch) => watch.recv().await,
        None => std::future::pending().await,
    }
}

/// The job's outcome; the job is taken away with it.
pub(super) async fn job<T>(job: &mut Job<T>) -> T {
    let outcome = match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    };
    *job = None;
    outcome
}

/// Waits for news of the bridge's connection; true when it is open now. A bridge that is gone has no news.
pub(super) async fn bridge_news(bridge: &mut Option<watch::Receiver<BridgeState>>) -> bool {
    let Some(state) = bridge else {
        return std::future::pending().await;
    };
    if state.changed().await.is_err() {
        *bridge = None;
        return false;
    }
    *state.borrow_and_update() == BridgeState::Open
}

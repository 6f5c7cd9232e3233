//! `/events`: the list of devices as server-sent events.
//!
//! A stream begins with the list as it is, so that nothing is missed between the page and its stream. After
//! that it sends the list anew when the fleet changed (at most twice a second, however often it changes) and
//! when the ages in it have moved (looked at every 5 s). What would be the same as the last time is not sent
//! again; a named `alive` event goes out instead, which the page takes as the sign that the stream lives.
//!
//! A stream ends with the registry, with its session, and with its browser.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::access::Session;
use super::pages::{self, DeviceList};
use super::view::FleetPage;
use super::{Dashboard, STREAMS_MAX};

/// How often a page hears something.
#[derive(Clone, Copy)]
struct Rhythm {
    /// Ages are rendered anew this often.
    tick: Duration,
    /// Least time between two lists.
    pace: Duration,
}

const RHYTHM: Rhythm = Rhythm {
    tick: Duration::from_secs(5),
    pace: Duration::from_millis(500),
};

/// `GET /events`.
pub(super) async fn events(
    State(dashboard): State<Dashboard>,
    Extension(session): Extension<Session>,
) -> Response {
    let Ok(permit) = Arc::clone(&dashboard.streams).try_acquire_owned() else {
        tracing::warn!(
            streams_max = STREAMS_MAX,
            "the dashboard has no room for another live page"
        );
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "60")]).into_response();
    };
    let updates = Updates::new(dashboard, session, permit, RHYTHM);
    let events = stream::unfold(updates, |mut updates| async move {
        let event = updates.next().await?;
        Some((Ok::<_, Infallible>(event), updates))
    });
    Sse::new(events).into_response()
}

/// One page's stream.
struct Updates {
    dashboard: Dashboard,
    session: Session,
    changes: watch::Receiver<u64>,
    ticks: Interval,
    /// The list as it was sent last.
    sent: String,
    pace: Duration,
    /// When the next list may go out.
    due: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Updates {
    fn new(dashboard: Dashboard, session: Session, permit: OwnedSemaphorePermit, rhythm: Rhythm) -> Self {
        let mut changes = dashboard.fleet.changes();
        // What changed up to here is in the first list.
        changes.mark_unchanged();
        let mut ticks = interval(rhythm.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            dashboard,
            session,
            changes,
            ticks,
            sent: String::new(),
            pace: rhythm.pace,
            due: Instant::now(),
            _permit: permit,
        }
    }

    /// The next event, or `None` when the stream is over.
    async fn next(&mut self) -> Option<Event> {
        let shutdown = self.dashboard.shutdown.clone();
        shutdown.run_until_cancelled(self.something_to_say()).await??;
        if !self.dashboard.access.is_valid(self.session) {
            return None;
        }
        Some(
            self.list()
                .unwrap_or_else(|| Event::default().event("alive").data("")),
        )
    }

    /// Waits for a tick or a change; the first tick comes at once. `None` when the fleet is gone.
    async fn something_to_say(&mut self) -> Option<()> {
        tokio::select! {
            _ = self.ticks.tick() => {}
            changed = self.changes.changed() => {
                changed.ok()?;
                sleep_until(self.due).await;
                // All that came while we waited is in the list that follows.
                self.changes.mark_unchanged();
            }
        }
        Some(())
    }

    /// The list, unless it is what the page shows already.
    fn list(&mut self) -> Option<Event> {
        let fleet = FleetPage::new(self.dashboard.fleet.rows(), self.dashboard.access.now());
        let list = pages::render(&DeviceList { fleet }).ok()?;
        if list == self.sent {
            return None;
        }
        self.due = Instant::now() + self.pace;
        self.sent.clone_from(&list);
        Some(Event::default().data(list))
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::assets::Assets;
    use super::super::tests::{FixedFleet, example_fleet};
    use super::*;
    use crate::dashboard::Access;

    /// No tick after the first within a test.
    const SELDOM: Rhythm = Rhythm {
        tick: Duration::from_secs(600),
        pace: Duration::from_millis(40),
    };
    const OFTEN: Rhythm = Rhythm {
        tick: Duration::from_millis(20),
        pace: Duration::from_millis(5),
    };

    #[tokio::test]
    async fn many_changes_become_few_lists() {
        let (fleet, mut updates) = updates(SELDOM);
        assert!(is_list(updates.next().await));
        let started = Instant::now();
        for count in 1..=5 {
            for _ in 0..100 {
                let mut rows = example_fleet::rows();
                rows.truncate(count);
                fleet.set(rows);
            }
            assert!(is_list(updates.next().await));
        }
        // Before each of the five a pace after the one before it, which began before `started`.
        assert!(started.elapsed() > SELDOM.pace * 4, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn silence_is_broken_and_nothing_said_twice() {
        let (fleet, mut updates) = updates(OFTEN);
        assert!(is_list(updates.next().await));
        // The clock of this fleet stands, so no age moves.
        assert!(!is_list(updates.next().await));
        fleet.set(example_fleet::rows());
        assert!(!is_list(updates.next().await));
    }

    #[tokio::test]
    async fn a_stream_without_its_registry_or_session_is_over() {
        let (_fleet, mut updates) = updates(SELDOM);
        updates.dashboard.shutdown.cancel();
        assert!(updates.next().await.is_none());

        let (_fleet, mut updates) = self::updates(SELDOM);
        updates.dashboard.access = Access::new(Arc::new(example_fleet::now));
        assert!(updates.next().await.is_none());
    }

    fn updates(rhythm: Rhythm) -> (FixedFleet, Updates) {
        let fleet = FixedFleet::new(example_fleet::rows());
        let access = Access::new(Arc::new(example_fleet::now));
        let link = access.create_link("http://localhost");
        let token = link.rsplit('/').next().expect("a token");
        let secret = access.enter(token).expect("a fresh link");
        let session = access.session(&secret).expect("a fresh session");
        let shutdown = CancellationToken::new();
        let dashboard = Dashboard::new(fleet.clone(), access, Assets::with_live(b""), 1, shutdown);
        let permit = Arc::clone(&dashboard.streams).try_acquire_owned().expect("room");
        (fleet, Updates::new(dashboard, session, permit, rhythm))
    }

    fn is_list(event: Option<Event>) -> bool {
        let event = format!("{:?}", event.expect("a stream that goes on"));
        assert!(event.contains("table") != event.contains("alive"), "{event}");
        event.contains("table")
    }
}

//! The lobby: clients that have not shown the credential yet.
//!
//! Every user of the machine can connect to a loopback port and say nothing. Such clients have places of their own, and nobody waits
//! for them: when the lobby is full, a newcomer pushes out the one that came first. A client that means it shows its
//! credential at once, long before as many others have come, and changes its place for one among those who are served, which
//! nobody without the credential can take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::refusal::Refusal;

/// The places of a lobby.
#[derive(Debug)]
pub(super) struct Lobby {
    places: Arc<Semaphore>,
    /// The lock is a std mutex because it is held for one change of the map and never across an await.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Who can be pushed out, and by what. Numbers follow arrival.
    clients: BTreeMap<u64, CancellationToken>,
}

impl Lobby {
    /// With this many places, at least one.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places.max(1))),
            waiting: Mutex::default(),
        })
    }

    /// A place for a newcomer. Where there is none the oldest client has to go, and this waits until it, or another one, is
    /// gone: a matter of one turn of its task, because a place is given up at whatever its task waits for. So there are never
    /// more than the lobby has places for. `None`: never, as nothing closes a lobby.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Place> {
        let permit = if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            permit
        } else {
            self.push_out_oldest();
            Arc::clone(&self.places).acquire_owned().await.ok()?
        };
        let pushed_out = CancellationToken::new();
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.clients.insert(number, pushed_out.clone());
        drop(waiting);
        Some(Place {
            lobby: Arc::clone(self),
            number,
            pushed_out,
            _permit: permit,
        })
    }

    /// Who is not listed any more is on its way out already.
    fn push_out_oldest(&self) {
        if let Some((_, oldest)) = self.lock().clients.pop_first() {
            oldest.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code panics while it holds the lock, and the map is whole between any two calls.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place in the lobby, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    pushed_out: CancellationToken,
    /// Given back last, when the client is listed no more.
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Resolves when the client has to go. Once the place has been given up it never does.
    pub(super) fn pushed_out(&self) -> CancellationToken {
        self.pushed_out.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.lock().clients.remove(&self.number);
    }
}

/// What a client's task holds for as long as it lasts.
#[derive(Debug)]
#[expect(dead_code, reason = "what is held is held until it is dropped")]
pub(super) enum Stay {
    Lobby(Place),
    Served(OwnedSemaphorePermit),
}

impl Stay {
    /// Resolves when the client has to go: out of the lobby, for who is served never has to.
    pub(super) fn pushed_out(&self) -> CancellationToken {
        match self {
            Self::Lobby(place) => place.pushed_out(),
            Self::Served(_) => CancellationToken::new(),
        }
    }

    /// Takes a place among those who are served. Where there is none the client stays in the lobby, to be told so.
    pub(super) fn let_in(&mut self, served: &Arc<Semaphore>) -> Result<(), Refusal> {
        if let Self::Lobby(_) = self {
            let permit = Arc::clone(served).try_acquire_owned();
            *self = Self::Served(permit.map_err(|_| Refusal::TooManyConnections)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn enter(lobby: &Arc<Lobby>) -> Place {
        lobby.enter().await.expect("never closed")
    }

    #[tokio::test]
    async fn the_oldest_makes_room_and_room_is_made_before_it_is_taken() {
        let lobby = Lobby::new(2);
        let (first, second) = (enter(&lobby).await, enter(&lobby).await);
        let (tokens, third) = (
            [first.pushed_out(), second.pushed_out()],
            tokio::spawn({
                let lobby = Arc::clone(&lobby);
                async move { enter(&lobby).await }
            }),
        );
        tokens[0].cancelled().await;
        assert!(!third.is_finished(), "the first has not left yet");
        assert!(!tokens[1].is_cancelled());
        drop(first);
        let third = third.await.expect("entered");
        // A place that was given up is nobody's to be pushed out of.
        drop(second);
        let fourth = enter(&lobby).await;
        assert!(!third.pushed_out().is_cancelled() && !tokens[1].is_cancelled());
        drop((third, fourth));
        assert!(lobby.lock().clients.is_empty());
    }

    #[tokio::test]
    async fn who_is_let_in_leaves_the_lobby_and_is_not_pushed_out() {
        let (lobby, served) = (Lobby::new(1), Arc::new(Semaphore::new(1)));
        let place = enter(&lobby).await;
        let pushed_out = place.pushed_out();
        let mut stay = Stay::Lobby(place);
        assert_eq!(stay.let_in(&served), Ok(()));
        assert_eq!(stay.let_in(&served), Ok(()), "once is enough");
        let mut next = Stay::Lobby(enter(&lobby).await);
        assert_eq!(next.let_in(&served), Err(Refusal::TooManyConnections));
        assert!(matches!(next, Stay::Lobby(_)));
        assert!(!pushed_out.is_cancelled());
        drop(stay);
        assert_eq!(next.let_in(&served), Ok(()));
    }
}

//! A bounded number of places, taken by connections while they live.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Told how many places are taken, each time that changes.
type Watcher = Box<dyn Fn(usize) + Send + Sync>;

/// The places. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Places {
    limit: usize,
    free: Arc<Semaphore>,
    watcher: Arc<Mutex<Option<Watcher>>>,
}

/// One that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    of: Places,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All are taken.
    Full,
    /// No more are given.
    Closed,
}

impl Places {
    pub(crate) fn new(limit: usize, watcher: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self {
            limit,
            free: Arc::new(Semaphore::new(limit)),
            watcher: Arc::new(Mutex::new(Some(Box::new(watcher)))),
        }
    }

    pub(crate) fn take(&self) -> Result<Place, NoPlace> {
        let permit = Arc::clone(&self.free)
            .try_acquire_owned()
            .map_err(|error| match error {
                TryAcquireError::NoPermits => NoPlace::Full,
                TryAcquireError::Closed => NoPlace::Closed,
            })?;
        let place = Place {
            permit: Some(permit),
            of: self.clone(),
        };
        self.tell();
        Ok(place)
    }

    /// Gives no more, and lets go of the watcher after it was told that none are taken.
    pub(crate) fn close(&self) {
        self.free.close();
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watcher) = watcher {
            watcher(0);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.free.is_closed()
    }

    fn tell(&self) {
        // The count is read under the lock, so that the last one told is the last one there was.
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = &*watcher {
            watcher(self.limit - self.free.available_permits());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.of.tell();
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn places_are_bounded_counted_and_come_back() {
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&taken);
        let places = Places::new(2, move |count| seen.store(count, Ordering::Relaxed));
        let one = places.take().unwrap();
        let other = places.take().unwrap();
        assert_eq!(
            (places.take().unwrap_err(), taken.load(Ordering::Relaxed)),
            (NoPlace::Full, 2)
        );
        drop(one);
        assert_eq!(taken.load(Ordering::Relaxed), 1);
        places.close();
        assert_eq!(
            (places.take().unwrap_err(), taken.load(Ordering::Relaxed)),
            (NoPlace::Closed, 0)
        );
        drop(other);
        assert_eq!(Arc::strong_count(&taken), 1, "the watcher was let go");
    }
}

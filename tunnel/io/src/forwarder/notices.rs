//! Which closed connections are told where people look: so few that nobody who can connect can fill the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For so long a source is told of once.
const PAUSE: Duration = Duration::from_secs(60);

/// As many sources are told of within that time: enough to see that something is wrong, and with the longest name in each line some
/// 10 MiB a day whatever is done.
const SOURCES: usize = 16;

/// Who was told of, and when.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// A std mutex, because it is held for one look and never across an await.
    told: Mutex<HashMap<IpAddr, Instant>>,
}

impl Notices {
    /// Whether a line about `source` may be written now; then it counts as written.
    pub(super) fn may_tell(&self, source: IpAddr, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < PAUSE);
        if told.len() >= SOURCES || told.contains_key(&source) {
            return false;
        }
        told.insert(source, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_of_once_a_minute_and_not_too_many_of_them_are() {
        let (notices, start) = (Notices::default(), Instant::now());
        let [one, two] = [1, 2].map(|last| IpAddr::from([172, 17, 0, last]));
        assert!(notices.may_tell(one, start));
        assert!(!notices.may_tell(one, start + Duration::from_secs(59)));
        assert!(notices.may_tell(two, start + Duration::from_secs(59)));
        assert!(notices.may_tell(one, start + PAUSE));
        assert!(!notices.may_tell(two, start + PAUSE));

        let later = start + 3 * PAUSE;
        let told = (0..=u8::MAX).filter(|&last| notices.may_tell([172, 18, 0, last].into(), later));
        assert_eq!(told.count(), SOURCES);
    }
}

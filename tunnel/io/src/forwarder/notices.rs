//! Which closed connections are told where people look: so few that nobody who can connect can fill the log, and of each kind by
//! itself, so that nobody hides one kind behind another.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Closed;

/// For so long a source is told of once, for each kind of reason.
const PAUSE: Duration = Duration::from_secs(60);

/// As many sources are told of within that time for each kind of reason: enough to see that something is wrong, and with six kinds
/// and the longest name in each line some 15 MiB a day whatever is done.
const SOURCES: usize = 4;

/// Who was told of, why, and when.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// As many as [`Closed`] has kinds. A std mutex, because it is held for one look and never across an await.
    told: Mutex<HashMap<Discriminant<Closed>, HashMap<IpAddr, Instant>>>,
}

impl Notices {
    /// Whether a line about `source` and `closed` may be written now; then it counts as written.
    pub(super) fn may_tell(&self, source: IpAddr, closed: &Closed, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = told.entry(discriminant(closed)).or_default();
        of_kind.retain(|_, at| now.duration_since(*at) < PAUSE);
        if of_kind.len() >= SOURCES || of_kind.contains_key(&source) {
            return false;
        }
        of_kind.insert(source, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_of_once_a_minute_and_not_too_many_of_them_are() {
        let (notices, start) = (Notices::default(), Instant::now());
        let may_tell = |source, now| notices.may_tell(source, &Closed::TooMany, now);
        let [one, two] = [1, 2].map(|last| IpAddr::from([172, 17, 0, last]));
        assert!(may_tell(one, start));
        assert!(!may_tell(one, start + Duration::from_secs(59)));
        assert!(may_tell(two, start + Duration::from_secs(59)));
        assert!(may_tell(one, start + PAUSE));
        assert!(!may_tell(two, start + PAUSE));

        let later = start + 3 * PAUSE;
        let told = (0..=u8::MAX).filter(|&last| may_tell([172, 18, 0, last].into(), later));
        assert_eq!(told.count(), SOURCES);
    }

    #[test]
    fn a_flood_of_one_kind_does_not_hide_another() {
        let (notices, now) = (Notices::default(), Instant::now());
        for last in 0..=u8::MAX {
            notices.may_tell([172, 18, 0, last].into(), &Closed::Outsider, now);
            notices.may_tell([172, 18, 0, last].into(), &Closed::NoName("nothing"), now);
        }
        let source = IpAddr::from([172, 18, 0, 7]);
        assert!(notices.may_tell(source, &Closed::Late, now));
        let refused = |name: &str| Closed::Refused {
            name: name.to_owned(),
            answer: "no".to_owned(),
        };
        assert!(notices.may_tell(source, &refused("a.lan"), now));
        assert!(
            !notices.may_tell(source, &refused("b.lan"), now),
            "names make no kind"
        );
    }
}

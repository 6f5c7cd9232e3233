//! Who may look: one-time links, and the sessions that they turn into.
//!
//! ```text
//! create_link ──► link (15 min, once) ──enter──► session (12 h) ──► gone
//! ```
//!
//! Both are 256 random bits of which only the SHA-256 is kept, in memory: a restart of the registry ends all
//! sessions. Looking a digest up tells an attacker nothing by its timing, because the digest of a guess
//! cannot be steered. Both lists are bounded; the oldest entry makes room for the newest.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

/// How long an unused link is good for.
pub const LINK_LIFE: SignedDuration = SignedDuration::from_mins(15);

/// How long a session lasts from the moment its link was used.
pub const SESSION_LIFE: SignedDuration = SignedDuration::from_hours(12);

/// Links that wait to be used; a seventeenth makes the oldest void.
const LINKS_MAX: usize = 16;

/// Sessions that last at one time; a sixty-fifth ends the oldest.
const SESSIONS_MAX: usize = 64;

/// Where the present time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The door of the dashboard. Clones share one state.
#[derive(Clone)]
pub struct Access {
    clock: Clock,
    book: Arc<Mutex<Book>>,
}

/// A session that was good when it was looked up.
#[derive(Clone, Copy)]
pub(super) struct Session(Digest);

type Digest = [u8; 32];

#[derive(Default)]
struct Book {
    links: Grants<LINKS_MAX>,
    sessions: Grants<SESSIONS_MAX>,
}

/// At most `MAX` secrets, oldest first.
#[derive(Default)]
struct Grants<const MAX: usize>(VecDeque<Grant>);

struct Grant {
    digest: Digest,
    expires_at: Timestamp,
}

impl Access {
    /// A door without links and sessions, by the time of `clock`.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            book: Arc::default(),
        }
    }

    /// A link below `base_url` (such as `http://127.0.0.1:7480`) that lets one browser in, once, within
    /// [`LINK_LIFE`]. It is a secret until it was used.
    pub fn create_link(&self, base_url: &str) -> String {
        let token = secret();
        let expires_at = after(self.now(), LINK_LIFE);
        self.book().links.insert(Grant {
            digest: digest(&token),
            expires_at,
        });
        format!("{}/enter/{token}", base_url.trim_end_matches('/'))
    }

    /// Uses a link up. The secret of a new session, or `None` when the link is unknown, used or expired.
    pub(super) fn enter(&self, token: &str) -> Option<String> {
        let now = self.now();
        let mut book = self.book();
        book.links.take(&digest(token), now)?;
        let session = secret();
        book.sessions.insert(Grant {
            digest: digest(&session),
            expires_at: after(now, SESSION_LIFE),
        });
        Some(session)
    }

    /// The session that a cookie speaks of, while it lasts.
    pub(super) fn session(&self, secret: &str) -> Option<Session> {
        let session = Session(digest(secret));
        self.is_valid(session).then_some(session)
    }

    /// Whether a session lasts still.
    pub(super) fn is_valid(&self, session: Session) -> bool {
        self.book().sessions.holds(&session.0, self.now())
    }

    /// The present time.
    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is one push or one removal, so a panic elsewhere leaves no half-made state.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.book();
        formatter
            .debug_struct("Access")
            .field("links", &book.links.0.len())
            .field("sessions", &book.sessions.0.len())
            .finish_non_exhaustive()
    }
}

impl<const MAX: usize> Grants<MAX> {
    fn insert(&mut self, grant: Grant) {
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back(grant);
    }

    fn holds(&self, digest: &Digest, now: Timestamp) -> bool {
        self.0
            .iter()
            .any(|grant| grant.digest == *digest && now < grant.expires_at)
    }

    fn take(&mut self, digest: &Digest, now: Timestamp) -> Option<()> {
        let index = self.0.iter().position(|grant| grant.digest == *digest)?;
        let grant = self.0.remove(index)?;
        (now < grant.expires_at).then_some(())
    }
}

/// 256 random bits, fit for a path and for a cookie.
fn secret() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<Digest>())
}

fn digest(secret: &str) -> Digest {
    Sha256::digest(secret).into()
}

/// `now + life`; at the end of representable time nothing is granted.
fn after(now: Timestamp, life: SignedDuration) -> Timestamp {
    now.checked_add(life).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn a_link_lets_one_in_once() {
        let (access, _) = access();
        let token = token(&access.create_link("http://127.0.0.1:7480/"));
        let session = access.enter(&token).expect("a fresh link");
        assert!(access.enter(&token).is_none());
        assert!(access.session(&session).is_some());
        assert!(access.session(&token).is_none(), "a link's token is no session");
        assert!(access.enter(&session).is_none(), "a session's secret is no link");
    }

    #[test]
    fn links_and_sessions_end() {
        let (access, seconds) = access();
        let late = token(&access.create_link("http://localhost"));
        let early = token(&access.create_link("http://localhost"));
        seconds.store(15 * 60 - 1, Ordering::Relaxed);
        let session = access.enter(&early).expect("in its last second");
        seconds.store(15 * 60, Ordering::Relaxed);
        assert!(access.enter(&late).is_none());

        let handle = access.session(&session).expect("just made");
        seconds.store(15 * 60 - 1 + 12 * 3600 - 1, Ordering::Relaxed);
        assert!(access.is_valid(handle));
        seconds.store(15 * 60 - 1 + 12 * 3600, Ordering::Relaxed);
        assert!(!access.is_valid(handle));
    }

    #[test]
    fn the_oldest_makes_room() {
        let (access, _) = access();
        let links: Vec<String> = (0..=LINKS_MAX)
            .map(|_| token(&access.create_link("http://localhost")))
            .collect();
        assert!(access.enter(&links[0]).is_none());
        let first = access.enter(&links[1]).expect("the second is the oldest now");
        for _ in 0..SESSIONS_MAX {
            let link = token(&access.create_link("http://localhost"));
            assert!(access.enter(&link).is_some());
        }
        assert!(access.session(&first).is_none());
    }

    #[test]
    fn debug_output_counts_and_tells_nothing() {
        let (access, _) = access();
        access.create_link("http://localhost");
        assert_eq!(format!("{access:?}"), "Access { links: 1, sessions: 0, .. }");
    }

    fn access() -> (Access, Arc<AtomicI64>) {
        let seconds = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&seconds);
        let access = Access::new(Arc::new(move || {
            Timestamp::UNIX_EPOCH + SignedDuration::from_secs(clock.load(Ordering::Relaxed))
        }));
        (access, seconds)
    }

    fn token(link: &str) -> String {
        let (base, token) = link.rsplit_once('/').expect("a path");
        assert!(base.ends_with("/enter") && !base.contains("//enter"), "{link}");
        assert_eq!(token.len(), 43);
        token.to_owned()
    }
}

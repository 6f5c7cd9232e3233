//! The first bytes of a workspace's connection for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus.

use super::{MAX_FIRST_BYTES, Sniff, sniff};
use crate::proxy::{Host, Target};

const PORT: u16 = 443;
/// Beginnings that are looked at, too; a client cuts its bytes as it likes.
const CUTS: usize = 64;

/// The first bytes of a connection, as they come.
pub fn first_bytes(bytes: &[u8]) {
    let all = sniff(bytes);
    if bytes.len() >= MAX_FIRST_BYTES {
        assert_ne!(all, Sniff::More, "no more is read");
    }
    let step = (bytes.len() / CUTS).max(1);
    for cut in (0..bytes.len()).step_by(step) {
        match sniff(&bytes[..cut]) {
            Sniff::More => {}
            decided => assert_eq!(decided, all, "what follows does not change it"),
        }
    }
    if let Sniff::Host { name, .. } = all {
        check(&name);
    }
}

/// The name goes into the head of a request to the agent, and is to be that name there or none.
fn check(name: &str) {
    let asked = format!("{name}:{PORT}");
    assert!(
        asked
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'@' && byte != b'/'),
        "{asked:?} is more than a host"
    );
    if let Ok(target) = Target::parse(&asked, None) {
        assert_eq!(target.port, PORT, "{asked}");
        if let Host::Name(parsed) = target.host {
            let same = name.strip_suffix('.').unwrap_or(name);
            assert!(parsed.eq_ignore_ascii_case(same), "{asked} is {parsed}");
        }
    }
}

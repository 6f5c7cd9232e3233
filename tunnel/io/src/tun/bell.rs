//! How a thread that waits is called: two connected ends, of which the waiting thread has its descriptor among those that it
//! waits for.
//!
//! On Unix it is a pair of unix sockets. Windows waits for sockets alone and has no pairs of them, so there it is a connection on
//! loopback.

use std::io::{self, Read as _, Write as _};

use rustix::event::{PollFd, PollFlags};

#[cfg(any(test, windows))]
mod loopback;
#[cfg(unix)]
mod unix;

#[cfg(windows)]
use self::loopback as imp;
#[cfg(unix)]
use self::unix as imp;

/// One end. When the other one is dropped, this one is ready to be read for ever.
#[derive(Debug)]
pub(super) struct Bell(imp::Stream);

impl Bell {
    /// Two ends that call each other.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = imp::pair()?;
        one.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        Ok((Self(one), Self(other)))
    }

    /// The same end once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Calls whoever waits at the other end.
    pub(super) fn ring(&self) {
        // A full buffer means that it is being called already.
        let _ = (&self.0).write(&[0]);
    }

    /// Forgets the calls so far; how many there were does not matter.
    pub(super) fn silence(&self) {
        let _ = (&self.0).read(&mut [0; 64]);
    }

    /// What to wait for: readable after a call, and when the other end is gone.
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Bell;
    use crate::tun::threads::wait;

    fn is_called(bell: &Bell, timeout: Duration) -> bool {
        wait(&mut [bell.poll_fd()], Some(timeout)).is_stopped
    }

    #[test]
    fn a_call_is_heard_until_it_is_silenced_and_the_end_for_ever() {
        let (caller, called) = Bell::pair().unwrap();
        let again = called.try_clone().unwrap();
        assert!(!is_called(&called, Duration::ZERO));
        caller.ring();
        caller.ring();
        let patience = Duration::from_secs(10);
        assert!(is_called(&called, patience) && is_called(&again, patience));
        called.silence();
        assert!(!is_called(&called, Duration::ZERO));
        drop(caller);
        for _ in 0..3 {
            assert!(is_called(&called, patience) && is_called(&again, patience));
            called.silence();
        }
    }
}

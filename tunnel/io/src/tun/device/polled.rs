//! Waiting where a device has a descriptor.

use std::time::Duration;

use rustix::event::PollFd;

use super::Waited;
use crate::tun::bell::Bell;
use crate::tun::threads;

pub(super) fn wait(device: PollFd<'_>, stopped: &Bell, quiet_after: Duration) -> Waited {
    let mut fds = [stopped.poll_fd(), device];
    if threads::wait(&mut fds, Some(quiet_after)).is_stopped {
        Waited::Stopped
    } else if fds[1].revents().is_empty() {
        Waited::Quiet
    } else {
        Waited::Packet
    }
}

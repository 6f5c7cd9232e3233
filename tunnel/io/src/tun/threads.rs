//! What both threads of the data path do: wait, and write to the device.

use std::io::{self, IoSlice};
use std::time::Duration;

use orfe_tunnel_core::{Batch, PeerId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::bell::Bell;
use super::offload::{self, Group, write_joined};
use super::path::Shared;
use crate::udp::UdpPort;

/// What a wait ended with.
pub(super) struct Ready {
    pub(super) is_stopped: bool,
}

/// Waits until one of `fds` is ready for what is asked, or for `timeout`. The first is the stop.
pub(super) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Ready {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ready { is_stopped: false },
        Err(error) => {
            tracing::error!(error = %io::Error::from(error), "the tunnel cannot wait for its descriptors and ends");
            return Ready { is_stopped: true };
        }
    }
    Ready {
        is_stopped: !fds[0].revents().is_empty(),
    }
}

/// Waits until `socket` takes more; false when the path is to end.
pub(super) fn wait_writable(socket: &UdpPort, stopped: &Bell) -> bool {
    let mut fds = [stopped.poll_fd(), socket.poll_fd(PollFlags::OUT)];
    !wait(&mut fds, None).is_stopped
}

/// Writes all packets, joined where that is possible, and clears them.
pub(super) fn write_all(shared: &Shared, packets: &mut Batch<PeerId>, joined: &mut Vec<Group>) {
    if packets.is_empty() {
        return;
    }
    if shared.device.has_header() {
        write_joined(&shared.device, packets, joined);
        return;
    }
    for (packet, _) in packets.iter() {
        offload::write(&shared.device, &[IoSlice::new(packet)]);
    }
    packets.clear();
}

/// Writes one packet that was made here.
pub(super) fn write_single(shared: &Shared, packet: &[u8]) {
    if shared.device.has_header() {
        offload::write_single(&shared.device, packet);
    } else {
        offload::write(&shared.device, &[IoSlice::new(packet)]);
    }
}

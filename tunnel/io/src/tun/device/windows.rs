//! Windows: Wintun, whose packets lie in rings in memory. One waits for them by an event and for sockets by another call, so
//! the device has a thread of its own all the time.

mod wintun;

use std::fmt;
use std::io::{self, IoSlice};
use std::time::Duration;

use rustix::event::PollFd;

use super::{Interface, TunOptions, Waited};
use crate::tun::bell::Bell;

/// Packets from and to the system. Nothing blocks but [`Ring::wait`].
pub(in crate::tun) trait Ring: Send + Sync {
    /// Takes one packet. `WouldBlock` when there is none.
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Puts one packet. `WouldBlock` when the ring is full.
    fn put(&self, packet: &[u8]) -> io::Result<()>;

    /// Waits until there may be something to take, or until [`Ring::interrupt`], also when that was called before. Only for who
    /// has just been told `WouldBlock`.
    fn wait(&self) -> io::Result<Waited>;

    /// Ends this wait and all later ones.
    fn interrupt(&self);
}

/// An open device.
pub struct TunDevice {
    ring: Box<dyn Ring>,
}

impl fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunDevice").finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Makes a device. It goes when this is dropped or the process ends, and with it its addresses and routes. Needs an
    /// administrator, and `wintun.dll` beside the program.
    pub fn create(options: &TunOptions) -> io::Result<(Self, Interface)> {
        let (wintun, interface) = wintun::Wintun::create(options)?;
        Ok((Self::of(wintun), interface))
    }

    /// A device whose packets are these.
    pub(in crate::tun) fn of(ring: impl Ring + 'static) -> Self {
        Self { ring: Box::new(ring) }
    }

    /// Packets carry no header here.
    #[expect(
        clippy::unused_self,
        reason = "it depends on the device where there are headers"
    )]
    pub(in crate::tun) fn has_header(&self) -> bool {
        false
    }

    /// Reads one packet. `WouldBlock` when there is none.
    pub(in crate::tun) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ring.take(buffer)
    }

    /// Writes one packet, gathered from these pieces. One for which there is no room is lost.
    pub(in crate::tun) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if let [packet] = pieces {
            return self.ring.put(packet);
        }
        let packet: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.ring.put(&packet)
    }

    /// There is no descriptor: the device cannot be waited for together with sockets.
    #[expect(clippy::unused_self, reason = "the same signature on each system")]
    pub(in crate::tun) fn poll_fd(&self) -> Option<PollFd<'_>> {
        None
    }

    /// Waits until there is a packet, or until [`TunDevice::interrupt`]. It is never quiet: nobody else could read the device.
    pub(in crate::tun) fn wait(&self, _stopped: &Bell, _quiet_after: Duration) -> Waited {
        self.ring.wait().unwrap_or_else(|error| {
            tracing::error!(%error, "the tunnel cannot wait for its device and ends");
            Waited::Stopped
        })
    }

    /// Ends a wait.
    pub(in crate::tun) fn interrupt(&self) {
        self.ring.interrupt();
    }
}

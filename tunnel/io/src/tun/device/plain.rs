//! Systems without large packets: one packet for each call.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::SyncDevice;

use super::{TunOptions, builder};

/// An open device.
pub struct TunDevice {
    device: SyncDevice,
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice").finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Makes a device. It goes when this is dropped. Needs root.
    pub fn create(options: &TunOptions) -> io::Result<Self> {
        let device = builder(options).build_sync()?;
        device.set_nonblocking(true)?;
        Ok(Self { device })
    }

    /// Packets carry no header here.
    #[allow(
        clippy::unused_self,
        reason = "it depends on the device where there are headers"
    )]
    pub(in crate::tun) fn has_header(&self) -> bool {
        false
    }

    /// Reads one packet. `WouldBlock` when there is none.
    pub(in crate::tun) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer)
    }

    /// Writes one packet, gathered from these pieces.
    pub(in crate::tun) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.device.send_vectored(pieces)?;
        Ok(())
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

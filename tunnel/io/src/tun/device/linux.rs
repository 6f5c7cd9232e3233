//! Linux: a descriptor, with large packets where the kernel gives them.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use super::{Interface, TunOptions, Waited, builder, interface, polled};
use crate::tun::bell::Bell;

/// Packets that wait in the device while its reader is busy. The system's 500 is one large batch.
const QUEUE_LEN: u32 = 4000;

/// An open device.
#[derive(Debug)]
pub struct TunDevice {
    fd: OwnedFd,
    has_header: bool,
}

impl TunDevice {
    /// Makes a device on the host, or in the network namespace of the calling thread. It goes with the last descriptor.
    ///
    /// Needs `CAP_NET_ADMIN` and `/dev/net/tun`.
    pub fn create(options: &TunOptions) -> io::Result<(Self, Interface)> {
        let named = || builder(options).name(options.name.as_str());
        let mut has_header = options.offload;
        let device = match named().offload(has_header).build_sync() {
            Err(error) if has_header => {
                tracing::info!(%error, "the device is made without offload, which costs speed");
                has_header = false;
                named().offload(false).build_sync()?
            }
            other => other?,
        };
        if let Err(error) = device.set_tx_queue_len(QUEUE_LEN) {
            tracing::debug!(%error, "the device's queue keeps its length");
        }
        let own = Self::from_fd(device.as_fd().try_clone_to_owned()?, has_header)?;
        Ok((own, interface(&device)?))
    }

    /// Takes an open device without packet information (`IFF_NO_PI`), made here or handed over from another namespace.
    /// `has_header` says whether it has `IFF_VNET_HDR` (with the 10-byte header), and must be right.
    pub fn from_fd(fd: OwnedFd, has_header: bool) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, has_header })
    }

    /// Whether packets carry a `virtio_net_hdr`.
    pub(in crate::tun) fn has_header(&self) -> bool {
        self.has_header
    }

    /// Reads one packet, with its header where there is one. `WouldBlock` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::read(&self.fd, &mut *buffer)
        })?)
    }

    /// Writes one packet, gathered from these pieces.
    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, pieces))?;
        Ok(())
    }

    /// For a wait together with sockets: readable when there is a packet.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "there are devices without a descriptor elsewhere"
    )]
    pub(in crate::tun) fn poll_fd(&self) -> Option<PollFd<'_>> {
        Some(PollFd::new(&self.fd, PollFlags::IN))
    }

    /// Waits until there is a packet, for `quiet_after` at most, or until `stopped` is called.
    pub(in crate::tun) fn wait(&self, stopped: &Bell, quiet_after: Duration) -> Waited {
        polled::wait(PollFd::new(&self.fd, PollFlags::IN), stopped, quiet_after)
    }

    /// Ends a wait: here whoever waits hears the call.
    #[expect(
        clippy::unused_self,
        reason = "there is something to do where the bell is not heard"
    )]
    pub(in crate::tun) fn interrupt(&self) {}
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

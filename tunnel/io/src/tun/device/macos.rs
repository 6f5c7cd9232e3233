//! macOS: utun through tun-rs, one packet for each call.

use std::io::{self, IoSlice};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tun_rs::SyncDevice;

use super::{Interface, TunOptions, Waited, builder, interface, polled};
use crate::tun::bell::Bell;

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
    /// Makes a device, under the name of the options if that is `utun` with a number, else under the next one that is free. It
    /// goes when this is dropped, and with it its addresses and routes. Needs root.
    pub fn create(options: &TunOptions) -> io::Result<(Self, Interface)> {
        let mut builder = builder(options).with(|builder| {
            // The routes are ours to set.
            builder.associate_route(false);
        });
        if options.name.starts_with("utun") {
            builder = builder.name(options.name.as_str());
        }
        let device = builder.build_sync()?;
        device.set_nonblocking(true)?;
        let interface = interface(&device)?;
        Ok((Self { device }, interface))
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
        self.device.recv(buffer)
    }

    /// Writes one packet, gathered from these pieces.
    pub(in crate::tun) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.device.send_vectored(pieces)?;
        Ok(())
    }

    /// For a wait together with sockets: readable when there is a packet.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "there are devices without a descriptor elsewhere"
    )]
    pub(in crate::tun) fn poll_fd(&self) -> Option<PollFd<'_>> {
        Some(PollFd::new(&self.device, PollFlags::IN))
    }

    /// Waits until there is a packet, for `quiet_after` at most, or until `stopped` is called.
    pub(in crate::tun) fn wait(&self, stopped: &Bell, quiet_after: Duration) -> Waited {
        polled::wait(PollFd::new(&self.device, PollFlags::IN), stopped, quiet_after)
    }

    /// Ends a wait: here whoever waits hears the call.
    #[expect(
        clippy::unused_self,
        reason = "there is something to do where the bell is not heard"
    )]
    pub(in crate::tun) fn interrupt(&self) {}
}

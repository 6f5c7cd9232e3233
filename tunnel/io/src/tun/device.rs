//! A TUN device as the data threads see it: a descriptor, and whether packets carry a `virtio_net_hdr`.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use tun_rs::DeviceBuilder;

/// Packets that wait in the device while its reader is busy. The system's 500 is one large batch.
const QUEUE_LEN: u32 = 4000;

/// How a device is made.
#[derive(Debug, Clone)]
pub struct TunOptions {
    /// Its name, at most 15 bytes; the system may number it in the place of `%d`.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether large packets are exchanged with the kernel. Without it every packet is a system call.
    pub offload: bool,
}

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
    pub fn create(options: &TunOptions) -> io::Result<Self> {
        let mut has_header = options.offload;
        let device = match build(options, has_header) {
            Err(error) if has_header => {
                tracing::info!(%error, "the device is made without offload, which costs speed");
                has_header = false;
                build(options, false)?
            }
            other => other?,
        };
        if let Err(error) = device.set_tx_queue_len(QUEUE_LEN) {
            tracing::debug!(%error, "the device's queue keeps its length");
        }
        Self::from_fd(device.as_fd().try_clone_to_owned()?, has_header)
    }

    /// Takes an open device without packet information (`IFF_NO_PI`), made here or handed over from another namespace.
    /// `has_header` says whether it has `IFF_VNET_HDR` (with the 10-byte header), and must be right.
    pub fn from_fd(fd: OwnedFd, has_header: bool) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, has_header })
    }

    /// Whether packets carry a `virtio_net_hdr`.
    pub(super) fn has_header(&self) -> bool {
        self.has_header
    }

    /// Reads one packet, with its header where there is one. `WouldBlock` when there is none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::read(&self.fd, &mut *buffer)
        })?)
    }

    /// Writes one packet, gathered from these pieces.
    pub(super) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, pieces))?;
        Ok(())
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn build(options: &TunOptions, offload: bool) -> io::Result<tun_rs::SyncDevice> {
    let mut builder = DeviceBuilder::new()
        .name(options.name.as_str())
        .mtu(options.mtu)
        .offload(offload);
    for (address, prefix) in &options.addresses {
        builder = match address {
            IpAddr::V4(v4) => builder.ipv4(*v4, *prefix, None),
            IpAddr::V6(v6) => builder.ipv6(*v6, *prefix),
        };
    }
    builder.build_sync()
}

//! A TUN device as the data threads see it: packets in, packets out, and whether they carry a `virtio_net_hdr`.
//!
//! Linux hands large packets over and is read by its descriptor. Elsewhere (macOS: utun) each packet is a system call, through
//! tun-rs, which knows the framing.

use std::net::IpAddr;

use tun_rs::DeviceBuilder;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod plain;

#[cfg(target_os = "linux")]
pub use linux::TunDevice;
#[cfg(not(target_os = "linux"))]
pub use plain::TunDevice;

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

/// What all systems are told alike.
fn builder(options: &TunOptions) -> DeviceBuilder {
    let mut builder = DeviceBuilder::new().name(options.name.as_str()).mtu(options.mtu);
    for (address, prefix) in &options.addresses {
        builder = match address {
            IpAddr::V4(v4) => builder.ipv4(*v4, *prefix, None),
            IpAddr::V6(v6) => builder.ipv6(*v6, *prefix),
        };
    }
    builder
}

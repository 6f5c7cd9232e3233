//! A TUN device as the data threads see it: packets in, packets out, whether they carry a `virtio_net_hdr`, and how one waits for
//! them.
//!
//! | system | device | packets | waiting |
//! |---|---|---|---|
//! | Linux | `/dev/net/tun` | large ones, by the descriptor | together with sockets |
//! | macOS | utun | one for each system call, through tun-rs, which knows the framing | together with sockets |
//! | Windows | Wintun | one for each call, from and to rings in memory | by a thread of its own |

use std::net::IpAddr;

use tun_rs::{DeviceBuilder, SyncDevice};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(unix)]
mod polled;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub use self::linux::TunDevice;
#[cfg(target_os = "macos")]
pub use self::macos::TunDevice;
#[cfg(all(test, windows))]
pub(in crate::tun) use self::windows::Ring;
#[cfg(windows)]
pub use self::windows::TunDevice;

/// How a device is made.
#[derive(Debug, Clone)]
pub struct TunOptions {
    /// Its name, at most 15 bytes; on Linux the system may number it in the place of `%d`. macOS names its devices itself
    /// (`utun5`) and takes no other name.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether large packets are exchanged with the kernel, where it can do that. Without it every packet is a system call.
    pub offload: bool,
}

/// A device as the rest of the host knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name that it got.
    pub name: String,
    /// Its number.
    pub index: u32,
}

/// What a thread that waited for a packet found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tun) enum Waited {
    /// There may be a packet.
    Packet,
    /// There was none for a while.
    #[cfg_attr(
        windows,
        expect(dead_code, reason = "a device has a thread of its own all the time there")
    )]
    Quiet,
    /// The path is to end.
    Stopped,
}

/// What all systems are told alike.
fn builder(options: &TunOptions) -> DeviceBuilder {
    let mut builder = DeviceBuilder::new().mtu(options.mtu);
    for (address, prefix) in &options.addresses {
        builder = match address {
            IpAddr::V4(v4) => builder.ipv4(*v4, *prefix, None),
            IpAddr::V6(v6) => builder.ipv6(*v6, *prefix),
        };
    }
    builder
}

fn interface(device: &SyncDevice) -> std::io::Result<Interface> {
    Ok(Interface {
        name: device.name()?,
        index: device.if_index()?,
    })
}

//! Listening for who comes in by one device of this machine.
//!
//! Linux answers for each of its addresses on every device, so an address of a bridge alone would be reached from the host's
//! network, too. A listener that is bound to the bridge (`SO_BINDTODEVICE`) is found only by what comes in there; from other
//! networks the port is closed.
//!
//! The host's own processes find it, too: what is sent to a local address counts as come in by the device that has the address
//! (`inet_iif`). So who listens looks at where a connection comes from as well, or asks for a credential.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// As many connections may wait to be accepted; more are tried again by their makers.
const BACKLOG: i32 = 1024;

/// An address of this machine, as it is reached by one of its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeAddress {
    address: IpAddr,
    device: String,
    /// The device's number: one that was made anew under the same name is another, and a listener does not pass over to it.
    index: u32,
}

impl BridgeAddress {
    /// `address` for who comes in by `device`; `None` where this machine has no such device, or no way to bind to it.
    pub fn find(address: IpAddr, device: &str) -> Option<Self> {
        Some(Self {
            address,
            device: device.to_owned(),
            index: imp::index(device)?,
        })
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether the device is still the same.
    pub fn is_there(&self) -> bool {
        imp::index(&self.device) == Some(self.index)
    }

    /// Listens there; port 0 takes any free port.
    pub(crate) fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let address = SocketAddr::new(self.address, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        imp::bind_to(&socket, &self.device)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::io;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    use socket2::Socket;

    pub(super) fn index(device: &str) -> Option<u32> {
        // Any socket will do; it says whose devices are meant.
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
        netdevice::name_to_index(&socket, device).ok()
    }

    pub(super) fn bind_to(socket: &Socket, device: &str) -> io::Result<()> {
        socket.bind_device(Some(device.as_bytes()))
    }
}

/// Engines of other systems run in machines of their own, whose bridges are not this one's.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::io;

    use socket2::Socket;

    pub(super) fn index(_device: &str) -> Option<u32> {
        None
    }

    pub(super) fn bind_to(_socket: &Socket, _device: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_listened_on_while_its_device_is_there() {
        let lo: IpAddr = [127, 0, 0, 1].into();
        let here = BridgeAddress::find(lo, "lo").unwrap();
        assert!(here.is_there());
        let listener = here.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_ok());
        let taken = here.listen(address.port()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);

        assert_eq!(BridgeAddress::find(lo, "no-such-device"), None);
        let gone = BridgeAddress {
            index: 4_000_000,
            ..here.clone()
        };
        assert!(!gone.is_there() && gone != here);
        let elsewhere = BridgeAddress {
            address: [192, 0, 2, 1].into(),
            ..here
        };
        let not_ours = elsewhere.listen(0).unwrap_err();
        assert_eq!(not_ours.kind(), io::ErrorKind::AddrNotAvailable);
    }
}

//! The five requests of rtnetlink(7) that the helper makes, and the kernel's answers to them.
//!
//! A crate for netlink would bring an executor or a few thousand lines for what is five fixed messages here, written once
//! while the helper is set up. Layouts are those of `linux/netlink.h` and `linux/rtnetlink.h`, in the machine's byte order.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

/// Request, and acknowledge.
const CHANGE: u16 = 0x1 | 0x4;
/// The same, to create what is not there yet and to fail where it is.
const CREATE: u16 = CHANGE | 0x400 | 0x200;

const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Use the address at once: nobody else on a TUN device could have it.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

/// Bytes of a netlink header; the length field counts them.
const HEADER: usize = 16;

/// A socket to the kernel's network configuration of this namespace.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self(socket))
    }

    /// Brings an interface up.
    pub(super) fn up(&self, interface: u32) -> io::Result<()> {
        self.ask(RTM_NEWLINK, CHANGE, &link(interface, IFF_UP))
    }

    /// Sets the largest packet, in bytes.
    pub(super) fn set_mtu(&self, interface: u32, mtu: u16) -> io::Result<()> {
        let mut body = link(interface, 0);
        attribute(&mut body, IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        self.ask(RTM_NEWLINK, CHANGE, &body)
    }

    /// Sets how many packets may wait for the device's reader.
    pub(super) fn set_queue_length(&self, interface: u32, packets: u32) -> io::Result<()> {
        let mut body = link(interface, 0);
        attribute(&mut body, IFLA_TXQLEN, &packets.to_ne_bytes());
        self.ask(RTM_NEWLINK, CHANGE, &body)
    }

    /// Gives an interface an address of its own, with no network around it.
    pub(super) fn add_address(&self, interface: u32, address: IpAddr) -> io::Result<()> {
        let (octets, prefix) = octets(address);
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut body = vec![family(address), prefix, flags, RT_SCOPE_UNIVERSE];
        body.extend(interface.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &octets);
        attribute(&mut body, IFA_ADDRESS, &octets);
        self.ask(RTM_NEWADDR, CREATE, &body)
    }

    /// Sends everything of the family of `address` that is not elsewhere to an interface.
    pub(super) fn add_default_route(&self, interface: u32, address: IpAddr) -> io::Result<()> {
        let scope = if address.is_ipv4() {
            RT_SCOPE_LINK
        } else {
            RT_SCOPE_UNIVERSE
        };
        let mut body = vec![
            family(address),
            0, // destination prefix
            0, // source prefix
            0, // type of service
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            scope,
            RTN_UNICAST,
        ];
        body.extend(0_u32.to_ne_bytes()); // flags
        attribute(&mut body, RTA_OIF, &interface.to_ne_bytes());
        self.ask(RTM_NEWROUTE, CREATE, &body)
    }

    /// Makes every address of a network one of this namespace's own, for sockets that are bound to none.
    pub(super) fn add_local_network(&self, loopback: u32, network: IpAddr, prefix: u8) -> io::Result<()> {
        let scope = if network.is_ipv4() {
            RT_SCOPE_HOST
        } else {
            RT_SCOPE_UNIVERSE
        };
        let mut body = vec![
            family(network),
            prefix,
            0, // source prefix
            0, // type of service
            RT_TABLE_LOCAL,
            RTPROT_STATIC,
            scope,
            RTN_LOCAL,
        ];
        body.extend(0_u32.to_ne_bytes()); // flags
        attribute(&mut body, RTA_DST, &octets(network).0);
        attribute(&mut body, RTA_OIF, &loopback.to_ne_bytes());
        self.ask(RTM_NEWROUTE, CREATE, &body)
    }

    /// Sends one request and waits for its acknowledgement.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]); // sequence number and port: one request at a time needs neither
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        let mut answer = [0; 512];
        let (len, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        verdict(&answer[..len.min(512)])
    }
}

fn link(interface: u32, up: u32) -> Vec<u8> {
    let mut body = vec![0; 4]; // family, padding, type
    body.extend(interface.to_ne_bytes());
    body.extend(up.to_ne_bytes()); // flags
    body.extend(up.to_ne_bytes()); // which of them to change
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    family.as_raw() as u8
}

fn octets(address: IpAddr) -> (Vec<u8>, u8) {
    match address {
        IpAddr::V4(address) => (address.octets().to_vec(), 32),
        IpAddr::V6(address) => (address.octets().to_vec(), 128),
    }
}

/// What an acknowledgement says: an error message whose number is zero when all went well.
fn verdict(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let number = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), number.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(number)) => Err(io::Error::from_raw_os_error(-number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut body = Vec::new();
        attribute(&mut body, IFLA_MTU, &[1, 2, 3]);
        assert_eq!(body.len(), 8);
        assert_eq!(body[..2], 7_u16.to_ne_bytes());
        assert_eq!(body[4..], [1, 2, 3, 0]);
    }

    #[test]
    fn the_kernel_refuses_in_its_own_words() {
        // The largest number that an interface can have belongs to none.
        let error = Netlink::open().unwrap().up(i32::MAX as u32).unwrap_err();
        let number = error.raw_os_error();
        assert!(
            [Some(libc::ENODEV), Some(libc::EPERM)].contains(&number),
            "{error}"
        );
        assert!(verdict(&[0; 3]).is_err() && verdict(&[0; 64]).is_err());
    }
}

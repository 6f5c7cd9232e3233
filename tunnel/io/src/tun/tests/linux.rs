//! A socket pair that keeps packets apart.

use std::os::fd::OwnedFd;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::PATIENCE;
use crate::tun::TunDevice;

pub(super) const LOOPBACK: &str = "127.0.0.1:0";

/// What the machine would have of the device.
pub(super) struct Inside(OwnedFd);

pub(super) fn device() -> (TunDevice, Inside) {
    let flags = SocketFlags::CLOEXEC;
    let (outside, inside) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    set_socket_timeout(&inside, Timeout::Recv, Some(PATIENCE)).unwrap();
    (TunDevice::from_fd(outside, false).unwrap(), Inside(inside))
}

impl Inside {
    pub(super) fn send(&self, packet: &[u8]) {
        rustix::io::write(&self.0, packet).unwrap();
    }

    pub(super) fn receive(&self) -> Vec<u8> {
        let mut packet = vec![0; 64];
        let len = rustix::io::read(&self.0, &mut packet).expect("a packet arrives in time");
        packet.truncate(len);
        packet
    }
}

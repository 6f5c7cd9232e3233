//! Two rings in memory, as Wintun's are.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;
use crate::tun::TunDevice;
use crate::tun::device::{Ring, Waited};

/// Not IPv4's: wine has no such sockets as the path wants.
pub(super) const LOOPBACK: &str = "[::1]:0";

#[derive(Default)]
struct Rings {
    packets: Mutex<Packets>,
    changed: Condvar,
}

#[derive(Default)]
struct Packets {
    sent: VecDeque<Vec<u8>>,
    received: VecDeque<Vec<u8>>,
    is_interrupted: bool,
}

struct Outside(Arc<Rings>);

/// What the machine would have of the device.
pub(super) struct Inside(Arc<Rings>);

pub(super) fn device() -> (TunDevice, Inside) {
    let rings = Arc::new(Rings::default());
    (TunDevice::of(Outside(Arc::clone(&rings))), Inside(rings))
}

impl Ring for Outside {
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let packet = self.0.packets.lock().unwrap().sent.pop_front();
        let packet = packet.ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok(packet.len())
    }

    fn put(&self, packet: &[u8]) -> io::Result<()> {
        self.0.packets.lock().unwrap().received.push_back(packet.to_vec());
        self.0.changed.notify_all();
        Ok(())
    }

    fn wait(&self) -> io::Result<Waited> {
        let packets = self.0.packets.lock().unwrap();
        let nothing = |packets: &mut Packets| packets.sent.is_empty() && !packets.is_interrupted;
        let packets = self.0.changed.wait_while(packets, nothing).unwrap();
        Ok(if packets.is_interrupted {
            Waited::Stopped
        } else {
            Waited::Packet
        })
    }

    fn interrupt(&self) {
        self.0.packets.lock().unwrap().is_interrupted = true;
        self.0.changed.notify_all();
    }
}

impl Inside {
    pub(super) fn send(&self, packet: &[u8]) {
        self.0.packets.lock().unwrap().sent.push_back(packet.to_vec());
        self.0.changed.notify_all();
    }

    pub(super) fn receive(&self) -> Vec<u8> {
        let packets = self.0.packets.lock().unwrap();
        let nothing = |packets: &mut Packets| packets.received.is_empty();
        let (mut packets, _) = self
            .0
            .changed
            .wait_timeout_while(packets, PATIENCE, nothing)
            .unwrap();
        packets.received.pop_front().expect("a packet arrives in time")
    }
}

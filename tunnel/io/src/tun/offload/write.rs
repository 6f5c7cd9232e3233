//! Packets to a device that takes large ones.

use std::io::IoSlice;

use orfe_tunnel_core::Batch;

use super::header::HEADER_LEN;
use super::join::{Group, MAX_JOINED, groups};
use crate::tun::TunDevice;

/// Writes all packets to a device with headers, joined where that is possible, and clears them. `joined` is kept for its
/// memory. A packet that the system does not take is lost, as it would be on a link.
pub(crate) fn write_joined<M>(device: &TunDevice, packets: &mut Batch<M>, joined: &mut Vec<Group>) {
    groups(packets, joined);
    for group in joined.iter() {
        let mut pieces = [IoSlice::new(&[]); MAX_JOINED + 1];
        pieces[0] = IoSlice::new(&group.header);
        for number in 0..group.packets {
            let packet = packets
                .get(group.first + number)
                .map_or(&[][..], |(packet, _)| packet);
            let from = if number == 0 { 0 } else { group.headers };
            pieces[number + 1] = IoSlice::new(&packet[from..]);
        }
        write(device, &pieces[..=group.packets]);
    }
    packets.clear();
}

/// Writes one packet that was made here.
pub(crate) fn write_single(device: &TunDevice, packet: &[u8]) {
    write(device, &[IoSlice::new(&[0; HEADER_LEN]), IoSlice::new(packet)]);
}

/// Writes one packet as it is given, gathered from these pieces; it is lost when the system does not take it.
pub(crate) fn write(device: &TunDevice, pieces: &[IoSlice<'_>]) {
    if let Err(error) = device.write(pieces) {
        tracing::debug!(%error, "the device did not take a packet");
    }
}

//! Packets to a device that takes large ones.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};

use orfe_tunnel_core::Batch;

use super::header::HEADER_LEN;
use super::join::{Group, MAX_JOINED, groups};
use crate::tun::TunDevice;

/// Whether packets are joined. A kernel that refuses one joined packet refuses the next one, too: from then on this process
/// writes them one by one.
static JOINS: AtomicBool = AtomicBool::new(true);

/// Writes all packets to a device with headers, joined where that is possible, and clears them. `joined` is kept for its
/// memory. A packet that the system does not take is lost, as it would be on a link.
pub(crate) fn write_joined<M>(device: &TunDevice, packets: &mut Batch<M>, joined: &mut Vec<Group>) {
    write_with(&JOINS, packets, joined, |pieces| device.write(pieces));
}

fn write_with<M>(
    joins: &AtomicBool,
    packets: &mut Batch<M>,
    joined: &mut Vec<Group>,
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
) {
    if joins.load(Ordering::Relaxed) {
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
            match write(&pieces[..=group.packets]) {
                Err(error) if group.packets > 1 && is_refusal(&error) => switch_off(joins, &error),
                written => note(written),
            }
        }
    } else {
        for (packet, _) in packets.iter() {
            note(write(&[IoSlice::new(&[0; HEADER_LEN]), IoSlice::new(packet)]));
        }
    }
    packets.clear();
}

/// The errors that say "not on this device", not "not now", as Linux numbers them: no other system's devices take joined packets.
const EIO: i32 = 5;
const EINVAL: i32 = 22;

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EIO | EINVAL))
}

/// Said once: another thread may have found the same in this moment.
fn switch_off(joins: &AtomicBool, error: &io::Error) {
    if joins.swap(false, Ordering::Relaxed) {
        tracing::warn!(%error, "the TUN device takes no joined packets: they are written one by one from now on, which is slower");
    }
}

fn note(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::debug!(%error, "the device did not take a packet");
    }
}

/// Writes one packet that was made here.
pub(crate) fn write_single(device: &TunDevice, packet: &[u8]) {
    write(device, &[IoSlice::new(&[0; HEADER_LEN]), IoSlice::new(packet)]);
}

/// Writes one packet as it is given, gathered from these pieces; it is lost when the system does not take it.
pub(crate) fn write(device: &TunDevice, pieces: &[IoSlice<'_>]) {
    note(device.write(pieces));
}

#[cfg(test)]
mod tests {
    use super::super::tests::in_a_row;
    use super::*;

    #[test]
    fn a_refused_joined_packet_switches_joining_off() {
        let (joins, mut joined) = (AtomicBool::new(true), Vec::new());
        let mut written: Vec<usize> = Vec::new();
        for round in 0..3 {
            let mut packets = Batch::new();
            for packet in in_a_row(false, &[1000; 10]) {
                packets.push(&packet, ());
            }
            write_with(&joins, &mut packets, &mut joined, |pieces| {
                written.push(pieces.len() - 1);
                match pieces.len() {
                    // The first round is told of a full queue, which is nothing to learn from.
                    3.. if round == 0 => Err(io::ErrorKind::WouldBlock.into()),
                    3.. => Err(io::Error::from_raw_os_error(EINVAL)),
                    _ => Ok(()),
                }
            });
            assert_eq!(packets.len(), 0);
        }
        assert_eq!(written, [vec![10, 10], vec![1; 10]].concat());
    }
}

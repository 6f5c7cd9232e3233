//! Segments of one TCP connection, joined to a large packet for the kernel.
//!
//! Segments that follow one another in a batch and in their connection are written as one packet, gathered from where they
//! lie. Their order among all packets stays. A segment is joined only when its checksum is right: the kernel does not look
//! at the checksums of a large packet again, and what was damaged before it came into the tunnel must not be made whole.

use orfe_tunnel_core::Batch;
use orfe_tunnel_core::packet::checksum::{fold, sum};

use super::header::{HEADER_LEN, Header, Kind};
use super::tcp::{ACK, PSH, TCP, TcpHeaders};

/// Packets of one group at most; the system takes 1024 pieces in one write.
pub(super) const MAX_JOINED: usize = 128;
/// Length of a large packet at most.
const MAX_LEN: usize = 65_535;

/// Packets to be written as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The first of them in the batch.
    pub(crate) first: usize,
    /// How many; they follow one another.
    pub(crate) packets: usize,
    /// Length of the headers that all but the first leave out.
    pub(crate) headers: usize,
    /// What stands in front.
    pub(crate) header: [u8; HEADER_LEN],
}

/// What is known of a packet that may be joined.
#[derive(Clone, Copy)]
struct Segment {
    is_v4: bool,
    transport: usize,
    headers: usize,
    payload: usize,
    sequence: u32,
    is_pushed: bool,
}

/// Groups the packets of `batch` into `groups` and changes the first of each group so that it stands for all.
pub(super) fn groups<M>(batch: &mut Batch<M>, groups: &mut Vec<Group>) {
    groups.clear();
    let mut index = 0;
    while index < batch.len() {
        let packets = extent(batch, index);
        let group = match batch.get(index).and_then(|(packet, _)| Segment::parse(packet)) {
            Some(segment) if packets > 1 => merged(batch, index, packets, segment),
            _ => Group {
                first: index,
                packets: 1,
                headers: 0,
                header: [0; HEADER_LEN],
            },
        };
        groups.push(group);
        index += packets;
    }
}

/// How many packets from `first` on belong together.
fn extent<M>(batch: &Batch<M>, first: usize) -> usize {
    let Some((head, segment)) = batch
        .get(first)
        .and_then(|(packet, _)| Some((packet, Segment::parse(packet)?)))
    else {
        return 1;
    };
    let mut total = head.len();
    let mut next_sequence = segment.sequence.wrapping_add(segment.payload as u32);
    let mut is_open = !segment.is_pushed;
    let mut packets = 1;
    while is_open && packets < MAX_JOINED {
        let Some((packet, _)) = batch.get(first + packets) else {
            break;
        };
        let Some(next) = Segment::parse(packet) else { break };
        let fits = next.sequence == next_sequence
            && next.payload <= segment.payload
            && total + next.payload <= MAX_LEN
            && segment.is_same_flow(head, &next, packet)
            && (packets > 1 || segment.is_intact(head))
            && next.is_intact(packet);
        if !fits {
            break;
        }
        total += next.payload;
        next_sequence = next_sequence.wrapping_add(next.payload as u32);
        is_open = next.payload == segment.payload && !next.is_pushed;
        packets += 1;
    }
    packets
}

/// Rewrites the headers of the first packet for the whole group.
fn merged<M>(batch: &mut Batch<M>, first: usize, packets: usize, segment: Segment) -> Group {
    let last = first + packets - 1;
    let mut total = segment.headers;
    for index in first..=last {
        total += batch
            .get(index)
            .map_or(0, |(packet, _)| packet.len() - segment.headers);
    }
    let is_pushed = batch
        .get(last)
        .is_some_and(|(packet, _)| packet[segment.transport + 13] & PSH != 0);
    if let Some((head, _)) = batch.get_mut(first) {
        segment.write_headers(head, total, is_pushed);
    }
    let header = Header {
        needs_checksum: true,
        kind: if segment.is_v4 { Kind::TcpV4 } else { Kind::TcpV6 },
        headers: segment.headers as u16,
        segment: segment.payload as u16,
        checksum_start: segment.transport as u16,
        checksum_offset: 16,
    };
    Group {
        first,
        packets,
        headers: segment.headers,
        header: header.to_bytes(),
    }
}

impl Segment {
    /// Reads a packet; `None` unless it is plain TCP data: no fragment, no IP options, no flag but ACK and PSH.
    fn parse(packet: &[u8]) -> Option<Self> {
        let TcpHeaders {
            is_v4,
            told_len,
            transport,
            headers,
            sequence,
            flags,
            ..
        } = TcpHeaders::parse(packet)?;
        let has_options = is_v4 && transport != 20;
        let is_data = flags & !PSH == ACK && headers < packet.len();
        (is_data && !has_options && told_len == packet.len()).then(|| Self {
            is_v4,
            transport,
            headers,
            payload: packet.len() - headers,
            sequence,
            is_pushed: flags & PSH != 0,
        })
    }

    /// Whether two packets have the same headers, but for what differs from segment to segment.
    fn is_same_flow(&self, head: &[u8], next: &Segment, packet: &[u8]) -> bool {
        if self.is_v4 != next.is_v4 || self.headers != next.headers {
            return false;
        }
        let at = self.transport;
        let is_same_ip = if self.is_v4 {
            // Type of service; flags and lifetime; addresses.
            head[1] == packet[1] && head[6..9] == packet[6..9] && head[12..20] == packet[12..20]
        } else {
            // Class and flow label; hop limit; addresses.
            head[..4] == packet[..4] && head[7..40] == packet[7..40]
        };
        // Ports; acknowledgement and header length; window; urgent pointer and options.
        is_same_ip
            && head[at..at + 4] == packet[at..at + 4]
            && head[at + 8..at + 13] == packet[at + 8..at + 13]
            && head[at + 14..at + 16] == packet[at + 14..at + 16]
            && head[at + 18..self.headers] == packet[at + 18..self.headers]
    }

    /// Whether the checksums of IP and TCP are right.
    fn is_intact(&self, packet: &[u8]) -> bool {
        let ip = !self.is_v4 || fold(sum(&packet[..self.transport], 0)) == 0xffff;
        let transport = packet.len() - self.transport;
        ip && fold(sum(&packet[self.transport..], self.pseudo(packet, transport))) == 0xffff
    }

    fn pseudo(&self, packet: &[u8], transport: usize) -> u64 {
        let addresses = if self.is_v4 {
            &packet[12..20]
        } else {
            &packet[8..40]
        };
        sum(addresses, u64::from(TCP) + transport as u64)
    }

    /// Makes `head` the header of a packet of `total` bytes whose TCP checksum is still to be completed.
    fn write_headers(&self, head: &mut [u8], total: usize, is_pushed: bool) {
        if self.is_v4 {
            head[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            head[10..12].fill(0);
            let checksum = !fold(sum(&head[..self.transport], 0));
            head[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            head[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        }
        if is_pushed {
            head[self.transport + 13] |= PSH;
        }
        let pseudo = fold(self.pseudo(head, total - self.transport));
        head[self.transport + 16..self.transport + 18].copy_from_slice(&pseudo.to_be_bytes());
    }
}

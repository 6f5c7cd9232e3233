//! Sending over a path that loses packets.
//!
//! smoltcp knows neither selective acknowledgements nor a congestion control that stands random loss, and its retransmission
//! timer is never shorter than a second: at 1 % loss and 50 ms it sends 1 Mbit/s. Its own controls cannot be exchanged, but
//! everything it sends and hears passes here, so this stands between it and the path:
//!
//! ```text
//!   smoltcp ── segments ──► [copy kept until acknowledged] ──► path
//!   smoltcp ◄── acknowledgements, window cut to what may be in flight ── [scoreboard, rate] ◄── path
//!                                    lost segments ──────────────────────► path
//! ```
//!
//! - What is lost is found from selective acknowledgements and send times (`scoreboard`) and sent again from here.
//! - How much may be in flight follows the rate of delivery (`rate`). smoltcp runs without a congestion control and obeys the
//!   window, which is rewritten in the acknowledgements that it sees.
//! - What smoltcp itself sends again is not let through: there is one who decides.
//!
//! A connection whose other end knows no selective acknowledgements is left to smoltcp and its CUBIC.
//!
//! It also mends the sequence numbers of bare acknowledgements. After a timeout smoltcp starts over from the first
//! unacknowledged byte, and until it has caught up it gives its bare acknowledgements that earlier place. The other end may
//! have those bytes already; then such a segment lies before its window, and it throws away the acknowledgement with it
//! (RFC 9293, section 3.10.7.4). When both ends are in that state, neither hears the other, for ever. A bare acknowledgement
//! belongs at the end of what was ever sent (`SND.NXT`), so that is where it is moved to.

mod edge;
mod rate;
mod scoreboard;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use orfe_tunnel_core::Batch;
use smoltcp::wire::{IPV6_HEADER_LEN, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use self::edge::Edge;
use self::rate::Rate;
use self::scoreboard::{Delivery, Scoreboard};
use super::connection::tidy;
use super::flow::Header;

/// Bytes of a TCP header without options, as smoltcp puts before data.
const TCP_HEADER: usize = 20;
/// Shortest retransmission timeout. The other end may hold back an acknowledgement for 40 ms (Linux) or more.
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
/// Timeouts before the round trip is known (RFC 6298, section 2.1).
const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The first timeout only probes with the last segment (RFC 8985, section 7); it may come early.
const PROBE_SLACK: Duration = Duration::from_millis(60);

/// One connection's sending side.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// Sequence number of our SYN.
    syn: Option<TcpSeqNumber>,
    /// What the other end's SYN offered.
    offered: Option<Offer>,
    /// End of what was ever sent, as long as smoltcp is on its own.
    end: Option<TcpSeqNumber>,
    edge: Edge,
    active: Option<Box<Active>>,
}

#[derive(Debug, Clone, Copy)]
struct Offer {
    selective: bool,
    window_scale: u8,
}

/// Sending from here.
#[derive(Debug)]
struct Active {
    /// Sequence number of position 0.
    origin: TcpSeqNumber,
    window_scale: u8,
    board: Scoreboard,
    rate: Rate,
    /// The bytes on the scoreboard. As many as smoltcp's send buffer holds at most.
    bytes: VecDeque<u8>,
    is_finished: bool,
    /// Headers of the last segment, for those that are sent again.
    template: Vec<u8>,
    /// Acknowledgement and window that smoltcp sent last.
    heard: Option<(TcpSeqNumber, u16)>,
    /// Smoothed round trip and its variation.
    round_trip: Option<(Duration, Duration)>,
    /// When something was last sent for the first time or delivered, and the timeouts since.
    progress: Instant,
    timeouts: u32,
}

impl Sender {
    /// Whether smoltcp is to leave congestion to this.
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Takes a packet that smoltcp made, and passes on what is to be sent.
    pub(super) fn outgoing(&mut self, packet: &mut [u8], header: &Header, now: Instant, out: &mut Batch<()>) {
        let Ok(mut segment) = TcpPacket::new_checked(&mut packet[header.offset..]) else {
            return;
        };
        if segment.syn() {
            self.edge.sent_syn(offered_scale(&packet[header.offset..]));
            let Ok(again) = TcpPacket::new_checked(&mut packet[header.offset..]) else {
                return;
            };
            segment = again;
        }
        self.edge.note(&segment);
        let (start, len) = (segment.seq_number(), segment.segment_len());
        if segment.rst() {
            self.active = None;
        } else if segment.syn() {
            self.syn = Some(start);
            self.end = Some(start + len);
            self.activate(now);
        } else if let Some(active) = &mut self.active {
            active.outgoing(packet, header, now, out);
            return;
        } else {
            match self.end {
                Some(end) if start + len < end => {
                    if len == 0 {
                        segment.set_seq_number(end);
                        fill_checksum(&mut segment, header);
                    }
                }
                _ => self.end = Some(start + len),
            }
        }
        out.push(packet, ());
    }

    /// Looks at a packet before smoltcp does. The round trip, when it tells one.
    pub(super) fn incoming(&mut self, packet: &mut [u8], header: &Header, now: Instant) -> Option<Duration> {
        let mut segment = TcpPacket::new_checked(packet.get_mut(header.offset..)?).ok()?;
        if segment.syn() {
            let options = TcpPacket::new_checked(&packet[header.offset..])
                .ok()?
                .options_summary()
                .ok()?;
            self.edge.heard_syn(options.window_scale);
            // Without a scale from them smoltcp uses none either (RFC 7323, section 2.2); 14 is the largest.
            self.offered = Some(Offer {
                selective: options.sack_permitted,
                window_scale: options.window_scale.unwrap_or(0).min(14),
            });
            self.activate(now);
            segment = TcpPacket::new_checked(packet.get_mut(header.offset..)?).ok()?;
        }
        if !segment.ack() || segment.rst() {
            return None;
        }
        self.edge.admit(&mut segment);
        let active = self.active.as_mut()?;
        active.incoming(&mut segment, now)
    }

    /// Sends again what is lost, as far as there is `room` for packets. When it is to be called again at the latest.
    pub(super) fn work(&mut self, now: Instant, room: usize, out: &mut Batch<()>) -> Option<Instant> {
        self.active.as_mut()?.work(now, room, out)
    }

    /// smoltcp has nothing more to send: `queued` bytes are in its buffer.
    pub(super) fn note_queued(&mut self, queued: usize) {
        if let Some(active) = &mut self.active
            && active.board.acknowledged() + queued as u64 <= active.board.end()
        {
            active.rate.note_limited(active.board.in_flight());
        }
    }

    /// Bytes kept here.
    pub(super) fn buffered(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.bytes.len())
    }

    fn activate(&mut self, now: Instant) {
        if let Some((syn, offer)) = self.syn.zip(self.offered)
            && offer.selective
            && self.active.is_none()
        {
            self.active = Some(Box::new(Active {
                origin: syn + 1,
                window_scale: offer.window_scale,
                board: Scoreboard::default(),
                rate: Rate::new(now),
                bytes: VecDeque::new(),
                is_finished: false,
                template: Vec::new(),
                heard: None,
                round_trip: None,
                progress: now,
                timeouts: 0,
            }));
        }
    }
}

impl Active {
    /// The position that a sequence number stands for, seen from `near`.
    fn position(&self, number: TcpSeqNumber) -> Option<u64> {
        let near = self.board.end();
        let offset = number.0.wrapping_sub(self.number(near).0);
        near.checked_add_signed(i64::from(offset))
    }

    fn number(&self, position: u64) -> TcpSeqNumber {
        TcpSeqNumber(self.origin.0.wrapping_add(position as i32))
    }

    fn outgoing(&mut self, packet: &mut [u8], header: &Header, now: Instant, out: &mut Batch<()>) {
        let Ok(mut segment) = TcpPacket::new_checked(&mut packet[header.offset..]) else {
            return;
        };
        let heard = Some((segment.ack_number(), segment.window_len()));
        let is_news = heard != self.heard;
        self.heard = heard;
        let (Some(start), len) = (self.position(segment.seq_number()), segment.segment_len() as u64) else {
            // A probe of an idle connection lies one before the first byte.
            out.push(packet, ());
            return;
        };
        let end = self.board.end();
        if len == 0 {
            if start < end {
                segment.set_seq_number(self.number(end));
                fill_checksum(&mut segment, header);
            }
            out.push(packet, ());
        } else if start < self.board.acknowledged() {
            // A probe of an idle connection.
            out.push(packet, ());
        } else if start + len > end && start <= end {
            let data = header.offset + usize::from(segment.header_len());
            let is_last = segment.fin();
            let payload = packet[data..].to_vec();
            let skipped = ((end - start) as usize).min(payload.len());
            self.template.clear();
            self.template
                .extend_from_slice(&packet[..(header.offset + TCP_HEADER).min(data)]);
            let stamp = self.rate.stamp(self.board.in_flight(), now);
            if self.board.is_empty() {
                self.progress = now;
            }
            self.board.sent((start + len - end) as u32, now, stamp);
            self.bytes.extend(&payload[skipped..]);
            self.is_finished |= is_last;
            if skipped == 0 {
                out.push(packet, ());
            } else {
                let (acknowledged, sent) = (self.board.acknowledged(), self.board.end());
                self.build(end, (sent - end) as usize, acknowledged..sent, out);
            }
        } else if is_news {
            // smoltcp sends again what is kept here; but the acknowledgement in it is wanted.
            let len = header.offset + usize::from(segment.header_len());
            segment.set_seq_number(self.number(end));
            segment.set_fin(false);
            set_length(packet, len);
            if let Ok(mut segment) = TcpPacket::new_checked(&mut packet[header.offset..len]) {
                fill_checksum(&mut segment, header);
            }
            out.push(&packet[..len], ());
        }
    }

    fn incoming(&mut self, segment: &mut TcpPacket<&mut [u8]>, now: Instant) -> Option<Duration> {
        let acknowledged = self.position(segment.ack_number())?;
        if acknowledged < self.board.acknowledged() || acknowledged > self.board.end() {
            return None;
        }
        let ranges = segment.selective_ack_ranges().unwrap_or_default();
        let mut delivery = Delivery::default();
        let freed = acknowledged - self.board.acknowledged();
        self.bytes.drain(..(freed as usize).min(self.bytes.len()));
        tidy(&mut self.bytes);
        self.board.acknowledge(acknowledged, &mut delivery);
        for (left, right) in ranges.into_iter().flatten() {
            let range = self
                .position(TcpSeqNumber(left.cast_signed()))
                .zip(self.position(TcpSeqNumber(right.cast_signed())));
            if let Some((left, right)) = range.filter(|(left, right)| left < right) {
                self.board
                    .acknowledge_range(left, right.min(self.board.end()), &mut delivery);
            }
        }
        let round_trip = self.note(&delivery, now);
        let scale = if segment.syn() { 0 } else { self.window_scale };
        let given = u64::from(segment.window_len()) << scale;
        let waiting = self.board.in_flight() + self.board.lost();
        let allowed = self.board.end() - acknowledged + self.rate.window().saturating_sub(waiting);
        // Rounded up, lest a window of less than the scale's unit becomes none at all.
        let cut = given.min(allowed).div_ceil(1 << scale);
        segment.set_window_len(u16::try_from(cut).unwrap_or(u16::MAX).min(segment.window_len()));
        round_trip
    }

    fn note(&mut self, delivery: &Delivery, now: Instant) -> Option<Duration> {
        let newest = delivery.newest?;
        self.progress = now;
        self.timeouts = 0;
        let round_trip = delivery
            .sent_once_at
            .map(|sent_at| now.saturating_duration_since(sent_at));
        self.rate.note_delivered(delivery.bytes, newest, round_trip, now);
        let sample = round_trip?;
        // RFC 6298, section 2.
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((smoothed, varies)) => {
                let differs = smoothed.abs_diff(sample);
                ((smoothed * 7 + sample) / 8, (varies * 3 + differs) / 4)
            }
        });
        Some(sample)
    }

    fn work(&mut self, now: Instant, room: usize, out: &mut Batch<()>) -> Option<Instant> {
        if self.board.is_empty() {
            return None;
        }
        let smoothed = self.round_trip.map_or(INITIAL_TIMEOUT, |(smoothed, _)| smoothed);
        // RFC 8985 tolerates reordering within a quarter of the round trip.
        let lost = self.board.detect(smoothed / 4);
        self.rate.note_lost(lost);
        if now >= self.progress + self.timeout() {
            self.progress = now;
            if self.timeouts == 0 {
                self.board.lose_last();
            } else {
                self.board.lose_all();
                self.rate.note_silence();
            }
            self.timeouts = self.timeouts.saturating_add(1);
            self.resend(now, 1, out);
        } else {
            self.resend(now, room, out);
        }
        Some(self.progress + self.timeout())
    }

    /// How long nothing may happen while something is in flight.
    fn timeout(&self) -> Duration {
        let Some((smoothed, varies)) = self.round_trip else {
            return INITIAL_TIMEOUT * 2_u32.saturating_pow(self.timeouts.min(6));
        };
        let timeout = match self.timeouts {
            0 => smoothed * 2 + PROBE_SLACK,
            timeouts => (smoothed + varies * 4).max(MIN_TIMEOUT) * 2_u32.saturating_pow(timeouts.min(16) - 1),
        };
        timeout.min(MAX_TIMEOUT)
    }

    fn resend(&mut self, now: Instant, mut room: usize, out: &mut Batch<()>) {
        if self.board.lost() == 0 || room == 0 {
            return;
        }
        let limit = self.rate.window().saturating_sub(self.board.in_flight());
        let stamp = self.rate.stamp(self.board.in_flight(), now);
        let mut board = std::mem::take(&mut self.board);
        let kept = board.acknowledged()..board.end();
        board.resend(limit, now, stamp, |position, len| {
            let fits = room > 0;
            if fits {
                room -= 1;
                self.build(position, len as usize, kept.clone(), out);
            }
            fits
        });
        self.board = board;
    }

    /// Makes the segment of `len` at `position` anew, with what smoltcp last had to say to the other end.
    fn build(&self, position: u64, len: usize, kept: Range<u64>, out: &mut Batch<()>) {
        let Some(header) = Header::parse(&self.template) else {
            return;
        };
        let has_end = self.is_finished && position + len as u64 == kept.end;
        let from = (position - kept.start) as usize;
        let payload = self.bytes.range(from..from + len - usize::from(has_end));
        let data = self.template.len();
        let total = data + payload.len();
        let packet = &mut out.reserve(total)[..total];
        packet[..data].copy_from_slice(&self.template);
        packet[data..]
            .iter_mut()
            .zip(payload)
            .for_each(|(to, from)| *to = *from);
        set_length(packet, total);
        let Ok(mut segment) = TcpPacket::new_checked(&mut packet[header.offset..]) else {
            return;
        };
        segment.set_header_len(TCP_HEADER as u8);
        segment.set_seq_number(self.number(position));
        if let Some((acknowledgement, window)) = self.heard {
            segment.set_ack_number(acknowledgement);
            segment.set_window_len(window);
        }
        segment.set_fin(has_end);
        fill_checksum(&mut segment, &header);
        out.commit(total, ());
    }
}

/// The window scale that a SYN offers.
fn offered_scale(segment: &[u8]) -> Option<u8> {
    let options = TcpPacket::new_checked(segment).ok()?.options_summary().ok()?;
    options.window_scale
}

/// Corrects the length in the IP header.
fn set_length(packet: &mut [u8], len: usize) {
    if packet[0] >> 4 == 4 {
        let mut ip = Ipv4Packet::new_unchecked(packet);
        ip.set_total_len(len as u16);
        ip.fill_checksum();
    } else {
        let mut ip = Ipv6Packet::new_unchecked(packet);
        ip.set_payload_len((len - IPV6_HEADER_LEN) as u16);
    }
}

fn fill_checksum(segment: &mut TcpPacket<&mut [u8]>, header: &Header) {
    segment.fill_checksum(
        &IpAddress::from(header.source.ip()),
        &IpAddress::from(header.destination.ip()),
    );
}

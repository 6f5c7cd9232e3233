//! smoltcp's network device. What smoltcp makes is taken one packet at a time, because not all of it is sent as it is.

use orfe_tunnel_core::Batch;
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// Packets that sockets may emit in one round, beyond the direct answers to what was received. The rest stays in the
/// sockets' own buffers until the next round.
pub(super) const MAX_TX: usize = 256;

#[derive(Debug)]
pub(super) struct PacketDevice {
    mtu: usize,
    rx: Batch<()>,
    rx_taken: usize,
    /// The packet that smoltcp made last; its length, until it is taken.
    made: Vec<u8>,
    made_len: Option<usize>,
    pub(super) tx: Batch<()>,
}

impl PacketDevice {
    pub(super) fn new(mtu: usize) -> Self {
        Self {
            mtu,
            rx: Batch::new(),
            rx_taken: 0,
            made: vec![0; mtu],
            made_len: None,
            tx: Batch::new(),
        }
    }

    /// The packet that smoltcp made since the last call, and where packets for the tunnel go.
    pub(super) fn take_made(&mut self) -> Option<(&mut [u8], &mut Batch<()>)> {
        let len = self.made_len.take()?;
        Some((&mut self.made[..len], &mut self.tx))
    }

    /// The packet that [`phy::Device::receive`] gives next.
    pub(super) fn next(&mut self) -> Option<&mut [u8]> {
        self.rx.get_mut(self.rx_taken).map(|(packet, ())| packet)
    }

    /// Whether sockets may emit another packet.
    pub(super) fn has_room(&self) -> bool {
        self.tx.len() < MAX_TX
    }

    /// How many packets there is room for, and where they go.
    pub(super) fn room(&mut self) -> (usize, &mut Batch<()>) {
        (MAX_TX.saturating_sub(self.tx.len()), &mut self.tx)
    }

    /// Queues a packet for the stack.
    pub(super) fn push(&mut self, packet: &[u8]) {
        if self.rx_taken == self.rx.len() {
            self.rx.clear();
            self.rx_taken = 0;
        }
        self.rx.push(packet, ());
    }
}

impl phy::Device for PacketDevice {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let (packet, ()) = self.rx.get(self.rx_taken)?;
        self.rx_taken += 1;
        // Not held back by a full `tx`: a packet has at most one answer, and the batch that brought it is bounded.
        let answer = TxToken {
            made: &mut self.made,
            len: &mut self.made_len,
        };
        Some((RxToken(packet), answer))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        self.has_room().then_some(TxToken {
            made: &mut self.made,
            len: &mut self.made_len,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // What arrives has been authenticated; its checksums say nothing more.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

#[derive(Debug)]
pub(super) struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

#[derive(Debug)]
pub(super) struct TxToken<'a> {
    made: &'a mut Vec<u8>,
    len: &'a mut Option<usize>,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if self.made.len() < len {
            self.made.resize(len, 0);
        }
        *self.len = Some(len);
        f(&mut self.made[..len])
    }
}

//! smoltcp's network device: two batches of packets.

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
    pub(super) tx: Batch<()>,
}

impl PacketDevice {
    pub(super) fn new(mtu: usize) -> Self {
        Self {
            mtu,
            rx: Batch::new(),
            rx_taken: 0,
            tx: Batch::new(),
        }
    }

    /// The packet that [`phy::Device::receive`] gives next.
    pub(super) fn next(&self) -> Option<&[u8]> {
        self.rx.get(self.rx_taken).map(|(packet, ())| packet)
    }

    /// Whether sockets may emit another packet.
    pub(super) fn has_room(&self) -> bool {
        self.tx.len() < MAX_TX
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
        Some((RxToken(packet), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        self.has_room().then_some(TxToken(&mut self.tx))
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
pub(super) struct TxToken<'a>(&'a mut Batch<()>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let result = f(&mut self.0.reserve(len)[..len]);
        self.0.commit(len, ());
        result
    }
}

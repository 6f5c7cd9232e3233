//! The prober beside the packets: its requests go out with the timers, its answers are taken out of what arrives.
//!
//! The second thread owns it, so that nothing on the way of a packet takes a lock for it. Packets that arrive while nothing is
//! measured cost one comparison for each batch, and else a look at two of their bytes.

use std::time::Instant;

use orfe_tunnel_core::path::{Path, Report};
use orfe_tunnel_core::{Batch, Datagrams, Node, PeerId};
use tokio::sync::watch;

/// What the thread measures by, and who is told.
#[derive(Debug)]
pub(super) struct Measuring {
    prober: Option<Path>,
    shown: watch::Sender<Option<Report>>,
}

impl Measuring {
    /// Nothing is measured until [`Measuring::take_up`].
    pub(super) fn new(shown: watch::Sender<Option<Report>>) -> Self {
        Self { prober: None, shown }
    }

    /// Measures by `prober` from now on, or no more. What was measured before holds no longer.
    pub(super) fn take_up(&mut self, prober: Option<Path>) {
        self.prober = prober;
        self.show();
    }

    /// Takes the prober's answers out of `packets`; true when there was one, and [`Measuring::work`] has something to do.
    pub(super) fn take_answers(&mut self, packets: &mut Batch<PeerId>, now: Instant) -> bool {
        let Some(prober) = &mut self.prober else {
            return false;
        };
        let arrived = packets.len();
        packets.retain(|packet, _| !prober.handle_packet(packet, now));
        if !packets.is_empty() {
            prober.note_traffic(now);
        }
        packets.len() < arrived
    }

    /// Sends what is due, and has the node keep to what is known to pass.
    pub(super) fn work(&mut self, node: &mut Node, now: Instant, out: &mut Datagrams) {
        let Some(prober) = &mut self.prober else {
            return;
        };
        while let Some(request) = prober.poll_packet(now) {
            node.handle_measuring(&request, now, out);
        }
        let mtu = usize::from(prober.mtu());
        if node.mtu() != mtu {
            tracing::debug!(from = node.mtu(), to = mtu, "the path's MTU");
            node.set_mtu(mtu);
        }
        self.show();
    }

    /// Nothing is measured for a while: nobody uses the tunnel.
    pub(super) fn put_off(&mut self, now: Instant) {
        if let Some(prober) = &mut self.prober {
            prober.put_off(now);
        }
    }

    /// When [`Measuring::work`] may have something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.prober.as_ref().map(Path::poll_timeout)
    }

    /// Shows what was measured, when it is news.
    pub(super) fn show(&self) {
        let report = self.prober.as_ref().and_then(Path::report);
        self.shown.send_if_modified(|shown| {
            let changed = *shown != report;
            *shown = report;
            changed
        });
    }
}

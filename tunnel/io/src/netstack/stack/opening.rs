//! How connections begin: dialled from here, or let in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::super::flow::{Flow, Header};
use super::super::stream::TunnelStream;
use super::life::{self, ConnectError, ConnectReply, DEAD_AFTER, Stage};
use super::{Stack, pass_on};

/// Local ports for connections that are dialled (RFC 6335, section 6: dynamic ports).
pub(super) const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

impl Stack {
    /// Starts a connection to `remote`; `reply` has the outcome. A dropped receiver abandons it.
    pub(crate) fn connect(&mut self, remote: SocketAddr, reply: ConnectReply) {
        if let Err((error, reply)) = self.try_connect(remote, reply) {
            // The receiver may be gone already; then nobody wants to know.
            let _ = reply.send(Err(error));
        }
    }

    fn try_connect(
        &mut self,
        remote: SocketAddr,
        reply: ConnectReply,
    ) -> Result<(), (ConnectError, ConnectReply)> {
        let source = self.source(remote);
        let Some(flow) = source.and_then(|source| self.free_flow(source, remote)) else {
            return Err((ConnectError::Unaddressable, reply));
        };
        let Some(window) = self.budget.admit() else {
            return Err((ConnectError::TooMany, reply));
        };
        let mut socket = life::new_socket();
        if socket
            .connect(self.interface.context(), flow.remote, flow.local)
            .is_err()
        {
            self.budget.give_back(window);
            return Err((ConnectError::Unaddressable, reply));
        }
        self.insert(flow, socket, window, Some(reply));
        Ok(())
    }

    /// Lets in `syn`, which must be the first packet of `flow`. `None` when the stack does not take it.
    pub(crate) fn accept(&mut self, flow: Flow, syn: &[u8], now: Instant) -> Option<TunnelStream> {
        if self.flows.contains_key(&flow) {
            return None;
        }
        // Nothing but this packet may meet the listening socket.
        self.ingress(now);
        let window = self.budget.admit()?;
        let mut socket = life::new_socket();
        socket.set_timeout(Some(DEAD_AFTER.into()));
        if socket.listen(flow.local).is_err() {
            self.budget.give_back(window);
            return None;
        }
        let slot = self.insert(flow, socket, window, None);
        self.device.push(syn);
        let clock = self.clock(now);
        let connection = self.slots[slot.0].as_mut()?;
        let Stage::Opening(dawn) = &mut connection.stage else {
            return None;
        };
        if let Some(packet) = self.device.next()
            && let Some(header) = Header::parse(packet)
        {
            dawn.seen.incoming(packet, &header);
        }
        self.interface
            .poll_ingress_single(clock, &mut self.device, &mut dawn.set);
        let has_come = dawn.socket().remote_endpoint().map(SocketAddr::from) == Some(flow.remote);
        pass_on(&mut self.device, Some(connection), now);
        if has_come {
            return Some(TunnelStream::new(Arc::clone(&connection.shared)));
        }
        self.remove(slot);
        None
    }

    /// Our address for destinations of the family of `remote`.
    pub(super) fn source(&self, remote: SocketAddr) -> Option<IpAddr> {
        let mut addresses = self.config.addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == remote.is_ipv4())
    }

    fn free_flow(&mut self, source: IpAddr, remote: SocketAddr) -> Option<Flow> {
        // Ports go round, so that one is not used again while the other end may still remember its last connection.
        for _ in PORTS {
            let flow = Flow {
                local: SocketAddr::new(source, self.next_port),
                remote,
            };
            self.next_port = self.next_port.checked_add(1).unwrap_or(*PORTS.start());
            if !self.flows.contains_key(&flow) {
                return Some(flow);
            }
        }
        None
    }
}

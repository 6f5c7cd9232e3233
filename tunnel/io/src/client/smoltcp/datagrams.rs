//! UDP through the tunnel, as its users see it.

use std::io;
use std::net::SocketAddr;

use tokio::sync::{Mutex, oneshot};

use super::Dial;
use crate::dial::{BoxFuture, Datagrams};
use crate::netstack::{Handle, Inbox, datagram_capacity};

/// A UDP socket in the tunnel's stack. Dropping it closes it.
#[derive(Debug)]
pub(super) struct TunnelDatagrams {
    handle: Handle<Dial>,
    local: SocketAddr,
    /// Waited on by one reader at a time.
    inbox: Mutex<Inbox>,
    mtu: usize,
}

/// Has the thread bind a socket for destinations of the family of `destination`.
pub(super) async fn bind(
    handle: &Handle<Dial>,
    mtu: usize,
    destination: SocketAddr,
) -> io::Result<TunnelDatagrams> {
    let (reply, outcome) = oneshot::channel();
    let command = Dial::Bind { destination, reply };
    handle.send(command).await.map_err(|_| ended())?;
    let (local, inbox) = outcome.await.map_err(|_| ended())?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the tunnel has no address of its family, or all its UDP sockets are in use",
        )
    })?;
    Ok(TunnelDatagrams {
        handle: handle.clone(),
        local,
        inbox: Mutex::new(inbox),
        mtu,
    })
}

impl Datagrams for TunnelDatagrams {
    fn send_to<'a>(&'a self, payload: &'a [u8], destination: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            if destination.is_ipv4() != self.local.is_ipv4() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "{destination} is of another family than {}, where the socket is bound",
                        self.local
                    ),
                ));
            }
            let limit = datagram_capacity(self.mtu, destination.ip());
            if payload.len() > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "a datagram of {} bytes is too long for the tunnel; {limit} fit",
                        payload.len()
                    ),
                ));
            }
            let command = Dial::Send {
                source: self.local,
                destination,
                payload: payload.to_vec(),
            };
            self.handle.send(command).await.map_err(|_| ended())
        })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let (payload, source) = self.inbox.lock().await.recv().await.ok_or_else(ended)?;
            let len = payload.len().min(buffer.len());
            buffer[..len].copy_from_slice(&payload[..len]);
            Ok((len, source))
        })
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the tunnel was shut down")
}

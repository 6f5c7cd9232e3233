//! A connection as the application sees it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{End, Sending, Shared};

/// A TCP connection through the tunnel.
///
/// Each direction is closed on its own: `shutdown` sends FIN and leaves reading open. A stream that is dropped after
/// `shutdown` and with nothing left unread is closed cleanly, any other is reset: that is how a connection is cut.
pub struct TunnelStream {
    shared: Arc<Shared>,
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").finish_non_exhaustive()
    }
}

impl TunnelStream {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

fn reset() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the connection in the tunnel was reset",
    )
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut rings = self.shared.lock();
        if rings.incoming.is_empty() {
            return match rings.end {
                Some(End::Eof) => Poll::Ready(Ok(())),
                Some(End::Reset) => Poll::Ready(Err(reset())),
                None => {
                    rings.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        while buffer.remaining() > 0 && !rings.incoming.is_empty() {
            let front = rings.incoming.front();
            let len = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..len]);
            rings.incoming.consume(len);
        }
        let left = rings.incoming.len();
        // Once for each time that the thread set it.
        let refill = rings.update_below.take_if(|below| left <= *below).is_some();
        drop(rings);
        if refill {
            self.shared.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut rings = self.shared.lock();
        match rings.sending {
            Sending::Open => {}
            Sending::Shut | Sending::Finished => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Sending::Broken => return Poll::Ready(Err(reset())),
        }
        let room = self.shared.ring().saturating_sub(rings.outgoing.len());
        let len = bytes.len().min(room);
        if len == 0 && !bytes.is_empty() {
            rings.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // A ring that is not empty is already known to the thread.
        let wake = rings.outgoing.is_empty();
        rings.outgoing.push(&bytes[..len]);
        drop(rings);
        if wake {
            self.shared.wake();
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As for a kernel socket: what was taken is sent as soon as the window allows.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rings = self.shared.lock();
        if rings.sending == Sending::Open {
            rings.sending = Sending::Shut;
        }
        drop(rings);
        self.shared.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared.lock().dropped = true;
        self.shared.wake();
    }
}

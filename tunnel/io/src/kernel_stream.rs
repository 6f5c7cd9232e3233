//! A connection of the kernel's own TCP that behaves as every stream of a dialer does.
//!
//! What differs from a plain socket: a stream that is dropped before `shutdown` resets the connection, because that is how
//! one is cut; it takes one of a bounded number of places while it lives; and a tunnel that ends can still reach it.

#[cfg(target_os = "linux")]
mod disconnected;
#[cfg(any(test, not(target_os = "linux")))]
mod flagged;

#[cfg(target_os = "linux")]
use self::disconnected as imp;
#[cfg(not(target_os = "linux"))]
use self::flagged as imp;

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use self::imp::Cut;
use crate::places::Place;

/// A connection, for the one who uses it. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct KernelStream {
    socket: Arc<KernelSocket>,
}

/// A connection, for everyone.
#[derive(Debug)]
pub(crate) struct KernelSocket {
    stream: TcpStream,
    /// Whether FIN was sent, or is waiting behind the last bytes.
    is_shut: AtomicBool,
    cut: Cut,
    /// A place among the connections that may be open.
    _place: Place,
}

impl KernelStream {
    pub(crate) fn new(stream: TcpStream, place: Place) -> Self {
        let socket = KernelSocket {
            stream,
            is_shut: AtomicBool::new(false),
            cut: Cut::new(),
            _place: place,
        };
        Self {
            socket: Arc::new(socket),
        }
    }

    pub(crate) fn socket(&self) -> &Arc<KernelSocket> {
        &self.socket
    }
}

impl KernelSocket {
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Resets the connection. Whoever reads or writes gets an error.
    pub(crate) fn cut(&self) {
        self.cut.cut(&self.stream);
    }

    /// Sends FIN behind what was written; reading goes on.
    pub(crate) fn shut(&self) -> io::Result<()> {
        self.is_shut.store(true, Ordering::Release);
        shut(&self.stream)
    }
}

/// Sends FIN behind what was written. A connection that has ended meanwhile needs none.
pub(crate) fn shut(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

impl Drop for KernelStream {
    fn drop(&mut self) {
        // With bytes unread the kernel resets by itself. Without this, bytes that were written would still be delivered, and
        // the other end would take the cut for a regular end.
        if !self.socket.is_shut.load(Ordering::Acquire) {
            let _ = self.socket.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for KernelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket.cut.check_reader(cx)?;
        let stream = &self.socket.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buffer.initialize_unfilled()) {
                Ok(len) => {
                    buffer.advance(len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for KernelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.cut.check_writer(cx)?;
        let stream = &self.socket.stream;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shut())
    }
}

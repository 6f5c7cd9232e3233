//! Linux: the kernel resets a connection whoever holds its socket.

use std::io;
use std::task::Context;

use tokio::net::TcpStream;

#[derive(Debug)]
pub(super) struct Cut;

#[expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the signatures are those of `flagged`"
)]
impl Cut {
    pub(super) const fn new() -> Self {
        Self
    }

    /// Resets the connection.
    pub(super) fn cut(&self, stream: &TcpStream) {
        // Connecting to "unspecified" takes a TCP socket back to its beginning, which sends a reset (tcp(7)).
        let _ = rustix::net::connect_unspec(stream);
    }

    /// The socket itself has the error.
    pub(super) fn check_reader(&self, _: &Context<'_>) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn check_writer(&self, _: &Context<'_>) -> io::Result<()> {
        Ok(())
    }
}

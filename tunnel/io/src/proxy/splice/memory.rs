//! Copying through memory, where no pipe of the kernel will do.
//!
//! Who waits holds nothing: bytes are read into memory that belongs to the thread, and written in the same breath. Only what
//! a sink did not take is kept until it does. How much is read at once follows what the sink took before, so that a
//! thousand connections whose other sides have stopped reading keep half a kilobyte each.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::super::body::{Body, Malformed};
use super::super::connections::Counter;
use super::Fault;

/// Bytes that are read at once at the most: two system calls for each.
const MOST: usize = 32 * 1024;
/// And while the sink takes less than it is offered: what a connection that has come to a stop keeps.
const LEAST: usize = 512;

thread_local! {
    /// What this thread reads into. Nothing in it outlives the call that read it.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MOST]);
}

/// Copies one direction to its end, and passes the end on. `body` bounds what may come.
pub(super) async fn copy(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    mut body: Body,
    counter: &Counter,
) -> Result<(), Fault> {
    let mut at_once = LEAST;
    loop {
        let step = |cx: &mut Context<'_>| {
            SCRATCH.with_borrow_mut(|scratch| {
                let buffer = ReadBuf::new(&mut scratch[..at_once]);
                poll_move(
                    Pin::new(&mut reader),
                    Pin::new(&mut writer),
                    &mut body,
                    buffer,
                    cx,
                )
            })
        };
        let Some(moved) = poll_fn(step).await? else {
            return writer.shutdown().await.map_err(|_| Fault::Write);
        };
        at_once = if moved.rest.is_empty() {
            MOST.min(at_once * 2)
        } else {
            LEAST
        };
        writer.write_all(&moved.rest).await.map_err(|_| Fault::Write)?;
        writer.flush().await.map_err(|_| Fault::Write)?;
        counter.add(moved.len);
        if moved.is_over {
            return Err(Fault::Body);
        }
    }
}

/// Bytes that were read.
struct Moved {
    /// How many of them the body has room for.
    len: usize,
    /// There were more than that.
    is_over: bool,
    /// Those that the sink did not take.
    rest: Vec<u8>,
}

/// Reads once and writes of it what goes at once. `None` at the end.
fn poll_move(
    reader: Pin<&mut impl AsyncRead>,
    writer: Pin<&mut impl AsyncWrite>,
    body: &mut Body,
    mut buffer: ReadBuf<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Moved>, Fault>> {
    ready!(reader.poll_read(cx, &mut buffer)).map_err(|_| Fault::Read)?;
    let read = buffer.filled();
    if read.is_empty() {
        return Poll::Ready(Ok(None));
    }
    let len = body.advance(read).map_err(|Malformed| Fault::Body)?;
    let wanted = &read[..len];
    let taken = match writer.poll_write(cx, wanted) {
        Poll::Ready(taken) => taken.map_err(|_| Fault::Write)?,
        Poll::Pending => 0,
    };
    Poll::Ready(Ok(Some(Moved {
        len,
        is_over: len < read.len(),
        rest: wanted[taken..].to_vec(),
    })))
}

/// Moves between two sockets what goes at once, and says how much that was; 0 is the end. What the sink does not take stays in
/// the source.
pub(super) async fn move_some(from: &TcpStream, to: &TcpStream) -> Result<usize, Fault> {
    loop {
        to.writable().await.map_err(|_| Fault::Write)?;
        let step =
            |cx: &mut Context<'_>| SCRATCH.with_borrow_mut(|scratch| poll_move_some(from, to, scratch, cx));
        match poll_fn(step).await? {
            // There is something, and no room for it.
            None => {}
            Some(len) => return Ok(len),
        }
    }
}

fn poll_move_some(
    from: &TcpStream,
    to: &TcpStream,
    scratch: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<Result<Option<usize>, Fault>> {
    let mut buffer = ReadBuf::new(scratch);
    let there = ready!(from.poll_peek(cx, &mut buffer)).map_err(|_| Fault::Read)?;
    if there == 0 {
        return Poll::Ready(Ok(Some(0)));
    }
    let taken = match to.try_write(buffer.filled()) {
        Ok(0) => return Poll::Ready(Err(Fault::Write)),
        Ok(taken) => taken,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(None)),
        Err(_) => return Poll::Ready(Err(Fault::Write)),
    };
    // They are there, for they were seen, and nobody else reads.
    match from.try_read(&mut scratch[..taken]) {
        Ok(read) if read == taken => Poll::Ready(Ok(Some(taken))),
        _ => Poll::Ready(Err(Fault::Read)),
    }
}

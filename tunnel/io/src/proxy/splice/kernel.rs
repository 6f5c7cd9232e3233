//! Copying between two sockets of the kernel, through a pipe where there is one to be had.
//!
//! splice(2) moves references to pages from one socket into a pipe and on into the other one. A pipe is taken only while
//! there is something to read and given back when all of it was written, so idle connections hold none; when all are in use
//! the bytes go through memory.

#[cfg(target_os = "linux")]
mod pipe;
#[cfg(not(target_os = "linux"))]
#[path = "kernel/no_pipe.rs"]
mod pipe;

use std::io;
use std::sync::atomic::AtomicU64;

use tokio::io::Interest;
use tokio::net::TcpStream;

use self::pipe::Pipe;
use super::super::connections::Counters;
use super::{BUFFER, Fault, Kernel};

/// Copies one direction to its end, and passes the end on. `first` was read from it already.
pub(super) async fn copy(
    first: &[u8],
    from: Kernel<'_>,
    to: Kernel<'_>,
    counter: &AtomicU64,
) -> Result<(), Fault> {
    let (source, sink) = (from.stream(), to.stream());
    write_all(sink, first, counter).await?;
    loop {
        source.readable().await.map_err(|_| Fault::Read)?;
        let ended = match Pipe::take() {
            Some(pipe) => through_pipe(pipe, source, sink, counter).await?,
            None => through_memory(source, sink, counter).await?,
        };
        if ended {
            return to.shut().map_err(|_| Fault::Write);
        }
    }
}

/// Copies what is there to be read, and says whether that was the end.
async fn through_pipe(
    mut pipe: Pipe,
    from: &TcpStream,
    to: &TcpStream,
    counter: &AtomicU64,
) -> Result<bool, Fault> {
    loop {
        // The pipe is empty here, so "would block" can only mean that there is nothing to read.
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Err(Fault::Read),
        }
        while !pipe.is_empty() {
            // Waiting counts against the task's budget, so that a fast connection lets others have their turn.
            to.writable().await.map_err(|_| Fault::Write)?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                // Nothing was taken, though there was something and room for it.
                Ok(0) => return Err(Fault::Write),
                Ok(len) => Counters::add(counter, len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Fault::Write),
            }
        }
    }
}

/// The same with a buffer of our own, for one read.
async fn through_memory(from: &TcpStream, to: &TcpStream, counter: &AtomicU64) -> Result<bool, Fault> {
    let mut buffer = vec![0; BUFFER];
    match from.try_read(&mut buffer) {
        Ok(0) => Ok(true),
        Ok(len) => write_all(to, &buffer[..len], counter).await.map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(_) => Err(Fault::Read),
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], counter: &AtomicU64) -> Result<(), Fault> {
    while !bytes.is_empty() {
        to.writable().await.map_err(|_| Fault::Write)?;
        match to.try_write(bytes) {
            Ok(0) => return Err(Fault::Write),
            Ok(len) => {
                Counters::add(counter, len);
                bytes = &bytes[len..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Fault::Write),
        }
    }
    Ok(())
}

//! Copying between two sockets of the kernel, through a pipe where there is one to be had.
//!
//! splice(2) moves references to pages from one socket into a pipe and on into the other one. A pipe is taken only while
//! there is something to read and given back when all of it was written, so idle connections hold none; when all are in use
//! the bytes go through memory, which holds none of them either.

#[cfg(target_os = "linux")]
mod pipe;
#[cfg(not(target_os = "linux"))]
#[path = "kernel/no_pipe.rs"]
mod pipe;

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

use self::pipe::Pipe;
use super::super::connections::Counter;
use super::{Fault, Kernel, memory};

/// Copies one direction to its end, and passes the end on. `first` was read from it already.
pub(super) async fn copy(
    first: &[u8],
    from: Kernel<'_>,
    to: Kernel<'_>,
    counter: &Counter,
) -> Result<(), Fault> {
    let (source, sink) = (from.stream(), to.stream());
    write_all(sink, first, counter).await?;
    loop {
        source.readable().await.map_err(|_| Fault::Read)?;
        let ended = match Pipe::take() {
            Some(pipe) => through_pipe(pipe, source, sink, counter).await?,
            None => match memory::move_some(source, sink).await? {
                0 => true,
                len => {
                    counter.add(len);
                    false
                }
            },
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
    counter: &Counter,
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
                Ok(len) => counter.add(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Fault::Write),
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], counter: &Counter) -> Result<(), Fault> {
    while !bytes.is_empty() {
        to.writable().await.map_err(|_| Fault::Write)?;
        match to.try_write(bytes) {
            Ok(0) => return Err(Fault::Write),
            Ok(len) => {
                counter.add(len);
                bytes = &bytes[len..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Fault::Write),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// The two ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    /// Sends through a copy and returns what came out.
    async fn through_copy(first: &[u8], sent: &[u8]) -> (Vec<u8>, u64) {
        let (mut client, near) = connection().await;
        let (far, mut server) = connection().await;
        let counter = Counter::default();
        let mut received = Vec::new();
        let (copied, (), read) = tokio::join!(
            copy(first, Kernel::Plain(&near), Kernel::Plain(&far), &counter),
            async {
                client.write_all(sent).await.unwrap();
                client.shutdown().await.unwrap();
            },
            server.read_to_end(&mut received),
        );
        copied.unwrap();
        read.unwrap();
        (received, counter.bytes())
    }

    #[tokio::test]
    async fn every_byte_passes_in_order_and_is_counted() {
        let (first, sent) = (bytes(1000), bytes(5_000_000));
        let (received, counted) = through_copy(&first, &sent).await;
        assert!(
            received == [first, sent].concat(),
            "{} bytes came",
            received.len()
        );
        assert_eq!(counted, 5_001_000);
    }

    #[tokio::test]
    async fn without_a_pipe_to_be_had_bytes_go_through_memory() {
        let all: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
        let sent = bytes(1_000_000);
        let (received, counted) = through_copy(&[], &sent).await;
        assert!(received == sent, "{} bytes came", received.len());
        assert_eq!(counted, 1_000_000);
        drop(all);
    }

    #[tokio::test]
    async fn a_sink_that_does_not_read_stops_the_source() {
        let (client, near) = connection().await;
        let (far, _server) = connection().await;
        let counter = Counter::default();
        let chunk = bytes(65_536);
        let writing = async {
            let mut written = 0;
            loop {
                client.writable().await.unwrap();
                written += client.try_write(&chunk).unwrap_or(0);
                assert!(written < 64 << 20, "the source is never stopped");
            }
        };
        let stalled = async {
            let mut last = 0;
            // The buffers of two sockets are full when nothing has moved for a while.
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                match counter.bytes() {
                    now if now == last && now > 0 => return,
                    now => last = now,
                }
            }
        };
        tokio::select! {
            result = copy(&[], Kernel::Plain(&near), Kernel::Plain(&far), &counter) => panic!("{result:?}"),
            () = writing => {}
            () = stalled => {}
        }
    }

    #[tokio::test]
    async fn what_a_cut_connection_left_in_a_pipe_reaches_no_other() {
        for _ in 0..20 {
            let (mut client, near) = connection().await;
            let (far, _deaf) = connection().await;
            let counter = Counter::default();
            client.set_nodelay(true).unwrap();
            let copying = copy(&[], Kernel::Plain(&near), Kernel::Plain(&far), &counter);
            let poison = vec![0xFF; 65_536];
            // Cut while the sink takes no more and the pipe holds bytes.
            let _ = tokio::time::timeout(Duration::from_millis(20), async {
                tokio::join!(copying, async {
                    while client.write_all(&poison).await.is_ok() {}
                })
            })
            .await;
        }
        let sent = bytes(300_000);
        let (received, _) = through_copy(&[], &sent).await;
        assert!(received == sent, "bytes of another connection came");
    }

    #[tokio::test]
    async fn a_reset_at_the_source_is_no_end() {
        let (client, near) = connection().await;
        let (far, mut server) = connection().await;
        client.set_zero_linger().unwrap();
        drop(client);
        let counter = Counter::default();
        let result = copy(&[], Kernel::Plain(&near), Kernel::Plain(&far), &counter).await;
        assert_eq!(result, Err(Fault::Read));
        drop(far);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

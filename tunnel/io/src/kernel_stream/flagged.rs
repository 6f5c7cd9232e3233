//! Where no system call resets a connection that somebody else holds: its user is told, and resets it by letting go of it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use tokio::net::TcpStream;

#[derive(Debug)]
pub(super) struct Cut {
    is_over: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Cut {
    pub(super) const fn new() -> Self {
        Self {
            is_over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    /// Has reader and writer end.
    pub(super) fn cut(&self, _: &TcpStream) {
        self.is_over.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// An error when the connection is cut; else the reader is woken when it will be.
    pub(super) fn check_reader(&self, cx: &Context<'_>) -> io::Result<()> {
        self.check(&self.reader, cx)
    }

    /// The same for the writer.
    pub(super) fn check_writer(&self, cx: &Context<'_>) -> io::Result<()> {
        self.check(&self.writer, cx)
    }

    fn check(&self, waker: &AtomicWaker, cx: &Context<'_>) -> io::Result<()> {
        // First the waker: what is cut in between wakes it.
        waker.register(cx.waker());
        if self.is_over.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn reader_and_writer_are_woken_and_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let cut = Cut::new();
        let (reader, writer) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let wakers = [&reader, &writer].map(|woken| Waker::from(Arc::clone(woken)));
        let [reading, writing] = [0, 1].map(|at| Context::from_waker(&wakers[at]));
        cut.check_reader(&reading).unwrap();
        cut.check_writer(&writing).unwrap();
        cut.cut(&stream);
        for woken in [reader, writer] {
            assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        }
        for result in [cut.check_reader(&reading), cut.check_writer(&writing)] {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

//! The pipes that bytes are spliced through.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::net::TcpStream;

/// Pipes in use at once, in directions that have bytes under way at this moment. They are two descriptors each, and a
/// process may have as few as 1024. Who finds none copies through memory.
const MAX_PIPES: usize = 64;

/// Pipes that are kept for the next one; making one costs more than a small copy.
const KEPT: usize = 16;

/// Bytes of a pipe: room for four reads of the 64 KiB that segmentation offload gathers. All pipes together stay below the
/// 64 MiB that the kernel lets an ordinary user have (`pipe-user-pages-soft`, pipe(7)).
const CAPACITY: usize = 256 * 1024;

/// Pipes that exist, and those of them that nobody uses. Descriptors belong to the whole process, and so does their bound.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static FREE: Mutex<Vec<(OwnedFd, OwnedFd)>> = Mutex::new(Vec::new());

/// A pipe, lent. One that is dropped with bytes in it is closed.
pub(super) struct Pipe {
    /// Reading and writing end; taken when it is given back.
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
}

impl Pipe {
    /// An empty pipe, unless all are in use or the system has none.
    pub(super) fn take() -> Option<Self> {
        if IN_USE.fetch_add(1, Ordering::Relaxed) >= MAX_PIPES {
            IN_USE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let kept = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // The count is given back by the destructor, with or without ends.
        let pipe = Self {
            ends: kept.or_else(|| make().ok()),
            held: 0,
        };
        pipe.ends.is_some().then_some(pipe)
    }

    /// Moves what the socket has, as far as there is room. 0 is the end; "would block" is also said when there is no room.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let (_, end) = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let len = splice(from, None, end, None, CAPACITY, FLAGS)?;
        self.held += len;
        Ok(len)
    }

    /// Moves what is held into the socket, as far as that takes it.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let (end, _) = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let len = splice(end, None, to, None, self.held, FLAGS)?;
        self.held -= len;
        Ok(len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn make() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Without it 64 KiB have to do.
    let _ = fcntl_setpipe_size(&writer, CAPACITY);
    Ok((reader, writer))
}

impl Drop for Pipe {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        let ends = self.ends.take().filter(|_| self.held == 0);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.extend(ends);
        }
    }
}

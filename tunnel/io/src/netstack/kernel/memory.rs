//! How much of the kernel's memory the connections of a namespace hold, and the bound on it.
//!
//! The kernel lets a socket's buffers grow with its path, up to the namespace's `tcp_rmem` and `tcp_wmem`, and bounds all TCP of the
//! machine together (`tcp_mem`): a gateway that relied on that could take the machine's whole share. So the gateway looks from
//! time to time at what its connections hold. Above the budget, those that hold more than an equal share get buffers of
//! a fixed size, for the rest of their lives: they go on, slower on long paths, and what they hold beyond goes as the peer takes it.
//!
//! What stays outside is the sockets towards the upstreams, whose bounds are the machine's own, and what the kernel goes on
//! sending for a connection that has no socket any more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::kernel_stream::KernelSocket;

/// How often it is looked: a look at a thousand connections takes about a millisecond, and what comes between two looks is
/// small beside the budget.
const INTERVAL: Duration = Duration::from_millis(250);
/// The least that a connection may hold, in bytes: with less, segments are too few for losses to be mended quickly. At most
/// connections this is half of the budget.
const LEAST_SHARE: usize = 128 << 10;
/// Numbers of the answer to `SO_MEMINFO` (`linux/sock_diag.h`).
const MEMINFO: usize = 9;
const RECEIVED: usize = 0;
const RESERVED: usize = 4;
const QUEUED: usize = 5;

/// The bound of one namespace.
#[derive(Debug)]
pub(super) struct Memory {
    budget: usize,
    held: usize,
    next_look: Option<Instant>,
    /// Whether it was said that the budget is exceeded.
    is_said: bool,
}

impl Memory {
    /// For connections that may hold so many bytes together.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            held: 0,
            next_look: None,
            is_said: false,
        }
    }

    /// Bytes that were held when it was looked last.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_look.is_none_or(|at| at <= now)
    }

    /// Looks at these connections, and fixes the buffers of those with more than their share when all hold too much.
    pub(super) fn look(&mut self, sockets: &[Arc<KernelSocket>], now: Instant) {
        self.next_look = Some(now + INTERVAL);
        let held: Vec<usize> = sockets
            .iter()
            .map(|socket| held_by(socket.stream()).unwrap_or(0))
            .collect();
        self.held = held.iter().sum();
        if self.held <= self.budget {
            self.is_said = false;
            return;
        }
        let share = (self.budget / sockets.len().max(1)).max(LEAST_SHARE);
        if !std::mem::replace(&mut self.is_said, true) {
            tracing::warn!(
                held_bytes = self.held,
                budget_bytes = self.budget,
                connections = sockets.len(),
                "connections hold more memory than they may together; the largest get smaller buffers"
            );
        }
        for (socket, held) in sockets.iter().zip(held) {
            if held > share {
                fix_buffers(socket.stream(), share);
            }
        }
    }
}

/// Gives a socket buffers of a fixed size, which hold at most `bytes` together.
fn fix_buffers(socket: impl AsFd, bytes: usize) {
    let socket = SockRef::from(&socket);
    // The kernel doubles what it is given, for its own bookkeeping, and counts that as well. More than the machine's
    // `rmem_max` and `wmem_max` it does not give, which is less and as good.
    let each = bytes / 4;
    let fixed = socket
        .set_send_buffer_size(each)
        .and(socket.set_recv_buffer_size(each));
    if let Err(error) = fixed {
        tracing::debug!(%error, "a connection keeps its buffers");
    }
}

/// Bytes of the kernel's memory that a socket holds.
#[expect(unsafe_code, reason = "there is no safe wrapper for SO_MEMINFO")]
fn held_by(socket: impl AsFd) -> io::Result<usize> {
    let mut numbers = MaybeUninit::<[u32; MEMINFO]>::zeroed();
    let mut len = size_of::<[u32; MEMINFO]>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes to `numbers`, which has so many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it was zero before the call, which is a number as well.
    let numbers = unsafe { numbers.assume_init() };
    Ok([RECEIVED, RESERVED, QUEUED]
        .into_iter()
        .map(|number| numbers[number] as usize)
        .sum())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel_stream::KernelStream;
    use crate::places::Places;

    /// A connection, and its other end, which reads nothing.
    async fn connection(listener: &TcpListener, places: &Places) -> (KernelStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (
            KernelStream::new(near.unwrap(), places.take().unwrap()),
            far.unwrap().0,
        )
    }

    /// Writes until the kernel takes no more at once.
    async fn fill(stream: &mut KernelStream) {
        let full = async {
            loop {
                stream.write_all(&vec![7; 65_536]).await.unwrap();
            }
        };
        // There is no word of "full" but that nothing is taken for a while.
        let _: Result<(), _> = tokio::time::timeout(Duration::from_millis(200), full).await;
    }

    #[tokio::test]
    async fn those_that_hold_too_much_get_fixed_buffers_and_others_keep_theirs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let places = Places::new(8, |_| ());
        let (mut large, _far) = connection(&listener, &places).await;
        let (small, _other_far) = connection(&listener, &places).await;
        let buffer = |stream: &KernelStream| {
            SockRef::from(stream.socket().stream())
                .send_buffer_size()
                .unwrap()
        };
        fill(&mut large).await;
        let sockets = [Arc::clone(large.socket()), Arc::clone(small.socket())];
        let before = (buffer(&large), buffer(&small));
        let now = Instant::now();

        let mut ample = Memory::new(1 << 30);
        assert!(ample.is_due(now));
        ample.look(&sockets, now);
        assert!(ample.held() > 2 * LEAST_SHARE, "{} bytes", ample.held());
        assert_eq!((buffer(&large), buffer(&small)), before, "within the budget");
        assert!(!ample.is_due(now) && ample.is_due(now + INTERVAL));

        let mut scarce = Memory::new(2 * LEAST_SHARE);
        scarce.look(&sockets, now);
        assert_eq!(buffer(&large), LEAST_SHARE / 2, "a half of it for each direction");
        assert_eq!(buffer(&small), before.1);
    }
}

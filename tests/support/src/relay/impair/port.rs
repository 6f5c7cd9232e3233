//! One UDP port of the relay: many datagrams a system call, where the kernel offers that.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

/// Buffers that one receiving call may fill, each with up to 64 KiB that the kernel has put together.
pub(super) const BUFFERS: usize = 8;
const BUFFER: usize = 65_536;
/// Asked of the kernel for each socket: 8 ms of 8 Gbit/s. Only root gets more than the system's limit.
const SOCKET_BUFFER: usize = 8 << 20;
/// Linux takes no more segments in one call (`UDP_MAX_SEGMENTS` of older kernels), and no more bytes than IP has.
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 65_000;
/// How long a full socket is waited for. Loopback and veth take what they take at once.
const FULL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: Duration::from_millis(50).subsec_nanos() as i64,
};

/// A bound socket.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) socket: UdpSocket,
    state: UdpSocketState,
}

/// Received datagrams of one sender: `bytes` cut at each `stride`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) from: SocketAddr,
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
}

impl Received<'_> {
    pub(super) fn datagrams(self) -> u64 {
        self.bytes.len().div_ceil(self.stride.max(1)) as u64
    }
}

/// What a receiving call fills.
pub(super) struct Arena(Vec<[u8; BUFFER]>);

impl Arena {
    pub(super) fn new() -> Self {
        Self(vec![[0; BUFFER]; BUFFERS])
    }
}

impl Port {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let state = UdpSocketState::new((&socket).into())?;
        // A limited buffer only means that more is lost under load, which the counters show.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
        }
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
        Ok(Self { socket, state })
    }

    /// Receives what is there, and hands it on. False when nothing was there.
    pub(super) fn receive(&self, arena: &mut Arena, mut take: impl FnMut(Received<'_>)) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); BUFFERS];
        let mut buffers: Vec<IoSliceMut<'_>> =
            arena.0.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let filled = match self.state.recv((&self.socket).into(), &mut buffers, &mut metas) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // The answer of an earlier target that was not there; UDP goes on.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            Err(error) => return Err(error),
        };
        for (meta, buffer) in metas.iter().zip(&arena.0).take(filled) {
            take(Received {
                from: meta.addr,
                bytes: &buffer[..meta.len],
                stride: meta.stride.max(1),
            });
        }
        Ok(true)
    }

    /// Sends datagrams of `stride` bytes, the last one perhaps shorter. How many the system took.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8], stride: usize) -> u64 {
        let mut taken = 0;
        let at_once = self.state.max_gso_segments().clamp(1, MAX_SEGMENTS);
        let run = (MAX_RUN / stride.max(1)).clamp(1, at_once) * stride.max(1);
        for run in bytes.chunks(run) {
            if self.send_run(to, run, stride) {
                taken += run.len().div_ceil(stride) as u64;
            } else if run.len() > stride {
                // Without the offload (the state switches it off by itself), or what of it the socket had room for.
                taken += run
                    .chunks(stride)
                    .filter(|one| self.send_run(to, one, stride))
                    .count() as u64;
            }
        }
        taken
    }

    fn send_run(&self, to: SocketAddr, bytes: &[u8], stride: usize) -> bool {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: (bytes.len() > stride).then_some(stride),
            src_ip: None,
        };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waiting = [PollFd::new(&self.socket, PollFlags::OUT)];
                poll(&mut waiting, Some(&FULL)).is_ok_and(|ready| ready > 0)
                    && self.state.try_send((&self.socket).into(), &transmit).is_ok()
            }
            Err(_) => false,
        }
    }
}

/// Datagrams gathered for one call: all of the same length, but that the last may be shorter.
#[derive(Debug, Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    stride: usize,
}

impl Run {
    /// Whether `len` more bytes can be sent with what is there.
    pub(super) fn takes(&self, len: usize) -> bool {
        self.bytes.is_empty()
            || (len <= self.stride
                && self.bytes.len().is_multiple_of(self.stride)
                && self.bytes.len() + len <= MAX_RUN
                && self.bytes.len() / self.stride < MAX_SEGMENTS)
    }

    pub(super) fn push(&mut self, datagram: &[u8]) {
        if self.bytes.is_empty() {
            self.stride = datagram.len().max(1);
        }
        self.bytes.extend_from_slice(datagram);
    }

    /// Hands over what was gathered, with its stride, and begins anew.
    pub(super) fn flush(&mut self, send: impl FnOnce(&[u8], usize)) {
        if !self.bytes.is_empty() {
            send(&self.bytes, self.stride);
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_behind_a_shorter_datagram_and_before_a_longer_one() {
        let mut run = Run::default();
        for (len, taken) in [(100, true), (100, true), (101, false), (60, true), (60, false)] {
            assert_eq!(run.takes(len), taken, "{len}");
            if taken {
                run.push(&vec![0; len]);
            }
        }
        let mut sent = None;
        run.flush(|bytes, stride| sent = Some((bytes.len(), stride)));
        assert_eq!(sent, Some((260, 100)));
        assert!(run.takes(9000));
    }
}

//! The UDP socket of an end: whole runs of datagrams in one system call each way, where the kernel can do that.
//!
//! One socket serves both families where the system allows it. The socket never blocks; a data thread polls its descriptor,
//! an event loop registers it.
//!
//! **Offloads.** A run leaves by one `sendmsg` with `UDP_SEGMENT`, and what the kernel gathered arrives in one buffer with
//! a stride. Windows segments by `UDP_SEND_MSG_SIZE` and gathers nothing (quinn-udp leaves that off there), macOS does neither.
//! Some drivers and kernels promise segmentation and then refuse it with EIO or EINVAL (or their Windows kin): at the first such
//! error it is switched off for the whole process, which is said once, and runs go out datagram by datagram. The environment
//! variable [`SEGMENTATION_VARIABLE`]`=off` does the same from the start.

mod group;

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use orfe_tunnel_core::{Datagrams, Run};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Protocol, Socket, Type};

/// Set to `off`, it keeps UDP segmentation offload from being used.
pub const SEGMENTATION_VARIABLE: &str = "ORFE_UDP_SEGMENTATION";

/// Kernel buffers. Asked for, not demanded: the system may grant less. A receive buffer of the default 208 KiB holds
/// 0.3 ms of a fast link and is a source of loss.
const RECEIVE_BUFFER: usize = 8 << 20;
const SEND_BUFFER: usize = 2 << 20;
/// Buffers filled by one call. With offload each can hold a whole run.
const BUFFERS: usize = 16;
/// Length of a buffer for what the kernel gathers: the longest IP packet.
const GATHERED_LEN: usize = 65_536;
/// Length of a buffer for one datagram; a longer one is cut and fails its authentication. Jumbo frames are 9 KiB.
const SINGLE_LEN: usize = 9_728;
/// Peers whose local address is remembered; above it the memory starts anew, and each learns it from its next packet.
const MAX_PINS: usize = 16_384;

/// Errors by which kernels and drivers refuse segmentation they promised: EIO and EINVAL, or WSAEINVAL and WSAEOPNOTSUPP. macOS has no
/// segmentation.
const REFUSALS: [i32; 2] = if cfg!(windows) { [10_022, 10_045] } else { [5, 22] };

static SEGMENTATION_IS_OFF: LazyLock<AtomicBool> = LazyLock::new(|| {
    AtomicBool::new(std::env::var_os(SEGMENTATION_VARIABLE).is_some_and(|value| value == "off"))
});

/// How a socket is made.
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// Where it is bound. `[::]` serves IPv4, too, and falls back to `0.0.0.0` where there is no IPv6.
    pub bind: SocketAddr,
    /// Answer from the address that a peer's last packet was sent to. For a gateway with several addresses; a device must
    /// leave the choice to the system, because its addresses change.
    pub pin_source: bool,
    /// Whether runs may be handed to the kernel whole.
    pub segmentation: bool,
}

impl UdpOptions {
    /// The options of a device: bound here, with offload, source address chosen by the system.
    #[must_use]
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            pin_source: false,
            segmentation: true,
        }
    }
}

/// How much of some [`Datagrams`] is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    runs: usize,
    /// Bytes of the run after those.
    bytes: usize,
}

/// The socket takes no more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked;

/// A bound UDP socket.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    state: UdpSocketState,
    is_v6: bool,
    segmentation: bool,
    /// Local addresses by peer, when answers are pinned.
    pins: Option<Mutex<HashMap<SocketAddr, IpAddr>>>,
}

impl UdpPort {
    /// Binds a socket.
    pub fn bind(options: &UdpOptions) -> io::Result<Self> {
        let any_v6 = options.bind.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let socket = match bound(options.bind, |_| Ok(())) {
            Err(error) if any_v6 => {
                tracing::info!(%error, "no IPv6 here; the tunnel uses IPv4 alone");
                bound(
                    SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.bind.port())),
                    |_| Ok(()),
                )?
            }
            other => other?,
        };
        Self::from_socket(socket.into(), options)
    }

    /// Takes a socket that is already bound; `options.bind` is not looked at.
    pub fn from_socket(socket: std::net::UdpSocket, options: &UdpOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        for (what, result) in [
            (
                "receive",
                state.set_recv_buffer_size(UdpSockRef::from(&socket), RECEIVE_BUFFER),
            ),
            (
                "send",
                state.set_send_buffer_size(UdpSockRef::from(&socket), SEND_BUFFER),
            ),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, what, "kernel buffer keeps its size");
            }
        }
        Ok(Self {
            is_v6: socket.local_addr()?.is_ipv6(),
            socket: UdpSocket::from_std(socket),
            state,
            segmentation: options.segmentation,
            pins: options.pin_source.then(|| Mutex::new(HashMap::new())),
        })
    }

    /// Another socket like this one at the same address, with a port of the system's choice.
    pub fn fresh_port(&self) -> io::Result<Self> {
        Self::bind(&UdpOptions {
            bind: SocketAddr::new(self.local_addr()?.ip(), 0),
            pin_source: self.pins.is_some(),
            segmentation: self.segmentation,
        })
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Has an event loop report when the socket becomes readable or writable, on edges.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Sends what of `datagrams` lies behind `sent`, and moves it. What the system refuses for another reason than a full
    /// buffer is lost, as it would be on the way.
    pub fn send(&self, datagrams: &Datagrams, sent: &mut Sent) -> Result<(), Blocked> {
        while let Some(run) = datagrams.run(sent.runs) {
            self.send_run(run, &mut sent.bytes)?;
            *sent = Sent {
                runs: sent.runs + 1,
                bytes: 0,
            };
        }
        Ok(())
    }

    /// Sends what of a run lies behind `sent` bytes, and moves it; as [`UdpPort::send`].
    pub(crate) fn send_run(&self, run: Run<'_>, sent: &mut usize) -> Result<(), Blocked> {
        let mut source = self.pinned(run.destination);
        let destination = self.reachable(run.destination);
        while let Some(rest) = run.bytes.get(*sent..).filter(|rest| !rest.is_empty()) {
            let whole = rest.len() > run.segment && self.segments();
            let contents = if whole {
                rest
            } else {
                &rest[..run.segment.min(rest.len())]
            };
            let transmit = Transmit {
                destination,
                ecn: None,
                contents,
                segment_size: whole.then_some(run.segment),
                src_ip: source,
            };
            match self.try_send(&transmit) {
                Ok(()) => *sent += contents.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Blocked),
                Err(error) if whole && error.raw_os_error().is_some_and(|code| REFUSALS.contains(&code)) => {
                    refuse_segmentation(&error);
                }
                Err(_) if source.is_some() => {
                    // The address may be gone. The peer's next packet names the new one.
                    self.unpin(run.destination);
                    source = None;
                }
                Err(error) => {
                    tracing::debug!(%error, %destination, bytes = contents.len(), "UDP send");
                    *sent += contents.len();
                }
            }
        }
        Ok(())
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket
            .try_io(|| self.state.try_send(UdpSockRef::from(&self.socket), transmit))
    }

    /// Receives what there is, as far as `buffers` hold it. `WouldBlock` when there is nothing.
    pub fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<()> {
        self.receive_some(buffers, BUFFERS)
    }

    /// The same with the first `most` of the buffers: what is expected to be one datagram is received faster with one.
    pub fn receive_some(&self, buffers: &mut ReceiveBuffers, most: usize) -> io::Result<()> {
        buffers.filled = 0;
        let len = buffers.len;
        let mut rest = buffers.bytes.chunks_mut(len);
        let mut slices: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or(&mut [])));
        let metas = &mut buffers.metas;
        let most = most.clamp(1, BUFFERS);
        buffers.filled = self.socket.try_io(|| {
            self.state.recv(
                UdpSockRef::from(&self.socket),
                &mut slices[..most],
                &mut metas[..most],
            )
        })?;
        if let Some(pins) = &self.pins {
            let mut pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
            for meta in &buffers.metas[..buffers.filled] {
                if let Some(local) = meta.dst_ip {
                    remember(&mut pins, canonical(meta.addr), local.to_canonical());
                }
            }
        }
        Ok(())
    }

    /// For a wait beside other sockets, until what `flags` name can be done.
    pub(crate) fn poll_fd(&self, flags: PollFlags) -> PollFd<'_> {
        PollFd::new(&self.socket, flags)
    }

    /// Buffers of the size that this socket needs.
    #[must_use]
    pub fn receive_buffers(&self) -> ReceiveBuffers {
        let gathers = self.state.gro_segments() > 1;
        let len = if gathers { GATHERED_LEN } else { SINGLE_LEN };
        ReceiveBuffers {
            // Zeroed memory costs nothing until it is written to.
            bytes: vec![0; len * BUFFERS],
            len,
            metas: [RecvMeta::default(); BUFFERS],
            filled: 0,
        }
    }

    /// Whether runs go to the kernel whole.
    fn segments(&self) -> bool {
        self.segmentation && !SEGMENTATION_IS_OFF.load(Ordering::Relaxed) && self.state.max_gso_segments() > 1
    }

    /// Our address that answers to this peer come from; `None` where the system chooses.
    pub(crate) fn pinned(&self, destination: SocketAddr) -> Option<IpAddr> {
        let pins = self.pins.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(&destination).copied()
    }

    /// Has answers to a peer come from an address of ours, which another socket at the same port learnt.
    pub(crate) fn pin(&self, peer: SocketAddr, local: IpAddr) {
        if let Some(pins) = &self.pins {
            remember(
                &mut pins.lock().unwrap_or_else(PoisonError::into_inner),
                peer,
                local,
            );
        }
    }

    fn unpin(&self, destination: SocketAddr) {
        if let Some(pins) = &self.pins {
            pins.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&destination);
        }
    }

    fn reachable(&self, destination: SocketAddr) -> SocketAddr {
        match destination {
            SocketAddr::V4(v4) if self.is_v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            other => other,
        }
    }
}

/// What one [`UdpPort::receive`] brought. The memory is fixed.
#[derive(Debug)]
pub struct ReceiveBuffers {
    bytes: Vec<u8>,
    /// Length of one buffer.
    len: usize,
    metas: [RecvMeta; BUFFERS],
    filled: usize,
}

/// Datagrams of one source, one behind the other, as [`orfe_tunnel_core::Node::handle_run`] takes them.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// Length of each but the last.
    pub stride: usize,
    /// Where they come from, in its own family.
    pub source: SocketAddr,
}

impl ReceiveBuffers {
    /// What was received, in order.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        let filled = self.metas[..self.filled].iter();
        self.bytes
            .chunks(self.len)
            .zip(filled)
            .map(|(bytes, meta)| Received {
                bytes: &bytes[..meta.len.min(bytes.len())],
                stride: meta.stride.max(1),
                source: canonical(meta.addr),
            })
    }
}

/// A bound socket; `prepare` is called before the bind.
fn bound(address: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && let Err(error) = socket.set_only_v6(false)
    {
        tracing::debug!(%error, "IPv6 only");
    }
    prepare(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn refuse_segmentation(error: &io::Error) {
    if !SEGMENTATION_IS_OFF.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %error,
            "the system refused UDP segmentation offload; this process goes on without it, which costs speed"
        );
    }
}

fn remember(pins: &mut HashMap<SocketAddr, IpAddr>, peer: SocketAddr, local: IpAddr) {
    if pins.len() >= MAX_PINS {
        pins.clear();
    }
    pins.insert(peer, local);
}

fn canonical(source: SocketAddr) -> SocketAddr {
    SocketAddr::new(source.ip().to_canonical(), source.port())
}

#[cfg(test)]
mod tests;

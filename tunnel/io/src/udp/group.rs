//! Several sockets at one UDP port, one for each thread of a gateway, with a filter in the kernel that picks the socket.
//!
//! Left alone, the kernel picks by source address and port, so a peer that roams would come to another thread. A session's
//! index names its shard (see `Shard` in `orfe_tunnel_core`), and a classic BPF program of ten instructions, which needs no right,
//! reads it from what has an index. The rest, handshake initiations, goes by source. Nothing depends on it: a
//! datagram at the wrong socket is handed over by the thread that reads it.
//!
//! The first socket is bound alone, and only then lets others in. So a second gateway at the same port is refused, and does
//! not silently get half of the datagrams.

use std::io;

#[cfg(target_os = "linux")]
use mio::net::UdpSocket;
#[cfg(target_os = "linux")]
use orfe_tunnel_core::MAX_SHARDS;

#[cfg(target_os = "linux")]
use super::bound;
use super::{UdpOptions, UdpPort};

impl UdpPort {
    /// Binds as many sockets as asked for, at one address and port; the kernel picks by session index if `is_steered`. One
    /// socket, with the reason in the log, where the system cannot do that.
    pub(crate) fn bind_group(options: &UdpOptions, count: u8, is_steered: bool) -> io::Result<Vec<Self>> {
        let first = Self::bind(options)?;
        if count <= 1 {
            return Ok(vec![first]);
        }
        match join(&first, options, count, is_steered) {
            Ok(others) => Ok([first].into_iter().chain(others).collect()),
            Err(error) => {
                tracing::info!(%error, "several sockets at one UDP port cannot be had; the gateway has one thread");
                Ok(vec![first])
            }
        }
    }
}

/// Binds sockets 1 to `count` beside the first.
#[cfg(target_os = "linux")]
fn join(first: &UdpPort, options: &UdpOptions, count: u8, is_steered: bool) -> io::Result<Vec<UdpPort>> {
    use rustix::net::sockopt::set_socket_reuseport;

    set_socket_reuseport(&first.socket, true)?;
    let address = first.local_addr()?;
    let others = (1..count).map(|_| {
        let socket = bound(address, |socket| Ok(set_socket_reuseport(socket, true)?))?;
        UdpPort::from_socket(socket.into(), options)
    });
    let others: Vec<UdpPort> = others.collect::<io::Result<_>>()?;
    if is_steered {
        steer(&first.socket)?;
    }
    Ok(others)
}

#[cfg(not(target_os = "linux"))]
fn join(_: &UdpPort, _: &UdpOptions, _: u8, _: bool) -> io::Result<Vec<UdpPort>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What the kernel runs for each datagram; byte 0 is the first of the UDP payload. The answer is the number of a socket in the
/// order of their binds, and one that does not exist leaves the choice to the kernel.
///
/// An index is little-endian, so that its bits 8 to 15 are its second byte: the sixth of data (type 4) and of a cookie
/// reply (3), whose index begins at byte 4, and the tenth of a response (2), where it begins at byte 8.
#[cfg(target_os = "linux")]
fn program() -> [libc::sock_filter; 10] {
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
        sock_filter,
    };
    // The codes of classic BPF are 16 bits wide, and libc has them wider.
    let step = |code: u32, k: u32, jt: u8, jf: u8| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load_byte = BPF_LD | BPF_B | BPF_ABS;
    let if_equal = BPF_JMP | BPF_JEQ | BPF_K;
    // A jump counts from the step behind it.
    [
        step(load_byte, 0, 0, 0),
        step(if_equal, 2, 5, 0),
        step(if_equal, 3, 2, 0),
        step(if_equal, 4, 1, 0),
        step(BPF_RET | BPF_K, u32::MAX, 0, 0),
        step(load_byte, 5, 0, 0),
        step(BPF_JMP | BPF_JA, 1, 0, 0),
        step(load_byte, 9, 0, 0),
        step(BPF_ALU | BPF_AND | BPF_K, u32::from(MAX_SHARDS) - 1, 0, 0),
        step(BPF_RET | BPF_A, 0, 0, 0),
    ]
}

/// Has the kernel pick the socket of the group by session index.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe wrapper for SO_ATTACH_REUSEPORT_CBPF")]
fn steer(socket: &UdpSocket) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let mut steps = program();
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the kernel copies `program` and the `len` steps that it points to before the call returns; both live until then
    // and have the sizes that are given. The descriptor is borrowed from an open socket.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use mio::{Events, Interest, Poll, Token};

    use super::*;

    fn group(count: u8, is_steered: bool) -> Vec<UdpPort> {
        let options = UdpOptions::new("127.0.0.1:0".parse().unwrap());
        let ports = UdpPort::bind_group(&options, count, is_steered).unwrap();
        assert_eq!(ports.len(), usize::from(count));
        ports
    }

    /// The number of the socket at which a datagram from `source` arrives.
    fn arrival(ports: &mut [UdpPort], source: &std::net::UdpSocket, datagram: &[u8]) -> usize {
        let mut poll = Poll::new().unwrap();
        for (number, port) in ports.iter_mut().enumerate() {
            let registry = poll.registry();
            registry
                .register(&mut port.socket, Token(number), Interest::READABLE)
                .unwrap();
        }
        let address: SocketAddr = ports[0].local_addr().unwrap();
        source.send_to(datagram, address).unwrap();
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        let number = events.iter().next().expect("it arrives").token().0;
        let mut buffers = ports[number].receive_buffers();
        ports[number].receive(&mut buffers).unwrap();
        for port in ports.iter_mut() {
            poll.registry().deregister(&mut port.socket).unwrap();
        }
        number
    }

    fn message(kind: u8, len: usize, index_at: usize, shard: u8) -> Vec<u8> {
        let mut datagram = vec![0xff; len];
        datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
        let index = 0x00ab_cd7f_u32 & !0x300 | u32::from(shard) << 8;
        datagram[index_at..index_at + 4].copy_from_slice(&index.to_le_bytes());
        datagram
    }

    #[test]
    fn what_has_an_index_comes_to_its_socket_from_wherever() {
        for count in [2, 3, 4] {
            let mut ports = group(count, true);
            for _ in 0..4 {
                let source = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                for shard in 0..count {
                    for (kind, len, index_at) in [(2, 92, 8), (3, 64, 4), (4, 32, 4), (4, 1400, 4)] {
                        let sent = message(kind, len, index_at, shard);
                        assert_eq!(
                            arrival(&mut ports, &source, &sent),
                            usize::from(shard),
                            "type {kind}, {count} sockets"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn everything_else_arrives_somewhere_and_always_there() {
        let mut ports = group(3, true);
        let source = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let initiation = [vec![1, 0, 0, 0], vec![7; 144]].concat();
        let first = arrival(&mut ports, &source, &initiation);
        for _ in 0..8 {
            assert_eq!(arrival(&mut ports, &source, &initiation), first);
        }
        for odd in [&[4][..], &[2, 0, 0, 0], &[200; 40], &message(4, 32, 4, 3)] {
            arrival(&mut ports, &source, odd);
        }
    }

    #[test]
    fn a_second_gateway_at_the_port_is_refused() {
        let ports = group(2, true);
        let taken = UdpOptions::new(ports[0].local_addr().unwrap());
        for count in [1, 2] {
            let error = UdpPort::bind_group(&taken, count, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }
}

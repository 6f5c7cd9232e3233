//! The namespaces of a gateway: what their helper keeps while it hands them over, and what the loss of one means.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use orfe_tunnel::dial::{BoxedStream, Dialer as _};
use orfe_tunnel::{Gateway, GatewayConfig, PrivateKey, Shards, TcpStack};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use smoltcp::wire::{IpAddress, IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::raw::{RawPeer, with_ip};
use crate::support;
use crate::support::servers::{Server, pattern};
use crate::support::{Device, HELPER, PATIENCE, inner, logging, policy, tcp_stack, until, up};

/// Makes a run of this program within a test play a part: there the only TUN device is the gateway's.
const PART: &str = "ORFE_TEST_GATEWAY_PART";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_helper_keeps_no_right_while_it_hands_over() {
    if tcp_stack() != TcpStack::Namespace {
        return;
    }
    let flags = SocketFlags::CLOEXEC;
    let (near, far) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    // So full that the helper waits with its answer, and can be looked at.
    while rustix::net::send(&far, &[0; 4096], SendFlags::DONTWAIT).is_ok() {}
    let mut helper = Command::new(HELPER)
        .arg("namespace-helper")
        .stdin(Stdio::from(far))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Two namespaces with an MTU of 1280, in the helper's own words.
    rustix::net::send(&near, &[1, 2, 0, 5, 2], SendFlags::empty()).unwrap();

    let process = PathBuf::from(format!("/proc/{}", helper.id()));
    let field = |name: &str| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    until("the helper has given up its rights", || {
        field("NoNewPrivs:") == "1" && owner(&process.join("environ")) == Some(0)
    })
    .await;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        // Its channel, two null devices, and of each namespace a TUN device and a socket or two.
        let descriptors = fs::read_dir(process.join("fd")).unwrap().count();
        assert!((7..=9).contains(&descriptors), "{descriptors}");
    }
    // Once it is heard, it ends.
    while rustix::net::recv(&near, &mut [0; 4096][..], RecvFlags::DONTWAIT).is_ok_and(|(len, _)| len > 0) {}
    let ended = tokio::task::spawn_blocking(move || helper.wait());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(ended.unwrap().unwrap().success());
}

fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.uid())
}

/// What this takes is the pause before the first try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_loses_its_device_goes_on_with_smoltcp_until_it_has_another() {
    play("lose_device");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_keeps_nothing_of_a_connection_that_is_over() {
    play("leave_unheard");
}

fn play(part: &str) {
    if tcp_stack() != TcpStack::Namespace {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "gateway_namespace::play_a_part", "--nocapture"])
        .env(PART, part)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    if said.contains("SKIPPED") {
        eprintln!("SKIPPED: {part}: only root can go into the gateway's namespace");
    }
}

/// No test by itself: what this program does when a test runs it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn play_a_part() {
    let Ok(part) = std::env::var(PART) else { return };
    logging();
    match part.as_str() {
        "lose_device" => lose_device().await,
        "leave_unheard" => leave_unheard().await,
        other => panic!("no part: {other}"),
    }
}

/// A gateway of one thread, that is, of one namespace.
fn gateway(server: &Server) -> Gateway {
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        mtu: 1280,
    };
    support::start_sharded(config, policy(&[(443, server.address)]), Shards::ONE)
}

async fn lose_device() {
    let server = Server::echo().await;
    let gateway = gateway(&server);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let tunnel = device.tunnel_on(TcpStack::Smoltcp, &gateway);
    up(&tunnel).await;
    let mut first = tunnel.dialer().dial(inner(443)).await.unwrap();
    echoes(&mut first).await;
    until("it is counted", || gateway.stats().connections == 1).await;
    let chosen = gateway.tcp_stack();

    let taken = namespace().and_then(|namespace| {
        assert_eq!(established(&namespace)?, 1, "the kernel has it");
        within(&namespace, &["ip", "link", "delete", "orfe0"])
    });
    if let Err(error) = taken {
        eprintln!("SKIPPED: {error}");
        return;
    }
    until("the loss is seen", || gateway.tcp_stack().name == "smoltcp").await;
    let reason = gateway.tcp_stack().reason;
    assert!(
        reason.contains("is lost") && reason.contains("tried within"),
        "{reason}"
    );
    until("its connections are over", || gateway.stats().connections == 0).await;

    // The peer hears of that when it says something; what it opens next is served.
    first.write_all(b"more").await.unwrap();
    let end = tokio::time::timeout(PATIENCE, first.read(&mut [0; 4]))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut between = tunnel.dialer().dial(inner(443)).await.unwrap();
    echoes(&mut between).await;

    until("the namespace is back", || gateway.tcp_stack() == chosen).await;
    let namespace = namespace().unwrap();
    assert_eq!(established(&namespace).unwrap(), 0, "smoltcp keeps what it has");
    let mut last = tunnel.dialer().dial(inner(443)).await.unwrap();
    echoes(&mut last).await;
    assert_eq!(
        established(&namespace).unwrap(),
        1,
        "the kernel has what comes now"
    );
    echoes(&mut between).await;
    until("both are counted", || gateway.stats().connections == 2).await;
    gateway.shutdown().await;
}

/// A peer lets the kernel send without acknowledging anything, and goes away in two ways that nobody there hears of.
async fn leave_unheard() {
    const CONNECTIONS: u16 = 20;
    let server = Server::new(|mut stream| async move {
        let _ = stream.write_all(&pattern(60_000, 7)).await;
        let _ = stream.shutdown().await;
    })
    .await;
    let gateway = gateway(&server);
    let mut peer = RawPeer::new(1, &gateway);
    gateway.set_peers(vec![peer.peer()]);
    let address = peer.addresses[0];
    let ends = |port| (SocketAddr::new(address, port), inner(443));

    for port in 1..=CONNECTIONS {
        let (from, to) = ends(port);
        let syn = segment(from, to, TcpControl::Syn, 0, None);
        let theirs = peer.ask(&syn, |packet| accepted(packet, port, 1));
        peer.tell(&segment(from, to, TcpControl::Fin, 1, Some(theirs + 1)));
    }
    let namespace = match namespace() {
        Ok(namespace) if within(&namespace, &["true"]).is_ok() => namespace,
        refused => {
            eprintln!("SKIPPED: {refused:?}");
            return;
        }
    };
    let closing = || in_states(&namespace, CLOSING).unwrap();
    until("all are closed and have data that waits", || {
        closing() == usize::from(CONNECTIONS)
    })
    .await;

    for port in 1..=CONNECTIONS {
        let (from, to) = ends(port);
        if port % 2 == 0 {
            // Another connection from the same port.
            let syn = segment(from, to, TcpControl::Syn, 1 << 20, None);
            peer.ask(&syn, |packet| accepted(packet, port, (1 << 20) + 1));
        } else {
            // A reset that the kernel does not believe, because its number is out of every window.
            peer.tell(&segment(from, to, TcpControl::Rst, 1 << 30, None));
        }
    }
    until("the kernel has let go of them", || closing() == 0).await;
    gateway.shutdown().await;
}

/// A TCP segment without data as an inner packet.
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    control: TcpControl,
    sequence: u32,
    acknowledged: Option<u32>,
) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: from.port(),
        dst_port: to.port(),
        control,
        seq_number: TcpSeqNumber(sequence.cast_signed()),
        ack_number: acknowledged.map(|number| TcpSeqNumber(number.cast_signed())),
        window_len: u16::MAX,
        window_scale: None,
        max_seg_size: (control == TcpControl::Syn).then_some(1200),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (source, destination) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    let len = repr.buffer_len();
    with_ip(source, destination, IpProtocol::Tcp, len, |buffer, caps| {
        repr.emit(&mut TcpPacket::new_unchecked(buffer), &source, &destination, caps);
    })
}

/// The sequence number of a SYN for `port` that acknowledges `acknowledged`, if `packet` is that. IPv4 only.
fn accepted(packet: &[u8], port: u16, acknowledged: u32) -> Option<u32> {
    let packet = TcpPacket::new_checked(packet.get(20..)?).ok()?;
    let is_it = packet.syn()
        && packet.ack()
        && packet.dst_port() == port
        && packet.ack_number() == TcpSeqNumber(acknowledged.cast_signed());
    is_it.then(|| packet.seq_number().0.cast_unsigned())
}

async fn echoes(stream: &mut BoxedStream) {
    let there_and_back = async {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await
    };
    tokio::time::timeout(PATIENCE, there_and_back)
        .await
        .unwrap()
        .unwrap();
}

/// The namespace of the TUN device of this process's gateway.
fn namespace() -> io::Result<OwnedFd> {
    let is_tun = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to == Path::new("/dev/net/tun"));
    let own = fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.path()));
    let device = own.filter_map(Result::ok).find(is_tun);
    let number: i32 = device
        .and_then(|path| path.file_name()?.to_str()?.parse().ok())
        .ok_or(io::ErrorKind::NotFound)?;
    namespace_of(number)
}

/// TCP connections in a namespace of which both ends know.
fn established(namespace: &OwnedFd) -> io::Result<usize> {
    in_states(namespace, &["01"])
}

/// FIN-WAIT-1 and -2, LAST-ACK and CLOSING.
const CLOSING: &[&str] = &["04", "05", "09", "0B"];

/// TCP sockets in a namespace that are in one of these states (`include/net/tcp_states.h`).
fn in_states(namespace: &OwnedFd, wanted: &[&str]) -> io::Result<usize> {
    let table = within(namespace, &["cat", "/proc/net/tcp"])?;
    let states = table.lines().filter_map(|line| line.split_whitespace().nth(3));
    Ok(states.filter(|state| wanted.contains(state)).count())
}

/// What a program says that runs in a namespace.
fn within(namespace: &OwnedFd, command: &[&str]) -> io::Result<String> {
    let of_this = format!("--net=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let output = Command::new("nsenter").arg(of_this).args(command).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The network namespace of a TUN device (`TUNGETDEVNETNS`, Linux 5.2).
#[expect(
    unsafe_code,
    reason = "it is asked for by ioctl, for which no safe wrapper exists"
)]
fn namespace_of(device: i32) -> io::Result<OwnedFd> {
    const TUNGETDEVNETNS: libc::c_ulong = 0x54e3;
    // SAFETY: the descriptor is one of this process, and this request has no argument.
    let namespace = unsafe { libc::ioctl(device, TUNGETDEVNETNS as _) };
    if namespace < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call answers with a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

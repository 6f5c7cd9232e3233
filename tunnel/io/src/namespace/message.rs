//! What the daemon and its namespace helper say to each other, as bytes.
//!
//! One message is one packet of a `SOCK_SEQPACKET` pair, so lengths and order are the kernel's; descriptors travel beside
//! the bytes. Both ends are the same binary, but neither trusts the other's numbers: what does not parse ends the helper.
//!
//! ```text
//! daemon                          helper
//!   ── SetUp {mtu, addresses} ────►         once, first
//!   ◄── Ready {congestion} + 1 fd ──        or Failed {step, errno}, and the helper ends
//!   ── Sockets {kind, count} ─────►         as often as sockets are wanted
//!   ◄── Sockets {kind} + count fds ─        or SocketFailed {kind, errno}, and the helper goes on
//! ```
//!
//! A gateway asks once, and then its helper has nothing left to do:
//!
//! ```text
//!   ── Land {mtu, count} ─────────►
//!   ◄── Landed {congestion, has_v6} + 2 or 3 fds for each ──   or Failed {step, errno}; either way the helper ends
//! ```

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use crate::connections::SocketKind;

/// Version of the messages. Both ends are one binary; a mismatch means that something else answered.
const VERSION: u8 = 1;

/// Longest message, in bytes. A set-up with [`MAX_ADDRESSES`] IPv6 addresses has 5 + 8 × 17.
pub(super) const MAX_MESSAGE: usize = 160;

/// Most addresses of a set-up.
pub(super) const MAX_ADDRESSES: usize = 8;

/// Most descriptors in one message. The kernel's own bound is 253 (`SCM_MAX_FD`).
pub(super) const MAX_DESCRIPTORS: usize = 16;

/// Most namespaces of one gateway: as many as its threads.
pub(super) const MAX_LANDINGS: u8 = orfe_tunnel_core::MAX_SHARDS;

/// Longest name of a congestion control (`TCP_CA_NAME_MAX`), its terminating zero included.
const MAX_CONGESTION: usize = 16;

/// What the daemon asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Make the namespace and the TUN device in it.
    SetUp {
        /// Of the device, in bytes.
        mtu: u16,
        /// Of the device; at most [`MAX_ADDRESSES`].
        addresses: Vec<IpAddr>,
    },
    /// Make sockets; `count` is 1 to [`MAX_DESCRIPTORS`].
    Sockets { kind: SocketKind, count: u8 },
    /// Make so many namespaces, each with a TUN device and listening sockets; `count` is 1 to [`MAX_LANDINGS`].
    Land { mtu: u16, count: u8 },
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// The namespace stands. Comes with the TUN descriptor.
    Ready {
        /// The congestion control that its TCP sockets have.
        congestion: String,
    },
    /// It could not be made.
    Failed { step: Step, errno: i32 },
    /// Comes with as many sockets as were made.
    Sockets { kind: SocketKind },
    /// A socket could not be made; those that were made before came in a message of their own.
    SocketFailed { kind: SocketKind, errno: i32 },
    /// The namespaces stand. Comes with a TUN descriptor, a listening socket for IPv4, and, with `has_v6`, one for IPv6, for
    /// each of them in turn.
    Landed { congestion: String, has_v6: bool },
}

impl SocketKind {
    pub(super) const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// What the helper does to set up, in this order. What failed decides what a person can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Confine,
    Unshare,
    MapUsers,
    Loopback,
    OpenTun,
    MakeTun,
    Offload,
    Configure,
    Address,
    Route,
    Congestion,
    DropRights,
    Listen,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Confine,
        Self::Unshare,
        Self::MapUsers,
        Self::Loopback,
        Self::OpenTun,
        Self::MakeTun,
        Self::Offload,
        Self::Configure,
        Self::Address,
        Self::Route,
        Self::Congestion,
        Self::DropRights,
        Self::Listen,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confine => "tying the helper process to this one",
            Self::Unshare => "making a namespace",
            Self::MapUsers => "mapping the user into the namespace",
            Self::Loopback => "bringing up loopback in the namespace",
            Self::OpenTun => "opening /dev/net/tun",
            Self::MakeTun => "making a TUN device in the namespace",
            Self::Offload => "switching on the TUN device's offload",
            Self::Configure => "setting up the TUN device",
            Self::Address => "giving the TUN device its address",
            Self::Route => "routing into the TUN device",
            Self::Congestion => "making a TCP socket in the namespace",
            Self::DropRights => "giving up the helper's rights",
            Self::Listen => "listening in the namespace",
        })
    }
}

/// A message that is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the namespace helper and this process do not understand each other")]
pub(super) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::SetUp { mtu, addresses } => {
                bytes.push(0);
                bytes.extend(mtu.to_le_bytes());
                for address in addresses.iter().take(MAX_ADDRESSES) {
                    match address {
                        IpAddr::V4(address) => {
                            bytes.push(4);
                            bytes.extend(address.octets());
                        }
                        IpAddr::V6(address) => {
                            bytes.push(6);
                            bytes.extend(address.octets());
                        }
                    }
                }
            }
            Self::Sockets { kind, count } => bytes.extend([1, *kind as u8, *count]),
            Self::Land { mtu, count } => {
                bytes.push(2);
                bytes.extend(mtu.to_le_bytes());
                bytes.push(*count);
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes {
            [VERSION, 0, low, high, rest @ ..] => Ok(Self::SetUp {
                mtu: u16::from_le_bytes([*low, *high]),
                addresses: decode_addresses(rest)?,
            }),
            [VERSION, 1, kind, count] if (1..=MAX_DESCRIPTORS).contains(&usize::from(*count)) => {
                Ok(Self::Sockets {
                    kind: SocketKind::from_byte(*kind).ok_or(Malformed)?,
                    count: *count,
                })
            }
            [VERSION, 2, low, high, count] if (1..=MAX_LANDINGS).contains(count) => Ok(Self::Land {
                mtu: u16::from_le_bytes([*low, *high]),
                count: *count,
            }),
            _ => Err(Malformed),
        }
    }
}

fn decode_addresses(mut bytes: &[u8]) -> Result<Vec<IpAddr>, Malformed> {
    let mut addresses = Vec::new();
    while let [family, rest @ ..] = bytes {
        if addresses.len() == MAX_ADDRESSES {
            return Err(Malformed);
        }
        let address = match family {
            4 => rest
                .first_chunk()
                .map(|octets: &[u8; 4]| (IpAddr::from(Ipv4Addr::from(*octets)), 4)),
            6 => rest
                .first_chunk()
                .map(|octets: &[u8; 16]| (IpAddr::from(Ipv6Addr::from(*octets)), 16)),
            _ => None,
        };
        let (address, len) = address.ok_or(Malformed)?;
        addresses.push(address);
        bytes = &rest[len..];
    }
    Ok(addresses)
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Ready { congestion } => {
                bytes.push(0);
                bytes.extend(congestion.bytes().take(MAX_CONGESTION));
            }
            Self::Failed { step, errno } => {
                bytes.extend([1, *step as u8]);
                bytes.extend(errno.to_le_bytes());
            }
            Self::Sockets { kind } => bytes.extend([2, *kind as u8]),
            Self::SocketFailed { kind, errno } => {
                bytes.extend([3, *kind as u8]);
                bytes.extend(errno.to_le_bytes());
            }
            Self::Landed { congestion, has_v6 } => {
                bytes.extend([4, u8::from(*has_v6)]);
                bytes.extend(congestion.bytes().take(MAX_CONGESTION));
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes {
            [VERSION, 0, name @ ..] => Ok(Self::Ready {
                congestion: decode_congestion(name)?,
            }),
            [VERSION, 1, step, errno @ ..] => Ok(Self::Failed {
                step: *Step::ALL.get(usize::from(*step)).ok_or(Malformed)?,
                errno: decode_errno(errno)?,
            }),
            [VERSION, 2, kind] => Ok(Self::Sockets {
                kind: SocketKind::from_byte(*kind).ok_or(Malformed)?,
            }),
            [VERSION, 3, kind, errno @ ..] => Ok(Self::SocketFailed {
                kind: SocketKind::from_byte(*kind).ok_or(Malformed)?,
                errno: decode_errno(errno)?,
            }),
            [VERSION, 4, has_v6 @ (0 | 1), name @ ..] => Ok(Self::Landed {
                congestion: decode_congestion(name)?,
                has_v6: *has_v6 == 1,
            }),
            _ => Err(Malformed),
        }
    }
}

/// A name goes into logs and status: letters, digits, `_` and `-` only.
fn decode_congestion(name: &[u8]) -> Result<String, Malformed> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    let is_name = name.len() <= MAX_CONGESTION && name.iter().all(plain);
    is_name
        .then(|| String::from_utf8_lossy(name).into_owned())
        .ok_or(Malformed)
}

fn decode_errno(bytes: &[u8]) -> Result<i32, Malformed> {
    Ok(i32::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = SocketKind> {
        prop::sample::select(SocketKind::ALL.to_vec())
    }

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            (
                any::<u16>(),
                prop::collection::vec(any::<IpAddr>(), 0..=MAX_ADDRESSES)
            )
                .prop_map(|(mtu, addresses)| Request::SetUp { mtu, addresses }),
            (kinds(), 1..=MAX_DESCRIPTORS as u8).prop_map(|(kind, count)| Request::Sockets { kind, count }),
            (any::<u16>(), 1..=MAX_LANDINGS).prop_map(|(mtu, count)| Request::Land { mtu, count }),
        ]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        prop_oneof![
            "[a-z_]{0,16}".prop_map(|congestion| Reply::Ready { congestion }),
            (prop::sample::select(Step::ALL.to_vec()), any::<i32>())
                .prop_map(|(step, errno)| Reply::Failed { step, errno }),
            kinds().prop_map(|kind| Reply::Sockets { kind }),
            (kinds(), any::<i32>()).prop_map(|(kind, errno)| Reply::SocketFailed { kind, errno }),
            ("[a-z_]{0,16}", any::<bool>())
                .prop_map(|(congestion, has_v6)| Reply::Landed { congestion, has_v6 }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(request in requests(), reply in replies()) {
            prop_assert!(request.encode().len() <= MAX_MESSAGE && reply.encode().len() <= MAX_MESSAGE);
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }

        #[test]
        fn anything_else_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..MAX_MESSAGE)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes);
            }
        }
    }

    #[test]
    fn numbers_beyond_the_bounds_are_refused() {
        for bytes in [
            &[VERSION, 1, 0, 0][..],
            &[VERSION, 1, 0, 17],
            &[VERSION, 1, 4, 1],
            &[VERSION + 1, 1, 0, 1],
            &[VERSION, 0, 0],
            &[VERSION, 0, 0, 5, 4, 1, 2, 3],
            &[VERSION, 2, 0, 5, 0],
            &[VERSION, 2, 0, 5, MAX_LANDINGS + 1],
        ] {
            assert_eq!(Request::decode(bytes), Err(Malformed), "{bytes:?}");
        }
        let mut many = vec![VERSION, 0, 0, 5];
        many.extend([4, 10, 0, 0, 1].repeat(MAX_ADDRESSES + 1));
        assert_eq!(Request::decode(&many), Err(Malformed));
        assert_eq!(Reply::decode(b"\x01\x00bbr\n"), Err(Malformed));
    }
}

//! The kernel's own TCP without a right: a network namespace of this process (Linux).
//!
//! ```text
//!   this process                                  helper process, in its namespace
//!     dialer ── "16 sockets" ──────────────────►  socket() × 16
//!        ◄────────────── descriptors ───────────
//!     connect() ─► kernel's TCP in the namespace ─► TUN device there
//!                                                        │ descriptor, handed over once
//!     data threads ◄─────────────────────────────────────┘  encrypt, UDP of this process's own network
//! ```
//!
//! The host's network is not touched: no device, no route, no name server. A socket belongs for ever to the namespace in which
//! it was made and may be used from any process, so bytes never pass through the helper.
//!
//! * `message` and `channel` are what the two say to each other; `inside`, `confine`, `network`, `netlink` run in the helper;
//!   `process` owns it on this side; [`crate::connections`] connects.
//! * A gateway accepts and does not dial: `landing` has what it gets instead, and its helper ends as soon as it was handed over.
//!
//! What can fail: everything, in a container or on a hardened host. [`NamespaceError`] says which step, and what a person can
//! do about it; the tunnel then falls back to smoltcp unless it was told not to. When the helper dies later,
//! [`Namespace::ended`] tells, and every connection is reset by whoever owns the namespace.

mod channel;
mod confine;
mod inside;
mod landing;
mod message;
mod netlink;
mod network;
mod process;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use socket2::Socket;

pub(crate) use self::landing::{LANDING_PORT, LANDING_V4, LANDING_V6, Landing, Landings};
use self::message::{MAX_ADDRESSES, Step};
use self::process::Helper;
use crate::connections::{SocketKind, Sockets};
use crate::dial::BoxFuture;

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NamespaceError {
    /// The helper process could not be started.
    #[error("the namespace helper cannot be started")]
    Process(#[source] io::Error),
    /// The system refused a step.
    #[error("{step} was refused")]
    Refused {
        /// Which one.
        step: Step,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program that was started is no helper, or died.
    #[error("the namespace helper did not answer")]
    NoAnswer,
}

impl NamespaceError {
    /// The error with its cause, in one sentence.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Process(source) | Self::Refused { source, .. } => format!("{self} ({source})"),
            Self::NoAnswer => self.to_string(),
        }
    }

    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { step, source } => process::hint(*step, source),
            Self::Process(_) | Self::NoAnswer => None,
        }
    }
}

/// What a namespace is made from.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceConfig {
    /// The program that becomes the helper: this one, as a rule.
    pub(crate) program: PathBuf,
    /// Of the TUN device, in bytes.
    pub(crate) mtu: u16,
    /// Of the TUN device. Beyond the eighth they are left out.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A network namespace with a TUN device. Dropping it ends its helper; connections go on as long as their sockets are open.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    helper: Arc<Helper>,
}

/// What a new namespace comes with.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) namespace: Namespace,
    /// The device, non-blocking, with a virtio header before each packet and the kernel's segmentation left to its reader.
    pub(crate) tun: OwnedFd,
    /// The congestion control of its connections: `bbr` was asked for.
    pub(crate) congestion: String,
}

impl Namespace {
    /// Makes one. Blocks for some 10 ms, and 5 s at most.
    pub(crate) fn make(mut config: NamespaceConfig) -> Result<Made, NamespaceError> {
        config.addresses.truncate(MAX_ADDRESSES);
        let made = Helper::start(config.program, config.mtu, config.addresses)?;
        Ok(Made {
            namespace: Self {
                helper: Arc::new(made.helper),
            },
            tun: made.tun,
            congestion: made.congestion,
        })
    }

    /// Resolves when the helper has ended.
    pub(crate) async fn ended(&self) {
        self.helper.ended().await;
    }

    /// Ends the helper and waits for that. Sockets that were made go on.
    pub(crate) async fn close(&self) {
        self.helper.close();
        self.helper.ended().await;
    }
}

impl Sockets for Namespace {
    fn socket(&self, kind: SocketKind) -> BoxFuture<'_, io::Result<Socket>> {
        Box::pin(async move { self.helper.socket(kind).await.map(Socket::from) })
    }
}

/// See [`crate::run_namespace_helper_if_asked`].
pub(crate) fn run_helper_if_asked() -> Option<ExitCode> {
    inside::run_if_asked()
}

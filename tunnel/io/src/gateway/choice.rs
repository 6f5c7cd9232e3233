//! Which TCP stack a gateway gets, and why: found out by trying.

use std::path::PathBuf;
use std::sync::Arc;

use super::GatewayStartError;
use super::landing::{self, Landed};
use crate::client::TcpStack;

/// Which TCP stack a gateway is to have.
#[derive(Debug, Clone)]
pub struct GatewayTcp {
    /// The kernel's, smoltcp, or the kernel's where that can be.
    pub stack: TcpStack,
    /// See [`TunnelConfig::helper`](crate::TunnelConfig::helper).
    pub helper: PathBuf,
}

/// The TCP stack that a gateway has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStack {
    /// `namespace` or `smoltcp`.
    pub name: &'static str,
    /// Why that one and no other, in a sentence for people.
    pub reason: Arc<str>,
    /// What a person can do to have the other one, where something is known.
    pub hint: Option<&'static str>,
    /// The congestion control that the kernel granted; none where smoltcp has its own.
    pub congestion_control: Option<Arc<str>>,
}

impl GatewayStack {
    pub(super) fn log(&self) {
        let congestion_control = self.congestion_control.as_deref();
        tracing::info!(
            stack = self.name,
            reason = &*self.reason,
            hint = self.hint,
            congestion_control,
            "the gateway's TCP"
        );
    }
}

/// Why there is no namespace.
#[derive(Debug)]
pub(super) struct NoNamespace {
    pub(super) reason: String,
    pub(super) hint: Option<&'static str>,
}

/// Tries what the configuration allows, the better one first: a namespace for each of `count` threads, or none.
pub(super) fn choose(
    tcp: &GatewayTcp,
    mtu: usize,
    count: u8,
    max_connections: usize,
) -> Result<(GatewayStack, Vec<Landed>), GatewayStartError> {
    let smoltcp = |reason: String, hint| GatewayStack {
        name: "smoltcp",
        reason: reason.into(),
        hint,
        congestion_control: None,
    };
    let fixed = "the configuration fixes it";
    if tcp.stack == TcpStack::Smoltcp {
        return Ok((smoltcp(fixed.to_owned(), None), Vec::new()));
    }
    match landing::make(&tcp.helper, mtu, count, max_connections) {
        Ok((landed, congestion)) => {
            let reason = if tcp.stack == TcpStack::Auto {
                "this system allows a private network namespace"
            } else {
                fixed
            };
            let stack = GatewayStack {
                name: "namespace",
                reason: reason.into(),
                hint: None,
                congestion_control: Some(congestion.into()),
            };
            Ok((stack, landed))
        }
        Err(NoNamespace { reason, hint }) if tcp.stack == TcpStack::Namespace => {
            Err(GatewayStartError::NoNamespace { reason, hint })
        }
        Err(NoNamespace { reason, hint }) => {
            let reason = format!("no private network namespace here: {reason}");
            Ok((smoltcp(reason, hint), Vec::new()))
        }
    }
}

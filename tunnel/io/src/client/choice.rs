//! Which TCP stack, and why: found out by trying.

use std::sync::Arc;

use super::namespaced::{self, Made};
use super::{TcpStack, TunnelConfig, TunnelError};

/// The stack that a tunnel gets.
#[derive(Debug)]
pub(super) enum Choice {
    Smoltcp { reason: String },
    Namespace { made: Made, reason: &'static str },
}

/// Why there is no namespace.
#[derive(Debug)]
pub(super) struct NoNamespace {
    pub(super) reason: String,
    pub(super) hint: Option<&'static str>,
}

impl Choice {
    /// Tries what the configuration allows, the better one first.
    pub(super) fn make(config: &TunnelConfig) -> Result<Self, TunnelError> {
        if config.tcp_stack == TcpStack::Smoltcp {
            let reason = "the configuration fixes it".to_owned();
            return Ok(Self::Smoltcp { reason });
        }
        match (namespaced::make(config), config.tcp_stack) {
            (Ok(made), TcpStack::Auto | TcpStack::Smoltcp) => Ok(Self::Namespace {
                made,
                reason: "this system allows a private network namespace",
            }),
            (Ok(made), TcpStack::Namespace) => Ok(Self::Namespace {
                made,
                reason: "the configuration fixes it",
            }),
            (Err(NoNamespace { reason, hint }), TcpStack::Namespace) => {
                Err(TunnelError::NoNamespace { reason, hint })
            }
            (Err(NoNamespace { reason, hint }), TcpStack::Auto | TcpStack::Smoltcp) => {
                tracing::info!(
                    reason,
                    hint,
                    "no private network namespace; the tunnel uses smoltcp"
                );
                Ok(Self::Smoltcp {
                    reason: format!("no private network namespace here: {reason}"),
                })
            }
        }
    }

    pub(super) fn stack(&self) -> &'static str {
        match self {
            Self::Smoltcp { .. } => "smoltcp",
            Self::Namespace { .. } => "namespace",
        }
    }

    pub(super) fn reason(&self) -> Arc<str> {
        match self {
            Self::Smoltcp { reason } => reason.as_str().into(),
            Self::Namespace { reason, .. } => (*reason).into(),
        }
    }

    pub(super) fn congestion_control(&self) -> Option<Arc<str>> {
        match self {
            Self::Smoltcp { .. } => None,
            Self::Namespace { made, .. } => Some(namespaced::congestion_control(made)),
        }
    }
}

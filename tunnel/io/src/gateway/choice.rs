//! Which TCP stack a gateway gets, and why: found out by trying. What is lost later is said, too.

use std::path::PathBuf;
use std::sync::Arc;

use super::GatewayStartError;
use super::landing::{self, Landed};
use crate::client::TcpStack;
use crate::netstack::{Loss, StackConfig};

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
    /// `namespace` or `smoltcp`; what new connections get.
    pub name: &'static str,
    /// Why that one and no other, in a sentence for people.
    pub reason: Arc<str>,
    /// What a person can do to have the other one, where something is known.
    pub hint: Option<&'static str>,
    /// The congestion control that the kernel granted; none where smoltcp has its own.
    pub congestion_control: Option<Arc<str>>,
}

impl GatewayStack {
    fn smoltcp(reason: String, hint: Option<&'static str>) -> Self {
        Self {
            name: "smoltcp",
            reason: reason.into(),
            hint,
            congestion_control: None,
        }
    }

    /// What it is once some of so many threads have lost their namespaces.
    pub(super) fn after(&self, losses: &[Loss], threads: usize) -> Self {
        let Some(Loss { reason }) = losses.first() else {
            return self.clone();
        };
        let hint = Some("restart the registry: it makes a new one");
        let lost = losses.len();
        if lost < threads {
            let reason = format!(
                "{lost} of {threads} private network namespaces are lost, and their new connections have smoltcp: the device \
                 cannot be read ({reason})"
            );
            return Self {
                reason: reason.into(),
                hint,
                ..self.clone()
            };
        }
        let reason = format!("the private network namespace is lost: its device cannot be read ({reason})");
        Self::smoltcp(reason, hint)
    }

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

/// Why it is what it is when nothing was tried.
const FIXED: &str = "the configuration fixes it (`tcp_stack`)";

/// Tries what the configuration allows, the better one first: a namespace for each of `count` threads, or none.
pub(super) fn choose(
    tcp: &GatewayTcp,
    count: u8,
    stack: &StackConfig,
) -> Result<(GatewayStack, Vec<Landed>), GatewayStartError> {
    if tcp.stack == TcpStack::Smoltcp {
        return Ok((GatewayStack::smoltcp(FIXED.to_owned(), None), Vec::new()));
    }
    match landing::make(&tcp.helper, count, stack) {
        Ok((landed, congestion)) => {
            let reason = if tcp.stack == TcpStack::Auto {
                "this system allows a private network namespace"
            } else {
                FIXED
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
            Ok((GatewayStack::smoltcp(reason, hint), Vec::new()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_said() {
        let chosen = GatewayStack {
            name: "namespace",
            reason: FIXED.into(),
            hint: None,
            congestion_control: Some("bbr".into()),
        };
        assert_eq!(chosen.after(&[], 2), chosen);
        let loss = Loss {
            reason: "File descriptor in bad state".into(),
        };
        let half = chosen.after(std::slice::from_ref(&loss), 2);
        assert_eq!(
            (half.name, half.congestion_control.as_deref()),
            ("namespace", Some("bbr"))
        );
        assert!(half.reason.contains("1 of 2") && half.hint.is_some(), "{half:?}");
        let none = chosen.after(&[loss.clone(), loss], 2);
        assert_eq!((none.name, none.congestion_control), ("smoltcp", None));
        assert!(none.reason.contains("bad state"), "{}", none.reason);
    }
}

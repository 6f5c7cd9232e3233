//! Which TCP stack a gateway gets, and why: found out by trying. What is lost later is said, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::GatewayStartError;
use super::landing::{self, Landed};
use crate::client::TcpStack;
use crate::netstack::StackConfig;

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

    /// What it is while so many of its threads have no namespace any more.
    pub(super) fn without(&self, lost: &[Lost], threads: usize, now: Instant) -> Self {
        let Some(first) = lost.first() else {
            return self.clone();
        };
        let hint = first.refused.as_ref().and_then(|refused| refused.hint);
        let lost = lost.len();
        if lost < threads {
            let reason = format!(
                "{lost} of {threads} private network namespaces are lost, and their new connections have smoltcp: {}",
                first.story(now)
            );
            return Self {
                reason: reason.into(),
                hint,
                ..self.clone()
            };
        }
        let reason = format!("the private network namespace is lost: {}", first.story(now));
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

/// A namespace that is lost and not yet made anew.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "it is made where there are namespaces, and in tests")
)]
pub(super) struct Lost {
    /// What the system says when its device is read.
    pub(super) reason: Arc<str>,
    /// Why the latest try to make it anew failed, if there was one.
    pub(super) refused: Option<NoNamespace>,
    pub(super) next_try: Instant,
}

impl Lost {
    fn story(&self, now: Instant) -> String {
        let Self { reason, refused, .. } = self;
        let seconds = self.next_try.saturating_duration_since(now).as_secs() + 1;
        let refused = refused.as_ref().map_or_else(
            || "a new one is".to_owned(),
            |NoNamespace { reason, .. }| format!("a new one was refused ({reason}) and is"),
        );
        format!("its device cannot be read ({reason}); {refused} tried within {seconds} s")
    }
}

/// Why there is no namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_lost_is_said() {
        let chosen = GatewayStack {
            name: "namespace",
            reason: FIXED.into(),
            hint: None,
            congestion_control: Some("bbr".into()),
        };
        let now = Instant::now();
        assert_eq!(chosen.without(&[], 2, now), chosen);
        let mut lost = Lost {
            reason: "File descriptor in bad state".into(),
            refused: None,
            next_try: now + Duration::from_secs(9),
        };
        let half = chosen.without(std::slice::from_ref(&lost), 2, now);
        assert_eq!(
            (half.name, half.congestion_control.as_deref()),
            ("namespace", Some("bbr"))
        );
        assert!(half.reason.contains("1 of 2"), "{}", half.reason);
        let none = chosen.without(&[lost.clone(), lost.clone()], 2, now);
        assert_eq!((none.name, none.congestion_control), ("smoltcp", None));
        assert_eq!(
            (&*none.reason, none.hint),
            (
                "the private network namespace is lost: its device cannot be read (File descriptor in bad state); a new one is \
                 tried within 10 s",
                None
            )
        );
        lost.refused = Some(NoNamespace {
            reason: "making a namespace was refused".to_owned(),
            hint: Some("allow it"),
        });
        let refused = chosen.without(&[lost], 1, now);
        assert_eq!(refused.hint, Some("allow it"));
        let end = "a new one was refused (making a namespace was refused) and is tried within 10 s";
        assert!(refused.reason.ends_with(end), "{}", refused.reason);
    }
}

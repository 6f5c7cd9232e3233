//! The namespaces of a gateway, ready for its threads.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::net::TcpListener;

use super::choice::NoNamespace;
use crate::namespace::{Landings, NamespaceError};
use crate::netstack::{Arrivals, KernelStack, Loss, StackConfig};

/// The kernel's TCP for one thread.
#[derive(Debug)]
pub(super) struct Landed {
    stack: KernelStack,
    listeners: Vec<TcpListener>,
}

/// Makes so many, each for as many connections and as much memory as `stack` says, and tells what congestion control they have.
pub(super) fn make(
    helper: &Path,
    count: u8,
    stack: &StackConfig,
) -> Result<(Vec<Landed>, String), NoNamespace> {
    // The kernel has its own opinion on what is too large.
    let mtu = u16::try_from(stack.mtu).unwrap_or(u16::MAX);
    let made = Landings::make(helper, mtu, count).map_err(|error| NoNamespace {
        reason: error.reason(),
        hint: error.hint(),
    })?;
    let landed = made.all.into_iter().map(|landing| {
        let (kernel, listeners) = KernelStack::new(landing, stack.max_connections, stack.memory)?;
        Ok(Landed {
            stack: kernel,
            listeners,
        })
    });
    let landed: Result<_, std::io::Error> = landed.collect();
    let landed = landed.map_err(|error| NoNamespace {
        reason: NamespaceError::Process(error).reason(),
        hint: None,
    })?;
    Ok((landed, made.congestion))
}

impl Landed {
    /// The stack, and what is to be attended to.
    pub(super) fn split(self) -> (KernelStack, Arriving) {
        let arriving = Arriving {
            arrivals: self.stack.arrivals(),
            listeners: self.listeners,
        };
        (self.stack, arriving)
    }
}

/// The connections that are still to come.
#[derive(Debug)]
pub(super) struct Arriving {
    arrivals: Arc<Arrivals>,
    listeners: Vec<TcpListener>,
}

impl Arriving {
    /// Has them accepted until the stack ends. How it lost its device, if that is why.
    pub(super) async fn attend(self) -> Option<Loss> {
        join_all(
            self.listeners
                .iter()
                .map(|listener| self.arrivals.serve(listener)),
        )
        .await;
        self.arrivals.loss().cloned()
    }
}

//! Where there is no TUN mode.
#![allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps,
    clippy::unused_async,
    reason = "the signatures are those of `hosted`"
)]

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use orfe_tunnel_core::Node;
use orfe_tunnel_core::path::Report;
use tokio::sync::watch;

use super::{DialFailure, EndConfig, HostOptions, TunnelError, TunnelStatus};
use crate::dial::{BoxedDatagrams, BoxedStream};

/// Why there is no TUN mode.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("this agent has TUN mode on Linux alone")]
pub struct HostError;

pub(super) const fn congestion_control() -> Option<Arc<str>> {
    None
}

pub(super) const fn hint(_error: &HostError) -> Option<&'static str> {
    Some("choose `orfe run --tunnel userspace`")
}

/// There is none.
#[derive(Debug)]
pub(super) struct HostEnd(Infallible);

impl HostEnd {
    pub(super) fn start(
        _config: EndConfig,
        _host: HostOptions,
        _node: Node,
        _status: watch::Sender<TunnelStatus>,
    ) -> Result<Self, TunnelError> {
        Err(TunnelError::Host(HostError))
    }

    pub(super) fn dialer(&self) -> HostDialer {
        match self.0 {}
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        match self.0 {}
    }

    pub(super) fn set_endpoint(&self, _endpoint: SocketAddr) {
        match self.0 {}
    }

    pub(super) fn rehandshake(&self) {
        match self.0 {}
    }

    pub(super) fn probe(&self, _endpoint: SocketAddr) {
        match self.0 {}
    }

    pub(super) fn rebind(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn measure_path(&self, _gateway: &[IpAddr]) {
        match self.0 {}
    }

    pub(super) fn measured(&self) -> watch::Receiver<Option<Report>> {
        match self.0 {}
    }

    pub(super) fn set_bridges(&mut self, _bridges: &[String]) -> Result<(), HostError> {
        match self.0 {}
    }

    pub(super) async fn shutdown(self) {
        match self.0 {}
    }
}

/// There is none.
#[derive(Debug, Clone)]
pub(super) struct HostDialer(Infallible);

impl HostDialer {
    pub(super) async fn connect(&self, _destination: SocketAddr) -> Result<BoxedStream, DialFailure> {
        match self.0 {}
    }

    pub(super) async fn bind_datagrams(&self, _destination: SocketAddr) -> io::Result<BoxedDatagrams> {
        match self.0 {}
    }

    pub(super) fn nudge(&self) {
        match self.0 {}
    }
}

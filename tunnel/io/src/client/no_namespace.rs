//! Where there are no network namespaces.
#![allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unused_async,
    reason = "the signatures are those of `namespaced`"
)]

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use orfe_tunnel_core::Node;
use orfe_tunnel_core::path::Report;
use tokio::sync::watch;

use super::choice::NoNamespace;
use super::{DialFailure, EndConfig, TunnelConfig, TunnelStatus};
use crate::dial::{BoxedDatagrams, BoxedStream};

/// There is none.
pub(super) type Made = Infallible;

pub(super) fn make(_config: &TunnelConfig) -> Result<Made, NoNamespace> {
    Err(NoNamespace {
        reason: "Linux alone has them".to_owned(),
        hint: None,
    })
}

pub(super) fn congestion_control(made: &Made) -> Arc<str> {
    match *made {}
}

/// There is none.
#[derive(Debug)]
pub(super) struct NamespaceEnd(Infallible);

impl NamespaceEnd {
    pub(super) fn start(
        _config: EndConfig,
        made: Made,
        _node: Node,
        _status: watch::Sender<TunnelStatus>,
    ) -> io::Result<Self> {
        match made {}
    }

    pub(super) fn dialer(&self) -> NamespaceDialer {
        match self.0 {}
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        match self.0 {}
    }

    pub(super) fn set_endpoint(&self, _endpoint: SocketAddr) {
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

    pub(super) fn rehandshake(&self) {
        match self.0 {}
    }

    pub(super) async fn shutdown(self) {
        match self.0 {}
    }
}

/// There is none.
#[derive(Debug, Clone)]
pub(super) struct NamespaceDialer(Infallible);

impl NamespaceDialer {
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

//! Where there are no network namespaces: the stack that cannot be.

use std::convert::Infallible;
use std::io;
use std::time::Instant;

use mio::{Registry, Token};
use orfe_tunnel_core::Datagrams;
use tokio::sync::oneshot;

use super::Accepted;
use super::flow::Flow;
use super::nodes::Nodes;

/// There is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(Infallible);

/// There is none.
#[derive(Debug)]
pub(crate) struct KernelStack {
    none: Infallible,
    pub(super) readable: bool,
}

impl KernelStack {
    pub(crate) fn can_carry(&self, _flow: &Flow) -> bool {
        match self.none {}
    }

    pub(crate) fn accept(
        &mut self,
        _flow: Flow,
        _syn: &[u8],
        _reply: oneshot::Sender<Accepted>,
        _now: Instant,
    ) -> Option<Number> {
        match self.none {}
    }

    pub(crate) fn push(&mut self, _number: Number, _packet: &[u8], _now: Instant) {
        match self.none {}
    }

    pub(crate) fn is_left(&self, _number: Number) -> bool {
        match self.none {}
    }

    pub(crate) fn leave(&mut self, _number: Number, _now: Instant) {
        match self.none {}
    }

    pub(crate) fn abort(&mut self, _number: Number, _now: Instant) {
        match self.none {}
    }

    pub(super) fn poll_over(&mut self, _now: Instant) -> Option<(Flow, Number)> {
        match self.none {}
    }

    pub(crate) fn connections(&self) -> usize {
        match self.none {}
    }

    pub(crate) fn buffered(&self) -> usize {
        match self.none {}
    }

    pub(super) fn bound_memory(&mut self, _now: Instant) {
        match self.none {}
    }

    pub(super) fn register(&self, _registry: &Registry, _token: Token) -> io::Result<()> {
        match self.none {}
    }

    pub(super) fn lose(&mut self, _error: &io::Error) {
        match self.none {}
    }

    pub(super) fn flush(&mut self) {
        match self.none {}
    }

    pub(super) fn transmit(&mut self, _node: &mut Nodes, _now: Instant, _out: &mut Datagrams) {
        match self.none {}
    }

    pub(super) fn reset_all(&mut self) {
        match self.none {}
    }
}

//! Where there are no network namespaces.

use std::convert::Infallible;
use std::path::Path;

use super::choice::NoNamespace;
use crate::netstack::{KernelStack, StackConfig};

/// There is none.
#[derive(Debug)]
pub(super) struct Landed(Infallible);

pub(super) fn make(
    _helper: &Path,
    _count: u8,
    _stack: &StackConfig,
) -> Result<(Vec<Landed>, String), NoNamespace> {
    Err(NoNamespace {
        reason: "Linux alone has them".to_owned(),
        hint: None,
    })
}

impl Landed {
    pub(super) fn split(self) -> (KernelStack, Arriving) {
        match self.0 {}
    }
}

/// There is none.
#[derive(Debug)]
pub(super) struct Arriving(pub(super) Infallible);

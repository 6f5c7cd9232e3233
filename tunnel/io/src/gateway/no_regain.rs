//! Where there are no network namespaces, none is lost.

use std::future::Ready;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::Shown;
use super::front::Command;
use super::landing::Arriving;
use crate::netstack::{Handle, StackConfig};

/// There is nothing to keep.
#[derive(Debug)]
#[expect(dead_code, reason = "it is made and never used")]
pub(super) struct Keeper {
    pub(super) helper: PathBuf,
    pub(super) stack: StackConfig,
    pub(super) shown: Arc<Mutex<Shown>>,
}

impl Keeper {
    #[allow(
        clippy::unused_self,
        clippy::needless_pass_by_value,
        reason = "as where there are namespaces"
    )]
    pub(super) fn keep(self, arriving: Arriving, _thread: Handle<Command>) -> Ready<()> {
        match arriving.0 {}
    }
}

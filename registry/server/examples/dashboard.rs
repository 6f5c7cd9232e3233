//! Serves the dashboard over a fixed example fleet, to look at it without a registry.
//!
//! `cargo run -p orfe-registry --example dashboard [-- --empty]` prints a one-time link; Ctrl-C ends it. With
//! `--lively` the states of two devices alternate.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use orfe_registry::dashboard::{self, Access, FleetView};
use orfe_registry::fleet::{DeviceRow, Link};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[expect(
    clippy::expect_used,
    reason = "the names and tags of the fixed fleet are valid"
)]
#[path = "../src/dashboard/tests/example_fleet.rs"]
mod example_fleet;

/// A fleet that is whatever was put into it.
struct Fixed(watch::Receiver<Vec<DeviceRow>>, watch::Receiver<u64>);

impl FleetView for Fixed {
    fn rows(&self) -> Vec<DeviceRow> {
        self.0.borrow().clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.1.clone()
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let all = if has("--empty") {
        Vec::new()
    } else {
        example_fleet::rows()
    };
    let (rows, shown) = watch::channel(all.clone());
    let (counter, changes) = watch::channel(0);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let access = Access::new(Arc::new(example_fleet::now));
    writeln!(
        std::io::stdout(),
        "{}",
        access.create_link(&format!("http://{address}"))
    )?;

    let shutdown = CancellationToken::new();
    let app = dashboard::router(Fixed(shown, changes), access, address.port(), shutdown.clone());
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let alternate = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(2));
        loop {
            ticks.tick().await;
            if has("--lively") {
                rows.send_modify(|rows| alternate_links(rows, &all));
                counter.send_modify(|counter| *counter += 1);
            }
        }
    };
    tokio::select! {
        served = server => served,
        () = alternate => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

/// Turns the first two devices off and on by turns.
fn alternate_links(rows: &mut [DeviceRow], all: &[DeviceRow]) {
    for (row, original) in rows.iter_mut().zip(all).take(2) {
        row.link = if row.link == original.link {
            Link::Offline
        } else {
            original.link
        };
    }
}

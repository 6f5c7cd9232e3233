//! Flows of our own load (`tunnel-load`), counted by whoever receives.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use orfe_test_support::lab::program::Program;
use orfe_test_support::load::Direction;

/// How long a program may take to say something that costs it nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long the streams of a flow may take to be open: what crosses a poor path, or comes from a slow tunnel.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// What a receiver got.
#[derive(Debug)]
pub(super) struct Measured {
    /// Received within the measured time.
    pub(super) bytes: f64,
    pub(super) seconds: f64,
    /// Received in all, warm-up included.
    pub(super) all_bytes: f64,
}

/// As much as goes on what `driver` was told to open, for `time` after a warm-up.
pub(super) async fn flow(
    driver: &mut Program,
    server: &mut Program,
    direction: Direction,
    warm_up: Duration,
    time: Duration,
) -> Result<Measured> {
    driver.hear(OPEN_WITHIN).await?;
    let receiver = match direction {
        Direction::Up => server,
        Direction::Down => driver,
    };
    let begin = received(receiver).await?;
    tokio::time::sleep(warm_up).await;
    let (started, first) = (Instant::now(), received(receiver).await?);
    tokio::time::sleep(time).await;
    let last = received(receiver).await?;
    Ok(Measured {
        bytes: (last - first) as f64,
        seconds: started.elapsed().as_secs_f64(),
        all_bytes: (last - begin) as f64,
    })
}

/// Bytes that the program's load has received so far.
pub(super) async fn received(program: &mut Program) -> Result<u64> {
    let answer = program.ask("count", PATIENCE).await?;
    answer["received"]
        .as_u64()
        .with_context(|| format!("no count in {answer}"))
}

//! The daemon's own log: one line for each thing that a person may want to know, on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{Config, LogFormat};
use crate::failure::Failure;

/// What is always quiet: boringtun logs an expired session, which is normal, as an error.
const QUIET: &str = "boringtun=off";

/// Starts logging.
pub(crate) fn init(config: &Config) -> Result<(), Failure> {
    let cannot = || Failure::new("logging cannot be started");
    let filter = &config.log_filter.value;
    let parsed = EnvFilter::try_new(format!("{filter},{QUIET}")).map_err(|error| cannot().because(error))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let started = match config.log_format.value {
        LogFormat::Human => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| cannot().because(error))
}
